package handler

// LeaveGroup, key 13, versions 0 to 5 (KIP-345, KIP-800).
//
// From version 3 on several members leave at once, and each has its own error.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

func leaveGroup(ctx context.Context, rc *requestContext, req *kmsg.LeaveGroupRequest) kmsg.Response {
	code := wire.GroupAuthorizationFailed
	if rc.allowed(req.Group) {
		var resp *kmsg.LeaveGroupResponse
		if resp, code = atGroup[*kmsg.LeaveGroupResponse](ctx, rc, req.Group, func(s *group.Shard, now shard.Time, t shard.Ticket) shard.Effects {
			return s.LeaveGroup(now, t, req)
		}); code == wire.None {
			return resp
		}
	}
	resp := kmsg.NewPtrLeaveGroupResponse()
	resp.ErrorCode = int16(code)
	return resp
}
