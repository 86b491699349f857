package storage

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

// largeSegments is a log with segments that hold two batches of 100 kB each.
func largeSegments(t *testing.T, o Options, segments int) (*Dir, *Log) {
	t.Helper()
	o.Path, o.MetaDir = "/d/log", "/d/meta"
	d, err := OpenDir(o)
	must(t, err)
	cfg := testConfig()
	cfg.SegmentBytes, cfg.IndexIntervalBytes = 210_000, 4096
	l, err := d.OpenLog(testTP, testID, cfg, func() {})
	must(t, err)
	for l.Segments() < segments {
		b := record.NewBuilder(record.None)
		b.Add(1000, nil, []byte(strings.Repeat("x", 100_000)))
		out, err := b.Finish()
		must(t, err)
		_, err = l.Append(out, AppendOptions{LeaderEpoch: 3, NowMs: 1000})
		must(t, err)
	}
	waitFlushed(t, d, l)
	return d, l
}

// TestPlansKeepToTheirDescriptors: plans that are not released keep half of the files open at most; further ones are read into memory. Nobody is
// refused, and the files that nobody uses make room.
func TestPlansKeepToTheirDescriptors(t *testing.T) {
	const files = 6
	d, l := largeSegments(t, Options{FS: vfs.NewMem(), OpenFiles: files}, 20)
	var plans []Plan
	inMemory := 0
	for at := int64(0); at+2 < l.End(); at += 2 {
		p, err := l.Read(at, l.End(), 1<<20, true, CopyBelow)
		if err != nil || p.Len() == 0 || p.BaseOffset != at {
			t.Fatalf("offset %d: %+v, %v", at, p, err)
		}
		if len(p.Bytes) > 0 {
			inMemory++
		}
		plans = append(plans, p)
		if open := d.pool.open; open > files {
			t.Errorf("%d files are open, %d may be", open, files)
		}
	}
	if got := len(plans) - inMemory; got == 0 || got > files/2+1 {
		t.Errorf("%d of %d plans keep a file open", got, len(plans))
	}
	for i := range plans {
		plans[i].Release()
	}
	if p, err := l.Read(0, l.End(), 1<<20, true, CopyBelow); err != nil || p.Region.File == nil {
		t.Errorf("when files are free again: %+v, %v", p, err)
	} else {
		p.Release()
	}
	mustClose(t, d)
}

// TestWantOfDescriptorsFencesNothing: where no file can be opened for a moment appends and reads wait.
func TestWantOfDescriptorsFencesNothing(t *testing.T) {
	var d *Dir
	var armed atomic.Bool
	disk := vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		// Only a closed segment file makes room.
		if armed.Load() && op.Kind == vfs.OpOpen && idleFiles(d.pool) > 0 {
			return syscall.EMFILE
		}
		return nil
	})
	d, l := largeSegments(t, Options{FS: disk, OpenFiles: 100}, 10)
	armed.Store(true)
	b := record.NewBuilder(record.None)
	b.Add(1000, nil, []byte(strings.Repeat("x", 150_000)))
	out, err := b.Finish()
	must(t, err)
	if _, err := l.Append(out, AppendOptions{LeaderEpoch: 3, NowMs: 1000}); err != nil { // it begins a segment
		t.Fatal(err)
	}
	waitFlushed(t, d, l)
	armed.Store(false)
	must(t, d.Err())
	mustClose(t, d)
}

func idleFiles(d *descriptors) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count
}
