package handler

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/acl/acltest"
	"moldau/internal/network"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// grant creates rules, written as in accessScript.
func (b *broker) grant(t testing.TB, rules ...string) {
	t.Helper()
	for i, r := range askAs[*kmsg.CreateACLsResponse](t, b, "admin", creations(rules...), 3).Results {
		if r.ErrorCode != 0 {
			t.Fatalf("%s: %v %s", rules[i], wire.Code(r.ErrorCode), *r.ErrorMessage)
		}
	}
}

// revoke deletes all rules about a topic.
func (b *broker) revoke(t testing.TB, topic string) {
	t.Helper()
	resp := askAs[*kmsg.DeleteACLsResponse](t, b, "admin", deleteRules(describeRules(kmsg.ACLResourcePatternTypeAny, kmsg.ACLResourceTypeTopic, &topic)), 3)
	if r := resp.Results[0]; r.ErrorCode != 0 || len(r.MatchingACLs) == 0 {
		t.Fatalf("%+v", r)
	}
}

// start begins a request of a user.
func (b *broker) start(t testing.TB, user string, req kmsg.Request) network.Call {
	t.Helper()
	call, err := b.Start(t.Context(), as(user), frameOf(req), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return call
}

func fetched(t testing.TB, req *kmsg.FetchRequest, call network.Call) *kmsg.FetchResponse {
	t.Helper()
	defer call.Release()
	var out []byte
	for _, p := range call.Wait(t.Context()).Pieces {
		out = append(out, p.Bytes...)
	}
	return parseResponse(t, req, req.Version, out[4:]).(*kmsg.FetchResponse)
}

// TestARemovedGrantEndsASession: a session looks only at partitions with news, and that access was lost is news for all.
func TestARemovedGrantEndsASession(t *testing.T) {
	b := newBroker(t, withAccess...)
	id := b.withTopic(t, "t", 3)
	b.grant(t, "topic literal t User:bob read allow")
	full := fetchRequest(13, "t", id, 0, 0, 0)
	full.SessionEpoch = 0
	first := fetched(t, full, b.start(t, "bob", full))
	if first.ErrorCode != 0 || first.SessionID == 0 || first.Topics[0].Partitions[2].ErrorCode != 0 {
		t.Fatalf("%+v", first)
	}
	next := fetchRequest(13, "t", id)
	next.SessionID, next.SessionEpoch = first.SessionID, 1
	if r := fetched(t, next, b.start(t, "bob", next)); r.ErrorCode != 0 || len(r.Topics) != 0 {
		t.Fatalf("nothing is new: %+v", r)
	}
	b.revoke(t, "t")
	next.SessionEpoch = 2
	r := fetched(t, next, b.start(t, "bob", next))
	if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 3 {
		t.Fatalf("%+v", r)
	}
	for _, p := range r.Topics[0].Partitions {
		if wire.Code(p.ErrorCode) != wire.TopicAuthorizationFailed {
			t.Errorf("%+v", p)
		}
	}
	b.grant(t, "topic literal t User:* all allow")
	next.SessionEpoch = 3
	if r := fetched(t, next, b.start(t, "bob", next)); len(r.Topics) != 1 || r.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Errorf("granted again: %+v", r)
	}
}

// TestARemovedGrantCountsForAParkedFetch: records that come after access was lost are not for who waits for them.
func TestARemovedGrantCountsForAParkedFetch(t *testing.T) {
	b := newBroker(t, withAccess...)
	id := b.withTopic(t, "t", 1)
	b.grant(t, "topic literal t User:bob read allow")
	req := fetchRequest(13, "t", id, 0)
	req.MaxWaitMillis = 600_000
	call := b.start(t, "bob", req)
	if call.Ready() {
		t.Fatal("nothing to wait for")
	}
	answer := make(chan *kmsg.FetchResponse, 1)
	go func() { answer <- fetched(t, req, call) }()
	b.revoke(t, "t")
	askAs[*kmsg.ProduceResponse](t, b, "admin", produceRequest(13, "", id, 1, batchOf(t, "for others")), 13)
	if p := (<-answer).Topics[0].Partitions[0]; wire.Code(p.ErrorCode) != wire.TopicAuthorizationFailed || len(p.RecordBatches) > 0 {
		t.Errorf("%+v", p)
	}
}

func TestATransactionalBatchNeedsItsID(t *testing.T) {
	b := newBroker(t, withAccess...)
	id := b.withTopic(t, "t", 2)
	b.grant(t, "topic literal t User:bob write allow", "transactional_id literal mine User:bob write allow")
	transactional := bytes.Clone(batchOf(t, "v"))
	transactional[22] |= 0x10
	for _, txn := range []*string{nil, ptr("other")} {
		req := produceRequest(13, "", id, -1, batchOf(t, "v"), transactional)
		req.TransactionID = txn
		for _, p := range askAs[*kmsg.ProduceResponse](t, b, "bob", req, 13).Topics[0].Partitions {
			if wire.Code(p.ErrorCode) != wire.TransactionalIDAuthorizationFailed {
				t.Errorf("%+v", p)
			}
		}
	}
	if p := askAs[*kmsg.ProduceResponse](t, b, "bob", produceRequest(13, "", id, -1, batchOf(t, "v")), 13).Topics[0].Partitions[0]; p.ErrorCode != 0 {
		t.Errorf("%+v", p)
	}
}

// TestEveryAPIAsks: what no rule allows is refused by every API. Those that are not in the script, with which Kafka's answers are compared, are asked here.
func TestEveryAPIAsks(t *testing.T) {
	b := newBroker(t, withAccess...)
	open := map[kmsg.Key]bool{kmsg.ApiVersions: true, kmsg.SASLHandshake: true, kmsg.SASLAuthenticate: true}
	scripted := map[int16]bool{}
	for _, q := range append(accessScript(t, &topicIDs{}), quotaScript(t, nil, nil)...) {
		scripted[q.req.Key()] = true
	}
	features := kmsg.NewPtrUpdateFeaturesRequest()
	features.FeatureUpdates = []kmsg.UpdateFeaturesRequestFeatureUpdate{{Feature: "group.version", MaxVersionLevel: 1}}
	alter := kmsg.NewPtrAlterConfigsRequest()
	alter.Resources = []kmsg.AlterConfigsRequestResource{{ResourceType: 4}}
	scram := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
	scram.Deletions = []kmsg.AlterUserSCRAMCredentialsRequestDeletion{{Name: "eve", Mechanism: 1}}
	here := map[int16]func() int16{
		features.Key(): func() int16 { return askAs[*kmsg.UpdateFeaturesResponse](t, b, "eve", features, 1).ErrorCode },
		alter.Key():    func() int16 { return askAs[*kmsg.AlterConfigsResponse](t, b, "eve", alter, 2).Resources[0].ErrorCode },
		scram.Key(): func() int16 {
			return askAs[*kmsg.AlterUserSCRAMCredentialsResponse](t, b, "eve", scram, 0).Results[0].ErrorCode
		},
		kmsg.DescribeUserSCRAMCredentials.Int16(): func() int16 {
			return askAs[*kmsg.DescribeUserSCRAMCredentialsResponse](t, b, "eve", kmsg.NewPtrDescribeUserSCRAMCredentialsRequest(), 0).ErrorCode
		},
	}
	for _, r := range rows() {
		key := r.key.Int16()
		switch {
		case open[r.key] || scripted[key]:
		case here[key] == nil:
			t.Errorf("nobody has looked whether %s asks for access: add it to the script", r.key.Name())
		default:
			if code := wire.Code(here[key]()); code != wire.ClusterAuthorizationFailed {
				t.Errorf("%s: %v", r.key.Name(), code)
			}
		}
	}
}

// TestAPatternStandsForWhatMayBeSeen: a member that subscribes by a pattern gets no topic that it may not describe (KIP-848).
func TestAPatternStandsForWhatMayBeSeen(t *testing.T) {
	b := newBroker(t, withAccess...)
	b.withGroups(t)
	seen := b.withTopic(t, "orders-seen", 2)
	b.withTopic(t, "orders-secret", 2)
	b.publish()
	b.grant(t, "group literal g User:bob read allow", "topic literal orders-seen User:bob describe allow")
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.RebalanceTimeoutMillis = "g", "member", 600_000
	req.SubscribedTopicNames, req.SubscribedTopicRegex = []string{}, ptr("orders-.*")
	req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	resp := askAs[*kmsg.ConsumerGroupHeartbeatResponse](t, b, "bob", req, 1)
	if resp.ErrorCode != 0 || resp.Assignment == nil || len(resp.Assignment.Topics) != 1 || resp.Assignment.Topics[0].TopicID != seen {
		t.Errorf("%v %+v", wire.Code(resp.ErrorCode), resp.Assignment)
	}
}

// TestExistenceIsNotTold asks for topics that are there and that are not: who may not see them hears the same.
func TestExistenceIsNotTold(t *testing.T) {
	b := newBroker(t, withAccess...)
	id := b.withTopic(t, "there", 1)
	for _, topic := range []string{"there", "not there"} {
		if c := askAs[*kmsg.ProduceResponse](t, b, "eve", produceRequest(9, topic, id, -1, batchOf(t, "v")), 9).Topics[0].Partitions[0].ErrorCode; wire.Code(c) != wire.TopicAuthorizationFailed {
			t.Errorf("produce to %q: %v", topic, wire.Code(c))
		}
		req := fetchRequest(12, topic, id, 0)
		for _, epoch := range []int32{-1, 0} {
			req.SessionEpoch = epoch
			if c := fetched(t, req, b.start(t, "eve", req)).Topics[0].Partitions[0].ErrorCode; wire.Code(c) != wire.TopicAuthorizationFailed {
				t.Errorf("fetch of %q: %v", topic, wire.Code(c))
			}
		}
	}
	follower := fetchRequest(12, "there", id, 0)
	follower.ReplicaID = 2
	if c := fetched(t, follower, b.start(t, "eve", follower)).Topics[0].Partitions[0].ErrorCode; wire.Code(c) != wire.TopicAuthorizationFailed {
		t.Errorf("fetch as if by a replica: %v", wire.Code(c))
	}
}

func TestWithoutAnAuthorizer(t *testing.T) {
	b := newBroker(t)
	any := describeRules(kmsg.ACLResourcePatternTypeAny, kmsg.ACLResourceTypeAny, nil)
	if r := ask[*kmsg.DescribeACLsResponse](t, b, any, 3); wire.Code(r.ErrorCode) != wire.SecurityDisabled || *r.ErrorMessage != "No Authorizer is configured on the broker" {
		t.Errorf("%+v", r)
	}
	if r := ask[*kmsg.CreateACLsResponse](t, b, creations("topic literal t User:a read allow"), 3).Results; wire.Code(r[0].ErrorCode) != wire.SecurityDisabled || *r[0].ErrorMessage != "No Authorizer is configured." {
		t.Errorf("%+v", r)
	}
	if r := ask[*kmsg.DeleteACLsResponse](t, b, deleteRules(any), 3).Results; wire.Code(r[0].ErrorCode) != wire.SecurityDisabled {
		t.Errorf("%+v", r)
	}
}

// TestDenialsAreTold: each counts and is audited, once for each resource of a request; the log has it once a minute.
func TestDenialsAreTold(t *testing.T) {
	b := newBroker(t, append(withAccess, "log.retention.ms=1")...)
	var audit, log bytes.Buffer
	b.access.audit = slog.New(slog.NewJSONHandler(&audit, nil))
	b.access.log = slog.New(slog.NewTextHandler(&log, nil))
	id := b.withTopic(t, "t", 3)
	for range 3 {
		askAs[*kmsg.ProduceResponse](t, b, "bob", produceRequest(13, "", id, -1, batchOf(t, "a"), batchOf(t, "b"), batchOf(t, "c")), 13)
	}
	askAs[*kmsg.MetadataResponse](t, b, "bob", kmsg.NewPtrMetadataRequest(), 12) // has not asked for t
	if n := denials(t, b.access.denied); len(n) != 1 || n["WRITE TOPIC"] != 3 {
		t.Errorf("%v", n)
	}
	lines := strings.Split(strings.TrimSpace(audit.String()), "\n")
	var line struct{ Msg, Principal, API, Operation, ResourceType, Resource, Why, ClientID string }
	if err := json.Unmarshal([]byte(lines[0]), &line); err != nil || len(lines) != 3 {
		t.Fatal(err, audit.String())
	}
	if line.Msg != "denied" || line.Principal != "User:bob" || line.API != "Produce" || line.Operation != "WRITE" || line.ResourceType != "TOPIC" || line.Resource != "t" || line.ClientID != "test" {
		t.Errorf("%+v", line)
	}
	if s := log.String(); strings.Count(s, "\n") != 1 || !strings.Contains(s, `hint="moldau acl grant producer bob t"`) {
		t.Error(s)
	}
	b.grant(t, "topic literal t User:bob write allow")
	b.revoke(t, "t")
	if s := audit.String(); !strings.Contains(s, "rule created") || !strings.Contains(s, "rule deleted") || !strings.Contains(s, "ALLOW User:bob from * WRITE on TOPIC:LITERAL:t") {
		t.Error(s)
	}
	// A grant is no help against a rule that denies.
	b.grant(t, "topic literal t User:bob write deny")
	b.access.told = map[cause]*toldCause{}
	log.Reset()
	askAs[*kmsg.ProduceResponse](t, b, "bob", produceRequest(13, "", id, -1, batchOf(t, "a")), 13)
	if s := log.String(); !strings.Contains(s, `hint="moldau acl why bob write topic:t"`) {
		t.Error(s)
	}
}

func TestCausesAreLoggedOnceAMinute(t *testing.T) {
	a := &authorizer{told: map[cause]*toldCause{}}
	now := time.Unix(1, 0)
	for i, c := range []struct {
		after  time.Duration
		name   string
		silent int
		ok     bool
	}{
		{0, "a", 0, true}, {time.Second, "a", 0, false}, {58 * time.Second, "a", 0, false}, {0, "b", 0, true}, {time.Second, "a", 2, true}, {time.Minute, "a", 0, true},
	} {
		now = now.Add(c.after)
		if silent, ok := a.due(cause{name: c.name}, now); ok != c.ok || ok && silent != c.silent {
			t.Errorf("%d: %d %v", i, silent, ok)
		}
	}
	for i := range 3 * maxCauses {
		a.due(cause{name: fmt.Sprint(i)}, now)
	}
	if len(a.told) > maxCauses+1 {
		t.Errorf("%d causes are remembered", len(a.told))
	}
	if _, ok := a.due(cause{name: "one more"}, now); ok {
		t.Error("what is beyond the bound is one cause")
	}
	if silent, ok := a.due(cause{name: "one more"}, now.Add(time.Minute)); !ok || silent != 0 {
		t.Error("there is room again after a minute", silent, ok)
	}
}

// TestAccessAllocations: with access control and many rules a produce and a fetch allocate no more than without.
func TestAccessAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	b := newBrokerOn(t, vfs.OS(), t.TempDir(), withAccess...)
	id := b.withTopic(t, "t", 4)
	rules := []string{"topic literal t User:bob write allow", "topic literal t User:bob read allow", "topic prefixed x User:bob read allow", "topic literal * User:eve all deny"}
	for i := range 200 {
		rules = append(rules, fmt.Sprintf("topic literal t User:u%d write allow", i))
	}
	b.grant(t, rules...)
	b.conn = as("bob")
	if n := testing.AllocsPerRun(300, b.producing(t, produceFrame(t, id, -1, 4, 1<<10))); n > 4 {
		t.Errorf("a produce to 4 partitions: %v allocations", n)
	}
	frame := frameOf(fetchRequest(13, "t", id, 0, 0, 0, 0))
	plain := newBrokerOn(t, vfs.OS(), t.TempDir())
	plainID := plain.withTopic(t, "t", 4)
	plain.producing(t, produceFrame(t, plainID, -1, 4, 1<<10))()
	plainFrame := frameOf(fetchRequest(13, "t", plainID, 0, 0, 0, 0))
	without := testing.AllocsPerRun(300, func() { plain.handle(t, t.Context(), plainFrame) })
	if with := testing.AllocsPerRun(300, func() { b.handle(t, t.Context(), frame) }); with > without {
		t.Errorf("a fetch: %v allocations, %v without access control", with, without)
	}
}

// TestQuestionsAreAnsweredAsByKafka creates the rules of a recorded world over the API and asks its questions of the seam that
// every handler asks.
func TestQuestionsAreAnsweredAsByKafka(t *testing.T) {
	recorded, err := acltest.Answers()
	if err != nil {
		t.Fatal(err)
	}
	r := recorded[0]
	w := acltest.New(r.Seed, acltest.RecordedRules, acltest.RecordedQuestions)
	b := newBroker(t, withAccess[0], "super.users=User:admin;"+strings.Join(w.SuperUsers, ";"), fmt.Sprintf("allow.everyone.if.no.acl.found=%v", w.AllowUnlisted))
	req := kmsg.NewPtrCreateACLsRequest()
	for _, x := range w.Rules {
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceType, c.ResourcePatternType, c.ResourceName = kmsg.ACLResourceType(x.Type), kmsg.ACLResourcePatternType(x.Kind), x.Name
		c.Principal, c.Host, c.Operation, c.PermissionType = x.Principal, x.Host, kmsg.ACLOperation(x.Operation), kmsg.ACLPermissionType(x.Permission)
		req.Creations = append(req.Creations, c)
	}
	for i, x := range askAs[*kmsg.CreateACLsResponse](t, b, "admin", req, 3).Results {
		if x.ErrorCode != 0 {
			t.Fatalf("%v: %s", w.Rules[i], *x.ErrorMessage)
		}
	}
	for i, q := range w.Questions {
		rc := requestContext{table: b.Table, principal: q.Principal, host: netip.AddrPortFrom(q.Host, 1), row: b.rows[0]}
		a := access{q.Type, q.Operation}
		got := q.Name == "" && rc.mayAny(a) || q.Name != "" && rc.allowedTo(a, q.Name) && rc.permitted(a, q.Name)
		if got != r.Answers[i] {
			t.Errorf("%+v: %v", q, got)
		}
	}
}

// denials are the counters, by their labels.
func denials(t testing.TB, c prometheus.Collector) map[string]float64 {
	t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			out[strings.Join(labels, " ")] = m.GetCounter().GetValue()
		}
	}
	return out
}
