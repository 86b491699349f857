package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// defaultMaxMessageBytes is Kafka's, for brokers that do not let us see the setting.
	defaultMaxMessageBytes = 1048588
	// drainTime is how long an interrupted produce waits for what is under way.
	drainTime = 5 * time.Second
	// deliveryTimeout is Kafka's delivery.timeout.ms.
	deliveryTimeout = 2 * time.Minute
	mebibyte        = 1 << 20
)

type produceOptions struct {
	keySeparator, key string
	hasKey            bool
	partition         int32
	headers           []string
	compression, acks string
	json, tombstone   bool
	progress          bool
}

func newProduce(c *command) *cobra.Command {
	o := &produceOptions{}
	cmd := &cobra.Command{
		Use: "produce TOPIC [FILE...]", Short: "Write records to a topic, one for each line",
		Long: "Write records to a topic, one for each line of standard input or of the files.\n\n" +
			"A line is the value, as it is and without its newline; it may be as long as the topic's\n" +
			"max.message.bytes. With --json a line is an object, as consume -o json prints it:\n" +
			`  {"key":"k","value":"v","headers":[{"key":"h","value":"x"}],"partition":0,"timestamp":1767225600000}` + "\n" +
			`All fields may be left out. "valueEncoding":"base64" is for bytes that are not text.` + "\n\n" +
			"Records are idempotent with --acks all. The command ends when every record is acknowledged,\n" +
			"and at the first one that is not: the error names its number.",
		Example: "  seq 1000 | moldau produce orders\n" +
			"  moldau produce orders --key-separator : <<< 'customer-7:{\"amount\":12}'\n" +
			"  moldau produce events events.log --compression zstd\n" +
			"  moldau consume orders -e -o json | moldau produce copy --json",
		Args:              atLeast(1, "a topic"),
		ValidArgsFunction: completeTopicThenFiles(c),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.hasKey = cmd.Flags().Changed("key")
			if cmd.Flags().Changed("partition") && o.partition < 0 {
				return usagef("--partition %d: a partition is a number from 0 on", o.partition)
			}
			if o.hasKey && o.keySeparator != "" {
				return usagef("--key and --key-separator exclude each other")
			}
			if o.json && o.keySeparator != "" {
				return usagef("--json and --key-separator exclude each other: write the key into the object")
			}
			return c.produce(cmd.Context(), args[0], args[1:], o)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.keySeparator, "key-separator", "K", "", `the line is key, this `+"`TEXT`"+`, value; \t is a tab`)
	f.StringVarP(&o.key, "key", "k", "", "the `KEY` of every record that has none of its own")
	f.Int32VarP(&o.partition, "partition", "p", -1, "the partition of every record that does not choose one; -1 spreads them by key")
	f.StringArrayVarP(&o.headers, "header", "H", nil, "a header for every record, `KEY=VALUE`; may be repeated")
	f.StringVarP(&o.compression, "compression", "z", "none", "`CODEC` of the batches: none, gzip, snappy, lz4, zstd")
	f.StringVar(&o.acks, "acks", "all", "`WHO` must have a record: 0 (nobody answers), 1 (the leader), all (the in-sync replicas)")
	f.BoolVar(&o.json, "json", false, "a line is a JSON object")
	f.BoolVarP(&o.tombstone, "tombstone", "Z", false, "an empty value becomes null, which deletes the key from a compacted topic")
	f.BoolVar(&o.progress, "progress", false, "show progress even when standard error is not a terminal")
	completeWith(cmd, "compression", "none", "gzip", "snappy", "lz4", "zstd")
	completeWith(cmd, "acks", "0", "1", "all")
	return cmd
}

func completeTopicThenFiles(c *command) cobra.CompletionFunc {
	topics := c.completeTopics(1)
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveDefault
		}
		return topics(cmd, args, prefix)
	}
}

// producerOptions turns flags into the client's options.
func (o *produceOptions) producerOptions(maxMessageBytes int) ([]kgo.Opt, error) {
	batch := int32(min(max(maxMessageBytes, 1024), 1<<30-mebibyte))
	opts := []kgo.Opt{
		kgo.RecordPartitioner(chosenOr{kgo.StickyKeyPartitioner(nil)}),
		kgo.ProducerBatchMaxBytes(batch),
		kgo.BrokerMaxWriteBytes(max(100*mebibyte, batch+mebibyte)),
		kgo.MaxBufferedRecords(64 << 10),
		kgo.MaxBufferedBytes(max(64*mebibyte, 2*int(batch))),
		kgo.RecordDeliveryTimeout(deliveryTimeout),
	}
	switch o.acks {
	case "all", "-1":
		opts = append(opts, kgo.RequiredAcks(kgo.AllISRAcks()))
	case "1":
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	case "0":
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	default:
		return nil, usagef("--acks %q is unknown: 0, 1 or all", o.acks)
	}
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	codec, ok := codecs[o.compression]
	if !ok {
		return nil, usagef("--compression %q is unknown: none, gzip, snappy, lz4 or zstd", o.compression)
	}
	return append(opts, kgo.ProducerBatchCompression(codec)), nil
}

// chosenOr partitions a record where it says, and as Kafka's clients do when it does not (-1).
type chosenOr struct{ otherwise kgo.Partitioner }

func (p chosenOr) ForTopic(topic string) kgo.TopicPartitioner {
	return chosenOrTopic{p.otherwise.ForTopic(topic)}
}

type chosenOrTopic struct{ kgo.TopicPartitioner }

func (p chosenOrTopic) RequiresConsistency(r *kgo.Record) bool {
	return r.Partition >= 0 || p.TopicPartitioner.RequiresConsistency(r)
}

func (p chosenOrTopic) Partition(r *kgo.Record, n int) int {
	if r.Partition >= 0 {
		return int(r.Partition)
	}
	return p.TopicPartitioner.Partition(r, n)
}

// OnNewBatch keeps the sticky partitioner's rotation, which it learns through this optional method.
func (p chosenOrTopic) OnNewBatch() {
	if sticky, ok := p.TopicPartitioner.(kgo.TopicPartitionerOnNewBatch); ok {
		sticky.OnNewBatch()
	}
}

func (c *command) produce(ctx context.Context, topic string, files []string, o *produceOptions) error {
	if _, err := o.producerOptions(defaultMaxMessageBytes); err != nil {
		return err
	}
	partitions, maxMessage, err := c.lookUpTarget(ctx, topic)
	if err != nil {
		return err
	}
	if int(o.partition) >= partitions {
		return partitionMissing(topic, o.partition, partitions)
	}
	source, err := newRecordSource(o, maxMessage)
	if err != nil {
		return err
	}
	opts, err := o.producerOptions(maxMessage)
	if err != nil {
		return err
	}
	cl, err := c.newClient(append(opts, kgo.DefaultProduceTopic(topic))...)
	if err != nil {
		return err
	}
	run := &produceRun{client: cl, topic: topic, partitions: partitions, progress: c.newProgress(o.progress)}
	err = run.run(ctx, func(ctx context.Context) error { return source.each(ctx, files, c.Stdin, run.send) })
	return errors.Join(err, c.summarize(run, topic, o.acks == "0"))
}

// lookUpTarget returns what the topic demands of records.
func (c *command) lookUpTarget(ctx context.Context, topic string) (partitions, maxMessageBytes int, err error) {
	cl, err := c.connect(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer cl.Close()
	details, err := cl.topics(ctx, topic)
	if err != nil {
		return 0, 0, err
	}
	maxMessageBytes = defaultMaxMessageBytes
	configs, err := cl.configs(ctx, kmsg.ConfigResourceTypeTopic, topic, false)
	if ctx.Err() != nil {
		return 0, 0, ctx.Err()
	}
	for _, r := range configs { // none where this user may not see them
		if n, err := strconv.Atoi(deref(r.Value)); r.Name == "max.message.bytes" && err == nil && n > 0 {
			maxMessageBytes = n
		}
	}
	return len(details[0].Partitions), maxMessageBytes, nil
}

func partitionMissing(topic string, partition int32, partitions int) error {
	return &failure{cause: fmt.Sprintf("partition %d does not exist", partition),
		value: fmt.Sprintf("%s has 0 to %d", topic, partitions-1), help: "moldau topic describe " + topic}
}

// produceRun is one run of produce: a goroutine reads and sends, run waits for its end
// and that of all records.
type produceRun struct {
	client     *client
	topic      string
	partitions int
	progress   *progress
	stop       context.CancelCauseFunc // ends the reading

	mu     sync.Mutex // guards failed, first and cause
	failed int64      // records that were not acknowledged
	first  int64      // the lowest number among them
	cause  error      // why that one was not
}

func (p *produceRun) run(ctx context.Context, read func(context.Context) error) error {
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	p.stop = stop
	done := make(chan error, 1)
	go func() { done <- read(reading) }()

	var err error
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	for waiting := true; waiting; {
		select {
		case err = <-done:
			waiting = false
		case <-reading.Done():
			// The reader is not waited for: nothing can interrupt a read of a terminal,
			// and the process ends soon.
			waiting = false
		case <-ticker.C:
			p.progress.tick()
		}
	}
	p.flush(ctx)
	p.progress.clear()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cause != nil {
		return p.explain()
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// flush waits until every record has its answer. After an interrupt or a failure it
// waits a little and gives the rest up.
func (p *produceRun) flush(ctx context.Context) {
	flushing, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = p.client.Flush(flushing) // its only error is that flushing ended
	}()
	ticker := time.NewTicker(progressEvery)
	defer ticker.Stop()
	var giveUp <-chan time.Time
	interrupt := ctx.Done()
	for waiting := true; waiting; {
		select {
		case <-done:
			waiting = false
		case <-interrupt:
			interrupt, giveUp = nil, time.After(drainTime)
		case <-giveUp:
			cancel()
			giveUp = nil
		case <-ticker.C:
			p.progress.tick()
		}
	}
	p.client.Close()
}

// send hands one record to the client. It blocks while the client's buffer is full.
func (p *produceRun) send(number int64, r *kgo.Record) {
	size := len(r.Key) + len(r.Value)
	if int(r.Partition) >= p.partitions {
		p.fail(number, partitionMissing(p.topic, r.Partition, p.partitions))
		return
	}
	p.client.Produce(context.Background(), r, func(_ *kgo.Record, err error) {
		if err != nil {
			p.fail(number, err)
			return
		}
		p.progress.count(size)
	})
}

func (p *produceRun) fail(number int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed++
	if p.cause == nil || number < p.first {
		p.first, p.cause = number, err
	}
	p.stop(err)
}

// explain needs mu.
func (p *produceRun) explain() error {
	f := &failure{cause: fmt.Sprintf("record %d was not acknowledged", p.first), err: p.cause}
	if p.failed > 1 {
		f.cause += fmt.Sprintf(", nor were %d others", p.failed-1)
	}
	f.value = p.topic
	switch {
	case errors.Is(p.cause, kgo.ErrRecordTimeout):
		f.help = fmt.Sprintf("no answer within %s; moldau topic describe %s shows the leaders", deliveryTimeout, p.topic)
		if dead := p.client.dials.unreachable(); dead != "" {
			f.value = dead
			f.help = "it cannot be reached there, correct advertised.listeners on that broker"
		}
	default:
		f.help = explain(p.cause, "", p.topic).Error()
	}
	return f
}

type producedJSON struct {
	Topic   string  `json:"topic"`
	Records int64   `json:"records"`
	Bytes   int64   `json:"bytes"` // of keys and values
	Failed  int64   `json:"failed"`
	Seconds float64 `json:"seconds"`
}

func (c *command) summarize(p *produceRun, topic string, unanswered bool) error {
	p.mu.Lock()
	failed := p.failed
	p.mu.Unlock()
	if c.json() {
		return writeJSON(c.Stdout, producedJSON{topic, p.progress.records.Load(), p.progress.bytes.Load(), failed,
			time.Since(p.progress.began).Seconds()})
	}
	verb := "written to"
	if unanswered {
		verb = "sent without acknowledgement to"
	}
	c.note("%s %s %s", p.progress.text(), verb, topic)
	return nil
}
