package security

import (
	"crypto/x509"
	"fmt"
	"time"
)

// Stores of certificates.
const (
	KeyStore       = "keystore"   // the listener's own certificate and those that lead to it
	TrustStore     = "truststore" // those that clients' certificates must lead to
	AuthorityStore = "authority"  // the CA of --tls=auto
)

// Expiry is when the first certificate of a store ends.
type Expiry struct {
	Listener string
	Store    string // KeyStore, TrustStore or AuthorityStore
	Subject  string
	NotAfter time.Time
	life     time.Duration // from its beginning to its end
}

// Expiries are those of the certificates in force, by listener. A truststore counts where clients are asked for certificates.
func (s *Security) Expiries() []Expiry {
	var out []Expiry
	for _, name := range s.order {
		l := s.listeners[name]
		if l.tls == nil {
			continue
		}
		for _, e := range l.tls.current.Load().ends {
			e.Listener = name
			out = append(out, e)
		}
	}
	return out
}

// ExpiryOf is the end of the first of at least one certificate.
func ExpiryOf(listener, store string, list []*x509.Certificate) Expiry {
	first := list[0]
	for _, x := range list[1:] {
		if x.NotAfter.Before(first.NotAfter) {
			first = x
		}
	}
	return Expiry{Listener: listener, Store: store, Subject: first.Subject.String(), NotAfter: first.NotAfter, life: first.NotAfter.Sub(first.NotBefore)}
}

// ExpiryNotice is how long before its end a certificate is warned of. Certificates that live shorter, and are replaced by a program, are warned of
// in the last third of their life.
const ExpiryNotice = 30 * 24 * time.Hour

// Notice warns of an expiry that is near or over, and says what helps; "" while there is time.
func (e Expiry) Notice(now time.Time) string {
	left := e.NotAfter.Sub(now)
	if left > min(ExpiryNotice, e.life/3) {
		return ""
	}
	what := fmt.Sprintf("the certificate %s in the %s of listener %s ", e.Subject, e.Store, e.Listener)
	if left <= 0 {
		what += "has ended on "
	} else {
		what += fmt.Sprintf("ends in %s, on ", days(left))
	}
	return what + e.NotAfter.UTC().Format(time.RFC3339) + ": " + map[string]string{
		KeyStore:       "put another one into the file of ssl.keystore.location; it is read anew by itself",
		TrustStore:     "clients whose certificates lead to it are refused then: give ssl.truststore.location its successor beside it",
		AuthorityStore: "stop the broker, move the files of its directory away for a new CA, and give clients the new ca.pem",
	}[e.Store]
}

func days(d time.Duration) string {
	if d < 48*time.Hour {
		return d.Round(time.Minute).String()
	}
	return fmt.Sprintf("%d days", d/(24*time.Hour))
}
