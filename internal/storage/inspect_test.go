package storage

import (
	"context"
	"errors"
	"fmt"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"moldau/internal/vfs"
)

// inspect looks at a log dir and returns what was found, in order.
func inspect(fsys vfs.FS, dir, meta string) ([]Finding, error) {
	var all []Finding
	add := func(f Finding) { all = append(all, f) }
	x, err := NewInspection(fsys, dir, meta, false)
	if err != nil {
		return nil, err
	}
	if err := x.Root(add); err != nil {
		return nil, err
	}
	dirs, _, err := x.Partitions()
	if err != nil {
		return nil, err
	}
	for _, d := range dirs {
		if _, err := x.Partition(context.Background(), d, add); err != nil {
			return nil, err
		}
	}
	SortFindings(all)
	return all, nil
}

// wantClean: whatever the next start sees to is no more than a note.
func wantClean(fsys vfs.FS, dir, meta string) error {
	all, err := inspect(fsys, dir, meta)
	if err != nil {
		return fmt.Errorf("inspection: %w", err)
	}
	for _, f := range all {
		if f.Severity > Note && f.File != dir+"/"+metaPropertiesFile { // the tests here do without
			return fmt.Errorf("inspection: %v: %s at byte %d: %s", f.Severity, f.File, f.Pos, f.What)
		}
	}
	return nil
}

// TestInspectionFindsEveryFlip: one bit of any file that a stopped broker left is flipped. The inspection says something of this file, or of the
// partition; or the log opens as if nothing were, because nobody reads the bit.
func TestInspectionFindsEveryFlip(t *testing.T) {
	rounds, found, unused := int64(150), 0, map[string]int{}
	if testing.Short() {
		rounds = 40
	}
	for seed := int64(1); seed <= rounds; seed++ {
		m := newModel(seed, vfs.MemOptions{})
		if err := m.open(); err != nil {
			t.Fatal(err)
		}
		for range 20 + m.rnd.IntN(80) {
			if err := m.step(); err != nil && !errors.Is(err, ErrNoSpace) {
				t.Fatal(err)
			}
		}
		m.disk.set(false, 0)
		m.safe = m.log.End()
		m.tried = max(m.tried, m.log.Start())
		if err := m.dir.Close(); err != nil {
			t.Fatal(err)
		}
		before, err := inspect(m.mem, "/data/log", "/data/meta")
		if err != nil {
			t.Fatal(err)
		}
		var files []string
		for _, dir := range []string{"/data/log", "/data/log/orders-3", "/data/meta"} {
			infos, err := m.mem.ReadDir(dir)
			if err != nil {
				continue // nothing was appended
			}
			for _, info := range infos {
				if !info.IsDir && info.Size > 0 && info.Name != lockFile && info.Name != cleanShutdownFile && !strings.HasSuffix(info.Name, deletedSuffix) {
					files = append(files, dir+"/"+info.Name)
				}
			}
		}
		for range 30 {
			name := files[m.rnd.IntN(len(files))]
			f, err := m.mem.Open(name, vfs.ReadWrite)
			if err != nil {
				t.Fatal(err)
			}
			size, err := f.Size()
			if err != nil {
				t.Fatal(err)
			}
			at, bit := m.rnd.Int64N(size), byte(1)<<m.rnd.IntN(8)
			flip := func() {
				var b [1]byte
				f.ReadAt(b[:], at)
				b[0] ^= bit
				if _, err := f.WriteAt(b[:], at); err != nil {
					t.Fatal(err)
				}
			}
			flip()
			after, err := inspect(m.mem, "/data/log", "/data/meta")
			if err != nil {
				t.Fatalf("seed %d: bit %#x of byte %d of %s: %v", seed, bit, at, name, err)
			}
			if !reflect.DeepEqual(plain(before), plain(after)) {
				found++
				flip()
				continue
			}
			what := path.Ext(name)
			if what == "" {
				what = path.Base(name)
			}
			unused[what]++
			if err := m.open(); err != nil {
				t.Fatalf("seed %d: bit %#x of byte %d of %s was not seen, and the log opens with %v", seed, bit, at, name, err)
			}
			if err := m.check(); err != nil {
				t.Fatalf("seed %d: bit %#x of byte %d of %s was not seen, and %v", seed, bit, at, name, err)
			}
			m.dir.Close()
			break
		}
	}
	t.Logf("%d flips were found, nobody reads %v", found, unused)
}

// plain leaves out what cannot be compared.
func plain(all []Finding) []Finding {
	all = slices.Clone(all)
	for i := range all {
		all[i].Fix = nil
	}
	return all
}
