package mission

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/record"
)

// TestLog: a partition is a log of segments, a record's id is its offset, and a reader from the beginning and one at the end
// read the same log at once.
func TestLog(t *testing.T) {
	p := server(t)
	p.create("log", 1, map[string]string{"segment.bytes": "1048576"})
	tail := p.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"log": {0: kgo.NewOffset().At(0)}}))
	c := p.client(kgo.DefaultProduceTopic("log"), kgo.ProducerBatchCompression(kgo.NoCompression()))
	var sent []string
	var records []*kgo.Record
	for i := range 300 {
		sent = append(sent, fmt.Sprintf("%d %s", i, strings.Repeat("x", 10_000)))
		records = append(records, kgo.StringRecord(sent[i]))
	}
	for i, r := range c.ProduceSync(p.ctx, records...) {
		if r.Err != nil || r.Record.Offset != int64(i) {
			t.Fatalf("record %d got offset %d, %v", i, r.Record.Offset, r.Err)
		}
	}
	segments, err := filepath.Glob(filepath.Join(p.dir, "log", "log-0", "*.log"))
	if err != nil || len(segments) < 3 { // more, where the client makes small batches
		t.Errorf("3 MB are in %v, %v", segments, err)
	}
	if got := p.read("log", 0, 0, len(sent)); !slices.Equal(got, sent) {
		t.Error("a reader from the beginning reads something else")
	}
	if got := p.read("log", 0, 250, 50); !slices.Equal(got, sent[250:]) {
		t.Error("a reader from the middle reads something else")
	}
	for seen := 0; seen < len(sent); {
		fs := tail.PollFetches(p.ctx)
		must(t, fs.Err())
		fs.EachRecord(func(r *kgo.Record) {
			if string(r.Value) != sent[r.Offset] || r.Offset != int64(seen) {
				t.Errorf("the reader that was there first reads %.10q at offset %d", r.Value, r.Offset)
			}
			seen++
		})
	}
}

// TestDurability: what was acknowledged is there after kill -9, records and metadata, and a batch whose checksum is wrong is not let in.
func TestDurability(t *testing.T) {
	p := server(t)
	id := p.create("durable", 3, map[string]string{"retention.ms": "12345678"})
	c := p.client(kgo.DefaultProduceTopic("durable"), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for i := range 30 {
		must(t, c.ProduceSync(p.ctx, &kgo.Record{Partition: int32(i % 3), Value: fmt.Append(nil, i)}).FirstErr())
	}
	p.kill()
	p.start()
	for partition := range int32(3) {
		for i, v := range p.read("durable", partition, 0, 10) {
			if v != fmt.Sprint(3*i+int(partition)) {
				t.Errorf("partition %d offset %d: %q", partition, i, v)
			}
		}
	}
	adm := kadm.NewClient(p.client())
	list, err := adm.ListTopics(p.ctx, "durable")
	must(t, err)
	if d := list["durable"]; d.ID != id || len(d.Partitions) != 3 {
		t.Errorf("the topic is now %v with %d partitions, was %v with 3", d.ID, len(d.Partitions), id)
	}
	configs, err := adm.DescribeTopicConfigs(p.ctx, "durable")
	must(t, err)
	if !slices.ContainsFunc(configs[0].Configs, func(c kadm.Config) bool { return c.Key == "retention.ms" && c.MaybeValue() == "12345678" }) {
		t.Error("the configuration is gone")
	}

	builder := record.NewBuilder(record.None)
	builder.Add(1000, nil, []byte("damaged"))
	batch, err := builder.Finish()
	must(t, err)
	batch[len(batch)-2] ^= 1
	if code := produceRaw(t, p, "durable", -1, batch); code != kerr.CorruptMessage.Code {
		t.Errorf("a batch with a wrong checksum: %v", kerr.ErrorForCode(code))
	}
}

// produceRaw sends one batch to partition 0 as it is: a client would not send what must be refused.
func produceRaw(t *testing.T, p *process, topic string, acks int16, batch []byte) int16 {
	t.Helper()
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 9, acks, 30_000
	rt := kmsg.NewProduceRequestTopic()
	rt.Topic = topic
	rp := kmsg.NewProduceRequestTopicPartition()
	rp.Records = batch
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)
	conn, err := net.Dial("tcp", p.addr)
	must(t, err)
	defer conn.Close()
	_, err = conn.Write(kmsg.NewRequestFormatter().AppendRequest(nil, req, 1))
	must(t, err)
	var size [4]byte
	_, err = io.ReadFull(conn, size[:])
	must(t, err)
	answer := make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err = io.ReadFull(conn, answer)
	must(t, err)
	got := req.ResponseKind().(*kmsg.ProduceResponse)
	must(t, got.ReadFrom(answer[5:])) // behind the correlation id and an empty set of tags
	return got.Topics[0].Partitions[0].ErrorCode
}

// TestProduce: the three acks, the partitioner's choice is kept, and what must not be acknowledged is refused.
func TestProduce(t *testing.T) {
	p := server(t)
	p.create("produce", 4, nil)
	p.create("strict", 1, map[string]string{"min.insync.replicas": "2"})
	for i, acks := range []kgo.Acks{kgo.NoAck(), kgo.LeaderAck(), kgo.AllISRAcks()} {
		c := p.client(kgo.DefaultProduceTopic("produce"), kgo.RequiredAcks(acks), kgo.DisableIdempotentWrite(), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		must(t, c.ProduceSync(p.ctx, kgo.StringRecord(fmt.Sprint(i))).FirstErr())
		c.Close()
	}
	got := p.read("produce", 0, 0, 3)
	slices.Sort(got) // acks=0 waits for nobody
	if !slices.Equal(got, []string{"0", "1", "2"}) {
		t.Errorf("partition 0 holds %q", got)
	}
	c := p.client(kgo.DefaultProduceTopic("produce")) // by hash of the key
	var first *kgo.Record
	for range 5 {
		r := kgo.KeyStringRecord("the same key", "v")
		must(t, c.ProduceSync(p.ctx, r).FirstErr())
		if first == nil {
			first = r
		}
		if r.Partition != first.Partition {
			t.Errorf("one key is in partitions %d and %d", first.Partition, r.Partition)
		}
	}
	builder := record.NewBuilder(record.None)
	builder.Add(1000, nil, []byte("v"))
	batch, err := builder.Finish()
	must(t, err)
	if code := produceRaw(t, p, "produce", 2, slices.Clone(batch)); code != kerr.InvalidRequiredAcks.Code {
		t.Errorf("acks=2: %v", kerr.ErrorForCode(code))
	}
	if code := produceRaw(t, p, "absent", -1, slices.Clone(batch)); code != kerr.UnknownTopicOrPartition.Code {
		t.Errorf("an unknown topic: %v", kerr.ErrorForCode(code))
	}
	// One replica can never be two in sync; the minimum is held to the number of replicas, as in Kafka, so that this is written.
	if code := produceRaw(t, p, "strict", -1, slices.Clone(batch)); code != 0 {
		t.Errorf("min.insync.replicas above the number of replicas: %v", kerr.ErrorForCode(code))
	}
}

// TestFetch: by partition and offset; an offset or a leader epoch that is not there is an error; and a reader at the end waits for what comes.
func TestFetch(t *testing.T) {
	p := server(t)
	p.create("fetch", 1, nil)
	c := p.client(kgo.DefaultProduceTopic("fetch"))
	must(t, c.ProduceSync(p.ctx, kgo.StringRecord("0"), kgo.StringRecord("1")).FirstErr())
	fetch := func(offset int64, epoch int32, waitMs int32) *kmsg.FetchResponseTopicPartition {
		t.Helper()
		req := kmsg.NewPtrFetchRequest()
		req.MaxWaitMillis, req.MinBytes, req.MaxBytes = waitMs, 1, 1<<20
		rt := kmsg.NewFetchRequestTopic()
		rt.Topic = "fetch"
		rp := kmsg.NewFetchRequestTopicPartition()
		rp.FetchOffset, rp.CurrentLeaderEpoch, rp.PartitionMaxBytes = offset, epoch, 1<<20
		rt.Partitions = append(rt.Partitions, rp)
		req.Topics = append(req.Topics, rt)
		c := p.client(kgo.MaxVersions(upTo(int16(kmsg.Fetch), 12))) // the newest versions name topics by id
		defer c.Close()
		got, err := c.SeedBrokers()[0].Request(p.ctx, req)
		if err != nil { // no Fatal: one call is in a goroutine of its own
			t.Error(err)
			return &kmsg.FetchResponseTopicPartition{ErrorCode: -1}
		}
		return &got.(*kmsg.FetchResponse).Topics[0].Partitions[0]
	}
	if r := fetch(0, -1, 0); r.ErrorCode != 0 || len(r.RecordBatches) == 0 || r.HighWatermark != 2 {
		t.Errorf("offset 0: %v, %d bytes, high watermark %d", kerr.ErrorForCode(r.ErrorCode), len(r.RecordBatches), r.HighWatermark)
	}
	for _, offset := range []int64{-7, 3} {
		if r := fetch(offset, -1, 0); r.ErrorCode != kerr.OffsetOutOfRange.Code {
			t.Errorf("offset %d: %v", offset, kerr.ErrorForCode(r.ErrorCode))
		}
	}
	if r := fetch(0, 99, 0); r.ErrorCode != kerr.UnknownLeaderEpoch.Code {
		t.Errorf("an epoch to come: %v", kerr.ErrorForCode(r.ErrorCode))
	}
	p.stop()
	p.start() // a new leader epoch
	if r := fetch(0, 0, 0); r.ErrorCode != kerr.FencedLeaderEpoch.Code {
		t.Errorf("an epoch that is over: %v", kerr.ErrorForCode(r.ErrorCode))
	}
	waiting := make(chan *kmsg.FetchResponseTopicPartition, 1)
	go func() { waiting <- fetch(2, -1, int32(patience.Milliseconds())) }()
	must(t, p.client(kgo.DefaultProduceTopic("fetch")).ProduceSync(p.ctx, kgo.StringRecord("2")).FirstErr())
	if r := <-waiting; r.ErrorCode != 0 || len(r.RecordBatches) == 0 {
		t.Errorf("a fetch that waited at the end: %v, %d bytes", kerr.ErrorForCode(r.ErrorCode), len(r.RecordBatches))
	}
}

// TestConsumersRewind: consumers read at will and again; nothing is deleted because somebody has read it.
func TestConsumersRewind(t *testing.T) {
	p := server(t)
	p.create("rewind", 1, nil)
	c := p.client(kgo.DefaultProduceTopic("rewind"))
	var sent []string
	for i := range 20 {
		sent = append(sent, fmt.Sprint(i))
		must(t, c.ProduceSync(p.ctx, kgo.StringRecord(sent[i])).FirstErr())
	}
	reader := p.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"rewind": {0: kgo.NewOffset().At(0)}}))
	for _, from := range []int64{0, 0, 12, 3} {
		reader.SetOffsets(map[string]map[int32]kgo.EpochOffset{"rewind": {0: {Epoch: -1, Offset: from}}})
		var got []string
		for len(got) < len(sent)-int(from) {
			fs := reader.PollFetches(p.ctx)
			must(t, fs.Err())
			fs.EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
		}
		if !slices.Equal(got, sent[from:]) {
			t.Errorf("from %d on: %q", from, got)
		}
	}
}

// TestCoordination: one process is a whole cluster; after a stop and a start it is the same cluster with the same topics, and
// `moldau` tells so.
func TestCoordination(t *testing.T) {
	p := server(t)
	id := p.create("orders", 3, nil)
	describe := func() (cluster string, topic kadm.TopicID, epoch int32) {
		t.Helper()
		m, err := kadm.NewClient(p.client()).Metadata(p.ctx, "orders")
		must(t, err)
		if len(m.Brokers) != 1 || m.Controller != 1 || m.Brokers[0].NodeID != 1 {
			t.Errorf("brokers are %v, controller is %d", m.Brokers, m.Controller)
		}
		d := m.Topics["orders"]
		for _, q := range d.Partitions {
			if q.Leader != 1 || !slices.Equal(q.ISR, []int32{1}) {
				t.Errorf("partition %d: leader %d, in sync %v", q.Partition, q.Leader, q.ISR)
			}
		}
		return m.Cluster, d.ID, d.Partitions[0].LeaderEpoch
	}
	cluster, topic, epoch := describe()
	if topic != id || cluster == "" {
		t.Errorf("cluster %q, topic id %v, created as %v", cluster, topic, id)
	}
	p.stop()
	p.start()
	clusterNow, topicNow, epochNow := describe()
	if clusterNow != cluster || topicNow != topic {
		t.Errorf("cluster %s and topic %v are %s and %v after a restart", cluster, topic, clusterNow, topicNow)
	}
	if epochNow <= epoch {
		t.Errorf("leader epoch %d after %d", epochNow, epoch)
	}
	var list []struct {
		Name       string
		Partitions int
	}
	out, err := exec.CommandContext(p.ctx, moldau, "topic", "list", "-o", "json", "-b", p.addr).Output()
	must(t, err)
	must(t, json.Unmarshal(out, &list))
	if len(list) != 1 || list[0].Name != "orders" || list[0].Partitions != 3 {
		t.Errorf("moldau topic list: %s", out)
	}
	// A second process on the same directory is refused, and the first goes on.
	second := exec.CommandContext(p.ctx, moldau, "server", "--data-dir", p.dir, "--listen", "127.0.0.1:0", "--http", "off")
	text, err := second.CombinedOutput()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || !strings.Contains(string(text), fmt.Sprintf("locked by process %d", p.cmd.Process.Pid)) {
		t.Errorf("a second broker on the directory: %v\n%s", err, text)
	}
	describe()
}

// TestCompatibility: clients find the versions that they ask for, and the log directory holds Kafka's files and no others.
func TestCompatibility(t *testing.T) {
	p := server(t)
	p.create("compatible", 1, nil)
	must(t, p.client(kgo.DefaultProduceTopic("compatible")).ProduceSync(p.ctx, kgo.StringRecord("v")).FirstErr())
	v, err := kadm.NewClient(p.client()).ApiVersions(p.ctx)
	must(t, err)
	for key, want := range map[int16][2]int16{ // Apache Kafka 4.3.1
		int16(kmsg.Produce): {0, 13}, int16(kmsg.Fetch): {4, 18}, int16(kmsg.ListOffsets): {1, 11}, int16(kmsg.Metadata): {0, 13}, int16(kmsg.CreateTopics): {2, 7},
	} {
		of := v[1]
		lowest, okLow := of.KeyMinVersion(key)
		highest, okHigh := of.KeyMaxVersion(key)
		if !okLow || !okHigh || lowest != want[0] || highest != want[1] {
			t.Errorf("%s is offered in versions %d to %d, want %d to %d", kmsg.NameForKey(key), lowest, highest, want[0], want[1])
		}
	}
	p.stop()
	kafkas := []string{".kafka_cleanshutdown", ".lock", "cleaner-offset-checkpoint", "compatible-0", "log-start-offset-checkpoint", "meta.properties",
		"recovery-point-offset-checkpoint", "replication-offset-checkpoint"}
	entries, err := os.ReadDir(filepath.Join(p.dir, "log"))
	must(t, err)
	for _, e := range entries {
		if !slices.Contains(kafkas, e.Name()) {
			t.Errorf("%s is no file of Kafka's", e.Name())
		}
	}
	out, err := exec.CommandContext(p.ctx, moldau, "log", "dump", filepath.Join(p.dir, "log", "compatible-0")).CombinedOutput()
	if err != nil {
		t.Errorf("moldau log dump: %v\n%s", err, out)
	}
}
