package vfs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// allocate asks the kernel. done is false where there is no descriptor or the file system cannot.
func allocate(f File, size int64) (done bool, err error) {
	fd := f.FD()
	if fd < 0 {
		return false, nil
	}
	err = retry(func() error { return unix.Fallocate(fd, 0, 0, size) })
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("allocating %d bytes: %w", size, err)
	}
	return true, nil
}
