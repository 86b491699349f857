package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"moldau/internal/network"
)

// startHTTP serves /live, /ready, /metrics and Go's profiles on moldau.http.listener, and nowhere else.
func (b *Broker) startHTTP() error {
	b.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &brokerMetrics{b})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "live") })
	mux.HandleFunc("GET /ready", b.serveReady)
	mux.Handle("GET /metrics", promhttp.HandlerFor(b.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index) // heap, goroutine and so on by name
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	b.http = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	port := ""
	for i, addr := range b.o.Config.HTTPAddrs() {
		host, p, err := net.SplitHostPort(addr)
		if err != nil {
			return fmt.Errorf("moldau.http.listener: %w", err)
		}
		if i > 0 && p == "0" {
			p = port // the same free port on every address
		}
		l, err := net.Listen("tcp", net.JoinHostPort(host, p))
		if err != nil {
			if i > 0 {
				continue // localhost without IPv6
			}
			return fmt.Errorf("%w; --http HOST:PORT sets it, --http off leaves it out", network.BindError("moldau.http.listener", net.JoinHostPort(host, p), err))
		}
		_, port, _ = net.SplitHostPort(l.Addr().String())
		if ap, err := netip.ParseAddrPort(l.Addr().String()); err == nil {
			b.httpAddrs = append(b.httpAddrs, ap)
		}
		b.wg.Add(1)
		go b.startServeHTTP(l)
	}
	return nil
}

func (b *Broker) startServeHTTP(l net.Listener) {
	defer b.wg.Done()
	if err := b.http.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		b.log.Error("HTTP listener ended", "addr", l.Addr().String(), "error", err)
	}
}

// serveReady answers 200 when the broker can take and hand out records, else 503 and why not.
func (b *Broker) serveReady(w http.ResponseWriter, _ *http.Request) {
	state := struct {
		Ready   bool     `json:"ready"`
		Reasons []string `json:"reasons,omitempty"`
		Offline []string `json:"offlinePartitions,omitempty"`
	}{Ready: true}
	if !b.ready.Load() {
		state.Reasons = append(state.Reasons, "the broker is starting or stopping")
	}
	if err := b.Err(); err != nil {
		state.Reasons = append(state.Reasons, err.Error())
	}
	for _, p := range b.partitions.Partitions() {
		if err := p.Err(); err != nil && len(state.Offline) < 100 {
			state.Offline = append(state.Offline, err.Error())
		}
	}
	state.Ready = len(state.Reasons) == 0
	w.Header().Set("Content-Type", "application/json")
	if !state.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(state) // the client is gone if it fails
}

// brokerMetrics reads the broker's state when it is asked.
type brokerMetrics struct{ b *Broker }

var (
	partitionsDesc = prometheus.NewDesc("moldau_partitions", "Replicas on this broker by state: online or offline.", []string{"state"}, nil)
	offlineDirDesc = prometheus.NewDesc("moldau_log_dir_offline", "1 after a write or sync in the log dir failed.", []string{"dir"}, nil)
	spaceDesc      = prometheus.NewDesc("moldau_log_dir_bytes", "Bytes of the volume of the log dir: free and total.", []string{"dir", "kind"}, nil)
	logSizeDesc    = prometheus.NewDesc("moldau_log_size_bytes", "Bytes in segments of a partition.", []string{"topic", "partition"}, nil)
	logEndDesc     = prometheus.NewDesc("moldau_log_end_offset", "Log end offset of a partition.", []string{"topic", "partition"}, nil)
	logStartDesc   = prometheus.NewDesc("moldau_log_start_offset", "Log start offset of a partition.", []string{"topic", "partition"}, nil)
	hwDesc         = prometheus.NewDesc("moldau_high_watermark", "High watermark of a partition.", []string{"topic", "partition"}, nil)
	durableDesc    = prometheus.NewDesc("moldau_flush_every_records", "log.flush.interval.messages in force by default: 1 means that an acknowledged record is on the disk.", nil, nil)
	retainedDesc   = prometheus.NewDesc("moldau_retention_deleted_bytes_total", "Bytes in segments that retention has deleted.", nil, nil)
	compactedDesc  = prometheus.NewDesc("moldau_compactions_total", "Passes of compaction over a log that have ended.", nil, nil)
	compactByDesc  = prometheus.NewDesc("moldau_compaction_bytes_total", "Bytes that compaction has read and written.", []string{"kind"}, nil)
	compactRecDesc = prometheus.NewDesc("moldau_compaction_records_total", "Records that compaction has read, and those of them that it kept.", []string{"kind"}, nil)
	compactSecDesc = prometheus.NewDesc("moldau_compaction_seconds_total", "Time spent in compaction.", nil, nil)
	dirtyDesc      = prometheus.NewDesc("moldau_compaction_dirty_ratio_max", "Largest share of bytes never compacted of a log that is to be compacted.", nil, nil)
	uncleanDesc    = prometheus.NewDesc("moldau_uncleanable_partitions", "Partitions whose compaction failed; they are left alone until a restart.", nil, nil)
	readyDesc      = prometheus.NewDesc("moldau_ready", "1 when the broker serves.", nil, nil)
	imageDesc      = prometheus.NewDesc("moldau_metadata_sequence", "Sequence number of the metadata image.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m *brokerMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{partitionsDesc, offlineDirDesc, spaceDesc, logSizeDesc, logEndDesc, logStartDesc, hwDesc, durableDesc, readyDesc, imageDesc,
		retainedDesc, compactedDesc, compactByDesc, compactRecDesc, compactSecDesc, dirtyDesc, uncleanDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m *brokerMetrics) Collect(out chan<- prometheus.Metric) {
	b := m.b
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	online, offline := 0, 0
	for _, p := range b.partitions.Partitions() {
		if p.Err() != nil {
			offline++
			continue
		}
		online++
		tp := p.TopicPartition()
		index := fmt.Sprint(tp.Partition)
		gauge(logSizeDesc, float64(p.SizeBytes()), tp.Topic, index)
		gauge(logEndDesc, float64(p.LogEnd()), tp.Topic, index)
		gauge(logStartDesc, float64(p.LogStart()), tp.Topic, index)
		gauge(hwDesc, float64(p.HighWatermark()), tp.Topic, index)
	}
	gauge(partitionsDesc, float64(online), "online")
	gauge(partitionsDesc, float64(offline), "offline")
	gauge(offlineDirDesc, truth(b.dir.Err() != nil), b.dir.Path())
	if s, err := b.dir.Space(); err == nil {
		gauge(spaceDesc, float64(s.FreeBytes), b.dir.Path(), "free")
		gauge(spaceDesc, float64(s.TotalBytes), b.dir.Path(), "total")
	}
	b.collectCleaning(out)
	gauge(durableDesc, float64(b.o.Config.Int("log.flush.interval.messages")))
	gauge(readyDesc, truth(b.ready.Load() && b.Err() == nil))
	gauge(imageDesc, float64(b.cluster.Image().Seq()))
}

// collectCleaning reports what retention and compaction have done.
func (b *Broker) collectCleaning(out chan<- prometheus.Metric) {
	s := b.dir.CleanStats()
	count := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	count(retainedDesc, float64(s.RetainedBytes))
	count(compactedDesc, float64(s.Compactions))
	count(compactByDesc, float64(s.ReadBytes), "read")
	count(compactByDesc, float64(s.WrittenBytes), "written")
	count(compactRecDesc, float64(s.RecordsRead), "read")
	count(compactRecDesc, float64(s.RecordsKept), "kept")
	count(compactSecDesc, s.CompactionTime.Seconds())
	out <- prometheus.MustNewConstMetric(dirtyDesc, prometheus.GaugeValue, s.MaxDirtyRatio)
	out <- prometheus.MustNewConstMetric(uncleanDesc, prometheus.GaugeValue, float64(s.UncleanableLogs))
}

func truth(v bool) float64 {
	if v {
		return 1
	}
	return 0
}
