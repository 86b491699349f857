package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func newGroup(c *command) *cobra.Command {
	group := &cobra.Command{Use: "group", Short: "List, describe, watch, explain, move and delete consumer groups",
		Example: "  moldau group describe billing\n  moldau group explain billing\n  moldau group seek billing --to start --dry-run"}
	asGroup(group)
	group.AddCommand(newGroupList(c), newGroupDescribe(c), newGroupWatch(c), newGroupExplain(c), newGroupSeek(c), newGroupDelete(c), newGroupDeleteOffsets(c))
	return group
}

type listedGroup struct {
	Name         string `json:"name"`
	Type         string `json:"type"` // "" where the broker is too old to say
	State        string `json:"state"`
	ProtocolType string `json:"protocolType"`
	Coordinator  int32  `json:"coordinator"`
	// With --lag:
	Lag        *int64   `json:"lag,omitempty"`
	LagSeconds *float64 `json:"lagSeconds,omitempty"` // null: it is not known
}

func newGroupList(c *command) *cobra.Command {
	var states []string
	var lag bool
	cmd := &cobra.Command{
		Use: "list", Short: "List groups of all kinds", Args: exactly(0, ""), Aliases: []string{"ls"},
		Long:    "List groups of all kinds. With --lag their lag in records, and the age of the oldest record that\na group has not read; the command then asks for the offsets of each group, and reads such records.",
		Example: "  moldau group list\n  moldau group list --lag\n  moldau group list --state Empty -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			groups, err := cl.groups(cmd.Context(), states...)
			if err != nil {
				return err
			}
			if lag {
				if err := cl.addLag(cmd.Context(), groups); err != nil {
					return err
				}
			}
			if c.json() {
				return writeJSON(c.Stdout, groups)
			}
			if len(groups) == 0 {
				c.note("there are no groups: a consumer makes one when it joins")
				return nil
			}
			if lag {
				t := newTable("GROUP", "TYPE", "STATE", "COORDINATOR", "LAG", "AGE")
				for _, g := range groups {
					t.add(printable(g.Name), orDash(g.Type), orDash(g.State), g.Coordinator, offsetText(g.Lag), ageText(g.LagSeconds))
				}
				return t.write(c.Stdout)
			}
			t := newTable("GROUP", "TYPE", "STATE", "COORDINATOR")
			for _, g := range groups {
				t.add(printable(g.Name), orDash(g.Type), orDash(g.State), g.Coordinator)
			}
			return t.write(c.Stdout)
		},
	}
	cmd.Flags().BoolVar(&lag, "lag", false, "show how far each group is behind")
	cmd.Flags().StringSliceVar(&states, "state", nil, "only groups in these states, `STATE,...`, such as Stable or Empty")
	completeWith(cmd, "state", "Empty", "Stable", "Assigning", "Reconciling", "PreparingRebalance", "CompletingRebalance", "Dead")
	return cmd
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return printable(s)
}

// groups asks every broker for the groups it coordinates, and sorts them by name.
func (cl *client) groups(ctx context.Context, states ...string) ([]listedGroup, error) {
	req := kmsg.NewPtrListGroupsRequest()
	req.StatesFilter = states
	limited, cancel := context.WithTimeout(ctx, cl.timeout)
	defer cancel()
	out := []listedGroup{}
	for _, shard := range cl.RequestSharded(limited, req) {
		err := shard.Err
		if err == nil {
			err = kerr.ErrorForCode(shard.Resp.(*kmsg.ListGroupsResponse).ErrorCode)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			return nil, cl.explain(err, "", fmt.Sprintf("groups of broker %d", shard.Meta.NodeID))
		}
		for _, g := range shard.Resp.(*kmsg.ListGroupsResponse).Groups {
			out = append(out, listedGroup{Name: g.Group, Type: g.GroupType, State: g.GroupState, ProtocolType: g.ProtocolType, Coordinator: shard.Meta.NodeID})
		}
	}
	slices.SortFunc(out, func(a, b listedGroup) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// addLag finds out how far groups are behind. Of one that cannot be asked for its offsets it is not known.
func (cl *client) addLag(ctx context.Context, groups []listedGroup) error {
	rows := make([][]*groupOffset, len(groups))
	var all []*groupOffset
	for i, g := range groups {
		committed, err := cl.committed(ctx, g.Name)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			continue
		}
		for topic, partitions := range committed {
			for p, at := range partitions {
				rows[i] = append(rows[i], &groupOffset{Topic: topic, Partition: p, Committed: &at})
			}
		}
		all = append(all, rows[i]...)
	}
	cl.fillLag(ctx, all, nil)
	for i := range groups {
		if len(rows[i]) > 0 {
			lag, seconds := sumLag(rows[i])
			groups[i].Lag, groups[i].LagSeconds = &lag, seconds
		}
	}
	return ctx.Err()
}

// unknownGroup is the error for a group that is not there, with the one that may be meant.
func (cl *client) unknownGroup(ctx context.Context, name string) error {
	f := &failure{cause: "group does not exist", value: name, help: "moldau group list", err: kerr.GroupIDNotFound}
	groups, err := cl.groups(ctx)
	if err != nil {
		return f
	}
	names := make([]string, len(groups))
	for i, g := range groups {
		names[i] = g.Name
	}
	if guess := nearestName(name, names); guess != "" {
		f.help = "did you mean " + guess + "?"
	}
	return f
}

// completeGroups completes group names from the broker, quickly or not at all.
func (c *command) completeGroups(limit int) cobra.CompletionFunc {
	return c.completeFromBroker(limit, func(ctx context.Context, cl *client) []string {
		groups, err := cl.groups(ctx)
		if err != nil {
			return nil
		}
		names := make([]string, len(groups))
		for i, g := range groups {
			names[i] = g.Name
		}
		return names
	})
}

func newGroupDelete(c *command) *cobra.Command {
	var yes, ifExists bool
	cmd := &cobra.Command{
		Use: "delete GROUP...", Short: "Delete empty groups with their committed offsets", Args: atLeast(1, "one or more groups"), Aliases: []string{"rm"},
		Long: "Delete empty groups with their committed offsets. This cannot be undone.\n\n" +
			"A consumer that joins later under the name begins where its auto.offset.reset says.\n" +
			"On a terminal the command asks first. Elsewhere it wants --yes.",
		Example:           "  moldau group delete billing\n  moldau group delete billing audit --yes --if-exists",
		ValidArgsFunction: c.completeGroups(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.confirm(yes, "delete "+strings.Join(args, ", ")+" with all committed offsets"); err != nil {
				return err
			}
			return c.deleteGroups(cmd.Context(), args, ifExists)
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&ifExists, "if-exists", false, "succeed when a group does not exist")
	return cmd
}

func (c *command) deleteGroups(ctx context.Context, names []string, ifExists bool) error {
	cl, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	responses, err := ask(ctx, cl, strings.Join(names, ", "), func(ctx context.Context) (kadm.DeleteGroupResponses, error) {
		return cl.adm.DeleteGroups(ctx, names...)
	})
	if err != nil {
		return err
	}
	var first error
	deleted := []string{}
	for _, name := range names {
		r := responses[name]
		switch {
		case r.Err == nil:
			deleted = append(deleted, name)
		case ifExists && errors.Is(r.Err, kerr.GroupIDNotFound):
		case errors.Is(r.Err, kerr.GroupIDNotFound):
			first = errors.Join(first, cl.unknownGroup(ctx, name))
		default:
			first = errors.Join(first, explain(r.Err, "", name))
		}
	}
	if c.json() {
		err = writeJSON(c.Stdout, map[string][]string{"deleted": deleted})
	} else if len(deleted) > 0 {
		_, err = fmt.Fprintf(c.Stdout, "deleted %s\n", strings.Join(deleted, ", "))
	}
	return errors.Join(first, err)
}

func newGroupDeleteOffsets(c *command) *cobra.Command {
	var topics []string
	var yes bool
	cmd := &cobra.Command{
		Use: "delete-offsets GROUP", Short: "Forget a group's committed offsets of topics it no longer reads", Args: exactly(1, "one group"),
		Long: "Forget a group's committed offsets of topics it no longer reads. This cannot be undone.\n\n" +
			"The broker refuses topics to which a member is subscribed.",
		Example:           "  moldau group delete-offsets billing --topic old-orders --yes\n  moldau group delete-offsets billing --topic orders:0,1",
		ValidArgsFunction: c.completeGroups(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			wanted, err := parseTopicPartitions(topics)
			if err != nil {
				return err
			}
			if len(wanted) == 0 {
				return usagef("say which offsets: --topic TOPIC[:PARTITION,...]")
			}
			if err := c.confirm(yes, "delete the offsets of "+strings.Join(topics, " ")+" in group "+args[0]); err != nil {
				return err
			}
			return c.deleteOffsets(cmd.Context(), args[0], wanted)
		},
	}
	cmd.Flags().StringArrayVarP(&topics, "topic", "t", nil, "`TOPIC[:PARTITION,...]`; may be repeated")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	completeFlagFrom(cmd, "topic", c.completeTopics(0))
	return cmd
}

func (c *command) deleteOffsets(ctx context.Context, group string, wanted topicPartitions) error {
	cl, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	committed, err := cl.committed(ctx, group)
	if err != nil {
		return err
	}
	set := kadm.TopicsSet{}
	for _, topic := range sortedKeys(wanted) {
		have := committed[topic]
		if len(have) == 0 {
			return &failure{cause: "the group has no committed offset of the topic", value: group + ", " + topic, help: "moldau group describe " + group}
		}
		for p := range have {
			if len(wanted[topic]) == 0 || slices.Contains(wanted[topic], p) {
				set.Add(topic, p)
			}
		}
	}
	responses, err := ask(ctx, cl, group, func(ctx context.Context) (kadm.DeleteOffsetsResponses, error) {
		return cl.adm.DeleteOffsets(ctx, group, set)
	})
	if err != nil {
		return err
	}
	var first error
	deleted := []string{}
	for _, topic := range sortedKeys(responses) {
		for p, err := range responses[topic] {
			where := topic + ":" + strconv.Itoa(int(p))
			if err != nil {
				first = cmpOr(first, explain(err, "", join(group, where)))
				continue
			}
			deleted = append(deleted, where)
		}
	}
	slices.Sort(deleted)
	if c.json() {
		err = writeJSON(c.Stdout, map[string][]string{"deleted": deleted})
	} else if len(deleted) > 0 {
		_, err = fmt.Fprintf(c.Stdout, "deleted the committed offsets of %s\n", strings.Join(deleted, ", "))
	}
	return errors.Join(first, err)
}

// topicPartitions are partitions by topic; an empty list is all of the topic.
type topicPartitions map[string][]int32

// parseTopicPartitions reads TOPIC or TOPIC:PARTITION,... A topic's name has no colon.
func parseTopicPartitions(args []string) (topicPartitions, error) {
	out := topicPartitions{}
	for _, arg := range args {
		topic, list, chosen := strings.Cut(arg, ":")
		if topic == "" || chosen && list == "" {
			return nil, usagef("--topic %q: write TOPIC or TOPIC:0,1,2", arg)
		}
		if _, twice := out[topic]; twice {
			return nil, usagef("--topic %s is given twice: name its partitions in one", topic)
		}
		out[topic] = nil
		if !chosen {
			continue
		}
		for p := range strings.SplitSeq(list, ",") {
			n, err := strconv.ParseInt(p, 10, 32)
			if err != nil || n < 0 {
				return nil, usagef("--topic %q: %q is no partition: a whole number from 0 on", arg, p)
			}
			out[topic] = append(out[topic], int32(n))
		}
	}
	return out, nil
}

// committed returns what the group has committed, without partitions it has not.
func (cl *client) committed(ctx context.Context, group string) (map[string]map[int32]int64, error) {
	fetched, err := ask(ctx, cl, group, func(ctx context.Context) (kadm.OffsetResponses, error) {
		return cl.adm.FetchOffsets(ctx, group)
	})
	out := map[string]map[int32]int64{}
	if errors.Is(err, kerr.GroupIDNotFound) {
		return out, nil
	}
	if err != nil {
		return nil, err
	}
	for topic, partitions := range fetched {
		for p, o := range partitions {
			if o.Err != nil {
				return nil, explain(o.Err, "", fmt.Sprintf("%s, %s partition %d", group, topic, p))
			}
			if o.At < 0 {
				continue
			}
			if out[topic] == nil {
				out[topic] = map[int32]int64{}
			}
			out[topic][p] = o.At
		}
	}
	return out, nil
}
