package quota

import "math"

// Window is over how long rates are measured: quota.window.num samples of quota.window.size.seconds each.
type Window struct {
	Samples  int
	LengthMs int64 // of one sample
}

// SpanMs is the time after which nothing is left of what was recorded.
func (w Window) SpanMs() int64 { return int64(w.Samples) * w.LengthMs }

// Rate is Kafka's sampled rate (Rate of a WindowedSum): amounts are added up in samples, and their sum is divided by the time
// since the oldest one that still counts began, but by no less than all samples but one would take. The zero value has recorded nothing. Times are
// milliseconds that do not go back.
type Rate struct {
	samples []sample // as many as were needed, at most Window.Samples+1
	current int
}

type sample struct {
	sum             float64
	beganMs, lastMs int64
}

// Record adds an amount, which may be negative: what was recorded and did not happen.
func (r *Rate) Record(w Window, amount float64, nowMs int64) {
	if len(r.samples) == 0 {
		r.samples = append(r.samples, sample{beganMs: nowMs})
	}
	if nowMs-r.samples[r.current].beganMs >= w.LengthMs {
		// One more than the window has: the oldest one overlaps its beginning.
		if r.current = (r.current + 1) % (w.Samples + 1); r.current >= len(r.samples) {
			r.samples = append(r.samples, sample{})
			r.current = len(r.samples) - 1
		}
		r.samples[r.current] = sample{beganMs: nowMs}
	}
	s := &r.samples[r.current]
	s.sum += amount
	s.lastMs = nowMs
}

// PerSecond is the rate, and the time by which the sum was divided.
func (r *Rate) PerSecond(w Window, nowMs int64) (rate float64, overMs int64) {
	sum, oldest := 0.0, nowMs
	for i := range r.samples {
		s := &r.samples[i]
		if nowMs-s.lastMs >= w.SpanMs() {
			*s = sample{beganMs: nowMs, lastMs: nowMs}
		}
		sum += s.sum
		oldest = min(oldest, s.beganMs)
	}
	overMs = nowMs - oldest
	if missing := int64(w.Samples-1) - overMs/w.LengthMs; missing > 0 {
		overMs += missing * w.LengthMs
	}
	overMs = max(overMs, 1)
	return sum / (float64(overMs) / 1000), overMs
}

// forgotten reports whether nothing that was recorded counts any more: a new Rate would measure the same.
func (r *Rate) forgotten(w Window, nowMs int64) bool {
	for i := range r.samples {
		if nowMs-r.samples[i].lastMs < w.SpanMs() {
			return false
		}
	}
	return true
}

// MostThrottleMs bounds a throttle time: it is a 32 bit number in a response.
const MostThrottleMs = math.MaxInt32

// excessMs is how long a client has to do nothing until its rate is down to the limit (QuotaUtils.throttleTime): with the rate
// R over a time T, and X more of it without anything, R*T/(T+X) is the limit.
func excessMs(rate, limit float64, overMs int64) int64 {
	if rate <= limit {
		return 0
	}
	return milliseconds((rate - limit) / limit * float64(overMs))
}

// milliseconds rounds as Kafka (half up), within what a response can say.
func milliseconds(ms float64) int64 {
	if !(ms < MostThrottleMs) { // not a number, of a limit of 0, neither
		return MostThrottleMs
	}
	return int64(math.Floor(ms + 0.5))
}

// Bucket is Kafka's token bucket (KIP-599): it fills at the limit, up to what it holds, and may be overdrawn by whoever came when
// something was left. The zero value is a full one.
type Bucket struct {
	tokens float64
	atMs   int64 // when tokens was right; 0 is long ago
}

func (b *Bucket) fill(holds, limit float64, nowMs int64) {
	b.tokens = min(holds, b.tokens+limit*float64(nowMs-b.atMs)/1000)
	b.atMs = nowMs
}

// take takes an amount, whatever is left. It adds nothing to what is owed beyond owes, or beyond this amount alone: those who do not wait, with a new connection for each
// request, would make debts for hours, and those who share the account would pay them.
func (b *Bucket) take(holds, owes, limit, amount float64, nowMs int64) {
	b.fill(holds, limit, nowMs)
	b.tokens = min(holds, max(b.tokens-amount, min(b.tokens, -max(owes, amount))))
}

// overdrawn reports whether more was taken than there was, and how long it takes until that is over.
func (b *Bucket) overdrawn(holds, limit float64, nowMs int64) (forMs int64, ok bool) {
	b.fill(holds, limit, nowMs)
	if b.tokens >= 0 {
		return 0, false
	}
	return milliseconds(-b.tokens / limit * 1000), true
}

func (b *Bucket) full(holds, limit float64, nowMs int64) bool {
	b.fill(holds, limit, nowMs)
	return b.tokens >= holds
}
