package network

import (
	"bytes"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// osFile is an OS file as a region needs it.
type osFile struct {
	vfs.File // not called
	f        *os.File
}

func (f osFile) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }
func (f osFile) FD() int                                 { return int(f.f.Fd()) }

// memFile is a file without a descriptor.
type memFile struct {
	vfs.File
	r *bytes.Reader
}

func (f memFile) ReadAt(p []byte, off int64) (int, error) { return f.r.ReadAt(p, off) }
func (f memFile) FD() int                                 { return -1 }

func testFiles(t *testing.T, data []byte) map[string]vfs.File {
	name := filepath.Join(t.TempDir(), "segment.log")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return map[string]vfs.File{"os": osFile{f: f}, "memory": memFile{r: bytes.NewReader(data)}}
}

// What the client reads is byte for byte the pieces in order, whichever way each of them went.
func TestRegionsArriveByteExact(t *testing.T) {
	data := make([]byte, 9<<20)
	rand.New(rand.NewSource(1)).Read(data)
	type transport struct {
		name   string
		file   vfs.File
		change []func(*Options)
	}
	var all []transport
	for name, file := range testFiles(t, data) {
		all = append(all, transport{name, file, nil}, transport{name + " over TLS", file, []func(*Options){overTLSListener(t)}})
	}
	for _, way := range all {
		file := way.file
		t.Run(way.name, func(t *testing.T) {
			for seed := int64(1); seed <= 4; seed++ {
				rnd := rand.New(rand.NewSource(seed))
				svc := &fakeService{early: true}
				want := make(chan []byte, 100)
				svc.start = func(call *fakeCall, _ *Conn, _ int16, _ []byte) error {
					var pieces []wire.Piece
					var body []byte
					for range 1 + rnd.Intn(6) {
						n := []int{0, 1, 5000, chunkBytes - 1, chunkBytes, 700_000, 6 << 20}[rnd.Intn(7)]
						off := rnd.Intn(len(data) - n + 1)
						body = append(body, data[off:off+n]...)
						if rnd.Intn(2) == 0 {
							pieces = append(pieces, wire.Piece{Bytes: data[off : off+n]})
						} else {
							pieces = append(pieces, wire.Piece{Region: vfs.Region{File: file, Off: int64(off), Len: int64(n)}})
						}
					}
					if seed == 1 { // more pieces than one writev takes
						for i := range 3000 {
							pieces = append(pieces, wire.Piece{Bytes: data[i : i+1]})
							body = append(body, data[i])
						}
					}
					whole := response(call.corr, body)
					call.reply.Pieces = append([]wire.Piece{{Bytes: whole[:8]}}, pieces...)
					want <- body
					return nil
				}
				h := serve(t, svc, way.change...)
				nc := h.dial()
				const n = 6
				for i := range n {
					send(t, nc, request(keyProduce, int32(i), nil))
				}
				for i := range n {
					if got := expect(t, nc, int32(i)); !bytes.Equal(got, <-want) {
						t.Fatalf("seed %d: response %d differs", seed, i)
					}
				}
			}
		})
	}
}

func TestFileShorterThanItsRegionClosesTheConnection(t *testing.T) {
	for name, file := range testFiles(t, make([]byte, 1<<20)) {
		for _, size := range []int64{60_000, 600_000} { // copied, and sent by sendfile where there is one
			t.Run(name, func(t *testing.T) {
				r := vfs.Region{File: file, Off: 1<<20 - size/2, Len: size}
				svc := &fakeService{start: func(call *fakeCall, _ *Conn, _ int16, _ []byte) error {
					head := response(call.corr, make([]byte, size))[:8]
					call.reply.Pieces = []wire.Piece{{Bytes: head}, {Region: r}}
					return nil
				}}
				h := serve(t, svc)
				nc := h.dial()
				send(t, nc, request(keyFetch, 1, nil))
				if n, err := io.Copy(io.Discard, nc); err != nil || n > 8+size/2 {
					t.Fatalf("got %d bytes, %v", n, err)
				}
				want := "file with descriptor"
				if name == "os" && runtime.GOOS == "linux" {
					want = "segment.log"
				}
				h.expectLog("could not be sent whole", want, "offset", "unexpected EOF")
			})
		}
	}
}

// A client that takes nothing for IdleTimeout loses its connection, and what it pinned is released.
func TestClientThatTakesNothingIsCut(t *testing.T) {
	for name, file := range testFiles(t, make([]byte, 32<<20)) {
		t.Run(name, func(t *testing.T) {
			svc := &fakeService{start: func(call *fakeCall, _ *Conn, _ int16, _ []byte) error {
				call.reply.Pieces = []wire.Piece{{Region: vfs.Region{File: file, Len: 32 << 20}}}
				return nil
			}}
			h := serve(t, svc, func(o *Options) { o.IdleTimeout = 20e6 })
			for dials := uint64(1); svc.starts.Load() == 0; dials++ { // on a busy machine a connection is idle for too long before its request comes
				nc := h.dial()
				_, _ = nc.Write(request(keyFetch, 1, nil))
				eventually(t, "it starts, or is closed", func() bool {
					h.mu.Lock()
					defer h.mu.Unlock()
					return svc.starts.Load() > 0 || len(h.conns) == 0 && h.lastID.Load() == dials
				})
			}
			eventually(t, "released", func() bool { return svc.live.Load() == 0 })
			h.expectLog("reason=stalled")
		})
	}
}
