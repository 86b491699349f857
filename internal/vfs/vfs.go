// Package vfs is the only door to files: it knows how bytes become durable on a
// disk, and how to pretend that they did not. Everything above it works the same
// on the operating system (OS), on a memory that can lose power (Mem) and on a
// file system that fails on demand (Fault).
//
// Contract that all three keep:
//  1. WriteAt and WriteVec are visible to every reader at once and durable only
//     after Sync of that file returned nil.
//     A Sync that failed may have lost what it should have written for good: a later
//     one that succeeds proves nothing about it.
//  2. A name that was made, renamed or removed is durable only after SyncDir of
//     its directory returned nil; Sync of the file does not make its name durable.
//     A rename from one directory to another needs SyncDir of both; until then a power
//     loss may leave the file under either name or both, but never under none.
//  3. Rename replaces the target atomically: after a power loss the name means
//     the old file or the new one, never a mixture.
package vfs

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrWouldBlock is returned by TryReadAt when the bytes are not in memory.
var ErrWouldBlock = errors.New("vfs: bytes are not in memory")

// LockedError says that another process holds a lock file.
type LockedError struct {
	Name string
	PID  int // of the holder, 0 when it is not known
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s is locked by another process", e.Name)
	}
	return fmt.Sprintf("%s is locked by process %d", e.Name, e.PID)
}

// Mode says what Open may do with a name.
type Mode int

const (
	ReadOnly     Mode = iota // must exist
	ReadWrite                // must exist
	Create                   // read-write, made empty if absent
	CreateNew                // read-write, must not exist (fs.ErrExist)
	CreateSecret             // as Create; what is made is for this user only
)

// Advice tells the page cache what comes next. It is a hint and never fails.
type Advice int

const (
	WillNeed Advice = iota // start reading the range, do not wait
	DontNeed               // the range will not be read again soon
	Random                 // no read-ahead by the kernel, for the whole file
)

// Info describes one name.
type Info struct {
	Name    string // last element only
	Size    int64  // bytes, 0 for a directory
	IsDir   bool
	ModTime time.Time
}

// Name is one name in a directory.
type Name struct {
	Name  string
	IsDir bool // or a link to one
}

// Space is the room of the volume that holds a directory.
type Space struct{ FreeBytes, TotalBytes int64 }

// FS is a file system. Names are paths as the OS takes them; "/" separated.
// All methods may be called concurrently. Errors wrap fs.ErrNotExist,
// fs.ErrExist, fs.ErrPermission and syscall errnos, and name the path.
type FS interface {
	Open(name string, mode Mode) (File, error)
	MkdirAll(dir string) error
	ReadDir(dir string) ([]Info, error) // sorted by name
	// Names is ReadDir for a directory with very many names: it says of each only whether it is a directory, in no order.
	Names(dir string) ([]Name, error)
	Stat(name string) (Info, error)
	Rename(from, to string) error // replaces a file, never a directory (fs.ErrExist)
	Remove(name string) error     // a file or an empty directory
	SyncDir(dir string) error
	// SyncTree is Sync of every file and SyncDir of every directory in dir, in one call where the
	// platform can; it may make more durable than that. Others may work in dir meanwhile: what they rename or remove then is theirs to sync.
	SyncTree(dir string) error
	// SetModTime makes t the time of a file's last change. It is a hint: nothing makes it durable.
	SetModTime(name string, t time.Time) error
	// Lock takes an exclusive lock on the file name (made if absent) until the
	// closer is closed or the process ends, and writes this process's pid into it.
	Lock(name string) (io.Closer, error) // *LockedError when it is held
	Space(dir string) (Space, error)
}

// File is an open file. ReadAt, TryReadAt and Size may be called concurrently with
// everything but Close; writes to disjoint ranges may be concurrent.
type File interface {
	io.ReaderAt
	io.WriterAt
	// WriteVec writes the buffers one after the other from off on, in one system
	// call where the platform can. It does not keep or change bufs.
	WriteVec(bufs [][]byte, off int64) (n int64, err error)
	// TryReadAt reads only what is in memory: it returns the bytes it got and
	// ErrWouldBlock if they are fewer than len(p) for want of memory, io.EOF if for want of file. Where the platform
	// or the file system cannot ask, it reads nothing and returns errors.ErrUnsupported. All three come bare.
	TryReadAt(p []byte, off int64) (int, error)
	// Resident returns how many of the n bytes at off, all of which the file has, are in memory from the first on, as far as one can
	// tell without reading them. Where TryReadAt is not supported nobody can tell: 0.
	Resident(off, n int64) int64
	Advise(off, n int64, a Advice)
	Size() (int64, error)
	Truncate(size int64) error
	Sync() error // data and size (fdatasync)
	// Close must be the last call: the caller sees to it that no other is under way.
	// A second one is fs.ErrClosed.
	Close() error
	// FD is the descriptor for sendfile, or -1 where there is none. It is valid until Close.
	FD() int
}

// Region is a range of an open file that somebody is about to read or send.
// Whoever made it keeps File open until the region's user says it is done.
type Region struct {
	File     File
	Off, Len int64
	// Turns are taken by who finds that bytes are not in memory any more, and waits for the disk. Optional.
	Turns *Turns
}
