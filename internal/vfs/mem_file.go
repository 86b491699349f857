package vfs

import (
	"errors"
	"io"
	"io/fs"
	"slices"
	"syscall"
	"time"
)

const (
	pageSize   = 4096
	sectorSize = 512
	// maxMemFile bounds the page table, which has no holes of its own.
	maxMemFile = 1 << 36
)

type page [pageSize]byte

// image is one state of a file's bytes. A nil page, and every page behind the table, is zeros;
// so is whatever lies behind size in a page of content.now and content.durable.
type image struct {
	pages []*page
	size  int64
}

// content is a file's bytes now, the durable ones, and the unsynced way from these to those.
// Pages are copied on write: a page that content.durable has at the same place is never changed,
// so that survivors of a crash share it.
type content struct {
	now, durable image
	changes      []change // since the last Sync, oldest first
	dirty        []int    // pages of now changed since the last Sync, with repetitions
	truncated    bool     // since the last Sync
}

// change is one unsynced write (data at off), or a truncation to off when data is nil.
type change struct {
	off  int64
	data []byte
}

func (im *image) readAt(p []byte, off int64) int {
	if off >= im.size {
		return 0
	}
	p = p[:min(int64(len(p)), im.size-off)]
	for n := 0; n < len(p); {
		i, at := int((off+int64(n))/pageSize), int((off+int64(n))%pageSize)
		k := min(pageSize-at, len(p)-n)
		if i < len(im.pages) && im.pages[i] != nil {
			copy(p[n:n+k], im.pages[i][at:])
		} else {
			clear(p[n : n+k])
		}
		n += k
	}
	return len(p)
}

func (im *image) bytes() []byte {
	p := make([]byte, im.size)
	im.readAt(p, 0)
	return p
}

// own returns page i for writing; one that shared has too is copied first.
func (im *image) own(i int, shared []*page) *page {
	for len(im.pages) <= i {
		im.pages = append(im.pages, nil)
	}
	switch p := im.pages[i]; {
	case p == nil:
		im.pages[i] = new(page)
	case i < len(shared) && shared[i] == p:
		c := *p
		im.pages[i] = &c
	}
	return im.pages[i]
}

// put overwrites bytes and leaves size alone.
func (im *image) put(p []byte, off int64, shared []*page) {
	for len(p) > 0 {
		i, at := int(off/pageSize), int(off%pageSize)
		k := copy(im.own(i, shared)[at:], p)
		p, off = p[k:], off+int64(k)
	}
}

// cut makes size the size and everything behind it zeros.
func (im *image) cut(size int64, shared []*page) {
	full := int((size + pageSize - 1) / pageSize)
	if full < len(im.pages) {
		clear(im.pages[full:])
		im.pages = im.pages[:full]
	}
	if at := size % pageSize; at > 0 && full == len(im.pages) && im.pages[full-1] != nil {
		if slices.ContainsFunc(im.pages[full-1][at:], func(b byte) bool { return b != 0 }) {
			clear(im.own(full-1, shared)[at:])
		}
	}
	im.size = size
}

func (im *image) clone() image { return image{slices.Clone(im.pages), im.size} }

// write keeps p, which must not change any more.
func (c *content) write(p []byte, off int64) {
	if len(p) == 0 {
		return
	}
	c.changes = append(c.changes, change{off, p})
	c.now.put(p, off, c.durable.pages)
	c.now.size = max(c.now.size, off+int64(len(p)))
	for i := int(off / pageSize); i <= int((off+int64(len(p))-1)/pageSize); i++ {
		if n := len(c.dirty); n == 0 || c.dirty[n-1] != i {
			c.dirty = append(c.dirty, i)
		}
	}
}

func (c *content) truncate(size int64) {
	c.changes = append(c.changes, change{off: size})
	c.now.cut(size, c.durable.pages)
	c.truncated = true
}

// sync makes the changed pages durable, and only those: what a failed Sync gave up
// stays lost until it is written again.
func (c *content) sync() {
	if c.truncated {
		c.durable.cut(min(c.durable.size, c.lowest()), c.durable.pages)
	}
	for _, i := range c.dirty {
		if i >= len(c.now.pages) {
			continue // cut off since
		}
		for len(c.durable.pages) <= i {
			c.durable.pages = append(c.durable.pages, nil)
		}
		c.durable.pages[i] = c.now.pages[i]
	}
	// Only after a failed Sync can the durable pages still reach further than the file.
	c.durable.cut(c.now.size, c.durable.pages)
	c.settle()
}

// flip changes bits of one byte below now.size. The durable page gets a copy of its own: survivors of a crash may have it too.
func (c *content) flip(off int64, mask byte) {
	i, at := int(off/pageSize), off%pageSize
	c.now.own(i, c.durable.pages)[at] ^= mask
	if off < c.durable.size && i < len(c.durable.pages) && c.durable.pages[i] != nil {
		p := *c.durable.pages[i]
		p[at] ^= mask
		c.durable.pages[i] = &p
	}
}

// lowest is the smallest size that a truncation since the last Sync made.
func (c *content) lowest() int64 {
	low := int64(maxMemFile)
	for _, ch := range c.changes {
		if ch.data == nil {
			low = min(low, ch.off)
		}
	}
	return low
}

func (c *content) settle() { c.changes, c.dirty, c.truncated = nil, nil, false }

// memFile is an open file. The node lives on without a name.
type memFile struct {
	m        *Mem
	node     *node
	name     string
	readOnly bool
	closed   bool // guarded by disk.mu
}

// lock takes disk.mu if the file may be used.
func (f *memFile) lock(op string, writes bool) error {
	if err := f.m.lock(op, f.name); err != nil {
		return err
	}
	var err error
	switch {
	case f.closed:
		err = fs.ErrClosed
	case writes && f.readOnly:
		err = syscall.EBADF
	default:
		return nil
	}
	f.m.disk.mu.Unlock()
	return pathError(op, f.name, err)
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	for {
		if err := f.lock("read", false); err != nil {
			return 0, err
		}
		arrive := f.m.disk.arrive
		if arrive == nil || off < 0 || f.node.inMemory(off, int64(len(p))) == int64(len(p)) {
			break
		}
		f.m.disk.mu.Unlock()
		arrive(f.name, off, int64(len(p))) // the disk's time
		f.m.disk.mu.Lock()
		f.node.bringIn(off, int64(len(p)))
		f.m.disk.mu.Unlock()
	}
	defer f.m.disk.mu.Unlock()
	f.node.bringIn(off, int64(len(p)))
	return f.readLocked(p, off)
}

func (f *memFile) readLocked(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, pathError("read", f.name, syscall.EINVAL)
	}
	n := f.node.content.now.readAt(p, off)
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// TryReadAt is ReadAt but for what Evict took out of memory.
func (f *memFile) TryReadAt(p []byte, off int64) (int, error) {
	if err := f.lock("read", false); err != nil {
		return 0, err
	}
	defer f.m.disk.mu.Unlock()
	if f.m.disk.opts.NoTryRead {
		return 0, errors.ErrUnsupported
	}
	if n := f.node.inMemory(off, int64(len(p))); off >= 0 && n < int64(len(p)) {
		k, err := f.readLocked(p[:n], off)
		if err == nil {
			err = ErrWouldBlock
		}
		return k, err
	}
	return f.readLocked(p, off)
}

func (f *memFile) Resident(off, n int64) int64 {
	f.m.disk.mu.Lock()
	defer f.m.disk.mu.Unlock()
	if f.m.disk.opts.NoTryRead {
		return 0
	}
	return f.node.inMemory(off, n)
}

// inMemory is how many of the n bytes from off on are in memory.
func (n *node) inMemory(off, length int64) int64 {
	if len(n.absent) == 0 || length == 0 {
		return length
	}
	last := min(off+length, n.content.now.size) - 1
	for i := off / pageSize; i <= last/pageSize; i++ {
		if n.absent[int(i)] {
			return max(i*pageSize-off, 0)
		}
	}
	return length
}

// bringIn puts every page of a range into memory.
func (n *node) bringIn(off, length int64) {
	if len(n.absent) == 0 || length == 0 {
		return
	}
	for i := off / pageSize; i <= (off+length-1)/pageSize; i++ {
		delete(n.absent, int(i))
	}
}

// takeOut takes the whole pages of a range out of memory.
func (n *node) takeOut(off, length int64) {
	if n.absent == nil {
		n.absent = map[int]bool{}
	}
	end := min(off+length, (n.content.now.size+pageSize-1)/pageSize*pageSize)
	for i := (off + pageSize - 1) / pageSize; (i+1)*pageSize <= end; i++ {
		n.absent[int(i)] = true
	}
}

// Evict takes the pages of every file that match wants out of memory: TryReadAt does not read them any more, until
// ReadAt has brought them back or a write has made them anew.
func (m *Mem) Evict(match func(name string) bool) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	var walk func(dir string, n *node)
	walk = func(dir string, n *node) {
		for name, child := range n.now {
			name = dir + "/" + name
			if child.isDir {
				walk(name, child)
			} else if match(name) {
				child.takeOut(0, maxMemFile)
			}
		}
	}
	walk("", m.disk.root)
}

// OnArrival lets f be called, without locks, by each ReadAt that has to wait for the disk. While f does not return, it waits.
func (m *Mem) OnArrival(f func(name string, off, n int64)) {
	m.disk.mu.Lock()
	defer m.disk.mu.Unlock()
	m.disk.arrive = f
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.WriteVec([][]byte{p}, off)
	return int(n), err
}

// WriteVec is one mutation; a power loss may take any part of it.
func (f *memFile) WriteVec(bufs [][]byte, off int64) (int64, error) {
	if err := f.lock("write", true); err != nil {
		return 0, err
	}
	defer f.m.disk.mu.Unlock()
	var total int64
	for _, b := range bufs {
		total += int64(len(b))
	}
	switch {
	case off < 0:
		return 0, pathError("write", f.name, syscall.EINVAL)
	case off > maxMemFile-total:
		return 0, pathError("write", f.name, syscall.EFBIG)
	case !f.m.disk.hasRoom(f.node, off, total):
		return 0, pathError("write", f.name, syscall.ENOSPC)
	}
	struck := f.m.strikes()
	f.node.content.write(slices.Concat(bufs...), off)
	f.node.bringIn(off, total)
	if struck {
		return 0, pathError("write", f.name, ErrPowerLoss)
	}
	f.node.modified = time.Now()
	return total, nil
}

// Advise does nothing but for DontNeed on a disk that forgets.
func (f *memFile) Advise(off, n int64, a Advice) {
	f.m.disk.mu.Lock()
	defer f.m.disk.mu.Unlock()
	if a == DontNeed && f.m.disk.opts.Forgets {
		f.node.takeOut(off, n)
	}
}

func (f *memFile) Size() (int64, error) {
	if err := f.lock("stat", false); err != nil {
		return 0, err
	}
	defer f.m.disk.mu.Unlock()
	return f.node.content.now.size, nil
}

func (f *memFile) Truncate(size int64) error {
	if err := f.lock("truncate", true); err != nil {
		return err
	}
	defer f.m.disk.mu.Unlock()
	switch {
	case size < 0:
		return pathError("truncate", f.name, syscall.EINVAL)
	case size > maxMemFile:
		return pathError("truncate", f.name, syscall.EFBIG)
	}
	struck := f.m.strikes()
	f.node.content.truncate(size)
	if struck {
		return pathError("truncate", f.name, ErrPowerLoss)
	}
	f.node.modified = time.Now()
	return nil
}

// Sync makes data and size durable, not the name. Also through a file opened read-only.
func (f *memFile) Sync() error {
	if err := f.lock("sync", false); err != nil {
		return err
	}
	defer f.m.disk.mu.Unlock()
	if f.m.strikes() { // what is left of it is a choice among the changes: Crash's
		return pathError("sync", f.name, ErrPowerLoss)
	}
	if !f.m.disk.opts.IgnoreSync {
		f.node.content.sync()
	}
	return nil
}

// failSync is an fsync that failed: the kernel marks the pages clean, so that they are
// readable and no later Sync writes them. The size is metadata and goes with the next Sync.
func (f *memFile) failSync() {
	f.m.disk.mu.Lock()
	defer f.m.disk.mu.Unlock()
	if !f.m.dead && !f.closed {
		f.node.content.settle()
	}
}

func (f *memFile) Close() error {
	if err := f.lock("close", false); err != nil {
		return err
	}
	defer f.m.disk.mu.Unlock()
	f.closed = true
	return nil
}

// FD is -1: there is no descriptor.
func (f *memFile) FD() int { return -1 }
