package metastore

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

// Sim is the store's deterministic twin in memory. Its state outlives the
// handles that Open gives out, as a replicated store outlives one process.
// Time passes only by Advance. All methods may be called concurrently.
type Sim struct {
	mu struct {
		sync.Mutex
		rev       int64
		compacted int64 // revisions below it can no longer be watched
		keys      map[string]KV
		history   []Event // one a revision, ascending
		leases    map[Lease]*simLease
		lastLease Lease
		now       time.Duration
		fault     func(SimCall) SimFault
		late      []lateEffect // in the order of their calls
		watchers  map[*simWatcher]struct{}
	}
}

type simLease struct {
	ttl, deadline time.Duration
}

// lateEffect is a call that was given up but is still on its way.
type lateEffect struct {
	calls  int // to go before it arrives
	effect func() error
}

// SimCall names a call that is about to be answered.
type SimCall struct {
	Name string // "txn", "snapshot", "grant", "keepalive" or "revoke"
	Ops  []Op   // of a txn
}

// SimFault is what happens to one call. The zero value is no fault.
type SimFault struct {
	Before <-chan struct{} // the call waits for it before it takes effect
	After  <-chan struct{} // the call waits for it after it took effect
	Lost   error           // answered instead of the result; nothing takes effect
	Broken error           // answered instead of the result, after it took effect: an unknown outcome
	Late   int             // answered with ErrUnavailable; takes effect only after so many further calls
}

// NewSim returns an empty store at revision 1, as etcd's.
func NewSim() *Sim {
	s := &Sim{}
	s.mu.rev = 1
	s.mu.compacted = 1
	s.mu.keys = map[string]KV{}
	s.mu.leases = map[Lease]*simLease{}
	s.mu.watchers = map[*simWatcher]struct{}{}
	return s
}

// Open returns a new handle. Handles may be open at the same time, as those of several brokers.
func (s *Sim) Open() Store {
	ctx, cancel := context.WithCancel(context.Background())
	return &simHandle{sim: s, ctx: ctx, cancel: cancel}
}

// SetFaults has decide called with each later call of any handle, one at a
// time; nil ends all faults. decide must not call the Sim.
func (s *Sim) SetFaults(decide func(SimCall) SimFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.fault = decide
}

// Advance lets d pass: leases whose time is up expire, each in a revision of
// its own, in the order of their ids.
func (s *Sim) Advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.now += d
	var due []Lease
	for id, l := range s.mu.leases {
		if l.deadline <= s.mu.now {
			due = append(due, id)
		}
	}
	slices.Sort(due)
	for _, id := range due {
		s.revokeLocked(id)
	}
}

// Compact forgets the history below rev: watches that are behind it end with ErrCompacted.
func (s *Sim) Compact(rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rev = min(rev, s.mu.rev)
	if rev <= s.mu.compacted {
		return
	}
	s.mu.compacted = rev
	i := sort.Search(len(s.mu.history), func(i int) bool { return s.mu.history[i].Revision >= rev })
	s.mu.history = slices.Clone(s.mu.history[i:])
	s.wakeLocked()
}

// LoseWatches ends every watch that is open with ErrWatchLost.
func (s *Sim) LoseWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.mu.watchers {
		w.lost = true
	}
	s.wakeLocked()
}

// DropEvent makes the open watches of one handle miss the next revision without
// a word: the bug of a store against which its users keep a sequence.
func (s *Sim) DropEvent(handle Store) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.mu.watchers {
		if w.owner == handle {
			w.skip = s.mu.rev + 1
		}
	}
}

// Revision is the store's revision.
func (s *Sim) Revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.rev
}

func (s *Sim) wakeLocked() {
	for w := range s.mu.watchers {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// commitLocked gives changes the next revision. No changes take none.
func (s *Sim) commitLocked(ops []Op) {
	rev := s.mu.rev + 1
	var changes []Change
	remove := func(key string) {
		if _, ok := s.mu.keys[key]; ok {
			delete(s.mu.keys, key)
			changes = append(changes, Change{KV: KV{Key: key, ModRevision: rev}, Deleted: true})
		}
	}
	for _, op := range ops {
		switch op.Kind {
		case OpPut:
			kv := KV{Key: op.Key, Value: bytes.Clone(op.Value), CreateRevision: rev, ModRevision: rev, Lease: op.Lease}
			if old, ok := s.mu.keys[op.Key]; ok {
				kv.CreateRevision = old.CreateRevision
			}
			s.mu.keys[op.Key] = kv
			changes = append(changes, Change{KV: kv})
		case OpDelete:
			remove(op.Key)
		case OpDeletePrefix:
			for _, kv := range s.rangeLocked(op.Key) {
				remove(kv.Key)
			}
		}
	}
	if len(changes) == 0 {
		return
	}
	s.mu.rev = rev
	s.mu.history = append(s.mu.history, Event{Revision: rev, Changes: changes})
	s.wakeLocked()
}

func (s *Sim) rangeLocked(prefix string) []KV {
	var out []KV
	for _, kv := range s.mu.keys {
		if strings.HasPrefix(kv.Key, prefix) {
			out = append(out, kv)
		}
	}
	slices.SortFunc(out, func(a, b KV) int { return strings.Compare(a.Key, b.Key) })
	return out
}

func (s *Sim) revokeLocked(id Lease) {
	delete(s.mu.leases, id)
	var ops []Op
	for _, kv := range s.rangeLocked("") {
		if kv.Lease == id {
			ops = append(ops, Delete(kv.Key))
		}
	}
	s.commitLocked(ops)
}

func (s *Sim) holdsLocked(c Cond) bool {
	kv, ok := s.mu.keys[c.Key]
	switch c.Target {
	case TargetCreateRevision:
		return kv.CreateRevision == c.Revision
	case TargetModRevision:
		return kv.ModRevision == c.Revision
	default:
		return ok && bytes.Equal(kv.Value, c.Value)
	}
}

// simHandle is one node's connection to a Sim.
type simHandle struct {
	sim     *Sim
	ctx     context.Context
	cancel  context.CancelFunc
	watches sync.WaitGroup
	closing sync.Mutex // guards the start of watches against Close
}

// call runs effect under the Sim's lock, with the faults that are set.
func (h *simHandle) call(ctx context.Context, c SimCall, effect func() error) error {
	if h.ctx.Err() != nil {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	h.sim.mu.Lock()
	h.sim.arriveLocked()
	var f SimFault
	if h.sim.mu.fault != nil {
		f = h.sim.mu.fault(c)
	}
	if f.Late > 0 {
		h.sim.mu.late = append(h.sim.mu.late, lateEffect{f.Late, effect})
	}
	h.sim.mu.Unlock()
	if f.Late > 0 {
		return fmt.Errorf("%w: given up", ErrUnavailable)
	}
	if err := h.wait(ctx, f.Before); err != nil {
		return err
	}
	if f.Lost != nil {
		return f.Lost
	}
	h.sim.mu.Lock()
	err := effect()
	h.sim.mu.Unlock()
	if err := h.wait(ctx, f.After); err != nil {
		return err
	}
	if f.Broken != nil {
		return f.Broken
	}
	return err
}

// arriveLocked lets late calls take effect whose time has come.
func (s *Sim) arriveLocked() {
	var still []lateEffect
	for _, l := range s.mu.late {
		l.calls--
		if l.calls > 0 {
			still = append(still, l)
			continue
		}
		_ = l.effect() // its caller no longer listens
	}
	s.mu.late = still
}

func (h *simHandle) wait(ctx context.Context, c <-chan struct{}) error {
	if c == nil {
		return nil
	}
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnavailable, ctx.Err())
	case <-h.ctx.Done():
		return ErrClosed
	}
}

func (h *simHandle) Txn(ctx context.Context, conds []Cond, ops []Op) (Result, error) {
	var res Result
	if err := checkTxn(conds, ops); err != nil {
		return res, err
	}
	s := h.sim
	err := h.call(ctx, SimCall{Name: "txn", Ops: ops}, func() error {
		res.Revision = s.mu.rev
		for _, c := range conds {
			if !s.holdsLocked(c) {
				return nil
			}
		}
		for _, op := range ops {
			if op.Lease != 0 && s.mu.leases[op.Lease] == nil {
				return fmt.Errorf("put %q: %w", op.Key, ErrLeaseNotFound)
			}
		}
		s.commitLocked(ops)
		res = Result{Succeeded: true, Revision: s.mu.rev}
		return nil
	})
	if err != nil {
		return Result{}, err
	}
	return res, nil
}

func (h *simHandle) Snapshot(ctx context.Context, prefix string) (kvs []KV, rev int64, err error) {
	err = h.call(ctx, SimCall{Name: "snapshot"}, func() error {
		kvs, rev = h.sim.rangeLocked(prefix), h.sim.mu.rev
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return kvs, rev, nil
}

func (h *simHandle) Grant(ctx context.Context, ttl time.Duration) (id Lease, err error) {
	s := h.sim
	err = h.call(ctx, SimCall{Name: "grant"}, func() error {
		s.mu.lastLease++
		id = s.mu.lastLease
		d := time.Duration(wholeSeconds(ttl)) * time.Second
		s.mu.leases[id] = &simLease{ttl: d, deadline: s.mu.now + d}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return id, nil
}

func (h *simHandle) KeepAlive(ctx context.Context, id Lease) error {
	s := h.sim
	return h.call(ctx, SimCall{Name: "keepalive"}, func() error {
		l := s.mu.leases[id]
		if l == nil {
			return ErrLeaseNotFound
		}
		l.deadline = s.mu.now + l.ttl
		return nil
	})
}

func (h *simHandle) Revoke(ctx context.Context, id Lease) error {
	s := h.sim
	return h.call(ctx, SimCall{Name: "revoke"}, func() error {
		if s.mu.leases[id] == nil {
			return ErrLeaseNotFound
		}
		s.revokeLocked(id)
		return nil
	})
}

func (h *simHandle) Close() error {
	h.closing.Lock()
	h.cancel()
	h.closing.Unlock()
	h.watches.Wait()
	return nil
}

// simWatcher is one watch; lost and skip are guarded by the Sim's lock.
type simWatcher struct {
	owner  *simHandle
	prefix string
	next   int64
	wake   chan struct{}
	lost   bool
	skip   int64 // a revision that is silently left out
}

func (h *simHandle) Watch(ctx context.Context, prefix string, fromRev int64) <-chan Event {
	out := make(chan Event)
	h.closing.Lock()
	defer h.closing.Unlock()
	if h.ctx.Err() != nil {
		closed := make(chan Event, 1)
		closed <- Event{Err: ErrClosed}
		close(closed)
		return closed
	}
	s := h.sim
	w := &simWatcher{owner: h, prefix: prefix, next: fromRev, wake: make(chan struct{}, 1)}
	s.mu.Lock()
	if w.next <= 0 {
		w.next = s.mu.rev + 1
	}
	s.mu.watchers[w] = struct{}{}
	s.mu.Unlock()
	h.watches.Go(func() {
		defer close(out)
		defer func() {
			s.mu.Lock()
			delete(s.mu.watchers, w)
			s.mu.Unlock()
		}()
		for {
			ev, ok := s.nextEvent(w)
			if !ok {
				select {
				case <-w.wake:
					continue
				case <-ctx.Done():
					return
				case <-h.ctx.Done():
					ev = Event{Err: ErrClosed}
				}
			}
			if errOrSent := deliver(ctx, h.ctx, out, ev); ev.Err != nil || !errOrSent {
				return
			}
		}
	})
	return out
}

// deliver sends ev unless the watch or its handle ends first. A handle that
// closes still gets its reason out when the receiver is there at once.
func deliver(ctx, handle context.Context, out chan<- Event, ev Event) bool {
	select {
	case out <- ev:
		return true
	case <-ctx.Done():
		return false
	case <-handle.Done():
	}
	select {
	case out <- Event{Err: ErrClosed}:
	case <-ctx.Done():
	case <-time.After(closeGrace):
	}
	return false
}

// closeGrace is how long a closing handle waits for a watch's receiver to hear why.
const closeGrace = 100 * time.Millisecond

// nextEvent is the next revision that touches the watch's prefix.
func (s *Sim) nextEvent(w *simWatcher) (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.lost {
		return Event{Err: ErrWatchLost}, true
	}
	if w.next < s.mu.compacted {
		return Event{Err: fmt.Errorf("watch from %d, compacted to %d: %w", w.next, s.mu.compacted, ErrCompacted)}, true
	}
	i := sort.Search(len(s.mu.history), func(i int) bool { return s.mu.history[i].Revision >= w.next })
	for ; i < len(s.mu.history); i++ {
		ev := s.mu.history[i]
		w.next = ev.Revision + 1
		if ev.Revision == w.skip {
			continue
		}
		var mine []Change
		for _, c := range ev.Changes {
			if strings.HasPrefix(c.Key, w.prefix) {
				c.Value = bytes.Clone(c.Value)
				mine = append(mine, c)
			}
		}
		if len(mine) > 0 {
			return Event{Revision: ev.Revision, Changes: mine}, true
		}
	}
	return Event{}, false
}
