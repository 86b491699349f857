package group

import (
	"maps"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

const (
	joinNeedsMemberID = 4 // from this version on a member is told its id before it joins (KIP-394)
	joinCanSkip       = 9 // from this version on a leader can be told not to assign (KIP-814)
)

// joiner is a JoinGroup that was found in order.
type joiner struct {
	ticket    shard.Ticket
	client    Client
	req       *kmsg.JoinGroupRequest
	protocols []protocol
}

func (j *joiner) name() MemberName {
	return memberName(j.req.MemberID, j.req.InstanceID, j.client.ID, j.client.Host)
}

// replacement is what becomes of a static member when the record of its new id is replayed.
type replacement struct {
	id        string
	protocols []protocol
}

func joinError(memberID string, code wire.Code) *kmsg.JoinGroupResponse {
	r := kmsg.NewPtrJoinGroupResponse()
	r.MemberID, r.ErrorCode = memberID, int16(code)
	return r
}

// JoinGroup is answered by a *kmsg.JoinGroupResponse, once the join phase completes.
func (s *Shard) JoinGroup(now shard.Time, t shard.Ticket, c Client, req *kmsg.JoinGroupRequest) shard.Effects {
	s.begin(now)
	s.mayDescribe = c.MayDescribe
	if code := s.checkJoin(req); code != wire.None {
		r := joinError(req.MemberID, code)
		r.Version = req.Version
		s.replyEarly(t, r)
		return s.end()
	}
	g := s.groups[req.Group]
	if g != nil && !g.isEmpty() && g.consumer != nil {
		resp, why := s.joinConsumer(g, &joiner{t, c, req, requestProtocols(req)})
		if why != nil {
			s.abandon()
			s.noteRefused(req.Group, req.MemberID, req.InstanceID, why)
			resp = joinError(req.MemberID, why.code)
		}
		resp.Version = req.Version
		s.finish()
		s.reply(t, resp)
		return s.end()
	}
	if (g == nil || g.consumer != nil) && req.MemberID != "" {
		s.refuseJoin(t, req, req.MemberID, wire.UnknownMemberID)
		return s.end()
	}
	if g == nil {
		g = s.groupOrNew(req.Group)
	}
	if g.consumer != nil {
		s.forgetEmptyConsumer(g)
	}
	if g.classic == nil {
		g.classic = newClassic(g)
	}
	s.join(g.classic, &joiner{t, c, req, requestProtocols(req)})
	s.tidy(g)
	return s.end()
}

// forgetEmptyConsumer makes room for a classic group where there is a consumer group without members.
func (s *Shard) forgetEmptyConsumer(g *group) {
	s.draftOf(g).dropGroup()
	s.assumed = append(s.assumed, func() {
		c := g.classic
		if c == nil {
			return
		}
		for _, m := range slices.Concat(c.order, slices.Collect(maps.Values(c.pending))) {
			s.remove(c, m, CodeFor(s.failure))
		}
		s.dropClassic(g)
	})
}

func (s *Shard) refuseJoin(t shard.Ticket, req *kmsg.JoinGroupRequest, memberID string, code wire.Code) {
	r := joinError(memberID, code)
	r.Version = req.Version
	s.reply(t, r)
}

// checkJoin is what can be said without looking at the group.
func (s *Shard) checkJoin(req *kmsg.JoinGroupRequest) wire.Code {
	if req.Group == "" || len(req.Group) > maxText {
		return wire.InvalidGroupID
	}
	if ms := int64(req.SessionTimeoutMillis); ms < s.cfg.MinSessionTimeoutMs || ms > s.cfg.MaxSessionTimeoutMs {
		return wire.InvalidSessionTimeout
	}
	long := len(req.ProtocolType) > maxText || req.InstanceID != nil && len(*req.InstanceID) > maxText
	for i := range req.Protocols {
		long = long || len(req.Protocols[i].Name) > maxText
	}
	if long {
		return wire.InvalidRequest
	}
	return wire.None
}

func (s *Shard) join(c *classic, j *joiner) {
	m := c.byID[j.req.MemberID]
	place := m // where it is to sit
	if m == nil {
		place = c.byInstance(j.req.InstanceID) // Kafka has no room for a static member that comes back to a full group
	}
	switch {
	case !s.accepts(c, place):
		if m == nil {
			m = c.pending[j.req.MemberID]
		}
		if m != nil {
			s.remove(c, m, wire.GroupMaxSizeReached)
			s.note(c.group.id, Event{Kind: Removed, Member: m.name(), Why: GroupFull})
		} else {
			s.note(c.group.id, Event{Kind: Refused, Member: j.name(), Why: GroupFull})
		}
		s.refuseJoin(j.ticket, j.req, "", wire.GroupMaxSizeReached)
		s.completeIfAllJoined(c)
	case !c.supports(j.req.ProtocolType, j.protocols):
		s.note(c.group.id, Event{Kind: Refused, Member: j.name(), Why: OtherProtocol})
		s.refuseJoin(j.ticket, j.req, j.req.MemberID, wire.InconsistentGroupProtocol)
	case j.req.MemberID == "":
		s.joinNew(c, j)
	default:
		s.joinKnown(c, j)
	}
}

// accepts reports whether the group has room for m, which is nil for a newcomer. In Preparing those count that are
// there already: so the last to rejoin are left out when the limit was lowered.
func (s *Shard) accepts(c *classic, m *member) bool {
	switch c.state {
	case preparingRebalance:
		return m != nil && m.join != 0 || c.awaiting < s.cfg.MaxSize
	case completingRebalance, stable:
		return m != nil || len(c.order) < s.cfg.MaxSize
	}
	return true
}

func (s *Shard) joinNew(c *classic, j *joiner) {
	id := s.memberID(j.client, j.req.InstanceID)
	if j.req.InstanceID != nil {
		if m := c.byInstance(j.req.InstanceID); m != nil {
			s.joinReplacing(c, m, id, j)
			return
		}
		s.joinAdd(c, id, j)
		return
	}
	if j.req.Version < joinNeedsMemberID {
		s.joinAdd(c, id, j)
		return
	}
	m := &member{id: id, isPending: true, sessionTimeoutMs: j.req.SessionTimeoutMillis}
	if c.pending == nil {
		c.pending = map[string]*member{}
	}
	c.pending[id] = m
	s.touch(c, m)
	r := joinError(id, wire.MemberIDRequired)
	r.Version = j.req.Version
	s.replyEarly(j.ticket, r)
}

func (s *Shard) joinKnown(c *classic, j *joiner) {
	id := j.req.MemberID
	if p := c.pending[id]; p != nil {
		if j.req.InstanceID != nil { // static members are never pending
			s.refuseJoin(j.ticket, j.req, id, wire.UnknownMemberID)
			return
		}
		s.remove(c, p, wire.None)
		s.joinAdd(c, id, j)
		return
	}
	m, code := c.validate(id, j.req.InstanceID)
	if code != wire.None {
		s.noteFenced(c.group.id, id, j.req.InstanceID, code)
		s.refuseJoin(j.ticket, j.req, id, code)
		return
	}
	// A leader may rejoin because something changed that only it can see. A follower that did not change has lost an
	// answer.
	rejoins := !m.matches(j.protocols) || c.state == stable && c.leader == id
	if c.state != preparingRebalance && !rejoins {
		r := s.joined(c, m, c.leader == id && c.state == completingRebalance)
		r.Version = j.req.Version
		s.reply(j.ticket, r)
		return
	}
	if c.state != preparingRebalance {
		why := LeaderAsked
		if !m.matches(j.protocols) {
			why = NewSubscription
		}
		s.note(c.group.id, Event{Kind: Rejoined, Member: m.name(), Why: why, Said: said(j.req.Reason)})
	}
	s.joinUpdate(c, m, j)
	s.rebalance(c)
}

// joinAdd makes a newcomer a member.
func (s *Shard) joinAdd(c *classic, id string, j *joiner) {
	m := &member{id: id, instanceID: j.req.InstanceID, clientID: j.client.ID, host: j.client.Host, isNew: true}
	m.protocols = j.protocols
	m.setTimeouts(j.req)
	if c.state == preparingRebalance && c.wasEmpty {
		c.newMember = true
	}
	c.add(m, j.req.ProtocolType)
	s.note(c.group.id, Event{Kind: Joined, Member: m.name(), Said: said(j.req.Reason)})
	s.park(c, m, j)
	s.timers.set(c, m, s.now.MonoMs+newMemberTimeoutMs)
	s.rebalance(c)
}

func (m *member) setTimeouts(req *kmsg.JoinGroupRequest) {
	m.sessionTimeoutMs, m.rebalanceTimeoutMs = req.SessionTimeoutMillis, req.RebalanceTimeoutMillis
	if req.Version < 1 {
		m.rebalanceTimeoutMs = req.SessionTimeoutMillis
	}
	m.rebalanceTimeoutMs = max(m.rebalanceTimeoutMs, 0)
}

// joinUpdate lets a member wait for the next generation.
func (s *Shard) joinUpdate(c *classic, m *member, j *joiner) {
	c.count(m, -1)
	m.protocols = j.protocols
	c.count(m, 1)
	m.setTimeouts(j.req)
	s.park(c, m, j)
}

// park lets j wait. A request that waited before comes from a connection that was given up; Kafka never answers it.
func (s *Shard) park(c *classic, m *member, j *joiner) {
	s.answerJoin(c, m, joinError(m.id, wire.RebalanceInProgress))
	m.join, m.joinVersion = j.ticket, j.req.Version
	c.awaiting++
	if !m.isNew && c.state == preparingRebalance {
		s.noteCame(c.group.id, m.name(), toJoinAgain, false)
	}
}

// joinReplacing gives the place of the static member m to the client that now has its instance id. While
// the group is stable and goes on with the same protocol nobody else notices.
func (s *Shard) joinReplacing(c *classic, m *member, id string, j *joiner) {
	s.answerJoin(c, m, joinError(m.id, wire.FencedInstanceID))
	s.answerSync(m, syncError(wire.FencedInstanceID))
	if c.state == stable && s.votesSame(c, m, j.protocols) {
		s.replaceQuietly(c, m, id, j)
		return
	}
	before := m.id
	s.rename(c, m, id)
	m.isNew = false
	m.clientID, m.host = j.client.ID, j.client.Host // Kafka goes on to show those of the old one
	s.note(c.group.id, Event{Kind: Restarted, Member: m.name(), Before: cut(before), Said: said(j.req.Reason)})
	s.joinUpdate(c, m, j)
	s.touch(c, m)
	s.rebalance(c)
}

// votesSame reports whether the group would keep its protocol if m had these.
func (s *Shard) votesSame(c *classic, m *member, ps []protocol) bool {
	old := m.protocols
	swap := func(to []protocol) {
		c.count(m, -1)
		m.protocols = to
		c.count(m, 1)
	}
	swap(ps)
	same := c.vote() == c.protocol
	swap(old)
	return same
}

func (s *Shard) replaceQuietly(c *classic, m *member, id string, j *joiner) {
	r := c.record(c.stateSinceMs)
	mr := &r.members[slices.Index(c.order, m)]
	x := member{protocols: j.protocols}
	x.setTimeouts(j.req)
	mr.id, mr.clientID, mr.clientHost = id, j.client.ID, j.client.Host
	mr.rebalanceTimeoutMs, mr.sessionTimeoutMs = x.rebalanceTimeoutMs, x.sessionTimeoutMs
	mr.subscription, _ = x.metadata(c.protocol)
	leads := c.leader == m.id
	if leads {
		r.leader = id
	}
	s.replace = append(s.replace, replacement{id, j.protocols})
	s.note(c.group.id, Event{Kind: Restarted, Member: memberName(id, m.instanceID, j.client.ID, j.client.Host), Before: cut(m.id), Why: Quietly, Said: said(j.req.Reason), ifWritten: true})
	s.write(shard.Record{Key: groupKey(c.group.id), Value: r.encode()})
	s.timers.set(c, m, s.now.MonoMs+int64(x.sessionTimeoutMs))

	resp := kmsg.NewPtrJoinGroupResponse()
	resp.Version, resp.MemberID, resp.Generation = j.req.Version, id, c.generation
	resp.ProtocolType, resp.Protocol = &r.protocolType, &r.protocol
	resp.LeaderID = c.leader // the old id: an older client that found itself the leader would assign anew
	if j.req.Version >= joinCanSkip {
		resp.LeaderID, resp.SkipAssignment = r.leader, leads
		if leads {
			for i := range r.members {
				resp.Members = append(resp.Members, kmsg.JoinGroupResponseMember{MemberID: r.members[i].id, InstanceID: r.members[i].instanceID, ProtocolMetadata: r.members[i].subscription})
			}
		}
	}
	s.reply(j.ticket, resp)
}

// joined tells m about the generation; with members it is to assign.
func (s *Shard) joined(c *classic, m *member, members bool) *kmsg.JoinGroupResponse {
	r := kmsg.NewPtrJoinGroupResponse()
	r.MemberID, r.Generation, r.LeaderID = m.id, c.generation, c.leader
	protocolType, protocol := c.protocolType, c.protocol
	r.ProtocolType, r.Protocol = &protocolType, &protocol
	if members {
		r.Members = make([]kmsg.JoinGroupResponseMember, len(c.order))
		for i, o := range c.order {
			b, _ := o.metadata(c.protocol)
			r.Members[i] = kmsg.JoinGroupResponseMember{MemberID: o.id, InstanceID: o.instanceID, ProtocolMetadata: b}
		}
	}
	return r
}

func (s *Shard) answerJoin(c *classic, m *member, r *kmsg.JoinGroupResponse) {
	if m.join != 0 {
		r.Version = m.joinVersion
		s.reply(m.join, r)
		m.join = 0
		c.awaiting--
	}
}

// rebalance begins a rebalance, or goes on with the one there is.
func (s *Shard) rebalance(c *classic) {
	if c.state == preparingRebalance {
		s.completeIfAllJoined(c)
	} else {
		s.prepare(c)
	}
}

// prepare begins a rebalance: all members have to rejoin.
func (s *Shard) prepare(c *classic) {
	if c.state == completingRebalance {
		s.take(note{group: c.group.id, Event: Event{Kind: noteInterrupted}, epoch: c.generation, members: len(c.order)})
		for _, m := range c.order {
			m.assignment = nil
			if m.sync != 0 {
				s.answerSync(m, syncError(wire.RebalanceInProgress))
				s.touch(c, m)
			}
		}
	}
	for _, m := range c.order {
		m.isUnsynced = false
	}
	c.unsynced = 0
	s.endPhase(c)
	c.wasEmpty, c.newMember = c.state == empty, false
	c.state = preparingRebalance
	delayMs, timeoutMs := s.cfg.InitialRebalanceDelayMs, c.rebalanceTimeoutMs()
	if !c.wasEmpty {
		delayMs = 0
	}
	s.noteBegan(c.group.id, delayMs, false)
	switch {
	case delayMs > 0:
		c.remainingMs = max(timeoutMs-delayMs, 0)
		s.beginPhase(c, initialDelay, s.now.MonoMs+delayMs)
	case c.wasEmpty || c.allJoined():
		s.completeJoin(c)
	default:
		s.beginPhase(c, joining, s.now.MonoMs+timeoutMs)
	}
}

func (s *Shard) completeIfAllJoined(c *classic) {
	if c.state == preparingRebalance && !c.wasEmpty && c.allJoined() {
		s.completeJoin(c)
	}
}

// completeJoin begins a generation with those that have joined. Static members that have not are part of it
// as long as their session lasts.
func (s *Shard) completeJoin(c *classic) {
	s.endPhase(c)
	for _, m := range slices.Clone(c.order) {
		if m.join == 0 && m.instanceID == nil {
			s.note(c.group.id, Event{Kind: Removed, Member: m.name(), Why: RebalanceTimeout, LimitMs: c.rebalanceTimeoutMs()})
			s.remove(c, m, wire.UnknownMemberID)
		}
	}
	if len(c.order) == 0 {
		s.recordEmpty(c)
		return
	}
	if c.byID[c.leader].join == 0 {
		i := slices.IndexFunc(c.order, func(m *member) bool { return m.join != 0 })
		if i < 0 {
			s.beginPhase(c, joining, s.now.MonoMs+max(c.rebalanceTimeoutMs(), retryMs))
			return
		}
		c.leader = c.order[i].id
	}
	c.generation++ // protection: a generation has one assignment
	c.protocol = c.vote()
	c.state = completingRebalance
	c.topicsRead = false
	s.take(note{group: c.group.id, Event: Event{Kind: noteAllJoined}})
	for _, m := range c.order {
		s.answerJoin(c, m, s.joined(c, m, m.id == c.leader))
		s.touch(c, m)
		m.isNew = false
		m.isUnsynced = true
	}
	c.unsynced = len(c.order)
	s.beginPhase(c, syncing, s.now.MonoMs+c.rebalanceTimeoutMs())
}

// recordEmpty ends the last generation, as no member is left.
func (s *Shard) recordEmpty(c *classic) {
	s.take(note{group: c.group.id, Event: Event{Kind: noteDone}, epoch: c.generation})
	if !c.logged && len(c.group.offsets) == 0 { // protection: an empty group is recorded
		c.state = empty
		return
	}
	// Without the record the group stays in Preparing, and tries again.
	s.beginPhase(c, joining, s.now.MonoMs+retryMs)
	r := groupRecord{protocolType: c.protocolType, generation: c.generation + 1, stateSinceMs: s.now.WallMs}
	s.write(shard.Record{Key: groupKey(c.group.id), Value: r.encode()})
}

// expireSession ends the membership of who was not heard of.
func (s *Shard) expireSession(c *classic, m *member) {
	if !m.isPending && !m.isNew && (m.join != 0 || m.sync != 0) {
		return // who waits is there; its session begins anew with the answer
	}
	if why := SessionTimeout; !m.isPending {
		limitMs := int64(m.sessionTimeoutMs)
		if m.isNew {
			why, limitMs = JoinTimeout, newMemberTimeoutMs
		}
		s.note(c.group.id, Event{Kind: Removed, Member: m.name(), Why: why, LimitMs: limitMs})
	}
	s.remove(c, m, wire.UnknownMemberID)
	switch {
	case c.state == preparingRebalance:
		if c.allJoined() {
			s.completeJoin(c)
		}
	case !m.isPending && c.state != empty:
		s.prepare(c)
	}
	s.tidy(c.group)
}

// expirePhase ends what the group waited for.
func (s *Shard) expirePhase(c *classic) {
	p := c.phase
	c.phase = noPhase
	switch p {
	case initialDelay:
		if c.newMember && c.remainingMs > 0 {
			c.newMember = false
			delayMs := min(s.cfg.InitialRebalanceDelayMs, c.remainingMs)
			c.remainingMs -= delayMs
			s.beginPhase(c, initialDelay, s.now.MonoMs+delayMs)
			return
		}
		s.completeJoin(c)
	case joining:
		s.completeJoin(c)
	case syncing:
		for _, m := range slices.Clone(c.order) {
			if m.isUnsynced {
				s.note(c.group.id, Event{Kind: Removed, Member: m.name(), Why: SyncTimeout, LimitMs: c.rebalanceTimeoutMs()})
				s.remove(c, m, wire.UnknownMemberID)
			}
		}
		s.prepare(c)
	}
	s.tidy(c.group)
}
