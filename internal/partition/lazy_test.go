package partition

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"moldau/internal/storage"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// restarted is a broker with a topic of n partitions, each with records in it, that was stopped and comes up anew. touched counts what is done
// with files in partition directories.
func restarted(t *testing.T, n int, cleanly bool) (m *Manager, c *cluster, touched *atomic.Int64) {
	t.Helper()
	mem := vfs.NewMem()
	c = newCluster(t)
	im := c.next(topic(0, n, 0)...)
	first := startManager(t, mem)
	first.Apply(im)
	for i := range n {
		p, err := first.Lookup("t0", wire.UUID{}, int32(i))
		if err != nil {
			t.Fatal(err)
		}
		a, err := p.Append(oneRecord(t, fmt.Sprint("of ", i)), AppendOptions{Acks: -1, NowMs: time.Now().UnixMilli()})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.WaitAck(t.Context(), new(AckWaiter), a, time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	if cleanly {
		stopManager(t, first)
	}
	left := mem.Clone()
	if !cleanly {
		first.Close()
		first.o.Dirs.Close() // its disk is gone
	}
	touched = &atomic.Int64{}
	fsys := vfs.NewFault(left, func(op vfs.Op) error {
		if strings.HasPrefix(op.Name, "/log/t0-") {
			touched.Add(1)
		}
		return nil
	})
	m = newTestManager(t, fsys)
	m.Apply(c.next(topic(0, n, 1)...))
	return m, c, touched
}

// TestNoLogIsOpenedAtTheStart: a start costs nothing for each log, whether the stop was a clean one or not, until somebody uses it.
func TestNoLogIsOpenedAtTheStart(t *testing.T) {
	const n = 300
	for _, cleanly := range []bool{true, false} {
		m, _, touched := restarted(t, n, cleanly)
		if got := touched.Load(); got != 0 {
			t.Errorf("cleanly %v: %d operations on files of partitions at the start", cleanly, got)
		}
		if cleanly {
			m.o.Dirs.Recover()
			if s := m.o.Dirs.Recovery(); s.Total != 0 || touched.Load() != 0 {
				t.Errorf("after a clean stop %d logs are to be recovered, %d operations", s.Total, touched.Load())
			}
		}
		for i := range n {
			p, err := m.Lookup("t0", wire.UUID{}, int32(i))
			if err != nil {
				t.Fatal(err)
			}
			if x := p.Extent(); cleanly && (x.End != 1 || x.Bytes == 0 || x.Segments != 1) {
				t.Errorf("partition %d is said to have %+v", i, x)
			}
		}
		p, err := m.Lookup("t0", wire.UUID{}, 7)
		if err != nil {
			t.Fatal(err)
		}
		if at, err := p.Latest(-1, false); err != nil || at.Offset != 1 || at.LeaderEpoch != 1 {
			t.Errorf("the end of a log that is opened now is %+v, %v", at, err)
		}
		used := 0
		for p := range m.All() {
			if p.Used() {
				used++
			}
		}
		if used != 1 {
			t.Errorf("%d logs are open, one was used", used)
		}
	}
}

// TestRecoveryInTheBackground: what no stop has left as it is gets recovered also if nobody uses it, and is served meanwhile.
func TestRecoveryInTheBackground(t *testing.T) {
	const n = 100
	m, _, _ := restarted(t, n, false)
	m.o.Dirs.Recover()
	for i := range n {
		p, err := m.Lookup("t0", wire.UUID{}, int32(n-1-i))
		if err != nil {
			t.Fatal(err)
		}
		r, err := p.Read(ReadOptions{CurrentEpoch: -1, FetchedEpoch: -1, MaxBytes: 1000, MinOne: true})
		if err != nil || r.HighWatermark != 1 || r.Plan.Len() == 0 {
			t.Fatalf("partition %d: %+v, %v", n-1-i, r, err)
		}
		r.Plan.Release()
	}
	for until := time.Now().Add(time.Minute); !m.o.Dirs.Recovery().Ended; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("recovery does not end: %+v", m.o.Dirs.Recovery())
		}
	}
	if s := m.o.Dirs.Recovery(); s.Total != n || s.Done != n {
		t.Errorf("%+v, there are %d logs", s, n)
	}
}

// TestEmptyPartitionsNeedNoLog: whoever asks for the ends of partitions without records opens nothing.
func TestEmptyPartitionsNeedNoLog(t *testing.T) {
	m := newTestManager(t, vfs.NewMem())
	m.Apply(newCluster(t).next(topic(0, 1, 3)...))
	p := lookup(t, m, "t0")
	for _, committed := range []bool{true, false} {
		if at, err := p.Latest(3, committed); err != nil || at != (Offset{0, -1, 3}) {
			t.Errorf("latest: %+v, %v", at, err)
		}
	}
	if at, err := p.Earliest(-1); err != nil || at != (Offset{0, -1, -1}) {
		t.Errorf("earliest: %+v, %v", at, err)
	}
	if _, err := p.Latest(2, false); err == nil {
		t.Error("an old leader epoch is let in")
	}
	if p.Used() {
		t.Error("the log was opened")
	}
	appended, err := p.Append(oneRecord(t, "v"), AppendOptions{Acks: 1, NowMs: time.Now().UnixMilli()})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.WaitAck(t.Context(), new(AckWaiter), appended, time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if at, err := p.Latest(-1, false); err != nil || at.Offset != 1 {
		t.Errorf("latest after a record: %+v, %v", at, err)
	}
}

// TestMissingDirectoryIsOfflineAtTheStart: that the data of a partition is gone is known before anybody asks for it (S9).
func TestMissingDirectoryIsOfflineAtTheStart(t *testing.T) {
	mem := vfs.NewMem()
	c := newCluster(t)
	im := c.next(topic(0, 2, 0)...)
	first := startManager(t, mem)
	first.Apply(im)
	MakeReady(slices.Collect(first.All()))
	stopManager(t, first)
	mem = mem.Clone()
	if err := mem.Rename("/log/t0-1", "/elsewhere"); err != nil {
		t.Fatal(err)
	}
	m := newTestManager(t, mem)
	m.Apply(im)
	for i, offline := range []bool{false, true} {
		p, err := m.Lookup("t0", wire.UUID{}, int32(i))
		if err != nil {
			t.Fatal(err)
		}
		if IsOffline(p.Err()) != offline {
			t.Errorf("partition %d: %v", i, p.Err())
		}
	}
}

// TestIdlePartitionIsSmall bounds what a partition costs that nobody uses: far below what an open log costs.
func TestIdlePartitionIsSmall(t *testing.T) {
	const n, limit = 20_000, 1200 // bytes, about twice of what it is
	m := newTestManager(t, vfs.NewMem())
	im := newCluster(t).next(topic(0, n, 0)...)
	before := heap()
	m.Apply(im)
	each := (heap() - before) / n
	t.Logf("%d bytes each", each)
	if each > limit {
		t.Errorf("a partition that nobody uses takes %d bytes, more than %d", each, limit)
	}
	runtime.KeepAlive(im)
	runtime.KeepAlive(m)
}

func heap() int64 {
	runtime.GC()
	runtime.GC() // what finalizers and pools let go of
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

var _ storage.Owner = (*Partition)(nil)
