package coordinator

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"moldau/internal/coordinator/shard"
	"moldau/internal/partition"
	"moldau/internal/record"
)

// state is where a shard stands, see the package comment.
type state = int32

const (
	stateQueued state = iota
	stateLoading
	stateSettling
	stateActive
	stateFailed
	stateClosed
	stateCount
)

var stateNames = [stateCount]string{"queued", "loading", "settling", "active", "failed", "closed"}

// runner is one shard: a partition under one leader epoch, and its core.
type runner[C shard.Core] struct {
	r     *Runtime[C]
	p     *partition.Partition
	epoch int32

	state atomic.Int32 // changes under mu
	asked atomic.Bool  // a client waits for it to be loaded
	clock clockEntry

	mu struct {
		sync.Mutex       // orders the events; guards the following; held over an append
		core       C     // valid while settling and active
		end        int64 // behind the last record that core has replayed (CR1)
		tickets    shard.Ticket
		waiting    map[shard.Ticket]*waiter
		told       []func(C, shard.Time) shard.Effects // for when it is active
		err        error                               // why it failed or was closed
		failures   int                                 // since it was active
		notBefore  int64                               // MonoMs before which it is not called by the clock
		refuses    bool                                // the last append failed
	}
}

// waiter is a request that waits for the core's reply. Set under runner.mu, before wake.
type waiter struct {
	ticket   shard.Ticket
	wake     chan struct{} // capacity 1; nil when the reply came at once
	answered bool
	response any
	commit   int64 // high watermark to reach before it may leave, 0: none
	err      error
}

func newRunner[C shard.Core](r *Runtime[C], p *partition.Partition, epoch int32) *runner[C] {
	s := &runner[C]{r: r, p: p, epoch: epoch}
	s.clock.init()
	s.mu.waiting = map[shard.Ticket]*waiter{}
	return s
}

// do runs an event for a request.
func (s *runner[C]) do(event Event[C]) (*waiter, error) {
	begun := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.servesLocked(); err != nil {
		return nil, err
	}
	now := s.r.now()
	s.mu.tickets++
	w := &waiter{ticket: s.mu.tickets}
	s.mu.waiting[w.ticket] = w
	s.finishLocked(now, event(s.mu.core, now, w.ticket))
	if !w.answered {
		w.wake = make(chan struct{}, 1)
	}
	s.r.metrics.events.Observe(time.Since(begun).Seconds())
	return w, nil
}

// servesLocked says why there can be no event, or nil.
func (s *runner[C]) servesLocked() error {
	switch s.state.Load() {
	case stateActive:
		return nil
	case stateFailed, stateClosed:
		return s.mu.err
	}
	s.asked.Store(true)
	return fmt.Errorf("%s: %w", s.p.Name(), ErrLoading)
}

// wait waits for the reply to a request, and then until it may leave.
func (s *runner[C]) wait(ctx context.Context, w *waiter) (any, error) {
	if w.wake != nil {
		select {
		case <-w.wake:
		case <-ctx.Done():
			s.mu.Lock()
			delete(s.mu.waiting, w.ticket)
			s.mu.Unlock()
			return nil, ctx.Err()
		}
	}
	if w.err != nil {
		return nil, w.err
	}
	if w.commit > 0 { // protection: reply waits for the high watermark
		if err := s.p.WaitCommitted(ctx, w.commit, s.epoch, time.Now().Add(s.r.o.CommitTimeout)); over(err) {
			return nil, fmt.Errorf("%w: %w", ErrNotCoordinator, err)
		} else if err != nil {
			return nil, err
		}
	}
	return w.response, nil
}

// tell runs an event that nobody waits for, now or when the shard becomes active.
func (s *runner[C]) tell(event func(C, shard.Time) shard.Effects) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.state.Load() {
	case stateActive:
		now := s.r.now()
		s.finishLocked(now, event(s.mu.core, now))
	case stateClosed:
	default:
		s.mu.told = append(s.mu.told, event)
	}
}

// finishLocked does what the core wants done after an event, and arms the clock for the next. It
// reports whether the event's records, if any, are in the log.
func (s *runner[C]) finishLocked(now shard.Time, e shard.Effects) bool {
	ok := true
	if len(e.Records) > 0 {
		err := s.appendLocked(now, e.Records)
		if errors.Is(err, errUncertain) {
			s.failLocked(now, err)
			return false
		}
		if over(err) {
			s.closeLocked(fmt.Errorf("%w: %w", ErrNotCoordinator, err)) // CR2
			return false
		}
		if err != nil {
			ok = false
			s.refusedLocked(err)
			e = s.mu.core.Failed(now, e, s.r.o.Code(err))
			if len(e.Records) > 0 {
				panic("BUG: a core wants to write because it could not write")
			}
		}
	}
	for _, reply := range e.Replies {
		w := s.mu.waiting[reply.Ticket]
		if w == nil {
			continue
		}
		delete(s.mu.waiting, reply.Ticket)
		w.response = reply.Response
		if !reply.Early {
			w.commit = s.mu.end
		}
		w.answer()
	}
	s.armLocked()
	return ok
}

// refusedLocked notes that records could not be written. It is logged when it begins: a full disk
// refuses every request.
func (s *runner[C]) refusedLocked(err error) {
	s.r.metrics.failedAppends.Inc()
	if !s.mu.refuses {
		s.r.o.Log.Warn("coordinator state cannot be written; requests are refused until it can", "partition", s.p.Name(), "error", err)
	}
	s.mu.refuses = true
}

// answer lets a waiter go whose outcome is set.
func (w *waiter) answer() {
	w.answered = true
	if w.wake != nil {
		w.wake <- struct{}{}
	}
}

// over tells whether err means that the shard's leadership has ended.
func over(err error) bool {
	return errors.Is(err, partition.ErrNotLeader) || errors.Is(err, partition.ErrFencedEpoch) ||
		errors.Is(err, partition.ErrUnknownEpoch) || errors.Is(err, partition.ErrUnknown)
}

// errUncertain marks an append after which the core may not be what the log says.
var errUncertain = errors.New("the log is not what the coordinator expects")

// appendLocked appends the records of one event as one batch and lets the core replay them.
func (s *runner[C]) appendLocked(now shard.Time, records []shard.Record) error {
	batch, err := s.r.build(now, records)
	if err != nil {
		return err
	}
	at, err := s.p.AppendOwned(batch, s.epoch, now.WallMs)
	if err != nil {
		return err
	}
	if at.BaseOffset != s.mu.end { // CR5
		return fmt.Errorf("%s: records were appended at offset %d, not at %d: %w", s.p.Name(), at.BaseOffset, s.mu.end, errUncertain)
	}
	s.mu.end += int64(len(records))
	s.mu.refuses = false
	s.r.metrics.records.Add(float64(len(records)))
	for _, rec := range records {
		if err := s.mu.core.Replay(rec); err != nil {
			return fmt.Errorf("%s: a record that was just written cannot be read: %w: %w", s.p.Name(), errUncertain, err)
		}
	}
	return nil
}

// build makes one batch of records, in bytes of its own.
func (r *Runtime[C]) build(now shard.Time, records []shard.Record) (record.Batch, error) {
	b, _ := r.builders.Get().(*record.Builder)
	if b == nil {
		b = record.NewBuilder(r.o.Codec)
	}
	b.Reset()
	for _, rec := range records {
		b.Add(now.WallMs, rec.Key, rec.Value)
	}
	batch, err := b.Finish()
	if b.Size() <= r.o.KeptBuffer {
		r.builders.Put(b)
	}
	return batch, err
}

// armLocked tells the clock when the core wants to be called.
func (s *runner[C]) armLocked() {
	if at := s.mu.core.Deadline(); at < math.MaxInt64 {
		s.r.clock.set(s, max(at, s.mu.notBefore))
	}
}

// pauseAfterFailure is how long the clock leaves a core alone whose records could not be written: on
// a full disk what is due stays due.
const pauseAfterFailure = time.Second

// tick does what is due: the core's tick, or another load.
func (s *runner[C]) tick() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.r.now()
	switch s.state.Load() {
	case stateActive:
		if now.MonoMs >= max(s.mu.core.Deadline(), s.mu.notBefore) {
			e := s.mu.core.Tick(now)
			s.mu.notBefore = now.MonoMs + pauseAfterFailure.Milliseconds()
			if !s.finishLocked(now, e) {
				return
			}
			s.mu.notBefore = 0
		}
		s.armLocked()
	case stateFailed:
		if now.MonoMs < s.mu.notBefore {
			s.r.clock.set(s, s.mu.notBefore)
			return
		}
		s.state.Store(stateQueued)
		s.r.loads.add(s.r, s)
	}
}

// activate takes a loaded core into service, once its records are committed.
func (s *runner[C]) activate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Load() == stateSettling {
		s.activateLocked()
	}
}

func (s *runner[C]) activateLocked() {
	s.state.Store(stateActive)
	s.mu.failures, s.mu.notBefore = 0, 0
	now := s.r.now()
	s.finishLocked(now, s.mu.core.Loaded(now))
	told := s.mu.told
	s.mu.told = nil
	for _, event := range told {
		if s.state.Load() == stateActive {
			s.finishLocked(now, event(s.mu.core, now))
		}
	}
}

// Waits between the attempts to load a shard.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = time.Minute
)

// failLocked throws the core away; the shard is loaded again after a while.
func (s *runner[C]) failLocked(now shard.Time, err error) {
	wait := min(firstRetry<<min(s.mu.failures, 16), lastRetry)
	s.mu.failures++
	s.r.metrics.failedLoads.Inc()
	s.r.o.Log.Error("coordinator shard failed and is loaded again", "partition", s.p.Name(), "leaderEpoch", s.epoch, "wait", wait, "error", err)
	s.dropLocked(stateFailed, fmt.Errorf("%w: %w", ErrNotCoordinator, err))
	s.mu.notBefore = now.MonoMs + wait.Milliseconds()
	s.r.clock.set(s, s.mu.notBefore)
}

// close ends the shard: whoever waits for its core gets err.
func (s *runner[C]) close(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked(err)
}

func (s *runner[C]) closeLocked(err error) {
	if s.state.Load() == stateClosed {
		return
	}
	s.dropLocked(stateClosed, err)
	s.r.clock.remove(s)
}

// dropLocked forgets the core and answers all who wait for it with err.
func (s *runner[C]) dropLocked(to state, err error) {
	var none C
	s.state.Store(to)
	s.mu.core, s.mu.err = none, err
	for t, w := range s.mu.waiting {
		delete(s.mu.waiting, t)
		w.err = err
		w.answer()
	}
}
