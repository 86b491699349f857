package vfs

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestSyncTree: after it neither the bytes nor the names below the directory go with the power.
func TestSyncTree(t *testing.T) {
	for seed := range uint64(50) {
		m := NewMem()
		check(t, m.MkdirAll("/d/a/b"))
		check(t, m.SyncDir("/"))
		names := []string{"/d/1", "/d/a/2", "/d/a/b/3"}
		for _, name := range names {
			put(t, m, name, "of "+name)
		}
		check(t, m.Rename("/d/1", "/d/a/moved"))
		names[0] = "/d/a/moved"
		check(t, m.SyncTree("/d"))
		after := m.Crash(rand.New(rand.NewPCG(seed, 1)))
		for i, name := range names {
			f, err := after.Open(name, ReadOnly)
			check(t, err)
			p := make([]byte, 100)
			n, _ := f.ReadAt(p, 0)
			if want := fmt.Sprint("of ", [...]string{"/d/1", "/d/a/2", "/d/a/b/3"}[i]); string(p[:n]) != want {
				t.Errorf("seed %d: %s holds %q, not %q", seed, name, p[:n], want)
			}
		}
	}
}

// TestSyncTreeAmongOthers: a file and a directory that others remove while it is at work are no failure.
func TestSyncTreeAmongOthers(t *testing.T) {
	m := NewMem()
	check(t, m.MkdirAll("/d/b"))
	for _, name := range []string{"/d/1", "/d/2", "/d/b/3"} {
		put(t, m, name, "of "+name)
	}
	fsys := NewFault(m, func(op Op) error {
		if op.Kind == OpSync && op.Name == "/d/1" {
			for _, name := range []string{"/d/2", "/d/b/3", "/d/b"} {
				check(t, m.Remove(name))
			}
		}
		return nil
	})
	check(t, syncTree(fsys, "/d"))
	if _, err := m.Stat("/d/2"); err == nil {
		t.Error("nothing was removed")
	}
}
