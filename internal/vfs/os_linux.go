package vfs

import (
	"errors"
	"io"
	"io/fs"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// maxIovecs is the kernel's UIO_MAXIOV: more buffers in one pwritev are EINVAL.
const maxIovecs = 1024

// osFile is a raw descriptor. os.File is not used because its poller, its lock around
// every call and its finalizer buy nothing for regular files, and sendfile needs a
// descriptor that stays what it is.
type osFile struct {
	name     string
	fd       atomic.Int32 // -1 once closed
	noNoWait atomic.Bool  // the file system refused RWF_NOWAIT once: do not ask again
	noStat   atomic.Bool  // so it is with cachestat, which kernels have since 6.5

	probing sync.Mutex // guards probe; who does not get it makes do without
	probe   [1]byte
}

func (osFS) Open(name string, mode Mode) (File, error) {
	flags := unix.O_CLOEXEC
	switch mode {
	case ReadOnly:
		flags |= unix.O_RDONLY
	case ReadWrite:
		flags |= unix.O_RDWR
	case Create, CreateSecret:
		flags |= unix.O_RDWR | unix.O_CREAT
	case CreateNew:
		flags |= unix.O_RDWR | unix.O_CREAT | unix.O_EXCL
	default:
		return nil, pathError("open", name, unix.EINVAL)
	}
	fd, err := openFD(name, flags, permOf(mode))
	if err != nil {
		return nil, pathError("open", name, err)
	}
	if mode == ReadOnly { // the other modes fail by themselves on a directory
		var st unix.Stat_t
		err := unix.Fstat(fd, &st)
		if err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = unix.EISDIR
		}
		if err != nil {
			unix.Close(fd)
			return nil, pathError("open", name, err)
		}
	}
	f := &osFile{name: name}
	f.fd.Store(int32(fd))
	return f, nil
}

func (osFS) SyncDir(dir string) error {
	fd, err := openFD(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("syncdir", dir, err)
	}
	defer unix.Close(fd)
	if err := retry(func() error { return unix.Fsync(fd) }); err != nil {
		return pathError("syncdir", dir, err)
	}
	return nil
}

// SyncTree is one syncfs: the volume knows what it has to write, also where that is in a hundred thousand files.
func (osFS) SyncTree(dir string) error {
	fd, err := openFD(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return pathError("synctree", dir, err)
	}
	defer unix.Close(fd)
	if err := retry(func() error { return unix.Syncfs(fd) }); err != nil {
		return pathError("synctree", dir, err)
	}
	return nil
}

func (f *osFile) FD() int { return int(f.fd.Load()) }

func (f *osFile) Close() error {
	fd := f.fd.Swap(-1)
	if fd < 0 {
		return pathError("close", f.name, fs.ErrClosed)
	}
	// No retry on EINTR: Linux has released the descriptor by then.
	if err := unix.Close(int(fd)); err != nil && err != unix.EINTR {
		return pathError("close", f.name, err)
	}
	return nil
}

// fail names the file, and says "closed" where the kernel would say "bad descriptor"
// because of our own Close.
func (f *osFile) fail(op string, err error) error {
	if errors.Is(err, unix.EBADF) && f.fd.Load() < 0 {
		err = fs.ErrClosed
	}
	return pathError(op, f.name, err)
}

func (f *osFile) ReadAt(p []byte, off int64) (int, error) {
	fd, n := f.FD(), 0
	for n < len(p) {
		k, err := unix.Pread(fd, p[n:], off+int64(n))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return n, f.fail("read", err)
		case k == 0:
			return n, io.EOF
		default:
			n += k
		}
	}
	return n, nil
}

func (f *osFile) TryReadAt(p []byte, off int64) (int, error) {
	fd, n := f.FD(), 0
	for n < len(p) {
		if f.noNoWait.Load() {
			return n, errors.ErrUnsupported
		}
		k, err := unix.Preadv2(fd, [][]byte{p[n:]}, off+int64(n), unix.RWF_NOWAIT)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return n, ErrWouldBlock
		case err == unix.EOPNOTSUPP || err == unix.ENOSYS:
			f.noNoWait.Store(true)
		case err != nil:
			return n, f.fail("read", err)
		case k == 0:
			// Linux 5.9 and 5.10 answer 0 in the middle of a file (preadv2(2), BUGS).
			size, err := f.Size()
			if err == nil && off+int64(n) < size {
				err = ErrWouldBlock
			} else if err == nil {
				err = io.EOF
			}
			return n, err
		default:
			n += k
		}
	}
	return n, nil
}

// residentCell is the unit in which Resident answers.
const residentCell = 128 << 10

// Resident asks two calls. cachestat knows of each page whether there is one, also while it is still being read; an attempt
// to read a byte knows whether that page is there, and would begin to read one that is not, so it comes second. The pages that one
// read brings in arrive in their order, so that a look at the end of each cell will do.
func (f *osFile) Resident(off, n int64) int64 {
	fd := f.FD()
	var p []byte
	if f.probing.TryLock() {
		defer f.probing.Unlock()
		p = f.probe[:]
	} else {
		p = make([]byte, 1)
	}
	all := f.cached(fd, off, n)
	if !all && !f.cached(fd, off, 1) || !f.arrived(p, off) {
		return 0
	}
	for at, end := off, off; at < off+n; at = end {
		end = min(at&^(residentCell-1)+residentCell, off+n)
		if !all && !f.cached(fd, at, end-at) || !f.arrived(p, end-1) {
			return at - off
		}
	}
	return n
}

// cached reports whether there is a page for each byte of the range, or whether that cannot be known.
func (f *osFile) cached(fd int, off, n int64) bool {
	if f.noStat.Load() {
		return true
	}
	var st unix.Cachestat_t
	if err := unix.Cachestat(uint(fd), &unix.CachestatRange{Off: uint64(off), Len: uint64(n)}, &st, 0); err != nil {
		f.noStat.Store(true)
		return true
	}
	size := uint64(unix.Getpagesize())
	return st.Cache >= uint64(off+n-1)/size-uint64(off)/size+1
}

// arrived reports whether the byte at off is in memory, and reads it into p.
func (f *osFile) arrived(p []byte, off int64) bool {
	_, err := f.TryReadAt(p, off)
	return err == nil
}

func (f *osFile) WriteAt(p []byte, off int64) (int, error) {
	fd, n := f.FD(), 0
	for n < len(p) {
		k, err := unix.Pwrite(fd, p[n:], off+int64(n))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return n, f.fail("write", err)
		case k == 0:
			return n, f.fail("write", io.ErrShortWrite)
		default:
			n += k
		}
	}
	return n, nil
}

func (f *osFile) WriteVec(bufs [][]byte, off int64) (int64, error) {
	fd, n := f.FD(), int64(0)
	for len(bufs) > 0 {
		if len(bufs[0]) == 0 {
			bufs = bufs[1:]
			continue
		}
		k, err := unix.Pwritev(fd, bufs[:min(len(bufs), maxIovecs)], off+n)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return n, f.fail("write", err)
		case k == 0:
			return n, f.fail("write", io.ErrShortWrite)
		}
		n += int64(k)
		for len(bufs) > 0 && k >= len(bufs[0]) {
			k -= len(bufs[0])
			bufs = bufs[1:]
		}
		if k > 0 { // it stopped inside a buffer: finish that one, then go on with the rest
			m, err := f.WriteAt(bufs[0][k:], off+n)
			n += int64(m)
			if err != nil {
				return n, err
			}
			bufs = bufs[1:]
		}
	}
	return n, nil
}

func (f *osFile) Advise(off, n int64, a Advice) {
	advice := unix.FADV_WILLNEED
	switch a {
	case DontNeed:
		advice = unix.FADV_DONTNEED
	case Random:
		off, n, advice = 0, 0, unix.FADV_RANDOM
	}
	// The error is dropped on purpose: a hint that is not taken changes nothing.
	_ = unix.Fadvise(f.FD(), off, n, advice)
}

func (f *osFile) Size() (int64, error) {
	var st unix.Stat_t
	if err := retry(func() error { return unix.Fstat(f.FD(), &st) }); err != nil {
		return 0, f.fail("stat", err)
	}
	return st.Size, nil
}

func (f *osFile) Truncate(size int64) error {
	if err := retry(func() error { return unix.Ftruncate(f.FD(), size) }); err != nil {
		return f.fail("truncate", err)
	}
	return nil
}

func (f *osFile) Sync() error {
	// EINTR alone is retried: it comes before anything was given up. After any other
	// error the kernel may have dropped the pages, and a second call would lie.
	if err := retry(func() error { return unix.Fdatasync(f.FD()) }); err != nil {
		return f.fail("sync", err)
	}
	return nil
}
