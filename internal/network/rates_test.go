package network

import (
	"net"
	"testing"
	"time"

	"moldau/internal/quota"
)

func rated(o *Options) { o.QuotaWindow = quota.Window{Samples: 1000, LengthMs: 1000} }

func connectionQuotas(of map[quota.Entity]float64) *quota.Rules {
	limits := map[quota.Entity]quota.Limits{}
	for e, v := range of {
		limits[e] = quota.Limits{}.With(quota.ConnectionCreationRate, v)
	}
	var none *quota.Rules
	return none.With(limits)
}

// refused demands that a connection is closed without an answer, after a while.
func refused(t *testing.T, nc net.Conn) {
	t.Helper()
	_, _ = nc.Write(request(keyTiny, 1, nil))
	if corr, _, err := readResponse(nc); err == nil {
		t.Fatalf("request %d of a connection beyond the quota was answered", corr)
	}
}

// Whose address is beyond its quota is not served and closed after a while; others, and the connections that are there, are served meanwhile. A
// refused connection is not charged.
func TestQuotaOfConnections(t *testing.T) {
	h := serve(t, &fakeService{}, rated)
	h.SetQuotas(connectionQuotas(map[quota.Entity]float64{{IP: quota.Default}: 0.0031, {IP: quota.Named("127.0.0.2")}: 1000}))
	first, second, third := h.from("127.0.0.1", 0), h.from("127.0.0.1", 0), h.from("127.0.0.1", 0) // 3 in 999 seconds
	for _, nc := range []net.Conn{first, second, third} {
		ping(t, nc)
	}
	var away []net.Conn
	for range 5 {
		away = append(away, h.from("127.0.0.1", 0))
	}
	other := h.from("127.0.0.2", 0)
	ping(t, other) // at once, though the acceptor has those before it to deal with
	ping(t, first)
	for _, nc := range away {
		refused(t, nc)
	}
	h.expectLog("quota of the address exceeded", "connection_creation_rate")
	for _, u := range h.QuotaUsage() {
		if u.Payer == (quota.Entity{IP: quota.Named("127.0.0.1")}) && (u.PerSecond > 0.0031 || u.Throttled != 5) {
			t.Errorf("%+v", u)
		}
	}
	h.SetQuotas(nil)
	ping(t, h.from("127.0.0.1", 0))
}

// An end closes what was sent away, and waits for nothing.
func TestConnectionsSentAwayDoNotDelayTheEnd(t *testing.T) {
	h := serve(t, &fakeService{}, func(o *Options) { o.QuotaWindow = quota.Window{Samples: 2, LengthMs: 3_600_000} })
	h.SetQuotas(connectionQuotas(map[quota.Entity]float64{{IP: quota.Default}: 1e-6}))
	nc := h.dialPlain()
	eventually(t, "sent away", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.sentAway) == 1 })
	h.Abort()
	refused(t, nc)
}

// What was sent away takes no descriptor that a connection needs, and there is never much of it.
func TestConnectionsSentAwayAreBounded(t *testing.T) {
	h := serve(t, &fakeService{}, func(o *Options) { o.QuotaWindow = quota.Window{Samples: 2, LengthMs: 3_600_000} }, limited(func(l *Limits) { l.Connections = 3 }))
	h.SetQuotas(connectionQuotas(map[quota.Entity]float64{{IP: quota.Named("127.0.0.2")}: 1e-6}))
	var away []net.Conn
	for range 5 {
		away = append(away, h.from("127.0.0.2", 0))
	}
	eventually(t, "three wait for their end", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.sentAway) == 3 })
	refused(t, away[4])
	for n := range 3 {
		ping(t, h.from("127.0.0.1", 0))
		refused(t, away[n]) // it made room
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.conns) + len(h.sentAway); n != 3 {
		t.Errorf("%d connections, %d sent away", len(h.conns), len(h.sentAway))
	}
}

// Many addresses connect at once under rules that change.
func TestQuotaOfConnectionsRaces(t *testing.T) {
	h := serve(t, &fakeService{}, rated)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 50 {
			h.SetQuotas(connectionQuotas(map[quota.Entity]float64{{IP: quota.Default}: float64(1 + i%3)}))
			h.QuotaUsage()
			time.Sleep(time.Millisecond)
		}
		h.SetQuotas(nil)
	}()
	for range 100 {
		h.dialPlain()
	}
	<-done
	ping(t, h.dial())
}
