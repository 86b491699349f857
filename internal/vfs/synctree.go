package vfs

import (
	"errors"
	"io/fs"
	"path"
)

// syncTree is SyncTree where the platform has no call for it. What is removed or renamed by others meanwhile is left out.
func syncTree(fsys FS, dir string) error {
	infos, err := fsys.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, info := range infos {
		name := path.Join(dir, info.Name)
		if info.IsDir {
			err = syncTree(fsys, name)
		} else {
			err = syncNamed(fsys, name)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return fsys.SyncDir(dir)
}

func syncNamed(fsys FS, name string) error {
	f, err := fsys.Open(name, ReadWrite)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
