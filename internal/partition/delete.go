package partition

import (
	"fmt"

	"moldau/internal/storage"
)

// UpToHighWatermark as the offset of DeleteRecords means everything that is committed.
const UpToHighWatermark = -1

// DeleteRecords raises the log start to offset, durably, and returns the low watermark: the
// smallest log start of the replicas. They are this one, until there are followers; then the caller has to
// wait until it has reached offset. Errors: ErrPolicy on a topic that is only compacted,
// storage.ErrOffsetRange beyond the high watermark, and those of a partition that does not lead.
func (p *Partition) DeleteRecords(offset int64) (lowWatermark int64, err error) {
	log, _, err := p.leads(-1)
	if err != nil {
		return -1, err
	}
	defer p.done()
	if t := &p.settings.Load().topic; t.CleanupCompact && !t.CleanupDelete {
		return -1, fmt.Errorf("%s: cleanup.policy is compact: %w", p.Name(), ErrPolicy)
	}
	hw := p.HighWatermark()
	if offset == UpToHighWatermark {
		offset = hw
	}
	if offset < 0 || offset > hw {
		return -1, fmt.Errorf("%s: records before offset %d are to be deleted, the high watermark is %d: %w", p.Name(), offset, hw, storage.ErrOffsetRange)
	}
	if err := log.RaiseStart(offset); err != nil {
		return -1, err
	}
	p.tellWatchers()
	return log.Start(), nil
}
