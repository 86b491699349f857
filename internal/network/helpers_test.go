package network

import (
	"context"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"moldau/internal/wire"
	"moldau/test/leak"
	"moldau/test/logtext"
)

func TestMain(m *testing.M) { leak.Main(m) }

// patience bounds what may hang. It is no measure of speed.
const patience = 2 * time.Minute

const (
	keyProduce = 0
	keyFetch   = 1
	keyTiny    = 18 // at most 1 KiB
)

// fakeCall is a response that a test steers.
type fakeCall struct {
	srv    *fakeService
	corr   int32
	park   chan struct{} // nil: ready
	delay  time.Duration
	reply  Reply
	waits  atomic.Int32
	frees  atomic.Int32
	frame  []byte
	sum    byte
	cancel atomic.Bool // Wait was ended by ctx
	unpin  func()
	onConn *atomic.Int32
	put    atomic.Bool // Settle was called
}

func (c *fakeCall) Ready() bool {
	if !c.put.Load() {
		c.srv.fail("Ready before Settle")
	}
	if c.delay > 0 {
		return false
	}
	if c.park == nil {
		return true
	}
	select {
	case <-c.park:
		return true
	default:
		return false
	}
}

func (c *fakeCall) Wait(ctx context.Context) Reply {
	c.waits.Add(1)
	if !c.put.Load() {
		c.srv.fail("Wait before Settle")
	}
	if c.delay > 0 {
		time.Sleep(c.delay)
	}
	if c.park != nil {
		select {
		case <-c.park:
		case <-ctx.Done():
			c.cancel.Store(true)
		}
	}
	return c.reply
}

func (c *fakeCall) Describe() []slog.Attr { return []slog.Attr{slog.String("who", "a test")} }

func (c *fakeCall) Release() {
	if checksum(c.frame) != c.sum {
		c.srv.fail("a frame changed before its release")
	}
	if c.unpin != nil {
		c.unpin()
	}
	c.frees.Add(1)
	c.onConn.Add(-1)
	c.srv.live.Add(-1)
}

func checksum(p []byte) (s byte) {
	for i := 0; i < len(p); i += 1 + len(p)/64 {
		s = s*31 + p[i]
	}
	return s
}

// fakeService answers with the correlation id, or as start says.
type fakeService struct {
	t     testing.TB
	start func(call *fakeCall, c *Conn, key int16, frame []byte) error // in the reader
	early bool

	live    atomic.Int32 // started and not released
	starts  atomic.Int32
	mu      sync.Mutex // guards the following
	calls   []*fakeCall
	burst   map[*Conn][]*fakeCall // not settled
	largest int                   // burst
	errs    []string
}

func (s *fakeService) fail(text string) {
	s.mu.Lock()
	s.errs = append(s.errs, text)
	s.mu.Unlock()
}

func (s *fakeService) MaxFrameBytes(_ *Conn, key int16) int32 {
	switch key {
	case keyProduce:
		return 64 << 20
	case keyTiny:
		return 1 << 10
	}
	return 1 << 20
}

// Settle: what the fake puts off is to be asked for.
func (s *fakeService) Settle(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.burst[c]) == 0 {
		s.errs = append(s.errs, "Settle without a Start")
	}
	s.largest = max(s.largest, len(s.burst[c]))
	for _, call := range s.burst[c] {
		call.put.Store(true)
	}
	delete(s.burst, c)
}

func (s *fakeService) Early(key int16) bool { return s.early && key == keyProduce }

func (s *fakeService) Start(_ context.Context, c *Conn, frame []byte, arrived time.Time) (Call, error) {
	key := int16(binary.BigEndian.Uint16(frame))
	if int64(len(frame)) > int64(s.MaxFrameBytes(c, key)) || len(frame) < minFrame || arrived.IsZero() {
		s.fail("Start called with a frame beyond the limit")
	}
	call := &fakeCall{srv: s, corr: int32(binary.BigEndian.Uint32(frame[4:])), frame: frame, sum: checksum(frame)}
	call.reply = Reply{Pieces: []wire.Piece{{Bytes: response(call.corr, nil)}}}
	if c.State() == nil {
		c.SetState(new(atomic.Int32))
	}
	call.onConn = c.State().(*atomic.Int32)
	if s.start != nil {
		if err := s.start(call, c, key, frame); err != nil {
			return nil, err
		}
	}
	s.starts.Add(1)
	s.live.Add(1)
	call.onConn.Add(1)
	s.mu.Lock()
	s.calls = append(s.calls, call)
	if s.burst == nil {
		s.burst = map[*Conn][]*fakeCall{}
	}
	s.burst[c] = append(s.burst[c], call)
	s.mu.Unlock()
	return call, nil
}

// check is for when everything has ended: each call was waited for and released once.
func (s *fakeService) check() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.errs {
		s.t.Error(e)
	}
	for _, c := range s.calls {
		if c.waits.Load() != 1 || c.frees.Load() != 1 {
			s.t.Errorf("request %d: %d waits and %d releases, want 1 and 1", c.corr, c.waits.Load(), c.frees.Load())
		}
	}
}

func response(corr int32, body []byte) []byte {
	p := binary.BigEndian.AppendUint32(nil, uint32(4+len(body)))
	p = binary.BigEndian.AppendUint32(p, uint32(corr))
	return append(p, body...)
}

func request(key int16, corr int32, body []byte) []byte {
	p := binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))
	p = binary.BigEndian.AppendUint16(p, uint16(key))
	p = binary.BigEndian.AppendUint16(p, 0)
	p = binary.BigEndian.AppendUint32(p, uint32(corr))
	return append(p, body...)
}

type harness struct {
	*Server
	svc *fakeService
	log *logtext.Text
	t   testing.TB
}

// serve starts a server that is closed, and checked, when the test ends.
func serve(t testing.TB, svc *fakeService, change ...func(*Options)) *harness {
	t.Helper()
	svc.t = t
	log := new(logtext.Text)
	opt := Options{
		Listeners: []Listener{{Name: "PLAINTEXT", Addr: "127.0.0.1:0"}},
		Service:   svc, PoisonBuffers: true, Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, f := range change {
		f(&opt)
	}
	if *overTLS && opt.Listeners[0].TLS == nil {
		overTLSListener(t)(&opt)
	}
	s, err := Listen(opt)
	if err != nil {
		t.Fatal(err)
	}
	s.Serve()
	t.Cleanup(func() {
		s.Abort()
		svc.check()
		if free := s.mem.known.available(); free != s.opt.QueuedBytes {
			t.Errorf("budget after the end: %d free of %d", free, s.opt.QueuedBytes)
		}
	})
	return &harness{Server: s, svc: svc, log: log, t: t}
}

func (h *harness) dial() net.Conn {
	h.t.Helper()
	if config := h.opt.Listeners[0].TLS; config != nil {
		pool := x509.NewCertPool()
		pool.AddCert(config.Certificates[0].Leaf)
		return dialTLS(h.t, h, pool)
	}
	return h.dialPlain()
}

func (h *harness) dialPlain() net.Conn {
	h.t.Helper()
	nc, err := net.Dial("tcp", h.Addrs()[0].Addr.String())
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience)) // a hang becomes an error
	return nc
}

func send(t testing.TB, nc net.Conn, p []byte) {
	t.Helper()
	if _, err := nc.Write(p); err != nil {
		t.Fatal(err)
	}
}

func readResponse(nc io.Reader) (corr int32, body []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(nc, head[:]); err != nil {
		return 0, nil, err
	}
	body = make([]byte, binary.BigEndian.Uint32(head[:])-4)
	_, err = io.ReadFull(nc, body)
	return int32(binary.BigEndian.Uint32(head[4:])), body, err
}

func expect(t testing.TB, nc net.Conn, want int32) []byte {
	t.Helper()
	corr, body, err := readResponse(nc)
	if err != nil || corr != want {
		t.Fatalf("got response %d, error %v; want response %d", corr, err, want)
	}
	return body
}

func expectClosed(t testing.TB, nc net.Conn) {
	t.Helper()
	n, err := io.Copy(io.Discard, nc)
	var timeout net.Error
	if n != 0 || errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatalf("got %d bytes and %v; want the connection closed", n, err)
	}
}

// eventually waits for a condition that must come true.
func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for until := time.Now().Add(patience); time.Now().Before(until); time.Sleep(time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("never happened: %s", what)
}

func (h *harness) expectLog(parts ...string) {
	h.t.Helper()
	eventually(h.t, "a log line with "+strings.Join(parts, ", "), func() bool {
		for line := range strings.Lines(h.log.String()) {
			all := true
			for _, p := range parts {
				all = all && strings.Contains(line, p)
			}
			if all {
				return true
			}
		}
		return false
	})
}

func (s *fakeService) call(i int) *fakeCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i >= len(s.calls) {
		return nil
	}
	return s.calls[i]
}
