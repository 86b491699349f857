package partition

import (
	"context"
	"fmt"
	"time"

	"moldau/internal/record"
	"moldau/internal/storage"
)

// This file is the door of the one who owns an internal topic's partition: the coordinator whose state
// its records are. Nobody else writes there.

// AppendOwned appends a batch that this broker made itself, under the leader epoch that its owner knows. It is not
// validated as a client's is. Where it counts only when flushed, the flush is asked for at once. An error means that nothing was
// written: ErrNotLeader, ErrFencedEpoch and ErrUnknownEpoch where the owner's time is over,
// ErrNotEnoughReplicas, *TooLargeError, and those of storage.
func (p *Partition) AppendOwned(b record.Batch, epoch int32, nowMs int64) (Appended, error) {
	log, _, err := p.leads(max(epoch, 0)) // protection: expected epoch
	if err != nil {
		return Appended{}, err
	}
	defer p.done()
	if err := p.enoughReplicas(-1); err != nil {
		return Appended{}, err
	}
	if limit := int(p.settings.Load().topic.MaxMessageBytes); b.Size() > limit {
		return Appended{}, &TooLargeError{p.Name(), b.Size(), limit, false}
	}
	a, err := log.Append(b, storage.AppendOptions{LeaderEpoch: epoch, NowMs: nowMs, Reserve: true})
	if err != nil {
		return Appended{}, err
	}
	p.advance(log)
	if p.HighWatermark() <= a.LastOffset {
		log.RequestFlush(a.LastOffset + 1)
	}
	return Appended{BaseOffset: a.BaseOffset, LogStart: a.LogStart, LogAppendTimeMs: -1,
		ack: ackTarget{commit: a.LastOffset + 1, epoch: epoch}}, nil
}

// WaitCommitted returns when the high watermark has reached end under this leader epoch. ErrTimedOut
// and ErrNotLeader mean that what is below end may or may not be committed.
func (p *Partition) WaitCommitted(ctx context.Context, end int64, epoch int32, deadline time.Time) error {
	if err := p.usable(); err != nil {
		return err
	}
	return p.WaitAck(ctx, new(AckWaiter), Appended{ack: ackTarget{commit: end, epoch: epoch}}, deadline)
}

// ReadOwned gives each batch of the log to f, from the log's start to the end that it has now, whether it is
// committed or not, and returns that end. A batch is only lent. At most about bufferBytes are in memory,
// or one batch. An error of f ends it.
func (p *Partition) ReadOwned(epoch int32, bufferBytes int, f func(record.Batch) error) (end int64, err error) {
	log, _, err := p.leads(max(epoch, 0))
	if err != nil {
		return 0, err
	}
	defer p.done()
	end = log.End()
	var buf []byte
	for next := log.Start(); next < end; {
		plan, err := log.Read(next, end, bufferBytes, true, 0)
		if err != nil {
			return 0, err
		}
		n := plan.Len()
		if n == 0 {
			break // compaction took what was there
		}
		if int64(cap(buf)) < n {
			buf = make([]byte, n)
		}
		_, err = plan.Region.File.ReadAt(buf[:n], plan.Region.Off)
		plan.Release()
		if err != nil {
			return 0, fmt.Errorf("%s: %w", p.Name(), err)
		}
		if next, err = eachBatch(buf[:n], next, f); err != nil {
			return 0, fmt.Errorf("%s: %w", p.Name(), err)
		}
	}
	return end, nil
}

// eachBatch gives the whole batches of buf to f and returns the offset behind the last.
func eachBatch(buf []byte, from int64, f func(record.Batch) error) (next int64, err error) {
	next = from
	for len(buf) > 0 {
		b, rest, err := record.Parse(buf)
		if err != nil {
			if next > from {
				return next, nil // the last one is cut, and is read again
			}
			return next, fmt.Errorf("batch at offset %d: %w", next, err)
		}
		if err := b.CheckCRC(); err != nil {
			return next, fmt.Errorf("batch at offset %d: %w", b.BaseOffset(), err)
		}
		if err := f(b); err != nil {
			return next, err
		}
		buf, next = rest, b.NextOffset()
	}
	return next, nil
}
