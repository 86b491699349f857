package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/rogpeppe/go-internal/testscript"

	"moldau/broker"
	"moldau/internal/config"
	"moldau/test/certs"
)

// issuer signs tokens for OAUTHBEARER; its keys are in a file.
type issuer struct {
	key  *ecdsa.PrivateKey
	file string
}

func newIssuer(t *testing.T, dir string) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := key.PublicKey.ECDH()
	if err != nil {
		t.Fatal(err)
	}
	point := public.Bytes()[1:] // x and y
	encode := base64.RawURLEncoding.EncodeToString
	set, err := json.Marshal(map[string]any{"keys": []map[string]string{{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k", "x": encode(point[:32]), "y": encode(point[32:])}}})
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key, filepath.Join(dir, "keys.json")}
	if err := os.WriteFile(i.file, set, 0o600); err != nil {
		t.Fatal(err)
	}
	return i
}

// token says that its bearer is a subject, until a time.
func (i *issuer) token(t *testing.T, subject string, until time.Time) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{"sub": subject, "aud": "kafka", "iat": time.Now().Add(-time.Hour).Unix(), "exp": until.Unix()})
	token.Header["kid"] = "k"
	signed, err := token.SignedString(i.key)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// TestCommandsShowWhoTheyAre runs every command that talks to a broker over TLS and SASL, by a Java client's properties (--command-config), against a
// broker with access control: who a command is decides what it may do.
func TestCommandsShowWhoTheyAre(t *testing.T) {
	dir := t.TempDir()
	ca := certs.CA(t, "a CA")
	caFile, _ := ca.Files(t, dir, "ca")
	_, store := ca.Issue(t, "broker", 300*24*time.Hour).Files(t, dir, "broker")
	stranger, _ := certs.CA(t, "another CA").Files(t, dir, "other")
	_, friend := ca.Issue(t, "friend", 300*24*time.Hour).Files(t, dir, "friend")
	tokens := newIssuer(t, dir)
	data := filepath.Join(dir, "data")
	sets := []string{"listeners=SASL_SSL://127.0.0.1:0,SSL://127.0.0.1:0,SASL_PLAINTEXT://127.0.0.1:0", "moldau.http.listener=off",
		"authorizer.class.name=" + config.StandardAuthorizer, "super.users=User:admin;User:CN=friend",
		"ssl.keystore.type=PEM", "ssl.keystore.location=" + store, "ssl.truststore.type=PEM", "ssl.truststore.location=" + caFile, "listener.name.ssl.ssl.client.auth=required",
		"sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER", "connection.failed.authentication.delay.ms=1",
		"sasl.oauthbearer.jwks.endpoint.url=" + (&url.URL{Scheme: "file", Path: filepath.ToSlash(tokens.file)}).String(), "sasl.oauthbearer.expected.audience=kafka"}
	for _, l := range []string{"sasl_ssl", "sasl_plaintext"} {
		sets = append(sets, "listener.name."+l+`.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_admin="admin-pw" user_eve="eve-pw";`)
	}
	conf, _, err := config.Load(config.Sources{Sets: sets, Flags: map[string]string{"data-dir": data}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.Start(t.Context(), broker.Options{Config: conf, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	const pkg = "org.apache.kafka.common.security."
	login := func(class, user, password string) string {
		return fmt.Sprintf(`sasl.jaas.config=%s required username="%s" password="%s";`, pkg+class, user, password)
	}
	plain := func(user, password string) string { return login("plain.PlainLoginModule", user, password) }
	token := func(who string, until time.Time) string {
		return fmt.Sprintf(`sasl.jaas.config=%soauthbearer.OAuthBearerLoginModule required token="%s";`, pkg, tokens.token(t, who, until))
	}
	trust := "ssl.truststore.type=PEM\nssl.truststore.location=" + caFile
	inLine := "ssl.truststore.type=PEM\nssl.truststore.certificates=" + strings.ReplaceAll(string(ca.PEM()), "\n", `\n`)
	oneFile := func(lines ...string) string { return strings.Join(lines, "\n") + "\n" }
	scram := func(user, password string) string { return login("scram.ScramLoginModule", user, password) }
	files := map[string]string{
		"admin":       oneFile("security.protocol=SASL_SSL", trust, "sasl.mechanism=PLAIN", plain("admin", "admin-pw"), "acks=all"),
		"in-line":     oneFile("security.protocol=sasl_ssl", inLine, "sasl.mechanism=PLAIN", plain("admin", "admin-pw")),
		"bare":        oneFile("security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN", plain("admin", "admin-pw")),
		"friend":      oneFile("security.protocol=SSL", trust, "ssl.keystore.type=PEM", "ssl.keystore.location="+friend),
		"eve":         oneFile("security.protocol=SASL_SSL", trust, "sasl.mechanism=PLAIN", plain("eve", "eve-pw")),
		"wrong":       oneFile("security.protocol=SASL_SSL", trust, "sasl.mechanism=PLAIN", plain("admin", "eve-pw")),
		"alice-256":   oneFile("security.protocol=SASL_SSL", trust, "sasl.mechanism=SCRAM-SHA-256", scram("alice", "alice-pw")),
		"alice-512":   oneFile("security.protocol=SASL_PLAINTEXT", "sasl.mechanism=SCRAM-SHA-512", scram("alice", "alice-pw")),
		"alice-new":   oneFile("security.protocol=SASL_SSL", trust, "sasl.mechanism=SCRAM-SHA-512", scram("alice", "alice-new-pw")),
		"token":       oneFile("security.protocol=SASL_SSL", trust, "sasl.mechanism=OAUTHBEARER", token("admin", time.Now().Add(time.Hour))),
		"old-token":   oneFile("security.protocol=SASL_SSL", trust, "sasl.mechanism=OAUTHBEARER", token("admin", time.Now().Add(-time.Minute))),
		"no-tls":      oneFile("security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN", plain("admin", "admin-pw")),
		"other-ca":    oneFile("security.protocol=SASL_SSL", "ssl.truststore.type=PEM", "ssl.truststore.location="+stranger, "sasl.mechanism=PLAIN", plain("admin", "admin-pw")),
		"no-cert":     oneFile("security.protocol=SSL", trust),
		"no-protocol": oneFile("security.protocol=TLS"),
		"no-store":    oneFile("security.protocol=SSL", "ssl.truststore.location=/nowhere/ca.pem"),
		"jks":         oneFile("security.protocol=SSL", "ssl.truststore.type=JKS", "ssl.truststore.location=ca.jks", "ssl.truststore.password=hidden-pw"),
		"kerberos":    oneFile("security.protocol=SASL_SSL", trust, plain("admin", "hidden-pw")),
		"no-jaas":     oneFile("security.protocol=SASL_SSL", trust, "sasl.mechanism=PLAIN", "sasl.jaas.config=hidden-pw"),
	}
	testscript.Run(t, testscript.Params{Dir: "testdata/secure", Setup: func(e *testscript.Env) error {
		addrs := b.Addrs()
		e.Setenv("SASL_SSL", addrs[0].String())
		e.Setenv("SSL", addrs[1].String())
		e.Setenv("SASL_PLAINTEXT", addrs[2].String())
		e.Setenv("KEYSTORE", store)
		e.Setenv("CA", caFile)
		e.Setenv("DATA", data)
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(e.WorkDir, name+".properties"), []byte(text), 0o600); err != nil {
				return err
			}
		}
		return nil
	}})
}
