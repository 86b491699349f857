package broker

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"moldau/internal/quota"
)

// quotaAnswer is what /quota answers. Kafka's protocol has no request for it.
type quotaAnswer struct {
	ClusterID string     `json:"clusterId"`
	NodeID    int32      `json:"nodeId"`
	LeftOut   int        `json:"leftOut"` // accounts that use least of their limit, where there are very many
	Usage     []quotaUse `json:"usage"`   // of those who used something lately, who uses most of his limit first
}

// quotaUse is what an account uses of a quota. A part of a rule that is null is the default.
type quotaUse struct {
	Quota       string             `json:"quota"`
	Entity      map[string]string  `json:"entity"` // who pays; empty: all further names of the rule together, of which there were too many
	Rule        map[string]*string `json:"rule"`
	Limit       float64            `json:"limit"`
	Rate        float64            `json:"rate"`        // over quota.window
	Throttled   int64              `json:"throttled"`   // how often, since the account was last idle
	ThrottledMs int64              `json:"throttledMs"` // for how long in all
	LastMs      int64              `json:"lastThrottleMs"`
	AgoMs       *int64             `json:"lastThrottledAgoMs"` // null: never
}

// mostUses bounds what /quota answers.
const mostUses = 1000

// quotaUsage is what clients and addresses use of their quotas, who uses most first.
func (b *Broker) quotaUsage() []quota.Usage {
	all := append(b.service.table.QuotaUsage(), b.net.QuotaUsage()...)
	slices.SortFunc(all, func(x, y quota.Usage) int {
		return cmp.Or(cmp.Compare(y.PerSecond/y.Limit, x.PerSecond/x.Limit), cmp.Compare(x.Key, y.Key), x.Payer.Compare(y.Payer))
	})
	return all
}

// serveQuota answers /quota with what all accounts use, and /quota?user=USER&client-id=ID&ip=ADDRESS, where not all have to be there, with what
// those use that somebody with these names may be charged to: they share a part with them, and have no other in its place.
func (b *Broker) serveQuota(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	answer := quotaAnswer{ClusterID: b.cluster.ClusterID(), NodeID: b.o.Config.NodeID(), Usage: []quotaUse{}}
	for _, u := range b.quotaUsage() {
		use := useOf(u)
		asked := len(query) == 0
		for of, name := range use.Entity {
			if query.Has(of) {
				if asked = query.Get(of) == name; !asked {
					break
				}
			}
		}
		switch {
		case !asked:
		case len(answer.Usage) == mostUses:
			answer.LeftOut++
		default:
			answer.Usage = append(answer.Usage, use)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the client is gone if it fails
}

func useOf(u quota.Usage) quotaUse {
	use := quotaUse{Quota: u.Key.String(), Entity: map[string]string{}, Rule: map[string]*string{}, Limit: u.Limit, Rate: u.PerSecond,
		Throttled: u.Throttled, ThrottledMs: u.ThrottledMs, LastMs: u.LastMs}
	for of, p := range u.Payer.Parts {
		use.Entity[of] = p.Name()
	}
	for of, p := range u.Rule.Parts {
		if use.Rule[of] = nil; !p.IsDefault() {
			use.Rule[of] = new(p.Name())
		}
	}
	if u.AgoMs >= 0 {
		use.AgoMs = &u.AgoMs
	}
	return use
}

var (
	quotaLabels     = []string{"quota", "user", "client_id", "ip", "rule"}
	quotaRateDesc   = prometheus.NewDesc("moldau_quota_rate", "What an account that was throttled lately uses a second, over quota.window. At most fifty accounts, who uses most of his limit first. Of the label rule, a part that is <default> is that for names without a rule of their own.", quotaLabels, nil)
	quotaLimitDesc  = prometheus.NewDesc("moldau_quota_limit", "What the rule allows the account.", quotaLabels, nil)
	quotaTimeDesc   = prometheus.NewDesc("moldau_quota_throttle_seconds", "For how long a client of the account had to wait the last time.", quotaLabels, nil)
	quotaActiveDesc = prometheus.NewDesc("moldau_quota_accounts", "Accounts that used something of the quota lately.", []string{"quota"}, nil)
	quotaHeldDesc   = prometheus.NewDesc("moldau_quota_accounts_throttled", "Accounts of which a client had to wait in the last minute.", []string{"quota"}, nil)
)

const (
	mostQuotaSeries = 50
	throttledLately = time.Minute
)

// quotaMetrics tells who is throttled by which rule.
type quotaMetrics struct{ b *Broker }

// Describe implements prometheus.Collector.
func (m quotaMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{quotaRateDesc, quotaLimitDesc, quotaTimeDesc, quotaActiveDesc, quotaHeldDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m quotaMetrics) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	active, held, room := map[quota.Key]int{}, map[quota.Key]int{}, mostQuotaSeries
	for _, u := range m.b.quotaUsage() {
		active[u.Key]++
		if u.AgoMs < 0 || u.AgoMs > throttledLately.Milliseconds() {
			continue
		}
		held[u.Key]++
		labels := []string{u.Key.String(), u.Payer.User.Name(), u.Payer.ClientID.Name(), u.Payer.IP.Name(), ruleText(u.Rule)}
		if room == 0 || slices.ContainsFunc(labels, func(s string) bool { return !utf8.ValidString(s) }) {
			continue // any bytes may be a name, and no others a label
		}
		room--
		gauge(quotaRateDesc, u.PerSecond, labels...)
		gauge(quotaLimitDesc, u.Limit, labels...)
		gauge(quotaTimeDesc, float64(u.LastMs)/1000, labels...)
	}
	for k := range quota.Keys {
		gauge(quotaActiveDesc, float64(active[k]), k.String())
		gauge(quotaHeldDesc, float64(held[k]), k.String())
	}
}

// ruleText names a rule as Kafka's tools write entities.
func ruleText(e quota.Entity) string {
	text := ""
	for of, p := range e.Parts {
		name := p.Name()
		if p.IsDefault() {
			name = "<default>"
		}
		if text != "" {
			text += ","
		}
		text += of + "=" + name
	}
	return text
}
