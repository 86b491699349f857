//go:build !portable

package network

import (
	"testing"

	"golang.org/x/sys/unix"
)

// recvBuffer is the size of the receive buffer of the harness's only connection.
func (h *harness) recvBuffer() (size int) {
	h.t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.conns) != 1 {
		h.t.Fatalf("%d connections", len(h.conns))
	}
	for c := range h.conns {
		err := c.raw.Control(func(fd uintptr) {
			var err error
			if size, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF); err != nil {
				h.t.Error(err)
			}
		})
		if err != nil {
			h.t.Fatal(err)
		}
	}
	return size
}

// TestReceiveBufferGrows with the first request that it is small for: not before, not when its size was chosen, and not for a stranger.
func TestReceiveBufferGrows(t *testing.T) {
	const chosen = 64 << 10
	for _, c := range []struct {
		name            string
		grow, strangers bool
		grows           bool
	}{{"by default", true, false, true}, {"chosen", false, false, false}, {"a stranger", true, true, false}} {
		t.Run(c.name, func(t *testing.T) {
			h := serve(t, &fakeService{}, func(o *Options) { o.RecvBuffer, o.GrowRecv, o.Listeners[0].Strangers = chosen, c.grow, c.strangers })
			nc := h.dial()
			send(t, nc, request(keyProduce, 1, make([]byte, growRecvFrom/2)))
			expect(t, nc, 1)
			before := h.recvBuffer()
			send(t, nc, request(keyProduce, 2, make([]byte, growRecvFrom)))
			expect(t, nc, 2)
			if after := h.recvBuffer(); (after > before) != c.grows {
				t.Errorf("%d bytes before a large request and %d after it", before, after)
			}
		})
	}
}
