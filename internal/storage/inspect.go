package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// Severity says what a Finding means.
type Severity int

const (
	// Note: nothing is wrong. It was left over, or the next start sees to it.
	Note Severity = iota
	// Stale: a file that is derived from the batches does not fit them. It can be made anew without a loss.
	Stale
	// Damaged: records, or what says which there are, cannot be read or are missing.
	Damaged
)

func (s Severity) String() string {
	switch s {
	case Note:
		return "note"
	case Stale:
		return "stale"
	}
	return "damaged"
}

// Finding is one thing that an Inspection has found in a file.
type Finding struct {
	Severity    Severity
	File        string
	Pos         int64 // byte of File; -1: the file as a whole
	First, Next int64 // the offsets from First up to before Next cannot be read; both 0: none
	What        string
	Do          string // what to do about it
	Fix         *Fix   // how to make File anew, or nil
}

// Fix is what a derived file should hold, all of it.
type Fix struct{ data []byte }

// Inspection looks at the files of a log dir, all of them, and changes nothing. It knows both Moldau's log dirs and those of a
// stopped Apache Kafka.
//
// A log dir whose broker was not stopped has files that are not finished: indexes that lag behind, a last batch that is torn.
// What the next start sets right is a Note. What is torn and what is damaged is told apart as recovery does it (durable.go).
//
// Root and Partition may be called at the same time, each with its own found.
type Inspection struct {
	fs   vfs.FS
	dir  string
	live bool // a broker works here: only what it does not touch any more is looked at

	cleanly  bool
	recovery map[TopicPartition]int64
	starts   map[TopicPartition]int64
	cleaned  map[TopicPartition]int64

	metaDir  string // "": no manifest
	manifest map[partitionKey]*manifestEntry
	root     []Finding // that were made when it was opened
	journal  bool      // there is one: before it is written into the logs, their last bytes need not be there

	read atomic.Int64
}

// NewInspection reads the files in the root of a log dir. metaDir holds its manifest; "" if there is none, as in Kafka's. live says that a
// broker has the log dir: then the last segment of each partition, and what may change under the inspection, is left out.
func NewInspection(fsys vfs.FS, dir, metaDir string, live bool) (*Inspection, error) {
	x := &Inspection{fs: fsys, dir: dir, metaDir: metaDir, live: live, cleanly: StoppedCleanly(fsys, dir)}
	infos, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	x.journal = slices.ContainsFunc(infos, func(i vfs.Info) bool { return strings.HasPrefix(i.Name, JournalName) })
	if metaDir != "" {
		if err := x.readManifest(); err != nil {
			return nil, err
		}
	}
	for file, to := range map[string]*map[TopicPartition]int64{recoveryPointFile: &x.recovery, logStartFile: &x.starts, cleanerFile: &x.cleaned, replicationFile: nil} {
		name := path.Join(dir, file)
		text, found, err := readFile(fsys, name, 1<<28)
		if err != nil {
			return nil, err
		}
		if !found {
			continue
		}
		offsets, err := parseOffsets(string(text))
		if err != nil {
			x.root = append(x.root, Finding{Stale, name, 0, 0, 0, "it cannot be read: " + err.Error(),
				"a log dir of Moldau needs it only for Kafka, and writes it anew at the next stop; Apache Kafka makes it anew at its next start", nil})
			continue
		}
		if to != nil {
			*to = offsets
		}
	}
	return x, nil
}

// ReadBytes is how much was read of segments so far.
func (x *Inspection) ReadBytes() int64 { return x.read.Load() }

// Partitions are the partition directories, and the bytes of their segments.
func (x *Inspection) Partitions() (dirs []string, bytes int64, err error) {
	found, err := ScanDir(x.fs, x.dir)
	for _, f := range found {
		dirs = append(dirs, f.Path)
		infos, err := x.fs.ReadDir(f.Path)
		if err != nil {
			return nil, 0, err
		}
		for _, info := range infos {
			if strings.HasSuffix(info.Name, logSuffix) {
				bytes += info.Size
			}
		}
	}
	return dirs, bytes, err
}

// readManifest reads the manifest without a change of it.
func (x *Inspection) readManifest() error {
	name := path.Join(x.metaDir, manifestFile)
	data, found, err := readFile(x.fs, name, manifestMaxBytes)
	if err != nil || !found {
		return err
	}
	m := &manifest{}
	m.mu.entries = map[partitionKey]*manifestEntry{}
	end, _ := eachFrame(data, func(int64, []byte) error { return nil })
	_, lost, err := m.applyAll(data)
	switch {
	case err != nil:
		x.root = append(x.root, Finding{Damaged, name, end, 0, 0, err.Error(), "it was written by a newer version, or is damaged; " +
			"move it away and the next start reads every batch, as without a recovery point", nil})
	case lost > 0 && x.cleanly:
		x.root = append(x.root, Finding{Damaged, name, end, 0, 0, fmt.Sprintf("%d bytes in the middle are damaged: what these records said is lost", lost),
			"look at the disk; the next start goes by all other records and keeps a copy of the file as " + damagedManifestFile, nil})
	case lost > 0:
		x.root = append(x.root, Finding{Note, name, end, 0, 0, fmt.Sprintf("%d bytes in the middle are no whole records: damage, or writes that a power loss cut off", lost),
			"nothing, after a power loss; the next start goes by all other records and keeps a copy of the file as " + damagedManifestFile, nil})
	case end < int64(len(data)):
		x.root = append(x.root, Finding{Note, name, end, 0, 0, fmt.Sprintf("%d bytes at the end are no whole record: a write that a crash cut off", int64(len(data))-end), "nothing: the next start removes them", nil})
	}
	x.manifest = m.mu.entries
	return nil
}

// entryOf is what the manifest says of a partition, or nil.
func (x *Inspection) entryOf(id wire.UUID, tp TopicPartition) *manifestEntry {
	e := x.manifest[partitionKey{id, tp.Partition}]
	if e == nil || !e.present || e.tp != tp {
		return nil
	}
	return e
}

// Root gives what is to be said of the log dir as a whole: its own files, and directories that are no partitions.
func (x *Inspection) Root(found func(Finding)) error {
	for _, f := range x.root {
		found(f)
	}
	infos, err := x.fs.ReadDir(x.dir)
	if err != nil {
		return err
	}
	dirs := map[TopicPartition]bool{}
	partitions, named := false, map[string]bool{}
	for _, info := range infos {
		if tp, ok := parseDirName(info.Name); ok && info.IsDir {
			dirs[tp] = true
			partitions = partitions || tp.Topic != kafkaMetadataTopic
			continue
		}
		named[info.Name] = true
		if what := rootLeftover(info); what != "" && !(x.live && strings.HasPrefix(info.Name, JournalName)) {
			found(Finding{Note, path.Join(x.dir, info.Name), -1, 0, 0, what, "nothing", nil})
		}
	}
	name := path.Join(x.dir, metaPropertiesFile)
	_, known, err := ReadIdentity(x.fs, x.dir)
	switch {
	case err != nil:
		found(Finding{Damaged, name, 0, 0, 0, err.Error(), "restore it from a copy, or write its lines anew: docs/format/files.md", nil})
	case !known && partitions:
		found(Finding{Damaged, name, -1, 0, 0, "it is not there, beside partition directories", "restore it from a copy, or write its lines anew: docs/format/files.md", nil})
	}
	for key, e := range x.manifest {
		// The directory was renamed, and a stop came before the manifest said so.
		if moved := fmt.Sprintf("%s.%x", e.tp, key.topicID[:]); !e.present || x.live || named[moved+"-delete"] || named[moved+"-stray"] {
			continue
		}
		dir := path.Join(x.dir, e.tp.String())
		if id, err := readTopicID(x.fs, dir); !dirs[e.tp] || err == nil && id != key.topicID && x.entryOf(id, e.tp) == nil {
			what := "the directory is not there, and the manifest says that it has records"
			if dirs[e.tp] {
				what = fmt.Sprintf("the manifest says that topic %v has records here, the directory is of topic %v", key.topicID, id)
			}
			found(Finding{Damaged, dir, -1, 0, 0, what, "bring the directory back from a copy; the partition is offline until then, unless the topic was deleted", nil})
		}
	}
	if x.live || !x.cleanly {
		return nil
	}
	for tp, at := range x.recovery {
		if !dirs[tp] && at > 0 {
			found(Finding{Note, path.Join(x.dir, recoveryPointFile), -1, 0, 0, fmt.Sprintf("%v was flushed up to offset %d and has no directory here", tp, at), "nothing, if the topic was deleted or moved", nil})
		}
	}
	return nil
}

// rootLeftover says what an entry of the log dir is that is left over; "" if it is none.
func rootLeftover(info vfs.Info) string {
	switch {
	case info.IsDir && strings.HasSuffix(info.Name, "-delete"):
		return "a deleted topic's partition, removed at the next start"
	case info.IsDir && strings.HasSuffix(info.Name, "-future"):
		return "a partition that Kafka was moving between log dirs; Moldau leaves it alone"
	case info.IsDir && strings.HasSuffix(info.Name, "-stray"):
		return "a partition that belongs to no topic; it is left alone"
	case strings.HasPrefix(info.Name, JournalName):
		return "the journal of a broker that was not stopped; the next start writes what it holds into the logs, whose last records may be missing until then"
	case strings.HasSuffix(info.Name, ".tmp"):
		return "a file that a crash left half written; the next write of it takes its place"
	}
	return ""
}

// Inspected is what an inspection of a partition met.
type Inspected struct {
	Start, End int64 // offsets
	Segments   int
	Batches    int64
	Records    int64
	Bytes      int64 // of batches
}

// Partition gives what is to be said of a partition directory. It reads every batch once.
func (x *Inspection) Partition(ctx context.Context, dir string, found func(Finding)) (Inspected, error) {
	tp, ok := parseDirName(path.Base(dir))
	if !ok {
		return Inspected{}, fmt.Errorf("%s: it is not named as a partition is, TOPIC-NUMBER", dir)
	}
	p := &partitionInspection{x: x, ctx: ctx, tp: tp, dir: dir, found: found, gaps: math.MaxInt64, unsettled: math.MaxInt64}
	if err := p.run(); err != nil && !(x.live && errors.Is(err, fs.ErrNotExist)) {
		return p.sum, err
	}
	return p.sum, nil
}

// Repair makes the file of f anew, if it can be made anew, durably, and reports whether it did. The log dir has to be locked.
func Repair(fsys vfs.FS, f Finding) (bool, error) {
	if f.Fix == nil {
		return false, nil
	}
	return true, writeAtomic(fsys, path.Dir(f.File), path.Base(f.File), f.Fix.data)
}

// sortFindings puts them in the order of files, and of bytes in them.
func SortFindings(all []Finding) {
	slices.SortStableFunc(all, func(a, b Finding) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		return int(min(1, max(-1, a.Pos-b.Pos)))
	})
}

// ManifestOf finds the directory of the manifest that speaks of a log dir; "" if there is none. metaDir is the metadata directory where it is
// known, else "": then it is looked for where a broker has it unless it is told otherwise, inside the log dir or beside it.
func ManifestOf(fsys vfs.FS, logDir, metaDir string) string {
	places := []string{metaDir}
	if metaDir == "" {
		places = []string{path.Join(logDir, ".moldau"), path.Join(path.Dir(logDir), "meta")}
	}
	if id, known, err := ReadIdentity(fsys, logDir); err == nil && known { // of one of several log dirs
		for _, dir := range places[:len(places):len(places)] {
			places = append(places, recordDir(dir, id.DirectoryID))
		}
	}
	for _, dir := range slices.Backward(places) {
		if exists(fsys, path.Join(dir, manifestFile)) {
			return dir
		}
	}
	return ""
}
