package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

var testTP = TopicPartition{"events", 0}
var testID = wire.UUID{7, 7, 7}

func testConfig() LogConfig {
	return LogConfig{SegmentBytes: 8 << 10, IndexIntervalBytes: 512, SegmentIndexBytes: 1 << 20, FlushMessages: 1, MaxInflatedBytes: 1 << 20}
}

// open opens a log dir with one log in it.
func open(t *testing.T, fsys vfs.FS, cfg LogConfig) (*Dir, *Log) {
	t.Helper()
	dir, err := OpenDir(Options{FS: fsys, Path: "/d/log", MetaDir: "/d/meta"})
	if err != nil {
		t.Fatal(err)
	}
	log, err := dir.OpenLog(testTP, testID, cfg, func() {})
	if err != nil {
		t.Fatal(err)
	}
	return dir, log
}

func batch(t *testing.T, values ...string) record.Batch {
	t.Helper()
	b := record.NewBuilder(record.None)
	for _, v := range values {
		b.Add(1000, nil, []byte(v))
	}
	out, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// fillLog appends n batches of about 300 bytes and waits until they are flushed.
func fillLog(t *testing.T, d *Dir, l *Log, n int) {
	t.Helper()
	for i := range n {
		b := record.NewBuilder(record.None)
		b.Add(int64(1000+i), []byte(fmt.Sprint(i)), []byte(strings.Repeat("x", 220)))
		out, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(out, AppendOptions{LeaderEpoch: 3, NowMs: int64(1000 + i)}); err != nil {
			t.Fatal(err)
		}
	}
	waitFlushed(t, d, l)
}

func waitFlushed(t *testing.T, d *Dir, l *Log) {
	t.Helper()
	l.RequestFlush(l.End())
	for l.Flushed() < l.End() && d.Err() == nil {
		time.Sleep(20 * time.Microsecond)
	}
}

// TestPointTellsThatItFlushed: a point flushes what was appended, and whoever waits for that must hear of it, as after
// any other flush.
func TestPointTellsThatItFlushed(t *testing.T) {
	dir, err := OpenDir(Options{FS: vfs.NewMem(), Path: "/d/log", MetaDir: "/d/meta"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig()
	cfg.FlushMessages = math.MaxInt64
	var told atomic.Int64
	log, err := dir.OpenLog(testTP, testID, cfg, func() { told.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.Append(batch(t, "a"), AppendOptions{}); err != nil {
		t.Fatal(err)
	}
	dir.requestPoint(log)
	for log.Flushed() < log.End() && dir.Err() == nil {
		time.Sleep(20 * time.Microsecond)
	}
	mustClose(t, dir) // it waits for the point
	if told.Load() == 0 {
		t.Error("the log was flushed and nobody was told")
	}
}

// TestForeignLogIsRecordedWithItsPoint: a log of Kafka's, whose first segments are deleted and whose offsets may have gaps, is
// recorded as present only together with a point. Without one a power loss right after the first opening made it look like a
// young log of ours whose first segment was lost, and all of it was set aside.
func TestForeignLogIsRecordedWithItsPoint(t *testing.T) {
	mem := vfs.NewMem()
	d, l := open(t, mem, testConfig())
	fillLog(t, d, l, 100)
	mustClose(t, d)
	for _, suffix := range []string{logSuffix, indexSuffix, timeSuffix} {
		if err := mem.Remove(path.Join("/d/log/events-0", segmentFile(0, suffix))); err != nil {
			t.Fatal(err)
		}
	}
	start := int64(-1)
	for range 2 {
		d, err := OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/other"})
		if err != nil {
			t.Fatal(err)
		}
		l, err := d.OpenLog(testTP, testID, testConfig(), func() {})
		if err != nil {
			t.Fatal(err)
		}
		if e := d.manifest.entry(l.key()); e == nil || e.point == nil {
			t.Error("the log is open and has no point")
		}
		if start >= 0 && l.Start() != start || l.Start() == 0 || l.End() != 100 {
			t.Fatalf("the log goes from %d to %d, expected to 100", l.Start(), l.End())
		}
		start = l.Start()
		mem = mem.Crash(rand.New(rand.NewPCG(1, 1)))
	}
}

// TestStopSpeaksForWhatItKnows: a clean stop is said only of logs that were open, and a partition directory that was not
// opened keeps what Kafka's checkpoints said of it.
func TestStopSpeaksForWhatItKnows(t *testing.T) {
	mem := vfs.NewMem()
	clean := func() bool { return StoppedCleanly(mem, "/d/log") }
	d, l := open(t, mem, testConfig())
	fillLog(t, d, l, 10)
	if clean() {
		t.Error("an open log dir says that it was stopped")
	}
	mustClose(t, d)
	if !clean() {
		t.Error("a log dir that was closed does not say so")
	}
	starts := map[TopicPartition]int64{testTP: 4}
	if err := writeAtomic(mem, "/d/log", logStartFile, encodeOffsets(starts)); err != nil {
		t.Fatal(err)
	}
	// Another broker has it and opens nothing: the log is a stray.
	for _, stopped := range []bool{true, false} {
		if !stopped {
			if err := mem.Remove("/d/log/" + cleanShutdownFile); err != nil {
				t.Fatal(err)
			}
		}
		d, err := OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/other"})
		if err != nil {
			t.Fatal(err)
		}
		mustClose(t, d)
		if clean() != stopped {
			t.Errorf("stopped cleanly: %v, the log that nobody opened: %v", clean(), stopped)
		}
	}
	d, err := OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/other"})
	if err != nil {
		t.Fatal(err)
	}
	if l, err = d.OpenLog(testTP, testID, testConfig(), func() {}); err != nil {
		t.Fatal(err)
	}
	if l.Start() != 4 || l.End() != 10 || d.legacy[testTP] != 10 {
		t.Errorf("the log goes from %d to %d with recovery point %d, it was from 4 to 10 with recovery point 10", l.Start(), l.End(), d.legacy[testTP])
	}
	mustClose(t, d)
}

func mustClose(t *testing.T, d *Dir) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestMissingDirectoryIsOffline is S9: a partition that had acknowledged data is never
// served as an empty log, not even when its directory is gone after a power loss.
func TestMissingDirectoryIsOffline(t *testing.T) {
	mem := vfs.NewMem()
	d, l := open(t, mem, testConfig())
	if _, err := l.Append(batch(t, "a"), AppendOptions{}); err != nil {
		t.Fatal(err)
	}
	waitFlushed(t, d, l)
	mem = mem.Crash(rand.New(rand.NewPCG(1, 1)))
	for _, name := range []string{"00000000000000000000.log", partitionMetadataFile} {
		if err := mem.Remove(path.Join("/d/log/events-0", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := mem.Remove("/d/log/events-0"); err != nil {
		t.Fatal(err)
	}
	d, err := OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/meta"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := d.OpenLog(testTP, testID, testConfig(), func() {}); !errors.Is(err, ErrMissing) {
		t.Fatalf("a log whose directory is gone opened with %v, expected ErrMissing", err)
	}
	if _, err := d.OpenLog(TopicPartition{"other", 0}, wire.UUID{9}, testConfig(), func() {}); err != nil {
		t.Fatalf("another partition suffers: %v", err)
	}
}

// TestIndexIsRebuilt is S7: lookups find the right batch when index files are lost or damaged.
func TestIndexIsRebuilt(t *testing.T) {
	for _, harm := range []string{"remove", "garbage", "short"} {
		t.Run(harm, func(t *testing.T) {
			mem := vfs.NewMem()
			d, l := open(t, mem, testConfig())
			fillLog(t, d, l, 200)
			mustClose(t, d)
			mem = mem.Clone()
			infos, err := mem.ReadDir("/d/log/events-0")
			if err != nil {
				t.Fatal(err)
			}
			for _, info := range infos {
				if !strings.HasSuffix(info.Name, indexSuffix) && !strings.HasSuffix(info.Name, timeSuffix) {
					continue
				}
				name := path.Join("/d/log/events-0", info.Name)
				switch harm {
				case "remove":
					err = mem.Remove(name)
				case "garbage":
					err = replaceTail(mem, name, 0, []byte(strings.Repeat("\xff\x01\x7f", 24)))
				case "short":
					err = replaceTail(mem, name, 0, []byte{1, 2, 3})
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			d, l = open(t, mem, testConfig())
			defer d.Close()
			for offset := range l.End() {
				p, err := l.Read(offset, l.End(), 1, true, 0)
				if err != nil {
					t.Fatal(err)
				}
				if p.BaseOffset != offset {
					t.Fatalf("read at %d found the batch at %d", offset, p.BaseOffset)
				}
				p.Release()
				at, ok, err := l.ByTimestamp(1000+offset, l.End())
				if err != nil || !ok || at.Offset != offset {
					t.Fatalf("time %d found %+v %v %v", 1000+offset, at, ok, err)
				}
			}
			x := l.view.Load().segments[0]
			if err := x.withIndex(func(x *sparse, _ int64) {
				if len(x.offsets) < 1 {
					t.Errorf("the rebuilt index has %d entries", len(x.offsets))
				}
			}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestFailedSyncFencesTheDir is S11: nothing more is acknowledged after a sync failed.
func TestFailedSyncFencesTheDir(t *testing.T) {
	var mu sync.Mutex
	broken := false
	fsys := vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if broken && op.Kind == vfs.OpSync && strings.HasSuffix(op.Name, logSuffix) {
			return syscall.EIO
		}
		return nil
	})
	d, l := open(t, fsys, testConfig())
	fillLog(t, d, l, 3)
	mu.Lock()
	broken = true
	mu.Unlock()
	if _, err := l.Append(batch(t, "lost"), AppendOptions{LeaderEpoch: 3}); err != nil {
		t.Fatal(err)
	}
	waitFlushed(t, d, l)
	if l.Flushed() != 3 || !errors.Is(d.Err(), ErrOffline) {
		t.Fatalf("flushed is %d after a failed sync, dir error %v", l.Flushed(), d.Err())
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	if _, err := l.Append(batch(t, "refused"), AppendOptions{LeaderEpoch: 3}); !errors.Is(err, ErrOffline) {
		t.Fatalf("append to a fenced log dir gave %v", err)
	}
	l.RequestFlush(4)
	time.Sleep(time.Millisecond)
	if l.Flushed() != 3 {
		t.Fatal("a sync was tried again after it had failed")
	}
	if p, err := l.Read(0, l.End(), 1000, true, 0); err != nil {
		t.Fatalf("reads must go on: %v", err)
	} else {
		p.Release()
	}
	d.Close()
}

// TestFullVolumeIsRetriable: ENOSPC leaves the log as it was, and appends go on when there is room.
func TestFullVolumeIsRetriable(t *testing.T) {
	var full atomic.Bool
	fsys := vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		if full.Load() && op.Kind == vfs.OpWrite && strings.HasSuffix(op.Name, logSuffix) {
			return &vfs.ShortWrite{N: 17, Err: syscall.ENOSPC}
		}
		return nil
	})
	cfg := testConfig()
	cfg.FlushMessages = math.MaxInt64
	d, l := open(t, fsys, cfg)
	if _, err := l.Append(batch(t, "first"), AppendOptions{}); err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	if _, err := l.Append(batch(t, "no room"), AppendOptions{}); !errors.Is(err, ErrNoSpace) {
		t.Fatalf("append on a full volume gave %v", err)
	}
	if l.End() != 1 || d.Err() != nil {
		t.Fatalf("log end %d, dir error %v", l.End(), d.Err())
	}
	full.Store(false)
	a, err := l.Append(batch(t, "second"), AppendOptions{})
	if err != nil || a.BaseOffset != 1 {
		t.Fatalf("append after room was made gave %+v, %v", a, err)
	}
	mustClose(t, d)
}

// TestPointAfterFullVolume: a point that wrote the indexes of rolled segments and then found no room is made again when there
// is, also where the indexes are no longer in memory.
func TestPointAfterFullVolume(t *testing.T) {
	var full atomic.Bool
	fsys := vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		if full.Load() && op.Kind == vfs.OpWrite && strings.Contains(op.Name, epochsFile) {
			return syscall.ENOSPC
		}
		return nil
	})
	d, err := OpenDir(Options{FS: fsys, Path: "/d/log", MetaDir: "/d/meta", IndexBytes: 1})
	if err != nil {
		t.Fatal(err)
	}
	l, err := d.OpenLog(testTP, testID, testConfig(), func() {})
	if err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	for l.Segments() < 4 {
		if _, err := l.Append(batch(t, strings.Repeat("x", 2000)), AppendOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := l.savePoint(); !errors.Is(err, ErrNoSpace) {
			t.Fatalf("a point on a full volume gave %v", err)
		}
	}
	full.Store(false)
	if err := l.savePoint(); err != nil || d.Err() != nil {
		t.Fatalf("a point when there is room: %v, dir error %v", err, d.Err())
	}
	mustClose(t, d)
}

// TestPlanOutlivesSegment is S8: a pinned range is readable after truncation and deletion.
func TestPlanOutlivesSegment(t *testing.T) {
	mem := vfs.NewMem()
	d, l := open(t, mem, testConfig())
	fillLog(t, d, l, 100)
	last, err := l.Read(99, 100, 1<<20, true, 0)
	if err != nil {
		t.Fatal(err)
	}
	first, err := l.Read(0, 100, 1<<20, true, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Truncate(5); err != nil {
		t.Fatal(err)
	}
	if err := l.Delete(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []Plan{first, last} {
		buf := make([]byte, record.HeaderSize)
		if _, err := p.Region.File.ReadAt(buf, p.Region.Off); err != nil {
			t.Errorf("pinned range at offset %d: %v", p.BaseOffset, err)
		}
		p.Release()
	}
	if _, err := mem.Stat("/d/log/events-0"); err == nil {
		t.Error("the directory is still there")
	}
	if _, err := l.Append(batch(t, "late"), AppendOptions{}); !errors.Is(err, ErrClosed) {
		t.Errorf("append to a deleted log gave %v", err)
	}
	mustClose(t, d)
}

// TestDamageIsSetAside is S10: what recovery cuts off is kept in the quarantine.
func TestDamageIsSetAside(t *testing.T) {
	mem := vfs.NewMem()
	d, l := open(t, mem, testConfig())
	fillLog(t, d, l, 10)
	end := l.end.Load().pos
	mem = mem.Clone()
	name := "/d/log/events-0/" + segmentFile(0, logSuffix)
	if err := replaceTail(mem, name, end, []byte("torn write")); err != nil {
		t.Fatal(err)
	}
	d.Close()
	d, l = open(t, mem, testConfig())
	defer d.Close()
	if l.End() != 10 {
		t.Fatalf("log end is %d", l.End())
	}
	data, found, err := readFile(mem, fmt.Sprintf("/d/meta/quarantine/events-0.%s.from-byte-%d", segmentFile(0, logSuffix), end), 1000)
	if err != nil || !found || string(data) != "torn write" {
		t.Fatalf("quarantine holds %q, %v, %v", data, found, err)
	}
}

// TestLostDurableBytesAreReported: a file that is shorter than what was synced makes
// the partition offline, with file and position, instead of a shorter log.
func TestLostDurableBytesAreReported(t *testing.T) {
	mem := vfs.NewMem()
	d, l := open(t, mem, testConfig())
	fillLog(t, d, l, 10)
	mustClose(t, d)
	mem = mem.Clone()
	f, err := mem.Open("/d/log/events-0/"+segmentFile(0, logSuffix), vfs.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(100); err != nil {
		t.Fatal(err)
	}
	d, err = OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/meta"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, err = d.OpenLog(testTP, testID, testConfig(), func() {})
	var corrupt *CorruptionError
	if !errors.As(err, &corrupt) || corrupt.Pos != 100 || !strings.HasSuffix(corrupt.File, ".log") {
		t.Fatalf("opened with %v", err)
	}
}

// TestForeignDirectoryIsSetAside: a directory of an earlier topic of the same name.
func TestForeignDirectoryIsSetAside(t *testing.T) {
	mem := vfs.NewMem()
	d, l := open(t, mem, testConfig())
	fillLog(t, d, l, 2)
	mustClose(t, d)
	mem = mem.Clone()
	d, err := OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/meta"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l, err = d.OpenLog(testTP, wire.UUID{8}, testConfig(), func() {})
	if err != nil || l.End() != 0 {
		t.Fatalf("opened with %v", err)
	}
	if _, err := mem.Stat(fmt.Sprintf("/d/log/events-0.%x-stray", testID[:])); err != nil {
		t.Fatalf("the old directory is gone: %v", err)
	}
}

// TestProducerWindow: sequences, the five-batch duplicate window and epochs (KIP-98).
func TestProducerWindow(t *testing.T) {
	mem := vfs.NewMem()
	d, l := open(t, mem, testConfig())
	defer d.Close()
	send := func(epoch int16, seq int32, n int) (Appended, error) {
		b := record.NewBuilder(record.None)
		b.ProducerID, b.ProducerEpoch, b.BaseSequence = 5, epoch, seq
		for range n {
			b.Add(1, nil, []byte("v"))
		}
		out, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		return l.Append(out, AppendOptions{})
	}
	expect := func(epoch int16, seq int32, n int, offset int64, dup bool, want error) {
		t.Helper()
		a, err := send(epoch, seq, n)
		if !errors.Is(err, want) || err == nil && (a.BaseOffset != offset || a.Duplicate != dup) {
			t.Fatalf("epoch %d sequence %d: %+v, %v", epoch, seq, a, err)
		}
	}
	for i := range int32(6) {
		expect(0, 2*i, 2, int64(2*i), false, nil)
	}
	expect(0, 0, 2, 0, false, ErrOutOfOrder) // out of the window
	for i := int32(1); i < 6; i++ {
		expect(0, 2*i, 2, int64(2*i), true, nil)
	}
	expect(0, 10, 1, 0, false, ErrOutOfOrder) // a part of a batch is no duplicate
	expect(0, 13, 1, 0, false, ErrOutOfOrder)
	expect(1, 1, 1, 0, false, ErrOutOfOrder) // a new epoch begins at 0
	expect(1, 0, 1, 12, false, nil)
	expect(0, 12, 1, 0, false, ErrProducerFenced)
	expect(2, 0, 1, 13, false, nil)
	l.mu.producers.byID[5].window[0].lastSeq = math.MaxInt32
	expect(2, 0, 1, 14, false, nil) // sequences wrap to 0
}

// TestKafkaDirectoryIsAdopted: a directory without a manifest entry, as Kafka leaves it.
func TestKafkaDirectoryIsAdopted(t *testing.T) {
	mem := vfs.NewMem()
	d, l := open(t, mem, testConfig())
	fillLog(t, d, l, 100)
	want := l.Epochs()
	mustClose(t, d)
	mem = mem.Clone()
	if err := mem.Remove("/d/meta/manifest"); err != nil {
		t.Fatal(err)
	}
	d, l = open(t, mem, testConfig())
	if l.End() != 100 || l.Flushed() != 100 || fmt.Sprint(l.Epochs()) != fmt.Sprint(want) {
		t.Fatalf("adopted log ends at %d, flushed %d, epochs %v", l.End(), l.Flushed(), l.Epochs())
	}
	mustClose(t, d)
}

func FuzzFiles(f *testing.F) {
	f.Add(uint8(0), []byte("0\n1\n0 0\n"))
	f.Add(uint8(1), newProducers().snapshot())
	f.Add(uint8(2), []byte{0, 0, 0, 1, 0, 0, 0, 2})
	f.Add(uint8(3), manifestRecord(kindPresent, partitionKey{}, testTP, nil))
	f.Add(uint8(4), appendTxnEntry(nil, AbortedTxn{1, 2, 3, 4}))
	f.Add(uint8(7), binary.BigEndian.AppendUint32(nil, journalMagic))
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		switch which % 8 {
		case 0:
			_, _ = parseEpochs(string(data))
			_, _ = parseOffsets(string(data))
		case 1:
			_, _ = parseSnapshot(data, 0)
		case 2:
			_ = (&sparse{}).parseOffsets(data, 1<<20)
			_ = (&sparse{}).parseTimes(data)
		case 3:
			m := &manifest{}
			m.mu.entries = map[partitionKey]*manifestEntry{}
			_ = m.apply(data)
		case 4:
			_, _ = parseTxnIndex(data)
		case 5:
			_, _ = parseIdentity(string(data))
		case 7:
			// A journal of any content is replayed or not, and never panics.
			mem := vfs.NewMem()
			if err := mem.MkdirAll("/d/log"); err != nil {
				t.Fatal(err)
			}
			if err := replaceTail(mem, "/d/log/"+JournalName+"0", 0, data); err != nil {
				t.Fatal(err)
			}
			if d, err := OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/meta"}); err == nil {
				d.Close()
			}
		case 6:
			// A log file of any content is recovered or refused, and never panics.
			mem := vfs.NewMem()
			if err := mem.MkdirAll("/d/log/events-0"); err != nil {
				t.Fatal(err)
			}
			if err := replaceTail(mem, "/d/log/events-0/"+segmentFile(0, logSuffix), 0, data); err != nil {
				t.Fatal(err)
			}
			if err := writeAtomic(mem, "/d/log/events-0", partitionMetadataFile, []byte("version: 0\ntopic_id: "+testID.String())); err != nil {
				t.Fatal(err)
			}
			d, err := OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/meta"})
			if err != nil {
				t.Fatal(err)
			}
			if l, err := d.OpenLog(testTP, testID, testConfig(), func() {}); err == nil && l.End() > 0 {
				if p, err := l.Read(l.Start(), l.End(), 1000, true, 0); err == nil {
					p.Release()
				}
			}
			d.Close()
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			dir, err := OpenDir(Options{FS: vfs.OS(), Path: b.TempDir() + "/log", MetaDir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			cfg := LogConfig{SegmentBytes: 1 << 28, IndexIntervalBytes: 4096, SegmentIndexBytes: 10 << 20, FlushMessages: math.MaxInt64, MaxInflatedBytes: 1 << 20}
			l, err := dir.OpenLog(testTP, testID, cfg, func() {})
			if err != nil {
				b.Fatal(err)
			}
			builder := record.NewBuilder(record.None)
			builder.Add(1, nil, make([]byte, size))
			batch, err := builder.Finish()
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(batch)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.Append(batch, AppendOptions{}); err != nil {
					b.Fatal(err)
				}
			}
			if err := dir.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// Batches that come together are one write for as many as a system call takes, and one for the first of a segment.
func TestAppendAllWritesOnce(t *testing.T) {
	writes := 0
	fsys := vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		if op.Kind == vfs.OpWrite && strings.HasSuffix(op.Name, ".log") {
			writes++
		}
		return nil
	})
	dir, err := OpenDir(Options{FS: fsys, Path: "/log", MetaDir: "/meta"})
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	l, err := dir.OpenLog(TopicPartition{Topic: "t"}, wire.UUID{1}, LogConfig{SegmentBytes: 1 << 20, IndexIntervalBytes: 100, SegmentIndexBytes: 1 << 20, FlushMessages: math.MaxInt64}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ batches, writes int }{{1, 1}, {MaxTogether, 1}, {MaxTogether + 1, 2}, {3, 1}, {5 * MaxTogether, 5}} {
		writes = 0
		var entries []Entry
		for range c.batches {
			b := record.NewBuilder(record.None)
			b.Add(1000, nil, []byte("v"))
			batch, err := b.Finish()
			if err != nil {
				t.Fatal(err)
			}
			entries = append(entries, Entry{Batch: batch, Options: AppendOptions{NowMs: 1000}})
		}
		end := l.End()
		l.AppendAll(entries)
		for i := range entries {
			if entries[i].Err != nil || entries[i].At.BaseOffset != end+int64(i) {
				t.Errorf("entry %d of %d: %+v", i, c.batches, entries[i])
			}
		}
		if writes != c.writes {
			t.Errorf("%d batches took %d writes, want %d", c.batches, writes, c.writes)
		}
	}
}

// The cache of indexes holds no segment that has left its log, however small its index is.
func TestRetiredSegmentsLeaveTheIndexCache(t *testing.T) {
	dir, err := OpenDir(Options{FS: vfs.NewMem(), Path: "/log", MetaDir: "/meta"})
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	c, kept := dir.indexes, 0
	for i := range 10_000 {
		seg := dir.newSegment("/log/t-0", int64(i))
		c.loaded(seg, &sparse{})
		if i%1000 == 0 {
			kept++
			continue
		}
		seg.retire()
	}
	live := 0
	for _, e := range c.queue {
		if !e.seg.gone.Load() {
			live++
		}
	}
	if live != kept || len(c.queue) > sweepFrom+2*kept {
		t.Errorf("the cache holds %d segments, %d of them in a log; want %d of those", len(c.queue), live, kept)
	}
}
