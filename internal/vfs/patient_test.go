package vfs

import (
	"errors"
	"io/fs"
	"sync/atomic"
	"syscall"
	"testing"
)

// TestPatientWaitsForDescriptors: an operation for which there is no descriptor is tried again until somebody has given one back, and every
// other error is told at once.
func TestPatientWaitsForDescriptors(t *testing.T) {
	mem := NewMem()
	if err := mem.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	var used atomic.Int64
	p := &Patient{FS: NewFault(mem, func(op Op) error {
		if used.Load() > 0 && (op.Kind == OpOpen || op.Kind == OpReadDir || op.Kind == OpSyncDir || op.Kind == OpSyncTree) {
			return syscall.EMFILE
		}
		return nil
	}), Relieve: func() { used.Add(-1) }}
	for what, op := range map[string]func() error{
		"open": func() error {
			f, err := p.Open("/d/x", Create)
			if err != nil {
				return err
			}
			return f.Close()
		},
		"readdir": func() error {
			infos, err := p.ReadDir("/d")
			if err == nil && len(infos) > 1 {
				err = errors.New("too many names")
			}
			return err
		},
		"names":    func() error { _, err := p.Names("/d"); return err },
		"syncdir":  func() error { return p.SyncDir("/d") },
		"synctree": func() error { return p.SyncTree("/d") },
	} {
		used.Store(3)
		if err := op(); err != nil || used.Load() > 3 {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := p.Open("/nowhere/x", ReadOnly); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
}
