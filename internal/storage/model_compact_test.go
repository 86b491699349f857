package storage

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"moldau/internal/record"
)

// checkCompacted checks that got is a compaction of history: S13.
func (m *model) checkCompacted(history, got []record.Batch) error {
	records := map[int64]record.Record{}
	whole := map[int64]record.Batch{} // by last offset
	for _, b := range history {
		whole[b.LastOffset()] = b
		if err := eachCopy(b, func(r record.Record) { records[r.Offset] = r }); err != nil {
			return err
		}
	}
	last := int64(-1)
	for _, b := range got {
		if err := b.CheckCRC(); err != nil {
			return err
		}
		was := whole[b.LastOffset()]
		if was == nil || b.BaseOffset() <= last || !sameProvenance(was, b) {
			return fmt.Errorf("S13: batch %d to %d after %d is not one that was appended", b.BaseOffset(), b.LastOffset(), last)
		}
		last = b.LastOffset()
		var problem error
		if err := eachCopy(b, func(r record.Record) {
			w, ok := records[r.Offset]
			if !ok || w.TimestampMs != r.TimestampMs || !bytes.Equal(w.Key, r.Key) || !bytes.Equal(w.Value, r.Value) || (w.Value == nil) != (r.Value == nil) || !bytes.Equal(w.Headers, r.Headers) {
				problem = fmt.Errorf("S13: the record at offset %d is another than was appended", r.Offset)
			}
		}); err != nil || problem != nil {
			return errors.Join(err, problem)
		}
	}
	if err := m.checkTransactions(got); err != nil {
		return err
	}
	if err := m.checkProducersStay(got); err != nil {
		return err
	}
	return m.checkLastValues(history, got)
}

func eachCopy(b record.Batch, f func(record.Record)) error {
	return b.Each(0, func(r record.Record) error {
		r.Key, r.Value, r.Headers = slices.Clone(r.Key), slices.Clone(r.Value), slices.Clone(r.Headers)
		if r.Key == nil && b.Count() > 0 {
			r.Key = nil
		}
		f(r)
		return nil
	})
}

// sameProvenance compares what a compaction leaves as it is in a batch header.
func sameProvenance(a, b record.Batch) bool {
	return a.BaseOffset() == b.BaseOffset() && a.LeaderEpoch() == b.LeaderEpoch() && a.ProducerID() == b.ProducerID() &&
		a.ProducerEpoch() == b.ProducerEpoch() && a.BaseSequence() == b.BaseSequence() && a.LastSequence() == b.LastSequence() &&
		a.Transactional() == b.Transactional() && a.Control() == b.Control() && (a.Codec() == b.Codec() || b.Count() == 0)
}

// checkTransactions: as long as anything of a decided transaction is there, so is its marker.
func (m *model) checkTransactions(got []record.Batch) error {
	open := map[int64]bool{}
	for _, b := range got {
		if b.Control() {
			if b.Count() > 0 {
				delete(open, b.ProducerID())
			}
		} else if b.Transactional() {
			open[b.ProducerID()] = true
		}
	}
	for id := range open {
		if p := m.log.mu.producers.byID[id]; p == nil || p.txnFirstOffset < 0 {
			return fmt.Errorf("S13: there are records of a transaction of producer %d that has ended, and no marker", id)
		}
	}
	return nil
}

// checkProducersStay: the last batch of every producer is there, with its sequence numbers.
func (m *model) checkProducersStay(got []record.Batch) error {
	if len(got) == 0 {
		return nil
	}
	first := m.log.view.Load().segments[0].base
	for id, p := range m.log.mu.producers.byID {
		if len(p.window) == 0 {
			continue
		}
		w := p.window[len(p.window)-1]
		if w.lastOffset < max(first, m.log.Start(), m.floor[id]) {
			continue // deleted; or forgotten, see sameProducer
		}
		if !slices.ContainsFunc(got, func(b record.Batch) bool {
			return b.LastOffset() == w.lastOffset && b.ProducerID() == id && b.LastSequence() == w.lastSeq
		}) {
			return fmt.Errorf("S13: the last batch of producer %d, at offset %d, is gone", id, w.lastOffset)
		}
	}
	return nil
}

// checkLastValues: a read_committed consumer that reads everything ends up with the same map, and what is not
// decided yet is all there.
func (m *model) checkLastValues(history, got []record.Batch) error {
	start, stable := m.log.Start(), m.log.LastStable(m.log.committed.Load())
	var aborted []AbortedTxn
	ps := newProducers()
	for _, b := range m.batches {
		if a, ok := ps.apply(b, 0); ok && a.LastOffset >= start {
			aborted = append(aborted, a)
		}
	}
	want, err := committed(history, aborted, start, stable)
	if err != nil {
		return err
	}
	have, err := committed(got, m.log.Aborted(start, stable), start, stable)
	if err != nil {
		return err
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		w, h := want[key], have[key]
		if h.Offset != w.Offset && (w.Value != nil || h.Key != nil) {
			return fmt.Errorf("S13: the last value of key %x is at offset %d, the log says %d (start %d, stable %d; aborted are %v, the log says %v)", key, w.Offset, h.Offset, start, stable, aborted, m.log.Aborted(start, stable))
		}
		delete(have, key)
	}
	if len(have) > 0 {
		return fmt.Errorf("S13: the log has committed records of %d keys that were never committed", len(have))
	}
	// What is at or above the last stable offset is all there.
	count := func(batches []record.Batch) (n int) {
		for _, b := range batches {
			if b.BaseOffset() >= stable {
				n += int(b.Count())
			}
		}
		return n
	}
	if a, b := count(history), count(got); a != b {
		return fmt.Errorf("S13: %d of %d records above the last stable offset %d are there", b, a, stable)
	}
	return nil
}

// committed reads as a read_committed consumer does and returns the last record of each key.
func committed(batches []record.Batch, aborted []AbortedTxn, from, to int64) (map[string]record.Record, error) {
	aborted = slices.Clone(aborted)
	slices.SortFunc(aborted, func(a, b AbortedTxn) int { return cmp.Compare(a.FirstOffset, b.FirstOffset) })
	skip := map[int64]bool{}
	out := map[string]record.Record{}
	for _, b := range batches {
		if b.BaseOffset() >= to {
			break
		}
		for len(aborted) > 0 && aborted[0].FirstOffset <= b.LastOffset() {
			skip[aborted[0].ProducerID] = true
			aborted = aborted[1:]
		}
		if b.Control() {
			if kind, err := b.ControlType(); err == nil && kind == record.Abort {
				delete(skip, b.ProducerID())
			}
			continue
		}
		if b.Transactional() && skip[b.ProducerID()] {
			continue
		}
		if err := eachCopy(b, func(r record.Record) {
			if r.Offset >= from {
				out[string(r.Key)] = r
			}
		}); err != nil {
			return nil, err
		}
	}
	return out, nil
}
