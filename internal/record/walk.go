package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Record is one record of a batch. Key, Value and Headers are views; nil means null.
type Record struct {
	Offset, TimestampMs int64
	Key, Value          []byte
	Headers             []byte // encoded, see EachHeader
}

// walker reads records from memory (src is nil, buf holds everything) or from a stream
// (buf is a window over it). Its error is sticky: after the first, every read returns zero.
type walker struct {
	buf      []byte
	pos, end int   // buf[pos:end] is unread
	before   int64 // bytes of the stream before buf[0]
	src      io.Reader
	err      error
}

var errEnds = fmt.Errorf("%w: Incorrect declared batch size, premature EOF reached", ErrInvalid)

// offset is the number of bytes read so far.
func (w *walker) offset() int64 { return w.before + int64(w.pos) }

func (w *walker) fail(err error) {
	if w.err == nil {
		w.err = err
	}
	w.pos = w.end
	w.src = nil
}

// fill makes n unread bytes available if the stream has them, moving what is unread to the
// front and growing the buffer step by step as bytes arrive, never at once to a claimed length.
func (w *walker) fill(n int) {
	if w.src == nil || w.end-w.pos >= n {
		return
	}
	copy(w.buf, w.buf[w.pos:w.end])
	w.before += int64(w.pos)
	w.end -= w.pos
	w.pos = 0
	for idle := 0; w.end < n; idle++ {
		if w.end == len(w.buf) {
			w.buf = append(w.buf, make([]byte, len(w.buf))...)
		}
		got, err := w.src.Read(w.buf[w.end:])
		w.end += got
		switch {
		case errors.Is(err, io.EOF):
			w.src = nil
			return
		case err != nil:
			w.fail(err)
			return
		case got > 0:
			idle = 0
		case idle >= maxIdleReads:
			w.fail(fmt.Errorf("%w: %w", ErrInvalid, io.ErrNoProgress))
			return
		}
	}
}

// maxIdleReads is how often in a row a decoder may return neither bytes nor an error.
const maxIdleReads = 100

// more says whether anything is left.
func (w *walker) more() bool {
	w.fill(1)
	return w.end > w.pos
}

func (w *walker) byte() byte {
	w.fill(1)
	if w.pos >= w.end {
		w.fail(errEnds)
		return 0
	}
	c := w.buf[w.pos]
	w.pos++
	return c
}

// varlong reads a zigzag varint of at most 64 bits.
func (w *walker) varlong() int64 {
	// One or two bytes are by far the most common lengths.
	if p := w.buf[w.pos:w.end]; len(p) >= 2 {
		if p[0] < 0x80 {
			w.pos++
			return int64(p[0]>>1) ^ -int64(p[0]&1)
		}
		if p[1] < 0x80 {
			w.pos += 2
			u := int64(p[0]&0x7f) | int64(p[1])<<7
			return u>>1 ^ -(u & 1)
		}
	}
	return w.longVarint()
}

func (w *walker) longVarint() int64 {
	w.fill(binary.MaxVarintLen64)
	v, n := binary.Varint(w.buf[w.pos:w.end])
	if n <= 0 {
		w.fail(fmt.Errorf("%w: variable-length integer at byte %d of the records", ErrInvalid, w.offset()))
		return 0
	}
	w.pos += n
	return v
}

// varint reads a zigzag varint of at most 32 bits.
func (w *walker) varint() int32 {
	v := w.varlong()
	if int64(int32(v)) != v {
		w.failWide(v)
		return 0
	}
	return int32(v)
}

func (w *walker) failWide(v int64) {
	w.fail(fmt.Errorf("%w: integer %d at byte %d of the records does not fit 32 bits", ErrInvalid, v, w.offset()))
}

// bytes passes over n bytes: a view of them when all is in memory. A negative n is Kafka's null.
func (w *walker) bytes(n int32) []byte {
	if n < 0 {
		return nil
	}
	if at := w.pos; int(n) <= w.end-at {
		w.pos += int(n)
		return w.buf[at:w.pos:w.pos]
	}
	return w.farBytes(int(n))
}

func (w *walker) farBytes(left int) []byte {
	for {
		have := w.end - w.pos
		if have >= left {
			v := w.buf[w.pos : w.pos+left : w.pos+left]
			w.pos += left
			return v
		}
		if w.src == nil {
			w.fail(errEnds)
			return nil
		}
		left -= have
		w.pos = w.end
		w.fill(1)
	}
}

// fields are the parts of one record; the views are valid only when the walker is in memory.
type fields struct {
	timestampDelta int64
	offsetDelta    int32
	keyLen         int32 // negative: null
	key, value     []byte
	headers        []byte
}

// record reads the next record, whole; what is wrong with it is in w.err.
func (w *walker) record(f *fields) {
	n := w.varint()
	if n < 0 {
		w.fail(fmt.Errorf("%w: Invalid record size %d", ErrInvalid, n))
	}
	w.body(f, int64(n))
}

func (w *walker) body(f *fields, n int64) {
	start := w.offset()
	w.byte() // record attributes: unused
	f.timestampDelta = w.varlong()
	f.offsetDelta = w.varint()
	f.keyLen = w.varint()
	f.key = w.bytes(f.keyLen)
	f.value = w.bytes(w.varint())
	at := w.pos
	w.headers(n)
	if w.err != nil {
		return
	}
	if got := w.offset() - start; got != n {
		w.fail(fmt.Errorf("%w: Invalid record size: expected to read %d bytes in record payload, but instead read %d", ErrInvalid, n, got))
		return
	}
	if w.src == nil && at <= w.pos {
		f.headers = w.buf[at:w.pos:w.pos]
	}
}

// headers reads the headers of a record of n bytes.
func (w *walker) headers(n int64) {
	count := w.varint()
	if count < 0 || int64(count) > n {
		w.fail(fmt.Errorf("%w: Found invalid number of record headers %d", ErrInvalid, count))
	}
	for ; count > 0 && w.err == nil; count-- {
		keyLen := w.varint()
		if keyLen < 0 {
			w.fail(fmt.Errorf("%w: Invalid negative header key size %d", ErrInvalid, keyLen))
		}
		w.bytes(keyLen)
		w.bytes(w.varint())
	}
}

// Each calls f for every record, in order, and stops at f's first error, which it returns as it is.
// The record's views end with the call of f if the batch is compressed, else with the batch.
// At most maxInflated bytes are inflated (0: DefaultMaxInflatedBytes), else ErrTooLarge.
// Each does not check the CRC.
func (b Batch) Each(maxInflated int64, f func(Record) error) error {
	count := b.Count()
	if count < 0 {
		return fmt.Errorf("%w: record count %d", ErrInvalid, count)
	}
	if count == 0 {
		return nil
	}
	w := walker{buf: b[HeaderSize:], end: len(b) - HeaderSize}
	if c := b.Codec(); c != None {
		in, err := openInflater(c, b[HeaderSize:], maxInflated)
		if err != nil {
			return err
		}
		w = walker{buf: in.window(), src: in}
		defer func() { in.keep(w.buf); in.close() }()
	}
	base, baseMs, maxMs, appendTime := b.BaseOffset(), b.BaseTimestampMs(), b.MaxTimestampMs(), b.LogAppendTime()
	for range count {
		n := w.varint()
		if n < 0 {
			return fmt.Errorf("%w: Invalid record size %d", ErrInvalid, n)
		}
		w.fill(int(n)) // the whole record side by side, for the views
		if w.err == nil && w.end-w.pos < int(n) {
			w.fail(errEnds)
		}
		if w.err != nil {
			return w.err
		}
		one := walker{buf: w.buf[w.pos : w.pos+int(n) : w.pos+int(n)], end: int(n)}
		w.pos += int(n)
		var r fields
		one.body(&r, int64(n))
		if one.err != nil {
			return one.err
		}
		rec := Record{Offset: base + int64(r.offsetDelta), TimestampMs: baseMs + r.timestampDelta, Key: r.key, Value: r.value, Headers: r.headers}
		if appendTime {
			rec.TimestampMs = maxMs
		}
		if err := f(rec); err != nil {
			return err
		}
	}
	if w.more() {
		return errRemaining
	}
	return w.err
}

var errRemaining = fmt.Errorf("%w: Incorrect declared batch size, records still remaining in file", ErrInvalid)

// EachHeader calls f for every header of Record.Headers, in order; value is a view, nil means null.
func EachHeader(h []byte, f func(key string, value []byte) error) error {
	if len(h) == 0 {
		return nil
	}
	w := walker{buf: h, end: len(h)}
	count := w.varint()
	if count < 0 || int(count) > len(h) {
		return fmt.Errorf("%w: Found invalid number of record headers %d", ErrInvalid, count)
	}
	for range count {
		keyLen := w.varint()
		if w.err == nil && keyLen < 0 {
			return fmt.Errorf("%w: Invalid negative header key size %d", ErrInvalid, keyLen)
		}
		key := w.bytes(keyLen)
		value := w.bytes(w.varint())
		if w.err != nil {
			return w.err
		}
		if err := f(string(key), value); err != nil {
			return err
		}
	}
	if w.more() {
		return fmt.Errorf("%w: %d bytes after the last header", ErrInvalid, w.end-w.pos)
	}
	return w.err
}
