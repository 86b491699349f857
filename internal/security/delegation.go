package security

import (
	"crypto/hmac"
	"crypto/sha512"
	"encoding/base64"
	"sync"
)

// Delegation knows what delegation tokens are proved by (KIP-48). A token's secret is a keyed digest of its id: it is computed whenever it
// is needed, and kept nowhere. Whoever has the key has all tokens. Safe for concurrent use.
type Delegation struct {
	key []byte
	mu  sync.Mutex // guards known
	// known are credentials that were asked for: to derive one costs thousands of digests, and a client that knows an id could ask for it as
	// often as it likes before it has proved anything.
	known map[derived]Credential
}

type derived struct{ mechanism, id string }

// maxDerived bounds the credentials that are kept. When there are more they are all forgotten, and derived again.
const maxDerived = 4096

// NewDelegation takes the key (delegation.token.secret.key). It returns nil where that is empty: then there are no tokens.
func NewDelegation(key string) *Delegation {
	if key == "" {
		return nil
	}
	return &Delegation{key: []byte(key), known: map[derived]Credential{}}
}

// Secret is the secret of a token, HMAC-SHA-512 of its id.
func (d *Delegation) Secret(id string) []byte {
	m := hmac.New(sha512.New, d.key)
	m.Write([]byte(id))
	return m.Sum(nil)
}

// Is reports whether it is the secret of a token. Its time does not depend on how much of it is right.
func (d *Delegation) Is(id string, secret []byte) bool { return hmac.Equal(d.Secret(id), secret) }

// Credential is what a SCRAM conversation about a token needs. The password is the secret in base64, as clients are given it. Do not ask for
// ids that no token has.
func (d *Delegation) Credential(mechanism, id string) (Credential, error) {
	k := derived{mechanism, id}
	d.mu.Lock()
	c, ok := d.known[k]
	d.mu.Unlock()
	if ok {
		return c, nil
	}
	// The salt is the same each time, so that a conversation can end with another copy of the credential than that with which it began.
	// No two tokens have the same, and it tells nothing about the secret: '/' is in no id.
	c = Credential{Salt: d.Secret(mechanism + "/" + id)[:32], Iterations: MinScramIterations}
	salted, err := SaltPassword(mechanism, base64.StdEncoding.EncodeToString(d.Secret(id)), c.Salt, c.Iterations)
	if err != nil {
		return Credential{}, err
	}
	c.StoredKey, c.ServerKey = ScramKeys(mechanism, salted)
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.known) >= maxDerived {
		clear(d.known)
	}
	d.known[k] = c
	return c, nil
}
