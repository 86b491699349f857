package handler

// DescribeClientQuotas, key 48, versions 0 to 1 (KIP-546).
//
// There are no quotas yet, and none can be set, so there is nothing to list. It is answered because kafka-configs asks for quotas whenever it
// describes users.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

func describeClientQuotas(_ context.Context, rc *requestContext, _ *kmsg.DescribeClientQuotasRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeClientQuotasResponse()
	if !rc.allowed(clusterName) {
		resp.ErrorCode, resp.ErrorMessage = int16(wire.ClusterAuthorizationFailed), text(wire.ClusterAuthorizationFailed.Message())
		return resp
	}
	resp.Entries = []kmsg.DescribeClientQuotasResponseEntry{}
	return resp
}
