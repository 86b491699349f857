package security

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"moldau/internal/config"
)

// credentials are what the handshakes of a listener need.
type credentials struct {
	proto config.Protocol
	auto  *Authority // makes the certificate where the listener has none; nil: nobody

	current atomic.Pointer[loaded]
}

// loaded is what was read last, of settings and of the files that they name.
type loaded struct {
	config *tls.Config
	ends   []Expiry          // of certificates, the soonest of each store
	digest [sha256.Size]byte // of settings and files, so that a change is noticed whatever the times of files say
	failed [sha256.Size]byte // of those that could not be used, so that this is told once
	auto   bool              // the authority made the certificate
}

// load reads everything anew that conf, the listener's configuration, says. With an error it returns what tells this failure from another one.
func (c *credentials) load(conf config.ListenerConfig) (*loaded, error) {
	var r reader
	out := &loaded{config: &tls.Config{DynamicRecordSizingDisabled: true}} // a batch of records is no Web page
	err := c.read(conf, &r, out)
	for _, name := range config.ReloadableKeys() {
		r.seen = fmt.Appendf(r.seen, "%s %q\n", name, conf.Raw(name))
	}
	if err != nil {
		r.seen = append(r.seen, err.Error()...)
	}
	out.digest = sha256.Sum256(r.seen)
	return out, err
}

func (c *credentials) read(conf config.ListenerConfig, r *reader, out *loaded) error {
	var cert tls.Certificate
	var err error
	if out.auto = c.auto != nil && !conf.IsSet("ssl.keystore.location") && !conf.IsSet("ssl.keystore.key"); out.auto {
		var ca *x509.Certificate
		if cert, ca, err = c.auto.certificate(); err == nil {
			r.seen = append(r.seen, cert.Certificate[0]...)
			out.ends = append(out.ends, ExpiryOf("", AuthorityStore, []*x509.Certificate{ca}))
		}
	} else {
		cert, err = readKeystore(conf, r)
	}
	if err != nil {
		return err
	}
	out.config.Certificates = []tls.Certificate{cert}
	chain, err := x509.ParseCertificates(bytes.Join(cert.Certificate, nil))
	if err != nil {
		return err
	}
	out.ends = append(out.ends, ExpiryOf("", KeyStore, chain))
	trusted, err := readTruststore(conf, r)
	if err != nil {
		return err
	}
	if trusted != nil {
		out.config.ClientCAs = x509.NewCertPool()
		for _, x := range trusted {
			out.config.ClientCAs.AddCert(x)
		}
	}
	out.config.ClientAuth = c.clientAuth(conf)
	if out.config.ClientAuth != tls.NoClientCert && trusted == nil {
		return conf.Fault("ssl.truststore.location", "ssl.client.auth="+conf.Text("ssl.client.auth")+" needs the CAs of the clients: "+
			"set ssl.truststore.location and ssl.truststore.type (PEM, PKCS12 or JKS), or ssl.truststore.certificates")
	}
	if out.config.ClientAuth != tls.NoClientCert {
		out.ends = append(out.ends, ExpiryOf("", TrustStore, trusted))
	}
	return versions(conf, out.config)
}

// clientAuth is whether clients show certificates. As in Kafka a listener with SASL asks for them only where its own
// setting says so.
func (c *credentials) clientAuth(conf config.ListenerConfig) tls.ClientAuthType {
	const name = "ssl.client.auth"
	if c.proto.SASL() && !conf.Own(name) {
		return tls.NoClientCert
	}
	return map[string]tls.ClientAuthType{"none": tls.NoClientCert, "requested": tls.VerifyClientCertIfGiven, "required": tls.RequireAndVerifyClientCert}[conf.Text(name)]
}

var protocolVersions = map[string]uint16{"TLSv1.2": tls.VersionTLS12, "TLSv1.3": tls.VersionTLS13}

// versions fills in versions and cipher suites.
func versions(c config.ListenerConfig, out *tls.Config) error {
	enabled := c.List("ssl.enabled.protocols")
	for _, p := range enabled {
		v, ok := protocolVersions[p]
		if !ok {
			return c.Fault("ssl.enabled.protocols", p+" is not offered; allowed: TLSv1.2, TLSv1.3")
		}
		if out.MinVersion == 0 || v < out.MinVersion {
			out.MinVersion = v
		}
		out.MaxVersion = max(out.MaxVersion, v)
	}
	if len(enabled) == 0 {
		return c.Fault("ssl.enabled.protocols", "names no version of TLS; allowed: TLSv1.2, TLSv1.3")
	}
	wanted := c.List("ssl.cipher.suites")
	if len(wanted) == 0 {
		return nil
	}
	var allowed []string
	var missing []string
	for _, s := range tls.CipherSuites() {
		allowed = append(allowed, s.Name)
		v13 := slices.Contains(s.SupportedVersions, tls.VersionTLS13)
		switch {
		case slices.Contains(wanted, s.Name) && !v13:
			out.CipherSuites = append(out.CipherSuites, s.ID)
		case !slices.Contains(wanted, s.Name) && v13 && out.MaxVersion == tls.VersionTLS13:
			missing = append(missing, s.Name)
		}
	}
	for _, name := range wanted {
		if !slices.Contains(allowed, name) {
			return c.Fault("ssl.cipher.suites", name+" is not offered; allowed: "+strings.Join(allowed, ", "))
		}
	}
	switch {
	case len(missing) > 0:
		return c.Fault("ssl.cipher.suites", "with TLSv1.3 its suites are always offered, so name them too ("+strings.Join(missing, ", ")+"), or set ssl.enabled.protocols=TLSv1.2")
	case out.CipherSuites == nil && out.MinVersion == tls.VersionTLS12:
		return c.Fault("ssl.cipher.suites", "names no suite of TLSv1.2, which ssl.enabled.protocols has")
	}
	return nil
}

// serve is what the network gets: the configuration in force at each handshake.
func (c *credentials) serve() *tls.Config {
	return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current.Load().config, nil }}
}

// Change says what a look at a listener's settings and files has found.
type Change struct {
	Listener string
	Subject  string    // of the certificate in force
	NotAfter time.Time // and its end
	Err      error     // they cannot be used; what was read before stays in force
}

// reload looks at settings and files, and puts what has changed in force. ok is false if nothing has. Called by one goroutine at a time.
func (c *credentials) reload(conf config.ListenerConfig) (ch Change, ok bool) {
	was := c.current.Load()
	is, err := c.load(conf)
	if err != nil {
		if is.digest == was.failed {
			return ch, false
		}
		again := *was
		again.failed = is.digest
		c.current.Store(&again)
		return Change{Err: err}, true
	}
	if is.digest == was.digest {
		if was.failed != [sha256.Size]byte{} { // the old files are back
			again := *was
			again.failed = [sha256.Size]byte{}
			c.current.Store(&again)
		}
		return ch, false
	}
	c.current.Store(is)
	leaf := is.config.Certificates[0].Leaf
	return Change{Subject: leaf.Subject.String(), NotAfter: leaf.NotAfter}, true
}

// check judges settings that are to come in force. As in Kafka, the certificate may not become that of somebody else, and may not lack a
// name that clients ask for, unless ssl.allow.dn.changes and ssl.allow.san.changes say so.
func (c *credentials) check(conf config.ListenerConfig) error {
	is, err := c.load(conf)
	if err != nil {
		return err
	}
	was := c.current.Load()
	if is.digest == was.digest {
		return nil
	}
	const at = "ssl.keystore.location"
	before, after := was.config.Certificates[0].Leaf, is.config.Certificates[0].Leaf
	if a, b := before.Subject.String(), after.Subject.String(); a != b && !conf.Bool("ssl.allow.dn.changes") {
		return conf.Fault(at, fmt.Sprintf("the certificate is of %q, the one in force of %q; ssl.allow.dn.changes=true in the start configuration allows that", b, a))
	}
	if missing := lost(before, after); missing != nil && !conf.Bool("ssl.allow.san.changes") {
		return conf.Fault(at, fmt.Sprintf("the certificate lacks the names %s of the one in force; ssl.allow.san.changes=true in the start configuration allows that", strings.Join(missing, ", ")))
	}
	return nil
}

// lost are the names of a certificate that another one has not.
func lost(before, after *x509.Certificate) (out []string) {
	has := names(after)
	for _, n := range names(before) {
		if !slices.Contains(has, n) {
			out = append(out, n)
		}
	}
	return out
}

// names are the alternative names of a certificate.
func names(x *x509.Certificate) []string {
	out := slices.Concat(x.DNSNames, x.EmailAddresses)
	for _, ip := range x.IPAddresses {
		out = append(out, ip.String())
	}
	for _, u := range x.URIs {
		out = append(out, u.String())
	}
	return out
}
