package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/config"
)

type explainedKey struct {
	Name         string       `json:"name"`
	Scope        string       `json:"scope"` // broker or topic
	Type         string       `json:"type"`
	Default      *string      `json:"default"` // null: unset
	KafkaDefault string       `json:"kafkaDefault,omitempty"`
	Allowed      string       `json:"allowed,omitempty"`
	Dynamic      string       `json:"dynamic"` // read-only, per-broker, cluster-wide; topic keys always change at run time
	Importance   string       `json:"importance"`
	State        string       `json:"state"`
	Advice       string       `json:"advice,omitempty"`
	SameAs       []string     `json:"sameAs,omitempty"`
	Topic        string       `json:"topicKey,omitempty"`
	Inherits     []string     `json:"inherits,omitempty"`
	Environment  string       `json:"environment,omitempty"`
	Doc          string       `json:"doc"`
	InForce      []valueShown `json:"inForce"` // empty where no broker was asked or knows the key
}

type valueShown struct {
	Resource string  `json:"resource"` // broker 1, topic orders
	Value    *string `json:"value"`
	Source   string  `json:"source"`
	hidden   bool
}

func newConfigExplain(c *command) *cobra.Command {
	var topic string
	cmd := &cobra.Command{
		Use: "explain KEY...", Short: "Say what a setting means, and which value is in force", Args: atLeast(1, "one or more keys or words"),
		Long: "Say what a setting means: type, default, allowed values, whether it changes at run time, where\n" +
			"it may be set, and what this version does with it. Where a broker answers, the value in force\n" +
			"and its source follow. What is no key but part of some lists those.",
		Example: "  moldau config explain log.retention.ms\n  moldau config explain retention.ms --topic orders\n  moldau config explain retention",
		ValidArgsFunction: func(_ *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			return slices.DeleteFunc(allKeys(), func(k string) bool {
				return !strings.HasPrefix(k, prefix) || slices.Contains(args, k)
			}), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error { return c.explainKeys(cmd.Context(), args, topic) },
	}
	cmd.Flags().StringVarP(&topic, "topic", "t", "", "the value in force for this `TOPIC`")
	completeFlagFrom(cmd, "topic", c.completeTopics(0))
	return cmd
}

// allKeys are the names of broker and topic keys, sorted and each once.
func allKeys() []string {
	var names []string
	for _, scope := range []config.Scope{config.BrokerScope, config.TopicScope} {
		for _, k := range config.Keys(scope) {
			names = append(names, k.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func (c *command) explainKeys(ctx context.Context, names []string, topic string) error {
	if len(names) == 1 && len(config.Explanations(names[0])) == 0 {
		if found := keysWith(names[0]); len(found) > 0 && config.SuggestAny(names[0]) == "" {
			return c.printKeys(found)
		}
	}
	for _, name := range names {
		if len(config.Explanations(name)) == 0 {
			return unknownKey(name)
		}
	}
	cl := c.quickBroker(ctx)
	if cl != nil {
		defer cl.Close()
	}
	out := []explainedKey{}
	for i, name := range names {
		for j, e := range config.Explanations(name) {
			k, err := c.explained(ctx, cl, e, topic)
			if err != nil {
				return err
			}
			out = append(out, k)
			if c.json() {
				continue
			}
			if i+j > 0 {
				fmt.Fprintln(c.Stdout)
			}
			if err := c.writeExplained(e, k); err != nil {
				return err
			}
		}
	}
	if c.json() {
		return writeJSON(c.Stdout, out)
	}
	if cl == nil {
		c.note("no broker answers on %s, so the value in force is not shown", strings.Join(c.seeds(), ","))
	}
	return nil
}

func unknownKey(name string) error {
	f := &failure{cause: "there is no such setting", value: name, help: "moldau config explain WORD lists the settings with a word in their names"}
	if guess := config.SuggestAny(name); guess != "" {
		f.help = "did you mean " + guess + "?"
	}
	return f
}

func keysWith(word string) []string {
	return slices.DeleteFunc(allKeys(), func(k string) bool { return !strings.Contains(k, strings.ToLower(word)) })
}

func (c *command) printKeys(names []string) error {
	if c.json() {
		return writeJSON(c.Stdout, names)
	}
	t := newTable("SETTING", "OF", "DEFAULT", "TYPE")
	for _, name := range names {
		for _, e := range config.Explanations(name) {
			t.add(name, scopeName(e.Scope), deref(defaultOf(e)), strings.ToLower(e.Type.String()))
		}
	}
	return t.write(c.Stdout)
}

func scopeName(s config.Scope) string {
	if s == config.TopicScope {
		return "topic"
	}
	return "broker"
}

func defaultOf(e config.Explanation) *string {
	if e.Unset {
		return nil
	}
	return &e.Default
}

// quickBroker is a client of a broker that answers within a second, or nil.
func (c *command) quickBroker(ctx context.Context) *client {
	quick := *c
	quick.timeout = min(c.timeout, time.Second)
	cl, err := quick.connect(ctx)
	if err != nil {
		return nil
	}
	return cl
}

func (c *command) explained(ctx context.Context, cl *client, e config.Explanation, topic string) (explainedKey, error) {
	k := explainedKey{
		Name: e.Name, Scope: scopeName(e.Scope), Type: e.Type.String(), Default: defaultOf(e), KafkaDefault: e.KafkaDefault,
		Allowed: e.Valid.String(), Dynamic: e.Dynamic.String(), Importance: e.Importance.String(), State: e.State.String(), Advice: e.Advice,
		SameAs: e.SameAs, Topic: e.Topic, Inherits: e.Inherits, Environment: e.Environment, Doc: e.Doc, InForce: []valueShown{},
	}
	if e.Scope == config.TopicScope {
		k.Dynamic = "per topic"
	}
	if cl == nil {
		return k, nil
	}
	if e.Scope == config.TopicScope {
		if topic != "" {
			v, err := cl.inForce(ctx, kmsg.ConfigResourceTypeTopic, topic, "topic "+topic, e.Name)
			k.InForce = append(k.InForce, v...)
			if err != nil {
				return k, err
			}
		}
		return k, nil
	}
	brokers, err := ask(ctx, cl, "", func(ctx context.Context) (kadm.BrokerDetails, error) { return cl.adm.ListBrokers(ctx) })
	if err != nil {
		return k, err
	}
	for _, id := range brokers.NodeIDs() {
		v, err := cl.inForce(ctx, kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(id)), fmt.Sprintf("broker %d", id), e.Name)
		if ctx.Err() != nil {
			return k, ctx.Err()
		}
		if err != nil { // the key is explained all the same
			c.note("the value on broker %d is not known: %s", id, oneLine(err))
			continue
		}
		k.InForce = append(k.InForce, v...)
	}
	return k, nil
}

// inForce is the value of one key of one resource: empty if the resource has none of that name.
func (cl *client) inForce(ctx context.Context, kind kmsg.ConfigResourceType, name, shown, key string) ([]valueShown, error) {
	configs, err := cl.configs(ctx, kind, name, false)
	if kind == kmsg.ConfigResourceTypeTopic && errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil, cl.missingTopic(ctx, name)
	}
	if err != nil {
		return nil, err
	}
	for _, r := range configs {
		if r.Name == key {
			return []valueShown{{shown, r.Value, r.Source.String(), r.IsSensitive}}, nil
		}
	}
	return nil, nil
}

func (c *command) writeExplained(e config.Explanation, k explainedKey) error {
	var b strings.Builder
	b.WriteString(e.String())
	label := "in force"
	for _, v := range k.InForce {
		row := configJSON{Value: v.Value, Source: v.Source, Sensitive: v.hidden}
		fmt.Fprintf(&b, "  %-11s %s (%s, %s)\n", label, valueText(row), v.Resource, sourceText(row))
		label = ""
	}
	fmt.Fprintf(&b, "  %-11s %s\n", "change", changeCommand(e))
	_, err := fmt.Fprint(c.Stdout, b.String())
	return err
}

// changeCommand is how the value is changed.
func changeCommand(e config.Explanation) string {
	switch {
	case e.Scope == config.TopicScope:
		return "moldau config alter topic TOPIC --set " + e.Name + "=VALUE"
	case e.Dynamic == config.ClusterWide:
		return "moldau config alter broker --default --set " + e.Name + "=VALUE"
	case e.Dynamic == config.PerBroker:
		return "moldau config alter broker ID --set " + e.Name + "=VALUE"
	}
	return "at the start: moldau server --set " + e.Name + "=VALUE, or in the file of --config"
}
