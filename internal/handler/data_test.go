package handler

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/network"
	"moldau/internal/record"
	"moldau/internal/wire"
)

// withTopic creates a topic and waits until its partitions are there.
func (b *broker) withTopic(t testing.TB, name string, partitions int32, configs ...string) wire.UUID {
	t.Helper()
	set := map[string]string{}
	for _, c := range configs {
		k, v, _ := strings.Cut(c, "=")
		set[k] = v
	}
	r := b.o.Cluster.CreateTopics(t.Context(), []controller.NewTopic{{Name: name, Partitions: partitions, ReplicationFactor: 1, Configs: set}}, false)
	if r[0].Code != wire.None {
		t.Fatalf("create %s: %v %s", name, r[0].Code, r[0].Message)
	}
	b.publish()
	return b.o.Cluster.Image().Topic(name).ID
}

func batchOf(t testing.TB, values ...string) record.Batch {
	t.Helper()
	b := record.NewBuilder(record.None)
	for _, v := range values {
		b.Add(time.Now().UnixMilli(), nil, []byte(v))
	}
	out, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func produceRequest(version int16, topic string, id wire.UUID, acks int16, records ...[]byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = version, acks, 1000
	rt := kmsg.NewProduceRequestTopic()
	if version >= 13 {
		rt.TopicID = id
	} else {
		rt.Topic = topic
	}
	for i, r := range records {
		rp := kmsg.NewProduceRequestTopicPartition()
		rp.Partition, rp.Records = int32(i), r
		rt.Partitions = append(rt.Partitions, rp)
	}
	req.Topics = append(req.Topics, rt)
	return req
}

func (b *broker) produce(t *testing.T, req *kmsg.ProduceRequest) []kmsg.ProduceResponseTopicPartition {
	t.Helper()
	resp := parseResponse(t, req, req.Version, b.exchange(t, frameOf(req))).(*kmsg.ProduceResponse)
	return resp.Topics[0].Partitions
}

func fetchRequest(version int16, topic string, id wire.UUID, offsets ...int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.Version, req.MinBytes, req.MaxBytes, req.MaxWaitMillis = version, 1, 1<<20, 0
	req.SessionEpoch = -1
	rt := kmsg.NewFetchRequestTopic()
	if version >= 13 {
		rt.TopicID = id
	} else {
		rt.Topic = topic
	}
	for i, o := range offsets {
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes = int32(i), o, 1<<20
		rt.Partitions = append(rt.Partitions, rp)
	}
	if len(offsets) > 0 {
		req.Topics = append(req.Topics, rt)
	}
	return req
}

// fetch serves a fetch whose records may be ranges of files.
func (b *broker) fetch(t testing.TB, req *kmsg.FetchRequest) *kmsg.FetchResponse {
	t.Helper()
	call, err := b.Start(t.Context(), new(network.Conn), frameOf(req), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer call.Release()
	var out []byte
	for _, p := range call.Wait(t.Context()).Pieces {
		if p.Region.File == nil {
			out = append(out, p.Bytes...)
			continue
		}
		buf := make([]byte, p.Region.Len)
		if _, err := p.Region.File.ReadAt(buf, p.Region.Off); err != nil {
			t.Fatal(err)
		}
		out = append(out, buf...)
	}
	return parseResponse(t, req, req.Version, out[4:]).(*kmsg.FetchResponse)
}

func TestProduceAndFetchInEveryVersion(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 2)
	offset := int64(0)
	for version := int16(3); version <= 13; version++ {
		parts := b.produce(t, produceRequest(version, "t", id, -1, batchOf(t, "a", "b"), batchOf(t, "c")))
		for i, p := range parts {
			if p.ErrorCode != 0 || p.BaseOffset != offset*int64(2-i) || p.LogAppendTime != -1 {
				t.Fatalf("v%d partition %d: %+v", version, i, p)
			}
		}
		offset++
	}
	for version := int16(4); version <= 18; version++ {
		resp := b.fetch(t, fetchRequest(version, "t", id, 5, offset))
		p0, p1 := resp.Topics[0].Partitions[0], resp.Topics[0].Partitions[1]
		if p0.ErrorCode != 0 || p0.HighWatermark != 2*offset || len(p0.RecordBatches) == 0 || p0.AbortedTransactions != nil {
			t.Fatalf("v%d: %+v", version, p0)
		}
		first, _, err := record.Parse(p0.RecordBatches)
		if err != nil || first.BaseOffset() != 4 || first.LastOffset() != 5 {
			t.Fatalf("v%d: an offset in the middle of a batch gives the batch at %d (%v)", version, first.BaseOffset(), err)
		}
		if p1.ErrorCode != 0 || len(p1.RecordBatches) != 0 {
			t.Fatalf("v%d: at the log end: %+v", version, p1)
		}
	}
}

func TestProduceRefuses(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 1)
	b.withTopic(t, "compacted", 1, "cleanup.policy=compact")
	b.withTopic(t, "__consumer_offsets", 1)
	good := batchOf(t, "v")
	damaged := append([]byte{}, good...)
	damaged[len(damaged)-1] ^= 1
	txn := record.NewBuilder(record.None)
	txn.ProducerID, txn.ProducerEpoch, txn.BaseSequence, txn.Transactional = 1, 0, 0, true
	txn.Add(1, nil, nil)
	transactional, err := txn.Finish()
	if err != nil {
		t.Fatal(err)
	}
	zstd := record.NewBuilder(record.Zstd)
	zstd.Add(time.Now().UnixMilli(), nil, []byte("v"))
	compressed, err := zstd.Finish()
	if err != nil {
		t.Fatal(err)
	}
	future := record.NewBuilder(record.None)
	future.Add(time.Now().Add(2*time.Hour).UnixMilli(), nil, nil)
	tomorrow, err := future.Finish()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		req     *kmsg.ProduceRequest
		want    wire.Code
		message string
	}{
		{"acks", produceRequest(9, "t", id, 2, good), wire.InvalidRequiredAcks, "acks is 2"},
		{"unknown topic", produceRequest(9, "none", id, 1, good), wire.UnknownTopicOrPartition, "none"},
		{"unknown id", produceRequest(13, "", wire.UUID{9}, 1, good), wire.UnknownTopicID, ""},
		{"unknown partition", produceRequest(9, "t", id, 1, good, good), wire.UnknownTopicOrPartition, "no 1"},
		{"no batch", produceRequest(9, "t", id, 1, nil), wire.InvalidRecord, "no batch"},
		{"two batches", produceRequest(9, "t", id, 1, append(append([]byte{}, good...), good...)), wire.InvalidRecord, "more than one"},
		{"bad crc", produceRequest(9, "t", id, 1, damaged), wire.CorruptMessage, "crc"},
		{"internal topic", produceRequest(9, "__consumer_offsets", id, 1, good), wire.InvalidTopicException, ""},
		{"null key on a compacted topic", produceRequest(9, "compacted", id, 1, good), wire.InvalidRecord, "key"},
		{"transactional batch", produceRequest(9, "t", id, 1, transactional), wire.TransactionalIDAuthorizationFailed, "not supported yet"},
		{"zstd before version 7", produceRequest(6, "t", id, 1, compressed), wire.UnsupportedCompressionType, ""},
		{"future timestamp", produceRequest(9, "t", id, 1, tomorrow), wire.InvalidTimestamp, ""},
	} {
		parts := b.produce(t, c.req)
		last := parts[len(parts)-1]
		if wire.Code(last.ErrorCode) != c.want || last.BaseOffset != -1 {
			t.Errorf("%s: %v, expected %v", c.name, wire.Code(last.ErrorCode), c.want)
		}
		if c.req.Version >= 8 && (last.ErrorMessage == nil || !strings.Contains(*last.ErrorMessage, c.message)) {
			t.Errorf("%s: message %v, expected %q in it", c.name, last.ErrorMessage, c.message)
		}
	}
	if p, _ := b.o.Partitions.Lookup("t", wire.UUID{}, 0); p.LogEnd() != 1 {
		t.Errorf("%d records were appended, expected only the one beside an unknown partition", p.LogEnd())
	}
	// acks=0: an error closes the connection, and nothing is answered.
	for records, closes := range map[string]bool{string(good): false, string(damaged): true} {
		call, err := b.Start(t.Context(), b.conn, frameOf(produceRequest(9, "t", id, 0, []byte(records))), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if r := call.Wait(t.Context()); !r.None || r.CloseAfter != closes {
			t.Errorf("acks=0: %+v, expected to close: %v", r, closes)
		}
		call.Release()
	}
}

func TestFetchLimits(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 3)
	big := strings.Repeat("x", 3000)
	b.produce(t, produceRequest(9, "t", id, 1, batchOf(t, big), batchOf(t, big), batchOf(t, big)))
	sizes := func(req *kmsg.FetchRequest) string {
		var out []string
		for _, p := range b.fetch(t, req).Topics[0].Partitions {
			out = append(out, fmt.Sprint(len(p.RecordBatches)/1000, " ", wire.Code(p.ErrorCode).String()))
		}
		return strings.Join(out, ", ")
	}
	req := fetchRequest(12, "t", id, 0, 0, 0)
	req.MaxBytes = 10
	if got := sizes(req); got != "3 NONE, 0 NONE, 0 NONE" {
		t.Errorf("max bytes 10: %s", got)
	}
	req.MaxBytes = 7000
	if got := sizes(req); got != "3 NONE, 3 NONE, 0 NONE" {
		t.Errorf("max bytes 7000: %s", got)
	}
	req = fetchRequest(12, "t", id, 1, 0, 0)
	for i := range req.Topics[0].Partitions {
		req.Topics[0].Partitions[i].PartitionMaxBytes = 5
	}
	if got := sizes(req); got != "0 NONE, 3 NONE, 0 NONE" {
		t.Errorf("partition max bytes 5: %s", got)
	}
	if got := sizes(fetchRequest(12, "t", id, 2, 0, -1)); got != "0 OFFSET_OUT_OF_RANGE, 3 NONE, 0 OFFSET_OUT_OF_RANGE" {
		t.Errorf("offsets out of range: %s", got)
	}
	req = fetchRequest(12, "t", id, 0)
	req.Topics[0].Partitions[0].CurrentLeaderEpoch = 99
	if got := sizes(req); got != "0 UNKNOWN_LEADER_EPOCH" {
		t.Errorf("future epoch: %s", got)
	}
	req = fetchRequest(12, "t", id, 0)
	req.ReplicaID = 5
	if got := sizes(req); got != "0 NOT_LEADER_OR_FOLLOWER" {
		t.Errorf("a replica from outside: %s", got)
	}
	if got := sizes(fetchRequest(13, "", wire.UUID{5}, 0)); got != "0 UNKNOWN_TOPIC_ID" {
		t.Errorf("unknown id: %s", got)
	}
}

// TestFetchWaits: a fetch parks until there are enough bytes, or its time is over.
func TestFetchWaits(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 1)
	req := fetchRequest(12, "t", id, 0)
	req.MaxWaitMillis, req.MinBytes = 60_000, 100
	answered := make(chan *kmsg.FetchResponse)
	go func() { answered <- b.fetch(t, req) }()
	b.produce(t, produceRequest(9, "t", id, 1, batchOf(t, "small")))
	select {
	case r := <-answered:
		t.Fatalf("answered with %d bytes", len(r.Topics[0].Partitions[0].RecordBatches))
	case <-time.After(5 * time.Millisecond):
	}
	b.produce(t, produceRequest(9, "t", id, 1, batchOf(t, strings.Repeat("x", 100))))
	if r := <-answered; len(r.Topics[0].Partitions[0].RecordBatches) < 100 {
		t.Fatal("answered with too little")
	}
	req.Topics[0].Partitions[0].FetchOffset = 2
	req.MaxWaitMillis = 1
	if r := b.fetch(t, req); len(r.Topics[0].Partitions[0].RecordBatches) != 0 || r.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatal("nothing was expected")
	}
}

// TestFetchSessions follows one incremental session (KIP-227).
func TestFetchSessions(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 3)
	req := fetchRequest(13, "t", id, 0, 0, 0)
	req.SessionEpoch = 0
	first := b.fetch(t, req)
	if first.SessionID == 0 || len(first.Topics[0].Partitions) != 3 {
		t.Fatalf("full fetch: %+v", first)
	}
	epoch := int32(0)
	next := func(change func(*kmsg.FetchRequest)) *kmsg.FetchResponse {
		epoch++
		req := fetchRequest(13, "t", id)
		req.SessionID, req.SessionEpoch = first.SessionID, epoch
		if change != nil {
			change(req)
		}
		return b.fetch(t, req)
	}
	if r := next(nil); r.ErrorCode != 0 || len(r.Topics) != 0 {
		t.Fatalf("nothing changed and the answer is %+v", r)
	}
	b.produce(t, produceRequest(13, "t", id, 1, nil, batchOf(t, "v")))
	r := next(nil)
	if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 || r.Topics[0].Partitions[0].Partition != 1 {
		t.Fatalf("one partition changed and the answer is %+v", r)
	}
	r = next(func(req *kmsg.FetchRequest) {
		f := kmsg.NewFetchRequestForgottenTopic()
		f.TopicID, f.Partitions = id, []int32{1}
		req.ForgottenTopics = append(req.ForgottenTopics, f)
	})
	if len(r.Topics) != 0 {
		t.Fatalf("a forgotten partition is answered: %+v", r)
	}
	epoch += 5
	if r := next(nil); wire.Code(r.ErrorCode) != wire.InvalidFetchSessionEpoch {
		t.Fatalf("wrong epoch: %v", wire.Code(r.ErrorCode))
	}
	wrong := fetchRequest(13, "t", id)
	wrong.SessionID, wrong.SessionEpoch = first.SessionID+1, 1
	if r := b.fetch(t, wrong); wire.Code(r.ErrorCode) != wire.FetchSessionIDNotFound {
		t.Fatalf("wrong id: %v", wire.Code(r.ErrorCode))
	}
	end := fetchRequest(13, "t", id, 0)
	end.SessionID = first.SessionID
	if r := b.fetch(t, end); r.SessionID != 0 || len(r.Topics) != 1 {
		t.Fatalf("session end: %+v", r)
	}
}

func TestListOffsets(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 2)
	for i := range 3 {
		builder := record.NewBuilder(record.None)
		builder.Add(int64(1000*(i+1)), nil, []byte("v"))
		out, err := builder.Finish()
		if err != nil {
			t.Fatal(err)
		}
		b.produce(t, produceRequest(9, "t", id, 1, out))
	}
	ask := func(version int16, partition int32, timestamp int64) string {
		req := kmsg.NewPtrListOffsetsRequest()
		req.Version, req.ReplicaID = version, -1
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = "t"
		rp := kmsg.NewListOffsetsRequestTopicPartition()
		rp.Partition, rp.Timestamp = partition, timestamp
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		p := parseResponse(t, req, version, b.exchange(t, frameOf(req))).(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0]
		return fmt.Sprint(p.Offset, " ", p.Timestamp, " ", wire.Code(p.ErrorCode).String())
	}
	for _, c := range []struct {
		version   int16
		partition int32
		timestamp int64
		want      string
	}{
		{1, 0, -1, "3 -1 NONE"}, {11, 0, -1, "3 -1 NONE"}, {11, 0, -2, "0 -1 NONE"},
		{11, 0, -3, "2 3000 NONE"}, {6, 0, -3, "-1 -1 UNSUPPORTED_VERSION"},
		{8, 0, -4, "0 -1 NONE"}, {7, 0, -4, "-1 -1 UNSUPPORTED_VERSION"},
		{9, 0, -5, "-1 -1 NONE"}, {11, 0, -6, "-1 -1 NONE"}, {10, 0, -6, "-1 -1 UNSUPPORTED_VERSION"},
		{11, 0, -7, "-1 -1 UNSUPPORTED_VERSION"},
		{11, 0, 1001, "1 2000 NONE"}, {11, 0, 0, "0 1000 NONE"}, {11, 0, 3001, "-1 -1 NONE"},
		{11, 1, -3, "-1 -1 NONE"}, {11, 1, -2, "0 -1 NONE"}, {11, 1, 5, "-1 -1 NONE"},
		{11, 7, -1, "-1 -1 UNKNOWN_TOPIC_OR_PARTITION"},
	} {
		if got := ask(c.version, c.partition, c.timestamp); got != c.want {
			t.Errorf("v%d partition %d timestamp %d: %s, expected %s", c.version, c.partition, c.timestamp, got, c.want)
		}
	}
}

func TestInitProducerID(t *testing.T) {
	b := newBroker(t)
	seen := map[int64]bool{}
	for version := int16(0); version <= 5; version++ {
		for _, c := range []struct {
			id   *string
			want wire.Code
		}{{nil, wire.None}, {kmsg.StringPtr(""), wire.InvalidRequest}, {kmsg.StringPtr("tx"), wire.TransactionalIDAuthorizationFailed}} {
			req := kmsg.NewPtrInitProducerIDRequest()
			req.Version, req.TransactionalID, req.TransactionTimeoutMillis = version, c.id, 1000
			resp := parseResponse(t, req, version, b.exchange(t, frameOf(req))).(*kmsg.InitProducerIDResponse)
			if wire.Code(resp.ErrorCode) != c.want {
				t.Errorf("v%d: %v, expected %v", version, wire.Code(resp.ErrorCode), c.want)
			}
			if c.want == wire.None && (seen[resp.ProducerID] || resp.ProducerID < 0 || resp.ProducerEpoch != 0) {
				t.Errorf("v%d: producer id %d epoch %d is not a fresh one", version, resp.ProducerID, resp.ProducerEpoch)
			}
			seen[resp.ProducerID] = c.want == wire.None
		}
	}
}

func TestOffsetForLeaderEpoch(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 1)
	b.produce(t, produceRequest(9, "t", id, 1, batchOf(t, "a", "b")))
	ask := func(epoch, current int32) string {
		req := kmsg.NewPtrOffsetForLeaderEpochRequest()
		req.Version, req.ReplicaID = 4, -1
		rt := kmsg.NewOffsetForLeaderEpochRequestTopic()
		rt.Topic = "t"
		rp := kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
		rp.LeaderEpoch, rp.CurrentLeaderEpoch = epoch, current
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		p := parseResponse(t, req, 4, b.exchange(t, frameOf(req))).(*kmsg.OffsetForLeaderEpochResponse).Topics[0].Partitions[0]
		return fmt.Sprint(p.LeaderEpoch, " ", p.EndOffset, " ", wire.Code(p.ErrorCode).String())
	}
	_, current := func() (int32, int32) { p, _ := b.o.Partitions.Lookup("t", wire.UUID{}, 0); return p.Leader() }()
	for _, c := range []struct {
		epoch, current int32
		want           string
	}{
		{current, -1, fmt.Sprint(current, " 2 NONE")},
		{current, current, fmt.Sprint(current, " 2 NONE")},
		{current + 5, -1, "-1 -1 NONE"},
		{current, current + 1, "-1 -1 UNKNOWN_LEADER_EPOCH"},
	} {
		if got := ask(c.epoch, c.current); got != c.want {
			t.Errorf("epoch %d current %d: %s, expected %s", c.epoch, c.current, got, c.want)
		}
	}
}
