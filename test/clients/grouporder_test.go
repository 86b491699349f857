//go:build clients && linux

package clients

import (
	"net"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestGroupOrder: requests of a group that follow each other on one connection without waiting for answers are carried out in that order:
// a fetch of offsets sees the commit before it, a commit belongs to the generation that the join before it has made, and what follows
// a join that has to wait for others waits too.
func TestGroupOrder(t *testing.T) {
	b := startBroker(t)
	const topic, group = "group-order", "group-order"
	b.createTopic(topic, 1)
	c := dial(t, b.addr)
	waitForCoordinator(t, c, group)

	// Outside of any generation.
	for i := range int64(200) {
		answers := c.askAll(t, commitRequest(group, topic, "", -1, i), fetchOffsetRequest(group, topic), commitRequest(group, topic, "", -1, i+1000), fetchOffsetRequest(group, topic))
		wantCommit(t, answers[0], nil)
		wantOffset(t, answers[1], i)
		wantCommit(t, answers[2], nil)
		wantOffset(t, answers[3], i+1000)
	}

	// Joining: the first answer names the member, the second one makes generation 1.
	first := joinRequest(group, "")
	resp := c.askAll(t, first)[0].(*kmsg.JoinGroupResponse)
	if resp.ErrorCode != kerr.MemberIDRequired.Code || resp.MemberID == "" {
		t.Fatalf("the first join: %+v", resp)
	}
	member := resp.MemberID
	answers := c.askAll(t, joinRequest(group, member), commitRequest(group, topic, member, 1, 1), heartbeatRequest(group, member, 1), syncRequest(group, member, 1),
		commitRequest(group, topic, member, 1, 2), fetchOffsetRequest(group, topic), heartbeatRequest(group, member, 1), commitRequest(group, topic, member, 2, 3),
		fetchOffsetRequest(group, topic))
	if j := answers[0].(*kmsg.JoinGroupResponse); j.ErrorCode != 0 || j.Generation != 1 || j.LeaderID != member || len(j.Members) != 1 {
		t.Fatalf("the join: %+v", j)
	}
	wantCommit(t, answers[1], kerr.RebalanceInProgress) // joined, not yet synced
	if h := answers[2].(*kmsg.HeartbeatResponse); h.ErrorCode != 0 {
		t.Errorf("a heartbeat between join and sync: %v", kerr.ErrorForCode(h.ErrorCode))
	}
	if s := answers[3].(*kmsg.SyncGroupResponse); s.ErrorCode != 0 || string(s.MemberAssignment) != "assignment" {
		t.Errorf("the sync: %+v", s)
	}
	wantCommit(t, answers[4], nil)
	wantOffset(t, answers[5], 2)
	if h := answers[6].(*kmsg.HeartbeatResponse); h.ErrorCode != 0 {
		t.Errorf("a heartbeat after the sync: %v", kerr.ErrorForCode(h.ErrorCode))
	}
	wantCommit(t, answers[7], kerr.IllegalGeneration)
	wantOffset(t, answers[8], 2)

	// A second member's join waits until the first one has joined again; what is behind it on its connection waits with it.
	d := dial(t, b.addr)
	second := d.askAll(t, joinRequest(group, ""))[0].(*kmsg.JoinGroupResponse).MemberID
	pending := []kmsg.Request{joinRequest(group, second), commitRequest(group, topic, second, 2, 50), fetchOffsetRequest(group, topic)}
	d.sendAll(t, pending...)
	for rebalancing := false; !rebalancing; { // the first member hears that it must join again
		answers = c.askAll(t, heartbeatRequest(group, member, 1))
		rebalancing = answers[0].(*kmsg.HeartbeatResponse).ErrorCode == kerr.RebalanceInProgress.Code
	}
	if err := d.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := d.Read(make([]byte, 1)); n != 0 || err == nil || !err.(net.Error).Timeout() {
		t.Fatalf("an answer before the first member has joined again: %d, %v", n, err)
	}
	// Before it joins again it commits, which is still allowed.
	answers = c.askAll(t, commitRequest(group, topic, member, 1, 7), joinRequest(group, member), commitRequest(group, topic, member, 1, 8))
	wantCommit(t, answers[0], nil)
	if j := answers[1].(*kmsg.JoinGroupResponse); j.ErrorCode != 0 || j.Generation != 2 || len(j.Members) != 2 || j.LeaderID != member {
		t.Fatalf("the join of the first member: %+v", j)
	}
	wantCommit(t, answers[2], kerr.IllegalGeneration)
	answers = d.answerAll(t, pending...)
	if j := answers[0].(*kmsg.JoinGroupResponse); j.ErrorCode != 0 || j.Generation != 2 || len(j.Members) != 0 || j.MemberID != second {
		t.Fatalf("the join of the second member: %+v", j)
	}
	wantCommit(t, answers[1], kerr.RebalanceInProgress)
	wantOffset(t, answers[2], 7)
}

// sendAll sends requests in one write.
func (c *rawConn) sendAll(t *testing.T, reqs ...kmsg.Request) {
	t.Helper()
	var out []byte
	for _, req := range reqs {
		c.correlationID++
		out = append(out, formatter.AppendRequest(nil, req, c.correlationID)...) // it writes the length to the front of what it appends to
	}
	_, err := c.Write(out)
	must(t, err)
}

func (c *rawConn) answerAll(t *testing.T, reqs ...kmsg.Request) []kmsg.Response {
	t.Helper()
	var answers []kmsg.Response
	for _, req := range reqs {
		resp, err := c.answer(req)
		if err != nil {
			t.Fatalf("%T: %v; answered before: %+v", req, err, answers)
		}
		answers = append(answers, resp)
	}
	return answers
}

func (c *rawConn) askAll(t *testing.T, reqs ...kmsg.Request) []kmsg.Response {
	t.Helper()
	c.sendAll(t, reqs...)
	return c.answerAll(t, reqs...)
}

// waitForCoordinator asks until the group's coordinator is there: the first one to ask makes __consumer_offsets.
func waitForCoordinator(t *testing.T, c *rawConn, group string) {
	t.Helper()
	for until := time.Now().Add(startPatience); ; time.Sleep(20 * time.Millisecond) {
		req := kmsg.NewPtrFindCoordinatorRequest()
		req.Version = 3
		req.CoordinatorKey = group
		found := c.askAll(t, req)[0].(*kmsg.FindCoordinatorResponse).ErrorCode
		offset := c.askAll(t, fetchOffsetRequest(group, "none"))[0].(*kmsg.OffsetFetchResponse).ErrorCode
		if found == 0 && offset == 0 {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("no coordinator: %v, %v", kerr.ErrorForCode(found), kerr.ErrorForCode(offset))
		}
	}
}

func commitRequest(group, topic, member string, generation int32, offset int64) *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version = 8
	req.Group, req.MemberID, req.Generation = group, member, generation
	top := kmsg.NewOffsetCommitRequestTopic()
	top.Topic = topic
	p := kmsg.NewOffsetCommitRequestTopicPartition()
	p.Offset = offset
	top.Partitions = append(top.Partitions, p)
	req.Topics = append(req.Topics, top)
	return req
}

func fetchOffsetRequest(group, topic string) *kmsg.OffsetFetchRequest {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Version = 7
	req.Group = group
	top := kmsg.NewOffsetFetchRequestTopic()
	top.Topic = topic
	top.Partitions = []int32{0}
	req.Topics = append(req.Topics, top)
	return req
}

func joinRequest(group, member string) *kmsg.JoinGroupRequest {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version = 7
	req.Group, req.MemberID, req.ProtocolType = group, member, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 30000, 30000
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name = "any"
	req.Protocols = append(req.Protocols, p)
	return req
}

func syncRequest(group, member string, generation int32) *kmsg.SyncGroupRequest {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version = 4
	req.Group, req.MemberID, req.Generation = group, member, generation
	a := kmsg.NewSyncGroupRequestGroupAssignment()
	a.MemberID, a.MemberAssignment = member, []byte("assignment")
	req.GroupAssignment = append(req.GroupAssignment, a)
	return req
}

func heartbeatRequest(group, member string, generation int32) *kmsg.HeartbeatRequest {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version = 4
	req.Group, req.MemberID, req.Generation = group, member, generation
	return req
}

func wantCommit(t *testing.T, resp kmsg.Response, want error) {
	t.Helper()
	if got := commitError(resp.(*kmsg.OffsetCommitResponse)); got != want {
		t.Errorf("a commit is answered with %v, want %v", got, want)
	}
}

func wantOffset(t *testing.T, resp kmsg.Response, want int64) {
	t.Helper()
	r := resp.(*kmsg.OffsetFetchResponse)
	if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 || r.ErrorCode != 0 {
		t.Fatalf("a fetch of an offset is answered with %+v", r)
	}
	if p := r.Topics[0].Partitions[0]; p.Offset != want || p.ErrorCode != 0 {
		t.Errorf("offset %d, %v; want %d", p.Offset, kerr.ErrorForCode(p.ErrorCode), want)
	}
}
