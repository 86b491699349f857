//go:build !linux || portable

package network

import (
	"time"

	"moldau/internal/vfs"
)

// sock is the plain twin: it waits with a small buffer in hand, has no sendfile, and notices a
// disconnect behind a request that waits its turn only when that has come.
type sock struct {
	peek []byte
}

const peekBytes = 512

func (c *Conn) initSock() error { return nil }

func (c *Conn) recvIdle() (n int, starved bool, err error) {
	if c.in.w-c.in.r > smallBytes { // with the buffer in hand
		if !c.makeRoom() {
			return 0, true, nil
		}
		if n, err = c.recv(c.in.slab.buf[c.in.w:]); n == 0 {
			return 0, false, err
		}
		c.filled(n)
		return n, false, nil
	}
	c.shrink()
	if c.peek == nil {
		c.peek = make([]byte, peekBytes)
	}
	have := c.in.w - c.in.r
	room := min(len(c.peek), c.room()-have)
	if !c.needsSlab() {
		room = min(room, smallBytes-have) // so that a small buffer will do
	}
	n, err = c.recv(c.peek[:room])
	if n == 0 {
		return 0, false, err
	}
	if !c.makeRoom() {
		if err := c.moveToLarge(); err != nil {
			return 0, false, err
		}
	}
	c.filled(copy(c.in.slab.buf[c.in.w:], c.peek[:n]))
	return n, false, nil
}

// recvNow is Linux's.
func (c *Conn) recvNow([]byte) (int, error) {
	panic("BUG: nobody asks for what the socket has at once")
}

// awaitTurn waits for a signal, and for until if it is set. mu is held, and released.
func (c *Conn) awaitTurn(until time.Time) { c.awaitSignal(until) }

// hasGone does not know.
func (c *Conn) hasGone() bool { return false }

// sendRegion leaves everything to the copying path.
func (c *Conn) sendRegion(vfs.Region) (n int64, err error) {
	c.noSendfile = true
	return 0, nil
}
