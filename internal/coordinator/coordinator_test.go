package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"moldau/internal/config"
	"moldau/internal/coordinator/shard"
	"moldau/internal/metadata"
	"moldau/internal/partition"
	"moldau/internal/record"
	"moldau/internal/storage"
	"moldau/internal/vfs"
	"moldau/internal/wire"
	"moldau/test/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// store is a core that keeps values by key. Its soft state is who is parked, and an alarm.
type store struct {
	values map[string]string
	parked []shard.Ticket
	alarm  int64 // MonoMs
	ticks  int
	broken *atomic.Bool // Replay fails
}

func (s *store) Replay(r shard.Record) error {
	if s.broken.Load() {
		return errors.New("a record that this core does not understand")
	}
	if r.Value == nil {
		delete(s.values, string(r.Key))
	} else {
		s.values[string(r.Key)] = string(r.Value)
	}
	return nil
}

func (s *store) Loaded(shard.Time) shard.Effects {
	return shard.Effects{}
}

func (s *store) Deadline() int64 { return s.alarm }

func (s *store) Tick(now shard.Time) shard.Effects {
	s.alarm = math.MaxInt64
	s.ticks++
	return shard.Effects{Records: []shard.Record{{Key: []byte("alarm"), Value: []byte("rang")}}, Replies: s.release("rang")}
}

func (s *store) Failed(now shard.Time, e shard.Effects, why wire.Code) shard.Effects {
	var out shard.Effects
	if string(e.Records[0].Key) == "alarm" {
		s.alarm = now.MonoMs // what was due is due
	}
	for _, r := range e.Replies {
		out.Replies = append(out.Replies, shard.Reply{Ticket: r.Ticket, Response: why})
	}
	return out
}

func (s *store) release(response any) (out []shard.Reply) {
	for _, t := range s.parked {
		out = append(out, shard.Reply{Ticket: t, Response: response})
	}
	s.parked = nil
	return out
}

func put(key, value string) Event[*store] {
	return func(_ *store, _ shard.Time, t shard.Ticket) shard.Effects {
		return shard.Effects{Records: []shard.Record{{Key: []byte(key), Value: []byte(value)}}, Replies: []shard.Reply{{Ticket: t, Response: "ok"}}}
	}
}

func get(key string, early bool) Event[*store] {
	return func(s *store, _ shard.Time, t shard.Ticket) shard.Effects {
		return shard.Effects{Replies: []shard.Reply{{Ticket: t, Response: s.values[key], Early: early}}}
	}
}

// park waits for the alarm, in that many milliseconds.
func park(ms int64) Event[*store] {
	return func(s *store, now shard.Time, t shard.Ticket) shard.Effects {
		s.parked = append(s.parked, t)
		if ms > 0 {
			s.alarm = now.MonoMs + ms
		}
		return shard.Effects{}
	}
}

// disk is an in-memory file system whose syncs of segments can be held up, and whose writes can fail.
type disk struct {
	fs       vfs.FS
	held     atomic.Bool
	noSpace  atomic.Bool
	syncFail atomic.Bool
}

func newDisk(t testing.TB) *disk {
	d := &disk{}
	d.fs = vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		if !strings.HasSuffix(op.Name, ".log") {
			return nil
		}
		switch op.Kind {
		case vfs.OpSync:
			for d.held.Load() {
				time.Sleep(50 * time.Microsecond)
			}
			if d.syncFail.Load() {
				return errors.New("input/output error")
			}
		case vfs.OpWrite:
			if d.noSpace.Load() {
				return syscall.ENOSPC
			}
		}
		return nil
	})
	t.Cleanup(func() { d.held.Store(false) })
	return d
}

const (
	self  = 1
	topic = "__store"
)

var topicID = wire.UUID{7}

// node is a broker with an internal topic of four partitions and a Runtime over it.
type node struct {
	t      testing.TB
	disk   *disk
	dir    *storage.Dir
	parts  *partition.Manager
	rt     *Runtime[*store]
	seq    int64
	broken atomic.Bool
	reg    *prometheus.Registry
}

const partitions = 4

// start opens the node on a disk, which may be that of one before, leading under an epoch.
func start(t testing.TB, d *disk, epoch int32, sets ...string) *node {
	t.Helper()
	n := &node{t: t, disk: d, reg: prometheus.NewRegistry()}
	c, _, err := config.Load(config.Sources{Sets: append([]string{"node.id=1"}, sets...)})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if n.dir, err = storage.OpenDir(storage.Options{FS: d.fs, Path: "/log", MetaDir: "/meta", Log: log}); err != nil {
		t.Fatal(err)
	}
	n.parts = partition.NewManager(partition.Options{Self: self, Dirs: storage.OneDir(n.dir), Config: c, Log: log})
	n.rt = New(Options[*store]{
		Topic: topic, Self: self, Partitions: n.parts, Log: log, Registerer: n.reg,
		New: func() *store {
			return &store{values: map[string]string{}, alarm: math.MaxInt64, broken: &n.broken}
		},
		Code: func(err error) wire.Code {
			if errors.Is(err, storage.ErrNoSpace) {
				return wire.KafkaStorageError
			}
			return wire.UnknownServerError
		},
		CommitTimeout: time.Minute, LoadBuffer: 1 << 20, KeptBuffer: 1 << 20,
	})
	t.Cleanup(n.stop)
	n.lead(self, epoch)
	return n
}

func (n *node) stop() {
	if n.dir == nil {
		return
	}
	n.disk.held.Store(false)
	n.rt.Close()
	n.parts.Close()
	_ = n.dir.Close() // a dir that was fenced says so
	n.dir = nil
}

// lead applies an image in which all partitions have a leader under an epoch, as the broker does.
func (n *node) lead(leader, epoch int32) {
	n.t.Helper()
	im := n.image(leader, epoch)
	n.rt.Retire(im)
	n.parts.Apply(im)
	n.rt.Adopt(im)
}

func (n *node) image(leader, epoch int32) *metadata.Image {
	n.t.Helper()
	n.seq++
	ps := make([]metadata.Partition, partitions)
	for i := range ps {
		ps[i] = metadata.Partition{Replicas: []int32{self, 2}, ISR: []int32{leader}, Leader: leader, LeaderEpoch: epoch,
			PartitionEpoch: epoch, MinISR: 1, FlushMessages: 1, FlushMs: math.MaxInt64}
	}
	im, err := metadata.FromSnapshot([]metadata.Change{
		{Key: metadata.HeadKey, Value: metadata.EncodeHead(metadata.Head{Seq: n.seq})},
		{Key: metadata.TopicKey(topicID), Value: metadata.EncodeTopic(topic, partitions)},
		{Key: metadata.StaticKey(topicID, 0), Value: metadata.EncodeStatic(ps)},
		{Key: metadata.DynamicKey(topicID, 0), Value: metadata.EncodeDynamic(ps)},
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return im
}

// at is the shard of a key, nil if there is none.
func (r *Runtime[C]) at(key string) *runner[C] {
	s, _ := r.find(key)
	return s
}

func (n *node) state(key string) state { return n.rt.at(key).state.Load() }

func (n *node) waiting(key string) int {
	s := n.rt.at(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mu.waiting)
}

func (n *node) partitionOf(key string) *partition.Partition {
	n.t.Helper()
	p, err := n.parts.Lookup(topic, wire.UUID{}, PartitionOf(key, partitions))
	if err != nil {
		n.t.Fatal(err)
	}
	return p
}

// do runs an event until the shard is loaded.
func (n *node) do(key string, e Event[*store]) any {
	n.t.Helper()
	for {
		got, err := n.rt.Do(n.t.Context(), key, e)
		if err == nil {
			return got
		}
		if !errors.Is(err, ErrLoading) {
			n.t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

func (n *node) expect(key, want string) {
	n.t.Helper()
	if got := n.do(key, get(key, false)); got != want {
		n.t.Fatalf("%s is %q, expected %q", key, got, want)
	}
}

// later runs an event elsewhere and gives its outcome.
func (n *node) later(key string, e Event[*store]) <-chan outcome {
	c := make(chan outcome, 1)
	ctx := n.t.Context()
	go func() {
		got, err := n.rt.Do(ctx, key, e)
		c <- outcome{got, err}
	}()
	return c
}

type outcome struct {
	got any
	err error
}

// unanswered fails if an event is answered without a wait: who asks is gone already, so that whatever has to wait ends at once.
func (n *node) unanswered(what, key string, e Event[*store]) {
	n.t.Helper()
	gone, cancel := context.WithCancel(n.t.Context())
	cancel()
	if got, err := n.rt.Do(gone, key, e); !errors.Is(err, context.Canceled) {
		n.t.Fatalf("%s: answered %v, %v", what, got, err)
	}
}

// until waits for a condition that must come true; a test's own timeout bounds it.
func until(ok func() bool) {
	for !ok() {
		time.Sleep(100 * time.Microsecond)
	}
}

func TestStateSurvivesAndIsServedUnderTheNextEpoch(t *testing.T) {
	d := newDisk(t)
	n := start(t, d, 1)
	var keys []string
	for i := range 40 {
		keys = append(keys, fmt.Sprintf("key-%d", i))
		n.do(keys[i], put(keys[i], "first"))
		n.do(keys[i], put(keys[i], fmt.Sprint("value-", i)))
	}
	n.lead(self, 2) // led anew: everything is loaded again
	for i, key := range keys {
		n.expect(key, fmt.Sprint("value-", i))
	}
	n.stop()
	n = start(t, d, 3)
	for i, key := range keys {
		n.expect(key, fmt.Sprint("value-", i))
	}
	for i := range int32(partitions) {
		p, err := n.parts.Lookup(topic, wire.UUID{}, i)
		if err != nil {
			t.Fatal(err)
		}
		if p.LogEnd() == 0 {
			t.Errorf("no key went to partition %d", i)
		}
	}
}

// TestReplyWaitsForTheHighWatermark is CR4: neither the reply to a write nor one that shows it leaves before
// the write is committed; what shows nothing leaves at once.
func TestReplyWaitsForTheHighWatermark(t *testing.T) {
	d := newDisk(t)
	n := start(t, d, 1)
	n.do("k", put("k", "old"))
	d.held.Store(true)
	n.unanswered("a write that is not flushed", "k", put("k", "newer"))
	n.unanswered("a read of a write that is not flushed", "k", get("k", false))
	p := n.partitionOf("k")
	end := p.LogEnd()
	wrote := n.later("k", put("k", "new"))
	until(func() bool { return p.LogEnd() > end })
	read := n.later("k", get("k", false))
	if got, err := n.rt.Do(t.Context(), "k", get("other", true)); err != nil || got != "" {
		t.Fatalf("an early reply: %v, %v", got, err)
	}
	d.held.Store(false)
	if o := <-wrote; o.err != nil || o.got != "ok" {
		t.Errorf("write: %+v", o)
	}
	if o := <-read; o.err != nil || o.got != "new" {
		t.Errorf("read: %+v", o)
	}
}

// TestParkedReplyWaitsForTheEventThatAnswersIt: the reply comes by a tick, whose record is not flushed yet.
func TestParkedReplyWaitsForTheEventThatAnswersIt(t *testing.T) {
	d := newDisk(t)
	n := start(t, d, 1)
	n.do("k", put("k", "v"))
	d.held.Store(true)
	parked := n.later("k", park(1))
	for n.do("k", func(s *store, _ shard.Time, t shard.Ticket) shard.Effects {
		return shard.Effects{Replies: []shard.Reply{{Ticket: t, Response: s.values["alarm"], Early: true}}}
	}) != "rang" {
		time.Sleep(100 * time.Microsecond)
	}
	select {
	case o := <-parked:
		t.Fatalf("a parked request whose answer rests on a record that is not flushed: %+v", o)
	case <-time.After(5 * time.Millisecond):
	}
	d.held.Store(false)
	if o := <-parked; o.err != nil || o.got != "rang" {
		t.Errorf("%+v", o)
	}
}

// TestWhoWaitsAtALostShardIsToldAtOnce is CR6: parked at the core, or for the high watermark.
func TestWhoWaitsAtALostShardIsToldAtOnce(t *testing.T) {
	d := newDisk(t)
	n := start(t, d, 1)
	n.do("k", put("k", "v"))
	d.held.Store(true)
	end := n.partitionOf("k").LogEnd()
	parked := n.later("k", park(0))
	wrote := n.later("k", put("k", "w"))
	until(func() bool { return n.waiting("k") == 1 && n.partitionOf("k").LogEnd() > end })
	n.lead(2, 2)
	for what, c := range map[string]<-chan outcome{"parked": parked, "wrote": wrote} {
		if o := <-c; !errors.Is(o.err, ErrNotCoordinator) {
			t.Errorf("%s: %v, %v", what, o.got, o.err)
		}
	}
	if _, err := n.rt.Do(t.Context(), "k", get("k", true)); !errors.Is(err, ErrNotCoordinator) {
		t.Errorf("a request after the loss: %v", err)
	}
	d.held.Store(false)
	n.lead(self, 3)
	n.expect("k", "w") // its outcome was the log's to decide
}

// TestAnAppendUnderAnEpochThatHasPassedClosesTheShard is CR2, where Retire was not in time.
func TestAnAppendUnderAnEpochThatHasPassedClosesTheShard(t *testing.T) {
	n := start(t, newDisk(t), 1)
	n.do("k", put("k", "v"))
	parked := n.later("k", park(0))
	for n.state("k") != stateActive || n.waiting("k") != 1 {
		time.Sleep(100 * time.Microsecond)
	}
	n.parts.Apply(n.image(self, 2))
	p := n.partitionOf("k")
	end := p.LogEnd()
	if _, err := n.rt.Do(t.Context(), "k", put("k", "stale")); !errors.Is(err, ErrNotCoordinator) {
		t.Errorf("a write under the old epoch: %v", err)
	}
	if o := <-parked; !errors.Is(o.err, ErrNotCoordinator) {
		t.Errorf("parked: %+v", o)
	}
	if p.LogEnd() != end {
		t.Error("something was appended under the old epoch")
	}
	im := n.image(self, 2)
	n.rt.Retire(im)
	n.rt.Adopt(im)
	n.expect("k", "v")
}

// TestFailedAppendTakesBack is C5: nothing was written, the core says so, and goes on when there is room.
func TestFailedAppendTakesBack(t *testing.T) {
	d := newDisk(t)
	n := start(t, d, 1)
	n.do("k", put("k", "old"))
	d.noSpace.Store(true)
	if got := n.do("k", put("k", "new")); got != wire.KafkaStorageError {
		t.Errorf("a write on a full disk: %v", got)
	}
	n.expect("k", "old")
	begun := time.Now()
	if o := <-n.later("k", park(1)); o.got != wire.KafkaStorageError {
		t.Errorf("parked until a tick that cannot write: %+v", o)
	}
	time.Sleep(20 * time.Millisecond)
	ticks := n.do("k", func(s *store, _ shard.Time, t shard.Ticket) shard.Effects {
		return shard.Effects{Replies: []shard.Reply{{Ticket: t, Response: s.ticks}}}
	}).(int)
	if most := 2 + int(time.Since(begun)/pauseAfterFailure); ticks > most {
		t.Errorf("the clock was busy: %d ticks, at most %d were to come", ticks, most)
	}
	d.noSpace.Store(false)
	n.do("k", put("k", "new"))
	n.expect("k", "new")
	n.lead(self, 2)
	n.expect("k", "new")
}

// TestTooLargeIsRefused is CR7: what cannot be one batch is not written at all.
func TestTooLargeIsRefused(t *testing.T) {
	n := start(t, newDisk(t), 1, "message.max.bytes=1000")
	if got := n.do("k", put("k", strings.Repeat("x", 2000))); got != wire.UnknownServerError {
		t.Errorf("got %v", got)
	}
	n.do("k", put("k", "small"))
	n.expect("k", "small")
}

// TestFencedDir: after a failed sync nothing is acknowledged, and nobody waits.
func TestFencedDir(t *testing.T) {
	d := newDisk(t)
	n := start(t, d, 1)
	n.do("k", put("k", "v"))
	d.syncFail.Store(true)
	if got, err := n.rt.Do(t.Context(), "k", put("k", "w")); !partition.IsOffline(err) {
		t.Errorf("a write whose sync fails: %v, %v", got, err)
	}
	if got, err := n.rt.Do(t.Context(), "k", get("k", false)); !partition.IsOffline(err) {
		t.Errorf("a read of it: %v, %v", got, err)
	}
	if got, err := n.rt.Do(t.Context(), "k", put("k", "x")); got != wire.UnknownServerError && !partition.IsOffline(err) {
		t.Errorf("a write afterwards: %v, %v", got, err)
	}
}

// TestUnexpectedOffsetLoadsAgain is CR5: somebody else wrote to the log.
func TestUnexpectedOffsetLoadsAgain(t *testing.T) {
	n := start(t, newDisk(t), 1)
	n.do("k", put("k", "v"))
	b := record.NewBuilder(record.None)
	b.Add(1, []byte("k"), []byte("foreign"))
	batch, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.partitionOf("k").AppendOwned(batch, 1, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := n.rt.Do(t.Context(), "other", put("k", "w")); n.rt.at("other") == n.rt.at("k") && err == nil {
		t.Error("a write behind a foreign record was answered")
	}
	if _, err := n.rt.Do(t.Context(), "k", put("k", "w")); !errors.Is(err, ErrNotCoordinator) {
		t.Errorf("a write behind a foreign record: %v", err)
	}
	for n.state("k") != stateActive {
		time.Sleep(time.Millisecond)
	}
	n.expect("k", "w") // it was written behind the foreign one
}

// TestALogThatIsNotUnderstoodIsTriedAgain: the shard fails, says so, and loads when it can.
func TestALogThatIsNotUnderstoodIsTriedAgain(t *testing.T) {
	n := start(t, newDisk(t), 1)
	n.do("k", put("k", "v"))
	n.broken.Store(true)
	n.lead(self, 2)
	for n.state("k") != stateFailed {
		time.Sleep(time.Millisecond)
	}
	if _, err := n.rt.Do(t.Context(), "k", get("k", true)); err == nil || !strings.Contains(err.Error(), "does not understand") && !errors.Is(err, ErrLoading) {
		t.Errorf("a request at a failed shard: %v", err)
	}
	n.broken.Store(false)
	for n.state("k") != stateActive {
		time.Sleep(time.Millisecond)
	}
	n.expect("k", "v")
}

// TestEmptyShardsServeAtOnce: a new topic costs no load.
func TestEmptyShardsServeAtOnce(t *testing.T) {
	n := start(t, newDisk(t), 1)
	for i := range 20 {
		if _, err := n.rt.Do(t.Context(), fmt.Sprint(i), get("k", true)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestServesOnlyWhatIsCommitted: the log was loaded to an end that the high watermark has not reached.
func TestServesOnlyWhatIsCommitted(t *testing.T) {
	d := newDisk(t)
	n := start(t, d, 1)
	n.do("k", put("k", "v"))
	d.held.Store(true)
	wrote := n.later("k", put("k", "w"))
	for n.partitionOf("k").LogEnd() < 2 {
		time.Sleep(100 * time.Microsecond)
	}
	n.lead(self, 2)
	<-wrote
	until(func() bool { return n.state("k") != stateQueued && n.state("k") != stateLoading })
	if _, err := n.rt.Do(t.Context(), "k", get("k", true)); !errors.Is(err, ErrLoading) {
		t.Errorf("a request while settling: %v", err)
	}
	for range 2 { // when it takes up the second signal, the clock has looked since the first
		n.rt.clock.signal()
		until(func() bool { return len(n.rt.clock.wake) == 0 })
	}
	n.rt.clock.mu.Lock()
	if left := len(n.rt.clock.mu.settling); left != 1 {
		t.Errorf("the clock waits for %d shards to be committed, want 1", left)
	}
	n.rt.clock.mu.Unlock()
	d.held.Store(false)
	n.expect("k", "w")
}

func TestTimersRing(t *testing.T) {
	n := start(t, newDisk(t), 1)
	n.do("k", put("k", "v"))
	begun := time.Now() // deadlines count in whole milliseconds, so one may be missing
	late, soon := n.later("a", park(30)), n.later("b", park(10))
	if o := <-soon; o.got != "rang" || time.Since(begun) < 9*time.Millisecond {
		t.Errorf("%+v after %v", o, time.Since(begun))
	}
	if o := <-late; o.got != "rang" || time.Since(begun) < 29*time.Millisecond {
		t.Errorf("%+v after %v", o, time.Since(begun))
	}
}

// TestAClientThatLeavesIsForgotten: its reply goes nowhere and harms nobody.
func TestAClientThatLeavesIsForgotten(t *testing.T) {
	n := start(t, newDisk(t), 1)
	n.do("k", put("k", "v"))
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := n.rt.Do(ctx, "k", park(0))
		left <- err
	}()
	for n.waiting("k") != 1 {
		time.Sleep(100 * time.Microsecond)
	}
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if w := n.waiting("k"); w != 0 {
		t.Errorf("%d requests wait", w)
	}
	n.do("k", func(s *store, _ shard.Time, t shard.Ticket) shard.Effects {
		return shard.Effects{Replies: append(s.release("too late"), shard.Reply{Ticket: t, Response: "ok"}, shard.Reply{Ticket: t, Response: "twice"})}
	})
}

// TestEverybodyIsAsked: DoAll has a reply of each shard, Tell reaches also those that do not serve yet.
func TestEverybodyIsAsked(t *testing.T) {
	n := start(t, newDisk(t), 1)
	for i := range 20 {
		n.do(fmt.Sprint(i), put(fmt.Sprint("k", i), "v"))
	}
	n.lead(self, 2)
	n.rt.Tell(func(s *store, _ shard.Time) shard.Effects {
		return shard.Effects{Records: []shard.Record{{Key: []byte("told"), Value: []byte("yes")}}}
	})
	for i := range 20 {
		n.do(fmt.Sprint(i), get("k", true))
	}
	replies, err := n.rt.DoAll(t.Context(), get("told", false))
	if err != nil || len(replies) != partitions {
		t.Fatalf("%v, %v", replies, err)
	}
	for _, r := range replies {
		if r != "yes" {
			t.Errorf("a shard was not told: %v", r)
		}
	}
}

// TestCloseEndsWaits, and what comes afterwards is refused.
func TestCloseEndsWaits(t *testing.T) {
	n := start(t, newDisk(t), 1)
	n.do("k", put("k", "v"))
	parked := n.later("k", park(0))
	for n.waiting("k") != 1 {
		time.Sleep(100 * time.Microsecond)
	}
	n.rt.Close()
	if o := <-parked; !errors.Is(o.err, ErrClosed) {
		t.Errorf("parked: %+v", o)
	}
	if _, err := n.rt.Do(t.Context(), "k", get("k", false)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := n.rt.DoAll(t.Context(), get("k", false)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	n.rt.Tell(nil)
	n.rt.Adopt(n.image(self, 9))
	n.rt.Close()
}

// TestManyClients runs with -race: events, epochs and timers at once; what was answered is there in the end.
func TestManyClients(t *testing.T) {
	n := start(t, newDisk(t), 1)
	var wg sync.WaitGroup
	var acked [8]string
	stop := make(chan struct{})
	for i := range acked {
		key := fmt.Sprint("client-", i)
		wg.Go(func() {
			for j := 0; ; j++ {
				select {
				case <-stop:
					return
				default:
				}
				value := fmt.Sprint(j)
				got, err := n.rt.Do(t.Context(), key, put(key, value))
				if err == nil && got == "ok" {
					acked[i] = value
				} else if err != nil {
					// Unknown: only a later answer says what is there.
					for {
						read, err := n.rt.Do(t.Context(), key, get(key, false))
						if err == nil {
							acked[i] = read.(string)
							break
						}
						time.Sleep(time.Millisecond)
					}
				}
				if j%10 == 0 {
					_, _ = n.rt.Do(t.Context(), key, park(1))
				}
			}
		})
	}
	for epoch := int32(2); epoch < 12; epoch++ {
		time.Sleep(5 * time.Millisecond)
		n.lead(self, epoch)
	}
	close(stop)
	wg.Wait()
	for i, want := range acked {
		n.expect(fmt.Sprint("client-", i), want)
	}
}

// TestPartitionOf has the values of Java: Utils.abs(key.hashCode()) % n.
func TestPartitionOf(t *testing.T) {
	for key, want := range map[string]int32{
		"":                       0,
		"a":                      97 % 50,
		"console-consumer-12345": javaHash("console-consumer-12345"),
		"grüße":                  javaHash("grüße"),
		"\U0001F600":             (31*0xD83D + 0xDE00) % 50,
		"polygenelubricants":     0, // its hash is Integer.MIN_VALUE
	} {
		if got := PartitionOf(key, 50); got != want {
			t.Errorf("%q belongs to partition %d, expected %d", key, got, want)
		}
	}
}

// javaHash is the definition in 64 bits, for text of the basic plane.
func javaHash(s string) int32 {
	var h int64
	for _, c := range s {
		h = (31*h + int64(c)) % (1 << 32)
	}
	h = int64(int32(uint32(h)))
	return int32(max(h, -h) % 50)
}

// BenchmarkWrite is a request that writes one record, on a disk in memory.
func BenchmarkWrite(b *testing.B) {
	n := start(b, newDisk(b), 1)
	e := put("k", "v")
	n.do("k", e)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := n.rt.Do(b.Context(), "k", e); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoad is a load of a hundred thousand records.
func BenchmarkLoad(b *testing.B) {
	n := start(b, newDisk(b), 1)
	for i := range 1000 {
		n.do("k", func(_ *store, _ shard.Time, t shard.Ticket) shard.Effects {
			e := shard.Effects{Replies: []shard.Reply{{Ticket: t}}}
			for j := range 100 {
				e.Records = append(e.Records, shard.Record{Key: fmt.Appendf(nil, "key-%d", (i*100+j)%5000), Value: make([]byte, 60)})
			}
			return e
		})
	}
	epoch := int32(1)
	b.SetBytes(n.partitionOf("k").SizeBytes())
	for b.Loop() {
		epoch++
		n.lead(self, epoch)
		n.do("k", get("k", false))
	}
}
