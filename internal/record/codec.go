package record

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Codec is how the records of a batch are compressed; its values are those of the attributes.
type Codec int8

const (
	None Codec = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

// String is Kafka's name, as in compression.type.
func (c Codec) String() string {
	switch c {
	case None:
		return "none"
	case Gzip:
		return "gzip"
	case Snappy:
		return "snappy"
	case LZ4:
		return "lz4"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("codec %d", int8(c))
}

// ParseCodec reads Kafka's name of a codec; "uncompressed" is the topic property's word for none.
func ParseCodec(s string) (Codec, error) {
	if s == "uncompressed" {
		return None, nil
	}
	for c := None; c <= Zstd; c++ {
		if s == c.String() {
			return c, nil
		}
	}
	return None, fmt.Errorf("%w: %q, allowed: none, gzip, snappy, lz4, zstd", ErrCompression, s)
}

const (
	// DefaultMaxInflatedBytes is the limit where the caller sets none.
	DefaultMaxInflatedBytes = 256 << 20

	windowSize     = 32 << 10 // what a walker holds of a stream
	keepBuffer     = 1 << 20  // larger buffers are not kept in the pool
	streamedWindow = 8 << 20  // zstd's window up to level 19: decoded as a stream
	largestWindow  = 128 << 20
)

// inflater turns the compressed records of one batch into a stream that ends in ErrTooLarge after
// max bytes. It runs in the caller's goroutine. Its decoders are made once and reused.
type inflater struct {
	codec Codec
	from  io.Reader // the codec's decoder
	left  int64
	max   int64

	src    bytes.Reader
	buf    []byte // the walker's window
	gzip   *gzip.Reader
	lz4    *lz4.Reader
	zstd   *zstd.Decoder
	snappy snappyReader
	whole  bytes.Reader // of a zstd frame with a large window, inflated at once
}

var inflaters = sync.Pool{New: func() any { return &inflater{buf: make([]byte, windowSize)} }}

// openInflater begins to inflate p; the caller closes the inflater.
func openInflater(c Codec, p []byte, maxInflated int64) (*inflater, error) {
	if maxInflated <= 0 {
		maxInflated = DefaultMaxInflatedBytes
	}
	in := inflaters.Get().(*inflater)
	in.codec, in.left, in.max = c, maxInflated, maxInflated
	in.src.Reset(p)
	if err := in.open(p); err != nil {
		in.close()
		return nil, err
	}
	return in, nil
}

func (in *inflater) open(p []byte) (err error) {
	switch in.codec {
	case Gzip:
		if in.gzip == nil {
			in.gzip = new(gzip.Reader)
		}
		err = in.gzip.Reset(&in.src)
		in.from = in.gzip
	case Snappy:
		err = in.snappy.reset(p, in.max)
		in.from = &in.snappy
	case LZ4:
		if err = checkLZ4(p); err == nil {
			if in.lz4 == nil {
				in.lz4 = lz4.NewReader(nil)
			}
			in.lz4.Reset(&in.src)
			in.from = in.lz4
		}
	case Zstd:
		err = in.openZstd(p)
	default:
		return fmt.Errorf("%w: Unknown compression type id: %d", ErrCompression, int8(in.codec))
	}
	if err == io.EOF { // there is nothing at all, not even the end of something
		err = io.ErrUnexpectedEOF
	}
	return in.wrap(err)
}

func (in *inflater) openZstd(p []byte) error {
	var h zstd.Header
	if err := h.Decode(p); err != nil {
		return err
	}
	window := h.WindowSize
	if h.SingleSegment {
		window = h.FrameContentSize
	}
	if window > streamedWindow {
		return in.inflateWhole(p)
	}
	if in.zstd == nil {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(streamedWindow))
		if err != nil {
			return err
		}
		in.zstd = d
	}
	in.from = in.zstd
	return in.zstd.Reset(&in.src)
}

// inflateWhole is for levels above 19, which claim a window of up to 128 MiB however little they hold:
// a stream would allocate that window. The output grows instead, so memory follows what is there.
func (in *inflater) inflateWhole(p []byte) error {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(largestWindow), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return err
	}
	defer d.Close()
	for size := min(in.max, int64(len(p))*8+windowSize); ; size = min(in.max, size*4) {
		out, err := d.DecodeAll(p, make([]byte, 0, size))
		if err == nil {
			in.whole.Reset(out)
			in.from = &in.whole
			return nil
		}
		if err != zstd.ErrDecoderSizeExceeded {
			return err
		}
		if size == in.max {
			return in.tooLarge()
		}
	}
}

func (in *inflater) tooLarge() error {
	return fmt.Errorf("%w: more than %d bytes after inflation by %s", ErrTooLarge, in.max, in.codec)
}

// wrap makes the decoder's complaint ours. The CRC was right, so a retry would not help: ErrInvalid.
func (in *inflater) wrap(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if isOurs(err) {
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrInvalid, in.codec, err)
}

func (in *inflater) Read(p []byte) (int, error) {
	if in.left == 0 {
		var one [1]byte
		switch n, err := in.from.Read(one[:]); {
		case n > 0:
			return 0, in.tooLarge()
		default:
			return 0, in.wrap(err)
		}
	}
	if int64(len(p)) > in.left {
		p = p[:in.left]
	}
	n, err := in.from.Read(p)
	in.left -= int64(n)
	return n, in.wrap(err)
}

func (in *inflater) window() []byte { return in.buf }

// keep takes back the window, which may have grown.
func (in *inflater) keep(buf []byte) {
	if len(buf) <= keepBuffer {
		in.buf = buf
	}
}

func (in *inflater) close() {
	in.src.Reset(nil)
	in.whole.Reset(nil)
	in.snappy.release()
	if in.zstd != nil {
		_ = in.zstd.Reset(nil) // only lets go of the bytes
	}
	if in.lz4 != nil {
		in.lz4.Reset(nil)
	}
	in.from = nil
	inflaters.Put(in)
}

// checkLZ4 makes sure that p is what Kafka's own reader takes: one frame of independent blocks, whole,
// with nothing after it. (The library would also read legacy, skippable and concatenated frames.)
func checkLZ4(p []byte) error {
	const frameMagic = 0x184D2204
	if len(p) < 7 || binary.LittleEndian.Uint32(p) != frameMagic {
		return fmt.Errorf("%w: lz4: no frame", ErrInvalid)
	}
	flags := p[4]
	if flags>>6 != 1 || flags&0x20 == 0 {
		return fmt.Errorf("%w: lz4: frame version %d, flags %#x: blocks must be independent", ErrInvalid, flags>>6, flags)
	}
	at := 7
	if flags&0x08 != 0 { // content size
		at += 8
	}
	for {
		if len(p)-at < 4 {
			return fmt.Errorf("%w: lz4: frame ends early", ErrInvalid)
		}
		n := int64(binary.LittleEndian.Uint32(p[at:]) & 0x7fffffff)
		at += 4
		if n == 0 {
			break
		}
		if flags&0x10 != 0 { // block checksum
			n += 4
		}
		if n > int64(len(p)-at) {
			return fmt.Errorf("%w: lz4: block of %d bytes, %d left", ErrInvalid, n, len(p)-at)
		}
		at += int(n)
	}
	if flags&0x04 != 0 { // content checksum
		at += 4
	}
	if at != len(p) {
		return fmt.Errorf("%w: lz4: frame is %d bytes of %d", ErrInvalid, at, len(p))
	}
	return nil
}

// The encoders, one pool per level where a level is fixed when an encoder is made.
var (
	gzipWriters [10]sync.Pool // by level; 0 is the default level
	lz4Writers  = sync.Pool{New: func() any { return lz4.NewWriter(nil) }}
	zstdWriters [5]sync.Pool // by zstd.EncoderLevel
)

// deflate appends p, compressed, to dst. Level 0 is the codec's default; others are Kafka's:
// gzip 1-9, lz4 1-17 (9 is the default), zstd up to 22; what the library lacks is rounded.
func deflate(dst []byte, c Codec, level int, p []byte) ([]byte, error) {
	switch c {
	case None:
		return append(dst, p...), nil
	case Gzip:
		return deflateGzip(dst, level, p)
	case Snappy:
		return appendXerial(dst, p), nil
	case LZ4:
		return deflateLZ4(dst, level, p)
	case Zstd:
		return deflateZstd(dst, level, p)
	}
	return nil, fmt.Errorf("%w: %s", ErrCompression, c)
}

func deflateGzip(dst []byte, level int, p []byte) ([]byte, error) {
	level = min(max(level, 0), 9)
	out := bytes.NewBuffer(dst)
	w, _ := gzipWriters[level].Get().(*gzip.Writer)
	if w == nil {
		libLevel := level
		if level == 0 {
			libLevel = gzip.DefaultCompression
		}
		var err error
		if w, err = gzip.NewWriterLevel(out, libLevel); err != nil {
			return nil, err
		}
	} else {
		w.Reset(out)
	}
	if _, err := w.Write(p); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	w.Reset(io.Discard)
	gzipWriters[level].Put(w)
	return out.Bytes(), nil
}

func deflateLZ4(dst []byte, level int, p []byte) ([]byte, error) {
	libLevel := lz4.Fast
	if level != 0 && level != 9 {
		libLevel = lz4.CompressionLevel(1 << (8 + min(max(level, 1), 9)))
	}
	out := bytes.NewBuffer(dst)
	w := lz4Writers.Get().(*lz4.Writer)
	w.Reset(out)
	// Kafka's writer: blocks of 64 KiB, independent, no checksums.
	if err := w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false), lz4.BlockChecksumOption(false),
		lz4.ConcurrencyOption(1), lz4.CompressionLevelOption(libLevel)); err != nil {
		return nil, err
	}
	if _, err := w.Write(p); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	w.Reset(nil)
	lz4Writers.Put(w)
	return out.Bytes(), nil
}

func deflateZstd(dst []byte, level int, p []byte) ([]byte, error) {
	libLevel := zstd.SpeedDefault
	if level != 0 {
		libLevel = zstd.EncoderLevelFromZstd(level)
	}
	pool := &zstdWriters[libLevel]
	w, _ := pool.Get().(*zstd.Encoder)
	if w == nil {
		var err error
		if w, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(libLevel), zstd.WithLowerEncoderMem(true),
			zstd.WithWindowSize(2<<20)); err != nil {
			return nil, err
		}
	}
	out := w.EncodeAll(p, dst)
	pool.Put(w)
	return out, nil
}
