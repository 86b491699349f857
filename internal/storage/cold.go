package storage

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"moldau/internal/vfs"
)

// Reads for clients never wait for the disk. What is in memory is read at once (Log.ReadNow); what is not is asked
// for here, and the client is woken when it may look again. A log dir has one cold queue: a few workers read what
// was asked for in units, so that it comes into the page cache, and throw the bytes away. So the number of threads
// that wait for the disk, and the bytes that the disk owes at any time, are bounded, whatever clients do.
//
// Who is next:
//   - Small ranges, such as a page of a hot log that was evicted, go before bulk and have workers of their own.
//   - Clients take turns, unit by unit: one with many cold partitions gets no more than one with a single one.
//   - What nobody waits for yet (reading ahead) comes when nothing else is wanted.
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
	coldDropBytes  = 1 << 20   // pages are dropped in steps of at least so much
	coldNearBytes  = 8 << 20   // a reader so close behind another still needs its pages; so do readers of the log's end
	coldSmallLane  = 2         // workers for small orders
	coldBulkLane   = 4         // and for others at most, if the disk is fast
	coldBlocked    = 4         // reads that wait for the disk themselves, see coldQueue.inTurn
	coldVain       = 8         // orders that were carried out and brought nobody further, see errInTurn
	coldForget     = time.Minute

	// The bulk lane gets a worker more while a unit takes less, and one less while it takes more: a small read
	// then waits about so long at most for what the disk was given before.
	coldQuick = 8 * time.Millisecond
	coldSlow  = 24 * time.Millisecond
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
		q.cancel(r.Client)
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
		n, err = r.file.TryReadAt(p, off)
	} else {
		err = vfs.ErrWouldBlock
	}
	if err == vfs.ErrWouldBlock {
		r.miss, r.lack = off+int64(n), int64(len(p)-n)
	}
	return n, err
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

// coldQueue brings the bytes of a log dir's segments into the page cache.
type coldQueue struct {
	noTry atomic.Bool // the file system cannot say what is in memory
	slots chan struct{}
	bufs  sync.Pool // of *[coldUnitBytes]byte

	mu struct {
		sync.Mutex // guards the following, every scan and Log.scans; a leaf, never held over I/O
		clients    map[any]*coldClient
		order      []*coldClient // have something to be read; the first is the next
		drops      []vfs.Region  // to be dropped from the page cache; File is the segment's and not pinned
		dropSegs   []*segment    // of drops
		small      int           // workers at small orders
		bulk       int           // and at others
		bulkLimit  int
		workers    int
		swept      time.Time
		closed     bool
	}
	wg sync.WaitGroup
}

func newColdQueue() *coldQueue {
	q := &coldQueue{slots: make(chan struct{}, coldBlocked)}
	q.bufs.New = func() any { return new([coldUnitBytes]byte) }
	q.mu.clients, q.mu.bulkLimit = map[any]*coldClient{}, 2
	return q
}

// inTurn runs a read that may wait for the disk. A few do at a time, so that threads stay few.
func (q *coldQueue) inTurn(read func()) {
	q.slots <- struct{}{}
	defer func() { <-q.slots }()
	read()
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
	if have == n {
		return n, nil
	}
	if have < b.size || have < min(n, CopyBelow) {
		r.miss, r.lack = b.pos+have, n-have
		return 0, vfs.ErrWouldBlock
	}
	_ = r.order(seg, b.pos+have, b.pos+n, false) // who reads on meets an error again
	return have, nil
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
	n := max(min(to-from, coldOrderBytes, coldLookBytes-r.ordered), 0)
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
		s.small = n <= coldSmallBytes
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

// addLocked makes a scan, and forgets those of clients that have not come for long.
func (q *coldQueue) addLocked(client any, l *Log, now time.Time) *scan {
	if now.Sub(q.mu.swept) > coldForget/4 {
		q.mu.swept = now
		for _, c := range q.mu.clients {
			for _, s := range slices.Clone(c.scans) {
				if !s.busy && now.Sub(s.used) > coldForget {
					q.removeLocked(s)
				}
			}
		}
	}
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

// cancel forgets a client. What is being read for it is read.
func (q *coldQueue) cancel(client any) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if c := q.mu.clients[client]; c != nil {
		for _, s := range slices.Clone(c.scans) {
			q.removeLocked(s)
		}
	}
}

// moveLocked begins anew in another segment.
func (q *coldQueue) moveLocked(s *scan, seg *segment) {
	if s.seg != nil {
		q.dropLocked(s, s.told)
	}
	*s = scan{client: s.client, log: s.log, seg: seg, used: s.used, wake: s.wake, vain: s.vain, window: s.window, busy: s.busy, queued: s.queued}
}

// offerLocked puts the client of s among those who wait for their turn, and sees to it that somebody works.
func (q *coldQueue) offerLocked(s *scan) {
	c := s.client
	if !s.queued {
		s.queued = true
		c.pending = append(c.pending, s)
	}
	if !c.queued {
		c.queued = true
		q.mu.order = append(q.mu.order, c)
	}
	q.workLocked()
}

func (q *coldQueue) workLocked() {
	if q.mu.workers < coldSmallLane+q.mu.bulkLimit && !q.mu.closed {
		q.mu.workers++
		q.wg.Add(1)
		go q.startWork()
	}
}

// job is one thing that a worker does.
type job struct {
	s       *scan // nil: drop
	seg     *segment
	prepare bool
	small   bool
	wanted  bool // somebody waits for it
	off, n  int64
}

// startWork does what there is to do, and ends when there is nothing.
func (q *coldQueue) startWork() {
	defer q.wg.Done()
	buf := q.bufs.Get().(*[coldUnitBytes]byte)
	defer q.bufs.Put(buf)
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		j, ok := q.pickLocked()
		if !ok {
			q.mu.workers--
			return
		}
		q.mu.Unlock()
		began := time.Now()
		read, err := j.do(buf[:])
		took := time.Since(began)
		q.mu.Lock()
		q.doneLocked(&j, read, took, err)
	}
}

// pickLocked finds what is next, and takes it.
func (q *coldQueue) pickLocked() (j job, ok bool) {
	if q.mu.closed {
		return j, false
	}
	if n := len(q.mu.drops); n > 0 {
		d := q.mu.drops[0]
		j = job{seg: q.mu.dropSegs[0], off: d.Off, n: d.Len}
		q.mu.drops, q.mu.dropSegs = q.mu.drops[1:], q.mu.dropSegs[1:]
		return j, true
	}
	if q.mu.small < coldSmallLane {
		if j, ok = q.takeLocked(func(s *scan) bool { return !s.prepare && s.small && s.next < s.demand }); ok {
			return j, true
		}
	}
	if q.mu.bulk < q.mu.bulkLimit {
		if j, ok = q.takeLocked(func(s *scan) bool { return s.prepare || !s.small && s.next < s.demand }); ok {
			return j, true
		}
		if j, ok = q.takeLocked(func(s *scan) bool { return s.next >= s.demand && s.next < s.ahead }); ok {
			return j, true
		}
	}
	return j, false
}

// takeLocked takes a piece of the first scan of that kind, and puts its client behind the others.
func (q *coldQueue) takeLocked(kind func(*scan) bool) (j job, ok bool) {
	for i, c := range q.mu.order {
		for k, s := range c.pending {
			if s.busy || !kind(s) {
				continue
			}
			last(q.mu.order, i)
			last(c.pending, k)
			j = job{s: s, seg: s.seg, prepare: s.prepare, small: s.small && !s.prepare && s.next < s.demand, wanted: s.prepare || s.next < s.demand}
			s.busy = true
			if s.prepare {
				s.prepare = false
				s.busyFrom, s.busyTo = 0, 0
			} else {
				end := s.ahead
				if s.next < s.demand {
					end = s.demand
				}
				j.off = s.next
				j.n = min(end, s.next&^(coldUnitBytes-1)+coldUnitBytes) - s.next
				s.busyFrom, s.busyTo = j.off, j.off+j.n
				s.next = s.busyTo
			}
			if j.small {
				q.mu.small++
			} else {
				q.mu.bulk++
			}
			return j, true
		}
	}
	return j, false
}

// last moves element i behind the others.
func last[T any](all []T, i int) {
	x := all[i]
	copy(all[i:], all[i+1:])
	all[len(all)-1] = x
}

// restLocked takes who has nothing more to be read out of the order.
func (q *coldQueue) restLocked(s *scan) {
	if s.prepare || s.next < s.ahead || s.busy || !s.queued {
		return
	}
	s.queued = false
	c := s.client
	c.pending = slices.DeleteFunc(c.pending, func(x *scan) bool { return x == s })
	if len(c.pending) == 0 && c.queued {
		c.queued = false
		q.mu.order = slices.DeleteFunc(q.mu.order, func(x *coldClient) bool { return x == c })
	}
}

// do reads or drops; read says that bytes came from the disk, as far as one can tell.
func (j *job) do(buf []byte) (read bool, err error) {
	f, err := j.seg.pin()
	if err != nil {
		return false, err
	}
	defer j.seg.unpin()
	switch {
	case j.s == nil:
		f.Advise(j.off, j.n, vfs.DontNeed)
		return false, nil
	case j.prepare:
		return false, j.seg.withIndex(func(*sparse, int64) {})
	case !j.wanted:
		if f.Resident(j.off, j.n) == j.n {
			return false, nil
		}
	}
	n, err := f.ReadAt(buf[:j.n], j.off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n > 0, err
}

func (q *coldQueue) doneLocked(j *job, read bool, took time.Duration, err error) {
	s := j.s
	if s == nil {
		return
	}
	s.busy = false
	if j.small {
		q.mu.small--
	} else {
		q.mu.bulk--
		switch {
		case j.prepare || !read:
		case took > coldSlow:
			q.mu.bulkLimit = max(q.mu.bulkLimit-1, 1)
		case took < coldQuick && q.mu.bulkLimit < coldBulkLane:
			q.mu.bulkLimit++
			q.workLocked()
		}
	}
	if s.seg == j.seg {
		switch {
		case errors.Is(err, ErrClosed): // it has left the log: the reader looks again
			s.seg, s.next, s.demand, s.ahead, s.prepare = nil, 0, 0, 0, false
		case err != nil && j.wanted:
			if !j.prepare && !errors.Is(err, ErrUnreadable) {
				err = &CorruptionError{j.seg.path(logSuffix), j.off, err}
			}
			if s.waits { // else it is no answer to anybody: who comes later asks the disk again
				s.failed, s.failedFrom, s.failedTo = err, j.off, j.off+j.n
			}
			s.next, s.demand, s.ahead = 0, 0, 0
		case err != nil:
			s.next, s.ahead = s.demand, s.demand
		case read && j.off <= s.told && j.off >= s.warm && s.warm < s.told:
			s.told = max(s.told, j.off+j.n)
		case read:
			q.dropLocked(s, s.told)
			s.warm, s.told = j.off, j.off+j.n
		}
	}
	s.served = true
	q.restLocked(s)
	if s.waits && s.wake != nil {
		s.waits = false
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
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

// dropLocked drops what was brought in for s up to byte end, or leaves that to another reader.
func (q *coldQueue) dropLocked(s *scan, end int64) {
	from := s.warm
	end = min(end, s.told)
	segments := s.log.view.Load().segments
	if n := len(segments); n > 0 && segments[n-1] == s.seg {
		end = min(end, s.seg.size.Load()-coldNearBytes) // the end of the log is somebody's
	}
	if end <= from {
		return
	}
	s.warm = end
	for _, o := range s.log.scans {
		if o != s && o.seg == s.seg && o.at < end && o.at >= from-coldNearBytes {
			if o.warm >= o.told {
				o.warm, o.told = from, end
			}
			o.warm, o.told = min(o.warm, from), max(o.told, end)
			return
		}
	}
	q.mu.drops = append(q.mu.drops, vfs.Region{Off: from, Len: end - from})
	q.mu.dropSegs = append(q.mu.dropSegs, s.seg)
	q.workLocked()
}

// close wakes who waits, and waits for the workers.
func (q *coldQueue) close() {
	q.mu.Lock()
	q.mu.closed = true
	for _, c := range q.mu.clients {
		for _, s := range c.scans {
			if s.wake != nil {
				select {
				case s.wake <- struct{}{}:
				default:
				}
			}
		}
	}
	q.mu.Unlock()
	q.wg.Wait()
}
