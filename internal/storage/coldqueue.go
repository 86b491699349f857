package storage

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"moldau/internal/vfs"
)

// The cold queue of a log dir: who is next, and the workers that read.
//
// Who is next:
//   - Small ranges, such as a page of a hot log that was evicted, go before bulk and have workers of their own.
//   - Clients take turns, unit by unit: one with many cold partitions gets no more than one with a single one.
//   - What nobody waits for yet (reading ahead) comes when nothing else is wanted.

const (
	coldDropBytes = 1 << 20 // pages are dropped in steps of at least so much
	coldSmallLane = 2       // workers for small orders
	coldBulkLane  = 4       // and for others at most, if the disk is fast
	coldBlocked   = 4       // reads that wait for the disk themselves, see coldQueue.turns

	// The bulk lane gets a worker more while a unit takes less, and one less while it takes more: a small read
	// then waits about so long at most for what the disk was given before.
	coldQuick = 8 * time.Millisecond
	coldSlow  = 24 * time.Millisecond
)

// coldQueue brings the bytes of a log dir's segments into the page cache.
type coldQueue struct {
	noTry atomic.Bool // the file system cannot say what is in memory
	turns *vfs.Turns  // of reads that wait for the disk themselves
	bufs  sync.Pool   // of *[coldUnitBytes]byte

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
	q := &coldQueue{turns: vfs.NewTurns(coldBlocked)}
	q.bufs.New = func() any { return new([coldUnitBytes]byte) }
	q.mu.clients, q.mu.bulkLimit = map[any]*coldClient{}, 2
	return q
}

// inTurn runs a read that may wait for the disk.
func (q *coldQueue) inTurn(read func()) { _ = q.turns.Do(context.Background(), read) }

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
	if q.mu.bulk < q.mu.bulkLimit { // protection: bulk reads are few
		if j, ok = q.takeLocked(func(s *scan) bool {
			return s.prepare || !s.small && s.next < s.demand /* protection: reading ahead comes last */
		}); ok {
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
			last(q.mu.order, i) // protection: clients take turns
			last(c.pending, k)  // protection: a client's logs take turns
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
				j.n = min(end, s.next&^(coldUnitBytes-1)+coldUnitBytes) - s.next // protection: unit by unit
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
			q.mu.bulkLimit = max(q.mu.bulkLimit-1, 1) // protection: a slow disk gets less
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
