package storage

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"

	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// Found is a partition directory that is on the disk.
type Found struct {
	TopicPartition
	TopicID wire.UUID // zero if partition.metadata is missing or cannot be read
	Path    string
	Err     error // why partition.metadata cannot be read
}

// kafkaMetadataTopic is the log in which Kafka's controller keeps its metadata. It is no
// partition of a topic, and stays where it is.
const kafkaMetadataTopic = "__cluster_metadata"

// ScanDir lists the partition directories in a log dir. It changes nothing and needs no lock.
func ScanDir(fsys vfs.FS, dir string) ([]Found, error) {
	infos, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []Found
	for _, info := range infos {
		tp, ok := parseDirName(info.Name)
		if !ok || !info.IsDir || tp.Topic == kafkaMetadataTopic {
			continue
		}
		p := path.Join(dir, info.Name)
		id, err := readTopicID(fsys, p)
		out = append(out, Found{tp, id, p, err})
	}
	return out, nil
}

// ParsePartition splits the name of a partition directory, such as orders-3.
func ParsePartition(name string) (TopicPartition, bool) { return parseDirName(name) }

// ReadIdentity reads the meta.properties of a log dir; known is false if there is none. It changes nothing.
func ReadIdentity(fsys vfs.FS, dir string) (id Identity, known bool, err error) {
	name := path.Join(dir, metaPropertiesFile)
	text, found, err := readFile(fsys, name, 64<<10)
	if err != nil || !found {
		return Identity{}, false, err
	}
	if id, err = parseIdentity(string(text)); err != nil {
		return Identity{}, false, &CorruptionError{name, 0, fmt.Errorf("%w: restore it, or write its lines version=1, cluster.id, node.id and directory.id anew", err)}
	}
	return id, true, nil
}

// StoppedCleanly reports whether the broker that last had the log dir said that it wrote everything.
func StoppedCleanly(fsys vfs.FS, dir string) bool {
	_, err := fsys.Stat(path.Join(dir, cleanShutdownFile))
	return err == nil
}

// LockExisting locks a log dir, or a metadata directory, as a running broker does. The lock is nil if there is no
// lock file, so that nobody can have it.
func LockExisting(fsys vfs.FS, dir string) (io.Closer, error) {
	name := path.Join(dir, lockFile)
	if _, err := fsys.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return fsys.Lock(name)
}

// Checked is what CheckPartition found.
type Checked struct {
	Start, End    int64 // offsets
	Bytes         int64 // in batches
	MaxProducerID int64 // -1 without one
	// Torn is the damage at which the last segment stops, nil if it ends with a batch.
	Torn      *CorruptionError
	TornBytes int64 // from there to the end of the file
}

// CheckPartition reads every batch in a partition directory and checks it as recovery does. It changes
// nothing. Damage that recovery would cut off at the log's end is in Torn; any other is the error.
func CheckPartition(fsys vfs.FS, dir string) (Checked, error) {
	c := Checked{MaxProducerID: -1}
	l := &Log{dir: &Dir{fs: fsys, pool: newDescriptors(1), indexes: &indexCache{}}, path: dir}
	infos, err := fsys.ReadDir(dir)
	if err != nil {
		return c, err
	}
	segments, err := l.listSegments(infos)
	if err != nil || len(segments) == 0 {
		return c, err
	}
	c.Start, c.End = segments[0].base, segments[0].base
	for i, s := range segments {
		name := s.path(logSuffix)
		if s.base < c.End {
			return c, &CorruptionError{name, 0, fmt.Errorf("it begins at offset %d, the segment before ends at %d", s.base, c.End)}
		}
		c.End = max(c.End, s.base)
		pos, err := c.segment(fsys, s)
		switch {
		case err == nil:
		case !isContent(err):
			return c, fmt.Errorf("%s: %w", name, err)
		case i < len(segments)-1:
			return c, &CorruptionError{name, pos, err}
		default:
			c.Torn, c.TornBytes = &CorruptionError{name, pos, err}, s.size.Load()-pos
		}
	}
	return c, nil
}

// segment reads one segment. It returns the byte behind the last good batch, and why it stopped there.
func (c *Checked) segment(fsys vfs.FS, s *segment) (int64, error) {
	f, err := fsys.Open(s.path(logSuffix), vfs.ReadOnly)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sc := scanner{file: f, end: s.size.Load()}
	for {
		h, err := sc.header()
		if errors.Is(err, io.EOF) {
			return sc.pos, nil
		}
		if err != nil {
			return sc.pos, err
		}
		b, err := sc.batch(h)
		if err == nil {
			err = b.CheckCRC()
		}
		if err == nil && (b.BaseOffset() < c.End || b.LastOffset() < b.BaseOffset()) {
			err = fmt.Errorf("offsets %d to %d after %d: %w", b.BaseOffset(), b.LastOffset(), c.End, errSequence)
		}
		if err != nil {
			return sc.pos, err
		}
		c.End = b.NextOffset()
		c.Bytes += int64(b.Size())
		c.MaxProducerID = max(c.MaxProducerID, b.ProducerID())
		sc.pos += int64(b.Size())
	}
}

// WriteTopicID writes the partition.metadata of a directory that has none, durably.
func WriteTopicID(fsys vfs.FS, dir string, id wire.UUID) error {
	return writeAtomic(fsys, dir, partitionMetadataFile, fmt.Appendf(nil, "version: 0\ntopic_id: %s", id))
}

// MaxProducerID is the highest producer id that the log knows, -1 without one.
func (l *Log) MaxProducerID() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	highest := int64(-1)
	for id := range l.mu.producers.byID {
		highest = max(highest, id)
	}
	return highest
}
