package storage

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// SetCommitted tells the log the high watermark: retention and compaction touch nothing at
// or above it, and the log start does not pass it. It only rises.
func (l *Log) SetCommitted(highWatermark int64) {
	for {
		old := l.committed.Load()
		if highWatermark <= old || l.committed.CompareAndSwap(old, highWatermark) {
			return
		}
	}
}

// RaiseStart makes offset the first offset that may be read, durably, before anybody can
// see it (S12). The bytes below go with their segments, when retention finds them. A start that is
// not behind the present one changes nothing. ErrOffsetRange if offset is behind what SetCommitted said.
func (l *Log) RaiseStart(offset int64) error {
	l.files.Lock()
	defer l.files.Unlock()
	return l.raiseStart(offset)
}

// raiseStart is RaiseStart with l.files held.
func (l *Log) raiseStart(offset int64) error {
	if offset <= l.Start() {
		return nil
	}
	if top := min(l.committed.Load(), l.End()); offset > top {
		return fmt.Errorf("%v: log start %d, the high watermark is %d: %w", l.tp, offset, top, ErrOffsetRange)
	}
	if err := l.Err(); err != nil {
		return err
	}
	if l.Flushed() < offset { // protection: a start is not ahead of the disk
		// A start behind the durable end would outlive the records that it stands on (S2).
		if err := l.flush(); err != nil {
			return err
		}
	}
	if err := l.dir.manifest.add(kindStart, l.key(), l.tp, varints(offset), true); err != nil { // protection: log start
		return l.dir.failed(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setStartLocked(l.view.Load().segments, offset)
	return nil
}

// setStartLocked publishes a view with another start; what is derived from records below it goes.
func (l *Log) setStartLocked(segments []*segment, start int64) {
	l.view.Store(&view{segments, start})
	l.dir.startsChanged.Store(true)
	if l.mu.epochs.cutHead(start) {
		l.mu.epochsGen++
	}
	// The transaction index goes by segment, as its files do.
	l.mu.aborted = slices.DeleteFunc(l.mu.aborted, func(a AbortedTxn) bool { return a.LastOffset < segments[0].base })
}

// writeCleaned writes Kafka's cleaner-offset-checkpoint.
func (d *Dir) writeCleaned() error {
	offsets := map[TopicPartition]int64{}
	compacted := map[partitionKey]bool{}
	for _, h := range d.held() {
		if h.Config().CleanupCompact {
			compacted[h.key()] = true
		}
	}
	d.manifest.each(func(key partitionKey, e *manifestEntry) {
		if dirty := e.cleaned().dirty; dirty > 0 && compacted[key] {
			offsets[e.tp] = dirty
		}
	})
	return writeAtomic(d.fs, d.path, cleanerFile, encodeOffsets(offsets))
}

// writeStarts writes Kafka's log-start-offset-checkpoint, if a log start has changed. The manifest is what counts here. A
// partition directory that nobody holds keeps what was said of it.
func (d *Dir) writeStarts() error {
	if !d.startsChanged.Swap(false) {
		return nil
	}
	starts := maps.Clone(d.starts)
	if starts == nil {
		starts = map[TopicPartition]int64{}
	}
	d.manifest.each(func(_ partitionKey, e *manifestEntry) {
		if e.point != nil {
			starts[e.tp] = e.start
		}
	})
	for _, l := range d.openLogs() {
		if v := l.view.Load(); len(v.segments) > 0 {
			starts[l.tp] = v.logStart
		}
	}
	return writeAtomic(d.fs, d.path, logStartFile, encodeOffsets(starts))
}

// openLogs are the open logs in no order.
func (d *Dir) openLogs() []*Log {
	d.mu.Lock()
	defer d.mu.Unlock()
	logs := make([]*Log, 0, len(d.mu.open))
	for _, h := range d.mu.open {
		logs = append(logs, h.log.Load())
	}
	return logs
}

// allLogs are the open logs in the order of their paths.
func (d *Dir) allLogs() []*Log {
	logs := d.openLogs()
	slices.SortFunc(logs, func(a, b *Log) int { return strings.Compare(a.path, b.path) })
	return logs
}
