package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// explainedGroup is a group with its past.
type explainedGroup struct {
	describedGroup
	History *groupHistory `json:"history"`                  // null: it is not known
	Problem string        `json:"historyProblem,omitempty"` // why
}

// groupHistory is what the coordinator remembers. Its names are those of the broker's /group.
type groupHistory struct {
	Exists    bool            `json:"exists"`
	Epoch     int32           `json:"epoch"` // generation, or epoch of a consumer group
	SinceMs   int64           `json:"sinceMs"`
	Dropped   int             `json:"dropped"`
	Events    []groupEvent    `json:"events"`
	Rebalance *groupRebalance `json:"rebalance,omitempty"` // goes on
	Waiting   int             `json:"waitingFor"`

	lag []brokerLag // what the broker says beside it
}

// brokerLag is what the coordinator knows of a group's place in a partition, and Kafka's protocol cannot tell.
type brokerLag struct {
	Topic          string
	Partition      int32
	CatchUpSeconds *float64
	Danger         *groupDanger
}

// groupDanger is what retention is about to take from a group, or took.
type groupDanger struct {
	Reason      string   `json:"reason"` // deleted, time or size
	Detail      string   `json:"detail"`
	LeftSeconds *float64 `json:"leftSeconds,omitempty"`
	LeftBytes   *int64   `json:"leftBytes,omitempty"`
}

type groupEvent struct {
	AtMs      int64           `json:"atMs"`
	Kind      string          `json:"kind"`
	Member    eventMember     `json:"member,omitzero"`
	Before    string          `json:"memberIdBefore,omitempty"`
	Why       string          `json:"why,omitempty"`
	LimitMs   int64           `json:"limitMs,omitempty"`
	Said      string          `json:"said,omitempty"`
	Times     int             `json:"times,omitempty"`
	Rebalance *groupRebalance `json:"rebalance,omitempty"`
}

type eventMember struct {
	ID         string `json:"memberId,omitempty"`
	InstanceID string `json:"instanceId,omitempty"`
	Client     string `json:"clientId,omitempty"`
	Host       string `json:"host,omitempty"`
}

type groupRebalance struct {
	BeganMs     int64       `json:"beganMs"`
	TookMs      int64       `json:"tookMs"`
	Because     string      `json:"because,omitempty"`
	Why         string      `json:"why,omitempty"`
	By          eventMember `json:"by,omitzero"`
	Epoch       int32       `json:"epoch"`
	Members     int64       `json:"members"`
	Interrupted bool        `json:"interrupted,omitempty"`
	DelayMs     int64       `json:"delayMs,omitempty"`
	JoinMs      int64       `json:"joinMs,omitempty"`
	AssignMs    int64       `json:"assignMs,omitempty"`
	WaitedFor   []eventWait `json:"waitedFor,omitempty"`
}

type eventWait struct {
	Member eventMember `json:"member"`
	To     string      `json:"to"`
	Ms     int64       `json:"ms"`
}

func newGroupExplain(c *command) *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use: "explain GROUP", Short: "Tell who joined or left a group, why, and what each rebalance waited for", Args: exactly(1, "one group"),
		Long: "Tell who joined or left a group, why, how long each rebalance took and for whom it waited.\n\n" +
			"The broker that coordinates the group remembers this since it began to do so, up to\n" +
			"moldau.group.history.bytes. Kafka's protocol has no request for it, so it comes from the broker's\n" +
			"HTTP listener, whose address is asked for (moldau.http.listener) unless --http says it. Of a group on\n" +
			"Apache Kafka only the present can be told. A member is named by its instance id or client id,\n" +
			"its host, and the end of its member id.",
		Example:           "  moldau group explain billing\n  moldau group explain billing --http broker-2:9644 -o json",
		ValidArgsFunction: c.completeGroups(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			g, err := cl.explainGroup(cmd.Context(), args[0], address)
			if err != nil {
				return err
			}
			if c.json() {
				return writeJSON(c.Stdout, g)
			}
			return g.write(c.Stdout)
		},
	}
	cmd.Flags().StringVar(&address, "http", "", "moldau.http.listener of the broker that coordinates the group, `HOST:PORT`")
	return cmd
}

func (cl *client) explainGroup(ctx context.Context, name, address string) (explainedGroup, error) {
	g := explainedGroup{describedGroup: describedGroup{Name: name, State: "Dead", Members: []describedMember{}, Offsets: []groupOffset{}}}
	found, missing := cl.describeGroup(ctx, name)
	if missing == nil {
		g.describedGroup = found
	} else if !errors.Is(missing, kerr.GroupIDNotFound) {
		return g, missing
	} else if err := cl.findCoordinator(ctx, name, &g.Coordinator); err != nil {
		return g, missing
	}
	h, err := cl.groupHistory(ctx, name, address, g.Coordinator)
	switch {
	case ctx.Err() != nil:
		return g, ctx.Err()
	case err != nil && (address != "" || missing != nil):
		return g, cmpOr(missing, err)
	case err != nil:
		g.Problem = oneLine(err)
	case missing != nil && len(h.Events) == 0:
		return g, missing
	default:
		g.History = h
		g.addBrokerLag(h.lag)
	}
	return g, nil
}

// addBrokerLag adds the time to catch up, which is that of the slowest partition, and dangers.
func (g *explainedGroup) addBrokerLag(lag []brokerLag) {
	longest, known := 0.0, len(lag) > 0
	for _, l := range lag {
		for i := range g.Offsets {
			if o := &g.Offsets[i]; o.Topic == l.Topic && o.Partition == l.Partition {
				o.CatchUp, o.Danger = l.CatchUpSeconds, l.Danger
			}
		}
		if l.CatchUpSeconds == nil {
			known = false
		} else {
			longest = max(longest, *l.CatchUpSeconds)
		}
	}
	if g.CatchUp = nil; known {
		g.CatchUp = &longest
	}
}

func (cl *client) findCoordinator(ctx context.Context, name string, c *groupCoordinator) error {
	r, err := ask(ctx, cl, name, func(ctx context.Context) (kadm.FindCoordinatorResponse, error) {
		r := cl.adm.FindGroupCoordinators(ctx, name)[name]
		return r, r.Err
	})
	c.ID, c.Host, c.Port = r.NodeID, r.Host, r.Port
	return err
}

// groupHistory asks the coordinator for a group's past.
func (cl *client) groupHistory(ctx context.Context, name, address string, c groupCoordinator) (*groupHistory, error) {
	var answer struct {
		History *groupHistory
		Lag     []brokerLag
	}
	if err := cl.askHTTP(ctx, address, c, "/group?name="+url.QueryEscape(name), &answer); err != nil {
		return nil, err
	}
	if answer.History == nil {
		return nil, notMoldau(cmp.Or(address, c.Host))
	}
	answer.History.lag = answer.Lag
	return answer.History, nil
}

const eventTime = "2006-01-02 15:04:05"

func (g *explainedGroup) write(w io.Writer) error {
	kind := strings.TrimPrefix(g.Type+", "+g.State, ", ")
	h := g.History
	if h != nil && h.Exists {
		kind += ", " + g.epochText(h.Epoch)
	}
	fmt.Fprintf(w, "Group        %s\nState        %s, %s\nCoordinator  broker %d (%s:%d)\nLag          %s\n",
		printable(g.Name), kind, plural(int64(len(g.Members)), "member"), g.Coordinator.ID, printable(g.Coordinator.Host), g.Coordinator.Port, g.lagText())
	if h == nil {
		_, err := fmt.Fprintf(w, "History      %s\n", printable(g.Problem))
		return err
	}
	for _, o := range g.Offsets {
		if d := o.Danger; d != nil {
			fmt.Fprintf(w, "At risk      %s partition %d: %s (retention: %s)\n", printable(o.Topic), o.Partition, printable(d.Detail), printable(d.Reason))
		}
	}
	since := time.UnixMilli(h.SinceMs).Local().Format(eventTime)
	if h.Dropped > 0 {
		since += fmt.Sprintf("; %s before these made room", plural(int64(h.Dropped), "event"))
	}
	fmt.Fprintf(w, "Known since  %s\n", since)
	t := newTable("TIME", "WHAT HAPPENED")
	for _, e := range h.Events {
		t.add(time.UnixMilli(e.AtMs).Local().Format(eventTime), e.text(g))
	}
	if r := h.Rebalance; r != nil {
		line := fmt.Sprintf("rebalancing for %s, because %s", tookText(r.TookMs), r.cause())
		if len(r.WaitedFor) > 0 {
			line += "; waiting for"
			for i, x := range r.WaitedFor {
				if i > 0 {
					line += ","
				}
				line += " " + x.Member.text() + " to " + x.To
			}
			if more := h.Waiting - len(r.WaitedFor); more > 0 {
				line += fmt.Sprintf(" and %d more", more)
			}
		}
		t.add("now", line)
	}
	if len(t.rows) == 1 {
		_, err := fmt.Fprintln(w, "Nothing has happened since.")
		return err
	}
	return t.write(w)
}

func (g *explainedGroup) epochText(epoch int32) string {
	if g.Type == "consumer" {
		return fmt.Sprintf("epoch %d", epoch)
	}
	return fmt.Sprintf("generation %d", epoch)
}

// text names a member for people.
func (m eventMember) text() string {
	name := m.Client
	if m.InstanceID != "" {
		name = m.InstanceID
	}
	if name == "" {
		name = "a member"
	}
	if m.Host != "" {
		name += "@" + m.Host
	}
	if end := []rune(m.ID); len(end) > 0 {
		name += " (…" + string(end[max(0, len(end)-6):]) + ")"
	}
	return printable(name)
}

// tookText is a time for people: exact where it is short.
func tookText(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case d < time.Second:
		return d.String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// whys are the reasons of events, for people. %s is the limit.
var whys = map[string]string{
	"session timeout":       "no heartbeat for %s (session timeout)",
	"rebalance timeout":     "it did not join again within %s (rebalance timeout, max.poll.interval.ms)",
	"sync timeout":          "it did not ask for its assignment within %s (rebalance timeout)",
	"revocation timeout":    "it did not give its partitions back within %s (rebalance timeout, max.poll.interval.ms)",
	"join timeout":          "the rebalance that it waited for took longer than %s",
	"group full":            "the group is full (group.max.size, group.consumer.max.size)",
	"inconsistent protocol": "its assignors or its protocol type are not those of the group",
	"new subscription":      "its subscription or its assignors have changed",
	"leader asked":          "it leads the group, and wants to assign anew",
	"joined again":          "it had lost its place, or joined again",
	"stale member epoch":    "it spoke of an epoch that has passed",
	"instance id in use":    "another member has its instance id, and has not left",
	"without a rebalance":   "it took the place over, without a rebalance",
}

func whyText(why string, limitMs int64) string {
	text, ok := whys[why]
	if !ok {
		return why
	}
	return strings.Replace(text, "%s", tookText(limitMs), 1)
}

// verbs are what happens to members, for people.
var verbs = map[string]string{
	"joined": "joined", "rejoined": "asked for a rebalance", "left": "left", "kicked": "was removed by an administrator", "away": "left, and will be back (static member)",
	"removed": "was removed", "restarted": "came back as another process (static member)", "fenced": "was refused: another member has its place", "refused": "was not let in",
	"topics": "the group's topics changed", "upgraded": "the group became a consumer group", "downgraded": "the group became a classic group",
	"unwritten": "the assignment could not be written", "deleted": "the group was deleted",
}

func (e *groupEvent) text(g *explainedGroup) string {
	if e.Rebalance != nil {
		return e.Rebalance.text(g)
	}
	verb := verbs[e.Kind]
	if verb == "" {
		verb = e.Kind
	}
	text := verb
	if e.Member != (eventMember{}) {
		text = e.Member.text() + " " + verb
	}
	if e.Why != "" {
		text += ": " + whyText(e.Why, e.LimitMs)
	}
	if e.Said != "" {
		text += fmt.Sprintf(" (%q)", printable(e.Said))
	}
	if e.Times > 1 {
		text += fmt.Sprintf(", %d times", e.Times)
	}
	return text
}

// cause is why a rebalance began.
func (r *groupRebalance) cause() string {
	switch {
	case r.Because == "":
		return "the coordinator asked for it"
	case r.By == eventMember{}:
		return verbs[r.Because]
	}
	text := r.By.text() + " " + verbs[r.Because]
	if r.Because == "removed" {
		text += " (" + r.Why + ")"
	}
	return text
}

func (r *groupRebalance) text(g *explainedGroup) string {
	text := fmt.Sprintf("rebalanced to %s with %s in %s, because %s", g.epochText(r.Epoch), plural(r.Members, "member"), tookText(r.TookMs), r.cause())
	switch {
	case r.Interrupted:
		text = fmt.Sprintf("a rebalance was interrupted after %s; it had begun because %s", tookText(r.TookMs), r.cause())
	case r.Members == 0:
		text = "no member is left, because " + r.cause()
	}
	if r.DelayMs > 0 {
		text += fmt.Sprintf("; %s for more members to come (group.initial.rebalance.delay.ms)", tookText(r.JoinMs))
	}
	for i, x := range r.WaitedFor {
		if i == 0 {
			text += "; waited"
		} else {
			text += ","
		}
		text += fmt.Sprintf(" %s for %s to %s", tookText(x.Ms), x.Member.text(), x.To)
	}
	return text
}
