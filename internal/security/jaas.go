package security

import (
	"errors"
	"fmt"
	"strings"
)

// login is one entry of sasl.jaas.config: the class of a login module and its options.
type login struct {
	class   string
	options map[string]string
}

// ParseLogin reads the options of a sasl.jaas.config.
func ParseLogin(text string) (map[string]string, error) {
	l, err := parseLogin(text)
	return l.options, err
}

// parseLogin reads "class flag name=value ... ;" with values in quotes where they are no plain words. Errors hold no
// part of the text, which has passwords in it.
func parseLogin(text string) (login, error) {
	l := login{options: map[string]string{}}
	lex := lexer{rest: text}
	class, _ := lex.next()
	if class == "" || class == ";" || class == "=" {
		return l, errors.New("does not begin with the class of a login module")
	}
	l.class = class
	flag, _ := lex.next()
	switch strings.ToLower(flag) {
	case "required", "requisite", "sufficient", "optional":
	default:
		return l, errors.New("the class must be followed by required, requisite, sufficient or optional")
	}
	for n := 1; ; n++ {
		name, ok := lex.next()
		if !ok || name == "" {
			return l, errors.New("does not end with a semicolon")
		}
		if name == ";" {
			break
		}
		equals, _ := lex.next()
		value, ok := lex.next()
		if equals != "=" || !ok || value == ";" && !lex.quoted {
			return l, fmt.Errorf("option %d is not in the form name=\"value\"", n)
		}
		l.options[name] = value
	}
	if more, _ := lex.next(); more != "" {
		return l, errors.New("has more than one login module")
	}
	return l, nil
}

// lexer cuts words, quoted text, = and ; out of text.
type lexer struct {
	rest   string
	quoted bool // the last token was in quotes
}

// next returns the next token, "" at the end; false: a quote that nobody closes.
func (l *lexer) next() (string, bool) {
	l.rest = strings.TrimLeft(l.rest, " \t\r\n")
	l.quoted = false
	if l.rest == "" {
		return "", true
	}
	switch c := l.rest[0]; c {
	case ';', '=':
		l.rest = l.rest[1:]
		return string(c), true
	case '"', '\'':
		l.quoted = true
		var out strings.Builder
		for i := 1; i < len(l.rest); i++ {
			switch l.rest[i] {
			case c:
				l.rest = l.rest[i+1:]
				return out.String(), true
			case '\\':
				if i++; i < len(l.rest) {
					out.WriteByte(escaped(l.rest[i]))
				}
			default:
				out.WriteByte(l.rest[i])
			}
		}
		return "", false
	}
	end := strings.IndexAny(l.rest, " \t\r\n;=")
	if end < 0 {
		end = len(l.rest)
	}
	word := l.rest[:end]
	l.rest = l.rest[end:]
	return word, true
}

func escaped(c byte) byte {
	switch c {
	case 'n':
		return '\n'
	case 't':
		return '\t'
	case 'r':
		return '\r'
	}
	return c
}
