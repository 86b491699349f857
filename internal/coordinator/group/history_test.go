package group

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

// consistent checks that histories are counted and stay within their bounds.
func (p *histories) consistent(limit int) error {
	all := 0
	for id, h := range p.of {
		n := len(id) + historyText
		for i := range h.events {
			n += h.events[i].bytes()
		}
		if n != h.bytes || len(h.events) > historyEvents {
			return fmt.Errorf("history of %s: %d bytes are counted as %d, %d events", id, n, h.bytes, len(h.events))
		}
		all += n
	}
	if all != p.bytes || all > limit {
		return fmt.Errorf("histories: %d bytes are counted as %d, %d are allowed", all, p.bytes, limit)
	}
	return nil
}

func (r *rig) history(group string) *History {
	r.Helper()
	t := r.ticket()
	r.do(r.s.History(r.now, t, group))
	if err := consistent(r.s); err != nil {
		r.Fatal(err)
	}
	return answer[*History](r, t)
}

// told compares the history of "g" from its n-th event on, in short lines. Members are named by the letters given.
func (r *rig) told(n int, names map[string]string, want ...string) {
	r.Helper()
	name := func(m MemberName) string {
		if s := names[m.ID]; s != "" {
			return s
		}
		return m.ID + m.InstanceID
	}
	h := r.history("g")
	var got []string
	for _, e := range h.Events[min(n, len(h.Events)):] {
		line := strings.TrimSpace(fmt.Sprint(e.Kind, " ", name(e.Member)))
		if e.Before != "" {
			line += " before " + name(MemberName{ID: e.Before})
		}
		if e.Why != "" {
			line += ": " + string(e.Why)
		}
		if e.LimitMs > 0 {
			line += fmt.Sprint(" ", e.LimitMs)
		}
		if e.Times > 0 {
			line += fmt.Sprint(" times ", e.Times)
		}
		if x := e.Rebalance; x != nil {
			line += fmt.Sprintf(" to %d of %d in %d because %s %s", x.Epoch, x.Members, x.TookMs, x.Because, name(x.By))
			if x.Interrupted {
				line += " interrupted"
			}
			if x.DelayMs+x.JoinMs+x.AssignMs > 0 {
				line += fmt.Sprintf(" (%d %d %d)", x.DelayMs, x.JoinMs, x.AssignMs)
			}
			for _, w := range x.WaitedFor {
				line += fmt.Sprintf(", %s %d to %s", name(w.Member), w.Ms, w.To)
			}
		}
		if e.Said != "" {
			line += " “" + e.Said + "”"
		}
		got = append(got, line)
	}
	if a, b := strings.Join(got, "\n"), strings.Join(want, "\n"); a != b {
		r.Fatalf("history:\n%s\nwant:\n%s", a, b)
	}
}

func letters(ids []string) map[string]string {
	names := map[string]string{}
	for i, id := range ids {
		names[id] = string(rune('a' + i))
	}
	return names
}

func TestHistoryBytes(t *testing.T) {
	if a, b, c := unsafe.Sizeof(Event{}), unsafe.Sizeof(Rebalance{}), unsafe.Sizeof(Wait{}); 2*a > eventBytes || b > rebalanceBytes || 2*c > waitBytes {
		t.Errorf("an event has %d bytes, a rebalance %d, a wait %d: count them", a, b, c)
	}
}

func TestHistoryOfCrashedMember(t *testing.T) {
	r := newRig(t)
	ids, generation := r.stable(2)
	names := letters(ids)
	r.told(0, names, "joined a", "joined b", "rebalanced to 1 of 2 in 6000 because joined a (3000 6000 0)")

	r.pass(9000)
	r.heartbeat(ids[0], generation, wire.None)
	r.pass(1000) // b has been silent for its session
	r.heartbeat(ids[0], generation, wire.RebalanceInProgress)
	h := r.history("g")
	if o := h.Open; o == nil || o.Because != Removed || h.Waiting != 1 || len(o.WaitedFor) != 1 || names[o.WaitedFor[0].Member.ID] != "a" || o.WaitedFor[0].To != toJoinAgain {
		t.Fatalf("while a is waited for: %+v", h)
	}
	r.pass(2000)
	r.joined(r.join(ids[0]))
	r.pass(500)
	r.synced(r.sync(ids[0], generation+1, map[string]string{ids[0]: "all"}), "all")
	r.told(3, names, "removed b: session timeout 10000",
		"rebalanced to 2 of 1 in 2500 because removed b (0 2000 500), a 2000 to join again, a 500 to assign partitions")
	if h := r.history("g"); h.Open != nil || h.State != "Stable" || h.Epoch != 2 || h.Members != 1 || h.Type != "classic" || !h.Exists {
		t.Errorf("now: %+v", h)
	}
	r.restart()
	if h := r.history("g"); len(h.Events) != 0 || h.SinceMs != r.now.WallMs || h.Members != 1 {
		t.Errorf("after a restart: %+v", h)
	}
}

func TestHistoryOfSlowConsumer(t *testing.T) {
	r := newRig(t)
	ids, generation := r.stable(2)
	names := letters(ids)
	slow := "consumer poll timeout has expired."
	r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: ids[1], Reason: &slow})
	r.pass(3000)
	r.heartbeat(ids[0], generation, wire.RebalanceInProgress)
	again := r.join(ids[0])
	r.synced(r.sync(ids[0], generation+1, map[string]string{ids[0]: "all"}), "all")
	r.joined(again)
	r.told(3, names, "left b “consumer poll timeout has expired.”",
		"rebalanced to 2 of 1 in 3000 because left b (0 3000 0), a 3000 to join again")

	// One that is too slow to join again is left out, and was waited for until then.
	c := r.newID()
	names[c] = "c"
	waiting := r.join(c)
	for range 12 {
		r.pass(5000)
		r.heartbeatAny(ids[0], generation+1)
	}
	r.joined(waiting)
	r.synced(r.sync(c, generation+2, map[string]string{c: "all"}), "all")
	r.told(5, names, "joined c", "removed a: rebalance timeout 60000",
		"rebalanced to 3 of 1 in 60000 because joined c (0 60000 0), a 60000 to join again")

	r.leave(5, kmsg.LeaveGroupRequestMember{MemberID: c, Reason: new(adminLeaves + ": maintenance")})
	r.told(8, names, "kicked c “"+adminLeaves+": maintenance”", "rebalanced to 3 of 0 in 0 because kicked c")
}

func TestHistoryOfStaticMembers(t *testing.T) {
	r := newRig(t)
	first := r.join("", instance("i"))
	r.pass(3000)
	a := r.joined(first).MemberID
	r.synced(r.sync(a, 1, map[string]string{a: "all"}), "all")
	b := r.joined(r.join("", instance("i"))).MemberID
	names := map[string]string{a: "a", b: "b"}
	for range 3 {
		r.heartbeat(a, 1, wire.FencedInstanceID, "i")
	}
	r.told(2, names, "restarted b before a: without a rebalance", "fenced a times 3")

	r.refuse = wire.NotEnoughReplicas
	r.joinFails(r.join("", instance("i")), wire.CoordinatorNotAvailable)
	r.told(4, names) // it was not written, so it has not happened
	c := r.joined(r.join("", instance("i"), protocols("other", "range"))).MemberID
	names[c] = "c"
	r.told(4, names, "restarted c before b")
}

func TestHistoryOfConsumerGroup(t *testing.T) {
	r := newRig(t)
	r.beat("a", 0, 2, "1:0,1,2,3")
	r.beat("a", 2, 2, "same", owning("1:0,1,2,3"))
	r.told(0, nil, "joined a", "rebalanced to 2 of 1 in 0 because joined a")
	r.pass(10_000)
	r.beat("b", 0, 3, "-")
	names := map[string]string{}
	r.told(2, names, "joined b")
	if h := r.history("g"); h.Open == nil || h.Waiting != 1 || h.Open.WaitedFor[0].Member.ID != "a" || h.Type != "consumer" {
		t.Fatalf("while a has what b is to have: %+v", h)
	}
	r.pass(1000)
	told := r.beatAny("a", 2, owning("1:0,1,2,3"))
	var keep []string
	for _, x := range told.Assignment.Topics {
		keep = append(keep, strings.Trim(strings.ReplaceAll(fmt.Sprint(x.Partitions), " ", ","), "[]"))
	}
	r.pass(4000)
	r.beatAny("a", 2, owning("1:"+strings.Join(keep, "")))
	r.pass(500)
	r.beatAny("b", 3, owning("-"))
	r.told(3, names, "rebalanced to 3 of 2 in 5500 because joined b, a 5000 to give back partitions")

	r.refuse = wire.NotEnoughReplicas
	r.beatAny("b", epochLeaves)
	r.told(4, names)
	r.beatAny("b", epochLeaves)
	r.beatAny("a", 3, owning("1:"+strings.Join(keep, "")))
	r.told(4, names, "left b", "rebalanced to 4 of 1 in 0 because left b")
	r.beatFails("a", 9, wire.FencedMemberEpoch)
	if e := r.history("g").Events; e[len(e)-1].Kind != Fenced || e[len(e)-1].Why != StaleEpoch {
		t.Errorf("a wrong epoch: %+v", e[len(e)-1])
	}
	r.pass(60_000)
	r.told(7, names, "removed a: session timeout 45000", "rebalanced to 5 of 0 in 0 because removed a")
	r.deleteGroup(wire.None)
	r.told(9, names, "deleted")
	if h := r.history("g"); h.Exists {
		t.Error("the group exists")
	}
}

// A group that turns into one of the other kind, whose topics change, and whose assignment cannot be written.
func TestHistoryOfMigration(t *testing.T) {
	r := newRig(t)
	ids, g := r.stableWith([]int32{0, 1, 2, 3})
	names := letters(ids)
	r.beat("n", 0, g+1, "-")
	r.told(2, names, "upgraded", "joined n")
	r.beatAny("n", epochLeaves)
	r.told(4, names, "left n", "rebalanced to 2 of 1 in 0 because joined n interrupted", "downgraded")
	r.pass(500)
	r.joined(r.join(ids[0], ownedSubscription(0, 1, 2, 3)))
	r.refuse = wire.NotEnoughReplicas
	r.syncFails(r.sync(ids[0], g+2, map[string]string{ids[0]: classicShare("t", 0)}), wire.CoordinatorNotAvailable)
	r.pass(100)
	r.joined(r.join(ids[0], ownedSubscription(0, 1, 2, 3)))
	r.synced(r.sync(ids[0], g+3, map[string]string{ids[0]: classicShare("t", 0)}), classicShare("t", 0))
	r.told(7, names, "unwritten", "rebalanced to 3 of 1 in 500 because downgraded  interrupted (0 500 0), a 500 to join again",
		"rebalanced to 4 of 1 in 100 because unwritten  (0 100 0), a 100 to join again")

	r = newRig(t)
	r.beat("a", 0, 2, "1:0,1,2,3")
	r.topics(2, testTopic("t", 1, 5), testTopic("u", 2, 2))
	r.pass(1000)
	r.beat("a", 2, 3, "1:0,1,2,3,4", owning("1:0,1,2,3"))
	r.told(2, nil, "topics", "rebalanced to 3 of 1 in 0 because topics ")
}

// TestHistoryIsBounded: who fills the history pushes out its own, and that of nobody who has less.
func TestHistoryIsBounded(t *testing.T) {
	r := newRig(t, func(c *Config) { c.HistoryBytes = 64 << 10 })
	of := func(group string) func(*kmsg.JoinGroupRequest) {
		return func(q *kmsg.JoinGroupRequest) { q.Group, q.Version = group, 3 }
	}
	r.join("", of("quiet-for-long"))
	long := strings.Repeat("x", 30_000)
	for i := range 1000 {
		r.now.WallMs++
		r.join("", of(fmt.Sprint("noisy", i%2)), func(q *kmsg.JoinGroupRequest) { q.InstanceID = new(fmt.Sprint(i, long)) })
		r.pass(1)
	}
	if h := r.history("quiet-for-long"); len(h.Events) != 1 || h.Dropped != 0 {
		t.Errorf("the quiet group has %d events, %d are gone", len(h.Events), h.Dropped)
	}
	if h := r.history("noisy0"); len(h.Events) == 0 || h.Dropped == 0 || len(h.Events[0].Member.InstanceID) > historyText+3 {
		t.Errorf("the noisy group has %d events, %d are gone", len(h.Events), h.Dropped)
	}
	for i := range 1000 { // many groups: those that were heard of least recently go
		r.join("", of(fmt.Sprint("group", i)))
	}
	if h := r.history("group999"); len(h.Events) != 1 {
		t.Errorf("the last group has %d events", len(h.Events))
	}
	if h := r.history("quiet-for-long"); len(h.Events) != 0 {
		t.Errorf("the first group is remembered: %+v", h)
	}

	off := newRig(t, func(c *Config) { c.HistoryBytes = 0 })
	off.stable(1)
	if h := off.history("g"); len(h.Events) != 0 || h.Members != 1 || len(off.s.past.of) != 0 {
		t.Errorf("without a history: %+v", h)
	}
}
