package handler

// Heartbeat, key 12, versions 0 to 4 (KIP-345).
//
// While the group's state is loading the answer is NONE, as Kafka's: the member's session begins anew with the load.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

func heartbeat(ctx context.Context, rc *requestContext, req *kmsg.HeartbeatRequest) kmsg.Response {
	code := wire.GroupAuthorizationFailed
	if rc.allowed(req.Group) {
		var resp *kmsg.HeartbeatResponse
		if resp, code = atGroup[*kmsg.HeartbeatResponse](ctx, rc, req.Group, func(s *group.Shard, now shard.Time, t shard.Ticket) shard.Effects {
			return s.Heartbeat(now, t, req)
		}); code == wire.None {
			return resp
		}
		if code == wire.CoordinatorLoadInProgress && req.Group != "" {
			code = wire.None
		}
	}
	resp := kmsg.NewPtrHeartbeatResponse()
	resp.ErrorCode = int16(code)
	return resp
}
