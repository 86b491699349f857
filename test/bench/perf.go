package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"moldau/internal/bench"
)

// Loads by Kafka's own kafka-producer-perf-test and kafka-consumer-perf-test, as clients of both brokers. They cost many times what the
// broker does, so on a small machine they show what a user of the Java client notices, and little of what a broker could do.

// perfJVM are the options of Kafka's own start script for them.
const perfJVM = "KAFKA_TOOL_JVM=-Xmx512M -server -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 -XX:+ExplicitGCInvokesConcurrent"

const (
	perfInterval = 250 * time.Millisecond // how often producer-perf says how far it is
	perfSlack    = 2 * time.Second        // it catches up with what it was late with at its start
	perfPatience = 5 * time.Minute        // for one run of a tool
)

// perfWarmUp is how long the Java client runs before it is measured: it compiles itself meanwhile.
func (s *settings) perfWarmUp() time.Duration { return s.warmUp + 3*time.Second }

// perfTopic makes a topic for one run, and returns what deletes it.
func perfTopic(ctx context.Context, o *bench.Options) (remove func() error, err error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(o.Bootstrap...), kgo.DisableClientMetrics())
	if err != nil {
		return nil, err
	}
	adm, configs := kadm.NewClient(cl), map[string]*string{}
	for k, v := range o.Configs {
		configs[k] = &v
	}
	o.Topic = fmt.Sprintf("perf-%016x", rand.Uint64())
	if _, err = adm.CreateTopic(ctx, o.Partitions, 1, configs, o.Topic); err != nil {
		cl.Close()
		return nil, err
	}
	return func() error {
		defer cl.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), o.Timeout)
		defer cancel()
		_, err := adm.DeleteTopic(ctx, o.Topic)
		return err
	}, nil
}

// perfTool runs a tool and gives each line of its output to line, until that says that it is enough; then the tool is killed. It makes the
// client's clock that of the tool.
func (b *runner) perfTool(ctx context.Context, o *bench.Options, line func(string) (enough bool, err error), args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, perfPatience)
	defer cancel()
	var stderr strings.Builder
	cmd := exec.CommandContext(ctx, kafkaLauncher(b.root), args...)
	cmd.Env = append(os.Environ(), perfJVM, "KAFKA_TOOL_LOG=error")
	cmd.Stderr = &stderr
	tieToParent(cmd)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return err
	}
	o.Clocks = maps.Clone(o.Clocks)
	o.Clocks["client"] = func() (time.Duration, error) {
		if cmd.ProcessState != nil {
			return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
		}
		return treeTime(cmd.Process.Pid)
	}
	enough, lineErr := false, error(nil)
	for s := bufio.NewScanner(out); s.Scan(); {
		if !enough && lineErr == nil {
			if enough, lineErr = line(s.Text()); enough || lineErr != nil {
				cancel()
			}
		}
	}
	err = cmd.Wait()
	switch {
	case lineErr != nil || enough:
		return lineErr
	case err != nil:
		return fmt.Errorf("%s: %w: %s", args[0], err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// readClocks reads all of them.
func readClocks(o *bench.Options) (map[string]float64, error) {
	all := map[string]float64{}
	for name, clock := range o.Clocks {
		d, err := clock()
		if err != nil {
			return nil, fmt.Errorf("clock %s: %w", name, err)
		}
		all[name] = d.Seconds()
	}
	return all, nil
}

func difference(from, to map[string]float64) map[string]float64 {
	d := map[string]float64{}
	for name := range to {
		d[name] = to[name] - from[name]
	}
	return d
}

// producerPerf has producer-perf write. With a rate it writes as many records as that is, so that it prints latencies at its end;
// saturated it is killed when it has been measured for long enough.
func (b *runner) producerPerf(ctx context.Context, o bench.Options) (r *bench.Result, err error) {
	remove, err := perfTopic(ctx, &o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	perSecond := o.Rate.Bytes / float64(o.RecordSize)
	args := []string{"producer-perf", "--bootstrap-server", o.Bootstrap[0], "--topic", o.Topic, "--record-size", strconv.Itoa(o.RecordSize),
		"--reporting-interval", strconv.FormatInt(perfInterval.Milliseconds(), 10), "--command-property", "acks=" + acksText[o.Acks]}
	if perSecond > 0 {
		warm := int64(perSecond * b.perfWarmUp().Seconds())
		args = append(args, "--throughput", strconv.FormatInt(int64(perSecond), 10), "--warmup-records", strconv.FormatInt(warm, 10),
			"--num-records", strconv.FormatInt(warm+int64(perSecond*(o.Duration+perfSlack).Seconds()), 10))
	} else {
		args = append(args, "--throughput", "-1", "--num-records", strconv.Itoa(1<<40))
	}
	r = &bench.Result{Kind: "producer-perf", Topic: o.Topic, Partitions: int(o.Partitions), TargetPerSecond: perSecond, KeptRate: true}
	var first time.Time // when the first line came
	var from, to map[string]float64
	err = b.perfTool(ctx, &o, func(text string) (enough bool, err error) {
		l, ok := parseProducerPerf(text)
		now := time.Now()
		switch {
		case !ok:
		case l.latency != nil: // at the end; the line of the steady state comes last
			r.Ack = l.latency
		case first.IsZero():
			first = now
		case from == nil && now.Sub(first) >= b.perfWarmUp():
			r.Began = now
			from, err = readClocks(&o)
		case from != nil:
			r.Records += l.records
			r.Seconds = now.Sub(r.Began).Seconds()
			to, err = readClocks(&o)
			enough = perSecond == 0 && r.Seconds >= o.Duration.Seconds()
		}
		return enough, err
	}, args...)
	if err != nil {
		return nil, err
	}
	if to == nil {
		return nil, errors.New("producer-perf ended before it was measured")
	}
	r.ClockSeconds = difference(from, to)
	r.Requests, r.Bytes = r.Records, r.Records*int64(o.RecordSize) // of requests it says nothing
	r.RecordsPerSecond, r.BytesPerSecond = float64(r.Records)/r.Seconds, float64(r.Bytes)/r.Seconds
	r.KeptRate = r.RecordsPerSecond >= 0.98*perSecond
	return r, nil
}

// consumerPerf has consumer-perf read a topic from its beginning to its end. The clocks are those of the whole life of the tool; the
// throughput is what it says of its fetches.
func (b *runner) consumerPerf(ctx context.Context, o bench.Options) (r *bench.Result, err error) {
	remove, err := perfTopic(ctx, &o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	fill := o
	fill.Once, fill.Delete = true, false
	filled, err := bench.Consume(ctx, fill)
	if err != nil {
		return nil, err
	}
	r = &bench.Result{Kind: "consumer-perf", Topic: o.Topic, Partitions: int(o.Partitions), KeptRate: true}
	r.Began = time.Now()
	delete(o.Clocks, "client") // it begins with the tool, at zero
	from, err := readClocks(&o)
	if err != nil {
		return nil, err
	}
	err = b.perfTool(ctx, &o, func(text string) (bool, error) {
		if l, ok := parseConsumerPerf(text); ok {
			r.Records, r.RecordsPerSecond = l.records, l.perSecond
		}
		return false, nil
	}, "consumer-perf", "--bootstrap-server", o.Bootstrap[0], "--topic", o.Topic, "--num-records", strconv.FormatInt(filled.Records, 10), "--hide-header")
	if err != nil {
		return nil, err
	}
	to, err := readClocks(&o)
	if err != nil {
		return nil, err
	}
	r.Seconds = time.Since(r.Began).Seconds()
	r.ClockSeconds = difference(from, to)
	r.Requests, r.Bytes, r.BytesPerSecond = r.Records, r.Records*int64(o.RecordSize), r.RecordsPerSecond*float64(o.RecordSize)
	return r, nil
}

// javaProducers runs as many of Kafka's producers as there are connections, in one process, each with one record under way.
func (b *runner) javaProducers(ctx context.Context, o bench.Options) (r *bench.Result, err error) {
	remove, err := perfTopic(ctx, &o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	r = &bench.Result{Kind: "java-producers", Topic: o.Topic, Partitions: int(o.Partitions), KeptRate: true}
	var from, to map[string]float64
	err = b.perfTool(ctx, &o, func(text string) (enough bool, err error) {
		switch text {
		case "begin":
			r.Began = time.Now()
			from, err = readClocks(&o)
		case "end":
			to, err = readClocks(&o)
		default:
			err = json.Unmarshal([]byte(text), r)
		}
		return false, err
	}, "class", filepath.Join(b.root, "test", "bench", "java", "Producers.java"), o.Bootstrap[0], o.Topic, strconv.Itoa(o.Connections),
		strconv.Itoa(int(o.Partitions)), strconv.Itoa(o.RecordSize), strconv.FormatInt(b.perfWarmUp().Milliseconds(), 10), strconv.FormatInt(o.Duration.Milliseconds(), 10))
	if err != nil {
		return nil, err
	}
	if r.Seconds == 0 {
		return nil, errors.New("the producers ended before they were measured")
	}
	r.ClockSeconds = difference(from, to)
	r.Requests, r.Bytes = r.Records, r.Records*int64(o.RecordSize)
	r.RequestsPerSecond, r.RecordsPerSecond, r.BytesPerSecond = float64(r.Requests)/r.Seconds, float64(r.Records)/r.Seconds, float64(r.Bytes)/r.Seconds
	return r, nil
}

// perfLine is one line of a tool.
type perfLine struct {
	records   int64
	perSecond float64
	latency   *bench.Distribution // nil: no summary
}

// parseProducerPerf reads
//
//	23059 records sent, 45934.3 records/sec (44.86 MB/sec), 4.1 ms avg latency, 17.0 ms max latency.
//	500000 steady state records sent, 45787.5 records/sec (44.71 MB/sec), 16.20 ms avg latency, 408.00 ms max latency, 4 ms 50th, 53 ms 95th, 367 ms 99th, 407 ms 99.9th.
func parseProducerPerf(text string) (l perfLine, ok bool) {
	fields := strings.Split(strings.TrimSuffix(strings.TrimSpace(text), "."), ", ")
	if len(fields) < 4 || !strings.HasSuffix(fields[0], "records sent") {
		return l, false
	}
	values := make([]float64, len(fields))
	for i, f := range fields {
		number, _, _ := strings.Cut(f, " ")
		var err error
		if values[i], err = strconv.ParseFloat(number, 64); err != nil {
			return l, false
		}
	}
	l.records, l.perSecond = int64(values[0]), values[1]
	if len(fields) == 8 {
		l.latency = &bench.Distribution{Count: l.records, Mean: values[2], Max: values[3], P50: values[4], P99: values[6], P999: values[7]}
	}
	return l, true
}

// parseConsumerPerf reads
//
//	2026-11-27 20:50:03:702, 2026-11-27 20:50:07:818, 585.9375, 142.3560, 600000, 145772.5948, 1011, 3105, 188.7077, 193236.7150
//
// of which the fifth is the number of records, and the last how many a second its fetches brought, without the time of joining its group.
func parseConsumerPerf(text string) (l perfLine, ok bool) {
	fields := strings.Split(strings.TrimSpace(text), ", ")
	if len(fields) != 10 {
		return l, false
	}
	var err error
	if l.records, err = strconv.ParseInt(fields[4], 10, 64); err == nil {
		l.perSecond, err = strconv.ParseFloat(fields[9], 64)
	}
	return l, err == nil
}
