//go:build !portable

package network

import (
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"moldau/internal/vfs"
)

// sock is Linux's part of a connection: the callbacks for RawConn are made once, and their
// arguments and results are fields, so that a request allocates nothing.
type sock struct {
	raw                            syscall.RawConn
	onReadable, onHangup, onRegion func(fd uintptr) bool

	fd      int  // of the socket, while onReadable runs
	recvN   int  // results of onReadable
	starved bool //
	recvErr error

	hangup bool // result of onHangup

	file    vfs.Region // what onRegion sends; Off and Len move with what has left
	sendErr error
}

func (c *Conn) initSock() (err error) {
	c.raw, err = c.nc.SyscallConn()
	c.onReadable, c.onHangup, c.onRegion = c.readable, c.hungUp, c.regionTo
	return err
}

// recvIdle waits until the socket is readable, with a buffer for what is there already and no more.
func (c *Conn) recvIdle() (n int, starved bool, err error) {
	c.recvN, c.starved, c.recvErr = 0, false, nil
	if err := c.raw.Read(c.onReadable); err != nil {
		return 0, false, err
	}
	return c.recvN, c.starved, c.recvErr
}

func (c *Conn) readable(fd uintptr) bool {
	if _, muted := c.muted(); muted { // since it waits
		c.recvErr = errMuted
		return true
	}
	if !c.makeRoom() {
		c.starved = true
		return true
	}
	began := time.Now()
	c.fd = int(fd)
	n, err := c.take(c.in.slab.buf[c.in.w:])
	switch {
	case n > 0:
		c.worked(int64(n), time.Since(began))
		c.filled(n)
		c.recvN = n
		return true
	case errors.Is(err, errNotReady):
		c.shrink()
		return false
	}
	c.recvErr = err
	return true
}

// take gets what there is, without waiting.
func (c *Conn) take(p []byte) (n int, err error) {
	if c.tls == nil {
		return c.recvNow(p)
	}
	c.tls.link.now = true
	defer func() { c.tls.link.now = false }()
	for n < len(p) {
		var k int
		k, err = c.tls.Read(p[n:])
		if n += k; k < recordBytes {
			break // a record that is not full ends what the client had to say
		}
	}
	return n, err
}

// recvNow reads what the socket has.
func (c *Conn) recvNow(p []byte) (int, error) {
	for {
		n, err := unix.Read(c.fd, p)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			return 0, errNotReady
		case err != nil:
			return 0, os.NewSyscallError("read", err)
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// awaitTurn waits for a signal, for until if it is set, or for the peer to go: that ends the
// connection's context, which wakes what is parked. mu is held, and released.
//
// The peer's going is seen although what it sent before is not read: a request behind a
// parked one must not hide it.
func (c *Conn) awaitTurn(until time.Time) {
	select {
	case <-c.turn:
		c.mu.Unlock()
		return
	default:
	}
	if c.gone || c.quit {
		c.awaitSignal(until)
		return
	}
	c.watching = true
	_ = c.nc.SetReadDeadline(until) // fails only on a closed socket
	c.mu.Unlock()

	c.hangup = false
	err := c.raw.Read(c.onHangup)

	c.mu.Lock()
	c.watching = false
	if !c.quit {
		_ = c.nc.SetReadDeadline(time.Time{})
	}
	c.mu.Unlock()
	c.in.deadline = false
	if c.hangup || err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.gone = true
		c.cancel()
	}
}

// hungUp reports whether the peer has closed its side or reset. It is called again with every
// change of the socket.
func (c *Conn) hungUp(fd uintptr) bool {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(p[:], 0)
	c.hangup = err == nil && n > 0
	return c.hangup
}

// hasGone reports whether the peer has closed its side, without waiting.
func (c *Conn) hasGone() bool {
	gone := false
	err := c.raw.Control(func(fd uintptr) { gone = c.hungUp(fd) })
	return err != nil || gone
}

// sendRegion sends the region with sendfile. n < r.Len with a nil error: the platform cannot
// for this file, or what comes next is not in memory; nothing stands in the way of copying that.
func (c *Conn) sendRegion(r vfs.Region) (n int64, err error) {
	c.file = r
	began := time.Now()
	defer func() {
		n = r.Len - c.file.Len
		c.worked(n, time.Since(began))
		c.srv.metrics.bytesOut.Add(float64(n))
		c.file = vfs.Region{}
	}()
	for {
		before := c.file.Len
		c.armWrite(time.Now())
		c.sendErr = nil
		if err := c.raw.Write(c.onRegion); err != nil { // a deadline, or closed
			if err := c.onWriteError(before-c.file.Len, err); err != nil {
				return 0, err
			}
			continue
		}
		switch c.sendErr {
		case nil:
			return 0, nil
		case unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP:
			c.noSendfile = true
			return 0, nil
		case io.ErrUnexpectedEOF:
			return 0, c.failFile(c.file, 0, c.sendErr)
		case unix.EPIPE, unix.ECONNRESET, unix.ETIMEDOUT, unix.ENOTCONN:
			return 0, c.onWriteError(0, os.NewSyscallError("sendfile", c.sendErr))
		}
		return 0, c.failFile(c.file, 0, os.NewSyscallError("sendfile", c.sendErr))
	}
}

// regionTo sends until the region is out or the socket is full, or what comes next is not in memory: sendfile would wait for the
// disk, with a thread. The offset is explicit: the file is shared, its own position is nobody's.
func (c *Conn) regionTo(fd uintptr) bool {
	for c.file.Len > 0 {
		most := min(c.file.Len, sendfileMax)
		if c.stale(c.file) { // protection: what was evicted is not sent by sendfile
			if most = c.file.File.Resident(c.file.Off, min(most, askBytes)); most == 0 {
				return true
			}
		}
		off := c.file.Off
		n, err := unix.Sendfile(int(fd), c.file.File.FD(), &off, int(most))
		switch {
		case n > 0:
			c.file.Off += int64(n)
			c.file.Len -= int64(n)
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return false
		case err != nil:
			c.sendErr = err
			return true
		default:
			c.sendErr = io.ErrUnexpectedEOF
			return true
		}
	}
	return true
}
