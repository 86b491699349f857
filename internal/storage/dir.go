package storage

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// Options says where a log dir is and how much work it may do in the background. The
// zero value of a number means its default.
type Options struct {
	FS      vfs.FS
	Path    string // the log dir
	MetaDir string // holds the quarantine, the reserve and, unless ManifestDir is set, the manifest
	// ManifestDir holds the manifest of this log dir.
	ManifestDir string
	Log         *slog.Logger

	FlushWorkers     int           // logs that are synced at the same time; 32
	OpenFiles        int           // segment files that are open at the same time; 1000
	OpenLogs         int           // logs kept open though nobody has used them for a while; 1000
	CloseRound       time.Duration // what is open beyond that is closed after one to two rounds without a use; 15 s
	IndexBytes       int64         // indexes of sealed segments kept in memory; 32 MiB
	PointBytes       int64         // appended bytes after which a log gets a new point; 16 MiB
	UnflushedBytes   int64         // appended without a flush policy, in all logs, before a point is made for their sake; 1 GiB
	ProducerIDExpiry time.Duration // producer.id.expiration.ms; 24 h
	PoisonBuffers    bool          // overwrite read buffers when they are released: for tests, to find a use after that
	JournalBytes     int64         // of each file of the journal; 0: by the size of the volume, negative: no journal
	PadBytes         int64         // the file of a segment that is appended to is longer than its batches, up to a multiple of it; 64 KiB, negative: it is not
	PadFrom          int64         // bytes that a segment has before its file is made longer; 1 MiB
	QuietRound       time.Duration // what is longer than its batches is cut after one to two rounds without an append; 1 s
	Reserve          bool          // keep a file in MetaDir whose room is given up for what else is there, see room.go
}

func (o *Options) defaults() {
	setDefault(&o.FlushWorkers, 32)
	setDefault(&o.OpenFiles, 1000)
	setDefault(&o.OpenLogs, 1000)
	setDefault(&o.CloseRound, 15*time.Second)
	setDefault(&o.IndexBytes, 32<<20)
	setDefault(&o.PointBytes, 16<<20)
	setDefault(&o.UnflushedBytes, 1<<30)
	setDefault(&o.ProducerIDExpiry, 24*time.Hour)
	setDefault(&o.PadBytes, padToBytes)
	setDefault(&o.PadFrom, padFromBytes)
	setDefault(&o.QuietRound, time.Second)
	setDefault(&o.ManifestDir, o.MetaDir)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Identity is what meta.properties says of a log dir.
type Identity struct {
	ClusterID   string
	NodeID      int32
	DirectoryID wire.UUID
}

// Dir is a log dir: it owns the lock, the identity, the manifest, the logs in it and
// their background work. All methods may be called concurrently.
type Dir struct {
	fs       vfs.FS
	path     string
	opts     Options
	log      *slog.Logger
	lock     io.Closer
	identity Identity // zero until it is known
	nameless bool     // meta.properties has to be written: it is missing, or has no directory id
	manifest *manifest
	flusher  *flusher
	journal  *journal

	housekeeper *housekeeper
	cleaner     *cleaner
	room        *room
	stalls      *stalls
	scrubber    *scrubber
	pool        *descriptors
	indexes     *indexCache
	buffers     buffers
	vecs        sync.Pool // of *[MaxTogether + 1][]byte, for one write of several batches and of zeros
	zeros       []byte    // PadBytes of them
	cold        *coldQueue

	durable       atomic.Bool // everything that was in the log dir at the start is
	startsChanged atomic.Bool // since Kafka's file was written

	unpointed atomic.Int64 // bytes of logs without a flush policy behind their last points
	// What the log dir's own files said when it was opened: recovery points, log start offsets and cleaner
	// offsets, for partitions without a point of ours, and whether it was stopped cleanly.
	legacy        map[TopicPartition]int64
	starts        map[TopicPartition]int64
	legacyCleaned map[TopicPartition]int64
	cleanly       bool

	none struct { // of logs without data, which share them
		view view
		mark mark
	}

	fenced atomic.Pointer[error] // why the dir is offline (S11)
	news   chan<- struct{}       // of the Dirs that it belongs to: told when it goes offline; nil alone

	mu struct {
		sync.Mutex // guards the following; a leaf
		logs       map[partitionKey]*Held
		open       []*Held                 // those of them whose logs are open, in no order; see Held.openAt
		closing    bool                    // there is a closer
		names      map[TopicPartition]bool // partition directories; nil: look for each
		deleted    []string                // directories that were being removed at the last stop
		points     []*Log                  // want a point; each at most once
		flushed    []*Log                  // have been flushed since their last flushed record; each at most once
		noting     alarm                   // flushedEvery after the first of them
		excess     []excessLog             // may have bytes behind their log ends (S19); each log at most once
		cutting    alarm                   // QuietRound after the last round, as long as there are any
		wanted     map[*Log]bool
		doomed     []doomed // wait for their removal
		closed     bool
	}
	wake chan struct{} // capacity 1: points is not empty, an alarm is due, or closed
	stop chan struct{} // closed with closed
	wg   sync.WaitGroup

	recovery recovery
}

// OpenDir locks the log dir, makes it if it is not there, and reads its identity and manifest. The
// error is a *vfs.LockedError in its chain when another process has it.
func OpenDir(o Options) (*Dir, error) {
	d := newDir(o)
	if err := d.open(); err != nil {
		return nil, err
	}
	return d, nil
}

// newDir is a log dir that nothing is known of yet, and that touches no file.
func newDir(o Options) *Dir {
	o.defaults()
	pool := newDescriptors(o.OpenFiles)
	watch := vfs.NewWatch(&vfs.Patient{FS: o.FS, Relieve: pool.relieve})
	d := &Dir{fs: watch, path: o.Path, opts: o, log: o.Log, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	d.room, d.stalls = newRoom(d, o.Reserve), newStalls(d, watch)
	d.journal = newJournal(d, o.JournalBytes)
	d.flusher = newFlusher(o.FlushWorkers, d.journal)
	d.cold = newColdQueue()
	d.housekeeper, d.cleaner, d.scrubber = newHousekeeper(d), newCleaner(d), newScrubber(d)
	d.pool = pool
	d.indexes = &indexCache{limit: o.IndexBytes}
	d.buffers.poison = o.PoisonBuffers
	d.zeros = make([]byte, max(0, o.PadBytes))
	d.mu.logs, d.mu.wanted = map[partitionKey]*Held{}, map[*Log]bool{}
	return d
}

// open takes the log dir into use. After an error it is in use by nobody.
func (d *Dir) open() error {
	for _, dir := range []string{d.opts.MetaDir, d.opts.ManifestDir} {
		if err := vfs.MkdirAllSync(d.opts.FS, dir); err != nil {
			return &metaError{err}
		}
	}
	if err := vfs.MkdirAllSync(d.opts.FS, d.path); err != nil {
		return err
	}
	if _, err := d.fs.ReadDir(d.path); err != nil {
		return err
	}
	lock, err := d.opts.FS.Lock(path.Join(d.path, lockFile))
	if err != nil {
		return err
	}
	d.room.start() // before anything is written: there may be no room but the reserve's
	if err := d.load(); err != nil {
		d.room.close()
		if d.manifest != nil {
			err = errors.Join(err, d.manifest.close())
		}
		return errors.Join(err, lock.Close())
	}
	d.lock = lock
	d.stalls.start()
	d.wg.Add(1)
	go d.startPoints()
	return nil
}

// metaError is a failure of the metadata directory, which is not the log dir's.
type metaError struct{ error }

func (e *metaError) Unwrap() error { return e.error }

func (d *Dir) load() error {
	var err error
	if d.identity, _, err = ReadIdentity(d.fs, d.path); err != nil {
		return err
	}
	if d.manifest, err = openManifest(d.fs, d.opts.ManifestDir); err != nil {
		return &metaError{err}
	}
	if d.manifest.lost > 0 {
		d.log.Error("manifest is damaged: what some records said of partitions is lost, all others count. Look at the disk, and check the partitions with moldau log check",
			"bytes", d.manifest.lost, "copy", path.Join(d.opts.ManifestDir, damagedManifestFile))
	}
	if err := d.journal.replay(); err != nil {
		return fmt.Errorf("journal of log dir %s: %w", d.path, err)
	}
	if d.legacy, err = d.loadOffsets(recoveryPointFile, "logs without a point of ours are scanned from their first byte"); err != nil {
		return err
	}
	if d.starts, err = d.loadOffsets(logStartFile, "logs without a point of ours start with their first segment"); err != nil {
		return err
	}
	if d.legacyCleaned, err = d.loadOffsets(cleanerFile, "logs without a point of ours count as never compacted"); err != nil {
		return err
	}
	d.forgetLegacy()
	if err := d.readNames(); err != nil {
		return err
	}
	// From here on it is not stopped cleanly, until Close says so again.
	if d.cleanly = StoppedCleanly(d.fs, d.path); d.cleanly {
		if err := d.fs.Remove(path.Join(d.path, cleanShutdownFile)); err != nil {
			return err
		}
		return d.fs.SyncDir(d.path)
	}
	return nil
}

// forgetLegacy lets go of what Kafka's checkpoints say of partitions of which we know better.
func (d *Dir) forgetLegacy() {
	ours := map[TopicPartition]bool{}
	d.manifest.each(func(_ partitionKey, e *manifestEntry) {
		if e.point != nil {
			ours[e.tp] = true
		}
	})
	for _, offsets := range []*map[TopicPartition]int64{&d.legacy, &d.starts, &d.legacyCleaned} {
		rest := map[TopicPartition]int64{}
		for tp, at := range *offsets {
			if !ours[tp] {
				rest[tp] = at
			}
		}
		*offsets = rest
	}
}

// loadOffsets reads one of Kafka's checkpoint files. One that is damaged is not needed: otherwise says what becomes of it.
func (d *Dir) loadOffsets(file, otherwise string) (map[TopicPartition]int64, error) {
	name := path.Join(d.path, file)
	text, found, err := readFile(d.fs, name, 1<<28)
	if err != nil || !found {
		return nil, err
	}
	offsets, err := parseOffsets(string(text))
	if err != nil {
		d.log.Warn("checkpoint cannot be read; "+otherwise, "file", name, "error", err)
		return nil, nil
	}
	return offsets, nil
}

func parseIdentity(text string) (Identity, error) {
	var id Identity
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok || strings.HasPrefix(key, "#") {
			continue
		}
		switch key {
		case "version":
			if value != "1" && value != "0" {
				return id, fmt.Errorf("version %q is not 1", value)
			}
		case "cluster.id":
			id.ClusterID = value
		case "node.id", "broker.id":
			n, err := strconv.ParseInt(value, 10, 32)
			if err != nil {
				return id, fmt.Errorf("%s %q is not a number", key, value)
			}
			id.NodeID = int32(n)
		case "directory.id":
			u, err := wire.ParseUUID(value)
			if err != nil {
				return id, fmt.Errorf("directory.id: %w", err)
			}
			id.DirectoryID = u
		}
	}
	if id.ClusterID == "" {
		return id, errors.New("it has no cluster.id")
	}
	return id, nil
}

// Path is the log dir's path.
func (d *Dir) Path() string { return d.path }

// Identity is what meta.properties said, or what SetIdentity wrote; known is false for a new log dir.
func (d *Dir) Identity() (id Identity, known bool) { return d.identity, d.identity.ClusterID != "" }

// isOpen says that the log dir could be opened: it is locked, its manifest is read and its goroutines run.
func (d *Dir) isOpen() bool { return d.lock != nil }

// logCount is the number of partitions in the log dir, those without data too.
func (d *Dir) logCount() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.mu.logs)
}

// SetIdentity writes meta.properties durably. Called once, before the first OpenLog.
func (d *Dir) SetIdentity(id Identity) error {
	text := fmt.Sprintf("#\ncluster.id=%s\ndirectory.id=%s\nnode.id=%d\nversion=1\n", id.ClusterID, id.DirectoryID, id.NodeID)
	if err := writeAtomic(d.fs, d.path, metaPropertiesFile, []byte(text)); err != nil {
		return err
	}
	d.identity = id
	return nil
}

// Scan lists the partition directories in the log dir.
func (d *Dir) Scan() ([]Found, error) {
	found, err := ScanDir(d.fs, d.path)
	for _, f := range found {
		if f.Err != nil {
			d.log.Warn("topic id of a partition directory cannot be read", "dir", f.Path, "error", f.Err)
		}
	}
	return found, err
}

// readTopicID reads partition.metadata; the zero id if the file is not there.
func readTopicID(fsys vfs.FS, dir string) (wire.UUID, error) {
	name := path.Join(dir, partitionMetadataFile)
	text, found, err := readFile(fsys, name, 4<<10)
	if err != nil || !found {
		return wire.UUID{}, err
	}
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "topic_id: "); ok {
			id, err := wire.ParseUUID(v)
			if err != nil {
				return id, &CorruptionError{name, 0, err}
			}
			return id, nil
		}
	}
	return wire.UUID{}, &CorruptionError{name, 0, errors.New("it has no topic_id")}
}

// Space is the room on the volume of the log dir.
func (d *Dir) Space() (vfs.Space, error) { return d.fs.Space(d.path) }

// Err says why the log dir is offline, or nil.
func (d *Dir) Err() error { return d.offline() }

func (d *Dir) offline() error {
	if p := d.fenced.Load(); p != nil {
		return *p
	}
	return nil
}

// fence takes the log dir offline for good: after a failed write or sync nobody knows
// what the files hold, and asking again would only hide it (S11).
func (d *Dir) fence(cause error) error {
	err := fmt.Errorf("%s: %w after: %w", d.path, ErrOffline, cause)
	if d.fenced.CompareAndSwap(nil, &err) {
		d.log.Error("log dir is offline: a write or sync failed; repair or replace the disk and restart the broker",
			"dir", d.path, "error", cause)
		select {
		case d.news <- struct{}{}:
		default:
		}
	}
	return d.offline()
}

// failed turns an I/O error of an append into what the appender gets. A full volume is
// retriable and fences nothing: the bytes behind the log end do not count.
func (d *Dir) failed(cause error) error {
	if vfs.IsNoSpace(cause) {
		d.room.poke() // what was free is out of date, or a quota is used up
		return fmt.Errorf("%s: %w: %w", d.path, ErrNoSpace, cause)
	}
	return d.fence(cause)
}

func (d *Dir) newSegment(dir string, base int64) *segment {
	s := &segment{fs: d.fs, dir: dir, base: base, pool: d.pool, indexes: d.indexes, firstTsMs: -1}
	s.idx.maxTsMs = -1
	return s
}

// requestPoint asks for a new point of l. The set is bounded by the number of logs.
func (d *Dir) requestPoint(l *Log) {
	d.mu.Lock()
	if !d.mu.wanted[l] {
		d.mu.wanted[l] = true
		d.mu.points = append(d.mu.points, l)
	}
	d.mu.Unlock()
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// alarm has the goroutine of points look after something some time after the first wish for it. Guarded by Dir.mu.
type alarm struct{ set, due bool }

// setAlarmLocked sets a, unless it is set already. d.mu is held.
func (d *Dir) setAlarmLocked(a *alarm, after time.Duration) {
	if a.set {
		return
	}
	a.set = true
	time.AfterFunc(after, func() {
		d.mu.Lock()
		a.due = true
		d.mu.Unlock()
		select {
		case d.wake <- struct{}{}:
		default:
		}
	})
}

// takeAlarmLocked reports whether a was due, and lets it be set again. d.mu is held.
func (d *Dir) takeAlarmLocked(a *alarm) bool {
	if !a.due || d.mu.closed {
		return false
	}
	*a = alarm{}
	return true
}

// startPoints writes the points that were asked for, one log after the other, and the flushed records, and cuts off what is behind the ends
// of logs.
func (d *Dir) startPoints() {
	defer d.wg.Done()
	for range d.wake {
		d.saveFlushed()
		d.cutExcess()
		for {
			d.mu.Lock()
			if d.mu.closed {
				d.mu.Unlock()
				return
			}
			if len(d.mu.points) == 0 {
				d.mu.Unlock()
				break
			}
			l := d.mu.points[0]
			d.mu.points = d.mu.points[1:]
			delete(d.mu.wanted, l)
			d.mu.Unlock()
			before := l.Flushed()
			err := l.savePoint()
			l.tellFlushed(before, err) // a point flushes too, and then the flusher finds nothing to tell
			if err != nil && !errors.Is(err, ErrClosed) && !errors.Is(err, ErrOffline) {
				d.log.Warn("the recovery point of a log could not be written; a restart reads more of it",
					"partition", l.tp.String(), "error", err)
			}
		}
	}
}

// closers is how many logs are closed at the same time: most of that is waiting for the disk.
const closers = 32

// Close writes a point for every log that needs one, so that the next start reads no batches, and
// Kafka's own files, and lets go of the lock. Logs are closed with it.
func (d *Dir) Close() error {
	d.mu.Lock()
	if d.mu.closed {
		d.mu.Unlock()
		return nil
	}
	d.mu.closed = true
	d.mu.Unlock()
	close(d.stop)
	logs := d.allLogs()
	select {
	case d.wake <- struct{}{}:
	default:
	}
	d.wg.Wait()
	d.cold.close()
	d.cleaner.close()
	d.scrubber.close()
	d.housekeeper.close()
	errs := d.settleDown(logs)
	d.flusher.close()
	if !d.isOpen() {
		return nil
	}
	errs = append(errs, d.journal.close(d.offline() == nil && errors.Join(errs...) == nil))
	d.room.close()
	d.stalls.close()
	if d.offline() == nil && errors.Join(errs...) == nil {
		errs = append(errs, d.writeStop(logs), d.writeCleaned())
	}
	errs = append(errs, d.manifest.close(), d.lock.Close())
	return errors.Join(errs...)
}

// settleDown closes logs: first every log writes its files, then all of them are made durable at once, and only then the
// manifest says so.
func (d *Dir) settleDown(logs []*Log) []error {
	all, errs := d.leaveAll(logs, closers, (*Log).settleDown)
	var records [][]byte
	for _, now := range all {
		if now.record != nil {
			records = append(records, now.record)
		}
	}
	if len(records) > 0 && d.offline() == nil {
		if err := d.manifest.addRecords(records, true); err != nil {
			errs = append(errs, d.failed(err))
		}
	}
	for _, l := range logs {
		l.retire()
	}
	return errs
}

// leaveAll has every log write its files, several at a time, and makes them durable at once. Of a log that could not, and of all if that
// sync failed, the result is zero.
func (d *Dir) leaveAll(logs []*Log, together int, leave func(*Log) (left, error)) (all []left, errs []error) {
	all = make([]left, len(logs))
	failed := make([]error, len(logs))
	var group errgroup.Group
	group.SetLimit(together)
	for i, l := range logs {
		group.Go(func() error {
			if all[i], failed[i] = leave(l); failed[i] != nil {
				all[i] = left{}
			}
			return nil
		})
	}
	_ = group.Wait() // the functions report by themselves
	errs = slices.DeleteFunc(failed, func(err error) bool { return err == nil })
	if slices.ContainsFunc(all, func(now left) bool { return now.record != nil }) && d.offline() == nil {
		if err := d.fs.SyncTree(d.path); err != nil { // protection: sync of all
			errs = append(errs, d.failed(err))
			clear(all)
		}
	}
	return all, errs
}

// writeStop leaves what Kafka wants to find after a clean stop. A partition directory that nobody holds, because no topic
// claims it, keeps what was said of it; and of one whose last broker was not stopped nobody says that it was.
func (d *Dir) writeStop(logs []*Log) error {
	strays, err := d.Strays()
	if err != nil {
		return err
	}
	recovery, starts := map[TopicPartition]int64{}, map[TopicPartition]int64{}
	cleanly := d.Recovery().Ended || !slices.ContainsFunc(d.held(), d.unknown)
	for _, f := range strays {
		cleanly = cleanly && d.cleanly
		if at, ok := d.legacy[f.TopicPartition]; ok {
			recovery[f.TopicPartition] = at
		}
		if at, ok := d.starts[f.TopicPartition]; ok {
			starts[f.TopicPartition] = at
		}
	}
	d.manifest.each(func(_ partitionKey, e *manifestEntry) {
		if pt, _ := e.decode(); pt != nil {
			recovery[e.tp], starts[e.tp] = pt.offset, e.start
		}
	})
	for _, l := range logs {
		if len(l.view.Load().segments) > 0 {
			recovery[l.tp], starts[l.tp] = l.Flushed(), l.Start()
		}
	}
	err = errors.Join(writeAtomic(d.fs, d.path, recoveryPointFile, encodeOffsets(recovery)),
		writeAtomic(d.fs, d.path, logStartFile, encodeOffsets(starts)))
	if err != nil || !cleanly {
		return err
	}
	return writeAtomic(d.fs, d.path, cleanShutdownFile, []byte("{\"version\":0,\"brokerEpoch\":-1}"))
}

// WriteHighWatermarks writes Kafka's replication-offset-checkpoint. It is a hint.
func (d *Dir) WriteHighWatermarks(hw map[TopicPartition]int64) error {
	return writeAtomic(d.fs, d.path, replicationFile, encodeOffsets(hw))
}

// setAside moves a file into the quarantine and returns its new path.
func (d *Dir) setAside(name, as string) (string, error) {
	dir := path.Join(d.opts.MetaDir, "quarantine")
	if err := vfs.MkdirAllSync(d.fs, dir); err != nil {
		return "", err
	}
	to, err := d.freeName(path.Join(dir, as))
	if err != nil {
		return "", err
	}
	err = d.fs.Rename(name, to)
	if vfs.IsCrossDevice(err) {
		err = d.copyAside(name, to)
	}
	if err != nil {
		return "", err
	}
	return to, errors.Join(d.fs.SyncDir(dir), d.fs.SyncDir(path.Dir(name)))
}

// copyAside moves a file to another volume.
func (d *Dir) copyAside(name, to string) error {
	f, err := d.fs.Open(name, vfs.ReadOnly)
	if err != nil {
		return err
	}
	size, err := f.Size()
	if err == nil {
		err = copyRange(d.fs, f, 0, size, to)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return d.fs.Remove(name)
}

// freeName returns name, or name with the first number behind it that is not taken.
func (d *Dir) freeName(name string) (string, error) {
	for i := 0; i < 1_000_000; i++ {
		to := name
		if i > 0 {
			to = fmt.Sprintf("%s.%d", name, i)
		}
		if _, err := d.fs.Stat(to); err != nil {
			return to, nil
		}
	}
	return "", fmt.Errorf("%s: every name is taken; look into the quarantine and move its files away", name)
}
