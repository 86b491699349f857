package handler

// JoinGroup, key 11, versions 0 to 9 (KIP-62, KIP-345, KIP-394, KIP-559, KIP-800, KIP-814).
//
// It is answered when the group's join phase ends, which may take the rebalance timeout of its slowest member. It parks in
// the connection's writer for so long.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

func joinGroup(ctx context.Context, rc *requestContext, req *kmsg.JoinGroupRequest) kmsg.Response {
	code := wire.GroupAuthorizationFailed
	if rc.allowed(req.Group) {
		var resp *kmsg.JoinGroupResponse
		client := rc.groupClient()
		if resp, code = atGroup[*kmsg.JoinGroupResponse](ctx, rc, req.Group, func(s *group.Shard, now shard.Time, t shard.Ticket) shard.Effects {
			return s.JoinGroup(now, t, client, req)
		}); code == wire.None {
			return resp
		}
	}
	resp := kmsg.NewPtrJoinGroupResponse()
	resp.ErrorCode = int16(code)
	return resp
}
