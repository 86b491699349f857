package broker

import "testing"

// TestKeeper: memory is given back once after a burst, when it is over; never under a steady load of any size; and the room for garbage is
// bounded where much is live.
func TestKeeper(t *testing.T) {
	const mb = 1 << 20
	for name, c := range map[string]struct {
		live   uint64
		rounds []uint64 // allocated in each
		frees  []int    // the rounds after which memory is given back
	}{
		"nothing happens":                 {live: 5 * mb, rounds: []uint64{1, 1, 1, 1}},
		"a burst":                         {live: 5 * mb, rounds: []uint64{1, 100 * mb, 200 * mb, 0, 0, 0}, frees: []int{3}},
		"a small burst":                   {live: 5 * mb, rounds: []uint64{1, 15 * mb, 0, 0}},
		"a small burst for what there is": {live: 400 * mb, rounds: []uint64{1, 90 * mb, 0, 0}},
		"two bursts":                      {live: 5 * mb, rounds: []uint64{100 * mb, 0, 0, 100 * mb, 0, 0}, frees: []int{1, 4}},
		"a steady load":                   {live: 100 * mb, rounds: []uint64{10 * mb, 10 * mb, 10 * mb, 10 * mb, 10 * mb, 10 * mb, 10 * mb}},
		"a little, for long":              {live: 5 * mb, rounds: append(make([]uint64, 20), 15*mb, mb/2, mb/2, mb/2, mb/2), frees: []int{22}},
	} {
		k, h := keeper{percent: 100}, heap{live: c.live}
		var frees []int
		for i, n := range c.rounds {
			h.allocated += n
			if free, _ := k.look(h); free {
				frees = append(frees, i)
			}
		}
		if len(frees) != len(c.frees) || len(frees) > 0 && frees[0] != c.frees[0] || len(frees) > 1 && frees[1] != c.frees[1] {
			t.Errorf("%s: memory is given back after the rounds %v, not %v", name, frees, c.frees)
		}
	}

	k := keeper{percent: 100}
	for _, c := range []struct {
		live    uint64
		percent int
	}{{0, 100}, {40 * mb, 100}, {64 * mb, 100}, {128 * mb, 50}, {132 * mb, 50}, {200 * mb, 32}, {2000 * mb, 25}, {1000 * mb, 25}, {70 * mb, 91}, {40 * mb, 100}} {
		if _, k.percent = k.look(heap{live: c.live}); k.percent != c.percent {
			t.Errorf("%d MB are live: %d percent, not %d", c.live/mb, k.percent, c.percent)
		}
	}
}
