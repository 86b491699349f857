package handler

// RenewDelegationToken, key 39, versions 1 to 2 (KIP-48).
//
// The owner and the renewers may let a token live on, whose secret they show; never past its maximum, and not after it has expired.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
)

func renewDelegationToken(ctx context.Context, rc *requestContext, req *kmsg.RenewDelegationTokenRequest) kmsg.Response {
	resp := kmsg.NewPtrRenewDelegationTokenResponse()
	code, expires := rc.changeToken(req.HMAC, func(id string) controller.TokenResult {
		return rc.table.o.Cluster.RenewToken(ctx, rc.table.tokenLife(), id, rc.principal, req.RenewTimeMillis)
	})
	resp.ErrorCode, resp.ExpiryTimestamp = int16(code), expires
	return resp
}
