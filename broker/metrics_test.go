package broker

import (
	"bufio"
	"io"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestMetricsOfPartitions: what /metrics answers can be read by Prometheus' own parser, plain and compressed, with a series of each
// kind for every partition; and a series costs no memory, for there may be half a million.
func TestMetricsOfPartitions(t *testing.T) {
	const partitions = 2000
	j := newJBOD(t)
	j.start("log.dirs=/a", "metadata.log.dir=/meta")
	j.topic("a.b_c-D", partitions)
	if err := j.client().ProduceSync(j.ctx, &kgo.Record{Topic: "a.b_c-D", Partition: 7, Value: []byte("x")}).FirstErr(); err != nil {
		t.Fatal(err)
	}

	scrape := func(accept string) map[string]int {
		t.Helper()
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/metrics", nil)
		r.Header.Set("Accept-Encoding", accept)
		j.serveMetrics(w, r)
		var body io.Reader = w.Body
		if w.Header().Get("Content-Encoding") == "gzip" {
			var err error
			if body, err = gzip.NewReader(body); err != nil {
				t.Fatal(err)
			}
		}
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(body)
		if err != nil {
			t.Fatal(err)
		}
		out := map[string]int{}
		for name, f := range families {
			out[name] = len(f.GetMetric())
			if name != "moldau_log_end_offset" {
				continue
			}
			for _, m := range f.GetMetric() {
				want := 0.0
				if m.GetLabel()[0].GetValue() == "7" {
					want = 1
				}
				if m.GetLabel()[1].GetValue() == "a.b_c-D" && m.GetGauge().GetValue() != want {
					t.Errorf("%v", m)
				}
			}
		}
		if (w.Header().Get("Content-Encoding") == "gzip") != strings.HasPrefix(accept, "gzip,") {
			t.Errorf("%q is answered with %q", accept, w.Header().Get("Content-Encoding"))
		}
		return out
	}
	plain := scrape("gzip;q=0, identity")
	for _, s := range partitionSeries {
		if plain[s.name] != partitions {
			t.Errorf("%s has %d series, not %d", s.name, plain[s.name], partitions)
		}
	}
	for _, name := range []string{"moldau_partitions", "go_goroutines", "moldau_ready"} {
		if plain[name] == 0 {
			t.Errorf("/metrics has no %s", name)
		}
	}
	zipped := scrape("gzip, deflate")
	if !slices.Equal(slices.Sorted(maps.Keys(zipped)), slices.Sorted(maps.Keys(plain))) || zipped["moldau_high_watermark"] != partitions {
		t.Errorf("compressed there is something else: %v, %v", zipped, plain)
	}

	out := bufio.NewWriterSize(io.Discard, metricsBufferBytes)
	if n := testing.AllocsPerRun(3, func() { writePartitionSeries(out, j.partitions) }); n > partitions/4 {
		t.Errorf("%d series take %.0f allocations", len(partitionSeries)*partitions, n)
	}
}
