//go:build clients && linux

package clients

import (
	"context"
	"fmt"
	"math/rand"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// setQuota sets limits of a client id.
func (b *broker) setQuota(clientID string, limits map[string]float64) {
	b.t.Helper()
	c := b.client()
	defer c.Close()
	e := kadm.AlterClientQuotaEntry{Entity: kadm.ClientQuotaEntity{{Type: "client-id", Name: &clientID}}}
	for key, v := range limits {
		e.Ops = append(e.Ops, kadm.AlterClientQuotaOp{Key: key, Value: v})
	}
	done, err := kadm.NewClient(c).AlterClientQuotas(deadline(b.t, time.Minute), []kadm.AlterClientQuotaEntry{e})
	must(b.t, err)
	must(b.t, done[0].Err)
}

// TestJavaProducerIsThrottled: Kafka's producer gets its throttle times, and sends no more than its quota lets it: half a second's worth at once, and then so
// much a second.
func TestJavaProducerIsThrottled(t *testing.T) {
	b := startBroker(t)
	b.createTopic("t", 1)
	const limit, records, size = 100_000, 600, 1000
	b.setQuota("perf-producer-client", map[string]float64{"producer_byte_rate": limit}) // the name that the tool gives itself
	began := time.Now()
	out := tool(t, b, "producer-perf", "--topic", "t", "--num-records", strconv.Itoa(records), "--record-size", strconv.Itoa(size), "--throughput", "-1", "--print-metrics",
		"--command-property", "compression.type=none", "--command-property", "batch.size=16384")
	took := time.Since(began)
	if sent := float64(records * size); sent > limit*(took.Seconds()+2) { // a bucket, and what is in flight at the end
		t.Errorf("%.0f bytes in %v, with %d a second", sent, took, limit)
	}
	m := regexp.MustCompile(`produce-throttle-time-max:\{client-id=perf-producer-client\}\s*:\s*([0-9.]+)`).FindStringSubmatch(out)
	if m == nil {
		t.Fatalf("the producer has no throttle times:\n%s", out)
	}
	if ms, err := strconv.ParseFloat(m[1], 64); err != nil || ms <= 0 {
		t.Errorf("the producer was throttled for %s ms at most", m[1])
	}
}

// TestQuotas is two tenants on each broker: one with a quota of five million bytes a second, who sends and reads as fast as he can, and one
// whose latency is measured, alone and beside him. It prints a table. QUOTA_SECONDS is how long is measured (default: not at all, as it asserts
// nothing), QUOTA_BROKERS which brokers ("moldau kafka"), QUOTA_RUNS how often each.
func TestQuotas(t *testing.T) {
	seconds := envInt(t, "QUOTA_SECONDS", 0)
	if seconds == 0 {
		return // make quotas
	}
	kinds := strings.Fields(os.Getenv("QUOTA_BROKERS"))
	if len(kinds) == 0 {
		kinds = []string{"moldau", "kafka"}
	}
	var rows []string
	for run := range max(1, envInt(t, "QUOTA_RUNS", 1)) {
		for _, kind := range kinds {
			rows = append(rows, fmt.Sprintf("%3d  %-7s %s", run+1, kind, tenants(t, kind == "kafka", time.Duration(seconds)*time.Second)))
		}
	}
	t.Logf("five million bytes a second each way; rates in MB/s over %d s, from the first byte on and after the first window; p99 of an acks=all record in ms\n"+
		"run  broker   produced: first  then   read: first  then   other's p99: alone  beside  ratio\n%s", seconds, strings.Join(rows, "\n"))
}

const (
	tenantLimit  = 5e6
	tenantRecord = 8 << 10
)

// tenants is a row of the table.
func tenants(t *testing.T, kafka bool, measure time.Duration) string {
	b := newBrokerOf(t, kafka)
	b.start()
	defer b.stop()
	b.createTopic("out", 1)
	b.createTopic("in", 1)
	b.createTopic("quiet", 1)
	// Small batches: the last one of an answer is mostly incomplete, and is paid for and thrown away.
	fill := b.client(kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(20<<10))
	value := make([]byte, tenantRecord)
	rand.New(rand.NewSource(1)).Read(value)
	ctx := deadline(t, 20*time.Minute)
	need := int(tenantLimit*(2*measure.Seconds()+60)) / tenantRecord
	for range need {
		fill.Produce(ctx, &kgo.Record{Topic: "in", Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
		})
	}
	must(t, fill.Flush(ctx))
	fill.Close()
	alone := quietP99(t, b, measure)

	b.setQuota("noisy", map[string]float64{"producer_byte_rate": tenantLimit, "consumer_byte_rate": tenantLimit})
	time.Sleep(time.Second) // until it is in force
	noisy, cancel := context.WithCancel(ctx)
	var produced, read atomic.Int64
	var wg sync.WaitGroup
	c := b.client(kgo.ClientID("noisy"), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(900<<10), kgo.MaxBufferedRecords(1000))
	wg.Go(func() {
		for noisy.Err() == nil {
			c.Produce(noisy, &kgo.Record{Topic: "out", Value: value}, func(_ *kgo.Record, err error) {
				if err == nil {
					produced.Add(tenantRecord)
				}
			})
		}
	})
	r := b.client(kgo.ClientID("noisy"), kgo.ConsumeTopics("in"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	wg.Go(func() {
		for noisy.Err() == nil {
			f := r.PollFetches(noisy)
			read.Add(int64(f.NumRecords()) * tenantRecord)
		}
	})
	began := time.Now()
	time.Sleep(measure)
	rate := func(n int64, since time.Time) float64 { return float64(n) / time.Since(since).Seconds() / 1e6 }
	firstOut, firstIn := rate(produced.Load(), began), rate(read.Load(), began)
	began = time.Now()
	outBefore, inBefore := produced.Load(), read.Load()
	beside := quietP99(t, b, measure)
	thenOut, thenIn := rate(produced.Load()-outBefore, began), rate(read.Load()-inBefore, began)
	cancel()
	wg.Wait()
	c.Close()
	r.Close()
	return fmt.Sprintf("          %5.2f %5.2f         %5.2f %5.2f               %6.2f  %6.2f   %5.2f", firstOut, thenOut, firstIn, thenIn, alone, beside, beside/alone)
}

// quietP99 is what the other tenant sees: 200 records a second, each waits for its acknowledgement.
func quietP99(t *testing.T, b *broker, measure time.Duration) (ms float64) {
	c := b.client(kgo.ClientID("quiet"), kgo.ProducerLinger(0))
	defer c.Close()
	ctx := deadline(t, measure+5*time.Minute)
	var mu sync.Mutex // guards took
	var took []time.Duration
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	value := make([]byte, 1000)
	for until := time.Now().Add(measure); time.Now().Before(until); {
		<-tick.C
		sent := time.Now()
		c.Produce(ctx, &kgo.Record{Topic: "quiet", Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			took = append(took, time.Since(sent))
			mu.Unlock()
		})
	}
	must(t, c.Flush(ctx))
	slices.Sort(took)
	return float64(took[len(took)*99/100].Microseconds()) / 1000
}
