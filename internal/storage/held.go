package storage

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"moldau/internal/wire"
)

// Held is one partition in a log dir. Its log is opened at its first use, and closed again when nobody has used it for a while and many
// are open (closer.go): of one that nobody uses there is only this, and what the manifest says of it.
//
// What is known without the log is that there is data, that its directory is there (S9), and a hint at its extent.
// Everything else, above all where the log ends, is known when Use has returned, which has recovered the log then.
// So nobody can tell whether a log was opened at the start or later, but by the time that the first one waits.
//
// S18: users is at least openLog exactly while the log is open, and a log is closed only at openLog: whoever is between Use and
// Done has the one log that there is of the partition.
type Held struct {
	tp    TopicPartition
	id    wire.UUID
	dir   *Dir
	owner Owner
	cfg   atomic.Pointer[LogConfig] // immutable, shared by the partitions of a topic
	log   atomic.Pointer[Log]       // nil while it is closed
	users atomic.Int64              // how many use the log, and openLog while it is open
	used  atomic.Bool               // by somebody from outside, since the closer looked last

	opening sync.Mutex // held over the opening of the log, its closing and its deletion; guards ended
	ended   bool       // deleted
	failed  atomic.Pointer[openFailure]
	openAt  int32 // the place in Dir.mu.open, plus one; guarded by Dir.mu
}

// openLog is what an open log adds to its number of users.
const openLog = 1 << 40

// Owner is whom a log serves.
type Owner interface {
	// Opened is called when the log was opened and nobody else has it yet: once, and again whenever it was closed before.
	Opened(*Log)
	// Closing is called before an open log is closed that nobody uses. All of it is flushed. No use of it comes after it.
	Closing(*Log)
	// Flushed is called after Log.Flushed has risen or the log dir went offline, without locks. It must not block.
	Flushed()
}

// flushedFunc is an owner that cares for flushes only.
type flushedFunc func()

func (f flushedFunc) Opened(*Log)  {}
func (f flushedFunc) Closing(*Log) {}
func (f flushedFunc) Flushed()     { f() }

// openFailure is why a log could not be opened. What may pass is tried again.
type openFailure struct {
	err  error
	good bool // for good
	at   time.Time
}

// openRetry is the least time between two attempts to open a log.
const openRetry = time.Second

// Hold makes h the partition tp of a topic. A partition that never had data has no directory, and gets none before its first
// append. No file is touched, unless there is a directory of which the manifest does not know, or known damage. The
// owner's methods are called as said there. h is not to be moved. Errors: ErrMissing (S9), *CorruptionError where durable
// data is damaged, ErrOffline.
func (d *Dir) Hold(h *Held, tp TopicPartition, topicID wire.UUID, cfg *LogConfig, owner Owner) error {
	h.tp, h.id, h.dir, h.owner = tp, topicID, d, owner
	h.cfg.Store(cfg)
	if err := d.offline(); err != nil {
		return err
	}
	exists, err := d.hasDirectory(tp)
	if err != nil {
		return err
	}
	entry := d.manifest.entry(h.key())
	recorded := entry != nil && entry.present
	if err := h.lost(recorded, exists); err != nil {
		return err
	}
	d.mu.Lock()
	if d.mu.closed {
		d.mu.Unlock()
		return ErrClosed
	}
	if d.mu.logs[h.key()] != nil {
		panic(fmt.Sprintf("BUG: log %v is held twice", tp))
	}
	d.mu.logs[h.key()] = h
	d.mu.Unlock()
	if exists && (!recorded || len(entry.damaged()) > 0) {
		if _, err := h.useOrLetGo(); err != nil {
			return err
		}
		h.Done()
	}
	return nil
}

// lost is the error of a partition whose data was recorded and whose directory is gone (S9).
func (h *Held) lost(recorded, exists bool) error {
	if !recorded || exists { // protection: missing data
		return nil
	}
	return fmt.Errorf("%s: %w: the manifest in %s says that %v has data; bring the directory back, or delete the topic",
		h.dir.partitionPath(h.tp), ErrMissing, h.dir.opts.ManifestDir, h.tp)
}

// OpenLog is Hold and a Use without an end. flushed is called as Owner.Flushed.
func (d *Dir) OpenLog(tp TopicPartition, topicID wire.UUID, cfg LogConfig, flushed func()) (*Log, error) {
	h := &Held{}
	if err := d.Hold(h, tp, topicID, &cfg, flushedFunc(flushed)); err != nil {
		return nil, err
	}
	return h.useOrLetGo()
}

// useOrLetGo is Use; after an error nobody holds the partition.
func (h *Held) useOrLetGo() (*Log, error) {
	l, err := h.Use()
	if err != nil {
		h.dir.mu.Lock()
		delete(h.dir.mu.logs, h.key())
		h.dir.mu.Unlock()
	}
	return l, err
}

func (h *Held) key() partitionKey { return partitionKey{h.id, h.tp.Partition} }

// Log is the log if it is open, else nil.
func (h *Held) Log() *Log { return h.log.Load() }

// Use returns the log and keeps it open until Done. If it is opened only now it is recovered first. An error that is for good comes again
// with every call; after an error there is no Done.
func (h *Held) Use() (*Log, error) {
	if !h.used.Load() {
		h.used.Store(true)
	}
	return h.use()
}

// Done ends what Use began.
func (h *Held) Done() {
	if h.users.Add(-1) < openLog {
		panic("BUG: more uses of a log have ended than begun: " + h.tp.String())
	}
}

// use is Use for work in the background, which keeps no log from being closed for long.
func (h *Held) use() (*Log, error) {
	if l := h.UseOpen(); l != nil {
		return l, nil
	}
	h.opening.Lock()
	defer h.opening.Unlock()
	if l := h.log.Load(); l != nil {
		h.users.Add(1)
		return l, nil
	}
	if h.ended {
		return nil, fmt.Errorf("%v: %w", h.tp, ErrClosed)
	}
	if f := h.failed.Load(); f != nil && (f.good || time.Since(f.at) < openRetry) {
		return nil, f.err
	}
	l, err := h.open()
	if err != nil {
		if !errors.Is(err, ErrClosed) && !errors.Is(err, ErrOffline) {
			var corrupt *CorruptionError
			h.failed.Store(&openFailure{err, errors.Is(err, ErrMissing) || errors.As(err, &corrupt), time.Now()})
			h.dir.log.Error("partition is offline", "partition", h.tp.String(), "error", err)
		}
		return nil, err
	}
	h.failed.Store(nil)
	h.users.Add(openLog + 1)
	return l, nil
}

// UseOpen is Use of a log that is open already; nil if it is closed, and then there is no Done. It is for work in the background, which keeps
// no log from being closed for long.
func (h *Held) UseOpen() *Log {
	if h.users.Add(1) > openLog {
		return h.log.Load()
	}
	h.users.Add(-1)
	return nil
}

// Open opens the log if it is not, and keeps nobody from closing it again.
func (h *Held) Open() (*Log, error) {
	l, err := h.Use()
	if err == nil {
		h.Done()
	}
	return l, err
}

// Err says why the log could not be opened when that was tried last, or nil.
func (h *Held) Err() error {
	if f := h.failed.Load(); f != nil {
		return f.err
	}
	return nil
}

// open is use of a closed log, with h.opening held.
func (h *Held) open() (*Log, error) {
	d, cfg := h.dir, h.cfg.Load()
	if err := d.offline(); err != nil {
		return nil, err
	}
	l := &Log{tp: h.tp, id: h.id, dir: d, path: d.partitionPath(h.tp), flushed: h.owner.Flushed, pointSegment: -1}
	l.mu.cfg, l.mu.producers = cfg.of(h.tp), newProducers()
	l.view.Store(&d.none.view)
	l.end.Store(&d.none.mark)
	l.safe.Store(&d.none.mark)
	exists, err := l.claimDirectory()
	if err != nil {
		return nil, err
	}
	entry := d.manifest.entry(l.key())
	recorded := entry != nil && entry.present
	if err := h.lost(recorded, exists); err != nil {
		return nil, err
	}
	if exists && recorded && entry.resting {
		// What is opened goes by the rest: segments below its point are removed, and compaction and truncation build on it. The closer has not synced it.
		if err := d.manifest.sync(); err != nil { // protection: a rest is durable before anything goes by it
			return nil, d.failed(err)
		}
	}
	if exists {
		if !recorded {
			entry = nil
		}
		if err := l.load(entry); err != nil {
			return nil, fmt.Errorf("open %v: %w", h.tp, err)
		}
		if !recorded && len(l.view.Load().segments) > 0 {
			// That there is data is recorded together with where recovery begins: without a point the
			// next recovery would take a log of Kafka's for a young one of ours.
			if err := l.savePoint(); err != nil {
				return nil, fmt.Errorf("open %v: %w", h.tp, err)
			}
		}
		found := len(l.Damage()) > 0
		if entry != nil {
			l.recallDamage(entry.damaged())
		}
		if found {
			// The next recovery may not know any more what was durable here.
			if err := errors.Join(l.saveDamage(), l.savePoint()); err != nil {
				return nil, fmt.Errorf("open %v: %w", h.tp, err)
			}
		}
	}
	h.owner.Opened(l)
	d.mu.Lock()
	if d.mu.closed {
		d.mu.Unlock()
		l.refuse(ErrClosed)
		l.retire()
		return nil, ErrClosed
	}
	h.log.Store(l)
	d.mu.open = append(d.mu.open, h)
	h.openAt = int32(len(d.mu.open))
	d.hireCloserLocked()
	d.mu.Unlock()
	if now := h.cfg.Load(); now != cfg {
		l.setConfig(now) // it changed meanwhile, and SetConfig found no log
	}
	return l, nil
}

// SetConfig changes the configuration for what follows. cfg is not to be changed any more.
func (h *Held) SetConfig(cfg *LogConfig) {
	h.cfg.Store(cfg)
	if l := h.log.Load(); l != nil {
		l.setConfig(cfg)
	}
}

// Config is what Hold or SetConfig said last.
func (h *Held) Config() *LogConfig { return h.cfg.Load() }

// Dir is the log dir that the partition is in, nil if Hold has found none.
func (h *Held) Dir() *Dir { return h.dir }

// Path is the partition's directory; it may not exist while the log has no data.
func (h *Held) Path() string { return h.dir.partitionPath(h.tp) }

// Extent is how far a log reaches. Of a log that is not open it is what a stop left, and only a hint.
type Extent struct {
	Start, End int64
	Bytes      int64
	Segments   int
	Damaged    int // segments with known damage
}

// Extent does not open the log.
func (h *Held) Extent() Extent {
	if l := h.log.Load(); l != nil {
		return Extent{l.Start(), l.End(), l.SizeBytes(), l.Segments(), l.DamagedSegments()}
	}
	return h.dir.manifest.extent(h.key())
}

// Empty reports whether there is no data for certain: a partition that has some is recorded in the manifest, and Hold has opened
// those that are only on the disk.
func (h *Held) Empty() bool {
	e := h.dir.manifest.entry(h.key())
	return h.log.Load() == nil && (e == nil || !e.present)
}

// Delete ends the log and removes its directory: the topic was deleted. Reads that are under way finish. A log that is not
// open is not opened for it.
func (h *Held) Delete() error {
	h.opening.Lock()
	defer h.opening.Unlock()
	if h.ended {
		return nil
	}
	h.ended = true
	d := h.dir
	if l := h.log.Load(); l != nil {
		return l.Delete()
	}
	d.letGo(h.key())
	return d.removePartition(h.tp, h.id)
}

// of is the configuration for one of the partitions that share it: itself, unless that one's is another.
func (c *LogConfig) of(tp TopicPartition) *LogConfig {
	age := c.SegmentAge - jitter(tp, c.SegmentJitter)
	if c.CleanupCompact && c.MaxCompactionLag > 0 {
		age = min(age, c.MaxCompactionLag)
	}
	if age == c.SegmentAge {
		return c
	}
	own := *c
	own.SegmentAge = age
	return &own
}

// jitter spreads the rolls of partitions that were made at the same time: a part of
// segment.jitter.ms that depends on nothing but the partition.
func jitter(tp TopicPartition, limit time.Duration) time.Duration {
	if limit <= 0 {
		return 0
	}
	h := fnv.New64a()
	fmt.Fprint(h, tp)
	return time.Duration(h.Sum64() % uint64(limit))
}

// readNames remembers the partition directories that there are, so that those who hold partitions at the start need not look for
// each. It counts until the first change.
func (d *Dir) readNames() error {
	infos, err := d.fs.Names(d.path)
	if err != nil {
		return err
	}
	names := make(map[TopicPartition]bool, len(infos))
	var deleted []string
	for _, info := range infos {
		if !info.IsDir {
			continue
		}
		if tp, ok := parseDirName(info.Name); ok && tp.Topic != kafkaMetadataTopic {
			names[tp] = true
		} else if strings.HasSuffix(info.Name, "-delete") {
			deleted = append(deleted, info.Name)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.names, d.mu.deleted = names, deleted
	return nil
}

// forgetNames is called before a partition directory is made, renamed or removed.
func (d *Dir) forgetNames() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.names = nil
}

func (d *Dir) hasDirectory(tp TopicPartition) (bool, error) {
	d.mu.Lock()
	names := d.mu.names
	d.mu.Unlock()
	if names != nil {
		return names[tp], nil
	}
	_, err := d.fs.Stat(d.partitionPath(tp))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Strays are the partition directories that nobody holds.
func (d *Dir) Strays() ([]Found, error) {
	d.mu.Lock()
	held, names := d.heldNamesLocked(), d.mu.names
	d.mu.Unlock()
	if names == nil {
		if err := d.readNames(); err != nil {
			return nil, err
		}
		d.mu.Lock()
		names, d.mu.names = d.mu.names, nil
		d.mu.Unlock()
	}
	var out []Found
	for tp := range names {
		if !held[tp] {
			p := d.partitionPath(tp)
			id, err := readTopicID(d.fs, p)
			out = append(out, Found{tp, id, p, err})
		}
	}
	return out, nil
}

func (d *Dir) heldNamesLocked() map[TopicPartition]bool {
	held := make(map[TopicPartition]bool, len(d.mu.logs))
	for _, h := range d.mu.logs {
		held[h.tp] = true
	}
	return held
}

// held are all partitions, in no order.
func (d *Dir) held() []*Held {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]*Held, 0, len(d.mu.logs))
	for _, h := range d.mu.logs {
		out = append(out, h)
	}
	return out
}

// asItWasLeft reports whether the files of a log that is not open are what the manifest says a stop left: the last segment has
// the same size, and none follows. Nothing but appends makes a log that the point does not cover.
func (h *Held) asItWasLeft(entry *manifestEntry) bool {
	pt, r := entry.decode()
	if r == nil {
		return false
	}
	dir := h.dir.partitionPath(h.tp)
	info, err := h.dir.fs.Stat(path.Join(dir, segmentFile(pt.segment, logSuffix)))
	if err != nil || info.Size != pt.pos {
		return false
	}
	return pt.offset == pt.segment || !exists(h.dir.fs, path.Join(dir, segmentFile(pt.offset, logSuffix)))
}

// useFor is use for work in the background, if what is known of a closed log does not rule out that there is some; else, or after an error,
// it returns nil. Of a log that the recovery has still to look at nothing is known.
func (h *Held) useFor(work func(e *manifestEntry, cfg *LogConfig) bool) *Log {
	if h.log.Load() == nil {
		e := h.dir.manifest.entry(h.key())
		if e == nil || !e.present || !work(e, h.cfg.Load()) {
			return nil
		}
	}
	l, err := h.use()
	if err != nil {
		return nil // use has said so
	}
	return l
}

// retainable reports whether retention may find something in the log.
func (e *manifestEntry) retainable(cfg *LogConfig) bool {
	_, r := e.decode()
	return r == nil || r.retainable(cfg, time.Now().UnixMilli())
}

// compactable reports whether there may be a closed segment that was never compacted, or one is to be closed because of its age.
func (e *manifestEntry) compactable(cfg *LogConfig) bool {
	pt, r := e.decode()
	return r == nil || max(e.cleaned().dirty, e.start) < pt.segment || cfg.MaxCompactionLag > 0 && cfg.MaxCompactionLag != math.MaxInt64
}

// hasClosed reports whether there may be closed segments.
func (e *manifestEntry) hasClosed(*LogConfig) bool {
	_, r := e.decode()
	return r == nil || r.segments > 1
}
