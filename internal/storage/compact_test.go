package storage

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

func compactConfig() LogConfig {
	cfg := testConfig()
	cfg.SegmentBytes, cfg.CleanupCompact, cfg.RetentionAge, cfg.RetentionBytes = 1000, true, -1, -1
	cfg.DeleteRetention = 10 * time.Second
	return cfg
}

// entry is one record: "key=value", or "key" for a tombstone; a batch of several is joined by spaces.
func put(t *testing.T, l *Log, tsMs int64, entries string, edit ...func(*record.Builder)) {
	t.Helper()
	b := record.NewBuilder(record.Zstd)
	for _, e := range edit {
		e(b)
	}
	for _, e := range strings.Fields(entries) {
		key, value, ok := strings.Cut(e, "=")
		if ok {
			b.Add(tsMs, []byte(key), []byte(value))
		} else {
			b.Add(tsMs, []byte(key), nil)
		}
	}
	out, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(out, AppendOptions{NowMs: time.Now().UnixMilli()}); err != nil {
		t.Fatal(err)
	}
}

func by(id int64, seq int32) func(*record.Builder) {
	return func(b *record.Builder) { b.ProducerID, b.ProducerEpoch, b.BaseSequence = id, 0, seq }
}

func inTxn(b *record.Builder) { b.Transactional = true }

func endTxn(t *testing.T, l *Log, id int64, kind record.ControlType, tsMs int64) {
	t.Helper()
	b, err := record.NewEndMarker(record.EndMarker{Type: kind, CoordinatorEpoch: 1}, id, 0, tsMs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(b, AppendOptions{NowMs: time.Now().UnixMilli()}); err != nil {
		t.Fatal(err)
	}
}

// roll closes the last segment and commits everything.
func roll(t *testing.T, d *Dir, l *Log) {
	t.Helper()
	l.mu.Lock()
	_, err := l.rollLocked(1)
	l.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	waitFlushed(t, d, l)
	l.SetCommitted(l.End())
}

func mustCompact(t *testing.T, l *Log, nowMs int64) passStats {
	t.Helper()
	stats, _, err := l.compact(nowMs, 1<<20, 0.9, &pacer{})
	if err != nil {
		t.Fatal(err)
	}
	return stats
}

// content prints the log: base offset, records as "offset:key=value", "M" for a marker, and "H" where there is a delete horizon.
func content(t *testing.T, l *Log) string {
	t.Helper()
	var out []string
	for at := l.Start(); at < l.End(); {
		p, err := l.Read(at, l.End(), 1, true, CopyBelow)
		if err != nil {
			t.Fatal(err)
		}
		if p.Len() == 0 {
			break
		}
		buf, next, err := planBatches(p)
		if err != nil {
			t.Fatal(err)
		}
		b, _, err := record.Parse(buf)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.CheckCRC(); err != nil {
			t.Fatal(err)
		}
		var records []string
		if err := b.Each(0, func(r record.Record) error {
			switch {
			case b.Control():
				records = append(records, fmt.Sprintf("%d:M", r.Offset))
			case r.Value == nil:
				records = append(records, fmt.Sprintf("%d:%s", r.Offset, r.Key))
			default:
				records = append(records, fmt.Sprintf("%d:%s=%s", r.Offset, r.Key, r.Value))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		h := ""
		if b.DeleteHorizon() {
			h = "H"
		}
		out = append(out, fmt.Sprintf("[%d-%d%s %s]", b.BaseOffset(), b.LastOffset(), h, strings.Join(records, " ")))
		at = next
	}
	return strings.ReplaceAll(strings.Join(out, " "), " ]", "]")
}

func wantContent(t *testing.T, l *Log, when, want string) {
	t.Helper()
	if got := content(t, l); got != want {
		t.Errorf("%s:\n got %s\nwant %s", when, got, want)
	}
}

// TestCompaction: the last record of each key stays, at its offset, in its batch and codec; the last batch of a
// segment stays without records, so that the offsets go on; a tombstone stays for delete.retention.ms from when it was
// compacted first.
func TestCompaction(t *testing.T) {
	mem := vfs.NewMem()
	d, l := open(t, mem, compactConfig())
	put(t, l, 100, "a=1 b=1 c=1")
	put(t, l, 200, "a=2")
	put(t, l, 300, "b")
	roll(t, d, l)
	put(t, l, 400, "c=2 a=3")
	put(t, l, 500, "c=3")
	put(t, l, 600, "c=4")
	roll(t, d, l)
	put(t, l, 700, "c=5")
	waitFlushed(t, d, l)
	mustCompact(t, l, 1000)
	wantContent(t, l, "first pass", "[4-4H 4:b] [5-6 6:a=3] [8-8 8:c=4] [9-9 9:c=5]")
	if l.Segments() != 2 {
		t.Errorf("%d segments, want the two closed ones to be one", l.Segments())
	}
	if at, ok, err := l.ByTimestamp(0, l.End()); err != nil || !ok || at.Offset != 4 || at.TimestampMs != 300 {
		t.Errorf("the first record: %+v %v %v", at, ok, err)
	}
	if at, ok, err := l.ByTimestamp(350, l.End()); err != nil || !ok || at.Offset != 6 {
		t.Errorf("by time: %+v %v %v", at, ok, err)
	}
	if _, done, err := l.compact(5000, 1<<20, 0.9, &pacer{}); done || err != nil {
		t.Errorf("a log without dirty segments was compacted: %v", err)
	}
	roll(t, d, l)
	put(t, l, 800, "d=1")
	waitFlushed(t, d, l)
	mustCompact(t, l, 10_999)
	wantContent(t, l, "within the horizon", "[4-4H 4:b] [5-6 6:a=3] [9-9 9:c=5] [10-10 10:d=1]")
	roll(t, d, l)
	put(t, l, 900, "e=1")
	waitFlushed(t, d, l)
	mustCompact(t, l, 11_000)
	after := "[5-6 6:a=3] [9-9 9:c=5] [10-10 10:d=1] [11-11 11:e=1]"
	wantContent(t, l, "after the horizon", after)
	text, _, err := readFile(mem, "/d/log/"+cleanerFile, 1000)
	if err != nil || len(text) != 0 {
		t.Errorf("%q %v", text, err)
	}
	mustClose(t, d)
	if text, _, _ := readFile(mem, "/d/log/"+cleanerFile, 1000); string(text) != "0\n1\nevents 0 11\n" {
		t.Errorf("%s holds %q", cleanerFile, text)
	}
	mem = mem.Clone()
	d, l = open(t, mem, compactConfig())
	wantContent(t, l, "reopened", after)
	mustClose(t, d)
	// As a directory of Kafka's: the gaps are no losses, and the cleaner's offset counts.
	mem = mem.Clone()
	if err := mem.Remove("/d/meta/manifest"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		d, l = open(t, mem, compactConfig())
		wantContent(t, l, "adopted", after)
		l.SetCommitted(l.End())
		if c, err := l.compactable(1); err != nil || c.dirty != 11 {
			t.Errorf("adopted: dirty from %d, %v", c.dirty, err)
		}
		d.Close()
		mem = mem.Clone()
	}
}

// TestCompactionOfTransactions: aborted records go, the marker stays until they are gone and its horizon has passed, as
// does the entry of the transaction index; committed records stay with their marker; the last batch of
// a producer stays, if need be empty.
func TestCompactionOfTransactions(t *testing.T) {
	mem := vfs.NewMem()
	d, l := open(t, mem, compactConfig())
	put(t, l, 1, "a=1", by(1, 0), inTxn) // 0, will be aborted
	put(t, l, 1, "a=2", by(2, 0), inTxn) // 1, will be committed
	put(t, l, 1, "b=1", by(1, 1), inTxn) // 2
	endTxn(t, l, 1, record.Abort, 1)     // 3
	endTxn(t, l, 2, record.Commit, 1)    // 4
	put(t, l, 1, "k=1", by(3, 0))        // 5
	roll(t, d, l)
	put(t, l, 1, "k=2", by(1, 2)) // 6
	waitFlushed(t, d, l)
	l.SetCommitted(7)
	mustCompact(t, l, 1000)
	wantContent(t, l, "first pass", "[1-1 1:a=2] [3-3 3:M] [4-4 4:M] [5-5 5:k=1] [6-6 6:k=2]")
	if a := l.Aborted(0, 100); len(a) != 1 || a[0].FirstOffset != 0 || a[0].LastOffset != 3 {
		t.Errorf("aborted: %v", a)
	}
	pass := func(now int64) {
		t.Helper()
		roll(t, d, l)
		put(t, l, 1, "x=1")
		waitFlushed(t, d, l)
		l.SetCommitted(l.End())
		mustCompact(t, l, now)
	}
	pass(2000) // 7: x=1
	// Nothing is left of what the marker at 3 ends, and producer 3 wrote nothing after 5.
	wantContent(t, l, "second pass", "[1-1 1:a=2] [3-3H 3:M] [4-4 4:M] [5-5] [6-6 6:k=2] [7-7 7:x=1]")
	if a := l.Aborted(0, 100); len(a) != 0 {
		t.Errorf("aborted: %v", a)
	}
	pass(12_000)
	wantContent(t, l, "third pass", "[1-1 1:a=2] [4-4 4:M] [5-5] [6-6 6:k=2] [7-7 7:x=1] [8-8 8:x=1]")
	// An open transaction keeps what is behind its first record.
	put(t, l, 1, "o=1", by(2, 1), inTxn) // 9
	roll(t, d, l)
	if c, err := l.compactable(1); err != nil || c.end != 8 {
		t.Errorf("with an open transaction from 9 on the limit is %d, %v", c.end, err)
	}
	mustClose(t, d)
	mem = mem.Clone()
	d, l = open(t, mem, compactConfig())
	if a, err := l.Append(func() record.Batch {
		b := record.NewBuilder(record.None)
		by(3, 0)(b)
		b.Add(1, []byte("k"), []byte("1"))
		out, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}(), AppendOptions{}); err != nil || !a.Duplicate || a.BaseOffset != 5 {
		t.Errorf("the emptied batch repeated: %+v %v", a, err)
	}
	mustClose(t, d)
}

// TestCompactionLimits: what is too young, too new or not committed stays; the oldest may not wait for ever.
func TestCompactionLimits(t *testing.T) {
	now := int64(1_000_000)
	for _, c := range []struct {
		name      string
		cfg       func(*LogConfig)
		committed int64
		end       int64
		due       bool
	}{
		{"all closed segments", func(*LogConfig) {}, 4, 3, true},
		{"high watermark", func(*LogConfig) {}, 2, 2, true},
		{"nothing committed", func(*LogConfig) {}, 0, 0, false},
		{"min lag", func(c *LogConfig) { c.MinCompactionLag = 150 * time.Second }, 4, 1, true},
		{"min lag of all", func(c *LogConfig) { c.MinCompactionLag = 1000 * time.Second }, 4, 0, false},
		{"dirty ratio", func(c *LogConfig) { c.MinDirtyRatio = 1 }, 4, 3, false},
		{"max lag", func(c *LogConfig) { c.MinDirtyRatio, c.MaxCompactionLag = 1, 190*time.Second }, 4, 3, true},
		{"max lag not reached", func(c *LogConfig) { c.MinDirtyRatio, c.MaxCompactionLag = 1, 210*time.Second }, 4, 3, false},
		{"not compacted", func(c *LogConfig) { c.CleanupCompact = false }, 4, 0, false},
	} {
		cfg := compactConfig()
		c.cfg(&cfg)
		d, l := open(t, vfs.NewMem(), cfg)
		for i := range int64(3) {
			put(t, l, now-200_000+70_000*i, "a=1")
			roll(t, d, l)
		}
		put(t, l, now, "a=1")
		waitFlushed(t, d, l)
		l.committed.Store(c.committed)
		got, err := l.compactable(now)
		if err != nil || got.end != c.end || got.due() != c.due {
			t.Errorf("%s: end %d due %v, want %d %v (%v)", c.name, got.end, got.due(), c.end, c.due, err)
		}
		mustClose(t, d)
	}
	// max.compaction.lag.ms also closes a segment to which nothing comes any more.
	cfg := compactConfig()
	cfg.MaxCompactionLag = time.Minute
	d, l := open(t, vfs.NewMem(), cfg)
	put(t, l, now, "a=1 a=2")
	waitFlushed(t, d, l)
	l.SetCommitted(2)
	mustCompact(t, l, now+59_000)
	wantContent(t, l, "before the lag", "[0-1 0:a=1 1:a=2]")
	mustCompact(t, l, now+61_000)
	wantContent(t, l, "after the lag", "[0-1 1:a=2]")
	mustClose(t, d)
}

// TestCompactionInSeveralPasses: with a map that has room for a few keys, each pass gets on.
func TestCompactionInSeveralPasses(t *testing.T) {
	d, l := open(t, vfs.NewMem(), compactConfig())
	for i := range 200 {
		put(t, l, 1, fmt.Sprintf("key%d=%d other=%d", i%50, i, i))
	}
	roll(t, d, l)
	passes := 0
	for done := true; done; passes++ {
		var err error
		if _, done, err = l.compact(1, 20*keySlotBytes, 0.9, &pacer{}); err != nil {
			t.Fatal(err)
		}
	}
	if passes < 4 {
		t.Errorf("%d passes", passes)
	}
	got := content(t, l)
	for i := 150; i < 200; i++ {
		if !strings.Contains(got, fmt.Sprintf(":key%d=%d", i%50, i)) {
			t.Errorf("key%d has lost its last value", i%50)
		}
	}
	if strings.Count(got, "=") != 51 {
		t.Errorf("not compacted: %s", got)
	}
	big := ""
	for i := range 30 {
		big += fmt.Sprintf("big%d=1 ", i)
	}
	put(t, l, 1, big)
	roll(t, d, l)
	if _, _, err := l.compact(1, 20*keySlotBytes, 0.9, &pacer{}); err == nil || !strings.Contains(err.Error(), "log.cleaner.dedupe.buffer.size") {
		t.Errorf("a batch with more keys than there is room for: %v", err)
	}
	mustClose(t, d)
}

// TestTruncationIntoWhatWasCompacted leaves a log that goes on at the cut, also after a restart.
func TestTruncationIntoWhatWasCompacted(t *testing.T) {
	for cut := range int64(12) {
		mem := vfs.NewMem()
		d, l := open(t, mem, compactConfig())
		for i := range 6 {
			put(t, l, 1, fmt.Sprintf("a=%d b=%d", i, i))
			if i%2 == 1 {
				roll(t, d, l)
			}
		}
		mustCompact(t, l, 1)
		if err := l.Truncate(cut); err != nil {
			t.Fatal(err)
		}
		end := l.End()
		if end > cut || l.Flushed() != end {
			t.Errorf("cut at %d: the log ends at %d, flushed %d", cut, end, l.Flushed())
		}
		l.committed.Store(0)
		put(t, l, 1, "c=1")
		put(t, l, 1, "d=1")
		waitFlushed(t, d, l)
		want := content(t, l)
		if !strings.HasSuffix(want, fmt.Sprintf("[%d-%d %d:c=1] [%d-%d %d:d=1]", end, end, end, end+1, end+1, end+1)) {
			t.Errorf("cut at %d: %s", cut, want)
		}
		mem = mem.Clone()
		d.Close()
		d, l = open(t, mem, compactConfig())
		wantContent(t, l, fmt.Sprintf("cut at %d, reopened", cut), want)
		mustClose(t, d)
	}
}

// TestReadersOutliveCompaction is S8 while segments are replaced.
func TestReadersOutliveCompaction(t *testing.T) {
	mem := vfs.NewMem()
	cfg := compactConfig()
	cfg.MinDirtyRatio = 0
	d, l := open(t, mem, cfg)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	problems := make(chan error, 10)
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for at := l.Start(); at < l.End(); {
					p, err := l.Read(at, l.End(), 1000, true, int(at%2)*CopyBelow)
					if err != nil || p.Len() == 0 {
						problems <- fmt.Errorf("read at %d of %d: %v", at, l.End(), err)
						return
					}
					_, next, err := planBatches(p)
					if err != nil {
						problems <- err
						return
					}
					at = next
				}
				if _, _, err := l.ByTimestamp(50, l.End()); err != nil {
					problems <- err
					return
				}
				time.Sleep(100 * time.Microsecond)
			}
		})
	}
	d.Clean(Cleaning{Compact: true, CompactBackoff: time.Millisecond, RetentionCheck: time.Millisecond})
	for round := range int64(3) {
		for i := range 60 {
			put(t, l, int64(i+1), fmt.Sprintf("k%d=%d", i%10, i))
		}
		roll(t, d, l)
		for until := time.Now().Add(time.Minute); d.CleanStats().Compactions <= round && time.Now().Before(until); {
			time.Sleep(time.Millisecond)
		}
	}
	close(stop)
	wg.Wait()
	close(problems)
	for err := range problems {
		t.Error(err)
	}
	if s := d.CleanStats(); s.Compactions < 3 || s.ReadBytes == 0 || s.UncleanableLogs != 0 {
		t.Errorf("%+v", s)
	}
	mustClose(t, d)
}

// TestUncleanable: a log with a damaged batch is marked and said so; the others are compacted.
func TestUncleanable(t *testing.T) {
	mem := vfs.NewMem()
	cfg := compactConfig()
	cfg.MinDirtyRatio = 0
	d, bad := open(t, mem, cfg)
	good, err := d.OpenLog(TopicPartition{"events", 1}, testID, cfg, func() {})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []*Log{bad, good} {
		for i := range 10 {
			put(t, l, 1, fmt.Sprintf("a=%d", i))
		}
		roll(t, d, l)
	}
	f, err := mem.Open("/d/log/events-0/"+segmentFile(0, logSuffix), vfs.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff, 0xee}, 100); err != nil {
		t.Fatal(err)
	}
	d.Clean(Cleaning{Compact: true, CompactBackoff: time.Millisecond})
	for until := time.Now().Add(time.Minute); d.CleanStats().UncleanableLogs == 0 || d.CleanStats().Compactions == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%+v", d.CleanStats())
		}
	}
	var corrupt *CorruptionError
	if err := bad.Uncleanable(); !errors.As(err, &corrupt) || good.Uncleanable() != nil {
		t.Errorf("uncleanable: %v and %v", err, good.Uncleanable())
	}
	wantContent(t, good, "the other log", "[9-9 9:a=9]")
	if left := names(t, mem, cleanedSuffix); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	mustClose(t, d)
}

// TestCompactionGoesByWhatIsDurable: without a flush policy the marker that commits a new value is not on the disk yet when the compaction
// removes the old one. If the power goes then, the new value is undecided again, and the old one has to be there.
func TestCompactionGoesByWhatIsDurable(t *testing.T) {
	for seed := range uint64(20) {
		mem := vfs.NewMem()
		cfg := compactConfig()
		cfg.FlushMessages = math.MaxInt64
		d, l := open(t, mem, cfg)
		put(t, l, 1, "a=0")
		put(t, l, 1, "a=1", by(1, 0), inTxn)
		roll(t, d, l)
		put(t, l, 1, "b=2")
		waitFlushed(t, d, l)
		if err := l.savePoint(); err != nil {
			t.Fatal(err)
		}
		endTxn(t, l, 1, record.Commit, 1)
		l.SetCommitted(l.End())
		if stats := mustCompact(t, l, 1); stats.kept == stats.records {
			t.Fatalf("nothing was removed: %+v", stats)
		}
		mem = mem.Crash(rand.New(rand.NewPCG(seed, 1)))
		d.Close()
		d, l = open(t, mem, cfg)
		if got := content(t, l); l.LastStable(l.End()) < l.End() && !strings.Contains(got, "0:a=0") {
			t.Fatalf("seed %d: a=1 is undecided and a=0 is gone: %s", seed, got)
		}
		mustClose(t, d)
	}
}

// TestSwapIsFinishedOrUndone stops a replacement before each of its operations, by a kill.
func TestSwapIsFinishedOrUndone(t *testing.T) {
	const before = "[0-0 0:a=0] [1-1 1:a=1] [2-2 2:b=2] [3-3 3:a=3] [4-4 4:a=4]"
	const after = "[2-2 2:b=2] [3-3 3:a=3] [4-4 4:a=4]"
	finished, undone := 0, 0
	for stopAt := 1; ; stopAt++ {
		var mu sync.Mutex
		left := math.MaxInt
		mem := vfs.NewMem()
		fsys := vfs.NewFault(mem, func(op vfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			switch op.Kind {
			case vfs.OpRename, vfs.OpSyncDir, vfs.OpSync, vfs.OpWrite, vfs.OpRemove:
				if left--; left <= 0 {
					return syscall.EIO
				}
			}
			return nil
		})
		d, l := open(t, fsys, compactConfig())
		for _, e := range []string{"a=0", "a=1", "b=2"} {
			put(t, l, 1, e)
		}
		roll(t, d, l)
		put(t, l, 1, "a=3")
		roll(t, d, l)
		put(t, l, 1, "a=4")
		waitFlushed(t, d, l)
		if err := l.savePoint(); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		left = stopAt
		mu.Unlock()
		_, _, err := l.compact(1, 1<<20, 0.9, &pacer{})
		if got := content(t, l); got != before && got != after {
			t.Fatalf("stopped at %d, readers see %s", stopAt, got)
		}
		mem = mem.Clone()
		d.Close()
		d, l = open(t, mem, compactConfig())
		switch got := content(t, l); got {
		case before:
			undone++
		case after:
			finished++
		default:
			t.Fatalf("stopped at %d (%v): %s", stopAt, err, got)
		}
		for _, suffix := range []string{cleanedSuffix, swapSuffix, deletedSuffix} {
			if left := names(t, mem, suffix); len(left) > 0 {
				t.Errorf("stopped at %d: left %v", stopAt, left)
			}
		}
		if names := names(t, mem, snapshotSuffix); !slices.Contains(names, segmentFile(4, snapshotSuffix)) {
			t.Errorf("stopped at %d: snapshots %v", stopAt, names)
		}
		mustClose(t, d)
		if err == nil {
			break
		}
	}
	if finished < 5 || undone < 5 {
		t.Errorf("%d finished, %d undone", finished, undone)
	}
}

// TestSwapSurvivesPowerLoss loses power at every change of the disk during a compaction, and again during the
// recovery: of the log with an aborted transaction either nothing or everything was replaced.
func TestSwapSurvivesPowerLoss(t *testing.T) {
	for stopAt := 1; ; stopAt++ {
		done := false
		for seed := range uint64(15) {
			rnd := rand.New(rand.NewPCG(seed, uint64(stopAt)))
			mem := vfs.NewMem()
			d, l := open(t, mem, compactConfig())
			put(t, l, 1, "a=0", by(1, 0), inTxn) // 0, aborted
			put(t, l, 1, "b=1")                  // 1
			roll(t, d, l)
			put(t, l, 1, "b=2") // 2
			roll(t, d, l)
			put(t, l, 1, "a=3", by(1, 1), inTxn) // 3, aborted and the last of its producer
			endTxn(t, l, 1, record.Abort, 1)     // 4
			roll(t, d, l)
			put(t, l, 1, "b=5") // 5
			waitFlushed(t, d, l)
			if err := l.savePoint(); err != nil {
				t.Fatal(err)
			}
			mem.PowerLossAfter(stopAt)
			_, _, err := l.compact(1, 1<<20, 0.9, &pacer{})
			mem = powerLoss(t, mem, d, rnd)
			mem.PowerLossAfter(1 + rnd.IntN(10))
			if again, err := OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/meta"}); err == nil {
				_, _ = again.OpenLog(testTP, testID, compactConfig(), func() {})
				mem = powerLoss(t, mem, again, rnd)
			} else {
				mem = mem.Crash(rnd)
			}
			d, l = open(t, mem, compactConfig())
			const before = "[0-0 0:a=0] [1-1 1:b=1] [2-2 2:b=2] [3-3 3:a=3] [4-4 4:M] [5-5 5:b=5]"
			const after = "[2-2 2:b=2] [3-3] [4-4 4:M] [5-5 5:b=5]"
			if got := content(t, l); got != before && got != after {
				t.Fatalf("power lost at %d, seed %d: %s", stopAt, seed, got)
			}
			if a := l.Aborted(0, 100); len(a) != 1 || a[0].FirstOffset != 0 || a[0].LastOffset != 4 {
				t.Fatalf("power lost at %d, seed %d: aborted %v", stopAt, seed, a)
			}
			var bases []int64
			for _, s := range l.view.Load().segments {
				bases = append(bases, s.base)
			}
			if !slices.Equal(bases, []int64{0, 2, 3, 5}) && !slices.Equal(bases, []int64{0, 5}) {
				t.Fatalf("power lost at %d, seed %d: segments at %v", stopAt, seed, bases)
			}
			mustClose(t, d)
			done = err == nil
		}
		if done {
			return
		}
	}
}

// TestSwapSurvivesKillThenPowerLoss kills a compaction at every change of the disk, and takes the power from the recovery that
// follows: what the recovery found was only in memory.
func TestSwapSurvivesKillThenPowerLoss(t *testing.T) {
	const before = "[0-0 0:a=0] [1-1 1:b=1] [2-2 2:a=2] [3-3 3:a=3]"
	const after = "[1-1 1:b=1] [2-2 2:a=2] [3-3 3:a=3]"
	for stopAt := 1; ; stopAt++ {
		done := false
		for seed := range uint64(60) {
			rnd := rand.New(rand.NewPCG(seed, uint64(stopAt)))
			mem := vfs.NewMem()
			d, l := open(t, mem, compactConfig())
			put(t, l, 1, "a=0")
			put(t, l, 1, "b=1")
			roll(t, d, l)
			put(t, l, 1, "a=2")
			roll(t, d, l)
			put(t, l, 1, "a=3")
			waitFlushed(t, d, l)
			if err := l.savePoint(); err != nil {
				t.Fatal(err)
			}
			mem.PowerLossAfter(stopAt)
			_, _, err := l.compact(1, 1<<20, 0.9, &pacer{})
			mem = mem.Clone()
			d.Close()
			if done = err == nil; done || len(names(t, mem, swapSuffix)) == 0 {
				break // nothing for a recovery to finish
			}
			mem.PowerLossAfter(8 + rnd.IntN(16))
			if again, err := OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/meta"}); err == nil {
				_, _ = again.OpenLog(testTP, testID, compactConfig(), func() {})
				old := mem
				mem = old.Crash(rnd)
				again.Close()
			} else {
				mem = mem.Crash(rnd)
			}
			d, l = open(t, mem, compactConfig())
			if got := content(t, l); got != before && got != after {
				t.Fatalf("killed at %d, seed %d: %s", stopAt, seed, got)
			}
			var bases []int64
			for _, s := range l.view.Load().segments {
				bases = append(bases, s.base)
			}
			if !slices.Equal(bases, []int64{0, 2, 3}) && !slices.Equal(bases, []int64{0, 3}) {
				t.Fatalf("killed at %d, seed %d: segments at %v", stopAt, seed, bases)
			}
			d.scrubber.mu.rate = 1 << 40
			if d.scrubber.pass(0); d.ScrubStats().Indexes > 0 || len(l.Damage()) > 0 {
				t.Fatalf("killed at %d, seed %d: damage %v, %d indexes do not fit", stopAt, seed, l.Damage(), d.ScrubStats().Indexes)
			}
			mustClose(t, d)
		}
		if done {
			return
		}
	}
}

// powerLoss ends a process with its machine and returns the disk.
func powerLoss(t *testing.T, mem *vfs.Mem, d *Dir, rnd *rand.Rand) *vfs.Mem {
	t.Helper()
	after := mem.Crash(rnd)
	if err := d.Close(); err == nil {
		t.Error("a log dir without power was closed cleanly")
	}
	return after
}

// TestStaleSnapshots: a producer snapshot behind the log end is of records that are gone.
func TestStaleSnapshots(t *testing.T) {
	mem := vfs.NewMem()
	d, l := open(t, mem, compactConfig())
	put(t, l, 1, "a=0")
	put(t, l, 1, "a=1")
	mustClose(t, d)
	name := "/d/log/events-0/" + segmentFile(7, snapshotSuffix)
	for _, cut := range []bool{false, true} {
		mem = mem.Clone()
		if !cut {
			if err := replaceTail(mem, name, 0, newProducers().snapshot()); err != nil {
				t.Fatal(err)
			}
		}
		d, l = open(t, mem, compactConfig())
		if cut {
			if err := replaceTail(mem, name, 0, newProducers().snapshot()); err != nil {
				t.Fatal(err)
			}
			if err := l.Truncate(1); err != nil {
				t.Fatal(err)
			}
		}
		if exists(mem, name) {
			t.Errorf("%s is there (after a truncation: %v)", name, cut)
		}
		mustClose(t, d)
	}
}

// TestGapsAreNoLosses: the manifest knows below which offset compaction may have left gaps, from before the
// first of them; a recovery that has to read there must not take them for losses.
func TestGapsAreNoLosses(t *testing.T) {
	mem := vfs.NewMem()
	d, l := open(t, mem, compactConfig())
	for i := range 4 {
		put(t, l, 1, fmt.Sprintf("a=%d b%d=%d", i, i, i))
	}
	roll(t, d, l)
	put(t, l, 1, "c=4")
	waitFlushed(t, d, l)
	mustCompact(t, l, 1)
	want := content(t, l)
	// The point of a truncation names an older segment; here it is cut off right behind the point.
	pt := &point{segment: 0, offset: 0, maxTsMs: -1, firstTsMs: -1, producers: newProducers().encode(nil)}
	if err := d.manifest.add(kindPoint, l.key(), l.tp, pt.encode(), true); err != nil {
		t.Fatal(err)
	}
	mem = mem.Clone()
	_ = d.Close()
	d, l = open(t, mem, compactConfig())
	wantContent(t, l, "read from the first byte", want)
	if c := l.mu.cleaned; c != (cleaned{8, 8}) {
		t.Errorf("reopened: %+v", c)
	}
	mustClose(t, d)
}

// TestDeleteEndsCompaction: who deletes or closes a log does not wait for a long compaction.
func TestDeleteEndsCompaction(t *testing.T) {
	cfg := compactConfig()
	cfg.MinDirtyRatio = 0
	d, l := open(t, vfs.NewMem(), cfg)
	for i := range 100 {
		put(t, l, 1, fmt.Sprintf("a=%d", i))
	}
	roll(t, d, l)
	d.Clean(Cleaning{Compact: true, BytesPerSecond: 1})
	for d.cleaner.config().Compact && l.cleaning.TryLock() {
		l.cleaning.Unlock()
		time.Sleep(time.Millisecond)
	}
	if err := l.Delete(); err != nil {
		t.Fatal(err)
	}
	mustClose(t, d)
}

func BenchmarkCompaction(b *testing.B) {
	for _, codec := range []record.Codec{record.None, record.LZ4, record.Zstd} {
		b.Run(codec.String(), func(b *testing.B) {
			const batches, perBatch, keys = 4000, 50, 50_000
			var bytes int64
			for b.Loop() {
				b.StopTimer()
				dir, err := OpenDir(Options{FS: vfs.OS(), Path: b.TempDir() + "/log", MetaDir: b.TempDir()})
				if err != nil {
					b.Fatal(err)
				}
				cfg := compactConfig()
				cfg.SegmentBytes, cfg.FlushMessages, cfg.IndexIntervalBytes, cfg.MaxInflatedBytes = 16<<20, math.MaxInt64, 4096, 1<<28
				l, err := dir.OpenLog(testTP, testID, cfg, func() {})
				if err != nil {
					b.Fatal(err)
				}
				n := 0
				for range batches {
					nb := record.NewBuilder(codec)
					for range perBatch {
						nb.Add(1, fmt.Appendf(nil, "key-%012d", n*7919%keys), fmt.Appendf(nil, "value %d of a record with about a hundred bytes: %064d", n, n))
						n++
					}
					out, err := nb.Finish()
					if err != nil {
						b.Fatal(err)
					}
					if _, err := l.Append(out, AppendOptions{NowMs: 1}); err != nil {
						b.Fatal(err)
					}
				}
				l.mu.Lock()
				_, _ = l.rollLocked(1)
				l.mu.Unlock()
				if err := l.savePoint(); err != nil {
					b.Fatal(err)
				}
				l.SetCommitted(l.End())
				bytes = l.SizeBytes()
				b.StartTimer()
				if _, _, err := l.compact(1, 128<<20, 0.9, &pacer{}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := dir.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
			b.SetBytes(bytes)
		})
	}
}

// TestCompactionKeepsWhatMayBeTheLastBatch: the last batches of a producer that are not committed may be cut off; then the
// one before them has to be there still, with its sequence number.
func TestCompactionKeepsWhatMayBeTheLastBatch(t *testing.T) {
	mem := vfs.NewMem()
	d, l := open(t, mem, compactConfig())
	put(t, l, 1, "a=1", by(1, 0)) // 0
	put(t, l, 1, "a=2")           // 1
	roll(t, d, l)
	put(t, l, 1, "b=1") // 2
	waitFlushed(t, d, l)
	l.SetCommitted(3)
	next := func(b *record.Builder) { b.ProducerID, b.ProducerEpoch, b.BaseSequence = 1, 1, 0 }
	put(t, l, 1, "c=1", next) // 3, not committed
	mustCompact(t, l, 1000)
	wantContent(t, l, "after the pass", "[0-0] [1-1 1:a=2] [2-2 2:b=1] [3-3 3:c=1]")
	mustClose(t, d)
}
