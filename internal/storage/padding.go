package storage

import "fmt"

// A segment that is large already gets zeros behind the batches of an append, up to a multiple of PadBytes, which the next batches overwrite. The
// page cache has its pages in pieces as large as the write that made them, and as their place in the file allows: batches of 16 KiB at any byte
// make pieces of 4 to 8 KiB. With zeros they come 64 KiB at a time, at half the processor time, for readers and write-back too. Behind the log end
// zeros are what a lost write is: they do not count, recovery cuts them off without a word, and so do a roll and a stop.
//
// Whoever else reads the file of a log at rest, Kafka's tools or a backup, is to find the last batch at its end (S19). So a log joins Dir.mu.excess
// when its file first gets bytes behind the log end. The goroutine of points makes rounds as long as there are such logs, and cuts off what is behind the
// end of those that were not appended to since the round before. That takes Log.mu for a change of the file's size, as a roll does. It is not synced: what
// a power loss brings back recovery cuts off. But it is before a segment that follows counts, also where a kill came between (Log.settle). A log
// that is appended to costs a round one look at its end; its appends look at Log.mu.excess where they write zeros.

// The defaults of Options.PadFrom and Options.PadBytes.
const (
	padFromBytes = 1 << 20
	padToBytes   = 64 << 10
)

// Padding reports whether zeros from byte end to the end of a segment's file of size bytes are what an append leaves there for the next one.
func Padding(end, size int64) bool {
	return end >= padFromBytes && size-end < padToBytes && size%padToBytes == 0
}

// padLocked is what is written behind batches that come now and end at byte end of seg.
func (l *Log) padLocked(seg *segment, end, nowMs int64) []byte {
	unit := l.dir.opts.PadBytes
	if unit <= 0 || end < l.dir.opts.PadFrom || end <= seg.padded || seg.torn { // where a write has failed there may be no room for zeros
		return nil
	}
	if nowMs-seg.appendedMs.Load() > l.dir.opts.QuietRound.Milliseconds() {
		return nil // appends are so rare that the zeros would be cut off before the next one
	}
	return l.dir.zeros[:(end+unit-1)/unit*unit-end]
}

// excess reports whether the file may have bytes behind the last batch; Log.mu is held.
func (s *segment) excess() bool { return s.torn || s.padded > s.size.Load() }

// mendLocked cuts off the zeros behind the last batch and what a failed write left there: whoever reads the file would take it for the end of the log.
func (l *Log) mendLocked(seg *segment) error {
	if !seg.excess() {
		return nil
	}
	f, err := seg.pin()
	if err != nil {
		return l.dir.failed(err)
	}
	defer seg.unpin()
	size := seg.size.Load()
	if end := l.end.Load(); end.seg == seg && size < end.pos {
		panic(fmt.Sprintf("BUG: %v: byte %d is the log end, and what is behind byte %d is to be cut off", l.tp, end.pos, size))
	}
	if err := f.Truncate(size); err != nil { // protection: torn tail
		return l.dir.failed(err)
	}
	seg.torn, seg.padded, seg.dirty = false, 0, true
	return nil
}

// excessLog is a log whose last file may have bytes behind the log end.
type excessLog struct {
	log *Log
	end int64 // log end that the last round saw, -1 before the first
}

// noteExcessLocked has the rounds look at the log. l.mu is held.
func (l *Log) noteExcessLocked() {
	if l.mu.excess {
		return
	}
	l.mu.excess = true
	d := l.dir
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.excess = append(d.mu.excess, excessLog{l, -1})
	d.setAlarmLocked(&d.mu.cutting, d.opts.QuietRound)
}

// cutExcess makes a round if one is due. Called by the goroutine of points only.
func (d *Dir) cutExcess() {
	d.mu.Lock()
	var logs []excessLog
	if d.takeAlarmLocked(&d.mu.cutting) {
		logs, d.mu.excess = d.mu.excess, nil
	}
	d.mu.Unlock()
	if len(logs) == 0 {
		return
	}
	stay := logs[:0]
	for _, x := range logs {
		if end, again := x.log.cutExcess(x.end); again {
			stay = append(stay, excessLog{x.log, end})
		}
	}
	clear(logs[len(stay):])
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.excess = append(stay, d.mu.excess...); len(d.mu.excess) > 0 {
		d.setAlarmLocked(&d.mu.cutting, d.opts.QuietRound)
	}
}

// cutExcess cuts off what is behind the log end, if that is where the round before has seen it. It returns the log end, and whether the next round is to
// come by: the log is appended to, or there was no room for the change. A log that is closed or deleted, or whose log dir is offline, is left alone.
func (l *Log) cutExcess(seen int64) (end int64, again bool) {
	if end := l.End(); end != seen {
		return end, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if end := l.End(); end != seen {
		return end, true // an append was faster
	}
	l.mu.excess = false
	if l.writableLocked() != nil { // protection: nothing is cut off a log that is closed
		return seen, false
	}
	segments := l.view.Load().segments
	if err := l.mendLocked(segments[len(segments)-1]); err != nil { // the log dir has told it
		l.mu.excess = true
	}
	return seen, l.mu.excess
}
