//go:build clients && linux

package clients

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestLogTools: kafka-delete-records, kafka-log-dirs and kafka-get-offsets do with the broker what they do with Kafka.
func TestLogTools(t *testing.T) {
	const topic = "log-tools"
	b := startBroker(t)
	b.createTopic(topic, 2)
	c := b.client(kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	base := time.Now().Add(-time.Minute).Truncate(time.Second)
	for i := range 100 {
		must(t, c.ProduceSync(deadline(t, time.Minute), &kgo.Record{Partition: int32(i % 2), Value: fmt.Append(nil, i), Timestamp: base.Add(time.Duration(i) * time.Millisecond)}).FirstErr())
	}
	file := filepath.Join(t.TempDir(), "offsets.json")
	write := func(p0, p1 int64) {
		must(t, os.WriteFile(file, fmt.Appendf(nil, `{"version":1,"partitions":[{"topic":"%s","partition":0,"offset":%d},{"topic":"%s","partition":1,"offset":%d}]}`, topic, p0, topic, p1), 0o600))
	}
	write(10, -1)
	out := tool(t, b, "delete-records", "--offset-json-file", file) // in any order
	wantOutput(t, "delete-records", out, `(?m)^partition: log-tools-0\s+low_watermark: 10$`)
	wantOutput(t, "delete-records", out, `(?m)^partition: log-tools-1\s+low_watermark: 50$`)
	write(51, 3)
	refused, err := try(t, toolPatience, nil, launcher(), "delete-records", "--bootstrap-server", b.addr, "--offset-json-file", file)
	must(t, err)
	wantOutput(t, "delete-records beyond the end", refused.stdout, `(?m)^partition: log-tools-0\s+error: .*OffsetOutOfRange`)
	wantOutput(t, "delete-records at the end", refused.stdout, `(?m)^partition: log-tools-1\s+low_watermark: 50$`)
	for _, at := range []struct{ time, want string }{
		{"-2", topic + ":0:10\n" + topic + ":1:50\n"},
		{"-1", topic + ":0:50\n" + topic + ":1:50\n"},
		{"-3", topic + ":0:49\n" + topic + ":1:\n"},
		{fmt.Sprint(base.UnixMilli()), topic + ":0:10\n"},
	} {
		if got := tool(t, b, "get-offsets", "--topic", topic, "--time", at.time); strings.ReplaceAll(got, topic+":1:\n", "") != strings.ReplaceAll(at.want, topic+":1:\n", "") {
			t.Errorf("get-offsets --time %s: got\n%swant\n%s", at.time, got, at.want)
		}
	}
	out = tool(t, b, "log-dirs", "--describe", "--topic-list", topic)
	var dirs struct {
		Brokers []struct {
			LogDirs []struct {
				LogDir     string
				Error      *string
				Partitions []struct {
					Partition string
					Size      int64
					OffsetLag int64
					IsFuture  bool
				}
			}
		}
	}
	must(t, json.Unmarshal([]byte(out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:]), &dirs))
	if len(dirs.Brokers) != 1 || len(dirs.Brokers[0].LogDirs) != 1 {
		t.Fatalf("log-dirs: %s", out)
	}
	d := dirs.Brokers[0].LogDirs[0]
	if d.Error != nil || len(d.Partitions) != 2 || d.LogDir != b.logDir() {
		t.Errorf("log-dirs: %s", out)
	}
	for _, p := range d.Partitions {
		if p.Size <= 0 || p.OffsetLag != 0 || p.IsFuture {
			t.Errorf("log-dirs: %+v", p)
		}
	}
	b.kill9()
	b.start()
	if got := tool(t, b, "get-offsets", "--topic", topic, "--time", "-2"); got != topic+":0:10\n"+topic+":1:50\n" {
		t.Errorf("after kill -9 the logs begin at\n%s", got)
	}
}

// TestRetentionChanges: a change of retention.bytes by kafka-configs takes effect while the broker runs: old segments go, their files too, a
// consumer that reads on is not disturbed, and one that wants what is gone is told so.
func TestRetentionChanges(t *testing.T) {
	const topic = "retention"
	b := startBroker(t, "log.initial.task.delay.ms=0", "log.retention.check.interval.ms=100")
	b.createTopic(topic, 1, "segment.bytes=1048576", "file.delete.delay.ms=100")
	c := b.client(kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.NoCompression()))
	value := bytes.Repeat([]byte("x"), 10_000)
	send := func(n int) {
		var records []*kgo.Record
		for range n {
			records = append(records, &kgo.Record{Value: value})
		}
		must(t, c.ProduceSync(deadline(t, time.Minute), records...).FirstErr())
	}
	send(600)
	reader := b.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(560)}}), kgo.ConsumeResetOffset(kgo.NoResetOffset()))
	tool(t, b, "configs", "--alter", "--entity-type", "topics", "--entity-name", topic, "--add-config", "retention.bytes=1048576")
	start := int64(0)
	for until := time.Now().Add(2 * time.Minute); start < 300; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("the log begins at %d", start)
		}
		out := tool(t, b, "get-offsets", "--topic", topic, "--time", "-2")
		_, err := fmt.Sscanf(out, topic+":0:%d", &start)
		must(t, err)
	}
	send(100)
	for next := int64(560); next < 700; {
		fs := reader.PollFetches(deadline(t, time.Minute))
		fs.EachError(func(_ string, _ int32, err error) { t.Fatal(err) })
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset != next {
				t.Fatalf("offset %d, want %d", r.Offset, next)
			}
			next++
		})
	}
	gone := b.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(5)}}), kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.KeepRetryableFetchErrors())
	if err := gone.PollFetches(deadline(t, time.Minute)).Err(); !errors.Is(err, kerr.OffsetOutOfRange) {
		t.Errorf("a reader of what is gone got %v", err)
	}
	for until := time.Now().Add(2 * time.Minute); !targetKafka; time.Sleep(50 * time.Millisecond) {
		left, err := filepath.Glob(filepath.Join(b.logDir(), topic+"-0", "*.deleted"))
		must(t, err)
		if len(left) == 0 {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("not removed: %v", left)
		}
	}
}

// TestCompactedTopic: a topic that a Java producer fills with many values of each key reads back as the last ones, also after kill -9 in the
// middle of compactions; Kafka's own reader of log directories finds nothing to complain of in what compaction has written. KEYS is the
// number of keys (default 3000).
func TestCompactedTopic(t *testing.T) {
	if targetKafka {
		t.Skip("the directories of Apache Kafka are its own business")
	}
	const topic = "compacted"
	keys := envInt(t, "KEYS", 3000)
	rounds := max(4, 400_000/keys)
	total, perRound := keys*rounds, 80*keys        // records, and the bytes of a round before they are compressed
	segment := min(max(perRound/8, 1<<20), 64<<20) // so that there are some, and not thousands
	slow := []string{"log.initial.task.delay.ms=0", "log.cleaner.backoff.ms=50", fmt.Sprintf("log.cleaner.io.max.bytes.per.second=%d", 5*total)}
	b := startBroker(t, slow...)
	b.createTopic(topic, 1, "cleanup.policy=compact", fmt.Sprintf("segment.bytes=%d", segment), "min.cleanable.dirty.ratio=0.01", "delete.retention.ms=0", "file.delete.delay.ms=1000")
	began := time.Now()
	fill := javaCommand(t, "Fill", b.addr, topic, strconv.FormatInt(keys, 10), strconv.FormatInt(rounds, 10), "linger.ms=20", "batch.size=65536", "compression.type=lz4")
	if got := strings.TrimSpace(run(t, 3*time.Hour, nil, fill[0], fill[1:]...).stdout); got != strconv.FormatInt(total, 10) {
		t.Fatalf("%s records were acknowledged, %d sent", got, total)
	}
	t.Logf("%d records of %d keys written in %v", total, keys, time.Since(began).Round(time.Millisecond))
	if end := b.endOffsets(topic)[0]; end != total {
		t.Fatalf("%d records there, %d sent", end, total)
	}
	dir := filepath.Join(b.logDir(), topic+"-0")
	t.Logf("%d bytes before the kills", segmentBytes(t, dir))
	cut := 0
	for range 4 {
		for until := time.Now().Add(time.Minute); time.Now().Before(until); time.Sleep(time.Millisecond) {
			if found, _ := filepath.Glob(filepath.Join(dir, "*.cleaned")); len(found) > 0 {
				cut++
				break
			}
		}
		b.kill9()
		b.start()
	}
	t.Logf("%d of 4 kills were in the middle of a compaction", cut)
	if cut == 0 {
		t.Error("no kill was in the middle of a compaction")
	}
	b.stop()
	b.props = slow[:2]
	before := segmentBytes(t, dir)
	began = time.Now()
	b.start()
	waitCompacted(t, b, dir, topic)
	t.Logf("%d bytes compacted to %d in at most %v", before, segmentBytes(t, dir), time.Since(began).Round(time.Millisecond))
	newest := checkLastValues(t, b, topic, keys, total)
	if got := tool(t, b, "get-offsets", "--topic", topic, "--time", "-3"); got != fmt.Sprintf("%s:0:%d\n", topic, newest) {
		t.Errorf("get-offsets --time -3 says %q, the newest record is at %d", got, newest)
	}
	b.stop()
	checkCompactedDump(t, dir)
	bin, err := moldau()
	must(t, err)
	runLines(t, 30*time.Minute, func(string) {}, bin, "log", "dump", dir) // it fails where it finds a problem
	b.start()
	checkLastValues(t, b, topic, keys, total)
}

// segmentBytes is the size of the segments in a partition directory.
func segmentBytes(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && strings.HasSuffix(e.Name(), ".log") {
			bytes += info.Size()
		}
	}
	return bytes
}

// waitCompacted waits until every closed segment has been compacted, as the cleaner's checkpoint says.
func waitCompacted(t *testing.T, b *broker, dir, topic string) {
	t.Helper()
	for until := time.Now().Add(time.Hour); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		b.mustRun()
		logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
		must(t, err)
		var active, cleaned int64
		for _, name := range logs {
			base, err := strconv.ParseInt(strings.TrimSuffix(filepath.Base(name), ".log"), 10, 64)
			must(t, err)
			active = max(active, base)
		}
		checkpoint, _ := os.ReadFile(filepath.Join(b.logDir(), "cleaner-offset-checkpoint"))
		for line := range strings.Lines(string(checkpoint)) {
			if rest, ok := strings.CutPrefix(line, topic+" 0 "); ok {
				cleaned, err = strconv.ParseInt(strings.TrimSpace(rest), 10, 64)
				must(t, err)
			}
		}
		if cleaned == active && active > 0 {
			return
		}
	}
	t.Fatal("the log is not compacted after an hour")
}

// checkLastValues reads everything and compares the last value of each key; it returns the offset of the first record with the newest time.
func checkLastValues(t *testing.T, b *broker, topic string, keys, total int64) (newest int64) {
	t.Helper()
	c := b.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().AtStart()}}), kgo.FetchMaxBytes(50<<20))
	defer c.Close()
	if end := b.endOffsets(topic)[0]; end != total {
		t.Fatalf("the log ends at %d, it was %d", end, total)
	}
	last := make([]int64, keys) // round of the last value, and one
	next, read, newestMs := int64(0), 0, int64(-1)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	for next < total {
		fs := c.PollFetches(ctx)
		must(t, fs.Err0())
		fs.EachError(func(_ string, _ int32, err error) { t.Fatal(err) })
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset < next {
				t.Fatalf("offset %d after %d", r.Offset, next-1)
			}
			if ms := r.Timestamp.UnixMilli(); ms > newestMs {
				newestMs, newest = ms, r.Offset
			}
			next = r.Offset + 1
			key, err := strconv.ParseInt(strings.TrimPrefix(string(r.Key), "key-"), 10, 64)
			must(t, err)
			round := r.Offset / keys
			if want := fmt.Sprintf("round %d of key %d, and something that makes the record longer", round, key); key != r.Offset%keys || string(r.Value) != want {
				t.Fatalf("offset %d: key %d has the value %q, want %q", r.Offset, key, r.Value, want)
			}
			last[key] = round + 1
			read++
		})
	}
	for key, rounds := range last {
		if rounds != total/keys {
			t.Fatalf("the last value of key %d is of round %d, want %d", key, rounds-1, total/keys-1)
		}
	}
	t.Logf("%d records for %d keys, %d were sent", read, keys, total)
	if int64(read) > total*9/10 {
		t.Errorf("%d of %d records are there: nothing was compacted", read, total)
	}
	return newest
}

// gapReport matches how the tool reports what compaction is there for.
var gapReport = regexp.MustCompile(`^Non-consecutive offsets in |^\s*-?\d+ is followed by \d+$`)

// checkCompactedDump has Kafka's reader look at every file of a partition directory.
func checkCompactedDump(t *testing.T, dir string) {
	t.Helper()
	files := func(suffix string) []string {
		found, err := filepath.Glob(filepath.Join(dir, "*"+suffix))
		must(t, err)
		slices.Sort(found)
		return found
	}
	for _, c := range []struct {
		suffix string
		args   []string
	}{{".log", []string{"--deep-iteration"}}, {".index", nil}, {".timeindex", nil}, {".index", []string{"--verify-index-only"}}, {".timeindex", []string{"--verify-index-only"}}, {".snapshot", nil}} {
		paths := files(c.suffix)
		if len(paths) == 0 {
			t.Errorf("no files *%s", c.suffix)
			continue
		}
		complaints, lines := 0, 0
		runLines(t, time.Hour, func(line string) {
			lines++
			if strings.HasPrefix(line, "| offset: ") || gapReport.MatchString(line) || !dumpComplaint.MatchString(line) {
				return // a record, a gap, or nothing special
			}
			if complaints++; complaints <= 10 {
				t.Errorf("dump-log of *%s %v complains: %s", c.suffix, c.args, clip(line))
			}
		}, launcher(), append([]string{"dump-log", "--files", strings.Join(paths, ",")}, c.args...)...)
		t.Logf("dump-log of %d files *%s %v: %d lines, %d complaints", len(paths), c.suffix, c.args, lines, complaints)
	}
}

// runLines is run for a program that prints more than is good to keep: it calls each with every line.
func runLines(t *testing.T, patience time.Duration, each func(line string), name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(deadline(t, patience), name, args...)
	ownProcess(cmd)
	cmd.Env = append(os.Environ(), "MOLDAU_TEST_CACHE="+cache())
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = cmd.Stdout
	must(t, cmd.Start())
	last := ""
	lines := bufio.NewScanner(out)
	for lines.Buffer(nil, 16<<20); lines.Scan(); {
		last = lines.Text()
		each(last)
	}
	if err := errors.Join(lines.Err(), cmd.Wait()); err != nil {
		t.Fatalf("%s %s: %v, its last line is %q", filepath.Base(name), clip(strings.Join(args, " ")), err, clip(last))
	}
}

// TestSeveralLogDirs: kafka-log-dirs shows each of two log dirs with its partitions, and the one that is not mounted with an error;
// what is in the other is served meanwhile, and nothing is lost.
func TestSeveralLogDirs(t *testing.T) {
	const topic = "two-disks"
	b := newBroker(t)
	if b.kafka {
		t.Skip("it moves a log dir away under Moldau's own broker")
	}
	bin, err := moldau()
	must(t, err)
	one, two := filepath.Join(b.dir, "one"), filepath.Join(b.dir, "two")
	b.command = []string{bin, "server", "--listen", b.addr, "--http", "off", "--set", "log.dirs=" + one + "," + two}
	b.start()
	b.createTopic(topic, 4)
	c := b.client(kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	for i := range 40 {
		must(t, c.ProduceSync(deadline(t, time.Minute), &kgo.Record{Partition: int32(i % 4), Value: fmt.Append(nil, i)}).FirstErr())
	}
	type logDir struct {
		LogDir     string
		Error      *string
		Partitions []struct {
			Partition string
			Size      int64
		}
	}
	describe := func() []logDir {
		t.Helper()
		out := tool(t, b, "log-dirs", "--describe", "--topic-list", topic)
		var dirs struct{ Brokers []struct{ LogDirs []logDir } }
		must(t, json.Unmarshal([]byte(out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:]), &dirs))
		if len(dirs.Brokers) != 1 || len(dirs.Brokers[0].LogDirs) != 2 {
			t.Fatalf("log-dirs: %s", out)
		}
		all := dirs.Brokers[0].LogDirs
		slices.SortFunc(all, func(x, y logDir) int { return strings.Compare(x.LogDir, y.LogDir) })
		return all
	}
	for i, d := range describe() {
		if d.LogDir != []string{one, two}[i] || d.Error != nil || len(d.Partitions) != 2 || d.Partitions[0].Size <= 0 {
			t.Errorf("log-dirs: %+v", d)
		}
	}
	b.stop()
	must(t, os.Rename(two, two+".away"))
	must(t, os.Mkdir(two, 0o755)) // an empty mount point
	b.start()
	dirs := describe()
	if d := dirs[0]; d.Error != nil || len(d.Partitions) != 2 {
		t.Errorf("log-dirs of the one that is there: %+v", d)
	}
	if d := dirs[1]; d.LogDir != two || d.Error == nil || !strings.Contains(*d.Error, "KafkaStorageException") || len(d.Partitions) != 0 {
		t.Errorf("log-dirs of the one that is away: %+v", d)
	}
	for _, command := range [][]string{{"cluster", "describe", "-b", b.addr}, {"doctor", "--set", "log.dirs=" + one + "," + two, "--listen", b.addr, "--http", "off"}} {
		r, _ := try(t, toolPatience, nil, bin, command...) // doctor says by its exit code that something is wrong
		if !strings.Contains(r.stdout, two) || !strings.Contains(r.stdout, map[string]string{"cluster": "KAFKA_STORAGE_ERROR", "doctor": "mount its disk"}[command[0]]) {
			t.Errorf("moldau %s does not name the log dir:\n%s%s", command[0], r.stdout, r.stderr)
		}
		t.Logf("moldau %s\n%s", command[0], r.stdout)
	}
	b.stop()
	must(t, os.Remove(two)) // it is still empty
	must(t, os.Rename(two+".away", two))
	b.start()
	if got := tool(t, b, "get-offsets", "--topic", topic); got != topic+":0:10\n"+topic+":1:10\n"+topic+":2:10\n"+topic+":3:10\n" {
		t.Errorf("when it is back the logs end at\n%s", got)
	}
}
