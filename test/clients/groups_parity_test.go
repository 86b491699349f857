//go:build clients && linux

package clients

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	parityPartitions = 4
	parityPatience   = 2 * time.Minute
	parityAtOnce     = 6 // scenarios; most of their time they wait, so there may be more than processors
	// A member that was killed is noticed after this; it is long, because a member on a busy machine must not lose its place.
	paritySession = 8 * time.Second
)

// parityProps let the broker's own times for members of the consumer protocol be those that members of the classic protocol bring.
var parityProps = []string{
	"group.initial.rebalance.delay.ms=500", // kafka-python hangs when its first assignment is empty and it joins again at once: it knows the topic by then
	fmt.Sprintf("group.consumer.min.heartbeat.interval.ms=%d", memberHeartbeat.Milliseconds()),
	fmt.Sprintf("group.consumer.heartbeat.interval.ms=%d", memberHeartbeat.Milliseconds()),
	fmt.Sprintf("group.consumer.min.session.timeout.ms=%d", paritySession.Milliseconds()),
	fmt.Sprintf("group.consumer.session.timeout.ms=%d", paritySession.Milliseconds()),
}

// parityClients are the clients, with an assignor of each rebalance protocol that they have; see startMember for those of the broker.
var parityClients = []parityClient{
	{client: "java", assignor: "range", tellsLost: true},
	{client: "java", assignor: "cooperative-sticky", tellsLost: true},
	{client: "confluent-kafka", assignor: "range", tellsLost: true},
	{client: "confluent-kafka", assignor: "cooperative-sticky", tellsLost: true},
	{client: "franz-go", assignor: "range", tellsLost: true},
	{client: "franz-go", assignor: "cooperative-sticky", tellsLost: true},
	{client: "kafka-python", assignor: "range", tellsLost: true},
	{client: "kafka-python", assignor: "cooperative-sticky"}, // it claims what it has lost when it joins again, so two own it
	{client: "aiokafka", assignor: "range"},
	{client: "kafkajs", assignor: "roundrobin"},
	{client: "sarama", assignor: "range", noSeek: true},
	{client: "sarama", assignor: "cooperative-sticky", noSeek: true, anyPartitions: true},
	// The broker's range goes by the order of the members' ids, which the members choose by chance.
	{client: "java", assignor: "consumer-uniform", tellsLost: true},
	{client: "java", assignor: "consumer-range", tellsLost: true, anyPartitions: true},
	{client: "confluent-kafka", assignor: "consumer-uniform", tellsLost: true},
	{client: "confluent-kafka", assignor: "consumer-range", tellsLost: true, anyPartitions: true},
	{client: "franz-go", assignor: "consumer-uniform", tellsLost: true},
	{client: "franz-go", assignor: "consumer-range", tellsLost: true, anyPartitions: true},
}

type parityClient struct {
	client, assignor string
	tellsLost        bool // it has a callback for partitions that are lost, and survives losing them
	noSeek           bool // sarama's groups have no way to go to another offset
	anyPartitions    bool // which partitions a member gets is chance (sarama walks over Go's maps): only how many is compared
}

func (c parityClient) name() string { return c.client + "-" + c.assignor }

// remote tells that the broker assigns: the client speaks the consumer protocol.
func (c parityClient) remote() bool { return strings.HasPrefix(c.assignor, remoteAssignor) }

// parityRun is a scenario with clients.
type parityRun struct {
	name   string
	client parityClient
	play   func(s *scenario)
	reads  string // the step in which the member m1 reads from offset 0 to 9 of partitions; there a record is left out on purpose
	joins  string // the step in which the member m2 gets its partitions from others; there it gets one too many on purpose
}

func parityRuns() []parityRun {
	var runs []parityRun
	for _, c := range parityClients {
		runs = append(runs, parityRun{c.name(), c, (*scenario).everyday, "subscribe", "rebalance by join"})
	}
	return append(runs, consumerParityRuns()...)
}

// parityAllowed are the lines of a scenario's log in which the broker may differ from Kafka, each with its reason.
var parityAllowed = []allowedDifference{
	{"tools-consumer", `^tools-consumer ADDRESS \(1\) uniform Empty \d+ \d+ 0$`, emptyEpochs},
	{"tools-mixed", `^tools-mixed ADDRESS \(1\) uniform Empty \d+ \d+ 0$`, emptyEpochs},
}

const emptyEpochs = "the epochs of the target and of an empty group may differ in Kafka; here they are equal (ADR 13)"

type allowedDifference struct {
	client, line string // line is a regular expression
	reason       string
}

// TestGroupsParity: members of a group with each client subscribe, join, leave, are killed, stand still, commit, seek, pause and resume. What they
// report is the same with Apache Kafka and with Moldau. So it is for static members, patterns that the broker resolves, and groups that
// change from one protocol to the other under load. In either log no partition has two owners at one time, a member begins where
// the group has committed, and no record is skipped; a fault put into the log on purpose is found.
//
// Kafka's logs are in testdata/parity. PARITY=record with MOLDAU_TARGET=kafka writes them, PARITY=live asks Kafka in place of reading them.
func TestGroupsParity(t *testing.T) {
	mode := parityMode(t)
	for _, a := range parityAllowed {
		t.Logf("allowed to differ with %s: %s, because %s", a.client, a.line, a.reason)
	}
	b := startBroker(t, parityProps...)
	var peer *broker
	if mode == "live" {
		peer = newBrokerOf(t, true, parityProps...)
		peer.start()
	}
	var playing sync.WaitGroup
	places := make(chan struct{}, parityAtOnce)
	for _, r := range parityRuns() {
		play := func(t *testing.T) {
			s := playScenario(t, b, r)
			got := s.log()
			for _, err := range s.faults() {
				t.Error(err)
			}
			s.checkInjectedFaults(t, got)
			if mode == "record" && t.Failed() {
				return
			}
			want := kafkasLog(t, mode, r.name, got, func() string {
				p := playScenario(t, peer, r)
				for _, err := range p.faults() {
					t.Errorf("with Kafka: %v", err)
				}
				return p.log()
			})
			if diff := parityDiff(r.client.client, got, want); diff != "" {
				t.Errorf("the log differs from Kafka's (-) in\n%s", diff)
			}
			if t.Failed() {
				t.Logf("the whole log:\n%s", got)
			}
		}
		playing.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			t.Run(r.name, play)
		})
	}
	playing.Wait()
}

// parityMode is what PARITY says: nothing, record or live.
func parityMode(t *testing.T) string {
	t.Helper()
	mode := os.Getenv("PARITY")
	if !slices.Contains([]string{"", "record", "live"}, mode) || mode == "record" && !targetKafka || mode == "live" && targetKafka {
		t.Fatalf("PARITY=%s MOLDAU_TARGET=%s: want PARITY=live, or PARITY=record with MOLDAU_TARGET=kafka", mode, os.Getenv("MOLDAU_TARGET"))
	}
	return mode
}

// kafkasLog is what got is compared with: the log of that name, Kafka's live one, or got itself, which is then the one of that name.
func kafkasLog(t *testing.T, mode, name, got string, live func() string) string {
	t.Helper()
	golden := filepath.Join("testdata", "parity", name+".log")
	switch mode {
	case "record":
		must(t, os.WriteFile(golden, []byte(got), 0o644))
		return got
	case "live":
		return live()
	}
	text, err := os.ReadFile(golden)
	must(t, err)
	return string(text)
}

// scenario is one run: its members with their events, cut into steps.
type scenario struct {
	t *testing.T
	b *broker
	parityClient
	run          parityRun
	group, topic string
	partitions   []int32 // by the numbers that members tell
	underLoad    bool    // records come all the time: the log does not say which were read, and of assignments only what has come of them
	admin        *kadm.Client
	producer     *kgo.Client
	end          int64 // the end of each partition
	members      []*member
	mayFail      map[string]bool // members that are wrong on purpose
	steps        []step
	lastCut      map[string]int // events of a member that are in earlier steps
}

// step is what has happened since the step before.
type step struct {
	name   string
	events map[string][]memberEvent // by member
	group  []string                 // what the broker says of the group at the end of the step
	chance bool                     // range assigned the partitions, by the order of the members' ids, which are chance where the broker makes them
}

func playScenario(t *testing.T, b *broker, r parityRun) *scenario {
	t.Helper()
	name := "parity-" + r.name
	b.createTopic(name, parityPartitions)
	producer := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	s := &scenario{t: t, b: b, parityClient: r.client, run: r, group: name, topic: name, partitions: numbersFrom(0, parityPartitions),
		admin: kadm.NewClient(producer), producer: producer, mayFail: map[string]bool{}, lastCut: map[string]int{}}
	defer s.explain()
	conn := dial(t, b.addr)
	waitForCoordinator(t, conn, s.group) // not every client waits in silence until the broker has made __consumer_offsets
	conn.Close()
	r.play(s)
	return s
}

// numbersFrom is first, first+1, ..., n numbers.
func numbersFrom(first, n int32) []int32 {
	list := make([]int32, n)
	for i := range list {
		list[i] = first + int32(i)
	}
	return list
}

// everyday is what happens to any group.
func (s *scenario) everyday() {
	s.produce(10)
	m1 := s.start("m1")
	s.settle(m1)
	s.caughtUp(m1)
	s.cut("subscribe")
	s.tell("commit sync", m1)
	s.cut("commit sync")

	m2 := s.start("m2")
	s.settle(m1, m2)
	s.produce(5)
	s.caughtUp(m1, m2)
	s.cut("rebalance by join")
	s.tell("commit async", m1, m2)
	s.cut("commit async")

	first := slices.Min(slices.Collect(maps.Keys(owned(m1.heard()))))
	if !s.noSeek {
		before := len(m1.heard())
		s.tell(fmt.Sprintf("seek %d 3", first), m1)
		s.wait("read again", func() bool { return readTo(m1.heard()[before:])[first] == s.end })
		s.cut("seek")
	}
	s.tell(fmt.Sprintf("pause %d", first), m1)
	time.Sleep(5 * memberFetchWait) // what a fetch under way brings is not held back by every client
	s.produce(5)
	s.wait("read what is not paused", func() bool {
		at := s.positions(m1, m2)
		delete(at, first)
		return len(at) == len(s.partitions)-1 && lowest(at) == s.end
	})
	s.cut("pause")
	s.tell(fmt.Sprintf("resume %d", first), m1)
	s.caughtUp(m1, m2)
	s.tell("commit sync", m1, m2)
	s.cut("resume")

	s.leave(m2)
	s.settle(m1)
	s.produce(5)
	s.caughtUp(m1)
	s.tell("commit sync", m1)
	s.cut("rebalance by leave")

	m3 := s.start("m3")
	s.settle(m1, m3)
	s.produce(5)
	s.caughtUp(m1, m3)
	s.tell("commit sync", m1)
	s.cut("join before a crash")
	m3.kill(s.t)
	s.settle(m1)
	s.caughtUp(m1)
	s.tell("commit async", m1)
	s.cut("rebalance by crash")

	if s.tellsLost {
		m4 := s.start("m4")
		s.settle(m1, m4)
		if s.remote() { // one that did not yet know where to begin would be told, later, that the question was wrong
			s.produce(5)
			s.caughtUp(m1, m4)
		}
		s.cut("join before a freeze")
		m4.freeze(s.t)
		s.settle(m1)
		s.cut("rebalance by freeze")
		m4.thaw(s.t)
		s.settle(m1, m4)
		s.produce(5) // not before: a fetch that was under way would still bring it to the one that has lost its partitions
		s.caughtUp(m1, m4)
		s.tell("commit sync", m1, m4)
		s.cut("rebalance by thaw")
		s.leave(m4)
		s.settle(m1)
	}
	s.leave(m1)
	s.wait("the group is empty", func() bool { return strings.HasPrefix(s.state(), "Empty") })
	s.cut("the last one leaves")
}

func (s *scenario) start(name string) *member { return s.startAs(s.parityClient, s.topic, name) }

func (s *scenario) startAs(c parityClient, subscription, name string, instance ...string) *member {
	m := startMember(s.t, s.b, c.client, s.group, subscription, name, c.assignor, paritySession, instance...)
	s.members = append(s.members, m)
	return m
}

// leave ends a member, which says so to the broker.
func (s *scenario) leave(m *member) {
	s.t.Helper()
	m.tell(s.t, "leave")
	s.exited(m)
}

func (s *scenario) exited(m *member) {
	s.t.Helper()
	s.wait(m.name+" ends", func() bool {
		select {
		case <-m.exited:
			return true
		default:
			return false
		}
	})
}

// produce writes n records to each partition.
func (s *scenario) produce(n int) {
	s.t.Helper()
	s.write(s.partitions, s.end, n)
	s.end += int64(n)
}

func (s *scenario) write(partitions []int32, end int64, n int) {
	s.t.Helper()
	var batch []*kgo.Record
	for _, number := range partitions {
		topic, p := s.partition(number)
		for i := range n {
			batch = append(batch, &kgo.Record{Topic: topic, Partition: p, Value: strconv.AppendInt(nil, end+int64(i), 10)})
		}
	}
	must(s.t, s.producer.ProduceSync(deadline(s.t, time.Minute), batch...).FirstErr())
}

// partition is the one of a number that members tell.
func (s *scenario) partition(number int32) (topic string, partition int32) {
	if number < morePartition {
		return s.topic, number
	}
	return s.topic + moreTopic, number - morePartition
}

// tell gives a command and waits until it is obeyed; for a commit, until it is answered.
func (s *scenario) tell(command string, members ...*member) {
	s.t.Helper()
	answers := func(m *member) (n int) {
		for _, e := range m.heard() {
			if e.Event == "done" || strings.HasPrefix(command, "commit") && (e.Event == "committed" || e.Event == "error") {
				n++
			}
		}
		return n
	}
	for _, m := range members {
		want := answers(m) + 1
		if strings.HasPrefix(command, "commit") {
			want++
		}
		m.tell(s.t, "%s", command)
		s.wait(m.name+": "+command, func() bool { return answers(m) >= want })
	}
}

// wait waits for a condition that comes true without further doing.
func (s *scenario) wait(what string, is func() bool) {
	s.t.Helper()
	for until := time.Now().Add(parityPatience); !is(); time.Sleep(20 * time.Millisecond) {
		s.b.mustRun()
		for _, m := range s.members {
			if m.bad != nil {
				s.t.Fatal(m.bad)
			}
		}
		if time.Now().After(until) {
			s.t.Fatalf("not after %v: %s; the group is %s", parityPatience, what, s.state())
		}
	}
}

// settle waits until the members own all partitions in equal shares and the group has been stable for a moment.
func (s *scenario) settle(members ...*member) {
	s.t.Helper()
	var since time.Time
	var seen int
	s.wait(fmt.Sprintf("%d members share the partitions", len(members)), func() bool {
		events, all := 0, map[int32]bool{}
		for _, m := range members {
			heard := m.heard()
			for _, e := range heard {
				if !s.underLoad || e.Event != "read" {
					events++
				}
			}
			of := owned(heard)
			if len(of) != len(s.partitions)/len(members) {
				since = time.Time{}
				return false
			}
			maps.Copy(all, of)
		}
		if len(all) != len(s.partitions) || !strings.HasPrefix(s.state(), fmt.Sprintf("Stable, %d ", len(members))) {
			since = time.Time{}
			return false
		}
		if since.IsZero() || events != seen {
			since, seen = time.Now(), events
			return false
		}
		return time.Since(since) > 3*memberHeartbeat
	})
}

// caughtUp waits until the members have read everything.
func (s *scenario) caughtUp(members ...*member) {
	s.t.Helper()
	s.wait("everything is read", func() bool {
		at := s.positions(members...)
		return len(at) == len(s.partitions) && lowest(at) == s.end
	})
}

// positions is the offset after the last record read by the owner, by partition.
func (s *scenario) positions(members ...*member) map[int32]int64 {
	at := map[int32]int64{}
	for _, m := range members {
		heard := m.heard()
		read := readTo(heard)
		for p := range owned(heard) {
			if o, is := read[p]; is {
				at[p] = o
			}
		}
	}
	return at
}

func readTo(events []memberEvent) map[int32]int64 {
	at := map[int32]int64{}
	for _, e := range events {
		if e.Event == "read" {
			at[e.Partition] = e.Offset + 1
		}
	}
	return at
}

func lowest(at map[int32]int64) int64 { return slices.Min(slices.Collect(maps.Values(at))) }

// state is what the broker says of the group: state, members, protocol.
func (s *scenario) state() string {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if all, err := s.admin.DescribeConsumerGroups(ctx, s.group); err != nil {
		return err.Error()
	} else if g := all[s.group]; g.Err == nil {
		classic := 0
		for _, m := range g.Members {
			if m.MemberType == 0 {
				classic++
			}
		}
		return fmt.Sprintf("%s, %d members (%d of the classic protocol), assigned by the broker's %s", g.State, len(g.Members), classic, g.AssignorName)
	} else if !errors.Is(g.Err, kerr.GroupIDNotFound) {
		return g.Err.Error()
	}
	d, err := s.admin.DescribeGroups(ctx, s.group)
	if err != nil {
		return err.Error()
	}
	g := d[s.group]
	if g.Err != nil {
		return g.Err.Error()
	}
	return fmt.Sprintf("%s, %d members, %s %s", g.State, len(g.Members), g.ProtocolType, cmp.Or(g.Protocol, "-"))
}

// cut ends a step.
func (s *scenario) cut(name string) {
	s.t.Helper()
	st := step{name: name, events: map[string][]memberEvent{}}
	for _, m := range s.members {
		heard := m.heard()
		st.events[m.name] = heard[s.lastCut[m.name]:]
		s.lastCut[m.name] = len(heard)
	}
	offsets, err := s.admin.FetchOffsets(deadline(s.t, time.Minute), s.group)
	must(s.t, err)
	committed := map[string]int64{}
	offsets.Each(func(o kadm.OffsetResponse) {
		must(s.t, o.Err)
		number := o.Partition
		if o.Topic != s.topic {
			number += morePartition
		}
		committed[strconv.Itoa(int(number))] = o.At
	})
	state := s.state()
	st.chance = strings.HasSuffix(state, "range")
	st.group = []string{state, "offsets " + s.offsetList(committed)}
	s.steps = append(s.steps, st)
}

// explain writes down all events of a run that has failed.
func (s *scenario) explain() {
	if !s.t.Failed() {
		return
	}
	var text strings.Builder
	for _, m := range s.members {
		for _, e := range m.heard() {
			if !s.underLoad || e.Event != "read" {
				fmt.Fprintf(&text, "%s %+v\n", m.name, e)
			}
		}
		fmt.Fprintf(&text, "%s's standard error: %s\n", m.name, clip(m.stderr.String()))
	}
	s.t.Logf("%s\n%s", s.client, clip(text.String()))
}

// log is the run in a form that does not depend on time and place. What is left out, and why:
//   - member ids, addresses and times: they are never the same;
//   - a rebalance that takes or gives nothing (empty lists), or gives back at once what it has taken: how many there are depends on who
//     hears of a change first;
//   - the order of records of different partitions, and of reading against rebalancing within a step: faults looks at these instead;
//   - how a list of partitions is cut into several calls: sarama has one call per partition;
//   - under load, offsets, from which partitions a member reads, and on which way partitions have come to a member: it depends on when
//     records come and heartbeats are sent.
func (s *scenario) log() string {
	var text strings.Builder
	before := map[string][]memberEvent{}
	for _, st := range s.steps {
		fmt.Fprintf(&text, "== %s\n", st.name)
		for _, name := range slices.Sorted(maps.Keys(st.events)) {
			var lines []string
			if s.underLoad {
				lines = s.netChange(st.chance, before[name], st.events[name])
				before[name] = slices.Concat(before[name], st.events[name])
			} else {
				lines = s.normalise(st.events[name])
			}
			for _, line := range lines {
				fmt.Fprintf(&text, "%s %s\n", name, line)
			}
		}
		for _, line := range st.group {
			fmt.Fprintf(&text, "group %s\n", line)
		}
	}
	return text.String()
}

// memberID is one that clients of the consumer protocol choose, in the broker's messages.
var memberID = regexp.MustCompile(`\b(member|by) [\w-]{22}(==)?`)

func (s *scenario) normalise(events []memberEvent) []string {
	var lines []string
	var kind string // of the change that is being put together
	var partitions []int32
	var revoked []int32 // by the line before, if it is of that kind
	flush := func() {
		if len(partitions) == 0 {
			return
		}
		slices.Sort(partitions)
		if kind == "assigned" && slices.Equal(partitions, revoked) {
			lines = lines[:len(lines)-1]
		} else {
			lines = append(lines, kind+" "+s.partitionList(partitions))
		}
		revoked = nil
		if kind == "revoked" {
			revoked = partitions
		}
		partitions = nil
	}
	other := func(line string) {
		flush()
		revoked = nil
		lines = append(lines, line)
	}
	reads := map[int32][]int64{}
	for _, e := range events {
		switch e.Event {
		case "assigned", "revoked", "lost":
			if e.Event != kind && len(e.Partitions) > 0 {
				flush()
				kind = e.Event
			}
			partitions = append(partitions, e.Partitions...)
		case "read":
			reads[e.Partition] = append(reads[e.Partition], e.Offset)
		case "committed":
			other("committed " + s.offsetList(e.Offsets))
		case "error": // one that is told again and again is one
			if line := "error " + memberID.ReplaceAllString(e.Error, "$1 ID"); len(partitions) > 0 || len(lines) == 0 || lines[len(lines)-1] != line {
				other(line)
			}
		case "left", "killed", "frozen", "thawed":
			other(e.Event)
		}
	}
	flush()
	var read []string
	for _, p := range slices.Sorted(maps.Keys(reads)) {
		read = append(read, "read "+strings.TrimSpace(s.partitionName(p, ":")+ranges(reads[p])))
	}
	slices.Sort(read)
	return append(lines, read...)
}

// ranges writes 3 4 5 9 as " 3-5 9-9".
func ranges(offsets []int64) string {
	var text strings.Builder
	for i := 0; i < len(offsets); {
		j := i
		for j+1 < len(offsets) && offsets[j+1] == offsets[j]+1 {
			j++
		}
		fmt.Fprintf(&text, " %d-%d", offsets[i], offsets[j])
		i = j + 1
	}
	return text.String()
}

func (s *scenario) offsetList(offsets map[string]int64) string {
	if s.underLoad {
		return fmt.Sprintf("of %d partitions", len(offsets))
	}
	var list []string
	for p, o := range offsets {
		n, err := strconv.ParseInt(p, 10, 32)
		must(s.t, err)
		list = append(list, s.partitionName(int32(n), ":")+strconv.FormatInt(o, 10))
	}
	slices.Sort(list)
	return strings.Join(list, " ")
}

func (s *scenario) partitionList(partitions []int32) string {
	if s.anyPartitions {
		return fmt.Sprintf("%d partitions", len(partitions))
	}
	return fmt.Sprint(partitions)
}

// partitionName is empty where it does not matter which partition it is.
func (s *scenario) partitionName(p int32, colon string) string {
	if s.anyPartitions {
		return ""
	}
	return strconv.Itoa(int(p)) + colon
}

// faults are the broken promises in a run, whatever Kafka does.
func (s *scenario) faults() []error {
	type said struct {
		member string
		memberEvent
	}
	var all []said
	for _, st := range s.steps {
		for name, events := range st.events {
			for _, e := range events {
				all = append(all, said{name, e})
			}
		}
	}
	// The members' clocks are one clock; an event that is the cause of another one has the earlier time.
	slices.SortStableFunc(all, func(a, b said) int { return cmp.Compare(a.TimeUs, b.TimeUs) })
	var faults []error
	fault := func(e said, format string, args ...any) {
		faults = append(faults, fmt.Errorf("%s %+v: %s", e.member, e.memberEvent, fmt.Sprintf(format, args...)))
	}
	owner := map[int32]string{}
	next := map[int32]int64{} // what the owner must read next, if it has read; a seek takes it away
	committed := map[int32]int64{}
	thawed := map[string]bool{}
	release := func(p int32, member string) {
		if owner[p] == member {
			delete(owner, p)
			delete(next, p)
		}
	}
	for _, e := range all {
		switch e.Event {
		case "assigned":
			for _, p := range e.Partitions {
				if of := owner[p]; of != "" && of != e.member {
					fault(e, "partition %d is owned by %s", p, of)
				}
				owner[p] = e.member
				next[p] = committed[p]
			}
		case "revoked", "lost":
			for _, p := range e.Partitions {
				release(p, e.member)
			}
		case "left", "killed", "frozen":
			for _, p := range s.partitions {
				release(p, e.member)
			}
		case "read":
			if owner[e.Partition] != e.member {
				fault(e, "the partition is owned by %q", owner[e.Partition])
			}
			if want, is := next[e.Partition]; is && want != e.Offset {
				fault(e, "offset %d is due", want)
			}
			next[e.Partition] = e.Offset + 1
		case "done":
			if e.Command == "seek" { // of the member's partitions; which offset comes next is in the log
				for p, of := range owner {
					if of == e.member {
						delete(next, p)
					}
				}
			}
		case "committed":
			for p, o := range e.Offsets {
				n, err := strconv.Atoi(p)
				if err != nil {
					fault(e, "%v", err)
				}
				if o < committed[int32(n)] {
					fault(e, "%d was committed before", committed[int32(n)])
				}
				committed[int32(n)] = o
			}
		case "thawed":
			thawed[e.member] = true
		case "error": // who has stood still may say so; what it says is in the log
			if !thawed[e.member] && !s.mayFail[e.member] {
				fault(e, "an error")
			}
		}
	}
	return faults
}

// checkInjectedFaults demands that a record that is skipped, and a partition that has two owners, are found in this run's own events,
// by the comparison and by faults.
func (s *scenario) checkInjectedFaults(t *testing.T, log string) {
	t.Helper()
	inject := func(what, stepName, member string, change func([]memberEvent) []memberEvent) {
		bad := *s
		bad.steps = slices.Clone(s.steps)
		for i, st := range s.steps {
			if st.name == stepName {
				bad.steps[i].events = maps.Clone(st.events)
				bad.steps[i].events[member] = change(slices.Clone(st.events[member]))
			}
		}
		if !(s.underLoad && stepName == s.run.reads) && parityDiff(s.client, bad.log(), log) == "" {
			t.Errorf("%s: the comparison does not see it", what)
		}
		if len(bad.faults()) <= len(s.faults()) {
			t.Errorf("%s: no fault is found", what)
		}
	}
	inject("an offset is skipped", s.run.reads, "m1", func(events []memberEvent) []memberEvent {
		at := slices.IndexFunc(events, func(e memberEvent) bool { return e.Event == "read" && e.Offset == 5 })
		return slices.Delete(events, at, at+1)
	})
	inject("a partition has two owners", s.run.joins, "m2", func(events []memberEvent) []memberEvent {
		mine := owned(events)
		for i := len(events) - 1; i >= 0; i-- {
			if events[i].Event == "assigned" && len(events[i].Partitions) > 0 {
				other := slices.IndexFunc(s.partitions, func(p int32) bool { return !mine[p] })
				events[i].Partitions = append(slices.Clone(events[i].Partitions), s.partitions[other])
				return events
			}
		}
		return events
	})
}

// parityDiff compares two logs line by line; what parityAllowed allows is no difference.
func parityDiff(client, got, want string) string {
	return stepDiff("== ", got, want, allowedIn(client))
}

// allowedIn reports which lines of a client may differ.
func allowedIn(client string) func(line string) bool {
	return func(line string) bool {
		return slices.ContainsFunc(parityAllowed, func(a allowedDifference) bool {
			return a.client == client && regexp.MustCompile(a.line).MatchString(line)
		})
	}
}

// stepDiff compares steps that begin with a mark one by one, so that one line too many does not make everything after it differ.
func stepDiff(mark, got, want string, allowed func(line string) bool) string {
	var diff strings.Builder
	gotSteps, wantSteps := strings.Split(got, mark), strings.Split(want, mark)
	for i := range max(len(gotSteps), len(wantSteps)) {
		var g, w []string
		if i < len(gotSteps) {
			g = strings.Split(gotSteps[i], "\n")
		}
		if i < len(wantSteps) {
			w = strings.Split(wantSteps[i], "\n")
		}
		if slices.Equal(g, w) {
			continue
		}
		var lines []string
		for _, line := range w {
			if !slices.Contains(g, line) && !allowed(line) {
				lines = append(lines, "- "+line)
			}
		}
		for _, line := range g {
			if !slices.Contains(w, line) && !allowed(line) {
				lines = append(lines, "+ "+line)
			}
		}
		if len(lines) == 0 && !slices.ContainsFunc(g, allowed) && !slices.ContainsFunc(w, allowed) {
			lines = append(lines, "the order or the number of equal lines")
		}
		if len(lines) > 0 {
			fmt.Fprintf(&diff, "%s%s\n%s\n", mark, cmp.Or(append(w, g...)...), strings.Join(lines, "\n"))
		}
	}
	return diff.String()
}
