package main

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"moldau/internal/bench"
)

// TestSmoke goes through every kind of scenario, and the starts, with Moldau alone and in runs of a few milliseconds.
func TestSmoke(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the comparison reads /proc")
	}
	out := filepath.Join(t.TempDir(), "report")
	s, err := parse([]string{"--moldau-only", "--duration", "100ms", "--warm-up", "20ms", "--pairs", "1", "--root", "../..", "--out", out,
		"--work", t.TempDir(), "--scenario", "^(produce-1024-acks-all-zstd|consume-64-small|durable-8|latency|start|partitions-8000)$", "--partitions", "200", "--restart-gb", "0.01"})
	if err != nil {
		t.Fatal(err)
	}
	s.fill, s.equalise, s.settle, s.rough = 4<<20, 1<<20, 0, true
	if err := s.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(out, "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	if want := 2*2 + 2 + 1 + 2*3; len(r.Runs) != want {
		t.Errorf("%d runs, want %d", len(r.Runs), want)
	}
	for _, run := range r.Runs {
		if run.Error != "" || run.Result == nil || run.RSSBytes == 0 || run.Calibration.Copy == 0 {
			t.Errorf("%+v", run)
		}
	}
	if len(r.Starts) != 2 {
		t.Errorf("%d starts, want 2", len(r.Starts))
	}
	for _, s := range r.Starts {
		if s.Error != "" || s.Start == 0 || s.FirstRecord == 0 || s.Restart == 0 || s.AfterKill == 0 {
			t.Errorf("%+v", s)
		}
	}
	if len(r.Manies) != 1 || r.Manies[0].Error != "" || r.Manies[0].RSSBytes == 0 || r.Manies[0].RestartAll == 0 || r.Manies[0].AfterKillAll == 0 {
		t.Errorf("many partitions: %+v", r.Manies)
	}
	page, err := os.ReadFile(filepath.Join(out, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"## Produce", "## Consume", "## Durable appends", "## Latency from end to end", "## Memory", "## Start", "](chart-01.svg)"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the report has no %q", want)
		}
	}
}

// What a run of the program leaves when it is told to stop is no process.
func TestCancelEndsTheBrokers(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the comparison reads /proc")
	}
	s, err := parse([]string{"--moldau-only", "--root", "../..", "--out", t.TempDir(), "--work", t.TempDir(), "--scenario", "^latency$"})
	if err != nil {
		t.Fatal(err)
	}
	if s.binary, err = build(t.Context(), s.root, t.TempDir()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	b := &runner{settings: s, dir: t.TempDir(), say: t.Logf}
	if err := b.startBrokers(ctx, s.scenarios()); err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, br := range b.brokers {
		pids = append(pids, br.cmd.Process.Pid)
	}
	cancel()
	if err := b.runScenario(ctx, s.scenarios()[0], pageCache); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := b.stopBrokers(); err != nil {
		t.Error(err)
	}
	for _, pid := range pids {
		if _, err := statOf(pid); err == nil {
			t.Errorf("process %d is there", pid)
		}
	}
}

// made is a run with a throughput.
func made(broker string, pair int, mbPerSecond float64, invalid ...string) run {
	return run{Scenario: "s", Phase: "saturated", Mode: pageCache, Broker: broker, Pair: pair, Invalid: invalid,
		Result: &bench.Result{BytesPerSecond: mbPerSecond * 1e6}}
}

func TestSummary(t *testing.T) {
	more := figure{phase: "saturated", of: func(r *run) (float64, bool) { return r.Result.BytesPerSecond / 1e6, true }}
	less := more
	less.lowerBetter = true
	runs := []run{
		made(moldau, 0, 200), made(kafka, 0, 100), // 2
		made(kafka, 1, 100), made(moldau, 1, 400), // 4
		made(moldau, 2, 300), made(kafka, 2, 100), // 3
		made(moldau, 3, 9000), made(kafka, 3, 1, "noise"), // does not count
	}
	s, ok := summarize(runs, more, "s", "title", pageCache)
	if !ok || s.ratio != 3 || s.least != 2 || s.most != 4 || s.pairs != 3 || s.all != 4 || s.moldau != 300 || s.kafka != 100 || s.doubtful {
		t.Errorf("%+v", s)
	}
	if s, _ := summarize(runs, less, "s", "title", pageCache); s.ratio != 1.0/3 || s.least != 0.25 || s.most != 0.5 {
		t.Errorf("%+v", s)
	}
	s, _ = summarize(runs[6:], more, "s", "title", pageCache)
	if !s.doubtful || s.ratio != 9000 || !strings.HasSuffix(s.better(), "†") {
		t.Errorf("only pairs that do not count: %+v", s)
	}
	failed := made(kafka, 0, 0)
	failed.Result, failed.Error = nil, "refused"
	if s, _ := summarize([]run{made(moldau, 0, 200), failed}, more, "s", "title", pageCache); s.failed == "" || s.ratio != 0 || s.better() != "–" {
		t.Errorf("a failed run: %+v", s)
	}
	if _, ok := summarize(runs, more, "s", "title", defaults); ok {
		t.Error("a mode without runs has a summary")
	}
}

// Every reason not to count is found, and a quiet run has none.
func TestJudge(t *testing.T) {
	cpus := float64(runtime.NumCPU())
	quiet := func() run {
		return run{Result: &bench.Result{Seconds: 10, Requests: 1, KeptRate: true, ClockSeconds: map[string]float64{
			"broker": 2 * cpus, "client": 1 * cpus, "kernel": 0.5 * cpus, "work": 3.6 * cpus, "steal": 0}}}
	}
	for name, tt := range map[string]struct {
		change func(r *run)
		ph     phase
		reason string
	}{
		"quiet":             {func(*run) {}, light, ""},
		"others":            {func(r *run) { r.Result.ClockSeconds["work"] += cpus }, light, "other processes used 11 %"},
		"steal":             {func(r *run) { r.Result.ClockSeconds["steal"] += cpus }, light, "the host took 10 %"},
		"rate":              {func(r *run) { r.Result.KeptRate = false }, light, "the rate was not kept"},
		"nothing":           {func(r *run) { r.Result.Requests = 0 }, light, "nothing was done"},
		"quota":             {func(r *run) { r.Result.ThrottleSeconds = 1 }, light, "a quota"},
		"client":            {func(r *run) { r.Result.ClockSeconds["client"] = 6 * cpus }, light, "the client used 60 %"},
		"client, saturated": {func(r *run) { r.Result.ClockSeconds["client"] = 6 * cpus }, saturated, ""},
	} {
		r := quiet()
		tt.change(&r)
		r.judge(tt.ph)
		got := strings.Join(r.Invalid, "; ")
		if tt.reason == "" && got != "" || !strings.Contains(got, tt.reason) {
			t.Errorf("%s: %q, want %q", name, got, tt.reason)
		}
		if r.ClientBound != (name == "client, saturated") {
			t.Errorf("%s: bound by the client: %v", name, r.ClientBound)
		}
	}
	pair := []run{{Calibration: calibration{10, 2, 1}}, {Calibration: calibration{10.5, 2, 1.2}}}
	judgePair(pair)
	if len(pair[0].Invalid) != 1 || len(pair[1].Invalid) != 1 {
		t.Errorf("a machine that became faster: %+v", pair)
	}
	pair = []run{{Calibration: calibration{10, 2, 1}}, {Calibration: calibration{10.5, 2, 1.05}}}
	if judgePair(pair); len(pair[0].Invalid) != 0 {
		t.Errorf("a machine that stayed alike: %+v", pair)
	}
}

// A cold run counts when what was to be in memory was, and what was not to be was not.
func TestJudgeCold(t *testing.T) {
	sc := coldScenarios[0]
	began := time.Now()
	hot := func() *bench.Result {
		return &bench.Result{Seconds: 9, Began: began, Ack: &bench.Distribution{P99: 1}, EndToEnd: &bench.Distribution{P99: 1}}
	}
	quiet := func() coldRun {
		read := func() *bench.Result {
			return &bench.Result{Seconds: 11, Began: began.Add(-time.Second), WireBytes: 200e6, BytesPerSecond: 20e6, KeptRate: true}
		}
		return coldRun{Scenario: sc.name, Broker: moldau, Alone: hot(), Resident: hot(), Cold: hot(), OfResident: besides{Consumers: read()}, OfCold: besides{read(), 220e6}}
	}
	for reason, change := range map[string]func(*coldRun){
		"":                                    func(*coldRun) {},
		"the host took":                       func(r *coldRun) { r.Resident.ClockSeconds = map[string]float64{"steal": 9} },
		"40 MB came from the disk":            func(r *coldRun) { r.OfResident.DiskBytes = 40e6 },
		"read at 10.0 MB/s":                   func(r *coldRun) { r.OfResident.Consumers.KeptRate, r.OfResident.Consumers.BytesPerSecond = false, 10e6 },
		"of 200 MB 100 MB":                    func(r *coldRun) { r.OfCold.DiskBytes = 100e6 },
		"not all was cold":                    func(r *coldRun) { r.OfCold.Consumers.BytesPerSecond = 30e6 },
		"came to the end":                     func(r *coldRun) { r.OfCold.Consumers.Rounds = 1 },
		"did not read all the time":           func(r *coldRun) { r.OfCold.Consumers.Seconds = 9 },
		"consumers did not read all the time": func(r *coldRun) { r.OfCold.Consumers.Began = began.Add(time.Second) },
	} {
		r := quiet()
		change(&r)
		r.judge(sc)
		if got := strings.Join(r.Invalid, "; "); reason == "" && got != "" || !strings.Contains(got, reason) {
			t.Errorf("%q, want %q", got, reason)
		}
	}

	ours, theirs := quiet(), quiet()
	ours.Cold.Ack.P99, theirs.Broker, theirs.Cold.Ack.P99 = 1.25, kafka, 2500
	page := (&report{Colds: []coldRun{ours, theirs}}).markdown(map[string]string{})
	for _, want := range []string{"| 1.25× (1.25–1.25) | 1 of 1 |", "| 2500.00× (2500.00–2500.00) | 1 of 1 |", "acknowledged, p99, ms | 1.25 | 2500.00 | 2000.00× (2000.00–2000.00) | 1 of 1 |"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q:\n%s", want, page)
		}
	}
	theirs.Invalid = []string{"noise"}
	page = (&report{Colds: []coldRun{ours, theirs}}).markdown(map[string]string{})
	for _, want := range []string{"| 1.25× (1.25–1.25) | 1 of 1 |", "2000.00× (2000.00–2000.00) † | 0 of 1 |", "| cold-20 |  | page cache | 1 | Kafka | noise |"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %q:\n%s", want, page)
		}
	}
}

// Pairs are made again while too few count, and never without an end.
func TestAnother(t *testing.T) {
	s := settings{pairs: 2, again: 1}
	for _, tt := range []struct {
		pairs, counted int
		want           bool
	}{{0, 0, true}, {1, 0, true}, {1, 1, true}, {2, 2, false}, {2, 1, true}, {3, 1, false}, {3, 2, false}} {
		if got := s.another(tt.pairs, tt.counted); got != tt.want {
			t.Errorf("after %d pairs, of which %d count: %v", tt.pairs, tt.counted, got)
		}
	}
}

func TestChartIsXML(t *testing.T) {
	rows := []summary{{title: "a < b & c", mode: pageCache, moldau: 3, kafka: 1, ratio: 3, least: 2, most: 4}, {title: "alone", mode: defaults, moldau: 2}}
	d := xml.NewDecoder(strings.NewReader(pairedBars(`title with "quotes"`, "MB/s", 1, rows)))
	for {
		if _, err := d.Token(); err != nil {
			if err != io.EOF {
				t.Error(err)
			}
			return
		}
	}
}

func TestMatrix(t *testing.T) {
	for _, full := range []bool{false, true} {
		args := []string{}
		if full {
			args = append(args, "--full")
		}
		s, err := parse(args)
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]bool{}
		for _, sc := range s.scenarios() {
			if names[sc.name] {
				t.Errorf("%s is there twice", sc.name)
			}
			names[sc.name] = true
			o := sc.options
			o.Bootstrap = []string{"host:1"}
			if _, err := o.Defaults(); err != nil {
				t.Errorf("%s: %v", sc.name, err)
			}
		}
		if want := map[bool]int{false: 8 + 1 + 2 + 2*3 + 1 + 6 + 3, true: 18 + 1 + 2 + 2*3 + 6 + 6 + 3}[full]; len(names) != want {
			t.Errorf("%d scenarios, want %d", len(names), want)
		}
		if d := s.estimate(s.scenarios()); !full && d > 45*time.Minute {
			t.Errorf("the short matrix takes %s", d)
		}
		if s.moldauOnly = true; len(s.scenarios()) != len(names)-12 {
			t.Error("without Kafka there are scenarios of its clients")
		}
	}
}

// What Kafka's tools print is understood, and what they say beside that is left alone.
func TestPerfOutput(t *testing.T) {
	for text, want := range map[string]perfLine{
		"23059 records sent, 45934.3 records/sec (44.86 MB/sec), 4.1 ms avg latency, 17.0 ms max latency.": {records: 23059, perSecond: 45934.3},
		"500000 steady state records sent, 45787.5 records/sec (44.71 MB/sec), 16.20 ms avg latency, 408.00 ms max latency, 4 ms 50th, 53 ms 95th, 367 ms 99th, 407 ms 99.9th.": {
			500000, 45787.5, &bench.Distribution{Count: 500000, Mean: 16.2, Max: 408, P50: 4, P99: 367, P999: 407}},
		"Warmup first 100000 records. Steady state results will print after the complete test summary.": {},
		"In steady state.": {},
		"":                 {},
		"many records sent, 1 records/sec, 2 ms avg latency, 3 ms max latency": {},
	} {
		if got, ok := parseProducerPerf(text); ok != (want.records > 0) || ok && !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, expected %+v", text, got, want)
		}
	}
	got, ok := parseConsumerPerf("2026-11-27 20:50:03:702, 2026-11-27 20:50:07:818, 585.9375, 142.3560, 600000, 145772.5948, 1011, 3105, 188.7077, 193236.7150")
	if want := (perfLine{records: 600000, perSecond: 193236.715}); !ok || got != want {
		t.Errorf("%+v", got)
	}
	if _, ok := parseConsumerPerf("start.time, end.time, data.consumed.in.MB, MB.sec, data.consumed.in.nMsg, nMsg.sec, rebalance.time.ms, fetch.time.ms, fetch.MB.sec, fetch.nMsg.sec"); ok {
		t.Error("a header is a result")
	}
}
