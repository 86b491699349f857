package broker_test

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"github.com/youmark/pkcs8"
	"software.sslmate.com/src/go-pkcs12"

	"moldau/broker"
	"moldau/internal/config"
	"moldau/internal/security"
	"moldau/test/certs"
)

// secrets are what nobody may be shown, by what they are.
type secrets map[string]string

// add makes one up.
func (s secrets) add(name string) string {
	s[name] = "s3cret-" + name + "-q7Xz"
	return s[name]
}

// search demands that a text holds none, in no form.
func (s secrets) search(t *testing.T, where, text string) {
	t.Helper()
	for name, secret := range s {
		for form, p := range map[string]string{"as it is": secret, "in base64": strings.TrimRight(base64.StdEncoding.EncodeToString([]byte(secret)), "="),
			"in base64 of URLs": strings.TrimRight(base64.URLEncoding.EncodeToString([]byte(secret)), "="), "in hex": hex.EncodeToString([]byte(secret))} {
			if i := strings.Index(strings.ToLower(text), strings.ToLower(p)); i >= 0 {
				t.Errorf("%s shows %s, %s: …%.200s", where, name, form, text[max(0, i-100):])
			}
		}
	}
}

// TestSecretsAreNotShown: with every secret set, and successes and failures of every kind, none is in the log at its most talkative, in what is described,
// in metrics and pages, or in the errors of a start that fails.
func TestSecretsAreNotShown(t *testing.T) {
	dir := t.TempDir()
	s := secrets{}
	ca := certs.CA(t, "a CA")
	pair := ca.Issue(t, "broker", time.Hour)
	write := func(name string, data []byte, err error) string {
		t.Helper()
		must(t, err)
		file := filepath.Join(dir, name)
		must(t, os.WriteFile(file, data, 0o600))
		return file
	}
	p12, err := pkcs12.Modern.Encode(pair.Key, pair.Cert, nil, s.add("keystore"))
	keystore := write("k.p12", p12, err)
	trust, err := pkcs12.Modern.EncodeTrustStore([]*x509.Certificate{ca.Cert}, s.add("truststore"))
	truststore := write("t.p12", trust, err)
	der, err := pkcs8.MarshalPrivateKey(pair.Key, []byte(s.add("key")), nil)
	must(t, err)
	inLine := func(block string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: block, Bytes: der}))
	}
	encrypted := inLine("ENCRYPTED PRIVATE KEY", der)
	s["the key, encrypted"] = strings.Split(encrypted, "\n")[2]
	plainKey, err := x509.MarshalPKCS8PrivateKey(pair.Key)
	must(t, err)
	s["the key"] = string(plainKey[40:64])
	jwks := write("keys.json", []byte(`{"keys":[]}`), nil)
	properties := []string{"listeners=SASL_SSL://127.0.0.1:0,SSL://127.0.0.1:0,SASL_PLAINTEXT://127.0.0.1:0", "connection.failed.authentication.delay.ms=1",
		"ssl.keystore.type=PKCS12", "ssl.keystore.location=" + keystore, "ssl.keystore.password=" + s["keystore"],
		"ssl.truststore.type=PKCS12", "ssl.truststore.location=" + truststore, "ssl.truststore.password=" + s["truststore"],
		"listener.name.ssl.ssl.keystore.type=PEM", "listener.name.ssl.ssl.keystore.location=", "listener.name.ssl.ssl.keystore.password=", "listener.name.ssl.ssl.keystore.key=" + encrypted,
		"listener.name.ssl.ssl.keystore.certificate.chain=" + string(pair.PEM()), "listener.name.ssl.ssl.key.password=" + s["key"],
		"sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
		"sasl.oauthbearer.jwks.endpoint.url=" + (&url.URL{Scheme: "file", Path: filepath.ToSlash(jwks)}).String(),
		"sasl.oauthbearer.client.credentials.client.secret=" + s.add("client-secret"), "sasl.oauthbearer.assertion.private.key.passphrase=" + s.add("passphrase"),
		"delegation.token.secret.key=" + s.add("token-key"),
		"authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:admin"}
	for _, l := range []string{"sasl_ssl", "sasl_plaintext"} {
		properties = append(properties, fmt.Sprintf(`listener.name.%s.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="broker" password=%q user_admin=%q user_bob=%q;`,
			l, s.add("own"), s.add("admin"), s.add("bob")),
			fmt.Sprintf(`listener.name.%s.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username="broker" password=%q;`, l, s.add("own-scram")))
	}
	cfg, warnings, err := config.Load(config.Sources{Sets: properties, Flags: map[string]string{"data-dir": filepath.Join(dir, "data"), "http": "127.0.0.1:0"}})
	must(t, err)
	for _, w := range warnings {
		s.search(t, "a warning", w.Text)
	}
	log := new(brokerLog)
	b, err := broker.Start(within(t), broker.Options{Config: cfg, Log: slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	must(t, err)
	t.Cleanup(func() {
		if !log.stopped {
			stop(t, b, log)
		}
	})

	bare := kgo.SeedBrokers(b.Addrs()[2].String())
	admin := kadm.NewClient(saslClient(t, b, plainAs("admin", s["admin"]), bare))
	_, err = admin.CreateTopic(within(t), 1, 1, nil, "t")
	must(t, err)
	s.add("alice")
	for m, name := range map[kadm.ScramMechanism]string{kadm.ScramSha256: security.ScramSHA256, kadm.ScramSha512: security.ScramSHA512} {
		salt := []byte("a salt of alice's")
		salted, err := security.SaltPassword(name, s["alice"], salt, 4096)
		must(t, err)
		stored, server := security.ScramKeys(name, salted)
		s["salted "+name], s["stored "+name], s["server "+name] = string(salted), string(stored), string(server)
		made, err := admin.AlterUserSCRAMs(within(t), nil, []kadm.UpsertSCRAM{{User: "alice", Mechanism: m, Iterations: 4096, Salt: salt, SaltedPassword: salted}})
		must(t, err)
		must(t, made.Error())
	}
	must(t, saslClient(t, b, scram.Auth{User: "alice", Pass: s["alice"]}.AsSha256Mechanism(), bare).Ping(within(t)))
	token := "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJib2IifQ." + base64.RawURLEncoding.EncodeToString([]byte(s.add("signature")))
	// One line a second tells of a failure: each is tried until its own has come.
	for want, m := range map[string]sasl.Mechanism{
		`wrong password of user \"alice\"`:              scram.Auth{User: "alice", Pass: s.add("guess-256")}.AsSha256Mechanism(),
		`there is no user \"nobody\" for SCRAM-SHA-512`: scram.Auth{User: "nobody", Pass: s.add("guess-512")}.AsSha512Mechanism(),
		`wrong password of user \"bob\"`:                plainAs("bob", s.add("guess")),
		`there is no user \"somebody\" for PLAIN`:       plainAs("somebody", s.add("guess-of-nobody")),
	} {
		eventually(t, want, func() bool {
			if err := saslClient(t, b, m, bare).Ping(within(t)); err == nil {
				t.Fatalf("let in: %s", want)
			}
			return strings.Contains(log.String(), want)
		})
	}
	eventually(t, "a refused token is logged", func() bool {
		w := dialAddr(t, b.Addrs()[2].String())
		w.ask(handshake(1, "OAUTHBEARER"), 4)
		w.ask(authenticate("n,,\x01auth=Bearer "+token+"\x01\x01"), 4)
		w.ask(authenticate("\x01"), 4)
		return strings.Contains(log.String(), "the token is not accepted")
	})
	// Messages of PLAIN that are none, a password in the place of the user's name, and one in that of the other name.
	for _, m := range []string{s["bob"], "\x00" + s["bob"], s["bob"] + "\x00bob\x00" + s["bob"] + "x", "\x00bob\x00" + s["bob"] + "\x00more"} {
		w := dialAddr(t, b.Addrs()[2].String())
		w.ask(handshake(1, "PLAIN"), 4)
		w.ask(authenticate(m), 4)
	}
	delegated, err := admin.CreateDelegationToken(within(t), kadm.CreateDelegationToken{MaxLifetime: -1})
	must(t, err)
	s["a delegation token"] = string(delegated.HMAC)
	s["a delegation token's text"] = base64.StdEncoding.EncodeToString(delegated.HMAC)
	// Changes that are refused are told, their values are not.
	for key, secret := range map[string]string{"listener.name.sasl_ssl.ssl.keystore.password": s.add("new-keystore"), "listener.name.ssl.ssl.key.password": s.add("new-key"), "listener.name.sasl_ssl.plain.sasl.jaas.config": s.add("new-jaas"),
		"delegation.token.secret.key": s.add("new-token-key")} {
		if err := setBroker(t, admin, key, secret); err == nil {
			t.Errorf("%s is taken", key)
		} else {
			s.search(t, "the answer about "+key, err.Error())
		}
	}

	// Of PEM a keystore's password is of no use, and taken.
	must(t, setBroker(t, admin, "listener.name.ssl.ssl.keystore.password", s.add("unused")))

	var told strings.Builder
	for _, ids := range [][]int32{{1}, nil} {
		r, err := admin.DescribeBrokerConfigs(within(t), ids...)
		must(t, err)
		for _, rc := range r {
			for _, c := range rc.Configs {
				fmt.Fprintf(&told, "%s=%s (%v)\n", c.Key, c.MaybeValue(), c.Synonyms)
				for _, syn := range c.Synonyms {
					if syn.Value != nil {
						fmt.Fprintln(&told, syn.Key, *syn.Value)
					}
				}
			}
		}
	}
	r, err := admin.DescribeTopicConfigs(within(t), "t")
	must(t, err)
	fmt.Fprintf(&told, "%+v\n", r)
	users, err := admin.DescribeUserSCRAMs(within(t))
	must(t, err)
	fmt.Fprintf(&told, "%+v\n", users)
	if !strings.Contains(told.String(), "ssl.keystore.location") {
		t.Error("nothing is described")
	}
	s.search(t, "what is described", told.String())
	for _, path := range []string{"/live", "/ready", "/metrics", "/group?name=g", "/quota", "/nothing", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/goroutine?debug=2", "/debug/pprof/heap?debug=1", "/debug/pprof/allocs?debug=1"} {
		_, body := page(t, b, path)
		s.search(t, path, body)
	}
	admin.Close()
	stop(t, b, log)
	text := log.String()
	if !strings.Contains(text, "DEBUG") {
		t.Error("the log is not as talkative as it can be")
	}
	s.search(t, "the log", text)
	audit, err := os.ReadFile(filepath.Join(dir, "data", "meta", "audit.log"))
	if err == nil {
		s.search(t, "the audit log", string(audit))
	}

	// A start that fails names the key.
	for what, change := range map[string][]string{
		"a wrong keystore password":   {"ssl.keystore.password=" + s.add("wrong-keystore")},
		"a wrong truststore password": {"ssl.truststore.password=" + s.add("wrong-truststore")},
		"a wrong key password":        {"listener.name.ssl.ssl.key.password=" + s.add("wrong-key")},
		"a JAAS that is none":         {"listener.name.sasl_ssl.plain.sasl.jaas.config=" + s.add("no-jaas")},
		"a JAAS that does not end":    {`listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_a="` + s.add("open-jaas")},
		"a near miss":                 {"ssl.keystore.pasword=" + s.add("near-miss")},
		"an unknown key":              {"listener.name.sasl_ssl.plain.sasl.jaas.confg=" + s.add("unknown-key")},
	} {
		cfg, warnings, err := config.Load(config.Sources{Sets: append(properties, change...), Flags: map[string]string{"data-dir": filepath.Join(dir, "other"), "http": "off"}})
		for _, w := range warnings {
			s.search(t, what, w.Text)
		}
		if err == nil {
			var failing *broker.Broker
			if failing, err = broker.Start(within(t), broker.Options{Config: cfg, Log: slog.New(slog.DiscardHandler)}); err == nil {
				must(t, failing.Abort())
				t.Errorf("%s: it starts", what)
				continue
			}
		}
		s.search(t, what, err.Error())
	}
	if bytes.Contains([]byte(text), []byte("-----BEGIN")) {
		t.Error("the log shows a key")
	}
}
