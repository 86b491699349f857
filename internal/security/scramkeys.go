package security

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"hash"
)

// MinScramIterations is the least that RFC 7677 and Kafka allow.
const MinScramIterations = 4096

func scramHash(mechanism string) func() hash.Hash {
	if mechanism == ScramSHA512 {
		return sha512.New
	}
	return sha256.New
}

// ScramKeys are what a server keeps of a salted password (RFC 5802, section 3).
func ScramKeys(mechanism string, salted []byte) (stored, server []byte) {
	h := scramHash(mechanism)
	keyed := func(text string) []byte {
		m := hmac.New(h, salted)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	digest := h()
	digest.Write(keyed("Client Key"))
	return digest.Sum(nil), keyed("Server Key")
}

// SaltPassword is the salted password that a client would send.
func SaltPassword(mechanism, password string, salt []byte, iterations int) ([]byte, error) {
	h := scramHash(mechanism)
	salted, err := pbkdf2.Key(h, password, salt, iterations, h().Size())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", mechanism, err)
	}
	return salted, nil
}
