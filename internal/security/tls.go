package security

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"moldau/internal/config"
)

// credentials are what the handshakes of a listener need, under one configuration.
type credentials struct {
	conf  config.ListenerConfig
	proto config.Protocol
	auto  *Authority // makes the certificate where the listener has none; nil: nobody

	current atomic.Pointer[loaded]
}

// loaded is what was read last.
type loaded struct {
	config *tls.Config
	ends   []Expiry          // of certificates, the soonest of each store
	digest [sha256.Size]byte // of the files, so that a change is noticed whatever their times say
	failed [sha256.Size]byte // of files that could not be used, so that this is told once
}

// load reads everything anew.
func (c *credentials) load() (*loaded, error) {
	var r reader
	conf := &tls.Config{DynamicRecordSizingDisabled: true} // a batch of records is no Web page
	var ends []Expiry
	var err error
	if c.auto != nil && !c.conf.IsSet("ssl.keystore.location") && !c.conf.IsSet("ssl.keystore.key") {
		cert, ca, err := c.auto.certificate()
		if err != nil {
			return nil, err
		}
		r.seen = append(r.seen, cert.Certificate[0]...)
		conf.Certificates = []tls.Certificate{cert}
		ends = append(ends, ExpiryOf("", AuthorityStore, []*x509.Certificate{ca}))
	} else {
		cert, err := readKeystore(c.conf, &r)
		if err != nil {
			return &loaded{digest: sha256.Sum256(r.seen)}, err
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	chain, err := x509.ParseCertificates(bytes.Join(conf.Certificates[0].Certificate, nil))
	if err != nil {
		return nil, err
	}
	ends = append(ends, ExpiryOf("", KeyStore, chain))
	trusted, err := readTruststore(c.conf, &r)
	if err != nil {
		return &loaded{digest: sha256.Sum256(r.seen)}, err
	}
	if conf.ClientAuth, err = c.clientAuth(); err != nil {
		return nil, err
	}
	if trusted != nil {
		conf.ClientCAs = x509.NewCertPool()
		for _, x := range trusted {
			conf.ClientCAs.AddCert(x)
		}
	}
	if conf.ClientAuth != tls.NoClientCert && conf.ClientCAs == nil {
		return nil, c.conf.Fault("ssl.truststore.location", "ssl.client.auth="+c.conf.Text("ssl.client.auth")+" needs the CAs of the clients: "+
			"set ssl.truststore.location and ssl.truststore.type (PEM, PKCS12 or JKS), or ssl.truststore.certificates")
	}
	if err := versions(c.conf, conf); err != nil {
		return nil, err
	}
	if conf.ClientAuth != tls.NoClientCert {
		ends = append(ends, ExpiryOf("", TrustStore, trusted))
	}
	return &loaded{config: conf, digest: sha256.Sum256(r.seen), ends: ends}, nil
}

// clientAuth is whether clients show certificates. As in Kafka a listener with SASL asks for them only where its own
// setting says so.
func (c *credentials) clientAuth() (tls.ClientAuthType, error) {
	const name = "ssl.client.auth"
	if c.proto.SASL() && !c.conf.Own(name) {
		return tls.NoClientCert, nil
	}
	return map[string]tls.ClientAuthType{"none": tls.NoClientCert, "requested": tls.VerifyClientCertIfGiven, "required": tls.RequireAndVerifyClientCert}[c.conf.Text(name)], nil
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

// Change says what a look at a listener's files has found.
type Change struct {
	Listener string
	Subject  string    // of the new certificate
	NotAfter time.Time // and its end
	Err      error     // the files cannot be used; what was read before stays in force
}

// reload looks at the files, and puts what has changed in force. ok is false if nothing has.
func (c *credentials) reload() (ch Change, ok bool) {
	was := c.current.Load()
	is, err := c.load()
	if err != nil {
		digest := sha256.Sum256([]byte(err.Error()))
		if is != nil {
			digest = sha256.Sum256(append(is.digest[:], digest[:]...))
		}
		if digest == was.failed {
			return ch, false
		}
		again := *was
		again.failed = digest
		c.current.Store(&again)
		return Change{Err: err}, true
	}
	if is.digest == was.digest {
		if was.failed != [sha256.Size]byte{} { // the old files are back
			is.config, is.ends = was.config, was.ends
			c.current.Store(is)
		}
		return ch, false
	}
	c.current.Store(is)
	leaf := is.config.Certificates[0].Leaf
	return Change{Subject: leaf.Subject.String(), NotAfter: leaf.NotAfter}, true
}
