package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/magiconair/properties"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"moldau/internal/security"
)

// clientConfig is how the commands show a broker who they are: what they take of a Java client's properties (--command-config).
type clientConfig struct {
	tls  *tls.Config    // nil: none
	sasl sasl.Mechanism // nil: none
}

// configFile is the file of --command-config, "" if there is none.
func (c *command) configFile() string {
	if c.commandConfig != "" {
		return c.commandConfig
	}
	return c.Env("MOLDAU_COMMAND_CONFIG")
}

// clientConfig reads the file of --command-config, if there is one.
func (c *command) clientConfig() (clientConfig, error) {
	if file := c.configFile(); file != "" {
		return readClientConfig(file)
	}
	return clientConfig{}, nil
}

// readClientConfig reads a file of client properties. Keys that have nothing to do with security are not looked at.
func readClientConfig(file string) (clientConfig, error) {
	var out clientConfig
	loader := properties.Loader{Encoding: properties.UTF8, DisableExpansion: true}
	p, err := loader.LoadFile(file)
	if err != nil {
		return out, usagef("--command-config %s: %w", file, err)
	}
	fail := func(key, problem string) error { return usagef("--command-config %s: %s: %s", file, key, problem) }
	protocol := strings.ToUpper(p.GetString("security.protocol", "PLAINTEXT"))
	if !slices.Contains([]string{"PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"}, protocol) {
		return out, fail("security.protocol", protocol+" is unknown: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")
	}
	if strings.HasSuffix(protocol, "SSL") {
		if out.tls, err = clientTLS(p, fail); err != nil {
			return out, err
		}
	}
	if strings.HasPrefix(protocol, "SASL") {
		out.sasl, err = clientSASL(p, fail)
	}
	return out, err
}

func clientTLS(p *properties.Properties, fail func(key, problem string) error) (*tls.Config, error) {
	out := &tls.Config{}
	for _, store := range []string{"ssl.truststore", "ssl.keystore"} {
		if kind := p.GetString(store+".type", "PEM"); kind != "PEM" {
			return nil, fail(store+".type", kind+" is not supported by these commands: PEM")
		}
	}
	text := p.GetString("ssl.truststore.certificates", "")
	if file := p.GetString("ssl.truststore.location", ""); file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fail("ssl.truststore.location", err.Error())
		}
		text = string(data)
	}
	if text != "" {
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM([]byte(text)) {
			return nil, fail("ssl.truststore.location", "there is no certificate in PEM")
		}
	}
	key, chain := p.GetString("ssl.keystore.key", ""), p.GetString("ssl.keystore.certificate.chain", "")
	if file := p.GetString("ssl.keystore.location", ""); file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fail("ssl.keystore.location", err.Error())
		}
		key, chain = string(data), string(data)
	}
	if key != "" {
		pair, err := tls.X509KeyPair([]byte(chain), []byte(key))
		if err != nil {
			return nil, fail("ssl.keystore.location", err.Error())
		}
		out.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

func clientSASL(p *properties.Properties, fail func(key, problem string) error) (sasl.Mechanism, error) {
	mechanism := p.GetString("sasl.mechanism", "GSSAPI")
	options, err := security.ParseLogin(p.GetString("sasl.jaas.config", ""))
	if err != nil {
		return nil, fail("sasl.jaas.config", err.Error())
	}
	user, password, token := options["username"], options["password"], strings.EqualFold(options["tokenauth"], "true")
	switch mechanism {
	case security.Plain:
		return plain.Auth{User: user, Pass: password}.AsMechanism(), nil
	case security.ScramSHA256:
		return scram.Auth{User: user, Pass: password, IsToken: token}.AsSha256Mechanism(), nil
	case security.ScramSHA512:
		return scram.Auth{User: user, Pass: password, IsToken: token}.AsSha512Mechanism(), nil
	case security.OAuthBearer:
		if token := options["token"]; token != "" {
			return tokenMechanism{oauth.Auth{Token: token}.AsMechanism()}, nil
		}
		return nil, fail("sasl.jaas.config", `these commands take a token that is there already: token="…"`)
	}
	return nil, fail("sasl.mechanism", mechanism+" is not supported: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER")
}

// tokenMechanism is OAUTHBEARER that says so when the broker does not take the token: it tells by a challenge, not by an error (RFC 7628).
type tokenMechanism struct{ sasl.Mechanism }

func (m tokenMechanism) Authenticate(ctx context.Context, host string) (sasl.Session, []byte, error) {
	s, first, err := m.Mechanism.Authenticate(ctx, host)
	return tokenSession{s}, first, err
}

type tokenSession struct{ sasl.Session }

func (s tokenSession) Challenge(challenge []byte) (done bool, answer []byte, err error) {
	if len(challenge) > 0 {
		return false, nil, fmt.Errorf("%w: %s", kerr.SaslAuthenticationFailed, challenge)
	}
	return s.Session.Challenge(challenge)
}

// options are what a client needs of it; dial opens its connections.
func (cc clientConfig) options(dial func(ctx context.Context, network, addr string) (net.Conn, error)) []kgo.Opt {
	opts := []kgo.Opt{kgo.Dialer(dial)}
	if cc.tls != nil {
		opts[0] = kgo.Dialer(func(ctx context.Context, network, addr string) (net.Conn, error) {
			return dialTLS(ctx, dial, cc.tls, network, addr)
		})
	}
	if cc.sasl != nil {
		opts = append(opts, kgo.SASL(cc.sasl))
	}
	return opts
}

func dialTLS(ctx context.Context, dial func(ctx context.Context, network, addr string) (net.Conn, error), config *tls.Config, network, addr string) (net.Conn, error) {
	nc, err := dial(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	config = config.Clone()
	config.ServerName = host
	secured := tls.Client(nc, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(&failure{cause: "no TLS with the broker", value: addr, err: err, help: oneLine(err)}, nc.Close())
	}
	return secured, nil
}
