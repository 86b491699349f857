package storage

import (
	"errors"
	"slices"
	"time"

	"moldau/internal/vfs"
)

// savePoint makes everything durable that a restart wants to find without reading
// batches: data, indexes and snapshots of rolled segments, the active segment's index,
// the leader epochs; and then, only then, says so in the manifest.
func (l *Log) savePoint() error {
	l.files.Lock()
	defer l.files.Unlock()
	return l.savePointFiles()
}

// savePointFiles is savePoint with l.files held.
func (l *Log) savePointFiles() error {
	l.mu.Lock()
	if !l.mu.present || len(l.view.Load().segments) == 0 {
		l.mu.Unlock()
		return nil
	}
	l.mu.producers.expire(time.Now().Add(-l.dir.opts.ProducerIDExpiry).UnixMilli())
	end := l.end.Load()
	seg := end.seg
	if last := l.view.Load().segments; last[len(last)-1] != seg {
		// Just rolled: the log end is the first byte of a segment without a batch.
		seg = last[len(last)-1]
		end = &mark{offset: end.offset, seg: seg}
	}
	pt := &point{
		logStart:  l.view.Load().logStart,
		segment:   seg.base,
		pos:       end.pos,
		offset:    end.offset,
		firstTsMs: seg.firstTsMs,
		createdMs: seg.createdMs,
		epochs:    slices.Clone(l.mu.epochs.entries),
		producers: l.mu.producers.encode(nil),
	}
	epochsGen := l.mu.epochsGen
	seals := l.mu.seals
	l.mu.seals = nil
	l.countLocked(-1)
	seg.idx.Lock()
	pt.sinceIndex, pt.maxTsMs, pt.maxTsOffset = seg.idx.sinceBytes, seg.idx.maxTsMs, seg.idx.maxTsOffset
	pt.offsetsLen, pt.timesLen = int64(len(seg.idx.sparse.offsets)), int64(len(seg.idx.sparse.times))
	offsets := seg.idx.sparse.appendOffsets(nil, seg.saved.offsets)
	times := seg.idx.sparse.appendTimes(nil, seg.saved.times)
	seg.idx.Unlock()
	aborted := slices.Clone(l.mu.aborted)
	l.mu.Unlock()
	for _, a := range aborted {
		if a.LastOffset >= seg.base {
			pt.txnsLen++
		}
	}

	err := func() error {
		if err := l.flush(); err != nil { // protection: a point is of what is synced
			return err
		}
		for _, s := range seals {
			if err := l.writeSeal(s, aborted); err != nil {
				return err
			}
		}
		if err := l.writeTxnIndex(seg, aborted); err != nil {
			return err
		}
		if err := writeTail(seg, indexSuffix, int64(seg.saved.offsets)*offsetEntryBytes, offsets); err != nil {
			return err
		}
		if err := writeTail(seg, timeSuffix, int64(seg.saved.times)*timeEntryBytes, times); err != nil {
			return err
		}
		if epochsGen != l.epochsSaved {
			if err := writeAtomic(l.dir.fs, l.path, epochsFile, encodeEpochs(pt.epochs)); err != nil {
				return err
			}
			l.epochsSaved = epochsGen
		}
		return l.dir.fs.SyncDir(l.path)
	}()
	if err != nil {
		l.mu.Lock()
		l.mu.seals = append(seals, l.mu.seals...)
		l.mu.Unlock()
		if errors.Is(err, ErrOffline) || errors.Is(err, ErrClosed) {
			return err
		}
		return l.dir.failed(err)
	}
	seg.saved.offsets, seg.saved.times = int(pt.offsetsLen), int(pt.timesLen)
	if err := l.dir.manifest.add(kindPoint, l.key(), l.tp, pt.encode(), true); err != nil {
		return l.dir.failed(err)
	}
	l.pointSegment = seg.base
	return nil
}

const epochsFile = "leader-epoch-checkpoint"

// writeSeal writes the index files of a rolled segment and the snapshot that belongs
// to the segment after it. The index in memory is then kept only while there is room.
func (l *Log) writeSeal(s sealing, aborted []AbortedTxn) error {
	if s.gone {
		return writeAtomic(l.dir.fs, l.path, segmentFile(s.next, snapshotSuffix), s.snapshot)
	}
	s.seg.idx.Lock()
	x := s.seg.idx.sparse
	s.seg.idx.known = true
	s.seg.idx.Unlock()
	if x == nil {
		return nil // written by a point that failed afterwards, and forgotten since for want of room
	}
	if err := writeTail(s.seg, indexSuffix, 0, x.appendOffsets(nil, 0)); err != nil {
		return err
	}
	if err := writeTail(s.seg, timeSuffix, 0, x.appendTimes(nil, 0)); err != nil {
		return err
	}
	if err := l.writeTxnIndex(s.seg, aborted); err != nil {
		return err
	}
	if err := writeAtomic(l.dir.fs, l.path, segmentFile(s.next, snapshotSuffix), s.snapshot); err != nil {
		return err
	}
	s.seg.saved.offsets, s.seg.saved.times = len(x.offsets), len(x.times)
	s.seg.indexes.loaded(s.seg, x)
	return nil
}

// writeTail makes data the content of one of a segment's files from off on, durably.
func writeTail(s *segment, suffix string, off int64, data []byte) error {
	return replaceTail(s.fs, s.path(suffix), off, data)
}

func replaceTail(fsys vfs.FS, name string, off int64, data []byte) error {
	f, err := fsys.Open(name, vfs.Create)
	if err != nil {
		return err
	}
	err = func() error {
		size, err := f.Size()
		if err != nil {
			return err
		}
		if size > off+int64(len(data)) {
			if err := f.Truncate(off + int64(len(data))); err != nil {
				return err
			}
		}
		if len(data) > 0 {
			if _, err := f.WriteAt(data, off); err != nil {
				return err
			}
		}
		return f.Sync() // protection: index sync
	}()
	return errors.Join(err, f.Close())
}
