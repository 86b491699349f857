package network

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"
)

// strangerBytes is what a connection may cost before its client is known.
const strangerBytes = 64 << 10

// TestMemoryOfStrangers: a connection costs little before its client is known, whatever he sends, and however he stops.
func TestMemoryOfStrangers(t *testing.T) {
	const n, proof = 100, 24 << 10 // keyFetch stands for SaslAuthenticate
	authority := newAuthority(t)
	config := serverTLS(t, authority)
	asks := config.Clone()
	asks.ClientAuth, asks.ClientCAs = tls.RequireAndVerifyClientCert, authority.pool

	part := func(k int) []byte { // of the largest frame
		p := make([]byte, proof+sizeBytes)
		binary.BigEndian.PutUint32(p, proof)
		p[5] = keyFetch
		return p[:k]
	}
	many := bytes.Repeat(request(keyTiny, 1, nil), 10_000)
	// hello is the beginning of a handshake message that claims 60 KiB, in records of this size.
	hello := func(k, record int) (out []byte) {
		body := append([]byte{1, 0, 60_000 >> 8, 60_000 & 255}, make([]byte, k)...)
		for len(out) < k {
			r := body[:min(record, len(body))]
			body = body[len(r):]
			out = append(append(out, 22, 3, 1, byte(len(r)>>8), byte(len(r))), r...)
		}
		return out[:k]
	}
	type state struct {
		name  string
		tls   *tls.Config
		shake bool
		sent  []byte
	}
	states := []state{{"silent", nil, false, nil}, {"silent before TLS", config, false, nil}, {"silent after TLS", config, true, nil}}
	for _, k := range []int{3, 4000, 4200, 16<<10 + 1, proof + 3} {
		states = append(states, state{"part of a frame", nil, false, part(k)}, state{"part of a frame over TLS", config, true, part(k)})
	}
	for _, record := range []int{1, 16 << 10} {
		states = append(states, state{"part of a hello", config, false, hello(helloBytes-1, record)}, state{"part of a hello, certificates asked for", asks, false, hello(helloBytes-1, record)})
	}
	states = append(states, state{"answers not read", nil, false, many}, state{"answers not read over TLS", config, true, many})

	for _, s := range states {
		svc := &strangerService{fakeService: fakeService{start: func(call *fakeCall, _ *Conn, _ int16, _ []byte) error {
			call.reply.Pieces[0].Bytes = response(call.corr, make([]byte, 600)) // as ApiVersions
			return nil
		}}}
		svc.fakeService.t = t
		h := serve(t, &svc.fakeService, func(o *Options) {
			o.Service = svc
			o.Listeners[0].TLS, o.Listeners[0].Strangers = s.tls, true
			o.SendBuffer = 4 << 10
		})
		before := live()
		var stuck sync.WaitGroup
		conns := make([]net.Conn, n) // below TLS, of whose other end nothing is kept
		for i := range conns {
			nc := h.dialPlain()
			_ = nc.(*net.TCPConn).SetReadBuffer(4 << 10)
			sent := s.sent
			if s.shake {
				below := &tap{Conn: nc}
				c := tls.Client(below, &tls.Config{RootCAs: authority.pool, ServerName: "localhost"})
				if err := c.Handshake(); err != nil {
					t.Fatal(err)
				}
				below.out = new(bytes.Buffer)
				send(t, c, sent)
				sent = below.out.Bytes()
			}
			if len(s.sent) > proof+sizeBytes {
				_ = nc.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)) // it is stuck, and is to be so
				stuck.Go(func() { _, _ = nc.Write(sent) })
			} else {
				send(t, nc, sent)
			}
			conns[i] = nc
		}
		stuck.Wait()
		eventually(t, "accepted", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.conns) == n })
		if !s.shake && s.tls != nil { // what arrives before TLS is not counted
			time.Sleep(20 * time.Millisecond)
		} else if len(s.sent) <= proof+sizeBytes {
			eventually(t, "received", func() bool { return h.received() >= float64(n*len(s.sent)) })
		}
		svc.mu.Lock()
		svc.calls = nil
		svc.mu.Unlock()
		each := (live() - before) / n
		t.Logf("%-45s %6d bytes sent: %6d bytes of memory", s.name, len(s.sent), each)
		if each > strangerBytes {
			t.Errorf("%s, %d bytes sent: a connection costs %d bytes", s.name, len(s.sent), each)
		}
		for _, nc := range conns {
			nc.Close()
		}
		eventually(t, "closed", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.conns) == 0 })
		if free := h.mem.strangers.available(); free != h.opt.QueuedBytes/strangersShare {
			t.Errorf("budget of strangers after the end: %d free", free)
		}
		h.Abort()
	}
}

// tap is a connection whose client's bytes go elsewhere from some time on.
type tap struct {
	net.Conn
	out *bytes.Buffer
}

func (c *tap) Write(p []byte) (int, error) {
	if c.out != nil {
		return c.out.Write(p)
	}
	return c.Conn.Write(p)
}

// live is how much memory is in use.
func live() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// strangerService bounds frames as those of strangers are.
type strangerService struct{ fakeService }

func (s *strangerService) MaxFrameBytes(c *Conn, key int16) int32 {
	return min(24<<10, s.fakeService.MaxFrameBytes(c, key))
}

// TestStrangersHaveTheirOwnBudget: strangers with half a request each take nothing from those who are known.
func TestStrangersHaveTheirOwnBudget(t *testing.T) {
	const budget = 256 << 10
	svc := &fakeService{start: func(_ *fakeCall, c *Conn, key int16, _ []byte) error {
		if key == keyFetch {
			c.SetKnown()
		}
		return nil
	}}
	h := serve(t, svc, func(o *Options) { o.QueuedBytes, o.Listeners[0].Strangers = budget, true })
	friend := h.dial()
	send(t, friend, request(keyFetch, 1, nil))
	expect(t, friend, 1)
	half := request(keyProduce, 1, make([]byte, 60<<10))[:30<<10]
	for range 40 {
		send(t, h.dial(), half)
	}
	eventually(t, "the budget of strangers is used up", func() bool { return h.mem.strangers.available() < 40<<10 })
	for i := range int32(20) {
		send(t, friend, request(keyProduce, i, make([]byte, 200<<10)))
		expect(t, friend, i)
	}
	eventually(t, "all that is known is answered and free", func() bool { return h.mem.known.available() == budget })
}

// TestStrangersWaitForTheirTurn: only so many strangers calculate at once; who is known does not wait for them, and who has gone gives his turn away.
func TestStrangersWaitForTheirTurn(t *testing.T) {
	hold, inside := make(chan struct{}), make(chan struct{}, 100)
	svc := &fakeService{start: func(_ *fakeCall, c *Conn, key int16, _ []byte) error {
		switch key {
		case keyFetch:
			c.SetKnown()
		case keyTiny:
			inside <- struct{}{}
			<-hold
		}
		return nil
	}}
	h := serve(t, svc, func(o *Options) { o.Listeners[0].Strangers = true })
	friend := h.dialPlain()
	if *overTLS {
		t.Skip("handshakes have turns as well")
	}
	send(t, friend, request(keyFetch, 1, nil))
	expect(t, friend, 1)
	var all []net.Conn
	for range strangerSlots() {
		nc := h.dial()
		send(t, nc, request(keyTiny, 2, nil))
		<-inside
		all = append(all, nc)
	}
	gone, last := h.dial(), h.dial()
	send(t, gone, request(keyTiny, 2, nil))
	eventually(t, "waiting", func() bool { return h.received() >= float64(12*(2+len(all))) })
	gone.Close()
	send(t, last, request(keyTiny, 2, nil))
	for i := range int32(100) {
		send(t, friend, request(keyProduce, i, nil))
		expect(t, friend, i)
	}
	if n := len(inside); n != 0 {
		t.Fatalf("%d strangers more than %d calculate", n, strangerSlots())
	}
	close(hold)
	for _, nc := range append(all, last) {
		expect(t, nc, 2)
	}
	if n := len(inside); seesHangup && n != 1 {
		t.Errorf("%d requests had their turn, want 1: that of the client who has not gone", n)
	}
}

// TestStrangersEndWithTheServer: who waits for his turn does not hold up the end.
func TestStrangersEndWithTheServer(t *testing.T) {
	svc := &fakeService{}
	h := serve(t, svc, withTLS(serverTLS(t, newAuthority(t))), func(o *Options) { o.Listeners[0].Strangers = true })
	for range strangerSlots() {
		h.calculating <- struct{}{}
	}
	const n = 5
	var clients sync.WaitGroup
	for range n {
		nc := h.dialPlain()
		clients.Go(func() { _ = tls.Client(nc, &tls.Config{InsecureSkipVerify: true}).Handshake() })
	}
	eventually(t, "accepted", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.conns) == n })
	h.Abort()
	clients.Wait()
	for range strangerSlots() {
		<-h.calculating
	}
}
