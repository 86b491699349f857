package broker

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"moldau/test/leak"
)

// TestAwakeOnlyWhileRequestsCome: it holds for as long as they do, and lets go of it when they do not.
func TestAwakeOnlyWhileRequestsCome(t *testing.T) {
	var looks, requests int64
	const busy = 7 // looks at the counter that find more
	a := awake{received: func() int64 {
		if looks++; looks < busy {
			requests += awakeFewest
		}
		return requests
	}, quit: make(chan struct{})}
	if !a.quiet() {
		t.Fatal("over before it was told to")
	}
	a.hold()
	if want := busy - 3; a.rounds != want { // two looks before it begins, one at its beginning, and the last round finds nothing
		t.Errorf("%d rounds, want %d", a.rounds, want)
	}
	quit := make(chan struct{})
	close(quit)
	a.quit = quit
	a.hold()
	if a.quiet() {
		t.Error("goes on though it is over")
	}
}

// TestAwakeGivesBackWhatItTook: the processor that it added, and its goroutine, also in the middle of a burst.
func TestAwakeGivesBackWhatItTook(t *testing.T) {
	defer leak.Check(t)()
	before := runtime.GOMAXPROCS(0)
	var n atomic.Int64
	held := make(chan struct{})
	stop := keepAwake(func() int64 {
		if n.Add(awakeFewest) == 5*awakeFewest {
			close(held)
		}
		return n.Load()
	})
	if got := runtime.GOMAXPROCS(0); got != before+1+awakeSpare {
		t.Errorf("%d processors, want %d", got, before+1+awakeSpare)
	}
	select {
	case <-held:
	case <-time.After(time.Minute):
		t.Error("it never looked at what came")
	}
	runtime.GC() // the world stops although it sleeps
	stop()
	if got := runtime.GOMAXPROCS(0); got != before {
		t.Errorf("%d processors are left, there were %d", got, before)
	}
}
