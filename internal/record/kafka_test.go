package record

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// The batches in testdata/kafka were written by Kafka 4.3.1's own MemoryRecords, one per codec: four records, the
// last of 70000 bytes (100 in the plain one), producer 4000, epoch 2, sequence 17, leader epoch 5,
// transactional; and the marker that commits them, with coordinator epoch 9.
func kafkaBatch(t *testing.T, name string) Batch {
	t.Helper()
	p, err := os.ReadFile(filepath.Join("testdata", "kafka", "java-"+name+".batch"))
	if err != nil {
		t.Fatal(err)
	}
	b, rest, err := Parse(p)
	if err != nil || len(rest) != 0 {
		t.Fatal(err)
	}
	return b
}

func TestBatchesWrittenByKafkaAreReadAndRebuilt(t *testing.T) {
	for _, c := range codecs {
		b := kafkaBatch(t, c.String())
		res, err := Validate(b, anyRules())
		if err != nil || b.Codec() != c || res.MaxTimestampMs != b.MaxTimestampMs() {
			t.Fatalf("%s: %+v %v", c, res, err)
		}
		recs, err := read(b, 0)
		if err != nil || len(recs) != 4 {
			t.Fatal(c, len(recs), err)
		}
		size := 70_000
		if c == None {
			size = 100
		}
		if string(recs[0].key) != "k" || recs[1].key != nil || recs[1].value != nil || recs[2].ts != 1699999999999 ||
			show(recs[2:3]) != show([]plain{{2, 1699999999999, []byte("h"), []byte("w"), []RecordHeader{{"a", []byte("1")}, {"b", nil}}}}) ||
			len(recs[3].value) != size || b.LastSequence() != 20 || b.LeaderEpoch() != 5 || !b.Transactional() {
			t.Fatalf("%s: %.300s", c, show(recs))
		}
		mine := NewBuilder(None)
		mine.ProducerID, mine.ProducerEpoch, mine.BaseSequence, mine.LeaderEpoch, mine.Transactional = 4000, 2, 17, 5, true
		for _, r := range recs {
			mine.Add(r.ts, r.key, r.value, r.headers...)
		}
		built, err := mine.Finish()
		if err != nil {
			t.Fatal(err)
		}
		plainOnes, err := Recompress(b, None, 0, 0)
		if err != nil || !bytes.Equal(plainOnes, built) {
			t.Fatalf("%s: not the bytes that Kafka writes: %v", c, err)
		}
	}
}

func TestMarkersAreTheBytesThatKafkaWrites(t *testing.T) {
	want := kafkaBatch(t, "commit")
	if m, err := want.EndMarker(); err != nil || m != (EndMarker{Commit, 9}) {
		t.Fatal(m, err)
	}
	got, err := NewEndMarker(EndMarker{Commit, 9}, 4000, 2, 1_700_000_000_000)
	if err != nil {
		t.Fatal(err)
	}
	got.SetBaseOffset(7)
	got.SetLeaderEpoch(5)
	if !bytes.Equal(got, want) {
		t.Fatalf("\n% x\n% x", got, want)
	}
}
