//go:build clients && linux

package clients

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestDumpLog: Kafka's own reader of log directories finds nothing to complain of in what the broker has written: logs, offset and time
// indexes, transaction indexes and producer snapshots of every segment, and every record that was acknowledged is there.
func TestDumpLog(t *testing.T) {
	b := startBroker(t)
	want := map[string]int64{} // records by partition directory, control records included
	produceForDump(t, b, want)
	if b.advertises(int16(kmsg.EndTxn)) {
		produceTransactions(t, b, want)
	} else {
		t.Log("the broker serves no transactions: there is no transaction index to dump")
	}
	b.stop()

	var dirs []string
	entries, err := os.ReadDir(b.logDir())
	must(t, err)
	for _, e := range entries {
		if _, ours := want[e.Name()]; e.IsDir() && ours {
			dirs = append(dirs, e.Name())
		}
	}
	if len(dirs) != len(want) {
		t.Fatalf("%s holds %v, want the partitions %v", b.logDir(), entries, want)
	}
	files := func(suffix string) []string {
		var paths []string
		for _, d := range dirs {
			found, err := filepath.Glob(filepath.Join(b.logDir(), d, "*"+suffix))
			must(t, err)
			slices.Sort(found)
			paths = append(paths, found...)
		}
		return paths
	}
	logs := files(".log")
	rolled := rolledSegments(t, logs, len(dirs))
	for _, args := range [][]string{{"--deep-iteration"}, {"--deep-iteration", "--print-data-log"}} {
		checkLogDump(t, dump(t, logs, args...), want, args)
	}
	for _, suffix := range []string{".index", ".timeindex"} {
		paths := files(suffix)
		if len(paths) != len(logs) {
			t.Errorf("%d files *%s for %d segments", len(paths), suffix, len(logs))
		}
		checkIndexDump(t, dump(t, paths), suffix, rolled)
		dump(t, paths, "--verify-index-only")
		if out := dump(t, paths, "--index-sanity-check"); strings.Count(out, " passed sanity check.\n")+strings.Count(out, " is empty.\n") != len(paths) {
			t.Errorf("sanity check of %d files *%s:\n%s", len(paths), suffix, clip(out))
		}
	}
	snapshots := files(".snapshot")
	if len(snapshots) < len(rolled) {
		t.Errorf("%d snapshots for %d segments that were rolled", len(snapshots), len(rolled))
	}
	if out := dump(t, snapshots); strings.Count(out, "producerId: ") < len(snapshots) {
		t.Errorf("there are snapshots without a producer:\n%s", clip(out))
	}
	if paths := files(".txnindex"); len(paths) > 0 {
		if out := dump(t, paths); want["dump-transactions-0"] > 0 && !strings.Contains(out, "producerId: ") {
			t.Errorf("transactions were aborted, and the transaction index says:\n%s", clip(out))
		}
	} else if want["dump-transactions-0"] > 0 {
		t.Error("transactions were aborted, and there is no transaction index")
	}
}

// TestDumpLogOfALiveTopic: soon after the last append the segment of a broker that goes on running ends with its last batch, so that Kafka's tools and backups
// read it to its end.
func TestDumpLogOfALiveTopic(t *testing.T) {
	b := startBroker(t)
	const topic, records = "live", 3000
	b.createTopic(topic, 1)
	c := b.client(kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(32<<10))
	var sent []*kgo.Record
	for range records {
		sent = append(sent, &kgo.Record{Value: []byte(strings.Repeat("v", 1000))})
	}
	must(t, c.ProduceSync(deadline(t, time.Minute), sent...).FirstErr())
	path := filepath.Join(b.logDir(), topic+"-0", "00000000000000000000.log")
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		data, err := os.ReadFile(path)
		must(t, err)
		if len(data) >= records*1000 && !strings.HasSuffix(string(data), strings.Repeat("\x00", 64)) {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("the segment has %d bytes, with zeros at the end", len(data))
		}
	}
	args := []string{"--deep-iteration", "--print-data-log"}
	checkLogDump(t, dump(t, []string{path}, args...), map[string]int64{topic + "-0": records}, args)
}

// The tool exits with 0 whatever it finds, so what it prints is searched for everything it can complain of.
var dumpComplaint = regexp.MustCompile(`(?i)mismatch|out of order|not found|is followed by|isvalid: false|Exception|Error at|invalid bytes|could not|corrupt|WARN|ERROR`)

// The tool of Kafka 4.3.1 expects each file to begin with offset 0, and says so of every later segment: that is no complaint.
var dumpBeginsLater = regexp.MustCompile(`(?m)^Non-consecutive offsets in .*/0*(\d+)\.log\n\s*-1 is followed by (\d+)\n`)

// dump runs kafka-dump-log over files and returns what it prints, after a search for complaints.
func dump(t *testing.T, files []string, args ...string) string {
	t.Helper()
	if len(files) == 0 {
		t.Errorf("dump-log %v: no files", args)
		return ""
	}
	r := run(t, 5*time.Minute, nil, launcher(), append([]string{"dump-log", "--files", strings.Join(files, ",")}, args...)...)
	complaints := dumpBeginsLater.ReplaceAllStringFunc(r.stdout+r.stderr, func(s string) string {
		if m := dumpBeginsLater.FindStringSubmatch(s); m[1] == m[2] {
			return ""
		}
		return s
	})
	for line := range strings.Lines(complaints) {
		if !strings.HasPrefix(line, "| offset: ") && dumpComplaint.MatchString(line) {
			t.Errorf("dump-log %v %s: %s", args, filepath.Ext(files[0]), clip(line))
		}
	}
	for _, f := range files {
		if !slices.Contains(args, "--index-sanity-check") && !strings.Contains(r.stdout, "Dumping "+f+"\n") {
			t.Errorf("dump-log %v did not look at %s", args, f)
		}
	}
	return r.stdout
}

// rolledSegments are the segments that are not the last of their partition; there must be several of each.
func rolledSegments(t *testing.T, logs []string, partitions int) []string {
	t.Helper()
	var rolled []string
	for i, path := range logs {
		if i+1 < len(logs) && filepath.Dir(path) == filepath.Dir(logs[i+1]) {
			rolled = append(rolled, path)
		}
	}
	if len(rolled) < 3*partitions {
		t.Errorf("%d segments were rolled in %d partitions, want at least 3 in each:\n%s", len(rolled), partitions, strings.Join(logs, "\n"))
	}
	return rolled
}

var (
	dumpBatch  = regexp.MustCompile(`^baseOffset: (\d+) lastOffset: (\d+) count: (\d+) .* isvalid: true$`)
	dumpRecord = regexp.MustCompile(`^\| offset: (\d+) `)
)

// checkLogDump demands that a dump of logs shows valid batches and every record, offset after offset.
func checkLogDump(t *testing.T, out string, want map[string]int64, args []string) {
	t.Helper()
	inBatches, inRecords := map[string]int64{}, map[string]int64{}
	dir := ""
	s := bufio.NewScanner(strings.NewReader(out))
	s.Buffer(nil, 1<<20)
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		must(t, err)
		return n
	}
	for s.Scan() {
		switch line := s.Text(); {
		case strings.HasPrefix(line, "Dumping "):
			dir = filepath.Base(filepath.Dir(line))
		case strings.HasPrefix(line, "Log starting offset: "):
			if number(strings.TrimPrefix(line, "Log starting offset: ")) != inBatches[dir] {
				t.Errorf("%s: %s after %d records", dir, line, inBatches[dir])
			}
		case strings.HasPrefix(line, "| offset: "):
			if m := dumpRecord.FindStringSubmatch(line); m == nil || number(m[1]) != inRecords[dir] {
				t.Errorf("%s: want offset %d: %s", dir, inRecords[dir], clip(line))
			}
			inRecords[dir]++
		case strings.HasPrefix(line, "baseOffset: "):
			m := dumpBatch.FindStringSubmatch(line)
			if m == nil || number(m[1]) != inBatches[dir] || number(m[2])-number(m[1])+1 != number(m[3]) {
				t.Fatalf("%s: want a valid batch at offset %d: %s", dir, inBatches[dir], clip(line))
			}
			inBatches[dir] = number(m[2]) + 1
		}
	}
	must(t, s.Err())
	for dir, n := range want {
		if inBatches[dir] != n || inRecords[dir] != n {
			t.Errorf("dump-log %v of %s: %d records in batches, %d dumped, want %d", args, dir, inBatches[dir], inRecords[dir], n)
		}
	}
}

// checkIndexDump demands that the index of every rolled segment has entries.
func checkIndexDump(t *testing.T, out, suffix string, rolled []string) {
	t.Helper()
	entries := map[string]int{}
	path := ""
	for line := range strings.Lines(out) {
		if p, ok := strings.CutPrefix(line, "Dumping "); ok {
			path = strings.TrimSuffix(p, "\n")
		} else if strings.HasPrefix(line, "offset: ") || strings.HasPrefix(line, "timestamp: ") {
			entries[path]++
		}
	}
	for _, log := range rolled {
		index := strings.TrimSuffix(log, ".log") + suffix
		if entries[index] < 3 {
			t.Errorf("%s has %d entries", index, entries[index])
		}
	}
}

// produceForDump writes a partition of each codec with two idempotent producers; the times of some records go back.
func produceForDump(t *testing.T, b *broker, want map[string]int64) {
	t.Helper()
	const topic, records, producers = "dump", 3000, 2
	b.createTopic(topic, int32(len(codecs)), "segment.bytes=1048576", "index.interval.bytes=256")
	base := time.Now().Add(-time.Hour)
	for p, codec := range []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()} {
		for producer := range producers {
			rnd := rand.New(rand.NewPCG(uint64(p), uint64(producer)))
			c := b.client(kgo.ProducerBatchCompression(codec), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(topic),
				kgo.ProducerBatchMaxBytes(32<<10))
			batch := make([]*kgo.Record, records)
			for i := range batch {
				value := make([]byte, rnd.IntN(2400))
				for j := range value {
					value[j] = byte('!' + rnd.IntN(64)) // printable, and 6 of 8 bits are left by a compressor
				}
				batch[i] = &kgo.Record{Partition: int32(p), Key: fmt.Appendf(nil, "key %d", i), Value: value,
					Timestamp: base.Add(time.Duration(i-rnd.IntN(100)) * time.Millisecond), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("v")}}}
			}
			must(t, c.ProduceSync(deadline(t, time.Minute), batch...).FirstErr())
			c.Close()
			want[fmt.Sprintf("%s-%d", topic, p)] += records
		}
	}
}

// produceTransactions commits and aborts in turn. Each transaction has a control record of its own at its end.
func produceTransactions(t *testing.T, b *broker, want map[string]int64) {
	t.Helper()
	const topic, transactions, records = "dump-transactions", 40, 100
	b.createTopic(topic, 1, "segment.bytes=1048576", "index.interval.bytes=256")
	c := b.client(kgo.TransactionalID("dump"), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerBatchMaxBytes(16<<10))
	ctx := deadline(t, 2*time.Minute)
	for i := range transactions {
		must(t, c.BeginTransaction())
		var batch []*kgo.Record
		for range records {
			batch = append(batch, &kgo.Record{Value: make([]byte, 1500)})
		}
		must(t, c.ProduceSync(ctx, batch...).FirstErr())
		must(t, endTransaction(ctx, c, kgo.TransactionEndTry(i%2 == 0)))
	}
	want[topic+"-0"] += transactions * (records + 1)
}

func endTransaction(ctx context.Context, c *kgo.Client, commit kgo.TransactionEndTry) error {
	for {
		err := c.EndTransaction(ctx, commit)
		if !errors.Is(err, kerr.ConcurrentTransactions) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
}
