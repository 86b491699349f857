package mission

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// usage is what the broker has in use while nothing happens.
type usage struct{ goroutines, descriptors, heap, memory int64 }

func (p *process) usage() usage {
	p.t.Helper()
	// What is counted is what is held: right after a collection, before what telling about it allocates.
	resp, err := http.Get("http://" + p.http + "/debug/pprof/heap?gc=1&debug=1")
	must(p.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(p.t, err)
	var heap int64
	if _, after, ok := strings.Cut(string(text), "\n# HeapAlloc = "); !ok {
		p.t.Fatal("the profile says nothing of the heap")
	} else if _, err := fmt.Sscan(after, &heap); err != nil {
		p.t.Fatal(err)
	}
	return usage{p.metric("go_goroutines"), p.metric("process_open_fds"), heap, p.metric("process_resident_memory_bytes")}
}

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, heap %.1f MB, memory %.1f MB", u.goroutines, u.descriptors, float64(u.heap)/1e6, float64(u.memory)/1e6)
}

// TestSoak: rounds of everything at once, with clients, topics, segments, groups and broken connections that come and go. After a
// round, when it is quiet again, the broker has in use what it had after the first ones. SOAK (a duration, such as 1h) says how
// long it goes on, SEED what happens; without SOAK there are a few rounds.
func TestSoak(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("counts the broker's descriptors and memory in /proc")
	}
	const early, few = 5, 16 // rounds whose usage is the plateau, and all of them without SOAK
	// The metadata store keeps its last 1,000 to 2,000 revisions.
	const history = 2 << 20
	long := time.Duration(0)
	if s := os.Getenv("SOAK"); s != "" {
		var err error
		long, err = time.ParseDuration(s)
		must(t, err)
	}
	p := serverFor(t, long+2*patience, t.TempDir(), "127.0.0.1:0", "log.retention.check.interval.ms=1000", "producer.id.expiration.ms=1000",
		"producer.id.expiration.check.interval.ms=1000", "log.flush.interval.messages=1000", "moldau.request.slow.ms=0")
	s := &soak{process: p}
	s.create("kept", 3)
	var plateau usage
	began, seed := time.Now(), int64(number(t, "SEED", 1))
	for round := 0; round < few || time.Since(began) < long; round++ {
		s.round(seed + int64(round)*1000)
		if t.Failed() {
			return
		}
		var u usage
		p.until("what a round used is given back", func() bool {
			u = p.usage()
			open := p.metric(`moldau_network_connections{listener="PLAINTEXT"}`)
			return open == 0 && (round < early || u.goroutines <= plateau.goroutines && u.descriptors <= plateau.descriptors)
		})
		if round < early {
			plateau.goroutines = max(plateau.goroutines, u.goroutines+8)    // as is what just ends
			plateau.descriptors = max(plateau.descriptors, u.descriptors+8) // how many segments there are is chance
			plateau.heap, plateau.memory = max(plateau.heap, u.heap), max(plateau.memory, u.memory)
		}
		t.Logf("round %d, %v: %v; so far %d records written, %d read, %d topics, %d connections", round, time.Since(began).Round(time.Second), u,
			s.written.Load(), s.read.Load(), s.topics.Load(), s.connections.Load())
		if u.heap > plateau.heap+plateau.heap/2+8<<20+history || u.memory > 2*plateau.memory+32<<20+history {
			t.Fatalf("after round %d the broker has %v in use, after the first %d at most %v", round, u, early, plateau)
		}
	}
	if s.written.Load() == 0 || s.read.Load() == 0 {
		t.Error("nothing was written or read: the test shows nothing")
	}
}

var soakTopic = map[string]string{"segment.bytes": "1048576", "retention.bytes": "2097152", "file.delete.delay.ms": "100"}

type soak struct {
	*process
	written, read, topics, connections atomic.Int64
}

// round has all kinds of clients do something, and returns when all of them have ended.
func (s *soak) round(seed int64) {
	var topics []string
	for i := range 4 {
		topics = append(topics, fmt.Sprintf("round-%d-%d", seed, i))
		s.create(topics[i], 2)
	}
	topics = append(topics, "kept")
	var wg sync.WaitGroup
	kind := func(n int, times int, f func(*rand.Rand)) {
		for i := range n {
			seed += int64(i) + 1
			r := rand.New(rand.NewSource(seed))
			wg.Go(func() {
				for range times {
					f(r)
				}
			})
		}
	}
	kind(4, 8, func(r *rand.Rand) { s.produce(r, topics) })
	kind(3, 3, func(r *rand.Rand) { s.consume(r, topics) })
	kind(1, 4, func(r *rand.Rand) { s.shortLived(r) })
	kind(2, 40, func(r *rand.Rand) { s.broken(r) })
	wg.Wait()
	adm := kadm.NewClient(s.newClient())
	defer adm.Close()
	_, err := adm.DeleteTopics(s.ctx, topics[:len(topics)-1]...)
	must(s.t, err)
}

func (s *soak) create(topic string, partitions int32) {
	configs := map[string]*string{}
	for k, v := range soakTopic {
		configs[k] = &v
	}
	adm := kadm.NewClient(s.newClient())
	defer adm.Close()
	_, err := adm.CreateTopic(s.ctx, partitions, 1, configs, topic)
	must(s.t, err)
	s.topics.Add(1)
}

// newClient is a client that is not kept until the end of the test.
func (s *soak) newClient(opts ...kgo.Opt) *kgo.Client {
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(s.addr), kgo.MetadataMinAge(10 * time.Millisecond),
		kgo.UnknownTopicRetries(-1)}, opts...)...) // a topic is known before its partitions are, by as long as a busy machine makes it
	if err != nil {
		panic(err) // the options are constant
	}
	s.connections.Add(1)
	return c
}

func (s *soak) produce(r *rand.Rand, topics []string) {
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	opts := []kgo.Opt{kgo.DefaultProduceTopic(topics[r.Intn(len(topics))]), kgo.ProducerBatchCompression(codecs[r.Intn(len(codecs))])}
	if r.Intn(3) == 0 {
		opts = append(opts, kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.LeaderAck()))
	}
	c := s.newClient(opts...)
	defer c.Close()
	for range 1 + r.Intn(5) {
		var records []*kgo.Record
		for range 1 + r.Intn(100) {
			value := make([]byte, r.Intn(4000))
			r.Read(value)
			records = append(records, kgo.SliceRecord(value))
		}
		if err := c.ProduceSync(s.ctx, records...).FirstErr(); err != nil {
			s.t.Errorf("produce: %v", err)
			return
		}
		s.written.Add(int64(len(records)))
	}
}

// consume is a member of one of a few groups for a while, which leaves, or vanishes.
func (s *soak) consume(r *rand.Rand, topics []string) {
	c := s.newClient(kgo.ConsumerGroup(fmt.Sprint("group-", r.Intn(3))), kgo.ConsumeTopics(topics...), kgo.SessionTimeout(6*time.Second),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond))
	for range 1 + r.Intn(8) {
		ctx, cancel := context.WithTimeout(s.ctx, 300*time.Millisecond)
		fs := c.PollFetches(ctx)
		cancel()
		s.read.Add(int64(fs.NumRecords()))
		fs.EachError(func(topic string, partition int32, err error) {
			if !errors.Is(err, context.DeadlineExceeded) {
				s.t.Errorf("consume %s-%d: %v", topic, partition, err)
			}
		})
	}
	c.Close() // it leaves the group
}

// shortLived makes a topic, uses it and deletes it.
func (s *soak) shortLived(r *rand.Rand) {
	c := s.newClient()
	defer c.Close()
	adm, name := kadm.NewClient(c), fmt.Sprintf("short-%d", r.Int63())
	if _, err := adm.CreateTopic(s.ctx, 1+r.Int31n(3), 1, nil, name); err != nil {
		s.t.Errorf("create: %v", err)
		return
	}
	s.topics.Add(1)
	if r.Intn(2) == 0 {
		if err := c.ProduceSync(s.ctx, &kgo.Record{Topic: name, Value: []byte("v")}).FirstErr(); err != nil {
			s.t.Errorf("produce to a new topic: %v", err)
		}
	}
	if _, err := adm.DeleteTopic(s.ctx, name); err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
		s.t.Errorf("delete: %v", err)
	}
}

// broken is a connection that ends in the middle of something.
func (s *soak) broken(r *rand.Rand) {
	nc, err := s.raw()
	if err != nil {
		s.t.Error(err)
		return
	}
	defer nc.Close()
	s.connections.Add(1)
	hello := frame(&kmsg.ApiVersionsRequest{})
	fetch := kmsg.NewPtrFetchRequest() // that waits
	fetch.Version, fetch.MaxWaitMillis, fetch.MinBytes, fetch.MaxBytes = 12, 30_000, 1, 1<<20
	topic := kmsg.NewFetchRequestTopic()
	topic.Topic = "kept"
	partition := kmsg.NewFetchRequestTopicPartition()
	partition.FetchOffset, partition.PartitionMaxBytes = 1<<40, 1<<20
	topic.Partitions = append(topic.Partitions, partition)
	fetch.Topics = append(fetch.Topics, topic)
	if r.Intn(2) == 0 {
		_ = nc.(*net.TCPConn).SetLinger(0)
	}
	switch r.Intn(4) {
	case 0:
		err = asked(nc, hello)
	case 1:
		_, err = nc.Write(hello[:1+r.Intn(len(hello)-1)])
	case 2:
		_, err = nc.Write(frame(fetch))
	case 3:
		_, err = nc.Write([]byte(strings.Repeat("GET / HTTP/1.1", 1+r.Intn(3))))
	}
	if err != nil {
		s.t.Errorf("raw: %v", err)
	}
}
