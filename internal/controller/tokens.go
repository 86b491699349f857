package controller

import (
	"math"
	"slices"

	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// TokenLife is how long delegation tokens live: without a renewal (delegation.token.expiry.time.ms), and with any number of them
// (delegation.token.max.lifetime.ms).
type TokenLife struct{ RenewMs, MaxMs int64 }

// NewToken is a delegation token to create. Who may have it is decided before.
type NewToken struct {
	ID               string
	Owner, Requester string // principals
	Renewers         []string
	MaxLifetimeMs    int64 // less than TokenLife.MaxMs, if it is above 0
}

// TokenResult answers a renewal or an expiry: Code, or when the token expires now.
type TokenResult struct {
	Code      wire.Code
	ExpiresMs int64
}

// CreateToken plans a delegation token (KIP-48).
func CreateToken(life TokenLife, n NewToken, nowMs int64) (Plan, *metadata.DelegationToken) {
	maxMs := later(nowMs, shorter(life.MaxMs, n.MaxLifetimeMs))
	t := &metadata.DelegationToken{ID: n.ID, Owner: n.Owner, Requester: n.Requester, Renewers: n.Renewers,
		IssuedMs: nowMs, ExpiresMs: min(maxMs, later(nowMs, life.RenewMs)), MaxMs: maxMs}
	var p Plan
	p.add(0, put(metadata.TokenKey(t.ID), metadata.EncodeToken(t)))
	return p, t
}

// RenewToken plans that a token lives for a period from now on, with TokenLife's where it is not above 0. What has expired is not revived.
func RenewToken(im *metadata.Image, life TokenLife, id, by string, periodMs, nowMs int64) (Plan, TokenResult) {
	t := im.DelegationToken(id)
	switch {
	case t == nil:
		return Plan{}, TokenResult{Code: wire.DelegationTokenNotFound}
	case !t.Valid(nowMs):
		return Plan{}, TokenResult{Code: wire.DelegationTokenExpired}
	case !mayRenew(t, by):
		return Plan{}, TokenResult{Code: wire.DelegationTokenOwnerMismatch}
	}
	return expireAt(t, later(nowMs, shorter(life.RenewMs, periodMs)))
}

// ExpireToken plans that a token expires after a period, or its end at once where that is below 0.
func ExpireToken(im *metadata.Image, id, by string, periodMs, nowMs int64) (Plan, TokenResult) {
	t := im.DelegationToken(id)
	switch {
	case t == nil:
		return Plan{}, TokenResult{Code: wire.DelegationTokenNotFound}
	case !mayRenew(t, by):
		return Plan{}, TokenResult{Code: wire.DelegationTokenOwnerMismatch}
	case periodMs < 0:
		var p Plan
		p.add(0, Write{Key: metadata.TokenKey(id), Action: Delete})
		return p, TokenResult{ExpiresMs: nowMs}
	case !t.Valid(nowMs):
		return Plan{}, TokenResult{Code: wire.DelegationTokenExpired}
	}
	return expireAt(t, later(nowMs, periodMs))
}

// SweepTokens plans the end of all tokens that have expired. They let nobody in anyway.
func SweepTokens(im *metadata.Image, nowMs int64) (Plan, []*metadata.DelegationToken) {
	var p Plan
	var gone []*metadata.DelegationToken
	for t := range im.DelegationTokens() {
		if !t.Valid(nowMs) {
			p.add(len(gone), Write{Key: metadata.TokenKey(t.ID), Action: Delete})
			gone = append(gone, t)
		}
	}
	return p, gone
}

func mayRenew(t *metadata.DelegationToken, who string) bool {
	return who == t.Owner || slices.Contains(t.Renewers, who)
}

func expireAt(t *metadata.DelegationToken, ms int64) (p Plan, r TokenResult) {
	changed := *t
	changed.ExpiresMs = min(t.MaxMs, ms)
	p.add(0, put(metadata.TokenKey(t.ID), metadata.EncodeToken(&changed)))
	return p, TokenResult{ExpiresMs: changed.ExpiresMs}
}

// shorter is what is asked for, where that is a length, and at most the limit.
func shorter(limitMs, askedMs int64) int64 {
	if askedMs > 0 {
		return min(limitMs, askedMs)
	}
	return limitMs
}

// later is a time that is so much later, or the last that there is.
func later(nowMs, lengthMs int64) int64 {
	if nowMs > math.MaxInt64-lengthMs {
		return math.MaxInt64
	}
	return nowMs + lengthMs
}
