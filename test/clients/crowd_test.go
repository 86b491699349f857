//go:build clients && linux

package clients

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	crowdMembers   = 50
	crowdEach      = 3 // partitions for each member
	crowdHeartbeat = 300 * time.Millisecond
	crowdPatience  = 3 * time.Minute
)

// crowdProps let members of the consumer protocol send as many heartbeats as those of the classic one. Nobody's session ends here.
var crowdProps = []string{
	fmt.Sprintf("group.consumer.min.heartbeat.interval.ms=%d", crowdHeartbeat.Milliseconds()),
	fmt.Sprintf("group.consumer.heartbeat.interval.ms=%d", crowdHeartbeat.Milliseconds()),
	"group.initial.rebalance.delay.ms=0",
}

// crowd is a group with many members in this process, each a franz-go client. A member commits what it has read before it gives a partition
// back. So every record is read once and in order, whoever reads it, and what is not is a fault.
type crowd struct {
	t      *testing.T
	b      *broker
	topic  string
	opts   []kgo.Opt // what the members are like
	admin  *kadm.Client
	writer *kgo.Client

	mu      sync.Mutex    // guards what follows
	hold    chan struct{} // members that have to give back partitions wait until it is closed
	members []*crowdMember
	owner   map[int32]*crowdMember
	next    map[int32]int64
	last    map[int32]time.Time     // when a record was read
	gap     map[int32]time.Duration // the longest time between two records since gaps were last forgotten
	faults  []error
}

type crowdMember struct {
	name    string
	client  *kgo.Client
	polling sync.WaitGroup
	moves   int // partitions that came or went; crowd.mu
	held    int // partitions that it waits to give back; crowd.mu
}

func newCrowd(t *testing.T, b *broker, topic string, opts ...kgo.Opt) *crowd {
	t.Helper()
	b.createTopic(topic, crowdMembers*crowdEach)
	writer := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(topic))
	x := &crowd{t: t, b: b, topic: topic, opts: opts, admin: kadm.NewClient(writer), writer: writer, hold: make(chan struct{}),
		owner: map[int32]*crowdMember{}, next: map[int32]int64{}, last: map[int32]time.Time{}, gap: map[int32]time.Duration{}}
	conn := dial(t, b.addr)
	waitForCoordinator(t, conn, topic)
	conn.Close()
	t.Cleanup(x.close)
	return x
}

func (x *crowd) fault(format string, args ...any) {
	if x.faults = append(x.faults, fmt.Errorf(format, args...)); len(x.faults) > 20 {
		x.faults = x.faults[:20]
	}
}

// join adds a member.
func (x *crowd) join() *crowdMember {
	x.t.Helper()
	m := &crowdMember{name: fmt.Sprintf("member-%d", len(x.all()))}
	gone := func(commits bool) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(ctx context.Context, c *kgo.Client, of map[string][]int32) {
			ps := of[x.topic]
			if len(ps) == 0 {
				return
			}
			if commits {
				x.mu.Lock()
				m.held += len(ps)
				hold := x.hold
				x.mu.Unlock()
				<-hold
				if err := c.CommitUncommittedOffsets(ctx); err != nil {
					x.mu.Lock()
					x.fault("%s commits: %v", m.name, err)
					x.mu.Unlock()
				}
			}
			x.mu.Lock()
			defer x.mu.Unlock()
			m.moves += len(ps)
			for _, p := range ps {
				if x.owner[p] == m {
					delete(x.owner, p)
				}
			}
		}
	}
	m.client = x.b.client(append(slices.Clone(x.opts), kgo.ConsumerGroup(x.topic), kgo.ConsumeTopics(x.topic), kgo.ClientID(m.name), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.HeartbeatInterval(crowdHeartbeat), kgo.RebalanceTimeout(3*crowdPatience), kgo.FetchMaxWait(memberFetchWait),
		kgo.BlockRebalanceOnPoll(), kgo.OnPartitionsRevoked(gone(true)), kgo.OnPartitionsLost(gone(false)),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, of map[string][]int32) {
			x.mu.Lock()
			defer x.mu.Unlock()
			m.moves += len(of[x.topic])
			for _, p := range of[x.topic] {
				if other := x.owner[p]; other != nil {
					x.fault("%s gets partition %d, which %s has", m.name, p, other.name)
				}
				x.owner[p] = m
			}
		}))...)
	x.mu.Lock()
	x.members = append(x.members, m)
	x.mu.Unlock()
	m.polling.Go(func() {
		for {
			fetches := m.client.PollFetches(context.Background())
			if fetches.IsClientClosed() {
				return
			}
			now := time.Now()
			x.mu.Lock()
			fetches.EachError(func(_ string, p int32, err error) { x.fault("%s polls partition %d: %v", m.name, p, err) })
			fetches.EachRecord(func(r *kgo.Record) {
				p := r.Partition
				if of := x.owner[p]; of != m {
					x.fault("%s reads from partition %d, which it does not have", m.name, p)
				}
				if r.Offset != x.next[p] {
					x.fault("%s reads offset %d of partition %d, %d is due", m.name, r.Offset, p, x.next[p])
				}
				x.next[p] = r.Offset + 1
				x.gap[p] = max(x.gap[p], now.Sub(x.last[p]))
				x.last[p] = now
			})
			x.mu.Unlock()
			m.client.AllowRebalance()
		}
	})
	return m
}

// close ends all members.
func (x *crowd) close() {
	x.release()
	var closing sync.WaitGroup
	for _, m := range x.all() {
		closing.Go(func() {
			m.client.CloseAllowingRebalance()
			m.polling.Wait()
		})
	}
	closing.Wait()
}

func (x *crowd) all() []*crowdMember {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.members)
}

// release lets members give back what they have to.
func (x *crowd) release() {
	x.mu.Lock()
	defer x.mu.Unlock()
	select {
	case <-x.hold:
	default:
		close(x.hold)
	}
}

func (x *crowd) wait(what string, is func() bool) {
	x.t.Helper()
	for until := time.Now().Add(crowdPatience); ; time.Sleep(10 * time.Millisecond) {
		x.mu.Lock()
		ok := is()
		faults := slices.Clone(x.faults)
		x.mu.Unlock()
		x.b.mustRun()
		switch {
		case len(faults) > 0:
			x.t.Fatalf("until %s: %v", what, faults)
		case ok:
			return
		case time.Now().After(until):
			x.t.Fatalf("not after %v: %s", crowdPatience, what)
		}
	}
}

// settle waits until the members have all partitions, in equal shares, and the broker knows.
func (x *crowd) settle() {
	x.t.Helper()
	x.wait("the members share the partitions", func() bool {
		shares := map[*crowdMember]int{}
		for _, m := range x.owner {
			shares[m]++
		}
		least := crowdMembers * crowdEach / len(x.members)
		for _, m := range x.members {
			if n := shares[m]; n != least && n != least+1 {
				return false
			}
		}
		return len(x.owner) == crowdMembers*crowdEach
	})
	for until := time.Now().Add(crowdPatience); groupState(x.t, x.admin, x.topic) != "Stable"; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			x.t.Fatalf("not stable after %v: %s", crowdPatience, groupState(x.t, x.admin, x.topic))
		}
	}
}

func (x *crowd) describe() kadm.DescribedConsumerGroup {
	x.t.Helper()
	all, err := x.admin.DescribeConsumerGroups(deadline(x.t, time.Minute), x.topic)
	must(x.t, err)
	return all[x.topic]
}

// write writes a record to each of the partitions and returns where it stands.
func (x *crowd) write(partitions []int32) map[int32]int64 {
	x.t.Helper()
	var batch []*kgo.Record
	for _, p := range partitions {
		batch = append(batch, &kgo.Record{Partition: p, Value: []byte("crowd")})
	}
	at := map[int32]int64{}
	for _, r := range x.writer.ProduceSync(deadline(x.t, time.Minute), batch...) {
		must(x.t, r.Err)
		at[r.Record.Partition] = r.Record.Offset
	}
	return at
}

// consumed waits until records are read.
func (x *crowd) consumed(at map[int32]int64) {
	x.t.Helper()
	x.wait("what was written is read", func() bool {
		for p, o := range at {
			if x.next[p] <= o {
				return false
			}
		}
		return true
	})
}

var crowdNext = []kgo.Opt{kgo.Balancers(kgo.StickyBalancer()), kgo.ServerSideBalancer()}

// TestOneJoinsManyMembers: one more member joins a group of fifty of the consumer protocol. While those that have to give back a partition keep it, so that the
// group is in the middle of its rebalance for as long as the test wants, all the others read what is written to theirs. In the
// end they have not heard of the rebalance at all, and only what the new one got has moved.
func TestOneJoinsManyMembers(t *testing.T) {
	b := startBroker(t, crowdProps...)
	x := newCrowd(t, b, "crowd", crowdNext...)
	x.release() // nobody has to wait yet
	for range crowdMembers {
		x.join()
	}
	x.settle()
	x.consumed(x.write(slices.Collect(maps.Keys(x.owners()))))

	x.mu.Lock()
	x.hold = make(chan struct{})
	before := maps.Clone(x.owner)
	moves := map[*crowdMember]int{}
	for _, m := range x.members {
		moves[m] = m.moves
	}
	x.mu.Unlock()
	newcomer := x.join()
	moving := map[int32]bool{} // what the newcomer is to have
	for until := time.Now().Add(crowdPatience); len(moving) == 0; time.Sleep(10 * time.Millisecond) {
		for _, m := range x.describe().Members {
			if m.ClientID == newcomer.name {
				for p := range m.TargetAssignment[x.topic] {
					moving[p] = true
				}
			}
		}
		if time.Now().After(until) {
			t.Fatalf("the newcomer has no target after %v", crowdPatience)
		}
	}
	givers := map[*crowdMember]bool{}
	for p := range moving {
		givers[before[p]] = true
	}
	x.wait("those that are to give back partitions are asked to", func() bool {
		held := 0
		for m := range givers {
			held += m.held
		}
		return held >= len(moving)
	})
	var others []int32
	for p, m := range before {
		if !givers[m] {
			others = append(others, p)
		}
	}
	if len(others) < (crowdMembers-len(moving))*crowdEach {
		t.Fatalf("%d partitions move and %d of %d members are not touched", len(moving), crowdMembers-len(givers), crowdMembers)
	}
	for range 20 {
		x.consumed(x.write(others))
		if s := groupState(t, x.admin, x.topic); s != "Reconciling" {
			t.Fatalf("while partitions are kept the group is %s", s)
		}
	}
	x.release()
	x.settle()
	x.consumed(x.write(slices.Collect(maps.Keys(x.owners()))))
	after := x.owners()
	for p, m := range before {
		switch {
		case moving[p] && after[p] != newcomer:
			t.Errorf("partition %d went from %s to %s", p, m.name, after[p].name)
		case !moving[p] && after[p] != m:
			t.Errorf("partition %d has moved from %s to %s", p, m.name, after[p].name)
		}
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for m, n := range moves {
		if !givers[m] && m.moves != n {
			t.Errorf("%s was told of %d changes", m.name, m.moves-n)
		}
	}
	t.Logf("%d partitions moved from %d members to the new one; %d members did not notice", len(moving), len(givers), crowdMembers-len(givers))
}

func (x *crowd) owners() map[int32]*crowdMember {
	x.mu.Lock()
	defer x.mu.Unlock()
	return maps.Clone(x.owner)
}

// TestJoinFigures measures for how long partitions stand still when one more member joins a group of fifty, with both protocols, beside
// Apache Kafka. JOINS is how often.
func TestJoinFigures(t *testing.T) {
	joins := int(envInt(t, "JOINS", 0))
	if joins == 0 {
		t.Skip("make group-join measures it")
	}
	brokers := map[string]*broker{}
	for _, name := range []string{"Kafka", "Moldau"} {
		brokers[name] = newBrokerOf(t, name == "Kafka", crowdProps...)
		brokers[name].start()
	}
	kinds := []struct {
		name string
		opts []kgo.Opt
	}{
		{"classic range", []kgo.Opt{kgo.Balancers(kgo.RangeBalancer())}},
		{"classic cooperative-sticky", []kgo.Opt{kgo.Balancers(kgo.CooperativeStickyBalancer())}},
		{"consumer uniform", crowdNext},
	}
	var table strings.Builder
	fmt.Fprintf(&table, "| protocol | broker | longest | median partition | the same before the join | partitions above 250 ms | until all is settled |\n|---|---|---|---|---|---|---|\n")
	for _, kind := range kinds {
		results := map[string][]joinFigures{}
		for i := range joins {
			for _, name := range []string{"Kafka", "Moldau"} { // taking turns
				topic := fmt.Sprintf("join-%s-%d", strings.ReplaceAll(kind.name, " ", "-"), i)
				results[name] = append(results[name], measureJoin(t, brokers[name], topic, kind.opts))
			}
		}
		for _, name := range []string{"Kafka", "Moldau"} {
			all := results[name]
			median := func(of func(joinFigures) time.Duration) time.Duration {
				var list []time.Duration
				for _, f := range all {
					list = append(list, of(f))
				}
				slices.Sort(list)
				return list[len(list)/2].Round(time.Millisecond)
			}
			var still []int
			for _, f := range all {
				still = append(still, f.still)
			}
			slices.Sort(still)
			fmt.Fprintf(&table, "| %s | %s | %v | %v | %v, %v | %d | %v |\n", kind.name, name, median(func(f joinFigures) time.Duration { return f.longest }),
				median(func(f joinFigures) time.Duration { return f.median }), median(func(f joinFigures) time.Duration { return f.before.longest }),
				median(func(f joinFigures) time.Duration { return f.before.median }), still[len(still)/2], median(func(f joinFigures) time.Duration { return f.settled }))
		}
	}
	t.Logf("medians of %d joins, %d members and %d partitions with a record every 50 ms each:\n%s", joins, crowdMembers, crowdMembers*crowdEach, table.String())
	if path := os.Getenv("FIGURES"); path != "" {
		must(t, os.WriteFile(path, []byte(table.String()), 0o644))
	}
}

// joinFigures are what one join has cost: the longest time in which a partition was not read, that of the median partition, how many
// partitions stood still for longer than 250 ms, and the time until the shares were right again.
type joinFigures struct {
	standstill
	before  standstill // as long before, without a join
	settled time.Duration
}

type standstill struct {
	longest, median time.Duration
	still           int
}

// standstill is that since gaps were last forgotten, and forgets them.
func (x *crowd) standstill() (s standstill) {
	x.mu.Lock()
	defer x.mu.Unlock()
	gaps := slices.Sorted(maps.Values(x.gap))
	s.longest, s.median = gaps[len(gaps)-1], gaps[len(gaps)/2]
	for _, g := range gaps {
		if g > 250*time.Millisecond {
			s.still++
		}
	}
	clear(x.gap)
	return s
}

func measureJoin(t *testing.T, b *broker, topic string, opts []kgo.Opt) joinFigures {
	t.Helper()
	x := newCrowd(t, b, topic, opts...)
	defer x.close()
	x.release()
	for range crowdMembers {
		x.join()
	}
	x.settle()
	all := slices.Collect(maps.Keys(x.owners()))
	stop := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-tick.C:
			case <-stop:
				tick.Stop()
				return
			}
			for _, p := range all {
				x.writer.Produce(context.Background(), &kgo.Record{Partition: p, Value: []byte("crowd")}, nil)
			}
		}
	})
	defer writing.Wait()
	defer close(stop)
	beyond := func(n int64) {
		x.mu.Lock()
		from := maps.Clone(x.next)
		x.mu.Unlock()
		x.wait("the members read", func() bool {
			for _, p := range all {
				if x.next[p] < from[p]+n {
					return false
				}
			}
			return true
		})
	}
	beyond(60) // the load has come to rest
	x.standstill()
	beyond(60)
	f := joinFigures{before: x.standstill()}
	began := time.Now()
	x.join()
	x.settle()
	f.settled = time.Since(began)
	beyond(40)
	f.standstill = x.standstill()
	return f
}
