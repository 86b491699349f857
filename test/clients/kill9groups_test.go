//go:build clients && linux

package clients

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/test/logtext"
)

const killGroupPartitions = 6

// TestKill9Groups: the members of a group join, leave, crash and commit all the time while the broker is killed again and again.
// A committed offset that was acknowledged never goes back: neither for whoever asks for it nor for the next owner of the partition.
// No partition has two owners in one generation or epoch, and who is not the newest owner commits nothing. In the end, with nobody
// leaving any more, everything is read and committed, and the group is stable. KILLS is the number of kills, KILL_SEED makes
// the decisions of the test those of an earlier run.
func TestKill9Groups(t *testing.T) { kill9Groups(t, "kill9-groups", 5, 4, 0, false) }

// TestKill9ConsumerGroups is TestKill9Groups for a group whose members speak the consumer protocol and the classic one, as each
// comes: so the group changes from one to the other and back, and what a kill interrupts is a reconciliation, a migration or a commit. Some are
// Kafka's own consumers. What the coordinator says of the group is looked at all the time: no partition has two owners there, and epochs
// are in order and never go back.
func TestKill9ConsumerGroups(t *testing.T) { kill9Groups(t, "kill9-mixed", 3, 3, 2, true) }

// kill9Groups kills so often if KILLS does not say otherwise, with so many members in this process, and so many of Kafka's own; where mixed each
// chooses its protocol.
func kill9Groups(t *testing.T, topic string, usual int64, members, javas int, mixed bool) {
	kills := envInt(t, "KILLS", usual)
	seed := uint64(envInt(t, "KILL_SEED", time.Now().UnixNano()))
	t.Logf("KILL_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	b := startBroker(t, "group.consumer.min.session.timeout.ms=6000", "group.consumer.session.timeout.ms=6000",
		"group.consumer.min.heartbeat.interval.ms=200", "group.consumer.heartbeat.interval.ms=200")
	b.createTopic(topic, killGroupPartitions)

	ctx, cancel := context.WithCancel(context.Background())
	var producing, living, watching sync.WaitGroup
	defer func() { // also when the test has failed: nobody may work on after its end
		cancel()
		producing.Wait()
		living.Wait()
		watching.Wait()
	}()
	sending, stopSending := context.WithCancel(ctx)
	defer stopSending()
	producing.Go(func() { produceSlowly(sending, b, topic) })

	g := newGroupLedger(topic)
	changing, stopChanging := context.WithCancel(ctx)
	defer stopChanging()
	for i := range members + javas {
		living.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(i+2)))
			g.live(ctx, changing, rnd, i < members, func(n int, end context.Context) {
				next := mixed && rnd.IntN(2) == 0
				if name := fmt.Sprintf("m%d-%d", i, n); i < members {
					g.oneLife(ctx, end, b, name, next, rnd)
				} else {
					g.javaLife(ctx, end, b, name, next, rnd)
				}
			})
		})
	}
	watching.Go(func() { g.watch(ctx, b) })

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
	for until := time.Now().Add(3 * time.Minute); mixed && (g.epochs.Load() == 0 || g.javaCommits.Load() == 0); time.Sleep(20 * time.Millisecond) {
		must(t, g.failure())
		if time.Now().After(until) {
			t.Fatalf("%d looks at a consumer group, %d commits of Java consumers: the test tests nothing", g.epochs.Load(), g.javaCommits.Load())
		}
	}
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
	g.awaitStable(t, b)
	must(t, g.failure())
	if asked := committedOffsets(t, b, topic, topic); !maps.Equal(asked, ends) {
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

// claim is the newest ownership of a partition that is known.
type claim struct {
	generation int32
	member     string
}

// groupLedger sees what all members of the group are told, which no single one of them does. The group has the name of its topic.
type groupLedger struct {
	topic string

	joins, leaves, crashes, rebalances, commitCount, refused atomic.Int64
	next, javaCommits, epochs                                atomic.Int64 // members of the consumer protocol; commits of Kafka's consumers; descriptions of a consumer group

	mu        sync.Mutex // guards what follows
	committed map[int32]int64
	owner     map[ownership]string // the member id
	newest    map[int32]claim
	epoch     int32 // of the group, as it was last described
	read      [killGroupPartitions]map[int64]bool
	err       error
}

func newGroupLedger(topic string) *groupLedger {
	return &groupLedger{topic: topic, committed: map[int32]int64{}, owner: map[ownership]string{}, newest: map[int32]claim{}}
}

func (g *groupLedger) String() string {
	g.mu.Lock()
	epoch := g.epoch
	g.mu.Unlock()
	return fmt.Sprintf("%d joins (%d by the consumer protocol), %d leaves, %d crashes, %d assignments, %d commits (%d by Java consumers), %d refused, group epoch %d in %d descriptions",
		g.joins.Load(), g.next.Load(), g.leaves.Load(), g.crashes.Load(), g.rebalances.Load(), g.commitCount.Load(), g.javaCommits.Load(), g.refused.Load(), epoch, g.epochs.Load())
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
		if generation > g.newest[p].generation {
			g.newest[p] = claim{generation, member}
		}
	}
}

// claims are the newest owners that are known.
func (g *groupLedger) claims() map[int32]claim {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.newest)
}

// accepted judges a commit that was acknowledged: before is what was known when it was sent, generation the newest that its member
// can have sent it in.
func (g *groupLedger) accepted(member string, generation int32, offsets map[int32]kgo.EpochOffset, before map[int32]claim) {
	for p := range offsets {
		if c := before[p]; c.member != member && c.generation > generation {
			g.fail("%s commits partition %d in generation %d, which %s had in %d before", member, p, generation, c.member, c.generation)
		}
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

// watch asks for the committed offsets and for the members all the time, as a stranger does.
func (g *groupLedger) watch(ctx context.Context, b *broker) {
	c, err := kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.RetryTimeout(5*time.Minute))
	if err != nil {
		g.fail("%v", err)
		return
	}
	defer c.Close()
	for ctx.Err() == nil {
		before := g.commits()
		got, err := kadm.NewClient(c).FetchOffsets(ctx, g.topic)
		if err == nil {
			g.asked(before, got[g.topic])
		}
		if d, err := describeConsumerGroup(ctx, c, g.topic); err == nil {
			g.described(d)
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// describeConsumerGroup asks for a group of the consumer protocol. One of the other kind is an error.
func describeConsumerGroup(ctx context.Context, c *kgo.Client, group string) (*kmsg.ConsumerGroupDescribeResponseGroup, error) {
	req := kmsg.NewPtrConsumerGroupDescribeRequest()
	req.Groups = []string{group}
	resp, err := req.RequestWith(ctx, c)
	if err != nil {
		return nil, err
	}
	if len(resp.Groups) != 1 {
		return nil, fmt.Errorf("%d groups are described", len(resp.Groups))
	}
	return &resp.Groups[0], kerr.ErrorForCode(resp.Groups[0].ErrorCode)
}

// described demands of what the coordinator says that each partition has one owner, and that epochs are in order.
func (g *groupLedger) described(d *kmsg.ConsumerGroupDescribeResponseGroup) {
	g.epochs.Add(1)
	g.mu.Lock()
	if d.Epoch < g.epoch {
		g.err = errors.Join(g.err, fmt.Errorf("the group's epoch is %d, and it was %d", d.Epoch, g.epoch))
	}
	g.epoch = d.Epoch
	g.mu.Unlock()
	if d.AssignmentEpoch > d.Epoch || len(d.Members) == 0 && d.AssignmentEpoch != d.Epoch {
		g.fail("the target's epoch is %d, the group's %d, with %d members", d.AssignmentEpoch, d.Epoch, len(d.Members))
	}
	owners := map[int32]string{}
	for i := range d.Members {
		m := &d.Members[i]
		if m.MemberEpoch > d.AssignmentEpoch {
			g.fail("%s is in epoch %d, the target in %d", m.MemberID, m.MemberEpoch, d.AssignmentEpoch)
		}
		for _, of := range m.Assignment.TopicPartitions {
			for _, p := range of.Partitions {
				if owners[p] != "" {
					g.fail("partition %d is assigned to %s and %s in epoch %d", p, owners[p], m.MemberID, d.Epoch)
				}
				owners[p] = m.MemberID
			}
		}
	}
}

// awaitStable waits until the group has come to rest.
func (g *groupLedger) awaitStable(t *testing.T, b *broker) {
	t.Helper()
	c := b.client()
	defer c.Close()
	for until := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		d, err := describeConsumerGroup(deadline(t, time.Minute), c, g.topic)
		state := "not described"
		if err == nil {
			state = d.State
		} else if old, oldErr := kadm.NewClient(c).DescribeGroups(deadline(t, time.Minute), g.topic); oldErr == nil {
			state = old[g.topic].State
		}
		if state == "Stable" {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("the group is %s (%v)\n%s", state, err, b.logTail())
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
	at := func(p int32) map[int32]kgo.EpochOffset { return map[int32]kgo.EpochOffset{p: {Offset: 1}} }
	group := func(epoch, target int32, members ...int32) *kmsg.ConsumerGroupDescribeResponseGroup {
		d := kmsg.NewConsumerGroupDescribeResponseGroup()
		d.Epoch, d.AssignmentEpoch = epoch, target
		for i, e := range members {
			d.Members = append(d.Members, kmsg.ConsumerGroupDescribeResponseGroupMember{MemberID: fmt.Sprint("m", i), MemberEpoch: e,
				Assignment: kmsg.Assignment{TopicPartitions: []kmsg.AssignmentTopicPartition{{Partitions: []int32{int32(i)}}}}})
		}
		return &d
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
		"a commit of the owner": {false, func(g *groupLedger) {
			g.owns("a", 3, map[int32]bool{0: true})
			g.accepted("a", 3, at(0), g.claims())
			g.accepted("b", 4, at(0), g.claims())
		}},
		"a commit of the owner before": {true, func(g *groupLedger) {
			g.owns("a", 3, map[int32]bool{0: true})
			g.owns("b", 4, map[int32]bool{0: true})
			g.accepted("a", 3, at(0), g.claims())
		}},
		"a description": {false, func(g *groupLedger) {
			g.described(group(5, 5, 4, 5))
			g.described(group(6, 5, 5))
			g.described(group(7, 7))
		}},
		"two owners in a description": {true, func(g *groupLedger) {
			d := group(5, 5, 5, 5)
			d.Members[1].Assignment = d.Members[0].Assignment
			g.described(d)
		}},
		"a group that goes back":       {true, func(g *groupLedger) { g.described(group(6, 6, 6)); g.described(group(5, 5, 5)) }},
		"a target before its group":    {true, func(g *groupLedger) { g.described(group(5, 6, 5)) }},
		"a member before its target":   {true, func(g *groupLedger) { g.described(group(6, 5, 6)) }},
		"an empty group with a target": {true, func(g *groupLedger) { g.described(group(6, 5)) }},
	} {
		g := newGroupLedger("")
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
// more stays until ctx ends. A short life is one to nine seconds, others are longer: Kafka's consumers take seconds to begin.
func (g *groupLedger) live(ctx, changing context.Context, rnd *rand.Rand, short bool, life func(n int, end context.Context)) {
	for n := 0; ctx.Err() == nil; n++ {
		end, stop := context.WithCancel(ctx)
		ms := 1000 + rnd.IntN(8000)
		if !short {
			ms = 8000 + rnd.IntN(30_000)
		}
		timer := time.AfterFunc(time.Duration(ms)*time.Millisecond, func() {
			if changing.Err() == nil {
				stop()
			}
		})
		life(n, end)
		timer.Stop()
		stop()
	}
}

// javaEvent is a line of Kafka's verifiable consumer.
type javaEvent struct {
	Name       string `json:"name"`
	Success    bool   `json:"success"`
	Partitions []struct {
		Partition int32 `json:"partition"`
		Count     int64 `json:"count"`
		Min       int64 `json:"minOffset"`
		Max       int64 `json:"maxOffset"`
	} `json:"partitions"`
	Offsets []struct {
		Partition int32 `json:"partition"`
		Offset    int64 `json:"offset"`
	} `json:"offsets"`
}

// javaLife is oneLife with Kafka's own consumer, which says what it reads and has committed. It commits after each poll.
func (g *groupLedger) javaLife(ctx, end context.Context, b *broker, name string, next bool, rnd *rand.Rand) {
	args := []string{"verifiable-consumer", "--bootstrap-server", b.addr, "--topic", g.topic, "--group-id", g.topic, "--reset-policy", "earliest"}
	if next {
		args = append(args, "--group-protocol", "consumer", "--group-remote-assignor", "uniform")
	} else {
		args = append(args, "--assignment-strategy", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor", "--session-timeout", "6000")
	}
	cmd := exec.Command(launcher(), args...)
	ownProcess(cmd)
	var complaints logtext.Text
	cmd.Stderr = &complaints
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		g.fail("%v", err)
		return
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		g.readJava(name, out)
	}()
	g.joined(next)
	select {
	case <-read:
		if ctx.Err() == nil {
			g.fail("%s ended by itself: %s", name, clip(complaints.String()))
		}
	case <-end.Done():
	}
	if rnd.IntN(2) == 0 || ctx.Err() != nil {
		g.crashes.Add(1)
		_ = cmd.Process.Kill()
	} else {
		g.leaves.Add(1)
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-read:
		case <-time.After(time.Minute): // it does not get away without a broker
			_ = cmd.Process.Kill()
		}
	}
	<-read
	_ = cmd.Wait()
}

// readJava checks what a consumer says until its end.
func (g *groupLedger) readJava(name string, out io.Reader) {
	floor, next := map[int32]int64{}, map[int32]int64{}
	for s := bufio.NewScanner(out); s.Scan(); {
		var e javaEvent
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			g.fail("%s says %s: %v", name, s.Bytes(), err)
			return
		}
		switch e.Name {
		case "partitions_assigned":
			g.rebalances.Add(1)
			before := g.commits()
			for _, p := range e.Partitions {
				floor[p.Partition] = before[p.Partition]
			}
		case "partitions_revoked", "partitions_lost":
			for _, p := range e.Partitions {
				delete(floor, p.Partition)
				delete(next, p.Partition)
			}
		case "records_consumed":
			for _, p := range e.Partitions {
				if p.Count != p.Max-p.Min+1 {
					g.fail("%s reads %d records of partition %d from %d to %d", name, p.Count, p.Partition, p.Min, p.Max)
				}
				g.reads(name, p.Partition, p.Min, floor, next)
				for o := p.Min; o <= p.Max; o++ {
					g.sees(p.Partition, o)
				}
				next[p.Partition] = p.Max + 1
			}
		case "offsets_committed":
			if !e.Success {
				g.refused.Add(1)
				continue
			}
			offsets := map[int32]kgo.EpochOffset{}
			for _, o := range e.Offsets {
				offsets[o.Partition] = kgo.EpochOffset{Offset: o.Offset}
			}
			g.javaCommits.Add(1)
			g.acknowledged(offsets)
		}
	}
}

// reads judges where a member goes on in a partition: the first time at floor or behind it, then where it stopped.
func (g *groupLedger) reads(name string, p int32, offset int64, floor, next map[int32]int64) {
	if f, first := floor[p]; first {
		if offset < f {
			g.fail("%s begins partition %d at %d, but %d was acknowledged before", name, p, offset, f)
		}
		delete(floor, p)
	} else if want, is := next[p]; is && want != offset {
		g.fail("%s reads partition %d at %d, %d is due", name, p, offset, want)
	}
}

func (g *groupLedger) joined(next bool) {
	g.joins.Add(1)
	if next {
		g.next.Add(1)
	}
}

// oneLife is a member from joining until end. One that crashes loses its connections first, so that nobody hears of it.
func (g *groupLedger) oneLife(ctx, end context.Context, b *broker, name string, serverSide bool, rnd *rand.Rand) {
	topic, crash := g.topic, rnd.IntN(5) == 0
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
	opts := []kgo.Opt{kgo.SeedBrokers(b.addr), kgo.ConsumerGroup(topic), kgo.ConsumeTopics(topic), kgo.ClientID(name), kgo.Dialer(line.dial),
		kgo.SessionTimeout(6 * time.Second), kgo.RebalanceTimeout(10 * time.Second), kgo.HeartbeatInterval(200 * time.Millisecond),
		kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.FetchMaxWait(50 * time.Millisecond), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
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
		kgo.OnPartitionsRevoked(gone), kgo.OnPartitionsLost(gone)}
	if serverSide {
		opts = append(opts, kgo.Balancers(kgo.StickyBalancer()), kgo.ServerSideBalancer())
	} else {
		opts = append(opts, kgo.Balancers(kgo.CooperativeStickyBalancer()))
	}
	c, err := kgo.NewClient(opts...)
	if err != nil {
		g.fail("%v", err)
		return
	}
	g.joined(serverSide)
	for end.Err() == nil {
		fs := c.PollFetches(end)
		mu.Lock()
		fs.EachRecord(func(r *kgo.Record) {
			p := r.Partition
			g.reads(name, p, r.Offset, floor, next)
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
	before := g.claims()
	_, generation := c.GroupMetadata()
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
		member, now := c.GroupMetadata()
		g.accepted(member, max(generation, now), offsets, before)
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
