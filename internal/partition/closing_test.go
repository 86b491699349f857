package partition

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"moldau/internal/storage"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// closingManager is a manager of n partitions, whose logs are closed as soon as nobody uses them.
func closingManager(t *testing.T, n int) *Manager {
	t.Helper()
	m := startManagerWith(t, storage.Options{FS: vfs.NewMem(), OpenLogs: 1, CloseRound: time.Millisecond})
	t.Cleanup(func() { stopManager(t, m) })
	m.Apply(newCluster(t).next(topic(0, n, 0)...))
	return m
}

func partitions(t *testing.T, m *Manager, n int) []*Partition {
	t.Helper()
	out := make([]*Partition, n)
	for i := range out {
		p, err := m.Lookup("t0", wire.UUID{}, int32(i))
		if err != nil {
			t.Fatal(err)
		}
		out[i] = p
	}
	return out
}

// appendOne appends a record, waits until it is acknowledged and reads it.
func appendOne(t *testing.T, p *Partition, value string) error {
	a, err := p.Append(oneRecord(t, value), AppendOptions{Acks: -1, NowMs: time.Now().UnixMilli()})
	if err != nil {
		return err
	}
	if err := p.WaitAck(t.Context(), new(AckWaiter), a, time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if hw := p.HighWatermark(); hw <= a.BaseOffset {
		return fmt.Errorf("offset %d is acknowledged, the high watermark is %d", a.BaseOffset, hw)
	}
	r, err := p.Read(ReadOptions{Offset: a.BaseOffset, CurrentEpoch: -1, FetchedEpoch: -1, MaxBytes: 1000, MinOne: true})
	if err != nil {
		return err
	}
	defer r.Plan.Release()
	if r.Plan.Len() == 0 || r.Plan.BaseOffset != a.BaseOffset || r.LastStable != r.HighWatermark {
		return fmt.Errorf("a read from %d on gives %+v", a.BaseOffset, r)
	}
	return nil
}

func waitClosed(t *testing.T, all []*Partition, left int) {
	t.Helper()
	for until := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		used := 0
		for _, p := range all {
			if p.Used() {
				used++
			}
		}
		if used <= left {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("%d logs are still open", used)
		}
	}
}

// TestNobodyNoticesThatLogsAreClosed: acknowledgements, high watermarks, reads, watches and lookups go on over the closing of logs.
func TestNobodyNoticesThatLogsAreClosed(t *testing.T) {
	const n, workers, each = 4, 4, 100
	m := closingManager(t, n)
	all := partitions(t, m, n)
	watch := NewWatcher()
	defer watch.Stop()
	for _, p := range all {
		p.Watch(watch)
	}
	var done sync.WaitGroup
	var counts [n]int
	var mu sync.Mutex // guards counts
	for worker := range workers {
		done.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(worker), 5))
			for k := range each {
				i := rnd.IntN(n)
				if err := appendOne(t, all[i], fmt.Sprint(worker, k)); err != nil {
					t.Errorf("partition %d: %v", i, err)
					return
				}
				mu.Lock()
				counts[i]++
				mu.Unlock()
				if rnd.IntN(10) == 0 {
					time.Sleep(4 * time.Millisecond) // so that there is something to close
				}
			}
		})
	}
	done.Wait()
	waitClosed(t, all, 1)
	if len(watch.News(nil)) != n {
		t.Error("a watch was not told of records")
	}
	for i, p := range all {
		want := int64(counts[i])
		if hw, end := p.HighWatermark(), p.LogEnd(); hw != want || end != want || p.Committed(p.Extent()) != want {
			t.Errorf("partition %d has %d records, high watermark %d, end %d", i, want, hw, end)
		}
		if at, err := p.Latest(-1, true); err != nil || at.Offset != want {
			t.Errorf("partition %d has %d records, and ends at %+v, %v", i, want, at, err)
		}
	}
}

// TestClosedPartitionKnowsItsEnd: what the metadata says of a partition while its log is closed counts, as it does for an open one: a
// leader epoch begins at the end that the log has.
func TestClosedPartitionKnowsItsEnd(t *testing.T) {
	m := startManagerWith(t, storage.Options{FS: vfs.NewMem(), OpenLogs: 1, CloseRound: time.Millisecond})
	defer stopManager(t, m)
	c := newCluster(t)
	m.Apply(c.next(topic(0, 2, 0)...))
	all := partitions(t, m, 2)
	for _, p := range all {
		for range 3 {
			if err := appendOne(t, p, "v"); err != nil {
				t.Fatal(err)
			}
		}
	}
	waitClosed(t, all, 1)
	m.Apply(c.next(topic(0, 2, 1)...))
	for i, p := range all {
		if at, err := p.Latest(1, false); err != nil || at.Offset != 3 || at.LeaderEpoch != 1 {
			t.Errorf("partition %d ends at %+v, %v", i, at, err)
		}
		if epoch, end, err := p.EndForEpoch(1, 0); err != nil || epoch != 0 || end != 3 {
			t.Errorf("partition %d: epoch %d ends at %d, %v", i, epoch, end, err)
		}
		if err := appendOne(t, p, "v"); err != nil {
			t.Errorf("partition %d: %v", i, err)
		}
	}
}
