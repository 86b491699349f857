package main

import (
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tieToParent makes the kernel end the broker when this process ends in a way that runs no code.
func tieToParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// ownTime is the processor time of this process, which is the client.
func ownTime() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// familyTime is the processor time of this process and of all children that have ended.
func familyTime() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_CHILDREN, &u); err != nil {
		return 0, err
	}
	own, err := ownTime()
	return own + time.Duration(u.Utime.Nano()+u.Stime.Nano()), err
}

// sleep is good to some ten microseconds.
func sleep(d time.Duration) {
	left := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&left, nil) // cut short it is early, which the caller sees
}

// syncDisks waits until everything that was written is on the disk.
func syncDisks() { unix.Sync() }
