package partition

import (
	"fmt"
	"sync"

	"moldau/internal/storage"
)

// ReadOptions is what a consumer's fetch says of one partition.
type ReadOptions struct {
	Offset        int64
	CurrentEpoch  int32 // the client's idea of the leader epoch, -1: none
	FetchedEpoch  int32 // epoch of the last record that the client has, -1: none (KIP-595)
	ReadCommitted bool
	MaxBytes      int
	MinOne        bool // a first batch larger than MaxBytes is returned whole
	CopyBytes     int  // what may be read at once, instead of planned

	// Reader does not wait for the disk: storage.ErrCold says that the records are not in memory, with the offsets of the result
	// set, and wakes the reader. nil: wait.
	Reader *storage.Reader
}

// Diverging says that the client's log is another one behind this place.
type Diverging struct {
	Epoch     int32
	EndOffset int64
}

// ReadResult is the answer for one partition. Plan must be released by the caller.
type ReadResult struct {
	Plan          storage.Plan
	HighWatermark int64
	LastStable    int64
	LogStart      int64
	Aborted       []storage.AbortedTxn // with ReadCommitted
	Diverging     *Diverging
	Pending       bool // there are records behind the high watermark
}

// Read plans a consumer's read below the high watermark, or below the last stable
// offset with ReadCommitted. An offset between the limit and the log end gives an empty
// plan and no error. Errors: storage.ErrOffsetRange and those of a partition that does not lead.
func (p *Partition) Read(o ReadOptions) (ReadResult, error) {
	log, _, err := p.leads(o.CurrentEpoch)
	if err != nil {
		return ReadResult{}, err
	}
	defer p.done()
	r := ReadResult{HighWatermark: p.HighWatermark(), LogStart: log.Start()}
	r.Pending = log.End() > r.HighWatermark
	r.LastStable = log.LastStable(r.HighWatermark)
	if o.FetchedEpoch >= 0 {
		epoch, end := log.EndForEpoch(o.FetchedEpoch)
		if epoch < 0 {
			return r, fmt.Errorf("%s: fetch after leader epoch %d, which the log does not know: %w", p.Name(), o.FetchedEpoch, storage.ErrOffsetRange)
		}
		if epoch < o.FetchedEpoch || end < o.Offset {
			r.Diverging = &Diverging{epoch, end}
			return r, nil
		}
	}
	limit := r.HighWatermark
	if o.ReadCommitted {
		limit = r.LastStable
	}
	var plan storage.Plan
	if o.Reader == nil {
		plan, err = log.Read(o.Offset, limit, o.MaxBytes, o.MinOne, o.CopyBytes)
	} else {
		plan, err = log.ReadNow(o.Reader, o.Offset, limit, o.MaxBytes, o.MinOne, o.CopyBytes)
	}
	if err != nil {
		return r, err
	}
	r.Plan = plan
	if o.ReadCommitted && plan.Len() > 0 {
		r.Aborted = log.Aborted(o.Offset, limit)
	}
	return r, nil
}

// Watcher waits for news of several partitions: a parked fetch, a fetch session between two fetches too. It belongs to
// one goroutine at a time; Wake may be received from until Stop.
type Watcher struct {
	Wake chan struct{} // capacity 1
	on   []*Watch      // what Partition.Watch hung in

	mu      sync.Mutex // guards the following; a leaf, taken inside Partition.mu
	ready   []*Watch   // have news
	waiting bool       // its owner waits for records, which are therefore to be flushed at once
}

// Watch is the place of a watcher in the list of a partition. The zero value hangs nowhere.
type Watch struct {
	Owner any // the watcher's own

	w      *Watcher
	p      *Partition
	at     int  // in p.mu.watches; guarded by p.mu
	queued bool // is in w.ready; guarded by w.mu
}

// NewWatcher returns a watcher that watches nothing yet, and waits.
func NewWatcher() *Watcher { return &Watcher{Wake: make(chan struct{}, 1), waiting: true} }

// Watch wakes w when the high watermark of p moves, its leadership changes, or it goes away. If there
// are records that wait only for a flush, the flush is asked for. Look at the partition again
// after Watch: what happened before is not signalled.
func (p *Partition) Watch(w *Watcher) {
	x := &Watch{}
	p.Hang(w, x)
	w.on = append(w.on, x)
	p.Hurry()
}

// Hang is Watch with a place of the caller's, which hangs nowhere and then stays until Unhang, and without asking for a flush.
func (p *Partition) Hang(w *Watcher, x *Watch) {
	p.mu.Lock()
	defer p.mu.Unlock()
	x.w, x.p, x.at = w, p, len(p.mu.watches)
	p.mu.watches = append(p.mu.watches, x)
}

// Unhang ends what Hang began. It does nothing if x hangs nowhere.
func (x *Watch) Unhang() {
	p := x.p
	if p == nil {
		return
	}
	x.p = nil
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.mu.watches) - 1
	moved := p.mu.watches[last]
	p.mu.watches[x.at], moved.at = moved, x.at
	p.mu.watches[last] = nil
	p.mu.watches = p.mu.watches[:last]
}

// Hurry asks for a flush if there are records that wait only for one.
func (p *Partition) Hurry() {
	if log := p.log(); log != nil && p.settings.Load().log.FlushPolicy() {
		log.RequestFlush(log.End())
	}
}

// Stop ends what Partition.Watch began.
func (w *Watcher) Stop() {
	for _, x := range w.on {
		x.Unhang()
	}
	clear(w.on)
	w.on = w.on[:0]
}

// Waiting says whether the owner waits for records from now on. Look at News after it.
func (w *Watcher) Waiting(waits bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = waits
}

// News appends to dst the watches whose partitions had news since they were returned last, some of which may have
// been unhung meanwhile.
func (w *Watcher) News(dst []*Watch) []*Watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range w.ready {
		x.queued = false
	}
	dst = append(dst, w.ready...)
	clear(w.ready)
	w.ready = w.ready[:0]
	return dst
}

// tell notes news for the watcher and reports whether it waits. p.mu is held.
func (x *Watch) tell(wake bool) (waits bool) {
	w := x.w
	w.mu.Lock()
	defer w.mu.Unlock()
	if !x.queued {
		x.queued = true
		w.ready = append(w.ready, x)
	}
	if wake {
		select {
		case w.Wake <- struct{}{}:
		default:
		}
	}
	return w.waiting
}

// tellWatchers tells watchers of what ends no waiting, such as records that are not stable yet, and reports whether one waits.
func (p *Partition) tellWatchers() (waits bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.mu.watches {
		waits = x.tell(false) || waits
	}
	return waits
}

func (p *Partition) wakeWatchersLocked() {
	for _, x := range p.mu.watches {
		x.tell(true)
	}
}

// Watches is how many watches hang here.
func (p *Partition) Watches() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.mu.watches)
}
