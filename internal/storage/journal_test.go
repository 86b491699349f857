package storage

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// journalRig is some logs that share a journal, on a disk that loses power.
type journalRig struct {
	t    *testing.T
	mem  *vfs.Mem
	dir  *Dir
	logs []*Log
	want [][]string // what was appended to each log
	safe []int64    // how much of it was flushed
	size int64      // of a file of the journal
}

func newJournalRig(t *testing.T, logs int, size int64) *journalRig {
	r := &journalRig{t: t, mem: vfs.NewMem(), want: make([][]string, logs), safe: make([]int64, logs), size: size}
	r.open()
	return r
}

func (r *journalRig) open() { r.openOn(r.mem) }

// openOn opens the log dir through fsys, which stands before r.mem.
func (r *journalRig) openOn(fsys vfs.FS) {
	r.t.Helper()
	var err error
	r.dir, err = OpenDir(Options{FS: fsys, Path: "/data/log", MetaDir: "/data/meta", JournalBytes: r.size,
		PointBytes: 1 << 40, UnflushedBytes: 1 << 40, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		r.t.Fatal(err)
	}
	r.logs = nil
	for i := range r.want {
		l, err := r.dir.OpenLog(TopicPartition{"t", int32(i)}, wire.UUID{1}, LogConfig{SegmentBytes: 1 << 20, FlushMessages: 1, IndexIntervalBytes: 4096, MaxInflatedBytes: 1 << 20}, func() {})
		if err != nil {
			r.t.Fatal(err)
		}
		r.logs = append(r.logs, l)
	}
}

func (r *journalRig) append(i int, value string) {
	r.t.Helper()
	b := record.NewBuilder(record.None)
	b.Add(int64(len(r.want[i])), nil, []byte(value))
	batch, err := b.Finish()
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.logs[i].Append(batch, AppendOptions{}); err != nil {
		r.t.Fatal(err)
	}
	r.want[i] = append(r.want[i], value)
}

func (r *journalRig) truncate(i int, offset int64) {
	r.t.Helper()
	if err := r.logs[i].Truncate(offset); err != nil {
		r.t.Fatal(err)
	}
	r.want[i] = r.want[i][:offset]
	r.safe[i] = min(r.safe[i], offset)
}

// flush waits until everything that was appended is flushed.
func (r *journalRig) flush() {
	r.t.Helper()
	for _, l := range r.logs {
		l.RequestFlush(l.End())
	}
	for i, l := range r.logs {
		for l.Flushed() < l.End() {
			if err := r.dir.Err(); err != nil {
				r.t.Fatal(err)
			}
			time.Sleep(10 * time.Microsecond)
		}
		r.safe[i] = l.Flushed()
	}
}

// groups is the number of groups that were written.
func (r *journalRig) groups() int64 { return r.dir.journal.last.Load() }

// check reads every log and goes on from what is there.
func (r *journalRig) check() {
	r.t.Helper()
	for i, l := range r.logs {
		var got []string
		for l.End() > int64(len(got)) {
			p, err := l.Read(int64(len(got)), l.End(), 1<<20, true, 0)
			if err != nil {
				r.t.Fatalf("log %d: %v", i, err)
			}
			data, _, err := planBatches(p)
			for err == nil && len(data) > 0 {
				var b record.Batch
				if b, data, err = record.Parse(data); err == nil {
					err = b.Each(1<<20, func(x record.Record) error { got = append(got, string(x.Value)); return nil })
				}
			}
			if err != nil {
				r.t.Fatalf("log %d: %v", i, err)
			}
		}
		if int64(len(got)) < r.safe[i] || len(got) > len(r.want[i]) || strings.Join(got, "\n") != strings.Join(r.want[i][:len(got)], "\n") {
			r.t.Fatalf("log %d has %d records of %d, of which %d were flushed; or others", i, len(got), len(r.want[i]), r.safe[i])
		}
		r.want[i], r.safe[i] = r.want[i][:len(got)], int64(len(got))
	}
}

func (r *journalRig) crash(rnd *rand.Rand) {
	r.t.Helper()
	old := r.dir
	r.mem = r.mem.Crash(rnd)
	old.Close()
	r.open()
	r.check()
}

func (r *journalRig) journalNames() (names []string) {
	r.t.Helper()
	infos, err := r.mem.ReadDir("/data/log")
	if err != nil {
		r.t.Fatal(err)
	}
	for _, i := range infos {
		if strings.HasPrefix(i.Name, JournalName) {
			names = append(names, i.Name)
		}
	}
	return names
}

// TestJournal: logs that share a journal lose nothing that was flushed, and never get back what was cut off, wherever the
// power goes; the files of the journal are written over many times.
func TestJournal(t *testing.T) {
	groups := int64(0)
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		r := newJournalRig(t, 1+rnd.IntN(6), 32<<10)
		for life := range 5 {
			for step := range rnd.IntN(150) {
				for range rnd.IntN(4) {
					r.append(rnd.IntN(len(r.logs)), fmt.Sprint(seed, life, step, strings.Repeat("x", rnd.IntN(1500))))
				}
				switch i := rnd.IntN(len(r.logs)); rnd.IntN(20) {
				case 0:
					r.truncate(i, rnd.Int64N(r.logs[i].End()+1))
				case 1: // left to a later flush
				default:
					r.flush()
				}
			}
			groups += r.groups()
			r.crash(rnd)
		}
		if err := r.dir.Close(); err != nil {
			t.Fatal(err)
		}
		if names := r.journalNames(); names != nil {
			t.Fatalf("a clean stop left %v", names)
		}
		r.open()
		r.check()
		r.dir.Close()
	}
	if t.Logf("%d groups", groups); groups < 5000 {
		t.Errorf("only %d groups were written", groups)
	}
}

// used appends and flushes until the journal has been used.
func (r *journalRig) used() {
	r.t.Helper()
	for r.groups() == 0 {
		for i := range r.logs {
			r.append(i, "x")
		}
		r.flush()
	}
}

// TestJournalIsSetAside: what cannot be written into its log is kept, and so is a journal with a damaged group in its middle.
func TestJournalIsSetAside(t *testing.T) {
	for name, harm := range map[string]func(r *journalRig){
		"missing directory": func(r *journalRig) {
			infos, err := r.mem.ReadDir("/data/log/t-0")
			for _, i := range infos {
				if err == nil {
					err = r.mem.Remove(path.Join("/data/log/t-0", i.Name))
				}
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		"damaged group": func(r *journalRig) {
			f, err := r.mem.Open("/data/log/"+JournalName+"0", vfs.ReadWrite)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte{0xff}, journalAlign+100); err != nil {
				t.Fatal(err)
			}
			f.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newJournalRig(t, 2, 256<<10)
			r.used()
			for r.groups() < 4 { // what is damaged has good groups behind it; a flush need not become one
				r.append(0, "y")
				r.append(1, "y")
				r.flush()
			}
			old := r.dir
			r.mem = r.mem.Clone()
			old.Close()
			harm(r)
			var out strings.Builder
			d, err := OpenDir(Options{FS: r.mem, Path: "/data/log", MetaDir: "/data/meta", Log: slog.New(slog.NewTextHandler(&out, nil))})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if infos, err := r.mem.ReadDir("/data/meta/quarantine"); err != nil || len(infos) == 0 {
				t.Errorf("quarantine: %v, %v", infos, err)
			}
			if !strings.Contains(out.String(), "was set aside") {
				t.Errorf("log: %s", out.String())
			}
			if names := r.journalNames(); names != nil {
				t.Errorf("left: %v", names)
			}
		})
	}
}

// TestJournalWithoutRoom: a volume that is nearly full has no journal, and a write without room falls back to the log's own file.
func TestJournalWithoutRoom(t *testing.T) {
	r := newJournalRig(t, 2, 32<<10)
	r.used()
	r.dir.Close()
	full := false
	fault := vfs.NewFault(r.mem, func(op vfs.Op) error {
		if full && op.Kind == vfs.OpWrite && strings.Contains(op.Name, JournalName) {
			return vfs.ShortWrite{N: op.Len / 2, Err: syscall.ENOSPC}
		}
		return nil
	})
	d, err := OpenDir(Options{FS: fault, Path: "/data/log", MetaDir: "/data/meta", JournalBytes: 32 << 10})
	if err != nil {
		t.Fatal(err)
	}
	l, err := d.OpenLog(TopicPartition{"t", 0}, wire.UUID{1}, r.logs[0].Config(), func() {})
	if err != nil {
		t.Fatal(err)
	}
	r.dir, r.logs = d, []*Log{l}
	last := d.journal.last.Load()
	for d.journal.last.Load() == last {
		r.append(0, "z")
		r.flush()
	}
	full = true
	for range 5 {
		r.append(0, "without room")
		r.flush()
	}
	full = false
	if err := d.Err(); err != nil {
		t.Error(err)
	}
	r.mem = r.mem.Crash(rand.New(rand.NewPCG(1, 1)))
	d.Close()
	r.open()
	r.logs = r.logs[:1]
	r.check()
	r.dir.Close()
}

// TestJournalAndTimer: a flush that the journal makes lets flush.ms ask again.
func TestJournalAndTimer(t *testing.T) {
	r := newJournalRig(t, 1, 32<<10)
	defer r.dir.Close()
	r.used()
	cfg := r.logs[0].Config()
	cfg.FlushMessages, cfg.FlushInterval = 1<<62, time.Millisecond
	r.logs[0].SetConfig(cfg)
	for range 20 {
		r.append(0, "x")
		for r.logs[0].Flushed() < r.logs[0].End() {
			time.Sleep(100 * time.Microsecond)
		}
	}
}

// TestJournalSurvivesPowerLoss: wherever the power goes while a log is truncated, or while a start replays the journal, what the
// journal alone had is not lost.
func TestJournalSurvivesPowerLoss(t *testing.T) {
	for name, life := range map[string]func(r *journalRig, rnd *rand.Rand, after int){
		"truncation": func(r *journalRig, rnd *rand.Rand, after int) {
			r.mem.PowerLossAfter(after)
			if err := r.logs[0].Truncate(r.safe[0] - 1); err != nil && r.dir.Err() == nil {
				r.t.Fatal(err)
			}
			r.safe[0]--
		},
		"replay": func(r *journalRig, rnd *rand.Rand, after int) {
			old := r.dir
			r.mem = r.mem.Crash(rnd)
			old.Close()
			r.mem.PowerLossAfter(after)
			d, err := OpenDir(Options{FS: r.mem, Path: "/data/log", MetaDir: "/data/meta"})
			if err == nil {
				r.dir = d
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for after := 1; after < 40; after++ {
				for seed := range uint64(8) {
					rnd := rand.New(rand.NewPCG(seed, uint64(after)))
					r := newJournalRig(t, 2, 256<<10)
					r.used()
					for range 6 {
						r.append(0, strings.Repeat("y", 3000))
						r.append(1, "y")
						r.flush()
					}
					life(r, rnd, after)
					r.crash(rnd)
					if err := r.dir.Close(); err != nil {
						t.Fatal(err)
					}
				}
			}
		})
	}
}

// TestJournalOfManyLogs: where the journal restores many logs, they are synced at once, and before it goes.
func TestJournalOfManyLogs(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 7))
	r := newJournalRig(t, journalTogether+50, 1<<20)
	r.used()
	before := r.groups()
	for i := range r.logs {
		r.append(i, fmt.Sprint("of ", i))
	}
	r.flush()
	if r.groups() == before {
		t.Fatal("the journal was not used")
	}
	old := r.dir
	r.mem = r.mem.Crash(rnd)
	old.Close()
	var err error
	if r.dir, err = OpenDir(Options{FS: r.mem, Path: "/data/log", MetaDir: "/data/meta"}); err != nil { // opens no log, which would sync it
		t.Fatal(err)
	}
	if names := r.journalNames(); names != nil {
		t.Fatalf("the replay left %v", names)
	}
	r.crash(rnd)
	if err := r.dir.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestJournalTakesNothingBad: bytes that changed between the append and the flush are not copied into the journal, which would write them over
// a file that is right again.
func TestJournalTakesNothingBad(t *testing.T) {
	for name, at := range map[string]int64{"a value": 80, "the leader epoch, which no CRC covers": 15} {
		t.Run(name, func(t *testing.T) { testJournalTakesNothingBad(t, at) })
	}
}

// testJournalTakesNothingBad flips a bit of byte at of a batch.
func testJournalTakesNothingBad(t *testing.T, at int64) {
	r := newJournalRig(t, 2, 256<<10)
	r.used()
	seg := r.logs[0].view.Load().segments[0]
	name, pos := seg.path(logSuffix), seg.size.Load()
	r.append(0, strings.Repeat("a", 100))
	for range 2 { // bad, and right again
		if err := r.mem.Flip(name, pos+at, 1); err != nil {
			t.Fatal(err)
		}
		r.flush()
	}
	last := r.groups()
	r.append(0, "b")
	r.append(1, "b")
	r.flush()
	if r.groups() == last {
		t.Error("the journal was given up")
	}
	old := r.dir
	r.mem = r.mem.Clone()
	old.Close()
	r.open()
	r.check()
	if err := r.dir.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestJournalRestoresNothingBelowThePoint: a kill after a compaction does not bring back bytes that were in the journal before it.
func TestJournalRestoresNothingBelowThePoint(t *testing.T) {
	r := newJournalRig(t, 2, 1<<20)
	r.used()
	l := r.logs[0]
	cfg := l.Config()
	cfg.CleanupCompact, cfg.RetentionAge, cfg.RetentionBytes = true, -1, -1
	l.SetConfig(cfg)
	roll(t, r.dir, l) // the segment is one that the journal has from near its beginning
	put(t, l, 1, "k=0")
	for i := range 3 {
		r.flush()
		for before := r.groups(); r.groups() == before; r.flush() { // the one that puts a stop to it is in the journal
			put(t, l, 1, fmt.Sprintf("k=%d", i))
		}
	}
	small := l.view.Load().segments[1].size.Load()
	big := strings.Builder{}
	for i := range 1000 {
		fmt.Fprintf(&big, "key%d=%d ", i*i, i)
	}
	put(t, l, 1, "k=last "+big.String())
	r.flush()
	if size := l.view.Load().segments[1].size.Load(); size < 2*small {
		t.Fatalf("the last batch ends at %d, and begins at %d: it will not cover the first ones", size, small)
	}
	roll(t, r.dir, l)
	put(t, l, 1, "end=1")
	r.flush()
	if err := l.savePoint(); err != nil {
		t.Fatal(err)
	}
	if stats := mustCompact(t, l, 1_000_000); stats.kept >= stats.records {
		t.Fatalf("nothing was compacted: %+v", stats)
	}
	want := content(t, l)
	old := r.dir
	r.mem = r.mem.Clone() // kill -9
	old.Close()
	r.open()
	defer r.dir.Close()
	if infos, err := r.mem.ReadDir("/data/meta/quarantine"); err == nil && len(infos) > 0 {
		t.Errorf("set aside: %v", infos) // records for a segment that another has taken in
	}
	if got := content(t, r.logs[0]); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}

// diskRule is a rule of a failing file system that can be changed while the file system is used.
type diskRule struct {
	mu   sync.Mutex
	rule func(vfs.Op) // guarded by mu, called without it
}

func (d *diskRule) set(rule func(vfs.Op)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rule = rule
}

func (d *diskRule) check(op vfs.Op) error {
	d.mu.Lock()
	rule := d.rule
	d.mu.Unlock()
	if rule != nil {
		rule(op)
	}
	return nil
}

// TestJournalTakesTailsWhileLogsAreSynced: what is appended to a log whose files are being synced, to free a file of the journal or for a
// point, does not wait for that: the journal makes it durable.
func TestJournalTakesTailsWhileLogsAreSynced(t *testing.T) {
	r := newJournalRig(t, 2, 32<<10)
	r.used()
	r.dir.Close()
	rule := &diskRule{}
	r.openOn(vfs.NewFault(r.mem, rule.check))
	r.check()
	ready := func() int {
		j := r.dir.journal
		j.mu.Lock()
		defer j.mu.Unlock()
		return len(j.mu.ready)
	}
	// A file of the journal that is in use, and another one to go on with.
	for r.groups() == 0 || ready() == 0 {
		r.append(0, "x")
		r.append(1, "x")
		r.flush()
	}
	held, free := make(chan struct{}), make(chan struct{})
	var once sync.Once
	rule.set(func(op vfs.Op) {
		if op.Kind == vfs.OpSync && strings.HasPrefix(op.Name, "/data/log/t-0/") {
			once.Do(func() { close(held) })
			<-free
		}
	})
	synced := make(chan error, 1)
	r.append(0, "synced by a point")
	go func() { synced <- r.logs[0].savePoint() }()
	<-held
	last := r.groups()
	r.append(0, "taken by the journal meanwhile")
	r.append(1, "y")
	r.logs[0].RequestFlush(r.logs[0].End())
	for deadline := time.Now().Add(time.Minute); r.logs[0].Flushed() < r.logs[0].End(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			close(free)
			t.Fatal("an append waits for the sync of the whole log")
		}
	}
	if r.groups() == last {
		t.Error("the journal did not take it")
	}
	r.safe[0] = r.logs[0].Flushed()
	old := r.dir
	r.mem = r.mem.Crash(rand.New(rand.NewPCG(1, 1)))
	close(free)
	if err := <-synced; err == nil {
		t.Error("a point was made without power")
	}
	old.Close()
	r.open()
	r.check()
	r.dir.Close()
}

// TestTruncationWaitsForTheJournal: a truncation does not begin to cut while the journal has a tail of the log under way, which would count as
// flushed afterwards.
func TestTruncationWaitsForTheJournal(t *testing.T) {
	r := newJournalRig(t, 1, 32<<10)
	r.used()
	r.dir.Close()
	rule := &diskRule{}
	r.openOn(vfs.NewFault(r.mem, rule.check))
	r.check()
	for r.groups() == 0 {
		r.append(0, "x")
		r.flush()
	}
	truncated := make(chan struct{})
	var failed error
	var once sync.Once
	rule.set(func(op vfs.Op) {
		if op.Kind != vfs.OpSync || !strings.Contains(op.Name, JournalName) {
			return
		}
		once.Do(func() { // the tail is under way
			go func() { defer close(truncated); failed = r.logs[0].Truncate(1) }()
			for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Microsecond) {
				if waitsForLock("storage.(*Log).cut(") {
					return
				}
				select {
				case <-truncated:
					t.Error("the log was cut while the journal had a tail of it under way")
					return
				default:
				}
				if time.Now().After(deadline) {
					t.Error("the truncation neither waits nor ends")
					return
				}
			}
		})
	})
	r.append(0, "tail")
	r.logs[0].RequestFlush(r.logs[0].End())
	if <-truncated; failed != nil {
		t.Fatal(failed)
	}
	r.want[0], r.safe[0] = r.want[0][:1], 1
	if l := r.logs[0]; l.End() != 1 || l.Flushed() != 1 {
		t.Errorf("flushed up to %d, the end is %d", l.Flushed(), l.End())
	}
	r.append(0, "after the cut")
	r.flush()
	r.crash(rand.New(rand.NewPCG(2, 2)))
	r.dir.Close()
}

// waitsForLock reports whether a goroutine waits for a mutex in the function whose name, with the bracket, is given.
func waitsForLock(function string) bool {
	buf := make([]byte, 1<<20)
	for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		head, calls, _ := strings.Cut(g, "\n")
		if strings.Contains(head, "[sync.Mutex.Lock") && strings.Contains(calls, function) {
			return true
		}
	}
	return false
}
