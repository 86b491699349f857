package group

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

func testConfig() Config {
	return Config{OffsetMetadataMaxBytes: 64, OffsetsRetentionMs: 3_600_000, RetentionCheckIntervalMs: 600_000,
		MinSessionTimeoutMs: 6000, MaxSessionTimeoutMs: 1_800_000, MaxSize: 100, InitialRebalanceDelayMs: 3000,
		ConsumerMaxSize: 100, Assignors: []string{assignorUniform, assignorRange}, Upgrade: true, Downgrade: true, PatternRefreshMs: 600_000, HistoryBytes: 1 << 20}
}

// counter is randomness that a test can repeat.
func counter() func([]byte) {
	n := uint64(0)
	return func(out []byte) {
		n++
		binary.BigEndian.PutUint64(out[len(out)-8:], n)
	}
}

// rig runs a shard for scripted tests: records are committed as soon as they are written.
type rig struct {
	*testing.T
	s       *Shard
	now     shard.Time
	log     []shard.Record
	tickets shard.Ticket
	lost    shard.Ticket // up to this one they are of a shard before
	answers map[shard.Ticket]shard.Reply
	refuse  wire.Code // the log refuses the next records
	written int       // records of the last event
	events  int
}

func newRig(t *testing.T, change ...func(*Config)) *rig {
	cfg := testConfig()
	for _, f := range change {
		f(&cfg)
	}
	r := &rig{T: t, s: New(cfg, testMetadata(), counter()), answers: map[shard.Ticket]shard.Reply{}, now: shard.Time{MonoMs: 1000, WallMs: 1_700_000_000_000}}
	r.do(r.s.Loaded(r.now))
	return r
}

func (r *rig) do(fx shard.Effects) {
	r.Helper()
	r.written = len(fx.Records)
	if r.written > 0 && r.refuse != wire.None {
		code := r.refuse
		r.refuse = wire.None
		failed := r.s.Failed(r.now, fx, code)
		if len(failed.Records) > 0 {
			r.Fatalf("Failed writes %d records", len(failed.Records))
		}
		fx = failed
	}
	for _, rec := range fx.Records {
		key, value := slices.Clone(rec.Key), slices.Clone(rec.Value)
		r.log = append(r.log, shard.Record{Key: key, Value: value})
		if err := r.s.Replay(rec); err != nil {
			r.Fatal(err)
		}
		for i := range rec.Key { // they were lent
			rec.Key[i] = 0xee
		}
		for i := range rec.Value {
			rec.Value[i] = 0xee
		}
	}
	for _, reply := range fx.Replies {
		if _, twice := r.answers[reply.Ticket]; twice {
			r.Fatalf("ticket %d is answered twice", reply.Ticket)
		}
		r.answers[reply.Ticket] = reply
	}
	if r.events++; len(r.log) < 300 || r.events%1000 == 0 {
		r.checkFold()
	}
}

// checkFold compares the state with what its log says.
func (r *rig) checkFold() {
	r.Helper()
	if live, folded := compareFold(r.s, r.log); live != folded {
		r.Fatalf("state is not the fold of its log\nstate:\n%s\nfold:\n%s", live, folded)
	}
}

func compareFold(s *Shard, log []shard.Record) (live, folded string) {
	f := New(s.cfg, s.meta, counter())
	for _, rec := range log {
		if err := f.Replay(rec); err != nil {
			return "", err.Error()
		}
	}
	rebalancing := map[string]bool{}
	for id, g := range s.groups {
		rebalancing[id] = g.classic != nil && (g.classic.state == preparingRebalance || g.classic.state == completingRebalance)
	}
	return hardState(s, rebalancing), hardState(f, rebalancing)
}

// hardState prints what is folded from the log; of a group that rebalances only the offsets.
func hardState(s *Shard, rebalancing map[string]bool) string {
	var b strings.Builder
	for _, id := range s.ids() {
		g := s.groups[id]
		c := g.classic
		if len(g.offsets) == 0 && (c == nil || !c.logged) && g.consumer == nil {
			continue
		}
		fmt.Fprintf(&b, "group %q %+v\n", id, g.offsets)
		if g.consumer != nil {
			b.WriteString(hardConsumer(g.consumer))
			continue
		}
		if c == nil || !c.logged || rebalancing[id] {
			continue
		}
		fmt.Fprintf(&b, "  %s generation %d type %q protocol %q leader %q since %d\n", c.state, c.generation, c.protocolType, c.protocol, c.leader, c.stateSinceMs)
		for _, m := range c.order {
			md, _ := m.metadata(c.protocol)
			instance := "-"
			if m.instanceID != nil {
				instance = *m.instanceID
				if c.static[instance] != m {
					b.WriteString("  NOT FOUND BY INSTANCE\n")
				}
			}
			if c.byID[m.id] != m {
				b.WriteString("  NOT FOUND BY ID\n")
			}
			fmt.Fprintf(&b, "  member %q instance %q client %q host %q %d %d %x %x\n", m.id, instance, m.clientID, m.host, m.rebalanceTimeoutMs, m.sessionTimeoutMs, md, m.assignment)
		}
	}
	return b.String()
}

// consistent checks what a shard derives from what it knows.
func consistent(s *Shard) error {
	if err := s.past.consistent(s.cfg.HistoryBytes); err != nil {
		return err
	}
	for id, g := range s.groups {
		c := g.classic
		if c != nil && g.consumer != nil {
			return fmt.Errorf("group %s is of both kinds", id)
		}
		if c == nil {
			if len(g.offsets) == 0 && g.consumer == nil {
				return fmt.Errorf("group %s has nothing", id)
			}
			if g.consumer != nil {
				if err := consistentConsumer(s, g); err != nil {
					return fmt.Errorf("group %s: %w", id, err)
				}
			}
			continue
		}
		awaiting, unsynced, static, support := 0, 0, 0, map[string]int{}
		for _, m := range c.order {
			if m.join != 0 {
				awaiting++
			}
			if m.isUnsynced {
				unsynced++
			}
			for _, p := range m.protocols {
				support[p.name]++
			}
			if m.instanceID != nil {
				static++
				if c.static[*m.instanceID] != m {
					return fmt.Errorf("group %s: member %s is not found by its instance id", id, m.id)
				}
			}
			if c.byID[m.id] != m {
				return fmt.Errorf("group %s: member %s is not found", id, m.id)
			}
			fresh := slices.ContainsFunc(s.converted, func(x converted) bool { return x.group == id }) // looked after from the next event on
			if !m.armed && m.join == 0 && m.sync == 0 && !fresh {
				return fmt.Errorf("group %s: nobody looks after member %s", id, m.id)
			}
		}
		if awaiting != c.awaiting || unsynced != c.unsynced || !maps.Equal(support, c.support) || len(c.byID) != len(c.order) || len(c.static) != static {
			return fmt.Errorf("group %s: the counts are wrong: %+v", id, c)
		}
		if len(c.order) > 0 && c.byID[c.leader] == nil {
			return fmt.Errorf("group %s: leader %q is no member", id, c.leader)
		}
		switch c.state {
		case empty:
			if len(c.order) > 0 {
				return fmt.Errorf("group %s is empty and has members", id)
			}
		case preparingRebalance:
			if c.phase == noPhase && len(c.pending) == 0 {
				return fmt.Errorf("group %s prepares for ever", id)
			}
		default:
			if len(c.order) == 0 || c.support[c.protocol] != len(c.order) || awaiting > 0 {
				return fmt.Errorf("group %s: %+v", id, c)
			}
		}
		for _, m := range c.pending {
			if !m.armed {
				return fmt.Errorf("group %s: member id %s never expires", id, m.id)
			}
		}
	}
	return nil
}

// restart loses what is not in the log.
func (r *rig) restart() {
	r.Helper()
	cfg := r.s.cfg
	r.s = New(cfg, r.s.meta, r.s.random)
	r.lost = r.tickets
	for _, rec := range r.log {
		if err := r.s.Replay(rec); err != nil {
			r.Fatal(err)
		}
	}
	r.do(r.s.Loaded(r.now))
}

// pass lets time pass, timers firing when they are due.
func (r *rig) pass(ms int64) {
	r.Helper()
	end := r.now.MonoMs + ms
	for i := 0; ; i++ {
		d := r.s.Deadline()
		if d > end {
			break
		}
		if i > 100_000 {
			r.Fatal("the deadline does not move")
		}
		if by := d - r.now.MonoMs; by > 0 {
			r.now.MonoMs += by
			r.now.WallMs += by
		}
		r.do(r.s.Tick(r.now))
	}
	r.now.WallMs += end - r.now.MonoMs
	r.now.MonoMs = end
}

func (r *rig) ticket() shard.Ticket { r.tickets++; return r.tickets }

func (r *rig) waits(t shard.Ticket) {
	r.Helper()
	if a, ok := r.answers[t]; ok {
		r.Fatalf("ticket %d is answered: %+v", t, a.Response)
	}
}

func answer[R any](r *rig, t shard.Ticket) R {
	r.Helper()
	a, ok := r.answers[t]
	if !ok {
		r.Fatalf("ticket %d is not answered", t)
	}
	resp, ok := a.Response.(R)
	if !ok {
		r.Fatalf("ticket %d is answered by a %T", t, a.Response)
	}
	return resp
}

func (r *rig) code(got int16, want wire.Code) {
	r.Helper()
	if wire.Code(got) != want {
		r.Fatalf("%s, want %s", wire.Code(got), want)
	}
}

func subscription(topics ...string) []byte {
	m := kmsg.NewConsumerMemberMetadata()
	m.Version = 1
	m.Topics = topics
	return m.AppendTo(nil)
}

// joinReq asks to join "g" as a consumer of topic t with protocol range.
func joinReq(memberID string, change ...func(*kmsg.JoinGroupRequest)) *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID = 9, "g", memberID
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 10_000, 60_000
	req.ProtocolType = consumerType
	req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: subscription("t")}}
	for _, f := range change {
		f(req)
	}
	return req
}

func version(v int16) func(*kmsg.JoinGroupRequest) {
	return func(r *kmsg.JoinGroupRequest) { r.Version = v }
}
func instance(id string) func(*kmsg.JoinGroupRequest) {
	return func(r *kmsg.JoinGroupRequest) { r.InstanceID = &id }
}
func protocols(names ...string) func(*kmsg.JoinGroupRequest) {
	return func(r *kmsg.JoinGroupRequest) {
		r.Protocols = nil
		for _, n := range names {
			name, topic, ok := strings.Cut(n, ":")
			if !ok {
				topic = "t"
			}
			r.Protocols = append(r.Protocols, kmsg.JoinGroupRequestProtocol{Name: name, Metadata: subscription(topic)})
		}
	}
}

var testClient = Client{ID: "c", Host: "/127.0.0.1"}

func (r *rig) join(memberID string, change ...func(*kmsg.JoinGroupRequest)) shard.Ticket {
	r.Helper()
	t := r.ticket()
	r.do(r.s.JoinGroup(r.now, t, testClient, joinReq(memberID, change...)))
	return t
}

func (r *rig) joined(t shard.Ticket) *kmsg.JoinGroupResponse {
	r.Helper()
	a := answer[*kmsg.JoinGroupResponse](r, t)
	r.code(a.ErrorCode, wire.None)
	return a
}

func (r *rig) joinFails(t shard.Ticket, want wire.Code) *kmsg.JoinGroupResponse {
	r.Helper()
	a := answer[*kmsg.JoinGroupResponse](r, t)
	r.code(a.ErrorCode, want)
	return a
}

// newID gets a dynamic member its id.
func (r *rig) newID() string {
	r.Helper()
	return r.joinFails(r.join(""), wire.MemberIDRequired).MemberID
}

func (r *rig) sync(memberID string, generation int32, assignment map[string]string, change ...func(*kmsg.SyncGroupRequest)) shard.Ticket {
	r.Helper()
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 5, "g", memberID, generation
	for _, id := range sortedKeys(assignment) {
		req.GroupAssignment = append(req.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: id, MemberAssignment: []byte(assignment[id])})
	}
	for _, f := range change {
		f(req)
	}
	t := r.ticket()
	r.do(r.s.SyncGroup(r.now, t, req))
	for i := range req.GroupAssignment { // it was lent
		clear(req.GroupAssignment[i].MemberAssignment)
	}
	return t
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (r *rig) synced(t shard.Ticket, want string) {
	r.Helper()
	a := answer[*kmsg.SyncGroupResponse](r, t)
	r.code(a.ErrorCode, wire.None)
	if string(a.MemberAssignment) != want {
		r.Fatalf("assigned %q, want %q", a.MemberAssignment, want)
	}
}

func (r *rig) syncFails(t shard.Ticket, want wire.Code) {
	r.Helper()
	r.code(answer[*kmsg.SyncGroupResponse](r, t).ErrorCode, want)
}

func (r *rig) heartbeat(memberID string, generation int32, want wire.Code, instanceID ...string) {
	r.Helper()
	r.code(int16(r.heartbeatAny(memberID, generation, instanceID...)), want)
}

func (r *rig) heartbeatAny(memberID string, generation int32, instanceID ...string) wire.Code {
	r.Helper()
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 4, "g", memberID, generation
	if len(instanceID) > 0 {
		req.InstanceID = &instanceID[0]
	}
	t := r.ticket()
	r.do(r.s.Heartbeat(r.now, t, req))
	return wire.Code(answer[*kmsg.HeartbeatResponse](r, t).ErrorCode)
}

func (r *rig) leave(version int16, members ...kmsg.LeaveGroupRequestMember) *kmsg.LeaveGroupResponse {
	r.Helper()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version, req.Group, req.Members = version, "g", members
	if version < 3 {
		req.MemberID, req.Members = members[0].MemberID, nil
	}
	t := r.ticket()
	r.do(r.s.LeaveGroup(r.now, t, req))
	return answer[*kmsg.LeaveGroupResponse](r, t)
}

// stable makes n dynamic members of "g" in a stable group; each is assigned its number. The first leads.
func (r *rig) stable(n int) (ids []string, generation int32) {
	r.Helper()
	for range n {
		ids = append(ids, r.newID())
	}
	tickets := make([]shard.Ticket, n)
	for i, id := range ids {
		tickets[i] = r.join(id)
	}
	r.pass(6000)
	assignment := map[string]string{}
	for i, id := range ids {
		assignment[id] = fmt.Sprint(i)
	}
	generation = r.joined(tickets[0]).Generation
	if leader := r.joined(tickets[0]).LeaderID; leader != ids[0] {
		r.Fatalf("%s leads", leader)
	}
	for i := n - 1; i >= 0; i-- {
		given := assignment
		if i > 0 {
			given = nil
		}
		tickets[i] = r.sync(ids[i], generation, given)
	}
	for i := range ids {
		r.synced(tickets[i], fmt.Sprint(i))
	}
	r.state("Stable")
	return ids, generation
}

func (r *rig) describe(version int16) *kmsg.DescribeGroupsResponseGroup {
	r.Helper()
	t := r.ticket()
	r.do(r.s.DescribeGroup(r.now, t, version, "g"))
	return answer[*kmsg.DescribeGroupsResponseGroup](r, t)
}

func (r *rig) state(want string) {
	r.Helper()
	if got := r.describe(5).State; got != want {
		r.Fatalf("group is %s, want %s", got, want)
	}
}

// commit commits offset for partition p of topic t.
func (r *rig) commit(memberID string, generation int32, topic string, p int32, offset int64, change ...func(*kmsg.OffsetCommitRequest)) wire.Code {
	r.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 9, "g", memberID, generation
	part := kmsg.NewOffsetCommitRequestTopicPartition()
	part.Partition, part.Offset, part.LeaderEpoch = p, offset, 7
	req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: topic, Partitions: []kmsg.OffsetCommitRequestTopicPartition{part}}}
	for _, f := range change {
		f(req)
	}
	t := r.ticket()
	r.do(r.s.OffsetCommit(r.now, t, req))
	return wire.Code(answer[*kmsg.OffsetCommitResponse](r, t).Topics[0].Partitions[0].ErrorCode)
}

func (r *rig) commits(memberID string, generation int32, topic string, p int32, offset int64, change ...func(*kmsg.OffsetCommitRequest)) {
	r.Helper()
	r.code(int16(r.commit(memberID, generation, topic, p, offset, change...)), wire.None)
}

func (r *rig) commitFails(memberID string, generation int32, want wire.Code, change ...func(*kmsg.OffsetCommitRequest)) {
	r.Helper()
	before := len(r.log)
	r.code(int16(r.commit(memberID, generation, "t", 0, 99, change...)), want)
	if len(r.log) != before {
		r.Fatal("a refused commit is recorded")
	}
}

// fetched is the offset of a partition, -1 for none.
func (r *rig) fetched(topic string, p int32, id ...wire.UUID) int64 {
	r.Helper()
	req := kmsg.NewOffsetFetchRequestGroup()
	req.Group = "g"
	rt := kmsg.OffsetFetchRequestGroupTopic{Topic: topic, Partitions: []int32{p}}
	if len(id) > 0 {
		rt.TopicID = id[0]
	}
	req.Topics = []kmsg.OffsetFetchRequestGroupTopic{rt}
	t := r.ticket()
	r.do(r.s.OffsetFetch(r.now, t, false, &req))
	return answer[*kmsg.OffsetFetchResponseGroup](r, t).Topics[0].Partitions[0].Offset
}

func (r *rig) fetches(topic string, p int32, want int64, id ...wire.UUID) {
	r.Helper()
	if got := r.fetched(topic, p, id...); got != want {
		r.Fatalf("%s-%d is committed at %d, want %d", topic, p, got, want)
	}
}

func (r *rig) deleteGroup(want wire.Code) {
	r.Helper()
	t := r.ticket()
	r.do(r.s.DeleteGroup(r.now, t, "g"))
	r.pass(0)
	r.code(answer[*kmsg.DeleteGroupsResponseGroup](r, t).ErrorCode, want)
}
