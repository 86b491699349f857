//go:build !linux

package network

import "fmt"

// portHolder is not known here.
func portHolder(int) (pid int, command string) { return 0, "" }

// fileName is what can be said of a descriptor here.
func fileName(fd int) string { return fmt.Sprintf("file with descriptor %d", fd) }
