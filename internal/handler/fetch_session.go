package handler

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

// sessionIdle is how long a session must not have been used before another may take
// its place (Kafka's constant).
const sessionIdle = 2 * time.Minute

// sessions are the incremental fetch sessions of the broker (KIP-227): what each
// client reads and what it was told, so that requests and responses carry only changes.
type sessions struct {
	limit int // max.incremental.fetch.session.cache.slots
	mu    struct {
		sync.Mutex // guards the map and every session's lastUsed
		byID       map[int32]*fetchSession
	}
}

// fetchSession is one client's. mu is held while its list is read or changed, never while a fetch waits.
type fetchSession struct {
	id       int32
	byID     bool // names topics by id
	lastUsed time.Time

	mu    sync.Mutex // guards the following
	epoch int32      // that the next request must have
	order []*fetchTarget
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

// begin finds out what a request reads. A session that is not nil is the one it
// continues. The targets are the request's own: nobody else changes their requests.
func (s *sessions) begin(req *kmsg.FetchRequest, version int16) (*fetchSession, []*fetchTarget, wire.Code) {
	if req.SessionEpoch == initialEpoch || req.SessionEpoch == finalEpoch {
		if req.SessionID != 0 {
			s.remove(req.SessionID)
		}
		return nil, merge(nil, req), wire.None
	}
	s.mu.Lock()
	session := s.mu.byID[req.SessionID]
	if session != nil {
		session.lastUsed = time.Now()
	}
	s.mu.Unlock()
	if session == nil {
		return nil, nil, wire.FetchSessionIDNotFound
	}
	session.mu.Lock()
	defer session.mu.Unlock()
	if session.epoch != req.SessionEpoch {
		return nil, nil, wire.InvalidFetchSessionEpoch
	}
	if session.byID != (version >= 13) {
		return nil, nil, wire.FetchSessionTopicIDError
	}
	session.order = merge(session.order, req)
	session.epoch = nextEpoch(session.epoch)
	if len(session.order) == 0 {
		s.remove(session.id)
		return nil, nil, wire.None
	}
	return session, slices.Clone(session.order), wire.None
}

func (s *sessions) remove(id int32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.byID, id)
}

type targetKey struct {
	topic string
	id    wire.UUID
	index int32
}

func (t *fetchTarget) key() targetKey { return targetKey{t.topic, t.id, t.index} }

// merge applies a request's additions, changes and removals to a list of targets and
// returns the new list. Targets are replaced, not changed: another fetch may use them.
func merge(old []*fetchTarget, req *kmsg.FetchRequest) []*fetchTarget {
	at := make(map[targetKey]int, len(old))
	list := slices.Clone(old)
	for i, t := range list {
		at[t.key()] = i
	}
	for i := range req.Topics {
		topic := &req.Topics[i]
		for j := range topic.Partitions {
			p := &topic.Partitions[j]
			t := &fetchTarget{
				topic: topic.Topic, id: topic.TopicID, index: p.Partition,
				offset: p.FetchOffset, maxBytes: p.PartitionMaxBytes,
				currentEpoch: p.CurrentLeaderEpoch, fetchedEpoch: p.LastFetchedEpoch,
				highWatermark: -1, logStart: -1,
			}
			if n, known := at[t.key()]; known {
				t.highWatermark, t.logStart = list[n].highWatermark, list[n].logStart
				list[n] = t
				continue
			}
			at[t.key()] = len(list)
			list = append(list, t)
		}
	}
	if len(req.ForgottenTopics) == 0 {
		return list
	}
	for i := range req.ForgottenTopics {
		f := &req.ForgottenTopics[i]
		for _, index := range f.Partitions {
			if n, known := at[targetKey{f.Topic, f.TopicID, index}]; known {
				list[n] = nil
			}
		}
	}
	return slices.DeleteFunc(list, func(t *fetchTarget) bool { return t == nil })
}

// finish decides which partitions a response carries, notes what the client is told
// with it, and gives a full fetch that asked for one its session. send reports for each target whether it is sent.
func (s *sessions) finish(c *fetchCall, resp *wire.FetchResponse, parts []wire.FetchPartition) (send func(i int) bool) {
	all := func(int) bool { return true }
	if c.session == nil {
		if c.req.SessionEpoch == initialEpoch && c.rc.header.Version >= 7 && len(c.targets) > 0 {
			resp.SessionID = s.create(c, parts)
		}
		return all
	}
	resp.SessionID = c.session.id
	changed := make([]bool, len(parts))
	c.session.mu.Lock()
	defer c.session.mu.Unlock()
	current := make(map[targetKey]int, len(c.session.order))
	for i, t := range c.session.order {
		current[t.key()] = i
	}
	var served []targetKey
	for i, t := range c.targets {
		p := &parts[i]
		records := len(p.Records)+len(p.Regions) > 0
		changed[i] = records || p.ErrorCode != wire.None || p.HighWatermark != t.highWatermark ||
			p.LogStartOffset != t.logStart || p.DivergingEpoch != nil
		if n, still := current[t.key()]; still {
			told := *c.session.order[n]
			told.told(p)
			c.session.order[n] = &told
			if records {
				served = append(served, t.key())
			}
		}
	}
	c.session.rotate(served)
	return func(i int) bool { return changed[i] }
}

// told notes what a client learns from p. After an error everything is news again.
func (t *fetchTarget) told(p *wire.FetchPartition) {
	t.highWatermark, t.logStart = p.HighWatermark, p.LogStartOffset
	if p.ErrorCode != wire.None {
		t.highWatermark, t.logStart = -1, -1
	}
}

// rotate moves the partitions that got records behind those that got none, so that a
// busy one does not starve the others.
func (f *fetchSession) rotate(served []targetKey) {
	if len(served) == 0 || len(served) == len(f.order) {
		return
	}
	was := make(map[targetKey]bool, len(served))
	for _, k := range served {
		was[k] = true
	}
	slices.SortStableFunc(f.order, func(a, b *fetchTarget) int {
		switch x, y := was[a.key()], was[b.key()]; {
		case x == y:
			return 0
		case y:
			return -1
		}
		return 1
	})
}

// create caches a session for a full fetch and returns its id, or 0 if there is no room.
func (s *sessions) create(c *fetchCall, parts []wire.FetchPartition) int32 {
	f := &fetchSession{byID: c.rc.header.Version >= 13, lastUsed: time.Now(), epoch: nextEpoch(initialEpoch)}
	for i, t := range c.targets {
		told := *t
		told.told(&parts[i])
		f.order = append(f.order, &told)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.byID) >= s.limit && !s.evictLocked() {
		return 0
	}
	for f.id == 0 || s.mu.byID[f.id] != nil {
		f.id = rand.Int32N(math.MaxInt32)
	}
	s.mu.byID[f.id] = f
	return f.id
}

// evictLocked removes the session that was used least recently if it is idle.
func (s *sessions) evictLocked() bool {
	var oldest *fetchSession
	for _, f := range s.mu.byID {
		if oldest == nil || f.lastUsed.Before(oldest.lastUsed) {
			oldest = f
		}
	}
	if oldest == nil || time.Since(oldest.lastUsed) < sessionIdle {
		return false
	}
	delete(s.mu.byID, oldest.id)
	return true
}
