package broker

import (
	"io/fs"
	"log/slog"
	"sync"

	"moldau/internal/vfs"
)

// audit is the file of what access control denied and who changed it: a JSON object a line. Lines are written by one goroutine, so
// that a slow disk holds up no request; what does not fit into its queue is dropped, and counted in a line of its own. The file is kept
// below auditBytes and once more as audit.log.1.
type audit struct {
	fs    vfs.FS
	path  string
	log   *slog.Logger
	lines chan []byte
	wg    sync.WaitGroup

	mu      sync.Mutex // guards the following
	closed  bool
	dropped int
}

const (
	auditQueue = 1024
	auditBytes = 16 << 20
)

// openAudit begins; nothing is written, and no file made, before there is a line.
func openAudit(fsys vfs.FS, path string, log *slog.Logger) *audit {
	a := &audit{fs: fsys, path: path, log: log, lines: make(chan []byte, auditQueue)}
	a.wg.Add(1)
	go a.startWriting()
	return a
}

// Write takes a line; it never blocks. Safe for concurrent use.
func (a *audit) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return 0, fs.ErrClosed
	}
	select {
	case a.lines <- append([]byte(nil), line...):
	default:
		a.dropped++
	}
	return len(line), nil
}

// Close writes what is queued. A nil audit is closed.
func (a *audit) Close() {
	if a == nil {
		return
	}
	a.mu.Lock()
	if !a.closed {
		a.closed = true
		close(a.lines)
	}
	a.mu.Unlock()
	a.wg.Wait()
}

// takeDropped returns how many lines were dropped since it was last called.
func (a *audit) takeDropped() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.dropped
	a.dropped = 0
	return n
}

func (a *audit) startWriting() {
	defer a.wg.Done()
	f := &auditFile{fs: a.fs, path: a.path}
	defer f.close()
	own := slog.New(slog.NewJSONHandler(f, nil))
	failing := false
	for line := range a.lines {
		_, err := f.Write(line)
		if n := a.takeDropped(); n > 0 {
			own.Warn("dropped", "lines", n)
		}
		if (err != nil) != failing { // once when it begins, and once when it is over
			failing = err != nil
			if failing {
				a.log.Error("the audit log cannot be written", "file", a.path, "error", err)
			} else {
				a.log.Info("the audit log is written again", "file", a.path)
			}
		}
	}
}

// auditFile appends to a file that it opens at the first line, and moves it away when it is full.
type auditFile struct {
	fs   vfs.FS
	path string
	f    vfs.File
	size int64
}

func (a *auditFile) Write(p []byte) (int, error) {
	if a.f != nil && a.size+int64(len(p)) > auditBytes {
		a.close()
		if err := a.fs.Rename(a.path, a.path+".1"); err != nil {
			return 0, err
		}
	}
	if a.f == nil {
		f, err := a.fs.Open(a.path, vfs.Create)
		if err != nil {
			return 0, err
		}
		size, err := f.Size()
		if err != nil {
			f.Close()
			return 0, err
		}
		a.f, a.size = f, size
	}
	n, err := a.f.WriteAt(p, a.size)
	if err == nil { // else the next line is written over what there is of this one
		a.size += int64(n)
	}
	return n, err
}

func (a *auditFile) close() {
	if a.f != nil {
		a.f.Close()
		a.f = nil
	}
}
