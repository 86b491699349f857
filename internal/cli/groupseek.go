package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

type seekOptions struct {
	to, shift, file string
	topics          []string
	dryRun          bool
}

func newGroupSeek(c *command) *cobra.Command {
	o := &seekOptions{}
	cmd := &cobra.Command{
		Use: "seek GROUP {--to POSITION | --shift N | --from-file FILE}", Short: "Set the committed offsets of an empty group",
		Args: exactly(1, "one group"),
		Long: "Set the committed offsets of an empty group: rewind it, skip, or begin a new group somewhere.\n\n" +
			"Without --topic it moves every partition of which the group has a committed offset. With it\n" +
			"the named ones, committed or not. A group that does not exist is made.\n" +
			"While a member is in the group its own commits would undo the change; so it is refused.\n\n" +
			"POSITION is one of\n" +
			"  start, end        the first record there is, the next one to come\n" +
			"  12345             offset 12345\n" +
			"  -10, +10          10 offsets before the end, 10 after the start\n" +
			"  @2026-01-31       from that time on, as for consume --offset: also @-1h, @1767225600000\n" +
			"What lies outside of a partition is moved to its start or end, and said.\n\n" +
			"A file has lines of topic,partition,offset as kafka-consumer-groups --export writes them;\n" +
			"- is standard input, and # begins a comment.",
		Example: "  moldau group seek billing --to start --dry-run\n  moldau group seek billing --to @-1h --topic orders:0,1\n" +
			"  moldau group seek billing --shift -100\n  moldau group seek billing --from-file offsets.csv",
		ValidArgsFunction: c.completeGroups(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			target, err := c.seekTarget(cmd, o)
			if err != nil {
				return err
			}
			return c.seek(cmd.Context(), args[0], target, o.dryRun)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.to, "to", "", "`POSITION` to go to, see above")
	f.StringVar(&o.shift, "shift", "", "move by `N` records from the committed offset: -100 or +100")
	f.StringVar(&o.file, "from-file", "", "take offsets from `FILE`, see above")
	f.StringArrayVarP(&o.topics, "topic", "t", nil, "only `TOPIC[:PARTITION,...]`; may be repeated")
	f.BoolVarP(&o.dryRun, "dry-run", "n", false, "print what would be done, and do nothing")
	completeWith(cmd, "to", "start", "end", "@-1h", "-10")
	completeFlagFrom(cmd, "topic", c.completeTopics(0))
	return cmd
}

// seekTarget is where a seek goes: one of position, shift and offsets counts.
type seekTarget struct {
	position *position
	shift    *int64
	offsets  map[string]map[int32]int64
	topics   topicPartitions
}

func (c *command) seekTarget(cmd *cobra.Command, o *seekOptions) (t seekTarget, err error) {
	given := 0
	for _, name := range []string{"to", "shift", "from-file"} {
		if cmd.Flags().Changed(name) {
			given++
		}
	}
	if given != 1 {
		return t, usagef("say where to: one of --to POSITION, --shift N and --from-file FILE")
	}
	if t.topics, err = parseTopicPartitions(o.topics); err != nil {
		return t, err
	}
	switch {
	case cmd.Flags().Changed("to"):
		p, err := parsePosition(o.to, c.Now())
		if err != nil {
			return t, usagef("--to %q is no position: start, end, 12345, -10, +10, @2026-01-31 or @-1h", o.to)
		}
		t.position = &p
	case cmd.Flags().Changed("shift"):
		n, err := strconv.ParseInt(o.shift, 10, 64)
		if err != nil || n == 0 {
			return t, usagef("--shift %q: a whole number such as -100 or +100", o.shift)
		}
		t.shift = &n
	default:
		if len(o.topics) > 0 {
			return t, usagef("--from-file and --topic exclude each other: the file names the topics")
		}
		t.offsets, err = c.readOffsets(o.file)
	}
	return t, err
}

// maxOffsetLines bounds a file of offsets: more partitions than any group has.
const maxOffsetLines = 1 << 20

func (c *command) readOffsets(name string) (map[string]map[int32]int64, error) {
	in := c.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, &failure{cause: "the file cannot be read", value: err.Error(), err: err}
		}
		defer f.Close()
		in = f
	}
	return parseOffsets(in, name)
}

// parseOffsets reads lines of topic,partition,offset; blanks separate as well as commas.
func parseOffsets(in io.Reader, name string) (map[string]map[int32]int64, error) {
	out := map[string]map[int32]int64{}
	scanner := bufio.NewScanner(in)
	for number := 1; scanner.Scan(); number++ {
		text, _, _ := strings.Cut(scanner.Text(), "#")
		words := strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\r' })
		if len(words) == 0 {
			continue
		}
		bad := &failure{cause: "the line is not topic,partition,offset", value: fmt.Sprintf("%s, line %d", name, number), help: "write it like orders,0,1200"}
		if len(words) != 3 || number > maxOffsetLines {
			return nil, bad
		}
		p, errP := strconv.ParseInt(words[1], 10, 32)
		at, errAt := strconv.ParseInt(words[2], 10, 64)
		if errP != nil || errAt != nil || p < 0 || at < 0 {
			return nil, bad
		}
		if out[words[0]] == nil {
			out[words[0]] = map[int32]int64{}
		}
		if _, twice := out[words[0]][int32(p)]; twice {
			bad.cause = fmt.Sprintf("%s partition %d is there twice", words[0], p)
			return nil, bad
		}
		out[words[0]][int32(p)] = at
	}
	if err := scanner.Err(); err != nil {
		return nil, &failure{cause: "the file cannot be read", value: join(name, err.Error()), err: err}
	}
	if len(out) == 0 {
		return nil, &failure{cause: "there is no offset in the file", value: name, help: "write lines like orders,0,1200"}
	}
	return out, nil
}

type seekRow struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Before    *int64 `json:"committedOffset"` // null: nothing was committed
	After     int64  `json:"newOffset"`
	End       int64  `json:"endOffset"`
	Note      string `json:"note,omitempty"`
}

type seekJSON struct {
	Group   string    `json:"group"`
	DryRun  bool      `json:"dryRun"`
	Offsets []seekRow `json:"offsets"`
}

func (c *command) seek(ctx context.Context, group string, target seekTarget, dryRun bool) error {
	cl, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	if err := cl.mustBeEmpty(ctx, group); err != nil {
		return err
	}
	rows, err := cl.planSeek(ctx, group, target)
	if err != nil {
		return err
	}
	if !dryRun {
		if err := cl.commit(ctx, group, rows); err != nil {
			return err
		}
	}
	if c.json() {
		return writeJSON(c.Stdout, seekJSON{group, dryRun, rows})
	}
	t := newTable("TOPIC", "PARTITION", "COMMITTED", "NEW", "LAG", "NOTE")
	for _, r := range rows {
		t.add(printable(r.Topic), r.Partition, offsetText(r.Before), r.After, r.End-r.After, r.Note)
	}
	if err := t.write(c.Stdout); err != nil {
		return err
	}
	if dryRun {
		c.note("nothing was changed: this was a dry run")
	} else {
		c.note("group %s: %s set", group, plural(int64(len(rows)), "committed offset"))
	}
	return nil
}

// mustBeEmpty refuses a group that has members: their next commit would undo the seek.
func (cl *client) mustBeEmpty(ctx context.Context, group string) error {
	g, err := cl.groupMembers(ctx, group)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return nil // the commit makes it
	}
	if err != nil {
		return err
	}
	if g.State == "Empty" || g.State == "Dead" {
		return nil
	}
	return notEmpty(g)
}

func notEmpty(g describedGroup) error {
	var who []string
	for i, m := range g.Members {
		if i == 3 {
			who = append(who, fmt.Sprintf("and %d more", len(g.Members)-3))
			break
		}
		who = append(who, m.Client+" on "+m.Host)
	}
	return &failure{cause: "the group has active members, whose next commit would undo the change",
		value: join(g.Name, g.State, strings.Join(who, ", ")),
		help:  "stop these consumers, wait until moldau group describe " + g.Name + " says Empty, and say it again", err: kerr.NonEmptyGroup}
}

// planSeek finds the new offset of every partition.
func (cl *client) planSeek(ctx context.Context, group string, t seekTarget) ([]seekRow, error) {
	committed, err := cl.committed(ctx, group)
	if err != nil {
		return nil, err
	}
	wanted, err := cl.seekPartitions(ctx, group, t, committed)
	if err != nil {
		return nil, err
	}
	topics := sortedKeys(wanted)
	s := span{}
	if t.position != nil {
		s.from = *t.position
	}
	marks, err := cl.marks(ctx, topics, s, false)
	if err != nil {
		return nil, err
	}
	rows := []seekRow{}
	for _, topic := range topics {
		for _, p := range slices.Sorted(slices.Values(wanted[topic])) {
			row := seekRow{Topic: topic, Partition: p}
			if at, ok := committed[topic][p]; ok {
				row.Before = &at
			}
			if err := marks.place(&row, t); err != nil {
				return nil, err
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// seekPartitions are the partitions that a seek moves; all of them exist.
func (cl *client) seekPartitions(ctx context.Context, group string, t seekTarget, committed map[string]map[int32]int64) (topicPartitions, error) {
	wanted := topicPartitions{}
	switch {
	case t.offsets != nil:
		for topic, partitions := range t.offsets {
			wanted[topic] = sortedInts(partitions)
		}
	case len(t.topics) > 0:
		wanted = t.topics
	default:
		for topic, partitions := range committed {
			wanted[topic] = sortedInts(partitions)
		}
		if len(wanted) == 0 {
			return nil, &failure{cause: "the group has no committed offsets to move", value: group, help: "name topics with --topic TOPIC"}
		}
	}
	details, err := cl.topics(ctx, sortedKeys(wanted)...)
	if err != nil {
		return nil, err
	}
	for _, d := range details {
		if len(wanted[d.Topic]) == 0 {
			wanted[d.Topic] = d.Partitions.Numbers()
			continue
		}
		for _, p := range wanted[d.Topic] {
			if _, ok := d.Partitions[p]; !ok {
				return nil, partitionMissing(d.Topic, p, len(d.Partitions))
			}
		}
	}
	return wanted, nil
}

// place sets where a row goes, inside what the partition has.
func (m marks) place(row *seekRow, t seekTarget) error {
	b, err := m.bounds(row.Topic, row.Partition)
	if err != nil {
		return err
	}
	row.End = b.end
	var at int64
	switch {
	case t.offsets != nil:
		at = t.offsets[row.Topic][row.Partition]
	case t.position != nil:
		at = t.position.offset(b, b.fromMs)
	case row.Before == nil:
		return &failure{cause: "there is no committed offset to shift", value: fmt.Sprintf("%s partition %d", row.Topic, row.Partition), help: "give a place with --to"}
	case *t.shift > 0:
		at = saturatingAdd(*row.Before, *t.shift)
	default:
		at = *row.Before + max(*t.shift, -math.MaxInt64)
	}
	switch {
	case at < b.start:
		row.Note, at = fmt.Sprintf("%d is before the start", at), b.start
	case at > b.end:
		row.Note, at = fmt.Sprintf("%d is after the end", at), b.end
	}
	row.After = at
	return nil
}

// commit writes the offsets, all of one group, and reports the first that was refused.
func (cl *client) commit(ctx context.Context, group string, rows []seekRow) error {
	offsets := kadm.Offsets{}
	for _, r := range rows {
		offsets.Add(kadm.Offset{Topic: r.Topic, Partition: r.Partition, At: r.After, LeaderEpoch: -1})
	}
	responses, err := ask(ctx, cl, group, func(ctx context.Context) (kadm.OffsetResponses, error) {
		return cl.adm.CommitOffsets(ctx, group, offsets)
	})
	if err != nil {
		return err
	}
	for _, r := range rows {
		got, ok := responses.Lookup(r.Topic, r.Partition)
		where := fmt.Sprintf("%s, %s partition %d", group, r.Topic, r.Partition)
		switch {
		case !ok:
			return &failure{cause: "the broker left the answer out", value: where}
		case errors.Is(got.Err, kerr.UnknownMemberID), errors.Is(got.Err, kerr.RebalanceInProgress):
			if err := cl.mustBeEmpty(ctx, group); err != nil { // somebody joined meanwhile
				return err
			}
			return explain(got.Err, "", where)
		case got.Err != nil:
			return explain(got.Err, "", where)
		}
	}
	return nil
}
