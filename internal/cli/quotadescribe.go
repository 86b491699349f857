package cli

import (
	"context"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"

	"moldau/internal/quota"
)

// quotaWhy says which quota counts for one kind of limit.
type quotaWhy struct {
	key    quota.Key
	limit  float64
	rule   quota.Entity
	ok     bool      // there is one
	now    *quotaUse // what is used of it; nil: nothing, or not known
	before []limited // less specific ones that also limit the key, the most specific first
}

type quotaWhyJSON struct {
	Limit  string             `json:"limit"`
	Value  *float64           `json:"value"`  // null: no limit
	Entity map[string]*string `json:"entity"` // whose quota it is; null where there is none
	Why    string             `json:"why"`
	Before []quotaJSON        `json:"before"` // less specific quotas that would count without it
	Now    *quotaUse          `json:"now,omitempty"`
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
	j := quotaWhyJSON{Limit: w.key.String(), Why: w.why(), Before: []quotaJSON{}, Now: w.now}
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
	var address string
	cmd := &cobra.Command{
		Use: "describe", Short: "Say which limits count for a client, and why", Args: exactly(0, ""),
		Long: "Say which limits count for a client, and why.\n\n" +
			"Without --user, --client-id or --ip it is about one that no quota names. For each kind of limit the first\n" +
			"of these that has it counts: user and client id; user and the default client id; user; the default user and client id;\n" +
			"both defaults; the default user; client id; the default client id. For connections: the ip, then the default ip.\n\n" +
			"What is used of it now, and who had to wait, comes from the broker's HTTP listener, whose address is asked for\n" +
			"(moldau.http.listener) unless --http says it; where it does not answer, it is left out.",
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
			list := whyQuotas(rules, user, clientID, ip)
			known, err := c.usedNow(cmd.Context(), address, list, user, clientID, ip)
			if err != nil {
				return err
			}
			return c.printWhyQuotas(list, known)
		},
	}
	of.add(cmd, false)
	cmd.Flags().StringVar(&address, "http", "", "moldau.http.listener of the broker, `HOST:PORT`")
	return cmd
}

// quotaUse is what a client uses of a quota. Its names are those of the broker's /quota.
type quotaUse struct {
	Quota       string            `json:"quota"`
	Entity      map[string]string `json:"entity"` // who shares the limit with the client
	Rate        float64           `json:"rate"`
	Throttled   int64             `json:"throttled"`
	ThrottledMs int64             `json:"throttledMs"`
	LastMs      int64             `json:"lastThrottleMs"`
	AgoMs       *int64            `json:"lastThrottledAgoMs"`
}

func (u *quotaUse) text(k quota.Key) string {
	if u == nil {
		return "-"
	}
	rate := u.Rate
	if k == quota.ProducerByteRate || k == quota.ConsumerByteRate {
		rate = math.Round(rate)
	}
	text := limitText(k, math.Round(rate*100)/100)
	if u.AgoMs != nil {
		text += fmt.Sprintf(", had to wait %s %s ago", tookText(u.LastMs), tookText(*u.AgoMs))
	}
	return text
}

// usedNow adds what is used now, if a broker tells it. An address that was given must.
func (c *command) usedNow(ctx context.Context, address string, list []quotaWhy, user, clientID, ip string) (known bool, err error) {
	cl, err := c.connect(ctx)
	if err != nil {
		return false, err
	}
	defer cl.Close()
	meta, err := ask(ctx, cl, "", func(ctx context.Context) (kadm.Metadata, error) { return cl.adm.BrokerMetadata(ctx) })
	if err != nil || len(meta.Brokers) == 0 {
		return false, err
	}
	b := meta.Brokers[0]
	query := url.Values{}
	for of, name := range map[string]string{quota.UserType: user, quota.ClientIDType: clientID, quota.IPType: ip} {
		query.Set(of, name)
	}
	var answer struct{ Usage []quotaUse }
	if err := cl.askHTTP(ctx, address, groupCoordinator{ID: b.NodeID, Host: b.Host, Port: b.Port}, "/quota?"+query.Encode(), &answer); err != nil {
		if address == "" {
			err = nil
		}
		return false, err
	}
	for i := range list {
		w := &list[i]
		for _, u := range answer.Usage {
			if w.ok && u.Quota == w.key.String() && w.pays(u.Entity) {
				w.now = &u
			}
		}
	}
	return true, nil
}

// pays reports whether an account of a client is that of the rule: it has the rule's parts, and no others.
func (w *quotaWhy) pays(account map[string]string) bool {
	n := 0
	for of := range w.rule.Parts {
		n++
		if _, ok := account[of]; !ok {
			return false
		}
	}
	return n == len(account)
}

func (c *command) printWhyQuotas(list []quotaWhy, known bool) error {
	if c.json() {
		out := make([]quotaWhyJSON, len(list))
		for i, w := range list {
			out[i] = w.json()
		}
		return writeJSON(c.Stdout, out)
	}
	t := newTable("LIMIT", "VALUE", "QUOTA OF", "WHY")
	if known {
		t = newTable("LIMIT", "VALUE", "NOW", "QUOTA OF", "WHY")
	}
	for _, w := range list {
		row := []any{w.key, "-", "-", w.why()}
		if w.ok {
			row[1], row[2] = limitText(w.key, w.limit), entityText(w.rule)
		}
		if known {
			row = slices.Insert(row, 2, any(w.now.text(w.key)))
		}
		t.add(row...)
	}
	return t.write(c.Stdout)
}
