package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"runtime"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/prometheus/client_golang/prometheus"

	"moldau/internal/coordinator/shard"
	"moldau/internal/metadata"
	"moldau/internal/partition"
	"moldau/internal/record"
	"moldau/internal/wire"
)

// Sentinels; every error of a request wraps one of them, or an error of partition or storage.
var (
	ErrNotCoordinator = errors.New("this broker does not coordinate that key") // NOT_COORDINATOR
	ErrLoading        = errors.New("the coordinator is loading its state")     // COORDINATOR_LOAD_IN_PROGRESS
	ErrClosed         = errors.New("the coordinator has stopped")              // COORDINATOR_NOT_AVAILABLE
)

// Options is what a Runtime needs. All fields but Registerer are required.
type Options[C shard.Core] struct {
	Topic      string // the internal topic
	Self       int32  // node id of this broker
	Partitions *partition.Manager
	New        func() C // an empty core
	// Code is what a core is told of a failed append.
	Code          func(error) wire.Code
	Codec         record.Codec  // of the records
	CommitTimeout time.Duration // longest wait of a reply for the high watermark
	LoadBuffer    int           // bytes read at a time when a shard loads
	KeptBuffer    int           // largest buffer that is kept between appends
	Log           *slog.Logger
	Registerer    prometheus.Registerer // nil: no metrics
}

// Runtime serves the shards of one internal topic on this broker. Retire and Adopt are called from one
// goroutine; all else may be called concurrently.
type Runtime[C shard.Core] struct {
	o       Options[C]
	began   time.Time // MonoMs counts from here
	metrics *metrics

	mu struct {
		sync.RWMutex // guards the following
		shards       map[int32]*runner[C]
		count        int32 // partitions of the topic, 0 while it does not exist
		closed       bool
		adopted      chan struct{} // closed at the next Adopt
	}
	loads    loads[C]
	clock    clock[C]
	builders sync.Pool // *record.Builder
	stop     chan struct{}
	slept    chan struct{}  // closed when the clock's goroutine has ended
	tasks    sync.WaitGroup // loads and what the clock started
}

// New starts a runtime without shards; Adopt brings them.
func New[C shard.Core](o Options[C]) *Runtime[C] {
	r := &Runtime[C]{o: o, began: time.Now(), stop: make(chan struct{}), slept: make(chan struct{})}
	r.mu.shards = map[int32]*runner[C]{}
	r.mu.adopted = make(chan struct{})
	r.loads.most = min(2*runtime.GOMAXPROCS(0), 16)
	r.clock.wake = make(chan struct{}, 1)
	r.clock.mu.sleeps = math.MaxInt64
	r.clock.watcher = partition.NewWatcher()
	r.metrics = newMetrics(o.Topic, o.Registerer, r.states)
	go r.startClock()
	return r
}

// now is the present moment.
func (r *Runtime[C]) now() shard.Time {
	t := time.Now()
	return shard.Time{MonoMs: t.Sub(r.began).Milliseconds(), WallMs: t.UnixMilli()}
}

// Retire closes the shards whose partitions this broker no longer leads, or leads anew. Call it with each image
// before the partitions take it over, so that nothing is appended under an epoch that has passed (CR6).
func (r *Runtime[C]) Retire(im *metadata.Image) {
	t := im.Topic(r.o.Topic)
	var gone []*runner[C]
	r.mu.Lock()
	for i, s := range r.mu.shards {
		if t == nil || t.ID != s.p.TopicID() || int(i) >= len(t.Partitions) || t.Partitions[i].Leader != r.o.Self || t.Partitions[i].LeaderEpoch != s.epoch {
			gone = append(gone, s)
			delete(r.mu.shards, i)
		}
	}
	r.mu.Unlock()
	for _, s := range gone {
		s.close(fmt.Errorf("%s: the leader changed: %w", s.p.Name(), ErrNotCoordinator))
	}
}

// Adopt makes shards of the partitions that this broker leads. Call it with each image after the partitions
// have taken it over. Empty ones serve when it returns, the others when they are loaded.
func (r *Runtime[C]) Adopt(im *metadata.Image) {
	t := im.Topic(r.o.Topic)
	var fresh []*runner[C]
	r.mu.Lock()
	r.mu.count = 0
	if t != nil && !r.mu.closed {
		r.mu.count = int32(len(t.Partitions))
		for i := range t.Partitions {
			if t.Partitions[i].Leader != r.o.Self || r.mu.shards[int32(i)] != nil {
				continue
			}
			p, err := r.o.Partitions.Lookup("", t.ID, int32(i))
			if err != nil {
				continue // this image is not the one that the partitions have; the next will be
			}
			s := newRunner(r, p, t.Partitions[i].LeaderEpoch)
			r.mu.shards[int32(i)] = s
			fresh = append(fresh, s)
		}
	}
	adopted := r.mu.adopted
	r.mu.adopted = make(chan struct{})
	r.mu.Unlock()
	defer close(adopted)
	for _, s := range fresh {
		if s.p.Empty() {
			r.load(s) // there is nothing to read
		} else {
			r.loads.add(r, s)
		}
	}
}

// awaitTime bounds Await.
const awaitTime = time.Second

// Await waits a moment for the shard of a key that the metadata says is this broker's: it may not have been
// adopted yet.
func (r *Runtime[C]) Await(ctx context.Context, key string) {
	ctx, cancel := context.WithTimeout(ctx, awaitTime)
	defer cancel()
	for {
		r.mu.RLock()
		adopted := r.mu.adopted
		r.mu.RUnlock()
		if _, err := r.find(key); err == nil || errors.Is(err, ErrClosed) {
			return
		}
		select {
		case <-adopted:
		case <-ctx.Done():
			return
		}
	}
}

// PartitionOf is the partition of an internal topic with that many partitions to which a key belongs, by Kafka's hash:
// that of Java's strings.
func PartitionOf(key string, partitions int32) int32 {
	var h int32
	for _, c := range key {
		if hi, lo := utf16.EncodeRune(c); hi != '\uFFFD' {
			h = 31*(31*h+hi) + lo
		} else {
			h = 31*h + c
		}
	}
	if h == -1<<31 {
		h = 0 // as Kafka's Utils.abs
	}
	return max(h, -h) % partitions
}

// find returns the shard of a key.
func (r *Runtime[C]) find(key string) (*runner[C], error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	switch {
	case r.mu.closed:
		return nil, ErrClosed
	case r.mu.count == 0:
		return nil, fmt.Errorf("%s does not exist: %w", r.o.Topic, ErrNotCoordinator)
	}
	i := PartitionOf(key, r.mu.count)
	if s := r.mu.shards[i]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("%s-%d: %w", r.o.Topic, i, ErrNotCoordinator)
}

// Event is a request at a core: it calls one of the core's methods. It runs under the shard's lock.
type Event[C shard.Core] func(core C, now shard.Time, t shard.Ticket) shard.Effects

// Do runs an event at the shard of a key and returns the core's reply when it may be shown (CR4).
// Bounds are those of ctx and of the core, then CommitTimeout. An error says nothing about whether the event
// took place.
func (r *Runtime[C]) Do(ctx context.Context, key string, event Event[C]) (any, error) {
	p, err := r.Start(key, event)
	if err != nil {
		return nil, err
	}
	return p.Wait(ctx)
}

// Pending is an event that has taken place and whose reply is to come. Wait must be called once.
type Pending[C shard.Core] struct {
	s *runner[C]
	w *waiter
}

// Start is the first part of Do: it waits for nobody but the events before it.
func (r *Runtime[C]) Start(key string, event Event[C]) (Pending[C], error) {
	s, err := r.find(key)
	if err != nil {
		return Pending[C]{}, err
	}
	w, err := s.do(event)
	return Pending[C]{s, w}, err
}

// Wait is the second part of Do.
func (p Pending[C]) Wait(ctx context.Context) (any, error) { return p.s.wait(ctx, p.w) }

// DoAll runs an event at every shard of this broker and returns the replies. A shard that cannot
// answer gives an error beside them; one that has just left is left out.
func (r *Runtime[C]) DoAll(ctx context.Context, event Event[C]) ([]any, error) {
	shards, err := r.all()
	if err != nil {
		return nil, err
	}
	waiters := make([]*waiter, len(shards))
	var errs []error
	for i, s := range shards {
		if waiters[i], err = s.do(event); err != nil {
			errs = append(errs, err)
		}
	}
	var replies []any
	for i, w := range waiters {
		if w == nil {
			continue
		}
		reply, err := shards[i].wait(ctx, w)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		replies = append(replies, reply)
	}
	var left []error
	for _, err := range errs {
		if !errors.Is(err, ErrNotCoordinator) {
			left = append(left, err)
		}
	}
	return replies, errors.Join(left...)
}

// Tell runs an event that nobody waits for at every shard of this broker; one that does not serve yet takes
// it when it does.
func (r *Runtime[C]) Tell(event func(core C, now shard.Time) shard.Effects) {
	shards, _ := r.all() // when the runtime has stopped there is nobody to tell
	for _, s := range shards {
		s.tell(event)
	}
}

func (r *Runtime[C]) all() ([]*runner[C], error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.mu.closed {
		return nil, ErrClosed
	}
	shards := make([]*runner[C], 0, len(r.mu.shards))
	for i := range r.mu.count {
		if s := r.mu.shards[i]; s != nil {
			shards = append(shards, s)
		}
	}
	return shards, nil
}

// states counts the shards by state, for the metrics.
func (r *Runtime[C]) states() (n [stateCount]int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, s := range r.mu.shards {
		n[s.state.Load()]++
	}
	return n
}

// Close ends every wait at a core with ErrClosed, refuses what comes afterwards, and waits for loads and ticks. It may
// be called again.
func (r *Runtime[C]) Close() {
	r.mu.Lock()
	shards, again := r.mu.shards, r.mu.closed
	r.mu.shards, r.mu.closed = nil, true
	r.mu.Unlock()
	if again {
		return
	}
	for _, s := range shards {
		s.close(ErrClosed)
	}
	close(r.stop)
	<-r.slept
	r.loads.close()
	r.tasks.Wait()
}
