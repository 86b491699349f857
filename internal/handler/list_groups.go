package handler

// ListGroups, key 16, versions 0 to 5 (KIP-518, KIP-848).
//
// The groups that this broker coordinates; tools ask every broker. While one of its shards is loading the answer is
// COORDINATOR_LOAD_IN_PROGRESS.

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
)

func listGroups(ctx context.Context, rc *requestContext, req *kmsg.ListGroupsRequest) kmsg.Response {
	resp := kmsg.NewPtrListGroupsResponse()
	answers, err := rc.table.o.Groups.DoAll(ctx, func(s *group.Shard, now shard.Time, t shard.Ticket) shard.Effects {
		return s.ListGroups(now, t, req)
	})
	if err != nil {
		resp.ErrorCode = int16(groupCode(err))
		return resp
	}
	all := rc.permitted(rc.row.needs, clusterName)
	for _, a := range answers {
		of, ok := a.(*kmsg.ListGroupsResponse)
		if !ok {
			panic(fmt.Sprintf("BUG: the group core answers %T", a))
		}
		if of.ErrorCode != 0 {
			resp.ErrorCode, resp.Groups = of.ErrorCode, nil
			return resp
		}
		for _, g := range of.Groups {
			if all || rc.permitted(access{groupResource, opDescribe}, g.Group) {
				resp.Groups = append(resp.Groups, g)
			}
		}
	}
	return resp
}
