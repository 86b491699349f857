package network

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	handshakeTime  = 30 * time.Second
	handshakeBytes = 64 << 10 // of a client, with its certificates
	recordBytes    = 16 << 10 // the most that TLS carries in one record
	sealedRoom     = recordBytes + 2<<10
)

// How TLS is laid between a connection and its socket. crypto/tls reads from a link and writes to it, and the link
// knows how this package waits: for the reader it can take what the socket has and say errNotReady, so that an idle connection
// waits without a buffer; for the writer it gathers records and sends many by one call.
//
// A handshake is made by the connection's own reader, so that nobody waits for it: not the acceptor, not another
// connection. It has handshakeTime and handshakeBytes. Its arithmetic is what makes it dear: so many run at a time as
// there are processors to spare (Server.handshakes), and who waits for its client meanwhile is none of them.

// errNotReady is a read that would have to wait. It is temporary, so that crypto/tls keeps what it has and can go on.
var errNotReady net.Error = notReady{}

type notReady struct{}

func (notReady) Error() string   { return "nothing to read" }
func (notReady) Timeout() bool   { return true }
func (notReady) Temporary() bool { return true }

// errHandshakeBytes ends a handshake that has read handshakeBytes.
var errHandshakeBytes = errors.New("the handshake is longer than 64 KiB")

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

	shaking bool // until the handshake is over; the reader's
	left    int  // bytes that the handshake may still read
	now     bool // Read does not wait; the reader's

	mu     sync.Mutex // guards the following, over I/O
	corked bool       // records are gathered
	out    *slab      // gathered records, nil if there are none
	n      int
}

// secure lays TLS over a connection; config is that of its listener.
func (c *Conn) secure(config *tls.Config) {
	l := &link{TCPConn: c.nc, c: c, shaking: true, left: handshakeBytes}
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
	until := time.Now().Add(handshakeTime)
	c.setReadDeadline(until)
	_ = c.nc.SetWriteDeadline(until)
	c.srv.handshakes <- struct{}{}
	err := c.tls.Handshake()
	<-c.srv.handshakes
	c.tls.link.shaking = false
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

// handshakeSlots is how many handshakes may calculate at once: half of the processors belong to who is in already.
func handshakeSlots() int { return max(1, runtime.GOMAXPROCS(0)/2) }

// Read implements net.Conn for crypto/tls.
func (l *link) Read(p []byte) (int, error) {
	switch {
	case l.shaking:
		return l.readShaking(p)
	case l.now:
		return l.c.recvNow(p)
	}
	return l.TCPConn.Read(p)
}

func (l *link) readShaking(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errHandshakeBytes
	}
	<-l.c.srv.handshakes
	n, err := l.TCPConn.Read(p[:min(len(p), l.left)])
	l.c.srv.handshakes <- struct{}{}
	l.left -= n
	return n, err
}

// Write implements net.Conn for crypto/tls, which calls it for the writer, and for the reader where the protocol
// itself has an answer.
func (l *link) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.corked {
		if l.shaking {
			<-l.c.srv.handshakes
			defer func() { l.c.srv.handshakes <- struct{}{} }()
		}
		return l.sendLocked(p)
	}
	if l.out != nil && l.n+len(p) > len(l.out.buf) {
		if err := l.flushLocked(); err != nil {
			return 0, err
		}
	}
	if l.out == nil {
		l.out = l.c.srv.mem.get(chunkBytes)
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

func (l *link) cork() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.corked = true
}

// uncork sends what was gathered.
func (l *link) uncork() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.corked = false
	return l.flushLocked()
}

// sendSealed sends the gathered pieces of a response. Small pieces share a record.
func (c *Conn) sendSealed(out *outbox) error {
	l := c.tls.link
	l.cork()
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
	plain := c.srv.mem.get(recordBytes)
	defer plain.unref()
	room := plain.buf[:recordBytes]
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
