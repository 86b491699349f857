package vfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func fileSystems() map[string]func(t *testing.T) (FS, string) {
	return map[string]func(t *testing.T) (FS, string){
		"OS": func(t *testing.T) (FS, string) { return OS(), t.TempDir() },
		"Mem": func(t *testing.T) (FS, string) {
			m := NewMem()
			check(t, m.MkdirAll("/data"))
			return m, "/data"
		},
		"FaultOverMem": func(t *testing.T) (FS, string) { return NewFault(NewMem(), func(Op) error { return nil }), "/" },
		"Watch":        func(t *testing.T) (FS, string) { return NewWatch(OS()), t.TempDir() },
		"FaultOverOS": func(t *testing.T) (FS, string) {
			return NewFault(OS(), func(Op) error { return nil }), t.TempDir()
		},
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantErr says that err is target and names the path.
func wantErr(t *testing.T, err, target error, name string) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("error %v, want %v", err, target)
	} else if !strings.Contains(err.Error(), name) {
		t.Errorf("error %q does not name %s", err, name)
	}
}

func open(t testing.TB, s FS, name string, mode Mode) File {
	t.Helper()
	f, err := s.Open(name, mode)
	check(t, err)
	return f
}

func put(t testing.TB, s FS, name, data string) {
	t.Helper()
	f := open(t, s, name, Create)
	check(t, f.Truncate(0))
	write(t, f, data, 0)
	check(t, f.Close())
}

func write(t testing.TB, f File, data string, off int64) {
	t.Helper()
	if n, err := f.WriteAt([]byte(data), off); err != nil || n != len(data) {
		t.Fatalf("WriteAt: %d, %v", n, err)
	}
}

// get reads a whole file; "" and false if there is none.
func get(t testing.TB, s FS, name string) (string, bool) {
	t.Helper()
	f, err := s.Open(name, ReadOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false
	}
	check(t, err)
	defer f.Close()
	size, err := f.Size()
	check(t, err)
	p := make([]byte, size)
	if _, err := f.ReadAt(p, 0); err != nil {
		t.Fatalf("reading %s: %v", name, err)
	}
	return string(p), true
}

func TestFileSystemsKeepOneContract(t *testing.T) {
	tests := map[string]func(*testing.T, FS, string){
		"modes":       contractModes,
		"read write":  contractReadWrite,
		"vector":      contractVector,
		"truncate":    contractTruncate,
		"names":       contractNames,
		"directories": contractDirectories,
		"open unlink": contractOpenRemoved,
		"lock":        contractLock,
		"closed":      contractClosed,
		"concurrent":  contractConcurrent,
	}
	for fsName, make := range fileSystems() {
		for name, test := range tests {
			t.Run(fsName+"/"+name, func(t *testing.T) {
				s, dir := make(t)
				test(t, s, dir)
			})
		}
	}
}

func contractModes(t *testing.T, s FS, dir string) {
	name := filepath.Join(dir, "a.log")
	for _, mode := range []Mode{ReadOnly, ReadWrite} {
		_, err := s.Open(name, mode)
		wantErr(t, err, fs.ErrNotExist, name)
	}
	for _, mode := range []Mode{Create, CreateNew} {
		_, err := s.Open(filepath.Join(dir, "none", "a"), mode)
		wantErr(t, err, fs.ErrNotExist, "none")
	}
	f := open(t, s, name, CreateNew)
	write(t, f, "abc", 0)
	check(t, f.Close())
	_, err := s.Open(name, CreateNew)
	wantErr(t, err, fs.ErrExist, name)
	check(t, open(t, s, name, Create).Close())
	if got, _ := get(t, s, name); got != "abc" {
		t.Errorf("Create emptied the file: %q", got)
	}
	r := open(t, s, name, ReadOnly)
	defer r.Close()
	_, err = r.WriteAt([]byte("x"), 0)
	wantErr(t, err, syscall.EBADF, name)
	for _, mode := range []Mode{ReadOnly, ReadWrite, Create} {
		_, err := s.Open(dir, mode)
		wantErr(t, err, syscall.EISDIR, dir)
	}
	_, err = s.Open(name, Mode(99))
	wantErr(t, err, syscall.EINVAL, name)
	_, err = s.Open(filepath.Join(name, "below"), ReadOnly)
	wantErr(t, err, syscall.ENOTDIR, name)
}

func contractReadWrite(t *testing.T, s FS, dir string) {
	f := open(t, s, filepath.Join(dir, "f"), Create)
	defer f.Close()
	write(t, f, "hello", 5000)
	read := func(n int, off int64, want string, wantErr error) {
		t.Helper()
		for _, readAt := range []func([]byte, int64) (int, error){f.ReadAt, f.TryReadAt} {
			p := make([]byte, n)
			k, err := readAt(p, off)
			if err == errors.ErrUnsupported {
				continue // TryReadAt, where the platform cannot
			}
			if string(p[:k]) != want || err != wantErr {
				t.Errorf("read %d at %d: %q, %v; want %q, %v", n, off, p[:k], err, want, wantErr)
			}
		}
	}
	read(5, 5000, "hello", nil)
	read(3, 5001, "ell", nil)
	read(9, 5003, "lo", io.EOF)
	read(4, 5005, "", io.EOF)
	read(4, 99999, "", io.EOF)
	read(0, 0, "", nil)
	read(4, 4094, "\x00\x00\x00\x00", nil)
	_, err := f.ReadAt(make([]byte, 1), -1)
	wantErr(t, err, syscall.EINVAL, "f")
	_, err = f.WriteAt(make([]byte, 1), -1)
	wantErr(t, err, syscall.EINVAL, "f")
	f.Advise(0, 4096, WillNeed)
	f.Advise(0, 4096, DontNeed)
	f.Advise(0, 0, Random)
	check(t, f.Sync())
}

// More buffers than one system call takes, empty ones among them.
func contractVector(t *testing.T, s FS, dir string) {
	f := open(t, s, filepath.Join(dir, "f"), Create)
	defer f.Close()
	var bufs [][]byte
	var want []byte
	for i := range 2500 {
		b := bytes.Repeat([]byte{byte(i)}, i%7)
		bufs, want = append(bufs, b), append(want, b...)
	}
	n, err := f.WriteVec(bufs, 3)
	if err != nil || n != int64(len(want)) {
		t.Fatalf("WriteVec: %d, %v", n, err)
	}
	got := make([]byte, len(want))
	_, err = f.ReadAt(got, 3)
	check(t, err)
	if !bytes.Equal(got, want) {
		t.Error("WriteVec wrote something else")
	}
	if n, err := f.WriteVec(nil, 0); n != 0 || err != nil {
		t.Errorf("WriteVec of nothing: %d, %v", n, err)
	}
}

func contractTruncate(t *testing.T, s FS, dir string) {
	name := filepath.Join(dir, "f")
	f := open(t, s, name, Create)
	defer f.Close()
	write(t, f, strings.Repeat("x", 10000), 0)
	check(t, f.Truncate(4100))
	check(t, f.Truncate(9000))
	size, err := f.Size()
	check(t, err)
	got, _ := get(t, s, name)
	if want := strings.Repeat("x", 4100) + strings.Repeat("\x00", 4900); got != want || size != 9000 {
		t.Errorf("what was cut off came back (size %d)", size)
	}
	wantErr(t, f.Truncate(-1), syscall.EINVAL, name)
}

func contractNames(t *testing.T, s FS, dir string) {
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	put(t, s, a, "A")
	put(t, s, b, "B")
	f := open(t, s, a, ReadWrite)
	defer f.Close()
	check(t, s.Rename(a, b))
	if _, ok := get(t, s, a); ok {
		t.Error("the old name is still there")
	}
	write(t, f, "A2", 0) // the handle follows the file
	if got, _ := get(t, s, b); got != "A2" {
		t.Errorf("target is %q", got)
	}
	err := s.Rename(a, b)
	wantErr(t, err, fs.ErrNotExist, a)
	wantErr(t, err, fs.ErrNotExist, b)
	wantErr(t, s.Rename(b, filepath.Join(dir, "none", "b")), fs.ErrNotExist, "none")
	info, err := s.Stat(b)
	check(t, err)
	if info.Name != "b" || info.Size != 2 || info.IsDir || info.ModTime.IsZero() {
		t.Errorf("Stat: %+v", info)
	}
	past := time.Unix(1_600_000_000, 0)
	check(t, s.SetModTime(b, past))
	if info, err := s.Stat(b); err != nil || !info.ModTime.Equal(past) {
		t.Errorf("Stat after SetModTime: %+v %v", info, err)
	}
	wantErr(t, s.SetModTime(a, past), fs.ErrNotExist, a)
	_, err = s.Stat(a)
	wantErr(t, err, fs.ErrNotExist, a)
	check(t, s.Remove(b))
	wantErr(t, s.Remove(b), fs.ErrNotExist, b)
	check(t, s.SyncDir(dir))
	wantErr(t, s.SyncDir(a), fs.ErrNotExist, a)
	check(t, s.SyncTree(dir))
	wantErr(t, s.SyncTree(a), fs.ErrNotExist, a)
}

func contractDirectories(t *testing.T, s FS, dir string) {
	deep := filepath.Join(dir, "d", "e")
	check(t, s.MkdirAll(deep))
	check(t, s.MkdirAll(deep))
	for _, name := range []string{"z", "b", "a"} {
		put(t, s, filepath.Join(dir, "d", name), name)
	}
	infos, err := s.ReadDir(filepath.Join(dir, "d"))
	check(t, err)
	var got []string
	for _, i := range infos {
		got = append(got, i.Name)
		if i.IsDir != (i.Name == "e") || (i.Size == 1) == i.IsDir {
			t.Errorf("ReadDir: %+v", i)
		}
	}
	if strings.Join(got, " ") != "a b e z" {
		t.Errorf("ReadDir: %v", got)
	}
	file := filepath.Join(dir, "d", "a")
	wantErr(t, s.Remove(filepath.Join(dir, "d")), syscall.ENOTEMPTY, "d")
	wantErr(t, s.MkdirAll(filepath.Join(file, "x")), syscall.ENOTDIR, "a")
	_, err = s.ReadDir(filepath.Join(dir, "none"))
	wantErr(t, err, fs.ErrNotExist, "none")
	_, err = s.ReadDir(file)
	wantErr(t, err, syscall.ENOTDIR, "a")
	wantErr(t, s.Rename(file, deep), fs.ErrExist, deep)
	wantErr(t, s.Rename(deep, file), syscall.ENOTDIR, deep)
	wantErr(t, s.Rename(filepath.Join(dir, "d"), filepath.Join(deep, "in")), syscall.EINVAL, deep)
	moved := filepath.Join(dir, "moved")
	check(t, s.Rename(filepath.Join(dir, "d"), moved))
	if got, _ := get(t, s, filepath.Join(moved, "z")); got != "z" {
		t.Errorf("in the moved directory: %q", got)
	}
	check(t, s.Remove(filepath.Join(moved, "e")))
	space, err := s.Space(dir)
	check(t, err)
	if space.FreeBytes <= 0 || space.TotalBytes < space.FreeBytes {
		t.Errorf("Space: %+v", space)
	}
	_, err = s.Space(deep)
	wantErr(t, err, fs.ErrNotExist, deep)
}

func contractOpenRemoved(t *testing.T, s FS, dir string) {
	name := filepath.Join(dir, "f")
	put(t, s, name, "old")
	f := open(t, s, name, ReadWrite)
	defer f.Close()
	check(t, s.Remove(name))
	put(t, s, name, "new")
	write(t, f, "OLD", 0)
	p := make([]byte, 3)
	_, err := f.ReadAt(p, 0)
	check(t, err)
	if got, _ := get(t, s, name); string(p) != "OLD" || got != "new" {
		t.Errorf("removed %q, present %q", p, got)
	}
}

func contractLock(t *testing.T, s FS, dir string) {
	name := filepath.Join(dir, ".lock")
	l, err := s.Lock(name)
	check(t, err)
	_, err = s.Lock(name)
	var held *LockedError
	if !errors.As(err, &held) || held.PID != os.Getpid() || held.Name != name {
		t.Fatalf("second Lock: %v", err)
	}
	if (&LockedError{Name: "x"}).Error() == held.Error() || !strings.Contains(held.Error(), name) {
		t.Errorf("message %q", held)
	}
	check(t, l.Close())
	wantErr(t, l.Close(), fs.ErrClosed, name)
	l, err = s.Lock(name)
	check(t, err)
	check(t, l.Close())
	_, err = s.Lock(filepath.Join(dir, "none", ".lock"))
	wantErr(t, err, fs.ErrNotExist, "none")
}

func contractClosed(t *testing.T, s FS, dir string) {
	name := filepath.Join(dir, "f")
	f := open(t, s, name, Create)
	check(t, f.Close())
	wantErr(t, f.Close(), fs.ErrClosed, name)
	_, err := f.ReadAt(make([]byte, 1), 0)
	wantErr(t, err, fs.ErrClosed, name)
	if _, err = f.TryReadAt(make([]byte, 1), 0); err != errors.ErrUnsupported {
		wantErr(t, err, fs.ErrClosed, name)
	}
	_, err = f.WriteAt(make([]byte, 1), 0)
	wantErr(t, err, fs.ErrClosed, name)
	_, err = f.WriteVec([][]byte{{1}}, 0)
	wantErr(t, err, fs.ErrClosed, name)
	wantErr(t, f.Sync(), fs.ErrClosed, name)
	wantErr(t, f.Truncate(0), fs.ErrClosed, name)
	_, err = f.Size()
	wantErr(t, err, fs.ErrClosed, name)
	if f.FD() != -1 {
		t.Errorf("FD after Close is %d", f.FD())
	}
}

func contractConcurrent(t *testing.T, s FS, dir string) {
	f := open(t, s, filepath.Join(dir, "f"), Create)
	defer f.Close()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			b := bytes.Repeat([]byte{byte('a' + g)}, 1000)
			for i := range 20 {
				off := int64(i*8+g) * 1000
				if _, err := f.WriteAt(b, off); err != nil {
					t.Error(err)
				}
				got := make([]byte, 1000)
				if _, err := f.ReadAt(got, off); err != nil || !bytes.Equal(got, b) {
					t.Errorf("at %d: %v", off, err)
				}
				if _, err := f.Size(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	check(t, f.Sync())
}
