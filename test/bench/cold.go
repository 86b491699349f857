package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"moldau/internal/bench"
)

// The cold scenarios: consumers beside a producer and a consumer of a hot topic, while the broker's disk gives a fixed number of bytes a
// second. First they read what is in the page cache, at that rate, then what is on the disk only. What counts is what the hot topic notices of
// the difference.

// coldScenario is one rate of the disk and one number of consumers.
type coldScenario struct {
	name      string
	mbps      int
	consumers int
}

var coldScenarios = []coldScenario{{"cold-20", 20, 24}, {"cold-100", 100, 24}, {"cold-20-many", 20, 200}}

func (c coldScenario) title() string {
	return fmt.Sprintf("%d consumers, a disk of %d MB/s, and a hot topic", c.consumers, c.mbps)
}

const (
	hotRate    = 200 // records a second, one in a request
	hotRecord  = 100
	coldDetail = 1 << 10
	// coldLonger is how many times as long as others these runs are measured: at 200 records a second a p99 needs more time.
	coldLonger = 3
	// coldHead is how long the hot topic warms up, beyond the usual: meanwhile the consumers beside it connect and begin.
	coldHead = 3 * time.Second
	// coldSlack is what the last of the hot records may take beyond the measured time.
	coldSlack = 10 * time.Second
	// coldEach is the least that a partition holds: more than the kernel reads ahead at once, which is 8 MiB on some machines.
	coldEach = 16 << 20
)

// besides is what the consumers beside the hot topic did.
type besides struct {
	Consumers *bench.Result `json:"consumers"`
	DiskBytes int64         `json:"diskBytes"` // that the broker read from the disk meanwhile
}

// coldRun is one broker in one cold scenario. Latencies are in milliseconds.
type coldRun struct {
	Scenario    string        `json:"scenario"`
	Pair        int           `json:"pair"`
	Broker      string        `json:"broker"`
	Alone       *bench.Result `json:"alone,omitempty"`    // the hot topic, with nobody beside it
	Resident    *bench.Result `json:"resident,omitempty"` // beside the consumers that read what is in memory
	Cold        *bench.Result `json:"cold,omitempty"`     // beside those that read what is not
	OfResident  besides       `json:"ofResident"`
	OfCold      besides       `json:"ofCold"`
	Threads     int           `json:"threads"` // most of the broker's processes, beside the cold consumers
	Calibration calibration   `json:"calibration"`
	Invalid     []string      `json:"invalid,omitempty"` // why it does not count
	Error       string        `json:"error,omitempty"`
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
	for pair, counted := 0, 0; b.another(pair, counted); pair++ {
		first := len(b.report.Colds)
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
		if p := b.report.Colds[first:]; len(p) == 2 {
			reasons := drift(p[0].Calibration, p[1].Calibration)
			for i := range p {
				p[i].Invalid = append(p[i].Invalid, reasons...)
			}
		}
		counted += truth(!slices.ContainsFunc(b.report.Colds[first:], func(r coldRun) bool { return r.Error != "" || len(r.Invalid) > 0 }))
	}
	return nil
}

func (b *runner) sayCold(r *coldRun) {
	if r.Error != "" {
		b.say("  %-6s failed: %s", r.Broker, r.Error)
		return
	}
	b.say("  %-6s ack p50, p99: alone %.2f, %.2f; beside resident %.2f, %.2f; beside cold %.2f, %.2f, max %.0f ms; to consumer p99 %.2f, %.2f, %.2f ms; "+
		"resident %.1f, cold %.1f MB/s; %d threads %s", r.Broker, r.Alone.Ack.P50, r.Alone.Ack.P99, r.Resident.Ack.P50, r.Resident.Ack.P99,
		r.Cold.Ack.P50, r.Cold.Ack.P99, r.Cold.Ack.Max, r.Alone.EndToEnd.P99, r.Resident.EndToEnd.P99, r.Cold.EndToEnd.P99,
		r.OfResident.Consumers.BytesPerSecond/1e6, r.OfCold.Consumers.BytesPerSecond/1e6, r.Threads, strings.Join(r.Invalid, "; "))
}

func (b *runner) coldOnce(ctx context.Context, sc coldScenario, t *throttle, r *coldRun) (err error) {
	if r.Calibration, err = calibrate(b.dir, b.rough); err != nil {
		return err
	}
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
	most := b.warmUp + coldHead + b.coldDuration() + coldSlack
	cold := b.options(br, bench.Options{Topic: "cold", Create: true, Partitions: int32(sc.consumers), Connections: 4, RecordSize: coldDetail,
		BatchSize: batchSize, Acks: -1, Fill: max(int64(float64(sc.mbps)*1e6*most.Seconds()), int64(sc.consumers)*coldEach), Once: true})
	cold.Delete, cold.Timeout = false, time.Minute
	if _, err := bench.Consume(ctx, cold); err != nil {
		return err
	}
	cold.Create, cold.Fill, cold.Once, cold.Connections, cold.Duration = false, 0, false, sc.consumers, most
	// The hot topic's ways are gone once before they are measured.
	if _, err := b.hot(ctx, br, func(*bench.Options) {}); err != nil {
		return err
	}
	if !b.rough {
		syncDisks()
	}
	if err := errors.Join(t.add(br.cmd.Process.Pid), t.set(sc.mbps*1_000_000)); err != nil {
		return err
	}
	if r.Alone, err = b.hot(ctx, br, func(o *bench.Options) { o.Duration = b.coldDuration() }); err != nil {
		return err
	}
	resident := cold
	resident.Rate.Bytes = float64(sc.mbps) * 1e6
	if r.Resident, r.OfResident, err = b.hotBeside(ctx, br, resident, nil); err != nil {
		return err
	}
	if err := evict(br.dir, "cold-"); err != nil {
		return err
	}
	r.Cold, r.OfCold, err = b.hotBeside(ctx, br, cold, &r.Threads)
	if err == nil {
		r.judge(sc)
	}
	return err
}

func (s *settings) coldDuration() time.Duration { return coldLonger * s.duration }

// hotBeside measures the hot topic while consumers read, from before its beginning until after its end. They begin when the hot topic's own
// clients are connected and warm up: beside cold consumers Kafka takes so long to create a topic that these are at their end by then. It writes
// down the most threads that the broker had meanwhile.
func (b *runner) hotBeside(ctx context.Context, br *broker, o bench.Options, most *int) (r *bench.Result, by besides, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pid := br.cmd.Process.Pid
	before, err := diskReads(pid)
	if err != nil {
		return nil, by, err
	}
	warm, over := make(chan struct{}), make(chan struct{})
	begin := sync.OnceFunc(func() { close(warm) })
	var all sync.WaitGroup
	var consumersErr error
	o.Until = over
	all.Go(func() {
		select {
		case <-warm:
		case <-over:
			return
		}
		if by.Consumers, consumersErr = bench.Consume(ctx, o); consumersErr != nil {
			cancel()
		}
	})
	all.Go(func() {
		for most != nil {
			select {
			case <-over:
				return
			case <-time.After(10 * time.Millisecond):
			}
			if n, err := threads(pid); err == nil {
				*most = max(*most, n)
			}
		}
	})
	r, err = b.hot(ctx, br, func(o *bench.Options) {
		o.Duration, o.WarmUp = b.coldDuration(), b.warmUp+coldHead
		o.Delete = false // that takes as long
		o.Progress = func(p bench.Progress) {
			if p.Phase == "warming up" {
				begin()
			}
		}
	})
	if err != nil {
		cancel()
	}
	close(over)
	all.Wait()
	if err = errors.Join(consumersErr, err); err != nil {
		return nil, by, err
	}
	after, err := diskReads(pid)
	by.DiskBytes = after - before
	return r, by, err
}

// judge says why a run does not count, if it does not. That Kafka does not keep up with the hot topic's rate is a result.
func (r *coldRun) judge(sc coldScenario) {
	var others, steal float64
	for _, hot := range []*bench.Result{r.Alone, r.Resident, r.Cold} {
		o, s, _ := shares(hot)
		others, steal = max(others, o), max(steal, s)
	}
	r.Invalid = noise(others, steal)
	if c := r.OfResident.Consumers; r.OfResident.DiskBytes > c.WireBytes/20 {
		r.Invalid = append(r.Invalid, fmt.Sprintf("of what was to be in memory %.0f MB came from the disk", float64(r.OfResident.DiskBytes)/1e6))
	} else if !c.KeptRate {
		r.Invalid = append(r.Invalid, fmt.Sprintf("what was in memory was read at %.1f MB/s", c.BytesPerSecond/1e6))
	}
	c := r.OfCold.Consumers
	if r.OfCold.DiskBytes < c.WireBytes/10*9 || c.BytesPerSecond > 1.1*float64(sc.mbps)*1e6 {
		r.Invalid = append(r.Invalid, fmt.Sprintf("not all was cold: of %.0f MB %.0f MB came from the disk", float64(c.WireBytes)/1e6, float64(r.OfCold.DiskBytes)/1e6))
	}
	if c.Rounds > 0 {
		r.Invalid = append(r.Invalid, "cold consumers came to the end of a partition")
	}
	if c.Began.After(r.Cold.Began) || c.Began.Add(time.Duration(c.Seconds*1e9)).Before(r.Cold.Began.Add(time.Duration(r.Cold.Seconds*1e9))) {
		r.Invalid = append(r.Invalid, "the cold consumers did not read all the time")
	}
}

// hot measures a topic of its own.
func (b *runner) hot(ctx context.Context, br *broker, change func(*bench.Options)) (*bench.Result, error) {
	o := b.options(br, bench.Options{Partitions: 1, Connections: 1, RecordSize: hotRecord, BatchSize: 1, Acks: 1, Rate: bench.Rate{Records: hotRate}, Gather: true,
		Clocks: clocks(br.cmd.Process.Pid)})
	change(&o)
	return bench.Latency(ctx, o)
}

// diskReads is how many bytes a process and all below it have had read from disks.
func diskReads(pid int) (sum int64, err error) {
	pids, err := tree(pid)
	if err != nil {
		return 0, err
	}
	for _, p := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", p))
		if err != nil {
			return 0, err
		}
		_, after, _ := strings.Cut(string(text), "\nread_bytes: ")
		var n int64
		if _, err := fmt.Sscan(after, &n); err != nil {
			return 0, fmt.Errorf("/proc/%d/io: %q", p, text)
		}
		sum += n
	}
	return sum, nil
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

// What the tables of the cold scenarios show of a run.
var coldLatencies = []struct {
	title string
	of    func(*bench.Result) *bench.Distribution
}{
	{"Acknowledged", func(r *bench.Result) *bench.Distribution { return r.Ack }},
	{"To a consumer, which is from the start of the request to the moment at which a waiting consumer has the record",
		func(r *bench.Result) *bench.Distribution { return r.EndToEnd }},
}

// writeColds is the part of the report about cold reads.
func (r *report) writeColds(b *strings.Builder) {
	if len(r.Colds)+len(r.ColdSkipped) == 0 {
		return
	}
	fmt.Fprintf(b, "\n## Cold reads beside a hot topic\n\nThe hot topic gets %d records a second. It is measured alone, beside consumers that read what is in the page cache "+
		"at the disk's rate, and beside the same consumers when what they read is on the disk only. Latencies are in milliseconds, medians of the runs. "+
		"† marks ratios for which no run counts.\n\n", hotRate)
	for _, why := range r.ColdSkipped {
		fmt.Fprintf(b, "Not measured: %s.\n\n", why)
	}
	if len(r.Colds) == 0 {
		return
	}
	for _, l := range coldLatencies {
		fmt.Fprintf(b, "### %s\n\n| less is better | broker | alone: p50, p99 | beside resident: p50, p99 | beside cold: p50, p99, max | p99, cold is so many times resident | runs |\n"+
			"|---|---|--:|--:|--:|--:|--:|\n", l.title)
		for _, sc := range coldScenarios {
			for _, kind := range []string{moldau, kafka} {
				runs := r.coldRuns(sc, kind)
				if len(runs) == 0 {
					continue
				}
				of := func(arm func(*coldRun) *bench.Result, pick func(*bench.Distribution) float64) string {
					return medianOf(runs, 2, func(r *coldRun) float64 { return pick(l.of(arm(r))) })
				}
				p50 := func(d *bench.Distribution) float64 { return d.P50 }
				p99 := func(d *bench.Distribution) float64 { return d.P99 }
				alone := func(r *coldRun) *bench.Result { return r.Alone }
				resident := func(r *coldRun) *bench.Result { return r.Resident }
				cold := func(r *coldRun) *bench.Result { return r.Cold }
				pairs := map[int]*pairOf{}
				for _, run := range runs { // here a pair is one broker's: the two that are compared are resident and cold
					pairs[run.Pair] = &pairOf{moldau: l.of(run.Resident).P99, kafka: l.of(run.Cold).P99, hasMoldau: true, hasKafka: true, invalid: len(run.Invalid) > 0}
				}
				var ratio summary
				ratio.take(pairs, true)
				fmt.Fprintf(b, "| %s | %s | %s, %s | %s, %s | %s, %s, %s | %s | %d of %d |\n", sc.title(), kind, of(alone, p50), of(alone, p99), of(resident, p50), of(resident, p99),
					of(cold, p50), of(cold, p99), of(cold, func(d *bench.Distribution) float64 { return d.Max }), ratio.better(), ratio.pairs*truth(!ratio.doubtful), ratio.all)
			}
		}
		b.WriteString("\n")
	}
	b.WriteString("### Moldau beside Kafka\n\n| beside cold consumers | Moldau | Kafka | Moldau is better by | pairs |\n|---|--:|--:|--:|--:|\n")
	for _, sc := range coldScenarios {
		r.writeColdPairs(b, sc, "acknowledged, p99, ms", 2, true, func(r *coldRun) float64 { return r.Cold.Ack.P99 })
		r.writeColdPairs(b, sc, "to a consumer, p99, ms", 2, true, func(r *coldRun) float64 { return r.Cold.EndToEnd.P99 })
		r.writeColdPairs(b, sc, "cold MB/s", 1, false, func(r *coldRun) float64 { return r.OfCold.Consumers.BytesPerSecond / 1e6 })
		r.writeColdPairs(b, sc, "resident MB/s", 1, false, func(r *coldRun) float64 { return r.OfResident.Consumers.BytesPerSecond / 1e6 })
		r.writeColdPairs(b, sc, "threads", 0, true, func(r *coldRun) float64 { return float64(r.Threads) })
	}
}

// coldRuns are those of a broker that did not fail.
func (r *report) coldRuns(sc coldScenario, kind string) (runs []coldRun) {
	for _, run := range r.Colds {
		if run.Scenario == sc.name && run.Broker == kind && run.Error == "" {
			runs = append(runs, run)
		}
	}
	return runs
}

// medianOf is one of the runs that count, or of all if none does.
func medianOf(runs []coldRun, digits int, of func(*coldRun) float64) string {
	var counted, all []float64
	for i := range runs {
		v := of(&runs[i])
		if all = append(all, v); len(runs[i].Invalid) == 0 {
			counted = append(counted, v)
		}
	}
	if len(counted) == 0 {
		counted = all
	}
	return number(median(counted), digits)
}

// writeColdPairs is one line that compares the two brokers.
func (r *report) writeColdPairs(b *strings.Builder, sc coldScenario, title string, digits int, lowerBetter bool, of func(*coldRun) float64) {
	pairs := map[int]*pairOf{}
	for _, run := range r.coldRuns(sc, moldau) {
		pairs[run.Pair] = &pairOf{moldau: of(&run), hasMoldau: true, invalid: len(run.Invalid) > 0}
	}
	for _, run := range r.coldRuns(sc, kafka) {
		if p := pairs[run.Pair]; p != nil {
			p.kafka, p.hasKafka, p.invalid = of(&run), true, p.invalid || len(run.Invalid) > 0
		}
	}
	if len(pairs) == 0 {
		return
	}
	var s summary
	s.take(pairs, lowerBetter)
	fmt.Fprintf(b, "| %s: %s | %s | %s | %s | %d of %d |\n", sc.title(), title, number(s.moldau, digits), number(s.kafka, digits), s.better(), s.pairs*truth(!s.doubtful), s.all)
}
