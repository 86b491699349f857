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
)

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
)

const (
	throughputConnections = 4
	manyPartitions        = 64
	batchSize             = 16 << 10
)

// scenarios is the matrix, as far as it was asked for.
func (s *settings) scenarios() []scenario {
	var all []scenario
	for _, size := range []int{100, 1 << 10, 10 << 10} {
		for _, acks := range []int16{1, -1} {
			for _, codec := range []record.Codec{record.None, record.LZ4, record.Zstd} {
				if codec != record.None && !s.full && (size != 1<<10 || acks != -1) {
					continue // the short matrix compresses one size only
				}
				all = append(all, produceScenario(size, acks, codec))
			}
		}
	}
	all = append(all, s.consumeScenarios()...)
	for _, producers := range []int{1, 8, 64} {
		all = append(all, durableScenario(producers))
	}
	all = append(all, scenario{name: "latency", title: "1 KiB records in 16 KiB batches, 8 partitions, acks=all, a waiting consumer",
		group: groupLatency, modes: []mode{pageCache, defaults}, measure: latency, phases: []phase{saturated, light, heavy},
		options: bench.Options{Partitions: 8, Connections: throughputConnections, RecordSize: 1 << 10, BatchSize: batchSize, Acks: -1}})
	var chosen []scenario
	for _, sc := range all {
		if s.scenario.MatchString(sc.name) {
			chosen = append(chosen, sc)
		}
	}
	return chosen
}

func produceScenario(size int, acks int16, codec record.Codec) scenario {
	who := map[int16]string{1: "1", -1: "all"}[acks]
	return scenario{
		name:  fmt.Sprintf("produce-%d-acks-%s-%s", size, who, codec),
		title: fmt.Sprintf("%s records, acks=%s, %s", sizeText(size), who, strings.Replace(codec.String(), "none", "not compressed", 1)),
		group: groupProduce, modes: []mode{pageCache, defaults}, measure: produce, phases: []phase{saturated, light},
		options: bench.Options{Partitions: 8, Connections: throughputConnections, RecordSize: size, BatchSize: batchSize, Acks: acks, Codec: codec},
	}
}

func (s *settings) consumeScenarios() []scenario {
	return []scenario{{
		name: "consume-large", title: "one partition, 1 MiB answers", group: groupConsume, modes: []mode{pageCache, defaults}, measure: consume,
		phases:  []phase{saturated, light},
		options: bench.Options{Partitions: 1, Connections: 1, RecordSize: 1 << 10, BatchSize: batchSize, Acks: -1, Fill: s.fill},
	}, {
		name: "consume-64-small", title: "64 partitions, one 4 KiB batch of each in an answer", group: groupConsume,
		modes: []mode{pageCache, defaults}, measure: consume, phases: []phase{saturated, light},
		options: bench.Options{Partitions: manyPartitions, Connections: 1, RecordSize: 1 << 10, BatchSize: 4 << 10, Acks: -1, Fill: s.fill / 4,
			PartitionMaxBytes: 4 << 10},
	}}
}

func durableScenario(producers int) scenario {
	return scenario{
		name: fmt.Sprintf("durable-%d", producers), title: fmt.Sprintf("%d producers, 64 partitions, 4 KiB records one by one, acks=all", producers),
		group: groupDurable, modes: []mode{durable}, measure: produce, phases: []phase{saturated},
		options: bench.Options{Partitions: manyPartitions, Connections: producers, InFlight: 1, RecordSize: 4 << 10, BatchSize: 1, Acks: -1,
			Configs: map[string]string{"flush.messages": "1"}},
	}
}

func sizeText(n int) string {
	if n%1024 == 0 {
		return fmt.Sprintf("%d KiB", n/1024)
	}
	return fmt.Sprintf("%d B", n)
}

// estimate is about how long the matrix takes, without the starts.
func (s *settings) estimate(matrix []scenario) time.Duration {
	runs := 0
	for _, sc := range matrix {
		runs += len(sc.phases) * len(sc.modes) * 2 * s.pairs
	}
	const around = 2 * time.Second // waiting for the disk, calibration, creating and deleting the topic
	return time.Duration(runs) * (s.duration + s.warmUp + s.settle + around)
}
