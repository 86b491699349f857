package storage

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"slices"
	"sync"

	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// The manifest is an append-only file of records about partitions:
//
//	length u32 | crc32c of what follows u32 | kind u8 | topic id 16 | partition varint | topic | body
//
// kind 1, present: the partition has data (S9). It is synced before the first
// acknowledgement. kind 2, point: how far the partition's files were synced, and the
// state of leader epochs and producers there; written only after those syncs, so a
// point is never wrong. kind 3, gone: the partition was deleted. kind 4, start: the log
// start offset, synced before anybody sees it (S12). kind 5, cleaned: how far compaction
// has come, and below which offset it may have left gaps; synced before the first of them. kind
// 6, damaged: all ranges of the partition's files that were found damaged. kind 7, cut: the sequence of the journal's newest
// group when the log was truncated; that group and older ones say nothing of the log any more (S15). kind 8, flushed: an offset below which everything
// was durable, later than the point before it; synced soon after, and never wrong. kind 9, rest: what the log had in all when it was closed, and a
// point at its end. It is a point and no more as soon as another record of the partition follows; whoever opens the log goes by its files.
// The last record of a kind counts. A torn tail ends the file, a damaged record is passed over; it is rewritten by
// writeAtomic when it has grown to several times of what is alive.
const (
	manifestFile = "manifest"
	// damagedManifestFile is a copy of the last manifest in which a record was damaged.
	damagedManifestFile = "manifest.damaged"
	kindPresent         = 1
	kindPoint           = 2
	kindGone            = 3
	kindStart           = 4
	kindCleaned         = 5
	kindDamaged         = 6
	kindCut             = 7
	kindFlushed         = 8
	kindRest            = 9

	manifestFrameBytes = 8
	manifestSlackBytes = 1 << 20
	manifestMaxBytes   = 1 << 30
)

// partitionKey identifies one life of a partition: a topic created anew under the same
// name has another id.
type partitionKey struct {
	topicID   wire.UUID
	partition int32
}

// point is a place in a log up to which recovery need not read.
type point struct {
	logStart    int64
	segment     int64 // base offset
	pos         int64 // byte position in that segment, synced
	offset      int64 // of the batch that will stand at pos
	offsetsLen  int64 // entries of the segment's .index that are synced
	timesLen    int64
	txnsLen     int64 // entries of the segment's .txnindex that are synced
	sinceIndex  int64 // bytes appended since the last index entry
	maxTsMs     int64 // of the segment so far, -1 if none
	maxTsOffset int64
	firstTsMs   int64 // of the segment's first batch, for segment.ms
	createdMs   int64
	epochs      []EpochEntry
	producers   []byte // producers.encode
}

// cleaned is how far compaction has come in a log.
type cleaned struct {
	dirty int64 // below it every segment was compacted: Kafka's cleaner offset
	gaps  int64 // below it offsets may be missing between batches; at least dirty
}

// rest is what a log had in all when it was closed: what has to be known of it without a look at its files.
type rest struct {
	bytes    int64 // of all segments
	segments int64
	first    int64 // bytes of the first segment
	oldestMs int64 // the age of the first segment is reckoned from here; 0: it is to be looked at
}

func (r *rest) fields() []*int64 { return []*int64{&r.bytes, &r.segments, &r.first, &r.oldestMs} }

func (r *rest) encode(pt *point) []byte {
	return append(varints(r.bytes, r.segments, r.first, r.oldestMs), pt.encode()...)
}

// restFields is the number of integers before the point of a rest, pointOffsetField that of those before its offset.
const (
	restFields       = 4
	pointOffsetField = 3
)

// retainable reports whether retention may find something in a log that has been at rest.
func (r *rest) retainable(cfg *LogConfig, nowMs int64) bool {
	switch {
	case r.oldestMs == 0:
		return true
	case !cfg.CleanupDelete:
		return false
	}
	return cfg.RetentionAge >= 0 && nowMs-r.oldestMs > cfg.RetentionAge.Milliseconds() ||
		cfg.RetentionBytes >= 0 && r.bytes-cfg.RetentionBytes >= r.first
}

// manifestEntry is what is known of one partition. There is one for each that has data, so it is kept as it stands in the
// file, and what few have is apart.
type manifestEntry struct {
	tp      TopicPartition
	present bool
	resting bool   // point is the body of a rest, and nothing has been added since
	point   []byte // body of the last point or rest, nil without one
	start   int64  // log start offset, also where the point has an older one
	flushed int64  // a later one than the point's offset, or 0
	few     *fewHave
}

// fewHave is immutable.
type fewHave struct {
	cleaned cleaned
	damaged []savedDamage
	cut     int64 // groups of the journal up to this sequence do not count for the log
}

// durable is the offset below which the partition is known to have been synced. What recovery finds bad there is
// damage, for no power loss takes it.
func (e *manifestEntry) durable() int64 {
	if e.point == nil {
		return e.flushed
	}
	r := &reader{p: e.point}
	if e.resting {
		r.skipVarints(restFields)
	}
	r.skipVarints(pointOffsetField)
	return max(e.flushed, r.varint())
}

// changed ends what was said of the log at rest: only a point is left of it.
func (e *manifestEntry) changed() {
	if e.resting {
		r := &reader{p: e.point}
		r.skipVarints(restFields)
		e.point, e.resting = r.p, false
	}
}

func (e *manifestEntry) cleaned() cleaned {
	if e.few == nil {
		return cleaned{}
	}
	return e.few.cleaned
}

func (e *manifestEntry) damaged() []savedDamage {
	if e.few == nil {
		return nil
	}
	return e.few.damaged
}

func (e *manifestEntry) cut() int64 {
	if e.few == nil {
		return 0
	}
	return e.few.cut
}

// decode returns the point, nil without one, and what was said of the log at rest, nil if that was not said last.
func (e *manifestEntry) decode() (*point, *rest) {
	if e.point == nil {
		return nil, nil
	}
	pt, r, err := decodePoint(e.point, e.resting)
	if err != nil {
		panic(fmt.Sprintf("BUG: manifest kept a point of %v that it cannot read: %v", e.tp, err))
	}
	return pt, r
}

// decodePoint reads the body of a point, or of a rest.
func decodePoint(body []byte, resting bool) (pt *point, of *rest, err error) {
	r := &reader{p: body}
	if resting {
		of = &rest{}
		for _, f := range of.fields() {
			*f = r.varint()
		}
	}
	pt = &point{}
	for _, f := range pt.fields() {
		*f = r.varint()
	}
	for n := r.count(2); n > 0; n-- {
		pt.epochs = append(pt.epochs, EpochEntry{int32(r.varint()), r.varint()})
	}
	if len(r.p) > 0 {
		pt.producers = slices.Clone(r.p)
	}
	return pt, of, r.err
}

// manifest owns the file. Safe for concurrent use.
type manifest struct {
	fs   vfs.FS
	dir  string
	lost int64 // bytes of damaged records that it had when it was opened

	turn *sync.Cond // of mu: syncing ended
	mu   struct {
		sync.Mutex // guards the following; held over writes to the file, not over its syncs
		file       vfs.File
		added      int64 // writes so far
		durable    int64 // those of them that are synced
		syncing    bool  // file is being synced: it is neither closed nor replaced
		size       int64
		live       int64 // bytes of the records that count
		entries    map[partitionKey]*manifestEntry
		broken     error             // a failed write or sync: nothing is added any more
		names      map[string]string // topic names, each once
	}
}

func openManifest(fsys vfs.FS, dir string) (*manifest, error) {
	m := &manifest{fs: fsys, dir: dir}
	m.turn = sync.NewCond(&m.mu.Mutex)
	m.mu.entries = map[partitionKey]*manifestEntry{}
	name := path.Join(dir, manifestFile)
	data, found, err := readFile(fsys, name, manifestMaxBytes)
	if err != nil {
		return nil, err
	}
	end := int64(0)
	if found {
		if end, m.lost, err = m.applyAll(data); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", name, ErrUnknownManifest, err)
		}
		if m.lost > 0 {
			if err := writeAtomic(fsys, dir, damagedManifestFile, data); err != nil {
				return nil, err
			}
			for _, e := range m.mu.entries {
				e.changed() // what was said later may be what is lost
			}
		}
	}
	// What stands behind the end, or is damaged, is not written behind: it would be in the way of what is added.
	if !found || m.lost > 0 || end < int64(len(data)) || end > manifestSlackBytes+4*m.liveLocked() {
		return m, m.rewriteLocked()
	}
	if m.mu.file, err = fsys.Open(name, vfs.ReadWrite); err != nil {
		return nil, err
	}
	m.mu.size, m.mu.live = end, m.liveLocked()
	// What was read may be in memory only, and counts from now on.
	return m, errors.Join(m.mu.file.Sync(), fsys.SyncDir(dir)) // protection: recovered manifest
}

// liveLocked is about what rewriteLocked would write.
func (m *manifest) liveLocked() (n int64) {
	for _, e := range m.mu.entries {
		n += int64(manifestFrameBytes + 1 + 16 + 10 + len(e.tp.Topic) + len(e.point))
	}
	return n
}

// readManifest reads the manifest in dir and changes nothing; none is an empty one.
func readManifest(fsys vfs.FS, dir string) (map[partitionKey]*manifestEntry, error) {
	m := &manifest{}
	m.mu.entries = map[partitionKey]*manifestEntry{}
	name := path.Join(dir, manifestFile)
	data, found, err := readFile(fsys, name, manifestMaxBytes)
	if err != nil || !found {
		return m.mu.entries, err
	}
	if _, _, err := m.applyAll(data); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, ErrUnknownManifest, err)
	}
	return m.mu.entries, nil
}

// applyAll applies every whole record, also those behind a damaged one: each says something about its partition that does not depend on another,
// and what was synced must not be forgotten for the sake of one bit. A power loss may leave such a hole, too, among records that were not synced: what is
// behind it is true all the same, because nothing is written down before it is so. end is where the last one ends, lost how many bytes before it are damaged.
func (m *manifest) applyAll(data []byte) (end, lost int64, err error) {
	for {
		n, err := eachFrame(data[end:], func(_ int64, body []byte) error { return m.apply(body) })
		if err != nil {
			return end, lost, err
		}
		end += n
		skip := nextFrame(data[end:])
		if skip < 0 {
			return end, lost, nil
		}
		end, lost = end+int64(skip), lost+int64(skip)
	}
}

// nextFrame is where in data the next whole record begins, -1 if there is none.
func nextFrame(data []byte) int {
	for i := range data {
		if _, err := eachFrame(data[i:], func(int64, []byte) error { return errInterrupted }); err != nil {
			return i
		}
	}
	return -1
}

// eachFrame calls f with the body of every whole record and returns where the first that is not whole begins.
func eachFrame(data []byte, f func(pos int64, body []byte) error) (end int64, err error) {
	for p := data; len(p) >= manifestFrameBytes; p = data[end:] {
		n := int64(binary.BigEndian.Uint32(p))
		if n == 0 || n > int64(len(p)-manifestFrameBytes) {
			break // zeros are what a lost write leaves, and their checksum would fit
		}
		body := p[manifestFrameBytes : manifestFrameBytes+n]
		if binary.BigEndian.Uint32(p[4:]) != crc32.Checksum(body, castagnoli) {
			break
		}
		if err := f(end, body); err != nil {
			return end, err
		}
		end += manifestFrameBytes + n
	}
	return end, nil
}

// ManifestRecord is one record of a manifest for people to look at.
type ManifestRecord struct {
	Kind      string // present, point, gone, start, cleaned, damaged, cut, flushed or rest
	Partition TopicPartition
	TopicID   wire.UUID
	LogStart  int64 // of a point and a start
	// Of a point: the offset behind what was synced, its segment and the byte position there. Of a flushed: the offset.
	Offset, Segment, Position int64
	Producers                 int
	Epochs                    []EpochEntry
	// Of a cleaned: Kafka's cleaner offset, and below which offset there may be gaps.
	Dirty, Gaps int64
	Damaged     int   // of a damaged: the number of ranges
	Cut         int64 // of a cut: the sequence of the journal's newest group then
	// Of a rest, which is a point too: what all segments had, and how many they were.
	Bytes, Segments int64
}

// EachManifestRecord calls f with every record of a manifest and its position; end is where the first one that is torn or
// damaged begins, or the size of data.
func EachManifestRecord(data []byte, f func(pos int64, r ManifestRecord) error) (end int64, err error) {
	kinds := map[byte]string{kindPresent: "present", kindPoint: "point", kindGone: "gone", kindStart: "start", kindCleaned: "cleaned",
		kindDamaged: "damaged", kindCut: "cut", kindFlushed: "flushed", kindRest: "rest"}
	return eachFrame(data, func(pos int64, body []byte) error {
		one := manifest{}
		one.mu.entries = map[partitionKey]*manifestEntry{}
		if err := one.apply(body); err != nil {
			return fmt.Errorf("record at byte %d: %w", pos, err)
		}
		r := ManifestRecord{Kind: kinds[body[0]]}
		head := &reader{p: body[1:]}
		copy(r.TopicID[:], head.bytes(len(r.TopicID)))
		r.Partition.Partition = int32(head.varint())
		r.Partition.Topic = string(head.bytes(int(head.uvarint())))
		for _, e := range one.mu.entries {
			r.LogStart, r.Dirty, r.Gaps, r.Damaged, r.Cut = e.start, e.cleaned().dirty, e.cleaned().gaps, len(e.damaged()), e.cut()
			r.Offset = e.flushed
			pt, rest := e.decode()
			if rest != nil {
				r.Bytes, r.Segments = rest.bytes, rest.segments
			}
			if pt != nil {
				r.Offset, r.Segment, r.Position, r.Epochs = pt.offset, pt.segment, pt.pos, pt.epochs
				r.Producers = len(decodeProducers(&reader{p: pt.producers}).byID)
			}
		}
		return f(pos, r)
	})
}

func (m *manifest) apply(body []byte) error {
	r := &reader{p: body}
	kind := r.bytes(1)
	id := r.bytes(16)
	p := r.varint()
	topic := r.bytes(int(r.uvarint()))
	if r.err != nil {
		return r.err
	}
	name, known := m.mu.names[string(topic)]
	if !known {
		name = string(topic)
		if m.mu.names == nil {
			m.mu.names = map[string]string{}
		}
		m.mu.names[name] = name
	}
	key := partitionKey{wire.UUID(id), int32(p)}
	e := m.mu.entries[key]
	if e == nil {
		e = &manifestEntry{}
		m.mu.entries[key] = e
	}
	e.tp = TopicPartition{name, int32(p)}
	switch kind[0] {
	case kindPresent:
		e.present = true
	case kindPoint, kindRest:
		pt, _, err := decodePoint(r.p, kind[0] == kindRest)
		if err != nil {
			return err
		}
		// A truncation goes back by a point: what was flushed before it means nothing any more.
		e.present, e.point, e.resting, e.start, e.flushed = true, slices.Clone(r.p), kind[0] == kindRest, max(e.start, pt.logStart), 0
		return nil
	case kindStart:
		e.start = r.varint()
	case kindCleaned:
		e.setFew(fewHave{cleaned{r.varint(), r.varint()}, e.damaged(), e.cut()})
	case kindDamaged:
		e.setFew(fewHave{e.cleaned(), decodeDamage(r), e.cut()})
	case kindCut:
		e.setFew(fewHave{e.cleaned(), e.damaged(), r.varint()})
	case kindFlushed:
		e.flushed = r.varint()
	case kindGone:
		delete(m.mu.entries, key)
	default:
		return fmt.Errorf("record of kind %d, which this version does not know", kind[0])
	}
	e.changed() // protection: a rest ends with the next record
	return r.err
}

func (e *manifestEntry) setFew(f fewHave) {
	e.few = nil
	if f.cleaned != (cleaned{}) || len(f.damaged) > 0 || f.cut > 0 {
		e.few = &f
	}
}

// fields lists the integers of a point in the order of the file.
func (pt *point) fields() []*int64 {
	return []*int64{&pt.logStart, &pt.segment, &pt.pos, &pt.offset, &pt.offsetsLen, &pt.timesLen, &pt.txnsLen, &pt.sinceIndex,
		&pt.maxTsMs, &pt.maxTsOffset, &pt.firstTsMs, &pt.createdMs}
}

// encode is the body of a point's record.
func (pt *point) encode() []byte {
	var out []byte
	for _, f := range pt.fields() {
		out = binary.AppendVarint(out, *f)
	}
	out = binary.AppendUvarint(out, uint64(len(pt.epochs)))
	for _, e := range pt.epochs {
		out = binary.AppendVarint(out, int64(e.Epoch))
		out = binary.AppendVarint(out, e.StartOffset)
	}
	return append(out, pt.producers...)
}

func (c cleaned) encode() []byte { return varints(c.dirty, c.gaps) }

// varints is the body of a record of integers.
func varints(values ...int64) []byte {
	var out []byte
	for _, v := range values {
		out = binary.AppendVarint(out, v)
	}
	return out
}

func manifestRecord(kind byte, key partitionKey, tp TopicPartition, body []byte) []byte {
	out := make([]byte, manifestFrameBytes, 128)
	out = append(out, kind)
	out = append(out, key.topicID[:]...)
	out = binary.AppendVarint(out, int64(key.partition))
	out = binary.AppendUvarint(out, uint64(len(tp.Topic)))
	out = append(out, tp.Topic...)
	out = append(out, body...)
	binary.BigEndian.PutUint32(out, uint32(len(out)-manifestFrameBytes))
	binary.BigEndian.PutUint32(out[4:], crc32.Checksum(out[manifestFrameBytes:], castagnoli))
	return out
}

// rewriteLocked replaces the file by one that holds only what counts.
func (m *manifest) rewriteLocked() error {
	keys := make([]partitionKey, 0, len(m.mu.entries))
	for k := range m.mu.entries {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b partitionKey) int {
		if c := slices.Compare(a.topicID[:], b.topicID[:]); c != 0 {
			return c
		}
		return int(a.partition) - int(b.partition)
	})
	var data []byte
	m.mu.names = map[string]string{}
	for _, k := range keys {
		e := m.mu.entries[k]
		m.mu.names[e.tp.Topic] = e.tp.Topic
		if e.start > 0 {
			data = append(data, manifestRecord(kindStart, k, e.tp, varints(e.start))...)
		}
		if e.cleaned() != (cleaned{}) {
			data = append(data, manifestRecord(kindCleaned, k, e.tp, e.cleaned().encode())...)
		}
		if e.cut() > 0 {
			data = append(data, manifestRecord(kindCut, k, e.tp, varints(e.cut()))...)
		}
		if len(e.damaged()) > 0 {
			data = append(data, manifestRecord(kindDamaged, k, e.tp, encodeDamage(e.damaged()))...)
		}
		switch { // behind the others: a rest is one only as long as nothing follows
		case e.resting:
			data = append(data, manifestRecord(kindRest, k, e.tp, e.point)...)
		case e.point != nil:
			data = append(data, manifestRecord(kindPoint, k, e.tp, e.point)...)
		case e.present:
			data = append(data, manifestRecord(kindPresent, k, e.tp, nil)...)
		}
		if e.flushed > 0 {
			data = append(data, manifestRecord(kindFlushed, k, e.tp, varints(e.flushed))...)
		}
	}
	if err := writeAtomic(m.fs, m.dir, manifestFile, data); err != nil {
		return err
	}
	f, err := m.fs.Open(path.Join(m.dir, manifestFile), vfs.ReadWrite)
	if err != nil {
		return err
	}
	if m.mu.file != nil {
		err = m.mu.file.Close()
	}
	m.mu.file, m.mu.size, m.mu.live = f, int64(len(data)), int64(len(data))
	m.mu.durable = m.mu.added
	return err
}

// add appends a record, synced if asked for. A failure ends the manifest's use: what
// a failed write or sync left in the file is not known. A full volume does not: the next
// record is written over what there was room for.
func (m *manifest) add(kind byte, key partitionKey, tp TopicPartition, body []byte, synced bool) error {
	return m.addRecords([][]byte{manifestRecord(kind, key, tp, body)}, synced)
}

// addRecords is add for many records, in one write and one sync. Those who add at the same time share a sync.
func (m *manifest) addRecords(records [][]byte, synced bool) error {
	rec := records[0]
	if len(records) > 1 {
		rec = slices.Concat(records...)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.broken != nil {
		return m.mu.broken
	}
	if m.mu.file == nil {
		return ErrClosed
	}
	if _, err := m.mu.file.WriteAt(rec, m.mu.size); vfs.IsNoSpace(err) {
		return err
	} else if err != nil {
		return m.breakLocked(err)
	}
	m.mu.size += int64(len(rec))
	for _, r := range records {
		if err := m.apply(r[manifestFrameBytes:]); err != nil {
			panic(fmt.Sprintf("BUG: manifest cannot read its own record: %v", err))
		}
	}
	m.mu.added++
	if synced {
		if err := m.syncLocked(m.mu.added); err != nil {
			return err
		}
	}
	if m.mu.size > manifestSlackBytes+4*m.mu.live && !m.mu.syncing && m.mu.file != nil {
		if err := m.rewriteLocked(); err != nil && !vfs.IsNoSpace(err) { // without room the file just goes on growing
			return m.breakLocked(err)
		}
	}
	return nil
}

func (m *manifest) breakLocked(err error) error {
	if m.mu.broken == nil {
		m.mu.broken = fmt.Errorf("manifest in %s: %w", m.dir, err)
	}
	return m.mu.broken
}

// syncLocked returns when the first n writes are durable. One of those who wait syncs for all, without the lock.
func (m *manifest) syncLocked(n int64) error {
	for m.mu.durable < n {
		switch {
		case m.mu.broken != nil:
			return m.mu.broken
		case m.mu.file == nil:
			return ErrClosed
		case m.mu.syncing:
			m.turn.Wait()
			continue
		}
		m.mu.syncing = true
		upTo, file := m.mu.added, m.mu.file
		m.mu.Unlock()
		err := file.Sync() // protection: manifest sync
		m.mu.Lock()
		m.mu.syncing = false
		m.turn.Broadcast()
		if err != nil {
			return m.breakLocked(err)
		}
		m.mu.durable = max(m.mu.durable, upTo)
	}
	return nil
}

// sync makes everything durable that was added.
func (m *manifest) sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.broken != nil || m.mu.file == nil {
		return cmp.Or(m.mu.broken, error(ErrClosed))
	}
	return m.syncLocked(m.mu.added)
}

// entry returns what is known of a partition, or nil. The result is not changed any more.
func (m *manifest) entry(key partitionKey) *manifestEntry {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.mu.entries[key]; e != nil {
		c := *e
		return &c
	}
	return nil
}

// extent is what the manifest says of how far a log reaches. It makes nothing: metrics ask for that of every partition.
func (m *manifest) extent(key partitionKey) Extent {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.mu.entries[key]
	if e == nil {
		return Extent{}
	}
	x := Extent{Start: e.start}
	if e.point == nil {
		return x
	}
	r := reader{p: e.point}
	if e.resting {
		x.Bytes, x.Segments = r.varint(), int(r.varint())
		r.skipVarints(restFields - 2)
		r.skipVarints(pointOffsetField)
	} else {
		r.skipVarints(pointOffsetField - 1)
		x.Bytes, x.Segments = r.varint(), 1 // no more is known than the position in the last one
	}
	x.End = r.varint()
	return x
}

// named are the partitions whose name, with the topic id behind it, is name: one at most.
func (m *manifest) named(name string) map[partitionKey]TopicPartition {
	m.mu.Lock()
	defer m.mu.Unlock()
	found := map[partitionKey]TopicPartition{}
	for key, e := range m.mu.entries {
		if fmt.Sprintf("%s.%x", e.tp, key.topicID[:]) == name {
			found[key] = e.tp
		}
	}
	return found
}

// empty says that it has no partition.
func (m *manifest) empty() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.mu.entries) == 0
}

// newestCut is the largest sequence that a cut names.
func (m *manifest) newestCut() (newest int64) {
	m.each(func(_ partitionKey, e *manifestEntry) { newest = max(newest, e.cut()) })
	return newest
}

// each calls f with every entry, in no order.
func (m *manifest) each(f func(partitionKey, *manifestEntry)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, e := range m.mu.entries {
		f(k, e)
	}
}

// has says whether the partition was recorded as having data.
func (m *manifest) has(key partitionKey) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.mu.entries[key]
	return e != nil && e.present
}

// close syncs and closes the file.
func (m *manifest) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.mu.syncing {
		m.turn.Wait()
	}
	if m.mu.file == nil {
		return nil
	}
	err := errors.Join(m.mu.file.Sync(), m.mu.file.Close())
	m.mu.file = nil
	return err
}
