package handler

import (
	"maps"
	"slices"
	"strconv"

	"moldau/internal/config"
	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// Types of configured resources, with Kafka's numbers (ConfigResource.Type).
const (
	topicConfigs         = int8(metadata.TopicConfig)
	brokerConfigs        = int8(metadata.BrokerConfig)
	brokerLoggerConfigs  = 8
	clientMetricsConfigs = 16
	groupConfigs         = int8(metadata.GroupConfig)
)

// accessTo is where a type of configured resource is authorised; name is that of the resource, unless it
// belongs to the cluster.
func accessTo(kind int8, name string, op operation) (access, string) {
	switch kind {
	case topicConfigs:
		return access{topicResource, op}, name
	case groupConfigs:
		return access{groupResource, op}, name
	default:
		return access{clusterResource, op}, clusterName
	}
}

// notAllowed is the error of a resource that the client may not configure or describe.
func notAllowed(r resourceType) *apiError {
	code := wire.ClusterAuthorizationFailed
	switch r {
	case topicResource:
		code = wire.TopicAuthorizationFailed
	case groupResource:
		code = wire.GroupAuthorizationFailed
	}
	return refuse(code, "%s", code.Message())
}

// dynamic are the values set at run time for this broker, and for all.
func (t *Table) dynamic(im *metadata.Image) (mine, all map[string]string) {
	return im.Config(metadata.BrokerConfig, strconv.Itoa(int(t.o.NodeID))), im.Config(metadata.BrokerConfig, "")
}

// describeTopic lists every configuration of a topic that has these of its own.
func (t *Table) describeTopic(im *metadata.Image, own map[string]string) []config.Entry {
	mine, all := t.dynamic(im)
	return t.o.Config.DescribeTopic(own, mine, all)
}

// brokerID reads the name of a BROKER or BROKER_LOGGER resource. Each broker has one name: what is set for "01"
// would be set for nobody.
func brokerID(name string) (int32, bool) {
	id, err := strconv.ParseInt(name, 10, 32)
	return int32(id), err == nil && strconv.FormatInt(id, 10) == name
}

// groupDefaults are the configurations of a group that have no default in the broker's. The value of any
// other key of groupKeys is the broker's under the same name, after "group.".
var groupDefaults = map[string]config.Entry{
	"share.auto.offset.reset": {Type: config.String, Value: "latest",
		Doc: "Where a share group starts on a partition that it has not read yet: earliest, latest, or by_duration with a time."},
	"share.isolation.level": {Type: config.String, Value: "read_uncommitted",
		Doc: "Which records of transactions a share group gets: read_committed gets those of committed ones only."},
	"share.renew.acknowledge.enable": {Type: config.Boolean, Value: "true",
		Doc: "Whether members of a share group may renew the lock of a record."},
}

var groupKeys = []string{
	"consumer.assignment.interval.ms", "consumer.heartbeat.interval.ms", "consumer.session.timeout.ms",
	"share.assignment.interval.ms", "share.auto.offset.reset", "share.delivery.count.limit", "share.heartbeat.interval.ms",
	"share.isolation.level", "share.partition.max.record.locks", "share.record.lock.duration.ms",
	"share.renew.acknowledge.enable", "share.session.timeout.ms",
	"streams.assignment.interval.ms", "streams.heartbeat.interval.ms", "streams.initial.rebalance.delay.ms",
	"streams.num.standby.replicas", "streams.session.timeout.ms",
}

// describeGroup lists the configurations of a group for which none is set.
func describeGroup(brokerEntries []config.Entry) []config.Entry {
	broker := make(map[string]config.Entry, len(brokerEntries))
	for _, e := range brokerEntries {
		broker[e.Name] = e
	}
	out := make([]config.Entry, 0, len(groupKeys))
	for _, name := range groupKeys {
		e, own := groupDefaults[name]
		if own {
			e.Source = config.SourceDefault
			e.Synonyms = []config.Synonym{{Name: name, Value: e.Value, Source: config.SourceDefault}}
		} else {
			e = broker["group."+name]
		}
		e.Name, e.ReadOnly = name, false
		out = append(out, e)
	}
	return out
}

// describeClientMetrics lists the configurations of any subscription of client metrics. There are
// none yet.
func describeClientMetrics() []config.Entry {
	return []config.Entry{
		{Name: "interval.ms", Value: "300000", Type: config.Int, Source: config.SourceDefault, Doc: "How often clients push their metrics, in milliseconds."},
		{Name: "match", Type: config.List, Source: config.SourceDefault, Doc: "Which clients push metrics."},
		{Name: "metrics", Type: config.List, Source: config.SourceDefault, Doc: "Prefixes of the names of metrics that clients push."},
	}
}

// valueOf is a value in a response, null where it is unset or secret.
func valueOf(value string, null bool) *string {
	if null {
		return nil
	}
	return &value
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
