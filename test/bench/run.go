package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"moldau/internal/bench"
)

// When a run does not count.
const (
	mostOthers     = 0.03 // of the machine, by processes that are neither broker nor client
	mostSteal      = 0.01 // of the machine, by its host
	mostDifference = 0.10 // between the calibrations of a pair
	mostClient     = 0.50 // of the machine, by the client: then it is the client that is measured
)

// run is one run of one broker, as it is published.
type run struct {
	Scenario    string        `json:"scenario"`
	Phase       string        `json:"phase"`
	Mode        mode          `json:"mode"`
	Pair        int           `json:"pair"`
	Second      bool          `json:"second"` // of its pair
	Broker      string        `json:"broker"`
	Error       string        `json:"error,omitempty"`
	Result      *bench.Result `json:"result,omitempty"`
	BrokerCPU   float64       `json:"brokerCPUSeconds"`
	ClientCPU   float64       `json:"clientCPUSeconds"`
	OthersShare float64       `json:"othersShare"` // of the machine
	StealShare  float64       `json:"stealShare"`
	ClientShare float64       `json:"clientShare"`
	Calibration calibration   `json:"calibration"`
	RSSBytes    int64         `json:"rssBytes"`
	PeakBytes   int64         `json:"peakRSSBytes"`
	Invalid     []string      `json:"invalid,omitempty"` // why it does not count
	ClientBound bool          `json:"clientBound"`       // saturated, but the client took most of the machine
}

// startRun is one measurement of starting, in seconds.
type startRun struct {
	Broker      string      `json:"broker"`
	Mode        mode        `json:"mode"`
	Pair        int         `json:"pair"`
	Start       float64     `json:"start"`       // empty directory, to the first answer
	FirstRecord float64     `json:"firstRecord"` // the same, to the first acknowledged record on a new topic
	IdleBytes   int64       `json:"idleRSSBytes"`
	Restart     float64     `json:"restart"` // after a clean stop, to an acknowledged record
	AfterKill   float64     `json:"afterKill"`
	Calibration calibration `json:"calibration"`
	OthersShare float64     `json:"othersShare"` // of the machine, from the first start to the last stop
	StealShare  float64     `json:"stealShare"`
	Invalid     []string    `json:"invalid,omitempty"`
	Error       string      `json:"error,omitempty"`
}

// runner goes through the matrix.
type runner struct {
	*settings
	dir    string
	say    func(format string, args ...any)
	report report

	brokers map[mode]*broker // Moldau's
	kafka   *broker          // nil without
}

func (b *runner) all(ctx context.Context, matrix []scenario) error {
	b.say("about %s, without the scenario of many partitions; the report goes to %s", b.estimate(matrix).Round(time.Minute), b.out)
	b.report.Scenarios = describe(matrix)
	err := b.startBrokers(ctx, matrix)
	if err == nil {
		err = b.warm(ctx)
	}
	for _, sc := range matrix {
		for _, m := range sc.modes {
			if err == nil {
				err = b.runScenario(ctx, sc, m)
			}
		}
	}
	if err := errors.Join(err, b.stopBrokers()); err != nil {
		return err
	}
	if err := b.starts(ctx); err != nil {
		return err
	}
	if err := b.colds(ctx); err != nil {
		return err
	}
	return b.manies(ctx)
}

// startBrokers starts one broker for each mode that the matrix needs, and one Kafka for all. They run until the end:
// a virtual machine for Java is fast only when it has run for a while.
func (b *runner) startBrokers(ctx context.Context, matrix []scenario) error {
	b.brokers = map[mode]*broker{}
	for _, sc := range matrix {
		for _, m := range sc.modes {
			if m = processMode(m); b.brokers[m] != nil {
				continue
			}
			br, err := b.newBroker(moldau, m, filepath.Join(b.dir, "moldau-"+fmt.Sprint(len(b.brokers))))
			if err != nil {
				return err
			}
			b.brokers[m] = br
			if _, err := br.start(ctx); err != nil {
				return err
			}
		}
	}
	if b.moldauOnly || len(matrix) == 0 {
		return nil
	}
	var err error
	if b.kafka, err = b.newBroker(kafka, pageCache, filepath.Join(b.dir, "kafka")); err != nil {
		return err
	}
	_, err = b.kafka.start(ctx)
	return err
}

// processMode is the mode of the process that serves a scenario in mode m: where the topic says what is
// durable, any will do.
func processMode(m mode) mode {
	if m == durable {
		return pageCache
	}
	return m
}

func (b *runner) stopBrokers() error {
	var all error
	for _, br := range b.brokers {
		all = errors.Join(all, br.stop())
	}
	if b.kafka != nil {
		all = errors.Join(all, b.kafka.stop())
	}
	return all
}

// warmRounds bounds how often warm looks whether a broker still becomes faster.
const warmRounds = 10

// warm gives every broker load that is not measured, until it no longer becomes faster: Kafka's virtual machine
// compiles for a while, and the longer the busier the machine is.
func (b *runner) warm(ctx context.Context) error {
	brokers := slices.Collect(maps.Values(b.brokers))
	if b.kafka != nil {
		brokers = append(brokers, b.kafka)
	}
	for _, br := range brokers {
		best := 0.0
		for round := range warmRounds {
			o := b.options(br, bench.Options{Partitions: 8, Connections: throughputConnections, RecordSize: 1 << 10, BatchSize: batchSize, Acks: -1})
			o.Duration, o.WarmUp = max(2*b.duration, time.Second), 0
			r, err := bench.Produce(ctx, o)
			if err != nil {
				return err
			}
			o.Fill, o.Duration = b.fill/4, o.Duration/2
			if _, err := bench.Consume(ctx, o); err != nil {
				return err
			}
			b.say("warming up %s: %.0f MB/s", br, r.BytesPerSecond/1e6)
			if round > 1 && r.BytesPerSecond < 1.1*best || b.moldauOnly {
				break
			}
			best = max(best, r.BytesPerSecond)
		}
	}
	return nil
}

// options completes a scenario's.
func (b *runner) options(br *broker, o bench.Options) bench.Options {
	o.Bootstrap, o.Delete, o.Sleep = []string{br.addr}, true, sleep
	o.Timeout, o.Duration, o.WarmUp = 30*time.Second, b.duration, b.warmUp
	return o
}

// runScenario runs all phases of one scenario in one mode.
func (b *runner) runScenario(ctx context.Context, sc scenario, m mode) error {
	capacity := 0.0 // Kafka's, in bytes a second
	if b.moldauOnly {
		capacity = 20e6
	}
	for _, ph := range sc.phases {
		rate := bench.Rate{}
		if ph.share > 0 {
			if capacity == 0 {
				b.say("  %s, %s: no saturated run has succeeded, so there is no rate for it", sc.name, ph.name)
				continue
			}
			rate.Bytes = capacity * ph.share
		}
		var reached []float64
		for pair, counted := 0, 0; b.another(pair, counted); pair++ {
			order := []*broker{b.brokers[processMode(m)]}
			if b.kafka != nil {
				order = append(order, b.kafka)
			}
			if pair%2 == 1 {
				slices.Reverse(order)
			}
			first := len(b.report.Runs)
			for second, br := range order {
				r, err := b.once(ctx, sc, m, ph, br, rate)
				if err != nil {
					return err
				}
				r.Mode, r.Pair, r.Second = m, pair, second == 1
				b.report.Runs = append(b.report.Runs, r)
				if br == b.kafka && r.Result != nil {
					reached = append(reached, r.Result.BytesPerSecond)
				}
				b.sayRun(r)
			}
			judgePair(b.report.Runs[first:])
			counted += truth(!slices.ContainsFunc(b.report.Runs[first:], func(r run) bool { return r.Error != "" || len(r.Invalid) > 0 }))
		}
		if ph.share == 0 && len(reached) > 0 {
			capacity = median(reached)
		}
	}
	return nil
}

// another reports whether there is one more pair, after so many of which so many count. What counts does not depend on what was measured.
func (s *settings) another(pairs, counted int) bool {
	return pairs < s.pairs || counted < s.pairs && pairs < s.pairs+s.again
}

func (b *runner) sayRun(r run) {
	if r.Error != "" {
		b.say("  %-26s %-9s %-12s %-6s failed: %s", r.Scenario, r.Phase, r.Mode, r.Broker, r.Error)
		return
	}
	note := ""
	if len(r.Invalid) > 0 {
		note = "  does not count: " + strings.Join(r.Invalid, "; ")
	}
	b.say("  %-26s %-9s %-12s %-6s %8.1f MB/s  broker %.2f  client %.2f CPU-s/GB%s", r.Scenario, r.Phase, r.Mode, r.Broker,
		r.Result.BytesPerSecond/1e6, r.perGB(r.BrokerCPU), r.perGB(r.ClientCPU), note)
}

func (r *run) perGB(seconds float64) float64 {
	if r.Result == nil || r.Result.Bytes == 0 {
		return 0
	}
	return seconds / float64(r.Result.Bytes) * 1e9
}

// once does one run. What the broker refuses is a result; an error is what makes going on senseless.
func (b *runner) once(ctx context.Context, sc scenario, m mode, ph phase, br *broker, rate bench.Rate) (run, error) {
	r := run{Scenario: sc.name, Phase: ph.name, Broker: br.kind}
	if err := br.gone(); err != nil {
		return r, err
	}
	if err := b.quiet(ctx, rate); err != nil {
		return r, err
	}
	var err error
	if r.Calibration, err = calibrate(b.dir, b.rough); err != nil {
		return r, err
	}
	o := b.options(br, sc.options)
	o.Rate = rate
	if m == durable {
		o.Configs = map[string]string{"flush.messages": "1"}
	}
	pid := br.cmd.Process.Pid
	o.Clocks = clocks(pid)
	var result *bench.Result
	switch sc.measure {
	case produce:
		result, err = bench.Produce(ctx, o)
	case consume:
		result, err = bench.Consume(ctx, o)
	case latency:
		result, err = bench.Latency(ctx, o)
	case producerPerf:
		result, err = b.producerPerf(ctx, o)
	case consumerPerf:
		result, err = b.consumerPerf(ctx, o)
	case javaProducers:
		result, err = b.javaProducers(ctx, o)
	}
	if ctx.Err() != nil {
		return r, ctx.Err()
	}
	if r.RSSBytes, r.PeakBytes, _ = residentBytes(pid); err != nil { // a broker that has ended is seen at the next run
		r.Error = firstLine(err)
		return r, nil
	}
	r.Result = result
	r.judge(ph)
	return r, nil
}

// clocks are the processor times of this process, of a broker and of the machine.
func clocks(broker int) map[string]func() (time.Duration, error) {
	machine := func(pick func(usage) float64) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			u, err := readUsage()
			return time.Duration(pick(u) * 1e9), err
		}
	}
	return map[string]func() (time.Duration, error){
		"client": ownTime,
		"broker": func() (time.Duration, error) { return treeTime(broker) },
		"work":   machine(func(u usage) float64 { return u.work }),
		"steal":  machine(func(u usage) float64 { return u.steal }),
		"kernel": machine(func(u usage) float64 { return u.kernelThreads }),
	}
}

// shares are the parts of the machine that others than broker and client had, its host, and the client.
func shares(r *bench.Result) (others, steal, client float64) {
	c, whole := r.ClockSeconds, r.Seconds*float64(runtime.NumCPU())
	return max(0, c["work"]-c["broker"]-c["client"]-c["kernel"]) / whole, c["steal"] / whole, c["client"] / whole
}

// judge computes the shares and says why the run does not count, if it does not.
func (r *run) judge(ph phase) {
	r.BrokerCPU, r.ClientCPU = r.Result.ClockSeconds["broker"], r.Result.ClockSeconds["client"]
	r.OthersShare, r.StealShare, r.ClientShare = shares(r.Result)
	r.Invalid = noise(r.OthersShare, r.StealShare)
	if r.Result.Requests == 0 {
		r.Invalid = append(r.Invalid, "nothing was done in the measured time")
	}
	if !r.Result.KeptRate {
		r.Invalid = append(r.Invalid, "the rate was not kept")
	}
	if r.Result.ThrottleSeconds > 0 {
		r.Invalid = append(r.Invalid, "a quota delayed the client")
	}
	if r.ClientShare > mostClient {
		if ph.share > 0 {
			r.Invalid = append(r.Invalid, fmt.Sprintf("the client used %.0f %% of the machine", 100*r.ClientShare))
		}
		r.ClientBound = ph.share == 0
	}
}

// noise says what others did to the machine, if it is too much.
func noise(others, steal float64) (reasons []string) {
	if others > mostOthers {
		reasons = append(reasons, fmt.Sprintf("other processes used %.0f %% of the machine", 100*others))
	}
	if steal > mostSteal {
		reasons = append(reasons, fmt.Sprintf("the host took %.0f %% of the machine", 100*steal))
	}
	return reasons
}

// judgePair compares the calibrations of a pair.
func judgePair(pair []run) {
	if len(pair) < 2 {
		return
	}
	reasons := drift(pair[0].Calibration, pair[1].Calibration)
	for i := range pair {
		pair[i].Invalid = append(pair[i].Invalid, reasons...)
	}
}

// drift says how much the machine's speed differs within a pair, if it is too much.
func drift(a, b calibration) (reasons []string) {
	if d := largestDifference(a, b); d > mostDifference {
		reasons = append(reasons, fmt.Sprintf("the machine's speed changed by %.0f %% within the pair", 100*d))
	}
	return reasons
}

// quiet makes the machine alike before every run: what was written is on the disk, and there are pages
// in the page cache's free list for what will be written, which otherwise cost whoever comes first.
func (b *runner) quiet(ctx context.Context, rate bench.Rate) error {
	if !b.rough {
		syncDisks()
	}
	n := b.equalise
	if rate.Bytes > 0 {
		n = min(n, int64(rate.Bytes*(b.duration+b.warmUp).Seconds()))
	}
	if err := writeAndDelete(b.dir, make([]byte, 1<<20), n); err != nil {
		return err
	}
	select {
	case <-time.After(b.settle):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// kindsOf are the brokers of a pair, in their order: that of every other pair is the reverse (ABBA).
func (b *runner) kindsOf(pair int) []string {
	switch {
	case b.moldauOnly:
		return []string{moldau}
	case pair%2 == 1:
		return []string{kafka, moldau}
	}
	return []string{moldau, kafka}
}

// startModes are those in which starting is measured.
var startModes = []mode{pageCache, defaults}

// starts measures starting and starting again.
func (b *runner) starts(ctx context.Context) error {
	if !b.scenario.MatchString("start") {
		return nil
	}
	b.say("starts")
	for _, m := range startModes {
		for pair, counted := 0, 0; b.another(pair, counted); pair++ {
			first := len(b.report.Starts)
			for _, kind := range b.kindsOf(pair) {
				r := startRun{Broker: kind, Mode: m, Pair: pair}
				if err := b.startWatched(ctx, &r); err != nil {
					if ctx.Err() != nil {
						return ctx.Err()
					}
					b.say("  %s: %v", kind, err)
					r.Error = firstLine(err)
				}
				b.report.Starts = append(b.report.Starts, r)
				b.say("  %-6s %-12s start %.3f s, first record %.3f s, again %.3f s, after kill -9 %.3f s %s", kind, m, r.Start, r.FirstRecord,
					r.Restart, r.AfterKill, strings.Join(r.Invalid, "; "))
			}
			if s := b.report.Starts[first:]; len(s) == 2 {
				reasons := drift(s[0].Calibration, s[1].Calibration)
				for i := range s {
					s[i].Invalid = append(s[i].Invalid, reasons...)
				}
			}
			counted += truth(!slices.ContainsFunc(b.report.Starts[first:], func(r startRun) bool { return r.Error != "" || len(r.Invalid) > 0 }))
		}
	}
	return nil
}

// firstLine is an error without what a log adds to it.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// startWatched is startOnce with an eye on what others do to the machine meanwhile.
func (b *runner) startWatched(ctx context.Context, r *startRun) error {
	ours := func() (u usage, own time.Duration, err error) {
		if u, err = readUsage(); err == nil {
			own, err = familyTime()
		}
		return u, own, err
	}
	began := time.Now()
	before, ownBefore, err := ours()
	if err != nil {
		return err
	}
	if err := b.startOnce(ctx, r); err != nil {
		return err
	}
	after, ownAfter, err := ours()
	whole := time.Since(began).Seconds() * float64(runtime.NumCPU())
	r.OthersShare = max(0, after.work-before.work-(after.kernelThreads-before.kernelThreads)-(ownAfter-ownBefore).Seconds()) / whole
	r.StealShare = (after.steal - before.steal) / whole
	r.Invalid = noise(r.OthersShare, r.StealShare)
	return err
}

func (b *runner) startOnce(ctx context.Context, r *startRun) (err error) {
	dir := filepath.Join(b.dir, "start")
	defer os.RemoveAll(dir)
	br, err := b.newBroker(r.Broker, r.Mode, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, br.kill()) }()
	if r.Broker == kafka { // its directory is formatted by another process, whose time is not counted
		if _, err := br.start(ctx); err != nil {
			return err
		}
		if err := br.stop(); err != nil {
			return err
		}
	}
	if r.Calibration, err = calibrate(b.dir, b.rough); err != nil {
		return err
	}
	began := time.Now()
	took, err := br.start(ctx)
	if err != nil {
		return err
	}
	r.Start = took.Seconds()
	if err := firstRecord(ctx, br.addr); err != nil {
		return err
	}
	r.FirstRecord = time.Since(began).Seconds()
	if r.IdleBytes, _, err = residentBytes(br.cmd.Process.Pid); err != nil {
		return err
	}
	// Something to recover: it is written, and then not read.
	o := b.options(br, bench.Options{Topic: "loaded", Create: true, Partitions: 1, RecordSize: 1 << 10, BatchSize: batchSize, Acks: -1,
		Fill: b.fill, Once: true, Connections: 1})
	o.Delete = false
	if _, err := bench.Consume(ctx, o); err != nil {
		return err
	}
	for _, again := range []struct {
		end  func() error
		took *float64
	}{{br.stop, &r.Restart}, {br.kill, &r.AfterKill}} {
		if err := again.end(); err != nil {
			return err
		}
		began := time.Now()
		if _, err := br.start(ctx); err != nil {
			return err
		}
		if err := firstRecord(ctx, br.addr); err != nil {
			return err
		}
		*again.took = time.Since(began).Seconds()
	}
	return nil
}
