package storage

import (
	"bytes"
	"log/slog"
	"math"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

const (
	padFrom  = 2 << 10
	padBytes = 1 << 10
)

func openPadded(t *testing.T, fsys vfs.FS, log *slog.Logger) (*Dir, *Log) {
	t.Helper()
	d, err := OpenDir(Options{FS: fsys, Path: "/d/log", MetaDir: "/d/meta", Log: log, PadFrom: padFrom, PadBytes: padBytes, QuietRound: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig()
	cfg.FlushMessages = math.MaxInt64
	l, err := d.OpenLog(testTP, testID, cfg, func() {})
	if err != nil {
		t.Fatal(err)
	}
	return d, l
}

func appendPadded(t *testing.T, l *Log, n int) {
	t.Helper()
	for range n {
		if _, err := l.Append(batch(t, strings.Repeat("v", 200)), AppendOptions{NowMs: 1000}); err != nil {
			t.Fatal(err)
		}
	}
}

func fileOf(t *testing.T, fsys vfs.FS, base int64) []byte {
	t.Helper()
	data, found, err := readFile(fsys, "/d/log/events-0/"+segmentFile(base, logSuffix), 1<<20)
	if err != nil || !found {
		t.Fatal(found, err)
	}
	return data
}

// A small segment's file ends with its last batch; a larger one's has zeros up to the next multiple, which the next batches overwrite.
// A roll and a stop cut them off, and a start after a kill does so without a word.
func TestZerosBehindTheLastBatch(t *testing.T) {
	mem := vfs.NewMem()
	d, l := openPadded(t, mem, nil)
	for l.SizeBytes() < 2*padFrom {
		appendPadded(t, l, 1)
		size, data := l.SizeBytes(), fileOf(t, mem, 0)
		want := size
		if size >= padFrom {
			want = (size + padBytes - 1) / padBytes * padBytes
		}
		if int64(len(data)) != want || len(bytes.Trim(data[size:], "\x00")) > 0 {
			t.Fatalf("%d bytes of batches: the file has %d, want %d", size, len(data), want)
		}
		if data[size-1] == 0 && data[size-2] == 0 {
			t.Fatal("the last batch was overwritten")
		}
	}

	killed := mem.Clone()
	_ = d.Close() // it has lost its files

	var told bytes.Buffer
	end, size := l.End(), l.SizeBytes()
	d, l = openPadded(t, killed, slog.New(slog.NewTextHandler(&told, nil)))
	if l.End() != end || l.SizeBytes() != size || int64(len(fileOf(t, killed, 0))) != size {
		t.Errorf("after a kill: log end %d, %d bytes, the file has %d; before %d, %d", l.End(), l.SizeBytes(), len(fileOf(t, killed, 0)), end, size)
	}
	if told.Len() > 0 || exists(killed, "/d/meta/quarantine") {
		t.Errorf("after a kill, of zeros: %s", told.String())
	}
	for l.Segments() == 1 {
		appendPadded(t, l, 1)
	}
	v := l.view.Load()
	if got := int64(len(fileOf(t, killed, 0))); got != v.segments[0].size.Load() {
		t.Errorf("after a roll the file has %d bytes, the batches %d", got, v.segments[0].size.Load())
	}
	for v.segments[1].size.Load() < padFrom {
		appendPadded(t, l, 1)
	}
	if got := int64(len(fileOf(t, killed, v.segments[1].base))); got <= v.segments[1].size.Load() {
		t.Errorf("before a stop the file has %d bytes, the batches %d", got, v.segments[1].size.Load())
	}
	mustClose(t, d)
	if got := int64(len(fileOf(t, killed, v.segments[1].base))); got != v.segments[1].size.Load() {
		t.Errorf("after a stop the file has %d bytes, the batches %d", got, v.segments[1].size.Load())
	}
}

// A truncation takes the zeros away too, and what is appended then gets its own.
func TestZerosAfterTruncation(t *testing.T) {
	mem := vfs.NewMem()
	d, l := openPadded(t, mem, nil)
	appendPadded(t, l, 20)
	if err := l.Truncate(15); err != nil {
		t.Fatal(err)
	}
	if got := int64(len(fileOf(t, mem, 0))); got != l.SizeBytes() {
		t.Errorf("after a truncation the file has %d bytes, the batches %d", got, l.SizeBytes())
	}
	appendPadded(t, l, 1)
	if got := int64(len(fileOf(t, mem, 0))); got%padBytes != 0 || got < l.SizeBytes() {
		t.Errorf("and after an append the file has %d bytes, the batches %d", got, l.SizeBytes())
	}
	mustClose(t, d)
	if got := int64(len(fileOf(t, mem, 0))); got != l.SizeBytes() {
		t.Errorf("after a stop the file has %d bytes, the batches %d", got, l.SizeBytes())
	}
}

// Zeros cost no write of their own and no garbage, also behind as many batches as one write takes.
func TestZerosComeWithTheBatches(t *testing.T) {
	writes := 0
	fsys := vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		if op.Kind == vfs.OpWrite && strings.HasSuffix(op.Name, logSuffix) {
			writes++
		}
		return nil
	})
	d, l := openPadded(t, fsys, nil)
	defer mustClose(t, d)
	appendPadded(t, l, 10)
	for n := 1; n <= MaxTogether; n++ {
		var entries []Entry
		for range n {
			b := record.NewBuilder(record.None)
			b.Add(1000, nil, []byte("v"))
			p, err := b.Finish()
			if err != nil {
				t.Fatal(err)
			}
			entries = append(entries, Entry{Batch: p, Options: AppendOptions{NowMs: 1000}})
		}
		writes = 0
		l.AppendAll(entries)
		if writes != 1 || entries[n-1].Err != nil {
			t.Errorf("%d batches took %d writes: %v", n, writes, entries[n-1].Err)
		}
	}
}

// cutRound makes a round over the logs whose files are longer than their batches, and returns how many of them are left.
func cutRound(d *Dir) int {
	d.mu.Lock()
	d.mu.cutting.due = true
	d.mu.Unlock()
	d.cutExcess()
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.mu.excess)
}

// fileEnds demands that the file of a log of one segment is longer than its batches, or that it is not.
func fileEnds(t *testing.T, when string, fsys vfs.FS, l *Log, longer bool) {
	t.Helper()
	size, batches := int64(len(fileOf(t, fsys, 0))), l.SizeBytes()
	if size < batches || (size > batches) != longer {
		t.Errorf("%s the file has %d bytes, the batches %d", when, size, batches)
	}
}

// S19: the zeros are cut off when a round has passed without an append, and no record with them; what is appended then gets its own.
func TestZerosOfAQuietLog(t *testing.T) {
	mem := vfs.NewMem()
	d, l := openPadded(t, mem, nil)
	cfg := l.Config()
	cfg.SegmentBytes = 1 << 20
	l.SetConfig(cfg)
	if n := cutRound(d); n != 0 {
		t.Errorf("a log without zeros is visited: %d", n)
	}
	for range 3 {
		appendPadded(t, l, 20)
		for range 3 {
			if n := cutRound(d); n != 1 {
				t.Errorf("%d logs are left while one is appended to", n)
			}
			fileEnds(t, "while it is appended to", mem, l, true)
			appendPadded(t, l, 1)
		}
		cutRound(d)
		before := fileOf(t, mem, 0)[:l.SizeBytes()]
		if n := cutRound(d); n != 0 {
			t.Errorf("%d logs are left after a round without an append", n)
		}
		fileEnds(t, "after a round without an append", mem, l, false)
		if !bytes.Equal(fileOf(t, mem, 0), before) {
			t.Error("batches were cut off")
		}
	}
	appendPadded(t, l, 1)
	fileEnds(t, "after another append", mem, l, true)
	mustClose(t, d)
}

// The rounds come by themselves, also when nothing is ever appended again.
func TestZerosGoByThemselves(t *testing.T) {
	mem := vfs.NewMem()
	d, err := OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/meta", PadFrom: 1, PadBytes: padBytes, QuietRound: time.Millisecond})
	must(t, err)
	cfg := testConfig()
	cfg.FlushMessages = math.MaxInt64
	l, err := d.OpenLog(testTP, testID, cfg, func() {})
	must(t, err)
	for range 3 {
		appendPadded(t, l, 5)
		for until := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			info, err := mem.Stat("/d/log/events-0/" + segmentFile(0, logSuffix))
			must(t, err)
			if info.Size == l.SizeBytes() {
				break
			}
			if time.Now().After(until) {
				t.Fatalf("the file has %d bytes, the batches %d", info.Size, l.SizeBytes())
			}
		}
	}
	mustClose(t, d)
}

// What a failed write left goes too; where the file's size cannot be changed for want of room it is tried again; after another failure the log dir is offline.
func TestCutOfAQuietLogFails(t *testing.T) {
	mem := vfs.NewMem()
	var write, cut error
	d, l := openPadded(t, vfs.NewFault(mem, func(op vfs.Op) error {
		switch {
		case !strings.HasSuffix(op.Name, logSuffix):
		case op.Kind == vfs.OpWrite && write != nil:
			return vfs.ShortWrite{N: 50, Err: write}
		case op.Kind == vfs.OpTruncate:
			return cut
		}
		return nil
	}), nil)
	appendPadded(t, l, 1) // no zeros yet
	write = syscall.ENOSPC
	if _, err := l.Append(batch(t, strings.Repeat("v", 200)), AppendOptions{NowMs: 1000}); err == nil {
		t.Fatal("a write failed, the append did not")
	}
	write, cut = nil, syscall.ENOSPC
	fileEnds(t, "after a failed write", mem, l, true)
	cutRound(d)
	for range 3 {
		if n := cutRound(d); n != 1 || d.Err() != nil {
			t.Fatalf("without room: %d logs are left, %v", n, d.Err())
		}
	}
	cut = nil
	if n := cutRound(d); n != 0 {
		t.Errorf("with room: %d logs are left", n)
	}
	fileEnds(t, "after a round with room", mem, l, false)
	appendPadded(t, l, 20)
	cut = syscall.EIO
	cutRound(d)
	cutRound(d)
	if d.Err() == nil {
		t.Error("a file's size could not be changed, and the log dir is not offline")
	}
	cut = nil
	if n := cutRound(d); n != 0 {
		t.Errorf("%d logs of a log dir that is offline are left", n)
	}
	fileEnds(t, "of a log dir that is offline", mem, l, true)
	_ = d.Close()
}

// A log that was closed or deleted meanwhile is left alone, and the log dir goes on.
func TestCutOfALogThatIsGone(t *testing.T) {
	mem := vfs.NewMem()
	d, l := openPadded(t, mem, nil)
	appendPadded(t, l, 20)
	cutRound(d)
	must(t, l.Delete())
	if n := cutRound(d); n != 0 || d.Err() != nil {
		t.Errorf("of a deleted log: %d are left, %v", n, d.Err())
	}
	h, cfg, other := &Held{}, testConfig(), testID
	other[0]++
	cfg.FlushMessages = math.MaxInt64
	must(t, d.Hold(h, testTP, other, &cfg, flushedFunc(func() {})))
	again, err := h.Open()
	must(t, err)
	appendPadded(t, again, 20)
	cutRound(d)
	now, err := again.leave()
	must(t, err)
	again.mu.Lock()
	again.end.Load().seg.torn = true // a write has failed since
	again.mu.Unlock()
	if !h.close(again, now) {
		t.Fatal("the log was not closed")
	}
	if n := cutRound(d); n != 0 || d.Err() != nil {
		t.Errorf("of a closed log: %d are left, %v", n, d.Err())
	}
	mustClose(t, d)
}

// A stop believes what is in memory: that the file was cut. So it has to sync a cut that came after the log was at rest.
func TestCutBeforeAStopIsDurable(t *testing.T) {
	for seed := range uint64(20) {
		mem := vfs.NewMem()
		var write error
		fsys := vfs.NewFault(mem, func(op vfs.Op) error {
			if op.Kind == vfs.OpWrite && strings.HasSuffix(op.Name, logSuffix) && write != nil {
				return vfs.ShortWrite{N: 50, Err: write}
			}
			return nil
		})
		d, l := openPadded(t, fsys, nil)
		appendPadded(t, l, 20)
		mustClose(t, d)
		d, l = openPadded(t, fsys, nil)
		write = syscall.ENOSPC
		if _, err := l.Append(batch(t, strings.Repeat("v", 200)), AppendOptions{NowMs: 1000}); err == nil {
			t.Fatal("a write failed, the append did not")
		}
		write = nil
		f, err := mem.Open("/d/log/events-0/"+segmentFile(0, logSuffix), vfs.ReadWrite)
		must(t, err)
		must(t, f.Sync()) // the system may write what it likes
		must(t, f.Close())
		cutRound(d)
		cutRound(d)
		mustClose(t, d)
		if got := int64(len(fileOf(t, mem.Crash(rand.New(rand.NewPCG(seed, 1))), 0))); got != l.SizeBytes() {
			t.Fatalf("seed %d: a clean stop and a power loss left %d bytes of %d", seed, got, l.SizeBytes())
		}
	}
}

// A log is cut, and its broker killed before anything has synced that. Whoever finds the file as long as it should be has to sync it before a
// segment that follows counts: else a power loss puts zeros between batches.
func TestCutBeforeAKillIsDurable(t *testing.T) {
	for seed := range uint64(20) {
		mem := vfs.NewMem()
		d, l := openPadded(t, mem, nil)
		appendPadded(t, l, 20)
		must(t, l.savePoint()) // with the zeros
		cutRound(d)
		cutRound(d)
		fileEnds(t, "after a round without an append", mem, l, false)
		killed := mem.Clone()
		_ = d.Close() // it has lost its files
		d, l = openPadded(t, killed, nil)
		cfg := l.Config()
		cfg.SegmentBytes = l.SizeBytes()
		l.SetConfig(cfg)
		appendPadded(t, l, 1) // the first one begins a segment
		before := l.view.Load().segments[0]
		must(t, l.flush())
		crashed := killed.Crash(rand.New(rand.NewPCG(seed, 2)))
		_ = d.Close() // its disk is gone
		if got := int64(len(fileOf(t, crashed, 0))); got != before.size.Load() {
			t.Fatalf("seed %d: %d bytes of a segment of %d are left, and another follows it", seed, got, before.size.Load())
		}
	}
}

// An append that comes after a round's time without one gets no zeros, which would only be cut off again; the one right behind it does.
func TestNoZerosBehindRareAppends(t *testing.T) {
	mem := vfs.NewMem()
	d, l := openPadded(t, mem, nil)
	appendPadded(t, l, 10)
	cutRound(d)
	cutRound(d)
	nowMs := int64(1000)
	for _, afterMs := range []int64{time.Hour.Milliseconds() + 1, 2 * time.Hour.Milliseconds(), 0} {
		nowMs += afterMs
		_, err := l.Append(batch(t, strings.Repeat("v", 200)), AppendOptions{NowMs: nowMs})
		must(t, err)
		fileEnds(t, "after an append", mem, l, afterMs == 0)
	}
	mustClose(t, d)
}
