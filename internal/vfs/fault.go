package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// OpKind is what an operation does.
type OpKind int

const (
	OpOpen OpKind = iota
	OpMkdirAll
	OpReadDir
	OpStat
	OpRename // Op.Name is the old name, Op.To the new one
	OpRemove
	OpSyncDir
	OpLock
	OpSpace
	OpRead    // ReadAt
	OpTryRead // TryReadAt; a rule may answer ErrWouldBlock
	OpWrite   // WriteAt and WriteVec; a rule may answer ShortWrite
	OpSize
	OpTruncate // Op.Len is the new size
	OpSync
	OpSetModTime
	OpSyncTree
	OpClose
)

var opNames = [...]string{"open", "mkdir", "readdir", "stat", "rename", "remove", "syncdir", "lock", "space",
	"read", "tryread", "write", "size", "truncate", "sync", "chtimes", "synctree", "close"}

func (k OpKind) String() string {
	if k < 0 || int(k) >= len(opNames) {
		return fmt.Sprintf("OpKind(%d)", int(k))
	}
	return opNames[k]
}

// Op is one operation before it happens. Off and Len are bytes, 0 where they mean nothing.
type Op struct {
	Kind     OpKind
	Name, To string
	Off, Len int64
}

// ShortWrite as a rule's answer to OpWrite lets the first N bytes through and fails
// the rest with Err (io.ErrShortWrite if nil). To any other operation it is a plain error.
type ShortWrite struct {
	N   int64
	Err error
}

func (e ShortWrite) Error() string {
	return fmt.Sprintf("written short after %d bytes: %v", e.N, e.Unwrap())
}

func (e ShortWrite) Unwrap() error {
	if e.Err == nil {
		return io.ErrShortWrite
	}
	return e.Err
}

// NewFault wraps inner so that rule decides before each operation: nil lets it happen,
// an error (syscall.EIO, syscall.ENOSPC …) is returned instead, with operation and path
// around it. A rule may block: that is a slow disk. It is called from every goroutine that uses
// the file system and keeps its own state safe.
//
// A Sync that the rule fails is a failed fsync as Linux has it: on a Mem the data
// written so far stays readable and is never made durable by a later Sync, unless it
// is written again. Close always reaches inner, so that nothing leaks, also when the
// rule fails it. FD is -1, so that no byte passes the rule by.
func NewFault(inner FS, rule func(Op) error) FS { return &faultFS{inner, rule} }

type faultFS struct {
	inner FS
	rule  func(Op) error
}

// check asks the rule. ErrWouldBlock and io.EOF go up bare, as from any File.
func (s *faultFS) check(op Op) error {
	err := s.rule(op)
	if err == nil || err == ErrWouldBlock || err == io.EOF {
		return err
	}
	return &fs.PathError{Op: op.Kind.String(), Path: op.Name, Err: err}
}

func (s *faultFS) Open(name string, mode Mode) (File, error) {
	if err := s.check(Op{Kind: OpOpen, Name: name}); err != nil {
		return nil, err
	}
	f, err := s.inner.Open(name, mode)
	if err != nil {
		return nil, err
	}
	return &faultFile{s, f, name}, nil
}

func (s *faultFS) MkdirAll(dir string) error {
	if err := s.check(Op{Kind: OpMkdirAll, Name: dir}); err != nil {
		return err
	}
	return s.inner.MkdirAll(dir)
}

func (s *faultFS) ReadDir(dir string) ([]Info, error) {
	if err := s.check(Op{Kind: OpReadDir, Name: dir}); err != nil {
		return nil, err
	}
	return s.inner.ReadDir(dir)
}

func (s *faultFS) Stat(name string) (Info, error) {
	if err := s.check(Op{Kind: OpStat, Name: name}); err != nil {
		return Info{}, err
	}
	return s.inner.Stat(name)
}

func (s *faultFS) Rename(from, to string) error {
	if err := s.check(Op{Kind: OpRename, Name: from, To: to}); err != nil {
		return err
	}
	return s.inner.Rename(from, to)
}

func (s *faultFS) Remove(name string) error {
	if err := s.check(Op{Kind: OpRemove, Name: name}); err != nil {
		return err
	}
	return s.inner.Remove(name)
}

func (s *faultFS) SyncDir(dir string) error {
	if err := s.check(Op{Kind: OpSyncDir, Name: dir}); err != nil {
		return err
	}
	return s.inner.SyncDir(dir)
}

func (s *faultFS) Names(dir string) ([]Name, error) {
	if err := s.check(Op{Kind: OpReadDir, Name: dir}); err != nil {
		return nil, err
	}
	return s.inner.Names(dir)
}

func (s *faultFS) SyncTree(dir string) error {
	if err := s.check(Op{Kind: OpSyncTree, Name: dir}); err != nil {
		return err
	}
	return s.inner.SyncTree(dir)
}

func (s *faultFS) SetModTime(name string, t time.Time) error {
	if err := s.check(Op{Kind: OpSetModTime, Name: name}); err != nil {
		return err
	}
	return s.inner.SetModTime(name, t)
}

func (s *faultFS) Lock(name string) (io.Closer, error) {
	if err := s.check(Op{Kind: OpLock, Name: name}); err != nil {
		return nil, err
	}
	return s.inner.Lock(name)
}

func (s *faultFS) Space(dir string) (Space, error) {
	if err := s.check(Op{Kind: OpSpace, Name: dir}); err != nil {
		return Space{}, err
	}
	return s.inner.Space(dir)
}

type faultFile struct {
	s     *faultFS
	inner File
	name  string
}

func (f *faultFile) check(kind OpKind, off, n int64) error {
	return f.s.check(Op{Kind: kind, Name: f.name, Off: off, Len: n})
}

func (f *faultFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.check(OpRead, off, int64(len(p))); err != nil {
		return 0, err
	}
	return f.inner.ReadAt(p, off)
}

func (f *faultFile) TryReadAt(p []byte, off int64) (int, error) {
	if err := f.check(OpTryRead, off, int64(len(p))); err != nil {
		return 0, err
	}
	return f.inner.TryReadAt(p, off)
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.write([][]byte{p}, off, func(bufs [][]byte) (int64, error) {
		n, err := f.inner.WriteAt(bufs[0], off)
		return int64(n), err
	})
	return int(n), err
}

func (f *faultFile) WriteVec(bufs [][]byte, off int64) (int64, error) {
	return f.write(bufs, off, func(bufs [][]byte) (int64, error) { return f.inner.WriteVec(bufs, off) })
}

func (f *faultFile) write(bufs [][]byte, off int64, do func([][]byte) (int64, error)) (int64, error) {
	var total int64
	for _, b := range bufs {
		total += int64(len(b))
	}
	op := Op{Kind: OpWrite, Name: f.name, Off: off, Len: total}
	err := f.s.check(op)
	if err == nil {
		return do(bufs)
	}
	var short ShortWrite
	if !errors.As(err, &short) || short.N <= 0 {
		return 0, err
	}
	n, innerErr := do(head(bufs, min(short.N, total)))
	if innerErr != nil {
		return n, innerErr
	}
	return n, err
}

// head is the first n bytes of bufs, at least one buffer; bufs is left as it is.
func head(bufs [][]byte, n int64) [][]byte {
	var out [][]byte
	for _, b := range bufs {
		k := min(n, int64(len(b)))
		out = append(out, b[:k])
		if n -= k; n == 0 {
			break
		}
	}
	return out
}

func (f *faultFile) Resident(off, n int64) int64   { return f.inner.Resident(off, n) }
func (f *faultFile) Advise(off, n int64, a Advice) { f.inner.Advise(off, n, a) }

func (f *faultFile) Size() (int64, error) {
	if err := f.check(OpSize, 0, 0); err != nil {
		return 0, err
	}
	return f.inner.Size()
}

func (f *faultFile) Truncate(size int64) error {
	if err := f.check(OpTruncate, 0, size); err != nil {
		return err
	}
	return f.inner.Truncate(size)
}

func (f *faultFile) Sync() error {
	if err := f.check(OpSync, 0, 0); err != nil {
		if m, ok := f.inner.(*memFile); ok {
			m.failSync()
		}
		return err
	}
	return f.inner.Sync()
}

func (f *faultFile) Close() error {
	ruled := f.check(OpClose, 0, 0)
	if err := f.inner.Close(); err != nil {
		return err
	}
	return ruled
}

func (f *faultFile) FD() int { return -1 }
