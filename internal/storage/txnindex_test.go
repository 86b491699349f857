package storage

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// txnRig is a log of transactions on a disk that loses power. Nobody but the test makes points: the goroutine for them waits for held.
type txnRig struct {
	t     *testing.T
	mem   *vfs.Mem
	dir   *Dir
	held  *Log
	log   *Log
	other *Log // shares the journal
	safe  int64
	seqs  map[int64]int32
}

func newTxnRig(t *testing.T) *txnRig {
	r := &txnRig{t: t, mem: vfs.NewMem(), seqs: map[int64]int32{}}
	r.open()
	return r
}

func (r *txnRig) open() {
	r.t.Helper()
	var err error
	r.dir, err = OpenDir(Options{FS: r.mem, Path: "/data/log", MetaDir: "/data/meta", JournalBytes: 64 << 10,
		PointBytes: 1 << 40, UnflushedBytes: 1 << 40, ProducerIDExpiry: time.Hour, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.held = &Log{dir: r.dir, flushed: func() {}}
	r.held.safe.Store(&mark{})
	r.held.files.Lock()
	r.dir.requestPoint(r.held)
	for i, l := range []**Log{&r.log, &r.other} {
		*l, err = r.dir.OpenLog(TopicPartition{"t", int32(i)}, wire.UUID{1},
			LogConfig{SegmentBytes: 1 << 20, FlushMessages: 1, IndexIntervalBytes: 100, MaxInflatedBytes: 1 << 20}, func() {})
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

// crash loses the power; what the log says afterwards has to be true.
func (r *txnRig) crash(rnd *rand.Rand) {
	r.t.Helper()
	r.safe = min(max(r.safe, r.log.Flushed()), r.log.End())
	mem := r.mem.Crash(rnd)
	r.close()
	r.mem = mem
	r.open()
	r.check()
}

func (r *txnRig) close() error {
	r.held.files.Unlock()
	return r.dir.Close()
}

// check compares the transaction index with the batches.
func (r *txnRig) check() {
	r.t.Helper()
	l, ps := r.log, newProducers()
	var want []AbortedTxn
	for at := l.Start(); at < l.End(); {
		p, err := l.Read(at, l.End(), 1<<20, true, 0)
		if err != nil {
			r.t.Fatal(err)
		}
		data, next, err := planBatches(p)
		for err == nil && len(data) > 0 {
			var b record.Batch
			if b, data, err = record.Parse(data); err == nil {
				if a, ok := ps.apply(b, 0); ok {
					a.LastStableOffset = ps.firstOpen(b.NextOffset())
					want = append(want, a)
				}
			}
		}
		if err != nil {
			r.t.Fatal(err)
		}
		at = next
	}
	if got := l.Aborted(0, 1<<60); !slices.Equal(got, want) {
		r.t.Fatalf("aborted transactions %v, the batches say %v", got, want)
	}
	if l.End() < r.safe {
		r.t.Fatalf("the log ends at %d, flushed was %d", l.End(), r.safe)
	}
	r.seqs = map[int64]int32{}
	for id, p := range ps.byID {
		if n := len(p.window); n > 0 {
			r.seqs[id] = p.window[n-1].lastSeq + 1
		}
	}
}

// txns appends n records in transactions of three producers; about every second transaction is aborted.
func (r *txnRig) txns(rnd *rand.Rand, n int) {
	for range n {
		id := 1 + rnd.Int64N(3)
		put(r.t, r.log, 1, fmt.Sprintf("%d=%d", id, r.seqs[id]), by(id, r.seqs[id]), inTxn)
		r.seqs[id]++
		if rnd.IntN(3) == 0 {
			endTxn(r.t, r.log, id, record.ControlType(rnd.IntN(2)), 1)
		}
	}
}

// flush waits until what was appended is flushed.
func (r *txnRig) flush(l *Log) {
	r.t.Helper()
	l.RequestFlush(l.End())
	for l.Flushed() < l.End() {
		if err := r.dir.Err(); err != nil {
			r.t.Fatal(err)
		}
		time.Sleep(10 * time.Microsecond)
	}
}

// TestTruncationKeepsAbortedTransactions: wherever the power goes while a point is made of rolled segments, and then again while the log is
// truncated before there is a new point, every aborted transaction whose marker is left is known. A snapshot of such a point may be
// there without the transaction index that was written before it.
func TestTruncationKeepsAbortedTransactions(t *testing.T) {
	points, disks, truncations := 0, 0, 0
	for after := 1; after < 60; after++ {
		rnd := rand.New(rand.NewPCG(1, uint64(after)))
		r := newTxnRig(t)
		for i := 0; r.dir.journal.last.Load() == 0; i++ {
			put(t, r.other, 1, fmt.Sprintf("k=%d", i))
			r.flush(r.other)
		}
		put(t, r.log, 1, "k=v")
		if err := r.log.savePoint(); err != nil { // before the first transaction, so that there is no index of them yet
			t.Fatal(err)
		}
		for range 1 + rnd.IntN(3) {
			r.txns(rnd, 6)
			roll(t, r.dir, r.log)
		}
		for range 3 { // the first flush names the segment, the next ones go into the journal
			r.txns(rnd, 3)
			r.flush(r.log)
		}
		r.mem.PowerLossAfter(after)
		err := r.log.savePoint()
		if err == nil {
			points++
		}
		r.safe = r.log.Flushed()
		disk, segments := r.mem, r.log.view.Load().segments
		for loss := range 30 {
			mem := disk.Crash(rnd)
			if loss == 0 {
				r.close()
			} else if err == nil || !slices.ContainsFunc(segments, func(s *segment) bool { return exists(mem, s.path(snapshotSuffix)) }) {
				continue // no more interesting than the first
			}
			disks++
			r := &txnRig{t: t, mem: mem, safe: r.safe}
			r.open()
			r.check()
			r.txns(rnd, 3)
			if rnd.IntN(2) == 0 {
				r.flush(r.log)
			}
			to := segments[len(segments)-1].base
			if rnd.IntN(3) == 0 {
				to = 0
			}
			to += rnd.Int64N(r.log.End() - to)
			r.safe = min(r.safe, to)
			if rnd.IntN(3) > 0 {
				r.mem.PowerLossAfter(1 + rnd.IntN(60))
			}
			if err := r.log.Truncate(to); err == nil {
				truncations++
			} else if r.dir.Err() == nil && !errors.Is(err, vfs.ErrPowerLoss) {
				t.Fatal(err)
			}
			r.crash(rnd)
			r.txns(rnd, 3)
			r.flush(r.log)
			if err := r.log.savePoint(); err != nil {
				t.Fatal(err)
			}
			r.crash(rnd)
			if err := r.close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d points and %d of %d truncations came to their end", points, truncations, disks)
	if points == 0 || truncations == 0 {
		t.Error("the power went too early every time")
	}
}
