package partition

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"moldau/internal/config"
	"moldau/internal/partition/replica"
	"moldau/internal/record"
	"moldau/internal/storage"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// gate is a disk whose syncs of segments can be held up.
type gate struct {
	closed atomic.Bool
	broken atomic.Bool
	syncs  atomic.Int64
	fs     vfs.FS
}

func newGate(t *testing.T) *gate {
	g := &gate{}
	g.fs = vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		if op.Kind != vfs.OpSync || !strings.HasSuffix(op.Name, ".log") {
			return nil
		}
		g.syncs.Add(1)
		for g.closed.Load() {
			time.Sleep(50 * time.Microsecond)
		}
		if g.broken.Load() {
			return errors.New("input/output error")
		}
		return nil
	})
	t.Cleanup(func() { g.closed.Store(false) })
	return g
}

// leader is a partition that this broker leads alone.
func leader(t *testing.T, fsys vfs.FS, sets ...string) (*Partition, *storage.Dir) {
	t.Helper()
	c, _, err := config.Load(config.Sources{Sets: sets})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := storage.OpenDir(storage.Options{FS: fsys, Path: "/log", MetaDir: "/meta"})
	if err != nil {
		t.Fatal(err)
	}
	m := NewManager(Options{Self: 1, Dirs: storage.OneDir(dir), Config: c, Log: slog.New(slog.DiscardHandler)})
	t.Cleanup(func() { m.Close(); dir.Close() })
	top := c.Topic(nil, nil, nil)
	p := newPartition(storage.TopicPartition{Topic: "t", Partition: 0}, wire.UUID{1})
	cfg := storage.LogConfig{SegmentBytes: 1 << 20, IndexIntervalBytes: 4096, SegmentIndexBytes: 1 << 20, FlushMessages: top.FlushMessages, MaxInflatedBytes: 1 << 20}
	err = p.start(1, storage.OneDir(dir), wire.UUID{}, replica.Assignment{Leader: 1, LeaderEpoch: 4, ISR: []int32{1}, MinISR: 1, FlushPolicy: cfg.FlushPolicy()}, &settings{top, cfg})
	if err == nil {
		_, err = p.use() // for as long as the test
	}
	if err != nil {
		t.Fatal(err)
	}
	return p, dir
}

func oneRecord(t *testing.T, value string) record.Batch {
	t.Helper()
	b := record.NewBuilder(record.None)
	b.Add(time.Now().UnixMilli(), nil, []byte(value))
	out, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestNothingIsSeenOrAcknowledgedBeforeItIsFlushed is the one rule of durability and
// visibility: with a flush policy neither an answer nor a reader is ahead of the disk.
func TestNothingIsSeenOrAcknowledgedBeforeItIsFlushed(t *testing.T) {
	for _, acks := range []int16{-1, 1, 0} {
		g := newGate(t)
		p, _ := leader(t, g.fs)
		g.closed.Store(true)
		defer g.closed.Store(false)
		a, err := p.Append(oneRecord(t, "v"), AppendOptions{Acks: acks, NowMs: time.Now().UnixMilli()})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
		if acks != 0 && p.AckReady(a) {
			t.Fatalf("acks=%d was acknowledged before the sync", acks)
		}
		if hw := p.HighWatermark(); hw != 0 {
			t.Fatalf("acks=%d: high watermark is %d before the sync", acks, hw)
		}
		r, err := p.Read(ReadOptions{CurrentEpoch: -1, FetchedEpoch: -1, MaxBytes: 1000, MinOne: true})
		if err != nil || r.Plan.Region.Len != 0 {
			t.Errorf("acks=%d: a reader got %d bytes before the sync (%v)", acks, r.Plan.Region.Len, err)
		}
		if acks != 0 {
			if err := p.WaitAck(t.Context(), new(AckWaiter), a, time.Now().Add(5*time.Millisecond)); !errors.Is(err, ErrTimedOut) {
				t.Errorf("acks=%d: waiting before the sync ended with %v", acks, err)
			}
		}
		w := NewWatcher()
		p.Watch(w)
		g.closed.Store(false)
		if err := p.WaitAck(t.Context(), new(AckWaiter), a, time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		<-w.Wake
		w.Stop()
		r, err = p.Read(ReadOptions{CurrentEpoch: -1, FetchedEpoch: -1, MaxBytes: 1000, MinOne: true})
		if err != nil || r.Plan.Region.Len == 0 || r.HighWatermark != 1 {
			t.Fatalf("acks=%d: after the sync a reader got %+v, %v", acks, r, err)
		}
		r.Plan.Release()
	}
}

// TestNobodyAsksForAFlushWithoutAPolicy: where records count when they are written, neither acknowledgements nor
// parked fetches make the disk work.
func TestNobodyAsksForAFlushWithoutAPolicy(t *testing.T) {
	g := newGate(t)
	p, _ := leader(t, g.fs, "log.flush.interval.messages=9223372036854775807")
	w := NewWatcher()
	p.Watch(w)
	for range 10 {
		a, err := p.Append(oneRecord(t, "v"), AppendOptions{Acks: -1, NowMs: time.Now().UnixMilli()})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.WaitAck(t.Context(), new(AckWaiter), a, time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		<-w.Wake
		p.Hurry()
	}
	w.Stop()
	time.Sleep(2 * time.Millisecond)
	if n := g.syncs.Load(); n != 0 {
		t.Errorf("%d syncs", n)
	}
}

// TestFailedSyncFailsWaiters: whoever waits for a disk that fails learns it at once.
func TestFailedSyncFailsWaiters(t *testing.T) {
	g := newGate(t)
	p, _ := leader(t, g.fs)
	g.broken.Store(true)
	a, err := p.Append(oneRecord(t, "v"), AppendOptions{Acks: -1, NowMs: time.Now().UnixMilli()})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.WaitAck(t.Context(), new(AckWaiter), a, time.Now().Add(time.Hour)); !IsOffline(err) {
		t.Fatalf("waiting ended with %v", err)
	}
	if _, err := p.Append(oneRecord(t, "w"), AppendOptions{Acks: 1, NowMs: time.Now().UnixMilli()}); !IsOffline(err) {
		t.Fatalf("append ended with %v", err)
	}
}

// TestWaitsEnd: a disconnect, a change of leader and a deletion end a wait.
func TestWaitsEnd(t *testing.T) {
	g := newGate(t)
	p, _ := leader(t, g.fs)
	g.closed.Store(true)
	defer g.closed.Store(false)
	a, err := p.Append(oneRecord(t, "v"), AppendOptions{Acks: -1, NowMs: time.Now().UnixMilli()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { ended <- p.WaitAck(ctx, new(AckWaiter), a, time.Now().Add(time.Hour)) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("after a disconnect: %v", err)
	}
	go func() { ended <- p.WaitAck(t.Context(), new(AckWaiter), a, time.Now().Add(time.Hour)) }()
	time.Sleep(time.Millisecond)
	p.mu.Lock()
	s := p.settings.Load()
	p.mu.Unlock()
	p.apply(replica.Assignment{Leader: 2, LeaderEpoch: 5, PartitionEpoch: 1, ISR: []int32{2}, MinISR: 1, FlushPolicy: true}, s)
	if err := <-ended; !errors.Is(err, ErrNotLeader) {
		t.Errorf("after a change of leader: %v", err)
	}
	if _, err := p.Append(oneRecord(t, "w"), AppendOptions{Acks: 1}); !errors.Is(err, ErrNotLeader) {
		t.Errorf("append at a former leader: %v", err)
	}
	if _, err := p.Latest(4, false); !errors.Is(err, ErrFencedEpoch) {
		t.Errorf("old leader epoch: %v", err)
	}
	if _, err := p.Latest(9, false); !errors.Is(err, ErrUnknownEpoch) {
		t.Errorf("future leader epoch: %v", err)
	}
	p.end()
	if _, err := p.Earliest(-1); !errors.Is(err, ErrUnknown) {
		t.Errorf("deleted partition: %v", err)
	}
}

// TestPageCacheMode is Kafka's default: visible and acknowledged when written.
func TestPageCacheMode(t *testing.T) {
	g := newGate(t)
	p, _ := leader(t, g.fs, "log.flush.interval.messages=9223372036854775807")
	g.closed.Store(true)
	defer g.closed.Store(false)
	a, err := p.Append(oneRecord(t, "v"), AppendOptions{Acks: -1, NowMs: time.Now().UnixMilli()})
	if err != nil {
		t.Fatal(err)
	}
	if !p.AckReady(a) || p.HighWatermark() != 1 {
		t.Fatal("a record in the page cache is not acknowledged")
	}
}

// TestTooLarge names size, limit and key.
func TestTooLarge(t *testing.T) {
	p, _ := leader(t, vfs.NewMem(), "message.max.bytes=1000")
	_, err := p.Append(oneRecord(t, strings.Repeat("x", 2000)), AppendOptions{Acks: 1, NowMs: time.Now().UnixMilli()})
	var large *TooLargeError
	if !errors.As(err, &large) || large.Limit != 1000 || !strings.Contains(err.Error(), "max.message.bytes") {
		t.Fatalf("got %v", err)
	}
}
