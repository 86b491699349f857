//go:build clients && linux

package clients

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// found is a line of moldau log check -o json.
type found struct {
	Kind, Severity, File, What string
	Position, Offset           int64
	Records, Segments          int64
}

// logCheck is what moldau log check says of a log dir, and its exit code.
func logCheck(t *testing.T, args ...string) (all []found, code int) {
	t.Helper()
	bin, err := moldau()
	must(t, err)
	r, err := try(t, toolPatience, nil, bin, append([]string{"log", "check", "-o", "json"}, args...)...)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 3 {
		code = 3
	} else {
		must(t, err)
	}
	for s := bufio.NewScanner(strings.NewReader(r.stdout)); s.Scan(); {
		var f found
		must(t, json.Unmarshal(s.Bytes(), &f))
		all = append(all, f)
	}
	return all, code
}

// writeAllKinds writes compacted records, and transactions that were committed and aborted, compressed in every way.
func writeAllKinds(t *testing.T, b *broker, logDir string) {
	b.createTopic("orders", 2, "segment.ms=3000", "index.interval.bytes=100")
	b.createTopic("compacted", 1, "cleanup.policy=compact", "segment.ms=200", "min.cleanable.dirty.ratio=0.001", "max.compaction.lag.ms=1000", "min.compaction.lag.ms=0")
	clock := time.Now().Truncate(time.Millisecond) // near that of the markers, which would close a segment of old records
	for n, codec := range []kgo.CompressionCodec{kgo.ZstdCompression(), kgo.NoCompression(), kgo.Lz4Compression(), kgo.GzipCompression(), kgo.SnappyCompression()} {
		c := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(codec), kgo.TransactionalID(fmt.Sprint("check-", n)))
		for tx := range 6 {
			must(t, c.BeginTransaction())
			for i := range 20 {
				clock = clock.Add(time.Millisecond)
				for _, r := range []*kgo.Record{
					{Topic: "orders", Partition: int32(i % 2), Timestamp: clock, Key: fmt.Append(nil, i), Value: fmt.Appendf(nil, "order %d of %d %s", i, tx, strings.Repeat("x", i*10))},
					{Topic: "compacted", Timestamp: clock, Key: fmt.Append(nil, i%7), Value: fmt.Appendf(nil, "value %d of %d", i, tx)},
				} {
					c.Produce(deadline(t, time.Minute), r, func(_ *kgo.Record, err error) {
						if err != nil {
							t.Error(err)
						}
					})
				}
			}
			must(t, c.Flush(deadline(t, time.Minute)))
			must(t, c.EndTransaction(deadline(t, time.Minute), tx%3 != 1))
		}
		c.Close()
	}
	// The cleaner has its own time. The file that says how far it came ends the waiting.
	name := filepath.Join(logDir, "cleaner-offset-checkpoint")
	for until := time.Now().Add(2 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		text, err := os.ReadFile(name)
		if err == nil && strings.Contains(string(text), "compacted 0 ") && !strings.Contains(string(text), "compacted 0 0\n") {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("nothing was compacted: %s %v", text, err)
		}
		c := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner())) // a segment is rolled by an append only
		must(t, c.ProduceSync(deadline(t, time.Minute), &kgo.Record{Topic: "compacted", Key: []byte("last"), Value: []byte("v")}).FirstErr())
		c.Close()
	}
}

// allCommitted is every record of committed transactions of the topic that writeAllKinds does not compact.
func allCommitted(t *testing.T, b *broker) (all []string) {
	t.Helper()
	left := map[string]int64{}
	for p, end := range b.endOffsets("orders") {
		left[fmt.Sprintf("orders-%d", p)] = end - 1
	}
	// The last record of a partition may be a marker.
	c := b.client(kgo.ConsumeTopics("orders"), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	ctx := deadline(t, time.Minute)
	for len(left) > 0 {
		fetches := c.PollFetches(ctx)
		must(t, ctx.Err())
		fetches.EachRecord(func(r *kgo.Record) {
			name := fmt.Sprintf("%s-%d", r.Topic, r.Partition)
			if !r.Attrs.IsControl() {
				all = append(all, fmt.Sprintf("%s %d %s %s", name, r.Offset, r.Key, r.Value))
			}
			if r.Offset == left[name] {
				delete(left, name)
			}
		})
	}
	slices.Sort(all)
	return all
}

// TestCheckKafka: a log dir that Apache Kafka wrote, with compacted and transactional records of every codec, is clean for moldau log check when
// Kafka has been stopped, and names file and offset when a byte is changed; repair makes an index anew that Kafka goes on to use.
func TestCheckKafka(t *testing.T) {
	if targetKafka {
		t.Skip("it starts Apache Kafka itself")
	}
	k := startKafka(t)
	b, data := k.broker, filepath.Join(k.dir, "data")
	writeAllKinds(t, b, data)
	want := allCommitted(t, b)
	running, _ := logCheck(t, data)
	for _, f := range running {
		if f.Severity == "damaged" {
			t.Errorf("while Kafka runs: %+v", f)
		}
	}
	k.stop()

	all, code := logCheck(t, data)
	for _, f := range all {
		if f.Kind == "finding" && f.Severity != "note" {
			t.Errorf("after a clean stop: %+v", f)
		}
	}
	last := all[len(all)-1]
	t.Logf("%+v", last)
	if code != 0 || last.Kind != "summary" || last.Records < 500 {
		t.Errorf("exit %d, %+v", code, last)
	}

	spoil := func(name string, at int64) {
		t.Helper()
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		must(t, err)
		defer f.Close()
		var one [1]byte
		_, err = f.ReadAt(one[:], at)
		must(t, err)
		one[0] ^= 4
		_, err = f.WriteAt(one[:], at)
		must(t, err)
	}
	log := filepath.Join(data, "orders-0", "00000000000000000000.log")
	index := ""
	names, err := filepath.Glob(filepath.Join(data, "orders-1", "*.index"))
	must(t, err)
	for _, name := range names {
		if info, err := os.Stat(name); err == nil && info.Size() >= 8 {
			index = name
			break
		}
	}
	if index == "" {
		t.Fatalf("no index has an entry: %v", names)
	}
	spoil(log, 90)
	spoil(index, 7)
	all, code = logCheck(t, data)
	var damaged, stale []found
	for _, f := range all {
		switch {
		case f.Severity == "damaged":
			damaged = append(damaged, f)
		case f.Severity == "stale":
			stale = append(stale, f)
		}
	}
	if code != 3 || len(damaged) != 1 || damaged[0].File != log || damaged[0].Position > 90 || damaged[0].Offset > 1 || len(stale) != 1 || stale[0].File != index {
		t.Fatalf("exit %d, damaged %+v, stale %+v", code, damaged, stale)
	}
	spoil(log, 90)
	bin, err := moldau()
	must(t, err)
	run(t, toolPatience, nil, bin, "log", "repair", "--yes", data)
	if all, code = logCheck(t, data); code != 0 {
		t.Errorf("repaired: exit %d %+v", code, all)
	}
	k.start()
	if got := allCommitted(t, b); !slices.Equal(got, want) {
		t.Errorf("Kafka reads\n%v\nbefore it was\n%v", got, want)
	}
}
