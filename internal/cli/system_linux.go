package cli

import (
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// isTerminal reports whether a person may be at the other end of f.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// readerGone reports whether f is a pipe or socket whose other end is closed.
func readerGone(f *os.File) bool {
	poll := []unix.PollFd{{Fd: int32(f.Fd())}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0 && poll[0].Revents&unix.POLLERR != 0
}

// clockSynchronised tells whether the kernel counts its clock as kept right by a time server.
func clockSynchronised() (synchronised, known bool) {
	var state unix.Timex
	if _, err := unix.Adjtimex(&state); err != nil {
		return false, false
	}
	return state.Status&unix.STA_UNSYNC == 0, true
}

// dieWithParent has the kernel end cmd when this process ends, however that ends.
func dieWithParent(cmd *exec.Cmd) { cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL} }
