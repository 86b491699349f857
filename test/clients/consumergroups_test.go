//go:build clients && linux

package clients

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// consumerProtocol are the settings of Kafka's consumer that make it speak the consumer protocol (KIP-848).
var consumerProtocol = []string{"--command-property", "group.protocol=consumer"}

// TestConsumerGroupTools: Kafka's consumers of the consumer protocol, and the tools that show and change their groups, do with the
// broker what they do with Kafka.
func TestConsumerGroupTools(t *testing.T) {
	b := startBroker(t)
	for name, test := range map[string]func(*testing.T, *broker){
		"console": toolConsumerConsole, "verifiable-consumer": toolConsumerVerifiable, "active group": toolActiveConsumerGroup, "pattern": toolConsumerPattern,
		"dump": toolDumpConsumerGroup, "librdkafka": librdkafkaConsumerProtocol,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, b)
			b.mustRun()
		})
	}
}

func toolConsumerConsole(t *testing.T, b *broker) {
	const topic, group, partitions, each = "next-console", "tool-next-console", 3, 10
	fill(t, b, topic, partitions, each, time.Now())
	args := []string{"--topic", topic, "--group", group, "--from-beginning", "--formatter-property", "print.partition=true",
		"--formatter-property", "print.offset=true", "--max-messages"}
	var got []string
	for _, n := range []int{7, 1, 12, 10} {
		out := tool(t, b, "console-consumer", append(append(slices.Clone(args), strconv.Itoa(n)), consumerProtocol...)...)
		for l := range strings.Lines(out) {
			got = append(got, strings.TrimSpace(l))
		}
	}
	wantFilled(t, got, partitions, each)
	wantOutput(t, "describe", tool(t, b, "consumer-groups", "--describe", "--group", group),
		`tool-next-console +next-console +0 +10 +10 +0 +- +- +- *\n`)
	wantOutput(t, "list", tool(t, b, "consumer-groups", "--list", "--type", "consumer", "--state"), `(?m)^tool-next-console +Consumer +Empty *$`)
	tool(t, b, "consumer-groups", "--reset-offsets", "--to-offset", "4", "--topic", topic, "--group", group, "--execute")
	if at := committedOffsets(t, b, group, topic); at[0] != 4 || at[2] != 4 {
		t.Errorf("committed after a reset: %v", at)
	}
	tool(t, b, "consumer-groups", "--delete", "--group", group)
	gone := run(t, toolPatience, nil, launcher(), "consumer-groups", "--bootstrap-server", b.addr, "--describe", "--group", group)
	wantOutput(t, "what is gone", gone.stdout, "Group tool-next-console not found")
}

func toolConsumerVerifiable(t *testing.T, b *broker) {
	const topic, records = "next-verifiable", 600
	b.createTopic(topic, 3)
	tool(t, b, "verifiable-producer", "--topic", topic, "--max-messages", strconv.Itoa(records), "--acks", "-1")
	for range 2 { // the second begins at the end of the first
		out := tool(t, b, "verifiable-consumer", "--topic", topic, "--group-id", "tool-next-verifiable", "--group-protocol", "consumer", "--group-remote-assignor", "range",
			"--max-messages", strconv.Itoa(records/2))
		for _, name := range []string{"startup_complete", "partitions_assigned", "records_consumed", "offsets_committed", "partitions_revoked", "shutdown_complete"} {
			if !strings.Contains(out, `"name":"`+name+`"`) {
				t.Errorf("no %s in\n%s", name, clip(out))
			}
		}
	}
	total := int64(0)
	for _, at := range committedOffsets(t, b, "tool-next-verifiable", topic) {
		total += at
	}
	if total != records {
		t.Errorf("%d records are committed, want %d", total, records)
	}
}

// toolActiveConsumerGroup looks at a group with members of both protocols, which may not be changed.
func toolActiveConsumerGroup(t *testing.T, b *broker) {
	const topic, group = "next-active", "tool-next-active"
	fill(t, b, topic, 4, 10, time.Now())
	opts := []kgo.Opt{kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.HeartbeatInterval(100 * time.Millisecond)}
	for _, extra := range [][]kgo.Opt{{kgo.ClientID("old"), kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.InstanceID("one")}, {kgo.ClientID("new"), kgo.ServerSideBalancer()}} {
		c := b.client(append(slices.Clone(opts), extra...)...)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for !c.PollFetches(t.Context()).IsClientClosed() && t.Context().Err() == nil {
			}
		}()
		defer func() { c.Close(); <-done }()
	}
	describe := func(more ...string) string {
		return tool(t, b, "consumer-groups", append([]string{"--describe", "--group", group}, more...)...)
	}
	await := time.Now().Add(time.Minute)
	for !regexp.MustCompile(`uniform +Stable +2`).MatchString(describe("--state")) {
		if time.Now().After(await) {
			t.Fatal(describe("--state"))
		}
	}
	wantOutput(t, "state", describe("--state", "--verbose"), `GROUP +COORDINATOR \(ID\) +ASSIGNMENT-STRATEGY +STATE +GROUP-EPOCH +TARGET-ASSIGNMENT-EPOCH +#MEMBERS *\n`+
		`tool-next-active +127\.0\.0\.1:\d+ *\(1\) +uniform +Stable +(\d+) +\d+ +2 *\n`)
	members := describe("--members", "--verbose")
	wantOutput(t, "members", members, `GROUP +CONSUMER-ID +GROUP-INSTANCE-ID +HOST +CLIENT-ID +#PARTITIONS +CURRENT-EPOCH +CURRENT-ASSIGNMENT +TARGET-EPOCH +TARGET-ASSIGNMENT +UPGRADED`)
	wantOutput(t, "the old member", members, `/127\.0\.0\.1 +old +2 +\d+ +next-active:[\d,]+ +\d+ +next-active:[\d,]+ +false`)
	wantOutput(t, "the new member", members, `/127\.0\.0\.1 +new +2 +\d+ +next-active:[\d,]+ +\d+ +next-active:[\d,]+ +true`)
	bin, err := moldau()
	must(t, err)
	ours := run(t, toolPatience, nil, bin, "group", "describe", group, "-b", b.addr).stdout
	wantOutput(t, "moldau group describe", ours, `Group +tool-next-active \(consumer\)\nState +Stable, 2 members, assignor uniform\n`)
	wantOutput(t, "moldau group list", run(t, toolPatience, nil, bin, "group", "list", "-b", b.addr).stdout, `tool-next-active +consumer +Stable`)
	tool(t, b, "configs", "--alter", "--entity-type", "groups", "--entity-name", group, "--add-config", "consumer.heartbeat.interval.ms=6000")
	wantOutput(t, "configs", tool(t, b, "configs", "--describe", "--entity-type", "groups", "--entity-name", group), "consumer.heartbeat.interval.ms=6000")
	refused := run(t, toolPatience, nil, launcher(), "consumer-groups", "--bootstrap-server", b.addr, "--delete", "--group", group)
	wantOutput(t, "delete", refused.stdout, "The group is not empty")
	wantOutput(t, "delete offsets", tool(t, b, "consumer-groups", "--delete-offsets", "--group", group, "--topic", topic), "(?i)subscribed|active")
}

// toolConsumerPattern: Java's consumer sends a pattern to the broker (KIP-1082 clients do with SubscriptionPattern); the console consumer's --include is resolved there.
func toolConsumerPattern(t *testing.T, b *broker) {
	fill(t, b, "next-pattern-a", 1, 5, time.Now())
	fill(t, b, "next-pattern-b", 1, 5, time.Now())
	out := tool(t, b, "console-consumer", append([]string{"--include", "next-pattern-.*", "--group", "tool-next-pattern", "--from-beginning", "--max-messages", "10"}, consumerProtocol...)...)
	if n := strings.Count(out, "0/"); n != 10 {
		t.Errorf("%d records:\n%s", n, out)
	}
}

// toolDumpConsumerGroup: Kafka's formatter and its reader of log directories understand the records of consumer groups.
func toolDumpConsumerGroup(t *testing.T, b *broker) {
	const topic, group = "next-dump", "tool-next-dump"
	fill(t, b, topic, 2, 5, time.Now())
	tool(t, b, "console-consumer", append([]string{"--topic", topic, "--group", group, "--from-beginning", "--max-messages", "10"}, consumerProtocol...)...)
	logs, err := filepath.Glob(filepath.Join(b.logDir(), fmt.Sprintf("__consumer_offsets-%d", consumerOffsetsPartition(group)), "*.log"))
	must(t, err)
	out := dump(t, logs, "--offsets-decoder", "--print-data-log")
	for _, want := range []string{
		`\{"type":"3","data":\{"groupId":"tool-next-dump"\}\} payload: \{"version":"0","data":\{"epoch":2,"metadataHash":-?\d+\}\}`,
		`\{"type":"5","data":\{"groupId":"tool-next-dump","memberId":"[\w-]{22}"\}\} payload: \{"version":"0","data":\{"instanceId":null,"rackId":null,"clientId":"console-consumer","clientHost":"/127\.0\.0\.1","subscribedTopicNames":\["next-dump"\],"subscribedTopicRegex":"","rebalanceTimeoutMs":300000,"serverAssignor":null\}\}`,
		`\{"type":"6","data":\{"groupId":"tool-next-dump"\}\} payload: \{"version":"0","data":\{"assignmentEpoch":2,"assignmentTimestamp":\d+\}\}`,
		`\{"type":"7","data":\{"groupId":"tool-next-dump","memberId":"[\w-]{22}"\}\} payload: \{"version":"0","data":\{"topicPartitions":\[\{"topicId":"[\w-]{22}","partitions":\[0,1\]\}\]\}\}`,
		`\{"type":"8","data":\{"groupId":"tool-next-dump","memberId":"[\w-]{22}"\}\} payload: \{"version":"0","data":\{"memberEpoch":2,"previousMemberEpoch":0,"state":0,"assignedPartitions":\[\{"topicId":"[\w-]{22}","partitions":\[0,1\],"assignmentEpochs":\[2,2\]\}\],"partitionsPendingRevocation":\[\]\}\}`,
	} {
		wantOutput(t, "dump", out, want)
	}
}

// librdkafkaConsumerProtocol: so does librdkafka, by name and by pattern; the second begins where the first has committed.
func librdkafkaConsumerProtocol(t *testing.T, b *broker) {
	const topic, group = "next-rdkafka", "next-rdkafka"
	fill(t, b, topic, 3, 10, time.Now())
	var got []string
	for _, subscription := range []string{topic, "^next-rdk.*"} {
		out := run(t, toolPatience, nil, filepath.Join(cache(), "python", "bin", "python"), filepath.Join(root(), "test", "clients", "python", "consumer_protocol.py"),
			b.addr, group, subscription, "15").stdout
		got = append(got, strings.Fields(out)...)
	}
	slices.Sort(got)
	if n := len(slices.Compact(got)); n != 30 {
		t.Errorf("%d different records of 30: %v", n, got)
	}
}
