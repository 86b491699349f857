package lag

import (
	"context"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
)

// Names that kafka_exporter has too are its names, with its labels, so that its dashboards work.
var (
	labels      = []string{"consumergroup", "topic", "partition"}
	offsetDesc  = prometheus.NewDesc("kafka_consumergroup_current_offset", "Committed offset of a group in a partition.", labels, nil)
	lagDesc     = prometheus.NewDesc("kafka_consumergroup_lag", "Records between the committed offset and the high watermark.", labels, nil)
	lagSumDesc  = prometheus.NewDesc("kafka_consumergroup_lag_sum", "Lag of a group in all partitions of a topic, in records.", labels[:2], nil)
	membersDesc = prometheus.NewDesc("kafka_consumergroup_members", "Members of a group.", labels[:1], nil)
	secondsDesc = prometheus.NewDesc("moldau_consumergroup_lag_seconds", "Age of the first record that a group has not read, 0 when it has read all. Left out where it is not known.", labels, nil)
	catchUpDesc = prometheus.NewDesc("moldau_consumergroup_catch_up_seconds", "Time until a group has read all, at the rates of the last minute; 0 when it has. Left out while the lag does not fall.", labels, nil)
	riskDesc    = prometheus.NewDesc("moldau_consumergroup_at_risk", "1 where retention has passed, or is about to pass, what a group with members has not read; reason is deleted, time or size.", append(slices.Clone(labels), "reason"), nil)
	risksDesc   = prometheus.NewDesc("moldau_consumergroup_partitions_at_risk", "Committed offsets of groups with members that retention has passed or is about to pass.", nil, nil)
	leftOutDesc = prometheus.NewDesc("moldau_consumergroups_left_out", "Groups without series of their own, because of moldau.group.metrics.partitions.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m *Monitor) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{offsetDesc, lagDesc, lagSumDesc, membersDesc, secondsDesc, catchUpDesc, riskDesc, risksDesc, leftOutDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector. Groups have series in the order of their names, whole ones, until there are MaxSeries partitions or groups.
func (m *Monitor) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, values ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, values...)
	}
	room, risks, leftOut := m.o.MaxSeries, 0, 0
	groups, _ := m.Groups(context.Background())
	for i := range groups {
		g := &groups[i]
		risks += g.InDanger
		if room >= 0 && utf8.ValidString(g.Name) { // any bytes may name a group, and no others a label
			room -= max(len(g.Partitions), 1)
		}
		if room < 0 || !utf8.ValidString(g.Name) {
			leftOut++
			continue
		}
		gauge(membersDesc, float64(g.Members), g.Name)
		for from := 0; from < len(g.Partitions); {
			topic, sum, to := g.Partitions[from].Topic, int64(0), from
			for ; to < len(g.Partitions) && g.Partitions[to].Topic == topic; to++ {
				p := &g.Partitions[to]
				index := strconv.Itoa(int(p.Partition))
				gauge(offsetDesc, float64(p.Committed), g.Name, topic, index)
				if p.Lag >= 0 {
					sum += p.Lag
					gauge(lagDesc, float64(p.Lag), g.Name, topic, index)
				}
				if p.Age >= 0 {
					gauge(secondsDesc, p.Age.Seconds(), g.Name, topic, index)
				}
				if p.CatchUp >= 0 {
					gauge(catchUpDesc, p.CatchUp.Seconds(), g.Name, topic, index)
				}
				if p.Danger != nil {
					gauge(riskDesc, 1, g.Name, topic, index, Kind(p.Danger))
				}
			}
			gauge(lagSumDesc, float64(sum), g.Name, topic)
			from = to
		}
	}
	gauge(risksDesc, float64(risks))
	gauge(leftOutDesc, float64(leftOut))
}
