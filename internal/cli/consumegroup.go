package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// groupReader reads as a member of a consumer group. The partitions it has come and go
// in the client's callbacks, which run only while no poll's result is being worked on.
type groupReader struct {
	reader
	group    string
	fromEnd  bool // where nothing was committed
	ending   bool // end at the ends as they are when partitions are assigned
	assigned bool // partitions were given at least once
	failed   error
}

// consumeGroup prints records as a member of a group. A record is committed after it was
// written to the output: it may come twice after a crash, and is never left out.
func (c *command) consumeGroup(ctx context.Context, topics []string, o *consumeOptions, write func(io.Writer, *kgo.Record) error, progress *progress) (err error) {
	r := &groupReader{group: o.group, fromEnd: o.offset == "end", ending: o.exitAtEnd}
	r.reader = reader{cursors: map[string]map[int32]*cursor{}, ids: map[string]kadm.TopicID{}, level: kgo.ReadUncommitted(), outputGone: c.OutputGone}
	if err := c.lookUpTopics(ctx, topics, r.ids); err != nil {
		return err
	}
	if o.isolation == "read_committed" {
		r.level = kgo.ReadCommitted()
	}
	reset := kgo.NewOffset().AtStart()
	if r.fromEnd {
		reset = kgo.NewOffset().AtEnd()
	}
	r.client, err = c.newClient(
		kgo.ConsumerGroup(o.group), kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(reset), kgo.FetchIsolationLevel(r.level),
		kgo.KeepControlRecords(), kgo.FetchMaxBytes(16*mebibyte), kgo.FetchMaxWait(time.Second), kgo.MaxConcurrentFetches(4),
		kgo.AutoCommitMarks(), kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(r.onAssigned), kgo.OnPartitionsRevoked(r.onRevoked), kgo.OnPartitionsLost(r.onLost))
	if err != nil {
		return err
	}
	defer r.leave(ctx, &err)
	left := o.num
	return r.run(ctx, bufio.NewWriterSize(c.Stdout, 64<<10), func(out io.Writer, rec *kgo.Record) (more bool, err error) {
		progress.count(len(rec.Key) + len(rec.Value))
		left--
		return left != 0, write(out, rec)
	}, progress)
}

// lookUpTopics fills in the ids of topics that must exist.
func (c *command) lookUpTopics(ctx context.Context, topics []string, ids map[string]kadm.TopicID) error {
	cl, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	details, err := cl.topics(ctx, topics...)
	for _, d := range details {
		ids[d.Topic] = d.ID
	}
	return err
}

// leave commits what was written and leaves the group, also after an interrupt.
func (r *groupReader) leave(ctx context.Context, err *error) {
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), min(r.timeout, drainTime))
	defer cancel()
	if commitErr := r.CommitMarkedOffsets(last); commitErr != nil && (*err == nil || errors.Is(*err, context.Canceled)) {
		*err = &failure{cause: "the last records were printed, but the group's offsets could not be committed", value: r.group,
			help: "they will come again: moldau group describe " + r.group, err: commitErr}
	}
	_ = r.LeaveGroupContext(last) // a member that does not leave is timed out
	r.CloseAllowingRebalance()
}

func (r *groupReader) onAssigned(ctx context.Context, _ *kgo.Client, assigned map[string][]int32) {
	r.assigned = true
	if err := r.place(ctx, assigned); err != nil && r.failed == nil {
		r.failed = err
	}
}

// place opens a cursor for each partition: from what was committed up to the present end.
func (r *groupReader) place(ctx context.Context, assigned map[string][]int32) error {
	if len(assigned) == 0 {
		return nil
	}
	committed, err := r.committed(ctx, r.group)
	if err != nil {
		return err
	}
	m, err := r.marks(ctx, sortedKeys(assigned), span{}, r.level == kgo.ReadCommitted())
	if err != nil {
		return err
	}
	for topic, partitions := range assigned {
		if r.cursors[topic] == nil {
			r.cursors[topic] = map[int32]*cursor{}
		}
		for _, p := range partitions {
			b, err := m.bounds(topic, p)
			if err != nil {
				return err
			}
			cur := &cursor{next: b.start, stop: -1}
			if at, ok := committed[topic][p]; ok {
				cur.next = at
			} else if r.fromEnd {
				cur.next = b.end
			}
			if r.ending {
				cur.stop = b.end
			}
			if r.cursors[topic][p] = cur; !cur.done() {
				r.open++
			}
		}
	}
	return nil
}

// onRevoked commits what was written of the partitions before another member gets them.
func (r *groupReader) onRevoked(ctx context.Context, _ *kgo.Client, revoked map[string][]int32) {
	if err := r.CommitMarkedOffsets(ctx); err != nil && r.failed == nil && ctx.Err() == nil {
		r.failed = r.explain(err, "", r.group)
	}
	r.forget(revoked)
}

func (r *groupReader) onLost(_ context.Context, _ *kgo.Client, lost map[string][]int32) {
	r.forget(lost)
}

func (r *groupReader) forget(gone map[string][]int32) {
	for topic, partitions := range gone {
		for _, p := range partitions {
			if cur := r.cursors[topic][p]; cur != nil && !cur.done() {
				r.open--
			}
			delete(r.cursors[topic], p)
		}
	}
}

// run writes records until all assigned partitions are at their end, each wants no more, or ctx ends.
func (r *groupReader) run(ctx context.Context, out *bufio.Writer, each func(io.Writer, *kgo.Record) (bool, error), progress *progress) error {
	defer r.AllowRebalance()
	for {
		progress.tick()
		fetches, idle := r.poll(ctx)
		more, err := r.handle(ctx, fetches, idle, out, each)
		if err != nil || !more {
			return err
		}
		r.AllowRebalance()
	}
}

// handle works on the result of one poll.
func (r *groupReader) handle(ctx context.Context, fetches kgo.Fetches, idle bool, out *bufio.Writer, each func(io.Writer, *kgo.Record) (bool, error)) (more bool, err error) {
	switch {
	case ctx.Err() != nil:
		return false, ctx.Err()
	case r.failed != nil:
		return false, r.failed
	case idle:
		if r.outputGone != nil && r.outputGone() {
			return false, syscall.EPIPE
		}
		_ = r.skipInvisible(ctx) // it is asked again
		return !r.atEnd(), nil
	}
	if err := r.fetchError(fetches); err != nil {
		return false, err
	}
	var written []*kgo.Record
	more = true
	for records := fetches.RecordIter(); more && !records.Done() && err == nil; {
		rec := records.Next()
		if r.cursors[rec.Topic][rec.Partition] == nil {
			continue
		}
		more, err = r.take(rec, func(rec *kgo.Record) (bool, error) { return each(out, rec) })
		if err == nil {
			written = append(written, rec)
		}
	}
	if flushErr := out.Flush(); err == nil {
		err = flushErr
	}
	if err == nil {
		r.MarkCommitRecords(slices.DeleteFunc(written, r.beyond)...)
	}
	return more && !r.atEnd(), err
}

// beyond tells whether a record came after the end at which this reader stops.
func (r *groupReader) beyond(rec *kgo.Record) bool {
	cur := r.cursors[rec.Topic][rec.Partition]
	return cur == nil || cur.stop >= 0 && rec.Offset >= cur.stop
}

func (r *groupReader) atEnd() bool { return r.ending && r.assigned && r.open == 0 }

// checkGroupFlags refuses what has no meaning for a member of a group.
func (o *consumeOptions) checkGroupFlags() error {
	switch {
	case o.offset != "start" && o.offset != "end":
		return usagef("--offset %q: with --group it is start or end, for partitions without a committed offset; moldau group seek moves the others", o.offset)
	case len(o.partitions) > 0:
		return usagef("--partition and --group exclude each other: the group assigns partitions")
	}
	return nil
}

// groupNote tells what a group consumer waits for.
func groupNote(o *consumeOptions) string {
	return fmt.Sprintf("waiting as a member of group %s; Ctrl-C commits and leaves", o.group)
}
