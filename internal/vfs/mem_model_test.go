package vfs

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func seeded(seed int) *rand.Rand { return rand.New(rand.NewPCG(uint64(seed), 4711)) }

// fileModel is a file as the contract has it, in the plainest way: bytes, and the list
// of what happened since the last Sync.
type fileModel struct {
	now, durable []byte
	changes      []modelChange
}

type modelChange struct {
	truncate bool
	off, end int // truncate: the new size is off
	value    byte
}

func (m *fileModel) apply(ch modelChange) {
	m.changes = append(m.changes, ch)
	if ch.truncate {
		m.now = append(m.now[:min(ch.off, len(m.now))], make([]byte, max(0, ch.off-len(m.now)))...)
		return
	}
	m.now = append(m.now, make([]byte, max(0, ch.end-len(m.now)))...)
	for i := ch.off; i < ch.end; i++ {
		m.now[i] = ch.value
	}
}

func (m *fileModel) sync() { m.durable, m.changes = slices.Clone(m.now), nil }

// allows says whether a power loss may leave got. Truncations change size and every page
// together, so each choice of them is tried; then size and pages are independent.
func (m *fileModel) allows(got []byte) bool {
	var cuts []int
	for i, ch := range m.changes {
		if ch.truncate {
			cuts = append(cuts, i)
		}
	}
	for choice := range 1 << len(cuts) {
		kept := map[int]bool{}
		for bit, i := range cuts {
			kept[i] = choice>>bit&1 == 1
		}
		ok := m.sizes(kept)[len(got)]
		for start := 0; ok && start < len(got); start += pageSize {
			ok = m.allowsPage(got, start, kept)
		}
		if ok {
			return true
		}
	}
	return false
}

func (m *fileModel) sizes(cuts map[int]bool) map[int]bool {
	sizes := map[int]bool{len(m.durable): true}
	for i, ch := range m.changes {
		if ch.truncate && cuts[i] {
			sizes = map[int]bool{ch.off: true}
		} else if !ch.truncate {
			for s := range maps.Clone(sizes) {
				sizes[max(s, ch.end)] = true
			}
		}
	}
	return sizes
}

// allowsPage tries every fate of every piece of the page: kept, lost, torn at each sector. It looks only
// at the places where something can change, since every write has one value throughout.
func (m *fileModel) allowsPage(got []byte, start int, cuts map[int]bool) bool {
	end := min(start+pageSize, len(got))
	at := map[int]bool{}
	for i := start; i < end; i++ {
		if i%sectorSize == 0 || got[i] != got[i-1] || i < len(m.durable) && m.durable[i] != m.durable[i-1] || i == len(m.durable) {
			at[i] = true
		}
	}
	for _, ch := range m.changes {
		for _, i := range []int{ch.off, ch.end} {
			if start < i && i < end {
				at[i] = true
			}
		}
	}
	places := slices.Sorted(maps.Keys(at))
	bytes := make([]byte, len(places))
	for i, p := range places {
		if p < len(m.durable) {
			bytes[i] = m.durable[p]
		}
	}
	var try func(n int, have []byte) bool
	try = func(n int, have []byte) bool {
		if n == len(m.changes) {
			for i, p := range places {
				if have[i] != got[p] {
					return false
				}
			}
			return true
		}
		ch := m.changes[n]
		if ch.truncate {
			if !cuts[n] {
				return try(n+1, have)
			}
			return try(n+1, overlay(have, places, ch.off, 1<<30, 0))
		}
		from, to := max(ch.off, start), min(ch.end, start+pageSize)
		if try(n+1, have) {
			return true
		}
		if from >= to {
			return false
		}
		if try(n+1, overlay(have, places, from, to, ch.value)) {
			return true
		}
		for border := (from/sectorSize + 1) * sectorSize; border < to; border += sectorSize {
			if try(n+1, overlay(have, places, from, border, ch.value)) || try(n+1, overlay(have, places, border, to, ch.value)) {
				return true
			}
		}
		return false
	}
	return try(0, bytes)
}

func overlay(have []byte, places []int, from, to int, value byte) []byte {
	out := slices.Clone(have)
	for i, p := range places {
		if from <= p && p < to {
			out[i] = value
		}
	}
	return out
}

// step does one random operation to both. Never more than four changes are unsynced, so
// that the model can try every combination.
func (m *fileModel) step(t *testing.T, f File, rnd *rand.Rand, value byte) {
	const space = 5 * pageSize
	switch n := rnd.IntN(10); {
	case n == 0 || len(m.changes) >= 4:
		check(t, f.Sync())
		m.sync()
	case n == 1 || n == 2:
		size := rnd.IntN(space)
		check(t, f.Truncate(int64(size)))
		m.apply(modelChange{truncate: true, off: size})
	default:
		ch := modelChange{off: rnd.IntN(space), value: value}
		if n < 6 {
			ch.off = len(m.now) // an append
		}
		ch.end = ch.off + 1 + rnd.IntN([]int{100, 2000, 3 * pageSize}[rnd.IntN(3)])
		p := bytes.Repeat([]byte{ch.value}, ch.end-ch.off)
		cut := rnd.IntN(len(p) + 1)
		if _, err := f.WriteVec([][]byte{p[:cut], p[cut:]}, int64(ch.off)); err != nil {
			t.Fatal(err)
		}
		m.apply(ch)
	}
}

func TestCrashLeavesOnlyAllowedBytes(t *testing.T) {
	outcomes := map[string]int{}
	for seed := range 250 {
		rnd := seeded(seed)
		disk := NewMem()
		check(t, open(t, disk, "/f", Create).Close())
		check(t, disk.SyncDir("/"))
		model := &fileModel{}
		for round := range 4 { // each goes on with a survivor of the one before
			f := open(t, disk, "/f", ReadWrite)
			for step := range 1 + rnd.IntN(40) {
				model.step(t, f, rnd, byte(1+round*50+step))
				if got, _ := get(t, disk, "/f"); got != string(model.now) {
					t.Fatalf("seed %d: before crash %d the file is wrong after step %d", seed, round, step)
				}
				if rnd.IntN(20) == 0 { // kill -9 in between changes nothing
					disk = disk.Clone()
					f = open(t, disk, "/f", ReadWrite)
				}
			}
			var survivor *Mem
			var got string
			for range 3 {
				survivor = disk.Crash(rnd)
				got, _ = get(t, survivor, "/f")
				if !model.allows([]byte(got)) {
					t.Fatalf("seed %d: crash %d left what no rule allows: %d bytes, durable %d, now %d, changes %+v",
						seed, round, len(got), len(model.durable), len(model.now), model.changes)
				}
				switch {
				case len(model.changes) == 0:
				case got == string(model.now):
					outcomes["everything kept"]++
				case got == string(model.durable):
					outcomes["everything lost"]++
				default:
					outcomes["something between"]++
				}
			}
			if again, _ := get(t, survivor.Crash(rnd), "/f"); again != got {
				t.Fatalf("seed %d: survivor %d is not durable", seed, round)
			}
			disk = survivor.Crash(rnd)
			grow := modelChange{truncate: true, off: len(got) + 6000} // nothing may lie behind the end
			check(t, open(t, disk, "/f", ReadWrite).Truncate(int64(grow.off)))
			model = &fileModel{now: []byte(got), durable: []byte(got)}
			model.apply(grow)
			if again, _ := get(t, disk, "/f"); again != string(model.now) {
				t.Fatalf("seed %d: survivor %d hid something behind its end", seed, round)
			}
		}
	}
	for _, want := range []string{"everything kept", "everything lost", "something between"} {
		if outcomes[want] < 100 {
			t.Errorf("%s: %d times", want, outcomes[want])
		}
	}
}

// nameModel is a tree as a list of who is where: "parent id/name" to id. Ids of directories start with "d".
type nameModel struct {
	now, durable map[string]string
	pending      []modelOp
	ids          int
}

type modelOp struct {
	set     []string // pairs of place and id, "" for gone
	who     []string // ids it is about
	emptied string   // id of the directory it removes
}

func (o modelOp) waitsFor(e modelOp) bool {
	for _, id := range o.who {
		if slices.Contains(e.who, id) {
			return true
		}
	}
	for i := 0; i < len(e.set); i += 2 {
		if o.emptied != "" && strings.HasPrefix(e.set[i], o.emptied+"/") {
			return true
		}
		for k := 0; k < len(o.set); k += 2 {
			if o.set[k] == e.set[i] {
				return true
			}
		}
	}
	return false
}

func (o modelOp) apply(tree map[string]string) {
	for i := 0; i < len(o.set); i += 2 {
		tree[o.set[i]] = o.set[i+1]
		if o.set[i+1] == "" {
			delete(tree, o.set[i])
		}
	}
}

func (m *nameModel) note(o modelOp) {
	o.apply(m.now)
	m.pending = append(m.pending, o)
}

func (m *nameModel) newID(kind string) string {
	m.ids++
	return fmt.Sprint(kind, m.ids)
}

func (m *nameModel) syncDir(dir string) {
	must := make([]bool, len(m.pending))
	for i := len(m.pending) - 1; i >= 0; i-- {
		for k := 0; k < len(m.pending[i].set); k += 2 {
			must[i] = must[i] || strings.HasPrefix(m.pending[i].set[k], dir+"/")
		}
		for later := i + 1; later < len(must); later++ {
			must[i] = must[i] || must[later] && m.pending[later].waitsFor(m.pending[i])
		}
	}
	var rest []modelOp
	for i, o := range m.pending {
		if must[i] {
			o.apply(m.durable)
		} else {
			rest = append(rest, o)
		}
	}
	m.pending = rest
}

// allowed is every tree a power loss may leave: each subset of the pending operations in
// which none comes without what it waits for.
func (m *nameModel) allowed() map[string]bool {
	trees := map[string]bool{}
	for choice := range 1 << len(m.pending) {
		tree, ok := maps.Clone(m.durable), true
		for i, o := range m.pending {
			if choice>>i&1 == 0 {
				continue
			}
			for k := range i {
				ok = ok && (choice>>k&1 == 1 || !o.waitsFor(m.pending[k]))
			}
			o.apply(tree)
		}
		if ok {
			trees[render(tree, "d0", "")] = true
		}
	}
	return trees
}

func render(tree map[string]string, dir, path string) string {
	var out []string
	for place, id := range tree {
		if name, ok := strings.CutPrefix(place, dir+"/"); ok {
			if id[0] == 'd' {
				out = append(out, path+"/"+name+"/ "+render(tree, id, path+"/"+name))
			} else {
				out = append(out, path+"/"+name+"="+id+" ")
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

// list renders a file system the same way; a file's content is its id.
func list(t *testing.T, s FS, dir string) string {
	infos, err := s.ReadDir("/" + dir)
	check(t, err)
	var out []string
	for _, i := range infos {
		path := dir + "/" + i.Name
		if i.IsDir {
			out = append(out, path+"/ "+list(t, s, path))
		} else {
			id, _ := get(t, s, path)
			out = append(out, path+"="+id+" ")
		}
	}
	slices.Sort(out)
	return strings.Join(out, "")
}

// step does one random operation to both, or none if it is not possible.
func (m *nameModel) step(t *testing.T, s FS, rnd *rand.Rand) {
	dirs := []string{"/d", "/e", "/d/s"}
	dirID := func(dir string) string {
		id := "d0"
		for _, name := range strings.Split(dir[1:], "/") {
			id = m.now[id+"/"+name]
		}
		return id
	}
	if m.now[dirID("/d")+"/s"] == "" {
		dirs = dirs[:2]
	}
	place := func() (path, at string) {
		dir := dirs[rnd.IntN(len(dirs))]
		name := string(rune('a' + rnd.IntN(3)))
		return dir + "/" + name, dirID(dir) + "/" + name
	}
	path, at := place()
	id := m.now[at]
	switch n := rnd.IntN(12); {
	case n < 2 || len(m.pending) > 7:
		dir := dirs[rnd.IntN(len(dirs))]
		check(t, s.SyncDir(dir))
		m.syncDir(dirID(dir))
	case n < 5 && id == "":
		id = m.newID("f")
		f := open(t, s, path, CreateNew)
		write(t, f, id, 0)
		check(t, f.Sync())
		check(t, f.Close())
		m.note(modelOp{set: []string{at, id}, who: []string{id}})
	case n < 7 && id != "":
		check(t, s.Remove(path))
		m.note(modelOp{set: []string{at, ""}, who: []string{id}})
	case n < 10 && id != "":
		to, toAt := place()
		check(t, s.Rename(path, to))
		if at == toAt {
			return
		}
		op := modelOp{set: []string{toAt, id}, who: []string{id}}
		if old := m.now[toAt]; old != "" {
			op.who = append(op.who, old)
		}
		if path[:len(path)-2] == to[:len(to)-2] {
			op.set = append(op.set, at, "")
			m.note(op)
		} else {
			m.note(op)
			m.note(modelOp{set: []string{at, ""}, who: []string{id}})
		}
	case n == 10:
		m.stepSub(t, s, dirID("/d")+"/s")
	}
}

// stepSub makes the directory /d/s, or removes it if it is empty.
func (m *nameModel) stepSub(t *testing.T, s FS, at string) {
	id := m.now[at]
	switch {
	case id == "":
		id = m.newID("d")
		check(t, s.MkdirAll("/d/s"))
		m.note(modelOp{set: []string{at, id}, who: []string{id}})
	case render(m.now, id, "") == "":
		check(t, s.Remove("/d/s"))
		m.note(modelOp{set: []string{at, ""}, who: []string{id}, emptied: id})
	}
}

func TestCrashLeavesOnlyAllowedNames(t *testing.T) {
	allowedTotal, seenTotal := 0, 0
	for seed := range 400 {
		rnd := seeded(seed)
		s := NewMem()
		check(t, s.MkdirAll("/d"))
		check(t, s.MkdirAll("/e"))
		check(t, s.SyncDir("/"))
		base := map[string]string{"d0/d": "dd", "d0/e": "de"}
		m := &nameModel{now: maps.Clone(base), durable: maps.Clone(base)}
		for range 1 + rnd.IntN(40) {
			m.step(t, s, rnd)
			if got, want := list(t, s, ""), render(m.now, "d0", ""); got != want {
				t.Fatalf("seed %d: before the crash: %q, want %q", seed, got, want)
			}
		}
		allowed, seen := m.allowed(), map[string]bool{}
		for range 30 {
			got := list(t, s.Crash(rnd), "")
			if !allowed[got] {
				t.Fatalf("seed %d: a survivor that no rule allows: %q\ndurable %q\npending %+v", seed, got, render(m.durable, "d0", ""), m.pending)
			}
			seen[got] = true
		}
		if len(allowed) < 8 {
			allowedTotal += len(allowed)
			seenTotal += len(seen)
		}
	}
	if seenTotal*10 < allowedTotal*8 {
		t.Errorf("only %d of %d allowed survivors were seen: the model has lost its teeth", seenTotal, allowedTotal)
	}
}
