//go:build clients && linux

package clients

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"
)

// The partition of TestOtherClients' topic is the index of the codec here, which is also its number in a batch's attributes.
var codecs = []string{"none", "gzip", "snappy", "lz4", "zstd"}

// A client produces this many records per codec. Of client C and codec X, record i has the key C/X/i (record 1 has none), the value
// "C writes X record i. " repeated i times (record 0 has a null value, record 2 an empty one) and the headers client=C, i=i, empty=.
const recordsPerClient = 40

// TestOtherClients: every client reads what every other client has written, with every codec both of them know, with the request versions
// that the client negotiates: the same offsets, timestamps, keys, values and headers, in the order in which they were acknowledged.
// Partitions are assigned; no group is involved.
func TestOtherClients(t *testing.T) {
	b := startBroker(t)
	const topic = "other-clients"
	b.createTopic(topic, int32(len(codecs)))
	python := func(library string) func(string, ...string) []string {
		return func(command string, args ...string) []string { return pythonCommand(library, command, args...) }
	}
	sarama := func(version string) func(string, ...string) []string {
		return func(command string, args ...string) []string { return saramaCommand(version, command, args...) }
	}
	clients := []struct {
		name    string
		codecs  int // how many of codecs it knows
		command func(command string, args ...string) []string
	}{
		{"confluent-kafka", 5, python("confluent-kafka")},
		{"kafka-python", 5, python("kafka-python")},
		{"aiokafka", 5, python("aiokafka")},
		{"kafkajs", 2, nodeCommand},
		{"sarama-2.1", 5, sarama("2.1.0")},
		{"sarama-max", 5, sarama("max")},
	}
	next := make([]int64, len(codecs)) // the log end offset of each partition
	var order [5][]string              // the clients in the order in which they have written to each partition
	for _, c := range clients {
		command := c.command("produce", b.addr, topic, c.name)
		r := run(t, toolPatience, nil, command[0], command[1:]...)
		var want strings.Builder
		for p := range c.codecs {
			fmt.Fprintf(&want, "%s %d %d\n", codecs[p], next[p], next[p]+recordsPerClient-1)
			next[p] += recordsPerClient
			order[p] = append(order[p], c.name)
		}
		if r.stdout != want.String() {
			t.Fatalf("%s was acknowledged with\n%swant\n%s", c.name, r.stdout, want.String())
		}
	}
	for _, old := range []bool{false, true} {
		name := produceFranz(t, b, topic, old)
		for p := range codecs {
			next[p] += recordsPerClient
			order[p] = append(order[p], name)
		}
	}

	ends := map[int32]int64{}
	for p, n := range next {
		ends[int32(p)] = n
	}
	want, err := franzDigest(b, topic, ends, func(r *kgo.Record) {
		client := order[r.Partition][r.Offset/recordsPerClient]
		if err := checkRecord(r, client); err != nil {
			t.Errorf("partition %d offset %d: %v", r.Partition, r.Offset, err)
		}
	})
	must(t, err)
	check := func(name string, known int, got string, err error) {
		wantLines := strings.Join(strings.SplitAfter(want, "\n")[:known], "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got != wantLines {
			t.Errorf("%s read\n%swant\n%s", name, got, wantLines)
		}
	}
	old, err := franzDigest(b, topic, ends, nil, kgo.MaxVersions(kversion.V2_1_0()))
	check("franz-go-2.1", len(codecs), old, err)
	for _, c := range clients {
		got, err := commandDigest(t, toolPatience, c.command("digest", b.addr, topic))
		check(c.name, c.codecs, got, err)
	}
	got, err := commandDigest(t, toolPatience, javaCommand(t, "Digest", b.addr, topic))
	check("java", len(codecs), got, err)
}

func recordOf(client, codec string, i int) *kgo.Record {
	r := &kgo.Record{Key: fmt.Appendf(nil, "%s/%s/%d", client, codec, i), Headers: []kgo.RecordHeader{
		{Key: "client", Value: []byte(client)}, {Key: "i", Value: []byte(strconv.Itoa(i))}, {Key: "empty", Value: []byte{}},
	}}
	if i == 1 {
		r.Key = nil
	}
	if i != 0 {
		r.Value = []byte{}
	}
	if i != 0 && i != 2 {
		r.Value = bytes.Repeat(fmt.Appendf(nil, "%s writes %s record %d. ", client, codec, i), i)
	}
	return r
}

// checkRecord compares what was read with what the client was to produce at this place.
func checkRecord(r *kgo.Record, client string) error {
	codec := codecs[r.Partition]
	want := recordOf(client, codec, int(r.Offset%recordsPerClient))
	// Only a client that batches by itself may send a batch uncompressed when that is smaller; here the batches shrink.
	if got := codecs[r.Attrs.CompressionType()]; got != codec {
		return fmt.Errorf("%s: codec %s, want %s", client, got, codec)
	}
	if !sameBytes(r.Key, want.Key) || !sameBytes(r.Value, want.Value) {
		return fmt.Errorf("%s: key %q, value %q; want %q, %q", client, r.Key, r.Value, want.Key, want.Value)
	}
	if len(r.Headers) != len(want.Headers) {
		return fmt.Errorf("%s: %d headers, want %d", client, len(r.Headers), len(want.Headers))
	}
	for i, h := range want.Headers {
		if r.Headers[i].Key != h.Key || !sameBytes(r.Headers[i].Value, h.Value) {
			return fmt.Errorf("%s: header %d is %s=%q, want %s=%q", client, i, r.Headers[i].Key, r.Headers[i].Value, h.Key, h.Value)
		}
	}
	return nil
}

// sameBytes tells null from empty.
func sameBytes(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// produceFranz produces with franz-go, as it is or with the versions of Kafka 2.1, and returns the client's name.
func produceFranz(t *testing.T, b *broker, topic string, old bool) string {
	t.Helper()
	name := "franz-go-max"
	var opts []kgo.Opt
	if old {
		name = "franz-go-2.1"
		opts = append(opts, kgo.MaxVersions(kversion.V2_1_0()))
	}
	for p, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		c := b.client(append(opts, kgo.ProducerBatchCompression(codec), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(topic))...)
		var batch []*kgo.Record
		for i := range recordsPerClient {
			r := recordOf(name, codecs[p], i)
			r.Partition = int32(p)
			batch = append(batch, r)
		}
		must(t, c.ProduceSync(deadline(t, toolPatience), batch...).FirstErr())
		c.Close()
	}
	return name
}
