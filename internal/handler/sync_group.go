package handler

// SyncGroup, key 14, versions 0 to 5 (KIP-345, KIP-559).
//
// It is answered when the leader's assignment is committed. From version 5 on the type and name of the protocol are mandatory, else
// INCONSISTENT_GROUP_PROTOCOL.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

func syncGroup(ctx context.Context, rc *requestContext, req *kmsg.SyncGroupRequest) kmsg.Response {
	var code wire.Code
	switch {
	case req.Version >= 5 && (req.ProtocolType == nil || req.Protocol == nil):
		code = wire.InconsistentGroupProtocol
	case !rc.allowed(req.Group):
		code = wire.GroupAuthorizationFailed
	default:
		var resp *kmsg.SyncGroupResponse
		if resp, code = atGroup[*kmsg.SyncGroupResponse](ctx, rc, req.Group, func(s *group.Shard, now shard.Time, t shard.Ticket) shard.Effects {
			return s.SyncGroup(now, t, req)
		}); code == wire.None {
			return resp
		}
	}
	resp := kmsg.NewPtrSyncGroupResponse()
	resp.ErrorCode = int16(code)
	return resp
}
