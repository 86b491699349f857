//go:build linux || darwin || freebsd

package vfs

import (
	"io"
	"io/fs"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// retry repeats f while a signal interrupts it.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func openFD(name string, flags int, perm os.FileMode) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Open(name, flags, uint32(perm))
		return err
	})
	return fd, err
}

// osLock holds a raw descriptor, so that the lock lasts as long as the process even
// when the caller forgets the lock.
type osLock struct {
	name string
	fd   atomic.Int32 // -1 once closed
}

// Lock uses flock, which the kernel releases when the process ends however it ends, and beside it
// the kind of lock that Apache Kafka takes.
// The file stays behind: to remove it would let two processes lock two files of one name.
func (osFS) Lock(name string) (io.Closer, error) {
	fd, err := openFD(name, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC, filePerm)
	if err != nil {
		return nil, pathError("lock", name, err)
	}
	err = retry(func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
	if err == unix.EWOULDBLOCK {
		var content [32]byte
		n, _ := unix.Pread(fd, content[:], 0) // no pid is no reason to fail otherwise
		unix.Close(fd)
		return nil, &LockedError{Name: name, PID: parsePID(content[:max(n, 0)])}
	}
	if err == nil {
		var held bool
		var pid int
		if held, pid, err = lockRecords(fd); err == nil && !held {
			unix.Close(fd)
			return nil, &LockedError{Name: name, PID: pid}
		}
	}
	if err == nil {
		err = retry(func() error { return unix.Ftruncate(fd, 0) })
	}
	if err == nil {
		err = retry(func() error { _, err := unix.Pwrite(fd, pidLine(), 0); return err })
	}
	if err != nil {
		unix.Close(fd)
		return nil, pathError("lock", name, err)
	}
	l := &osLock{name: name}
	l.fd.Store(int32(fd))
	return l, nil
}

func (l *osLock) Close() error {
	fd := l.fd.Swap(-1)
	if fd < 0 {
		return pathError("unlock", l.name, fs.ErrClosed)
	}
	if err := unix.Close(int(fd)); err != nil {
		return pathError("unlock", l.name, err)
	}
	return nil
}

func (osFS) Space(dir string) (Space, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(dir, &st) }); err != nil {
		return Space{}, pathError("statfs", dir, err)
	}
	unit := int64(st.Bsize)
	return Space{FreeBytes: int64(st.Bavail) * unit, TotalBytes: int64(st.Blocks) * unit}, nil
}
