package chaos

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"sync"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// place is a partition.
type place struct {
	topic     string
	partition int32
}

func (p place) String() string { return fmt.Sprintf("%s-%d", p.topic, p.partition) }

// topic is a topic that was acknowledged.
type topic struct {
	name       string
	id         kadm.TopicID
	partitions int32
	configs    map[string]string // acknowledged
	// tried are the values of each configuration whose change was begun, in order. The last may be under way: then the
	// one before is right too.
	tried map[string][]string
}

// stored is a record as it was read.
type stored struct {
	offset   int64
	sum      uint64
	producer int
	n        int64
}

// model is what the broker has promised.
type model struct {
	mu      sync.Mutex // guards what follows
	topics  map[string]*topic
	deleted map[string]bool // acknowledged deletions
	acked   map[place]map[int64]uint64
	sent    map[place]map[int]int64 // records sent by each idempotent producer
	total   int
	altered int
	err     error
}

func (m *model) init() {
	m.topics, m.deleted = map[string]*topic{}, map[string]bool{}
	m.acked, m.sent = map[place]map[int64]uint64{}, map[place]map[int]int64{}
}

func (m *model) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failLocked(err)
}

// failLocked keeps the first failure: the others follow from it.
func (m *model) failLocked(err error) {
	if m.err == nil {
		m.err = err
	}
}

func (m *model) failure() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

func (m *model) acks() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total
}

func (m *model) counts() (created, deleted, altered int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.topics) + len(m.deleted), len(m.deleted), m.altered
}

func (m *model) addTopic(t *topic) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.topics[t.name] = t
}

// list are copies of the topics, by name.
func (m *model) list() (out []topic) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(m.topics)) {
		t := *m.topics[name]
		t.configs, t.tried = maps.Clone(t.configs), maps.Clone(t.tried)
		out = append(out, t)
	}
	return out
}

func (m *model) places() (out []place) {
	for _, t := range m.list() {
		for p := range t.partitions {
			out = append(out, place{t.name, p})
		}
	}
	return out
}

func (m *model) deletions() map[string]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.deleted)
}

// number is the next number of a producer's records in a partition.
func (m *model) number(at place, producer int) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sent[at] == nil {
		m.sent[at] = map[int]int64{}
	}
	n := m.sent[at][producer]
	m.sent[at][producer]++
	return n
}

func (m *model) ack(r *kgo.Record, sum uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := place{r.Topic, r.Partition}
	if m.acked[at] == nil {
		m.acked[at] = map[int64]uint64{}
	}
	if _, twice := m.acked[at][r.Offset]; twice {
		m.failLocked(lossf("%s: offset %d was acknowledged twice", at, r.Offset))
	}
	m.acked[at][r.Offset] = sum
	m.total++
}

// lastAcked is the highest acknowledged offset of each partition.
func (m *model) lastAcked() map[place]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[place]int64{}
	for at, offsets := range m.acked {
		for o := range offsets {
			out[at] = max(out[at], o)
		}
	}
	return out
}

// compare holds a whole partition, in offset order, against what was promised, when nothing is in flight any more.
func (m *model) compare(at place, list []stored) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := map[int]int64{}
	for _, r := range list {
		if r.producer >= repeats {
			continue // may be there twice
		}
		if want := next[r.producer]; r.n != want {
			return lossf("%s offset %d: record %d of producer %d, expected %d: lost, doubled or out of order", at, r.offset, r.n, r.producer, want)
		}
		next[r.producer]++
	}
	for producer, sent := range m.sent[at] {
		if producer < repeats && next[producer] != sent {
			return lossf("%s: %d records of producer %d are there, %d were sent and acknowledged", at, next[producer], producer, sent)
		}
	}
	for offset, sum := range m.acked[at] {
		if offset >= int64(len(list)) || list[offset].sum != sum {
			return lossf("%s: the record acknowledged at offset %d is not there", at, offset)
		}
	}
	return nil
}

// repeats is the first id of the producers without idempotence: what they send again may be there twice.
const repeats = 100

func value(producer int, n int64, pad int) []byte {
	return fmt.Appendf(nil, "%d %d %0*d", producer, n, pad, n)
}

func sumOf(r *kgo.Record) uint64 {
	h := fnv.New64a()
	h.Write(r.Key)
	h.Write(r.Value)
	fmt.Fprint(h, r.Timestamp.UnixMilli())
	return h.Sum64()
}

func parse(r *kgo.Record) (stored, error) {
	s := stored{offset: r.Offset, sum: sumOf(r)}
	var pad string
	if _, err := fmt.Sscan(string(r.Value), &s.producer, &s.n, &pad); err != nil {
		return s, lossf("%s-%d offset %d: a record that nobody sent: %q", r.Topic, r.Partition, r.Offset, r.Value)
	}
	return s, nil
}
