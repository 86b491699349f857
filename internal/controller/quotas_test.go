package controller

import (
	"testing"

	"moldau/internal/metadata"
	"moldau/internal/quota"
	"moldau/internal/wire"
)

// Each entity changes all at once, keeps what is not named, and is written only where something is different.
func TestAlterQuotas(t *testing.T) {
	im := metadata.Empty()
	alice, odd := quota.Entity{User: quota.Named("alice")}, quota.Entity{User: quota.Named("odd")}
	limit := func(k quota.Key, v float64) quota.Limits { return quota.Limits{}.With(k, v) }
	alter := func(writes int, validateOnly bool, as ...QuotaAlteration) []QuotaResult {
		t.Helper()
		plan, results := AlterQuotas(im, as, validateOnly)
		if len(plan.Steps) != writes {
			t.Errorf("%d steps, want %d: %+v", len(plan.Steps), writes, plan)
		}
		for _, s := range plan.Steps {
			batch := []metadata.Change{{Key: metadata.HeadKey, Value: metadata.EncodeHead(metadata.Head{Seq: im.Seq() + 1})}}
			for _, w := range s.Writes {
				batch = append(batch, metadata.Change{Key: w.Key, Value: w.Value, Deleted: w.Action == Delete})
			}
			next, err := im.Apply(batch)
			if err != nil {
				t.Fatal(err)
			}
			im = next
		}
		return results
	}
	alter(0, true, QuotaAlteration{Entity: alice, Set: limit(quota.ProducerByteRate, 1)})
	alter(1, false, QuotaAlteration{Entity: alice, Set: limit(quota.ProducerByteRate, 1).With(quota.RequestPercentage, 2)})
	alter(0, false, QuotaAlteration{Entity: alice, Set: limit(quota.ProducerByteRate, 1)}, QuotaAlteration{Entity: alice, Remove: []quota.Key{quota.ConsumerByteRate}})
	results := alter(1, false, QuotaAlteration{Entity: odd, Set: limit(quota.ProducerByteRate, 1), Code: wire.InvalidRequest, Message: "why"},
		QuotaAlteration{Entity: alice, Set: limit(quota.ConsumerByteRate, 3), Remove: []quota.Key{quota.ProducerByteRate}})
	if len(results) != 2 || results[0] != (QuotaResult{wire.InvalidRequest, "why"}) || results[1] != (QuotaResult{}) {
		t.Errorf("%+v", results)
	}
	if got := im.Quotas().Of(alice); got != limit(quota.ConsumerByteRate, 3).With(quota.RequestPercentage, 2) {
		t.Errorf("%+v", got)
	}
	alter(1, false, QuotaAlteration{Entity: alice, Remove: []quota.Key{quota.ConsumerByteRate, quota.RequestPercentage}})
	if im.Quotas() != nil {
		t.Errorf("%+v", im.Quotas())
	}
}
