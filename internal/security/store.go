package security

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"

	keystore "github.com/pavlo-v-chernykh/keystore-go/v4"
	"github.com/youmark/pkcs8"
	"software.sslmate.com/src/go-pkcs12"

	"moldau/internal/config"
)

// Formats of ssl.keystore.type and ssl.truststore.type.
const (
	formatPEM    = "PEM"
	formatPKCS12 = "PKCS12"
	formatJKS    = "JKS"
)

// maxStoreBytes bounds a file of keys or certificates; all of the Web's CAs together are a fifth of it.
const maxStoreBytes = 1 << 20

// jksMagic begins a file in Java's own format. Java reads PKCS12 under the name JKS and JKS under the name PKCS12, and its
// tools have long been writing PKCS12 under either, so the file decides.
var jksMagic = []byte{0xFE, 0xED, 0xFE, 0xED}

// reader reads files for one load, and remembers what was in them.
type reader struct{ seen []byte }

func (r *reader) file(name string) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxStoreBytes {
		return nil, fmt.Errorf("%s has more than %d bytes", name, maxStoreBytes)
	}
	data, err := os.ReadFile(name)
	r.seen = fmt.Appendf(r.seen, "%q %d\n", name, len(data))
	r.seen = append(r.seen, data...)
	return data, err
}

// readKeystore reads the certificate of a listener with its key.
func readKeystore(c config.ListenerConfig, r *reader) (tls.Certificate, error) {
	none := tls.Certificate{}
	format := c.Text("ssl.keystore.type")
	location := c.Text("ssl.keystore.location")
	password := c.Text("ssl.keystore.password")
	keyPassword := c.Text("ssl.key.password")
	if c.IsSet("ssl.keystore.key") || c.IsSet("ssl.keystore.certificate.chain") {
		switch {
		case format != formatPEM:
			return none, c.Fault("ssl.keystore.type", "ssl.keystore.key and ssl.keystore.certificate.chain are for the type PEM")
		case location != "":
			return none, c.Fault("ssl.keystore.location", "leave it out beside ssl.keystore.key")
		case !c.IsSet("ssl.keystore.key") || !c.IsSet("ssl.keystore.certificate.chain"):
			return none, c.Fault("ssl.keystore.key", "ssl.keystore.key and ssl.keystore.certificate.chain belong together")
		}
		key, err := pemKey([]byte(c.Text("ssl.keystore.key")), keyPassword)
		if err != nil {
			return none, c.Fault("ssl.keystore.key", err.Error())
		}
		chain, err := pemCertificates([]byte(c.Text("ssl.keystore.certificate.chain")))
		if err != nil {
			return none, c.Fault("ssl.keystore.certificate.chain", err.Error())
		}
		return pair(c, "ssl.keystore.certificate.chain", key, chain)
	}
	if location == "" {
		return none, c.Fault("ssl.keystore.location", "a listener with TLS needs a certificate: set ssl.keystore.location and ssl.keystore.type (PEM, PKCS12 or JKS), "+
			"or ssl.keystore.key and ssl.keystore.certificate.chain, or start with --tls=auto")
	}
	data, err := r.file(location)
	if err != nil {
		return none, c.Fault("ssl.keystore.location", err.Error())
	}
	var key crypto.PrivateKey
	var chain []*x509.Certificate
	switch format {
	case formatPEM:
		if password != "" {
			return none, c.Fault("ssl.keystore.password", "a PEM file has no password of its own; that of its key is ssl.key.password")
		}
		if key, err = pemKey(data, keyPassword); err == nil {
			chain, err = pemCertificates(data)
		}
	case formatPKCS12, formatJKS:
		if password == "" {
			return none, c.Fault("ssl.keystore.password", "the type "+format+" needs it")
		}
		if bytes.HasPrefix(data, jksMagic) {
			key, chain, err = jksKey(data, password, keyPassword)
		} else {
			key, chain, err = pkcs12Key(data, password)
		}
	default:
		return none, c.Fault("ssl.keystore.type", "allowed: PEM, PKCS12, JKS")
	}
	if err != nil {
		return none, c.Fault("ssl.keystore.location", err.Error())
	}
	return pair(c, "ssl.keystore.location", key, chain)
}

// pair checks that key and certificate belong together.
func pair(c config.ListenerConfig, name string, key crypto.PrivateKey, chain []*x509.Certificate) (tls.Certificate, error) {
	out := tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return out, c.Fault(name, fmt.Sprintf("a key of type %T cannot sign", key))
	}
	public, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(signer.Public()) {
		return out, c.Fault(name, fmt.Sprintf("the private key is not that of the first certificate, %s", chain[0].Subject))
	}
	for _, x := range chain {
		out.Certificate = append(out.Certificate, x.Raw)
	}
	return out, nil
}

// readTruststore reads whom a listener believes; none where nobody is named.
func readTruststore(c config.ListenerConfig, r *reader) ([]*x509.Certificate, error) {
	format, location := c.Text("ssl.truststore.type"), c.Text("ssl.truststore.location")
	name, data := "ssl.truststore.location", []byte(nil)
	switch {
	case c.IsSet("ssl.truststore.certificates"):
		if format != formatPEM {
			return nil, c.Fault("ssl.truststore.type", "ssl.truststore.certificates is for the type PEM")
		}
		if location != "" {
			return nil, c.Fault(name, "leave it out beside ssl.truststore.certificates")
		}
		name, data = "ssl.truststore.certificates", []byte(c.Text("ssl.truststore.certificates"))
	case location == "":
		return nil, nil
	default:
		var err error
		if data, err = r.file(location); err != nil {
			return nil, c.Fault(name, err.Error())
		}
	}
	password := c.Text("ssl.truststore.password")
	var list []*x509.Certificate
	var err error
	switch format {
	case formatPEM:
		if password != "" {
			return nil, c.Fault("ssl.truststore.password", "PEM has no password")
		}
		list, err = pemCertificates(data)
	case formatPKCS12, formatJKS:
		if bytes.HasPrefix(data, jksMagic) {
			list, err = jksTrusted(data, password)
		} else if list, err = pkcs12.DecodeTrustStore(data, password); err == nil && len(list) == 0 {
			err = errors.New("it holds no trusted certificate")
		}
	default:
		return nil, c.Fault("ssl.truststore.type", "allowed: PEM, PKCS12, JKS")
	}
	if err != nil {
		return nil, c.Fault(name, err.Error())
	}
	return list, nil
}

// pemCertificates are the certificates in text, at least one.
func pemCertificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		x, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d: %w", len(out)+1, err)
		}
		out = append(out, x)
	}
	if len(out) == 0 {
		return nil, errors.New("there is no certificate in PEM (-----BEGIN CERTIFICATE-----)")
	}
	return out, nil
}

// pemKey is the private key in text.
func pemKey(text []byte, password string) (crypto.PrivateKey, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch block.Type {
		case "PRIVATE KEY":
			return x509.ParsePKCS8PrivateKey(block.Bytes)
		case "ENCRYPTED PRIVATE KEY":
			if password == "" {
				return nil, errors.New("the private key is encrypted: set ssl.key.password")
			}
			key, err := pkcs8.ParsePKCS8PrivateKey(block.Bytes, []byte(password))
			if err != nil {
				return nil, errors.New("the private key cannot be decrypted with ssl.key.password")
			}
			return key, nil
		case "RSA PRIVATE KEY":
			return x509.ParsePKCS1PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			return x509.ParseECPrivateKey(block.Bytes)
		}
	}
	return nil, errors.New("there is no private key in PEM (-----BEGIN PRIVATE KEY-----)")
}

func pkcs12Key(data []byte, password string) (crypto.PrivateKey, []*x509.Certificate, error) {
	key, leaf, others, err := pkcs12.DecodeChain(data, password)
	if err != nil {
		return nil, nil, err
	}
	return key, append([]*x509.Certificate{leaf}, others...), nil
}

func loadJKS(data []byte, password string) (keystore.KeyStore, []string, error) {
	ks := keystore.New()
	if err := ks.Load(bytes.NewReader(data), []byte(password)); err != nil {
		return ks, nil, err
	}
	aliases := ks.Aliases()
	slices.Sort(aliases)
	return ks, aliases, nil
}

func jksKey(data []byte, password, keyPassword string) (crypto.PrivateKey, []*x509.Certificate, error) {
	ks, aliases, err := loadJKS(data, password)
	if err != nil {
		return nil, nil, err
	}
	if keyPassword == "" {
		keyPassword = password
	}
	for _, alias := range aliases {
		if !ks.IsPrivateKeyEntry(alias) {
			continue
		}
		entry, err := ks.GetPrivateKeyEntry(alias, []byte(keyPassword))
		if err != nil {
			return nil, nil, fmt.Errorf("the key %q cannot be read with ssl.key.password: %w", alias, err)
		}
		key, err := x509.ParsePKCS8PrivateKey(entry.PrivateKey)
		if err != nil {
			return nil, nil, fmt.Errorf("the key %q: %w", alias, err)
		}
		chain, err := jksCertificates(entry.CertificateChain...)
		if err == nil && len(chain) == 0 {
			err = fmt.Errorf("the key %q has no certificate", alias)
		}
		return key, chain, err
	}
	return nil, nil, errors.New("it holds no private key")
}

func jksTrusted(data []byte, password string) ([]*x509.Certificate, error) {
	ks, aliases, err := loadJKS(data, password)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for _, alias := range aliases {
		if !ks.IsTrustedCertificateEntry(alias) {
			continue
		}
		entry, err := ks.GetTrustedCertificateEntry(alias)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", alias, err)
		}
		list, err := jksCertificates(entry.Certificate)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", alias, err)
		}
		out = append(out, list...)
	}
	if len(out) == 0 {
		return nil, errors.New("it holds no trusted certificate")
	}
	return out, nil
}

func jksCertificates(list ...keystore.Certificate) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for _, c := range list {
		x, err := x509.ParseCertificate(c.Content)
		if err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}
