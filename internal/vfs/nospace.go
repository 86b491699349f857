package vfs

import (
	"errors"
	"syscall"
)

// IsNoSpace reports that err comes from a volume or quota that is full.
func IsNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, errQuota)
}

// IsCrossDevice reports that err comes from a Rename to another volume, which no file system can do.
func IsCrossDevice(err error) bool { return errors.Is(err, errCrossDevice) }
