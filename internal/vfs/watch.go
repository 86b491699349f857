package vfs

import (
	"sync"
	"time"
)

// Watch is a file system that knows which of its writes and syncs are under way, and since when: a disk
// that hangs does not answer, so somebody else has to look. Reads are not watched.
type Watch struct {
	FS
	mu struct {
		sync.Mutex // guards the following; a leaf, never held over I/O
		pending    []*pending
		free       []*pending
	}
}

// pending is one operation under way. at is its place in Watch.mu.pending.
type pending struct {
	Pending
	at int
}

// Pending is an operation that has not come back yet.
type Pending struct {
	Kind  OpKind
	Name  string
	Since time.Time
}

// NewWatch watches what is written to inner.
func NewWatch(inner FS) *Watch { return &Watch{FS: inner} }

// Oldest is the operation that has been under way for the longest time; ok is false if there is none.
func (w *Watch) Oldest() (oldest Pending, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.mu.pending {
		if !ok || p.Since.Before(oldest.Since) {
			oldest, ok = p.Pending, true
		}
	}
	return oldest, ok
}

func (w *Watch) begin(kind OpKind, name string) *pending {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	var p *pending
	if n := len(w.mu.free); n > 0 {
		p, w.mu.free = w.mu.free[n-1], w.mu.free[:n-1]
	} else {
		p = &pending{}
	}
	p.Pending, p.at = Pending{kind, name, now}, len(w.mu.pending)
	w.mu.pending = append(w.mu.pending, p)
	return p
}

func (w *Watch) end(p *pending) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.mu.pending) - 1
	last := w.mu.pending[n]
	w.mu.pending[p.at], last.at = last, p.at
	w.mu.pending[n] = nil
	w.mu.pending = w.mu.pending[:n]
	w.mu.free = append(w.mu.free, p) // as many as were ever under way at once
}

// Open implements FS.
func (w *Watch) Open(name string, mode Mode) (File, error) {
	f, err := w.FS.Open(name, mode)
	if err != nil {
		return nil, err
	}
	return &watchedFile{f, w, name}, nil
}

// SyncDir implements FS.
func (w *Watch) SyncDir(dir string) error {
	defer w.end(w.begin(OpSyncDir, dir))
	return w.FS.SyncDir(dir)
}

// SyncTree implements FS.
func (w *Watch) SyncTree(dir string) error {
	defer w.end(w.begin(OpSyncTree, dir))
	return w.FS.SyncTree(dir)
}

type watchedFile struct {
	File
	w    *Watch
	name string
}

func (f *watchedFile) WriteAt(p []byte, off int64) (int, error) {
	defer f.w.end(f.w.begin(OpWrite, f.name))
	return f.File.WriteAt(p, off)
}

func (f *watchedFile) WriteVec(bufs [][]byte, off int64) (int64, error) {
	defer f.w.end(f.w.begin(OpWrite, f.name))
	return f.File.WriteVec(bufs, off)
}

func (f *watchedFile) Truncate(size int64) error {
	defer f.w.end(f.w.begin(OpTruncate, f.name))
	return f.File.Truncate(size)
}

func (f *watchedFile) Sync() error {
	defer f.w.end(f.w.begin(OpSync, f.name))
	return f.File.Sync()
}
