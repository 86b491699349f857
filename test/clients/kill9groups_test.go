//go:build clients && linux

package clients

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	killGroup           = "kill9-groups"
	killGroupPartitions = 6
	killGroupMembers    = 4
)

// TestKill9Groups: the members of a group join, leave, crash and commit all the time while the broker is killed again and again.
// A committed offset that was acknowledged never goes back: neither for whoever asks for it nor for the next owner of the partition.
// No partition has two owners in one generation. In the end, with nobody leaving any more, everything is read and committed. KILLS is
// the number of kills (default 5), KILL_SEED makes the decisions of the test those of an earlier run.
func TestKill9Groups(t *testing.T) {
	const topic = "kill9-groups"
	kills := envInt(t, "KILLS", 5)
	seed := uint64(envInt(t, "KILL_SEED", time.Now().UnixNano()))
	t.Logf("KILL_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	b := startBroker(t)
	b.createTopic(topic, killGroupPartitions)

	ctx, cancel := context.WithCancel(context.Background())
	var producing, members, watching sync.WaitGroup
	defer func() { // also when the test has failed: nobody may work on after its end
		cancel()
		producing.Wait()
		members.Wait()
		watching.Wait()
	}()
	sending, stopSending := context.WithCancel(ctx)
	defer stopSending()
	producing.Go(func() { produceSlowly(sending, b, topic) })

	g := &groupLedger{committed: map[int32]int64{}, owner: map[ownership]string{}}
	changing, stopChanging := context.WithCancel(ctx)
	defer stopChanging()
	for i := range killGroupMembers {
		members.Go(func() { g.live(ctx, changing, b, topic, i, rand.New(rand.NewPCG(seed, uint64(i+2)))) })
	}
	watching.Go(func() { g.watch(ctx, b, topic) })

	for kill := range kills {
		g.waitForCommits(t, b, 30)
		time.Sleep(time.Duration(rnd.IntN(2000)) * time.Millisecond)
		b.mustRun()
		b.kill9()
		if rnd.IntN(4) == 0 {
			time.Sleep(time.Duration(rnd.IntN(500)) * time.Millisecond)
		}
		took := b.start()
		t.Logf("kill %d: answers after %v; %s", kill+1, took.Round(time.Millisecond), g)
	}
	g.waitForCommits(t, b, 30)
	stopSending()
	producing.Wait()
	stopChanging()
	ends := b.endOffsets(topic)
	for until := time.Now().Add(2 * time.Minute); !maps.Equal(g.commits(), ends); time.Sleep(20 * time.Millisecond) {
		must(t, g.failure())
		b.mustRun()
		if time.Now().After(until) {
			t.Fatalf("committed is %v, the ends are %v; %s\n%s", g.commits(), ends, g, b.logTail())
		}
	}
	must(t, g.failure())
	if asked := committedOffsets(t, b, killGroup, topic); !maps.Equal(asked, ends) {
		t.Errorf("the broker says that %v is committed, the ends are %v", asked, ends)
	}
	if err := g.skipped(ends); err != nil {
		t.Error(err)
	}
	if rebalances := g.rebalances.Load(); rebalances < kills {
		t.Errorf("only %d rebalances with %d kills: the test tests nothing", rebalances, kills)
	}
	t.Logf("%d kills, %s", kills, g)
}

// produceSlowly writes to all partitions until ctx ends.
func produceSlowly(ctx context.Context, b *broker, topic string) {
	c, err := kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.RecordRetries(1<<30), kgo.UnknownTopicRetries(-1), kgo.MaxBufferedRecords(1000), kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }))
	if err != nil {
		return
	}
	defer c.Close()
	for n := 0; ctx.Err() == nil; n++ {
		for p := range int32(killGroupPartitions) {
			c.Produce(context.WithoutCancel(ctx), &kgo.Record{Partition: p, Value: strconv.AppendInt(nil, int64(n), 10)}, nil)
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	_ = c.Flush(context.WithoutCancel(ctx))
}

type ownership struct {
	generation, partition int32
}

// groupLedger sees what all members of the group are told, which no single one of them does.
type groupLedger struct {
	joins, leaves, crashes, rebalances, commitCount, refused atomic.Int64

	mu        sync.Mutex // guards what follows
	committed map[int32]int64
	owner     map[ownership]string // the member id
	read      [killGroupPartitions]map[int64]bool
	err       error
}

func (g *groupLedger) String() string {
	return fmt.Sprintf("%d joins, %d leaves, %d crashes, %d assignments, %d commits, %d refused", g.joins.Load(), g.leaves.Load(), g.crashes.Load(),
		g.rebalances.Load(), g.commitCount.Load(), g.refused.Load())
}

func (g *groupLedger) fail(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = errors.Join(g.err, fmt.Errorf(format, args...))
}

func (g *groupLedger) failure() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *groupLedger) commits() map[int32]int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.committed)
}

// owns notes that a member owns partitions in a generation.
func (g *groupLedger) owns(member string, generation int32, partitions map[int32]bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := range partitions {
		at := ownership{generation, p}
		if other := g.owner[at]; other != "" && other != member {
			g.err = errors.Join(g.err, fmt.Errorf("partition %d is owned by %s and %s in generation %d", p, other, member, generation))
		}
		g.owner[at] = member
	}
}

// acknowledged notes a commit. The answers to two commits may be looked at in another order than they were given.
func (g *groupLedger) acknowledged(offsets map[int32]kgo.EpochOffset) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p, o := range offsets {
		g.committed[p] = max(g.committed[p], o.Offset)
	}
	g.commitCount.Add(1)
}

func (g *groupLedger) sees(p int32, offset int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.read[p] == nil {
		g.read[p] = map[int64]bool{}
	}
	g.read[p][offset] = true
}

// skipped demands that somebody has read each record.
func (g *groupLedger) skipped(ends map[int32]int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range slices.Sorted(maps.Keys(ends)) {
		for o := range ends[p] {
			if !g.read[p][o] {
				return fmt.Errorf("nobody has read partition %d offset %d, and the group has committed %d", p, o, g.committed[p])
			}
		}
	}
	return nil
}

// watch asks for the committed offsets all the time, as a stranger does.
func (g *groupLedger) watch(ctx context.Context, b *broker, topic string) {
	c, err := kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.RetryTimeout(5*time.Minute))
	if err != nil {
		g.fail("%v", err)
		return
	}
	defer c.Close()
	for ctx.Err() == nil {
		before := g.commits()
		got, err := kadm.NewClient(c).FetchOffsets(ctx, killGroup)
		if err == nil {
			g.asked(before, got[topic])
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// asked compares what was acknowledged with what the broker has said afterwards.
func (g *groupLedger) asked(before map[int32]int64, got map[int32]kadm.OffsetResponse) {
	for p, o := range before {
		if now, is := got[p]; !is || now.Err != nil || now.At < o {
			g.fail("partition %d: %d was acknowledged, then asking gives %+v", p, o, now)
		}
	}
}

// TestGroupLedger: the ledger of TestKill9Groups finds what it is there to find.
func TestGroupLedger(t *testing.T) {
	answer := func(at int64) map[int32]kadm.OffsetResponse {
		return map[int32]kadm.OffsetResponse{2: {Offset: kadm.Offset{Partition: 2, At: at}}}
	}
	for what, c := range map[string]struct {
		fault bool
		do    func(g *groupLedger)
	}{
		"one owner after the other": {false, func(g *groupLedger) {
			g.owns("a", 1, map[int32]bool{0: true, 1: true})
			g.owns("b", 2, map[int32]bool{0: true})
			g.owns("a", 2, map[int32]bool{1: true})
		}},
		"two owners":           {true, func(g *groupLedger) { g.owns("a", 7, map[int32]bool{0: true}); g.owns("b", 7, map[int32]bool{0: true}) }},
		"a commit that stays":  {false, func(g *groupLedger) { g.asked(map[int32]int64{2: 5}, answer(5)) }},
		"a commit behind":      {true, func(g *groupLedger) { g.asked(map[int32]int64{2: 5}, answer(4)) }},
		"a commit that is not": {true, func(g *groupLedger) { g.asked(map[int32]int64{1: 5}, answer(5)) }},
	} {
		g := &groupLedger{committed: map[int32]int64{}, owner: map[ownership]string{}}
		c.do(g)
		if (g.failure() != nil) != c.fault {
			t.Errorf("%s: %v", what, g.failure())
		}
	}
	g := &groupLedger{committed: map[int32]int64{0: 3}}
	g.sees(0, 0)
	g.sees(0, 2)
	if g.skipped(map[int32]int64{0: 3}) == nil {
		t.Error("a record that nobody has read is not missed")
	}
}

// waitForCommits waits until the group has committed n times more.
func (g *groupLedger) waitForCommits(t *testing.T, b *broker, n int64) {
	t.Helper()
	want := g.commitCount.Load() + n
	for until := time.Now().Add(3 * time.Minute); g.commitCount.Load() < want; time.Sleep(5 * time.Millisecond) {
		b.mustRun()
		must(t, g.failure())
		if time.Now().After(until) {
			t.Fatalf("the group does not commit any more: %s\n%s", g, b.logTail())
		}
	}
}

// live is one member after the other: each joins, reads and commits for a while, and leaves or crashes. When changing has ended one
// more stays until ctx ends.
func (g *groupLedger) live(ctx, changing context.Context, b *broker, topic string, slot int, rnd *rand.Rand) {
	for n := 0; ctx.Err() == nil; n++ {
		end, stop := context.WithCancel(ctx)
		timer := time.AfterFunc(time.Duration(1000+rnd.IntN(8000))*time.Millisecond, func() {
			if changing.Err() == nil {
				stop()
			}
		})
		g.oneLife(ctx, end, b, topic, fmt.Sprintf("m%d-%d", slot, n), rnd.IntN(5) == 0, rnd)
		timer.Stop()
		stop()
	}
}

// oneLife is a member from joining until end. One that crashes loses its connections first, so that nobody hears of it.
func (g *groupLedger) oneLife(ctx, end context.Context, b *broker, topic, name string, crash bool, rnd *rand.Rand) {
	line := &cutLine{conns: map[net.Conn]bool{}}
	var mu sync.Mutex // guards what follows
	mine := map[int32]bool{}
	floor := map[int32]int64{} // what was acknowledged when the partition was assigned, until the first record is read
	next := map[int32]int64{}
	gone := func(_ context.Context, _ *kgo.Client, of map[string][]int32) {
		mu.Lock()
		defer mu.Unlock()
		for _, p := range of[topic] {
			delete(mine, p)
			delete(floor, p)
			delete(next, p)
		}
	}
	balancer := kgo.CooperativeStickyBalancer()
	c, err := kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.ConsumerGroup(killGroup), kgo.ConsumeTopics(topic), kgo.ClientID(name), kgo.Dialer(line.dial),
		kgo.Balancers(balancer), kgo.SessionTimeout(6*time.Second), kgo.RebalanceTimeout(10*time.Second), kgo.HeartbeatInterval(200*time.Millisecond),
		kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.FetchMaxWait(50*time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }),
		kgo.OnPartitionsAssigned(func(_ context.Context, c *kgo.Client, of map[string][]int32) {
			member, generation := c.GroupMetadata()
			before := g.commits()
			mu.Lock()
			defer mu.Unlock()
			for _, p := range of[topic] {
				mine[p] = true
				floor[p] = before[p]
			}
			g.owns(member, generation, mine)
			g.rebalances.Add(1)
		}),
		kgo.OnPartitionsRevoked(gone), kgo.OnPartitionsLost(gone))
	if err != nil {
		g.fail("%v", err)
		return
	}
	g.joins.Add(1)
	for end.Err() == nil {
		fs := c.PollFetches(end)
		mu.Lock()
		fs.EachRecord(func(r *kgo.Record) {
			p := r.Partition
			if f, first := floor[p]; first {
				if r.Offset < f {
					g.fail("%s begins partition %d at %d, but %d was acknowledged before", name, p, r.Offset, f)
				}
				delete(floor, p)
			} else if want, is := next[p]; is && want != r.Offset {
				g.fail("%s reads partition %d at %d, %d is due", name, p, r.Offset, want)
			}
			next[p] = r.Offset + 1
			g.sees(p, r.Offset)
		})
		offsets := map[int32]kgo.EpochOffset{}
		for p, o := range next {
			offsets[p] = kgo.EpochOffset{Epoch: -1, Offset: o}
		}
		mu.Unlock()
		if len(offsets) > 0 && end.Err() == nil {
			g.commit(ctx, c, topic, offsets, rnd.IntN(2) == 0)
		}
		c.AllowRebalance()
	}
	if crash && ctx.Err() == nil {
		g.crashes.Add(1)
		line.cut()
	} else {
		g.leaves.Add(1)
	}
	c.AllowRebalance()
	c.Close()
}

// commit commits, and waits for the answer if it shall.
func (g *groupLedger) commit(ctx context.Context, c *kgo.Client, topic string, offsets map[int32]kgo.EpochOffset, wait bool) {
	done := make(chan struct{})
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	c.CommitOffsets(ctx, map[string]map[int32]kgo.EpochOffset{topic: offsets}, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		defer close(done)
		defer cancel()
		if err == nil {
			err = commitError(resp)
		}
		if err != nil { // not acknowledged: a rebalance, or the broker is down
			g.refused.Add(1)
			return
		}
		g.acknowledged(offsets)
	})
	if wait {
		<-done
	}
}

// cutLine is all connections of a client, and a way to end them at once.
type cutLine struct {
	mu    sync.Mutex // guards what follows
	conns map[net.Conn]bool
	isCut bool
}

func (l *cutLine) dial(ctx context.Context, network, host string) (net.Conn, error) {
	l.mu.Lock()
	isCut := l.isCut
	l.mu.Unlock()
	if isCut {
		return nil, net.ErrClosed
	}
	c, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, host)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[c] = true
	if l.isCut {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	return c, nil
}

func (l *cutLine) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.isCut = true
	for c := range l.conns {
		_ = c.Close()
	}
}
