package security

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"moldau/internal/vfs"
)

const (
	authorityYears = 10
	autoLife       = 365 * 24 * time.Hour
	autoRenew      = 60 * 24 * time.Hour // before the end of its life
	clockSlack     = time.Hour           // clocks that are behind ours
)

// AuthorityDir is where the CA of --tls=auto is, below the metadata directory.
const AuthorityDir = "tls"

// Authority is the CA of --tls=auto, in a directory of its own: ca.pem for clients, ca.key, and the broker's broker.pem with its
// broker.key. What is there is used; a certificate that is old, or lacks a name, is made anew. A CA that is damaged is an error:
// clients trust it, so it is nobody's to replace.
//
// The key of a CA is the CA: it is durable before there is a certificate for it, and a key without one gets it, so that a
// crash leaves nothing between. Clients who have an earlier certificate of the same key trust what it signs as before.
type Authority struct {
	fs       vfs.FS
	dir      string
	names    []string // hosts and addresses that the certificate is for
	readOnly bool     // what is not there is an error, and nothing is made

	mu sync.Mutex // guards the files, over I/O
}

// OpenAuthority is the authority in dir, whose certificate is for these hosts and addresses and for this machine.
func OpenAuthority(fsys vfs.FS, dir string, names []string) *Authority {
	names = append(slices.Clone(names), "localhost", "127.0.0.1", "::1")
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n == "" || n == "0.0.0.0" || n == "::" })
	slices.Sort(names)
	return &Authority{fs: fsys, dir: dir, names: slices.Compact(names)}
}

// ReadAuthority is the authority in dir as a broker has left it: nothing is made or renewed, and fs.ErrNotExist is the error where there is
// none.
func ReadAuthority(fsys vfs.FS, dir string) *Authority {
	return &Authority{fs: fsys, dir: dir, readOnly: true}
}

// CAFile is what clients need to trust.
func (a *Authority) CAFile() string { return a.file("ca.pem") }

func (a *Authority) file(name string) string { return path.Join(a.dir, name) }

// certificate is the broker's, made if need be, and its CA's.
func (a *Authority) certificate() (tls.Certificate, *x509.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ca, caKey, err := a.authority()
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("moldau.tls=auto: %w: bring the files of %s back, or remove them all for a new CA, which clients must then be given", err, a.dir)
	}
	if cert, err := a.pair("broker.pem", "broker.key"); err == nil && (a.readOnly || a.good(cert.Leaf, ca)) {
		return cert, ca, nil
	}
	if a.readOnly {
		return tls.Certificate{}, nil, fmt.Errorf("moldau.tls=auto: %s: %w", a.file("broker.pem"), fs.ErrNotExist)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	template := newTemplate("Moldau broker", autoLife)
	if template.NotAfter.After(ca.NotAfter) {
		template.NotAfter = ca.NotAfter
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, n := range a.names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, key.Public(), caKey)
	if err == nil {
		err = a.writeKey("broker.key", key)
	}
	if err == nil {
		err = a.writeCertificate("broker.pem", der)
	}
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("moldau.tls=auto: %w", err)
	}
	cert, err := a.pair("broker.pem", "broker.key")
	return cert, ca, err
}

// good tells whether a certificate still does.
func (a *Authority) good(x, ca *x509.Certificate) bool {
	if x.CheckSignatureFrom(ca) != nil || time.Until(x.NotAfter) < autoRenew && x.NotAfter.Before(ca.NotAfter) {
		return false
	}
	return !slices.ContainsFunc(a.names, func(n string) bool { return x.VerifyHostname(hostForm(n)) != nil })
}

// hostForm is how VerifyHostname wants an address.
func hostForm(n string) string {
	if strings.Contains(n, ":") {
		return "[" + n + "]"
	}
	return n
}

// authority reads the CA, or makes what is missing of it.
func (a *Authority) authority() (ca *x509.Certificate, _ crypto.Signer, err error) {
	key, hasKey, err := a.read("ca.key")
	if err != nil {
		return nil, nil, err
	}
	_, hasCert, err := a.read("ca.pem")
	switch {
	case err != nil:
		return nil, nil, err
	case a.readOnly && !hasCert:
		return nil, nil, fmt.Errorf("%s: %w", a.CAFile(), fs.ErrNotExist)
	case !hasKey && hasCert:
		return nil, nil, errors.New("ca.key is missing")
	case !hasKey:
		if key, err = a.makeKey(); err != nil {
			return nil, nil, err
		}
	}
	if !hasCert {
		if err = a.makeCA(key); err != nil {
			return nil, nil, err
		}
	}
	pair, err := a.pair("ca.pem", "ca.key")
	if err != nil {
		return nil, nil, err
	}
	if time.Now().After(pair.Leaf.NotAfter) {
		return nil, nil, fmt.Errorf("the CA has expired on %s", pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	return pair.Leaf, pair.PrivateKey.(crypto.Signer), nil
}

// makeKey makes the key of a new CA, in PEM.
func (a *Authority) makeKey() ([]byte, error) {
	if err := vfs.MkdirAllSync(a.fs, a.dir); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if err := a.writeKey("ca.key", key); err != nil {
		return nil, err
	}
	text, _, err := a.read("ca.key")
	return text, err
}

// makeCA makes the certificate of the CA whose key is in text.
func (a *Authority) makeCA(text []byte) error {
	private, err := pemKey(text, "")
	if err != nil {
		return fmt.Errorf("ca.key: %w", err)
	}
	key, ok := private.(crypto.Signer)
	if !ok {
		return fmt.Errorf("ca.key: a key of type %T cannot sign", private)
	}
	template := newTemplate("Moldau CA", authorityYears*365*24*time.Hour)
	template.IsCA, template.MaxPathLenZero, template.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	return a.writeCertificate("ca.pem", der)
}

func newTemplate(name string, life time.Duration) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // never fails
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true,
		NotBefore: now.Add(-clockSlack), NotAfter: now.Add(life)}
}

func (a *Authority) read(name string) (text []byte, ok bool, err error) {
	return vfs.ReadWhole(a.fs, a.file(name), maxStoreBytes)
}

// pair reads a certificate and its key.
func (a *Authority) pair(certName, keyName string) (tls.Certificate, error) {
	cert, _, err := a.read(certName)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, _, err := a.read(keyName)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(cert, key)
}

func (a *Authority) writeCertificate(name string, der []byte) error {
	return vfs.Replace(a.fs, a.dir, name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), vfs.Create, true)
}

func (a *Authority) writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return vfs.Replace(a.fs, a.dir, name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), vfs.CreateSecret, true) // protection: keys are durable
}
