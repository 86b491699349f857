package storage

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

// placed is a batch that was on the disk before it was damaged.
type placed struct {
	seg       *segment
	pos, end  int64
	base, to  int64 // offsets
	bytes     record.Batch
	prev, nxt int64
}

// scrubWorld is a log dir with one log whose closed segments are damaged.
type scrubWorld struct {
	t   *testing.T
	rnd *rand.Rand
	mem *vfs.Mem
	cfg LogConfig
	d   *Dir
	l   *Log
	log *bytes.Buffer
}

func (w *scrubWorld) open() {
	w.t.Helper()
	w.log = &bytes.Buffer{}
	d, err := OpenDir(Options{FS: w.mem, Path: "/d/log", MetaDir: "/d/meta", Log: slog.New(slog.NewTextHandler(w.log, nil))})
	if err != nil {
		w.t.Fatal(err)
	}
	w.d = d
	if w.l, err = d.OpenLog(testTP, testID, w.cfg, func() {}); err != nil {
		w.t.Fatal(err)
	}
	d.scrubber.mu.rate = 1 << 40
	w.l.SetCommitted(w.l.End())
}

func newScrubWorld(t *testing.T, seed uint64, compacted bool) *scrubWorld {
	w := &scrubWorld{t: t, rnd: rand.New(rand.NewPCG(seed, 7)), mem: vfs.NewMem(), cfg: testConfig()}
	w.cfg.SegmentBytes, w.cfg.IndexIntervalBytes = 3000, 300
	if compacted {
		w.cfg.CleanupCompact, w.cfg.RetentionAge, w.cfg.RetentionBytes = true, -1, -1
	}
	w.open()
	epoch := int32(0)
	for i := range 60 + w.rnd.IntN(60) {
		if w.rnd.IntN(10) == 0 {
			epoch++
		}
		b := record.NewBuilder([]record.Codec{record.None, record.None, record.Zstd}[w.rnd.IntN(3)])
		for range 1 + w.rnd.IntN(3) {
			value := make([]byte, []int{10, 10, 100, 700}[w.rnd.IntN(4)])
			fill(w.rnd, value)
			b.Add(1000+w.rnd.Int64N(5000), []byte(fmt.Sprint(w.rnd.IntN(20))), value)
		}
		out, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.l.Append(out, AppendOptions{LeaderEpoch: epoch, NowMs: int64(i)}); err != nil {
			t.Fatal(err)
		}
	}
	roll(t, w.d, w.l)
	if err := w.l.savePoint(); err != nil {
		t.Fatal(err)
	}
	if compacted {
		mustCompact(t, w.l, 1)
	}
	if _, err := w.l.Append(batch(t, "z"), AppendOptions{LeaderEpoch: epoch}); err != nil {
		t.Fatal(err)
	}
	waitFlushed(t, w.d, w.l)
	w.l.SetCommitted(w.l.End())
	return w
}

func (w *scrubWorld) pass() {
	w.t.Helper()
	if !w.d.scrubber.pass(w.rnd.IntN(100)) {
		w.t.Fatal("the pass did not come to its end")
	}
}

// batches lists what is in the closed segments, from their bytes.
func (w *scrubWorld) batches() (out []placed) {
	segments := w.l.view.Load().segments
	for i, s := range segments[:len(segments)-1] {
		data, _, err := readFile(w.mem, s.path(logSuffix), 1<<30)
		if err != nil {
			w.t.Fatal(err)
		}
		next := s.base
		for pos := int64(0); pos < int64(len(data)); {
			b, _, err := record.Parse(data[pos:])
			if err != nil {
				w.t.Fatal(err)
			}
			out = append(out, placed{seg: s, pos: pos, end: pos + int64(b.Size()), base: b.BaseOffset(), to: b.NextOffset(), bytes: slices.Clone(b), prev: next, nxt: segments[i+1].base})
			if n := len(out); n > 1 && out[n-2].seg == s {
				out[n-2].nxt = b.BaseOffset()
			}
			pos, next = pos+int64(b.Size()), b.NextOffset()
		}
	}
	return out
}

// flip changes one bit and returns what takes it back.
func (w *scrubWorld) flip(name string, pos int64, bit int) (undo func()) {
	w.t.Helper()
	f, err := w.mem.Open(name, vfs.ReadWrite)
	if err != nil {
		w.t.Fatal(err)
	}
	xor := func() {
		var b [1]byte
		if _, err := f.ReadAt(b[:], pos); err != nil {
			w.t.Fatal(err)
		}
		b[0] ^= 1 << bit
		if _, err := f.WriteAt(b[:], pos); err != nil {
			w.t.Fatal(err)
		}
	}
	xor()
	return xor
}

// wantReads checks that every offset gives what it gave, but for those from bad up to before to.
func (w *scrubWorld) wantReads(all []placed, bad, to int64) {
	w.t.Helper()
	for _, p := range all {
		for offset := max(p.prev, w.l.Start()); offset < p.to; offset++ {
			plan, err := w.l.Read(offset, w.l.End(), 1+w.rnd.IntN(3000), true, w.rnd.IntN(2)*CopyBelow)
			if offset >= bad && offset < to {
				var at *CorruptionError
				if !errors.Is(err, ErrDamaged) || !errors.As(err, &at) || at.File != p.seg.path(logSuffix) {
					w.t.Fatalf("offset %d is damaged and gave %v", offset, err)
				}
				continue
			}
			if err != nil {
				w.t.Fatalf("offset %d: %v", offset, err)
			}
			limited, err := w.l.Read(offset, p.to, 1<<20, true, 0)
			if err != nil {
				w.t.Fatalf("offset %d up to %d: %v", offset, p.to, err)
			}
			for _, plan := range []Plan{plan, limited} {
				got, next, err := planBatches(plan)
				if err != nil {
					w.t.Fatalf("offset %d: %v", offset, err)
				}
				if !bytes.HasPrefix(got, p.bytes) || next > bad && plan.BaseOffset < to && bad < to {
					w.t.Fatalf("offset %d: batches %d to %d, damage from %d to %d", offset, plan.BaseOffset, next, bad, to)
				}
			}
		}
	}
}

// TestScrubFindsEveryFlip: one bit of a closed segment is flipped. The scrub says which batch is damaged; all other offsets go on to
// be readable; neither a compaction nor a restart hides it; and when the bit is right again, so is the log.
func TestScrubFindsEveryFlip(t *testing.T) {
	rounds := uint64(60)
	if testing.Short() {
		rounds = 15
	}
	for seed := range rounds {
		compacted := seed%3 == 0
		w := newScrubWorld(t, seed, compacted)
		w.pass()
		if got := w.l.Damage(); len(got) > 0 || w.d.ScrubStats().Indexes > 0 {
			t.Fatalf("seed %d: nothing is damaged, the scrub says %v and %+v\n%s", seed, got, w.d.ScrubStats(), w.log)
		}
		all := w.batches()
		w.wantReads(all, 0, 0)
		hit := all[w.rnd.IntN(len(all))]
		at := hit.pos + w.rnd.Int64N(hit.end-hit.pos)
		if w.rnd.IntN(2) == 0 {
			at = hit.pos + w.rnd.Int64N(25) // the header, of which the CRC covers a part
		}
		undo := w.flip(hit.seg.path(logSuffix), at, w.rnd.IntN(8))
		if compacted && w.legal(hit) {
			undo() // an offset where another could be too: nothing tells it from the right one
			mustClose(t, w.d)
			continue
		}
		if w.rnd.IntN(2) == 0 {
			_, _, err := w.l.compact(2, 1<<20, 0.9, &pacer{})
			if err != nil && !errors.As(err, new(*CorruptionError)) {
				t.Fatal(err)
			}
		}
		w.pass()
		check := func(when string) {
			t.Helper()
			got := w.l.Damage()
			if len(got) != 1 || got[0].File != hit.seg.path(logSuffix) || got[0].Pos != hit.pos || got[0].End != hit.end || got[0].First != hit.prev || got[0].Next != hit.nxt {
				t.Fatalf("seed %d, %s: byte %d was changed in the batch %d to %d at %d to %d of %s, between %d and %d; found\n%v", seed, when, at, hit.base, hit.to-1,
					hit.pos, hit.end, hit.seg.path(logSuffix), hit.prev, hit.nxt, got)
			}
			w.wantReads(all, hit.prev, hit.nxt)
		}
		check("found")
		if n := strings.Count(w.log.String(), "damage on the disk: records cannot be read"); n != 1 {
			t.Fatalf("seed %d: it was told %d times\n%s", seed, n, w.log)
		}
		w.pass()
		if n := strings.Count(w.log.String(), "damage on the disk: records cannot be read"); n != 1 {
			t.Fatalf("seed %d: it was told %d times\n%s", seed, n, w.log)
		}
		if _, done, err := w.l.compact(2, 1<<20, 0.9, &pacer{}); err == nil && done {
			t.Fatalf("seed %d: a damaged log was compacted", seed)
		}
		before, _, _ := readFile(w.mem, hit.seg.path(logSuffix), 1<<30)
		if w.rnd.IntN(2) == 0 {
			mustClose(t, w.d)
		} else {
			w.mem = w.mem.Clone()
		}
		w.open()
		check("after a restart")
		if after, _, _ := readFile(w.mem, hit.seg.path(logSuffix), 1<<30); !bytes.Equal(before, after) {
			t.Fatalf("seed %d: the restart changed the file", seed)
		}
		w.pass()
		check("after a restart and a pass")
		w.flip(hit.seg.path(logSuffix), at, bitOf(t, w, hit, at))
		w.pass()
		if got := w.l.Damage(); len(got) > 0 {
			t.Fatalf("seed %d: the damage is gone and is still known: %v", seed, got)
		}
		w.wantReads(all, 0, 0)
		mustClose(t, w.d)
	}
}

// bitOf is the bit in which byte at differs from what it was.
func bitOf(t *testing.T, w *scrubWorld, p placed, at int64) int {
	t.Helper()
	data, _, err := readFile(w.mem, p.seg.path(logSuffix), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	diff, bit := data[at]^p.bytes[at-p.pos], 0
	for diff>>bit&1 == 0 {
		bit++
	}
	return bit
}

// legal says that the batch is whole and stands between its neighbours: only its offset changed, to one that is missing.
func (w *scrubWorld) legal(p placed) bool {
	data, _, err := readFile(w.mem, p.seg.path(logSuffix), 1<<30)
	if err != nil {
		w.t.Fatal(err)
	}
	b, _, err := record.Parse(data[p.pos:])
	return err == nil && b.CheckCRC() == nil && b.BaseOffset() >= p.prev && b.LastOffset() < p.nxt && b.LeaderEpoch() == p.bytes.LeaderEpoch() &&
		w.l.EpochAt(b.BaseOffset()) == b.LeaderEpoch()
}

// TestCompactionRefusesWrongOffsets: no CRC covers the offset of a batch, and a compaction that believed a wrong one would make it
// the truth. It ends before it has replaced anything.
func TestCompactionRefusesWrongOffsets(t *testing.T) {
	for _, bit := range []int{0, 1, 6} { // of the lowest byte: down or up, within the segment or beyond
		mem := vfs.NewMem()
		d, l := open(t, mem, compactConfig())
		for i := range 5 {
			put(t, l, 1, fmt.Sprintf("a=%d", i))
		}
		roll(t, d, l)
		s := l.view.Load().segments[0]
		w := &scrubWorld{t: t, mem: mem}
		data, _, err := readFile(mem, s.path(logSuffix), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		w.flip(s.path(logSuffix), int64(len(data)/5*3+7), bit) // offset 3 becomes 2, 1 or 67
		before := names(t, mem, logSuffix)
		if _, _, err := l.compact(1, 1<<20, 0.9, &pacer{}); !errors.As(err, new(*CorruptionError)) {
			t.Errorf("bit %d: compaction gave %v", bit, err)
		}
		if after := names(t, mem, logSuffix); !slices.Equal(before, after) || l.view.Load().segments[0] != s {
			t.Errorf("bit %d: the segment was replaced: %v, was %v", bit, after, before)
		}
		mustClose(t, d)
	}
}

// TestCompactionRefusesDamagedRecords: a compaction that meets a record whose bytes have changed before the scrub did leaves everything as it is. If it
// wrote the record anew, with a CRC that fits, nobody would ever see that it is not what was sent.
func TestCompactionRefusesDamagedRecords(t *testing.T) {
	w := newScrubWorld(t, 5, false)
	w.cfg.CleanupCompact = true
	w.l.SetConfig(w.cfg)
	all := w.batches()
	i := slices.IndexFunc(all, func(p placed) bool { return p.bytes.Codec() == record.None && p.end-p.pos > 300 })
	hit := all[i]
	undo := w.flip(hit.seg.path(logSuffix), hit.end-10, 0) // in a value
	if _, _, err := w.l.compact(1, 1<<20, 0.9, &pacer{}); !errors.As(err, new(*CorruptionError)) {
		t.Errorf("the compaction of a damaged log: %v", err)
	}
	undo()
	w.wantReads(all, 0, 0)
	mustClose(t, w.d)
}

// TestScrubMendsIndexes: whatever is wrong in an index file of a closed segment, behind the scrub every offset and time is found as before.
func TestScrubMendsIndexes(t *testing.T) {
	mended := int64(0)
	for seed := range uint64(50) {
		w := newScrubWorld(t, seed, seed%3 == 0)
		all := w.batches()
		hit := all[w.rnd.IntN(len(all))].seg
		mustClose(t, w.d)
		w.open()
		name := hit.path([]string{indexSuffix, timeSuffix}[w.rnd.IntN(2)])
		data, _, err := readFile(w.mem, name, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) == 0 {
			mustClose(t, w.d)
			continue // the segment is too small for an entry
		}
		switch w.rnd.IntN(6) {
		case 0:
			if err := w.mem.Remove(name); err != nil {
				t.Fatal(err)
			}
		case 1:
			if err := replaceTail(w.mem, name, 0, data[:w.rnd.IntN(len(data))]); err != nil {
				t.Fatal(err)
			}
		default:
			w.flip(name, w.rnd.Int64N(int64(len(data))), w.rnd.IntN(8))
		}
		w.pass()
		if got := w.l.Damage(); len(got) > 0 {
			t.Fatalf("seed %d: an index is wrong, the scrub says %v", seed, got)
		}
		w.wantReads(all, 0, 0)
		w.wantTimes(seed, all)
		mended += w.d.ScrubStats().Indexes
		before := w.d.ScrubStats().Indexes
		if w.pass(); w.d.ScrubStats().Indexes != before {
			t.Fatalf("seed %d: an index that was made anew is wrong\n%s", seed, w.log)
		}
		mustClose(t, w.d)
	}
	if mended < 15 {
		t.Errorf("%d indexes were made anew", mended)
	}
}

// wantTimes checks lookups by time against the records.
func (w *scrubWorld) wantTimes(seed uint64, all []placed) {
	w.t.Helper()
	for tsMs := int64(900); tsMs < 6100; tsMs += 300 {
		want := int64(-1)
		for _, p := range all {
			if err := eachCopy(p.bytes, func(r record.Record) {
				if want < 0 && r.TimestampMs >= tsMs {
					want = r.Offset
				}
			}); err != nil {
				w.t.Fatal(err)
			}
		}
		got, ok, err := w.l.ByTimestamp(tsMs, all[len(all)-1].to)
		if err != nil || ok != (want >= 0) || ok && got.Offset != want {
			w.t.Fatalf("seed %d: time %d is at offset %d, want %d (%v)", seed, tsMs, got.Offset, want, err)
		}
	}
}

// TestScrubOfADiskThatFails: what the disk does not give is damage as well; the rest of the segment is read.
func TestScrubOfADiskThatFails(t *testing.T) {
	w := newScrubWorld(t, 1, false)
	all := w.batches()
	mustClose(t, w.d)
	hit := all[len(all)/2]
	name := hit.seg.path(logSuffix)
	disk := vfs.NewFault(w.mem, func(op vfs.Op) error {
		if (op.Kind == vfs.OpRead || op.Kind == vfs.OpTryRead) && op.Name == name && op.Off < hit.pos+100 && op.Off+op.Len > hit.pos+50 {
			return syscall.EIO
		}
		return nil
	})
	d, err := OpenDir(Options{FS: disk, Path: "/d/log", MetaDir: "/d/meta"})
	if err != nil {
		t.Fatal(err)
	}
	if w.l, err = d.OpenLog(testTP, testID, w.cfg, func() {}); err != nil {
		t.Fatal(err)
	}
	d.scrubber.mu.rate = 1 << 40
	d.scrubber.pass(0)
	got := w.l.Damage()
	if len(got) != 1 || got[0].File != name || got[0].Pos > hit.pos || got[0].End < hit.end || !errors.Is(got[0].Err, syscall.EIO) {
		t.Fatalf("found %v", got)
	}
	if _, err := w.l.Read(hit.base, w.l.End(), 100, true, CopyBelow); !errors.Is(err, ErrDamaged) {
		t.Errorf("it gave %v", err)
	}
	if err := d.Err(); err != nil {
		t.Errorf("a failed read took the log dir offline: %v", err)
	}
	mustClose(t, d)
}

// TestReaderFindsDamage: a reader that comes upon damage before the scrub does gets no bytes, and has the scrub look; the scrub does
// so at once, says what it is and survives a change of its rate.
func TestReaderFindsDamage(t *testing.T) {
	w := newScrubWorld(t, 2, false)
	all := w.batches()
	hit := all[3]
	w.flip(hit.seg.path(logSuffix), hit.pos+16, 3) // the format
	w.d.Scrub(0)
	w.d.Scrub(1 << 40)
	if _, err := w.l.Read(hit.base, w.l.End(), 100, true, CopyBelow); !errors.Is(err, ErrDamaged) {
		t.Errorf("it gave %v", err)
	}
	for until := time.Now().Add(time.Minute); len(w.l.Damage()) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("nobody looked")
		}
	}
	w.wantReads(all, hit.prev, hit.nxt)
	if n := w.l.DamagedSegments(); n != 1 {
		t.Errorf("%d segments are damaged", n)
	}
	if err := w.l.Truncate(hit.to + 5); !errors.Is(err, ErrDamaged) {
		t.Errorf("a truncation that would have to read it gave %v", err)
	}
	w.d.Scrub(1) // it ends although a byte takes a second
	mustClose(t, w.d)
}

// TestRetentionTakesDamage: a damaged segment, even one without indexes, goes when it is too old, and what is known of it goes too.
func TestRetentionTakesDamage(t *testing.T) {
	w := newScrubWorld(t, 5, false)
	hit := w.batches()[1]
	w.flip(hit.seg.path(logSuffix), hit.pos+9, 0) // the length
	w.pass()
	if n := w.l.DamagedSegments(); n != 1 {
		t.Fatalf("%d segments are damaged", n)
	}
	mustClose(t, w.d)
	for _, suffix := range []string{indexSuffix, timeSuffix} {
		if err := w.mem.Remove(hit.seg.path(suffix)); err != nil {
			t.Fatal(err)
		}
	}
	w.cfg.CleanupDelete, w.cfg.RetentionAge, w.cfg.RetentionBytes = true, time.Hour, -1
	w.open()
	if n := w.l.DamagedSegments(); n != 1 {
		t.Fatalf("%d segments are damaged after a restart", n)
	}
	mustRetain(t, w.l, time.Now().Add(time.Hour*24).UnixMilli())
	if n, damage := w.l.DamagedSegments(), w.l.Damage(); n != 0 || len(damage) > 0 || w.l.Start() <= hit.base {
		t.Errorf("%d segments are damaged, the log starts at %d, %v", n, w.l.Start(), damage)
	}
	mustClose(t, w.d)
}

// TestDamageBelowTheStartIsLookedAtAgain: a segment below the log start is not read any more, unless it is known as damaged: a disk that is well again takes
// that back, so that the log can be truncated again.
func TestDamageBelowTheStartIsLookedAtAgain(t *testing.T) {
	w := newScrubWorld(t, 5, false)
	hit := w.batches()[1]
	undo := w.flip(hit.seg.path(logSuffix), hit.pos+9, 0)
	w.pass()
	if n := w.l.DamagedSegments(); n != 1 {
		t.Fatalf("%d segments are damaged", n)
	}
	w.l.SetCommitted(w.l.End())
	if err := w.l.RaiseStart(w.l.view.Load().segments[1].base); err != nil {
		t.Fatal(err)
	}
	w.pass()
	if n := w.l.DamagedSegments(); n != 1 {
		t.Fatalf("%d segments are damaged below the log start", n)
	}
	undo()
	w.pass()
	if d := w.l.Damage(); len(d) != 0 {
		t.Errorf("the log still knows of %v", d)
	}
	if err := w.l.Truncate(w.l.End() - 1); err != nil {
		t.Error(err)
	}
	mustClose(t, w.d)
}

// TestMissingRecordsAreDamage: a closed segment that ends early, between two batches, has lost records.
func TestMissingRecordsAreDamage(t *testing.T) {
	w := newScrubWorld(t, 8, false)
	all := w.batches()
	i := slices.IndexFunc(all, func(p placed) bool { return p.seg != all[0].seg }) - 1
	last := all[i]
	mustClose(t, w.d)
	f, err := w.mem.Open(last.seg.path(logSuffix), vfs.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(last.pos); err != nil {
		t.Fatal(err)
	}
	w.open()
	w.pass()
	got := w.l.Damage()
	if len(got) != 1 || got[0].Pos != last.pos || got[0].First != last.base || got[0].Next != last.to {
		t.Fatalf("found %v", got)
	}
	w.wantReads(all, last.base, last.to)
	mustClose(t, w.d)
}

// BenchmarkScrub reads a segment of 64 MiB in batches of 16 KiB.
func BenchmarkScrub(b *testing.B) {
	mem := vfs.NewMem()
	d, err := OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/meta"})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	cfg := testConfig()
	cfg.SegmentBytes, cfg.IndexIntervalBytes, cfg.FlushMessages = 64<<20, 4096, 1<<62
	l, err := d.OpenLog(testTP, testID, cfg, func() {})
	if err != nil {
		b.Fatal(err)
	}
	value := make([]byte, 1000)
	fill(rand.New(rand.NewPCG(1, 1)), value)
	for l.Segments() < 2 {
		rb := record.NewBuilder(record.None)
		for range 16 {
			rb.Add(1000, nil, value)
		}
		out, err := rb.Finish()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := l.Append(out, AppendOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	d.scrubber.mu.rate = 1 << 50
	s := l.view.Load().segments[0]
	b.SetBytes(s.size.Load())
	b.ResetTimer()
	for range b.N {
		if !d.scrubber.segment(l, s) {
			b.Fatal("it ended")
		}
	}
}
