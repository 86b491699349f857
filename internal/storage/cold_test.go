package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"moldau/internal/record"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// readPatiently is ReadNow until what it asked for is there.
func readPatiently(r *Reader, l *Log, from, limit int64, maxBytes int, copyBytes int) (Plan, error) {
	for range 1000 {
		r.Begin()
		p, err := l.ReadNow(r, from, limit, maxBytes, true, copyBytes)
		if err != ErrCold {
			return p, err
		}
		select {
		case <-r.Wake:
		case <-time.After(time.Minute):
			return p, errors.New("nobody woke the reader")
		}
	}
	return Plan{}, errors.New("the reader is woken in vain")
}

func newReader(client any) *Reader { return &Reader{Client: client, Wake: make(chan struct{}, 1)} }

// slowDisk holds back what is read from the disk, and writes down what it was asked for.
type slowDisk struct {
	mu    sync.Mutex // guards the following
	asked []string
	now   int // under way
	most  int
	open  chan struct{} // closed: nothing is held back
}

func newSlowDisk(m *vfs.Mem) *slowDisk {
	d := &slowDisk{open: make(chan struct{})}
	m.OnArrival(func(name string, off, n int64) {
		d.mu.Lock()
		d.asked = append(d.asked, name)
		d.now++
		d.most = max(d.most, d.now)
		open := d.open
		d.mu.Unlock()
		<-open
		d.mu.Lock()
		d.now--
		d.mu.Unlock()
	})
	return d
}

func (d *slowDisk) release() { close(d.open) }

// wait returns when so many reads have been asked for.
func (d *slowDisk) wait(n int) []string {
	for {
		d.mu.Lock()
		asked := append([]string(nil), d.asked...)
		d.mu.Unlock()
		if len(asked) >= n {
			return asked
		}
		time.Sleep(20 * time.Microsecond)
	}
}

func everything(string) bool { return true }

func logFiles(name string) bool { return strings.HasSuffix(name, logSuffix) }

// coldWorld is a log dir with logs of about size bytes each, in segments of segmentBytes, all evicted.
func coldWorld(t *testing.T, mem *vfs.Mem, logs int, size, segmentBytes int64) (*Dir, []*Log) {
	t.Helper()
	cfg := testConfig()
	cfg.SegmentBytes, cfg.IndexIntervalBytes = segmentBytes, 4096
	d, err := OpenDir(Options{FS: mem, Path: "/d/log", MetaDir: "/d/meta", PoisonBuffers: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	var all []*Log
	for i := range logs {
		l, err := d.OpenLog(TopicPartition{"t", int32(i)}, wire.UUID{1, byte(i)}, cfg, func() {})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, l)
		for l.SizeBytes() < size {
			b := record.NewBuilder(record.None)
			b.Add(1000, nil, bytes.Repeat([]byte{byte(l.End())}, 10_000))
			out, err := b.Finish()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.Append(out, AppendOptions{NowMs: 1000}); err != nil {
				t.Fatal(err)
			}
		}
		waitFlushed(t, d, l)
	}
	mem.Evict(everything)
	return d, all
}

// TestColdReadWaitsForNobody: a read of what is on the disk only comes back at once, and so does everything else
// while the disk does nothing; what was asked for is there when it does.
func TestColdReadWaitsForNobody(t *testing.T) {
	mem := vfs.NewMem()
	_, logs := coldWorld(t, mem, 2, 600<<10, 200<<10)
	disk := newSlowDisk(mem)
	cold, hot := logs[0], logs[1]
	r := newReader("c")
	for _, copyBytes := range []int{0, CopyBelow} {
		if _, err := cold.ReadNow(r, 0, cold.End(), 1<<20, true, copyBytes); err != ErrCold {
			t.Fatalf("a read of what is not in memory: %v", err)
		}
	}
	disk.wait(1)
	before := hot.End()
	if _, err := hot.Append(batch(t, "a"), AppendOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err := hot.ReadNow(newReader("h"), before, hot.End(), 1<<20, true, CopyBelow)
	if err != nil {
		t.Fatal(err)
	}
	p.Release()
	disk.release()
	for at := int64(0); at < cold.End(); {
		want, err := cold.Read(at, cold.End(), 50_000, true, 0)
		if err != nil {
			t.Fatal(err)
		}
		wanted, next, err := planBatches(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readPatiently(r, cold, at, cold.End(), 50_000, int(at%2)*CopyBelow)
		if err != nil {
			t.Fatal(err)
		}
		if got, n, err := planBatches(got); err != nil || n != next || !bytes.Equal(got, wanted) {
			t.Fatalf("offset %d: up to %d, expected %d (%v)", at, n, next, err)
		}
		at = next
	}
}

// byHand is a cold queue whose work the test does.
type byHand struct {
	*coldQueue
	t    *testing.T
	logs []*Log
}

func newByHand(t *testing.T, logs int, size int64) *byHand {
	d, all := coldWorld(t, vfs.NewMem(), logs, size, size+1<<20)
	q := d.cold
	q.mu.Lock()
	defer q.mu.Unlock()
	q.mu.workers, q.mu.bulkLimit = 1000, 1 // none is started
	return &byHand{q, t, all}
}

// order has a reader ask for n bytes of a log, of which nothing is in memory.
func (h *byHand) order(r *Reader, log int, n, copyBytes int) {
	h.t.Helper()
	if _, err := h.logs[log].ReadNow(r, 0, h.logs[log].End(), n, true, copyBytes); err != ErrCold {
		h.t.Fatalf("what is not in memory is read: %v", err)
	}
}

// pick takes the next job. "" if there is none.
func (h *byHand) pick() (j job, client string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	j, ok := h.pickLocked()
	if !ok {
		return j, ""
	}
	if j.n > coldUnitBytes {
		h.t.Fatalf("a job of %d bytes", j.n)
	}
	return j, j.s.client.key.(string)
}

func (h *byHand) done(j job, took time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.doneLocked(&j, true, took, nil)
}

// work does everything that was ordered, one after the other.
func (h *byHand) work(f func(j job, client string)) {
	h.t.Helper()
	for range 1000 {
		j, client := h.pick()
		if client == "" {
			return
		}
		f(j, client)
		h.done(j, 10*time.Millisecond)
	}
	h.t.Fatal("it never ends")
}

// TestColdClientsTakeTurns: clients with many cold partitions do not keep another waiting, nor does one partition keep
// the others of its client.
func TestColdClientsTakeTurns(t *testing.T) {
	h := newByHand(t, 7, 700<<10)
	for i := range 5 {
		h.order(newReader("a"), i, 600<<10, 0)
	}
	h.order(newReader("b"), 5, 600<<10, 0)
	h.order(newReader("c"), 6, 600<<10, 0)
	var turns, own []string
	h.work(func(j job, client string) {
		turns = append(turns, client)
		if client == "a" {
			own = append(own, j.s.log.tp.String())
		}
	})
	// Three units of each log.
	if got := strings.Join(turns, ""); got != "abcabcabc"+strings.Repeat("a", 12) {
		t.Errorf("the turns were %s", got)
	}
	if got := strings.Join(own[:6], " "); got != "t-0 t-1 t-2 t-3 t-4 t-0" {
		t.Errorf("the first client's were %s", got)
	}
}

// TestColdLanes: small reads have a lane of their own, which bulk does not take and which is no wider when more come; what nobody waits
// for is read last.
func TestColdLanes(t *testing.T) {
	h := newByHand(t, 6, 700<<10)
	h.order(newReader("bulk"), 0, 600<<10, 0)
	if _, client := h.pick(); client != "bulk" {
		t.Fatalf("%q is read first", client)
	}
	for i := range 3 {
		h.order(newReader(fmt.Sprint("small-", i)), 1+i, 12_000, CopyBelow)
	}
	for i := range coldSmallLane {
		j, client := h.pick()
		if client != fmt.Sprint("small-", i) || !j.small {
			t.Fatalf("beside a bulk read %q is next, as bulk: %v", client, !j.small)
		}
		defer h.done(j, time.Millisecond)
	}
	if _, client := h.pick(); client != "" {
		t.Errorf("both lanes are full, and %q is read", client)
	}

	h = newByHand(t, 2, 700<<10)
	h.order(newReader("ahead"), 0, 200<<10, 0)
	h.mu.Lock()
	s := h.findLocked("ahead", h.logs[0])
	s.ahead = s.demand + coldUnitBytes
	h.mu.Unlock()
	h.order(newReader("waits"), 1, 600<<10, 0)
	var turns []string
	h.work(func(j job, client string) { turns = append(turns, client) })
	if got := strings.Join(turns, " "); got != "ahead waits waits waits ahead" {
		t.Errorf("the turns were %s", got)
	}
}

// TestColdLaneFollowsTheDisk: on a slow disk there is one bulk read at a time, on a fast one there are four.
func TestColdLaneFollowsTheDisk(t *testing.T) {
	h := newByHand(t, 1, 700<<10)
	for _, c := range []struct {
		took time.Duration
		want int
	}{{time.Millisecond, coldBulkLane}, {time.Second, 1}} {
		for i := range 12 { // more than it takes
			h.order(newReader(fmt.Sprint(c.want, i)), 0, 200<<10, 0)
			j, client := h.pick()
			if client == "" {
				t.Fatalf("%v: nothing is read in a lane of %d", c.took, c.want)
			}
			h.done(j, c.took)
		}
		for i := range 8 {
			h.order(newReader(fmt.Sprint(c.want, "later", i)), 0, 200<<10, 0)
		}
		var jobs []job
		for j, client := h.pick(); client != ""; j, client = h.pick() {
			jobs = append(jobs, j)
		}
		if len(jobs) != c.want {
			t.Errorf("%d bulk reads at a time when one takes %v, expected %d", len(jobs), c.took, c.want)
		}
		for _, j := range jobs {
			h.done(j, c.took)
		}
		h.work(func(job, string) {})
	}
}

// TestColdOrdersAreBounded: what one look at many partitions may order is bounded, as is what it may order of one.
func TestColdOrdersAreBounded(t *testing.T) {
	h := newByHand(t, 7, 1100<<10)
	h.order(newReader("one"), 0, 50<<20, 0)
	bytes := map[string]int64{}
	count := func(j job, client string) { bytes[client] += j.n }
	h.work(count)
	r := newReader("many")
	r.Begin()
	for i := range 6 {
		h.order(r, 1+i, 50<<20, 0)
	}
	h.work(count)
	if bytes["one"] > coldOrderBytes || bytes["many"] > coldLookBytes || bytes["many"] < coldLookBytes/2 {
		t.Errorf("%v bytes were ordered, at most %d of one partition and %d of all", bytes, coldOrderBytes, coldLookBytes)
	}
}

// TestColdRegionIsNotPlanned: a large range of which only the beginning is in memory is nothing for sendfile.
func TestColdRegionIsNotPlanned(t *testing.T) {
	h := newByHand(t, 1, 700<<10)
	f, err := h.logs[0].view.Load().segments[0].pin()
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.ReadAt(make([]byte, pageBytes), 0)
	h.logs[0].view.Load().segments[0].unpin()
	if err != nil {
		t.Fatal(err)
	}
	h.order(newReader("c"), 0, 600<<10, 0)
}

// TestSmallMissesGoFirst: a page that is missing does not wait for bulk that the disk has not begun to read.
func TestSmallMissesGoFirst(t *testing.T) {
	mem := vfs.NewMem()
	_, logs := coldWorld(t, mem, 13, 300<<10, 1<<20)
	disk := newSlowDisk(mem)
	for i, l := range logs[:12] {
		if _, err := l.ReadNow(newReader(i), 0, l.End(), 300<<10, true, 0); err != ErrCold {
			t.Fatal(err)
		}
	}
	bulk := len(disk.wait(2))
	if _, err := logs[12].ReadNow(newReader("small"), 0, logs[12].End(), 12_000, true, CopyBelow); err != ErrCold {
		t.Fatal(err)
	}
	if asked := disk.wait(bulk + 1); !strings.Contains(asked[bulk], "/t-12/") {
		t.Errorf("the small read waits: %v", asked)
	}
	disk.release()
}

// TestReadersWithoutTryRead: where the file system cannot say what is in memory, reads are right, and few
// wait for the disk at a time.
func TestReadersWithoutTryRead(t *testing.T) {
	mem := vfs.NewMemOptions(vfs.MemOptions{NoTryRead: true})
	_, logs := coldWorld(t, mem, 1, 3<<20, 1<<20)
	disk := newSlowDisk(mem)
	l := logs[0]
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			at := int64(i) * l.End() / 40
			p, err := l.ReadNow(newReader(i), at, l.End(), 200<<10, true, i%2*CopyBelow)
			if err != nil {
				t.Error(err)
				return
			}
			if _, next, err := planBatches(p); err != nil || next <= at {
				t.Errorf("read at %d: up to %d, %v", at, next, err)
			}
		})
	}
	disk.wait(coldBlocked)
	disk.release()
	all.Wait()
	if disk.most > coldBlocked {
		t.Errorf("%d reads waited for the disk at a time", disk.most)
	}
}

// TestColdReadError: what cannot be read is an error, and not asked for again and again.
func TestColdReadError(t *testing.T) {
	mem := vfs.NewMem()
	broken := make(chan struct{})
	fsys := vfs.NewFault(mem, func(op vfs.Op) error {
		select {
		case <-broken:
			if op.Kind == vfs.OpRead && logFiles(op.Name) {
				return syscall.EIO
			}
		default:
		}
		return nil
	})
	d, l := open(t, fsys, testConfig())
	defer d.Close()
	fillLog(t, d, l, 100)
	mem.Evict(logFiles)
	close(broken)
	for _, copyBytes := range []int{0, CopyBelow} {
		_, err := readPatiently(newReader(copyBytes), l, 3, l.End(), 1000, copyBytes)
		var at *CorruptionError
		if !errors.Is(err, syscall.EIO) || !errors.As(err, &at) || errors.Is(err, ErrDamaged) {
			t.Errorf("%v", err)
		}
	}
}

// TestColdReadOfWhatGoes: a log that is truncated, deleted or closed while a read waits for the disk gives what it has then.
func TestColdReadOfWhatGoes(t *testing.T) {
	for name, change := range map[string]func(d *Dir, l *Log) error{
		"truncation": func(d *Dir, l *Log) error { return l.Truncate(20) },
		"log start":  func(d *Dir, l *Log) error { return l.RaiseStart(90) },
		"deletion":   func(d *Dir, l *Log) error { return l.Delete() },
		"close":      func(d *Dir, l *Log) error { return d.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			d, l := open(t, mem, testConfig())
			defer d.Close()
			fillLog(t, d, l, 100)
			l.SetCommitted(100)
			mem.Evict(logFiles)
			disk := newSlowDisk(mem)
			r := newReader("c")
			if _, err := l.ReadNow(r, 50, l.End(), 1000, true, 0); err != ErrCold {
				t.Fatal(err)
			}
			disk.wait(1)
			done := make(chan error, 1)
			go func() { done <- change(d, l) }()
			if name == "close" {
				<-r.Wake // before the disk has answered
			}
			disk.release()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			_, err := readPatiently(r, l, 50, l.End(), 1000, 0)
			if want := map[string]error{"truncation": ErrOffsetRange, "log start": ErrOffsetRange, "deletion": ErrClosed, "close": ErrClosed}[name]; !errors.Is(err, want) {
				t.Errorf("%v, expected %v", err, want)
			}
		})
	}
}

// TestCanceledClientsAreForgotten: what somebody ordered who is gone is not read.
func TestCanceledClientsAreForgotten(t *testing.T) {
	mem := vfs.NewMem()
	d, logs := coldWorld(t, mem, 8, 600<<10, 1<<20)
	disk := newSlowDisk(mem)
	r := newReader("gone")
	for _, l := range logs {
		r.Begin()
		if _, err := l.ReadNow(r, 0, l.End(), 600<<10, true, 0); err != ErrCold {
			t.Fatal(err)
		}
	}
	begun := len(disk.wait(2))
	r.Cancel()
	disk.release()
	d.cold.wg.Wait()
	if asked := disk.wait(0); len(asked) > begun {
		t.Errorf("%d reads were begun for somebody who was gone", len(asked)-begun)
	}
	d.cold.mu.Lock()
	defer d.cold.mu.Unlock()
	if len(d.cold.mu.clients)+len(d.cold.mu.order) > 0 || logs[0].scanned.Load() > 0 {
		t.Error("something is left of the client")
	}
}

// TestReadersAheadAndBehind: a sequential reader finds what comes next in memory, and what it has passed leaves it,
// unless somebody is near.
func TestReadersAheadAndBehind(t *testing.T) {
	for _, followed := range []bool{false, true} {
		mem := vfs.NewMemOptions(vfs.MemOptions{Forgets: true})
		d, logs := coldWorld(t, mem, 1, 20<<20, 6<<20)
		l := logs[0]
		seg := l.view.Load().segments[0]
		r, follower := newReader("first"), newReader("follower")
		if followed {
			if _, err := readPatiently(follower, l, 0, l.End(), 300<<10, 0); err != nil {
				t.Fatal(err)
			}
		}
		misses := 0
		for at := int64(0); at < l.view.Load().segments[1].base; {
			r.Begin()
			p, err := l.ReadNow(r, at, l.End(), 300<<10, true, 0)
			d.cold.wg.Wait() // whatever it asked for is there
			if err == ErrCold {
				misses++
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, at, err = planBatches(p); err != nil {
				t.Fatal(err)
			}
		}
		if misses > 5 {
			t.Errorf("a sequential reader missed %d times", misses)
		}
		f, err := seg.pin()
		if err != nil {
			t.Fatal(err)
		}
		kept := f.Resident(0, 1<<20) == 1<<20
		seg.unpin()
		if kept != followed {
			t.Errorf("followed: %v, what was passed is in memory: %v", followed, kept)
		}
	}
}

// TestTimeLookupsWaitInTurn: a lookup by time of what is in memory waits for no disk, and one that has to does so with few others.
func TestTimeLookupsWaitInTurn(t *testing.T) {
	mem := vfs.NewMem()
	d, l := open(t, mem, testConfig())
	defer d.Close()
	fillLog(t, d, l, 200)
	mem.Evict(logFiles)
	disk := newSlowDisk(mem)
	var all sync.WaitGroup
	for i := range 30 {
		all.Go(func() {
			found, ok, err := l.ByTimestamp(int64(1000+i), l.End())
			if err != nil || !ok || found.Offset != int64(i) {
				t.Errorf("time %d: %+v %v %v", i, found, ok, err)
			}
		})
	}
	disk.wait(1)
	if _, err := l.Append(batch(t, "new"), AppendOptions{LeaderEpoch: 3, NowMs: 2000}); err != nil {
		t.Fatal(err)
	}
	disk.release()
	all.Wait()
	if disk.most > coldBlocked {
		t.Errorf("%d lookups waited for the disk at a time", disk.most)
	}
}

// TestColdReadersInCrowd: many clients read the same few logs from everywhere, while pages come and go, and each gets what stands there.
func TestColdReadersInCrowd(t *testing.T) {
	mem := vfs.NewMemOptions(vfs.MemOptions{Forgets: true})
	_, logs := coldWorld(t, mem, 3, 1<<20, 300<<10)
	var all sync.WaitGroup
	for c := range 8 {
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(c), 3))
			r := newReader(c)
			l := logs[c%len(logs)]
			for at := int64(0); at < l.End(); {
				if rnd.IntN(20) == 0 {
					mem.Evict(everything)
				}
				p, err := readPatiently(r, l, at, l.End(), 1+rnd.IntN(400<<10), rnd.IntN(2)*CopyBelow)
				if err != nil {
					t.Errorf("read at %d: %v", at, err)
					return
				}
				got, next, err := planBatches(p)
				if err == nil && p.BaseOffset != at {
					err = fmt.Errorf("it begins at %d", p.BaseOffset)
				}
				for rest := got; len(rest) > 0 && err == nil; {
					var b record.Batch
					if b, rest, err = record.Parse(rest); err == nil {
						err = b.CheckCRC()
					}
				}
				if err != nil {
					t.Errorf("read at %d: %v", at, err)
					return
				}
				at = next
			}
			r.Cancel()
		})
	}
	all.Wait()
}
