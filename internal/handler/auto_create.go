package handler

import (
	"context"
	"strconv"
	"time"

	"moldau/internal/config"
	"moldau/internal/controller"
	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// autoCreateTime bounds how long a request that creates topics by the way waits for them. If it is not
// enough, nothing is lost: the client asks again, and the topics are there or are created then.
const autoCreateTime = time.Second

// mayCreate tells whether the client may create a topic of that name.
func (rc *requestContext) mayCreate(name string) bool {
	return rc.permitted(access{clusterResource, opCreate}, clusterName) || rc.allowedTo(access{topicResource, opCreate}, name)
}

// autoCreate creates topics that a client has only asked about, or used. The names must be valid.
func (t *Table) autoCreate(ctx context.Context, im *metadata.Image, names []string) {
	ctx, cancel := context.WithTimeout(ctx, autoCreateTime)
	defer cancel()
	c := t.config(im)
	topics := make([]controller.NewTopic, len(names))
	for i, name := range names {
		topics[i] = newTopicByDefault(c, len(im.Brokers()), name)
	}
	var created, failed []controller.TopicResult
	for _, r := range t.o.Cluster.CreateTopics(ctx, topics, false) {
		switch r.Code {
		case wire.None:
			created = append(created, r)
		case wire.TopicAlreadyExists: // another client was first
		default:
			failed = append(failed, r)
		}
	}
	// One line each: a request may name very many topics.
	if created != nil {
		t.o.Log.Info("topics created on first use", "count", len(created), "first", created[0].Name, "partitions", created[0].Partitions)
	}
	if failed != nil {
		t.o.Log.Warn("topics could not be created on first use", "count", len(failed), "first", failed[0].Name,
			"code", failed[0].Code.String(), "reason", failed[0].Message)
	}
}

// newTopicByDefault is a topic for which nobody has said how it should be. The internal ones have
// their own defaults.
func newTopicByDefault(c *config.Broker, brokers int, name string) controller.NewTopic {
	t := controller.NewTopic{
		Name: name, Partitions: -1, ReplicationFactor: -1,
		DefaultPartitions: int32(c.Int("num.partitions")), DefaultReplicationFactor: int16(c.Int("default.replication.factor")),
	}
	var internal config.InternalTopic
	switch name {
	case offsetsTopic:
		internal = c.OffsetsTopic(brokers)
		t.Configs = map[string]string{"cleanup.policy": "compact", "compression.type": "producer"}
	case transactionTopic:
		internal = c.TransactionTopic(brokers)
		t.Configs = map[string]string{"cleanup.policy": "compact", "compression.type": "uncompressed", "unclean.leader.election.enable": "false"}
	case shareTopic:
		internal = c.ShareTopic(brokers)
		t.Configs = map[string]string{"cleanup.policy": "delete", "compression.type": "producer", "retention.ms": "-1"}
	default:
		return t
	}
	t.Partitions, t.ReplicationFactor = internal.Partitions, internal.ReplicationFactor
	t.Configs["segment.bytes"] = strconv.Itoa(int(internal.SegmentBytes))
	if internal.MinISR > 0 {
		t.Configs["min.insync.replicas"] = strconv.Itoa(int(internal.MinISR))
	}
	return t
}
