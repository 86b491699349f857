package cli

import (
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

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
		`rest topic=orders partition=3 topicId=\S+ bytes=\d+ segments=1 logStart=2 offset=5 segment=0 segmentPosition=\d+ leaderEpochs=1 producers=0\n`} {
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

// TestDumpJournal prints the groups of a journal and the tails in them.
func TestDumpJournal(t *testing.T) {
	root := filepath.ToSlash(t.TempDir())
	d, err := storage.OpenDir(storage.Options{FS: vfs.OS(), Path: root + "/log", MetaDir: root + "/meta", JournalBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	cfg := storage.LogConfig{SegmentBytes: 1 << 20, IndexIntervalBytes: 4096, FlushMessages: 1, MaxInflatedBytes: 1 << 20}
	l, err := d.OpenLog(storage.TopicPartition{Topic: "orders", Partition: 3}, wire.UUID{1}, cfg, func() {})
	if err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`group sequence=1 pass=[0-9a-f]{16} bytes=4096 tails=1\n.*tail topicId=AQAAAAAAAAAAAAAAAAAAAA partition=3 segment=0 segmentPosition=\d+ bytes=\d+\n(?s:.*)end\n$`)
	for name, out := root+"/log/"+storage.JournalName+"0", ""; !want.MatchString(out); {
		b := record.NewBuilder(record.None)
		b.Add(1, nil, []byte("v"))
		batch, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Append(batch, storage.AppendOptions{}); err != nil {
			t.Fatal(err)
		}
		for l.Flushed() < l.End() {
			time.Sleep(time.Millisecond)
		}
		if _, err := os.Stat(name); err != nil {
			continue // made in the background, once there is demand
		}
		var code int
		if code, out, _ = run(t, "log", "dump", name); code != 0 {
			t.Fatalf("exit %d: %s", code, out)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
