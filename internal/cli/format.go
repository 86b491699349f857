package cli

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kgo"
)

// formatHelp is the language of --format; its letters are kcat's, and %v.
const formatHelp = `  %t topic       %p partition   %o offset   %T timestamp in milliseconds
  %k key         %K its length in bytes, -1 when there is none
  %v or %s value %S its length in bytes, -1 when there is none
  %R length of the value as 4 bytes, big-endian
  %h headers as key=value,key=value         %% a percent sign
  \n \r \t \0 \\ \xHH bytes; values are printed as they are`

// recordFormat is a parsed --format: it appends one record to dst.
type recordFormat []func(dst []byte, r *kgo.Record) []byte

func (f recordFormat) appendTo(dst []byte, r *kgo.Record) []byte {
	for _, part := range f {
		dst = part(dst, r)
	}
	return dst
}

func parseFormat(s string) (recordFormat, error) {
	var f recordFormat
	var literal []byte
	flush := func() {
		if len(literal) > 0 {
			text := literal
			f = append(f, func(dst []byte, _ *kgo.Record) []byte { return append(dst, text...) })
			literal = nil
		}
	}
	for i := 0; i < len(s); {
		switch s[i] {
		case '%':
			if i+1 == len(s) {
				return nil, fmt.Errorf("%q ends with %%: write %%%% for a percent sign", s)
			}
			if s[i+1] == '%' {
				literal = append(literal, '%')
			} else {
				part := formatToken(s[i+1])
				if part == nil {
					bad, _ := utf8.DecodeRuneInString(s[i+1:])
					return nil, fmt.Errorf("%%%c is unknown: %%t %%p %%o %%k %%K %%v %%s %%S %%R %%T %%h or %%%%", bad)
				}
				flush()
				f = append(f, part)
			}
			i += 2
		case '\\':
			b, n, err := unescape(s[i:])
			if err != nil {
				return nil, err
			}
			literal = append(literal, b)
			i += n
		default:
			literal = append(literal, s[i])
			i++
		}
	}
	flush()
	return f, nil
}

// unescape reads the escape at the start of s and returns its byte and length.
func unescape(s string) (b byte, length int, err error) {
	if len(s) < 2 {
		return 0, 0, fmt.Errorf(`%q ends with a backslash: write \\ for one`, s)
	}
	switch s[1] {
	case 'n':
		return '\n', 2, nil
	case 'r':
		return '\r', 2, nil
	case 't':
		return '\t', 2, nil
	case '0':
		return 0, 2, nil
	case '\\':
		return '\\', 2, nil
	case 'x':
		if len(s) >= 4 {
			if n, err := strconv.ParseUint(s[2:4], 16, 8); err == nil {
				return byte(n), 4, nil
			}
		}
		return 0, 0, fmt.Errorf(`\x needs two hexadecimal digits: \x00 to \xff`)
	}
	bad, _ := utf8.DecodeRuneInString(s[1:])
	return 0, 0, fmt.Errorf(`\%c is unknown: \n \r \t \0 \\ or \xHH`, bad)
}

// unescapeAll reads a separator, in which escapes are allowed.
func unescapeAll(s string) ([]byte, error) {
	var out []byte
	for i := 0; i < len(s); {
		if s[i] != '\\' {
			out = append(out, s[i])
			i++
			continue
		}
		b, n, err := unescape(s[i:])
		if err != nil {
			return nil, err
		}
		out = append(out, b)
		i += n
	}
	return out, nil
}

func formatToken(c byte) func(dst []byte, r *kgo.Record) []byte {
	switch c {
	case 't':
		return func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Topic...) }
	case 'p':
		return func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, int64(r.Partition), 10) }
	case 'o':
		return func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, r.Offset, 10) }
	case 'k':
		return func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Key...) }
	case 'K':
		return func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, lengthOf(r.Key), 10) }
	case 'v', 's':
		return func(dst []byte, r *kgo.Record) []byte { return append(dst, r.Value...) }
	case 'S':
		return func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, lengthOf(r.Value), 10) }
	case 'R':
		return func(dst []byte, r *kgo.Record) []byte {
			return binary.BigEndian.AppendUint32(dst, uint32(int32(lengthOf(r.Value))))
		}
	case 'T':
		return func(dst []byte, r *kgo.Record) []byte { return strconv.AppendInt(dst, r.Timestamp.UnixMilli(), 10) }
	case 'h':
		return func(dst []byte, r *kgo.Record) []byte {
			for i, h := range r.Headers {
				if i > 0 {
					dst = append(dst, ',')
				}
				dst = append(append(append(dst, h.Key...), '='), h.Value...)
			}
			return dst
		}
	}
	return nil
}

func lengthOf(b []byte) int64 {
	if b == nil {
		return -1
	}
	return int64(len(b))
}
