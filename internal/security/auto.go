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
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
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
type Authority struct {
	dir      string
	names    []string // hosts and addresses that the certificate is for
	readOnly bool     // what is not there is an error, and nothing is made

	mu sync.Mutex // guards the files, over I/O
}

// OpenAuthority is the authority in dir, whose certificate is for these hosts and addresses and for this machine.
func OpenAuthority(dir string, names []string) *Authority {
	names = append(slices.Clone(names), "localhost", "127.0.0.1", "::1")
	if host, err := os.Hostname(); err == nil {
		names = append(names, host)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n == "" || n == "0.0.0.0" || n == "::" })
	slices.Sort(names)
	return &Authority{dir: dir, names: slices.Compact(names)}
}

// ReadAuthority is the authority in dir as a broker has left it: nothing is made or renewed, and fs.ErrNotExist is the error where there is
// none.
func ReadAuthority(dir string) *Authority { return &Authority{dir: dir, readOnly: true} }

// CAFile is what clients need to trust.
func (a *Authority) CAFile() string { return filepath.Join(a.dir, "ca.pem") }

// certificate is the broker's, made if need be, and its CA's.
func (a *Authority) certificate() (tls.Certificate, *x509.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ca, caKey, err := a.authority()
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("moldau.tls=auto: %w: bring the files of %s back, or remove them all for a new CA, which clients must then be given", err, a.dir)
	}
	certFile, keyFile := filepath.Join(a.dir, "broker.pem"), filepath.Join(a.dir, "broker.key")
	if cert, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil && (a.readOnly || a.good(cert.Leaf, ca)) {
		return cert, ca, nil
	}
	if a.readOnly {
		return tls.Certificate{}, nil, fmt.Errorf("moldau.tls=auto: %s: %w", certFile, fs.ErrNotExist)
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
		err = a.write(keyFile, key, nil)
	}
	if err == nil {
		err = a.write(certFile, nil, der)
	}
	if err != nil {
		return tls.Certificate{}, nil, fmt.Errorf("moldau.tls=auto: %w", err)
	}
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
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

// authority reads the CA, or makes it where there is none at all.
func (a *Authority) authority() (*x509.Certificate, crypto.Signer, error) {
	keyFile := filepath.Join(a.dir, "ca.key")
	_, errCert := os.Stat(a.CAFile())
	_, errKey := os.Stat(keyFile)
	if errors.Is(errCert, fs.ErrNotExist) && errors.Is(errKey, fs.ErrNotExist) && !a.readOnly {
		if err := a.makeAuthority(keyFile); err != nil {
			return nil, nil, err
		}
	}
	pair, err := tls.LoadX509KeyPair(a.CAFile(), keyFile)
	if err != nil {
		return nil, nil, err
	}
	if time.Now().After(pair.Leaf.NotAfter) {
		return nil, nil, fmt.Errorf("the CA has expired on %s", pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	return pair.Leaf, pair.PrivateKey.(crypto.Signer), nil
}

func (a *Authority) makeAuthority(keyFile string) error {
	if err := os.MkdirAll(a.dir, 0o700); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := newTemplate("Moldau CA", authorityYears*365*24*time.Hour)
	template.IsCA, template.MaxPathLenZero, template.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	// The certificate comes first: a key without one is taken for a CA that was damaged, and a certificate without a key as well; but only one of
	// both orders can leave the secret lying about for nothing.
	if err := a.write(a.CAFile(), nil, der); err != nil {
		return err
	}
	return a.write(keyFile, key, nil)
}

func newTemplate(name string, life time.Duration) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // never fails
	now := time.Now()
	return &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true,
		NotBefore: now.Add(-clockSlack), NotAfter: now.Add(life)}
}

// write puts a key or a certificate in a file, whole or not at all. Keys are for the owner only.
func (a *Authority) write(name string, key *ecdsa.PrivateKey, cert []byte) error {
	block, mode := &pem.Block{Type: "CERTIFICATE", Bytes: cert}, os.FileMode(0o644)
	if key != nil {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		block, mode = &pem.Block{Type: "PRIVATE KEY", Bytes: der}, 0o600
	}
	f, err := os.OpenFile(name+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	err = pem.Encode(f, block)
	if err == nil {
		err = f.Sync()
	}
	if last := f.Close(); err == nil {
		err = last
	}
	if err != nil {
		return err
	}
	return os.Rename(name+".tmp", name)
}
