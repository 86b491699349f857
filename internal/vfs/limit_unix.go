//go:build linux || darwin || freebsd

package vfs

import "golang.org/x/sys/unix"

// DescriptorLimit is how many descriptors this process may have; the Go runtime has raised the
// limit as far as it may go. Where the system does not say, known is false.
func DescriptorLimit() (n uint64, known bool) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, false
	}
	return uint64(limit.Cur), true
}
