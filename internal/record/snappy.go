package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/snappy"
)

// xerialMagic begins the framing of snappy-java, which Kafka's Java client writes; after it come version and
// lowest compatible version, both 1, and then blocks with a 4-byte length. librdkafka writes one bare block.
var xerialMagic = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

const (
	xerialHeader = 16
	xerialBlock  = 32 << 10 // as snappy-java cuts them
)

// snappyReader inflates both forms, one block at a time.
type snappyReader struct {
	rest   []byte // compressed blocks to come
	framed bool
	left   int64  // bytes that may still come out
	block  []byte // memory for one inflated block
	out    []byte // what of it is unread
}

func (s *snappyReader) reset(p []byte, maxInflated int64) error {
	s.rest, s.framed, s.left, s.out = p, false, maxInflated, nil
	if bytes.HasPrefix(p, xerialMagic) {
		if len(p) < xerialHeader {
			return fmt.Errorf("%w: snappy: header of %d bytes", ErrInvalid, len(p))
		}
		if v := binary.BigEndian.Uint32(p[12:]); v > 1 {
			return fmt.Errorf("%w: snappy: framing needs version %d, known is 1", ErrInvalid, v)
		}
		s.framed, s.rest = true, p[xerialHeader:]
	}
	return nil
}

func (s *snappyReader) release() {
	s.rest, s.out = nil, nil
	if cap(s.block) > keepBuffer {
		s.block = nil
	}
}

func (s *snappyReader) Read(p []byte) (int, error) {
	for len(s.out) == 0 {
		if len(s.rest) == 0 {
			return 0, io.EOF
		}
		if err := s.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

// next inflates the next block.
func (s *snappyReader) next() error {
	src := s.rest
	s.rest = nil
	if s.framed {
		if len(src) < 4 {
			return fmt.Errorf("%w: snappy: %d bytes after the last block", ErrInvalid, len(src))
		}
		n := int64(binary.BigEndian.Uint32(src))
		if n > int64(len(src)-4) {
			return fmt.Errorf("%w: snappy: block of %d bytes, %d left", ErrInvalid, n, len(src)-4)
		}
		src, s.rest = src[4:4+n], src[4+n:]
	}
	size, err := snappySize(src)
	if err != nil {
		return err
	}
	if size > s.left {
		return fmt.Errorf("%w: more than the allowed bytes after inflation by snappy", ErrTooLarge)
	}
	s.left -= size
	if int64(cap(s.block)) < size {
		s.block = make([]byte, size)
	}
	s.out, err = snappy.Decode(s.block[:size], src)
	return err
}

// snappySize is the inflated size of a block, counted from its elements and not only claimed, so that no
// block makes us allocate more than it holds. It refuses what is not plain snappy: the library also reads
// S2, Java does not.
func snappySize(src []byte) (int64, error) {
	claimed, n := binary.Uvarint(src)
	if n <= 0 || claimed > math.MaxUint32 {
		return 0, fmt.Errorf("%w: snappy: length of block", ErrInvalid)
	}
	size := 0
	for i := n; i < len(src); {
		tag := int(src[i])
		switch tag & 3 {
		case 0: // literal bytes
			length := tag >> 2
			if length >= 60 {
				more := length - 59 // bytes that hold the length
				if len(src)-i <= more {
					return 0, errSnappy
				}
				length = 0
				for k := more; k > 0; k-- {
					length = length<<8 | int(src[i+k])
				}
				i += more
			}
			if length < 0 || length >= len(src) {
				return 0, errSnappy
			}
			length++
			size += length
			i += 1 + length
		case 1:
			if i+1 < len(src) && tag>>5 == 0 && src[i+1] == 0 { // offset 0: S2's repeat
				return 0, errSnappy
			}
			size += 4 + tag>>2&7
			i += 2
		case 2:
			size += 1 + tag>>2
			i += 3
		case 3:
			size += 1 + tag>>2
			i += 5
		}
		if i > len(src) {
			return 0, errSnappy
		}
	}
	if uint64(size) != claimed {
		return 0, errSnappy
	}
	return int64(size), nil
}

var errSnappy = fmt.Errorf("%w: snappy: block is corrupt", ErrInvalid)

// appendXerial appends p in the framing that every Kafka client reads.
func appendXerial(dst, p []byte) []byte {
	dst = append(dst, xerialMagic...)
	dst = append(dst, 0, 0, 0, 1, 0, 0, 0, 1)
	block := make([]byte, snappy.MaxEncodedLen(min(len(p), xerialBlock)))
	for len(p) > 0 {
		n := min(len(p), xerialBlock)
		out := snappy.Encode(block, p[:n])
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(out)))
		dst = append(dst, out...)
		p = p[n:]
	}
	return dst
}

// isOurs says whether err wraps an error of this package already.
func isOurs(err error) bool {
	return errors.Is(err, ErrInvalid) || errors.Is(err, ErrTooLarge) || errors.Is(err, ErrCompression)
}
