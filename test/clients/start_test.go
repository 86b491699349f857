//go:build clients && linux

package clients

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestStartIdle reports how long the broker takes from exec to its first answer on an empty directory, and what it costs when idle.
// It asserts no figure. STARTS is the number of starts (default 3), IDLE_SECONDS how long the idle broker is watched (default 5).
func TestStartIdle(t *testing.T) {
	starts := max(1, envInt(t, "STARTS", 3))
	idle := time.Duration(max(1, envInt(t, "IDLE_SECONDS", 5))) * time.Second
	var took []time.Duration
	for range starts - 1 {
		b := newBroker(t)
		took = append(took, b.start())
		b.stop()
	}
	b := newBroker(t)
	took = append(took, b.start())
	slices.Sort(took)

	time.Sleep(min(idle, 5*time.Second))
	rss := residentBytes(t, b.pid())
	before := cpuTime(t, b.pid())
	time.Sleep(idle)
	used := cpuTime(t, b.pid()) - before
	t.Logf("start and idle:\n"+
		"starts on an empty directory   %d\n"+
		"exec to first answer, median   %v\n"+
		"exec to first answer, worst    %v\n"+
		"resident after %-4v            %.1f MiB\n"+
		"one core, idle, over %-4v      %.2f %%",
		starts, took[len(took)/2].Round(time.Millisecond/10), took[len(took)-1].Round(time.Millisecond/10),
		min(idle, 5*time.Second), float64(rss)/(1<<20), idle, 100*used.Seconds()/idle.Seconds())
}

// residentBytes is the resident set of a process.
func residentBytes(t testing.TB, pid int) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "VmRSS:" {
			kib, err := strconv.ParseInt(f[1], 10, 64)
			must(t, err)
			return kib << 10
		}
	}
	t.Fatalf("/proc/%d/status has no VmRSS", pid)
	return 0
}

// cpuTime is the processor time that a process has used, in user and kernel mode.
func cpuTime(t testing.TB, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	_, after, _ := strings.Cut(string(stat), ") ") // the name before may hold anything
	f := strings.Fields(after)
	user, err := strconv.ParseInt(f[11], 10, 64)
	must(t, err)
	kernel, err := strconv.ParseInt(f[12], 10, 64)
	must(t, err)
	return time.Duration(user+kernel) * (time.Second / 100) // USER_HZ
}
