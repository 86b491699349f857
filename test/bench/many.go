package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// The scenario of many partitions: each has a record, one in a hundred is written to. What counts is memory, and how soon a broker that was
// stopped, or killed with much in the segments that are written to, takes records again.

const (
	manyName     = "partitions-8000"
	manyAll      = 8000
	manyPerTopic = 1000
	manyShare    = 100 // one of so many is written to
	manyRecord   = 64 << 10
)

func (s *settings) manyTitle() string {
	return fmt.Sprintf("%d partitions with a record each, %d of them written to, %s in their last segments", s.partitions, s.active(), gigabytes(s.restartBytes))
}

func (s *settings) active() int { return max(1, s.partitions/manyShare) }

func gigabytes(n int64) string { return fmt.Sprintf("%.2f GB", float64(n)/1e9) }

// manyRun is one broker with many partitions. Times are in seconds, from the start of the process.
type manyRun struct {
	Pair         int     `json:"pair"`
	Broker       string  `json:"broker"`
	IdleBytes    int64   `json:"idleRSSBytes"`    // before there was a partition
	RSSBytes     int64   `json:"rssBytes"`        // with records in all, while some are written to
	Stop         float64 `json:"stop"`            // of a clean stop, from the signal on
	Restart      float64 `json:"restart"`         // after it, to a record that is acknowledged in each partition that is written to
	RestartAll   float64 `json:"restartAll"`      // and to the answer of every partition
	RestartCPU   float64 `json:"restartCPU"`      // processor time of the broker until then
	RestartBytes int64   `json:"restartRSSBytes"` // then
	AfterKill    float64 `json:"afterKill"`
	AfterKillAll float64 `json:"afterKillAll"`
	AfterKillCPU float64 `json:"afterKillCPU"`
	Error        string  `json:"error,omitempty"`
}

// manies runs the scenario if it was asked for.
func (b *runner) manies(ctx context.Context) error {
	if !b.scenario.MatchString(manyName) {
		return nil
	}
	b.say("%s: %s", manyName, b.manyTitle())
	b.report.ManyTitle = b.manyTitle()
	for pair := range b.pairs {
		for _, kind := range b.kindsOf(pair) {
			r := manyRun{Pair: pair, Broker: kind}
			if err := b.manyOnce(ctx, &r); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				r.Error = firstLine(err)
			}
			b.report.Manies = append(b.report.Manies, r)
			b.say("  %-6s %.0f MB idle, %.0f MB with all partitions; stop %.2f s; again %.2f s, all answer %.2f s, %.2f s of processor time, %.0f MB; after kill -9 %.2f s, %.2f s, %.2f s %s",
				kind, float64(r.IdleBytes)/1e6, float64(r.RSSBytes)/1e6, r.Stop, r.Restart, r.RestartAll, r.RestartCPU, float64(r.RestartBytes)/1e6,
				r.AfterKill, r.AfterKillAll, r.AfterKillCPU, r.Error)
		}
	}
	return nil
}

func (b *runner) manyOnce(ctx context.Context, r *manyRun) (err error) {
	dir := filepath.Join(b.dir, "many")
	defer os.RemoveAll(dir)
	br, err := b.newBroker(r.Broker, pageCache, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, br.kill()) }()
	if _, err := br.start(ctx); err != nil {
		return err
	}
	time.Sleep(b.settle)
	if r.IdleBytes, _, err = residentBytes(br.cmd.Process.Pid); err != nil {
		return err
	}
	t := &manyTopics{b: b, addr: br.addr}
	if err := t.create(ctx); err != nil {
		return err
	}
	if err := t.produce(ctx, b.partitions, 100, int64(b.partitions)*100); err != nil {
		return err
	}
	// What is written to is written for as long as other scenarios are measured.
	for until := time.Now().Add(b.warmUp + b.duration); time.Now().Before(until); {
		if err := t.produce(ctx, b.active(), 100, int64(b.active())*100); err != nil {
			return err
		}
	}
	if r.RSSBytes, _, err = residentBytes(br.cmd.Process.Pid); err != nil {
		return err
	}
	began := time.Now()
	if err := br.stop(); err != nil {
		return err
	}
	r.Stop = time.Since(began).Seconds()
	if r.Restart, r.RestartAll, r.RestartCPU, err = t.again(ctx, br); err != nil {
		return err
	}
	if r.RestartBytes, _, err = residentBytes(br.cmd.Process.Pid); err != nil {
		return err
	}
	if err := t.produce(ctx, b.active(), manyRecord, b.restartBytes); err != nil {
		return err
	}
	if err := br.kill(); err != nil {
		return err
	}
	r.AfterKill, r.AfterKillAll, r.AfterKillCPU, err = t.again(ctx, br)
	return err
}

// manyTopics are the topics of the scenario at one broker.
type manyTopics struct {
	b    *runner
	addr string
}

func (t *manyTopics) client() (*kgo.Client, error) {
	return kgo.NewClient(kgo.SeedBrokers(t.addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(10*time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond }), kgo.ProducerLinger(0), kgo.UnknownTopicRetries(-1), kgo.RecordRetries(1_000_000),
		kgo.MaxBufferedRecords(5000), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.DisableClientMetrics())
}

// topic is where partition i is.
func (t *manyTopics) topic(i int) (name string, partition int32) {
	return fmt.Sprintf("many-%03d", i/manyPerTopic), int32(i % manyPerTopic)
}

func (t *manyTopics) names() (names []string) {
	for i := 0; i < t.b.partitions; i += manyPerTopic {
		name, _ := t.topic(i)
		names = append(names, name)
	}
	return names
}

func (t *manyTopics) create(ctx context.Context) error {
	c, err := t.client()
	if err != nil {
		return err
	}
	defer c.Close()
	adm := kadm.NewClient(c)
	adm.SetTimeoutMillis(int32(startPatience.Milliseconds()))
	left := t.b.partitions
	for _, name := range t.names() {
		r, err := adm.CreateTopic(ctx, int32(min(left, manyPerTopic)), 1, nil, name)
		if err = errors.Join(err, r.Err); err != nil {
			return err
		}
		left -= manyPerTopic
	}
	return nil
}

// produce writes so many bytes, in records of about that size, to the first n partitions in turn. It returns when all are acknowledged.
func (t *manyTopics) produce(ctx context.Context, n, record int, bytes int64) error {
	ctx, cancel := context.WithTimeout(ctx, time.Hour)
	defer cancel()
	c, err := t.client()
	if err != nil {
		return err
	}
	defer c.Close()
	value := make([]byte, record)
	failed := make(chan error, 1)
	for i := 0; bytes > 0; i++ {
		name, partition := t.topic(i % n)
		c.Produce(ctx, &kgo.Record{Topic: name, Partition: partition, Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
		bytes -= int64(record)
	}
	if err := c.Flush(ctx); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// again starts the broker and measures until a record is acknowledged in each partition that is written to, and until every partition says
// where it ends.
func (t *manyTopics) again(ctx context.Context, br *broker) (first, all, cpu float64, err error) {
	began := time.Now()
	if _, err := br.start(ctx); err != nil {
		return 0, 0, 0, err
	}
	if err := t.produce(ctx, t.b.active(), 100, int64(t.b.active())*100); err != nil {
		return 0, 0, 0, err
	}
	first = time.Since(began).Seconds()
	if err := t.ends(ctx); err != nil {
		return 0, 0, 0, err
	}
	all = time.Since(began).Seconds()
	spent, err := treeTime(br.cmd.Process.Pid)
	return first, all, spent.Seconds(), err
}

// ends asks every partition for its end until each has one.
func (t *manyTopics) ends(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	c, err := t.client()
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		ends, err := kadm.NewClient(c).ListEndOffsets(ctx, t.names()...)
		count := 0
		if err == nil {
			err = ends.Error()
			ends.Each(func(o kadm.ListedOffset) {
				if o.Offset > 0 {
					count++
				}
			})
		}
		if err == nil && count == t.b.partitions {
			return nil
		}
		if ctx.Err() != nil {
			return errors.Join(ctx.Err(), fmt.Errorf("%d of %d partitions answer: %w", count, t.b.partitions, err))
		}
	}
}

// writeManies is the part of the report about many partitions.
func (r *report) writeManies(b *strings.Builder) {
	if len(r.Manies) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## Many partitions\n\n%s. Medians of the runs; seconds are from the start of the process. Both acknowledge from the page cache. "+
		"\"Takes records\" is when a record is acknowledged in each partition that is written to, \"all answer\" when every partition has said where it ends.\n\n"+
		"| less is better | Moldau | Kafka | Kafka's is so many times as much |\n|---|--:|--:|--:|\n", r.ManyTitle)
	for _, row := range []struct {
		title  string
		digits int
		of     func(*manyRun) float64
	}{
		{"resident MB, idle and without partitions", 0, func(r *manyRun) float64 { return float64(r.IdleBytes) / 1e6 }},
		{"resident MB", 0, func(r *manyRun) float64 { return float64(r.RSSBytes) / 1e6 }},
		{"resident MB after a clean restart, when all have answered", 0, func(r *manyRun) float64 { return float64(r.RestartBytes) / 1e6 }},
		{"clean stop, s", 2, func(r *manyRun) float64 { return r.Stop }},
		{"clean restart: takes records, s", 2, func(r *manyRun) float64 { return r.Restart }},
		{"clean restart: all answer, s", 2, func(r *manyRun) float64 { return r.RestartAll }},
		{"clean restart: processor time until then, s", 2, func(r *manyRun) float64 { return r.RestartCPU }},
		{"restart after kill -9: takes records, s", 2, func(r *manyRun) float64 { return r.AfterKill }},
		{"restart after kill -9: all answer, s", 2, func(r *manyRun) float64 { return r.AfterKillAll }},
		{"restart after kill -9: processor time until then, s", 2, func(r *manyRun) float64 { return r.AfterKillCPU }},
	} {
		of := func(kind string) float64 {
			var all []float64
			for i := range r.Manies {
				if run := &r.Manies[i]; run.Broker == kind && run.Error == "" {
					all = append(all, row.of(run))
				}
			}
			return median(all)
		}
		m, k := of(moldau), of(kafka)
		ratio := "–"
		if m > 0 && k > 0 {
			ratio = number(k/m, 1)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", row.title, number(m, row.digits), number(k, row.digits), ratio)
	}
	for _, run := range r.Manies {
		if run.Error != "" {
			fmt.Fprintf(b, "\nA run of %s with many partitions failed: %s\n", run.Broker, run.Error)
		}
	}
}
