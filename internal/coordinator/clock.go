package coordinator

import (
	"container/heap"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"moldau/internal/coordinator/shard"
	"moldau/internal/partition"
)

// clock wakes shards when their time has come: one goroutine for all of them, which sleeps until the earliest.
type clock[C shard.Core] struct {
	mu struct {
		sync.Mutex // guards the following; a leaf
		due        dueHeap[C]
		settling   []settling[C]
		sleeps     int64 // MonoMs until which the goroutine sleeps at most
	}
	wake    chan struct{}      // capacity 1: look again
	watcher *partition.Watcher // of the settling shards; used by the clock's goroutine only
}

// settling is a shard that waits for its high watermark.
type settling[C shard.Core] struct {
	s   *runner[C]
	end int64
}

// clockEntry is a shard's place in the clock. It may come up earlier than the shard wants: deadlines mostly move
// away, with every heartbeat, and moving the entry along would cost a lock each time.
type clockEntry struct {
	due   atomic.Int64 // MonoMs, MaxInt64 while it is not in the heap; changes under clock.mu
	index int          // in the heap; guarded by clock.mu
}

func (e *clockEntry) init() { e.due.Store(math.MaxInt64) }

// set makes s come up at a time or before.
func (c *clock[C]) set(s *runner[C], at int64) {
	if s.clock.due.Load() <= at {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	queued := s.clock.due.Load() < math.MaxInt64
	s.clock.due.Store(at)
	if queued {
		heap.Fix(&c.mu.due, s.clock.index)
	} else {
		heap.Push(&c.mu.due, s)
	}
	if at < c.mu.sleeps {
		c.mu.sleeps = at
		c.signal()
	}
}

// settle makes s active as soon as its high watermark has reached end.
func (c *clock[C]) settle(s *runner[C], end int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.settling = append(c.mu.settling, settling[C]{s, end})
	c.signal()
}

func (c *clock[C]) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *clock[C]) remove(s *runner[C]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.clock.due.Load() < math.MaxInt64 {
		heap.Remove(&c.mu.due, s.clock.index)
	}
}

// startClock wakes shards until the runtime is closed.
func (r *Runtime[C]) startClock() {
	defer close(r.slept)
	defer r.clock.watcher.Stop()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-r.clock.wake:
		case <-r.clock.watcher.Wake:
		case <-r.stop:
			return
		}
		now := r.now().MonoMs
		due, settled, next := r.takeDue(now)
		for _, s := range due {
			r.tasks.Go(s.tick) // a shard whose disk is slow holds up no other
		}
		for _, s := range settled {
			r.tasks.Go(s.activate)
		}
		timer.Reset(time.Duration(min(next-now, time.Hour.Milliseconds())) * time.Millisecond)
	}
}

// takeDue takes out the shards whose time has come, and those that have settled. next is when to look again.
func (r *Runtime[C]) takeDue(now int64) (due, settled []*runner[C], next int64) {
	c := &r.clock
	c.mu.Lock()
	defer c.mu.Unlock()
	next = now + time.Hour.Milliseconds()
	for len(c.mu.due) > 0 {
		s := c.mu.due[0]
		if at := s.clock.due.Load(); at > now {
			next = min(next, at)
			break
		}
		due = append(due, heap.Pop(&c.mu.due).(*runner[C]))
	}
	c.mu.sleeps = next
	c.watcher.Stop()
	var left []settling[C]
	for _, e := range c.mu.settling {
		if e.s.state.Load() != stateSettling {
			continue // closed meanwhile
		}
		e.s.p.Watch(c.watcher)              // first watch, then look: nothing is missed
		if e.s.p.HighWatermark() >= e.end { // protection: settled
			settled = append(settled, e.s)
		} else {
			left = append(left, e)
		}
	}
	c.mu.settling = left
	return due, settled, next
}

// dueHeap is a heap of shards by due; they know their places.
type dueHeap[C shard.Core] []*runner[C]

func (h dueHeap[C]) Len() int           { return len(h) }
func (h dueHeap[C]) Less(i, j int) bool { return h[i].clock.due.Load() < h[j].clock.due.Load() }
func (h dueHeap[C]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].clock.index, h[j].clock.index = i, j
}

// Push implements heap.Interface.
func (h *dueHeap[C]) Push(x any) {
	s := x.(*runner[C])
	s.clock.index = len(*h)
	*h = append(*h, s)
}

// Pop implements heap.Interface.
func (h *dueHeap[C]) Pop() any {
	old := *h
	s := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	s.clock.due.Store(math.MaxInt64)
	return s
}
