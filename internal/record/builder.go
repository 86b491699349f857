package record

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// RecordHeader is one header of a record. A nil value means null.
type RecordHeader struct {
	Key   string
	Value []byte
}

// Builder makes one batch. Take it from NewBuilder: the zero value means producer id 0, which is a
// real one. Set the fields before Finish. A Builder may be used again after Reset.
type Builder struct {
	Codec Codec
	Level int // of the codec, as in Kafka's compression.*.level; 0 is the default

	ProducerID    int64 // -1: not idempotent
	ProducerEpoch int16
	BaseSequence  int32
	BaseOffset    int64
	LeaderEpoch   int32
	Transactional bool
	Control       bool

	// LastOffset keeps the last offset of a batch from which compaction removes records; it counts
	// where it is larger than that of the last record added.
	LastOffset int64
	// DeleteHorizonMs is when the tombstones in the batch may go; 0 means not set.
	DeleteHorizonMs int64

	buf       []byte // header and plain records
	scratch   []byte
	count     int32
	lastDelta int64 // -1 before the first record
	baseMs    int64
	maxMs     int64
	err       error
}

// NewBuilder returns an empty builder for a batch without a producer id, at offset 0.
func NewBuilder(c Codec) *Builder {
	b := &Builder{Codec: c, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, LeaderEpoch: -1}
	b.Reset()
	return b
}

// Reset forgets the records and keeps the exported fields.
func (b *Builder) Reset() {
	b.buf = append(b.buf[:0], make([]byte, HeaderSize)...)
	b.count, b.lastDelta, b.baseMs, b.maxMs, b.err = 0, -1, 0, NoTimestamp, nil
}

// Count is the number of records added.
func (b *Builder) Count() int { return int(b.count) }

// Size is the size of the batch so far, before compression.
func (b *Builder) Size() int { return max(HeaderSize, len(b.buf)) }

// Add appends a record at the next offset. The arguments are copied; a nil key or value is null.
func (b *Builder) Add(timestampMs int64, key, value []byte, headers ...RecordHeader) {
	h := binary.AppendVarint(nil, int64(len(headers)))
	for _, kv := range headers {
		h = binary.AppendVarint(h, int64(len(kv.Key)))
		h = append(h, kv.Key...)
		h = appendBytes(h, kv.Value)
	}
	if len(b.buf) == 0 {
		b.Reset()
	}
	b.AddRecord(Record{Offset: b.BaseOffset + b.lastDelta + 1, TimestampMs: timestampMs, Key: key, Value: value, Headers: h})
}

// AddRecord appends r at its own offset, which must be at least BaseOffset and beyond the last one.
func (b *Builder) AddRecord(r Record) {
	if len(b.buf) == 0 {
		b.Reset()
	}
	delta := r.Offset - b.BaseOffset
	if b.err == nil && (delta <= b.lastDelta || delta > math.MaxInt32) {
		b.err = fmt.Errorf("%w: offset %d in a batch at %d after delta %d", ErrInvalid, r.Offset, b.BaseOffset, b.lastDelta)
	}
	if b.err != nil {
		return
	}
	if b.count == 0 {
		b.baseMs = r.TimestampMs
		if b.DeleteHorizonMs != 0 {
			b.baseMs = b.DeleteHorizonMs
		}
	}
	s := append(b.scratch[:0], 0) // attributes
	s = binary.AppendVarint(s, r.TimestampMs-b.baseMs)
	s = binary.AppendVarint(s, delta)
	s = appendBytes(s, r.Key)
	s = appendBytes(s, r.Value)
	if len(r.Headers) == 0 {
		s = append(s, 0)
	}
	s = append(s, r.Headers...)
	b.scratch = s
	b.buf = binary.AppendVarint(b.buf, int64(len(s)))
	b.buf = append(b.buf, s...)
	b.count++
	b.lastDelta = delta
	b.maxMs = max(b.maxMs, r.TimestampMs)
}

func appendBytes(dst, p []byte) []byte {
	if p == nil {
		return binary.AppendVarint(dst, -1)
	}
	return append(binary.AppendVarint(dst, int64(len(p))), p...)
}

// Finish returns the batch, in bytes of its own. A batch without records is what compaction leaves of a
// producer's last one; its offsets are BaseOffset to LastOffset.
func (b *Builder) Finish() (Batch, error) {
	if len(b.buf) == 0 {
		b.Reset()
	}
	if b.err != nil {
		return nil, b.err
	}
	attrs := uint16(0)
	if b.Transactional {
		attrs |= attrTransactional
	}
	if b.Control {
		attrs |= attrControl
	}
	baseMs := b.baseMs
	if b.DeleteHorizonMs != 0 {
		attrs |= attrDeleteHorizon
		baseMs = b.DeleteHorizonMs
	} else if b.count == 0 {
		baseMs = NoTimestamp
	}
	last := max(b.lastDelta, b.LastOffset-b.BaseOffset, 0)
	if last > math.MaxInt32 {
		return nil, fmt.Errorf("%w: offsets %d to %d in one batch", ErrInvalid, b.BaseOffset, b.LastOffset)
	}
	h := make([]byte, HeaderSize, len(b.buf)+64)
	binary.BigEndian.PutUint64(h[posBaseOffset:], uint64(b.BaseOffset))
	binary.BigEndian.PutUint32(h[posLeaderEpoch:], uint32(b.LeaderEpoch))
	h[posMagic] = magicV2
	binary.BigEndian.PutUint16(h[posAttributes:], attrs)
	binary.BigEndian.PutUint32(h[posLastOffsetDelta:], uint32(last))
	binary.BigEndian.PutUint64(h[posBaseTimestamp:], uint64(baseMs))
	binary.BigEndian.PutUint64(h[posMaxTimestamp:], uint64(b.maxMs))
	binary.BigEndian.PutUint64(h[posProducerID:], uint64(b.ProducerID))
	binary.BigEndian.PutUint16(h[posProducerEpoch:], uint16(b.ProducerEpoch))
	binary.BigEndian.PutUint32(h[posBaseSequence:], uint32(b.BaseSequence))
	binary.BigEndian.PutUint32(h[posCount:], uint32(b.count))
	codec := b.Codec
	if b.count == 0 {
		codec = None // Kafka writes no compressed stream of nothing
	}
	return seal(h, codec, b.Level, b.buf[HeaderSize:])
}

// seal appends the records to the header h and fills in codec, length and CRC.
func seal(h []byte, c Codec, level int, records []byte) (Batch, error) {
	out, err := deflate(h, c, level, records)
	if err != nil {
		return nil, err
	}
	if len(out) > math.MaxInt32-LogOverhead {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(out))
	}
	b := Batch(out)
	binary.BigEndian.PutUint16(b[posAttributes:], uint16(b.Attributes()&^attrCodec)|uint16(c))
	binary.BigEndian.PutUint32(b[posLength:], uint32(len(b)-LogOverhead))
	b.sealCRC()
	return b, nil
}

// Recompress returns b with its records compressed by c, in bytes of its own; all else stays. Kafka never
// does this to a control batch. At most maxInflated bytes are inflated (0: DefaultMaxInflatedBytes).
func Recompress(b Batch, c Codec, level int, maxInflated int64) (Batch, error) {
	if c < None || c > Zstd {
		return nil, fmt.Errorf("%w: %s", ErrCompression, c)
	}
	records := []byte(b[HeaderSize:])
	if b.Codec() != None && b.Count() > 0 {
		in, err := openInflater(b.Codec(), records, maxInflated)
		if err != nil {
			return nil, err
		}
		records, err = io.ReadAll(in)
		in.close()
		if err != nil {
			return nil, err
		}
	}
	if b.Count() == 0 {
		c = None
	}
	h := make([]byte, HeaderSize, len(records)+HeaderSize+64)
	copy(h, b)
	return seal(h, c, level, records)
}
