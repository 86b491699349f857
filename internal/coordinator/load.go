package coordinator

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"moldau/internal/coordinator/shard"
	"moldau/internal/record"
)

// loads is the queue of shards that are to be loaded. Workers start on demand and end when it is empty.
type loads[C shard.Core] struct {
	most int // at once: the work is reading, decoding and folding
	mu   struct {
		sync.Mutex // guards the following; a leaf
		queue      []*runner[C]
		running    int
		closed     bool
		done       loaded // since the workers were started
	}
}

// loaded sums up what was loaded, for one log line: there may be many shards.
type loaded struct {
	began           time.Time
	shards, records int
}

func (l *loads[C]) add(r *Runtime[C], s *runner[C]) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		return
	}
	l.mu.queue = append(l.mu.queue, s)
	if l.mu.running < l.most {
		if l.mu.running == 0 {
			l.mu.done = loaded{began: time.Now()}
		}
		l.mu.running++
		r.tasks.Go(func() { l.startWork(r) })
	}
}

func (l *loads[C]) startWork(r *Runtime[C]) {
	for {
		s, sum := l.next()
		if s == nil {
			if sum.shards > 0 {
				r.o.Log.Info("coordinator loaded", "topic", r.o.Topic, "shards", sum.shards, "records", sum.records,
					"ms", time.Since(sum.began).Milliseconds())
			}
			return
		}
		r.load(s)
	}
}

// count notes a shard that was loaded.
func (l *loads[C]) count(records int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.done.shards++
	l.mu.done.records += records
}

// next takes the shard that is to be loaded first: one that a client has asked for, else the smallest, so that
// most groups are served soonest. The last worker to find nothing gets the sum of what they have done.
func (l *loads[C]) next() (s *runner[C], sum loaded) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.mu.queue) == 0 || l.mu.closed {
		l.mu.running--
		if l.mu.running == 0 {
			sum = l.mu.done
		}
		return nil, sum
	}
	best := 0
	for i, s := range l.mu.queue {
		b := l.mu.queue[best]
		if asked, other := s.asked.Load(), b.asked.Load(); asked != other {
			if asked {
				best = i
			}
		} else if s.p.SizeBytes() < b.p.SizeBytes() {
			best = i
		}
	}
	s = l.mu.queue[best]
	last := len(l.mu.queue) - 1
	l.mu.queue[best] = l.mu.queue[last]
	l.mu.queue[last] = nil
	l.mu.queue = l.mu.queue[:last]
	return s, loaded{}
}

func (l *loads[C]) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.closed = true
	l.mu.queue = nil
}

// errAbandoned ends a load whose shard was closed.
var errAbandoned = errors.New("the shard was closed")

// load reads a shard's log into a new core.
func (r *Runtime[C]) load(s *runner[C]) {
	if !s.begin() {
		return
	}
	begun := time.Now()
	core := r.o.New()
	records := 0
	end, err := s.p.ReadOwned(s.epoch, r.o.LoadBuffer, func(b record.Batch) error {
		if s.state.Load() != stateLoading {
			return errAbandoned
		}
		if b.Transactional() || b.Control() {
			return fmt.Errorf("batch at offset %d: transactions are not supported yet", b.BaseOffset())
		}
		return b.Each(0, func(rec record.Record) error {
			records++
			if err := core.Replay(shard.Record{Key: rec.Key, Value: rec.Value}); err != nil {
				return fmt.Errorf("record at offset %d: %w", rec.Offset, err)
			}
			return nil
		})
	})
	took := time.Since(begun)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.state.Load() != stateLoading: // closed meanwhile
		return
	case err != nil:
		s.failLocked(r.now(), err)
		return
	}
	if records > 0 {
		r.metrics.loads.Observe(took.Seconds())
		r.loads.count(records)
	}
	s.mu.core, s.mu.end = core, end
	s.state.Store(stateSettling)
	if s.p.HighWatermark() >= end { // protection: loaded is committed
		s.activateLocked()
	} else {
		r.clock.settle(s, end)
	}
}

// begin reports whether a queued shard is still to be loaded.
func (s *runner[C]) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Load() != stateQueued {
		return false
	}
	s.state.Store(stateLoading)
	return true
}
