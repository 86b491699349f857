package handler

// InitProducerId, key 22, versions 0 to 5 (KIP-98, KIP-360). Version 6 is unstable in
// Kafka 4.3 and not advertised there either.
//
// Without a transactional id every call gives a new producer id with epoch 0, to who may write at least one topic
// or is allowed IDEMPOTENT_WRITE (KIP-679). An empty
// transactional id is INVALID_REQUEST; any other is refused with a fatal error until there are
// transactions.

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/partition"
	"moldau/internal/wire"
)

func initProducerID(ctx context.Context, rc *requestContext, req *kmsg.InitProducerIDRequest) kmsg.Response {
	resp := kmsg.NewPtrInitProducerIDResponse()
	id, err := newProducerID(ctx, rc, req)
	if err != nil {
		rc.table.refused.log(rc, "no producer id was given", err)
		resp.ErrorCode, resp.ProducerID, resp.ProducerEpoch = int16(codeOf(err)), -1, -1
		return resp
	}
	resp.ProducerID, resp.ProducerEpoch = id, 0
	return resp
}

func newProducerID(ctx context.Context, rc *requestContext, req *kmsg.InitProducerIDRequest) (int64, error) {
	if req.TransactionalID != nil {
		if *req.TransactionalID == "" {
			return -1, fmt.Errorf("the transactional id is empty: %w", wire.InvalidRequest)
		}
		if !rc.allowedTo(access{transactionalIDResource, opWrite}, *req.TransactionalID) {
			return -1, wire.TransactionalIDAuthorizationFailed
		}
		return -1, partition.ErrTransactional
	}
	if !rc.permitted(rc.row.needs, clusterName) && !rc.mayAny(access{topicResource, opWrite}) {
		return -1, wire.ClusterAuthorizationFailed
	}
	rc.waits()
	return rc.table.o.Cluster.NextProducerID(ctx)
}
