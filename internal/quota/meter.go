package quota

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
)

// Account is who shares a limit, and which. A rule about a user charges all of the user's clients together, one about a client id
// all that have it, one about both each pair. The rule of a default charges each name that it stands for by itself.
type Account struct {
	Key   Key
	Payer Entity // with names only; long ones are shortened, see maxName
	Rule  Entity
	Limit float64
}

// Account is the account of a client for a key, if anything limits it.
func (r *Rules) Account(k Key, user, clientID string) (Account, bool) {
	limit, by, ok := r.Client(k, user, clientID)
	if !ok || math.IsInf(limit, 1) {
		return Account{}, false
	}
	a := Account{Key: k, Rule: by, Limit: limit}
	if by.User.Present() {
		a.Payer.User = Named(shortened(user))
	}
	if by.ClientID.Present() {
		a.Payer.ClientID = Named(shortened(clientID))
	}
	return a, true
}

// AddressAccount is the account of an address for new connections, if anything limits it.
func (r *Rules) AddressAccount(ip string) (Account, bool) {
	limit, by, ok := r.Address(ip)
	if !ok || math.IsInf(limit, 1) {
		return Account{}, false
	}
	return Account{Key: ConnectionCreationRate, Payer: Entity{IP: Named(ip)}, Rule: by, Limit: limit}, true
}

// maxName is the length of a name up to which an account has it as it is. Clients choose their ids, up to 32 KiB long.
const maxName = 128

// shortened is a name that is at most maxName long, and another one for another name.
func shortened(name string) string {
	if len(name) <= maxName {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return name[:maxName-33] + "-" + hex.EncodeToString(sum[:16])
}

// Meter is what the payer of an account has used of its key. The zero value has used nothing.
type Meter struct {
	rate   Rate
	bucket Bucket // of ControllerMutationRate
}

// Charge records an amount and says how long the client has to wait because of it, in milliseconds (ClientQuotaManager): bytes, or
// percent of a core for a second. The time for requests and connections is at most one sample's (KIP-124, 612).
func (m *Meter) Charge(w Window, k Key, limit, amount float64, nowMs int64) (throttleMs int64) {
	if k == ControllerMutationRate {
		panic("BUG: mutations are taken, not charged")
	}
	m.rate.Record(w, amount, nowMs)
	rate, over := m.rate.PerSecond(w, nowMs)
	throttleMs = excessMs(rate, limit, over)
	if k == RequestPercentage || k == ConnectionCreationRate {
		throttleMs = min(throttleMs, w.LengthMs)
	}
	return throttleMs
}

// Credit takes back what was charged at the same time and did not happen.
func (m *Meter) Credit(w Window, amount float64, nowMs int64) { m.rate.Record(w, -amount, nowMs) }

// Take takes mutations of the controller out of the bucket (KIP-599). A strict one is refused, and takes nothing, while the
// bucket is overdrawn: throttleMs is then how long that lasts. One that is not strict is never refused, but waits for as long as it has overdrawn it.
func (m *Meter) Take(w Window, limit, mutations float64, strict bool, nowMs int64) (throttleMs int64, refused bool) {
	if strict {
		if throttleMs, refused = m.bucket.overdrawn(w, limit, nowMs); refused {
			return throttleMs, true
		}
	}
	m.rate.Record(w, mutations, nowMs)
	m.bucket.take(w, limit, mutations, nowMs)
	if strict {
		return 0, false
	}
	throttleMs, _ = m.bucket.overdrawn(w, limit, nowMs)
	return throttleMs, false
}

// PerSecond is the rate at which the key is used.
func (m *Meter) PerSecond(w Window, nowMs int64) float64 {
	rate, _ := m.rate.PerSecond(w, nowMs)
	return rate
}

// Forgotten reports whether a new Meter would say the same, so that this one need not be kept: nothing is left in the window, and the
// bucket is full. limit is that of now.
func (m *Meter) Forgotten(w Window, limit float64, nowMs int64) bool {
	m.bucket.fill(w, limit, nowMs)
	return m.rate.forgotten(w, nowMs) && m.bucket.tokens >= limit*float64(w.SpanMs())/1000
}

// MostInWindow is the most that can be used at once without waiting: whoever has used nothing lately and takes more has to wait in
// any case. A fetch asks for no more, or it would never get anything.
func MostInWindow(w Window, limit float64) float64 {
	return limit * float64(w.Samples-1) * float64(w.LengthMs) / 1000
}
