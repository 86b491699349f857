package storage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// Truncate removes the records from offset on, which becomes the log end: a follower
// does so when its leader never had them (KIP-101). offset must be a batch boundary or
// behind the end; in the middle of a batch the whole batch goes, unless the log start is in it. The cut is
// durable when Truncate returns, so that no later append can be mixed up with old bytes.
func (l *Log) Truncate(offset int64) error {
	defer l.pauseCleaning()()
	l.files.Lock()
	defer l.files.Unlock()
	if err := l.cut(offset); err != nil {
		return err
	}
	if len(l.Damage()) > 0 {
		if err := l.saveDamage(); err != nil {
			return l.dir.failed(err)
		}
	}
	// The cut is made with a point that has recovery read from an older segment on. Of what compaction has
	// removed there it would not learn.
	return l.savePointFiles()
}

// cut is Truncate with l.files held, but for the new point.
func (l *Log) cut(offset int64) error {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	l.tailing.Lock() // protection: no tail under way
	defer l.tailing.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.writableLocked(); err != nil {
		return err
	}
	v := l.view.Load()
	if offset >= l.End() || len(v.segments) == 0 {
		return nil
	}
	offset = max(offset, v.logStart)
	if err := l.refuseDamaged(v, offset); err != nil {
		return err // what is derived from the batches would be made anew from them, and would end at the damage
	}
	if c := l.mu.cleaned; offset < c.gaps {
		// What comes to stand behind the cut has no gaps.
		c = cleaned{min(c.dirty, offset), offset + 1}
		if err := l.dir.manifest.add(kindCleaned, l.key(), l.tp, c.encode(), true); err != nil {
			return l.dir.failed(err)
		}
		l.setCleanedLocked(c)
	}
	i := v.find(offset)
	s := v.segments[i]
	pos, offset, err := l.cutPosition(s, offset)
	if err != nil {
		return err
	}
	if pos == 0 && i > 0 {
		i--
		pos = v.segments[i].size.Load()
	}
	// From here on nothing behind the cut counts, whatever becomes of the files (S2).
	l.end.Store(&mark{offset: offset, seg: v.segments[i], pos: pos})
	if offset < l.Flushed() {
		l.safe.Store(l.end.Load())
	}
	if err := l.cutFilesLocked(v, i, pos, offset); err != nil {
		return l.dir.fence(err)
	}
	return nil
}

// cutFilesLocked ends the log at byte pos of segment i and rebuilds what is derived from
// the batches: back to a segment with a producer snapshot, and from there as recovery
// does it. The point goes back first, because the one in force speaks of bytes that will be gone. It never goes forward: that the files
// of the segments before it are there for good only a point says. A snapshot does not: it may be what a power loss left of a
// point that did not come to its end, without the transaction index that was written before it.
func (l *Log) cutFilesLocked(v *view, i int, pos, offset int64) error {
	first, ps, err := l.snapshotBefore(v.segments, min(i, max(v.find(l.pointSegment), 0))) // protection: a truncation moves no point forward
	if err != nil {
		return err
	}
	base := v.segments[first].base
	old, oldEpochs := l.mu.producers, slices.Clone(l.mu.epochs.entries)
	ps.remember(old, base)
	l.mu.producers = ps
	l.settled.Store(false)
	l.mu.epochs.cut(base)
	l.mu.epochsGen++
	l.epochsSaved = -1
	l.mu.aborted = slices.DeleteFunc(l.mu.aborted, func(a AbortedTxn) bool { return a.LastOffset >= base })
	l.mu.seals = nil
	pt := &point{
		logStart: v.logStart, segment: base, offset: base, maxTsMs: -1, firstTsMs: -1,
		createdMs: v.segments[first].createdMs,
		epochs:    slices.Clone(l.mu.epochs.entries),
		producers: ps.encode(nil),
	}
	// What stays counts as flushed afterwards, so it has to be; a point names only files that
	// are there for good.
	for _, s := range v.segments[:i+1] { // protection: sync before the cut
		if s.dirty {
			if err := s.sync(); err != nil {
				return err
			}
		}
	}
	if err := l.dir.fs.SyncDir(l.path); err != nil {
		return err
	}
	if seq := l.dir.journal.last.Load(); seq > 0 { // no tail of this log is under way: l.tailing is held
		if err := l.dir.manifest.add(kindCut, l.key(), l.tp, varints(seq), true); err != nil {
			return err
		}
	}
	if err := l.dir.manifest.add(kindPoint, l.key(), l.tp, pt.encode(), true); err != nil {
		return err
	}
	l.pointSegment = base
	// From the newest file backwards: a crash in between leaves a shorter prefix.
	for _, gone := range slices.Backward(v.segments[i+1:]) {
		gone.retire()
		if err := l.removeFiles(gone); err != nil {
			return err
		}
	}
	s := v.segments[i]
	f, err := s.pin()
	if err != nil {
		return err
	}
	defer s.unpin()
	if err := errors.Join(f.Truncate(pos), f.Sync(), l.dir.fs.SyncDir(l.path)); err != nil {
		return err
	}
	s.size.Store(pos)
	s.torn, s.padded = false, 0
	l.view.Store(&view{slices.Clone(v.segments[:i+1]), v.logStart})
	for _, s := range v.segments[first : i+1] {
		s.idx.Lock()
		s.idx.sparse, s.idx.sinceBytes, s.idx.maxTsMs, s.idx.known = nil, 0, -1, false
		s.idx.Unlock()
		s.saved.offsets, s.saved.times, s.firstTsMs = 0, 0, -1
	}
	if err := l.scan(scanStart{index: first, offset: base, gaps: l.mu.cleaned.gaps, durable: offset}); err != nil {
		return err
	}
	// Compaction may have removed every batch of an epoch, and batches that are among a producer's last.
	l.mu.producers.complete(old, l.End())
	l.mu.epochs.entries = oldEpochs
	l.mu.epochs.cut(l.End())
	l.mu.epochs.cutHead(v.logStart)
	infos, err := l.dir.fs.ReadDir(l.path)
	if err == nil {
		_, err = l.dropSnapshots(infos)
	}
	if err != nil {
		return err
	}
	if got := len(l.view.Load().segments); got != i+1 {
		return &CorruptionError{l.path, 0, fmt.Errorf("%d segments of %d are left after the truncation", got, i+1)}
	}
	for _, s := range v.segments[:i+1] {
		s.dirty, s.named = false, true
	}
	l.safe.Store(l.end.Load())
	return l.closeDamagedLocked()
}

// cutPosition is the byte position and the base offset of the batch that holds offset.
func (l *Log) cutPosition(s *segment, offset int64) (pos, base int64, err error) {
	pos, order, err := s.positionFor(offset, l.gaps.Load(), nil)
	if err != nil {
		return 0, 0, err
	}
	f, err := s.pin()
	if err != nil {
		return 0, 0, err
	}
	defer s.unpin()
	b, err := findBatch(f, pos, s.size.Load(), offset, order)
	if errors.Is(err, io.EOF) {
		return s.size.Load(), offset, nil // only a gap is behind offset
	}
	if err != nil {
		return 0, 0, err
	}
	if start := l.Start(); b.base < start {
		return b.pos + b.size, b.next, nil // the log end cannot be below the log start (S2)
	}
	return b.pos, min(offset, b.base), nil // less where compaction left a gap
}

// settleDown ends appends and leaves the log. It is still to be retired. Called by Dir.Close.
func (l *Log) settleDown() (left, error) {
	defer l.pauseCleaning()()
	l.files.Lock()
	defer l.files.Unlock()
	if !l.refuse(ErrClosed) {
		return left{}, nil
	}
	return l.leaveFiles()
}

// left is a log whose files are as a restart and Kafka want to find them, as long as it does not change.
type left struct {
	record    []byte // for the manifest, when a SyncTree has followed; nil where the manifest has it already
	view      *view
	end       *mark
	epochsGen int64
}

// leave writes what a restart and Kafka want to find, and syncs no more of it than the records. The log may be in use.
func (l *Log) leave() (left, error) {
	l.files.Lock()
	defer l.files.Unlock()
	if err := l.Err(); err != nil {
		return left{}, err
	}
	return l.leaveFiles()
}

// leaveFiles is leave with l.files held.
func (l *Log) leaveFiles() (now left, err error) {
	l.mu.Lock()
	now.view, now.end, now.epochsGen = l.view.Load(), l.end.Load(), l.mu.epochsGen
	l.mu.Unlock()
	v := now.view
	if len(v.segments) == 0 || l.dir.offline() != nil {
		return now, nil
	}
	last := v.segments[len(v.segments)-1]
	l.mu.Lock()
	changed := last.excess() || last.dirty // protection: a cut is to be synced
	// Kafka believes a clean stop and reads to the end of the file.
	err = l.mendLocked(last) // protection: a stopped log ends with its last batch
	l.mu.Unlock()
	if err != nil || !changed && l.resting(v) {
		return now, err
	}
	last.finishIndex()
	pt, err := l.writePoint(false)
	if err != nil || pt == nil {
		return now, err
	}
	if err := l.writeEndSnapshot(v); err != nil {
		return now, l.dir.failed(err)
	}
	now.record = manifestRecord(kindRest, l.key(), l.tp, l.restOf(v).encode(pt))
	return now, nil
}

// unchangedLocked reports whether the log is still as it was left. l.mu is held.
func (l *Log) unchangedLocked(now left) bool {
	return l.view.Load() == now.view && l.end.Load() == now.end && l.mu.epochsGen == now.epochsGen // protection: a log at rest is as it was left
}

// resting says that everything is on the disk as settleDown would leave it: a stop did, and nothing has changed since.
// Called with l.files held.
func (l *Log) resting(v *view) bool {
	if e := l.dir.manifest.entry(l.key()); e == nil || !e.resting {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rested != nil && l.rested == v && l.restedEnd == l.End() && l.mu.epochsGen == l.epochsSaved
}

// restOf is what the log has in all.
func (l *Log) restOf(v *view) *rest {
	r := &rest{bytes: l.SizeBytes(), segments: int64(len(v.segments)), first: v.segments[0].size.Load()}
	ts, err := v.segments[0].newest()
	if appended := v.segments[0].appendedMs.Load(); ts < 0 || ts > appended {
		ts = appended
	}
	if below := len(v.segments) > 1 && v.segments[1].base <= v.logStart; err == nil && !below && ts > 0 {
		r.oldestMs = ts
	}
	return r
}

// retire closes the segments as soon as nobody reads them; flushes end.
func (l *Log) retire() {
	l.syncing.Lock()
	defer l.syncing.Unlock()
	l.tailing.Lock()
	defer l.tailing.Unlock()
	l.mu.Lock()
	l.mu.retired = true
	l.countLocked(-1)
	l.mu.Unlock()
	for _, s := range l.view.Load().segments {
		s.retire()
	}
}

// refuse ends appends with cause. It reports false if something ended them before.
func (l *Log) refuse(cause error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed != nil {
		return false
	}
	l.mu.closed = cause
	if l.mu.flushTimer != nil {
		l.mu.flushTimer.Stop()
	}
	return true
}

// writeEndSnapshot leaves the producer state at the log end for Kafka, and removes the
// one that an earlier stop left in the middle of a segment. It does not sync.
func (l *Log) writeEndSnapshot(v *view) error {
	for _, offset := range l.endSnapshots {
		i := v.find(offset)
		if offset == l.End() || i < 0 || v.segments[i].base == offset {
			continue
		}
		if err := l.dir.fs.Remove(path.Join(l.path, segmentFile(offset, snapshotSuffix))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	l.endSnapshots = []int64{l.End()}
	name := segmentFile(l.End(), snapshotSuffix)
	if v.segments[len(v.segments)-1].base == l.End() && exists(l.dir.fs, path.Join(l.path, name)) {
		return nil // the one of the segment that was just begun, which is durable and stays when the log goes on
	}
	l.mu.Lock()
	data := l.mu.producers.snapshot()
	l.mu.Unlock()
	return writeWhole(l.dir.fs, l.path, name, data, false)
}

// Delete ends the log and removes its directory: the topic was deleted. Reads that are
// under way finish.
func (l *Log) Delete() error {
	defer l.pauseCleaning()()
	l.files.Lock()
	defer l.files.Unlock()
	if !l.refuse(ErrClosed) {
		return nil
	}
	d := l.dir
	d.letGo(l.key())
	l.retire()
	return d.removePartition(l.tp, l.id)
}

// removePartition removes the directory of a partition, if it has one. It is renamed first, so that a crash leaves Kafka's
// name for one that is being deleted, and never half a partition.
func (d *Dir) removePartition(tp TopicPartition, id wire.UUID) error {
	key, name := partitionKey{id, tp.Partition}, d.partitionPath(tp)
	if _, err := d.fs.Stat(name); err != nil {
		if d.manifest.entry(key) == nil {
			return nil
		}
		return d.manifest.add(kindGone, key, tp, nil, false)
	}
	d.forgetNames()
	gone, err := d.freeName(fmt.Sprintf("%s.%x-delete", name, id[:]))
	if err != nil {
		return err
	}
	if err := errors.Join(d.fs.Rename(name, gone), d.fs.SyncDir(d.path)); err != nil {
		return err
	}
	if err := d.manifest.add(kindGone, key, tp, nil, true); err != nil { // protection: gone before it is removed
		return err
	}
	return removeTree(d.fs, gone)
}

// removeTree removes a directory of plain files.
func removeTree(fsys vfs.FS, dir string) error {
	infos, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if err := fsys.Remove(path.Join(dir, info.Name)); err != nil {
			return err
		}
	}
	return fsys.Remove(dir)
}

// RemoveDeleted finishes deletions that a stop interrupted: directories with Kafka's
// -delete suffix, which are only ever made for a topic that was deleted. The manifest forgets them first: a directory that is
// gone for another reason is a loss.
func (d *Dir) RemoveDeleted() error {
	d.mu.Lock()
	deleted := d.mu.deleted
	d.mu.deleted = nil
	d.mu.Unlock()
	var errs []error
	for _, name := range deleted {
		err := d.forgetDeleted(name)
		if err == nil {
			err = removeTree(d.fs, path.Join(d.path, name))
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// forgetDeleted ends a partition's life in the manifest. name is that of its directory, as Delete renames it.
func (d *Dir) forgetDeleted(name string) error {
	for key, tp := range d.manifest.named(strings.TrimSuffix(name, "-delete")) {
		if err := d.manifest.add(kindGone, key, tp, nil, true); err != nil {
			return err
		}
	}
	return nil
}
