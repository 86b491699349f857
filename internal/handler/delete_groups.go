package handler

// DeleteGroups, key 42, versions 0 to 2 (KIP-229).
//
// Each group once, however often it is named. Its offsets go with it.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

func deleteGroups(ctx context.Context, rc *requestContext, req *kmsg.DeleteGroupsRequest) kmsg.Response {
	resp := kmsg.NewPtrDeleteGroupsResponse()
	for _, id := range distinct(req.Groups) {
		code := wire.GroupAuthorizationFailed
		var g *kmsg.DeleteGroupsResponseGroup
		if rc.allowed(id) {
			g, code = atGroup[*kmsg.DeleteGroupsResponseGroup](ctx, rc, id, func(s *group.Shard, now shard.Time, t shard.Ticket) shard.Effects {
				return s.DeleteGroup(now, t, id)
			})
		}
		if code != wire.None {
			failed := kmsg.NewDeleteGroupsResponseGroup()
			failed.Group, failed.ErrorCode = id, int16(code)
			g = &failed
		}
		resp.Groups = append(resp.Groups, *g)
	}
	return resp
}
