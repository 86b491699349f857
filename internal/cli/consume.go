package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

type consumeOptions struct {
	partitions           []int32
	offset               string
	num                  int64
	exitAtEnd, progress  bool
	format, keySeparator string
	isolation, group     string
}

// idleProbe is how long a consumer that is to end waits for records before it asks
// whether the rest of a partition holds any.
const idleProbe = 300 * time.Millisecond

// idleLook is how often a consumer that waits for more looks whether its output is still wanted.
const idleLook = time.Second

func newConsume(c *command) *cobra.Command {
	o := &consumeOptions{}
	cmd := &cobra.Command{
		Use: "consume TOPIC...", Short: "Print records of topics",
		Long: "Print records of topics, and then wait for more until Ctrl-C.\n\n" +
			"Without --group no offset is committed, and the partitions are those that exist at the start.\n" +
			"With it the command is a member of that consumer group: it shares the partitions with the\n" +
			"others, goes on where the group has committed, and commits what it has printed.\n" +
			"Order holds within each partition.\n\nPositions for --offset:\n" + positionHelp + "\n\n" +
			"Letters for --format:\n" + formatHelp + "\n\n" +
			"With -o json every record is one line of JSON, which produce --json reads.",
		Example: "  moldau consume orders\n  moldau consume orders --offset -10 --exit-at-end\n" +
			"  moldau consume orders --offset @-1h: -e --format '%p %o %k: %v\\n'\n" +
			"  moldau consume orders --partition 0 --offset 100:200 -o json\n" +
			"  moldau consume orders --group billing",
		Args:              atLeast(1, "one or more topics"),
		ValidArgsFunction: c.completeTopics(0),
		RunE:              func(cmd *cobra.Command, args []string) error { return c.consume(cmd, args, o) },
	}
	f := cmd.Flags()
	f.Int32SliceVarP(&o.partitions, "partition", "p", nil, "only these partitions, `N,...` (default all)")
	f.StringVar(&o.offset, "offset", "start", "`POSITION` to begin at, see above")
	f.Int64VarP(&o.num, "num", "n", 0, "exit after this many records")
	f.BoolVarP(&o.exitAtEnd, "exit-at-end", "e", false, "exit at the end as it was when the command started")
	f.StringVarP(&o.format, "format", "f", `%v\n`, "how a record is printed, see above")
	f.StringVarP(&o.keySeparator, "key-separator", "K", "", "print key, this `TEXT`, value; short for --format '%kTEXT%v\\n'")
	f.StringVarP(&o.group, "group", "g", "", "be a member of this consumer `GROUP`")
	f.StringVar(&o.isolation, "isolation", "read_uncommitted", "`LEVEL`: read_committed leaves out open and aborted transactions")
	f.BoolVar(&o.progress, "progress", false, "show progress on standard error")
	completeWith(cmd, "isolation", "read_committed", "read_uncommitted")
	completeWith(cmd, "offset", "start", "end", "-10", "@-1h", ":end")
	completeFlagFrom(cmd, "group", c.completeGroups(0))
	return cmd
}

func (c *command) consume(cmd *cobra.Command, topics []string, o *consumeOptions) error {
	span, err := parseSpan(o.offset, c.Now())
	if err != nil {
		return usagef("--offset %w", err)
	}
	write, err := c.recordWriter(cmd, o)
	if err != nil {
		return err
	}
	if o.isolation != "read_committed" && o.isolation != "read_uncommitted" {
		return usagef("--isolation %q is unknown: read_committed or read_uncommitted", o.isolation)
	}
	if cmd.Flags().Changed("num") && o.num < 1 {
		return usagef("--num %d: at least 1", o.num)
	}
	if cmd.Flags().Changed("group") {
		if err := o.checkGroupFlags(); err != nil {
			return err
		}
	}
	slices.Sort(topics)
	topics = slices.Compact(topics)

	ctx := cmd.Context()
	if o.group != "" {
		progress := &progress{began: time.Now()}
		if o.progress {
			progress.w = c.Stderr
		}
		if c.StderrIsTerminal && !o.exitAtEnd {
			c.note("%s", groupNote(o))
		}
		err := c.consumeGroup(ctx, topics, o, write, progress)
		progress.clear()
		if o.progress {
			c.note("%s read", progress.text())
		}
		return err
	}
	reader, err := c.newReader(ctx, topics, span, o)
	if err != nil {
		return err
	}
	defer reader.Close()
	out := bufio.NewWriterSize(c.Stdout, 64<<10)
	progress := &progress{began: time.Now()}
	if o.progress {
		progress.w = c.Stderr
	}
	left := o.num
	err = reader.run(ctx, out, func(r *kgo.Record) (more bool, err error) {
		progress.count(len(r.Key) + len(r.Value))
		left--
		return left != 0, write(out, r)
	}, progress)
	if flushErr := out.Flush(); err == nil || errors.Is(err, context.Canceled) && flushErr != nil {
		err = flushErr
	}
	progress.clear()
	if o.progress {
		c.note("%s read", progress.text())
	}
	return err
}

// recordWriter returns the function that prints one record.
func (c *command) recordWriter(cmd *cobra.Command, o *consumeOptions) (func(io.Writer, *kgo.Record) error, error) {
	formatted := cmd.Flags().Changed("format")
	separated := cmd.Flags().Changed("key-separator")
	switch {
	case formatted && separated:
		return nil, usagef("--format and --key-separator exclude each other")
	case (formatted || separated) && c.json():
		return nil, usagef("--output json and a format exclude each other")
	case c.json():
		var line bytes.Buffer
		e := json.NewEncoder(&line)
		e.SetEscapeHTML(false)
		return func(w io.Writer, r *kgo.Record) error {
			line.Reset()
			if err := e.Encode(newRecordJSON(r)); err != nil {
				return err
			}
			_, err := w.Write(line.Bytes())
			return err
		}, nil
	}
	var line []byte
	if separated {
		separator, err := unescapeAll(o.keySeparator)
		if err != nil {
			return nil, usagef("--key-separator: %w", err)
		}
		return func(w io.Writer, r *kgo.Record) error {
			line = append(append(append(append(line[:0], r.Key...), separator...), r.Value...), '\n')
			_, err := w.Write(line)
			return err
		}, nil
	}
	format, err := parseFormat(o.format)
	if err != nil {
		return nil, usagef("--format %w", err)
	}
	return func(w io.Writer, r *kgo.Record) error {
		line = format.appendTo(line[:0], r)
		_, err := w.Write(line)
		return err
	}, nil
}

// reader reads partitions directly, each up to its end.
type reader struct {
	*client
	cursors map[string]map[int32]*cursor
	open    int // cursors that have not reached their end
	ids     map[string]kadm.TopicID
	level   kgo.IsolationLevel

	outputGone func() bool // see App
}

// cursor is the place in one partition.
type cursor struct {
	next int64 // offset that comes next
	stop int64 // offset to end before, -1 for never
}

func (c *cursor) done() bool { return c.stop >= 0 && c.next >= c.stop }

// newReader finds out where each partition begins and ends, and starts to fetch.
func (c *command) newReader(ctx context.Context, topics []string, s span, o *consumeOptions) (*reader, error) {
	cl, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	details, err := cl.topics(ctx, topics...)
	if err != nil {
		return nil, err
	}
	committed := o.isolation == "read_committed"
	marks, err := cl.marks(ctx, topics, s, committed)
	if err != nil {
		return nil, err
	}
	r := &reader{cursors: map[string]map[int32]*cursor{}, ids: map[string]kadm.TopicID{}, level: kgo.ReadUncommitted(), outputGone: c.OutputGone}
	if committed {
		r.level = kgo.ReadCommitted()
	}
	fetch := map[string]map[int32]kgo.Offset{}
	for _, d := range details {
		r.ids[d.Topic], r.cursors[d.Topic], fetch[d.Topic] = d.ID, map[int32]*cursor{}, map[int32]kgo.Offset{}
		for _, partition := range o.partitions {
			if _, ok := d.Partitions[partition]; !ok {
				return nil, partitionMissing(d.Topic, partition, len(d.Partitions))
			}
		}
		for _, p := range d.Partitions.Sorted() {
			if len(o.partitions) > 0 && !slices.Contains(o.partitions, p.Partition) {
				continue
			}
			cur, err := marks.cursor(d.Topic, p.Partition, s, o.exitAtEnd)
			if err != nil {
				return nil, err
			}
			r.cursors[d.Topic][p.Partition] = cur
			if !cur.done() {
				fetch[d.Topic][p.Partition] = kgo.NewOffset().At(cur.next)
				r.open++
			}
		}
	}
	r.client, err = c.newClient(
		kgo.ConsumePartitions(fetch), kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchIsolationLevel(r.level),
		kgo.KeepControlRecords(), kgo.FetchMaxBytes(16*mebibyte), kgo.FetchMaxWait(time.Second), kgo.MaxConcurrentFetches(4))
	return r, err
}

// marks are the offsets of all partitions that a span may refer to.
type marks struct{ starts, ends, froms, untils kadm.ListedOffsets }

func (cl *client) marks(ctx context.Context, topics []string, s span, committed bool) (m marks, err error) {
	list := func(f func(context.Context, ...string) (kadm.ListedOffsets, error)) kadm.ListedOffsets {
		if err != nil {
			return nil
		}
		var listed kadm.ListedOffsets
		listed, err = ask(ctx, cl, "", func(ctx context.Context) (kadm.ListedOffsets, error) { return f(ctx, topics...) })
		return listed
	}
	after := func(ms int64) kadm.ListedOffsets {
		return list(func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error) {
			return cl.adm.ListOffsetsAfterMilli(ctx, ms, topics...)
		})
	}
	m.starts = list(cl.adm.ListStartOffsets)
	if committed {
		m.ends = list(cl.adm.ListCommittedOffsets)
	} else {
		m.ends = list(cl.adm.ListEndOffsets)
	}
	if s.from.kind == atTime {
		m.froms = after(s.from.n)
	}
	if s.bounded && s.to.kind == atTime {
		m.untils = after(s.to.n)
	}
	return m, err
}

// bounds gathers the marks of one partition.
func (m marks) bounds(topic string, partition int32) (b bounds, err error) {
	where := fmt.Sprintf("%s partition %d", topic, partition)
	at := func(listed kadm.ListedOffsets) int64 {
		if listed == nil || err != nil {
			return 0
		}
		o, ok := listed.Lookup(topic, partition)
		if !ok {
			err = &failure{cause: "the broker left the answer out", value: where}
			return 0
		}
		err = explain(o.Err, "", where)
		return o.Offset
	}
	b = bounds{start: at(m.starts), end: at(m.ends), fromMs: at(m.froms), untilMs: at(m.untils)}
	return b, err
}

// cursor places the span in one partition.
func (m marks) cursor(topic string, partition int32, s span, exitAtEnd bool) (*cursor, error) {
	b, err := m.bounds(topic, partition)
	if err != nil {
		return nil, err
	}
	from, stop, err := s.resolve(b)
	if err != nil {
		where := fmt.Sprintf("%s partition %d", topic, partition)
		return nil, &failure{cause: err.Error(), value: where, help: "moldau topic describe " + topic}
	}
	if exitAtEnd && (stop < 0 || stop > b.end) {
		stop = b.end
	}
	return &cursor{next: from, stop: stop}, nil
}

// run calls each with every record until all partitions are at their end, each wants
// no more, or ctx ends. It flushes out whenever there is nothing more at hand.
func (r *reader) run(ctx context.Context, out *bufio.Writer, each func(*kgo.Record) (bool, error), progress *progress) error {
	lastRecord := time.Now()
	for r.open > 0 {
		if r.BufferedFetchRecords() == 0 {
			if err := out.Flush(); err != nil {
				return err
			}
			progress.tick()
		}
		fetches, idle := r.poll(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if idle {
			if r.outputGone != nil && r.outputGone() {
				return syscall.EPIPE
			}
			if err := r.skipInvisible(ctx); err != nil && time.Since(lastRecord) > r.timeout {
				return err
			}
			continue
		}
		if err := r.fetchError(fetches); err != nil {
			return err
		}
		lastRecord = time.Now()
		for records := fetches.RecordIter(); !records.Done(); {
			more, err := r.take(records.Next(), each)
			if err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// poll waits for records; idle says that none came for a while.
func (r *reader) poll(ctx context.Context) (fetches kgo.Fetches, idle bool) {
	wait := idleLook
	if r.ending() {
		wait = idleProbe
	}
	limited, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	fetches = r.PollRecords(limited, 10000)
	return fetches, fetches.NumRecords() == 0 && errors.Is(fetches.Err0(), context.DeadlineExceeded)
}

func (r *reader) ending() bool {
	for _, partitions := range r.cursors {
		for _, cur := range partitions {
			if cur.stop >= 0 && !cur.done() {
				return true
			}
		}
	}
	return false
}

func (r *reader) fetchError(fetches kgo.Fetches) (err error) {
	fetches.EachError(func(topic string, partition int32, e error) {
		if err != nil || errors.Is(e, context.DeadlineExceeded) {
			return
		}
		where := fmt.Sprintf("%s partition %d", topic, partition)
		if errors.Is(e, kerr.OffsetOutOfRange) {
			err = &failure{cause: fmt.Sprintf("offset %d is gone, records were deleted before they were read", r.cursors[topic][partition].next),
				value: where, help: "begin again with --offset start", err: e}
			return
		}
		if errors.Is(e, kerr.UnknownTopicOrPartition) || errors.Is(e, kerr.UnknownTopicID) {
			where = topic
		}
		err = r.explain(e, "", where)
	})
	return err
}

// take moves the cursor over one record and hands it on, unless it lies outside.
func (r *reader) take(record *kgo.Record, each func(*kgo.Record) (bool, error)) (more bool, err error) {
	cur := r.cursors[record.Topic][record.Partition]
	if cur.done() || record.Offset < cur.next {
		return true, nil
	}
	wanted := cur.stop < 0 || record.Offset < cur.stop
	cur.next = record.Offset + 1
	if cur.done() {
		r.close(record.Topic, record.Partition)
	}
	if !wanted || record.Attrs.IsControl() {
		return true, nil
	}
	return each(record)
}

func (r *reader) close(topic string, partition int32) {
	r.open--
	r.PauseFetchPartitions(map[string][]int32{topic: {partition}})
}

// skipInvisible moves cursors over offsets that hold no record a reader can see:
// compaction leaves empty batches and gaps, also at the very end, and the client
// reports nothing for them.
func (r *reader) skipInvisible(ctx context.Context) (first error) {
	for _, topic := range sortedKeys(r.cursors) {
		for partition, cur := range r.cursors[topic] {
			if cur.stop < 0 || cur.done() {
				continue
			}
			next, err := r.nextVisible(ctx, topic, partition, cur.next)
			if err != nil {
				first = cmpOr(first, err)
				continue
			}
			if cur.next = max(cur.next, next); cur.done() {
				r.close(topic, partition)
			}
		}
	}
	return first
}

func cmpOr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// nextVisible fetches once at offset and returns the offset after what was there if
// none of it is visible, else offset.
func (r *reader) nextVisible(ctx context.Context, topic string, partition int32, offset int64) (int64, error) {
	leader, epoch, err := r.PartitionLeader(topic, partition)
	if err != nil {
		return offset, err
	}
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.CurrentLeaderEpoch, p.FetchOffset, p.PartitionMaxBytes = partition, epoch, offset, mebibyte
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID, t.Partitions = topic, r.ids[topic], append(t.Partitions, p)
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID, req.SessionEpoch, req.MaxBytes = -1, -1, mebibyte
	if r.level == kgo.ReadCommitted() {
		req.IsolationLevel = 1
	}
	req.Topics = append(req.Topics, t)
	resp, err := ask(ctx, r.client, fmt.Sprintf("%s partition %d", topic, partition), func(ctx context.Context) (kmsg.Response, error) {
		return r.Broker(int(leader)).RetriableRequest(ctx, req)
	})
	if err != nil {
		return offset, err
	}
	fetched := resp.(*kmsg.FetchResponse)
	if len(fetched.Topics) != 1 || len(fetched.Topics[0].Partitions) != 1 {
		return offset, kerr.ErrorForCode(fetched.ErrorCode)
	}
	got, next := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		KeepControlRecords: true, Offset: offset, IsolationLevel: r.level, Topic: topic, Partition: partition,
	}, &fetched.Topics[0].Partitions[0], kgo.DefaultDecompressor(), nil)
	if got.Err != nil || len(got.Records) > 0 {
		return offset, got.Err
	}
	return next, nil
}
