package handler

// OffsetFetch, key 9, versions 1 to 10 (KIP-88, KIP-320, KIP-447, KIP-709, KIP-848).
//
// One group, from version 8 on several. No topics (null, from version 2 on) asks for all offsets of the group. Version 10 names
// topics by id. Where nothing was committed the offset is -1 and the error NONE, also for a group that is not known. An offset
// that was committed for another topic of the same name is none. COORDINATOR_NOT_AVAILABLE becomes NOT_COORDINATOR, as
// Kafka's: consumers before 3.9 do not expect the former here.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

const (
	fetchGroups = 8  // from here on several groups are asked for at once
	fetchByID   = 10 // and topics by id
)

func offsetFetch(ctx context.Context, rc *requestContext, req *kmsg.OffsetFetchRequest) kmsg.Response {
	resp := kmsg.NewPtrOffsetFetchResponse()
	if req.Version >= fetchGroups {
		for i := range req.Groups {
			resp.Groups = append(resp.Groups, *rc.fetchOffsets(ctx, req.RequireStable, &req.Groups[i]))
		}
		return resp
	}
	one := kmsg.NewOffsetFetchRequestGroup()
	one.Group = req.Group
	if req.Topics != nil {
		one.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
	}
	for _, t := range req.Topics {
		one.Topics = append(one.Topics, kmsg.OffsetFetchRequestGroupTopic{Topic: t.Topic, Partitions: t.Partitions})
	}
	answer := rc.fetchOffsets(ctx, req.RequireStable, &one)
	resp.ErrorCode = answer.ErrorCode
	if answer.ErrorCode != 0 && req.Version < 2 { // there is no error of the whole yet
		answer.Topics = nil
		for i := range one.Topics {
			answer.Topics = append(answer.Topics, refusedOffsets(&one.Topics[i], wire.Code(answer.ErrorCode)))
		}
	}
	for _, t := range answer.Topics {
		rt := kmsg.NewOffsetFetchResponseTopic()
		rt.Topic = t.Topic
		for _, p := range t.Partitions {
			rp := kmsg.NewOffsetFetchResponseTopicPartition()
			rp.Partition, rp.Offset, rp.LeaderEpoch, rp.Metadata, rp.ErrorCode = p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

// fetchOffsets answers for one group.
func (rc *requestContext) fetchOffsets(ctx context.Context, stable bool, req *kmsg.OffsetFetchRequestGroup) *kmsg.OffsetFetchResponseGroup {
	if !rc.allowed(req.Group) {
		return noOffsets(req, wire.GroupAuthorizationFailed)
	}
	all := req.Topics == nil
	refused := rc.completeTopics(req)
	answer, code := atGroup[*kmsg.OffsetFetchResponseGroup](ctx, rc, req.Group, func(s *group.Shard, now shard.Time, t shard.Ticket) shard.Effects {
		return s.OffsetFetch(now, t, stable, req)
	})
	switch {
	case code == wire.CoordinatorNotAvailable:
		return noOffsets(req, wire.NotCoordinator)
	case code != wire.None:
		return noOffsets(req, code)
	case answer.ErrorCode != 0:
		return answer
	case all:
		rc.visibleOffsets(answer)
	}
	answer.Topics = append(answer.Topics, refused...)
	return answer
}

func noOffsets(req *kmsg.OffsetFetchRequestGroup, code wire.Code) *kmsg.OffsetFetchResponseGroup {
	r := kmsg.NewOffsetFetchResponseGroup()
	r.Group, r.ErrorCode = req.Group, int16(code)
	return &r
}

// completeTopics gives the topics asked for their names and ids, and takes out those that are refused.
func (rc *requestContext) completeTopics(req *kmsg.OffsetFetchRequestGroup) (refused []kmsg.OffsetFetchResponseGroupTopic) {
	if req.Topics == nil {
		return nil
	}
	im := rc.table.o.Cluster.Image()
	byID := rc.header.Version >= fetchByID
	good := req.Topics[:0]
	for i := range req.Topics {
		topic := &req.Topics[i]
		t := requestedTopic(im, byID, topic.Topic, topic.TopicID)
		if t != nil {
			topic.Topic, topic.TopicID = t.Name, t.ID
		}
		switch {
		case t == nil && byID:
			refused = append(refused, refusedOffsets(topic, wire.UnknownTopicID))
		case !rc.allowedTo(access{topicResource, opDescribe}, topic.Topic):
			refused = append(refused, refusedOffsets(topic, wire.TopicAuthorizationFailed))
		default:
			good = append(good, *topic)
		}
	}
	req.Topics = good
	return refused
}

func refusedOffsets(topic *kmsg.OffsetFetchRequestGroupTopic, code wire.Code) kmsg.OffsetFetchResponseGroupTopic {
	r := kmsg.NewOffsetFetchResponseGroupTopic()
	r.Topic, r.TopicID = topic.Topic, topic.TopicID
	for _, p := range topic.Partitions {
		rp := kmsg.NewOffsetFetchResponseGroupTopicPartition()
		rp.Partition, rp.Offset, rp.Metadata, rp.ErrorCode = p, -1, new(string), int16(code)
		r.Partitions = append(r.Partitions, rp)
	}
	return r
}

// visibleOffsets leaves those of all offsets of a group that the client may see and that count for the topics there are.
func (rc *requestContext) visibleOffsets(answer *kmsg.OffsetFetchResponseGroup) {
	im := rc.table.o.Cluster.Image()
	var out []kmsg.OffsetFetchResponseGroupTopic
	for _, topic := range answer.Topics {
		if !rc.permitted(access{topicResource, opDescribe}, topic.Topic) {
			continue
		}
		if t := im.Topic(topic.Topic); t != nil {
			if topic.TopicID != [16]byte{} && topic.TopicID != t.ID {
				continue // of one that had this name before
			}
			topic.TopicID = t.ID
		}
		if rc.header.Version >= fetchByID && topic.TopicID == [16]byte{} {
			continue // it cannot be named
		}
		if n := len(out); n > 0 && out[n-1].Topic == topic.Topic && out[n-1].TopicID == topic.TopicID {
			out[n-1].Partitions = append(out[n-1].Partitions, topic.Partitions...)
			continue
		}
		out = append(out, topic)
	}
	answer.Topics = out
}
