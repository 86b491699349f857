//go:build clients && linux

package clients

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	parityPartitions = 4
	parityPatience   = 2 * time.Minute
	// A member that was killed is noticed after this; it is long, because a member on a busy machine must not lose its place.
	paritySession = 8 * time.Second
)

// parityClients are the clients, with an assignor of each rebalance protocol that they have.
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
}

type parityClient struct {
	client, assignor string
	tellsLost        bool // it has a callback for partitions that are lost, and survives losing them
	noSeek           bool // sarama's groups have no way to go to another offset
	anyPartitions    bool // which partitions a member gets is chance (sarama walks over Go's maps): only how many is compared
}

// parityAllowed are the lines of a scenario's log in which the broker may differ from Kafka, each with its reason.
var parityAllowed = []allowedDifference{}

type allowedDifference struct {
	client, line string // line is a regular expression
	reason       string
}

// TestGroupsParity: members of a group with each client subscribe, join, leave, are killed, stand still, commit, seek, pause and resume. What they
// report is the same with Apache Kafka and with Moldau. In either log no partition has two owners at one time, a member begins where
// the group has committed, and no record is skipped; a fault put into the log on purpose is found.
//
// Kafka's logs are in testdata/parity. PARITY=record with MOLDAU_TARGET=kafka writes them, PARITY=live asks Kafka in place of reading them.
func TestGroupsParity(t *testing.T) {
	mode := os.Getenv("PARITY")
	if !slices.Contains([]string{"", "record", "live"}, mode) || mode == "record" && !targetKafka || mode == "live" && targetKafka {
		t.Fatalf("PARITY=%s MOLDAU_TARGET=%s: want PARITY=live, or PARITY=record with MOLDAU_TARGET=kafka", mode, os.Getenv("MOLDAU_TARGET"))
	}
	for _, a := range parityAllowed {
		t.Logf("allowed to differ with %s: %s, because %s", a.client, a.line, a.reason)
	}
	b := startBroker(t)
	var peer *broker
	if mode == "live" {
		peer = newBrokerOf(t, true)
		peer.start()
	}
	// Subtests that run in parallel end before the cleanup of their parent ends the brokers.
	for _, c := range parityClients {
		name := c.client + "-" + c.assignor
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := playScenario(t, b, c)
			got := s.log()
			for _, err := range s.faults() {
				t.Error(err)
			}
			s.checkInjectedFaults(t, got)
			golden := filepath.Join("testdata", "parity", name+".log")
			var want string
			switch mode {
			case "record":
				if !t.Failed() {
					must(t, os.WriteFile(golden, []byte(got), 0o644))
				}
				return
			case "live":
				p := playScenario(t, peer, c)
				want = p.log()
				for _, err := range p.faults() {
					t.Errorf("with Kafka: %v", err)
				}
			default:
				text, err := os.ReadFile(golden)
				must(t, err)
				want = string(text)
			}
			if diff := parityDiff(c.client, got, want); diff != "" {
				t.Errorf("the log differs from Kafka's (-) in\n%s", diff)
			}
			if t.Failed() {
				t.Logf("the whole log:\n%s", got)
			}
		})
	}
}

// scenario is one run: its members with their events, cut into steps.
type scenario struct {
	t *testing.T
	b *broker
	parityClient
	group, topic string
	admin        *kadm.Client
	producer     *kgo.Client
	end          int64 // the end of each partition
	members      []*member
	steps        []step
	lastCut      map[string]int // events of a member that are in earlier steps
}

// step is what has happened since the step before.
type step struct {
	name   string
	events map[string][]memberEvent // by member
	group  []string                 // what the broker says of the group at the end of the step
}

func playScenario(t *testing.T, b *broker, c parityClient) *scenario {
	t.Helper()
	name := "parity-" + c.client + "-" + c.assignor
	b.createTopic(name, parityPartitions)
	producer := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(name))
	s := &scenario{t: t, b: b, parityClient: c, group: name, topic: name, admin: kadm.NewClient(producer), producer: producer,
		lastCut: map[string]int{}}
	defer s.explain()
	conn := dial(t, b.addr)
	waitForCoordinator(t, conn, s.group) // not every client waits in silence until the broker has made __consumer_offsets
	conn.Close()
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
	if !c.noSeek {
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
		return len(at) == parityPartitions-1 && lowest(at) == s.end
	})
	s.cut("pause")
	s.tell(fmt.Sprintf("resume %d", first), m1)
	s.caughtUp(m1, m2)
	s.tell("commit sync", m1, m2)
	s.cut("resume")

	m2.tell(t, "leave")
	<-m2.exited
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
	m3.kill(t)
	s.settle(m1)
	s.caughtUp(m1)
	s.tell("commit async", m1)
	s.cut("rebalance by crash")

	if c.tellsLost {
		m4 := s.start("m4")
		s.settle(m1, m4)
		s.cut("join before a freeze")
		m4.freeze(t)
		s.settle(m1)
		s.cut("rebalance by freeze")
		m4.thaw(t)
		s.settle(m1, m4)
		s.produce(5) // not before: a fetch that was under way would still bring it to the one that has lost its partitions
		s.caughtUp(m1, m4)
		s.tell("commit sync", m1, m4)
		s.cut("rebalance by thaw")
		m4.tell(t, "leave")
		<-m4.exited
		s.settle(m1)
	}
	m1.tell(t, "leave")
	<-m1.exited
	s.wait("the group is empty", func() bool { return strings.HasPrefix(s.state(), "Empty") })
	s.cut("the last one leaves")
	return s
}

func (s *scenario) start(name string) *member {
	m := startMember(s.t, s.b, s.client, s.group, s.topic, name, s.assignor, paritySession)
	s.members = append(s.members, m)
	return m
}

// produce writes n records to each partition.
func (s *scenario) produce(n int) {
	s.t.Helper()
	var batch []*kgo.Record
	for p := range int32(parityPartitions) {
		for i := range n {
			batch = append(batch, &kgo.Record{Partition: p, Value: strconv.AppendInt(nil, s.end+int64(i), 10)})
		}
	}
	must(s.t, s.producer.ProduceSync(deadline(s.t, time.Minute), batch...).FirstErr())
	s.end += int64(n)
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
			events += len(heard)
			of := owned(heard)
			if len(of) != parityPartitions/len(members) {
				since = time.Time{}
				return false
			}
			maps.Copy(all, of)
		}
		if len(all) != parityPartitions || !strings.HasPrefix(s.state(), fmt.Sprintf("Stable, %d ", len(members))) {
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
		return len(at) == parityPartitions && lowest(at) == s.end
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
		committed[strconv.Itoa(int(o.Partition))] = o.At
	})
	st.group = []string{s.state(), "offsets " + s.offsetList(committed)}
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
			fmt.Fprintf(&text, "%s %+v\n", m.name, e)
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
//   - how a list of partitions is cut into several calls: sarama has one call per partition.
func (s *scenario) log() string {
	var text strings.Builder
	for _, st := range s.steps {
		fmt.Fprintf(&text, "== %s\n", st.name)
		for _, name := range slices.Sorted(maps.Keys(st.events)) {
			for _, line := range s.normalise(st.events[name]) {
				fmt.Fprintf(&text, "%s %s\n", name, line)
			}
		}
		for _, line := range st.group {
			fmt.Fprintf(&text, "group %s\n", line)
		}
	}
	return text.String()
}

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
		case "error":
			other("error " + e.Error)
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
			for p := range int32(parityPartitions) {
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
			if !thawed[e.member] {
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
		if parityDiff(s.client, bad.log(), log) == "" {
			t.Errorf("%s: the comparison does not see it", what)
		}
		if len(bad.faults()) <= len(s.faults()) {
			t.Errorf("%s: no fault is found", what)
		}
	}
	inject("an offset is skipped", "subscribe", "m1", func(events []memberEvent) []memberEvent {
		at := slices.IndexFunc(events, func(e memberEvent) bool { return e.Event == "read" && e.Offset == 5 })
		return slices.Delete(events, at, at+1)
	})
	inject("a partition has two owners", "rebalance by join", "m2", func(events []memberEvent) []memberEvent {
		mine := owned(events)
		for i := len(events) - 1; i >= 0; i-- {
			if events[i].Event == "assigned" && len(events[i].Partitions) > 0 {
				other := int32(0)
				for mine[other] {
					other++
				}
				events[i].Partitions = append(slices.Clone(events[i].Partitions), other)
				return events
			}
		}
		return events
	})
}

// parityDiff compares two logs line by line; what parityAllowed allows is no difference. Steps are compared one by one, so that one
// line too many does not make everything after it differ.
func parityDiff(client, got, want string) string {
	allowed := func(line string) bool {
		return slices.ContainsFunc(parityAllowed, func(a allowedDifference) bool {
			return a.client == client && regexp.MustCompile(a.line).MatchString(line)
		})
	}
	var diff strings.Builder
	gotSteps, wantSteps := strings.Split(got, "== "), strings.Split(want, "== ")
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
			fmt.Fprintf(&diff, "== %s\n%s\n", cmp.Or(append(w, g...)...), strings.Join(lines, "\n"))
		}
	}
	return diff.String()
}
