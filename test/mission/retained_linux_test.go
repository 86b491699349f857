package mission

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestRetentionCostsNothing: an append that is flushed, and a fetch of it at the end of the log, make the broker do the same with 100 times as many
// segments behind them. What is counted is what the process asks of the kernel, and how often it allocates; its processor time is printed.
func TestRetentionCostsNothing(t *testing.T) {
	// The scrub reads everything, at a rate that does not depend on what clients do.
	p := serverFor(t, patience, t.TempDir(), "127.0.0.1:0", "moldau.log.scrub.bytes.per.second=0")
	m := &many{t: t, process: p}
	few, all := m.newTail("few", 5), m.newTail("many", 500)
	m.quiet()
	// In turn, for other things go on meanwhile; the least is what it costs. To ask for /metrics allocates 1,700 to 7,000 times itself, which no
	// count of segments changes: whoever has not been lucky yet gets further turns.
	for turn := 0; turn < 4 || turn < 100 && all.costsMore(few) >= 0; turn++ {
		few.measure()
		all.measure()
	}
	t.Logf("%d and %d segments at the end", m.segments("few"), m.segments("many"))
	for i, name := range tailFigures {
		f, a := few.cost[i]/tailRounds, all.cost[i]/tailRounds
		t.Logf("%-28s %8.2f each with 5 segments, %8.2f with 500: %.2f times as many", name, f, a, a/f)
	}
	if i := all.costsMore(few); i >= 0 {
		t.Errorf("%s: %.2f for an append and a fetch with 500 segments, %.2f with 5", tailFigures[i], all.cost[i]/tailRounds, few.cost[i]/tailRounds)
	}
}

var tailFigures = [...]string{"system calls that read", "system calls that write", "allocations", "ms of processor time"}

const (
	tailCounts = 3 // of the figures, what can be counted
	tailRounds = 200
)

// tail is a topic with some segments, and clients at its end.
type tail struct {
	m    *many
	in   *kgo.Client
	out  *kgo.Client
	end  int64
	cost [len(tailFigures)]float64 // the least so far
}

// newTail makes a topic with so many segments.
func (m *many) newTail(topic string, segments int) *tail {
	m.t.Helper()
	// Each index has room for an entry or two, so a segment ends after a few batches.
	m.create(topic, 1, map[string]string{"index.interval.bytes": "0", "segment.index.bytes": "40"})
	c := m.client(kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.ProducerBatchMaxBytes(600),
		kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MetadataMaxAge(time.Hour))
	end := int64(0)
	for made := 0; made < segments; made = m.segments(topic) {
		for range 3 * (segments - made) {
			end++
			c.Produce(m.ctx, &kgo.Record{Value: tailValue}, func(_ *kgo.Record, err error) {
				if err != nil {
					m.t.Errorf("%s: %v", topic, err)
				}
			})
		}
		must(m.t, c.Flush(m.ctx))
	}
	size := "1048576"
	_, err := kadm.NewClient(c).AlterTopicConfigs(m.ctx, []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "segment.index.bytes", Value: &size}}, topic)
	must(m.t, err)
	x := &tail{m: m, in: c, end: end}
	x.out = m.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {0: kgo.NewOffset().At(end)}}), kgo.MetadataMaxAge(time.Hour))
	for range 20 { // what is made at the first time, and a roll of the old size
		x.round()
	}
	return x
}

var tailValue = bytes.Repeat([]byte("x"), 400)

// round appends a record and fetches it.
func (x *tail) round() {
	t, ctx := x.m.t, x.m.ctx
	t.Helper()
	must(t, x.in.ProduceSync(ctx, &kgo.Record{Value: tailValue}).FirstErr())
	for want := x.end + 1; x.end < want; {
		fs := x.out.PollFetches(ctx)
		must(t, fs.Err())
		x.end += int64(fs.NumRecords())
	}
}

// costsMore is the first of the figures that can be counted of which x costs more than other, -1 if there is none.
func (x *tail) costsMore(other *tail) int {
	for i := range tailCounts {
		if x.cost[i] > 1.5*other.cost[i]+tailRounds {
			return i
		}
	}
	return -1
}

// measure counts what some rounds take.
func (x *tail) measure() {
	x.m.t.Helper()
	before := x.m.spent()
	for range tailRounds {
		x.round()
	}
	after := x.m.spent()
	for i := range x.cost {
		if now := after[i] - before[i]; x.cost[i] == 0 || now < x.cost[i] {
			x.cost[i] = now
		}
	}
}

func (m *many) segments(topic string) int {
	m.t.Helper()
	files, err := filepath.Glob(filepath.Join(m.dir, "log", topic+"-0", "*.log"))
	must(m.t, err)
	return len(files)
}

// quiet waits until the broker has done what it does in the background.
func (m *many) quiet() {
	m.t.Helper()
	const look = 300 * time.Millisecond
	last := m.spent()
	time.Sleep(look)
	eventually(m.t, m.ctx, "the broker has nothing to do", func() bool {
		now := m.spent()
		still := now[1]-last[1] < 30 // the metadata store and this test
		last = now
		time.Sleep(look)
		return still
	})
}

// spent is what the process has done so far, as tailFigures names it.
func (m *many) spent() (out [len(tailFigures)]float64) {
	m.t.Helper()
	io, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", m.cmd.Process.Pid))
	must(m.t, err)
	var bytesRead, bytesWritten float64
	_, err = fmt.Sscanf(string(io), "rchar: %g\nwchar: %g\nsyscr: %g\nsyscw: %g\n", &bytesRead, &bytesWritten, &out[0], &out[1])
	must(m.t, err)
	figures := m.metrics("go_memstats_mallocs_total", "process_cpu_seconds_total")
	out[2], out[3] = figures[0], 1000*figures[1]
	return out
}
