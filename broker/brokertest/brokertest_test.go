package brokertest_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"moldau/broker/brokertest"
)

func client(t *testing.T, c *brokertest.Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.Addrs()...), kgo.Dialer(c.Dial),
		kgo.MetadataMinAge(10 * time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 5 * time.Millisecond })}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// TestLives: what was acknowledged is there after a stop, a crash and both again, and one client lives through it all.
func TestLives(t *testing.T) {
	for name, options := range map[string][]brokertest.Option{
		"memory": {brokertest.Config("num.partitions=1")},
		"dir":    {brokertest.Dir(t.TempDir())},
	} {
		t.Run(name, func(t *testing.T) {
			c := brokertest.New(t, options...)
			cl := client(t, c, kgo.AllowAutoTopicCreation(), kgo.ConsumeTopics("lives"))
			for life := range 4 {
				if err := cl.ProduceSync(t.Context(), kgo.StringRecord(fmt.Sprint(life))).FirstErr(); err == nil {
					t.Fatal("a record without a topic was acknowledged")
				}
				r := &kgo.Record{Topic: "lives", Value: fmt.Append(nil, life)}
				if err := cl.ProduceSync(t.Context(), r).FirstErr(); err != nil {
					t.Fatal(err)
				}
				if r.Offset != int64(life) {
					t.Fatalf("life %d: offset %d", life, r.Offset)
				}
				for seen := false; !seen; {
					fs := cl.PollFetches(t.Context())
					if err := fs.Err0(); err != nil {
						t.Fatal(err)
					}
					fs.EachRecord(func(r *kgo.Record) { seen = seen || r.Offset == int64(life) && string(r.Value) == fmt.Sprint(life) })
				}
				if life%2 == 0 {
					c.Stop(0)
				} else {
					c.Crash(0)
				}
				if _, err := c.Dial(context.Background(), "tcp", c.Addrs()[0]); err == nil {
					t.Fatal("a broker that is down was reached")
				}
				if err := c.Start(0); err != nil {
					t.Fatal(err)
				}
			}
			ends, err := kadm.NewClient(cl).ListEndOffsets(t.Context(), "lives")
			if o, _ := ends.Lookup("lives", 0); err != nil || o.Offset != 4 {
				t.Fatal(ends, err)
			}
		})
	}
}
