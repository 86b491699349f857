package storage

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

// TestModelFlips lets bits of a log's files rot, while it runs and while it is stopped. A reader that checks as Kafka's clients do
// (the CRC of each batch) gets the records that were appended, or an error; nothing else, and none is left out in silence. Once the scrub has
// looked, only the damaged batches are refused. Nothing that is damaged is removed: when the bits are right again, so is the log (S14).
func TestModelFlips(t *testing.T) {
	manySeeds(t, *seeds, runFlips)
}

// rot is a bit that was flipped.
type rot struct {
	name string // of the file
	off  int64
	mask byte
	was  byte
	base int64 // of the segment, if the file is one's
	// Of a batch in a .log: where it begins and ends, and its bytes as they were.
	first, next int64
	offset      bool // it is in the batch's offset
}

// errEnded ends a run: the log was refused, and what is left of it is for an operator.
var errEnded = errors.New("the log is refused")

// flipModel is a log whose files rot.
type flipModel struct {
	*model
	expect   []record.Batch // what the log held before, from its start on, and what was appended since
	rots     []rot
	scrubbed int64 // below it the scrub has looked since the last flip
	// compacted says that a compaction went through since: then only what is read is checked.
	anew bool
	cut  bool // a start has said that it ended the log before its end
}

func runFlips(seed int64) (steps int, err error) {
	m := &flipModel{model: newModel(seed, vfs.MemOptions{})}
	m.told = &bytes.Buffer{}
	defer func() {
		steps = m.steps
		err = m.withTrace(err)
	}()
	if err := m.open(); err != nil {
		return 0, fmt.Errorf("first open: %w", err)
	}
	for range 1 + m.rnd.IntN(2) {
		for range 20 + m.rnd.IntN(60) {
			m.steps++
			if err := m.step(); err != nil && !(errors.Is(err, ErrNoSpace) && m.disk.isFull()) {
				return 0, err
			}
		}
		if err := m.restart(); err != nil {
			return 0, err
		}
	}
	m.disk.set(false, 0)
	m.mem.PowerLossAfter(0)
	if err := m.flush(); err != nil {
		return 0, err
	}
	if m.expect, err = m.actual(); err != nil || len(m.expect) == 0 {
		return 0, err
	}
	for range 1 + m.rnd.IntN(3) {
		if err := m.rotOne(); err != nil {
			return 0, err
		}
		for range 1 + m.rnd.IntN(5) {
			m.steps++
			err := m.rottenStep()
			if errors.Is(err, errEnded) {
				return 0, nil
			}
			if err != nil {
				return 0, err
			}
			if err := m.readRotten(); err != nil {
				return 0, err
			}
		}
	}
	if err := m.heal(); err != nil {
		return 0, err
	}
	return 0, m.dir.Close()
}

// rotOne flips a bit of a file of the log.
func (m *flipModel) rotOne() error {
	dir := m.log.Path()
	infos, err := m.mem.ReadDir(dir)
	if err != nil {
		return err
	}
	infos = slices.DeleteFunc(infos, func(i vfs.Info) bool {
		return i.Size == 0 || strings.HasSuffix(i.Name, txnSuffix) || strings.HasSuffix(i.Name, deletedSuffix) || i.Name == partitionMetadataFile
	})
	if logs := slices.DeleteFunc(slices.Clone(infos), func(i vfs.Info) bool { return !strings.HasSuffix(i.Name, logSuffix) }); m.rnd.IntN(3) > 0 && len(logs) > 0 {
		infos = logs
	}
	if len(infos) == 0 {
		return nil
	}
	info := infos[m.rnd.IntN(len(infos))]
	r := rot{name: path.Join(dir, info.Name), off: m.rnd.Int64N(info.Size), mask: 1 << m.rnd.IntN(8), base: -1}
	if len(info.Name) > 20 {
		_, err := fmt.Sscanf(info.Name, "%020d.", &r.base)
		if err != nil {
			r.base = -1
		}
	}
	if strings.HasSuffix(info.Name, logSuffix) {
		data, _, err := readFile(m.mem, r.name, 1<<30)
		if err != nil {
			return err
		}
		pos := int64(0)
		for rest := data; ; {
			b, next, err := record.Parse(rest)
			if err == nil {
				err = b.CheckCRC() // a length may be wrong already
			}
			if err != nil {
				return nil // behind the last batch, or in one that is damaged already
			}
			if r.off < pos+int64(b.Size()) {
				if m.rnd.IntN(2) == 0 {
					r.off = pos + m.rnd.Int64N(25) // the header, of which the CRC covers a part
				}
				if r.off < pos+8 && m.compacted > 0 {
					r.off = pos + 8 + m.rnd.Int64N(int64(b.Size())-8) // where offsets may be missing, a wrong one may be as good as the right one
				}
				r.first, r.next, r.offset = b.BaseOffset(), b.NextOffset(), r.off < pos+8
				break
			}
			pos, rest = pos+int64(b.Size()), next
		}
	}
	data, found, err := readFile(m.mem, r.name, 1<<30)
	if err != nil || !found || r.off >= int64(len(data)) {
		return err // a point has replaced it meanwhile
	}
	if slices.ContainsFunc(m.rots, func(o rot) bool {
		// Of two neighbours that are both damaged, one may look as if it followed what is missing.
		return o.name == r.name && (o.off == r.off || strings.HasSuffix(r.name, logSuffix) && o.next >= r.first && o.first <= r.next)
	}) {
		return nil
	}
	r.was = data[r.off]
	m.note("rot: %s byte %d mask %x, offsets %d to %d", info.Name, r.off, r.mask, r.first, r.next)
	m.scrubbed = -1
	m.rots = append(m.rots, r)
	return m.mem.Flip(r.name, r.off, r.mask)
}

func (m *flipModel) rottenStep() error {
	m.nowMs += int64(m.rnd.IntN(3000))
	switch m.rnd.IntN(11) {
	case 0, 1:
		for range 1 + m.rnd.IntN(5) {
			err := m.append()
			if errors.Is(err, ErrStaleEpoch) {
				return errEnded // recovery has believed a wrong leader epoch, of which no CRC tells
			}
			if err != nil {
				return err
			}
			m.expect = append(m.expect, m.batches[len(m.batches)-1])
		}
	case 2:
		return m.flush()
	case 3:
		return m.log.savePoint()
	case 4, 5:
		m.scrubNow()
		m.note("scrub: %v", m.log.Damage())
	case 6:
		m.commit()
		to := min(m.log.Start()+m.rnd.Int64N(30), m.log.committed.Load())
		m.note("raise start to %d", to)
		return m.log.RaiseStart(to)
	case 7:
		m.commit()
		_, err := m.log.retain(m.nowMs)
		m.note("retention: start %d, %v", m.log.Start(), err)
		return m.reported(err)
	case 8:
		if m.rnd.IntN(2) == 0 {
			return m.reported(m.timeRotten())
		}
		return m.truncateRotten()
	case 9:
		if !m.cfg.CleanupCompact {
			return nil
		}
		m.commit()
		stats, done, err := m.log.compact(m.nowMs, keySlotBytes*40, 0.9, &pacer{})
		m.note("compaction: %v %+v %v", done, stats, err)
		if m.anew = m.anew || done; done {
			m.compacted = max(m.compacted, m.committed)
		}
		return m.reported(err)
	default:
		return m.reopenRotten()
	}
	return nil
}

// reported: an error that says that something is damaged or missing is as good as an answer.
func (m *flipModel) reported(err error) error {
	if err == nil || errors.As(err, new(*CorruptionError)) || errors.Is(err, ErrDamaged) || errors.Is(err, ErrMissing) || errors.Is(err, ErrOffline) {
		return nil
	}
	return err
}

func (m *flipModel) truncateRotten() error {
	if m.cfg.CleanupCompact || len(m.expect) < 2 {
		return nil // nothing that is committed is ever cut off
	}
	to := m.expect[len(m.expect)-1-m.rnd.IntN(min(5, len(m.expect)-1))].BaseOffset()
	if to < m.log.Start() || len(m.rots) > 0 {
		return nil // a truncation reads batches again
	}
	m.log.committed.Store(min(m.log.committed.Load(), to))
	for id := range m.pids {
		m.floor[id] = to
	}
	err := m.log.Truncate(to)
	m.note("truncate to %d: %v", to, err)
	if err != nil {
		return m.reported(err)
	}
	if m.log.End() != to {
		return fmt.Errorf("S14: truncation to %d over damage left a log that ends at %d, and said nothing", to, m.log.End())
	}
	m.cutExpected(to)
	return nil
}

// timeRotten looks for a time: what is found is a record of that time that was appended, or an error.
func (m *flipModel) timeRotten() error {
	want := m.nowMs - int64(m.rnd.IntN(40_000))
	got, ok, err := m.log.ByTimestamp(want, m.log.End())
	if err != nil || !ok {
		return err
	}
	i := slices.IndexFunc(m.batches, func(b record.Batch) bool { return b.LastOffset() >= got.Offset })
	found := false
	if i >= 0 {
		err = eachCopy(m.batches[i], func(r record.Record) {
			found = found || r.Offset == got.Offset && r.TimestampMs == got.TimestampMs
		})
	}
	if err == nil && !found {
		err = fmt.Errorf("S14: by time %d found offset %d of %d, which is not what was appended", want, got.Offset, got.TimestampMs)
	}
	return err
}

// cutExpected forgets what is at or behind offset end.
func (m *flipModel) cutExpected(end int64) {
	behind := func(b record.Batch) bool { return b.BaseOffset() >= end }
	m.expect, m.batches = slices.DeleteFunc(m.expect, behind), slices.DeleteFunc(m.batches, behind)
	m.safe = min(m.safe, end)
	m.pids = map[int64]*modelProducer{}
	for _, b := range m.batches {
		m.learn(b)
	}
}

func (m *flipModel) reopenRotten() error {
	if err := m.dir.Err(); err != nil {
		return err
	}
	m.safe = max(m.safe, m.log.Flushed())
	old := m.dir
	switch how := m.rnd.IntN(3); how {
	case 0:
		m.note("clean stop")
		if err := m.dir.Close(); err != nil {
			return err
		}
		m.safe = m.log.End()
		m.mem = m.mem.Clone()
	case 1:
		m.note("kill")
		m.safe = m.log.End()
		m.mem = m.mem.Clone()
		old.Close()
	default:
		m.note("power loss at %d, flushed %d", m.log.End(), m.safe)
		m.mem = m.mem.Crash(m.rnd)
		old.Close()
	}
	m.told.Reset()
	if err := m.open(); err != nil {
		m.note("the start was refused: %v", err)
		if err := m.reported(err); err != nil {
			return err
		}
		if m.dir.manifest.mu.file != nil {
			old := m.dir
			m.mem = m.mem.Clone()
			old.Close()
		}
		m.healBits()
		if strings.Contains(m.told.String(), "log ends before its file does") {
			return errEnded // what the start has set aside does not come back by itself
		}
		if err := m.open(); err != nil {
			return fmt.Errorf("S14: the start was refused, and is so now that the bits are right: %w", err)
		}
	}
	m.scrubbed = -1
	end := m.log.End()
	if end < m.safe {
		if !strings.Contains(m.told.String(), "log ends before its file does") {
			return fmt.Errorf("S14: the log ends at %d, %d was flushed, and nothing was said:\n%s", end, m.safe, m.told)
		}
		m.note("recovery said that it ends the log at %d, it was %d", end, m.safe)
		m.cut = true
	}
	if n := len(m.expect); n > 0 && end > m.expect[n-1].NextOffset() {
		return fmt.Errorf("S4: the log ends at %d, it was %d", end, m.expect[n-1].NextOffset())
	}
	m.cutExpected(end)
	m.safe = end
	return nil
}

// readRotten reads everything as a client does.
func (m *flipModel) readRotten() error {
	if m.dir.Err() != nil {
		return nil // reads go on, but what is there is not known
	}
	expect := m.expect
	at, end := m.log.Start(), m.log.End()
	for at < end {
		for len(expect) > 0 && expect[0].LastOffset() < at {
			expect = expect[1:]
		}
		if len(expect) == 0 {
			return fmt.Errorf("S1: the log ends at %d, and nothing is expected from %d on", end, at)
		}
		limit := end
		if m.rnd.IntN(3) == 0 {
			limit = expect[m.rnd.IntN(len(expect))].BaseOffset()
		}
		if m.anew || limit <= max(at, expect[0].BaseOffset()) {
			limit = end
		}
		p, err := m.log.Read(at, limit, 1+m.rnd.IntN(5000), true, m.rnd.IntN(2)*CopyBelow)
		if err != nil {
			if err := m.reported(err); err != nil {
				return err
			}
			if !m.anew && !m.mayRefuse(at, expect[0]) {
				return fmt.Errorf("S14: the batch at %d is good and was refused: %w", expect[0].BaseOffset(), err)
			}
			at = expect[0].NextOffset()
			continue
		}
		if p.Len() == 0 && limit < end && m.mayRefuse(at, expect[0]) {
			at = expect[0].NextOffset() // the batch says that it goes beyond limit
			continue
		}
		if p.Len() == 0 {
			return fmt.Errorf("S14: there is nothing at %d, where a batch from %d on should be, and no error", at, expect[0].BaseOffset())
		}
		buf := slices.Clone(p.Bytes)
		if p.Region.File != nil {
			buf = make([]byte, p.Region.Len)
			if _, err := p.Region.File.ReadAt(buf, p.Region.Off); err != nil {
				return err
			}
		}
		p.Release()
		refused := false
		for first := true; len(buf) > 0 && len(expect) > 0; first = false {
			want := expect[0]
			b, rest, err := record.Parse(buf)
			if errors.Is(err, record.ErrShort) && !first {
				break
			}
			if err == nil {
				err = b.CheckCRC()
			}
			if err != nil {
				if !m.anew && !m.mayRefuse(at, want) {
					return fmt.Errorf("S14: the batch at %d is good and was served with %w", want.BaseOffset(), err)
				}
				refused = true
				break
			}
			if !first && p.Region.File != nil && (m.wrongOffset(want) || m.anew && slices.ContainsFunc(m.rots, func(r rot) bool { return r.offset })) {
				refused = true // nobody looks at the headers in a large range: the scrub does
				break
			}
			if m.anew { // compaction has gone over it: it is one of those that were expected, or what is left of it
				for len(expect) > 1 && want.LastOffset() < b.LastOffset() {
					expect = expect[1:]
					want = expect[0]
				}
				if err := m.partOf(b, want); err != nil {
					return err
				}
				at, buf, expect = want.NextOffset(), rest, expect[1:]
				continue
			}
			if !m.same(b, want) {
				return fmt.Errorf("S14: asked for %d, got a batch of offsets %d to %d as good, the next that was appended is %d to %d (log %d to %d)",
					at, b.BaseOffset(), b.LastOffset(), want.BaseOffset(), want.LastOffset(), m.log.Start(), end)
			}
			at, buf, expect = want.NextOffset(), rest, expect[1:]
		}
		if refused {
			at = expect[0].NextOffset()
		}
	}
	return nil
}

// partOf: b is what a compaction left of want.
func (m *flipModel) partOf(b, want record.Batch) error {
	if b.LastOffset() != want.LastOffset() || b.BaseOffset() != want.BaseOffset() {
		return fmt.Errorf("S14: a batch of offsets %d to %d is served, that of the same end was at %d to %d", b.BaseOffset(), b.LastOffset(), want.BaseOffset(), want.LastOffset())
	}
	records := map[int64]record.Record{}
	if err := eachCopy(want, func(r record.Record) { records[r.Offset] = r }); err != nil {
		return err
	}
	var wrong error
	if err := eachCopy(b, func(r record.Record) {
		if w, ok := records[r.Offset]; !ok || !bytes.Equal(w.Key, r.Key) || !bytes.Equal(w.Value, r.Value) || w.TimestampMs != r.TimestampMs {
			wrong = fmt.Errorf("S14: the record at offset %d is another than was appended", r.Offset)
		}
	}); err != nil {
		return err
	}
	return wrong
}

// same compares what a client sees of a batch. The leader epoch is not covered by the CRC; the scrub compares it.
func (m *flipModel) same(b, want record.Batch) bool {
	if bytes.Equal(b, want) {
		return true
	}
	const from, to = 12, 16
	return len(b) == len(want) && bytes.Equal(b[:from], want[:from]) && bytes.Equal(b[to:], want[to:]) &&
		slices.ContainsFunc(m.rots, func(r rot) bool { return r.first == want.BaseOffset() && r.next == want.NextOffset() })
}

// wrongOffset says that the base offset of a batch is rotten.
func (m *flipModel) wrongOffset(want record.Batch) bool {
	return slices.ContainsFunc(m.rots, func(r rot) bool { return r.first == want.BaseOffset() && r.next == want.NextOffset() && r.offset })
}

// mayRefuse says that there is a reason to refuse the batch that a reader at offset at should get next.
func (m *flipModel) mayRefuse(at int64, want record.Batch) bool {
	before := int64(-1) // the end of the batch before
	for _, b := range m.expect {
		if b.NextOffset() <= want.BaseOffset() {
			before = b.NextOffset()
		}
	}
	v := m.log.view.Load()
	i := v.find(want.BaseOffset())
	return slices.ContainsFunc(m.rots, func(r rot) bool {
		if strings.HasSuffix(r.name, logSuffix) && r.first < want.NextOffset() && (r.next > at || at < want.BaseOffset() && r.next >= before) {
			return true
		}
		// Before the scrub has looked, damage may keep a reader from what is behind it; and an index entry beside damage is not mended.
		return i >= 0 && r.base == v.segments[i].base && (r.base >= m.scrubbed || strings.HasSuffix(r.name, indexSuffix) && v.segments[i].damaged.Load() != nil)
	})
}

// scrubNow has the scrub look at all closed segments.
func (m *flipModel) scrubNow() {
	segments := m.log.view.Load().segments
	m.dir.scrubber.mu.rate = 1 << 40
	m.dir.scrubber.pass(m.rnd.Int())
	m.scrubbed = segments[len(segments)-1].base
}

// healBits takes back what is still there of the rot.
func (m *flipModel) healBits() {
	for _, r := range m.rots {
		if data, _, err := readFile(m.mem, r.name, 1<<30); err == nil && r.off < int64(len(data)) && data[r.off] == r.was^r.mask {
			_ = m.mem.Flip(r.name, r.off, r.mask)
		}
	}
	m.rots = nil
}

// heal makes the bits right while the log is stopped: then it is as it was.
func (m *flipModel) heal() error {
	if m.dir.Err() != nil || m.cut || m.anew {
		return nil
	}
	end := m.log.End()
	if err := m.flush(); err != nil {
		return err
	}
	old := m.dir
	m.mem = m.mem.Clone()
	old.Close()
	for _, r := range m.rots {
		if !strings.HasSuffix(r.name, logSuffix) {
			continue // made anew, perhaps
		}
		data, found, err := readFile(m.mem, r.name, 1<<30)
		if err != nil {
			return err
		}
		if !found || int64(len(data)) <= r.off || data[r.off] != r.was^r.mask {
			continue // retention, a truncation; or a power loss took the rot with the bytes
		}
		if err := m.mem.Flip(r.name, r.off, r.mask); err != nil {
			return err
		}
	}
	m.rots = slices.DeleteFunc(m.rots, func(r rot) bool { return strings.HasSuffix(r.name, logSuffix) })
	m.note("the bits are right again")
	if err := m.open(); err != nil {
		return fmt.Errorf("S14: the start after the bits are right again: %w", err)
	}
	if m.log.End() != end {
		return fmt.Errorf("S14: the bits are right again, and the log ends at %d, it was %d", m.log.End(), end)
	}
	m.scrubNow()
	if d := m.log.Damage(); len(d) > 0 {
		return fmt.Errorf("S14: the bits are right again, and the log knows of %v", d)
	}
	for range 3 {
		if err := m.readRotten(); err != nil {
			return err
		}
	}
	return nil
}
