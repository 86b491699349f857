package wire

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/vfs"
)

// appendResponseHeader appends room for the size, and the header. Header version 0 has no tagged fields;
// ApiVersions always has it, since its reader does not know yet what we speak.
func appendResponseHeader(dst []byte, correlationID int32, tags bool) []byte {
	dst = append(dst, 0, 0, 0, 0)
	dst = kbin.AppendInt32(dst, correlationID)
	if tags {
		dst = append(dst, 0)
	}
	return dst
}

// setSize writes the size in front of the response that begins at dst[at]; more is what follows dst.
func setSize(dst []byte, at int, more int64) {
	n := int64(len(dst)-at-4) + more
	if n > math.MaxInt32 {
		panic(fmt.Sprintf("BUG: response of %d bytes", n))
	}
	binary.BigEndian.PutUint32(dst[at:], uint32(n))
}

// AppendResponse appends size, header and body of resp, in the version that resp is set to.
func AppendResponse(dst []byte, correlationID int32, resp kmsg.Response) []byte {
	at := len(dst)
	dst = appendResponseHeader(dst, correlationID, resp.IsFlexible() && resp.Key() != keyAPIVersions)
	dst = resp.AppendTo(dst)
	setSize(dst, at, 0)
	return dst
}

// FetchResponse is a Fetch response of versions 4 to 18; fields that a version lacks are left out.
type FetchResponse struct {
	ThrottleMs int32
	ErrorCode  Code  // v7
	SessionID  int32 // v7
	Topics     []FetchTopic
	Brokers    []FetchBroker // v16: where the current leaders are
}

// FetchTopic has a Name up to version 12 and an ID from version 13 on.
type FetchTopic struct {
	Name       string
	ID         UUID
	Partitions []FetchPartition
}

// FetchPartition is what one partition returns; take it from NewFetchPartition. The records are Records
// followed by Regions. Nothing at all is sent as empty records, never as null, as Kafka does.
type FetchPartition struct {
	Partition            int32
	ErrorCode            Code
	HighWatermark        int64
	LastStableOffset     int64
	LogStartOffset       int64                // v5
	AbortedTransactions  []AbortedTransaction // nil is sent as null: the reader is read_uncommitted
	PreferredReadReplica int32                // v11
	Records              []byte               // not changed until the reply is released
	Regions              []vfs.Region

	DivergingEpoch *EpochEndOffset // v12: the follower's or consumer's log is another one beyond it
	CurrentLeader  *LeaderAndEpoch // v12: with NOT_LEADER_OR_FOLLOWER and FENCED_LEADER_EPOCH
}

// NewFetchPartition returns a partition without records, its offsets and replica unknown (-1).
func NewFetchPartition(partition int32) FetchPartition {
	return FetchPartition{Partition: partition, HighWatermark: -1, LastStableOffset: -1, LogStartOffset: -1, PreferredReadReplica: -1}
}

// AbortedTransaction tells a read_committed reader to drop a producer's records from FirstOffset up to its next marker.
type AbortedTransaction struct{ ProducerID, FirstOffset int64 }

// EpochEndOffset is the last offset, plus one, of an epoch.
type EpochEndOffset struct {
	Epoch     int32
	EndOffset int64
}

// LeaderAndEpoch is who leads a partition, -1 when nobody does.
type LeaderAndEpoch struct{ LeaderID, LeaderEpoch int32 }

// FetchBroker is the address of a broker on the listener on which the request came.
type FetchBroker struct {
	NodeID int32
	Host   string
	Port   int32
	Rack   *string
}

// coalesce is the size from which records in memory become a piece of their own instead of being copied.
const coalesce = 4 << 10

// FetchEncoder writes everything but the large records into buf and notes where these go.
type FetchEncoder struct {
	encoder
	holes   []hole
	out     []Piece
	outside int64 // bytes in holes
}

// encoder writes what the responses with records have in common.
type encoder struct {
	version  int16
	flexible bool
	buf      []byte
}

type hole struct {
	at    int // in buf
	piece Piece
}

// EncodeFetch is FetchEncoder.Encode with an encoder of its own.
func EncodeFetch(correlationID int32, version int16, r *FetchResponse) []Piece {
	return new(FetchEncoder).Encode(correlationID, version, r)
}

// Encode encodes size, header and body of r. Its pieces, sent in order, are the response; they share
// memory with r's records, and with the encoder, which uses it again for the next response. Versions outside 4 to 18 are the caller's bug.
func (e *FetchEncoder) Encode(correlationID int32, version int16, r *FetchResponse) []Piece {
	if version < 4 || version > 18 {
		panic(fmt.Sprintf("BUG: Fetch response version %d", version))
	}
	e.version, e.flexible = version, version >= 12
	e.holes, e.outside = e.holes[:0], 0
	if e.buf == nil {
		e.buf = make([]byte, 0, r.sizeHint())
	}
	e.buf = appendResponseHeader(e.buf[:0], correlationID, e.flexible)
	e.buf = kbin.AppendInt32(e.buf, r.ThrottleMs)
	if version >= 7 {
		e.buf = kbin.AppendInt16(e.buf, int16(r.ErrorCode))
		e.buf = kbin.AppendInt32(e.buf, r.SessionID)
	}
	e.arrayLen(len(r.Topics))
	for i := range r.Topics {
		t := &r.Topics[i]
		switch {
		case version >= 13:
			e.buf = append(e.buf, t.ID[:]...)
		default:
			e.str(t.Name)
		}
		e.arrayLen(len(t.Partitions))
		for j := range t.Partitions {
			e.partition(&t.Partitions[j])
		}
		e.noTags()
	}
	e.brokers(r.Brokers, 16)
	setSize(e.buf, 0, e.outside)
	return e.pieces()
}

// sizeHint is about what the buffer will hold, so that it need not grow.
func (r *FetchResponse) sizeHint() int {
	n := 64 + 64*len(r.Brokers)
	for i := range r.Topics {
		n += 32 + len(r.Topics[i].Name) + 128*len(r.Topics[i].Partitions)
		for j := range r.Topics[i].Partitions {
			p := &r.Topics[i].Partitions[j]
			n += 17 * len(p.AbortedTransactions)
			if len(p.Records) < coalesce {
				n += len(p.Records)
			}
		}
	}
	return n
}

func (e *encoder) arrayLen(n int) {
	if e.flexible {
		e.buf = kbin.AppendCompactArrayLen(e.buf, n)
	} else {
		e.buf = kbin.AppendArrayLen(e.buf, n)
	}
}

func (e *encoder) str(s string) {
	if e.flexible {
		e.buf = kbin.AppendCompactString(e.buf, s)
	} else {
		e.buf = kbin.AppendString(e.buf, s)
	}
}

func (e *encoder) noTags() {
	if e.flexible {
		e.buf = append(e.buf, 0)
	}
}

func (e *FetchEncoder) partition(p *FetchPartition) {
	e.buf = kbin.AppendInt32(e.buf, p.Partition)
	e.buf = kbin.AppendInt16(e.buf, int16(p.ErrorCode))
	e.buf = kbin.AppendInt64(e.buf, p.HighWatermark)
	e.buf = kbin.AppendInt64(e.buf, p.LastStableOffset)
	if e.version >= 5 {
		e.buf = kbin.AppendInt64(e.buf, p.LogStartOffset)
	}
	e.aborted(p.AbortedTransactions)
	if e.version >= 11 {
		e.buf = kbin.AppendInt32(e.buf, p.PreferredReadReplica)
	}
	e.records(p)
	if !e.flexible {
		return
	}
	tags := byte(0)
	if p.DivergingEpoch != nil {
		tags++
	}
	if p.CurrentLeader != nil {
		tags++
	}
	e.buf = append(e.buf, tags)
	if d := p.DivergingEpoch; d != nil {
		e.buf = append(e.buf, 0, 4+8+1) // tag, size
		e.buf = kbin.AppendInt32(e.buf, d.Epoch)
		e.buf = kbin.AppendInt64(e.buf, d.EndOffset)
		e.buf = append(e.buf, 0)
	}
	if l := p.CurrentLeader; l != nil {
		e.leader(1, l)
	}
}

// leader writes a tagged field.
func (e *encoder) leader(tag byte, l *LeaderAndEpoch) {
	e.buf = append(e.buf, tag, 4+4+1)
	e.buf = kbin.AppendInt32(e.buf, l.LeaderID)
	e.buf = kbin.AppendInt32(e.buf, l.LeaderEpoch)
	e.buf = append(e.buf, 0)
}

func (e *encoder) nullable(s *string) {
	if e.flexible {
		e.buf = kbin.AppendCompactNullableString(e.buf, s)
	} else {
		e.buf = kbin.AppendNullableString(e.buf, s)
	}
}

func (e *FetchEncoder) aborted(txns []AbortedTransaction) {
	if e.flexible {
		e.buf = kbin.AppendCompactNullableArrayLen(e.buf, len(txns), txns == nil)
	} else {
		e.buf = kbin.AppendNullableArrayLen(e.buf, len(txns), txns == nil)
	}
	for _, t := range txns {
		e.buf = kbin.AppendInt64(e.buf, t.ProducerID)
		e.buf = kbin.AppendInt64(e.buf, t.FirstOffset)
		e.noTags()
	}
}

func (e *FetchEncoder) records(p *FetchPartition) {
	n := int64(len(p.Records))
	for _, r := range p.Regions {
		n += r.Len
	}
	if n > math.MaxInt32 {
		panic(fmt.Sprintf("BUG: %d bytes of records in one partition", n))
	}
	if e.flexible {
		e.buf = kbin.AppendUvarint(e.buf, uint32(n)+1)
	} else {
		e.buf = kbin.AppendInt32(e.buf, int32(n))
	}
	if len(p.Records) < coalesce {
		e.buf = append(e.buf, p.Records...)
	} else {
		e.hole(Piece{Bytes: p.Records})
	}
	for _, r := range p.Regions {
		if r.Len > 0 {
			e.hole(Piece{Region: r})
		}
	}
}

func (e *FetchEncoder) hole(p Piece) {
	e.holes = append(e.holes, hole{len(e.buf), p})
	e.outside += p.Len()
}

func (e *encoder) brokers(brokers []FetchBroker, since int16) {
	if !e.flexible {
		return
	}
	if len(brokers) == 0 || e.version < since {
		e.noTags()
		return
	}
	field := kbin.AppendCompactArrayLen(nil, len(brokers))
	for _, b := range brokers {
		field = kbin.AppendInt32(field, b.NodeID)
		field = kbin.AppendCompactString(field, b.Host)
		field = kbin.AppendInt32(field, b.Port)
		field = kbin.AppendCompactNullableString(field, b.Rack)
		field = append(field, 0)
	}
	e.buf = append(e.buf, 1, 0) // one tagged field, tag 0
	e.buf = kbin.AppendUvarint(e.buf, uint32(len(field)))
	e.buf = append(e.buf, field...)
}

// pieces cuts buf at the holes.
func (e *FetchEncoder) pieces() []Piece {
	if e.out == nil {
		e.out = make([]Piece, 0, 2*len(e.holes)+1)
	}
	out := e.out[:0]
	from := 0
	for _, h := range e.holes {
		if h.at > from {
			out = append(out, Piece{Bytes: e.buf[from:h.at:h.at]})
			from = h.at
		}
		out = append(out, h.piece)
	}
	if from < len(e.buf) {
		out = append(out, Piece{Bytes: e.buf[from:]})
	}
	e.out = out
	return out
}

// Forget drops the records that were encoded, and returns the memory that it keeps for the next response.
func (e *FetchEncoder) Forget() []byte {
	clear(e.holes)
	clear(e.out)
	return e.buf[:cap(e.buf)]
}
