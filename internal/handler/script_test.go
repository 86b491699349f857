package handler

import (
	"math"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/record"
)

// question is one request of the script that Kafka and this broker are asked, in order.
type question struct {
	name    string
	version int16
	req     kmsg.Request
	pause   bool // until Kafka has done what it does in the background
}

// everyVersion asks once in each version that is served.
const everyVersion = -1

func ptr[T any](v T) *T { return &v }

func metadataFor(names ...string) *kmsg.MetadataRequest {
	r := kmsg.NewPtrMetadataRequest()
	r.Topics = []kmsg.MetadataRequestTopic{}
	for _, n := range names {
		r.Topics = append(r.Topics, kmsg.MetadataRequestTopic{Topic: &n})
	}
	return r
}

func creation(edit func(*kmsg.CreateTopicsRequest), topics ...kmsg.CreateTopicsRequestTopic) *kmsg.CreateTopicsRequest {
	r := kmsg.NewPtrCreateTopicsRequest()
	r.TimeoutMillis, r.Topics = 10_000, topics
	if edit != nil {
		edit(r)
	}
	return r
}

func topicOf(name string, partitions int32, rf int16, edit ...func(*kmsg.CreateTopicsRequestTopic)) kmsg.CreateTopicsRequestTopic {
	t := kmsg.CreateTopicsRequestTopic{Topic: name, NumPartitions: partitions, ReplicationFactor: rf}
	for _, e := range edit {
		e(&t)
	}
	return t
}

func with(name string, value *string) func(*kmsg.CreateTopicsRequestTopic) {
	return func(t *kmsg.CreateTopicsRequestTopic) {
		t.Configs = append(t.Configs, kmsg.CreateTopicsRequestTopicConfig{Name: name, Value: value})
	}
}

func on(partition int32, brokers ...int32) func(*kmsg.CreateTopicsRequestTopic) {
	return func(t *kmsg.CreateTopicsRequestTopic) {
		t.ReplicaAssignment = append(t.ReplicaAssignment, kmsg.CreateTopicsRequestTopicReplicaAssignment{Partition: partition, Replicas: brokers})
	}
}

func script(ids *topicIDs) []question {
	var qs []question
	for _, part := range [][]question{versionsScript(), createScript(), metadataScript(ids), partitionsScript(), describeConfigsScript(), alterConfigsScript(), describeScript(), logScript(), deleteScript(), featuresScript(), tokensScript()} {
		qs = append(qs, part...)
	}
	return qs
}

func versionsScript() []question {
	software := func(name, version string) *kmsg.ApiVersionsRequest {
		r := kmsg.NewPtrApiVersionsRequest()
		r.ClientSoftwareName, r.ClientSoftwareVersion = name, version
		return r
	}
	return []question{
		{"versions", everyVersion, software("moldau", "1.0-x"), false},
		{"version too high", 5, software("moldau", "1"), false},
		{"version much too high", 99, software("moldau", "1"), false},
		{"software with a space", 3, software("mol dau", "1"), false},
		{"software without a name", 4, software("", "1"), false},
		{"software ends with a dot", 4, software("moldau", "1."), false},
		{"software of old versions is not looked at", 2, software("", ""), false},
	}
}

func createScript() []question {
	validate := func(r *kmsg.CreateTopicsRequest) { r.ValidateOnly = true }
	long := strings.Repeat("x", 250)
	qs := []question{
		{"create by defaults", 7, creation(nil, topicOf("by-default", -1, -1)), false},
		{"create three", 7, creation(nil, topicOf("three", 3, 1, with("retention.ms", ptr("1000")), with("cleanup.policy", ptr("compact")))), false},
		{"create again", everyVersion, creation(nil, topicOf("three", 3, 1)), false},
		{"create validated only", everyVersion, creation(validate, topicOf("never", 2, 1)), false},
		{"create for its id", 7, creation(nil, topicOf("by-id", 1, 1)), false},
		{"create on brokers", 7, creation(nil, topicOf("manual", -1, -1, on(0, 1), on(1, 1))), false},
		{"create twice in one request", 7, creation(nil, topicOf("twice", 1, 1), topicOf("twice", 2, 1), topicOf("once", 1, 1)), false},
		{"create nothing", everyVersion, creation(nil), false},
		{"create in no time", 7, creation(func(r *kmsg.CreateTopicsRequest) { r.TimeoutMillis = 0 }, topicOf("in-no-time", 1, 1)), false},
	}
	wrong := []struct {
		name  string
		topic kmsg.CreateTopicsRequestTopic
	}{
		{"empty name", topicOf("", 1, 1)},
		{"dot", topicOf(".", 1, 1)},
		{"slash", topicOf("a/b", 1, 1)},
		{"long name", topicOf(long, 1, 1)},
		{"metadata topic", topicOf("__cluster_metadata", 1, 1)},
		{"no partitions", topicOf("bad", 0, 1)},
		{"minus two partitions", topicOf("bad", -2, 1)},
		{"no replicas", topicOf("bad", 1, 0)},
		{"two replicas of one broker", topicOf("bad", 1, 2)},
		{"too many partitions", topicOf("bad", 10_001, 1)},
		{"assignment and partitions", topicOf("bad", 1, -1, on(0, 1))},
		{"assignment and replicas", topicOf("bad", -1, 1, on(0, 1))},
		{"assignment with a gap", topicOf("bad", -1, -1, on(0, 1), on(2, 1))},
		{"assignment twice", topicOf("bad", -1, -1, on(0, 1), on(0, 1))},
		{"assignment to an unknown broker", topicOf("bad", -1, -1, on(0, 7))},
		{"assignment twice to a broker", topicOf("bad", -1, -1, on(0, 1, 1))},
		{"assignment to nobody", topicOf("bad", -1, -1, on(0))},
		{"unknown config", topicOf("bad", 1, 1, with("no.such.key", ptr("1")))},
		{"invalid config", topicOf("bad", 1, 1, with("retention.ms", ptr("soon")))},
		{"null config", topicOf("bad", 1, 1, with("retention.ms", nil), with("flush.ms", nil))},
		{"null config of a topic that exists", topicOf("three", 1, 1, with("retention.ms", nil))},
		{"remote storage", topicOf("bad", 1, 1, with("remote.storage.enable", ptr("true")))},
	}
	for _, w := range wrong {
		qs = append(qs, question{"create: " + w.name, 7, creation(nil, w.topic), false})
	}
	return append(qs,
		question{"create with a dot", 7, creation(nil, topicOf("co.llide", 1, 1)), false},
		question{"create: collision", 7, creation(nil, topicOf("co_llide", 1, 1)), false})
}

func metadataScript(ids *topicIDs) []question {
	operations := func(r *kmsg.MetadataRequest) *kmsg.MetadataRequest {
		r.IncludeClusterAuthorizedOperations, r.IncludeTopicAuthorizedOperations = true, true
		return r
	}
	byID := func(version int16, id *[16]byte, name *string) question {
		r := kmsg.NewPtrMetadataRequest()
		r.Topics = []kmsg.MetadataRequestTopic{{Topic: name}}
		if id != nil {
			r.Topics[0].TopicID = *id
		}
		return question{"metadata by id", version, lateID{r, id, ids}, false}
	}
	auto := func(names ...string) *kmsg.MetadataRequest {
		r := metadataFor(names...)
		r.AllowAutoTopicCreation = true
		return r
	}
	return []question{
		{"metadata of all: empty list", 0, metadataFor(), false},
		{"metadata of none: empty list", 1, metadataFor(), false},
		{"metadata of none: empty list", 13, metadataFor(), false},
		{"metadata of all: null", 1, kmsg.NewPtrMetadataRequest(), false},
		{"metadata of all: null", 9, kmsg.NewPtrMetadataRequest(), false},
		{"metadata of all: null", 13, kmsg.NewPtrMetadataRequest(), false},
		{"metadata of a topic", everyVersion, metadataFor("three"), false},
		{"metadata with operations", 8, operations(metadataFor("three")), false},
		{"metadata with operations", 10, operations(metadataFor("three")), false},
		{"metadata with operations", 13, operations(metadataFor("three", "missing")), false},
		{"metadata of a topic twice", 12, metadataFor("three", "three"), false},
		{"metadata of missing topics", 4, metadataFor("missing", "bad/name", ""), false},
		{"metadata of missing topics", 13, metadataFor("missing", "__consumer_offsets"), false},
		byID(10, nil, nil), byID(11, new([16]byte), ptr("three")), byID(12, &[16]byte{1, 2, 3}, nil), byID(12, new([16]byte), nil), byID(13, new([16]byte), ptr("ignored")),
		{"metadata creates in old versions", 1, metadataFor("auto-old"), true},
		{"metadata has created in old versions", 3, auto("auto-old"), false},
		{"metadata creates", 13, auto("auto-new", "bad name", "three"), true},
		{"metadata has created", 13, auto("auto-new", "bad name", "three"), false},
		{"metadata creates internal topics", 13, auto("__consumer_offsets", "__transaction_state", "__share_group_state"), true},
		{"metadata has created internal topics", 13, metadataFor("__consumer_offsets", "__transaction_state", "__share_group_state"), false},
	}
}

// lateID puts the id of a topic into a request when that is known.
type lateID struct {
	*kmsg.MetadataRequest
	id  *[16]byte
	ids *topicIDs
}

func (l lateID) AppendTo(dst []byte) []byte {
	if l.id != nil && *l.id == ([16]byte{}) {
		l.Topics[0].TopicID = l.ids.first
	}
	return l.MetadataRequest.AppendTo(dst)
}

func partitionsScript() []question {
	more := func(topic string, count int32, assignment ...[]int32) *kmsg.CreatePartitionsRequest {
		r := kmsg.NewPtrCreatePartitionsRequest()
		r.TimeoutMillis = 10_000
		t := kmsg.CreatePartitionsRequestTopic{Topic: topic, Count: count}
		for _, brokers := range assignment {
			t.Assignment = append(t.Assignment, kmsg.CreatePartitionsRequestTopicAssignment{Replicas: brokers})
		}
		r.Topics = append(r.Topics, t)
		return r
	}
	twice := more("manual", 5)
	twice.Topics = append(twice.Topics, twice.Topics[0])
	validate := more("manual", 5)
	validate.ValidateOnly = true
	return []question{
		{"more partitions, validated only", everyVersion, validate, false},
		{"more partitions", 3, more("manual", 4), false},
		{"more partitions on brokers", 3, more("manual", 5, []int32{1}), false},
		{"more partitions: as many", everyVersion, more("manual", 5), false},
		{"more partitions: fewer", 3, more("manual", 2), false},
		{"more partitions: unknown topic", everyVersion, more("missing", 2), false},
		{"more partitions: twice", 3, twice, false},
		{"more partitions: too few brokers", 3, more("manual", 7, []int32{1}), false},
		{"more partitions: unknown broker", 3, more("manual", 6, []int32{9}), false},
		{"more partitions: other replication factor", 3, more("manual", 6, []int32{1, 1}), false},
		{"more partitions: nobody", 3, more("manual", 6, []int32{}), false},
	}
}

func describeConfigsScript() []question {
	internalKeys := []string{"cleanup.policy", "compression.type", "retention.ms", "segment.bytes", "unclean.leader.election.enable"}
	describe := func(kind kmsg.ConfigResourceType, name string, keys ...string) *kmsg.DescribeConfigsRequest {
		r := kmsg.NewPtrDescribeConfigsRequest()
		r.IncludeSynonyms, r.IncludeDocumentation = true, true
		r.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kind, ResourceName: name, ConfigNames: keys}}
		return r
	}
	return []question{
		{"describe topic configs", everyVersion, describe(2, "three", "retention.ms", "cleanup.policy", "no.such.key"), false},
		{"describe offsets topic", 4, describe(2, "__consumer_offsets", internalKeys...), false},
		{"describe transaction topic", 4, describe(2, "__transaction_state", internalKeys...), false},
		{"describe share topic", 4, describe(2, "__share_group_state", internalKeys...), false},
		{"describe broker configs", everyVersion, describe(4, "1", "log.retention.hours", "num.partitions", "ssl.keystore.password"), false},
		{"describe the default of brokers", 4, describe(4, ""), false},
		{"describe a group", everyVersion, describe(32, "any"), false},
		{"describe client metrics", 4, describe(16, "any"), false},
		{"describe configs: unknown topic", 4, describe(2, "missing"), false},
		{"describe configs: invalid topic", 4, describe(2, "a/b"), false},
		{"describe configs: another broker", 4, describe(4, "2"), false},
		{"describe configs: no broker", 4, describe(4, "x"), false},
		{"describe configs: another broker's loggers", 4, describe(8, "2"), false},
		{"describe configs: nobody's loggers", 4, describe(8, ""), false},
		{"describe configs: group without a name", 4, describe(32, ""), false},
		{"describe configs: metrics without a name", 4, describe(16, ""), false},
		{"describe configs: unknown type", 4, describe(99, "x"), false},
	}
}

type op struct {
	key   string
	op    kmsg.IncrementalAlterConfigOp
	value *string
}

func alterConfigsScript() []question {
	change := func(kind kmsg.ConfigResourceType, name string, ops ...op) *kmsg.IncrementalAlterConfigsRequest {
		r := kmsg.NewPtrIncrementalAlterConfigsRequest()
		res := kmsg.IncrementalAlterConfigsRequestResource{ResourceType: kind, ResourceName: name}
		for _, o := range ops {
			res.Configs = append(res.Configs, kmsg.IncrementalAlterConfigsRequestResourceConfig{Name: o.key, Op: o.op, Value: o.value})
		}
		r.Resources = append(r.Resources, res)
		return r
	}
	replace := func(kind kmsg.ConfigResourceType, name string, ops ...op) *kmsg.AlterConfigsRequest {
		r := kmsg.NewPtrAlterConfigsRequest()
		res := kmsg.AlterConfigsRequestResource{ResourceType: kind, ResourceName: name}
		for _, o := range ops {
			res.Configs = append(res.Configs, kmsg.AlterConfigsRequestResourceConfig{Name: o.key, Value: o.value})
		}
		r.Resources = append(r.Resources, res)
		return r
	}
	look := func(kind kmsg.ConfigResourceType, name string, keys ...string) question {
		r := kmsg.NewPtrDescribeConfigsRequest()
		r.IncludeSynonyms = true
		r.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kind, ResourceName: name, ConfigNames: keys}}
		return question{"altered " + name, 4, r, false}
	}
	twoResources := change(2, "three", op{"flush.ms", 0, ptr("5")})
	twoResources.Resources = append(twoResources.Resources, twoResources.Resources[0])
	validate := change(2, "three", op{"flush.ms", 0, ptr("77")})
	validate.ValidateOnly = true
	return []question{
		{"set a topic's key", everyVersion, change(2, "three", op{"flush.ms", 0, ptr("5")}), false},
		{"set a topic's key, validated only", 1, validate, false},
		{"append to a list", 1, change(2, "three", op{"cleanup.policy", 2, ptr("delete,compact")}), false},
		look(2, "three", "flush.ms", "cleanup.policy"),
		{"subtract from a list and delete", 1, change(2, "three", op{"cleanup.policy", 3, ptr("compact")}, op{"flush.ms", 1, nil}), false},
		{"append to an unset list", 1, change(2, "by-default", op{"cleanup.policy", 2, ptr("compact")}), false},
		look(2, "three", "flush.ms", "cleanup.policy"), look(2, "by-default", "cleanup.policy"),
		{"alter: append to a number", 1, change(2, "three", op{"flush.ms", 2, ptr("5")}), false},
		{"alter: unknown key", 1, change(2, "three", op{"no.such.key", 0, ptr("5")}), false},
		{"alter: not a number", 1, change(2, "three", op{"flush.ms", 0, ptr("x")}), false},
		{"alter: null", 1, change(2, "three", op{"flush.ms", 0, nil}, op{"retention.ms", 0, nil}), false},
		{"alter: key twice", 1, change(2, "three", op{"flush.ms", 0, ptr("5")}, op{"flush.ms", 1, nil}), false},
		{"alter: resource twice", 1, twoResources, false},
		{"alter: unknown topic", 1, change(2, "missing", op{"flush.ms", 0, ptr("5")}), false},
		{"alter: invalid topic", 1, change(2, "a/b", op{"flush.ms", 0, ptr("5")}), false},
		{"alter: unknown type", 1, change(99, "x", op{"flush.ms", 0, ptr("5")}), false},
		{"alter: unknown operation on a topic", 1, change(2, "three", op{"flush.ms", 9, ptr("5")}), false},
		{"alter: unknown operation on a broker", 1, change(4, "1", op{"log.retention.ms", 9, ptr("5")}), false},
		{"set a broker's key", everyVersion, change(4, "1", op{"log.retention.ms", 0, ptr("5000")}), true},
		{"set a key of all brokers", 1, change(4, "", op{"log.retention.ms", 0, ptr("6000")}, op{"message.max.bytes", 0, ptr("2000000")}), true},
		look(4, "1", "log.retention.ms", "message.max.bytes"), look(4, ""), look(2, "manual", "retention.ms", "max.message.bytes"),
		{"delete a broker's key", 1, change(4, "1", op{"log.retention.ms", 1, nil}), true},
		{"delete a key of all brokers", 1, change(4, "", op{"log.retention.ms", 1, nil}, op{"message.max.bytes", 1, nil}), true},
		{"alter: another broker", 1, change(4, "2", op{"log.retention.ms", 0, ptr("5")}), false},
		{"alter: not a broker", 1, change(4, "x", op{"log.retention.ms", 0, ptr("5")}), false},
		{"alter: read-only key", 1, change(4, "1", op{"num.partitions", 0, ptr("5")}), false},
		{"alter: invalid key of a broker", 1, change(4, "1", op{"log.retention.ms", 0, ptr("soon")}), false},
		{"alter: append to a broker's number", 1, change(4, "1", op{"log.retention.ms", 2, ptr("5")}), false},
		{"alter: another broker's logger", 1, change(8, "2", op{"x", 0, ptr("INFO")}), false},
		{"alter: unknown logger", 1, change(8, "1", op{"no.such.logger", 0, ptr("INFO")}), false},
		{"alter: append to a logger", 1, change(8, "1", op{"no.such.logger", 2, ptr("INFO")}), false},
		{"replace a topic's keys", everyVersion, replace(2, "three", op{"flush.ms", 0, ptr("9")}), false},
		look(2, "three", "flush.ms", "cleanup.policy", "retention.ms"),
		{"replace: null", 2, replace(2, "three", op{"flush.ms", 0, nil}), false},
		{"replace: key twice", 2, replace(2, "three", op{"flush.ms", 0, ptr("5")}, op{"flush.ms", 0, ptr("5")}), false},
		{"replace: unknown topic", 2, replace(2, "missing", op{"flush.ms", 0, ptr("5")}), false},
		{"replace: unknown key", 2, replace(2, "three", op{"no.such.key", 0, ptr("5")}), false},
		{"replace: loggers", 2, replace(8, "1", op{"x", 0, ptr("INFO")}), false},
		{"replace: another broker", 2, replace(4, "2", op{"log.retention.ms", 0, ptr("5")}), false},
		{"replace: read-only key", 2, replace(4, "1", op{"num.partitions", 0, ptr("5")}), false},
	}
}

func describeScript() []question {
	cluster := func(operations bool, endpoints int8) *kmsg.DescribeClusterRequest {
		r := kmsg.NewPtrDescribeClusterRequest()
		r.IncludeClusterAuthorizedOperations, r.EndpointType = operations, endpoints
		return r
	}
	partitions := func(limit int32, cursor *kmsg.DescribeTopicPartitionsRequestCursor, names ...string) *kmsg.DescribeTopicPartitionsRequest {
		r := kmsg.NewPtrDescribeTopicPartitionsRequest()
		r.ResponsePartitionLimit, r.Cursor = limit, cursor
		for _, n := range names {
			r.Topics = append(r.Topics, kmsg.DescribeTopicPartitionsRequestTopic{Topic: n})
		}
		return r
	}
	at := func(topic string, partition int32) *kmsg.DescribeTopicPartitionsRequestCursor {
		return &kmsg.DescribeTopicPartitionsRequestCursor{Topic: topic, Partition: partition}
	}
	reassignments := func(topics ...kmsg.ListPartitionReassignmentsRequestTopic) *kmsg.ListPartitionReassignmentsRequest {
		r := kmsg.NewPtrListPartitionReassignmentsRequest()
		r.TimeoutMillis, r.Topics = 10_000, topics
		return r
	}
	return []question{
		{"describe the cluster", everyVersion, cluster(false, 1), false},
		{"describe the cluster with operations", everyVersion, cluster(true, 1), false},
		{"describe controllers", 1, cluster(true, 2), false},
		{"describe nothing", 2, cluster(true, 3), false},
		{"partitions of a topic", 0, partitions(100, nil, "three"), false},
		{"partitions, unsorted and twice", 0, partitions(100, nil, "three", "by-id", "three"), false},
		{"partitions of unknown topics", 0, partitions(100, nil, "missing", "a/b", "three"), false},
		{"partitions, two at a time", 0, partitions(2, nil, "three", "by-id"), false},
		{"partitions, four at a time", 0, partitions(4, nil, "three", "by-id", "unknown"), false},
		{"partitions from a cursor", 0, partitions(2, at("three", 1), "three", "by-id"), false},
		{"partitions from a cursor at the end", 0, partitions(2, at("three", 3), "three", "unknown"), false},
		{"partitions from a cursor behind the end", 0, partitions(2, at("three", 99), "three"), false},
		{"partitions without a limit", 0, partitions(math.MaxInt32, at("three", 1), "three"), false},
		{"partitions, none at a time", 0, partitions(0, nil, "three"), false},
		{"partitions: cursor of another topic", 0, partitions(2, at("manual", 0), "three", "by-id"), false},
		{"partitions: negative cursor", 0, partitions(2, at("three", -1), "three", "by-id"), false},
		{"partitions of all from a topic on", 0, partitions(3, at("manual", 1)), false},
		{"partitions of all from a missing topic on", 0, partitions(3, at("mao", 1)), false},
		{"reassignments of all", 0, reassignments(), false},
		{"reassignments of topics", 0, reassignments(kmsg.ListPartitionReassignmentsRequestTopic{Topic: "three", Partitions: []int32{0, 9}}, kmsg.ListPartitionReassignmentsRequestTopic{Topic: "missing"}), false},
	}
}

// logScript writes records, deletes some and asks for the sizes of the logs.
func logScript() []question {
	produce := func(topic string, values ...string) *kmsg.ProduceRequest {
		b := record.NewBuilder(record.None)
		for _, v := range values {
			b.Add(1_700_000_000_000, []byte("key"), []byte(v))
		}
		batch, err := b.Finish()
		if err != nil {
			panic(err)
		}
		r := kmsg.NewPtrProduceRequest()
		r.Acks, r.TimeoutMillis = -1, 10_000
		r.Topics = []kmsg.ProduceRequestTopic{{Topic: topic, Partitions: []kmsg.ProduceRequestTopicPartition{{Partition: 0, Records: batch}}}}
		return r
	}
	del := func(topic string, offsets ...int64) *kmsg.DeleteRecordsRequest {
		r := kmsg.NewPtrDeleteRecordsRequest()
		r.TimeoutMillis = 10_000
		t := kmsg.DeleteRecordsRequestTopic{Topic: topic}
		for i, o := range offsets {
			t.Partitions = append(t.Partitions, kmsg.DeleteRecordsRequestTopicPartition{Partition: int32(i), Offset: o})
		}
		r.Topics = append(r.Topics, t)
		return r
	}
	list := func(topic string, timestamps ...int64) *kmsg.ListOffsetsRequest {
		r := kmsg.NewPtrListOffsetsRequest()
		r.ReplicaID = -1
		t := kmsg.ListOffsetsRequestTopic{Topic: topic}
		for _, ts := range timestamps {
			t.Partitions = append(t.Partitions, kmsg.ListOffsetsRequestTopicPartition{Partition: 0, CurrentLeaderEpoch: -1, Timestamp: ts})
		}
		r.Topics = append(r.Topics, t)
		return r
	}
	dirs := func(topics ...kmsg.DescribeLogDirsRequestTopic) *kmsg.DescribeLogDirsRequest {
		r := kmsg.NewPtrDescribeLogDirsRequest()
		r.Topics = topics
		return r
	}
	return []question{
		{"create a topic for records", 7, creation(nil, topicOf("records", 2, 1, with("cleanup.policy", ptr("delete")))), false},
		{"create a compacted topic", 7, creation(nil, topicOf("compacted", 1, 1, with("cleanup.policy", ptr("compact")))), false},
		{"create a topic that is compacted and deleted", 7, creation(nil, topicOf("both", 1, 1, with("cleanup.policy", ptr("compact,delete")))), false},
		{"create a topic without a cleanup policy", 7, creation(nil, topicOf("neither", 1, 1, with("cleanup.policy", ptr("")))), true},
		{"produce", 9, produce("records", "a", "b", "c"), false},
		{"produce", 9, produce("records", "d"), false},
		{"produce to a compacted topic", 9, produce("compacted", "a"), false},
		{"produce to compacted and deleted", 9, produce("both", "a"), false},
		{"produce without a cleanup policy", 9, produce("neither", "a"), false},
		{"delete no records", everyVersion, del("records", 0), false},
		{"delete records", everyVersion, del("records", 2), false},
		{"delete records again", 2, del("records", 1), false},
		{"delete records, all", 2, del("records", -1, -1), false},
		{"delete records beyond the end", 2, del("records", 5), false},
		{"delete records: negative", 2, del("records", -2), false},
		{"delete records: unknown partition", 2, del("records", 0, 0, 0), false},
		{"delete records: unknown topic", everyVersion, del("missing", 0), false},
		{"delete records: bad name", 2, del("a/b", 0), false},
		{"delete records: internal", 2, del("__consumer_offsets", 0), false},
		{"delete records: compacted", 2, del("compacted", 0), false},
		{"delete records: compacted and deleted", 2, del("both", 1), false},
		{"delete records: no cleanup policy", 2, del("neither", 1), false},
		{"delete records of nothing", 2, kmsg.NewPtrDeleteRecordsRequest(), false},
		{"earliest after deletion", 7, list("records", -2), false},
		{"latest after deletion", 7, list("records", -1), false},
		{"newest after deletion", 7, list("records", -3), false},
		{"by time after deletion", 7, list("records", 1_600_000_000_000), false},
		{"log dirs of a topic", everyVersion, dirs(kmsg.DescribeLogDirsRequestTopic{Topic: "records", Partitions: []int32{1, 0, 7}}), false},
		{"log dirs of topics", 5, dirs(kmsg.DescribeLogDirsRequestTopic{Topic: "compacted", Partitions: []int32{0}}, kmsg.DescribeLogDirsRequestTopic{Topic: "missing", Partitions: []int32{0}}), false},
		{"log dirs of a missing topic", 5, dirs(kmsg.DescribeLogDirsRequestTopic{Topic: "missing", Partitions: []int32{0}}), false},
		{"log dirs of nothing", 5, dirs([]kmsg.DescribeLogDirsRequestTopic{}...), false},
		{"log dirs of everything", 5, kmsg.NewPtrDescribeLogDirsRequest(), false},
	}
}

func deleteScript() []question {
	byName := func(names ...string) *kmsg.DeleteTopicsRequest {
		r := kmsg.NewPtrDeleteTopicsRequest()
		r.TimeoutMillis, r.TopicNames = 10_000, names
		for _, n := range names {
			r.Topics = append(r.Topics, kmsg.DeleteTopicsRequestTopic{Topic: &n})
		}
		return r
	}
	other := func(topics ...kmsg.DeleteTopicsRequestTopic) *kmsg.DeleteTopicsRequest {
		r := kmsg.NewPtrDeleteTopicsRequest()
		r.TimeoutMillis, r.Topics = 10_000, topics
		return r
	}
	return []question{
		{"delete unknown topics", everyVersion, byName("missing", "a/b"), false},
		{"delete twice in one request", 6, byName("once", "once"), false},
		{"delete a topic", 6, byName("once"), false},
		{"delete a topic again", 5, byName("once"), false},
		{"delete by an unknown id", 6, other(kmsg.DeleteTopicsRequestTopic{TopicID: [16]byte{9}}), false},
		{"delete by name and id", 6, other(kmsg.DeleteTopicsRequestTopic{Topic: ptr("three"), TopicID: [16]byte{9}}), false},
		{"delete by nothing", 6, other(kmsg.DeleteTopicsRequestTopic{}), false},
		{"delete by an id twice", 6, other(kmsg.DeleteTopicsRequestTopic{TopicID: [16]byte{9}}, kmsg.DeleteTopicsRequestTopic{TopicID: [16]byte{9}}), false},
	}
}

// featuresScript is the last: what it switches off is off.
func featuresScript() []question {
	update := func(validateOnly bool, us ...kmsg.UpdateFeaturesRequestFeatureUpdate) *kmsg.UpdateFeaturesRequest {
		r := kmsg.NewPtrUpdateFeaturesRequest()
		r.FeatureUpdates, r.ValidateOnly = us, validateOnly
		return r
	}
	to := func(name string, level int16, kind int8) kmsg.UpdateFeaturesRequestFeatureUpdate {
		return kmsg.UpdateFeaturesRequestFeatureUpdate{Feature: name, MaxVersionLevel: level, UpgradeType: kind}
	}
	allowed := to("group.version", 0, 0)
	allowed.AllowDowngrade = true
	beat := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	beat.Group, beat.MemberID, beat.RebalanceTimeoutMillis, beat.SubscribedTopicNames, beat.Topics = "next", "m", 1000, []string{"three"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	describe := kmsg.NewPtrConsumerGroupDescribeRequest()
	describe.Groups = []string{"next", ""}
	return []question{
		{"features: none", everyVersion, update(false), false},
		{"features: unknown", everyVersion, update(false, to("no.such.version", 1, 1)), false},
		{"features: unknown, off", 2, update(false, to("no.such.version", 0, 1)), false},
		{"features: as it is", everyVersion, update(false, to("group.version", 1, 1)), false},
		{"features: too high", 2, update(false, to("group.version", 2, 1)), false},
		{"features: negative", 2, update(false, to("group.version", -1, 3)), false},
		{"features: of no kind", 2, update(false, to("group.version", 0, 0)), false},
		{"features: of an unknown kind", 2, update(false, to("group.version", 0, 4)), false},
		{"features: lower by an upgrade", 2, update(false, to("group.version", 0, 1)), false},
		{"features: lower in version 0", 0, update(false, allowed), false},
		{"features: metadata, lower", 2, update(false, to("metadata.version", 29, 2)), false},
		{"features: metadata, lower, unsafe", 2, update(false, to("metadata.version", 7, 3)), false},
		{"features: metadata, too low", 2, update(false, to("metadata.version", 6, 3)), false},
		{"features: metadata, as it is", 2, update(false, to("metadata.version", 30, 1)), false},
		{"features: good and bad", 1, update(false, to("group.version", 0, 2), to("metadata.version", 31, 1)), false},
		{"features: lower, validated only", 1, update(true, to("group.version", 0, 2)), false},
		{"features: lower", 1, update(false, to("group.version", 0, 2)), true},
		{"features: as low as it is", 2, update(false, to("group.version", 0, 2)), false},
		{"features: higher by a downgrade", 2, update(false, to("group.version", 1, 3)), false},
		{"heartbeat without the feature", everyVersion, beat, false},
		{"description without the feature", everyVersion, describe, false},
		{"features: higher", 2, update(false, to("group.version", 1, 1)), true},
	}
}

// tokensScript asks for delegation tokens without having proved a name.
func tokensScript() []question {
	return []question{
		{"create a token", everyVersion, kmsg.NewPtrCreateDelegationTokenRequest(), false},
		{"renew a token", everyVersion, kmsg.NewPtrRenewDelegationTokenRequest(), false},
		{"expire a token", everyVersion, kmsg.NewPtrExpireDelegationTokenRequest(), false},
		{"describe tokens", everyVersion, kmsg.NewPtrDescribeDelegationTokenRequest(), false},
	}
}
