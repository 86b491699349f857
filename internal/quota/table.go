package quota

// Table has the meters of accounts. It has no lock, and of several tables each account belongs to one.
//
// It keeps a meter only as long as that makes a difference, and no more than Most of them: where somebody who changes his name with each request
// has filled it, further names pay together, in one meter for each rule. So many names are no way around a limit, and cost no memory.
type Table struct {
	Rates     Window // quota.window
	Mutations Window // controller.quota.window
	Most      int

	meters  map[place]*use
	room    int // meters at which those that are forgotten are looked for
	sweptMs int64
}

// place is what a meter is found by.
type place struct {
	key    Key
	entity Entity // who pays, or the rule
	others bool   // those for whom there was no room
}

// use is what is known of an account.
type use struct {
	account     Account
	others      bool
	meter       Meter
	throttled   int64 // how often it had to wait
	throttledMs int64 // for how long in all
	lastMs      int64 // for how long the last time
	atMs        int64 // when that was; 0: never
}

const (
	fewMeters    = 64   // are not worth a search
	sweepEveryMs = 1000 // while a table is full
)

func (t *Table) window(k Key) Window {
	if k == ControllerMutationRate {
		return t.Mutations
	}
	return t.Rates
}

// Charge is Meter.Charge for an account.
func (t *Table) Charge(a *Account, amount float64, nowMs int64) (throttleMs int64) {
	u := t.of(a, nowMs)
	throttleMs = u.meter.Charge(t.Rates, a.Limit, amount, nowMs)
	u.waits(throttleMs, nowMs)
	return throttleMs
}

// Credit takes back what was charged at the same time and did not happen.
func (t *Table) Credit(a *Account, amount float64, nowMs int64) {
	t.of(a, nowMs).meter.Credit(t.Rates, amount, nowMs)
}

// Take is Meter.Take for an account.
func (t *Table) Take(a *Account, amount float64, strict bool, nowMs int64) (throttleMs int64, refused bool) {
	u := t.of(a, nowMs)
	throttleMs, refused = u.meter.Take(t.window(a.Key), a.Key, a.Limit, amount, strict, nowMs)
	u.waits(throttleMs, nowMs)
	return throttleMs, refused
}

func (u *use) waits(throttleMs, nowMs int64) {
	if throttleMs > 0 {
		u.throttled++
		u.throttledMs += throttleMs
		u.lastMs, u.atMs = throttleMs, nowMs
	}
}

// of finds the meter of an account, or makes it.
func (t *Table) of(a *Account, nowMs int64) *use {
	at := place{key: a.Key, entity: a.Payer}
	u := t.meters[at]
	if u == nil {
		if t.meters == nil {
			t.meters, t.room = map[place]*use{}, min(fewMeters, t.Most)
		}
		if len(t.meters) >= t.room && (t.room < t.Most || nowMs-t.sweptMs >= sweepEveryMs) {
			t.sweep(nowMs)
		}
		if len(t.meters) >= t.Most {
			at = place{a.Key, a.Rule, true}
			u = t.meters[at]
		}
		if u == nil {
			u = &use{others: at.others}
			t.meters[at] = u
		}
	}
	u.account = *a // rules change
	if u.others {
		u.account.Payer = Entity{}
	}
	return u
}

// sweep drops the meters that are forgotten.
func (t *Table) sweep(nowMs int64) {
	for at, u := range t.meters {
		if u.meter.Forgotten(t.window(at.key), at.key, u.account.Limit, nowMs) {
			delete(t.meters, at)
		}
	}
	t.room, t.sweptMs = min(max(fewMeters, 2*len(t.meters)), t.Most), nowMs
}

// Usage is what an account uses.
type Usage struct {
	Account             // without a payer: all those together for whom there was no room
	PerSecond   float64 // of what the limit is about
	Throttled   int64   // how often its clients had to wait, since it was last idle
	ThrottledMs int64   // for how long in all
	LastMs      int64   // for how long the last time
	AgoMs       int64   // when that was; -1: never
}

// Usage lists the accounts that are in use, in no order.
func (t *Table) Usage(nowMs int64) []Usage {
	t.sweep(nowMs)
	out := make([]Usage, 0, len(t.meters))
	for at, u := range t.meters {
		x := Usage{u.account, u.meter.PerSecond(t.window(at.key), nowMs), u.throttled, u.throttledMs, u.lastMs, -1}
		if u.atMs > 0 {
			x.AgoMs = max(0, nowMs-u.atMs)
		}
		out = append(out, x)
	}
	return out
}
