package storage

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Recovery has to tell a write that the power cut off from bytes that have gone bad. Both look the same: a batch that is not
// whole, or whose CRC does not fit, and perhaps good batches behind it, for of what was not synced a power loss takes any subset
// of pages. What decides is whether the bytes were ever synced:
//
//   - Below the point recovery reads nothing, and so cuts nothing.
//   - Behind the point, up to the last flushed record, everything was synced. A bad batch there was acknowledged; cutting the log
//     in front of it would take it, and everything behind it, from whoever was promised it. It is damage: it stays where it is, is
//     known as other damage is (S14), recovery goes on behind it, and the log never ends below the flushed offset (S4).
//   - Behind that nobody has written down what was synced. The log is cut at the first bad batch, and what is behind it is set aside (S10).
//
// Flushed records are written flushedEvery after the first flush that they tell of, all of a log dir with one sync, and only for logs with a flush
// policy: the others are synced by points, which say so themselves. They cost nothing where nothing is written.

// flushedEvery is how old what the manifest says of a log that is being flushed may become.
const flushedEvery = time.Second

// noteFlushed has a flushed record written for l within about flushedEvery. It never waits for the disk.
func (d *Dir) noteFlushed(l *Log) {
	if l.noted.Swap(true) {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.flushed = append(d.mu.flushed, l)
	d.setAlarmLocked(&d.mu.noting, flushedEvery)
}

// saveFlushed writes the flushed records that are due, synced together.
func (d *Dir) saveFlushed() {
	d.mu.Lock()
	var logs []*Log
	if d.takeAlarmLocked(&d.mu.noting) {
		logs, d.mu.flushed = d.mu.flushed, nil
	}
	d.mu.Unlock()
	wrote := false
	for _, l := range logs {
		l.noted.Store(false)
		done, err := l.saveFlushed()
		if err != nil && !errors.Is(err, ErrClosed) {
			d.failed(err)
			return
		}
		wrote = wrote || done
	}
	if wrote {
		if err := d.manifest.sync(); err != nil && !errors.Is(err, ErrClosed) {
			d.failed(err)
		}
	}
}

// saveFlushed writes how far the log is flushed, if that is more than the point says. Truncation, which makes it less, is excluded by l.files.
func (l *Log) saveFlushed() (wrote bool, err error) {
	l.files.Lock()
	defer l.files.Unlock()
	at := l.Flushed()
	if e := l.dir.manifest.entry(l.key()); e == nil || !e.present || l.Err() != nil || at <= e.durable() {
		return false, nil
	}
	return true, l.dir.manifest.add(kindFlushed, l.key(), l.tp, varints(at), false)
}

// spoiled is the damage that begins at byte pos of segment i of v, where the batch at offset next should be and is not, because of why.
func (l *Log) spoiled(v *view, i int, pos, next int64, start scanStart, why error) (Damage, error) {
	s := v.segments[i]
	f, err := s.pin()
	if err != nil {
		return Damage{}, &ioError{err}
	}
	defer s.unpin()
	w := &walk{file: f, size: s.size.Load(), next: next, limit: math.MaxInt64, gaps: start.gaps, durable: start.durable}
	if i+1 < len(v.segments) {
		w.limit = v.segments[i+1].base
	}
	d := Damage{File: s.path(logSuffix), Pos: pos, First: next, Err: why}
	if d.End, d.Next, err = w.resync(pos); err != nil {
		return Damage{}, &ioError{err}
	}
	if d.Next == math.MaxInt64 {
		d.Next = start.durable // the end of the log: nobody knows of anything behind it
	}
	return d, nil
}

// missing is the damage behind the last byte of s, where the records from next up to before offset are not.
func missing(s *segment, next, offset int64) Damage {
	size := s.size.Load()
	return Damage{s.path(logSuffix), size, size, next, offset, fmt.Errorf("%w: records up to offset %d were durable", ErrMissing, offset-1)}
}

// addDamageLocked makes damage that recovery has met known. What recovery does next is to be durable before it counts: see closeDamagedLocked.
func (l *Log) addDamageLocked(s *segment, d Damage) {
	known := damages{}
	if p := s.damaged.Load(); p != nil {
		known = slices.Clone(*p)
	}
	known = append(known, d)
	s.damaged.Store(&known)
	l.tellDamage(&d)
}

// closeDamagedLocked begins a new segment if the last one is damaged: what is known of damage is known of closed segments, and a
// point in the new one keeps recovery from coming by again, when it might know less.
func (l *Log) closeDamagedLocked() error {
	v := l.view.Load()
	if n := len(v.segments); n == 0 || v.segments[n-1].damaged.Load() == nil {
		return nil
	}
	_, err := l.rollLocked(time.Now().UnixMilli())
	return err
}
