package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"moldau/internal/quota"
)

// quotaWhy says which quota counts for one kind of limit.
type quotaWhy struct {
	key    quota.Key
	limit  float64
	rule   quota.Entity
	ok     bool      // there is one
	before []limited // less specific ones that also limit the key, the most specific first
}

type quotaWhyJSON struct {
	Limit  string             `json:"limit"`
	Value  *float64           `json:"value"`  // null: no limit
	Entity map[string]*string `json:"entity"` // whose quota it is; null where there is none
	Why    string             `json:"why"`
	Before []quotaJSON        `json:"before"` // less specific quotas that would count without it
}

// why says in words why the rule counts.
func (w quotaWhy) why() string {
	switch {
	case !w.ok:
		return "no quota limits it"
	case len(w.before) == 0:
		return "the only one"
	}
	var others []string
	for _, l := range w.before {
		v, _ := l.limits.Get(w.key)
		others = append(others, entityText(l.entity)+" "+limitText(w.key, v))
	}
	return "more specific than " + strings.Join(others, "; ")
}

func (w quotaWhy) json() quotaWhyJSON {
	j := quotaWhyJSON{Limit: w.key.String(), Why: w.why(), Before: []quotaJSON{}}
	if w.ok {
		j.Value, j.Entity = &w.limit, entityJSON(w.rule)
	}
	for _, l := range w.before {
		j.Before = append(j.Before, l.json())
	}
	return j
}

// whyQuotas asks rules about a client at an address. A name that is empty is one that no rule names.
func whyQuotas(rules *quota.Rules, user, clientID, ip string) []quotaWhy {
	var out []quotaWhy
	clients, addresses := quota.ClientEntities(user, clientID), quota.AddressEntities(ip)
	for k := range quota.Keys {
		w, about := quotaWhy{key: k}, clients[:]
		if k == quota.ConnectionCreationRate {
			w.limit, w.rule, w.ok = rules.Address(ip)
			about = addresses[:]
		} else {
			w.limit, w.rule, w.ok = rules.Client(k, user, clientID)
		}
		for _, e := range about {
			if v, ok := rules.Of(e).Get(k); ok && e != w.rule {
				w.before = append(w.before, limited{e, quota.Limits{}.With(k, v)})
			}
		}
		out = append(out, w)
	}
	return out
}

func newQuotaDescribe(c *command) *cobra.Command {
	var of entityFlags
	cmd := &cobra.Command{
		Use: "describe", Short: "Say which limits count for a client, and why", Args: exactly(0, ""),
		Long: "Say which limits count for a client, and why.\n\n" +
			"Without --user, --client-id or --ip it is about one that no quota names. For each kind of limit the first\n" +
			"of these that has it counts: user and client id; user and the default client id; user; the default user and client id;\n" +
			"both defaults; the default user; client id; the default client id. For connections: the ip, then the default ip.",
		Example: "  moldau quota describe --user alice --client-id reader\n  moldau quota describe --ip 10.0.0.7 -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			e, err := of.entity(cmd)
			if err != nil {
				return err
			}
			user, clientID, ip := e.User.Name(), e.ClientID.Name(), e.IP.Name()
			clients, addresses := quota.ClientEntities(user, clientID), quota.AddressEntities(ip)
			about := append(clients[:], addresses[:]...)
			rules, err := c.quotasOf(cmd.Context(), slices.DeleteFunc(about, func(e quota.Entity) bool { return e.Problem() != "" })) // none has an empty name
			if err != nil {
				return err
			}
			return c.printWhyQuotas(whyQuotas(rules, user, clientID, ip))
		},
	}
	of.add(cmd, false)
	return cmd
}

func (c *command) printWhyQuotas(list []quotaWhy) error {
	if c.json() {
		out := make([]quotaWhyJSON, len(list))
		for i, w := range list {
			out[i] = w.json()
		}
		return writeJSON(c.Stdout, out)
	}
	t := newTable("LIMIT", "VALUE", "QUOTA OF", "WHY")
	for _, w := range list {
		if w.ok {
			t.add(w.key, limitText(w.key, w.limit), entityText(w.rule), w.why())
		} else {
			t.add(w.key, "-", "-", w.why())
		}
	}
	return t.write(c.Stdout)
}
