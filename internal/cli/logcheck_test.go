package cli

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"moldau/internal/record"
	"moldau/internal/storage"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// dataDir is the data directory of a broker that was stopped: two partitions, the first with three segments.
func dataDir(t *testing.T) string {
	t.Helper()
	root := filepath.ToSlash(t.TempDir())
	d, err := storage.OpenDir(storage.Options{FS: vfs.OS(), Path: root + "/log", MetaDir: root + "/meta"})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.SetIdentity(storage.Identity{ClusterID: "c", NodeID: 1, DirectoryID: wire.UUID{3}}); err != nil {
		t.Fatal(err)
	}
	cfg := storage.LogConfig{SegmentBytes: 4000, IndexIntervalBytes: 500, SegmentIndexBytes: 1 << 20, FlushMessages: math.MaxInt64, MaxInflatedBytes: 1 << 20}
	for partition, n := range []int{25, 3} {
		l, err := d.OpenLog(storage.TopicPartition{Topic: "orders", Partition: int32(partition)}, wire.UUID{1}, cfg, func() {})
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			b := record.NewBuilder(record.None)
			b.Add(int64(1000+i), nil, bytes.Repeat([]byte("v"), 300))
			batch, err := b.Finish()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.Append(batch, storage.AppendOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return root
}

// spoil changes one bit of a file.
func spoil(t *testing.T, name string, at int) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[at] ^= 1
	if err := os.WriteFile(name, data, 0o666); err != nil {
		t.Fatal(err)
	}
}

// contents are the files below root and what they hold, but for the lock, which holds a pid.
func contents(t *testing.T, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.Walk(root, func(name string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() || filepath.Base(name) == ".lock" {
			return err
		}
		data, err := os.ReadFile(name)
		out[name] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestLogCheck(t *testing.T) {
	root := dataDir(t)
	partition := filepath.Join(root, "log", "orders-0")
	for _, arg := range []string{root, root + "/log", partition, filepath.Join(partition, "leader-epoch-checkpoint")} {
		if code, out, errs := run(t, "log", "check", arg); code != 0 || !strings.Contains(out, ": nothing is wrong\n") || errs != "" {
			t.Errorf("%s: exit %d %q %q", arg, code, out, errs)
		}
	}
	if _, out, _ := run(t, "log", "check", root); !strings.HasPrefix(out, "2 partitions, 4 segments, 28 batches, 28 records, ") {
		t.Errorf("%q", out)
	}
	logs, err := filepath.Glob(filepath.Join(partition, "*.log"))
	if err != nil || len(logs) != 3 {
		t.Fatal(logs, err)
	}
	spoil(t, logs[1], 500)
	spoil(t, strings.TrimSuffix(logs[0], ".log")+".index", 7)
	before := contents(t, root)
	code, out, errs := run(t, "log", "check", root)
	for _, want := range []string{
		"damaged  " + logs[1] + " @370, offset 11: record: batch is corrupt: ", "; to do: bring back an undamaged copy",
		"stale    " + strings.TrimSuffix(logs[0], ".log") + ".index @0: ", ": 1 damaged, 1 stale\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if code != 3 || errs != "moldau: something is wrong (2 findings): docs/operations.md says what to do\n" {
		t.Errorf("exit %d %q", code, errs)
	}
	if code, out, _ := run(t, "log", "check", logs[2], logs[0]); code != 3 || strings.Contains(out, logs[1]) || !strings.Contains(out, ".index @0") {
		t.Errorf("two segments of one partition: exit %d %s", code, out)
	}
	code, out, _ = run(t, "log", "check", "-o", "json", root)
	var last struct {
		Kind                                                 string
		Partitions, Segments, Batches, Damaged, Stale, Notes int
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || code != 3 || last.Kind != "summary" || last.Damaged != 1 || last.Stale != 1 || len(lines) != 3 {
		t.Errorf("exit %d %s %v", code, out, err)
	}
	var one struct {
		Severity, File, What, Do         string
		Position, Offset, NextGoodOffset int64
	}
	if err := json.Unmarshal([]byte(lines[1]), &one); err != nil || one.Severity != "damaged" || one.File != logs[1] || one.Position != 370 || one.Offset != 11 || one.NextGoodOffset != 12 {
		t.Errorf("%s %v", lines[1], err)
	}

	// Repair: only what loses nothing, and a dry run not even that.
	code, out, _ = run(t, "log", "repair", "--dry-run", root)
	if code != 3 || !strings.Contains(out, "moldau log repair would write the file anew") {
		t.Errorf("exit %d %s", code, out)
	}
	if code, _, errs := run(t, "log", "repair", root); code != 2 || !strings.Contains(errs, "say --yes") {
		t.Errorf("exit %d %s", code, errs)
	}
	after := contents(t, root)
	for name, data := range before {
		if after[name] != data || len(after) != len(before) {
			t.Fatalf("%s was changed", name)
		}
	}
	if code, out, _ := run(t, "log", "repair", "--yes", root); code != 3 || !strings.Contains(out, "done: the file was written anew") || !strings.Contains(out, ": 1 damaged, 1 repaired\n") {
		t.Errorf("exit %d %s", code, out)
	}
	if code, out, _ := run(t, "log", "repair", "--yes", root); code != 3 || strings.Contains(out, "done") {
		t.Errorf("the second time: exit %d %s", code, out)
	}
	spoil(t, logs[1], 500)
	if code, out, _ := run(t, "log", "check", root); code != 0 {
		t.Errorf("exit %d %s", code, out)
	}
}

// TestLogCheckBesideABroker: what a broker has is not touched, and said.
func TestLogCheckBesideABroker(t *testing.T) {
	root := dataDir(t)
	d, err := storage.OpenDir(storage.Options{FS: vfs.OS(), Path: root + "/log", MetaDir: root + "/meta"})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	logs, err := filepath.Glob(filepath.Join(root, "log", "orders-0", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	spoil(t, logs[1], 500)
	spoil(t, logs[2], 500) // the last one
	code, out, errs := run(t, "log", "check", root)
	if code != 3 || !strings.Contains(out, logs[1]) || strings.Contains(out, logs[2]) || !strings.Contains(errs, "is locked by") {
		t.Errorf("exit %d %s %s", code, out, errs)
	}
	if code, _, errs := run(t, "log", "repair", "--yes", root); code != 1 || !strings.Contains(errs, "a broker has the directory") {
		t.Errorf("exit %d %s", code, errs)
	}
}
