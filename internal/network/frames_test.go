package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestForeignProtocolsAreNamed(t *testing.T) {
	for _, c := range []struct{ name, bytes, log string }{
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "looks like TLS on a PLAINTEXT listener"},
		{"GET", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "looks like HTTP on a PLAINTEXT listener"},
		{"POST", "POST /topics HTTP/1.1\r\n", "looks like HTTP on a PLAINTEXT listener"},
		{"SSH", "SSH-2.0-OpenSSH_9.6\r\n", "looks like SSH on a PLAINTEXT listener"},
		{"negative", "\xff\xff\xff\xff\x00\x00\x00\x00", "claimedBytes=-1"},
		{"zero", "\x00\x00\x00\x00", "claimedBytes=0"},
		{"short", "\x00\x00\x00\x07", "claimedBytes=7"},
		{"beyond the limit of its API", "\x00\x00\x04\x01\x00\x12", "limitBytes=1024"},
		{"beyond every limit", "\x06\x40\x00\x01", "limitBytes=104857600"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := serve(t, &fakeService{})
			nc := h.dial()
			send(t, nc, []byte(c.bytes))
			n, _ := io.Copy(io.Discard, nc) // a reset is fine: not all was read
			if n != 0 || h.svc.starts.Load() != 0 {
				t.Fatalf("%d bytes came back, %d requests started", n, h.svc.starts.Load())
			}
			h.expectLog(c.log, "peer=127.0.0.1")
		})
	}
}

func TestHugeClaimTakesNoMemory(t *testing.T) {
	h := serve(t, &fakeService{})
	conns := make([]net.Conn, 200)
	for i := range conns {
		conns[i] = h.dial()
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	head := request(keyProduce, 1, nil)
	binary.BigEndian.PutUint32(head, 60<<20)
	for _, nc := range conns {
		send(t, nc, head[:10])
	}
	eventually(t, "received", func() bool { return h.received() >= 10*200 })
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 10<<20 { // 60 MiB × 200 were claimed
		t.Fatalf("heap grew by %d bytes", grown)
	}
	if used := h.opt.QueuedBytes - h.mem.known.available(); used > 200*smallBytes {
		t.Fatalf("%d bytes of the budget taken by 200 × 10 bytes", used)
	}
}

// received reads the counter of received bytes.
func (h *harness) received() float64 {
	reg := prometheus.NewRegistry()
	reg.MustRegister(h.metrics.bytesIn)
	families, err := reg.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	return families[0].Metric[0].Counter.GetValue()
}

// Frames of every size around the classes and limits arrive whole, however they are cut.
func TestFramesArriveByteExact(t *testing.T) {
	sizes := []int{0, 1, 500, 512, smallBytes - 9, smallBytes - 8, smallBytes - 7, smallBytes - 4, smallBytes, largeFrom,
		slabBytes - 13, slabBytes - 12, slabBytes - 11, slabBytes, slabBytes*largeGrowth - 8, slabBytes*largeGrowth - 7, 1<<20 + 3, 5 << 20}
	for _, budget := range []int64{0, 1, 300_000} {
		var mu sync.Mutex
		got := make(map[int32]bool)
		svc := &fakeService{early: true}
		svc.start = func(call *fakeCall, _ *Conn, _ int16, frame []byte) error {
			rnd := rand.New(rand.NewSource(int64(call.corr)))
			want := make([]byte, len(frame)-8)
			rnd.Read(want)
			mu.Lock()
			got[call.corr] = bytes.Equal(frame[8:], want)
			mu.Unlock()
			return nil
		}
		h := serve(t, svc, func(o *Options) { o.QueuedBytes = budget })
		for round := range 4 {
			nc := h.dial()
			rnd := rand.New(rand.NewSource(int64(round)))
			go func() {
				var all []byte
				for i, size := range sizes {
					body := make([]byte, size)
					rand.New(rand.NewSource(int64(i))).Read(body)
					all = append(all, request(keyProduce, int32(i), body)...)
				}
				for len(all) > 0 {
					n := min(len(all), 1+rnd.Intn([]int{7000, 100, 200_000, 10 << 20}[round])) // 100: many small parts
					if round == 1 && len(all) < 7<<20 {
						n = min(len(all), 300_000)
					}
					if _, err := nc.Write(all[:n]); err != nil {
						return
					}
					all = all[n:]
				}
			}()
			for i := range sizes {
				expect(t, nc, int32(i))
			}
		}
		for i, size := range sizes {
			if !got[int32(i)] {
				t.Errorf("frame of %d bytes: content differs", size+8)
			}
		}
	}
}

// Partly received large frames use the budget up: small requests pass, the large ones get
// through one by one, and the budget is whole afterwards.
func TestExhaustedBudgetLetsSmallRequestsPassAndRecovers(t *testing.T) {
	svc := &fakeService{}
	h := serve(t, svc, func(o *Options) { o.QueuedBytes = 1 << 20 })
	const clients, size = 6, 3 << 20
	body := request(keyProduce, 1, make([]byte, size))
	larges := make([]net.Conn, clients)
	var writers sync.WaitGroup
	release := make(chan struct{})
	for i := range larges {
		larges[i] = h.dial()
		writers.Go(func() {
			// Blocks where the reader waits for the budget and the socket is full.
			_, _ = larges[i].Write(body[:size/2])
			<-release
			_, _ = larges[i].Write(body[size/2:])
		})
	}
	eventually(t, "exhausted", func() bool { return h.mem.known.available() < slabBytes })
	small := h.dial()
	for i := range 100 {
		send(t, small, request(keyTiny, int32(i), make([]byte, 900)))
		expect(t, small, int32(i))
	}
	if svc.starts.Load() != 100 {
		t.Fatal("a large request has started: the test shows nothing")
	}
	close(release)
	for _, nc := range larges {
		expect(t, nc, 1)
	}
	writers.Wait()
	eventually(t, "budget back", func() bool { return h.mem.known.available() == 1<<20 })
}

// A reader that waits for the budget ends with its server.
func TestCloseReachesReadersThatWaitForTheBudget(t *testing.T) {
	hold := make(chan struct{})
	svc := &fakeService{start: func(call *fakeCall, _ *Conn, _ int16, _ []byte) error {
		call.park = hold
		return nil
	}}
	h := serve(t, svc, func(o *Options) { o.QueuedBytes = 1 })
	holder, waiter := h.dial(), h.dial()
	frame := request(keyProduce, 1, make([]byte, 100_000))
	send(t, holder, frame)
	eventually(t, "the overdraft is taken", func() bool { return svc.starts.Load() == 1 })
	send(t, waiter, frame)
	eventually(t, "waiting", func() bool {
		h.mem.known.mu.Lock()
		defer h.mem.known.mu.Unlock()
		return len(h.mem.known.waiters) == 1
	})
	closed := make(chan error)
	go func() { closed <- h.Close(context.Background()) }()
	_, _ = io.Copy(io.Discard, waiter)
	close(hold)
	expect(t, holder, 1)
	if err := <-closed; err != nil {
		t.Fatal(err)
	}
}

func TestFrameThatDripsLosesItsConnection(t *testing.T) {
	for _, sent := range []int{3, 100, 10_000} {
		h := serve(t, &fakeService{}, func(o *Options) { o.minRateGrace = 20 * time.Millisecond })
		nc := h.dial()
		frame := request(keyProduce, 1, make([]byte, 10<<20))
		steady := max(0, sent-20)
		send(t, nc, frame[:steady])
		go func() {
			for i := steady; i < sent; i++ {
				if _, err := nc.Write(frame[i : i+1]); err != nil {
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
		}()
		_, _ = io.Copy(io.Discard, nc)
		h.expectLog("arrives too slowly")
		if h.svc.starts.Load() != 0 {
			t.Fatal("an incomplete request was started")
		}
	}
}

// FuzzFrames feeds a connection any stream: nothing panics, every Start gets a frame within its
// limit, and everything is released.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint8(3))
	f.Add(request(keyProduce, 1, make([]byte, 100)), uint8(1))
	f.Add(append(request(keyTiny, 1, nil), request(keyFetch, 2, make([]byte, 5000))...), uint8(200))
	f.Add(append(request(keyFetch, 1, nil), 0xff, 0xff, 0xff, 0xff), uint8(0))
	f.Add(bytes.Repeat(request(keyProduce, 9, nil), 70), uint8(77))
	f.Add(request(keyProduce, 1, make([]byte, 70_000)), uint8(255))
	f.Fuzz(func(t *testing.T, stream []byte, cut uint8) {
		svc := &fakeService{t: t, early: cut%2 == 0}
		s, err := Listen(Options{Listeners: []Listener{{Addr: "127.0.0.1:0"}}, Service: svc, QueuedBytes: int64(cut) << 12})
		if err != nil {
			t.Fatal(err)
		}
		s.Serve()
		nc, err := net.Dial("tcp", s.Addrs()[0].Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		for p := stream; len(p) > 0; {
			n := min(len(p), 1+int(cut)*97)
			if _, err := nc.Write(p[:n]); err != nil {
				break
			}
			p = p[n:]
		}
		_ = nc.(interface{ CloseWrite() error }).CloseWrite()
		_ = nc.SetReadDeadline(time.Now().Add(patience))
		if _, err := io.Copy(io.Discard, nc); err != nil && strings.Contains(err.Error(), "timeout") {
			t.Fatal("the connection was not closed")
		}
		nc.Close()
		s.Abort()
		svc.check()
		if s.mem.known.available() != s.opt.QueuedBytes {
			t.Fatalf("budget leaks: %d of %d", s.mem.known.available(), s.opt.QueuedBytes)
		}
	})
}

// TestBuffersArePoisoned: a released buffer is not what it was, which is what the other tests rely on to find a
// use after that.
func TestBuffersArePoisoned(t *testing.T) {
	m := newMemory(1 << 20)
	m.poison = true
	s := m.get(slabBytes)
	p := s.buf
	s.unref()
	if p[0] != 0xDB || p[len(p)-1] != 0xDB {
		t.Error("released bytes are as they were")
	}
}
