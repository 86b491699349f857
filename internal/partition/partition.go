package partition

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"moldau/internal/config"
	"moldau/internal/partition/replica"
	"moldau/internal/record"
	"moldau/internal/storage"
	"moldau/internal/wire"
)

// Partition is one replica on this broker. All methods may be called concurrently.
type Partition struct {
	tp   storage.TopicPartition
	id   wire.UUID
	err  error        // why there is no log; set before anybody has the partition
	held storage.Held // the log, which is open while it is used

	open atomic.Pointer[storage.Log] // nil while it is closed; changes with mu held
	name atomic.Pointer[string]      // of an open one, so that it need not be made for each batch

	settings atomic.Pointer[settings]

	mu struct {
		sync.Mutex // guards the following
		state      replica.State
		acks       []*AckWaiter // by no order: they are few
		watches    []*Watch     // by no order
		found      bool         // the log was opened once: state knows its ends from then on
		gone       bool         // deleted or closed
	}
	// hw mirrors the state's high watermark for readers that need no lock.
	hw atomic.Int64
}

// settings is the topic's configuration as it was resolved last, and what its log makes of it. Immutable, and shared by
// the partitions of a topic.
type settings struct {
	topic config.Topic
	log   storage.LogConfig
}

// newPartition is a partition of which nothing but the name is known yet; start brings the rest.
func newPartition(tp storage.TopicPartition, id wire.UUID) *Partition {
	return &Partition{tp: tp, id: id}
}

// start takes the partition's log from the log dir where it is, assigned is the one that the metadata says, and what the metadata says. An error makes the partition offline.
func (p *Partition) start(self int32, dirs *storage.Dirs, assigned wire.UUID, a replica.Assignment, s *settings) error {
	p.mu.state = replica.New(self)
	p.err = dirs.Hold(&p.held, p.tp, p.id, assigned, &s.log, p)
	p.apply(a, s)
	return p.err
}

// Opened implements storage.Owner. At the first time nothing was known of the log's ends; later they are where Closing left them.
func (p *Partition) Opened(log *storage.Log) {
	ends, name := replica.Ends{LogEnd: log.End(), Flushed: log.Flushed()}, p.tp.String()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.found {
		p.mu.state.Moved(ends)
	} else {
		p.mu.found = true
		p.mu.state.Found(ends)
	}
	p.name.Store(&name)
	p.open.Store(log)
	p.committedLocked(log)
}

// Closing implements storage.Owner: who waits for a flush that has ended is told now, for no flush of this log will tell him.
func (p *Partition) Closing(log *storage.Log) {
	p.advance(log)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open.Store(nil)
	p.name.Store(nil)
}

// log is the log, nil while it is closed. It may be closed at any moment: who does more than to look at it is between use and done.
func (p *Partition) log() *storage.Log { return p.open.Load() }

// use opens the log if it is closed, and keeps it open until done.
func (p *Partition) use() (*storage.Log, error) {
	log, err := p.held.Use()
	if err == nil || errors.Is(err, storage.ErrClosed) {
		return log, err
	}
	return nil, &OfflineError{p.Name(), err}
}

func (p *Partition) done() { p.held.Done() }

// Name is "topic-3".
func (p *Partition) Name() string {
	if name := p.name.Load(); name != nil {
		return *name
	}
	return p.tp.String()
}

// TopicPartition is the partition's name in two parts.
func (p *Partition) TopicPartition() storage.TopicPartition { return p.tp }

// TopicID is the id of the topic.
func (p *Partition) TopicID() wire.UUID { return p.id }

// Err says why the partition is offline, or nil: of one that nobody has used yet it is not known that its log is damaged.
func (p *Partition) Err() error {
	if err := p.usable(); err != nil {
		return err
	}
	if err := p.held.Err(); err != nil {
		return &OfflineError{p.Name(), err}
	}
	return nil
}

func (p *Partition) usable() error {
	if p.err != nil {
		return &OfflineError{p.Name(), p.err}
	}
	return nil
}

// leads checks that this broker leads the partition, and that the client's idea of the leader epoch
// (-1: none) is the current one. Without an error the log is in use until done.
func (p *Partition) leads(currentEpoch int32) (log *storage.Log, epoch int32, err error) {
	if epoch, err = p.leadsUnopened(currentEpoch); err != nil {
		return nil, epoch, err
	}
	if log, err = p.use(); err != nil {
		return nil, -1, err
	}
	return log, epoch, nil
}

// leadsUnopened is leads without a use of the log.
func (p *Partition) leadsUnopened(currentEpoch int32) (epoch int32, err error) {
	if err := p.usable(); err != nil {
		return -1, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.leadsLocked(currentEpoch)
}

// leadsEmpty is leadsUnopened for a partition that had no record yet; no is true for all others. Many that are asked about are
// empty, and need no log for that.
func (p *Partition) leadsEmpty(currentEpoch int32) (epoch int32, no bool, err error) {
	if p.Used() || !p.Empty() {
		return -1, true, nil
	}
	epoch, err = p.leadsUnopened(currentEpoch)
	return epoch, false, err
}

func (p *Partition) leadsLocked(currentEpoch int32) (epoch int32, err error) {
	epoch = p.mu.state.LeaderEpoch()
	switch {
	case p.mu.gone:
		return epoch, fmt.Errorf("%s: %w", p.Name(), ErrUnknown)
	case currentEpoch >= 0 && currentEpoch < epoch:
		return epoch, fmt.Errorf("%s: client has leader epoch %d, the current one is %d: %w", p.Name(), currentEpoch, epoch, ErrFencedEpoch)
	case currentEpoch >= 0 && currentEpoch > epoch:
		return epoch, fmt.Errorf("%s: client has leader epoch %d, the current one is %d: %w", p.Name(), currentEpoch, epoch, ErrUnknownEpoch)
	case !p.mu.state.Leads():
		return epoch, fmt.Errorf("%s: the leader is broker %d: %w", p.Name(), p.mu.state.Leader(), ErrNotLeader)
	}
	return epoch, nil
}

// Leader is the leader and its epoch as this broker knows them.
func (p *Partition) Leader() (id, epoch int32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.state.Leader(), p.mu.state.LeaderEpoch()
}

// HighWatermark is the offset below which records are committed; before the log is opened for the first time it is 0.
func (p *Partition) HighWatermark() int64 { return p.hw.Load() }

// Committed is the high watermark of a partition that reaches so far: before its log is opened for the first time what a stop left, which
// was committed.
func (p *Partition) Committed(x storage.Extent) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.mu.found {
		return x.End
	}
	return p.mu.state.HighWatermark()
}

// Fresh reports whether the first record may take longer than others: the log is not open, or has no directory yet.
func (p *Partition) Fresh() bool {
	log := p.log()
	return log == nil || log.Fresh()
}

// Used reports whether the log is open.
func (p *Partition) Used() bool { return p.log() != nil }

// Extent is how far the partition reaches here; 0 while it is offline. Before the log is opened for the first time it is a hint.
func (p *Partition) Extent() storage.Extent {
	if p.err != nil {
		return storage.Extent{}
	}
	return p.held.Extent()
}

// Empty reports whether the partition has no records, as far as that is known without opening its log: never wrongly that it has none.
func (p *Partition) Empty() bool {
	if log := p.log(); log != nil {
		return log.Start() == log.End()
	}
	return p.err == nil && p.held.Empty()
}

// LogStart is the first offset that may be read, as Extent says it.
func (p *Partition) LogStart() int64 { return p.Extent().Start }

// LogEnd is the offset that the next record gets, as Extent says it.
func (p *Partition) LogEnd() int64 { return p.Extent().End }

// advance brings the replica state up to date with the log and wakes who waited for it.
// The log calls it after a flush, Append after a write.
func (p *Partition) advance(log *storage.Log) {
	ends, failed := replica.Ends{LogEnd: log.End(), Flushed: log.Flushed()}, log.Err() != nil
	p.mu.Lock()
	defer p.mu.Unlock()
	risen := p.mu.state.Moved(ends)
	if risen {
		p.committedLocked(log)
	}
	p.wakeAcksLocked(ends, failed)
	if risen {
		p.wakeWatchersLocked()
	}
}

// committedLocked tells readers and the log how far the high watermark is.
func (p *Partition) committedLocked(log *storage.Log) {
	hw := p.mu.state.HighWatermark()
	p.hw.Store(hw)
	log.SetCommitted(hw)
}

// endsLocked is how far the log reaches. A closed one was flushed, and reaches as far as it did then.
func (p *Partition) endsLocked() replica.Ends {
	if log := p.log(); log != nil {
		return replica.Ends{LogEnd: log.End(), Flushed: log.Flushed()}
	}
	return p.mu.state.Ends()
}

// Flushed implements storage.Owner: a flush ended, or the log dir went offline.
func (p *Partition) Flushed() {
	if log := p.log(); log != nil {
		p.advance(log)
	}
}

// AppendOptions says how a batch came.
type AppendOptions struct {
	Acks      int16 // -1, 0 or 1
	AllowZstd bool  // Produce v7 and later
	NowMs     int64
	// HeaderOnly leaves compressed records alone where no rule of the topic needs them.
	HeaderOnly bool
}

// Appended is where a batch is, and what its producer has to wait for (WaitAck).
type Appended struct {
	BaseOffset      int64
	LogStart        int64
	LogAppendTimeMs int64 // -1 with CreateTime
	ack             ackTarget
}

// Append is Prepare and AppendAll of one batch.
func (p *Partition) Append(b record.Batch, o AppendOptions) (Appended, error) {
	s := Staged{}
	if err := p.Prepare(&s, b, o); err != nil {
		return Appended{}, err
	}
	p.AppendAll([]*Staged{&s})
	return s.At, s.Err
}

// Staged is a batch on its way into the log: Prepare has checked it, AppendAll says where it is.
type Staged struct {
	batch record.Batch
	acks  int16
	nowMs int64
	At    Appended
	Err   error
}

// Prepare validates a produced batch for the log of a partition that this broker leads. The batch's bytes are changed
// (timestamps, and by AppendAll offsets and leader epoch) and needed until AppendAll.
func (p *Partition) Prepare(out *Staged, b record.Batch, o AppendOptions) (err error) {
	if _, _, err := p.leads(-1); err != nil {
		return err
	}
	defer p.done()
	if err := p.enoughReplicas(o.Acks); err != nil {
		return err
	}
	if b, err = p.prepare(b, p.settings.Load(), o); err != nil {
		return err
	}
	*out = Staged{batch: b, acks: o.Acks, nowMs: o.NowMs}
	return nil
}

// AppendAll appends what was prepared for this partition, in that order. It does not wait for replicas or the disk's flush:
// that is WaitAck.
func (p *Partition) AppendAll(staged []*Staged) {
	log, epoch, err := p.leads(-1)
	if err != nil {
		for _, x := range staged {
			x.Err = err
		}
		return
	}
	defer p.done()
	var room [storage.MaxTogether]storage.Entry // as many as the log writes at once
	s, end := p.settings.Load(), int64(0)
	for len(staged) > 0 {
		some := room[:min(len(staged), len(room))]
		for i := range some {
			some[i] = storage.Entry{Batch: staged[i].batch, Options: storage.AppendOptions{LeaderEpoch: epoch, NowMs: staged[i].nowMs}}
		}
		log.AppendAll(some)
		for i := range some {
			staged[i].settle(&some[i], s, epoch)
			if some[i].Err == nil {
				end = max(end, some[i].At.LastOffset+1)
			}
		}
		clear(some)
		staged = staged[len(some):]
	}
	if end == 0 {
		return
	}
	p.advance(log)
	if s.log.FlushPolicy() && p.HighWatermark() < end && p.tellWatchers() {
		log.RequestFlush(end)
	}
}

// settle takes over what became of the batch, and what its producer has to wait for.
func (x *Staged) settle(e *storage.Entry, s *settings, epoch int32) {
	x.batch = nil
	if x.Err = e.Err; e.Err != nil {
		return
	}
	a := e.At
	x.At = Appended{BaseOffset: a.BaseOffset, LogStart: a.LogStart, LogAppendTimeMs: -1}
	if s.topic.LogAppendTime {
		x.At.LogAppendTimeMs = a.MaxTimestampMs
	}
	switch {
	case x.acks < 0:
		x.At.ack = ackTarget{commit: a.LastOffset + 1, epoch: epoch}
	case x.acks == 1 && s.log.FlushMessages < math.MaxInt64:
		// Fewer than flush.messages records are unflushed when an append is answered, as in Kafka.
		x.At.ack = ackTarget{flush: a.LastOffset + 2 - s.log.FlushMessages, epoch: epoch}
	}
}

func (p *Partition) enoughReplicas(acks int16) error {
	if acks >= 0 {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if ok, have, need := p.mu.state.InSync(); !ok {
		return fmt.Errorf("%s: %d replicas are in sync, min.insync.replicas is %d: %w", p.Name(), have, need, ErrNotEnoughReplicas)
	}
	return nil
}

// prepare checks the batch against the topic's rules and brings it into the form in
// which it is stored.
func (p *Partition) prepare(b record.Batch, s *settings, o AppendOptions) (record.Batch, error) {
	t := &s.topic
	if b.Transactional() {
		return nil, fmt.Errorf("%s: %w", p.Name(), ErrTransactional)
	}
	if b.Size() > int(t.MaxMessageBytes) {
		return nil, &TooLargeError{p.Name(), b.Size(), int(t.MaxMessageBytes), false}
	}
	codec, level, change := targetCodec(t, b)
	result, err := record.Validate(b, record.Rules{
		NowMs:                o.NowMs,
		TimestampBeforeMaxMs: t.TimestampBeforeMaxMs,
		TimestampAfterMaxMs:  t.TimestampAfterMaxMs,
		LogAppendTime:        t.LogAppendTime,
		NeedKey:              t.CleanupCompact,
		AllowZstd:            o.AllowZstd,
		MaxInflatedBytes:     t.MaxInflatedBytes,
		HeaderOnly:           o.HeaderOnly && !change,
		TopicPartition:       p.Name(),
	})
	if err != nil {
		return nil, err
	}
	if change {
		if b, err = record.Recompress(b, codec, level, t.MaxInflatedBytes); err != nil {
			return nil, err
		}
		if b.Size() > int(t.MaxMessageBytes) {
			return nil, &TooLargeError{p.Name(), b.Size(), int(t.MaxMessageBytes), true}
		}
	}
	if t.LogAppendTime {
		b.SetLogAppendTime(o.NowMs)
	} else {
		b.SetMaxTimestamp(result.MaxTimestampMs)
	}
	return b, nil
}

// targetCodec says whether compression.type asks for another codec than b has.
func targetCodec(t *config.Topic, b record.Batch) (c record.Codec, level int, change bool) {
	if t.CompressionType == "producer" {
		return 0, 0, false
	}
	c, err := record.ParseCodec(t.CompressionType)
	if err != nil {
		panic(fmt.Sprintf("BUG: compression.type %q passed its check: %v", t.CompressionType, err))
	}
	switch c {
	case record.Gzip:
		level = t.GzipLevel
	case record.LZ4:
		level = t.LZ4Level
	case record.Zstd:
		level = t.ZstdLevel
	}
	return c, level, c != b.Codec()
}

// ackTarget is what an append is waiting for; the zero value waits for nothing.
type ackTarget struct {
	commit int64 // high watermark to reach, 0: none
	flush  int64 // flushed offset to reach, <= 0: none
	epoch  int32
}

// AckWaiter is what an append waits with. The zero value is ready for use, by one goroutine at a time, and again.
type AckWaiter struct {
	wake  chan struct{} // capacity 1
	timer *time.Timer

	// Guarded by Partition.mu while the waiter is in its list:
	target ackTarget
	done   bool  // err is the outcome. It is settled when it happens, not when the waiter looks: by then
	err    error // another leader's records may stand at these offsets
}

// reachedLocked reports whether t is fulfilled or can no longer be. What a high watermark of another leader
// epoch covers may be other records.
func (p *Partition) reachedLocked(t ackTarget, ends replica.Ends) (done bool, err error) {
	switch {
	case t.epoch != p.mu.state.LeaderEpoch() || !p.mu.state.Leads():
		return true, fmt.Errorf("%s: the leader changed while the records waited: %w", p.Name(), ErrNotLeader)
	case t.commit <= p.mu.state.HighWatermark() && t.flush <= ends.Flushed:
		return true, nil
	case p.mu.gone:
		return true, fmt.Errorf("%s: %w", p.Name(), ErrUnknown)
	}
	return false, nil
}

// AckReady reports whether WaitAck would return at once.
func (p *Partition) AckReady(a Appended) bool {
	if a.ack == (ackTarget{}) {
		return true
	}
	p.mu.Lock()
	done, _ := p.reachedLocked(a.ack, p.endsLocked())
	p.mu.Unlock()
	return done || p.logErr() != nil
}

// logErr says why the open log takes no more appends; nil also while it is closed, for then nothing waits for it.
func (p *Partition) logErr() error {
	log := p.log()
	if log == nil {
		return nil
	}
	if err := log.Err(); err != nil && p.log() == log { // else it was closed meanwhile
		return err
	}
	return nil
}

// WaitAck returns when the append may be acknowledged: with acks=all when the high
// watermark passed it, with acks=1 when the flush policy is kept. ErrTimedOut and
// ErrNotLeader mean that the records may or may not be committed.
func (p *Partition) WaitAck(ctx context.Context, w *AckWaiter, a Appended, deadline time.Time) error {
	if a.ack == (ackTarget{}) {
		return nil
	}
	w.target, w.done, w.err = a.ack, false, nil
	hung := false
	defer func() {
		if hung {
			p.forget(w)
			w.timer.Stop()
		}
	}()
	for {
		began := false
		p.mu.Lock()
		if !w.done {
			w.done, w.err = p.reachedLocked(a.ack, p.endsLocked())
		}
		if !w.done && !hung {
			hung, began = true, true
			w.reset(deadline)
			p.mu.acks = append(p.mu.acks, w)
		}
		done, err := w.done, w.err
		p.mu.Unlock()
		if done {
			return err
		}
		if err := p.logErr(); err != nil {
			return err
		}
		if began {
			if log := p.log(); log != nil && p.settings.Load().log.FlushPolicy() {
				log.RequestFlush(max(a.ack.commit, a.ack.flush))
			}
			continue // what moved before the waiter was hung in must not be missed
		}
		select {
		case <-w.wake:
		case <-w.timer.C:
			return fmt.Errorf("%s: %w", p.Name(), ErrTimedOut)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// reset makes the waiter ready to be woken.
func (w *AckWaiter) reset(deadline time.Time) {
	if w.timer == nil {
		w.wake, w.timer = make(chan struct{}, 1), time.NewTimer(time.Until(deadline))
		return
	}
	select {
	case <-w.wake: // of the append before
	default:
	}
	w.timer.Reset(time.Until(deadline))
}

func (p *Partition) forget(w *AckWaiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.mu.acks {
		if other == w {
			last := len(p.mu.acks) - 1
			p.mu.acks[i] = p.mu.acks[last]
			p.mu.acks[last] = nil
			p.mu.acks = p.mu.acks[:last]
			return
		}
	}
}

func (p *Partition) wakeAcksLocked(ends replica.Ends, failed bool) {
	for _, w := range p.mu.acks {
		if !w.done {
			w.done, w.err = p.reachedLocked(w.target, ends)
		}
		if w.done || failed {
			select {
			case w.wake <- struct{}{}:
			default:
			}
		}
	}
}

// apply takes over what the metadata says of the partition.
func (p *Partition) apply(a replica.Assignment, s *settings) {
	old := p.settings.Swap(s)
	if p.err == nil && old != s {
		p.held.SetConfig(&s.log)
	}
	log := p.log()
	if log == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		changed := p.mu.state.Apply(a)
		if log := p.log(); log != nil {
			p.committedLocked(log) // it was opened meanwhile
		} else if p.mu.found {
			p.hw.Store(p.mu.state.HighWatermark())
		}
		if changed {
			p.wakeWatchersLocked()
		}
		return
	}
	if a.FlushPolicy && old != nil && !old.log.FlushPolicy() {
		log.RequestFlush(log.End()) // a stricter policy first flushes what is there
	}
	ends, failed := replica.Ends{LogEnd: log.End(), Flushed: log.Flushed()}, log.Err() != nil
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := p.mu.state.Apply(a)
	p.mu.state.Moved(ends)
	p.committedLocked(log)
	p.wakeAcksLocked(ends, failed)
	if changed {
		p.wakeWatchersLocked()
	}
}

// end fails everybody who waits: the partition is deleted or the broker stops.
func (p *Partition) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.gone = true
	for _, w := range p.mu.acks {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
	p.wakeWatchersLocked()
}

// IsOffline reports whether err comes from a log that cannot be used.
func IsOffline(err error) bool {
	var offline *OfflineError
	var corrupt *storage.CorruptionError
	return errors.As(err, &offline) || errors.As(err, &corrupt) || errors.Is(err, storage.ErrOffline) ||
		errors.Is(err, storage.ErrMissing) || errors.Is(err, storage.ErrUnreadable)
}

// SizeBytes is the sum of the segments' bytes; before the first use it is a hint.
func (p *Partition) SizeBytes() int64 { return p.Extent().Bytes }

// LogDir is the log dir that the partition is in, nil while that is not known to be one.
func (p *Partition) LogDir() *storage.Dir {
	if p.err != nil {
		return nil
	}
	return p.held.Dir()
}

// Path is the partition's directory, "" where LogDir is nil.
func (p *Partition) Path() string {
	if p.err != nil {
		return ""
	}
	return p.held.Path()
}

// Damage lists what is known to be damaged on the disk; its records cannot be read.
func (p *Partition) Damage() []storage.Damage {
	log := p.log()
	if log == nil {
		return nil // with damage it would be open
	}
	return log.Damage()
}
