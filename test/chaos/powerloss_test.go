package chaos

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"moldau/internal/vfs"
)

// TestPowerLoss: whatever was acknowledged before a power loss is there after it, once and in order, and what a consumer has
// seen never changes.
func TestPowerLoss(t *testing.T) {
	first, seeds, count := uint64(1), envInt(t, "SEEDS", 16), envInt(t, "COUNT", 1)
	if one := envInt(t, "SEED", 0); one != 0 {
		first, seeds = uint64(one), 1
	}
	var work []uint64
	for i := range seeds * count {
		work = append(work, first+uint64(i%seeds))
	}
	began := time.Now()
	var mu sync.Mutex // guards next and sum
	var next int
	var sum figures
	var workers sync.WaitGroup
	for range 4 * runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for {
				mu.Lock()
				if next == len(work) || t.Failed() {
					mu.Unlock()
					return
				}
				seed := work[next]
				next++
				mu.Unlock()
				f, err := run(t, seed, vfs.MemOptions{})
				if err != nil {
					t.Errorf("seed %d: %v\nrepeat it: SEED=%d COUNT=20 go test ./test/chaos -run '^TestPowerLoss$'", seed, err, seed)
				}
				mu.Lock()
				sum.add(f)
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	took := time.Since(began)
	t.Logf("%d runs, %.1f a second: %d power cuts, %d of them in the middle of a write or sync and %d in a start; %d records acknowledged, %d read, "+
		"%d segments rolled, %d topics created, %d deleted, %d configurations changed",
		sum.runs, float64(sum.runs)/took.Seconds(), sum.cuts, sum.struck, sum.struckStart, sum.acked, sum.read,
		sum.segments, sum.created, sum.deleted, sum.altered)
}

// TestPowerLossIsNoticed: on a disk whose syncs do nothing, and with a broker that does not sync before it acknowledges, the same
// checks find a loss.
func TestPowerLossIsNoticed(t *testing.T) {
	for name, c := range map[string]struct {
		disk   vfs.MemOptions
		config []string
	}{
		"no sync of files":                 {disk: vfs.MemOptions{IgnoreSync: true}},
		"no sync of directories":           {disk: vfs.MemOptions{IgnoreSyncDir: true}},
		"no sync of files and directories": {disk: vfs.MemOptions{IgnoreSync: true, IgnoreSyncDir: true}},
		"no sync before acknowledgements":  {config: []string{"log.flush.interval.messages=9223372036854775807"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= 50; seed++ {
				_, err := run(t, seed, c.disk, c.config...)
				if loss := new(lossError); errors.As(err, &loss) {
					t.Logf("seed %d: %v", seed, loss)
					return
				}
				if err != nil {
					line, _, _ := strings.Cut(err.Error(), "\n")
					t.Logf("seed %d failed otherwise: %s", seed, line)
				}
			}
			t.Error("no seed has noticed a loss")
		})
	}
}

// figures count what runs have done.
type figures struct {
	runs, cuts, struck, struckStart, acked, read, segments, created, deleted, altered int
}

func (f *figures) add(g figures) {
	f.runs += g.runs
	f.cuts += g.cuts
	f.struck += g.struck
	f.struckStart += g.struckStart
	f.acked += g.acked
	f.read += g.read
	f.segments += g.segments
	f.created += g.created
	f.deleted += g.deleted
	f.altered += g.altered
}

// lossError says that something that was acknowledged, or seen, is gone or different.
type lossError struct{ what string }

func (e *lossError) Error() string { return e.what }

func lossf(format string, args ...any) error { return &lossError{fmt.Sprintf(format, args...)} }

func envInt(t *testing.T, name string, def int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 {
		t.Fatalf("%s=%s: want a number that is not negative", name, s)
	}
	return n
}
