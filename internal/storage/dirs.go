package storage

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"moldau/internal/wire"
)

// Dirs are the log dirs of a broker. It alone knows in which of them a partition is, and chooses one for a partition that has no
// data yet. Each Dir works, fails and is closed by itself.
//
// Where a partition is, the first that fits:
//
//  1. Where a manifest says that it has data: there, and nowhere else. If that log dir is offline, not in log.dirs any more, or another
//     disk is mounted in its place, so is the partition (S9). Two that say so are a contradiction: offline, until an operator has decided.
//  2. Where its directory is, which nobody has recorded yet: log adopt and a log dir of Kafka's. In two: offline.
//  3. It has no data: where the metadata says if that is online, else the online log dir with the fewest partitions. Nothing of that is
//     written here: the first append records it (1), and until then every choice is as good as another. What differs
//     from the metadata is told to it (News).
//
// A manifest belongs to a directory id, never to a place in log.dirs or a path: a log dir may move.
type Dirs struct {
	all    []*Dir // in the order of log.dirs; immutable. One that could not be opened is offline and stays so
	absent []*absentDir
	news   chan struct{} // capacity 1
	mu     struct {
		sync.Mutex              // guards the following; before Dir.mu
		coming     map[*Dir]int // partitions that are being put there
		placed     []Placement
	}
}

// Placement is a partition that is in another log dir than the metadata says.
type Placement struct {
	TopicID   wire.UUID
	Partition int32
	Dir       wire.UUID
}

// absentDir is a log dir of which there is a manifest with data, and which is not open.
type absentDir struct {
	id     wire.UUID
	where  string // the path that it had last
	record string // the directory of its manifest
	read   bool   // the following is known
	empty  bool   // the manifest says nothing at all
	data   map[partitionKey]bool
	why    error // it is not open
}

// OneDir is a set of one log dir that is open already.
func OneDir(d *Dir) *Dirs { return newDirs([]*Dir{d}, nil) }

func newDirs(all []*Dir, absent []*absentDir) *Dirs {
	ds := &Dirs{all: all, absent: absent, news: make(chan struct{}, 1)}
	ds.mu.coming = map[*Dir]int{}
	for _, d := range all {
		d.news = ds.news
	}
	return ds
}

// All are the log dirs in the order of log.dirs, the offline ones too. The caller must not change it.
func (ds *Dirs) All() []*Dir { return ds.all }

// Err is nil as long as one log dir is online, else says why each is not.
func (ds *Dirs) Err() error {
	var errs []error
	for _, d := range ds.all {
		err := d.Err()
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Online are the ids of the log dirs that take records.
func (ds *Dirs) Online() []wire.UUID {
	var out []wire.UUID
	for _, d := range ds.all {
		if d.Err() == nil {
			out = append(out, d.identity.DirectoryID)
		}
	}
	return out
}

// News is told when a log dir has gone offline, or a partition is elsewhere than the metadata says.
func (ds *Dirs) News() <-chan struct{} { return ds.news }

// TakePlacements are the partitions that came to be elsewhere than the metadata says, since the last call.
func (ds *Dirs) TakePlacements() []Placement {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	out := ds.mu.placed
	ds.mu.placed = nil
	return out
}

// PutBack gives back placements that nobody could be told of.
func (ds *Dirs) PutBack(ps []Placement) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.mu.placed = append(ps, ds.mu.placed...)
}

// Identity is what the log dirs say in common of their cluster and node; known is false if all of them are new.
func (ds *Dirs) Identity() (id Identity, known bool) {
	for _, d := range ds.all {
		if id, known := d.Identity(); known && d.isOpen() {
			return id, true
		}
	}
	return Identity{}, false
}

// SetIdentity makes every log dir one of this cluster and node, durably. Called once, before the first OpenLog.
func (ds *Dirs) SetIdentity(clusterID string, nodeID int32) error {
	for _, d := range ds.all {
		if !d.isOpen() || !d.nameless {
			continue
		}
		if err := d.SetIdentity(Identity{clusterID, nodeID, d.identity.DirectoryID}); err != nil {
			_ = d.fence(err) // the error is the log dir's from now on
		}
		d.nameless = false
	}
	return ds.Err()
}

// Hold makes h the partition in the log dir where it is, see Dirs. assigned is the log dir that the metadata says, or
// zero. Errors are those of Dir.Hold; ErrMissing and ErrOffline say which log dir is to be brought back.
func (ds *Dirs) Hold(h *Held, tp TopicPartition, topicID, assigned wire.UUID, cfg *LogConfig, owner Owner) error {
	d, err := ds.dirOf(tp, topicID)
	if err != nil {
		return err
	}
	if d == nil {
		d = ds.place(assigned)
		defer ds.arrived(d)
	}
	err = d.Hold(h, tp, topicID, cfg, owner)
	if errors.Is(err, ErrMissing) {
		if other := ds.directories(tp, topicID, d); len(other) > 0 {
			err = fmt.Errorf("%w; %s has a directory of that name, which is not the one that was recorded: compare them, and move it to %s if it is",
				err, other[0].path, d.path)
		}
	}
	if err == nil && d.identity.DirectoryID != assigned {
		ds.mu.Lock()
		ds.mu.placed = append(ds.mu.placed, Placement{topicID, tp.Partition, d.identity.DirectoryID})
		ds.mu.Unlock()
		select {
		case ds.news <- struct{}{}:
		default:
		}
	}
	return err
}

// OpenLog is Hold and a Use without an end. flushed is called as Owner.Flushed.
func (ds *Dirs) OpenLog(tp TopicPartition, topicID, assigned wire.UUID, cfg LogConfig, flushed func()) (*Log, error) {
	h := &Held{}
	if err := ds.Hold(h, tp, topicID, assigned, &cfg, flushedFunc(flushed)); err != nil {
		return nil, err
	}
	return h.useOrLetGo()
}

// dirOf is the log dir that has a partition's data; nil if none has.
func (ds *Dirs) dirOf(tp TopicPartition, topicID wire.UUID) (*Dir, error) {
	key := partitionKey{topicID, tp.Partition}
	var recorded []*Dir
	for _, d := range ds.all {
		if d.isOpen() && d.manifest.has(key) {
			recorded = append(recorded, d)
		}
	}
	var gone []*absentDir
	for _, a := range ds.absent {
		if a.data[key] {
			gone = append(gone, a)
		}
	}
	switch {
	case len(recorded)+len(gone) > 1:
		var where []string
		for _, d := range recorded {
			where = append(where, d.opts.ManifestDir)
		}
		for _, a := range gone {
			where = append(where, a.record)
		}
		return nil, fmt.Errorf("%v: %w: the manifests in %s all say that they have its data: find out whose is the right one and move the others away",
			tp, ErrMissing, strings.Join(where, " and "))
	case len(gone) == 1: // protection: absent log dir
		return nil, fmt.Errorf("%v: %w: it has data in the log dir %s (directory id %s), %w", tp, ErrOffline, gone[0].where, gone[0].id, gone[0].why)
	case len(recorded) == 1:
		return recorded[0], nil // protection: recorded log dir
	}
	switch found := ds.directories(tp, topicID, nil); len(found) {
	case 0:
		return nil, nil
	case 1:
		return found[0], nil
	default:
		return nil, fmt.Errorf("%v: %w: both %s and %s have a directory of it and neither is recorded: move the older one away",
			tp, ErrMissing, found[0].path, found[1].path)
	}
}

// directories are the open log dirs, but for one, that have a directory of this life of the partition.
func (ds *Dirs) directories(tp TopicPartition, topicID wire.UUID, except *Dir) []*Dir {
	if len(ds.all) == 1 {
		return nil // the one there is looks for itself
	}
	var out []*Dir
	for _, d := range ds.all {
		if d == except || !d.isOpen() {
			continue
		}
		if there, err := d.hasDirectory(tp); !there || err != nil {
			continue
		}
		if id, err := readTopicID(d.fs, d.partitionPath(tp)); err != nil || id == topicID {
			out = append(out, d)
		}
	}
	return out
}

// place chooses the log dir of a partition without data: the assigned one if it is online, else the one with the fewest
// partitions. The choice counts until arrived is called, and from then on what was opened.
func (ds *Dirs) place(assigned wire.UUID) *Dir {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	var best *Dir
	fewest := 0
	for _, d := range ds.all {
		if d.Err() != nil {
			continue
		}
		if d.identity.DirectoryID == assigned {
			best = d
			break
		}
		if n := d.logCount() + ds.mu.coming[d]; best == nil || n < fewest {
			best, fewest = d, n
		}
	}
	if best == nil {
		best = ds.all[0] // says that it is offline
	}
	ds.mu.coming[best]++
	return best
}

func (ds *Dirs) arrived(d *Dir) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.mu.coming[d]--
}

// Clean has each log dir cleaned by itself. What is a limit for the broker is divided among them.
func (ds *Dirs) Clean(c Cleaning) {
	c.defaults()
	n := len(ds.all)
	c.DedupeBytes = max(c.DedupeBytes/int64(n), 1<<20)
	c.BytesPerSecond /= float64(n)
	for _, d := range ds.all {
		if d.isOpen() {
			d.Clean(c)
		}
	}
}

// Scrub has each log dir read at this rate, see Dir.Scrub: a disk takes no time from another.
func (ds *Dirs) Scrub(bytesPerSecond int64) {
	for _, d := range ds.all {
		if d.isOpen() {
			d.Scrub(bytesPerSecond)
		}
	}
}

// Scan lists the partition directories in all log dirs that can be read.
func (ds *Dirs) Scan() ([]Found, error) { return ds.eachFound((*Dir).Scan) }

// Recover has each log dir recover by itself, see Dir.Recover. Called once, when every partition is held.
func (ds *Dirs) Recover() {
	for _, d := range ds.all {
		if d.isOpen() {
			d.Recover()
		}
	}
}

// Recovery is how far the recovery of all log dirs together has come.
func (ds *Dirs) Recovery() RecoveryState {
	sum := RecoveryState{Ended: true}
	for _, d := range ds.all {
		s := d.Recovery()
		sum.Begun = sum.Begun || s.Begun
		sum.Ended = sum.Ended && (s.Ended || !d.isOpen())
		sum.Total += s.Total
		sum.Done += s.Done
		sum.Recovered += s.Recovered
	}
	return sum
}

// Strays are the partition directories in the log dirs that can be read, but for those of partitions that are held there.
func (ds *Dirs) Strays() ([]Found, error) { return ds.eachFound((*Dir).Strays) }

func (ds *Dirs) eachFound(list func(*Dir) ([]Found, error)) ([]Found, error) {
	var out []Found
	for _, d := range ds.all {
		if d.Err() != nil {
			continue
		}
		found, err := list(d)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// RemoveDeleted is Dir.RemoveDeleted for each. What cannot be removed is tried again at the next start.
func (ds *Dirs) RemoveDeleted() {
	for _, d := range ds.all {
		if d.Err() != nil {
			continue
		}
		if err := d.RemoveDeleted(); err != nil {
			d.log.Warn("directories of deleted topics could not be removed; it is tried again at the next start", "dir", d.path, "error", err)
		}
	}
}

// Close closes the log dirs, all at the same time: a disk that hangs does not keep the others from stopping cleanly.
func (ds *Dirs) Close() error {
	errs := make([]error, len(ds.all))
	var wg sync.WaitGroup
	for i, d := range ds.all {
		wg.Go(func() { errs[i] = d.Close() })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// CleanStats are those of all log dirs together, see Dir.CleanStats.
func (ds *Dirs) CleanStats() CleanStats {
	var sum CleanStats
	for _, d := range ds.all {
		s := d.CleanStats()
		sum.RetainedBytes += s.RetainedBytes
		sum.Compactions += s.Compactions
		sum.ReadBytes += s.ReadBytes
		sum.WrittenBytes += s.WrittenBytes
		sum.RecordsRead += s.RecordsRead
		sum.RecordsKept += s.RecordsKept
		sum.CompactionTime += s.CompactionTime
		sum.MaxDirtyRatio = max(sum.MaxDirtyRatio, s.MaxDirtyRatio)
		sum.UncleanableLogs += s.UncleanableLogs
	}
	return sum
}

// ScrubStats are those of all log dirs together; the progress is that of the one that is least far.
func (ds *Dirs) ScrubStats() ScrubStats {
	sum := ScrubStats{Progress: 1}
	for _, d := range ds.all {
		if !d.isOpen() {
			continue
		}
		s := d.ScrubStats()
		sum.ReadBytes += s.ReadBytes
		sum.Segments += s.Segments
		sum.Passes += s.Passes
		sum.Indexes += s.Indexes
		sum.Progress = min(sum.Progress, s.Progress)
	}
	return sum
}
