package group

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

func metadata(s string) func(*kmsg.OffsetCommitRequest) {
	return func(q *kmsg.OffsetCommitRequest) { q.Topics[0].Partitions[0].Metadata = &s }
}

func topicID(id byte) func(*kmsg.OffsetCommitRequest) {
	return func(q *kmsg.OffsetCommitRequest) { q.Topics[0].TopicID = wire.UUID{id} }
}

func TestCommitWithoutMembers(t *testing.T) {
	r := newRig(t)
	r.commitFails("x", 3, wire.GroupIDNotFound)
	r.commitFails("x", 3, wire.IllegalGeneration, func(q *kmsg.OffsetCommitRequest) { q.Version = 8 })
	r.commits("", -1, "t", 2, 20, metadata("m"))
	r.commits("", -1, "t", 1, 10)
	r.commits("", -1, "a", 0, 5)
	r.fetches("t", 2, 20)
	r.commits("", -1, "t", 2, 19)
	r.fetches("t", 2, 19)
	r.state("Empty")
	r.commitFails("x", 0, wire.UnknownMemberID) // a generation that the group never had
	r.restart()
	r.fetches("t", 2, 19)

	req := kmsg.NewOffsetFetchRequestGroup()
	req.Group = "g"
	tk := r.ticket()
	r.do(r.s.OffsetFetch(r.now, tk, true, &req))
	var got strings.Builder
	for _, x := range answer[*kmsg.OffsetFetchResponseGroup](r, tk).Topics {
		for _, p := range x.Partitions {
			fmt.Fprintf(&got, "%s-%d=%d/%d/%q ", x.Topic, p.Partition, p.Offset, p.LeaderEpoch, *p.Metadata)
		}
	}
	if want := `a-0=5/7/"" t-1=10/7/"" t-2=19/7/"" `; got.String() != want {
		t.Fatalf("%s, want %s", got.String(), want)
	}
	req.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
	tk = r.ticket()
	r.do(r.s.OffsetFetch(r.now, tk, true, &req))
	if n := len(answer[*kmsg.OffsetFetchResponseGroup](r, tk).Topics); n != 0 {
		t.Fatalf("%d topics of none", n)
	}
}

func TestCommitOfMembers(t *testing.T) {
	r := newRig(t)
	ids, gen := r.stable(2)
	r.commits(ids[0], gen, "t", 0, 1)
	r.commitFails(ids[0], gen-1, wire.IllegalGeneration)
	r.commitFails(ids[0], -1, wire.IllegalGeneration)
	r.commitFails("x", gen, wire.UnknownMemberID)
	r.commitFails("", -1, wire.UnknownMemberID) // a simple consumer, or an administrator, while members are there
	r.commitFails(ids[0], gen, wire.UnknownMemberID, func(q *kmsg.OffsetCommitRequest) { q.InstanceID = rbInstance("i") })
	r.fetches("t", 0, 1)
	r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: ids[0]}, kmsg.LeaveGroupRequestMember{MemberID: ids[1]})
	r.commitFails(ids[0], gen, wire.UnknownMemberID)
	r.commits("", -1, "t", 0, 2)
}

func TestCommitMetadata(t *testing.T) {
	r := newRig(t)
	r.commits("", -1, "t", 0, 1, metadata(strings.Repeat("é", 64)))
	r.commitFails("", -1, wire.OffsetMetadataTooLarge, metadata(strings.Repeat("x", 65)))
	r.commitFails("", -1, wire.OffsetMetadataTooLarge, metadata(strings.Repeat("🙂", 33)))
	// The other partitions of the request are committed.
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation, req.Version = "g", -1, 9
	long := strings.Repeat("x", 65)
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	bad := p
	p.Offset, bad.Partition, bad.Metadata = 77, 1, &long
	req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "u", Partitions: []kmsg.OffsetCommitRequestTopicPartition{bad, p}}}
	tk := r.ticket()
	r.do(r.s.OffsetCommit(r.now, tk, req))
	parts := answer[*kmsg.OffsetCommitResponse](r, tk).Topics[0].Partitions
	r.code(parts[0].ErrorCode, wire.OffsetMetadataTooLarge)
	r.code(parts[1].ErrorCode, wire.None)
	r.fetches("u", 0, 77)
	r.fetches("u", 1, -1)
}

func TestOffsetsOfANamesakeAreVoid(t *testing.T) {
	r := newRig(t)
	r.commits("", -1, "t", 0, 5, topicID(1))
	r.commits("", -1, "t", 1, 6)
	r.fetches("t", 0, 5, wire.UUID{1})
	r.fetches("t", 0, 5) // the caller does not know
	r.fetches("t", 0, -1, wire.UUID{2})
	r.fetches("t", 1, 6, wire.UUID{2}) // nor does the record
	r.restart()
	r.fetches("t", 0, -1, wire.UUID{2})
	r.commits("", -1, "t", 2, 7, topicID(2))
	req := kmsg.NewOffsetFetchRequestGroup()
	req.Group = "g"
	tk := r.ticket()
	r.do(r.s.OffsetFetch(r.now, tk, false, &req))
	got := ""
	for _, x := range answer[*kmsg.OffsetFetchResponseGroup](r, tk).Topics {
		got += fmt.Sprintf("%s/%d:%d ", x.Topic, x.TopicID[0], x.Partitions[0].Offset)
	}
	if got != "t/1:5 t/0:6 t/2:7 " {
		t.Fatal(got)
	}
}

func (r *rig) topicsDeleted(topics ...Topic) {
	r.Helper()
	r.do(r.s.TopicsDeleted(r.now, topics))
	r.pass(0)
}

func TestTopicsDeleted(t *testing.T) {
	r := newRig(t)
	r.commits("", -1, "t", 0, 1, topicID(1))
	r.commits("", -1, "t", 1, 2, topicID(2))
	r.commits("", -1, "t", 2, 3)
	r.commits("", -1, "u", 0, 4)
	r.topicsDeleted(Topic{"t", wire.UUID{1}}, Topic{"v", wire.UUID{9}})
	r.fetches("t", 0, -1)
	r.fetches("t", 1, 2)
	r.fetches("t", 2, -1)
	r.fetches("u", 0, 4)
	r.refuse = wire.NotEnoughReplicas // tried again
	r.topicsDeleted(Topic{"u", wire.UUID{3}})
	r.fetches("u", 0, 4)
	r.pass(1000)
	r.fetches("u", 0, -1)
	r.topicsDeleted(Topic{"t", wire.UUID{2}})
	r.state("Dead") // a group of offsets goes with them
}

func TestManyOffsetsAreForgottenInPortions(t *testing.T) {
	r := newRig(t)
	r.newID()
	many := func(q *kmsg.OffsetCommitRequest) {
		for i := range 700 {
			p := q.Topics[0].Partitions[0]
			p.Partition = int32(i)
			q.Topics[0].Partitions = append(q.Topics[0].Partitions, p)
		}
	}
	fill := func() {
		for _, g := range []string{"g", "h", "i"} {
			for _, topic := range []string{"t", "u", "v"} {
				r.commits("", -1, topic, 0, 1, many, func(q *kmsg.OffsetCommitRequest) { q.Group = g })
			}
		}
	}
	fill()
	r.do(r.s.TopicsDeleted(r.now, []Topic{{"t", wire.UUID{1}}, {"v", wire.UUID{1}}}))
	ticks := 0
	for r.s.Deadline() <= r.now.MonoMs {
		if ticks++; ticks == 2 {
			r.refuse = wire.RequestTimedOut
		}
		r.do(r.s.Tick(r.now))
		if r.written > portionRecords+10 {
			t.Fatalf("%d records at once", r.written)
		}
		if ticks == 2 {
			r.now.MonoMs += 1000
		}
	}
	if n := len(r.s.groups["h"].offsets); n != 1 || ticks < 5 {
		t.Fatalf("%d topics after %d ticks", n, ticks)
	}
	fill()
	tk := r.ticket()
	r.do(r.s.DeleteGroup(r.now, tk, "g"))
	r.waits(tk)
	r.commits("", -1, "w", 0, 9)
	r.pass(0)
	r.code(answer[*kmsg.DeleteGroupsResponseGroup](r, tk).ErrorCode, wire.None)
	r.state("Dead")
	r.fetches("w", 0, -1)
	r.checkFold()
	// Members come while it is deleted.
	fill()
	tk = r.ticket()
	r.do(r.s.DeleteGroup(r.now, tk, "g"))
	r.join("", version(0))
	r.pass(0)
	r.code(answer[*kmsg.DeleteGroupsResponseGroup](r, tk).ErrorCode, wire.NonEmptyGroup)
	// It cannot be written.
	tk = r.ticket()
	r.refuse = wire.NotEnoughReplicas
	r.do(r.s.DeleteGroup(r.now, tk, "h"))
	r.pass(0)
	r.code(answer[*kmsg.DeleteGroupsResponseGroup](r, tk).ErrorCode, wire.CoordinatorNotAvailable)
}

func TestOffsetsExpire(t *testing.T) {
	const hour, check = 3_600_000, 600_000
	t.Run("without members, from the commit", func(t *testing.T) {
		r := newRig(t)
		r.commits("", -1, "t", 0, 1)
		r.pass(hour / 2)
		r.commits("", -1, "t", 1, 2)
		r.pass(hour/2 - check)
		r.fetches("t", 0, 1)
		r.pass(2 * check)
		r.fetches("t", 0, -1)
		r.fetches("t", 1, 2)
		r.pass(hour / 2)
		r.state("Dead")
	})
	t.Run("of a group, from when it became empty, or later", func(t *testing.T) {
		r := newRig(t)
		ids, gen := r.stable(1)
		r.commits(ids[0], gen, "t", 0, 1)
		for range 2 * hour / 9000 { // long past the retention, in use
			r.pass(9000)
			r.heartbeat(ids[0], gen, wire.None)
		}
		r.fetches("t", 0, 1)
		r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: ids[0]})
		r.pass(hour - check)
		r.fetches("t", 0, 1)
		r.restart()
		r.commits("", -1, "t", 1, 2)
		r.pass(2 * check)
		r.fetches("t", 0, -1)
		r.fetches("t", 1, 2)
		r.state("Empty")
		r.pass(hour)
		r.state("Dead")
		if last := r.log[len(r.log)-1]; last.Key[1] != keyGroup || last.Value != nil {
			t.Fatalf("no tombstone of the group: %x", last.Key)
		}
	})
	t.Run("of a live group, what nobody subscribes to", func(t *testing.T) {
		r := newRig(t)
		r.commits("", -1, "u", 0, 1)
		ids, gen := r.stable(1)
		r.commits(ids[0], gen, "t", 0, 2)
		for range 2 * hour / 9000 {
			r.pass(9000)
			r.heartbeat(ids[0], gen, wire.None)
		}
		r.fetches("u", 0, -1)
		r.fetches("t", 0, 2)
	})
	t.Run("of a live group with unknown subscriptions, nothing", func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.InitialRebalanceDelayMs = 0 })
		r.commits("", -1, "u", 0, 1)
		a := r.joined(r.join("", version(0), func(q *kmsg.JoinGroupRequest) { q.Protocols[0].Metadata = []byte{0, 1, 0, 0, 0, 9} })).MemberID
		r.synced(r.sync(a, 1, nil), "")
		for range 2 * hour / 9000 {
			r.pass(9000)
			r.heartbeat(a, 1, wire.None)
		}
		r.fetches("u", 0, 1)
	})
	t.Run("with a retention of their own", func(t *testing.T) {
		r := newRig(t)
		r.commits("", -1, "t", 0, 1, func(q *kmsg.OffsetCommitRequest) { q.Version, q.RetentionTimeMillis = 4, 1000 })
		r.commits("", -1, "t", 1, 2, func(q *kmsg.OffsetCommitRequest) { q.Version, q.RetentionTimeMillis = 4, 3*hour })
		r.commits("", -1, "t", 2, 3, func(q *kmsg.OffsetCommitRequest) { q.Version, q.RetentionTimeMillis = 4, math.MaxInt64 })
		r.restart()
		r.pass(check)
		r.fetches("t", 0, -1)
		r.fetches("t", 1, 2)
		r.pass(4 * hour)
		r.fetches("t", 1, -1)
		r.fetches("t", 2, 3)
	})
	t.Run("tried again", func(t *testing.T) {
		r := newRig(t)
		r.commits("", -1, "t", 0, 1)
		r.pass(hour - 1)
		r.refuse = wire.NotEnoughReplicas
		r.pass(check)
		r.state("Dead")
	})
}

func (r *rig) offsetDelete(topic string, p int32) *kmsg.OffsetDeleteResponse {
	r.Helper()
	req := kmsg.NewPtrOffsetDeleteRequest()
	req.Group = "g"
	req.Topics = []kmsg.OffsetDeleteRequestTopic{{Topic: topic, Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: p}}}}
	t := r.ticket()
	r.do(r.s.OffsetDelete(r.now, t, req))
	return answer[*kmsg.OffsetDeleteResponse](r, t)
}

func TestOffsetDelete(t *testing.T) {
	r := newRig(t)
	r.code(r.offsetDelete("t", 0).ErrorCode, wire.GroupIDNotFound)
	r.commits("", -1, "t", 0, 1)
	r.commits("", -1, "u", 0, 2)
	r.commits("", -1, "u", 1, 3)
	r.stable(1)
	r.code(r.offsetDelete("t", 0).Topics[0].Partitions[0].ErrorCode, wire.GroupSubscribedToTopic)
	r.fetches("t", 0, 1)
	r.code(r.offsetDelete("u", 0).Topics[0].Partitions[0].ErrorCode, wire.None)
	r.fetches("u", 0, -1)
	r.fetches("u", 1, 3)
	if r.offsetDelete("u", 7); r.written != 0 {
		t.Fatal("a tombstone for nothing")
	}
	// A group of another kind: nobody knows what it uses.
	r = newRig(t, func(c *Config) { c.InitialRebalanceDelayMs = 0 })
	r.commits("", -1, "t", 0, 1)
	a := r.joined(r.join("", version(0), func(q *kmsg.JoinGroupRequest) { q.ProtocolType = "connect" })).MemberID
	r.code(r.offsetDelete("t", 0).ErrorCode, wire.NonEmptyGroup)
	r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: a})
	r.code(r.offsetDelete("t", 0).Topics[0].Partitions[0].ErrorCode, wire.None)
	r.fetches("t", 0, -1)
}

func TestDeleteGroup(t *testing.T) {
	r := newRig(t)
	r.deleteGroup(wire.GroupIDNotFound)
	ids, gen := r.stable(1)
	r.commits(ids[0], gen, "t", 0, 1)
	r.deleteGroup(wire.NonEmptyGroup)
	r.fetches("t", 0, 1)
	r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: ids[0]})
	r.deleteGroup(wire.None)
	r.state("Dead")
	r.fetches("t", 0, -1)
	r.restart()
	r.state("Dead")
}

func TestCommitsAllocateLittle(t *testing.T) {
	s := New(testConfig(), testMetadata(), counter())
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation, req.Version = "g", -1, 9
	topic := kmsg.OffsetCommitRequestTopic{Topic: "some-topic"}
	for i := range 100 {
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition = int32(i)
		topic.Partitions = append(topic.Partitions, p)
	}
	req.Topics = []kmsg.OffsetCommitRequestTopic{topic}
	n := testing.AllocsPerRun(100, func() {
		for _, rec := range s.OffsetCommit(s.now, 1, req).Records {
			if err := s.Replay(rec); err != nil {
				t.Fatal(err)
			}
		}
	})
	if n > 10 {
		t.Fatalf("%v allocations to commit 100 partitions again", n)
	}
}

func BenchmarkOffsetCommit100(b *testing.B) {
	s := New(testConfig(), testMetadata(), counter())
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation, req.Version = "g", -1, 9
	topic := kmsg.OffsetCommitRequestTopic{Topic: "some-topic"}
	for i := range 100 {
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition = int32(i)
		topic.Partitions = append(topic.Partitions, p)
	}
	req.Topics = []kmsg.OffsetCommitRequestTopic{topic}
	b.ReportAllocs()
	for b.Loop() {
		for _, rec := range s.OffsetCommit(s.now, 1, req).Records {
			if err := s.Replay(rec); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkHeartbeatIn5000Groups(b *testing.B) {
	s := New(testConfig(), testMetadata(), counter())
	s.Loaded(s.now)
	for i := range 5000 {
		rec := groupRecord{protocolType: consumerType, protocol: "range", leader: "m0", generation: 1}
		for j := range 10 {
			rec.members = append(rec.members, memberRecord{id: fmt.Sprintf("m%d", j), sessionTimeoutMs: 45_000, rebalanceTimeoutMs: 45_000})
		}
		if err := s.Replay(shardRecord(groupKey(fmt.Sprintf("g%d", i)), rec.encode())); err != nil {
			b.Fatal(err)
		}
	}
	s.Loaded(s.now)
	req := kmsg.NewPtrHeartbeatRequest()
	req.Generation, req.MemberID = 1, "m3"
	now := s.now
	i := 0
	b.ReportAllocs()
	for b.Loop() {
		i++
		req.Group = "g" + fmt.Sprint(i%5000)
		s.Heartbeat(now, 1, req)
		s.Deadline()
	}
}
