package stall

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"moldau/internal/vfs"
	"moldau/test/leak"
	"moldau/test/logtext"
)

func TestMain(m *testing.M) { leak.Main(m) }

func start(t *testing.T, fsys vfs.FS, record bool) (*Detector, *logtext.Text) {
	log := new(logtext.Text)
	d := Start(Options{Threshold: time.Hour, Record: record, FS: fsys, Dir: "meta/stalls", Log: slog.New(slog.NewTextHandler(log, nil))})
	t.Cleanup(d.Close)
	return d, log
}

func waitFor(t *testing.T, log *logtext.Text, text string) {
	t.Helper()
	for until := time.Now().Add(time.Minute); time.Now().Before(until); time.Sleep(time.Millisecond) {
		if strings.Contains(log.String(), text) {
			return
		}
	}
	t.Fatalf("no %q in the log:\n%s", text, log.String())
}

func traces(t *testing.T, fsys vfs.FS) (names []string, bytes int64) {
	t.Helper()
	all, err := fsys.ReadDir("meta/stalls")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		names, bytes = append(names, f.Name), bytes+f.Size
	}
	return names, bytes
}

// A slow request leaves a trace, the log says where it is; a second one within a minute is told of only.
func TestSlowRequestLeavesATrace(t *testing.T) {
	fsys := vfs.NewMem()
	d, log := start(t, fsys, true)
	d.Slow("Produce", time.Minute) // below the threshold
	d.Slow("Produce", 2*time.Hour)
	waitFor(t, log, "go tool trace meta/stalls/stall-")
	if d.Count(Request) != 1 || d.Count(Scheduler) != 0 {
		t.Errorf("%d slow requests and %d stalls of the scheduler are counted", d.Count(Request), d.Count(Scheduler))
	}
	names, _ := traces(t, fsys)
	if len(names) != 1 {
		t.Fatalf("traces: %v", names)
	}
	f, err := fsys.Open("meta/stalls/"+names[0], vfs.ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	head, err := io.ReadAll(io.NewSectionReader(f, 0, 8))
	if err != nil || !strings.HasPrefix(string(head), "go 1.") {
		t.Errorf("the file begins with %q, %v", head, err)
	}

	d.Slow("Produce", 2*time.Hour) // too soon for a line
	if d.Count(Request) != 2 {
		t.Error("the second one is not counted")
	}
	if names, _ := traces(t, fsys); len(names) != 1 {
		t.Errorf("traces: %v", names)
	}
}

// The first detector of a process records, a second one tells without.
func TestSecondDetectorOnlyTells(t *testing.T) {
	start(t, vfs.NewMem(), true)
	d, log := start(t, vfs.NewMem(), true)
	waitFor(t, log, "not recorded")
	d.Slow("Fetch", 2*time.Hour)
	waitFor(t, log, "moldau.stall.trace=true")
}

// A watcher that wakes too late was not given a processor.
func TestSchedulerStall(t *testing.T) {
	log := new(logtext.Text)
	d := Start(Options{Threshold: -time.Hour, FS: vfs.NewMem(), Dir: "stalls", Log: slog.New(slog.NewTextHandler(log, nil))})
	defer d.Close()
	waitFor(t, log, "the process did not run")
	if d.Count(Scheduler) == 0 {
		t.Error("it is not counted")
	}
}

// However many stalls there are, the files stay few and small, and only ours are removed.
func TestTracesAreBounded(t *testing.T) {
	fsys := vfs.NewMem()
	d, _ := start(t, fsys, true)
	if err := fsys.MkdirAll("meta/stalls"); err != nil {
		t.Fatal(err)
	}
	write := func(name string, size int64) {
		f, err := fsys.Open("meta/stalls/"+name, vfs.Create)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	write("notes.txt", 1)
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 3 * maxFiles {
		write(fmt.Sprintf("stall-20200101T0000%02d.000.trace", i), 10<<20)
	}
	for i := range 2 {
		if _, err := d.write(now.Add(time.Duration(i) * time.Second)); err != nil {
			t.Fatal(err)
		}
		names, bytes := traces(t, fsys)
		if len(names) > maxFiles+1 || bytes > maxBytes || names[0] != "notes.txt" {
			t.Errorf("%d bytes in %v", bytes, names)
		}
	}
	names, _ := traces(t, fsys)
	if last := names[len(names)-1]; last != "stall-20300101T000001.000.trace" {
		t.Errorf("the newest is %s", last)
	}
}

func TestNilDetector(t *testing.T) {
	var d *Detector
	d.Slow("Produce", time.Hour)
	if d.Count(Request) != 0 {
		t.Error("a nil detector notices something")
	}
	d.Close()
}
