package handler

// FindCoordinator, key 10, versions 0 to 6 (KIP-699 batches from version 4, KIP-932).
//
// There are no coordinators yet. A transactional id is refused with an error that clients
// do not retry (TRANSACTIONAL_ID_AUTHORIZATION_FAILED). A group gets COORDINATOR_NOT_AVAILABLE, which
// they do retry: librdkafka looks for the coordinator also where partitions are assigned
// and no offset is committed, and a fatal error would end such a consumer. The API is
// served because librdkafka takes its absence for a broker that is older than LZ4.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

// Coordinator types.
const transactionCoordinator = 1

func findCoordinator(_ context.Context, _ *requestContext, req *kmsg.FindCoordinatorRequest) kmsg.Response {
	code, text := wire.CoordinatorNotAvailable, "consumer groups are not supported yet: assign partitions instead of subscribing"
	if req.CoordinatorType == transactionCoordinator {
		code, text = wire.TransactionalIDAuthorizationFailed, "transactions are not supported yet"
	}
	resp := kmsg.NewPtrFindCoordinatorResponse()
	resp.ErrorCode, resp.ErrorMessage, resp.NodeID, resp.Port = int16(code), &text, -1, -1
	for _, key := range req.CoordinatorKeys {
		c := kmsg.NewFindCoordinatorResponseCoordinator()
		c.Key, c.NodeID, c.Port, c.ErrorCode, c.ErrorMessage = key, -1, -1, int16(code), &text
		resp.Coordinators = append(resp.Coordinators, c)
	}
	return resp
}
