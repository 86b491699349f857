package broker

import (
	"context"
	"encoding/json"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"moldau/internal/metastore"
	"moldau/internal/vfs"
	"moldau/test/leak"
)

func setQuota(t *testing.T, admin *kadm.Client, key string, value float64, entity ...kadm.ClientQuotaEntityComponent) {
	t.Helper()
	done, err := admin.AlterClientQuotas(t.Context(), []kadm.AlterClientQuotaEntry{{Entity: entity, Ops: []kadm.AlterClientQuotaOp{{Key: key, Value: value}}}})
	if err != nil || done[0].Err != nil {
		t.Fatal(err, done)
	}
}

func named(of, name string) kadm.ClientQuotaEntityComponent {
	return kadm.ClientQuotaEntityComponent{Type: of, Name: &name}
}

func (b *Broker) askQuota(t *testing.T, query string) quotaAnswer {
	t.Helper()
	w := httptest.NewRecorder()
	b.serveQuota(w, httptest.NewRequest("GET", "/quota"+query, nil))
	var a quotaAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

// Who is throttled, and by which rule, is in /quota and /metrics; of the connections that an address may make too.
func TestQuotaUsage(t *testing.T) {
	defer leak.Check(t)()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	store := metastore.NewSim().Open()
	defer store.Close()
	b := startInMemory(t, vfs.NewMem(), store)
	defer b.Abort()
	c := client(t, b, kgo.ClientID("noisy"), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.AllowAutoTopicCreation(), kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()), kgo.MaxProduceRequestsInflightPerBroker(1))
	defer c.Close()
	admin := kadm.NewClient(c)
	setQuota(t, admin, "producer_byte_rate", 100, kadm.ClientQuotaEntityComponent{Type: "client-id"})
	setQuota(t, admin, "consumer_byte_rate", 1e9, named("user", "ANONYMOUS"))
	if err := c.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: make([]byte, 1500)}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	setQuota(t, admin, "connection_creation_rate", 1e-6, named("ip", "127.0.0.1"))
	for len(b.askQuota(t, "?ip=127.0.0.1").Usage) == 0 { // the rule is in force a moment after it was set
		nc, err := net.Dial("tcp", b.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		nc.Close()
		if ctx.Err() != nil {
			t.Fatal("no connection was counted")
		}
	}
	got := map[string]quotaUse{}
	for _, u := range b.askQuota(t, "").Usage {
		got[u.Quota] = u
	}
	p := got["producer_byte_rate"]
	if rule, ok := p.Rule["client-id"]; p.Entity["client-id"] != "noisy" || !ok || rule != nil || p.Limit != 100 || p.Rate < 100 || p.Throttled != 1 || p.LastMs < 1000 || p.AgoMs == nil {
		t.Errorf("%+v", p)
	}
	if ip := got["connection_creation_rate"]; ip.Entity["ip"] != "127.0.0.1" || ip.Throttled == 0 || *ip.Rule["ip"] != "127.0.0.1" {
		t.Errorf("%+v", ip)
	}
	for query, want := range map[string]int{"?client-id=noisy": 1, "?client-id=noisy&user=x": 1, "?client-id=other": 0, "?user=noisy": 0, "?ip=127.0.0.1": 1} {
		if n := len(b.askQuota(t, query).Usage); n != want {
			t.Errorf("%s: %d accounts, want %d", query, n, want)
		}
	}
	families, err := b.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "moldau_quota_throttle_seconds" && strings.Contains(m.String(), "client-id=<default>") && strings.Contains(m.String(), "noisy") && m.GetGauge().GetValue() >= 1 {
				found++
			}
			if f.GetName() == "moldau_quota_accounts_throttled" && m.GetGauge().GetValue() == 1 {
				found++
			}
		}
	}
	if found != 3 {
		t.Errorf("%d series of those that are throttled, want 3", found)
	}
}
