// Package group is the passive core of consumer groups: who is a member of which group, which
// generation is in force, who was assigned what, and what was committed. It alone knows the
// records of __consumer_offsets, Kafka's rules of the classic group protocol and of the consumer protocol
// (KIP-848), how groups turn from one into the other, and the expiry of offsets. It decides; package
// coordinator appends, commits, sends and keeps time.
//
// A classic group is in classic.go, join.go and sync.go. A consumer group is the fold of its records in consumer.go;
// an event changes a draft of it (draft.go), each change being a record; consumerheartbeat.go, patterns.go, reconcile.go and
// assignor.go are the steps of a heartbeat, migrate.go is what both kinds have to do with each other. What happened, for people, is
// in history.go.
//
// # Invariants
//
//	G1  Committed offsets, and groups in Stable and Empty, are exactly the fold of the shard's records
//	    (cluster invariant 27). Preparing and Completing are on top of the last record; who loses them rejoins.
//	G2  A generation has one assignment: that of the first SyncGroup of its leader whose record was
//	    appended. So a partition has one owner in it, unless the leader gave it to two.
//	G3  Who commits as a member is one, in the generation in force, which is not being assigned; so a member that
//	    was taken for dead cannot overwrite the offsets of who came after it.
//	G4  Each request is answered once: at once, or when what it waits for has come, gone or been replaced.
//	G5  A partition of a consumer group has one holder at most: a member is given it only after the one before has said that it
//	    gave it back, has left, or was taken for dead (cluster invariant 28).
//	G6  The epoch of a member is at most that of the target assignment, which is at most that of the group; in
//	    an empty consumer group the last two are equal (cluster invariant 29).
//	G7  Who commits as a member of a consumer group does so in its present epoch; in one before only for what it had
//	    then and still has. So nobody overwrites what the next holder of a partition has committed.
//
// Where this differs from Kafka 4.3 it is on purpose, and said so at the place: "Kafka" finds them.
package group

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

// Config is what an operator decides about groups. A Shard keeps its own copy.
type Config struct {
	OffsetMetadataMaxBytes   int   // offset.metadata.max.bytes
	OffsetsRetentionMs       int64 // offsets.retention.minutes
	RetentionCheckIntervalMs int64 // offsets.retention.check.interval.ms
	MinSessionTimeoutMs      int64 // group.min.session.timeout.ms
	MaxSessionTimeoutMs      int64 // group.max.session.timeout.ms
	MaxSize                  int   // group.max.size
	InitialRebalanceDelayMs  int64 // group.initial.rebalance.delay.ms

	ConsumerMaxSize    int      // group.consumer.max.size
	Assignors          []string // group.consumer.assignors; the first is the default
	Upgrade, Downgrade bool     // group.consumer.migration.policy
	PatternRefreshMs   int64    // group.consumer.regex.refresh.interval.ms

	HistoryBytes int // moldau.group.history.bytes, this shard's part; 0: nothing is kept
}

// Client is who sends a request.
type Client struct {
	ID   string // client.id
	Host string // address as Kafka prints it: "/127.0.0.1"
	// MayDescribe says which topics the client may know of, by the rules of access at this moment; nil: every one. It is
	// called while the event is decided, and not kept.
	MayDescribe func(topic string) bool
}

// Topic names a topic and the id it has; a zero id is not known.
type Topic struct {
	Name string
	ID   wire.UUID
}

// maxText is the longest string that the records can hold.
const maxText = math.MaxInt16

// newMemberTimeoutMs is how long a member that joins for the first time may wait for its answer. Its session cannot run,
// as it does not know its id; and a client that has gone and came back as another must not wait for ever.
const newMemberTimeoutMs = 5 * 60 * 1000

// retryMs is when the shard tries again to write what nobody waits for.
const retryMs = 1000

// Shard is the groups of one partition of __consumer_offsets. It implements shard.Core.
type Shard struct {
	cfg       Config
	meta      *Metadata
	random    func(out []byte)
	groups    map[string]*group
	watches   map[watchKey]*watch // members of consumer groups
	timers    timers
	sweeps    sweeps
	converted []converted // by the event before
	past      histories   // of the groups

	// Of the event that goes on, or has just been.
	now     shard.Time
	fx      shard.Effects
	assumed []func()      // takes back what fx.Records were assumed to do, besides being replayed
	replace []replacement // what a record of fx does not say
	drafts  []*draft
	failure wire.Code // of Failed: why

	mayDescribe func(topic string) bool // of the client whose request it is, see Client; nil: every topic
}

// group is what has one group id: offsets, and members of one kind.
type group struct {
	id      string
	offsets offsets
	// Of these at most one is there, except in the middle of an event that makes one of the other. Both nil: only offsets
	// were ever committed.
	classic  *classic
	consumer *consumer
}

var _ shard.Core = (*Shard)(nil)

// New returns an empty shard. random fills out with random bytes, of which member ids are made.
func New(cfg Config, meta *Metadata, random func(out []byte)) *Shard {
	return &Shard{cfg: cfg, meta: meta, random: random, groups: map[string]*group{}, watches: map[watchKey]*watch{}, sweeps: sweeps{nextCheckMs: math.MaxInt64}}
}

// MetadataChanged tells of new metadata. Groups look at it when one of their members is heard of.
func (s *Shard) MetadataChanged(now shard.Time, m *Metadata) shard.Effects {
	s.begin(now)
	s.meta = m
	return s.end()
}

// begin begins an event.
func (s *Shard) begin(now shard.Time) {
	s.remember()
	s.now = now
	s.mayDescribe = nil
	s.fx = shard.Effects{}
	s.assumed = s.assumed[:0]
	s.replace = nil
	s.drafts = nil
	if len(s.converted) > 0 {
		s.settleConverted()
	}
}

func (s *Shard) end() shard.Effects {
	fx := s.fx
	s.fx = shard.Effects{}
	return fx
}

func (s *Shard) write(records ...shard.Record) { s.fx.Records = append(s.fx.Records, records...) }

// reply answers once all that was written before is committed.
func (s *Shard) reply(t shard.Ticket, response any) {
	s.fx.Replies = append(s.fx.Replies, shard.Reply{Ticket: t, Response: response, Early: false}) // protection: answers wait for the log
}

// replyEarly answers with what shows nothing that could be lost.
func (s *Shard) replyEarly(t shard.Ticket, response any) {
	s.fx.Replies = append(s.fx.Replies, shard.Reply{Ticket: t, Response: response, Early: true})
}

func (s *Shard) groupOrNew(id string) *group {
	g := s.groups[id]
	if g == nil {
		g = &group{id: id}
		s.groups[id] = g
	}
	return g
}

// isEmpty reports whether the group has no members, and is not about to have any.
func (g *group) isEmpty() bool {
	if g.consumer != nil {
		return g.consumer.members.len() == 0
	}
	return g.classic == nil || g.classic.state == empty
}

// state is the group's state in Kafka's words.
func (g *group) state() string {
	switch {
	case g.consumer != nil:
		return g.consumer.state()
	case g.classic != nil:
		return g.classic.state.String()
	}
	return empty.String()
}

// tidy forgets the group if there is nothing to know about it.
func (s *Shard) tidy(g *group) {
	if c := g.classic; c != nil && (c.logged || c.state != empty || len(c.order)+len(c.pending) > 0) {
		return
	}
	if c := g.classic; c != nil {
		s.endPhase(c)
		g.classic = nil
	}
	if len(g.offsets) == 0 && g.consumer == nil { // protection: offsets outlive members
		delete(s.groups, g.id)
	}
}

// ids are the ids of all groups, sorted.
func (s *Shard) ids() []string { return slices.Sorted(maps.Keys(s.groups)) }

// Replay is shard.Core's.
func (s *Shard) Replay(r shard.Record) error {
	k, err := parseKey(r.Key)
	if err != nil {
		return err
	}
	switch k.kind {
	case keyOffsetV0, keyOffset:
		return s.replayOffset(k, r.Value)
	case keyGroup:
		return s.replayGroup(k, r.Value)
	case keyConsumer, keyConsumerTopics, keyConsumerMember, keyTargetEpoch, keyTarget, keyCurrent, keyConsumerPattern:
		if err := s.replayConsumer(k, r.Value); err != nil {
			return fmt.Errorf("group %q: %w", k.group, err)
		}
	}
	return nil
}

// replayConsumer changes what one key of a consumer group says. A group is there while one says anything.
func (s *Shard) replayConsumer(k recordKey, value []byte) error {
	g := s.groups[string(k.group)]
	if value == nil && (g == nil || g.consumer == nil) {
		return nil
	}
	if g == nil {
		g = s.groupOrNew(string(k.group))
	}
	c := g.consumer
	if c == nil {
		c = newConsumer()
	}
	if err := c.replay(k, value); err != nil {
		s.tidy(g)
		return err
	}
	if g.consumer = c; c.none() {
		g.consumer = nil
	}
	s.tidy(g)
	return nil
}

func (c *consumer) replay(k recordKey, value []byte) (err error) {
	there, id := value != nil, string(k.second)
	switch k.kind {
	case keyConsumer:
		var e groupEpoch
		if c.group = nil; there {
			e, err = parseGroupEpoch(value)
			c.group = &e
		}
	case keyTargetEpoch:
		var e targetEpoch
		if c.made = nil; there {
			e, err = parseTargetEpoch(value)
			c.made = &e
		}
	case keyConsumerTopics:
		c.topicRecord = there
	case keyConsumerMember:
		var m *memberMeta
		if there {
			m, err = parseMemberMeta(value)
		}
		if err == nil {
			c.setMeta(id, m)
		}
	case keyCurrent:
		var m *current
		if there {
			m, err = parseCurrent(value)
		}
		if err == nil {
			c.setCurrent(id, m)
		}
	case keyTarget:
		var target shares
		if there {
			target, err = parseTarget(value)
		}
		if err == nil {
			c.setTarget(id, target, there)
		}
	case keyConsumerPattern:
		var p *resolved
		if there {
			p, err = parseResolved(value)
		}
		if err == nil {
			c.setPattern(id, p)
		}
	}
	return err
}

func (s *Shard) replayGroup(k recordKey, value []byte) error {
	g := s.groups[string(k.group)]
	if value == nil {
		if g != nil && g.classic != nil {
			s.dropClassic(g)
			s.tidy(g)
		}
		return nil
	}
	r, err := parseGroup(value)
	if err != nil {
		return fmt.Errorf("group %q: %w", k.group, err)
	}
	if g == nil {
		g = s.groupOrNew(string(k.group))
	}
	if g.classic == nil {
		g.classic = newClassic(g)
	}
	s.become(g.classic, &r)
	return nil
}

// dropClassic forgets the members and the generation of a group.
func (s *Shard) dropClassic(g *group) {
	c := g.classic
	s.endPhase(c)
	for _, m := range c.order {
		s.timers.cancel(&m.alarm)
	}
	for _, m := range c.pending {
		s.timers.cancel(&m.alarm)
	}
	g.classic = nil
}

// become makes the group what its record says. Members that are known keep what only they know: who waits,
// their session, and what they said for other protocols.
func (s *Shard) become(c *classic, r *groupRecord) {
	old := c.order
	byID := c.byID
	c.byID = make(map[string]*member, len(r.members))
	c.order = make([]*member, 0, len(r.members))
	c.support = map[string]int{}
	byInstance := c.static
	c.static = nil
	for i := range r.members {
		mr := &r.members[i]
		if c.byID[mr.id] != nil {
			continue
		}
		m := byID[mr.id]
		if m == nil && mr.instanceID != nil {
			m = byInstance[*mr.instanceID] // its id was replaced
		}
		if m == nil || m.id != mr.id && c.byID[m.id] == m {
			m = &member{}
		}
		m.id, m.instanceID, m.clientID, m.host = mr.id, mr.instanceID, mr.clientID, mr.clientHost
		m.rebalanceTimeoutMs, m.sessionTimeoutMs = mr.rebalanceTimeoutMs, mr.sessionTimeoutMs
		m.assignment = mr.assignment
		if at := slices.IndexFunc(s.replace, func(x replacement) bool { return x.id == mr.id }); at >= 0 {
			m.protocols = s.replace[at].protocols
		}
		if b, ok := m.metadata(r.protocol); !ok || string(b) != string(mr.subscription) {
			m.protocols = []protocol{{r.protocol, mr.subscription}}
		}
		c.byID[m.id] = m
		c.order = append(c.order, m)
		c.setStatic(m)
		c.count(m, 1)
	}
	c.generation, c.protocolType, c.protocol, c.leader, c.stateSinceMs = r.generation, r.protocolType, r.protocol, r.leader, r.stateSinceMs
	c.state, c.logged, c.topicsRead = stable, true, false
	if len(c.order) == 0 {
		c.state = empty
		s.endPhase(c)
	} else if c.byID[c.leader] == nil {
		c.leader = c.order[0].id
	}
	for _, m := range old {
		if c.byID[m.id] != m {
			s.timers.cancel(&m.alarm)
		}
	}
}

// Loaded is shard.Core's.
func (s *Shard) Loaded(now shard.Time) shard.Effects {
	s.begin(now)
	s.past.sinceMs = now.WallMs
	for _, id := range s.ids() {
		if g := s.groups[id]; g.consumer != nil {
			g.consumer.rebuild()
			s.watchAll(g) // protection: sessions of consumers after loading
		}
		c := s.groups[id].classic
		if c == nil {
			continue
		}
		for _, m := range c.order {
			s.touch(c, m) // protection: sessions after loading
		}
		if len(c.order) > s.cfg.MaxSize { // the limit may be a new one
			s.prepare(c)
		}
	}
	s.sweeps.nextCheckMs = now.MonoMs + s.cfg.RetentionCheckIntervalMs
	return s.end()
}

// Deadline is shard.Core's.
func (s *Shard) Deadline() int64 {
	if len(s.converted) > 0 {
		return s.now.MonoMs
	}
	return min(s.timers.next(), s.sweeps.next())
}

// Tick is shard.Core's.
func (s *Shard) Tick(now shard.Time) shard.Effects {
	s.begin(now)
	for {
		t, ok := s.timers.due(now.MonoMs)
		if !ok {
			break
		}
		switch {
		case t.w != nil:
			s.expireDuty(t.w, t.duty)
		case t.m != nil:
			s.expireSession(t.c, t.m)
		default:
			s.expirePhase(t.c)
		}
	}
	s.sweep()
	return s.end()
}

// Failed is shard.Core's.
func (s *Shard) Failed(now shard.Time, e shard.Effects, why wire.Code) shard.Effects {
	assumed, drafts := slices.Clone(s.assumed), s.drafts
	s.past.unwritten()
	s.begin(now)
	for _, d := range drafts {
		s.watchAll(d.g)
	}
	s.failure = why
	for _, r := range e.Replies {
		if !r.Early {
			r.Response = failure(r.Response, why)
		}
		s.fx.Replies = append(s.fx.Replies, r)
	}
	for _, takeBack := range assumed {
		takeBack()
	}
	if len(s.fx.Records) > 0 {
		panic("BUG: taking back an event writes records")
	}
	return s.end()
}
