package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"moldau/internal/bench"
)

// The cold scenarios: consumers of what is on the disk only, beside a producer and a consumer of a hot topic, while the broker's
// disk gives a fixed number of bytes a second. What counts is what the hot topic notices.

// coldScenario is one rate of the disk and one number of consumers.
type coldScenario struct {
	name      string
	mbps      int
	consumers int
}

var coldScenarios = []coldScenario{{"cold-20", 20, 24}, {"cold-100", 100, 24}, {"cold-20-many", 20, 200}}

func (c coldScenario) title() string {
	return fmt.Sprintf("%d consumers of cold partitions, a disk of %d MB/s, and a hot topic", c.consumers, c.mbps)
}

const (
	hotRate    = 200 // records a second, one in a request
	hotRecord  = 100
	coldDetail = 1 << 10
)

// coldRun is one broker in one cold scenario. Latencies are in milliseconds.
type coldRun struct {
	Scenario string              `json:"scenario"`
	Pair     int                 `json:"pair"`
	Broker   string              `json:"broker"`
	Alone    *bench.Result       `json:"alone,omitempty"`  // the hot topic, with nobody beside it
	Beside   *bench.Result       `json:"beside,omitempty"` // the hot topic, beside the cold consumers
	ColdMBps float64             `json:"coldMBps"`
	Cold     *bench.Distribution `json:"cold,omitempty"` // their fetches
	Threads  int                 `json:"threads"`        // most of the broker's processes
	Error    string              `json:"error,omitempty"`
}

// colds runs the cold scenarios that were asked for.
func (b *runner) colds(ctx context.Context) error {
	for _, sc := range coldScenarios {
		if !b.scenario.MatchString(sc.name) {
			continue
		}
		t, err := newThrottle(b.dir)
		if err != nil {
			b.say("%s skipped: %v", sc.name, err)
			b.report.ColdSkipped = append(b.report.ColdSkipped, fmt.Sprintf("%s: %v", sc.name, err))
			continue
		}
		err = b.coldPairs(ctx, sc, t)
		if err := errors.Join(err, t.close()); err != nil {
			return err
		}
	}
	return nil
}

func (b *runner) coldPairs(ctx context.Context, sc coldScenario, t *throttle) error {
	b.say("%s: %s", sc.name, sc.title())
	for pair := range b.pairs {
		for _, kind := range b.kindsOf(pair) {
			r := coldRun{Scenario: sc.name, Pair: pair, Broker: kind}
			if err := b.coldOnce(ctx, sc, t, &r); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				r.Error = firstLine(err)
			}
			b.report.Colds = append(b.report.Colds, r)
			b.sayCold(&r)
		}
	}
	return nil
}

func (b *runner) sayCold(r *coldRun) {
	if r.Error != "" {
		b.say("  %-6s failed: %s", r.Broker, r.Error)
		return
	}
	b.say("  %-6s hot alone: ack p50 %.2f p99 %.2f, to consumer p99 %.2f ms; beside: ack p50 %.2f p99 %.2f max %.0f, to consumer p50 %.2f p99 %.2f max %.0f ms; "+
		"cold %.1f MB/s, fetch p50 %.0f max %.0f ms; %d threads", r.Broker, r.Alone.Ack.P50, r.Alone.Ack.P99, r.Alone.EndToEnd.P99, r.Beside.Ack.P50, r.Beside.Ack.P99,
		r.Beside.Ack.Max, r.Beside.EndToEnd.P50, r.Beside.EndToEnd.P99, r.Beside.EndToEnd.Max, r.ColdMBps, r.Cold.P50, r.Cold.Max, r.Threads)
}

func (b *runner) coldOnce(ctx context.Context, sc coldScenario, t *throttle, r *coldRun) (err error) {
	dir := filepath.Join(b.dir, "cold")
	defer os.RemoveAll(dir)
	br, err := b.newBroker(r.Broker, pageCache, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.set(0), br.kill()) }()
	if _, err := br.start(ctx); err != nil {
		return err
	}
	// More than the disk can read meanwhile, so that nobody reads anything twice.
	fill := int64(1.5 * float64(sc.mbps) * 1e6 * (2*b.duration + 2*b.warmUp).Seconds())
	cold := b.options(br, bench.Options{Topic: "cold", Create: true, Partitions: int32(sc.consumers), Connections: 4, RecordSize: coldDetail,
		BatchSize: batchSize, Acks: -1, Fill: max(fill, int64(sc.consumers)<<20), Once: true})
	cold.Delete, cold.Timeout = false, time.Minute
	if _, err := bench.Consume(ctx, cold); err != nil {
		return err
	}
	// The hot topic's ways are gone once before they are measured.
	if _, err := b.hot(ctx, br); err != nil {
		return err
	}
	syncDisks()
	if err := evict(br.dir, "cold-"); err != nil {
		return err
	}
	if err := errors.Join(t.add(br.cmd.Process.Pid), t.set(sc.mbps*1_000_000)); err != nil {
		return err
	}
	if r.Alone, err = b.hot(ctx, br); err != nil {
		return err
	}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	cold.Create, cold.Fill, cold.Once, cold.Connections = false, 0, false, sc.consumers
	cold.WarmUp, cold.Duration = b.warmUp, b.duration+b.warmUp
	var all sync.WaitGroup
	var coldErr error
	var result *bench.Result
	all.Go(func() { result, coldErr = bench.Consume(reading, cold) })
	all.Go(func() {
		for reading.Err() == nil {
			n, err := threads(br.cmd.Process.Pid)
			if err == nil {
				r.Threads = max(r.Threads, n)
			}
			time.Sleep(10 * time.Millisecond)
		}
	})
	time.Sleep(b.warmUp)
	r.Beside, err = b.hot(ctx, br)
	if err == nil {
		// The consumers' own interval may still be under way.
		done := make(chan struct{})
		go func() { defer close(done); all.Wait() }()
		select {
		case <-done:
		case <-time.After(b.duration + b.warmUp + time.Minute):
		}
	}
	stop()
	all.Wait()
	if err = errors.Join(err, coldErr); err != nil {
		return err
	}
	r.ColdMBps, r.Cold = result.BytesPerSecond/1e6, result.Fetch
	return nil
}

// hot measures a topic of its own.
func (b *runner) hot(ctx context.Context, br *broker) (*bench.Result, error) {
	return bench.Latency(ctx, b.options(br, bench.Options{Partitions: 1, Connections: 1, RecordSize: hotRecord, BatchSize: 1, Acks: 1,
		Rate: bench.Rate{Records: hotRate}}))
}

// evict takes what is in the files below dir, in directories that begin with prefix, out of the page cache.
func evict(dir, prefix string) error {
	return filepath.WalkDir(dir, func(name string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasPrefix(filepath.Base(filepath.Dir(name)), prefix) {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		return errors.Join(dontNeed(f), f.Close())
	})
}

// threads is the number of threads of a process and of all below it.
func threads(pid int) (n int, err error) {
	pids, err := tree(pid)
	if err != nil {
		return 0, err
	}
	for _, p := range pids {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", p))
		if err == nil {
			n += len(tasks)
		}
	}
	return n, nil
}

// writeColds is the part of the report about cold reads.
func (r *report) writeColds(b *strings.Builder) {
	if len(r.Colds)+len(r.ColdSkipped) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## Cold reads beside a hot topic\n\nThe hot topic gets %d records a second; latencies are in milliseconds, medians of the runs. "+
		"\"To a consumer\" is from the start of the request to the moment at which a waiting consumer has the record.\n\n", hotRate)
	for _, why := range r.ColdSkipped {
		fmt.Fprintf(b, "Not measured: %s.\n\n", why)
	}
	if len(r.Colds) == 0 {
		return
	}
	b.WriteString("| less is better | broker | alone: acknowledged p50, p99 | beside: acknowledged p50, p99, max | alone: to a consumer p50, p99 | beside: to a consumer p50, p99, max | cold MB/s | threads |\n" +
		"|---|---|--:|--:|--:|--:|--:|--:|\n")
	for _, sc := range coldScenarios {
		for _, kind := range []string{moldau, kafka} {
			var runs []coldRun
			for _, run := range r.Colds {
				if run.Scenario == sc.name && run.Broker == kind && run.Error == "" {
					runs = append(runs, run)
				}
			}
			if len(runs) == 0 {
				continue
			}
			of := func(pick func(*coldRun) float64) string {
				var all []float64
				for i := range runs {
					all = append(all, pick(&runs[i]))
				}
				return number(median(all), 2)
			}
			fmt.Fprintf(b, "| %s | %s | %s, %s | %s, %s, %s | %s, %s | %s, %s, %s | %s | %s |\n", sc.title(), kind,
				of(func(r *coldRun) float64 { return r.Alone.Ack.P50 }), of(func(r *coldRun) float64 { return r.Alone.Ack.P99 }),
				of(func(r *coldRun) float64 { return r.Beside.Ack.P50 }), of(func(r *coldRun) float64 { return r.Beside.Ack.P99 }),
				of(func(r *coldRun) float64 { return r.Beside.Ack.Max }),
				of(func(r *coldRun) float64 { return r.Alone.EndToEnd.P50 }), of(func(r *coldRun) float64 { return r.Alone.EndToEnd.P99 }),
				of(func(r *coldRun) float64 { return r.Beside.EndToEnd.P50 }), of(func(r *coldRun) float64 { return r.Beside.EndToEnd.P99 }),
				of(func(r *coldRun) float64 { return r.Beside.EndToEnd.Max }),
				of(func(r *coldRun) float64 { return r.ColdMBps }), of(func(r *coldRun) float64 { return float64(r.Threads) }))
		}
	}
	for _, run := range r.Colds {
		if run.Error != "" {
			fmt.Fprintf(b, "\nA run of %s in %s failed: %s\n", run.Broker, run.Scenario, run.Error)
		}
	}
}
