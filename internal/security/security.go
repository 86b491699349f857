package security

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"sync"
	"time"

	"moldau/internal/config"
)

// Security is how the listeners of a broker know their clients. Safe for concurrent use.
type Security struct {
	auto      *Authority
	listeners map[string]*listener
	order     []string // their names

	reloading sync.Mutex    // one Reload at a time, over I/O
	woken     chan struct{} // cap 1
}

// listener is one listener's part.
type listener struct {
	protocol config.Protocol
	tls      *credentials // nil: without TLS
	rules    rules        // of certificates' names
	sasl     *sasl        // nil: without SASL
}

// New reads what the listeners of c need. auto makes the certificate of listeners that have none of their own; nil: nobody does.
// The error lists every problem.
func New(c *config.Broker, auto *Authority) (*Security, error) {
	s := &Security{auto: auto, listeners: map[string]*listener{}, woken: make(chan struct{}, 1)}
	var errs []error
	for _, x := range c.Listeners() {
		l, err := newListener(c.OfListener(x.Name), x.Protocol, auto)
		errs = append(errs, err)
		s.listeners[x.Name] = l
		s.order = append(s.order, x.Name)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

func newListener(c config.ListenerConfig, p config.Protocol, auto *Authority) (*listener, error) {
	l := &listener{protocol: p}
	var errs []error
	var err error
	if p.SASL() {
		l.sasl, err = newSASL(c)
		errs = append(errs, err)
	}
	if !p.TLS() {
		return l, errors.Join(errs...)
	}
	if l.rules, err = parseRules(c.Text("ssl.principal.mapping.rules")); err != nil {
		errs = append(errs, c.Fault("ssl.principal.mapping.rules", err.Error()))
	}
	l.tls = &credentials{proto: p, auto: auto}
	now, err := l.tls.load(c)
	if err == nil {
		l.tls.current.Store(now)
	}
	return l, errors.Join(append(errs, err)...)
}

// TLS is what the handshakes of a listener need, nil for one without. New certificates come into force in it by Reload.
func (s *Security) TLS(name string) *tls.Config {
	if l := s.listeners[name]; l != nil && l.tls != nil {
		return l.tls.serve()
	}
	return nil
}

// Principal is that of a client of a listener without SASL: the one that its certificate stands for, if it has shown
// any, else Anonymous. An error means that the client may not come in.
func (s *Security) Principal(name string, cert *x509.Certificate) (string, error) {
	l := s.listeners[name]
	if l == nil || cert == nil {
		return Anonymous, nil
	}
	return l.rules.principal(cert)
}

// Reload looks whether the settings of keys and certificates in c, or their files, have changed, and puts what has in force: handshakes to
// come use it, connections that are open go on. It returns what it found. It waits for the disk.
func (s *Security) Reload(c *config.Broker) []Change {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	var out []Change
	for _, name := range s.order {
		l := s.listeners[name]
		if l.tls == nil {
			continue
		}
		if ch, ok := l.tls.reload(c.OfListener(name)); ok {
			ch.Listener = name
			out = append(out, ch)
		}
	}
	return out
}

// Check judges a configuration that Reload would put in force. The error names the listener's key, and the file.
func (s *Security) Check(c *config.Broker) error {
	for _, name := range s.order {
		if l := s.listeners[name]; l.tls != nil {
			if err := l.tls.check(c.OfListener(name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// Wake asks whoever waits for Woken to Reload.
func (s *Security) Wake() {
	select {
	case s.woken <- struct{}{}:
	default:
	}
}

// Woken is for the one who calls Reload.
func (s *Security) Woken() <-chan struct{} { return s.woken }

// Fetch gets a document from a URL with the scheme http or https. It is bounded in time and bytes, and follows no redirect.
type Fetch func(u *url.URL) ([]byte, error)

// ReloadKeys looks for new keys of tokens, in files and, where it is time, by fetch. It returns what it found, errors once.
func (s *Security) ReloadKeys(now time.Time, fetch Fetch) []Change {
	var out []Change
	for _, name := range s.order {
		l := s.listeners[name]
		if l.sasl == nil || l.sasl.tokens == nil || !l.sasl.tokens.due(now) {
			continue
		}
		t := l.sasl.tokens
		var data []byte
		var err error
		if t.source.Scheme == "file" {
			data, err = new(reader).file(t.source.Path)
		} else {
			data, err = fetch(t.source)
		}
		changed := false
		if err == nil {
			changed, err = t.load(data, now)
		}
		text := ""
		if err != nil {
			t.failed, text = now, err.Error()
		}
		if changed || text != "" && text != t.told {
			out = append(out, Change{Listener: name, Subject: t.source.Redacted(), Err: err})
		}
		t.told = text
	}
	return out
}

// CAFile is the file that clients need to trust certificates made by the broker itself, "" where it makes none.
func (s *Security) CAFile() string {
	for _, l := range s.listeners {
		if l.tls != nil && l.tls.current.Load().auto {
			return s.auto.CAFile()
		}
	}
	return ""
}
