package storage

import (
	"sync"
	"time"

	"moldau/internal/vfs"
)

const (
	stallAfter = 2 * time.Second // a write or sync that takes longer hangs
	stallLook  = 500 * time.Millisecond
)

// stalls notices writes and syncs that do not come back. It touches no disk itself.
type stalls struct {
	dir   *Dir
	watch *vfs.Watch
	mu    struct {
		sync.Mutex // guards the following; a leaf
		state      StallState
	}
	stop chan struct{}
	wg   sync.WaitGroup
}

// StallState is whether the disk hangs, and how often it did.
type StallState struct {
	Stalled   bool
	Operation string // write, sync, …
	File      string
	Since     time.Time // when the operation began
	Times     int64
}

func newStalls(d *Dir, w *vfs.Watch) *stalls {
	return &stalls{dir: d, watch: w, stop: make(chan struct{})}
}

func (s *stalls) start() {
	s.wg.Add(1)
	go s.startLooking()
}

func (s *stalls) close() {
	close(s.stop)
	s.wg.Wait()
}

func (s *stalls) startLooking() {
	defer s.wg.Done()
	ticker := time.NewTicker(stallLook)
	defer ticker.Stop()
	for {
		select {
		case <-s.stop:
			return
		case now := <-ticker.C:
			s.look(now)
		}
	}
}

// look logs when the first operation hangs, and when none does any more.
func (s *stalls) look(now time.Time) {
	op, busy := s.watch.Oldest()
	stalled := busy && now.Sub(op.Since) >= stallAfter
	s.mu.Lock()
	was := s.mu.state
	switch {
	case stalled && !was.Stalled:
		s.mu.state = StallState{true, op.Kind.String(), op.Name, op.Since, was.Times + 1}
	case !stalled && was.Stalled:
		s.mu.state = StallState{Times: was.Times}
	}
	s.mu.Unlock()
	switch {
	case stalled && !was.Stalled:
		s.dir.log.Warn("the disk of the log dir hangs: an operation has not come back; what waits for it goes on when it does. What to do: look at the disk and what else uses it",
			"dir", s.dir.path, "operation", op.Kind.String(), "file", op.Name, "since", op.Since.UTC().Format(time.RFC3339Nano))
	case !stalled && was.Stalled:
		s.dir.log.Info("the disk of the log dir does not hang any more", "dir", s.dir.path, "operation", was.Operation, "file", was.File,
			"stalledMs", now.Sub(was.Since).Milliseconds())
	}
}

// Stall is whether a write or sync in the log dir or its metadata directory hangs.
func (d *Dir) Stall() StallState {
	d.stalls.mu.Lock()
	defer d.stalls.mu.Unlock()
	return d.stalls.mu.state
}
