package storage

import (
	"errors"
	"slices"
	"time"
)

// An open log costs some kilobytes, so not all stay open that were ever used. OpenLogs of a log dir do, however long nobody uses them. Of what
// is open beyond that the closer, a goroutine that is there only as long as so many are open, closes what nobody has used for one
// to two rounds. So a log in use is never closed, and one that was used once by somebody who looks at everything is closed soon.
//
// To close a log is to leave it as a stop does, and it comes back as after one:
//
//  1. While it goes on being used its files are written; the files of all that are to be closed are made durable by one sync.
//  2. If nobody uses it then, and it is as it was left, the manifest gets its rest, the owner is told, and the log is let go. No user waits for
//     more than this step.
//
// A log that has changed meanwhile, or that knows what is written nowhere (damage, why it cannot be compacted, clients that wait for cold
// bytes), stays open. The record of the rest is synced with those of the others that are closed, or
// when the log is opened again; until then a start after a crash looks at the log as at any other.
const (
	closePiece    = 1024 // logs that one sync is for
	closeTogether = 4    // whose files are written at the same time
	// Fewer logs than this share of OpenLogs are not worth a sync of the whole log dir.
	closeShare = 4
)

// hireCloserLocked sees to it that there is a closer if there may be something to close. d.mu is held.
func (d *Dir) hireCloserLocked() {
	if len(d.mu.open) > d.opts.OpenLogs && !d.mu.closing && !d.mu.closed {
		d.mu.closing = true
		d.wg.Add(1)
		go d.startClosing()
	}
}

// startClosing closes logs that are idle until few enough are open.
func (d *Dir) startClosing() {
	defer d.wg.Done()
	timer := time.NewTimer(d.opts.CloseRound)
	defer timer.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-timer.C:
		}
		if few := d.closeIdle(); few {
			return
		}
		timer.Reset(d.opts.CloseRound)
	}
}

// closeIdle is one round of the closer. It reports whether the closer is to end: so few logs are open.
func (d *Dir) closeIdle() (few bool) {
	d.cold.sweep(time.Now())
	d.mu.Lock()
	excess := len(d.mu.open) - d.opts.OpenLogs
	if excess <= 0 {
		d.mu.closing = false
		d.mu.Unlock()
		return true
	}
	open := slices.Clone(d.mu.open)
	d.mu.Unlock()
	idle := open[:0]
	for _, h := range open {
		if used := h.used.Swap(false); !used && len(idle) < excess && h.idle() {
			idle = append(idle, h)
		}
	}
	if len(idle) <= d.opts.OpenLogs/closeShare {
		return false
	}
	for len(idle) > 0 && d.offline() == nil {
		begun := time.Now()
		piece := idle[:min(len(idle), closePiece)]
		idle = idle[len(piece):]
		d.closeAll(piece)
		select {
		case <-d.stop:
			return false
		case <-time.After(time.Since(begun)): // half of the time is for others
		}
	}
	return false
}

// idle reports whether the log might be closed now.
func (h *Held) idle() bool {
	l := h.log.Load()
	return l != nil && h.users.Load() == openLog && l.scanned.Load() == 0 && l.Uncleanable() == nil && l.DamagedSegments() == 0
}

// closeAll closes those of the logs that can be closed, and returns how many that were.
func (d *Dir) closeAll(idle []*Held) (closed int) {
	held, logs := idle[:0:0], make([]*Log, 0, len(idle))
	for _, h := range idle {
		if l := h.log.Load(); l != nil {
			held, logs = append(held, h), append(logs, l)
		}
	}
	all, errs := d.leaveAll(logs, closeTogether, func(l *Log) (left, error) {
		before := l.Flushed()
		now, err := l.leave()
		l.tellFlushed(before, err)
		return now, err
	})
	for _, err := range errs {
		if !errors.Is(err, ErrClosed) && !errors.Is(err, ErrOffline) && !errors.Is(err, ErrNoSpace) {
			d.log.Warn("a log that nobody uses could not be closed; it stays open", "dir", d.path, "error", err)
		}
	}
	for i, h := range held {
		if all[i].view != nil && h.close(logs[i], all[i]) {
			closed++
		}
	}
	if closed > 0 {
		_ = d.manifest.sync() // so that who opens one again need not wait for it; he learns of a failure
	}
	return closed
}

// close closes the log if nobody uses it and it is still as it was left (S18).
func (h *Held) close(l *Log, now left) bool {
	h.opening.Lock()
	defer h.opening.Unlock()
	if h.ended || h.log.Load() != l || !h.idle() || !h.users.CompareAndSwap(openLog, 0) { // protection: a log in use stays open
		return false
	}
	l.files.Lock()
	defer l.files.Unlock()
	if !l.rest(now) {
		h.users.Add(openLog)
		return false
	}
	h.owner.Closing(l)
	l.refuse(ErrClosed)
	h.dir.mu.Lock()
	h.log.Store(nil)
	h.dir.forgetOpenLocked(h)
	h.dir.mu.Unlock()
	l.retire()
	return true
}

// rest has the manifest say that the log is at rest, if it is still as it was left. l.files is held.
func (l *Log) rest(now left) bool {
	l.mu.Lock()
	same := l.unchangedLocked(now) && l.writableLocked() == nil
	l.mu.Unlock()
	if !same || now.record == nil {
		return same
	}
	if err := l.dir.manifest.addRecords([][]byte{now.record}, false); err != nil {
		_ = l.dir.failed(err) // says so
		return false
	}
	return true
}

// forgetOpenLocked takes h out of the list of open logs, if it is there. d.mu is held.
func (d *Dir) forgetOpenLocked(h *Held) {
	if h.openAt == 0 {
		return
	}
	last := len(d.mu.open) - 1
	moved := d.mu.open[last]
	d.mu.open[h.openAt-1], moved.openAt = moved, h.openAt
	d.mu.open[last], h.openAt = nil, 0
	d.mu.open = d.mu.open[:last]
}

// letGo forgets a partition that is being deleted.
func (d *Dir) letGo(key partitionKey) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h := d.mu.logs[key]; h != nil {
		d.forgetOpenLocked(h)
		delete(d.mu.logs, key)
	}
}
