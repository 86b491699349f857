package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/vfs"
	"moldau/internal/wire"
)

const (
	maxVec       = 1024       // pieces of one writev
	maxPending   = 1 << 20    // bytes gathered before they are sent
	maxCopied    = 256 << 10  // bytes of files among them
	sendfileFrom = chunkBytes // smaller regions are cheaper copied into the writev: measured, a tie from 64 to 128 KiB
	sendfileMax  = 4 << 20    // one sendfile call

	// What was in memory when an answer was planned is taken to be there for so long. A client that takes
	// longer may find it evicted, so it is asked for again, piece by piece.
	residentFor = 5 * time.Millisecond
	askBytes    = 512 << 10
)

// outboxes lends a writer its scratch space while it has something to send, so that an idle or parked
// connection has none.
type outboxes struct{ pool sync.Pool }

// outbox is what the writer has gathered and not yet sent.
type outbox struct {
	bufs    [][]byte
	vec     net.Buffers // bufs while they are being sent
	bytes   int
	copied  int
	copies  []*slab   // with bytes of files, until sent
	done    []started // every piece of theirs is sent or in bufs
	stamped int       // done[:stamped] have their sending time
}

func (o *outboxes) get() *outbox {
	if b, _ := o.pool.Get().(*outbox); b != nil {
		return b
	}
	return &outbox{bufs: make([][]byte, 0, 16), done: make([]started, 0, MaxStarted)}
}

// errSend means that the connection is broken and fail was called.
var errSend = errors.New("broken")

// writeReady is the reader's turn as the writer: it answers what is ready, and leaves what
// parks to a goroutine.
func (c *Conn) writeReady() {
	c.mu.Lock()
	if c.writing || c.head == c.settled {
		c.mu.Unlock()
		return
	}
	c.writing = true
	c.mu.Unlock()
	if !c.write(false) {
		go c.write(true) // drainCalls waits for its end: it holds an unanswered call
	}
}

// write answers the queue in order, with the writer's role. It returns true with the role given
// up when the queue is empty, false with the role kept when the next call would park and
// mayPark is false.
func (c *Conn) write(mayPark bool) bool {
	out := c.srv.outboxes.get()
	for {
		c.mu.Lock()
		if c.head == c.settled {
			if len(out.done) > 0 {
				c.mu.Unlock()
				c.flush(out)
				continue
			}
			c.writing = false
			c.srv.outboxes.pool.Put(out)
			if mayPark {
				c.signal() // the reader may wait for the role
			}
			c.mu.Unlock()
			return true
		}
		e := &c.queue[c.head]
		call := e.call
		c.mu.Unlock()
		if !call.Ready() {
			if len(out.done) > 0 {
				c.flush(out) // nobody waits behind a call that parks
				continue
			}
			c.srv.outboxes.pool.Put(out)
			if !mayPark {
				return false
			}
			out = nil
		}
		reply := call.Wait(c.ctx)
		if out == nil {
			out = c.srv.outboxes.get()
		}
		c.answer(out, reply)
		if reply.CloseAfter || reply.Throttle > 0 || out.bytes >= maxPending || len(out.bufs) >= maxVec {
			c.flush(out)
		}
		if reply.CloseAfter {
			c.goodbye()
			c.fail("reply", nil)
		}
	}
}

// answer takes the first call off the queue and gathers or sends its reply.
func (c *Conn) answer(out *outbox, reply Reply) {
	c.mu.Lock()
	e := c.queue[c.head]
	c.queue[c.head] = started{}
	c.head++
	broken := c.broken
	if reply.Throttle > 0 { // in force when the client has the response, which it may answer at once
		if until := time.Now().Add(reply.Throttle); until.After(c.muteUntil) {
			c.muteUntil = until
		}
	}
	c.mu.Unlock()
	if !reply.LocalDone.IsZero() {
		e.local = reply.LocalDone
	}
	if e.ready = reply.Ready; e.ready.IsZero() {
		e.ready = time.Now()
	}
	c.planned = e.ready
	e.throttle, e.mayPark, e.diskWait = reply.Throttle, reply.MayPark, reply.DiskWait
	out.done = append(out.done, e)
	if reply.None || broken {
		return
	}
	for i := range reply.Pieces {
		if c.gather(out, &reply.Pieces[i]) != nil {
			return
		}
	}
}

// gather adds a piece to what will be sent; a large region is sent at once, behind what was
// gathered before.
func (c *Conn) gather(out *outbox, p *wire.Piece) error {
	if p.Region.File == nil {
		if len(p.Bytes) > 0 {
			out.bufs = append(out.bufs, p.Bytes)
			out.bytes += len(p.Bytes)
		}
		if len(out.bufs) >= maxVec {
			return c.send(out)
		}
		return nil
	}
	for r := p.Region; r.Len > 0; {
		if r.Len >= sendfileFrom && r.File.FD() >= 0 && !c.noSendfile {
			if err := c.send(out); err != nil {
				return err
			}
			n, err := c.sendRegion(r)
			if err != nil {
				return err
			}
			r.Off += n
			if r.Len -= n; r.Len == 0 {
				break
			}
			// The platform has no sendfile for this file, or what comes next is not in memory.
		}
		n := min(r.Len, chunkBytes)
		s := c.srv.mem.get(int(n))
		out.copies = append(out.copies, s)
		if err := c.readFile(r, s.buf[:n]); err != nil {
			return err
		}
		out.bufs = append(out.bufs, s.buf[:n])
		out.bytes += int(n)
		out.copied += int(n)
		r.Off += n
		r.Len -= n
		if out.copied >= maxCopied || len(out.bufs) >= maxVec {
			if err := c.send(out); err != nil {
				return err
			}
		}
	}
	return nil
}

// mayBlock reports whether the next n bytes of a region may not be in memory any more, so that whoever reads or sends them waits
// for the disk.
func (c *Conn) mayBlock(r vfs.Region, n int64) bool {
	return c.stale(r) && r.File.Resident(r.Off, n) < n
}

// stale reports whether it is so long ago that the region was planned that it may have left memory.
func (c *Conn) stale(r vfs.Region) bool { return r.Turns != nil && time.Since(c.planned) > residentFor }

// readFile fills buf from the beginning of the region. Where that may wait for the disk, it does so in turn.
func (c *Conn) readFile(r vfs.Region, buf []byte) error {
	turns := r.Turns
	if !c.mayBlock(r, int64(len(buf))) {
		turns = nil
	}
	var got int
	var err error
	if gone := turns.Do(c.ctx, func() { got, err = r.File.ReadAt(buf, r.Off) }); gone != nil {
		c.fail("client", gone)
		return errSend
	}
	if got < len(buf) {
		return c.failFile(r, int64(got), err)
	}
	return nil
}

// failFile closes the connection: the response's length is committed, and its bytes are not there.
func (c *Conn) failFile(r vfs.Region, got int64, err error) error {
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	c.fail("file", fmt.Errorf("%s: got %d of %d bytes at offset %d: %w", fileName(r.File.FD()), got, r.Len, r.Off, err))
	return errSend
}

// send hands the gathered bytes to the socket.
func (c *Conn) send(out *outbox) error {
	now := time.Now()
	out.stamp(now)
	var err error
	c.mu.Lock()
	broken := c.broken
	c.mu.Unlock()
	if broken {
		err = errSend
	} else if len(out.bufs) > 0 {
		c.armWrite(now)
		n := int64(out.bytes)
		err = c.sendVec(out)
		c.worked(n, time.Since(now))
	}
	for _, s := range out.copies {
		s.unref()
	}
	clear(out.copies)
	clear(out.bufs)
	out.copies, out.bufs, out.bytes, out.copied = out.copies[:0], out.bufs[:0], 0, 0
	return err
}

// stamp gives the requests whose first byte leaves now their time.
func (o *outbox) stamp(now time.Time) {
	for ; o.stamped < len(o.done); o.stamped++ {
		o.done[o.stamped].sending = now
	}
}

func (c *Conn) sendVec(out *outbox) error {
	if c.tls != nil {
		return c.sendSealed(out)
	}
	out.vec = out.bufs
	var sent int64
	defer func() { c.srv.metrics.bytesOut.Add(float64(sent)) }()
	for {
		var n int64
		var err error
		if len(out.vec) == 1 {
			var k int
			k, err = c.nc.Write(out.vec[0])
			n, out.vec[0] = int64(k), out.vec[0][k:]
		} else {
			n, err = out.vec.WriteTo(c.nc)
		}
		sent += n
		if err == nil {
			return nil
		}
		if err = c.onWriteError(n, err); err != nil {
			return err
		}
	}
}

// armWrite makes sure that the write deadline is at least IdleTimeout away. It moves once per
// IdleTimeout and not with every response.
func (c *Conn) armWrite(now time.Time) {
	if d := c.srv.opt.IdleTimeout; d > 0 && c.writeUntil.Before(now.Add(d)) {
		c.writeUntil = now.Add(2 * d)
		_ = c.nc.SetWriteDeadline(c.writeUntil) // fails only on a closed socket
	}
}

// onWriteError goes on after a deadline that struck while bytes were moving.
func (c *Conn) onWriteError(progress int64, err error) error {
	stalled := errors.Is(err, os.ErrDeadlineExceeded)
	if stalled && progress > 0 {
		c.armWrite(time.Now())
		return nil
	}
	if stalled {
		c.fail("stalled", err)
	} else {
		c.fail("client", err)
	}
	return errSend
}

// flush sends what is gathered and finishes the requests that are done.
func (c *Conn) flush(out *outbox) {
	_ = c.send(out) // an error has closed the connection, and the rest is the same
	now := time.Now()
	var bytes int64
	var throttle time.Duration
	for i := range out.done {
		e := &out.done[i]
		c.observe(e, now)
		e.call.Release()
		e.buf.unref()
		bytes += int64(e.size)
		throttle = max(throttle, e.throttle)
	}
	n := len(out.done)
	clear(out.done)
	out.done, out.stamped = out.done[:0], 0
	c.mu.Lock()
	c.inflight -= n
	c.inflightBytes -= bytes
	c.lastSent = now
	if until := now.Add(throttle); throttle > 0 && until.After(c.muteUntil) {
		c.muteUntil = until
	}
	c.signal()
	c.mu.Unlock()
}

// observe counts a finished request, and logs a slow one.
func (c *Conn) observe(e *started, sent time.Time) {
	took := e.times(sent)
	api := c.srv.metrics.api(e.key)
	for s := range took {
		api[s].observe(took[s])
	}
	c.srv.opt.Stalls.Slow(kmsg.NameForKey(e.key), took[stageLocal])
	if limit := c.srv.opt.SlowRequest; limit > 0 && took[stageTotal]-min(max(took[stageRemote], 0), e.mayPark) > limit {
		c.logSlow(e, &took)
	}
}
