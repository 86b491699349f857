package broker_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

const tokenKey = "key-geheim"

// byToken are both mechanisms of a client with a token.
func byToken(t kadm.DelegationToken) []sasl.Mechanism {
	a := scram.Auth{User: t.TokenID, Pass: base64.StdEncoding.EncodeToString(t.HMAC), IsToken: true}
	return []sasl.Mechanism{a.AsSha256Mechanism(), a.AsSha512Mechanism()}
}

// TestDelegationTokens is the life of tokens: the bearer of one is its owner and may do what he may, but get no token by it; one that was
// ended lets nobody in, and one that lives does after a restart, while the key is the same. Nobody but who may have it sees a secret.
func TestDelegationTokens(t *testing.T) {
	dir := t.TempDir()
	properties := append(saslProperties, "connection.failed.authentication.delay.ms=1",
		"authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:admin")
	b, log := secure(t, dir, map[string]string{"http": "localhost:0"}, append(properties, "delegation.token.secret.key="+tokenKey)...)
	admin := kadm.NewClient(saslClient(t, b, plainAs("admin", "admin-geheim")))
	bob := kadm.NewClient(saslClient(t, b, plainAs("bob", "bob-geheim")))
	acls := kadm.NewACLs().Topics("t").Operations(kadm.OpWrite, kadm.OpDescribe).Allow("User:bob").AllowHosts().ResourcePatternType(kadm.ACLPatternLiteral)
	made, err := admin.CreateACLs(within(t), acls)
	must(t, err)
	must(t, made[0].Err)
	_, err = admin.CreateTopic(within(t), 1, 1, nil, "t")
	must(t, err)

	token, err := bob.CreateDelegationToken(within(t), kadm.CreateDelegationToken{MaxLifetime: time.Hour, Renewers: []kadm.Principal{{Type: "User", Name: "admin"}}})
	must(t, err)
	if token.Owner.Name != "bob" || token.MaxTimestamp.Sub(token.IssueTimestamp) != time.Hour || token.ExpiryTimestamp != token.MaxTimestamp || len(token.HMAC) != 64 {
		t.Errorf("%v until %v, at most %v, secret of %d bytes", token.Owner, token.ExpiryTimestamp, token.MaxTimestamp, len(token.HMAC))
	}
	if other := token; true {
		other.HMAC = bytes.Repeat([]byte{1}, 64)
		for _, m := range byToken(other) {
			notLetIn(t, saslClient(t, b, m))
		}
	}
	var bearer *kgo.Client
	for _, m := range byToken(token) {
		bearer = saslClient(t, b, m)
		must(t, bearer.ProduceSync(within(t), &kgo.Record{Topic: "t", Value: []byte("by bob")}).FirstErr())
	}
	if _, err := kadm.NewClient(bearer).CreateTopic(within(t), 1, 1, nil, "mine"); !errors.Is(err, kerr.TopicAuthorizationFailed) && !errors.Is(err, kerr.ClusterAuthorizationFailed) {
		t.Errorf("a bearer may do what his owner may not: %v", err)
	}
	notAllowed := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, kerr.DelegationTokenRequestNotAllowed) {
			t.Errorf("%s by a token: %v", what, err)
		}
	}
	_, err = kadm.NewClient(bearer).CreateDelegationToken(within(t), kadm.CreateDelegationToken{MaxLifetime: -1})
	notAllowed("create", err)
	_, err = kadm.NewClient(bearer).RenewDelegationToken(within(t), token.HMAC, -1)
	notAllowed("renew", err)
	_, err = kadm.NewClient(bearer).ExpireDelegationToken(within(t), token.HMAC, -1)
	notAllowed("expire", err)
	_, err = kadm.NewClient(bearer).DescribeDelegationTokens(within(t))
	notAllowed("describe", err)

	// A session by a token ends with it, and the client is told.
	session := func(token kadm.DelegationToken) *kmsg.SASLAuthenticateResponse {
		t.Helper()
		client, first, err := byToken(token)[0].Authenticate(within(t), "")
		must(t, err)
		w := dialWire(t, b)
		w.ask(handshake(1, "SCRAM-SHA-256"), 4)
		challenge := w.ask(authenticate(string(first)), 4).(*kmsg.SASLAuthenticateResponse)
		if challenge.ErrorCode != 0 {
			return challenge
		}
		_, proof, err := client.Challenge(challenge.SASLAuthBytes)
		must(t, err)
		return w.ask(authenticate(string(proof)), 4).(*kmsg.SASLAuthenticateResponse)
	}
	if r := session(token); r.ErrorCode != 0 || r.SessionLifetimeMillis < 1 || r.SessionLifetimeMillis > time.Hour.Milliseconds() {
		t.Errorf("a session of %d ms, code %d", r.SessionLifetimeMillis, r.ErrorCode)
	}

	// Ended at once by a renewer: new connections are refused, the one that is open goes on until its session ends.
	_, err = bob.RenewDelegationToken(within(t), token.HMAC, 10*time.Minute)
	must(t, err)
	if r := session(token); r.SessionLifetimeMillis > (10 * time.Minute).Milliseconds() {
		t.Errorf("a session of %d ms", r.SessionLifetimeMillis)
	}
	_, err = admin.ExpireDelegationToken(within(t), token.HMAC, -time.Millisecond)
	must(t, err)
	for _, m := range byToken(token) {
		notLetIn(t, saslClient(t, b, m))
	}
	must(t, bearer.ProduceSync(within(t), &kgo.Record{Topic: "t", Value: []byte("still")}).FirstErr())

	// One that has expired and has not been swept away, which is once an hour, lets nobody in.
	short, err := bob.CreateDelegationToken(within(t), kadm.CreateDelegationToken{MaxLifetime: time.Millisecond})
	must(t, err)
	eventually(t, "a token expires", func() bool { return time.Now().After(short.MaxTimestamp.Add(time.Millisecond)) })
	for _, m := range byToken(short) {
		notLetIn(t, saslClient(t, b, m))
	}
	if _, err := bob.RenewDelegationToken(within(t), short.HMAC, -1); !errors.Is(err, kerr.DelegationTokenExpired) {
		t.Errorf("renewed after its end: %v", err)
	}

	lasting, err := admin.CreateDelegationToken(within(t), kadm.CreateDelegationToken{Owner: &kadm.Principal{Type: "User", Name: "bob"}, MaxLifetime: -1})
	must(t, err)
	seen, err := bob.DescribeDelegationTokens(within(t))
	must(t, err)
	found := false
	for _, x := range seen {
		found = found || x.TokenID == lasting.TokenID && bytes.Equal(x.HMAC, lasting.HMAC) && x.TokenRequesterPrincipal.Name == "admin"
	}
	if !found {
		t.Errorf("bob does not see his token among %d", len(seen))
	}

	secrets := []string{tokenKey}
	for _, x := range []kadm.DelegationToken{token, short, lasting} {
		secrets = append(secrets, string(x.HMAC), base64.StdEncoding.EncodeToString(x.HMAC))
	}
	hides := func(what, text string) {
		t.Helper()
		for i, s := range secrets {
			if strings.Contains(text, s) {
				t.Errorf("%s shows secret %d", what, i)
			}
		}
	}
	_, metrics := get(t, b, "/metrics")
	hides("/metrics", metrics)
	configs, err := admin.DescribeBrokerConfigs(within(t), 1)
	must(t, err)
	for _, c := range configs[0].Configs {
		if c.Key == "delegation.token.secret.key" && (c.Value != nil || !c.Sensitive) {
			t.Errorf("%s is described as %q", c.Key, *c.Value)
		}
	}
	stop(t, b, log)
	must(t, filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(file)
		hides(file, string(data))
		return err
	}))
	hides("the log", log.String())

	b, log = secure(t, dir, nil, append(properties, "delegation.token.secret.key="+tokenKey)...)
	for _, m := range byToken(lasting) {
		must(t, saslClient(t, b, m).ProduceSync(within(t), &kgo.Record{Topic: "t", Value: []byte("after a restart")}).FirstErr())
	}
	notLetIn(t, saslClient(t, b, byToken(token)[0]))
	stop(t, b, log)

	// With another key all secrets are others.
	b, log = secure(t, dir, nil, append(properties, "delegation.token.secret.key=another")...)
	notLetIn(t, saslClient(t, b, byToken(lasting)[0]))
	stop(t, b, log)

	// Without one there are none.
	b, _ = secure(t, dir, nil, properties...)
	notLetIn(t, saslClient(t, b, byToken(lasting)[0]))
	bob = kadm.NewClient(saslClient(t, b, plainAs("bob", "bob-geheim")))
	if _, err := bob.DescribeDelegationTokens(within(t)); !errors.Is(err, kerr.DelegationTokenAuthDisabled) {
		t.Errorf("without a key: %v", err)
	}
	if _, err := bob.CreateDelegationToken(within(t), kadm.CreateDelegationToken{MaxLifetime: -1}); !errors.Is(err, kerr.DelegationTokenAuthDisabled) {
		t.Errorf("without a key: %v", err)
	}
}
