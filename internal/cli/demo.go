package cli

import (
	"bufio"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// demoSample is published where no file is named.
//
//go:embed sample/orders.txt
var demoSample string

const demoPartitions = 3

func newDemo(c *command) *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use: "demo [FILE]", Short: "Publish a file, consume it in a group, rewind, restart the broker, verify",
		Args: between(0, 1, "one file"),
		Long: "Publish a file, consume it in a group, rewind, kill and restart the broker, and verify that every\n" +
			"record is there, in order, once. Each line of FILE is a record; without it a small sample is used.\n\n" +
			"It runs a broker of its own on a free port and a temporary directory, which go at the end.\n" +
			"With -b it uses a broker that runs, in a topic and a group of its own, and restarts nothing.",
		Example: "  moldau demo\n  moldau demo /var/log/dpkg.log\n  moldau demo -b localhost:9092",
		RunE: func(cmd *cobra.Command, args []string) error {
			d := &demo{command: c, began: time.Now(), keep: keep}
			return d.run(cmd.Context(), args)
		},
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the data directory, or with -b the topic and the group")
	return cmd
}

// demo is one run.
type demo struct {
	*command
	began time.Time
	keep  bool
	step  int

	file  string // "" is the sample
	topic string
	group string

	dir    string       // of the broker of this run, "" with -b
	broker *childBroker // nil with -b

	mu        sync.Mutex // guards published
	published digests
}

// digests tell whether two readings saw the same: by partition, all values in their order.
type digests struct {
	records, bytes int64
	byPartition    map[int32]hash.Hash
}

func newDigests() digests { return digests{byPartition: map[int32]hash.Hash{}} }

func (d *digests) add(partition int32, value []byte) {
	h := d.byPartition[partition]
	if h == nil {
		h = sha256.New()
		d.byPartition[partition] = h
	}
	var length [8]byte
	binary.BigEndian.PutUint64(length[:], uint64(len(value)))
	h.Write(length[:])
	h.Write(value)
	d.records++
	d.bytes += int64(len(value))
}

func (d *digests) same(other *digests) bool {
	if d.records != other.records || len(d.byPartition) != len(other.byPartition) {
		return false
	}
	for p, h := range d.byPartition {
		if o := other.byPartition[p]; o == nil || string(h.Sum(nil)) != string(o.Sum(nil)) {
			return false
		}
	}
	return true
}

// tell explains one step. With -o json it goes to standard error.
func (d *demo) tell(format string, args ...any) {
	d.step++
	w := d.Stdout
	if d.json() {
		w = d.Stderr
	}
	fmt.Fprintf(w, "%d. %s\n", d.step, fmt.Sprintf(format, args...))
}

type demoJSON struct {
	Records   int64   `json:"records"`
	Bytes     int64   `json:"bytes"`
	Restarted bool    `json:"restarted"`
	Seconds   float64 `json:"seconds"`
}

func (d *demo) run(ctx context.Context, args []string) (err error) {
	d.topic, d.group = "demo", "demo-readers"
	shown := "a sample of orders"
	if len(args) == 1 {
		d.file, shown = args[0], args[0]
		f, err := os.Open(d.file) // before anything is started
		if err != nil {
			return &failure{cause: "the file cannot be read", value: err.Error(), help: "moldau demo without a file uses a sample", err: err}
		}
		_ = f.Close()
	}
	defer func() { err = errors.Join(err, d.cleanUp(ctx)) }()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	if err := d.publish(ctx); err != nil {
		return err
	}
	d.tell("Published %s to topic %s: %s, %s, each acknowledged by the broker.", shown, d.topic, plural(d.published.records, "record"), bytesText(d.published.bytes))
	if err := d.consume(ctx); err != nil {
		return err
	}
	d.tell("Consumed them as a member of group %s: all are there, in the order of each of the %d partitions, none twice.", d.group, demoPartitions)
	if err := d.rewind(ctx); err != nil {
		return err
	}
	if err := d.consume(ctx); err != nil {
		return err
	}
	d.tell("Rewound the group to the start and consumed them all again: reading removes nothing.")
	if d.broker != nil {
		if err := d.restart(ctx); err != nil {
			return err
		}
	}
	if err := d.verify(ctx); err != nil {
		return err
	}
	if d.json() {
		return writeJSON(d.Stdout, demoJSON{d.published.records, d.published.bytes, d.broker != nil, time.Since(d.began).Seconds()})
	}
	_, err = fmt.Fprintf(d.Stdout, "Done in %s. Now run one yourself: moldau server\n", time.Since(d.began).Round(100*time.Millisecond))
	return err
}

// prepare starts the broker of this run, or looks at the named one, and makes the topic.
func (d *demo) prepare(ctx context.Context) error {
	if d.bootstrap == "" {
		if err := d.startOwn(ctx); err != nil {
			return err
		}
	} else {
		suffix := fmt.Sprintf("-%d-%x", os.Getpid(), d.Now().UnixMilli())
		d.topic, d.group = d.topic+suffix, d.group+suffix
	}
	cl, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	if d.broker == nil {
		d.tell("Found the broker on %s; it will not be restarted.", d.bootstrap)
	}
	responses, err := ask(ctx, cl, d.topic, func(ctx context.Context) (kadm.CreateTopicResponses, error) {
		return cl.adm.CreateTopics(ctx, demoPartitions, -1, nil, d.topic)
	})
	if err != nil {
		return err
	}
	if r := responses[d.topic]; r.Err != nil {
		return explain(r.Err, r.ErrMessage, d.topic)
	}
	return cl.awaitTopic(ctx, d.topic)
}

func (d *demo) startOwn(ctx context.Context) error {
	if d.Command == nil {
		return &failure{cause: "this build has no broker", help: "name one that runs with -b HOST:PORT"}
	}
	var err error
	if d.dir, err = os.MkdirTemp("", "moldau-demo-"); err != nil {
		return &failure{cause: "there is no temporary directory", value: err.Error(), help: "set TMPDIR to one, or name a broker with -b HOST:PORT", err: err}
	}
	if d.broker, err = startChild(ctx, d.command, d.dir); err != nil {
		return err
	}
	d.tell("Started a broker on %s, ready in %s; its data is in %s.", d.broker.addr, d.broker.took.Round(time.Millisecond), d.dir)
	d.bootstrap = d.broker.addr
	return nil
}

// restart ends the broker as a crash would, and starts it on the same directory.
func (d *demo) restart(ctx context.Context) error {
	d.broker.kill()
	again, err := startChild(ctx, d.command, d.dir)
	if err != nil {
		return err
	}
	d.broker, d.bootstrap = again, again.addr
	d.tell("Killed the broker (as kill -9 does) and started it again on the same directory: ready in %s.", again.took.Round(time.Millisecond))
	return nil
}

func (d *demo) publish(ctx context.Context) error {
	o := &produceOptions{partition: -1, acks: "all", compression: "none"}
	opts, err := o.producerOptions(defaultMaxMessageBytes)
	if err != nil {
		return err
	}
	source, err := newRecordSource(o, defaultMaxMessageBytes)
	if err != nil {
		return err
	}
	cl, err := d.newClient(append(opts, kgo.DefaultProduceTopic(d.topic), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	d.published = newDigests()
	sending, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	files, in := []string{d.file}, io.Reader(nil)
	if d.file == "" {
		files, in = nil, strings.NewReader(demoSample)
	}
	err = source.each(sending, files, in, func(number int64, r *kgo.Record) {
		cl.Produce(ctx, r, func(r *kgo.Record, err error) {
			if err != nil {
				stop(&failure{cause: fmt.Sprintf("record %d was not acknowledged", number), value: d.topic, help: explain(err, "", "").Error(), err: err})
				return
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			d.published.add(r.Partition, r.Value)
		})
	})
	if flushErr := cl.Flush(ctx); err == nil {
		err = flushErr
	}
	var refused *failure
	if errors.As(context.Cause(sending), &refused) {
		return refused
	}
	if err == nil && d.published.records == 0 {
		return &failure{cause: "there is no line in the file", value: d.file, help: "moldau demo without a file uses a sample"}
	}
	return err
}

// consume reads the topic to its end in the group, and compares.
func (d *demo) consume(ctx context.Context) error {
	got := newDigests()
	o := &consumeOptions{group: d.group, exitAtEnd: true, offset: "start"}
	quiet := *d.command
	quiet.App = &App{Stdin: d.Stdin, Stdout: io.Discard, Stderr: d.Stderr, Env: d.Env, Now: d.Now}
	err := quiet.consumeGroup(ctx, []string{d.topic}, o, func(_ io.Writer, r *kgo.Record) error {
		got.add(r.Partition, r.Value)
		return nil
	}, &progress{began: time.Now()})
	if err != nil {
		return err
	}
	if !got.same(&d.published) {
		return &failure{cause: "what was consumed is not what was published", value: fmt.Sprintf("%d records, published %d", got.records, d.published.records),
			help: "this must never happen: run it again with --keep and look at the topic by moldau consume"}
	}
	return nil
}

func (d *demo) rewind(ctx context.Context) error {
	cl, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.mustBeEmpty(ctx, d.group); err != nil {
		return err
	}
	rows, err := cl.planSeek(ctx, d.group, seekTarget{position: &position{kind: atStart}})
	if err != nil {
		return err
	}
	return cl.commit(ctx, d.group, rows)
}

// verify looks at the committed offsets, and reads everything once more.
func (d *demo) verify(ctx context.Context) error {
	cl, err := d.connect(ctx)
	if err != nil {
		return err
	}
	g, err := cl.describeGroup(ctx, d.group)
	cl.Close()
	if err != nil {
		return err
	}
	committed := int64(0)
	for _, o := range g.Offsets {
		if o.Committed != nil {
			committed += *o.Committed
		}
	}
	if committed != d.published.records || g.Lag != 0 {
		return &failure{cause: "the group's committed offsets are not those from before", value: fmt.Sprintf("%d of %d, lag %d", committed, d.published.records, g.Lag),
			help: "this must never happen: run it again with --keep and see moldau group describe " + d.group}
	}
	if err := d.rewind(ctx); err != nil {
		return err
	}
	if err := d.consume(ctx); err != nil {
		return err
	}
	d.tell("Verified: topic, group and committed offsets are there, and all %s, unchanged.", plural(d.published.records, "record"))
	return nil
}

// cleanUp removes what the run has made, also after an interrupt.
func (d *demo) cleanUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.timeout)
	defer cancel()
	if d.dir != "" {
		if d.broker != nil {
			d.broker.kill()
		}
		if d.keep {
			d.note("the data is left in %s: moldau server --data-dir %s", d.dir, d.dir)
			return nil
		}
		return os.RemoveAll(d.dir)
	}
	if d.bootstrap == "" || d.step == 0 || d.keep {
		return nil
	}
	cl, err := d.connect(ctx)
	if err != nil {
		return nil // the run's own error says more
	}
	defer cl.Close()
	_, groupErr := cl.adm.DeleteGroups(ctx, d.group)
	topics, err := cl.adm.DeleteTopics(ctx, d.topic)
	if err == nil {
		err = topics.Error()
	}
	if err = errors.Join(groupErr, err); err != nil {
		return &failure{cause: "topic and group of the demo are left behind", value: join(d.topic, d.group), help: "moldau topic delete " + d.topic + " --yes", err: err}
	}
	return nil
}

// childBroker is a broker in a process of its own, until kill.
type childBroker struct {
	cmd    *exec.Cmd
	addr   string
	took   time.Duration
	ended  chan struct{} // closed when its output has ended and it was waited for
	killed sync.Once
}

// childPatience is how long a broker may take to start on an empty or small directory.
const childPatience = 30 * time.Second

// startChild runs moldau server and returns when it is ready.
func startChild(ctx context.Context, c *command, dir string) (*childBroker, error) {
	cmd := c.Command("server", "--data-dir", dir, "--listen", "127.0.0.1:0", "--http", "off", "--log-format", "json")
	dieWithParent(cmd)
	output, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, &failure{cause: "the broker could not be started", value: err.Error(), err: err}
	}
	b := &childBroker{cmd: cmd, ended: make(chan struct{})}
	ready, last := make(chan string, 1), make(chan string, 1)
	go func() {
		defer close(b.ended)
		last <- readLog(output, ready)
		_ = cmd.Wait() // how it ended is known: it was killed, or its last line says it
	}()
	timer := time.NewTimer(childPatience)
	defer timer.Stop()
	select {
	case b.addr = <-ready:
		b.took = time.Since(began)
		return b, nil
	case line := <-last:
		<-b.ended
		return nil, &failure{cause: "the broker did not start", value: strings.TrimPrefix(line, "moldau: ")}
	case <-timer.C:
		err = &failure{cause: "the broker is not ready", value: childPatience.String(), help: "moldau doctor"}
	case <-ctx.Done():
		err = ctx.Err()
	}
	b.kill()
	return nil, err
}

// readLog reads a broker's log to its end. It sends the address of the ready line, and returns
// the last line.
func readLog(r io.Reader, ready chan<- string) (last string) {
	lines := bufio.NewReader(r)
	for {
		text, err := lines.ReadString('\n')
		if line := strings.TrimSpace(text); line != "" {
			last = line
		}
		var entry struct {
			Msg       string
			Listeners []string
		}
		if json.Unmarshal([]byte(text), &entry) == nil && entry.Msg == "ready" && len(entry.Listeners) > 0 {
			_, addr, _ := strings.Cut(entry.Listeners[0], "://")
			ready <- addr
		}
		if err != nil {
			return last
		}
	}
}

// kill ends the process without a warning and waits for it.
func (b *childBroker) kill() {
	b.killed.Do(func() {
		_ = b.cmd.Process.Kill() // it may have ended already
		<-b.ended
	})
}
