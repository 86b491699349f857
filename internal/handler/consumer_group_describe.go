package handler

// ConsumerGroupDescribe, key 69, versions 0 and 1 (KIP-848, KIP-1099).
//
// Groups of the consumer protocol only: any other is GROUP_ID_NOT_FOUND, and clients then ask by DescribeGroups. Each group is
// described once, however often it is named. A group with a topic that the client may not describe is not described at all.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

func consumerGroupDescribe(ctx context.Context, rc *requestContext, req *kmsg.ConsumerGroupDescribeRequest) kmsg.Response {
	resp := kmsg.NewPtrConsumerGroupDescribeResponse()
	served := rc.table.consumerGroups()
	for _, id := range distinct(req.Groups) {
		var code wire.Code
		var g *kmsg.ConsumerGroupDescribeResponseGroup
		switch {
		case !served:
			code = wire.UnsupportedVersion
		case !rc.allowed(id):
			code = wire.GroupAuthorizationFailed
		case id == "":
			code = wire.InvalidGroupID
		default:
			g, code = atGroup[*kmsg.ConsumerGroupDescribeResponseGroup](ctx, rc, id, func(s *group.Shard, now shard.Time, t shard.Ticket) shard.Effects {
				return s.DescribeConsumerGroup(now, t, id)
			})
		}
		var message *string
		if code == wire.None && !rc.mayDescribeTopicsOf(g) {
			code, message = wire.TopicAuthorizationFailed, text("The group has described topic(s) that the client is not authorized to describe.")
		}
		if code != wire.None {
			failed := kmsg.NewConsumerGroupDescribeResponseGroup()
			failed.Group, failed.ErrorCode, failed.ErrorMessage = id, int16(code), message
			g = &failed
		} else if g.ErrorCode == 0 && req.IncludeAuthorizedOperations {
			g.AuthorizedOperations = rc.operations(groupResource, id)
		}
		resp.Groups = append(resp.Groups, *g)
	}
	return resp
}

// mayDescribeTopicsOf tells whether the client may know of every topic in the description.
func (rc *requestContext) mayDescribeTopicsOf(g *kmsg.ConsumerGroupDescribeResponseGroup) bool {
	for i := range g.Members {
		for _, a := range []*kmsg.Assignment{&g.Members[i].Assignment, &g.Members[i].TargetAssignment} {
			for j := range a.TopicPartitions {
				if !rc.permitted(access{topicResource, opDescribe}, a.TopicPartitions[j].Topic) {
					return false
				}
			}
		}
		for _, name := range g.Members[i].SubscribedTopics {
			if !rc.permitted(access{topicResource, opDescribe}, name) {
				return false
			}
		}
	}
	return true
}
