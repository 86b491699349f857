package cli

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"moldau/internal/record"
	"moldau/internal/storage"
)

// Sizes of entries on disk.
const (
	offsetEntrySize   = 8  // relative offset int32, position int32
	timeEntrySize     = 12 // timestamp int64, relative offset int32
	txnEntrySize      = 34 // version int16, then producer id, first, last and last stable offset, each int64
	snapshotHeadSize  = 10 // version int16, CRC uint32, count int32
	snapshotEntrySize = 46 // of producerFields
)

// baseOffsetOf reads the offset that a segment's files are named after.
func baseOffsetOf(name string) (int64, error) {
	digits, _, _ := strings.Cut(filepath.Base(name), ".")
	n, ok := parseDigits(digits)
	if !ok || len(digits) != 20 {
		return 0, fmt.Errorf("%s is not named after its base offset, 20 digits", filepath.Base(name))
	}
	return n, nil
}

// logBeside opens the .log file of an index; nil when there is none.
func (d *dumper) logBeside() (*batchScan, io.Closer, error) {
	name := d.file
	for _, suffix := range []string{".timeindex", ".index"} {
		if i := strings.LastIndex(name, suffix); i >= 0 {
			name = name[:i] + ".log" + name[i+len(suffix):]
			break
		}
	}
	f, err := os.Open(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil, io.NopCloser(nil), nil
	}
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return &batchScan{file: f, size: info.Size()}, f, nil
}

// eachEntry reads entries of one size, up to the zeros that fill a preallocated index.
func (d *dumper) eachEntry(f *os.File, size int64, entrySize int, each func(position int64, entry []byte) error) error {
	end, err := lastNonZero(f, size)
	if err != nil {
		return err
	}
	r := bufio.NewReaderSize(f, 64<<10)
	entry := make([]byte, entrySize)
	for position := int64(0); position < end && position+int64(entrySize) <= size; position += int64(entrySize) {
		if _, err := io.ReadFull(r, entry); err != nil {
			return err
		}
		if err := each(position, entry); err != nil {
			return err
		}
	}
	if rest := size % int64(entrySize); rest != 0 {
		return d.problem(size-rest, "the file ends within an entry: %s too many", plural(rest, "byte"))
	}
	return nil
}

// lastNonZero is the position after the last byte that is not zero.
func lastNonZero(f io.ReaderAt, size int64) (int64, error) {
	buffer := make([]byte, 64<<10)
	for size > 0 {
		part := buffer[:min(int64(len(buffer)), size)]
		size -= int64(len(part))
		if err := readFullAt(f, part, size); err != nil {
			return 0, err
		}
		if kept := bytes.TrimRight(part, "\x00"); len(kept) > 0 {
			return size + int64(len(kept)), nil
		}
	}
	return 0, nil
}

// offsetIndex prints an .index file: an entry is the last offset of the batch at a position.
func (d *dumper) offsetIndex(f *os.File, size int64) error {
	base, err := baseOffsetOf(d.file)
	if err != nil {
		return d.problem(-1, "%v", err)
	}
	log, closer, err := d.logBeside()
	if err != nil {
		return err
	}
	defer closer.Close()
	lastOffset, lastPosition := int64(-1), int64(-1)
	return d.eachEntry(f, size, offsetEntrySize, func(at int64, entry []byte) error {
		offset := base + int64(int32(binary.BigEndian.Uint32(entry)))
		position := int64(int32(binary.BigEndian.Uint32(entry[4:])))
		if err := d.emit("entry", at, field{"offset", offset}, field{"logPosition", position}); err != nil {
			return err
		}
		if offset <= lastOffset || position <= lastPosition {
			if err := d.problem(at, "the entry does not follow the one before it"); err != nil {
				return err
			}
		}
		lastOffset, lastPosition = offset, position
		if log == nil {
			return nil
		}
		if position < 0 || position >= log.size {
			return d.problem(at, "position %d is not in the log, which has %s", position, plural(log.size, "byte"))
		}
		log.position = position
		h, err := log.next()
		switch {
		case errors.Is(err, errNoBatch):
			return d.problem(at, "no batch begins at position %d of the log", position)
		case err != nil:
			return err
		case h.LastOffset() != offset:
			return d.problem(at, "the batch at position %d of the log ends with offset %d, not %d", position, h.LastOffset(), offset)
		}
		return nil
	})
}

// timeIndex prints a .timeindex file: an entry is the largest timestamp so far, and an
// offset of the batch that has it. Both ascend, so one walk along the log checks all.
func (d *dumper) timeIndex(f *os.File, size int64) error {
	base, err := baseOffsetOf(d.file)
	if err != nil {
		return d.problem(-1, "%v", err)
	}
	log, closer, err := d.logBeside()
	if err != nil {
		return err
	}
	defer closer.Close()
	var h record.Header
	lastTime, lastOffset := int64(-1), int64(-1)
	return d.eachEntry(f, size, timeEntrySize, func(at int64, entry []byte) error {
		timestamp := int64(binary.BigEndian.Uint64(entry))
		offset := base + int64(int32(binary.BigEndian.Uint32(entry[8:])))
		if err := d.emit("entry", at, field{"timestamp", millis(timestamp)}, field{"offset", offset}); err != nil {
			return err
		}
		if timestamp <= lastTime || offset < lastOffset {
			if err := d.problem(at, "the entry does not follow the one before it"); err != nil {
				return err
			}
		}
		lastTime, lastOffset = timestamp, offset
		if log == nil {
			return nil
		}
		for h == nil || h.LastOffset() < offset {
			h, err = log.next()
			if errors.Is(err, io.EOF) || errors.Is(err, errNoBatch) {
				h = nil
				return d.problem(at, "offset %d is not in the log", offset)
			}
			if err != nil {
				return err
			}
		}
		if h.MaxTimestampMs() != timestamp {
			return d.problem(at, "the batch with offset %d has the largest timestamp %d, not %d", offset, h.MaxTimestampMs(), timestamp)
		}
		return nil
	})
}

// txnIndex prints a .txnindex file: the aborted transactions of a segment.
func (d *dumper) txnIndex(f *os.File, size int64) error {
	return d.eachEntry(f, size, txnEntrySize, func(at int64, entry []byte) error {
		version := int16(binary.BigEndian.Uint16(entry))
		n := func(i int) int64 { return int64(binary.BigEndian.Uint64(entry[2+8*i:])) }
		if err := d.emit("abortedTransaction", at, field{"version", version}, field{"producerId", n(0)},
			field{"firstOffset", n(1)}, field{"lastOffset", n(2)}, field{"lastStableOffset", n(3)}); err != nil {
			return err
		}
		if version != 0 {
			return d.problem(at, "version %d is not known, 0 is", version)
		}
		if n(1) > n(2) {
			return d.problem(at, "the transaction ends before it begins")
		}
		return nil
	})
}

// maxManifestBytes bounds what is read of a manifest; a broker rewrites it long before.
const maxManifestBytes = 1 << 30

// manifest prints the manifest of a metadata directory: what the broker knows of each partition's files.
func (d *dumper) manifest(f *os.File, size int64) error {
	if size > maxManifestBytes {
		return d.problem(-1, "a manifest is never larger than %s", bytesText(maxManifestBytes))
	}
	data := make([]byte, size)
	if err := readFullAt(f, data, 0); err != nil {
		return err
	}
	var output error
	end, err := storage.EachManifestRecord(data, func(at int64, r storage.ManifestRecord) error {
		fields := []field{{"topic", r.Partition.Topic}, {"partition", r.Partition.Partition}, {"topicId", r.TopicID.String()}}
		switch r.Kind {
		case "point", "rest":
			if r.Kind == "rest" {
				fields = append(fields, field{"bytes", r.Bytes}, field{"segments", r.Segments})
			}
			fields = append(fields, field{"logStart", r.LogStart}, field{"offset", r.Offset}, field{"segment", r.Segment}, field{"segmentPosition", r.Position},
				field{"leaderEpochs", int64(len(r.Epochs))}, field{"producers", int64(r.Producers)})
		case "start":
			fields = append(fields, field{"logStart", r.LogStart})
		case "cleaned":
			fields = append(fields, field{"cleanedTo", r.Dirty}, field{"gapsBelow", r.Gaps})
		case "flushed":
			fields = append(fields, field{"offset", r.Offset})
		case "damaged":
			fields = append(fields, field{"damagedRanges", int64(r.Damaged)})
		case "cut":
			fields = append(fields, field{"journalSequence", r.Cut})
		}
		output = d.emit(r.Kind, at, fields...)
		return output
	})
	switch {
	case output != nil:
		return output
	case err != nil:
		return d.problem(end, "%v", err)
	case end < size:
		return d.problem(end, "the last %s are no whole record: a write that a crash cut off, which the next start removes", plural(size-end, "byte"))
	}
	return nil
}

// journal prints a file of the journal: which ends of which logs stand in it.
func (d *dumper) journal(f *os.File, size int64) error {
	end, err := storage.EachJournalGroup(f, size, func(g storage.JournalGroup) error {
		if err := d.emit("group", g.Position, field{"sequence", g.Sequence}, field{"pass", fmt.Sprintf("%016x", g.Pass)}, field{"bytes", g.Bytes}, field{"tails", int64(len(g.Tails))}); err != nil {
			return err
		}
		for _, t := range g.Tails {
			if err := d.emit("tail", t.At, field{"topicId", t.TopicID.String()}, field{"partition", t.Partition}, field{"segment", t.Segment},
				field{"segmentPosition", t.Position}, field{"bytes", t.Bytes}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return d.emit("end", end.Position)
}

// producerSnapshot prints a .snapshot file: the state of all idempotent producers at an offset.
func (d *dumper) producerSnapshot(f *os.File, size int64) error {
	head := make([]byte, snapshotHeadSize)
	if size < snapshotHeadSize {
		return d.problem(0, "the file is shorter than its header of %d bytes", snapshotHeadSize)
	}
	if err := readFullAt(f, head, 0); err != nil {
		return err
	}
	version := int16(binary.BigEndian.Uint16(head))
	stored, count := binary.BigEndian.Uint32(head[2:]), int32(binary.BigEndian.Uint32(head[6:]))
	if err := d.emit("snapshot", 0, field{"version", version}, field{"crc", stored}, field{"producers", count}); err != nil {
		return err
	}
	if version != 1 {
		return d.problem(0, "version %d is not known, 1 is", version)
	}
	sum := crc32.New(castagnoli)
	if _, err := io.Copy(sum, io.NewSectionReader(f, 6, size-6)); err != nil {
		return err
	}
	if sum.Sum32() != stored {
		if err := d.problem(2, "the file's CRC is %d, its bytes have %d", stored, sum.Sum32()); err != nil {
			return err
		}
	}
	if want := snapshotHeadSize + int64(count)*snapshotEntrySize; count < 0 || want != size {
		if err := d.problem(6, "%d producers need %d bytes, the file has %d", count, want, size); err != nil {
			return err
		}
	}
	entry := make([]byte, snapshotEntrySize)
	for i := int64(0); i < int64(count); i++ {
		at := snapshotHeadSize + i*snapshotEntrySize
		if at+snapshotEntrySize > size {
			return nil
		}
		if err := readFullAt(f, entry, at); err != nil {
			return err
		}
		if err := d.emit("producer", at, producerFields(entry)...); err != nil {
			return err
		}
	}
	return nil
}

func producerFields(p []byte) []field {
	long := func(i int) int64 { return int64(binary.BigEndian.Uint64(p[i:])) }
	integer := func(i int) int32 { return int32(binary.BigEndian.Uint32(p[i:])) }
	return []field{
		{"producerId", long(0)}, {"producerEpoch", int16(binary.BigEndian.Uint16(p[8:]))}, {"lastSequence", integer(10)},
		{"lastOffset", long(14)}, {"offsetDelta", integer(22)}, {"timestamp", millis(long(26))},
		{"coordinatorEpoch", integer(34)}, {"currentTxnFirstOffset", long(38)},
	}
}

// maxCheckpointLine bounds a line of the text files.
const maxCheckpointLine = 64 << 10

// eachLine numbers the lines of a text file.
func (d *dumper) eachLine(f *os.File, line func(number int, position int64, text string) error) error {
	s := bufio.NewScanner(f)
	s.Buffer(make([]byte, 4<<10), maxCheckpointLine)
	position := int64(0)
	for n := 1; s.Scan(); n++ {
		if err := line(n, position, s.Text()); err != nil {
			return err
		}
		position += int64(len(s.Bytes())) + 1
	}
	if errors.Is(s.Err(), bufio.ErrTooLong) {
		return d.problem(position, "the line is longer than %s", bytesText(maxCheckpointLine))
	}
	return s.Err()
}

func (d *dumper) leaderEpochs(f *os.File, _ int64) error {
	lastEpoch, lastStart := int64(-1), int64(-1)
	return d.checkpoint(f, 2, func(position int64, words []string) error {
		epoch, epochOK := parseDigits(words[0])
		start, startOK := parseDigits(words[1])
		if !epochOK || !startOK {
			return d.problem(position, "%q is not an epoch and an offset", strings.Join(words, " "))
		}
		if err := d.emit("leaderEpoch", position, field{"epoch", epoch}, field{"startOffset", start}); err != nil {
			return err
		}
		if epoch <= lastEpoch || start < lastStart {
			return d.problem(position, "the epoch does not follow the one before it")
		}
		lastEpoch, lastStart = epoch, start
		return nil
	})
}

func (d *dumper) offsetCheckpoint(f *os.File, _ int64) error {
	return d.checkpoint(f, 3, func(position int64, words []string) error {
		partition, partitionOK := parseDigits(words[1])
		offset, offsetOK := parseDigits(words[2])
		if !partitionOK || !offsetOK {
			return d.problem(position, "%q is not a topic, a partition and an offset", strings.Join(words, " "))
		}
		return d.emit("checkpoint", position, field{"topic", words[0]}, field{"partition", partition}, field{"offset", offset})
	})
}

// checkpoint reads a checkpoint file: version 0, the count of entries, and as many lines of words.
func (d *dumper) checkpoint(f *os.File, words int, entry func(position int64, words []string) error) error {
	count, entries := int64(-1), int64(0)
	err := d.eachLine(f, func(number int, position int64, text string) error {
		switch number {
		case 1:
			if text != "0" {
				return d.problem(position, "version %q is not known, 0 is", text)
			}
			return nil
		case 2:
			n, ok := parseDigits(text)
			if !ok {
				return d.problem(position, "%q is not a count of entries", text)
			}
			count = n
			return nil
		}
		entries++
		parts := strings.Fields(text)
		if len(parts) != words {
			return d.problem(position, "%q has not %d parts", text, words)
		}
		return entry(position, parts)
	})
	if err != nil || entries == count {
		return err
	}
	if count < 0 {
		return d.problem(-1, "the file has no count of entries")
	}
	return d.problem(-1, "the file says %d entries and has %d", count, entries)
}

// properties prints partition.metadata ("key: value") and meta.properties ("key=value").
func (d *dumper) properties(f *os.File, _ int64) error {
	separator := "="
	if filepath.Base(d.file) == "partition.metadata" {
		separator = ":"
	}
	return d.eachLine(f, func(number int, position int64, text string) error {
		text = strings.TrimSpace(text)
		if text == "" || text[0] == '#' {
			return nil
		}
		key, value, ok := strings.Cut(text, separator)
		if !ok {
			return d.problem(position, "line %s is no key%svalue", strconv.Itoa(number), separator)
		}
		return d.emit("property", position, field{strings.TrimSpace(key), strings.TrimSpace(value)})
	})
}
