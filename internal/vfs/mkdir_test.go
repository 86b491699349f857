package vfs

import (
	"math/rand/v2"
	"testing"
)

// TestMkdirAllSyncSurvives: every directory is there after a power loss, also when an
// earlier call made a parent without syncing it.
func TestMkdirAllSyncSurvives(t *testing.T) {
	for seed := range uint64(50) {
		m := NewMem()
		for _, dir := range []string{"/data/meta", "/data/log/x/y"} {
			if err := MkdirAllSync(m, dir); err != nil {
				t.Fatal(err)
			}
		}
		m = m.Crash(rand.New(rand.NewPCG(seed, 1)))
		for _, dir := range []string{"/data/meta", "/data/log/x/y"} {
			if _, err := m.Stat(dir); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
	}
}
