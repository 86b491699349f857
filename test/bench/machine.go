package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// fact is one line about the machine and what was measured on it.
type fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

func machineFacts(ctx context.Context, s *settings, dir string) ([]fact, error) {
	first := func(path, key string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			return "unknown"
		}
		for line := range strings.Lines(string(text)) {
			name, value, ok := strings.Cut(line, ":")
			if key == "" {
				return strings.TrimSpace(line)
			}
			if ok && strings.TrimSpace(name) == key {
				return strings.TrimSpace(value)
			}
		}
		return "unknown"
	}
	output := func(name string, args ...string) string {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Dir = s.root
		out, err := cmd.CombinedOutput()
		if err != nil {
			return "unknown"
		}
		line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return line
	}
	commit := output("git", "rev-parse", "HEAD")
	if out := output("git", "status", "--porcelain", "--untracked-files=no"); out != "" && out != "unknown" {
		commit += ", with changes that are not committed"
	}
	device, disk := mountOf(dir)
	facts := []fact{
		{"Date", time.Now().UTC().Format("2006-01-02 15:04 UTC")},
		{"Commit of Moldau", commit},
		{"Processor", fmt.Sprintf("%d × %s", runtime.NumCPU(), first("/proc/cpuinfo", "model name"))},
		{"Memory", first("/proc/meminfo", "MemTotal")},
		{"Kernel", first("/proc/sys/kernel/osrelease", "")},
		{"Disk and file system", disk},
		{"Read-ahead of the disk", first("/sys/class/block/"+device+"/queue/read_ahead_kb", "") + " KiB"},
		{"TCP congestion control", first("/proc/sys/net/ipv4/tcp_congestion_control", "")},
		{"Go", runtime.Version()},
	}
	if !s.moldauOnly {
		version := output(kafkaLauncher(s.root), "version")
		facts = append(facts, fact{"Apache Kafka", version + ", heap and collector as in its own start script (-Xms1G -Xmx1G, G1)"},
			fact{"Java", output("java", "-version")})
	}
	run := fmt.Sprintf("%s measured after %s, %d pairs", s.duration, s.warmUp, s.pairs)
	return append(facts, fact{"Each figure", run}), nil
}

// mountOf is the device and the file system that a directory is on.
func mountOf(dir string) (device, text string) {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", "unknown"
	}
	best := ""
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 4 || !(f[1] == "/" || dir == f[1] || strings.HasPrefix(dir, f[1]+"/")) || len(f[1]) < len(best) {
			continue
		}
		best = f[1]
		device, text = filepath.Base(f[0]), fmt.Sprintf("%s, %s (%s)", f[0], f[2], f[3])
	}
	return device, text
}

// usage is what the machine's processors have done since its start, in seconds.
type usage struct {
	work          float64 // in user and kernel mode, without interrupts
	steal         float64
	kernelThreads float64 // write-back and the like: part of what a broker causes
}

const ticksPerSecond = 100 // USER_HZ

func readUsage() (usage, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return usage{}, err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	var v [8]float64
	for i, f := range strings.Fields(line)[1:] {
		if i < len(v) {
			v[i], _ = strconv.ParseFloat(f, 64)
		}
	}
	u := usage{work: (v[0] + v[1] + v[2]) / ticksPerSecond, steal: v[7] / ticksPerSecond}
	stats, err := processStats()
	for _, p := range stats {
		if p.parent == kernelThreadParent || p.pid == kernelThreadParent {
			u.kernelThreads += p.seconds
		}
	}
	return u, err
}

const kernelThreadParent = 2 // kthreadd

// processStat is one line of /proc/PID/stat.
type processStat struct {
	pid, parent int
	seconds     float64 // of itself
	reaped      float64 // of its children that have ended
}

func processStats() ([]processStat, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var list []processStat
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if p, err := statOf(pid); err == nil { // else it has ended meanwhile
			list = append(list, p)
		}
	}
	return list, nil
}

func statOf(pid int) (processStat, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processStat{}, err
	}
	at := strings.LastIndex(string(text), ") ") // the name before may hold anything
	f := strings.Fields(string(text[at+2:]))
	if at < 0 || len(f) < 15 {
		return processStat{}, fmt.Errorf("/proc/%d/stat: %q", pid, text)
	}
	var v [5]float64
	for i, at := range []int{1, 11, 12, 13, 14} { // ppid, utime, stime, cutime, cstime
		if v[i], err = strconv.ParseFloat(f[at], 64); err != nil {
			return processStat{}, err
		}
	}
	return processStat{pid: pid, parent: int(v[0]), seconds: (v[1] + v[2]) / ticksPerSecond, reaped: (v[3] + v[4]) / ticksPerSecond}, nil
}

// treeTime is the processor time of a process and of all below it.
func treeTime(pid int) (time.Duration, error) {
	list, err := processStats()
	if err != nil {
		return 0, err
	}
	in := below(list, pid)
	var sum float64
	found := false
	for _, p := range list {
		if in[p.pid] {
			sum += p.seconds + p.reaped
			found = found || p.pid == pid
		}
	}
	if !found {
		return 0, fmt.Errorf("process %d is gone", pid)
	}
	return time.Duration(sum * 1e9), nil
}

// below are a process and all that it started.
func below(list []processStat, pid int) map[int]bool {
	in := map[int]bool{pid: true}
	for grown := true; grown; {
		grown = false
		for _, p := range list {
			if in[p.parent] && !in[p.pid] {
				in[p.pid], grown = true, true
			}
		}
	}
	return in
}

// tree are the pids of a process and of all below it.
func tree(pid int) ([]int, error) {
	list, err := processStats()
	return slices.Collect(maps.Keys(below(list, pid))), err
}

// residentBytes are the resident set of a process and the largest that it has been.
func residentBytes(pid int) (now, peak int64, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		switch kib, _ := strconv.ParseInt(f[1], 10, 64); f[0] {
		case "VmRSS:":
			now = kib << 10
		case "VmHWM:":
			peak = kib << 10
		}
	}
	return now, peak, nil
}

// calibration is how fast the machine was right before a run, in GB for a second of processor time. It is not the time of a clock: what
// other processes take of the machine is another guard's.
type calibration struct {
	Copy     float64 `json:"copy"`
	Loopback float64 `json:"loopback"`
	Append   float64 `json:"append"`
}

// What one sample of a calibration does. There are several, taking turns, so that what disturbs for a moment disturbs few of each kind;
// their median moves by less than what the guard of a pair lets through, also on a busy machine. The best of a few does not: it is a matter of
// luck whether there was a good one.
const (
	copyBytes     = 256 << 20
	loopbackBytes = 64 << 20
	appendBytes   = 32 << 20
	samples       = 16
	roughPart     = 32 // of the bytes, and fewer samples, for a rough one
	roughSamples  = 4
)

// calibrate takes about half a second of processor time.
func calibrate(dir string, rough bool) (c calibration, err error) {
	part, rounds := int64(1), samples
	if rough {
		part, rounds = roughPart, roughSamples
	}
	from, to := make([]byte, 8<<20), make([]byte, 8<<20)
	if _, err := rand.Read(from[:1<<20]); err != nil {
		return c, err
	}
	kinds := []struct {
		speed *float64
		bytes int64
		do    func(n int64) error
	}{
		{&c.Copy, copyBytes / part, func(n int64) error {
			for ; n > 0; n -= int64(len(from)) {
				copy(to, from)
			}
			return nil
		}},
		{&c.Loopback, loopbackBytes / part, func(n int64) error { return sendToSelf(from[:64<<10], n) }},
		{&c.Append, appendBytes / part, func(n int64) error { return writeAndDelete(dir, from[:1<<20], n) }},
	}
	speeds := make([][]float64, len(kinds))
	for range rounds {
		for i, k := range kinds {
			before, err := ownTime()
			if err == nil {
				err = k.do(k.bytes)
			}
			if err != nil {
				return c, err
			}
			after, err := ownTime()
			if err != nil {
				return c, err
			}
			took := max(after-before, time.Microsecond) // the clock's step
			speeds[i] = append(speeds[i], float64(k.bytes)/took.Seconds()/1e9)
		}
	}
	for i, k := range kinds {
		*k.speed = median(speeds[i])
	}
	return c, nil
}

// sendToSelf sends n bytes over a TCP connection of this machine.
func sendToSelf(piece []byte, n int64) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			// The structs hide the kernel's shortcuts, which no client takes.
			_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, 64<<10))
			c.Close()
		}
		done <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	for ; n > 0; n -= int64(len(piece)) {
		if _, err := c.Write(piece); err != nil {
			return err
		}
	}
	c.Close()
	return <-done
}

func writeAndDelete(dir string, piece []byte, n int64) error {
	f, err := os.CreateTemp(dir, "pages-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	for ; n > 0; n -= int64(len(piece)) {
		if _, err := f.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// largestDifference compares two calibrations; 0.1 is ten percent.
func largestDifference(a, b calibration) float64 {
	d := 0.0
	for _, v := range [][2]float64{{a.Copy, b.Copy}, {a.Loopback, b.Loopback}, {a.Append, b.Append}} {
		if v[0] > 0 && v[1] > 0 {
			d = max(d, max(v[0], v[1])/min(v[0], v[1])-1)
		}
	}
	return d
}
