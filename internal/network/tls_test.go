package network

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"flag"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"moldau/internal/wire"
	"moldau/test/certs"
)

// overTLS runs the tests of this package that dial by the harness over TLS, but for those that look at sockets themselves.
var overTLS = flag.Bool("network.tls", false, "dial over TLS")

// testAuthority makes certificates for one test.
type testAuthority struct {
	ca   *certs.Pair
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *testAuthority {
	t.Helper()
	ca := certs.CA(t, "a CA")
	return &testAuthority{ca, ca.Pool()}
}

// issue makes a certificate for localhost.
func (a *testAuthority) issue(t testing.TB, name string) tls.Certificate {
	t.Helper()
	return a.ca.Issue(t, name, time.Hour).TLS()
}

// withTLS makes a server's listeners TLS listeners.
func withTLS(config *tls.Config) func(*Options) {
	return func(o *Options) {
		for i := range o.Listeners {
			o.Listeners[i].TLS = config
		}
	}
}

func serverTLS(t testing.TB, a *testAuthority) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{a.issue(t, "broker")}, DynamicRecordSizingDisabled: true}
}

// overTLSListener makes listeners TLS listeners that dial knows.
func overTLSListener(t testing.TB) func(*Options) { return withTLS(serverTLS(t, newAuthority(t))) }

func (a *testAuthority) dial(t testing.TB, h *harness) *tls.Conn { return dialTLS(t, h, a.pool) }

func dialTLS(t testing.TB, h *harness, roots *x509.CertPool) *tls.Conn {
	t.Helper()
	c := tls.Client(h.dialPlain(), &tls.Config{RootCAs: roots, ServerName: "localhost"})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	return c
}

// TestBadHandshakesStandAlone: who speaks no TLS, says nothing, or never comes to an end is named in the log, and nobody waits for him.
func TestBadHandshakesStandAlone(t *testing.T) {
	a := newAuthority(t)
	config := serverTLS(t, a)
	config.ClientCAs, config.ClientAuth = a.pool, tls.RequireAndVerifyClientCert
	svc := &fakeService{}
	reg := prometheus.NewRegistry()
	h := serve(t, svc, withTLS(config), func(o *Options) { o.Registerer = reg })

	var silent []net.Conn // more than handshakes that may calculate at once
	for range 4 * (1 + strangerSlots()) {
		silent = append(silent, h.dialPlain())
		half := h.dialPlain()
		send(t, half, []byte{22, 3, 1, 0, 200, 1, 0})
		silent = append(silent, half)
	}
	check := func(who string, talk func(nc net.Conn), cause string) {
		t.Helper()
		h.badFrames.mu.Lock() // every line counts here
		h.badFrames.last = time.Time{}
		h.badFrames.mu.Unlock()
		nc := h.dialPlain()
		talk(nc)
		h.expectLog("TLS handshake failed", cause)
	}
	check("Kafka without TLS", func(nc net.Conn) { send(t, nc, request(keyTiny, 1, make([]byte, 50))) }, "the client speaks no TLS")
	check("no certificate", func(nc net.Conn) {
		c := tls.Client(nc, &tls.Config{RootCAs: a.pool, ServerName: "localhost"})
		_ = c.Handshake()
		_, _ = c.Read(make([]byte, 1))
	}, "the client shows no certificate")
	check("a stranger's certificate", func(nc net.Conn) {
		b := newAuthority(t)
		c := tls.Client(nc, &tls.Config{RootCAs: a.pool, ServerName: "localhost", Certificates: []tls.Certificate{b.issue(t, "stranger")}})
		_ = c.Handshake()
		_, _ = c.Read(make([]byte, 1))
	}, "the client's certificate does not lead to one in ssl.truststore")
	check("a client that does not trust us", func(nc net.Conn) {
		_ = tls.Client(nc, &tls.Config{RootCAs: newAuthority(t).pool, ServerName: "localhost"}).Handshake()
	}, "the client does not trust the broker's certificate")
	check("old TLS", func(nc net.Conn) {
		_ = tls.Client(nc, &tls.Config{RootCAs: a.pool, ServerName: "localhost", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}).Handshake()
	}, "no version or cipher suite of TLS in common")
	check("too long", func(nc net.Conn) {
		for n := 0; n < 2*handshakeBytes; n += 16000 { // a ClientHello that claims to be as long as it may
			record := []byte{22, 3, 1, 16000 >> 8, 16000 & 0xff}
			body := make([]byte, 16000)
			if n == 0 {
				copy(body, []byte{1, 0, 0xff, 0xff})
			}
			if _, err := nc.Write(append(record, body...)); err != nil {
				return
			}
		}
	}, `cause="see error"`)

	counts := counters(t, reg)
	for label, want := range map[string]float64{
		"moldau_network_tls_handshakes_failed_total PLAINTEXT no_tls": 1, "moldau_network_tls_handshakes_failed_total PLAINTEXT no_client_certificate": 1,
		"moldau_network_tls_handshakes_failed_total PLAINTEXT client_certificate_untrusted": 1, "moldau_network_tls_handshakes_failed_total PLAINTEXT broker_certificate_untrusted": 1,
		"moldau_network_tls_handshakes_failed_total PLAINTEXT no_common_version": 1, "moldau_network_tls_handshakes_failed_total PLAINTEXT other": 1,
		"kafka_server_socket_server_metrics_failed_authentication_total PLAINTEXT SSL": 6,
	} {
		if counts[label] != want {
			t.Errorf("%s is %v, want %v", label, counts[label], want)
		}
	}

	c := tls.Client(h.dialPlain(), &tls.Config{RootCAs: a.pool, ServerName: "localhost", Certificates: []tls.Certificate{a.issue(t, "friend")}})
	send(t, c, request(keyFetch, 7, nil))
	expect(t, c, 7)
	for i := range silent {
		_ = silent[i].Close()
	}
}

// counters are the values of all counters by their name, listener and other labels.
func counters(t testing.TB, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key, listener := f.GetName(), ""
			for _, l := range m.GetLabel() {
				if l.GetName() == "listener" {
					listener = " " + l.GetValue()
				}
			}
			key += listener
			for _, l := range m.GetLabel() {
				if l.GetName() != "listener" {
					key += " " + l.GetValue()
				}
			}
			out[key] = m.GetCounter().GetValue()
		}
	}
	return out
}

// TestTLSConnectionsWaitWithoutABuffer: a connection over which nothing comes, or a part of a record, holds nothing of the budget.
func TestTLSConnectionsWaitWithoutABuffer(t *testing.T) {
	a := newAuthority(t)
	h := serve(t, &fakeService{}, withTLS(serverTLS(t, a)))
	var all []*tls.Conn
	for i := range 10 {
		c := a.dial(t, h)
		send(t, c, request(keyFetch, int32(i), make([]byte, 9000)))
		expect(t, c, int32(i))
		all = append(all, c)
	}
	for _, c := range all { // the head of a record that never comes
		send(t, c.NetConn(), []byte{23, 3, 3, 0x40, 0, 1, 2, 3, 4, 5, 6})
	}
	eventually(t, "no request memory in use", func() bool { return h.mem.known.available() == h.opt.QueuedBytes })
}

// TestTLSInSmallPieces: what comes byte by byte, in records of one byte, or in several records at once is the same to the service.
func TestTLSInSmallPieces(t *testing.T) {
	a := newAuthority(t)
	svc := &fakeService{early: true}
	svc.start = func(call *fakeCall, _ *Conn, _ int16, frame []byte) error {
		call.reply.Pieces = []wire.Piece{{Bytes: response(call.corr, nil)[:4]}, {Bytes: response(call.corr, nil)[4:8]}, {Bytes: bytes.Clone(frame[8:])}}
		binary.BigEndian.PutUint32(call.reply.Pieces[0].Bytes, uint32(len(frame)-4))
		return nil
	}
	h := serve(t, svc, withTLS(serverTLS(t, a)))
	body := make([]byte, 200_000)
	_, _ = rand.Read(body)
	c := a.dial(t, h)
	for _, chunk := range []int{1, 7, 16 << 10, 100_000, 1 << 20} {
		size := len(body)
		if chunk < 100 {
			size = 3000
		}
		whole := append(request(keyProduce, 1, body[:size]), request(keyProduce, 2, body[:size])...)
		go func() {
			for len(whole) > 0 {
				n := min(chunk, len(whole))
				if _, err := c.Write(whole[:n]); err != nil {
					return
				}
				whole = whole[n:]
			}
		}()
		for corr := int32(1); corr <= 2; corr++ {
			if got := expect(t, c, corr); !bytes.Equal(got, body[:size]) {
				t.Fatalf("in pieces of %d: the answer is not what was sent", chunk)
			}
		}
	}
}

// TestNewCertificate: a certificate that is replaced is seen by new connections, and those that are open go on.
func TestNewCertificate(t *testing.T) {
	a := newAuthority(t)
	var current atomic.Pointer[tls.Config]
	current.Store(serverTLS(t, a))
	h := serve(t, &fakeService{}, withTLS(&tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.Load(), nil }}))
	old := a.dial(t, h)
	first := old.ConnectionState().PeerCertificates[0].SerialNumber
	current.Store(serverTLS(t, a))
	for i := range int32(3) {
		c := a.dial(t, h)
		if c.ConnectionState().PeerCertificates[0].SerialNumber.Cmp(first) == 0 {
			t.Error("a new connection sees the old certificate")
		}
		for _, c := range []*tls.Conn{c, old} {
			send(t, c, request(keyFetch, i, nil))
			expect(t, c, i)
		}
	}
}

// TestTheEndOfTLSIsTold: a connection that the server closes in order ends with TLS's own end, so that nothing can be cut off unseen.
func TestTheEndOfTLSIsTold(t *testing.T) {
	a := newAuthority(t)
	svc := &fakeService{start: func(call *fakeCall, _ *Conn, key int16, _ []byte) error {
		call.reply.CloseAfter = key == keyFetch
		return nil
	}}
	h := serve(t, svc, withTLS(serverTLS(t, a)))
	c := a.dial(t, h)
	send(t, c, request(keyFetch, 1, nil))
	expect(t, c, 1)
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "unexpected") {
		t.Errorf("the connection ended with %v", err)
	}
}
