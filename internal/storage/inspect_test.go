package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"moldau/internal/record"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// inspect looks at a log dir and returns what was found, in order.
func inspect(fsys vfs.FS, dir, meta string) ([]Finding, error) {
	var all []Finding
	add := func(f Finding) { all = append(all, f) }
	x, err := NewInspection(fsys, dir, meta, false)
	if err != nil {
		return nil, err
	}
	if err := x.Root(add); err != nil {
		return nil, err
	}
	dirs, _, err := x.Partitions()
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		if _, err := x.Partition(context.Background(), d, add); err != nil {
			return nil, err
		}
	}
	SortFindings(all)
	return all, nil
}

// wantClean: whatever the next start sees to is no more than a note.
func wantClean(fsys vfs.FS, dir, meta string) error {
	all, err := inspect(fsys, dir, meta)
	if err != nil {
		return fmt.Errorf("inspection: %w", err)
	}
	for _, f := range all {
		if f.Severity > Note && f.File != dir+"/"+metaPropertiesFile { // the tests here do without
			return fmt.Errorf("inspection: %v: %s at byte %d: %s", f.Severity, f.File, f.Pos, f.What)
		}
	}
	return nil
}

// TestInspectionFindsEveryFlip: one bit of any file that a stopped broker left is flipped. The inspection says something of this file, or of the
// partition; or the log opens as if nothing were, because nobody reads the bit.
func TestInspectionFindsEveryFlip(t *testing.T) {
	rounds, found, unused := int64(150), 0, map[string]int{}
	if testing.Short() {
		rounds = 40
	}
	for seed := int64(1); seed <= rounds; seed++ {
		m := newModel(seed, vfs.MemOptions{})
		if err := m.open(); err != nil {
			t.Fatal(err)
		}
		for range 20 + m.rnd.IntN(80) {
			if err := m.step(); err != nil && !errors.Is(err, ErrNoSpace) {
				t.Fatal(err)
			}
		}
		m.disk.set(false, 0)
		m.safe = m.log.End()
		m.tried = max(m.tried, m.log.Start())
		if err := m.dir.Close(); err != nil {
			t.Fatal(err)
		}
		before, err := inspect(m.mem, "/data/log", "/data/meta")
		if err != nil {
			t.Fatal(err)
		}
		var files []string
		for _, dir := range []string{"/data/log", "/data/log/orders-3", "/data/meta"} {
			infos, err := m.mem.ReadDir(dir)
			if err != nil {
				continue // nothing was appended
			}
			for _, info := range infos {
				if !info.IsDir && info.Size > 0 && info.Name != lockFile && info.Name != cleanShutdownFile && !strings.HasSuffix(info.Name, deletedSuffix) {
					files = append(files, dir+"/"+info.Name)
				}
			}
		}
		for range 30 {
			name := files[m.rnd.IntN(len(files))]
			f, err := m.mem.Open(name, vfs.ReadWrite)
			if err != nil {
				t.Fatal(err)
			}
			size, err := f.Size()
			if err != nil {
				t.Fatal(err)
			}
			at, bit := m.rnd.Int64N(size), byte(1)<<m.rnd.IntN(8)
			flip := func() {
				var b [1]byte
				f.ReadAt(b[:], at)
				b[0] ^= bit
				if _, err := f.WriteAt(b[:], at); err != nil {
					t.Fatal(err)
				}
			}
			flip()
			after, err := inspect(m.mem, "/data/log", "/data/meta")
			if err != nil {
				t.Fatalf("seed %d: bit %#x of byte %d of %s: %v", seed, bit, at, name, err)
			}
			if !reflect.DeepEqual(plain(before), plain(after)) {
				found++
				flip()
				continue
			}
			what := path.Ext(name)
			if what == "" {
				what = path.Base(name)
			}
			unused[what]++
			if err := m.open(); err != nil {
				t.Fatalf("seed %d: bit %#x of byte %d of %s was not seen, and the log opens with %v", seed, bit, at, name, err)
			}
			if err := m.check(); err != nil {
				t.Fatalf("seed %d: bit %#x of byte %d of %s was not seen, and %v", seed, bit, at, name, err)
			}
			m.dir.Close()
			break
		}
	}
	t.Logf("%d flips were found, nobody reads %v", found, unused)
}

// plain leaves out what cannot be compared.
func plain(all []Finding) []Finding {
	all = slices.Clone(all)
	for i := range all {
		all[i].Fix = nil
	}
	return all
}

// sampleDir is a log dir with one partition of three segments, that was stopped: batches of producer 7 in a transaction that was
// aborted, and others, some compressed.
func sampleDir(t *testing.T) *vfs.Mem {
	t.Helper()
	mem := vfs.NewMem()
	cfg := testConfig()
	cfg.SegmentBytes, cfg.IndexIntervalBytes = 3000, 300
	d, l := open(t, mem, cfg)
	if err := d.SetIdentity(Identity{ClusterID: "c", NodeID: 1, DirectoryID: wire.UUID{9}}); err != nil {
		t.Fatal(err)
	}
	put := func(b record.Batch, epoch int32) {
		t.Helper()
		if _, err := l.Append(b, AppendOptions{LeaderEpoch: epoch}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 30 {
		b := record.NewBuilder([]record.Codec{record.None, record.Zstd}[i%2])
		if i%5 == 1 {
			b.ProducerID, b.ProducerEpoch, b.BaseSequence, b.Transactional = 7, 0, int32(i/5), true
		}
		if i%5 == 3 {
			b.ProducerID, b.ProducerEpoch, b.BaseSequence = 9, 1, int32(i/5)
		}
		b.Add(int64(1000+i), []byte("k"), bytes.Repeat([]byte{byte(i), byte(i * 7)}, 110))
		out, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		put(out, int32(i/12))
		if i%10 == 8 {
			put(abortOf(t, 7), int32(i/12))
		}
	}
	waitFlushed(t, d, l)
	mustClose(t, d)
	if err := wantClean(mem, "/d/log", "/d/meta"); err != nil {
		t.Fatal(err)
	}
	return mem
}

func abortOf(t *testing.T, producer int64) record.Batch {
	t.Helper()
	m, err := record.NewEndMarker(record.EndMarker{Type: record.Abort}, producer, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestInspectionNamesEachKind: each kind of damage, and what is said of it.
func TestInspectionNamesEachKind(t *testing.T) {
	const part = "/d/log/events-0/"
	patch := func(name string, change func([]byte) []byte) func(*testing.T, *vfs.Mem) {
		return func(t *testing.T, mem *vfs.Mem) {
			data, found, err := readFile(mem, name, 1<<30)
			if err != nil || !found {
				t.Fatal(name, err)
			}
			if err := replaceTail(mem, name, 0, change(data)); err != nil {
				t.Fatal(err)
			}
		}
	}
	xor := func(at int) func([]byte) []byte {
		return func(p []byte) []byte { p[at] ^= 1; return p }
	}
	cut := func(n int) func([]byte) []byte { return func(p []byte) []byte { return p[:len(p)-n] } }
	more := func(extra string) func([]byte) []byte { return func(p []byte) []byte { return append(p, extra...) } }
	remove := func(name string) func(*testing.T, *vfs.Mem) {
		return func(t *testing.T, mem *vfs.Mem) {
			if err := mem.Remove(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	create := func(name string) func(*testing.T, *vfs.Mem) {
		return func(t *testing.T, mem *vfs.Mem) {
			if err := replaceTail(mem, name, 0, []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	mem := sampleDir(t)
	logs := names(t, mem, logSuffix)
	txns := names(t, mem, txnSuffix)
	snaps := names(t, mem, snapshotSuffix)
	if len(logs) < 3 || len(txns) < 2 || len(snaps) < 2 {
		t.Fatalf("the sample has %v %v %v", logs, txns, snaps)
	}
	log0, last := part+logs[0], part+logs[len(logs)-1]
	unclean := func(f func(*testing.T, *vfs.Mem)) func(*testing.T, *vfs.Mem) {
		return func(t *testing.T, mem *vfs.Mem) {
			remove("/d/log/"+cleanShutdownFile)(t, mem)
			f(t, mem)
		}
	}
	for _, tt := range []struct {
		name     string
		change   func(*testing.T, *vfs.Mem)
		severity Severity
		file     string
		want     string
		fixed    bool
	}{
		{"a record", patch(log0, xor(100)), Damaged, log0, "stored crc", false},
		{"format", patch(log0, xor(16)), Damaged, log0, "magic", false},
		{"length", patch(log0, xor(9)), Damaged, log0, "batch", false},
		{"base offset", patch(log0, xor(6)), Damaged, log0, "offsets 256 to 256 after 0", false},
		{"leader epoch", patch(log0, xor(15)), Damaged, log0, "leader epoch 1 at offset 0, where it was 0", false},
		{"end of a closed segment", patch(log0, cut(10)), Damaged, log0, "are left", false},
		{"end of the last segment", patch(last, cut(10)), Damaged, last, "bytes were durable", false},
		{"a segment", remove(part + logs[1]), Damaged, log0, "the next segment begins at offset", false},
		{"the last segment", remove(last), Damaged, last, "it is not there, and its records were durable", false},
		{"bytes behind the end", patch(last, more("torn")), Damaged, last, "4 bytes are left", false},
		{"bytes behind the end, not stopped", unclean(patch(last, more("torn"))), Note, last, "the last 4 bytes are torn", false},
		{"index entry", patch(part+segmentFile(0, indexSuffix), xor(7)), Stale, part + segmentFile(0, indexSuffix), "no batch begins at byte", true},
		{"index, cut", patch(part+segmentFile(0, indexSuffix), cut(3)), Stale, part + segmentFile(0, indexSuffix), "is not a multiple of 8", true},
		{"no index", remove(part + segmentFile(0, indexSuffix)), Stale, part + segmentFile(0, indexSuffix), "it is not there", true},
		{"time index entry", patch(part+segmentFile(0, timeSuffix), xor(5)), Stale, part + segmentFile(0, timeSuffix), "", true},
		{"transaction index, first offset", patch(part+txns[0], xor(17)), Stale, part + txns[0], "the batches say", true},
		{"transaction index, stable offset", patch(part+txns[1], xor(33)), Stale, part + txns[1], "the batches say", true},
		{"transaction index, version", patch(part+txns[0], xor(1)), Stale, part + txns[0], "version 1 is not 0", true},
		{"no transaction index", remove(part + txns[0]), Stale, part + txns[0], "the transaction that producer 7 aborted at offset 9 is not in it", true},
		{"producer snapshot", patch(part+snaps[0], xor(20)), Stale, part + snaps[0], "its checksum does not match", true},
		{"leader epochs", patch(part+epochsFile, func(p []byte) []byte { return bytes.Replace(p, []byte("\n1 "), []byte("\n3 "), 1) }), Stale, part + epochsFile, "", true},
		{"leader epochs, start", patch(part+epochsFile, func([]byte) []byte { return []byte("0\n3\n0 0\n1 12\n2 26\n") }), Stale, part + epochsFile, "has leader epoch", true},
		{"no leader epochs", remove(part + epochsFile), Stale, part + epochsFile, "it is not there", true},
		{"topic id", patch(part+partitionMetadataFile, cut(4)), Damaged, part + partitionMetadataFile, "is damaged", false},
		{"identity", patch("/d/log/"+metaPropertiesFile, cut(12)), Damaged, "/d/log/" + metaPropertiesFile, "", false},
		{"no identity", remove("/d/log/" + metaPropertiesFile), Damaged, "/d/log/" + metaPropertiesFile, "it is not there", false},
		{"checkpoint", patch("/d/log/"+recoveryPointFile, xor(0)), Stale, "/d/log/" + recoveryPointFile, "it cannot be read", false},
		{"manifest", patch("/d/meta/"+manifestFile, xor(10)), Damaged, "/d/meta/" + manifestFile, "bytes in the middle are damaged", false},
		{"manifest, torn", patch("/d/meta/"+manifestFile, more("torn")), Note, "/d/meta/" + manifestFile, "no whole record", false},
		{"left over: deleted", create(part + segmentFile(99, logSuffix) + deletedSuffix), Note, part + segmentFile(99, logSuffix) + deletedSuffix, "has left the log", false},
		{"left over: swap", create(part + segmentFile(0, logSuffix) + swapSuffix), Note, part + segmentFile(0, logSuffix) + swapSuffix, "a compaction was interrupted", false},
		{"left over: directory", func(t *testing.T, mem *vfs.Mem) {
			if err := mem.MkdirAll("/d/log/old-0.1234-delete"); err != nil {
				t.Fatal(err)
			}
		}, Note, "/d/log/old-0.1234-delete", "a deleted topic's partition", false},
		{"a file of somebody else", create(part + "notes.txt"), Note, part + "notes.txt", "not known", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mem := sampleDir(t)
			if tt.name == "manifest" { // a second record, so that the first is not the end
				data, _, err := readFile(mem, "/d/meta/manifest", 1<<30)
				if err != nil {
					t.Fatal(err)
				}
				if err := replaceTail(mem, "/d/meta/manifest", 0, append(data, data...)); err != nil {
					t.Fatal(err)
				}
			}
			tt.change(t, mem)
			all, err := inspect(mem, "/d/log", "/d/meta")
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(all, func(f Finding) bool {
				return f.Severity == tt.severity && f.File == tt.file && strings.Contains(f.What, tt.want)
			})
			if i < 0 {
				t.Fatalf("found %+v", all)
			}
			if all[i].Do == "" || tt.fixed != (all[i].Fix != nil) {
				t.Errorf("what to do: %q, with a fix: %v", all[i].Do, all[i].Fix != nil)
			}
			if !tt.fixed {
				return
			}
			for _, f := range all {
				if f.Severity > Note && f.File != tt.file {
					t.Errorf("and of %s: %s", f.File, f.What)
				}
				if _, err := Repair(mem, f); err != nil {
					t.Fatal(err)
				}
			}
			if err := wantClean(mem, "/d/log", "/d/meta"); err != nil {
				t.Errorf("repaired: %v", err)
			}
			d, l := open(t, mem, testConfig())
			if end := l.End(); end != 33 || len(l.Damage()) > 0 || len(l.mu.aborted) != 3 {
				t.Errorf("repaired: the log ends at %d, %v, %v", end, l.Damage(), l.mu.aborted)
			}
			mustClose(t, d)
		})
	}
}

// TestBatchesGoBeforeTheirTransactionIndex: a crash while segments of a full disk are being removed leaves no batches without what says which of them
// were aborted.
func TestBatchesGoBeforeTheirTransactionIndex(t *testing.T) {
	for stop := range 5 {
		mem := sampleDir(t)
		removed := 0
		disk := vfs.NewFault(mem, func(op vfs.Op) error {
			if op.Kind != vfs.OpRemove || path.Dir(op.Name) != "/d/log/events-0" {
				return nil
			}
			if removed++; removed > stop {
				return syscall.EIO
			}
			return nil
		})
		d, l := open(t, disk, testConfig())
		first := l.view.Load().segments[0]
		l.files.Lock()
		_, err := l.makeRoom(l.view.Load().segments[:1])
		l.files.Unlock()
		if exists(mem, first.path(logSuffix)) && !exists(mem, first.path(txnSuffix)) {
			t.Errorf("after %d removals the batches are there without their transaction index (%v)", stop, err)
		}
		d.Close()
	}
}

// TestInspectionBeforeTheJournalIsReplayed: after a power loss the records below the log start may stand in the journal only. That is no damage.
func TestInspectionBeforeTheJournalIsReplayed(t *testing.T) {
	r := newJournalRig(t, 2, 256<<10)
	r.used()
	for range 6 {
		r.append(0, strings.Repeat("y", 3000))
		r.append(1, "y")
		r.flush()
	}
	l := r.logs[0]
	l.SetCommitted(l.End())
	if err := l.RaiseStart(l.End()); err != nil {
		t.Fatal(err)
	}
	early := 0
	for seed := range uint64(20) {
		mem := r.mem.Crash(rand.New(rand.NewPCG(seed, 1)))
		x, err := NewInspection(mem, "/data/log", "/data/meta", false)
		if err != nil {
			t.Fatal(err)
		}
		sum, err := x.Partition(t.Context(), "/data/log/t-0", func(f Finding) {
			if f.Severity == Damaged {
				t.Errorf("%+v", f)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		if sum.End < l.Start() {
			early++
		}
	}
	if early == 0 {
		t.Error("the log never ended before its start")
	}
	r.dir.Close()
}
