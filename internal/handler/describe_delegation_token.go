package handler

// DescribeDelegationToken, key 41, versions 1 to 3 (KIP-48, KIP-373).
//
//   - Everyone sees the tokens that they own, asked for, or may renew; others need DESCRIBE on the token or DESCRIBE_TOKENS on its owner.
//   - The answer has the secrets, as Kafka's: who may describe a token may be its bearer.
//   - Null owners are all, an empty list nobody. A token that has expired is there until it is swept away.

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

func describeDelegationToken(_ context.Context, rc *requestContext, req *kmsg.DescribeDelegationTokenRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeDelegationTokenResponse()
	code := rc.refusesTokens()
	if code == wire.None {
		code = rc.tokensOff()
	}
	if resp.ErrorCode = int16(code); code != wire.None {
		return resp
	}
	for t := range rc.table.o.Cluster.Image().DelegationTokens() {
		asked := req.Owners == nil || slices.ContainsFunc(req.Owners, func(o kmsg.DescribeDelegationTokenRequestOwner) bool {
			return concerns(t, o.PrincipalType+":"+o.PrincipalName)
		})
		if !asked || !concerns(t, rc.principal) && !rc.permitted(rc.row.needs, t.ID) && !rc.permitted(access{userResource, opDescribeTokens}, t.Owner) {
			continue
		}
		d := kmsg.NewDescribeDelegationTokenResponseTokenDetail()
		d.PrincipalType, d.PrincipalName = principalParts(t.Owner)
		d.TokenRequesterPrincipalType, d.TokenRequesterPrincipalName = principalParts(t.Requester)
		d.IssueTimestamp, d.ExpiryTimestamp, d.MaxTimestamp = t.IssuedMs, t.ExpiresMs, t.MaxMs
		d.TokenID, d.HMAC = t.ID, rc.table.delegation.Secret(t.ID)
		for _, r := range t.Renewers {
			n := kmsg.NewDescribeDelegationTokenResponseTokenDetailRenewer()
			n.PrincipalType, n.PrincipalName = principalParts(r)
			d.Renewers = append(d.Renewers, n)
		}
		resp.TokenDetails = append(resp.TokenDetails, d)
	}
	return resp
}
