package group

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

// consumerType is the protocol type of consumers, the only one whose subscriptions are read.
const consumerType = "consumer"

// state is the state of a classic group, in Kafka's words. Dead is a group that does not exist.
type state uint8

const (
	empty state = iota
	preparingRebalance
	completingRebalance
	stable
)

func (s state) String() string {
	switch s {
	case preparingRebalance:
		return "PreparingRebalance"
	case completingRebalance:
		return "CompletingRebalance"
	case stable:
		return "Stable"
	}
	return "Empty"
}

const dead = "Dead"

// phase is what the timer of a group waits for.
type phase uint8

const (
	noPhase      phase = iota
	initialDelay       // more members for the first generation
	joining            // the members of the generation before
	syncing            // the members that were told the generation, and did not ask for their assignment
)

// classic is a group with members of the classic protocol. In Stable and Empty it is what its record
// says (generation, protocol, leader, members, assignments); what Preparing and Completing
// change is lost with the process, as nobody was assigned anything by it.
type classic struct {
	alarm
	group       *group
	phase       phase
	state       state
	wasEmpty    bool // the rebalance began in Empty
	newMember   bool // one came during initialDelay
	logged      bool // has a record
	remainingMs int64

	generation   int32
	protocolType string
	protocol     string
	leader       string
	stateSinceMs int64

	byID     map[string]*member
	order    []*member // as they joined
	static   map[string]*member
	pending  map[string]*member // told a member id, and not back with it yet
	awaiting int                // members whose JoinGroup waits
	unsynced int                // members that did not ask for their assignment
	support  map[string]int     // members by protocol name

	topics      []string // subscribed to, sorted
	topicsRead  bool     // topics is up to date
	topicsKnown bool     // and all subscriptions could be read
}

type protocol struct {
	name     string
	metadata []byte
}

// member is a member, or one that was told its id and shall join.
type member struct {
	alarm
	id, clientID, host                   string
	instanceID                           *string
	rebalanceTimeoutMs, sessionTimeoutMs int32
	protocols                            []protocol
	assignment                           []byte

	join, sync               shard.Ticket // requests that wait
	joinVersion, syncVersion int16
	isNew                    bool // joins for the first time: its session does not run
	isPending                bool
	isUnsynced               bool
}

func newClassic(g *group) *classic {
	return &classic{group: g, byID: map[string]*member{}, support: map[string]int{}, stateSinceMs: -1}
}

// metadata is what m says for the protocol.
func (m *member) metadata(name string) ([]byte, bool) {
	for i := range m.protocols {
		if m.protocols[i].name == name {
			return m.protocols[i].metadata, true
		}
	}
	return nil, false
}

// matches reports whether the protocols of a request are those m has.
func (m *member) matches(ps []protocol) bool {
	return slices.EqualFunc(m.protocols, ps, func(a, b protocol) bool {
		return a.name == b.name && string(a.metadata) == string(b.metadata)
	})
}

// requestProtocols copies what a request offers; of several with one name the first counts.
func requestProtocols(req *kmsg.JoinGroupRequest) []protocol {
	ps := make([]protocol, 0, len(req.Protocols))
	var seen map[string]bool
	if len(req.Protocols) > 8 {
		seen = make(map[string]bool, len(req.Protocols))
	}
	for i := range req.Protocols {
		p := &req.Protocols[i]
		if seen[p.Name] || seen == nil && slices.ContainsFunc(ps, func(q protocol) bool { return q.name == p.Name }) {
			continue
		}
		if seen != nil {
			seen[p.Name] = true
		}
		ps = append(ps, protocol{p.Name, slices.Clone(p.Metadata)})
	}
	return ps
}

// supports reports whether a member with these protocols has one in common with all others.
func (c *classic) supports(protocolType string, ps []protocol) bool {
	if c.state == empty {
		return protocolType != "" && len(ps) > 0
	}
	return protocolType == c.protocolType && slices.ContainsFunc(ps, func(p protocol) bool { return c.support[p.name] == len(c.order) })
}

// vote selects the protocol that all support and most prefer; of equals, that which the oldest member prefers.
func (c *classic) vote() string {
	votes := map[string]int{}
	for _, m := range c.order {
		for i := range m.protocols {
			if name := m.protocols[i].name; c.support[name] == len(c.order) {
				votes[name]++
				break
			}
		}
	}
	best := ""
	for i := range c.order[0].protocols {
		if name := c.order[0].protocols[i].name; votes[name] > votes[best] {
			best = name
		}
	}
	return best
}

// count notes the protocols of m, or with -1 takes the note back.
func (c *classic) count(m *member, by int) {
	for i := range m.protocols {
		name := m.protocols[i].name
		if n := c.support[name] + by; n != 0 {
			c.support[name] = n
		} else {
			delete(c.support, name)
		}
	}
	c.topicsRead = false
}

func (c *classic) setStatic(m *member) {
	if m.instanceID != nil {
		if c.static == nil {
			c.static = map[string]*member{}
		}
		c.static[*m.instanceID] = m
	}
}

func (c *classic) byInstance(instanceID *string) *member {
	if instanceID == nil {
		return nil
	}
	return c.static[*instanceID]
}

// validate finds the member of a request.
func (c *classic) validate(id string, instanceID *string) (*member, wire.Code) {
	if instanceID != nil {
		switch m := c.static[*instanceID]; {
		case m == nil:
			return nil, wire.UnknownMemberID
		case m.id != id: // protection: fencing of static members
			return nil, wire.FencedInstanceID
		}
	}
	if m := c.byID[id]; m != nil {
		return m, wire.None
	}
	return nil, wire.UnknownMemberID
}

func (c *classic) allJoined() bool { return c.awaiting == len(c.order) && len(c.pending) == 0 }

func (c *classic) rebalanceTimeoutMs() int64 {
	most := int32(0)
	for _, m := range c.order {
		most = max(most, m.rebalanceTimeoutMs)
	}
	return int64(most)
}

// add makes m a member. The first one says what the group is for.
func (c *classic) add(m *member, protocolType string) {
	if len(c.order) == 0 {
		c.protocolType = protocolType
	}
	c.byID[m.id] = m
	c.order = append(c.order, m)
	c.setStatic(m)
	c.count(m, 1)
	if c.leader == "" {
		c.leader = m.id
	}
}

// remove forgets a member or pending member and what it waits for; only its requests remain to be answered.
func (s *Shard) remove(c *classic, m *member, why wire.Code) {
	s.timers.cancel(&m.alarm)
	if m.isPending {
		delete(c.pending, m.id)
		return
	}
	s.answerJoin(c, m, joinError("", why))
	s.answerSync(m, syncError(why))
	c.synced(s, m)
	delete(c.byID, m.id)
	i := slices.Index(c.order, m)
	c.order = slices.Delete(c.order, i, i+1)
	if m.instanceID != nil && c.static[*m.instanceID] == m {
		delete(c.static, *m.instanceID)
	}
	c.count(m, -1)
	if c.leader == m.id {
		c.leader = ""
		if len(c.order) > 0 {
			c.leader = c.order[0].id
		}
	}
}

// rename gives the static member m a new id. Who still uses the old one is fenced.
func (s *Shard) rename(c *classic, m *member, id string) {
	delete(c.byID, m.id)
	if c.leader == m.id {
		c.leader = id
	}
	m.id = id
	c.byID[id] = m
}

// synced notes that m asked for its assignment, or will not.
func (c *classic) synced(s *Shard, m *member) {
	if !m.isUnsynced {
		return
	}
	m.isUnsynced = false
	if c.unsynced--; c.unsynced == 0 && c.phase == syncing {
		s.endPhase(c)
	}
}

func (s *Shard) beginPhase(c *classic, p phase, atMs int64) {
	s.endPhase(c)
	c.phase = p
	s.timers.set(c, nil, atMs)
}

func (s *Shard) endPhase(c *classic) {
	s.timers.cancel(&c.alarm)
	c.phase = noPhase
}

// touch begins m's session anew.
func (s *Shard) touch(c *classic, m *member) {
	s.timers.set(c, m, s.now.MonoMs+int64(max(m.sessionTimeoutMs, 0)))
}

// memberID makes a member id: a prefix that says who it is, and a random UUID.
func (s *Shard) memberID(c Client, instanceID *string) string {
	prefix := c.ID
	if instanceID != nil {
		prefix = *instanceID
	}
	var b [16]byte
	s.random(b[:])
	binary.BigEndian.PutUint16(b[6:], binary.BigEndian.Uint16(b[6:])&0x0fff|0x4000)
	b[8] = b[8]&0x3f | 0x80
	x := hex.EncodeToString(b[:])
	if most := maxText - 37; len(prefix) > most {
		prefix = strings.ToValidUTF8(prefix[:most], "")
	}
	return strings.Join([]string{prefix, x[:8], x[8:12], x[12:16], x[16:20], x[20:]}, "-")
}

// subscribes reports whether offsets of the topic are in use by live members. Where that cannot be known, they are.
func (c *classic) subscribes(topic string) bool {
	if c.protocolType != consumerType || len(c.order) == 0 {
		return false
	}
	if !c.topicsRead {
		c.readTopics()
	}
	if !c.topicsKnown {
		return true
	}
	_, found := slices.BinarySearch(c.topics, topic)
	return found
}

func (c *classic) readTopics() {
	c.topics, c.topicsRead, c.topicsKnown = nil, true, true
	tidyAt := 1024 // members usually subscribe to the same topics
	for _, m := range c.order {
		b, ok := m.metadata(c.protocol)
		if !ok || !subscribedTopics(b, func(topic string) { c.topics = append(c.topics, topic) }) {
			c.topics, c.topicsKnown = nil, false
			return
		}
		if len(c.topics) > tidyAt {
			slices.Sort(c.topics)
			c.topics = slices.Compact(c.topics)
			tidyAt = 2*len(c.topics) + 1024
		}
	}
	slices.Sort(c.topics)
	c.topics = slices.Clip(slices.Compact(c.topics))
}

// record is the group as it will be recorded: stable in its generation, with the given assignments.
func (c *classic) record(nowMs int64) groupRecord {
	r := groupRecord{protocolType: c.protocolType, protocol: c.protocol, leader: c.leader, generation: c.generation, stateSinceMs: nowMs,
		members: make([]memberRecord, len(c.order))}
	for i, m := range c.order {
		subscription, _ := m.metadata(c.protocol)
		r.members[i] = memberRecord{id: m.id, instanceID: m.instanceID, clientID: m.clientID, clientHost: m.host,
			rebalanceTimeoutMs: m.rebalanceTimeoutMs, sessionTimeoutMs: m.sessionTimeoutMs, subscription: subscription, assignment: m.assignment}
	}
	return r
}
