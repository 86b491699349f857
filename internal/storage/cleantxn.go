package storage

import (
	"cmp"
	"slices"

	"moldau/internal/record"
)

// txnFilter follows the transactions of a log that is read in order, and tells which batches
// are of an aborted one and which markers end a transaction that has no batch left. It
// is Kafka's rule: a marker stays until nothing of its transaction is there any more, and
// delete.retention.ms longer.
type txnFilter struct {
	aborted   []AbortedTxn // not begun, by first offset
	open      map[int64]*openAbort
	committed map[int64]bool // producers of whose running, not aborted transaction there was a batch
}

type openAbort struct {
	txn  AbortedTxn
	seen bool // a batch of it was there
}

// newTxnFilter follows the aborted transactions given, whose markers all lie in what will be read.
func newTxnFilter(aborted []AbortedTxn) *txnFilter {
	aborted = slices.Clone(aborted)
	slices.SortFunc(aborted, func(a, b AbortedTxn) int { return cmp.Compare(a.FirstOffset, b.FirstOffset) })
	return &txnFilter{aborted: aborted, open: map[int64]*openAbort{}, committed: map[int64]bool{}}
}

func (f *txnFilter) advance(offset int64) {
	for len(f.aborted) > 0 && f.aborted[0].FirstOffset <= offset {
		f.open[f.aborted[0].ProducerID] = &openAbort{txn: f.aborted[0]}
		f.aborted = f.aborted[1:]
	}
}

// data takes a batch of records and reports whether they are aborted.
func (f *txnFilter) data(b record.Batch) (aborted bool) {
	f.advance(b.LastOffset())
	if !b.Transactional() {
		return false
	}
	if o := f.open[b.ProducerID()]; o != nil {
		o.seen = true
		return true
	}
	f.committed[b.ProducerID()] = true
	return false
}

// marker takes a control batch. needless says that nothing of its transaction was there; else, for
// an abort, entry is what the transaction index keeps.
func (f *txnFilter) marker(b record.Batch) (needless bool, entry *AbortedTxn) {
	f.advance(b.LastOffset())
	if b.Count() == 0 {
		return true, nil // a marker that was removed before; its batch stayed for its producer
	}
	kind, err := b.ControlType()
	if err != nil {
		return false, nil
	}
	id := b.ProducerID()
	switch kind {
	case record.Abort:
		o := f.open[id]
		delete(f.open, id)
		if o != nil && o.seen {
			return false, &o.txn
		}
		return true, nil
	case record.Commit:
		had := f.committed[id]
		delete(f.committed, id)
		return !had, nil
	}
	return false, nil // a control record that we do not know
}
