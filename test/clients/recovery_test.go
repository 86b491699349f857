//go:build clients && linux

package clients

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestRecovery: ten partitions whose active segments are large come back after kill -9: each answers a fetch and a produce, and holds
// exactly what was acknowledged. Reported, not asserted: the time to the first answer, by partition. RECOVERY_BYTES is the size of each
// active segment (default 32 MiB).
func TestRecovery(t *testing.T) {
	const topic, partitions, valueBytes = "recovery", 10, 64 << 10
	size := envInt(t, "RECOVERY_BYTES", 32<<20)
	b := startBroker(t)
	b.createTopic(topic, partitions, "segment.bytes=2147483647", "retention.ms=-1", "retention.bytes=-1", "max.message.bytes=2000000")
	// One value for all, incompressible; each record begins with its number instead.
	noise := make([]byte, valueBytes)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(noise)
	valueOf := func(p int32, i int64) []byte {
		return append(fmt.Appendf(nil, "%d/%d/", p, i), noise...)[:valueBytes]
	}
	records := max(1, size/valueBytes)
	c := b.client(kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.MaxBufferedBytes(64<<20), kgo.ProducerBatchMaxBytes(1<<20))
	var mu sync.Mutex // guards failed
	var failed error
	ctx := deadline(t, 30*time.Minute)
	for i := range records {
		for p := range int32(partitions) {
			c.Produce(ctx, &kgo.Record{Partition: p, Value: valueOf(p, i)}, func(r *kgo.Record, err error) {
				mu.Lock()
				defer mu.Unlock()
				if failed == nil && err == nil && r.Offset != i {
					err = fmt.Errorf("partition %d: record %d has offset %d", p, i, r.Offset)
				}
				if failed == nil {
					failed = err
				}
			})
		}
	}
	must(t, c.Flush(ctx))
	must(t, failed)
	c.Close()
	b.kill9()

	began := time.Now()
	answered := b.start()
	fetched, produced := make([]time.Duration, partitions), make([]time.Duration, partitions)
	errs := make([]error, partitions)
	var wg sync.WaitGroup
	for p := range int32(partitions) {
		wg.Go(func() {
			if errs[p] = fetchOnce(b, topic, p, records-1); errs[p] != nil {
				return
			}
			fetched[p] = time.Since(began)
			c, err := kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DefaultProduceTopic(topic))
			if err != nil {
				errs[p] = err
				return
			}
			defer c.Close()
			r := &kgo.Record{Partition: p, Value: valueOf(p, records)}
			if errs[p] = c.ProduceSync(deadline(t, startPatience), r).FirstErr(); errs[p] == nil && r.Offset != records {
				errs[p] = fmt.Errorf("the first record after the restart has offset %d, want %d", r.Offset, records)
			}
			produced[p] = time.Since(began)
		})
	}
	wg.Wait()
	table := &strings.Builder{}
	fmt.Fprintf(table, "recovery of %d partitions with %d MiB each: ready after %v\npartition  first fetch  first produce\n", partitions, size>>20, answered.Round(time.Millisecond))
	ends := map[int32]int64{}
	for p := range int32(partitions) {
		if errs[p] != nil {
			t.Errorf("partition %d: %v", p, errs[p])
		}
		fmt.Fprintf(table, "%9d  %11v  %13v\n", p, fetched[p].Round(time.Millisecond), produced[p].Round(time.Millisecond))
		ends[p] = records + 1
	}
	t.Log(table.String())
	if t.Failed() {
		return
	}
	if got := b.endOffsets(topic); fmt.Sprint(got) != fmt.Sprint(ends) {
		t.Errorf("the log end offsets are %v, want %v", got, ends)
	}
	_, err := franzDigest(b, topic, ends, func(r *kgo.Record) {
		if string(r.Value) != string(valueOf(r.Partition, r.Offset)) {
			t.Errorf("partition %d offset %d: begins with %q", r.Partition, r.Offset, r.Value[:min(20, len(r.Value))])
		}
	})
	must(t, err)
}

// fetchOnce asks for one record until the partition answers without an error.
func fetchOnce(b *broker, topic string, p int32, offset int64) error {
	until := time.Now().Add(startPatience)
	for {
		err := func() error {
			raw, err := connect(b.addr)
			if err != nil {
				return err
			}
			defer raw.Close()
			req := kmsg.NewPtrFetchRequest()
			req.Version = 12 // the last that names its topic
			req.MaxBytes, req.MinBytes, req.MaxWaitMillis = 1<<20, 1, 100
			part := kmsg.NewFetchRequestTopicPartition()
			part.Partition, part.FetchOffset, part.PartitionMaxBytes = p, offset, 1<<20
			top := kmsg.NewFetchRequestTopic()
			top.Topic, top.Partitions = topic, append(top.Partitions, part)
			req.Topics = append(req.Topics, top)
			resp, err := raw.ask(req)
			if err != nil {
				return err
			}
			r := resp.(*kmsg.FetchResponse)
			if r.ErrorCode != 0 || len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 {
				return fmt.Errorf("fetch: error %d, %d topics", r.ErrorCode, len(r.Topics))
			}
			if a := r.Topics[0].Partitions[0]; a.ErrorCode != 0 || len(a.RecordBatches) == 0 {
				return fmt.Errorf("fetch: partition %d: error %d, %d bytes", p, a.ErrorCode, len(a.RecordBatches))
			}
			return nil
		}()
		if err == nil || time.Now().After(until) {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}
