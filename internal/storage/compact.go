package storage

import (
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

// errInterrupted ends a compaction that somebody wants to end; the next one begins anew.
var errInterrupted = errors.New("compaction was interrupted")

// compactable is what a compaction of a log would work on. Segments are cleaned whole.
type compactable struct {
	view       *view
	cfg        LogConfig
	dirty      int64 // first offset that was never compacted
	end        int64 // first offset that may not be compacted yet: a segment begins there
	cleanBytes int64
	dirtyBytes int64
	overdue    bool // max.compaction.lag.ms has passed for the oldest dirty record
}

// ratio is the share of what was never compacted.
func (c *compactable) ratio() float64 {
	if c.cleanBytes+c.dirtyBytes == 0 {
		return 0
	}
	return float64(c.dirtyBytes) / float64(c.cleanBytes+c.dirtyBytes)
}

// due says whether it is time to compact.
func (c *compactable) due() bool {
	return c.dirtyBytes > 0 && (c.overdue || c.ratio() > c.cfg.MinDirtyRatio)
}

// compactable looks at what there is to do: what lies below the last stable offset, in
// segments that are closed and, with min.compaction.lag.ms, old enough.
func (l *Log) compactable(nowMs int64) (compactable, error) {
	l.rollOverdue(nowMs)
	limit := l.LastStable(l.committed.Load())
	l.mu.Lock()
	c := compactable{view: l.view.Load(), cfg: *l.mu.cfg, dirty: l.mu.cleaned.dirty}
	l.mu.Unlock()
	segments := c.view.segments
	if len(segments) == 0 || !c.cfg.CleanupCompact {
		return c, nil
	}
	c.dirty = max(c.dirty, c.view.logStart)
	c.end = segments[0].base
	for i, s := range segments[:len(segments)-1] {
		next := segments[i+1].base
		if next > limit { // protection: only what is decided is compacted
			break
		}
		if next > c.dirty {
			if young, err := s.young(nowMs, c.cfg.MinCompactionLag); err != nil || young {
				return c, err
			}
			if err := c.checkOverdue(s, nowMs); err != nil {
				return c, err
			}
		}
		c.end = next
		if next > c.dirty {
			c.dirtyBytes += s.size.Load()
		} else {
			c.cleanBytes += s.size.Load()
		}
	}
	if c.dirtyBytes > 0 {
		return c, l.refuseDamaged(c.view, c.end)
	}
	return c, nil
}

// young says that a record of s is newer than lag; one from the future is as old as its append.
func (s *segment) young(nowMs int64, lag time.Duration) (bool, error) {
	if lag <= 0 {
		return false, nil
	}
	ts, err := s.newest()
	if appended := s.appendedMs.Load(); ts < 0 || ts > appended {
		ts = appended
	}
	return nowMs-ts < lag.Milliseconds(), err
}

func (c *compactable) checkOverdue(s *segment, nowMs int64) error {
	if c.overdue || c.cfg.MaxCompactionLag <= 0 || c.cfg.MaxCompactionLag == math.MaxInt64 {
		return nil
	}
	file, err := s.pin()
	if err != nil {
		return err
	}
	defer s.unpin()
	sc := scanner{file: file, end: s.size.Load()}
	h, err := sc.header()
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return &CorruptionError{s.path(logSuffix), 0, err}
	}
	c.overdue = h.MaxTimestampMs() > 0 && nowMs-h.MaxTimestampMs() > c.cfg.MaxCompactionLag.Milliseconds()
	return nil
}

// rollOverdue closes the last segment when its first record has to be compacted by now; Kafka does so only
// when the next record comes.
func (l *Log) rollOverdue(nowMs int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	segments, cfg := l.view.Load().segments, l.mu.cfg
	if len(segments) == 0 || !cfg.CleanupCompact || cfg.MaxCompactionLag <= 0 || cfg.MaxCompactionLag == math.MaxInt64 || l.writableLocked() != nil {
		return
	}
	s := segments[len(segments)-1]
	if s.size.Load() > 0 && s.firstTsMs > 0 && nowMs-s.firstTsMs > cfg.MaxCompactionLag.Milliseconds() {
		_, _ = l.rollLocked(nowMs) // it is tried again, and appends say what is wrong
	}
}

// pauseCleaning ends a compaction of this log that is under way and lets none begin until resume is called.
func (l *Log) pauseCleaning() (resume func()) {
	l.cleanStops.Add(1)
	l.cleaning.Lock()
	return func() {
		l.cleanStops.Add(-1)
		l.cleaning.Unlock()
	}
}

// compaction is one pass over one log.
type compaction struct {
	l     *Log
	c     compactable
	nowMs int64
	pace  *pacer

	keys *keyMap
	upTo int64 // the map speaks for the offsets below
	txns *txnFilter
	last map[int64]lastBatches // of each live producer
	keep []bool                // scratch: which records of a batch stay
	out  *cleanedSegment

	stats passStats
}

// lastBatches is where a producer's last batch ends, and the last one that is committed: what
// is behind that may be cut off. Both are -1 for a producer of which there is only a marker.
type lastBatches struct {
	offset, committed int64
	epoch             int16
}

type passStats struct {
	readBytes, writtenBytes int64
	records, kept           int64
	keys                    int
	mapBytes                int64
}

// compact runs one pass: it maps the keys of as many dirty segments as fit the budget, and then writes every
// segment below anew with only the last record of each of these keys. It reports whether
// there was anything to do. A pass may end early at any time; each group of segments is replaced at once.
func (l *Log) compact(nowMs int64, budgetBytes int64, loadFactor float64, pace *pacer) (passStats, bool, error) {
	l.cleaning.Lock()
	defer l.cleaning.Unlock()
	c, err := l.compactable(nowMs)
	if err != nil || c.dirtyBytes == 0 {
		return passStats{}, false, err
	}
	p := &compaction{l: l, c: c, nowMs: nowMs, pace: pace}
	err = p.run(budgetBytes, loadFactor)
	if errors.Is(err, ErrClosed) {
		err = errInterrupted // a segment has left the log meanwhile
	}
	return p.stats, true, err
}

// check ends the pass when somebody asks for it.
func (p *compaction) check() error {
	if p.l.cleanStops.Load() > 0 || p.pace.stopped() {
		return errInterrupted
	}
	return nil
}

func (p *compaction) run(budgetBytes int64, loadFactor float64) error {
	if err := p.prepare(); err != nil {
		return err
	}
	segments := p.c.view.segments
	segments = segments[:slices.IndexFunc(segments, func(s *segment) bool { return s.base == p.c.end })]
	if err := p.mapKeys(segments, budgetBytes, loadFactor); err != nil {
		return err
	}
	segments = slices.DeleteFunc(slices.Clone(segments), func(s *segment) bool { return s.base >= p.upTo })
	// From here on offsets may be missing below the end of these segments (see scanStart).
	end := p.next(segments[len(segments)-1])
	if err := p.l.setCleaned(func(c cleaned) cleaned { return cleaned{c.dirty, max(c.gaps, end)} }); err != nil {
		return err
	}
	p.txns = newTxnFilter(p.l.Aborted(segments[0].base, math.MaxInt64))
	groups, err := p.group(segments)
	if err != nil {
		return err
	}
	for _, g := range groups {
		if err := p.cleanGroup(g); err != nil {
			return err
		}
	}
	return p.l.setCleaned(func(c cleaned) cleaned { return cleaned{max(c.dirty, p.upTo), c.gaps} })
}

// prepare makes durable what recovery needs so that it never has to read a segment below the
// end of the pass, and notes the last batch of each producer, which stays.
func (p *compaction) prepare() error {
	l := p.l
	l.files.Lock()
	defer l.files.Unlock()
	if l.pointSegment < p.c.end {
		if err := l.savePointFiles(); err != nil {
			return err
		}
	}
	// Without a flush policy the high watermark is ahead of the disk. A marker up there decides which records count down here; it
	// must not be lost when what it made superfluous is.
	if l.Flushed() < l.committed.Load() { // protection: compaction goes by what is durable
		if err := l.flush(); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	p.last = make(map[int64]lastBatches, len(l.mu.producers.byID))
	for id, q := range l.mu.producers.byID {
		e := lastBatches{-1, -1, q.epoch}
		for _, m := range q.window {
			e.offset = m.lastOffset
			if m.lastOffset < l.committed.Load() {
				e.committed = m.lastOffset
			}
		}
		p.last[id] = e
	}
	return nil
}

// next is the base offset of the segment behind s.
func (p *compaction) next(s *segment) int64 {
	segments := p.c.view.segments
	return segments[slices.Index(segments, s)+1].base
}

// setCleaned changes how far compaction has come, durably.
func (l *Log) setCleaned(change func(cleaned) cleaned) error {
	l.files.Lock()
	defer l.files.Unlock()
	l.mu.Lock()
	old := l.mu.cleaned
	l.mu.Unlock()
	c := change(old)
	if c == old {
		return nil
	}
	if err := l.dir.manifest.add(kindCleaned, l.key(), l.tp, c.encode(), true); err != nil { // protection: gaps
		return l.dir.failed(err)
	}
	l.mu.Lock()
	l.setCleanedLocked(c)
	l.mu.Unlock()
	return nil
}

func (l *Log) setCleanedLocked(c cleaned) {
	l.mu.cleaned = c
	l.gaps.Store(c.gaps)
}

// mapKeys fills the map from the first dirty offset on, until it is full or at the end. Aborted
// records do not count. A batch counts only whole.
func (p *compaction) mapKeys(segments []*segment, budgetBytes int64, loadFactor float64) error {
	p.keys = newKeyMap(budgetBytes, loadFactor, p.c.end-p.c.dirty, p.c.dirty)
	p.upTo = p.c.dirty
	p.stats.mapBytes = int64(len(p.keys.slots)) * keySlotBytes
	txns := newTxnFilter(p.l.Aborted(p.c.dirty, math.MaxInt64))
	for _, s := range segments {
		if p.next(s) <= p.c.dirty {
			continue
		}
		full, err := p.mapSegment(s, txns)
		if err != nil {
			return err
		}
		if full {
			break
		}
		p.upTo = p.next(s)
	}
	p.stats.keys = p.keys.count
	if p.upTo == p.c.dirty {
		return fmt.Errorf("%v: the batch at offset %d has more keys than log.cleaner.dedupe.buffer.size=%d has room for; make it larger", p.l.tp, p.upTo, budgetBytes)
	}
	return nil
}

var errMapFull = errors.New("the map is full")

func (p *compaction) mapSegment(s *segment, txns *txnFilter) (full bool, err error) {
	err = p.eachBatch(s, func(b record.Batch, _ bool) error {
		if b.NextOffset() <= p.c.dirty {
			return nil
		}
		if b.Control() {
			txns.marker(b)
		} else if !txns.data(b) { // protection: aborted records make nothing superfluous
			err := b.Each(p.c.cfg.MaxInflatedBytes, func(r record.Record) error {
				if r.Key != nil && r.Offset >= p.c.dirty && !p.keys.put(r.Key, r.Offset) {
					return errMapFull
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		p.upTo = max(p.upTo, b.NextOffset())
		return nil
	})
	if errors.Is(err, errMapFull) {
		return true, nil
	}
	return false, err
}

// eachBatch reads the batches of a closed segment, with their CRC checked; last says that there is none behind.
func (p *compaction) eachBatch(s *segment, f func(b record.Batch, last bool) error) error {
	file, err := s.pin()
	if err != nil {
		return err
	}
	defer s.unpin()
	next, limit := s.base, p.next(s)
	for sc := (scanner{file: file, end: s.size.Load()}); ; {
		if err := p.check(); err != nil {
			return err
		}
		h, err := sc.header()
		if errors.Is(err, io.EOF) {
			return nil
		}
		var b record.Batch
		if err == nil {
			b, err = sc.batch(h)
		}
		if err == nil {
			err = b.CheckCRC() // protection: CRC in compaction
		}
		// No CRC covers the offset. A wrong one would become what the new segment says.
		if err == nil && (b.BaseOffset() < next || b.LastOffset() < b.BaseOffset() || b.LastOffset() >= limit) { // protection: order in compaction
			err = fmt.Errorf("offsets %d to %d after %d, the next segment begins at %d: %w", b.BaseOffset(), b.LastOffset(), next, limit, errSequence)
		}
		if err != nil {
			return &CorruptionError{s.path(logSuffix), sc.pos, err}
		}
		next = b.NextOffset()
		size := int64(b.Size())
		p.stats.readBytes += size
		p.pace.pay(size)
		if err := f(b, sc.pos+size == sc.end); errors.Is(err, errMapFull) || errors.Is(err, errInterrupted) {
			return err
		} else if err != nil {
			return fmt.Errorf("%s, batch at byte %d: %w", s.path(logSuffix), sc.pos, err)
		}
		sc.pos += size
	}
}

// group puts neighbours together that fit into one segment, by bytes, by the size of the
// indexes and by the range of offsets that an index can hold.
func (p *compaction) group(segments []*segment) (groups [][]*segment, err error) {
	var bytes, offsets, times int64
	for _, s := range segments {
		var o, t int64
		if err := s.withIndex(func(x *sparse, _ int64) {
			o, t = int64(len(x.offsets))*offsetEntryBytes, int64(len(x.times))*timeEntryBytes
		}); err != nil {
			return nil, err
		}
		size := s.size.Load()
		n := len(groups)
		if n == 0 || bytes+size > p.c.cfg.SegmentBytes || p.next(s)-1-groups[n-1][0].base > math.MaxInt32 ||
			p.c.cfg.SegmentIndexBytes > 0 && (offsets+o > p.c.cfg.SegmentIndexBytes || times+t > p.c.cfg.SegmentIndexBytes) {
			groups = append(groups, nil)
			n++
			bytes, offsets, times = 0, 0, 0
		}
		groups[n-1] = append(groups[n-1], s)
		bytes, offsets, times = bytes+size, offsets+o, times+t
	}
	return groups, nil
}

// cleanGroup writes one new segment and puts it in the place of the old ones.
func (p *compaction) cleanGroup(group []*segment) (err error) {
	var bytes int64
	for _, s := range group {
		bytes += s.size.Load()
	}
	if err := p.l.dir.room.fits(bytes); err != nil {
		return err
	}
	p.out, err = p.l.newCleanedSegment(group[0].base, p.c.cfg.IndexIntervalBytes)
	if err != nil {
		return p.l.dir.failed(err)
	}
	for _, s := range group {
		p.out.appendedMs = max(p.out.appendedMs, s.appendedMs.Load())
		if err := p.eachBatch(s, func(b record.Batch, last bool) error {
			return p.cleanBatch(b, last && s == group[len(group)-1])
		}); err != nil {
			p.out.discard()
			return err
		}
	}
	if len(group) == 1 && !p.out.changed {
		p.out.discard()
		return nil
	}
	if err := p.out.finish(); err != nil {
		p.out.discard()
		return p.l.dir.failed(err)
	}
	return p.l.replace(group, p.out)
}

// cleanBatch decides what of b stays and writes that. The last batch of a group stays, if need be without
// records: so a segment says by itself up to where it reaches. The last batch of a live producer stays
// because its sequence number counts.
func (p *compaction) cleanBatch(b record.Batch, lastOfGroup bool) error {
	var drop, horizon bool
	if b.Control() {
		needless, entry := p.txns.marker(b)
		drop = needless && b.DeleteHorizon() && b.BaseTimestampMs() <= p.nowMs // protection: markers stay for a while
		horizon = needless && b.Count() > 0 && !b.DeleteHorizon()
		if entry != nil {
			p.out.aborted = append(p.out.aborted, *entry)
		}
	} else {
		drop = p.txns.data(b) // protection: aborted records go
	}
	p.keep = p.keep[:0]
	kept := 0
	if !drop {
		tombstone := false
		err := b.Each(p.c.cfg.MaxInflatedBytes, func(r record.Record) error {
			stays := b.Control() || p.stays(b, r)
			p.keep = append(p.keep, stays)
			if stays {
				kept++
				tombstone = tombstone || r.Value == nil && !b.Control()
			}
			return nil
		})
		if err != nil {
			return err
		}
		horizon = horizon || tombstone && !b.DeleteHorizon()
	}
	p.stats.records += int64(b.Count())
	p.stats.kept += int64(kept)
	if kept == int(b.Count()) && !horizon && (kept > 0 || lastOfGroup || p.isLast(b)) {
		return p.write(b)
	}
	p.out.changed = true
	if kept == 0 && !lastOfGroup && !p.isLast(b) {
		return nil
	}
	b, err := p.rebuild(b, kept, horizon)
	if err != nil {
		return err
	}
	return p.write(b)
}

// stays is Kafka's rule for one record: the last one of its key stays, a tombstone until its horizon.
func (p *compaction) stays(b record.Batch, r record.Record) bool {
	if r.Offset >= p.upTo {
		return true
	}
	if r.Key == nil {
		return false // from before the topic was compacted
	}
	if last, known := p.keys.get(r.Key); known && r.Offset < last {
		return false
	}
	return r.Value != nil || !b.DeleteHorizon() || p.nowMs < b.BaseTimestampMs() // protection: tombstones stay for a while
}

// isLast says whether b is the last batch of a live producer.
func (p *compaction) isLast(b record.Batch) bool {
	e, live := p.last[b.ProducerID()]
	if b.ProducerID() < 0 || !live {
		return false
	}
	if e.offset < 0 {
		return b.Control() && b.ProducerEpoch() == e.epoch
	}
	if e.committed < 0 {
		return true // what is known of it may be cut off; then any of these may turn out to be the last
	}
	return b.LastOffset() == e.offset || b.LastOffset() == e.committed // protection: last batch of a producer
}

// rebuild is b with only the records that stay, at their offsets, in the codec of b.
func (p *compaction) rebuild(b record.Batch, kept int, horizon bool) (record.Batch, error) {
	nb := record.NewBuilder(b.Codec())
	nb.ProducerID, nb.ProducerEpoch, nb.BaseSequence = b.ProducerID(), b.ProducerEpoch(), b.BaseSequence()
	nb.BaseOffset, nb.LastOffset, nb.LeaderEpoch = b.BaseOffset(), b.LastOffset(), b.LeaderEpoch()
	nb.Transactional, nb.Control = b.Transactional(), b.Control()
	if kept > 0 && b.DeleteHorizon() {
		nb.DeleteHorizonMs = b.BaseTimestampMs()
	} else if kept > 0 && horizon {
		nb.DeleteHorizonMs = p.nowMs + p.c.cfg.DeleteRetention.Milliseconds()
	}
	if kept > 0 {
		i := 0
		err := b.Each(p.c.cfg.MaxInflatedBytes, func(r record.Record) error {
			if p.keep[i] {
				nb.AddRecord(r)
			}
			i++
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	out, err := nb.Finish()
	if err != nil {
		return nil, err
	}
	switch {
	case b.LogAppendTime():
		out.SetLogAppendTime(b.MaxTimestampMs())
	case kept == 0:
		out.SetMaxTimestamp(b.MaxTimestampMs()) // when its producer wrote last
	}
	return out, nil
}

func (p *compaction) write(b record.Batch) error {
	p.stats.writtenBytes += int64(b.Size())
	p.pace.pay(int64(b.Size()))
	if err := p.out.write(b); err != nil {
		return p.l.dir.failed(err)
	}
	return nil
}

// pacer keeps background reading and writing at a rate.
type pacer struct {
	stop      <-chan struct{} // nil: never
	perSecond func() float64  // nil: no limit
	debt      int64
}

func (p *pacer) stopped() bool {
	if p.stop == nil {
		return false
	}
	select {
	case <-p.stop:
		return true
	default:
		return false
	}
}

// pay waits for as long as n bytes take at the rate in force; short waits are saved up.
func (p *pacer) pay(n int64) {
	if p.perSecond == nil {
		return
	}
	p.debt += n
	rate := p.perSecond()
	if wait := time.Duration(float64(p.debt) / max(rate, 1) * float64(time.Second)); wait > 10*time.Millisecond {
		p.debt = 0
		timer := time.NewTimer(min(wait, time.Second))
		defer timer.Stop()
		if wait > time.Second {
			p.debt = int64((wait - time.Second).Seconds() * rate)
		}
		select {
		case <-p.stop:
		case <-timer.C:
		}
	}
}

// cleanedSegment is a segment in the making.
type cleanedSegment struct {
	l          *Log
	seg        *segment
	file       vfs.File
	buf        []byte
	pos        int64 // in the file, of the end of buf
	interval   int64
	aborted    []AbortedTxn
	appendedMs int64
	changed    bool // it differs from what it was made of
}

// cleanedBufferBytes is what is written at a time.
const cleanedBufferBytes = 1 << 20

func (l *Log) newCleanedSegment(base, interval int64) (*cleanedSegment, error) {
	s := l.dir.newSegment(l.path, base)
	s.idx.sparse = &sparse{}
	f, err := l.dir.fs.Open(s.path(logSuffix)+cleanedSuffix, vfs.Create)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &cleanedSegment{l: l, seg: s, file: f, interval: interval}, nil
}

func (c *cleanedSegment) write(b record.Batch) error {
	c.seg.noteBatch(b, c.pos, c.interval)
	c.buf = append(c.buf, b...)
	c.pos += int64(b.Size())
	if len(c.buf) >= cleanedBufferBytes {
		return c.drain()
	}
	return nil
}

func (c *cleanedSegment) drain() error {
	if len(c.buf) == 0 {
		return nil
	}
	_, err := c.file.WriteAt(c.buf, c.pos-int64(len(c.buf)))
	c.buf = c.buf[:0]
	return err
}

// finish writes what is left, the indexes and the transaction index, all durable except for their names.
func (c *cleanedSegment) finish() error {
	s, fsys := c.seg, c.l.dir.fs
	if err := c.drain(); err != nil {
		return err
	}
	if err := c.file.Sync(); err != nil { // protection: cleaned sync
		return err
	}
	s.finishIndex()
	s.idx.known = true
	s.size.Store(c.pos)
	s.appendedMs.Store(c.appendedMs)
	s.createdMs, s.named = c.appendedMs, true
	s.saved.offsets, s.saved.times = len(s.idx.sparse.offsets), len(s.idx.sparse.times)
	var txns []byte
	for _, a := range c.aborted {
		txns = appendTxnEntry(txns, a)
	}
	err := errors.Join(
		fsys.SetModTime(s.path(logSuffix)+cleanedSuffix, time.UnixMilli(c.appendedMs)),
		replaceTail(fsys, s.path(indexSuffix)+cleanedSuffix, 0, s.idx.sparse.appendOffsets(nil, 0)),
		replaceTail(fsys, s.path(timeSuffix)+cleanedSuffix, 0, s.idx.sparse.appendTimes(nil, 0)))
	if err == nil && len(txns) > 0 {
		err = replaceTail(fsys, s.path(txnSuffix)+cleanedSuffix, 0, txns)
	}
	return err
}

// discard removes the files; what cannot be removed now goes at the next start.
func (c *cleanedSegment) discard() {
	_ = c.file.Close()
	for _, suffix := range segmentSuffixes {
		if name := c.seg.path(suffix) + cleanedSuffix; exists(c.l.dir.fs, name) {
			_ = c.l.dir.fs.Remove(name)
		}
	}
}

func exists(fsys vfs.FS, name string) bool {
	_, err := fsys.Stat(name)
	return err == nil
}
