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
// was durable, later than the point before it; synced soon after, and never wrong.
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

type manifestEntry struct {
	tp      TopicPartition
	present bool
	point   *point
	start   int64 // log start offset, also where the point has an older one
	cleaned cleaned
	damaged []savedDamage
	cut     int64 // groups of the journal up to this sequence do not count for the log
	flushed int64 // a later one than the point's offset, or 0
}

// durable is the offset below which the partition is known to have been synced. What recovery finds bad there is
// damage, for no power loss takes it.
func (e *manifestEntry) durable() int64 {
	if e.point != nil {
		return max(e.flushed, e.point.offset)
	}
	return e.flushed
}

// manifest owns the file. Safe for concurrent use.
type manifest struct {
	fs   vfs.FS
	dir  string
	lost int64 // bytes of damaged records that it had when it was opened

	mu struct {
		sync.Mutex // guards the following; held over appends to the file and its syncs
		file       vfs.File
		size       int64
		live       int64 // bytes of the records that count
		entries    map[partitionKey]*manifestEntry
		broken     error // a failed write or sync: nothing is added any more
	}
}

func openManifest(fsys vfs.FS, dir string) (*manifest, error) {
	m := &manifest{fs: fsys, dir: dir}
	m.mu.entries = map[partitionKey]*manifestEntry{}
	data, found, err := readFile(fsys, path.Join(dir, manifestFile), manifestMaxBytes)
	if err != nil {
		return nil, err
	}
	if found {
		if m.lost, err = m.applyAll(data); err != nil {
			return nil, fmt.Errorf("%s: %w: %w", path.Join(dir, manifestFile), ErrUnknownManifest, err)
		}
		if m.lost > 0 {
			if err := writeAtomic(fsys, dir, damagedManifestFile, data); err != nil {
				return nil, err
			}
		}
	}
	return m, m.rewriteLocked()
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
	if _, err := m.applyAll(data); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, ErrUnknownManifest, err)
	}
	return m.mu.entries, nil
}

// applyAll applies every whole record, also those behind a damaged one: each says something about its partition that does not depend on another,
// and what was synced must not be forgotten for the sake of one bit. A power loss may leave such a hole, too, among records that were not synced: what is
// behind it is true all the same, because nothing is written down before it is so. lost is how many bytes are damaged, but for the torn end.
func (m *manifest) applyAll(data []byte) (lost int64, err error) {
	for {
		end, err := eachFrame(data, func(_ int64, body []byte) error { return m.apply(body) })
		if err != nil {
			return lost, err
		}
		data = data[end:]
		skip := nextFrame(data)
		if skip < 0 {
			return lost, nil
		}
		data, lost = data[skip:], lost+int64(skip)
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
	Kind      string // present, point, gone, start, cleaned, damaged, cut or flushed
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
}

// EachManifestRecord calls f with every record of a manifest and its position; end is where the first one that is torn or
// damaged begins, or the size of data.
func EachManifestRecord(data []byte, f func(pos int64, r ManifestRecord) error) (end int64, err error) {
	kinds := map[byte]string{kindPresent: "present", kindPoint: "point", kindGone: "gone", kindStart: "start", kindCleaned: "cleaned", kindDamaged: "damaged", kindCut: "cut", kindFlushed: "flushed"}
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
			r.LogStart, r.Dirty, r.Gaps, r.Damaged, r.Cut = e.start, e.cleaned.dirty, e.cleaned.gaps, len(e.damaged), e.cut
			r.Offset = e.flushed
			if pt := e.point; pt != nil {
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
	topic := string(r.bytes(int(r.uvarint())))
	if r.err != nil {
		return r.err
	}
	key := partitionKey{wire.UUID(id), int32(p)}
	e := m.mu.entries[key]
	if e == nil {
		e = &manifestEntry{}
		m.mu.entries[key] = e
	}
	e.tp = TopicPartition{topic, int32(p)}
	switch kind[0] {
	case kindPresent:
		e.present = true
	case kindPoint:
		pt := &point{}
		for _, f := range pt.fields() {
			*f = r.varint()
		}
		for n := r.count(2); n > 0; n-- {
			pt.epochs = append(pt.epochs, EpochEntry{int32(r.varint()), r.varint()})
		}
		pt.producers = slices.Clone(r.p)
		if r.err != nil {
			return r.err
		}
		// A truncation goes back by a point: what was flushed before it means nothing any more.
		e.present, e.point, e.start, e.flushed = true, pt, max(e.start, pt.logStart), 0
	case kindStart:
		e.start = r.varint()
	case kindCleaned:
		e.cleaned = cleaned{r.varint(), r.varint()}
	case kindDamaged:
		e.damaged = decodeDamage(r)
	case kindCut:
		e.cut = r.varint()
	case kindFlushed:
		e.flushed = r.varint()
	case kindGone:
		delete(m.mu.entries, key)
	default:
		return fmt.Errorf("record of kind %d, which this version does not know", kind[0])
	}
	return r.err
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
	for _, k := range keys {
		e := m.mu.entries[k]
		if e.point != nil {
			data = append(data, manifestRecord(kindPoint, k, e.tp, e.point.encode())...)
		} else if e.present {
			data = append(data, manifestRecord(kindPresent, k, e.tp, nil)...)
		}
		if e.start > 0 {
			data = append(data, manifestRecord(kindStart, k, e.tp, varints(e.start))...)
		}
		if e.cleaned != (cleaned{}) {
			data = append(data, manifestRecord(kindCleaned, k, e.tp, e.cleaned.encode())...)
		}
		if e.cut > 0 {
			data = append(data, manifestRecord(kindCut, k, e.tp, varints(e.cut))...)
		}
		if len(e.damaged) > 0 {
			data = append(data, manifestRecord(kindDamaged, k, e.tp, encodeDamage(e.damaged))...)
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
	return err
}

// add appends a record, synced if asked for. A failure ends the manifest's use: what
// a failed write or sync left in the file is not known. A full volume does not: the next
// record is written over what there was room for.
func (m *manifest) add(kind byte, key partitionKey, tp TopicPartition, body []byte, synced bool) error {
	rec := manifestRecord(kind, key, tp, body)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.broken != nil {
		return m.mu.broken
	}
	full := false
	err := func() error {
		if m.mu.file == nil {
			return ErrClosed
		}
		if _, err := m.mu.file.WriteAt(rec, m.mu.size); vfs.IsNoSpace(err) {
			full = true
			return err
		} else if err != nil {
			return err
		}
		m.mu.size += int64(len(rec))
		if synced {
			if err := m.mu.file.Sync(); err != nil { // protection: manifest sync
				return err
			}
		}
		if err := m.apply(rec[manifestFrameBytes:]); err != nil {
			panic(fmt.Sprintf("BUG: manifest cannot read its own record: %v", err))
		}
		if m.mu.size > manifestSlackBytes+4*m.mu.live {
			if err := m.rewriteLocked(); !vfs.IsNoSpace(err) {
				return err // without room the file just goes on growing
			}
		}
		return nil
	}()
	if err != nil && !full && !errors.Is(err, ErrClosed) {
		m.mu.broken = fmt.Errorf("manifest in %s: %w", m.dir, err)
		return m.mu.broken
	}
	return err
}

// sync makes everything durable that was added.
func (m *manifest) sync() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.broken != nil || m.mu.file == nil {
		return cmp.Or(m.mu.broken, error(ErrClosed))
	}
	if err := m.mu.file.Sync(); err != nil {
		m.mu.broken = fmt.Errorf("manifest in %s: %w", m.dir, err)
	}
	return m.mu.broken
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
func (m *manifest) newestCut() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var newest int64
	for _, e := range m.mu.entries {
		newest = max(newest, e.cut)
	}
	return newest
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
	if m.mu.file == nil {
		return nil
	}
	err := errors.Join(m.mu.file.Sync(), m.mu.file.Close())
	m.mu.file = nil
	return err
}
