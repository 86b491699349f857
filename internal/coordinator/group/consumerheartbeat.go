package group

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

// heartbeatOwnID is the version of ConsumerGroupHeartbeat from which on members choose their ids themselves (KIP-1082).
const heartbeatOwnID = 1

// ConsumerGroupHeartbeat is answered by a *kmsg.ConsumerGroupHeartbeatResponse. It is all that a member of a consumer group
// says: that it joins, leaves, lives, what it is subscribed to, and what it has. The answer may be the next step
// of its assignment.
func (s *Shard) ConsumerGroupHeartbeat(now shard.Time, t shard.Ticket, c Client, req *kmsg.ConsumerGroupHeartbeatRequest) shard.Effects {
	s.begin(now)
	s.mayDescribe = c.MayDescribe
	if why := s.checkHeartbeat(req); why != nil {
		s.replyEarly(t, refusedHeartbeat(req.Version, why))
		return s.end()
	}
	resp, why := s.consumerHeartbeat(c, req)
	if why != nil {
		s.abandon()
		s.noteRefused(req.Group, req.MemberID, req.InstanceID, why)
		resp = refusedHeartbeat(req.Version, why)
	}
	resp.Version = req.Version
	s.finish()
	s.reply(t, resp)
	return s.end()
}

func refusedHeartbeat(version int16, why *refusal) *kmsg.ConsumerGroupHeartbeatResponse {
	r := kmsg.NewPtrConsumerGroupHeartbeatResponse()
	r.Version, r.ErrorCode, r.ErrorMessage = version, int16(why.code), &why.message
	return r
}

// abandon takes back what the event was about to do.
func (s *Shard) abandon() {
	s.fx = shard.Effects{}
	s.past.unwritten()
	s.drafts = nil
	s.replace = nil
	s.assumed = s.assumed[:0]
}

// finish does what only the process knows, as the event has come to a good end.
func (s *Shard) finish() {
	for _, d := range s.drafts {
		for _, f := range d.ends {
			f()
		}
		d.ends = nil
		d.noteSettled()
	}
}

// checkHeartbeat is what can be said without looking at the group. The messages are Kafka's.
func (s *Shard) checkHeartbeat(req *kmsg.ConsumerGroupHeartbeatRequest) *refusal {
	invalid := func(message string) *refusal { return &refusal{wire.InvalidRequest, message} }
	blank := func(text string) bool { return strings.TrimSpace(text) == "" }
	switch e := req.MemberEpoch; {
	case (req.Version >= heartbeatOwnID || e > 0 || e == epochLeaves) && blank(req.MemberID):
		return invalid("MemberId can't be empty.")
	case blank(req.Group):
		return invalid("GroupId can't be empty.")
	case req.InstanceID != nil && blank(*req.InstanceID):
		return invalid("InstanceId can't be empty.")
	case req.RackID != nil && blank(*req.RackID):
		return invalid("RackId can't be empty.")
	case e == epochJoins && req.RebalanceTimeoutMillis == -1:
		return invalid("RebalanceTimeoutMs must be provided in first request.")
	case e == epochJoins && (req.Topics == nil || len(req.Topics) > 0):
		return invalid("TopicPartitions must be empty when (re-)joining.")
	case e == epochJoins && req.SubscribedTopicNames == nil && req.SubscribedTopicRegex == nil:
		return invalid("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.")
	case e == epochLeavesSoon && req.InstanceID == nil:
		return invalid("InstanceId can't be null.")
	case e < epochLeavesSoon:
		return invalid("MemberEpoch is invalid.")
	}
	for _, text := range []*string{&req.Group, &req.MemberID, req.InstanceID, req.RackID, req.SubscribedTopicRegex} { // they go into records
		if text != nil && (len(*text) > maxText || !utf8.ValidString(*text)) {
			return invalid(fmt.Sprintf("A text of %d bytes is too long or no UTF-8; at most %d bytes are possible.", len(*text), maxText))
		}
	}
	if a := req.ServerAssignor; a != nil && !slices.Contains(s.cfg.Assignors, *a) {
		return &refusal{wire.UnsupportedAssignor, fmt.Sprintf("ServerAssignor %s is not supported. Supported assignors: %s.", *a, strings.Join(s.cfg.Assignors, ", "))}
	}
	return nil
}

func (s *Shard) consumerHeartbeat(client Client, req *kmsg.ConsumerGroupHeartbeatRequest) (*kmsg.ConsumerGroupHeartbeatResponse, *refusal) {
	if req.MemberEpoch < 0 {
		return s.consumerLeave(req)
	}
	joins := req.MemberEpoch == epochJoins
	d, why := s.consumerDraft(req.Group, joins)
	if why != nil {
		return nil, why
	}
	if joins { // Kafka says it to a member that was taken for dead, too, which then does not learn that it was
		if why := d.room(req.MemberID); why != nil {
			return nil, why
		}
	}
	id := req.MemberID
	if id == "" {
		id = s.uuid()
	}
	owned := ownership{known: req.Topics != nil}
	for i := range req.Topics {
		owned.shares = append(owned.shares, share{topic: req.Topics[i].TopicID, parts: req.Topics[i].Partitions})
	}
	owned.shares = owned.shares.normal()
	before, why := d.subscriber(id, req, owned)
	if why != nil {
		return nil, why
	}
	if !joins && req.MemberEpoch != before.epoch {
		// It has not heard of its present epoch, so it does not say what it does with what it has in it. Kafka takes it for
		// said; a request that was overtaken by its own repetition then gives away what the member has by now.
		owned = ownership{} // protection: only the present epoch gives back
	}
	if joins && before.hasMeta && before.epoch > 0 {
		d.noteMember(Event{Kind: Rejoined, Why: EpochAgain}, id)
	}
	meta := before.memberMeta
	meta.clientID, meta.clientHost, meta.classic = client.ID, client.Host, nil
	if req.InstanceID != nil {
		meta.instanceID = req.InstanceID
	}
	if req.RackID != nil {
		meta.rack = req.RackID
	}
	if req.RebalanceTimeoutMillis != -1 {
		meta.rebalanceTimeoutMs = req.RebalanceTimeoutMillis
	}
	if req.ServerAssignor != nil {
		meta.assignor = req.ServerAssignor
	}
	if req.SubscribedTopicNames != nil {
		meta.topics = sortedSet(slices.Clone(req.SubscribedTopicNames))
	}
	if req.SubscribedTopicRegex != nil {
		meta.pattern = *req.SubscribedTopicRegex
	}
	if why := d.advance(before, &meta, owned); why != nil {
		return nil, why
	}

	after := d.c.members.get(id)
	settings := s.meta.settings(req.Group)
	d.atEnd(func() { s.watchMember(req.Group, after, settings.SessionTimeoutMs) })
	resp := kmsg.NewPtrConsumerGroupHeartbeatResponse()
	resp.MemberID, resp.MemberEpoch, resp.HeartbeatIntervalMillis = &id, after.epoch, settings.HeartbeatIntervalMs
	whole := req.RebalanceTimeoutMillis != -1 && (req.SubscribedTopicNames != nil || req.SubscribedTopicRegex != nil) && req.Topics != nil
	if joins || whole || !after.assigned.equal(before.assigned) {
		resp.Assignment = &kmsg.ConsumerGroupHeartbeatResponseAssignment{Topics: make([]kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic, len(after.assigned))}
		for i, x := range after.assigned {
			resp.Assignment.Topics[i] = kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic{TopicID: x.topic, Partitions: x.parts}
		}
	}
	return resp, nil
}

// consumerDraft finds the consumer group of a request; who joins makes one, of a classic group too if that can be.
func (s *Shard) consumerDraft(id string, joins bool) (*draft, *refusal) {
	g := s.groups[id]
	switch {
	case g != nil && g.consumer != nil:
		return s.draftOf(g), nil
	case !joins && g == nil:
		return nil, &refusal{wire.GroupIDNotFound, fmt.Sprintf("Consumer group %s not found.", id)}
	case !joins:
		return nil, &refusal{wire.GroupIDNotFound, fmt.Sprintf("Group %s is not a consumer group.", id)}
	case g == nil:
		g = &group{id: id} // becomes one of the shard's when its records are replayed
	}
	if c := g.classic; c != nil {
		return s.upgrade(g)
	}
	return s.draftOf(g), nil
}

// room refuses a newcomer to a full group.
func (d *draft) room(id string) *refusal {
	if most := d.s.cfg.ConsumerMaxSize; d.c.members.len() >= most && d.c.members.get(id) == nil {
		return &refusal{wire.GroupMaxSizeReached, fmt.Sprintf("The consumer group has reached its maximum capacity of %d members.", most)}
	}
	return nil
}

// uuid is a random id as Kafka prints them.
func (s *Shard) uuid() string {
	var b [16]byte
	s.random(b[:])
	b[0] &= 0x7f // no leading dash: it would look like an option
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// subscriber finds the member of a heartbeat, or makes it, and checks that it is the one that it says. A static member that
// comes back takes the place of the one that left.
func (d *draft) subscriber(id string, req *kmsg.ConsumerGroupHeartbeatRequest, owned ownership) (*consumerMember, *refusal) {
	joins := req.MemberEpoch == epochJoins
	if req.InstanceID == nil {
		m := d.c.members.get(id)
		if m == nil && !joins {
			return nil, unknownMember(id, d.g.id)
		}
		if m == nil {
			return blankMember(id), nil
		}
		return m, epochFits(m, req.MemberEpoch, owned)
	}
	m := d.c.byInstance(*req.InstanceID)
	switch {
	case joins && m == nil:
		if m = d.c.members.get(id); m == nil {
			m = blankMember(id)
		}
		return m, nil
	case joins:
		if m.classic == nil && m.epoch != epochLeavesSoon { // protection: a static member's place is taken until it leaves
			return nil, &refusal{wire.UnreleasedInstanceID, fmt.Sprintf("Static member %s with instance id %s cannot join the group because the instance id is owned by %s member.", id, *req.InstanceID, m.id)}
		}
		return d.replaceMember(m, id), nil
	case m == nil:
		return nil, unknownInstance(*req.InstanceID)
	case m.id != id:
		return nil, fencedInstance(id, *req.InstanceID, m.id)
	}
	return m, epochFits(m, req.MemberEpoch, owned)
}

func unknownMember(id, group string) *refusal {
	return &refusal{wire.UnknownMemberID, fmt.Sprintf("Member %s is not a member of group %s.", id, group)}
}

func unknownInstance(instanceID string) *refusal {
	return &refusal{wire.UnknownMemberID, fmt.Sprintf("Instance id %s is unknown.", instanceID)}
}

func fencedInstance(id, instanceID, by string) *refusal {
	return &refusal{wire.FencedInstanceID, fmt.Sprintf("Static member %s with instance id %s was fenced by member %s.", id, instanceID, by)}
}

// epochFits checks the epoch of a heartbeat. The one before is right too if the member has not seen its present one, which
// shows in what it has.
func epochFits(m *consumerMember, epoch int32, owned ownership) *refusal {
	switch {
	case epoch == epochJoins, epoch == m.epoch:
		return nil
	case epoch > m.epoch: // protection: epochs of heartbeats
		return fenced(fmt.Sprintf("The consumer group member has a greater member epoch (%d) than the one known by the group coordinator (%d). The member must abandon all its partitions and rejoin.", epoch, m.epoch))
	case epoch == m.previous && owned.within(m.assigned):
		return nil
	}
	return fenced(fmt.Sprintf("The consumer group member has a smaller member epoch (%d) than the one known by the group coordinator (%d). The member must abandon all its partitions and rejoin.", epoch, m.epoch))
}

// replaceMember gives the place of the static member old, and what it had, to id.
func (d *draft) replaceMember(old *consumerMember, id string) *consumerMember {
	target := d.c.targets.get(old.id)
	d.dropMember(old.id)
	cur := old.current
	cur.epoch, cur.previous = 0, 0
	meta := old.memberMeta
	d.putMeta(id, &meta)
	d.putTarget(id, target)
	d.putCurrent(id, &cur)
	d.atEnd(func() { d.s.unwatch(d.g.id, old.id) })
	d.noteMember(Event{Kind: Restarted, Before: cut(old.id)}, id)
	return d.c.members.get(id)
}

// advance brings a member's own words up to date, then the group, and then moves the member towards its target. It is one
// write.
func (d *draft) advance(before *consumerMember, meta *memberMeta, owned ownership) *refusal {
	s := d.s
	if !before.hasMeta || !before.memberMeta.equal(meta) {
		d.putMeta(before.id, meta)
	}
	changed, why := d.updatePattern(before.pattern, meta.pattern)
	if why != nil {
		return why
	}
	changed = changed || !slices.Equal(before.topics, meta.topics)
	switch {
	case !before.hasMeta:
		d.noteMember(Event{Kind: Joined}, before.id)
	case changed:
		d.noteMember(Event{Kind: Rejoined, Why: NewSubscription}, before.id)
	}
	renewed := d.refreshPatterns()
	d.updateEpoch(changed || renewed)
	if d.c.target().epoch < d.c.epoch() && d.mayRetarget() {
		d.retarget()
	}
	// A member without a target has none of this epoch; that of the last is empty.
	if why := d.reconcile(before.id, d.c.targets.get(before.id), owned, changed || renewed); why != nil {
		return why
	}
	if g := d.g; g.consumer != nil && d.c.hash() == g.consumer.hash() {
		checked := s.meta
		d.atEnd(func() { g.consumer.checked = checked })
	}
	return nil
}

func (m *memberMeta) equal(o *memberMeta) bool {
	same := func(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }
	classic := m.classic == o.classic || m.classic != nil && o.classic != nil && m.classic.sessionTimeoutMs == o.classic.sessionTimeoutMs &&
		slices.EqualFunc(m.classic.protocols, o.classic.protocols, func(a, b protocol) bool { return a.name == b.name && string(a.metadata) == string(b.metadata) })
	return classic && same(m.instanceID, o.instanceID) && same(m.rack, o.rack) && m.clientID == o.clientID && m.clientHost == o.clientHost &&
		slices.Equal(m.topics, o.topics) && m.pattern == o.pattern && m.rebalanceTimeoutMs == o.rebalanceTimeoutMs && same(m.assignor, o.assignor)
}

// updateEpoch begins a new epoch of the group if bump says so, or if the topics that it is subscribed to are not what they
// were.
func (d *draft) updateEpoch(bump bool) {
	if !bump && d.c.checked == d.s.meta {
		return
	}
	hash := d.s.meta.hash(d.c.topics())
	if bump || hash != d.c.hash() {
		d.putGroup(groupEpoch{epoch: d.c.epoch() + 1, hash: hash})
		if !bump {
			d.s.note(d.g.id, Event{Kind: Topics, ifWritten: true})
		}
		d.s.noteBegan(d.g.id, 0, true)
	}
	d.dropTopicRecord()
}

// mayRetarget spaces out the target assignments of a group, so that members which come one after the other cause one
// and not many (KIP-1263). A single member waits for nobody.
func (d *draft) mayRetarget() bool {
	made, now := d.c.target().madeMs, d.s.now.WallMs
	interval := d.s.meta.settings(d.g.id).AssignmentIntervalMs
	return made == 0 || d.c.members.len() <= 1 || now < made || now-made >= interval
}

// consumerLeave ends a membership, or interrupts it: a static member may say that it will be back.
func (s *Shard) consumerLeave(req *kmsg.ConsumerGroupHeartbeatRequest) (*kmsg.ConsumerGroupHeartbeatResponse, *refusal) {
	d, why := s.consumerDraft(req.Group, false)
	if why != nil {
		return nil, why
	}
	m := d.c.members.get(req.MemberID)
	if req.InstanceID != nil {
		if m = d.c.byInstance(*req.InstanceID); m == nil {
			return nil, unknownInstance(*req.InstanceID)
		}
		if m.id != req.MemberID {
			return nil, fencedInstance(req.MemberID, *req.InstanceID, m.id)
		}
	} else if m == nil {
		return nil, unknownMember(req.MemberID, req.Group)
	}
	resp := kmsg.NewPtrConsumerGroupHeartbeatResponse()
	resp.MemberID, resp.MemberEpoch = &req.MemberID, req.MemberEpoch
	if req.MemberEpoch == epochLeavesSoon {
		if req.InstanceID == nil {
			return nil, unknownMember(req.MemberID, req.Group)
		}
		cur := m.current
		d.noteMember(Event{Kind: Away}, m.id)
		cur.epoch, cur.revoking, cur.assigned = epochLeavesSoon, nil, m.assigned.withEpoch(0)
		d.putCurrent(m.id, &cur)
		return resp, nil
	}
	d.noteMember(Event{Kind: Left}, m.id)
	d.fence(m.id)
	return resp, nil
}

// fence ends memberships. When the last member has left that speaks the consumer protocol the group becomes a classic one.
func (d *draft) fence(ids ...string) {
	if len(ids) == 0 {
		return
	}
	if d.mayDowngrade(ids, false) {
		d.downgrade(ids, true)
		return
	}
	for _, id := range ids {
		pattern := d.c.members.get(id).pattern
		d.dropMember(id)
		if pattern != "" && d.c.users(pattern) == 0 {
			d.dropPattern(pattern)
		}
		d.atEnd(func() { d.s.unwatch(d.g.id, id) })
	}
	d.putGroup(groupEpoch{epoch: d.c.epoch() + 1, hash: d.s.meta.hash(d.c.topics())}) // protection: who leaves begins an epoch
	d.s.noteBegan(d.g.id, 0, true)
	if d.c.members.len() == 0 { // protection: an empty group has nothing to assign
		// Kafka lets the two epochs differ.
		d.putTargetEpoch(targetEpoch{epoch: d.c.epoch(), madeMs: d.s.now.WallMs})
	}
}
