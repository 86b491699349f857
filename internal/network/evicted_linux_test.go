//go:build !portable

package network

import (
	"bytes"
	"math/rand"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// evictedFile is a file that leaves memory at some time, on a disk that reads nothing until it is told to.
type evictedFile struct {
	vfs.File
	mu      sync.Mutex // guards the following
	evicted bool
	reading int // under way
	most    int
	reads   int
	open    chan struct{} // closed: the disk reads
}

func (f *evictedFile) Resident(_, n int64) int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.evicted {
		return 0
	}
	return n
}

func (f *evictedFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	f.reads++
	f.reading++
	f.most = max(f.most, f.reading)
	f.mu.Unlock()
	<-f.open
	defer func() {
		f.mu.Lock()
		f.reading--
		f.mu.Unlock()
	}()
	return f.File.ReadAt(p, off)
}

func (f *evictedFile) waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reading
}

// TestEvictedAnswers: clients are so slow that the pages of their answers are evicted meanwhile. A few of their writers wait for the
// disk at a time, whoever needs no disk is served, and in the end everybody has every byte.
func TestEvictedAnswers(t *testing.T) {
	const clients, turns, size = 6, 2, 24 << 20 // more than the buffers of a socket take
	data := make([]byte, size)
	rand.New(rand.NewSource(1)).Read(data)
	name := filepath.Join(t.TempDir(), "segment.log")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := vfs.OS().Open(name, vfs.ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	f := &evictedFile{File: file, open: make(chan struct{})}
	r := vfs.Region{File: f, Len: size, Turns: vfs.NewTurns(turns)}
	svc := &fakeService{start: func(call *fakeCall, _ *Conn, key int16, _ []byte) error {
		if key == keyFetch {
			call.reply.Pieces = []wire.Piece{{Bytes: response(call.corr, make([]byte, size))[:8]}, {Region: r}}
		}
		return nil
	}}
	h := serve(t, svc)
	var once sync.Once
	read := func() { once.Do(func() { close(f.open) }) }
	t.Cleanup(read)
	f.mu.Lock()
	f.evicted = true
	f.mu.Unlock()
	var all sync.WaitGroup
	var whole sync.Map // client: it has the answer
	receive := func(i int, nc interface{ Read([]byte) (int, error) }) {
		got := make([]byte, 8+size)
		for n := 0; n < len(got); {
			k, err := nc.Read(got[n:])
			if n += k; err != nil && n < len(got) {
				t.Errorf("client %d: %d bytes, %v", i, n, err)
				return
			}
		}
		if !bytes.Equal(got[8:], data) {
			t.Errorf("client %d: other bytes", i)
		}
		whole.Store(i, true)
	}
	served := func() (n int) {
		whole.Range(func(any, any) bool { n++; return true })
		return n
	}
	for i := range clients {
		nc := h.dial()
		send(t, nc, request(keyFetch, int32(i), nil))
		all.Go(func() { receive(i, nc) })
	}
	eventually(t, "as many as may wait for the disk", func() bool { return f.waiting() == turns || served() > 0 })
	if n := served(); n > 0 {
		t.Fatalf("%d clients have what was not in memory, and the disk has read nothing", n)
	}
	other := h.dial()
	send(t, other, request(keyTiny, 7, nil))
	expect(t, other, 7)
	read()
	all.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.most > turns {
		t.Errorf("%d reads waited at the same time, expected at most %d", f.most, turns)
	}
	if f.reads < clients {
		t.Errorf("%d reads for %d clients", f.reads, clients)
	}
}
