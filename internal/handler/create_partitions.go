// CreatePartitions (37), versions 0 to 3 (KIP-195, KIP-599).
//
//   - The count is the new total; one that is not more than there are is INVALID_PARTITIONS.
//   - An assignment names the brokers of each partition that is added; null lets the controller choose.
//   - Each partition that is added is a mutation for the client's quota, as in CreateTopics; it is strict from version 3 on.
//   - Every topic has a result. One that is given twice has one, INVALID_REQUEST.
//   - The internal topics keep their count: a key belongs to a partition by it, so what was committed would not be found
//     again. Kafka lets them grow, and then loses the offsets.

package handler

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/wire"
)

func createPartitions(ctx context.Context, rc *requestContext, req *kmsg.CreatePartitionsRequest) kmsg.Response {
	ctx, cancel := rc.within(ctx, req.TimeoutMillis)
	defer cancel()
	resp := kmsg.NewPtrCreatePartitionsResponse()
	add := func(name string, code wire.Code, message string) {
		r := kmsg.NewCreatePartitionsResponseTopic()
		r.Topic, r.ErrorCode, r.ErrorMessage = name, int16(code), text(message)
		resp.Topics = append(resp.Topics, r)
	}
	asked, twice := split(req.Topics, func(t *kmsg.CreatePartitionsRequestTopic) string { return t.Topic })
	for _, t := range twice {
		add(t.Topic, wire.InvalidRequest, "Duplicate topic name.")
	}
	var topics []controller.NewPartitions
	for _, t := range asked {
		if !rc.allowed(t.Topic) {
			add(t.Topic, wire.TopicAuthorizationFailed, "")
			continue
		}
		if isInternal(t.Topic) && rc.table.o.Cluster.Image().Topic(t.Topic) != nil {
			add(t.Topic, wire.InvalidRequest, "The number of partitions of an internal topic is fixed when it is created.")
			continue
		}
		topics = append(topics, controller.NewPartitions{Name: t.Topic, Count: t.Count, Assignments: brokersOf(t.Assignment)})
	}
	if rc.limitsMutations() {
		im, valid := rc.table.o.Cluster.Image(), topics[:0]
		for i, r := range rc.table.o.Cluster.CreatePartitions(ctx, topics, true) {
			if t := im.Topic(r.Name); r.Code == wire.None && t != nil && rc.take(int(r.Partitions)-len(t.Partitions), req.Version >= 3) {
				add(r.Name, wire.ThrottlingQuotaExceeded, wire.ThrottlingQuotaExceeded.Message())
			} else {
				valid = append(valid, topics[i])
			}
		}
		topics = valid
	}
	for _, r := range rc.table.o.Cluster.CreatePartitions(ctx, topics, req.ValidateOnly) {
		add(r.Name, r.Code, r.Message)
	}
	return resp
}

// brokersOf keeps the difference between no assignment and an empty one.
func brokersOf(assignment []kmsg.CreatePartitionsRequestTopicAssignment) [][]int32 {
	if assignment == nil {
		return nil
	}
	brokers := make([][]int32, len(assignment))
	for i := range assignment {
		brokers[i] = assignment[i].Replicas
	}
	return brokers
}
