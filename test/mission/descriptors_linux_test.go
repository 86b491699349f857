package mission

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
)

// TestFewDescriptors: a broker that may have few files open serves many partitions, large answers from many of them and more clients than it has
// descriptors for, slowly if need be. Nothing goes offline and no client sees an error. make few-descriptors.
func TestFewDescriptors(t *testing.T) {
	for _, most := range []int{256, 1024} {
		t.Run(fmt.Sprint(most), func(t *testing.T) { fewDescriptors(t, most) })
	}
}

func fewDescriptors(t *testing.T, most int) {
	partitions := partitionsOr(t, 300)
	clients := max(60, partitions/16)
	m := &many{t: t, process: newProcess(t, 2*patience, t.TempDir(), "off"), perTopic: partitions / 4}
	m.most = most
	m.start()
	for i := range 4 {
		m.topics = append(m.topics, topicOf{fmt.Sprintf("many-%04d", i), int32(m.perTopic)})
	}
	m.createAll()
	m.produceAll("first")
	m.produceAll("second")
	m.large()
	var all sync.WaitGroup
	for i := range clients {
		all.Go(func() { m.readTopic(m.topics[i%len(m.topics)], 2) })
	}
	all.Wait()
	m.stop()
	m.start()
	m.readAll(2)
	log := m.log.String()
	for _, bad := range []string{"too many open files", "offline"} {
		if strings.Contains(log, bad) {
			t.Errorf("the broker's log says %q", bad)
		}
	}
	if low := strings.Contains(log, "the limit of open files is low"); !low {
		t.Error("the broker does not say that its limit is low")
	}
}

// large reads partitions so that one answer is sent from many files.
func (m *many) large() {
	m.t.Helper()
	const partitions, records = 150, 3
	m.create("large", partitions, nil)
	c := m.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(64), kgo.ProducerBatchCompression(kgo.NoCompression()))
	value := bytes.Repeat([]byte("x"), 100_000)
	for i := range partitions * records {
		c.Produce(m.ctx, &kgo.Record{Topic: "large", Partition: int32(i % partitions), Value: value}, func(_ *kgo.Record, err error) {
			if err != nil {
				m.t.Errorf("large record: %v", err)
			}
		})
	}
	must(m.t, c.Flush(m.ctx))
	from := map[int32]kgo.Offset{}
	for i := range int32(partitions) {
		from[i] = kgo.NewOffset().At(0)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			c := m.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"large": from}))
			defer c.Close()
			for got := 0; got < partitions*records && m.ctx.Err() == nil; {
				fs := c.PollFetches(m.ctx)
				if err := fs.Err(); err != nil {
					m.t.Errorf("large records: %v", err)
					return
				}
				got += fs.NumRecords()
			}
		})
	}
	all.Wait()
}
