//go:build clients && linux

package clients

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// badInput is something that no good client says, on a connection of its own, and what Apache Kafka 4.3.1 does about it.
type badInput struct {
	name string
	want string // "closed", "silence", or the names of the errors in the answer
	// Where Kafka fails itself (UNKNOWN_SERVER_ERROR, or no answer ever), the protocol has better words for it; any of these will do.
	better []string
	send   []byte
	req    kmsg.Request                                // decodes the answer; nil where none is expected
	errs   func(kmsg.Response) []int16                 // the error codes in it
	talk   func(t *testing.T, c *rawConn, in badInput) // more than sending and listening, if not nil
}

func (in badInput) accepts(got string) bool {
	return got == in.want || !targetKafka && slices.Contains(in.better, got)
}

// TestBadInput: bad input is answered with the protocol's error or a closed connection, as Apache Kafka does, and nobody else notices:
// not a producer and a consumer beside it, nor the memory of the process. BAD_ROUNDS is how often all of it is said (default 10).
func TestBadInput(t *testing.T) {
	const topic, smallTopic = "bad-input", "bad-input-small"
	rounds := int(max(2, envInt(t, "BAD_ROUNDS", 10)))
	b := startBroker(t)
	b.createTopic(topic, 1)
	b.createTopic(smallTopic, 1, "max.message.bytes=1000")
	inputs := badInputs(topic, smallTopic)

	healthy := startHealthy(t, b)
	for _, in := range inputs { // the first round is the one that is looked at closely
		t.Run(in.name, func(t *testing.T) {
			if got := say(t, b, in); !in.accepts(got) {
				t.Errorf("got %q, Kafka does %q", got, in.want)
			}
		})
	}
	b.mustRun()
	for _, in := range inputs {
		_ = say(t, b, in) // warm
	}
	before := residentBytes(t, b.pid())
	for range rounds - 2 {
		for _, in := range inputs {
			if in.talk == nil && in.want != "silence" {
				if got := say(t, b, in); !in.accepts(got) {
					t.Errorf("%s, again: got %q, want %q", in.name, got, in.want)
				}
			}
		}
	}
	// Frames that claim to be large and hardly begin: memory must follow what has come, not what was claimed.
	claims := 60
	if targetKafka {
		claims = 2 // Kafka allocates what is claimed
	}
	var held []net.Conn
	for range claims {
		c := dial(t, b.addr)
		_, err := c.Write(append(int32s(90<<20), formatter.AppendRequest(nil, produceRequest(1, topic, 0, nil), 1)[4:]...))
		must(t, err)
		held = append(held, c)
	}
	time.Sleep(time.Second)
	after := residentBytes(t, b.pid())
	for _, c := range held {
		c.Close()
	}
	t.Logf("resident: %.1f MiB before, %.1f MiB after %d rounds and %d claimed frames", float64(before)/(1<<20), float64(after)/(1<<20), rounds, claims)
	if after > before+64<<20 && !targetKafka { // a JVM grows into its heap as it likes
		t.Errorf("the process has grown from %d to %d bytes", before, after)
	}
	healthy()
	b.mustRun()
}

// say says it and returns what happened.
func say(t *testing.T, b *broker, in badInput) string {
	c, err := connect(b.addr)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	if in.talk != nil {
		in.talk(t, c, in)
	} else if _, err := c.Write(in.send); err != nil && !closedByPeer(err) {
		return err.Error()
	}
	return hear(c, in)
}

func hear(c *rawConn, in badInput) string {
	patience := rawPatience
	if in.want == "silence" {
		patience = 300 * time.Millisecond
	}
	frame, err := c.readFrame(patience)
	switch {
	case err == nil && in.req == nil:
		return fmt.Sprintf("an answer of %d bytes", len(frame))
	case err == nil:
		resp, err := decode(frame, in.req)
		if err != nil {
			return "an answer that cannot be read: " + err.Error()
		}
		return errorNames(in.errs(resp))
	case closedByPeer(err):
		return "closed"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "silence"
	}
	return err.Error()
}

func closedByPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || strings.Contains(err.Error(), "reset by peer") || strings.Contains(err.Error(), "broken pipe")
}

func errorNames(codes []int16) string {
	var names []string
	for _, code := range codes {
		name := "NONE"
		var e *kerr.Error
		if errors.As(kerr.ErrorForCode(code), &e) {
			name = e.Message
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// startHealthy starts a producer and a consumer on a topic of their own. The returned function stops them and fails the test if they have
// seen an error or if a record is missing.
func startHealthy(t *testing.T, b *broker) (finish func()) {
	t.Helper()
	const topic = "healthy"
	b.createTopic(topic, 1)
	producer := b.client(kgo.DefaultProduceTopic(topic), kgo.RecordRetries(0), kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.MaxProduceRequestsInflightPerBroker(1))
	consumer := b.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}), kgo.KeepRetryableFetchErrors())
	var mu sync.Mutex // guards problems and read
	var problems []error
	var read int64
	complain := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		problems = append(problems, err)
	}
	stop := make(chan struct{})
	sent := int64(0)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
			}
			r := &kgo.Record{Value: fmt.Append(nil, sent)}
			if err := producer.ProduceSync(deadline(t, time.Minute), r).FirstErr(); err != nil {
				complain(fmt.Errorf("produce: %w", err))
				return
			}
			if r.Offset != sent {
				complain(fmt.Errorf("record %d got offset %d", sent, r.Offset))
			}
			sent++
		}
	})
	reading := deadline(t, time.Hour)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			fs := consumer.PollFetches(reading)
			if fs.IsClientClosed() {
				return
			}
			fs.EachError(func(_ string, _ int32, err error) { complain(fmt.Errorf("fetch: %w", err)) })
			fs.EachRecord(func(r *kgo.Record) {
				mu.Lock()
				defer mu.Unlock()
				if string(r.Value) != fmt.Sprint(r.Offset) || r.Offset != read {
					problems = append(problems, fmt.Errorf("offset %d holds %q and comes after %d records", r.Offset, r.Value, read))
				}
				read++
			})
		}
	}()
	return func() {
		close(stop)
		wg.Wait()
		for until := time.Now().Add(rawPatience); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
			mu.Lock()
			all := read == sent
			mu.Unlock()
			if all {
				break
			}
		}
		consumer.Close()
		<-done
		if read != sent || sent == 0 {
			t.Errorf("the healthy consumer has read %d of %d records", read, sent)
		}
		for _, p := range problems {
			t.Errorf("beside bad input: %v", p)
		}
		t.Logf("%d records went through beside the bad input", sent)
	}
}

func int32s(n int32) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

// frame puts the size before the bytes.
func frame(p []byte) []byte { return append(int32s(int32(len(p))), p...) }

// head is a request header as all versions begin: API, version, correlation id, client id.
func head(key, version int16, clientID ...byte) []byte {
	h := binary.BigEndian.AppendUint16(nil, uint16(key))
	h = binary.BigEndian.AppendUint16(h, uint16(version))
	h = append(h, 0, 0, 0, 7)
	if clientID == nil {
		clientID = []byte{0, 1, 'c'}
	}
	return append(h, clientID...)
}

func asked(req kmsg.Request) []byte { return formatter.AppendRequest(nil, req, 7) }

func versioned[R kmsg.Request](req R, version int16) R {
	req.SetVersion(version)
	return req
}

func badInputs(topic, smallTopic string) []badInput {
	var all []badInput
	all = append(all, badFrames()...)
	all = append(all, badProduce(topic, smallTopic)...)
	all = append(all, badFetch(topic)...)
	all = append(all, badAdmin(topic)...)
	return append(all, badConnections()...)
}

// badFrames are wrong before a request begins, or in how it begins.
func badFrames() []badInput {
	apiVersions := func(r kmsg.Response) []int16 { return []int16{r.(*kmsg.ApiVersionsResponse).ErrorCode} }
	metadata := func(r kmsg.Response) []int16 {
		var codes []int16
		for _, t := range r.(*kmsg.MetadataResponse).Topics {
			codes = append(codes, t.ErrorCode)
		}
		return codes
	}
	noise := make([]byte, 4096)
	_, _ = rand.NewChaCha8([32]byte{3}).Read(noise)
	good := asked(versioned(kmsg.NewPtrApiVersionsRequest(), 0))
	return []badInput{
		{name: "size -1", want: "closed", send: int32s(-1)},
		{name: "size -2147483648", want: "closed", send: int32s(-1 << 31)},
		{name: "size 2147483647", want: "closed", send: int32s(1<<31 - 1)},
		{name: "size one more than allowed", want: "closed", send: int32s(104857601)},
		{name: "size 0", want: "closed", send: int32s(0)},
		{name: "header cut off", want: "closed", send: frame([]byte{0, 3, 0})},
		{name: "unknown API", want: "closed", send: frame(head(9999, 0))},
		{name: "negative API", want: "closed", send: frame(head(-1, 0))},
		{name: "API of another listener", want: "closed", send: frame(append(head(52, 0), make([]byte, 64)...))}, // Vote
		{name: "version too new", want: "closed", send: frame(append(head(3, 99), make([]byte, 64)...))},
		{name: "version negative", want: "closed", send: frame(append(head(3, -1), make([]byte, 64)...))},
		{name: "version too old", want: "closed", send: frame(append(head(0, 2), make([]byte, 64)...))},
		{name: "ApiVersions too new", want: "UNSUPPORTED_VERSION", send: frame(append(head(18, 99), 0, 2, 'a', 2, 'b', 0)),
			req: versioned(kmsg.NewPtrApiVersionsRequest(), 0), errs: apiVersions},
		{name: "ApiVersions with an invalid client name", want: "INVALID_REQUEST", send: frame(append(head(18, 3), 0, 2, '!', 2, ' ', 0)),
			req: versioned(kmsg.NewPtrApiVersionsRequest(), 3), errs: apiVersions},
		{name: "client id longer than the frame", want: "closed", send: frame(head(3, 1, 0x7f, 0xff, 'c'))},
		{name: "client id of length -2", want: "closed", send: frame(head(3, 1, 0xff, 0xfe))},
		{name: "body cut off", want: "closed", send: frame(append(head(3, 1), 0, 0, 0, 1, 0, 50, 'a'))},
		{name: "body missing", want: "closed", send: frame(head(3, 1))},
		{name: "2147483647 topics claimed", want: "closed", send: frame(append(head(3, 1), 0x7f, 0xff, 0xff, 0xff, 0, 1, 'a'))},
		{name: "4294967294 topics claimed, compact", want: "closed", send: frame(append(head(3, 12), 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 1, 'a'))},
		{name: "varint without an end", want: "closed", send: frame(append(head(3, 12), bytes.Repeat([]byte{0xff}, 40)...))},
		{name: "tagged fields claimed", want: "closed", send: frame(append(head(3, 12), 0xff, 0xff, 0xff, 0xff, 0x07))},
		{name: "noise in a frame", want: "closed", send: frame(append([]byte{0x55}, noise...))},
		{name: "noise as a Produce request", want: "closed", send: frame(append(head(0, 9), noise...))},
		{name: "noise as a Fetch request", want: "closed", send: frame(append(head(1, 12), noise...))},
		{name: "HTTP", want: "closed", send: []byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")},
		{name: "TLS", want: "closed", send: append([]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}, noise[:500]...)},
		{name: "good, then bad: the answer comes first", want: "NONE", send: append(bytes.Clone(good), int32s(-1)...),
			req: versioned(kmsg.NewPtrApiVersionsRequest(), 0), errs: apiVersions},
		{name: "Metadata of a bad topic name", want: "INVALID_TOPIC_EXCEPTION", req: versioned(kmsg.NewPtrMetadataRequest(), 9), errs: metadata,
			send: asked(func() kmsg.Request {
				r := versioned(kmsg.NewPtrMetadataRequest(), 9)
				t := kmsg.NewMetadataRequestTopic()
				t.Topic = kmsg.StringPtr("no/good")
				r.Topics = append(r.Topics, t)
				r.AllowAutoTopicCreation = true
				return r
			}())},
		{name: "SASL where there is none", want: "ILLEGAL_SASL_STATE", req: versioned(kmsg.NewPtrSASLHandshakeRequest(), 1),
			send: asked(func() kmsg.Request {
				r := versioned(kmsg.NewPtrSASLHandshakeRequest(), 1)
				r.Mechanism = "PLAIN"
				return r
			}()),
			errs: func(r kmsg.Response) []int16 { return []int16{r.(*kmsg.SASLHandshakeResponse).ErrorCode} }},
	}
}

// badProduce are well formed requests with records that must not get into a log.
func badProduce(topic, smallTopic string) []badInput {
	errs := func(r kmsg.Response) []int16 {
		return []int16{r.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode}
	}
	produce := func(name, want string, acks int16, topic string, partition int32, records []byte) badInput {
		in := badInput{name: "produce: " + name, want: want, send: asked(produceRequest(acks, topic, partition, records)),
			req: versioned(kmsg.NewPtrProduceRequest(), 12), errs: errs}
		if want == "UNKNOWN_SERVER_ERROR" || want == "silence" {
			in.better = []string{"CORRUPT_MESSAGE", "INVALID_RECORD", "UNSUPPORTED_COMPRESSION_TYPE", "closed"}
		}
		return in
	}
	value := []byte("value")
	batch := func(change func(*kmsg.RecordBatch)) []byte { return batchOf(change, value, value) }
	badCRC := batch(nil)
	badCRC[17] ^= 1
	magic := func(m byte) []byte {
		b := batch(nil)
		b[16] = m
		return b
	}
	acks0 := produce("acks=0 to an unknown partition", "closed", 0, topic, 77, batch(nil))
	acks0.req = nil
	return []badInput{
		produce("wrong CRC", "CORRUPT_MESSAGE", -1, topic, 0, badCRC),
		produce("magic 0", "INVALID_RECORD", 1, topic, 0, magic(0)),
		produce("magic 1", "INVALID_RECORD", 1, topic, 0, magic(1)),
		produce("magic 9", "CORRUPT_MESSAGE", 1, topic, 0, magic(9)),
		produce("batch cut off", "INVALID_RECORD", 1, topic, 0, batch(nil)[:70]),
		produce("header cut off", "INVALID_RECORD", 1, topic, 0, batch(nil)[:30]),
		produce("length 0", "CORRUPT_MESSAGE", 1, topic, 0, batch(func(b *kmsg.RecordBatch) { b.Length = 0 })),
		produce("length negative", "CORRUPT_MESSAGE", 1, topic, 0, batch(func(b *kmsg.RecordBatch) { b.Length = -5 })),
		produce("length 2147483647", "UNKNOWN_SERVER_ERROR", 1, topic, 0, batch(func(b *kmsg.RecordBatch) { b.Length = 1<<31 - 1 })),
		produce("more records claimed", "INVALID_RECORD", 1, topic, 0, batch(func(b *kmsg.RecordBatch) { b.NumRecords = 3; b.LastOffsetDelta = 2 })),
		produce("2147483647 records claimed", "INVALID_RECORD", 1, topic, 0, batch(func(b *kmsg.RecordBatch) { b.NumRecords = 1<<31 - 1; b.LastOffsetDelta = 1<<31 - 2 })),
		produce("fewer records claimed", "INVALID_RECORD", 1, topic, 0, batch(func(b *kmsg.RecordBatch) { b.NumRecords = 1; b.LastOffsetDelta = 0 })),
		produce("no records claimed", "INVALID_RECORD", 1, topic, 0, batch(func(b *kmsg.RecordBatch) { b.NumRecords = 0; b.LastOffsetDelta = -1 })),
		produce("last offset delta differs", "INVALID_RECORD", 1, topic, 0, batch(func(b *kmsg.RecordBatch) { b.LastOffsetDelta = 5 })),
		produce("noise as records", "UNKNOWN_SERVER_ERROR", 1, topic, 0, batch(func(b *kmsg.RecordBatch) { b.Records = bytes.Repeat([]byte{0xfe}, len(b.Records)) })),
		produce("noise as gzip", "UNKNOWN_SERVER_ERROR", 1, topic, 0, batch(func(b *kmsg.RecordBatch) { b.Attributes = 1 })),
		produce("noise as snappy", "UNKNOWN_SERVER_ERROR", 1, topic, 0, batch(func(b *kmsg.RecordBatch) { b.Attributes = 2 })),
		produce("noise as lz4", "UNKNOWN_SERVER_ERROR", 1, topic, 0, batch(func(b *kmsg.RecordBatch) { b.Attributes = 3 })),
		produce("noise as zstd", "UNKNOWN_SERVER_ERROR", 1, topic, 0, batch(func(b *kmsg.RecordBatch) { b.Attributes = 4 })),
		produce("codec 7", "UNKNOWN_SERVER_ERROR", 1, topic, 0, batch(func(b *kmsg.RecordBatch) { b.Attributes = 7 })),
		produce("a control batch", "INVALID_RECORD", 1, topic, 0, batch(func(b *kmsg.RecordBatch) { b.Attributes = 0x20 })),
		produce("a time far in the future", "INVALID_TIMESTAMP", 1, topic, 0, batch(func(b *kmsg.RecordBatch) {
			b.FirstTimestamp += 48 * 3600 * 1000
			b.MaxTimestamp = b.FirstTimestamp
		})),
		produce("two batches", "INVALID_RECORD", 1, topic, 0, append(batch(nil), batch(nil)...)),
		produce("no batch", "INVALID_RECORD", 1, topic, 0, []byte{}),
		produce("null", "silence", 1, topic, 0, nil),
		produce("acks=2", "INVALID_REQUIRED_ACKS", 2, topic, 0, batch(nil)),
		produce("acks=-2", "INVALID_REQUIRED_ACKS", -2, topic, 0, batch(nil)),
		produce("too large for the topic", "MESSAGE_TOO_LARGE", 1, smallTopic, 0, batchOf(nil, make([]byte, 2000))),
		produce("unknown topic", "UNKNOWN_TOPIC_OR_PARTITION", 1, "bad-input-unknown", 0, batch(nil)),
		produce("bad topic name", "UNKNOWN_TOPIC_OR_PARTITION", 1, "no/good", 0, batch(nil)),
		produce("unknown partition", "UNKNOWN_TOPIC_OR_PARTITION", 1, topic, 77, batch(nil)),
		produce("negative partition", "UNKNOWN_TOPIC_OR_PARTITION", 1, topic, -1, batch(nil)),
		acks0,
	}
}

func badFetch(topic string) []badInput {
	fetch := func(name, want, topic string, change func(*kmsg.FetchRequest, *kmsg.FetchRequestTopicPartition)) badInput {
		r := versioned(kmsg.NewPtrFetchRequest(), 12) // the last that names its topic
		r.MaxBytes, r.MaxWaitMillis = 1<<20, 10
		p := kmsg.NewFetchRequestTopicPartition()
		p.PartitionMaxBytes = 1 << 20
		change(r, &p)
		top := kmsg.NewFetchRequestTopic()
		top.Topic, top.Partitions = topic, append(top.Partitions, p)
		r.Topics = append(r.Topics, top)
		return badInput{name: "fetch: " + name, want: want, send: asked(r), req: r, errs: func(resp kmsg.Response) []int16 {
			f := resp.(*kmsg.FetchResponse)
			codes := []int16{f.ErrorCode}
			for _, t := range f.Topics {
				for _, p := range t.Partitions {
					codes = append(codes, p.ErrorCode)
				}
			}
			return codes
		}}
	}
	list := versioned(kmsg.NewPtrListOffsetsRequest(), 6)
	list.ReplicaID = -1
	lt, lp := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
	lp.Partition, lp.Timestamp = 77, -1
	lt.Topic, lt.Partitions = topic, append(lt.Partitions, lp)
	list.Topics = append(list.Topics, lt)

	byID := versioned(kmsg.NewPtrFetchRequest(), 13)
	byID.MaxBytes, byID.MaxWaitMillis = 1<<20, 10
	it, ip := kmsg.NewFetchRequestTopic(), kmsg.NewFetchRequestTopicPartition()
	it.TopicID, it.Partitions = [16]byte{1, 2, 3}, append(it.Partitions, ip)
	byID.Topics = append(byID.Topics, it)
	unknownID := fetch("unknown topic id", "NONE UNKNOWN_TOPIC_ID", topic, func(*kmsg.FetchRequest, *kmsg.FetchRequestTopicPartition) {})
	unknownID.send, unknownID.req = asked(byID), byID
	return []badInput{
		fetch("offset after the end", "NONE OFFSET_OUT_OF_RANGE", topic, func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.FetchOffset = 1 << 40 }),
		fetch("negative offset", "NONE OFFSET_OUT_OF_RANGE", topic, func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.FetchOffset = -5 }),
		fetch("unknown topic", "NONE UNKNOWN_TOPIC_OR_PARTITION", "bad-input-unknown", func(*kmsg.FetchRequest, *kmsg.FetchRequestTopicPartition) {}),
		fetch("unknown partition", "NONE UNKNOWN_TOPIC_OR_PARTITION", topic, func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.Partition = 77 }),
		fetch("leader epoch of the future", "NONE UNKNOWN_LEADER_EPOCH", topic, func(_ *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) { p.CurrentLeaderEpoch = 1000 }),
		fetch("unknown session", "FETCH_SESSION_ID_NOT_FOUND", topic, func(r *kmsg.FetchRequest, _ *kmsg.FetchRequestTopicPartition) { r.SessionID, r.SessionEpoch = 12345, 5 }),
		fetch("session epoch without a session", "FETCH_SESSION_ID_NOT_FOUND", topic, func(r *kmsg.FetchRequest, _ *kmsg.FetchRequestTopicPartition) { r.SessionID, r.SessionEpoch = 0, 5 }),
		fetch("sizes and wait negative", "NONE NONE", topic, func(r *kmsg.FetchRequest, p *kmsg.FetchRequestTopicPartition) {
			r.MaxBytes, r.MinBytes, r.MaxWaitMillis, p.PartitionMaxBytes = -1, -1, -1, -1
		}),
		unknownID,
		{name: "list offsets: unknown partition", want: "UNKNOWN_TOPIC_OR_PARTITION", send: asked(list), req: list,
			errs: func(r kmsg.Response) []int16 {
				return []int16{r.(*kmsg.ListOffsetsResponse).Topics[0].Partitions[0].ErrorCode}
			}},
	}
}

func badAdmin(topic string) []badInput {
	create := func(name, want, topic string, partitions int32, replicas int16, configs ...string) badInput {
		r := versioned(kmsg.NewPtrCreateTopicsRequest(), 7)
		r.TimeoutMillis = 10000
		top := kmsg.NewCreateTopicsRequestTopic()
		top.Topic, top.NumPartitions, top.ReplicationFactor = topic, partitions, replicas
		for _, kv := range configs {
			k, v, _ := strings.Cut(kv, "=")
			c := kmsg.NewCreateTopicsRequestTopicConfig()
			c.Name, c.Value = k, &v
			top.Configs = append(top.Configs, c)
		}
		r.Topics = append(r.Topics, top)
		return badInput{name: "create topic: " + name, want: want, send: asked(r), req: r,
			errs: func(r kmsg.Response) []int16 { return []int16{r.(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode} }}
	}
	alter := versioned(kmsg.NewPtrIncrementalAlterConfigsRequest(), 1)
	resource, entry := kmsg.NewIncrementalAlterConfigsRequestResource(), kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	entry.Name, entry.Value = "nonsense", kmsg.StringPtr("1")
	resource.ResourceType, resource.ResourceName, resource.Configs = kmsg.ConfigResourceTypeTopic, topic, append(resource.Configs, entry)
	alter.Resources = append(alter.Resources, resource)

	describe := versioned(kmsg.NewPtrDescribeConfigsRequest(), 4)
	what := kmsg.NewDescribeConfigsRequestResource()
	what.ResourceType, what.ResourceName = kmsg.ConfigResourceTypeTopic, "bad-input-unknown"
	describe.Resources = append(describe.Resources, what)

	remove := versioned(kmsg.NewPtrDeleteTopicsRequest(), 5)
	remove.TimeoutMillis, remove.TopicNames = 10000, []string{"bad-input-unknown"}

	fewer := versioned(kmsg.NewPtrCreatePartitionsRequest(), 3)
	ft := kmsg.NewCreatePartitionsRequestTopic()
	ft.Topic, ft.Count = topic, 0
	fewer.TimeoutMillis, fewer.Topics = 10000, append(fewer.Topics, ft)

	return []badInput{
		create("empty name", "INVALID_TOPIC_EXCEPTION", "", 1, 1),
		create("name .", "INVALID_TOPIC_EXCEPTION", ".", 1, 1),
		create("name ..", "INVALID_TOPIC_EXCEPTION", "..", 1, 1),
		create("name with a slash", "INVALID_TOPIC_EXCEPTION", "../../etc", 1, 1),
		create("name with a NUL", "INVALID_TOPIC_EXCEPTION", "a\x00b", 1, 1),
		create("name of 250 bytes", "INVALID_TOPIC_EXCEPTION", strings.Repeat("n", 250), 1, 1),
		create("name that is not UTF-8", "INVALID_TOPIC_EXCEPTION", "\xff\xfe", 1, 1),
		create("exists", "TOPIC_ALREADY_EXISTS", topic, 1, 1),
		create("no partitions", "INVALID_PARTITIONS", "bad-input-new", 0, 1),
		create("negative partitions", "INVALID_PARTITIONS", "bad-input-new", -5, 1),
		create("no replicas", "INVALID_REPLICATION_FACTOR", "bad-input-new", 1, 0),
		create("too many replicas", "INVALID_REPLICATION_FACTOR", "bad-input-new", 1, 5),
		create("unknown config", "INVALID_CONFIG", "bad-input-new", 1, 1, "nonsense=1"),
		create("config that is not a number", "INVALID_CONFIG", "bad-input-new", 1, 1, "retention.ms=abc"),
		create("config out of range", "INVALID_CONFIG", "bad-input-new", 1, 1, "segment.bytes=1"),
		create("config of another kind", "INVALID_CONFIG", "bad-input-new", 1, 1, "cleanup.policy=forget"),
		{name: "alter configs: unknown", want: "INVALID_CONFIG", send: asked(alter), req: alter,
			errs: func(r kmsg.Response) []int16 {
				return []int16{r.(*kmsg.IncrementalAlterConfigsResponse).Resources[0].ErrorCode}
			}},
		{name: "describe configs: unknown topic", want: "UNKNOWN_TOPIC_OR_PARTITION", send: asked(describe), req: describe,
			errs: func(r kmsg.Response) []int16 {
				return []int16{r.(*kmsg.DescribeConfigsResponse).Resources[0].ErrorCode}
			}},
		{name: "delete topics: unknown", want: "UNKNOWN_TOPIC_OR_PARTITION", send: asked(remove), req: remove,
			errs: func(r kmsg.Response) []int16 { return []int16{r.(*kmsg.DeleteTopicsResponse).Topics[0].ErrorCode} }},
		{name: "create partitions: fewer", want: "INVALID_PARTITIONS", send: asked(fewer), req: fewer,
			errs: func(r kmsg.Response) []int16 { return []int16{r.(*kmsg.CreatePartitionsResponse).Topics[0].ErrorCode} }},
	}
}

// badConnections are bad in time rather than in content.
func badConnections() []badInput {
	good := asked(versioned(kmsg.NewPtrApiVersionsRequest(), 0))
	reset := func(_ *testing.T, c *rawConn, _ badInput) {
		_ = c.Conn.(*net.TCPConn).SetLinger(0)
	}
	return []badInput{
		{name: "nothing at all", want: "silence"},
		{name: "half a size", want: "silence", send: []byte{0, 0}},
		{name: "half a frame", want: "silence", send: good[:len(good)/2]},
		{name: "half a frame and no more", want: "closed", talk: func(t *testing.T, c *rawConn, _ badInput) {
			_, err := c.Write(good[:len(good)/2])
			must(t, err)
			must(t, c.Conn.(*net.TCPConn).CloseWrite())
		}},
		{name: "a reset in the middle of a frame", want: "silence", send: good[:len(good)/2], talk: func(t *testing.T, c *rawConn, in badInput) {
			_, err := c.Write(in.send)
			must(t, err)
			reset(t, c, in)
		}},
		{name: "a byte at a time", want: "NONE", req: versioned(kmsg.NewPtrApiVersionsRequest(), 0),
			errs: func(r kmsg.Response) []int16 { return []int16{r.(*kmsg.ApiVersionsResponse).ErrorCode} },
			talk: func(t *testing.T, c *rawConn, _ badInput) {
				for i := range good {
					_, err := c.Write(good[i : i+1])
					must(t, err)
					time.Sleep(10 * time.Millisecond)
				}
			}},
	}
}
