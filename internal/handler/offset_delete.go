package handler

// OffsetDelete, key 47, version 0 (KIP-496).
//
// Offsets of topics to which the group's members are subscribed stay: GROUP_SUBSCRIBED_TO_TOPIC.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

func offsetDelete(ctx context.Context, rc *requestContext, req *kmsg.OffsetDeleteRequest) kmsg.Response {
	resp := kmsg.NewPtrOffsetDeleteResponse()
	if !rc.allowed(req.Group) {
		resp.ErrorCode = int16(wire.GroupAuthorizationFailed)
		return resp
	}
	im := rc.table.o.Cluster.Image()
	at := map[string]int{}
	answers := func(name string) *kmsg.OffsetDeleteResponseTopic {
		i, ok := at[name]
		if !ok {
			t := kmsg.NewOffsetDeleteResponseTopic()
			t.Topic = name
			i = len(resp.Topics)
			at[name] = i
			resp.Topics = append(resp.Topics, t)
		}
		return &resp.Topics[i]
	}
	var good []kmsg.OffsetDeleteRequestTopic
	for _, topic := range req.Topics {
		t := im.Topic(topic.Topic)
		code := wire.UnknownTopicOrPartition
		if !rc.allowedTo(access{topicResource, opRead}, topic.Topic) {
			t, code = nil, wire.TopicAuthorizationFailed
		}
		here := kmsg.OffsetDeleteRequestTopic{Topic: topic.Topic}
		for _, p := range topic.Partitions {
			if t != nil && has(t, p.Partition) {
				here.Partitions = append(here.Partitions, p)
				continue
			}
			r := kmsg.NewOffsetDeleteResponseTopicPartition()
			r.Partition, r.ErrorCode = p.Partition, int16(code)
			of := answers(topic.Topic)
			of.Partitions = append(of.Partitions, r)
		}
		if len(here.Partitions) > 0 {
			good = append(good, here)
		}
	}
	req.Topics = good
	answer, code := atGroup[*kmsg.OffsetDeleteResponse](ctx, rc, req.Group, func(s *group.Shard, now shard.Time, t shard.Ticket) shard.Effects {
		return s.OffsetDelete(now, t, req)
	})
	if code == wire.None {
		code = wire.Code(answer.ErrorCode)
	}
	if code != wire.None {
		resp.ErrorCode, resp.Topics = int16(code), nil
		return resp
	}
	for _, t := range answer.Topics {
		of := answers(t.Topic)
		of.Partitions = append(of.Partitions, t.Partitions...)
	}
	return resp
}
