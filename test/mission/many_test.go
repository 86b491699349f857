package mission

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestManyPartitions keeps many partitions on one broker: first empty, then with a record in each, over a clean stop and
// over a kill. It prints what they cost: make many PARTITIONS=100000.
func TestManyPartitions(t *testing.T) {
	n := 2000
	if testing.Short() {
		n = 300
	}
	n = partitionsOr(t, n)
	m := &many{t: t, perTopic: min(1000, max(1, n/4))}
	for left := n; left > 0; left -= m.perTopic {
		m.topics = append(m.topics, topicOf{fmt.Sprintf("many-%04d", len(m.topics)), int32(min(m.perTopic, left))})
	}
	m.process = serverFor(t, patience+time.Duration(n)*60*time.Millisecond, t.TempDir(), "127.0.0.1:0")
	idle := m.settled("idle broker")

	m.timed("create", m.createAll)
	m.settled("created, empty")
	m.restart("empty, stopped", m.stop)
	m.ends(0)
	m.settled("restarted, empty")
	m.restart("empty, killed", m.kill)
	m.ends(0)

	m.timed("produce one record to each", func() { m.produceAll("first") })
	m.settled("one record in each")
	m.rest("one record in each, not used for a while")
	m.restart("one record in each, stopped", m.stop)
	m.settled("restarted, one record in each, not read")
	m.askForAll()
	m.settled("asked for all of them")
	m.timed("list the ends of all", func() { m.ends(1) })
	m.settled("ends listed")
	m.timed("read all", func() { m.readAll(1) })
	m.settled("all read")
	m.rest("all read, and not used for a while")
	m.restart("one record in each, killed", m.kill)
	m.timed("read all", func() { m.readAll(1) })
	m.timed("produce another to each", func() { m.produceAll("second") })
	m.restart("two records in each, killed", m.kill)
	m.readAll(2)
	m.settled("all read after a kill")
	after := m.rest("all read after a kill, and not used for a while")
	t.Logf("%d partitions: %.1f MB above the idle broker at the end", n, float64(after-idle)/1e6)
}

// partitionsOr is PARTITIONS, or n.
func partitionsOr(t *testing.T, n int) int {
	t.Helper()
	if s := os.Getenv("PARTITIONS"); s != "" {
		v, err := strconv.Atoi(s)
		must(t, err)
		return v
	}
	return n
}

// topicOf is a topic and the number of its partitions.
type topicOf struct {
	name       string
	partitions int32
}

type many struct {
	*process
	t        *testing.T
	topics   []topicOf
	perTopic int
}

func (m *many) timed(what string, f func()) {
	m.t.Helper()
	begun := time.Now()
	f()
	m.t.Logf("%-44s %8.3f s", what, time.Since(begun).Seconds())
}

// restart ends the process, starts it anew and waits for a record of its own and for the answer of each partition.
func (m *many) restart(what string, end func()) {
	m.t.Helper()
	m.timed(what+": end", end)
	begun := time.Now()
	m.start()
	ready := time.Since(begun)
	m.t.Logf("%-44s %8.3f s, %.2f s of processor time", what+": ready", ready.Seconds(), m.processor())
}

// processor is the processor time that the process has taken, in seconds; 0 where the system does not say.
func (m *many) processor() float64 {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, err := strconv.Atoi(fields[11])
	must(m.t, err)
	system, err := strconv.Atoi(fields[12])
	must(m.t, err)
	return float64(user+system) / 100 // clock ticks
}

func (m *many) createAll() {
	m.t.Helper()
	adm := kadm.NewClient(m.client())
	for _, topic := range m.topics {
		r, err := adm.CreateTopic(m.ctx, topic.partitions, 1, nil, topic.name)
		must(m.t, err)
		must(m.t, r.Err)
	}
}

// ends checks that every partition answers, and with this end.
func (m *many) ends(want int64) {
	m.t.Helper()
	adm := kadm.NewClient(m.client())
	for _, topic := range m.topics {
		ends, err := adm.ListEndOffsets(m.ctx, topic.name)
		must(m.t, err)
		must(m.t, ends.Error())
		got := 0
		ends.Each(func(o kadm.ListedOffset) {
			got++
			if o.Offset != want {
				m.t.Errorf("%s-%d ends at %d, not %d", o.Topic, o.Partition, o.Offset, want)
			}
		})
		if got != int(topic.partitions) {
			m.t.Errorf("%s: %d partitions answered, not %d", topic.name, got, topic.partitions)
		}
	}
}

// produceAll writes one record to each partition.
func (m *many) produceAll(round string) {
	m.t.Helper()
	c := m.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(20_000), kgo.ProducerLinger(5*time.Millisecond))
	defer c.Close()
	failed := make(chan error, 1)
	for _, topic := range m.topics {
		for i := range topic.partitions {
			value := fmt.Sprintf("%s %s-%d", round, topic.name, i)
			c.Produce(m.ctx, &kgo.Record{Topic: topic.name, Partition: i, Value: []byte(value)}, func(_ *kgo.Record, err error) {
				if err != nil {
					select {
					case failed <- err:
					default:
					}
				}
			})
		}
	}
	must(m.t, c.Flush(m.ctx))
	select {
	case err := <-failed:
		m.t.Fatal(err)
	default:
	}
}

// readAll reads each partition from its first record on and checks that it has exactly what was written.
func (m *many) readAll(rounds int) {
	m.t.Helper()
	for _, topic := range m.topics {
		m.readTopic(topic, rounds)
	}
}

func (m *many) readTopic(topic topicOf, rounds int) {
	m.t.Helper()
	from := map[int32]kgo.Offset{}
	for i := range topic.partitions {
		from[i] = kgo.NewOffset().At(0)
	}
	c := m.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic.name: from}))
	defer c.Close()
	next := make([]int64, topic.partitions)
	for got := 0; got < int(topic.partitions)*rounds; {
		fs := c.PollFetches(m.ctx)
		must(m.t, fs.Err())
		fs.EachRecord(func(r *kgo.Record) {
			round := [...]string{"first", "second"}[min(r.Offset, 1)]
			if want := fmt.Sprintf("%s %s-%d", round, topic.name, r.Partition); string(r.Value) != want || r.Offset != next[r.Partition] {
				m.t.Fatalf("%s-%d has %q at offset %d, not %q at %d", r.Topic, r.Partition, r.Value, r.Offset, want, next[r.Partition])
			}
			next[r.Partition]++
			got++
		})
	}
}

// askForAll makes the requests whose answers have every partition, and prints what each costs.
func (m *many) askForAll() {
	m.t.Helper()
	adm := kadm.NewClient(m.client())
	total := 0
	for _, topic := range m.topics {
		total += int(topic.partitions)
	}
	count := func(what string, got int) {
		m.t.Helper()
		if got < total {
			m.t.Errorf("%s: %d partitions, not %d", what, got, total)
		}
	}
	m.cost("one scrape of /metrics", func() {
		count("/metrics", bytes.Count(m.get("/metrics"), []byte("\nmoldau_log_end_offset{")))
	})
	m.cost("Metadata of all topics", func() {
		topics, err := adm.ListTopics(m.ctx)
		must(m.t, err)
		n := 0
		topics.EachPartition(func(kadm.PartitionDetail) { n++ })
		count("Metadata", n)
	})
	m.cost("DescribeLogDirs", func() {
		dirs, err := adm.DescribeAllLogDirs(m.ctx, nil)
		must(m.t, err)
		n := 0
		dirs.Each(func(d kadm.DescribedLogDir) { d.Topics.Each(func(kadm.DescribedLogDirPartition) { n++ }) })
		count("DescribeLogDirs", n)
	})
	m.cost("DescribeConfigs of all topics", func() {
		names := make([]string, len(m.topics))
		for i, topic := range m.topics {
			names[i] = topic.name
		}
		configs, err := adm.DescribeTopicConfigs(m.ctx, names...)
		must(m.t, err)
		if len(configs) != len(names) {
			m.t.Errorf("the configurations of %d topics, not %d", len(configs), len(names))
		}
	})
}

// cost prints what the process took for f, and how many bytes it had resident meanwhile at most.
func (m *many) cost(what string, f func()) {
	m.t.Helper()
	if os.Getenv("PARTITIONS") == "" || runtime.GOOS != "linux" {
		f()
		return
	}
	const resetPeak = "5"
	must(m.t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", m.cmd.Process.Pid), []byte(resetPeak), 0))
	before, processor, begun := m.memory(), m.processor(), time.Now()
	f()
	took, after := time.Since(begun), m.memory()
	m.t.Logf("%-44s %8.3f s, %.2f s of processor time; %+.1f MB resident at most, %+.1f MB behind it", what, took.Seconds(), m.processor()-processor,
		float64(after.peak-before.resident)/1e6, float64(after.resident-before.resident)/1e6)
}

// settled prints what the process holds, and returns its resident bytes once they do not fall any more.
func (m *many) settled(what string) int64 {
	m.t.Helper()
	if os.Getenv("PARTITIONS") == "" || runtime.GOOS != "linux" {
		return 0
	}
	time.Sleep(12 * time.Second) // the broker looks every five whether there is something to give back
	asked := m.memory()
	// Not /metrics: with so many partitions that would be most of what is measured next.
	var goroutines, allocated, inUse float64
	for _, line := range strings.Split(string(m.get("/debug/pprof/goroutine?debug=1"))+string(m.get("/debug/pprof/heap?debug=1")), "\n") {
		for format, to := range map[string]*float64{"goroutine profile: total %g": &goroutines, "# HeapAlloc = %g": &allocated, "# HeapInuse = %g": &inUse} {
			_, _ = fmt.Sscanf(line, format, to) // most lines are others
		}
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", m.cmd.Process.Pid))
	must(m.t, err)
	m.t.Logf("%-44s %8.1f MB resident, of which %.1f of files; heap %.1f in use, %.1f allocated; %.0f goroutines, %d files", what, float64(asked.resident)/1e6,
		float64(asked.files)/1e6, inUse/1e6, allocated/1e6, goroutines, len(files))
	if dir := os.Getenv("PROFILES"); dir != "" {
		m.profile("heap?gc=1", filepath.Join(dir, strings.ReplaceAll(what, " ", "-")+".heap"))
	}
	return asked.resident
}

// rest waits until logs that nobody uses are closed, and prints what the process holds then; it returns the resident bytes.
func (m *many) rest(what string) int64 {
	m.t.Helper()
	if os.Getenv("PARTITIONS") == "" || runtime.GOOS != "linux" {
		return 0
	}
	for still, last := 0, int64(math.MaxInt64); still < 3; { // until it falls no more
		time.Sleep(20 * time.Second)
		now := m.memory().resident
		if still++; now < last-last/50 {
			still, last = 0, now
		}
	}
	return m.settled(what)
}

// memory is what a process has of the machine's, in bytes: resident now and at most, and how much of what is resident belongs to files
// (the program, the metadata store's), which the system takes away when it needs it.
type memory struct{ resident, peak, files int64 }

func (m *many) memory() (out memory) {
	m.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.cmd.Process.Pid))
	must(m.t, err)
	for line := range strings.Lines(string(text)) {
		for format, to := range map[string]*int64{"VmRSS: %d kB": &out.resident, "VmHWM: %d kB": &out.peak, "RssFile: %d kB": &out.files} {
			var kb int64
			if _, err := fmt.Sscanf(line, format, &kb); err == nil {
				*to = kb << 10
			}
		}
	}
	return out
}

// metrics reads single values from /metrics.
func (m *many) metrics(names ...string) []float64 {
	m.t.Helper()
	out := make([]float64, len(names))
	body := m.get("/metrics")
	for _, line := range strings.Split(string(body), "\n") {
		for i, name := range names {
			if v, ok := strings.CutPrefix(line, name+" "); ok {
				out[i], _ = strconv.ParseFloat(v, 64)
			}
		}
	}
	return out
}

func (m *many) profile(what, file string) {
	m.t.Helper()
	must(m.t, os.WriteFile(file, m.get("/debug/pprof/"+what), 0o644))
}

func (m *many) get(path string) []byte {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.ctx, http.MethodGet, "http://"+m.http+path, nil)
	must(m.t, err)
	resp, err := http.DefaultClient.Do(req)
	must(m.t, err)
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		must(m.t, errors.New(resp.Status))
	}
	body, err := io.ReadAll(resp.Body)
	must(m.t, err)
	return body
}
