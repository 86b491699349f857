package network

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math/rand"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"moldau/internal/vfs"
	"moldau/internal/wire"
	"moldau/test/measure"
)

// Responses leave in request order and a barrier starts only when all before it have been
// answered, whatever sizes, cuts and delays the seed chooses.
func TestResponsesLeaveInRequestOrder(t *testing.T) {
	for seed := int64(1); seed <= 4; seed++ {
		svc := &fakeService{early: true}
		rnd := rand.New(rand.NewSource(seed))
		var mu sync.Mutex
		svc.start = func(call *fakeCall, c *Conn, key int16, frame []byte) error {
			mu.Lock()
			defer mu.Unlock()
			running := call.onConn.Load()
			if key != keyProduce && running > 0 {
				svc.fail("a barrier started beside other requests")
			}
			if running >= MaxStarted {
				svc.fail("more than MaxStarted requests started")
			}
			if rnd.Intn(3) == 0 {
				call.delay = time.Duration(1+rnd.Intn(500)) * time.Microsecond
			}
			body := make([]byte, rnd.Intn(3000))
			call.reply.Pieces = []wire.Piece{{Bytes: response(call.corr, body)[:4]}, {Bytes: response(call.corr, body)[4:]}}
			return nil
		}
		h := serve(t, svc)
		var clients sync.WaitGroup
		for k := range 4 {
			clients.Go(func() {
				rnd := rand.New(rand.NewSource(seed*100 + int64(k)))
				nc := h.dial()
				const n = 150
				go func() {
					var out []byte
					for i := range n {
						key, size := int16(keyProduce), rnd.Intn(20000)
						if rnd.Intn(4) == 0 {
							key = keyFetch
						}
						if rnd.Intn(30) == 0 {
							size = rnd.Intn(900_000)
						}
						body := make([]byte, size)
						rnd.Read(body)
						out = append(out, request(key, int32(i), body)...)
						for len(out) > 100_000 || i == n-1 && len(out) > 0 {
							m := min(len(out), 1+rnd.Intn(100_000))
							if _, err := nc.Write(out[:m]); err != nil {
								return
							}
							out = out[m:]
						}
					}
				}()
				for i := range n {
					if corr, _, err := readResponse(nc); err != nil || corr != int32(i) {
						t.Errorf("seed %d: got response %d, %v; want %d", seed, corr, err, i)
						return
					}
				}
			})
		}
		clients.Wait()
	}
}

func TestEarlyStartsStopAtTheirLimits(t *testing.T) {
	hold := make(chan struct{})
	svc := &fakeService{early: true, start: func(call *fakeCall, _ *Conn, _ int16, _ []byte) error {
		call.park = hold
		return nil
	}}
	h := serve(t, svc, func(o *Options) { o.ConnBytes = 10_000 })
	many, large := h.dial(), h.dial()
	for i := range MaxStarted + 8 {
		send(t, many, request(keyProduce, int32(i), nil))
	}
	eventually(t, "32 started", func() bool { return svc.starts.Load() == MaxStarted })
	for i := range 4 {
		send(t, large, request(keyProduce, int32(i), make([]byte, 3000)))
	}
	eventually(t, "3 of 3 KB started", func() bool { return svc.starts.Load() == MaxStarted+3 })
	time.Sleep(20 * time.Millisecond)
	if n := svc.starts.Load(); n != MaxStarted+3 {
		t.Fatalf("%d requests started, want %d", n, MaxStarted+3)
	}
	close(hold)
	for i := range MaxStarted + 8 {
		expect(t, many, int32(i))
	}
	for i := range 4 {
		expect(t, large, int32(i))
	}
}

func TestDisconnectCancelsWhatIsParked(t *testing.T) {
	for _, behind := range []bool{false, true} {
		svc := &fakeService{start: func(call *fakeCall, _ *Conn, _ int16, _ []byte) error {
			call.park = make(chan struct{})
			return nil
		}}
		h := serve(t, svc)
		nc := h.dial()
		send(t, nc, request(keyFetch, 1, nil))
		if behind { // a request that waits its turn must not hide the disconnect
			if !seesHangup {
				continue
			}
			send(t, nc, request(keyFetch, 2, nil))
		}
		eventually(t, "parked", func() bool { return svc.live.Load() == 1 })
		time.Sleep(5 * time.Millisecond)
		nc.Close()
		eventually(t, "cancelled", func() bool { return svc.call(0).cancel.Load() && svc.live.Load() == 0 })
	}
}

// What a client sent before it closed its side is still executed and answered, as in Kafka.
func TestHalfCloseGetsItsAnswers(t *testing.T) {
	h := serve(t, &fakeService{early: true})
	nc := h.dial()
	var all []byte
	for i := range 50 {
		all = append(all, request(keyProduce, int32(i), make([]byte, 2000))...)
	}
	send(t, nc, all)
	_ = nc.(interface{ CloseWrite() error }).CloseWrite()
	for i := range 50 {
		expect(t, nc, int32(i))
	}
	expectClosed(t, nc)
}

func TestSlowReaderDoesNotDelayAnotherConnection(t *testing.T) {
	big := make([]byte, 32<<20)
	svc := &fakeService{start: func(call *fakeCall, _ *Conn, key int16, _ []byte) error {
		if key == keyFetch {
			call.reply.Pieces = []wire.Piece{{Bytes: response(call.corr, big)}}
		}
		return nil
	}}
	h := serve(t, svc)
	slow, other := h.dial(), h.dial()
	send(t, slow, request(keyFetch, 1, nil))
	eventually(t, "the large response is being sent", func() bool { return svc.starts.Load() == 1 })
	for i := range 200 {
		send(t, other, request(keyTiny, int32(i), nil))
		expect(t, other, int32(i))
	}
	if svc.call(0).frees.Load() != 0 {
		t.Fatal("the slow reader's response is gone already: the test shows nothing")
	}
	expect(t, slow, 1)
}

func TestThrottleMutesAfterTheResponse(t *testing.T) {
	svc := &fakeService{early: true, start: func(call *fakeCall, _ *Conn, _ int16, frame []byte) error {
		if call.corr == 1 {
			call.reply.Throttle = time.Duration(binary.BigEndian.Uint32(frame[8:])) * time.Millisecond
		}
		return nil
	}}
	h := serve(t, svc)
	long, gone, short := h.dial(), h.dial(), h.dial()
	for _, nc := range []net.Conn{long, gone} {
		send(t, nc, request(keyProduce, 1, binary.BigEndian.AppendUint32(nil, 3_600_000)))
		expect(t, nc, 1) // at once
		send(t, nc, request(keyProduce, 2, nil))
	}
	send(t, short, request(keyProduce, 1, binary.BigEndian.AppendUint32(nil, 30)))
	send(t, short, request(keyProduce, 2, nil))
	expect(t, short, 1)
	expect(t, short, 2)
	if n := svc.starts.Load(); n != 4 {
		t.Fatalf("%d requests started, want 4: the muted connections' second ones must wait", n)
	}
	if seesHangup { // a muted connection whose client has gone is not kept for the mute
		gone.Close()
		eventually(t, "closed", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.conns) == 2 })
	}
	if err := h.Close(context.Background()); err != nil { // nor does a mute delay the end
		t.Fatal(err)
	}
}

// spyFile is a file that tells when it is read.
type spyFile struct {
	vfs.File
	read func()
}

func (f spyFile) ReadAt(p []byte, _ int64) (int, error) { f.read(); return len(p), nil }
func (f spyFile) FD() int                               { return -1 }

// The client may ask again as soon as it has the response, so the mute is in force before.
func TestMuteIsInForceBeforeTheResponseLeaves(t *testing.T) {
	muted := make(chan bool, 10)
	svc := &fakeService{early: true, start: func(call *fakeCall, c *Conn, _ int16, _ []byte) error {
		spy := spyFile{read: func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			muted <- time.Now().Before(c.muteUntil)
		}}
		call.reply.Throttle = time.Hour
		call.reply.Pieces = []wire.Piece{{Bytes: response(call.corr, make([]byte, 100))[:8]}, {Region: vfs.Region{File: spy, Len: 100}}}
		return nil
	}}
	nc := serve(t, svc).dial()
	send(t, nc, request(keyProduce, 1, nil))
	expect(t, nc, 1)
	if !<-muted {
		t.Error("the response is being sent, and the connection is not muted")
	}
}

func TestNoneSendsNothingAndCloseAfterClosesBehindEarlierResponses(t *testing.T) {
	hold := make(chan struct{})
	svc := &fakeService{early: true, start: func(call *fakeCall, _ *Conn, _ int16, _ []byte) error {
		switch call.corr {
		case 1:
			call.park = hold
		case 2:
			call.reply.None = true
		case 4:
			call.reply.None, call.reply.CloseAfter = true, true
		}
		return nil
	}}
	h := serve(t, svc)
	nc := h.dial()
	for i := 1; i <= 5; i++ {
		send(t, nc, request(keyProduce, int32(i), nil))
	}
	eventually(t, "all started", func() bool { return svc.starts.Load() == 5 })
	close(hold)
	expect(t, nc, 1)
	expect(t, nc, 3)
	expectClosed(t, nc)
}

func TestRefusedRequestClosesBehindEarlierResponses(t *testing.T) {
	svc := &fakeService{early: true, start: func(call *fakeCall, _ *Conn, _ int16, _ []byte) error {
		if call.corr == 3 {
			return errors.New("undecodable")
		}
		call.delay = 5 * time.Millisecond
		return nil
	}}
	h := serve(t, svc)
	nc := h.dial()
	for i := 1; i <= 4; i++ {
		send(t, nc, request(keyProduce, int32(i), nil))
	}
	expect(t, nc, 1)
	expect(t, nc, 2)
	expectClosed(t, nc)
	h.expectLog("request refused", "undecodable")
}

func TestCloseLetsStartedRequestsFinish(t *testing.T) {
	hold := make(chan struct{})
	svc := &fakeService{start: func(call *fakeCall, _ *Conn, _ int16, _ []byte) error {
		call.park = hold
		return nil
	}}
	h := serve(t, svc)
	nc, idle := h.dial(), h.dial()
	send(t, nc, request(keyFetch, 1, nil))
	send(t, nc, request(keyFetch, 2, nil)) // not started: will not be
	eventually(t, "parked", func() bool { return svc.starts.Load() == 1 })
	closed := make(chan error)
	go func() { closed <- h.Close(context.Background()) }()
	expectClosed(t, idle)
	close(hold)
	expect(t, nc, 1)
	expectClosed(t, nc)
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
	if svc.starts.Load() != 1 {
		t.Fatal("a request was started while draining")
	}
	if _, err := net.Dial("tcp", h.Addrs()[0].Addr.String()); err == nil {
		t.Fatal("still accepting")
	}
}

func TestCloseCutsWhatOutlastsTheDrain(t *testing.T) {
	svc := &fakeService{start: func(call *fakeCall, _ *Conn, _ int16, _ []byte) error {
		call.park = make(chan struct{})
		return nil
	}}
	h := serve(t, svc)
	nc := h.dial()
	send(t, nc, request(keyFetch, 1, nil))
	eventually(t, "parked", func() bool { return svc.starts.Load() == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := h.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Close: %v", err)
	}
	if svc.live.Load() != 0 || !svc.call(0).cancel.Load() {
		t.Fatal("the parked call outlived Close")
	}
}

func TestIdleConnectionIsClosedAndBusyOneIsNot(t *testing.T) {
	hold := make(chan struct{})
	var parkedAs atomic.Int32 // the id of the last request that parked
	svc := &fakeService{start: func(call *fakeCall, _ *Conn, key int16, _ []byte) error {
		if key == keyFetch {
			call.park = hold
			parkedAs.Store(call.corr)
		}
		return nil
	}}
	h := serve(t, svc, func(o *Options) { o.IdleTimeout = 50 * time.Millisecond })
	never, used := h.dial(), h.dial()
	for { // on a busy machine it is idle for too long before its first request
		_, _ = used.Write(request(keyTiny, 1, nil))
		if corr, _, err := readResponse(used); err == nil && corr == 1 {
			break
		}
		used = h.dial()
	}
	var parked net.Conn
	id := int32(0)
	for open := false; !open || parkedAs.Load() != id; {
		if !open {
			parked, id = h.dial(), id+1
			_, _ = parked.Write(request(keyFetch, id, nil))
		}
		_ = parked.SetReadDeadline(time.Now().Add(time.Millisecond))
		_, err := parked.Read(make([]byte, 1))
		open = errors.Is(err, os.ErrDeadlineExceeded)
	}
	_ = parked.SetReadDeadline(time.Now().Add(patience))
	expectClosed(t, never)
	expectClosed(t, used)
	time.Sleep(120 * time.Millisecond)
	close(hold)
	expect(t, parked, id)
}

// An answer on the way to a client costs no allocation of ours.
func TestAnswerAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	svc := &pooledService{answer: []wire.Piece{{Bytes: response(7, make([]byte, 40))}}}
	s, err := Listen(Options{Listeners: []Listener{{Addr: "127.0.0.1:0"}}, Service: svc, IdleTimeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	s.Serve()
	defer s.Abort()
	nc, err := net.Dial("tcp", s.Addrs()[0].Addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	const burst = 32
	var out []byte
	for range burst {
		out = append(out, request(keyProduce, 7, make([]byte, 1000))...)
	}
	in := make([]byte, burst*len(svc.answer[0].Bytes))
	round := func() {
		if _, err := nc.Write(out); err != nil {
			t.Fatal(err)
		}
		for n := 0; n < len(in); {
			k, err := nc.Read(in[n:])
			if err != nil {
				t.Fatal(err)
			}
			n += k
		}
	}
	for range 20 {
		round()
	}
	if n := measure.Allocations(200, 2, round); n > 2 { // 32 requests; a collection may empty a pool
		t.Fatalf("%v allocations for a burst of %d produce requests", n, burst)
	}
}

// pooledService answers every request with the same bytes.
type pooledService struct {
	answer []wire.Piece
	pool   sync.Pool
}

type pooledCall struct{ s *pooledService }

func (c *pooledCall) Ready() bool                { return true }
func (c *pooledCall) Wait(context.Context) Reply { return Reply{Pieces: c.s.answer} }
func (c *pooledCall) Describe() []slog.Attr      { return nil }
func (c *pooledCall) Release()                   { c.s.pool.Put(c) }

func (s *pooledService) Settle(*Conn)                     {}
func (s *pooledService) MaxFrameBytes(*Conn, int16) int32 { return 1 << 20 }
func (s *pooledService) Early(int16) bool                 { return true }
func (s *pooledService) Start(context.Context, *Conn, []byte, time.Time) (Call, error) {
	c, _ := s.pool.Get().(*pooledCall)
	if c == nil {
		c = &pooledCall{s: s}
	}
	return c, nil
}

func TestMemoryOfIdleAndParkedConnections(t *testing.T) {
	const n = 2000
	svc := &fakeService{start: func(call *fakeCall, _ *Conn, key int16, _ []byte) error {
		if key == keyFetch {
			call.park = make(chan struct{})
		}
		return nil
	}}
	h := serve(t, svc, func(o *Options) { o.IdleTimeout = time.Minute })
	used := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	conns := make([]net.Conn, n)
	for i := range conns {
		conns[i] = h.dial()
	}
	eventually(t, "accepted", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.conns) == n })
	with := used()
	for _, nc := range conns {
		send(t, nc, request(keyFetch, 1, nil))
	}
	eventually(t, "parked", func() bool { return svc.live.Load() == n })
	parked := used()
	for _, nc := range conns {
		nc.Close()
	}
	eventually(t, "closed", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.conns) == 0 })
	svc.check()
	svc.mu.Lock()
	svc.calls = nil
	svc.mu.Unlock()
	t.Logf("bytes a connection: idle about %d (client's end included), parked %d more (the fake call included)",
		(int64(with)-int64(used()))/n, (int64(parked)-int64(with))/n)
}

func TestPipelinedAnswersShareASend(t *testing.T) {
	svc := &fakeService{early: true}
	h := serve(t, svc)
	nc := h.dial()
	var all []byte
	for i := range MaxStarted {
		all = append(all, request(keyProduce, int32(i), nil)...)
	}
	send(t, nc, all)
	p := make([]byte, 4096)
	n, err := nc.Read(p) // one segment, because one send
	if err != nil {
		t.Fatal(err)
	}
	if n != MaxStarted*8 {
		t.Logf("the first read has %d of %d bytes: the burst arrived in parts", n, MaxStarted*8)
	}
	if got := binary.BigEndian.Uint32(p[4:]); got != 0 {
		t.Fatalf("first response is %d", got)
	}
}

// Requests that came together are settled together, once: also when the last one of them cannot be started, and when the next
// one is a barrier.
func TestBurstIsSettledOnce(t *testing.T) {
	for _, last := range []int32{0, 1, 2} {
		svc := &fakeService{early: true, start: func(call *fakeCall, _ *Conn, _ int16, _ []byte) error {
			if call.corr == 99 {
				return errors.New("undecodable")
			}
			return nil
		}}
		h := serve(t, svc)
		nc := h.dial()
		var all []byte
		for i := range int32(10) {
			all = append(all, request(keyProduce, i, nil)...)
		}
		switch last {
		case 1:
			all = append(all, request(keyFetch, 10, nil)...)
		case 2:
			all = append(all, request(keyProduce, 99, nil)...)
		}
		send(t, nc, all)
		for i := range int32(10) {
			expect(t, nc, i)
		}
		switch last {
		case 1:
			expect(t, nc, 10)
		case 2:
			expectClosed(t, nc)
		}
		svc.mu.Lock()
		if svc.largest != 10 { // one write of the client is one recv here
			t.Errorf("the largest burst has %d requests, want 10", svc.largest)
		}
		svc.mu.Unlock()
	}
}
