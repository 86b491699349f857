package group

import (
	"maps"
	"slices"

	"moldau/internal/wire"
)

// memberState is how far a member of a consumer group is from its target, as it stands in records.
type memberState int8

const (
	reconciled memberState = iota // has what it is to have in its epoch (Kafka: STABLE)
	unrevoked                     // is to give something back first (UNREVOKED_PARTITIONS)
	unreleased                    // waits for what others have to give back (UNRELEASED_PARTITIONS)
)

// Member epochs in requests that mean something else.
const (
	epochJoins      = 0
	epochLeaves     = -1
	epochLeavesSoon = -2 // a static member that will be back
)

// firstEpoch is that of a group which has no member yet: 0 is what members join with.
const firstEpoch = 1

// consumer is a group of the consumer protocol (KIP-848). All but the last fields is what its records say, each key for
// itself; so it does not matter in which order they come. Members are never changed but replaced, so that
// one may lie over another (see draft).
//
// The epochs, one below the other: of the group, which rises when members, subscriptions or topics change; of
// the target assignment, which is that group epoch for which it was made; of each member, which is that
// target epoch that it has come to. A member in its target's epoch still may wait for partitions (unreleased).
type consumer struct {
	group       *groupEpoch // nil: no record
	made        *targetEpoch
	topicRecord bool // there is a record of key 4
	members     table[*consumerMember]
	targets     table[shares]
	patterns    map[string]*resolved

	static     table[string] // member by instance id
	holders    holders
	ids        []string // of the members, sorted; nil: not known
	subscribed []string // topics, sorted; nil: not known

	checked *Metadata // that the group's hash was found to be right for; lost with the process
}

// consumerMember is one member. It is never changed.
type consumerMember struct {
	id string
	memberMeta
	current
	hasMeta, hasCurrent bool // records
}

// blankMember is a member of which nothing is known.
func blankMember(id string) *consumerMember {
	return &consumerMember{id: id, memberMeta: memberMeta{rebalanceTimeoutMs: -1}, current: current{previous: -1}}
}

// settled reports whether the member has all that a target of that epoch gives it.
func (m *consumerMember) settled(epoch int32) bool { return m.state == reconciled && m.epoch == epoch }

// owes reports whether the member is to say that it has given something back, and has time for that. Those that speak the classic protocol
// join again instead; a static member that left for a while has given back everything that it was to.
func (m *consumerMember) owes() bool {
	return m.classic == nil && m.state == unrevoked && len(m.revoking) > 0
}

func newConsumer() *consumer {
	return &consumer{patterns: map[string]*resolved{}}
}

// over is a consumer that begins as c and lies over it: c must not change as long as it is used.
func (c *consumer) over() *consumer {
	c.topics() // is known to both then
	d := *c
	d.members, d.targets, d.static, d.patterns = c.members.over(), c.targets.over(), c.static.over(), maps.Clone(c.patterns)
	d.holders = holders{below: &c.holders}
	return &d
}

// none reports whether no record says anything.
func (c *consumer) none() bool {
	return c.group == nil && c.made == nil && !c.topicRecord && c.members.len()+c.targets.len()+len(c.patterns) == 0
}

func (c *consumer) epoch() int32 {
	if c.group == nil {
		return firstEpoch
	}
	return c.group.epoch
}

func (c *consumer) hash() int64 {
	if c.group == nil {
		return 0
	}
	return c.group.hash
}

// target tells of the last target assignment.
func (c *consumer) target() targetEpoch {
	if c.made == nil {
		return targetEpoch{epoch: firstEpoch}
	}
	return *c.made
}

// state is the group's state in Kafka's words.
func (c *consumer) state() string {
	switch e := c.target().epoch; {
	case c.members.len() == 0:
		return "Empty"
	case c.epoch() > e:
		return "Assigning"
	default:
		for _, m := range c.members.all() {
			if !m.settled(e) {
				return "Reconciling"
			}
		}
	}
	return "Stable"
}

// allSettled reports whether nothing is left to do for the group's epoch.
func (c *consumer) allSettled() bool {
	for _, m := range c.members.all() {
		if !m.settled(c.epoch()) {
			return false
		}
	}
	return true
}

// order is the ids of the members, sorted.
func (c *consumer) order() []string {
	if c.ids == nil {
		c.ids = c.members.names()
	}
	return c.ids
}

// topics are the names that anybody is subscribed to, sorted; not all need to exist.
func (c *consumer) topics() []string {
	if c.subscribed == nil {
		names := map[string]struct{}{}
		for _, m := range c.members.all() {
			for _, t := range m.topics {
				names[t] = struct{}{}
			}
		}
		for _, p := range c.patterns {
			for _, t := range p.topics {
				names[t] = struct{}{}
			}
		}
		c.subscribed = append(make([]string, 0, len(names)), slices.Sorted(maps.Keys(names))...)
	}
	return c.subscribed
}

func (c *consumer) subscribes(topic string) bool {
	_, found := slices.BinarySearch(c.topics(), topic)
	return found
}

// users counts the members that are subscribed by a pattern.
func (c *consumer) users(pattern string) int {
	n := 0
	for _, m := range c.members.all() {
		if m.pattern == pattern {
			n++
		}
	}
	return n
}

// classicMembers counts those that speak the classic protocol.
func (c *consumer) classicMembers() int {
	n := 0
	for _, m := range c.members.all() {
		if m.classic != nil {
			n++
		}
	}
	return n
}

// supports reports whether all members that speak the classic protocol have one of these in common.
func (c *consumer) supports(protocolType string, ps []protocol) bool {
	if protocolType != consumerType {
		return false
	}
	return slices.ContainsFunc(ps, func(p protocol) bool {
		for _, m := range c.members.all() {
			if m.classic != nil && !slices.ContainsFunc(m.classic.protocols, func(q protocol) bool { return q.name == p.name }) {
				return false
			}
		}
		return true
	})
}

// subscriptionOf are the names that a member is subscribed to: its own and what its pattern stands for.
func (c *consumer) subscriptionOf(m *consumerMember) []string {
	p := c.patterns[m.pattern]
	if m.pattern == "" || p == nil || len(p.topics) == 0 {
		return m.topics
	}
	if len(m.topics) == 0 {
		return p.topics
	}
	return sortedSet(slices.Concat(m.topics, p.topics))
}

// allSame reports whether all members are subscribed to the same topics. It finds only what Kafka's finds, because it
// decides between two ways to assign: the same names and no pattern, or one pattern and no name.
func (c *consumer) allSame() bool {
	var first *consumerMember
	for _, m := range c.members.all() {
		switch {
		case first == nil:
			first = m
		case m.pattern != first.pattern || !slices.Equal(m.topics, first.topics):
			return false
		}
		if m.pattern != "" && len(m.topics) > 0 {
			return false
		}
	}
	return true
}

// preferred is the assignor that most members ask for.
func (c *consumer) preferred(byDefault string) string {
	votes := map[string]int{}
	for _, m := range c.members.all() {
		if m.assignor != nil {
			votes[*m.assignor]++
		}
	}
	best := byDefault
	for _, name := range slices.Sorted(maps.Keys(votes)) {
		if votes[name] > votes[best] {
			best = name
		}
	}
	return best
}

func (c *consumer) byInstance(instanceID string) *consumerMember {
	id, ok := c.static.look(instanceID)
	if !ok {
		return nil
	}
	return c.members.get(id)
}

// put replaces the member of old's id: old is nil for a new one, m for one that goes.
func (c *consumer) put(old, m *consumerMember) {
	if old != nil {
		c.holders.release(old)
		if old.instanceID != nil && c.static.get(*old.instanceID) == old.id {
			c.static.remove(*old.instanceID)
		}
	}
	if m == nil {
		c.members.remove(old.id)
	} else {
		c.members.set(m.id, m)
		c.holders.hold(m)
		if m.instanceID != nil {
			c.static.set(*m.instanceID, m.id)
		}
	}
	if old == nil || m == nil {
		c.ids = nil
	}
	switch {
	case old != nil && m != nil && old.pattern == m.pattern && slices.Equal(old.topics, m.topics):
	case old == nil && c.subscribed != nil && m.pattern == "" && !slices.ContainsFunc(m.topics, func(t string) bool { return !c.subscribes(t) }): // one more
	default:
		c.subscribed = nil
	}
}

// change replaces a member by what becomes of it; without any record it is gone.
func (c *consumer) change(id string, by func(m *consumerMember)) {
	old := c.members.get(id)
	m := blankMember(id)
	if old != nil {
		*m = *old
	}
	by(m)
	switch {
	case m.hasMeta || m.hasCurrent:
		c.put(old, m)
	case old != nil:
		c.put(old, nil)
	}
}

// setMeta and the following carry out records; nil is a tombstone.
func (c *consumer) setMeta(id string, meta *memberMeta) {
	c.change(id, func(m *consumerMember) {
		m.hasMeta, m.memberMeta = meta != nil, blankMember("").memberMeta
		if meta != nil {
			m.memberMeta = *meta
		}
	})
}

func (c *consumer) setCurrent(id string, cur *current) {
	c.change(id, func(m *consumerMember) {
		m.hasCurrent, m.current = cur != nil, current{epoch: -1, previous: -1}
		if cur != nil {
			m.current = *cur
		}
	})
}

func (c *consumer) setTarget(id string, target shares, there bool) {
	if there {
		c.targets.set(id, target)
	} else {
		c.targets.remove(id)
	}
}

func (c *consumer) setPattern(pattern string, r *resolved) {
	if r == nil {
		delete(c.patterns, pattern)
	} else {
		c.patterns[pattern] = r
	}
	c.subscribed = nil
}

// rebuild finds the holders anew: while a compacted log is folded, a partition may have two for a moment.
func (c *consumer) rebuild() {
	c.holders = holders{}
	for _, id := range c.order() {
		c.holders.hold(c.members.get(id))
	}
}

// holders knows of each partition that a member has, or has to give back, the epoch of that member. Only when it has
// none may it be given to another.
type holders struct {
	epochs map[topicPartition]int32 // unheld: not held, whatever below says
	below  *holders                 // never changed
}

const unheld = -100 // no member epoch

func (h *holders) epoch(tp topicPartition) int32 {
	for ; h != nil; h = h.below {
		if e, ok := h.epochs[tp]; ok {
			return e
		}
	}
	return unheld
}

func (h *holders) held(topic wire.UUID, p int32) bool {
	return h.epoch(topicPartition{topic, p}) != unheld
}

func (h *holders) set(tp topicPartition, epoch int32) {
	if epoch == unheld && h.below == nil {
		delete(h.epochs, tp)
		return
	}
	if h.epochs == nil {
		h.epochs = map[topicPartition]int32{}
	}
	h.epochs[tp] = epoch
}

func (h *holders) hold(m *consumerMember) {
	for _, s := range []shares{m.assigned, m.revoking} {
		for i := range s {
			for _, p := range s[i].parts {
				if tp := (topicPartition{s[i].topic, p}); h.epoch(tp) < m.epoch {
					h.set(tp, m.epoch)
				}
			}
		}
	}
}

// release gives back what m had, unless another has it by now.
func (h *holders) release(m *consumerMember) {
	for _, s := range []shares{m.assigned, m.revoking} {
		for i := range s {
			for _, p := range s[i].parts {
				if tp := (topicPartition{s[i].topic, p}); h.epoch(tp) == m.epoch {
					h.set(tp, unheld)
				}
			}
		}
	}
}
