package storage

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

// closerWorld is a log dir with logs of a few records each, of which two may stay open.
type closerWorld struct {
	t    *testing.T
	mem  *vfs.Mem
	d    *Dir
	held []*Held
}

func newCloserWorld(t *testing.T, logs int, o Options) *closerWorld {
	t.Helper()
	w := &closerWorld{t: t, mem: vfs.NewMem()}
	o.FS, o.Path, o.MetaDir = w.mem, "/d/log", "/d/meta"
	setDefault(&o.OpenLogs, 2)
	setDefault(&o.CloseRound, time.Hour) // the tests make the rounds
	var err error
	if w.d, err = OpenDir(o); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig()
	w.held = heldAll(t, w.d, logs, &cfg, &committer{})
	for _, h := range w.held {
		w.append(h, 3)
	}
	return w
}

func (w *closerWorld) append(h *Held, records int) {
	w.t.Helper()
	l, err := h.Use()
	if err != nil {
		w.t.Fatal(err)
	}
	defer h.Done()
	fillLog(w.t, w.d, l, records)
}

func (w *closerWorld) open() (n int) {
	for _, h := range w.held {
		if h.Log() != nil {
			n++
		}
	}
	return n
}

// ends checks that every log ends there, and has its records.
func (w *closerWorld) ends(want int64) {
	w.t.Helper()
	for i, h := range w.held {
		l, err := h.Use()
		if err != nil {
			w.t.Fatal(err)
		}
		if l.End() != want || l.Flushed() != want {
			w.t.Errorf("log %d ends at %d, flushed to %d, not %d", i, l.End(), l.Flushed(), want)
		}
		for at := int64(0); at < want; at++ {
			p, err := l.Read(at, l.End(), 1, true, CopyBelow)
			if err != nil || p.Len() == 0 || p.BaseOffset != at {
				w.t.Fatalf("log %d, offset %d: %+v, %v", i, at, p, err)
			}
			p.Release()
		}
		h.Done()
	}
}

// TestIdleLogsAreClosed: so many stay open, and those in use; the others are closed in the second round without a use, are told of as they are,
// and are opened again by whoever needs them. A stop writes nothing for those that are closed.
func TestIdleLogsAreClosed(t *testing.T) {
	const logs = 20
	w := newCloserWorld(t, logs, Options{})
	if _, err := w.held[7].Use(); err != nil {
		t.Fatal(err)
	}
	if w.d.closeIdle(); w.open() != logs {
		t.Fatalf("%d logs are open after a round in which all were used", w.open())
	}
	w.append(w.held[9], 0)
	if w.d.closeIdle(); w.open() != 2 || w.held[7].Log() == nil || w.held[9].Log() == nil {
		t.Fatalf("%d logs are open after a round in which one was used, and one is in use", w.open())
	}
	for i, h := range w.held {
		if x := h.Extent(); x.End != 3 || x.Segments != 1 || x.Bytes == 0 {
			t.Errorf("log %d is said to have %+v", i, x)
		}
	}
	if few := w.d.closeIdle(); !few {
		t.Error("the closer goes on, though few enough are open")
	}
	w.held[7].Done()
	w.ends(3)
	for range 2 {
		w.d.closeIdle()
	}
	if w.open() != 2 {
		t.Errorf("%d logs are open again", w.open())
	}
	w.append(w.held[0], 1)
	closed := w.held[slices.IndexFunc(w.held, func(h *Held) bool { return h.Log() == nil })]
	point := w.d.manifest.entry(closed.key()).point
	mustClose(t, w.d)
	if e := readEntry(t, w.mem, closed.key()); !e.resting || !slices.Equal(e.point, point) {
		t.Errorf("the stop changed what the manifest says of a closed log: %+v", e)
	}
	d := openDir(t, w.mem.Clone())
	cfg := testConfig()
	for i, h := range heldAll(t, d, logs, &cfg, &committer{}) {
		if l, err := h.Open(); err != nil || l.End() != 3+int64(btoi(i == 0)) {
			t.Errorf("log %d after a restart: %v, %v", i, l, err)
		}
	}
	mustClose(t, d)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

func readEntry(t *testing.T, fsys vfs.FS, key partitionKey) *manifestEntry {
	t.Helper()
	entries, err := readManifest(fsys, "/d/meta")
	if err != nil || entries[key] == nil {
		t.Fatalf("%v, %v", entries[key], err)
	}
	return entries[key]
}

// TestUseKeepsALogOpen: between Use and Done there is one log, whatever the closer does (S18).
func TestUseKeepsALogOpen(t *testing.T) {
	w := newCloserWorld(t, 1, Options{})
	h := w.held[0]
	l, err := h.Use()
	if err != nil {
		t.Fatal(err)
	}
	if n := w.d.closeAll(w.held); n != 0 || h.Log() != l || l.Err() != nil {
		t.Fatalf("%d closed, log in use %p, now %p: %v", n, l, h.Log(), l.Err())
	}
	h.Done()
	if n := w.d.closeAll(w.held); n != 1 || h.Log() != nil || l.Err() == nil {
		t.Fatalf("%d closed, log %p, now %p: %v", n, l, h.Log(), l.Err())
	}
	mustClose(t, w.d)
}

// TestChangedLogStaysOpen: what comes between the writing of a log's files and its closing keeps it open.
func TestChangedLogStaysOpen(t *testing.T) {
	w := newCloserWorld(t, 1, Options{})
	h := w.held[0]
	for what, change := range []func(l *Log){
		func(*Log) { w.append(h, 1) },
		func(l *Log) { l.SetCommitted(l.End()); must(t, l.RaiseStart(l.Start()+1)) },
		func(l *Log) { must(t, l.Truncate(l.End()-1)) },
	} {
		l := h.Log()
		now, err := l.leave()
		must(t, err)
		change(l)
		if h.close(l, now) {
			t.Fatalf("the log was closed after change %d", what)
		}
	}
	if w.d.closeAll(w.held) != 1 {
		t.Error("the log was not closed, though it has not changed since it was left")
	}
	mustClose(t, w.d)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestPointAfterLeaving: a point that comes between the writing of a log's files and their sync makes them durable itself: it says that they are.
func TestPointAfterLeaving(t *testing.T) {
	w := newCloserWorld(t, 1, Options{PointBytes: 1 << 30})
	l := w.held[0].Log()
	l.files.Lock() // the point of the roll comes later
	l.mu.Lock()
	_, err := l.rollLocked(1000)
	l.mu.Unlock()
	must(t, err)
	w.append(w.held[0], 1)
	_, err = l.leaveFiles()
	l.files.Unlock()
	must(t, err)
	must(t, l.savePoint())
	// The snapshot of a segment that was just begun is there for good.
	l.mu.Lock()
	_, err = l.rollLocked(1000)
	l.mu.Unlock()
	must(t, err)
	must(t, l.savePoint())
	_, err = l.leave()
	must(t, err)
	w.append(w.held[0], 1)
	l.mu.Lock()
	_, err = l.rollLocked(1000)
	l.mu.Unlock()
	must(t, err)
	must(t, l.savePoint())
	for seed := range uint64(100) {
		mem := w.mem.Crash(rand.New(rand.NewPCG(seed, 6)))
		if err := wantClean(mem, "/d/log", "/d/meta"); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
	w.d.Close() // its disk is gone
}

// TestClosedLogWritesNothing: what was asked for before a log was closed changes nothing of what the manifest says of it at rest.
func TestClosedLogWritesNothing(t *testing.T) {
	w := newCloserWorld(t, 1, Options{})
	h := w.held[0]
	l := h.Log()
	if w.d.closeAll(w.held) != 1 {
		t.Fatal("the log was not closed")
	}
	must(t, l.savePoint())
	l.noted.Store(true)
	if wrote, err := l.saveFlushed(); wrote || err != nil {
		t.Errorf("a flushed record was written: %v", err)
	}
	if e := w.d.manifest.entry(h.key()); !e.resting {
		t.Error("a point was written of a log that is closed")
	}
	w.ends(3)
	mustClose(t, w.d)
}

// TestClosedLogsSurviveThePower: a log that was closed loses nothing with the power, though its rest may be lost.
func TestClosedLogsSurviveThePower(t *testing.T) {
	for seed := range uint64(50) {
		w := newCloserWorld(t, 4, Options{})
		if n := w.d.closeAll(w.held); n != 4 {
			t.Fatalf("%d of 4 logs were closed", n)
		}
		w.append(w.held[1], 2)
		w.d.closeAll(w.held[:1])
		mem := w.mem.Crash(rand.New(rand.NewPCG(seed, 3)))
		w.d.Close() // its disk is gone
		d := openDir(t, mem)
		cfg := testConfig()
		for i, h := range heldAll(t, d, 4, &cfg, &committer{}) {
			if l, err := h.Open(); err != nil || l.End() != int64(3+2*btoi(i == 1)) {
				t.Fatalf("seed %d: log %d ends at %v, %v", seed, i, l, err)
			}
		}
		mustClose(t, d)
	}
}

// TestRestIsDurableBeforeItIsUsed: who opens a log that the closer has closed removes what lies below the point of its rest, so a power loss must not
// bring back an older point.
func TestRestIsDurableBeforeItIsUsed(t *testing.T) {
	w := newCloserWorld(t, 1, Options{})
	h := w.held[0]
	l := h.Log()
	w.d.mu.Lock()
	w.d.mu.wanted[l] = true // so that the roll brings no point
	w.d.mu.Unlock()
	l.mu.Lock()
	_, err := l.rollLocked(1000)
	l.mu.Unlock()
	must(t, err)
	w.append(h, 2)
	l.SetCommitted(l.End())
	must(t, l.RaiseStart(3))
	all, errs := w.d.leaveAll([]*Log{l}, 1, (*Log).leave)
	if len(errs) > 0 || !h.close(l, all[0]) {
		t.Fatalf("the log was not closed: %v", errs)
	}
	if l, err := h.Open(); err != nil || l.Segments() != 1 {
		t.Fatalf("%v, %v", l, err)
	}
	for seed := range uint64(100) {
		d := openDir(t, w.mem.Crash(rand.New(rand.NewPCG(seed, 9))))
		cfg := testConfig()
		if l, err := heldAll(t, d, 1, &cfg, &committer{})[0].Open(); err != nil || l.Start() != 3 || l.End() != 5 {
			t.Fatalf("seed %d: %v, %v", seed, l, err)
		}
		mustClose(t, d)
	}
	w.d.Close() // its disk is gone
}

// TestClosingUnderLoad: writers, readers, points, retention and the scrub find every log, whenever they come, while the closer closes what it can.
func TestClosingUnderLoad(t *testing.T) {
	const logs, workers, each = 6, 4, 150
	w := newCloserWorld(t, logs, Options{OpenLogs: 1, CloseRound: time.Millisecond, PointBytes: 300, PoisonBuffers: true})
	w.d.Scrub(1 << 30)
	w.d.Clean(Cleaning{RetentionCheck: time.Millisecond, InitialDelay: 1, Compact: true, CompactBackoff: time.Millisecond})
	var ends [logs]atomic.Int64
	for i := range ends {
		ends[i].Store(3)
	}
	var all sync.WaitGroup
	stop := make(chan struct{})
	all.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				w.d.closeAll(w.held)
			}
		}
	})
	var work sync.WaitGroup
	for worker := range workers {
		work.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(worker), 4))
			for range each {
				i := rnd.IntN(logs)
				if err := useOnce(w.held[i], &ends[i], rnd.IntN(2) == 0); err != nil {
					t.Errorf("log %d: %v", i, err)
					return
				}
			}
		})
	}
	work.Wait()
	close(stop)
	all.Wait()
	for i, h := range w.held {
		l, err := h.Open()
		if err != nil || l.End() != ends[i].Load() {
			t.Errorf("log %d: %v, %v, want the end %d", i, l, err, ends[i].Load())
		}
	}
	mustClose(t, w.d)
}

func testRecord(tsMs int64) record.Batch {
	b := record.NewBuilder(record.None)
	b.Add(tsMs, []byte("key"), []byte("value"))
	out, err := b.Finish()
	if err != nil {
		panic(err)
	}
	return out
}

// useOnce appends a record, or reads what is there.
func useOnce(h *Held, end *atomic.Int64, write bool) error {
	l, err := h.Use()
	if err != nil {
		return err
	}
	defer h.Done()
	if write {
		if _, err := l.Append(testRecord(l.End()), AppendOptions{LeaderEpoch: 3, NowMs: 1000}); err != nil {
			return err
		}
		end.Add(1)
		return nil
	}
	upTo := l.End()
	if upTo < 3 {
		return fmt.Errorf("it ends at %d", upTo)
	}
	p, err := l.Read(0, upTo, 1, true, CopyBelow)
	if err != nil {
		return err
	}
	defer p.Release()
	if p.Len() == 0 || p.BaseOffset != 0 {
		return fmt.Errorf("the first record is %+v", p)
	}
	return nil
}

// What a stop left below the log start is removed by the next start. A log that is closed after that, unchanged, is not said to have it.
func TestClosedAfterRetentionWasFinished(t *testing.T) {
	mem := vfs.NewMem()
	hold := func() (*Dir, *Held) {
		d, err := OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/meta"})
		if err != nil {
			t.Fatal(err)
		}
		h, cfg := &Held{}, testConfig()
		if err := d.Hold(h, testTP, testID, &cfg, flushedFunc(func() {})); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Open(); err != nil {
			t.Fatal(err)
		}
		return d, h
	}
	d, h := hold()
	fillLog(t, d, h.Log(), 80)
	segments := h.Log().Segments()
	v := h.Log().view.Load()
	h.Log().SetCommitted(h.Log().End())
	if err := h.Log().RaiseStart(v.segments[1].base + 1); err != nil {
		t.Fatal(err)
	}
	mustClose(t, d)
	mem = mem.Clone()
	d, h = hold()
	l := h.Log()
	if l.Segments() >= segments {
		t.Fatalf("%d segments of %d: the test shows nothing", l.Segments(), segments)
	}
	want := Extent{l.Start(), l.End(), l.SizeBytes(), l.Segments(), 0}
	if closed := d.closeAll([]*Held{h}); closed != 1 {
		t.Fatal("the log was not closed")
	}
	if got := h.Extent(); got != want {
		t.Errorf("a closed log is said to have %+v, it has %+v", got, want)
	}
	mustClose(t, d)
}
