package vfs

import (
	"errors"
	"syscall"
	"time"
)

// Patient is a file system for a process that may have few files open. Where the limit is reached it closes what it can do without,
// and tries again for a while: whatever else uses a descriptor gives it back. To its user that is a slow disk, not a failing one.
type Patient struct {
	FS
	// Relieve closes descriptors that nobody uses. It is called without waiting for anything, by several at once.
	Relieve func()
}

// patience is how long an operation waits for a descriptor, patientPause how long between two attempts at most.
const (
	patience     = 30 * time.Second
	patientPause = 20 * time.Millisecond
)

// IsNoDescriptor reports whether err says that this process, or the system, has as many files open as it may have.
func IsNoDescriptor(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// do runs an operation that needs a descriptor.
func (p *Patient) do(op func() error) error {
	err := op()
	if !IsNoDescriptor(err) { // protection: a want of descriptors is waited for
		return err
	}
	began := time.Now()
	for pause := time.Millisecond; IsNoDescriptor(err) && time.Since(began) < patience; pause = min(2*pause, patientPause) {
		p.Relieve()
		if err = op(); IsNoDescriptor(err) {
			time.Sleep(pause)
		}
	}
	return err
}

// Open implements FS.
func (p *Patient) Open(name string, mode Mode) (f File, err error) {
	err = p.do(func() error {
		f, err = p.FS.Open(name, mode)
		return err
	})
	return f, err
}

// ReadDir implements FS.
func (p *Patient) ReadDir(dir string) (infos []Info, err error) {
	err = p.do(func() error {
		infos, err = p.FS.ReadDir(dir)
		return err
	})
	return infos, err
}

// Names implements FS.
func (p *Patient) Names(dir string) (names []Name, err error) {
	err = p.do(func() error {
		names, err = p.FS.Names(dir)
		return err
	})
	return names, err
}

// SyncDir implements FS.
func (p *Patient) SyncDir(dir string) error {
	return p.do(func() error { return p.FS.SyncDir(dir) })
}

// SyncTree implements FS.
func (p *Patient) SyncTree(dir string) error {
	return p.do(func() error { return p.FS.SyncTree(dir) })
}
