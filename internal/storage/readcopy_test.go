package storage

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"moldau/internal/vfs"
	"moldau/test/measure"
)

// countingFS counts the reads of files.
type countingFS struct {
	vfs.FS
	reads atomic.Int64
}

type countingFile struct {
	vfs.File
	fs *countingFS
}

func (c *countingFS) Open(name string, mode vfs.Mode) (vfs.File, error) {
	f, err := c.FS.Open(name, mode)
	if err != nil {
		return nil, err
	}
	return &countingFile{f, c}, nil
}

func (f *countingFile) ReadAt(p []byte, off int64) (int, error) {
	f.fs.reads.Add(1)
	return f.File.ReadAt(p, off)
}

// TestSequentialReaderReadsOnce: who reads on where a reader stopped costs one read of the file for each plan.
func TestSequentialReaderReadsOnce(t *testing.T) {
	fsys := &countingFS{FS: vfs.NewMem()}
	cfg := testConfig()
	cfg.SegmentBytes = 1 << 20
	d, l := open(t, fsys, cfg)
	defer d.Close()
	fillLog(t, d, l, 100)
	for _, maxBytes := range []int{1, 700, 1 << 20} {
		first := true
		for at := int64(0); at < l.End(); {
			before := fsys.reads.Load()
			p, err := l.Read(at, l.End(), maxBytes, true, CopyBelow)
			if err != nil {
				t.Fatal(err)
			}
			if n := fsys.reads.Load() - before; n != 1 && !first && maxBytes > 1 {
				t.Fatalf("max bytes %d: the read at %d took %d reads of the file", maxBytes, at, n)
			}
			if p.Bytes == nil || p.BaseOffset != at {
				t.Fatalf("max bytes %d: read at %d: %+v", maxBytes, at, p.BaseOffset)
			}
			first = false
			if _, at, err = planBatches(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := measure.Allocations(200, 0, func() {
		p, err := l.Read(50, l.End(), 1000, true, CopyBelow)
		if err != nil {
			t.Fatal(err)
		}
		p.Release()
	}); n >= 1 {
		t.Errorf("a read of a small range allocates %v times", n)
	}
}

// TestReadersDoNotWaitForAppends: an append holds its lock while the disk takes its bytes; what a fetch asks needs no lock.
func TestReadersDoNotWaitForAppends(t *testing.T) {
	d, l := open(t, vfs.NewMem(), testConfig())
	defer d.Close()
	fillLog(t, d, l, 100)
	l.LastStable(l.End()) // looks once whether there are transactions
	l.mu.Lock()
	answered := make(chan error, 1)
	go func() {
		p, err := l.Read(20, l.LastStable(l.End()), 1000, true, CopyBelow)
		if epoch, end := l.EndForEpoch(3); err == nil && (epoch != 3 || end != 100 || p.Len() == 0) {
			err = fmt.Errorf("epoch %d ends at %d, %d bytes", epoch, end, p.Len())
		}
		p.Release()
		answered <- err
	}()
	select {
	case err := <-answered:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("a reader waits for the lock of appends")
	}
	l.mu.Unlock()
}

// TestPlacesEndWithTruncation: other batches may stand where a reader stopped once.
func TestPlacesEndWithTruncation(t *testing.T) {
	cfg := testConfig()
	cfg.SegmentBytes = 1 << 20
	d, l := open(t, vfs.NewMem(), cfg)
	defer d.Close()
	fillLog(t, d, l, 10)
	for at := int64(0); at < 10; {
		p, err := l.Read(at, 10, 1, true, CopyBelow)
		if err != nil {
			t.Fatal(err)
		}
		if _, at, err = planBatches(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Truncate(2); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := l.Append(batch(t, strings.Repeat("other", 30)), AppendOptions{LeaderEpoch: 3}); err != nil {
			t.Fatal(err)
		}
	}
	for at := int64(9); at >= 2; at-- { // the first of these reads knows the place that was learned before
		p, err := l.Read(at, l.End(), 1, true, CopyBelow)
		if err != nil {
			t.Fatal(err)
		}
		got, next, err := planBatches(p)
		if err != nil || next != at+1 || !bytes.Contains(got, []byte("other")) {
			t.Fatalf("read at %d after a truncation: next %d, %v", at, next, err)
		}
	}
}

// TestReadBuffersArePoisoned: bytes of a plan are gone once it is released, which is what the other tests rely on to
// find a use after that.
func TestReadBuffersArePoisoned(t *testing.T) {
	d, l := open(t, vfs.NewMem(), testConfig())
	defer d.Close()
	d.buffers.poison = true
	fillLog(t, d, l, 1)
	p, err := l.Read(0, 1, 1, true, CopyBelow)
	if err != nil {
		t.Fatal(err)
	}
	p.Release()
	if p.Bytes[0] != 0xDB {
		t.Error("released bytes are as they were")
	}
}

// TestPointsWithoutFlushPolicy: where nobody asks for a sync, points come for the sake of what all logs have together.
func TestPointsWithoutFlushPolicy(t *testing.T) {
	for _, unflushed := range []int64{4 << 10, 1 << 30} {
		d, err := OpenDir(Options{FS: vfs.NewMem(), Path: "/d/log", MetaDir: "/d/meta", PointBytes: 1 << 10, UnflushedBytes: unflushed})
		if err != nil {
			t.Fatal(err)
		}
		cfg := testConfig()
		cfg.FlushMessages, cfg.SegmentBytes = math.MaxInt64, 1<<20
		l, err := d.OpenLog(testTP, testID, cfg, func() {})
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if _, err := l.Append(batch(t, strings.Repeat("v", 100)), AppendOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		if unflushed < 1<<20 {
			for l.Flushed() == 0 {
				time.Sleep(20 * time.Microsecond)
			}
		} else if d.mu.Lock(); len(d.mu.points) > 0 || l.Flushed() > 0 {
			t.Error("a point was made although next to nothing is unflushed")
			d.mu.Unlock()
		} else {
			d.mu.Unlock()
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		if n := d.unpointed.Load(); n != 0 {
			t.Errorf("%d bytes count as unflushed after the end", n)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	dir, err := OpenDir(Options{FS: vfs.OS(), Path: b.TempDir() + "/log", MetaDir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer dir.Close()
	cfg := LogConfig{SegmentBytes: 1 << 28, IndexIntervalBytes: 4096, SegmentIndexBytes: 10 << 20, FlushMessages: math.MaxInt64, MaxInflatedBytes: 1 << 20}
	l, err := dir.OpenLog(testTP, testID, cfg, func() {})
	if err != nil {
		b.Fatal(err)
	}
	for range 1000 {
		if _, err := l.Append(batch(&testing.T{}, strings.Repeat("v", 4<<10)), AppendOptions{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	at := int64(0)
	for b.Loop() {
		p, err := l.Read(at%1000, l.End(), 4<<10, true, CopyBelow)
		if err != nil {
			b.Fatal(err)
		}
		p.Release()
		at++
	}
}
