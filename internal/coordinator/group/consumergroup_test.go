package group

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

// consumerReq is the heartbeat of a member of "g": a full one when it joins, else the shortest.
func consumerReq(id string, epoch int32, change ...func(*kmsg.ConsumerGroupHeartbeatRequest)) *kmsg.ConsumerGroupHeartbeatRequest {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.MemberEpoch = 1, "g", id, epoch
	req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.Topics = -1, nil, nil
	if epoch == 0 {
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.Topics = 60_000, []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	}
	for _, f := range change {
		f(req)
	}
	return req
}

type heartbeatChange = func(*kmsg.ConsumerGroupHeartbeatRequest)

func topicNames(names ...string) heartbeatChange {
	return func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.SubscribedTopicNames = names }
}

func topicPattern(p string) heartbeatChange {
	return func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.SubscribedTopicNames, q.SubscribedTopicRegex = nil, &p }
}

func as(instanceID string) heartbeatChange {
	return func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.InstanceID = &instanceID }
}

// owning says what the member has: "1:0,1;2:3".
func owning(text string) heartbeatChange {
	return func(q *kmsg.ConsumerGroupHeartbeatRequest) {
		q.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		for _, x := range parseShares(text) {
			q.Topics = append(q.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: x.topic, Partitions: x.parts})
		}
	}
}

func (r *rig) beatAny(id string, epoch int32, change ...heartbeatChange) *kmsg.ConsumerGroupHeartbeatResponse {
	r.Helper()
	t := r.ticket()
	r.do(r.s.ConsumerGroupHeartbeat(r.now, t, testClient, consumerReq(id, epoch, change...)))
	if err := consistent(r.s); err != nil {
		r.Fatal(err)
	}
	return answer[*kmsg.ConsumerGroupHeartbeatResponse](r, t)
}

// beat is a heartbeat that is answered with an epoch and, unless want is "same", an assignment.
func (r *rig) beat(id string, epoch, wantEpoch int32, want string, change ...heartbeatChange) {
	r.Helper()
	a := r.beatAny(id, epoch, change...)
	r.code(a.ErrorCode, wire.None)
	if a.MemberEpoch != wantEpoch || a.MemberID == nil || *a.MemberID != id {
		r.Fatalf("%s in epoch %d is answered with epoch %d, want %d", *a.MemberID, epoch, a.MemberEpoch, wantEpoch)
	}
	got := "same"
	if a.Assignment != nil {
		var has shares
		for _, x := range a.Assignment.Topics {
			has = append(has, share{topic: x.TopicID, parts: x.Partitions})
		}
		got = printShares(has)
	}
	if got != want {
		r.Fatalf("%s is told %s, want %s", id, got, want)
	}
}

func (r *rig) beatFails(id string, epoch int32, want wire.Code, change ...heartbeatChange) {
	r.Helper()
	before := len(r.log)
	a := r.beatAny(id, epoch, change...)
	r.code(a.ErrorCode, want)
	if a.ErrorMessage == nil || *a.ErrorMessage == "" {
		r.Fatal("there is no message")
	}
	if a.Assignment != nil || len(r.log) != before {
		r.Fatal("a refused heartbeat has an assignment or a record")
	}
}

func printShares(s shares) string {
	var out []string
	for _, x := range s {
		out = append(out, fmt.Sprintf("%d:%s", x.topic[15], strings.Trim(strings.ReplaceAll(fmt.Sprint(x.parts), " ", ","), "[]")))
	}
	if out == nil {
		return "-"
	}
	return strings.Join(out, ";")
}

func (r *rig) consumerState(want string) {
	r.Helper()
	if got := r.s.groups["g"].state(); got != want {
		r.Fatalf("group is %s, want %s", got, want)
	}
}

func (r *rig) describeConsumer() *kmsg.ConsumerGroupDescribeResponseGroup {
	r.Helper()
	t := r.ticket()
	r.do(r.s.DescribeConsumerGroup(r.now, t, "g"))
	return answer[*kmsg.ConsumerGroupDescribeResponseGroup](r, t)
}

func (r *rig) topics(version int64, topics ...*TopicMetadata) {
	r.do(r.s.MetadataChanged(r.now, metadataOfTopics(version, topics...)))
}

func TestConsumerHeartbeatIsChecked(t *testing.T) {
	r := newRig(t, func(c *Config) { c.ConsumerMaxSize = 2 })
	type change = func(*kmsg.ConsumerGroupHeartbeatRequest)
	empty := ""
	for i, x := range []struct {
		epoch int32
		want  wire.Code
		f     change
	}{
		{0, wire.InvalidRequest, func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.Group = " " }},
		{0, wire.InvalidRequest, func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.MemberID = "" }},
		{3, wire.InvalidRequest, func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.Version, q.MemberID = 0, "" }},
		{-1, wire.InvalidRequest, func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.Version, q.MemberID = 0, "" }},
		{0, wire.InvalidRequest, func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.InstanceID = &empty }},
		{0, wire.InvalidRequest, func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.RackID = &empty }},
		{0, wire.InvalidRequest, func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.RebalanceTimeoutMillis = -1 }},
		{0, wire.InvalidRequest, func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.Topics = nil }},
		{0, wire.InvalidRequest, owning("1:0")},
		{0, wire.InvalidRequest, topicNames()},
		{-2, wire.InvalidRequest, func(*kmsg.ConsumerGroupHeartbeatRequest) {}},
		{-3, wire.InvalidRequest, func(*kmsg.ConsumerGroupHeartbeatRequest) {}},
		{0, wire.InvalidRequest, func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.Group = strings.Repeat("g", 40_000) }},
		{0, wire.InvalidRequest, func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.MemberID = "\xff" }},
		{0, wire.UnsupportedAssignor, func(q *kmsg.ConsumerGroupHeartbeatRequest) { s := "sticky"; q.ServerAssignor = &s }},
		{0, wire.InvalidRegularExpression, topicPattern("(")},
		{5, wire.GroupIDNotFound, func(*kmsg.ConsumerGroupHeartbeatRequest) {}},
		{-1, wire.GroupIDNotFound, func(*kmsg.ConsumerGroupHeartbeatRequest) {}},
	} {
		t.Log(i)
		if x.epoch == 0 && x.want == wire.InvalidRequest && i == 9 {
			x.f = func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.SubscribedTopicNames = nil }
		}
		r.beatFails("a", x.epoch, x.want, x.f)
	}
	if len(r.s.groups) != 0 {
		t.Fatal("refused heartbeats leave a group")
	}
	r.beat("a", 0, 2, "1:0,1,2,3")
	r.beat("b", 0, 2, "-")
	r.beatFails("c", 0, wire.GroupMaxSizeReached)
	r.beatFails("c", 2, wire.UnknownMemberID)
	r.beatFails("a", 7, wire.FencedMemberEpoch)
	r.beatFails("a", 1, wire.FencedMemberEpoch)
	r.beatFails("c", -1, wire.UnknownMemberID)
	r.beatFails("a", 2, wire.UnknownMemberID, as("i"))
	r.beatFails("a", -2, wire.UnknownMemberID, as("i"))
	if a := r.beatAny("", 0, func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.Version, q.Group = 0, "h" }); a.ErrorCode != 0 || len(*a.MemberID) != 22 {
		t.Fatalf("%+v", a)
	}
}

// A partition moves from one member to another: the first is told to give it back, says that it has, and only then the second is
// told that it has it.
func TestPartitionsMoveOneByOne(t *testing.T) {
	r := newRig(t)
	r.beat("a", 0, 2, "1:0,1,2,3")
	r.beat("b", 0, 2, "-") // assignments are spaced out
	r.consumerState("Assigning")
	r.beat("b", 2, 2, "same")
	r.pass(1000)
	r.beat("b", 2, 3, "same") // now there is one, but others have to give back first
	r.consumerState("Reconciling")
	r.beat("a", 2, 2, "1:0,1") // is to give back 2 and 3
	r.beat("a", 2, 2, "same")
	r.beat("b", 3, 3, "same")
	r.beat("a", 2, 2, "1:0,1", owning("1:0,1,2"), func(q *kmsg.ConsumerGroupHeartbeatRequest) { // a full heartbeat is told everything
		q.RebalanceTimeoutMillis, q.SubscribedTopicNames = 60_000, []string{"t"}
	})
	r.beat("b", 3, 3, "same")
	r.beat("a", 2, 3, "same", owning("1:1,0"))
	r.beat("b", 3, 3, "1:2,3")
	r.consumerState("Stable")
	r.beat("b", 3, 3, "same", owning("1:2,3"))
	written := len(r.log)
	r.beat("a", 3, 3, "same")
	if len(r.log) != written {
		t.Error("a heartbeat that changes nothing is recorded")
	}
	d := r.describeConsumer()
	if d.State != "Stable" || d.Epoch != 3 || d.AssignmentEpoch != 3 || d.AssignorName != "uniform" || len(d.Members) != 2 || d.Members[0].MemberID != "a" ||
		d.Members[0].Assignment.TopicPartitions[0].Topic != "t" || !slices.Equal(d.Members[1].TargetAssignment.TopicPartitions[0].Partitions, []int32{2, 3}) || d.Members[0].MemberType != 1 {
		t.Errorf("%+v", d)
	}
	r.restart()
	r.beat("a", 3, 3, "same")
	r.beat("b", 3, 3, "same")
	// The answer with the new epoch is lost: the one before counts, with no more than what the member has.
	r.beatAny("b", -1)
	r.pass(1000)
	r.beat("a", 3, 4, "1:0,1,2,3")
	r.beatFails("a", 3, wire.FencedMemberEpoch, owning("1:0,1;2:0"))
	r.beat("a", 3, 4, "same", owning("1:0,1"))
	r.beatFails("a", 3, wire.FencedMemberEpoch) // says nothing of what it has
}

func TestConsumersLeave(t *testing.T) {
	r := newRig(t)
	r.beat("a", 0, 2, "1:0,1,2,3")
	r.beat("b", 0, 2, "-")
	r.pass(1000)
	r.beat("b", 2, 3, "same")
	if a := r.beatAny("a", -1); a.ErrorCode != 0 || a.MemberEpoch != -1 {
		t.Fatalf("%+v", a)
	}
	r.beatFails("a", 2, wire.UnknownMemberID)
	r.pass(1000)
	r.beat("b", 3, 4, "1:0,1,2,3")
	// A session ends.
	r.pass(44_999)
	r.consumerState("Stable")
	r.pass(1)
	r.consumerState("Empty")
	if d := r.describeConsumer(); d.Epoch != 5 || d.AssignmentEpoch != 5 || len(d.Members) != 0 {
		t.Errorf("%+v", d)
	}
	r.beatFails("b", 4, wire.UnknownMemberID)
	r.beat("b", 0, 6, "1:0,1,2,3")
	if len(r.s.watches) != 1 {
		t.Errorf("%d members are looked after", len(r.s.watches))
	}
}

// Who does not give back in time is taken to be dead.
func TestRevocationTimesOut(t *testing.T) {
	r := newRig(t)
	r.beat("a", 0, 2, "1:0,1,2,3")
	r.beat("b", 0, 2, "-")
	r.pass(1000)
	r.beat("b", 2, 3, "same")
	r.beat("a", 2, 2, "1:0,1")
	for range 5 {
		r.pass(10_000)
		r.beat("a", 2, 2, "same")
		r.beat("b", 3, 3, "same")
	}
	r.pass(9_999)
	r.beat("a", 2, 2, "same")
	r.pass(1)
	r.beatFails("a", 2, wire.UnknownMemberID)
	r.beat("b", 3, 4, "1:0,1,2,3")
	// One that has given back in time is not.
	r.beat("a", 0, 4, "-")
	r.pass(1000)
	r.beat("a", 4, 5, "same")
	r.beat("b", 4, 4, "1:0,1")
	r.beat("b", 4, 5, "same", owning("1:0,1"))
	r.pass(44_000)
	r.beat("b", 5, 5, "same")
	r.beat("a", 5, 5, "1:2,3")
	r.pass(44_000)
	r.beat("b", 5, 5, "same")
	r.beat("a", 5, 5, "same")
	// The time is told anew after a restart.
	r.beat("c", 0, 6, "-")
	r.beat("a", 5, 6, "same")
	r.beat("b", 5, 5, "1:0")
	r.restart()
	for range 2 {
		r.pass(29_999)
		r.beat("a", 6, 6, "same")
		r.beat("c", 6, 6, "same")
		r.beat("b", 5, 5, "same")
	}
	r.pass(2)
	r.beatFails("b", 5, wire.UnknownMemberID)
}

// A member stays in its epoch while it gives back. A commit that was late must not overwrite what the next holder has committed.
func TestLateCommitOfWhatAnotherHas(t *testing.T) {
	r := newRig(t)
	commit := func(member string, epoch, p int32, offset int64, want wire.Code) {
		t.Helper()
		r.code(int16(r.commit(member, epoch, "t", p, offset, func(q *kmsg.OffsetCommitRequest) { q.Topics[0].TopicID = smallID(1) })), want)
	}
	r.beat("a", 0, 2, "1:0,1,2,3")
	r.beat("b", 0, 2, "-")
	r.pass(1000)
	r.beat("b", 2, 3, "same")
	r.beat("a", 2, 2, "1:0,1") // to give back 2 and 3
	r.beat("c", 0, 3, "-")
	r.beat("d", 0, 3, "-")
	r.pass(1000)
	r.beat("d", 3, 5, "same")
	r.beat("a", 2, 2, "1:0", owning("1:0,1")) // has, and is to give back 1, in the same epoch
	r.beat("b", 3, 5, "1:2")
	commit("b", 5, 2, 50, wire.None)
	commit("a", 2, 2, 40, wire.StaleMemberEpoch)
	commit("a", 2, 0, 10, wire.None)
	commit("a", 2, 1, 11, wire.None)
	commit("a", 2, 3, 12, wire.None) // nobody has it
	r.fetches("t", 2, 50, smallID(1))
}

// A static member that leaves for a while has nothing to give back any more: its session decides, also after a restart.
func TestStaticConsumerLeavesWhileItGivesBack(t *testing.T) {
	r := newRig(t)
	r.beat("a", 0, 2, "1:0,1,2,3", as("i"))
	r.beat("b", 0, 2, "-")
	r.pass(1000)
	r.beat("b", 2, 3, "same")
	r.beat("a", 2, 2, "1:0,1", as("i"), func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.RebalanceTimeoutMillis = 5000 })
	if a := r.beatAny("a", -2, as("i")); a.ErrorCode != 0 {
		t.Fatalf("%+v", a)
	}
	r.restart()
	r.pass(30_000)
	r.beat("b", 3, 3, "1:2,3")
	r.beatFails("a", 2, wire.FencedMemberEpoch, as("i")) // not unknown
	r.beat("c", 0, 3, "1:0,1", as("i"))
}

func TestStaticConsumers(t *testing.T) {
	r := newRig(t)
	r.beat("a", 0, 2, "1:0,1,2,3", as("i"))
	r.beatFails("b", 0, wire.UnreleasedInstanceID, as("i"))
	r.beatFails("b", 2, wire.FencedInstanceID, as("i"))
	r.beatFails("b", -2, wire.FencedInstanceID, as("i"))
	if a := r.beatAny("a", -2, as("i")); a.ErrorCode != 0 || a.MemberEpoch != -2 {
		t.Fatalf("%+v", a)
	}
	r.beatFails("a", 2, wire.FencedMemberEpoch, as("i"))
	r.beat("b", 0, 2, "1:0,1,2,3", as("i")) // takes over what the other had, and nobody else notices
	r.beatFails("a", 2, wire.FencedInstanceID, as("i"))
	r.beat("b", 2, 2, "same", as("i"))
	r.beatAny("b", -2, as("i"))
	r.beat("b", 0, 2, "1:0,1,2,3", as("i")) // under the same id
	r.pass(44_000)
	r.beat("b", 2, 2, "same", as("i"))
	r.beatAny("b", -2, as("i"))
	r.pass(45_000) // it does not come back
	r.consumerState("Empty")
	r.beat("c", 0, 4, "1:0,1,2,3", as("i"))
	if a := r.beatAny("c", -1, as("i")); a.ErrorCode != 0 || r.s.groups["g"].state() != "Empty" {
		t.Fatalf("%+v", a)
	}
}

func TestTopicsChange(t *testing.T) {
	r := newRig(t)
	r.beat("a", 0, 2, "1:0,1,2,3", topicNames("t", "w"))
	r.topics(2, testTopic("t", 1, 4), testTopic("x", 9, 4))
	r.beat("a", 2, 2, "same")
	r.topics(3, testTopic("t", 1, 5), testTopic("w", 4, 1)) // one grows, one comes
	r.beat("a", 2, 3, "1:0,1,2,3,4;4:0")
	r.topics(4, testTopic("t", 1, 5))
	r.beat("a", 3, 3, "1:0,1,2,3,4") // is to give back what is gone
	r.beat("a", 3, 4, "same", owning("1:0,1,2,3,4"))
	r.topics(5, testTopic("t", 7, 1)) // a namesake
	r.beat("a", 4, 4, "-")
	r.beat("a", 4, 5, "7:0", owning("-"))
	racks := NewTopicMetadata("t", smallID(7), [][]string{{"r1"}})
	r.topics(6, racks)
	r.beat("a", 5, 6, "same") // racks have moved: a new epoch
	r.restart()
	r.beat("a", 6, 6, "same")
}

func TestPatterns(t *testing.T) {
	r := newRig(t)
	r.beat("a", 0, 2, "1:0,1,2,3;2:0,1", topicPattern("[tu]"))
	r.topics(2, testTopic("t", 1, 4), testTopic("u", 2, 2), testTopic("tt", 4, 1))
	r.beat("a", 2, 2, "same") // whole names
	r.beat("b", 0, 2, "-", topicPattern("tt+"))
	r.pass(1000)
	r.beat("b", 2, 3, "4:0")
	r.beat("a", 2, 3, "same")
	r.topics(3, testTopic("t", 1, 4), testTopic("u", 2, 2), testTopic("ttt", 5, 1))
	r.pass(1000)
	r.beat("b", 3, 3, "-") // the old one is gone; a new one is not looked for so soon
	r.beat("b", 3, 4, "same", owning("-"))
	r.pass(10_001)
	r.beat("b", 4, 5, "5:0")
	r.beat("a", 3, 5, "same")
	// Both kinds together, and the end of a pattern.
	r.pass(1000)
	r.beat("b", 5, 6, "same", func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.SubscribedTopicNames = []string{"u"} })
	if p := r.s.groups["g"].consumer.patterns; len(p) != 2 {
		t.Fatal(p)
	}
	r.beatAny("b", -1)
	if p := r.s.groups["g"].consumer.patterns; len(p) != 1 {
		t.Fatal(p)
	}
	none := ""
	r.pass(1000)
	r.beat("a", 5, 5, "1:0,1,2,3", func(q *kmsg.ConsumerGroupHeartbeatRequest) {
		q.SubscribedTopicNames, q.SubscribedTopicRegex = []string{"t"}, &none
	})
	r.beat("a", 5, 8, "same", owning("1:0,1,2,3"))
	if p := r.s.groups["g"].consumer.patterns; len(p) != 0 {
		t.Fatal(p)
	}
	// They are looked up again after a long time, whatever happened.
	r.beat("a", 8, 9, "1:0,1,2,3;5:0", topicPattern("t.*"))
	for range 14 {
		r.pass(44_000)
		r.beat("a", 9, 9, "same")
	}
	if p := r.s.groups["g"].consumer.patterns["t.*"]; r.now.WallMs-p.resolvedMs > 100_000 {
		t.Errorf("last looked up %d ms ago", r.now.WallMs-p.resolvedMs)
	}
}

func TestAssignorIsVotedFor(t *testing.T) {
	r := newRig(t)
	assignor := func(name string) heartbeatChange {
		return func(q *kmsg.ConsumerGroupHeartbeatRequest) { q.ServerAssignor = &name }
	}
	r.beat("a", 0, 2, "1:0,1,2,3;2:0,1", topicNames("t", "u"), assignor("range"))
	r.beat("b", 0, 2, "-", topicNames("t", "u"))
	r.pass(1000)
	r.beat("b", 2, 3, "same")
	if d := r.describeConsumer(); d.AssignorName != "range" || printShares(r.s.groups["g"].consumer.targets.get("b")) != "1:2,3;2:1" {
		t.Errorf("%+v %v", d, r.s.groups["g"].consumer.targets)
	}
}

func TestOffsetsOfConsumers(t *testing.T) {
	r := newRig(t)
	id := func(n int) func(*kmsg.OffsetCommitRequest) {
		return func(q *kmsg.OffsetCommitRequest) { q.Topics[0].TopicID = smallID(n) }
	}
	commit := func(member string, epoch int32, p int32, want wire.Code, change ...func(*kmsg.OffsetCommitRequest)) {
		t.Helper()
		r.code(int16(r.commit(member, epoch, "t", p, 77, append(change, id(1))...)), want)
	}
	fetch := func(member *string, epoch int32, want wire.Code) {
		t.Helper()
		req := kmsg.NewOffsetFetchRequestGroup()
		req.Group, req.MemberID, req.MemberEpoch = "g", member, epoch
		tk := r.ticket()
		r.do(r.s.OffsetFetch(r.now, tk, false, &req))
		r.code(answer[*kmsg.OffsetFetchResponseGroup](r, tk).ErrorCode, want)
	}
	a, nobody := "a", "nobody"
	r.beat("a", 0, 2, "1:0,1,2,3")
	commit("a", 2, 0, wire.None)
	commit("a", 3, 0, wire.StaleMemberEpoch)
	commit("nobody", 2, 0, wire.UnknownMemberID)
	commit("", -1, 0, wire.UnknownMemberID)
	commit("a", 2, 0, wire.UnsupportedVersion, func(q *kmsg.OffsetCommitRequest) { q.Version = 8 })
	fetch(&a, 2, wire.None)
	fetch(&a, 1, wire.StaleMemberEpoch)
	fetch(&nobody, 2, wire.UnknownMemberID)
	fetch(nil, -1, wire.None)
	r.beat("b", 0, 2, "-")
	r.pass(1000)
	r.beat("b", 2, 3, "same")
	r.beat("a", 2, 2, "1:0,1")
	commit("a", 2, 3, wire.None) // what it is to give back it may still commit
	commit("a", 2, 9, wire.None) // and what nobody has
	commit("b", 3, 3, wire.StaleMemberEpoch)
	r.beat("a", 2, 3, "same", owning("1:0,1"))
	r.beat("b", 3, 3, "1:2,3")
	commit("a", 2, 0, wire.None)             // it has not heard of epoch 3 yet, but has had this since
	commit("a", 2, 3, wire.StaleMemberEpoch) // this is another's
	commit("b", 2, 3, wire.StaleMemberEpoch) // it did not have it then
	r.fetches("t", 3, 77, smallID(1))

	// Offsets in use stay; when the group is empty they stay for a while.
	r.offsetDeleteFails(t, "t", wire.GroupSubscribedToTopic)
	r.deleteGroup(wire.NonEmptyGroup)
	for range 200 {
		r.pass(40_000)
		r.beat("a", 3, 3, "same")
		r.beat("b", 3, 3, "same")
	}
	r.fetches("t", 0, 77, smallID(1))
	r.beatAny("a", -1)
	r.beatAny("b", -1)
	r.pass(3_590_000)
	r.fetches("t", 0, 77, smallID(1))
	commit("", -1, 1, wire.None) // as an administrator
	r.pass(1_300_000)
	r.fetches("t", 0, -1, smallID(1))
	r.fetches("t", 1, 77, smallID(1))
	r.pass(3_600_000)
	if len(r.s.groups) != 0 {
		t.Errorf("remains %+v", r.s.groups["g"])
	}
}

func (r *rig) offsetDeleteFails(t *testing.T, topic string, want wire.Code) {
	t.Helper()
	req := kmsg.NewPtrOffsetDeleteRequest()
	req.Group = "g"
	req.Topics = []kmsg.OffsetDeleteRequestTopic{{Topic: topic, Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}}}}
	tk := r.ticket()
	r.do(r.s.OffsetDelete(r.now, tk, req))
	r.code(answer[*kmsg.OffsetDeleteResponse](r, tk).Topics[0].Partitions[0].ErrorCode, want)
}

func TestConsumerGroupsAreListedAndDeleted(t *testing.T) {
	r := newRig(t)
	list := func(states, types []string) string {
		req := kmsg.NewPtrListGroupsRequest()
		req.Version, req.StatesFilter, req.TypesFilter = 5, states, types
		tk := r.ticket()
		r.do(r.s.ListGroups(r.now, tk, req))
		var out []string
		for _, g := range answer[*kmsg.ListGroupsResponse](r, tk).Groups {
			out = append(out, g.Group+" "+g.ProtocolType+" "+g.GroupState+" "+g.GroupType)
		}
		return strings.Join(out, ",")
	}
	r.beat("a", 0, 2, "1:0,1,2,3")
	want := "g consumer Stable consumer"
	if got := list(nil, nil); got != want {
		t.Error(got)
	}
	if got := list([]string{"stable"}, []string{"Consumer"}); got != want {
		t.Error(got)
	}
	if got := list(nil, []string{"classic"}); got != "" {
		t.Error(got)
	}
	if g := r.describe(6); g.State != "Dead" || wire.Code(g.ErrorCode) != wire.GroupIDNotFound {
		t.Errorf("%+v", g)
	}
	if g := r.describe(5); g.State != "Dead" || g.ErrorCode != 0 {
		t.Errorf("%+v", g)
	}
	r.deleteGroup(wire.NonEmptyGroup)
	r.beatAny("a", -1)
	r.deleteGroup(wire.None)
	if len(r.s.groups) != 0 {
		t.Error("it is still there")
	}
	if g := r.describeConsumer(); wire.Code(g.ErrorCode) != wire.GroupIDNotFound {
		t.Errorf("%+v", g)
	}
	r.stable(1)
	if g := r.describeConsumer(); wire.Code(g.ErrorCode) != wire.GroupIDNotFound || *g.ErrorMessage != "Group g is not a consumer group." {
		t.Errorf("%+v", g)
	}
}

// What could not be written has not happened.
func TestRefusedConsumerRecords(t *testing.T) {
	r := newRig(t)
	refuse := func(id string, epoch int32, change ...heartbeatChange) {
		t.Helper()
		r.refuse = wire.NotEnoughReplicas
		r.code(r.beatAny(id, epoch, change...).ErrorCode, wire.CoordinatorNotAvailable)
	}
	refuse("a", 0)
	if len(r.s.groups) != 0 {
		t.Fatal("the group exists")
	}
	r.beat("a", 0, 2, "1:0,1,2,3")
	refuse("b", 0)
	r.beatFails("b", 2, wire.UnknownMemberID)
	refuse("a", -1)
	r.beat("a", 2, 2, "same")
	refuse("a", 2, topicNames("t", "u"))
	r.beat("a", 2, 2, "same")
	r.pass(44_000)
	r.beat("a", 2, 2, "same")
	r.pass(44_999)
	r.refuse = wire.NotEnoughReplicas // of the end of its session
	r.pass(1)
	r.consumerState("Stable")
	r.pass(45_000)
	r.consumerState("Empty")
	r.pass(50_000)
	if len(r.s.watches) != 0 {
		t.Errorf("%d members are looked after", len(r.s.watches))
	}
}

// A heartbeat that is overtaken by its repetition says what the member had in the epoch before, not what it gives back in this one.
func TestOldHeartbeatGivesNothingBack(t *testing.T) {
	r := newRig(t)
	r.beat("a", 0, 2, "1:0,1,2,3")
	r.topics(2, testTopic("t", 1, 8))
	r.pass(1000)
	r.beat("a", 2, 3, "1:0,1,2,3,4,5,6,7", owning("1:0,1,2,3"))
	r.pass(1000)
	r.beat("b", 0, 4, "-")
	r.beat("a", 2, 3, "1:0,1,2,3", owning("1:0,1,2,3"))
	r.beat("b", 4, 4, "same")
	r.beat("a", 3, 4, "same", owning("1:0,1,2,3"))
	r.beat("b", 4, 4, "1:4,5,6,7")
}
