//go:build !linux

package vfs

import (
	"errors"
	"os"
	"runtime"
	"syscall"
)

// osFile is the portable twin of the Linux one: the same promises by plain calls.
type osFile struct{ f *os.File }

func (osFS) Open(name string, mode Mode) (File, error) {
	flags := os.O_RDONLY
	switch mode {
	case ReadOnly:
	case ReadWrite:
		flags = os.O_RDWR
	case Create, CreateSecret:
		flags = os.O_RDWR | os.O_CREATE
	case CreateNew:
		flags = os.O_RDWR | os.O_CREATE | os.O_EXCL
	default:
		return nil, pathError("open", name, syscall.EINVAL)
	}
	f, err := os.OpenFile(name, flags, permOf(mode))
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || fi.IsDir() {
		f.Close()
		if err == nil {
			err = pathError("open", name, syscall.EISDIR)
		}
		return nil, err
	}
	return osFile{f}, nil
}

// SyncTree goes from file to file.
func (s osFS) SyncTree(dir string) error { return syncTree(s, dir) }

// SyncDir does nothing on Windows, where a directory cannot be flushed and NTFS
// journals names by itself.
func (osFS) SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		_, err := os.Stat(dir)
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func (f osFile) ReadAt(p []byte, off int64) (int, error)  { return f.f.ReadAt(p, off) }
func (f osFile) WriteAt(p []byte, off int64) (int, error) { return f.f.WriteAt(p, off) }

// TryReadAt has no call to go to.
func (f osFile) TryReadAt([]byte, int64) (int, error) { return 0, errors.ErrUnsupported }

func (f osFile) Resident(off, n int64) int64 { return 0 }

func (f osFile) WriteVec(bufs [][]byte, off int64) (n int64, err error) {
	for _, b := range bufs {
		k, err := f.f.WriteAt(b, off+n)
		n += int64(k)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (f osFile) Advise(off, n int64, a Advice) {}

func (f osFile) Size() (int64, error) {
	fi, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

func (f osFile) Truncate(size int64) error { return f.f.Truncate(size) }
func (f osFile) Sync() error               { return f.f.Sync() }
func (f osFile) Close() error              { return f.f.Close() }
func (f osFile) FD() int                   { return -1 }
