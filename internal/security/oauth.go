package security

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"

	"moldau/internal/config"
)

// tokenAlgorithms are the signatures that are believed: who can check one cannot make one. What a token itself says of its algorithm
// counts only within them, so "none", and a public key used as the key of an HMAC, are nothing.
var tokenAlgorithms = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// tokens judges bearer tokens (KIP-255, KIP-768).
type tokens struct {
	source         *url.URL
	parser         *jwt.Parser
	subject, scope string
	refresh, again time.Duration

	keys   atomic.Pointer[jwt.Keyfunc] // nil until they are there
	stale  atomic.Bool                 // a token named a key that is not among them
	read   time.Time                   // of keys; Reload's, as the following
	failed time.Time
	told   string
	last   []byte
}

func newTokens(m, listener config.ListenerConfig) (*tokens, error) {
	const key = "sasl.oauthbearer.jwks.endpoint.url"
	raw := m.Text(key)
	if raw == "" {
		return nil, m.Fault(key, "OAUTHBEARER needs the keys that tokens are signed with, as a URL (https://…) or a file (file:///…); tokens that nobody signed are never believed")
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, m.Fault(key, err.Error())
	case u.Scheme == "https" && u.Host != "", u.Scheme == "file" && u.Path != "":
	case u.Scheme == "http" && isLoopback(u.Hostname()):
	default:
		return nil, m.Fault(key, "allowed: https://…, file:///…, and http:// of this machine")
	}
	t := &tokens{source: u, subject: m.Text("sasl.oauthbearer.sub.claim.name"), scope: m.Text("sasl.oauthbearer.scope.claim.name"),
		refresh: max(time.Second, millis(m.Int("sasl.oauthbearer.jwks.endpoint.refresh.ms"))), again: max(time.Second, millis(m.Int("sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms")))}
	options := []jwt.ParserOption{jwt.WithValidMethods(tokenAlgorithms), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(time.Duration(m.Int("sasl.oauthbearer.clock.skew.seconds")) * time.Second)}
	if aud := m.List("sasl.oauthbearer.expected.audience"); len(aud) > 0 {
		options = append(options, jwt.WithAudience(aud...))
	}
	if iss := m.Text("sasl.oauthbearer.expected.issuer"); iss != "" {
		options = append(options, jwt.WithIssuer(iss))
	}
	t.parser = jwt.NewParser(options...)
	return t, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return strings.EqualFold(host, "localhost") || ip != nil && ip.IsLoopback()
}

// due tells whether the keys are to be fetched now. A key that nobody knew is looked for at most every t.again: clients must
// not be able to make us ask all the time.
func (t *tokens) due(now time.Time) bool {
	if t.source.Scheme == "file" {
		return true
	}
	since := now.Sub(t.read)
	return (t.keys.Load() == nil || since >= t.refresh || t.stale.Load() && since >= t.again) && now.Sub(t.failed) >= t.again
}

// load puts a key set in force; changed is false where it was in force before.
func (t *tokens) load(data []byte, now time.Time) (changed bool, err error) {
	if slices.Equal(data, t.last) && t.keys.Load() != nil {
		t.read = now
		t.stale.Store(false)
		return false, nil
	}
	set, err := keyfunc.NewJWKSetJSON(json.RawMessage(data))
	if err != nil {
		return false, fmt.Errorf("no JSON Web Key Set: %w", err)
	}
	f := jwt.Keyfunc(set.Keyfunc)
	t.keys.Store(&f)
	t.last, t.read = data, now
	t.stale.Store(false)
	return true, nil
}

// check judges a token.
func (t *tokens) check(token string) (*Identity, error) {
	keys := t.keys.Load()
	if keys == nil {
		return nil, errors.New("the keys of sasl.oauthbearer.jwks.endpoint.url have not been read yet")
	}
	claims := jwt.MapClaims{}
	if _, err := t.parser.ParseWithClaims(token, claims, *keys); err != nil {
		if errors.Is(err, jwt.ErrTokenUnverifiable) {
			t.stale.Store(true)
		}
		return nil, err
	}
	if at, err := claims.GetIssuedAt(); err != nil || at == nil {
		return nil, errors.New("the token does not say when it was issued (iat)")
	}
	subject, _ := claims[t.subject].(string)
	if strings.TrimSpace(subject) == "" {
		return nil, fmt.Errorf("the token has no subject (%s)", t.subject)
	}
	until, err := claims.GetExpirationTime()
	if err != nil || until == nil {
		return nil, errors.New("the token has no end (exp)")
	}
	return &Identity{Principal: userPrefix + subject, Expires: until.Time}, nil
}

// tokenConversation is RFC 7628.
type tokenConversation struct {
	tokens *tokens
	failed *Refusal // a token was no good, and the client is to say that it has heard so
}

const invalidToken = `{"status":"invalid_token"}`

func (c *tokenConversation) Step(message []byte) ([]byte, *Identity, error) {
	if c.failed != nil {
		return nil, nil, c.failed
	}
	token, authz, err := bearer(string(message))
	if err != nil {
		return nil, nil, refuse(invalidCredentials(OAuthBearer), "%v", err)
	}
	id, err := c.tokens.check(token)
	if err != nil {
		c.failed = refuse(invalidToken, "the token is not accepted: %s", clip(err.Error()))
		return []byte(invalidToken), nil, nil
	}
	if name := strings.TrimPrefix(id.Principal, userPrefix); authz != "" && authz != name {
		return nil, nil, refuse(fmt.Sprintf("Authentication failed: Client requested an authorization id (%s) that is different from the token's principal name (%s)", clip(authz), clip(name)),
			"the client of %q asks to be %q", clip(name), clip(authz))
	}
	return nil, id, nil
}

// bearer takes the token out of a client's first message: n,a=NAME,^Aauth=Bearer TOKEN^A…^A^A.
func bearer(message string) (token, authz string, err error) {
	header, rest, ok := strings.Cut(message, "\x01")
	parts := strings.Split(header, ",")
	if !ok || len(parts) != 3 || parts[0] != "n" && parts[0] != "y" || parts[2] != "" {
		return "", "", errors.New("not a message of OAUTHBEARER")
	}
	if parts[1] != "" {
		name, ok := strings.CutPrefix(parts[1], "a=")
		if !ok {
			return "", "", errors.New("not a message of OAUTHBEARER")
		}
		authz = strings.NewReplacer("=2C", ",", "=3D", "=").Replace(name)
	}
	if !strings.HasSuffix(rest, "\x01\x01") {
		return "", "", errors.New("a message of OAUTHBEARER that does not end")
	}
	for _, pair := range strings.Split(strings.TrimSuffix(rest, "\x01\x01"), "\x01") {
		value, ok := strings.CutPrefix(pair, "auth=")
		if !ok {
			continue
		}
		kind, t, ok := strings.Cut(value, " ")
		if !ok || !strings.EqualFold(kind, "bearer") || token != "" {
			return "", "", errors.New("auth is not one Bearer token")
		}
		token = strings.TrimSpace(t)
	}
	if token == "" {
		return "", "", errors.New("no token")
	}
	return token, authz, nil
}
