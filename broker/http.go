package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"moldau/internal/network"
	"moldau/internal/stall"
)

// startHTTP serves /live, /ready, /metrics, /group, /quota and Go's profiles on moldau.http.listener, and nowhere else. A page that tells of single clients,
// groups or records, or costs more than a look, goes through detail.
func (b *Broker) startHTTP() error {
	b.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &brokerMetrics{b}, quotaMetrics{b})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "live") })
	mux.HandleFunc("GET /ready", b.serveReady)
	mux.Handle("GET /group", b.detail(b.serveGroup))
	mux.Handle("GET /quota", b.detail(b.serveQuota))
	mux.HandleFunc("GET /metrics", b.serveMetrics)
	mux.Handle("GET /debug/pprof/", b.detail(pprof.Index)) // heap, goroutine and so on by name
	mux.Handle("GET /debug/pprof/profile", b.detail(pprof.Profile))
	mux.Handle("GET /debug/pprof/trace", b.detail(pprof.Trace))
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

// detail is a page that is only for this machine where moldau.http.details says so (ADR 17).
func (b *Broker) detail(page http.HandlerFunc) http.Handler {
	if !b.o.Config.HTTPDetailsLocal() {
		return page
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !asksHere(r) {
			http.Error(w, "only for who asks on the broker's own machine, as its clients have to show who they are: moldau.http.details=all changes that", http.StatusForbidden)
			return
		}
		page(w, r)
	})
}

// asksHere tells whether somebody on this machine asks for himself: not a proxy for somebody else, and not a browser that a page of somebody else
// has sent here under a name of its own.
func asksHere(r *http.Request) bool {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !from.Addr().Unmap().IsLoopback() {
		return false
	}
	for _, h := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip"} {
		if r.Header.Get(h) != "" {
			return false
		}
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && ip.Unmap().IsLoopback()
}

// serveReady answers 200 when the broker can take and hand out records, else 503 and why not. Warnings are about what it
// does in spite of them.
func (b *Broker) serveReady(w http.ResponseWriter, _ *http.Request) {
	state := struct {
		Ready    bool     `json:"ready"`
		Reasons  []string `json:"reasons,omitempty"`
		Warnings []string `json:"warnings,omitempty"`
		Offline  []string `json:"offlinePartitions,omitempty"`
		Damaged  []string `json:"damagedOnDisk,omitempty"` // a warning: everything else is served
	}{Reasons: b.unready(), Warnings: b.warnings()}
	for p := range b.partitions.All() {
		if err := p.Err(); err != nil && len(state.Offline) < 100 {
			state.Offline = append(state.Offline, err.Error())
		}
		for _, d := range p.Damage() {
			if len(state.Damaged) < 100 {
				state.Damaged = append(state.Damaged, d.String())
			}
		}
	}
	state.Ready = len(state.Reasons) == 0
	w.Header().Set("Content-Type", "application/json")
	if !state.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(state) // the client is gone if it fails
}

// unready says why the broker cannot take and hand out records.
func (b *Broker) unready() []string {
	var out []string
	if !b.ready.Load() {
		out = append(out, "the broker is starting or stopping")
	}
	if p := b.storeErr.Load(); p != nil {
		out = append(out, (*p).Error())
	}
	// As long as one log dir takes records, what is wrong with another is a warning.
	if bad := b.badDirs(); len(bad) == len(b.dirs.All()) {
		out = append(out, bad...)
	}
	return out
}

// badDirs says of each log dir that takes no records why it does not.
func (b *Broker) badDirs() []string {
	var out []string
	for _, d := range b.dirs.All() {
		if err := d.Err(); err != nil {
			out = append(out, err.Error())
		} else if r := d.Room(); r.Full {
			out = append(out, fmt.Sprintf("the volume of log dir %s is full since %s: %d bytes are free and producers leave %d; delete topics or records, shorten retention, or enlarge the volume",
				d.Path(), r.Since.UTC().Format(time.RFC3339), r.FreeBytes, r.KeptBytes))
		}
	}
	return out
}

// warnings are what an operator should look at.
func (b *Broker) warnings() []string {
	out := b.badDirs()
	if len(out) == len(b.dirs.All()) {
		out = nil // these are reasons not to be ready
	}
	given := false
	for _, d := range b.dirs.All() {
		if s := d.Stall(); s.Stalled {
			out = append(out, fmt.Sprintf("the disk of log dir %s hangs: %s of %s has not come back since %s", d.Path(), s.Operation, s.File, s.Since.UTC().Format(time.RFC3339)))
		}
		given = given || d.Room().ReserveGiven
	}
	for _, e := range b.security.Expiries() {
		if n := e.Notice(time.Now()); n != "" {
			out = append(out, n)
		}
	}
	if given {
		out = append(out, fmt.Sprintf("the reserve in metadata directory %s was given up because its volume is nearly full", b.metaDir))
	}
	return out
}

// brokerMetrics reads the broker's state when it is asked.
type brokerMetrics struct{ b *Broker }

var (
	partitionsDesc = prometheus.NewDesc("moldau_partitions", "Replicas on this broker by state: online or offline, which those in a log dir that failed are too.", []string{"state"}, nil)
	openDesc       = prometheus.NewDesc("moldau_logs_open", "Logs that are open; a log is opened when it is used, and closed again when many are open and nobody uses it.", nil, nil)
	recoverDesc    = prometheus.NewDesc("moldau_logs_to_recover", "Logs that the recovery after a stop that was not a clean one has still to look at; they are recovered at once when they are used.", nil, nil)
	offlineDirDesc = prometheus.NewDesc("moldau_log_dir_offline", "1 while the log dir is offline: it could not be opened, or a write or sync in it failed.", []string{"dir"}, nil)
	spaceDesc      = prometheus.NewDesc("moldau_log_dir_bytes", "Bytes of the volume of the log dir: free and total.", []string{"dir", "kind"}, nil)
	keptDesc       = prometheus.NewDesc("moldau_log_dir_kept_free_bytes", "Bytes of the volume of the log dir that producers leave free.", []string{"dir"}, nil)
	fullDesc       = prometheus.NewDesc("moldau_log_dir_full", "1 while producers are refused because the volume of the log dir is full.", []string{"dir"}, nil)
	fullTimesDesc  = prometheus.NewDesc("moldau_log_dir_full_total", "How often producers began to be refused because the volume was full.", []string{"dir"}, nil)
	reserveDesc    = prometheus.NewDesc("moldau_metadata_reserve_given_up", "1 while the reserve of the metadata directory is given up because its volume is nearly full.", nil, nil)
	stalledDesc    = prometheus.NewDesc("moldau_log_dir_stalled_seconds", "For how long a write or sync has not come back, 0 while the disk does not hang.", []string{"dir"}, nil)
	stallsDesc     = prometheus.NewDesc("moldau_log_dir_stalls_total", "How often the disk of the log dir hung.", []string{"dir"}, nil)
	standstillDesc = prometheus.NewDesc("moldau_stalls_total", "How often the process did not run for moldau.stall.ms, or the own work of a request took longer.", []string{"kind"}, nil)
	storeDesc      = prometheus.NewDesc("moldau_metastore_failed", "1 after the metadata store failed: a restart brings it back.", nil, nil)
	durableDesc    = prometheus.NewDesc("moldau_flush_every_records", "log.flush.interval.messages in force by default: 1 means that an acknowledged record is on the disk.", nil, nil)
	retainedDesc   = prometheus.NewDesc("moldau_retention_deleted_bytes_total", "Bytes in segments that retention has deleted.", nil, nil)
	compactedDesc  = prometheus.NewDesc("moldau_compactions_total", "Passes of compaction over a log that have ended.", nil, nil)
	compactByDesc  = prometheus.NewDesc("moldau_compaction_bytes_total", "Bytes that compaction has read and written.", []string{"kind"}, nil)
	compactRecDesc = prometheus.NewDesc("moldau_compaction_records_total", "Records that compaction has read, and those of them that it kept.", []string{"kind"}, nil)
	compactSecDesc = prometheus.NewDesc("moldau_compaction_seconds_total", "Time spent in compaction.", nil, nil)
	dirtyDesc      = prometheus.NewDesc("moldau_compaction_dirty_ratio_max", "Largest share of bytes never compacted of a log that is to be compacted.", nil, nil)
	uncleanDesc    = prometheus.NewDesc("moldau_uncleanable_partitions", "Partitions whose compaction failed; they are left alone until a restart.", nil, nil)
	scrubByDesc    = prometheus.NewDesc("moldau_scrub_bytes_total", "Bytes of segments that the scrub has read.", nil, nil)
	scrubSegDesc   = prometheus.NewDesc("moldau_scrub_segments_total", "Closed segments that the scrub has checked.", nil, nil)
	scrubDesc      = prometheus.NewDesc("moldau_scrub_passes_total", "Passes of the scrub over all logs that have ended.", nil, nil)
	scrubIndexDesc = prometheus.NewDesc("moldau_scrub_mended_indexes_total", "Indexes that did not fit their segment and were made anew.", nil, nil)
	scrubAtDesc    = prometheus.NewDesc("moldau_scrub_progress_ratio", "Share of the bytes that the pass under way has behind it; 1 between passes.", nil, nil)
	readyDesc      = prometheus.NewDesc("moldau_ready", "1 when the broker serves.", nil, nil)
	expiryDesc     = prometheus.NewDesc("moldau_certificate_expires_in_seconds", "Time until the first certificate of a listener's keystore, truststore or of the CA of --tls=auto ends; negative after that.", []string{"listener", "store"}, nil)
	imageDesc      = prometheus.NewDesc("moldau_metadata_sequence", "Sequence number of the metadata image.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m *brokerMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{partitionsDesc, openDesc, recoverDesc, offlineDirDesc, spaceDesc, durableDesc, readyDesc, imageDesc,
		retainedDesc, compactedDesc, compactByDesc, compactRecDesc, compactSecDesc, dirtyDesc, uncleanDesc,
		keptDesc, fullDesc, fullTimesDesc, reserveDesc, stalledDesc, stallsDesc, standstillDesc, storeDesc,
		scrubByDesc, scrubSegDesc, scrubDesc, scrubIndexDesc, scrubAtDesc, expiryDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (m *brokerMetrics) Collect(out chan<- prometheus.Metric) {
	b := m.b
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	online, offline, used := 0, 0, 0
	for p := range b.partitions.All() {
		if p.Err() != nil {
			offline++
			continue
		}
		if p.LogDir().Err() != nil {
			offline++ // it is read still, as far as the disk gives it
		} else {
			online++
		}
		if p.Used() {
			used++
		}
	}
	gauge(partitionsDesc, float64(online), "online")
	gauge(partitionsDesc, float64(offline), "offline")
	gauge(openDesc, float64(used))
	recovery := b.dirs.Recovery()
	gauge(recoverDesc, float64(recovery.Total-recovery.Done))
	b.collectDisks(out)
	b.collectCleaning(out)
	b.collectScrub(out)
	for _, e := range b.security.Expiries() {
		gauge(expiryDesc, time.Until(e.NotAfter).Seconds(), e.Listener, e.Store)
	}
	gauge(durableDesc, float64(b.o.Config.Int("log.flush.interval.messages")))
	gauge(readyDesc, truth(len(b.unready()) == 0))
	gauge(imageDesc, float64(b.cluster.Image().Seq()))
}

// collectDisks reports how much room each log dir has, and what is wrong with its disk.
func (b *Broker) collectDisks(out chan<- prometheus.Metric) {
	one := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	given := false
	for _, d := range b.dirs.All() {
		room, hang, dir, err := d.Room(), d.Stall(), d.Path(), d.Err()
		one(offlineDirDesc, prometheus.GaugeValue, truth(err != nil), dir)
		if s, spaceErr := d.Space(); err == nil && spaceErr == nil {
			one(spaceDesc, prometheus.GaugeValue, float64(s.FreeBytes), dir, "free")
			one(spaceDesc, prometheus.GaugeValue, float64(s.TotalBytes), dir, "total")
		}
		one(keptDesc, prometheus.GaugeValue, float64(room.KeptBytes), dir)
		one(fullDesc, prometheus.GaugeValue, truth(room.Full), dir)
		one(fullTimesDesc, prometheus.CounterValue, float64(room.Times), dir)
		given = given || room.ReserveGiven
		seconds := 0.0
		if hang.Stalled {
			seconds = time.Since(hang.Since).Seconds()
		}
		one(stalledDesc, prometheus.GaugeValue, seconds, dir)
		one(stallsDesc, prometheus.CounterValue, float64(hang.Times), dir)
	}
	one(reserveDesc, prometheus.GaugeValue, truth(given))
	for _, k := range []stall.Kind{stall.Scheduler, stall.Request} {
		one(standstillDesc, prometheus.CounterValue, float64(b.stalls.Count(k)), k.String())
	}
	one(storeDesc, prometheus.GaugeValue, truth(b.storeErr.Load() != nil))
}

// collectCleaning reports what retention and compaction have done.
func (b *Broker) collectCleaning(out chan<- prometheus.Metric) {
	s := b.dirs.CleanStats()
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

// collectScrub reports how far the search for damage has come.
func (b *Broker) collectScrub(out chan<- prometheus.Metric) {
	s := b.dirs.ScrubStats()
	for d, v := range map[*prometheus.Desc]int64{scrubByDesc: s.ReadBytes, scrubSegDesc: s.Segments, scrubDesc: s.Passes, scrubIndexDesc: s.Indexes} {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	out <- prometheus.MustNewConstMetric(scrubAtDesc, prometheus.GaugeValue, s.Progress)
}

func truth(v bool) float64 {
	if v {
		return 1
	}
	return 0
}
