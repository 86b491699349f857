package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

// claimDirectory reports whether the partition's directory is there. One that belongs to
// another life of the topic is set aside under Kafka's name for a stray (S10).
func (l *Log) claimDirectory() (bool, error) {
	d := l.dir
	if _, err := d.fs.Stat(l.path); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	id, err := readTopicID(d.fs, l.path)
	if err != nil {
		return false, err
	}
	if id == l.id { // protection: another topic's directory
		return true, nil
	}
	if id.IsZero() {
		// No partition.metadata: a crash in the first append, before anything counted.
		infos, err := d.fs.ReadDir(l.path)
		if err != nil {
			return false, err
		}
		if !slices.ContainsFunc(infos, func(i vfs.Info) bool { return strings.HasSuffix(i.Name, logSuffix) }) {
			return true, nil
		}
	}
	d.forgetNames()
	to, err := d.freeName(fmt.Sprintf("%s.%x-stray", l.path, id[:]))
	if err != nil {
		return false, err
	}
	if err := errors.Join(d.fs.Rename(l.path, to), d.fs.SyncDir(d.path)); err != nil {
		return false, err
	}
	d.log.Warn("partition directory belongs to another topic of the same name and was set aside",
		"dir", l.path, "topicId", id.String(), "movedTo", to)
	return false, nil
}

// load reads the directory. entry is what the manifest says of the log, or nil. Only Held.open
// calls it, before anybody else knows the log; it takes mu for the sake of its callees.
func (l *Log) load(entry *manifestEntry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	recorded := entry != nil
	l.mu.present = recorded
	var from *point
	logStart := l.dir.starts[l.tp]
	if recorded {
		from, _ = entry.decode()
		logStart = entry.start
		l.setCleanedLocked(entry.cleaned())
	}
	infos, err := l.dir.fs.ReadDir(l.path)
	if err == nil {
		infos, err = l.finishSwaps(infos)
	}
	if err == nil {
		err = l.removeMarked(infos)
	}
	if err != nil {
		return err
	}
	segments, err := l.listSegments(infos)
	if err != nil || len(segments) == 0 {
		if err == nil && recorded && entry.durable() > 0 {
			err = &CorruptionError{l.path, 0, fmt.Errorf("%w: all segments, and everything below offset %d was durable", ErrMissing, entry.durable())}
		}
		return err
	}
	if recorded && from == nil && segments[0].base > 0 && entry.durable() > 0 {
		return &CorruptionError{path.Join(l.path, segmentFile(0, logSuffix)), 0, fmt.Errorf("%w: everything below offset %d was durable", ErrMissing, entry.durable())}
	}
	if recorded && from == nil && segments[0].base > 0 {
		// The name of the first segment was lost with the power, so nothing was flushed.
		return l.setAsideAll(segments)
	}
	start, err := l.startOfScan(segments, from)
	if err != nil {
		return err
	}
	if recorded {
		start.durable, start.exact = entry.durable(), true
	} else {
		start.durable = l.dir.legacy[l.tp] // Kafka may have cut its log since, so it need not be there
	}
	if from != nil {
		if segments, err = l.finishRetention(segments, min(logStart, from.segment)); err != nil {
			return err
		}
		start.index = slices.IndexFunc(segments, func(s *segment) bool { return s.base == from.segment })
	}
	v := &view{segments: segments, logStart: max(segments[0].base, logStart)}
	l.view.Store(v)
	var aborted []AbortedTxn
	for _, s := range segments[:start.index] {
		entries, err := loadTxnIndex(l.dir.fs, l.path, s.base, -1)
		if err != nil {
			return err
		}
		aborted = append(aborted, entries...)
	}
	l.mu.aborted = append(aborted, l.mu.aborted...)
	if err := l.scan(start); err != nil {
		return err
	}
	scanned := len(l.view.Load().segments)
	if err := l.closeDamagedLocked(); err != nil {
		return err
	}
	made := len(l.view.Load().segments) > scanned
	if v := l.view.Load(); v.logStart > l.End() && !recorded {
		l.view.Store(&view{v.segments, l.End()}) // Kafka's own start, of records that it lost
	} else if v.logStart > l.End() {
		return &CorruptionError{l.path, 0, fmt.Errorf("%w: the log ends at offset %d and begins at %d", ErrMissing, l.End(), v.logStart)}
	}
	if l.mu.epochs.cutHead(l.Start()) {
		l.mu.epochsGen++
	}
	dropped, err := l.dropSnapshots(infos)
	if err != nil {
		return err
	}
	l.noteSnapshots(infos)
	if err := l.settle(start, from != nil, dropped || made); err != nil {
		return err
	}
	if recorded && entry.resting && len(l.mu.seals) == 0 && l.End() == start.offset && slices.Contains(l.endSnapshots, l.End()) {
		// Segments below the log start were removed by now: then the manifest says too much.
		if _, r := entry.decode(); r != nil && r.segments == int64(len(l.view.Load().segments)) {
			l.rested, l.restedEnd = l.view.Load(), l.End()
		}
	}
	return nil
}

// noteSnapshots remembers the snapshots that a stop may have left: those at which no segment but the last begins.
func (l *Log) noteSnapshots(infos []vfs.Info) {
	v := l.view.Load()
	for _, info := range infos {
		digits, ok := strings.CutSuffix(info.Name, snapshotSuffix)
		if offset, err := strconv.ParseInt(digits, 10, 64); ok && err == nil && offset <= l.End() {
			if i := v.find(offset); offset == l.End() || i >= 0 && v.segments[i].base != offset {
				l.endSnapshots = append(l.endSnapshots, offset)
			}
		}
	}
}

// dropSnapshots removes producer snapshots behind the log end: they are of records that are gone, and when
// a segment begins at the same offset again they would be taken for its.
func (l *Log) dropSnapshots(infos []vfs.Info) (dropped bool, err error) {
	for _, info := range infos {
		digits, ok := strings.CutSuffix(info.Name, snapshotSuffix)
		if offset, err := strconv.ParseInt(digits, 10, 64); !ok || err != nil || offset <= l.End() {
			continue
		}
		if name := path.Join(l.path, info.Name); exists(l.dir.fs, name) {
			if err := l.dir.fs.Remove(name); err != nil { // protection: stale snapshots
				return dropped, err
			}
			dropped = true
		}
	}
	return dropped, nil
}

// finishRetention removes the segments that end at or below offset: the log start was raised, and some of
// their names may have gone already.
func (l *Log) finishRetention(segments []*segment, offset int64) ([]*segment, error) {
	for len(segments) > 1 && segments[1].base <= offset {
		if err := l.removeFiles(segments[0]); err != nil {
			return nil, err
		}
		segments = segments[1:]
	}
	return segments, nil
}

// removeMarked removes the files of deleted segments that a stop left.
func (l *Log) removeMarked(infos []vfs.Info) error {
	for _, info := range infos {
		if strings.HasSuffix(info.Name, deletedSuffix) && !info.IsDir {
			if err := l.dir.fs.Remove(path.Join(l.path, info.Name)); err != nil && !errors.Is(err, fs.ErrNotExist) { // its time may have come just now
				return err
			}
		}
	}
	return nil
}

// listSegments builds the segments from the .log files, ascending.
func (l *Log) listSegments(infos []vfs.Info) ([]*segment, error) {
	var out []*segment
	for _, info := range infos {
		name, ok := strings.CutSuffix(info.Name, logSuffix)
		if !ok || len(name) != 20 || info.IsDir {
			continue
		}
		base, err := strconv.ParseInt(name, 10, 64)
		if err != nil || base < 0 {
			continue
		}
		s := l.dir.newSegment(l.path, base)
		s.size.Store(info.Size)
		s.createdMs = info.ModTime.UnixMilli()
		s.appendedMs.Store(s.createdMs)
		s.named = true
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *segment) int { return int(min(1, max(-1, a.base-b.base))) })
	return out, nil
}

// scanStart is where recovery begins to read batches.
type scanStart struct {
	index  int   // of the segment
	pos    int64 // in that segment
	offset int64 // of the batch at pos
	gaps   int64 // below it offsets may be missing, which only compaction does; from there on a gap is a loss
	// durable is the offset below which everything was synced, as far as anybody wrote that down: what is bad there is damage and
	// is not cut off. Behind it a power loss takes any page, so that good batches behind a bad one prove nothing. exact says that all of it must be there.
	durable int64
	exact   bool
}

// startOfScan restores the state at the place where the scan begins: from the point,
// or, without one, from Kafka's own recovery point and producer snapshot.
func (l *Log) startOfScan(segments []*segment, from *point) (scanStart, error) {
	if from == nil {
		return l.legacyStart(segments)
	}
	i := slices.IndexFunc(segments, func(s *segment) bool { return s.base == from.segment })
	if i < 0 {
		return scanStart{}, &CorruptionError{path.Join(l.path, segmentFile(from.segment, logSuffix)), 0, ErrMissing}
	}
	s := segments[i]
	if size := s.size.Load(); size < from.pos { // protection: lost bytes are told
		return scanStart{}, &CorruptionError{s.path(logSuffix), size,
			fmt.Errorf("%w: %d bytes were durable", ErrMissing, from.pos)}
	}
	s.firstTsMs, s.createdMs = from.firstTsMs, from.createdMs
	l.pointSegment = from.segment
	start := scanStart{index: i, pos: from.pos, offset: from.offset, gaps: l.mu.cleaned.gaps}
	l.mu.epochs.entries = slices.Clone(from.epochs)
	r := &reader{p: from.producers}
	l.mu.producers = decodeProducers(r)
	if r.err != nil {
		return scanStart{}, fmt.Errorf("producer state of the point at offset %d: %w", from.offset, r.err)
	}
	if err := l.restoreIndex(s, from); err != nil {
		l.dir.log.Warn("index of the active segment does not fit its point and is made anew from the segment",
			"file", s.path(indexSuffix), "error", err)
		s.idx.sparse, s.idx.sinceBytes, s.idx.maxTsMs = &sparse{}, 0, -1
		if err := s.indexInto(s, from.pos, l.mu.cfg.IndexIntervalBytes); err != nil {
			return scanStart{}, err
		}
	}
	entries, err := loadTxnIndex(l.dir.fs, l.path, s.base, from.txnsLen)
	if err != nil {
		return scanStart{}, err
	}
	l.mu.aborted = entries
	return start, nil
}

// restoreIndex loads the active segment's index as it was at the point.
func (l *Log) restoreIndex(s *segment, from *point) error {
	s.idx.sparse = &sparse{}
	offsets, _, err := readFile(l.dir.fs, s.path(indexSuffix), indexMaxBytes)
	if err != nil {
		return err
	}
	times, _, err := readFile(l.dir.fs, s.path(timeSuffix), indexMaxBytes)
	if err != nil {
		return err
	}
	wantOffsets, wantTimes := from.offsetsLen*offsetEntryBytes, from.timesLen*timeEntryBytes
	if int64(len(offsets)) < wantOffsets || int64(len(times)) < wantTimes {
		return fmt.Errorf("%w: it is shorter than it was", ErrMissing)
	}
	if err := s.idx.sparse.parseOffsets(offsets[:wantOffsets], max(from.pos, 1)); err != nil {
		return err
	}
	if err := s.idx.sparse.parseTimes(times[:wantTimes]); err != nil {
		return err
	}
	if len(s.idx.sparse.offsets) != int(from.offsetsLen) || len(s.idx.sparse.times) != int(from.timesLen) {
		return errors.New("it has fewer entries than it had")
	}
	s.saved.offsets, s.saved.times = int(from.offsetsLen), int(from.timesLen)
	s.idx.sinceBytes, s.idx.maxTsMs, s.idx.maxTsOffset = from.sinceIndex, from.maxTsMs, from.maxTsOffset
	return nil
}

// legacyStart finds the segment that Kafka's recovery point is in, and the state at
// its base.
func (l *Log) legacyStart(segments []*segment) (scanStart, error) {
	last := max((&view{segments: segments}).find(l.dir.legacy[l.tp]), 0)
	if l.mu.present {
		// Our own log before its first point: short, and a snapshot knows only one batch per producer (S6).
		return scanStart{offset: segments[0].base, gaps: l.mu.cleaned.gaps}, nil
	}
	i, ps, err := l.snapshotBefore(segments, last)
	if err != nil {
		return scanStart{}, err
	}
	l.mu.producers = ps
	name := path.Join(l.path, epochsFile)
	text, found, err := readFile(l.dir.fs, name, 1<<28)
	if err != nil {
		return scanStart{}, err
	}
	if found {
		entries, err := parseEpochs(string(text))
		if err != nil {
			l.dir.log.Warn("leader epochs cannot be read; they are derived from the batches that recovery reads", "file", name, "error", err)
		}
		l.mu.epochs.entries = entries
		l.mu.epochs.cut(segments[i].base)
	}
	return scanStart{index: i, offset: segments[i].base, gaps: math.MaxInt64}, nil
}

// snapshotBefore goes back from segment i to one at whose base the producer state is
// known: one with a snapshot, or the first.
func (l *Log) snapshotBefore(segments []*segment, i int) (int, *producers, error) {
	for ; i >= 0 && segments[i].base > 0; i-- {
		name := path.Join(l.path, segmentFile(segments[i].base, snapshotSuffix))
		data, found, err := readFile(l.dir.fs, name, 1<<30)
		if err != nil {
			return 0, nil, err
		}
		if !found {
			continue
		}
		ps, err := parseSnapshot(data, time.Now().UnixMilli())
		if err == nil {
			return i, ps, nil
		}
		l.dir.log.Warn("producer snapshot cannot be read; an older one is taken", "file", name, "error", err)
	}
	return 0, newProducers(), nil
}

// scan reads every batch from start on, folds the good ones into the state and cuts the
// log at the first one that is not: torn by a crash, or never meant to be there. What was durable and is bad stays (durable.go).
func (l *Log) scan(start scanStart) error {
	v := l.view.Load()
	next := start.offset
	for i := start.index; i < len(v.segments); i++ {
		s := v.segments[i]
		pos := int64(0)
		if i == start.index {
			pos = start.pos
		} else if s.base < next || s.base > next && s.base >= start.gaps {
			why := fmt.Errorf("the segment begins at offset %d, the one before ends at %d", s.base, next)
			switch {
			case next >= start.durable && s.base >= start.durable:
				return l.cutAt(start, i, 0, next, why)
			case s.base < next:
				return &CorruptionError{s.path(logSuffix), 0, why}
			}
			l.addDamageLocked(v.segments[i-1], missing(v.segments[i-1], next, s.base))
		}
		if i > start.index {
			next = s.base
		}
		if s.idx.sparse == nil {
			s.idx.sparse = &sparse{}
		}
		for {
			end, good, err := l.scanSegment(v, i, pos, next, start)
			if next = end; err == nil {
				break
			}
			if errors.As(err, new(*ioError)) {
				return err
			}
			if end >= start.durable { // protection: durable bytes are not cut
				return l.cutAt(start, i, good, end, err)
			}
			d, err := l.spoiled(v, i, good, end, start, err)
			if err != nil {
				return err
			}
			l.addDamageLocked(s, d)
			pos, next = d.End, d.Next
		}
		if i+1 < len(v.segments) {
			s.finishIndex()
			l.mu.seals = append(l.mu.seals, sealing{seg: s, next: next, snapshot: l.mu.producers.snapshot()})
		}
	}
	if last := v.segments[len(v.segments)-1]; next < start.durable && start.exact {
		l.addDamageLocked(last, missing(last, next, start.durable))
		next = start.durable
	}
	l.setEnd(next)
	return nil
}

// ioError is a failure of the disk during recovery, as opposed to bytes that are wrong.
type ioError struct{ err error }

func (e *ioError) Error() string { return e.err.Error() }
func (e *ioError) Unwrap() error { return e.err }

// scanSegment folds the batches from pos on. It returns the offset behind the last good
// batch and the byte position there; err says why it stopped before the end.
func (l *Log) scanSegment(v *view, i int, pos, next int64, start scanStart) (end, good int64, err error) {
	s := v.segments[i]
	file, err := s.pin()
	if err != nil {
		return next, pos, &ioError{err}
	}
	defer s.unpin()
	sc := scanner{file: file, pos: pos, end: s.size.Load()}
	nowMs := time.Now().UnixMilli()
	for {
		h, err := sc.header()
		if errors.Is(err, io.EOF) {
			return next, sc.pos, nil
		}
		var b record.Batch
		if err == nil {
			b, err = sc.batch(h)
		}
		if err == nil {
			err = b.CheckCRC() // protection: recovery CRC
		}
		if err == nil {
			err = l.follows(b, next, start.gaps)
		}
		if err == nil && b.LeaderEpoch() > l.mu.epochs.latest() {
			err = l.epochStays(v, i, b, sc.pos)
		}
		if err != nil {
			if !isContent(err) {
				err = &ioError{fmt.Errorf("%s: %w", s.path(logSuffix), err)}
			}
			return next, sc.pos, err
		}
		l.foldBatchLocked(s, b, sc.pos, nowMs)
		s.dirty = true
		next = b.NextOffset()
		sc.pos += int64(b.Size())
	}
}

// isContent says that the bytes are wrong rather than that they could not be read.
func isContent(err error) bool {
	return errors.Is(err, record.ErrShort) || errors.Is(err, record.ErrCorrupt) || errors.Is(err, record.ErrMagic) ||
		errors.Is(err, errSequence) || errors.Is(err, io.ErrUnexpectedEOF)
}

var errSequence = errors.New("the batch does not follow the one before")

// follows says whether b may stand behind the batch that ended before next: offsets
// grow, leader epochs do not fall (S5). Stale bytes of an earlier life fail here.
func (l *Log) follows(b record.Batch, next, gaps int64) error {
	if b.BaseOffset() < next || b.BaseOffset() > next && b.BaseOffset() >= gaps || b.LastOffset() < b.BaseOffset() {
		return fmt.Errorf("offsets %d to %d after %d: %w", b.BaseOffset(), b.LastOffset(), next, errSequence)
	}
	if last := l.mu.epochs.latest(); b.LeaderEpoch() < last {
		return fmt.Errorf("leader epoch %d after %d: %w", b.LeaderEpoch(), last, errSequence)
	}
	return nil
}

// epochStays says that the leader epoch that begins with the batch b, at pos of segment i, is not taken back by the batch behind it. No CRC
// covers an epoch, and one that is too high would make all that follows look wrong.
func (l *Log) epochStays(v *view, i int, b record.Batch, pos int64) error {
	if pos += int64(b.Size()); pos == v.segments[i].size.Load() {
		if i, pos = i+1, 0; i == len(v.segments) {
			return nil
		}
	}
	f, err := v.segments[i].pin()
	if err != nil {
		return &ioError{err}
	}
	defer v.segments[i].unpin()
	behind := scanner{file: f, pos: pos, end: v.segments[i].size.Load()}
	h, err := behind.header()
	if err == nil && h.BaseOffset() >= b.NextOffset() && h.LeaderEpoch() < b.LeaderEpoch() && h.LeaderEpoch() >= l.mu.epochs.latest() {
		return fmt.Errorf("leader epoch %d before %d: %w", b.LeaderEpoch(), h.LeaderEpoch(), errSequence)
	}
	return nil
}

// cutAt ends the log at byte good of segment i. What is behind it goes into the
// quarantine unless it is all zeros, which a file system leaves of a write that was lost.
func (l *Log) cutAt(start scanStart, i int, good, next int64, why error) error {
	v := l.view.Load()
	s := v.segments[i]
	kept := v.segments[:i+1]
	if good == 0 && i > start.index {
		kept = v.segments[:i] // nothing of this segment counts, and no point names it
	}
	moved, err := l.setAsideTail(s, good)
	if err != nil {
		return err
	}
	for j, other := range v.segments {
		if j <= i && j < len(kept) {
			continue
		}
		to, err := l.dir.setAside(other.path(logSuffix), l.tp.String()+"."+segmentFile(other.base, logSuffix))
		if err != nil {
			return err
		}
		moved = append(moved, to)
	}
	l.view.Store(&view{slices.Clone(kept), v.logStart})
	active := kept[len(kept)-1]
	l.mu.seals = slices.DeleteFunc(l.mu.seals, func(s sealing) bool { return s.seg == active })
	level := slog.LevelWarn
	if len(moved) == 0 {
		level = slog.LevelDebug // zeros, as a segment that is written has them behind its batches
	}
	l.dir.log.Log(context.Background(), level, "log ends before its file does: the rest was not durable or is damaged, and was set aside",
		"partition", l.tp.String(), "file", s.path(logSuffix), "pos", good, "logEndOffset", next, "reason", why.Error(), "movedTo", moved)
	l.setEnd(next)
	return nil
}

// setAsideAll leaves an empty log.
func (l *Log) setAsideAll(segments []*segment) error {
	for _, s := range segments {
		to, err := l.dir.setAside(s.path(logSuffix), l.tp.String()+"."+segmentFile(s.base, logSuffix))
		if err != nil {
			return err
		}
		l.dir.log.Warn("segment without the one before it was set aside: nothing in it was durable",
			"partition", l.tp.String(), "file", s.path(logSuffix), "movedTo", to)
	}
	return nil
}

// setAsideTail copies the bytes from pos on into the quarantine and cuts the file there.
func (l *Log) setAsideTail(s *segment, pos int64) (moved []string, err error) {
	f, err := s.pin()
	if err != nil {
		return nil, err
	}
	defer s.unpin()
	size := s.size.Load()
	zero, err := allZero(f, pos, size)
	if err != nil {
		return nil, err
	}
	if !zero {
		dir := path.Join(l.dir.opts.MetaDir, "quarantine")
		if err := vfs.MkdirAllSync(l.dir.fs, dir); err != nil {
			return nil, err
		}
		to, err := l.dir.freeName(path.Join(dir, fmt.Sprintf("%v.%s.from-byte-%d", l.tp, segmentFile(s.base, logSuffix), pos)))
		if err != nil {
			return nil, err
		}
		if err := copyRange(l.dir.fs, f, pos, size, to); err != nil {
			return nil, err
		}
		moved = append(moved, to)
	}
	if err := f.Truncate(pos); err != nil {
		return nil, err
	}
	s.size.Store(pos)
	s.dirty = true
	return moved, f.Sync()
}

func allZero(f vfs.File, pos, end int64) (bool, error) {
	buf := make([]byte, min(scanChunkBytes, max(end-pos, 0)))
	for pos < end {
		n, err := f.ReadAt(buf[:min(int64(len(buf)), end-pos)], pos)
		if n == 0 && err != nil {
			return false, err
		}
		if len(bytes.TrimLeft(buf[:n], "\x00")) > 0 {
			return false, nil
		}
		pos += int64(n)
	}
	return true, nil
}

func copyRange(fsys vfs.FS, from vfs.File, pos, end int64, to string) error {
	out, err := fsys.Open(to, vfs.CreateNew)
	if err != nil {
		return err
	}
	buf := make([]byte, scanChunkBytes)
	at := int64(0)
	for pos < end && err == nil {
		var n int
		n, err = from.ReadAt(buf[:min(int64(len(buf)), end-pos)], pos)
		if n > 0 {
			_, err = out.WriteAt(buf[:n], at)
		}
		pos, at = pos+int64(n), at+int64(n)
	}
	return errors.Join(err, out.Sync(), out.Close(), fsys.SyncDir(path.Dir(to)))
}

// setEnd puts the log end behind the last segment that is kept.
func (l *Log) setEnd(next int64) {
	v := l.view.Load()
	s := v.segments[len(v.segments)-1]
	l.end.Store(&mark{offset: next, seg: s, pos: s.size.Load()})
}

// settle makes what the scan found durable before it counts (S3): it may have been
// read from a cache that the next power loss empties. Nothing is to be done where the scan found nothing that the
// point does not cover, or where all that was in the log dir at the start is durable by now; unless recovery itself has changed which files there are.
func (l *Log) settle(start scanStart, pointed, changed bool) error {
	v := l.view.Load()
	found := !pointed || l.End() != start.offset || start.index != len(v.segments)-1
	synced := changed || found && !(l.mu.present && l.dir.durable.Load())
	if synced {
		for i := start.index; i < len(v.segments); i++ {
			if err := v.segments[i].sync(); err != nil { // protection: recovered sync
				return err
			}
		}
		if err := l.dir.fs.SyncDir(l.path); err != nil {
			return err
		}
	}
	for i := start.index; i < len(v.segments); i++ {
		v.segments[i].dirty = false
	}
	if e := l.dir.manifest.entry(l.key()); !synced && !l.dir.durable.Load() && !(l.dir.cleanly && e != nil && e.resting) {
		// It ends with its last batch, but perhaps only in memory: a process that was killed had cut it (S19), and a power loss takes that back. That may not be once another
		// segment has followed.
		v.segments[len(v.segments)-1].dirty = true // protection: a cut before a kill is to be synced
	}
	l.safe.Store(l.end.Load())
	if !l.mu.present {
		l.mu.present = true // Held.open records it, with a point
		// Kafka's cleaner may have been here. The next start goes by what the manifest says.
		l.setCleanedLocked(cleaned{min(l.dir.legacyCleaned[l.tp], l.End()), l.End()})
		return l.dir.manifest.add(kindCleaned, l.key(), l.tp, l.mu.cleaned.encode(), true)
	}
	// What was scanned is scanned again after the next crash, unless there is a new point. That is worth it for much.
	scanned := v.segments[start.index].size.Load() - start.pos
	if l.mu.sincePoint += scanned; len(l.mu.seals) > 0 || scanned >= l.dir.opts.PointBytes/16 {
		l.dir.requestPoint(l)
	}
	return nil
}
