// Package measure tells what a function costs by itself, on machines where other goroutines of the process work meanwhile.
package measure

import "testing"

// attempts bounds the repetitions.
const attempts = 10

// Allocations is how often f allocates: the least average of several series of runs, the last one that with no more than enough. A
// series also counts what goes on beside it, timers and collections that empty pools, and the slower the machine, the more.
func Allocations(runs int, enough float64, f func()) float64 {
	least := testing.AllocsPerRun(runs, f)
	for i := 1; i < attempts && least > enough; i++ {
		least = min(least, testing.AllocsPerRun(runs, f))
	}
	return least
}
