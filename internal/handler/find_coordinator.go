package handler

// FindCoordinator, key 10, versions 0 to 6 (KIP-699 batches from version 4, KIP-932).
//
// The coordinator of a group is the leader of the partition of __consumer_offsets to which the group's id belongs. The topic is
// created when somebody asks first; where Kafka then says COORDINATOR_NOT_AVAILABLE until it is there, this broker
// waits for a moment.
//
// There are no transactions and no share groups yet. A transactional id is refused with an error that clients
// do not retry (TRANSACTIONAL_ID_AUTHORIZATION_FAILED); share state is asked for by brokers only.

import (
	"context"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator"
	"moldau/internal/wire"
)

// Coordinator types.
const (
	groupCoordinator       = 0
	transactionCoordinator = 1
	shareCoordinator       = 2
)

// findSeveral is the version from which on several keys are asked for.
const findSeveral = 4

func findCoordinator(ctx context.Context, rc *requestContext, req *kmsg.FindCoordinatorRequest) kmsg.Response {
	resp := kmsg.NewPtrFindCoordinatorResponse()
	if req.Version < findSeveral {
		c := rc.coordinatorOf(ctx, req.CoordinatorType, req.CoordinatorKey)
		resp.NodeID, resp.Host, resp.Port, resp.ErrorCode, resp.ErrorMessage = c.NodeID, c.Host, c.Port, c.ErrorCode, c.ErrorMessage
		if code := wire.Code(c.ErrorCode); code == wire.None {
			resp.ErrorMessage = text(code.String()) // as Kafka
		} else if *c.ErrorMessage == "" {
			resp.ErrorMessage = text(code.Message())
		}
		return resp
	}
	for _, key := range distinct(req.CoordinatorKeys) {
		resp.Coordinators = append(resp.Coordinators, rc.coordinatorOf(ctx, req.CoordinatorType, key))
	}
	return resp
}

// coordinatorOf finds the coordinator of one key. Kafka gives no messages in new versions; here there is
// one where the code does not say it.
func (rc *requestContext) coordinatorOf(ctx context.Context, kind int8, key string) kmsg.FindCoordinatorResponseCoordinator {
	c := kmsg.NewFindCoordinatorResponseCoordinator()
	c.Key, c.NodeID, c.Port = key, -1, -1
	fail := func(code wire.Code, message string) kmsg.FindCoordinatorResponseCoordinator {
		c.ErrorCode, c.ErrorMessage = int16(code), &message
		return c
	}
	switch {
	case kind == transactionCoordinator && !rc.allowedTo(access{transactionalIDResource, opDescribe}, key):
		return fail(wire.TransactionalIDAuthorizationFailed, "")
	case kind == transactionCoordinator:
		return fail(wire.TransactionalIDAuthorizationFailed, "transactions are not supported yet")
	case kind == shareCoordinator && rc.header.Version >= 6 && !rc.allowedTo(access{clusterResource, opClusterAction}, clusterName):
		return fail(wire.ClusterAuthorizationFailed, wire.ClusterAuthorizationFailed.Message())
	case kind == shareCoordinator && rc.header.Version >= 6 && strings.Count(key, ":") >= 2:
		return fail(wire.CoordinatorNotAvailable, "share groups are not supported yet")
	case kind != groupCoordinator:
		return fail(wire.InvalidRequest, "")
	case !rc.allowed(key):
		return fail(wire.GroupAuthorizationFailed, "")
	}
	t := rc.table.o.Cluster.Image().Topic(offsetsTopic)
	if t == nil {
		rc.waits()
		rc.table.autoCreate(ctx, rc.table.o.Cluster.Image(), []string{offsetsTopic})
		if t = rc.table.o.Cluster.Image().Topic(offsetsTopic); t == nil {
			return fail(wire.CoordinatorNotAvailable, "")
		}
	}
	im := rc.table.o.Cluster.Image()
	leader := im.Broker(t.Partitions[coordinator.PartitionOf(key, int32(len(t.Partitions)))].Leader)
	if leader == nil || !rc.reachable(leader) {
		return fail(wire.CoordinatorNotAvailable, "")
	}
	if leader.ID == rc.table.o.NodeID {
		rc.table.o.Groups.Await(ctx, key)
	}
	c.NodeID, c.ErrorMessage = leader.ID, new(string)
	c.Host, c.Port, _ = rc.endpoint(leader)
	return c
}
