package partition

import (
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"math"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"moldau/internal/config"
	"moldau/internal/metadata"
	"moldau/internal/partition/replica"
	"moldau/internal/storage"
	"moldau/internal/wire"
)

// Options is what a Manager needs.
type Options struct {
	Self   int32 // node id of this broker
	Dirs   *storage.Dirs
	Config *config.Broker // start configuration
	Log    *slog.Logger
}

// Manager keeps the partitions that this broker holds in step with the metadata.
type Manager struct {
	o       Options
	mu      sync.RWMutex // guards topics
	topics  map[wire.UUID]*topicEntry
	byName  map[string]*topicEntry // guarded by mu
	applied *metadata.Image        // the last one; only Apply uses it
	deletes sync.WaitGroup         // directories that are being removed
	stop    chan struct{}
	done    chan struct{} // closed when the checkpoint goroutine has ended
}

type topicEntry struct {
	name       string
	id         wire.UUID
	partitions map[int32]*Partition
	count      int32 // partitions of the topic, here or elsewhere
}

// NewManager starts a manager without partitions; Apply brings them.
func NewManager(o Options) *Manager {
	m := &Manager{o: o, topics: map[wire.UUID]*topicEntry{}, byName: map[string]*topicEntry{},
		stop: make(chan struct{}), done: make(chan struct{})}
	go m.startCheckpoints()
	return m
}

// Apply makes the partitions what the image says: opens, changes and deletes them. Images
// must come in order, from one goroutine; an older one is ignored. Only topics that the image does not share with
// the one before are looked at, unless the configuration of brokers changed. A partition that cannot be opened is
// offline and reported; it never keeps the others from coming up.
func (m *Manager) Apply(im *metadata.Image) (touched int) {
	old := m.applied
	if old != nil && im.Seq() < old.Seq() {
		return 0
	}
	m.applied = im
	self := strconv.Itoa(int(m.o.Self))
	delta := im.Since(old)
	if old != nil && !(im.SameConfig(old, metadata.BrokerConfig, self) && im.SameConfig(old, metadata.BrokerConfig, "")) {
		delta.Touched = slices.Collect(im.Topics())
	}
	brokerDynamic := im.Config(metadata.BrokerConfig, self)
	clusterDynamic := im.Config(metadata.BrokerConfig, "")
	m.clean(m.o.Config.WithDynamic(brokerDynamic, clusterDynamic))
	m.remove(delta.Gone)
	var opens errgroup.Group
	opens.SetLimit(2 * runtime.GOMAXPROCS(0))
	for _, t := range delta.Touched {
		resolved := m.o.Config.Topic(im.Config(metadata.TopicConfig, t.Name), brokerDynamic, clusterDynamic)
		entry := m.entry(t)
		for i := range t.Partitions {
			mp := &t.Partitions[i]
			if !slices.Contains(mp.Replicas, m.o.Self) {
				continue
			}
			index := int32(i)
			m.mu.RLock()
			p := entry.partitions[index]
			m.mu.RUnlock()
			if p != nil {
				m.configure(p, mp, resolved)
				continue
			}
			opens.Go(func() error {
				p := m.open(storage.TopicPartition{Topic: t.Name, Partition: index}, t.ID, mp, resolved)
				m.mu.Lock()
				entry.partitions[index] = p
				m.mu.Unlock()
				return nil
			})
		}
	}
	_ = opens.Wait() // the functions report by themselves
	return len(delta.Touched)
}

// clean has the log dirs cleaned and scrubbed as the configuration says.
func (m *Manager) clean(c *config.Broker) {
	m.o.Dirs.Clean(storage.Cleaning{
		RetentionCheck: c.Millis("log.retention.check.interval.ms"),
		StartsInterval: c.Millis("log.flush.start.offset.checkpoint.interval.ms"),
		InitialDelay:   c.Millis("log.initial.task.delay.ms"),
		Compact:        c.Bool("log.cleaner.enable"),
		CompactBackoff: c.Millis("log.cleaner.backoff.ms"),
		DedupeBytes:    c.Int("log.cleaner.dedupe.buffer.size"),
		LoadFactor:     c.Double("log.cleaner.io.buffer.load.factor"),
		BytesPerSecond: c.Double("log.cleaner.io.max.bytes.per.second"),
	})
	m.o.Dirs.Scrub(c.Int("moldau.log.scrub.bytes.per.second"))
}

func (m *Manager) entry(t *metadata.Topic) *topicEntry {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.topics[t.ID]
	if e == nil {
		e = &topicEntry{name: t.Name, id: t.ID, partitions: map[int32]*Partition{}}
		m.topics[t.ID], m.byName[t.Name] = e, e
	}
	e.count = int32(len(t.Partitions))
	return e
}

// remove deletes the partitions of topics that are gone. That the image before
// had them is the evidence that they were deleted, not merely unknown.
func (m *Manager) remove(topics []*metadata.Topic) {
	m.mu.Lock()
	var gone []*topicEntry
	for _, t := range topics {
		e := m.topics[t.ID]
		if e == nil {
			continue
		}
		gone = append(gone, e)
		delete(m.topics, t.ID)
		if m.byName[e.name] == e {
			delete(m.byName, e.name)
		}
	}
	m.mu.Unlock()
	for _, e := range gone {
		for _, p := range e.partitions {
			p.end()
		}
		m.deletes.Add(1)
		go m.startDelete(e)
	}
}

// startDelete removes the directories of a deleted topic.
func (m *Manager) startDelete(e *topicEntry) {
	defer m.deletes.Done()
	for _, p := range e.partitions {
		if p.log == nil {
			continue
		}
		if err := p.log.Delete(); err != nil && !errors.Is(err, storage.ErrClosed) {
			m.o.Log.Warn("directory of a deleted partition could not be removed; it is removed at the next start, or by hand",
				"dir", p.log.Path(), "error", err)
		}
	}
}

func (m *Manager) open(tp storage.TopicPartition, id wire.UUID, mp *metadata.Partition, t config.Topic) *Partition {
	p := newPartition(tp, id)
	log, err := m.o.Dirs.OpenLog(tp, id, mp.DirOf(m.o.Self), m.logConfig(tp, mp, t), p.flushed)
	ends := replica.Ends{}
	if err != nil {
		p.err = err
		m.o.Log.Error("partition is offline", "partition", tp.String(), "error", err)
	} else {
		ends = replica.Ends{LogEnd: log.End(), Flushed: log.Flushed()}
		p.log = log
	}
	p.mu.state = replica.New(m.o.Self, ends, ends.Flushed)
	m.configure(p, mp, t)
	return p
}

func (m *Manager) configure(p *Partition, mp *metadata.Partition, t config.Topic) {
	cfg := m.logConfig(p.tp, mp, t)
	p.apply(replica.Assignment{
		Leader:         mp.Leader,
		LeaderEpoch:    mp.LeaderEpoch,
		PartitionEpoch: mp.PartitionEpoch,
		ISR:            mp.ISR,
		MinISR:         mp.MinISR,
		FlushPolicy:    cfg.FlushPolicy(),
	}, &settings{t, cfg.FlushMessages, cfg.FlushPolicy()}, cfg)
}

func (m *Manager) logConfig(tp storage.TopicPartition, mp *metadata.Partition, t config.Topic) storage.LogConfig {
	cfg := storage.LogConfig{
		SegmentBytes:       int64(t.SegmentBytes),
		SegmentAge:         t.SegmentMs - jitter(tp, t.SegmentJitterMs),
		IndexIntervalBytes: int64(t.IndexIntervalBytes),
		SegmentIndexBytes:  int64(t.SegmentIndexBytes),
		FlushMessages:      mp.FlushMessages,
		MaxInflatedBytes:   t.MaxInflatedBytes,
		CleanupDelete:      t.CleanupDelete,
		RetentionAge:       t.RetentionMs,
		RetentionBytes:     t.RetentionBytes,
		FileDeleteDelay:    t.FileDeleteDelayMs,
		CleanupCompact:     t.CleanupCompact,
		MinDirtyRatio:      t.MinCleanableDirtyRatio,
		MinCompactionLag:   t.MinCompactionLagMs,
		MaxCompactionLag:   t.MaxCompactionLagMs,
		DeleteRetention:    t.DeleteRetentionMs,
	}
	if t.CleanupCompact {
		cfg.SegmentAge = min(cfg.SegmentAge, t.MaxCompactionLagMs)
	}
	if mp.FlushMs < math.MaxInt64/int64(time.Millisecond) { // beyond that it is never
		cfg.FlushInterval = time.Duration(mp.FlushMs) * time.Millisecond
	}
	return cfg
}

// jitter spreads the rolls of partitions that were made at the same time: a part of
// segment.jitter.ms that depends on nothing but the partition.
func jitter(tp storage.TopicPartition, limit time.Duration) time.Duration {
	if limit <= 0 {
		return 0
	}
	h := fnv.New64a()
	fmt.Fprint(h, tp)
	return time.Duration(h.Sum64() % uint64(limit))
}

// Lookup finds a partition by topic name, or by id where id is not zero. Errors:
// ErrUnknown, ErrUnknownID; ErrNotLeader where another broker has it. An offline partition is
// found: its methods say why it is.
func (m *Manager) Lookup(topic string, id wire.UUID, index int32) (*Partition, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var e *topicEntry
	if id.IsZero() {
		if e = m.byName[topic]; e == nil {
			return nil, fmt.Errorf("topic %q: %w", topic, ErrUnknown)
		}
	} else if e = m.topics[id]; e == nil {
		return nil, fmt.Errorf("topic id %s: %w", id, ErrUnknownID)
	}
	if p := e.partitions[index]; p != nil {
		return p, nil
	}
	if index >= 0 && index < e.count {
		return nil, fmt.Errorf("%s-%d: %w", e.name, index, ErrNotLeader)
	}
	return nil, fmt.Errorf("%s has %d partitions, no %d: %w", e.name, e.count, index, ErrUnknown)
}

// LogDirs are the log dirs that hold the partitions.
func (m *Manager) LogDirs() *storage.Dirs { return m.o.Dirs }

// Partitions are all partitions that this broker holds, in no order.
func (m *Manager) Partitions() []*Partition {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var out []*Partition
	for _, e := range m.topics {
		for _, p := range e.partitions {
			out = append(out, p)
		}
	}
	return out
}

// checkpointInterval is replica.high.watermark.checkpoint.interval.ms.
const checkpointInterval = 5 * time.Second

// startCheckpoints writes the high watermarks for Kafka's sake, when they moved.
func (m *Manager) startCheckpoints() {
	defer close(m.done)
	tick := time.NewTicker(checkpointInterval)
	defer tick.Stop()
	last := map[*storage.Dir]map[storage.TopicPartition]int64{}
	for {
		select {
		case <-m.stop:
			m.checkpoint(last)
			return
		case <-tick.C:
			last = m.checkpoint(last)
		}
	}
}

// checkpoint writes the high watermarks of each log dir in which some have moved, and returns those of now.
func (m *Manager) checkpoint(last map[*storage.Dir]map[storage.TopicPartition]int64) map[*storage.Dir]map[storage.TopicPartition]int64 {
	now := map[*storage.Dir]map[storage.TopicPartition]int64{}
	for _, d := range m.o.Dirs.All() {
		now[d] = map[storage.TopicPartition]int64{}
	}
	for _, p := range m.Partitions() {
		if p.log != nil && p.log.Segments() > 0 {
			now[p.log.Dir()][p.tp] = p.HighWatermark()
		}
	}
	for d, hw := range now {
		if maps.Equal(hw, last[d]) || d.Err() != nil || d.Stall().Stalled {
			continue // a disk that hangs is not waited for
		}
		if err := d.WriteHighWatermarks(hw); err != nil {
			m.o.Log.Warn("high watermarks could not be written; they are only a hint", "dir", d.Path(), "error", err)
		}
	}
	return now
}

// Close ends every wait and every background task. The logs are closed with their Dirs.
func (m *Manager) Close() {
	close(m.stop)
	<-m.done
	for _, p := range m.Partitions() {
		p.end()
	}
	m.deletes.Wait()
}
