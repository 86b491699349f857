package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

const (
	// inspectedBatchBytes bounds the batch whose records are looked at; of a larger one only the CRC is checked.
	inspectedBatchBytes = 128 << 20
	inspectedInflated   = 1 << 30

	adviceDamaged = "bring back an undamaged copy of the file while the broker is stopped; without one the broker serves what is before and behind, and docs/operations.md says how to go on"
	adviceStale   = "moldau log repair makes it anew from the batches"
	adviceStart   = "nothing: the next start sees to it"
)

// partitionInspection is one pass over a partition directory.
type partitionInspection struct {
	x     *Inspection
	ctx   context.Context
	tp    TopicPartition
	dir   string
	found func(Finding)
	sum   Inspected

	entry    *manifestEntry // nil: not known
	point    *point         // of entry, or nil
	infos    []vfs.Info
	segments []*segment
	start    int64 // of the log, as far as segments are concerned
	loose    bool  // a compaction was interrupted: segments overlap until the next start

	gaps int64 // below it offsets may be missing
	// What recovery will read: from the segment at offset unsettled on, derived files are not finished, and from offset durable on there
	// may be torn batches. MaxInt64: nothing, the broker was stopped.
	unsettled, durable int64
	pointPos           int64 // byte of the segment at unsettled from where recovery reads
	torn               bool  // the log ends where a torn batch is

	// The fold of the batches so far.
	producers *producers
	whole     bool // it is that of all batches that there were: nothing is missing, damaged or compacted
	begun     bool // it began with a known state
	aborted   []AbortedTxn
	markers   map[int64]int64 // offset of each abort marker of the segment: its producer
	epochs    epochs          // as the batches say
	fileEpoch *epochs         // as leader-epoch-checkpoint says, or nil
	badEpochs epochRun
	epochsErr error          // why leader-epoch-checkpoint cannot be read
	starts    map[int64]bool // offsets at which an entry of fileEpoch begins and a batch does, too
	body      []byte
}

// epochRun is a run of batches whose leader epoch is not that of the file.
type epochRun struct {
	n                int
	first, next      int64
	batch, file, pos int64
	name             string
}

func (p *partitionInspection) run() error {
	var err error
	if p.infos, err = p.x.fs.ReadDir(p.dir); err != nil {
		return err
	}
	p.identify()
	if err := p.list(); err != nil {
		return err
	}
	if len(p.segments) == 0 {
		if p.entry != nil && p.entry.durable() > 0 && !p.x.live {
			p.found(Finding{Damaged, p.dir, -1, 0, p.entry.durable(), "no segment is there, and there were records", adviceDamaged, nil})
		}
		return nil
	}
	p.skipDeleted()
	p.sum.Start = p.segments[0].base
	p.settle()
	p.begin()
	segments := p.segments
	if p.x.live {
		segments = segments[:len(segments)-1]
	}
	for i := range segments {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		if p.torn {
			p.found(Finding{Note, segments[i].path(logSuffix), -1, 0, 0, "it is behind the place where the log ends for the next start", "nothing: the next start sets it aside", nil})
			continue
		}
		if err := p.segment(i); err != nil {
			return err
		}
	}
	if !p.x.live {
		p.end()
	}
	return nil
}

// identify finds out whose directory it is, and what the manifest says of it.
func (p *partitionInspection) identify() {
	name := path.Join(p.dir, partitionMetadataFile)
	id, err := readTopicID(p.x.fs, p.dir)
	switch {
	case err != nil:
		p.found(Finding{Damaged, name, 0, 0, 0, err.Error(), "restore it from a copy: it has the lines version: 0 and topic_id: ID, and moldau topic describe shows the id", nil})
	case id.IsZero():
		p.found(Finding{Note, name, -1, 0, 0, "it is not there: a crash in the first append, or a very old Kafka", "nothing: the next start sees to it", nil})
	}
	if p.x.manifest == nil {
		return
	}
	if p.entry = p.x.entryOf(id, p.tp); p.entry == nil && err == nil {
		p.found(Finding{Note, p.dir, -1, 0, 0, "the manifest does not know it", "moldau log adopt takes it in, if no topic has it", nil})
	}
	if p.entry != nil {
		p.point, _ = p.entry.decode()
	}
}

// list sorts the files, and reports those that are left over.
func (p *partitionInspection) list() error {
	l := &Log{dir: &Dir{fs: p.x.fs, pool: newDescriptors(1), indexes: &indexCache{}}, path: p.dir}
	var err error
	if p.segments, err = l.listSegments(p.infos); err != nil {
		return err
	}
	p.sum.Segments = len(p.segments)
	bases := map[int64]bool{}
	for _, s := range p.segments {
		bases[s.base] = true
	}
	for _, info := range p.infos {
		what, do := "", adviceStart
		digits, suffix, _ := strings.Cut(info.Name, ".")
		base, numberErr := strconv.ParseInt(digits, 10, 64)
		ofSegment := numberErr == nil && len(digits) == 20 && !info.IsDir && slices.Contains(segmentSuffixes[:], "."+suffix)
		switch {
		case strings.HasSuffix(info.Name, deletedSuffix):
			what = "a file of a segment that has left the log"
		case strings.HasSuffix(info.Name, cleanedSuffix), strings.HasSuffix(info.Name, swapSuffix):
			p.loose = true
			what = "a compaction was interrupted, and the next start undoes or finishes it; until then what follows from the order of the segments is not checked"
		case strings.HasSuffix(info.Name, ".tmp"):
			what, do = "a file that a crash left half written", "nothing: the next write of it takes its place"
		case ofSegment && !bases[base] && "."+suffix != snapshotSuffix:
			what, do = "there is no segment that it belongs to", "nothing; it may be removed"
		case !ofSegment && info.Name != partitionMetadataFile && info.Name != epochsFile:
			what, do = "this file is not known", "nothing; neither Moldau nor Apache Kafka reads it"
		}
		if what != "" && !p.x.live {
			p.found(Finding{Note, path.Join(p.dir, info.Name), -1, 0, 0, what, do, nil})
		}
	}
	return nil
}

// skipDeleted leaves out the segments below the log start: a start removes them, and some of their files may have gone already.
func (p *partitionInspection) skipDeleted() {
	p.start = p.x.starts[p.tp]
	if e := p.entry; e != nil {
		if p.start = e.start; p.point != nil {
			p.start = min(p.start, p.point.segment)
		}
	}
	for len(p.segments) > 1 && p.segments[1].base <= p.start && !p.loose {
		p.found(Finding{Note, p.segments[0].path(logSuffix), -1, 0, 0, fmt.Sprintf("it is below the log start, offset %d", p.start), adviceStart, nil})
		p.segments = p.segments[1:]
	}
}

// settle finds out what is finished, and what the next start has still to do.
func (p *partitionInspection) settle() {
	e := p.entry
	at := p.x.recovery[p.tp]
	if e != nil {
		at = e.durable()
		if p.x.journal { // what was flushed behind the point may stand in the journal only
			at = 0
			if p.point != nil {
				at = p.point.offset
			}
		}
		p.gaps = e.cleaned().gaps
	}
	last := p.segments[len(p.segments)-1]
	switch {
	case p.point != nil:
		pt := p.point
		i := slices.IndexFunc(p.segments, func(s *segment) bool { return s.base == pt.segment })
		switch {
		case p.x.live:
		case i < 0:
			p.found(Finding{Damaged, path.Join(p.dir, segmentFile(pt.segment, logSuffix)), -1, pt.segment, pt.offset, "it is not there, and its records were durable", adviceDamaged, nil})
		case p.segments[i].size.Load() < pt.pos:
			p.found(Finding{Damaged, p.segments[i].path(logSuffix), p.segments[i].size.Load(), 0, 0,
				fmt.Sprintf("the file ends here, and %d bytes were durable; the partition is offline until they are back", pt.pos), adviceDamaged, nil})
		}
		if !p.x.cleanly {
			p.unsettled, p.pointPos = pt.segment, pt.pos
		}
	case !p.x.cleanly && e != nil:
		p.unsettled = 0
	case !p.x.cleanly:
		p.unsettled = (&view{segments: p.segments}).baseOf(at)
		if at == 0 {
			p.unsettled = last.base // nobody says how far it was flushed
		}
	}
	p.durable = at
}

// baseOf is the base offset of the segment that holds offset.
func (v *view) baseOf(offset int64) int64 { return v.segments[max(v.find(offset), 0)].base }

// begin reads what the fold starts from, and the leader epochs.
func (p *partitionInspection) begin() {
	first := p.segments[0]
	p.producers, p.whole, p.begun = newProducers(), !p.loose, first.base == 0
	if data, found, err := readFile(p.x.fs, first.path(snapshotSuffix), 1<<30); first.base > 0 && err == nil && found {
		if ps, err := parseSnapshot(data, 0); err == nil {
			p.producers, p.begun = ps, true
		}
	}
	if p.x.cleaned[p.tp] > 0 || p.entry != nil && p.entry.cleaned().gaps > 0 {
		p.whole = false
	}
	name := path.Join(p.dir, epochsFile)
	text, found, err := readFile(p.x.fs, name, 1<<28)
	if err == nil && found {
		var entries []EpochEntry
		if entries, err = parseEpochs(string(text)); err == nil {
			p.fileEpoch, p.starts = &epochs{entries}, map[int64]bool{}
		}
	}
	p.epochsErr = err
}

// derived is the severity of a derived file of the segment at base that does not fit: the next start makes those anew that were not finished.
func (p *partitionInspection) derived(base int64) Severity {
	if p.x.live || base >= p.unsettled || p.loose {
		return Note
	}
	return Stale
}

func (p *partitionInspection) tellDerived(base int64, f Finding) {
	if f.Severity, f.Do = p.derived(base), adviceStale; f.Severity == Note {
		f.Do, f.Fix = adviceStart, nil
	}
	p.found(f)
}

// mayBeTorn says that a bad batch at pos of segment i, where offset next should be, may be a write that the power cut off.
func (p *partitionInspection) mayBeTorn(s *segment, pos, next int64) bool {
	if p.unsettled == math.MaxInt64 || next < p.durable {
		return false
	}
	return s.base > p.unsettled || s.base == p.unsettled && pos >= p.pointPos
}

// errTorn ends the walk where recovery will end the log.
var errTorn = errors.New("the log ends here for the next start")

func (p *partitionInspection) segment(i int) error {
	s := p.segments[i]
	f, err := p.x.fs.Open(s.path(logSuffix), vfs.ReadOnly)
	if err != nil {
		return err
	}
	defer f.Close()
	w := &walk{file: f, size: s.size.Load(), next: s.base, limit: math.MaxInt64, gaps: p.gaps, durable: p.durable}
	if i+1 < len(p.segments) && !p.loose {
		w.limit = p.segments[i+1].base
		if !p.x.live && w.limit >= p.unsettled && w.limit >= p.durable && p.segments[i+1].size.Load() == 0 && i+2 == len(p.segments) {
			w.limit = math.MaxInt64 // a name of a crash, which may be that of any offset
		}
	}
	if p.loose {
		w.gaps = math.MaxInt64
	}
	if pt := p.point; pt != nil {
		known := epochs{pt.epochs}
		w.epoch = func(offset int64) int32 {
			if offset >= pt.offset {
				return -1
			}
			return known.at(offset)
		}
	}
	index := newIndexCheck(s)
	p.aborted, p.markers = nil, map[int64]int64{}
	if i > 0 {
		p.snapshotAt(s.base)
	}
	var damage []Damage
	next := s.base
	err = w.run(func(h record.Header, pos int64) error {
		if h.BaseOffset() > next {
			p.whole = false
			if c, known := p.x.cleaned[p.tp]; p.entry == nil && (!known || next >= c) && !p.loose {
				p.found(Finding{Note, s.path(logSuffix), pos, 0, 0, fmt.Sprintf("offsets %d to %d are not there", next, h.BaseOffset()-1), "nothing, if the topic was ever compacted", nil})
			}
		}
		next = h.NextOffset()
		index.batch(h, pos)
		return p.batch(f, s, h, pos)
	}, func(d Damage) error {
		d.File = s.path(logSuffix)
		p.whole, p.begun = false, false
		next = d.Next
		if p.mayBeTorn(s, d.Pos, d.First) {
			p.torn, p.sum.End = true, d.First
			zeros, err := allZero(f, d.Pos, w.size) // an append leaves them for the next one
			if err != nil {
				return err
			}
			if !zeros {
				p.found(Finding{Note, d.File, d.Pos, 0, 0, fmt.Sprintf("the last %d bytes are torn: %v", w.size-d.Pos, d.Err), "nothing: none of it was known to be durable, and the next start sets it aside", nil})
			}
			return errTorn
		}
		damage = append(damage, d)
		index.damage(d)
		return nil
	})
	if err != nil && !errors.Is(err, errTorn) {
		return err
	}
	for _, d := range damage {
		if p.x.live && p.changed(s) {
			return nil
		}
		f := Finding{Damaged, d.File, d.Pos, d.First, d.Next, d.Err.Error(), adviceDamaged, nil}
		if d.Next == math.MaxInt64 {
			f.Next = max(d.First+1, p.durable)
		}
		p.found(f)
	}
	if p.sum.End = max(p.sum.End, w.next); len(damage) > 0 && damage[len(damage)-1].Next == math.MaxInt64 {
		p.sum.End = max(damage[len(damage)-1].First, p.durable)
	}
	if p.torn || p.x.live && p.changed(s) {
		return nil
	}
	p.indexes(s, index)
	p.transactions(s, next)
	return nil
}

// changed says that a running broker has replaced or removed the segment meanwhile.
func (p *partitionInspection) changed(s *segment) bool {
	info, err := p.x.fs.Stat(s.path(logSuffix))
	return err != nil || info.Size != s.size.Load() || info.ModTime.UnixMilli() != s.createdMs
}

// batch takes a batch that is whole.
func (p *partitionInspection) batch(f vfs.File, s *segment, h record.Header, pos int64) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	p.x.read.Add(int64(h.Size()))
	p.sum.Batches++
	p.sum.Records += int64(h.Count())
	p.sum.Bytes += int64(h.Size())
	p.leaderEpoch(s, h, pos)
	if h.Size() > inspectedBatchBytes {
		p.whole, p.begun = false, false
		p.found(Finding{Note, s.path(logSuffix), pos, 0, 0, fmt.Sprintf("the batch has %d bytes, and its records were not looked at; its CRC fits", h.Size()), "nothing", nil})
		return nil
	}
	p.body = slices.Grow(p.body[:0], h.Size())[:h.Size()]
	if n, err := f.ReadAt(p.body, pos); n < len(p.body) {
		return fmt.Errorf("%s: read at byte %d: %w", s.path(logSuffix), pos, err)
	}
	b, _, err := record.Parse(p.body)
	if err != nil {
		return fmt.Errorf("%s: it changed while it was read, at byte %d: %w", s.path(logSuffix), pos, err)
	}
	if err := checkRecords(b); err != nil {
		p.found(Finding{Damaged, s.path(logSuffix), pos, b.BaseOffset(), b.NextOffset(), "the CRC fits, and the records cannot be read: " + err.Error(),
			"whoever wrote it wrote it so: consumers have to pass over it", nil})
	}
	isAbort := false
	if m, err := b.EndMarker(); b.Control() && b.Count() > 0 && err == nil {
		isAbort = m.Type == record.Abort
	}
	aborted, ok := p.producers.apply(b, 0)
	if ok {
		aborted.LastStableOffset = p.producers.firstOpen(b.NextOffset())
		p.aborted = append(p.aborted, aborted)
	}
	p.producers.undecided = p.producers.undecided[:0]
	if isAbort {
		p.markers[b.LastOffset()] = b.ProducerID()
	}
	return nil
}

// checkRecords reads all records of a batch: that they are whole, and that their offsets are those of the batch and grow.
func checkRecords(b record.Batch) error {
	last := b.BaseOffset() - 1
	err := b.Each(inspectedInflated, func(r record.Record) error {
		if r.Offset <= last || r.Offset > b.LastOffset() {
			return fmt.Errorf("a record has offset %d behind %d, the batch ends with %d", r.Offset, last, b.LastOffset())
		}
		last = r.Offset
		return record.EachHeader(r.Headers, func(string, []byte) error { return nil })
	})
	if errors.Is(err, record.ErrTooLarge) {
		return nil
	}
	return err
}

// leaderEpoch compares a batch's leader epoch with that of the batches before, and of the file.
func (p *partitionInspection) leaderEpoch(s *segment, h record.Header, pos int64) {
	epoch := h.LeaderEpoch()
	if epoch < 0 {
		return
	}
	if last := p.epochs.latest(); epoch < last {
		if p.mayBeTorn(s, pos, h.BaseOffset()) {
			return
		}
		p.found(Finding{Damaged, s.path(logSuffix), pos, 0, 0, fmt.Sprintf("the batch at offset %d has leader epoch %d, a batch before it has %d: one of the two is wrong", h.BaseOffset(), epoch, last),
			adviceDamaged, nil})
	} else if _, err := p.epochs.assign(epoch, h.BaseOffset()); err != nil {
		panic("BUG: leader epochs fall: " + err.Error())
	}
	if p.fileEpoch == nil {
		return
	}
	p.starts[h.BaseOffset()] = true
	want := p.fileEpoch.at(h.BaseOffset())
	if r := &p.badEpochs; want >= 0 && want != epoch && r.n == 0 {
		*r = epochRun{first: h.BaseOffset(), batch: int64(epoch), file: int64(want), name: s.path(logSuffix), pos: pos}
	}
	if want >= 0 && want != epoch {
		p.badEpochs.n++
		p.badEpochs.next = h.NextOffset()
	}
}

// indexes tells what does not fit in the index files.
func (p *partitionInspection) indexes(s *segment, index *indexCheck) {
	index.finish()
	if len(index.problems) == 0 {
		return
	}
	fresh := index.fresh()
	told := map[string]bool{}
	for _, bad := range index.problems {
		if told[bad.File] {
			continue
		}
		told[bad.File] = true
		data := fresh.appendOffsets(nil, 0)
		if strings.HasSuffix(bad.File, timeSuffix) {
			data = fresh.appendTimes(nil, 0)
		}
		what, base := bad.Err.Error(), s.base
		if errors.Is(bad.Err, ErrMissing) {
			what = "it is not there"
			if p.unsettled < math.MaxInt64 {
				base = math.MaxInt64 // a crash may have come while the segment was being removed
			}
			if s.base >= p.unsettled {
				continue // of every segment that is being appended to
			}
		}
		p.tellDerived(base, Finding{File: bad.File, Pos: bad.Pos, What: what, Fix: &Fix{data}})
	}
}

// transactions compares the transaction index of a segment with its batches; next is the offset behind the last one.
func (p *partitionInspection) transactions(s *segment, next int64) {
	name := s.path(txnSuffix)
	tell := func(pos int64, format string, args ...any) {
		var fix *Fix
		if p.whole && p.begun {
			data := []byte{}
			for _, a := range p.aborted {
				data = appendTxnEntry(data, a)
			}
			fix = &Fix{data}
		}
		f := Finding{File: name, Pos: pos, What: fmt.Sprintf(format, args...), Fix: fix}
		if p.tellDerived(s.base, f); fix == nil && p.derived(s.base) == Stale {
			f.Do = adviceDamaged
		}
	}
	data, _, err := readFile(p.x.fs, name, indexMaxBytes)
	if err != nil {
		tell(0, "it cannot be read: %v", err)
		return
	}
	entries, err := parseTxnIndex(data)
	if err != nil {
		tell(0, "%v", err)
		return
	}
	if p.whole && p.begun {
		for i, want := range p.aborted {
			if i >= len(entries) {
				tell(int64(len(data)), "the transaction that producer %d aborted at offset %d is not in it", want.ProducerID, want.LastOffset)
				return
			}
			if entries[i] != want {
				tell(int64(i*txnEntryBytes), "entry %+v, the batches say %+v", entries[i], want)
				return
			}
		}
		if len(entries) > len(p.aborted) {
			tell(int64(len(p.aborted)*txnEntryBytes), "entry %+v is of no transaction that the segment ends", entries[len(p.aborted)])
		}
		return
	}
	firsts := map[int64]int64{}
	for _, a := range p.aborted {
		firsts[a.LastOffset] = a.FirstOffset
	}
	for i, e := range entries {
		pos := int64(i * txnEntryBytes)
		first, seen := firsts[e.LastOffset]
		switch producer, ok := p.markers[e.LastOffset]; {
		case p.begun && (!ok || producer != e.ProducerID):
			tell(pos, "entry %+v, no marker of this producer is at its last offset", e)
			return
		case e.FirstOffset < 0 || e.FirstOffset > e.LastOffset || e.LastStableOffset < 0 || e.LastStableOffset > e.LastOffset+1 || e.LastOffset < s.base || e.LastOffset >= max(next, s.base+1):
			tell(pos, "entry %+v is out of order", e)
			return
		case seen && first < e.FirstOffset && first >= p.gaps:
			tell(pos, "entry %+v, the transaction has a batch at offset %d", e, first)
			return
		}
		delete(firsts, e.LastOffset)
	}
	if len(firsts) > 0 && p.begun && s.base >= p.gaps { // compaction takes the entry with the last batch
		last := slices.Sorted(func(yield func(int64) bool) {
			for at := range firsts {
				if !yield(at) {
					return
				}
			}
		})[0]
		tell(int64(len(data)), "the transaction that was aborted at offset %d is not in it", last)
	}
}

// snapshotAt compares the producer snapshot at offset, which the fold has come to, with the fold.
func (p *partitionInspection) snapshotAt(offset int64) {
	name := path.Join(p.dir, segmentFile(offset, snapshotSuffix))
	data, found, err := readFile(p.x.fs, name, 1<<30)
	if err == nil && !found {
		return // old ones go, and none is needed: the state is folded from an older one on
	}
	var fix *Fix
	if p.whole && p.begun {
		fix = &Fix{p.producers.snapshot()}
	}
	tell := func(pos int64, what string) {
		// A snapshot is of what was before its segment.
		p.tellDerived(offset, Finding{File: name, Pos: pos, What: what, Fix: fix})
	}
	var ps *producers
	if err == nil {
		ps, err = parseSnapshot(data, 0)
	}
	if err != nil {
		tell(0, err.Error())
		return
	}
	if !p.begun {
		p.producers, p.begun = ps, true // from here on it is known
		return
	}
	at := int64(snapshotHeaderBytes)
	for _, id := range ps.ids() {
		want, got := p.producers.byID[id], ps.byID[id]
		switch {
		case want == nil:
		case got.epoch < want.epoch, p.whole && got.epoch != want.epoch:
			tell(at, fmt.Sprintf("producer %d has epoch %d, the batches say %d", id, got.epoch, want.epoch))
			return
		case p.whole && got.txnFirstOffset != want.txnFirstOffset:
			tell(at, fmt.Sprintf("producer %d has a transaction from offset %d on, the batches say %d", id, got.txnFirstOffset, want.txnFirstOffset))
			return
		case len(got.window) > 0 && got.window[0].lastOffset >= offset:
			tell(at, fmt.Sprintf("producer %d has offset %d, which is not before it", id, got.window[0].lastOffset))
			return
		case len(got.window) > 0 && len(want.window) > 0 && p.whole && !got.window[0].samePlace(want.window[len(want.window)-1]):
			tell(at, fmt.Sprintf("producer %d ended with sequence %d at offset %d, the batches say %d at %d", id,
				got.window[0].lastSeq, got.window[0].lastOffset, want.window[len(want.window)-1].lastSeq, want.window[len(want.window)-1].lastOffset))
			return
		}
		at += snapshotEntryBytes
	}
}

func (m batchMark) samePlace(o batchMark) bool {
	return m.lastSeq == o.lastSeq && m.lastOffset == o.lastOffset && m.offsetDelta == o.offsetDelta
}

// end checks what speaks of the log as a whole.
func (p *partitionInspection) end() {
	end := p.sum.End
	last := p.segments[len(p.segments)-1].path(logSuffix)
	for _, info := range p.infos {
		digits, ok := strings.CutSuffix(info.Name, snapshotSuffix)
		at, err := strconv.ParseInt(digits, 10, 64)
		if !ok || err != nil {
			continue
		}
		if at > end {
			p.found(Finding{Note, path.Join(p.dir, info.Name), -1, 0, 0, fmt.Sprintf("it is of offset %d, the log ends at %d", at, end), adviceStart, nil})
		} else if at == end && at > p.segments[len(p.segments)-1].base {
			p.snapshotAt(at)
		} else if !slices.ContainsFunc(p.segments, func(s *segment) bool { return s.base == at }) {
			p.orphanSnapshot(info.Name, at)
		}
	}
	if p.durable > end && !p.loose && (p.entry != nil || p.x.cleanly) {
		p.found(Finding{Damaged, last, p.segments[len(p.segments)-1].size.Load(), end, p.durable, fmt.Sprintf("the log ends at offset %d, and was durable up to %d", end, p.durable), adviceDamaged, nil})
	}
	start := max(p.x.starts[p.tp], p.sum.Start)
	if p.entry != nil {
		start = max(p.entry.start, p.sum.Start)
	}
	if start > max(end, p.durable) && !p.torn && !p.loose && !p.x.journal {
		severity := Note
		if p.entry != nil {
			severity = Damaged
		}
		p.found(Finding{severity, last, -1, 0, 0, fmt.Sprintf("the log ends at offset %d, and is said to begin at %d", end, start), adviceDamaged, nil})
	}
	p.sum.Start = start
	p.epochFile(start, end)
}

// orphanSnapshot looks at a snapshot at which no segment begins.
func (p *partitionInspection) orphanSnapshot(name string, at int64) {
	data, _, err := readFile(p.x.fs, path.Join(p.dir, name), 1<<30)
	if err == nil {
		_, err = parseSnapshot(data, 0)
	}
	if err != nil {
		p.found(Finding{Note, path.Join(p.dir, name), 0, 0, 0, fmt.Sprintf("no segment begins at offset %d, and it cannot be read: %v", at, err), "nothing; it may be removed", nil})
	}
}

// epochFile compares leader-epoch-checkpoint with the batches.
func (p *partitionInspection) epochFile(start, end int64) {
	name := path.Join(p.dir, epochsFile)
	tell := func(format string, args ...any) {
		var fix *Fix
		if p.whole {
			e := epochs{slices.Clone(p.epochs.entries)}
			e.cutHead(start)
			fix = &Fix{encodeEpochs(e.entries)}
		}
		p.tellDerived(p.unsettledEpochs(), Finding{File: name, Pos: -1, What: fmt.Sprintf(format, args...), Fix: fix})
	}
	if p.fileEpoch == nil {
		if p.epochsErr != nil {
			tell("it cannot be read: %v", p.epochsErr)
		} else if len(p.epochs.entries) > 0 && start < end && p.unsettled == math.MaxInt64 {
			tell("it is not there")
		}
		return
	}
	if r := p.badEpochs; r.n > 0 {
		tell("offset %d has leader epoch %d here and %d in its batch; %d batches up to offset %d differ", r.first, r.file, r.batch, r.n, r.next-1)
		return
	}
	if !p.whole || p.torn {
		return
	}
	for _, e := range p.fileEpoch.entries {
		if !p.starts[e.StartOffset] && e.StartOffset < end && e.StartOffset > start {
			tell("leader epoch %d begins at offset %d, where no batch does", e.Epoch, e.StartOffset)
			return
		}
	}
	if n := len(p.epochs.entries); n > 0 && start < end && p.fileEpoch.latest() < p.epochs.latest() {
		tell("leader epoch %d, which begins at offset %d, is not in it", p.epochs.latest(), p.epochs.entries[n-1].StartOffset)
	}
}

// unsettledEpochs is a base offset of which derived files count as finished if leader-epoch-checkpoint does.
func (p *partitionInspection) unsettledEpochs() int64 {
	if p.unsettled == math.MaxInt64 {
		return 0
	}
	return math.MaxInt64
}
