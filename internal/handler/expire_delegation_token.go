package handler

// ExpireDelegationToken, key 40, versions 1 to 2 (KIP-48).
//
// The owner and the renewers may end a token, whose secret they show: after a period, or at once where that is negative. Who is in by
// it stays in until its session ends.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
)

func expireDelegationToken(ctx context.Context, rc *requestContext, req *kmsg.ExpireDelegationTokenRequest) kmsg.Response {
	resp := kmsg.NewPtrExpireDelegationTokenResponse()
	code, expires := rc.changeToken(req.HMAC, func(id string) controller.TokenResult {
		return rc.table.o.Cluster.ExpireToken(ctx, id, rc.principal, req.ExpiryPeriodMillis)
	})
	resp.ErrorCode, resp.ExpiryTimestamp = int16(code), expires
	return resp
}
