//go:build !linux

package cli

import (
	"os"
	"os/exec"
)

// isTerminal reports whether a person may be at the other end of f.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0 && f.Name() != os.DevNull
}

// readerGone cannot tell here: the next write will.
func readerGone(*os.File) bool { return false }

// clockSynchronised is not known here.
func clockSynchronised() (synchronised, known bool) { return false, false }

// dieWithParent can do nothing here: a killed parent leaves its child behind.
func dieWithParent(*exec.Cmd) {}
