package wire

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kbin"
)

// ProduceResponse is a Produce response of versions 3 to 13; fields that a version lacks are left out.
type ProduceResponse struct {
	ThrottleMs int32
	Topics     []ProducedTopic
	Brokers    []FetchBroker // v10: where the current leaders are
}

// ProducedTopic has a Name up to version 12 and an ID from version 13 on.
type ProducedTopic struct {
	Name       string
	ID         UUID
	Partitions []ProducedPartition
}

// ProducedPartition is what became of the records for one partition.
type ProducedPartition struct {
	Partition       int32
	ErrorCode       Code
	BaseOffset      int64
	LogAppendTimeMs int64
	LogStartOffset  int64           // v5
	ErrorRecords    []ProducedError // v8
	ErrorMessage    *string         // v8
	CurrentLeader   *LeaderAndEpoch // v10
}

// ProducedError is why a record of a batch is refused.
type ProducedError struct {
	Index   int32 // in the batch
	Message string
}

// AppendProduce appends size, header and body of r. Versions outside 3 to 13 are the caller's bug.
func AppendProduce(dst []byte, correlationID int32, version int16, r *ProduceResponse) []byte {
	if version < 3 || version > 13 {
		panic(fmt.Sprintf("BUG: Produce response version %d", version))
	}
	at := len(dst)
	e := encoder{version: version, flexible: version >= 9}
	e.buf = appendResponseHeader(dst, correlationID, e.flexible)
	e.arrayLen(len(r.Topics))
	for i := range r.Topics {
		t := &r.Topics[i]
		if version >= 13 {
			e.buf = append(e.buf, t.ID[:]...)
		} else {
			e.str(t.Name)
		}
		e.arrayLen(len(t.Partitions))
		for j := range t.Partitions {
			e.produced(&t.Partitions[j])
		}
		e.noTags()
	}
	e.buf = kbin.AppendInt32(e.buf, r.ThrottleMs)
	e.brokers(r.Brokers, 10)
	setSize(e.buf, at, 0)
	return e.buf
}

func (e *encoder) produced(p *ProducedPartition) {
	e.buf = kbin.AppendInt32(e.buf, p.Partition)
	e.buf = kbin.AppendInt16(e.buf, int16(p.ErrorCode))
	e.buf = kbin.AppendInt64(e.buf, p.BaseOffset)
	e.buf = kbin.AppendInt64(e.buf, p.LogAppendTimeMs)
	if e.version >= 5 {
		e.buf = kbin.AppendInt64(e.buf, p.LogStartOffset)
	}
	if e.version >= 8 {
		e.arrayLen(len(p.ErrorRecords))
		for i := range p.ErrorRecords {
			e.buf = kbin.AppendInt32(e.buf, p.ErrorRecords[i].Index)
			e.nullable(&p.ErrorRecords[i].Message)
			e.noTags()
		}
		e.nullable(p.ErrorMessage)
	}
	if e.version < 10 || p.CurrentLeader == nil {
		e.noTags()
		return
	}
	e.buf = append(e.buf, 1)
	e.leader(0, p.CurrentLeader)
}
