package cli

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"moldau/internal/record"
	"moldau/internal/storage"
)

const (
	// crcStart is where the bytes begin that a batch's CRC covers: after the CRC itself.
	crcStart = 21
	// maxDumpedBatch bounds the batch that --records holds in memory.
	maxDumpedBatch = 128 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// batchScan walks the batches of a .log file by their headers.
type batchScan struct {
	file     io.ReaderAt
	size     int64
	position int64 // of the next header
	at       int64 // of the header that next returned
	buffer   [record.HeaderSize]byte
}

// errNoBatch says that there is no whole batch where one should begin.
var errNoBatch = errors.New("no whole batch here")

// next returns the next header, valid until the next call; io.EOF at the end of the
// file. After errNoBatch there is no way to find another batch.
func (s *batchScan) next() (record.Header, error) {
	if s.position == s.size {
		return nil, io.EOF
	}
	s.at = s.position
	head := s.buffer[:min(int64(len(s.buffer)), s.size-s.position)]
	if err := readFullAt(s.file, head, s.position); err != nil {
		return nil, err
	}
	h, err := record.HeaderOf(head)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoBatch, err)
	}
	if left := s.size - s.position; int64(h.Size()) > left {
		return nil, fmt.Errorf("%w: it says %d bytes, the file has %d more", errNoBatch, h.Size(), left)
	}
	s.position += int64(h.Size())
	return h, nil
}

// segment prints a .log file.
func (d *dumper) segment(f *os.File, size int64) error {
	scan := batchScan{file: f, size: size}
	last := int64(-1)
	var batches, records int64
	for {
		h, err := scan.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, errNoBatch) {
			if end, zeroErr := lastNonZero(f, size); zeroErr != nil {
				return zeroErr
			} else if end <= scan.at && storage.Padding(scan.at, size) {
				if err := d.emit("zeros", scan.at, field{"size", size - scan.at}); err != nil {
					return err
				}
				break
			} else if end <= scan.at {
				err = fmt.Errorf("zeros from here to the end (%s)", plural(size-scan.at, "byte"))
			}
			if err := d.problem(scan.at, "%v", err); err != nil {
				return err
			}
			break
		}
		if err != nil {
			return err
		}
		batches++
		records += int64(h.Count())
		if err := d.batch(f, scan.at, h, last); err != nil {
			return err
		}
		last = h.LastOffset()
	}
	if d.json {
		return nil
	}
	_, err := fmt.Fprintf(d.out, "  %d batches, %s\n", batches, plural(records, "record"))
	return err
}

// batch prints one batch and checks it; last is the offset before it, -1 for none.
func (d *dumper) batch(f *os.File, position int64, h record.Header, last int64) error {
	timestampType := "CreateTime"
	if h.LogAppendTime() {
		timestampType = "LogAppendTime"
	}
	fields := []field{
		{"baseOffset", h.BaseOffset()}, {"lastOffset", h.LastOffset()}, {"count", h.Count()}, {"size", h.Size()},
		{"leaderEpoch", h.LeaderEpoch()}, {"producerId", h.ProducerID()}, {"producerEpoch", h.ProducerEpoch()},
		{"baseSequence", h.BaseSequence()}, {"lastSequence", h.LastSequence()}, {"codec", h.Codec().String()},
		{"timestampType", timestampType}, {"baseTimestamp", millis(h.BaseTimestampMs())}, {"maxTimestamp", millis(h.MaxTimestampMs())},
		{"transactional", h.Transactional()}, {"control", h.Control()}, {"deleteHorizon", h.DeleteHorizon()},
		{"attributes", h.Attributes()}, {"magic", 2}, {"crc", h.CRC()},
	}
	if err := d.emit("batch", position, fields...); err != nil {
		return err
	}
	if h.BaseOffset() <= last {
		if err := d.problem(position, "base offset %d does not follow offset %d", h.BaseOffset(), last); err != nil {
			return err
		}
	}
	if h.LastOffsetDelta() < 0 || h.Count() < 0 {
		if err := d.problem(position, "last offset delta %d and count %d must not be negative", h.LastOffsetDelta(), h.Count()); err != nil {
			return err
		}
	}
	sum, err := crcOf(f, position+crcStart, position+int64(h.Size()))
	if err != nil {
		return err
	}
	if sum != h.CRC() {
		return d.problem(position, "the batch's CRC is %d, its bytes have %d", h.CRC(), sum)
	}
	if d.records {
		return d.recordsOf(f, position, h.Size())
	}
	return nil
}

// crcOf is the CRC-32C of a range, read in small pieces.
func crcOf(f io.ReaderAt, from, to int64) (uint32, error) {
	sum := crc32.New(castagnoli)
	_, err := io.Copy(sum, io.NewSectionReader(f, from, to-from))
	return sum.Sum32(), err
}

func (d *dumper) recordsOf(f *os.File, position int64, size int) error {
	if size > maxDumpedBatch {
		return d.problem(position, "the records are not shown: the batch is larger than %s", bytesText(maxDumpedBatch))
	}
	whole := make([]byte, size)
	if err := readFullAt(f, whole, position); err != nil {
		return err
	}
	b, _, err := record.Parse(whole)
	if err != nil {
		return d.problem(position, "%v", err)
	}
	if b.Control() {
		return d.controlOf(position, b)
	}
	var output error
	err = b.Each(record.DefaultMaxInflatedBytes, func(r record.Record) error {
		headers := []field{}
		if err := record.EachHeader(r.Headers, func(key string, value []byte) error {
			headers = append(headers, field{key, value})
			return nil
		}); err != nil {
			return err
		}
		output = d.emit("record", position, field{"offset", r.Offset}, field{"timestamp", millis(r.TimestampMs)},
			field{"key", r.Key}, field{"value", r.Value}, field{"headers", headers})
		return output
	})
	if output != nil || err == nil {
		return output
	}
	return d.problem(position, "the records cannot be read: %v", err)
}

func (d *dumper) controlOf(position int64, b record.Batch) error {
	if b.Count() == 0 {
		return nil // compaction keeps the last batch of a producer, if need be without its record
	}
	kind, err := b.ControlType()
	if err != nil {
		return d.problem(position, "the control record cannot be read: %v", err)
	}
	fields := []field{{"offset", b.BaseOffset()}, {"type", kind.String()}}
	if marker, err := b.EndMarker(); err == nil {
		fields = append(fields, field{"coordinatorEpoch", marker.CoordinatorEpoch})
	}
	return d.emit("control", position, fields...)
}
