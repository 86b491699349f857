package storage

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"moldau/internal/record"
)

// A small range is read when it is planned: the bytes are then at hand to look for batches in, so that
// finding the first one and reading it are one read.

// CopyBelow is the size from which a range is better sent from its file than read into memory (measured: a tie
// from 64 to 128 KiB).
const CopyBelow = 128 << 10

// copyAheadBytes is what is read beyond a range whose first byte is only known by an index entry before it.
const copyAheadBytes = 8 << 10

// places remembers where a log's readers stopped, so that one who reads on needs no lookup. An entry
// counts only under the view in which it was learned: every change of what a byte position means, such as a truncation, makes
// a new view.
type places struct {
	mu      sync.Mutex // guards the following; a leaf, held for moments
	view    *view
	entries *[8]place // nil before the first
}

// place says that the first batch with an offset >= offset begins, or will begin, at byte pos of seg.
type place struct {
	offset int64
	seg    *segment
	pos    int64
}

// slot spreads offsets, which are often multiples of something, over the entries.
func (p *places) slot(offset int64) *place {
	return &p.entries[uint64(offset)*0x9E3779B97F4A7C15>>61]
}

func (p *places) find(v *view, seg *segment, offset int64) (pos int64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.entries == nil {
		return 0, false
	}
	e := p.slot(offset)
	return e.pos, p.view == v && e.seg == seg && e.offset == offset // protection: places
}

func (p *places) learn(v *view, at place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.entries == nil {
		p.entries = new([8]place)
	}
	if p.view != v {
		p.view, *p.entries = v, [8]place{}
	}
	*p.slot(at.offset) = at
}

// buffers lends the memory of plans that were read.
type buffers struct {
	pools  [len(bufferClasses)]sync.Pool
	poison bool // overwrite what is given back, so that a use after Release shows
}

var bufferClasses = [...]int{4 << 10, 16 << 10, 64 << 10, CopyBelow + copyAheadBytes}

type buffer struct {
	bytes []byte
	class int
	of    *buffers
}

// get returns a buffer of at least n bytes, n <= CopyBelow + copyAheadBytes.
func (b *buffers) get(n int) *buffer {
	class := 0
	for n > bufferClasses[class] {
		class++
	}
	if x, _ := b.pools[class].Get().(*buffer); x != nil {
		return x
	}
	return &buffer{make([]byte, bufferClasses[class]), class, b}
}

func (x *buffer) free() {
	if x.of.poison {
		for i := range x.bytes {
			x.bytes[i] = 0xDB
		}
	}
	x.of.pools[x.class].Put(x)
}

// copyRange is readSegment for a range that is below copyBytes: pos is at or before the batch that holds from, exactly
// there if exact is set, and stop is where the range ends at the latest. ok is false if it turns out to be
// larger. io.EOF: there is no batch. The plan holds whole batches only, if the first is whole.
func (l *Log) copyRange(v *view, seg *segment, file io.ReaderAt, pos, stop, from int64, order batchOrder, exact bool, maxBytes int, minOne bool, copyBytes int) (p Plan, at int64, ok bool, err error) {
	want := min(stop-pos, int64(max(maxBytes, record.HeaderSize)))
	if !exact {
		want = min(stop-pos, want+copyAheadBytes)
	}
	if want > int64(min(copyBytes, CopyBelow))+copyAheadBytes {
		return Plan{}, pos, false, nil
	}
	if want < record.HeaderSize {
		return Plan{}, pos, true, endOfBatches(want)
	}
	buf := l.dir.buffers.get(int(want))
	defer func() {
		if p.buf == nil {
			buf.free()
		}
	}()
	have := buf.bytes[:want]
	if err := readFull(file, have, pos); err != nil {
		return Plan{}, pos, true, err
	}
	var h record.Header
	for {
		if len(have) < record.HeaderSize {
			if int64(len(have)) == stop-pos {
				return Plan{}, pos, true, endOfBatches(stop - pos)
			}
			return Plan{}, pos, false, nil // the batch begins behind what was read
		}
		if h, err = record.HeaderOf(have); err != nil {
			return Plan{}, pos, true, err
		}
		if int64(h.Size()) > stop-pos {
			return Plan{}, pos, true, fmt.Errorf("batch of %d bytes, %d are left: %w", h.Size(), stop-pos, record.ErrShort)
		}
		if err = order.take(h); err != nil {
			return Plan{}, pos, true, err
		}
		if h.LastOffset() >= from {
			break
		}
		n := int64(h.Size())
		have = have[min(n, int64(len(have))):]
		if pos += n; len(have) == 0 && pos < stop {
			return Plan{}, pos, false, nil
		}
	}
	n := min(stop-pos, int64(maxBytes))
	if first := int64(h.Size()); n < first {
		if !minOne {
			return Plan{}, pos, true, nil // a cut batch is of no use to anybody
		}
		n = first
	}
	if n > int64(min(copyBytes, CopyBelow)) {
		return Plan{}, pos, false, nil
	}
	base := h.BaseOffset()
	if n > int64(len(have)) {
		if int64(len(buf.bytes)) < n {
			buf.free()
			buf = l.dir.buffers.get(int(n))
		}
		have = buf.bytes[:n]
		if err := readFull(file, have, pos); err != nil {
			return Plan{}, pos, true, err
		}
	}
	have = have[:n]
	order.next = base
	if whole, next := wholeBatches(have, order); whole > 0 {
		have = have[:whole]
		l.places.learn(v, place{next, seg, pos + int64(whole)})
	}
	return Plan{BaseOffset: base, Bytes: have, buf: buf}, pos, true, nil
}

// endOfBatches is the error where no header is left in a range that ends with a batch.
func endOfBatches(left int64) error {
	if left > 0 {
		return fmt.Errorf("%d bytes are left: %w", left, record.ErrShort)
	}
	return io.EOF
}

// wholeBatches returns how many bytes of p are whole batches, each of which continues the one before, and the offset behind them.
func wholeBatches(p []byte, order batchOrder) (n int, next int64) {
	for len(p)-n >= record.HeaderSize {
		h, err := record.HeaderOf(p[n:])
		if err != nil || h.Size() > len(p)-n || order.take(h) != nil {
			break // who reads on from here learns what is wrong
		}
		n += h.Size()
		next = h.NextOffset()
	}
	return n, next
}

// readFull reads all of p.
func readFull(file io.ReaderAt, p []byte, off int64) error {
	n, err := file.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}
