package storage

import (
	"bytes"
	"log/slog"
	"math"
	"strings"
	"testing"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

const (
	padFrom  = 2 << 10
	padBytes = 1 << 10
)

func openPadded(t *testing.T, fsys vfs.FS, log *slog.Logger) (*Dir, *Log) {
	t.Helper()
	d, err := OpenDir(Options{FS: fsys, Path: "/d/log", MetaDir: "/d/meta", Log: log, PadFrom: padFrom, PadBytes: padBytes})
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
