//go:build unix

package storage

import (
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

// TestRetainedCPU prints how much more processor time appends and fetches at the end take with RETAINED_BYTES behind them, in segments of
// SEGMENT_BYTES (default 1 MiB, the least that segment.bytes may be), on the disk. Without RETAINED_BYTES it is skipped: it measures, and asserts nothing.
func TestRetainedCPU(t *testing.T) {
	retained, _ := strconv.ParseInt(os.Getenv("RETAINED_BYTES"), 10, 64)
	if retained == 0 {
		t.Skip("RETAINED_BYTES is not set")
	}
	cfg := testConfig()
	cfg.FlushMessages = 1 << 62
	cfg.IndexIntervalBytes = 4096
	if cfg.SegmentBytes, _ = strconv.ParseInt(os.Getenv("SEGMENT_BYTES"), 10, 64); cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = 1 << 20
	}
	root := t.TempDir()
	d, err := OpenDir(Options{FS: vfs.OS(), Path: root + "/log", MetaDir: root + "/meta"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := d.OpenLog(testTP, testID, cfg, func() {})
	if err != nil {
		t.Fatal(err)
	}
	b := record.NewBuilder(record.None)
	b.Add(1000, []byte("key"), make([]byte, 900))
	out, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	cycles := func(until func(n int) bool) (n int) {
		for n = 0; !until(n); n++ {
			at := l.End()
			if _, err := l.Append(out, AppendOptions{LeaderEpoch: 1, NowMs: 1000}); err != nil {
				t.Fatal(err)
			}
			p, err := l.Read(at, l.End(), 1<<20, true, CopyBelow)
			if err != nil {
				t.Fatal(err)
			}
			p.Release()
		}
		return n
	}
	const n = 100_000
	measure := func() (user, system time.Duration) {
		beganUser, beganSystem := cpuTime(t)
		cycles(func(i int) bool { return i == n })
		// The points of the rolled segments are part of what it costs.
		for busy := true; busy; time.Sleep(time.Millisecond) {
			d.mu.Lock()
			busy = len(d.mu.points) > 0
			d.mu.Unlock()
		}
		user, system = cpuTime(t)
		return (user - beganUser) / n, (system - beganSystem) / n
	}
	cycles(func(int) bool { return l.Segments() == 4 })
	fewUser, fewSystem := measure()
	fewSegments := l.Segments()
	cycles(func(n int) bool { return int64(n*len(out)) >= retained })
	segments := l.Segments()
	manyUser, manySystem := measure()
	t.Logf("an append and a fetch at the end, with their share of rolls and points: %v of processor time and %v of the kernel's with %d to %d segments, %v and %v with %d to %d of %d MB: %.2f times as much",
		fewUser, fewSystem, 4, fewSegments, manyUser, manySystem, segments, l.Segments(), l.SizeBytes()>>20, float64(manyUser+manySystem)/float64(fewUser+fewSystem))
	mustClose(t, d)
}

func cpuTime(t *testing.T) (user, system time.Duration) {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano()), time.Duration(u.Stime.Nano())
}
