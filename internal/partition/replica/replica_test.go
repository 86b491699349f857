package replica

import (
	"math/rand/v2"
	"testing"
)

// TestHighWatermark drives a replica with random states and ends and checks R1 to R3
// against their definition.
func TestHighWatermark(t *testing.T) {
	for seed := range uint64(500) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s := New(1)
		a := Assignment{Leader: -1}
		ends := Ends{}
		last := int64(0)
		for range 200 {
			switch rnd.IntN(4) {
			case 0:
				a.PartitionEpoch++
				a.FlushPolicy = rnd.IntN(2) == 0
				a.MinISR = int32(1 + rnd.IntN(2))
				a.ISR = [][]int32{{1}, {1, 2}, {1, 2, 3}, {2}}[rnd.IntN(4)]
				if rnd.IntN(3) == 0 {
					a.LeaderEpoch++
					a.Leader = []int32{-1, 1, 1, 2}[rnd.IntN(4)]
				}
				s.Apply(a)
			case 1:
				ends.LogEnd += int64(rnd.IntN(5))
				s.Moved(ends)
			case 2:
				ends.Flushed += rnd.Int64N(ends.LogEnd - ends.Flushed + 1)
				s.Moved(ends)
			case 3:
				old := a
				old.PartitionEpoch -= 1 + int32(rnd.IntN(3))
				old.ISR, old.Leader = []int32{1}, 1
				if old.PartitionEpoch < a.PartitionEpoch && s.assigned && s.Apply(old) {
					t.Fatalf("seed %d: R3: an older state was taken over", seed)
				}
			}
			hw := s.HighWatermark()
			if hw < last {
				t.Fatalf("seed %d: R1: the high watermark fell from %d to %d", seed, last, hw)
			}
			if hw > last {
				stable := ends.LogEnd
				if a.FlushPolicy {
					stable = ends.Flushed
				}
				if hw > stable {
					t.Fatalf("seed %d: R1: high watermark %d beyond the stable end %d", seed, hw, stable)
				}
				if int32(len(a.ISR)) < a.MinISR || len(a.ISR) > 1 || a.ISR[0] != 1 || a.Leader != 1 {
					t.Fatalf("seed %d: R2: the high watermark moved with %+v", seed, a)
				}
			}
			last = hw
		}
	}
}
