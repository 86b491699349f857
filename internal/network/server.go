package network

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"moldau/internal/quota"
	"moldau/internal/stall"
)

const (
	// MaxStarted is how many requests of one connection may be started and unanswered.
	MaxStarted = 32

	defaultMaxRequestBytes = 100 << 20
	defaultQueuedBytes     = 128 << 20
	defaultConnBytes       = 8 << 20
	acceptBackoffMax       = time.Second
)

// Listener is one address to listen on. Host "localhost" means 127.0.0.1 and ::1, an empty
// host every interface; port 0 lets the system choose.
type Listener struct {
	Name       string      // as in Kafka's listeners, for example PLAINTEXT or INTERNAL
	Addr       string      // host:port
	Advertised string      // for the layer above; not used here
	TLS        *tls.Config // nil: none. Its GetConfigForClient may choose another for each connection

	// Strangers says that clients have yet to prove who they are, until the Service calls Conn.SetKnown.
	Strangers bool
}

// Options of a server. Service is required; the zero value of everything else is a default.
type Options struct {
	Listeners  []Listener
	Service    Service
	Log        *slog.Logger
	Registerer prometheus.Registerer // nil: not registered

	MaxRequestBytes int32 // socket.request.max.bytes; 0: 100 MiB
	QueuedBytes     int64 // queued.max.request.bytes, of frames in memory; 0 or less: 128 MiB
	ConnBytes       int64 // frames of one connection that may be started together (at least one may); 0: 8 MiB

	Limits        *Limits         // nil: none
	QuotaWindow   quota.Window    // quota.window, for SetQuotas
	IdleTimeout   time.Duration   // connections.max.idle.ms, also for a client that takes nothing of a response; 0: never
	SendBuffer    int             // socket.send.buffer.bytes; 0 or less: the system's
	RecvBuffer    int             // socket.receive.buffer.bytes; 0 or less: the system's
	GrowRecv      bool            // a connection's receive buffer is enlarged when its client sends a request that RecvBuffer is small for
	SlowRequest   time.Duration   // log a request that takes longer than this apart from parking and throttling; 0: off
	Stalls        *stall.Detector // is told how long requests worked; nil: nobody is
	PoisonBuffers bool            // overwrite buffers when they are released: for tests, to find a use after that
	minRateGrace  time.Duration   // tests only: how long a partial frame may stand still, else 30 s
}

// BoundListener is an address that is really listened on.
type BoundListener struct {
	Name string
	Addr netip.AddrPort
}

// Server owns the listeners and connections of one broker.
type Server struct {
	opt      Options
	mem      *memory
	metrics  *metrics
	outboxes outboxes

	listeners []boundListener
	began     time.Time      // the clock of quotas
	quit      chan struct{}  // closed by the first stop
	wg        sync.WaitGroup // acceptors and readers
	lastID    atomic.Uint64
	received  atomic.Int64 // times that something came from a client
	badFrames logLimit
	refusals  logLimit
	slow      logLimit

	calculating chan struct{} // what is in it works for a stranger: see Conn.enter

	mu          sync.Mutex // guards the following
	closing     bool
	served      bool
	limits      Limits
	conns       map[*Conn]struct{}
	perIP       map[netip.Addr]int
	perListener map[string]int
	evicting    int               // of conns: closed to make room, not gone yet
	room        chan struct{}     // closed when a connection goes; nil: no acceptor waits
	pacer       pacer             // of CreationRate
	paces       map[string]*pacer // of the listeners' own
	quotas      *quota.Rules      // what addresses are limited to
	addresses   quota.Table       // what they have used of it
	sentAway    []sentAway        // to be closed, in the order in which they came
	closer      bool              // closeSentAway runs
}

type boundListener struct {
	name string
	ln   *net.TCPListener
	addr netip.AddrPort
	tls  *tls.Config

	strangers bool
}

// Listen binds every listener and accepts nothing yet, so that a busy port is an error before
// anything else has started.
func Listen(opt Options) (*Server, error) {
	if opt.Service == nil {
		panic("BUG: network.Options without a Service")
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	opt.MaxRequestBytes = orDefault(opt.MaxRequestBytes, defaultMaxRequestBytes)
	opt.QueuedBytes = orDefault(opt.QueuedBytes, defaultQueuedBytes)
	opt.ConnBytes = orDefault(opt.ConnBytes, defaultConnBytes)
	opt.minRateGrace = orDefault(opt.minRateGrace, 30*time.Second)
	mem := newMemory(opt.QueuedBytes)
	mem.poison = opt.PoisonBuffers
	s := &Server{
		opt: opt, mem: mem, quit: make(chan struct{}),
		conns: make(map[*Conn]struct{}), perIP: make(map[netip.Addr]int), perListener: make(map[string]int), paces: make(map[string]*pacer),
		limits: NoLimits(), calculating: make(chan struct{}, strangerSlots()),
		began: time.Now(), addresses: quota.Table{Rates: opt.QuotaWindow, Most: mostAddresses},
	}
	if opt.Limits != nil {
		s.limits = *opt.Limits
	}
	for _, l := range opt.Listeners {
		bound, err := bind(l)
		if err != nil {
			s.closeListeners()
			return nil, err
		}
		config := counted(l.TLS)
		for i := range bound {
			bound[i].tls, bound[i].strangers = config, l.Strangers
		}
		s.listeners = append(s.listeners, bound...)
		s.paces[l.Name] = new(pacer)
	}
	s.metrics = newMetrics(opt.Registerer, func() float64 { return float64(s.mem.known.available()) })
	return s, nil
}

func orDefault[T int | int32 | int64 | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// Serve starts the acceptors and returns at once. After Close it does nothing.
func (s *Server) Serve() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || s.served {
		return
	}
	s.served = true
	for _, l := range s.listeners {
		s.wg.Go(func() { s.accept(l) })
	}
}

// Addrs are the real addresses, in the order of Options.Listeners; "localhost" gives two.
func (s *Server) Addrs() []BoundListener {
	out := make([]BoundListener, len(s.listeners))
	for i, l := range s.listeners {
		out[i] = BoundListener{Name: l.name, Addr: l.addr}
	}
	return out
}

// Received is how many times something has come from a client. Any goroutine may call it.
func (s *Server) Received() int64 { return s.received.Load() }

// Close stops accepting and reading, lets started requests finish and leave until drain ends,
// then closes what is left. It returns when every goroutine has ended: nil, or drain's error
// if connections had to be cut.
func (s *Server) Close(drain context.Context) error {
	s.stop()
	done := make(chan struct{})
	go func() {
		s.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-drain.Done():
	}
	cut := s.cut()
	<-done
	if cut == 0 {
		return nil
	}
	return fmt.Errorf("network: cut %d connections with unfinished requests: %w", cut, context.Cause(drain))
}

// Abort closes everything at once and returns when every goroutine has ended. It may be
// called while Close drains.
func (s *Server) Abort() {
	s.stop()
	s.cut()
	s.wg.Wait()
}

// stop ends accepting and reading.
func (s *Server) stop() {
	s.closeListeners()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		s.closing = true
		close(s.quit)
	}
	for c := range s.conns {
		c.stopReading()
	}
}

func (s *Server) cut() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.fail("shutdown", nil)
		n++
	}
	return n
}

func (s *Server) closeListeners() {
	for _, l := range s.listeners {
		_ = l.ln.Close() // nothing can be done, and a second close is harmless
	}
}

// accept runs until the listener is closed. Any other error (EMFILE above all) passes: it
// waits longer and longer, and goes on.
func (s *Server) accept(l boundListener) {
	backoff := time.Duration(0)
	accepted := s.metrics.accepted.WithLabelValues(l.name)
	open := s.metrics.connections.WithLabelValues(l.name)
	for {
		nc, err := l.ln.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			backoff = min(max(2*backoff, 5*time.Millisecond), acceptBackoffMax)
			if n, ok := s.refusals.allow(); ok {
				s.opt.Log.Error("cannot accept connections, trying again", "listener", l.name,
					"address", l.addr, "error", err, "wait", backoff, "suppressed", n)
			}
			select {
			case <-time.After(backoff):
			case <-s.quit:
			}
			continue
		}
		backoff = 0
		accepted.Inc()
		if s.sendAway(l.name, nc) {
			continue
		}
		if !s.pace(l.name) || !s.admit(l, nc, open) {
			_ = nc.Close()
		}
	}
}

// admit starts a connection's reader when the limits have room for it.
func (s *Server) admit(l boundListener, nc *net.TCPConn, open prometheus.Gauge) bool {
	if s.opt.SendBuffer > 0 {
		_ = nc.SetWriteBuffer(s.opt.SendBuffer) // a wish, as everywhere
	}
	if s.opt.RecvBuffer > 0 {
		_ = nc.SetReadBuffer(s.opt.RecvBuffer)
	}
	c := newConn(s, l, nc)
	if c == nil {
		return false // reset before we looked
	}
	ip := c.remote.Addr()
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.closing {
			return false
		}
		if n := s.limits.perIP(ip); s.perIP[ip] >= n {
			s.metrics.closed.WithLabelValues("limit").Inc()
			s.logLimit("connection refused: limit reached", c, "max.connections.per.ip", n)
			return false
		}
		limit, n := s.fullLocked(l.name)
		if limit == "" {
			break
		}
		s.logLimit("connections wait: limit reached", c, limit, n)
		s.awaitRoom()
	}
	s.conns[c] = struct{}{}
	s.perIP[ip]++
	s.perListener[l.name]++
	open.Inc()
	s.makeRoomLocked()
	s.evictLocked()
	s.wg.Go(func() {
		c.run()
		open.Dec()
		s.forget(c) // last: whoever finds the connection gone finds it counted as gone
	})
	return true
}

func (s *Server) logLimit(text string, c *Conn, limit string, value int) {
	s.logRefusal(text, c.listener, c.remote, limit, value)
}

func (s *Server) logRefusal(text, listener string, peer netip.AddrPort, limit string, value any) {
	if n, ok := s.refusals.allow(); ok {
		s.opt.Log.Warn(text, "listener", listener, "peer", peer, "limit", limit, "value", value, "suppressed", n)
	}
}

// awaitRoom waits until a connection goes, the limits change or the server stops. mu is held, and again when it returns.
func (s *Server) awaitRoom() {
	if s.room == nil {
		s.room = make(chan struct{})
	}
	room := s.room
	s.mu.Unlock()
	defer s.mu.Lock()
	s.metrics.waiting.Inc()
	defer s.metrics.waiting.Dec()
	select {
	case <-room:
	case <-s.quit:
	}
}

func (s *Server) forget(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	ip := c.remote.Addr()
	if s.perIP[ip]--; s.perIP[ip] == 0 {
		delete(s.perIP, ip)
	}
	s.perListener[c.listener]--
	if c.evicted {
		s.evicting--
	}
	s.roomLocked()
}

// logLimit lets one line a second through and counts the others.
type logLimit struct {
	mu         sync.Mutex // guards the following
	last       time.Time
	suppressed int
}

// allow says whether to log now, and how many lines were held back since the last one.
func (l *logLimit) allow() (suppressed int, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); now.Sub(l.last) >= time.Second {
		l.last = now
		suppressed, l.suppressed = l.suppressed, 0
		return suppressed, true
	}
	l.suppressed++
	return 0, false
}
