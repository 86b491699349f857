package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var codecs = []Codec{None, Gzip, Snappy, LZ4, Zstd}

// anyRules refuse nothing for its time or key.
func anyRules() Rules {
	return Rules{NowMs: 1_700_000_000_000, TimestampBeforeMaxMs: math.MaxInt64, TimestampAfterMaxMs: math.MaxInt64, AllowZstd: true, TopicPartition: "t-0"}
}

type plain struct {
	off, ts    int64
	key, value []byte
	headers    []RecordHeader
}

func randomBytes(rnd *rand.Rand, n int) []byte {
	switch rnd.Intn(6) {
	case 0:
		return nil
	case 1:
		return []byte{}
	case 2:
		return bytes.Repeat([]byte("abc"), rnd.Intn(n+1)) // compresses well
	}
	p := make([]byte, rnd.Intn(n+1))
	rnd.Read(p)
	return p
}

func randomRecords(rnd *rand.Rand) []plain {
	recs := make([]plain, 1+rnd.Intn(15))
	big := []int{10, 300, 70_000}[rnd.Intn(3)]
	for i := range recs {
		recs[i] = plain{off: int64(i), ts: 1_700_000_000_000 + rnd.Int63n(1<<20) - 1<<19, key: randomBytes(rnd, 20), value: randomBytes(rnd, big)}
		for range rnd.Intn(3) {
			recs[i].headers = append(recs[i].headers, RecordHeader{Key: strings.Repeat("h", rnd.Intn(5)), Value: randomBytes(rnd, 9)})
		}
	}
	return recs
}

func build(t testing.TB, c Codec, level int, recs []plain) Batch {
	t.Helper()
	b := NewBuilder(c)
	b.Level = level
	for _, r := range recs {
		b.Add(r.ts, r.key, r.value, r.headers...)
	}
	batch, err := b.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

func read(b Batch, limit int64) (out []plain, err error) {
	err = b.Each(limit, func(r Record) error {
		p := plain{off: r.Offset, ts: r.TimestampMs, key: bytes.Clone(r.Key), value: bytes.Clone(r.Value)}
		if err := EachHeader(r.Headers, func(k string, v []byte) error {
			p.headers = append(p.headers, RecordHeader{k, bytes.Clone(v)})
			return nil
		}); err != nil {
			return err
		}
		out = append(out, p)
		return nil
	})
	return out, err
}

func show(recs []plain) string { return fmt.Sprintf("%#v", recs) }

func TestRecordsSurviveEveryCodec(t *testing.T) {
	seed := rand.Int63()
	rnd := rand.New(rand.NewSource(seed))
	for range 8 {
		recs := randomRecords(rnd)
		var maxMs int64 = NoTimestamp
		for _, r := range recs {
			maxMs = max(maxMs, r.ts)
		}
		for _, c := range codecs {
			b := build(t, c, []int{0, 1, 3, 5}[rnd.Intn(4)], recs)
			parsed, rest, err := Parse(append(bytes.Clone(b), "next"...))
			if err != nil || string(rest) != "next" || !bytes.Equal(parsed, b) {
				t.Fatalf("seed %d %s: parse: %v", seed, c, err)
			}
			res, err := Validate(b, anyRules())
			if err != nil || res.MaxTimestampMs != maxMs || b.MaxTimestampMs() != maxMs {
				t.Fatalf("seed %d %s: %+v, %v, want max %d", seed, c, res, err, maxMs)
			}
			got, err := read(b, res.InflatedBytes)
			if err != nil || show(got) != show(recs) {
				t.Fatalf("seed %d %s: %v\n got %.300s\nwant %.300s", seed, c, err, show(got), show(recs))
			}
			again, err := Recompress(b, codecs[rnd.Intn(len(codecs))], 0, 0)
			if err != nil || again.CheckCRC() != nil {
				t.Fatalf("seed %d %s: recompress: %v", seed, c, err)
			}
			if got, err = read(again, 0); err != nil || show(got) != show(recs) {
				t.Fatalf("seed %d %s: recompressed as %s: %v", seed, c, again.Codec(), err)
			}
		}
	}
}

func TestEveryLevelThatKafkaAllowsWorks(t *testing.T) {
	recs := []plain{{value: bytes.Repeat([]byte("level"), 1000)}}
	for c, levels := range map[Codec][]int{Gzip: {1, 9}, LZ4: {1, 9, 17}, Zstd: {-131072, 1, 9, 22}} {
		for _, level := range levels {
			if got, err := read(build(t, c, level, recs), 0); err != nil || !bytes.Equal(got[0].value, recs[0].value) {
				t.Errorf("%s level %d: %v", c, level, err)
			}
		}
	}
}

func TestAnotherCodecOfTheFormatAgrees(t *testing.T) {
	rnd := rand.New(rand.NewSource(7))
	for range 50 {
		recs := randomRecords(rnd)
		b := NewBuilder(None)
		b.ProducerID, b.ProducerEpoch, b.BaseSequence, b.LeaderEpoch, b.BaseOffset, b.Transactional = 77, 3, 500, 9, 1000, true
		for _, r := range recs {
			b.Add(r.ts, r.key, r.value, r.headers...)
		}
		ours, err := b.Finish()
		if err != nil {
			t.Fatal(err)
		}
		var other kmsg.RecordBatch
		if err := other.ReadFrom(ours); err != nil {
			t.Fatal(err)
		}
		if other.FirstOffset != ours.BaseOffset() || other.LastOffsetDelta != ours.LastOffsetDelta() || uint32(other.CRC) != ours.CRC() ||
			other.PartitionLeaderEpoch != ours.LeaderEpoch() || other.ProducerID != ours.ProducerID() || other.ProducerEpoch != ours.ProducerEpoch() ||
			other.FirstSequence != ours.BaseSequence() || other.NumRecords != ours.Count() || other.FirstTimestamp != ours.BaseTimestampMs() ||
			other.MaxTimestamp != ours.MaxTimestampMs() || other.Attributes != ours.Attributes() || int(other.Length) != ours.Size()-LogOverhead {
			t.Fatalf("header differs: %+v", other)
		}
		if !ours.Transactional() || ours.LastOffset() != 1000+int64(len(recs))-1 || ours.LastSequence() != 500+int32(len(recs))-1 {
			t.Fatal("derived fields")
		}
		// And the other way: its encoder, our reader.
		var raw []byte
		for i, r := range recs {
			k := kmsg.Record{TimestampDelta64: r.ts - recs[0].ts, OffsetDelta: int32(i), Key: r.key, Value: r.value}
			for _, h := range r.headers {
				k.Headers = append(k.Headers, kmsg.Header{Key: h.Key, Value: h.Value})
			}
			k.Length = int32(len(k.AppendTo(nil)) - 1) // a zero length takes one byte
			raw = k.AppendTo(raw)
		}
		if !bytes.Equal(raw, ours[HeaderSize:]) {
			t.Fatal("records are encoded differently")
		}
	}
}

// edit changes a valid batch and makes its CRC right again.
func edit(b Batch, f func(Batch)) Batch {
	c := Batch(bytes.Clone(b))
	f(c)
	c.sealCRC()
	return c
}

func put16(pos int, v int16) func(Batch) {
	return func(b Batch) { binary.BigEndian.PutUint16(b[pos:], uint16(v)) }
}
func put32(pos int, v int32) func(Batch) {
	return func(b Batch) { binary.BigEndian.PutUint32(b[pos:], uint32(v)) }
}
func put64(pos int, v int64) func(Batch) {
	return func(b Batch) { binary.BigEndian.PutUint64(b[pos:], uint64(v)) }
}

func TestAProducersHeaderIsRefusedAsKafkaDoes(t *testing.T) {
	good := build(t, None, 0, []plain{{ts: 5, key: []byte("k")}, {ts: 6, value: []byte("v")}})
	withPID := func(more ...func(Batch)) func(Batch) {
		return func(b Batch) {
			put64(posProducerID, 9)(b)
			put16(posProducerEpoch, 0)(b)
			put32(posBaseSequence, 0)(b)
			for _, f := range more {
				f(b)
			}
		}
	}
	for name, c := range map[string]struct {
		edit func(Batch)
		want error
	}{
		"as built":                  {func(Batch) {}, nil},
		"with a producer id":        {withPID(), nil},
		"transactional":             {withPID(put16(posAttributes, attrTransactional)), nil},
		"delete horizon is ignored": {put16(posAttributes, attrDeleteHorizon), nil},
		"wrong max timestamp":       {put64(posMaxTimestamp, 1), nil},
		"leader epoch of any kind":  {put32(posLeaderEpoch, 99), nil},
		"base offset":               {put64(posBaseOffset, 1), ErrInvalid},
		"count is zero":             {put32(posCount, 0), ErrInvalid},
		"count is negative":         {put32(posCount, -1), ErrInvalid},
		"count too high":            {func(b Batch) { put32(posCount, 3)(b); put32(posLastOffsetDelta, 2)(b) }, ErrInvalid},
		"count too low":             {func(b Batch) { put32(posCount, 1)(b); put32(posLastOffsetDelta, 0)(b) }, ErrInvalid},
		"count and offsets differ":  {put32(posLastOffsetDelta, 2), ErrInvalid},
		"negative offset range":     {put32(posLastOffsetDelta, -2), ErrInvalid},
		"control batch":             {put16(posAttributes, attrControl), ErrInvalid},
		"no sequence":               {withPID(put32(posBaseSequence, -1)), ErrInvalid},
		"no epoch":                  {withPID(put16(posProducerEpoch, -1)), ErrInvalid},
		"transactional without id":  {put16(posAttributes, attrTransactional), ErrInvalid},
		"log append time":           {put16(posAttributes, attrLogAppendTime), ErrTimestamp},
		"codec 5":                   {put16(posAttributes, 5), ErrCompression},
		"codec 7":                   {put16(posAttributes, 7), ErrCompression},
		"says gzip, is not":         {put16(posAttributes, 1), ErrInvalid},
		"says snappy, is not":       {put16(posAttributes, 2), ErrInvalid},
		"says lz4, is not":          {put16(posAttributes, 3), ErrInvalid},
		"says zstd, is not":         {put16(posAttributes, 4), ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Validate(edit(good, c.edit), anyRules())
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
		})
	}
	bad := bytes.Clone(good)
	bad[len(bad)-1] ^= 1
	if _, err := Validate(bad, anyRules()); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "stored crc") {
		t.Fatalf("flipped bit: %v", err)
	}
	if _, err := Validate(build(t, Zstd, 0, []plain{{}}), Rules{}); !errors.Is(err, ErrCompression) {
		t.Fatalf("zstd for an old client: %v", err)
	}
}

// raw makes a batch of n records out of the given bytes.
func raw(t testing.TB, n int32, c Codec, records ...[]byte) Batch {
	t.Helper()
	b := build(t, None, 0, make([]plain, n))
	b, err := seal(bytes.Clone(b[:HeaderSize]), c, 0, bytes.Join(records, nil))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestMalformedRecordsAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		n       int32
		records []byte
		ok      bool
	}{
		"smallest":                    {1, []byte{12, 0, 0, 0, 1, 1, 0}, true},
		"empty key and value":         {1, []byte{12, 0, 0, 0, 0, 0, 0}, true},
		"one header":                  {1, []byte{18, 0, 0, 0, 1, 1, 2, 2, 'a', 1}, true},
		"null header key":             {1, []byte{16, 0, 0, 0, 1, 1, 2, 1, 1}, false},
		"offset delta 1":              {1, []byte{12, 0, 0, 2, 1, 1, 0}, false},
		"trailing byte":               {1, []byte{12, 0, 0, 0, 1, 1, 0, 0}, false},
		"trailing record":             {1, []byte{12, 0, 0, 0, 1, 1, 0, 12, 0, 0, 2, 1, 1, 0}, false},
		"record missing":              {2, []byte{12, 0, 0, 0, 1, 1, 0}, false},
		"nothing":                     {1, nil, false},
		"negative length":             {1, []byte{1, 0, 0, 0, 1, 1, 0}, false},
		"length too long":             {1, []byte{14, 0, 0, 0, 1, 1, 0}, false},
		"length too short":            {1, []byte{10, 0, 0, 0, 1, 1, 0}, false},
		"huge key":                    {1, []byte{12, 0, 0, 0, 0xfe, 0xff, 0xff, 0xff, 0x0f, 1, 0}, false},
		"huge header count":           {1, []byte{20, 0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0x0f}, false},
		"negative header count":       {1, []byte{12, 0, 0, 0, 1, 1, 1}, false},
		"varint of more than 32 bits": {1, []byte{20, 0, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 1, 1, 0}, false},
		"varint without end":          {1, bytes.Repeat([]byte{0x80}, 20), false},
	} {
		for _, codec := range codecs {
			b := raw(t, c.n, codec, c.records)
			_, err := Validate(b, anyRules())
			if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrInvalid) {
				t.Errorf("%s, %s: %v", name, codec, err)
			}
			if _, err := read(b, 0); c.ok && err != nil {
				t.Errorf("%s, %s: Each: %v", name, codec, err)
			}
		}
	}
}

func TestRecordsOutOfRuleAreNamedOneByOne(t *testing.T) {
	r := anyRules()
	r.NowMs, r.TimestampBeforeMaxMs, r.TimestampAfterMaxMs = 1000, 100, 50
	for _, c := range codecs {
		b := build(t, c, 0, []plain{{ts: 899}, {ts: 900}, {ts: 1050}, {ts: 1051}, {ts: NoTimestamp}})
		_, err := Validate(b, r)
		var inv *InvalidError
		if !errors.As(err, &inv) || !errors.Is(err, ErrTimestamp) || len(inv.Records) != 2 || inv.Records[0].Index != 0 || inv.Records[1].Index != 3 {
			t.Fatalf("%s: %v %+v", c, err, inv)
		}
		if want := "Timestamp 899 of message with offset 0 is out of range. The timestamp should be within [900, 1050]"; inv.Records[0].Message != want {
			t.Fatalf("%s", inv.Records[0].Message)
		}
		appendTime := r
		appendTime.LogAppendTime = true
		if res, err := Validate(b, appendTime); err != nil || res.MaxTimestampMs != 1000 {
			t.Fatalf("log append time does not look at timestamps: %+v %v", res, err)
		}
		compacted := anyRules()
		compacted.NeedKey = true
		b = build(t, c, 0, []plain{{key: []byte{}}, {}, {key: []byte("k")}})
		_, err = Validate(b, compacted)
		if !errors.As(err, &inv) || !errors.Is(err, ErrInvalid) || len(inv.Records) != 1 || inv.Records[0].Index != 1 ||
			inv.Records[0].Message != "Compacted topic cannot accept message without key in topic partition t-0" {
			t.Fatalf("%s: %v", c, err)
		}
	}
	many := NewBuilder(None)
	for range 5000 {
		many.Add(1, nil, nil)
	}
	b, _ := many.Finish()
	r.NeedKey = true
	_, err := Validate(b, r)
	var inv *InvalidError
	if !errors.As(err, &inv) || len(inv.Records) != maxRecordErrors || !strings.Contains(err.Error(), "5000 record errors") {
		t.Fatalf("%.200v", err)
	}
}

func TestTimestampBoundsDoNotOverflow(t *testing.T) {
	r := Rules{NowMs: 1000, TimestampBeforeMaxMs: math.MaxInt64, TimestampAfterMaxMs: 50}
	for ts, want := range map[int64]bool{math.MinInt64: true, math.MaxInt64: true, 1050: false, 1051: true, -1000: false} {
		if r.outOfRange(ts) != want {
			t.Errorf("%d: %v", ts, !want)
		}
	}
	r = Rules{NowMs: 1000, TimestampBeforeMaxMs: 0, TimestampAfterMaxMs: math.MaxInt64}
	for ts, want := range map[int64]bool{math.MinInt64: true, math.MaxInt64: false, 1000: false, 999: true} {
		if r.outOfRange(ts) != want {
			t.Errorf("%d: %v", ts, !want)
		}
	}
}

// allocated is what f allocates, freed or not.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestABombIsStoppedAtTheLimit(t *testing.T) {
	bomb := build(t, None, 0, []plain{{value: make([]byte, 32<<20)}})
	for _, c := range codecs[1:] {
		b, err := Recompress(bomb, c, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		r := anyRules()
		r.MaxInflatedBytes = 1 << 20
		used := allocated(func() { _, err = Validate(b, r) })
		if !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: %v", c, err)
		}
		if used > 12<<20 {
			t.Errorf("%s: %d bytes allocated for %d", c, used, len(b))
		}
		if _, err = read(b, 1<<20); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: Each: %v", c, err)
		}
		if _, err = Recompress(b, None, 0, 1<<20); !errors.Is(err, ErrTooLarge) {
			t.Errorf("%s: Recompress: %v", c, err)
		}
		r.MaxInflatedBytes = int64(len(bomb) - HeaderSize)
		if _, err = Validate(b, r); err != nil {
			t.Errorf("%s: at the limit: %v", c, err)
		}
	}
}

func TestRawSnappyOfLibrdkafkaIsRead(t *testing.T) {
	recs := randomRecords(rand.New(rand.NewSource(3)))
	b := build(t, None, 0, recs)
	s := Batch(append(bytes.Clone(b[:HeaderSize]), snappy.Encode(nil, b[HeaderSize:])...))
	put16(posAttributes, int16(Snappy))(s)
	put32(posLength, int32(len(s)-LogOverhead))(s)
	s.sealCRC()
	if _, err := Validate(s, anyRules()); err != nil {
		t.Fatal(err)
	}
	if got, err := read(s, 0); err != nil || show(got) != show(recs) {
		t.Fatal(err)
	}
}

func TestALargeZstdWindowIsReadWithoutBeingAllocated(t *testing.T) {
	b := build(t, None, 0, []plain{{value: bytes.Repeat([]byte("x"), 1000)}})
	var out bytes.Buffer
	w, err := zstd.NewWriter(&out, zstd.WithWindowSize(128<<20), zstd.WithSingleSegment(false), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = w.Write(b[HeaderSize : len(b)-5])
	_ = w.Flush() // so that the encoder does not know the size and claims the window
	_, _ = w.Write(b[len(b)-5:])
	_ = w.Close()
	var h zstd.Header
	if err := h.Decode(out.Bytes()); err != nil || h.WindowSize != 128<<20 {
		t.Fatalf("the test does not test: %+v %v", h, err)
	}
	z := Batch(append(bytes.Clone(b[:HeaderSize]), out.Bytes()...))
	put16(posAttributes, int16(Zstd))(z)
	put32(posLength, int32(len(z)-LogOverhead))(z)
	z.sealCRC()
	used := allocated(func() { _, err = Validate(z, anyRules()) })
	if err != nil || used > 8<<20 {
		t.Fatalf("%v, %d bytes", err, used)
	}
}

func TestLZ4FramesThatJavaCannotReadAreRefused(t *testing.T) {
	b := build(t, None, 0, []plain{{value: bytes.Repeat([]byte("x"), 100)}})
	frame := func(opts ...lz4.Option) []byte {
		var out bytes.Buffer
		w := lz4.NewWriter(&out)
		if err := w.Apply(opts...); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(b[HeaderSize:])
		_ = w.Close()
		return out.Bytes()
	}
	normal := frame(lz4.ChecksumOption(true), lz4.BlockChecksumOption(true))
	legacy := frame(lz4.LegacyOption(true))
	skippable := append([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0}, normal...)
	for name, c := range map[string]struct {
		p  []byte
		ok bool
	}{"checksums": {normal, true}, "legacy": {legacy, false}, "skippable": {skippable, false}, "two frames": {append(bytes.Clone(normal), normal...), false}} {
		x := Batch(append(bytes.Clone(b[:HeaderSize]), c.p...))
		put16(posAttributes, int16(LZ4))(x)
		put32(posLength, int32(len(x)-LogOverhead))(x)
		x.sealCRC()
		if _, err := Validate(x, anyRules()); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCompressedFormsAreThoseOfKafka(t *testing.T) {
	recs := []plain{{value: bytes.Repeat([]byte("x"), 100_000)}}
	s := build(t, Snappy, 0, recs)[HeaderSize:]
	if !bytes.HasPrefix(s, append(xerialMagic, 0, 0, 0, 1, 0, 0, 0, 1)) {
		t.Errorf("snappy: % x", s[:16])
	}
	l := build(t, LZ4, 0, recs)[HeaderSize:]
	if !bytes.HasPrefix(l, []byte{0x04, 0x22, 0x4d, 0x18, 0x60, 0x40}) { // version 1, independent, no checksums; 64 KiB
		t.Errorf("lz4: % x", l[:7])
	}
}

func TestInPlaceChangesKeepTheCRCRight(t *testing.T) {
	b := build(t, Gzip, 0, []plain{{ts: 5}, {ts: 6}})
	b.SetBaseOffset(100)
	b.SetLeaderEpoch(7)
	if b.CheckCRC() != nil || b.BaseOffset() != 100 || b.NextOffset() != 102 || b.LeaderEpoch() != 7 {
		t.Fatal("offset and epoch")
	}
	b.SetMaxTimestamp(9)
	if b.CheckCRC() != nil || b.MaxTimestampMs() != 9 {
		t.Fatal("max timestamp")
	}
	b.SetLogAppendTime(50)
	got, err := read(b, 0)
	if b.CheckCRC() != nil || !b.LogAppendTime() || err != nil || got[0].ts != 50 || got[1].ts != 50 || got[1].off != 101 {
		t.Fatalf("log append time: %v %v", got, err)
	}
	if h, err := HeaderOf(b[:HeaderSize]); err != nil || h.Size() != len(b) || h.CRC() != b.CRC() || h.LastOffset() != 101 {
		t.Fatal(err)
	}
}

func TestSequenceNumbersWrap(t *testing.T) {
	b := NewBuilder(None)
	b.ProducerID, b.ProducerEpoch, b.BaseSequence = 1, 0, math.MaxInt32-1
	for range 4 {
		b.Add(0, nil, nil)
	}
	batch, err := b.Finish()
	if err != nil || batch.LastSequence() != 1 {
		t.Fatal(batch.LastSequence(), err)
	}
}

func TestParseSaysWhatIsWrong(t *testing.T) {
	good := build(t, None, 0, []plain{{}})
	for n := range len(good) {
		if _, _, err := Parse(good[:n]); !errors.Is(err, ErrShort) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	for _, c := range []struct {
		edit func(Batch)
		want error
	}{
		{func(b Batch) { b[posMagic] = 1 }, ErrMagic}, {func(b Batch) { b[posMagic] = 0xff }, ErrMagic},
		{put32(posLength, 0), ErrCorrupt}, {put32(posLength, -1), ErrCorrupt}, {put32(posLength, 48), ErrCorrupt},
		{put32(posLength, math.MaxInt32), ErrCorrupt}, {put32(posLength, 1<<30), ErrShort},
	} {
		b := Batch(bytes.Clone(good))
		c.edit(b)
		if _, _, err := Parse(b); !errors.Is(err, c.want) {
			t.Errorf("%v, want %v", err, c.want)
		}
	}
}

func TestMarkersAndCompactedBatches(t *testing.T) {
	for _, typ := range []ControlType{Abort, Commit} {
		b, err := NewEndMarker(EndMarker{typ, 42}, 9, 1, 1234)
		if err != nil || !b.Control() || !b.Transactional() || b.Count() != 1 || b.BaseSequence() != -1 {
			t.Fatal(err)
		}
		if got, err := b.ControlType(); got != typ || err != nil {
			t.Fatal(got, err)
		}
		if m, err := b.EndMarker(); err != nil || m != (EndMarker{typ, 42}) {
			t.Fatal(m, err)
		}
		if _, err := Validate(b, anyRules()); !errors.Is(err, ErrInvalid) {
			t.Fatal("a client may not write it", err)
		}
	}
	data := build(t, None, 0, []plain{{}})
	if _, err := data.ControlType(); !errors.Is(err, ErrInvalid) {
		t.Fatal(err)
	}
	b := NewBuilder(Gzip)
	b.BaseOffset, b.LastOffset, b.DeleteHorizonMs = 100, 120, 777
	b.AddRecord(Record{Offset: 103, TimestampMs: 5, Value: []byte("v")})
	b.AddRecord(Record{Offset: 110, TimestampMs: 4})
	batch, err := b.Finish()
	if err != nil || batch.LastOffset() != 120 || !batch.DeleteHorizon() || batch.BaseTimestampMs() != 777 {
		t.Fatal(err)
	}
	if got, err := read(batch, 0); err != nil || len(got) != 2 || got[0].off != 103 || got[1].off != 110 || got[0].ts != 5 || got[1].ts != 4 {
		t.Fatal(got, err)
	}
	b.AddRecord(Record{Offset: 110})
	if _, err := b.Finish(); !errors.Is(err, ErrInvalid) {
		t.Fatal(err)
	}
	b.Reset()
	b.DeleteHorizonMs = 0
	empty, err := b.Finish()
	if err != nil || empty.Count() != 0 || empty.LastOffset() != 120 || empty.Size() != HeaderSize {
		t.Fatal(err)
	}
	if got, err := read(empty, 0); err != nil || len(got) != 0 {
		t.Fatal(err)
	}
}

func TestHotPathDoesNotAllocate(t *testing.T) {
	b := build(t, None, 0, randomRecords(rand.New(rand.NewSource(1))))
	r := anyRules()
	for name, f := range map[string]func(){
		"Parse":    func() { _, _, _ = Parse(b) },
		"CheckCRC": func() { _ = b.CheckCRC() },
		"Validate": func() { _, _ = Validate(b, r) },
		"Each":     func() { _ = b.Each(0, func(Record) error { return nil }) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestCodecNames(t *testing.T) {
	for _, c := range codecs {
		if got, err := ParseCodec(c.String()); got != c || err != nil {
			t.Error(c, err)
		}
	}
	if _, err := ParseCodec("brotli"); !errors.Is(err, ErrCompression) {
		t.Error(err)
	}
}
