//go:build clients && linux

package clients

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// toolsOfActive and toolsOfEmpty are what kafka-consumer-groups is told about a group with two members, and about the same one when they have
// left. G is the group, T its topic.
var (
	toolsOfActive = []string{
		"--list", "--list --state", "--list --type", "--list --state Stable", "--list --state Empty", "--list --type classic", "--list --type consumer",
		"--describe --group G", "--describe --group G --offsets --verbose",
		"--describe --group G --state", "--describe --group G --state --verbose",
		"--describe --group G --members", "--describe --group G --members --verbose",
		"--describe --all-groups --state",
		"--reset-offsets --group G --topic T --to-earliest --execute",
		"--delete-offsets --group G --topic T",
		"--delete --group G",
		"--describe --group G-not",
	}
	toolsOfEmpty = []string{
		"--list --state", "--list --type", "--list --state Empty",
		"--describe --group G", "--describe --group G --offsets --verbose",
		"--describe --group G --state --verbose", "--describe --group G --members --verbose",
		"--reset-offsets --group G --topic T --to-earliest",
		"--reset-offsets --group G --topic T --to-earliest --dry-run",
		"--reset-offsets --group G --topic T:1,2 --to-offset 7 --execute",
		"--reset-offsets --group G --topic T:3 --shift-by -4 --execute",
		"--reset-offsets --group G --topic T:3 --shift-by 100 --execute",
		"--reset-offsets --group G --all-topics --to-current --export --dry-run",
		"--reset-offsets --group G --topic T:0 --to-latest --execute",
		"--reset-offsets --group G --topic T:0 --by-duration P1D --execute",
		"--describe --group G",
		"--delete-offsets --group G --topic T:1",
		"--delete-offsets --group G --topic T-not",
		"--describe --group G --offsets",
		"--delete --group G",
		"--delete --group G",
		"--describe --group G",
		"--describe --group G --state",
		"--describe --group G --members",
		"--list",
	}
)

// TestGroupToolsParity: kafka-consumer-groups prints the same of groups of either protocol, and of both, with Apache Kafka and with Moldau, member ids and
// addresses aside, whatever it is told to show, reset and delete. What it has printed with Kafka is in testdata/parity; see
// TestGroupsParity for PARITY.
func TestGroupToolsParity(t *testing.T) {
	mode := parityMode(t)
	for _, c := range []struct {
		name     string
		one, two kgo.Opt
	}{
		{"tools-classic", kgo.Balancers(kgo.RangeBalancer()), kgo.Balancers(kgo.RangeBalancer())},
		{"tools-consumer", kgo.ServerSideBalancer(), kgo.ServerSideBalancer()},
		{"tools-mixed", kgo.Balancers(kgo.CooperativeStickyBalancer()), kgo.ServerSideBalancer()},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := groupTranscript(t, startBroker(t, parityProps...), c.name, c.one, c.two)
			want := kafkasLog(t, mode, c.name, got, func() string {
				peer := newBrokerOf(t, true, parityProps...)
				peer.start()
				return groupTranscript(t, peer, c.name, c.one, c.two)
			})
			if diff := stepDiff("$ ", got, want, allowedIn(c.name)); diff != "" {
				t.Errorf("what the tool prints differs from Kafka's (-) in\n%s", diff)
			}
			if diff := stepDiff("$ ", strings.Replace(got, " 2 ", " 3 ", 1), want, allowedIn(c.name)); diff == "" {
				t.Error("the comparison does not see a number that is wrong")
			}
		})
	}
}

// groupState is the state of a group of either protocol.
func groupState(t *testing.T, admin *kadm.Client, group string) string {
	t.Helper()
	next, err := admin.DescribeConsumerGroups(deadline(t, time.Minute), group)
	must(t, err)
	if g := next[group]; g.Err == nil {
		return g.State
	}
	classic, err := admin.DescribeGroups(deadline(t, time.Minute), group)
	must(t, err)
	return classic[group].State
}

// groupTranscript makes a group of two members and lets the tool loose on it.
func groupTranscript(t *testing.T, b *broker, name string, one, two kgo.Opt) string {
	t.Helper()
	const partitions, committed, more = 4, 10, 5
	fill(t, b, name, partitions, committed, time.Now())
	admin := kadm.NewClient(b.client())
	var mu sync.Mutex // guards read
	read := 0
	var clients []*kgo.Client
	var polling sync.WaitGroup
	state := func() string { return groupState(t, admin, name) }
	await := func(what string, is func() bool) {
		t.Helper()
		for until := time.Now().Add(parityPatience); !is(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("not after %v: %s; the group is %s", parityPatience, what, state())
			}
		}
	}
	for i, kind := range []kgo.Opt{one, two} {
		id := []string{"one", "two"}[i]
		var has sync.Map
		c := b.client(kind, kgo.ClientID(id), kgo.ConsumerGroup(name), kgo.ConsumeTopics(name), kgo.DisableAutoCommit(), kgo.HeartbeatInterval(memberHeartbeat),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, of map[string][]int32) {
				for _, p := range of[name] {
					has.Store(p, true)
				}
			}))
		polling.Go(func() {
			for {
				f := c.PollFetches(context.Background())
				if f.IsClientClosed() {
					return
				}
				mu.Lock()
				read += f.NumRecords()
				mu.Unlock()
			}
		})
		clients = append(clients, c)
		await(id+" has partitions", func() bool {
			n := 0
			has.Range(func(any, any) bool { n++; return true })
			return n >= partitions/len(clients) && state() == "Stable"
		})
		if id == "one" {
			await("all is read", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return read == partitions*committed
			})
			must(t, c.CommitUncommittedOffsets(deadline(t, time.Minute)))
		}
	}
	w := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(name))
	for p := range int32(partitions) {
		for range more {
			must(t, w.ProduceSync(deadline(t, time.Minute), &kgo.Record{Partition: p, Value: []byte("more")}).FirstErr())
		}
	}
	tell := func(lines []string) string {
		t.Helper()
		return toolTranscript(t, b, "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand", strings.NewReplacer("G", name, "T", name).Replace(strings.Join(lines, "\n")))
	}
	text := tell(toolsOfActive)
	for _, c := range clients {
		c.Close()
	}
	polling.Wait()
	await("the group is empty", func() bool { return state() == "Empty" })
	text += tell(toolsOfEmpty)
	return normalTranscript(text, b.addr)
}

// toolTranscript is what one of Kafka's tools prints when it is told each of the lines.
func toolTranscript(t *testing.T, b *broker, class, lines string) string {
	t.Helper()
	jars := strings.TrimSpace(run(t, toolPatience, nil, launcher(), "classpath").stdout)
	return run(t, toolPatience, strings.NewReader(lines+"\n"), "java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error",
		"-cp", filepath.Join(cache(), "java")+string(os.PathListSeparator)+jars, "Tool", class, b.addr).stdout
}

var (
	toolMemberID = regexp.MustCompile(`(one|two)-[0-9a-f-]{36}|[\w-]{22}==`)
	toolSpaces   = regexp.MustCompile(` +`)
)

// normalTranscript leaves out what is never the same, member ids, addresses, the widths of columns and the order of lines, and where in the tool an
// error came up.
func normalTranscript(text, addr string) string {
	text = toolMemberID.ReplaceAllString(strings.ReplaceAll(text, addr, "ADDRESS"), "ID")
	text = toolSpaces.ReplaceAllString(text, " ")
	var out strings.Builder
	for part := range strings.SplitSeq(text, "$ ") {
		if part == "" {
			continue
		}
		lines := strings.Split(part, "\n")
		out.WriteString("$ " + lines[0] + "\n")
		lines = lines[1:]
		slices.Sort(lines)
		for _, l := range lines {
			if l = strings.TrimSpace(l); l != "" && !strings.HasPrefix(l, "at ") {
				out.WriteString(l + "\n")
			}
		}
	}
	return out.String()
}
