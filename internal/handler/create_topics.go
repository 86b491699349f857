// CreateTopics (19), versions 2 to 7 (KIP-4, KIP-464, KIP-525, KIP-599).
//
//   - Every topic has its own result. A name that is given twice has one, INVALID_REQUEST.
//   - -1 partitions or replicas are the broker's defaults. A manual assignment needs both to be -1.
//   - From version 5 on the result holds number of partitions, replication factor and every effective
//     configuration, for who may describe them.
//   - When the response is sent, this broker's metadata has the topic.
//   - Each partition is a mutation for the client's quota, also of a topic that is only validated. From version 6 on, who has none left is refused with
//     THROTTLING_QUOTA_EXCEEDED, before that it waits afterwards.

package handler

import (
	"context"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/metadata"
	"moldau/internal/wire"
)

func createTopics(ctx context.Context, rc *requestContext, req *kmsg.CreateTopicsRequest) kmsg.Response {
	ctx, cancel := rc.within(ctx, req.TimeoutMillis)
	defer cancel()
	im := rc.table.o.Cluster.Image()
	asked, twice := split(req.Topics, func(t *kmsg.CreateTopicsRequestTopic) string { return t.Topic })
	topics := make([]controller.NewTopic, len(asked))
	for i := range asked {
		topics[i] = newTopic(rc, im, &asked[i])
	}
	if rc.limitsMutations() { // by what is valid: that is not known before
		for i, r := range rc.table.o.Cluster.CreateTopics(ctx, topics, true) {
			if r.Code == wire.None && rc.take(int(r.Partitions), req.Version >= 6) {
				topics[i].Refused, topics[i].RefusedMessage = wire.ThrottlingQuotaExceeded, wire.ThrottlingQuotaExceeded.Message()
			}
		}
	}
	resp := kmsg.NewPtrCreateTopicsResponse()
	for i, r := range rc.table.o.Cluster.CreateTopics(ctx, topics, req.ValidateOnly) {
		resp.Topics = append(resp.Topics, createdTopic(rc, im, req.Version, &topics[i], r))
	}
	for _, t := range twice {
		r := kmsg.NewCreateTopicsResponseTopic()
		r.Topic, r.ErrorCode, r.ErrorMessage = t.Topic, int16(wire.InvalidRequest), text("Duplicate topic name.")
		r.Configs = []kmsg.CreateTopicsResponseTopicConfig{}
		resp.Topics = append(resp.Topics, r)
	}
	return resp
}

func newTopic(rc *requestContext, im *metadata.Image, asked *kmsg.CreateTopicsRequestTopic) controller.NewTopic {
	c := rc.table.config(im)
	t := controller.NewTopic{
		Name: asked.Topic, Partitions: asked.NumPartitions, ReplicationFactor: asked.ReplicationFactor,
		DefaultPartitions: int32(c.Int("num.partitions")), DefaultReplicationFactor: int16(c.Int("default.replication.factor")),
	}
	for _, a := range asked.ReplicaAssignment {
		t.Assignments = append(t.Assignments, controller.Assignment{Partition: a.Partition, Brokers: a.Replicas})
	}
	var nulls []string
	for _, entry := range asked.Configs {
		if entry.Value == nil {
			nulls = append(nulls, entry.Name)
			continue
		}
		if t.Configs == nil {
			t.Configs = make(map[string]string, len(asked.Configs))
		}
		t.Configs[entry.Name] = *entry.Value
	}
	switch {
	case !rc.mayCreate(asked.Topic):
		t.Refused, t.RefusedMessage = wire.TopicAuthorizationFailed, "Authorization failed."
	case nulls != nil && im.Topic(asked.Topic) == nil && controller.InvalidName(asked.Topic) == "":
		t.Refused, t.RefusedMessage = wire.InvalidConfig, "Null value not supported for topic configs: "+strings.Join(nulls, ",")
	}
	return t
}

func createdTopic(rc *requestContext, im *metadata.Image, version int16, t *controller.NewTopic, r controller.TopicResult) kmsg.CreateTopicsResponseTopic {
	out := kmsg.NewCreateTopicsResponseTopic()
	out.Topic, out.TopicID = r.Name, r.ID
	out.ErrorCode, out.ErrorMessage = int16(r.Code), text(r.Message)
	switch {
	case r.Code != wire.None || version < 5:
		out.Configs = []kmsg.CreateTopicsResponseTopicConfig{} // never null, as in Kafka
		return out
	case !rc.permitted(access{topicResource, opDescribeConfigs}, r.Name):
		out.ConfigErrorCode = int16(wire.TopicAuthorizationFailed)
		out.Configs = []kmsg.CreateTopicsResponseTopicConfig{}
		return out
	}
	out.NumPartitions, out.ReplicationFactor = r.Partitions, r.ReplicationFactor
	for _, e := range rc.table.describeTopic(im, t.Configs) {
		c := kmsg.NewCreateTopicsResponseTopicConfig()
		c.Name, c.ReadOnly, c.Source, c.IsSensitive = e.Name, e.ReadOnly, int8(e.Source), e.Sensitive
		c.Value = valueOf(e.Value, e.Null || e.Sensitive)
		out.Configs = append(out.Configs, c)
	}
	return out
}
