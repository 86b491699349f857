package network

import (
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func limited(change func(*Limits)) func(*Options) {
	return func(o *Options) {
		l := NoLimits()
		change(&l)
		o.Limits = &l
	}
}

// from connects from an address of this machine to a listener.
func (h *harness) from(ip string, listener int) net.Conn {
	h.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
	nc, err := d.Dial("tcp", h.Addrs()[listener].Addr.String())
	if err != nil {
		h.t.Skipf("no connection from %s: %v", ip, err) // macOS has 127.0.0.1 only
	}
	h.t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	return nc
}

func ping(t testing.TB, nc net.Conn) {
	t.Helper()
	send(t, nc, request(keyTiny, 5, nil))
	expect(t, nc, 5)
}

// tables are the server's counts; when nothing is open, they are empty.
func (h *harness) tables() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, k := range h.perListener {
		n += k
	}
	return fmt.Sprint(len(h.conns), len(h.perIP), n, h.evicting)
}

// working waits until n connections have a request in work: a client may have its answer a moment before its connection is idle.
func (h *harness) working(n int) {
	h.t.Helper()
	eventually(h.t, fmt.Sprintf("%d connections have a request in work", n), func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		busy := 0
		for c := range h.conns {
			c.mu.Lock()
			if c.inflight > 0 {
				busy++
			}
			c.mu.Unlock()
		}
		return busy == n
	})
}

// Whose address has too many connections is sent away, an override counts for its address, and what goes makes room.
func TestLimitPerIP(t *testing.T) {
	override := map[netip.Addr]int{netip.MustParseAddr("127.0.0.2"): 1, netip.MustParseAddr("127.0.0.3"): 0}
	for name, c := range map[string]struct {
		ip    string
		limit int
		set   func(*Limits)
	}{
		"general":                 {"127.0.0.1", 2, func(l *Limits) { l.PerIP = 2 }},
		"beside an override":      {"127.0.0.1", 2, func(l *Limits) { l.PerIP, l.PerIPOverrides = 2, override }},
		"an override":             {"127.0.0.2", 1, func(l *Limits) { l.PerIP, l.PerIPOverrides = 2, override }},
		"nobody":                  {"127.0.0.3", 0, func(l *Limits) { l.PerIPOverrides = override }},
		"nobody but an override":  {"127.0.0.2", 1, func(l *Limits) { l.PerIP, l.PerIPOverrides = 0, override }},
		"nobody of other clients": {"127.0.0.1", 0, func(l *Limits) { l.PerIP, l.PerIPOverrides = 0, override }},
	} {
		t.Run(name, func(t *testing.T) {
			h := serve(t, &fakeService{}, limited(c.set))
			var open []net.Conn
			for range c.limit {
				open = append(open, h.from(c.ip, 0))
				ping(t, open[len(open)-1])
			}
			_, _ = io.Copy(io.Discard, h.from(c.ip, 0)) // refused
			h.expectLog("limit reached", "max.connections.per.ip")
			if c.limit == 0 {
				return
			}
			open[0].Close()
			eventually(t, "room again", func() bool {
				nc := h.from(c.ip, 0)
				_, _ = nc.Write(request(keyTiny, 9, nil))
				_, _, err := readResponse(nc)
				return err == nil
			})
		})
	}
}

// Beyond max.connections clients wait, and are served when another one goes, when the limit rises or, of course, never
// when the server stops.
func TestLimitOfAllConnections(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*Limits)
		make func(h *harness, first net.Conn)
	}{
		"one goes": {func(l *Limits) { l.Connections = 2 }, func(_ *harness, first net.Conn) { first.Close() }},
		"the limit rises": {func(l *Limits) { l.Connections = 2 }, func(h *harness, _ net.Conn) {
			l := NoLimits()
			l.Connections = 3
			h.SetLimits(l)
		}},
		"of the listener": {func(l *Limits) { l.Listeners = map[string]Capacity{"PLAINTEXT": {2, Unlimited}} }, func(_ *harness, first net.Conn) { first.Close() }},
		"the end":         {func(l *Limits) { l.Connections = 2 }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := serve(t, &fakeService{}, limited(c.set))
			a, b, third := h.dial(), h.dial(), h.dial()
			ping(t, a)
			ping(t, b)
			send(t, third, request(keyTiny, 5, nil))
			h.expectLog("connections wait: limit reached", "max.connections", "value=2")
			ping(t, b) // who is in is served
			if n := h.open(); n != 2 {
				t.Fatalf("%d connections are open", n)
			}
			if c.make == nil {
				return // the harness stops the server, and waits for the acceptor
			}
			c.make(h, a)
			expect(t, third, 5)
		})
	}
}

// The brokers' listener is not held back: for its connections the least recently used one of the clients' goes.
func TestProtectedListener(t *testing.T) {
	h := serve(t, &fakeService{}, func(o *Options) {
		o.Listeners = []Listener{{Name: "CLIENTS", Addr: "127.0.0.1:0"}, {Name: "BROKERS", Addr: "127.0.0.1:0"}}
	}, limited(func(l *Limits) { l.Connections, l.Protected, l.CreationRate = 2, "BROKERS", Unlimited }))
	busy, idle := h.from("127.0.0.1", 0), h.from("127.0.0.1", 0)
	for _, nc := range []net.Conn{busy, idle, busy} {
		ping(t, nc)
		h.working(0)
	}
	broker := h.from("127.0.0.1", 1)
	ping(t, broker)
	expectClosed(t, idle)
	ping(t, busy)
	more := h.from("127.0.0.1", 1)
	ping(t, more)
	expectClosed(t, busy)
	third := h.from("127.0.0.1", 1) // there is no client left
	for _, nc := range []net.Conn{broker, more, third} {
		ping(t, nc)
	}
	h.expectLog("used least recently", "listener=CLIENTS")
	for _, nc := range []net.Conn{broker, more, third} {
		nc.Close()
	}
	eventually(t, "empty tables", func() bool { return h.tables() == "0 0 0 0" })
}

// A connection with a request in work is the last to go.
func TestLoweredLimitClosesTheIdle(t *testing.T) {
	hold := make(chan struct{})
	svc := &fakeService{start: func(call *fakeCall, _ *Conn, _ int16, _ []byte) error {
		if call.corr == 7 {
			call.park = hold
		}
		return nil
	}}
	h := serve(t, svc)
	parked := h.dial()
	send(t, parked, request(keyFetch, 7, nil))
	eventually(t, "parked", func() bool { return svc.live.Load() == 1 })
	var idle []net.Conn
	for range 9 {
		idle = append(idle, h.dial())
		ping(t, idle[len(idle)-1])
	}
	h.working(1)
	l := NoLimits()
	l.Connections = 1
	h.SetLimits(l)
	for _, nc := range idle {
		expectClosed(t, nc)
	}
	close(hold)
	expect(t, parked, 7)
	eventually(t, "one is left", func() bool { return h.tables() == "1 1 1 0" })
}

// The pace is exact over any span, but for the burst of a second that a quiet one has saved.
func TestPacer(t *testing.T) {
	for _, rate := range []int{0, 1, 7, 1000} {
		var p pacer
		now := time.Unix(1000, 0)
		begun, n := now, 0
		rnd := rand.New(rand.NewSource(int64(rate)))
		for range 5000 {
			now = now.Add(p.take(rate, now) + time.Duration(rnd.Intn(3))*time.Microsecond)
			n++
			if most := max(rate, 1) + int(now.Sub(begun).Seconds()*float64(max(rate, 1))) + 1; n > most {
				t.Fatalf("%d a second: %d came within %v", rate, n, now.Sub(begun))
			}
		}
		if least := int(now.Sub(begun).Seconds() * float64(max(rate, 1)) * 0.99); n < least {
			t.Errorf("%d a second: only %d came within %v", rate, n, now.Sub(begun))
		}
	}
	var p pacer
	if d := p.take(Unlimited, time.Unix(1000, 0)); d != 0 || !p.next.IsZero() {
		t.Errorf("without a limit the wait is %v", d)
	}
}

// A creation rate makes clients wait, not fail; and the server stops without waiting for it.
func TestCreationRate(t *testing.T) {
	h := serve(t, &fakeService{}, limited(func(l *Limits) { l.CreationRate = 4 }))
	for range 5 { // one more than a burst
		ping(t, h.dial())
	}
	slow := NoLimits()
	slow.Listeners = map[string]Capacity{"PLAINTEXT": {Unlimited, 0}} // one a second
	h.SetLimits(slow)
	for range 20 {
		h.dial()
	}
}

// Under churn from many addresses no limit is passed, and in the end nothing is counted that is not there.
func TestLimitsHoldUnderChurn(t *testing.T) {
	const perIP, all = 3, 8
	var most atomic.Int64
	svc := &fakeService{}
	svc.start = func(_ *fakeCall, c *Conn, _ int16, _ []byte) error {
		c.srv.mu.Lock()
		defer c.srv.mu.Unlock()
		if n := len(c.srv.conns); n > all {
			svc.fail(fmt.Sprintf("%d connections are open", n))
		} else {
			most.Store(max(most.Load(), int64(n)))
		}
		if n := c.srv.perIP[c.remote.Addr()]; n > perIP {
			svc.fail(fmt.Sprintf("%d connections of %v are open", n, c.remote.Addr()))
		}
		return nil
	}
	h := serve(t, svc, limited(func(l *Limits) { l.Connections, l.PerIP = all, perIP }))
	h.from("127.0.0.2", 0).Close() // skips where there is no such address
	var clients sync.WaitGroup
	var served atomic.Int64
	for k := range 16 {
		clients.Go(func() {
			rnd := rand.New(rand.NewSource(int64(k)))
			ip := 1 + k%4
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(ip))}}
			for range 40 {
				nc, err := d.Dial("tcp", h.Addrs()[0].Addr.String())
				if err != nil {
					t.Error(err)
					return
				}
				_ = nc.SetDeadline(time.Now().Add(patience))
				for range rnd.Intn(3) {
					_, err = nc.Write(request(keyTiny, 1, nil))
					if err == nil {
						_, _, err = readResponse(nc)
					}
					if errors.Is(err, os.ErrDeadlineExceeded) {
						t.Error("a client was forgotten")
					}
					if err != nil {
						break
					}
					served.Add(1)
				}
				if rnd.Intn(4) == 0 {
					_ = nc.(*net.TCPConn).SetLinger(0)
				}
				if rnd.Intn(4) == 0 {
					_, _ = nc.Write([]byte{0, 0, 1}) // half a size
				}
				nc.Close()
			}
		})
	}
	clients.Wait()
	eventually(t, "empty tables", func() bool { return h.tables() == "0 0 0 0" })
	if served.Load() == 0 || most.Load() < 2 {
		t.Fatalf("%d requests were served, at most %d connections were open: the test shows nothing", served.Load(), most.Load())
	}
}
