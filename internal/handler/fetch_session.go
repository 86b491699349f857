package handler

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"moldau/internal/acl"
	"moldau/internal/partition"
	"moldau/internal/wire"
)

const (
	// sessionIdle is how long a session must not have been used before another may take
	// its place (Kafka's constant).
	sessionIdle = 2 * time.Minute
	// lookAllEvery is how often a fetch looks at all partitions of its session: a log start that moves, which is
	// a number that consumers only show, is not news by itself.
	lookAllEvery = time.Second
)

// sessions are the incremental fetch sessions of the broker (KIP-227): what each
// client reads and what it was told, so that requests and responses carry only changes.
type sessions struct {
	limit int // max.incremental.fetch.session.cache.slots
	mu    struct {
		sync.Mutex // guards the map and every session's lastUsed
		byID       map[int32]*fetchSession
	}
}

// fetchSession is one client's. A fetch looks only at the partitions in the queue: those with records that the client has
// not asked to pass yet, with an error, with news since they were looked at, or that the request names. So
// it costs as much as there is to tell, not as much as the session has partitions.
type fetchSession struct {
	id       int32
	byID     bool // names topics by id
	lastUsed time.Time

	mu      sync.Mutex         // guards the following; held over the reads of a fetch, never while it waits
	epoch   int32              // that the next request must have
	turn    int64              // counts the fetches: only the latest may look and answer
	closed  bool               // no longer cached
	parked  bool               // the latest fetch waits on the watcher
	watcher *partition.Watcher // of all targets
	news    []*partition.Watch // scratch
	all     []*fetchTarget     // in the order in which the client named them
	at      map[targetKey]*fetchTarget
	next    int            // in all: what the client probably names next
	queue   []*fetchTarget // to be looked at. Who got records goes behind the others, so that a busy partition does not starve them
	looked  time.Time      // when all were
	acls    *acl.Set       // the rules of access by which they were
}

func newSessions(limit int) *sessions {
	s := &sessions{limit: limit}
	s.mu.byID = map[int32]*fetchSession{}
	return s
}

// The two epochs that make a fetch a full one.
const (
	initialEpoch = 0  // and asks for a session
	finalEpoch   = -1 // and wants none, or ends the one it has
)

func nextEpoch(e int32) int32 {
	if e == math.MaxInt32 {
		return 1
	}
	return e + 1
}

type targetKey struct {
	topic string
	id    wire.UUID
	index int32
}

// fetchTarget is one partition that a fetch reads: what the client asked for, and
// for a session what it was told last.
type fetchTarget struct {
	targetKey
	ask wire.FetchRequestPartition

	highWatermark int64 // last told, -1: nothing yet
	logStart      int64

	// Of a session:
	partition *partition.Partition // nil: to be looked up
	watch     partition.Watch      // hangs in partition
	pos       int                  // in all, -1: forgotten
	queued    bool
}

// begin finds out what a request reads. A full fetch reads what it names; another one has a session.
func (s *sessions) begin(c *fetchCall) wire.Code {
	req := &c.req
	if req.SessionEpoch == initialEpoch || req.SessionEpoch == finalEpoch {
		if req.SessionID != 0 {
			s.remove(req.SessionID)
		}
		c.named()
		return wire.None
	}
	s.mu.Lock()
	f := s.mu.byID[req.SessionID]
	if f != nil {
		f.lastUsed = time.Now()
	}
	s.mu.Unlock()
	if f == nil {
		return wire.FetchSessionIDNotFound
	}
	code, empty := f.begin(c)
	if empty {
		s.remove(f.id)
	}
	return code
}

// begin makes c the session's latest fetch and takes over what it changes. empty: the session has nothing left to read.
func (f *fetchSession) begin(c *fetchCall) (code wire.Code, empty bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return wire.FetchSessionIDNotFound, false
	case f.epoch != c.req.SessionEpoch:
		return wire.InvalidFetchSessionEpoch, false
	case f.byID != (c.req.Version >= 13):
		return wire.FetchSessionTopicIDError, false
	}
	f.epoch = nextEpoch(f.epoch)
	f.turn++
	f.apply(&c.req)
	if len(f.all) == 0 {
		return wire.None, true
	}
	if f.parked {
		f.takeOver()
	}
	now, acls := time.Now(), c.rc.table.acls()
	if now.Sub(f.looked) >= lookAllEvery || f.acls != acls {
		f.looked, f.acls = now, acls
		for _, t := range f.all {
			f.enqueue(t)
		}
	}
	c.session, c.turn = f, f.turn
	return wire.None, false
}

// takeOver sends a fetch that still waits home, on another connection in all likelihood; the watcher stays with it.
func (f *fetchSession) takeOver() {
	old := f.watcher
	f.watcher, f.parked = partition.NewWatcher(), false
	f.watcher.Waiting(false)
	for _, t := range f.all {
		if t.partition != nil {
			t.watch.Unhang()
			t.partition.Hang(f.watcher, &t.watch)
		}
		f.enqueue(t)
	}
	wake(old)
}

func wake(w *partition.Watcher) {
	select {
	case w.Wake <- struct{}{}:
	default:
	}
}

func (f *fetchSession) enqueue(t *fetchTarget) {
	if !t.queued && t.pos >= 0 {
		t.queued = true
		f.queue = append(f.queue, t)
	}
}

// apply takes over a request's additions, changes and removals.
func (f *fetchSession) apply(req *wire.FetchRequest) {
	f.next = 0
	for i := range req.Topics {
		topic := &req.Topics[i]
		for j := range topic.Partitions {
			p := &topic.Partitions[j]
			t := f.find(topic.Name, topic.ID, p.Index)
			if t == nil {
				t = newTarget(targetKey{topic.Name, topic.ID, p.Index})
				f.add(t)
			}
			t.ask = *p
			f.enqueue(t)
		}
	}
	if len(req.Forgotten) == 0 {
		return
	}
	for i := range req.Forgotten {
		topic := &req.Forgotten[i]
		for _, index := range topic.Partitions {
			if t := f.find(topic.Name, topic.ID, index); t != nil {
				t.watch.Unhang()
				t.partition, t.pos, t.queued = nil, -1, false
				delete(f.at, t.targetKey)
			}
		}
	}
	gone := func(t *fetchTarget) bool { return t.pos < 0 }
	f.all, f.queue = slices.DeleteFunc(f.all, gone), slices.DeleteFunc(f.queue, gone)
	for i, t := range f.all {
		t.pos = i
	}
}

// find returns the target of that name, or nil. Clients name partitions in the same order again and again.
func (f *fetchSession) find(topic string, id wire.UUID, index int32) *fetchTarget {
	if f.next < len(f.all) {
		if t := f.all[f.next]; t.index == index && t.id == id && t.topic == topic && t.pos >= 0 {
			f.next++
			return t
		}
	}
	t := f.at[targetKey{topic, id, index}]
	if t != nil {
		f.next = t.pos + 1
	}
	return t
}

func newTarget(k targetKey) *fetchTarget {
	t := &fetchTarget{targetKey: k, highWatermark: -1, logStart: -1}
	t.watch.Owner = t
	return t
}

func (f *fetchSession) add(t *fetchTarget) {
	t.pos = len(f.all)
	f.all = append(f.all, t)
	f.at[t.targetKey] = t
}

// look puts what the latest fetch has to look at into the queue. An error says why c may not.
func (f *fetchSession) look(c *fetchCall) wire.Code {
	if code := f.mayAnswer(c); code != wire.None {
		return code
	}
	f.news = f.watcher.News(f.news[:0])
	for _, x := range f.news {
		f.enqueue(x.Owner.(*fetchTarget))
	}
	clear(f.news)
	return wire.None
}

func (f *fetchSession) mayAnswer(c *fetchCall) wire.Code {
	switch {
	case f.closed:
		return wire.FetchSessionIDNotFound
	case f.turn != c.turn:
		return wire.InvalidFetchSessionEpoch
	}
	return wire.None
}

// hold finds the target's partition and keeps it, with a watch, until letGo.
func (f *fetchSession) hold(t *fetchTarget, m *partition.Manager) (*partition.Partition, error) {
	if t.partition != nil {
		return t.partition, nil
	}
	p, err := m.Lookup(t.topic, t.id, t.index)
	if err != nil {
		return nil, err
	}
	t.partition = p
	p.Hang(f.watcher, &t.watch)
	return p, nil
}

// letGo makes the next look a new search: after an error another partition may go by that name.
func (t *fetchTarget) letGo() {
	t.watch.Unhang()
	t.partition = nil
}

// told notes what a client learns from p. After an error everything is news again.
func (t *fetchTarget) told(p *wire.FetchPartition) {
	t.highWatermark, t.logStart = p.HighWatermark, p.LogStartOffset
	if p.ErrorCode != wire.None {
		t.highWatermark, t.logStart = -1, -1
	}
}

// isNews reports whether p tells the client something.
func (t *fetchTarget) isNews(p *wire.FetchPartition) bool {
	return hasRecords(p) || p.ErrorCode != wire.None || p.DivergingEpoch != nil || p.HighWatermark != t.highWatermark || p.LogStartOffset != t.logStart
}

func hasRecords(p *wire.FetchPartition) bool { return len(p.Records)+len(p.Regions) > 0 }

// close ends the session: its watches, and the fetch that waits on them.
func (f *fetchSession) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, t := range f.all {
		t.letGo()
	}
	wake(f.watcher)
}

func (s *sessions) remove(id int32) {
	s.mu.Lock()
	f := s.mu.byID[id]
	delete(s.mu.byID, id)
	s.mu.Unlock()
	if f != nil {
		f.close()
	}
}

// create caches a session for a full fetch whose response is parts, and returns its id, or 0 if there is no room.
func (s *sessions) create(c *fetchCall, parts []wire.FetchPartition) int32 {
	f := &fetchSession{acls: c.rc.table.acls(), byID: c.req.Version >= 13, lastUsed: time.Now(), epoch: nextEpoch(initialEpoch),
		watcher: partition.NewWatcher(), at: make(map[targetKey]*fetchTarget, len(c.targets))}
	f.watcher.Waiting(false)
	for i, asked := range c.targets {
		t := newTarget(asked.targetKey)
		t.ask = asked.ask
		t.told(&parts[i])
		f.add(t)
		f.enqueue(t)
	}
	s.mu.Lock()
	var victim *fetchSession
	if len(s.mu.byID) >= s.limit {
		if victim = s.idleLocked(); victim == nil {
			s.mu.Unlock()
			return 0
		}
		delete(s.mu.byID, victim.id)
	}
	for f.id == 0 || s.mu.byID[f.id] != nil {
		f.id = rand.Int32N(math.MaxInt32)
	}
	s.mu.byID[f.id] = f
	s.mu.Unlock()
	if victim != nil {
		victim.close()
	}
	return f.id
}

// idleLocked is the session that was used least recently, if it is idle.
func (s *sessions) idleLocked() *fetchSession {
	var oldest *fetchSession
	for _, f := range s.mu.byID {
		if oldest == nil || f.lastUsed.Before(oldest.lastUsed) {
			oldest = f
		}
	}
	if oldest == nil || time.Since(oldest.lastUsed) < sessionIdle {
		return nil
	}
	return oldest
}
