package vfs

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrPowerLoss is the answer of a Mem whose power is gone.
var ErrPowerLoss = errors.New("vfs: power loss")

// MemOptions switch protections of the disk off, each alone, so that a test can prove
// that it would notice a program that does without them; and they say how large it is.
type MemOptions struct {
	IgnoreSync    bool // File.Sync makes nothing durable
	IgnoreSyncDir bool // FS.SyncDir makes nothing durable
	TornRename    bool // a rename that is not durable may leave a mixture of old and new file under the target name

	NoTryRead bool // TryReadAt is not supported, as on some file systems
	Forgets   bool // Advise(DontNeed) takes whole pages out of memory, as Evict does

	// TotalBytes is the size of the volume, 0: a size that nothing fills. A write without room is ENOSPC and changes nothing.
	TotalBytes int64
}

// Mem is a file system in memory that can lose power. It is deterministic: the same
// operations in the same order and the same seed give the same survivor (only
// modification times are the clock's).
//
// What a power loss may do (Crash):
//   - Every unsynced write is cut at the 4 KiB pages of the file; each piece survives or
//     not, whatever happens to its neighbours, earlier and later ones. Now and then a
//     piece is torn at a 512-byte sector: one side survives.
//   - The size an unsynced write gave the file, and every unsynced Truncate, survives or
//     not by itself. What is missing below the surviving size reads as zeros (or as what was
//     there before).
//   - A create, rename, remove or mkdir whose directory was not synced survives or
//     not. Operations on the same name, or on the same file or directory, keep their
//     order (a later one survives only with the earlier one); all others do not.
//   - A rename inside one directory is one step. From one directory to another a file first appears
//     under the new name and then leaves the old one, so that it may have both, never neither.
//   - A file whose name is lost is gone, even if its data was synced; a directory takes all
//     that is in it with it.
type Mem struct {
	disk *disk

	// Guarded by disk.mu.
	dead      bool // power lost, or the disk handed on
	handedOn  bool // by Clone
	locks     map[*node]bool
	mutations int64
	lossAfter int // fails the mutation that counts it down to 0; 0 is off
}

// disk is what survives the process. mu guards everything in it and in its nodes.
type disk struct {
	mu      sync.Mutex
	opts    MemOptions
	root    *node
	pending []*nameOp // not durable, oldest first
	arrive  func(name string, off, n int64)
}

// node is a file or a directory; what it is called is its parents' business.
type node struct {
	isDir    bool
	now      map[string]*node // a directory's entries as everybody sees them
	durable  map[string]*node // the same as a power loss leaves them at least
	content  content          // a file's
	absent   map[int]bool     // a file's pages that are on the disk only: see Evict
	modified time.Time
}

// NewMem returns an empty disk that keeps the contract.
func NewMem() *Mem { return NewMemOptions(MemOptions{}) }

// NewMemOptions returns an empty disk with protections switched off.
func NewMemOptions(opts MemOptions) *Mem {
	return newMem(&disk{opts: opts, root: newDir()})
}

// SetOptions switches protections off, or on again, from now on. What is durable stays so.
func (m *Mem) SetOptions(opts MemOptions) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.disk.opts = opts
}

func newMem(d *disk) *Mem { return &Mem{disk: d, locks: map[*node]bool{}} }

func newDir() *node {
	return &node{isDir: true, now: map[string]*node{}, durable: map[string]*node{}, modified: time.Now()}
}

// Clone is kill -9: the process is gone, its locks too, and nothing is lost; what was not synced
// still is not. The old Mem and its files fail from now on with ErrPowerLoss.
func (m *Mem) Clone() *Mem {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.end()
	m.handedOn = true
	return newMem(m.disk)
}

// end stops the Mem for good. A disk that Clone handed on belongs to another Mem.
func (m *Mem) end() {
	if m.handedOn {
		panic("BUG: vfs: Crash or Clone of a Mem that Clone has ended")
	}
	m.dead = true
}

// PowerLossAfter lets the n-th mutating operation from now (1 is the next) meet the power
// loss: it fails with ErrPowerLoss, has no, part or all of its effect, as Crash chooses, and everything
// after it fails too. n = 0 takes the order back. Mutating are: a create (a file by Open or Lock, each
// directory of MkdirAll), WriteAt, WriteVec, Truncate, Sync, SyncDir, Rename, Remove, and Lock's
// writing of the pid. One that fails for another reason does not count.
func (m *Mem) PowerLossAfter(n int) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.lossAfter = max(n, 0)
}

// Flip changes the bits of mask in one byte of a file, in what everybody sees and in what is durable: the disk has rotted. What
// was written there and not synced yet is not touched where it is still to be written.
func (m *Mem) Flip(name string, off int64, mask byte) error {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	n, err := m.disk.walk(split(name))
	if err == nil && n.isDir {
		err = syscall.EISDIR
	}
	if err == nil && (off < 0 || off >= n.content.now.size) {
		err = io.EOF
	}
	if err != nil {
		return pathError("flip", name, err)
	}
	n.content.flip(off, mask)
	return nil
}

// Mutations counts the mutating operations so far: the points at which PowerLossAfter can strike.
func (m *Mem) Mutations() int64 {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	return m.mutations
}

// strikes counts one mutation. When it says true the power fails in the middle of it:
// the caller records the operation as not durable, so that Crash decides what is left
// of it, and answers ErrPowerLoss. The Mem is dead already.
func (m *Mem) strikes() bool {
	m.mutations++
	if m.lossAfter > 0 {
		m.lossAfter--
		m.dead = m.lossAfter == 0
	}
	return m.dead
}

// lock takes disk.mu, or answers ErrPowerLoss without it.
func (m *Mem) lock(op, name string) error {
	m.disk.mu.Lock()
	if m.dead {
		m.disk.mu.Unlock()
		return pathError(op, name, ErrPowerLoss)
	}
	return nil
}

// entry is a place for a name.
type entry struct {
	dir  *node
	name string
}

// split cuts a path into names; none for the root. Relative paths start at the root.
func split(name string) []string {
	clean := strings.Trim(path.Clean("/"+filepath.ToSlash(name)), "/")
	if clean == "" {
		return nil
	}
	return strings.Split(clean, "/")
}

// parent finds the entry of a path; its directory must exist, the name need not.
func (d *disk) parent(name string) (entry, error) {
	names := split(name)
	if len(names) == 0 {
		return entry{}, syscall.EBUSY // the root has no entry
	}
	dir, err := d.walk(names[:len(names)-1])
	if err == nil && !dir.isDir {
		err = syscall.ENOTDIR
	}
	return entry{dir, names[len(names)-1]}, err
}

func (d *disk) walk(names []string) (*node, error) {
	at := d.root
	for _, name := range names {
		if !at.isDir {
			return nil, syscall.ENOTDIR
		}
		next, ok := at.now[name]
		if !ok {
			return nil, syscall.ENOENT
		}
		at = next
	}
	return at, nil
}

func (m *Mem) Open(name string, mode Mode) (File, error) {
	if err := m.lock("open", name); err != nil {
		return nil, err
	}
	defer m.disk.mu.Unlock()
	n, err := m.open(name, mode)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	return &memFile{m: m, node: n, name: name, readOnly: mode == ReadOnly}, nil
}

func (m *Mem) open(name string, mode Mode) (*node, error) {
	if mode < ReadOnly || mode > CreateSecret {
		return nil, syscall.EINVAL
	}
	n, err := m.disk.walk(split(name))
	switch {
	case err == nil && mode == CreateNew:
		return nil, syscall.EEXIST
	case err == nil && n.isDir:
		return nil, syscall.EISDIR
	case err == nil || mode == ReadOnly || mode == ReadWrite || !errors.Is(err, fs.ErrNotExist):
		return n, err
	}
	at, err := m.disk.parent(name)
	if err != nil {
		return nil, err
	}
	n = &node{modified: time.Now()}
	return n, m.create(at, n)
}

func (m *Mem) create(at entry, n *node) error {
	struck := m.strikes()
	m.disk.note(&nameOp{set: []binding{{at, n}}, touches: []*node{n}})
	if struck {
		return ErrPowerLoss
	}
	return nil
}

func (m *Mem) MkdirAll(dir string) error {
	if err := m.lock("mkdir", dir); err != nil {
		return err
	}
	defer m.disk.mu.Unlock()
	at := m.disk.root
	for _, name := range split(dir) {
		next, ok := at.now[name]
		if !ok {
			next = newDir()
			if err := m.create(entry{at, name}, next); err != nil {
				return pathError("mkdir", dir, err)
			}
		}
		if !next.isDir {
			return pathError("mkdir", dir, syscall.ENOTDIR)
		}
		at = next
	}
	return nil
}

func (m *Mem) ReadDir(dir string) ([]Info, error) {
	if err := m.lock("readdir", dir); err != nil {
		return nil, err
	}
	defer m.disk.mu.Unlock()
	n, err := m.disk.walk(split(dir))
	if err == nil && !n.isDir {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return nil, pathError("readdir", dir, err)
	}
	infos := make([]Info, 0, len(n.now))
	for _, name := range slices.Sorted(maps.Keys(n.now)) {
		infos = append(infos, n.now[name].info(name))
	}
	return infos, nil
}

func (n *node) info(name string) Info {
	return Info{Name: name, Size: n.content.now.size, IsDir: n.isDir, ModTime: n.modified}
}

// Names is ReadDir: there is nothing to be saved.
func (m *Mem) Names(dir string) ([]Name, error) {
	infos, err := m.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]Name, len(infos))
	for i, info := range infos {
		names[i] = Name{info.Name, info.IsDir}
	}
	return names, nil
}

func (m *Mem) Stat(name string) (Info, error) {
	if err := m.lock("stat", name); err != nil {
		return Info{}, err
	}
	defer m.disk.mu.Unlock()
	n, err := m.disk.walk(split(name))
	if err != nil {
		return Info{}, pathError("stat", name, err)
	}
	return n.info(filepath.Base(name)), nil
}

func (m *Mem) SetModTime(name string, t time.Time) error {
	if err := m.lock("chtimes", name); err != nil {
		return err
	}
	defer m.disk.mu.Unlock()
	n, err := m.disk.walk(split(name))
	if err != nil {
		return pathError("chtimes", name, err)
	}
	n.modified = t
	return nil
}

func (m *Mem) Rename(from, to string) error {
	if err := m.lock("rename", from); err != nil {
		return err
	}
	defer m.disk.mu.Unlock()
	if err := m.rename(from, to); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

func (m *Mem) rename(from, to string) error {
	src, err := m.disk.parent(from)
	if err != nil {
		return err
	}
	n, ok := src.dir.now[src.name]
	if !ok {
		return syscall.ENOENT
	}
	dst, err := m.disk.parent(to)
	if err != nil {
		return err
	}
	old := dst.dir.now[dst.name]
	switch {
	case old == n:
		return nil // the same entry, or two names of one file: rename(2) leaves both
	case old != nil && old.isDir:
		return syscall.EEXIST
	case old != nil && n.isDir:
		return syscall.ENOTDIR
	case n.isDir && n.holds(dst.dir):
		return syscall.EINVAL // into itself
	}
	struck := m.strikes()
	op := &nameOp{set: []binding{{dst, n}}, touches: []*node{n}, replaced: old, rename: true}
	if old != nil {
		op.touches = append(op.touches, old)
	}
	if src.dir == dst.dir || n.isDir {
		op.set = append(op.set, binding{src, nil})
		m.disk.note(op)
	} else {
		m.disk.note(op)
		m.disk.note(&nameOp{set: []binding{{src, nil}}, touches: []*node{n}})
	}
	if struck {
		return ErrPowerLoss
	}
	return nil
}

// holds says whether other is n or somewhere below it.
func (n *node) holds(other *node) bool {
	if n == other {
		return true
	}
	for _, child := range n.now {
		if child.isDir && child.holds(other) {
			return true
		}
	}
	return false
}

func (m *Mem) Remove(name string) error {
	if err := m.lock("remove", name); err != nil {
		return err
	}
	defer m.disk.mu.Unlock()
	if err := m.remove(name); err != nil {
		return pathError("remove", name, err)
	}
	return nil
}

func (m *Mem) remove(name string) error {
	at, err := m.disk.parent(name)
	if err != nil {
		return err
	}
	n, ok := at.dir.now[at.name]
	if !ok {
		return syscall.ENOENT
	}
	if len(n.now) > 0 {
		return syscall.ENOTEMPTY
	}
	struck := m.strikes()
	op := &nameOp{set: []binding{{at, nil}}, touches: []*node{n}}
	if n.isDir {
		op.emptied = n
	}
	m.disk.note(op)
	if struck {
		return ErrPowerLoss
	}
	return nil
}

func (m *Mem) SyncDir(dir string) error {
	if err := m.lock("syncdir", dir); err != nil {
		return err
	}
	defer m.disk.mu.Unlock()
	n, err := m.disk.walk(split(dir))
	if err == nil && !n.isDir {
		err = syscall.ENOTDIR
	}
	if err != nil {
		return pathError("syncdir", dir, err)
	}
	if m.strikes() { // what is left of it is a choice among what is pending: Crash's
		return pathError("syncdir", dir, ErrPowerLoss)
	}
	if !m.disk.opts.IgnoreSyncDir {
		m.disk.syncNames(n)
	}
	return nil
}

// SyncTree goes from file to file: a power loss may come between any two.
func (m *Mem) SyncTree(dir string) error { return syncTree(m, dir) }

// Lock excludes other locks of this Mem; Crash and Clone end the process and so the locks.
func (m *Mem) Lock(name string) (io.Closer, error) {
	if err := m.lock("lock", name); err != nil {
		return nil, err
	}
	defer m.disk.mu.Unlock()
	n, err := m.open(name, Create)
	if err != nil {
		return nil, pathError("lock", name, err)
	}
	if m.locks[n] {
		return nil, &LockedError{Name: name, PID: parsePID(n.content.now.bytes())}
	}
	struck := m.strikes()
	n.content.truncate(0)
	n.content.write(pidLine(), 0)
	if struck {
		return nil, pathError("lock", name, ErrPowerLoss)
	}
	m.locks[n] = true
	return &memLock{m: m, node: n, name: name}, nil
}

type memLock struct {
	m    *Mem
	node *node // nil once closed; guarded by disk.mu
	name string
}

func (l *memLock) Close() error {
	if err := l.m.lock("unlock", l.name); err != nil {
		return err
	}
	defer l.m.disk.mu.Unlock()
	if l.node == nil {
		return pathError("unlock", l.name, fs.ErrClosed)
	}
	delete(l.m.locks, l.node)
	l.node = nil
	return nil
}

// memTotalBytes is the size of the pretended volume where nobody gave it one.
const memTotalBytes = 1 << 40

// Space counts the pages of the files that have a name.
func (m *Mem) Space(dir string) (Space, error) {
	if err := m.lock("statfs", dir); err != nil {
		return Space{}, err
	}
	defer m.disk.mu.Unlock()
	if _, err := m.disk.walk(split(dir)); err != nil {
		return Space{}, pathError("statfs", dir, err)
	}
	total := m.disk.opts.TotalBytes
	if total == 0 {
		total = memTotalBytes
	}
	return Space{FreeBytes: max(0, total-m.disk.root.usedBytes()), TotalBytes: total}, nil
}

// hasRoom says whether n bytes can be written to f at off. Pages of files without a name do not count.
func (d *disk) hasRoom(f *node, off, n int64) bool {
	if d.opts.TotalBytes == 0 || n == 0 {
		return true
	}
	var more int64
	for i := off / pageSize; i <= (off+n-1)/pageSize; i++ {
		if pages := f.content.now.pages; i >= int64(len(pages)) || pages[i] == nil {
			more += pageSize
		}
	}
	return more == 0 || d.root.usedBytes()+more <= d.opts.TotalBytes
}

func (n *node) usedBytes() (used int64) {
	for _, p := range n.content.now.pages {
		if p != nil {
			used += pageSize
		}
	}
	for _, child := range n.now {
		used += child.usedBytes()
	}
	return used
}
