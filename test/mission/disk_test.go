package mission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"moldau/broker"
	"moldau/internal/config"
	"moldau/internal/vfs"
	"moldau/test/logtext"
)

// volume is a broker on a volume of a limited size that other programs use too.
type volume struct {
	t       *testing.T
	ctx     context.Context
	addr    func() string
	http    func() string
	free    func() int64
	fill    func(most int64) // another program takes what is free, but no more than that
	unfill  func()           // and gives it back
	alive   func() bool      // the broker has not ended
	restart func()           // after kill -9
	log     func() string    // what the broker has logged
	took    map[string]int64 // figures, for people
}

// TestDiskFull: a full disk ends no broker. Producers wait, everybody else goes on, producers go on by themselves when there
// is room, and nothing that was acknowledged is lost.
func TestDiskFull(t *testing.T) {
	t.Run("memory", func(t *testing.T) { fullDisk(t, memoryVolume(t)) })
	dir := t.TempDir()
	if out, err := mountTmpfs(dir); err != nil {
		t.Logf("no volume of 200 MB could be mounted (%v: %s), which needs Linux and root: the broker in this process, on a volume of 64 MB in memory with its etcd elsewhere, was all that ran", err, out)
		return
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	t.Log("a broker process, with its etcd, on a tmpfs of 200 MB")
	t.Run("tmpfs", func(t *testing.T) { fullDisk(t, tmpfsVolume(t, dir)) })
}

func mountTmpfs(dir string) ([]byte, error) {
	if runtime.GOOS != "linux" {
		return nil, errors.New("this is " + runtime.GOOS)
	}
	return exec.Command("mount", "-t", "tmpfs", "-o", "size=200m", "moldau-test", dir).CombinedOutput()
}

func tmpfsVolume(t *testing.T, dir string) *volume {
	p := serverIn(t, filepath.Join(dir, "data"), freeAddr(t))
	foreign := filepath.Join(dir, "foreign")
	return &volume{
		t: t, ctx: p.ctx, took: map[string]int64{},
		addr: func() string { return p.addr },
		http: func() string { return p.http },
		free: func() int64 {
			s, err := vfs.OS().Space(dir)
			must(t, err)
			return s.FreeBytes
		},
		fill:   func(most int64) { takeAll(t, vfs.OS(), foreign, most) },
		unfill: func() { must(t, os.Remove(foreign)) },
		alive: func() bool {
			select {
			case <-p.done:
				return false
			default:
				return true
			}
		},
		restart: func() { p.kill(); p.start() },
		log:     p.log.String,
	}
}

// takeAll makes a file longer, until nothing is free or it is longer by most bytes.
func takeAll(t *testing.T, fsys vfs.FS, name string, most int64) {
	t.Helper()
	f, err := fsys.Open(name, vfs.Create)
	must(t, err)
	defer f.Close()
	at, err := f.Size()
	must(t, err)
	end := at + min(most, 1<<40)
	for n := int64(1 << 20); n >= 4096 && at < end; {
		k, err := f.WriteAt(make([]byte, min(n, end-at)), at)
		at += int64(k)
		if vfs.IsNoSpace(err) {
			n /= 2
		} else {
			must(t, err)
		}
	}
}

// inProcess is a broker in this process.
type inProcess struct {
	*broker.Broker
	log *logtext.Text
}

func startInProcess(t *testing.T, fsys vfs.FS, dataDir, listen string) inProcess {
	t.Helper()
	c, _, err := config.Load(config.Sources{
		Flags: map[string]string{"data-dir": dataDir},
		Sets:  []string{"node.id=1", "listeners=PLAINTEXT://" + listen, "moldau.http.listener=127.0.0.1:0"},
	})
	must(t, err)
	log := &logtext.Text{}
	b, err := broker.Start(t.Context(), broker.Options{Config: c, Log: slog.New(slog.NewTextHandler(log, nil)), FS: fsys})
	must(t, err)
	return inProcess{b, log}
}

func memoryVolume(t *testing.T) *volume {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	mem := vfs.NewMemOptions(vfs.MemOptions{TotalBytes: 64 << 20})
	data := filepath.ToSlash(t.TempDir()) // etcd is really there
	b := startInProcess(t, mem, data, freeAddr(t))
	v := &volume{
		t: t, ctx: ctx, took: map[string]int64{},
		addr: func() string { return b.Addrs()[0].String() },
		http: func() string { return b.HTTPAddrs()[0].String() },
		free: func() int64 {
			s, err := mem.Space("/")
			must(t, err)
			return s.FreeBytes
		},
		fill:   func(most int64) { takeAll(t, mem, "/foreign", most) },
		unfill: func() { must(t, mem.Remove("/foreign")) },
		alive:  func() bool { return true },
		restart: func() {
			old := b
			mem = mem.Clone()
			_ = old.Abort() // its disk belongs to another by now
			b = startInProcess(t, mem, data, old.Addrs()[0].String())
		},
		log: func() string { return b.log.String() },
	}
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Errorf("closing the broker: %v", err)
		}
		cancel()
		if t.Failed() {
			t.Logf("the broker's log:\n%s", b.log.String())
		}
	})
	return v
}

func (v *volume) client(opts ...kgo.Opt) *kgo.Client {
	v.t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(v.addr()), kgo.MetadataMinAge(10 * time.Millisecond)}, opts...)...)
	must(v.t, err)
	v.t.Cleanup(c.Close)
	return c
}

// readyState is the answer of /ready.
type readyState struct {
	Ready             bool
	Reasons, Warnings []string
}

func ready(t *testing.T, addr string) (code int, s readyState) {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/ready")
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	must(t, json.Unmarshal(body, &s))
	return resp.StatusCode, s
}

func metric(t *testing.T, addr, name string) string {
	t.Helper()
	resp, err := http.Get("http://" + addr + "/metrics")
	must(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	for line := range strings.Lines(string(body)) {
		if value, ok := strings.CutPrefix(line, name); ok && !strings.HasPrefix(line, "#") {
			return strings.TrimSpace(value[strings.LastIndexByte(value, ' ')+1:])
		}
	}
	return ""
}

// eventually fails the test if ok stays false for as long as the test has.
func eventually(t *testing.T, ctx context.Context, what string, ok func() bool) {
	t.Helper()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("it never came to be that %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// load is a producer that never gives up: what it has had acknowledged, by offset.
type load struct {
	mu    sync.Mutex // guards acked and err
	acked map[int64]string
	err   error

	stop context.CancelFunc
	wg   sync.WaitGroup
}

// produceTo keeps a few records of 50 kB under way until it is stopped.
func (v *volume) produceTo(topic string) *load {
	ctx, stop := context.WithCancel(v.ctx)
	l := &load{acked: map[int64]string{}, stop: stop}
	c := v.client(kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.MaxBufferedRecords(8), kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }))
	l.wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			c.Produce(ctx, kgo.StringRecord(fmt.Sprintf("%d %s", i, strings.Repeat("x", 50_000))), func(r *kgo.Record, err error) {
				l.mu.Lock()
				defer l.mu.Unlock()
				switch {
				case err == nil:
					if old, twice := l.acked[r.Offset]; twice {
						l.err = fmt.Errorf("offset %d was acknowledged for %.10q and %.10q", r.Offset, old, r.Value)
					}
					l.acked[r.Offset] = string(r.Value)
				case ctx.Err() == nil:
					l.err = err
				}
			})
		}
		c.Close() // what is under way is not waited for, nor told later
	})
	return l
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

func (l *load) end(t *testing.T) {
	t.Helper()
	l.stop()
	l.wg.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		t.Errorf("a producer that waits for room was told %v", l.err)
	}
}

// check reads the whole topic: every acknowledged record from the log start on is there, in its place.
func (v *volume) check(topic string, l *load) {
	v.t.Helper()
	l.mu.Lock()
	acked := maps.Clone(l.acked)
	l.mu.Unlock()
	adm := kadm.NewClient(v.client())
	starts, err := adm.ListStartOffsets(v.ctx, topic)
	must(v.t, err)
	ends, err := adm.ListEndOffsets(v.ctx, topic)
	must(v.t, err)
	start, _ := starts.Lookup(topic, 0)
	end, _ := ends.Lookup(topic, 0)
	c := v.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(start.Offset)}}))
	defer c.Close()
	got, seen := map[int64]string{}, map[string]int64{}
	for next := start.Offset; next < end.Offset; {
		fs := c.PollFetches(v.ctx)
		must(v.t, fs.Err())
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset != next {
				v.t.Errorf("offset %d comes where %d should", r.Offset, next)
			}
			if at, twice := seen[string(r.Value)]; twice {
				v.t.Errorf("record %.10q stands at %d and at %d", r.Value, at, r.Offset)
			}
			got[r.Offset], seen[string(r.Value)] = string(r.Value), r.Offset
			next = r.Offset + 1
		})
	}
	for at, want := range acked {
		if at >= start.Offset && got[at] != want {
			v.t.Errorf("offset %d was acknowledged for %.10q and holds %.10q", at, want, got[at])
		}
	}
}

// worksWhileFull is all that a full volume must not stop.
func (v *volume) worksWhileFull(topic string, l *load, round int) {
	v.t.Helper()
	adm := kadm.NewClient(v.client())
	v.check(topic, l)
	for i := range 50 {
		var at kadm.Offsets
		at.AddOffset(topic, 0, int64(i+1), -1)
		must(v.t, adm.CommitAllOffsets(v.ctx, "readers", at))
	}
	committed, err := adm.FetchOffsets(v.ctx, "readers")
	must(v.t, err)
	if o, _ := committed.Lookup(topic, 0); o.At != 50 {
		v.t.Errorf("committed offset 50 is %d", o.At)
	}
	name := fmt.Sprintf("made-while-full-%d", round)
	_, err = adm.CreateTopic(v.ctx, 3, 1, nil, name)
	must(v.t, err)
	_, err = adm.DeleteTopic(v.ctx, name)
	must(v.t, err)
}

func fullDisk(t *testing.T, v *volume) {
	adm := kadm.NewClient(v.client())
	segments := map[string]*string{"segment.bytes": kadm.StringPtr("2097152")}
	for _, topic := range []string{"full", "large"} {
		_, err := adm.CreateTopic(v.ctx, 1, 1, segments, topic)
		must(t, err)
	}
	total := v.free()
	large := v.produceTo("large")
	eventually(t, v.ctx, "a part is used", func() bool { return v.free() < total*3/4 })
	large.end(t)

	// Once by producers.
	l := v.produceTo("full")
	isFull := func() bool {
		_, s := ready(t, v.http())
		return slices.ContainsFunc(s.Reasons, func(r string) bool { return strings.Contains(r, "is full since") })
	}
	eventually(t, v.ctx, "/ready says that the volume is full", isFull)
	stuck := l.count()
	v.took["free bytes when producers fill it"] = v.free()
	v.took["records before that"] = int64(stuck)
	if code, s := ready(t, v.http()); code != 503 || s.Ready {
		t.Errorf("/ready: %d %+v", code, s)
	}
	if m := metric(t, v.http(), "moldau_log_dir_full{"); m != "1" {
		t.Errorf("moldau_log_dir_full is %q", m)
	}
	v.worksWhileFull("full", l, 1)
	stuck = l.count()
	begun := time.Now()
	_, err := adm.DeleteTopic(v.ctx, "large")
	must(t, err)
	eventually(t, v.ctx, "producers go on after a topic was deleted", func() bool { return l.count() > stuck })
	v.took["ms from a topic's delete to the next acknowledgement"] = time.Since(begun).Milliseconds()
	eventually(t, v.ctx, "it is full again", isFull)

	// Once by another program, to the last byte, several times: what was given up goes as well.
	var low int64
	for range 3 {
		v.fill(math.MaxInt64)
		low = v.free()
		time.Sleep(300 * time.Millisecond) // the reserve is given up meanwhile, and must not help
	}
	v.took["free bytes when another program fills it"] = low
	_, s := ready(t, v.http())
	t.Logf("/ready with a foreign file: %v, warnings %v", s.Reasons, s.Warnings)
	if !v.alive() {
		t.Fatal("the broker has ended")
	}
	v.unfill()
	given := func() bool {
		_, s := ready(t, v.http())
		return slices.ContainsFunc(s.Warnings, func(w string) bool { return strings.Contains(w, "was given up") })
	}
	eventually(t, v.ctx, "the reserve is made again", func() bool { return !given() })
	v.fill(v.free()) // now there is the reserve to live on; it may be given up already while the other program writes
	eventually(t, v.ctx, "the reserve is given up", given)
	v.worksWhileFull("full", l, 2)
	v.restart()
	v.worksWhileFull("full", l, 3)
	end, err := adm.ListEndOffsets(v.ctx, "full")
	must(t, err)
	at, _ := end.Lookup("full", 0)
	var keep kadm.Offsets
	keep.AddOffset("full", 0, at.Offset/2, -1)
	deleted, err := adm.DeleteRecords(v.ctx, keep)
	must(t, err)
	must(t, deleted.Error())
	stuck = l.count()
	begun = time.Now()
	v.unfill()
	eventually(t, v.ctx, "producers go on after the other program's file is gone", func() bool { return l.count() > stuck })
	v.took["ms from the other program's remove to the next acknowledgement"] = time.Since(begun).Milliseconds()
	l.end(t)
	v.check("full", l)
	if !v.alive() {
		t.Fatal("the broker has ended")
	}
	v.restart()
	v.check("full", l)
	v.took["records acknowledged"] = int64(l.count())
	for what, n := range v.took {
		t.Logf("%s: %d", what, n)
	}
}

// TestDiskFails: after a failed write nothing more is acknowledged, /ready says why, reading goes on, and so does the metadata; what was
// acknowledged is there when the disk is well again.
func TestDiskFails(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dir := t.TempDir()
	logDir := filepath.ToSlash(filepath.Join(dir, "log"))
	var bad atomic.Bool
	b := startInProcess(t, vfs.NewFault(vfs.OS(), func(op vfs.Op) error {
		if bad.Load() && strings.HasPrefix(filepath.ToSlash(op.Name), logDir) && (op.Kind == vfs.OpWrite || op.Kind == vfs.OpSync) {
			return syscall.EIO
		}
		return nil
	}), dir, "127.0.0.1:0")
	addr := b.Addrs()[0].String()
	v := &volume{t: t, ctx: ctx, addr: func() string { return addr }}
	adm := kadm.NewClient(v.client())
	_, err := adm.CreateTopic(ctx, 1, 1, nil, "t")
	must(t, err)
	l := v.produceTo("t")
	eventually(t, ctx, "records were acknowledged", func() bool { return l.count() > 20 })
	l.end(t)
	bad.Store(true)
	c := v.client(kgo.DefaultProduceTopic("t"), kgo.RecordRetries(1), kgo.DisableIdempotentWrite())
	if err := c.ProduceSync(ctx, kgo.StringRecord("lost")).FirstErr(); !errors.Is(err, kerr.KafkaStorageError) {
		t.Errorf("produce to a disk that fails: %v", err)
	}
	code, s := ready(t, b.HTTPAddrs()[0].String())
	if code != 503 || len(s.Reasons) != 1 || !strings.Contains(s.Reasons[0], logDir+": the log dir is offline") || !strings.Contains(s.Reasons[0], "input/output error") {
		t.Errorf("/ready: %d %+v", code, s)
	}
	v.check("t", l)
	_, err = adm.CreateTopic(ctx, 1, 1, nil, "another")
	must(t, err)
	bad.Store(false) // it stays offline: what a failed write has left is not known
	if err := c.ProduceSync(ctx, kgo.StringRecord("lost too")).FirstErr(); !errors.Is(err, kerr.KafkaStorageError) {
		t.Errorf("produce after the disk came back: %v", err)
	}
	must(t, b.Close(ctx))
	b = startInProcess(t, vfs.OS(), dir, "127.0.0.1:0")
	addr = b.Addrs()[0].String()
	v.check("t", l)
	c = v.client(kgo.DefaultProduceTopic("t"))
	must(t, c.ProduceSync(ctx, kgo.StringRecord("goes on")).FirstErr())
	must(t, b.Close(ctx))
}
