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

// flusher makes logs durable in the background, each log by one worker at a time and
// several logs at once: the file system merges concurrent syncs better than we could.
// Workers start on demand, end when there is nothing to do, and close waits for them.
type flusher struct {
	workers int
	mu      struct {
		sync.Mutex // guards the following and every Log.flushState; never held over I/O
		queue      []*Log
		running    int
		closed     bool
	}
	wg sync.WaitGroup
}

func newFlusher(workers int) *flusher { return &flusher{workers: workers} }

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
		if f.mu.running < f.workers {
			f.mu.running++
			f.wg.Add(1)
			go f.startWork()
		}
	case flushRunning:
		l.flushState = flushAgain
	case flushQueued, flushAgain:
	}
}

// startWork flushes queued logs until there are none.
func (f *flusher) startWork() {
	defer f.wg.Done()
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.mu.queue) > 0 {
		l := f.mu.queue[0]
		f.mu.queue = f.mu.queue[1:]
		l.flushState = flushRunning
		f.mu.Unlock()
		before := l.Flushed()
		err := l.flush()
		if err != nil || l.Flushed() != before {
			l.flushed() // also after a failure: whoever waits must learn of the fence
		}
		f.mu.Lock()
		again := l.flushState == flushAgain
		l.flushState = flushIdle
		if again && err == nil {
			l.flushState = flushQueued
			f.mu.queue = append(f.mu.queue, l)
		}
	}
	f.mu.running--
}

// close lets queued flushes finish and waits for the workers.
func (f *flusher) close() {
	f.mu.Lock()
	f.mu.closed = true
	f.mu.Unlock()
	f.wg.Wait()
}
