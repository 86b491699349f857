//go:build clients && linux

package clients

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
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
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestKafkaGroupTools: Kafka's tools that are consumers of a group, and those that show and change groups, do with the broker what they do
// with Kafka, print the same and warn of nothing.
func TestKafkaGroupTools(t *testing.T) {
	b := startBroker(t)
	for name, test := range map[string]func(*testing.T, *broker){
		"console": toolGroupConsole, "active group": toolActiveGroup, "reset": toolResetOffsets, "delete": toolDeleteGroups,
		"consumer-perf": toolConsumerPerf, "e2e-latency": toolEndToEndLatency, "verifiable-consumer": toolVerifiableConsumer,
		"offsets topic": toolOffsetsTopic,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, b)
			b.mustRun()
		})
	}
}

// fill writes n records to each partition of a new topic; record i of a partition has the time base + i ms.
func fill(t *testing.T, b *broker, topic string, partitions int32, n int, base time.Time) {
	t.Helper()
	b.createTopic(topic, partitions)
	c := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(topic))
	defer c.Close()
	var batch []*kgo.Record
	for p := range partitions {
		for i := range n {
			batch = append(batch, &kgo.Record{Partition: p, Value: fmt.Appendf(nil, "%d/%d", p, i), Timestamp: base.Add(time.Duration(i) * time.Millisecond)})
		}
	}
	must(t, c.ProduceSync(deadline(t, time.Minute), batch...).FirstErr())
}

// commitAs commits offsets for a group that has no members.
func commitAs(t *testing.T, b *broker, group, topic string, at map[int32]int64) {
	t.Helper()
	offsets := kadm.Offsets{}
	for p, o := range at {
		offsets.AddOffset(topic, p, o, -1)
	}
	done, err := kadm.NewClient(b.client()).CommitOffsets(deadline(t, time.Minute), group, offsets)
	must(t, err)
	must(t, done.Error())
}

// committedOffsets are a group's offsets of a topic, by partition.
func committedOffsets(t *testing.T, b *broker, group, topic string) map[int32]int64 {
	t.Helper()
	at, err := askCommitted(t, b, group, topic)
	must(t, err)
	return at
}

func askCommitted(t *testing.T, b *broker, group, topic string) (map[int32]int64, error) {
	t.Helper()
	c := b.client()
	defer c.Close()
	done, err := kadm.NewClient(c).FetchOffsets(deadline(t, time.Minute), group)
	if err == nil {
		err = done.Error()
	}
	at := map[int32]int64{}
	for p, o := range done[topic] {
		at[p] = o.At
	}
	return at, err
}

// wantFilled demands what fill has written, each record once, as console consumers print it with partition and offset.
func wantFilled(t *testing.T, got []string, partitions, each int) {
	t.Helper()
	var want []string
	for p := range partitions {
		for i := range each {
			want = append(want, fmt.Sprintf("Partition:%d\tOffset:%d\t%d/%d", p, i, p, i))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("together the consumers read\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func toolGroupConsole(t *testing.T, b *broker) {
	const topic, group, partitions, each = "group-console", "tool-console", 3, 10
	fill(t, b, topic, partitions, each, time.Now())
	args := []string{"--topic", topic, "--group", group, "--from-beginning", "--formatter-property", "print.partition=true",
		"--formatter-property", "print.offset=true", "--max-messages"}
	// Four consumers one after the other; each begins where the one before it has committed when it closed.
	var got []string
	for _, n := range []int{7, 1, 12, 10} {
		out := tool(t, b, "console-consumer", append(args, strconv.Itoa(n))...)
		lines := strings.SplitAfter(strings.TrimSuffix(out, "\n"), "\n")
		if len(lines) != n {
			t.Errorf("%d lines, want %d:\n%s", len(lines), n, out)
		}
		for _, l := range lines {
			got = append(got, strings.TrimSpace(l))
		}
	}
	wantFilled(t, got, partitions, each)
	wantOutput(t, "describe", tool(t, b, "consumer-groups", "--describe", "--group", group), `^\n`+
		`GROUP +TOPIC +PARTITION +CURRENT-OFFSET +LOG-END-OFFSET +LAG +CONSUMER-ID +HOST +CLIENT-ID *\n`+
		`tool-console +group-console +0 +10 +10 +0 +- +- +- *\ntool-console +group-console +1 +10 +10 +0 +- +- +- *\ntool-console +group-console +2 +10 +10 +0 +- +- +- *\n$`)
}

// toolActiveGroup looks at a group with a member, which may not be changed.
func toolActiveGroup(t *testing.T, b *broker) {
	const topic, group = "group-active", "tool-active"
	fill(t, b, topic, 2, 10, time.Now())
	assigned := make(chan struct{}, 100)
	c := b.client(kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ClientID("tool-member"), kgo.Balancers(kgo.RangeBalancer()),
		kgo.DisableAutoCommit(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.OnPartitionsAssigned(func(context.Context, *kgo.Client, map[string][]int32) { assigned <- struct{}{} }))
	<-assigned
	done := make(chan error, 1)
	c.CommitOffsetsSync(deadline(t, time.Minute), map[string]map[int32]kgo.EpochOffset{topic: {0: {Epoch: -1, Offset: 3}, 1: {Epoch: -1, Offset: 10}}},
		func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			if err == nil {
				err = commitError(resp)
			}
			done <- err
		})
	must(t, <-done)

	member := `tool-member-[\w-]+ +/127\.0\.0\.1 +tool-member`
	args := []string{"--describe", "--group", group}
	wantOutput(t, "describe", tool(t, b, "consumer-groups", args...), `(?m)^tool-active +group-active +0 +3 +10 +7 +`+member+` *\ntool-active +group-active +1 +10 +10 +0 +`+member+` *\n$`)
	wantOutput(t, "describe verbose", tool(t, b, "consumer-groups", append(args, "--offsets", "--verbose")...),
		`(?m)^GROUP +TOPIC +PARTITION +LEADER-EPOCH +CURRENT-OFFSET +LOG-END-OFFSET +LAG +CONSUMER-ID +HOST +CLIENT-ID *\ntool-active +group-active +0 +- +3 +10 +7 +`+member+` *\n`)
	wantOutput(t, "members", tool(t, b, "consumer-groups", append(args, "--members")...),
		`^\nGROUP +CONSUMER-ID +HOST +CLIENT-ID +#PARTITIONS *\ntool-active +`+member+` +2 *\n$`)
	wantOutput(t, "members verbose", tool(t, b, "consumer-groups", append(args, "--members", "--verbose")...),
		`^\nGROUP +CONSUMER-ID +HOST +CLIENT-ID +#PARTITIONS +CURRENT-EPOCH +CURRENT-ASSIGNMENT +TARGET-EPOCH +TARGET-ASSIGNMENT *\n`+
			`tool-active +`+member+` +2 +- +group-active:0,1 +- +- *\n$`)
	wantOutput(t, "state", tool(t, b, "consumer-groups", append(args, "--state")...),
		`^\nGROUP +COORDINATOR \(ID\) +ASSIGNMENT-STRATEGY +STATE +#MEMBERS\ntool-active +`+regexp.QuoteMeta(b.addr)+` +\(\d+\) +range +Stable +1\n$`)
	wantOutput(t, "state verbose", tool(t, b, "consumer-groups", append(args, "--state", "--verbose")...),
		`^\nGROUP +COORDINATOR \(ID\) +ASSIGNMENT-STRATEGY +STATE +GROUP-EPOCH +TARGET-ASSIGNMENT-EPOCH +#MEMBERS\n`+
			`tool-active +`+regexp.QuoteMeta(b.addr)+` +\(\d+\) +range +Stable +- +- +1\n$`)
	wantOutput(t, "list stable", tool(t, b, "consumer-groups", "--list", "--state", "Stable"), `(?m)^GROUP +STATE *\n(.+\n)*tool-active +Stable *\n`)
	wantOutput(t, "list", tool(t, b, "consumer-groups", "--list"), `(?m)^tool-active$`)
	wantOutput(t, "list classic", tool(t, b, "consumer-groups", "--list", "--type", "classic"), `(?m)^GROUP +TYPE *\n(.+\n)*tool-active +Classic *\n`)
	wantOutput(t, "groups", tool(t, b, "groups", "--list"), `(?m)^GROUP +TYPE +PROTOCOL *\n(.+\n)*tool-active +Classic +consumer *\n`)
	if out := tool(t, b, "consumer-groups", "--list", "--type", "consumer"); strings.Contains(out, group) {
		t.Errorf("a classic group among the groups of type consumer:\n%s", out)
	}

	// The tool ends with 0 even when it may not do what it was told to.
	wantOutput(t, "reset", tool(t, b, "consumer-groups", "--reset-offsets", "--group", group, "--all-topics", "--to-latest", "--execute"),
		`Error: Assignments can only be reset if the group 'tool-active' is inactive, but the current state is Stable\.`)
	wantOutput(t, "delete", tool(t, b, "consumer-groups", "--delete", "--group", group),
		`\* Group 'tool-active' could not be deleted due to: org\.apache\.kafka\.common\.errors\.GroupNotEmptyException: The group is not empty\.`)
	wantOutput(t, "delete-offsets", toolOutput(t, b, "consumer-groups", "--delete-offsets", "--group", group, "--topic", topic), `Error: Encountered some partition-level error, see the follow-up details\.\n`+
		`(?s).*group-active +0 +Error: org\.apache\.kafka\.common\.errors\.GroupSubscribedToTopicException: Deleting offsets of a topic is forbidden while the consumer group is actively subscribed to it\.`)
	c.Close()
	wantOutput(t, "state of the empty group", tool(t, b, "consumer-groups", append(args, "--state")...),
		`^\nGROUP .*\ntool-active +`+regexp.QuoteMeta(b.addr)+` +\(\d+\) +- +Empty +0\n$`)
	if got, want := committedOffsets(t, b, group, topic), (map[int32]int64{0: 3, 1: 10}); !maps.Equal(got, want) {
		t.Errorf("after all that is refused the offsets are %v, want %v", got, want)
	}
}

var newOffset = regexp.MustCompile(`(?m)^(\S+) +(\S+) +(\d+) +(\d+) *$`)

func toolResetOffsets(t *testing.T, b *broker) {
	const topic, other, group = "group-reset", "group-reset-other", "tool-reset"
	base := time.Now().Add(-time.Hour).Truncate(time.Second)
	fill(t, b, topic, 2, 10, base)
	fill(t, b, other, 1, 5, base.Add(50*time.Minute))
	commitAs(t, b, group, topic, map[int32]int64{0: 7, 1: 2})
	commitAs(t, b, group, other, map[int32]int64{0: 4})
	reset := func(args ...string) map[int32]int64 {
		t.Helper()
		out := tool(t, b, "consumer-groups", append([]string{"--reset-offsets", "--group", group}, args...)...)
		wantOutput(t, fmt.Sprint(args), out, `(?m)^GROUP +TOPIC +PARTITION +NEW-OFFSET *\n`)
		to := map[int32]int64{}
		for _, m := range newOffset.FindAllStringSubmatch(out, -1) {
			p, err := strconv.ParseInt(m[3], 10, 32)
			must(t, err)
			o, err := strconv.ParseInt(m[4], 10, 64)
			must(t, err)
			if m[1] != group || m[2] != topic {
				t.Errorf("%v: %s", args, m[0])
			}
			to[int32(p)] = o
		}
		return to
	}
	at := map[int32]int64{0: 7, 1: 2}
	zulu := base.Add(4 * time.Millisecond).UTC().Format("2006-01-02T15:04:05.000Z")
	for _, c := range []struct {
		topic, how string
		want       map[int32]int64
	}{
		{topic, "--to-current", map[int32]int64{0: 7, 1: 2}},
		{topic, "--to-offset 5", map[int32]int64{0: 5, 1: 5}},
		{topic + ":1", "--shift-by 3", map[int32]int64{1: 8}},
		{topic, "--shift-by -4", map[int32]int64{0: 1, 1: 4}},
		{topic, "--to-latest", map[int32]int64{0: 10, 1: 10}},
		{topic + ":0", "--to-earliest", map[int32]int64{0: 0}},
		{topic, "--to-datetime " + zulu, map[int32]int64{0: 4, 1: 4}},
		{topic + ":0,1", "--by-duration P1D", map[int32]int64{0: 0, 1: 0}},
		{topic, "--by-duration PT30M", map[int32]int64{0: 10, 1: 10}}, // nothing is as young
	} {
		args := append([]string{"--topic", c.topic}, strings.Fields(c.how)...)
		if c.how == "--to-offset 5" {
			if got := reset(append(args, "--dry-run")...); !maps.Equal(got, c.want) {
				t.Errorf("%v --dry-run: got %v, want %v", args, got, c.want)
			}
			if got := committedOffsets(t, b, group, topic); !maps.Equal(got, at) {
				t.Errorf("a dry run has changed the offsets from %v to %v", at, got)
			}
		}
		if got := reset(append(args, "--execute")...); !maps.Equal(got, c.want) {
			t.Errorf("%v: got %v, want %v", args, got, c.want)
		}
		maps.Copy(at, c.want)
		if got := committedOffsets(t, b, group, topic); !maps.Equal(got, at) {
			t.Fatalf("%v: the offsets are %v, want %v", args, got, at)
		}
	}
	// Beyond the end it warns and takes the end.
	args := []string{"consumer-groups", "--reset-offsets", "--group", group, "--topic", topic + ":0", "--to-offset", "99", "--execute"}
	wantOutput(t, "to-offset 99", toolOutput(t, b, args...), `New offset \(99\) is higher than latest offset for topic partition group-reset-0\. Value will be set to 10`)

	// Both topics to a file, back from an edited file.
	exported := tool(t, b, "consumer-groups", "--reset-offsets", "--group", group, "--all-topics", "--to-current", "--export", "--dry-run")
	lines := strings.Fields(exported)
	slices.Sort(lines)
	if want := []string{"group-reset,0,10", "group-reset,1,10", "group-reset-other,0,4"}; !slices.Equal(lines, want) {
		t.Errorf("exported\n%s\nwant %v", exported, want)
	}
	file := filepath.Join(t.TempDir(), "offsets.csv")
	must(t, os.WriteFile(file, []byte("group-reset,0,3\ngroup-reset-other,0,1\n"), 0o644))
	tool(t, b, "consumer-groups", "--reset-offsets", "--group", group, "--from-file", file, "--execute")
	if got := committedOffsets(t, b, group, topic); !maps.Equal(got, map[int32]int64{0: 3, 1: 10}) {
		t.Errorf("from-file: the offsets are %v", got)
	}
	if got := committedOffsets(t, b, group, other); !maps.Equal(got, map[int32]int64{0: 1}) {
		t.Errorf("from-file: the offsets of %s are %v", other, got)
	}
	// A group that has never been there gets its first offsets.
	tool(t, b, "consumer-groups", "--reset-offsets", "--group", "tool-reset-new", "--topic", other, "--to-offset", "2", "--execute")
	if got := committedOffsets(t, b, "tool-reset-new", other); !maps.Equal(got, map[int32]int64{0: 2}) {
		t.Errorf("the new group's offsets are %v", got)
	}
}

func toolDeleteGroups(t *testing.T, b *broker) {
	const topic, other = "group-delete", "group-delete-other"
	fill(t, b, topic, 2, 3, time.Now())
	fill(t, b, other, 1, 3, time.Now())
	for _, group := range []string{"tool-delete-1", "tool-delete-2"} {
		commitAs(t, b, group, topic, map[int32]int64{0: 1, 1: 2})
		commitAs(t, b, group, other, map[int32]int64{0: 3})
	}
	wantOutput(t, "delete-offsets", tool(t, b, "consumer-groups", "--delete-offsets", "--group", "tool-delete-1", "--topic", topic+":1"),
		`^Request succeeded for deleting offsets from group tool-delete-1\.\n\nTOPIC +PARTITION +STATUS *\ngroup-delete +1 +Successful *\n`)
	if got := committedOffsets(t, b, "tool-delete-1", topic); !maps.Equal(got, map[int32]int64{0: 1}) {
		t.Errorf("after delete-offsets of partition 1 the offsets are %v", got)
	}
	tool(t, b, "consumer-groups", "--delete-offsets", "--group", "tool-delete-1", "--topic", topic)
	if got := committedOffsets(t, b, "tool-delete-1", topic); len(got) > 0 {
		t.Errorf("after delete-offsets of the topic there are the offsets %v", got)
	}
	if got := committedOffsets(t, b, "tool-delete-1", other); !maps.Equal(got, map[int32]int64{0: 3}) {
		t.Errorf("after delete-offsets the offsets of the other topic are %v", got)
	}
	out := tool(t, b, "consumer-groups", "--delete", "--group", "tool-delete-1", "--group", "tool-delete-2")
	wantOutput(t, "delete", out, `^Deletion of requested consumer groups \('tool-delete-[12]', 'tool-delete-[12]'\) was successful\.\n$`)
	wantOutput(t, "delete again", tool(t, b, "consumer-groups", "--delete", "--group", "tool-delete-1"),
		`\* Group 'tool-delete-1' could not be deleted due to: org\.apache\.kafka\.common\.errors\.GroupIdNotFoundException: The group id does not exist\.`)
	wantOutput(t, "describe", toolOutput(t, b, "consumer-groups", "--describe", "--group", "tool-delete-1"),
		`GroupIdNotFoundException: Group tool-delete-1 not found\.`)
	if out := tool(t, b, "consumer-groups", "--list"); strings.Contains(out, "tool-delete") {
		t.Errorf("list after delete:\n%s", out)
	}
	if got := committedOffsets(t, b, "tool-delete-2", topic); len(got) > 0 {
		t.Errorf("a deleted group has the offsets %v", got)
	}
}

// toolOutput is all that a tool prints, whether it is content or not.
func toolOutput(t *testing.T, b *broker, args ...string) string {
	t.Helper()
	r, _ := try(t, toolPatience, nil, launcher(), append(args, "--bootstrap-server", b.addr)...)
	return r.stdout + r.stderr
}

func toolConsumerPerf(t *testing.T, b *broker) {
	const topic, records = "group-perf", 5000
	fill(t, b, topic, 2, records/2, time.Now())
	out := tool(t, b, "consumer-perf", "--topic", topic, "--group", "tool-perf", "--num-records", strconv.Itoa(records))
	wantOutput(t, "consumer-perf", out, `(?m)^start\.time, end\.time, .*\n[^,]+, [^,]+, [^,]+, [^,]+, 5000, `)
	if got := committedOffsets(t, b, "tool-perf", topic); !maps.Equal(got, map[int32]int64{0: records / 2, 1: records / 2}) {
		t.Errorf("it has committed %v", got)
	}
}

func toolEndToEndLatency(t *testing.T, b *broker) {
	b.createTopic("group-e2e", 1)
	for _, acks := range []string{"1", "all"} {
		out := tool(t, b, "e2e-latency", "--topic", "group-e2e", "--num-records", "50", "--producer-acks", acks, "--record-size", "64")
		wantOutput(t, "e2e-latency", out, `(?m)^Avg latency: [\d.]+ ms\n\n?Percentiles: 50th = \d+, 99th = \d+, 99\.9th = \d+\n`)
	}
}

func toolVerifiableConsumer(t *testing.T, b *broker) {
	const topic, records = "group-verifiable", 600
	b.createTopic(topic, 3)
	wantOutput(t, "verifiable-producer", tool(t, b, "verifiable-producer", "--topic", topic, "--max-messages", strconv.Itoa(records), "--acks", "-1"), `"acked":600`)
	next := map[int32]int64{}
	var names []string
	for range 2 { // the second begins at the end of the first
		out := tool(t, b, "verifiable-consumer", "--topic", topic, "--group-id", "tool-verifiable", "--max-messages", strconv.Itoa(records/2), "--verbose")
		for line := range strings.Lines(out) {
			var e struct {
				Name      string
				Partition int32
				Offset    int64
				Success   *bool
			}
			must(t, json.Unmarshal([]byte(line), &e))
			if !slices.Contains(names, e.Name) {
				names = append(names, e.Name)
			}
			if e.Success != nil && !*e.Success {
				t.Error(line)
			}
			if e.Name == "record_data" {
				if e.Offset != next[e.Partition] {
					t.Errorf("want offset %d: %s", next[e.Partition], line)
				}
				next[e.Partition] = e.Offset + 1
			}
		}
	}
	for _, name := range []string{"startup_complete", "partitions_assigned", "records_consumed", "offsets_committed", "partitions_revoked", "shutdown_complete"} {
		if !slices.Contains(names, name) {
			t.Errorf("no %s among %v", name, names)
		}
	}
	total := int64(0)
	for _, n := range next {
		total += n
	}
	if total != records {
		t.Errorf("%d records consumed, want %d", total, records)
	}
}

// toolOffsetsTopic reads __consumer_offsets with the formatters that Kafka has for it.
func toolOffsetsTopic(t *testing.T, b *broker) {
	const topic, group = "group-offsets-topic", "tool-offsets-topic"
	fill(t, b, topic, 1, 5, time.Now())
	tool(t, b, "console-consumer", "--topic", topic, "--group", group, "--from-beginning", "--max-messages", "4")
	p := consumerOffsetsPartition(group)
	end := b.endOffsets("__consumer_offsets")[p]
	read := func(formatter string, records int) string {
		t.Helper()
		return tool(t, b, "console-consumer", "--topic", "__consumer_offsets", "--partition", strconv.Itoa(int(p)), "--offset", "earliest",
			"--formatter", "org.apache.kafka.tools.consumer."+formatter, "--max-messages", strconv.Itoa(records))
	}
	if end < 3 { // its generation, an offset, its end
		t.Fatalf("partition %d of __consumer_offsets has %d records", p, end)
	}
	wantOutput(t, "offsets", read("OffsetsMessageFormatter", 1)+read("OffsetsMessageFormatter", int(end)),
		`\{"key":\{"type":1,"data":\{"group":"tool-offsets-topic","topic":"group-offsets-topic","partition":0\}\},`+
			`"value":\{"version":4,"data":\{"offset":4,"leaderEpoch":-?\d+,"metadata":"","commitTimestamp":\d+,"topicId":"[\w-]{22}"\}\}\}`)
	wantOutput(t, "groups", read("GroupMetadataMessageFormatter", int(end)),
		`\{"key":\{"type":2,"data":\{"group":"tool-offsets-topic"\}\},"value":\{"version":3,"data":\{"protocolType":"consumer","generation":1,"protocol":"range",`+
			`"leader":"console-consumer-[\w-]+","currentStateTimestamp":\d+,"members":\[\{"memberId":"console-consumer-[\w-]+","groupInstanceId":null,`+
			`"clientId":"console-consumer","clientHost":"/127\.0\.0\.1","rebalanceTimeout":300000,"sessionTimeout":45000,"subscription":"[\w+/=]+","assignment":"[\w+/=]+"\}\]\}\}\}`)
}

// consumerOffsetsPartition is where a group's records are: the absolute value of Java's hash of its name over 50 partitions.
func consumerOffsetsPartition(group string) int32 {
	var h int32
	for _, c := range []byte(group) { // ASCII
		h = 31*h + int32(c)
	}
	if h < 0 {
		h = -h
	}
	return h % 50
}

// TestDumpOffsets: Kafka's reader of log directories understands the records of groups that the broker has written.
func TestDumpOffsets(t *testing.T) {
	b := startBroker(t)
	const topic, group = "dump-offsets", "dumped"
	fill(t, b, topic, 2, 5, time.Now())
	tool(t, b, "console-consumer", "--topic", topic, "--group", group, "--from-beginning", "--max-messages", "10")
	tool(t, b, "consumer-groups", "--delete-offsets", "--group", group, "--topic", topic+":1")
	b.stop()
	logs, err := filepath.Glob(filepath.Join(b.logDir(), fmt.Sprintf("__consumer_offsets-%d", consumerOffsetsPartition(group)), "*.log"))
	must(t, err)
	out := dump(t, logs, "--offsets-decoder", "--print-data-log")
	for what, pattern := range map[string]string{
		"a commit": `key: \{"type":"1","data":\{"group":"dumped","topic":"dump-offsets","partition":1\}\} payload: ` +
			`\{"version":"4","data":\{"offset":5,"leaderEpoch":-?\d+,"metadata":"","commitTimestamp":\d+,"topicId":"[\w-]{22}"\}\}`,
		"a deletion": `key: \{"type":"1","data":\{"group":"dumped","topic":"dump-offsets","partition":1\}\} payload: <DELETE>`,
		"a generation": `key: \{"type":"2","data":\{"group":"dumped"\}\} payload: \{"version":"3","data":\{"protocolType":"consumer","generation":1,"protocol":"range",` +
			`"leader":"console-consumer-[\w-]+","currentStateTimestamp":\d+,"members":\[\{"memberId":"console-consumer-[\w-]+","groupInstanceId":null,` +
			`"clientId":"console-consumer","clientHost":"/127\.0\.0\.1","rebalanceTimeout":300000,"sessionTimeout":45000,` +
			`"subscription":\{"topics":\["dump-offsets"\],.*"assignment":\{"assignedPartitions":\[\{"topic":"dump-offsets","partitions":\[0,1\]\}\],"userData":null\}\}\]\}\}`,
		"an empty group": `key: \{"type":"2","data":\{"group":"dumped"\}\} payload: \{"version":"3","data":\{"protocolType":"consumer","generation":2,"protocol":null,` +
			`"leader":null,"currentStateTimestamp":\d+,"members":\[\]\}\}`,
	} {
		wantOutput(t, what, out, pattern)
	}
}
