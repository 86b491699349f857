package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"moldau/internal/config"
	"moldau/internal/wire"
)

func newTopic(c *command) *cobra.Command {
	group := &cobra.Command{Use: "topic", Short: "Create, list, describe, alter and delete topics",
		Example: "  moldau topic create orders --partitions 3\n  moldau topic describe orders"}
	asGroup(group)
	group.AddCommand(newTopicCreate(c), newTopicList(c), newTopicDescribe(c), newTopicAlter(c), newTopicDelete(c))
	return group
}

func newTopicCreate(c *command) *cobra.Command {
	var (
		partitions  int32
		replication int16
		sets        []string
		ifNotExists bool
	)
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create a topic", Args: exactly(1, "one topic"),
		Example: "  moldau topic create orders\n" +
			"  moldau topic create orders --partitions 12 --replication-factor 3 --set cleanup.policy=compact",
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("partitions") && partitions < 1 {
				return usagef("--partitions %d: a topic has at least 1", partitions)
			}
			if cmd.Flags().Changed("replication-factor") && replication < 1 {
				return usagef("--replication-factor %d: a partition has at least 1 replica", replication)
			}
			changes, err := parseSettings(sets, nil)
			if err != nil {
				return err
			}
			return c.createTopic(cmd.Context(), args[0], partitions, replication, changes, ifNotExists)
		},
	}
	f := cmd.Flags()
	f.Int32VarP(&partitions, "partitions", "p", -1, "how many partitions; -1 leaves it to the broker's num.partitions")
	f.Int16VarP(&replication, "replication-factor", "r", -1, "how many replicas; -1 leaves it to the broker's default.replication.factor")
	f.StringArrayVar(&sets, "set", nil, "give the topic a setting, `KEY=VALUE`; may be repeated")
	f.BoolVar(&ifNotExists, "if-not-exists", false, "succeed when the topic exists already")
	return cmd
}

type createdJSON struct {
	Name              string `json:"name"`
	ID                string `json:"id"`
	Partitions        int32  `json:"partitions"`
	ReplicationFactor int16  `json:"replicationFactor"`
	Created           bool   `json:"created"`
}

func (c *command) createTopic(ctx context.Context, name string, partitions int32, replication int16, changes []kadm.AlterConfig, ifNotExists bool) error {
	configs := make(map[string]*string, len(changes))
	for _, ch := range changes {
		configs[ch.Name] = ch.Value
	}
	cl, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	responses, err := ask(ctx, cl, name, func(ctx context.Context) (kadm.CreateTopicResponses, error) {
		return cl.adm.CreateTopics(ctx, partitions, replication, configs, name)
	})
	if err != nil {
		return err
	}
	r := responses[name]
	if errors.Is(r.Err, kerr.TopicAlreadyExists) && ifNotExists {
		if c.json() {
			return writeJSON(c.Stdout, createdJSON{Name: name})
		}
		c.note("topic %s exists already", name)
		return nil
	}
	if errors.Is(r.Err, kerr.InvalidConfig) {
		if err := misspelt(config.TopicScope, changes); err != nil {
			return err
		}
	}
	if r.Err != nil {
		return explain(r.Err, r.ErrMessage, name)
	}
	if err := cl.awaitTopic(ctx, name); err != nil {
		return err
	}
	if c.json() {
		return writeJSON(c.Stdout, createdJSON{name, wire.UUID(r.ID).String(), r.NumPartitions, r.ReplicationFactor, true})
	}
	_, err = fmt.Fprintf(c.Stdout, "created topic %s with %s, replication factor %d\n", name, plural(int64(r.NumPartitions), "partition"), r.ReplicationFactor)
	return err
}

// awaitTopic waits until the broker shows the topic with its leaders. Kafka answers a creation
// before its brokers know of the topic, and the next command would not find it.
func (cl *client) awaitTopic(ctx context.Context, name string) error {
	_, err := ask(ctx, cl, name, func(ctx context.Context) (struct{}, error) {
		for {
			details, err := cl.adm.ListTopics(ctx, name)
			if err != nil {
				return struct{}{}, err
			}
			if d := details[name]; d.Err == nil && len(d.Partitions) > 0 && !slices.ContainsFunc(d.Partitions.Sorted(), func(p kadm.PartitionDetail) bool { return p.Leader < 0 }) {
				return struct{}{}, nil
			}
			select {
			case <-ctx.Done():
				return struct{}{}, ctx.Err()
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	return err
}

func newTopicList(c *command) *cobra.Command {
	var internal bool
	cmd := &cobra.Command{
		Use: "list", Short: "List topics", Args: exactly(0, ""), Aliases: []string{"ls"},
		Example: "  moldau topic list\n  moldau topic list --internal -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			details, err := cl.topics(cmd.Context())
			if err != nil {
				return err
			}
			return c.printTopics(details, internal)
		},
	}
	cmd.Flags().BoolVar(&internal, "internal", false, "the cluster's own topics too")
	return cmd
}

type topicJSON struct {
	Name              string `json:"name"`
	ID                string `json:"id"`
	Partitions        int    `json:"partitions"`
	ReplicationFactor int    `json:"replicationFactor"`
	Internal          bool   `json:"internal"`
}

func (c *command) printTopics(details []kadm.TopicDetail, internal bool) error {
	list := []topicJSON{}
	t := newTable("TOPIC", "PARTITIONS", "REPLICATION")
	for _, d := range details {
		if d.IsInternal && !internal {
			continue
		}
		row := topicJSON{d.Topic, wire.UUID(d.ID).String(), len(d.Partitions), d.Partitions.NumReplicas(), d.IsInternal}
		list = append(list, row)
		t.add(printable(row.Name), row.Partitions, row.ReplicationFactor)
	}
	switch {
	case c.json():
		return writeJSON(c.Stdout, list)
	case len(list) == 0:
		c.note("there are no topics: moldau topic create NAME")
		return nil
	}
	return t.write(c.Stdout)
}

func newTopicAlter(c *command) *cobra.Command {
	var (
		partitions   int
		sets, unsets []string
	)
	cmd := &cobra.Command{
		Use: "alter NAME", Short: "Add partitions to a topic or change its settings", Args: exactly(1, "one topic"),
		Long: "Add partitions to a topic or change its settings.\n\n" +
			"Partitions can be added, never taken away. Keys go to other partitions afterwards.",
		Example:           "  moldau topic alter orders --partitions 6\n  moldau topic alter orders --set retention.ms=3600000 --unset cleanup.policy",
		ValidArgsFunction: c.completeTopics(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			changes, err := parseSettings(sets, unsets)
			if err != nil {
				return err
			}
			grow := cmd.Flags().Changed("partitions")
			switch {
			case grow && partitions < 1:
				return usagef("--partitions %d: a topic has at least 1", partitions)
			case !grow && len(changes) == 0:
				return usagef("nothing to change: give --partitions N, --set KEY=VALUE or --unset KEY")
			}
			return c.alterTopic(cmd.Context(), args[0], partitions, changes)
		},
	}
	f := cmd.Flags()
	f.IntVarP(&partitions, "partitions", "p", 0, "how many partitions the topic shall have")
	f.StringArrayVar(&sets, "set", nil, "give a setting a value, `KEY=VALUE`; may be repeated")
	f.StringArrayVar(&unsets, "unset", nil, "return the setting `KEY` to its default; may be repeated")
	return cmd
}

// alterTopic has the settings checked before it adds partitions, which cannot be undone.
func (c *command) alterTopic(ctx context.Context, name string, partitions int, changes []kadm.AlterConfig) error {
	cl, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	if len(changes) > 0 {
		err := alterConfigs(ctx, cl, config.TopicScope, changes, name, func(ctx context.Context) (kadm.AlterConfigsResponses, error) {
			return cl.adm.ValidateAlterTopicConfigs(ctx, changes, name)
		})
		if err != nil {
			return err
		}
	}
	if partitions > 0 {
		responses, err := ask(ctx, cl, name, func(ctx context.Context) (kadm.CreatePartitionsResponses, error) {
			return cl.adm.UpdatePartitions(ctx, partitions, name)
		})
		if err != nil {
			return err
		}
		if r := responses[name]; r.Err != nil {
			return explain(r.Err, r.ErrMessage, name)
		}
	}
	if len(changes) > 0 {
		err := alterConfigs(ctx, cl, config.TopicScope, changes, name, func(ctx context.Context) (kadm.AlterConfigsResponses, error) {
			return cl.adm.AlterTopicConfigs(ctx, changes, name)
		})
		if err != nil {
			return err
		}
	}
	return c.altered("topic " + name)
}

func newTopicDelete(c *command) *cobra.Command {
	var yes, ifExists bool
	cmd := &cobra.Command{
		Use: "delete NAME...", Short: "Delete topics with all their records", Args: atLeast(1, "one or more topics"), Aliases: []string{"rm"},
		Long: "Delete topics with all their records. This cannot be undone.\n\n" +
			"On a terminal the command asks first. Elsewhere it wants --yes.",
		Example:           "  moldau topic delete orders\n  moldau topic delete orders payments --yes --if-exists",
		ValidArgsFunction: c.completeTopics(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.confirm(yes, "delete "+strings.Join(args, ", ")+" with all records"); err != nil {
				return err
			}
			return c.deleteTopics(cmd.Context(), args, ifExists)
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&ifExists, "if-exists", false, "succeed when a topic does not exist")
	return cmd
}

func (c *command) deleteTopics(ctx context.Context, names []string, ifExists bool) error {
	cl, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	responses, err := ask(ctx, cl, strings.Join(names, ", "), func(ctx context.Context) (kadm.DeleteTopicResponses, error) {
		return cl.adm.DeleteTopics(ctx, names...)
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
		case ifExists && errors.Is(r.Err, kerr.UnknownTopicOrPartition):
		case errors.Is(r.Err, kerr.UnknownTopicOrPartition):
			first = errors.Join(first, &failure{cause: "topic does not exist", value: name, help: "moldau topic list", err: r.Err})
		default:
			first = errors.Join(first, explain(r.Err, r.ErrMessage, name))
		}
	}
	if c.json() {
		err = writeJSON(c.Stdout, map[string][]string{"deleted": deleted})
	} else if len(deleted) > 0 {
		_, err = fmt.Fprintf(c.Stdout, "deleted %s\n", strings.Join(deleted, ", "))
	}
	return errors.Join(first, err)
}

// confirm asks before something that cannot be undone.
func (c *command) confirm(yes bool, what string) error {
	if yes {
		return nil
	}
	if !c.StdinIsTerminal {
		return usagef("this would %s: say --yes to do so without a question", what)
	}
	fmt.Fprintf(c.Stderr, "%s? [y/N] ", upperFirst(what))
	answer, err := bufio.NewReader(c.Stdin).ReadString('\n')
	if a := strings.ToLower(strings.TrimSpace(answer)); err != nil || a != "y" && a != "yes" {
		return &failure{cause: "nothing was done"}
	}
	return nil
}

func upperFirst(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
