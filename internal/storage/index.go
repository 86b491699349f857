package storage

import (
	"encoding/binary"
	"fmt"
	"sort"
)

// The sizes of one entry in Kafka's index files.
const (
	offsetEntryBytes = 8
	timeEntryBytes   = 12
)

// offsetEntry says that the batch whose last offset is base+rel starts at byte pos.
type offsetEntry struct{ rel, pos uint32 }

// timeEntry says that no record up to offset base+rel is newer than ts.
type timeEntry struct {
	tsMs int64
	rel  uint32
}

// sparse is the sparse index of one segment: one offset entry about every
// index.interval.bytes, and a time entry whenever the largest timestamp grew in
// between. Entries are strictly increasing in every field (Kafka's rule), so both
// lists can be searched by halving. Not safe for concurrent use; segment guards it.
type sparse struct {
	offsets []offsetEntry
	times   []timeEntry
}

// addOffset appends an entry unless it would not increase.
func (x *sparse) addOffset(rel, pos uint32) {
	if n := len(x.offsets); n > 0 && (rel <= x.offsets[n-1].rel || pos <= x.offsets[n-1].pos) {
		return
	}
	x.offsets = append(x.offsets, offsetEntry{rel, pos})
}

// addTime appends an entry unless timestamp or offset would not increase.
func (x *sparse) addTime(tsMs int64, rel uint32) {
	if n := len(x.times); n > 0 && (tsMs <= x.times[n-1].tsMs || rel <= x.times[n-1].rel) {
		return
	}
	x.times = append(x.times, timeEntry{tsMs, rel})
}

// entryFor returns the entry at or before the batch that holds base+rel; ok is false if that is the first batch.
func (x *sparse) entryFor(rel uint32) (e offsetEntry, ok bool) {
	// An entry holds the last offset of the batch at its position, so the batch that
	// holds rel is at the largest entry <= rel or behind it.
	i := sort.Search(len(x.offsets), func(i int) bool { return x.offsets[i].rel > rel })
	if i == 0 {
		return offsetEntry{}, false
	}
	return x.offsets[i-1], true
}

// begin returns where a search for offset base+rel begins, and what is known of the batch there.
func (x *sparse) begin(base int64, rel uint32, gaps int64) (pos int64, order batchOrder) {
	e, ok := x.entryFor(rel)
	if !ok {
		return 0, batchOrder{base, -1, gaps}
	}
	return int64(e.pos), batchOrder{-1, base + int64(e.rel), gaps} // not always the first one ends there: Kafka appends several at once
}

// relBefore returns an offset (relative) before which no record is as new as tsMs.
func (x *sparse) relBefore(tsMs int64) uint32 {
	i := sort.Search(len(x.times), func(i int) bool { return x.times[i].tsMs >= tsMs })
	if i == 0 {
		return 0
	}
	return x.times[i-1].rel
}

// maxTime returns the last time entry, or ok=false.
func (x *sparse) maxTime() (timeEntry, bool) {
	if len(x.times) == 0 {
		return timeEntry{}, false
	}
	return x.times[len(x.times)-1], true
}

func (x *sparse) sizeBytes() int64 {
	return int64(cap(x.offsets))*offsetEntryBytes + int64(cap(x.times))*16
}

// appendOffsets and appendTimes write entries from the n-th on in Kafka's form.
func (x *sparse) appendOffsets(dst []byte, n int) []byte {
	for _, e := range x.offsets[n:] {
		dst = binary.BigEndian.AppendUint32(dst, e.rel)
		dst = binary.BigEndian.AppendUint32(dst, e.pos)
	}
	return dst
}

func (x *sparse) appendTimes(dst []byte, n int) []byte {
	for _, e := range x.times[n:] {
		dst = binary.BigEndian.AppendUint64(dst, uint64(e.tsMs))
		dst = binary.BigEndian.AppendUint32(dst, e.rel)
	}
	return dst
}

// parseOffsets and parseTimes read whole index files. A file that Kafka left
// preallocated ends in zero entries; they end the index. segmentBytes bounds the
// positions. Any entry that does not increase is an error: the index is then rebuilt.
func (x *sparse) parseOffsets(p []byte, segmentBytes int64) error {
	if len(p)%offsetEntryBytes != 0 {
		return fmt.Errorf("size %d is not a multiple of %d", len(p), offsetEntryBytes)
	}
	x.offsets = make([]offsetEntry, 0, len(p)/offsetEntryBytes)
	for i := 0; i < len(p); i += offsetEntryBytes {
		e := offsetEntry{binary.BigEndian.Uint32(p[i:]), binary.BigEndian.Uint32(p[i+4:])}
		if e == (offsetEntry{}) && i > 0 {
			break
		}
		if int64(e.pos) >= segmentBytes {
			return fmt.Errorf("entry %d points to byte %d of %d", i/offsetEntryBytes, e.pos, segmentBytes)
		}
		if n := len(x.offsets); n > 0 && (e.rel <= x.offsets[n-1].rel || e.pos <= x.offsets[n-1].pos) {
			return fmt.Errorf("entry %d does not increase", i/offsetEntryBytes)
		}
		x.offsets = append(x.offsets, e)
	}
	return nil
}

func (x *sparse) parseTimes(p []byte) error {
	if len(p)%timeEntryBytes != 0 {
		return fmt.Errorf("size %d is not a multiple of %d", len(p), timeEntryBytes)
	}
	x.times = make([]timeEntry, 0, len(p)/timeEntryBytes)
	for i := 0; i < len(p); i += timeEntryBytes {
		e := timeEntry{int64(binary.BigEndian.Uint64(p[i:])), binary.BigEndian.Uint32(p[i+8:])}
		if e == (timeEntry{}) && i > 0 {
			break
		}
		if n := len(x.times); n > 0 && (e.tsMs <= x.times[n-1].tsMs || e.rel < x.times[n-1].rel) {
			return fmt.Errorf("entry %d does not increase", i/timeEntryBytes)
		}
		x.times = append(x.times, e)
	}
	return nil
}
