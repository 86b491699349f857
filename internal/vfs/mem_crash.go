package vfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

// nameOp is one change of names that no SyncDir has made durable yet.
type nameOp struct {
	set      []binding
	touches  []*node // files and directories it names, renames or takes the name from
	emptied  *node   // the directory it removes
	replaced *node   // by a rename: the file that had the target name, nil if none
	rename   bool
	after    []*nameOp // it survives only with all of these
	durable  bool
}

// binding says what a name means from now on; nil means that there is none.
type binding struct {
	at entry
	to *node
}

// waitsFor says whether op may reach the disk only after earlier has.
func (op *nameOp) waitsFor(earlier *nameOp) bool {
	for _, n := range op.touches {
		if slices.Contains(earlier.touches, n) {
			return true
		}
	}
	for _, e := range earlier.set {
		if e.at.dir == op.emptied { // only an empty directory can go
			return true
		}
		for _, b := range op.set {
			if b.at == e.at {
				return true
			}
		}
	}
	return false
}

// note makes op visible and remembers it until it is durable.
func (d *disk) note(op *nameOp) {
	for _, earlier := range d.pending {
		if op.waitsFor(earlier) {
			op.after = append(op.after, earlier)
		}
	}
	d.pending = append(d.pending, op)
	for _, b := range op.set {
		b.apply(b.at.dir.now)
	}
}

func (b binding) apply(entries map[string]*node) {
	if b.to == nil {
		delete(entries, b.at.name)
	} else {
		entries[b.at.name] = b.to
	}
}

// syncNames makes durable whatever touched dir, and what that had to wait for.
func (d *disk) syncNames(dir *node) {
	var mark func(op *nameOp)
	mark = func(op *nameOp) {
		if op.durable {
			return
		}
		op.durable = true
		for _, earlier := range op.after {
			mark(earlier)
		}
	}
	for _, op := range d.pending {
		for _, b := range op.set {
			if b.at.dir == dir {
				mark(op)
			}
		}
	}
	d.pending = slices.DeleteFunc(d.pending, func(op *nameOp) bool {
		if op.durable {
			for _, b := range op.set {
				b.apply(b.at.dir.durable)
			}
			op.after = nil // lets what is durable be forgotten
		}
		return op.durable
	})
}

// Crash is a power loss: it returns what the disk holds when the power is back, everything
// in it durable. The old Mem and its files fail from now on with ErrPowerLoss. It may
// be called again on the old Mem with another seed for another survivor; survivors are
// independent of each other. They share the pages that nobody has written since.
func (m *Mem) Crash(rnd *rand.Rand) *Mem {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.end()
	c := crash{rnd: rnd, opts: m.disk.opts, entries: map[*node]map[string]*node{}, mixed: map[*node][2]*node{}, done: map[*node]*node{}}
	c.chooseNames(m.disk.pending)
	return newMem(&disk{opts: m.disk.opts, root: c.survivor(m.disk.root)})
}

// crash is one power loss in the making. It changes nothing of the old disk.
type crash struct {
	rnd     *rand.Rand
	opts    MemOptions
	entries map[*node]map[string]*node // of directories with surviving name operations
	mixed   map[*node][2]*node         // stand-ins for what a torn rename left: old and new file
	done    map[*node]*node            // survivor of each node, so that two names of a file stay one file
}

// luck is how likely the unsynced survive: differently before and after a moment, so
// that "all but the last few", "none" and "a few stragglers" are all common.
type luck struct{ moment, before, after int }

func (c *crash) luck(n int) luck {
	percent := []int{0, 10, 50, 90, 100}
	l := luck{before: percent[c.rnd.IntN(len(percent))], after: percent[c.rnd.IntN(len(percent))]}
	l.moment = c.rnd.IntN(n + 1)
	return l
}

func (c *crash) survives(l luck, i int) bool {
	p := l.before
	if i >= l.moment {
		p = l.after
	}
	return c.rnd.IntN(100) < p
}

func (c *crash) chooseNames(pending []*nameOp) {
	kept := map[*nameOp]bool{}
	l := c.luck(len(pending))
	for i, op := range pending {
		// after holds only pending ones and durable ones, and those count as kept.
		lost := slices.ContainsFunc(op.after, func(earlier *nameOp) bool { return !earlier.durable && !kept[earlier] })
		if !c.survives(l, i) || lost {
			continue
		}
		kept[op] = true
		for _, b := range op.set {
			entries, ok := c.entries[b.at.dir]
			if !ok {
				entries = maps.Clone(b.at.dir.durable)
				c.entries[b.at.dir] = entries
			}
			if c.opts.TornRename && op.rename && b.to != nil && !b.to.isDir && c.rnd.IntN(2) == 0 {
				torn := &node{}
				c.mixed[torn] = [2]*node{op.replaced, b.to}
				b.to = torn
			}
			b.apply(entries)
		}
	}
}

func (c *crash) survivor(n *node) *node {
	if s, ok := c.done[n]; ok {
		return s
	}
	s := &node{isDir: n.isDir, modified: n.modified}
	c.done[n] = s
	mix, torn := c.mixed[n]
	switch {
	case torn:
		s.modified = mix[1].modified
		s.content = settled(c.mixture(mix[0], mix[1]))
	case n.isDir:
		entries, ok := c.entries[n]
		if !ok {
			entries = n.durable
		}
		s.now = make(map[string]*node, len(entries))
		for _, name := range slices.Sorted(maps.Keys(entries)) {
			s.now[name] = c.survivor(entries[name])
		}
		s.durable = maps.Clone(s.now)
	default:
		s.content = settled(c.bytes(&n.content))
	}
	return s
}

func settled(im image) content { return content{now: im, durable: im.clone()} }

// bytes chooses what is left of a file.
func (c *crash) bytes(f *content) image {
	im := f.durable.clone()
	if len(f.changes) == 0 {
		return im
	}
	shared := f.durable.pages
	data, size := c.luck(len(f.changes)), c.luck(len(f.changes))
	for i, ch := range f.changes {
		if ch.data == nil {
			if c.survives(size, i) {
				im.cut(ch.off, shared)
			}
			continue
		}
		end := ch.off + int64(len(ch.data))
		for p, off := ch.data, ch.off; len(p) > 0; {
			k := min(len(p), int(pageSize-off%pageSize))
			if c.survives(data, i) {
				piece, at := c.tear(p[:k], off)
				im.put(piece, at, shared)
			}
			p, off = p[k:], off+int64(k)
		}
		if end > im.size && c.survives(size, i) {
			im.size = end
		}
	}
	im.cut(im.size, shared)
	return im
}

// tear now and then leaves of a piece only what lies before or behind a sector's border.
func (c *crash) tear(p []byte, off int64) ([]byte, int64) {
	first := off/sectorSize + 1                    // the first border behind the piece's start
	last := (off + int64(len(p)) - 1) / sectorSize // the last one before its end
	if last < first || c.rnd.IntN(8) > 0 {
		return p, off
	}
	at := (first+c.rnd.Int64N(last-first+1))*sectorSize - off
	if c.rnd.IntN(2) == 0 {
		return p[:at], off
	}
	return p[at:], off + at
}

// mixture is a target that was overwritten in place: each page is the old file's or the new
// one's, and so is the size.
func (c *crash) mixture(before, after *node) image {
	var im image
	if before != nil {
		old := c.survivor(before).content.now
		im = old.clone()
	}
	now := c.survivor(after).content.now
	for i := range max(len(im.pages), len(now.pages)) {
		if c.rnd.IntN(2) == 0 {
			continue
		}
		for len(im.pages) <= i {
			im.pages = append(im.pages, nil)
		}
		im.pages[i] = nil
		if i < len(now.pages) {
			im.pages[i] = now.pages[i]
		}
	}
	if c.rnd.IntN(2) == 0 {
		im.size = now.size
	}
	im.cut(im.size, im.clone().pages)
	return im
}
