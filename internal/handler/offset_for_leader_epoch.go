package handler

// OffsetForLeaderEpoch, key 23, versions 2 to 4 (KIP-101, KIP-279, KIP-320).
//
// Answers the end offset of the largest leader epoch that is not above the one asked
// for; (-1, -1) without an error when the log knows none. Consumers use it to find out
// that the log they read was cut.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

func offsetForLeaderEpoch(_ context.Context, rc *requestContext, req *kmsg.OffsetForLeaderEpochRequest) kmsg.Response {
	resp := kmsg.NewPtrOffsetForLeaderEpochResponse()
	for i := range req.Topics {
		topic := &req.Topics[i]
		rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
		rt.Topic = topic.Topic
		for j := range topic.Partitions {
			rp := kmsg.NewOffsetForLeaderEpochResponseTopicPartition()
			rp.Partition = topic.Partitions[j].Partition
			epoch, end, err := epochEnd(rc, topic.Topic, &topic.Partitions[j])
			rp.ErrorCode, rp.LeaderEpoch, rp.EndOffset = int16(codeOf(err)), epoch, end
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func epochEnd(rc *requestContext, topic string, want *kmsg.OffsetForLeaderEpochRequestTopicPartition) (epoch int32, end int64, err error) {
	if !rc.permitted(access{clusterResource, opClusterAction}, clusterName) && !rc.allowed(topic) {
		return -1, -1, wire.TopicAuthorizationFailed
	}
	p, err := rc.table.lookup(topic, wire.UUID{}, want.Partition)
	if err != nil {
		return -1, -1, err
	}
	return p.EndForEpoch(want.CurrentLeaderEpoch, want.LeaderEpoch)
}
