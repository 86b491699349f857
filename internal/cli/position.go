package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// positionHelp is the language of --offset.
const positionHelp = `  start                      the first record there is
  end                        the next record to come
  12345                      offset 12345
  -10                        the last 10 offsets of each partition
  +10                        10 offsets after the first
  @2026-01-31                from that time on, in UTC unless it names a zone;
  @2026-01-31T12:00:00Z        also as Unix time in milliseconds (13 digits) or seconds
  @-1h                       from an hour ago on; units ms, s, m, h, d
  FROM:TO                    from FROM until before TO, then exit; each as above, both may be
                             left out; a TO of +10 is 10 offsets after FROM
                             (10:20, -5:, :end, @-2h:@-1h, start:+100)`

type positionKind int8

const (
	atStart positionKind = iota
	atEnd
	atOffset  // n
	fromStart // n offsets after the log start offset
	fromEnd   // n offsets before the log end offset
	atTime    // n is in milliseconds since 1970
)

// position is a place in a partition that is an offset only once the partition is known.
type position struct {
	kind positionKind
	n    int64
}

// span is what --offset says: from on, and when bounded until before to.
type span struct {
	from, to position
	bounded  bool
}

// parseSpan reads --offset. A time holds colons itself, so the whole is tried as one position first.
func parseSpan(s string, now time.Time) (span, error) {
	from, firstErr := parsePosition(s, now)
	if firstErr == nil {
		return span{from: from}, nil
	}
	for i := range len(s) {
		if s[i] != ':' || len(s) == 1 {
			continue
		}
		var from, to position
		var fromErr, toErr error
		if i > 0 {
			from, fromErr = parsePosition(s[:i], now)
		}
		if i < len(s)-1 {
			to, toErr = parsePosition(s[i+1:], now)
		}
		if fromErr == nil && toErr == nil {
			return span{from, to, i < len(s)-1}, nil
		}
	}
	return span{}, firstErr
}

func parsePosition(s string, now time.Time) (position, error) {
	bad := fmt.Errorf("%q is no position: start, end, 12345, -10, +10, @2026-01-31, @-1h or FROM:TO", s)
	switch {
	case s == "start" || s == "beginning":
		return position{kind: atStart}, nil
	case s == "end":
		return position{kind: atEnd}, nil
	case s == "":
		return position{}, bad
	case s[0] == '@':
		t, err := parseTime(s[1:], now)
		return position{atTime, t.UnixMilli()}, err
	}
	kind, digits := atOffset, s
	switch s[0] {
	case '-':
		kind, digits = fromEnd, s[1:]
	case '+':
		kind, digits = fromStart, s[1:]
	}
	n, ok := parseDigits(digits)
	if !ok {
		return position{}, bad
	}
	return position{kind, n}, nil
}

// parseDigits reads a number of nothing but digits.
func parseDigits(s string) (int64, bool) {
	if strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

var timeLayouts = []string{
	time.RFC3339Nano, "2006-01-02T15:04Z07:00",
	"2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02",
	"2006-01-02 15:04:05.999999999", "2006-01-02 15:04",
}

// parseTime reads what follows the @ of a position. A time without a zone is in UTC, so that a
// command means the same on every machine.
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "now" {
		return now, nil
	}
	if n, ok := parseDigits(s); ok {
		switch {
		case len(s) == 13:
			return time.UnixMilli(n), nil
		case len(s) <= 10:
			return time.Unix(n, 0), nil
		}
		return time.Time{}, fmt.Errorf("@%s is no Unix time: 10 digits are seconds, 13 are milliseconds", s)
	}
	if ago, ok := strings.CutPrefix(s, "-"); ok {
		d, err := parseAge(ago)
		if err != nil {
			return time.Time{}, err
		}
		return now.Add(-d), nil
	}
	for _, layout := range timeLayouts {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("@%s is no time: write it like @2026-01-31, @2026-01-31T12:00:00Z or @-1h", s)
}

// parseAge is time.ParseDuration with days before the rest: 7d, 1d12h.
func parseAge(s string) (time.Duration, error) {
	var total time.Duration
	rest := s
	if days, after, ok := strings.Cut(s, "d"); ok {
		n, valid := parseDigits(days)
		if !valid || n > math.MaxInt64/int64(24*time.Hour)-1 {
			return 0, fmt.Errorf("%q is no time span: write it like 90s, 1h30m or 7d", s)
		}
		total, rest = time.Duration(n)*24*time.Hour, after
		if rest == "" {
			return total, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || d > math.MaxInt64-total || strings.HasPrefix(rest, "+") {
		return 0, fmt.Errorf("%q is no time span: write it like 90s, 1h30m or 7d", s)
	}
	return total + d, nil
}

// bounds is what is known of one partition when positions become offsets.
type bounds struct {
	start, end      int64 // log start offset, and the end that the isolation level sees
	fromMs, untilMs int64 // offsets of span.from and span.to where those are times
}

// resolve turns s into offsets of one partition: from, and the offset to stop
// before, or -1. An offset before the log start moves up to it; one after the
// end is an error unless the span is bounded, for then there is nothing to read.
func (s span) resolve(b bounds) (from, stop int64, err error) {
	from = s.from.offset(b, b.fromMs)
	if from > b.end && !s.bounded {
		return 0, 0, fmt.Errorf("offset %d is beyond the end: there are offsets %d to %d", from, b.start, b.end-1)
	}
	from = max(from, b.start)
	if !s.bounded {
		return from, -1, nil
	}
	if s.to.kind == fromStart {
		return from, saturatingAdd(from, s.to.n), nil
	}
	return from, max(from, s.to.offset(b, b.untilMs)), nil
}

func (p position) offset(b bounds, byTime int64) int64 {
	switch p.kind {
	case atStart:
		return b.start
	case atEnd:
		return b.end
	case fromStart:
		return min(saturatingAdd(b.start, p.n), b.end)
	case fromEnd:
		return max(b.end-p.n, b.start)
	case atTime:
		return min(byTime, b.end)
	}
	return p.n
}

func saturatingAdd(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
