package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

// noteNow has the flushed records written that are due later.
func noteNow(d *Dir) {
	d.mu.Lock()
	d.mu.noting.due = true
	d.mu.Unlock()
	d.saveFlushed()
}

// tailWorld is a log of which a part was synced and written down as such, and a part perhaps not.
type tailWorld struct {
	*scrubWorld
	batches []record.Batch
	epoch   int32
}

func (w *tailWorld) appendSome(n int) {
	w.t.Helper()
	for range n {
		if w.rnd.IntN(8) == 0 {
			w.epoch += 1 + w.rnd.Int32N(3)
		}
		b := record.NewBuilder([]record.Codec{record.None, record.Zstd}[w.rnd.IntN(2)])
		if w.rnd.IntN(3) == 0 {
			b.ProducerID, b.BaseSequence = int64(len(w.batches)), 0
		}
		for range 1 + w.rnd.IntN(3) {
			value := make([]byte, []int{10, 100, 700, 1500}[w.rnd.IntN(4)])
			fill(w.rnd, value)
			b.Add(1000+w.rnd.Int64N(5000), []byte(fmt.Sprint(w.rnd.IntN(20))), value)
		}
		out, err := b.Finish()
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := w.l.Append(out, AppendOptions{LeaderEpoch: w.epoch}); err != nil {
			w.t.Fatal(err)
		}
		w.batches = append(w.batches, slices.Clone(out))
	}
}

// find is where the n-th batch stands on the disk: the file, and the byte there; "" where it is not whole.
func (w *tailWorld) find(n int) (name string, at int64) {
	for _, f := range names(w.t, w.mem, logSuffix) {
		data, _, err := readFile(w.mem, "/d/log/events-0/"+f, 1<<30)
		if err != nil {
			w.t.Fatal(err)
		}
		if i := bytes.Index(data, w.batches[n]); i >= 0 {
			return "/d/log/events-0/" + f, int64(i)
		}
	}
	return "", 0
}

// known is what the manifest on the disk says: below which offset everything was synced, and from which on recovery reads.
func (w *tailWorld) known() (durable, point int64) {
	m, err := openManifest(w.mem, "/d/meta")
	if err != nil {
		w.t.Fatal(err)
	}
	e := m.entry(w.l.key())
	if e == nil {
		return 0, 0
	}
	if pt, _ := e.decode(); pt != nil {
		point = pt.offset
	}
	return e.durable(), point
}

// TestRecoveryCutsNothingDurable: the power goes, and a bit of what recovery reads has flipped. Where the batch was known to be synced, the log
// does not end there: the batch is reported as damage, all others that were synced are there, before and behind it, and it stays so over restarts,
// scrubs and appends. Where nothing was known, the log may end there, but never before what was.
func TestRecoveryCutsNothingDurable(t *testing.T) {
	rounds, below := uint64(150), 0
	if testing.Short() {
		rounds = 40
	}
	for seed := uint64(0); seed < rounds || below < int(rounds)/5 && seed < 10*rounds; seed++ { // how much is durable is a matter of time, too
		w := &tailWorld{scrubWorld: &scrubWorld{t: t, rnd: rand.New(rand.NewPCG(seed, 11)), mem: vfs.NewMem(), cfg: testConfig()}}
		w.cfg.SegmentBytes, w.cfg.IndexIntervalBytes = []int64{6000, 20_000, 1 << 20}[w.rnd.IntN(3)], 300
		w.open()
		w.appendSome(1 + w.rnd.IntN(20))
		if w.rnd.IntN(2) == 0 {
			waitFlushed(t, w.d, w.l)
			if err := w.l.savePoint(); err != nil {
				t.Fatal(err)
			}
		}
		w.appendSome(w.rnd.IntN(20))
		waitFlushed(t, w.d, w.l)
		if w.rnd.IntN(3) > 0 {
			noteNow(w.d)
		}
		w.appendSome(w.rnd.IntN(10))
		old := w.d
		if w.rnd.IntN(2) == 0 {
			w.mem = w.mem.Crash(w.rnd)
		} else {
			w.mem = w.mem.Clone()
		}
		old.Close()
		durable, point := w.known()
		var read []int // batches that recovery reads
		for n, b := range w.batches {
			if b.BaseOffset() >= point {
				read = append(read, n)
			}
		}
		if len(read) == 0 {
			continue
		}
		n := read[w.rnd.IntN(len(read))]
		hit := w.batches[n]
		name, pos := w.find(n)
		if name == "" {
			continue // the power took it
		}
		at := w.rnd.Int64N(int64(hit.Size()))
		if w.rnd.IntN(2) == 0 {
			at = w.rnd.Int64N(25)
		}
		undo := w.flip(name, pos+at, w.rnd.IntN(8))
		known := hit.BaseOffset() < durable
		if known {
			below++
		}
		if data, _, _ := readFile(w.mem, name, 1<<30); data[pos+15] != hit[15] || data[pos+14] != hit[14] || data[pos+13] != hit[13] || data[pos+12] != hit[12] {
			next := ""
			if n+1 < len(w.batches) {
				next, _ = w.find(n + 1)
			}
			if next == "" || w.batches[n+1].LeaderEpoch() > hit.LeaderEpoch() || n == 0 || w.batches[n-1].LeaderEpoch() < hit.LeaderEpoch() {
				undo() // an epoch that could have begun there: nothing tells it from the right one
				known = false
			}
		}
		firstEnd := int64(-1)
		check := func(when string) {
			t.Helper()
			end := w.l.End()
			if end < durable || w.l.Flushed() != end {
				t.Fatalf("seed %d, %s: the log ends at %d and is flushed to %d, %d were durable", seed, when, end, w.l.Flushed(), durable)
			}
			if firstEnd < 0 {
				firstEnd = end
			} else if end < firstEnd {
				t.Fatalf("seed %d, %s: the log ends at %d, it ended at %d", seed, when, end, firstEnd)
			}
			for _, b := range w.batches {
				if b.BaseOffset() >= end || b.NextOffset() > firstEnd {
					break
				}
				plan, err := w.l.Read(b.BaseOffset(), end, 1, true, 0)
				if known && (b.BaseOffset() == hit.BaseOffset() || b.BaseOffset() >= durable && b.BaseOffset() < w.l.Damage()[0].Next) {
					if !errors.Is(err, ErrDamaged) {
						t.Fatalf("seed %d, %s: batch at %d is damaged at byte %d and gave %v\n%s", seed, when, b.BaseOffset(), at, err, w.log)
					}
					continue
				}
				if err != nil {
					t.Fatalf("seed %d, %s: offset %d, damaged is %d at %d: %v\n%s", seed, when, b.BaseOffset(), hit.BaseOffset(), at, err, w.log)
				}
				if got, _, err := planBatches(plan); err != nil || !bytes.Equal(got, b) {
					t.Fatalf("seed %d, %s: offset %d gives other bytes (%v)\n%s", seed, when, b.BaseOffset(), err, w.log)
				}
			}
			if got := w.l.Damage(); known != (len(got) == 1) || known && (got[0].First != hit.BaseOffset() || got[0].Next < hit.NextOffset() || got[0].Next > hit.NextOffset() && hit.NextOffset() < durable) {
				t.Fatalf("seed %d, %s: batch %d to %d was hit at byte %d, durable was %d, the log has\n%v", seed, when, hit.BaseOffset(), hit.LastOffset(), at, durable, got)
			}
		}
		w.open()
		check("opened")
		if known != strings.Contains(w.log.String(), "damage on the disk: records cannot be read") {
			t.Fatalf("seed %d: known %v, the log says\n%s", seed, known, w.log)
		}
		w.mem = w.mem.Crash(w.rnd)
		w.d.Close()
		w.open()
		check("after another power loss")
		w.pass()
		check("after a scrub")
		a, err := w.l.Append(batch(t, "later"), AppendOptions{LeaderEpoch: w.epoch + 1})
		if err != nil || a.BaseOffset < durable {
			t.Fatalf("seed %d: the next record got offset %d of %d durable ones (%v)", seed, a.BaseOffset, durable, err)
		}
		waitFlushed(t, w.d, w.l)
		mustClose(t, w.d)
		w.open()
		check("after a clean stop")
		mustClose(t, w.d)
	}
	if below < int(rounds)/5 {
		t.Errorf("only in %d rounds of %d what was durable was hit", below, rounds)
	}
}

// TestDurableEndOutlivesItsBytes: the end of a file is gone, and with it records that were known to be synced. Their offsets are not given to others.
func TestDurableEndOutlivesItsBytes(t *testing.T) {
	for _, cut := range []string{"between batches", "within a batch", "all"} {
		mem := vfs.NewMem()
		w := &scrubWorld{t: t, rnd: rand.New(rand.NewPCG(1, 1)), mem: mem, cfg: testConfig()}
		w.open()
		fillLog(t, w.d, w.l, 10)
		noteNow(w.d)
		name := w.l.view.Load().segments[0].path(logSuffix)
		size := w.l.view.Load().segments[0].size.Load()
		w.mem = mem.Clone()
		w.d.Close()
		f, err := w.mem.Open(name, vfs.ReadWrite)
		if err != nil {
			t.Fatal(err)
		}
		left := map[string]int64{"between batches": size / 10 * 7, "within a batch": size/10*7 + 30, "all": 0}[cut]
		first := map[string]int64{"between batches": 7, "within a batch": 7, "all": 0}[cut]
		if err := f.Truncate(left); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			w.open()
			if got := w.l.Damage(); w.l.End() != 10 || len(got) != 1 || got[0].First != first || got[0].Next != 10 {
				t.Fatalf("%s: the log ends at %d, damage %v", cut, w.l.End(), got)
			}
			if _, err := w.l.Read(first, w.l.End(), 1, true, 0); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s: offset %d gives %v", cut, first, err)
			}
			w.pass()
			w.mem = w.mem.Clone()
			w.d.Close()
		}
		if err := w.mem.Remove(name); err != nil {
			t.Fatal(err)
		}
		if err := w.mem.Remove("/d/log/events-0/" + segmentFile(10, logSuffix)); err != nil {
			t.Fatal(err)
		}
		d, err := OpenDir(Options{FS: w.mem, Path: "/d/log", MetaDir: "/d/meta"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.OpenLog(testTP, testID, w.cfg, func() {}); !errors.As(err, new(*CorruptionError)) {
			t.Errorf("%s: without any segment it opened with %v", cut, err)
		}
		mustClose(t, d)
	}
}

// TestTruncationCutsNothingElse: a truncation reads what it leaves. A bad batch there is damage; it does not make the cut deeper.
func TestTruncationCutsNothingElse(t *testing.T) {
	w := &scrubWorld{t: t, rnd: rand.New(rand.NewPCG(1, 1)), mem: vfs.NewMem(), cfg: testConfig()}
	w.open()
	fillLog(t, w.d, w.l, 10)
	s := w.l.view.Load().segments[0]
	w.flip(s.path(logSuffix), s.size.Load()/10*4+100, 1)
	if err := w.l.Truncate(8); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := w.l.Damage(); w.l.End() != 8 || len(got) != 1 || got[0].First != 4 || got[0].Next != 5 {
			t.Fatalf("the log ends at %d, damage %v", w.l.End(), got)
		}
		for offset := range int64(8) {
			if _, err := w.l.Read(offset, 8, 1, true, 0); (offset == 4) != errors.Is(err, ErrDamaged) || offset != 4 && err != nil {
				t.Errorf("offset %d gives %v", offset, err)
			}
		}
		mustClose(t, w.d)
		w.open()
	}
	mustClose(t, w.d)
}

// TestScrubReadsTheLastSegment: a partition that nobody writes to never closes its last segment. What is flushed of it is read too; a damaged
// one is closed, appends go on behind it, and a restart knows.
func TestScrubReadsTheLastSegment(t *testing.T) {
	for seed := range uint64(30) {
		w := &tailWorld{scrubWorld: &scrubWorld{t: t, rnd: rand.New(rand.NewPCG(seed, 12)), mem: vfs.NewMem(), cfg: testConfig()}}
		w.cfg.SegmentBytes, w.cfg.IndexIntervalBytes = 1<<20, 300
		w.open()
		w.appendSome(2 + w.rnd.IntN(20))
		waitFlushed(t, w.d, w.l)
		w.pass()
		if got := w.l.Damage(); len(got) > 0 || w.l.Segments() != 1 {
			t.Fatalf("seed %d: nothing is damaged, the scrub says %v", seed, got)
		}
		n := w.rnd.IntN(len(w.batches))
		hit := w.batches[n]
		name, pos := w.find(n)
		w.flip(name, pos+[]int64{7, 9, 16, 60}[w.rnd.IntN(4)], w.rnd.IntN(8))
		f, err := w.mem.Open(name, vfs.ReadWrite)
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			t.Fatal(err)
		}
		w.pass()
		check := func(when string) {
			t.Helper()
			got := w.l.Damage()
			if len(got) != 1 || got[0].First != hit.BaseOffset() || got[0].Next != hit.NextOffset() || w.l.Segments() != 2 {
				t.Fatalf("seed %d, %s: batch at %d, found %v in %d segments", seed, when, hit.BaseOffset(), got, w.l.Segments())
			}
			for _, b := range w.batches {
				plan, err := w.l.Read(b.BaseOffset(), w.l.End(), 1, true, 0)
				if b.BaseOffset() == hit.BaseOffset() {
					if !errors.Is(err, ErrDamaged) {
						t.Fatalf("seed %d, %s: %v", seed, when, err)
					}
					continue
				}
				if err != nil {
					t.Fatalf("seed %d, %s: offset %d: %v", seed, when, b.BaseOffset(), err)
				}
				if got, _, err := planBatches(plan); err != nil || !bytes.HasPrefix(got, b) {
					t.Fatalf("seed %d, %s: offset %d gives other bytes (%v)", seed, when, b.BaseOffset(), err)
				}
			}
		}
		check("found")
		w.appendSome(3)
		waitFlushed(t, w.d, w.l)
		check("appended")
		if seed%2 == 0 {
			mustClose(t, w.d)
		} else {
			old := w.d
			w.mem = w.mem.Crash(w.rnd)
			old.Close()
		}
		w.open()
		check("after a restart")
		mustClose(t, w.d)
	}
}

// TestScrubLooksAtDerivedFiles: a transaction index that is not what was written is written again, and a producer snapshot that cannot be
// read is set aside. What both say is what it was.
func TestScrubLooksAtDerivedFiles(t *testing.T) {
	mem := sampleDir(t)
	txn, snapshot := names(t, mem, txnSuffix)[0], names(t, mem, snapshotSuffix)[0]
	d, l := open(t, mem, testConfig())
	d.scrubber.mu.rate = 1 << 40
	before, _, err := readFile(mem, "/d/log/events-0/"+txn, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	w := &scrubWorld{t: t, mem: mem, d: d, l: l}
	d.scrubber.pass(0)
	if n := d.ScrubStats().Indexes; n != 0 {
		t.Fatalf("nothing is wrong, %d files were put in order", n)
	}
	w.flip("/d/log/events-0/"+txn, 17, 0)
	w.flip("/d/log/events-0/"+snapshot, 20, 0)
	for range 2 {
		d.scrubber.pass(0)
		after, _, err := readFile(mem, "/d/log/events-0/"+txn, 1<<20)
		if err != nil || !bytes.Equal(before, after) {
			t.Errorf("the transaction index is %x, was %x (%v)", after, before, err)
		}
		if n := d.ScrubStats().Indexes; n != 2 || exists(mem, "/d/log/events-0/"+snapshot) || !exists(mem, "/d/meta/quarantine/events-0."+snapshot) {
			t.Errorf("%d files were put in order", n)
		}
	}
	mustClose(t, d)
	// A wrong entry that was there at the start is in memory too. It is told.
	w.flip("/d/log/events-0/"+txn, 17, 0)
	w.mem = mem
	w.cfg = testConfig()
	w.open()
	w.d.scrubber.pass(0)
	if !strings.Contains(w.log.String(), "transaction index does not fit its segment") {
		t.Errorf("nothing was told:\n%s", w.log)
	}
	mustClose(t, w.d)
}

// TestManifestOutlivesADamagedRecord: one bit of the manifest flips. All that its other records say goes on to hold: a partition that has data is not
// taken for an empty one.
func TestManifestOutlivesADamagedRecord(t *testing.T) {
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 13))
		mem := vfs.NewMem()
		d, err := OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/meta"})
		if err != nil {
			t.Fatal(err)
		}
		const partitions = 6
		tp := func(n int) TopicPartition { return TopicPartition{"events", int32(n)} }
		for n := range partitions {
			l, err := d.OpenLog(tp(n), testID, testConfig(), func() {})
			if err != nil {
				t.Fatal(err)
			}
			fillLog(t, d, l, 3+n)
			l.SetCommitted(l.End())
			if err := l.RaiseStart(2); err != nil {
				t.Fatal(err)
			}
		}
		mustClose(t, d)
		w := &scrubWorld{t: t, mem: mem}
		data, _, err := readFile(mem, "/d/meta/manifest", 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		at := rnd.Int64N(int64(len(data)))
		w.flip("/d/meta/manifest", at, rnd.IntN(8))
		m := &manifest{}
		m.mu.entries = map[partitionKey]*manifestEntry{}
		if _, err := eachFrame(data, func(pos int64, body []byte) error {
			if at < pos || at >= pos+manifestFrameBytes+int64(len(body)) {
				return m.apply(body)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		again, err := openManifest(mem, "/d/meta")
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := again.close(); err != nil {
			t.Fatal(err)
		}
		for n := range partitions {
			key := partitionKey{testID, int32(n)}
			want, got := m.mu.entries[key], again.entry(key)
			if again.lost > 0 {
				want.changed() // nobody knows what the lost record said
			}
			if !reflect.DeepEqual(want, got) {
				t.Fatalf("seed %d: byte %d of %d: of partition %d it says %+v, want %+v", seed, at, len(data), n, got, want)
			}
		}
		if d, err = OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/meta"}); err != nil {
			t.Fatal(err)
		}
		for n := range partitions {
			l, err := d.OpenLog(tp(n), testID, testConfig(), func() {})
			if err != nil || l.End() != int64(3+n) {
				t.Fatalf("seed %d: partition %d opens with %v, or ends at %d", seed, n, err, l.End())
			}
		}
		mustClose(t, d)
	}
}
