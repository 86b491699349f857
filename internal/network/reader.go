package network

import (
	"encoding/binary"
	"errors"
	"os"
	"time"
)

const (
	sizeBytes    = 4
	minFrame     = 8        // key, version, correlation id
	largeFrom    = 32 << 10 // received bytes of a frame beyond a slab, from which it gets a buffer of its own
	largeGrowth  = 4
	minFrameRate = 16 << 10 // bytes a second on average, after minRateGrace

	// A request of a megabyte comes in a dozen pieces through a receive buffer of 100 KiB, and the kernel wakes the reader for each: a third of what
	// the request costs. Up to 128 KiB it makes no difference.
	growRecvFrom  = 256 << 10 // bytes of a frame
	grownRecvSize = 1 << 20   // of the socket's buffer; memory of the kernel, taken only by what has come and is not received
)

// inbox is what the reader has received and not yet cut into frames.
type inbox struct {
	slab      *slab // nil while idle
	r, w      int   // slab.buf[r:w] is received and not cut
	large     *slab // a frame that exceeds slabBytes, being received
	largeHave int
	largeSize int
	arrived   time.Time // of the last recv
	partial   time.Time // since when a frame is incomplete, waits for the budget left out; zero: none is
	deadline  bool      // a read deadline is set
	bulk      bool      // a recv has filled its buffer: the next ones get a whole slab
	grown     bool      // the socket's receive buffer is enlarged
}

// claimed and received describe the incomplete frame, for the log.
func (in *inbox) claimed() int {
	if in.large != nil {
		return in.largeSize
	}
	if in.w-in.r < sizeBytes {
		return 0
	}
	return int(binary.BigEndian.Uint32(in.slab.buf[in.r:]))
}

func (in *inbox) received() int {
	if in.large != nil {
		return in.largeHave
	}
	return in.w - in.r
}

// drop gives the buffers back.
func (in *inbox) drop() {
	if in.slab != nil {
		in.slab.unref()
		in.slab = nil
	}
	if in.large != nil {
		in.large.unref()
		in.large = nil
	}
	in.r, in.w = 0, 0
}

// put replaces the slab; the received bytes were copied to its front.
func (in *inbox) put(s *slab, w int) {
	if in.slab != nil {
		in.slab.unref()
	}
	in.slab, in.r, in.w = s, 0, w
}

// read cuts and starts requests until the connection ends.
func (c *Conn) read() error {
	for {
		frame, buf, err := c.next()
		if err != nil {
			return err
		}
		if err := c.begin(frame, buf); err != nil {
			return err
		}
	}
}

// begin starts the request in frame when its turn has come, and takes over the reference on buf.
func (c *Conn) begin(frame []byte, buf *slab) error {
	key := c.keyOf(frame)
	arrived := c.in.arrived
	if err := c.admit(key, int64(len(frame))); err != nil {
		buf.unref()
		return err
	}
	begun := time.Now()
	call, err := c.start(frame, arrived)
	if err != nil {
		c.mu.Lock()
		c.inflight--
		c.inflightBytes -= int64(len(frame))
		c.mu.Unlock()
		if turn := (*turnError)(nil); errors.As(err, &turn) {
			buf.unref()
			return turn.err
		}
		refused := &refusedError{key: key, err: err}
		if !c.opaque {
			refused.version = int16(binary.BigEndian.Uint16(frame[2:]))
		}
		buf.unref()
		return refused
	}
	if call == nil {
		panic("BUG: Service.Start returned neither a Call nor an error")
	}
	e := started{call: call, buf: buf, key: key, size: int32(len(frame)), arrived: arrived, begun: begun}
	c.mu.Lock()
	if c.head == len(c.queue) {
		c.queue, c.head, c.settled = c.queue[:0], 0, 0
	} else if len(c.queue) == cap(c.queue) && c.head > 0 {
		n := copy(c.queue, c.queue[c.head:])
		clear(c.queue[n:])
		c.queue, c.settled, c.head = c.queue[:n], c.settled-c.head, 0
	}
	c.queue = append(c.queue, e)
	c.mu.Unlock()
	c.staged = true
	return nil
}

// settle ends a burst: what is started may be answered. It comes before the reader waits for anything.
func (c *Conn) settle() {
	if !c.staged {
		return
	}
	c.staged = false
	c.srv.opt.Service.Settle(c)
	now := time.Now()
	c.mu.Lock()
	for ; c.settled < len(c.queue); c.settled++ {
		c.queue[c.settled].local = now
	}
	c.mu.Unlock()
}

// admit waits until a request may start, and counts it.
func (c *Conn) admit(key int16, size int64) error {
	early := c.srv.opt.Service.Early(key)
	for {
		c.mu.Lock()
		if c.quit {
			c.mu.Unlock()
			return errStopped
		}
		muted := c.mutedLocked()
		free := c.inflight == 0 || early && key == c.inflightKey && c.inflight < MaxStarted &&
			c.inflightBytes+size <= c.srv.opt.ConnBytes
		if free && !muted {
			c.muteUntil = time.Time{}
			c.inflight++
			c.inflightBytes += size
			c.inflightKey = key
			c.mu.Unlock()
			return nil
		}
		if c.staged {
			c.mu.Unlock()
			c.settle()
			continue
		}
		if c.head < c.settled && !c.writing {
			c.mu.Unlock()
			c.writeReady()
			continue
		}
		var until time.Time
		if free {
			until = c.muteUntil
		}
		c.awaitTurn(until)
	}
}

// next returns the next whole frame, without its size bytes, and a reference on its buffer.
func (c *Conn) next() ([]byte, *slab, error) {
	in := &c.in
	for {
		have := in.w - in.r
		if have >= sizeBytes {
			size, err := c.checkSize(in.slab.buf[in.r:in.w])
			switch {
			case err != nil:
				return nil, nil, err
			case have >= sizeBytes+size:
				frame, buf := c.cut(size)
				return frame, buf, nil
			case sizeBytes+size > slabBytes && have >= largeFrom:
				return c.nextLarge(size)
			}
		}
		if err := c.fill(); err != nil {
			return nil, nil, err
		}
	}
}

// checkSize looks at the head of a frame, as far as it is there.
func (c *Conn) checkSize(p []byte) (int, error) {
	size := int64(int32(binary.BigEndian.Uint32(p)))
	limit := int64(c.srv.opt.MaxRequestBytes)
	least := int64(minFrame)
	if c.opaque {
		least, limit = 0, min(limit, int64(c.srv.opt.Service.MaxFrameBytes(c, RawKey)))
	} else if len(p) >= sizeBytes+2 && size >= minFrame && size <= limit {
		limit = min(limit, int64(c.srv.opt.Service.MaxFrameBytes(c, c.keyOf(p[sizeBytes:]))))
	}
	if size < least || size > limit {
		return 0, &frameError{claimed: size, limit: limit, looksLike: looksLike(p)}
	}
	return int(size), nil
}

// keyOf is the API of a frame.
func (c *Conn) keyOf(frame []byte) int16 {
	if c.opaque {
		return RawKey
	}
	return int16(binary.BigEndian.Uint16(frame))
}

// looksLike names the protocol whose first bytes were taken for a size.
func looksLike(p []byte) string {
	if p[0] == 0x16 && p[1] == 0x03 {
		return "TLS"
	}
	switch string(p[:4]) {
	case "GET ", "POST", "HEAD", "PUT ", "OPTI", "DELE", "PRI ", "CONN":
		return "HTTP"
	case "SSH-":
		return "SSH"
	}
	return ""
}

// cut takes a whole frame out of the slab. A small one is copied, so that a request that
// parks pins what it needs and not a slab.
func (c *Conn) cut(size int) ([]byte, *slab) {
	in := &c.in
	frame := in.slab.buf[in.r+sizeBytes : in.r+sizeBytes+size : in.r+sizeBytes+size]
	in.r += sizeBytes + size
	in.partial = time.Time{}
	var buf *slab
	if size <= smallBytes {
		buf = c.mem.small(size)
		frame = buf.buf[:copy(buf.buf, frame):size]
	} else {
		buf = in.slab
		buf.ref()
	}
	if in.r == in.w {
		in.drop()
	}
	return frame, buf
}

// fill receives more. What is started is answered first, because this may wait long.
func (c *Conn) fill() error {
	c.settle()
	c.writeReady()
	if err := c.awaitUnmuted(); err != nil {
		return err
	}
	in := &c.in
	have := in.w - in.r
	if have > 0 {
		c.beginPartial()
	} else {
		in.partial = time.Time{}
		c.armIdle()
	}
	for {
		n, starved, err := c.recvIdle()
		switch {
		case starved: // the budget has no slab for us, and a small buffer is not enough
			if err := c.moveToLarge(); err != nil {
				return err
			}
			n, err := c.readInto(in.slab.buf[in.w:])
			in.w += n
			return err
		case err == nil:
			c.received(n)
			return nil
		case err == errMuted:
			err = c.awaitUnmuted()
		default:
			err = c.onReadError(err)
		}
		if err != nil {
			return err
		}
		if have == 0 {
			c.armIdle()
		}
	}
}

// errMuted says that nothing was read because the connection is muted.
var errMuted = errors.New("muted")

// muted reports whether the connection is muted, and until when. A client that is gone is not: what it has sent before is served, and then
// the connection ends.
func (c *Conn) muted() (until time.Time, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.muteUntil, c.mutedLocked()
}

func (c *Conn) mutedLocked() bool {
	return !c.muteUntil.IsZero() && !c.gone && !c.quit && time.Now().Before(c.muteUntil)
}

// awaitUnmuted waits until the connection is not muted. What a client sends meanwhile stays in the socket, where it takes nothing from the budget
// for requests. That the client goes is noticed. To be muted is neither to be idle nor to be slow.
func (c *Conn) awaitUnmuted() error {
	if _, muted := c.muted(); !muted {
		return nil
	}
	in, began := &c.in, time.Now()
	for {
		c.mu.Lock()
		if !c.mutedLocked() {
			break
		}
		c.awaitTurn(c.muteUntil)
	}
	quit := c.quit
	c.mu.Unlock()
	if quit {
		return errStopped
	}
	if !in.partial.IsZero() {
		in.partial = in.partial.Add(time.Since(began))
		c.setReadDeadline(in.partial.Add(c.srv.opt.minRateGrace))
		in.deadline = true
	}
	return nil
}

// needsSlab reports whether a small buffer cannot hold the frame whose beginning is there.
func (c *Conn) needsSlab() bool {
	have := c.in.w - c.in.r
	return have >= smallBytes || have >= sizeBytes && sizeBytes+c.in.claimed() > smallBytes
}

// room is how large the buffer of the next recv is to be, with what is there at its front. It begins small, and grows with what has
// come. Who has sent a buffer full, and is no stranger, gets slabs from then on.
func (c *Conn) room() int {
	switch {
	case c.in.bulk:
		return slabBytes
	case !c.needsSlab():
		return smallBytes
	}
	return min(sizeBytes+c.in.claimed(), max(largeGrowth*(c.in.w-c.in.r), smallBytes), slabBytes)
}

// makeRoom puts a buffer for the recv that follows in place, with the received bytes at its front; false if
// only the budget can help. Called when the socket may be readable.
func (c *Conn) makeRoom() bool {
	in := &c.in
	room := c.room()
	if s := in.slab; s != nil && len(s.buf) >= room && s.refs.Load() == 1 {
		if in.r > 0 {
			in.r, in.w = 0, copy(s.buf, s.buf[in.r:in.w])
		}
		return true
	}
	var s *slab
	if room > smallBytes {
		if s = c.mem.tryLarge(room); s == nil && c.needsSlab() {
			return false
		}
	}
	if s == nil {
		s = c.mem.small(smallBytes)
	}
	have := 0
	if in.slab != nil {
		have = copy(s.buf, in.slab.buf[in.r:in.w])
	}
	in.put(s, have)
	return true
}

// filled is told that n bytes have come into the buffer.
func (c *Conn) filled(n int) {
	c.in.w += n
	if c.in.w == len(c.in.slab.buf) && !c.stranger {
		c.in.bulk = true
	}
}

// shrink lets go of all that the received bytes do not need, because what follows may take long to come.
func (c *Conn) shrink() {
	in := &c.in
	have := in.w - in.r
	switch {
	case have == 0:
		in.drop()
	case in.slab.overdraft: // whoever has it must come to an end with it
	case classOf(have) < int(in.slab.class):
		s := c.mem.small(have)
		in.put(s, copy(s.buf, in.slab.buf[in.r:in.w]))
	}
}

// moveToLarge copies the received bytes to the front of a larger buffer, for which it waits.
func (c *Conn) moveToLarge() error {
	s, err := c.budgeted(c.room(), c.in.slab)
	if err != nil {
		return err
	}
	c.in.put(s, copy(s.buf, c.in.slab.buf[c.in.r:c.in.w]))
	return nil
}

// budgeted waits for the budget; that wait does not count as slowness of the client.
func (c *Conn) budgeted(n int, prev *slab) (*slab, error) {
	if prev == nil || !prev.overdraft {
		if s := c.mem.tryLarge(n); s != nil {
			return s, nil
		}
	}
	began := time.Now()
	s := c.mem.large(n, prev, c.stop)
	if s == nil {
		return nil, errStopped
	}
	c.in.partial = c.in.partial.Add(time.Since(began))
	return s, nil
}

// nextLarge receives the rest of a frame that exceeds a slab, into a buffer that grows with
// what arrives.
func (c *Conn) nextLarge(size int) ([]byte, *slab, error) {
	in := &c.in
	c.settle()
	c.writeReady()
	c.beginPartial()
	if size >= growRecvFrom && !in.grown && !c.stranger && c.srv.opt.GrowRecv {
		in.grown = true
		_ = c.nc.SetReadBuffer(grownRecvSize) // a wish, as everywhere
	}
	first := min(size, slabBytes*largeGrowth)
	s, err := c.budgeted(first, in.slab)
	if err != nil {
		return nil, nil, err
	}
	have := copy(s.buf, in.slab.buf[in.r+sizeBytes:in.w])
	in.drop()
	in.large, in.largeSize, in.largeHave = s, size, have
	room := first // charged; the buffer may be longer
	for in.largeHave < size {
		if in.largeHave == room {
			room = min(size, room*largeGrowth)
			s, err := c.budgeted(room, in.large)
			if err != nil {
				return nil, nil, err
			}
			copy(s.buf, in.large.buf[:in.largeHave])
			in.large.unref()
			in.large = s
		}
		n, err := c.readInto(in.large.buf[in.largeHave:room])
		in.largeHave += n
		if err != nil {
			return nil, nil, err
		}
	}
	s, in.large, in.partial = in.large, nil, time.Time{}
	return s.buf[:size:size], s, nil
}

// readInto receives at least a byte, with the buffer in hand.
func (c *Conn) readInto(p []byte) (int, error) {
	for {
		if err := c.awaitUnmuted(); err != nil {
			return 0, err
		}
		began := time.Now()
		n, err := c.recv(p)
		if n > 0 {
			c.worked(int64(n), time.Since(began))
			c.received(n)
			return n, nil
		}
		if err := c.onReadError(err); err != nil {
			return 0, err
		}
	}
}

// recv waits for at least a byte.
func (c *Conn) recv(p []byte) (int, error) {
	if c.tls != nil {
		return c.tls.Read(p)
	}
	return c.nc.Read(p)
}

func (c *Conn) received(n int) {
	c.in.arrived = time.Now()
	c.srv.received.Add(1)
	c.srv.metrics.bytesIn.Add(float64(n))
}

// beginPartial starts the clock of an incomplete frame.
func (c *Conn) beginPartial() {
	if c.in.partial.IsZero() {
		c.in.partial = time.Now()
		c.setReadDeadline(c.in.partial.Add(c.srv.opt.minRateGrace))
		c.in.deadline = true
	}
}

// armIdle sets the idle deadline. It moves only when it strikes, not with every request.
func (c *Conn) armIdle() {
	in := &c.in
	if d := c.srv.opt.IdleTimeout; d > 0 && !in.deadline {
		c.setReadDeadline(time.Now().Add(d))
		in.deadline = true
	}
}

// onReadError says whether a failed read ends the connection: a deadline may be that of an
// earlier wait, or come from awaitTurn.
func (c *Conn) onReadError(err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	c.mu.Lock()
	quit, inflight, last := c.quit, c.inflight, c.lastSent
	if c.muteUntil.After(last) {
		last = c.muteUntil
	}
	c.mu.Unlock()
	if quit {
		return errStopped
	}
	in, now := &c.in, time.Now()
	if !in.partial.IsZero() {
		earned := time.Duration(in.received()) * time.Second / minFrameRate
		until := in.partial.Add(c.srv.opt.minRateGrace + earned)
		if now.After(until) {
			return errSlow
		}
		c.setReadDeadline(until.Add(time.Millisecond))
		in.deadline = true
		return nil
	}
	in.deadline = false
	idle := c.srv.opt.IdleTimeout
	if idle <= 0 {
		c.setReadDeadline(time.Time{})
		return nil
	}
	if in.arrived.After(last) {
		last = in.arrived
	}
	until := last.Add(idle)
	if inflight > 0 || last.IsZero() {
		until = now.Add(idle)
	}
	if last.IsZero() && inflight == 0 || !now.Before(until) {
		return errIdle
	}
	c.setReadDeadline(until)
	in.deadline = true
	return nil
}
