// ListPartitionReassignments (46), version 0 (KIP-455).
//
//   - Null asks for every reassignment that is under way, else the partitions named are looked at.
//   - Topics and partitions that are not being reassigned, or not there, are left out.
//   - Tools ask it with every description of a topic.

package handler

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/metadata"
	"moldau/internal/wire"
)

func listPartitionReassignments(_ context.Context, rc *requestContext, req *kmsg.ListPartitionReassignmentsRequest) kmsg.Response {
	resp := kmsg.NewPtrListPartitionReassignmentsResponse()
	if !rc.allowed(clusterName) {
		resp.ErrorCode, resp.ErrorMessage = int16(wire.ClusterAuthorizationFailed), text(wire.ClusterAuthorizationFailed.Message())
		return resp
	}
	im := rc.table.o.Cluster.Image()
	add := func(t *metadata.Topic, indexes []int32) {
		out := kmsg.NewListPartitionReassignmentsResponseTopic()
		out.Topic = t.Name
		for _, i := range indexes {
			if i < 0 || int(i) >= len(t.Partitions) {
				continue
			}
			p := &t.Partitions[i]
			if len(p.Adding) == 0 && len(p.Removing) == 0 {
				continue
			}
			r := kmsg.NewListPartitionReassignmentsResponseTopicPartition()
			r.Partition, r.Replicas, r.AddingReplicas, r.RemovingReplicas = i, p.Replicas, p.Adding, p.Removing
			out.Partitions = append(out.Partitions, r)
		}
		if len(out.Partitions) > 0 {
			resp.Topics = append(resp.Topics, out)
		}
	}
	if req.Topics == nil {
		for t := range im.Topics() {
			indexes := make([]int32, len(t.Partitions))
			for i := range indexes {
				indexes[i] = int32(i)
			}
			add(t, indexes)
		}
		return resp
	}
	for _, asked := range req.Topics {
		if t := im.Topic(asked.Topic); t != nil {
			add(t, asked.Partitions)
		}
	}
	return resp
}
