package config

import (
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Valid is the rule for a key's values; the zero Valid allows everything of the type.
type Valid struct {
	text     string
	distinct bool // a list drops repeated elements before it is checked (KIP-1161)
	check    func(name string, v value) error
}

// String describes the allowed values as Kafka's documentation does; empty if all are allowed.
func (v Valid) String() string { return v.text }

func number(v value) float64 {
	if n, ok := v.(int64); ok {
		return float64(n)
	}
	return v.(float64)
}

func plainFloat(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

func atLeast(low float64) Valid {
	return Valid{text: "[" + plainFloat(low) + ",...]", check: func(name string, v value) error {
		if number(v) < low {
			return &ValueError{Key: name, Value: text(v), Problem: "Value must be at least " + plainFloat(low)}
		}
		return nil
	}}
}

func between(low, high float64) Valid {
	lower := atLeast(low)
	return Valid{text: "[" + plainFloat(low) + ",...," + plainFloat(high) + "]", check: func(name string, v value) error {
		if err := lower.check(name, v); err != nil {
			return err
		}
		if number(v) > high {
			return &ValueError{Key: name, Value: text(v), Problem: "Value must be no more than " + plainFloat(high)}
		}
		return nil
	}}
}

func oneOf(allowed ...string) Valid {
	list := strings.Join(allowed, ", ")
	return Valid{text: "[" + list + "]", check: func(name string, v value) error {
		if !slices.Contains(allowed, v.(string)) {
			return &ValueError{Key: name, Value: text(v), Problem: "String must be one of: " + list}
		}
		return nil
	}}
}

func authorizers() Valid {
	return Valid{text: StandardAuthorizer + ", or empty", check: func(name string, v value) error {
		if s := v.(string); s != "" && s != StandardAuthorizer {
			return &ValueError{Key: name, Value: s, Problem: "Java authorizers cannot be loaded"}
		}
		return nil
	}}
}

// principals allows a list of them, with ";" between.
func principals() Valid {
	return Valid{text: "type:name;type:name;...", check: func(name string, v value) error {
		for _, p := range strings.Split(v.(string), ";") {
			if p = strings.TrimSpace(p); p != "" && !strings.Contains(p, ":") {
				return &ValueError{Key: name, Value: p, Problem: "expected a string in format principalType:principalName"}
			}
		}
		return nil
	}}
}

func oneOfFold(allowed ...string) Valid {
	list := strings.Join(allowed, ", ")
	return Valid{text: "(case insensitive) [" + list + "]", check: func(name string, v value) error {
		if !slices.ContainsFunc(allowed, func(a string) bool { return strings.EqualFold(a, v.(string)) }) {
			return &ValueError{Key: name, Value: text(v), Problem: "String must be one of (case insensitive): " + list}
		}
		return nil
	}}
}

type emptiness bool

const (
	emptyOK  emptiness = true
	notEmpty emptiness = false
)

// listOf allows lists of the given elements, or of any if none are given.
func listOf(e emptiness, allowed ...string) Valid {
	rule := Valid{distinct: true}
	each, what := oneOf(allowed...), "any non-empty value"
	if len(allowed) > 0 {
		rule.text, what = each.text, each.text
	}
	rule.check = func(name string, v value) error {
		l := v.([]string)
		if len(l) == 0 && e == notEmpty {
			return &ValueError{Key: name, list: true, Problem: "must not be empty. Valid values include: " + what}
		}
		for _, s := range l {
			if s == "" {
				return &ValueError{Key: name, Value: text(v), list: true, Problem: "values must not be empty"}
			}
			if len(allowed) > 0 {
				if err := each.check(name, s); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return rule
}

func nonEmpty() Valid {
	return Valid{text: "non-empty string", check: func(name string, v value) error {
		if v.(string) == "" {
			return &ValueError{Key: name, Problem: "String must be non-empty"}
		}
		return nil
	}}
}

func gzipLevel() Valid {
	return Valid{text: "[1,...,9] or -1", check: func(name string, v value) error {
		if n := v.(int64); n != -1 && (n < 1 || n > 9) {
			return &ValueError{Key: name, Value: text(v), Problem: "Value must be between 1 and 9 or equal to -1"}
		}
		return nil
	}}
}

const throttledForm = "[partitionId]:[brokerId],[partitionId]:[brokerId],..."

func throttledReplicas() Valid {
	one := regexp.MustCompile(`^([0-9]+:[0-9]+)?$`)
	return Valid{text: throttledForm, check: func(name string, v value) error {
		l := v.([]string)
		if strings.Join(l, "") == "*" {
			return nil
		}
		for _, s := range l {
			if !one.MatchString(strings.TrimSpace(s)) {
				return &ValueError{Key: name, Value: "[" + strings.Join(l, ", ") + "]",
					Problem: name + " must be the literal '*' or a list of replicas in the following format: " + throttledForm}
			}
		}
		return nil
	}}
}

// voter is one entry of controller.quorum.voters.
type voter struct {
	id   int64
	host string
	port int
}

func parseVoter(s string) (voter, error) {
	id, address, ok := strings.Cut(s, "@")
	if !ok || strings.Contains(address, "@") {
		return voter{}, fmt.Errorf("%q should be in the form `{id}@{host}:{port}`", s)
	}
	n, err := strconv.ParseInt(id, 10, 32)
	if err != nil {
		return voter{}, fmt.Errorf("%q does not start with the id of a voter, an integer", s)
	}
	host, port, err := splitHostPort(address)
	if err != nil {
		return voter{}, fmt.Errorf("%q should be in the form `{id}@{host}:{port}`: %w", s, err)
	}
	return voter{n, host, port}, nil
}

func quorumVoters() Valid {
	return Valid{text: "{id}@{host}:{port},...", check: func(name string, v value) error {
		for _, s := range v.([]string) {
			if _, err := parseVoter(s); err != nil {
				return &ValueError{Key: name, Value: text(v), Problem: err.Error()}
			}
		}
		return nil
	}}
}

func quorumServers() Valid {
	return Valid{text: "{host}:{port},...", check: func(name string, v value) error {
		for _, s := range v.([]string) {
			if _, _, err := splitHostPort(s); err != nil {
				return &ValueError{Key: name, Value: text(v), Problem: fmt.Sprintf("%q should be in the form \"{host}:{port}\": %v", s, err)}
			}
		}
		return nil
	}}
}

func hostPortOrOff() Valid {
	return Valid{text: "host:port or off", check: func(name string, v value) error {
		s := v.(string)
		if s == "off" {
			return nil
		}
		host, port, err := net.SplitHostPort(s)
		if err == nil {
			_, err = parsePort(port, 0)
		}
		if err == nil && !validHost(host) {
			err = fmt.Errorf("%q is not a host name", host)
		}
		if err != nil {
			return &ValueError{Key: name, Value: s, Problem: "expected host:port or off: " + err.Error()}
		}
		return nil
	}}
}

// splitHostPort needs both a host and a port above 0.
func splitHostPort(s string) (string, int, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, err
	}
	if host == "" || !validHost(host) {
		return "", 0, fmt.Errorf("%q is not a host name", host)
	}
	n, err := parsePort(port, 1)
	return host, n, err
}

func parsePort(s string, least int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > 65535 {
		return 0, fmt.Errorf("%q is not a port from %d to 65535", s, least)
	}
	return n, nil
}

// validHost allows the characters Kafka allows in a host: names, IPv4 and IPv6 with a zone.
func validHost(s string) bool {
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-%._:", c) >= 0) {
			return false
		}
	}
	return true
}
