package broker_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"moldau/broker/brokertest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newClient(t *testing.T, c *brokertest.Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.Addrs()...), kgo.Dialer(c.Dial), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(10 * time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 5 * time.Millisecond })}, opts...)...)
	must(t, err)
	t.Cleanup(cl.Close)
	return cl
}

// fill makes a topic and gives each of its partitions n records.
func fill(t *testing.T, c *brokertest.Cluster, topic string, partitions int32, n int) kadm.TopicID {
	t.Helper()
	cl := newClient(t, c)
	defer cl.Close()
	r, err := kadm.NewClient(cl).CreateTopic(t.Context(), partitions, 1, nil, topic)
	must(t, err)
	produce(t, cl, topic, partitions, n)
	return r.ID
}

func produce(t *testing.T, cl *kgo.Client, topic string, partitions int32, n int) {
	t.Helper()
	for p := range partitions {
		for i := range n {
			must(t, cl.ProduceSync(t.Context(), &kgo.Record{Topic: topic, Partition: p, Value: fmt.Appendf(nil, "%s-%d %d", topic, p, i)}).FirstErr())
		}
	}
}

// read is every record of a topic, as text, by partition.
func read(t *testing.T, c *brokertest.Cluster, topic string) map[int32][]string {
	t.Helper()
	cl := newClient(t, c, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer cl.Close()
	ends, err := kadm.NewClient(cl).ListEndOffsets(t.Context(), topic)
	must(t, err)
	must(t, ends.Error())
	starts, err := kadm.NewClient(cl).ListStartOffsets(t.Context(), topic)
	must(t, err)
	left := int64(0)
	ends.Each(func(o kadm.ListedOffset) { left += o.Offset })
	starts.Each(func(o kadm.ListedOffset) { left -= o.Offset })
	out := map[int32][]string{}
	for left > 0 {
		fs := cl.PollFetches(t.Context())
		must(t, fs.Err0())
		fs.EachRecord(func(r *kgo.Record) {
			out[r.Partition] = append(out[r.Partition], fmt.Sprintf("%d %s", r.Offset, r.Value))
			left--
		})
	}
	return out
}

// topics are the ids of all topics.
func topics(t *testing.T, c *brokertest.Cluster) map[string]kadm.TopicID {
	t.Helper()
	cl := newClient(t, c)
	defer cl.Close()
	list, err := kadm.NewClient(cl).ListTopics(t.Context())
	must(t, err)
	out := map[string]kadm.TopicID{}
	for name, d := range list {
		out[name] = d.ID
	}
	return out
}

// tree is a digest of every file and directory below dir, but for lock files.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var out strings.Builder
	must(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() == ".lock" {
			return err
		}
		fmt.Fprint(&out, name)
		if !d.IsDir() {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %x", sha256.Sum256(data))
		}
		fmt.Fprintln(&out)
		return nil
	}))
	return out.String()
}

// within bounds what a start may take before it counts as stuck.
func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// oneLine demands that an error is one line that says all of what is wanted.
func oneLine(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; it should say %q", want)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("an error of several lines:\n%v", err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}
