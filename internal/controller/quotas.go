package controller

import (
	"moldau/internal/metadata"
	"moldau/internal/quota"
	"moldau/internal/wire"
)

// QuotaAlteration sets some limits of an entity and removes others, all of them or none.
type QuotaAlteration struct {
	Entity quota.Entity
	Set    quota.Limits
	Remove []quota.Key

	// Code and Message are what was wrong with it already.
	Code    wire.Code
	Message string
}

// QuotaResult answers for one entity.
type QuotaResult struct {
	Code    wire.Code
	Message string
}

// AlterQuotas plans changes to client quotas. An entity is altered at most once in a request. The results are those of the
// alterations, in their order.
func AlterQuotas(im *metadata.Image, alterations []QuotaAlteration, validateOnly bool) (Plan, []QuotaResult) {
	var plan Plan
	results := make([]QuotaResult, len(alterations))
	for i, a := range alterations {
		results[i] = QuotaResult{a.Code, a.Message}
		if a.Code != wire.None || validateOnly {
			continue
		}
		have := im.Quotas().Of(a.Entity)
		want := have
		for _, k := range a.Remove {
			want = want.Without(k)
		}
		for k := range quota.Keys {
			if v, ok := a.Set.Get(k); ok {
				want = want.With(k, v)
			}
		}
		switch key := metadata.QuotaKey(a.Entity); {
		case want == have:
		case want.Empty():
			plan.add(i, Write{Key: key, Action: Delete})
		default:
			plan.add(i, put(key, metadata.EncodeQuota(want)))
		}
	}
	return plan, results
}
