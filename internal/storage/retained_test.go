package storage

import (
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

// opCount counts what a log asks of its file system.
type opCount struct {
	mu   sync.Mutex // guards n
	n    map[string]int
	size int64
}

func (c *opCount) rule(op vfs.Op) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if op.Kind == vfs.OpSpace {
		return nil // once a second, whatever happens
	}
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[op.Kind.String()]++
	if op.Kind == vfs.OpRead || op.Kind == vfs.OpTryRead || op.Kind == vfs.OpWrite {
		c.size += op.Len
	}
	return nil
}

// take returns what was counted since the last time.
func (c *opCount) take() (ops map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ops = c.n
	c.n, c.size = nil, 0
	return ops
}

// grows says whether many is a cost that grows with what is retained: there is a hundred times as much of it. How flushes go by the journal
// or not, and with that a share of the operations, is a matter of timing.
func grows(few, many map[string]int) bool {
	for kind, n := range many {
		if n > 2*few[kind]+20 {
			return true
		}
	}
	return false
}

// retained is a log with a number of segments behind its end, one small batch in each.
type retained struct {
	t     *testing.T
	d     *Dir
	l     *Log
	count *opCount
}

func newRetained(t *testing.T, segments int) *retained {
	r := &retained{t: t, count: &opCount{}}
	cfg := testConfig()
	cfg.SegmentBytes = 300 // room for one batch
	var err error
	o := Options{FS: vfs.NewFault(vfs.NewMem(), r.count.rule), Path: "/d/log", MetaDir: "/d/meta", OpenFiles: 5}
	o.JournalBytes = -1 // which of its files comes when is no matter of what is retained
	if r.d, err = OpenDir(o); err != nil {
		t.Fatal(err)
	}
	if r.l, err = r.d.OpenLog(testTP, testID, cfg, func() {}); err != nil {
		t.Fatal(err)
	}
	for r.l.Segments() < segments {
		r.append()
	}
	r.settle()
	return r
}

func (r *retained) append() {
	r.t.Helper()
	b := record.NewBuilder(record.None)
	b.Add(1000+r.l.End(), []byte("key"), []byte(strings.Repeat("x", 150)))
	out, err := b.Finish()
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.l.Append(out, AppendOptions{LeaderEpoch: 3, NowMs: 1000 + r.l.End()}); err != nil {
		r.t.Fatal(err)
	}
}

// settle waits until everything is flushed and no point is wanted.
func (r *retained) settle() {
	r.t.Helper()
	waitFlushed(r.t, r.d, r.l)
	r.l.SetCommitted(r.l.End())
	for busy := true; busy; time.Sleep(20 * time.Microsecond) {
		r.d.mu.Lock()
		busy = len(r.d.mu.points) > 0
		r.d.mu.Unlock()
		if r.l.files.TryLock() {
			r.l.mu.Lock()
			busy = busy || len(r.l.mu.seals) > 0
			r.l.mu.Unlock()
			r.l.files.Unlock()
		} else {
			busy = true
		}
	}
}

// tail reads what is at the end.
func (r *retained) tail(from int64) {
	r.t.Helper()
	p, err := r.l.Read(from, r.l.End(), 1<<20, true, CopyBelow)
	if err != nil {
		r.t.Fatal(err)
	}
	if p.Len() == 0 {
		r.t.Fatalf("nothing at offset %d", from)
	}
	p.Release()
}

// produceAndFetch appends to the last segment and reads it, n times, and returns what it took.
func (r *retained) produceAndFetch(n int) (ops map[string]int, allocations float64) {
	cfg := r.l.Config()
	cfg.SegmentBytes = 1 << 30
	r.l.SetConfig(cfg)
	once := func() {
		at := r.l.End()
		r.append()
		waitFlushed(r.t, r.d, r.l)
		r.tail(at)
	}
	once() // what is made at the first time
	runtime.GC()
	r.count.take()
	allocations = testing.AllocsPerRun(n, once)
	return r.count.take(), allocations
}

// TestCostDoesNotGrowWithWhatIsRetained: with a hundred times as much behind it, an append, a flush, a fetch at the end, a roll with its point and a
// look for what retention may take ask the same of the file system, and allocate as often.
func TestCostDoesNotGrowWithWhatIsRetained(t *testing.T) {
	few, many := newRetained(t, 10), newRetained(t, 1000)
	fewOps, fewAllocs := few.produceAndFetch(200)
	manyOps, manyAllocs := many.produceAndFetch(200)
	if grows(fewOps, manyOps) {
		t.Errorf("appends, flushes and fetches at the end:\n%4d segments: %v\n%4d segments: %v", few.l.Segments(), fewOps, many.l.Segments(), manyOps)
	}
	if manyAllocs > fewAllocs+1 {
		t.Errorf("an append, a flush and a fetch allocate %.1f times with %d segments, %.1f with %d", manyAllocs, many.l.Segments(), fewAllocs, few.l.Segments())
	}
	t.Logf("an append, a flush and a fetch: %v in 201 rounds, %.1f and %.1f allocations each", manyOps, fewAllocs, manyAllocs)
	for what, do := range map[string]func(r *retained){
		"a roll with its point": func(r *retained) {
			r.l.files.Lock() // the point comes behind the append
			r.l.mu.Lock()
			_, err := r.l.rollLocked(1)
			r.l.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			r.append()
			waitFlushed(t, r.d, r.l)
			r.l.files.Unlock()
			r.settle()
		},
		"a look for what retention may take": func(r *retained) {
			if _, err := r.l.retain(1); err != nil {
				t.Fatal(err)
			}
		},
		"a fetch at the beginning": func(r *retained) { r.tail(0) },
		"a lookup by offset in the middle": func(r *retained) {
			r.tail(r.l.Start() + (r.l.End()-r.l.Start())/20)
		},
	} {
		var ops [2]map[string]int
		for i, r := range []*retained{few, many} {
			do(r)
			r.settle()
			r.count.take()
			do(r)
			r.settle()
			ops[i] = r.count.take()
		}
		if grows(ops[0], ops[1]) {
			t.Errorf("%s:\n%4d segments: %v\n%4d segments: %v", what, few.l.Segments(), ops[0], many.l.Segments(), ops[1])
		}
	}
	mustClose(t, few.d)
	mustClose(t, many.d)
}
