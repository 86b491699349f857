package cli

import (
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"moldau/internal/record"
	"moldau/internal/storage"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// TestDumpManifest prints every kind of record that a broker writes, and finds the torn end.
func TestDumpManifest(t *testing.T) {
	root := filepath.ToSlash(t.TempDir())
	d, err := storage.OpenDir(storage.Options{FS: vfs.OS(), Path: root + "/log", MetaDir: root + "/meta"})
	if err != nil {
		t.Fatal(err)
	}
	cfg := storage.LogConfig{SegmentBytes: 1 << 20, IndexIntervalBytes: 4096, FlushMessages: math.MaxInt64, MaxInflatedBytes: 1 << 20}
	l, err := d.OpenLog(storage.TopicPartition{Topic: "orders", Partition: 3}, wire.UUID{1}, cfg, func() {})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		b := record.NewBuilder(record.None)
		b.Add(1, nil, []byte("v"))
		batch, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(batch, storage.AppendOptions{LeaderEpoch: 2}); err != nil {
			t.Fatal(err)
		}
	}
	l.SetCommitted(5)
	if err := l.RaiseStart(2); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	name := root + "/meta/manifest"
	code, out, _ := run(t, "log", "dump", name)
	for _, want := range []string{`present topic=orders partition=3 topicId=\S+\n`, `start topic=orders partition=3 topicId=\S+ logStart=2\n`,
		`point topic=orders partition=3 topicId=\S+ logStart=2 offset=5 segment=0 segmentPosition=\d+ leaderEpochs=1 producers=0\n`} {
		if code != 0 || !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("exit %d, want %s in\n%s", code, want, out)
		}
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte{0, 0, 0, 99, 1, 2}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if code, out, _ := run(t, "log", "dump", name); code != 1 || !strings.Contains(out, "PROBLEM the last 6 bytes are no whole record") {
		t.Errorf("exit %d: %s", code, out)
	}
}
