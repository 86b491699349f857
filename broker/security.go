package broker

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"moldau/internal/config"
	"moldau/internal/security"
)

// lookAgain is how often files of keys and certificates are looked at. Kubernetes takes a minute to bring a changed secret.
const lookAgain = 5 * time.Second

// openSecurity reads keys and certificates of all listeners.
func (b *Broker) openSecurity() (err error) {
	var auto *security.Authority
	if b.o.Config.Text("moldau.tls") == "auto" {
		var names []string
		for _, l := range b.o.Config.Listeners() {
			names = append(names, l.Host, l.AdvertisedHost)
		}
		auto = security.OpenAuthority(b.fs, path.Join(b.metaDir, security.AuthorityDir), names)
	}
	if b.security, err = security.New(b.o.Config, auto); err != nil {
		return err
	}
	b.reloadKeys()
	return nil
}

// remindAgain is how often a certificate that ends soon is told of.
const remindAgain = 24 * time.Hour

// watchSecurity puts changed files in force, and reminds of certificates that end.
func (b *Broker) watchSecurity() {
	if !slices.ContainsFunc(b.o.Config.Listeners(), func(l config.Listener) bool { return l.Protocol != config.Plaintext }) {
		return
	}
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	b.remind()
	reminded := time.Now()
	for {
		select {
		case now := <-tick.C:
			b.reloadSecurity()
			b.reloadKeys()
			if now.Sub(reminded) >= remindAgain {
				b.remind()
				reminded = now
			}
		case <-b.security.Woken():
			b.reloadSecurity()
		case <-b.life.Done():
			return
		}
	}
}

// reloadSecurity puts in force what settings and files say now.
func (b *Broker) reloadSecurity() {
	for _, c := range b.security.Reload(b.dynamic(b.cluster.Image())) {
		if c.Err != nil {
			b.log.Error("changed keys or certificates cannot be used; those read before stay in force", "listener", c.Listener, "error", c.Err)
			continue
		}
		b.log.Info("new connections see other keys or certificates", "listener", c.Listener, "subject", c.Subject, "notAfter", c.NotAfter.Format(time.RFC3339))
	}
}

// remind warns of certificates that end.
func (b *Broker) remind() {
	for _, e := range b.security.Expiries() {
		if n := e.Notice(time.Now()); n != "" {
			b.log.Warn(n, "listener", e.Listener, "store", e.Store, "subject", e.Subject, "notAfter", e.NotAfter.UTC().Format(time.RFC3339))
		}
	}
}

// reloadKeys looks for the keys that tokens are signed with. A provider that does not answer keeps nobody from starting.
func (b *Broker) reloadKeys() {
	for _, c := range b.security.ReloadKeys(time.Now(), fetchDocument) {
		if c.Err != nil {
			b.log.Error("the keys of tokens cannot be read; those read before stay in force, and it is tried again", "listener", c.Listener, "source", c.Subject, "error", c.Err)
			continue
		}
		b.log.Info("keys of tokens read", "listener", c.Listener, "source", c.Subject)
	}
}

const (
	fetchTime  = 10 * time.Second
	fetchBytes = 1 << 20
)

// fetchDocument is a security.Fetch.
func fetchDocument(u *url.URL) ([]byte, error) {
	c := http.Client{Timeout: fetchTime, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer c.CloseIdleConnections()
	resp, err := c.Get(u.String())
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers %s", u.Redacted(), resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, fetchBytes+1))
	if err == nil && len(data) > fetchBytes {
		err = fmt.Errorf("%s has more than %d bytes", u.Redacted(), fetchBytes)
	}
	return data, err
}

// tellClients says what clients need to trust a certificate that the broker has made itself.
func (b *Broker) tellClients() {
	ca := b.security.CAFile()
	if ca == "" {
		return
	}
	if abs, err := filepath.Abs(ca); err == nil {
		ca = abs
	}
	for _, l := range b.o.Config.Listeners() {
		if !l.Protocol.TLS() {
			continue
		}
		port := l.Port
		for _, a := range b.net.Addrs() {
			if a.Name == l.Name {
				port = int(a.Addr.Port())
			}
		}
		host := l.Host
		if l.AdvertisedHost != "" {
			host, port = l.AdvertisedHost, l.AdvertisedPort
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "localhost"
		}
		b.log.Info("clients of listener "+l.Name+" need the broker's CA, "+ca+"; the Java ones as client.properties",
			"java", "bootstrap.servers="+net.JoinHostPort(host, strconv.Itoa(port))+" security.protocol="+string(l.Protocol)+" ssl.truststore.type=PEM ssl.truststore.location="+ca,
			"librdkafka", "bootstrap.servers="+net.JoinHostPort(host, strconv.Itoa(port))+" security.protocol="+string(l.Protocol)+" ssl.ca.location="+ca,
			"go", "kgo.DialTLSConfig(&tls.Config{RootCAs: pool}) with pool.AppendCertsFromPEM of the file")
	}
}
