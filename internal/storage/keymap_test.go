package storage

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestSipHash compares with the first of the vectors that its authors published.
func TestSipHash(t *testing.T) {
	seed := [2]uint64{0x0706050403020100, 0x0f0e0d0c0b0a0908}
	var in []byte
	for i, want := range []string{"a3817f04ba25a8e66df67214c7550293", "da87c1d86b99af44347659119b22fc45"} {
		lo, hi := sipHash128(seed, in)
		got := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, lo), hi)
		if hex.EncodeToString(got) != want {
			t.Errorf("%d bytes: %x, want %s", i, got, want)
		}
		in = append(in, byte(i))
	}
}

func TestKeyMap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	m := newKeyMap(1<<12, 0.9, 1<<40, 1_000_000)
	if len(m.slots) != 256 || m.limit != 230 {
		t.Fatalf("%d slots, %d keys", len(m.slots), m.limit)
	}
	want := map[string]int64{}
	for offset := int64(1_000_000); ; offset += 1 + rnd.Int64N(5) {
		key := fmt.Sprint(rnd.IntN(10_000))
		_, known := want[key]
		if !m.put([]byte(key), offset) {
			if known || len(want) != m.limit {
				t.Fatalf("no room for %q after %d keys", key, len(want))
			}
			break
		}
		want[key] = offset
	}
	for key := range 10_000 {
		offset, known := want[fmt.Sprint(key)]
		got, ok := m.get([]byte(fmt.Sprint(key)))
		if ok != known || ok && got != offset {
			t.Fatalf("key %d: %d %v, want %d %v", key, got, ok, offset, known)
		}
	}
	small := newKeyMap(1<<30, 0.9, 10, 0)
	if len(small.slots) > 32 {
		t.Errorf("%d slots for 10 keys", len(small.slots))
	}
	if small.put([]byte("far"), maxMapRange+1) || !small.put([]byte("near"), maxMapRange) {
		t.Error("the range of offsets is not kept")
	}
	if got, ok := small.get([]byte("near")); !ok || got != maxMapRange {
		t.Errorf("got %d %v", got, ok)
	}
}

func BenchmarkKeyMap(b *testing.B) {
	const keys = 3_000_000
	m := newKeyMap(keys*keySlotBytes*10/9, 0.9, keys, 0)
	key := make([]byte, 24)
	for i := range int64(keys) {
		binary.BigEndian.PutUint64(key, uint64(i))
		m.put(key, i)
	}
	for i := 0; b.Loop(); i++ {
		binary.BigEndian.PutUint64(key, uint64(i*7919%keys))
		m.get(key)
	}
	b.ReportMetric(float64(len(m.slots)*keySlotBytes)/float64(m.count), "B/key")
}
