package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"

	"moldau/internal/bench"
	"moldau/internal/record"
)

// sizeFlag is a number of bytes: 16KiB, 1GB.
type sizeFlag int64

func (f *sizeFlag) String() string { return sizeText(int64(*f)) }
func (f *sizeFlag) Type() string   { return "size" }
func (f *sizeFlag) Set(s string) error {
	n, err := bench.ParseSize(s)
	*f = sizeFlag(n)
	if err != nil {
		return errors.New("a number of bytes such as 1024, 16KiB or 1GB")
	}
	return nil
}

// sizeText is how a size is written on the command line.
func sizeText(n int64) string {
	for _, u := range []struct {
		unit  string
		bytes int64
	}{{"GiB", 1 << 30}, {"GB", 1e9}, {"MiB", 1 << 20}, {"MB", 1e6}, {"KiB", 1 << 10}} {
		if n > 0 && n%u.bytes == 0 {
			return fmt.Sprintf("%d%s", n/u.bytes, u.unit)
		}
	}
	return fmt.Sprint(n)
}

// rateFlag is a load per second.
type rateFlag bench.Rate

func (f *rateFlag) String() string { return bench.Rate(*f).String() }
func (f *rateFlag) Type() string   { return "rate" }
func (f *rateFlag) Set(s string) error {
	r, err := bench.ParseRate(s)
	*f = rateFlag(r)
	if err != nil {
		return errors.New("records a second such as 20000, or bytes a second such as 50MB")
	}
	return nil
}

// benchOptions is what the flags say, in their own words.
type benchOptions struct {
	bench.Options
	recordSize, batchSize, fill, fetchMax, partitionMax sizeFlag
	rate                                                rateFlag
	sets                                                []string
	acks, codec, keys, payload                          string
	progress                                            bool
}

func newBench(c *command) *cobra.Command {
	group := &cobra.Command{Use: "bench", Short: "Measure a broker: throughput, latency and what they cost",
		Long: "Measure a broker, Moldau or Apache Kafka, with a client that costs little itself.\n\n" +
			"With --rate the load comes at fixed times, whatever the broker does, and a latency counts from the\n" +
			"time at which the request should have been sent. Without it the load is as much as the broker takes\n" +
			"with --in-flight requests on each of the --connections, and a latency counts from the write.\n\n" +
			"Without TOPIC the run makes a topic of its own, with --partitions and --set, and deletes it afterwards.",
		Example: "  moldau bench produce --duration 30s --connections 4\n" +
			"  moldau bench latency --rate 10000 --acks all -o json"}
	asGroup(group)
	group.AddCommand(newBenchProduce(c), newBenchConsume(c), newBenchLatency(c))
	return group
}

func newBenchProduce(c *command) *cobra.Command {
	o := &benchOptions{}
	cmd := &cobra.Command{
		Use: "produce [TOPIC]", Short: "Measure producers",
		Example: "  moldau bench produce\n" +
			"  moldau bench produce --record-size 100 --rate 50MB --acks 1 --compression lz4\n" +
			"  moldau bench produce orders --partitions 64 --connections 8 --keys zipf --idempotent",
		RunE: func(cmd *cobra.Command, args []string) error { return c.bench(cmd, args, o, bench.Produce) },
	}
	c.benchFlags(cmd, o)
	c.produceFlags(cmd, o)
	rateFlags(cmd, o, "")
	return cmd
}

func newBenchConsume(c *command) *cobra.Command {
	o := &benchOptions{}
	cmd := &cobra.Command{
		Use: "consume [TOPIC]", Short: "Measure consumers of what is in a topic",
		Long: "Measure consumers of what is in a topic, from its beginning.\n\n" +
			"At the end of a partition they begin again there, until --duration is over, or stop with --once.\n" +
			"--fill writes records first, of the sizes that the produce flags say.",
		Example: "  moldau bench consume --fill 1GB\n" +
			"  moldau bench consume orders --once --duration 10m\n" +
			"  moldau bench consume --partitions 64 --fill 256MB --batch-size 4KiB --partition-max-bytes 4KiB",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && !cmd.Flags().Changed("fill") {
				o.fill = 256 << 20
			}
			return c.bench(cmd, args, o, bench.Consume)
		},
	}
	c.benchFlags(cmd, o)
	f := cmd.Flags()
	f.Var(&o.fill, "fill", "write records of this `SIZE` first (256MiB without TOPIC)")
	f.BoolVar(&o.Once, "once", false, "stop at the end of what was there at the beginning")
	fetchFlags(cmd, o)
	c.produceFlags(cmd, o)
	rateFlags(cmd, o, "")
	return cmd
}

func newBenchLatency(c *command) *cobra.Command {
	o := &benchOptions{}
	cmd := &cobra.Command{
		Use: "latency [TOPIC]", Short: "Measure the way from a producer to a waiting consumer",
		Long: "Measure the way from a producer to a waiting consumer, from end to end, and that of the acknowledgement.\n\n" +
			"Nobody else may write to the topic meanwhile. --rate 0 measures under as much load as the broker takes.",
		Example: "  moldau bench latency\n  moldau bench latency --rate 30MB --partitions 8 --connections 4",
		RunE:    func(cmd *cobra.Command, args []string) error { return c.bench(cmd, args, o, bench.Latency) },
	}
	c.benchFlags(cmd, o)
	c.produceFlags(cmd, o)
	fetchFlags(cmd, o)
	rateFlags(cmd, o, "1000")
	return cmd
}

// benchFlags are those of every measurement.
func (c *command) benchFlags(cmd *cobra.Command, o *benchOptions) {
	cmd.Args = between(0, 1, "one topic")
	cmd.ValidArgsFunction = c.completeTopics(1)
	f := cmd.Flags()
	f.SortFlags = false
	f.DurationVar(&o.Duration, "duration", 10*time.Second, "how long to measure")
	f.DurationVar(&o.WarmUp, "warm-up", 2*time.Second, "how long to run before that")
	f.IntVar(&o.Connections, "connections", 1, "how many connections to each broker, of which each is a client")
	f.BoolVar(&o.Create, "create", false, "create TOPIC first")
	f.BoolVar(&o.Delete, "delete", false, "delete the topic afterwards (default true without TOPIC)")
	f.Int32VarP(&o.Partitions, "partitions", "p", 1, "of a topic that is created")
	f.Int16VarP(&o.Replicas, "replication-factor", "r", -1, "of a topic that is created; -1 leaves it to the broker")
	f.StringArrayVar(&o.sets, "set", nil, "give the created topic a setting, `KEY=VALUE`; may be repeated")
	f.BoolVar(&o.progress, "progress", false, "show progress even when standard error is not a terminal")
}

// produceFlags say what is written.
func (c *command) produceFlags(cmd *cobra.Command, o *benchOptions) {
	o.recordSize, o.batchSize = 1024, 16<<10
	f := cmd.Flags()
	f.Var(&o.recordSize, "record-size", "`SIZE` of key and value of a record")
	f.Var(&o.batchSize, "batch-size", "`SIZE` of a batch before compression; one request carries one batch")
	f.StringVar(&o.acks, "acks", "all", "`WHO` must have a record: 0 (nobody answers), 1 (the leader), all (the in-sync replicas)")
	f.StringVarP(&o.codec, "compression", "z", "none", "`CODEC` of the batches: none, gzip, snappy, lz4, zstd")
	f.BoolVar(&o.Idempotent, "idempotent", false, "producers are idempotent, as most clients are by default; needs --acks all")
	f.IntVar(&o.InFlight, "in-flight", 5, "requests that one connection may have without an answer")
	f.StringVar(&o.keys, "keys", "none", "`HOW` often which key comes: none (partitions take turns), uniform or zipf")
	f.IntVar(&o.KeyCount, "key-count", 10000, "how many different keys")
	f.StringVar(&o.payload, "payload", "text", "`WHAT` the values are: text (JSON, compresses) or random (does not)")
	completeWith(cmd, "acks", "0", "1", "all")
	completeWith(cmd, "compression", "none", "gzip", "snappy", "lz4", "zstd")
	completeWith(cmd, "keys", "none", "uniform", "zipf")
	completeWith(cmd, "payload", "text", "random")
}

func fetchFlags(cmd *cobra.Command, o *benchOptions) {
	o.fetchMax, o.partitionMax = 50<<20, 1<<20
	f := cmd.Flags()
	f.Var(&o.fetchMax, "fetch-max-bytes", "the most of one answer (fetch.max.bytes)")
	f.Var(&o.partitionMax, "partition-max-bytes", "the most of one partition in it (max.partition.fetch.bytes)")
	f.Int32Var(&o.MinBytes, "fetch-min-bytes", 1, "an answer waits for as many bytes (fetch.min.bytes)")
	f.DurationVar(&o.MaxWait, "fetch-max-wait", 500*time.Millisecond, "but no longer than this (fetch.max.wait.ms)")
}

func rateFlags(cmd *cobra.Command, o *benchOptions, value string) {
	if value != "" {
		if err := o.rate.Set(value); err != nil {
			panic("BUG: " + err.Error())
		}
	}
	cmd.Flags().Var(&o.rate, "rate", "`RATE` of all clients together: records a second (20000) or bytes (50MB); 0 is as much as goes")
}

// complete turns the words of the flags into Options.
func (o *benchOptions) complete(c *command, cmd *cobra.Command, args []string) error {
	// A zero would mean the default, which the flags have already.
	for _, f := range []struct {
		name string
		low  bool
	}{{"connections", o.Connections < 1}, {"partitions", o.Partitions < 1}, {"in-flight", o.InFlight < 1}, {"key-count", o.KeyCount < 1},
		{"record-size", o.recordSize < 1}, {"batch-size", o.batchSize < 1}} {
		if f.low {
			return usagef("--%s %s: at least 1", f.name, cmd.Flag(f.name).Value)
		}
	}
	if o.Duration <= 0 {
		return usagef("--duration %s: use a time above zero, such as 10s", o.Duration)
	}
	o.Bootstrap, o.Timeout = c.seeds(), c.timeout
	secure, err := c.clientConfig()
	if err != nil {
		return err
	}
	o.Dial = secure.open
	if len(args) > 0 {
		o.Topic = args[0]
	} else if !cmd.Flags().Changed("delete") {
		o.Delete = true
	}
	o.RecordSize, o.BatchSize, o.Fill = int(o.recordSize), int(o.batchSize), int64(o.fill)
	o.FetchMaxBytes, o.PartitionMaxBytes = int32(min(o.fetchMax, 1<<31-1)), int32(min(o.partitionMax, 1<<31-1))
	o.Rate = bench.Rate(o.rate)
	changes, err := parseSettings(o.sets, nil)
	if err != nil {
		return err
	}
	o.Configs = map[string]string{}
	for _, ch := range changes {
		o.Configs[ch.Name] = *ch.Value
	}
	var ok bool
	if o.Acks, ok = map[string]int16{"0": 0, "1": 1, "all": -1, "-1": -1}[o.acks]; !ok {
		return usagef("--acks %q is unknown: 0, 1 or all", o.acks)
	}
	if o.Codec, err = record.ParseCodec(o.codec); err != nil {
		return usagef("--compression %q is unknown: none, gzip, snappy, lz4 or zstd", o.codec)
	}
	if o.Keys, ok = map[string]bench.Keys{"none": bench.NoKeys, "uniform": bench.Uniform, "zipf": bench.Zipf}[o.keys]; !ok {
		return usagef("--keys %q is unknown: none, uniform or zipf", o.keys)
	}
	if o.Payload, ok = map[string]bench.Payload{"text": bench.Text, "random": bench.Random}[o.payload]; !ok {
		return usagef("--payload %q is unknown: text or random", o.payload)
	}
	if _, err := o.Defaults(); err != nil {
		return usagef("%w: see %s --help", err, cmd.CommandPath())
	}
	return nil
}

// clientClock is the name of this process's processor time among a run's clocks.
const clientClock = "client"

func (c *command) bench(cmd *cobra.Command, args []string, o *benchOptions, measure func(context.Context, bench.Options) (*bench.Result, error)) error {
	if err := o.complete(c, cmd, args); err != nil {
		return err
	}
	o.Sleep = preciseSleep
	o.Clocks = map[string]func() (time.Duration, error){clientClock: processorTime}
	// The thread that sleeps until the next request keeps a processor from the others for a moment.
	runtime.GOMAXPROCS(runtime.NumCPU() + 1)
	line := c.newProgress(o.progress)
	o.Progress = func(p bench.Progress) { line.show(benchLine(p)) }
	r, err := measure(cmd.Context(), o.Options)
	line.clear()
	if err != nil {
		return explainBench(err, o)
	}
	if c.json() {
		return writeJSON(c.Stdout, r)
	}
	if r.ThrottleSeconds > 0 {
		c.note("a quota of the broker delayed answers by %.1f s in all: the figures are the quota's", r.ThrottleSeconds)
	}
	if !r.KeptRate {
		c.note("the rate was not kept: %.0f requests a second of %.0f; lower --rate, or give it more --connections or --in-flight",
			r.RequestsPerSecond, r.TargetPerSecond)
	}
	return writeBench(c.Stdout, r, o)
}

func benchLine(p bench.Progress) string {
	if p.Elapsed == 0 {
		return p.Phase
	}
	return fmt.Sprintf("%s, %s: %.0f records/s, %.1f MB/s", p.Phase, p.Elapsed.Round(100*time.Millisecond), p.RecordsPerSecond, p.BytesPerSecond/1e6)
}

// writeBench prints a result for people. MB and GB are powers of ten.
func writeBench(w io.Writer, r *bench.Result, o *benchOptions) error {
	var b strings.Builder
	gb := float64(r.Bytes) / 1e9
	fmt.Fprintf(&b, "topic        %s, %s\n", printable(r.Topic), plural(int64(r.Partitions), "partition"))
	fmt.Fprintf(&b, "measured     %s, %.3f GB in %.1f s\n", plural(r.Records, "record"), gb, r.Seconds)
	if r.WireBytes < r.Bytes*95/100 {
		fmt.Fprintf(&b, "compressed   %.3f GB, %.2f to 1\n", float64(r.WireBytes)/1e9, float64(r.Bytes)/max(float64(r.WireBytes), 1))
	}
	fmt.Fprintf(&b, "throughput   %.1f MB/s, %.0f records/s, %.0f requests/s\n", r.BytesPerSecond/1e6, r.RecordsPerSecond, r.RequestsPerSecond)
	since := "the intended start"
	if o.Rate.IsZero() {
		since = "the write"
	}
	for _, l := range []struct {
		name string
		*bench.Distribution
	}{{"ack", r.Ack}, {"fetch", r.Fetch}, {"end to end", r.EndToEnd}} {
		if l.Distribution != nil {
			fmt.Fprintf(&b, "%-11s  p50 %s  p90 %s  p99 %s  p99.9 %s  max %s, from %s\n", l.name,
				ms(l.P50), ms(l.P90), ms(l.P99), ms(l.P999), ms(l.Max), since)
		}
	}
	if s, ok := r.ClockSeconds[clientClock]; ok {
		fmt.Fprintf(&b, "client CPU   %.2f s, %.2f s/GB\n", s, s/max(gb, 1e-9))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func ms(v float64) string {
	if v < 10 {
		return fmt.Sprintf("%.2f ms", v)
	}
	return fmt.Sprintf("%.0f ms", v)
}

// explainBench says what helps when a measurement has failed.
func explainBench(err error, o *benchOptions) error {
	var refused *bench.BrokerError
	if !errors.As(err, &refused) {
		if errors.Is(err, context.Canceled) {
			return err
		}
		return &failure{cause: "the measurement failed", value: err.Error(), err: err}
	}
	where := refused.Topic
	if refused.Partition >= 0 {
		where = fmt.Sprintf("%s-%d", refused.Topic, refused.Partition)
	}
	help, name := "", ""
	var code *kerr.Error
	if errors.As(refused.Err, &code) {
		name = code.Message
		switch code {
		case kerr.UnknownTopicOrPartition:
			return &failure{cause: "topic does not exist", value: refused.Topic, help: "add --create, or leave the topic out for one of the run's own", err: err}
		case kerr.TopicAlreadyExists:
			return &failure{cause: "topic exists already", value: refused.Topic, help: "leave --create out to measure on it", err: err}
		case kerr.NotLeaderForPartition, kerr.LeaderNotAvailable, kerr.FencedLeaderEpoch:
			help = "its leader moved during the run; moldau topic describe " + refused.Topic + " shows when it is settled, then run again"
		case kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend:
			help = "moldau topic describe " + refused.Topic + " shows the in-sync replicas; --acks 1 does not need them"
		case kerr.MessageTooLarge:
			help = fmt.Sprintf("a batch has up to %d bytes; lower --batch-size, or --set max.message.bytes=%d on a topic that is created", o.BatchSize, 2*max(o.BatchSize, o.RecordSize))
		case kerr.ThrottlingQuotaExceeded:
			help = "a quota limits this client; raise it, or wait"
		case kerr.OffsetOutOfRange:
			help = "retention deleted what was being read; raise the topic's retention.ms"
		}
	}
	if help == "" {
		return explain(refused.Err, refused.Message, where)
	}
	return &failure{cause: refused.API + " was refused", value: join(where, name), help: help, err: err}
}
