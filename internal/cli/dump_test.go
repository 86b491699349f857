package cli

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"moldau/internal/record"
)

// segmentBytes is three batches of two records each: offsets 0 to 5, timestamps 1000 to 1005.
func segmentBytes(t testing.TB) (log []byte, positions []int) {
	for i := range int64(3) {
		b := record.NewBuilder(record.None)
		b.BaseOffset = 2 * i
		b.Add(1000+2*i, []byte("k"), []byte("value"))
		b.Add(1001+2*i, nil, []byte{0xff})
		batch, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		positions = append(positions, len(log))
		log = append(log, batch...)
	}
	return log, positions
}

func indexBytes(entries ...[2]int) (b []byte) {
	for _, e := range entries {
		b = binary.BigEndian.AppendUint32(b, uint32(e[0]))
		b = binary.BigEndian.AppendUint32(b, uint32(e[1]))
	}
	return b
}

func timeIndexBytes(entries ...[2]int) (b []byte) {
	for _, e := range entries {
		b = binary.BigEndian.AppendUint64(b, uint64(e[0]))
		b = binary.BigEndian.AppendUint32(b, uint32(e[1]))
	}
	return b
}

func dumpOf(t *testing.T, files map[string][]byte, flags ...string) (code int, out string) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	code, out, _ = run(t, append([]string{"log", "dump", dir}, flags...)...)
	return code, out
}

func TestDumpFindsEveryKindOfDamage(t *testing.T) {
	const base = "00000000000000000000"
	log, at := segmentBytes(t)
	slack := make([]byte, 80)
	good := map[string][]byte{
		base + ".log": log, base + ".index": append(indexBytes([2]int{3, at[1]}, [2]int{5, at[2]}), slack...),
		base + ".timeindex": append(timeIndexBytes([2]int{1003, 3}, [2]int{1005, 5}), slack[:60]...),
	}
	if code, out := dumpOf(t, good, "--records"); code != 0 || strings.Contains(out, "PROBLEM") ||
		!strings.Contains(out, `record offset=0 timestamp=1970-01-01T00:00:01.000Z key="k" value="value" headers=[]`) ||
		!strings.Contains(out, "3 batches, 6 records") {
		t.Errorf("a good segment: exit %d\n%s", code, out)
	}
	// The zeros that an append leaves behind a large segment's last batch are no problem; more are.
	big := record.NewBuilder(record.None)
	big.Add(1000, nil, bytes.Repeat([]byte("v"), 1<<20))
	padded, err := big.Finish()
	if err != nil {
		t.Fatal(err)
	}
	written := len(padded)
	padded = append(padded, make([]byte, 64<<10-written%(64<<10))...)
	if code, out := dumpOf(t, map[string][]byte{base + ".log": padded}); code != 0 || !strings.Contains(out, fmt.Sprintf("@%d zeros size=%d", written, len(padded)-written)) {
		t.Errorf("a segment that is written: exit %d\n%s", code, out)
	}
	padded = append(padded, make([]byte, 64<<10)...)
	if code, out := dumpOf(t, map[string][]byte{base + ".log": padded}); code == 0 || !strings.Contains(out, "PROBLEM zeros from here") {
		t.Errorf("zeros that are too many: exit %d\n%s", code, out)
	}
	// One producer of Kafka's own: 46 bytes.
	snapshot := binary.BigEndian.AppendUint32(nil, 1)
	snapshot = binary.BigEndian.AppendUint64(snapshot, 7)    // producer id
	snapshot = binary.BigEndian.AppendUint16(snapshot, 2)    // epoch
	snapshot = binary.BigEndian.AppendUint32(snapshot, 11)   // last sequence
	snapshot = binary.BigEndian.AppendUint64(snapshot, 5)    // last offset
	snapshot = binary.BigEndian.AppendUint32(snapshot, 3)    // offset delta
	snapshot = binary.BigEndian.AppendUint64(snapshot, 1000) // timestamp
	snapshot = binary.BigEndian.AppendUint32(snapshot, 0xffffffff)
	snapshot = binary.BigEndian.AppendUint64(snapshot, 0xffffffffffffffff)
	sum := crc32.Checksum(snapshot, crc32.MakeTable(crc32.Castagnoli))
	snapshot = append(binary.BigEndian.AppendUint32([]byte{0, 1}, sum), snapshot...)
	if code, out := dumpOf(t, map[string][]byte{base + ".snapshot": snapshot}); code != 0 || strings.Contains(out, "PROBLEM") ||
		!strings.Contains(out, "producerId=7 producerEpoch=2 lastSequence=11 lastOffset=5 offsetDelta=3") ||
		!strings.Contains(out, "coordinatorEpoch=-1 currentTxnFirstOffset=-1") {
		t.Errorf("a good snapshot: exit %d\n%s", code, out)
	}
	changed := func(i int, b byte) []byte {
		c := append([]byte(nil), log...)
		c[i] = b
		return c
	}
	for _, tt := range []struct {
		name, file string
		content    []byte
		want       string
	}{
		{"a flipped byte", ".log", changed(at[2]-1, 'X'), "PROBLEM the batch's CRC is"},
		{"a truncated batch", ".log", log[:len(log)-3], "PROBLEM no whole batch here"},
		{"another magic", ".log", changed(at[1]+16, 1), "PROBLEM no whole batch here"},
		{"zeros at the end", ".log", append(append([]byte(nil), log...), slack...), "PROBLEM zeros from here to the end (80 bytes)"},
		{"batches out of order", ".log", append(append([]byte(nil), log...), log[:at[1]]...), "PROBLEM base offset 0 does not follow offset 5"},
		{"an index entry of another offset", ".index", indexBytes([2]int{2, at[1]}), "ends with offset 3, not 2"},
		{"an index entry between batches", ".index", indexBytes([2]int{3, at[1] + 1}), "no batch begins at position"},
		{"an index entry beyond the log", ".index", indexBytes([2]int{3, 1 << 20}), "is not in the log"},
		{"index entries out of order", ".index", indexBytes([2]int{5, at[2]}, [2]int{3, at[1]}), "does not follow the one before"},
		{"half an index entry", ".index", indexBytes([2]int{3, at[1]})[:6], "the file ends within an entry: 6 bytes too many"},
		{"a time index entry of another time", ".timeindex", timeIndexBytes([2]int{1002, 3}), "has the largest timestamp 1003, not 1002"},
		{"a time index entry beyond the log", ".timeindex", timeIndexBytes([2]int{1009, 9}), "offset 9 is not in the log"},
		{"a short snapshot", ".snapshot", []byte{0, 1}, "shorter than its header"},
		{"a snapshot that claims too much", ".snapshot", []byte{0, 1, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff}, "2147483647 producers need"},
		{"an unknown txnindex version", ".txnindex", append([]byte{0, 7}, make([]byte, 32)...), "version 7 is not known"},
	} {
		files := map[string][]byte{base + ".log": log}
		files[base+tt.file] = tt.content
		if code, out := dumpOf(t, files, "--records"); code != 1 || !strings.Contains(out, tt.want) {
			t.Errorf("%s: exit %d, want 1 and %q in\n%s", tt.name, code, tt.want, out)
		}
	}
}

func FuzzDumpNeverPanicsAndAlwaysEnds(f *testing.F) {
	log, _ := segmentBytes(f)
	for kind := range dumpers {
		f.Add(kind, log)
	}
	f.Fuzz(func(t *testing.T, kind int, content []byte) {
		if kind < 0 || kind >= len(dumpers) {
			return
		}
		dir := t.TempDir()
		name := filepath.Join(dir, "00000000000000000000"+dumpers[kind].suffix)
		if err := os.WriteFile(name, content, 0o666); err != nil {
			t.Fatal(err)
		}
		if code, out, errs := run(t, "log", "dump", "--records", "-o", "json", name); code == exitUsage {
			t.Errorf("exit %d: %s %s", code, out, errs)
		}
	})
}
