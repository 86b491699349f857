package storage

import (
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// EpochEntry says that Epoch's first record has offset StartOffset (KIP-101).
type EpochEntry struct {
	Epoch       int32
	StartOffset int64
}

// epochs is the leader epoch cache of one log: entries strictly increasing in both
// fields (S5). It is derived from the batches; leader-epoch-checkpoint is a copy.
// Guarded by Log.mu.
type epochs struct{ entries []EpochEntry }

func (c *epochs) latest() int32 {
	if len(c.entries) == 0 {
		return -1
	}
	return c.entries[len(c.entries)-1].Epoch
}

// assign notes that epoch begins at start. It reports whether anything changed.
func (c *epochs) assign(epoch int32, start int64) (bool, error) {
	n := len(c.entries)
	if n > 0 {
		last := c.entries[n-1]
		switch {
		case epoch == last.Epoch:
			return false, nil
		case epoch < last.Epoch:
			return false, fmt.Errorf("epoch %d after epoch %d: %w", epoch, last.Epoch, ErrStaleEpoch)
		case start == last.StartOffset: // the earlier epoch never wrote a record
			c.entries[n-1] = EpochEntry{epoch, start}
			return true, nil
		}
	}
	c.entries = append(c.entries, EpochEntry{epoch, start})
	return true, nil
}

// endFor answers OffsetForLeaderEpoch: the largest known epoch <= epoch and the
// offset at which the next one begins. (-1, -1) when epoch is not known to be past.
func (c *epochs) endFor(epoch int32, logEnd int64) (int32, int64) {
	n := len(c.entries)
	if n == 0 || epoch < 0 || epoch > c.entries[n-1].Epoch {
		return -1, -1
	}
	if epoch == c.entries[n-1].Epoch {
		return epoch, logEnd
	}
	i := sort.Search(n, func(i int) bool { return c.entries[i].Epoch > epoch })
	if i == 0 {
		// Older than everything here: it ended where the first known one begins.
		return epoch, c.entries[0].StartOffset
	}
	return c.entries[i-1].Epoch, c.entries[i].StartOffset
}

// at returns the epoch of the record at offset, or -1.
func (c *epochs) at(offset int64) int32 {
	i := sort.Search(len(c.entries), func(i int) bool { return c.entries[i].StartOffset > offset })
	if i == 0 {
		return -1
	}
	return c.entries[i-1].Epoch
}

// cut drops entries that begin at or after offset.
func (c *epochs) cut(offset int64) {
	c.entries = c.entries[:sort.Search(len(c.entries), func(i int) bool { return c.entries[i].StartOffset >= offset })]
}

// cutHead drops what is below the log start: the epoch that start is in begins there. It
// reports whether anything changed.
func (c *epochs) cutHead(start int64) bool {
	i := sort.Search(len(c.entries), func(i int) bool { return c.entries[i].StartOffset > start }) - 1
	if i < 0 || i == 0 && c.entries[0].StartOffset == start {
		return false
	}
	c.entries = append([]EpochEntry{{c.entries[i].Epoch, start}}, c.entries[i+1:]...)
	return true
}

func encodeEpochs(entries []EpochEntry) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "0\n%d\n", len(entries))
	for _, e := range entries {
		fmt.Fprintf(&b, "%d %d\n", e.Epoch, e.StartOffset)
	}
	return []byte(b.String())
}

// parseEpochs reads leader-epoch-checkpoint: version 0, a count, "epoch offset" lines.
func parseEpochs(text string) ([]EpochEntry, error) {
	lines, err := checkpointLines(text, 2)
	if err != nil {
		return nil, err
	}
	var c epochs
	for _, f := range lines {
		epoch, err1 := strconv.ParseInt(f[0], 10, 32)
		start, err2 := strconv.ParseInt(f[1], 10, 64)
		if err1 != nil || err2 != nil || epoch < 0 || start < 0 {
			return nil, fmt.Errorf("line %q is not an epoch and an offset", strings.Join(f, " "))
		}
		if _, err := c.assign(int32(epoch), start); err != nil {
			return nil, err
		}
	}
	return c.entries, nil
}
