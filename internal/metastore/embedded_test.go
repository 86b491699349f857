package metastore

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"moldau/test/leak"
)

func TestEmbeddedKeepsItsStateOverRestarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "dir")
	for i := range 3 {
		s := openTemp(t, dir)
		kvs, _ := dump(t, s, "")
		if len(kvs) != i {
			t.Fatalf("start %d: %+v", i, kvs)
		}
		mustTxn(t, s, nil, Put(string(rune('a'+i)), []byte("x")))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEmbeddedKeepsWhatRaftMayAskFor: a start on a busy machine ended with "requested index is unavailable due to compaction": etcd had
// forgotten entries of its log before raft had heard that they were applied. How many can follow a snapshot is at most what makes the next
// one due, and those of one write.
func TestEmbeddedKeepsWhatRaftMayAskFor(t *testing.T) {
	cfg, err := (&embedded{}).config(EmbeddedOptions{Dir: t.TempDir()}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	if cfg.SnapshotCatchUpEntries < 2*cfg.SnapshotCount {
		t.Errorf("a snapshot every %d entries, and only %d are kept behind what is applied", cfg.SnapshotCount, cfg.SnapshotCatchUpEntries)
	}
}

// TestALoneMemberWaitsForNoTick: a start, one after a stop and one after kill -9 end before the clock that raft's election waits for has ticked.
// A machine that is too busy for that in one attempt is not in all.
func TestALoneMemberWaitsForNoTick(t *testing.T) {
	var err error
	for range 3 {
		if err = startWithoutTicks(t, t.TempDir()); err == nil {
			return
		}
	}
	t.Error(err)
}

func startWithoutTicks(t *testing.T, root string) error {
	dir, killed := filepath.Join(root, "dir"), filepath.Join(root, "killed")
	o := EmbeddedOptions{Dir: dir, Tick: 10 * time.Second, Election: 50 * time.Second, NoSync: true, StartTimeout: 9500 * time.Millisecond}
	for range 2 {
		s, err := OpenEmbedded(o)
		if err != nil {
			return err
		}
		copyLog(t, dir, killed)
		if err := s.Close(); err != nil {
			return err
		}
		o.Dir = killed
		s, err = OpenEmbedded(o)
		if err != nil {
			return fmt.Errorf("after kill -9: %w", err)
		}
		if err := errors.Join(s.Close(), os.RemoveAll(killed)); err != nil {
			return err
		}
		o.Dir = dir
	}
	return nil
}

// copyLog makes dir killed what kill -9 leaves of one in its first moments: the log has it all, the database nothing.
func copyLog(t *testing.T, dir, killed string) {
	t.Helper()
	wal := filepath.Join("member", "wal")
	err := os.MkdirAll(filepath.Join(killed, wal), 0o700)
	if err := errors.Join(err, os.CopyFS(filepath.Join(killed, wal), os.DirFS(filepath.Join(dir, wal)))); err != nil {
		t.Fatal(err)
	}
}

func TestEmbeddedReportsCompaction(t *testing.T) {
	s := openTemp(t, t.TempDir())
	defer s.Close()
	for range 5 {
		mustTxn(t, s, nil, Put("a", nil))
	}
	if _, err := s.(*embedded).client.Compact(ctxOf(t), 5, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	if ev := next(t, s.Watch(ctxOf(t), "a", 2)); !errors.Is(ev.Err, ErrCompacted) {
		t.Fatalf("%+v", ev)
	}
	if ev := next(t, s.Watch(ctxOf(t), "a", 6)); ev.Revision != 6 {
		t.Fatalf("%+v", ev)
	}
}

// TestEmbeddedForgets: the history does not grow with what has been.
func TestEmbeddedForgets(t *testing.T) {
	s := openTemp(t, t.TempDir())
	defer s.Close()
	var last int64
	for range 2*historyRevisions + 1 {
		last = mustTxn(t, s, nil, Put("a", nil)).Revision
	}
	if ev := next(t, s.Watch(ctxOf(t), "a", 2)); !errors.Is(ev.Err, ErrCompacted) {
		t.Errorf("the first changes are still there: %+v", ev)
	}
	if ev := next(t, s.Watch(ctxOf(t), "a", last-historyRevisions/2)); ev.Revision != last-historyRevisions/2 {
		t.Errorf("changes of late are not there: %+v", ev)
	}
}

func TestEmbeddedCloseLeavesNoGoroutine(t *testing.T) {
	defer leak.Check(t)()
	s := openTemp(t, t.TempDir())
	w := s.Watch(ctxOf(t), "", 1)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range w {
	}
}

func TestEmbeddedNamesADamagedOrForeignDirectory(t *testing.T) {
	healthy := t.TempDir()
	s := openTemp(t, healthy)
	mustTxn(t, s, nil, Put("a", nil))
	s.Close()
	damage := map[string]func(t *testing.T, dir string) string{
		"file in place of the directory": func(t *testing.T, dir string) string {
			name := filepath.Join(dir, "plain")
			write(t, name, "x")
			return name
		},
		"foreign directory": func(t *testing.T, dir string) string {
			os.RemoveAll(filepath.Join(dir, "member"))
			write(t, filepath.Join(dir, "meta.properties"), "version=1")
			return dir
		},
		"newer format": func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, markerName), "moldau metastore 2\n")
			return dir
		},
		"log is gone": func(t *testing.T, dir string) string {
			os.RemoveAll(filepath.Join(dir, "member", "wal"))
			return dir
		},
		"database is gone": func(t *testing.T, dir string) string {
			os.Remove(filepath.Join(dir, "member", "snap", "db"))
			return dir
		},
		"database is garbage": func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, "member", "snap", "db"), strings.Repeat("garbage", 9000))
			return dir
		},
		"log is garbage": func(t *testing.T, dir string) string {
			logs, _ := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
			write(t, logs[0], strings.Repeat("garbage", 9000))
			return dir
		},
	}
	for name, f := range damage {
		t.Run(name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "metastore")
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			if err := os.CopyFS(dir, os.DirFS(healthy)); err != nil {
				t.Fatal(err)
			}
			dir = f(t, dir)
			s, err := OpenEmbedded(EmbeddedOptions{Dir: dir, Tick: 10 * time.Millisecond, NoSync: true, StartTimeout: patience})
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			t.Log(err)
			if !strings.Contains(err.Error(), dir) {
				t.Fatalf("%v does not name %s", err, dir)
			}
		})
	}
}

func TestEmbeddedStartsAgainAfterAnUnfinishedFirstStart(t *testing.T) {
	dir := t.TempDir()
	s := openTemp(t, dir)
	s.Close()
	os.Remove(filepath.Join(dir, markerName))
	os.RemoveAll(filepath.Join(dir, "member", "wal"))
	s = openTemp(t, dir)
	mustTxn(t, s, nil, Put("a", nil))
	s.Close()
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFatalDoesNotEndTheProcess calls the hook as etcd would, from a goroutine that is then parked.
func TestFatalDoesNotEndTheProcess(t *testing.T) {
	dir, err := os.MkdirTemp("", "metastore")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	heard := make(chan error, 2)
	s, err := OpenEmbedded(EmbeddedOptions{Dir: dir, Tick: 10 * time.Millisecond, NoSync: true, OnFatal: func(err error) { heard <- err }})
	if err != nil {
		t.Fatal(err)
	}
	w := s.Watch(ctxOf(t), "", 1)
	for range 2 {
		go s.(*embedded).etcd.GetLogger().Fatal("failed to save Raft hard state and entries", zap.Error(errors.New("disk full")))
	}
	if err := <-heard; !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "disk full") || !strings.Contains(err.Error(), dir) {
		t.Fatal(err)
	}
	if ev := next(t, w); !errors.Is(ev.Err, ErrUnavailable) {
		t.Fatalf("%+v", ev)
	}
	if _, err := s.Txn(ctxOf(t), nil, []Op{Put("a", nil)}); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	if err := s.Close(); !errors.Is(err, ErrUnavailable) {
		t.Fatal(err)
	}
	select {
	case err := <-heard:
		t.Fatalf("heard twice: %v", err)
	default:
	}
}

// slowness is what etcd rightly warns of on a machine that others keep busy.
var slowness = regexp.MustCompile("took too long|slow|overloaded|timed out")

func TestLogIsQuietOnAHealthyRun(t *testing.T) {
	var text bytes.Buffer
	root := t.TempDir()
	dir, killed := filepath.Join(root, "new"), filepath.Join(root, "killed")
	for i, dir := range []string{dir, dir, killed} {
		s, err := OpenEmbedded(EmbeddedOptions{Dir: dir, Tick: 10 * time.Millisecond, NoSync: true, Log: slog.New(slog.NewTextHandler(&text, nil))})
		if err != nil {
			t.Fatal(err)
		}
		mustTxn(t, s, nil, Put("a", nil))
		if i == 0 {
			copyLog(t, dir, killed)
		}
		s.Close()
	}
	for line := range strings.Lines(text.String()) {
		if !slowness.MatchString(line) {
			t.Error(line)
		}
	}
}

// BenchmarkStart is the time from nothing to a store that takes writes, with the shipped timers.
func BenchmarkStart(b *testing.B) {
	for range b.N {
		s, err := OpenEmbedded(EmbeddedOptions{Dir: b.TempDir()})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		s.Close()
		b.StartTimer()
	}
}
