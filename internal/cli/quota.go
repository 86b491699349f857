package cli

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/bench"
	"moldau/internal/quota"
)

// quotaJSON is a quota as Kafka's requests write it: a part of the entity that is null is the default.
type quotaJSON struct {
	Entity map[string]*string `json:"entity"`
	Limits map[string]float64 `json:"limits"`
}

// limited is an entity with its limits.
type limited struct {
	entity quota.Entity
	limits quota.Limits
}

func (l limited) json() quotaJSON {
	j := quotaJSON{entityJSON(l.entity), map[string]float64{}}
	for k := range quota.Keys {
		if v, ok := l.limits.Get(k); ok {
			j.Limits[k.String()] = v
		}
	}
	return j
}

func entityJSON(e quota.Entity) map[string]*string {
	j := map[string]*string{}
	for of, p := range e.Parts {
		j[of] = partName(p)
	}
	return j
}

// partName is nil for the default.
func partName(p quota.Part) *string {
	if p.IsDefault() {
		return nil
	}
	return new(p.Name())
}

// entityText is an entity in a sentence.
func entityText(e quota.Entity) string {
	var parts []string
	for of, p := range e.Parts {
		if p.IsDefault() {
			parts = append(parts, of+" (default)")
		} else {
			parts = append(parts, of+" "+printable(p.Name()))
		}
	}
	return strings.Join(parts, ", ")
}

// limitText is a limit with its unit.
func limitText(k quota.Key, v float64) string {
	n := strconv.FormatFloat(v, 'f', -1, 64)
	switch k {
	case quota.ProducerByteRate, quota.ConsumerByteRate:
		if v == math.Trunc(v) && v < math.MaxInt64 {
			n = sizeText(int64(v))
		}
		if strings.Trim(n, "0123456789.") == "" {
			n += "B"
		}
		return n + "/s"
	case quota.RequestPercentage:
		return n + "%"
	}
	return n + "/s"
}

func newQuota(c *command) *cobra.Command {
	group := &cobra.Command{Use: "quota", Short: "Limit what clients may use, and say which limit counts for whom",
		Long: "Limit what clients may use, and say which limit counts for whom.\n\n" +
			"A quota is for a user, a client id, both together, or an ip. A default is for all who have none of their own.\n" +
			"The most specific one counts, for each kind of limit by itself. kafka-configs.sh works too.",
		Example: "  moldau quota set --user alice --producer-byte-rate 5MB\n  moldau quota set --user-default --request-percentage 50\n" +
			"  moldau quota describe --user alice --client-id reader"}
	asGroup(group)
	group.AddCommand(newQuotaSet(c), newQuotaRemove(c), newQuotaList(c), newQuotaDescribe(c))
	return group
}

// entityFlags name an entity.
type entityFlags struct{ user, client, ip partFlag }

// partFlag is a name, or the default.
type partFlag struct {
	name      string
	byDefault bool
}

func (f *entityFlags) add(cmd *cobra.Command, defaults bool) {
	for _, p := range []struct {
		of, name string
		flag     *partFlag
	}{{quota.UserType, "NAME", &f.user}, {quota.ClientIDType, "ID", &f.client}, {quota.IPType, "ADDRESS", &f.ip}} {
		what := strings.ReplaceAll(p.of, "-", " ")
		cmd.Flags().StringVar(&p.flag.name, p.of, "", "the "+what+" with this `"+p.name+"`")
		if defaults {
			cmd.Flags().BoolVar(&p.flag.byDefault, p.of+"-default", false, "the default: every "+what+" without a quota of its own")
		}
	}
}

// entity is what the flags name.
func (f *entityFlags) entity(cmd *cobra.Command) (e quota.Entity, err error) {
	for of, p := range map[string]partFlag{quota.UserType: f.user, quota.ClientIDType: f.client, quota.IPType: f.ip} {
		named := cmd.Flags().Changed(of)
		switch {
		case named && p.byDefault:
			return e, usagef("--%s and --%s-default: one at a time", of, of)
		case named && p.name == "":
			return e, usagef("--%s is empty: --%s-default is for all without a quota of their own", of, of)
		case named && of == quota.UserType:
			*e.Part(of) = quota.Named(strings.TrimPrefix(p.name, "User:"))
		case named:
			*e.Part(of) = quota.Named(p.name)
		case p.byDefault:
			*e.Part(of) = quota.Default
		}
	}
	if e.IP.Present() && !e.IP.IsDefault() {
		if _, ok := quota.PlainAddress(e.IP.Name()); !ok {
			return e, usagef("--ip %q: expected an address, such as 10.0.0.7", e.IP.Name())
		}
	}
	return e, nil
}

// target is an entity that there can be.
func (f *entityFlags) target(cmd *cobra.Command) (quota.Entity, error) {
	e, err := f.entity(cmd)
	switch {
	case err != nil:
		return e, err
	case e == quota.Entity{}:
		return e, usagef("whose quota? --user, --client-id, both, or --ip; each has a form for the default, such as --user-default")
	case e.Problem() != "":
		return e, usagef("%s: that cannot be one entity", e.Problem())
	}
	return e, nil
}

// limitHelp are the flags that set limits.
var limitHelp = map[quota.Key]string{
	quota.ProducerByteRate:       "`SIZE` of what may be produced a second, such as 5MB",
	quota.ConsumerByteRate:       "`SIZE` of what may be fetched a second, such as 512KiB",
	quota.RequestPercentage:      "`PERCENT` of a thread's time that requests may take; 200 is two threads",
	quota.ControllerMutationRate: "`NUMBER` of partitions that may be created or deleted a second",
	quota.ConnectionCreationRate: "`NUMBER` of connections that an ip may open a second",
}

// flagName is the flag for a key.
func flagName(k quota.Key) string { return strings.ReplaceAll(k.String(), "_", "-") }

// parseLimit reads a limit of a key.
func parseLimit(k quota.Key, s string) (v float64, err error) {
	want := "a number above zero, such as 12.5"
	switch k {
	case quota.ProducerByteRate, quota.ConsumerByteRate:
		var n int64
		n, err = bench.ParseSize(strings.TrimSuffix(s, "/s"))
		v, want = float64(n), "bytes a second, such as 1024, 512KiB or 5MB"
	case quota.RequestPercentage:
		v, err = strconv.ParseFloat(strings.TrimSuffix(s, "%"), 64)
	default:
		v, err = strconv.ParseFloat(strings.TrimSuffix(s, "/s"), 64)
	}
	if err != nil || !quota.Valid(v) {
		return 0, usagef("--%s %q: expected %s; moldau quota remove takes a limit away", flagName(k), s, want)
	}
	return v, nil
}

func newQuotaSet(c *command) *cobra.Command {
	var of entityFlags
	values := map[quota.Key]*string{}
	cmd := &cobra.Command{
		Use: "set", Short: "Set limits of a user, a client id, both or an ip", Args: exactly(0, ""),
		Long: "Set limits of a user, a client id, both together, or an ip; other limits of it stay.\n\n" +
			"A limit counts on each broker by itself, as in Kafka.",
		Example: "  moldau quota set --user alice --producer-byte-rate 5MB --consumer-byte-rate 10MB\n" +
			"  moldau quota set --user alice --client-id-default --consumer-byte-rate 1MB\n" +
			"  moldau quota set --client-id-default --request-percentage 50\n" +
			"  moldau quota set --ip 10.0.0.7 --connection-creation-rate 20",
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := of.target(cmd)
			if err != nil {
				return err
			}
			l := limited{entity: e}
			for k := range quota.Keys {
				if !cmd.Flags().Changed(flagName(k)) {
					continue
				}
				v, err := parseLimit(k, *values[k])
				if err != nil {
					return err
				}
				if !e.Has(k) {
					return usagef("--%s is not for %s, which has %s", flagName(k), entityText(e), limitFlags(e))
				}
				l.limits = l.limits.With(k, v)
			}
			if l.limits.Empty() {
				return usagef("which limit? %s", limitFlags(e))
			}
			return c.alterQuota(cmd.Context(), "set", l, func(op *kadm.AlterClientQuotaOp, v float64) { op.Value = v })
		},
	}
	of.add(cmd, true)
	for k := range quota.Keys {
		values[k] = cmd.Flags().String(flagName(k), "", limitHelp[k])
	}
	return cmd
}

// limitFlags are the flags of the limits that an entity can have.
func limitFlags(e quota.Entity) string {
	var flags []string
	for k := range quota.Keys {
		if e.Has(k) {
			flags = append(flags, "--"+flagName(k))
		}
	}
	return strings.Join(flags, ", ")
}

// alterQuota sets or removes each limit of l, as how says, and tells it.
func (c *command) alterQuota(ctx context.Context, what string, l limited, how func(op *kadm.AlterClientQuotaOp, v float64)) error {
	cl, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer cl.Close()
	entry := kadm.AlterClientQuotaEntry{}
	for of, p := range l.entity.Parts {
		entry.Entity = append(entry.Entity, kadm.ClientQuotaEntityComponent{Type: of, Name: partName(p)})
	}
	for k := range quota.Keys {
		if v, ok := l.limits.Get(k); ok {
			op := kadm.AlterClientQuotaOp{Key: k.String()}
			how(&op, v)
			entry.Ops = append(entry.Ops, op)
		}
	}
	done, err := ask(ctx, cl, "", func(ctx context.Context) (kadm.AlteredClientQuotas, error) {
		return cl.adm.AlterClientQuotas(ctx, []kadm.AlterClientQuotaEntry{entry})
	})
	if err != nil {
		return err
	}
	for _, d := range done {
		if err := explain(d.Err, d.ErrMessage, entityText(l.entity)); err != nil {
			return err
		}
	}
	if c.json() {
		return writeJSON(c.Stdout, map[string]any{what: l.json()})
	}
	for k := range quota.Keys {
		if v, ok := l.limits.Get(k); ok {
			if _, err := fmt.Fprintf(c.Stdout, "%s: %s: %s %s\n", what, entityText(l.entity), k, limitText(k, v)); err != nil {
				return err
			}
		}
	}
	return nil
}

func newQuotaRemove(c *command) *cobra.Command {
	var of entityFlags
	var names []string
	for k := range quota.Keys {
		names = append(names, flagName(k))
	}
	cmd := &cobra.Command{
		Use: "remove [LIMIT]...", Short: "Take limits away", Aliases: []string{"rm"},
		Long: "Take limits away, all of the entity's, or those that are named:\n  " + strings.Join(names, ", ") + "\n\n" +
			"Less specific quotas may then count: moldau quota describe tells.",
		Example: "  moldau quota remove --user alice\n  moldau quota remove --user-default producer-byte-rate",
		RunE: func(cmd *cobra.Command, args []string) error {
			e, err := of.target(cmd)
			if err != nil {
				return err
			}
			var only []quota.Key
			for _, a := range args {
				k, ok := quota.KeyOf(strings.ReplaceAll(a, "-", "_"))
				if !ok {
					return usagef("unknown limit %q%s: %s", a, didYouMean(nearest(a, names)), strings.Join(names, ", "))
				}
				only = append(only, k)
			}
			have, err := c.quotasOf(cmd.Context(), []quota.Entity{e})
			if err != nil {
				return err
			}
			l := limited{entity: e}
			for k := range quota.Keys {
				if v, ok := have.Of(e).Get(k); ok && (only == nil || slices.Contains(only, k)) {
					l.limits = l.limits.With(k, v)
				}
			}
			if l.limits.Empty() {
				return &failure{cause: "there is no such quota", value: entityText(e), help: "moldau quota list", err: kerr.ResourceNotFound}
			}
			return c.alterQuota(cmd.Context(), "removed", l, func(op *kadm.AlterClientQuotaOp, _ float64) { op.Remove = true })
		},
	}
	cmd.ValidArgs = names
	of.add(cmd, true)
	return cmd
}

func newQuotaList(c *command) *cobra.Command {
	var of entityFlags
	cmd := &cobra.Command{
		Use: "list", Short: "List quotas", Args: exactly(0, ""), Aliases: []string{"ls"},
		Example: "  moldau quota list\n  moldau quota list --user alice\n  moldau quota list --client-id-default -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := of.entity(cmd)
			if err != nil {
				return err
			}
			cl, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			list, err := cl.quotas(cmd.Context(), e, false)
			if err != nil {
				return err
			}
			if c.json() {
				rows := make([]quotaJSON, len(list))
				for i := range list {
					rows[i] = list[i].json()
				}
				return writeJSON(c.Stdout, rows)
			}
			if len(list) == 0 {
				c.note("there are no such quotas: moldau quota set makes some")
				return nil
			}
			return quotaTable(list).write(c.Stdout)
		},
	}
	of.add(cmd, true)
	return cmd
}

func quotaTable(list []limited) *table {
	part := func(p quota.Part) string {
		switch {
		case !p.Present():
			return "-"
		case p.IsDefault():
			return "(default)"
		}
		return printable(p.Name())
	}
	t := newTable("USER", "CLIENT ID", "IP", "LIMIT", "VALUE")
	for _, l := range list {
		for k := range quota.Keys {
			if v, ok := l.limits.Get(k); ok {
				t.add(part(l.entity.User), part(l.entity.ClientID), part(l.entity.IP), k, limitText(k, v))
			}
		}
	}
	return t
}

// quotas are those of entities that have the parts of e, and, if strict, no others; in order.
func (cl *client) quotas(ctx context.Context, e quota.Entity, strict bool) ([]limited, error) {
	var filter []kadm.DescribeClientQuotaComponent
	for of, p := range e.Parts {
		c := kadm.DescribeClientQuotaComponent{Type: of, MatchName: partName(p)}
		if p.IsDefault() {
			c.MatchType = kmsg.QuotasMatchTypeDefault
		}
		filter = append(filter, c)
	}
	described, err := ask(ctx, cl, "", func(ctx context.Context) (kadm.DescribedClientQuotas, error) {
		return cl.adm.DescribeClientQuotas(ctx, strict, filter)
	})
	if err != nil {
		return nil, err
	}
	var out []limited
	for _, d := range described {
		var l limited
		for _, c := range d.Entity {
			part := l.entity.Part(c.Type)
			switch {
			case part == nil:
				return nil, fmt.Errorf("the broker has a quota for an entity of the unknown type %q", c.Type)
			case c.Name == nil:
				*part = quota.Default
			default:
				*part = quota.Named(*c.Name)
			}
		}
		for _, v := range d.Values {
			if k, ok := quota.KeyOf(v.Key); ok {
				l.limits = l.limits.With(k, v.Value)
			}
		}
		out = append(out, l)
	}
	slices.SortFunc(out, func(x, y limited) int { return x.entity.Compare(y.entity) })
	return out, nil
}

// quotasOf are the quotas of just these entities.
func (c *command) quotasOf(ctx context.Context, entities []quota.Entity) (*quota.Rules, error) {
	cl, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	changes := map[quota.Entity]quota.Limits{}
	for _, e := range entities {
		list, err := cl.quotas(ctx, e, true)
		if err != nil {
			return nil, err
		}
		for _, l := range list {
			changes[e] = l.limits // the broker may spell an address in another way
		}
	}
	return (*quota.Rules)(nil).With(changes), nil
}
