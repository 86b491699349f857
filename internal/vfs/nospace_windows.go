package vfs

import "syscall"

// errQuota is ERROR_DISK_FULL: Windows reports a full volume and a full quota alike.
const errQuota = syscall.Errno(112)

// errCrossDevice is ERROR_NOT_SAME_DEVICE.
const errCrossDevice = syscall.Errno(17)
