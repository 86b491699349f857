package vfs

import "path"

// MkdirAllSync makes dir and its parents, and makes the names of those it made, and of
// dir itself, durable: a directory that an earlier process made may not be.
func MkdirAllSync(fsys FS, dir string) error {
	dir = path.Clean(dir)
	parents := []string{path.Dir(dir)}
	for p := path.Dir(dir); p != path.Dir(p); p = path.Dir(p) {
		if _, err := fsys.Stat(p); err == nil {
			break
		}
		parents = append(parents, path.Dir(p))
	}
	if err := fsys.MkdirAll(dir); err != nil {
		return err
	}
	for i := len(parents) - 1; i >= 0; i-- {
		if err := fsys.SyncDir(parents[i]); err != nil {
			return err
		}
	}
	return nil
}
