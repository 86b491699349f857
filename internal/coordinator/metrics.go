package coordinator

import "github.com/prometheus/client_golang/prometheus"

// metrics are a runtime's counters.
type metrics struct {
	events        prometheus.Histogram
	loads         prometheus.Histogram
	records       prometheus.Counter
	failedLoads   prometheus.Counter
	failedAppends prometheus.Counter
	states        func() [stateCount]int
	stateDesc     *prometheus.Desc
}

// newMetrics registers with reg, which may be nil.
func newMetrics(topic string, reg prometheus.Registerer, states func() [stateCount]int) *metrics {
	m := &metrics{
		events: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "moldau_coordinator_event_seconds",
			Help: "Time of an event at a shard, from waiting for the shard to the end of its append.", Buckets: prometheus.ExponentialBuckets(16e-6, 4, 10)}),
		loads: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "moldau_coordinator_load_seconds",
			Help: "Time to load a shard from its log.", Buckets: prometheus.ExponentialBuckets(1e-3, 4, 9)}),
		records: prometheus.NewCounter(prometheus.CounterOpts{Name: "moldau_coordinator_records_appended_total",
			Help: "Records that shards have written."}),
		failedLoads: prometheus.NewCounter(prometheus.CounterOpts{Name: "moldau_coordinator_failures_total",
			Help: "Shards that could not be loaded, or had to be thrown away; each is loaded again."}),
		failedAppends: prometheus.NewCounter(prometheus.CounterOpts{Name: "moldau_coordinator_failed_appends_total",
			Help: "Events whose records could not be written."}),
		states:    states,
		stateDesc: prometheus.NewDesc("moldau_coordinator_shards", "Shards of this broker by state.", []string{"state"}, nil),
	}
	if reg != nil {
		reg = prometheus.WrapRegistererWith(prometheus.Labels{"topic": topic}, reg)
		reg.MustRegister(m.events, m.loads, m.records, m.failedLoads, m.failedAppends, m)
	}
	return m
}

// Describe and Collect make metrics the collector of the states.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) { ch <- m.stateDesc }

func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for i, n := range m.states() {
		if i != int(stateClosed) {
			ch <- prometheus.MustNewConstMetric(m.stateDesc, prometheus.GaugeValue, float64(n), stateNames[i])
		}
	}
}
