package group

import (
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

// classicShare is an assignment as the classic protocol has it.
func classicShare(topic string, parts ...int32) string {
	a := kmsg.NewConsumerMemberAssignment()
	a.Version = 1
	if topic != "" {
		a.Topics = []kmsg.ConsumerMemberAssignmentTopic{{Topic: topic, Partitions: parts}}
	}
	return string(a.AppendTo(nil))
}

// ownedSubscription is a subscription of a member that has these partitions of topic t.
func ownedSubscription(owned ...int32) func(*kmsg.JoinGroupRequest) {
	return func(q *kmsg.JoinGroupRequest) {
		m := kmsg.NewConsumerMemberMetadata()
		m.Version, m.Topics = 1, []string{"t"}
		if len(owned) > 0 {
			m.OwnedPartitions = []kmsg.ConsumerMemberMetadataOwnedPartition{{Topic: "t", Partitions: owned}}
		}
		q.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: m.AppendTo(nil)}, {Name: "sticky", Metadata: m.AppendTo(nil)}}
	}
}

// stableWith makes a stable classic group of one member per share.
func (r *rig) stableWith(shares ...[]int32) (ids []string, generation int32) {
	r.Helper()
	for range shares {
		ids = append(ids, r.newID())
	}
	tickets := make([]shard.Ticket, len(ids))
	for i, id := range ids {
		tickets[i] = r.join(id, ownedSubscription())
	}
	r.pass(6000)
	given := map[string]string{}
	for i, id := range ids {
		given[id] = classicShare("t", shares[i]...)
	}
	generation = r.joined(tickets[0]).Generation
	for i := len(ids) - 1; i >= 0; i-- {
		if i > 0 {
			tickets[i] = r.sync(ids[i], generation, nil)
		} else {
			tickets[i] = r.sync(ids[i], generation, given)
		}
	}
	for i := range ids {
		r.synced(tickets[i], given[ids[i]])
	}
	return ids, generation
}

// A classic group is upgraded member by member while it works, and no partition ever has two owners; and it goes the
// same way back.
func TestUpgradeAndDowngrade(t *testing.T) {
	r := newRig(t)
	ids, g := r.stableWith([]int32{0, 1}, []int32{2, 3})
	a, b := ids[0], ids[1]
	r.commits(a, g, "t", 0, 5)
	// The first member of the new protocol comes.
	r.beat("n", 0, g+1, "-")
	if d := r.describeConsumer(); d.State != "Reconciling" || len(d.Members) != 3 || d.Members[0].MemberType != 0 {
		t.Fatalf("%+v", d)
	}
	r.heartbeat(a, g, wire.RebalanceInProgress)
	r.heartbeat(b, g, wire.RebalanceInProgress)
	r.commits(a, g, "t", 0, 6)
	r.commitFails("nobody", g, wire.UnknownMemberID)
	// Each rejoins by itself, gives back, and goes on; a cooperative one with what it keeps.
	ja := r.joined(r.join(a, ownedSubscription(0, 1)))
	r.synced(r.sync(a, ja.Generation, nil, rangeProtocol), classicShare("t", 0, 1)) // its quota has room for two
	jb := r.joined(r.join(b, ownedSubscription(2, 3)))
	if jb.Generation != g || jb.LeaderID != "" || *jb.Protocol != "range" {
		t.Fatalf("%+v", jb)
	}
	r.syncFails(r.sync(b, g+7, nil), wire.IllegalGeneration)
	r.synced(r.sync(b, jb.Generation, nil, rangeProtocol), classicShare("t", 2))
	r.beat("n", g+1, g+1, "same") // 3 is still b's
	r.heartbeat(b, jb.Generation, wire.RebalanceInProgress)
	jb = r.joined(r.join(b, ownedSubscription(2)))
	if jb.Generation != g+1 {
		t.Fatalf("%+v", jb)
	}
	r.synced(r.sync(b, jb.Generation, nil, rangeProtocol), classicShare("t", 2))
	r.heartbeat(b, jb.Generation, wire.None)
	r.heartbeat(a, ja.Generation, wire.None)
	r.beat("n", g+1, g+1, "1:3")
	r.consumerState("Stable")
	r.commitFails(b, g, wire.IllegalGeneration, func(q *kmsg.OffsetCommitRequest) { q.Topics[0].TopicID = smallID(1) })
	r.restart()
	r.heartbeat(b, jb.Generation, wire.None)
	r.beat("n", g+1, g+1, "same")
	// Another classic member joins the consumer group.
	c := r.newID()
	if len(c) != 22 { // those of a classic group begin with the name of the client
		t.Fatalf("the id %q is no UUID as Kafka prints it", c)
	}
	jc := r.joined(r.join(c, ownedSubscription()))
	r.synced(r.sync(c, jc.Generation, nil, rangeProtocol), classicShare(""))
	r.joinFails(r.join("", func(q *kmsg.JoinGroupRequest) { q.ProtocolType = "connect" }), wire.InconsistentGroupProtocol)
	r.joinFails(r.join("", protocols("other")), wire.InconsistentGroupProtocol)
	if codes := r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: "nobody"}, kmsg.LeaveGroupRequestMember{MemberID: c}); codes.Members[0].ErrorCode != int16(wire.UnknownMemberID) || codes.Members[1].ErrorCode != 0 {
		t.Fatalf("%+v", codes)
	}
	// The last of the new protocol leaves: the others form a classic group, and assign anew.
	if x := r.beatAny("n", -1); x.ErrorCode != 0 {
		t.Fatalf("%+v", x)
	}
	r.pass(0)
	r.state("PreparingRebalance")
	r.beatFails("n", g+1, wire.GroupIDNotFound)
	g = r.s.groups["g"].classic.generation
	r.heartbeat(a, g, wire.RebalanceInProgress)
	ta, tb := r.join(a, ownedSubscription(0, 1)), r.join(b, ownedSubscription(2))
	g = r.joined(ta).Generation
	r.joined(tb)
	leader, other := a, b
	if r.joined(ta).LeaderID == b {
		leader, other = b, a
	}
	r.synced(r.sync(leader, g, map[string]string{a: "A", b: "B"}), map[string]string{a: "A", b: "B"}[leader])
	r.synced(r.sync(other, g, nil), map[string]string{a: "A", b: "B"}[other])
	r.state("Stable")
	r.fetches("t", 0, 6)
	r.restart()
	r.heartbeat(a, g, wire.None)
	if len(r.s.watches) != 0 {
		t.Errorf("%d members are looked after as consumers", len(r.s.watches))
	}
	r.pass(60_000)
	r.state("Empty")
}

func rangeProtocol(q *kmsg.SyncGroupRequest) {
	protocolType, name := consumerType, "range"
	q.ProtocolType, q.Protocol = &protocolType, &name
}

// In the middle of a rebalance the coordinator has forgotten the assignments, but cooperative members go on with what they had.
func TestUpgradeKeepsWhatMembersGoOnWith(t *testing.T) {
	r := newRig(t)
	ids, _ := r.stableWith([]int32{0, 1}, []int32{2, 3})
	x := r.newID()
	r.join(x, ownedSubscription())
	r.join(ids[0], ownedSubscription(0, 1))
	g := r.joined(r.join(ids[1], ownedSubscription(2, 3))).Generation
	r.waits(r.join(r.newID(), ownedSubscription())) // one more, before the leader has assigned anything
	r.waits(r.join(ids[0], ownedSubscription(0, 1)))
	r.beat("n", 0, g+1, "-")
	c := r.s.groups["g"].consumer
	for i, want := range []string{"1:0,1", "1:2,3"} {
		if m := c.members.get(ids[i]); printShares(m.assigned) != want {
			t.Errorf("%s has %s, and goes on with %s", ids[i], printShares(m.assigned), want)
		}
	}
}

// In the middle of moving partitions a classic group begins with what each member may have, not with what it is to have: an upgrade that follows at once
// must not give away what a member still uses.
func TestDowngradeWhileAMemberGivesBack(t *testing.T) {
	r := newRig(t)
	ids, g := r.stableWith([]int32{0, 1, 2, 3})
	a := ids[0]
	r.beat("n", 0, g+1, "-")
	j := r.joined(r.join(a, ownedSubscription(0, 1, 2, 3)))
	r.synced(r.sync(a, j.Generation, nil, rangeProtocol), classicShare("t", 0, 1)) // it is to give back 2 and 3, and has not said that it did
	if x := r.beatAny("n", -1); x.ErrorCode != 0 {
		t.Fatalf("%+v", x)
	}
	m := r.s.groups["g"].classic.order[0]
	if has, _, ok := parseAssignment(m.assignment); !ok || m.id != a || !slices.Equal(has["t"], []int32{0, 1, 2, 3}) {
		t.Errorf("%s begins with %v", m.id, has)
	}
	r.beat("n", 0, r.s.groups["g"].classic.generation+1, "-") // all of it is still a's
}

// A static member that comes back with the classic protocol, while another has to give back, makes a classic group that begins with a rebalance.
func TestStaticMemberComesBackWhileAnotherGivesBack(t *testing.T) {
	r := newRig(t)
	ids, g := r.stableWith([]int32{0, 1, 2, 3})
	r.beat("n", 0, g+1, "-", as("i"))
	r.joined(r.join(ids[0], ownedSubscription(0, 1, 2, 3)))
	if x := r.beatAny("n", -2, as("i")); x.ErrorCode != 0 {
		t.Fatalf("%+v", x)
	}
	r.joined(r.join("", instance("i"), ownedSubscription()))
	r.pass(0)
	r.state("PreparingRebalance")
}

// Members that wait in a rebalance are told to come again.
func TestUpgradeInTheMiddleOfARebalance(t *testing.T) {
	r := newRig(t)
	ids, g := r.stableWith([]int32{0, 1}, []int32{2, 3})
	x := r.newID()
	waiting := r.join(x, ownedSubscription())
	r.waits(waiting)
	r.beat("n", 0, g+1, "-")
	r.joinFails(waiting, wire.RebalanceInProgress)
	r.heartbeat(ids[0], g, wire.RebalanceInProgress)
	j := r.joined(r.join(x, ownedSubscription()))
	r.synced(r.sync(x, j.Generation, nil, rangeProtocol), classicShare(""))
	// Who does not rejoin in time is out.
	r.pass(9_000)
	r.heartbeat(ids[0], g, wire.RebalanceInProgress)
	r.heartbeat(x, j.Generation, wire.None)
	for range 6 {
		r.pass(8_500)
		if r.heartbeatAny(x, j.Generation) != wire.None {
			j = r.joined(r.join(x, ownedSubscription()))
		}
		if r.s.groups["g"].consumer.members.get(ids[0]) != nil {
			r.heartbeat(ids[0], g, wire.RebalanceInProgress)
		}
		r.beatAny("n", g+1)
	}
	if r.s.groups["g"].consumer.members.get(ids[0]) != nil {
		t.Error("a member that never rejoined is still there")
	}
}

func TestMigrationPolicy(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Upgrade, c.Downgrade = false, false })
	ids, g := r.stableWith([]int32{0, 1, 2, 3})
	r.beatFails("n", 0, wire.GroupIDNotFound)
	r.heartbeat(ids[0], g, wire.None)
	r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: ids[0]})
	r.beat("n", 0, 2, "1:0,1,2,3") // an empty one is always taken over
	r.joinFails(r.join(""), wire.InconsistentGroupProtocol)
	r.beatAny("n", -1)
	r.joinFails(r.join("x"), wire.UnknownMemberID)
	r.stable(1) // in both directions

	// No downgrade: the consumer group remains, with classic members only.
	r = newRig(t, func(c *Config) { c.Downgrade = false })
	ids, g = r.stableWith([]int32{0, 1, 2, 3})
	r.beat("n", 0, g+1, "-")
	r.beatAny("n", -1)
	r.consumerState("Assigning")
	r.joined(r.join(ids[0], ownedSubscription(0, 1, 2, 3)))
	r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: ids[0]})
	r.consumerState("Empty")

	// What an assignor of its own has said would be lost.
	r = newRig(t)
	a := kmsg.NewConsumerMemberAssignment()
	a.UserData = []byte{1}
	id := r.newID()
	j := r.join(id)
	r.pass(3000)
	share := string(a.AppendTo(nil))
	r.synced(r.sync(id, r.joined(j).Generation, map[string]string{id: share}), share)
	r.beatFails("n", 0, wire.GroupIDNotFound)
	r = newRig(t)
	r.stable(1) // of assignments that are none
	r.beatFails("n", 0, wire.GroupIDNotFound)
	r = newRig(t)
	r.join("", func(q *kmsg.JoinGroupRequest) { q.ProtocolType, q.Version = "connect", 3 })
	r.beatFails("n", 0, wire.GroupIDNotFound)
	r = newRig(t, func(c *Config) { c.ConsumerMaxSize = 1 })
	r.stableWith([]int32{0}, []int32{1})
	r.beatFails("n", 0, wire.GroupIDNotFound)
}

// A static member may come back with the other protocol, in both directions.
func TestStaticMembersChangeProtocol(t *testing.T) {
	r := newRig(t)
	r.beat("n", 0, 2, "1:0,1,2,3", as("i"))
	r.beatAny("n", -2, as("i"))
	j := r.joined(r.join("", instance("i"), ownedSubscription())) // the only one: the group is a classic one now
	r.pass(0)
	r.state("Stable")
	r.synced(r.sync(j.MemberID, j.Generation, nil), classicShare("t", 0, 1, 2, 3))
	r.heartbeat(j.MemberID, j.Generation, wire.None, "i")
	r.beat("m", 0, j.Generation, "1:0,1,2,3", as("i"))
	r.heartbeat(j.MemberID, j.Generation, wire.FencedInstanceID, "i")
	r.consumerState("Stable")
	// With another that has to give back first the classic group begins with a rebalance.
	r.beat("o", 0, j.Generation+1, "-")
	r.beat("o", j.Generation+1, j.Generation+1, "same")
	r.beatAny("o", -1)
	r.beatAny("m", -2, as("i"))
	r.joined(r.join("", instance("i"), ownedSubscription()))
	r.pass(0)
	r.state("Stable")
}

// A refused record of a change of kind leaves the group what it was.
func TestRefusedMigration(t *testing.T) {
	r := newRig(t)
	ids, _ := r.stableWith([]int32{0, 1, 2, 3})
	x := r.newID()
	waiting := r.join(x, ownedSubscription())
	r.refuse = wire.NotEnoughReplicas
	r.code(r.beatAny("n", 0).ErrorCode, wire.CoordinatorNotAvailable)
	r.joinFails(waiting, wire.CoordinatorNotAvailable)
	r.state("PreparingRebalance")
	tx, ta := r.join(x, ownedSubscription()), r.join(ids[0], ownedSubscription(0, 1, 2, 3))
	g := r.joined(ta).Generation
	r.joined(tx)
	r.synced(r.sync(ids[0], g, map[string]string{ids[0]: classicShare("t", 0, 1), x: classicShare("t", 2, 3)}), classicShare("t", 0, 1))
	r.beat("n", 0, g+1, "-")
	r.refuse = wire.NotEnoughReplicas
	r.code(r.beatAny("n", -1).ErrorCode, wire.CoordinatorNotAvailable)
	r.beat("n", g+1, g+1, "same")
	r.heartbeat(x, g, wire.RebalanceInProgress)
	r.pass(0)
	r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: x}, kmsg.LeaveGroupRequestMember{MemberID: ids[0]})
	r.beat("n", g+1, g+2, "1:0,1,2,3")
	r.beatAny("n", -1)
	// An empty consumer group that was to become a classic one.
	r.refuse = wire.NotEnoughReplicas
	r.joinFails(r.join("", version(3)), wire.CoordinatorNotAvailable)
	r.consumerState("Empty")
	r.beat("n", 0, g+4, "1:0,1,2,3")
	r.pass(100_000)
	r.consumerState("Empty")
}
