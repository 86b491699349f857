package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// throttle bounds the bytes that some processes read from one disk in a second, by a control group of its own.
type throttle struct {
	group  string
	v2     bool
	device string // MAJOR:MINOR of the whole disk
}

// newThrottle is for the disk that dir is on. The error says what is missing.
func newThrottle(dir string) (*throttle, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("a disk is throttled by a control group, which needs root")
	}
	device, err := wholeDisk(dir)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("moldau-bench-%d", os.Getpid())
	t := &throttle{device: device, group: filepath.Join("/sys/fs/cgroup/blkio", name)}
	if _, err := os.Stat("/sys/fs/cgroup/blkio/blkio.throttle.read_bps_device"); err != nil {
		if _, err := os.Stat("/sys/fs/cgroup/cgroup.subtree_control"); err != nil {
			return nil, errors.New("there is neither cgroup v2 nor the blkio controller of v1 below /sys/fs/cgroup")
		}
		if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+io"), 0); err != nil {
			return nil, fmt.Errorf("the io controller of cgroup v2 cannot be enabled: %w", err)
		}
		t.v2, t.group = true, filepath.Join("/sys/fs/cgroup", name)
	}
	if err := os.Mkdir(t.group, 0o755); err != nil {
		return nil, err
	}
	if err := t.set(0); err != nil {
		return nil, errors.Join(fmt.Errorf("the disk %s cannot be throttled: %w", device, err), t.close())
	}
	return t, nil
}

// wholeDisk is the disk below dir, which is what can be throttled.
func wholeDisk(dir string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "", err
	}
	device := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	at, err := filepath.EvalSymlinks("/sys/dev/block/" + device)
	if err != nil {
		return "", fmt.Errorf("%s is on no block device: choose another directory with --work", dir)
	}
	if _, err := os.Stat(filepath.Join(at, "partition")); err != nil {
		return device, nil
	}
	text, err := os.ReadFile(filepath.Join(filepath.Dir(at), "dev"))
	return strings.TrimSpace(string(text)), err
}

// add puts a process and all below it under the throttle.
func (t *throttle) add(pid int) error {
	pids, err := tree(pid)
	for _, p := range pids {
		err = errors.Join(err, os.WriteFile(filepath.Join(t.group, "cgroup.procs"), []byte(strconv.Itoa(p)), 0))
	}
	return err
}

// set changes the limit; 0 is none.
func (t *throttle) set(bytesPerSecond int) error {
	if !t.v2 {
		return os.WriteFile(filepath.Join(t.group, "blkio.throttle.read_bps_device"), fmt.Appendf(nil, "%s %d", t.device, bytesPerSecond), 0)
	}
	limit := "max"
	if bytesPerSecond > 0 {
		limit = strconv.Itoa(bytesPerSecond)
	}
	return os.WriteFile(filepath.Join(t.group, "io.max"), fmt.Appendf(nil, "%s rbps=%s", t.device, limit), 0)
}

// close removes the group, as soon as the processes in it have ended.
func (t *throttle) close() error {
	var err error
	for range 50 {
		if err = os.Remove(t.group); err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// dontNeed takes the pages of a file out of the page cache.
func dontNeed(f *os.File) error { return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }
