// DeleteRecords (21), versions 0 to 2 (KIP-107, KIP-204).
//
//   - Moves the log start offset to the offset given, -1 being the high watermark; beyond it is
//     OFFSET_OUT_OF_RANGE. Answers the low watermark, the log start of the replica that is furthest back.
//   - Internal topics are INVALID_TOPIC_EXCEPTION, topics that are only compacted POLICY_VIOLATION.
//   - The data goes with its segments, later. What was answered is durable.

package handler

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

func deleteRecords(_ context.Context, rc *requestContext, req *kmsg.DeleteRecordsRequest) kmsg.Response {
	resp := kmsg.NewPtrDeleteRecordsResponse()
	for i := range req.Topics {
		topic := &req.Topics[i]
		rt := kmsg.NewDeleteRecordsResponseTopic()
		rt.Topic = topic.Topic
		for _, p := range topic.Partitions {
			rp := kmsg.NewDeleteRecordsResponseTopicPartition()
			rp.Partition = p.Partition
			low, err := deleteBefore(rc, topic.Topic, p.Partition, p.Offset)
			rp.LowWatermark, rp.ErrorCode = low, int16(codeOf(err))
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func deleteBefore(rc *requestContext, topic string, index int32, offset int64) (low int64, err error) {
	switch {
	case !rc.allowed(topic):
		return -1, wire.TopicAuthorizationFailed
	case isInternal(topic):
		return -1, wire.InvalidTopicException
	}
	p, err := rc.table.lookup(topic, wire.UUID{}, index)
	if err != nil {
		return -1, err
	}
	return p.DeleteRecords(offset)
}
