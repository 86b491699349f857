package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

type describedGroup struct {
	Name        string            `json:"name"`
	Type        string            `json:"type"`
	State       string            `json:"state"`
	Protocol    string            `json:"protocolType"`
	Assignor    string            `json:"assignor"`
	Epoch       *int32            `json:"epoch"` // null for a classic group
	Coordinator groupCoordinator  `json:"coordinator"`
	Members     []describedMember `json:"members"`
	Offsets     []groupOffset     `json:"offsets"`
	Lag         int64             `json:"lag"`                      // of all partitions whose lag is known
	LagSeconds  *float64          `json:"lagSeconds"`               // the largest; null: it is known of none
	CatchUp     *float64          `json:"catchUpSeconds,omitempty"` // absent: not measured, or the lag does not fall
}

type groupCoordinator struct {
	ID   int32  `json:"id"`
	Host string `json:"host"`
	Port int32  `json:"port"`
}

type describedMember struct {
	ID         string            `json:"memberId"`
	InstanceID string            `json:"instanceId,omitempty"`
	Client     string            `json:"clientId"`
	Host       string            `json:"host"`
	Rack       string            `json:"rack,omitempty"`
	Assigned   []assignedOfTopic `json:"assignment"`
}

type assignedOfTopic struct {
	Topic      string  `json:"topic"`
	Partitions []int32 `json:"partitions"`
}

type groupOffset struct {
	Topic      string       `json:"topic"`
	Partition  int32        `json:"partition"`
	Committed  *int64       `json:"committedOffset"` // null: nothing was committed
	Start      *int64       `json:"startOffset"`     // null: the leader did not say
	End        *int64       `json:"endOffset"`
	Lag        *int64       `json:"lag"`
	LagSeconds *float64     `json:"lagSeconds"`                  // age of the first record that is not read
	LagProblem string       `json:"lagSecondsProblem,omitempty"` // why it is null
	CatchUp    *float64     `json:"catchUpSeconds,omitempty"`    // group explain only, as Danger
	Danger     *groupDanger `json:"danger,omitempty"`
	Member     string       `json:"memberId,omitempty"` // who has the partition
	Client     string       `json:"clientId,omitempty"`
	Host       string       `json:"host,omitempty"`
}

func newGroupDescribe(c *command) *cobra.Command {
	var over time.Duration
	cmd := &cobra.Command{
		Use: "describe GROUP...", Short: "Show state, members, committed offsets and lag of groups", Args: atLeast(1, "one or more groups"),
		Long: "Show state, members, committed offsets and lag of groups.\n\n" +
			"LAG is the high watermark less the committed offset. AGE is how long ago the first record was\n" +
			"written that the group has not read, by the record's timestamp and this machine's clock; the record\n" +
			"is fetched for it, which takes the right to read the topic. A partition without a committed offset is\n" +
			"shown where a member has it. STATE says where the committed offset lies: behind the first\n" +
			"record there is (expired) the consumer goes where its auto.offset.reset says. With --over the\n" +
			"command looks twice, and says when the group will have read all.",
		Example:           "  moldau group describe billing\n  moldau group describe billing --over 10s\n  moldau group describe billing -o json",
		ValidArgsFunction: c.completeGroups(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if over < 0 {
				return usagef("--over %s: a time above zero, such as 10s", over)
			}
			cl, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			looks, seen := make([]lagLooks, len(args)), make([]recordTimes, len(args))
			var out []describedGroup
			for last := over == 0; ; last = true {
				out = out[:0]
				for i, name := range args {
					if seen[i] == nil {
						seen[i] = recordTimes{}
					}
					g, err := cl.lookAtGroup(cmd.Context(), name, seen[i])
					if err != nil {
						return err
					}
					g.CatchUp = looks[i].add(c.Now(), g.Lag)
					out = append(out, g)
				}
				if last {
					break
				}
				select {
				case <-cmd.Context().Done():
					return cmd.Context().Err()
				case <-time.After(over):
				}
			}
			if c.json() {
				return writeJSON(c.Stdout, out)
			}
			for i, g := range out {
				if i > 0 {
					fmt.Fprintln(c.Stdout)
				}
				if err := g.write(c.Stdout); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&over, "over", 0, "look twice, so long apart, to tell when the group will have caught up")
	return cmd
}

func newGroupWatch(c *command) *cobra.Command {
	var every time.Duration
	cmd := &cobra.Command{
		Use: "watch GROUP", Short: "Show a group again and again, until Ctrl-C", Args: exactly(1, "one group"),
		Long: "Show what group describe shows, again and again, until Ctrl-C.\n\n" +
			"On a terminal each picture replaces the one before; elsewhere they follow one another.",
		Example:           "  moldau group watch billing\n  moldau group watch billing --every 10s -o json",
		ValidArgsFunction: c.completeGroups(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if every < 100*time.Millisecond {
				return usagef("--every %s: at least 100ms", every)
			}
			return c.watchGroup(cmd.Context(), args[0], every)
		},
	}
	cmd.Flags().DurationVar(&every, "every", 2*time.Second, "how long to wait between two pictures")
	return cmd
}

// clearScreen moves to the top left and erases what is below.
const clearScreen = "\x1b[H\x1b[2J"

func (c *command) watchGroup(ctx context.Context, name string, every time.Duration) error {
	cl, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	before := int64(-1)
	seen := recordTimes{}
	var looks lagLooks
	for first := true; ; first = false {
		g, err := cl.lookAtGroup(ctx, name, seen)
		if err != nil {
			return err
		}
		g.CatchUp = looks.add(c.Now(), g.Lag)
		if err := c.writePicture(g, first, before); err != nil {
			return err
		}
		before = g.Lag
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
}

func (c *command) writePicture(g describedGroup, first bool, before int64) error {
	if c.json() {
		return writeJSON(c.Stdout, g)
	}
	var b strings.Builder
	switch {
	case c.StdoutIsTerminal:
		b.WriteString(clearScreen)
	case !first:
		b.WriteByte('\n')
	}
	change := ""
	if !first {
		change = fmt.Sprintf("  lag %+d", g.Lag-before)
	}
	fmt.Fprintf(&b, "%s%s\n", c.Now().Format("15:04:05"), change)
	if err := g.write(&b); err != nil {
		return err
	}
	_, err := io.WriteString(c.Stdout, b.String())
	return err
}

// describeGroup gathers all about one group, which may be of the classic or the consumer type.
func (cl *client) describeGroup(ctx context.Context, name string) (describedGroup, error) {
	return cl.lookAtGroup(ctx, name, nil)
}

// lookAtGroup is describeGroup that asks only for timestamps which it has not seen.
func (cl *client) lookAtGroup(ctx context.Context, name string, seen recordTimes) (describedGroup, error) {
	g, err := cl.groupMembers(ctx, name)
	if err != nil {
		return g, err
	}
	committed, err := cl.committed(ctx, name)
	if err != nil {
		return g, err
	}
	cl.addOffsets(ctx, &g, committed, seen)
	return g, ctx.Err()
}

// groupMembers asks for a group as a classic one, and if it is none of those as one of
// the consumer protocol.
func (cl *client) groupMembers(ctx context.Context, name string) (describedGroup, error) {
	classic, err := ask(ctx, cl, name, func(ctx context.Context) (kadm.DescribedGroups, error) {
		return cl.adm.DescribeGroups(ctx, name)
	})
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return describedGroup{}, err
	}
	d, found := classic[name]
	if found && d.Err == nil && d.State != "Dead" {
		return classicGroup(d), nil
	}
	if found && d.Err != nil && !errors.Is(d.Err, kerr.GroupIDNotFound) {
		return describedGroup{}, explain(d.Err, d.ErrMessage, name)
	}
	modern, err := ask(ctx, cl, name, func(ctx context.Context) (kadm.DescribedConsumerGroups, error) {
		return cl.adm.DescribeConsumerGroups(ctx, name)
	})
	if m, ok := modern[name]; ok && err == nil && m.Err == nil {
		return consumerGroup(m), nil
	}
	if ctx.Err() != nil {
		return describedGroup{}, ctx.Err()
	}
	// It is of another type, or there is none of the name.
	listed, err := cl.groups(ctx)
	if err != nil {
		return describedGroup{}, err
	}
	for _, l := range listed {
		if l.Name == name {
			return describedGroup{}, &failure{cause: "this command knows consumer groups only", value: fmt.Sprintf("%s is a %s group", name, strings.ToLower(l.Type)),
				help: "moldau group list shows what there is"}
		}
	}
	return describedGroup{}, cl.unknownGroup(ctx, name)
}

func classicGroup(d kadm.DescribedGroup) describedGroup {
	g := describedGroup{Name: d.Group, Type: "classic", State: d.State, Protocol: d.ProtocolType, Assignor: d.Protocol,
		Coordinator: groupCoordinator{d.Coordinator.NodeID, d.Coordinator.Host, d.Coordinator.Port}, Members: []describedMember{}}
	for _, m := range d.Members {
		row := describedMember{ID: m.MemberID, InstanceID: deref(m.InstanceID), Client: m.ClientID, Host: strings.TrimPrefix(m.ClientHost, "/"), Assigned: []assignedOfTopic{}}
		if a, ok := m.Assigned.AsConsumer(); ok {
			for _, t := range a.Topics {
				row.Assigned = append(row.Assigned, assignedOfTopic{t.Topic, slices.Sorted(slices.Values(t.Partitions))})
			}
		}
		g.Members = append(g.Members, row)
	}
	return g
}

func consumerGroup(d kadm.DescribedConsumerGroup) describedGroup {
	g := describedGroup{Name: d.Group, Type: "consumer", State: d.State, Protocol: "consumer", Assignor: d.AssignorName, Epoch: &d.Epoch,
		Coordinator: groupCoordinator{d.Coordinator.NodeID, d.Coordinator.Host, d.Coordinator.Port}, Members: []describedMember{}}
	for _, m := range d.Members {
		row := describedMember{ID: m.MemberID, InstanceID: deref(m.InstanceID), Client: m.ClientID, Host: strings.TrimPrefix(m.ClientHost, "/"), Rack: deref(m.RackID), Assigned: []assignedOfTopic{}}
		for _, t := range m.Assignment.Sorted() {
			row.Assigned = append(row.Assigned, assignedOfTopic{t.Topic, t.Partitions})
		}
		g.Members = append(g.Members, row)
	}
	return g
}

// addOffsets lists every partition that was committed or is assigned.
func (cl *client) addOffsets(ctx context.Context, g *describedGroup, committed map[string]map[int32]int64, seen recordTimes) {
	rows := map[string]map[int32]*groupOffset{}
	row := func(topic string, p int32) *groupOffset {
		if rows[topic] == nil {
			rows[topic] = map[int32]*groupOffset{}
		}
		if rows[topic][p] == nil {
			rows[topic][p] = &groupOffset{Topic: topic, Partition: p}
		}
		return rows[topic][p]
	}
	for topic, partitions := range committed {
		for p, at := range partitions {
			row(topic, p).Committed = &at
		}
	}
	for _, m := range g.Members {
		for _, t := range m.Assigned {
			for _, p := range t.Partitions {
				r := row(t.Topic, p)
				r.Member, r.Client, r.Host = m.ID, m.Client, m.Host
			}
		}
	}
	var list []*groupOffset
	for _, topic := range sortedKeys(rows) {
		for _, p := range sortedInts(rows[topic]) {
			list = append(list, rows[topic][p])
		}
	}
	cl.fillLag(ctx, list, seen)
	g.Offsets = make([]groupOffset, 0, len(list))
	for _, r := range list {
		g.Offsets = append(g.Offsets, *r)
	}
	g.Lag, g.LagSeconds = sumLag(list)
}

// sumLag is the lag of all partitions whose lag is known, and the largest in seconds.
func sumLag(rows []*groupOffset) (lag int64, seconds *float64) {
	for _, r := range rows {
		if r.Lag != nil {
			lag += *r.Lag
		}
		if r.LagSeconds != nil && (seconds == nil || *r.LagSeconds > *seconds) {
			seconds = r.LagSeconds
		}
	}
	return lag, seconds
}

// lagText is the lag of all partitions together.
func (g describedGroup) lagText() string {
	lag, unknown := plural(g.Lag, "record"), int64(0)
	for _, o := range g.Offsets {
		if o.Lag == nil {
			unknown++
		}
	}
	if unknown > 0 {
		lag += ", not known for " + plural(unknown, "partition")
	}
	if g.Lag > 0 {
		if g.LagSeconds != nil && *g.LagSeconds > 0 {
			lag += ", the oldest of " + ageText(g.LagSeconds) + " ago"
		}
		if g.CatchUp != nil {
			lag += ", caught up in " + ageText(g.CatchUp)
		}
	}
	return lag
}

func (g describedGroup) write(w io.Writer) error {
	kind := g.Type
	if g.Protocol != "" && g.Protocol != "consumer" {
		kind += ", " + g.Protocol
	}
	fmt.Fprintf(w, "Group        %s (%s)\n", printable(g.Name), kind)
	members := plural(int64(len(g.Members)), "member")
	if g.Assignor != "" {
		members += ", assignor " + printable(g.Assignor)
	}
	fmt.Fprintf(w, "State        %s, %s\n", printable(g.State), members)
	fmt.Fprintf(w, "Coordinator  broker %d (%s:%d)\n", g.Coordinator.ID, printable(g.Coordinator.Host), g.Coordinator.Port)
	fmt.Fprintf(w, "Lag          %s\n", g.lagText())
	if len(g.Members) > 0 {
		t := newTable("CLIENT", "HOST", "MEMBER", "PARTITIONS")
		for _, m := range g.Members {
			id := m.ID
			if m.InstanceID != "" {
				id = m.InstanceID + " (static)"
			}
			t.add(orDash(m.Client), orDash(m.Host), orDash(id), assignedText(m.Assigned))
		}
		if err := t.write(w); err != nil {
			return err
		}
	}
	if len(g.Offsets) == 0 {
		_, err := fmt.Fprintln(w, "Nothing is committed, and no partition is assigned.")
		return err
	}
	t := newTable("TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "AGE", "STATE", "CLIENT")
	for _, o := range g.Offsets {
		t.add(printable(o.Topic), o.Partition, offsetText(o.Committed), offsetText(o.End), offsetText(o.Lag), ageText(o.LagSeconds), o.state(), orDash(o.Client))
	}
	if err := t.write(w); err != nil {
		return err
	}
	for _, o := range g.Offsets {
		if o.LagProblem != "" {
			_, err := fmt.Fprintf(w, "AGE is not known of %s partition %d: %s\n", printable(o.Topic), o.Partition, printable(o.LagProblem))
			return err
		}
	}
	return nil
}

// state says whether a consumer that begins at the committed offset finds it.
func (o groupOffset) state() string {
	switch {
	case o.Committed == nil:
		return "not committed"
	case o.End == nil:
		return "partition unknown"
	case o.Start != nil && *o.Committed < *o.Start:
		return "expired"
	case *o.Committed > *o.End:
		return "beyond the end"
	}
	return "ok"
}

func assignedText(assigned []assignedOfTopic) string {
	if len(assigned) == 0 {
		return "none"
	}
	parts := make([]string, len(assigned))
	for i, a := range assigned {
		parts[i] = printable(a.Topic) + ":" + intList(a.Partitions)
	}
	return strings.Join(parts, " ")
}
