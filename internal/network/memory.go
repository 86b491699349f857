package network

import (
	"slices"
	"sync"
	"sync/atomic"
)

const (
	smallBytes = 4 << 10  // a frame up to this is copied out of the receive slab, so that a parked call pins no slab
	slabBytes  = 64 << 10 // one recv
	chunkBytes = 128 << 10
)

// slabClasses are the pooled sizes; beyond the last a buffer is made and left to the collector. 28 KiB hold the largest message that
// a client may send before it is known (sasl.server.max.receive.size), and are a class of the Go runtime.
var slabClasses = [...]int{512, smallBytes, 16 << 10, 28 << 10, slabBytes, chunkBytes, 256 << 10, 1 << 20, 4 << 20}

// slab is a counted buffer. The last unref gives it and its charge back.
type slab struct {
	buf       []byte
	refs      atomic.Int32
	mem       *memory
	class     int8    // index into slabClasses, -1 when not pooled
	budget    *budget // that it is charged to; nil: none
	overdraft bool    // holds the budget's one overdraft
	charged   int64   // bytes to give back to the budget
}

func (s *slab) ref() { s.refs.Add(1) }

func (s *slab) unref() {
	n := s.refs.Add(-1)
	if n > 0 {
		return
	}
	if n < 0 {
		panic("BUG: slab released twice")
	}
	if s.budget != nil {
		s.budget.give(s.charged, s.overdraft)
		s.budget, s.charged, s.overdraft = nil, 0, false
	}
	if s.mem.poison {
		for i := range s.buf {
			s.buf[i] = 0xDB
		}
	}
	if s.class >= 0 {
		s.mem.pools[s.class].Put(s)
	}
}

// strangersShare is the part of the budget that strangers have in common.
const strangersShare = 4

// memory is a server's pooled buffers, and its budgets for request bytes. Who has not said yet who he is has a budget of his
// own, so that strangers with half a request each keep each other waiting and nobody else.
type memory struct {
	pools  [len(slabClasses)]sync.Pool
	poison bool // overwrite what is released

	known, strangers budget
}

// budget bounds the bytes in memory of requests that have come or are coming.
type budget struct {
	mem *memory

	mu        sync.Mutex // guards the following
	free      int64      // below zero by small frames and by the overdraft
	overdrawn bool       // one large frame has leave to go beyond the budget
	waiters   []*budgetWaiter
}

// budgetWaiter is a reader that waits for room. Bound: one per connection.
type budgetWaiter struct {
	n         int64
	overdraft bool          // granted as the overdraft
	granted   chan struct{} // closed under memory.mu
}

func newMemory(bytes int64) *memory {
	m := &memory{}
	m.known.mem, m.known.free = m, bytes
	m.strangers.mem, m.strangers.free = m, bytes/strangersShare
	return m
}

// classOf is the index of the least class that has n bytes, len(slabClasses) if none has.
func classOf(n int) int {
	i, _ := slices.BinarySearch(slabClasses[:], n)
	return i
}

// get returns a buffer of at least n bytes with one reference and no charge.
func (m *memory) get(n int) *slab {
	if i := classOf(n); i < len(slabClasses) {
		s, _ := m.pools[i].Get().(*slab)
		if s == nil {
			s = &slab{buf: make([]byte, slabClasses[i]), mem: m, class: int8(i)}
		}
		s.refs.Store(1)
		return s
	}
	s := &slab{buf: make([]byte, n), mem: m, class: -1}
	s.refs.Store(1)
	return s
}

// small returns a buffer for n <= smallBytes, or in exchange for a larger one. It is charged, and never waits.
func (b *budget) small(n int) *slab {
	s := b.mem.get(n)
	s.budget, s.charged = b, int64(len(s.buf))
	b.mu.Lock()
	b.free -= s.charged
	b.mu.Unlock()
	return s
}

// tryLarge returns a charged buffer of n bytes, or nil if the budget has no room now.
func (b *budget) tryLarge(n int) *slab {
	b.mu.Lock()
	ok := len(b.waiters) == 0 && b.free >= int64(n)
	if ok {
		b.free -= int64(n)
	}
	b.mu.Unlock()
	if !ok {
		return nil
	}
	s := b.mem.get(n)
	s.budget, s.charged = b, int64(n)
	return s
}

// large returns a charged buffer of n bytes and waits for room, first come first served. A
// frame that already has the overdraft passes it in prev (which may be nil) and does not wait;
// the overdraft then moves to the new buffer. nil when stop was closed.
func (b *budget) large(n int, prev *slab, stop <-chan struct{}) *slab {
	if prev != nil && prev.overdraft && prev.budget == b {
		b.mu.Lock()
		b.free -= int64(n)
		b.mu.Unlock()
		prev.overdraft = false
		s := b.mem.get(n)
		s.budget, s.charged, s.overdraft = b, int64(n), true
		return s
	}
	w := &budgetWaiter{n: int64(n), granted: make(chan struct{})}
	b.mu.Lock()
	b.waiters = append(b.waiters, w)
	b.grant()
	b.mu.Unlock()
	select {
	case <-w.granted:
	case <-stop:
		b.leave(w)
		return nil
	}
	s := b.mem.get(n)
	s.budget, s.charged, s.overdraft = b, w.n, w.overdraft
	return s
}

// grant serves waiters from the front. The first that does not fit gets the overdraft if
// nobody has it. mu is held.
func (b *budget) grant() {
	for len(b.waiters) > 0 {
		w := b.waiters[0]
		if b.free < w.n {
			if b.overdrawn {
				return
			}
			b.overdrawn, w.overdraft = true, true
		}
		b.free -= w.n
		b.waiters[0] = nil
		b.waiters = b.waiters[1:]
		close(w.granted)
	}
	b.waiters = nil
}

// leave takes back a waiter that gave up, or what it was granted in the same moment.
func (b *budget) leave(w *budgetWaiter) {
	b.mu.Lock()
	for i, x := range b.waiters {
		if x == w {
			b.waiters = append(b.waiters[:i:i], b.waiters[i+1:]...)
			b.grant()
			b.mu.Unlock()
			return
		}
	}
	b.mu.Unlock()
	b.give(w.n, w.overdraft)
}

func (b *budget) give(n int64, overdraft bool) {
	b.mu.Lock()
	b.free += n
	if overdraft {
		b.overdrawn = false
	}
	if len(b.waiters) > 0 {
		b.grant()
	}
	b.mu.Unlock()
}

// available is what the budget has left.
func (b *budget) available() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.free
}
