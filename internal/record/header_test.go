package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"
)

// compressedBatch makes a gzip batch whose header is that of a valid batch of three records, and whose records, before they are
// compressed, are what change makes of the valid ones.
func compressedBatch(t *testing.T, change func([]byte) []byte) Batch {
	t.Helper()
	valid := build(t, None, 0, []plain{{ts: 1000, key: []byte("k"), value: []byte("a")}, {ts: 1000, value: []byte("b")}, {ts: 1000, value: []byte("c")}})
	raw := append(bytes.Clone(valid[:HeaderSize]), change(bytes.Clone(valid[HeaderSize:]))...)
	b := Batch(raw)
	put32(posLength, int32(len(b)-LogOverhead))(b)
	out, err := Recompress(b, Gzip, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// resealed is b with its header changed and its checksum right.
func resealed(b Batch, change func(Batch)) Batch {
	b = bytes.Clone(b)
	change(b)
	b.sealCRC()
	return b
}

// TestValidationByHeader lists what full validation refuses or corrects and validation by header does not; the same list is in
// docs/adr/0009-validation-by-header.md. And what it must see all the same.
func TestValidationByHeader(t *testing.T) {
	good := compressedBatch(t, func(p []byte) []byte { return p })
	length := func(p []byte) int { return 1 + int(p[0]>>1) } // of the first record, which is short
	rules := func(change ...func(*Rules)) Rules {
		r := anyRules()
		r.HeaderOnly, r.NowMs = true, 2000
		for _, f := range change {
			f(&r)
		}
		return r
	}
	full := func(r Rules) Rules { r.HeaderOnly = false; return r }

	for _, c := range []struct {
		what  string
		batch Batch
		rules Rules
		want  error // of full validation
	}{
		{"bytes that are not of the codec", resealed(good, func(b Batch) { b[HeaderSize] ^= 0xff }), rules(), ErrInvalid},
		{"compressed bytes that end too soon", func() Batch {
			b := bytes.Clone(good[:len(good)-12])
			put32(posLength, int32(len(b)-LogOverhead))(b)
			return resealed(b, func(Batch) {})
		}(), rules(), ErrInvalid},
		{"fewer records than the header says", compressedBatch(t, func(p []byte) []byte { return p[length(p):] }), rules(), ErrInvalid},
		{"more records than the header says", compressedBatch(t, func(p []byte) []byte { return append(p, p[:length(p)]...) }), rules(), ErrInvalid},
		{"a record that is longer than it says", compressedBatch(t, func(p []byte) []byte { p[0] -= 2; return p }), rules(), ErrInvalid},
		{"a variable-length integer without end", compressedBatch(t, func(p []byte) []byte { return bytes.Repeat([]byte{0xff}, len(p)) }), rules(), ErrInvalid},
		{"a header key without a length", compressedBatch(t, func(p []byte) []byte { p[length(p)-1] = 2; return p }), rules(), ErrInvalid},
		{"offsets that do not count up", compressedBatch(t, func(p []byte) []byte { p[3] = 8; return p }), rules(), ErrInvalid},
		{"more bytes than a batch may inflate to", good, rules(func(r *Rules) { r.MaxInflatedBytes = 4 }), ErrTooLarge},
		{"a record beyond message.timestamp.after.max.ms", compressedBatch(t, func(p []byte) []byte { p[2] = 126; return p }),
			rules(func(r *Rules) { r.NowMs, r.TimestampAfterMaxMs = 990, 20 }), ErrTimestamp},
	} {
		if _, err := Validate(c.batch, full(c.rules)); !errors.Is(err, c.want) {
			t.Errorf("%s: full validation says %v", c.what, err)
		}
		if _, err := Validate(c.batch, c.rules); err != nil {
			t.Errorf("%s: the header alone says %v", c.what, err)
		}
	}

	// Kafka writes the records' largest timestamp into the header; the header's own is kept.
	late := resealed(good, func(b Batch) { binary.BigEndian.PutUint64(b[posMaxTimestamp:], 1500) })
	if res, err := Validate(late, rules()); err != nil || res.MaxTimestampMs != 1500 || res.InflatedBytes != 0 {
		t.Errorf("a larger timestamp in the header: %+v, %v", res, err)
	}
	if res, err := Validate(late, full(rules())); err != nil || res.MaxTimestampMs != 1000 {
		t.Errorf("a larger timestamp in the header, full: %+v, %v", res, err)
	}
	if res, err := Validate(good, rules(func(r *Rules) { r.LogAppendTime = true })); err != nil || res.MaxTimestampMs != 2000 || res.InflatedBytes != 0 {
		t.Errorf("LogAppendTime: %+v, %v", res, err)
	}

	for _, c := range []struct {
		what  string
		batch Batch
		rules Rules
		want  error
	}{
		{"a wrong checksum", func() Batch { b := bytes.Clone(good); b[len(b)-1] ^= 1; return b }(), rules(), ErrCorrupt},
		{"a count that is not that of the offsets", resealed(good, func(b Batch) { put32(posCount, 2)(b) }), rules(), ErrInvalid},
		{"a codec that there is not", resealed(good, func(b Batch) { put16(posAttributes, 7)(b) }), rules(), ErrCompression},
		{"no key on a compacted topic", good, rules(func(r *Rules) { r.NeedKey = true }), ErrInvalid},
		{"a header's timestamp that is too late", late, rules(func(r *Rules) { r.NowMs, r.TimestampAfterMaxMs = 900, 50 }), ErrTimestamp},
		{"records that are too early", good, rules(func(r *Rules) { r.NowMs, r.TimestampBeforeMaxMs = 1_000_000, 10 }), ErrTimestamp},
		{"a header's timestamp before the first record's", resealed(compressedBatch(t, func(p []byte) []byte { return p[:0] }),
			func(b Batch) { binary.BigEndian.PutUint64(b[posMaxTimestamp:], math.MaxUint64) }), rules(), ErrInvalid},
		{"no bytes of records at all", resealed(good[:HeaderSize:HeaderSize], func(b Batch) { put32(posLength, HeaderSize-LogOverhead)(b) }), rules(), ErrInvalid},
		{"uncompressed records", func() Batch {
			b := bytes.Clone(build(t, None, 0, []plain{{ts: 1000, value: []byte("a")}}))
			return resealed(b, func(b Batch) { b[HeaderSize] += 2 })
		}(), rules(), ErrInvalid},
	} {
		if _, err := Validate(c.batch, c.rules); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.what, err, c.want)
		}
	}
}
