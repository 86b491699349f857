package storage

import (
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// LogConfig is what a log obeys. The zero value of a field means no limit where that
// makes sense; broker fills every field from the topic's configuration.
type LogConfig struct {
	SegmentBytes       int64         // segment.bytes
	SegmentAge         time.Duration // segment.ms
	SegmentJitter      time.Duration // segment.jitter.ms: each log takes another part of it from SegmentAge
	IndexIntervalBytes int64         // index.interval.bytes
	SegmentIndexBytes  int64         // segment.index.bytes
	FlushMessages      int64         // flush.messages; MaxInt64: no policy
	FlushInterval      time.Duration // flush.ms; 0: no policy
	MaxInflatedBytes   int64         // bound for one batch's records once inflated

	CleanupDelete   bool          // cleanup.policy has delete: the retention limits hold
	RetentionAge    time.Duration // retention.ms, negative: no limit
	RetentionBytes  int64         // retention.bytes, negative: no limit
	FileDeleteDelay time.Duration // file.delete.delay.ms

	CleanupCompact   bool          // cleanup.policy has compact
	MinDirtyRatio    float64       // min.cleanable.dirty.ratio
	MinCompactionLag time.Duration // min.compaction.lag.ms
	MaxCompactionLag time.Duration // max.compaction.lag.ms; 0: no limit
	DeleteRetention  time.Duration // delete.retention.ms, of tombstones and markers
}

// FlushPolicy reports whether the log's records count as stable only when flushed.
func (c LogConfig) FlushPolicy() bool { return c.FlushMessages < math.MaxInt64 || c.FlushInterval > 0 }

// view is what readers see of a log's files. Immutable.
type view struct {
	segments []*segment // ascending base offset, never empty once there is data
	logStart int64
}

// mark is a place in a log: the batch that begins at offset stands, or will stand, at
// byte pos of seg. Immutable. seg is nil while the log has no data.
type mark struct {
	offset int64
	seg    *segment
	pos    int64
	epoch1 int32 // leader epoch of the batch before it, plus one; 0: not said
}

// sealing is a rolled segment whose index and snapshot are not written yet.
type sealing struct {
	seg      *segment
	next     int64  // base offset of the segment that followed
	snapshot []byte // producer state at next, in Kafka's form
	gone     bool   // seg has left the log, only the snapshot counts
}

// Log is one partition's log. All methods may be called concurrently.
type Log struct {
	tp      TopicPartition
	id      wire.UUID
	dir     *Dir
	path    string
	flushed func() // called after Flushed rose, without locks

	view atomic.Pointer[view]
	end  atomic.Pointer[mark] // log end (S2)
	safe atomic.Pointer[mark] // flushed: below it everything is durable (S3)

	committed atomic.Int64 // the high watermark as SetCommitted told it
	places    places       // where readers stopped

	scanned atomic.Int32 // number of scans
	scans   []*scan      // clients that met cold bytes here not long ago; guarded by coldQueue.mu

	// settled says that no transaction keeps the last stable offset below the high watermark, and that none will
	// without an append that says so. It changes with mu held.
	settled atomic.Bool

	// syncing makes flushes of this log follow each other and excludes truncation, so that a
	// flush never counts for bytes that were cut; held over sync. Order: files, syncing, tailing, mu.
	syncing sync.Mutex
	// tailing keeps truncation and the log's end away while the journal has a tail of it; held over the journal's sync. A flush
	// of the log's own files goes on beside it: the two make Flushed rise, each for what it has made durable.
	tailing sync.Mutex
	// files excludes the slow changes to the log's files from each other: points,
	// truncation, deletion, close; held over I/O.
	files sync.Mutex

	// cleaning is held over a compaction; whoever wants it ends the compaction first, see
	// pauseCleaning. Taken before files.
	cleaning   sync.Mutex
	cleanStops atomic.Int32          // how many want it
	unclean    atomic.Pointer[error] // why the log is not compacted any more
	gaps       atomic.Int64          // mu.cleaned.gaps, for readers

	flushState flushState  // owned by flusher
	noted      atomic.Bool // it waits for its flushed record, see Dir.noteFlushed

	mu struct {
		sync.Mutex            // orders appends, rolls and truncation; guards the following. Appends hold it over write, never over sync, but for the first append of a log
		cfg        *LogConfig // immutable
		epochs     epochs
		producers  *producers
		aborted    []AbortedTxn // the transaction index of all segments, by LastOffset
		seals      []sealing
		closed     error       // why appends are refused
		present    bool        // directory and manifest entry are durable (S9)
		retired    bool        // the segments' files may be gone
		sincePoint int64       // bytes appended since the last point
		lazy       int64       // those of them that came without a flush policy, counted in Dir.unpointed
		flushTimer *time.Timer // runs RequestFlush for flush.ms
		timerSet   bool
		epochsGen  int64 // counts changes of epochs
		cleaned    cleaned
		marks      []mark // that nobody has seen, for the next ends
		marksMade  int    // how many were made the last time
		excess     bool   // the log is in Dir.mu.excess (S19)
	}
	epochsSaved  int64 // epochsGen that leader-epoch-checkpoint has; guarded by files
	pointSegment int64 // the segment that the point in force names, -1 without one; guarded by files
	// What a stop left, if the files were found as it left them; guarded by files.
	rested       *view
	restedEnd    int64
	endSnapshots []int64 // offsets of producer snapshots in the middle of a segment, or at the log end
}

// AppendOptions says how to append a batch.
type AppendOptions struct {
	LeaderEpoch int32
	NowMs       int64 // wall clock, for segment.ms
	Reserve     bool  // the broker's own records: they may use what producers leave free
}

// Appended is the place a batch got.
type Appended struct {
	BaseOffset, LastOffset int64
	LogStart               int64
	Duplicate              bool  // the batch was there already: these are its offsets
	MaxTimestampMs         int64 // of the batch that is in the log
}

// Partition is the partition's name.
func (l *Log) Partition() TopicPartition { return l.tp }

// Path is the partition's directory; it may not exist while the log has no data.
func (l *Log) Path() string { return l.path }

// Dir is the log dir that the log is in.
func (l *Log) Dir() *Dir { return l.dir }

// End is the offset that the next record gets.
func (l *Log) End() int64 { return l.end.Load().offset }

// Flushed is the offset below which everything survives a power loss (S3).
func (l *Log) Flushed() int64 { return l.safe.Load().offset }

// Start is the first offset that may be read.
func (l *Log) Start() int64 { return l.view.Load().logStart }

// Config returns the configuration in force.
func (l *Log) Config() LogConfig {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *l.mu.cfg
}

// SetConfig changes the configuration for what follows.
func (l *Log) SetConfig(cfg LogConfig) { l.setConfig(&cfg) }

// setConfig keeps cfg.
func (l *Log) setConfig(cfg *LogConfig) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.cfg = cfg.of(l.tp)
}

// SizeBytes is the sum of the segments' bytes.
func (l *Log) SizeBytes() int64 {
	var n int64
	for _, s := range l.view.Load().segments {
		n += s.size.Load()
	}
	return n
}

// Segments is the number of segments.
func (l *Log) Segments() int { return len(l.view.Load().segments) }

// Entry is a batch to append, and what became of it.
type Entry struct {
	Batch   record.Batch
	Options AppendOptions
	At      Appended
	Err     error // then nothing of the batch is in the log
}

// Append gives b the next offsets and the leader epoch, in place, and writes it. The
// batch was validated by the caller; its bytes are not kept. A batch of an idempotent
// producer is checked against the producer state: a duplicate is not written again and
// its first place is returned. Errors: ErrOutOfOrder, ErrProducerFenced, ErrTxnState,
// ErrTooLarge, ErrStaleEpoch, ErrNoSpace, ErrOffline, ErrClosed. After an error nothing of b is
// in the log. The record is readable at once up to End and durable when Flushed passed it.
func (l *Log) Append(b record.Batch, o AppendOptions) (Appended, error) {
	e := [1]Entry{{Batch: b, Options: o}}
	l.AppendAll(e[:])
	return e[0].At, e[0].Err
}

// AppendAll appends entries as Append would, one after the other, but with one write for those that stand side by side in a
// segment. A write that fails is an error of all that it would have written.
func (l *Log) AppendAll(entries []Entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	appended := false
	for len(entries) > 0 {
		n := l.appendLocked(entries)
		appended = appended || entries[0].Err == nil && !entries[0].At.Duplicate
		entries = entries[n:]
	}
	if appended {
		l.armFlushLocked()
	}
}

// MaxTogether is how many batches one write takes: as many as a system call takes without garbage, with the zeros behind them.
const MaxTogether = 7

// appendLocked appends the first entry, and those behind it that can share its write. It returns how many it has dealt with.
func (l *Log) appendLocked(entries []Entry) int {
	seg, err := l.placeLocked(&entries[0])
	if seg == nil {
		entries[0].Err = err
		return 1
	}
	pos, n := seg.size.Load(), 1
	for end := pos + int64(entries[0].Batch.Size()); n < min(len(entries), MaxTogether) && l.followsLocked(entries, n, seg, end); n++ {
		end += int64(entries[n].Batch.Size())
	}
	entries = entries[:n]
	if err := l.writeLocked(seg, entries, pos); err != nil {
		for i := range entries {
			entries[i].Err = err
		}
		return n
	}
	start := l.view.Load().logStart
	for i := range entries {
		b := entries[i].Batch
		entries[i].At = Appended{b.BaseOffset(), b.LastOffset(), start, false, b.MaxTimestampMs()}
	}
	l.foldLocked(seg, entries, pos)
	return n
}

// placeLocked gives e its offset and returns the segment that it goes to; nil if it is refused or, without an error, a duplicate.
func (l *Log) placeLocked(e *Entry) (*segment, error) {
	b, o := e.Batch, &e.Options
	if err := l.writableLocked(); err != nil {
		return nil, err
	}
	if !b.Control() {
		dup, isDup, err := l.mu.producers.check(b)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", l.tp, err)
		}
		if isDup {
			e.At = Appended{dup.firstOffset(), dup.lastOffset, l.view.Load().logStart, true, dup.tsMs}
			return nil, nil
		}
	}
	if int64(b.Size()) > l.mu.cfg.SegmentBytes {
		return nil, fmt.Errorf("%v: batch of %d bytes, segment.bytes is %d: %w", l.tp, b.Size(), l.mu.cfg.SegmentBytes, ErrTooLarge)
	}
	if last := l.mu.epochs.latest(); o.LeaderEpoch < last {
		return nil, fmt.Errorf("%v: append with leader epoch %d, the log has %d: %w", l.tp, o.LeaderEpoch, last, ErrStaleEpoch)
	}
	if err := l.dir.room.admit(int64(b.Size()), o.Reserve); err != nil { // protection: producers leave room
		return nil, err
	}
	b.SetBaseOffset(l.End())
	b.SetLeaderEpoch(o.LeaderEpoch)
	return l.activeLocked(b, o.NowMs)
}

// followsLocked gives entry n its offset behind those before it, of which the last ends at byte end of seg, if it would be let
// in once they are in the log and would stand beside them. What is not sure waits for its own turn.
func (l *Log) followsLocked(entries []Entry, n int, seg *segment, end int64) bool {
	before, e := entries[n-1].Batch, &entries[n]
	b := e.Batch
	if seg.size.Load() == 0 || b.Control() || before.Control() || e.Options.LeaderEpoch != entries[0].Options.LeaderEpoch ||
		int64(b.Size()) > l.mu.cfg.SegmentBytes || !l.inSequenceLocked(entries[:n], b) {
		return false
	}
	b.SetBaseOffset(before.NextOffset())
	b.SetLeaderEpoch(e.Options.LeaderEpoch)
	return !l.fullLocked(seg, b, end, n, e.Options.NowMs) && l.dir.room.admit(int64(b.Size()), e.Options.Reserve) == nil
}

// inSequenceLocked reports whether the producer state lets b in behind entries that it does not know yet.
func (l *Log) inSequenceLocked(entries []Entry, b record.Batch) bool {
	if b.ProducerID() < 0 {
		return true
	}
	for i := len(entries) - 1; i >= 0; i-- {
		if x := entries[i].Batch; x.ProducerID() == b.ProducerID() {
			return x.ProducerEpoch() == b.ProducerEpoch() && x.Transactional() == b.Transactional() && nextInSequence(x.LastSequence(), b.BaseSequence()) // protection: sequence in one write
		}
	}
	_, isDup, err := l.mu.producers.check(b)
	return err == nil && !isDup
}

// writableLocked says why nothing may be appended, or nil.
func (l *Log) writableLocked() error {
	if l.mu.closed != nil {
		return fmt.Errorf("%v: %w", l.tp, l.mu.closed)
	}
	return l.dir.offline() // protection: nothing after a failed sync
}

// writeLocked writes the batches side by side from pos on. A failure leaves the log as it was: bytes behind the
// log end do not count, and the next append to the segment overwrites them, or a roll cuts them off.
func (l *Log) writeLocked(seg *segment, entries []Entry, pos int64) error {
	f, err := seg.pin()
	if err != nil {
		return l.dir.failed(err)
	}
	defer seg.unpin()
	end := pos
	for i := range entries {
		end += int64(entries[i].Batch.Size())
	}
	pad := l.padLocked(seg, end, entries[0].Options.NowMs)
	if len(entries) == 1 && len(pad) == 0 {
		_, err = f.WriteAt(entries[0].Batch, pos)
	} else {
		v, _ := l.dir.vecs.Get().(*[MaxTogether + 1][]byte)
		if v == nil {
			v = new([MaxTogether + 1][]byte)
		}
		for i := range entries {
			v[i] = entries[i].Batch
		}
		v[len(entries)] = pad
		_, err = f.WriteVec(v[:len(entries)+1], pos)
		clear(v[:])
		l.dir.vecs.Put(v)
	}
	if err != nil {
		seg.torn = true
		l.noteExcessLocked()
		return l.dir.failed(err)
	}
	if len(pad) > 0 {
		seg.padded = end + int64(len(pad))
		l.noteExcessLocked()
	}
	return nil
}

// foldLocked makes batches that stand in seg from pos on part of the log's state.
func (l *Log) foldLocked(seg *segment, entries []Entry, pos int64) {
	end := pos
	for i := range entries {
		l.foldBatchLocked(seg, entries[i].Batch, end, entries[i].Options.NowMs)
		end += int64(entries[i].Batch.Size())
	}
	last := &entries[len(entries)-1]
	seg.dirty = true
	seg.appendedMs.Store(last.Options.NowMs)
	seg.size.Store(end)
	l.countLocked(end - pos)
	m := l.newMarkLocked()
	*m = mark{last.Batch.NextOffset(), seg, end, last.Batch.LeaderEpoch() + 1}
	l.end.Store(m)
	// Without a flush policy nobody waits for the sync that a point makes: it is made only so often that a restart
	// after a crash reads a bounded number of bytes.
	if l.mu.sincePoint >= l.dir.opts.PointBytes && (l.mu.sincePoint > l.mu.lazy || l.dir.unpointed.Load() >= l.dir.opts.UnflushedBytes) {
		l.dir.requestPoint(l)
	}
}

// newMarkLocked is a mark that nobody has seen. A log that is written makes several at a time: an allocation for each append would be the
// only one that a Produce request needs.
func (l *Log) newMarkLocked() *mark {
	if len(l.mu.marks) == 0 {
		l.mu.marks = make([]mark, l.mu.marksMade+1)
		l.mu.marksMade = min(2*l.mu.marksMade+1, mostMarks-1)
	}
	m := &l.mu.marks[0]
	l.mu.marks = l.mu.marks[1:]
	return m
}

// mostMarks are made at once: 1 KiB, which one that a reader keeps holds in memory.
const mostMarks = 32

// countLocked counts n appended bytes behind the last point, or with n < 0 that there is a new one.
func (l *Log) countLocked(n int64) {
	switch {
	case n < 0:
		l.dir.unpointed.Add(-l.mu.lazy)
		l.mu.sincePoint, l.mu.lazy = 0, 0
		return
	case !l.mu.cfg.FlushPolicy():
		l.mu.lazy += n
		l.dir.unpointed.Add(n)
	}
	l.mu.sincePoint += n
}

// foldBatchLocked is the part that recovery shares: index, epochs, producers,
// transaction index.
func (l *Log) foldBatchLocked(seg *segment, b record.Batch, pos, nowMs int64) {
	if seg.firstTsMs < 0 {
		seg.firstTsMs = b.MaxTimestampMs()
	}
	seg.noteBatch(b, pos, l.mu.cfg.IndexIntervalBytes)
	changed, err := l.mu.epochs.assign(b.LeaderEpoch(), b.BaseOffset())
	if err != nil {
		panic(fmt.Sprintf("BUG: %v: batch at %d was let in with an older epoch: %v", l.tp, b.BaseOffset(), err))
	}
	if changed {
		l.mu.epochsGen++
	}
	if b.Transactional() || b.Control() {
		l.settled.Store(false) // before the batch is below any reader's limit
	}
	if aborted, ok := l.mu.producers.apply(b, nowMs); ok {
		aborted.LastStableOffset = l.mu.producers.firstOpen(b.NextOffset())
		l.mu.aborted = append(l.mu.aborted, aborted)
	}
}

// activeLocked returns the segment that b goes to: the last one, or a new one if there
// is none or the last one is full or old.
func (l *Log) activeLocked(b record.Batch, nowMs int64) (*segment, error) {
	v := l.view.Load()
	if len(v.segments) == 0 {
		if err := l.makePresentLocked(); err != nil {
			return nil, err
		}
		return l.rollLocked(nowMs)
	}
	seg := v.segments[len(v.segments)-1]
	if l.fullLocked(seg, b, seg.size.Load(), 0, nowMs) {
		return l.rollLocked(nowMs)
	}
	return seg, nil
}

// fullLocked reports whether b must not be written at byte size of seg, where the index does not know the last ahead batches yet.
func (l *Log) fullLocked(seg *segment, b record.Batch, size int64, ahead int, nowMs int64) bool {
	cfg := l.mu.cfg
	if size == 0 {
		return false
	}
	if size+int64(b.Size()) > cfg.SegmentBytes || b.LastOffset()-seg.base > math.MaxInt32 {
		return true
	}
	if cfg.SegmentAge > 0 {
		since := nowMs - seg.createdMs
		if seg.firstTsMs >= 0 && b.MaxTimestampMs() >= 0 {
			since = b.MaxTimestampMs() - seg.firstTsMs
		}
		if since > cfg.SegmentAge.Milliseconds() {
			return true
		}
	}
	seg.idx.Lock()
	defer seg.idx.Unlock()
	return cfg.SegmentIndexBytes > 0 &&
		(int64(len(seg.idx.sparse.offsets)+ahead+1)*offsetEntryBytes > cfg.SegmentIndexBytes ||
			int64(len(seg.idx.sparse.times)+ahead+2)*timeEntryBytes > cfg.SegmentIndexBytes)
}

// makePresentLocked makes the partition's directory and records durably that there is
// data, before the first batch can be acknowledged (S9). Only the first append of a
// partition comes here; it holds mu over sync because there is nothing to append to before.
func (l *Log) makePresentLocked() error {
	if l.mu.present {
		return nil
	}
	fsys := l.dir.fs
	l.dir.forgetNames()
	err := func() error {
		if err := fsys.MkdirAll(l.path); err != nil {
			return err
		}
		if err := WriteTopicID(fsys, l.path, l.id); err != nil {
			return err
		}
		if err := fsys.SyncDir(l.dir.path); err != nil { // protection: name of the partition
			return err
		}
		return l.dir.manifest.add(kindPresent, l.key(), l.tp, nil, true) // protection: has data
	}()
	if err != nil {
		return l.dir.failed(err)
	}
	l.mu.present = true
	return nil
}

// Prepare makes what the first append makes, without appending, so that several logs can do so at the same time. What goes
// wrong the append finds again.
func (l *Log) Prepare() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.writableLocked() == nil && l.dir.room.admit(0, false) == nil {
		_ = l.makePresentLocked()
	}
}

// Fresh reports whether the log has no segment yet.
func (l *Log) Fresh() bool { return len(l.view.Load().segments) == 0 }

func (l *Log) key() partitionKey { return partitionKey{l.id, l.tp.Partition} }

// rollLocked begins a new segment at the log end. The name becomes durable with the
// next flush, before any record in it counts as flushed.
func (l *Log) rollLocked(nowMs int64) (*segment, error) {
	v, base := l.view.Load(), l.End()
	if n := len(v.segments); n > 0 {
		if err := l.mendLocked(v.segments[n-1]); err != nil {
			return nil, err
		}
	}
	seg := l.dir.newSegment(l.path, base)
	seg.createdMs = nowMs
	seg.appendedMs.Store(nowMs)
	f, err := l.dir.fs.Open(seg.path(logSuffix), vfs.Create)
	if err != nil {
		return nil, l.dir.failed(err)
	}
	// A file that is there already is one that a crash left before its name counted.
	if err := errors.Join(f.Truncate(0), f.Close()); err != nil {
		return nil, l.dir.failed(err)
	}
	seg.idx.sparse = &sparse{}
	if len(v.segments) == 0 {
		l.dir.startsChanged.Store(true)
	}
	if n := len(v.segments); n > 0 {
		old := v.segments[n-1]
		old.finishIndex()
		l.mu.seals = append(l.mu.seals, sealing{seg: old, next: base, snapshot: l.mu.producers.snapshot()})
		l.dir.requestPoint(l)
	}
	l.view.Store(&view{append(slices.Clone(v.segments), seg), v.logStart})
	l.mu.marks, l.mu.marksMade = nil, 0 // those beside them keep the segment before from being forgotten
	l.end.Store(&mark{offset: base, seg: seg})
	return seg, nil
}

// finishIndex adds the last time entry, as Kafka does when a segment becomes inactive.
func (s *segment) finishIndex() {
	s.idx.Lock()
	defer s.idx.Unlock()
	if s.idx.maxTsMs >= 0 {
		s.idx.sparse.addTime(s.idx.maxTsMs, uint32(s.idx.maxTsOffset-s.base))
	}
}

// armFlushLocked asks for a flush where flush.messages or flush.ms call for one. They
// are upper bounds: whoever waits for the records asks at once by RequestFlush.
func (l *Log) armFlushLocked() {
	cfg := l.mu.cfg
	if !cfg.FlushPolicy() {
		return
	}
	if l.End()-l.Flushed() >= cfg.FlushMessages {
		l.dir.flusher.request(l)
		return
	}
	if l.mu.timerSet {
		return
	}
	wait := cfg.FlushInterval
	if wait <= 0 {
		wait = time.Second // only a number is set: a second at the latest
	}
	l.mu.timerSet = true
	if l.mu.flushTimer == nil {
		l.mu.flushTimer = time.AfterFunc(wait, func() { l.dir.flusher.request(l) })
	} else {
		l.mu.flushTimer.Reset(wait)
	}
}

// RequestFlush asks that everything below upTo become durable, and returns at once.
// The hook given to OpenLog is called when Flushed has risen.
func (l *Log) RequestFlush(upTo int64) {
	if l.Flushed() < upTo {
		l.dir.flusher.request(l)
	}
}

// flush syncs the log's files: what was appended until now is durable in them. Called by the flusher, by the journal, by points and by Close.
func (l *Log) flush() error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	l.mu.Lock()
	if l.mu.retired {
		l.mu.Unlock()
		return ErrClosed
	}
	target := l.end.Load()
	l.mu.timerSet = false
	// The dirty segments are the last ones, but for an empty one that was just begun: the cost does not grow with the log.
	var dirty []*segment
	segments := l.view.Load().segments
	for i, s := range slices.Backward(segments) {
		if s.dirty {
			s.dirty = false
			dirty = append(dirty, s)
		} else if i < len(segments)-1 {
			break
		}
	}
	named := len(segments) == 0 || segments[len(segments)-1].named
	l.mu.Unlock()
	if err := l.dir.offline(); err != nil {
		return err
	}
	for _, s := range slices.Backward(dirty) {
		if err := s.sync(); err != nil {
			return l.dir.fence(err)
		}
	}
	if !named {
		if err := l.dir.fs.SyncDir(l.path); err != nil { // protection: directory sync
			return l.dir.fence(err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !named {
		for _, s := range slices.Backward(l.view.Load().segments) {
			if s.named {
				break
			}
			s.named = s.base <= target.seg.base
		}
	}
	if l.Flushed() < target.offset {
		l.safe.Store(target)
		if l.mu.cfg.FlushPolicy() {
			l.dir.noteFlushed(l)
		}
	}
	return nil
}

// tellFlushed tells the owner after a flush that ended with err, if it raised Flushed above before. Also after a failure: whoever
// waits must learn of the fence.
func (l *Log) tellFlushed(before int64, err error) {
	if err != nil || l.Flushed() != before {
		l.flushed()
	}
}

// tailState says what a log has for the journal.
type tailState int

const (
	tailNone  tailState = iota // everything is durable
	tailFits                   // a tail, which endTail must be called with
	tailAlone                  // something that must be synced by itself
)

// beginTail returns what was appended since the last flush, and keeps truncation away until endTail. Only
// bytes of a file whose name is durable and all of whose predecessors are synced go into the journal, and only batches of one leader epoch. It
// does not wait: one who commits for many must not wait for one.
func (l *Log) beginTail(maxBytes int64) (tail, tailState) {
	if !l.tailing.TryLock() {
		return tail{}, tailAlone
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	from, to := l.safe.Load(), l.end.Load()
	state := tailAlone
	switch {
	case l.mu.retired:
	case from.offset == to.offset:
		l.mu.timerSet = false
		state = tailNone
	case from.seg == to.seg && to.seg.named && to.pos-from.pos <= maxBytes && l.mu.epochs.at(from.offset) == l.mu.epochs.latest():
		l.mu.timerSet = false
		return tail{l, to.seg, from.offset, from.pos, to, l.mu.epochs.latest()}, tailFits
	}
	l.tailing.Unlock()
	return tail{}, state
}

// endTail lets truncation go on; if t is durable it counts as flushed. Its segment stays dirty.
func (l *Log) endTail(t tail, durable bool) {
	defer l.tailing.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if durable && l.Flushed() < t.to.offset {
		l.safe.Store(t.to)
		l.dir.noteFlushed(l)
	}
}

func (s *segment) sync() error {
	f, err := s.pin()
	if err != nil {
		return err
	}
	defer s.unpin()
	return f.Sync() // protection: file sync
}

// EndForEpoch answers OffsetForLeaderEpoch (KIP-101, KIP-279): the largest epoch <=
// epoch that the log knows, and where it ended; (-1, -1) if epoch is newer than all.
func (l *Log) EndForEpoch(epoch int32) (int32, int64) {
	if end := l.end.Load(); end.epoch1 > 0 && end.epoch1-1 == epoch {
		return epoch, end.offset // a newer epoch, if there is one, begins there; what consumers ask, and without the lock
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.epochs.endFor(epoch, l.End())
}

// EpochAt is the leader epoch of the record at offset, or -1.
func (l *Log) EpochAt(offset int64) int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.epochs.at(offset)
}

// LatestEpoch is the newest leader epoch in the log, or -1.
func (l *Log) LatestEpoch() int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.epochs.latest()
}

// Epochs is a copy of the leader epoch cache.
func (l *Log) Epochs() []EpochEntry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.mu.epochs.entries)
}

// LastStable is the first offset that a read_committed reader may not pass, given the
// high watermark.
func (l *Log) LastStable(highWatermark int64) int64 {
	if l.settled.Load() {
		return highWatermark
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	lso := l.mu.producers.lastStable(highWatermark)
	if !l.mu.producers.undecidedTxns() {
		l.settled.Store(true)
	}
	// A transaction that began below the log start cannot be read from its first record.
	return max(lso, min(l.Start(), highWatermark))
}

// Aborted lists the aborted transactions that overlap [from, upTo), as a
// read_committed fetch must report them, in the order of their markers.
func (l *Log) Aborted(from, upTo int64) []AbortedTxn {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []AbortedTxn
	i := sort.Search(len(l.mu.aborted), func(i int) bool { return l.mu.aborted[i].LastOffset >= from })
	for _, a := range l.mu.aborted[i:] {
		if a.FirstOffset < upTo {
			out = append(out, a)
		}
		if a.LastStableOffset >= upTo {
			break
		}
	}
	return out
}

// Producers is the number of producer ids that the log knows.
func (l *Log) Producers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.mu.producers.byID)
}

// partitionMetadataFile holds the topic id, as in Kafka.
const partitionMetadataFile = "partition.metadata"

func (d *Dir) partitionPath(tp TopicPartition) string { return path.Join(d.path, tp.String()) }

// Err says why the log takes no more appends: closed, deleted, or its log dir is offline.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writableLocked()
}
