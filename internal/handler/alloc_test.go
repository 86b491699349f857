package handler

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"moldau/internal/vfs"
	"moldau/internal/wire"
	"moldau/test/measure"
)

// handle runs one frame to its end and returns the size of the answer.
func (b *broker) handle(t testing.TB, ctx context.Context, frame []byte) (size int64) {
	call, err := b.Start(ctx, b.conn, frame, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range call.Wait(ctx).Pieces {
		size += p.Len()
	}
	call.Release()
	return size
}

// produceFrame is a request with one batch of a record of size bytes for each of some partitions.
func produceFrame(t testing.TB, id wire.UUID, acks int16, partitions, size int) []byte {
	records := make([][]byte, partitions)
	for i := range records {
		records[i] = batchOf(t, strings.Repeat("v", size))
	}
	return frameOf(produceRequest(13, "", id, acks, records...))
}

// producing returns what sends the frame again and again; a broker changes frames in place.
func (b *broker) producing(t testing.TB, frame []byte) func() {
	own := slices.Clone(frame)
	want := b.handle(t, t.Context(), own)
	return func() {
		copy(own, frame)
		if n := b.handle(t, t.Context(), own); n != want {
			t.Fatalf("an answer of %d bytes, expected %d", n, want)
		}
	}
}

// TestProduceAllocations says how often a request allocates in steady state: not at all, but for the marks of the log ends, 32 bytes each, which
// readers look at without a lock and of which a log makes 32 at a time. With a flush of every record there may be a worker beside, who flushes, for each log.
func TestProduceAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, flush := range []bool{false, true} {
		var sets []string
		if flush {
			sets = []string{"log.flush.interval.messages=1"}
		}
		b := newBrokerOn(t, vfs.OS(), t.TempDir(), sets...)
		id := b.withTopic(t, "t", 4)
		for _, acks := range []int16{1, -1} {
			for _, partitions := range []int{1, 4} {
				want := 0.0 // on average, rounded down
				if flush {
					want = float64(partitions)
				}
				if n := measure.Allocations(300, want, b.producing(t, produceFrame(t, id, acks, partitions, 1<<10))); n > want {
					t.Errorf("flush %v, acks %d: a request with %d batches allocates %v times, expected %v", flush, acks, partitions, n, want)
				}
			}
		}
	}
}

func BenchmarkProduce(b *testing.B) {
	br := newBrokerOn(b, vfs.OS(), b.TempDir())
	id := br.withTopic(b, "t", 4)
	produce := br.producing(b, produceFrame(b, id, -1, 1, 1<<10))
	b.ReportAllocs()
	for b.Loop() {
		produce()
	}
}

// fetching returns what sends an incremental fetch again and again, in a session of some partitions of which it names
// the busy ones: those that have a batch, of a record of size bytes.
func (b *broker) fetching(t testing.TB, partitions, busy, size int) func() {
	id := b.withTopic(t, "t", int32(partitions))
	if busy > 0 {
		b.handle(t, t.Context(), produceFrame(t, id, -1, busy, size))
	}
	offsets := make([]int64, partitions)
	full := fetchRequest(13, "", id, offsets...)
	full.SessionEpoch, full.MaxBytes = 0, 50<<20
	session := b.fetch(t, full).SessionID
	next := fetchRequest(13, "", id, offsets[:busy]...)
	next.SessionID, next.SessionEpoch, next.MaxBytes = session, 1, 50<<20
	frame := frameOf(next)
	at := bytes.Index(frame, binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(session)), 1)) + 4
	epoch, want := uint32(0), int64(0)
	again := func() {
		epoch++
		binary.BigEndian.PutUint32(frame[at:], epoch)
		if n := b.handle(t, t.Context(), frame); n != want && want > 0 || n < int64(busy*size) {
			t.Fatalf("an answer of %d bytes, expected %d", n, want)
		} else if epoch > 1 {
			want = n
		}
	}
	again() // looks at all
	again()
	return again
}

// TestFetchAllocations: a fetch that continues a session allocates nothing, whatever its session has.
func TestFetchAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, c := range []struct{ partitions, busy, size int }{{1, 1, 1 << 10}, {64, 64, 1 << 10}, {500, 3, 1 << 10}, {500, 0, 1 << 10},
		{2, 2, 700_000}} { // read when planned, and left for sendfile
		fetch := newBrokerOn(t, vfs.OS(), t.TempDir()).fetching(t, c.partitions, c.busy, c.size)
		if n := measure.Allocations(300, 0, fetch); n > 0 {
			t.Errorf("a fetch of %d of %d partitions, %d bytes of each, allocates %v times", c.busy, c.partitions, c.size, n)
		}
	}
}

func BenchmarkFetch(b *testing.B) {
	for _, c := range []struct{ partitions, busy int }{{64, 64}, {1000, 1}} {
		b.Run(fmt.Sprintf("%d of %d", c.busy, c.partitions), func(b *testing.B) {
			fetch := newBrokerOn(b, vfs.OS(), b.TempDir()).fetching(b, c.partitions, c.busy, 1<<10)
			b.ReportAllocs()
			for b.Loop() {
				fetch()
			}
		})
	}
}

func BenchmarkProduceDurable(b *testing.B) {
	br := newBrokerOn(b, vfs.OS(), b.TempDir(), "log.flush.interval.messages=1")
	id := br.withTopic(b, "t", 4)
	produce := br.producing(b, produceFrame(b, id, -1, 1, 1<<10))
	b.ReportAllocs()
	for b.Loop() {
		produce()
	}
}
