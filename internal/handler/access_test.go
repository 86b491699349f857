package handler

import (
	"flag"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/config"
	"moldau/internal/network"
)

// testdata/kafka-4.3.1-access.jsonl holds what a real Kafka 4.3.1 with StandardAuthorizer answers to the script below. make access-record
// records it anew, on a fresh one whose SASL listener knows the users admin, bob and eve, each with the password "secret".
var kafkaAccessAddr = flag.String("kafka-access", "", "address of the SASL_PLAINTEXT listener of a fresh Kafka whose answers are recorded")

const accessFile = "testdata/kafka-4.3.1-access.jsonl"

// withAccess are the settings of a broker with access control.
var withAccess = []string{"authorizer.class.name=" + config.StandardAuthorizer, "super.users=User:admin", "delegation.token.secret.key=key of the tests"}

// as is a connection of a user, who has proved it by SASL.
func as(user string) *network.Conn {
	c := new(network.Conn)
	c.SetState(&connState{session: &session{sasl: true, phase: known, principal: "User:" + user}})
	return c
}

// exchangeAs is exchange for a user.
func (b *broker) exchangeAs(t testing.TB, user string, frame []byte) []byte {
	t.Helper()
	call, err := b.Start(t.Context(), as(user), frame, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer call.Release()
	var out []byte
	for _, p := range call.Wait(t.Context()).Pieces {
		out = append(out, p.Bytes...)
	}
	b.publish()
	return out[4:]
}

// askAs is ask for a user.
func askAs[R kmsg.Response](t testing.TB, b *broker, user string, req kmsg.Request, version int16) R {
	t.Helper()
	req.SetVersion(version)
	return parseResponse(t, req, version, b.exchangeAs(t, user, frameOf(req))).(R)
}

// dialAs authenticates at a real Kafka.
func dialAs(t *testing.T, addr, user string) overTCP {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	c := overTCP{nc}
	shake := kmsg.NewPtrSASLHandshakeRequest()
	shake.Mechanism = "PLAIN"
	shake.SetVersion(1)
	parseResponse(t, shake, 1, c.exchange(t, frameOf(shake)))
	auth := kmsg.NewPtrSASLAuthenticateRequest()
	auth.SASLAuthBytes = []byte("\x00" + user + "\x00secret")
	auth.SetVersion(2)
	if r := parseResponse(t, auth, 2, c.exchange(t, frameOf(auth))).(*kmsg.SASLAuthenticateResponse); r.ErrorCode != 0 {
		t.Fatalf("%s: %+v", user, r)
	}
	return c
}

// Rules of the script, as kafka-acls prints them: type kind name principal operation permission.
func creations(rules ...string) *kmsg.CreateACLsRequest {
	r := kmsg.NewPtrCreateACLsRequest()
	for _, line := range rules {
		f := strings.Fields(line)
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceName, c.Principal, c.Host = strings.Trim(f[2], `"`), f[3], "*"
		c.ResourceType = must(kmsg.ParseACLResourceType(f[0]))
		c.ResourcePatternType = must(kmsg.ParseACLResourcePatternType(f[1]))
		c.Operation = must(kmsg.ParseACLOperation(f[4]))
		c.PermissionType = must(kmsg.ParseACLPermissionType(f[5]))
		r.Creations = append(r.Creations, c)
	}
	return r
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func describeRules(kind kmsg.ACLResourcePatternType, of kmsg.ACLResourceType, name *string, edit ...func(*kmsg.DescribeACLsRequest)) *kmsg.DescribeACLsRequest {
	r := kmsg.NewPtrDescribeACLsRequest()
	r.ResourceType, r.ResourceName, r.ResourcePatternType = of, name, kind
	r.Operation, r.PermissionType = kmsg.ACLOperationAny, kmsg.ACLPermissionTypeAny
	for _, e := range edit {
		e(r)
	}
	return r
}

func deleteRules(filters ...*kmsg.DescribeACLsRequest) *kmsg.DeleteACLsRequest {
	r := kmsg.NewPtrDeleteACLsRequest()
	for _, f := range filters {
		d := kmsg.NewDeleteACLsRequestFilter()
		d.ResourceType, d.ResourceName, d.ResourcePatternType, d.Operation, d.PermissionType = f.ResourceType, f.ResourceName, f.ResourcePatternType, f.Operation, f.PermissionType
		d.Principal, d.Host = f.Principal, f.Host
		r.Filters = append(r.Filters, d)
	}
	return r
}

// asked is a question and who asks it.
type asked struct {
	who string
	question
}

func accessScript(t testing.TB, ids *topicIDs) []asked {
	var qs []asked
	add := func(who, name string, version int16, req kmsg.Request) {
		qs = append(qs, asked{who, question{who + ": " + name, version, req, who == "admin"}})
	}
	add("admin", "topics", 7, creation(nil, topicOf("secret", 1, 1), topicOf("shown", 1, 1), topicOf("in", 1, 1), topicOf("out", 1, 1), topicOf("both", 1, 1)))
	add("admin", "a topic for its id", 7, creation(nil, topicOf("by-id", 1, 1)))
	add("admin", "rules", 3, creations(
		"topic literal shown User:bob describe allow", "topic literal in User:bob read allow", "topic literal out User:bob write allow",
		"topic literal both User:bob all allow", "topic literal both User:bob delete deny", "topic prefixed new User:bob create allow",
		"topic prefixed new User:bob describe allow", "topic literal made User:bob describe allow",
		"group literal mine User:bob read allow", "group prefixed seen User:bob describe allow", "group literal gone User:bob delete allow",
		"transactional_id prefixed tx User:bob write allow"))
	add("admin", "rules again", everyVersion, creations("topic literal shown User:bob describe allow", "topic literal * User:* describe deny", "user literal User:x User:bob create_tokens allow"))
	add("admin", "wrong names", everyVersion, creations("cluster literal else User:bob describe allow", `topic literal "" User:bob describe allow`))
	add("admin", "wrong rules", 3, creations("topic match shown User:bob describe allow",
		"topic any shown User:bob describe allow", "topic literal shown User:bob any allow", "topic literal shown User:bob read any", "any literal shown User:bob read allow"))
	add("admin", "rules on every topic go", 3, deleteRules(describeRules(kmsg.ACLResourcePatternTypeLiteral, kmsg.ACLResourceTypeTopic, ptr("*"))))
	add("admin", "find by name", everyVersion, describeRules(kmsg.ACLResourcePatternTypeLiteral, kmsg.ACLResourceTypeTopic, ptr("both")))
	add("admin", "find what covers", 3, describeRules(kmsg.ACLResourcePatternTypeMatch, kmsg.ACLResourceTypeTopic, ptr("news")))
	add("admin", "find any kind", 3, describeRules(kmsg.ACLResourcePatternTypeAny, kmsg.ACLResourceTypeAny, ptr("new"), func(r *kmsg.DescribeACLsRequest) { r.Operation = kmsg.ACLOperationCreate }))
	add("admin", "find nobody's", 3, describeRules(kmsg.ACLResourcePatternTypeAny, kmsg.ACLResourceTypeAny, nil, func(r *kmsg.DescribeACLsRequest) { r.Principal = ptr("User:eve") }))
	add("admin", "delete by three filters", everyVersion, deleteRules(
		describeRules(kmsg.ACLResourcePatternTypeLiteral, kmsg.ACLResourceTypeUser, ptr("User:x")), describeRules(kmsg.ACLResourcePatternTypeMatch, kmsg.ACLResourceTypeUser, ptr("User:x")),
		describeRules(kmsg.ACLResourcePatternTypePrefixed, kmsg.ACLResourceTypeTopic, ptr("none"))))
	sc := kmsg.NewPtrFindCoordinatorRequest()
	sc.CoordinatorType, sc.CoordinatorKeys = 2, []string{"g:AAAAAAAAAAAAAAAAAAAAAQ:0"}
	add("bob", "find the coordinator of a share group's state", 6, sc)
	add("eve", "a producer id", everyVersion, kmsg.NewPtrInitProducerIDRequest())
	for _, who := range []string{"bob", "eve"} {
		accessQuestions(t, ids, func(name string, version int16, req kmsg.Request) { add(who, name, version, req) })
	}
	add("admin", "more rules", 3, creations("cluster literal kafka-cluster User:eve describe allow", "cluster literal kafka-cluster User:eve create allow",
		"cluster literal kafka-cluster User:eve delete allow", "cluster literal kafka-cluster User:eve cluster_action allow", "cluster literal kafka-cluster User:eve alter_configs allow"))
	accessQuestions(t, ids, func(name string, version int16, req kmsg.Request) {
		add("eve", name+", with rights on the cluster", version, req)
	})
	return append(qs, tokenQuestions(ids)...)
}

// tokenQuestions is the life of delegation tokens. After each change Kafka needs a moment until it knows.
func tokenQuestions(ids *topicIDs) (qs []asked) {
	add := func(who, name string, version int16, req kmsg.Request) {
		qs = append(qs, asked{who, question{who + ": " + name, version, req, true}})
	}
	create := func(edit func(*kmsg.CreateDelegationTokenRequest)) kmsg.Request {
		r := kmsg.NewPtrCreateDelegationTokenRequest()
		r.MaxLifetimeMillis = -1
		edit(r)
		return r
	}
	owner := func(kind, name *string) kmsg.Request {
		return create(func(r *kmsg.CreateDelegationTokenRequest) { r.OwnerPrincipalType, r.OwnerPrincipalName = kind, name })
	}
	renewers := func(kind string, names ...string) kmsg.Request {
		return create(func(r *kmsg.CreateDelegationTokenRequest) {
			for _, n := range names {
				r.Renewers = append(r.Renewers, kmsg.CreateDelegationTokenRequestRenewer{PrincipalType: kind, PrincipalName: n})
			}
		})
	}
	describe := func(owners ...string) kmsg.Request {
		r := kmsg.NewPtrDescribeDelegationTokenRequest()
		for _, o := range owners {
			kind, name := principalParts(o)
			r.Owners = append(r.Owners, kmsg.DescribeDelegationTokenRequestOwner{PrincipalType: kind, PrincipalName: name})
		}
		return r
	}
	renew := func(periodMs int64) kmsg.Request {
		r := kmsg.NewPtrRenewDelegationTokenRequest()
		r.RenewTimeMillis = periodMs
		return &lateRequest{r, func() { r.HMAC = ids.secret }}
	}
	expire := func(periodMs int64) kmsg.Request {
		r := kmsg.NewPtrExpireDelegationTokenRequest()
		r.ExpiryPeriodMillis = periodMs
		return &lateRequest{r, func() { r.HMAC = ids.secret }}
	}
	nobody := describe()
	nobody.(*kmsg.DescribeDelegationTokenRequest).Owners = []kmsg.DescribeDelegationTokenRequestOwner{}

	add("admin", "rules for tokens", 3, creations("user literal User:eve User:bob create_tokens allow", "user literal User:carl User:bob create_tokens allow",
		"user literal User:carl User:eve describe_tokens allow", "user literal Robot:eve User:bob create_tokens allow"))
	add("bob", "describe before there is a token", everyVersion, describe())
	add("bob", "a token for himself", everyVersion, create(func(*kmsg.CreateDelegationTokenRequest) {}))
	add("bob", "a token for an hour", 3, create(func(r *kmsg.CreateDelegationTokenRequest) { r.MaxLifetimeMillis = 3_600_000 }))
	add("bob", "a token for longer than allowed", 3, create(func(r *kmsg.CreateDelegationTokenRequest) { r.MaxLifetimeMillis = 1 << 62 }))
	add("bob", "a token with a renewer of another type", everyVersion, renewers("Group", "g"))
	add("bob", "a token for eve", 3, owner(ptr("User"), ptr("eve")))
	add("bob", "a token for carl", 3, owner(ptr("User"), ptr("carl")))
	add("bob", "a token for admin", 3, owner(ptr("User"), ptr("admin")))
	add("bob", "a token for an owner without a name", 3, owner(ptr("User"), ptr("")))
	add("bob", "a token for himself by name", 3, owner(ptr("User"), ptr("bob")))
	add("eve", "a token for another type of owner", 3, owner(ptr("Robot"), ptr("bob")))
	add("bob", "describe nobody's tokens", everyVersion, nobody)
	add("bob", "describe eve's tokens", everyVersion, describe("User:eve"))
	add("eve", "describe all tokens", everyVersion, describe())
	add("eve", "describe bob's and carl's tokens", 3, describe("User:bob", "User:carl"))
	add("admin", "describe tokens of nobody we know", 3, describe("User:none"))
	add("admin", "a rule for every token", 3, creations("delegation_token literal * User:eve describe allow"))
	add("eve", "describe bob's tokens, with rights", 3, describe("User:bob"))

	add("bob", "a token with a renewer", 3, renewers("User", "eve", "carl"))
	add("bob", "renew", everyVersion, renew(-1))
	add("eve", "renew as a renewer, for half an hour", everyVersion, renew(1_800_000))
	add("admin", "renew as a stranger", everyVersion, renew(-1))
	unknown := kmsg.NewPtrRenewDelegationTokenRequest()
	unknown.HMAC = []byte("unknown")
	add("bob", "renew an unknown token", everyVersion, unknown)
	add("bob", "renew nothing", 2, kmsg.NewPtrRenewDelegationTokenRequest())
	add("eve", "describe a token to renew", 3, describe("User:carl"))
	add("admin", "expire as a stranger", everyVersion, expire(-1))
	add("eve", "expire in ten minutes", everyVersion, expire(600_000))
	add("bob", "expire far beyond its life", 2, expire(1<<62))
	add("bob", "expire at once", everyVersion, expire(-1))
	unknownToo := kmsg.NewPtrExpireDelegationTokenRequest()
	unknownToo.HMAC = []byte("unknown")
	add("bob", "expire an unknown token", everyVersion, unknownToo)
	add("bob", "describe what is left", 3, describe("User:bob"))
	add("bob", "a token for another type of owner", 3, owner(ptr("Robot"), ptr("eve")))
	add("admin", "a token for an owner without a type", 3, owner(nil, ptr("eve")))
	return qs
}

// lateRequest is a request of which something is known only when it is asked.
type lateRequest struct {
	kmsg.Request
	fill func()
}

func (l *lateRequest) AppendTo(dst []byte) []byte {
	l.fill()
	return l.Request.AppendTo(dst)
}

// accessQuestions asks every API for what it depends on rules.
func accessQuestions(t testing.TB, ids *topicIDs, add func(name string, version int16, req kmsg.Request)) {
	all := kmsg.NewPtrMetadataRequest()
	add("all topics", 12, all)
	operations := metadataFor("secret", "shown", "in", "both", "missing", "newest")
	operations.IncludeClusterAuthorizedOperations, operations.IncludeTopicAuthorizedOperations = true, true
	add("topics and operations", 10, operations)
	creating := metadataFor("missing", "made", "secret")
	creating.AllowAutoTopicCreation = true
	add("topics that are made", 12, creating)
	byID := metadataFor()
	byID.Topics = append(byID.Topics, kmsg.MetadataRequestTopic{TopicID: [16]byte{9}})
	add("topics by id", 12, byID)

	names := []string{"secret", "shown", "in", "out", "both", "missing"}
	produce := func(name string, acks int16, records []byte, topics ...string) {
		p := kmsg.NewPtrProduceRequest()
		p.Acks, p.TimeoutMillis = acks, 1000
		for _, n := range topics {
			p.Topics = append(p.Topics, produceRequest(9, n, [16]byte{}, -1, records).Topics...)
		}
		add(name, 9, p)
	}
	produce("produce nothing", -1, []byte{}, names...)
	produce("produce with wrong acks", 5, batchOf(t, "v"), names...)
	transactional := slices.Clone([]byte(batchOf(t, "v")))
	transactional[22] |= 0x10
	produce("produce as if in a transaction", -1, transactional, "out")

	f := fetchRequest(12, "", [16]byte{})
	for _, n := range names {
		f.Topics = append(f.Topics, fetchRequest(12, n, [16]byte{}, 0).Topics...)
	}
	add("fetch", 12, f)
	lo := kmsg.NewPtrListOffsetsRequest()
	le := kmsg.NewPtrOffsetForLeaderEpochRequest()
	le.ReplicaID = -1
	dr := kmsg.NewPtrDeleteRecordsRequest()
	dr.TimeoutMillis = 10_000
	dt := kmsg.NewPtrDescribeTopicPartitionsRequest()
	dt.ResponsePartitionLimit = 100
	oc := kmsg.NewPtrOffsetCommitRequest()
	for _, n := range names {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic, t.Partitions = n, []kmsg.ListOffsetsRequestTopicPartition{{Timestamp: -1, CurrentLeaderEpoch: -1}}
		if n == "secret" {
			t.Partitions = append(t.Partitions, t.Partitions[0])
		}
		lo.Topics = append(lo.Topics, t)
		l := kmsg.NewOffsetForLeaderEpochRequestTopic()
		l.Topic, l.Partitions = n, []kmsg.OffsetForLeaderEpochRequestTopicPartition{{CurrentLeaderEpoch: -1}}
		le.Topics = append(le.Topics, l)
		d := kmsg.NewDeleteRecordsRequestTopic()
		d.Topic, d.Partitions = n, []kmsg.DeleteRecordsRequestTopicPartition{{Offset: 0}}
		dr.Topics = append(dr.Topics, d)
		dt.Topics = append(dt.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: n})
		c := kmsg.NewOffsetCommitRequestTopic()
		c.Topic, c.Partitions = n, []kmsg.OffsetCommitRequestTopicPartition{{Offset: 1, LeaderEpoch: -1}}
		oc.Topics = append(oc.Topics, c)
	}
	add("list offsets", 9, lo)
	add("epochs", 4, le)
	add("delete records", 2, dr)
	add("describe topics", 0, dt)
	add("create topics", 7, creation(func(r *kmsg.CreateTopicsRequest) { r.ValidateOnly = true }, topicOf("nothing", 1, 1), topicOf("newish", 1, 1), topicOf("secret", 1, 1)))
	cp := kmsg.NewPtrCreatePartitionsRequest()
	cp.TimeoutMillis, cp.ValidateOnly = 10_000, true
	for _, n := range []string{"secret", "both", "missing"} {
		cp.Topics = append(cp.Topics, kmsg.CreatePartitionsRequestTopic{Topic: n, Count: 2})
	}
	add("create partitions", 3, cp)
	del := kmsg.NewPtrDeleteTopicsRequest()
	del.TimeoutMillis = 10_000
	for _, n := range []string{"both", "missing", "shown"} {
		del.Topics = append(del.Topics, kmsg.DeleteTopicsRequestTopic{Topic: ptr(n)})
	}
	del.Topics = append(del.Topics, kmsg.DeleteTopicsRequestTopic{TopicID: [16]byte{9}}, kmsg.DeleteTopicsRequestTopic{})
	if ids != nil {
		add("delete topics", 6, &lateRequest{del, func() { del.Topics[len(del.Topics)-1].TopicID = ids.first }})
	}

	dc := kmsg.NewPtrDescribeConfigsRequest()
	for _, c := range []kmsg.DescribeConfigsRequestResource{{ResourceType: 2, ResourceName: "secret"}, {ResourceType: 2, ResourceName: "both"}, {ResourceType: 2, ResourceName: "missing"},
		{ResourceType: 4, ResourceName: "1"}, {ResourceType: 4, ResourceName: ""}, {ResourceType: 8, ResourceName: "1"}, {ResourceType: 16, ResourceName: "m"}, {ResourceType: 32, ResourceName: "mine"}} {
		c.ConfigNames = []string{"none"}
		dc.Resources = append(dc.Resources, c)
	}
	add("describe configs", 4, dc)
	ia := kmsg.NewPtrIncrementalAlterConfigsRequest()
	ia.ValidateOnly = true
	ia.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: 2, ResourceName: "secret"}, {ResourceType: 2, ResourceName: "both"}, {ResourceType: 2, ResourceName: "missing"},
		{ResourceType: 4, ResourceName: "1"}, {ResourceType: 4, ResourceName: ""}, {ResourceType: 32, ResourceName: "mine"}}
	add("alter configs", 1, ia)

	groups := []string{"mine", "seen-1", "other", "gone"}
	for _, g := range groups {
		c := *oc
		c.Group, c.Generation = g, -1
		add("commit to "+g, 8, &c)
		h := kmsg.NewPtrHeartbeatRequest()
		h.Group, h.MemberID, h.Generation = g, "m", 1
		add("heartbeat of "+g, 4, h)
		l := kmsg.NewPtrLeaveGroupRequest()
		l.Group, l.Members = g, []kmsg.LeaveGroupRequestMember{{MemberID: "m"}}
		add("leave "+g, 4, l)
		s := kmsg.NewPtrSyncGroupRequest()
		s.Group, s.MemberID, s.Generation = g, "m", 1
		add("sync of "+g, 4, s)
		od := kmsg.NewPtrOffsetDeleteRequest()
		od.Group, od.Topics = g, []kmsg.OffsetDeleteRequestTopic{{Topic: "in", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{}}}, {Topic: "secret", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{}}}}
		add("delete offsets of "+g, 0, od)
		if g != "mine" {
			join := kmsg.NewPtrJoinGroupRequest()
			join.Group, join.ProtocolType, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = g, "consumer", 10_000, 10_000
			add("join "+g, 5, join)
			chb := kmsg.NewPtrConsumerGroupHeartbeatRequest()
			chb.Group, chb.MemberID, chb.RebalanceTimeoutMillis = g, "member", 10_000
			chb.SubscribedTopicNames, chb.Topics = []string{"in"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
			add("consumer heartbeat of "+g, 0, chb)
		}
	}
	chb := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	chb.Group, chb.MemberID, chb.RebalanceTimeoutMillis = "mine", "member", 10_000
	chb.SubscribedTopicNames, chb.Topics = []string{"in", "secret"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	add("consumer heartbeat with a topic that may not be seen", 0, chb)
	for _, v := range []int16{1, 7, 8} {
		of := kmsg.NewPtrOffsetFetchRequest()
		for _, g := range groups[:3] {
			of.Group = g
			of.Topics = []kmsg.OffsetFetchRequestTopic{{Topic: "in", Partitions: []int32{0}}, {Topic: "secret", Partitions: []int32{0}}}
			og := kmsg.NewOffsetFetchRequestGroup()
			og.Group = g
			og.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: "in", Partitions: []int32{0}}, {Topic: "secret", Partitions: []int32{0}}}
			of.Groups = append(of.Groups, og)
			if v < 8 {
				one := *of
				add("offsets of "+g, v, &one)
			}
		}
		if v == 8 {
			add("offsets of groups", v, of)
		}
	}
	dg := kmsg.NewPtrDescribeGroupsRequest()
	dg.Groups, dg.IncludeAuthorizedOperations = groups, true
	add("describe groups", 5, dg)
	cg := kmsg.NewPtrConsumerGroupDescribeRequest()
	cg.Groups, cg.IncludeAuthorizedOperations = groups, true
	add("describe consumer groups", 1, cg)
	add("list groups", 4, kmsg.NewPtrListGroupsRequest())
	dgs := kmsg.NewPtrDeleteGroupsRequest()
	dgs.Groups = []string{"other", "gone"}
	add("delete groups", 2, dgs)

	for kind := range int8(3) {
		fc := kmsg.NewPtrFindCoordinatorRequest()
		fc.CoordinatorType, fc.CoordinatorKeys = kind, []string{"other"}
		add("find a coordinator of type "+strconv.Itoa(int(kind)), 5, fc)
	}
	ip := kmsg.NewPtrInitProducerIDRequest()
	ip.TransactionalID, ip.TransactionTimeoutMillis = ptr("other"), 1000
	add("a producer id for a transaction", 4, ip)
	dl := kmsg.NewPtrDescribeLogDirsRequest()
	dl.Topics = []kmsg.DescribeLogDirsRequestTopic{}
	add("log dirs", everyVersion, dl)
	lr := kmsg.NewPtrListPartitionReassignmentsRequest()
	lr.TimeoutMillis, lr.Topics = 1000, []kmsg.ListPartitionReassignmentsRequestTopic{}
	add("reassignments", 0, lr)
	cl := kmsg.NewPtrDescribeClusterRequest()
	cl.IncludeClusterAuthorizedOperations = true
	add("cluster", 1, cl)
	add("find rules", 3, describeRules(kmsg.ACLResourcePatternTypeAny, kmsg.ACLResourceTypeTopic, ptr("in")))
	add("create rules", everyVersion, creations("topic literal mine User:bob all allow", "topic literal mine User:bob read allow"))
	add("delete rules", everyVersion, deleteRules(describeRules(kmsg.ACLResourcePatternTypeAny, kmsg.ACLResourceTypeTopic, ptr("in"))))
}

// intendedAccess says where the answer differs from Kafka's on purpose, and why.
var intendedAccess = map[string]string{
	"bob: a token for another type of owner":         "refused; Kafka gives one, whose bearer is the user of that name",
	"admin: a token for an owner without a type":     "refused with a reason; Kafka fails",
	"admin: wrong rules":                             "each is refused with a reason; Kafka fails",
	"bob: create topics":                             "a topic that is not created has no id; Kafka makes one up",
	"eve: create topics, with rights on the cluster": "a topic that is not created has no id; Kafka makes one up",
	"bob: fetch":                             "aborted transactions are null whenever they are not asked for; Kafka has an empty list beside this error",
	"eve: fetch":                             "aborted transactions are null whenever they are not asked for; Kafka has an empty list beside this error",
	"eve: fetch, with rights on the cluster": "aborted transactions are null whenever they are not asked for; Kafka has an empty list beside this error",
}

func TestAccessIsKafkas(t *testing.T) {
	compareAccess(t, accessFile, intendedAccess, func(t testing.TB, ids *topicIDs, exchange exchangeAs) []asked {
		if *kafkaAccessAddr != "" {
			fc := kmsg.NewPtrFindCoordinatorRequest() // makes __consumer_offsets, in the background
			fc.CoordinatorKeys = []string{"g"}
			fc.SetVersion(4)
			exchange(t, "admin", frameOf(fc))
			time.Sleep(10 * time.Second)
		}
		return accessScript(t, ids)
	})
}

// exchangeAs asks for a user.
type exchangeAs func(t testing.TB, who string, frame []byte) []byte

// compareAccess compares the answers to a script that several users ask with those of Kafka in a file, or records them.
func compareAccess(t *testing.T, file string, intended map[string]string, script func(testing.TB, *topicIDs, exchangeAs) []asked) {
	t.Helper()
	var exchange exchangeAs
	if *kafkaAccessAddr != "" {
		conns := map[string]overTCP{}
		for _, who := range []string{"admin", "bob", "eve"} {
			conns[who] = dialAs(t, *kafkaAccessAddr, who)
		}
		exchange = func(t testing.TB, who string, frame []byte) []byte { return conns[who].exchange(t, frame) }
	} else {
		b := newBroker(t, withAccess...)
		b.withGroups(t)
		exchange = func(t testing.TB, who string, frame []byte) []byte { return b.exchangeAs(t, who, frame) }
	}
	var ids topicIDs
	var got []answerLine
	for _, q := range script(t, &ids, exchange) {
		got = append(got, q.ask(t, &ids, func(t testing.TB, frame []byte) []byte { return exchange(t, q.who, frame) }, *kafkaAccessAddr != "")...)
	}
	if *kafkaAccessAddr != "" {
		writeAnswers(t, file, got)
		return
	}
	compareAnswers(t, file, intended, got)
}
