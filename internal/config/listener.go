package config

import (
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Protocol is a security protocol of Kafka.
type Protocol string

// The four that there are.
const (
	Plaintext     Protocol = "PLAINTEXT"
	SSL           Protocol = "SSL"
	SASLPlaintext Protocol = "SASL_PLAINTEXT"
	SASLSSL       Protocol = "SASL_SSL"
)

// TLS reports whether connections are encrypted.
func (p Protocol) TLS() bool { return p == SSL || p == SASLSSL }

// SASL reports whether clients authenticate by SASL.
func (p Protocol) SASL() bool { return p == SASLPlaintext || p == SASLSSL }

var protocols = []Protocol{Plaintext, SSL, SASLPlaintext, SASLSSL}

// Listener is one address that is served to clients.
type Listener struct {
	Name     string // upper case, as Kafka normalises it
	Host     string // "" is every interface
	Port     int    // 0 picks a free one
	Protocol Protocol
	// What clients are told (advertised.listeners). An empty host stands for the address on which the client reached the
	// broker, port 0 for the port really bound.
	AdvertisedHost string
	AdvertisedPort int
}

// Exposed reports whether others than this machine may reach the listener.
func (l Listener) Exposed() bool {
	if strings.EqualFold(l.Host, "localhost") {
		return false
	}
	ip, err := netip.ParseAddr(l.Host)
	return err != nil || !ip.IsLoopback()
}

// BindAddrs are the addresses to listen on, as host:port: two for localhost, else one.
func (l Listener) BindAddrs() []string { return bindAddrs(l.Host, l.Port) }

func bindAddrs(host string, port int) []string {
	p := strconv.Itoa(port)
	if strings.EqualFold(host, "localhost") {
		return []string{net.JoinHostPort("127.0.0.1", p), net.JoinHostPort("::1", p)}
	}
	return []string{net.JoinHostPort(host, p)}
}

type endpoint struct {
	name, host string
	port       int
}

var endpointForm = regexp.MustCompile(`^(.*)://\[?([0-9a-zA-Z\-%._:]*)\]?:([0-9]+)$`)

func parseEndpoint(s string, leastPort int) (endpoint, error) {
	m := endpointForm.FindStringSubmatch(s)
	if m == nil || m[1] == "" {
		return endpoint{}, fmt.Errorf("%q should be in the form NAME://host:port", s)
	}
	port, err := parsePort(m[3], leastPort)
	if err != nil {
		return endpoint{}, fmt.Errorf("%q: %w", s, err)
	}
	return endpoint{strings.ToUpper(m[1]), m[2], port}, nil
}

func parseEndpoints(list []string, leastPort int) ([]endpoint, error) {
	out := make([]endpoint, 0, len(list))
	for _, s := range list {
		e, err := parseEndpoint(s, leastPort)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(out, func(o endpoint) bool { return o.name == e.name }) {
			return nil, fmt.Errorf("each listener must have a different name, but %s is there twice", e.name)
		}
		out = append(out, e)
	}
	return out, nil
}

// checkPorts finds two endpoints on one port. As in Kafka that is allowed for exactly one IPv4 and one IPv6 address.
func checkPorts(list []endpoint) error {
	for i, a := range list {
		for _, b := range list[i+1:] {
			if a.port == 0 || a.port != b.port {
				continue
			}
			ipA, errA := netip.ParseAddr(a.host)
			ipB, errB := netip.ParseAddr(b.host)
			if errA != nil || errB != nil || ipA.Is4() == ipB.Is4() {
				return fmt.Errorf("each listener must have a different port unless one has an IPv4 address and the other an IPv6 address, but %s and %s share port %d",
					a.name, b.name, a.port)
			}
		}
	}
	return nil
}

// protocolMap reads listener.security.protocol.map.
func protocolMap(s string) (map[string]Protocol, error) {
	out := map[string]Protocol{}
	for _, pair := range splitList(javaTrim(s)) {
		if pair == "" {
			continue
		}
		i := strings.LastIndexByte(pair, ':')
		if i < 0 {
			return nil, fmt.Errorf("%q should be in the form NAME:PROTOCOL", pair)
		}
		p := Protocol(strings.ToUpper(strings.TrimSpace(pair[i+1:])))
		if !slices.Contains(protocols, p) {
			return nil, fmt.Errorf("%q names the unknown security protocol %q; there are PLAINTEXT, SSL, SASL_PLAINTEXT and SASL_SSL", pair, p)
		}
		out[strings.ToUpper(strings.TrimSpace(pair[:i]))] = p
	}
	return out, nil
}

// connectionOverrides reads max.connections.per.ip.overrides: host:count,...
func connectionOverrides(s string) (map[string]int, error) {
	out := map[string]int{}
	for _, pair := range splitList(javaTrim(s)) {
		i := strings.LastIndexByte(pair, ':')
		if i <= 0 {
			return nil, fmt.Errorf("%q should be in the form host:count", pair)
		}
		host, count := strings.TrimSpace(pair[:i]), strings.TrimSpace(pair[i+1:])
		n, err := strconv.ParseInt(count, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q should be in the form host:count, and %q is no count", pair, count)
		}
		if host == "" || !validHost(host) {
			return nil, fmt.Errorf("%q is not a host", host)
		}
		out[host] = int(n)
	}
	return out, nil
}
