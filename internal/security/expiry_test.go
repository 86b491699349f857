package security

import (
	"crypto/x509/pkix"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"moldau/internal/config"
	"moldau/internal/vfs"
)

// until makes a certificate end at a time.
func (i *issued) until(t testing.TB, ca *issued, end time.Time) *issued {
	t.Helper()
	again := *i.cert
	again.NotAfter = end
	return sign(t, &again, ca, i.key)
}

// TestExpiries: the soonest of each store counts, and that of a truststore where clients show certificates.
func TestExpiries(t *testing.T) {
	ca := issue(t, nil, pkix.Name{CommonName: "CA"})
	now := time.Now().Truncate(time.Second).UTC()
	key := issue(t, ca, pkix.Name{CommonName: "broker"}).until(t, ca, now.Add(5*time.Hour))
	between := issue(t, nil, pkix.Name{CommonName: "between"}).until(t, nil, now.Add(3*time.Hour))
	other := issue(t, nil, pkix.Name{CommonName: "other CA"}).until(t, nil, now.Add(2*time.Hour))
	f := files{t, t.TempDir()}
	store := f.write("k.pem", []byte(key.keyPEM(t, "")+key.certPEM()+between.certPEM()))
	conf := configured(t, "listeners=A://localhost:0,B://localhost:0,C://localhost:0", "listener.security.protocol.map=A:SSL,B:SSL,C:PLAINTEXT", "inter.broker.listener.name=C",
		"ssl.keystore.type=PEM", "ssl.keystore.location="+store, "ssl.truststore.type=PEM",
		"ssl.truststore.location="+f.write("ca.pem", []byte(between.certPEM()+other.certPEM())), "listener.name.b.ssl.client.auth=requested")
	s, err := New(conf, nil)
	if err != nil {
		t.Fatal(err)
	}
	check := func(want ...Expiry) {
		t.Helper()
		got := s.Expiries()
		if len(got) != len(want) {
			t.Fatalf("%+v", got)
		}
		for i := range got {
			if got[i].life = 0; got[i] != want[i] {
				t.Errorf("%+v, want %+v", got[i], want[i])
			}
		}
	}
	first := now.Add(3 * time.Hour)
	check(Expiry{"A", KeyStore, "CN=between", first, 0}, Expiry{"B", KeyStore, "CN=between", first, 0}, Expiry{"B", TrustStore, "CN=other CA", now.Add(2 * time.Hour), 0})
	f.write("k.pem", []byte(key.keyPEM(t, "")+key.certPEM()))
	s.Reload(conf)
	first = now.Add(5 * time.Hour)
	check(Expiry{"A", KeyStore, "CN=broker", first, 0}, Expiry{"B", KeyStore, "CN=broker", first, 0}, Expiry{"B", TrustStore, "CN=other CA", now.Add(2 * time.Hour), 0})
}

// TestExpiryNotice: a month before, or in the last third of a shorter life.
func TestExpiryNotice(t *testing.T) {
	now := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	const day = 24 * time.Hour
	for _, c := range []struct {
		store      string
		left, life time.Duration
		want       string
	}{
		{KeyStore, 31 * day, 365 * day, ""},
		{KeyStore, 29 * day, 365 * day, "the certificate CN=x in the keystore of listener SSL ends in 29 days, on 2026-12-27T12:00:00Z: put another one into the file of ssl.keystore.location; it is read anew by itself"},
		{KeyStore, 25 * time.Hour, 365 * day, "ends in 25h0m0s, on"},
		{KeyStore, -day, 365 * day, "has ended on 2026-11-27T12:00:00Z: "},
		{KeyStore, 9 * time.Hour, 24 * time.Hour, ""},
		{KeyStore, 7 * time.Hour, 24 * time.Hour, "ends in 7h0m0s"},
		{TrustStore, day, 365 * day, "its successor beside it"},
		{AuthorityStore, 29 * day, 3650 * day, "give clients the new ca.pem"},
	} {
		got := Expiry{"SSL", c.store, "CN=x", now.Add(c.left), c.life}.Notice(now)
		if c.want == "" && got != "" || !strings.Contains(got, c.want) || strings.Contains(got, "\n") {
			t.Errorf("%v of %v: %q, want %q", c.left, c.life, got, c.want)
		}
	}
}

// TestReadAuthority: to look at the CA of --tls=auto makes and renews nothing.
func TestReadAuthority(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tls")
	conf, _, err := config.Load(config.Sources{Flags: map[string]string{"tls": "auto"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(conf, ReadAuthority(vfs.OS(), dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a directory was made")
	}
	if _, err := New(conf, OpenAuthority(vfs.OS(), dir, nil)); err != nil {
		t.Fatal(err)
	}
	s, err := New(conf, ReadAuthority(vfs.OS(), dir))
	if err != nil {
		t.Fatal(err)
	}
	got := s.Expiries()
	if len(got) != 2 || got[0].Store != AuthorityStore || got[0].Subject != "CN=Moldau CA" || got[1].Store != KeyStore || got[1].Subject != "CN=Moldau broker" || !got[1].NotAfter.Before(got[0].NotAfter) {
		t.Errorf("%+v", got)
	}
	if err := os.Remove(filepath.Join(dir, "broker.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := New(conf, ReadAuthority(vfs.OS(), dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
