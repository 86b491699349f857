package storage

import "sync"

// flushState is where a log stands with the flusher. Guarded by flusher.mu.
type flushState int

const (
	flushIdle flushState = iota
	flushQueued
	flushRunning
	flushAgain // running, and asked for since it began
)

// flusher makes logs durable in the background: all that wait at the same moment together through the journal, and
// those that the journal does not take each by one worker, several at once. Workers start on demand, end when there is nothing to do,
// and close waits for them.
type flusher struct {
	workers int
	journal *journal
	mu      struct {
		sync.Mutex // guards the following and every Log.flushState; never held over I/O
		queue      []*Log
		spare      []*Log // the array of the last group, to be used again
		alone      []*Log // have to be synced by themselves
		running    int
		committing bool // one worker is in journal.commit
		closed     bool
	}
	wg sync.WaitGroup
}

func newFlusher(workers int, j *journal) *flusher { return &flusher{workers: workers, journal: j} }

// request queues l unless it is queued; what was appended before the call is covered.
func (f *flusher) request(l *Log) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch l.flushState {
	case flushIdle:
		if f.mu.closed {
			return
		}
		l.flushState = flushQueued
		f.mu.queue = append(f.mu.queue, l)
		f.hireLocked()
	case flushRunning:
		l.flushState = flushAgain
	case flushQueued, flushAgain:
	}
}

// hireLocked starts a worker if one more would find work.
func (f *flusher) hireLocked() {
	if f.mu.running < f.workers && (len(f.mu.alone) > 0 || len(f.mu.queue) > 0 && !f.mu.committing) {
		f.mu.running++
		f.wg.Add(1)
		go f.startWork()
	}
}

// startWork makes queued logs durable until there is nothing for it to do.
func (f *flusher) startWork() {
	defer f.wg.Done()
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case len(f.mu.alone) > 0:
			f.syncLocked(&f.mu.alone)
		case len(f.mu.queue) == 0 || f.mu.committing:
			f.mu.running--
			return
		case f.journal.on.Load():
			f.commitLocked()
		default:
			f.journal.demand(1)
			f.syncLocked(&f.mu.queue)
		}
	}
}

// syncLocked makes the first log of a queue durable by itself.
func (f *flusher) syncLocked(queue *[]*Log) {
	l := (*queue)[0]
	*queue = (*queue)[1:]
	l.flushState = flushRunning
	f.mu.Unlock()
	before := l.Flushed()
	err := l.flush()
	l.tellFlushed(before, err)
	f.mu.Lock()
	f.doneLocked(l, err == nil)
}

func (f *flusher) doneLocked(l *Log, well bool) {
	again := l.flushState == flushAgain
	l.flushState = flushIdle
	if again && well {
		l.flushState = flushQueued
		f.mu.queue = append(f.mu.queue, l)
	}
}

// commitLocked gives the whole queue to the journal.
func (f *flusher) commitLocked() {
	group := f.mu.queue
	f.mu.queue = f.mu.spare[:0]
	for _, l := range group {
		l.flushState = flushRunning
	}
	f.mu.committing = true
	f.mu.Unlock()
	alone, later := f.journal.commit(group)
	f.mu.Lock()
	f.mu.committing = false
	for _, l := range alone {
		l.flushState = flushQueued // what was asked for meanwhile is covered
	}
	f.mu.alone = append(f.mu.alone, alone...)
	for _, l := range later {
		l.flushState = flushQueued
	}
	f.mu.queue = append(f.mu.queue, later...)
	for _, l := range group {
		if l.flushState == flushRunning || l.flushState == flushAgain {
			f.doneLocked(l, l.dir.offline() == nil)
		}
	}
	clear(group)
	f.mu.spare = group[:0]
	for range min(len(alone), f.workers) {
		f.hireLocked()
	}
}

// close lets queued flushes finish and waits for the workers.
func (f *flusher) close() {
	f.mu.Lock()
	f.mu.closed = true
	f.mu.Unlock()
	f.wg.Wait()
}
