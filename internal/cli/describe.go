package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

type describedTopic struct {
	Name              string               `json:"name"`
	ID                string               `json:"id"`
	Internal          bool                 `json:"internal"`
	ReplicationFactor int                  `json:"replicationFactor"`
	Durability        string               `json:"durability"`
	Configs           map[string]string    `json:"configs"` // what was set for this topic
	Partitions        []describedPartition `json:"partitions"`
}

type describedPartition struct {
	Partition   int32   `json:"partition"`
	Leader      int32   `json:"leader"` // -1: none
	LeaderEpoch int32   `json:"leaderEpoch"`
	Replicas    []int32 `json:"replicas"`
	ISR         []int32 `json:"isr"`
	Offline     []int32 `json:"offlineReplicas"`
	Start       *int64  `json:"startOffset"` // null: the leader did not say
	End         *int64  `json:"endOffset"`
	Error       string  `json:"error,omitempty"`
}

func newTopicDescribe(c *command) *cobra.Command {
	return &cobra.Command{
		Use: "describe [NAME...]", Short: "Show partitions, offsets, settings and durability of topics",
		Example:           "  moldau topic describe orders\n  moldau topic describe -o json",
		ValidArgsFunction: c.completeTopics(0),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			topics, err := cl.describe(cmd.Context(), args)
			if err != nil {
				return err
			}
			if c.json() {
				return writeJSON(c.Stdout, topics)
			}
			for i, t := range topics {
				if i > 0 {
					fmt.Fprintln(c.Stdout)
				}
				if err := t.write(c.Stdout); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// describe gathers all about the named topics; with no name, about all that are not internal.
func (cl *client) describe(ctx context.Context, names []string) ([]describedTopic, error) {
	details, err := cl.topics(ctx, names...)
	if err != nil {
		return nil, err
	}
	out := []describedTopic{}
	var listed []string
	for _, d := range details {
		if len(names) == 0 && d.IsInternal {
			continue
		}
		listed = append(listed, d.Topic)
		t := describedTopic{Name: d.Topic, ID: wire.UUID(d.ID).String(), Internal: d.IsInternal, ReplicationFactor: d.Partitions.NumReplicas(), Configs: map[string]string{}}
		for _, p := range d.Partitions.Sorted() {
			row := describedPartition{Partition: p.Partition, Leader: p.Leader, LeaderEpoch: p.LeaderEpoch, Replicas: p.Replicas, ISR: p.ISR, Offline: append([]int32{}, p.OfflineReplicas...)}
			if p.Err != nil {
				row.Error = codeName(p.Err)
			}
			t.Partitions = append(t.Partitions, row)
		}
		if err := cl.addConfigs(ctx, &t); err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	if len(listed) == 0 {
		return out, nil
	}
	starts := cl.offsets(ctx, listed, cl.adm.ListStartOffsets)
	ends := cl.offsets(ctx, listed, cl.adm.ListEndOffsets)
	for _, t := range out {
		for i := range t.Partitions {
			p := &t.Partitions[i]
			p.Start, p.End = known(starts, t.Name, p.Partition), known(ends, t.Name, p.Partition)
		}
	}
	return out, ctx.Err()
}

// offsets asks the leaders. What some of them do not answer is missing from the
// result: describing a cluster in trouble must not fail because of the trouble.
func (cl *client) offsets(ctx context.Context, topics []string, list func(context.Context, ...string) (kadm.ListedOffsets, error)) kadm.ListedOffsets {
	listed, err := ask(ctx, cl, "", func(ctx context.Context) (kadm.ListedOffsets, error) { return list(ctx, topics...) })
	if err != nil && listed == nil {
		return kadm.ListedOffsets{}
	}
	return listed
}

func known(listed kadm.ListedOffsets, topic string, partition int32) *int64 {
	o, ok := listed.Lookup(topic, partition)
	if !ok || o.Err != nil || o.Offset < 0 {
		return nil
	}
	return &o.Offset
}

func (cl *client) addConfigs(ctx context.Context, t *describedTopic) error {
	configs, err := cl.configs(ctx, kmsg.ConfigResourceTypeTopic, t.Name, false)
	if errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Durability = "not known: this user may not see the settings"
		return nil
	}
	if err != nil {
		return err
	}
	values := map[string]string{}
	for _, r := range configs {
		values[r.Name] = deref(r.Value)
		if r.Source == kmsg.ConfigSourceDynamicTopicConfig {
			t.Configs[r.Name] = valueText(configJSON{Value: r.Value, Sensitive: r.IsSensitive})
		}
	}
	t.Durability = durability(values)
	return nil
}

// durability says in words what the flush policy means for an acknowledged record.
func durability(configs map[string]string) string {
	messages, err := strconv.ParseInt(configs["flush.messages"], 10, 64)
	if err != nil {
		messages = math.MaxInt64
	}
	ms, err := strconv.ParseInt(configs["flush.ms"], 10, 64)
	if err != nil {
		ms = math.MaxInt64
	}
	every := ""
	if ms < math.MaxInt64/2 {
		every = fmt.Sprintf("every %s (flush.ms=%d)", time.Duration(min(ms, math.MaxInt64/int64(time.Millisecond)))*time.Millisecond, ms)
	}
	switch {
	case messages == 1:
		return "an acknowledged record is on the disk (flush.messages=1)"
	case messages < math.MaxInt64/2 && every != "":
		return fmt.Sprintf("flushed to disk every %d records (flush.messages=%d) and %s", messages, messages, every)
	case messages < math.MaxInt64/2:
		return fmt.Sprintf("flushed to disk every %d records (flush.messages=%d)", messages, messages)
	case every != "":
		return "flushed to disk " + every
	}
	return "page cache of the in-sync replicas only, no flush policy (flush.messages and flush.ms are not set)"
}

func (t describedTopic) write(w io.Writer) error {
	name := t.Name
	if t.Internal {
		name += " (internal)"
	}
	fmt.Fprintf(w, "Topic        %s\n", printable(name))
	fmt.Fprintf(w, "Id           %s\n", t.ID)
	fmt.Fprintf(w, "Partitions   %d, replication factor %d\n", len(t.Partitions), t.ReplicationFactor)
	fmt.Fprintf(w, "Durability   %s\n", t.Durability)
	for i, name := range sortedKeys(t.Configs) {
		label := ""
		if i == 0 {
			label = "Settings"
		}
		fmt.Fprintf(w, "%-12s %s=%s\n", label, name, t.Configs[name])
	}
	rows := newTable("PARTITION", "LEADER", "EPOCH", "REPLICAS", "ISR", "START", "END", "STATE")
	for _, p := range t.Partitions {
		rows.add(p.Partition, numberOr(p.Leader >= 0, int64(p.Leader), "none"), numberOr(p.LeaderEpoch >= 0, int64(p.LeaderEpoch), "-"),
			intList(p.Replicas), intList(p.ISR), offsetText(p.Start), offsetText(p.End), p.state())
	}
	return rows.write(w)
}

func (p describedPartition) state() string {
	switch {
	case p.Error != "":
		return p.Error
	case p.Leader < 0:
		return "offline"
	case len(p.ISR) < len(p.Replicas):
		return "under-replicated"
	}
	return "ok"
}

func numberOr(ok bool, n int64, otherwise string) string {
	if !ok {
		return otherwise
	}
	return strconv.FormatInt(n, 10)
}

func offsetText(o *int64) string {
	if o == nil {
		return "-"
	}
	return strconv.FormatInt(*o, 10)
}

func codeName(err error) string {
	var code *kerr.Error
	if errors.As(err, &code) {
		return code.Message
	}
	return err.Error()
}
