package storage

import (
	"encoding/binary"
	"fmt"
	"path"
	"sort"

	"moldau/internal/vfs"
)

// txnEntryBytes is one aborted transaction in Kafka's .txnindex, version 0.
const txnEntryBytes = 2 + 4*8

func appendTxnEntry(dst []byte, a AbortedTxn) []byte {
	dst = binary.BigEndian.AppendUint16(dst, 0)
	dst = binary.BigEndian.AppendUint64(dst, uint64(a.ProducerID))
	dst = binary.BigEndian.AppendUint64(dst, uint64(a.FirstOffset))
	dst = binary.BigEndian.AppendUint64(dst, uint64(a.LastOffset))
	return binary.BigEndian.AppendUint64(dst, uint64(a.LastStableOffset))
}

func parseTxnIndex(p []byte) ([]AbortedTxn, error) {
	if len(p)%txnEntryBytes != 0 {
		return nil, fmt.Errorf("size %d is not a multiple of %d", len(p), txnEntryBytes)
	}
	var out []AbortedTxn
	for ; len(p) > 0; p = p[txnEntryBytes:] {
		if v := binary.BigEndian.Uint16(p); v != 0 {
			return nil, fmt.Errorf("version %d is not 0", v)
		}
		a := AbortedTxn{
			ProducerID:       int64(binary.BigEndian.Uint64(p[2:])),
			FirstOffset:      int64(binary.BigEndian.Uint64(p[10:])),
			LastOffset:       int64(binary.BigEndian.Uint64(p[18:])),
			LastStableOffset: int64(binary.BigEndian.Uint64(p[26:])),
		}
		if n := len(out); n > 0 && a.LastOffset <= out[n-1].LastOffset {
			return nil, fmt.Errorf("entry %d does not increase", n)
		}
		out = append(out, a)
	}
	return out, nil
}

// writeTxnIndex writes the aborted transactions whose marker is in seg. Kafka has the
// file for every segment; ours is made only where there is something in it.
func (l *Log) writeTxnIndex(seg *segment, aborted []AbortedTxn) error {
	v := l.view.Load()
	next := int64(1<<63 - 1)
	if i := v.find(seg.base); i >= 0 && i+1 < len(v.segments) {
		next = v.segments[i+1].base
	}
	from := sort.Search(len(aborted), func(i int) bool { return aborted[i].LastOffset >= seg.base })
	var data []byte
	for _, a := range aborted[from:] {
		if a.LastOffset >= next {
			break
		}
		data = appendTxnEntry(data, a)
	}
	if len(data) == 0 {
		if _, err := l.dir.fs.Stat(seg.path(txnSuffix)); err != nil {
			return nil
		}
	}
	return replaceTail(l.dir.fs, seg.path(txnSuffix), 0, data)
}

// loadTxnIndex reads the first count entries of a segment's file, or, with count -1,
// all of them.
func loadTxnIndex(fsys vfs.FS, dir string, base, count int64) ([]AbortedTxn, error) {
	name := path.Join(dir, segmentFile(base, txnSuffix))
	data, _, err := readFile(fsys, name, indexMaxBytes)
	if err != nil {
		return nil, err
	}
	if count >= 0 {
		if int64(len(data)) < count*txnEntryBytes {
			return nil, &CorruptionError{name, int64(len(data)), fmt.Errorf("%w: it had %d entries", ErrMissing, count)}
		}
		data = data[:count*txnEntryBytes]
	}
	entries, err := parseTxnIndex(data)
	if err != nil {
		return nil, &CorruptionError{name, 0, err}
	}
	return entries, nil
}
