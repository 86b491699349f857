package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const defaultBootstrap = "localhost:9092"

// client is a connection to a cluster, as one command uses it. It belongs to
// that command, which closes it.
type client struct {
	*kgo.Client
	adm     *kadm.Client
	seeds   string
	timeout time.Duration
	dials   *dialLog
}

// dialLog remembers the last failed dial to an advertised address: the bootstrap
// works and the client is then sent to an address that it cannot reach is the most
// common trouble there is, and the protocol's own error does not tell it.
type dialLog struct {
	timeout time.Duration // of one dial

	mu    sync.Mutex       // guards the rest
	dead  map[int32]string // by broker id: where it is advertised
	first []net.Conn       // until a broker has answered
	ended bool             // no further connection is wanted
	alive bool             // a broker has answered
}

// dial connects as the client would. What is open before the first answer can be cut: a peer that
// is no broker may keep silent for long.
func (d *dialLog) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: d.timeout}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.ended:
		_ = conn.Close()
		return nil, net.ErrClosed
	case !d.alive:
		d.first = append(d.first, conn)
	}
	return conn, nil
}

// answered forgets the first connections: they are the client's now.
func (d *dialLog) answered() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.alive, d.first = true, nil
}

// cut closes what is open, and lets nothing more be opened.
func (d *dialLog) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	for _, conn := range d.first {
		_ = conn.Close()
	}
}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (d *dialLog) OnBrokerConnect(meta kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if meta.NodeID < 0 { // a bootstrap address
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.dead, meta.NodeID)
	if err != nil && !errors.Is(err, context.Canceled) {
		d.dead[meta.NodeID] = fmt.Sprintf("broker %d is advertised as %s", meta.NodeID, net.JoinHostPort(meta.Host, fmt.Sprint(meta.Port)))
	}
}

func (d *dialLog) unreachable() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.dead {
		return s
	}
	return ""
}

func (c *command) seeds() []string {
	s := c.bootstrap
	if s == "" {
		s = c.Env("MOLDAU_BOOTSTRAP_SERVERS")
	}
	if s == "" {
		s = defaultBootstrap
	}
	seeds := strings.Split(s, ",")
	for i := range seeds {
		seeds[i] = strings.TrimSpace(seeds[i])
	}
	return slices.DeleteFunc(seeds, func(s string) bool { return s == "" })
}

// connect makes a client and waits until one bootstrap broker has answered.
func (c *command) connect(ctx context.Context, opts ...kgo.Opt) (*client, error) {
	cl, err := c.newClient(opts...)
	if err != nil {
		return nil, err
	}
	if err := c.ping(ctx, cl); err != nil {
		cl.Close()
		return nil, err
	}
	return cl, nil
}

// pingPatience is how long a broker may be silent before the addresses are probed.
const pingPatience = 2 * time.Second

// ping waits for the first answer. What is no broker at all is found out long before the timeout.
func (c *command) ping(ctx context.Context, cl *client) error {
	pinging, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- cl.Ping(pinging) }()
	patience := time.NewTimer(pingPatience)
	defer patience.Stop()
	var err error
	select {
	case err = <-done:
	case <-patience.C:
		if err := c.noBroker(ctx, c.seeds(), context.DeadlineExceeded); !mayAnswerYet(err) {
			cancel()
			cl.dials.cut()
			<-done
			return err
		}
		err = <-done
	}
	switch {
	case err == nil:
		cl.dials.answered()
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	}
	if told := notLetIn(err); told != nil {
		return told
	}
	return c.noBroker(ctx, c.seeds(), err)
}

// mayAnswerYet tells whether a broker that is slow or starting is worth the wait.
func mayAnswerYet(err error) bool {
	var f *failure
	return !errors.As(err, &f) || f.err != nil
}

func (c *command) newClient(opts ...kgo.Opt) (*client, error) {
	seeds, dials := c.seeds(), &dialLog{timeout: min(c.timeout, 10*time.Second), dead: map[int32]string{}}
	secure, err := c.clientConfig()
	if err != nil {
		return nil, err
	}
	opts = append(secure.options(dials.dial), opts...)
	kcl, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(seeds...),
		kgo.ClientID("moldau-cli"),
		kgo.SoftwareNameAndVersion("moldau-cli", "1"),
		kgo.WithHooks(dials),
		kgo.RetryTimeout(c.timeout),
		kgo.DisableClientMetrics(),
	}, opts...)...)
	if err != nil {
		return nil, usagef("%w (--bootstrap-server %s)", err, strings.Join(seeds, ","))
	}
	cl := &client{Client: kcl, adm: kadm.NewClient(kcl), seeds: strings.Join(seeds, ","), timeout: c.timeout, dials: dials}
	cl.adm.SetTimeoutMillis(int32(min(c.timeout.Milliseconds(), 1<<31-1)))
	return cl, nil
}

// networkReason is the short reason inside Go's long network errors.
func networkReason(err error) string {
	var op *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &op) && op.Err != nil:
		err = op.Err
	}
	s := err.Error()
	if i := strings.LastIndex(s, "connect: "); i >= 0 {
		s = s[i+len("connect: "):]
	}
	return s
}

// ask runs one question within the command's timeout and explains its error.
func ask[T any](ctx context.Context, cl *client, value string, f func(context.Context) (T, error)) (T, error) {
	limited, cancel := context.WithTimeout(ctx, cl.timeout)
	defer cancel()
	t, err := f(limited)
	if err != nil && ctx.Err() != nil {
		return t, ctx.Err()
	}
	return t, cl.explain(err, "", value)
}

// explain is the package's explain, with what the client knows of the network.
func (cl *client) explain(err error, message, value string) error {
	var code *kerr.Error
	if err == nil || errors.As(err, &code) && !errors.Is(err, kerr.RequestTimedOut) {
		return explain(err, message, value)
	}
	if dead := cl.dials.unreachable(); dead != "" && !errors.Is(err, context.Canceled) {
		return &failure{cause: "a broker cannot be reached under the address it advertises", value: join(value, dead),
			help: "correct advertised.listeners on that broker; moldau doctor -b " + cl.seeds + " checks it", err: err}
	}
	return explain(err, message, value)
}

// topics returns the metadata of the named topics, sorted by name; with no name, of all.
// A topic that is not there is an error.
func (cl *client) topics(ctx context.Context, names ...string) ([]kadm.TopicDetail, error) {
	details, err := ask(ctx, cl, "", func(ctx context.Context) (kadm.TopicDetails, error) {
		return cl.adm.ListTopicsWithInternal(ctx, names...)
	})
	if err != nil {
		return nil, err
	}
	sorted := details.Sorted()
	for _, t := range sorted {
		switch {
		case t.Err == nil || len(names) == 0:
		case errors.Is(t.Err, kerr.UnknownTopicOrPartition):
			return nil, cl.missingTopic(ctx, t.Topic)
		default:
			return nil, explain(t.Err, "", t.Topic)
		}
	}
	return sorted, nil
}

// configs describes one topic or broker; name is a topic, a broker id, or "" for the
// defaults of all brokers.
func (cl *client) configs(ctx context.Context, kind kmsg.ConfigResourceType, name string, docs bool) ([]kmsg.DescribeConfigsResponseResourceConfig, error) {
	req := kmsg.NewPtrDescribeConfigsRequest()
	resource := kmsg.NewDescribeConfigsRequestResource()
	resource.ResourceType, resource.ResourceName = kind, name
	req.Resources = append(req.Resources, resource)
	req.IncludeSynonyms, req.IncludeDocumentation = true, docs
	resp, err := ask(ctx, cl, name, func(ctx context.Context) (*kmsg.DescribeConfigsResponse, error) {
		return req.RequestWith(ctx, cl.Client)
	})
	if err != nil {
		return nil, err
	}
	for _, r := range resp.Resources {
		if r.ResourceName != name || r.ResourceType != kind {
			continue
		}
		if err := kerr.ErrorForCode(r.ErrorCode); err != nil {
			return nil, explain(err, deref(r.ErrorMessage), name)
		}
		slices.SortFunc(r.Configs, func(a, b kmsg.DescribeConfigsResponseResourceConfig) int { return strings.Compare(a.Name, b.Name) })
		return r.Configs, nil
	}
	return nil, &failure{cause: "the broker left the answer out", value: name}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// completeTopics completes topic names from the broker, quickly or not at all.
func (c *command) completeTopics(limit int) cobra.CompletionFunc {
	return c.completeFromBroker(limit, func(ctx context.Context, cl *client) []string {
		details, err := cl.topics(ctx)
		if err != nil {
			return nil
		}
		var names []string
		for _, t := range details {
			if !t.IsInternal {
				names = append(names, t.Topic)
			}
		}
		return names
	})
}

// completeFromBroker completes up to limit arguments (0: any number) from what a broker says within a second.
func (c *command) completeFromBroker(limit int, list func(context.Context, *client) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if limit > 0 && len(args) >= limit {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		quick := *c
		quick.timeout = time.Second
		ctx, cancel := context.WithTimeout(cmd.Context(), quick.timeout)
		defer cancel()
		cl, err := quick.connect(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer cl.Close()
		names := slices.DeleteFunc(list(ctx, cl), func(name string) bool {
			return !strings.HasPrefix(name, prefix) || slices.Contains(args, name)
		})
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeFlagFrom completes a flag of cmd as complete does for arguments.
func completeFlagFrom(cmd *cobra.Command, flag string, complete cobra.CompletionFunc) {
	err := cmd.RegisterFlagCompletionFunc(flag, func(cmd *cobra.Command, _ []string, prefix string) ([]string, cobra.ShellCompDirective) {
		return complete(cmd, nil, prefix)
	})
	if err != nil {
		panic("BUG: " + err.Error())
	}
}

// completeWith completes a flag of cmd from a fixed list.
func completeWith(cmd *cobra.Command, flag string, values ...string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic("BUG: " + err.Error())
	}
}
