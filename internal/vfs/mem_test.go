package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
)

// Every kind of loss that the contract allows must really happen, else tests on Mem prove nothing.
func TestCrashShowsEveryKindOfLoss(t *testing.T) {
	page := func(c string) string { return strings.Repeat(c, pageSize) }
	zeros := page("\x00")
	seen := map[string]int{}
	see := func(kind string, is bool) {
		if is {
			seen[kind]++
		} else {
			seen[kind] += 0
		}
	}
	for seed := range 1500 {
		s := everythingPending(t, page).Crash(seeded(seed))
		old := page("o") + page("o")
		got, _ := get(t, s, "/d/append")
		see("append lost", got == old)
		see("append kept", got == old+page("a")+page("b"))
		see("hole of zeros", got == old+zeros+page("b"))
		see("size kept, all data lost", got == old+zeros+zeros)
		see("second append's data lost", got == old+page("a")+zeros)
		see("second append's size lost", got == old+page("a"))
		got, _ = get(t, s, "/d/over")
		see("one page of a write lost", got == page("o")+page("n"))
		see("other page of a write lost", got == page("n")+page("o"))
		see("head of a torn page", got[:sectorSize] != got[pageSize-sectorSize:pageSize] && got[0] == 'n')
		see("tail of a torn page", got[:sectorSize] != got[pageSize-sectorSize:pageSize] && got[0] == 'o')
		got, _ = get(t, s, "/d/cut")
		see("truncation lost", got == old)
		see("truncation kept", got == page("o"))
		see("truncation lost, growth kept", got == old+zeros)
		see("truncation and growth kept", got == page("o")+zeros+zeros)
		_, ok := get(t, s, "/d/fresh")
		see("new name lost with its synced data", !ok)
		see("new name kept", ok)
		got, _ = get(t, s, "/d/target")
		_, tmp := get(t, s, "/d/tmp")
		if got != old && got != "new" || tmp != (got == old) {
			t.Fatalf("seed %d: rename is not atomic: target %.9q, temporary there: %v", seed, got, tmp)
		}
		see("rename lost", got == old)
		see("rename kept", got == "new")
		_, ok = get(t, s, "/d/gone")
		see("remove lost", ok)
		see("remove kept", !ok)
		_, inD := get(t, s, "/d/moving")
		_, inE := get(t, s, "/e/moving")
		if !inD && !inE {
			t.Fatalf("seed %d: a moved file is nowhere", seed)
		}
		see("move lost", inD && !inE)
		see("move kept", !inD && inE)
		see("moved file has both names", inD && inE)
		_, err := s.Stat("/d/sub")
		see("directory vanished with its content", errors.Is(err, fs.ErrNotExist))
		see("directory kept", err == nil)
	}
	for kind, n := range seen {
		if n < 3 {
			t.Errorf("%s: seen %d times", kind, n)
		}
	}
}

// everythingPending is a disk with every kind of change that is not durable.
func everythingPending(t *testing.T, page func(string) string) *Mem {
	m := NewMem()
	check(t, m.MkdirAll("/d"))
	check(t, m.MkdirAll("/e"))
	check(t, m.SyncDir("/"))
	for _, name := range []string{"append", "over", "cut", "target", "gone", "moving", "tmp"} {
		f := open(t, m, "/d/"+name, Create)
		write(t, f, page("o")+page("o"), 0)
		check(t, f.Sync())
	}
	check(t, m.SyncDir("/d"))

	app := open(t, m, "/d/append", ReadWrite)
	write(t, app, page("a"), 2*pageSize)
	write(t, app, page("b"), 3*pageSize)
	over := open(t, m, "/d/over", ReadWrite)
	write(t, over, page("n")+page("n"), 0)
	cut := open(t, m, "/d/cut", ReadWrite)
	check(t, cut.Truncate(pageSize))
	write(t, cut, "x", 3*pageSize-1)
	fresh := open(t, m, "/d/fresh", CreateNew)
	write(t, fresh, "fresh", 0)
	check(t, fresh.Sync())
	put(t, m, "/d/tmp", "new")
	check(t, open(t, m, "/d/tmp", ReadWrite).Sync())
	check(t, m.Rename("/d/tmp", "/d/target"))
	check(t, m.Remove("/d/gone"))
	check(t, m.Rename("/d/moving", "/e/moving"))
	check(t, m.MkdirAll("/d/sub"))
	put(t, m, "/d/sub/f", "x")
	check(t, m.SyncDir("/d/sub"))
	return m
}

func TestSyncOfOneDirectoryLeavesTheOtherHalfOfAMoveOpen(t *testing.T) {
	for _, tc := range []struct {
		sync       string
		both, last int // lists of allowed survivors as "in d"+"in e" bits: 1 d, 2 e, 3 both
	}{{"/e", 3, 2}, {"/d", 2, 2}} {
		seen := map[int]bool{}
		m := NewMem()
		check(t, m.MkdirAll("/d"))
		check(t, m.MkdirAll("/e"))
		put(t, m, "/d/f", "")
		check(t, m.SyncDir("/"))
		check(t, m.SyncDir("/d"))
		check(t, m.Rename("/d/f", "/e/f"))
		check(t, m.SyncDir(tc.sync))
		for seed := range 200 {
			s, is := m.Crash(seeded(seed)), 0
			if _, ok := get(t, s, "/d/f"); ok {
				is |= 1
			}
			if _, ok := get(t, s, "/e/f"); ok {
				is |= 2
			}
			seen[is] = true
			if is == 3 { // one file with two names
				put(t, s, "/d/f", "one")
				if got, _ := get(t, s, "/e/f"); got != "one" {
					t.Fatal("two names of a file became two files")
				}
				check(t, s.Rename("/d/f", "/e/f")) // rename(2): does nothing then
			}
		}
		if !seen[tc.both] || !seen[tc.last] || seen[1] || seen[0] {
			t.Errorf("after SyncDir(%s): %v", tc.sync, seen)
		}
	}
}

func TestAfterPowerLossEverythingFails(t *testing.T) {
	for name, end := range map[string]func(*Mem){
		"Crash": func(m *Mem) { m.Crash(seeded(1)) },
		"Clone": func(m *Mem) { m.Clone() },
		"PowerLossAfter": func(m *Mem) {
			m.PowerLossAfter(1)
			wantErr(t, m.MkdirAll("/x"), ErrPowerLoss, "/x")
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := NewMem()
			f := open(t, m, "/f", Create)
			l, err := m.Lock("/lock")
			check(t, err)
			end(m)
			var p [1]byte
			for what, do := range map[string]func() error{
				"Open":      func() error { _, err := m.Open("/f", ReadOnly); return err },
				"MkdirAll":  func() error { return m.MkdirAll("/f") },
				"ReadDir":   func() error { _, err := m.ReadDir("/f"); return err },
				"Stat":      func() error { _, err := m.Stat("/f"); return err },
				"Rename":    func() error { return m.Rename("/f", "/f") },
				"Remove":    func() error { return m.Remove("/f") },
				"SyncDir":   func() error { return m.SyncDir("/f") },
				"Lock":      func() error { _, err := m.Lock("/f"); return err },
				"Space":     func() error { _, err := m.Space("/f"); return err },
				"unlock":    func() error { return l.Close() },
				"ReadAt":    func() error { _, err := f.ReadAt(p[:], 0); return err },
				"TryReadAt": func() error { _, err := f.TryReadAt(p[:], 0); return err },
				"WriteAt":   func() error { _, err := f.WriteAt(p[:], 0); return err },
				"WriteVec":  func() error { _, err := f.WriteVec([][]byte{p[:]}, 0); return err },
				"Size":      func() error { _, err := f.Size(); return err },
				"Truncate":  func() error { return f.Truncate(0) },
				"Sync":      func() error { return f.Sync() },
				"Close":     func() error { return f.Close() },
			} {
				if err := do(); !errors.Is(err, ErrPowerLoss) {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}

func TestCloneLosesNothingButTheLocks(t *testing.T) {
	m := NewMem()
	_, err := m.Lock("/lock")
	check(t, err)
	put(t, m, "/f", "unsynced")
	c := m.Clone()
	if got, _ := get(t, c, "/f"); got != "unsynced" {
		t.Errorf("after kill -9: %q", got)
	}
	_, err = c.Lock("/lock")
	check(t, err)
	lost := false
	for seed := range 50 {
		_, ok := get(t, c.Crash(seeded(seed)), "/f")
		lost = lost || !ok
	}
	if !lost {
		t.Error("kill -9 made unsynced data durable")
	}
	defer func() {
		if recover() == nil {
			t.Error("a disk that was handed on could be crashed by its old owner")
		}
	}()
	m.Crash(seeded(1))
}

func TestSurvivorsAreIndependent(t *testing.T) {
	m := NewMem()
	f := open(t, m, "/f", Create)
	write(t, f, strings.Repeat("o", 3*pageSize), 0)
	check(t, f.Sync())
	check(t, m.SyncDir("/"))
	a, b := m.Crash(seeded(1)), m.Crash(seeded(2))
	fa := open(t, a, "/f", ReadWrite)
	write(t, fa, "aaaa", 10)
	check(t, fa.Sync())
	write(t, fa, "aaaa", 20)
	check(t, fa.Truncate(pageSize+5))
	check(t, fa.Sync())
	for name, s := range map[string]*Mem{"sibling": b, "later survivor": m.Crash(seeded(3))} {
		if got, _ := get(t, s, "/f"); got != strings.Repeat("o", 3*pageSize) {
			t.Errorf("%s saw a write", name)
		}
	}
}

func TestCrashIsDeterministic(t *testing.T) {
	run := func(seed int) string {
		rnd := seeded(seed)
		m := NewMem()
		for i := range 30 {
			check(t, m.MkdirAll(fmt.Sprintf("/d%d", i%7)))
			put(t, m, fmt.Sprintf("/d%d/f%d", i%7, rnd.IntN(9)), strings.Repeat("x", rnd.IntN(9000)))
			if i%5 == 0 {
				check(t, m.SyncDir("/"))
			}
		}
		return list(t, m.Crash(rnd), "")
	}
	for seed := range 50 {
		if first, second := run(seed), run(seed); first != second {
			t.Fatalf("seed %d gives different survivors", seed)
		}
	}
}

// replace is the classic careful program: a file is replaced as a whole or not at all.
func replace(s FS, data []byte) error {
	f, err := s.Open("/d/tmp", Create)
	if err != nil {
		return err
	}
	defer f.Close()
	for _, do := range []func() error{
		func() error { return f.Truncate(0) },
		func() error { _, err := f.WriteAt(data, 0); return err },
		f.Sync,
		func() error { return s.Rename("/d/tmp", "/d/state") },
		func() error { return s.SyncDir("/d") },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// broken loses power at every single mutation of three replacements, many times, and counts the
// survivors that hold neither the last acknowledged version nor the one under way.
func broken(t *testing.T, opts MemOptions) int {
	bad := 0
	for seed := range 30 {
		for after := 1; ; after++ {
			m := NewMemOptions(opts)
			check(t, m.MkdirAll("/d"))
			m.disk.syncNames(m.disk.root) // given, also to a disk without SyncDir
			m.PowerLossAfter(after)
			acked := 0
			var err error
			for v := 1; v <= 3 && err == nil; v++ {
				if err = replace(m, bytes.Repeat([]byte{byte('0' + v)}, 9000+100*v)); err == nil {
					acked = v
				} else if !errors.Is(err, ErrPowerLoss) {
					t.Fatal(err)
				}
			}
			got, _ := get(t, m.Crash(seeded(seed)), "/d/state")
			ok := acked == 0 && got == ""
			for v := max(acked, 1); v <= acked+1; v++ {
				ok = ok || got == strings.Repeat(string(rune('0'+v)), 9000+100*v)
			}
			if !ok {
				bad++
			}
			if err == nil {
				if after-1 != int(m.Mutations())-1 { // all of them were tried, but the mkdir
					t.Fatalf("%d operations, %d mutations", after-1, m.Mutations())
				}
				break
			}
		}
	}
	return bad
}

func TestPowerLossAtEveryMutation(t *testing.T) {
	if n := broken(t, MemOptions{}); n > 0 {
		t.Errorf("a careful program lost or mixed its state %d times", n)
	}
	for name, opts := range map[string]MemOptions{
		"IgnoreSync":    {IgnoreSync: true},
		"IgnoreSyncDir": {IgnoreSyncDir: true},
		"TornRename":    {TornRename: true},
	} {
		if broken(t, opts) == 0 {
			t.Errorf("%s went unnoticed", name)
		}
	}
}

// The operation that meets the power loss may have had its effect, or part of it.
func TestPowerLossLeavesAnyPartOfTheStruckOperation(t *testing.T) {
	seen := map[string]bool{}
	m := NewMem()
	f := open(t, m, "/f", Create)
	check(t, m.SyncDir("/"))
	m.PowerLossAfter(5)
	m.PowerLossAfter(0)
	m.PowerLossAfter(1)
	n, err := f.WriteVec([][]byte{bytes.Repeat([]byte{'x'}, pageSize), bytes.Repeat([]byte{'x'}, pageSize)}, 0)
	if wantErr(t, err, ErrPowerLoss, "/f"); n != 0 {
		t.Errorf("%d bytes", n)
	}
	for seed := range 300 {
		got, _ := get(t, m.Crash(seeded(seed)), "/f")
		seen[fmt.Sprint(len(got), strings.Count(got, "x"))] = true
	}
	for _, want := range []string{"0 0", "8192 0", "8192 4096", "8192 8192"} {
		if !seen[want] {
			t.Errorf("never seen: %s", want)
		}
	}
}

// What a power loss test of a log costs: 4 MB appended in small synced batches.
func BenchmarkMemLogAndCrash(b *testing.B) {
	batch := bytes.Repeat([]byte{'x'}, 4000)
	for i := 0; b.Loop(); i++ {
		m := NewMem()
		f := open(b, m, "/f", Create)
		check(b, m.SyncDir("/"))
		for k := range 1000 {
			if _, err := f.WriteAt(batch, int64(k*len(batch))); err != nil {
				b.Fatal(err)
			}
			if k%10 == 0 {
				check(b, f.Sync())
			}
		}
		m.Crash(seeded(i))
	}
}

// TestMemIsFull: a write without room changes nothing, one into pages that are there goes on, and removing makes room.
func TestMemIsFull(t *testing.T) {
	m := NewMemOptions(MemOptions{TotalBytes: 10 * pageSize})
	f := open(t, m, "/f", Create)
	defer f.Close()
	check(t, Allocate(f, 8*pageSize))
	put(t, m, "/foreign", "x")
	if s, err := m.Space("/"); err != nil || s != (Space{FreeBytes: pageSize, TotalBytes: 10 * pageSize}) {
		t.Fatalf("%+v, %v", s, err)
	}
	two := make([]byte, 2*pageSize)
	if _, err := f.WriteAt(two, 8*pageSize); !IsNoSpace(err) {
		t.Errorf("a write of two pages where one is free: %v", err)
	}
	if size, _ := f.Size(); size != 8*pageSize {
		t.Errorf("it left %d bytes", size)
	}
	write(t, f, "again", 0)
	check(t, m.Remove("/foreign"))
	if _, err := f.WriteAt(two, 8*pageSize); err != nil {
		t.Error(err)
	}
}
