//go:build clients && linux

package clients

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestKafkaTools: Kafka's command line tools, unchanged, do with the broker what they do with Kafka, print the same and warn of nothing.
func TestKafkaTools(t *testing.T) {
	b := startBroker(t)
	for name, test := range map[string]func(*testing.T, *broker){
		"topics": toolTopics, "topic configs": toolTopicConfigs, "broker configs": toolBrokerConfigs, "console": toolConsole,
		"get-offsets": toolGetOffsets, "producer-perf": toolProducerPerf, "verifiable-producer": toolVerifiableProducer,
		"api-versions": toolAPIVersions, "cluster": toolCluster,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, b)
			b.mustRun()
		})
	}
}

// A tool that is content with the broker writes none of these to stderr.
var toolComplaint = regexp.MustCompile(`WARN|ERROR|Exception|^\s+at `)

// tool runs one of Kafka's tools against the broker and returns its standard output.
func tool(t *testing.T, b *broker, name string, args ...string) string {
	t.Helper()
	return toolWithInput(t, b, "", name, args...)
}

func toolWithInput(t *testing.T, b *broker, stdin, name string, args ...string) string {
	t.Helper()
	args = append(args, "--bootstrap-server", b.addr)
	r := run(t, toolPatience, strings.NewReader(stdin), launcher(), append([]string{name}, args...)...)
	if toolComplaint.MatchString(r.stderr) || strings.Contains(r.stdout, "Error while executing") {
		t.Errorf("%s %s complains:\n%s\nand says:\n%s", name, strings.Join(args, " "), clip(r.stderr), clip(r.stdout))
	}
	return r.stdout
}

// toolRefused runs a tool whose command the broker must refuse with an error of the given text.
func toolRefused(t *testing.T, b *broker, want, name string, args ...string) {
	t.Helper()
	args = append(args, "--bootstrap-server", b.addr)
	r, err := try(t, toolPatience, nil, launcher(), append([]string{name}, args...)...)
	if err == nil || !strings.Contains(r.stdout+r.stderr, want) {
		t.Errorf("%s %s: %v, want a failure that says %q; stdout:\n%s\nstderr:\n%s", name, strings.Join(args, " "), err, want, clip(r.stdout), clip(r.stderr))
	}
}

func wantOutput(t *testing.T, what, got, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(got) {
		t.Errorf("%s: got\n%swant it to match %s", what, clip(got), pattern)
	}
}

func toolTopics(t *testing.T, b *broker) {
	const topic = "tool-topics"
	wantOutput(t, "create", tool(t, b, "topics", "--create", "--topic", topic, "--partitions", "3", "--replication-factor", "1",
		"--config", "retention.ms=3600000"), `^Created topic tool-topics\.\n$`)
	toolRefused(t, b, "TopicExistsException: Topic 'tool-topics' already exists.", "topics", "--create", "--topic", topic)
	toolRefused(t, b, "InvalidReplicationFactorException", "topics", "--create", "--topic", "tool-topics-rf", "--replication-factor", "7")
	describe := func(partitions int) {
		t.Helper()
		out := tool(t, b, "topics", "--describe", "--topic", topic)
		wantOutput(t, "describe", out, fmt.Sprintf(`^Topic: tool-topics\tTopicId: [\w-]{22}\tPartitionCount: %d\tReplicationFactor: 1\tConfigs: (.*,)?retention\.ms=3600000\b`, partitions))
		lines := regexp.MustCompile(`(?m)^\tTopic: tool-topics\tPartition: (\d+)\tLeader: (\d+)\tReplicas: (\d+)\tIsr: (\d+)\t`).FindAllStringSubmatch(out, -1)
		if len(lines) != partitions {
			t.Errorf("describe: %d partitions, want %d:\n%s", len(lines), partitions, out)
		}
		for i, l := range lines {
			if l[1] != strconv.Itoa(i) || l[2] != l[3] || l[3] != l[4] {
				t.Errorf("describe: %q", l[0])
			}
		}
	}
	describe(3)
	tool(t, b, "topics", "--alter", "--topic", topic, "--partitions", "5")
	describe(5)
	toolRefused(t, b, "InvalidPartitionsException", "topics", "--alter", "--topic", topic, "--partitions", "2")
	wantOutput(t, "list", tool(t, b, "topics", "--list"), `(?m)^tool-topics$`)
	if out := tool(t, b, "topics", "--describe", "--topic", topic, "--unavailable-partitions"); strings.TrimSpace(out) != "" {
		t.Errorf("unavailable partitions:\n%s", out)
	}
	tool(t, b, "topics", "--delete", "--topic", topic)
	if out := tool(t, b, "topics", "--list"); strings.Contains(out, topic) {
		t.Errorf("list after delete:\n%s", out)
	}
	toolRefused(t, b, "does not exist as expected", "topics", "--describe", "--topic", topic)
}

func toolTopicConfigs(t *testing.T, b *broker) {
	const topic = "tool-configs"
	b.createTopic(topic, 1, "retention.ms=3600000")
	of := []string{"--entity-type", "topics", "--entity-name", topic}
	wantOutput(t, "alter", tool(t, b, "configs", append(of, "--alter", "--add-config", "max.message.bytes=65536,cleanup.policy=[compact,delete]", "--delete-config", "retention.ms")...),
		`^Completed updating config for topic tool-configs\.\n$`)
	out := tool(t, b, "configs", append(of, "--describe")...)
	wantOutput(t, "describe", out, `(?m)^Dynamic configs for topic tool-configs are:$`)
	wantOutput(t, "describe", out, `(?m)^  cleanup\.policy=compact,delete sensitive=false synonyms=\{DYNAMIC_TOPIC_CONFIG:cleanup\.policy=compact,delete, DEFAULT_CONFIG:log\.cleanup\.policy=delete\}$`)
	wantOutput(t, "describe", out, `(?m)^  max\.message\.bytes=65536 sensitive=false synonyms=\{DYNAMIC_TOPIC_CONFIG:max\.message\.bytes=65536, DEFAULT_CONFIG:message\.max\.bytes=1048588\}$`)
	if strings.Contains(out, "retention.ms") {
		t.Errorf("describe after the deletion of retention.ms:\n%s", out)
	}
	out = tool(t, b, "configs", append(of, "--describe", "--all")...)
	wantOutput(t, "describe all", out, `(?m)^  delete\.retention\.ms=86400000 sensitive=false synonyms=\{DEFAULT_CONFIG:log\.cleaner\.delete\.retention\.ms=86400000\}$`)
	wantOutput(t, "describe all", out, `(?m)^  flush\.ms=9223372036854775807 sensitive=false synonyms=\{\}$`)
	wantOutput(t, "describe all", out, `(?m)^  segment\.bytes=1073741824 sensitive=false synonyms=\{DEFAULT_CONFIG:log\.segment\.bytes=1073741824\}$`)
	toolRefused(t, b, "InvalidConfigurationException: Unknown topic config name: nonsense", "configs", append(of, "--alter", "--add-config", "nonsense=1")...)
	toolRefused(t, b, "InvalidConfigurationException: Invalid value abc for configuration retention.ms", "configs", append(of, "--alter", "--add-config", "retention.ms=abc")...)
}

func toolBrokerConfigs(t *testing.T, b *broker) {
	c := b.client()
	brokers, err := kadm.NewClient(c).ListBrokers(deadline(t, time.Minute))
	must(t, err)
	id := strconv.Itoa(int(brokers[0].NodeID))
	one := []string{"--entity-type", "brokers", "--entity-name", id}
	all := []string{"--entity-type", "brokers", "--entity-default"}
	wantOutput(t, "alter", tool(t, b, "configs", append(all, "--alter", "--add-config", "log.retention.ms=7200000")...), `^Completed updating default config for brokers in the cluster\.\n$`)
	wantOutput(t, "alter", tool(t, b, "configs", append(one, "--alter", "--add-config", "log.retention.ms=7300000")...), `^Completed updating config for broker `+id+`\.\n$`)
	wantOutput(t, "describe default", tool(t, b, "configs", append(all, "--describe")...),
		`(?m)^  log\.retention\.ms=7200000 sensitive=false synonyms=\{DYNAMIC_DEFAULT_BROKER_CONFIG:log\.retention\.ms=7200000\}$`)
	wantOutput(t, "describe", tool(t, b, "configs", append(one, "--describe")...),
		`(?m)^  log\.retention\.ms=7300000 sensitive=false synonyms=\{DYNAMIC_BROKER_CONFIG:log\.retention\.ms=7300000, DYNAMIC_DEFAULT_BROKER_CONFIG:log\.retention\.ms=7200000, DEFAULT_CONFIG:log\.retention\.hours=168\}$`)
	tool(t, b, "configs", append(one, "--alter", "--delete-config", "log.retention.ms")...)
	out := tool(t, b, "configs", append(one, "--describe", "--all")...)
	wantOutput(t, "describe all", out, `(?m)^  log\.retention\.ms=7200000 sensitive=false synonyms=\{DYNAMIC_DEFAULT_BROKER_CONFIG:log\.retention\.ms=7200000, DEFAULT_CONFIG:log\.retention\.hours=168\}$`)
	wantOutput(t, "describe all", out, `(?m)^  message\.max\.bytes=1048588 sensitive=false synonyms=\{DEFAULT_CONFIG:message\.max\.bytes=1048588\}$`)
	toolRefused(t, b, "Invalid value abc for configuration log.retention.ms", "configs", append(one, "--alter", "--add-config", "log.retention.ms=abc")...)
	tool(t, b, "configs", append(all, "--alter", "--delete-config", "log.retention.ms")...)
}

func toolConsole(t *testing.T, b *broker) {
	const topic, partitions, records, keys = "tool-console", 2, 300, 7
	b.createTopic(topic, partitions)
	var in strings.Builder
	want := make([][]string, partitions)
	for i := range records {
		key := fmt.Sprintf("k%d", i%keys)
		fmt.Fprintf(&in, "%s:value %d:é\n", key, i)
		p := murmur2([]byte(key)) % partitions
		want[p] = append(want[p], fmt.Sprintf("Partition:%d\tOffset:%d\t%s\tvalue %d:é\n", p, len(want[p]), key, i))
	}
	toolWithInput(t, b, in.String(), "console-producer", "--topic", topic, "--reader-property", "parse.key=true", "--reader-property", "key.separator=:",
		"--command-property", "enable.idempotence=true")
	show := []string{"--formatter-property", "print.key=true", "--formatter-property", "print.offset=true", "--formatter-property", "print.partition=true"}
	for p, lines := range want {
		if len(lines) < 10 {
			t.Fatalf("partition %d gets only %d records", p, len(lines))
		}
		args := append([]string{"--topic", topic, "--partition", strconv.Itoa(p)}, show...)
		got := tool(t, b, "console-consumer", append(args, "--offset", "earliest", "--max-messages", strconv.Itoa(len(lines)))...)
		if w := strings.Join(lines, ""); got != w {
			t.Errorf("partition %d: got\n%swant\n%s", p, clip(got), clip(w))
		}
		got = tool(t, b, "console-consumer", append(args, "--offset", "5", "--max-messages", "3")...)
		if w := strings.Join(lines[5:8], ""); got != w {
			t.Errorf("partition %d from offset 5: got\n%swant\n%s", p, got, w)
		}
	}
}

func toolGetOffsets(t *testing.T, b *broker) {
	const topic = "tool-offsets"
	b.createTopic(topic, 3)
	base := time.Now().Add(-time.Hour).UnixMilli()
	c := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(topic))
	// Partition 0: times rise. Partition 1: the latest time is in the middle. Partition 2: empty.
	for p, times := range [][]int64{{0, 10, 20, 30, 40, 50}, {0, 10, 99, 30}} {
		for _, at := range times {
			r := &kgo.Record{Partition: int32(p), Value: []byte("v"), Timestamp: time.UnixMilli(base + at)}
			must(t, c.ProduceSync(deadline(t, time.Minute), r).FirstErr())
		}
	}
	for _, c := range []struct{ at, want string }{
		{"latest", topic + ":0:6\n" + topic + ":1:4\n" + topic + ":2:0\n"},
		{"earliest", topic + ":0:0\n" + topic + ":1:0\n" + topic + ":2:0\n"},
		{"max-timestamp", topic + ":0:5\n" + topic + ":1:2\n"},
		{strconv.FormatInt(base+11, 10), topic + ":0:2\n" + topic + ":1:2\n"},
		{strconv.FormatInt(base+50, 10), topic + ":0:5\n" + topic + ":1:2\n"},
		{strconv.FormatInt(base+51, 10), topic + ":1:2\n"},
	} {
		if got := tool(t, b, "get-offsets", "--topic", topic, "--time", c.at); got != c.want {
			t.Errorf("get-offsets --time %s: got\n%swant\n%s", c.at, got, c.want)
		}
	}
}

func toolProducerPerf(t *testing.T, b *broker) {
	const topic, records = "tool-perf", 20000
	b.createTopic(topic, 3)
	var total int64
	for _, props := range [][]string{
		{"acks=0", "enable.idempotence=false"},
		{"acks=1", "enable.idempotence=false", "compression.type=lz4"},
		{"acks=all", "enable.idempotence=false", "compression.type=gzip", "linger.ms=5"},
		{"acks=all", "enable.idempotence=true", "compression.type=zstd", "batch.size=1000"},
		{"acks=all", "enable.idempotence=true", "compression.type=snappy", "max.in.flight.requests.per.connection=5"},
	} {
		args := []string{"--topic", topic, "--num-records", strconv.Itoa(records), "--record-size", "100", "--throughput", "-1"}
		for _, p := range props {
			args = append(args, "--command-property", p)
		}
		wantOutput(t, strings.Join(props, " "), tool(t, b, "producer-perf", args...), `(?m)^20000 records sent, `)
		total += records
		for until := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) { // acks=0: the tool does not wait
			var got int64
			for n := range maps.Values(b.endOffsets(topic)) {
				got += n
			}
			if got == total {
				break
			}
			if got > total || time.Now().After(until) {
				t.Fatalf("%v: the topic holds %d records, want %d", props, got, total)
			}
		}
	}
}

func toolVerifiableProducer(t *testing.T, b *broker) {
	const topic = "tool-verifiable"
	b.createTopic(topic, 1)
	out := tool(t, b, "verifiable-producer", "--topic", topic, "--max-messages", "500", "--acks", "-1")
	next := int64(0)
	for line := range strings.Lines(out) {
		var e struct {
			Name        string
			Value       string
			Offset      int64
			Sent, Acked int64
		}
		must(t, json.Unmarshal([]byte(line), &e))
		switch e.Name {
		case "producer_send_error":
			t.Error(line)
		case "producer_send_success":
			if e.Offset != next || e.Value != strconv.FormatInt(next, 10) {
				t.Errorf("want offset and value %d: %s", next, line)
			}
			next++
		case "tool_data":
			if e.Sent != 500 || e.Acked != 500 {
				t.Error(line)
			}
		}
	}
	if next != 500 {
		t.Errorf("%d records acknowledged, want 500", next)
	}
}

// The versions that Kafka 4.3.1 serves of the APIs without which its tools and clients do not work at all.
var kafkaVersions = map[string]string{
	"Produce(0)": "0 to 13", "Fetch(1)": "4 to 18", "ListOffsets(2)": "1 to 11", "Metadata(3)": "0 to 13", "ApiVersions(18)": "0 to 4",
	"CreateTopics(19)": "2 to 7", "DeleteTopics(20)": "1 to 6", "InitProducerId(22)": "0 to 5", "OffsetForLeaderEpoch(23)": "2 to 4",
	"DescribeConfigs(32)": "1 to 4", "CreatePartitions(37)": "0 to 3", "IncrementalAlterConfigs(44)": "0 to 1",
	"DescribeCluster(60)": "0 to 2", "DescribeTopicPartitions(75)": "0",
}

func toolAPIVersions(t *testing.T, b *broker) {
	patient := filepath.Join(t.TempDir(), "patient.properties") // by itself it gives up after 5 s, which a busy machine may take
	must(t, os.WriteFile(patient, []byte("request.timeout.ms=120000\n"), 0o644))
	out := tool(t, b, "api-versions", "--command-config", patient)
	wantOutput(t, "api-versions", out, `^`+regexp.QuoteMeta(b.addr)+` \(id: \d+ rack: null isFenced: false\) -> \(\n`)
	got := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\t(\w+\(\d+\)): (\d+(?: to \d+)?) \[usable: `).FindAllStringSubmatch(out, -1) {
		got[m[1]] = m[2]
	}
	for _, api := range slices.Sorted(maps.Keys(kafkaVersions)) {
		if got[api] != kafkaVersions[api] {
			t.Errorf("%s: versions %q, Kafka serves %q", api, got[api], kafkaVersions[api])
		}
	}
	if strings.Contains(out, "UNKNOWN") {
		t.Errorf("an API that Kafka does not know:\n%s", out)
	}
}

func toolCluster(t *testing.T, b *broker) {
	c := b.client()
	meta, err := kadm.NewClient(c).BrokerMetadata(deadline(t, time.Minute))
	must(t, err)
	if got, want := tool(t, b, "cluster", "cluster-id"), "Cluster ID: "+meta.Cluster+"\n"; got != want || meta.Cluster == "" {
		t.Errorf("cluster-id: got %q, want %q", got, want)
	}
	host, port, err := net.SplitHostPort(b.addr)
	must(t, err)
	wantOutput(t, "list-endpoints", tool(t, b, "cluster", "list-endpoints"),
		fmt.Sprintf(`(?m)^ID +HOST +PORT +RACK +STATE +ENDPOINT_TYPE *\n%d +%s +%s +null +unfenced +broker *\n$`, meta.Brokers[0].NodeID, regexp.QuoteMeta(host), port))
}
