package network

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// pastDeadline wakes a goroutine that waits for a socket.
var pastDeadline = time.Unix(1, 0)

// Conn is one client connection.
type Conn struct {
	srv           *Server
	nc            *net.TCPConn
	sock                   // the platform's part
	tls           *secured // nil on a listener without TLS
	id            uint64
	listener      string
	local, remote netip.AddrPort
	ctx           context.Context // ends when the peer is gone or the connection is closed
	cancel        context.CancelFunc
	state         any
	opened        time.Time
	evicted       bool // guarded by Server.mu: it was closed to make room

	work atomic.Int64 // nanoseconds of receiving and sending since TakeWork

	turn chan struct{} // cap 1: something the reader may wait for has changed
	stop chan struct{} // closed with quit

	in         inbox     // the reader's
	mem        *budget   // the reader's: what its requests are charged to
	stranger   bool      // the reader's: see SetKnown
	gone       bool      // the reader's: the peer has closed its side
	staged     bool      // the reader's: calls behind settled are in the queue
	opaque     bool      // the reader's: see SetRaw
	writeUntil time.Time // the writer's: the write deadline in force
	noSendfile bool      // the writer's: the platform refused it
	planned    time.Time // the writer's: when the answer that leaves now was ready

	mu            sync.Mutex // guards the following
	queue         []started  // to be answered, in order; queue[head:] is live, queue[head:settled] the writer's. Bound: MaxStarted
	head          int
	settled       int   // queue[settled:] is started, but the service has put off a part of it
	writing       bool  // somebody holds the writer's role
	inflight      int   // started and not yet answered, those in queue included
	inflightBytes int64 // their frames
	inflightKey   int16 // the key of all of them
	watching      bool  // the reader waits in awaitTurn for the socket, wake it by its deadline
	muteUntil     time.Time
	lastSent      time.Time
	quit          bool   // read no more
	broken        bool   // send no more
	reason        string // why it closed; the first wins
}

// started is a request in work.
type started struct {
	call                  Call
	buf                   *slab // holds its frame
	key                   int16
	size                  int32
	throttle, mayPark     time.Duration
	diskWait              time.Duration
	arrived, begun, local time.Time
	ready, sending        time.Time
}

// newConn returns nil if the peer is gone already.
func newConn(s *Server, l boundListener, nc *net.TCPConn) *Conn {
	c := &Conn{
		srv: s, nc: nc, id: s.lastID.Add(1), listener: l.name,
		local: addrPort(nc.LocalAddr()), remote: addrPort(nc.RemoteAddr()),
		opened: time.Now(), turn: make(chan struct{}, 1), stop: make(chan struct{}),
		mem: &s.mem.known, stranger: l.strangers,
	}
	if c.stranger {
		c.mem = &s.mem.strangers
	}
	if !c.remote.IsValid() || c.initSock() != nil {
		return nil
	}
	if l.tls != nil {
		c.secure(l.tls)
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Listener is the name of the listener on which the client came.
func (c *Conn) Listener() string { return c.listener }

// Local is the address on which the client reached us.
func (c *Conn) Local() netip.AddrPort { return c.local }

// Remote is the client's address.
func (c *Conn) Remote() netip.AddrPort { return c.remote }

// ID is unique within the server's life.
func (c *Conn) ID() uint64 { return c.id }

// State and SetState are a slot for the Service. They need no lock when SetState is called
// only from Start, or from the Wait of a request that is not Early: nothing else of this
// connection runs then.
func (c *Conn) State() any { return c.state }

// SetState fills the slot.
func (c *Conn) SetState(state any) { c.state = state }

// TakeWork is for how long receiving and sending on the connection kept a thread busy since it was called last.
func (c *Conn) TakeWork() time.Duration { return time.Duration(c.work.Swap(0)) }

// Receiving and sending n bytes takes no longer than copyCall + n*copyByte, encryption included: what takes longer was waiting for the
// client, which keeps no thread busy.
const (
	copyCall = 20 * time.Microsecond
	copyByte = 4 * time.Nanosecond
)

// worked counts what it took to receive or send n bytes.
func (c *Conn) worked(n int64, took time.Duration) {
	c.work.Add(int64(min(took, copyCall+time.Duration(n)*copyByte)))
}

// RawKey is the API key of the frames of a connection in raw mode.
const RawKey int16 = -1

// SetRaw says whether the frames that follow are opaque bytes after their length, without a request header. Called only
// from Start.
func (c *Conn) SetRaw(raw bool) { c.opaque = raw }

// Raw reports what SetRaw has set.
func (c *Conn) Raw() bool { return c.opaque }

// SetKnown says that the client of a listener with Strangers has proved who it is. Called only from Start, at any time after the
// first call without effect.
func (c *Conn) SetKnown() { c.stranger, c.mem = false, &c.srv.mem.known }

// Why a reader ended, besides errors of the socket.
var (
	errStopped = errors.New("stopped")        // quit was set; whoever set it gave the reason
	errIdle    = errors.New("idle")           // IdleTimeout
	errSlow    = errors.New("frame too slow") // minFrameRate
)

// frameError is a frame that cannot be one.
type frameError struct {
	claimed, limit int64
	looksLike      string
}

func (e *frameError) Error() string { return "bad frame size" }

// refusedError is an error of Service.Start.
type refusedError struct {
	key, version int16
	err          error
}

func (e *refusedError) Error() string { return e.err.Error() }

// run is the reader's life. When it returns, the socket is closed, every Call is released
// and no goroutine of the connection is left.
func (c *Conn) run() {
	err := c.handshake()
	if err == nil {
		err = c.read()
	}
	reason := c.logEnd(err)
	if reason == "client" || reason == "idle" || reason == "slow" {
		c.gone = true
		c.cancel() // nobody waits for what is parked
	}
	c.drainCalls()
	c.goodbye()
	c.fail(reason, nil)
	c.in.drop()
	c.srv.metrics.closed.WithLabelValues(c.reason).Inc() // no lock: the last goroutine
}

// drainCalls answers what was started and waits until it is gone.
func (c *Conn) drainCalls() {
	c.settle()
	for {
		c.writeReady()
		c.mu.Lock()
		if c.inflight == 0 && !c.writing {
			c.mu.Unlock()
			return
		}
		c.awaitTurn(time.Time{})
	}
}

// logEnd gives the reason under which the connection is counted, and logs what somebody
// should look at.
func (c *Conn) logEnd(err error) (reason string) {
	log := c.srv.opt.Log.With("listener", c.listener, "peer", c.remote)
	var frame *frameError
	var refused *refusedError
	var shake *handshakeError
	switch {
	case errors.Is(err, errStopped):
		return "shutdown" // unless fail has given another already
	case errors.Is(err, errIdle):
		log.Debug("closing an idle connection", "idle", c.srv.opt.IdleTimeout)
		return "idle"
	case errors.Is(err, errSlow):
		if n, ok := c.srv.badFrames.allow(); ok {
			log.Warn("closing: a request arrives too slowly", "claimedBytes", c.in.claimed(), "receivedBytes", c.in.received(), "suppressed", n)
		}
		return "slow"
	case errors.As(err, &shake):
		cause := causeOf(err)
		c.handshakeFailed(cause)
		if n, ok := c.srv.badFrames.allow(); ok {
			log.Warn("closing: TLS handshake failed", "cause", cause.text, "error", err, "suppressed", n)
		}
		return "handshake"
	case errors.As(err, &frame):
		if n, ok := c.srv.badFrames.allow(); ok {
			attrs := []any{"claimedBytes", frame.claimed, "limitBytes", frame.limit, "suppressed", n}
			if frame.looksLike != "" {
				attrs = append(attrs, "cause", "looks like "+frame.looksLike+" on a PLAINTEXT listener")
			}
			log.Warn("closing: not a Kafka request, or one beyond socket.request.max.bytes", attrs...)
		}
		return "frame"
	case errors.As(err, &refused):
		if n, ok := c.srv.badFrames.allow(); ok {
			log.Warn("closing: request refused", "apiKey", refused.key, "apiVersion", refused.version, "error", refused.err, "suppressed", n)
		}
		return "request"
	case err != io.EOF && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, net.ErrClosed):
		log.Debug("connection lost", "error", err)
	}
	return "client"
}

// fail closes the connection at once: parked calls wake, nothing more is read or sent. err,
// if any, is logged. The first reason counts.
func (c *Conn) fail(reason string, err error) {
	c.mu.Lock()
	first := c.reason == ""
	if first {
		c.reason = reason
	}
	c.broken = true
	c.stopLocked()
	c.mu.Unlock()
	c.cancel()
	_ = c.nc.Close() // it is gone either way
	if first && err != nil {
		c.srv.opt.Log.Log(context.Background(), failLevel(reason), "closing: a response could not be sent whole",
			"listener", c.listener, "peer", c.remote, "reason", reason, "error", err)
	}
}

func failLevel(reason string) slog.Level {
	if reason == "file" {
		return slog.LevelError
	}
	return slog.LevelDebug
}

// stopReading ends the reader at its next wait; started requests go on.
func (c *Conn) stopReading() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopLocked()
}

func (c *Conn) stopLocked() {
	if c.quit {
		return
	}
	c.quit = true
	close(c.stop)
	_ = c.nc.SetReadDeadline(pastDeadline) // fails only on a closed socket
	c.signal()
}

// signal tells the reader that its turn may have come. mu is held.
func (c *Conn) signal() {
	select {
	case c.turn <- struct{}{}:
	default:
	}
	if c.watching && !c.quit {
		_ = c.nc.SetReadDeadline(pastDeadline)
	}
}

// setReadDeadline does not touch the deadline by which stopReading wakes the reader.
func (c *Conn) setReadDeadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.quit {
		_ = c.nc.SetReadDeadline(t)
	}
}

// awaitSignal waits for a signal or, if it is set, for until. mu is held, and released.
func (c *Conn) awaitSignal(until time.Time) {
	c.mu.Unlock()
	if until.IsZero() {
		<-c.turn
		return
	}
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-c.turn:
	case <-t.C:
	}
}
