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

// Lookup finds a user's credential; false: there is none. It must not wait.
type Lookup func(mechanism, user string) (Credential, bool)

// Identity is what a conversation has proved.
type Identity struct {
	Principal string
	Expires   time.Time // the end of what it was proved by; zero: none
}

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
	return nil, &Identity{Principal: userPrefix + user}, nil
}

const otherAuthorization = "Authentication failed: Client requested an authorization id that is different from username"

// invalidCredentials are Kafka's words for what the client need not know better.
func invalidCredentials(mechanism string) string {
	return "Authentication failed during authentication due to invalid credentials with SASL mechanism " + mechanism
}

// clip bounds what is logged of a name that a client chose.
func clip(s string) string { return s[:min(len(s), 128)] }

// scramConversation is RFC 5802, server side.
type scramConversation struct {
	mechanism string
	inner     *scram.ServerConversation
	began     bool
}

func newScram(mechanism string, lookup Lookup) *scramConversation {
	generator := scram.SHA256
	if mechanism == ScramSHA512 {
		generator = scram.SHA512
	}
	server, err := generator.NewServer(func(user string) (scram.StoredCredentials, error) {
		c, ok := lookup(mechanism, user)
		if !ok {
			return scram.StoredCredentials{}, fmt.Errorf("there is no user %q for %s", clip(user), mechanism)
		}
		return scram.StoredCredentials{KeyFactors: scram.KeyFactors{Salt: string(c.Salt), Iters: c.Iterations}, StoredKey: c.StoredKey, ServerKey: c.ServerKey}, nil
	})
	if err != nil {
		panic("BUG: a SCRAM server cannot be made: " + err.Error())
	}
	return &scramConversation{mechanism: mechanism, inner: server.NewConversation()}
}

// maxScramMessage bounds what a conversation keeps of a client that has proved nothing. Names and passwords are shorter.
const maxScramMessage = 4 << 10

func (s *scramConversation) Step(message []byte) ([]byte, *Identity, error) {
	if len(message) > maxScramMessage {
		return nil, nil, refuse(invalidCredentials(s.mechanism), "message with %d bytes; the longest that is taken has %d", len(message), maxScramMessage)
	}
	answer, err := s.inner.Step(string(message))
	user, authz := s.inner.Username(), s.inner.AuthzID()
	switch {
	case err != nil && s.began:
		return nil, nil, refuse(invalidCredentials(s.mechanism), "wrong password of user %q, or not an answer of %s: %s", clip(user), s.mechanism, clip(err.Error()))
	case err != nil:
		return nil, nil, refuse(invalidCredentials(s.mechanism), "%s", clip(err.Error()))
	case authz != "" && authz != user:
		return nil, nil, refuse(otherAuthorization, "user %q asks to be %q", clip(user), clip(authz))
	}
	s.began = true
	if !s.inner.Done() {
		return []byte(answer), nil, nil
	}
	if !s.inner.Valid() {
		return nil, nil, refuse(invalidCredentials(s.mechanism), "wrong password of user %q", clip(user))
	}
	return []byte(answer), &Identity{Principal: userPrefix + user}, nil
}
