package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/acl"
	"moldau/internal/config"
)

type ruleJSON struct {
	Permission   string `json:"permission"`
	Principal    string `json:"principal"`
	Host         string `json:"host"`
	Operation    string `json:"operation"`
	ResourceType string `json:"resourceType"`
	PatternType  string `json:"patternType"`
	Resource     string `json:"resource"`
}

func ruleOf(b acl.Binding) ruleJSON {
	return ruleJSON{b.Permission.String(), b.Principal, b.Host, b.Operation.String(), b.Type.String(), b.Kind.String(), b.Name}
}

// rulesOf is never nil: programs that read it want a list.
func rulesOf(rules []acl.Binding) []ruleJSON {
	out := make([]ruleJSON, len(rules))
	for i, r := range rules {
		out[i] = ruleOf(r)
	}
	return out
}

func newACL(c *command) *cobra.Command {
	group := &cobra.Command{Use: "acl", Short: "Grant, list and revoke access, and explain why somebody has it or not",
		Long: "Grant, list and revoke access, and explain why somebody has it or not.\n\n" +
			"The broker needs authorizer.class.name=" + config.StandardAuthorizer + "\n" +
			"and super.users, which names who may grant. USER is a name, or a principal such as User:alice. kafka-acls.sh works too.",
		Example: "  moldau acl grant producer alice orders\n  moldau acl grant consumer bob orders --group billing\n  moldau acl why bob read orders"}
	asGroup(group)
	group.AddCommand(newACLGrant(c), newACLRevoke(c), newACLList(c), newACLWhy(c))
	return group
}

// grant is what a role is about.
type grant struct {
	prefix     bool
	group, txn string
	host       string
}

var roles = []string{"producer", "consumer", "admin"}

// rules are the rules that a role consists of. READ and WRITE bring DESCRIBE with them, so that roles do not overlap: to revoke one leaves another
// whole.
func (g grant) rules(role, user, topic string) ([]acl.Binding, error) {
	kind := acl.Literal
	if g.prefix {
		kind = acl.Prefixed
	}
	principal := principalOf(user)
	if topic == "" && role != "admin" {
		return nil, usagef("a %s needs a topic: moldau acl grant %s %s TOPIC; '*' is every topic", role, role, user)
	}
	if g.host != acl.Wildcard {
		if _, err := netip.ParseAddr(g.host); err != nil {
			return nil, usagef("--host %q: expected an address, such as 10.0.0.7, or '*' for any", g.host)
		}
	}
	var out []acl.Binding
	add := func(t acl.ResourceType, kind acl.PatternType, name string, ops ...acl.Operation) {
		if name == acl.Wildcard {
			kind = acl.Literal
		}
		for _, op := range ops {
			out = append(out, acl.Binding{Pattern: acl.Pattern{Type: t, Kind: kind, Name: name},
				Entry: acl.Entry{Principal: principal, Host: g.host, Operation: op, Permission: acl.Allow}})
		}
	}
	switch {
	case role == "producer":
		add(acl.Topic, kind, topic, acl.Write, acl.Create)
		if g.txn != "" {
			add(acl.TransactionalID, kind, g.txn, acl.Write)
		}
	case role == "consumer":
		add(acl.Topic, kind, topic, acl.Read)
		if g.group != "" {
			add(acl.Group, kind, g.group, acl.Read)
		}
	case role == "admin" && topic != "":
		add(acl.Topic, kind, topic, acl.All)
	case role == "admin":
		add(acl.Cluster, acl.Literal, acl.ClusterName, acl.All)
		for _, t := range []acl.ResourceType{acl.Topic, acl.Group, acl.TransactionalID} {
			add(t, acl.Literal, acl.Wildcard, acl.All)
		}
	default:
		return nil, usagef("unknown role %q%s: producer, consumer or admin", role, didYouMean(nearest(role, roles)))
	}
	return out, nil
}

func didYouMean(guess string) string {
	if guess == "" {
		return ""
	}
	return ", did you mean " + guess + "?"
}

// principalOf makes a principal of a user's name.
func principalOf(user string) string {
	if strings.Contains(user, ":") {
		return user
	}
	return "User:" + user
}

func (g *grant) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&g.prefix, "prefix", false, "TOPIC, --group and --transactional-id are how names begin")
	cmd.Flags().StringVar(&g.group, "group", "", "consumer: also read as this `GROUP`; '*' is every group")
	cmd.Flags().StringVar(&g.txn, "transactional-id", "", "producer: also write transactions with this `ID`")
	cmd.Flags().StringVar(&g.host, "host", acl.Wildcard, "only from this `ADDRESS`")
}

func newACLGrant(c *command) *cobra.Command {
	var g grant
	cmd := &cobra.Command{
		Use: "grant {producer|consumer|admin} USER [TOPIC]", Short: "Allow a user what a role needs",
		Long: "Allow a user what a role needs.\n\n" +
			"  producer   write TOPIC, and create it\n" +
			"  consumer   read TOPIC, and with --group as a member of that group\n" +
			"  admin      everything on TOPIC; without TOPIC everything on everything\n\n" +
			"Open connections have it at once.",
		Example: "  moldau acl grant producer alice orders\n  moldau acl grant consumer bob orders- --prefix --group billing\n  moldau acl grant admin carol",
	}
	return g.command(c, cmd, func(ctx context.Context, cl *client, args []string, rules []acl.Binding) error {
		if err := cl.createRules(ctx, rules); err != nil {
			return err
		}
		if args[0] == "consumer" && g.group == "" && !c.json() {
			c.note("without --group %s can read, but not as a member of a group", args[1])
		}
		return c.printRules("granted", rules)
	})
}

// command completes a command whose arguments are a role, a user and a topic: run gets the rules that the role consists of.
func (g *grant) command(c *command, cmd *cobra.Command, run func(ctx context.Context, cl *client, args []string, rules []acl.Binding) error) *cobra.Command {
	g.flags(cmd)
	cmd.Args = between(2, 3, "a role, a user and a topic")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		rules, err := g.rules(args[0], args[1], strings.Join(args[2:], ""))
		if err != nil {
			return err
		}
		cl, err := c.connect(cmd.Context())
		if err != nil {
			return err
		}
		defer cl.Close()
		return run(cmd.Context(), cl, args, rules)
	}
	return cmd
}

func newACLRevoke(c *command) *cobra.Command {
	var g grant
	cmd := &cobra.Command{
		Use: "revoke {producer|consumer|admin} USER [TOPIC]", Short: "Take back what grant allowed",
		Long: "Take back what grant allowed, with the same arguments. Other rules stay: moldau acl why tells whether one of them still allows it.\n" +
			"Open connections lose it at once.",
		Example: "  moldau acl revoke producer alice orders\n  moldau acl revoke consumer bob orders- --prefix --group billing",
	}
	return g.command(c, cmd, func(ctx context.Context, cl *client, args []string, rules []acl.Binding) error {
		gone, err := cl.deleteRules(ctx, rules)
		if err != nil {
			return err
		}
		if len(gone) == 0 {
			return &failure{cause: "there is no such grant", value: rules[0].String(), help: "moldau acl list --user " + args[1]}
		}
		return c.printRules("revoked", gone)
	})
}

// printRules tells what was done.
func (c *command) printRules(what string, rules []acl.Binding) error {
	if c.json() {
		return writeJSON(c.Stdout, map[string]any{what: rulesOf(rules)})
	}
	for _, r := range rules {
		if _, err := fmt.Fprintf(c.Stdout, "%s: %s\n", what, printable(r.String())); err != nil {
			return err
		}
	}
	return nil
}

func newACLList(c *command) *cobra.Command {
	var user, topic, of string
	cmd := &cobra.Command{
		Use: "list", Short: "List rules", Args: exactly(0, ""), Aliases: []string{"ls"},
		Example: "  moldau acl list\n  moldau acl list --user bob\n  moldau acl list --topic orders -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			f := anyRule()
			if user != "" {
				f.Principal = new(principalOf(user))
			}
			if topic != "" && of != "" {
				return usagef("--topic and --group: one at a time")
			}
			for name, t := range map[string]acl.ResourceType{topic: acl.Topic, of: acl.Group} {
				if name != "" {
					f.Type, f.Kind, f.Name = t, acl.Match, new(name)
				}
			}
			cl, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			rules, err := cl.rules(cmd.Context(), f)
			if err != nil {
				return err
			}
			if c.json() {
				return writeJSON(c.Stdout, rulesOf(rules))
			}
			if len(rules) == 0 {
				c.note("there are no such rules: moldau acl grant makes some")
				return nil
			}
			return ruleTable(rules).write(c.Stdout)
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "only rules for this `USER`, not those for everybody")
	cmd.Flags().StringVar(&topic, "topic", "", "only rules about this `TOPIC`, those for prefixes of it and for every topic included")
	cmd.Flags().StringVar(&of, "group", "", "only rules about this `GROUP`, likewise")
	return cmd
}

func ruleTable(rules []acl.Binding) *table {
	t := newTable("PERMISSION", "PRINCIPAL", "HOST", "OPERATION", "RESOURCE", "NAME", "PATTERN")
	for _, r := range rules {
		t.add(r.Permission, printable(r.Principal), printable(r.Host), r.Operation, r.Type, printable(r.Name), r.Kind)
	}
	return t
}

type whyJSON struct {
	Allowed   bool       `json:"allowed"`
	Principal string     `json:"principal"`
	Operation string     `json:"operation"`
	Type      string     `json:"resourceType"`
	Resource  string     `json:"resource"`
	Why       string     `json:"why"`
	Rule      *ruleJSON  `json:"rule"`  // what decided; null where none did
	About     []ruleJSON `json:"rules"` // all that are about the resource
	Hint      string     `json:"hint,omitempty"`
	Unknown   string     `json:"unknown,omitempty"`
}

func newACLWhy(c *command) *cobra.Command {
	var host string
	cmd := &cobra.Command{
		Use: "why USER OPERATION RESOURCE", Short: "Say whether a user may do something, and which rule decides", Args: exactly(3, "a user, an operation and a resource"),
		Long: "Say whether a user may do something, and which rule decides.\n\n" +
			"OPERATION is read, write, create, delete, alter, describe, cluster-action, describe-configs, alter-configs or\n" +
			"idempotent-write. RESOURCE is a topic, or group:NAME, transactional-id:NAME, topic:NAME or cluster.",
		Example: "  moldau acl why bob write orders\n  moldau acl why bob read group:billing --host 10.0.0.7\n  moldau acl why carol alter cluster -o json",
		RunE: func(cmd *cobra.Command, args []string) error {
			q, err := parseQuestion(args[0], args[1], args[2], host)
			if err != nil {
				return err
			}
			cl, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			w, err := cl.why(cmd.Context(), q)
			if err != nil {
				return err
			}
			if c.json() {
				return writeJSON(c.Stdout, w)
			}
			return c.printWhy(w)
		},
	}
	cmd.Flags().StringVar(&host, "host", "", "from this `ADDRESS`; without it, from one that no rule names")
	return cmd
}

func parseQuestion(user, operation, resource, host string) (acl.Query, error) {
	q := acl.Query{Principal: principalOf(user), Type: acl.Topic, Name: resource}
	op, ok := acl.ParseOperation(operation)
	if !ok || op <= acl.All {
		return q, usagef("unknown operation %q: see moldau acl why --help", operation)
	}
	q.Operation = op
	if kind, name, found := strings.Cut(resource, ":"); found {
		t, ok := acl.ParseResourceType(kind)
		if !ok || t == acl.AnyResource {
			return q, usagef("unknown kind of resource %q: topic:NAME, group:NAME, transactional-id:NAME or cluster", kind)
		}
		q.Type, q.Name = t, name
	} else if resource == "cluster" {
		q.Type, q.Name = acl.Cluster, acl.ClusterName
	}
	if q.Type == acl.Cluster {
		q.Name = acl.ClusterName
	}
	if host != "" {
		addr, err := netip.ParseAddr(host)
		if err != nil {
			return q, usagef("--host %q: expected an address, such as 10.0.0.7", host)
		}
		q.Host = addr
	}
	return q, nil
}

// why asks the broker for rules and settings, and judges by them as the broker does.
func (cl *client) why(ctx context.Context, q acl.Query) (whyJSON, error) {
	w := whyJSON{Principal: q.Principal, Operation: q.Operation.String(), Type: q.Type.String(), Resource: q.Name, About: rulesOf(nil)}
	about := anyRule()
	about.Type, about.Kind, about.Name = q.Type, acl.Match, &q.Name
	rules, err := cl.rules(ctx, about)
	if err != nil {
		return w, err
	}
	w.About = rulesOf(rules)
	changes := map[acl.Pattern][]acl.Entry{}
	for _, r := range rules {
		changes[r.Pattern] = append(changes[r.Pattern], r.Entry)
	}
	how, unknown := cl.accessSettings(ctx)
	w.Unknown = unknown
	d := how.Decide((*acl.Set)(nil).With(changes), q)
	w.Allowed = d.Allowed
	switch {
	case d.Rule != nil:
		r := ruleOf(*d.Rule)
		w.Why, w.Rule = d.Rule.String(), &r
	case d.Cause == acl.BySuperUser:
		w.Why = config.SuperUsersKey + " names " + q.Principal
	case d.Cause == acl.NoMatch:
		w.Why = "there are rules about the resource, and none allows it"
	case d.Allowed:
		w.Why = "no rule is about the resource, and " + config.AllowUnlistedKey + "=true"
	default:
		w.Why = "no rule is about the resource"
	}
	if !d.Allowed && d.Rule == nil {
		w.Hint = q.GrantCommand()
	}
	return w, nil
}

// accessKeys are the settings that decide beside rules.
const accessKeys = config.SuperUsersKey + " and " + config.AllowUnlistedKey

// accessSettings are what decides beside rules. unknown says what a broker does not tell: Apache Kafka hides it.
func (cl *client) accessSettings(ctx context.Context) (how *acl.Rules, unknown string) {
	how = &acl.Rules{}
	meta, err := ask(ctx, cl, "", func(ctx context.Context) (kadm.Metadata, error) { return cl.adm.BrokerMetadata(ctx) })
	if err != nil || len(meta.Brokers) == 0 {
		return how, accessKeys
	}
	configs, err := cl.configs(ctx, kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(meta.Brokers[0].NodeID)), false)
	if err != nil {
		return how, accessKeys
	}
	for _, k := range configs {
		switch {
		case k.Name != config.SuperUsersKey && k.Name != config.AllowUnlistedKey:
		case k.Value == nil:
			unknown = accessKeys
		case k.Name == config.SuperUsersKey:
			how.SuperUsers, _ = acl.ParseSuperUsers(*k.Value)
		default:
			how.AllowUnlisted = strings.EqualFold(*k.Value, "true")
		}
	}
	return how, unknown
}

func (c *command) printWhy(w whyJSON) error {
	verdict := "denied"
	if w.Allowed {
		verdict = "allowed"
	}
	if _, err := fmt.Fprintf(c.Stdout, "%s: %s %s %s:%s\nwhy: %s\n", verdict, printable(w.Principal), w.Operation, w.Type, printable(w.Resource), printable(w.Why)); err != nil {
		return err
	}
	if len(w.About) > 0 && w.Rule == nil {
		if _, err := fmt.Fprintf(c.Stdout, "rules about the resource: %d; moldau acl list shows them\n", len(w.About)); err != nil {
			return err
		}
	}
	if w.Hint != "" {
		c.note("to allow it: %s", w.Hint)
	}
	if w.Unknown != "" {
		c.note("the broker does not tell %s", w.Unknown)
	}
	return nil
}

func anyRule() acl.Filter {
	return acl.Filter{Type: acl.AnyResource, Kind: acl.AnyPattern, Operation: acl.AnyOperation, Permission: acl.AnyPermission}
}

// aclFailure explains an answer about rules.
func aclFailure(code int16, message *string) error {
	err := kerr.ErrorForCode(code)
	if errors.Is(err, kerr.SecurityDisabled) {
		return &failure{cause: "access control is off", help: "set authorizer.class.name=" + config.StandardAuthorizer + " and super.users=User:NAME, and restart the broker", err: err}
	}
	return explain(err, deref(message), "")
}

// rules lists the rules that a filter means, in order.
func (cl *client) rules(ctx context.Context, f acl.Filter) ([]acl.Binding, error) {
	req := kmsg.NewPtrDescribeACLsRequest()
	req.ResourceType, req.ResourcePatternType, req.ResourceName = kmsg.ACLResourceType(f.Type), kmsg.ACLResourcePatternType(f.Kind), f.Name
	req.Principal, req.Host, req.Operation, req.PermissionType = f.Principal, f.Host, kmsg.ACLOperation(f.Operation), kmsg.ACLPermissionType(f.Permission)
	resp, err := ask(ctx, cl, "", func(ctx context.Context) (*kmsg.DescribeACLsResponse, error) { return req.RequestWith(ctx, cl.Client) })
	if err != nil {
		return nil, err
	}
	if err := aclFailure(resp.ErrorCode, resp.ErrorMessage); err != nil {
		return nil, err
	}
	var out []acl.Binding
	for _, r := range resp.Resources {
		p := acl.Pattern{Type: acl.ResourceType(r.ResourceType), Kind: acl.PatternType(r.ResourcePatternType), Name: r.ResourceName}
		for _, e := range r.ACLs {
			out = append(out, acl.Binding{Pattern: p, Entry: acl.Entry{Principal: e.Principal, Host: e.Host, Operation: acl.Operation(e.Operation), Permission: acl.Permission(e.PermissionType)}})
		}
	}
	slices.SortFunc(out, acl.Binding.Compare)
	return out, nil
}

func (cl *client) createRules(ctx context.Context, rules []acl.Binding) error {
	req := kmsg.NewPtrCreateACLsRequest()
	for _, r := range rules {
		c := kmsg.NewCreateACLsRequestCreation()
		c.ResourceType, c.ResourcePatternType, c.ResourceName = kmsg.ACLResourceType(r.Type), kmsg.ACLResourcePatternType(r.Kind), r.Name
		c.Principal, c.Host, c.Operation, c.PermissionType = r.Principal, r.Host, kmsg.ACLOperation(r.Operation), kmsg.ACLPermissionType(r.Permission)
		req.Creations = append(req.Creations, c)
	}
	resp, err := ask(ctx, cl, "", func(ctx context.Context) (*kmsg.CreateACLsResponse, error) { return req.RequestWith(ctx, cl.Client) })
	if err != nil {
		return err
	}
	for _, r := range resp.Results {
		if err := aclFailure(r.ErrorCode, r.ErrorMessage); err != nil {
			return err
		}
	}
	return nil
}

// deleteRules deletes exactly these rules and returns those that there were.
func (cl *client) deleteRules(ctx context.Context, rules []acl.Binding) (gone []acl.Binding, err error) {
	req := kmsg.NewPtrDeleteACLsRequest()
	for i := range rules {
		r := &rules[i]
		f := kmsg.NewDeleteACLsRequestFilter()
		f.ResourceType, f.ResourcePatternType, f.ResourceName = kmsg.ACLResourceType(r.Type), kmsg.ACLResourcePatternType(r.Kind), &r.Name
		f.Principal, f.Host, f.Operation, f.PermissionType = &r.Principal, &r.Host, kmsg.ACLOperation(r.Operation), kmsg.ACLPermissionType(r.Permission)
		req.Filters = append(req.Filters, f)
	}
	resp, err := ask(ctx, cl, "", func(ctx context.Context) (*kmsg.DeleteACLsResponse, error) { return req.RequestWith(ctx, cl.Client) })
	if err != nil {
		return nil, err
	}
	for i, r := range resp.Results {
		if err := aclFailure(r.ErrorCode, r.ErrorMessage); err != nil {
			return gone, err
		}
		if len(r.MatchingACLs) > 0 && i < len(rules) {
			gone = append(gone, rules[i])
		}
	}
	return gone, nil
}
