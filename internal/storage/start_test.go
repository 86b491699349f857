package storage

import (
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"moldau/internal/vfs"
)

// TestLogStartIsDurable is S12: the log start that was answered is there after a power loss, and
// with it everything from there on, also where records wait for no flush.
func TestLogStartIsDurable(t *testing.T) {
	for _, flushMessages := range []int64{1, math.MaxInt64} {
		mem := vfs.NewMem()
		cfg := testConfig()
		cfg.FlushMessages = flushMessages
		if !cfg.FlushPolicy() {
			cfg.SegmentBytes = 1 << 20 // no roll, and no point that would flush
		}
		d, l := open(t, mem, cfg)
		for i := range 100 {
			if _, err := l.Append(batch(t, strings.Repeat("x", 200)), AppendOptions{LeaderEpoch: int32(i / 10)}); err != nil {
				t.Fatal(err)
			}
		}
		l.SetCommitted(90)
		if err := l.RaiseStart(91); !errors.Is(err, ErrOffsetRange) || l.Start() != 0 {
			t.Fatalf("start beyond the high watermark: %v, start %d", err, l.Start())
		}
		for _, start := range []int64{5, 47, 46} {
			if err := l.RaiseStart(start); err != nil {
				t.Fatal(err)
			}
		}
		check := func(when string) {
			t.Helper()
			if l.Start() != 47 || l.End() < 47 || l.Flushed() < 47 {
				t.Fatalf("%s: start %d, flushed %d, end %d", when, l.Start(), l.Flushed(), l.End())
			}
			if _, err := l.Read(46, l.End(), 1000, true, 0); !errors.Is(err, ErrOffsetRange) {
				t.Errorf("%s: read below the start: %v", when, err)
			}
			if es := l.Epochs(); es[0] != (EpochEntry{4, 47}) {
				t.Errorf("%s: epochs %v", when, es)
			}
			if epoch, end := l.EndForEpoch(2); epoch != 2 || end != 47 {
				t.Errorf("%s: epoch 2 ends in epoch %d at %d", when, epoch, end)
			}
		}
		check("before")
		mem = mem.Crash(rand.New(rand.NewPCG(1, 2)))
		d.Close()
		d, l = open(t, mem, cfg)
		check("after a power loss")
		mustClose(t, d)
		text, _, err := readFile(mem, "/d/log/"+logStartFile, 1000)
		if err != nil || string(text) != "0\n1\nevents 0 47\n" {
			t.Errorf("%s holds %q (%v)", logStartFile, text, err)
		}
		mem = mem.Clone()
		d, l = open(t, mem, cfg)
		check("after a clean stop")
		if err := l.Truncate(10); err != nil || l.End() != 47 || l.Start() != 47 {
			t.Errorf("truncation below the start: %v, the log has %d to %d", err, l.Start(), l.End())
		}
		mustClose(t, d)
		// Without the manifest it is a directory of Kafka's.
		mem = mem.Clone()
		if err := mem.Remove("/d/meta/manifest"); err != nil {
			t.Fatal(err)
		}
		d, l = open(t, mem, cfg)
		if l.Start() != 47 {
			t.Errorf("a directory of Kafka's begins at %d", l.Start())
		}
		mustClose(t, d)
	}
}

// TestFullVolumeDoesNotEndTheManifest: what had no room is written when there is some.
func TestFullVolumeDoesNotEndTheManifest(t *testing.T) {
	var full atomic.Bool
	mem := vfs.NewMem()
	fsys := vfs.NewFault(mem, func(op vfs.Op) error {
		if full.Load() && op.Kind == vfs.OpWrite && strings.HasSuffix(op.Name, manifestFile) {
			return vfs.ShortWrite{N: 11, Err: syscall.ENOSPC}
		}
		return nil
	})
	d, l := open(t, fsys, testConfig())
	fillLog(t, d, l, 20)
	l.SetCommitted(20)
	full.Store(true)
	if err := l.RaiseStart(12); !errors.Is(err, ErrNoSpace) || l.Start() != 0 || d.Err() != nil {
		t.Fatalf("on a full volume: %v, start %d, log dir %v", err, l.Start(), d.Err())
	}
	full.Store(false)
	if err := l.RaiseStart(7); err != nil {
		t.Fatal(err)
	}
	mem = mem.Crash(rand.New(rand.NewPCG(1, 1)))
	d.Close()
	d, l = open(t, mem, testConfig())
	if l.Start() != 7 || l.End() != 20 {
		t.Errorf("the log has %d to %d", l.Start(), l.End())
	}
	mustClose(t, d)
}

func TestEpochsCutHead(t *testing.T) {
	c := epochs{[]EpochEntry{{1, 0}, {3, 10}, {7, 20}}}
	for _, step := range []struct {
		start   int64
		changed bool
		first   EpochEntry
		n       int
	}{{0, false, EpochEntry{1, 0}, 3}, {5, true, EpochEntry{1, 5}, 3}, {10, true, EpochEntry{3, 10}, 2}, {10, false, EpochEntry{3, 10}, 2}, {99, true, EpochEntry{7, 99}, 1}} {
		if got := c.cutHead(step.start); got != step.changed || c.entries[0] != step.first || len(c.entries) != step.n {
			t.Errorf("cut at %d: %v %v", step.start, got, c.entries)
		}
	}
	if (&epochs{}).cutHead(4) {
		t.Error("an empty cache changed")
	}
}
