package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// listens is what a probe finds behind an address.
type listens int8

const (
	listensUnknown     listens = iota // something answers, or keeps silent, that is none of the others
	listensKafka                      // it speaks Kafka's protocol
	listensTLS                        // it wants TLS first
	listensHTTP                       // it speaks HTTP
	listensNobody                     // the connection was refused
	listensSilent                     // no answer to the connection attempt
	listensUnreachable                // there is no route, or the address is none
	listensNoSuchHost                 // the name has no address
)

var listensNames = [...]string{"unknown", "kafka", "tls", "http", "nobody", "silent", "unreachable", "no such host"}

func (l listens) String() string { return listensNames[l] }

// probed is what is behind one address.
type probed struct {
	addr string
	what listens
	err  error // of the connection, where it failed
}

// probeWait is how long one question of a probe may take; there are at most three. A peer on a busy machine, or far away, is not to
// be taken for something else.
const probeWait = 3 * time.Second

// probe finds out what is behind an address. It asks in Kafka's words first, and a peer that
// does not understand them in TLS and HTTP.
func probe(ctx context.Context, addr string) probed {
	p := probed{addr: addr}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		p.addr = net.JoinHostPort(strings.Trim(addr, "[]"), "9092")
	}
	answer, err := exchange(ctx, p.addr, apiVersionsFrame())
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns):
		p.what, p.err = listensNoSuchHost, err
	case errors.Is(err, syscall.ECONNREFUSED):
		p.what, p.err = listensNobody, err
	case err != nil && isTimeout(err):
		p.what, p.err = listensSilent, err
	case err != nil:
		p.what, p.err = listensUnreachable, err
	case isApiVersions(answer):
		p.what = listensKafka
	case len(answer) >= 3 && answer[0] == 0x15 && answer[1] == 3, speaksTLS(ctx, p.addr):
		p.what = listensTLS
	case bytes.HasPrefix(answer, []byte("HTTP/")), speaksHTTP(ctx, p.addr):
		p.what = listensHTTP
	}
	return p
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

// exchange sends bytes and returns how the answer begins. Its error is that of the connection
// attempt; a peer that says nothing has an empty answer.
func exchange(ctx context.Context, addr string, send []byte) ([]byte, error) {
	dialing, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(dialing, "tcp", addr)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(probeWait))
	if _, err := conn.Write(send); err != nil {
		return nil, nil
	}
	answer := make([]byte, 16)
	n, _ := io.ReadAtLeast(conn, answer, 10)
	return answer[:n], nil
}

const probeCorrelation = 0x6d6f6c64

// apiVersionsFrame is ApiVersions version 0, which every broker understands.
func apiVersionsFrame() []byte {
	req := kmsg.NewPtrApiVersionsRequest()
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("moldau-cli")).AppendRequest(nil, req, probeCorrelation)
}

func isApiVersions(answer []byte) bool {
	return len(answer) >= 10 && binary.BigEndian.Uint32(answer[4:]) == probeCorrelation && binary.BigEndian.Uint32(answer) < 1<<20
}

func speaksTLS(ctx context.Context, addr string) bool {
	dialing, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	// Nothing is sent over this connection; whose certificate it is does not matter.
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	conn, err := d.DialContext(dialing, "tcp", addr)
	if err == nil {
		_ = conn.Close()
		return true
	}
	var alert tls.AlertError
	var remote *net.OpError
	return errors.As(err, &alert) || errors.As(err, &remote) && remote.Op == "remote error"
}

func speaksHTTP(ctx context.Context, addr string) bool {
	answer, err := exchange(ctx, addr, []byte("GET /live HTTP/1.0\r\n\r\n"))
	return err == nil && bytes.HasPrefix(answer, []byte("HTTP/"))
}

// failure says in words what a probe has found, for somebody who wanted a broker there; nil if
// there is one.
func (p probed) failure() *failure {
	host, port, _ := net.SplitHostPort(p.addr)
	f := &failure{value: p.addr, err: p.err}
	switch p.what {
	case listensKafka:
		return nil
	case listensNobody:
		f.cause = "nothing listens on " + p.addr
		f.value = ""
		f.help = "start a broker by 'moldau server', or name another by -b HOST:PORT"
	case listensNoSuchHost:
		f.cause, f.value = "there is no host of this name", host
		f.help = "check the spelling in -b, or use its IP address"
	case listensSilent:
		f.cause = "no answer to the connection attempt"
		f.help = "the host is down, or a firewall drops what is sent to port " + port
	case listensUnreachable:
		f.cause, f.value = "the address cannot be reached", join(p.addr, networkReason(p.err))
		f.help = "check address and network, or name another broker by -b HOST:PORT"
	case listensTLS:
		f.cause = "this port speaks TLS"
		f.help = "give --command-config a file with security.protocol=SSL or SASL_SSL, or name a PLAINTEXT listener of the broker by -b HOST:PORT"
	case listensHTTP:
		f.cause = "this port speaks HTTP, not Kafka's protocol"
		f.help = "it may be a broker's moldau.http.listener; clients connect to its listeners, by default localhost:9092"
	default:
		f.cause = "what listens there does not speak Kafka's protocol"
		f.help = "name a broker by -b HOST:PORT; 'moldau doctor' shows what listens where"
	}
	return f
}

// notLetIn explains an error that says that there is a broker, which does not take us for who we say we are, or we it; nil for others.
func notLetIn(err error) error {
	var known *failure
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, kerr.SaslAuthenticationFailed):
		return &failure{cause: "the broker does not let this user in", value: oneLine(err), help: "check sasl.mechanism and sasl.jaas.config in --command-config", err: err}
	case errors.Is(err, kerr.UnsupportedSaslMechanism), errors.Is(err, kerr.IllegalSaslState):
		return &failure{cause: "the broker does not take this way to authenticate", value: oneLine(err), help: "check security.protocol and sasl.mechanism in --command-config", err: err}
	}
	return nil
}

// unusable says why what a probe has found is of no use to the commands, nil if it is: a port with TLS is where --command-config says so.
func (c *command) unusable(p probed) *failure {
	if p.what == listensTLS {
		if conf, err := c.clientConfig(); err == nil && conf.tls != nil {
			return nil
		}
	}
	return p.failure()
}

// noBroker explains why none of the addresses answers.
func (c *command) noBroker(ctx context.Context, seeds []string, err error) error {
	found := make([]probed, len(seeds))
	done := make(chan struct{})
	for i, seed := range seeds {
		go func() {
			found[i] = probe(ctx, seed)
			done <- struct{}{}
		}()
	}
	for range seeds {
		<-done
	}
	if len(seeds) == 1 {
		if f := c.unusable(found[0]); f != nil {
			return f
		}
		var closed *kgo.ErrFirstReadEOF
		if conf, bad := c.clientConfig(); bad == nil && conf.sasl == nil && errors.As(err, &closed) {
			return &failure{cause: "the broker closes the connection without an answer, as one does that wants to know who asks", value: seeds[0],
				help: "give --command-config a file with security.protocol=SASL_SSL or SASL_PLAINTEXT", err: err}
		}
		return &failure{cause: "the broker answers, but not to every question", value: join(seeds[0], networkReason(err)),
			help: "moldau doctor -b " + seeds[0], err: err}
	}
	var parts []string
	for _, p := range found {
		f := c.unusable(p)
		switch {
		case f == nil:
		case p.what == listensNobody:
			parts = append(parts, f.cause)
		default:
			parts = append(parts, p.addr+": "+f.cause)
		}
	}
	return &failure{cause: "no broker answers", value: strings.Join(parts, ", "), help: "start one by 'moldau server', or name others by -b HOST:PORT,...", err: err}
}
