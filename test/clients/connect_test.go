//go:build clients && linux

package clients

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"moldau/test/logtext"
)

// connectPatience is long: Connect takes half a minute to begin on a busy machine.
const connectPatience = 4 * time.Minute

// program is one of Kafka's programs that runs until it is told to end.
type program struct {
	t      *testing.T
	name   string
	cmd    *exec.Cmd
	log    logtext.Text
	exited chan struct{}
}

func startProgram(t *testing.T, name, properties string) *program {
	t.Helper()
	file := filepath.Join(t.TempDir(), name+".properties")
	must(t, os.WriteFile(file, []byte(properties), 0o644))
	p := &program{t: t, name: name, cmd: exec.Command(launcher(), name, file), exited: make(chan struct{})}
	ownProcess(p.cmd)
	p.cmd.Stdout, p.cmd.Stderr = &p.log, &p.log
	must(t, p.cmd.Start())
	go func() { _ = p.cmd.Wait(); close(p.exited) }()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("%s says:\n%s", name, clip(p.log.String()))
		}
	})
	return p
}

func (p *program) stop() {
	p.t.Helper()
	must(p.t, p.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-p.exited:
	case <-time.After(stopPatience):
		p.t.Errorf("%s has not ended after SIGTERM", p.name)
	}
}

// eventually waits for something that programs do by themselves; is says what is missing.
func eventually(t *testing.T, what string, is func() error, programs ...*program) {
	t.Helper()
	for until := time.Now().Add(connectPatience); ; time.Sleep(200 * time.Millisecond) {
		err := is()
		if err == nil {
			return
		}
		for _, p := range programs {
			select {
			case <-p.exited:
				t.Fatalf("%s has ended: %v", p.name, p.cmd.ProcessState)
			default:
			}
		}
		if time.Now().After(until) {
			t.Fatalf("not after %v: %s: %v", connectPatience, what, err)
		}
	}
}

// TestMirrorMaker: MirrorMaker 2 copies a topic with its configuration and a group's offsets from Apache Kafka to the broker, and other
// ones from the broker to Kafka: records, offsets, times and headers are the same, and the group finds its place.
func TestMirrorMaker(t *testing.T) {
	a := newBrokerOf(t, true)
	a.start()
	b := startBroker(t)
	flows := []struct {
		from, to     *broker
		topic, group string
	}{{a, b, "mirror-there", "group-there"}, {b, a, "mirror-back", "group-back"}}
	total := map[int32]int64{}
	for _, f := range flows {
		f.from.createTopic(f.topic, int32(len(codecs)), "retention.ms=86400000", "max.message.bytes=2000000", "segment.bytes=10485760")
		produceFranz(t, f.from, f.topic, false)
		commitAs(t, f.from, f.group, f.topic, map[int32]int64{0: recordsPerClient, 1: 17, 2: 0})
	}
	mm := startProgram(t, "connect-mirror-maker", strings.Join([]string{
		"clusters=a,b", "a.bootstrap.servers=" + a.addr, "b.bootstrap.servers=" + b.addr,
		"a->b.enabled=true", "a->b.topics=mirror-there", "a->b.groups=group-there",
		"b->a.enabled=true", "b->a.topics=mirror-back", "b->a.groups=group-back",
		"replication.policy.class=org.apache.kafka.connect.mirror.IdentityReplicationPolicy",
		"replication.factor=1", "checkpoints.topic.replication.factor=1", "heartbeats.topic.replication.factor=1", "offset-syncs.topic.replication.factor=1",
		"offset.storage.replication.factor=1", "status.storage.replication.factor=1", "config.storage.replication.factor=1",
		"emit.heartbeats.enabled=false", "sync.topic.acls.enabled=false", "sync.group.offsets.enabled=true", "offset.lag.max=0",
		"emit.checkpoints.interval.seconds=1", "sync.group.offsets.interval.seconds=1", "refresh.topics.interval.seconds=1",
		"refresh.groups.interval.seconds=1", "sync.topic.configs.interval.seconds=1", "offset.flush.interval.ms=1000", "",
	}, "\n"))
	for round := range 2 {
		for p := range codecs {
			total[int32(p)] += recordsPerClient
		}
		for _, f := range flows {
			if round == 1 { // once more, while it runs
				produceFranz(t, f.from, f.topic, true)
				commitAs(t, f.from, f.group, f.topic, map[int32]int64{0: 2 * recordsPerClient, 1: recordsPerClient + 3})
			}
			eventually(t, f.topic+" is copied", func() error {
				got, err := kadm.NewClient(f.to.client()).ListEndOffsets(deadline(t, time.Minute), f.topic)
				if err == nil {
					err = got.Error()
				}
				if err != nil {
					return err
				}
				at := map[int32]int64{}
				got.Each(func(o kadm.ListedOffset) { at[o.Partition] = o.Offset })
				if !maps.Equal(at, total) {
					return fmt.Errorf("it ends at %v, want %v", at, total)
				}
				return nil
			}, mm)
			want, err := franzDigest(f.from, f.topic, total, nil)
			must(t, err)
			got, err := franzDigest(f.to, f.topic, total, nil)
			must(t, err)
			if got != want {
				t.Errorf("%s: the copy is\n%swant\n%s", f.topic, got, want)
			}
			// The end translates exactly. A place before it translates to one at or before it, and not at all in the first round, if
			// MirrorMaker knows of no pair of offsets that is as early: it keeps few of them.
			end, middle := total[0], total[0]-recordsPerClient+17
			if round == 1 {
				middle = recordsPerClient + 3
			}
			eventually(t, f.group+" is copied", func() error {
				at, err := askCommitted(t, f.to, f.group, f.topic)
				if err != nil {
					return err
				}
				if at[0] != end || at[1] > middle || round == 1 && at[1] == 0 || at[2] != 0 {
					return fmt.Errorf("its offsets are %v, want %d, up to %d, and 0", at, end, middle)
				}
				return nil
			}, mm)
		}
	}
	for _, f := range flows {
		eventually(t, "the configuration of "+f.topic, func() error {
			of, err := kadm.NewClient(f.to.client()).DescribeTopicConfigs(deadline(t, time.Minute), f.topic)
			if err != nil {
				return err
			}
			left := map[string]string{"retention.ms": "86400000", "max.message.bytes": "2000000", "segment.bytes": "10485760"}
			for _, c := range of[0].Configs {
				if c.MaybeValue() == left[c.Key] {
					delete(left, c.Key)
				}
			}
			if len(left) > 0 {
				return fmt.Errorf("it lacks %v", left)
			}
			return nil
		}, mm)
	}
	a.mustRun()
	b.mustRun()
	mm.stop()
}

// TestConnect: Kafka Connect in distributed mode keeps everything that it knows in topics of the broker. A source copies a file to a
// topic and a sink copies the topic to another file; the work goes on, without a line lost or twice, when a second worker joins and the
// first one ends.
func TestConnect(t *testing.T) {
	b := startBroker(t)
	b.createTopic("connect-lines", 1)
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	must(t, os.WriteFile(in, nil, 0o644))
	written := 0
	write := func(n int) {
		t.Helper()
		f, err := os.OpenFile(in, os.O_APPEND|os.O_WRONLY, 0)
		must(t, err)
		for range n {
			_, err := fmt.Fprintf(f, "line %d\n", written)
			must(t, err)
			written++
		}
		must(t, f.Close())
	}
	copied := func() error {
		want, err := os.ReadFile(in)
		must(t, err)
		got, err := os.ReadFile(out)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%d bytes of %d are copied; it ends %q", len(got), len(want), got[max(0, len(got)-40):])
		}
		return nil
	}
	first, firstURL := startConnect(t, b)
	eventually(t, "the first worker is ready", func() error { return connectors(firstURL, nil) }, first)
	createConnector(t, firstURL, "source", map[string]string{"connector.class": "FileStreamSource", "tasks.max": "1", "file": in, "topic": "connect-lines"})
	createConnector(t, firstURL, "sink", map[string]string{"connector.class": "FileStreamSink", "tasks.max": "1", "file": out, "topics": "connect-lines"})
	write(500)
	eventually(t, "the first lines are copied", copied, first)

	second, secondURL := startConnect(t, b)
	eventually(t, "the second worker knows the connectors", func() error { return connectors(secondURL, []string{"source", "sink"}) }, first, second)
	write(300)
	eventually(t, "the next lines are copied", copied, first, second)
	first.stop()
	write(200)
	eventually(t, "the last lines are copied", copied, second)
	eventually(t, "the tasks run", func() error {
		for _, name := range []string{"source", "sink"} {
			var status struct {
				Connector struct{ State string }
				Tasks     []struct{ State string }
			}
			if err := ask(secondURL+"/connectors/"+name+"/status", &status); err != nil {
				return err
			}
			if status.Connector.State != "RUNNING" || len(status.Tasks) != 1 || status.Tasks[0].State != "RUNNING" {
				return fmt.Errorf("%s is %+v", name, status)
			}
		}
		return nil
	}, second)
	c := b.client()
	for topic, partitions := range map[string]int{"connect-test-offsets": 5, "connect-test-configs": 1, "connect-test-status": 2} {
		of, err := kadm.NewClient(c).ListTopics(deadline(t, time.Minute), topic)
		must(t, err)
		configs, err := kadm.NewClient(c).DescribeTopicConfigs(deadline(t, time.Minute), topic)
		must(t, err)
		policy := ""
		for _, kv := range configs[0].Configs {
			if kv.Key == "cleanup.policy" {
				policy = kv.MaybeValue()
			}
		}
		if len(of[topic].Partitions) != partitions || policy != "compact" {
			t.Errorf("%s has %d partitions and is %q, want %d and compact", topic, len(of[topic].Partitions), policy, partitions)
		}
	}
	second.stop()
	// What is in the topic is what was in the file, once; the sink has committed how far it is.
	var got strings.Builder
	_, err := franzDigest(b, "connect-lines", map[int32]int64{0: int64(written)}, func(r *kgo.Record) { fmt.Fprintf(&got, "%s\n", r.Value) })
	must(t, err)
	want, err := os.ReadFile(in)
	must(t, err)
	if got.String() != string(want) {
		t.Errorf("the topic holds\n%swant\n%s", clip(got.String()), clip(string(want)))
	}
	if at := committedOffsets(t, b, "connect-sink", "connect-lines"); at[0] != int64(written) {
		t.Errorf("the sink has committed %v, want %d", at, written)
	}
}

// startConnect starts a worker and returns the address of its REST interface.
func startConnect(t *testing.T, b *broker) (*program, string) {
	t.Helper()
	jars := strings.TrimSuffix(strings.TrimSpace(run(t, toolPatience, nil, launcher(), "classpath").stdout), "/*")
	plugin, err := filepath.Glob(filepath.Join(jars, "connect-file-*.jar"))
	must(t, err)
	url := "http://" + freeAddr(t)
	return startProgram(t, "connect-distributed", strings.Join([]string{
		"bootstrap.servers=" + b.addr, "group.id=connect-test", "listeners=" + url, "plugin.path=" + strings.Join(plugin, ","), "plugin.discovery=service_load",
		"key.converter=org.apache.kafka.connect.storage.StringConverter", "value.converter=org.apache.kafka.connect.storage.StringConverter",
		"offset.storage.topic=connect-test-offsets", "offset.storage.replication.factor=1", "offset.storage.partitions=5",
		"config.storage.topic=connect-test-configs", "config.storage.replication.factor=1",
		"status.storage.topic=connect-test-status", "status.storage.replication.factor=1", "status.storage.partitions=2",
		"offset.flush.interval.ms=1000", "scheduled.rebalance.max.delay.ms=0",
		// A task that a busy machine does not let end in time, or write down its place, is begun again where it was before: lines twice.
		"task.shutdown.graceful.timeout.ms=60000", "offset.flush.timeout.ms=60000", "",
	}, "\n")), url
}

// connectors demands that a worker answers and knows connectors.
func connectors(url string, names []string) error {
	var got []string
	if err := ask(url+"/connectors", &got); err != nil {
		return err
	}
	for _, name := range names {
		if !strings.Contains(strings.Join(got, " "), name) {
			return fmt.Errorf("it knows %v", got)
		}
	}
	return nil
}

func createConnector(t *testing.T, url, name string, config map[string]string) {
	t.Helper()
	body, err := json.Marshal(map[string]any{"name": name, "config": config})
	must(t, err)
	eventually(t, name+" is created", func() error {
		resp, err := http.Post(url+"/connectors", "application/json", bytes.NewReader(body))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		// 409: a rebalance is under way, or it is there since an attempt whose answer was lost.
		if resp.StatusCode == http.StatusCreated || resp.StatusCode == http.StatusConflict && strings.Contains(string(text), "already exists") {
			return nil
		}
		return fmt.Errorf("%s: %s", resp.Status, text)
	})
}

func ask(url string, into any) error {
	resp, err := http.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, text)
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}
