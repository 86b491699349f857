package network

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"moldau/internal/wire"
)

func TestBusyPortNamesItsHolder(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, err = Listen(Options{Service: &fakeService{}, Listeners: []Listener{
		{Name: "FIRST", Addr: "127.0.0.1:0"}, {Name: "INTERNAL", Addr: ln.Addr().String()}}})
	if err == nil {
		t.Fatal("bound a busy port")
	}
	want := []string{"listener INTERNAL", ln.Addr().String(), "in use"}
	if runtime.GOOS == "linux" {
		want = append(want, fmt.Sprintf("process %d (", os.Getpid()))
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestBindErrorsSayWhatToDo(t *testing.T) {
	for _, c := range []struct{ addr, want string }{
		{"nonsense", "is not host:port"},
		{"127.0.0.1:99999", "is not a port"},
		{"192.0.2.1:9092", "no interface of this machine"},
	} {
		_, err := Listen(Options{Service: &fakeService{}, Listeners: []Listener{{Name: "X", Addr: c.addr}}})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "listener X") {
			t.Errorf("%s: %v; want %q", c.addr, err, c.want)
		}
	}
	err := BindError("listener X", "127.0.0.1:80", &net.OpError{Err: os.NewSyscallError("bind", fs.ErrPermission)})
	if !strings.Contains(err.Error(), "choose a port from 1024 on") {
		t.Errorf("permission: %v", err)
	}
}

func TestLocalhostBindsBothFamiliesOnOnePort(t *testing.T) {
	h := serve(t, &fakeService{}, func(o *Options) {
		o.Listeners = []Listener{{Name: "A", Addr: "localhost:0"}, {Name: "B", Addr: ":0"}}
	})
	addrs := h.Addrs()
	if probe, err := net.Listen("tcp6", "[::1]:0"); err == nil {
		probe.Close()
		if len(addrs) != 3 || addrs[0].Addr.Port() != addrs[1].Addr.Port() || !addrs[1].Addr.Addr().Is6() {
			t.Fatalf("addresses: %v", addrs)
		}
	}
	for _, a := range addrs {
		to := a.Addr
		if to.Addr().IsUnspecified() {
			to = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), to.Port())
		}
		nc, err := net.Dial("tcp", to.String())
		if err != nil {
			t.Fatal(err)
		}
		send(t, nc, request(keyTiny, 5, nil))
		expect(t, nc, 5)
		nc.Close()
	}
}

func TestConnectionKnowsItsListenerAndAddresses(t *testing.T) {
	got := make(chan string, 1)
	svc := &fakeService{start: func(_ *fakeCall, c *Conn, _ int16, _ []byte) error {
		got <- fmt.Sprint(c.Listener(), c.Local(), c.Remote(), c.ID())
		return nil
	}}
	h := serve(t, svc, func(o *Options) { o.Listeners = []Listener{{Name: "INTERNAL", Addr: ":0"}} })
	nc, err := net.Dial("tcp4", fmt.Sprintf("127.0.0.1:%d", h.Addrs()[0].Addr.Port()))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	send(t, nc, request(keyTiny, 1, nil))
	expect(t, nc, 1)
	want := fmt.Sprint("INTERNAL", nc.RemoteAddr(), " ", nc.LocalAddr(), " ", 1)
	if s := <-got; s != want {
		t.Fatalf("got %q, want %q", s, want)
	}
}

func TestAcceptorOutlivesWantOfDescriptors(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs prlimit")
	}
	if os.Getenv("NETWORK_TEST_CHILD") == "" {
		cmd := exec.Command("/bin/sh", "-c", `ulimit -n 40; exec "$0" -test.run '^TestAcceptorOutlivesWantOfDescriptors$'`, os.Args[0])
		cmd.Env = append(os.Environ(), "NETWORK_TEST_CHILD=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	h := serve(t, &fakeService{})
	var conns []net.Conn
	for {
		nc, err := net.Dial("tcp", h.Addrs()[0].Addr.String())
		if err != nil {
			break
		}
		conns = append(conns, nc)
	}
	h.expectLog("cannot accept connections")
	for _, nc := range conns {
		nc.Close()
	}
	nc := h.dial()
	send(t, nc, request(keyTiny, 1, nil))
	expect(t, nc, 1)
}

func TestMetricsCountRequestsByApiAndStage(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	svc := &fakeService{start: func(call *fakeCall, _ *Conn, key int16, _ []byte) error {
		if key == keyFetch {
			call.delay = 3 * time.Millisecond
		}
		call.reply.Pieces = []wire.Piece{{Bytes: response(call.corr, make([]byte, 92))}}
		return nil
	}}
	h := serve(t, svc, func(o *Options) { o.Registerer = reg; o.SlowRequest = time.Nanosecond })
	nc := h.dial()
	for i, key := range []int16{keyFetch, keyProduce, keyFetch, 4000} {
		send(t, nc, request(key, int32(i), nil))
		expect(t, nc, int32(i))
	}
	nc.Close()
	eventually(t, "closed", func() bool {
		return h.mem.known.available() == h.opt.QueuedBytes && svc.starts.Load() == 4 && svc.live.Load() == 0
	})
	eventually(t, "counted", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.conns) == 0
	})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range families {
		for _, m := range f.Metric {
			labels := ""
			for _, l := range m.Label {
				labels += " " + l.GetValue()
			}
			switch {
			case m.Histogram == nil:
				got = append(got, fmt.Sprint(f.GetName(), labels, " ", m.Counter.GetValue()+m.Gauge.GetValue()))
			case strings.Contains(labels, "RemoteTime"):
				got = append(got, fmt.Sprint(f.GetName(), labels, " ", m.Histogram.GetSampleCount()))
				if delayed := strings.Contains(labels, "Fetch"); delayed && m.Histogram.GetSampleSum() < 0.006 {
					t.Errorf("two fetches that take 3 ms each are counted with %v s", m.Histogram.GetSampleSum())
				}
			}
		}
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{
		"moldau_network_accepted_total PLAINTEXT 1",
		"moldau_network_closed_total client 1",
		"moldau_network_connections PLAINTEXT 0",
		"moldau_network_received_bytes_total 48",
		"moldau_network_sent_bytes_total 400",
		"moldau_network_request_seconds Fetch RemoteTime 2",
		"moldau_network_request_seconds Produce RemoteTime 1",
		"moldau_network_request_seconds Unknown RemoteTime 1",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	h.expectLog("slow request", "api=Fetch", "remote=")
}

func TestHistogramBoundsAreInclusive(t *testing.T) {
	for _, c := range []struct {
		d    time.Duration
		want int
	}{{-5, 0}, {0, 0}, {16 * time.Microsecond, 0}, {16*time.Microsecond + 1, 1}, {32 * time.Microsecond, 1},
		{33 * time.Microsecond, 2}, {time.Hour, bucketCount}} {
		var h histogram
		h.observe(c.d)
		if h.buckets[c.want].Load() != 1 {
			t.Errorf("%v is not in bucket %d", c.d, c.want)
		}
	}
}

func BenchmarkProduceAcks(b *testing.B) {
	svc := &pooledService{answer: []wire.Piece{{Bytes: response(7, make([]byte, 40))}}}
	s, err := Listen(Options{Listeners: []Listener{{Addr: "127.0.0.1:0"}}, Service: svc, IdleTimeout: time.Minute})
	if err != nil {
		b.Fatal(err)
	}
	s.Serve()
	defer s.Abort()
	nc, err := net.Dial("tcp", s.Addrs()[0].Addr.String())
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	frame := request(keyProduce, 7, make([]byte, 1000))
	in := bufio.NewReaderSize(nc, 1<<16)
	out := bufio.NewWriterSize(nc, 1<<16)
	p := make([]byte, len(svc.answer[0].Bytes))
	const burst = 32
	b.ReportAllocs()
	for n := 0; n < b.N; n += burst {
		for range burst {
			if _, err := out.Write(frame); err != nil {
				b.Fatal(err)
			}
		}
		if err := out.Flush(); err != nil {
			b.Fatal(err)
		}
		for range burst {
			if _, err := io.ReadFull(in, p); err != nil {
				b.Fatal(errors.Join(err))
			}
		}
	}
}
