package broker_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/broker"
	"moldau/test/certs"
)

// page is what a path of the HTTP listener answers.
func page(t *testing.T, b *broker.Broker, path string) (status int, body string) {
	t.Helper()
	resp, err := http.Get("http://" + b.HTTPAddrs()[0].String() + path)
	must(t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp.StatusCode, string(data)
}

// metricLine waits until /metrics has a line.
func metricLine(t *testing.T, b *broker.Broker, want string) {
	t.Helper()
	body := ""
	defer func() {
		if t.Failed() {
			for line := range strings.Lines(body) {
				if name, _, _ := strings.Cut(want, "{"); strings.HasPrefix(line, name) {
					t.Log(line)
				}
			}
		}
	}()
	eventually(t, want, func() bool {
		_, body = page(t, b, "/metrics")
		return strings.Contains(body, want+"\n")
	})
}

// TestAuthenticationsAreCounted: under Kafka's names, by listener and mechanism, with labels that no client chooses.
func TestAuthenticationsAreCounted(t *testing.T) {
	dir := t.TempDir()
	ca := certs.CA(t, "a CA")
	caFile, _ := ca.Files(t, dir, "ca")
	_, store := ca.Issue(t, "broker", time.Hour).Files(t, dir, "broker")
	b, _ := secure(t, t.TempDir(), map[string]string{"http": "127.0.0.1:0"}, append(saslProperties[1:], "connection.failed.authentication.delay.ms=1",
		"listeners=SASL_PLAINTEXT://127.0.0.1:0,SSL://127.0.0.1:0", "listener.name.sasl_plaintext.plain.connections.max.reauth.ms=200",
		"ssl.keystore.type=PEM", "ssl.keystore.location="+store, "ssl.truststore.type=PEM", "ssl.truststore.location="+caFile, "ssl.client.auth=required")...)
	counted := func(name, labels string, n int) {
		t.Helper()
		metricLine(t, b, fmt.Sprintf("kafka_server_socket_server_metrics_%s{%s} %d", name, labels, n))
	}
	login := func(user string) *wire {
		w := dialWire(t, b)
		w.ask(handshake(1, "PLAIN"), 4)
		w.ask(authenticate("\x00"+user+"\x00"+user+"-geheim"), 4)
		return w
	}
	const plain = `listener="SASL_PLAINTEXT",mechanism="PLAIN"`
	w := login("bob")
	counted("successful_authentication_total", plain, 1)
	w.ask(handshake(1, "PLAIN"), 4)
	w.ask(authenticate("\x00bob\x00bob-geheim"), 4)
	counted("successful_reauthentication_total", plain, 1)
	w.ask(handshake(1, "PLAIN"), 4)
	w.ask(authenticate("\x00admin\x00admin-geheim"), 4)
	counted("failed_reauthentication_total", plain, 1)

	login("eve")
	login("eve")
	counted("failed_authentication_total", plain, 2)
	dialWire(t, b).ask(handshake(1, "MADE-UP"), 4)
	dialWire(t, b).send(metadataRequest())
	counted("failed_authentication_total", `listener="SASL_PLAINTEXT",mechanism="none"`, 2)

	w = login("bob")
	time.Sleep(210 * time.Millisecond) // the session's life itself
	w.send(metadataRequest())
	w.closed("a request after the session")
	counted("expired_connections_killed_count", `listener="SASL_PLAINTEXT"`, 1)

	secured := b.Addrs()[1].String()
	nc, err := tls.Dial("tcp", secured, &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{ca.Issue(t, "friend", time.Hour).TLS()}})
	must(t, err)
	defer nc.Close()
	must(t, nc.SetDeadline(time.Now().Add(time.Minute)))
	(&wire{nc, t}).ask(kmsg.NewPtrApiVersionsRequest(), 4)
	counted("successful_authentication_total", `listener="SSL",mechanism="SSL"`, 1)
	// Both say that they are of the CA that the broker asks for: a client does not show another one.
	for _, stranger := range []*certs.Pair{certs.CA(t, "a CA").Issue(t, "stranger", time.Hour), ca.Issue(t, "old", -time.Hour)} {
		nc, err := tls.Dial("tcp", secured, &tls.Config{RootCAs: ca.Pool(), Certificates: []tls.Certificate{stranger.TLS()}})
		must(t, err) // the client hears of it when it reads
		_, _ = nc.Read(make([]byte, 1))
		_ = nc.Close()
	}
	counted("failed_authentication_total", `listener="SSL",mechanism="SSL"`, 2)
	metricLine(t, b, `moldau_network_tls_handshakes_failed_total{cause="client_certificate_untrusted",listener="SSL"} 1`)
	metricLine(t, b, `moldau_network_tls_handshakes_failed_total{cause="client_certificate_expired",listener="SSL"} 1`)
	if _, body := page(t, b, "/metrics"); strings.Contains(body, "MADE-UP") || strings.Contains(body, `"eve`) {
		t.Error("a client has chosen a label")
	}
}

// TestCertificatesThatEnd: metrics say how long each store lives, the log and /ready warn of those that end.
func TestCertificatesThatEnd(t *testing.T) {
	dir := t.TempDir()
	ca := certs.CA(t, "a CA") // for an hour of a hundred days
	caFile, _ := ca.Files(t, dir, "ca")
	_, store := ca.Issue(t, "broker", 300*24*time.Hour).Files(t, dir, "broker")
	b, log := secure(t, t.TempDir(), map[string]string{"http": "127.0.0.1:0"}, "listeners=SSL://127.0.0.1:0",
		"ssl.keystore.type=PEM", "ssl.keystore.location="+store, "ssl.truststore.type=PEM", "ssl.truststore.location="+caFile, "ssl.client.auth=required")
	const warning = "the certificate CN=a CA in the truststore of listener SSL ends in "
	eventually(t, warning, func() bool { return strings.Contains(log.String(), warning) })
	if strings.Contains(log.String(), "CN=broker in the keystore") {
		t.Error("a certificate with ten months to live is warned of")
	}
	if status, body := page(t, b, "/ready"); status != http.StatusOK || !strings.Contains(body, warning) {
		t.Errorf("/ready: %d %s", status, body)
	}
	_, body := page(t, b, "/metrics")
	left := map[string]float64{}
	for line := range strings.Lines(body) {
		var seconds float64
		for _, store := range []string{"keystore", "truststore"} {
			if n, _ := fmt.Sscanf(line, `moldau_certificate_expires_in_seconds{listener="SSL",store="`+store+`"} %g`, &seconds); n == 1 {
				left[store] = seconds
			}
		}
	}
	if left["keystore"] < 299*24*3600 || left["keystore"] > 300*24*3600 || left["truststore"] > 3600 || left["truststore"] < -3600 {
		t.Error(left)
	}
}

// TestDetailsAreForThisMachine: where clients show who they are, pages that tell of them are only for who asks here; the others are for everybody.
func TestDetailsAreForThisMachine(t *testing.T) {
	ask := func(b *broker.Broker, path string) int {
		t.Helper()
		req, err := http.NewRequest(http.MethodGet, "http://"+b.HTTPAddrs()[0].String()+path, nil)
		must(t, err)
		req.Host = "somebody.example" // as a proxy, or a browser, has it
		resp, err := http.DefaultClient.Do(req)
		must(t, err)
		must(t, resp.Body.Close())
		return resp.StatusCode
	}
	http9644 := map[string]string{"http": "127.0.0.1:0"}
	for _, c := range []struct {
		properties []string
		want       int
	}{
		{nil, http.StatusOK},
		{[]string{"moldau.http.details=local"}, http.StatusForbidden},
		{saslProperties, http.StatusForbidden},
		{append([]string{"moldau.http.details=all"}, saslProperties...), http.StatusOK},
		{[]string{"authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:ANONYMOUS"}, http.StatusForbidden},
	} {
		properties := c.properties
		if len(properties) < len(saslProperties) {
			properties = append([]string{"listeners=PLAINTEXT://127.0.0.1:0"}, properties...)
		}
		b, log := secure(t, t.TempDir(), http9644, properties...)
		for path, want := range map[string]int{"/group?name=g": c.want, "/debug/pprof/": c.want, "/debug/pprof/heap": c.want, "/debug/pprof/profile?seconds=1": c.want,
			"/debug/pprof/trace?seconds=1": c.want, "/live": http.StatusOK, "/ready": http.StatusOK, "/metrics": http.StatusOK} {
			takesTime := strings.Contains(path, "seconds")
			if takesTime && want == http.StatusOK {
				continue
			}
			got := ask(b, path)
			if want == http.StatusOK && strings.HasPrefix(path, "/group") && got == http.StatusMisdirectedRequest {
				got = want // there is no group yet
			}
			if got != want {
				t.Errorf("%v: %s answers %d, want %d", c.properties, path, got, want)
			}
			if takesTime {
				continue
			}
			if status, _ := page(t, b, path); status == http.StatusForbidden {
				t.Errorf("%v: %s is forbidden here", c.properties, path)
			}
		}
		stop(t, b, log)
	}
}
