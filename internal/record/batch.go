// Package record knows the record batch, format version 2: how one lies in bytes, what
// makes one valid, and how its records are compressed. It works on views over the bytes
// that came from the wire or the disk; nothing is decoded into objects on the way through.
//
// Door: Parse cuts a batch off a byte slice, Validate decides whether a producer may append
// it, Each walks its records, Builder and Recompress make new ones.
//
// Invariants:
//  1. A Batch made by Parse is exactly one whole batch of format version 2: its length field
//     is its length, and all accessors are safe.
//  2. Nothing is allocated by a claimed length: buffers grow with the bytes that are really
//     there, and inflation stops at the caller's limit.
//  3. Every batch that Validate accepts can be read by Kafka's own decoders.
//
// The only variables of the package are constant tables and pools of codecs.
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

const (
	// HeaderSize is the number of bytes before the first record.
	HeaderSize = 61
	// LogOverhead is the number of bytes that the length field does not count: base offset and length.
	LogOverhead = 12
	// CRCStart is where the bytes begin that a batch's CRC covers.
	CRCStart = posAttributes
	// magicV2 is the only format version that is written since Kafka 4.0.
	magicV2 = 2
)

// Positions of the header's fields. All integers are big endian.
const (
	posBaseOffset      = 0
	posLength          = 8
	posLeaderEpoch     = 12
	posMagic           = 16
	posCRC             = 17
	posAttributes      = 21 // the CRC covers everything from here on
	posLastOffsetDelta = 23
	posBaseTimestamp   = 27
	posMaxTimestamp    = 35
	posProducerID      = 43
	posProducerEpoch   = 51
	posBaseSequence    = 53
	posCount           = 57
)

// Bits of the attributes.
const (
	attrCodec         = 0x07
	attrLogAppendTime = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
	attrDeleteHorizon = 0x40
)

// NoTimestamp is the timestamp of a record that has none.
const NoTimestamp = -1

// Every error of this package wraps one of these, with the field and its value.
var (
	ErrShort       = errors.New("record: bytes end before the batch does")
	ErrCorrupt     = errors.New("record: batch is corrupt")           // CORRUPT_MESSAGE
	ErrMagic       = errors.New("record: batch format is not 2")      // INVALID_RECORD from a producer
	ErrInvalid     = errors.New("record: batch is invalid")           // INVALID_RECORD
	ErrTimestamp   = errors.New("record: timestamp is out of range")  // INVALID_TIMESTAMP
	ErrTooLarge    = errors.New("record: batch is too large")         // MESSAGE_TOO_LARGE
	ErrCompression = errors.New("record: compression is not allowed") // UNSUPPORTED_COMPRESSION_TYPE
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header is a view of a batch's first HeaderSize bytes, for scanning a file without reading its records.
type Header []byte

// HeaderOf returns the header at the start of p, which need not hold the whole batch. It
// checks what Parse checks, except that the bytes after the header are there.
func HeaderOf(p []byte) (Header, error) {
	if len(p) <= posMagic {
		return nil, fmt.Errorf("%w: %d bytes", ErrShort, len(p))
	}
	if m := int8(p[posMagic]); m != magicV2 {
		return nil, fmt.Errorf("%w: magic %d", ErrMagic, m)
	}
	if n := int32(binary.BigEndian.Uint32(p[posLength:])); n < HeaderSize-LogOverhead || n > math.MaxInt32-LogOverhead {
		return nil, fmt.Errorf("%w: length %d, at least %d", ErrCorrupt, n, HeaderSize-LogOverhead)
	}
	if len(p) < HeaderSize {
		return nil, fmt.Errorf("%w: %d bytes", ErrShort, len(p))
	}
	return Header(p[:HeaderSize:HeaderSize]), nil
}

func (h Header) int64(pos int) int64 { return int64(binary.BigEndian.Uint64(h[pos:])) }
func (h Header) int32(pos int) int32 { return int32(binary.BigEndian.Uint32(h[pos:])) }
func (h Header) int16(pos int) int16 { return int16(binary.BigEndian.Uint16(h[pos:])) }

// Size is the length of the whole batch in bytes.
func (h Header) Size() int { return LogOverhead + int(h.int32(posLength)) }

// BaseOffset is the offset of the first record, even if compaction removed that record.
func (h Header) BaseOffset() int64 { return h.int64(posBaseOffset) }

// LastOffset is the offset of the last record, even if compaction removed that record.
func (h Header) LastOffset() int64 { return h.BaseOffset() + int64(h.LastOffsetDelta()) }

// NextOffset is the base offset of the batch that may follow.
func (h Header) NextOffset() int64 { return h.LastOffset() + 1 }

// LastOffsetDelta is LastOffset minus BaseOffset.
func (h Header) LastOffsetDelta() int32 { return h.int32(posLastOffsetDelta) }

// LeaderEpoch is the epoch of the leader that appended the batch. The CRC does not cover it.
func (h Header) LeaderEpoch() int32 { return h.int32(posLeaderEpoch) }

// CRC is the stored CRC-32C of everything from the attributes on.
func (h Header) CRC() uint32 { return binary.BigEndian.Uint32(h[posCRC:]) }

// Attributes are the raw bits; the accessors below name those that have a meaning.
func (h Header) Attributes() int16 { return h.int16(posAttributes) }

// Codec is how the records are compressed; it may be one that does not exist.
func (h Header) Codec() Codec { return Codec(h.Attributes() & attrCodec) }

// LogAppendTime says that all records have the timestamp MaxTimestampMs, set by a broker.
func (h Header) LogAppendTime() bool { return h.Attributes()&attrLogAppendTime != 0 }

// Transactional says that the records are visible only once their transaction has committed.
func (h Header) Transactional() bool { return h.Attributes()&attrTransactional != 0 }

// Control says that the batch holds a broker's marker and not a client's records.
func (h Header) Control() bool { return h.Attributes()&attrControl != 0 }

// DeleteHorizon says that the cleaner stored in BaseTimestampMs when tombstones may go (KIP-534).
func (h Header) DeleteHorizon() bool { return h.Attributes()&attrDeleteHorizon != 0 }

// BaseTimestampMs is what the timestamps of the records are relative to.
func (h Header) BaseTimestampMs() int64 { return h.int64(posBaseTimestamp) }

// MaxTimestampMs is the largest timestamp of the records, or NoTimestamp.
func (h Header) MaxTimestampMs() int64 { return h.int64(posMaxTimestamp) }

// ProducerID is -1 when the producer is not idempotent.
func (h Header) ProducerID() int64 { return h.int64(posProducerID) }

// ProducerEpoch is -1 when the producer is not idempotent.
func (h Header) ProducerEpoch() int16 { return h.int16(posProducerEpoch) }

// BaseSequence is the sequence number of the first record, -1 when there is none.
func (h Header) BaseSequence() int32 { return h.int32(posBaseSequence) }

// LastSequence is the sequence number of the last record, -1 when there is none. Sequence numbers
// wrap from 2^31-1 to 0.
func (h Header) LastSequence() int32 {
	base := h.BaseSequence()
	if base < 0 {
		return -1
	}
	return int32((int64(base) + int64(h.LastOffsetDelta())) & math.MaxInt32)
}

// Count is the number of records in the batch; compaction may leave fewer than offsets, even none.
func (h Header) Count() int32 { return h.int32(posCount) }

// Batch is exactly one whole batch, a view over bytes that somebody else owns.
type Batch []byte

// Parse cuts the first batch off p; rest is what follows it. It checks length and format version
// only: ErrShort when p does not hold the whole batch, ErrMagic when it is of another version,
// ErrCorrupt when its length is impossible.
func Parse(p []byte) (b Batch, rest []byte, err error) {
	h, err := HeaderOf(p)
	if err != nil {
		return nil, p, err
	}
	n := h.Size()
	if n > len(p) {
		return nil, p, fmt.Errorf("%w: %d of %d bytes", ErrShort, len(p), n)
	}
	return Batch(p[:n:n]), p[n:], nil
}

// Header is the view of the batch's header.
func (b Batch) Header() Header { return Header(b[:HeaderSize:HeaderSize]) }

// The accessors of Header, for the whole batch.

func (b Batch) Size() int              { return b.Header().Size() }
func (b Batch) BaseOffset() int64      { return b.Header().BaseOffset() }
func (b Batch) LastOffset() int64      { return b.Header().LastOffset() }
func (b Batch) NextOffset() int64      { return b.Header().NextOffset() }
func (b Batch) LastOffsetDelta() int32 { return b.Header().LastOffsetDelta() }
func (b Batch) LeaderEpoch() int32     { return b.Header().LeaderEpoch() }
func (b Batch) CRC() uint32            { return b.Header().CRC() }
func (b Batch) Attributes() int16      { return b.Header().Attributes() }
func (b Batch) Codec() Codec           { return b.Header().Codec() }
func (b Batch) LogAppendTime() bool    { return b.Header().LogAppendTime() }
func (b Batch) Transactional() bool    { return b.Header().Transactional() }
func (b Batch) Control() bool          { return b.Header().Control() }
func (b Batch) DeleteHorizon() bool    { return b.Header().DeleteHorizon() }
func (b Batch) BaseTimestampMs() int64 { return b.Header().BaseTimestampMs() }
func (b Batch) MaxTimestampMs() int64  { return b.Header().MaxTimestampMs() }
func (b Batch) ProducerID() int64      { return b.Header().ProducerID() }
func (b Batch) ProducerEpoch() int16   { return b.Header().ProducerEpoch() }
func (b Batch) BaseSequence() int32    { return b.Header().BaseSequence() }
func (b Batch) LastSequence() int32    { return b.Header().LastSequence() }
func (b Batch) Count() int32           { return b.Header().Count() }

func (b Batch) computeCRC() uint32 { return crc32.Checksum(b[posAttributes:], castagnoli) }

// CheckCRC compares the stored CRC with the bytes: ErrCorrupt, in Kafka's words, when they differ.
func (b Batch) CheckCRC() error {
	if crc := b.computeCRC(); crc != b.CRC() {
		return fmt.Errorf("%w: Record is corrupt (stored crc = %d, computed crc = %d)", ErrCorrupt, b.CRC(), crc)
	}
	return nil
}

// SetBaseOffset assigns the offset of the first record. The CRC does not cover it.
func (b Batch) SetBaseOffset(offset int64) {
	binary.BigEndian.PutUint64(b[posBaseOffset:], uint64(offset))
}

// SetLeaderEpoch stamps the epoch of the appending leader. The CRC does not cover it.
func (b Batch) SetLeaderEpoch(epoch int32) {
	binary.BigEndian.PutUint32(b[posLeaderEpoch:], uint32(epoch))
}

// SetLogAppendTime gives all records the broker's timestamp and computes the CRC again.
func (b Batch) SetLogAppendTime(ms int64) {
	binary.BigEndian.PutUint16(b[posAttributes:], uint16(b.Attributes()|attrLogAppendTime))
	binary.BigEndian.PutUint64(b[posMaxTimestamp:], uint64(ms))
	b.sealCRC()
}

// SetMaxTimestamp repairs a header whose maximum is not that of its records (Result.MaxTimestampMs)
// and computes the CRC again, as Kafka does. It does nothing when ms is there already.
func (b Batch) SetMaxTimestamp(ms int64) {
	if b.MaxTimestampMs() == ms {
		return
	}
	binary.BigEndian.PutUint64(b[posMaxTimestamp:], uint64(ms))
	b.sealCRC()
}

func (b Batch) sealCRC() { binary.BigEndian.PutUint32(b[posCRC:], b.computeCRC()) }
