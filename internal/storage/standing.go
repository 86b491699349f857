package storage

import (
	"errors"
	"io"
	"time"

	"moldau/internal/record"
)

// Where a reader stands in the log who has read up to an offset: how old the next record is, and how long
// retention will keep it.

// Bounds of TimestampAt.
const (
	exactTimeMs    = 1000    // times of one batch that are this close are not told apart
	exactTimeBytes = 1 << 20 // no larger batch is looked into
)

// TimestampAt is the timestamp of the first record at or behind offset, from the log start on and below limit; -1 if there is none, or it
// has no timestamp. Records of one batch whose times span less than a second have the time of its first one. Unless wait is set it
// reads what is in memory only: ErrCold.
func (l *Log) TimestampAt(offset, limit int64, wait bool) (ms int64, err error) {
	do := func(v *view, end *mark, r *Reader) error {
		ms, err = l.timestampAt(v, end, offset, limit, r)
		return err
	}
	if wait {
		err = l.lookUp(do) // writes ms
		return ms, err
	}
	if err = l.lookNow(do); isCold(err) {
		err = ErrCold
	}
	return ms, err
}

func (l *Log) timestampAt(v *view, end *mark, offset, limit int64, rd *Reader) (int64, error) {
	offset = max(offset, v.logStart)
	if offset >= min(limit, end.offset) {
		return -1, nil
	}
	for i := max(v.find(offset), 0); i < len(v.segments); i++ {
		ms, err := l.timestampIn(v.segments[i], end, max(offset, v.segments[i].base), rd)
		if !errors.Is(err, io.EOF) {
			return ms, err
		}
	}
	return -1, nil
}

// timestampIn is timestampAt for one segment; io.EOF if it has nothing there.
func (l *Log) timestampIn(seg *segment, end *mark, offset int64, rd *Reader) (int64, error) {
	in, stop, err := seg.pinTo(end, rd)
	if err != nil {
		return -1, err
	}
	defer seg.unpin()
	if stop, err = seg.undamaged(offset, stop); err != nil {
		return -1, err
	}
	pos, order, err := seg.positionFor(offset, l.gaps.Load(), rd)
	if err != nil {
		return -1, err
	}
	b, err := findBatch(in, pos, stop, offset, order)
	if err != nil {
		return -1, err
	}
	sc := scanner{file: in, pos: b.pos, end: b.pos + b.size}
	head := make([]byte, record.HeaderSize)
	if err := readFull(in, head, b.pos); err != nil {
		return -1, err
	}
	h, err := record.HeaderOf(head)
	switch {
	case err != nil:
		return -1, l.damagedAt(seg, b.pos, err)
	case h.LogAppendTime(), h.Count() == 0:
		return h.MaxTimestampMs(), nil
	case h.DeleteHorizon(): // its base is no record's time
	case b.size > exactTimeBytes, offset <= h.BaseOffset(), h.MaxTimestampMs()-h.BaseTimestampMs() < exactTimeMs:
		return h.BaseTimestampMs(), nil
	}
	whole, err := sc.batch(h)
	if err == nil {
		err = whole.CheckCRC()
	}
	ms, found := h.MaxTimestampMs(), errors.New("found")
	if err == nil {
		err = whole.Each(l.Config().MaxInflatedBytes, func(r record.Record) error {
			if r.Offset < offset {
				return nil
			}
			ms = r.TimestampMs
			return found
		})
	}
	if err != nil && err != found {
		return -1, l.damagedAt(seg, b.pos, err)
	}
	return ms, nil
}

// Danger is why records that a reader has not read may be deleted soon, or were.
type Danger struct {
	Gone int64 // records at or behind the offset that were deleted already; then the rest is not set
	// Left is how much longer retention.ms keeps the segment of the offset at least; 0 or less: the next pass deletes it. Only with ByTime.
	ByTime bool
	Left   time.Duration
	// LeftBytes is how much more may be appended until retention.bytes reaches that segment. Only with BySize.
	BySize    bool
	LeftBytes int64
}

// InDanger reports whether retention has passed the record at offset, or is about to: what has to be read next was deleted; or its segment
// will be by retention.ms in less than a tenth of that, or before the pass after the next one where that is
// more, but not in more than half of it; or by retention.bytes when less than a tenth of those bytes has been appended. It reads nothing from the disk; where the newest
// record of a segment is not known it goes by the time of its last append.
func (l *Log) InDanger(offset, nowMs int64) (d Danger, ok bool) {
	end := l.End()
	v, cfg := l.view.Load(), l.Config()
	if offset < v.logStart {
		return Danger{Gone: v.logStart - max(offset, 0)}, true
	}
	i := v.find(offset)
	if offset >= end || i < 0 || !cfg.CleanupDelete {
		return Danger{}, false
	}
	if cfg.RetentionAge >= 0 {
		d.Left = cfg.RetentionAge - time.Duration(nowMs-v.segments[i].since(v.segments[i].newestKnown()))*time.Millisecond
		margin := min(max(cfg.RetentionAge/10, 2*l.dir.housekeeper.config().RetentionCheck), cfg.RetentionAge/2)
		d.ByTime = d.Left < margin
	}
	if cfg.RetentionBytes >= 0 {
		d.LeftBytes = cfg.RetentionBytes
		for _, s := range v.segments[i+1:] {
			d.LeftBytes -= s.size.Load()
		}
		d.BySize = d.LeftBytes < max(cfg.RetentionBytes/10, 1) && i < len(v.segments)-1
	}
	return d, d.ByTime || d.BySize
}

// newestKnown is newest without the disk, -1 if it is not known.
func (s *segment) newestKnown() int64 {
	s.idx.Lock()
	defer s.idx.Unlock()
	if s.idx.sparse != nil || s.idx.known {
		return s.idx.maxTsMs
	}
	return -1
}
