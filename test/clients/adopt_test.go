//go:build clients && linux

package clients

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestAdoptKafka: the log directory of a stopped Apache Kafka is taken in as it is, by its own configuration file, and franz-go and kcat
// read from Moldau what they read from Kafka: records of every codec, batches of an idempotent producer, rolled segments, a log whose
// first records were deleted, and what a consumer group committed is there as a topic.
func TestAdoptKafka(t *testing.T) {
	if targetKafka {
		t.Skip("it starts both brokers itself")
	}
	k := startKafka(t)
	b, dir, addr := k.broker, k.dir, k.addr
	b.createTopic("orders", 3, "segment.ms=1000")
	b.createTopic("trimmed", 1)
	b.createTopic("empty", 2)
	clock := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	for _, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		c := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(codec))
		for i := range 200 {
			clock = clock.Add(20 * time.Millisecond)
			r := &kgo.Record{Topic: "orders", Partition: int32(i % 3), Timestamp: clock, Key: fmt.Append(nil, i), Value: fmt.Appendf(nil, "order %d", i)}
			must(t, c.ProduceSync(deadline(t, time.Minute), r).FirstErr())
		}
		must(t, c.ProduceSync(deadline(t, time.Minute), &kgo.Record{Topic: "trimmed", Value: []byte("trimmed")}).FirstErr())
		c.Close()
	}
	adm := kadm.NewClient(b.client())
	upTo := kadm.Offsets{}
	upTo.Add(kadm.Offset{Topic: "trimmed", Partition: 0, At: 2})
	_, err := adm.DeleteRecords(deadline(t, time.Minute), upTo)
	must(t, err)
	want, wantIDs := everything(t, b), topicIDs(t, b)
	kcat := func(b *broker, topic string) string {
		return run(t, toolPatience, nil, "kcat", "-b", b.addr, "-C", "-t", topic, "-o", "beginning", "-e", "-q", "-f", "%p %o %T %k %s\n").stdout
	}
	wantKcat := sortedLines(kcat(b, "orders"))
	k.stop()

	bin, err := moldau()
	must(t, err)
	config := []string{"--config", filepath.Join(dir, "server.properties"), "--set", "listeners=PLAINTEXT://" + addr}
	args := append([]string{"log", "adopt", "-o", "json", filepath.Join(dir, "data")}, config...)
	var adopted struct {
		Topics []struct {
			Name, ID   string
			Partitions int32
		}
	}
	must(t, json.Unmarshal([]byte(run(t, toolPatience, nil, bin, args...).stdout), &adopted))
	t.Logf("adopted %+v", adopted.Topics)

	m := newBroker(t)
	m.addr, m.command = addr, append([]string{bin, "server", "--http", "off"}, config...)
	m.start()
	if got := everything(t, m); !maps.EqualFunc(got, want, slices.Equal) {
		t.Errorf("Moldau has\n%v\nKafka had\n%v", got, want)
	}
	for name, id := range topicIDs(t, m) {
		if id != wantIDs[name] {
			t.Errorf("topic %s has id %v, with Kafka %v", name, id, wantIDs[name])
		}
	}
	if got := sortedLines(kcat(m, "orders")); !slices.Equal(got, wantKcat) || len(got) != 1000 {
		t.Errorf("kcat reads %d lines from Moldau and %d from Kafka, and not the same", len(got), len(wantKcat))
	}
	// A new producer goes on in every partition.
	c := m.client(kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for _, name := range []string{"orders", "empty", "trimmed"} {
		must(t, c.ProduceSync(deadline(t, time.Minute), &kgo.Record{Topic: name, Value: []byte("new")}).FirstErr())
	}
	if got := everything(t, m); len(got["orders-0"]) != len(want["orders-0"])+1 {
		t.Errorf("orders-0 has %d records, had %d and got 1", len(got["orders-0"]), len(want["orders-0"]))
	}
}

func sortedLines(s string) []string { return slices.Sorted(strings.Lines(s)) }

func topicIDs(t *testing.T, b *broker) map[string]kadm.TopicID {
	t.Helper()
	list, err := kadm.NewClient(b.client()).ListTopics(deadline(t, time.Minute))
	must(t, err)
	out := map[string]kadm.TopicID{}
	for name, d := range list {
		out[name] = d.ID
	}
	return out
}

// everything is all records of all topics that are not internal, by partition, with the offsets at which partitions begin.
func everything(t *testing.T, b *broker) map[string][]string {
	t.Helper()
	adm := kadm.NewClient(b.client())
	starts, err := adm.ListStartOffsets(deadline(t, time.Minute))
	must(t, err)
	ends, err := adm.ListEndOffsets(deadline(t, time.Minute))
	must(t, err)
	out := map[string][]string{}
	left := int64(0)
	from := map[string]map[int32]kgo.Offset{}
	starts.Each(func(o kadm.ListedOffset) {
		must(t, o.Err)
		end, _ := ends.Lookup(o.Topic, o.Partition)
		left += end.Offset - o.Offset
		out[fmt.Sprintf("%s-%d", o.Topic, o.Partition)] = []string{fmt.Sprintf("from %d to %d", o.Offset, end.Offset)}
		if from[o.Topic] == nil {
			from[o.Topic] = map[int32]kgo.Offset{}
		}
		from[o.Topic][o.Partition] = kgo.NewOffset().At(o.Offset)
	})
	c := b.client(kgo.ConsumePartitions(from))
	ctx := deadline(t, time.Minute)
	for left > 0 {
		fs := c.PollFetches(ctx)
		must(t, fs.Err())
		fs.EachRecord(func(r *kgo.Record) {
			left--
			name := fmt.Sprintf("%s-%d", r.Topic, r.Partition)
			out[name] = append(out[name], fmt.Sprintf("%d %d %s %s", r.Offset, r.Timestamp.UnixMilli(), r.Key, r.Value))
		})
	}
	return out
}

// TestAdoptRefusesARunningKafka: its lock is seen, although it is of another kind than ours.
func TestAdoptRefusesARunningKafka(t *testing.T) {
	if targetKafka {
		t.Skip("it starts Kafka itself")
	}
	dir := startKafka(t).dir
	bin, err := moldau()
	must(t, err)
	r, err := try(t, toolPatience, nil, bin, "log", "adopt", "--config", filepath.Join(dir, "server.properties"), filepath.Join(dir, "data"))
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v: %s%s", err, r.stdout, r.stderr)
	}
	if !strings.Contains(r.stderr, "locked by process") || !strings.Contains(r.stderr, "stop it") {
		t.Errorf("it says %q", r.stderr)
	}
}
