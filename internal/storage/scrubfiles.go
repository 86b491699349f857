package storage

import (
	"bytes"
	"fmt"
	"path"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

// txnCheck follows the transactions of one segment, as far as one segment tells.
type txnCheck struct {
	base    int64
	markers map[int64]int64 // offset of each abort marker: its producer
	inner   map[int64]int64 // of those whose transaction lies wholly in the segment: its first offset
	open    map[int64]int64 // by producer: first batch since its last marker in the segment
	ended   map[int64]bool  // producers of which a marker was there: what comes behind it is known from its beginning
}

func newTxnCheck(base int64) *txnCheck {
	return &txnCheck{base, map[int64]int64{}, map[int64]int64{}, map[int64]int64{}, map[int64]bool{}}
}

// batch takes the next good batch, which f has at pos.
func (c *txnCheck) batch(f vfs.File, h record.Header, pos int64) error {
	id := h.ProducerID()
	if !h.Control() {
		if _, open := c.open[id]; h.Transactional() && !open {
			c.open[id] = h.BaseOffset()
		}
		return nil
	}
	if h.Count() == 0 || h.Size() > smallBufferBytes { // no marker is large
		return nil
	}
	body := make([]byte, h.Size())
	if n, err := f.ReadAt(body, pos); n < len(body) {
		return err
	}
	b, _, err := record.Parse(body)
	if err != nil {
		return nil // it was good when it was checked; the next pass says what it is
	}
	m, err := b.EndMarker()
	if err != nil {
		return nil
	}
	first, open := c.open[id]
	if m.Type == record.Abort {
		c.markers[b.LastOffset()] = id
		if open && (c.ended[id] || c.base == 0) {
			c.inner[b.LastOffset()] = first
		}
	}
	delete(c.open, id)
	c.ended[id] = true
	return nil
}

// wrong says which entry does not fit the batches, nil if all do. Compaction takes batches from transactions.
func (c *txnCheck) wrong(entries []AbortedTxn, compacted bool) error {
	had := map[int64]bool{}
	for _, e := range entries {
		had[e.LastOffset] = true
		if id, ok := c.markers[e.LastOffset]; !ok || id != e.ProducerID {
			return fmt.Errorf("it says that producer %d aborted a transaction at offset %d, and there is no such marker", e.ProducerID, e.LastOffset)
		}
		if first, ok := c.inner[e.LastOffset]; ok && (first < e.FirstOffset || first > e.FirstOffset && !compacted) {
			return fmt.Errorf("it says that the transaction that was aborted at offset %d began at offset %d, and it began at %d", e.LastOffset, e.FirstOffset, first)
		}
	}
	for at := range c.inner {
		if !had[at] && !compacted {
			return fmt.Errorf("the transaction that was aborted at offset %d is not in it", at)
		}
	}
	return nil
}

// mendTxnIndex writes the transaction index of a closed segment anew if the file is not what is in memory, which readers go by. That
// memory does not fit the batches is told. Called with l.files held; next is where the segment ends.
func (l *Log) mendTxnIndex(seg *segment, next int64, txns *txnCheck) error {
	l.mu.Lock()
	var want []byte
	var entries []AbortedTxn
	for _, a := range l.mu.aborted {
		if a.LastOffset >= seg.base && a.LastOffset < next {
			entries, want = append(entries, a), appendTxnEntry(want, a)
		}
	}
	compacted := seg.base < l.mu.cleaned.gaps
	l.mu.Unlock()
	name := seg.path(txnSuffix)
	if err := txns.wrong(entries, compacted); err != nil {
		l.dir.log.Error("transaction index does not fit its segment: read_committed consumers may be given what was aborted, or not what was committed. "+
			"Stop the broker; moldau log repair makes the file anew", "partition", l.tp.String(), "file", name, "reason", err.Error())
		return nil
	}
	data, _, err := readFile(l.dir.fs, name, indexMaxBytes)
	if err == nil && bytes.Equal(data, want) {
		return nil
	}
	l.dir.log.Warn("transaction index is not what was written and is made anew", "partition", l.tp.String(), "file", name)
	return l.mended(writeAtomic(l.dir.fs, l.path, path.Base(name), want))
}

// mendSnapshot sets the producer snapshot at offset aside if it cannot be read. An older one does as well, it only takes longer.
func (l *Log) mendSnapshot(offset int64) error {
	name := path.Join(l.path, segmentFile(offset, snapshotSuffix))
	data, found, err := readFile(l.dir.fs, name, 1<<30)
	if err == nil && !found {
		return nil
	}
	if err == nil {
		if _, err = parseSnapshot(data, 0); err == nil {
			return nil
		}
	}
	to, moveErr := l.dir.setAside(name, l.tp.String()+"."+path.Base(name))
	if moveErr == nil {
		l.dir.log.Warn("producer snapshot cannot be read and was set aside; an older one is taken where it is needed", "partition", l.tp.String(), "file", name, "movedTo", to, "reason", err.Error())
	}
	return l.mended(moveErr)
}

// mended counts a derived file that the scrub has put in order.
func (l *Log) mended(err error) error {
	if err != nil {
		return l.dir.failed(err)
	}
	s := l.dir.scrubber
	s.mu.Lock()
	s.mu.stats.Indexes++
	s.mu.Unlock()
	return nil
}
