package handler

import (
	"hash/maphash"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/quota"
	"moldau/internal/security"
)

// quotas measure what clients use. The accounts are spread over several tables, each with a lock, so that clients do not wait for one another.
type quotas struct {
	began  time.Time // their clock, which does not go back
	seed   maphash.Seed
	tables [quotaTables]struct {
		mu sync.Mutex // guards t; a leaf
		t  quota.Table
	}
}

const (
	quotaTables = 64
	mostMeters  = 32 << 10 // in all tables; each takes about a kilobyte
)

func newQuotas(o Options) *quotas {
	c := o.Config
	q := &quotas{began: time.Now(), seed: maphash.MakeSeed()}
	for i := range q.tables {
		t := &q.tables[i].t
		t.Rates = quota.Window{Samples: int(c.Int("quota.window.num")), LengthMs: 1000 * c.Int("quota.window.size.seconds")}
		t.Mutations = quota.Window{Samples: int(c.Int("controller.quota.window.num")), LengthMs: 1000 * c.Int("controller.quota.window.size.seconds")}
		t.Most = mostMeters / quotaTables
	}
	return q
}

// nowMs is the time for meters.
func (q *quotas) nowMs() int64 { return q.began.UnixMilli() + time.Since(q.began).Milliseconds() }

// usage lists the accounts that are in use, in no order.
func (q *quotas) usage() []quota.Usage {
	var out []quota.Usage
	for i := range q.tables {
		t := &q.tables[i]
		t.mu.Lock()
		out = append(out, t.t.Usage(q.nowMs())...)
		t.mu.Unlock()
	}
	return out
}

// QuotaUsage lists what the clients of this broker use of their quotas, those that used something lately, in no order.
func (t *Table) QuotaUsage() []quota.Usage { return t.quotas.usage() }

// clientKeys are the keys that limit clients.
const clientKeys = int(quota.ConnectionCreationRate)

// accounts are a client's, as of some rules. They belong to the connection, and to whoever may call Conn.SetState, and to Wait of a produce request:
// of these there is one at a time.
type accounts struct {
	rules               *quota.Rules
	principal, clientID string
	of                  [clientKeys]payment
}

// payment is an account and where its meter is; table -1: nothing is limited.
type payment struct {
	account quota.Account
	table   int
}

// account is that of the request's client for a key, nil if nothing limits it.
func (rc *requestContext) account(k quota.Key) *payment {
	rules := rc.table.o.Cluster.Image().Quotas()
	if rules == nil || !rc.metered {
		return nil
	}
	a := &stateOf(rc.conn).accounts
	if a.rules != rules || a.principal != rc.principal || a.clientID != rc.header.ClientID {
		rc.conn.TakeWork() // what was done before is on nobody's account
		a.rules, a.principal, a.clientID = rules, rc.principal, rc.header.ClientID
		q := rc.table.quotas
		for k := range a.of {
			p := &a.of[k]
			var limited bool
			p.table = -1
			if p.account, limited = rules.Account(quota.Key(k), security.UserOf(rc.principal), rc.header.ClientID); limited {
				p.table = int(maphash.Comparable(q.seed, p.account.Payer) % quotaTables)
			}
		}
	}
	if p := &a.of[k]; p.table >= 0 {
		return p
	}
	return nil
}

// takeProduced takes the bytes of a produce request, and says how long its client has to wait because of them.
func (rc *requestContext) takeProduced(bytes int64) (throttleMs int64) {
	throttleMs, _, _ = rc.takeOf(quota.ProducerByteRate, float64(bytes), false)
	return throttleMs
}

// takeFetched takes the bytes of a response with records, unless they must not leave now, and says how long the client has to wait in any case.
func (rc *requestContext) takeFetched(bytes int64) (throttleMs int64, refused bool) {
	if throttleMs, _, refused = rc.takeOf(quota.ConsumerByteRate, float64(bytes), true); refused {
		return throttleMs, true
	}
	throttleMs, _, _ = rc.takeOf(quota.ConsumerByteRate, 0, false) // for as long as they have overdrawn
	return throttleMs, false
}

// mostBytes is the most that a fetch is answered with, apart from one batch.
func (rc *requestContext) mostBytes(asked int32) int32 {
	if p := rc.account(quota.ConsumerByteRate); p != nil {
		return int32(min(float64(asked), quota.MostAtOnce(rc.table.quotas.tables[p.table].t.Rates, p.account.Key, p.account.Limit)))
	}
	return asked
}

// takeOf takes an amount of a key out of the account of the request's client, at nowMs; see quota.Meter.
func (rc *requestContext) takeOf(k quota.Key, amount float64, strict bool) (throttleMs, nowMs int64, refused bool) {
	p := rc.account(k)
	if p == nil {
		return 0, 0, false
	}
	q := rc.table.quotas
	t := &q.tables[p.table]
	t.mu.Lock()
	defer t.mu.Unlock()
	nowMs = q.nowMs()
	throttleMs, refused = t.t.Take(&p.account, amount, strict, nowMs)
	return throttleMs, nowMs, refused
}

// percentPerSecond is what a second of a thread is to request_percentage.
const percentPerSecond = 100

// work notes what the request has kept a thread busy with, since began.
func (rc *requestContext) work(began time.Time) {
	if rc.metered {
		rc.worked += time.Since(began)
	}
}

// chargeWork charges the time for which the request kept threads busy, with that of receiving and sending on its connection since the
// one before, and says how long the client has to wait because of it.
func (rc *requestContext) chargeWork() (throttleMs int64) {
	p := rc.account(quota.RequestPercentage)
	if p == nil {
		return 0
	}
	took := rc.worked + rc.conn.TakeWork()
	q := rc.table.quotas
	t := &q.tables[p.table]
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.t.Charge(&p.account, percentPerSecond*took.Seconds(), q.nowMs())
}

// limitsMutations reports whether the client has a quota of mutations of the controller.
func (rc *requestContext) limitsMutations() bool {
	return rc.account(quota.ControllerMutationRate) != nil
}

// take takes mutations of the controller out of the client's account. refused: it has none left, and this one is not to be done.
// The answer then says how long the client has to wait, and so does that of one that was not refused where strict is false (KIP-599).
func (rc *requestContext) take(mutations int, strict bool) (refused bool) {
	ms, now, refused := rc.takeOf(quota.ControllerMutationRate, float64(mutations), strict)
	if ms > 0 {
		rc.owedUntilMs = now + ms
	}
	return refused
}

// throttle charges a request without records, and says how long its client has to wait when it has the answer; resp says so too, if it has a
// place for it.
func (rc *requestContext) throttle(resp kmsg.Response) time.Duration {
	if !rc.metered {
		return 0
	}
	ms := rc.chargeWork()
	if rc.owedUntilMs > 0 {
		ms = max(ms, rc.owedUntilMs-rc.table.quotas.nowMs())
	}
	if r, ok := resp.(kmsg.SetThrottleResponse); ok {
		r.SetThrottle(int32(ms))
	}
	return milliseconds(ms)
}

// milliseconds is a throttle time as a duration.
func milliseconds(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }
