//go:build clients && linux

package clients

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestGroupTools: Kafka's own tools and kcat consume in a group, commit, and see, move and delete what was committed; all of it is
// still there after kill -9, and Kafka reads the log in which it stands.
func TestGroupTools(t *testing.T) {
	b := startBroker(t, "group.initial.rebalance.delay.ms=0")
	b.createTopic("lines", 2)
	var lines strings.Builder
	for i := range 100 {
		fmt.Fprintf(&lines, "%d:line %d\n", i, i)
	}
	run(t, toolPatience, strings.NewReader(lines.String()), "kcat", "-b", b.addr, "-P", "-t", "lines", "-K", ":")
	got := run(t, toolPatience, nil, "kcat", "-b", b.addr, "-G", "by-kcat", "-X", "auto.offset.reset=earliest", "-q", "-e", "lines")
	if n := strings.Count(got.stdout, "line "); n != 100 {
		t.Errorf("kcat -G got %d records", n)
	}
	out := tool(t, b, "console-consumer", "--topic", "lines", "--group", "by-console", "--from-beginning", "--max-messages", "100", "--timeout-ms", "30000")
	if n := strings.Count(out, "line "); n != 100 {
		t.Errorf("console-consumer --group got %d records", n)
	}
	check := func(when string) {
		out := tool(t, b, "consumer-groups", "--describe", "--all-groups")
		for _, group := range []string{"by-kcat", "by-console"} {
			for p := range 2 {
				wantOutput(t, when+": "+group, out, fmt.Sprintf(`(?m)^%s +lines +%d +(\d+) +(\d+) +0 `, group, p))
			}
		}
	}
	check("at first")
	b.kill9()
	b.start()
	check("after kill -9")

	out = tool(t, b, "consumer-groups", "--reset-offsets", "--group", "by-kcat", "--topic", "lines", "--to-earliest", "--execute")
	wantOutput(t, "reset", out, `by-kcat +lines +1 +0`)
	out = tool(t, b, "consumer-groups", "--delete-offsets", "--group", "by-kcat", "--topic", "lines:1")
	wantOutput(t, "delete offsets", out, `lines +1 +Successful`)
	out = tool(t, b, "consumer-groups", "--delete", "--group", "by-console")
	wantOutput(t, "delete", out, `Deletion of requested consumer groups \('by-console'\) was successful`)
	wantOutput(t, "list", tool(t, b, "consumer-groups", "--list", "--state"), `(?s)^GROUP +STATE *\nby-kcat +Empty\s*$`)

	logs, err := filepath.Glob(filepath.Join(b.logDir(), "__consumer_offsets-*", "*.log"))
	must(t, err)
	b.stop()
	text := dump(t, logs, "--offsets-decoder")
	wantOutput(t, "dump-log", text, `key: \{"type":"1","data":\{"group":"by-kcat","topic":"lines","partition":0\}\} payload: \{"version":"\d+","data":\{"offset":0,`)
	wantOutput(t, "dump-log", text, `key: \{"type":"2","data":\{"group":"by-console"\}\} payload: (<DELETE>|null)`)
	b.start()
}

// TestGroupsKill9: members consume and commit while the broker is killed again and again. What was acknowledged as committed is
// never taken back, and every record is consumed. KILLS and KILL_SEED are as in TestKill9.
func TestGroupsKill9(t *testing.T) {
	const topic, partitions, records = "work", 6, 40_000
	kills := envInt(t, "KILLS", 4)
	seed := uint64(envInt(t, "KILL_SEED", time.Now().UnixNano()))
	t.Logf("KILL_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	b := startBroker(t, "group.initial.rebalance.delay.ms=0")
	b.createTopic(topic, partitions)
	produced := b.client()
	for i := range records {
		produced.Produce(context.Background(), &kgo.Record{Topic: topic, Value: fmt.Append(nil, i)}, nil)
	}
	must(t, produced.Flush(deadline(t, time.Minute)))
	produced.Close()

	w := &groupWitness{acked: map[int32]int64{}, seen: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	var members sync.WaitGroup
	defer members.Wait()
	defer cancel()
	for i := range 3 {
		members.Go(func() { w.consume(ctx, t, b, topic, time.Duration(i)*500*time.Millisecond) })
	}
	for kill := range kills {
		time.Sleep(time.Duration(300+rnd.IntN(700)) * time.Millisecond)
		b.mustRun()
		before := w.committed()
		b.kill9()
		during := w.committed() // acknowledged before the kill was noticed
		maps.Copy(before, during)
		b.start()
		w.check(t, b, topic, before)
		t.Logf("kill %d: %d of %d records seen", kill+1, w.count(), records)
	}
	for end := time.Now().Add(5 * time.Minute); w.count() < records; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d records were consumed\n%s", w.count(), records, b.logTail())
		}
	}
	w.check(t, b, topic, w.committed())
}

// groupWitness notes what the members of a group have been told.
type groupWitness struct {
	mu    sync.Mutex // guards the following
	acked map[int32]int64
	seen  map[string]bool
}

func (w *groupWitness) committed() map[int32]int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.acked)
}

func (w *groupWitness) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.seen)
}

// consume is one member: it comes late, and commits what it has seen, a few records at a time.
func (w *groupWitness) consume(ctx context.Context, t *testing.T, b *broker, topic string, after time.Duration) {
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return
	}
	c := b.client(kgo.ConsumerGroup("workers"), kgo.ConsumeTopics(topic), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.SessionTimeout(6*time.Second), kgo.HeartbeatInterval(200*time.Millisecond))
	defer c.CloseAllowingRebalance()
	for ctx.Err() == nil {
		fetches := c.PollRecords(ctx, 20)
		rs := fetches.Records()
		if len(rs) > 0 {
			w.mu.Lock()
			for _, r := range rs {
				w.seen[string(r.Value)] = true
			}
			w.mu.Unlock()
			if err := c.CommitRecords(ctx, rs...); err == nil {
				w.mu.Lock()
				for _, r := range rs {
					w.acked[r.Partition] = max(w.acked[r.Partition], r.Offset+1)
				}
				w.mu.Unlock()
			} else if ctx.Err() != nil && !errors.Is(err, context.Canceled) {
				t.Logf("commit: %v", err)
			}
		}
		c.AllowRebalance()
	}
}

// check fetches what is committed, which must be at least what was acknowledged.
func (w *groupWitness) check(t *testing.T, b *broker, topic string, acked map[int32]int64) {
	t.Helper()
	c := b.client()
	defer c.Close()
	ctx := deadline(t, time.Minute)
	for {
		offsets, err := kadm.NewClient(c).FetchOffsets(ctx, "workers")
		if err != nil {
			if ctx.Err() != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
			continue
		}
		for _, p := range slices.Sorted(maps.Keys(acked)) {
			if o, ok := offsets.Lookup(topic, p); !ok || o.At < acked[p] {
				t.Errorf("partition %d: offset %d was acknowledged, %d is committed", p, acked[p], o.At)
			}
		}
		return
	}
}
