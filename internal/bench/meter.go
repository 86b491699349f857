package bench

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what a run has shown.
type Result struct {
	Kind       string `json:"kind"` // produce, consume or latency
	Topic      string `json:"topic"`
	Partitions int    `json:"partitions"`

	Began   time.Time `json:"began"` // of the measured interval
	Seconds float64   `json:"seconds"`

	Requests int64 `json:"requests"`
	Records  int64 `json:"records"`
	// Bytes are those of keys and values, as they were before compression; for Consume, which does not inflate,
	// they are WireBytes. WireBytes are those of the batches.
	Bytes     int64 `json:"bytes"`
	WireBytes int64 `json:"wireBytes"`

	RequestsPerSecond float64 `json:"requestsPerSecond"`
	RecordsPerSecond  float64 `json:"recordsPerSecond"`
	BytesPerSecond    float64 `json:"bytesPerSecond"`

	// TargetPerSecond is the rate that was asked for, in requests; 0 means saturated. KeptRate says that
	// at least 98 % of it were done.
	TargetPerSecond float64 `json:"targetPerSecond"`
	KeptRate        bool    `json:"keptRate"`

	// Ack is from the start of a Produce request to its answer, Fetch from that of a Fetch, EndToEnd from the
	// start of a Produce request to the moment at which a consumer has its batch. nil where there is none.
	Ack      *Distribution `json:"ack,omitempty"`
	Fetch    *Distribution `json:"fetch,omitempty"`
	EndToEnd *Distribution `json:"endToEnd,omitempty"`

	// Rounds is how often Consume began a partition again, at whose end it had come.
	Rounds int64 `json:"rounds,omitempty"`

	// ClockSeconds are the differences of Options.Clocks.
	ClockSeconds map[string]float64 `json:"clockSeconds"`
	// ThrottleSeconds is the sum of what answers said that a quota delayed.
	ThrottleSeconds float64 `json:"throttleSeconds"`
}

// Distribution is one of latencies, in milliseconds.
type Distribution struct {
	Count int64   `json:"count"`
	Mean  float64 `json:"mean"`
	P50   float64 `json:"p50"`
	P90   float64 `json:"p90"`
	P99   float64 `json:"p99"`
	P999  float64 `json:"p99.9"`
	Max   float64 `json:"max"`
}

// A histogram counts microseconds, from one to ten minutes, to three digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(10*time.Minute/time.Microsecond), 3)
}

func recordLatency(h *hdrhistogram.Histogram, d time.Duration) {
	us := min(max(d.Microseconds(), 1), h.HighestTrackableValue())
	if err := h.RecordValue(us); err != nil {
		panic("BUG: " + err.Error())
	}
}

// latencyOf merges histograms; nil when nothing was counted.
func latencyOf(histograms ...*hdrhistogram.Histogram) *Distribution {
	all := newHistogram()
	for _, h := range histograms {
		all.Merge(h)
	}
	if all.TotalCount() == 0 {
		return nil
	}
	ms := func(us int64) float64 { return float64(us) / 1e3 }
	return &Distribution{Count: all.TotalCount(), Mean: all.Mean() / 1e3, P50: ms(all.ValueAtQuantile(50)), P90: ms(all.ValueAtQuantile(90)),
		P99: ms(all.ValueAtQuantile(99)), P999: ms(all.ValueAtQuantile(99.9)), Max: ms(all.Max())}
}

// meter counts what is done, from any goroutine.
type meter struct {
	requests, records, payload, wire, throttleMs atomic.Int64
}

func (m *meter) add(requests, records, payload, wire int64) {
	m.requests.Add(requests)
	m.records.Add(records)
	m.payload.Add(payload)
	m.wire.Add(wire)
}

// reading is a meter and the clocks at one moment.
type reading struct {
	at                               time.Time
	requests, records, payload, wire int64
	clocks                           map[string]time.Duration
}

func (o *Options) read(m *meter) (reading, error) {
	r := reading{clocks: map[string]time.Duration{}}
	for name, clock := range o.Clocks {
		d, err := clock()
		if err != nil {
			return r, fmt.Errorf("clock %s: %w", name, err)
		}
		r.clocks[name] = d
	}
	r.at = time.Now()
	r.requests, r.records, r.payload, r.wire = m.requests.Load(), m.records.Load(), m.payload.Load(), m.wire.Load()
	return r, nil
}

// result is what happened between two readings.
func (o *Options) result(kind string, t *topic, m *meter, from, to reading) *Result {
	r := &Result{Kind: kind, Topic: t.name, Partitions: len(t.leaders), Began: from.at, Seconds: to.at.Sub(from.at).Seconds(),
		Requests: to.requests - from.requests, Records: to.records - from.records, Bytes: to.payload - from.payload, WireBytes: to.wire - from.wire,
		ClockSeconds: map[string]float64{}, ThrottleSeconds: float64(m.throttleMs.Load()) / 1e3, KeptRate: true}
	for name, d := range to.clocks {
		r.ClockSeconds[name] = (d - from.clocks[name]).Seconds()
	}
	if r.Seconds > 0 {
		r.RequestsPerSecond = float64(r.Requests) / r.Seconds
		r.RecordsPerSecond = float64(r.Records) / r.Seconds
		r.BytesPerSecond = float64(r.Bytes) / r.Seconds
	}
	return r
}

// keptShare is how much of a rate must have been done for it to count as kept.
const keptShare = 0.98

const (
	progressEvery = 200 * time.Millisecond
	donePoll      = 2 * time.Millisecond
)

// watch waits until the moment `until`, or until done says so, where it is given, and reports progress. It
// returns ctx's cause when that ends first.
func (o *Options) watch(ctx context.Context, m *meter, phase string, began, until time.Time, done func() bool) error {
	every := progressEvery
	if done != nil {
		every = donePoll
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	end := time.NewTimer(time.Until(until))
	defer end.Stop()
	last, records, bytes := time.Now(), m.records.Load(), m.payload.Load()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-end.C:
			return nil
		case now := <-ticker.C:
			if done != nil && done() {
				return nil
			}
			seconds := now.Sub(last).Seconds()
			if seconds < progressEvery.Seconds() {
				continue
			}
			r, b := m.records.Load(), m.payload.Load()
			o.Progress(Progress{Phase: phase, Elapsed: now.Sub(began),
				RecordsPerSecond: float64(r-records) / seconds, BytesPerSecond: float64(b-bytes) / seconds})
			last, records, bytes = now, r, b
		}
	}
}
