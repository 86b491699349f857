package broker

import (
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	awakeNap    = 5 * time.Millisecond   // less than the monitor's longest sleep, so that it finds a new one each time
	awakeRound  = 100 * time.Millisecond // after which it is looked at whether requests still come
	awakeFewest = 10                     // that come in a round: fewer cost less than this does
	awakeSpare  = 5                      // processors for system calls that wait for a disk
)

// keepAwake keeps the Go runtime from going to sleep between two requests, until the result is called, which waits for that. received counts
// what has come from clients; it is called by one goroutine.
//
// When nothing runs in a process, the runtime's monitor thread (sysmon) goes to sleep, to be woken by the next system call, and then looks around
// every 20 µs until nothing runs again. With thousands of requests a second, each of which is done in less than 100 µs, that was half of the
// processor time of the broker: docs/adr/0020. It does not sleep while a goroutine is in a system call, and finding nothing to do it looks around
// every 10 ms. So there is one: it sleeps in the kernel instead of in the runtime, on a processor (P) of its own that is added for it. Where all of them are busy the monitor takes this one away as
// from any system call. What a call that waits for a disk holds is taken away as late: so there are spare ones for those. Only one in a process, and not
// where others share the process.
func keepAwake(received func() int64) (stop func()) {
	before := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(before + 1 + awakeSpare)
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		a := awake{received: received, quit: quit}
		for a.quiet() {
			a.hold()
		}
	})
	return func() {
		close(quit)
		wg.Wait()
		runtime.GOMAXPROCS(before)
	}
}

// awake is the one goroutine's.
type awake struct {
	received func() int64
	quit     <-chan struct{}
	rounds   int // that were held: for tests
}

// quiet waits until there are requests; false when it is over.
func (a *awake) quiet() bool {
	t := time.NewTicker(awakeRound)
	defer t.Stop()
	for last := a.received(); ; {
		select {
		case <-a.quit:
			return false
		case <-t.C:
		}
		now := a.received()
		if now-last >= awakeFewest {
			return true
		}
		last = now
	}
}

// hold sleeps in the kernel while requests come.
func (a *awake) hold() {
	nap := unix.NsecToTimespec(int64(awakeNap))
	for last := a.received(); ; {
		for range awakeRound / awakeNap {
			select {
			case <-a.quit:
				return
			default:
			}
			_ = unix.Nanosleep(&nap, nil) // a signal ends it early
			runtime.Gosched()             // or the monitor takes it for one that runs too long
		}
		a.rounds++
		now := a.received()
		if now-last < awakeFewest {
			return
		}
		last = now
	}
}
