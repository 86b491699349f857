package handler

// ListOffsets, key 2, versions 1 to 11.
//
// Latest is the high watermark, or the last stable offset under read_committed, never
// the log end. A time without a record gives offset -1 and no error. The special
// timestamps need their version: -3 max timestamp v7 (KIP-734), -4 earliest local v8
// (KIP-405), -5 latest tiered v9 (KIP-1005), -6 earliest pending upload v11 (KIP-1023); else
// UNSUPPORTED_VERSION for that partition. Without tiered storage -4 is the earliest
// offset and -5 and -6 are unknown. A partition named twice is INVALID_REQUEST.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/partition"
	"moldau/internal/wire"
)

// Special timestamps.
const (
	latestOffset         = -1
	earliestOffset       = -2
	maxTimestampOffset   = -3
	earliestLocalOffset  = -4
	latestTieredOffset   = -5
	pendingUploadsOffset = -6
)

// specialSince is the first version in which a special timestamp may be asked for.
func specialSince(timestamp int64) (version int16, ok bool) {
	switch timestamp {
	case latestOffset, earliestOffset:
		return 1, true
	case maxTimestampOffset:
		return 7, true
	case earliestLocalOffset:
		return 8, true
	case latestTieredOffset:
		return 9, true
	case pendingUploadsOffset:
		return 11, true
	}
	return 0, false
}

type namedPartition struct {
	topic string
	index int32
}

func listOffsets(_ context.Context, rc *requestContext, req *kmsg.ListOffsetsRequest) kmsg.Response {
	resp := kmsg.NewPtrListOffsetsResponse()
	seen, twice := map[namedPartition]bool{}, map[namedPartition]bool{}
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			key := namedPartition{req.Topics[i].Topic, req.Topics[i].Partitions[j].Partition}
			twice[key] = seen[key]
			seen[key] = true
		}
	}
	for i := range req.Topics {
		topic := &req.Topics[i]
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = topic.Topic
		for j := range topic.Partitions {
			rp := kmsg.NewListOffsetsResponseTopicPartition()
			rp.Partition = topic.Partitions[j].Partition
			var at partition.Offset
			var err error
			switch {
			case !rc.allowed(topic.Topic):
				err = wire.TopicAuthorizationFailed
			case twice[namedPartition{topic.Topic, rp.Partition}]:
				err = wire.InvalidRequest
			default:
				at, err = listOffset(rc, topic.Topic, &topic.Partitions[j], req.IsolationLevel == 1)
			}
			code := codeOf(err)
			if code == wire.OffsetNotAvailable && rc.header.Version < 5 {
				code = wire.LeaderNotAvailable
			}
			rp.ErrorCode = int16(code)
			if err != nil {
				at = partition.Offset{Offset: -1, TimestampMs: -1, LeaderEpoch: -1}
			}
			rp.Offset, rp.Timestamp, rp.LeaderEpoch = at.Offset, at.TimestampMs, at.LeaderEpoch
			rt.Partitions = append(rt.Partitions, rp)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	return resp
}

func listOffset(rc *requestContext, topic string, want *kmsg.ListOffsetsRequestTopicPartition, readCommitted bool) (partition.Offset, error) {
	if want.Timestamp < 0 {
		if since, ok := specialSince(want.Timestamp); !ok || rc.header.Version < since {
			return partition.Offset{}, wire.UnsupportedVersion
		}
	}
	p, err := rc.table.lookup(topic, wire.UUID{}, want.Partition)
	if err != nil {
		return partition.Offset{}, err
	}
	epoch := want.CurrentLeaderEpoch
	switch want.Timestamp {
	case latestOffset:
		return p.Latest(epoch, readCommitted)
	case earliestOffset, earliestLocalOffset:
		return p.Earliest(epoch)
	case maxTimestampOffset:
		return p.MaxTimestamp(epoch, readCommitted)
	case latestTieredOffset, pendingUploadsOffset:
		_, err := p.Earliest(epoch) // for its checks
		return partition.Offset{Offset: -1, TimestampMs: -1, LeaderEpoch: -1}, err
	}
	return p.ByTimestamp(epoch, want.Timestamp, readCommitted)
}
