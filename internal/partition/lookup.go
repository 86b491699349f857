package partition

import (
	"fmt"

	"moldau/internal/storage"
)

// Offset is the answer to a lookup: Offset -1 means that there is no such record.
type Offset struct {
	Offset      int64
	TimestampMs int64 // -1 where the lookup is not by time
	LeaderEpoch int32 // of the record at Offset, -1 if not known
}

// none is the answer when there is no such record.
var none = Offset{-1, -1, -1}

// Earliest is the first offset that may be read.
func (p *Partition) Earliest(currentEpoch int32) (Offset, error) {
	if _, no, err := p.leadsEmpty(currentEpoch); err != nil {
		return none, err
	} else if !no {
		return Offset{0, -1, -1}, nil
	}
	log, _, err := p.leads(currentEpoch)
	if err != nil {
		return none, err
	}
	defer p.done()
	start := log.Start()
	return Offset{start, -1, log.EpochAt(start)}, nil
}

// Latest is the offset behind the last record that the reader may see. ErrNotSettled
// while a new leader may know less than the one before.
func (p *Partition) Latest(currentEpoch int32, readCommitted bool) (Offset, error) {
	if epoch, no, err := p.leadsEmpty(currentEpoch); err != nil {
		return none, err
	} else if !no {
		return Offset{0, -1, epoch}, nil
	}
	_, limit, epoch, err := p.readable(currentEpoch, readCommitted)
	if err != nil {
		return none, err
	}
	defer p.done()
	return Offset{limit, -1, epoch}, nil
}

// readable is the end of what a reader may see, and the leader epoch. Without an error the log is in use until done.
func (p *Partition) readable(currentEpoch int32, readCommitted bool) (log *storage.Log, limit int64, epoch int32, err error) {
	if log, epoch, err = p.leads(currentEpoch); err != nil {
		return nil, -1, -1, err
	}
	p.mu.Lock()
	settled := p.mu.state.Settled()
	p.mu.Unlock()
	if !settled {
		log.RequestFlush(log.End())
		p.done()
		return nil, -1, epoch, fmt.Errorf("%s: %w", p.Name(), ErrNotSettled)
	}
	limit = p.HighWatermark()
	if readCommitted {
		limit = log.LastStable(limit)
	}
	return log, limit, epoch, nil
}

// ByTimestamp is the first visible record that is as new as timestampMs.
func (p *Partition) ByTimestamp(currentEpoch int32, timestampMs int64, readCommitted bool) (Offset, error) {
	log, limit, _, err := p.readable(currentEpoch, readCommitted)
	if err != nil {
		return none, err
	}
	defer p.done()
	return found(log.ByTimestamp(timestampMs, limit))
}

// MaxTimestamp is the first record with the newest timestamp (KIP-734); none while that one is not visible.
func (p *Partition) MaxTimestamp(currentEpoch int32, readCommitted bool) (Offset, error) {
	log, limit, _, err := p.readable(currentEpoch, readCommitted)
	if err != nil {
		return none, err
	}
	defer p.done()
	t, ok, err := log.MaxTimestamp()
	return found(t, ok && t.Offset < limit, err)
}

// Visible is where the records begin and end that a reader may see. It does not open the log; before it is opened for the first time it is
// what a stop left.
func (p *Partition) Visible() (start, end int64) {
	if log := p.log(); log != nil {
		return log.Start(), p.HighWatermark()
	}
	x := p.Extent()
	return x.Start, p.Committed(x)
}

// TimestampAt is the timestamp of the first visible record at or behind offset, -1 for none; see storage.Log. storage.ErrCold also where the log is
// closed: nobody uses it, and this is no reason to.
func (p *Partition) TimestampAt(offset int64, wait bool) (ms int64, err error) {
	log := p.held.UseOpen()
	if log == nil {
		return -1, storage.ErrCold
	}
	defer p.done()
	return log.TimestampAt(offset, p.HighWatermark(), wait)
}

// InDanger is storage.Log's. Of a log that is closed it knows only what is gone.
func (p *Partition) InDanger(offset, nowMs int64) (storage.Danger, bool) {
	if log := p.held.UseOpen(); log != nil {
		defer p.done()
		return log.InDanger(offset, nowMs)
	}
	if start, _ := p.Visible(); offset < start {
		return storage.Danger{Gone: start - max(offset, 0)}, true
	}
	return storage.Danger{}, false
}

func found(t storage.TimestampOffset, ok bool, err error) (Offset, error) {
	if err != nil || !ok {
		return none, err
	}
	return Offset{t.Offset, t.TimestampMs, t.LeaderEpoch}, nil
}

// EndForEpoch answers OffsetForLeaderEpoch: (-1, -1) when the epoch is not known.
func (p *Partition) EndForEpoch(currentEpoch, epoch int32) (int32, int64, error) {
	log, current, err := p.leads(currentEpoch)
	if err != nil {
		return -1, -1, err
	}
	defer p.done()
	if epoch == current {
		return current, log.End(), nil // also when no record was written in it yet
	}
	e, end := log.EndForEpoch(epoch)
	return e, end, nil
}
