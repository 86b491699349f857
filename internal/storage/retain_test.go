package storage

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

// stampedBytes is the size of a batch of stamped with a key of two bytes.
const stampedBytes = 292

// stamped is a batch with one record of the given time.
func stamped(t *testing.T, tsMs int64, key string) record.Batch {
	t.Helper()
	b := record.NewBuilder(record.None)
	b.Add(tsMs, []byte(key), []byte(strings.Repeat("x", 220)))
	out, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func retentionConfig() LogConfig {
	cfg := testConfig()
	cfg.SegmentBytes, cfg.CleanupDelete, cfg.RetentionAge, cfg.RetentionBytes = 1000, true, -1, -1
	cfg.FileDeleteDelay = time.Minute
	return cfg
}

// fillAt appends n batches, one a second from fromMs on, three to a segment, and commits them.
func fillAt(t *testing.T, d *Dir, l *Log, n int, fromMs int64) {
	t.Helper()
	for i := range int64(n) {
		if _, err := l.Append(stamped(t, fromMs+1000*i, fmt.Sprintf("%02d", i)), AppendOptions{NowMs: fromMs + 1000*i}); err != nil {
			t.Fatal(err)
		}
	}
	waitFlushed(t, d, l)
	l.SetCommitted(l.End())
}

func names(t *testing.T, fsys vfs.FS, suffix string) (out []string) {
	t.Helper()
	infos, err := fsys.ReadDir("/d/log/events-0")
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range infos {
		if strings.HasSuffix(i.Name, suffix) {
			out = append(out, i.Name)
		}
	}
	return out
}

func mustRetain(t *testing.T, l *Log, nowMs int64) {
	t.Helper()
	if _, err := l.retain(nowMs); err != nil {
		t.Fatal(err)
	}
}

// TestRetention: by age, by size and below the log start, by whole segments and never beyond
// the high watermark; a last segment that has expired is rolled.
func TestRetention(t *testing.T) {
	const t0 = 1_700_000_000_000
	for _, c := range []struct {
		name      string
		cfg       func(*LogConfig)
		start     int64 // RaiseStart
		committed int64 // instead of the end
		nowMs     int64
		want      int64 // log start afterwards
	}{
		{"no limits", func(*LogConfig) {}, 0, 0, t0 + 1e12, 0},
		{"age", func(c *LogConfig) { c.RetentionAge = 10 * time.Second }, 0, 0, t0 + 18_001, 9},
		{"age, one ms less", func(c *LogConfig) { c.RetentionAge = 10 * time.Second }, 0, 0, t0 + 18_000, 6},
		{"age, everything", func(c *LogConfig) { c.RetentionAge = 10 * time.Second }, 0, 0, t0 + 1e9, 20},
		{"age up to the high watermark", func(c *LogConfig) { c.RetentionAge = 10 * time.Second }, 0, 8, t0 + 1e9, 6},
		{"not by age: compact", func(c *LogConfig) { c.RetentionAge, c.CleanupDelete = 0, false }, 0, 0, t0 + 1e9, 0},
		{"size", func(c *LogConfig) { c.RetentionBytes = 8 * stampedBytes }, 0, 0, t0, 12},
		{"size 0", func(c *LogConfig) { c.RetentionBytes = 0 }, 0, 0, t0, 20},
		{"size up to the high watermark", func(c *LogConfig) { c.RetentionBytes = 0 }, 0, 5, t0, 3},
		{"not by size: compact", func(c *LogConfig) { c.RetentionBytes, c.CleanupDelete = 0, false }, 0, 0, t0, 0},
		{"below the start", func(c *LogConfig) { c.CleanupDelete = false }, 7, 0, t0, 7},
	} {
		t.Run(c.name, func(t *testing.T) {
			mem := vfs.NewMem()
			cfg := retentionConfig()
			c.cfg(&cfg)
			d, l := open(t, mem, cfg)
			fillAt(t, d, l, 20, t0)
			if c.committed > 0 {
				l.committed.Store(c.committed)
			}
			if l.Segments() != 7 {
				t.Fatalf("%d segments", l.Segments())
			}
			if err := l.RaiseStart(c.start); err != nil {
				t.Fatal(err)
			}
			size := l.SizeBytes()
			bytes, err := l.retain(c.nowMs)
			if err != nil || l.Start() != c.want || l.End() != 20 {
				t.Fatalf("%v: start %d, want %d; end %d", err, l.Start(), c.want, l.End())
			}
			first := l.view.Load().segments[0].base
			if want := c.want / 3 * 3; c.want < 20 && first != want {
				t.Errorf("first segment at %d, want %d", first, want)
			}
			if size-l.SizeBytes() != bytes || bytes != first*stampedBytes {
				t.Errorf("%d bytes reported, %d to %d", bytes, size, l.SizeBytes())
			}
			for _, reopened := range []bool{false, true} {
				if reopened {
					mustClose(t, d)
					mem = mem.Clone()
					d, l = open(t, mem, cfg)
				}
				if l.Start() != c.want || l.End() != 20 || l.view.Load().segments[0].base != first {
					t.Fatalf("reopened %v: the log has %d to %d", reopened, l.Start(), l.End())
				}
				for o := l.Start(); o < 20; o++ {
					p, err := l.Read(o, 20, 1, true, 0)
					if err != nil || p.BaseOffset != o {
						t.Fatalf("read at %d: batch at %d, %v", o, p.BaseOffset, err)
					}
					p.Release()
				}
			}
			a, err := l.Append(stamped(t, t0, "next"), AppendOptions{NowMs: t0})
			if err != nil || a.BaseOffset != 20 || a.LogStart != c.want {
				t.Errorf("append afterwards: %+v %v", a, err)
			}
			mustClose(t, d)
		})
	}
}

// TestRecordsOfTheFuture do not keep their segment until then: the time of the append counts for them,
// also after a restart.
func TestRecordsOfTheFuture(t *testing.T) {
	mem := vfs.NewMem()
	cfg := retentionConfig()
	cfg.RetentionAge = time.Hour
	d, l := open(t, mem, cfg)
	now := time.Now().UnixMilli()
	for range 9 {
		if _, err := l.Append(stamped(t, now+1e12, "k"), AppendOptions{NowMs: now}); err != nil {
			t.Fatal(err)
		}
	}
	waitFlushed(t, d, l)
	l.SetCommitted(9)
	mustRetain(t, l, now+3_500_000)
	if l.Start() != 0 {
		t.Fatalf("start %d within the hour", l.Start())
	}
	mustClose(t, d)
	mem = mem.Clone()
	d, l = open(t, mem, cfg)
	l.SetCommitted(9)
	mustRetain(t, l, now+3_700_000)
	if l.Start() != 9 {
		t.Fatalf("start %d after the hour", l.Start())
	}
	mustClose(t, d)
}

// TestSegmentAge: a segment is rolled when the batch that comes is segment.ms newer than its first one, by
// the records' time, or by the clock where they have none.
func TestSegmentAge(t *testing.T) {
	cfg := testConfig()
	cfg.SegmentAge = 10 * time.Second
	for _, c := range []struct {
		name       string
		ts, now    []int64
		wantStarts []int64
	}{
		{"record time", []int64{100_000, 110_000, 110_001, 105_000, 120_002}, []int64{1, 1, 1, 1, 1}, []int64{0, 2, 4}},
		{"clock", []int64{-1, -1, -1, -1, -1}, []int64{100_000, 110_000, 110_001, 105_000, 120_002}, []int64{0, 2, 4}},
	} {
		d, l := open(t, vfs.NewMem(), cfg)
		for i := range c.ts {
			if _, err := l.Append(stamped(t, c.ts[i], "k"), AppendOptions{NowMs: c.now[i]}); err != nil {
				t.Fatal(err)
			}
		}
		var starts []int64
		for _, s := range l.view.Load().segments {
			starts = append(starts, s.base)
		}
		if !slices.Equal(starts, c.wantStarts) {
			t.Errorf("%s: segments at %v, want %v", c.name, starts, c.wantStarts)
		}
		mustClose(t, d)
	}
}

// TestDeletedFiles: files of a deleted segment get Kafka's suffix, go after file.delete.delay.ms, and those
// that a stop left go at the next start.
func TestDeletedFiles(t *testing.T) {
	mem := vfs.NewMem()
	cfg := retentionConfig()
	cfg.RetentionBytes = 900
	d, l := open(t, mem, cfg)
	fillAt(t, d, l, 20, 1000)
	p, err := l.Read(0, 20, 1<<20, true, 0)
	if err != nil {
		t.Fatal(err)
	}
	stale := l.view.Load()
	before := time.Now()
	mustRetain(t, l, 1000)
	if got := names(t, mem, logSuffix+deletedSuffix); len(got) != 5 {
		t.Fatalf("marked as deleted: %v", got)
	}
	if got := names(t, mem, indexSuffix+deletedSuffix); len(got) != 5 {
		t.Errorf("indexes marked as deleted: %v", got)
	}
	d.removeDoomed(before.Add(59 * time.Second))
	if got := names(t, mem, logSuffix+deletedSuffix); len(got) != 5 {
		t.Errorf("removed before their time: %v left", got)
	}
	d.removeDoomed(time.Now().Add(61 * time.Second))
	if got := names(t, mem, deletedSuffix); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	// S8: a plan that was made before is readable; a reader with the view of before looks again.
	buf := make([]byte, p.Region.Len)
	if _, err := p.Region.File.ReadAt(buf, p.Region.Off); err != nil || int64(len(buf)) < 3*stampedBytes {
		t.Errorf("the pinned range of %d bytes: %v", len(buf), err)
	}
	if _, err := stale.segments[1].pin(); !errors.Is(err, ErrClosed) || !l.outdated(stale, err) {
		t.Errorf("a segment that is gone was pinned: %v", err)
	}
	p.Release()
	fillAt(t, d, l, 6, 1000)
	mustRetain(t, l, 1000)
	if got := names(t, mem, logSuffix+deletedSuffix); len(got) != 2 {
		t.Errorf("marked as deleted: %v", got)
	}
	mustClose(t, d)
	mem = mem.Clone()
	d, l = open(t, mem, cfg)
	if got := names(t, mem, deletedSuffix); len(got) != 0 || l.Start() != 21 || l.End() != 26 {
		t.Errorf("after a start: %v, the log has %d to %d", got, l.Start(), l.End())
	}
	mustClose(t, d)
}

// TestRetentionOnAFullVolume: where nothing can be written, segments are removed all the same, and that
// makes the room that appends want.
func TestRetentionOnAFullVolume(t *testing.T) {
	var mu sync.Mutex
	full := false
	mem := vfs.NewMem()
	fsys := vfs.NewFault(mem, func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if full && (op.Kind == vfs.OpWrite || op.Kind == vfs.OpRename) {
			return syscall.ENOSPC
		}
		return nil
	})
	cfg := retentionConfig()
	d, l := open(t, fsys, cfg)
	fillAt(t, d, l, 20, 1000)
	if err := l.savePoint(); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	full = true
	mu.Unlock()
	cfg.RetentionBytes = 900
	l.SetConfig(cfg)
	if bytes, err := l.retain(1000); err != nil || bytes != 15*stampedBytes {
		t.Fatalf("%d bytes, %v", bytes, err)
	}
	if l.Start() != 15 || d.Err() != nil || len(names(t, mem, logSuffix)) != 2 || len(names(t, mem, deletedSuffix)) != 0 {
		t.Errorf("start %d, log dir %v, files %v", l.Start(), d.Err(), names(t, mem, ""))
	}
	mu.Lock()
	full = false
	mu.Unlock()
	fillAt(t, d, l, 1, 1000)
	mustClose(t, d)
	d, l = open(t, mem.Clone(), cfg)
	if l.Start() != 15 || l.End() != 21 {
		t.Errorf("the log has %d to %d", l.Start(), l.End())
	}
	mustClose(t, d)
}

// TestHousekeeperGoesOn: a log whose files cannot be renamed does not keep the others from being cleaned.
func TestHousekeeperGoesOn(t *testing.T) {
	mem := vfs.NewMem()
	cfg := retentionConfig()
	cfg.RetentionBytes, cfg.FileDeleteDelay = 0, 0
	d, err := OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/meta"})
	if err != nil {
		t.Fatal(err)
	}
	var logs []*Log
	for i := range int32(3) {
		l, err := d.OpenLog(TopicPartition{"events", i}, testID, cfg, func() {})
		if err != nil {
			t.Fatal(err)
		}
		fillAt(t, d, l, 10, 1000)
		logs = append(logs, l)
	}
	if err := l0Damage(mem, logs[0]); err != nil {
		t.Fatal(err)
	}
	d.Clean(Cleaning{RetentionCheck: time.Millisecond, StartsInterval: time.Millisecond})
	for until := time.Now().Add(time.Minute); logs[1].Start() < 10 || logs[2].Start() < 10; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("log starts %d and %d", logs[1].Start(), logs[2].Start())
		}
	}
	for until := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		text, _, _ := readFile(mem, "/d/log/"+logStartFile, 1000)
		if strings.Contains(string(text), "events 1 10\nevents 2 10\n") && len(names(t, mem, deletedSuffix)) == 0 {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("%s holds %q", logStartFile, text)
		}
	}
	mustClose(t, d)
}

// l0Damage makes the time of the log's first segment unknown: its indexes are gone and its bytes are no batches.
func l0Damage(mem *vfs.Mem, l *Log) error {
	cfg := l.Config()
	cfg.RetentionAge = time.Hour
	l.SetConfig(cfg)
	if err := l.savePoint(); err != nil {
		return err
	}
	s := l.view.Load().segments[0]
	s.idx.Lock()
	s.idx.sparse, s.idx.known = nil, false
	s.idx.Unlock()
	for _, suffix := range []string{indexSuffix, timeSuffix} {
		if err := mem.Remove(s.path(suffix)); err != nil {
			return err
		}
	}
	return replaceTail(mem, s.path(logSuffix), 0, []byte(strings.Repeat("not a batch ", 100)))
}
