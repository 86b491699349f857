package cli

import (
	"context"
	"errors"
	"fmt"
	"html"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/config"
)

type configJSON struct {
	Name      string  `json:"name"`
	Value     *string `json:"value"` // null when sensitive or without a value
	Source    string  `json:"source"`
	ReadOnly  bool    `json:"readOnly"`
	Sensitive bool    `json:"sensitive"`
	Type      string  `json:"type"`
	Doc       string  `json:"doc,omitempty"`
}

func newConfig(c *command) *cobra.Command {
	group := &cobra.Command{Use: "config", Short: "Show, explain and change settings of topics and brokers",
		Example: "  moldau config describe topic orders\n  moldau config alter broker --default --set log.retention.ms=86400000"}
	asGroup(group)

	var all, verbose bool
	describe := &cobra.Command{Use: "describe", Short: "Show settings with their sources"}
	asGroup(describe)
	describe.PersistentFlags().BoolVarP(&all, "all", "a", false, "defaults too, not only what was set")
	describe.PersistentFlags().BoolVarP(&verbose, "verbose", "v", false, "with what each setting means")
	run := func(ctx context.Context, kind kmsg.ConfigResourceType, name string) error {
		cl, err := c.connect(ctx)
		if err != nil {
			return err
		}
		defer cl.Close()
		configs, err := cl.configs(ctx, kind, name, verbose)
		if err != nil {
			return err
		}
		return c.printConfigs(configs, all, verbose)
	}
	describe.AddCommand(&cobra.Command{
		Use: "topic NAME", Short: "Show the settings of a topic", Args: exactly(1, "one topic"),
		Example:           "  moldau config describe topic orders --all -v",
		ValidArgsFunction: c.completeTopics(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return run(cmd.Context(), kmsg.ConfigResourceTypeTopic, args[0])
		},
	}, &cobra.Command{
		Use: "broker [ID]", Short: "Show the settings of a broker, or without an ID the defaults of all brokers",
		Args:    between(0, 1, "one broker id"),
		Example: "  moldau config describe broker 1 --all\n  moldau config describe broker",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return run(cmd.Context(), kmsg.ConfigResourceTypeBroker, "")
			}
			if _, err := parseBrokerID(args[0]); err != nil {
				return err
			}
			return run(cmd.Context(), kmsg.ConfigResourceTypeBroker, args[0])
		},
	})
	group.AddCommand(describe, newConfigExplain(c), newConfigAlter(c))
	return group
}

func newConfigAlter(c *command) *cobra.Command {
	alter := &cobra.Command{Use: "alter", Short: "Change settings while everything runs"}
	asGroup(alter)
	var sets, unsets []string
	alter.PersistentFlags().StringArrayVar(&sets, "set", nil, "give a setting a value, `KEY=VALUE`; may be repeated")
	alter.PersistentFlags().StringArrayVar(&unsets, "unset", nil, "return the setting `KEY` to its default; may be repeated")

	run := func(cmd *cobra.Command, scope config.Scope, name string, f func(context.Context, *client, []kadm.AlterConfig) (kadm.AlterConfigsResponses, error)) error {
		changes, err := parseSettings(sets, unsets)
		if err != nil {
			return err
		}
		if len(changes) == 0 {
			return usagef("nothing to change: give --set KEY=VALUE or --unset KEY")
		}
		if scope == config.BrokerScope { // a broker takes keys that nobody knows
			if err := misspelt(config.BrokerScope, changes); err != nil {
				return err
			}
		}
		cl, err := c.connect(cmd.Context())
		if err != nil {
			return err
		}
		defer cl.Close()
		err = alterConfigs(cmd.Context(), cl, scope, changes, name, func(ctx context.Context) (kadm.AlterConfigsResponses, error) {
			return f(ctx, cl, changes)
		})
		if err != nil {
			return err
		}
		return c.altered(name)
	}
	topic := &cobra.Command{
		Use: "topic NAME", Short: "Change settings of a topic", Args: exactly(1, "one topic"),
		Example:           "  moldau config alter topic orders --set retention.ms=3600000 --unset cleanup.policy",
		ValidArgsFunction: c.completeTopics(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return run(cmd, config.TopicScope, "topic "+args[0], func(ctx context.Context, cl *client, changes []kadm.AlterConfig) (kadm.AlterConfigsResponses, error) {
				return cl.adm.AlterTopicConfigs(ctx, changes, args[0])
			})
		},
	}
	var defaults bool
	broker := &cobra.Command{
		Use: "broker {ID | --default}", Short: "Change settings of a broker, or the defaults of all brokers",
		Args: between(0, 1, "one broker id"),
		Example: "  moldau config alter broker 1 --set log.cleaner.threads=2\n" +
			"  moldau config alter broker --default --set log.retention.ms=86400000",
		RunE: func(cmd *cobra.Command, args []string) error {
			if defaults == (len(args) == 1) {
				return usagef("say which broker: an ID, or --default for all of them")
			}
			if defaults {
				return run(cmd, config.BrokerScope, "defaults of all brokers", func(ctx context.Context, cl *client, changes []kadm.AlterConfig) (kadm.AlterConfigsResponses, error) {
					return cl.adm.AlterBrokerConfigs(ctx, changes)
				})
			}
			id, err := parseBrokerID(args[0])
			if err != nil {
				return err
			}
			return run(cmd, config.BrokerScope, "broker "+args[0], func(ctx context.Context, cl *client, changes []kadm.AlterConfig) (kadm.AlterConfigsResponses, error) {
				return cl.adm.AlterBrokerConfigs(ctx, changes, id)
			})
		},
	}
	broker.Flags().BoolVar(&defaults, "default", false, "change the defaults of all brokers")
	alter.AddCommand(topic, broker)
	return alter
}

func parseBrokerID(s string) (int32, error) {
	id, err := strconv.ParseInt(s, 10, 32)
	if err != nil || id < 0 {
		return 0, usagef("%q is not a broker id: a whole number from 0 on", s)
	}
	return int32(id), nil
}

// alterConfigs sends one change of one resource and returns its only error.
func alterConfigs(ctx context.Context, cl *client, scope config.Scope, changes []kadm.AlterConfig, name string, f func(context.Context) (kadm.AlterConfigsResponses, error)) error {
	responses, err := ask(ctx, cl, name, f)
	if err != nil {
		return err
	}
	for _, r := range responses {
		if errors.Is(r.Err, kerr.InvalidConfig) {
			if err := misspelt(scope, changes); err != nil {
				return err
			}
		}
		if r.Err != nil {
			return explain(r.Err, r.ErrMessage, name)
		}
	}
	return nil
}

// misspelt is the error for the first key that is none, but nearly one; nil if there is no such.
func misspelt(scope config.Scope, changes []kadm.AlterConfig) error {
	for _, ch := range changes {
		if slices.ContainsFunc(config.Explanations(ch.Name), func(e config.Explanation) bool { return e.Scope == scope }) {
			continue
		}
		if guess := config.Suggest(scope, ch.Name); guess != "" {
			return &failure{cause: "there is no such setting", value: ch.Name, help: "did you mean " + guess + "?"}
		}
	}
	return nil
}

func (c *command) altered(what string) error {
	if c.json() {
		return writeJSON(c.Stdout, map[string]string{"altered": what})
	}
	_, err := fmt.Fprintln(c.Stdout, "altered "+what)
	return err
}

func (c *command) printConfigs(configs []kmsg.DescribeConfigsResponseResourceConfig, all, verbose bool) error {
	out := []configJSON{}
	for _, r := range configs {
		if !all && r.Source == kmsg.ConfigSourceDefaultConfig {
			continue
		}
		out = append(out, configJSON{r.Name, r.Value, r.Source.String(), r.ReadOnly, r.IsSensitive,
			r.ConfigType.String(), deref(r.Documentation)})
	}
	if c.json() {
		return writeJSON(c.Stdout, out)
	}
	if len(out) == 0 {
		c.note("everything is at its default; --all shows the defaults")
		return nil
	}
	t := newTable("NAME", "VALUE", "SOURCE")
	for _, r := range out {
		if verbose {
			if _, err := fmt.Fprintf(c.Stdout, "%s=%s (%s)\n", r.Name, valueText(r), sourceText(r)); err != nil {
				return err
			}
			if err := writeWrapped(c.Stdout, r.Doc, 88); err != nil {
				return err
			}
			continue
		}
		t.add(r.Name, valueText(r), sourceText(r))
	}
	if verbose {
		return nil
	}
	return t.write(c.Stdout)
}

func valueText(r configJSON) string {
	switch {
	case r.Sensitive:
		return "(hidden)"
	case r.Value == nil:
		return "(none)"
	}
	return printable(*r.Value)
}

func sourceText(r configJSON) string {
	s := map[string]string{
		"DYNAMIC_TOPIC_CONFIG":          "topic",
		"DYNAMIC_BROKER_CONFIG":         "broker, dynamic",
		"DYNAMIC_DEFAULT_BROKER_CONFIG": "all brokers, dynamic",
		"STATIC_BROKER_CONFIG":          "broker's file",
		"DEFAULT_CONFIG":                "default",
	}[r.Source]
	if s == "" {
		s = strings.ToLower(strings.ReplaceAll(r.Source, "_", " "))
	}
	return s
}

// htmlBreak and htmlTag are in Kafka's documentation of settings, which is made for a web page.
var htmlBreak, htmlTag = regexp.MustCompile(`<(?:br|p|li)\s*/?>`), regexp.MustCompile(`</?[a-zA-Z][^>]*>`)

// writeWrapped prints text indented and broken between words, without HTML.
func writeWrapped(w io.Writer, text string, width int) error {
	text = html.UnescapeString(htmlTag.ReplaceAllString(htmlBreak.ReplaceAllString(text, " "), ""))
	var b strings.Builder
	column := 0
	for word := range strings.FieldsSeq(printable(text)) {
		if column > 0 && column+1+len(word) > width {
			b.WriteByte('\n')
			column = 0
		}
		if column == 0 {
			b.WriteString("    ")
			column = 4
		} else {
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	if column > 0 {
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}
