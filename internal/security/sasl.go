package security

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/xdg-go/scram"

	"moldau/internal/config"
)

// SASL mechanisms that are offered.
const (
	Plain       = "PLAIN"
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA512 = "SCRAM-SHA-512"
	OAuthBearer = "OAUTHBEARER"
)

var mechanisms = []string{OAuthBearer, Plain, ScramSHA256, ScramSHA512}

// Refusal is why a client is not let in.
type Refusal struct {
	Answer string // goes to the client, and tells it nothing that it must not know; Kafka's words
	Cause  string // for the log
}

func (r *Refusal) Error() string { return r.Cause }

func refuse(answer, format string, args ...any) *Refusal {
	return &Refusal{answer, fmt.Sprintf(format, args...)}
}

// Credential is what is known of a user's password for one SCRAM mechanism (RFC 5802).
type Credential struct {
	Salt, StoredKey, ServerKey []byte
	Iterations                 int
}

// Lookup finds what a name is proved by in a SCRAM conversation, and who is proved then: a user, or where token is true the owner of the
// delegation token with that id. false: there is none, or none any more. It must not wait.
type Lookup func(mechanism, name string, token bool) (Credential, Identity, bool)

// Identity is what a conversation has proved.
type Identity struct {
	Principal string
	Expires   time.Time // the end of what it was proved by; zero: none
	Token     bool      // by a delegation token
}

// User is the identity of a user who has proved it without anything that ends.
func User(name string) Identity { return Identity{Principal: userPrefix + name} }

// Conversation is one exchange of a SASL mechanism. It is over at its first error, or when Step returns an Identity. Not
// safe for concurrent use.
type Conversation interface {
	// Step takes a message of the client. done is nil while there is more to say. The error is a *Refusal.
	Step(message []byte) (answer []byte, done *Identity, err error)
}

// sasl is what a listener offers.
type sasl struct {
	enabled  []string
	sessions map[string]time.Duration     // connections.max.reauth.ms by mechanism; 0: for ever
	users    map[string][sha256.Size]byte // of PLAIN, with digests of their passwords
	tokens   *tokens                      // of OAUTHBEARER
}

// Java's classes for what this package does itself. Others cannot be loaded.
const (
	plainLogin     = "org.apache.kafka.common.security.plain.PlainLoginModule"
	scramLogin     = "org.apache.kafka.common.security.scram.ScramLoginModule"
	oauthLogin     = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule"
	oauthValidator = "org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallbackHandler"
)

func newSASL(c config.ListenerConfig) (*sasl, error) {
	s := &sasl{enabled: c.List("sasl.enabled.mechanisms"), sessions: map[string]time.Duration{}}
	if len(s.enabled) == 0 {
		return nil, c.Fault("sasl.enabled.mechanisms", "a listener with SASL needs a mechanism; allowed: "+strings.Join(mechanisms, ", "))
	}
	var errs []error
	for _, name := range s.enabled {
		if !slices.Contains(mechanisms, name) {
			errs = append(errs, c.Fault("sasl.enabled.mechanisms", name+" is not supported; allowed: "+strings.Join(mechanisms, ", ")))
			continue
		}
		m := c.Mechanism(name)
		if ms := m.Int("connections.max.reauth.ms"); m.Own("connections.max.reauth.ms") {
			s.sessions[name] = millis(ms)
		} else {
			s.sessions[name] = millis(c.Int("connections.max.reauth.ms"))
		}
		errs = append(errs, s.add(name, m, c))
	}
	return s, errors.Join(errs...)
}

func millis(ms int64) time.Duration {
	return time.Duration(max(0, min(ms, int64(1<<62)/int64(time.Millisecond)))) * time.Millisecond
}

// add reads what one mechanism needs.
func (s *sasl) add(name string, m, listener config.ListenerConfig) (err error) {
	handler := m.Text("sasl.server.callback.handler.class")
	if handler != "" && (name != OAuthBearer || handler != oauthValidator) {
		return m.Fault("sasl.server.callback.handler.class", "Java classes cannot be loaded; remove the key (for OAUTHBEARER it may be "+oauthValidator+")")
	}
	classes := map[string]string{Plain: plainLogin, ScramSHA256: scramLogin, ScramSHA512: scramLogin, OAuthBearer: oauthLogin}
	const key = "sasl.jaas.config"
	var l login
	if m.Own(key) {
		if l, err = parseLogin(m.Text(key)); err != nil {
			return m.Fault(key, err.Error())
		}
		if l.class != classes[name] {
			return m.Fault(key, "the login module of "+name+" is "+classes[name])
		}
	}
	switch name {
	case Plain:
		s.users = map[string][sha256.Size]byte{}
		for _, option := range slices.Sorted(maps.Keys(l.options)) {
			if user, ok := strings.CutPrefix(option, "user_"); ok && user != "" {
				s.users[user] = sha256.Sum256([]byte(l.options[option]))
			}
		}
		if len(s.users) == 0 {
			return m.Fault(key, "PLAIN needs its users: "+plainLogin+` required user_NAME="PASSWORD";`)
		}
	case OAuthBearer:
		s.tokens, err = newTokens(m, listener)
	}
	return err
}

// Session is how long the listener lets a client of a mechanism be without proving itself again; 0: for ever.
func (s *Security) Session(listener, mechanism string) time.Duration {
	return s.listeners[listener].sasl.sessions[mechanism]
}

// Mechanisms are those that a listener offers, in the order of its configuration; nil for one without SASL.
func (s *Security) Mechanisms(listener string) []string {
	if l := s.listeners[listener]; l != nil && l.sasl != nil {
		return l.sasl.enabled
	}
	return nil
}

// Begin opens a conversation; false: the listener does not offer the mechanism.
func (s *Security) Begin(listener, mechanism string, lookup Lookup) (Conversation, bool) {
	l := s.listeners[listener]
	if l == nil || l.sasl == nil || !slices.Contains(l.sasl.enabled, mechanism) {
		return nil, false
	}
	switch mechanism {
	case Plain:
		return &plainConversation{l.sasl.users}, true
	case OAuthBearer:
		return &tokenConversation{tokens: l.sasl.tokens}, true
	}
	return newScram(mechanism, lookup), true
}

// plainConversation is RFC 4616.
type plainConversation struct{ users map[string][sha256.Size]byte }

const badPassword = "Authentication failed: Invalid username or password"

func (p *plainConversation) Step(message []byte) ([]byte, *Identity, error) {
	parts := strings.Split(string(message), "\x00")
	if len(parts) != 3 || !utf8.Valid(message) {
		return nil, nil, refuse(invalidCredentials(Plain), "PLAIN message with %d parts, not 3", len(parts))
	}
	authz, user, password := parts[0], parts[1], parts[2]
	if user == "" || password == "" {
		return nil, nil, refuse(invalidCredentials(Plain), "no user name, or no password")
	}
	want, known := p.users[user]
	got := sha256.Sum256([]byte(password))
	same := subtle.ConstantTimeCompare(want[:], got[:]) == 1
	switch {
	case !known:
		return nil, nil, refuse(badPassword, "there is no user %q for PLAIN", clip(user))
	case !same:
		return nil, nil, refuse(badPassword, "wrong password of user %q", clip(user))
	case authz != "" && authz != user:
		return nil, nil, refuse(otherAuthorization, "user %q asks to be %q", clip(user), clip(authz))
	}
	id := User(user)
	return nil, &id, nil
}

const otherAuthorization = "Authentication failed: Client requested an authorization id that is different from username"

// invalidCredentials are Kafka's words for what the client need not know better.
func invalidCredentials(mechanism string) string {
	return "Authentication failed during authentication due to invalid credentials with SASL mechanism " + mechanism
}

// clip bounds what is logged of a name that a client chose.
func clip(s string) string { return s[:min(len(s), 128)] }

// scramConversation is RFC 5802, server side. A client that says tokenauth=true in its first message proves by a delegation token, whose id is
// its name (KIP-48); no user is looked for then, and no token otherwise.
type scramConversation struct {
	mechanism  string
	lookup     Lookup
	inner      *scram.ServerConversation
	began      bool
	token      bool
	credential Credential // with which it began
}

func newScram(mechanism string, lookup Lookup) *scramConversation {
	generator := scram.SHA256
	if mechanism == ScramSHA512 {
		generator = scram.SHA512
	}
	s := &scramConversation{mechanism: mechanism, lookup: lookup}
	server, err := generator.NewServer(func(name string) (scram.StoredCredentials, error) {
		c, _, ok := lookup(mechanism, name, s.token)
		if !ok {
			if s.token {
				return scram.StoredCredentials{}, fmt.Errorf("there is no %s that has not expired", s.who(name))
			}
			return scram.StoredCredentials{}, fmt.Errorf("there is no %s for %s", s.who(name), mechanism)
		}
		s.credential = c
		return scram.StoredCredentials{KeyFactors: scram.KeyFactors{Salt: string(c.Salt), Iters: c.Iterations}, StoredKey: c.StoredKey, ServerKey: c.ServerKey}, nil
	})
	if err != nil {
		panic("BUG: a SCRAM server cannot be made: " + err.Error())
	}
	s.inner = server.NewConversation()
	return s
}

// who is whom the client says to be, for the log.
func (s *scramConversation) who(name string) string {
	if s.token {
		return fmt.Sprintf("delegation token %q", clip(name))
	}
	return fmt.Sprintf("user %q", clip(name))
}

// saysToken reports whether a client's first message has the extension that says that it is about a delegation token. Extensions follow
// the nonce; the last counts, and its value is read as Java reads it.
func saysToken(message string) (token bool) {
	parts := strings.Split(message, ",")
	for _, p := range parts[min(len(parts), 4):] {
		if value, ok := strings.CutPrefix(p, "tokenauth="); ok {
			token = strings.EqualFold(value, "true")
		}
	}
	return token
}

// maxScramMessage bounds what a conversation keeps of a client that has proved nothing. Names and passwords are shorter.
const maxScramMessage = 4 << 10

func (s *scramConversation) Step(message []byte) ([]byte, *Identity, error) {
	if len(message) > maxScramMessage {
		return nil, nil, refuse(invalidCredentials(s.mechanism), "message with %d bytes; the longest that is taken has %d", len(message), maxScramMessage)
	}
	if !s.began {
		s.token = saysToken(string(message))
	}
	answer, err := s.inner.Step(string(message))
	user, authz := s.inner.Username(), s.inner.AuthzID()
	switch {
	case err != nil && s.began:
		return nil, nil, refuse(invalidCredentials(s.mechanism), "wrong password of %s, or not an answer of %s: %s", s.who(user), s.mechanism, clip(err.Error()))
	case err != nil:
		return nil, nil, refuse(invalidCredentials(s.mechanism), "%s", clip(err.Error()))
	case authz != "" && authz != user:
		return nil, nil, refuse(otherAuthorization, "%s asks to be %q", s.who(user), clip(authz))
	}
	s.began = true
	if !s.inner.Done() {
		return []byte(answer), nil, nil
	}
	if !s.inner.Valid() {
		return nil, nil, refuse(invalidCredentials(s.mechanism), "wrong password of %s", s.who(user))
	}
	// What was taken back while the client took its time lets nobody in.
	c, id, ok := s.lookup(s.mechanism, user, s.token)
	if !ok || subtle.ConstantTimeCompare(c.StoredKey, s.credential.StoredKey) != 1 {
		return nil, nil, refuse(invalidCredentials(s.mechanism), "%s was removed, or got another password, during the conversation", s.who(user))
	}
	return []byte(answer), &id, nil
}
