package security

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/xdg-go/scram"
)

const plainUsers = `listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="admin" password="x" user_alice="it's \\"geheim\\"; a=b" user_bob='bobs';`

func offer(t testing.TB, lines ...string) *Security {
	t.Helper()
	s, err := load(t, append([]string{"listeners=SASL_PLAINTEXT://localhost:0"}, lines...)...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// step demands an outcome of one message.
func step(t *testing.T, c Conversation, message string) (string, *Identity, *Refusal) {
	t.Helper()
	answer, id, err := c.Step([]byte(message))
	var r *Refusal
	if err != nil && !errors.As(err, &r) {
		t.Fatalf("an error that is no refusal: %v", err)
	}
	if r != nil && (id != nil || answer != nil) {
		t.Error("a refusal with an answer or an identity")
	}
	return string(answer), id, r
}

func begin(t testing.TB, s *Security, mechanism string, lookup Lookup) Conversation {
	t.Helper()
	c, ok := s.Begin("SASL_PLAINTEXT", mechanism, lookup)
	if !ok {
		t.Fatalf("%s is not offered", mechanism)
	}
	return c
}

// TestPlain: a password lets its user in and nobody else, and no refusal tells or logs what a password is.
func TestPlain(t *testing.T) {
	s := offer(t, "sasl.enabled.mechanisms=PLAIN", plainUsers)
	if _, ok := s.Begin("SASL_PLAINTEXT", ScramSHA256, nil); ok {
		t.Error("SCRAM is not enabled")
	}
	for _, c := range []struct{ message, principal, answer string }{
		{"\x00alice\x00it's \"geheim\"; a=b", "User:alice", ""},
		{"alice\x00alice\x00it's \"geheim\"; a=b", "User:alice", ""},
		{"\x00bob\x00bobs", "User:bob", ""},
		{"\x00alice\x00wrong", "", badPassword},
		{"\x00carol\x00bobs", "", badPassword},
		{"\x00admin\x00x", "", badPassword}, // username and password are the broker's own, as a client of others
		{"alice\x00bob\x00bobs", "", otherAuthorization},
		{"\x00alice\x00", "", invalidCredentials(Plain)},
		{"\x00\x00bobs", "", invalidCredentials(Plain)},
		{"", "", invalidCredentials(Plain)},
		{"\x00bob\x00bobs\x00more", "", invalidCredentials(Plain)},
	} {
		_, id, r := step(t, begin(t, s, Plain, nil), c.message)
		switch {
		case c.principal != "" && (id == nil || id.Principal != c.principal || !id.Expires.IsZero()):
			t.Errorf("%q: %v %v", c.message, id, r)
		case c.principal == "" && (r == nil || r.Answer != c.answer):
			t.Errorf("%q: %v %v, want %q", c.message, id, r, c.answer)
		case r != nil && (strings.Contains(r.Error()+r.Answer, "bobs") || strings.Contains(r.Error()+r.Answer, "wrong ") && strings.Contains(r.Error(), "geheim")):
			t.Errorf("a refusal shows a password: %v", r)
		}
	}
}

// TestScram: the whole exchange with both mechanisms, and each message spoilt in turn. A recorded proof is worth nothing in another conversation (CVE-2024-56128).
func TestScram(t *testing.T) {
	s := offer(t, "sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512")
	for name, generator := range map[string]scram.HashGeneratorFcn{ScramSHA256: scram.SHA256, ScramSHA512: scram.SHA512} {
		salt := []byte("0123456789abcdef")
		salted, err := SaltPassword(name, "geheim", salt, MinScramIterations)
		if err != nil {
			t.Fatal(err)
		}
		stored, server := ScramKeys(name, salted)
		lookup := func(mechanism, user string, token bool) (Credential, Identity, bool) {
			return Credential{Salt: salt, StoredKey: stored, ServerKey: server, Iterations: MinScramIterations}, User(user), mechanism == name && user == "al,ice=" && !token
		}
		var recorded [2]string
		exchange := func(user, password, authz string, spoil func(n int, m string) string) (*Identity, *Refusal) {
			client, err := generator.NewClient(user, password, authz)
			if err != nil {
				t.Fatal(err)
			}
			talk, server := client.NewConversation(), begin(t, s, name, lookup)
			answer := ""
			for n := range 2 {
				message, err := talk.Step(answer)
				if err != nil { // it has noticed that it is somebody else's conversation
					message = "c=biws,r=x,p=eA=="
				}
				recorded[n] = message
				var id *Identity
				var r *Refusal
				if answer, id, r = step(t, server, spoil(n, message)); id != nil || r != nil {
					if id != nil {
						if _, err := talk.Step(answer); err != nil || !talk.Valid() {
							t.Errorf("the client does not know the server: %v", err)
						}
					}
					return id, r
				}
			}
			t.Fatal("two messages and no outcome")
			return nil, nil
		}
		same := func(_ int, m string) string { return m }
		if id, r := exchange("al,ice=", "geheim", "", same); id == nil || id.Principal != "User:al,ice=" {
			t.Errorf("%s: %v %v", name, id, r)
		}
		old := recorded
		for what, c := range map[string]struct {
			user, password, authz string
			spoil                 func(int, string) string
			answer                string
		}{
			"wrong password":    {"al,ice=", "geraten", "", same, invalidCredentials(name)},
			"nobody":            {"bob", "geheim", "", same, invalidCredentials(name)},
			"somebody else":     {"al,ice=", "geheim", "bob", same, otherAuthorization},
			"a recorded proof":  {"al,ice=", "geheim", "", func(n int, _ string) string { return old[n] }, invalidCredentials(name)},
			"another nonce":     {"al,ice=", "geheim", "", func(n int, m string) string { return strings.Replace(m, "r=", "r=x", n) }, invalidCredentials(name)},
			"nothing":           {"al,ice=", "geheim", "", func(int, string) string { return "" }, invalidCredentials(name)},
			"no proof":          {"al,ice=", "geheim", "", func(n int, m string) string { return strings.Split(m, ",p=")[0] }, invalidCredentials(name)},
			"an empty proof":    {"al,ice=", "geheim", "", func(n int, m string) string { return strings.Split(m, ",p=")[0] + strings.Repeat(",p=", n) }, invalidCredentials(name)},
			"channel binding":   {"al,ice=", "geheim", "", func(n int, m string) string { return strings.Replace(m, "n,,", "p=tls-unique,,", 1) }, invalidCredentials(name)},
			"mandatory feature": {"al,ice=", "geheim", "", func(n int, m string) string { return strings.Replace(m, "n,,", "n,,m=x,", 1) }, invalidCredentials(name)},
		} {
			if id, r := exchange(c.user, c.password, c.authz, c.spoil); id != nil || r == nil || r.Answer != c.answer {
				t.Errorf("%s, %s: %v %v", name, what, id, r)
			}
		}
	}
}

// TestScramVector is the exchange of RFC 7677, section 3.
func TestScramVector(t *testing.T) {
	salt, _ := base64.StdEncoding.DecodeString("W22ZaJ0SNY7soEsUEjb6gQ==")
	salted, err := SaltPassword(ScramSHA256, "pencil", salt, 4096)
	if err != nil {
		t.Fatal(err)
	}
	stored, server := ScramKeys(ScramSHA256, salted)
	auth := "n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
	sign := func(key []byte) []byte {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(auth))
		return m.Sum(nil)
	}
	if got := base64.StdEncoding.EncodeToString(sign(server)); got != "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=" {
		t.Errorf("server signature %s", got)
	}
	proof, _ := base64.StdEncoding.DecodeString("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
	for i, b := range sign(stored) {
		proof[i] ^= b
	}
	if got := sha256.Sum256(proof); string(got[:]) != string(stored) {
		t.Error("the proof of the RFC is not one")
	}
}

// issuer signs tokens.
type issuer struct {
	key *ecdsa.PrivateKey
	dir string
}

func newIssuer(t testing.TB) *issuer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{key, t.TempDir()}
}

func (i *issuer) keySet(t testing.TB, id string) []byte {
	t.Helper()
	raw := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	point, err := i.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(map[string]any{"keys": []any{map[string]any{"kty": "EC", "crv": "P-256", "kid": id, "use": "sig", "alg": "ES256", "x": raw(point[1:33]), "y": raw(point[33:])}}})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (i *issuer) token(t testing.TB, id string, claims jwt.MapClaims) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["kid"] = id
	s, err := token.SignedString(i.key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func claims(change func(jwt.MapClaims)) jwt.MapClaims {
	now := time.Now()
	c := jwt.MapClaims{"sub": "alice", "iss": "https://idp", "aud": []string{"kafka", "other"}, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix()}
	if change != nil {
		change(c)
	}
	return c
}

// TestOAuthBearer: a token counts that the issuer has signed, for us, and for now. Each other is told to the client as Kafka does, in two steps.
func TestOAuthBearer(t *testing.T) {
	idp, thief := newIssuer(t), newIssuer(t)
	file := filepath.Join(idp.dir, "keys.json")
	if err := os.WriteFile(file, idp.keySet(t, "k1"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := offer(t, "sasl.enabled.mechanisms=OAUTHBEARER", "listener.name.sasl_plaintext.oauthbearer.sasl.server.callback.handler.class="+oauthValidator,
		"listener.name.sasl_plaintext.oauthbearer.sasl.jaas.config="+oauthLogin+" required;",
		"sasl.oauthbearer.jwks.endpoint.url=file://"+filepath.ToSlash(file), "sasl.oauthbearer.expected.audience=kafka", "sasl.oauthbearer.expected.issuer=https://idp")
	message := func(token string) string { return "n,,\x01auth=Bearer " + token + "\x01\x01" }
	good := idp.token(t, "k1", claims(nil))
	if answer, id, _ := step(t, begin(t, s, OAuthBearer, nil), message(good)); id != nil || answer != invalidToken {
		t.Error("a token counts before there are keys")
	}
	if ch := s.ReloadKeys(time.Now(), nil); len(ch) != 1 || ch[0].Err != nil {
		t.Fatal(ch)
	}
	if ch := s.ReloadKeys(time.Now(), nil); len(ch) != 0 {
		t.Error("the same keys again:", ch)
	}
	_, id, r := step(t, begin(t, s, OAuthBearer, nil), message(good))
	if id == nil || id.Principal != "User:alice" || time.Until(id.Expires) < 50*time.Minute {
		t.Fatal(id, r)
	}
	for _, m := range []string{"n,a=alice,\x01auth=bearer " + good + "\x01traceId=7\x01\x01", "n,a=alice,\x01traceId=7\x01auth=Bearer " + good + "\x01\x01"} {
		if _, id, r := step(t, begin(t, s, OAuthBearer, nil), m); id == nil {
			t.Error(r)
		}
	}
	public, err := x509.MarshalPKIXPublicKey(&idp.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	hmacToken := jwt.NewWithClaims(jwt.SigningMethodHS256, claims(nil))
	hmacToken.Header["kid"] = "k1"
	confused, err := hmacToken.SignedString(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	if err != nil {
		t.Fatal(err)
	}
	unsigned := jwt.NewWithClaims(jwt.SigningMethodNone, claims(nil))
	none, err := unsigned.SignedString(jwt.UnsafeAllowNoneSignatureType)
	if err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Hour).Unix()
	for what, token := range map[string]string{
		"expired":           idp.token(t, "k1", claims(func(c jwt.MapClaims) { c["exp"] = past })),
		"no end":            idp.token(t, "k1", claims(func(c jwt.MapClaims) { delete(c, "exp") })),
		"not yet":           idp.token(t, "k1", claims(func(c jwt.MapClaims) { c["nbf"] = time.Now().Add(time.Hour).Unix() })),
		"issued tomorrow":   idp.token(t, "k1", claims(func(c jwt.MapClaims) { c["iat"] = time.Now().Add(time.Hour).Unix() })),
		"no issue time":     idp.token(t, "k1", claims(func(c jwt.MapClaims) { delete(c, "iat") })),
		"another audience":  idp.token(t, "k1", claims(func(c jwt.MapClaims) { c["aud"] = "mail" })),
		"no audience":       idp.token(t, "k1", claims(func(c jwt.MapClaims) { delete(c, "aud") })),
		"another issuer":    idp.token(t, "k1", claims(func(c jwt.MapClaims) { c["iss"] = "https://evil" })),
		"no subject":        idp.token(t, "k1", claims(func(c jwt.MapClaims) { delete(c, "sub") })),
		"an empty subject":  idp.token(t, "k1", claims(func(c jwt.MapClaims) { c["sub"] = " " })),
		"a stranger's key":  thief.token(t, "k1", claims(nil)),
		"an unknown key id": idp.token(t, "k2", claims(nil)),
		"none":              none,
		"key confusion":     confused,
		"rubbish":           "a.b.c",
	} {
		c := begin(t, s, OAuthBearer, nil)
		answer, id, r := step(t, c, message(token))
		if id != nil || r != nil || answer != invalidToken {
			t.Errorf("%s: %q %v %v", what, answer, id, r)
			continue
		}
		if _, id, r := step(t, c, message(good)); id != nil || r == nil || r.Answer != invalidToken || strings.Contains(r.Error(), token) {
			t.Errorf("%s: a second try in one conversation: %v %v", what, id, r)
		}
	}
	for _, m := range []string{"", "\x01", "n,,\x01\x01", "n,,\x01auth=Basic x\x01\x01", message(good)[1:], "p=x,,\x01auth=Bearer " + good + "\x01\x01", "n,,\x01auth=Bearer " + good} {
		if _, id, r := step(t, begin(t, s, OAuthBearer, nil), m); id != nil || r == nil {
			t.Errorf("%.20q: %v", m, id)
		}
	}
	if _, id, r := step(t, begin(t, s, OAuthBearer, nil), "n,a=root,\x01auth=Bearer "+good+"\x01\x01"); id != nil || r == nil || !strings.Contains(r.Answer, "authorization id (root) that is different from the token's principal name (alice)") {
		t.Error(id, r)
	}
	// New keys count at once, and a file that cannot be read changes nothing.
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ch := s.ReloadKeys(time.Now(), nil); len(ch) != 1 || ch[0].Err == nil {
		t.Error(ch)
	}
	if _, id, _ := step(t, begin(t, s, OAuthBearer, nil), message(good)); id == nil {
		t.Error("keys that were good are gone")
	}
	if err := os.WriteFile(file, idp.keySet(t, "k2"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.ReloadKeys(time.Now(), nil)
	if _, id, _ := step(t, begin(t, s, OAuthBearer, nil), message(good)); id != nil {
		t.Error("a key that is gone still counts")
	}
	if _, id, r := step(t, begin(t, s, OAuthBearer, nil), message(idp.token(t, "k2", claims(nil)))); id == nil {
		t.Error(r)
	}
}

// TestKeysFromAURL: keys are fetched at the start, when they are old, and when a token names one that nobody knows, but not whenever a client likes.
func TestKeysFromAURL(t *testing.T) {
	idp := newIssuer(t)
	s := offer(t, "sasl.enabled.mechanisms=OAUTHBEARER", "sasl.oauthbearer.jwks.endpoint.url=https://idp.example/keys")
	fetches, current := 0, idp.keySet(t, "k1")
	var broken error
	fetch := func(u *url.URL) ([]byte, error) {
		fetches++
		return current, broken
	}
	now := time.Now()
	look := func(after time.Duration, want int) {
		t.Helper()
		now = now.Add(after)
		s.ReloadKeys(now, fetch)
		if fetches != want {
			t.Errorf("%d fetches, want %d", fetches, want)
		}
	}
	broken = errors.New("no route to host")
	look(0, 1)
	look(time.Second, 1) // not again at once
	broken = nil
	look(10*time.Second, 2)
	look(time.Minute, 2)
	unknown := func() *Identity {
		_, id, _ := step(t, begin(t, s, OAuthBearer, nil), "n,,\x01auth=Bearer "+idp.token(t, "k2", claims(nil))+"\x01\x01")
		return id
	}
	for range 5 {
		unknown()
	}
	look(0, 3)
	for range 5 {
		unknown()
	}
	look(time.Second, 3)
	current = idp.keySet(t, "k2")
	look(10*time.Second, 4)
	if unknown() == nil {
		t.Error("the new key does not count")
	}
	look(time.Hour, 5)
}

// TestWhatSASLCannotHonour: each is an error that names the key, and holds no secret.
func TestWhatSASLCannotHonour(t *testing.T) {
	const jaas = "listener.name.sasl_plaintext.plain.sasl.jaas.config="
	plain := "org.apache.kafka.common.security.plain.PlainLoginModule"
	for _, c := range []struct{ lines, want string }{
		{"", "sasl.enabled.mechanisms=GSSAPI (by default): GSSAPI is not supported; allowed: "},
		{"sasl.enabled.mechanisms=GSSAPI,PLAIN", "GSSAPI is not supported; allowed: OAUTHBEARER, PLAIN, SCRAM-SHA-256, SCRAM-SHA-512"},
		{"sasl.enabled.mechanisms=", "needs a mechanism"},
		{"sasl.enabled.mechanisms=PLAIN", "listener.name.sasl_plaintext.plain.sasl.jaas.config=(unset) (by default): PLAIN needs its users"},
		{"sasl.enabled.mechanisms=PLAIN\n" + jaas + plain + ` required user_a="streng-geheim"`, "does not end with a semicolon"},
		{"sasl.enabled.mechanisms=PLAIN\n" + jaas + plain + ` required user_a=streng-geheim user_b;`, "option 2 is not in the form"},
		{"sasl.enabled.mechanisms=PLAIN\n" + jaas + plain + ` required user_a="streng-geheim;`, `option 1 is not in the form name="value"`},
		{"sasl.enabled.mechanisms=PLAIN\n" + jaas + plain + ` user_a="streng-geheim";`, "must be followed by required"},
		{"sasl.enabled.mechanisms=PLAIN\n" + jaas + `com.evil.Module required user_a="streng-geheim";`, "the login module of PLAIN is " + plain},
		{"sasl.enabled.mechanisms=PLAIN\n" + plainUsers + "\nlistener.name.sasl_plaintext.plain.sasl.server.callback.handler.class=my.Handler", "Java classes cannot be loaded"},
		{"sasl.enabled.mechanisms=OAUTHBEARER", "OAUTHBEARER needs the keys"},
		{"sasl.enabled.mechanisms=OAUTHBEARER\nsasl.oauthbearer.jwks.endpoint.url=http://10.0.0.1/keys", "allowed: https://"},
		{"sasl.enabled.mechanisms=OAUTHBEARER\nsasl.oauthbearer.jwks.endpoint.url=jar:file:/x", "allowed: https://"},
	} {
		lines := "listeners=SASL_PLAINTEXT://localhost:0\n" + c.lines
		_, err := load(t, strings.Split(lines, "\n")...)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "streng-") {
			t.Errorf("%s:\n got %v\nwant %s", c.lines, err, c.want)
		}
	}
}

// FuzzConversations: nothing that a client says panics, and rubbish lets nobody in.
func FuzzConversations(f *testing.F) {
	s := offer(f, "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256", plainUsers)
	f.Add([]byte("\x00alice\x00x"), []byte("n,,n=alice,r=abc"))
	f.Add([]byte("n,,n=id,r=abc,tokenauth=true"), []byte("c=biws,r=abc,p=eA=="))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		for _, name := range []string{Plain, ScramSHA256} {
			c := begin(t, s, name, func(_, name string, _ bool) (Credential, Identity, bool) {
				return Credential{Salt: []byte("s"), StoredKey: make([]byte, 32), ServerKey: make([]byte, 32), Iterations: 4096}, User(name), true
			})
			for _, m := range [][]byte{a, b} {
				_, id, err := c.Step(m)
				if id != nil && name != Plain {
					t.Errorf("%q and %q are %s", a, b, id.Principal)
				}
				if err != nil || id != nil {
					break
				}
			}
		}
	})
}
