package network

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	helloBytes     = 8 << 10  // of a client's handshake, but for its certificates
	handshakeBytes = 32 << 10 // with its certificates; Java takes as much
	recordBytes    = 16 << 10 // the most that TLS carries in one record
	recordExtra    = 256      // more than what a record adds to what it carries
)

// How TLS is laid between a connection and its socket. crypto/tls reads from a link and writes to it, and the link
// knows how this package waits: for the reader it can take what the socket has and say errNotReady, so that an idle connection
// waits without a buffer; for the writer it gathers records and sends many by one call.
//
// A handshake is made by the connection's own reader, so that nobody waits for it: not the acceptor, not another
// connection. It has strangerTime and handshakeBytes. Its arithmetic is what makes it dear, and has to wait for its turn (Conn.enter).

// errNotReady is a read that would have to wait. It is temporary, so that crypto/tls keeps what it has and can go on.
var errNotReady net.Error = notReady{}

type notReady struct{}

func (notReady) Error() string   { return "nothing to read" }
func (notReady) Timeout() bool   { return true }
func (notReady) Temporary() bool { return true }

// errHandshakeBytes ends a handshake that has read all that it may.
var errHandshakeBytes = errors.New("the client's handshake is longer than 8 KiB, with certificates 32 KiB")

// handshakeError is why there is no TLS.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// secured is TLS over a link.
type secured struct {
	*tls.Conn
	link *link
}

// link is the socket of a TLS connection, as crypto/tls sees it.
type link struct {
	*net.TCPConn
	c *Conn

	shaking bool      // until the handshake is over; the reader's
	until   time.Time // when it must be
	in      bool      // it is its turn to calculate; the reader's
	left    int       // bytes that the handshake may still read
	whole   recordEnd // of a stranger
	now     bool      // Read does not wait; the reader's

	mu     sync.Mutex // guards the following, over I/O
	corked int        // so large a buffer gathers records; 0: they go at once
	out    *slab      // gathered records, nil if there are none
	n      int
}

// counted is the configuration of a listener, under which a client that is asked for certificates may send them.
func counted(config *tls.Config) *tls.Config {
	if config == nil {
		return nil
	}
	out, choose := config.Clone(), config.GetConfigForClient
	out.GetConfigForClient = func(hello *tls.ClientHelloInfo) (chosen *tls.Config, err error) {
		in := config
		if choose != nil {
			if chosen, err = choose(hello); chosen != nil {
				in = chosen
			}
		}
		if in.ClientAuth != tls.NoClientCert {
			hello.Conn.(*link).left += handshakeBytes - helloBytes
		}
		return chosen, err
	}
	return out
}

// secure lays TLS over a connection; config is that of its listener.
func (c *Conn) secure(config *tls.Config) {
	l := &link{TCPConn: c.nc, c: c, shaking: true, left: helloBytes}
	c.tls = &secured{Conn: tls.Server(l, config), link: l}
	c.noSendfile = true // the bytes must come by here
}

// Secure reports whether the connection is encrypted.
func (c *Conn) Secure() bool { return c.tls != nil }

// PeerCertificate is the certificate that the client has proved to own, and that leads to one that is trusted; nil if it
// has shown none. From the first request on it does not change.
func (c *Conn) PeerCertificate() *x509.Certificate {
	if c.tls == nil {
		return nil
	}
	state := c.tls.ConnectionState()
	if len(state.VerifiedChains) == 0 || len(state.PeerCertificates) == 0 {
		return nil
	}
	return state.PeerCertificates[0]
}

// handshake makes TLS; nothing on a connection without.
func (c *Conn) handshake() error {
	if c.tls == nil {
		return nil
	}
	l := c.tls.link
	l.until = time.Now().Add(strangerTime)
	c.setReadDeadline(l.until)
	_ = c.nc.SetWriteDeadline(l.until)
	err := c.tls.Handshake()
	l.rest()
	l.shaking = false
	c.setReadDeadline(time.Time{})
	_ = c.nc.SetWriteDeadline(time.Time{})
	if err == nil {
		return nil
	}
	c.mu.Lock()
	quit := c.quit
	c.mu.Unlock()
	if quit {
		return errStopped
	}
	return &handshakeError{err}
}

// rest gives the turn to calculate to another connection.
func (l *link) rest() {
	if l.in {
		l.in = false
		l.c.leave()
	}
}

// resume waits for the turn to calculate.
func (l *link) resume() error {
	err := l.c.enter(l.until)
	l.in = err == nil
	return err
}

// Read implements net.Conn for crypto/tls. Of a stranger crypto/tls gets a record at a time, for else its buffer can
// double.
func (l *link) Read(p []byte) (n int, err error) {
	if l.shaking || l.c.stranger {
		p = p[:min(len(p), l.whole.left())]
		defer func() { l.whole.took(p[:n]) }()
	}
	switch {
	case l.shaking:
		return l.readShaking(p)
	case l.now:
		return l.c.recvNow(p)
	}
	return l.TCPConn.Read(p)
}

// recordEnd follows where the records of a client end.
type recordEnd struct {
	head [5]byte
	have int // of head
	body int // bytes of the record that are to come, when head is there
}

// left is how many bytes may be read without going beyond what is known to belong to the record; at least one.
func (r *recordEnd) left() int {
	if r.have < len(r.head) {
		return len(r.head) - r.have
	}
	return r.body
}

// took is told what was read, no more than left.
func (r *recordEnd) took(p []byte) {
	if r.have < len(r.head) {
		if r.have += copy(r.head[r.have:], p); r.have == len(r.head) {
			r.body = int(binary.BigEndian.Uint16(r.head[3:]))
		}
	} else {
		r.body -= len(p)
	}
	if r.have == len(r.head) && r.body == 0 {
		r.have = 0
	}
}

func (l *link) readShaking(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errHandshakeBytes
	}
	l.rest()
	n, err := l.TCPConn.Read(p[:min(len(p), l.left)])
	l.left -= n
	if err == nil {
		err = l.resume()
	}
	return n, err
}

// Write implements net.Conn for crypto/tls, which calls it for the writer, and for the reader where the protocol
// itself has an answer.
func (l *link) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.corked == 0 {
		if !l.shaking {
			return l.sendLocked(p)
		}
		l.rest()
		n, err := l.sendLocked(p)
		if err == nil {
			err = l.resume()
		}
		return n, err
	}
	if l.out != nil && l.n+len(p) > len(l.out.buf) {
		if err := l.flushLocked(); err != nil {
			return 0, err
		}
	}
	if l.out == nil {
		l.out = l.c.srv.mem.get(l.corked)
	}
	if len(p) > len(l.out.buf) {
		return l.sendLocked(p)
	}
	l.n += copy(l.out.buf[l.n:], p)
	return len(p), nil
}

// sendLocked sends all of p. A deadline that strikes while bytes move begins anew: crypto/tls cannot go on after a write that ended half way.
func (l *link) sendLocked(p []byte) (sent int, err error) {
	for {
		n, err := l.TCPConn.Write(p[sent:])
		sent += n
		if err == nil || n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) || l.shaking {
			return sent, err
		}
		if d := l.c.srv.opt.IdleTimeout; d > 0 {
			_ = l.TCPConn.SetWriteDeadline(time.Now().Add(d))
		}
	}
}

func (l *link) flushLocked() error {
	if l.out == nil {
		return nil
	}
	_, err := l.sendLocked(l.out.buf[:l.n])
	l.out.unref()
	l.out, l.n = nil, 0
	return err
}

// cork gathers the records of n bytes, as far as chunkBytes hold them.
func (l *link) cork(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.corked = min(chunkBytes, n+(1+n/recordBytes)*recordExtra)
}

// uncork sends what was gathered.
func (l *link) uncork() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.corked = 0
	return l.flushLocked()
}

// sendSealed sends the gathered pieces of a response. Small pieces share a record.
func (c *Conn) sendSealed(out *outbox) error {
	l := c.tls.link
	l.cork(out.bytes)
	err := c.seal(out)
	if last := l.uncork(); err == nil {
		err = last
	}
	if err != nil {
		return c.onWriteError(0, err)
	}
	return nil
}

func (c *Conn) seal(out *outbox) error {
	plain := c.srv.mem.get(min(recordBytes, out.bytes))
	defer plain.unref()
	room := plain.buf // of no more than recordBytes
	n := 0
	for _, p := range out.bufs {
		for len(p) > 0 {
			if n == 0 && len(p) >= recordBytes { // as it is: whole records of it
				whole := len(p) / recordBytes * recordBytes
				if err := c.write1(p[:whole]); err != nil {
					return err
				}
				p = p[whole:]
				continue
			}
			k := copy(room[n:], p)
			n, p = n+k, p[k:]
			if n == recordBytes {
				if err := c.write1(room); err != nil {
					return err
				}
				n = 0
			}
		}
	}
	return c.write1(room[:n])
}

func (c *Conn) write1(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	n, err := c.tls.Write(p)
	c.srv.metrics.bytesOut.Add(float64(n))
	return err
}

// goodbye tells a TLS client that nothing is cut off.
func (c *Conn) goodbye() {
	if c.tls == nil {
		return
	}
	c.mu.Lock()
	broken := c.broken
	c.mu.Unlock()
	if !broken && c.tls.ConnectionState().HandshakeComplete {
		_ = c.tls.CloseWrite() // a wish; it gives up after five seconds
	}
}

// plainText tells whether the client has not begun a handshake at all.
func plainText(err error) bool {
	var header tls.RecordHeaderError
	return errors.As(err, &header)
}

// handshakeCause is why a handshake failed: a label for metrics, and an operator's words with what helps.
type handshakeCause struct{ label, text string }

var (
	clientPlain     = handshakeCause{"no_tls", "the client speaks no TLS: give it security.protocol=SSL or SASL_SSL, or the port of another listener"}
	clientSlow      = handshakeCause{"timeout", "the client did not finish in time"}
	clientGone      = handshakeCause{"client_gone", "the client went away; most do so silently when they do not trust the broker's certificate, or its names lack the host that they asked for"}
	clientExpired   = handshakeCause{"client_certificate_expired", "the client's certificate has expired, or is not valid yet"}
	clientUntrusted = handshakeCause{"client_certificate_untrusted", "the client's certificate does not lead to one in ssl.truststore"}
	clientBare      = handshakeCause{"no_client_certificate", "the client shows no certificate, and ssl.client.auth=required"}
	brokerUntrusted = handshakeCause{"broker_certificate_untrusted", "the client does not trust the broker's certificate: give it the CA, and check that the certificate has the host name that it asks for"}
	brokerExpired   = handshakeCause{"broker_certificate_expired", "the broker's certificate has expired"}
	noVersion       = handshakeCause{"no_common_version", "client and broker have no version or cipher suite of TLS in common (ssl.enabled.protocols, ssl.cipher.suites)"}
	otherCause      = handshakeCause{"other", "see error"}
)

func causeOf(err error) handshakeCause {
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	text := err.Error()
	switch {
	case plainText(err):
		return clientPlain
	case errors.Is(err, os.ErrDeadlineExceeded):
		return clientSlow
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return clientGone
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return clientExpired
	case errors.As(err, &authority), errors.As(err, &invalid):
		return clientUntrusted
	case strings.Contains(text, "didn't provide a certificate"):
		return clientBare
	case strings.Contains(text, "remote error: tls: unknown certificate"), strings.Contains(text, "remote error: tls: bad certificate"):
		return brokerUntrusted
	case strings.Contains(text, "remote error: tls: expired certificate"):
		return brokerExpired
	case strings.Contains(text, "protocol version"), strings.Contains(text, "unsupported versions"), strings.Contains(text, "no cipher suite"):
		return noVersion
	}
	return otherCause
}
