package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// ValueError says that a value does not fit its key, in Kafka's words. A client gets INVALID_CONFIG for a topic and
// INVALID_REQUEST for a broker, as from Kafka.
type ValueError struct {
	Key, Value, Problem string
	list                bool // Kafka words errors about whole lists differently
}

func (e *ValueError) Error() string {
	if e.list {
		return fmt.Sprintf("Configuration '%s' %s.", e.Key, e.Problem)
	}
	return fmt.Sprintf("Invalid value %s for configuration %s: %s", e.Value, e.Key, e.Problem)
}

// kafkaError is an error in Kafka's exact words, which start with capitals and end with dots as they like.
type kafkaError string

func (e kafkaError) Error() string { return string(e) }

func kafkaErrorf(format string, args ...any) error { return kafkaError(fmt.Sprintf(format, args...)) }

// value is a parsed value: bool, int64 (Int, Short, Long), float64, []string or string.
type value any

// parse turns raw text into a checked value. The error is always a *ValueError.
func (k Key) parse(raw string) (value, error) {
	v, err := parseType(k.Name, raw, k.Type)
	if err != nil {
		return nil, err
	}
	if l, ok := v.([]string); ok && k.Valid.distinct {
		v = distinct(l)
	}
	if k.Valid.check != nil {
		if err := k.Valid.check(k.Name, v); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// Check tells whether raw is a value of the key. The error is a *ValueError.
func (k Key) Check(raw string) error {
	_, err := k.parse(raw)
	return err
}

// canonical is the spelling in which Kafka shows a valid value.
func (k Key) canonical(raw string) string {
	v, err := k.parse(raw)
	if err != nil {
		return raw
	}
	return text(v)
}

// parseType reads a value as Kafka's ConfigDef does, which follows Java's number syntax.
func parseType(name, raw string, t Type) (value, error) {
	s := javaTrim(raw)
	bad := func(problem string) (value, error) { return nil, &ValueError{Key: name, Value: raw, Problem: problem} }
	bits := map[Type]int{Int: 32, Short: 16, Long: 64}[t]
	switch t {
	case Boolean:
		switch {
		case strings.EqualFold(s, "true"):
			return true, nil
		case strings.EqualFold(s, "false"):
			return false, nil
		}
		return bad("Expected value to be either true or false")
	case Int, Short, Long:
		n, err := strconv.ParseInt(s, 10, bits)
		if err != nil {
			return bad("Not a number of type " + t.String())
		}
		return n, nil
	case Double:
		f, ok := parseJavaDouble(s)
		if !ok {
			return bad("Not a number of type " + t.String())
		}
		return f, nil
	case List:
		return splitList(s), nil
	}
	return s, nil
}

// javaTrim is String.trim: it removes what is not above a space.
func javaTrim(s string) string { return strings.TrimFunc(s, func(r rune) bool { return r <= ' ' }) }

// splitList splits at commas and the white space around them; empty text is an empty list.
func splitList(s string) []string {
	if s == "" {
		return nil
	}
	parts := strings.Split(s, ",")
	for i, p := range parts {
		if i > 0 {
			p = strings.TrimLeft(p, " \t\n\v\f\r")
		}
		if i < len(parts)-1 {
			p = strings.TrimRight(p, " \t\n\v\f\r")
		}
		parts[i] = p
	}
	return parts
}

func distinct(l []string) []string {
	seen := make(map[string]bool, len(l))
	out := make([]string, 0, len(l))
	for _, s := range l {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

// parseJavaDouble accepts what Double.parseDouble does.
func parseJavaDouble(s string) (float64, bool) {
	sign, digits := 1.0, s
	switch {
	case strings.HasPrefix(s, "-"):
		sign, digits = -1, s[1:]
	case strings.HasPrefix(s, "+"):
		digits = s[1:]
	}
	switch digits {
	case "NaN":
		return math.NaN(), true
	case "Infinity":
		return math.Inf(int(sign)), true
	case "":
		return 0, false
	}
	if first := digits[0]; first != '.' && (first < '0' || first > '9') || strings.Contains(digits, "_") {
		return 0, false // Go would take inf, nan and 1_000
	}
	hex := strings.HasPrefix(digits, "0x") || strings.HasPrefix(digits, "0X")
	if !hex || strings.ContainsAny(digits, "pP") {
		if last := digits[len(digits)-1]; strings.IndexByte("fFdD", last) >= 0 {
			digits = digits[:len(digits)-1]
		}
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil && !math.IsInf(f, 0) { // too large a number is infinite in Java
		return 0, false
	}
	return sign * f, true
}

// text is ConfigDef.convertToString.
func text(v value) string {
	switch v := v.(type) {
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return javaDouble(v)
	case []string:
		return strings.Join(v, ",")
	case string:
		return v
	}
	panic(fmt.Sprintf("BUG: configuration value of type %T", v))
}

// javaDouble is Double.toString.
func javaDouble(f float64) string {
	switch {
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	if a := math.Abs(f); a == 0 || a >= 1e-3 && a < 1e7 {
		s := strconv.FormatFloat(f, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s
	}
	mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(f, 'e', -1, 64), "e")
	if !strings.Contains(mantissa, ".") {
		mantissa += ".0"
	}
	n, _ := strconv.Atoi(exponent) // FormatFloat wrote it
	return mantissa + "E" + strconv.Itoa(n)
}
