package broker

import (
	"bufio"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/common/expfmt"

	"moldau/internal/partition"
	"moldau/internal/storage"
)

// partitionSeries are the series that every partition has. There may be a hundred thousand partitions, and a registry makes several
// objects for each series and keeps all of them until the last byte has left; so these are no collector's. They are written as they are
// read, family by family.
var partitionSeries = []struct {
	name, help string
	of         func(*partition.Partition, storage.Extent) int64
}{
	{"moldau_high_watermark", "High watermark of a partition.", func(p *partition.Partition, x storage.Extent) int64 { return p.Committed(x) }},
	{"moldau_log_damaged_segments", "Segments of a partition with damage on the disk; their damaged records cannot be read.",
		func(_ *partition.Partition, x storage.Extent) int64 { return int64(x.Damaged) }},
	{"moldau_log_end_offset", "Log end offset of a partition.", func(_ *partition.Partition, x storage.Extent) int64 { return x.End }},
	{"moldau_log_size_bytes", "Bytes in segments of a partition.", func(_ *partition.Partition, x storage.Extent) int64 { return x.Bytes }},
	{"moldau_log_start_offset", "Log start offset of a partition.", func(_ *partition.Partition, x storage.Extent) int64 { return x.Start }},
}

// metricsBufferBytes is what is sent at once.
const metricsBufferBytes = 32 << 10

// serveMetrics answers in Prometheus' text format: first what the registry gathers, then the series of partitions.
func (b *Broker) serveMetrics(w http.ResponseWriter, r *http.Request) {
	families, err := b.registry.Gather()
	if err != nil {
		http.Error(w, "the metrics could not be gathered: "+err.Error(), http.StatusInternalServerError)
		return
	}
	format := expfmt.NewFormat(expfmt.TypeTextPlain)
	w.Header().Set("Content-Type", string(format))
	w.Header().Add("Vary", "Accept-Encoding")
	var to io.Writer = w
	if takesGzip(r) {
		w.Header().Set("Content-Encoding", "gzip")
		z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
		if err != nil {
			panic("BUG: gzip does not know its level: " + err.Error())
		}
		defer z.Close() // an error means that the client is gone; so it is below
		to = z
	}
	out := bufio.NewWriterSize(to, metricsBufferBytes)
	defer out.Flush()
	encoder := expfmt.NewEncoder(out, format)
	for _, f := range families {
		if encoder.Encode(f) != nil {
			return
		}
	}
	writePartitionSeries(out, b.partitions)
}

// takesGzip reports whether the client names gzip among the encodings that it accepts.
func takesGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, weight, _ := strings.Cut(part, ";")
		if strings.TrimSpace(name) == "gzip" {
			q, err := strconv.ParseFloat(strings.TrimPrefix(strings.TrimSpace(weight), "q="), 64)
			return err != nil || q > 0
		}
	}
	return false
}

// writePartitionSeries writes the series of every partition whose log can be used. Each family walks the partitions anew, which
// costs less than to keep their values. It ends early when out has failed: the client is gone.
func writePartitionSeries(out *bufio.Writer, partitions *partition.Manager) {
	for _, s := range partitionSeries {
		// No topic's name has a character that would have to be escaped.
		if _, err := out.WriteString("# HELP " + s.name + " " + s.help + "\n# TYPE " + s.name + " gauge\n"); err != nil {
			return
		}
		for p := range partitions.All() {
			if p.Err() != nil {
				continue
			}
			tp := p.TopicPartition()
			line := append(out.AvailableBuffer(), s.name...)
			line = strconv.AppendInt(append(line, `{partition="`...), int64(tp.Partition), 10)
			line = append(append(line, `",topic="`...), tp.Topic...)
			line = strconv.AppendInt(append(line, `"} `...), s.of(p, p.Extent()), 10)
			if _, err := out.Write(append(line, '\n')); err != nil {
				return
			}
		}
	}
}
