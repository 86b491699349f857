package handler

// OffsetCommit, key 8, versions 2 to 10 (KIP-320, KIP-345, KIP-848).
//
// Version 10 names topics by id. A topic or partition that is not there is UNKNOWN_TOPIC_OR_PARTITION, an unknown id
// UNKNOWN_TOPIC_ID; the others of the request are committed. Every offset is stored with the id of its topic, so that those of
// a deleted topic never count for one that got its name.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// commitByID is the version from which on topics are named by id.
const commitByID = 10

func offsetCommit(ctx context.Context, rc *requestContext, req *kmsg.OffsetCommitRequest) kmsg.Response {
	a := commitAnswer{resp: kmsg.NewPtrOffsetCommitResponse()}
	if !rc.allowed(req.Group) {
		for i := range req.Topics {
			a.refuse(&req.Topics[i], wire.GroupAuthorizationFailed)
		}
		return a.resp
	}
	im := rc.table.o.Cluster.Image()
	good := req.Topics[:0]
	for i := range req.Topics {
		if topic := &req.Topics[i]; rc.mayCommit(im, &a, topic) {
			good = append(good, *topic)
		}
	}
	req.Topics = good
	if len(good) == 0 {
		return a.resp
	}
	answer, code := atGroup[*kmsg.OffsetCommitResponse](ctx, rc, req.Group, func(s *group.Shard, now shard.Time, t shard.Ticket) shard.Effects {
		return s.OffsetCommit(now, t, req)
	})
	switch {
	case code != wire.None:
		for i := range good {
			a.refuse(&good[i], code)
		}
	case len(a.resp.Topics) == 0:
		return answer
	default:
		for _, t := range answer.Topics {
			at := a.topic(t.Topic, t.TopicID)
			at.Partitions = append(at.Partitions, t.Partitions...)
		}
	}
	return a.resp
}

// mayCommit completes name and id of a topic and leaves only partitions that are there; what
// is refused is answered. It reports whether anything is left.
func (rc *requestContext) mayCommit(im *metadata.Image, a *commitAnswer, topic *kmsg.OffsetCommitRequestTopic) bool {
	byID := rc.header.Version >= commitByID
	t := requestedTopic(im, byID, topic.Topic, topic.TopicID)
	if t != nil {
		topic.Topic, topic.TopicID = t.Name, t.ID
	}
	switch {
	case t == nil && byID:
		a.refuse(topic, wire.UnknownTopicID)
		return false
	case !rc.allowedTo(access{topicResource, opRead}, topic.Topic):
		a.refuse(topic, wire.TopicAuthorizationFailed)
		return false
	case t == nil:
		a.refuse(topic, wire.UnknownTopicOrPartition)
		return false
	}
	good := topic.Partitions[:0]
	for _, p := range topic.Partitions {
		if has(t, p.Partition) {
			good = append(good, p)
		} else {
			a.refusePartition(topic, p.Partition, wire.UnknownTopicOrPartition)
		}
	}
	topic.Partitions = good
	return len(good) > 0
}

// commitAnswer is a response that is put together; each topic is in it once.
type commitAnswer struct {
	resp *kmsg.OffsetCommitResponse
	at   map[topicKey]int // index of a topic in resp
}

func (a *commitAnswer) topic(name string, id wire.UUID) *kmsg.OffsetCommitResponseTopic {
	key := topicKey{name: name, id: id}
	i, ok := a.at[key]
	if !ok {
		t := kmsg.NewOffsetCommitResponseTopic()
		t.Topic, t.TopicID = name, id
		i = len(a.resp.Topics)
		a.resp.Topics = append(a.resp.Topics, t)
		if a.at == nil {
			a.at = map[topicKey]int{}
		}
		a.at[key] = i
	}
	return &a.resp.Topics[i]
}

// refuse answers all partitions of a topic with an error.
func (a *commitAnswer) refuse(topic *kmsg.OffsetCommitRequestTopic, code wire.Code) {
	a.topic(topic.Topic, topic.TopicID) // also without partitions
	for _, p := range topic.Partitions {
		a.refusePartition(topic, p.Partition, code)
	}
}

func (a *commitAnswer) refusePartition(topic *kmsg.OffsetCommitRequestTopic, partition int32, code wire.Code) {
	r := kmsg.NewOffsetCommitResponseTopicPartition()
	r.Partition, r.ErrorCode = partition, int16(code)
	t := a.topic(topic.Topic, topic.TopicID)
	t.Partitions = append(t.Partitions, r)
}
