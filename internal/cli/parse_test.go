package cli

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func TestPositionsMeanWhatTheHelpSays(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	ms := func(s string) int64 {
		at, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return at.UnixMilli()
	}
	at := func(kind positionKind, n int64) position { return position{kind, n} }
	for _, tt := range []struct {
		in   string
		want span
	}{
		{"start", span{}},
		{"end", span{from: at(atEnd, 0)}},
		{"12345", span{from: at(atOffset, 12345)}},
		{"-10", span{from: at(fromEnd, 10)}},
		{"+10", span{from: at(fromStart, 10)}},
		{"10:20", span{at(atOffset, 10), at(atOffset, 20), true}},
		{"10:", span{from: at(atOffset, 10)}},
		{":20", span{at(atStart, 0), at(atOffset, 20), true}},
		{":end", span{at(atStart, 0), at(atEnd, 0), true}},
		{"-5:end", span{at(fromEnd, 5), at(atEnd, 0), true}},
		{"start:+7", span{at(atStart, 0), at(fromStart, 7), true}},
		{"@2026-01-31", span{from: at(atTime, ms("2026-01-31T00:00:00Z"))}},
		{"@2026-01-31T12:30", span{from: at(atTime, ms("2026-01-31T12:30:00Z"))}},
		{"@2026-01-31T12:30:10Z", span{from: at(atTime, ms("2026-01-31T12:30:10Z"))}},
		{"@2026-01-31T12:30:10+02:00", span{from: at(atTime, ms("2026-01-31T10:30:10Z"))}},
		{"@2026-01-31T12:30:10Z:@2026-02-01", span{at(atTime, ms("2026-01-31T12:30:10Z")), at(atTime, ms("2026-02-01T00:00:00Z")), true}},
		{"@-1h", span{from: at(atTime, ms("2026-03-01T11:00:00Z"))}},
		{"@-1d12h:@-1h", span{at(atTime, ms("2026-02-28T00:00:00Z")), at(atTime, ms("2026-03-01T11:00:00Z")), true}},
		{"@-7d:", span{from: at(atTime, ms("2026-02-22T12:00:00Z"))}},
		{"@1767225600000", span{from: at(atTime, 1767225600000)}},
		{"@1767225600", span{from: at(atTime, 1767225600000)}},
		{"@now", span{from: at(atTime, now.UnixMilli())}},
	} {
		if got, err := parseSpan(tt.in, now); err != nil || got != tt.want {
			t.Errorf("%q is %+v, %v; want %+v", tt.in, got, err, tt.want)
		}
	}
	for _, bad := range []string{"", ":", "::", "x", "-", "+", "--1", "1.5", "@", "@x", "@12345678901", "@-", "@-5", "@-1h-", "@--1h", "@-+1h",
		"10:x", "x:10", "99999999999999999999", "@2026-13-01", "@-99999999999999d", "1:2:3"} {
		if got, err := parseSpan(bad, now); err == nil {
			t.Errorf("%q is taken as %+v", bad, got)
		}
	}
}

func TestSpansStayInsideThePartition(t *testing.T) {
	now := time.Unix(1767225600, 0)
	b := bounds{start: 100, end: 200, fromMs: 150, untilMs: 160}
	for in, want := range map[string][2]int64{
		"start": {100, -1}, "end": {200, -1}, "-10": {190, -1}, "-1000": {100, -1}, "+10": {110, -1}, "+1000": {200, -1},
		"5": {100, -1}, "200": {200, -1}, "120:130": {120, 130}, "130:120": {130, 130}, "5:50": {100, 100}, "500:600": {500, 600},
		"@-1h": {150, -1}, "@-1h:@-1m": {150, 160}, ":+5": {100, 105}, "-5:+9223372036854775807": {195, 1<<63 - 1},
	} {
		s, err := parseSpan(in, now)
		if err != nil {
			t.Fatal(err)
		}
		if from, stop, err := s.resolve(b); err != nil || from != want[0] || stop != want[1] {
			t.Errorf("%s: %d to %d (%v), want %v", in, from, stop, err, want)
		}
	}
	if _, _, err := (span{from: position{atOffset, 201}}).resolve(b); err == nil {
		t.Error("an offset beyond the end is taken")
	}
}

func TestFormatPrintsEveryPartOfARecord(t *testing.T) {
	r := &kgo.Record{Topic: "t", Partition: 3, Offset: 42, Key: []byte("k"), Value: []byte("\x00v%"), Timestamp: time.UnixMilli(1767225600123),
		Headers: []kgo.RecordHeader{{Key: "a", Value: []byte("1")}, {Key: "b"}}}
	for in, want := range map[string]string{
		`%t/%p/%o %k %v %T %h\n`: "t/3/42 k \x00v% 1767225600123 a=1,b=\n",
		`%s|%S|%K|%R`:            "\x00v%|3|1|\x00\x00\x00\x03",
		`100%% \t\r\0\\\x41é`:    "100% \t\r\x00\\Aé",
		``:                       "",
	} {
		f, err := parseFormat(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(f.appendTo(nil, r)); got != want {
			t.Errorf("%q prints %q, want %q", in, got, want)
		}
	}
	f, _ := parseFormat("%K %S [%k%v]")
	if got := string(f.appendTo(nil, &kgo.Record{})); got != "-1 -1 []" {
		t.Errorf("null key and value print %q", got)
	}
	for _, bad := range []string{"%", "x%", "%q", "%é", `\`, `\q`, `\x`, `\x1`, `\xzz`} {
		if _, err := parseFormat(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzFormatNeverPanicsAndKeepsPlainText(f *testing.F) {
	f.Add(`%t %p\n`)
	f.Add(`\xff%%`)
	f.Fuzz(func(t *testing.T, s string) {
		format, err := parseFormat(s)
		if err != nil {
			return
		}
		got := string(format.appendTo(nil, &kgo.Record{}))
		if !strings.ContainsAny(s, `%\`) && got != s {
			t.Errorf("%q prints %q", s, got)
		}
	})
}

func FuzzPositionNeverPanics(f *testing.F) {
	for _, s := range []string{"-10", "10:20", "@-1d1h:@now", "@2026-01-01T00:00:00Z:end"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if sp, err := parseSpan(s, time.Unix(0, 0)); err == nil {
			if from, stop, err := sp.resolve(bounds{start: 5, end: 9, fromMs: 6, untilMs: 7}); err == nil && (from < 5 || stop >= 0 && stop < from) {
				t.Errorf("%q reads %d to %d", s, from, stop)
			}
		}
	})
}

func TestSettingsSplitAtTheFirstEqualsSign(t *testing.T) {
	for in, want := range map[string]setting{"a=b": {"a", "b"}, "a=b=c": {"a", "b=c"}, "a=": {"a", ""}, " a = b ": {"a", " b "}} {
		if got, err := parseSetting(in); err != nil || got != want {
			t.Errorf("%q is %v, %v", in, got, err)
		}
	}
	for _, bad := range []string{"", "a", "=b", " =b"} {
		if _, err := parseSetting(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := parseSettings([]string{"a=1"}, []string{"a"}); err == nil {
		t.Error("one key is set and unset")
	}
}

func TestRecordsComeBackFromJSONAsTheyWere(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	some := func() []byte {
		switch rnd.IntN(4) {
		case 0:
			return nil
		case 1:
			return []byte{}
		case 2:
			return []byte("text \u2028 <&> \"é\" \x00\n")
		}
		b := make([]byte, rnd.IntN(20)+1)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return b
	}
	for range 2000 {
		in := &kgo.Record{Partition: rnd.Int32N(9), Key: some(), Value: some(), Timestamp: time.UnixMilli(rnd.Int64N(4e12))}
		for range rnd.IntN(3) {
			in.Headers = append(in.Headers, kgo.RecordHeader{Key: string(some()), Value: some()})
		}
		line, err := json.Marshal(newRecordJSON(in))
		if err != nil || bytes.ContainsRune(line, '\n') {
			t.Fatalf("%q, %v", line, err)
		}
		out, err := parseRecordJSON(line)
		if err != nil || !reflect.DeepEqual(in, out) {
			t.Fatalf("%s\n in %+v\nout %+v, %v", line, in, out, err)
		}
	}
}

func TestJSONInputIsCheckedFieldByField(t *testing.T) {
	for in, want := range map[string]kgo.Record{
		`{}`:                                   {Partition: -1},
		`{"value":{"a": [1, 2]}}`:              {Partition: -1, Value: []byte(`{"a":[1,2]}`)},
		`{"value":5,"partition":2}`:            {Partition: 2, Value: []byte("5")},
		`{"headers":{"b":"1","a":"2"}}`:        {Partition: -1, Headers: []kgo.RecordHeader{{Key: "b", Value: []byte("1")}, {Key: "a", Value: []byte("2")}}},
		`{"timestamp":"2026-01-01T00:00:00Z"}`: {Partition: -1, Timestamp: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if got, err := parseRecordJSON([]byte(in)); err != nil || !reflect.DeepEqual(*got, want) {
			t.Errorf("%s is %+v, %v", in, got, err)
		}
	}
	for in, part := range map[string]string{
		`{"vlaue":1}`: `did you mean "value"?`, `{`: "not complete", `[]`: "not the expected JSON", `{} {}`: "more than one",
		`{"partition":-1}`: "from 0 on", `{"value":"%","valueEncoding":"base64"}`: "not base64", `{"keyEncoding":"hex","key":"00"}`: "unknown",
		`{"timestamp":"soon"}`: "neither", `{"headers":[{"value":"x"}]}`: "no key",
	} {
		if _, err := parseRecordJSON([]byte(in)); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, want %q in it", in, err, part)
		}
	}
}

func TestNearestSuggestsOnlyWhatIsNear(t *testing.T) {
	words := []string{"topic", "produce", "consume", "config", "server", "log"}
	for in, want := range map[string]string{"topics": "topic", "tpoic": "topic", "prod": "produce", "conusme": "consume", "zzz": "", "serve": "server", "x": ""} {
		if got := nearest(in, words); got != want {
			t.Errorf("nearest(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestLinesPassUnchangedUpToTheLimit(t *testing.T) {
	long := strings.Repeat("x", 700<<10)
	in := "a\r\n\n" + long + "\nlast"
	s, err := newRecordSource(&produceOptions{partition: -1}, len(long))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = s.each(t.Context(), nil, strings.NewReader(in), func(_ int64, r *kgo.Record) { got = append(got, string(r.Value)) })
	if want := []string{"a\r", "", long, "last"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%d lines, %v", len(got), err)
	}
	s, _ = newRecordSource(&produceOptions{}, len(long)-1)
	err = s.each(t.Context(), nil, strings.NewReader(in), func(int64, *kgo.Record) {})
	if err == nil || !strings.Contains(err.Error(), "record 3 cannot be sent (standard input, line 3)") {
		t.Errorf("a line that is too long: %v", err)
	}
}

func TestDurabilityIsSaidInWords(t *testing.T) {
	none := "9223372036854775807"
	for _, tt := range [][3]string{
		{"1", none, "an acknowledged record is on the disk (flush.messages=1)"},
		{none, none, "page cache of the in-sync replicas only, no flush policy (flush.messages and flush.ms are not set)"},
		{"100", none, "flushed to disk every 100 records (flush.messages=100)"},
		{"100", "1000", "flushed to disk every 100 records (flush.messages=100) and every 1s (flush.ms=1000)"},
		{none, "1000", "flushed to disk every 1s (flush.ms=1000)"},
	} {
		if got := durability(map[string]string{"flush.messages": tt[0], "flush.ms": tt[1]}); got != tt[2] {
			t.Errorf("%s, %s: %q", tt[0], tt[1], got)
		}
	}
}
