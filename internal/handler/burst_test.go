package handler

import (
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/network"
	"moldau/internal/record"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// sequenced is a batch of one record of an idempotent producer.
func sequenced(t testing.TB, producer int64, sequence int32) record.Batch {
	t.Helper()
	b := record.NewBuilder(record.None)
	b.ProducerID, b.ProducerEpoch, b.BaseSequence = producer, 0, sequence
	b.Add(time.Now().UnixMilli(), nil, fmt.Append(nil, sequence))
	out, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// What came together is appended together, in its order, and each request has its own answer: a repeated batch, one out of
// sequence and one that is damaged among them.
func TestBurst(t *testing.T) {
	b := newBroker(t)
	b.withTopic(t, "t", 2)
	damaged := batchOf(t, "damaged")
	damaged[len(damaged)-1] ^= 1
	conn := new(network.Conn)
	type answer struct {
		code   wire.Code
		offset int64
	}
	var calls []network.Call
	var reqs []*kmsg.ProduceRequest
	var want [][]answer
	start := func(req *kmsg.ProduceRequest, answers ...answer) {
		t.Helper()
		call, err := b.Table.Start(t.Context(), conn, frameOf(req), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		calls, reqs, want = append(calls, call), append(reqs, req), append(want, answers)
	}
	for i := range int32(20) { // more than one write takes
		start(produceRequest(9, "t", wire.UUID{}, -1, sequenced(t, 1, i), batchOf(t, "a", "b")), answer{0, int64(i)}, answer{0, 2 * int64(i)})
	}
	start(produceRequest(9, "t", wire.UUID{}, -1, sequenced(t, 1, 18)), answer{0, 18}) // again
	start(produceRequest(9, "t", wire.UUID{}, -1, sequenced(t, 1, 25)), answer{wire.OutOfOrderSequenceNumber, -1})
	start(produceRequest(9, "t", wire.UUID{}, -1, damaged, batchOf(t, "c")), answer{wire.CorruptMessage, -1}, answer{0, 40})
	start(produceRequest(9, "t", wire.UUID{}, -1, sequenced(t, 1, 20)), answer{0, 20})
	start(produceRequest(9, "none", wire.UUID{}, -1, batchOf(t, "d")), answer{wire.UnknownTopicOrPartition, -1})
	p, err := b.o.Partitions.Lookup("t", wire.UUID{}, 0)
	if err != nil || p.LogEnd() != 0 {
		t.Fatalf("before the burst has ended the log ends at %d, %v", p.LogEnd(), err)
	}
	b.Settle(conn)
	for i, call := range calls {
		var out []byte
		for _, piece := range call.Wait(t.Context()).Pieces {
			out = append(out, piece.Bytes...)
		}
		for j, got := range parseResponse(t, reqs[i], 9, out[4:]).(*kmsg.ProduceResponse).Topics[0].Partitions {
			if (answer{wire.Code(got.ErrorCode), got.BaseOffset}) != want[i][j] {
				t.Errorf("request %d, partition %d: code %v, offset %d; want %v", i, j, wire.Code(got.ErrorCode), got.BaseOffset, want[i][j])
			}
		}
		call.Release()
	}
	b.Settle(conn) // nothing is left
	if end := p.LogEnd(); end != 21 {
		t.Errorf("the log ends at %d, want 21", end)
	}
}

// BenchmarkProduceBurst is ten requests of one connection that came together.
func BenchmarkProduceBurst(b *testing.B) {
	br := newBrokerOn(b, vfs.OS(), b.TempDir())
	id := br.withTopic(b, "t", 4)
	frame := produceFrame(b, id, -1, 1, 1<<10)
	frames := make([][]byte, 10)
	for i := range frames {
		frames[i] = make([]byte, len(frame))
	}
	calls := make([]network.Call, len(frames))
	b.ReportAllocs()
	for b.Loop() {
		for i := range frames {
			copy(frames[i], frame)
			var err error
			if calls[i], err = br.Table.Start(b.Context(), br.conn, frames[i], time.Time{}); err != nil {
				b.Fatal(err)
			}
		}
		br.Settle(br.conn)
		for _, c := range calls {
			c.Wait(b.Context())
			c.Release()
		}
	}
}
