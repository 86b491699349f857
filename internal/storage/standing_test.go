package storage

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

// at is the timestamp at an offset, which has to be found without and with the disk.
func at(t *testing.T, l *Log, offset, limit int64) int64 {
	t.Helper()
	ms, err := l.TimestampAt(offset, limit, true)
	if err != nil {
		t.Fatal(err)
	}
	if now, err := l.TimestampAt(offset, limit, false); !errors.Is(err, ErrCold) && (err != nil || now != ms) {
		t.Errorf("offset %d: %d, without waiting %d, %v", offset, ms, now, err)
	}
	return ms
}

func TestTimestampAt(t *testing.T) {
	const t0 = 1_700_000_000_000
	fsys := vfs.NewMem()
	d, l := open(t, fsys, retentionConfig())
	defer mustClose(t, d)
	if got := at(t, l, 0, 10); got != -1 {
		t.Errorf("an empty log has %d", got)
	}
	fillAt(t, d, l, 9, t0) // one record each, three to a segment
	for i := range int64(9) {
		if got := at(t, l, i, l.End()); got != t0+1000*i {
			t.Errorf("offset %d: %d", i, got-t0)
		}
	}
	if got := at(t, l, 9, l.End()); got != -1 {
		t.Errorf("at the end: %d", got)
	}
	if got := at(t, l, 8, 8); got != -1 {
		t.Errorf("above the limit: %d", got)
	}

	add := func(change func(record.Batch), codec record.Codec, times ...int64) int64 {
		t.Helper()
		b := record.NewBuilder(codec)
		for _, ms := range times {
			b.Add(t0+ms, nil, []byte("v"))
		}
		batch, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(batch)
		}
		a, err := l.Append(batch, AppendOptions{NowMs: t0})
		if err != nil {
			t.Fatal(err)
		}
		return a.BaseOffset
	}
	// Times that are out of order: each record has its own, however old or new its neighbours are.
	base := add(nil, record.Zstd, 50_000, 7000, 90_000)
	for i, want := range []int64{50_000, 7000, 90_000} {
		if got := at(t, l, base+int64(i), l.End()); got != t0+want {
			t.Errorf("record %d: %d, want %d", i, got-t0, want)
		}
	}
	// Close together they are not told apart.
	if base = add(nil, record.None, 0, 100, 999); at(t, l, base+2, l.End()) != t0 {
		t.Error("times within a second are told apart")
	}
	if base = add(func(b record.Batch) { b.SetLogAppendTime(t0 + 5) }, record.None, 0, 50_000); at(t, l, base+1, l.End()) != t0+5 {
		t.Error("LogAppendTime is not that of the log")
	}
	waitFlushed(t, d, l)
	l.SetCommitted(l.End())
	if err := l.RaiseStart(4); err != nil {
		t.Fatal(err)
	}
	if got := at(t, l, 0, l.End()); got != t0+4000 {
		t.Errorf("below the log start: %d", got-t0)
	}
}

func TestInDanger(t *testing.T) {
	const t0, hour = 1_700_000_000_000, 3_600_000
	fsys := vfs.NewMem()
	cfg := retentionConfig()
	d, l := open(t, fsys, cfg)
	defer mustClose(t, d)
	d.Clean(Cleaning{RetentionCheck: 5 * time.Minute, InitialDelay: time.Hour})
	fillAt(t, d, l, 9, t0) // segments 0-2, 3-5, 6-8
	check := func(what string, offset, nowMs int64, want string) {
		t.Helper()
		got := "safe"
		if x, ok := l.InDanger(offset, nowMs); ok {
			got = fmt.Sprintf("gone %d", x.Gone)
			if x.ByTime {
				got = fmt.Sprint("time ", x.Left)
			}
			if x.BySize {
				got = fmt.Sprint("size ", x.LeftBytes)
			}
		}
		if got != want {
			t.Errorf("%s: offset %d is %s, want %s", what, offset, got, want)
		}
	}
	check("kept for ever", 0, t0+1000*hour, "safe")

	cfg.RetentionAge = 10 * time.Hour
	l.SetConfig(cfg)
	check("young", 0, t0+8*hour, "safe")
	check("a tenth is left", 0, t0+9*hour+3000, "time 59m59s")
	check("the next segment is younger", 3, t0+9*hour+3000, "safe")
	check("overdue", 0, t0+11*hour, "time -59m58s")
	check("nothing to read", 9, t0+11*hour, "safe")
	cfg.RetentionAge = 40 * time.Minute
	l.SetConfig(cfg)
	check("until the pass after the next", 0, t0+31*60_000, "time 9m2s")
	cfg.RetentionAge = time.Minute
	l.SetConfig(cfg)
	check("passes are rarer than retention.ms is long", 8, t0+8000+29_000, "safe")
	check("more than half has passed", 8, t0+8000+31_000, "time 29s")

	cfg.RetentionAge, cfg.RetentionBytes = -1, 7*stampedBytes
	l.SetConfig(cfg)
	check("six batches are behind it, a seventh fits", 0, t0, "safe")
	cfg.RetentionBytes = 6*stampedBytes + 10
	l.SetConfig(cfg)
	check("ten bytes fit", 0, t0, "size 10")
	check("in the next segment", 3, t0, "safe")
	cfg.RetentionBytes = 100
	l.SetConfig(cfg)
	check("too large by far", 5, t0, fmt.Sprint("size ", 100-3*stampedBytes))
	check("the last segment stays", 8, t0, "safe")
	cfg.CleanupDelete = false
	l.SetConfig(cfg)
	check("compacted", 0, t0, "safe")
	if err := l.RaiseStart(4); err != nil {
		t.Fatal(err)
	}
	check("deleted", 1, t0, "gone 3")
	check("at the start", 4, t0, "safe")
}
