package config

import (
	"regexp"
	"slices"
	"strings"
)

// topicToBroker names the broker key that is the default of each topic key. Where several broker keys say the same in
// different units, it is the one that wins (KIP-226).
var topicToBroker = map[string]string{
	"cleanup.policy":                  "log.cleanup.policy",
	"compression.gzip.level":          "compression.gzip.level",
	"compression.lz4.level":           "compression.lz4.level",
	"compression.type":                "compression.type",
	"compression.zstd.level":          "compression.zstd.level",
	"delete.retention.ms":             "log.cleaner.delete.retention.ms",
	"file.delete.delay.ms":            "log.segment.delete.delay.ms",
	"flush.messages":                  "log.flush.interval.messages",
	"flush.ms":                        "log.flush.interval.ms",
	"index.interval.bytes":            "log.index.interval.bytes",
	"local.retention.bytes":           "log.local.retention.bytes",
	"local.retention.ms":              "log.local.retention.ms",
	"max.compaction.lag.ms":           "log.cleaner.max.compaction.lag.ms",
	"max.message.bytes":               "message.max.bytes",
	"message.timestamp.after.max.ms":  "log.message.timestamp.after.max.ms",
	"message.timestamp.before.max.ms": "log.message.timestamp.before.max.ms",
	"message.timestamp.type":          "log.message.timestamp.type",
	"min.cleanable.dirty.ratio":       "log.cleaner.min.cleanable.ratio",
	"min.compaction.lag.ms":           "log.cleaner.min.compaction.lag.ms",
	"min.insync.replicas":             "min.insync.replicas",
	"preallocate":                     "log.preallocate",
	"retention.bytes":                 "log.retention.bytes",
	"retention.ms":                    "log.retention.ms",
	"segment.bytes":                   "log.segment.bytes",
	"segment.index.bytes":             "log.index.size.max.bytes",
	"segment.jitter.ms":               "log.roll.jitter.ms",
	"segment.ms":                      "log.roll.ms",
	"unclean.leader.election.enable":  "unclean.leader.election.enable",
}

// unitFamilies are broker keys that say the same in different units; an earlier one wins.
var unitFamilies = [][]unit{
	{{"log.roll.ms", 1}, {"log.roll.hours", hourMs}},
	{{"log.roll.jitter.ms", 1}, {"log.roll.jitter.hours", hourMs}},
	{{"log.retention.ms", 1}, {"log.retention.minutes", 60 * 1000}, {"log.retention.hours", hourMs}},
	{{"log.flush.interval.ms", 1}, {"log.flush.scheduler.interval.ms", 1}},
}

const hourMs = 60 * 60 * 1000

type unit struct {
	name   string
	millis int64
}

// family returns the keys that say the same as name, or nil. As in Kafka, log.flush.scheduler.interval.ms stands in for
// log.flush.interval.ms but not the other way round.
func family(name string) []unit {
	if name == "log.flush.scheduler.interval.ms" {
		return nil
	}
	for _, f := range unitFamilies {
		if slices.ContainsFunc(f, func(u unit) bool { return u.name == name }) {
			return f
		}
	}
	return nil
}

// listenerKey is listener.name.<listener>.<key>, a value for one listener only.
var listenerKey = regexp.MustCompile(`^listener\.name\.([^.]*)\.(.+)$`)

// mechanismKeys may carry a SASL mechanism between the listener and the key.
var mechanismKeys = []string{
	"connections.max.reauth.ms",
	"sasl.jaas.config",
	"sasl.login.callback.handler.class",
	"sasl.login.class",
	"sasl.server.callback.handler.class",
}

// listenerBase returns the key that a listener's own key overrides.
func listenerBase(name string) (base string, ok bool) {
	m := listenerKey.FindStringSubmatch(name)
	if m == nil {
		return "", false
	}
	for _, k := range mechanismKeys {
		if strings.HasSuffix(m[2], k) {
			return k, true
		}
	}
	return m[2], true
}

// synonyms lists the broker keys that decide the value of name, the strongest first.
func synonyms(name string) []string {
	if f := family(name); f != nil {
		out := make([]string, len(f))
		for i, u := range f {
			out[i] = u.name
		}
		return out
	}
	if base, ok := listenerBase(name); ok {
		return []string{name, base}
	}
	return []string{name}
}

// lookupBroker finds the key that types a broker property, which may be one listener's own.
func lookupBroker(name string) (Key, bool) {
	if k, ok := brokerTable.lookup(name); ok {
		return k, true
	}
	if base, ok := listenerBase(name); ok {
		return brokerTable.lookup(base)
	}
	return Key{}, false
}
