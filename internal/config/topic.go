//lint:file-ignore ST1011 the fields are named after the topic keys

package config

import (
	"maps"
	"math"
	"slices"
	"time"
)

// Topic is every topic key resolved, for the code that acts on it. Durations of -1 and sizes of -1 mean unlimited.
type Topic struct {
	SegmentBytes       int32 // internal.segment.bytes where a test sets it
	SegmentMs          time.Duration
	SegmentJitterMs    time.Duration
	SegmentIndexBytes  int32
	IndexIntervalBytes int32
	MaxMessageBytes    int32
	Preallocate        bool
	FileDeleteDelayMs  time.Duration

	FlushMessages int64         // flush after that many records; 1 is before every acknowledgement
	FlushMs       time.Duration // flush after that time

	CleanupDelete, CleanupCompact bool // neither: keep everything
	RetentionBytes                int64
	RetentionMs                   time.Duration
	LocalRetentionBytes           int64         // -2: as RetentionBytes
	LocalRetentionMs              time.Duration // -2: as RetentionMs
	DeleteRetentionMs             time.Duration
	MinCompactionLagMs            time.Duration
	MaxCompactionLagMs            time.Duration
	MinCleanableDirtyRatio        float64

	CompressionType                string // producer, uncompressed, gzip, snappy, lz4 or zstd
	GzipLevel, LZ4Level, ZstdLevel int
	LogAppendTime                  bool
	TimestampBeforeMaxMs           int64 // as Kafka: milliseconds, math.MaxInt64 is no limit
	TimestampAfterMaxMs            int64
	MaxInflatedBytes               int64 // most bytes a batch may have after decompression
	MinISR                         int32
	UncleanLeaderElection          bool
	LeaderThrottledReplicas        []string
	FollowerThrottledReplicas      []string
	RemoteStorage                  bool
	RemoteCopyDisable              bool
	RemoteDeleteOnDisable          bool
}

// maxInflatedBytes is the default of max.decompressed.message.bytes, which Kafka has from 4.4 on.
const maxInflatedBytes = 2147483639

// Topic resolves a topic's keys through all layers. It cannot fail: values were checked when they were set, and one that is
// not valid any more gives way to the layer below. The maps are not kept.
func (b *Broker) Topic(overrides, brokerDynamic, clusterDynamic map[string]string) Topic {
	v := b.WithDynamic(brokerDynamic, clusterDynamic).topicValues()
	for name, raw := range overrides {
		if k, ok := topicTable.lookup(name); ok {
			if parsed, err := k.parse(raw); err == nil {
				v[name] = parsed
			}
		}
	}
	policy := v["cleanup.policy"].([]string)
	t := Topic{
		SegmentBytes:              int32(v["segment.bytes"].(int64)),
		SegmentMs:                 millis(v["segment.ms"].(int64)),
		SegmentJitterMs:           millis(v["segment.jitter.ms"].(int64)),
		SegmentIndexBytes:         int32(v["segment.index.bytes"].(int64)),
		IndexIntervalBytes:        int32(v["index.interval.bytes"].(int64)),
		MaxMessageBytes:           int32(v["max.message.bytes"].(int64)),
		Preallocate:               v["preallocate"].(bool),
		FileDeleteDelayMs:         millis(v["file.delete.delay.ms"].(int64)),
		FlushMessages:             v["flush.messages"].(int64),
		FlushMs:                   millis(v["flush.ms"].(int64)),
		CleanupDelete:             slices.Contains(policy, "delete"),
		CleanupCompact:            slices.Contains(policy, "compact"),
		RetentionBytes:            max(v["retention.bytes"].(int64), -1),
		RetentionMs:               millis(v["retention.ms"].(int64)),
		LocalRetentionBytes:       v["local.retention.bytes"].(int64),
		DeleteRetentionMs:         millis(v["delete.retention.ms"].(int64)),
		MinCompactionLagMs:        millis(v["min.compaction.lag.ms"].(int64)),
		MaxCompactionLagMs:        millis(v["max.compaction.lag.ms"].(int64)),
		MinCleanableDirtyRatio:    v["min.cleanable.dirty.ratio"].(float64),
		CompressionType:           v["compression.type"].(string),
		GzipLevel:                 int(v["compression.gzip.level"].(int64)),
		LZ4Level:                  int(v["compression.lz4.level"].(int64)),
		ZstdLevel:                 int(v["compression.zstd.level"].(int64)),
		LogAppendTime:             v["message.timestamp.type"].(string) == "LogAppendTime",
		TimestampBeforeMaxMs:      v["message.timestamp.before.max.ms"].(int64),
		TimestampAfterMaxMs:       v["message.timestamp.after.max.ms"].(int64),
		MaxInflatedBytes:          maxInflatedBytes,
		MinISR:                    int32(v["min.insync.replicas"].(int64)),
		UncleanLeaderElection:     v["unclean.leader.election.enable"].(bool),
		LeaderThrottledReplicas:   v["leader.replication.throttled.replicas"].([]string),
		FollowerThrottledReplicas: v["follower.replication.throttled.replicas"].([]string),
		RemoteStorage:             v["remote.storage.enable"].(bool),
		RemoteCopyDisable:         v["remote.log.copy.disable"].(bool),
		RemoteDeleteOnDisable:     v["remote.log.delete.on.disable"].(bool),
	}
	t.LocalRetentionMs = millis(v["local.retention.ms"].(int64))
	if v["local.retention.ms"].(int64) == -2 {
		t.LocalRetentionMs = -2
	}
	if internal, ok := v["internal.segment.bytes"].(int64); ok && internal > 0 {
		t.SegmentBytes = int32(internal)
	}
	return t
}

// topicValues is what a topic without values of its own gets: the broker's value where there is one, else the default of the
// topic key. Internal keys are left out.
func (b *Broker) topicValues() map[string]value {
	out := make(map[string]value, len(topicTable.keys))
	for _, k := range topicTable.keys {
		broker, ok := topicToBroker[k.Name]
		switch {
		case !ok && k.Unset:
		case !ok:
			out[k.Name], _ = k.parse(k.Default)
		case family(broker) != nil:
			out[k.Name] = b.familyMillis(broker)
		default:
			kb, _ := brokerTable.lookup(broker)
			out[k.Name] = b.value(broker, kb.Type)
		}
	}
	return out
}

// familyMillis is the value of the first key of a family that is set, in milliseconds; -1 for every negative retention.
func (b *Broker) familyMillis(name string) int64 {
	for _, u := range family(name) {
		if v := b.value(u.name, Int, Long); v != nil {
			n := v.(int64)
			if n < 0 && name == "log.retention.ms" {
				return -1
			}
			if n < 0 {
				return n
			}
			return saturated(n, u.millis)
		}
	}
	panic("BUG: no key of the family of " + name + " has a default")
}

// maxValueBytes is the longest value Kafka stores.
const maxValueBytes = math.MaxInt16

// ValidateTopic judges the values a topic is to have of its own, against the defaults of the table. The messages are
// Kafka's; the code for them is INVALID_CONFIG.
func ValidateTopic(overrides map[string]string) error {
	return (&Broker{}).ValidateTopic(overrides, nil, nil)
}

// ValidateTopic judges the values a topic is to have of its own, together with what it inherits from this broker.
func (b *Broker) ValidateTopic(overrides, brokerDynamic, clusterDynamic map[string]string) error {
	names := slices.Sorted(maps.Keys(overrides))
	for _, name := range names {
		if _, ok := topicTable.lookup(name); !ok {
			return kafkaErrorf("Unknown topic config name: %s", name)
		}
	}
	v := b.WithDynamic(brokerDynamic, clusterDynamic).topicValues()
	for _, name := range names {
		if len(overrides[name]) > maxValueBytes {
			return kafkaErrorf("The configuration value cannot be added because it exceeds the maximum value size of %d bytes.", maxValueBytes)
		}
		k, _ := topicTable.lookup(name)
		parsed, err := k.parse(overrides[name])
		if err != nil {
			return err
		}
		v[name] = parsed
	}
	if err := compactionLags(v); err != nil {
		return err
	}
	if v["remote.storage.enable"].(bool) { // the broker never has it enabled, see remote.log.storage.system.enable
		return kafkaErrorf("Tiered Storage functionality is disabled in the broker. Topic cannot be configured with remote log storage.")
	}
	return nil
}
