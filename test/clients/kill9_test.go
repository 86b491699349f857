//go:build clients && linux

package clients

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	killPartitions = 3
	killProducers  = 2
	killRate       = 5000 // records a second and producer: it bounds the memory of a run with many kills
)

// TestKill9: idempotent producers with acks=all write while the broker is killed again and again. Afterwards every acknowledged record is
// at the offset of its acknowledgement, no record is there twice, offsets have no gap, each producer's records are in the order in
// which it sent them with none missing between them, and consumers that read all the time have seen nothing else. KILLS is the number of
// kills (default 5), KILL_SEED makes the moments of the kills those of an earlier run.
func TestKill9(t *testing.T) {
	const topic = "kill9"
	kills := envInt(t, "KILLS", 5)
	seed := uint64(envInt(t, "KILL_SEED", time.Now().UnixNano()))
	t.Logf("KILL_SEED=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	b := startBroker(t)
	b.createTopic(topic, killPartitions, "segment.bytes=4194304", "retention.ms=-1", "retention.bytes=-1")

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var producers, consumers sync.WaitGroup
	sending, stopSending := context.WithCancel(ctx)
	defer stopSending()
	senders := make([]*sender, killProducers)
	for i := range senders {
		senders[i] = newSender(b, topic, i)
		producers.Go(func() { senders[i].run(ctx, sending) })
	}
	// One consumer stays connected to whatever is there; the other begins anew after each kill, at an offset from before it.
	tail := newWitness()
	consumers.Go(func() { tail.read(ctx, b, topic, nil) })
	again := newWitness()
	for kill := range kills {
		waitForAcks(t, senders, b)
		time.Sleep(time.Duration(rnd.IntN(1500)) * time.Millisecond)
		b.mustRun()
		b.kill9()
		if rnd.IntN(4) == 0 {
			time.Sleep(time.Duration(rnd.IntN(500)) * time.Millisecond)
		}
		took := b.start()
		t.Logf("kill %d: answers after %v", kill+1, took.Round(time.Millisecond))
		from := again.someOffsets(rnd)
		consumers.Go(func() { again.readFor(ctx, 2*time.Second, b, topic, from) })
	}
	waitForAcks(t, senders, b)
	stopSending()
	producers.Wait()
	for _, s := range senders {
		must(t, s.err)
	}

	final := newWitness()
	order := newOrderCheck()
	ends := b.endOffsets(topic)
	_, err := franzDigest(b, topic, ends, func(r *kgo.Record) {
		final.see(r)
		if err := order.add(r); err != nil {
			t.Errorf("partition %d offset %d: %v", r.Partition, r.Offset, err)
		}
	})
	must(t, err)
	// The consumer that stayed reaches the end too, without having seen anything twice or skipped.
	for until := time.Now().Add(time.Minute); !tail.has(ends); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(until) {
			t.Errorf("the consumer that ran throughout stands at %v, the ends are %v", tail.next(), ends)
			break
		}
	}
	cancel()
	consumers.Wait()
	for name, w := range map[string]*witness{"the consumer that ran throughout": tail, "a consumer after a restart": again, "the last reading": final} {
		if w.err != nil {
			t.Errorf("%s: %v", name, w.err)
		}
		for at, sum := range w.seen {
			if final.seen[at] != sum {
				t.Errorf("%s saw another record at partition %d offset %d than is there now", name, at.partition, at.offset)
			}
		}
	}
	for p, end := range ends {
		for o := range end {
			if _, there := final.seen[position{p, o}]; !there {
				t.Errorf("partition %d has no offset %d", p, o)
			}
		}
	}
	acked := 0
	for _, s := range senders {
		acked += len(s.acked)
		for at, sum := range s.acked {
			if got, there := final.seen[at]; !there || got != sum {
				t.Errorf("the record acknowledged at partition %d offset %d is not there", at.partition, at.offset)
			}
		}
		for p, sent := range s.sent {
			if got := order.next[sequence{s.id, int32(p)}]; got != sent {
				t.Errorf("producer %d, partition %d: %d records there, %d sent and acknowledged", s.id, p, got, sent)
			}
		}
	}
	t.Logf("%d kills, %d records acknowledged, %d there", kills, acked, len(final.seen))
}

type position struct {
	partition int32
	offset    int64
}

type sequence struct {
	producer  int
	partition int32
}

// sender is one idempotent producer. Its records carry its id, and a number that rises by one in each partition.
type sender struct {
	id     int
	client *kgo.Client

	mu    sync.Mutex // guards what follows
	acked map[position]uint64
	sent  [killPartitions]int64
	err   error
}

func newSender(b *broker, topic string, id int) *sender {
	c := b.client(kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.MaxBufferedRecords(2000), kgo.RecordDeliveryTimeout(5*time.Minute), kgo.RetryTimeout(5*time.Minute), kgo.ProducerLinger(time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 50 * time.Millisecond }), kgo.RecordRetries(1<<30), kgo.UnknownTopicRetries(-1))
	return &sender{id: id, client: c, acked: map[position]uint64{}}
}

// run sends until sending ends and then until everything is acknowledged.
func (s *sender) run(ctx, sending context.Context) {
	rnd := rand.New(rand.NewPCG(uint64(s.id), 2))
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for sending.Err() == nil && s.failure() == nil {
		<-tick.C
		for range killRate / 100 {
			p := int32(rnd.IntN(killPartitions))
			s.mu.Lock()
			n := s.sent[p]
			s.sent[p]++
			s.mu.Unlock()
			value := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, uint32(s.id)), uint64(n))
			for range rnd.IntN(16) {
				value = binary.BigEndian.AppendUint64(value, rnd.Uint64())
			}
			s.client.Produce(ctx, &kgo.Record{Partition: p, Value: value}, func(r *kgo.Record, err error) {
				s.mu.Lock()
				defer s.mu.Unlock()
				at := position{r.Partition, r.Offset}
				if _, twice := s.acked[at]; err == nil && twice {
					err = fmt.Errorf("partition %d: offset %d was acknowledged twice", r.Partition, r.Offset)
				}
				if err != nil {
					s.err = errors.Join(s.err, err)
					return
				}
				s.acked[at] = sumOf(r)
			})
		}
	}
	if err := s.client.Flush(ctx); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.err = errors.Join(s.err, err)
	}
}

func (s *sender) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *sender) acks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.acked)
}

// waitForAcks returns when each sender has been acknowledged 1000 records more.
func waitForAcks(t *testing.T, senders []*sender, b *broker) {
	t.Helper()
	for _, s := range senders {
		want := s.acks() + 1000
		for until := time.Now().Add(2 * time.Minute); s.acks() < want; time.Sleep(5 * time.Millisecond) {
			b.mustRun()
			must(t, s.failure())
			if time.Now().After(until) {
				t.Fatalf("producer %d gets no acknowledgements\n%s", s.id, b.logTail())
			}
		}
	}
}

func sumOf(r *kgo.Record) uint64 {
	h := fnv.New64a()
	h.Write(r.Value)
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(r.Timestamp.UnixMilli())))
	return h.Sum64()
}

// witness remembers what consumers have seen at each offset, and complains when that changes.
type witness struct {
	mu   sync.Mutex // guards what follows
	seen map[position]uint64
	err  error
}

func newWitness() *witness { return &witness{seen: map[position]uint64{}} }

func (w *witness) see(r *kgo.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at, sum := position{r.Partition, r.Offset}, sumOf(r)
	if before, there := w.seen[at]; there && before != sum {
		w.err = errors.Join(w.err, fmt.Errorf("partition %d offset %d has changed", at.partition, at.offset))
	}
	w.seen[at] = sum
}

// read reads from the given offsets (nil: the start) until ctx ends. An offset that is skipped, or comes twice, is an error.
func (w *witness) read(ctx context.Context, b *broker, topic string, from map[int32]int64) {
	offsets := map[int32]kgo.Offset{}
	next := map[int32]int64{}
	for p := range int32(killPartitions) {
		next[p] = from[p]
		offsets[p] = kgo.NewOffset().At(from[p])
	}
	c, err := kgo.NewClient(kgo.SeedBrokers(b.addr), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: offsets}),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		w.fail(err)
		return
	}
	defer c.Close()
	for ctx.Err() == nil {
		fs := c.PollFetches(ctx)
		fs.EachError(func(_ string, p int32, err error) {
			if ctx.Err() == nil {
				w.fail(fmt.Errorf("partition %d: %w", p, err))
			}
		})
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset != next[r.Partition] {
				w.fail(fmt.Errorf("partition %d: offset %d after %d", r.Partition, r.Offset, next[r.Partition]-1))
			}
			next[r.Partition] = r.Offset + 1
			w.see(r)
		})
	}
}

func (w *witness) readFor(ctx context.Context, d time.Duration, b *broker, topic string, from map[int32]int64) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	w.read(ctx, b, topic, from)
}

func (w *witness) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = errors.Join(w.err, err)
}

// next is the offset after the last one seen, by partition.
func (w *witness) next() map[int32]int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	next := map[int32]int64{}
	for at := range w.seen {
		next[at.partition] = max(next[at.partition], at.offset+1)
	}
	return next
}

func (w *witness) has(ends map[int32]int64) bool { return maps.Equal(w.next(), ends) }

// someOffsets are places among those seen already, so that the next reader reads some of them again.
func (w *witness) someOffsets(rnd *rand.Rand) map[int32]int64 {
	next := w.next()
	from := map[int32]int64{}
	for _, p := range slices.Sorted(maps.Keys(next)) {
		from[p] = next[p] - rnd.Int64N(min(next[p], 5000))
	}
	return from
}

// orderCheck sees a log in offset order and demands that each producer's numbers rise by one.
type orderCheck struct{ next map[sequence]int64 }

func newOrderCheck() *orderCheck { return &orderCheck{next: map[sequence]int64{}} }

func (o *orderCheck) add(r *kgo.Record) error {
	if len(r.Value) < 12 {
		return fmt.Errorf("a value of %d bytes", len(r.Value))
	}
	of := sequence{int(binary.BigEndian.Uint32(r.Value)), r.Partition}
	n := int64(binary.BigEndian.Uint64(r.Value[4:]))
	want := o.next[of]
	o.next[of] = n + 1
	if n != want {
		return fmt.Errorf("producer %d: record %d where %d is due", of.producer, n, want)
	}
	return nil
}
