package mission

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// number is what an environment variable says, or n.
func number(t *testing.T, name string, n int) int {
	if s := os.Getenv(name); s != "" {
		v, err := strconv.Atoi(s)
		must(t, err)
		return v
	}
	return n
}

// metric is one value of the broker's /metrics.
func (p *process) metric(name string) int64 {
	p.t.Helper()
	resp, err := http.Get("http://" + p.http + "/metrics")
	must(p.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(p.t, err)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			must(p.t, err)
			return int64(v)
		}
	}
	p.t.Fatalf("no %s in\n%s", name, text)
	return 0
}

// until waits for a condition that must come true.
func (p *process) until(what string, f func() bool) {
	p.t.Helper()
	for !f() {
		if p.ctx.Err() != nil {
			p.t.Fatalf("never happened: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// raw is a connection below any client library.
func (p *process) raw() (net.Conn, error) {
	nc, err := net.Dial("tcp", p.addr)
	if err == nil {
		deadline, _ := p.ctx.Deadline()
		err = nc.SetDeadline(deadline)
	}
	return nc, err
}

// asked sends a request as it is and reads the answer.
func asked(nc net.Conn, frame []byte) error {
	if _, err := nc.Write(frame); err != nil {
		return err
	}
	var size [4]byte
	if _, err := io.ReadFull(nc, size[:]); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, nc, int64(binary.BigEndian.Uint32(size[:])))
	return err
}

func frame(req kmsg.Request) []byte { return kmsg.NewRequestFormatter().AppendRequest(nil, req, 1) }

// steady counts what clients get answered while others misbehave.
type steady struct {
	stop  atomic.Bool
	wg    sync.WaitGroup
	count []atomic.Int64
}

// active starts n clients, each of which produces a record again and again.
func (p *process) active(n int, topic string) *steady {
	s := &steady{count: make([]atomic.Int64, n)}
	for i := range n {
		c := p.client(kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		s.wg.Go(func() {
			defer c.Close()
			for !s.stop.Load() {
				if err := c.ProduceSync(p.ctx, &kgo.Record{Value: []byte("still here")}).FirstErr(); err != nil {
					p.t.Errorf("active client %d: %v", i, err)
					return
				}
				s.count[i].Add(1)
			}
		})
	}
	return s
}

// goesOn waits until every active client has been answered a few times more.
func (s *steady) goesOn(p *process, meanwhile string) {
	p.t.Helper()
	before := make([]int64, len(s.count))
	for i := range s.count {
		before[i] = s.count[i].Load()
	}
	p.until("all active clients were answered "+meanwhile, func() bool {
		for i := range s.count {
			if s.count[i].Load() < before[i]+3 {
				return false
			}
		}
		return true
	})
}

// TestConnections: very many idle connections cost little, and neither they nor clients that dribble, do not read, or come and go keep
// a client from its answers. CONNECTIONS (default 300) says how many are idle; a hundredth, at least 10, is active.
func TestConnections(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("counts the broker's descriptors and memory in /proc")
	}
	n := number(t, "CONNECTIONS", 300)
	p := serverIn(t, t.TempDir(), freeAddr(t))
	p.create("active", 1, nil)
	act := p.active(max(10, n/100), "active")
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			act.stop.Store(true)
			act.wg.Wait()
		}
	}
	defer stop()
	act.goesOn(p, "on their own")
	hello := frame(&kmsg.ApiVersionsRequest{})
	goroutines, fds := p.metric("go_goroutines"), p.metric("process_open_fds")
	memory, stacks := p.metric("process_resident_memory_bytes"), p.metric("go_memstats_stack_inuse_bytes")

	// All come at once.
	idle := make([]net.Conn, n)
	var dialers sync.WaitGroup
	var next atomic.Int64
	began := time.Now()
	for range 64 {
		dialers.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				nc, err := p.raw()
				if err == nil {
					err = asked(nc, hello)
				}
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
				idle[i] = nc
			}
		})
	}
	dialers.Wait()
	if t.Failed() {
		return
	}
	storm := time.Since(began)
	act.goesOn(p, "beside the idle ones")
	if grown := p.metric("go_goroutines") - goroutines; grown > int64(n+n/10+50) {
		t.Errorf("%d idle connections have %d goroutines", n, grown)
	}
	// Long enough for a collection: /metrics makes garbage too.
	t.Logf("%d idle connections, which came within %v: %d bytes of memory each, of them %d of stack, %d descriptors", n, storm.Round(time.Millisecond),
		(p.metric("process_resident_memory_bytes")-memory)/int64(n), (p.metric("go_memstats_stack_inuse_bytes")-stacks)/int64(n), p.metric("process_open_fds")-fds)

	t.Run("half frames", func(t *testing.T) {
		began := time.Now()
		for i := range n {
			half := hello[:1+i%(len(hello)-1)]
			_, err := idle[i].Write(half)
			must(t, err)
		}
		act.goesOn(p, "beside half frames")
		for i := range n {
			err := asked(idle[i], hello[1+i%(len(hello)-1):]) // the other half
			if err != nil && time.Since(began) > 25*time.Second {
				t.Logf("the broker gives a frame 30 s and this machine took %v: %v", time.Since(began), err)
				break
			}
			must(t, err)
		}
	})

	t.Run("large half frames", func(t *testing.T) {
		// Each claims 50 MB and sends 60 KB of it: more than the budget for requests holds, were it taken by what is claimed.
		claim := binary.BigEndian.AppendUint32(nil, 50<<20)
		claim = binary.BigEndian.AppendUint16(claim, uint16(kmsg.Produce))
		claim = append(claim, make([]byte, 60_000)...)
		var bad []net.Conn
		for range min(n, 500) {
			nc, err := p.raw()
			must(t, err)
			defer nc.Close()
			_, err = nc.Write(claim)
			must(t, err)
			bad = append(bad, nc)
		}
		act.goesOn(p, "beside large half frames")
		for _, nc := range bad {
			nc.Close()
		}
	})

	t.Run("nobody reads the answers", func(t *testing.T) {
		req := kmsg.NewPtrMetadataRequest()
		req.Version = 12
		for range 20 {
			nc, err := p.raw()
			must(t, err)
			defer nc.Close()
			_ = nc.(*net.TCPConn).SetReadBuffer(1 << 10)
			_ = nc.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
			for err == nil { // until the broker takes no more of it
				_, err = nc.Write(frame(req))
			}
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error(err)
			}
			if t.Failed() || testing.Short() {
				break
			}
		}
		act.goesOn(p, "beside clients that do not read")
	})

	t.Run("come and go", func(t *testing.T) {
		var end atomic.Bool
		var times atomic.Int64
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for !end.Load() {
					nc, err := p.raw()
					if err != nil {
						t.Error(err)
						return
					}
					_ = nc.(*net.TCPConn).SetLinger(0) // no port is left waiting
					if times.Add(1)%2 == 0 {
						_ = asked(nc, hello)
					}
					nc.Close()
				}
			})
		}
		p.until("a client came and went", func() bool { return times.Load() > 100 })
		act.goesOn(p, "beside a client that comes and goes")
		was := times.Load()
		p.until("and it still does", func() bool { return times.Load() > was+100 })
		end.Store(true)
		wg.Wait()
	})

	for _, nc := range idle {
		nc.Close()
	}
	stop()
	p.until("all descriptors are back", func() bool { return p.metric("process_open_fds") <= fds })
	p.until("all goroutines are back", func() bool { return p.metric("go_goroutines") <= goroutines })
}

// TestConnectionLimits: limits change while the broker runs; who is beyond max.connections waits, who is beyond
// max.connections.per.ip is sent away.
func TestConnectionLimits(t *testing.T) {
	p := server(t)
	adm := kadm.NewClient(p.client())
	hello := frame(&kmsg.ApiVersionsRequest{})
	set := func(key, value string) {
		t.Helper()
		op := kadm.AlterConfig{Op: kadm.SetConfig, Name: key, Value: &value}
		if value == "" {
			op = kadm.AlterConfig{Op: kadm.DeleteConfig, Name: key}
		}
		r, err := adm.AlterBrokerConfigs(p.ctx, []kadm.AlterConfig{op}, 1)
		must(t, err)
		must(t, r[0].Err)
	}
	connect := func() net.Conn {
		t.Helper()
		nc, err := p.raw()
		must(t, err)
		t.Cleanup(func() { nc.Close() })
		return nc
	}
	must(t, asked(connect(), hello))

	set("max.connections.per.ip", "1")
	p.until("a further connection is refused", func() bool { return asked(connect(), hello) != nil })
	set("max.connections.per.ip", "")
	p.until("it is not any more", func() bool { return asked(connect(), hello) == nil })

	set("max.connections", "1") // the least recently used ones go: of the clients' own too
	p.until("connections wait", func() bool { return strings.Contains(p.log.String(), "limit reached") })
	waits := make([]chan error, 5)
	for i := range waits {
		waits[i] = make(chan error, 1)
		nc := connect()
		go func() {
			err := asked(nc, hello)
			nc.Close()
			waits[i] <- err
		}()
	}
	adm.Close()
	for i := range waits {
		if err := <-waits[i]; err != nil { // one after the other
			t.Error(fmt.Errorf("connection %d: %w", i, err))
		}
	}
}
