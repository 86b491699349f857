package record

import (
	"bytes"
	"math/rand"
	"testing"
)

func seeds(f *testing.F) {
	rnd := rand.New(rand.NewSource(5))
	for _, c := range codecs {
		b := NewBuilder(c)
		for range 3 {
			b.Add(5, []byte("key"), bytes.Repeat([]byte("v"), rnd.Intn(200)), RecordHeader{"h", nil})
		}
		batch, err := b.Finish()
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(batch))
	}
}

// reseal lets the fuzzer past the CRC and the length.
func reseal(p []byte) (Batch, bool) {
	if len(p) < HeaderSize {
		return nil, false
	}
	b := Batch(bytes.Clone(p))
	b[posMagic] = magicV2
	put32(posLength, int32(len(b)-LogOverhead))(b)
	b.sealCRC()
	return b, true
}

func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		b, rest, err := Parse(p)
		if err != nil {
			return
		}
		if len(b)+len(rest) != len(p) || b.Size() != len(b) {
			t.Fatal("lengths")
		}
		_ = b.CheckCRC()
		_, _ = b.LastSequence(), b.NextOffset()
	})
}

const fuzzLimit = 1 << 20

func FuzzValidate(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		b, ok := reseal(p)
		if !ok {
			return
		}
		r := anyRules()
		r.MaxInflatedBytes = fuzzLimit
		var res Result
		var err error
		// A zstd window, an lz4 block, two inflated copies.
		if used := allocated(func() { res, err = Validate(b, r) }); used > 24<<20+4*uint64(len(p)) {
			t.Fatalf("%d bytes allocated for %d", used, len(p))
		}
		if err != nil {
			return
		}
		// What is accepted can be read, has what the header says, and survives recompression.
		n, maxMs := int32(0), int64(NoTimestamp)
		if err := b.Each(fuzzLimit, func(rec Record) error {
			n++
			maxMs = max(maxMs, rec.TimestampMs)
			return EachHeader(rec.Headers, func(string, []byte) error { return nil })
		}); err != nil || n != b.Count() || maxMs != res.MaxTimestampMs {
			t.Fatalf("accepted, but %v; %d records of %d, max %d of %d", err, n, b.Count(), maxMs, res.MaxTimestampMs)
		}
		if _, err := Recompress(b, Snappy, 0, fuzzLimit); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzEach(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		b, ok := reseal(p)
		if !ok {
			return
		}
		if used := allocated(func() {
			_ = b.Each(fuzzLimit, func(r Record) error { return EachHeader(r.Headers, func(string, []byte) error { return nil }) })
			_, _ = b.EndMarker()
		}); used > 48<<20+8*uint64(len(p)) {
			t.Fatalf("%d bytes allocated for %d", used, len(p))
		}
	})
}

func BenchmarkValidate(b *testing.B) {
	for _, c := range codecs {
		b.Run(c.String(), func(b *testing.B) {
			w := NewBuilder(c)
			rnd := rand.New(rand.NewSource(1))
			for range 8000 {
				value := make([]byte, 100)
				for i := range value {
					value[i] = "abcdefgh"[rnd.Intn(8)]
				}
				w.Add(5, []byte("key"), value)
			}
			size := w.Size()
			batch, err := w.Finish()
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Validate(batch, anyRules()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
