package storage

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

// walk reads the batches of a segment, all of them, in pieces of bounded size, and checks whatever can be checked. Where the bytes are damaged
// it looks for the next batch that is whole and goes on there.
type walk struct {
	file vfs.File
	size int64 // of the segment
	next int64 // offset behind the batch before; at first the segment's base
	// limit is where the next segment begins: no batch reaches it. MaxInt64 for the last one.
	limit int64
	// durable is the offset behind a batch behind which there may be anything, because it was the last one that was known to be synced; 0: none.
	durable int64
	gaps    int64                    // below it offsets may be missing, see scanStart
	epoch   func(offset int64) int32 // leader epoch of an offset, -1 where it is not known; nil: not known

	buf []byte // bytes of the file from at on
	at  int64
}

// walkPieceBytes is what a walk reads at a time.
const walkPieceBytes = 256 << 10

// searchPieceBytes is what a walk reads at a time where the disk fails.
const searchPieceBytes = 4 << 10

// run gives every good batch to each and every damaged range to bad. An error of the two, or errInterrupted of the file, ends it.
func (w *walk) run(each func(h record.Header, pos int64) error, bad func(d Damage) error) error {
	for pos := int64(0); pos < w.size; {
		h, err := w.batch(pos)
		if err == nil && h.BaseOffset() > w.next && w.overtakes(h, pos) {
			err = fmt.Errorf("offset %d is behind that of the next batch: %w", h.BaseOffset(), errSequence)
		}
		if errors.Is(err, errInterrupted) {
			return err
		}
		if err == nil {
			if err := each(h, pos); err != nil {
				return err
			}
			w.next = h.NextOffset()
			pos += int64(h.Size())
			continue
		}
		d := Damage{Pos: pos, First: w.next, Err: err}
		if d.End, d.Next, err = w.resync(pos); err != nil {
			return err
		}
		if err := bad(d); err != nil {
			return err
		}
		w.next, pos = d.Next, d.End
	}
	if w.limit < math.MaxInt64 && w.next < w.limit && w.next >= w.gaps {
		why := fmt.Errorf("%w: the next segment begins at offset %d, this one ends at %d", ErrMissing, w.limit, w.next)
		return bad(Damage{Pos: w.size, End: w.size, First: w.next, Next: w.limit, Err: why})
	}
	return nil
}

// batch checks the batch that begins at pos. The header is valid until the next call.
func (w *walk) batch(pos int64) (record.Header, error) {
	h, err := w.header(pos)
	if err != nil {
		return nil, err
	}
	if h.BaseOffset() < w.next || h.BaseOffset() > w.next && w.next >= w.gaps || h.LastOffset() < h.BaseOffset() {
		return nil, fmt.Errorf("offsets %d to %d after %d: %w", h.BaseOffset(), h.LastOffset(), w.next, errSequence)
	}
	if h.LastOffset() >= w.limit {
		return nil, fmt.Errorf("offsets %d to %d, the next segment begins at %d: %w", h.BaseOffset(), h.LastOffset(), w.limit, errSequence)
	}
	if w.epoch != nil && h.LeaderEpoch() != -1 { // none, from before there were any
		if want := w.epoch(h.BaseOffset()); want >= 0 && want != h.LeaderEpoch() {
			return nil, fmt.Errorf("leader epoch %d at offset %d, where it was %d: %w", h.LeaderEpoch(), h.BaseOffset(), want, errSequence)
		}
	}
	h = append(record.Header(nil), h...) // the pieces of the batch may take its place
	crc, err := w.crc(pos+record.CRCStart, pos+int64(h.Size()))
	if err == nil && crc != h.CRC() {
		err = fmt.Errorf("%w: stored crc = %d, computed crc = %d", record.ErrCorrupt, h.CRC(), crc)
	}
	return h, err
}

// overtakes says that the batch behind the one at pos continues the one before it: the offset of the one at pos, which no CRC
// covers, is wrong. Only where offsets may be missing has this to be asked.
func (w *walk) overtakes(h record.Header, pos int64) bool {
	behind, err := w.header(pos + int64(h.Size()))
	return err == nil && behind.BaseOffset() >= w.next && behind.BaseOffset() <= h.LastOffset()
}

// header is that of the batch at pos, if the file has all of it.
func (w *walk) header(pos int64) (record.Header, error) {
	if left := w.size - pos; left < record.HeaderSize {
		return nil, fmt.Errorf("%d bytes are left: %w", left, record.ErrShort)
	}
	p, err := w.piece(pos, record.HeaderSize)
	if err != nil {
		return nil, err
	}
	h, err := record.HeaderOf(p)
	if err == nil && int64(h.Size()) > w.size-pos {
		err = fmt.Errorf("batch of %d bytes, %d are left: %w", h.Size(), w.size-pos, record.ErrShort)
	}
	return h, err
}

func (w *walk) crc(from, to int64) (crc uint32, err error) {
	for from < to {
		n := min(walkPieceBytes, to-from)
		if have := w.at + int64(len(w.buf)) - from; have > 0 && from >= w.at {
			n = min(n, have)
		}
		p, err := w.piece(from, int(n))
		if err != nil {
			return 0, err
		}
		crc = crc32.Update(crc, castagnoli, p)
		from += int64(len(p))
	}
	return crc, nil
}

// piece returns the n bytes at pos, at most walkPieceBytes.
func (w *walk) piece(pos int64, n int) ([]byte, error) {
	if pos >= w.at && pos+int64(n) <= w.at+int64(len(w.buf)) {
		return w.buf[pos-w.at:][:n], nil
	}
	if w.buf == nil {
		w.buf = make([]byte, 0, min(walkPieceBytes, max(w.size, record.HeaderSize)))
	}
	w.at = pos
	w.buf = w.buf[:min(int64(cap(w.buf)), max(w.size-pos, 0))]
	got, err := w.file.ReadAt(w.buf, pos)
	w.buf = w.buf[:got]
	if got >= n {
		return w.buf[:n], nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("read at byte %d: %w", pos+int64(got), err)
}

// resync finds where the next good batch begins behind the damage at pos, and its offset; the end of the segment if there is none.
func (w *walk) resync(pos int64) (end, next int64, err error) {
	gaps := w.gaps
	w.gaps = math.MaxInt64 // how many offsets the damage has taken is not known
	defer func() { w.gaps = gaps }()
	if h, err := w.header(pos); err == nil {
		// Mostly the length is right. If the offset behind it does not say so too, the search decides.
		at := pos + int64(h.Size())
		if at == w.size {
			return w.size, w.limit, nil
		}
		want := w.next + int64(h.LastOffsetDelta()) + 1
		if h, err := w.batch(at); err == nil && h.BaseOffset() == want {
			return at, want, nil
		} else if errors.Is(err, errInterrupted) {
			return 0, 0, err
		}
	}
	for pos++; w.size-pos >= record.HeaderSize; {
		p, err := w.piece(pos, int(min(walkPieceBytes, w.size-pos)))
		if errors.Is(err, errInterrupted) {
			return 0, 0, err
		}
		if err != nil {
			if p, err = w.piece(pos, int(min(searchPieceBytes, w.size-pos))); err != nil {
				pos += searchPieceBytes // the disk does not give it
				continue
			}
		}
		at, h, err := w.search(pos, len(p))
		if err != nil {
			return 0, 0, err
		}
		if h != nil {
			return at, h.BaseOffset(), nil
		}
		pos += int64(max(len(p)-record.HeaderSize+1, 1))
	}
	return w.size, w.limit, nil
}

// search looks for a good batch that begins in the n bytes at pos. It must be followed by another, or by the end: what a record holds may look like a batch too.
func (w *walk) search(pos int64, n int) (int64, record.Header, error) {
	const magicAt = 16
	for off := 0; off+record.HeaderSize <= n; off++ {
		p, err := w.piece(pos, n) // a candidate's check may have read something else
		if err != nil {
			return 0, nil, nil
		}
		i := bytes.IndexByte(p[off+magicAt:n], 2)
		if i < 0 {
			return 0, nil, nil
		}
		if off += i; off+record.HeaderSize > n {
			return 0, nil, nil
		}
		h, err := record.HeaderOf(p[off:])
		if err != nil || h.BaseOffset() < w.next || h.LastOffset() < h.BaseOffset() || h.LastOffset() >= w.limit {
			continue
		}
		at := pos + int64(off)
		h, err = w.batch(at)
		if errors.Is(err, errInterrupted) {
			return 0, nil, err
		}
		if err != nil {
			continue
		}
		behind := at + int64(h.Size())
		if _, err := w.header(behind); err == nil || behind == w.size || h.NextOffset() == w.durable {
			return at, h, nil
		}
	}
	return 0, nil, nil
}
