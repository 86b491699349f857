package network

import (
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	firstBucket = 4 // the first bucket ends at 2^4 = 16 microseconds, each further one at twice the last
	bucketCount = 22
)

// histogram counts durations in powers of two: two or three atomic adds an observation, where the
// stock histogram needs a search and a float loop, seven times a request.
type histogram struct {
	buckets  [bucketCount + 1]atomic.Uint64 // the last is beyond every bound
	sumNanos atomic.Int64
}

func (h *histogram) observe(d time.Duration) {
	d = max(d, 0)
	us := uint64(d+time.Microsecond-1) / uint64(time.Microsecond) // rounded up: a bound is inclusive
	i := 0
	if us > 1<<firstBucket {
		i = min(bits.Len64(us-1)-firstBucket, bucketCount)
	}
	h.buckets[i].Add(1)
	if d > 0 {
		h.sumNanos.Add(int64(d))
	}
}

type apiTimes [stages]histogram

// metrics are a server's counters. The times of an API are made at its first request, so that
// /metrics shows only what is used; afterwards a request finds them by its key in an array.
type metrics struct {
	connections *prometheus.GaugeVec
	accepted    *prometheus.CounterVec
	closed      *prometheus.CounterVec
	waiting     prometheus.Gauge
	bytesIn     prometheus.Counter
	bytesOut    prometheus.Counter
	auth        authentications

	apis     [kmsg.MaxKey + 2]atomic.Pointer[apiTimes] // the last is for keys nobody knows
	timeDesc *prometheus.Desc
}

// newMetrics registers with reg, which may be nil. A second server on the same registry panics,
// as two servers cannot share metrics.
func newMetrics(reg prometheus.Registerer, budget func() float64) *metrics {
	m := &metrics{
		connections: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "moldau_network_connections",
			Help: "Open client connections."}, []string{"listener"}),
		accepted: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "moldau_network_accepted_total",
			Help: "Connections accepted, those refused by a limit included."}, []string{"listener"}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "moldau_network_closed_total",
			Help: "Connections closed, by reason."}, []string{"reason"}),
		waiting: prometheus.NewGauge(prometheus.GaugeOpts{Name: "moldau_network_acceptors_waiting",
			Help: "Listeners' addresses that accept nothing because max.connections is reached."}),
		bytesIn: prometheus.NewCounter(prometheus.CounterOpts{Name: "moldau_network_received_bytes_total",
			Help: "Bytes received from clients."}),
		bytesOut: prometheus.NewCounter(prometheus.CounterOpts{Name: "moldau_network_sent_bytes_total",
			Help: "Bytes sent to clients."}),
		auth: newAuthentications(),
		timeDesc: prometheus.NewDesc("moldau_network_request_seconds",
			"Time of requests by API and Kafka's stage names.", []string{"api", "stage"}, nil),
	}
	if reg != nil {
		free := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "moldau_network_request_memory_available_bytes",
			Help: "What request frames may still take of queued.max.request.bytes."}, budget)
		reg.MustRegister(m.connections, m.accepted, m.closed, m.waiting, m.bytesIn, m.bytesOut, free, m)
		reg.MustRegister(m.auth.collectors()...)
	}
	return m
}

func (m *metrics) api(key int16) *apiTimes {
	i := int(key)
	if i < 0 || i > kmsg.MaxKey {
		i = kmsg.MaxKey + 1
	}
	if t := m.apis[i].Load(); t != nil {
		return t
	}
	m.apis[i].CompareAndSwap(nil, new(apiTimes))
	return m.apis[i].Load()
}

// Describe and Collect make metrics the collector of its own histograms.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) { ch <- m.timeDesc }

func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for key := range m.apis {
		times := m.apis[key].Load()
		if times == nil {
			continue
		}
		name := kmsg.NameForKey(int16(key)) // "Unknown" for the last
		for s := range times {
			h, total := &times[s], uint64(0)
			cumulative := make(map[float64]uint64, bucketCount)
			for i := range bucketCount {
				total += h.buckets[i].Load()
				cumulative[float64(uint64(1)<<(firstBucket+i))/1e6] = total
			}
			total += h.buckets[bucketCount].Load()
			ch <- prometheus.MustNewConstHistogram(m.timeDesc, total,
				time.Duration(h.sumNanos.Load()).Seconds(), cumulative, name, stageNames[s].metric)
		}
	}
}
