package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
)

// Replace writes a small file whole or not at all, under a name of its own in dir first: name + ".tmp". mode is Create or CreateSecret. Without
// durable what it wrote is for somebody else to sync.
func Replace(fsys FS, dir, name string, data []byte, mode Mode, durable bool) error {
	tmp := path.Join(dir, name+".tmp")
	f, err := fsys.Open(tmp, mode)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return errors.Join(err, f.Close())
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		return errors.Join(err, f.Close())
	}
	if durable {
		if err := f.Sync(); err != nil { // protection: what is renamed is synced
			return errors.Join(err, f.Close())
		}
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := fsys.Rename(tmp, path.Join(dir, name)); err != nil || !durable {
		return err
	}
	return fsys.SyncDir(dir)
}

// ReadWhole reads a small file of at most limit bytes. ok is false if it is not there.
func ReadWhole(fsys FS, name string, limit int64) (data []byte, ok bool, err error) {
	f, err := fsys.Open(name, ReadOnly)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, false, err
	}
	if size > limit {
		return nil, false, fmt.Errorf("%s has %d bytes, more than the %d it can have", name, size, limit)
	}
	data = make([]byte, size)
	if n, err := f.ReadAt(data, 0); int64(n) < size {
		return nil, false, fmt.Errorf("read %s: %w", name, err)
	}
	return data, true, nil
}
