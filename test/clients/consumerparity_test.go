//go:build clients && linux

package clients

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// consumerParityRuns are the scenarios of groups that the broker assigns the partitions of: static members and patterns with each client
// that can, and groups that change from one protocol to the other.
func consumerParityRuns() []parityRun {
	var runs []parityRun
	for _, c := range parityClients {
		if c.remote() && !c.anyPartitions {
			runs = append(runs, parityRun{c.name() + "-static", c, (*scenario).staticMembers, "two static members", "two static members"})
			c.anyPartitions = true // topics are assigned in the order of their ids
			runs = append(runs, parityRun{c.name() + "-pattern", c, (*scenario).pattern, "subscribe", "rebalance by join"})
		}
	}
	for _, m := range migrations {
		// Members of the classic protocol are assigned in the order of their ids, those of the other by chance.
		m.old.anyPartitions, m.new.anyPartitions = true, true
		play := func(s *scenario) { s.migration(m.new) }
		if m.refused {
			play = func(s *scenario) { s.refusedMigration(m.new) }
		}
		runs = append(runs, parityRun{m.old.name() + "-to-" + m.new.name(), m.old, play, "one of the classic protocol", "two of the classic protocol"})
	}
	return runs
}

// migrations have clients of their own for the members of either protocol.
var migrations = []struct {
	old, new parityClient
	refused  bool // librdkafka's cooperative-sticky has data of its own in its assignments, which would be lost
}{
	{old: parityClient{client: "java", assignor: "range"}, new: parityClient{client: "java", assignor: "consumer-uniform"}},
	{old: parityClient{client: "java", assignor: "cooperative-sticky"}, new: parityClient{client: "confluent-kafka", assignor: "consumer-uniform"}},
	{old: parityClient{client: "confluent-kafka", assignor: "range"}, new: parityClient{client: "java", assignor: "consumer-range"}},
	{old: parityClient{client: "confluent-kafka", assignor: "range"}, new: parityClient{client: "confluent-kafka", assignor: "consumer-uniform"}},
	{old: parityClient{client: "confluent-kafka", assignor: "cooperative-sticky"}, new: parityClient{client: "confluent-kafka", assignor: "consumer-range"}, refused: true},
	{old: parityClient{client: "franz-go", assignor: "cooperative-sticky"}, new: parityClient{client: "franz-go", assignor: "consumer-uniform"}},
	{old: parityClient{client: "franz-go", assignor: "range"}, new: parityClient{client: "java", assignor: "consumer-uniform"}},
	{old: parityClient{client: "sarama", assignor: "range"}, new: parityClient{client: "java", assignor: "consumer-uniform"}},
	{old: parityClient{client: "kafkajs", assignor: "roundrobin"}, new: parityClient{client: "java", assignor: "consumer-uniform"}},
	{old: parityClient{client: "aiokafka", assignor: "range"}, new: parityClient{client: "confluent-kafka", assignor: "consumer-uniform"}},
}

// staticMembers: one that leaves and comes back finds its place; one with a name that is taken is refused; one that was killed loses its place
// after the session.
func (s *scenario) staticMembers() {
	s.setSession(maxParitySession) // so that a slow start of a client is not too late
	s.produce(10)
	m1 := s.startAs(s.parityClient, s.topic, "m1", "one")
	s.settle(m1)
	s.caughtUp(m1)
	m2 := s.startAs(s.parityClient, s.topic, "m2", "two")
	s.settle(m1, m2)
	s.produce(5)
	s.caughtUp(m1, m2)
	s.tell("commit sync", m1, m2)
	s.cut("two static members")

	if s.client != "franz-go" { // it says goodbye without the name of its instance, which both brokers refuse
		own := owned(m1.heard())
		s.leave(m2)
		s.produce(5)
		s.wait("the one that stayed reads what it had", func() bool {
			at := s.positions(m1)
			return len(at) == len(own) && lowest(at) == s.end
		})
		s.tell("commit sync", m1)
		s.cut("one leaves for a while")
		m2 = s.startAs(s.parityClient, s.topic, "m2-back", "two")
		s.settle(m1, m2)
		s.caughtUp(m1, m2)
		s.tell("commit sync", m2)
		s.cut("it comes back")
	}
	s.refused("m2-twice", s.topic, "two")
	s.produce(5)
	s.caughtUp(m1, m2)
	s.tell("commit sync", m1, m2)
	s.cut("a second one with its name")

	s.setSession(paritySession)
	s.settle(m1, m2) // takes some heartbeats, from which on it holds
	m2.kill(s.t)
	s.settle(m1)
	s.produce(5)
	s.caughtUp(m1)
	s.tell("commit sync", m1)
	s.cut("it crashes")
	s.leave(m1)
	if s.client != "franz-go" {
		s.cut("the last one leaves for a while")
	}
}

// maxParitySession is the longest that a broker allows by default.
const maxParitySession = time.Minute

// setSession changes the session timeout of the group's members of the consumer protocol.
func (s *scenario) setSession(to time.Duration) {
	s.t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeGroupConfig, s.group
	c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	c.Name, c.Value = "consumer.session.timeout.ms", kmsg.StringPtr(strconv.FormatInt(to.Milliseconds(), 10))
	r.Configs = append(r.Configs, c)
	req.Resources = append(req.Resources, r)
	resp, err := req.RequestWith(deadline(s.t, time.Minute), s.producer)
	must(s.t, err)
	must(s.t, kerr.ErrorForCode(resp.Resources[0].ErrorCode))
}

// refused starts a member that is told an error, or tells one to itself and ends, and ends it.
func (s *scenario) refused(name, subscription string, instance ...string) {
	s.t.Helper()
	s.mayFail[name] = true
	m := s.startAs(s.parityClient, subscription, name, instance...)
	s.wait(name+" is refused", func() bool {
		select {
		case <-m.exited:
			return true
		default:
			return slices.ContainsFunc(m.heard(), func(e memberEvent) bool { return e.Event == "error" })
		}
	})
	fmt.Fprintln(m.stdin, "leave") // unless it has ended
	s.exited(m)
}

// pattern: the broker resolves what members are subscribed to. A topic that comes later belongs to it; a pattern that is none is refused.
func (s *scenario) pattern() {
	pattern := "^" + s.topic + ".*"
	s.produce(10)
	m1 := s.startAs(s.parityClient, pattern, "m1")
	s.settle(m1)
	s.caughtUp(m1)
	s.tell("commit sync", m1)
	s.cut("subscribe")

	s.b.createTopic(s.topic+moreTopic, parityPartitions)
	more := numbersFrom(morePartition, parityPartitions)
	s.write(more, 0, int(s.end))
	s.partitions = append(s.partitions, more...)
	s.settle(m1)
	s.caughtUp(m1)
	s.tell("commit sync", m1)
	s.cut("a topic comes")

	m2 := s.startAs(s.parityClient, pattern, "m2")
	s.settle(m1, m2)
	s.produce(5)
	s.caughtUp(m1, m2)
	s.tell("commit async", m1, m2)
	s.cut("rebalance by join")
	s.leave(m1)
	s.settle(m2)
	m3 := s.startAs(s.parityClient, s.topic, "m3")
	s.settle(m2, m3)
	s.produce(5)
	s.caughtUp(m2, m3)
	s.tell("commit sync", m2, m3)
	s.cut("one subscribes to one of the topics by name")

	s.refused("m4", "^"+s.topic+"(.*")
	s.cut("a pattern that is none")
	s.leave(m3)
	s.settle(m2)
	s.leave(m2)
	s.wait("the group is empty", func() bool { return strings.HasPrefix(s.state(), "Empty") })
	s.cut("the last one leaves")
}

// migration changes a group to the consumer protocol and back while records come all the time, by members that join, leave and crash.
func (s *scenario) migration(modern parityClient) {
	m1, m2, commit, stop := s.beginMigration()
	defer stop()

	m3 := s.startAs(modern, s.topic, "m3")
	commit(m1, m2, m3)
	s.cut("upgrade by join")
	s.leave(m1)
	commit(m2, m3)
	s.cut("one of the classic protocol leaves")
	s.leave(m2)
	commit(m3)
	s.cut("none of the classic protocol is left")

	m4 := s.start("m4")
	commit(m3, m4)
	s.cut("one of the classic protocol joins")
	m5 := s.start("m5")
	commit(m3, m4, m5)
	s.cut("two of the classic protocol beside one of the other")
	s.leave(m3)
	commit(m4, m5)
	s.cut("downgrade by leave")

	m6 := s.startAs(modern, s.topic, "m6")
	commit(m4, m5, m6)
	s.cut("upgrade again")
	m6.kill(s.t)
	commit(m4, m5)
	s.cut("downgrade by crash")
	s.leave(m4)
	commit(m5)
	s.leave(m5)
	s.wait("the group is empty", func() bool { return strings.HasPrefix(s.state(), "Empty") })
	s.cut("the last one leaves")
}

// refusedMigration: a group that cannot be changed refuses members of the consumer protocol and goes on.
func (s *scenario) refusedMigration(modern parityClient) {
	m1, m2, commit, stop := s.beginMigration()
	defer stop()
	old := s.parityClient
	s.parityClient = modern
	s.refused("m3", s.topic)
	s.parityClient = old
	commit(m1, m2)
	s.cut("one of the consumer protocol is refused")
	s.leave(m1)
	s.leave(m2)
	s.wait("the group is empty", func() bool { return strings.HasPrefix(s.state(), "Empty") })
	s.cut("the last one leaves")
}

// beginMigration lets records come and two members of the classic protocol join. commit waits until the members share the partitions and have read
// what was there, and lets them commit.
func (s *scenario) beginMigration() (m1, m2 *member, commit func(members ...*member), stop func()) {
	s.t.Helper()
	s.partitions = numbersFrom(0, 6) // divisible by one, two and three members
	s.underLoad = true
	s.growTo(len(s.partitions))
	stop = s.load()
	commit = func(members ...*member) {
		s.t.Helper()
		s.settle(members...)
		s.progress(members...)
		s.tell("commit sync", members...)
	}
	m1 = s.start("m1")
	commit(m1)
	s.cut("one of the classic protocol")
	m2 = s.start("m2")
	commit(m1, m2)
	s.cut("two of the classic protocol")
	return m1, m2, commit, stop
}

// growTo gives the topic as many partitions.
func (s *scenario) growTo(partitions int) {
	s.t.Helper()
	done, err := s.admin.UpdatePartitions(deadline(s.t, time.Minute), partitions, s.topic)
	must(s.t, err)
	must(s.t, done.Error())
	s.wait("the new partitions are served", func() bool {
		ends, err := s.admin.ListEndOffsets(deadline(s.t, time.Minute), s.topic)
		return err == nil && ends.Error() == nil && len(ends[s.topic]) == partitions
	})
	s.produce(10)
}

// load writes records to each partition until it is stopped.
func (s *scenario) load() (stop func()) {
	ctx := deadline(s.t, time.Hour)
	end := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-tick.C:
			case <-end:
				tick.Stop()
				return
			}
			var batch []*kgo.Record
			for _, number := range s.partitions {
				topic, p := s.partition(number)
				batch = append(batch, &kgo.Record{Topic: topic, Partition: p, Value: []byte("load")})
			}
			if err := s.producer.ProduceSync(ctx, batch...).FirstErr(); err != nil {
				s.t.Errorf("under load: %v", err)
				return
			}
		}
	})
	stop = sync.OnceFunc(func() {
		close(end)
		writing.Wait()
	})
	s.t.Cleanup(stop) // where the scenario ends early
	return stop
}

// progress waits until the members have read what is there now.
func (s *scenario) progress(members ...*member) {
	s.t.Helper()
	ends, err := s.admin.ListEndOffsets(deadline(s.t, time.Minute), s.topic)
	must(s.t, err)
	must(s.t, ends.Error())
	s.wait("all that was there is read", func() bool {
		at := s.positions(members...)
		for p, end := range ends[s.topic] {
			if at[p] < end.Offset {
				return false
			}
		}
		return len(at) == len(s.partitions)
	})
}

// netChange is what a step has changed for a member, whatever the way: members of an eager protocol give everything back again and again.
func (s *scenario) netChange(chance bool, before, events []memberEvent) []string {
	had, has := owned(before), owned(slices.Concat(before, events))
	same := 0
	for p := range has {
		if had[p] {
			same++
		}
	}
	var lines []string
	for _, e := range events {
		switch e.Event {
		case "lost", "left", "killed":
			lines = append(lines, e.Event)
		case "error":
			lines = append(lines, "error "+e.Error)
		case "committed":
			lines = append(lines, "committed "+s.offsetList(e.Offsets))
		}
	}
	switch {
	case len(had)+len(has) == 0:
		return lines
	case chance:
		return append(lines, fmt.Sprintf("has %d partitions", len(has)))
	}
	return append(lines, fmt.Sprintf("has %d partitions, %d of them as before", len(has), same))
}
