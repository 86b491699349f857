package security

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Anonymous is the principal of a client that has proved nothing.
const Anonymous = "User:ANONYMOUS"

// userPrefix is the type of all principals.
const userPrefix = "User:"

// UserOf is the name of the user in a principal, as quotas have it.
func UserOf(principal string) string { return strings.TrimPrefix(principal, userPrefix) }

// rules turn distinguished names into names (ssl.principal.mapping.rules, KIP-371). The name that they are applied to is made here
// of the parsed certificate, and what could be taken for a separator is escaped in it: no certificate can forge a part.
type rules []rule

type rule struct {
	pattern      *regexp.Regexp // nil: DEFAULT
	replacement  string         // in regexp's form
	lower, upper bool
}

// parseRules reads "RULE:pattern/replacement/[LU], ..., DEFAULT".
func parseRules(text string) (rules, error) {
	var out rules
	rest := strings.TrimSpace(text)
	for rest != "" {
		var r rule
		var err error
		if after, ok := strings.CutPrefix(rest, "DEFAULT"); ok {
			rest = after
		} else if after, ok := strings.CutPrefix(rest, "RULE:"); ok {
			if r, rest, err = parseRule(after); err != nil {
				return nil, err
			}
		} else {
			return nil, fmt.Errorf("%q begins neither with RULE: nor with DEFAULT", rest)
		}
		out = append(out, r)
		rest = strings.TrimSpace(rest)
		if rest == "" {
			break
		}
		after, ok := strings.CutPrefix(rest, ",")
		if !ok {
			return nil, fmt.Errorf("%q is not expected behind a rule; separate rules by commas", rest)
		}
		rest = strings.TrimSpace(after)
	}
	if len(out) == 0 {
		out = rules{{}}
	}
	return out, nil
}

// parseRule reads "pattern/replacement/[LU]", in which a backslash goes before a slash that is meant.
func parseRule(text string) (r rule, rest string, err error) {
	pattern, rest, ok := untilSlash(text)
	if !ok {
		return r, "", fmt.Errorf("RULE:%s: expected RULE:pattern/replacement/ with L or U behind it for lower or upper case", text)
	}
	replacement, rest, ok := untilSlash(rest)
	if !ok {
		return r, "", fmt.Errorf("RULE:%s: expected RULE:pattern/replacement/ with L or U behind it for lower or upper case", text)
	}
	if after, ok := strings.CutPrefix(rest, "L"); ok {
		r.lower, rest = true, after
	} else if after, ok := strings.CutPrefix(rest, "U"); ok {
		r.upper, rest = true, after
	}
	if r.pattern, err = regexp.Compile(`^(?:` + pattern + `)$`); err != nil {
		return r, "", fmt.Errorf("RULE:%s: %w (expressions that only Java knows, such as (?=...), are not supported)", pattern, err)
	}
	r.replacement = template(replacement, r.pattern.NumSubexp())
	return r, rest, nil
}

func untilSlash(s string) (part, rest string, ok bool) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case '/':
			return s[:i], s[i+1:], true
		}
	}
	return "", "", false
}

// template turns Java's replacement into regexp's: $12 is group 12, or group 1 and a 2 where there is no group 12; a reference to a group that
// there is not stands for itself, and a backslash takes the meaning of what is behind it.
func template(java string, groups int) string {
	var out strings.Builder
	literal := func(s string) { out.WriteString(strings.ReplaceAll(s, "$", "$$")) }
	for i := 0; i < len(java); i++ {
		switch c := java[i]; {
		case c == '\\' && i+1 < len(java):
			i++
			literal(java[i : i+1])
		case c == '$':
			end := i + 1
			for end < len(java) && java[end] >= '0' && java[end] <= '9' {
				end++
			}
			n, used := -1, end
			for ; used > i+1; used-- {
				if v, err := strconv.Atoi(java[i+1 : used]); err == nil && v <= groups {
					n = v
					break
				}
			}
			if n < 0 {
				literal(java[i:end])
				i = end - 1
				continue
			}
			fmt.Fprintf(&out, "${%d}", n)
			i = used - 1
		default:
			literal(java[i : i+1])
		}
	}
	return out.String()
}

// name applies the first rule that fits; false: none does.
func (rs rules) name(dn string) (string, bool) {
	for _, r := range rs {
		if r.pattern == nil {
			return dn, true
		}
		at := r.pattern.FindStringSubmatchIndex(dn)
		if at == nil {
			continue
		}
		name := string(r.pattern.ExpandString(nil, r.replacement, dn, at))
		switch {
		case r.lower:
			name = strings.ToLower(name)
		case r.upper:
			name = strings.ToUpper(name)
		}
		return name, true
	}
	return "", false
}

// attributeNames are the types that RFC 2253 and Java know by a name.
var attributeNames = map[string]string{
	"2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.9": "STREET", "2.5.4.10": "O", "2.5.4.11": "OU",
	"0.9.2342.19200300.100.1.25": "DC", "0.9.2342.19200300.100.1.1": "UID",
}

// distinguishedName is the subject in the form of RFC 2253, as Java's X500Principal gives it: the most specific part first.
func distinguishedName(x *x509.Certificate) (string, error) {
	var seq pkix.RDNSequence
	if rest, err := asn1.Unmarshal(x.RawSubject, &seq); err != nil || len(rest) > 0 {
		return "", fmt.Errorf("the subject cannot be read: %v", err)
	}
	var out strings.Builder
	for i := len(seq) - 1; i >= 0; i-- {
		if i < len(seq)-1 {
			out.WriteByte(',')
		}
		for j, a := range seq[i] {
			if j > 0 {
				out.WriteByte('+')
			}
			writeAttribute(&out, a)
		}
	}
	return out.String(), nil
}

func writeAttribute(out *strings.Builder, a pkix.AttributeTypeAndValue) {
	kind := a.Type.String()
	name, known := attributeNames[kind]
	text, isText := a.Value.(string)
	if !known || !isText {
		if !known {
			name = kind
		}
		der, err := asn1.Marshal(a.Value)
		if isText && err == nil && asn1Kind(kind) {
			der, err = asn1.MarshalWithParams(text, "ia5")
		}
		if err != nil {
			der = nil
		}
		out.WriteString(name + "=#" + hex.EncodeToString(der))
		return
	}
	out.WriteString(name)
	out.WriteByte('=')
	for i, c := range text {
		switch {
		case strings.ContainsRune(`,=+<>#;"\`, c), i == 0 && c == ' ', i == len(text)-1 && c == ' ':
			out.WriteByte('\\')
			out.WriteRune(c)
		case c < ' ' || c == 0x7f:
			fmt.Fprintf(out, `\%02X`, c)
		default:
			out.WriteRune(c)
		}
	}
}

// asn1Kind tells whether Java has the type as an IA5String: the e-mail address.
func asn1Kind(oid string) bool { return oid == "1.2.840.113549.1.9.1" }

// principal is that of a certificate.
func (rs rules) principal(x *x509.Certificate) (string, error) {
	dn, err := distinguishedName(x)
	if err != nil {
		return "", err
	}
	name, ok := rs.name(dn)
	if !ok {
		return "", fmt.Errorf("no rule of ssl.principal.mapping.rules fits %q", dn)
	}
	return userPrefix + name, nil
}
