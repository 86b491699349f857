package storage

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"moldau/internal/vfs"
)

// Reads for clients never wait for the disk. What is in memory is read at once (Log.ReadNow); what is not is asked
// for here, and the client is woken when it may look again. A log dir has one cold queue: a few workers read what
// was asked for in units, so that it comes into the page cache, and throw the bytes away. So the number of threads
// that wait for the disk, and the bytes that the disk owes at any time, are bounded, whatever clients do.
//
// This file knows what a client's read meets, asks for and leaves behind; coldqueue.go knows who is next and who reads.
//
// An order outlives the fetch that gave it, so that a fetch that is answered at its deadline has not lost its
// turn: the next one finds what came meanwhile. A new order of the same client for the same log takes its place.
//
// What was brought in for a reader is dropped from the page cache behind it, unless another reader is near or the range is the
// end of the log: who reads everything once must not push out what others need.

const (
	coldUnitBytes  = 256 << 10 // one read of a worker
	coldSmallBytes = 64 << 10  // an order of at most so much is small
	coldOrderBytes = 1 << 20   // the largest order for one log
	coldLookBytes  = 4 << 20   // what one look at all partitions of a fetch may order
	coldAheadBytes = 2 << 20   // how far ahead of a sequential reader is read at most
	coldNearBytes  = 8 << 20   // a reader so close behind another still needs its pages; so do readers of the log's end
	coldVain       = 8         // orders that were carried out and brought nobody further, see errInTurn
	coldForget     = time.Minute
)

// ErrCold says that what is to be read is not in memory. It is being fetched, and Reader.Wake tells.
var ErrCold = errors.New("the bytes are on the disk only")

// errPrepare says that a segment's file is not open, or its index not loaded.
var errPrepare = errors.New("the segment is not prepared for reading")

// errInTurn says that what was brought in was gone again before the reader looked, and again and again: memory is short. It
// then waits for the disk itself, in turn with a few others.
var errInTurn = errors.New("the bytes do not stay in memory")

// Reader is who reads without waiting for the disk. It belongs to one goroutine at a time.
type Reader struct {
	Client any           // whose turn it is; comparable
	Wake   chan struct{} // gets a token when something that ErrCold was returned for may be there; nil: nobody waits

	queues  []*coldQueue // that were asked
	ordered int64        // since Begin

	// Of the read under way:
	log  *Log
	file vfs.File
	scan bool  // the client has a scan in log: it met cold bytes there not long ago
	need int64 // what the reader will want from where it misses something on
	stop int64 // where that ends at the latest
	miss int64 // where it missed something
	lack int64 // and how much it wanted there
}

// Begin begins a look at several logs, which together may order so much.
func (r *Reader) Begin() { r.ordered = 0 }

// Cancel takes back what was ordered for the client: it is gone.
func (r *Reader) Cancel() {
	for _, q := range r.queues {
		q.cancel(r.Client) // protection: who is gone waits for nothing
	}
	r.Forget()
}

// Forget makes r ready for another client.
func (r *Reader) Forget() {
	clear(r.queues)
	*r = Reader{queues: r.queues[:0]}
}

// ReadAt reads what is in memory; vfs.ErrWouldBlock notes what is missing.
func (r *Reader) ReadAt(p []byte, off int64) (n int, err error) {
	if !r.scan || len(p) <= pageBytes || r.file.Resident(off, int64(len(p))) == int64(len(p)) {
		// The kernel begins to read what an attempt misses. That is one small range for a client that
		// meets cold bytes for the first time; later the pages are probed first, and the queue reads.
		n, err = r.file.TryReadAt(p, off) // protection: nobody waits
	} else {
		err = vfs.ErrWouldBlock
	}
	if err == vfs.ErrWouldBlock {
		r.miss, r.lack = off+int64(n), int64(len(p)-n)
	}
	return n, err
}

// ReadNow is Read without waiting for the disk: ErrCold says that the bytes, or what finds them, are not in memory, and that they
// were asked for. A plan may be shorter than what could be read, where the rest is cold.
func (l *Log) ReadNow(r *Reader, from, limit int64, maxBytes int, minOne bool, copyBytes int) (Plan, error) {
	q := l.dir.cold
	for !q.noTry.Load() {
		r.log, r.scan = l, q.knows(r.Client, l)
		end := l.end.Load() // before view, see Read
		v := l.view.Load()
		plan, err := l.readView(v, end, from, limit, maxBytes, minOne, copyBytes, r)
		switch {
		case l.outdated(v, err):
		case errors.Is(err, errInTurn):
			return l.readSlowly(from, limit, maxBytes, minOne, copyBytes)
		case errors.Is(err, errors.ErrUnsupported):
			q.noTry.Store(true)
		default:
			if err != nil && err != ErrCold {
				q.leave(r.Client, l)
			}
			return plan, err
		}
	}
	if l.isTail(from) {
		return l.Read(from, limit, maxBytes, minOne, copyBytes)
	}
	return l.readSlowly(from, limit, maxBytes, minOne, copyBytes)
}

// isTail says that from is near the log's end, where a reader was just before: that is in memory.
func (l *Log) isTail(from int64) bool {
	v := l.view.Load()
	if len(v.segments) == 0 {
		return true
	}
	seg := v.segments[len(v.segments)-1]
	pos, ok := l.places.find(v, seg, from)
	return ok && seg.size.Load()-pos <= coldNearBytes
}

// readSlowly is ReadNow where nobody can say what is in memory: in turn, and with one more read of what is sent from the
// file, so that it is in memory then.
func (l *Log) readSlowly(from, limit int64, maxBytes int, minOne bool, copyBytes int) (p Plan, err error) {
	q := l.dir.cold
	q.inTurn(func() {
		p, err = l.Read(from, limit, min(maxBytes, coldLookBytes), minOne, copyBytes)
		if err != nil || p.Region.Len == 0 {
			return
		}
		buf := q.bufs.Get().(*[coldUnitBytes]byte)
		defer q.bufs.Put(buf)
		for done := int64(0); done < p.Region.Len; done += coldUnitBytes {
			n := min(coldUnitBytes, p.Region.Len-done)
			if _, err := p.Region.File.ReadAt(buf[:n], p.Region.Off+done); err != nil {
				return // who sends it meets it again
			}
		}
	})
	return p, err
}

// firstResident returns how many of the n bytes that begin with batch b are in memory, and orders the rest. ErrCold if
// that is not worth an answer: less than the first batch, or than a small range.
func (r *Reader) firstResident(seg *segment, b batchAt, n int64) (int64, error) {
	have := r.file.Resident(b.pos, n)
	if have == n { // protection: sendfile sends what is in memory
		return n, nil
	}
	if have < b.size || have < min(n, CopyBelow) {
		r.miss, r.lack = b.pos+have, n-have
		return 0, vfs.ErrWouldBlock
	}
	_ = r.order(seg, b.pos+have, b.pos+n, false) // who reads on meets an error again
	return have, nil
}

// missed orders what a read of seg found missing.
func (r *Reader) missed(seg *segment, err error) error {
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return err
	case errors.Is(err, errPrepare):
		return r.order(seg, 0, 0, true)
	}
	return r.order(seg, r.miss, r.miss+max(r.lack, min(r.need, r.stop-r.miss)), false)
}

// order asks for the bytes [from, to) of seg, and returns ErrCold, or why they could not be read.
func (r *Reader) order(seg *segment, from, to int64, prepare bool) error {
	l := r.log
	q := l.dir.cold
	n := max(min(to-from, coldOrderBytes, coldLookBytes-r.ordered), 0) // protection: orders are bounded
	if !prepare && n == 0 && to > from {
		return ErrCold // what was ordered before it wakes the reader
	}
	r.ordered += max(n, pageBytes)
	r.scan = true
	if !slices.Contains(r.queues, q) {
		r.queues = append(r.queues, q)
	}
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mu.closed {
		return fmt.Errorf("%v: %w", l.tp, ErrClosed)
	}
	s := q.findLocked(r.Client, l)
	if s == nil {
		s = q.addLocked(r.Client, l, now)
	}
	further := !prepare && s.seg == seg && from > s.missed
	if further {
		s.vain = 0
	} else if s.served {
		s.vain++
	}
	if s.served = false; s.vain >= coldVain {
		s.vain = 0
		return errInTurn
	}
	if s.seg != seg {
		q.moveLocked(s, seg)
	}
	s.missed = from
	if err := s.failed; err != nil {
		s.failed = nil
		if prepare || from >= s.failedFrom && from < s.failedTo {
			return err
		}
	}
	s.used, s.wake, s.waits = now, r.Wake, true
	if prepare {
		s.prepare = true
	} else {
		to = from + n
		s.small = n <= coldSmallBytes // protection: small reads have a lane
		if !s.small {
			to = min((to+coldUnitBytes-1)&^(coldUnitBytes-1), max(seg.size.Load(), to))
		}
		if s.next = from &^ (pageBytes - 1); s.busy && s.next >= s.busyFrom && s.next < s.busyTo {
			s.next = s.busyTo
		}
		s.demand = max(to, s.next)
		s.ahead = s.demand
	}
	q.offerLocked(s)
	return ErrCold
}

// passed notes that the client reads [from, to) of seg now, and so has what was before: it reads ahead and drops behind.
func (r *Reader) passed(seg *segment, from, to int64) {
	q := r.log.dir.cold
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.findLocked(r.Client, r.log)
	if s == nil || q.mu.closed {
		return
	}
	s.used, s.vain, s.waits, s.failed = time.Now(), 0, false, nil
	if s.seg != seg {
		q.moveLocked(s, seg)
	} else if from >= s.at && from <= s.pos {
		s.window = min(2*s.window, coldAheadBytes)
	} else {
		s.window = coldUnitBytes
	}
	s.at, s.pos = from, to
	if done := from &^ (pageBytes - 1); done-s.warm >= coldDropBytes {
		q.dropLocked(s, done)
	}
	if s.told < from || s.warm >= s.told {
		return // it has left what was cold
	}
	if ahead := min(to+s.window, seg.size.Load()); ahead > s.ahead && ahead > to {
		if s.next >= s.ahead {
			s.next = max(s.ahead, s.told, to&^(pageBytes-1))
		}
		if s.ahead = ahead; s.next < s.ahead {
			q.offerLocked(s)
		}
	}
}

// scan is a client's way through a log with cold bytes. Guarded by coldQueue.mu.
type scan struct {
	client *coldClient
	log    *Log
	seg    *segment // that the following are of; nil: nothing is known
	used   time.Time
	wake   chan struct{}
	waits  bool // the client has asked since it was woken
	served bool // something was brought in since it asked last
	vain   int  // how often that brought it no further
	missed int64

	prepare bool  // open the file and load the index first
	next    int64 // to be read next,
	demand  int64 // up to here for somebody who waits,
	ahead   int64 // and up to here for one who will come
	small   bool
	queued  bool // is in client.pending

	busy             bool
	busyFrom, busyTo int64 // being read
	failed           error // of the read of a unit that held failedAt
	failedFrom       int64
	failedTo         int64

	at, pos    int64 // the last plan
	window     int64 // how far ahead of pos is read
	warm, told int64 // what was brought in for this client and is not dropped
}

// coldClient is a client with scans.
type coldClient struct {
	key     any
	scans   []*scan
	pending []*scan // have something to be read; the first is the next
	queued  bool    // is in coldQueue.mu.order
}

// sweep forgets the scans of clients that have not come for long.
func (q *coldQueue) sweep(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sweepLocked(now)
}

func (q *coldQueue) sweepLocked(now time.Time) {
	if now.Sub(q.mu.swept) <= coldForget/4 {
		return
	}
	q.mu.swept = now
	for _, c := range q.mu.clients {
		for _, s := range slices.Clone(c.scans) {
			if !s.busy && now.Sub(s.used) > coldForget {
				q.removeLocked(s)
			}
		}
	}
}

// addLocked makes a scan, and forgets those of clients that have not come for long.
func (q *coldQueue) addLocked(client any, l *Log, now time.Time) *scan {
	q.sweepLocked(now)
	c := q.mu.clients[client]
	if c == nil {
		c = &coldClient{key: client}
		q.mu.clients[client] = c
	}
	s := &scan{client: c, log: l, window: coldUnitBytes}
	c.scans = append(c.scans, s)
	l.scans = append(l.scans, s)
	l.scanned.Store(int32(len(l.scans)))
	return s
}

func (q *coldQueue) removeLocked(s *scan) {
	s.next, s.demand, s.ahead, s.prepare, s.wake = 0, 0, 0, false, nil
	q.restLocked(s)
	without := func(all []*scan) []*scan {
		return slices.DeleteFunc(all, func(x *scan) bool { return x == s })
	}
	s.log.scans, s.client.scans = without(s.log.scans), without(s.client.scans)
	s.log.scanned.Store(int32(len(s.log.scans)))
	if len(s.client.scans) == 0 && q.mu.clients[s.client.key] == s.client {
		delete(q.mu.clients, s.client.key)
	}
}

// knows says whether the client has a scan in l.
func (q *coldQueue) knows(client any, l *Log) bool {
	if l.scanned.Load() == 0 {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.findLocked(client, l) != nil
}

// leave says that the client waits for nothing any more in l.
func (q *coldQueue) leave(client any, l *Log) {
	if l.scanned.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if s := q.findLocked(client, l); s != nil {
		s.waits, s.failed = false, nil
	}
}

func (q *coldQueue) findLocked(client any, l *Log) *scan {
	for _, s := range l.scans {
		if s.client.key == client {
			return s
		}
	}
	return nil
}

// moveLocked begins anew in another segment.
func (q *coldQueue) moveLocked(s *scan, seg *segment) {
	if s.seg != nil {
		q.dropLocked(s, s.told)
	}
	*s = scan{client: s.client, log: s.log, seg: seg, used: s.used, wake: s.wake, vain: s.vain, window: s.window, busy: s.busy, queued: s.queued}
}
