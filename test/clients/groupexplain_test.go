//go:build clients && linux

package clients

import (
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// explained is what moldau group explain -o json says.
type explained struct {
	State      string   `json:"state"`
	Lag        int64    `json:"lag"`
	LagSeconds *float64 `json:"lagSeconds"`
	Members    []struct {
		ID         string `json:"memberId"`
		Client     string `json:"clientId"`
		Assignment []struct {
			Partitions []int32 `json:"partitions"`
		} `json:"assignment"`
	} `json:"members"`
	History struct {
		Rebalance *json.RawMessage `json:"rebalance"`
		Events    []explainedEvent `json:"events"`
	} `json:"history"`
}

type explainedMember struct {
	ID         string `json:"memberId"`
	InstanceID string `json:"instanceId"`
	Client     string `json:"clientId"`
}

type explainedEvent struct {
	Kind      string          `json:"kind"`
	Member    explainedMember `json:"member"`
	Before    string          `json:"memberIdBefore"`
	Why       string          `json:"why"`
	LimitMs   int64           `json:"limitMs"`
	Said      string          `json:"said"`
	Rebalance *struct {
		TookMs    int64           `json:"tookMs"`
		Because   string          `json:"because"`
		By        explainedMember `json:"by"`
		Members   int             `json:"members"`
		WaitedFor []struct {
			Member explainedMember `json:"member"`
			To     string          `json:"to"`
			Ms     int64           `json:"ms"`
		} `json:"waitedFor"`
	} `json:"rebalance"`
}

// explainRig is a broker and one group with Kafka's console consumers.
type explainRig struct {
	*testing.T
	b     *broker
	http  string
	group string // and topic
	next  bool   // the consumer protocol

	sessionMs int64
}

// session sets the session timeout of the group.
func (r *explainRig) session(ms int64) {
	r.Helper()
	if r.sessionMs = ms; !r.next {
		return // the clients say it
	}
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	resource := kmsg.NewIncrementalAlterConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kmsg.ConfigResourceTypeGroupConfig, r.group
	c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	c.Name, c.Value = "consumer.session.timeout.ms", new(fmt.Sprint(ms))
	resource.Configs = append(resource.Configs, c)
	req.Resources = append(req.Resources, resource)
	resp, err := req.RequestWith(deadline(r, time.Minute), r.b.client())
	must(r, err)
	must(r, kerr.ErrorForCode(resp.Resources[0].ErrorCode))
}

// consumer starts a member named id, which ends with the test. Nobody reads what it prints unless out is set.
func (r *explainRig) consumer(id string, out io.Writer, properties ...string) *exec.Cmd {
	r.Helper()
	args := []string{"console-consumer", "--bootstrap-server", r.b.addr, "--topic", r.group, "--group", r.group, "--from-beginning"}
	properties = append(properties, "client.id="+id)
	if r.next {
		properties = append(properties, "group.protocol=consumer")
	} else {
		properties = append(properties, fmt.Sprintf("session.timeout.ms=%d", r.sessionMs), "heartbeat.interval.ms=500")
	}
	for _, p := range properties {
		args = append(args, "--command-property", p)
	}
	cmd := exec.Command(launcher(), args...)
	ownProcess(cmd)
	if out == nil {
		pipe, err := cmd.StdoutPipe()
		must(r, err)
		_ = pipe // it fills, and then the consumer stands still
	} else {
		cmd.Stdout = out
	}
	must(r, cmd.Start())
	r.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
	})
	return cmd
}

func (r *explainRig) explain(format string) string {
	r.Helper()
	bin, err := moldau()
	must(r, err)
	got, err := try(r, toolPatience, nil, bin, "group", "explain", r.group, "-b", r.b.addr, "--http", r.http, "-o", format)
	if err != nil && !strings.Contains(got.stderr, "group does not exist") && !strings.Contains(got.stderr, "COORDINATOR") {
		r.Fatalf("explain: %v\n%s", err, got.stderr)
	}
	return got.stdout
}

// until waits until the group is explained as wanted, and returns it.
func (r *explainRig) until(what string, ok func(e *explained) bool) *explained {
	r.Helper()
	var text string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		var e explained
		if text = r.explain("json"); text == "" {
			continue
		}
		must(r, json.Unmarshal([]byte(text), &e))
		if ok(&e) {
			return &e
		}
	}
	r.Fatalf("never %s:\n%s", what, text)
	return nil
}

// settled waits for a stable group with n members that all have partitions.
func (r *explainRig) settled(n int) *explained {
	r.Helper()
	return r.until(fmt.Sprintf("stable with %d members", n), func(e *explained) bool {
		for _, m := range e.Members {
			if len(m.Assignment) == 0 {
				return false
			}
		}
		return e.State == "Stable" && len(e.Members) == n && e.History.Rebalance == nil
	})
}

// behind is the first event that is wanted, and the first rebalance behind it.
func (e *explained) behind(want func(explainedEvent) bool) (event, rebalance *explainedEvent) {
	i := slices.IndexFunc(e.History.Events, want)
	if i < 0 {
		return nil, nil
	}
	for j := i + 1; j < len(e.History.Events); j++ {
		if e.History.Events[j].Rebalance != nil {
			return &e.History.Events[i], &e.History.Events[j]
		}
	}
	return &e.History.Events[i], nil
}

// TestGroupExplain: moldau group explain tells of a crashed member, of one that is too slow, and of a static member that restarts, in
// both protocols, what has happened.
func TestGroupExplain(t *testing.T) {
	bin, err := moldau()
	must(t, err)
	b := newBroker(t)
	b.kafka = false // Kafka remembers nothing
	http := freeAddr(t)
	b.command = []string{bin, "server", "--data-dir", b.dir, "--listen", b.addr, "--http", http}
	for _, p := range []string{"group.initial.rebalance.delay.ms=0", "group.consumer.min.session.timeout.ms=6000",
		"group.consumer.min.heartbeat.interval.ms=500", "group.consumer.heartbeat.interval.ms=500", "group.consumer.assignment.interval.ms=0"} {
		b.command = append(b.command, "--set", p)
	}
	b.start()
	type situation struct {
		name string
		test func(*explainRig)
	}
	var all sync.WaitGroup // they mostly wait, so all at once
	defer all.Wait()
	for _, s := range []situation{{"crashed", explainCrash}, {"slow", explainSlow}, {"static", explainStatic}} {
		for _, protocol := range []string{"classic", "consumer"} {
			all.Go(func() {
				t.Run(s.name+"-"+protocol, func(t *testing.T) {
					r := &explainRig{T: t, b: b, http: http, group: s.name + "-" + protocol, next: protocol == "consumer"}
					b.createTopic(r.group, 4)
					s.test(r)
					t.Logf("$ moldau group explain %s\n%s", r.group, r.explain("text"))
				})
			})
		}
	}
}

func explainCrash(r *explainRig) {
	r.session(10_000)
	r.consumer("stays", io.Discard)
	r.settled(1)
	crashes := r.consumer("crashes", io.Discard)
	r.settled(2)
	must(r, crashes.Process.Kill())
	e := r.settled(1)
	removed, rebalance := e.behind(func(x explainedEvent) bool { return x.Kind == "removed" })
	if removed == nil || removed.Member.Client != "crashes" || removed.Why != "session timeout" || removed.LimitMs != 10_000 {
		r.Errorf("the crash: %+v", removed)
	}
	if rebalance == nil || rebalance.Rebalance.Because != "removed" || rebalance.Rebalance.By != removed.Member || rebalance.Rebalance.Members != 1 {
		r.Fatalf("the rebalance: %+v", rebalance)
	}
	if w := rebalance.Rebalance.WaitedFor; len(w) == 0 || w[0].Member.Client != "stays" || w[0].Ms > rebalance.Rebalance.TookMs {
		r.Errorf("waited for: %+v", w)
	}
}

func explainSlow(r *explainRig) {
	r.session(45_000)
	producer := r.b.client(kgo.DefaultProduceTopic(r.group), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	value := strings.Repeat("x", 1000)
	for range 2000 { // far more than a pipe holds
		producer.Produce(deadline(r, time.Minute), kgo.StringRecord(value), nil)
	}
	must(r, producer.Flush(deadline(r, time.Minute)))
	var begin kadm.Offsets
	for p := range int32(4) {
		begin.AddOffset(r.group, p, 0, -1)
	}
	must(r, kadm.NewClient(producer).CommitAllOffsets(deadline(r, time.Minute), r.group, begin))
	slow := r.consumer("slow", nil, "max.poll.interval.ms=5000", "max.poll.records=10")
	e := r.until("without the slow member", func(e *explained) bool {
		left, _ := e.behind(func(x explainedEvent) bool { return x.Kind == "left" })
		return left != nil && len(e.Members) == 0
	})
	left, rebalance := e.behind(func(x explainedEvent) bool { return x.Kind == "left" })
	if left.Member.Client != "slow" || !r.next && left.Said != "consumer poll timeout has expired." {
		r.Errorf("it left: %+v", left)
	}
	if rebalance == nil || rebalance.Rebalance.Because != "left" || rebalance.Rebalance.Members != 0 {
		r.Errorf("the rebalance: %+v", rebalance)
	}
	if e.Lag == 0 || e.LagSeconds == nil || *e.LagSeconds <= 0 {
		r.Errorf("lag %d, %v seconds", e.Lag, e.LagSeconds)
	}
	must(r, slow.Process.Kill())
}

func explainStatic(r *explainRig) {
	r.session(45_000)
	first := r.consumer("first", io.Discard, "group.instance.id=place")
	before := r.settled(1).Members[0].ID
	if r.next { // its place is free when it has said that it leaves
		must(r, first.Process.Signal(syscall.SIGTERM))
	} else {
		must(r, first.Process.Kill())
	}
	_ = first.Wait()
	r.consumer("second", io.Discard, "group.instance.id=place")
	e := r.until("restarted", func(e *explained) bool {
		restarted, _ := e.behind(func(x explainedEvent) bool { return x.Kind == "restarted" })
		return restarted != nil && e.State == "Stable"
	})
	restarted, rebalance := e.behind(func(x explainedEvent) bool { return x.Kind == "restarted" })
	if restarted.Member.InstanceID != "place" || restarted.Before != before || restarted.Member.ID == before {
		r.Errorf("restarted: %+v, was %s", restarted, before)
	}
	if away := slices.ContainsFunc(e.History.Events, func(x explainedEvent) bool { return x.Kind == "away" }); away != r.next {
		r.Errorf("it said that it will be back: %v", away)
	}
	if !r.next && (restarted.Why != "without a rebalance" || rebalance != nil) {
		r.Errorf("restarted: %+v, rebalance %+v", restarted, rebalance)
	}
}
