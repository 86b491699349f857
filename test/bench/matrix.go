package main

import (
	"fmt"
	"strings"
	"time"

	"moldau/internal/bench"
	"moldau/internal/record"
)

// mode is how Moldau runs beside Kafka, which always has its own defaults.
type mode string

const (
	// pageCache makes both answer when a record is in the page cache, as is Kafka's default.
	pageCache mode = "page cache"
	// defaults leaves each at its own: Moldau then answers when a record is on the disk.
	defaults mode = "own defaults"
	// durable makes both flush every record, by the topic's flush.messages.
	durable mode = "flush.messages=1"
	// header is pageCache, and Moldau does not inflate what producers send.
	header mode = "validation=header"
)

// serverArgs is what Moldau's command line gets in a mode.
var serverArgs = map[mode][]string{
	pageCache: {"--set", pageCacheOnly},
	header:    {"--set", pageCacheOnly, "--set", "moldau.produce.validation=header"},
}

// scenario is one load, which is measured in one or more phases.
type scenario struct {
	name, title string
	group       string // of the report
	modes       []mode
	measure     int
	options     bench.Options
	phases      []phase
}

// What a scenario measures.
const (
	produce = iota
	consume
	latency
	producerPerf // by Kafka's own tools, see perf.go
	consumerPerf
	javaProducers // by a program of ours with Kafka's producer
)

// phase is a scenario under one load.
type phase struct {
	name string
	// share of Kafka's saturation in the same scenario; 0 is saturated.
	share float64
}

var (
	saturated = phase{"saturated", 0}
	light     = phase{"30 %", 0.3}
	heavy     = phase{"70 %", 0.7}
)

// The groups of the report, in its order.
const (
	groupProduce = "Produce"
	groupConsume = "Consume"
	groupDurable = "Durable appends"
	groupLatency = "Latency from end to end"
	groupPerf    = "Kafka's own clients"
)

const (
	throughputConnections = 4
	manyPartitions        = 64
	batchSize             = 16 << 10
	largeBatch            = 1_000_000 // a little less than message.max.bytes
)

// scenarios is the matrix, as far as it was asked for.
func (s *settings) scenarios() []scenario {
	var all []scenario
	for _, size := range sizes {
		for _, acks := range []int16{1, -1} {
			for _, codec := range []record.Codec{record.None, record.LZ4, record.Zstd} {
				if codec != record.None && !s.full && (size != 1<<10 || acks != -1) {
					continue // the short matrix compresses one size only
				}
				all = append(all, s.produceScenario(size, acks, codec))
			}
		}
	}
	large := s.produceScenario(1<<10, 1, record.None)
	large.name, large.title, large.modes = "produce-large", "1 MB in one batch, acks=1, not compressed", []mode{pageCache}
	large.options.BatchSize = largeBatch
	all = append(all, large)
	all = append(all, s.consumeScenarios()...)
	for _, producers := range []int{1, 8, 64} {
		all = append(all, durableScenario(producers))
	}
	all = append(all, s.latencyScenarios()...)
	if !s.moldauOnly { // else there is no Java
		all = append(all, s.perfScenarios()...)
		for _, producers := range []int{1, 8, 64} {
			sc := durableScenario(producers)
			sc.name, sc.title, sc.measure = sc.name+"-java", "Kafka's own producer: "+sc.title, javaProducers
			all = append(all, sc)
		}
	}
	var chosen []scenario
	for _, sc := range all {
		if s.scenario.MatchString(sc.name) {
			chosen = append(chosen, sc)
		}
	}
	return chosen
}

var sizes = []int{100, 1 << 10, 10 << 10}

var acksText = map[int16]string{1: "1", -1: "all"}

func (s *settings) produceScenario(size int, acks int16, codec record.Codec) scenario {
	modes := []mode{pageCache}
	if codec != record.None {
		modes = append(modes, header)
	}
	if s.full || codec == record.None && acks == -1 {
		modes = append(modes, defaults)
	}
	return scenario{
		name:  fmt.Sprintf("produce-%d-acks-%s-%s", size, acksText[acks], codec),
		title: fmt.Sprintf("%s records, acks=%s, %s", sizeText(size), acksText[acks], strings.Replace(codec.String(), "none", "not compressed", 1)),
		group: groupProduce, modes: modes, measure: produce, phases: []phase{saturated, light},
		options: bench.Options{Partitions: 8, Connections: throughputConnections, RecordSize: size, BatchSize: batchSize, Acks: acks, Codec: codec},
	}
}

func (s *settings) latencyScenarios() (all []scenario) {
	modes := []mode{pageCache, durable}
	if s.full {
		modes = append(modes, defaults)
	}
	for _, size := range sizes {
		for _, acks := range []int16{1, -1} {
			sc := scenario{name: "latency", title: fmt.Sprintf("%s records in 16 KiB batches, 8 partitions, acks=%s, a waiting consumer", sizeText(size), acksText[acks]),
				group: groupLatency, modes: modes, measure: latency, phases: []phase{saturated, light, heavy},
				options: bench.Options{Partitions: 8, Connections: throughputConnections, RecordSize: size, BatchSize: batchSize, Acks: acks}}
			if size != 1<<10 || acks != -1 {
				if !s.full {
					continue
				}
				sc.name = fmt.Sprintf("latency-%d-acks-%s", size, acksText[acks])
			}
			all = append(all, sc)
		}
	}
	return all
}

// perfScenarios are loads by Kafka's own producer and consumer. In the short matrix they are saturated only.
func (s *settings) perfScenarios() (all []scenario) {
	phases := []phase{saturated}
	if s.full {
		phases = append(phases, light, heavy)
	}
	for _, size := range sizes {
		for _, acks := range []int16{1, -1} {
			all = append(all, scenario{name: fmt.Sprintf("producer-perf-%d-acks-%s", size, acksText[acks]),
				title: fmt.Sprintf("producer-perf, %s records, acks=%s", sizeText(size), acksText[acks]),
				group: groupPerf, modes: []mode{pageCache, durable}, measure: producerPerf, phases: phases,
				options: bench.Options{Partitions: 8, RecordSize: size, Acks: acks}})
		}
	}
	for _, size := range sizes {
		all = append(all, scenario{name: fmt.Sprintf("consumer-perf-%d", size), title: fmt.Sprintf("consumer-perf, %s records", sizeText(size)),
			group: groupPerf, modes: []mode{pageCache}, measure: consumerPerf, phases: []phase{saturated},
			options: bench.Options{Partitions: 8, Connections: throughputConnections, RecordSize: size, BatchSize: batchSize, Acks: -1, Fill: 2 * s.fill}})
	}
	return all
}

func (s *settings) consumeScenarios() []scenario {
	return []scenario{{
		name: "consume-large", title: "one partition, 1 MiB answers", group: groupConsume, modes: []mode{pageCache}, measure: consume,
		phases:  []phase{saturated, light},
		options: bench.Options{Partitions: 1, Connections: 1, RecordSize: 1 << 10, BatchSize: batchSize, Acks: -1, Fill: s.fill},
	}, {
		name: "consume-64-small", title: "64 partitions, one 4 KiB batch of each in an answer", group: groupConsume,
		modes: []mode{pageCache}, measure: consume, phases: []phase{saturated, light},
		options: bench.Options{Partitions: manyPartitions, Connections: 1, RecordSize: 1 << 10, BatchSize: 4 << 10, Acks: -1, Fill: s.fill / 4,
			PartitionMaxBytes: 4 << 10},
	}}
}

func durableScenario(producers int) scenario {
	return scenario{
		name: fmt.Sprintf("durable-%d", producers), title: fmt.Sprintf("%d producers, 64 partitions, 4 KiB records one by one, acks=all", producers),
		group: groupDurable, modes: []mode{durable}, measure: produce, phases: []phase{saturated},
		options: bench.Options{Partitions: manyPartitions, Connections: producers, InFlight: 1, RecordSize: 4 << 10, BatchSize: 1, Acks: -1},
	}
}

func sizeText(n int) string {
	if n%1024 == 0 {
		return fmt.Sprintf("%d KiB", n/1024)
	}
	return fmt.Sprintf("%d B", n)
}

// What a run takes beside its load, by measurement: waiting for the disk, calibration, creating and deleting the topic; for a start also filling
// and three more starts; for a cold run also a start, filling, and beginning and ending beside a slow disk.
const (
	around      = 2 * time.Second
	aroundJVM   = 3 * time.Second // starting Kafka's clients, too
	aroundStart = 13 * time.Second
	aroundCold  = 30 * time.Second
)

// takes is about how long a scenario takes.
func (s *settings) takes(sc scenario) time.Duration {
	each := s.settle + around + s.warmUp + s.duration
	switch sc.measure {
	case producerPerf, consumerPerf, javaProducers:
		each = s.settle + aroundJVM + s.perfWarmUp() + s.duration
	}
	return time.Duration(len(sc.phases)*len(sc.modes)*s.runs()) * each
}

// runs is how many there are of each figure.
func (s *settings) runs() int {
	if s.moldauOnly {
		return s.pairs
	}
	return 2 * s.pairs
}

func (s *settings) startsTake() time.Duration {
	return time.Duration(s.runs()*len(startModes)) * aroundStart
}

func (s *settings) coldTakes() time.Duration {
	return time.Duration(s.runs()) * (aroundCold + 5*s.warmUp + 2*coldHead + s.duration + 3*s.coldDuration())
}

// estimate is about how long all takes that was asked for, without many partitions.
func (s *settings) estimate(matrix []scenario) (sum time.Duration) {
	for _, sc := range matrix {
		sum += s.takes(sc)
	}
	if s.scenario.MatchString("start") {
		sum += s.startsTake()
	}
	for _, sc := range coldScenarios {
		if s.scenario.MatchString(sc.name) {
			sum += s.coldTakes()
		}
	}
	return sum
}
