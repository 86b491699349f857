//go:build clients && linux

package clients

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// secureCase is one way to connect. Its fields are those of a line that the programs read.
type secureCase struct{ name, server, protocol, mechanism, user, secret, ca string }

func (c secureCase) line() string {
	f := []string{c.name, c.server, c.protocol, c.mechanism, c.user, c.secret, c.ca}
	for i := range f {
		if f[i] == "" {
			f[i] = "-"
		}
	}
	return strings.Join(f, "\t") + "\n"
}

// securePeer are the certificates and tokens of the test.
type securePeer struct {
	t   *testing.T
	dir string
	ca  *x509.Certificate
	key *ecdsa.PrivateKey // of the CA, and of tokens
}

func newSecurePeer(t *testing.T) *securePeer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	p := &securePeer{t: t, dir: t.TempDir(), key: key}
	p.ca = p.certificate("the CA", key, nil)
	return p
}

func (p *securePeer) certificate(name string, key *ecdsa.PrivateKey, hosts []string) *x509.Certificate {
	p.t.Helper()
	x := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), BasicConstraintsValid: true, IsCA: hosts == nil, KeyUsage: x509.KeyUsageDigitalSignature}
	if hosts == nil {
		x.KeyUsage = x509.KeyUsageCertSign
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			x.IPAddresses = append(x.IPAddresses, ip)
		} else {
			x.DNSNames = append(x.DNSNames, h)
		}
	}
	parent := p.ca
	if parent == nil {
		parent = x
	}
	der, err := x509.CreateCertificate(rand.Reader, x, parent, key.Public(), p.key)
	must(p.t, err)
	x, err = x509.ParseCertificate(der)
	must(p.t, err)
	return x
}

func (p *securePeer) write(name string, blocks ...*pem.Block) string {
	p.t.Helper()
	var data []byte
	for _, b := range blocks {
		data = append(data, pem.EncodeToMemory(b)...)
	}
	file := filepath.Join(p.dir, name)
	must(p.t, os.WriteFile(file, data, 0o600))
	return file
}

// keystore is a PEM file of a new certificate for hosts.
func (p *securePeer) keystore(name string, hosts ...string) string {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(p.t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(p.t, err)
	return p.write(name, &pem.Block{Type: "PRIVATE KEY", Bytes: der}, &pem.Block{Type: "CERTIFICATE", Bytes: p.certificate(name, key, hosts).Raw})
}

// keySet is a file with the key of tokens.
func (p *securePeer) keySet() string {
	p.t.Helper()
	point, err := p.key.PublicKey.Bytes()
	must(p.t, err)
	raw := base64.RawURLEncoding.EncodeToString
	data, err := json.Marshal(map[string]any{"keys": []any{map[string]string{"kty": "EC", "crv": "P-256", "kid": "k1", "alg": "ES256", "use": "sig", "x": raw(point[1:33]), "y": raw(point[33:])}}})
	must(p.t, err)
	file := filepath.Join(p.dir, "keys.json")
	must(p.t, os.WriteFile(file, data, 0o600))
	return file
}

func (p *securePeer) token(life time.Duration) string {
	p.t.Helper()
	now := time.Now()
	t := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"sub": "alice", "iss": "https://idp.example", "aud": "kafka", "scope": "x",
		"iat": now.Add(-2 * time.Hour).Unix(), "exp": now.Add(life).Unix()})
	t.Header["kid"] = "k1"
	s, err := t.SignedString(p.key)
	must(p.t, err)
	return s
}

// secureBroker has a listener of each protocol, and one whose certificate is for another host; ports are by listener. more are further properties.
func secureBroker(t *testing.T, p *securePeer, more ...string) (*broker, map[string]string) {
	t.Helper()
	b := newBroker(t)
	_, port, err := net.SplitHostPort(b.addr)
	must(t, err)
	n, err := strconv.Atoi(port)
	must(t, err)
	addrs := map[string]string{}
	listeners := []string{"PLAINTEXT://" + b.addr, "CONTROLLER://127.0.0.1:" + strconv.Itoa(n+1)}
	for _, name := range []string{"SSL", "SASL_PLAINTEXT", "SASL_SSL", "OTHER"} {
		addrs[name] = strings.Replace(freeAddr(t), "127.0.0.1", "localhost", 1)
		listeners = append(listeners, name+"://"+addrs[name])
	}
	props := []string{
		"listeners=" + strings.Join(listeners, ","), "advertised.listeners=" + strings.Join(slices.Delete(slices.Clone(listeners), 1, 2), ","), "controller.listener.names=CONTROLLER",
		"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,OTHER:SSL",
		"ssl.keystore.type=PEM", "ssl.keystore.location=" + p.keystore("broker.pem", "localhost", "127.0.0.1"), "listener.name.other.ssl.keystore.location=" + p.keystore("other.pem", "other.example"),
		"sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
		"sasl.oauthbearer.jwks.endpoint.url=file://" + p.keySet(), "sasl.oauthbearer.expected.audience=kafka", "sasl.oauthbearer.expected.issuer=https://idp.example",
	}
	props = append(props, more...)
	for _, l := range []string{"sasl_plaintext", "sasl_ssl"} {
		props = append(props, "listener.name."+l+`.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="alice-pw";`,
			"listener.name."+l+".oauthbearer.sasl.server.callback.handler.class=org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler",
			"listener.name."+l+".oauthbearer.sasl.jaas.config=org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required;",
			"listener.name."+l+".scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;",
			"listener.name."+l+".scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;")
	}
	if b.kafka {
		t.Setenv("JAVA_TOOL_OPTIONS", "-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls=file://"+filepath.Join(p.dir, "keys.json"))
		b.props = props
	} else {
		bin, err := moldau()
		must(t, err)
		b.command = []string{bin, "server", "--data-dir", b.dir, "--http", "off"}
		for _, s := range props {
			b.command = append(b.command, "--set", s)
		}
	}
	b.start()
	must(t, os.Unsetenv("JAVA_TOOL_OPTIONS")) // programs would say that they have picked it up
	return b, addrs
}

// TestSecurityClients: five clients connect over every protocol and mechanism, and what they call it when they are not let in, or do not trust the
// broker, is what they call it with Apache Kafka: testdata/security.tsv, which MOLDAU_TARGET=kafka PARITY=record writes anew. The broker's log says why.
func TestSecurityClients(t *testing.T) {
	p := newSecurePeer(t)
	b, addrs := secureBroker(t, p)
	caFile := p.write("ca.pem", &pem.Block{Type: "CERTIFICATE", Bytes: p.ca.Raw})
	stranger := newSecurePeer(t)
	strangers := stranger.write("ca.pem", &pem.Block{Type: "CERTIFICATE", Bytes: stranger.ca.Raw})
	adm := kadm.NewClient(b.client())
	for _, m := range []kadm.ScramMechanism{kadm.ScramSha256, kadm.ScramSha512} {
		altered, err := adm.AlterUserSCRAMs(deadline(t, time.Minute), nil, []kadm.UpsertSCRAM{{User: "alice", Mechanism: m, Iterations: 4096, Password: "alice-pw"},
			{User: "gone", Mechanism: m, Iterations: 4096, Password: "gone-pw"}})
		must(t, err)
		must(t, altered.Error())
	}
	tools := result{}
	if !b.kafka {
		tools = run(t, toolPatience, nil, launcher(), "configs", "--bootstrap-server", b.addr, "--entity-type", "users", "--entity-name", "tooled", "--alter", "--add-config", "SCRAM-SHA-512=[iterations=8192,password=tooled-pw]")
		tools = run(t, toolPatience, nil, launcher(), "configs", "--bootstrap-server", b.addr, "--entity-type", "users", "--describe")
		for _, want := range []string{"SCRAM credential configs for user-principal 'tooled' are SCRAM-SHA-512=iterations=8192", "user-principal 'alice' are SCRAM-SHA-256=iterations=4096, SCRAM-SHA-512=iterations=4096"} {
			if !strings.Contains(tools.stdout, want) {
				t.Errorf("kafka-configs does not show %q:\n%s%s", want, tools.stdout, tools.stderr)
			}
		}
	}
	gone, err := adm.AlterUserSCRAMs(deadline(t, time.Minute), []kadm.DeleteSCRAM{{User: "gone", Mechanism: kadm.ScramSha512}}, nil)
	must(t, err)
	must(t, gone.Error())

	var cases []secureCase
	add := func(name, listener, protocol, mechanism, user, secret, ca string) {
		cases = append(cases, secureCase{name, addrs[listener], protocol, mechanism, user, secret, ca})
	}
	add("SSL", "SSL", "SSL", "", "", "", caFile)
	for _, protocol := range []string{"SASL_PLAINTEXT", "SASL_SSL"} {
		for _, m := range []string{"PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"} {
			add(protocol+" "+m, protocol, protocol, m, "alice", "alice-pw", caFile)
		}
		add(protocol+" OAUTHBEARER", protocol, protocol, "OAUTHBEARER", "", p.token(time.Hour), caFile)
	}
	add("wrong CA", "SSL", "SSL", "", "", "", strangers)
	add("wrong host name", "OTHER", "SSL", "", "", "", caFile)
	add("wrong password, PLAIN", "SASL_SSL", "SASL_SSL", "PLAIN", "alice", "wrong", caFile)
	add("wrong password, SCRAM", "SASL_SSL", "SASL_SSL", "SCRAM-SHA-256", "alice", "wrong", caFile)
	add("revoked user", "SASL_SSL", "SASL_SSL", "SCRAM-SHA-512", "gone", "gone-pw", caFile)
	add("expired token", "SASL_SSL", "SASL_SSL", "OAUTHBEARER", "", p.token(-time.Hour), caFile)

	var input strings.Builder
	for _, c := range cases {
		input.WriteString(c.line())
	}
	program := func(command ...string) string {
		return run(t, toolPatience, strings.NewReader(input.String()), command[0], command[1:]...).stdout
	}
	python := func(library string) []string {
		return []string{filepath.Join(cache(), "python", "bin", "python"), filepath.Join(root(), "test", "clients", "python", "secure.py"), library}
	}
	got := map[string]string{
		"java":            program(javaCommand(t, "Secure")...),
		"confluent-kafka": program(python("confluent-kafka")...),
		"aiokafka":        program(python("aiokafka")...),
		"kafkajs":         program("node", filepath.Join(root(), "test", "clients", "node", "secure.js")),
		"franz-go":        franzCases(t, cases),
	}
	var table strings.Builder
	for _, client := range slices.Sorted(mapKeys(got)) {
		s := bufio.NewScanner(strings.NewReader(got[client]))
		for n := 0; s.Scan(); n++ {
			if n < 9 && !strings.HasSuffix(s.Text(), "\tok") {
				t.Errorf("%s: %s", client, s.Text())
			}
			fmt.Fprintf(&table, "%s\t%s\n", client, s.Text())
		}
	}
	file := filepath.Join("testdata", "security.tsv")
	if b.kafka && os.Getenv("PARITY") == "record" {
		must(t, os.WriteFile(file, []byte(table.String()), 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if table.String() != string(want) {
		t.Errorf("clients say\n%s\nwith Apache Kafka they said\n%s", table.String(), want)
	}
	if b.kafka {
		return
	}
	text, err := os.ReadFile(b.logPath)
	must(t, err)
	for range 20 { // of failures that come together the log tells one a second
		if strings.Contains(string(text), "there is no user") {
			break
		}
		time.Sleep(1100 * time.Millisecond)
		franzCases(t, slices.DeleteFunc(slices.Clone(cases), func(c secureCase) bool { return c.name != "revoked user" }))
		text, err = os.ReadFile(b.logPath)
		must(t, err)
	}
	for _, why := range []string{"the client does not trust the broker's certificate", `wrong password of user`, `there is no user`, "token is expired"} {
		if !strings.Contains(string(text), why) {
			t.Errorf("the broker's log does not say %q", why)
		}
	}
	for _, secret := range []string{"alice-pw", "gone-pw", "tooled-pw", cases[4].secret} {
		if strings.Contains(string(text), secret) {
			t.Errorf("the broker's log shows %q", secret)
		}
	}
}

func mapKeys(m map[string]string) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// franzCases connects with franz-go, in this process.
func franzCases(t *testing.T, cases []secureCase) string {
	t.Helper()
	var out strings.Builder
	for _, c := range cases {
		opts := []kgo.Opt{kgo.SeedBrokers(c.server), kgo.RequestRetries(0), kgo.RetryTimeout(10 * time.Second)}
		if strings.HasSuffix(c.protocol, "SSL") {
			data, err := os.ReadFile(c.ca)
			must(t, err)
			pool := x509.NewCertPool()
			pool.AppendCertsFromPEM(data)
			opts = append(opts, kgo.DialTLSConfig(&tls.Config{RootCAs: pool}))
		}
		var m sasl.Mechanism
		mechanism, token := strings.CutPrefix(c.mechanism, "token:")
		switch mechanism {
		case "PLAIN":
			m = plain.Auth{User: c.user, Pass: c.secret}.AsMechanism()
		case "SCRAM-SHA-256":
			m = scram.Auth{User: c.user, Pass: c.secret, IsToken: token}.AsSha256Mechanism()
		case "SCRAM-SHA-512":
			m = scram.Auth{User: c.user, Pass: c.secret, IsToken: token}.AsSha512Mechanism()
		case "OAUTHBEARER":
			m = oauth.Auth{Token: c.secret}.AsMechanism()
		}
		if m != nil {
			opts = append(opts, kgo.SASL(m))
		}
		cl, err := kgo.NewClient(opts...)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		outcome := "ok"
		var code *kerr.Error
		var verify *tls.CertificateVerificationError
		switch err := cl.Ping(ctx); {
		case errors.As(err, &code):
			outcome = code.Message
		case errors.As(err, &verify):
			outcome = fmt.Sprintf("%T", verify.Err)
		case err != nil:
			outcome = fmt.Sprintf("%T", err)
		}
		cancel()
		cl.Close()
		fmt.Fprintf(&out, "%s\t%s\n", c.name, outcome)
	}
	return out.String()
}

// TestKafkaConfigsOfTLS: kafka-configs changes the certificate of a listener, and is told which file cannot be used.
func TestKafkaConfigsOfTLS(t *testing.T) {
	p := newSecurePeer(t)
	b, addrs := secureBroker(t, p)
	of := []string{"--entity-type", "brokers", "--entity-name", "1", "--alter", "--add-config"}
	serial := func() string {
		nc, err := tls.Dial("tcp", addrs["SSL"], &tls.Config{InsecureSkipVerify: true})
		must(t, err)
		defer nc.Close()
		return nc.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	toolRefused(t, b, "InvalidRequestException: listener.name.ssl.ssl.keystore.location=/nowhere/broker.pem", "configs", append(of, "listener.name.ssl.ssl.keystore.location=/nowhere/broker.pem")...)
	next := *p
	next.dir = t.TempDir()
	tool(t, b, "configs", append(of, "listener.name.ssl.ssl.keystore.location="+next.keystore("broker.pem", "localhost", "127.0.0.1")+",listener.name.ssl.ssl.key.password=of-no-use")...)
	for ctx := deadline(t, toolPatience); serial() == before; time.Sleep(50 * time.Millisecond) {
		must(t, ctx.Err())
	}
	out := tool(t, b, "configs", append(slices.Clone(of[:4]), "--describe")...)
	wantOutput(t, "describe", out, `listener\.name\.ssl\.ssl\.key\.password=null sensitive=true`)
	if strings.Contains(out, "of-no-use") {
		t.Error("the password is shown")
	}
}
