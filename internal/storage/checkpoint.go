package storage

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"moldau/internal/vfs"
)

// Names of Kafka's files in the root of a log dir.
const (
	recoveryPointFile  = "recovery-point-offset-checkpoint"
	replicationFile    = "replication-offset-checkpoint"
	logStartFile       = "log-start-offset-checkpoint"
	cleanerFile        = "cleaner-offset-checkpoint"
	metaPropertiesFile = "meta.properties"
	cleanShutdownFile  = ".kafka_cleanshutdown"
	lockFile           = ".lock"
)

// TopicPartition names a partition as its directory does.
type TopicPartition struct {
	Topic     string
	Partition int32
}

func (tp TopicPartition) String() string { return tp.Topic + "-" + strconv.Itoa(int(tp.Partition)) }

// parseDirName reads "topic-3". ok is false for every other name, also for Kafka's
// -delete, -stray and -future directories.
func parseDirName(name string) (TopicPartition, bool) {
	i := strings.LastIndexByte(name, '-')
	if i <= 0 {
		return TopicPartition{}, false
	}
	n, err := strconv.ParseInt(name[i+1:], 10, 32)
	if err != nil || n < 0 || strconv.FormatInt(n, 10) != name[i+1:] {
		return TopicPartition{}, false
	}
	return TopicPartition{name[:i], int32(n)}, true
}

// writeAtomic replaces dir/name by data so that a power loss leaves the old content
// or the new one: a temporary file, its sync, a rename, the directory's sync.
func writeAtomic(fsys vfs.FS, dir, name string, data []byte) error {
	return writeWhole(fsys, dir, name, data, true)
}

// writeWhole is writeAtomic, or without sync leaves that to a SyncTree.
func writeWhole(fsys vfs.FS, dir, name string, data []byte, sync bool) error {
	return vfs.Replace(fsys, dir, name, data, vfs.Create, sync)
}

// readFile reads a whole small file of at most limit bytes. ok is false if it is not there.
func readFile(fsys vfs.FS, name string, limit int64) (data []byte, ok bool, err error) {
	return vfs.ReadWhole(fsys, name, limit)
}

// checkpointLines reads Kafka's checkpoint text: "0", a count, and count lines of
// width fields.
func checkpointLines(text string, width int) ([][]string, error) {
	rest := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(rest) < 2 || rest[0] != "0" {
		return nil, fmt.Errorf("it does not begin with version 0 and a count")
	}
	count, err := strconv.Atoi(rest[1])
	if err != nil || count != len(rest)-2 {
		return nil, fmt.Errorf("it claims %q entries and has %d", rest[1], len(rest)-2)
	}
	out := make([][]string, 0, count)
	for _, line := range rest[2:] {
		f := strings.Fields(line)
		if len(f) != width {
			return nil, fmt.Errorf("line %q has %d fields, not %d", line, len(f), width)
		}
		out = append(out, f)
	}
	return out, nil
}

// encodeOffsets and parseOffsets are the four *-offset-checkpoint files.
func encodeOffsets(offsets map[TopicPartition]int64) []byte {
	tps := make([]TopicPartition, 0, len(offsets))
	for tp := range offsets {
		tps = append(tps, tp)
	}
	slices.SortFunc(tps, func(a, b TopicPartition) int {
		if c := strings.Compare(a.Topic, b.Topic); c != 0 {
			return c
		}
		return int(a.Partition) - int(b.Partition)
	})
	var b strings.Builder
	fmt.Fprintf(&b, "0\n%d\n", len(tps))
	for _, tp := range tps {
		fmt.Fprintf(&b, "%s %d %d\n", tp.Topic, tp.Partition, offsets[tp])
	}
	return []byte(b.String())
}

func parseOffsets(text string) (map[TopicPartition]int64, error) {
	lines, err := checkpointLines(text, 3)
	if err != nil {
		return nil, err
	}
	out := make(map[TopicPartition]int64, len(lines))
	for _, f := range lines {
		p, err1 := strconv.ParseInt(f[1], 10, 32)
		o, err2 := strconv.ParseInt(f[2], 10, 64)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("line %q is not a topic, a partition and an offset", strings.Join(f, " "))
		}
		out[TopicPartition{f[0], int32(p)}] = o
	}
	return out, nil
}
