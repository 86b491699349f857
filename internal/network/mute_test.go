package network

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"testing"
	"time"
)

// throttling answers requests with the throttle that their body says, in milliseconds; what hold says parks.
func throttling(hold <-chan struct{}) *fakeService {
	return &fakeService{early: true, start: func(call *fakeCall, _ *Conn, _ int16, frame []byte) error {
		if len(frame) >= minFrame+4 {
			call.reply.Throttle = time.Duration(binary.BigEndian.Uint32(frame[minFrame:])) * time.Millisecond
		}
		if hold != nil && call.corr == 1 {
			park := make(chan struct{})
			go func() { <-hold; close(park) }()
			call.park = park
		}
		return nil
	}}
}

func ms(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }

const anHour = 3_600_000

// flood writes until the server takes no more, and returns what it took. More than a connection's buffers is not taken unread.
func flood(t *testing.T, nc net.Conn, p []byte) (took int) {
	t.Helper()
	for took < 256<<20 {
		_ = nc.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := nc.Write(p)
		if took += n; errors.Is(err, os.ErrDeadlineExceeded) {
			_ = nc.SetDeadline(time.Now().Add(patience))
			return took
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatalf("the server has read %d bytes of a muted client", took)
	return 0
}

// What a muted client sends stays in its socket, and takes nothing of what others need.
func TestMutedClientIsNotRead(t *testing.T) {
	for name, parked := range map[string]bool{"answered by the reader": false, "muted while the reader waits": true} {
		t.Run(name, func(t *testing.T) {
			var hold chan struct{}
			if parked {
				hold = make(chan struct{})
			}
			h := serve(t, throttling(hold))
			nc := h.dial()
			send(t, nc, request(keyProduce, 1, ms(anHour)))
			if parked {
				h.working(1)
				close(hold)
			}
			expect(t, nc, 1)
			flood(t, nc, request(keyProduce, 2, make([]byte, 16<<20)))
			if n := h.svc.starts.Load(); n != 1 {
				t.Errorf("%d requests started, want 1", n)
			}
			// A read that was under way may have brought a slab.
			if used := h.opt.QueuedBytes - h.mem.known.available(); used > slabBytes || seesHangup && used > 0 && !*overTLS {
				t.Errorf("the muted client takes %d bytes of the budget for requests", used)
			}
		})
	}
}

// After the mute everything is read and answered.
func TestMutedClientIsReadAgain(t *testing.T) {
	h := serve(t, throttling(nil), func(o *Options) { o.minRateGrace = 20 * time.Millisecond })
	nc := h.dial()
	send(t, nc, request(keyProduce, 1, ms(300)))
	expect(t, nc, 1)
	half := request(keyProduce, 2, make([]byte, 1<<20)) // muted for longer than a slow frame has, and in parts
	send(t, nc, half[:1000])
	send(t, nc, half[1000:])
	expect(t, nc, 2)
}

// A small throttle behind a large one does not end the large one's mute.
func TestMuteIsNotShortened(t *testing.T) {
	hold := make(chan struct{})
	h := serve(t, throttling(hold))
	nc := h.dial()
	send(t, nc, append(request(keyProduce, 1, ms(anHour)), request(keyProduce, 2, ms(1))...))
	eventually(t, "both started", func() bool { return h.svc.starts.Load() == 2 })
	close(hold)
	expect(t, nc, 1)
	expect(t, nc, 2)
	eventually(t, "both are done", func() bool { return h.svc.live.Load() == 0 })
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		if until, muted := c.muted(); !muted || time.Until(until) < 30*time.Minute {
			t.Errorf("muted %v until %v", muted, until)
		}
	}
}

// A muted connection is not idle.
func TestMutedConnectionIsNotIdle(t *testing.T) {
	for name, parked := range map[string]bool{"answered by the reader": false, "muted while the reader waits": true} {
		t.Run(name, func(t *testing.T) {
			var hold chan struct{}
			if parked {
				hold = make(chan struct{})
			}
			h := serve(t, throttling(hold), func(o *Options) { o.IdleTimeout = 50 * time.Millisecond })
			nc := h.dial()
			send(t, nc, request(keyProduce, 1, ms(anHour)))
			if parked {
				h.working(1)
				close(hold)
			}
			expect(t, nc, 1)
			for range 5 { // each is idle for as long
				expectClosed(t, h.dial())
			}
			eventually(t, "only one connection is open", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.conns) <= 1 })
			h.mu.Lock()
			defer h.mu.Unlock()
			if len(h.conns) != 1 {
				t.Error("the muted connection was closed")
			}
		})
	}
}
