package storage

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
)

const mib = 1 << 20

// onVolume opens a log dir with one log on a volume of 32 MiB; 4 MiB of it are left by producers.
func onVolume(t *testing.T) (*vfs.Mem, *Dir, *Log, *lines) {
	t.Helper()
	mem := vfs.NewMemOptions(vfs.MemOptions{TotalBytes: 32 * mib})
	d, l, out := onFS(t, mem, mem)
	return mem, d, l, out
}

// onFS is onVolume on a file system of the test's that keeps its files in mem.
func onFS(t *testing.T, mem *vfs.Mem, fsys vfs.FS) (*Dir, *Log, *lines) {
	t.Helper()
	out := &lines{}
	d, err := OpenDir(Options{FS: fsys, Path: "/d/log", MetaDir: "/d/meta", Reserve: true, Log: slog.New(slog.NewTextHandler(out, nil))})
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig()
	cfg.SegmentBytes = mib
	l, err := d.OpenLog(testTP, testID, cfg, func() {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	until(t, "the reserve is there", func() bool { return reserved(mem) })
	return d, l, out
}

// lines is the log of a test.
type lines struct {
	sync.Mutex // guards text
	text       bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.Lock()
	defer l.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(what string) int {
	l.Lock()
	defer l.Unlock()
	return strings.Count(l.text.String(), what)
}

func reserved(mem *vfs.Mem) bool {
	info, err := mem.Stat("/d/meta/reserve")
	return err == nil && info.Size > 0
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it never came to be that %s", what)
		}
	}
}

func big(t *testing.T) record.Batch { return batch(t, strings.Repeat("x", 50_000)) }

func own(t *testing.T, l *Log) error {
	t.Helper()
	_, err := l.Append(batch(t, "own"), AppendOptions{Reserve: true})
	return err
}

// produceUntilFull returns how many records were taken.
func produceUntilFull(t *testing.T, l *Log) int {
	t.Helper()
	for n := 0; ; n++ {
		_, err := l.Append(big(t), AppendOptions{})
		if errors.Is(err, ErrNoSpace) {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func free(t *testing.T, mem *vfs.Mem) int64 {
	t.Helper()
	s, err := mem.Space("/")
	if err != nil {
		t.Fatal(err)
	}
	return s.FreeBytes
}

// foreign is another program's file, which takes all that is free.
func foreign(t *testing.T, mem *vfs.Mem) {
	t.Helper()
	f, err := mem.Open("/foreign", vfs.Create)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for at, n := int64(0), int64(mib); n >= 4096; {
		if _, err := f.WriteAt(make([]byte, n), at); vfs.IsNoSpace(err) {
			n /= 2
		} else if err != nil {
			t.Fatal(err)
		} else {
			at += n
		}
	}
}

// TestProducersLeaveRoom: they are refused before the volume is full, the broker's own records and what a delete has to write
// down still fit, and when a delete has made room producers go on.
func TestProducersLeaveRoom(t *testing.T) {
	mem, d, l, out := onVolume(t)
	d.Clean(Cleaning{RetentionCheck: time.Hour})
	n := produceUntilFull(t, l)
	if n == 0 || free(t, mem) < 4*mib-mib/2 {
		t.Fatalf("%d records were taken, %d bytes are free", n, free(t, mem))
	}
	until(t, "the state is seen", func() bool { return d.Room().Full })
	if _, err := l.Append(batch(t, "a small one"), AppendOptions{}); !errors.Is(err, ErrNoSpace) || d.Err() != nil {
		t.Errorf("a small batch: %v; the dir: %v", err, d.Err())
	}
	for range 100 {
		if err := own(t, l); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.savePoint(); err != nil {
		t.Error(err)
	}
	if p, err := l.Read(0, l.End(), 1000, true, 0); err != nil {
		t.Error(err)
	} else {
		p.Release()
	}
	if !reserved(mem) {
		t.Error("the reserve was given up although nobody needs it")
	}

	l.SetCommitted(l.End())
	if err := l.RaiseStart(int64(n / 2)); err != nil {
		t.Fatal(err)
	}
	until(t, "producers go on", func() bool { _, err := l.Append(big(t), AppendOptions{}); return err == nil })
	until(t, "it is told", func() bool { return out.count("producers go on\"") > 0 }) // they may go on a moment before
	if a, b := out.count("producers are refused"), out.count("producers go on\""); a != 1 || b != 1 {
		t.Errorf("%d lines at the begin, %d at the end", a, b)
	}
	if s := d.Room(); s.Full || s.Times != 1 {
		t.Errorf("%+v", s)
	}
}

// TestDuplicateOnFullVolume: what was appended before is still acknowledged when its producer asks again.
func TestDuplicateOnFullVolume(t *testing.T) {
	_, _, l, _ := onVolume(t)
	first := idempotent(t)
	now := AppendOptions{NowMs: time.Now().UnixMilli()}
	at, err := l.Append(first, now)
	if err != nil {
		t.Fatal(err)
	}
	produceUntilFull(t, l)
	again, err := l.Append(idempotent(t), now)
	if err != nil || !again.Duplicate || again.BaseOffset != at.BaseOffset {
		t.Errorf("%+v, %v", again, err)
	}
}

func idempotent(t *testing.T) record.Batch {
	t.Helper()
	b := record.NewBuilder(record.None)
	b.ProducerID, b.ProducerEpoch, b.BaseSequence = 7, 0, 0
	b.Add(1000, nil, []byte("once"))
	out, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestReserveIsGivenUp: a volume that others have filled to the last byte gets the reserve back, with which
// the broker's own records, log starts and deletes go on.
func TestReserveIsGivenUp(t *testing.T) {
	mem, d, l, _ := onVolume(t)
	if _, err := l.Append(big(t), AppendOptions{}); err != nil {
		t.Fatal(err)
	}
	foreign(t, mem)
	until(t, "the reserve is given up", func() bool { return !reserved(mem) && d.Room().ReserveGiven && d.Room().Full })
	if _, err := l.Append(big(t), AppendOptions{}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("a producer: %v", err)
	}
	until(t, "own records fit", func() bool { return own(t, l) == nil })
	l.SetCommitted(l.End())
	if err := l.RaiseStart(1); err != nil || d.Err() != nil {
		t.Errorf("%v, %v", err, d.Err())
	}
	if _, err := l.Append(big(t), AppendOptions{}); !errors.Is(err, ErrNoSpace) {
		t.Errorf("a producer takes the reserve: %v", err)
	}
	if err := mem.Remove("/foreign"); err != nil {
		t.Fatal(err)
	}
	until(t, "producers go on", func() bool { _, err := l.Append(big(t), AppendOptions{}); return err == nil })
	until(t, "the reserve is made again", func() bool { return reserved(mem) && !d.Room().ReserveGiven })
}

// slowSpace is a file system that can take its time to say how much is free for the log dir, once the reserve is gone.
type slowSpace struct {
	*vfs.Mem
	slow atomic.Bool
}

func (s *slowSpace) Space(dir string) (vfs.Space, error) {
	for dir == "/d/log" && s.slow.Load() && !reserved(s.Mem) {
		time.Sleep(time.Millisecond)
	}
	return s.Mem.Space(dir)
}

// TestReserveIsUsableWhenItIsGivenUp: who reads that the reserve was given up may write into it.
func TestReserveIsUsableWhenItIsGivenUp(t *testing.T) {
	mem := vfs.NewMemOptions(vfs.MemOptions{TotalBytes: 32 * mib})
	fsys := &slowSpace{Mem: mem}
	d, l, _ := onFS(t, mem, fsys)
	if _, err := l.Append(big(t), AppendOptions{}); err != nil {
		t.Fatal(err)
	}
	fsys.slow.Store(true)
	defer fsys.slow.Store(false)
	foreign(t, mem)
	until(t, "the reserve's file is gone", func() bool { return !reserved(mem) })
	time.Sleep(10 * time.Millisecond)
	if d.Room().ReserveGiven {
		t.Error("it is told that the reserve was given up before anybody may use it")
	}
	fsys.slow.Store(false)
	until(t, "it is told", func() bool { return d.Room().ReserveGiven })
	if err := own(t, l); err != nil {
		t.Errorf("an own record: %v", err)
	}
}

// TestOpenOnFullVolume: a start gives the reserve up before it writes anything.
func TestOpenOnFullVolume(t *testing.T) {
	mem, d, l, _ := onVolume(t)
	if _, err := l.Append(big(t), AppendOptions{}); err != nil {
		t.Fatal(err)
	}
	killed := mem.Clone()
	_ = d.Close() // its disk belongs to another by now, and it gives nothing up any more
	foreign(t, killed)
	again, err := OpenDir(Options{FS: killed, Path: "/d/log", MetaDir: "/d/meta", Reserve: true})
	if err != nil {
		t.Fatal(err)
	}
	l, err = again.OpenLog(testTP, testID, testConfig(), func() {})
	if err != nil {
		t.Fatal(err)
	}
	if l.End() != 1 || !again.Room().Full {
		t.Errorf("%d records, %+v", l.End(), again.Room())
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
}

// TestStallIsSeen: a sync that does not come back is told once, and so is its end.
func TestStallIsSeen(t *testing.T) {
	hang, hung := make(chan struct{}), make(chan struct{}, 10)
	var on sync.Mutex
	stuck := false
	fault := vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		on.Lock()
		wait := stuck && op.Kind == vfs.OpSync
		on.Unlock()
		if wait {
			hung <- struct{}{}
			<-hang
		}
		return nil
	})
	out := &lines{}
	d, err := OpenDir(Options{FS: fault, Path: "/d/log", MetaDir: "/d/meta"})
	if err != nil {
		t.Fatal(err)
	}
	l, err := d.OpenLog(testTP, testID, testConfig(), func() {})
	if err != nil {
		t.Fatal(err)
	}
	fillLog(t, d, l, 1)
	on.Lock()
	stuck = true
	on.Unlock()
	if _, err := l.Append(batch(t, "x"), AppendOptions{LeaderEpoch: 3}); err != nil {
		t.Fatal(err)
	}
	<-hung
	// The log dir looks by itself now and then, by the true time: this one has another opinion of the time, and looks when it is told to.
	looking := &Dir{path: d.path, log: slog.New(slog.NewTextHandler(out, nil))}
	looking.stalls = newStalls(looking, d.stalls.watch)
	for range 3 {
		looking.stalls.look(time.Now().Add(stallAfter))
	}
	if s := looking.Stall(); !s.Stalled || s.Operation != "sync" || !strings.HasPrefix(s.File, "/d/log/events-0/") || s.Times != 1 {
		t.Errorf("%+v", s)
	}
	on.Lock()
	stuck = false
	on.Unlock()
	close(hang)
	until(t, "the end is seen", func() bool { looking.stalls.look(time.Now()); return !looking.Stall().Stalled })
	if a, b := out.count("hangs: an operation has not come back"), out.count("does not hang any more"); a != 1 || b != 1 {
		t.Errorf("%d lines at the begin, %d at the end", a, b)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}
