package handler

// DescribeGroups, key 15, versions 0 to 6 (KIP-345, KIP-430, KIP-1043).
//
// A group that is not known is Dead, from version 6 on GROUP_ID_NOT_FOUND with a message. Each group is described once, however
// often it is named: an answer is much larger than a name.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

func describeGroups(ctx context.Context, rc *requestContext, req *kmsg.DescribeGroupsRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeGroupsResponse()
	for _, id := range distinct(req.Groups) {
		code := wire.GroupAuthorizationFailed
		var g *kmsg.DescribeGroupsResponseGroup
		if rc.allowed(id) {
			g, code = atGroup[*kmsg.DescribeGroupsResponseGroup](ctx, rc, id, func(s *group.Shard, now shard.Time, t shard.Ticket) shard.Effects {
				return s.DescribeGroup(now, t, req.Version, id)
			})
		}
		if code != wire.None {
			failed := kmsg.NewDescribeGroupsResponseGroup()
			failed.Group, failed.ErrorCode = id, int16(code)
			g = &failed
		} else if g.ErrorCode == 0 && req.IncludeAuthorizedOperations {
			g.AuthorizedOperations = rc.operations(groupResource, id)
		}
		resp.Groups = append(resp.Groups, *g)
	}
	return resp
}
