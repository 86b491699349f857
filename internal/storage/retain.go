package storage

import (
	"errors"
	"io/fs"
	"slices"
	"time"
)

// retain lets go of the oldest segments that the log's configuration does not keep: those
// below the log start, and with cleanup.policy=delete those that are too old or too many. A last
// segment that has expired is rolled first, so that the log keeps its end. It returns the bytes that went.
func (l *Log) retain(nowMs int64) (bytes int64, err error) {
	l.files.Lock()
	defer l.files.Unlock()
	if err := l.Err(); err != nil {
		return 0, err
	}
	n, err := l.expired(nowMs)
	if err != nil || n == 0 {
		return 0, err
	}
	// The point in force must name a segment that stays, and what waits to be written for a segment must not
	// be written behind it.
	full := l.savePointFiles()
	if full != nil && !errors.Is(full, ErrNoSpace) {
		return 0, full
	}
	v := l.view.Load()
	gone, start := v.segments[:n], v.segments[n].base
	if full == nil {
		full = l.raiseStart(start) // protection: start before deletion
	}
	switch {
	case full == nil:
	case errors.Is(full, ErrNoSpace) && l.pointSegment >= start && l.Flushed() >= start:
		return l.makeRoom(gone)
	default:
		return 0, full
	}
	for _, s := range gone {
		bytes += s.size.Load()
	}
	l.drop(gone)
	return bytes, l.doom(gone, -1)
}

// expired is the number of segments, from the oldest, that may go. At least one segment stays
// behind them.
func (l *Log) expired(nowMs int64) (n int, err error) {
	v, cfg := l.view.Load(), l.Config()
	if len(v.segments) == 0 {
		return 0, nil
	}
	excess := l.SizeBytes() - cfg.RetentionBytes
	top := l.committed.Load()
	for n < len(v.segments)-1 {
		s, next := v.segments[n], v.segments[n+1].base
		old, err := l.tooOld(s, cfg, nowMs)
		if err != nil {
			return 0, err
		}
		size := s.size.Load()
		large := cfg.CleanupDelete && cfg.RetentionBytes >= 0 && excess >= size
		if next > top || !old && !large && next > v.logStart { // protection: nothing above the high watermark goes
			return n, nil
		}
		excess -= size
		n++
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s := v.segments[n]
	if l.view.Load() != v || s.size.Load() == 0 || l.End() > top {
		return n, nil
	}
	old, err := l.tooOld(s, cfg, nowMs)
	if err != nil {
		return n, err
	}
	if old || cfg.CleanupDelete && cfg.RetentionBytes >= 0 && excess >= s.size.Load() {
		if _, err := l.rollLocked(nowMs); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

// tooOld goes by the newest record of the segment, as Kafka does, but by the time of the last append where that
// is earlier: a record from the future must not keep its segment until then.
func (l *Log) tooOld(s *segment, cfg LogConfig, nowMs int64) (bool, error) {
	if !cfg.CleanupDelete || cfg.RetentionAge < 0 {
		return false, nil
	}
	ts, err := s.newest()
	if err != nil {
		return false, err
	}
	return nowMs-s.since(ts) > cfg.RetentionAge.Milliseconds(), nil
}

// since is the time from which on retention counts, where newestMs is the segment's largest timestamp.
func (s *segment) since(newestMs int64) int64 {
	if appended := s.appendedMs.Load(); newestMs < 0 || newestMs > appended {
		return appended
	}
	return newestMs
}

// drop takes segments, the oldest ones, out of the view; reads of them that have begun finish (S8).
func (l *Log) drop(gone []*segment) {
	l.mu.Lock()
	v := l.view.Load()
	l.setStartLocked(slices.Clone(v.segments[len(gone):]), v.logStart)
	for i := range l.mu.seals {
		if slices.Contains(gone, l.mu.seals[i].seg) {
			l.mu.seals[i].gone = true
		}
	}
	l.mu.Unlock()
	for _, s := range gone {
		s.retire()
	}
}

// makeRoom removes segments of a full volume, where nothing can be written down first: their
// names go for good, the oldest first, and only then the log start rises, which is where the first
// segment begins.
func (l *Log) makeRoom(gone []*segment) (bytes int64, err error) {
	for i, s := range gone {
		if _, err := s.pin(); err != nil { // for those who read it until it is out of the view
			return bytes, err
		}
		defer s.unpin()
		// The batches go first: without its transaction index a segment would show what was aborted.
		err := errors.Join(l.dir.fs.Remove(s.path(logSuffix)), l.dir.fs.SyncDir(l.path))
		if err == nil {
			err = errors.Join(l.removeFiles(s), l.dir.fs.SyncDir(l.path))
		}
		if err != nil {
			return bytes, l.dir.fence(err)
		}
		l.mu.Lock()
		v := l.view.Load()
		l.setStartLocked(v.segments, max(v.logStart, v.segments[1].base))
		l.mu.Unlock()
		l.drop(gone[i : i+1])
		bytes += s.size.Load()
	}
	return bytes, nil
}

// removeFiles removes a segment's files at once.
func (l *Log) removeFiles(s *segment) error {
	for _, suffix := range segmentSuffixes {
		if !exists(l.dir.fs, s.path(suffix)) {
			continue
		}
		if err := l.dir.fs.Remove(s.path(suffix)); err != nil {
			return err
		}
	}
	return nil
}

// doom renames the files of segments that are out of the view, the oldest first; they are removed
// after file.delete.delay.ms, or at the next start. The snapshot at keepSnapshot stays: another segment begins there.
func (l *Log) doom(gone []*segment, keepSnapshot int64) error {
	at := time.Now().Add(l.Config().FileDeleteDelay)
	for _, s := range gone {
		for _, suffix := range segmentSuffixes {
			if suffix == snapshotSuffix && s.base == keepSnapshot || !exists(l.dir.fs, s.path(suffix)) {
				continue
			}
			if err := l.dir.doom(s.path(suffix), at); err != nil {
				return l.dir.failed(err)
			}
		}
	}
	return nil
}

// doomed is a file that waits for its removal.
type doomed struct {
	name string
	at   time.Time
}

// doom marks a file as deleted by Kafka's suffix and has it removed at the given time. Where there
// is no room for the new name it is removed at once.
func (d *Dir) doom(name string, at time.Time) error {
	to := name + deletedSuffix
	if err := d.fs.Rename(name, to); err != nil {
		if d.failed(err); d.offline() == nil {
			return d.fs.Remove(name)
		}
		return err
	}
	d.mu.Lock()
	d.mu.doomed = append(d.mu.doomed, doomed{to, at})
	d.mu.Unlock()
	d.housekeeper.poke()
	return nil
}

// removeDoomed removes the files whose time has come and returns when the next one is due; zero if there is none.
func (d *Dir) removeDoomed(now time.Time) (next time.Time) {
	d.mu.Lock()
	var due []doomed
	full := d.room.full.Load() // then nothing waits: who reads such a file has it open
	d.mu.doomed = slices.DeleteFunc(d.mu.doomed, func(f doomed) bool {
		if f.at.After(now) && !full {
			if next.IsZero() || f.at.Before(next) {
				next = f.at
			}
			return false
		}
		due = append(due, f)
		return true
	})
	d.mu.Unlock()
	for _, f := range due {
		if _, err := d.fs.Stat(f.name); err != nil {
			continue // gone with its directory
		}
		if err := d.fs.Remove(f.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			d.log.Warn("file of a deleted segment could not be removed; it is removed at the next start", "file", f.name, "error", err)
		}
	}
	return next
}
