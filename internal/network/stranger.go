package network

import (
	"errors"
	"io"
	"runtime"
	"time"
)

// A stranger is a client that has not proved yet who it is: until its TLS handshake is over, and on a listener with Strangers until
// SetKnown. What he can take from others is bounded:
//
//   - memory: his buffers hold what he has sent and not what he has announced, and are charged to a budget of strangers (memory)
//   - processors: handshakes and requests of strangers run so many at a time as there are processors to spare, first come first served;
//     who waits for his client meanwhile is none of them
//   - arrivals: to accept, to start and to close costs processors before there is a turn to wait for, so that a listener accepts no faster than StrangerRate,
//     if its CreationRate is that; the others are in the kernel's queue, and cost nothing
//   - time: he waits for his turn as long as he may take for a handshake, and loses it when he is gone by then

// strangerTime is how long a TLS handshake may take, and how long a stranger's request waits for its turn.
const strangerTime = 30 * time.Second

// strangerSlots is how many may calculate at once: half of the processors belong to who is in already.
func strangerSlots() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// strangersEach is how many handshakes or authentications a second one processor does, more or less: who is accepted faster only waits for his turn.
const strangersEach = 1000

// StrangerRate is the CreationRate that a listener whose clients have to prove who they are should have, if nobody has chosen another.
func StrangerRate() int { return strangersEach * strangerSlots() }

// errCrowded: too many strangers want something at once.
var errCrowded = errors.New("no turn within 30 seconds: too many connections that are not authenticated")

// enter waits for the turn to calculate for this connection, at most until then. Without an error leave is to be called.
func (c *Conn) enter(until time.Time) error {
	select {
	case c.srv.calculating <- struct{}{}:
		return nil
	default:
	}
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case c.srv.calculating <- struct{}{}:
	case <-t.C:
		return errCrowded
	case <-c.stop:
		return errStopped
	}
	if c.hasGone() {
		c.leave()
		return io.EOF
	}
	return nil
}

func (c *Conn) leave() { <-c.srv.calculating }

// start is Service.Start, for a stranger in his turn.
func (c *Conn) start(frame []byte, arrived time.Time) (Call, error) {
	if c.stranger {
		if err := c.enter(time.Now().Add(strangerTime)); err != nil {
			return nil, &turnError{err}
		}
		defer c.leave()
	}
	return c.srv.opt.Service.Start(c.ctx, c, frame, arrived)
}

// turnError is why a request has not had its turn.
type turnError struct{ err error }

func (e *turnError) Error() string { return e.err.Error() }
func (e *turnError) Unwrap() error { return e.err }
