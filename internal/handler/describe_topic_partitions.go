// DescribeTopicPartitions (75), version 0 (KIP-966).
//
//   - Topics are answered sorted by name, whatever the order of the request; none named means all.
//   - At most max.request.partition.size.limit partitions, or as many as the client wants, but at least one; then
//     the response ends with a cursor, from which the next request goes on. The topic of a cursor may be gone by then.
//   - A cursor that is not among the topics named, or negative, is INVALID_REQUEST for every topic.

package handler

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/metadata"
	"moldau/internal/wire"
)

func describeTopicPartitions(_ context.Context, rc *requestContext, req *kmsg.DescribeTopicPartitionsRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeTopicPartitionsResponse()
	im := rc.table.o.Cluster.Image()
	names, code := askedTopics(im, req)
	if code != wire.None {
		for _, t := range req.Topics {
			resp.Topics = append(resp.Topics, undescribed(t.Topic, code))
		}
		return resp
	}
	every := len(req.Topics) == 0
	var hidden []kmsg.DescribeTopicPartitionsResponseTopic
	room := max(1, min(int(rc.table.config(im).Int("max.request.partition.size.limit")), int(req.ResponsePartitionLimit)))
	for _, name := range names {
		if every && !rc.permitted(rc.row.needs, name) || !every && !rc.allowed(name) {
			if !every {
				hidden = append(hidden, undescribed(name, wire.TopicAuthorizationFailed))
			}
			continue
		}
		if resp.NextCursor != nil {
			continue // only looks for topics that are hidden
		}
		if room == 0 {
			resp.NextCursor = cursorAt(name, 0)
			continue
		}
		t := im.Topic(name)
		if t == nil {
			r := undescribed(name, unknownTopic(controller.InvalidName(name)))
			r.IsInternal, r.AuthorizedOperations = isInternal(name), rc.operationsOnTopic(name)
			resp.Topics = append(resp.Topics, r)
			continue
		}
		from := 0
		if req.Cursor != nil && req.Cursor.Topic == name {
			from = min(int(req.Cursor.Partition), len(t.Partitions))
		}
		to := min(from+room, len(t.Partitions))
		resp.Topics = append(resp.Topics, describedTopic(rc, im, t, from, to))
		if room -= to - from; to < len(t.Partitions) {
			resp.NextCursor = cursorAt(name, int32(to))
		}
	}
	resp.Topics = append(resp.Topics, hidden...)
	return resp
}

// askedTopics are the topics from the cursor on, sorted.
func askedTopics(im *metadata.Image, req *kmsg.DescribeTopicPartitionsRequest) ([]string, wire.Code) {
	var names []string
	if len(req.Topics) == 0 {
		for t := range im.Topics() {
			names = append(names, t.Name)
		}
	}
	for _, t := range req.Topics {
		names = append(names, t.Topic)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if req.Cursor == nil {
		return names, wire.None
	}
	at, found := slices.BinarySearch(names, req.Cursor.Topic)
	if !found && len(req.Topics) > 0 || req.Cursor.Partition < 0 {
		return nil, wire.InvalidRequest
	}
	return names[at:], wire.None
}

func undescribed(name string, code wire.Code) kmsg.DescribeTopicPartitionsResponseTopic {
	r := kmsg.NewDescribeTopicPartitionsResponseTopic()
	r.Topic, r.ErrorCode = &name, int16(code)
	return r
}

func cursorAt(topic string, partition int32) *kmsg.DescribeTopicPartitionsResponseNextCursor {
	c := kmsg.NewDescribeTopicPartitionsResponseNextCursor()
	c.Topic, c.Partition = topic, partition
	return &c
}

func describedTopic(rc *requestContext, im *metadata.Image, t *metadata.Topic, from, to int) kmsg.DescribeTopicPartitionsResponseTopic {
	r := kmsg.NewDescribeTopicPartitionsResponseTopic()
	r.Topic, r.TopicID, r.IsInternal = &t.Name, t.ID, isInternal(t.Name)
	r.AuthorizedOperations = rc.operationsOnTopic(t.Name)
	for i := from; i < to; i++ {
		p := &t.Partitions[i]
		v := rc.view(im, p)
		d := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
		d.Partition, d.LeaderID, d.LeaderEpoch = int32(i), v.leader, p.LeaderEpoch
		d.Replicas, d.ISR, d.OfflineReplicas = v.replicas, v.isr, v.offline
		// Null is for brokers that do not know; this one does, and mostly there are none.
		d.EligibleLeaderReplicas, d.LastKnownELR = append([]int32{}, p.ELR...), append([]int32{}, p.LastKnownELR...)
		r.Partitions = append(r.Partitions, d)
	}
	return r
}
