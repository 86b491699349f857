package storage

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"sync"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

// Plan is a range of one segment that holds whole batches from the first, and possibly
// a cut one at its end. It stays readable until Release (S8). The zero Plan is empty.
type Plan struct {
	Region vfs.Region // where the range is, unless it was read
	Bytes  []byte     // what is there, if it was
	// BaseOffset is where the first batch begins: at or before the offset asked for.
	BaseOffset int64
	seg        *segment
	buf        *buffer // that Bytes is in
}

// Len is the number of bytes in the range.
func (p *Plan) Len() int64 { return p.Region.Len + int64(len(p.Bytes)) }

// Release lets go of the segment or the bytes. It must be called exactly once for a plan that is not empty.
func (p *Plan) Release() {
	if p.seg != nil {
		p.seg.unpin()
	}
	if p.buf != nil {
		p.buf.free()
	}
}

// Read plans a read of the batches from the one that holds from on, up to limit
// (exclusive, a batch boundary such as the high watermark) and maxBytes. With minOne the first batch is
// planned whole even if it is larger. A range of at most copyBytes that is below CopyBelow is read at once. ErrOffsetRange if from is before Start or behind
// End. An empty plan means that there is nothing below limit. It may wait for the disk; ReadNow does not.
func (l *Log) Read(from, limit int64, maxBytes int, minOne bool, copyBytes int) (Plan, error) {
	for {
		// End before view: every segment that end names is then in the view.
		end := l.end.Load()
		v := l.view.Load()
		plan, err := l.readView(v, end, from, limit, maxBytes, minOne, copyBytes, nil)
		if !l.outdated(v, err) {
			return plan, err
		}
	}
}

// outdated says that err came of a segment that has left the log since v was taken: the read
// has to look again.
func (l *Log) outdated(v *view, err error) bool {
	return errors.Is(err, ErrClosed) && l.view.Load() != v // protection: look again
}

func (l *Log) readView(v *view, end *mark, from, limit int64, maxBytes int, minOne bool, copyBytes int, r *Reader) (Plan, error) {
	if from < v.logStart || from > end.offset {
		return Plan{}, fmt.Errorf("%v: offset %d, the log has %d to %d: %w", l.tp, from, v.logStart, end.offset, ErrOffsetRange)
	}
	limit = min(limit, end.offset)
	if from >= limit || (maxBytes <= 0 && !minOne) {
		return Plan{}, nil
	}
	for i := v.find(from); i >= 0 && i < len(v.segments); i++ {
		plan, err := l.readSegment(v, i, end, from, limit, maxBytes, minOne, copyBytes, r)
		if err != nil || plan.Len() > 0 {
			return plan, err
		}
		if i+1 < len(v.segments) && v.segments[i+1].base < limit {
			if from >= l.gaps.Load() { // protection: a segment reaches the next one
				return Plan{}, l.damagedAt(v.segments[i], v.segments[i].size.Load(), fmt.Errorf("offset %d is in no batch: %w", from, errSequence))
			}
		}
	}
	return Plan{}, nil
}

// find returns the index of the segment that holds offset.
func (v *view) find(offset int64) int {
	return sort.Search(len(v.segments), func(i int) bool { return v.segments[i].base > offset }) - 1
}

func (l *Log) readSegment(v *view, i int, end *mark, from, limit int64, maxBytes int, minOne bool, copyBytes int, r *Reader) (Plan, error) {
	seg := v.segments[i]
	if seg.base >= limit {
		return Plan{}, nil
	}
	file, err := seg.pinFor(r)
	if r != nil && isCold(err) {
		return Plan{}, r.missed(seg, err)
	}
	if err != nil {
		return Plan{}, err
	}
	plan, at, err := l.readFile(v, i, file, end, from, limit, maxBytes, minOne, copyBytes, r)
	if plan.seg == nil {
		seg.unpin()
	}
	if r != nil && err == nil && r.scan && plan.Len() > 0 {
		r.passed(seg, at, at+plan.Len())
	}
	if r != nil && isCold(err) {
		return Plan{}, r.missed(seg, err)
	}
	if errors.Is(err, io.EOF) {
		return Plan{}, nil // nothing of this segment is at or behind from
	}
	if err != nil {
		return Plan{}, l.damagedAt(seg, at, err)
	}
	return plan, nil
}

// damagedAt is what a reader gets who met err at byte at of seg. If it comes of the bytes the scrub looks at them.
func (l *Log) damagedAt(seg *segment, at int64, err error) error {
	if isContent(err) && !seg.retired() {
		l.dir.scrubber.suspect(l, seg)
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return &CorruptionError{seg.path(logSuffix), at, err}
}

// readFile plans a read of segment i, whose file is pinned and stays so if the plan has a segment. at is
// where an error was found. io.EOF: there is no batch.
func (l *Log) readFile(v *view, i int, file vfs.File, end *mark, from, limit int64, maxBytes int, minOne bool, copyBytes int, r *Reader) (p Plan, at int64, err error) {
	seg := v.segments[i]
	var in io.ReaderAt = file
	if r != nil {
		r.file, r.need, in = file, 0, r
	}
	pos, stop, order, exact, err := l.locate(v, i, in, end, from, limit, r)
	if err != nil {
		return Plan{}, pos, err
	}
	if copyBytes > 0 && seg.pool.short() {
		maxBytes = min(maxBytes, CopyBelow) // what is read into memory keeps no file in use
	}
	if r != nil {
		r.need, r.stop = int64(maxBytes), stop
	}
	from = max(from, seg.base)
	if copyBytes > 0 {
		var ok bool
		if p, pos, ok, err = l.copyRange(v, seg, in, pos, stop, from, order, exact, maxBytes, minOne, copyBytes); ok || err != nil {
			return p, pos, err
		}
	}
	b, err := findBatch(in, pos, stop, from, order)
	if err != nil {
		return Plan{}, b.pos, err
	}
	n := min(stop-b.pos, int64(maxBytes))
	if n < b.size {
		if !minOne {
			return Plan{}, b.pos, nil // a cut batch is of no use to anybody
		}
		n = b.size
	}
	if r != nil {
		if n, err = r.firstResident(seg, b, n); err != nil {
			return Plan{}, b.pos, err
		}
	}
	return Plan{Region: vfs.Region{File: file, Off: b.pos, Len: n, Turns: l.dir.cold.turns}, BaseOffset: b.base, seg: seg}, b.pos, nil
}

// locate returns a byte range of segment i that ends before limit and begins at or before the batch that holds from:
// exactly there, if exact is set. order is what the batches there have to keep.
func (l *Log) locate(v *view, i int, file io.ReaderAt, end *mark, from, limit int64, r *Reader) (pos, stop int64, order batchOrder, exact bool, err error) {
	seg := v.segments[i]
	stop = seg.size.Load()
	if seg == end.seg {
		stop = end.pos
	}
	last := i == len(v.segments)-1
	wholeSegment := !last && limit >= v.segments[i+1].base || last && limit == end.offset
	if !wholeSegment {
		if stop, err = l.boundary(v, seg, file, stop, limit, r); err != nil {
			return stop, stop, order, false, err
		}
	}
	from = max(from, seg.base)
	if stop, err = seg.undamaged(from, stop); err != nil { // protection: damage is not served
		return stop, stop, order, false, err
	}
	gaps := l.gaps.Load()
	if pos, exact = l.places.find(v, seg, from); exact {
		return pos, stop, batchOrder{from, -1, gaps}, true, nil
	}
	pos, order, err = seg.positionFor(from, gaps, r)
	return pos, stop, order, false, err
}

// boundary returns where the first batch with an offset >= limit begins.
func (l *Log) boundary(v *view, seg *segment, file io.ReaderAt, size, limit int64, r *Reader) (int64, error) {
	if safe := l.safe.Load(); safe.offset == limit && safe.seg == seg {
		return safe.pos, nil // the common case: the high watermark is what was flushed
	}
	if pos, err := seg.undamaged(limit, size); err != nil {
		return pos, nil // limit is in damage, where whole batches end
	}
	if pos, ok := l.places.find(v, seg, limit); ok {
		return pos, nil
	}
	pos, order, err := seg.positionFor(limit, l.gaps.Load(), r)
	if err != nil {
		return 0, err
	}
	b, err := findBatch(file, pos, size, limit, order)
	if errors.Is(err, io.EOF) {
		return size, nil
	}
	return b.pos, err
}

// positionFor returns a byte position at or before the batch that holds offset, and what is known of the batch there.
func (s *segment) positionFor(offset, gaps int64, r *Reader) (pos int64, order batchOrder, err error) {
	err = s.withIndexFor(r, func(x *sparse, _ int64) { pos, order = x.begin(s.base, uint32(offset-s.base), gaps) })
	pos, order = s.behindDamage(pos, offset, order)
	return pos, order, err
}

// withIndexFor is withIndex; errPrepare if a reader who does not wait for the disk finds no index in memory.
func (s *segment) withIndexFor(r *Reader, f func(x *sparse, newestMs int64)) error {
	if r == nil {
		return s.withIndex(f)
	}
	s.idx.Lock()
	defer s.idx.Unlock()
	if s.idx.sparse == nil {
		return errPrepare
	}
	f(s.idx.sparse, s.idx.maxTsMs)
	return nil
}

// withIndex calls f with the sparse index and the largest timestamp of the segment
// (-1 if none). A sealed segment's index is read from its files, or rebuilt from its
// batches, and kept as long as the cache has room.
func (s *segment) withIndex(f func(x *sparse, newestMs int64)) error {
	s.idx.Lock()
	if s.idx.sparse != nil {
		defer s.idx.Unlock()
		f(s.idx.sparse, s.idx.maxTsMs)
		return nil
	}
	s.idx.Unlock()
	x, err := s.loadIndex()
	if err != nil {
		return err
	}
	newest := timeEntry{tsMs: -1}
	if last, ok := x.maxTime(); ok {
		newest = last
	}
	s.idx.Lock()
	if s.idx.sparse == nil {
		s.idx.sparse, s.idx.known = x, true
		s.idx.maxTsMs, s.idx.maxTsOffset = newest.tsMs, s.base+int64(newest.rel)
	}
	s.idx.Unlock()
	s.indexes.loaded(s, x)
	f(x, newest.tsMs)
	return nil
}

// newest is the largest timestamp of the segment's records, -1 if there is none.
func (s *segment) newest() (ms int64, err error) {
	s.idx.Lock()
	if s.idx.sparse != nil || s.idx.known {
		defer s.idx.Unlock()
		return s.idx.maxTsMs, nil
	}
	s.idx.Unlock()
	err = s.withIndex(func(_ *sparse, newestMs int64) { ms = newestMs })
	return ms, err
}

// indexMaxBytes bounds an index file that is read: an entry per byte would be absurd.
const indexMaxBytes = 1 << 28

func (s *segment) loadIndex() (*sparse, error) {
	x := &sparse{}
	err := func() error {
		offsets, found, err := readFile(s.fs, s.path(indexSuffix), indexMaxBytes)
		if err != nil || !found {
			return errors.Join(err, errIfMissing(found, s.path(indexSuffix)))
		}
		times, found, err := readFile(s.fs, s.path(timeSuffix), indexMaxBytes)
		if err != nil || !found {
			return errors.Join(err, errIfMissing(found, s.path(timeSuffix)))
		}
		if err := x.parseOffsets(offsets, s.size.Load()); err != nil {
			return &CorruptionError{s.path(indexSuffix), 0, err}
		}
		if err := x.parseTimes(times); err != nil {
			return &CorruptionError{s.path(timeSuffix), 0, err}
		}
		if s.retired() {
			return ErrClosed // the names may be those of another segment's files
		}
		return nil
	}()
	if err == nil {
		return x, nil
	}
	return s.rebuildIndex() // protection: index rebuild
}

func errIfMissing(found bool, name string) error {
	if found {
		return nil
	}
	return fmt.Errorf("%s: %w", name, ErrMissing)
}

// rebuildIndex derives the index of a sealed segment from its batch headers.
func (s *segment) rebuildIndex() (*sparse, error) {
	shadow := &segment{base: s.base}
	shadow.idx.sparse, shadow.idx.maxTsMs = &sparse{}, -1
	if err := s.indexInto(shadow, s.size.Load(), defaultIndexInterval); err != nil {
		return nil, err
	}
	shadow.finishIndex()
	return shadow.idx.sparse, nil
}

// indexInto notes every batch of s below byte end in the index of shadow.
func (s *segment) indexInto(shadow *segment, end, intervalBytes int64) error {
	file, err := s.pin()
	if err != nil {
		return err
	}
	defer s.unpin()
	for sc := (scanner{file: file, end: end}); ; {
		if d := s.damageAt(sc.pos); d != nil && d.End > sc.pos {
			sc.pos = d.End
			continue
		}
		h, err := sc.header()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &CorruptionError{s.path(logSuffix), sc.pos, err}
		}
		shadow.noteHeaderLocked(h, sc.pos, intervalBytes)
		sc.pos += int64(h.Size())
	}
}

const defaultIndexInterval = 4096

// TimestampOffset is a record found by time.
type TimestampOffset struct {
	Offset      int64
	TimestampMs int64
	LeaderEpoch int32
}

// ByTimestamp finds the first record below limit whose timestamp is >= tsMs, also
// when timestamps are out of order. ok is false if there is none.
func (l *Log) ByTimestamp(tsMs, limit int64) (found TimestampOffset, ok bool, err error) {
	err = l.lookUp(func(v *view, end *mark, r *Reader) error {
		found, ok, err = l.byTimestamp(v, end, tsMs, limit, r)
		return err
	})
	return found, ok, err
}

// lookUp runs a lookup without waiting for the disk, and if it has to wait, in turn with others.
func (l *Log) lookUp(do func(v *view, end *mark, r *Reader) error) (err error) {
	if err = l.lookNow(do); !isCold(err) {
		return err
	}
	l.dir.cold.inTurn(func() { err = l.look(do, nil) })
	return err
}

// lookNow runs a lookup without waiting for the disk; isCold tells that it would have to.
func (l *Log) lookNow(do func(v *view, end *mark, r *Reader) error) error {
	if l.dir.cold.noTry.Load() {
		return errPrepare
	}
	return l.look(do, &Reader{})
}

func (l *Log) look(do func(v *view, end *mark, r *Reader) error, r *Reader) error {
	for {
		end := l.end.Load()
		v := l.view.Load()
		if err := do(v, end, r); !l.outdated(v, err) {
			return err
		}
	}
}

// isCold says that err came of a reader that does not wait for the disk, where one that waits would go on.
func isCold(err error) bool {
	return errors.Is(err, vfs.ErrWouldBlock) || errors.Is(err, errPrepare) || errors.Is(err, errors.ErrUnsupported)
}

func (l *Log) byTimestamp(v *view, end *mark, tsMs, limit int64, rd *Reader) (found TimestampOffset, ok bool, err error) {
	gaps := l.gaps.Load()
	for _, seg := range v.segments {
		newest, from, order := int64(-1), int64(0), batchOrder{}
		if err := seg.withIndexFor(rd, func(x *sparse, newestMs int64) {
			newest = newestMs
			from, order = x.begin(seg.base, x.relBefore(tsMs), gaps)
		}); err != nil {
			return found, false, err
		}
		if newest < tsMs {
			continue
		}
		found, ok, err = l.scanForTime(seg, end, from, order, rd, func(r record.Record) bool {
			return r.TimestampMs >= tsMs && r.Offset >= v.logStart
		}, func(h record.Header) bool { return h.MaxTimestampMs() >= tsMs })
		if err != nil || ok {
			return found, ok && found.Offset < limit, err
		}
	}
	return found, false, nil
}

// MaxTimestamp finds the first record, from the log start on, that has the largest timestamp.
func (l *Log) MaxTimestamp() (found TimestampOffset, ok bool, err error) {
	err = l.lookUp(func(v *view, end *mark, r *Reader) error {
		found, ok, err = l.maxTimestamp(v, end, r)
		return err
	})
	return found, ok, err
}

func (l *Log) maxTimestamp(v *view, end *mark, rd *Reader) (found TimestampOffset, ok bool, err error) {
	var best *segment
	newest, at, order, gaps := int64(-1), int64(0), batchOrder{}, l.gaps.Load()
	for i, seg := range v.segments {
		if seg.base < v.logStart {
			if i+1 < len(v.segments) && v.segments[i+1].base <= v.logStart {
				continue
			}
			// The log start is inside: the index does not say what is newest behind it.
			ms, err := l.newestFrom(seg, end, v.logStart, rd)
			if err != nil {
				return found, false, err
			}
			if ms > newest {
				best, newest, at, order = seg, ms, 0, batchOrder{seg.base, -1, gaps}
			}
			continue
		}
		if err := seg.withIndexFor(rd, func(x *sparse, newestMs int64) {
			if newestMs > newest {
				best, newest = seg, newestMs
				at, order = x.begin(seg.base, x.relBefore(newestMs), gaps)
			}
		}); err != nil {
			return found, false, err
		}
	}
	if best == nil {
		return found, false, nil
	}
	return l.scanForTime(best, end, at, order, rd, func(r record.Record) bool { return r.TimestampMs == newest && r.Offset >= v.logStart },
		func(h record.Header) bool { return h.MaxTimestampMs() >= newest && h.LastOffset() >= v.logStart })
}

// newestFrom is the largest timestamp of the records of seg from offset on, -1 if there is none.
func (l *Log) newestFrom(seg *segment, end *mark, offset int64, rd *Reader) (newest int64, err error) {
	newest = -1
	_, _, err = l.scanForTime(seg, end, 0, batchOrder{seg.base, -1, l.gaps.Load()}, rd, func(r record.Record) bool {
		if r.Offset >= offset {
			newest = max(newest, r.TimestampMs)
		}
		return false
	}, func(h record.Header) bool { return h.LastOffset() >= offset && h.MaxTimestampMs() > newest })
	return newest, err
}

// pinTo is pinFor with what a lookup reads from, and up to which byte, in a log that ends there. After an error nothing is pinned.
func (s *segment) pinTo(end *mark, rd *Reader) (in io.ReaderAt, stop int64, err error) {
	file, err := s.pinFor(rd)
	if err != nil {
		return nil, 0, err
	}
	in, stop = file, s.size.Load()
	if rd != nil {
		rd.file, in = file, rd
	}
	if s == end.seg {
		stop = end.pos
	}
	return in, stop, nil
}

// scanForTime returns the first record from byte pos of seg on that is wanted, looking
// only into batches that may hold one.
func (l *Log) scanForTime(seg *segment, end *mark, pos int64, order batchOrder, rd *Reader, wanted func(record.Record) bool, batch func(record.Header) bool) (found TimestampOffset, ok bool, err error) {
	in, stop, err := seg.pinTo(end, rd)
	if err != nil {
		return found, false, err
	}
	defer seg.unpin()
	maxInflated := l.Config().MaxInflatedBytes
	errFound := errors.New("found")
	for sc := (scanner{file: in, pos: pos, end: stop}); ; {
		if d := seg.damageAt(sc.pos); d != nil {
			return found, false, &CorruptionError{seg.path(logSuffix), d.Pos, d.refusal()} // the record may be there
		}
		h, err := sc.header()
		if errors.Is(err, io.EOF) {
			return found, false, nil
		}
		if err == nil {
			err = order.take(h)
		}
		if err == nil && batch(h) {
			var b record.Batch
			if b, err = sc.batch(h); err == nil {
				err = b.CheckCRC() // protection: a time is that of the record
			}
			if err == nil {
				err = b.Each(maxInflated, func(r record.Record) error {
					if !wanted(r) {
						return nil
					}
					found = TimestampOffset{r.Offset, r.TimestampMs, h.LeaderEpoch()}
					return errFound
				})
			}
			if errors.Is(err, errFound) {
				return found, true, nil
			}
		}
		if err != nil {
			return found, false, l.damagedAt(seg, sc.pos, err)
		}
		sc.pos += int64(h.Size())
	}
}

// indexCache bounds the memory of sealed segments' indexes. Segments that have left their log do not stay for it: when the queue
// has doubled they are taken out.
type indexCache struct {
	mu    sync.Mutex // guards the following; a leaf
	queue []loadedIndex
	bytes int64
	limit int64
	sweep int // length of the queue at which retired segments are taken out
}

// sweepFrom is the shortest queue that is searched for retired segments.
const sweepFrom = 64

// loadedIndex is an index in memory; a segment that was truncated may have another by now.
type loadedIndex struct {
	seg   *segment
	index *sparse
}

// loaded notes that the index of a sealed segment is in memory and drops the oldest
// ones beyond the limit. Called without locks.
func (c *indexCache) loaded(s *segment, x *sparse) {
	c.mu.Lock()
	c.queue = append(c.queue, loadedIndex{s, x})
	c.bytes += x.sizeBytes()
	if len(c.queue) >= max(c.sweep, sweepFrom) {
		c.queue = slices.DeleteFunc(c.queue, func(e loadedIndex) bool {
			if e.seg.gone.Load() {
				c.bytes -= e.index.sizeBytes()
				return true
			}
			return false
		})
		c.sweep = 2 * len(c.queue)
	}
	var drop []loadedIndex
	for c.bytes > c.limit && len(c.queue) > 1 {
		drop = append(drop, c.queue[0])
		c.bytes -= c.queue[0].index.sizeBytes()
		c.queue = c.queue[1:]
	}
	c.mu.Unlock()
	for _, old := range drop {
		old.seg.idx.Lock()
		if old.seg.idx.sparse == old.index {
			old.seg.idx.sparse = nil
		}
		old.seg.idx.Unlock()
	}
}
