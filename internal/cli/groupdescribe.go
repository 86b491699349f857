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
	Lag         int64             `json:"lag"` // of all partitions whose lag is known
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
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Committed *int64 `json:"committedOffset"` // null: nothing was committed
	Start     *int64 `json:"startOffset"`     // null: the leader did not say
	End       *int64 `json:"endOffset"`
	Lag       *int64 `json:"lag"`
	Member    string `json:"memberId,omitempty"` // who has the partition
	Client    string `json:"clientId,omitempty"`
	Host      string `json:"host,omitempty"`
}

func newGroupDescribe(c *command) *cobra.Command {
	return &cobra.Command{
		Use: "describe GROUP...", Short: "Show state, members, committed offsets and lag of groups", Args: atLeast(1, "one or more groups"),
		Long: "Show state, members, committed offsets and lag of groups.\n\n" +
			"Lag is the log end offset less the committed offset. A partition without a committed offset is\n" +
			"shown where a member has it. STATE says where the committed offset lies: behind the first\n" +
			"record there is (expired) the consumer goes where its auto.offset.reset says.",
		Example:           "  moldau group describe billing\n  moldau group describe billing -o json",
		ValidArgsFunction: c.completeGroups(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			out := make([]describedGroup, 0, len(args))
			for _, name := range args {
				g, err := cl.describeGroup(cmd.Context(), name)
				if err != nil {
					return err
				}
				out = append(out, g)
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
	for first := true; ; first = false {
		g, err := cl.describeGroup(ctx, name)
		if err != nil {
			return err
		}
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
	g, err := cl.groupMembers(ctx, name)
	if err != nil {
		return g, err
	}
	committed, err := cl.committed(ctx, name)
	if err != nil {
		return g, err
	}
	cl.addOffsets(ctx, &g, committed)
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
func (cl *client) addOffsets(ctx context.Context, g *describedGroup, committed map[string]map[int32]int64) {
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
	g.Offsets = []groupOffset{}
	topics := sortedKeys(rows)
	if len(topics) == 0 {
		return
	}
	starts := cl.offsets(ctx, topics, cl.adm.ListStartOffsets)
	ends := cl.offsets(ctx, topics, cl.adm.ListEndOffsets)
	for _, topic := range topics {
		for _, p := range sortedInts(rows[topic]) {
			r := rows[topic][p]
			r.Start, r.End = known(starts, topic, p), known(ends, topic, p)
			if r.Committed != nil && r.End != nil {
				lag := max(0, *r.End-*r.Committed)
				r.Lag = &lag
				g.Lag += lag
			}
			g.Offsets = append(g.Offsets, *r)
		}
	}
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
	t := newTable("TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "STATE", "CLIENT")
	for _, o := range g.Offsets {
		t.add(printable(o.Topic), o.Partition, offsetText(o.Committed), offsetText(o.End), offsetText(o.Lag), o.state(), orDash(o.Client))
	}
	return t.write(w)
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
