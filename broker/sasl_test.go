package broker_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"moldau/broker"
)

// saslProperties are a listener with PLAIN and both kinds of SCRAM, and two users of PLAIN.
var saslProperties = []string{"listeners=SASL_PLAINTEXT://127.0.0.1:0", "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
	`listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_admin="admin-geheim" user_bob="bob-geheim";`}

func saslClient(t *testing.T, b *broker.Broker, m sasl.Mechanism, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(b.Addrs()[0].String()), kgo.SASL(m), kgo.RetryTimeout(20 * time.Second), kgo.RequestRetries(1)}, opts...)...)
	must(t, err)
	t.Cleanup(cl.Close)
	return cl
}

func plainAs(user, password string) sasl.Mechanism {
	return plain.Auth{User: user, Pass: password}.AsMechanism()
}

// notLetIn demands that a client is turned away for who it is.
func notLetIn(t *testing.T, cl *kgo.Client) {
	t.Helper()
	if err := cl.Ping(within(t)); !errors.Is(err, kerr.SaslAuthenticationFailed) {
		t.Errorf("got %v, want SASL_AUTHENTICATION_FAILED", err)
	}
}

// TestSASL: users of PLAIN are in the configuration, those of SCRAM are made, changed and removed while the broker runs, and survive it. A
// client is who it proves to be.
func TestSASL(t *testing.T) {
	dir := t.TempDir()
	b, log := secure(t, dir, nil, append(saslProperties, "connection.failed.authentication.delay.ms=1")...)
	admin := kadm.NewClient(saslClient(t, b, plainAs("admin", "admin-geheim")))
	notLetIn(t, saslClient(t, b, plainAs("admin", "bob-geheim")))
	notLetIn(t, saslClient(t, b, scram.Auth{User: "alice", Pass: "alice-geheim"}.AsSha256Mechanism()))

	set := []kadm.UpsertSCRAM{{User: "alice", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: "alice-geheim"},
		{User: "carl", Mechanism: kadm.ScramSha512, Iterations: 8192, Password: "carl-geheim"}}
	altered, err := admin.AlterUserSCRAMs(within(t), nil, set)
	must(t, err)
	must(t, altered.Error())
	scrams, err := admin.DescribeUserSCRAMs(within(t))
	must(t, err)
	if len(scrams) != 2 || scrams["carl"].CredInfos[0].Iterations != 8192 || scrams["alice"].CredInfos[0].Mechanism != kadm.ScramSha256 {
		t.Errorf("%+v", scrams)
	}
	alice := saslClient(t, b, scram.Auth{User: "alice", Pass: "alice-geheim"}.AsSha256Mechanism(), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("t"))
	must(t, alice.ProduceSync(within(t), kgo.StringRecord("x")).FirstErr())
	must(t, saslClient(t, b, scram.Auth{User: "carl", Pass: "carl-geheim"}.AsSha512Mechanism()).Ping(within(t)))
	notLetIn(t, saslClient(t, b, scram.Auth{User: "alice", Pass: "alice-geheim"}.AsSha512Mechanism())) // her password, but not for this mechanism
	notLetIn(t, saslClient(t, b, scram.Auth{User: "alice", Pass: "carl-geheim"}.AsSha256Mechanism()))

	removed, err := admin.AlterUserSCRAMs(within(t), []kadm.DeleteSCRAM{{User: "carl", Mechanism: kadm.ScramSha512}, {User: "nobody", Mechanism: kadm.ScramSha256}}, nil)
	must(t, err)
	if removed["carl"].Err != nil || !errors.Is(removed["nobody"].Err, kerr.ResourceNotFound) {
		t.Errorf("%+v", removed)
	}
	notLetIn(t, saslClient(t, b, scram.Auth{User: "carl", Pass: "carl-geheim"}.AsSha512Mechanism()))

	stop(t, b, log)
	b, _ = secure(t, dir, nil, saslProperties...)
	must(t, saslClient(t, b, scram.Auth{User: "alice", Pass: "alice-geheim"}.AsSha256Mechanism()).Ping(within(t)))

	text := log.String()
	for _, want := range []string{`wrong password of user \"admin\"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the log does not say %s", want)
		}
	}
	if strings.Contains(text, "geheim") {
		t.Error("the log shows a password")
	}
}

// TestFirstUser: a user is added to a stopped broker, in a directory that need not be there yet, and comes in after the start. While
// the broker runs the command is told so.
func TestFirstUser(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	o := broker.AddUserOptions{RunOptions: broker.RunOptions{Flags: map[string]string{"data-dir": dir}, LogTo: io.Discard},
		Name: "alice", Password: "alice-geheim", Mechanisms: []string{"SCRAM-SHA-256", "SCRAM-SHA-512"}, Iterations: 4096}
	must(t, broker.AddUser(within(t), o))
	o.Name, o.Iterations = "bob", 10
	oneLine(t, broker.AddUser(within(t), o), "bob", "Too few iterations")
	b, _ := secure(t, dir, nil, "listeners=SASL_PLAINTEXT://127.0.0.1:0", "sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512")
	must(t, saslClient(t, b, scram.Auth{User: "alice", Pass: "alice-geheim"}.AsSha256Mechanism()).Ping(within(t)))
	must(t, saslClient(t, b, scram.Auth{User: "alice", Pass: "alice-geheim"}.AsSha512Mechanism()).Ping(within(t)))
	o.Iterations = 4096
	oneLine(t, broker.AddUser(within(t), o), "another broker runs on this directory")
}

// wire is a connection without a client.
type wire struct {
	net.Conn
	t *testing.T
}

func dialWire(t *testing.T, b *broker.Broker) *wire {
	t.Helper()
	return dialAddr(t, b.Addrs()[0].String())
}

func dialAddr(t *testing.T, addr string) *wire {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	must(t, err)
	t.Cleanup(func() { nc.Close() })
	must(t, nc.SetDeadline(time.Now().Add(time.Minute)))
	return &wire{nc, t}
}

func (w *wire) send(req kmsg.Request) {
	w.t.Helper()
	_, err := w.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("w")).AppendRequest(nil, req, 7))
	must(w.t, err)
}

func (w *wire) sendRaw(p []byte) {
	w.t.Helper()
	_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(p))), p...))
	must(w.t, err)
}

// frame is what the broker says next; ok is false if it closes the connection.
func (w *wire) frame() (p []byte, ok bool) {
	w.t.Helper()
	var size [4]byte
	if _, err := io.ReadFull(w, size[:]); err != nil {
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			w.t.Fatal("the broker neither answers nor closes")
		}
		return nil, false
	}
	p = make([]byte, binary.BigEndian.Uint32(size[:]))
	_, err := io.ReadFull(w, p)
	must(w.t, err)
	return p, true
}

func (w *wire) ask(req kmsg.Request, header int) kmsg.Response {
	w.t.Helper()
	w.send(req)
	p, ok := w.frame()
	if !ok {
		w.t.Fatalf("%s: the broker closed the connection", kmsg.NameForKey(req.Key()))
	}
	resp := req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	must(w.t, resp.ReadFrom(p[header:]))
	return resp
}

func (w *wire) closed(what string) {
	w.t.Helper()
	if p, ok := w.frame(); ok {
		w.t.Errorf("%s: the broker answers %x", what, p)
	}
}

func handshake(version int16, mechanism string) kmsg.Request {
	req := kmsg.NewPtrSASLHandshakeRequest()
	req.Version, req.Mechanism = version, mechanism
	return req
}

func authenticate(message string) kmsg.Request {
	req := kmsg.NewPtrSASLAuthenticateRequest()
	req.Version, req.SASLAuthBytes = 1, []byte(message)
	return req
}

func metadataRequest() kmsg.Request {
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 1
	return req
}

// TestBeforeAuthentication: who has not proved who he is gets nothing but the requests for that, and no large frame; what does not
// belong into the conversation ends the connection.
func TestBeforeAuthentication(t *testing.T) {
	b, _ := secure(t, t.TempDir(), nil, append(saslProperties, "connection.failed.authentication.delay.ms=1")...)
	const good = "\x00bob\x00bob-geheim"
	versions := kmsg.NewPtrApiVersionsRequest()

	w := dialWire(t, b)
	w.send(metadataRequest())
	w.closed("Metadata before anything")

	w = dialWire(t, b)
	w.ask(versions, 4)
	w.send(authenticate(good))
	w.closed("SaslAuthenticate without a handshake")

	w = dialWire(t, b)
	w.ask(handshake(1, "PLAIN"), 4)
	if r := w.ask(metadataRequest(), 4).(*kmsg.MetadataResponse); len(r.Brokers)+len(r.Topics) > 0 {
		t.Errorf("Metadata in the conversation: %+v", r)
	}
	w.closed("Metadata in the conversation")

	w = dialWire(t, b)
	w.ask(handshake(1, "PLAIN"), 4)
	w.send(kmsg.NewPtrListGroupsRequest())
	w.closed("ListGroups in the conversation")

	w = dialWire(t, b)
	w.ask(handshake(1, "PLAIN"), 4)
	w.send(handshake(1, "PLAIN"))
	w.closed("a second handshake")

	w = dialWire(t, b)
	_, err := w.Write([]byte{0, 0, 0x80, 1, 0, 36, 0, 1}) // a SaslAuthenticate that claims 32 KiB and a byte
	must(t, err)
	w.closed("a frame that is too large")

	w = dialWire(t, b)
	_, err = w.Write([]byte{0, 1, 0, 0, 0, 0, 0, 9}) // a Produce, which may be large
	must(t, err)
	w.closed("a large Produce")

	w = dialWire(t, b)
	resp := w.ask(handshake(1, "GSSAPI"), 4).(*kmsg.SASLHandshakeResponse)
	if !errors.Is(kerr.ErrorForCode(resp.ErrorCode), kerr.UnsupportedSaslMechanism) || strings.Join(resp.SupportedMechanisms, ",") != "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512" {
		t.Errorf("%+v", resp)
	}
	w.closed("a mechanism that is not offered")

	w = dialWire(t, b)
	w.ask(handshake(1, "PLAIN"), 4)
	failed := w.ask(authenticate("\x00bob\x00geraten"), 4).(*kmsg.SASLAuthenticateResponse)
	if !errors.Is(kerr.ErrorForCode(failed.ErrorCode), kerr.SaslAuthenticationFailed) || failed.ErrorMessage == nil || *failed.ErrorMessage != "Authentication failed: Invalid username or password" {
		t.Errorf("%+v", failed)
	}
	w.closed("a wrong password")

	w = dialWire(t, b)
	w.ask(versions, 4)
	w.ask(handshake(1, "PLAIN"), 4)
	if ok := w.ask(authenticate(good), 4).(*kmsg.SASLAuthenticateResponse); ok.ErrorCode != 0 || ok.SessionLifetimeMillis != 0 {
		t.Errorf("%+v", ok)
	}
	w.ask(metadataRequest(), 4)
	late := w.ask(authenticate(good), 4).(*kmsg.SASLAuthenticateResponse)
	if !errors.Is(kerr.ErrorForCode(late.ErrorCode), kerr.IllegalSaslState) {
		t.Errorf("SaslAuthenticate without a handshake, later: %+v", late)
	}
	w.ask(metadataRequest(), 4)
}

// TestBareSASL: after a handshake of version 0 the messages come without a header, even empty ones, and requests with one after them.
func TestBareSASL(t *testing.T) {
	b, _ := secure(t, t.TempDir(), nil, append(saslProperties, "connection.failed.authentication.delay.ms=1")...)
	for range 2 {
		w := dialWire(t, b)
		w.ask(handshake(0, "PLAIN"), 4)
		w.sendRaw([]byte("\x00bob\x00bob-geheim"))
		if p, ok := w.frame(); !ok || len(p) != 0 {
			t.Fatalf("%q %v", p, ok)
		}
		w.ask(metadataRequest(), 4)
	}
	for _, message := range []string{"", "x", "\x00bob\x00geraten", strings.Repeat("x", 40000)} {
		w := dialWire(t, b)
		w.ask(handshake(0, "PLAIN"), 4)
		w.sendRaw([]byte(message))
		w.closed("a bare message that proves nothing")
	}
}

// TestSessionsEnd: a client is told how long its session lives, goes on when it authenticates again under its name, and is cut off
// when it does not, or wants to be another one.
func TestSessionsEnd(t *testing.T) {
	b, _ := secure(t, t.TempDir(), nil, append(saslProperties, "connection.failed.authentication.delay.ms=1",
		"listener.name.sasl_plaintext.plain.connections.max.reauth.ms=300")...)
	login := func() *wire {
		w := dialWire(t, b)
		w.ask(handshake(1, "PLAIN"), 4)
		if r := w.ask(authenticate("\x00bob\x00bob-geheim"), 4).(*kmsg.SASLAuthenticateResponse); r.SessionLifetimeMillis != 300 {
			t.Errorf("%+v", r)
		}
		return w
	}
	w := login()
	time.Sleep(310 * time.Millisecond) // the lifetime itself: longer on a slow machine, which changes nothing
	w.send(metadataRequest())
	w.closed("a request after the end")

	w = login()
	for range 3 {
		time.Sleep(310 * time.Millisecond)
		w.ask(handshake(1, "PLAIN"), 4)
		w.ask(authenticate("\x00bob\x00bob-geheim"), 4)
	}
	w.ask(handshake(1, "PLAIN"), 4)
	other := w.ask(authenticate("\x00admin\x00admin-geheim"), 4).(*kmsg.SASLAuthenticateResponse)
	if other.ErrorMessage == nil || *other.ErrorMessage != "Cannot change principals during re-authentication from User.bob: User.admin" {
		t.Errorf("%+v", other)
	}
	w.closed("another name")

	w = login()
	again := w.ask(handshake(1, "SCRAM-SHA-256"), 4).(*kmsg.SASLHandshakeResponse)
	if !errors.Is(kerr.ErrorForCode(again.ErrorCode), kerr.UnsupportedSaslMechanism) {
		t.Errorf("%+v", again)
	}
	w.closed("another mechanism")

	// A client that knows all this goes on for as long as it likes.
	lost := new(disconnects)
	cl := saslClient(t, b, plainAs("bob", "bob-geheim"), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("t"), kgo.WithHooks(lost))
	for until := time.Now().Add(2 * time.Second); time.Now().Before(until); {
		must(t, cl.ProduceSync(within(t), kgo.StringRecord("x")).FirstErr())
	}
}

// TestFailedAuthenticationWaits: the answer to a wrong password takes its time, and meanwhile nobody else waits.
func TestFailedAuthenticationWaits(t *testing.T) {
	b, _ := secure(t, t.TempDir(), nil, append(saslProperties, "connection.failed.authentication.delay.ms=60000")...)
	var waiting []*wire
	for range 50 {
		w := dialWire(t, b)
		w.ask(handshake(1, "PLAIN"), 4)
		w.send(authenticate("\x00bob\x00geraten"))
		waiting = append(waiting, w)
	}
	must(t, saslClient(t, b, plainAs("bob", "bob-geheim")).Ping(within(t)))
	for _, w := range waiting {
		must(t, w.SetReadDeadline(time.Now().Add(time.Millisecond)))
		if _, err := w.Read(make([]byte, 1)); err == nil {
			t.Fatal("a wrong password is answered at once")
		}
		_ = w.Close() // which ends the wait
	}
}
