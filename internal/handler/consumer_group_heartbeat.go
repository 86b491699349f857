package handler

// ConsumerGroupHeartbeat, key 68, versions 0 and 1 (KIP-848, KIP-1082).
//
// It is all that a member of a consumer group sends: it joins, lives, leaves, and learns its assignment step by step. UNSUPPORTED_VERSION
// where the feature group.version is below 1, or group.coordinator.rebalance.protocols leaves out "consumer". A client that
// subscribes to topics by name has to be allowed to describe them.

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

// consumerGroups tells whether the consumer protocol is served.
func (t *Table) consumerGroups() bool {
	levels, _ := t.o.Cluster.Image().Features()
	return levels[controller.GroupVersion] >= 1 && slices.Contains(t.o.Config.List("group.coordinator.rebalance.protocols"), "consumer")
}

func consumerGroupHeartbeat(ctx context.Context, rc *requestContext, req *kmsg.ConsumerGroupHeartbeatRequest) kmsg.Response {
	code := wire.None
	switch {
	case !rc.table.consumerGroups():
		code = wire.UnsupportedVersion
	case !rc.allowed(req.Group):
		code = wire.GroupAuthorizationFailed
	case slices.ContainsFunc(req.SubscribedTopicNames, func(name string) bool { return !rc.allowedTo(access{topicResource, opDescribe}, name) }):
		code = wire.TopicAuthorizationFailed
	}
	if code == wire.None {
		var resp *kmsg.ConsumerGroupHeartbeatResponse
		client := rc.groupClient()
		if resp, code = atGroup[*kmsg.ConsumerGroupHeartbeatResponse](ctx, rc, req.Group, func(s *group.Shard, now shard.Time, t shard.Ticket) shard.Effects {
			return s.ConsumerGroupHeartbeat(now, t, client, req)
		}); code == wire.None {
			return resp
		}
	}
	resp := kmsg.NewPtrConsumerGroupHeartbeatResponse()
	resp.ErrorCode = int16(code)
	return resp
}
