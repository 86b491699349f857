package storage

import (
	"errors"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// recovery is what is done after a start about logs of which no stop said where they end. They are served meanwhile: who uses one
// waits for its own recovery and for no other.
type recovery struct {
	mu sync.Mutex // guards the following; a leaf
	RecoveryState
}

// RecoveryState is how far the recovery in the background has come.
type RecoveryState struct {
	Begun, Ended bool
	Total, Done  int // logs
	Recovered    int // of those that are done, those that were not as a stop left them
}

// Recovery returns the state of now.
func (d *Dir) Recovery() RecoveryState {
	d.recovery.mu.Lock()
	defer d.recovery.mu.Unlock()
	return d.recovery.RecoveryState
}

// unknown reports whether nobody knows yet where the log ends: no stop has left it so, and no recovery has looked at it.
func (d *Dir) unknown(h *Held) bool {
	if h.Log() != nil {
		return false
	}
	e := d.manifest.entry(h.key())
	return e != nil && e.present && !(d.cleanly && e.resting)
}

// recoveryTold is how often it is said how far recovery has come.
const recoveryTold = 5 * time.Second

// Recover is called once, when every partition is held: logs that are not at rest are recovered from now on, in
// parallel, in the background.
func (d *Dir) Recover() {
	var todo []*Held
	for _, h := range d.held() {
		if d.unknown(h) {
			todo = append(todo, h)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.names = nil
	d.recovery.mu.Lock()
	defer d.recovery.mu.Unlock()
	d.recovery.RecoveryState = RecoveryState{Begun: true, Ended: len(todo) == 0, Total: len(todo)}
	if len(todo) == 0 || d.mu.closed {
		return
	}
	d.wg.Add(1)
	go d.startRecovery(todo, 4*runtime.GOMAXPROCS(0)) // reading is waiting, checking is not
}

// startRecovery opens the logs that are not as a stop left them, so many at once.
func (d *Dir) startRecovery(todo []*Held, atOnce int) {
	defer d.wg.Done()
	begun, told := time.Now(), time.Now()
	if err := d.fs.SyncTree(d.path); err != nil { // protection: sync at the start
		d.fence(err)
		return
	}
	d.durable.Store(true) // who opens a log from now on need not sync what he finds
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, h := range todo {
		select {
		case <-d.stop:
			_ = group.Wait() // the functions report by themselves
			return
		default:
		}
		group.Go(func() error {
			recovered := 0
			if e := d.manifest.entry(h.key()); h.Log() == nil && e != nil && !h.asItWasLeft(e) {
				recovered = 1
				if _, err := h.Open(); errors.Is(err, ErrClosed) {
					return nil // the stop is what counts
				}
			}
			d.recovery.mu.Lock()
			defer d.recovery.mu.Unlock()
			d.recovery.Done++
			d.recovery.Recovered += recovered
			return nil
		})
		if time.Since(told) >= recoveryTold {
			told = time.Now()
			s := d.Recovery()
			d.log.Info("logs are being recovered; each is served as soon as it is", "dir", d.path, "done", s.Done, "of", s.Total)
		}
	}
	_ = group.Wait() // the functions report by themselves
	d.recovery.mu.Lock()
	d.recovery.Ended = d.recovery.Done == d.recovery.Total
	s := d.recovery.RecoveryState
	d.recovery.mu.Unlock()
	d.log.Info("logs were recovered after a stop that was not a clean one", "dir", d.path, "logs", s.Total, "ofThemChanged", s.Recovered,
		"tookMs", time.Since(begun).Milliseconds())
}
