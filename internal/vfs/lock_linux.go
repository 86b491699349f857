package vfs

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// lockRecords takes the lock that Java's FileChannel takes, which flock does not see: so that Apache Kafka and we keep
// out of each other's directories. held is false, with the holder's pid, if another process has it. A file
// system without such locks has nobody else's.
func lockRecords(fd int) (held bool, pid int, err error) {
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	err = retry(func() error { return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, &lock) })
	switch {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES):
		other := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
		if unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, &other) == nil && other.Pid > 0 {
			pid = int(other.Pid)
		}
		return false, pid, nil
	case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOLCK) || errors.Is(err, unix.ENOTSUP):
		return true, 0, nil
	}
	return err == nil, 0, err
}
