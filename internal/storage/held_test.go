package storage

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// committer is an owner that has committed what its log has.
type committer struct{ opened atomic.Int64 }

func (c *committer) Opened(l *Log) {
	c.opened.Add(1)
	l.SetCommitted(l.End())
}
func (c *committer) Closing(*Log) {}
func (c *committer) Flushed()     {}

func heldAll(t *testing.T, d *Dir, n int, cfg *LogConfig, owner Owner) []*Held {
	t.Helper()
	out := make([]*Held, n)
	for i := range out {
		out[i] = &Held{}
		if err := d.Hold(out[i], TopicPartition{"events", int32(i)}, testID, cfg, owner); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func openDir(t *testing.T, fsys vfs.FS) *Dir {
	t.Helper()
	d, err := OpenDir(Options{FS: fsys, Path: "/d/log", MetaDir: "/d/meta"})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestBackgroundWorkOpensWhatItNeeds: retention, compaction and the scrub reach logs that nobody has used since the start, and leave
// those closed of which the last stop says that there is nothing to do.
func TestBackgroundWorkOpensWhatItNeeds(t *testing.T) {
	const old, young, short = 0, 1, 2
	mem := vfs.NewMem()
	d := openDir(t, mem)
	cfg := retentionConfig()
	cfg.CleanupDelete = false
	now := time.Now().UnixMilli()
	held := heldAll(t, d, 3, &cfg, &committer{})
	for i, h := range held {
		l, err := h.Open()
		if err != nil {
			t.Fatal(err)
		}
		fillAt(t, d, l, []int{old: 9, young: 9, short: 2}[i], []int64{old: now - 1e9, young: now - 1e4, short: now - 1e4}[i])
	}
	mustClose(t, d)
	open := func(what string, cfg LogConfig, work func(d *Dir), want ...bool) {
		t.Helper()
		mem = mem.Clone()
		d := openDir(t, mem)
		held := heldAll(t, d, 3, &cfg, &committer{})
		for i, h := range held {
			x := h.Extent()
			if h.Log() != nil || x.Bytes == 0 || x.Segments != []int{3, 3, 1}[i] || x.End != []int64{9, 9, 2}[i] {
				t.Fatalf("%s: partition %d: %+v", what, i, x)
			}
		}
		work(d)
		for i, h := range held {
			if got := h.Log() != nil; got != want[i] {
				t.Errorf("%s: partition %d: open is %v", what, i, got)
			}
		}
		if what == "by age" && held[old].Extent().Start == 0 {
			t.Error("retention took nothing of the old log")
		}
		if what != "by age" { // it is left as it was
			if _, err := held[old].Open(); err != nil {
				t.Fatal(err)
			}
			mustClose(t, d)
		}
	}
	retain := func(d *Dir) { d.housekeeper.retainAll() }
	open("without a limit", cfg, retain, false, false, false)
	bySize := cfg
	bySize.CleanupDelete, bySize.RetentionBytes = true, 8*stampedBytes
	open("by size", bySize, func(d *Dir) {
		for _, h := range d.held() {
			if e := d.manifest.entry(h.key()); e.retainable(h.Config()) {
				if _, err := h.Open(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}, false, false, false)
	compact := cfg
	compact.CleanupCompact = true
	open("compaction", compact, func(d *Dir) { d.cleaner.dirtiest(now) }, true, true, false)
	open("scrub", cfg, func(d *Dir) {
		d.scrubber.mu.rate = 1 << 40
		d.scrubber.pass(0)
	}, true, true, false)
	byAge := cfg
	byAge.CleanupDelete, byAge.RetentionAge = true, time.Hour
	open("by age", byAge, retain, true, false, false)
}

// TestScrubReadsWhatNobodyOpens: of logs with one segment that nobody has used since the stop the scrub opens those that are damaged, and no others.
func TestScrubReadsWhatNobodyOpens(t *testing.T) {
	w := &scrubWorld{t: t, mem: vfs.NewMem()}
	d := openDir(t, w.mem)
	cfg := testConfig()
	for _, h := range heldAll(t, d, 3, &cfg, &committer{}) {
		l, err := h.Open()
		if err != nil {
			t.Fatal(err)
		}
		fillLog(t, d, l, 5)
	}
	mustClose(t, d)
	w.flip("/d/log/events-1/00000000000000000000.log", 80, 3)
	d = openDir(t, w.mem)
	held := heldAll(t, d, 3, &cfg, &committer{})
	d.scrubber.mu.rate = 1 << 40
	d.scrubber.pass(0)
	for i, h := range held {
		if open := h.Log() != nil; open != (i == 1) || h.Extent().Damaged > 0 != open {
			t.Errorf("partition %d: open is %v, %+v", i, open, h.Extent())
		}
	}
	if s := d.ScrubStats(); s.Segments < 2 || s.ReadBytes < held[0].Extent().Bytes {
		t.Errorf("%+v", s)
	}
	mustClose(t, d)
}

// TestHeldIsDeletedUnopened: a topic that is deleted goes with its directory, though nobody has opened its log, and a new one of the
// same name is empty.
func TestHeldIsDeletedUnopened(t *testing.T) {
	mem := vfs.NewMem()
	d, l := open(t, mem, testConfig())
	fillLog(t, d, l, 10)
	mustClose(t, d)
	mem = mem.Clone()
	d = openDir(t, mem)
	cfg := testConfig()
	h := heldAll(t, d, 1, &cfg, &committer{})[0]
	if err := h.Delete(); err != nil || h.Log() != nil {
		t.Fatal(err, h.Log())
	}
	if _, err := h.Open(); err == nil {
		t.Error("the log of a deleted partition was opened")
	}
	if found, err := d.Scan(); err != nil || len(found) > 0 {
		t.Errorf("left: %v, %v", found, err)
	}
	again := &Held{}
	if err := d.Hold(again, testTP, wire.UUID{9}, &cfg, &committer{}); err != nil || !again.Empty() {
		t.Errorf("the new topic: %v", err)
	}
	mustClose(t, d)
}

// TestOpenedOnce: whoever wants a log at the same time gets the same one.
func TestOpenedOnce(t *testing.T) {
	mem := vfs.NewMem()
	d, l := open(t, mem, testConfig())
	fillLog(t, d, l, 10)
	mustClose(t, d)
	d = openDir(t, mem.Clone())
	cfg, owner := testConfig(), &committer{}
	h := heldAll(t, d, 1, &cfg, owner)[0]
	d.Recover()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if l, err := h.Open(); err != nil || l != h.Log() || l.End() != 10 {
				t.Error(l, err)
			}
		})
	}
	wg.Wait()
	if n := owner.opened.Load(); n != 1 {
		t.Errorf("opened %d times", n)
	}
	mustClose(t, d)
}

// TestManifestThatWasReadIsDurable: what a start has read of the manifest counts, so it must not go with the power afterwards, though
// the process that wrote it was killed before it synced.
func TestManifestThatWasReadIsDurable(t *testing.T) {
	for seed := range uint64(30) {
		mem := vfs.NewMem()
		d := openDir(t, mem)
		tp := TopicPartition{"events", 0}
		if err := d.manifest.add(kindStart, partitionKey{testID, 0}, tp, varints(42), false); err != nil {
			t.Fatal(err)
		}
		mem = mem.Clone()
		m, err := openManifest(mem, "/d/meta")
		if err != nil {
			t.Fatal(err)
		}
		if e := m.entry(partitionKey{testID, 0}); e == nil || e.start != 42 {
			t.Fatalf("killed: %+v", e)
		}
		if m, err = openManifest(mem.Crash(rand.New(rand.NewPCG(seed, 3))), "/d/meta"); err != nil {
			t.Fatal(err)
		}
		if e := m.entry(partitionKey{testID, 0}); e == nil || e.start != 42 {
			t.Fatalf("seed %d: after a power loss: %+v", seed, e)
		}
	}
}

// TestManifestSyncsForAll: those who add while a sync is under way share the next one.
func TestManifestSyncsForAll(t *testing.T) {
	const n = 40
	var syncs atomic.Int64
	var hold atomic.Bool
	var m *manifest
	fsys := vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		if op.Kind == vfs.OpSync && op.Name == "/m/manifest" && syncs.Add(1) > 0 && hold.CompareAndSwap(true, false) {
			for { // until all the others have written
				m.mu.Lock()
				added := m.mu.added
				m.mu.Unlock()
				if added == n {
					return nil
				}
				time.Sleep(10 * time.Microsecond)
			}
		}
		return nil
	})
	if err := fsys.MkdirAll("/m"); err != nil {
		t.Fatal(err)
	}
	var err error
	if m, err = openManifest(fsys, "/m"); err != nil {
		t.Fatal(err)
	}
	before := syncs.Load()
	hold.Store(true)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if err := m.add(kindPresent, partitionKey{testID, int32(i)}, TopicPartition{"events", int32(i)}, nil, true); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := syncs.Load() - before; got != 2 {
		t.Errorf("%d syncs for %d records, of which all but one were added during the first", got, n)
	}
	if err := m.close(); err != nil {
		t.Fatal(err)
	}
	if m, err = openManifest(fsys, "/m"); err != nil || len(m.mu.entries) != n {
		t.Errorf("%d entries of %d, %v", len(m.mu.entries), n, err)
	}
}

// TestStopWritesWhatChanged: a log that is as a stop left it costs the next stop nothing.
func TestStopWritesWhatChanged(t *testing.T) {
	const n = 20
	mem := vfs.NewMem()
	var wrote sync.Map
	fsys := func() vfs.FS {
		return vfs.NewFault(mem, func(op vfs.Op) error {
			if op.Kind == vfs.OpWrite || op.Kind == vfs.OpRename || op.Kind == vfs.OpSync || op.Kind == vfs.OpRemove {
				for i := range n {
					if dir := fmt.Sprintf("/d/log/events-%d/", i); len(op.Name) > len(dir) && op.Name[:len(dir)] == dir {
						wrote.Store(i, op.Name)
					}
				}
			}
			return nil
		})
	}
	cfg := testConfig()
	for life := range 3 {
		d := openDir(t, fsys())
		held := heldAll(t, d, n, &cfg, &committer{})
		for i, h := range held {
			l, err := h.Open()
			if err != nil {
				t.Fatal(err)
			}
			if life == 0 || i == 7 {
				fillLog(t, d, l, 3)
			}
		}
		if life == 1 {
			wrote.Clear()
			if _, err := held[7].Log().Append(batch(t, "x"), AppendOptions{LeaderEpoch: 3}); err != nil {
				t.Fatal(err)
			}
		}
		mustClose(t, d)
		if life == 1 {
			wrote.Range(func(i, name any) bool {
				if i != 7 {
					t.Errorf("the stop wrote %v, which nobody had changed", name)
				}
				return true
			})
			if _, ok := wrote.Load(7); !ok {
				t.Error("nothing of the log that had changed was written")
			}
		}
		mem = mem.Clone()
	}
}
