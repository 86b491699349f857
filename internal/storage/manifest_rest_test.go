package storage

import (
	"reflect"
	"testing"

	"moldau/internal/vfs"
)

// TestRestEndsWithTheNextRecord: what a stop said of a log in all is forgotten as soon as anything else is recorded of it, and its point is not;
// when the file is written anew and read again it says the same.
func TestRestEndsWithTheNextRecord(t *testing.T) {
	tp, key := TopicPartition{"events", 3}, partitionKey{testID, 3}
	pt := &point{logStart: 5, segment: 200, pos: 70_000, offset: 300, offsetsLen: 2, maxTsMs: -1, epochs: []EpochEntry{{1, 5}}, producers: []byte{0, 0}}
	r := &rest{bytes: 1 << 40, segments: 2, first: 1 << 30, oldestMs: 77}
	for kind, body := range map[byte][]byte{
		kindRest:    r.encode(pt),
		kindPoint:   pt.encode(),
		kindStart:   varints(6),
		kindCleaned: cleaned{7, 8}.encode(),
		kindDamaged: encodeDamage([]savedDamage{{1, 2, 3, 4, 5}}),
		kindCut:     varints(9),
		kindFlushed: varints(301),
	} {
		mem := vfs.NewMem()
		if err := vfs.MkdirAllSync(mem, "/m"); err != nil {
			t.Fatal(err)
		}
		m, err := openManifest(mem, "/m")
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range [][]byte{manifestRecord(kindCleaned, key, tp, cleaned{1, 2}.encode()), manifestRecord(kindRest, key, tp, r.encode(pt)), manifestRecord(kind, key, tp, body)} {
			if err := m.addRecords([][]byte{rec}, true); err != nil {
				t.Fatal(err)
			}
		}
		e := m.entry(key)
		gotPoint, gotRest := e.decode()
		if !reflect.DeepEqual(gotPoint, pt) || (gotRest != nil) != (kind == kindRest) || gotRest != nil && *gotRest != *r {
			t.Errorf("kind %d: %+v, %+v", kind, gotPoint, gotRest)
		}
		want := pt.offset
		if kind == kindFlushed {
			want = 301
		}
		if got := e.durable(); got != want {
			t.Errorf("kind %d: durable is %d, want %d", kind, got, want)
		}
		for _, anew := range []bool{false, true} {
			if anew {
				m.mu.Lock()
				err = m.rewriteLocked()
				m.mu.Unlock()
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := m.close(); err != nil {
				t.Fatal(err)
			}
			if m, err = openManifest(mem, "/m"); err != nil {
				t.Fatal(err)
			}
			if again := m.entry(key); !reflect.DeepEqual(again, e) {
				t.Errorf("kind %d, written anew %v: %+v, want %+v", kind, anew, again, e)
			}
		}
	}
}
