package wire

import (
	"encoding/base64"
	"fmt"
)

// UUID is a topic id, directory id or incarnation id; the zero value means none.
type UUID [16]byte

// String is Kafka's form: 22 characters of URL-safe base64 without padding.
func (u UUID) String() string { return base64.RawURLEncoding.EncodeToString(u[:]) }

// IsZero reports whether u is Kafka's ZERO_UUID.
func (u UUID) IsZero() bool { return u == UUID{} }

// ParseUUID reads Kafka's 22-character form.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) != len(u) {
		return u, fmt.Errorf("%q is not an id of 22 base64 characters", s)
	}
	copy(u[:], b)
	return u, nil
}
