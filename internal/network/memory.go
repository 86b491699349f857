package network

import (
	"sync"
	"sync/atomic"
)

const (
	smallBytes = 4 << 10  // a frame up to this is copied out of the receive slab, so that a parked call pins no slab
	slabBytes  = 64 << 10 // one recv
	chunkBytes = 128 << 10
)

// slabClasses are the pooled sizes; beyond the last a buffer is made and left to the collector.
var slabClasses = [...]int{512, smallBytes, slabBytes, chunkBytes, 256 << 10, 1 << 20, 4 << 20}

// slab is a counted buffer. The last unref gives it and its charge back.
type slab struct {
	buf       []byte
	refs      atomic.Int32
	mem       *memory
	class     int8  // index into slabClasses, -1 when not pooled
	overdraft bool  // holds the budget's one overdraft
	charged   int64 // bytes to give back to the budget
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
	if s.charged > 0 || s.overdraft {
		s.mem.give(s.charged, s.overdraft)
		s.charged, s.overdraft = 0, false
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

// memory is a server's pooled buffers and its budget for request bytes.
type memory struct {
	pools  [len(slabClasses)]sync.Pool
	poison bool // overwrite what is released

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

func newMemory(budget int64) *memory { return &memory{free: budget} }

// get returns a buffer of at least n bytes with one reference and no charge.
func (m *memory) get(n int) *slab {
	for i, size := range slabClasses {
		if n > size {
			continue
		}
		s, _ := m.pools[i].Get().(*slab)
		if s == nil {
			s = &slab{buf: make([]byte, size), mem: m, class: int8(i)}
		}
		s.refs.Store(1)
		return s
	}
	s := &slab{buf: make([]byte, n), mem: m, class: -1}
	s.refs.Store(1)
	return s
}

// small returns a buffer for n <= smallBytes. It is charged, and never waits.
func (m *memory) small(n int) *slab {
	s := m.get(n)
	s.charged = int64(len(s.buf))
	m.mu.Lock()
	m.free -= s.charged
	m.mu.Unlock()
	return s
}

// tryLarge returns a charged buffer of n bytes, or nil if the budget has no room now.
func (m *memory) tryLarge(n int) *slab {
	m.mu.Lock()
	ok := len(m.waiters) == 0 && m.free >= int64(n)
	if ok {
		m.free -= int64(n)
	}
	m.mu.Unlock()
	if !ok {
		return nil
	}
	s := m.get(n)
	s.charged = int64(n)
	return s
}

// large returns a charged buffer of n bytes and waits for room, first come first served. A
// frame that already has the overdraft passes it in prev (which may be nil) and does not wait;
// the overdraft then moves to the new buffer. nil when stop was closed.
func (m *memory) large(n int, prev *slab, stop <-chan struct{}) *slab {
	if prev != nil && prev.overdraft {
		m.mu.Lock()
		m.free -= int64(n)
		m.mu.Unlock()
		prev.overdraft = false
		s := m.get(n)
		s.charged, s.overdraft = int64(n), true
		return s
	}
	w := &budgetWaiter{n: int64(n), granted: make(chan struct{})}
	m.mu.Lock()
	m.waiters = append(m.waiters, w)
	m.grant()
	m.mu.Unlock()
	select {
	case <-w.granted:
	case <-stop:
		m.leave(w)
		return nil
	}
	s := m.get(n)
	s.charged, s.overdraft = w.n, w.overdraft
	return s
}

// grant serves waiters from the front. The first that does not fit gets the overdraft if
// nobody has it. mu is held.
func (m *memory) grant() {
	for len(m.waiters) > 0 {
		w := m.waiters[0]
		if m.free < w.n {
			if m.overdrawn {
				return
			}
			m.overdrawn, w.overdraft = true, true
		}
		m.free -= w.n
		m.waiters[0] = nil
		m.waiters = m.waiters[1:]
		close(w.granted)
	}
	m.waiters = nil
}

// leave takes back a waiter that gave up, or what it was granted in the same moment.
func (m *memory) leave(w *budgetWaiter) {
	m.mu.Lock()
	for i, x := range m.waiters {
		if x == w {
			m.waiters = append(m.waiters[:i:i], m.waiters[i+1:]...)
			m.grant()
			m.mu.Unlock()
			return
		}
	}
	m.mu.Unlock()
	m.give(w.n, w.overdraft)
}

func (m *memory) give(n int64, overdraft bool) {
	m.mu.Lock()
	m.free += n
	if overdraft {
		m.overdrawn = false
	}
	if len(m.waiters) > 0 {
		m.grant()
	}
	m.mu.Unlock()
}

// available is what the budget has left.
func (m *memory) available() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.free
}
