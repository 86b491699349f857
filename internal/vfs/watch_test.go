package vfs

import (
	"sync"
	"testing"
	"time"
)

// TestWatchSeesWhatHangs: the oldest operation that has not come back is known, and forgotten when it has.
func TestWatchSeesWhatHangs(t *testing.T) {
	reached, release := make(chan struct{}, 2), map[OpKind]chan struct{}{OpSync: make(chan struct{}), OpWrite: make(chan struct{})}
	var mu sync.Mutex
	hang := false
	w := NewWatch(NewFault(NewMem(), func(op Op) error {
		mu.Lock()
		wait := hang && release[op.Kind] != nil
		mu.Unlock()
		if wait {
			reached <- struct{}{}
			<-release[op.Kind]
		}
		return nil
	}))
	f, err := w.Open("/a", Create)
	check(t, err)
	put(t, w, "/b", "b")
	if p, ok := w.Oldest(); ok {
		t.Fatalf("nothing is under way but %+v", p)
	}
	mu.Lock()
	hang = true
	mu.Unlock()
	before := time.Now()
	var wg sync.WaitGroup
	wg.Go(func() { check(t, f.Sync()) })
	<-reached
	wg.Go(func() { write(t, f, "x", 0) })
	<-reached
	if p, ok := w.Oldest(); !ok || p.Kind != OpSync || p.Name != "/a" || p.Since.Before(before) {
		t.Errorf("the oldest is %+v, %v", p, ok)
	}
	close(release[OpSync])
	for {
		if p, ok := w.Oldest(); ok && p.Kind == OpWrite {
			break
		}
		time.Sleep(time.Millisecond)
	}
	close(release[OpWrite])
	wg.Wait()
	if p, ok := w.Oldest(); ok {
		t.Errorf("still %+v", p)
	}
	check(t, f.Close())
}

// TestWatchOfManyAtOnce: places in the list are kept right whoever ends first.
func TestWatchOfManyAtOnce(t *testing.T) {
	w := NewWatch(NewMem())
	f := open(t, w, "/f", Create)
	defer f.Close()
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 200 {
				write(t, f, "x", int64(g*200+i))
				w.Oldest()
			}
		})
	}
	wg.Wait()
	if len(w.mu.pending) != 0 || len(w.mu.free) > 16 {
		t.Errorf("%d under way, %d kept", len(w.mu.pending), len(w.mu.free))
	}
}
