package group

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"moldau/internal/wire"
)

// smallID is an id that Kafka prints as a small number.
func smallID(n int) (id wire.UUID) {
	id[14], id[15] = byte(n>>8), byte(n)
	return id
}

// testTopic is a topic without racks.
func testTopic(name string, id, partitions int) *TopicMetadata {
	return NewTopicMetadata(name, smallID(id), make([][]string, partitions))
}

// metadataOf is a cluster with these topics.
func metadataOfTopics(version int64, topics ...*TopicMetadata) *Metadata {
	slices.SortFunc(topics, func(a, b *TopicMetadata) int { return strings.Compare(a.Name, b.Name) })
	m := Metadata{Version: version, NewTopics: version, Settings: GroupSettings{SessionTimeoutMs: 45_000, HeartbeatIntervalMs: 5000, AssignmentIntervalMs: 1000}}
	return m.WithTopics(topics)
}

func testMetadata() *Metadata {
	return metadataOfTopics(1, testTopic("t", 1, 4), testTopic("u", 2, 2), testTopic("v", 3, 3))
}

func optional(s *string) string {
	if s == nil {
		return "-"
	}
	return "=" + *s
}

// hardConsumer prints what is folded from the log.
func hardConsumer(c *consumer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "  consumer group %+v made %+v topics %v\n", c.group, c.made, c.topicRecord)
	if c.group != nil {
		fmt.Fprintf(&b, "  epoch %+v\n", *c.group)
	}
	if c.made != nil {
		fmt.Fprintf(&b, "  target %+v\n", *c.made)
	}
	for _, id := range c.members.names() {
		m := c.members.get(id)
		fmt.Fprintf(&b, "  member %s %v %v instance %s rack %s client %q %q topics %q pattern %q timeout %d assignor %s classic %+v\n", id, m.hasMeta, m.hasCurrent,
			optional(m.instanceID), optional(m.rack), m.clientID, m.clientHost, m.topics, m.pattern, m.rebalanceTimeoutMs, optional(m.assignor), m.classic)
		fmt.Fprintf(&b, "    epoch %d before %d state %d has %v gives back %v\n", m.epoch, m.previous, m.state, m.assigned, m.revoking)
		if m.instanceID != nil && c.static.get(*m.instanceID) != id {
			b.WriteString("    NOT FOUND BY INSTANCE\n")
		}
	}
	for _, id := range c.targets.names() {
		fmt.Fprintf(&b, "  target of %s: %v\n", id, c.targets.get(id))
	}
	for _, p := range sortedKeysOf(c.patterns) {
		fmt.Fprintf(&b, "  pattern %s: %+v\n", p, *c.patterns[p])
	}
	return strings.ReplaceAll(b.String(), "&", "")
}

// consistentConsumer checks what a consumer group derives from its records, and its invariants.
func consistentConsumer(s *Shard, g *group) error {
	c := g.consumer
	if c.none() {
		return fmt.Errorf("a consumer group without a record")
	}
	if t := c.target(); t.epoch > c.epoch() || c.members.len() == 0 && t.epoch != c.epoch() {
		return fmt.Errorf("group epoch %d, target epoch %d, %d members", c.epoch(), t.epoch, c.members.len())
	}
	fresh := newConsumer()
	static := map[string]string{}
	for _, id := range c.members.names() {
		m := c.members.get(id)
		if m.epoch > c.target().epoch {
			return fmt.Errorf("member %s has epoch %d, its target %d", id, m.epoch, c.target().epoch)
		}
		if !m.hasMeta || !m.hasCurrent {
			return fmt.Errorf("member %s has half of its records", id)
		}
		if m.instanceID != nil {
			static[*m.instanceID] = id
		}
		for _, has := range []shares{m.assigned, m.revoking} {
			if !has.isNormal() {
				return fmt.Errorf("member %s has %v", id, has)
			}
			for _, x := range has {
				for _, p := range x.parts {
					tp := topicPartition{x.topic, p}
					if fresh.holders.epoch(tp) != unheld {
						return fmt.Errorf("%v has two holders, one is %s", tp, id)
					}
					fresh.holders.set(tp, m.epoch)
				}
			}
		}
		if w := s.watches[watchKey{g.id, id}]; w == nil || !w.alarms[toLive].armed {
			return fmt.Errorf("nobody looks after member %s", id)
		} else if m.owes() && !w.alarms[toRevoke].armed {
			return fmt.Errorf("member %s may take its time to give back", id)
		}
		if m.pattern != "" && c.patterns[m.pattern] == nil {
			return fmt.Errorf("nobody knows what %q of member %s stands for", m.pattern, id)
		}
	}
	if !maps.Equal(fresh.holders.epochs, c.holders.epochs) && len(fresh.holders.epochs)+len(c.holders.epochs) > 0 {
		return fmt.Errorf("holders are %v, want %v", c.holders.epochs, fresh.holders.epochs)
	}
	if !maps.Equal(static, maps.Collect(c.static.all())) || c.static.len() != len(static) {
		return fmt.Errorf("static members are %v, want %v", c.static.names(), static)
	}
	for p := range c.patterns {
		if c.users(p) == 0 {
			return fmt.Errorf("pattern %q is remembered for nobody", p)
		}
	}
	for id := range c.targets.all() {
		if c.members.get(id) == nil {
			return fmt.Errorf("a target for %s, who is no member", id)
		}
	}
	topics, ids := c.subscribed, c.ids
	c.subscribed, c.ids = nil, nil
	if topics != nil && !slices.Equal(topics, c.topics()) || ids != nil && !slices.Equal(ids, c.order()) {
		return fmt.Errorf("what was remembered is wrong: %v %v", topics, ids)
	}
	return nil
}

// goldenLines reads a file of testdata, which Kafka 4.3.1's own code has written.
func goldenLines(t *testing.T, name string) [][]string {
	t.Helper()
	f, err := os.Open("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	var out [][]string
	for s := bufio.NewScanner(f); s.Scan(); {
		out = append(out, strings.Fields(s.Text()))
	}
	if len(out) == 0 {
		t.Fatal(name + " is empty")
	}
	return out
}

// javaID is an id made of two numbers.
func javaID(hi, lo uint64) (id wire.UUID) {
	for i := range 8 {
		id[i], id[8+i] = byte(hi>>(56-8*i)), byte(lo>>(56-8*i))
	}
	return id
}

func TestConsumerRecordsAreKafkas(t *testing.T) {
	str := func(s string) *string { return &s }
	id := func(n uint64) wire.UUID { return javaID(0x0102030405060708, n) }
	meta := memberMeta{instanceID: str("i"), rack: str("r"), clientID: "c", clientHost: "/127.0.0.1", topics: []string{"t", "u"}, pattern: "t.*", rebalanceTimeoutMs: 300_000, assignor: str("uniform")}
	plain := memberMeta{rebalanceTimeoutMs: -1}
	classic := memberMeta{clientID: "c", clientHost: "/127.0.0.1", topics: []string{"t"}, rebalanceTimeoutMs: 60_000,
		classic: &classicPart{45_000, []protocol{{"range", []byte{1, 2, 3}}, {name: "sticky"}}}}
	cur := current{epoch: 10, previous: 9, state: unrevoked, assigned: shares{{id(1), []int32{0, 2}, []int32{4, 10}}, {id(2), []int32{1}, []int32{3}}},
		revoking: shares{{id(3), []int32{7}, []int32{8}}}}
	pattern := resolved{topics: []string{"t", "tt"}, version: 42, resolvedMs: 1_700_000_000_456}
	ours := map[string]struct{ key, value []byte }{}
	for name, r := range map[string]struct{ Key, Value []byte }{
		"group":                  groupEpoch{7, -1234567890123}.record("g"),
		"group-zero-hash":        groupEpoch{epoch: 7}.record("g"),
		"group-tombstone":        consumerTombstone(keyConsumer, "g"),
		"topics-tombstone":       consumerTombstone(keyConsumerTopics, "g"),
		"member":                 meta.record("g", "m"),
		"member-plain":           plain.record("g", "m"),
		"member-classic":         classic.record("g", "m"),
		"member-tombstone":       consumerTombstone(keyConsumerMember, "g", "m"),
		"target-epoch":           targetEpoch{9, 1_700_000_000_123}.record("g"),
		"target-epoch-no-time":   targetEpoch{epoch: 9}.record("g"),
		"target-epoch-tombstone": consumerTombstone(keyTargetEpoch, "g"),
		"target":                 targetRecord("g", "m", shares{{topic: id(1), parts: []int32{0, 1, 300}}, {topic: id(2), parts: []int32{5}}}),
		"target-empty":           targetRecord("g", "m", nil),
		"target-tombstone":       consumerTombstone(keyTarget, "g", "m"),
		"current":                cur.record("g", "m"),
		"current-tombstone":      consumerTombstone(keyCurrent, "g", "m"),
		"pattern":                pattern.record("g", "t.*"),
		"pattern-tombstone":      consumerTombstone(keyConsumerPattern, "g", "t.*"),
	} {
		ours[name] = struct{ key, value []byte }{r.Key, r.Value}
	}
	s := New(testConfig(), testMetadata(), counter())
	for _, line := range goldenLines(t, "kafka-4.3.1-records.txt") {
		name := line[0]
		key, err := hex.DecodeString(line[1])
		if err != nil {
			t.Fatal(err)
		}
		var value []byte
		if line[2] != "-" {
			if value, err = hex.DecodeString(line[2]); err != nil {
				t.Fatal(err)
			}
		}
		if o, ok := ours[name]; ok {
			if string(o.key) != string(key) || string(o.value) != string(value) || (o.value == nil) != (value == nil) {
				t.Errorf("%s:\nours  %x %x\nKafka %x %x", name, o.key, o.value, key, value)
			}
			delete(ours, name)
		}
		if err := s.Replay(shardRecord(key, value)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if value == nil {
			continue
		}
		// What we read is what we would write: records in Kafka's bytes come back as they were.
		k, err := parseKey(key)
		if err != nil {
			t.Fatal(err)
		}
		c := s.groups["g"].consumer
		var again []byte
		switch m := c.members.get("m"); k.kind {
		case keyConsumer:
			again = c.group.record("g").Value
		case keyTargetEpoch:
			again = c.made.record("g").Value
		case keyConsumerMember:
			again = m.memberMeta.record("g", "m").Value
		case keyTarget:
			again = targetRecord("g", "m", c.targets.get("m")).Value
		case keyCurrent:
			again = m.current.record("g", "m").Value
			if name == "current-without-epochs" {
				if want := (shares{{id(1), []int32{0, 2}, []int32{10, 10}}}); !m.assigned.equal(want) || m.state != unreleased {
					t.Errorf("%s is read as %+v", name, m.current)
				}
				again = value
			}
		case keyConsumerPattern:
			again = c.patterns["t.*"].record("g", "t.*").Value
		default:
			again = value
		}
		if string(again) != string(value) {
			t.Errorf("%s comes back as %x, was %x", name, again, value)
		}
	}
	if len(ours) > 0 {
		t.Errorf("Kafka's records of these are missing: %v", sortedKeysOf(ours))
	}
	if len(s.groups) != 0 {
		t.Errorf("after all tombstones remains %+v", s.groups["g"].consumer)
	}
}

func TestHashesAreKafkas(t *testing.T) {
	m := (Metadata{}).WithTopics([]*TopicMetadata{
		NewTopicMetadata("a-longer.topic_name", javaID(0x0102030405060708, 1<<64-5), [][]string{{"b", "a"}, {"a"}, {"rack-1", "rack-0", "rack-2"}}),
		NewTopicMetadata("empty", javaID(3, 4), nil),
		NewTopicMetadata("t", javaID(1, 2), [][]string{{}, {}, {}}),
	})
	for _, line := range goldenLines(t, "kafka-4.3.1-hashes.txt") {
		want, err := strconv.ParseInt(line[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		var got int64
		switch line[0] {
		case "bytes":
			n, _ := strconv.Atoi(line[1])
			b := make([]byte, n)
			for i := range b {
				b[i] = byte(i*31 + 7)
			}
			got = int64(xxh3(b))
		case "topic":
			got = m.topic(line[1]).hash
		case "group":
			got = m.hash([]string{"a-longer.topic_name", "empty", "not there", "t"})
		}
		if got != want {
			t.Errorf("%s %s is %d, want %d", line[0], line[1], got, want)
		}
	}
	if got := m.hash([]string{"not there"}); got != 0 {
		t.Errorf("nothing has the hash %d", got)
	}
}

func parseShares(text string) (out shares) {
	if text == "-" {
		return nil
	}
	for _, part := range strings.Split(text, ";") {
		id, list, _ := strings.Cut(part, ":")
		n, _ := strconv.Atoi(id)
		x := share{topic: smallID(n)}
		for _, p := range strings.Split(list, ",") {
			v, _ := strconv.Atoi(p)
			x.parts = append(x.parts, int32(v))
		}
		out = append(out, x)
	}
	return out
}

func TestAssignorsAreKafkas(t *testing.T) {
	lines := goldenLines(t, "kafka-4.3.1-assignments.txt")
	cases := 0
	for len(lines) > 0 {
		head := lines[0]
		lines = lines[1:]
		n := slices.IndexFunc(lines, func(l []string) bool { return l[0] == "case" })
		if n < 0 {
			n = len(lines)
		}
		members := lines[:n]
		lines = lines[n:]
		var topics []*TopicMetadata
		for i, p := range strings.Split(head[3], ",") {
			partitions, _ := strconv.Atoi(p)
			topics = append(topics, testTopic(fmt.Sprint("t", i), i, partitions))
		}
		taken := map[topicPartition]bool{}
		a := assignment{same: head[2] == "true", taken: func(topic wire.UUID, p int32) bool { return taken[topicPartition{topic, p}] }}
		for _, m := range members {
			c := candidate{id: m[0], static: m[1] != "-", instanceID: m[1], has: parseShares(m[3])}
			for _, x := range c.has {
				for _, p := range x.parts {
					taken[topicPartition{x.topic, p}] = true
				}
			}
			if m[2] != "-" {
				for _, x := range strings.Split(m[2], ",") {
					i, _ := strconv.Atoi(x)
					c.topics = append(c.topics, topics[i])
				}
			}
			a.candidates = append(a.candidates, c)
		}
		got := a.assign(head[1])
		for i, m := range members {
			if want := parseShares(m[4]); !got[i].sameParts(want) {
				t.Fatalf("case %d %v\n%v\nmember %s is given %v, want %v", cases, head, members, m[0], got[i], want)
			}
		}
		cases++
	}
	if cases < 400 {
		t.Errorf("%d cases", cases)
	}
}
