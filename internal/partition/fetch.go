package partition

import (
	"fmt"

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
}

// Read plans a consumer's read below the high watermark, or below the last stable
// offset with ReadCommitted. An offset between the limit and the log end gives an empty
// plan and no error. Errors: storage.ErrOffsetRange and those of a partition that does not lead.
func (p *Partition) Read(o ReadOptions) (ReadResult, error) {
	if _, err := p.leads(o.CurrentEpoch); err != nil {
		return ReadResult{}, err
	}
	r := ReadResult{HighWatermark: p.HighWatermark(), LogStart: p.log.Start()}
	r.LastStable = p.log.LastStable(r.HighWatermark)
	if o.FetchedEpoch >= 0 {
		epoch, end := p.log.EndForEpoch(o.FetchedEpoch)
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
	plan, err := p.log.Read(o.Offset, limit, o.MaxBytes, o.MinOne)
	if err != nil {
		return r, err
	}
	r.Plan = plan
	if o.ReadCommitted && plan.Region.Len > 0 {
		r.Aborted = p.log.Aborted(o.Offset, limit)
	}
	return r, nil
}

// Watcher is a fetch that waits for records in any of several partitions. It belongs to
// one goroutine; Wake may be received from until Stop.
type Watcher struct {
	Wake chan struct{} // capacity 1
	on   []*Partition
}

// NewWatcher returns a watcher that watches nothing yet.
func NewWatcher() *Watcher { return &Watcher{Wake: make(chan struct{}, 1)} }

// Watch wakes w when the high watermark of p moves, its leadership changes, or it goes away. If there
// are records that wait only for a flush, the flush is asked for. Look at the partition again
// after Watch: what happened before is not signalled.
func (p *Partition) Watch(w *Watcher) {
	p.mu.Lock()
	if !p.mu.gone {
		p.mu.watchers[w] = struct{}{}
		w.on = append(w.on, p)
	}
	p.mu.Unlock()
	if p.log != nil {
		p.log.RequestFlush(p.log.End())
	}
}

// Stop ends the watch on all partitions.
func (w *Watcher) Stop() {
	for _, p := range w.on {
		p.mu.Lock()
		delete(p.mu.watchers, w)
		p.mu.Unlock()
	}
	w.on = w.on[:0]
}

func (p *Partition) watched() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.mu.watchers) > 0
}

func (p *Partition) wakeWatchersLocked() {
	for w := range p.mu.watchers {
		select {
		case w.Wake <- struct{}{}:
		default:
		}
	}
}
