package group

import (
	"encoding/binary"
	"math/bits"
)

// xxh3 is the 64-bit XXH3 hash (seed 0), which Kafka uses for the topics that a group is subscribed to.
func xxh3(in []byte) uint64 {
	n := uint64(len(in))
	switch {
	case n == 0:
		return xxh64Avalanche(secret64(56) ^ secret64(64))
	case n <= 3:
		v := uint32(in[0])<<16 | uint32(in[n>>1])<<24 | uint32(in[n-1]) | uint32(n)<<8
		return xxh64Avalanche(uint64(v) ^ uint64(secret32(0)^secret32(4)))
	case n <= 8:
		v := uint64(binary.LittleEndian.Uint32(in[n-4:])) + uint64(binary.LittleEndian.Uint32(in))<<32
		h := v ^ secret64(8) ^ secret64(16)
		h ^= bits.RotateLeft64(h, 49) ^ bits.RotateLeft64(h, 24)
		h *= 0x9fb21c651e98df25
		h ^= h>>35 + n
		h *= 0x9fb21c651e98df25
		return h ^ h>>28
	case n <= 16:
		lo := le64(in, 0) ^ secret64(24) ^ secret64(32)
		hi := le64(in, int(n)-8) ^ secret64(40) ^ secret64(48)
		return xxh3Avalanche(n + bits.ReverseBytes64(lo) + hi + fold128(lo, hi))
	case n <= 128:
		h := n * prime64x1
		for i := int(n-1) / 32; i >= 0; i-- {
			h += mix16(in, 16*i, 32*i) + mix16(in, int(n)-16*(i+1), 32*i+16)
		}
		return xxh3Avalanche(h)
	case n <= 240:
		h := n * prime64x1
		for i := range 8 {
			h += mix16(in, 16*i, 16*i)
		}
		h = xxh3Avalanche(h)
		for i := 8; i < int(n/16); i++ {
			h += mix16(in, 16*i, 16*(i-8)+3)
		}
		return xxh3Avalanche(h + mix16(in, int(n)-16, 136-17))
	}
	acc := [8]uint64{prime32x3, prime64x1, prime64x2, prime64x3, prime64x4, prime32x2, prime64x5, prime32x1}
	const stripe, block = 64, 1024
	blocks := (len(in) - 1) / block
	for b := range blocks + 1 {
		stripes := block / stripe
		if b == blocks {
			stripes = (len(in) - 1 - block*blocks) / stripe
		}
		for i := range stripes {
			accumulate(&acc, in[b*block+i*stripe:], 8*i)
		}
		if b < blocks {
			for i := range acc {
				acc[i] = (acc[i] ^ acc[i]>>47 ^ secret64(len(xxh3Secret)-stripe+8*i)) * prime32x1
			}
		}
	}
	accumulate(&acc, in[len(in)-stripe:], len(xxh3Secret)-stripe-7)
	h := n * prime64x1
	for i := range 4 {
		h += fold128(acc[2*i]^secret64(11+16*i), acc[2*i+1]^secret64(11+16*i+8))
	}
	return xxh3Avalanche(h)
}

func accumulate(acc *[8]uint64, in []byte, secret int) {
	for i := range acc {
		v := le64(in, 8*i)
		key := v ^ secret64(secret+8*i)
		acc[i^1] += v
		acc[i] += (key & 0xffffffff) * (key >> 32)
	}
}

func mix16(in []byte, at, secret int) uint64 {
	return fold128(le64(in, at)^secret64(secret), le64(in, at+8)^secret64(secret+8))
}

func fold128(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	return hi ^ lo
}

func xxh3Avalanche(h uint64) uint64 {
	h ^= h >> 37
	h *= 0x165667919e3779f9
	return h ^ h>>32
}

func xxh64Avalanche(h uint64) uint64 {
	h ^= h >> 33
	h *= prime64x2
	h ^= h >> 29
	h *= prime64x3
	return h ^ h>>32
}

func le64(b []byte, at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }

func secret64(at int) uint64 { return le64(xxh3Secret[:], at) }

func secret32(at int) uint32 { return binary.LittleEndian.Uint32(xxh3Secret[at:]) }

const (
	prime32x1 = 0x9e3779b1
	prime32x2 = 0x85ebca77
	prime32x3 = 0xc2b2ae3d
	prime64x1 = 0x9e3779b185ebca87
	prime64x2 = 0xc2b2ae3d27d4eb4f
	prime64x3 = 0x165667b19e3779f9
	prime64x4 = 0x85ebca77c2b2ae63
	prime64x5 = 0x27d4eb2f165667c5
)

// xxh3Secret is the secret of the algorithm's definition.
var xxh3Secret = [192]byte{
	0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c, 0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
	0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21, 0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
	0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3, 0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
	0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d, 0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
	0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb, 0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
	0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce, 0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
}
