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
	pt, err := l.writePoint(true)
	if err != nil || pt == nil {
		return err
	}
	if err := l.dir.manifest.add(kindPoint, l.key(), l.tp, pt.encode(), true); err != nil {
		return l.dir.failed(err)
	}
	l.pointSegment = pt.segment
	return nil
}

// writePoint is savePointFiles but for the manifest. Without sync what it writes is durable when a SyncTree
// has followed, but for the records themselves, which are in any case; the log counts nothing as written then, so that a point that comes
// before that SyncTree writes it again. The point is nil if there is nothing.
func (l *Log) writePoint(sync bool) (*point, error) {
	l.mu.Lock()
	if l.mu.retired || !l.mu.present || len(l.view.Load().segments) == 0 { // protection: no point of a log that was closed
		l.mu.Unlock()
		return nil, nil
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
	if sync { // protection: what is not synced counts as not written
		l.mu.seals = nil
		l.countLocked(-1)
	} else {
		seals = slices.Clone(seals)
	}
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
			if err := l.writeSeal(s, aborted, sync); err != nil {
				return err
			}
		}
		if err := l.writeTxnIndex(seg, aborted); err != nil {
			return err
		}
		if err := writeTail(seg, indexSuffix, int64(seg.saved.offsets)*offsetEntryBytes, offsets, sync); err != nil {
			return err
		}
		if err := writeTail(seg, timeSuffix, int64(seg.saved.times)*timeEntryBytes, times, sync); err != nil {
			return err
		}
		if epochsGen != l.epochsSaved {
			if err := writeWhole(l.dir.fs, l.path, epochsFile, encodeEpochs(pt.epochs), sync); err != nil {
				return err
			}
		}
		if !sync {
			return nil
		}
		l.epochsSaved = epochsGen
		return l.dir.fs.SyncDir(l.path)
	}()
	if err != nil {
		if sync {
			l.mu.Lock()
			l.mu.seals = append(seals, l.mu.seals...)
			l.mu.Unlock()
		}
		if errors.Is(err, ErrOffline) || errors.Is(err, ErrClosed) {
			return nil, err
		}
		return nil, l.dir.failed(err)
	}
	if sync {
		seg.saved.offsets, seg.saved.times = int(pt.offsetsLen), int(pt.timesLen)
	}
	return pt, nil
}

const epochsFile = "leader-epoch-checkpoint"

// writeSeal writes the index files of a rolled segment and the snapshot that belongs
// to the segment after it. The index in memory is then kept only while there is room.
func (l *Log) writeSeal(s sealing, aborted []AbortedTxn, sync bool) error {
	if s.gone {
		return writeWhole(l.dir.fs, l.path, segmentFile(s.next, snapshotSuffix), s.snapshot, sync)
	}
	s.seg.idx.Lock()
	x := s.seg.idx.sparse
	s.seg.idx.known = true
	s.seg.idx.Unlock()
	if x == nil {
		return nil // written by a point that failed afterwards, and forgotten since for want of room
	}
	if err := writeTail(s.seg, indexSuffix, 0, x.appendOffsets(nil, 0), sync); err != nil {
		return err
	}
	if err := writeTail(s.seg, timeSuffix, 0, x.appendTimes(nil, 0), sync); err != nil {
		return err
	}
	if err := l.writeTxnIndex(s.seg, aborted); err != nil {
		return err
	}
	if err := writeWhole(l.dir.fs, l.path, segmentFile(s.next, snapshotSuffix), s.snapshot, sync); err != nil {
		return err
	}
	if sync {
		s.seg.saved.offsets, s.seg.saved.times = len(x.offsets), len(x.times)
		s.seg.indexes.loaded(s.seg, x)
	}
	return nil
}

// writeTail makes data the content of one of a segment's files from off on; durably if sync is set.
func writeTail(s *segment, suffix string, off int64, data []byte, sync bool) error {
	return writeFrom(s.fs, s.path(suffix), off, data, sync)
}

func replaceTail(fsys vfs.FS, name string, off int64, data []byte) error {
	return writeFrom(fsys, name, off, data, true)
}

func writeFrom(fsys vfs.FS, name string, off int64, data []byte, sync bool) error {
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
		if !sync {
			return nil
		}
		return f.Sync() // protection: index sync
	}()
	return errors.Join(err, f.Close())
}
