package vfs

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	filePerm = 0o644 // before umask, as Kafka's
	dirPerm  = 0o755

	secretPerm = 0o600
)

func permOf(mode Mode) os.FileMode {
	if mode == CreateSecret {
		return secretPerm
	}
	return filePerm
}

// osFS is the operating system's file system. Files and SyncDir are in os_linux.go
// and its portable twin os_other.go, locks and volumes in sys_unix.go and sys_windows.go.
type osFS struct{}

// OS returns the file system of the operating system. It has no state.
//
// A File of it owns a plain descriptor: nothing but Close ever closes it, no garbage
// collector behind the caller's back, so a descriptor taken by FD is good until Close.
// A second Close, and any use after Close, is fs.ErrClosed and touches no descriptor.
// Whoever calls Close sees to it that no other call on the File is under way (the
// descriptor's number may mean another file a moment later).
func OS() FS { return osFS{} }

func (osFS) MkdirAll(dir string) error    { return os.MkdirAll(dir, dirPerm) }
func (osFS) Rename(from, to string) error { return os.Rename(from, to) }
func (osFS) Remove(name string) error     { return os.Remove(name) }

func (osFS) SetModTime(name string, t time.Time) error { return os.Chtimes(name, time.Time{}, t) }

func (osFS) Stat(name string) (Info, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return Info{}, err
	}
	return infoOf(fi), nil
}

func (osFS) Names(dir string) ([]Name, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	entries, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	names := make([]Name, len(entries))
	for i, e := range entries {
		names[i] = Name{e.Name(), e.IsDir()}
		if e.Type()&fs.ModeSymlink != 0 {
			to, err := os.Stat(filepath.Join(dir, e.Name()))
			names[i].IsDir = err == nil && to.IsDir()
		}
	}
	return names, nil
}

func (osFS) ReadDir(dir string) ([]Info, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	infos := make([]Info, 0, len(entries))
	for _, e := range entries {
		fi, err := e.Info()
		if err == nil && fi.Mode()&fs.ModeSymlink != 0 {
			// A link shows what it leads to, as Stat and Open do; one that leads nowhere shows itself.
			if to, err := os.Stat(filepath.Join(dir, e.Name())); err == nil {
				fi = to
			}
		}
		if os.IsNotExist(err) {
			continue // removed since the directory was read
		}
		if err != nil {
			return nil, err
		}
		info := infoOf(fi)
		info.Name = e.Name()
		infos = append(infos, info)
	}
	slices.SortFunc(infos, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return infos, nil
}

func infoOf(fi fs.FileInfo) Info {
	info := Info{Name: fi.Name(), Size: fi.Size(), IsDir: fi.IsDir(), ModTime: fi.ModTime()}
	if info.IsDir {
		info.Size = 0
	}
	return info
}

// parsePID reads a lock file's content; 0 when it is not one process id.
func parsePID(content []byte) int {
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil || pid < 0 {
		return 0
	}
	return pid
}

func pidLine() []byte { return []byte(strconv.Itoa(os.Getpid()) + "\n") }

func pathError(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: name, Err: err}
}
