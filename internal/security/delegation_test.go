package security

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// tokens are the tokens and the users of a test.
type knownTokens struct {
	*Delegation
	owners map[string]Identity
	users  map[string]Credential
}

func (k *knownTokens) lookup(mechanism, name string, token bool) (Credential, Identity, bool) {
	if !token {
		c, ok := k.users[name]
		return c, User(name), ok
	}
	id, ok := k.owners[name]
	if !ok {
		return Credential{}, Identity{}, false
	}
	c, err := k.Credential(mechanism, name)
	return c, id, err == nil
}

// prove is a client's part of a conversation. between runs before its last message.
func (k *knownTokens) prove(t *testing.T, s *Security, mechanism string, a scram.Auth, edit func(string) string, between func()) (*Identity, *Refusal) {
	t.Helper()
	m := a.AsSha256Mechanism()
	if mechanism == ScramSHA512 {
		m = a.AsSha512Mechanism()
	}
	client, first, err := m.Authenticate(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	talk := begin(t, s, mechanism, k.lookup)
	answer, _, r := step(t, talk, edit(string(first)))
	if r != nil {
		return nil, r
	}
	_, final, err := client.Challenge([]byte(answer))
	if err != nil {
		t.Fatal(err)
	}
	between()
	answer, id, r := step(t, talk, string(final))
	if r != nil {
		return nil, r
	}
	if done, _, err := client.Challenge([]byte(answer)); err != nil || !done {
		t.Errorf("the client does not know the server: %v", err)
	}
	return id, nil
}

// TestTokensAreProved: a token's bearer is its owner for as long as it lives; nobody is by its id alone, by another token's secret, or by a
// password, and a token that has gone while the client took its time lets nobody in.
func TestTokensAreProved(t *testing.T) {
	s := offer(t, "sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512")
	for _, mechanism := range []string{ScramSHA256, ScramSHA512} {
		ends := time.Now().Add(time.Hour)
		salted, err := SaltPassword(mechanism, "geheim", []byte("salt"), MinScramIterations)
		if err != nil {
			t.Fatal(err)
		}
		stored, server := ScramKeys(mechanism, salted)
		k := &knownTokens{NewDelegation("the key"), map[string]Identity{}, map[string]Credential{"alice": {Salt: []byte("salt"), StoredKey: stored, ServerKey: server, Iterations: MinScramIterations}}}
		for _, id := range []string{"one", "two"} {
			k.owners[id] = Identity{Principal: "User:alice", Expires: ends, Token: true}
		}
		password := func(id string) string { return base64.StdEncoding.EncodeToString(k.Secret(id)) }
		same := func(m string) string { return m }
		nothing := func() {}
		if id, r := k.prove(t, s, mechanism, scram.Auth{User: "one", Pass: password("one"), IsToken: true}, same, nothing); id == nil || *id != k.owners["one"] {
			t.Errorf("%s: %v %v", mechanism, id, r)
		}
		if id, r := k.prove(t, s, mechanism, scram.Auth{User: "alice", Pass: "geheim"}, same, nothing); id == nil || *id != User("alice") {
			t.Errorf("%s: a user: %v %v", mechanism, id, r)
		}
		later := ends.Add(time.Hour)
		if id, _ := k.prove(t, s, mechanism, scram.Auth{User: "one", Pass: password("one"), IsToken: true}, same, func() {
			k.owners["one"] = Identity{Principal: "User:alice", Expires: later, Token: true}
		}); id == nil || !id.Expires.Equal(later) {
			t.Errorf("%s: renewed during the conversation: %v", mechanism, id)
		}
		for what, c := range map[string]struct {
			auth    scram.Auth
			edit    func(string) string
			between func()
			answer  string
		}{
			"another token's secret": {scram.Auth{User: "one", Pass: password("two"), IsToken: true}, same, nothing, invalidCredentials(mechanism)},
			"the owner's password":   {scram.Auth{User: "one", Pass: "geheim", IsToken: true}, same, nothing, invalidCredentials(mechanism)},
			"unknown":                {scram.Auth{User: "three", Pass: password("three"), IsToken: true}, same, nothing, invalidCredentials(mechanism)},
			"a user as a token":      {scram.Auth{User: "alice", Pass: "geheim", IsToken: true}, same, nothing, invalidCredentials(mechanism)},
			"a token as a user":      {scram.Auth{User: "one", Pass: password("one")}, same, nothing, invalidCredentials(mechanism)},
			"said to be none":        {scram.Auth{User: "one", Pass: password("one"), IsToken: true}, func(m string) string { return m + ",tokenauth=false" }, nothing, invalidCredentials(mechanism)},
			"in front":               {scram.Auth{User: "one", Pass: password("one")}, func(m string) string { return strings.Replace(m, "n,,", "n,,tokenauth=true,", 1) }, nothing, invalidCredentials(mechanism)},
			"as its owner":           {scram.Auth{User: "one", Pass: password("one"), IsToken: true, Zid: "alice"}, same, nothing, otherAuthorization},
			"gone meanwhile":         {scram.Auth{User: "two", Pass: password("two"), IsToken: true}, same, func() { delete(k.owners, "two") }, invalidCredentials(mechanism)},
			"another password meanwhile": {scram.Auth{User: "alice", Pass: "geheim"}, same, func() {
				c := k.users["alice"]
				c.StoredKey = make([]byte, len(c.StoredKey))
				k.users["alice"] = c
			}, invalidCredentials(mechanism)},
		} {
			id, r := k.prove(t, s, mechanism, c.auth, c.edit, c.between)
			if id != nil || r == nil || r.Answer != c.answer {
				t.Errorf("%s, %s: %v %v", mechanism, what, id, r)
				continue
			}
			if text := r.Answer + r.Cause; strings.Contains(text, c.auth.Pass) {
				t.Errorf("%s, %s: the refusal shows the password: %s", mechanism, what, text)
			}
		}
		if id, r := k.prove(t, s, mechanism, scram.Auth{User: "one", Pass: password("one")}, func(m string) string { return m + ",x=y,tokenauth=TRUE" }, nothing); id != nil || r == nil {
			t.Error("a client whose first message was changed is let in") // it signs another one
		}
	}
}

// TestSecretsOfTokens: one that Apache Kafka 4.3.1 made with this key, and none without a key.
func TestSecretsOfTokens(t *testing.T) {
	if NewDelegation("") != nil {
		t.Error("tokens without a key")
	}
	d := NewDelegation("key of the tests")
	secret := d.Secret("wMQpbdxwTQ-By_Ah26iZ2A")
	if got := base64.StdEncoding.EncodeToString(secret); got != "lPvqqRu5PjfhjesVcqa5DAQd3b/9r6n9co22bNY2RhZ16kScgmf9cPgTC37XmvykSBxJ5mL1a7VjQGJUJAXKzw==" {
		t.Errorf("secret %s", got)
	}
	if !d.Is("wMQpbdxwTQ-By_Ah26iZ2A", secret) || d.Is("wMQpbdxwTQ-By_Ah26iZ2A", secret[:63]) || d.Is("wMQpbdxwTQ-By_Ah26iZ2A", nil) || d.Is("other", secret) {
		t.Error("a secret is mistaken")
	}
}

// TestCredentialsOfTokensAreBounded: who asks for many does not fill the memory, and gets the same for the same.
func TestCredentialsOfTokensAreBounded(t *testing.T) {
	d := NewDelegation("k")
	first, err := d.Credential(ScramSHA256, "x")
	if err != nil {
		t.Fatal(err)
	}
	for i := range maxDerived {
		d.known[derived{ScramSHA256, strings.Repeat("y", i%7) + string(rune(i))}] = Credential{}
	}
	if _, err := d.Credential(ScramSHA256, "z"); err != nil || len(d.known) > maxDerived {
		t.Errorf("%d are kept, %v", len(d.known), err)
	}
	again, err := d.Credential(ScramSHA256, "x")
	if err != nil || string(again.StoredKey) != string(first.StoredKey) || string(again.Salt) != string(first.Salt) {
		t.Error("another credential for the same token")
	}
	if other, err := d.Credential(ScramSHA512, "x"); err != nil || string(other.Salt) == string(first.Salt) {
		t.Error("both mechanisms have one salt")
	}
}
