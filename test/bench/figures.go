package main

import (
	"slices"

	"moldau/internal/bench"
)

// figure is one number that is compared: how to take it from a run, and which direction is better.
type figure struct {
	group, phase string
	title, unit  string
	digits       int
	lowerBetter  bool
	chart        bool
	of           func(r *run) (float64, bool)
}

func figures() []figure {
	mbPerSecond := func(r *run) (float64, bool) { return r.Result.BytesPerSecond / 1e6, true }
	cpuPerGB := func(r *run) (float64, bool) { return r.perGB(r.BrokerCPU), r.Result.Bytes > 0 }
	of := func(pick func(*bench.Result) *bench.Distribution, value func(*bench.Distribution) float64) func(*run) (float64, bool) {
		return func(r *run) (float64, bool) {
			d := pick(r.Result)
			if d == nil {
				return 0, false
			}
			return value(d), true
		}
	}
	ack := func(r *bench.Result) *bench.Distribution { return r.Ack }
	fetch := func(r *bench.Result) *bench.Distribution { return r.Fetch }
	endToEnd := func(r *bench.Result) *bench.Distribution { return r.EndToEnd }
	p50 := func(d *bench.Distribution) float64 { return d.P50 }
	p99 := func(d *bench.Distribution) float64 { return d.P99 }
	p999 := func(d *bench.Distribution) float64 { return d.P999 }
	most := func(d *bench.Distribution) float64 { return d.Max }
	perRecord := func(r *run) (float64, bool) {
		return r.BrokerCPU / float64(r.Result.Records) * 1e6, r.Result.Records > 0
	}

	list := []figure{
		{groupProduce, light.name, "Broker's processor time, at 30 % of Kafka's saturation", "CPU-s/GB", 2, true, true, cpuPerGB},
		{groupProduce, light.name, "Acknowledgement, p99, at 30 % of Kafka's saturation", "ms", 2, true, false, of(ack, p99)},
		{groupProduce, saturated.name, "Throughput, saturated", "MB/s", 0, false, true, mbPerSecond},
		{groupConsume, light.name, "Broker's processor time, at 30 % of Kafka's saturation", "CPU-s/GB", 2, true, true, cpuPerGB},
		{groupConsume, light.name, "Fetch, p99, at 30 % of Kafka's saturation", "ms", 2, true, false, of(fetch, p99)},
		{groupConsume, saturated.name, "Throughput, saturated", "MB/s", 0, false, true, mbPerSecond},
		{groupDurable, saturated.name, "Durable records a second", "records/s", 0, false, true,
			func(r *run) (float64, bool) { return r.Result.RecordsPerSecond, true }},
		{groupDurable, saturated.name, "Broker's processor time for a record", "µs", 1, true, false, perRecord},
		{groupDurable, saturated.name, "Acknowledgement, p99", "ms", 2, true, false, of(ack, p99)},
	}
	for _, ph := range []phase{light, heavy} {
		at := ", at " + ph.name + " of Kafka's saturation"
		list = append(list,
			figure{groupLatency, ph.name, "p50" + at, "ms", 2, true, false, of(endToEnd, p50)},
			figure{groupLatency, ph.name, "p99" + at, "ms", 2, true, true, of(endToEnd, p99)},
			figure{groupLatency, ph.name, "p99.9" + at, "ms", 2, true, false, of(endToEnd, p999)},
			figure{groupLatency, ph.name, "Maximum" + at, "ms", 2, true, false, of(endToEnd, most)},
			figure{groupLatency, ph.name, "Broker's processor time" + at, "CPU-s/GB", 2, true, false, cpuPerGB})
	}
	list = append(list, figure{groupLatency, saturated.name, "Throughput, saturated, with the consumer", "MB/s", 0, false, false, mbPerSecond},
		figure{groupPerf, saturated.name, "Throughput, saturated", "MB/s", 1, false, true, mbPerSecond},
		figure{groupPerf, saturated.name, "Broker's processor time, saturated", "CPU-s/GB", 2, true, false, cpuPerGB})
	for _, ph := range []phase{light, heavy} { // the tool counts whole milliseconds
		at := ", at " + ph.name + " of Kafka's saturation"
		list = append(list, figure{groupPerf, ph.name, "Acknowledgement, p50" + at, "ms", 0, true, false, of(ack, p50)},
			figure{groupPerf, ph.name, "Acknowledgement, p99" + at, "ms", 0, true, false, of(ack, p99)},
			figure{groupPerf, ph.name, "Acknowledgement, p99.9" + at, "ms", 0, true, false, of(ack, p999)})
	}
	return list
}

// summary is a figure of one scenario in one mode over all pairs.
type summary struct {
	scenario      string
	title         string
	mode          mode
	moldau, kafka float64 // medians
	// The ratios of the pairs, of which more than 1 is better for Moldau; none without Kafka.
	ratio, least, most float64
	pairs              int  // from which they are
	all                int  // pairs there were
	doubtful           bool // no pair counts: these are figures of pairs that do not
	bound              bool // in some run of Moldau the client took most of the machine
	failed             string
}

// pairOf is what the two brokers showed in one pair.
type pairOf struct {
	moldau, kafka       float64
	hasMoldau, hasKafka bool
	invalid             bool
}

// summarize goes over the runs of one scenario in one mode.
func summarize(runs []run, f figure, scenario, title string, m mode) (summary, bool) {
	s := summary{scenario: scenario, title: title, mode: m}
	pairs := map[int]*pairOf{}
	for i := range runs {
		r := &runs[i]
		if r.Scenario != scenario || r.Phase != f.phase || r.Mode != m {
			continue
		}
		p := pairs[r.Pair]
		if p == nil {
			p = &pairOf{}
			pairs[r.Pair] = p
		}
		if r.Error != "" {
			p.invalid, s.failed = true, r.Broker+": "+r.Error
			continue
		}
		p.invalid = p.invalid || len(r.Invalid) > 0
		value, ok := f.of(r)
		if r.Broker == moldau {
			p.moldau, p.hasMoldau = value, ok
			s.bound = s.bound || r.ClientBound
		} else {
			p.kafka, p.hasKafka = value, ok
		}
	}
	if len(pairs) == 0 {
		return s, false
	}
	s.take(pairs, f.lowerBetter)
	return s, true
}

func (s *summary) take(pairs map[int]*pairOf, lowerBetter bool) {
	s.all = len(pairs)
	var ours, theirs, ratios []float64
	collect := func(invalidToo bool) {
		for _, p := range pairs {
			if p.invalid && !invalidToo {
				continue
			}
			s.pairs++
			if p.hasMoldau {
				ours = append(ours, p.moldau)
			}
			if p.hasKafka {
				theirs = append(theirs, p.kafka)
			}
			if p.hasMoldau && p.hasKafka && p.moldau > 0 && p.kafka > 0 {
				ratio := p.moldau / p.kafka
				if lowerBetter {
					ratio = 1 / ratio
				}
				ratios = append(ratios, ratio)
			}
		}
	}
	collect(false)
	if s.pairs == 0 {
		s.doubtful = true
		collect(true)
	}
	s.moldau, s.kafka = median(ours), median(theirs)
	if len(ratios) > 0 {
		s.ratio, s.least, s.most = median(ratios), slices.Min(ratios), slices.Max(ratios)
	}
}

// median of nothing is 0.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}
