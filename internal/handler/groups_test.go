package handler

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/wire"
)

// withGroups creates __consumer_offsets.
func (b *broker) withGroups(t testing.TB) {
	t.Helper()
	b.autoCreate(t.Context(), b.o.Cluster.Image(), []string{offsetsTopic})
	b.publish()
}

func joinRequest(groupID, member string, protocols ...string) *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Group, req.MemberID, req.ProtocolType = groupID, member, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 600_000, 600_000 // nobody is lost because the machine is busy
	for _, p := range protocols {
		jp := kmsg.NewJoinGroupRequestProtocol()
		jp.Name, jp.Metadata = p, []byte("metadata")
		req.Protocols = append(req.Protocols, jp)
	}
	return req
}

// join brings a member into an empty group, in the way of the version, and makes the group stable.
func (b *broker) join(t *testing.T, version int16, groupID string) *kmsg.JoinGroupResponse {
	t.Helper()
	resp := ask[*kmsg.JoinGroupResponse](t, b, joinRequest(groupID, "", "range"), version)
	if version >= 4 {
		if wire.Code(resp.ErrorCode) != wire.MemberIDRequired {
			t.Fatalf("JoinGroup v%d without a member id: %v", version, wire.Code(resp.ErrorCode))
		}
		resp = ask[*kmsg.JoinGroupResponse](t, b, joinRequest(groupID, resp.MemberID, "range"), version)
	}
	if resp.ErrorCode != 0 || resp.Generation != 1 || resp.LeaderID != resp.MemberID || len(resp.Members) != 1 || *resp.Protocol != "range" {
		t.Fatalf("JoinGroup v%d: %+v", version, resp)
	}
	return resp
}

func (b *broker) sync(t *testing.T, version int16, groupID string, joined *kmsg.JoinGroupResponse) *kmsg.SyncGroupResponse {
	t.Helper()
	req := kmsg.NewPtrSyncGroupRequest()
	req.Group, req.MemberID, req.Generation = groupID, joined.MemberID, joined.Generation
	req.ProtocolType, req.Protocol = ptr("consumer"), ptr("range")
	a := kmsg.NewSyncGroupRequestGroupAssignment()
	a.MemberID, a.MemberAssignment = joined.MemberID, []byte("assignment")
	req.GroupAssignment = append(req.GroupAssignment, a)
	resp := ask[*kmsg.SyncGroupResponse](t, b, req, version)
	if resp.ErrorCode != 0 || string(resp.MemberAssignment) != "assignment" {
		t.Fatalf("SyncGroup v%d: %+v", version, resp)
	}
	return resp
}

func commitRequest(groupID, member string, generation int32, topic string, id wire.UUID, offsets ...int64) *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.MemberID, req.Generation = groupID, member, generation
	ct := kmsg.NewOffsetCommitRequestTopic()
	ct.Topic, ct.TopicID = topic, id
	for i, o := range offsets {
		cp := kmsg.NewOffsetCommitRequestTopicPartition()
		cp.Partition, cp.Offset, cp.Metadata = int32(i), o, ptr("note")
		ct.Partitions = append(ct.Partitions, cp)
	}
	req.Topics = append(req.Topics, ct)
	return req
}

func (b *broker) commit(t *testing.T, version int16, req *kmsg.OffsetCommitRequest) []wire.Code {
	t.Helper()
	var codes []wire.Code
	for _, topic := range ask[*kmsg.OffsetCommitResponse](t, b, req, version).Topics {
		for _, p := range topic.Partitions {
			codes = append(codes, wire.Code(p.ErrorCode))
		}
	}
	return codes
}

// fetched are the offsets of a group, as "topic-partition=offset/code", in any version.
func (b *broker) fetched(t *testing.T, version int16, groupID string, topics ...kmsg.OffsetFetchRequestGroupTopic) (out []string) {
	t.Helper()
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Group = groupID
	rg := kmsg.NewOffsetFetchRequestGroup()
	rg.Group, rg.Topics = groupID, topics
	req.Groups = append(req.Groups, rg)
	for _, topic := range topics {
		req.Topics = append(req.Topics, kmsg.OffsetFetchRequestTopic{Topic: topic.Topic, Partitions: topic.Partitions})
	}
	resp := ask[*kmsg.OffsetFetchResponse](t, b, req, version)
	if version >= 8 {
		if len(resp.Groups) != 1 || resp.Groups[0].Group != groupID {
			t.Fatalf("OffsetFetch v%d: %+v", version, resp)
		}
		if code := resp.Groups[0].ErrorCode; code != 0 {
			return []string{wire.Code(code).String()}
		}
		for _, topic := range resp.Groups[0].Topics {
			name := topic.Topic
			if version >= 10 {
				name = wire.UUID(topic.TopicID).String()
				if t := b.o.Cluster.Image().TopicByID(topic.TopicID); t != nil {
					name = t.Name
				}
			}
			for _, p := range topic.Partitions {
				out = append(out, fmt.Sprintf("%s-%d=%d/%s/%s", name, p.Partition, p.Offset, *p.Metadata, wire.Code(p.ErrorCode).String()))
			}
		}
		return out
	}
	if resp.ErrorCode != 0 {
		return []string{wire.Code(resp.ErrorCode).String()}
	}
	for _, topic := range resp.Topics {
		for _, p := range topic.Partitions {
			out = append(out, fmt.Sprintf("%s-%d=%d/%s/%s", topic.Topic, p.Partition, p.Offset, *p.Metadata, wire.Code(p.ErrorCode).String()))
		}
	}
	return out
}

func same(t *testing.T, what string, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, expected %q", what, got, want)
	}
}

func TestGroupsInEveryVersion(t *testing.T) {
	b := newBroker(t, "group.initial.rebalance.delay.ms=0")
	id := b.withTopic(t, "t", 2)
	b.withGroups(t)
	for v := range int16(10) {
		groupID := fmt.Sprint("group-", v)
		joined := b.join(t, v, groupID)
		b.sync(t, min(v, 5), groupID, joined)

		beat := kmsg.NewPtrHeartbeatRequest()
		beat.Group, beat.MemberID, beat.Generation = groupID, joined.MemberID, joined.Generation
		if resp := ask[*kmsg.HeartbeatResponse](t, b, beat, min(v, 4)); resp.ErrorCode != 0 {
			t.Errorf("Heartbeat v%d: %v", v, wire.Code(resp.ErrorCode))
		}
		for cv := int16(2); cv <= 10; cv++ {
			codes := b.commit(t, cv, commitRequest(groupID, joined.MemberID, joined.Generation, "t", id, int64(cv), int64(cv)+100))
			if !slices.Equal(codes, []wire.Code{0, 0}) {
				t.Errorf("OffsetCommit v%d: %v", cv, codes)
			}
			if codes := b.commit(t, cv, commitRequest(groupID, joined.MemberID, 7, "t", id, 1)); !slices.Equal(codes, []wire.Code{wire.IllegalGeneration}) {
				t.Errorf("OffsetCommit v%d of another generation: %v", cv, codes)
			}
		}
		for fv := int16(1); fv <= 10; fv++ {
			topic := kmsg.OffsetFetchRequestGroupTopic{Topic: "t", TopicID: id, Partitions: []int32{1, 0, 5}}
			same(t, fmt.Sprint("OffsetFetch v", fv), b.fetched(t, fv, groupID, topic), "t-1=110/note/NONE", "t-0=10/note/NONE", "t-5=-1//NONE")
			if fv >= 2 {
				same(t, fmt.Sprint("OffsetFetch of all v", fv), b.fetched(t, fv, groupID), "t-0=10/note/NONE", "t-1=110/note/NONE")
			}
			same(t, fmt.Sprint("OffsetFetch of an unknown group v", fv), b.fetched(t, fv, "none", topic), "t-1=-1//NONE", "t-0=-1//NONE", "t-5=-1//NONE")
		}
		for dv := range int16(7) {
			req := kmsg.NewPtrDescribeGroupsRequest()
			req.Groups, req.IncludeAuthorizedOperations = []string{groupID, "none"}, true
			resp := ask[*kmsg.DescribeGroupsResponse](t, b, req, dv)
			g := resp.Groups[0]
			if len(resp.Groups) != 2 || g.State != "Stable" || len(g.Members) != 1 || string(g.Members[0].MemberAssignment) != "assignment" || g.Members[0].ClientID != "test" {
				t.Errorf("DescribeGroups v%d: %+v", dv, g)
			}
			if dv >= 3 && g.AuthorizedOperations != 1<<opRead|1<<opDelete|1<<opDescribe|1<<opDescribeConfigs|1<<opAlterConfigs {
				t.Errorf("DescribeGroups v%d: operations %b", dv, g.AuthorizedOperations)
			}
			if none := resp.Groups[1]; none.State != "Dead" || (dv >= 6) != (wire.Code(none.ErrorCode) == wire.GroupIDNotFound) {
				t.Errorf("DescribeGroups v%d of an unknown group: %+v", dv, none)
			}
		}
		leave := kmsg.NewPtrLeaveGroupRequest()
		leave.Group, leave.MemberID = groupID, joined.MemberID
		leave.Members = []kmsg.LeaveGroupRequestMember{{MemberID: joined.MemberID}}
		if resp := ask[*kmsg.LeaveGroupResponse](t, b, leave, min(v, 5)); resp.ErrorCode != 0 || v >= 3 && (len(resp.Members) != 1 || resp.Members[0].ErrorCode != 0) {
			t.Errorf("LeaveGroup v%d: %+v", v, resp)
		}
	}
	for lv := range int16(6) {
		resp := ask[*kmsg.ListGroupsResponse](t, b, kmsg.NewPtrListGroupsRequest(), lv)
		if resp.ErrorCode != 0 || len(resp.Groups) != 10 || lv >= 4 && resp.Groups[0].GroupState != "Empty" || lv >= 5 && resp.Groups[0].GroupType != "classic" {
			t.Errorf("ListGroups v%d: %+v", lv, resp)
		}
	}
	for dv := range int16(3) {
		req := kmsg.NewPtrDeleteGroupsRequest()
		req.Groups = []string{fmt.Sprint("group-", dv), "none", "none"}
		resp := ask[*kmsg.DeleteGroupsResponse](t, b, req, dv)
		if len(resp.Groups) != 2 || resp.Groups[0].ErrorCode != 0 || wire.Code(resp.Groups[1].ErrorCode) != wire.GroupIDNotFound {
			t.Errorf("DeleteGroups v%d: %+v", dv, resp)
		}
	}
}

func TestCommitRefusesPartByPart(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 1)
	b.withGroups(t)
	req := commitRequest("g", "", -1, "t", id, 5, 6)
	unknown := commitRequest("", "", -1, "none", wire.UUID{9}, 7).Topics[0]
	req.Topics = append(req.Topics, unknown)
	for v := int16(2); v <= 10; v++ {
		resp := ask[*kmsg.OffsetCommitResponse](t, b, req, v)
		if len(resp.Topics) != 2 {
			t.Fatalf("v%d: %+v", v, resp)
		}
		codes := map[int32]wire.Code{}
		for _, p := range resp.Topics[0].Partitions {
			codes[p.Partition] = wire.Code(p.ErrorCode)
		}
		if len(codes) != 2 || codes[0] != wire.None || codes[1] != wire.UnknownTopicOrPartition {
			t.Errorf("v%d: %v", v, codes)
		}
		want := wire.UnknownTopicOrPartition
		if v >= 10 {
			want = wire.UnknownTopicID
		}
		if code := wire.Code(resp.Topics[1].Partitions[0].ErrorCode); code != want {
			t.Errorf("v%d: unknown topic: %v", v, code)
		}
	}
	topics := []kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", TopicID: id, Partitions: []int32{0}}, {Topic: "none", TopicID: wire.UUID{9}, Partitions: []int32{0}}}
	same(t, "by name", b.fetched(t, 9, "g", topics...), "t-0=5/note/NONE", "none-0=-1//NONE")
	same(t, "by id", b.fetched(t, 10, "g", topics...), "t-0=5/note/NONE", wire.UUID{9}.String()+"-0=-1//UNKNOWN_TOPIC_ID")
}

// TestOffsetsOfANamesakeDoNotCount: the topic was deleted and made again.
func TestOffsetsOfANamesakeDoNotCount(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 1)
	b.withGroups(t)
	if codes := b.commit(t, 9, commitRequest("g", "", -1, "t", id, 5)); codes[0] != wire.None {
		t.Fatal(codes)
	}
	name := "t"
	b.o.Cluster.DeleteTopics(t.Context(), []controller.TopicRef{{Name: &name}})
	id = b.withTopic(t, "t", 1)
	topic := kmsg.OffsetFetchRequestGroupTopic{Topic: "t", TopicID: id, Partitions: []int32{0}}
	for v := int16(1); v <= 10; v++ {
		same(t, fmt.Sprint("v", v), b.fetched(t, v, "g", topic), "t-0=-1//NONE")
		if v >= 2 {
			same(t, fmt.Sprint("all v", v), b.fetched(t, v, "g"))
		}
	}
}

func TestOffsetDelete(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 1)
	b.withGroups(t)
	b.commit(t, 9, commitRequest("g", "", -1, "t", id, 5))
	req := kmsg.NewPtrOffsetDeleteRequest()
	req.Group = "g"
	for _, name := range []string{"t", "none"} {
		rt := kmsg.NewOffsetDeleteRequestTopic()
		rt.Topic = name
		rt.Partitions = []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}, {Partition: 3}}
		req.Topics = append(req.Topics, rt)
	}
	resp := ask[*kmsg.OffsetDeleteResponse](t, b, req, 0)
	got := map[string]wire.Code{}
	for _, topic := range resp.Topics {
		for _, p := range topic.Partitions {
			got[fmt.Sprint(topic.Topic, p.Partition)] = wire.Code(p.ErrorCode)
		}
	}
	if resp.ErrorCode != 0 || len(resp.Topics) != 2 || len(got) != 4 || got["t0"] != wire.None || got["t3"] != wire.UnknownTopicOrPartition || got["none0"] != wire.UnknownTopicOrPartition {
		t.Errorf("%+v", resp)
	}
	same(t, "afterwards", b.fetched(t, 9, "g"))
	req.Group = "none"
	if resp := ask[*kmsg.OffsetDeleteResponse](t, b, req, 0); wire.Code(resp.ErrorCode) != wire.GroupIDNotFound || len(resp.Topics) != 0 {
		t.Errorf("unknown group: %+v", resp)
	}
}

func TestFindCoordinatorMakesTheTopic(t *testing.T) {
	b := newBroker(t)
	done := make(chan struct{})
	changed := b.o.Cluster.Changed()
	go func() {
		defer close(done)
		for b.o.Cluster.Image().Topic(offsetsTopic) == nil {
			<-changed
			changed = b.o.Cluster.Changed()
		}
		b.publish()
	}()
	for v := range int16(7) {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.CoordinatorKey, req.CoordinatorKeys = "g", []string{"g", "other"}
		resp := ask[*kmsg.FindCoordinatorResponse](t, b, req, v)
		if v < 4 {
			resp.Coordinators = []kmsg.FindCoordinatorResponseCoordinator{{NodeID: resp.NodeID, Host: resp.Host, Port: resp.Port, ErrorCode: resp.ErrorCode}}
		} else if len(resp.Coordinators) != 2 || resp.Coordinators[1].Key != "other" {
			t.Errorf("v%d: %+v", v, resp)
		}
		if c := resp.Coordinators[0]; c.ErrorCode != 0 || c.NodeID != 1 || c.Host != "127.0.0.1" || c.Port != 9092 {
			t.Errorf("v%d: %+v", v, c)
		}
		if v == 0 {
			<-done
			if codes := b.commit(t, 9, commitRequest("g", "", -1, "none", wire.UUID{}, 1)); codes[0] != wire.UnknownTopicOrPartition {
				t.Errorf("a commit right after: %v", codes)
			}
		}
	}
	topic := b.o.Cluster.Image().Topic(offsetsTopic)
	if len(topic.Partitions) != 50 || len(topic.Partitions[0].Replicas) != 1 {
		t.Errorf("%d partitions of %d replicas", len(topic.Partitions), len(topic.Partitions[0].Replicas))
	}
	for kind, want := range map[int8]wire.Code{1: wire.TransactionalIDAuthorizationFailed, 2: wire.CoordinatorNotAvailable, 3: wire.InvalidRequest} {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.CoordinatorType, req.CoordinatorKeys = kind, []string{"a:b:0"}
		if resp := ask[*kmsg.FindCoordinatorResponse](t, b, req, 6); wire.Code(resp.Coordinators[0].ErrorCode) != want {
			t.Errorf("type %d: %v", kind, wire.Code(resp.Coordinators[0].ErrorCode))
		}
	}
}

// TestTheOffsetsTopicDoesNotGrow: with more partitions, groups would look for their offsets elsewhere.
func TestTheOffsetsTopicDoesNotGrow(t *testing.T) {
	b := newBroker(t)
	b.withGroups(t)
	req := kmsg.NewPtrCreatePartitionsRequest()
	req.TimeoutMillis = 10_000
	req.Topics = []kmsg.CreatePartitionsRequestTopic{{Topic: offsetsTopic, Count: 60}}
	for v := range int16(4) {
		if resp := ask[*kmsg.CreatePartitionsResponse](t, b, req, v); wire.Code(resp.Topics[0].ErrorCode) != wire.InvalidRequest {
			t.Errorf("v%d: %+v", v, resp.Topics[0])
		}
	}
}

// TestWithoutACoordinator: every API says where to look, in its own way.
func TestWithoutACoordinator(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 1)
	for v := int16(1); v <= 10; v++ {
		topic := kmsg.OffsetFetchRequestGroupTopic{Topic: "t", TopicID: id, Partitions: []int32{0}}
		want := "NOT_COORDINATOR"
		if v < 2 {
			want = "t-0=-1//NOT_COORDINATOR"
		}
		same(t, fmt.Sprint("OffsetFetch v", v), b.fetched(t, v, "g", topic), want)
	}
	if codes := b.commit(t, 9, commitRequest("g", "", -1, "t", id, 5)); !slices.Equal(codes, []wire.Code{wire.NotCoordinator}) {
		t.Errorf("OffsetCommit: %v", codes)
	}
	if resp := ask[*kmsg.JoinGroupResponse](t, b, joinRequest("g", "", "range"), 9); wire.Code(resp.ErrorCode) != wire.NotCoordinator {
		t.Errorf("JoinGroup: %v", wire.Code(resp.ErrorCode))
	}
	if resp := ask[*kmsg.ListGroupsResponse](t, b, kmsg.NewPtrListGroupsRequest(), 5); resp.ErrorCode != 0 || len(resp.Groups) != 0 {
		t.Errorf("ListGroups: %+v", resp)
	}
	b.o.Groups.Close()
	if resp := ask[*kmsg.HeartbeatResponse](t, b, kmsg.NewPtrHeartbeatRequest(), 4); wire.Code(resp.ErrorCode) != wire.CoordinatorNotAvailable {
		t.Errorf("Heartbeat at a stopped broker: %v", wire.Code(resp.ErrorCode))
	}
}

// TestAParkedJoinEndsWithItsConnection, and does not hold up anybody else.
func TestAParkedJoinEndsWithItsConnection(t *testing.T) {
	b := newBroker(t, "group.initial.rebalance.delay.ms=60000")
	b.withGroups(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	req := joinRequest("g", "", "range")
	req.Version = 3
	go func() {
		_, err := b.serve(ctx, frameOf(req))
		ended <- err
	}()
	for len(ask[*kmsg.ListGroupsResponse](t, b, kmsg.NewPtrListGroupsRequest(), 4).Groups) == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestManyNamesOfOneGroup: an answer is much larger than a name, so it is given once.
func TestManyNamesOfOneGroup(t *testing.T) {
	b := newBroker(t)
	b.withGroups(t)
	names := append(make([]string, 1000), "g", "h", "g")
	if got := ask[*kmsg.DescribeGroupsResponse](t, b, describing(names...), 6).Groups; len(got) != 3 || got[0].Group != "" || got[1].Group != "g" || got[2].Group != "h" {
		t.Errorf("%d groups", len(got))
	}
	find := kmsg.NewPtrFindCoordinatorRequest()
	find.CoordinatorKeys = append(make([]string, 1000), "g", "h", "g")
	if got := ask[*kmsg.FindCoordinatorResponse](t, b, find, 6).Coordinators; len(got) != 3 {
		t.Errorf("%d coordinators", len(got))
	}
}

func TestAddressesAreThoseOfJava(t *testing.T) {
	for in, want := range map[string]string{"127.0.0.1": "/127.0.0.1", "::ffff:10.0.0.7": "/10.0.0.7", "::1": "/0:0:0:0:0:0:0:1",
		"fe80::a00:27ff:fe4e:66a1%eth0": "/fe80:0:0:0:a00:27ff:fe4e:66a1"} {
		if got := javaAddress(netip.MustParseAddr(in)); got != want {
			t.Errorf("%s is %s, expected %s", in, got, want)
		}
	}
}

// BenchmarkOffsetCommit is a commit of one offset, from the frame to the response, where an acknowledged record
// is one on the disk; the disk is in memory.
func BenchmarkOffsetCommit(b *testing.B) {
	br := newBroker(b, "log.flush.interval.messages=1")
	br.withGroups(b)
	br.autoCreate(b.Context(), br.o.Cluster.Image(), []string{"t"})
	br.publish()
	req := commitRequest("g", "", -1, "t", br.o.Cluster.Image().Topic("t").ID, 5)
	req.Version = 9
	frame := frameOf(req)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := br.serve(b.Context(), frame); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHeartbeat is a heartbeat of a member, from the frame to the response.
func BenchmarkHeartbeat(b *testing.B) {
	br := newBroker(b, "group.initial.rebalance.delay.ms=0")
	br.withGroups(b)
	joined := ask[*kmsg.JoinGroupResponse](b, br, joinRequest("g", "", "range"), 3)
	req := beating("g", joined.MemberID, joined.Generation)
	req.Version = 4
	frame := frameOf(req)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := br.serve(b.Context(), frame); err != nil {
			b.Fatal(err)
		}
	}
}
