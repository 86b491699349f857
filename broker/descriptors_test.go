package broker

import (
	"testing"

	"moldau/internal/network"
)

// TestDescriptorsAreDivided: whatever the limit is, segments and connections get some, and what they get leaves the rest of the broker its share.
func TestDescriptorsAreDivided(t *testing.T) {
	for _, limit := range []uint64{0, 1, 64, 192, 193, 256, 1024, 4096, 100_000, 1 << 20, 1 << 31, 1 << 62, ^uint64(0)} {
		d := divide(limit)
		if d.segments < 1 || d.segments > mostSegments || d.connections < 1 || d.connections > network.Unlimited {
			t.Errorf("limit %d: %+v", limit, d)
		}
		if limit >= 2*ownDescriptors && uint64(d.segments+d.connections+ownDescriptors) > limit {
			t.Errorf("limit %d: %+v is more", limit, d)
		}
	}
	if d := divide(256); d != (descriptors{40, 80}) {
		t.Errorf("of 256: %+v", d)
	}
}
