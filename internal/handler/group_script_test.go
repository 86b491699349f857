package handler

import (
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

// testdata/kafka-4.3.1-groups.jsonl holds what a real Kafka 4.3.1 (one fresh combined node with id 1 and
// group.initial.rebalance.delay.ms=0) answers to the script below. To record it anew:
//
//	go test ./internal/handler -run TestGroupAnswersAreKafkas -kafka-groups 127.0.0.1:9092
var kafkaGroupsAddr = flag.String("kafka-groups", "", "address of a fresh Kafka whose answers about groups are recorded")

const groupAnswersFile = "testdata/kafka-4.3.1-groups.jsonl"

// groupScript asks a broker about groups, by several connections, and notes what it answers.
type groupScript struct {
	t       testing.TB
	send    func(client int, frame []byte) []byte
	lines   []string
	names   *strings.Replacer // of what the broker made up
	pairs   []string
	topicID wire.UUID
}

// ask asks in one version and notes the answer.
func (s *groupScript) ask(name string, version int16, req kmsg.Request) kmsg.Response {
	s.t.Helper()
	resp := s.exchange(0, version, req)
	s.note(name, version, resp)
	return resp
}

func (s *groupScript) exchange(client int, version int16, req kmsg.Request) kmsg.Response {
	req.SetVersion(version)
	return parseResponse(s.t, req, version, s.send(client, frameOf(req)))
}

func (s *groupScript) note(name string, version int16, resp kmsg.Response) {
	data, err := json.Marshal(resp)
	if err != nil {
		s.t.Fatal(err)
	}
	var answer any
	if err := json.Unmarshal([]byte(s.names.Replace(string(data))), &answer); err != nil {
		s.t.Fatal(err)
	}
	s.lines = append(s.lines, encodeLine(s.t, answerLine{name, version, clean("", answer)}))
}

// everywhere asks in every version that is served.
func (s *groupScript) everywhere(name string, req kmsg.Request) {
	s.t.Helper()
	for _, r := range rows() {
		if r.key.Int16() == req.Key() {
			for v := r.min; v <= r.max; v++ {
				s.ask(name, v, req)
			}
		}
	}
}

// call gives what the broker made up a name.
func (s *groupScript) call(id, name string) {
	if id == "" {
		s.t.Fatalf("the broker gave no id for %s", name)
	}
	s.pairs = append(s.pairs, id, name)
	s.names = strings.NewReplacer(s.pairs...)
}

// later asks on another connection, where the answer may take until others have asked something.
func (s *groupScript) later(client int, version int16, req kmsg.Request) <-chan kmsg.Response {
	req.SetVersion(version)
	frame := frameOf(req)
	answer := make(chan kmsg.Response, 1)
	go func() { answer <- parseResponse(s.t, req, version, s.send(client, frame)) }()
	return answer
}

// subscription is a consumer's metadata: that of ConsumerProtocolSubscription version 0.
func subscription(topics ...string) []byte {
	out := binary.BigEndian.AppendUint16(nil, 0)
	out = binary.BigEndian.AppendUint32(out, uint32(len(topics)))
	for _, t := range topics {
		out = binary.BigEndian.AppendUint16(out, uint16(len(t)))
		out = append(out, t...)
	}
	return binary.BigEndian.AppendUint32(out, 0xffffffff)
}

func joining(group, member string, edit ...func(*kmsg.JoinGroupRequest)) *kmsg.JoinGroupRequest {
	req := joinRequest(group, member, "range", "roundrobin")
	for i := range req.Protocols {
		req.Protocols[i].Metadata = subscription("used")
	}
	for _, e := range edit {
		e(req)
	}
	return req
}

func instance(id string) func(*kmsg.JoinGroupRequest) {
	return func(r *kmsg.JoinGroupRequest) { r.InstanceID = &id }
}

func syncing(group, member string, generation int32, to ...string) *kmsg.SyncGroupRequest {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.MemberID, req.Generation = group, member, generation
	req.ProtocolType, req.Protocol = ptr("consumer"), ptr("range")
	for _, id := range to {
		req.GroupAssignment = append(req.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: id, MemberAssignment: []byte("part")})
	}
	return req
}

func beating(group, member string, generation int32) *kmsg.HeartbeatRequest {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID, req.Generation = group, member, generation
	return req
}

func leaving(group string, members ...string) *kmsg.LeaveGroupRequest {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group = group
	for _, m := range members {
		req.MemberID = m
		req.Members = append(req.Members, kmsg.LeaveGroupRequestMember{MemberID: m})
	}
	return req
}

func fetching(stable bool, groups ...kmsg.OffsetFetchRequestGroup) *kmsg.OffsetFetchRequest {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.RequireStable, req.Groups = stable, groups
	req.Group = groups[0].Group
	if groups[0].Topics != nil {
		req.Topics = []kmsg.OffsetFetchRequestTopic{}
	}
	for _, t := range groups[0].Topics {
		req.Topics = append(req.Topics, kmsg.OffsetFetchRequestTopic{Topic: t.Topic, Partitions: t.Partitions})
	}
	return req
}

func offsetsOf(group string, topics ...kmsg.OffsetFetchRequestGroupTopic) kmsg.OffsetFetchRequestGroup {
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group, g.Topics = group, topics
	return g
}

func describing(groups ...string) *kmsg.DescribeGroupsRequest {
	req := kmsg.NewPtrDescribeGroupsRequest()
	req.Groups = groups
	return req
}

func (s *groupScript) run() {
	s.call("/invalid IP", "/127.0.0.1") // the address of a network.Conn that is none
	s.topics()
	s.joins()
	s.syncs()
	s.commits()
	s.fetches()
	s.describes()
	s.deletes()
	s.leaves()
	s.static()
	s.two()
}

func (s *groupScript) topics() {
	created := s.exchange(0, 7, creation(nil, topicOf("used", 2, 1), topicOf("spare", 1, 1))).(*kmsg.CreateTopicsResponse)
	for _, t := range created.Topics {
		if t.Topic == "used" {
			s.topicID = t.TopicID
		}
	}
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKey, find.CoordinatorKeys = "g", []string{"g", ""}
	for range 300 { // Kafka makes the topic in the background
		if s.exchange(0, 3, find).(*kmsg.FindCoordinatorResponse).ErrorCode == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	for i := range 500 { // and loads its partitions
		beat := beating(fmt.Sprint("probe", i), "nobody", 1)
		for wire.Code(s.exchange(0, 4, beat).(*kmsg.HeartbeatResponse).ErrorCode) != wire.UnknownMemberID {
			time.Sleep(100 * time.Millisecond)
		}
	}
	s.everywhere("find coordinator", find)
	s.everywhere("list no groups", kmsg.NewPtrListGroupsRequest())
}

func (s *groupScript) joins() {
	s.everywhere("join without a group", joining("", ""))
	s.everywhere("join as nobody", joining("g", "nobody"))
	short := func(ms int32) func(*kmsg.JoinGroupRequest) {
		return func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = ms }
	}
	s.everywhere("join with a short session", joining("g", "", short(5999)))
	s.everywhere("join with a long session", joining("g", "", short(1_800_001)))
	s.everywhere("join without protocols", joining("g", "", func(r *kmsg.JoinGroupRequest) { r.Protocols = nil }))
	s.everywhere("join without a type", joining("g", "", func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "" }))
	s.everywhere("describe what nobody joined", describing("g"))
}

// member joins alone.
func (s *groupScript) member(name string, version int16, group string, edit ...func(*kmsg.JoinGroupRequest)) *kmsg.JoinGroupResponse {
	s.t.Helper()
	resp := s.exchange(0, version, joining(group, "", edit...)).(*kmsg.JoinGroupResponse)
	s.call(resp.MemberID, name)
	s.note("join "+name, version, resp)
	if wire.Code(resp.ErrorCode) == wire.MemberIDRequired {
		resp = s.ask("join "+name+" again", version, joining(group, resp.MemberID, edit...)).(*kmsg.JoinGroupResponse)
	}
	return resp
}

func (s *groupScript) syncs() {
	for v := range int16(10) {
		group := fmt.Sprint("g", v)
		m := s.member(fmt.Sprint("<member of ", group, ">"), v, group)
		sv := min(v, 5)
		s.ask("commit before sync", 9, commitRequest(group, m.MemberID, m.Generation, "used", s.topicID, 1))
		s.ask("beat before sync", min(v, 4), beating(group, m.MemberID, m.Generation))
		s.ask("sync another generation", sv, syncing(group, m.MemberID, m.Generation+1))
		s.ask("sync as nobody", sv, syncing(group, "nobody", m.Generation))
		other := syncing(group, m.MemberID, m.Generation)
		other.Protocol = ptr("other")
		s.ask("sync another protocol", sv, other)
		other.Protocol = nil
		s.ask("sync without a protocol", sv, other)
		s.ask("sync", sv, syncing(group, m.MemberID, m.Generation, m.MemberID, "nobody"))
		s.ask("sync again", sv, syncing(group, m.MemberID, m.Generation))
		s.ask("beat", min(v, 4), beating(group, m.MemberID, m.Generation))
		s.ask("beat in another generation", min(v, 4), beating(group, m.MemberID, m.Generation+1))
		s.ask("beat as nobody", min(v, 4), beating(group, "nobody", m.Generation))
		s.ask("join with another type", v, joining(group, m.MemberID, func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "other" }))
		s.ask("join with other protocols", v, joining(group, "", func(r *kmsg.JoinGroupRequest) { r.Protocols[0].Name, r.Protocols[1].Name = "x", "y" }))
	}
	s.everywhere("sync without a group", syncing("", "nobody", 1))
	s.everywhere("sync in an unknown group", syncing("none", "nobody", 1))
	s.everywhere("beat without a group", beating("", "nobody", 1))
	s.everywhere("beat in an unknown group", beating("none", "nobody", 1))
}

func (s *groupScript) commits() {
	m := s.member("<committer>", 9, "c")
	s.ask("sync the committer", 5, syncing("c", m.MemberID, m.Generation, m.MemberID))
	s.everywhere("commit", commitRequest("c", m.MemberID, m.Generation, "used", s.topicID, 10, 11))
	s.everywhere("commit to a missing partition", commitRequest("c", m.MemberID, m.Generation, "used", s.topicID, 10, 11, 12))
	s.everywhere("commit to a missing topic", commitRequest("c", m.MemberID, m.Generation, "missing", wire.UUID{9}, 10))
	s.everywhere("commit nothing", commitRequest("c", m.MemberID, m.Generation, "used", s.topicID))
	s.everywhere("commit in another generation", commitRequest("c", m.MemberID, m.Generation+1, "used", s.topicID, 1))
	s.everywhere("commit as nobody", commitRequest("c", "nobody", m.Generation, "used", s.topicID, 1))
	s.everywhere("commit from outside", commitRequest("c", "", -1, "used", s.topicID, 1))
	s.everywhere("commit in an unknown group", commitRequest("none", "nobody", 3, "used", s.topicID, 1))
	s.everywhere("commit without a group", commitRequest("", "", -1, "used", s.topicID, 5))
	s.everywhere("commit to a simple group", commitRequest("simple", "", -1, "used", s.topicID, 20, 21))
	long := commitRequest("simple", "", -1, "used", s.topicID, 30, 31)
	long.Topics[0].Partitions[0].Metadata = ptr(strings.Repeat("x", 4097))
	long.Topics[0].Partitions[1].Metadata = nil
	s.everywhere("commit with much metadata", long)
	long.RetentionTimeMillis = 1000_000
	s.ask("commit for a time", 4, long)
}

func (s *groupScript) fetches() {
	used := kmsg.OffsetFetchRequestGroupTopic{Topic: "used", TopicID: s.topicID, Partitions: []int32{0, 1, 7}}
	missing := kmsg.OffsetFetchRequestGroupTopic{Topic: "missing", TopicID: wire.UUID{9}, Partitions: []int32{0}}
	s.everywhere("fetch", fetching(false, offsetsOf("c", used)))
	s.everywhere("fetch stable", fetching(true, offsetsOf("c", used, missing)))
	for v := int16(2); v <= 10; v++ {
		s.ask("fetch all", v, fetching(false, offsetsOf("c")))
	}
	s.everywhere("fetch of an unknown group", fetching(false, offsetsOf("none", used)))
	s.everywhere("fetch of a simple group", fetching(false, offsetsOf("simple", used)))
	for v := int16(8); v <= 10; v++ {
		s.ask("fetch of several", v, fetching(false, offsetsOf("c", used), offsetsOf("simple"), offsetsOf("none"), offsetsOf("", used)))
		epoch := offsetsOf("c", used)
		epoch.MemberID, epoch.MemberEpoch = ptr("nobody"), 3
		s.ask("fetch as a member", v, fetching(false, epoch))
		epoch.Group = "simple"
		s.ask("fetch as a member of a simple group", v, fetching(false, epoch))
	}
}

func (s *groupScript) describes() {
	d := describing("c", "simple", "")
	d.IncludeAuthorizedOperations = true
	s.everywhere("describe", d)
	list := kmsg.NewPtrListGroupsRequest()
	s.everywhere("list", list)
	list.StatesFilter = []string{"empty", "PreparingRebalance"}
	s.ask("list states", 5, list)
	list.StatesFilter = []string{"bad"}
	s.ask("list unknown states", 5, list)
	list.StatesFilter, list.TypesFilter = nil, []string{"Consumer"}
	s.ask("list consumer groups", 5, list)
	list.TypesFilter = []string{"CLASSIC"}
	s.ask("list classic groups", 5, list)
	list.TypesFilter = []string{"bad"}
	s.ask("list unknown types", 5, list)
}

func (s *groupScript) deletes() {
	del := func(group string, topics ...string) *kmsg.OffsetDeleteRequest {
		req := kmsg.NewPtrOffsetDeleteRequest()
		req.Group = group
		for _, t := range topics {
			req.Topics = append(req.Topics, kmsg.OffsetDeleteRequestTopic{Topic: t, Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}, {Partition: 7}}})
		}
		return req
	}
	s.ask("commit to a spare topic", 9, commitRequest("simple", "", -1, "spare", wire.UUID{}, 3))
	s.ask("delete offsets in use", 0, del("c", "used"))
	s.ask("delete offsets", 0, del("simple", "spare", "missing"))
	s.ask("delete offsets again", 0, del("simple", "spare"))
	s.ask("delete no offsets", 0, del("simple"))
	s.ask("delete offsets of an unknown group", 0, del("none", "used"))
	s.ask("delete offsets without a group", 0, del("", "used"))
	groups := func(ids ...string) *kmsg.DeleteGroupsRequest {
		req := kmsg.NewPtrDeleteGroupsRequest()
		req.Groups = ids
		return req
	}
	s.everywhere("delete groups that are not there", groups("none", "none"))
	s.everywhere("delete a group with members", groups("c"))
	s.ask("delete groups", 2, groups("simple", "none"))
	s.ask("describe the deleted", 6, describing("simple"))
	s.ask("fetch from the deleted", 9, fetching(false, offsetsOf("simple")))
}

func (s *groupScript) leaves() {
	s.everywhere("leave without a group", leaving("", "nobody"))
	s.everywhere("leave an unknown group", leaving("none", "nobody"))
	s.everywhere("leave as nobody", leaving("c", "nobody"))
	for v := range int16(6) {
		group := fmt.Sprint("leave", v)
		m := s.member(fmt.Sprint("<leaver ", v, ">"), 9, group)
		s.ask("sync the leaver", 5, syncing(group, m.MemberID, m.Generation, m.MemberID))
		s.ask("leave", v, leaving(group, m.MemberID))
		s.ask("leave again", v, leaving(group, m.MemberID))
		s.ask("describe after the last left", 6, describing(group))
		s.ask("commit after the last left", 9, commitRequest(group, "", -1, "used", s.topicID, 2))
	}
}

func (s *groupScript) static() {
	first := s.member("<static 1>", 9, "s", instance("i"))
	s.ask("sync a static member", 5, syncing("s", first.MemberID, first.Generation, first.MemberID))
	second := s.exchange(0, 9, joining("s", "", instance("i"))).(*kmsg.JoinGroupResponse)
	s.call(second.MemberID, "<static 2>")
	s.note("join a static member again", 9, second)
	beat := beating("s", first.MemberID, first.Generation)
	beat.InstanceID = ptr("i")
	s.ask("beat as the member before", 4, beat)
	beat.MemberID = second.MemberID
	s.ask("beat as the member now", 4, beat)
	beat.InstanceID = ptr("j")
	s.ask("beat as another instance", 4, beat)
	old := s.exchange(0, 8, joining("s", "", instance("i"))).(*kmsg.JoinGroupResponse)
	s.call(old.MemberID, "<static 3>")
	s.note("join a static member in an old version", 8, old)
	commit := commitRequest("s", second.MemberID, first.Generation, "used", s.topicID, 4)
	commit.InstanceID = ptr("i")
	s.ask("commit as the member before", 9, commit)
	commit.MemberID = old.MemberID
	s.ask("commit as the member now", 9, commit)
	s.ask("describe a static member", 6, describing("s"))
	leave := leaving("s")
	leave.Members = []kmsg.LeaveGroupRequestMember{{InstanceID: ptr("i")}, {InstanceID: ptr("j")}, {MemberID: "nobody", InstanceID: ptr("i")}}
	s.ask("leave by instance", 5, leave)
}

// two members come and go.
func (s *groupScript) two() {
	a := s.member("<a>", 9, "two")
	s.ask("sync a alone", 5, syncing("two", a.MemberID, a.Generation, a.MemberID))
	needed := s.exchange(0, 9, joining("two", "")).(*kmsg.JoinGroupResponse)
	s.call(needed.MemberID, "<b>")
	b := needed.MemberID
	joinB := s.later(1, 9, joining("two", b))
	for s.exchange(0, 4, beating("two", a.MemberID, a.Generation)).(*kmsg.HeartbeatResponse).ErrorCode == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	s.ask("beat while another joins", 4, beating("two", a.MemberID, a.Generation))
	s.ask("sync while another joins", 5, syncing("two", a.MemberID, a.Generation))
	s.ask("commit while another joins", 9, commitRequest("two", a.MemberID, a.Generation, "used", s.topicID, 9))
	s.ask("describe while another joins", 6, describing("two"))
	again := s.ask("a joins again", 9, joining("two", a.MemberID)).(*kmsg.JoinGroupResponse)
	s.note("b joins", 9, <-joinB)
	s.ask("commit before a syncs", 9, commitRequest("two", a.MemberID, again.Generation, "used", s.topicID, 9))
	s.ask("describe before a syncs", 6, describing("two"))
	syncB := s.later(1, 5, syncing("two", b, again.Generation))
	s.ask("a syncs", 5, syncing("two", a.MemberID, again.Generation, a.MemberID, b))
	s.note("b syncs", 5, <-syncB)
	s.ask("b, who follows, joins again", 9, joining("two", b))
	s.ask("describe two", 6, describing("two"))
	s.ask("b leaves", 5, leaving("two", b))
	s.ask("beat after b left", 4, beating("two", a.MemberID, again.Generation))
	last := s.ask("a joins a third time", 9, joining("two", a.MemberID)).(*kmsg.JoinGroupResponse)
	s.ask("a syncs alone", 5, syncing("two", a.MemberID, last.Generation, a.MemberID))
}

// Where the answer about groups differs from Kafka's on purpose, and why.
var intendedOfGroups = map[string]string{
	"describe what nobody joined": refusedJoin,
	"list":                        refusedJoin,
	"list states":                 refusedJoin,
	"list classic groups":         refusedJoin,
}

const refusedJoin = "a join that was refused leaves no group behind; in Kafka it does"

func TestGroupAnswersAreKafkas(t *testing.T) {
	if *kafkaGroupsAddr != "" {
		var conns [2]overTCP
		for i := range conns {
			c, err := net.Dial("tcp", *kafkaGroupsAddr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			conns[i] = overTCP{c}
		}
		s := &groupScript{t: t, send: func(client int, frame []byte) []byte { return conns[client].exchange(t, frame) }}
		s.run()
		if err := os.WriteFile(groupAnswersFile, []byte(strings.Join(s.lines, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(groupAnswersFile)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(data)), "\n")
	b := newBroker(t, "group.initial.rebalance.delay.ms=0")
	b.withGroups(t)
	s := &groupScript{t: t, send: func(_ int, frame []byte) []byte { return b.exchange(t, frame) }}
	s.run()
	if len(s.lines) != len(want) {
		t.Fatalf("%d answers, %d recorded: record them anew", len(s.lines), len(want))
	}
	for i, have := range s.lines {
		name, _, _ := strings.Cut(strings.TrimPrefix(have, `{"Name":"`), `"`)
		switch {
		case (have == want[i]) == (intendedOfGroups[name] == ""):
		case have == want[i]:
			t.Errorf("%q is listed as different from Kafka, but is the same", name)
		default:
			t.Errorf("\n got %s\nwant %s", have, want[i])
		}
	}
}
