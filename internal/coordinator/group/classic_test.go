package group

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

func TestJoinIsChecked(t *testing.T) {
	r := newRig(t)
	for want, change := range map[wire.Code]func(*kmsg.JoinGroupRequest){
		wire.InvalidGroupID:            func(q *kmsg.JoinGroupRequest) { q.Group = "" },
		wire.InvalidSessionTimeout:     func(q *kmsg.JoinGroupRequest) { q.SessionTimeoutMillis = 5999 },
		wire.InvalidRequest:            func(q *kmsg.JoinGroupRequest) { q.ProtocolType = strings.Repeat("x", 40_000) },
		wire.InconsistentGroupProtocol: func(q *kmsg.JoinGroupRequest) { q.Protocols = nil },
		wire.UnknownMemberID:           func(q *kmsg.JoinGroupRequest) { q.MemberID = "nobody" },
	} {
		r.joinFails(r.join("", change), want)
	}
	r.joinFails(r.join("", func(q *kmsg.JoinGroupRequest) { q.SessionTimeoutMillis = 1_800_001 }), wire.InvalidSessionTimeout)
	r.joinFails(r.join("", func(q *kmsg.JoinGroupRequest) { q.ProtocolType = "" }), wire.InconsistentGroupProtocol)
	r.joinFails(r.join("", func(q *kmsg.JoinGroupRequest) { q.Group = strings.Repeat("g", 40_000) }), wire.InvalidGroupID)
	if len(r.s.groups) != 0 {
		t.Fatalf("refused joins leave %d groups", len(r.s.groups))
	}
}

func TestFirstGeneration(t *testing.T) {
	r := newRig(t)
	a := r.newID()
	if !strings.HasPrefix(a, "c-") || len(a) != len("c-")+36 {
		t.Fatalf("member id %q", a)
	}
	r.state("Empty")
	ja := r.join(a)
	r.state("PreparingRebalance")
	r.pass(2999)
	r.waits(ja)
	r.pass(1)
	resp := r.joined(ja)
	if resp.Generation != 1 || resp.LeaderID != a || resp.MemberID != a || *resp.Protocol != "range" || *resp.ProtocolType != "consumer" ||
		len(resp.Members) != 1 || resp.Members[0].MemberID != a || string(resp.Members[0].ProtocolMetadata) != string(subscription("t")) {
		t.Fatalf("%+v", resp)
	}
	r.state("CompletingRebalance")
	r.heartbeat(a, 1, wire.None)
	r.synced(r.sync(a, 1, map[string]string{a: "all", "stranger": "x"}), "all")
	if r.written != 1 {
		t.Fatalf("%d records", r.written)
	}
	d := r.describe(6)
	if d.State != "Stable" || d.Protocol != "range" || len(d.Members) != 1 || d.Members[0].ClientHost != "/127.0.0.1" || d.Members[0].ClientID != "c" ||
		string(d.Members[0].MemberAssignment) != "all" || string(d.Members[0].ProtocolMetadata) != string(subscription("t")) {
		t.Fatalf("%+v", d)
	}
	r.restart()
	r.heartbeat(a, 1, wire.None)
	r.synced(r.sync(a, 1, nil), "all")
}

func TestOldClientsJoinAtOnce(t *testing.T) {
	r := newRig(t, func(c *Config) { c.InitialRebalanceDelayMs = 0 })
	resp := r.joined(r.join("", version(0), func(q *kmsg.JoinGroupRequest) { q.RebalanceTimeoutMillis = -1 }))
	if resp.Generation != 1 || resp.Version != 0 {
		t.Fatalf("%+v", resp)
	}
	if m := r.s.groups["g"].classic.order[0]; m.rebalanceTimeoutMs != 10_000 {
		t.Fatalf("rebalance timeout %d", m.rebalanceTimeoutMs)
	}
}

func TestInitialDelayIsExtendedWhileMembersJoin(t *testing.T) {
	r := newRig(t)
	limit := func(q *kmsg.JoinGroupRequest) { q.RebalanceTimeoutMillis = 7000 }
	var ids []string
	for range 4 {
		ids = append(ids, r.newID())
	}
	first := r.join(ids[0], limit)
	r.pass(2000)
	second := r.join(ids[1], limit)
	r.pass(1000) // 3000: extended by 3000
	r.waits(first)
	r.join(ids[2], limit)
	r.pass(3000) // 6000: extended by what remains
	r.waits(first)
	fourth := r.join(ids[3], limit)
	r.pass(1000) // 7000
	if n := len(r.joined(first).Members); n != 4 {
		t.Fatalf("%d members", n)
	}
	for _, x := range []shard.Ticket{second, fourth} {
		if resp := r.joined(x); resp.Generation != 1 || len(resp.Members) != 0 || resp.LeaderID != ids[0] {
			t.Fatalf("%+v", resp)
		}
	}
}

func TestMemberIDThatIsNotUsedExpires(t *testing.T) {
	r := newRig(t)
	a := r.newID()
	r.pass(10_000)
	r.joinFails(r.join(a), wire.UnknownMemberID)
	if len(r.s.groups) != 0 {
		t.Fatal("a group nobody joined remains")
	}
	// It is waited for, as long as it lasts.
	ids, gen := r.stable(1)
	b := r.newID()
	r.heartbeat(ids[0], gen, wire.None)
	again := r.join(ids[0]) // the leader
	r.waits(again)
	r.pass(9999)
	r.waits(again)
	r.pass(1)
	r.joined(again)
	r.joinFails(r.join(b), wire.UnknownMemberID)
	// A static member is never told to come back.
	c := r.newID()
	r.joinFails(r.join(c, instance("i")), wire.UnknownMemberID)
}

func TestMembersRejoin(t *testing.T) {
	r := newRig(t)
	ids, gen := r.stable(2)
	c := r.newID()
	jc := r.join(c)
	r.state("PreparingRebalance")
	r.heartbeat(ids[0], gen, wire.RebalanceInProgress)
	r.syncFails(r.sync(ids[0], gen, nil), wire.RebalanceInProgress)
	r.commits(ids[1], gen, "t", 0, 5) // the last chance
	ja := r.join(ids[0])
	r.waits(ja)
	jb := r.join(ids[1])
	for _, x := range []shard.Ticket{ja, jb, jc} {
		if g := r.joined(x).Generation; g != gen+1 {
			t.Fatalf("generation %d", g)
		}
	}
	r.commitFails(ids[1], gen+1, wire.RebalanceInProgress)
	r.commitFails(ids[1], gen, wire.IllegalGeneration)
	r.heartbeat(ids[1], gen, wire.IllegalGeneration)
	r.syncFails(r.sync(ids[1], gen, nil), wire.IllegalGeneration)
	// A follower waits for the leader; its session goes on when it is answered.
	sb := r.sync(ids[1], gen+1, map[string]string{ids[1]: "mine"})
	r.waits(sb)
	if r.written != 0 {
		t.Fatal("a follower assigns")
	}
	sa := r.sync(ids[0], gen+1, map[string]string{ids[0]: "0", ids[1]: "1"})
	r.synced(sa, "0")
	r.synced(sb, "1")
	r.synced(r.sync(c, gen+1, nil), "") // left out
	r.synced(r.sync(ids[0], gen+1, map[string]string{ids[0]: "other"}), "0")
	r.syncFails(r.sync(c, gen+1, nil, func(q *kmsg.SyncGroupRequest) { p := "roundrobin"; q.Protocol = &p }), wire.InconsistentGroupProtocol)
	r.syncFails(r.sync(c, gen+1, nil, func(q *kmsg.SyncGroupRequest) { p := "connect"; q.ProtocolType = &p }), wire.InconsistentGroupProtocol)
}

func TestRejoinInStable(t *testing.T) {
	r := newRig(t)
	ids, gen := r.stable(2)
	// A follower that lost the answer gets it again; one that changed, and the leader, begin a rebalance.
	if resp := r.joined(r.join(ids[1])); resp.Generation != gen || resp.LeaderID != ids[0] || len(resp.Members) != 0 {
		t.Fatalf("%+v", resp)
	}
	r.state("Stable")
	r.waits(r.join(ids[1], protocols("range:u")))
	r.state("PreparingRebalance")
	r.joined(r.join(ids[0]))
	r.state("CompletingRebalance")
	// In Completing too, and the leader gets the members.
	if resp := r.joined(r.join(ids[0])); resp.Generation != gen+1 || len(resp.Members) != 2 {
		t.Fatalf("%+v", resp)
	}
	r.joined(r.join(ids[1], protocols("range:u")))
	r.synced(r.sync(ids[0], gen+1, nil), "")
	r.waits(r.join(ids[0]))
	r.state("PreparingRebalance")
	r.joined(r.join(ids[1], protocols("range:u")))
	sa := r.sync(ids[1], gen+2, nil)
	r.waits(r.join(ids[1], protocols("range:v")))
	r.syncFails(sa, wire.RebalanceInProgress)
}

func TestSilentMembersAreRemoved(t *testing.T) {
	r := newRig(t)
	ids, gen := r.stable(3)
	r.pass(9000)
	r.heartbeat(ids[1], gen, wire.None)
	r.commits(ids[2], gen, "t", 0, 1) // a sign of life too
	r.pass(1000)
	r.state("PreparingRebalance")
	r.heartbeat(ids[0], gen, wire.UnknownMemberID)
	j := r.join(ids[1])
	r.pass(9000)
	r.joined(j) // the last of them expired
	if resp := r.joined(j); resp.LeaderID != ids[1] || resp.Generation != gen+1 || len(resp.Members) != 1 {
		t.Fatalf("%+v", resp)
	}
}

func TestRebalanceTimeoutRemovesWhoDoesNotJoin(t *testing.T) {
	r := newRig(t)
	ids, gen := r.stable(2)
	j := r.join(ids[0])
	for range 59 { // alive, but does not join
		r.pass(1000)
		r.heartbeat(ids[1], gen, wire.RebalanceInProgress)
	}
	r.waits(j)
	r.pass(1000)
	if n := len(r.joined(j).Members); n != 1 {
		t.Fatalf("%d members", n)
	}
	r.heartbeat(ids[1], gen, wire.UnknownMemberID)
}

func TestNewLeaderWhenTheOldOneDoesNotJoin(t *testing.T) {
	r := newRig(t)
	ids, gen := r.stable(2)
	j := r.join(ids[1], protocols("range:u"))
	r.pass(10_000)
	if resp := r.joined(j); resp.LeaderID != ids[1] || len(resp.Members) != 1 || resp.Generation != gen+1 {
		t.Fatalf("%+v", resp)
	}
}

func TestWhoDoesNotSyncIsRemoved(t *testing.T) {
	r := newRig(t)
	ids, gen := r.stable(2)
	r.join(ids[0])
	r.joined(r.join(ids[1]))
	gen++
	r.synced(r.sync(ids[0], gen, nil), "")
	for range 59 {
		r.pass(1000)
		r.heartbeat(ids[0], gen, wire.None)
		r.heartbeat(ids[1], gen, wire.None) // alive, but never asks what it was assigned
	}
	r.state("Stable")
	r.pass(1000)
	r.state("PreparingRebalance")
	r.heartbeat(ids[1], gen, wire.UnknownMemberID)
	// While the leader does not sync, the followers that wait for it are not at fault.
	r.joined(r.join(ids[0]))
	b := r.newID()
	jb := r.join(b)
	r.joined(r.join(ids[0]))
	gen = r.joined(jb).Generation
	sb := r.sync(b, gen, nil)
	for range 60 {
		r.pass(1000)
		if r.describe(5).State != "CompletingRebalance" {
			break
		}
		r.heartbeat(ids[0], gen, wire.None)
	}
	r.syncFails(sb, wire.RebalanceInProgress)
	r.heartbeat(ids[0], gen, wire.UnknownMemberID)
	r.heartbeat(b, gen, wire.RebalanceInProgress)
}

func TestNewcomersDoNotWaitForEver(t *testing.T) {
	r := newRig(t)
	ids, gen := r.stable(1)
	j := r.join(r.newID(), func(q *kmsg.JoinGroupRequest) { q.RebalanceTimeoutMillis = 1_000_000 })
	for range 29 {
		r.pass(9000)
		r.heartbeat(ids[0], gen, wire.RebalanceInProgress)
		if _, done := r.answers[j]; done {
			return // the rebalance timeout of a group with the old member alone
		}
	}
	for range 5 {
		r.pass(9000)
		r.heartbeat(ids[0], gen, wire.RebalanceInProgress)
	}
	if resp := r.joinFails(j, wire.UnknownMemberID); resp.MemberID != "" {
		t.Fatalf("%+v", resp)
	}
}

func TestProtocolIsVotedFor(t *testing.T) {
	r := newRig(t, func(c *Config) { c.InitialRebalanceDelayMs = 0 })
	a := r.joined(r.join("", version(3), protocols("x", "range", "sticky"))).MemberID
	b := r.newID()
	r.joinFails(r.join(b, protocols("y")), wire.InconsistentGroupProtocol)
	r.joinFails(r.join(b, protocols("x"), func(q *kmsg.JoinGroupRequest) { q.ProtocolType = "connect" }), wire.InconsistentGroupProtocol)
	c := r.newID()
	jb := r.join(b, protocols("sticky", "range"))
	jc := r.join(c, protocols("sticky", "range"))
	r.joined(r.join(a, version(3), protocols("x", "range", "sticky")))
	for _, x := range []shard.Ticket{jb, jc} {
		if p := *r.joined(x).Protocol; p != "sticky" {
			t.Fatalf("%s is elected", p)
		}
	}
	// The same name twice counts once.
	d := r.newID()
	r.joinFails(r.join(d, protocols("y", "y", "y")), wire.InconsistentGroupProtocol)
	r.join(d, protocols("range", "range:u"))
	if n := r.s.groups["g"].classic.support["range"]; n != 4 {
		t.Fatalf("range is supported by %d", n)
	}
}

func TestGroupSizeIsLimited(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxSize = 2 })
	ids, gen := r.stable(2)
	r.joinFails(r.join(""), wire.GroupMaxSizeReached)
	r.joined(r.join(ids[1]))
	r.restart()
	r.heartbeat(ids[0], gen, wire.None)
	// Loaded with a lower limit: the last to rejoin is left out.
	r.s.cfg.MaxSize = 1
	r.restart()
	r.heartbeat(ids[0], gen, wire.RebalanceInProgress)
	j := r.join(ids[1])
	if resp := r.joinFails(r.join(ids[0]), wire.GroupMaxSizeReached); resp.MemberID != "" {
		t.Fatalf("%+v", resp)
	}
	if resp := r.joined(j); resp.LeaderID != ids[1] || resp.Generation != gen+1 {
		t.Fatalf("%+v", resp)
	}
}

func TestStaticMembersComeBackToAFullGroup(t *testing.T) {
	r := newRig(t, func(c *Config) { c.MaxSize, c.InitialRebalanceDelayMs = 1, 0 })
	a := r.joined(r.join("", instance("a"))).MemberID
	r.synced(r.sync(a, 1, nil), "")
	r.joinFails(r.join("", instance("b")), wire.GroupMaxSizeReached)
	r.joined(r.join("", instance("a")))
	r.heartbeat(a, 1, wire.FencedInstanceID, "a")
}

func TestLeave(t *testing.T) {
	r := newRig(t)
	r.code(r.leave(2, kmsg.LeaveGroupRequestMember{MemberID: "x"}).ErrorCode, wire.UnknownMemberID)
	if resp := r.leave(4, kmsg.LeaveGroupRequestMember{MemberID: "x"}); resp.ErrorCode != 0 || resp.Members[0].ErrorCode != int16(wire.UnknownMemberID) {
		t.Fatalf("%+v", resp)
	}
	ids, gen := r.stable(3)
	i := "i"
	resp := r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: ids[0]}, kmsg.LeaveGroupRequestMember{MemberID: ids[0]},
		kmsg.LeaveGroupRequestMember{MemberID: ids[1], InstanceID: &i}, kmsg.LeaveGroupRequestMember{InstanceID: &i})
	for k, want := range []wire.Code{wire.None, wire.UnknownMemberID, wire.UnknownMemberID, wire.UnknownMemberID} {
		r.code(resp.Members[k].ErrorCode, want)
	}
	r.state("PreparingRebalance")
	j := r.join(ids[1])
	r.code(r.leave(2, kmsg.LeaveGroupRequestMember{MemberID: ids[2]}).ErrorCode, wire.None)
	if resp := r.joined(j); resp.Generation != gen+1 || resp.LeaderID != ids[1] {
		t.Fatalf("%+v", resp)
	}
	// The last one leaves: recorded, with a new generation.
	r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: ids[1]})
	if r.written != 1 {
		t.Fatalf("%d records", r.written)
	}
	r.state("Empty")
	if c := r.s.groups["g"].classic; c.generation != gen+2 || c.protocolType != "consumer" || c.protocol != "" || c.leader != "" || c.stateSinceMs != r.now.WallMs {
		t.Fatalf("%+v", c)
	}
	// One that only has an id leaves: nobody is disturbed.
	ids, _ = r.stable(1)
	p := r.newID()
	r.code(r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: p}).Members[0].ErrorCode, wire.None)
	r.state("Stable")
	// Who waits is told.
	j = r.join(ids[0])
	q := r.newID()
	jq := r.join(q)
	r.joined(r.join(ids[0]))
	sq := r.sync(q, r.joined(jq).Generation, nil)
	r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: q})
	r.syncFails(sq, wire.UnknownMemberID)
	r.joined(j)
}

func TestStaticMembers(t *testing.T) {
	r := newRig(t)
	a := r.join("", instance("a"))
	b := r.join("", instance("b"))
	r.pass(6000)
	ra, rb := r.joined(a), r.joined(b)
	if !strings.HasPrefix(ra.MemberID, "a-") || *ra.Members[1].InstanceID != "b" {
		t.Fatalf("%+v", ra)
	}
	sb := r.sync(rb.MemberID, 1, nil)
	r.sync(ra.MemberID, 1, map[string]string{ra.MemberID: "A", rb.MemberID: "B"})
	r.synced(sb, "B")

	// b comes back without its id: it gets its place, and nobody else notices.
	back := r.joined(r.join("", instance("b")))
	if r.written != 1 || back.Generation != 1 || back.MemberID == rb.MemberID || back.LeaderID != ra.MemberID || back.SkipAssignment || len(back.Members) != 0 {
		t.Fatalf("%+v", back)
	}
	r.heartbeat(rb.MemberID, 1, wire.FencedInstanceID, "b")
	r.heartbeat(rb.MemberID, 1, wire.UnknownMemberID)
	r.heartbeat(rb.MemberID, 1, wire.UnknownMemberID, "nobody")
	r.commitFails(rb.MemberID, 1, wire.FencedInstanceID, func(q *kmsg.OffsetCommitRequest) { q.InstanceID = rbInstance("b") })
	r.joinFails(r.join(rb.MemberID, instance("b")), wire.FencedInstanceID)
	r.syncFails(r.sync(rb.MemberID, 1, nil, func(q *kmsg.SyncGroupRequest) { q.InstanceID = rbInstance("b") }), wire.FencedInstanceID)
	r.code(r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: rb.MemberID, InstanceID: rbInstance("b")}).Members[0].ErrorCode, wire.FencedInstanceID)
	r.synced(r.sync(back.MemberID, 1, nil), "B")
	r.heartbeat(back.MemberID, 1, wire.None, "b")
	r.restart()
	r.heartbeat(back.MemberID, 1, wire.None, "b")
	r.heartbeat(rb.MemberID, 1, wire.FencedInstanceID, "b")

	// The leader comes back: since version 9 it is told to assign nothing.
	lead := r.joined(r.join("", instance("a")))
	if !lead.SkipAssignment || lead.LeaderID != lead.MemberID || len(lead.Members) != 2 || lead.Members[0].MemberID != lead.MemberID || lead.Generation != 1 {
		t.Fatalf("%+v", lead)
	}
	r.synced(r.sync(lead.MemberID, 1, nil), "A")
	old := r.joined(r.join("", instance("a"), version(8)))
	if old.SkipAssignment || old.LeaderID != lead.MemberID || len(old.Members) != 0 {
		t.Fatalf("%+v", old)
	}
	r.synced(r.sync(old.MemberID, 1, nil), "A")

	// The same for another topic: still the same protocol.
	b2 := r.joined(r.join("", instance("b"), protocols("range:u", "other")))
	if got := r.describe(5).Members[1].ProtocolMetadata; string(got) != string(subscription("u")) {
		t.Fatalf("subscription %x", got)
	}
	// An administrator removes it by its instance id.
	r.code(r.leave(5, kmsg.LeaveGroupRequestMember{InstanceID: rbInstance("b")}).Members[0].ErrorCode, wire.None)
	r.state("PreparingRebalance")
	r.heartbeat(b2.MemberID, 1, wire.UnknownMemberID, "b")
}

func rbInstance(id string) *string { return &id }

func TestStaticMemberWithAnotherProtocolRebalances(t *testing.T) {
	r := newRig(t, func(c *Config) { c.InitialRebalanceDelayMs = 0 })
	a := r.joined(r.join("", instance("a"), protocols("range", "sticky"))).MemberID
	r.synced(r.sync(a, 1, map[string]string{a: "A"}), "A")
	j := r.joined(r.join("", instance("a"), protocols("sticky", "range")))
	if j.Generation != 2 || *j.Protocol != "sticky" || j.LeaderID != j.MemberID {
		t.Fatalf("%+v", j)
	}
	// In Completing too: the leader may have assigned to the old id.
	s := r.sync(a, 1, nil, func(q *kmsg.SyncGroupRequest) { q.InstanceID = rbInstance("a") })
	r.syncFails(s, wire.FencedInstanceID)
	k := r.joined(r.join("", instance("a"), protocols("sticky", "range")))
	if k.Generation != 3 {
		t.Fatalf("%+v", k)
	}
}

func TestStaticMembersKeepTheirPlaceThroughARebalance(t *testing.T) {
	r := newRig(t)
	a := r.join("", instance("a"), func(q *kmsg.JoinGroupRequest) { q.SessionTimeoutMillis = 120_000 })
	b := r.join("", instance("b"), func(q *kmsg.JoinGroupRequest) { q.SessionTimeoutMillis = 120_000 })
	r.pass(6000)
	ra, rb := r.joined(a), r.joined(b)
	r.sync(rb.MemberID, 1, nil)
	r.sync(ra.MemberID, 1, nil)
	j := r.join(rb.MemberID, instance("b"), protocols("range:u"))
	r.pass(60_000)
	resp := r.joined(j)
	if resp.LeaderID != rb.MemberID || len(resp.Members) != 2 {
		t.Fatalf("%+v", resp)
	}
	// Nobody joins: they are waited for until their sessions end.
	r.join(r.newID())
	r.pass(60_000)
	r.state("CompletingRebalance")
	r.pass(300_000)
	r.state("Empty")
}

func TestWhoWaitsUnderAnOldIDIsFenced(t *testing.T) {
	r := newRig(t)
	a := r.join("", instance("a"))
	b := r.join("", instance("a"))
	r.joinFails(a, wire.FencedInstanceID)
	r.pass(3000)
	r.joined(b)
}

func TestReplacedRequestsAreAnswered(t *testing.T) {
	r := newRig(t)
	a, b := r.newID(), r.newID()
	j1 := r.join(a)
	j2 := r.join(a)
	r.joinFails(j1, wire.RebalanceInProgress)
	r.join(b)
	r.pass(6000)
	r.joined(j2)
	s1 := r.sync(b, 1, nil)
	s2 := r.sync(b, 1, nil)
	r.syncFails(s1, wire.RebalanceInProgress)
	r.waits(s2)
	r.sync(a, 1, nil)
	r.synced(s2, "")
}

func TestFailedRecords(t *testing.T) {
	r := newRig(t)
	ids, gen := r.stable(2)
	r.join(ids[0])
	r.joined(r.join(ids[1]))
	gen++
	// The assignment is not written: all rejoin.
	sb := r.sync(ids[1], gen, nil)
	r.refuse = wire.NotEnoughReplicas
	r.syncFails(r.sync(ids[0], gen, map[string]string{ids[0]: "x"}), wire.CoordinatorNotAvailable)
	r.syncFails(sb, wire.CoordinatorNotAvailable)
	r.heartbeat(ids[0], gen, wire.RebalanceInProgress)
	r.join(ids[0])
	r.joined(r.join(ids[1]))
	gen++
	r.sync(ids[1], gen, nil)
	r.synced(r.sync(ids[0], gen, map[string]string{ids[0]: "x"}), "x")
	// A commit.
	r.refuse = wire.NotLeaderOrFollower
	r.code(int16(r.commit(ids[0], gen, "t", 0, 1)), wire.NotCoordinator)
	r.refuse = wire.MessageTooLarge
	r.code(int16(r.commit(ids[0], gen, "t", 0, 1)), wire.InvalidCommitOffsetSize)
	r.fetches("t", 0, -1)
	// That nobody is left: tried again.
	r.refuse = wire.RequestTimedOut
	r.code(r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: ids[0]}, kmsg.LeaveGroupRequestMember{MemberID: ids[1]}).ErrorCode, wire.CoordinatorNotAvailable)
	r.state("PreparingRebalance")
	r.pass(1000)
	r.state("Empty")
}

func TestFailedStaticReplacement(t *testing.T) {
	r := newRig(t, func(c *Config) { c.InitialRebalanceDelayMs = 0 })
	a := r.joined(r.join("", instance("a"), protocols("range", "sticky"))).MemberID
	r.synced(r.sync(a, 1, map[string]string{a: "A"}), "A")
	r.refuse = wire.KafkaStorageError
	r.joinFails(r.join("", instance("a"), protocols("range")), wire.NotCoordinator)
	r.heartbeat(a, 1, wire.None, "a")
	r.joined(r.join("", instance("a"), protocols("range")))
	r.heartbeat(a, 1, wire.FencedInstanceID, "a")
}

func TestLoadedMembersHaveTheirWholeSession(t *testing.T) {
	r := newRig(t)
	ids, gen := r.stable(2)
	r.pass(9000)
	r.restart()
	r.pass(9000)
	r.heartbeat(ids[0], gen, wire.None)
	r.pass(1000)
	r.heartbeat(ids[0], gen, wire.RebalanceInProgress)
	r.heartbeat(ids[1], gen, wire.UnknownMemberID)
	// What was not recorded is gone: who was told a generation rejoins.
	r.joined(r.join(ids[0]))
	r.restart()
	r.heartbeat(ids[0], gen+1, wire.IllegalGeneration)
	r.heartbeat(ids[1], gen, wire.None)
}

func TestDescribeAndList(t *testing.T) {
	r := newRig(t)
	if d := r.describe(5); d.State != "Dead" || d.ErrorCode != 0 {
		t.Fatalf("%+v", d)
	}
	if d := r.describe(6); d.State != "Dead" || wire.Code(d.ErrorCode) != wire.GroupIDNotFound || *d.ErrorMessage != "Group g not found." {
		t.Fatalf("%+v", d)
	}
	ids, _ := r.stable(1)
	r.commits("", -1, "t", 0, 1, func(q *kmsg.OffsetCommitRequest) { q.Group = "simple" })
	list := func(states, types []string) string {
		req := kmsg.NewPtrListGroupsRequest()
		req.StatesFilter, req.TypesFilter = states, types
		tk := r.ticket()
		r.do(r.s.ListGroups(r.now, tk, req))
		var b strings.Builder
		for _, g := range answer[*kmsg.ListGroupsResponse](r, tk).Groups {
			fmt.Fprintf(&b, "%s/%s/%s/%s ", g.Group, g.ProtocolType, g.GroupState, g.GroupType)
		}
		return b.String()
	}
	const g, simple = "g/consumer/Stable/classic ", "simple//Empty/classic "
	for _, c := range []struct {
		states, types []string
		want          string
	}{
		{nil, nil, g + simple}, {[]string{"stable"}, nil, g}, {[]string{"Empty", "x"}, nil, simple}, {nil, []string{"Classic"}, g + simple},
		{nil, []string{"consumer"}, ""}, {[]string{"Dead"}, nil, ""},
	} {
		if got := list(c.states, c.types); got != c.want {
			t.Errorf("states %v types %v: %s", c.states, c.types, got)
		}
	}
	// Metadata is shown in Stable only.
	r.waits(r.join(r.newID()))
	if d := r.describe(5); d.State != "PreparingRebalance" || d.Protocol != "" || len(d.Members) != 2 || d.Members[0].ProtocolMetadata != nil || d.Members[0].MemberID != ids[0] {
		t.Fatalf("%+v", d)
	}
}

func TestTimersOfAShardWithoutGroups(t *testing.T) {
	s := New(testConfig(), testMetadata(), counter())
	if d := s.Deadline(); d != math.MaxInt64 {
		t.Fatalf("deadline %d before it is loaded", d)
	}
	s.Loaded(shard.Time{MonoMs: 5})
	if d := s.Deadline(); d != 600_005 {
		t.Fatalf("deadline %d", d)
	}
}

func TestHeartbeatsDoNotGrowTheTimers(t *testing.T) {
	r := newRig(t)
	ids, gen := r.stable(3)
	for range 2000 {
		r.pass(1)
		r.heartbeat(ids[0], gen, wire.None)
		r.commits(ids[1], gen, "t", 0, 1)
		r.heartbeat(ids[2], gen, wire.None)
	}
	for range 500 {
		r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: r.newID()})
	}
	if n := len(r.s.timers.heap); n > 200 {
		t.Fatalf("%d timers for 3 members", n)
	}
	r.state("Stable")
}

func BenchmarkRebalanceOf1000(b *testing.B) {
	cfg := testConfig()
	cfg.MaxSize, cfg.InitialRebalanceDelayMs = 10_000, 0
	s := New(cfg, testMetadata(), counter())
	now := shard.Time{MonoMs: 1}
	s.Loaded(now)
	do := func(fx shard.Effects) shard.Effects {
		for _, r := range fx.Records {
			if err := s.Replay(r); err != nil {
				b.Fatal(err)
			}
		}
		return fx
	}
	var ids []string
	for i := range 1000 {
		now.MonoMs++
		for _, r := range do(s.JoinGroup(now, shard.Ticket(i+1), testClient, joinReq("", version(0)))).Replies {
			if a, ok := r.Response.(*kmsg.JoinGroupResponse); ok && len(ids) == 0 {
				ids = append(ids, a.MemberID)
			}
		}
	}
	c := s.groups["g"].classic
	ids = ids[:0]
	for _, m := range c.order {
		ids = append(ids, m.id)
	}
	b.ReportAllocs()
	for b.Loop() {
		for i, id := range ids {
			do(s.JoinGroup(now, shard.Ticket(i+1), testClient, joinReq(id, version(0))))
		}
		req := kmsg.NewPtrSyncGroupRequest()
		req.Group, req.Generation = "g", c.generation
		for _, id := range ids {
			req.GroupAssignment = append(req.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: id, MemberAssignment: []byte("0123456789")})
		}
		for i := len(ids) - 1; i >= 0; i-- {
			req.MemberID = ids[i]
			do(s.SyncGroup(now, shard.Ticket(i+1), req))
		}
	}
	if c.state != stable || len(c.order) != 1000 {
		b.Fatalf("%s with %d members", c.state, len(c.order))
	}
}
