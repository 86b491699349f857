//go:build clients && linux

package clients

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/test/logtext"
)

// A member is a process that is one member of a group, with one of the clients: java/Member.java, python/member.py, node/member.js,
// sarama/member.go and franzMember below. It subscribes to one topic, or with ^TOPIC.* to a pattern; then partitions of TOPIC-more are told
// as 100 and more. Its assignor is one of the client's, or consumer-NAME for one of the broker's, which makes it speak the consumer
// protocol (KIP-848). It may have the name of an instance (static membership). It never commits by itself, ends when its consumer is of no use any
// more, and obeys one command a line on its standard input:
//
//	commit sync|async      commit the offset after the last record read, of each partition that is owned and was read
//	seek P OFFSET          go to another offset of a partition that is owned
//	pause P, resume P
//	leave                  close the consumer and end; so does the end of the input
//
// It reports one JSON object a line, each with the time t in µs:
//
//	{"event":"assigned"|"revoked"|"lost","partitions":[0,1]}   as the client calls back
//	{"event":"read","partition":0,"offset":7}                  every record
//	{"event":"committed","offsets":{"0":8}}                    a commit that was acknowledged
//	{"event":"done","command":"seek"}                          a command was obeyed; an asynchronous commit goes on
//	{"event":"error","error":"..."} and {"event":"left"}
type memberEvent struct {
	TimeUs     int64            `json:"t"`
	Event      string           `json:"event"`
	Partitions []int32          `json:"partitions,omitempty"`
	Partition  int32            `json:"partition,omitempty"`
	Offset     int64            `json:"offset,omitempty"`
	Offsets    map[string]int64 `json:"offsets,omitempty"`
	Command    string           `json:"command,omitempty"`
	Error      string           `json:"error,omitempty"`
}

const (
	memberHeartbeat = 300 * time.Millisecond // every program has these two as well
	memberFetchWait = 100 * time.Millisecond
	franzMemberArg  = "franz-go-member"
	remoteAssignor  = "consumer-" // the rest is the name of one of the broker's
	moreTopic       = "-more"     // of a pattern's second topic, the partitions of which are told from morePartition on
	morePartition   = 100
)

// member is a running one.
type member struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stderr logtext.Text
	exited chan struct{}

	mu     sync.Mutex // guards what follows
	events []memberEvent
	bad    error // what it wrote cannot be understood
}

// memberCommand starts a member with one of the clients.
func memberCommand(t testing.TB, client string, args ...string) []string {
	t.Helper()
	switch client {
	case "java":
		jars := strings.TrimSpace(run(t, toolPatience, nil, launcher(), "classpath").stdout)
		return append([]string{"java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
			"-cp", filepath.Join(cache(), "java") + string(os.PathListSeparator) + jars, "Member"}, args...)
	case "confluent-kafka", "kafka-python", "aiokafka":
		return append([]string{filepath.Join(cache(), "python", "bin", "python"), filepath.Join(root(), "test", "clients", "python", "member.py"), client}, args...)
	case "kafkajs":
		return append([]string{"node", filepath.Join(root(), "test", "clients", "node", "member.js")}, args...)
	case "sarama":
		return saramaCommand("max", "member", args...)
	case "franz-go":
		self, err := os.Executable()
		must(t, err)
		return append([]string{self, franzMemberArg}, args...)
	}
	t.Fatalf("no client %s", client)
	return nil
}

// startMember starts a member; with an instance's name it is a static one.
func startMember(t testing.TB, b *broker, client, group, topic, name, assignor string, session time.Duration, instance ...string) *member {
	t.Helper()
	command := memberCommand(t, client, append([]string{b.addr, group, topic, name, assignor, strconv.FormatInt(session.Milliseconds(), 10)}, instance...)...)
	m := &member{name: name, cmd: exec.Command(command[0], command[1:]...), exited: make(chan struct{})}
	ownProcess(m.cmd)
	m.cmd.Env = append(os.Environ(), "NODE_PATH="+cache(), "KAFKAJS_NO_PARTITIONER_WARNING=1", "PYTHONUNBUFFERED=1")
	m.cmd.Stderr = &m.stderr
	var err error
	m.stdin, err = m.cmd.StdinPipe()
	must(t, err)
	stdout, err := m.cmd.StdoutPipe()
	must(t, err)
	must(t, m.cmd.Start())
	go func() {
		defer close(m.exited)
		for s := bufio.NewScanner(stdout); s.Scan(); {
			var e memberEvent
			err := json.Unmarshal(s.Bytes(), &e)
			m.mu.Lock()
			if err != nil {
				m.bad = fmt.Errorf("%s says %q: %w", name, s.Text(), err)
			}
			m.events = append(m.events, e)
			m.mu.Unlock()
		}
		_ = m.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = m.cmd.Process.Kill()
		<-m.exited
	})
	return m
}

func (m *member) tell(t testing.TB, format string, args ...any) {
	t.Helper()
	if _, err := fmt.Fprintf(m.stdin, format+"\n", args...); err != nil {
		t.Fatalf("%s: %v\n%s", m.name, err, m.stderr.String())
	}
}

func (m *member) heard() []memberEvent {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.events)
}

// kill ends the member without a word to the broker.
func (m *member) kill(t testing.TB) {
	t.Helper()
	must(t, m.cmd.Process.Signal(syscall.SIGKILL))
	<-m.exited
	m.note("killed")
}

// freeze makes the member stand still, thaw lets it go on.
func (m *member) freeze(t testing.TB) {
	t.Helper()
	must(t, m.cmd.Process.Signal(syscall.SIGSTOP))
	m.note("frozen")
}

func (m *member) thaw(t testing.TB) {
	t.Helper()
	m.note("thawed")
	must(t, m.cmd.Process.Signal(syscall.SIGCONT))
}

// note adds an event that the test has made.
func (m *member) note(event string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events, memberEvent{TimeUs: time.Now().UnixMicro(), Event: event})
}

// owned is what a member owns after events.
func owned(events []memberEvent) map[int32]bool {
	of := map[int32]bool{}
	for _, e := range events {
		switch e.Event {
		case "assigned":
			for _, p := range e.Partitions {
				of[p] = true
			}
		case "revoked", "lost":
			for _, p := range e.Partitions {
				delete(of, p)
			}
		case "left", "killed", "frozen":
			clear(of)
		}
	}
	return of
}

// franzMember is the member with franz-go, in a process of its own like the others.
func franzMember(bootstrap, group, subscription, name, assignor, sessionMs string, instance ...string) error {
	session, err := strconv.Atoi(sessionMs)
	if err != nil {
		return err
	}
	topic := strings.TrimSuffix(strings.TrimPrefix(subscription, "^"), ".*")
	balancers := map[string]kgo.GroupBalancer{"range": kgo.RangeBalancer(), "cooperative-sticky": kgo.CooperativeStickyBalancer(),
		remoteAssignor + "range": kgo.RangeBalancer(), remoteAssignor + "uniform": kgo.StickyBalancer()} // it tells the broker's by its own
	if balancers[assignor] == nil {
		return fmt.Errorf("assignor %s is not known", assignor)
	}
	var more []kgo.Opt
	if strings.HasPrefix(assignor, remoteAssignor) {
		more = append(more, kgo.ServerSideBalancer())
	}
	if subscription != topic {
		more = append(more, kgo.ConsumeRegex())
	}
	if len(instance) > 0 {
		more = append(more, kgo.InstanceID(instance[0]))
	}
	numbers := func(of map[string][]int32) []int32 {
		list := slices.Clone(of[topic])
		for _, p := range of[topic+moreTopic] {
			list = append(list, morePartition+p)
		}
		return slices.Sorted(slices.Values(list))
	}
	partition := func(number int32) (string, int32) {
		if number < morePartition {
			return topic, number
		}
		return topic + moreTopic, number - morePartition
	}
	var mu sync.Mutex // guards standard output and next
	next := map[int32]int64{}
	say := func(event string, e memberEvent) {
		e.Event, e.TimeUs = event, time.Now().UnixMicro()
		text, err := json.Marshal(e)
		if err != nil {
			panic(err)
		}
		fmt.Println(string(text))
	}
	gone := func(event string) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(_ context.Context, _ *kgo.Client, of map[string][]int32) {
			mu.Lock()
			defer mu.Unlock()
			list := numbers(of)
			say(event, memberEvent{Partitions: list})
			for _, p := range list {
				delete(next, p)
			}
		}
	}
	c, err := kgo.NewClient(append(more, kgo.SeedBrokers(bootstrap), kgo.ConsumerGroup(group), kgo.ConsumeTopics(subscription), kgo.ClientID(name),
		kgo.Balancers(balancers[assignor]), kgo.SessionTimeout(time.Duration(session)*time.Millisecond), kgo.HeartbeatInterval(memberHeartbeat),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.FetchMaxWait(memberFetchWait),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, of map[string][]int32) {
			mu.Lock()
			defer mu.Unlock()
			say("assigned", memberEvent{Partitions: numbers(of)})
		}),
		kgo.OnPartitionsRevoked(gone("revoked")), kgo.OnPartitionsLost(gone("lost")))...)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var polling sync.WaitGroup
	polling.Go(func() {
		for ctx.Err() == nil {
			fs := c.PollFetches(ctx)
			mu.Lock()
			fs.EachError(func(_ string, _ int32, err error) {
				if ctx.Err() == nil {
					say("error", memberEvent{Error: "poll: " + err.Error()})
				}
			})
			fs.EachRecord(func(r *kgo.Record) {
				number := numbers(map[string][]int32{r.Topic: {r.Partition}})[0]
				say("read", memberEvent{Partition: number, Offset: r.Offset})
				next[number] = r.Offset + 1
			})
			mu.Unlock()
			c.AllowRebalance()
		}
	})
	commit := func(sync bool) {
		mu.Lock()
		offsets, said := map[string]map[int32]kgo.EpochOffset{}, map[string]int64{}
		for number, o := range next {
			topic, p := partition(number)
			if offsets[topic] == nil {
				offsets[topic] = map[int32]kgo.EpochOffset{}
			}
			offsets[topic][p] = kgo.EpochOffset{Epoch: -1, Offset: o}
			said[strconv.Itoa(int(number))] = o
		}
		mu.Unlock()
		done := make(chan struct{})
		c.CommitOffsets(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
			defer close(done)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				err = commitError(resp)
			}
			if err != nil {
				say("error", memberEvent{Error: "commit: " + err.Error()})
				return
			}
			say("committed", memberEvent{Offsets: said})
		})
		if sync {
			<-done
		}
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan() && in.Text() != "leave"; {
		words := strings.Fields(in.Text())
		var p, offset int64
		if len(words) > 1 && words[0] != "commit" {
			p, _ = strconv.ParseInt(words[1], 10, 32)
		}
		switch words[0] {
		case "commit":
			commit(words[1] == "sync")
		case "seek":
			offset, _ = strconv.ParseInt(words[2], 10, 64)
			topic, p := partition(int32(p))
			c.SetOffsets(map[string]map[int32]kgo.EpochOffset{topic: {p: {Epoch: -1, Offset: offset}}})
		case "pause":
			topic, p := partition(int32(p))
			c.PauseFetchPartitions(map[string][]int32{topic: {p}})
		case "resume":
			topic, p := partition(int32(p))
			c.ResumeFetchPartitions(map[string][]int32{topic: {p}})
		default:
			return fmt.Errorf("cannot %s", in.Text())
		}
		mu.Lock()
		say("done", memberEvent{Command: words[0]})
		mu.Unlock()
	}
	stop()
	polling.Wait()
	c.AllowRebalance()
	c.Close()
	say("left", memberEvent{})
	return nil
}

// commitError is the first error of an answer.
func commitError(resp *kmsg.OffsetCommitResponse) error {
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return err
			}
		}
	}
	return nil
}
