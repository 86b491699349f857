package group

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

// Groups change their kind while they have members. A classic group becomes a consumer group when the first member joins that
// speaks the consumer protocol, and a classic one again when the last has left. In between, the members that
// speak the classic protocol are members of the consumer group; their generation is their member epoch.

// converted is a group that became a classic one by the event before.
type converted struct {
	group      string
	rebalances bool // its members' assignments are not what they are to be
}

func upgradeRefused(format string, args ...any) (*draft, *refusal) {
	return nil, &refusal{wire.GroupIDNotFound, fmt.Sprintf(format, args...)}
}

// upgrade makes a consumer group of the classic group g. One without members loses what it was; the members of another become
// members of the consumer group, with the assignments that they have.
func (s *Shard) upgrade(g *group) (*draft, *refusal) {
	c := g.classic
	if len(c.order) == 0 {
		d := s.draftOf(g)
		s.write(shard.Record{Key: groupKey(g.id)})
		return d, nil
	}
	switch {
	case !s.cfg.Upgrade:
		return upgradeRefused("Cannot upgrade classic group %s to consumer group because online upgrade is disabled.", g.id)
	case c.protocolType != consumerType:
		return upgradeRefused("Cannot upgrade classic group %s to consumer group because the group does not use the consumer embedded protocol.", g.id)
	case len(c.order) > s.cfg.ConsumerMaxSize:
		return upgradeRefused("Cannot upgrade classic group %s to consumer group because the group size exceeds the consumer group maximum size.", g.id)
	}
	name := c.protocol
	if name == "" {
		name = c.vote()
	}
	all := make([]upgraded, len(c.order))
	for i, m := range c.order {
		b, _ := m.metadata(name)
		sub, ok := parseSubscription(b)
		has, rest, fine := parseAssignment(m.assignment)
		if !ok || !fine {
			return upgradeRefused("Cannot upgrade classic group %s to consumer group because the embedded consumer protocol is malformed.", g.id)
		}
		if rest {
			return upgradeRefused("Cannot upgrade classic group %s to consumer group because an unsupported custom assignor is in use. Please refer to the documentation or switch to a default assignor before re-attempting the upgrade.", g.id)
		}
		all[i] = upgraded{m, sub.meta(), s.sharesOf(has), s.sharesOf(sub.owned)}
		meta := &all[i].meta
		meta.instanceID, meta.clientID, meta.clientHost, meta.rebalanceTimeoutMs = m.instanceID, m.clientID, m.host, m.rebalanceTimeoutMs
		meta.classic = &classicPart{m.sessionTimeoutMs, m.protocols}
	}
	claims(all) // protection: who goes on with what it had has it
	slices.SortFunc(all, func(a, b upgraded) int { return strings.Compare(a.m.id, b.m.id) })
	s.write(shard.Record{Key: groupKey(g.id)})
	d := s.draftOf(g)
	for i := range all {
		d.putMeta(all[i].m.id, &all[i].meta)
	}
	d.putGroup(groupEpoch{epoch: c.generation, hash: s.meta.hash(d.c.topics())})
	for i := range all {
		d.putTarget(all[i].m.id, all[i].assigned)
	}
	d.putTargetEpoch(targetEpoch{epoch: c.generation})
	for i := range all {
		d.putCurrent(all[i].m.id, &current{epoch: c.generation, previous: c.generation, assigned: all[i].assigned.withEpoch(c.generation)})
	}
	s.take(note{group: g.id, Event: Event{Kind: noteInterrupted, ifWritten: true}, epoch: c.generation, members: len(c.order)})
	s.note(g.id, Event{Kind: Upgraded, ifWritten: true})
	d.atEnd(func() {
		for _, m := range c.order {
			s.answerJoin(c, m, joinError(m.id, wire.RebalanceInProgress))
			s.answerSync(m, syncError(wire.RebalanceInProgress))
			s.duty(g.id, m.id, toLive, int64(m.sessionTimeoutMs))
		}
	})
	return d, nil
}

// upgraded is a member of a classic group on its way into a consumer group.
type upgraded struct {
	m               *member
	meta            memberMeta
	assigned, owned shares
}

// claims lets members have what they said that they have when they last joined, if nobody was assigned it: in the middle of
// a rebalance assignments are forgotten, but cooperative members go on with what they had.
func claims(all []upgraded) {
	taken := map[topicPartition]bool{}
	for i := range all {
		for _, x := range all[i].assigned {
			for _, p := range x.parts {
				taken[topicPartition{x.topic, p}] = true
			}
		}
	}
	for i := range all {
		var more []topicPartition
		for _, x := range all[i].owned {
			for _, p := range x.parts {
				if tp := (topicPartition{x.topic, p}); !taken[tp] { // protection: of two that claim a partition one has it
					taken[tp] = true
					more = append(more, tp)
				}
			}
		}
		all[i].assigned = all[i].assigned.withPartitions(more)
	}
}

// mayDowngrade reports whether the consumer group becomes a classic one when these members leave, or if
// replaced, when the static member among them comes back with the classic protocol.
func (d *draft) mayDowngrade(ids []string, replaced bool) bool {
	left, classics := d.c.members.len(), d.c.classicMembers()
	for _, id := range ids {
		left--
		if d.c.members.get(id).classic != nil {
			classics--
		}
	}
	if replaced {
		left++
		classics++
	}
	return left > 0 && classics == left && d.s.cfg.Downgrade && left <= d.s.cfg.MaxSize
}

// downgrade makes a classic group of the consumer group, without the members given.
func (d *draft) downgrade(without []string, rebalances bool) {
	s, c := d.s, d.c
	r := groupRecord{protocolType: consumerType, generation: c.epoch(), stateSinceMs: s.now.WallMs}
	as := newClassic(d.g) // to find the protocol
	var members []*consumerMember
	for _, id := range c.order() {
		if m := c.members.get(id); !slices.Contains(without, id) {
			members = append(members, m)
			as.add(&member{id: id, protocols: m.classic.protocols}, consumerType)
		}
	}
	r.protocol = as.vote()
	for i, m := range members {
		subscription, _ := as.order[i].metadata(r.protocol)
		r.members = append(r.members, memberRecord{id: m.id, instanceID: m.instanceID, clientID: m.clientID, clientHost: m.clientHost,
			rebalanceTimeoutMs: m.rebalanceTimeoutMs, sessionTimeoutMs: m.classic.sessionTimeoutMs, subscription: subscription,
			assignment: s.embedded(m.assigned.with(m.revoking), subscription)}) // protection: what it may have; Kafka writes its target, which others may have
		s.replace = append(s.replace, replacement{m.id, m.classic.protocols})
	}
	ids := slices.Clone(c.order())
	s.take(note{group: d.g.id, Event: Event{Kind: noteInterrupted, ifWritten: true}, epoch: c.epoch(), members: len(members)})
	s.note(d.g.id, Event{Kind: Downgraded, ifWritten: true})
	d.dropGroup()
	s.write(shard.Record{Key: groupKey(d.g.id), Value: r.encode()})
	d.atEnd(func() {
		for _, id := range ids {
			s.unwatch(d.g.id, id)
		}
		s.converted = append(s.converted, converted{d.g.id, rebalances})
	})
}

// settleConverted does for a group that has become a classic one what could not be done before its record was replayed.
func (s *Shard) settleConverted() {
	list := s.converted
	s.converted = nil
	for _, x := range list {
		g := s.groups[x.group]
		if g == nil || g.consumer != nil || g.classic == nil || g.classic.state != stable {
			continue // the record was not written
		}
		for _, m := range g.classic.order {
			if !m.armed {
				s.touch(g.classic, m)
			}
		}
		if x.rebalances {
			s.prepare(g.classic)
		}
	}
}

// joinConsumer is JoinGroup of a member that speaks the classic protocol, at a consumer group. It never waits: others
// are told to join again by their heartbeats.
func (s *Shard) joinConsumer(g *group, j *joiner) (*kmsg.JoinGroupResponse, *refusal) {
	req := j.req
	refuse := func(code wire.Code) (*kmsg.JoinGroupResponse, *refusal) { return nil, &refusal{code: code} }
	d := s.draftOf(g)
	id := req.MemberID
	switch {
	case !s.cfg.Upgrade && !s.cfg.Downgrade:
		return refuse(wire.InconsistentGroupProtocol)
	case d.room(id) != nil:
		return refuse(wire.GroupMaxSizeReached)
	case !d.c.supports(req.ProtocolType, j.protocols):
		return refuse(wire.InconsistentGroupProtocol)
	}
	if id == "" {
		id = s.uuid() // like Kafka, without the name of the client
		if req.InstanceID == nil && req.Version >= joinNeedsMemberID {
			return joinError(id, wire.MemberIDRequired), nil
		}
	}
	sub, ok := parseSubscription(j.protocols[0].metadata)
	if !ok {
		return refuse(wire.InconsistentGroupProtocol)
	}
	var before *consumerMember
	downgrades := false
	if req.InstanceID == nil {
		if before = d.c.members.get(id); before == nil {
			before = blankMember(id)
		}
	} else {
		m := d.c.byInstance(*req.InstanceID)
		if m != nil && m.classic == nil {
			downgrades = d.mayDowngrade([]string{m.id}, true)
		}
		switch {
		case m == nil && req.MemberID != "":
			return refuse(wire.UnknownMemberID)
		case m == nil:
			before = blankMember(id)
		case req.MemberID == "":
			before = d.replaceMember(m, id)
		case m.id != id:
			return refuse(wire.FencedInstanceID)
		default:
			before = m
		}
	}
	meta := before.memberMeta
	own := sub.meta()
	meta.clientID, meta.clientHost = j.client.ID, j.client.Host
	if req.InstanceID != nil {
		meta.instanceID = req.InstanceID
	}
	if own.rack != nil {
		meta.rack = own.rack
	}
	x := member{}
	x.setTimeouts(req)
	meta.rebalanceTimeoutMs = x.rebalanceTimeoutMs
	meta.topics, meta.pattern = own.topics, ""
	meta.classic = &classicPart{req.SessionTimeoutMillis, j.protocols}
	if why := d.advance(before, &meta, ownership{known: true, shares: s.sharesOf(sub.owned)}); why != nil {
		return nil, why
	}
	after := d.c.members.get(id)
	resp := kmsg.NewPtrJoinGroupResponse()
	protocolType, name := consumerType, meta.classic.protocols[0].name
	resp.MemberID, resp.Generation, resp.ProtocolType, resp.Protocol = id, after.epoch, &protocolType, &name
	if downgrades {
		d.downgrade(nil, !d.c.allSettled()) // protection: a classic group begins with a rebalance unless all have what is theirs. Kafka looks at the group's epochs only, and lets partitions have two owners for a while
		return resp, nil
	}
	d.atEnd(func() {
		s.watchMember(g.id, after, 0)
		s.done(g.id, id, toRejoin)
		s.duty(g.id, id, toSync, int64(meta.rebalanceTimeoutMs))
	})
	return resp, nil
}

// classicMember finds a member of a consumer group that speaks the classic protocol.
func (c *consumer) classicMember(id string, instanceID *string) (*consumerMember, wire.Code) {
	m := c.members.get(id)
	if instanceID != nil {
		if m = c.byInstance(*instanceID); m != nil && m.id != id {
			return nil, wire.FencedInstanceID
		}
	}
	if m == nil || m.classic == nil {
		return nil, wire.UnknownMemberID
	}
	return m, wire.None
}

// syncConsumer is SyncGroup at a consumer group: the member is told what it has.
func (s *Shard) syncConsumer(g *group, req *kmsg.SyncGroupRequest) *kmsg.SyncGroupResponse {
	c := g.consumer
	m, code := c.classicMember(req.MemberID, req.InstanceID)
	s.noteFenced(g.id, req.MemberID, req.InstanceID, code)
	switch {
	case code != wire.None:
		return syncError(code)
	case req.Generation != m.epoch: // protection: generation of SyncGroup at a consumer group
		return syncError(wire.IllegalGeneration)
	case req.ProtocolType != nil && *req.ProtocolType != consumerType, req.Protocol != nil && *req.Protocol != m.classic.protocols[0].name:
		return syncError(wire.InconsistentGroupProtocol)
	case c.target().epoch > m.epoch && m.state != unrevoked:
		s.askToRejoin(g, m)
		return syncError(wire.RebalanceInProgress)
	}
	s.done(g.id, m.id, toSync)
	s.watchMember(g.id, m, 0)
	r := kmsg.NewPtrSyncGroupResponse()
	r.ProtocolType, r.Protocol = req.ProtocolType, req.Protocol
	r.MemberAssignment = s.embedded(m.assigned, m.classic.protocols[0].metadata)
	return r
}

// askToRejoin gives a member until its rebalance timeout to join again.
func (s *Shard) askToRejoin(g *group, m *consumerMember) {
	if w := s.watches[watchKey{g.id, m.id}]; w == nil || !w.alarms[toRejoin].armed {
		s.duty(g.id, m.id, toRejoin, int64(m.rebalanceTimeoutMs))
	}
}

// heartbeatConsumer is Heartbeat at a consumer group: it tells members that something has changed for them.
func (s *Shard) heartbeatConsumer(g *group, req *kmsg.HeartbeatRequest) wire.Code {
	c := g.consumer
	m, code := c.classicMember(req.MemberID, req.InstanceID)
	s.noteFenced(g.id, req.MemberID, req.InstanceID, code)
	switch {
	case code != wire.None:
		return code
	case req.Generation != m.epoch:
		return wire.IllegalGeneration
	}
	s.watchMember(g.id, m, 0)
	if m.epoch < c.target().epoch || m.state == unrevoked || m.state == unreleased && !c.waits(m) {
		s.askToRejoin(g, m)
		return wire.RebalanceInProgress
	}
	return wire.None
}

// waits reports whether something that m is to have is still held by others.
func (c *consumer) waits(m *consumerMember) bool {
	target := c.targets.get(m.id)
	for i := range target {
		has := m.assigned.of(target[i].topic)
		for _, p := range target[i].parts {
			if !has.has(p) && c.holders.held(target[i].topic, p) {
				return true
			}
		}
	}
	return false
}

// leaveConsumer is LeaveGroup at a consumer group. It ends memberships of both kinds.
func (s *Shard) leaveConsumer(g *group, leaving []kmsg.LeaveGroupRequestMember) []kmsg.LeaveGroupResponseMember {
	d := s.draftOf(g)
	answers := make([]kmsg.LeaveGroupResponseMember, len(leaving))
	var ids []string
	for i, l := range leaving {
		code := wire.None
		m := d.c.members.get(l.MemberID)
		if l.InstanceID != nil {
			m = d.c.byInstance(*l.InstanceID)
		}
		switch {
		case m == nil:
			code = wire.UnknownMemberID
		case l.InstanceID != nil && l.MemberID != "" && m.id != l.MemberID:
			code = wire.FencedInstanceID
		case !slices.Contains(ids, m.id):
			ids = append(ids, m.id)
			e := leftEvent(m.name(), &leaving[i])
			e.ifWritten = true
			s.note(g.id, e)
		}
		answers[i] = kmsg.LeaveGroupResponseMember{MemberID: l.MemberID, InstanceID: l.InstanceID, ErrorCode: int16(code)}
	}
	d.fence(ids...)
	return answers
}

// embeddedSubscription is what a consumer of the classic protocol says when it joins.
type embeddedSubscription struct {
	topics []string
	owned  map[string][]int32
	rack   *string
}

func (e *embeddedSubscription) meta() memberMeta {
	return memberMeta{topics: sortedSet(slices.Clone(e.topics)), rack: e.rack}
}

// parseSubscription reads a consumer's subscription. Versions above those known begin with the same fields.
func parseSubscription(b []byte) (e embeddedSubscription, ok bool) {
	r := kbin.Reader{Src: b}
	version := r.Int16()
	if version < 0 {
		return e, false
	}
	for n := r.Int32(); n > 0 && r.Ok(); n-- {
		if t := readView(&r, false); r.Ok() {
			e.topics = append(e.topics, string(t))
		}
	}
	if n := r.Int32(); n > 0 { // user data of the assignor
		r.Span(int(n))
	}
	if version >= 1 {
		e.owned = readTopicPartitions(&r)
	}
	if version >= 2 {
		r.Int32() // the generation in which it had them
	}
	if version >= 3 {
		if e.rack = readNullable(&r, false); e.rack != nil && *e.rack == "" {
			e.rack = nil
		}
	}
	return e, r.Ok()
}

func readTopicPartitions(r *kbin.Reader) map[string][]int32 {
	out := map[string][]int32{}
	for n := r.Int32(); n > 0 && r.Ok(); n-- {
		topic := readView(r, false)
		var parts []int32
		for k := r.Int32(); k > 0 && r.Ok(); k-- {
			if p := r.Int32(); r.Ok() {
				parts = append(parts, p)
			}
		}
		if r.Ok() {
			out[string(topic)] = append(out[string(topic)], parts...)
		}
	}
	return out
}

// parseAssignment reads a consumer's assignment; nothing is an empty one. rest tells that the assignor put more into it.
func parseAssignment(b []byte) (has map[string][]int32, rest, ok bool) {
	if len(b) == 0 {
		return nil, false, true
	}
	r := kbin.Reader{Src: b}
	if r.Int16() < 0 {
		return nil, false, false
	}
	has = readTopicPartitions(&r)
	if n := r.Int32(); n > 0 {
		rest = true
		r.Span(int(n))
	}
	return has, rest, r.Ok()
}

// sharesOf translates names to ids; topics that do not exist are left out.
func (s *Shard) sharesOf(byName map[string][]int32) shares {
	var out shares
	for _, name := range sortedKeysOf(byName) {
		if t := s.meta.topic(name); t != nil {
			out = append(out, share{topic: t.ID, parts: slices.Clone(byName[name])})
		}
	}
	return out.normal()
}

// embedded is an assignment as members of the classic protocol read it, in the version of their subscription.
func (s *Shard) embedded(has shares, subscription []byte) []byte {
	r := kbin.Reader{Src: subscription}
	version := r.Int16()
	var body []byte
	n := 0
	for i := range has {
		t := s.meta.topicByID(has[i].topic)
		if t == nil {
			continue
		}
		n++
		body = kbin.AppendString(body, t.Name)
		body = kbin.AppendArrayLen(body, len(has[i].parts))
		for _, p := range has[i].parts {
			body = kbin.AppendInt32(body, p)
		}
	}
	dst := kbin.AppendInt16(make([]byte, 0, 10+len(body)), min(max(version, 0), 3))
	dst = kbin.AppendArrayLen(dst, n)
	dst = append(dst, body...)
	return kbin.AppendInt32(dst, -1)
}
