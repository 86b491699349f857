package group

import "math"

// alarm is what a timer belongs to: a member's session, a group's phase, or what a member of a consumer group is to do in time.
// Moving the deadline later is a store (heartbeats do that); the timer finds out when it fires, and goes back into the heap.
type alarm struct {
	deadlineMs int64
	armedMs    int64 // when the timer in the heap fires; meaningful while armed
	version    uint32
	armed      bool
}

// timer is an entry of the heap. It is void unless its version is still that of its alarm.
type timer struct {
	atMs    int64
	seq     uint64 // ties fire in the order in which they were set
	version uint32
	c       *classic
	m       *member // nil: the group's phase
	w       *watch  // of a consumer group; c and m are nil then
	duty    duty
}

func (t timer) alarm() *alarm {
	switch {
	case t.w != nil:
		return &t.w.alarms[t.duty]
	case t.m != nil:
		return &t.m.alarm
	}
	return &t.c.alarm
}

func (t timer) void() bool { a := t.alarm(); return !a.armed || a.version != t.version }

// timers is a heap of timers, of which some are void.
type timers struct {
	heap  []timer
	seq   uint64
	voids int // at most; they are swept out when they are the majority
}

// set lets the alarm of m, or of the group where m is nil, go off at atMs.
func (h *timers) set(c *classic, m *member, atMs int64) { h.arm(timer{atMs: atMs, c: c, m: m}) }

// setDuty lets a member of a consumer group be fenced at atMs unless it does what it is to do.
func (h *timers) setDuty(w *watch, d duty, atMs int64) { h.arm(timer{atMs: atMs, w: w, duty: d}) }

func (h *timers) arm(t timer) {
	a, atMs := t.alarm(), t.atMs
	a.deadlineMs = atMs
	if a.armed && a.armedMs <= atMs {
		return
	}
	h.cancel(a)
	a.armed, a.armedMs = true, atMs
	h.seq++
	t.seq, t.version = h.seq, a.version
	h.push(t)
}

func (h *timers) cancel(a *alarm) {
	if a.armed {
		a.armed = false
		a.version++
		h.voids++
	}
}

// next is when the first timer fires, math.MaxInt64 for never.
func (h *timers) next() int64 {
	for len(h.heap) > 0 && h.heap[0].void() {
		h.pop()
		h.voids--
	}
	if len(h.heap) == 0 {
		return math.MaxInt64
	}
	return h.heap[0].atMs
}

// due takes out the next alarm that has gone off by nowMs.
func (h *timers) due(nowMs int64) (timer, bool) {
	for h.next() <= nowMs {
		t := h.pop()
		a := t.alarm()
		a.armed = false
		a.version++
		if a.deadlineMs <= nowMs {
			return t, true
		}
		t.atMs = a.deadlineMs
		h.arm(t)
	}
	return timer{}, false
}

func (h *timers) less(i, j int) bool {
	a, b := &h.heap[i], &h.heap[j]
	return a.atMs < b.atMs || a.atMs == b.atMs && a.seq < b.seq
}

func (h *timers) push(t timer) {
	if h.voids > 64 && h.voids > len(h.heap)/2 {
		h.sweep()
	}
	h.heap = append(h.heap, t)
	for i := len(h.heap) - 1; i > 0; {
		parent := (i - 1) / 2
		if !h.less(i, parent) {
			break
		}
		h.heap[i], h.heap[parent] = h.heap[parent], h.heap[i]
		i = parent
	}
}

func (h *timers) pop() timer {
	t := h.heap[0]
	last := len(h.heap) - 1
	h.heap[0] = h.heap[last]
	h.heap[last] = timer{}
	h.heap = h.heap[:last]
	h.down(0)
	return t
}

func (h *timers) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(h.heap) {
			return
		}
		if child+1 < len(h.heap) && h.less(child+1, child) {
			child++
		}
		if !h.less(child, i) {
			return
		}
		h.heap[i], h.heap[child] = h.heap[child], h.heap[i]
		i = child
	}
}

func (h *timers) sweep() {
	kept := h.heap[:0]
	for _, t := range h.heap {
		if !t.void() {
			kept = append(kept, t)
		}
	}
	clear(h.heap[len(kept):])
	h.heap = kept
	h.voids = 0
	for i := len(kept)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
}
