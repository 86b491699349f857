package handler

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/network"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// coldBroker is a broker whose disk reads nothing until it is told to. Partition 0 of its topic, with one batch, is on the disk only;
// partition 1 has one in memory.
type coldBroker struct {
	*broker
	id    wire.UUID
	asked chan struct{} // the disk was asked for the first time
	open  chan struct{} // closed: it reads
	once  sync.Once
}

// read lets the disk read.
func (b *coldBroker) read() { b.once.Do(func() { close(b.open) }) }

func newColdBroker(t *testing.T, o vfs.MemOptions) *coldBroker {
	mem := vfs.NewMemOptions(o)
	b := &coldBroker{broker: newBrokerOn(t, mem, ""), asked: make(chan struct{}), open: make(chan struct{})}
	b.id = b.withTopic(t, "t", 2)
	b.produce(t, produceRequest(13, "t", b.id, 1, batchOf(t, "cold"), batchOf(t, "hot")))
	mem.Evict(func(name string) bool { return strings.Contains(name, "t-0/") })
	var first sync.Once
	mem.OnArrival(func(string, int64, int64) {
		first.Do(func() { close(b.asked) })
		<-b.open
	})
	t.Cleanup(b.read) // before the log dir closes
	return b
}

// patient is a fetch of both partitions from their beginnings, or of the first one only, that waits for an hour.
func (b *coldBroker) patient(offsets ...int64) *kmsg.FetchRequest {
	req := fetchRequest(13, "", b.id, offsets...)
	req.MaxWaitMillis = int32(time.Hour.Milliseconds())
	return req
}

func recordsOf(r *kmsg.FetchResponse, partition int32) []byte {
	for _, topic := range r.Topics {
		for _, p := range topic.Partitions {
			if p.Partition == partition {
				return p.RecordBatches
			}
		}
	}
	return nil
}

// TestColdFetchDelaysNobody: while a fetch of what is on the disk only waits, everybody else is served; the partitions that it
// names are no reason to wait for each other, and what is cold comes when it is there.
func TestColdFetchDelaysNobody(t *testing.T) {
	for _, session := range []bool{false, true} {
		b := newColdBroker(t, vfs.MemOptions{})
		// Both partitions: the one that is in memory is answered.
		both := b.patient(0, 0)
		if session {
			both.SessionEpoch = 0
		}
		r := b.fetch(t, both)
		if len(recordsOf(r, 0)) != 0 || len(recordsOf(r, 1)) == 0 {
			t.Fatalf("a fetch of a cold and a hot partition is answered with %+v", r)
		}
		next := b.patient(0, 1)
		if session {
			next = incremental(b.id, r.SessionID, 1, time.Hour)
			at := kmsg.NewFetchRequestTopicPartition()
			at.Partition, at.FetchOffset, at.PartitionMaxBytes = 1, 1, 1<<20
			next.Topics = append(next.Topics, kmsg.FetchRequestTopic{TopicID: b.id, Partitions: []kmsg.FetchRequestTopicPartition{at}})
		}
		cold := b.fetchLater(t, next)
		<-b.asked
		// Not to the cold partition, whose only page that would bring into memory.
		other := b.withTopic(t, "u", 1)
		b.produce(t, produceRequest(13, "u", other, -1, batchOf(t, "more")))
		only := b.patient(0, 0)
		only.Topics[0].Partitions = only.Topics[0].Partitions[1:]
		if r := b.fetch(t, only); len(recordsOf(r, 1)) == 0 {
			t.Fatalf("a fetch of what is in memory is answered with %+v", r)
		}
		select {
		case r := <-cold:
			t.Fatalf("the disk has read nothing and the fetch is answered with %+v", r)
		default:
		}
		b.read()
		if r := <-cold; len(recordsOf(r, 0)) == 0 || r.Topics[0].Partitions[0].ErrorCode != 0 {
			t.Fatalf("session %v: the disk has read and the fetch is answered with %+v", session, r)
		}
	}
}

// TestColdFetchWithoutTryRead: so it is where the file system cannot say what is in memory, but that the fetch waits by itself.
func TestColdFetchWithoutTryRead(t *testing.T) {
	b := newColdBroker(t, vfs.MemOptions{NoTryRead: true})
	cold := b.fetchLater(t, b.patient(0))
	<-b.asked
	b.produce(t, produceRequest(13, "t", b.id, -1, nil, batchOf(t, "more")))
	only := b.patient(0, 0)
	only.Topics[0].Partitions = only.Topics[0].Partitions[1:]
	if r := b.fetch(t, only); len(recordsOf(r, 1)) == 0 {
		t.Fatalf("a fetch of what is in memory is answered with %+v", r)
	}
	b.read()
	if r := <-cold; len(recordsOf(r, 0)) == 0 {
		t.Fatalf("the disk has read and the fetch is answered with %+v", r)
	}
}

// TestColdFetchEnds: a fetch that waits for the disk ends when its client or its partition goes, or when its time is over.
func TestColdFetchEnds(t *testing.T) {
	start := func(b *coldBroker, ctx context.Context, arrived time.Time, req *kmsg.FetchRequest) network.Call {
		t.Helper()
		call, err := b.Start(ctx, new(network.Conn), frameOf(req), arrived)
		if err != nil {
			t.Fatal(err)
		}
		return call
	}
	answer := func(req *kmsg.FetchRequest, reply network.Reply) *kmsg.FetchResponse {
		var body []byte
		for _, p := range reply.Pieces {
			body = append(body, p.Bytes...)
		}
		return parseResponse(t, req, req.Version, body[4:]).(*kmsg.FetchResponse)
	}
	t.Run("disconnect", func(t *testing.T) {
		b := newColdBroker(t, vfs.MemOptions{})
		ctx, cancel := context.WithCancel(t.Context())
		call := start(b, ctx, time.Now(), b.patient(0))
		if call.Ready() {
			t.Fatal("the disk has read nothing and the call is ready")
		}
		go func() { <-b.asked; cancel() }()
		reply := call.Wait(ctx)
		if told := fmt.Sprint(call.Describe()); reply.DiskWait <= 0 || !strings.Contains(told, "diskFor=t-0") {
			t.Errorf("it waited %v: %s", reply.DiskWait, told)
		}
		call.Release()
	})
	t.Run("deadline", func(t *testing.T) {
		b := newColdBroker(t, vfs.MemOptions{})
		req := b.patient(0)
		req.MaxWaitMillis = 0
		call := start(b, t.Context(), time.Now().Add(-coldPatience), req)
		defer call.Release()
		r := answer(req, call.Wait(t.Context()))
		if len(r.Topics) != 1 || r.Topics[0].Partitions[0].ErrorCode != 0 || r.Topics[0].Partitions[0].HighWatermark != 1 || len(recordsOf(r, 0)) != 0 {
			t.Errorf("answered with %+v", r)
		}
	})
	t.Run("deadline with records", func(t *testing.T) {
		b := newColdBroker(t, vfs.MemOptions{})
		req := b.patient(0, 0)
		req.MaxWaitMillis, req.MinBytes = 1, 1<<20
		call := start(b, t.Context(), time.Now(), req) // and what is in memory is less than it wants
		defer call.Release()
		if r := answer(req, call.Wait(t.Context())); len(recordsOf(r, 1)) == 0 {
			t.Errorf("answered with %+v", r)
		}
	})
	t.Run("deletion", func(t *testing.T) {
		b := newColdBroker(t, vfs.MemOptions{})
		cold := b.fetchLater(t, b.patient(0))
		<-b.asked
		b.o.Cluster.DeleteTopics(t.Context(), []controller.TopicRef{{ID: b.id}})
		b.publish()
		if r := <-cold; wire.Code(r.Topics[0].Partitions[0].ErrorCode) != wire.UnknownTopicID {
			t.Errorf("answered with %+v", r)
		}
	})
	t.Run("the log's end", func(t *testing.T) {
		b := newColdBroker(t, vfs.MemOptions{})
		cold := b.fetchLater(t, b.patient(0))
		<-b.asked
		p, err := b.o.Partitions.Lookup("t", wire.UUID{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.DeleteRecords(1); err != nil {
			t.Fatal(err)
		}
		b.read()
		if r := <-cold; wire.Code(r.Topics[0].Partitions[0].ErrorCode) != wire.OffsetOutOfRange {
			t.Errorf("answered with %+v", r)
		}
	})
}
