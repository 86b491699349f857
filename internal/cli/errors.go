package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// usageError says that the command line was wrong; its exit code is 2.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

// failure is an error in the words of invariant 2.
type failure struct {
	cause string // what went wrong
	value string // with which topic, address or setting; may be empty
	help  string // a command or an action; may be empty
	err   error  // what the broker or the system said; may be nil
}

func (e *failure) Error() string {
	s := e.cause
	if e.value != "" {
		s += " (" + e.value + ")"
	}
	if e.help != "" {
		s += ": " + e.help
	}
	return s
}
func (e *failure) Unwrap() error { return e.err }

func unknownTopic(topic string) error {
	return &failure{cause: "topic does not exist", value: topic, help: "moldau topic create " + topic, err: kerr.UnknownTopicOrPartition}
}

// missingTopic is unknownTopic with the topic of a cluster that may be meant.
func (cl *client) missingTopic(ctx context.Context, topic string) error {
	f := &failure{cause: "topic does not exist", value: topic, help: "moldau topic create " + topic, err: kerr.UnknownTopicOrPartition}
	details, err := ask(ctx, cl, "", func(ctx context.Context) (kadm.TopicDetails, error) {
		return cl.adm.ListTopicsWithInternal(ctx)
	})
	if err != nil {
		return f
	}
	if guess := nearestName(topic, details.Names()); guess != "" {
		f.help = "did you mean " + guess + "?"
	}
	return f
}

// explain puts a broker's or the network's answer about value into words. message
// is the broker's own explanation and may be empty.
func explain(err error, message, value string) error {
	var known *failure
	var usage *usageError
	if err == nil || errors.As(err, &known) || errors.As(err, &usage) || errors.Is(err, context.Canceled) {
		return err
	}
	f := &failure{value: value, err: err}
	var code *kerr.Error
	if !errors.As(err, &code) {
		f.cause, f.value = networkCause(err), join(value, err.Error())
		return f
	}
	f.cause = code.Message
	if message != "" {
		f.cause = strings.TrimRight(lowerFirst(strings.TrimSpace(message)), ".")
		f.value = join(value, code.Message)
	} else {
		f.cause = strings.TrimRight(lowerFirst(code.Description), ".")
		f.value = join(value, code.Message)
	}
	switch code {
	case kerr.UnknownTopicOrPartition, kerr.UnknownTopicID:
		return unknownTopic(value)
	case kerr.TopicAlreadyExists:
		f.cause, f.value, f.help = "topic exists already", value, "moldau topic describe "+value
	case kerr.InvalidReplicationFactor:
		f.help = "choose a --replication-factor of at most the number of brokers"
	case kerr.InvalidPartitions:
		f.help = "moldau topic describe " + value
	case kerr.InvalidConfig:
		f.help = "moldau config describe --all shows the settings there are"
	case kerr.NonEmptyGroup:
		f.cause, f.value, f.help = "the group has active members", value, "stop its consumers first; moldau group describe "+value+" shows them"
	case kerr.GroupSubscribedToTopic:
		f.cause, f.value, f.help = "a member of the group reads the topic", value, "stop its consumers first"
	case kerr.CoordinatorNotAvailable, kerr.NotCoordinator, kerr.CoordinatorLoadInProgress:
		f.cause, f.help = "the group's coordinator is not ready yet", "say it again in a moment; moldau cluster describe shows the brokers"
	case kerr.UnsupportedVersion:
		f.cause, f.help = "the broker does not know this request", "it may be too old for the command; moldau cluster describe shows what it is"
	case kerr.MessageTooLarge:
		f.help = "raise the topic's max.message.bytes with moldau topic alter, or send smaller records"
	case kerr.NotEnoughReplicas, kerr.NotEnoughReplicasAfterAppend:
		f.help = "moldau topic describe " + value + " shows the in-sync replicas"
	case kerr.TopicAuthorizationFailed, kerr.ClusterAuthorizationFailed, kerr.GroupAuthorizationFailed:
		f.help = "an administrator sees by moldau acl why which rule decides, and allows it by moldau acl grant"
	}
	return f
}

func networkCause(err error) string {
	var netErr *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.Is(err, syscall.ECONNREFUSED), errors.As(err, &netErr):
		return "the broker cannot be reached"
	}
	return "the request failed"
}

func join(parts ...string) string {
	parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
	return strings.Join(parts, ", ")
}

func lowerFirst(s string) string {
	if len(s) > 1 && s[1] >= 'a' && s[1] <= 'z' {
		return strings.ToLower(s[:1]) + s[1:]
	}
	return s
}

// unknownCommand is the error for name, which is no command below cmd.
func unknownCommand(cmd *cobra.Command, name string) error {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	if guess := nearest(name, names); guess != "" {
		return usagef("unknown command (%s): did you mean %s %s?", name, cmd.CommandPath(), guess)
	}
	return usagef("unknown command (%s): see %s --help", name, cmd.CommandPath())
}

// flagError is cobra's door for every error in flags.
func flagError(cmd *cobra.Command, err error) error {
	if errors.Is(err, pflag.ErrHelp) {
		return err
	}
	var missing *pflag.NotExistError
	if errors.As(err, &missing) {
		name := missing.GetSpecifiedName()
		if missing.GetSpecifiedShortnames() == "" {
			var names []string
			cmd.Flags().VisitAll(func(f *pflag.Flag) {
				if !f.Hidden {
					names = append(names, f.Name)
				}
			})
			if guess := nearest(name, names); guess != "" {
				return usagef("unknown flag (--%s): did you mean --%s?", name, guess)
			}
			return usagef("unknown flag (--%s): see %s --help", name, cmd.CommandPath())
		}
		return usagef("unknown flag (-%s): see %s --help", name, cmd.CommandPath())
	}
	var bad *pflag.InvalidValueError
	if errors.As(err, &bad) {
		return usagef("--%s cannot be %q: %s", bad.GetFlag().Name, bad.GetValue(), valueHelp(bad))
	}
	return usagef("%w: see %s --help", err, cmd.CommandPath())
}

// parsePrefix is Go's own account of which parser failed; a person wants the rest.
var parsePrefix = regexp.MustCompile(`^(strconv\.\w+: parsing "(?:[^"\\]|\\.)*": |time: )`)

func valueHelp(e *pflag.InvalidValueError) string {
	switch e.GetFlag().Value.Type() {
	case "int", "int16", "int32", "int64":
		return "a whole number"
	case "duration":
		return "a time such as 500ms, 15s or 2m"
	}
	return parsePrefix.ReplaceAllString(errors.Unwrap(e).Error(), "")
}

// nearest is the candidate that a typing error turns into name, or "".
func nearest(name string, candidates []string) string {
	return nearestWithin(name, candidates, max(2, len(name)/3))
}

// nearestName is nearest for what people have named: names are often alike and yet meant, so
// it takes fewer errors.
func nearestName(name string, candidates []string) string {
	limit := 2
	if len(name) < 6 {
		limit = 1
	}
	return nearestWithin(name, candidates, limit)
}

func nearestWithin(name string, candidates []string, limit int) string {
	best, bestDistance := "", limit+1
	for _, c := range candidates {
		d := distance(strings.ToLower(name), strings.ToLower(c))
		if len(name) >= 3 && strings.HasPrefix(c, name) {
			d = 1
		}
		if d < bestDistance && d < len(c) {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance counts the insertions, deletions, replacements and swaps of
// neighbours that turn a into b.
func distance(a, b string) int {
	prev2, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], prev2[j-2]+1)
			}
		}
		prev2, prev, row = prev, row, prev2
	}
	return prev[len(b)]
}

// exactly, atLeast and atMost are cobra's argument checks with our words; what
// names the arguments.
func exactly(n int, what string) cobra.PositionalArgs { return between(n, n, what) }
func atLeast(n int, what string) cobra.PositionalArgs { return between(n, 1<<30, what) }

func between(low, high int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		path := cmd.CommandPath()
		name := strings.TrimPrefix(path, cmd.Root().Name()+" ")
		switch {
		case len(args) < low:
			return usagef("%s needs %s: see %s --help", name, what, path)
		case len(args) > high && high == 0:
			return usagef("%s takes no arguments (%s): see %s --help", name, args[0], path)
		case len(args) > high:
			return usagef("%s takes %s only (%s): see %s --help", name, what, args[high], path)
		}
		return nil
	}
}
