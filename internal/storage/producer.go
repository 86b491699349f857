package storage

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"

	"moldau/internal/record"
)

// windowBatches is how many of a producer's last batches are known for the detection
// of duplicates; a client may have that many requests in flight (Kafka's constant).
const windowBatches = 5

// batchMark is one appended batch of a producer.
type batchMark struct {
	lastSeq     int32
	lastOffset  int64
	offsetDelta int32 // of the last record
	tsMs        int64 // the batch's largest timestamp
}

func (m batchMark) firstSeq() int32 {
	if m.lastSeq >= m.offsetDelta {
		return m.lastSeq - m.offsetDelta
	}
	return math.MaxInt32 - (m.offsetDelta - m.lastSeq) + 1
}

func (m batchMark) firstOffset() int64 { return m.lastOffset - int64(m.offsetDelta) }

// producer is what a log knows of one producer id.
type producer struct {
	epoch            int16
	coordinatorEpoch int32
	txnFirstOffset   int64       // of the open transaction, -1 without one
	lastTsMs         int64       // of the newest batch or marker, as its records say
	seenMs           int64       // when the newest batch or marker came, for expiry: record time may be any time
	window           []batchMark // oldest first, at most windowBatches, all of this epoch
}

// txnRange is a transaction whose marker is in the log: records from first on, the
// marker at last.
type txnRange struct {
	producerID  int64
	first, last int64
}

// AbortedTxn is an entry of the transaction index: records of the producer in
// [FirstOffset, LastOffset] are aborted.
type AbortedTxn struct {
	ProducerID       int64
	FirstOffset      int64
	LastOffset       int64 // of the abort marker
	LastStableOffset int64 // when the marker was written
}

// producers is the producer state of one log: a pure fold of its batches (S6).
// Guarded by Log.mu.
type producers struct {
	byID      map[int64]*producer
	undecided []txnRange // ended, marker maybe not yet below the high watermark, by last
}

func newProducers() *producers { return &producers{} }

func (ps *producers) set(id int64, p *producer) {
	if ps.byID == nil {
		ps.byID = map[int64]*producer{}
	}
	ps.byID[id] = p
}

func nextInSequence(last, first int32) bool {
	return first == last+1 || (last == math.MaxInt32 && first == 0) || (last == -1 && first == 0)
}

// check decides on a batch that a client sends. A duplicate is one of the producer's
// last five batches with the same epoch and the same first and last sequence.
func (ps *producers) check(b record.Batch) (dup batchMark, isDup bool, err error) {
	id := b.ProducerID()
	if id < 0 {
		return batchMark{}, false, nil
	}
	p := ps.byID[id]
	if p == nil {
		return batchMark{}, false, nil // expired or never seen: any sequence may start it
	}
	first, last := b.BaseSequence(), b.LastSequence()
	switch epoch := b.ProducerEpoch(); {
	case epoch < p.epoch:
		return batchMark{}, false, fmt.Errorf("producer %d has epoch %d, the batch epoch %d: %w", id, p.epoch, epoch, ErrProducerFenced)
	case epoch > p.epoch:
		if first != 0 {
			return batchMark{}, false, fmt.Errorf("producer %d begins epoch %d with sequence %d, not 0: %w", id, epoch, first, ErrOutOfOrder)
		}
		return batchMark{}, false, nil
	}
	for _, m := range p.window {
		if m.firstSeq() == first && m.lastSeq == last {
			return m, true, nil
		}
	}
	if n := len(p.window); n > 0 && !nextInSequence(p.window[n-1].lastSeq, first) {
		return batchMark{}, false, fmt.Errorf("producer %d sent sequences %d to %d, the next is %d: %w",
			id, first, last, next32(p.window[n-1].lastSeq), ErrOutOfOrder)
	}
	if p.txnFirstOffset >= 0 && !b.Transactional() {
		return batchMark{}, false, fmt.Errorf("producer %d has an open transaction and sent a batch outside it: %w", id, ErrTxnState)
	}
	return batchMark{}, false, nil
}

func next32(seq int32) int32 {
	if seq == math.MaxInt32 {
		return 0
	}
	return seq + 1
}

// apply folds one appended batch, whose offsets are final, into the state. For an
// abort marker it returns the transaction that it ends, without LastStableOffset.
func (ps *producers) apply(b record.Batch, nowMs int64) (aborted AbortedTxn, isAbort bool) {
	id := b.ProducerID()
	if id < 0 {
		return AbortedTxn{}, false
	}
	p := ps.byID[id]
	if p == nil {
		p = &producer{epoch: b.ProducerEpoch(), coordinatorEpoch: -1, txnFirstOffset: -1}
		ps.set(id, p)
	}
	if p.epoch != b.ProducerEpoch() {
		p.epoch, p.window = b.ProducerEpoch(), nil
	}
	p.lastTsMs, p.seenMs = b.MaxTimestampMs(), nowMs
	if b.Control() {
		return ps.applyMarker(id, p, b)
	}
	if len(p.window) == windowBatches {
		p.window = append(p.window[:0], p.window[1:]...)
	}
	p.window = append(p.window, batchMark{b.LastSequence(), b.LastOffset(), b.LastOffsetDelta(), b.MaxTimestampMs()})
	if b.Transactional() && p.txnFirstOffset < 0 {
		p.txnFirstOffset = b.BaseOffset()
	}
	return AbortedTxn{}, false
}

func (ps *producers) applyMarker(id int64, p *producer, b record.Batch) (AbortedTxn, bool) {
	marker, err := b.EndMarker()
	if err != nil {
		return AbortedTxn{}, false // a control record of another kind does not touch producers
	}
	p.coordinatorEpoch = marker.CoordinatorEpoch
	if p.txnFirstOffset < 0 {
		return AbortedTxn{}, false
	}
	t := txnRange{id, p.txnFirstOffset, b.LastOffset()}
	p.txnFirstOffset = -1
	ps.undecided = append(ps.undecided, t)
	return AbortedTxn{ProducerID: id, FirstOffset: t.first, LastOffset: t.last}, marker.Type == record.Abort
}

// firstOpen returns the first offset of an open transaction, at most limit.
func (ps *producers) firstOpen(limit int64) int64 {
	for _, p := range ps.byID {
		if p.txnFirstOffset >= 0 {
			limit = min(limit, p.txnFirstOffset)
		}
	}
	return limit
}

// lastStable returns the first offset that is not decided for read_committed:
// bounded by open transactions and by ended ones whose marker is not below
// highWatermark, and by highWatermark itself.
func (ps *producers) lastStable(highWatermark int64) int64 {
	lso := ps.firstOpen(highWatermark)
	ps.undecided = slices.DeleteFunc(ps.undecided, func(t txnRange) bool { return t.last < highWatermark })
	for _, t := range ps.undecided {
		lso = min(lso, t.first)
	}
	return lso
}

// undecidedTxns reports whether lastStable may give something else than the high watermark.
func (ps *producers) undecidedTxns() bool {
	if len(ps.undecided) > 0 {
		return true
	}
	for _, p := range ps.byID {
		if p.txnFirstOffset >= 0 {
			return true
		}
	}
	return false
}

// expire forgets producers without an open transaction that wrote nothing since
// beforeMs (producer.id.expiration.ms). Kafka goes by record time, which lets a producer of
// old records be forgotten while it writes; we go by the time of arrival.
func (ps *producers) expire(beforeMs int64) {
	for id, p := range ps.byID {
		if p.txnFirstOffset < 0 && p.seenMs < beforeMs {
			delete(ps.byID, id)
		}
	}
}

func (ps *producers) ids() []int64 {
	ids := make([]int64, 0, len(ps.byID))
	for id := range ps.byID {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// snapshotEntryBytes is one producer in Kafka's .snapshot file, version 1.
const (
	snapshotHeaderBytes = 2 + 4 + 4
	snapshotEntryBytes  = 8 + 2 + 4 + 8 + 4 + 8 + 4 + 8
)

// snapshot is Kafka's .snapshot file: per producer only the last batch.
func (ps *producers) snapshot() []byte {
	ids := ps.ids()
	out := make([]byte, 6, snapshotHeaderBytes+len(ids)*snapshotEntryBytes)
	binary.BigEndian.PutUint16(out, 1)
	out = binary.BigEndian.AppendUint32(out, uint32(len(ids)))
	for _, id := range ids {
		p := ps.byID[id]
		last := batchMark{lastSeq: -1, lastOffset: -1, tsMs: p.lastTsMs}
		if n := len(p.window); n > 0 {
			last = p.window[n-1]
		}
		out = binary.BigEndian.AppendUint64(out, uint64(id))
		out = binary.BigEndian.AppendUint16(out, uint16(p.epoch))
		out = binary.BigEndian.AppendUint32(out, uint32(last.lastSeq))
		out = binary.BigEndian.AppendUint64(out, uint64(last.lastOffset))
		out = binary.BigEndian.AppendUint32(out, uint32(last.offsetDelta))
		out = binary.BigEndian.AppendUint64(out, uint64(p.lastTsMs))
		out = binary.BigEndian.AppendUint32(out, uint32(p.coordinatorEpoch))
		out = binary.BigEndian.AppendUint64(out, uint64(p.txnFirstOffset))
	}
	binary.BigEndian.PutUint32(out[2:], crc32.Checksum(out[6:], castagnoli))
	return out
}

// parseSnapshot reads Kafka's .snapshot file, version 1. It does not say when its
// producers wrote last: they count as seen at nowMs.
func parseSnapshot(p []byte, nowMs int64) (*producers, error) {
	if len(p) < snapshotHeaderBytes {
		return nil, fmt.Errorf("it has %d bytes, less than its header", len(p))
	}
	if v := binary.BigEndian.Uint16(p); v != 1 {
		return nil, fmt.Errorf("its version is %d, not 1", v)
	}
	if crc := binary.BigEndian.Uint32(p[2:]); crc != crc32.Checksum(p[6:], castagnoli) {
		return nil, fmt.Errorf("its checksum does not match")
	}
	n := int64(binary.BigEndian.Uint32(p[6:]))
	if n*snapshotEntryBytes != int64(len(p)-snapshotHeaderBytes) {
		return nil, fmt.Errorf("it claims %d entries in %d bytes", n, len(p))
	}
	ps := newProducers()
	for p = p[snapshotHeaderBytes:]; len(p) > 0; p = p[snapshotEntryBytes:] {
		e := &producer{
			epoch:            int16(binary.BigEndian.Uint16(p[8:])),
			lastTsMs:         int64(binary.BigEndian.Uint64(p[26:])),
			coordinatorEpoch: int32(binary.BigEndian.Uint32(p[34:])),
			txnFirstOffset:   int64(binary.BigEndian.Uint64(p[38:])),
			seenMs:           nowMs,
		}
		last := batchMark{
			lastSeq:     int32(binary.BigEndian.Uint32(p[10:])),
			lastOffset:  int64(binary.BigEndian.Uint64(p[14:])),
			offsetDelta: int32(binary.BigEndian.Uint32(p[22:])),
			tsMs:        e.lastTsMs,
		}
		if last.lastOffset >= 0 {
			e.window = append(e.window, last)
		}
		ps.set(int64(binary.BigEndian.Uint64(p)), e)
	}
	return ps, nil
}

// encode is our own form, kept in the manifest: it holds the whole windows and the
// undecided transactions, so that a restart knows what was known before (S6).
func (ps *producers) encode(dst []byte) []byte {
	ids := ps.ids()
	dst = binary.AppendUvarint(dst, uint64(len(ids)))
	for _, id := range ids {
		p := ps.byID[id]
		dst = binary.AppendVarint(dst, id)
		dst = binary.AppendVarint(dst, int64(p.epoch))
		dst = binary.AppendVarint(dst, int64(p.coordinatorEpoch))
		dst = binary.AppendVarint(dst, p.txnFirstOffset)
		dst = binary.AppendVarint(dst, p.lastTsMs)
		dst = binary.AppendVarint(dst, p.seenMs)
		dst = binary.AppendUvarint(dst, uint64(len(p.window)))
		for _, m := range p.window {
			dst = binary.AppendVarint(dst, int64(m.lastSeq))
			dst = binary.AppendVarint(dst, m.lastOffset)
			dst = binary.AppendVarint(dst, int64(m.offsetDelta))
			dst = binary.AppendVarint(dst, m.tsMs)
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(ps.undecided)))
	for _, t := range ps.undecided {
		dst = binary.AppendVarint(dst, t.producerID)
		dst = binary.AppendVarint(dst, t.first)
		dst = binary.AppendVarint(dst, t.last)
	}
	return dst
}

// remember completes a state that was read from Kafka's snapshot at offset with what
// old, a later state of the same log, still knows of the time before offset.
func (ps *producers) remember(old *producers, offset int64) {
	for id, p := range ps.byID {
		q := old.byID[id]
		if q == nil || q.epoch != p.epoch {
			continue
		}
		if w := slices.DeleteFunc(slices.Clone(q.window), func(m batchMark) bool { return m.lastOffset >= offset }); len(w) >= len(p.window) {
			p.window = w
		}
	}
	for _, t := range old.undecided {
		if t.last < offset {
			ps.undecided = append(ps.undecided, t)
		}
	}
}

// complete gives a state that was folded from the batches below end what old, a later state of the same log, knows of
// them: batches that compaction has removed are still among a producer's last five.
func (ps *producers) complete(old *producers, end int64) {
	for id, p := range ps.byID {
		q := old.byID[id]
		if q == nil || q.epoch != p.epoch {
			continue
		}
		known := slices.DeleteFunc(slices.Clone(q.window), func(m batchMark) bool { return m.lastOffset >= end })
		if len(known) == 0 {
			continue
		}
		older := slices.DeleteFunc(p.window, func(m batchMark) bool { return m.lastOffset >= known[0].lastOffset })
		w := append(older, known...)
		p.window = w[max(0, len(w)-windowBatches):]
	}
}

// decodeProducers reads what encode wrote.
func decodeProducers(r *reader) *producers {
	ps := newProducers()
	for n := r.count(7); n > 0; n-- {
		id := r.varint()
		p := &producer{
			epoch:            int16(r.varint()),
			coordinatorEpoch: int32(r.varint()),
			txnFirstOffset:   r.varint(),
			lastTsMs:         r.varint(),
			seenMs:           r.varint(),
		}
		for m := r.count(4); m > 0; m-- {
			p.window = append(p.window, batchMark{int32(r.varint()), r.varint(), int32(r.varint()), r.varint()})
		}
		ps.set(id, p)
	}
	for n := r.count(3); n > 0; n-- {
		ps.undecided = append(ps.undecided, txnRange{r.varint(), r.varint(), r.varint()})
	}
	return ps
}

// reader takes varints off a buffer; the first failure sticks.
type reader struct {
	p   []byte
	err error
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = fmt.Errorf("it ends inside a field")
	}
	r.p = nil
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.p)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.p = r.p[n:]
	return v
}

func (r *reader) skipVarints(n int) {
	for range n {
		r.varint()
	}
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.p)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.p = r.p[n:]
	return v
}

// count reads a number of elements that take at least elemBytes each.
func (r *reader) count(elemBytes int) int {
	n := r.uvarint()
	if n > uint64(len(r.p)/elemBytes) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) bytes(n int) []byte {
	if n < 0 || n > len(r.p) {
		r.fail()
		return nil
	}
	b := r.p[:n]
	r.p = r.p[n:]
	return b
}
