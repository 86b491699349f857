package storage

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"moldau/internal/vfs"
	"moldau/internal/wire"
)

func freshID() (id wire.UUID) {
	for i := range id {
		id[i] = byte(rand.Uint32())
	}
	id[0] = 0x11
	return id
}

func tryDirs(fsys vfs.FS, paths ...string) (*Dirs, *bytes.Buffer, error) {
	out := new(bytes.Buffer)
	ds, err := OpenDirs(DirsOptions{Options: Options{FS: fsys, MetaDir: "/meta", Log: slog.New(slog.NewTextHandler(out, nil))},
		Paths: paths, NodeID: 1, NewID: freshID})
	if err == nil {
		err = ds.SetIdentity("cluster", 1)
	}
	return ds, out, err
}

func openDirs(t *testing.T, fsys vfs.FS, paths ...string) (*Dirs, *bytes.Buffer) {
	t.Helper()
	ds, out, err := tryDirs(fsys, paths...)
	if err != nil {
		t.Fatal(err)
	}
	return ds, out
}

// tpOf names partition i.
func tpOf(i int) TopicPartition { return TopicPartition{"events", int32(i)} }

func (ds *Dirs) mustOpen(t *testing.T, i int, assigned wire.UUID) *Log {
	t.Helper()
	l, err := ds.OpenLog(tpOf(i), testID, assigned, testConfig(), func() {})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (ds *Dirs) mustClose(t *testing.T) {
	t.Helper()
	if err := ds.Close(); err != nil {
		t.Error(err)
	}
}

// spread makes partitions 0, 1 and 2 in /m/a, /m/b and /m/c, with 3, 4 and 5 batches, and stops.
func spread(t *testing.T, fsys vfs.FS) {
	t.Helper()
	ds, _ := openDirs(t, fsys, "/m/a", "/m/b", "/m/c")
	for i, d := range ds.All() {
		l := ds.mustOpen(t, i, d.identity.DirectoryID)
		fillLog(t, d, l, 3+i)
	}
	ds.mustClose(t)
}

// TestPlacement: a partition without data goes where it was assigned to, if that is online, else where the fewest are; and what differs
// from the assignment is told.
func TestPlacement(t *testing.T) {
	var bad atomic.Bool
	fsys := vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		if bad.Load() && strings.HasPrefix(op.Name, "/m/b") && op.Kind == vfs.OpSync {
			return syscall.EIO
		}
		return nil
	})
	ds, _ := openDirs(t, fsys, "/m/a", "/m/b", "/m/c")
	defer ds.Close()
	a, b := ds.All()[0], ds.All()[1]
	for i := range 9 {
		ds.mustOpen(t, i, wire.UUID{})
	}
	for _, d := range ds.All() {
		if n := d.logCount(); n != 3 {
			t.Errorf("%s has %d partitions", d.path, n)
		}
	}
	if n := len(ds.TakePlacements()); n != 9 {
		t.Errorf("%d placements were told", n)
	}
	for i := range 4 {
		if l := ds.mustOpen(t, 10+i, a.identity.DirectoryID); l.Dir() != a {
			t.Errorf("assigned to %s, is in %s", a.path, l.Dir().path)
		}
	}
	if n := len(ds.TakePlacements()); n != 0 {
		t.Errorf("%d placements were told", n)
	}
	<-ds.News()

	bad.Store(true)
	l := ds.mustOpen(t, 20, b.identity.DirectoryID)
	if _, err := l.Append(batch(t, "x"), AppendOptions{}); err == nil {
		waitFlushed(t, b, l)
	}
	if b.Err() == nil || ds.Err() != nil || len(ds.Online()) != 2 {
		t.Errorf("%v, %v, %d online", b.Err(), ds.Err(), len(ds.Online()))
	}
	<-ds.News()
	for i := range 6 {
		l := ds.mustOpen(t, 30+i, b.identity.DirectoryID)
		if l.Dir() == b {
			t.Error("a partition was placed in a log dir that is offline")
		}
		fillLog(t, l.Dir(), l, 2)
		if l.Flushed() != 2 {
			t.Error("the other log dirs do not go on")
		}
	}
	if n := len(ds.TakePlacements()); n != 6 {
		t.Errorf("%d placements were told", n)
	}
	if _, err := l.Append(batch(t, "x"), AppendOptions{}); !errors.Is(err, ErrOffline) {
		t.Error(err)
	}
}

// TestAbsentDir is S9 over several log dirs: whatever becomes of a log dir, its partitions are there as they were or offline, and
// never empty; the others go on; and when it is back they are back.
func TestAbsentDir(t *testing.T) {
	mv := func(t *testing.T, mem *vfs.Mem, from, to string) {
		t.Helper()
		if err := mem.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	mkdir := func(t *testing.T, mem *vfs.Mem, dir string) {
		t.Helper()
		if err := mem.MkdirAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		change func(t *testing.T, mem *vfs.Mem)
		dirs   []string
		rule   func(op vfs.Op) error
		gone   []int    // partitions that are offline
		want   []string // in their errors and in the log
		back   func(t *testing.T, mem *vfs.Mem)
	}{
		"reordered": {dirs: []string{"/m/c", "/m/b", "/m/a"}},
		"moved":     {change: func(t *testing.T, mem *vfs.Mem) { mv(t, mem, "/m/b", "/m/x") }, dirs: []string{"/m/a", "/m/x", "/m/c"}, back: func(t *testing.T, mem *vfs.Mem) { mv(t, mem, "/m/x", "/m/b") }},
		"swapped": {change: func(t *testing.T, mem *vfs.Mem) {
			mv(t, mem, "/m/a", "/m/x")
			mv(t, mem, "/m/b", "/m/a")
			mv(t, mem, "/m/x", "/m/b")
		},
			dirs: []string{"/m/a", "/m/b", "/m/c"}},
		"removed from the list":                   {dirs: []string{"/m/a", "/m/c"}, gone: []int{1}, want: []string{"/m/b", "not in log.dirs", "name it there again"}},
		"removed from the list and another added": {dirs: []string{"/m/a", "/m/d", "/m/c"}, gone: []int{1}, want: []string{"/m/b", "not in log.dirs"}},
		"an empty mount point": {change: func(t *testing.T, mem *vfs.Mem) { mv(t, mem, "/m/b", "/away"); mkdir(t, mem, "/m/b") }, dirs: []string{"/m/a", "/m/b", "/m/c"},
			gone: []int{1}, want: []string{"/m/b", "has no meta.properties", "mount its disk", "lost for good"},
			back: func(t *testing.T, mem *vfs.Mem) {
				if err := mem.Remove("/m/b"); err != nil {
					t.Fatal(err) // whatever was made in the mount point would be in the way
				}
				mv(t, mem, "/away", "/m/b")
			}},
		"not even a mount point": {change: func(t *testing.T, mem *vfs.Mem) { mv(t, mem, "/m/b", "/away") }, dirs: []string{"/m/a", "/m/b", "/m/c"},
			gone: []int{1}, want: []string{"/m/b", "mount its disk"}, back: func(t *testing.T, mem *vfs.Mem) { mv(t, mem, "/away", "/m/b") }},
		"unreadable": {dirs: []string{"/m/a", "/m/b", "/m/c"}, gone: []int{1}, want: []string{"/m/b", "input/output error"}, rule: func(op vfs.Op) error {
			if strings.HasPrefix(op.Name, "/m/b") {
				return syscall.EIO
			}
			return nil
		}},
		"not writable": {dirs: []string{"/m/a", "/m/b", "/m/c"}, gone: []int{1}, want: []string{"/m/b", "read-only file system"}, rule: func(op vfs.Op) error {
			if strings.HasPrefix(op.Name, "/m/b") && (op.Kind == vfs.OpLock || op.Kind == vfs.OpWrite || op.Kind == vfs.OpRemove) {
				return syscall.EROFS
			}
			return nil
		}},
		"damaged meta.properties": {change: func(t *testing.T, mem *vfs.Mem) {
			mv(t, mem, "/m/b/meta.properties", "/kept")
			if err := writeAtomic(mem, "/m/b", "meta.properties", []byte("version=1\n")); err != nil {
				t.Fatal(err)
			}
		}, dirs: []string{"/m/a", "/m/b", "/m/c"}, gone: []int{1}, want: []string{"/m/b", "meta.properties is damaged", "restore it"},
			back: func(t *testing.T, mem *vfs.Mem) { mv(t, mem, "/kept", "/m/b/meta.properties") }},
		"the partition's directory is gone": {change: func(t *testing.T, mem *vfs.Mem) { mv(t, mem, "/m/b/events-1", "/away") }, dirs: []string{"/m/a", "/m/b", "/m/c"},
			gone: []int{1}, want: []string{"/m/b/events-1", "bring the directory back"}, back: func(t *testing.T, mem *vfs.Mem) { mv(t, mem, "/away", "/m/b/events-1") }},
		"the partition's directory was moved": {change: func(t *testing.T, mem *vfs.Mem) { mv(t, mem, "/m/b/events-1", "/m/c/events-1") }, dirs: []string{"/m/a", "/m/b", "/m/c"},
			gone: []int{1}, want: []string{"/m/b/events-1", "/m/c has a directory of that name"}, back: func(t *testing.T, mem *vfs.Mem) { mv(t, mem, "/m/c/events-1", "/m/b/events-1") }},
		"two are gone": {dirs: []string{"/m/c"}, gone: []int{0, 1}, want: []string{"not in log.dirs"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mem := vfs.NewMem()
			spread(t, mem)
			if tt.change != nil {
				tt.change(t, mem)
			}
			rule := tt.rule
			if rule == nil {
				rule = func(vfs.Op) error { return nil }
			}
			ds, out := openDirs(t, vfs.NewFault(mem, rule), tt.dirs...)
			for i := range 3 {
				l, err := ds.OpenLog(tpOf(i), testID, wire.UUID{}, testConfig(), func() {})
				if !slices.Contains(tt.gone, i) {
					if err != nil || l.End() != int64(3+i) {
						t.Errorf("partition %d: %v", i, err)
					} else if _, err := l.Append(batch(t, "goes on"), AppendOptions{LeaderEpoch: 3}); err != nil {
						t.Errorf("partition %d: %v", i, err)
					}
					continue
				}
				if err == nil {
					t.Fatalf("partition %d begins anew in %s", i, l.Dir().path)
				}
				if !errors.Is(err, ErrOffline) && !errors.Is(err, ErrMissing) {
					t.Errorf("partition %d: %v", i, err)
				}
				for _, w := range tt.want {
					if !strings.Contains(err.Error(), w) {
						t.Errorf("%q does not say %q", err, w)
					}
					if errors.Is(err, ErrOffline) && !strings.Contains(out.String(), w) {
						t.Errorf("the log does not say %q:\n%s", w, out)
					}
				}
			}
			// A partition without data is nobody's.
			l := ds.mustOpen(t, 7, wire.UUID{})
			fillLog(t, l.Dir(), l, 1)
			ds.mustClose(t)

			if tt.back != nil {
				tt.back(t, mem)
			}
			all := []string{"/m/a", "/m/b", "/m/c"}
			if l.Dir().path == "/m/d" {
				all = append(all, "/m/d")
			}
			ds, _ = openDirs(t, mem, all...)
			defer ds.mustClose(t)
			for i := range 3 {
				l := ds.mustOpen(t, i, wire.UUID{})
				want := int64(4 + i)
				if slices.Contains(tt.gone, i) {
					want--
				}
				if l.End() != want {
					t.Errorf("partition %d ends at %d, not at %d", i, l.End(), want)
				}
			}
		})
	}
}

// TestTwoDirectories: of two directories of a partition the recorded one is served; if neither or both are, none is, and nothing is deleted.
func TestTwoDirectories(t *testing.T) {
	copyDir := func(mem *vfs.Mem, from, to string) {
		if err := mem.MkdirAll(to); err != nil {
			t.Fatal(err)
		}
		infos, err := mem.ReadDir(from)
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range infos {
			text, _, err := readFile(mem, path.Join(from, info.Name), 1<<20)
			if err == nil {
				err = writeAtomic(mem, to, info.Name, text)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	mem := vfs.NewMem()
	spread(t, mem)
	copyDir(mem, "/m/b/events-1", "/m/a/events-1")
	ds, _ := openDirs(t, mem, "/m/a", "/m/b", "/m/c")
	l := ds.mustOpen(t, 1, wire.UUID{})
	if l.Path() != "/m/b/events-1" {
		t.Error(l.Path())
	}
	fillLog(t, l.Dir(), l, 1)
	ds.mustClose(t)

	if err := mem.Rename("/meta/dirs", "/meta/moved-away"); err != nil {
		t.Fatal(err)
	}
	ds, _ = openDirs(t, mem, "/m/a", "/m/b", "/m/c")
	if _, err := ds.OpenLog(tpOf(1), testID, wire.UUID{}, testConfig(), func() {}); err == nil || !strings.Contains(err.Error(), "both /m/a and /m/b have a directory of it") {
		t.Error(err)
	}
	if l := ds.mustOpen(t, 2, wire.UUID{}); l.End() != 5 || l.Path() != "/m/c/events-2" {
		t.Error(l.End(), l.Path())
	}
	// Both recorded: as after a manifest of another time was put back.
	for _, d := range ds.All()[:2] {
		if err := d.manifest.add(kindPresent, partitionKey{testID, 1}, tpOf(1), nil, true); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ds.OpenLog(tpOf(1), testID, wire.UUID{}, testConfig(), func() {}); err == nil || !strings.Contains(err.Error(), "all say that they have its data") {
		t.Error(err)
	}
	ds.mustClose(t)
	for _, dir := range []string{"/m/a/events-1", "/m/b/events-1"} {
		if !exists(mem, dir) {
			t.Errorf("%s is gone", dir)
		}
	}
}

// TestForeignDirs: what does not belong together is refused, and no log dir is changed.
func TestForeignDirs(t *testing.T) {
	for name, tt := range map[string]struct {
		b    string // meta.properties of /m/b
		want string
	}{
		"another node":    {"version=1\ncluster.id=cluster\nnode.id=2\ndirectory.id=AAAAAAAAAAAAAAAAAAAABw\n", "log dir /m/b belongs to node 2, this is node 1"},
		"another cluster": {"version=1\ncluster.id=other\nnode.id=1\ndirectory.id=AAAAAAAAAAAAAAAAAAAABw\n", "log dir /m/b belongs to cluster other, but /m/a to cluster cluster"},
		"a copy":          {"", "log dirs /m/a and /m/b have the same directory.id"},
	} {
		mem := vfs.NewMem()
		spread(t, mem)
		if tt.b == "" {
			text, _, err := readFile(mem, "/m/a/meta.properties", 1000)
			if err != nil {
				t.Fatal(err)
			}
			tt.b = string(text)
		}
		if err := writeAtomic(mem, "/m/b", "meta.properties", []byte(tt.b)); err != nil {
			t.Fatal(err)
		}
		before := mem.Mutations()
		if _, _, err := tryDirs(mem, "/m/a", "/m/b", "/m/c"); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if mem.Mutations() != before {
			t.Errorf("%s: something was changed", name)
		}
	}
	// One that another process has is refused too: the others would be half of a broker.
	mem := vfs.NewMem()
	spread(t, mem)
	lock, err := mem.Lock("/m/b/.lock")
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	var locked *vfs.LockedError
	if _, _, err := tryDirs(mem, "/m/a", "/m/b", "/m/c"); !errors.As(err, &locked) {
		t.Error(err)
	}
	ds, _ := openDirs(t, mem, "/m/a", "/m/c") // which were let go of
	ds.mustClose(t)
	// All of them offline is an error that says why.
	_, _, err = tryDirs(vfs.NewFault(mem, func(op vfs.Op) error {
		if strings.HasPrefix(op.Name, "/m/") {
			return syscall.EIO
		}
		return nil
	}), "/m/a", "/m/c")
	if !errors.Is(err, ErrOffline) || !strings.Contains(err.Error(), "/m/a: the log dir is offline") || !strings.Contains(err.Error(), "/m/c: the log dir is offline") {
		t.Error(err)
	}
}

// TestManifestOfOneDir: what was written when there was one log dir is taken over by it, wherever it stands in log.dirs now, whenever the power goes.
func TestManifestOfOneDir(t *testing.T) {
	id := freshID()
	old := func() *vfs.Mem {
		mem := vfs.NewMem()
		d, err := OpenDir(Options{FS: mem, Path: "/m/a", MetaDir: "/meta"})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.SetIdentity(Identity{"cluster", 1, id}); err != nil {
			t.Fatal(err)
		}
		l, err := d.OpenLog(tpOf(0), testID, testConfig(), func() {})
		if err != nil {
			t.Fatal(err)
		}
		fillLog(t, d, l, 5)
		mustClose(t, d)
		return mem
	}
	for after := 1; ; after++ {
		mem := old()
		begun := mem.Mutations()
		mem.PowerLossAfter(after)
		if ds, _, err := tryDirs(mem, "/m/b", "/m/a"); ds != nil {
			if err == nil {
				_, _ = ds.OpenLog(tpOf(0), testID, id, testConfig(), func() {})
			}
			_ = ds.Close()
		}
		done := mem.Mutations()-begun < int64(after)
		mem = mem.Crash(rand.New(rand.NewPCG(uint64(after), 1)))
		for range 2 {
			ds, _ := openDirs(t, mem, "/m/b", "/m/a")
			l := ds.mustOpen(t, 0, id)
			if l.End() != 5 || l.Path() != "/m/a/events-0" {
				t.Fatalf("power loss after %d changes: the log ends at %d in %s", after, l.End(), l.Path())
			}
			if e := ds.All()[1].manifest.entry(partitionKey{testID, 0}); e == nil || e.point == nil {
				t.Fatalf("power loss after %d changes: the recovery point is forgotten", after)
			}
			if exists(mem, "/meta/manifest") {
				t.Fatalf("power loss after %d changes: the old name is still there", after)
			}
			ds.mustClose(t)
		}
		if done {
			break
		}
	}

	// Without the log dir that it is of nobody may start: its partitions would begin anew.
	if _, _, err := tryDirs(old(), "/m/b"); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "start once with only the log dir that the broker had") {
		t.Error(err)
	}
	empty := old()
	if err := empty.Rename("/m/a", "/away"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := tryDirs(empty, "/m/a"); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
	// One partition's directory is gone: that is for the partition to say.
	lost := old()
	if err := lost.Rename("/m/a/events-0", "/away"); err != nil {
		t.Fatal(err)
	}
	ds, _ := openDirs(t, lost, "/m/a")
	defer ds.mustClose(t)
	if _, err := ds.OpenLog(tpOf(0), testID, id, testConfig(), func() {}); !errors.Is(err, ErrMissing) {
		t.Error(err)
	}
}

// TestKafkasDirWithoutID: a log dir from before Kafka gave ids to log dirs gets one, and keeps it.
func TestKafkasDirWithoutID(t *testing.T) {
	mem := vfs.NewMem()
	if err := vfs.MkdirAllSync(mem, "/m/a"); err != nil {
		t.Fatal(err)
	}
	if err := writeAtomic(mem, "/m/a", "meta.properties", []byte("version=1\ncluster.id=cluster\nnode.id=1\n")); err != nil {
		t.Fatal(err)
	}
	var ids []wire.UUID
	for range 2 {
		ds, _ := openDirs(t, mem, "/m/a")
		ids = append(ids, ds.Online()...)
		ds.mustClose(t)
	}
	if len(ids) != 2 || ids[0] != ids[1] || ids[0].IsZero() {
		t.Error(ids)
	}
}

// TestFailedStartsLeaveNothing: a start that fails before the log dir has its name leaves no record that counts.
func TestFailedStartsLeaveNothing(t *testing.T) {
	mem := vfs.NewMem()
	for range 5 {
		ds, err := OpenDirs(DirsOptions{Options: Options{FS: mem, MetaDir: "/meta"}, Paths: []string{"/m/a"}, NodeID: 1, NewID: freshID})
		if err != nil {
			t.Fatal(err)
		}
		ds.mustClose(t)
	}
	infos, err := mem.ReadDir("/meta/dirs")
	if err != nil || len(infos) != 1 {
		t.Errorf("%d records, %v", len(infos), err)
	}
}

func TestFindMetaDir(t *testing.T) {
	dirs := []string{"/m/a", "/m/b", "/m/c"}
	places := []string{"/m/a/.moldau", "/m/b/.moldau", "/m/c/.moldau"}
	for name, tt := range map[string]struct {
		there  []string // names that exist
		broken string   // cannot be asked
		want   string
		err    string
	}{
		"nothing there":              {nil, "", "/m/a/.moldau", ""},
		"in the first":               {[]string{"/m/a/.moldau", "/m/a/meta.properties", "/m/b/meta.properties"}, "", "/m/a/.moldau", ""},
		"in the last":                {[]string{"/m/c/.moldau", "/m/c/meta.properties"}, "", "/m/c/.moldau", ""},
		"in the last, one is broken": {[]string{"/m/c/.moldau"}, "/m/a", "/m/c/.moldau", ""},
		"in two":                     {[]string{"/m/c/.moldau", "/m/b/.moldau"}, "", "", "several metadata directories, /m/b/.moldau and /m/c/.moldau"},
		"formatted by Kafka":         {[]string{"/m/a/meta.properties", "/m/b/meta.properties", "/m/c/meta.properties"}, "", "/m/a/.moldau", ""},
		"a disk is not mounted":      {[]string{"/m/b/meta.properties", "/m/c/meta.properties"}, "", "", "/m/b, /m/c was used by a broker before, /m/a was not: mount the disk"},
		"a disk cannot be read":      {[]string{"/m/b/meta.properties"}, "/m/a", "", "not all of them can be read"},
	} {
		mem := vfs.NewMem()
		for _, n := range tt.there {
			if err := mem.MkdirAll(n); err != nil {
				t.Fatal(err)
			}
		}
		got, err := FindMetaDir(vfs.NewFault(mem, func(op vfs.Op) error {
			if tt.broken != "" && strings.HasPrefix(op.Name, tt.broken) {
				return syscall.EIO
			}
			return nil
		}), places, dirs)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// TestSetAsideOnAnotherVolume: the quarantine may be on another volume than the log dir, where nothing can be renamed to.
func TestSetAsideOnAnotherVolume(t *testing.T) {
	mem := vfs.NewMem()
	d, err := OpenDir(Options{MetaDir: "/meta", Path: "/m/a", FS: vfs.NewFault(mem, func(op vfs.Op) error {
		if op.Kind == vfs.OpRename && strings.HasPrefix(op.Name, "/m/a") != strings.HasPrefix(op.To, "/m/a") {
			return syscall.EXDEV
		}
		return nil
	})})
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, d)
	text := bytes.Repeat([]byte("segment "), 100_000)
	if err := writeAtomic(mem, "/m/a", "x.log", text); err != nil {
		t.Fatal(err)
	}
	to, err := d.setAside("/m/a/x.log", "events-0.x.log")
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := readFile(mem, to, 1<<20)
	if err != nil || !bytes.Equal(got, text) || exists(mem, "/m/a/x.log") {
		t.Errorf("%d bytes of %d, %v", len(got), len(text), err)
	}
}

// TestDirsModel: partitions in two log dirs, random appends, stops, power losses, and starts with the log dirs in another order, one of them
// away, or one more. What was flushed is there, or its log dir is away.
func TestDirsModel(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			runDirsModel(t, rand.New(rand.NewPCG(seed, 2)))
		})
	}
}

func powerless(mem *vfs.Mem) bool {
	_, err := mem.Stat("/")
	return errors.Is(err, vfs.ErrPowerLoss)
}

func runDirsModel(t *testing.T, rnd *rand.Rand) {
	const partitions = 6
	mem := vfs.NewMem()
	paths := []string{"/m/a", "/m/b"}
	flushed := make([]int64, partitions) // what must be there
	home := make([]string, partitions)   // the log dir that has it, or may have something of it; "" while there is no data
	for life := range 10 {
		list := slices.Clone(paths)
		rnd.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		switch {
		case life > 0 && rnd.IntN(3) == 0:
			list = list[1:]
		case len(paths) == 2 && rnd.IntN(4) == 0:
			list, paths = append(list, "/m/c"), append(paths, "/m/c")
		}
		if rnd.IntN(3) == 0 {
			mem.PowerLossAfter(1 + rnd.IntN(40)) // it may go during the start
		}
		ds, _, err := tryDirs(mem, list...)
		logs := make([]*Log, partitions)
		if ds != nil && err == nil {
			for i := range logs {
				logs[i], err = ds.OpenLog(tpOf(i), testID, wire.UUID{}, testConfig(), func() {})
				away := home[i] != "" && !slices.Contains(list, home[i])
				switch {
				case err != nil && (away || powerless(mem)):
				case err != nil:
					t.Fatalf("life %d: %v", life, err)
				case away && flushed[i] > 0:
					t.Fatalf("life %d: partition %d has %d flushed records in %s, and begins anew in %s", life, i, flushed[i], home[i], logs[i].Dir().path)
				case logs[i].End() < flushed[i]:
					t.Fatalf("life %d: partition %d ends at %d, %d were flushed in %s, it is in %s", life, i, logs[i].End(), flushed[i], home[i], logs[i].Dir().path)
				case flushed[i] > 0 && logs[i].Dir().path != home[i]:
					t.Fatalf("life %d: partition %d was in %s, and is in %s", life, i, home[i], logs[i].Dir().path)
				}
			}
		} else if err != nil && !powerless(mem) {
			t.Fatalf("life %d: %v", life, err)
		}
		for range rnd.IntN(40) {
			i := rnd.IntN(partitions)
			if logs[i] == nil {
				continue
			}
			home[i] = logs[i].Dir().path
			_, _ = logs[i].Append(batch(t, "value"), AppendOptions{})
			if rnd.IntN(3) == 0 {
				waitFlushed(t, logs[i].Dir(), logs[i])
			}
			if rnd.IntN(20) == 0 {
				mem.PowerLossAfter(1 + rnd.IntN(10))
			}
		}
		stop := ds != nil && rnd.IntN(2) == 0
		if stop {
			_ = ds.Close() // without power it cannot
		}
		for i, l := range logs {
			if l != nil {
				flushed[i] = max(flushed[i], l.Flushed())
			}
		}
		next := mem.Crash(rnd)
		if ds != nil && !stop {
			_ = ds.Close()
		}
		mem = next
	}
}

// TestDirsHoldUnopened: partitions of several log dirs that nobody opens count where they are, are found there again after a kill, and are
// recovered there.
func TestDirsHoldUnopened(t *testing.T) {
	cfg := testConfig()
	hold := func(ds *Dirs, n int) []*Held {
		t.Helper()
		held := make([]*Held, n)
		for i := range held {
			held[i] = &Held{}
			if err := ds.Hold(held[i], tpOf(i), testID, wire.UUID{}, &cfg, &committer{}); err != nil {
				t.Fatal(err)
			}
		}
		return held
	}
	for _, cleanly := range []bool{false, true} {
		mem := vfs.NewMem()
		ds, _ := openDirs(t, mem, "/m/a", "/m/b")
		first := hold(ds, 6)
		for _, d := range ds.All() {
			if n := d.logCount(); n != 3 {
				t.Errorf("%s has %d partitions", d.path, n)
			}
		}
		if n := len(ds.TakePlacements()); n != 6 {
			t.Errorf("%d placements were told", n)
		}
		for i, h := range first {
			l, err := h.Open()
			if err != nil {
				t.Fatal(err)
			}
			fillLog(t, h.Dir(), l, 2+i)
		}
		toRecover := 6
		if cleanly {
			ds.mustClose(t)
			mem, toRecover = mem.Clone(), 0
		} else {
			killed := mem.Clone()
			ds.Close()
			mem = killed
		}
		ds, _ = openDirs(t, mem, "/m/b", "/m/a")
		held := hold(ds, 5)
		for i, h := range held {
			if h.Dir().path != first[i].Dir().path || h.Log() != nil {
				t.Errorf("partition %d is in %s, was in %s; open: %v", i, h.Dir().path, first[i].Dir().path, h.Log() != nil)
			}
		}
		if found, err := ds.Strays(); err != nil || len(found) != 1 || found[0].TopicPartition != tpOf(5) {
			t.Errorf("strays: %+v, %v", found, err)
		}
		more := &Held{}
		if err := ds.Hold(more, tpOf(5), testID, wire.UUID{}, &cfg, &committer{}); err != nil {
			t.Fatal(err)
		}
		ds.Recover()
		for !ds.Recovery().Ended {
			runtime.Gosched()
		}
		if s := ds.Recovery(); s.Total != toRecover || s.Done != toRecover {
			t.Errorf("recovery: %+v, want %d", s, toRecover)
		}
		for i, h := range append(held, more) {
			if open := h.Log() != nil; open != (toRecover > 0) {
				t.Errorf("partition %d: open is %v", i, open)
			}
			if l, err := h.Open(); err != nil || l.End() != int64(2+i) {
				t.Errorf("partition %d: %v", i, err)
			}
		}
		ds.mustClose(t)
	}
}
