package security

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	keystore "github.com/pavlo-v-chernykh/keystore-go/v4"
	"github.com/youmark/pkcs8"
	"software.sslmate.com/src/go-pkcs12"

	"moldau/internal/config"
	"moldau/internal/vfs"
)

// issued is a certificate with its key.
type issued struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// issue makes a certificate by a CA, or a CA where that is nil, for localhost if no host is named.
func issue(t testing.TB, ca *issued, subject pkix.Name, hosts ...string) *issued {
	t.Helper()
	if hosts == nil {
		hosts = []string{"localhost"}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: subject, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), DNSNames: hosts, BasicConstraintsValid: true, IsCA: ca == nil}
	return sign(t, template, ca, key)
}

// sign makes a certificate of a template, by its own key where there is no CA.
func sign(t testing.TB, template *x509.Certificate, ca *issued, key *ecdsa.PrivateKey) *issued {
	t.Helper()
	parent := &issued{template, key}
	if ca != nil {
		parent = ca
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.cert, key.Public(), parent.key)
	if err != nil {
		t.Fatal(err)
	}
	x, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issued{x, key}
}

func (i *issued) certPEM() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw}))
}

func (i *issued) keyPEM(t testing.TB, password string) string {
	t.Helper()
	if password != "" {
		der, err := pkcs8.MarshalPrivateKey(i.key, []byte(password), nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der}))
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: i.keyDER(t)}))
}

func (i *issued) keyDER(t testing.TB) []byte {
	der, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// files is a directory with the ways to write a key and a CA.
type files struct {
	t   testing.TB
	dir string
}

func (f files) write(name string, data []byte) string {
	f.t.Helper()
	path := filepath.Join(f.dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		f.t.Fatal(err)
	}
	return path
}

func (f files) jks(name string, key *issued, trusted *issued, password string) string {
	f.t.Helper()
	ks := keystore.New()
	var err error
	if key != nil {
		err = ks.SetPrivateKeyEntry("broker", keystore.PrivateKeyEntry{CreationTime: time.Now(), PrivateKey: key.keyDER(f.t),
			CertificateChain: []keystore.Certificate{{Type: "X509", Content: key.cert.Raw}}}, []byte(password))
	}
	if trusted != nil && err == nil {
		err = ks.SetTrustedCertificateEntry("ca", keystore.TrustedCertificateEntry{CreationTime: time.Now(), Certificate: keystore.Certificate{Type: "X509", Content: trusted.cert.Raw}})
	}
	var buf bytes.Buffer
	if err == nil {
		err = ks.Store(&buf, []byte(password))
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return f.write(name, buf.Bytes())
}

func load(t testing.TB, lines ...string) (*Security, error) {
	t.Helper()
	return New(configured(t, lines...), nil)
}

func configured(t testing.TB, lines ...string) *config.Broker {
	t.Helper()
	for i := range lines {
		lines[i] = strings.ReplaceAll(lines[i], "\n", `\n\`+"\n")
		lines[i] = strings.TrimSuffix(lines[i], `\n\`+"\n")
	}
	c, _, err := config.Load(config.Sources{File: strings.NewReader(strings.Join(lines, "\n")), FileName: "server.properties"})
	if err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(lines, "\n"))
	}
	return c
}

// shake makes a handshake with a listener and returns the error of either side.
func shake(t testing.TB, s *Security, listener string, client *tls.Config) error {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	failed := make(chan error, 1)
	go func() {
		c := tls.Server(a, s.TLS(listener))
		err := c.Handshake()
		if err == nil {
			_, err = c.Write([]byte("x"))
		}
		failed <- err
	}()
	c := tls.Client(b, client)
	_, err := c.Read(make([]byte, 1))
	b.Close()
	if other := <-failed; other != nil {
		return fmt.Errorf("server: %w, client: %v", other, err)
	}
	return err
}

func trusting(ca *issued) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return &tls.Config{RootCAs: pool, ServerName: "localhost"}
}

// TestEveryFormat: a key and a CA in each format that Kafka has make the same listener.
func TestEveryFormat(t *testing.T) {
	ca := issue(t, nil, pkix.Name{CommonName: "CA"})
	key := issue(t, ca, pkix.Name{CommonName: "broker"})
	f := files{t, t.TempDir()}
	p12, err := pkcs12.Modern.Encode(key.key, key.cert, []*x509.Certificate{ca.cert}, "geheim")
	if err != nil {
		t.Fatal(err)
	}
	trust, err := pkcs12.Modern.EncodeTrustStore([]*x509.Certificate{ca.cert}, "geheim")
	if err != nil {
		t.Fatal(err)
	}
	both := func(kind, store, truststore string) []string {
		return []string{"ssl.keystore.type=" + kind, "ssl.keystore.location=" + store, "ssl.keystore.password=geheim",
			"ssl.truststore.type=" + kind, "ssl.truststore.location=" + truststore, "ssl.truststore.password=geheim"}
	}
	caFile := f.write("ca.pem", []byte(ca.certPEM()))
	for name, lines := range map[string][]string{
		"PEM file":         {"ssl.keystore.type=PEM", "ssl.keystore.location=" + f.write("k.pem", []byte(key.keyPEM(t, "")+key.certPEM()+ca.certPEM())), "ssl.truststore.type=PEM", "ssl.truststore.location=" + caFile},
		"PEM in the file":  {"ssl.keystore.type=PEM", "ssl.keystore.key=" + key.keyPEM(t, ""), "ssl.keystore.certificate.chain=" + key.certPEM(), "ssl.truststore.type=PEM", "ssl.truststore.certificates=" + ca.certPEM()},
		"PEM, encrypted":   {"ssl.keystore.type=PEM", "ssl.keystore.key=" + key.keyPEM(t, "pw"), "ssl.key.password=pw", "ssl.keystore.certificate.chain=" + key.certPEM(), "ssl.truststore.type=PEM", "ssl.truststore.location=" + caFile},
		"PKCS12":           both("PKCS12", f.write("k.p12", p12), f.write("t.p12", trust)),
		"JKS":              both("JKS", f.jks("k.jks", key, nil, "geheim"), f.jks("t.jks", nil, ca, "geheim")),
		"PKCS12 named JKS": both("JKS", f.write("k2.jks", p12), f.write("t2.jks", trust)),
		"JKS named PKCS12": both("PKCS12", f.jks("k2.p12", key, nil, "geheim"), f.jks("t2.p12", nil, ca, "geheim")),
	} {
		s, err := load(t, append(lines, "listeners=SSL://localhost:0,PLAINTEXT://localhost:0", "ssl.client.auth=required")...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if s.TLS("PLAINTEXT") != nil {
			t.Error("TLS on a listener without")
		}
		if err := shake(t, s, "SSL", trusting(ca)); err == nil {
			t.Errorf("%s: a client without a certificate was let in", name)
		}
		client := trusting(ca)
		friend := issue(t, ca, pkix.Name{CommonName: "friend"})
		client.Certificates = []tls.Certificate{{Certificate: [][]byte{friend.cert.Raw}, PrivateKey: friend.key}}
		if err := shake(t, s, "SSL", client); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWhatCannotBeHonoured: each is an error that names the key and what to do, and holds no secret.
func TestWhatCannotBeHonoured(t *testing.T) {
	ca := issue(t, nil, pkix.Name{CommonName: "CA"})
	key, other := issue(t, ca, pkix.Name{CommonName: "broker"}), issue(t, ca, pkix.Name{CommonName: "other"})
	f := files{t, t.TempDir()}
	good := []string{"ssl.keystore.type=PEM", "ssl.keystore.location=" + f.write("k.pem", []byte(key.keyPEM(t, "")+key.certPEM()))}
	encrypted := f.write("e.pem", []byte(key.keyPEM(t, "streng-geheim")+key.certPEM()))
	for _, c := range []struct {
		lines []string
		want  string
	}{
		{nil, "listener.name.ssl.ssl.keystore.location=(unset) (by default): a listener with TLS needs a certificate"},
		{[]string{"ssl.keystore.location=/nowhere/k.jks", "ssl.keystore.password=streng-geheim"}, "ssl.keystore.location=/nowhere/k.jks (in server.properties): stat /nowhere/k.jks: no such file"},
		{[]string{"listener.name.ssl.ssl.keystore.location=/nowhere/k.jks", "ssl.keystore.password=x"}, "listener.name.ssl.ssl.keystore.location=/nowhere/k.jks"},
		{[]string{"ssl.keystore.type=BKS", "ssl.keystore.location=" + encrypted}, "ssl.keystore.type=BKS (in server.properties): allowed: PEM, PKCS12, JKS"},
		{[]string{"ssl.keystore.type=PEM", "ssl.keystore.location=" + encrypted}, "the private key is encrypted: set ssl.key.password"},
		{[]string{"ssl.keystore.type=PEM", "ssl.keystore.location=" + encrypted, "ssl.key.password=streng-falsch"}, "cannot be decrypted with ssl.key.password"},
		{[]string{"ssl.keystore.type=PEM", "ssl.keystore.location=" + encrypted, "ssl.keystore.password=streng-geheim"}, "ssl.keystore.password=[hidden] (in server.properties): a PEM file has no password"},
		{[]string{"ssl.keystore.type=PEM", "ssl.keystore.location=" + f.write("m.pem", []byte(other.keyPEM(t, "")+key.certPEM()))}, "the private key is not that of the first certificate, CN=broker"},
		{[]string{"ssl.keystore.type=PEM", "ssl.keystore.location=" + f.write("n.pem", []byte(key.certPEM()))}, "there is no private key in PEM"},
		{[]string{"ssl.keystore.type=PKCS12", "ssl.keystore.location=" + f.write("x.p12", []byte("rubbish")), "ssl.keystore.password=streng-geheim"}, "ssl.keystore.location="},
		{[]string{"ssl.keystore.location=" + f.jks("k.jks", key, nil, "geheim"), "ssl.keystore.password=streng-falsch"}, "ssl.keystore.location="},
		{[]string{"ssl.keystore.location=" + f.jks("k2.jks", nil, ca, "geheim"), "ssl.keystore.password=geheim"}, "it holds no private key"},
		{append([]string{"ssl.client.auth=required"}, good...), "ssl.client.auth=required needs the CAs of the clients"},
		{append([]string{"ssl.enabled.protocols=TLSv1.1,TLSv1.2"}, good...), "ssl.enabled.protocols=TLSv1.1,TLSv1.2 (in server.properties): TLSv1.1 is not offered; allowed: TLSv1.2, TLSv1.3"},
		{append([]string{"ssl.cipher.suites=TLS_RSA_WITH_3DES_EDE_CBC_SHA"}, good...), "TLS_RSA_WITH_3DES_EDE_CBC_SHA is not offered; allowed: "},
		{append([]string{"ssl.cipher.suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"}, good...), "with TLSv1.3 its suites are always offered"},
		{append([]string{"ssl.cipher.suites=TLS_AES_128_GCM_SHA256", "ssl.enabled.protocols=TLSv1.2"}, good...), "names no suite of TLSv1.2"},
		{append([]string{"ssl.principal.mapping.rules=RULE:(?=x)/x/"}, good...), "ssl.principal.mapping.rules=RULE:(?=x)/x/ (in server.properties): RULE:(?=x): "},
		{append([]string{"ssl.principal.mapping.rules=RULE:x"}, good...), "expected RULE:pattern/replacement/"},
		{append([]string{"ssl.principal.mapping.rules=CN=x"}, good...), `begins neither with RULE: nor with DEFAULT`},
	} {
		_, err := load(t, append([]string{"listeners=SSL://localhost:0"}, c.lines...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v:\n got %v\nwant %s", c.lines, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "streng-") {
			t.Errorf("%v shows a secret: %v", c.lines, err)
		}
	}
	if _, err := load(t, append([]string{"listeners=SSL://localhost:0", "ssl.enabled.protocols=TLSv1.2", "ssl.cipher.suites=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"}, good...)...); err != nil {
		t.Error(err)
	}
}

// TestReload: a new certificate is in force when its files are whole, and what cannot be used changes nothing and is told once.
func TestReload(t *testing.T) {
	ca := issue(t, nil, pkix.Name{CommonName: "CA"})
	f := files{t, t.TempDir()}
	first, second := issue(t, ca, pkix.Name{CommonName: "first"}), issue(t, ca, pkix.Name{CommonName: "second"})
	whole := func(i *issued) []byte { return []byte(i.keyPEM(t, "") + i.certPEM()) }
	path := f.write("k.pem", whole(first))
	cfg := configured(t, "listeners=SSL://localhost:0", "ssl.keystore.type=PEM", "ssl.keystore.location="+path)
	s, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	serves := func(name string) {
		t.Helper()
		var got string
		c := trusting(ca)
		c.VerifyConnection = func(s tls.ConnectionState) error { got = s.PeerCertificates[0].Subject.CommonName; return nil }
		if err := shake(t, s, "SSL", c); err != nil || got != name {
			t.Errorf("the listener serves %q, want %q (%v)", got, name, err)
		}
	}
	if ch := s.Reload(cfg); len(ch) != 0 {
		t.Error(ch)
	}
	serves("first")
	mixed := append([]byte(second.keyPEM(t, "")), first.certPEM()...)
	for _, bad := range [][]byte{mixed, nil, []byte("rubbish")} {
		f.write("k.pem", bad)
		if ch := s.Reload(cfg); len(ch) != 1 || ch[0].Err == nil || ch[0].Listener != "SSL" {
			t.Errorf("a file that cannot be used: %v", ch)
		}
		if ch := s.Reload(cfg); len(ch) != 0 {
			t.Errorf("the same error is told twice: %v", ch)
		}
		serves("first")
	}
	f.write("k.pem", whole(first))
	if ch := s.Reload(cfg); len(ch) != 0 {
		t.Errorf("the old file is back: %v", ch)
	}
	f.write("k.pem", []byte("rubbish"))
	if ch := s.Reload(cfg); len(ch) != 1 || ch[0].Err == nil {
		t.Errorf("the error of before, after a good time: %v", ch)
	}
	f.write("k.pem", whole(second))
	if ch := s.Reload(cfg); len(ch) != 1 || ch[0].Err != nil || ch[0].Subject != "CN=second" {
		t.Error(ch)
	}
	serves("second")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s.Reload(cfg)
	serves("second")
}

// TestCheck: what is to come in force while the broker runs is judged first, and does nothing by that.
func TestCheck(t *testing.T) {
	ca := issue(t, nil, pkix.Name{CommonName: "CA"})
	f := files{t, t.TempDir()}
	store := func(name string, c *issued) string { return f.write(name, []byte(c.keyPEM(t, "")+c.certPEM())) }
	one, same, other := issue(t, ca, pkix.Name{CommonName: "one"}), issue(t, ca, pkix.Name{CommonName: "one"}), issue(t, ca, pkix.Name{CommonName: "other"})
	fewer := issue(t, ca, pkix.Name{CommonName: "one"}, "elsewhere.example")
	bad := f.write("bad.pem", []byte("rubbish"))
	const location = "listener.name.ssl.ssl.keystore.location"
	for _, c := range []struct {
		static string
		values map[string]string
		want   string // in the error
	}{
		{"", map[string]string{location: store("same.pem", same)}, ""},
		{"", map[string]string{location: bad}, bad + " set while the broker runs"},
		{"", map[string]string{location: "/nowhere/x.pem"}, "/nowhere/x.pem"},
		{"", map[string]string{location: store("other.pem", other)}, "ssl.allow.dn.changes"},
		{"ssl.allow.dn.changes=true", map[string]string{location: store("other.pem", other)}, ""},
		{"", map[string]string{location: store("fewer.pem", fewer)}, "localhost"},
		{"ssl.allow.san.changes=true", map[string]string{location: store("fewer.pem", fewer)}, ""},
		{"", map[string]string{"listener.name.ssl.ssl.keystore.type": "JKS"}, "ssl.keystore.password"},
		{"", map[string]string{"listener.name.ssl.ssl.client.auth": "required"}, "ssl.truststore.location"},
		{"", map[string]string{"listener.name.ssl.ssl.enabled.protocols": "SSLv3"}, "allowed: TLSv1.2, TLSv1.3"},
		{"", map[string]string{"listener.name.ssl.ssl.key.password": "of no use"}, ""},
	} {
		cfg := configured(t, "listeners=SSL://localhost:0", "ssl.keystore.type=PEM", "ssl.keystore.location="+store("one.pem", one), c.static)
		s, err := New(cfg, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = s.Check(cfg.WithDynamic(c.values, nil))
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(strings.ReplaceAll(err.Error(), " (", " "), c.want) {
			t.Errorf("%v %s: %v, want %q", c.values, c.static, err, c.want)
		}
	}
}

// TestPrincipals: names are those that Kafka gives certificates, and no value of a certificate can be taken for a part of its name.
func TestPrincipals(t *testing.T) {
	email := pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, Value: "a@b.de"}
	full := pkix.Name{CommonName: "Duke", OrganizationalUnit: []string{"ServiceUsers"}, Organization: []string{"Org"}, Country: []string{"DE"}}
	for _, c := range []struct {
		rules string
		name  pkix.Name
		want  string
	}{
		{"DEFAULT", full, "User:CN=Duke,OU=ServiceUsers,O=Org,C=DE"},
		{"", full, "User:CN=Duke,OU=ServiceUsers,O=Org,C=DE"},
		{`RULE:^CN=(.*?),OU=ServiceUsers.*$/$1/`, full, "User:Duke"},
		{`RULE:^CN=(.*?),OU=Other.*$/$1/, RULE:^CN=(.*?),.*$/$1@$2/L, DEFAULT`, full, "User:duke@$2"},
		{`RULE:^CN=(.*?),OU=(.*?),.*$/$2\/$12/U`, full, "User:SERVICEUSERS/DUKE2"},
		{`RULE:CN=Other/x/`, full, ""},
		// A name that tries to be two.
		{`RULE:^CN=(.*?),OU=Admins.*$/$1/,DEFAULT`, pkix.Name{CommonName: "eve,OU=Admins"}, `User:CN=eve\,OU\=Admins`},
		{"DEFAULT", pkix.Name{CommonName: "eve,OU=Admins"}, `User:CN=eve\,OU\=Admins`},
		{`RULE:^CN=([^,\\]*),OU=Admins$/$1/,DEFAULT`, pkix.Name{CommonName: "eve,OU=Admins"}, `User:CN=eve\,OU\=Admins`},
		{"DEFAULT", pkix.Name{CommonName: ` a+b"c\d<e>f;g# `}, `User:CN=\ a\+b\"c\\d\<e\>f\;g\#\ `},
		{"DEFAULT", pkix.Name{CommonName: "x", ExtraNames: []pkix.AttributeTypeAndValue{email}}, "User:1.2.840.113549.1.9.1=#1606614062" + "2e6465,CN=x"},
	} {
		rs, err := parseRules(c.rules)
		if err != nil {
			t.Fatal(err)
		}
		got, err := rs.principal(issue(t, nil, c.name).cert)
		if got != c.want || (c.want == "") != (err != nil) {
			t.Errorf("%s of %s: %q (%v), want %q", c.rules, c.name, got, err, c.want)
		}
	}
}

// TestAutoOutlivesCrashes: whenever the power goes while a CA or a certificate is made, the next start makes do with what is there, and a CA
// that clients may have been given stays theirs.
func TestAutoOutlivesCrashes(t *testing.T) {
	const dir = "meta/tls"
	for seed := range int64(20) {
		for at := 1; ; at++ {
			m := vfs.NewMem()
			m.PowerLossAfter(at)
			_, _, err := OpenAuthority(m, dir, nil).certificate()
			after := m.Crash(mathrand.New(mathrand.NewPCG(uint64(seed), 1)))
			given, hasCA, _ := vfs.ReadWhole(after, dir+"/ca.pem", maxStoreBytes)
			cert, _, again := OpenAuthority(after, dir, nil).certificate()
			if again != nil {
				t.Fatalf("seed %d, power lost at operation %d: %v", seed, at, again)
			}
			if hasCA {
				roots := x509.NewCertPool()
				if !roots.AppendCertsFromPEM(given) {
					t.Fatalf("seed %d, power lost at operation %d: ca.pem is not whole", seed, at)
				}
				if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "localhost"}); err != nil {
					t.Errorf("seed %d, power lost at operation %d: clients that have the CA: %v", seed, at, err)
				}
			}
			if err == nil {
				break // it was whole before the power went
			}
		}
	}
}

// TestAutoOutlivesALostCertificate: a CA whose certificate is lost gets another one, and clients with the lost one trust it.
func TestAutoOutlivesALostCertificate(t *testing.T) {
	m := vfs.NewMem()
	if _, _, err := OpenAuthority(m, "tls", nil).certificate(); err != nil {
		t.Fatal(err)
	}
	old, _, err := vfs.ReadWhole(m, "tls/ca.pem", maxStoreBytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tls/ca.pem", "tls/broker.pem"} {
		if err := m.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	cert, _, err := OpenAuthority(m, "tls", nil).certificate()
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(old)
	if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "localhost"}); err != nil {
		t.Error(err)
	}
}

// TestAuto: the CA stays, the certificate is made anew when it lacks a name, and a CA that is damaged is nobody's to replace.
func TestAuto(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	first, _, err := OpenAuthority(vfs.OS(), dir, []string{"broker.example", "10.1.2.3", "0.0.0.0", ""}).certificate()
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"broker.example", "10.1.2.3", "localhost", "127.0.0.1", "[::1]"} {
		if err := first.Leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := OpenAuthority(vfs.OS(), dir, []string{"broker.example"}).certificate()
	if err != nil || !again.Leaf.Equal(first.Leaf) {
		t.Errorf("a good certificate was made anew: %v", err)
	}
	other, _, err := OpenAuthority(vfs.OS(), dir, []string{"other.example"}).certificate()
	if err != nil || other.Leaf.VerifyHostname("other.example") != nil {
		t.Errorf("another name: %v", err)
	}
	if now, _ := os.ReadFile(filepath.Join(dir, "ca.pem")); !bytes.Equal(ca, now) {
		t.Error("the CA is another one")
	}
	for _, name := range []string{"ca.key", "broker.key"} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
	var _ crypto.Signer = other.PrivateKey.(crypto.Signer)
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenAuthority(vfs.OS(), dir, nil).certificate(); err == nil || !strings.Contains(err.Error(), "bring the files of") {
		t.Errorf("a CA without its key: %v", err)
	}
}
