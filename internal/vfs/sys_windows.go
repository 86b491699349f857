package vfs

import (
	"io"
	"io/fs"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/windows"
)

// osLock holds a raw handle, so that the lock lasts as long as the process even when
// the caller forgets the lock.
type osLock struct {
	name   string
	handle syscall.Handle
	closed atomic.Bool
}

// Lock locks one byte far behind the end: Windows' locks are mandatory, and the pid in
// the file must stay readable for the process that finds it locked.
func (osFS) Lock(name string) (io.Closer, error) {
	h, err := syscall.Open(name, syscall.O_RDWR|syscall.O_CREAT|syscall.O_CLOEXEC, filePerm)
	if err != nil {
		return nil, pathError("lock", name, err)
	}
	at := windows.Overlapped{OffsetHigh: 1 << 30}
	err = windows.LockFileEx(windows.Handle(h), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &at)
	if err == windows.ERROR_LOCK_VIOLATION || err == windows.ERROR_IO_PENDING {
		var content [32]byte
		n, _ := syscall.Read(h, content[:]) // no pid is no reason to fail otherwise
		syscall.CloseHandle(h)
		return nil, &LockedError{Name: name, PID: parsePID(content[:max(n, 0)])}
	}
	if err == nil {
		err = syscall.Ftruncate(h, 0)
	}
	if err == nil {
		_, err = syscall.Write(h, pidLine())
	}
	if err != nil {
		syscall.CloseHandle(h)
		return nil, pathError("lock", name, err)
	}
	return &osLock{name: name, handle: h}, nil
}

func (l *osLock) Close() error {
	if l.closed.Swap(true) {
		return pathError("unlock", l.name, fs.ErrClosed)
	}
	if err := syscall.CloseHandle(l.handle); err != nil {
		return pathError("unlock", l.name, err)
	}
	return nil
}

func (osFS) Space(dir string) (Space, error) {
	p, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return Space{}, pathError("statfs", dir, err)
	}
	var free, total uint64
	if err := windows.GetDiskFreeSpaceEx(p, &free, &total, nil); err != nil {
		return Space{}, pathError("statfs", dir, err)
	}
	return Space{FreeBytes: int64(free), TotalBytes: int64(total)}, nil
}
