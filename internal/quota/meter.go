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
	bucket Bucket // of keys of which is taken
}

// Charge records what was used of RequestPercentage, in percent of a thread for a second, or of ConnectionCreationRate. It says how long the client has
// to wait because of it, in milliseconds: as Kafka's sensors (QuotaUtils), one sample's time at most (KIP-124, 612).
func (m *Meter) Charge(w Window, limit, amount float64, nowMs int64) (throttleMs int64) {
	m.rate.Record(w, amount, nowMs)
	rate, over := m.rate.PerSecond(w, nowMs)
	return min(excessMs(rate, limit, over), w.LengthMs)
}

// Credit takes back what was charged at the same time and did not happen.
func (m *Meter) Credit(w Window, amount float64, nowMs int64) { m.rate.Record(w, -amount, nowMs) }

// Take takes an amount of one of the other keys out of its bucket. A strict one is refused, and takes nothing, while the bucket is
// overdrawn: throttleMs is then how long that lasts. One that is not strict is never refused, but waits for as long as it has overdrawn it.
func (m *Meter) Take(w Window, k Key, limit, amount float64, strict bool, nowMs int64) (throttleMs int64, refused bool) {
	holds, owes := bucketSize(w, k, limit)
	if strict {
		if throttleMs, refused = m.bucket.overdrawn(holds, limit, nowMs); refused {
			return throttleMs, true
		}
	}
	m.rate.Record(w, amount, nowMs)
	m.bucket.take(holds, owes, limit, amount, nowMs)
	if strict {
		return 0, false
	}
	throttleMs, _ = m.bucket.overdrawn(holds, limit, nowMs)
	return throttleMs, false
}

// bucketSize is what a full bucket has, and how much several requests together can overdraw it: of mutations of the controller what the limit allows in a whole
// window, and anything (KIP-599); of bytes what it allows in half a sample, and in a hundred. docs/adr/0019 says why bytes are not measured as in Kafka.
func bucketSize(w Window, k Key, limit float64) (holds, owes float64) {
	if k == ControllerMutationRate {
		return limit * float64(w.SpanMs()) / 1000, math.Inf(1)
	}
	sample := limit * float64(w.LengthMs) / 1000
	return sample / 2, 100 * sample
}

// MostAtOnce is the most bytes that a request should ask for, half the bucket: who always wants more has got, at any time, no more than
// a full bucket, what the limit allowed since, and this. That is 30.75 seconds' worth after 30 seconds, with samples of one.
func MostAtOnce(w Window, k Key, limit float64) float64 {
	holds, _ := bucketSize(w, k, limit)
	return holds / 2
}

// PerSecond is the rate at which the key is used.
func (m *Meter) PerSecond(w Window, nowMs int64) float64 {
	rate, _ := m.rate.PerSecond(w, nowMs)
	return rate
}

// Forgotten reports whether a new Meter would say the same, so that this one need not be kept: nothing is left in the window, and the
// bucket is full. limit is that of now.
func (m *Meter) Forgotten(w Window, k Key, limit float64, nowMs int64) bool {
	holds, _ := bucketSize(w, k, limit)
	return m.rate.forgotten(w, nowMs) && m.bucket.full(holds, limit, nowMs)
}
