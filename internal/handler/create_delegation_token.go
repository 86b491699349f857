package handler

// CreateDelegationToken, key 38, versions 1 to 3 (KIP-48, KIP-373).
//
//   - The answer has the token's secret. It is HMAC-SHA-512 of the id with delegation.token.secret.key, and the metadata does not have it.
//   - Version 3 may ask for a token of another owner, which needs CREATE_TOKENS on that user.
//   - Nobody gets one without having proved a name, or by a token: DELEGATION_TOKEN_REQUEST_NOT_ALLOWED.
//   - When the response is sent, this broker lets the token in.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/wire"
)

func createDelegationToken(ctx context.Context, rc *requestContext, req *kmsg.CreateDelegationTokenRequest) kmsg.Response {
	resp := kmsg.NewPtrCreateDelegationTokenResponse()
	resp.IssueTimestamp, resp.ExpiryTimestamp, resp.MaxTimestamp = -1, -1, -1
	n := controller.NewToken{Owner: rc.principal, Requester: rc.principal, MaxLifetimeMs: req.MaxLifetimeMillis}
	valid := true
	if name := req.OwnerPrincipalName; name != nil && *name != "" {
		// A bearer is always a user: a token of another type of principal would make him the user of that name.
		kind := ""
		if req.OwnerPrincipalType != nil {
			kind = *req.OwnerPrincipalType
		}
		n.Owner, valid = kind+":"+*name, kind == userType
	}
	for _, r := range req.Renewers {
		valid = valid && r.PrincipalType == userType
		n.Renewers = append(n.Renewers, r.PrincipalType+":"+r.PrincipalName)
	}
	resp.PrincipalType, resp.PrincipalName = principalParts(n.Owner)
	resp.TokenRequesterPrincipalType, resp.TokenRequesterPrincipalName = principalParts(n.Requester)
	code := rc.refusesTokens()
	switch {
	case code != wire.None:
	case n.Owner != n.Requester && !rc.allowedTo(rc.row.needs, n.Owner):
		code = wire.DelegationTokenAuthorizationFailed
	case !valid:
		code = wire.InvalidPrincipalType
	default:
		if code = rc.tokensOff(); code != wire.None {
			resp.IssueTimestamp, resp.ExpiryTimestamp, resp.MaxTimestamp = 0, 0, 0
		}
	}
	if resp.ErrorCode = int16(code); code != wire.None {
		return resp
	}
	rc.waits()
	t, err := rc.table.o.Cluster.CreateToken(ctx, rc.table.tokenLife(), n)
	if err != nil {
		resp.ErrorCode = int16(codeOf(err))
		return resp
	}
	rc.auditToken("delegation token created", t.ID, "owner", t.Owner)
	resp.IssueTimestamp, resp.ExpiryTimestamp, resp.MaxTimestamp = t.IssuedMs, t.ExpiresMs, t.MaxMs
	resp.TokenID, resp.HMAC = t.ID, rc.table.delegation.Secret(t.ID)
	return resp
}
