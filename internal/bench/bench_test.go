package bench

import (
	"bytes"
	"hash/crc32"
	"io"
	"math"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/record"
)

func TestParseRateAndSize(t *testing.T) {
	for s, want := range map[string]Rate{
		"20000": {Records: 20000}, "20k": {Records: 20000}, "1.5M/s": {Records: 1.5e6}, "0": {},
		"50MB": {Bytes: 50e6}, "50MB/s": {Bytes: 50e6}, "1MiB": {Bytes: 1 << 20}, "100 records/s": {Records: 100},
	} {
		if r, err := ParseRate(s); err != nil || r != want {
			t.Errorf("%q: %v %v, want %v", s, r, err, want)
		}
	}
	for _, s := range []string{"", "x", "-1", "1XB", "MB", "1e400", "nan"} {
		if r, err := ParseRate(s); err == nil {
			t.Errorf("%q is read as %v", s, r)
		}
	}
	for s, want := range map[string]int64{"4096": 4096, "4KiB": 4096, "16KB": 16000, "1.5GB": 1.5e9, "2 MiB": 2 << 20} {
		if n, err := ParseSize(s); err != nil || n != want {
			t.Errorf("%q: %d %v, want %d", s, n, err, want)
		}
	}
}

// Every request that is put together from a template is one that a broker can read and accept.
func TestTemplates(t *testing.T) {
	for _, codec := range []record.Codec{record.None, record.Gzip, record.Snappy, record.LZ4, record.Zstd} {
		for _, version := range []int16{3, 8, 9, 12} {
			o, err := Options{Bootstrap: []string{"x"}, RecordSize: 100, BatchSize: 4096, Codec: codec, Acks: -1, Idempotent: true}.Defaults()
			if err != nil {
				t.Fatal(err)
			}
			l, err := o.makeLoad([]int32{0, 1, 2})
			if err != nil {
				t.Fatal(err)
			}
			c := &conn{formatter: kmsg.NewRequestFormatter(kmsg.FormatterClientID("me")), versions: map[int16]int16{kmsg.Produce.Int16(): version}}
			tm, err := o.makeTemplate(c, "topic", 2, l.batches[2][1])
			if err != nil {
				t.Fatal(err)
			}
			id := &producerID{id: 77, epoch: 3, sequences: map[int32]int32{2: math.MaxInt32}, castagnoli: crc32.MakeTable(crc32.Castagnoli)}
			for n := range 2 {
				frame := tm.append(nil, 4711, id)
				req := kmsg.NewPtrProduceRequest()
				req.Version = version
				header := 14 + len("me")
				if version >= 9 {
					header++
				}
				if err := req.ReadFrom(frame[header:]); err != nil {
					t.Fatalf("%s version %d: %v", codec, version, err)
				}
				p := req.Topics[0].Partitions[0]
				b, rest, err := record.Parse(p.Records)
				if err != nil || len(rest) != 0 || b.CheckCRC() != nil {
					t.Fatalf("%s version %d: %v, %d bytes left, %v", codec, version, err, len(rest), b.CheckCRC())
				}
				want := int32(math.MaxInt32)
				if n == 1 {
					want = b.Count() - 1
				}
				if req.Acks != -1 || req.Topics[0].Topic != "topic" || p.Partition != 2 || b.ProducerID() != 77 || b.ProducerEpoch() != 3 || b.BaseSequence() != want {
					t.Errorf("%s version %d: %+v, sequence %d, want %d", codec, version, req, b.BaseSequence(), want)
				}
				records, size := 0, 0
				err = b.Each(0, func(r record.Record) error {
					records, size = records+1, size+len(r.Key)+len(r.Value)
					return nil
				})
				if err != nil || int32(records) != tm.records || size != tm.payload {
					t.Errorf("%s: %v, %d records of %d bytes, want %d of %d", codec, err, records, size, tm.records, tm.payload)
				}
			}
		}
	}
}

func TestBatchSize(t *testing.T) {
	for _, tt := range []struct{ record, batch, least, most int }{{1024, 16 << 10, 15, 15}, {100, 16 << 10, 140, 160}, {4096, 1, 1, 1}, {20000, 16 << 10, 1, 1}} {
		o, err := Options{Bootstrap: []string{"x"}, RecordSize: tt.record, BatchSize: tt.batch}.Defaults()
		if err != nil {
			t.Fatal(err)
		}
		l, err := o.makeLoad([]int32{0})
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range l.batches[0] {
			if n := int(b.records); n < tt.least || n > tt.most || n > 1 && len(b.bytes) > tt.batch {
				t.Errorf("%+v: %d records, %d bytes", tt, n, len(b.bytes))
			}
		}
	}
}

// The most frequent of Zipf's keys takes its partition ahead of the others; uniform ones leave all alike.
func TestKeysDecideHowOftenAPartitionComes(t *testing.T) {
	for _, keys := range []Keys{Uniform, Zipf} {
		o, err := Options{Bootstrap: []string{"x"}, RecordSize: 100, BatchSize: 1000, Keys: keys, KeyCount: 1000}.Defaults()
		if err != nil {
			t.Fatal(err)
		}
		l, err := o.makeLoad([]int32{0, 1, 2, 3, 4, 5, 6, 7})
		if err != nil {
			t.Fatal(err)
		}
		var turns [8]int
		for _, p := range l.schedule {
			turns[p]++
		}
		least, most := slices.Min(turns[:]), slices.Max(turns[:])
		if keys == Uniform && most > 2*least || keys == Zipf && most < 2*least {
			t.Errorf("keys %d: %v", keys, turns)
		}
	}
}

func TestFrames(t *testing.T) {
	var stream []byte
	var want [][]byte
	for n := 4; n < 200000; n = n*3 + 1 {
		frame := bytes.Repeat([]byte{byte(n)}, n)
		want = append(want, frame)
		stream = append(append(stream, byte(n>>24), byte(n>>16), byte(n>>8), byte(n)), frame...)
	}
	for name, r := range map[string]io.Reader{"whole": bytes.NewReader(stream), "in bytes": iotest.OneByteReader(bytes.NewReader(stream)),
		"in halves": iotest.HalfReader(bytes.NewReader(stream))} {
		f := frameReader{src: r}
		for _, w := range want {
			if got, err := f.next(); err != nil || !bytes.Equal(got, w) {
				t.Fatalf("%s: %d bytes, %v, want %d", name, len(got), err, len(w))
			}
		}
		if _, err := f.next(); err != io.EOF {
			t.Errorf("%s: %v at the end", name, err)
		}
	}
	// A frame that claims a gigabyte and brings ten bytes costs the first buffer.
	f := frameReader{src: bytes.NewReader(append([]byte{0x3f, 0xff, 0xff, 0xff}, make([]byte, 10)...))}
	if _, err := f.next(); err != io.EOF || len(f.buf) > firstBuffer {
		t.Errorf("%v, a buffer of %d bytes", err, len(f.buf))
	}
}
