//go:build !windows

package vfs

import "syscall"

const (
	errQuota       = syscall.EDQUOT
	errCrossDevice = syscall.EXDEV
)
