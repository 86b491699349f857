package partition

import (
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"math"
	"runtime"
	"slices"
	"strconv"
	"strings"
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
	partitions []*Partition // by index; nil: elsewhere. Guarded by Manager.mu
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
	for _, t := range delta.Touched {
		m.applyTopic(t, m.o.Config.Topic(im.Config(metadata.TopicConfig, t.Name), brokerDynamic, clusterDynamic))
	}
	return len(delta.Touched)
}

// applyTopic makes the partitions of one topic what the image says. New ones are taken up several at a time: some of
// their logs are opened for it.
func (m *Manager) applyTopic(t *metadata.Topic, resolved config.Topic) {
	entry := m.entry(t)
	var starts errgroup.Group
	starts.SetLimit(2 * runtime.GOMAXPROCS(0))
	var last *settings
	for from := 0; from < len(t.Partitions); from += startBatch {
		var fresh []*Partition
		var with []*settings
		for i := from; i < min(from+startBatch, len(t.Partitions)); i++ {
			mp := &t.Partitions[i]
			if !slices.Contains(mp.Replicas, m.o.Self) {
				continue
			}
			if last == nil || last.log.FlushMessages != mp.FlushMessages || last.log.FlushInterval != flushInterval(mp) {
				last = &settings{resolved, logConfig(mp, resolved)}
			}
			if p := entry.partitions[i]; p != nil { // only Apply changes it
				p.apply(assignment(mp, last), last)
				continue
			}
			fresh, with = append(fresh, newPartition(storage.TopicPartition{Topic: t.Name, Partition: int32(i)}, t.ID)), append(with, last)
		}
		if len(fresh) > 0 {
			starts.Go(func() error {
				m.startAll(entry, t, fresh, with)
				return nil
			})
		}
	}
	_ = starts.Wait() // the functions report by themselves
}

// startBatch is how many partitions are taken up one after the other.
const startBatch = 64

func (m *Manager) startAll(entry *topicEntry, t *metadata.Topic, fresh []*Partition, with []*settings) {
	for i, p := range fresh {
		mp := &t.Partitions[p.tp.Partition]
		if err := p.start(m.o.Self, m.o.Dirs, mp.DirOf(m.o.Self), assignment(mp, with[i]), with[i]); err != nil {
			m.o.Log.Error("partition is offline", "partition", p.tp.String(), "error", err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range fresh {
		entry.partitions[p.tp.Partition] = p
	}
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
		e = &topicEntry{name: t.Name, id: t.ID}
		m.topics[t.ID], m.byName[t.Name] = e, e
	}
	if n := len(t.Partitions); n > len(e.partitions) {
		e.partitions = append(e.partitions, make([]*Partition, n-len(e.partitions))...)
	}
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
			if p != nil {
				p.end()
			}
		}
		m.deletes.Add(1)
		go m.startDelete(e)
	}
}

// startDelete removes the directories of a deleted topic.
func (m *Manager) startDelete(e *topicEntry) {
	defer m.deletes.Done()
	for _, p := range e.partitions {
		if p == nil || p.err != nil {
			continue
		}
		if err := p.held.Delete(); err != nil && !errors.Is(err, storage.ErrClosed) {
			m.o.Log.Warn("directory of a deleted partition could not be removed; it is removed at the next start, or by hand",
				"dir", p.held.Path(), "error", err)
		}
	}
}

func assignment(mp *metadata.Partition, s *settings) replica.Assignment {
	return replica.Assignment{
		Leader:         mp.Leader,
		LeaderEpoch:    mp.LeaderEpoch,
		PartitionEpoch: mp.PartitionEpoch,
		ISR:            mp.ISR,
		MinISR:         mp.MinISR,
		FlushPolicy:    s.log.FlushPolicy(),
	}
}

func logConfig(mp *metadata.Partition, t config.Topic) storage.LogConfig {
	return storage.LogConfig{
		SegmentBytes:       int64(t.SegmentBytes),
		SegmentAge:         t.SegmentMs,
		SegmentJitter:      t.SegmentJitterMs,
		IndexIntervalBytes: int64(t.IndexIntervalBytes),
		SegmentIndexBytes:  int64(t.SegmentIndexBytes),
		FlushMessages:      mp.FlushMessages,
		FlushInterval:      flushInterval(mp),
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
}

// flushInterval is flush.ms, 0 for never.
func flushInterval(mp *metadata.Partition) time.Duration {
	if mp.FlushMs < math.MaxInt64/int64(time.Millisecond) {
		return time.Duration(mp.FlushMs) * time.Millisecond
	}
	return 0 // beyond that it is never
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
	if index < 0 || int(index) >= len(e.partitions) {
		return nil, fmt.Errorf("%s has %d partitions, no %d: %w", e.name, len(e.partitions), index, ErrUnknown)
	}
	if p := e.partitions[index]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%s-%d: %w", e.name, index, ErrNotLeader)
}

// MakeReady opens the logs of partitions that are about to be written, and makes their directories, many at the same time: each waits
// several times for the disk, and those who wait together wait once. Errors come again when the partition is used.
func MakeReady(ps []*Partition) {
	var group errgroup.Group
	group.SetLimit(32)
	for _, p := range ps {
		group.Go(func() error {
			log, _, err := p.leads(-1)
			if err != nil {
				return nil
			}
			defer p.done()
			if log.Fresh() {
				log.Prepare()
			}
			return nil
		})
	}
	_ = group.Wait() // no function has an error
}

// LogDirs are the log dirs that hold the partitions.
func (m *Manager) LogDirs() *storage.Dirs { return m.o.Dirs }

// All are the partitions that this broker holds, by topic and number. A topic that comes while they are walked may be missing. No lock is held
// meanwhile, and nothing is copied but one topic's list.
func (m *Manager) All() iter.Seq[*Partition] {
	return func(yield func(*Partition) bool) {
		m.mu.RLock()
		topics := slices.Collect(maps.Values(m.topics))
		m.mu.RUnlock()
		slices.SortFunc(topics, func(a, b *topicEntry) int { return strings.Compare(a.name, b.name) })
		var some []*Partition
		for _, e := range topics {
			m.mu.RLock()
			some = append(some[:0], e.partitions...)
			m.mu.RUnlock()
			for _, p := range some {
				if p != nil && !yield(p) {
					return
				}
			}
		}
	}
}

// checkpointInterval is replica.high.watermark.checkpoint.interval.ms.
const checkpointInterval = 5 * time.Second

// startCheckpoints writes the high watermarks for Kafka's sake, when they moved.
func (m *Manager) startCheckpoints() {
	defer close(m.done)
	tick := time.NewTicker(checkpointInterval)
	defer tick.Stop()
	last := map[*storage.Dir]marks{}
	for {
		select {
		case <-m.stop:
			m.checkpoint(last)
			return
		case <-tick.C:
			m.checkpoint(last)
		}
	}
}

// marks is what a file of high watermarks says: how many there are, and their sum, which tells that one has
// risen, for they never fall.
type marks struct{ count, sum int64 }

// checkpoint writes the files that are out of date. Most partitions are looked at only here, so it takes nothing but a few loads for each.
func (m *Manager) checkpoint(last map[*storage.Dir]marks) {
	now := map[*storage.Dir]marks{}
	for p := range m.All() {
		if hw := p.HighWatermark(); hw > 0 {
			d := p.LogDir()
			now[d] = marks{now[d].count + 1, now[d].sum + hw}
		}
	}
	for _, d := range m.o.Dirs.All() {
		if now[d] == last[d] || d.Err() != nil || d.Stall().Stalled {
			continue // a disk that hangs is not waited for
		}
		last[d] = now[d]
		if err := d.WriteHighWatermarks(m.highWatermarks(d)); err != nil {
			m.o.Log.Warn("high watermarks could not be written; they are only a hint", "dir", d.Path(), "error", err)
		}
	}
}

// highWatermarks are those of the partitions with data in d.
func (m *Manager) highWatermarks(d *storage.Dir) map[storage.TopicPartition]int64 {
	hw := map[storage.TopicPartition]int64{}
	for p := range m.All() {
		if p.LogDir() != d {
			continue
		}
		if x := p.Extent(); x.Segments > 0 {
			hw[p.tp] = p.Committed(x)
		}
	}
	return hw
}

// Close ends every wait and every background task. The logs are closed with their Dirs.
func (m *Manager) Close() {
	close(m.stop)
	<-m.done
	for p := range m.All() {
		p.end()
	}
	m.deletes.Wait()
}
