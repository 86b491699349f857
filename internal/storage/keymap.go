package storage

import (
	"crypto/rand"
	"encoding/binary"
	"math"
	"math/bits"
)

// keyMap knows, for the keys of a range of a log, the offset of each key's last record. It never
// grows: 16 bytes for a key, in a table of fixed size that is searched linearly.
//
// A key is represented by a hash, so two keys with the same hash would be taken for one, and the older of
// the two would lose its last record. The hash has 128 bits of SipHash-2-4, a pseudorandom function,
// under a key that is drawn for each map: nobody who writes records can aim at a collision. 96 of the bits are kept in the
// slot, the other 32 say where the search begins, so that a false match also needs both keys in
// the same run of slots. Among n keys the chance of any is below n²/2⁹⁷: with the 7.5 million
// keys of the default budget 2⁻⁵¹ by the stored bits alone, and about 2⁻⁷⁰ with the place.
type keyMap struct {
	seed  [2]uint64
	base  int64 // offsets are kept relative to it
	slots []keySlot
	count int
	limit int // of count, by the load factor
}

// keySlotBytes is the size of a keySlot, and so the memory that a key takes at a load factor of 1.
const keySlotBytes = 16

type keySlot struct {
	lo  uint64
	hi  uint32
	off uint32 // offset - base + 1; 0: the slot is free
}

// maxMapRange is how far offsets in one map may lie apart.
const maxMapRange = math.MaxUint32 - 1

// newKeyMap returns a map of at most budgetBytes for at most keys keys of offsets from base on.
func newKeyMap(budgetBytes int64, loadFactor float64, keys, base int64) *keyMap {
	if !(loadFactor > 0 && loadFactor < 1) {
		loadFactor = 0.9
	}
	slots := max(budgetBytes/keySlotBytes, 8)
	if need := float64(max(keys, 1))/loadFactor + 8; need < float64(slots) {
		slots = int64(need)
	}
	slots = min(slots, math.MaxUint32)
	m := &keyMap{base: base, slots: make([]keySlot, slots), limit: max(int(float64(slots)*loadFactor), 1)}
	var seed [16]byte
	_, _ = rand.Read(seed[:]) // never fails
	m.seed = [2]uint64{binary.LittleEndian.Uint64(seed[:]), binary.LittleEndian.Uint64(seed[8:])}
	return m
}

// find returns the slot of key: the one that has it, or the free one that it would take.
func (m *keyMap) find(key []byte) (slot *keySlot, lo uint64, hi uint32) {
	lo, high := sipHash128(m.seed, key)
	hi = uint32(high)
	n := uint64(len(m.slots))
	for i := high >> 32 * n >> 32; ; {
		s := &m.slots[i]
		if s.off == 0 || s.lo == lo && s.hi == hi {
			return s, lo, hi
		}
		if i++; i == n {
			i = 0
		}
	}
}

// put notes that the record at offset, the newest so far, has key. It reports false if there is no room.
func (m *keyMap) put(key []byte, offset int64) bool {
	rel := offset - m.base
	if rel > maxMapRange {
		return false
	}
	s, lo, hi := m.find(key)
	if s.off == 0 {
		if m.count >= m.limit {
			return false
		}
		m.count++
	}
	*s = keySlot{lo, hi, uint32(rel) + 1}
	return true
}

// get returns the offset of the key's last record; ok is false if the map has none.
func (m *keyMap) get(key []byte) (offset int64, ok bool) {
	s, _, _ := m.find(key)
	if s.off == 0 {
		return 0, false
	}
	return m.base + int64(s.off) - 1, true
}

// sipHash128 is SipHash-2-4 with 128 bits of output (Aumasson, Bernstein).
func sipHash128(seed [2]uint64, p []byte) (lo, hi uint64) {
	v0 := seed[0] ^ 0x736f6d6570736575
	v1 := seed[1] ^ 0x646f72616e646f6d ^ 0xee
	v2 := seed[0] ^ 0x6c7967656e657261
	v3 := seed[1] ^ 0x7465646279746573
	last := uint64(len(p)) << 56
	for ; len(p) >= 8; p = p[8:] {
		word := binary.LittleEndian.Uint64(p)
		v3 ^= word
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
		v0 ^= word
	}
	for i, c := range p {
		last |= uint64(c) << (8 * i)
	}
	v3 ^= last
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	v0 ^= last
	v2 ^= 0xee
	for range 4 {
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	}
	lo = v0 ^ v1 ^ v2 ^ v3
	v1 ^= 0xdd
	for range 4 {
		v0, v1, v2, v3 = sipRound(v0, v1, v2, v3)
	}
	return lo, v0 ^ v1 ^ v2 ^ v3
}

func sipRound(v0, v1, v2, v3 uint64) (uint64, uint64, uint64, uint64) {
	v0 += v1
	v1 = bits.RotateLeft64(v1, 13) ^ v0
	v0 = bits.RotateLeft64(v0, 32)
	v2 += v3
	v3 = bits.RotateLeft64(v3, 16) ^ v2
	v0 += v3
	v3 = bits.RotateLeft64(v3, 21) ^ v0
	v2 += v1
	v1 = bits.RotateLeft64(v1, 17) ^ v2
	return v0, v1, bits.RotateLeft64(v2, 32), v3
}
