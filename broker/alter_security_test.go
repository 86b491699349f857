package broker_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/youmark/pkcs8"
)

// selfSigned writes a key and a certificate for localhost, which is its own CA, and returns its serial number.
func selfSigned(t *testing.T, file, name, password string) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	x := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}, BasicConstraintsValid: true, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, x, x, key.Public(), key)
	must(t, err)
	kind := "PRIVATE KEY"
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if password != "" {
		kind = "ENCRYPTED PRIVATE KEY"
		private, err = pkcs8.MarshalPrivateKey(key, []byte(password), nil)
	}
	must(t, err)
	text := append(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: private}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	must(t, os.WriteFile(file+".tmp", text, 0o600))
	must(t, os.Rename(file+".tmp", file))
	return x.SerialNumber.String()
}

// TestCertificatesSetWhileTheBrokerRuns: keys, certificates and what clients must show are changed by IncrementalAlterConfigs; what cannot be used is
// refused and changes nothing, no connection is lost, and a restart keeps it.
func TestCertificatesSetWhileTheBrokerRuns(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.ToSlash(filepath.Join(dir, name)) }
	first := selfSigned(t, file("first.pem"), "broker", "")
	second := selfSigned(t, file("second.pem"), "broker", "")
	third := selfSigned(t, file("third.pem"), "broker", "open sesame")
	selfSigned(t, file("other.pem"), "somebody else", "")
	must(t, os.WriteFile(file("bad.pem"), []byte("rubbish"), 0o600))
	properties := []string{"listeners=PLAINTEXT://localhost:0,SSL://localhost:0", "inter.broker.listener.name=PLAINTEXT",
		"listener.name.ssl.ssl.keystore.type=PEM", "listener.name.ssl.ssl.truststore.type=PEM", "listener.name.ssl.ssl.keystore.location=" + file("first.pem")}
	b, log := secure(t, filepath.Join(dir, "data"), nil, properties...)

	address := func(listener string) string {
		for i, a := range b.Addrs() {
			if (i >= len(b.Addrs())/2) == (listener == "SSL") {
				return a.String()
			}
		}
		return ""
	}
	serial := func() string {
		nc, err := tls.Dial("tcp", address("SSL"), &tls.Config{InsecureSkipVerify: true})
		must(t, err)
		defer nc.Close()
		return nc.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	admin := func() *kadm.Client {
		cl, err := kgo.NewClient(kgo.SeedBrokers(address("PLAINTEXT")))
		must(t, err)
		t.Cleanup(cl.Close)
		return kadm.NewClient(cl)
	}
	a := admin()
	set := func(pairs ...string) error {
		var alter []kadm.AlterConfig
		for i := 0; i < len(pairs); i += 2 {
			op := kadm.AlterConfig{Op: kadm.SetConfig, Name: "listener.name.ssl.ssl." + pairs[i], Value: &pairs[i+1]}
			if pairs[i+1] == "" {
				op.Op, op.Value = kadm.DeleteConfig, nil
			}
			alter = append(alter, op)
		}
		r, err := a.AlterBrokerConfigs(within(t), alter, 1)
		must(t, err)
		if r[0].Err != nil {
			return errors.Join(r[0].Err, errors.New(r[0].ErrMessage))
		}
		return nil
	}
	lost := new(disconnects)
	busy, err := kgo.NewClient(kgo.SeedBrokers(address("SSL")), kgo.DialTLSConfig(&tls.Config{InsecureSkipVerify: true}), kgo.WithHooks(lost),
		kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("t"))
	must(t, err)
	defer busy.Close()
	work := func() {
		t.Helper()
		must(t, busy.ProduceSync(within(t), kgo.StringRecord("still here")).FirstErr())
	}
	work()

	for name, words := range map[string]string{"bad.pem": file("bad.pem"), "nowhere.pem": file("nowhere.pem"), "other.pem": "ssl.allow.dn.changes"} {
		if err := set("keystore.location", file(name)); !errors.Is(err, kerr.InvalidRequest) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := set("client.auth", "required"); !errors.Is(err, kerr.InvalidRequest) {
		t.Errorf("clients are to show certificates that nobody can check: %v", err)
	}
	if got := serial(); got != first {
		t.Errorf("after changes that were refused: certificate %s, want %s", got, first)
	}
	must(t, set("keystore.location", file("second.pem")))
	eventually(t, "the second certificate", func() bool { work(); return serial() == second })

	fourth := selfSigned(t, file("second.pem"), "broker", "")
	must(t, set("keystore.location", file("second.pem"))) // as it was: the file is another
	eventually(t, "the certificate in the same file", func() bool { work(); return serial() == fourth })

	must(t, set("keystore.location", file("third.pem"), "key.password", "open sesame"))
	eventually(t, "the certificate whose key is encrypted", func() bool { work(); return serial() == third })
	described, err := a.DescribeBrokerConfigs(within(t), 1)
	must(t, err)
	found := false
	for _, c := range described[0].Configs {
		if c.Key == "listener.name.ssl.ssl.key.password" {
			found = true
			if !c.Sensitive || c.Value != nil {
				t.Errorf("the password is shown: %+v", c)
			}
		}
	}
	if !found {
		t.Error("the password's key is not described")
	}

	greeting := func() error { // TLS 1.3 tells a client only afterwards that it should have shown something
		cl, err := kgo.NewClient(kgo.SeedBrokers(address("SSL")), kgo.DialTLSConfig(&tls.Config{InsecureSkipVerify: true}))
		must(t, err)
		defer cl.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		return cl.Ping(ctx)
	}
	must(t, set("client.auth", "required", "truststore.location", file("first.pem")))
	eventually(t, "clients must show certificates", func() bool { work(); return greeting() != nil })
	must(t, set("client.auth", ""))
	eventually(t, "clients need no certificates any more", func() bool { work(); return greeting() == nil })
	reached := func() bool {
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 200 * time.Millisecond}, Config: &tls.Config{InsecureSkipVerify: true}}
		nc, err := d.Dial("tcp", address("SSL"))
		if err == nil {
			nc.Close()
		}
		return err == nil
	}
	limit := func(op kadm.IncrementalOp, name, value string) {
		t.Helper()
		r, err := a.AlterBrokerConfigs(within(t), []kadm.AlterConfig{{Op: op, Name: name, Value: &value}}, 1)
		must(t, errors.Join(err, r[0].Err))
	}
	limit(kadm.SetConfig, "listener.name.ssl.max.connections", "1")
	eventually(t, "a limit of the listener is in force", func() bool { work(); return !reached() })
	limit(kadm.DeleteConfig, "listener.name.ssl.max.connections", "")
	eventually(t, "the limit of the listener is gone", func() bool { work(); return reached() })
	limit(kadm.SetConfig, "max.connections.per.ip", "1")
	eventually(t, "a limit of addresses is in force", func() bool { work(); return !reached() })
	limit(kadm.DeleteConfig, "max.connections.per.ip", "")
	eventually(t, "the limit of addresses is gone", func() bool { work(); return reached() })
	if n := lost.n.Load(); n != 0 {
		t.Errorf("%d connections were lost", n)
	}
	busy.Close()
	stop(t, b, log)
	if strings.Contains(log.String(), "open sesame") {
		t.Error("the password is in the log")
	}
	b, _ = secure(t, filepath.Join(dir, "data"), nil, properties...)
	if got := serial(); got != third {
		t.Errorf("after a restart: certificate %s, want %s", got, third)
	}
}
