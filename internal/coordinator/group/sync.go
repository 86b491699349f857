package group

import (
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

func syncError(code wire.Code) *kmsg.SyncGroupResponse {
	r := kmsg.NewPtrSyncGroupResponse()
	r.ErrorCode = int16(code)
	return r
}

// SyncGroup is answered by a *kmsg.SyncGroupResponse, once the leader's assignment is committed.
func (s *Shard) SyncGroup(now shard.Time, t shard.Ticket, req *kmsg.SyncGroupRequest) shard.Effects {
	s.begin(now)
	if code := s.sync(t, req); code != wire.None {
		r := syncError(code)
		r.Version = req.Version
		s.reply(t, r)
	}
	return s.end()
}

func (s *Shard) sync(t shard.Ticket, req *kmsg.SyncGroupRequest) wire.Code {
	if g := s.groups[req.Group]; g != nil && g.consumer != nil {
		r := s.syncConsumer(g, req)
		r.Version = req.Version
		s.reply(t, r)
		return wire.None
	}
	c, m, code := s.member(req.Group, req.MemberID, req.InstanceID)
	differs := func(p *string, own string) bool { return p != nil && *p != own }
	switch {
	case code != wire.None:
		return code
	case req.Generation != c.generation: // protection: generation of SyncGroup
		return wire.IllegalGeneration
	case c.protocolType != "" && differs(req.ProtocolType, c.protocolType), c.protocol != "" && differs(req.Protocol, c.protocol):
		return wire.InconsistentGroupProtocol
	case c.state == preparingRebalance:
		return wire.RebalanceInProgress
	}
	s.answerSync(m, syncError(wire.RebalanceInProgress)) // as in park
	m.sync, m.syncVersion = t, req.Version
	c.synced(s, m)
	if c.state == stable {
		s.answerSync(m, assigned(c, m.assignment))
	} else if c.leader == m.id { // protection: only the leader assigns
		s.assign(c, req.GroupAssignment)
	}
	return wire.None
}

// member finds the group and member of a request.
func (s *Shard) member(group, id string, instanceID *string) (*classic, *member, wire.Code) {
	if group == "" {
		return nil, nil, wire.InvalidGroupID
	}
	g := s.groups[group]
	if g == nil || g.classic == nil || g.classic.state == empty {
		return nil, nil, wire.UnknownMemberID
	}
	m, code := g.classic.validate(id, instanceID)
	s.noteFenced(group, id, instanceID, code)
	return g.classic, m, code
}

func assigned(c *classic, assignment []byte) *kmsg.SyncGroupResponse {
	r := kmsg.NewPtrSyncGroupResponse()
	protocolType, protocol := c.protocolType, c.protocol
	r.ProtocolType, r.Protocol, r.MemberAssignment = &protocolType, &protocol, assignment
	return r
}

func (s *Shard) answerSync(m *member, r *kmsg.SyncGroupResponse) {
	if m.sync != 0 {
		r.Version = m.syncVersion
		s.reply(m.sync, r)
		m.sync = 0
	}
}

// assign records what the leader decided, and so ends the rebalance; members that it left out are assigned nothing.
func (s *Shard) assign(c *classic, given []kmsg.SyncGroupRequestGroupAssignment) {
	r := c.record(s.now.WallMs)
	index := make(map[string]int, len(r.members))
	for i := range r.members {
		index[r.members[i].id] = i
		r.members[i].assignment = nil
	}
	for i := range given {
		if at, ok := index[given[i].MemberID]; ok {
			r.members[at].assignment = given[i].MemberAssignment
		}
	}
	for i, m := range c.order {
		if m.sync != 0 {
			s.answerSync(m, assigned(c, slices.Clone(r.members[i].assignment)))
			s.touch(c, m)
		}
	}
	s.write(shard.Record{Key: groupKey(c.group.id), Value: r.encode()})
	leader := c.byID[c.leader].name()
	s.take(note{group: c.group.id, Event: Event{Kind: noteDone, Member: leader, ifWritten: true}, epoch: c.generation, members: len(c.order), to: toAssign})
	s.assumed = append(s.assumed, func() {
		s.note(c.group.id, Event{Kind: Unwritten})
		s.prepare(c)
	})
}

// Heartbeat is answered by a *kmsg.HeartbeatResponse.
func (s *Shard) Heartbeat(now shard.Time, t shard.Ticket, req *kmsg.HeartbeatRequest) shard.Effects {
	s.begin(now)
	r := kmsg.NewPtrHeartbeatResponse()
	r.Version = req.Version
	if g := s.groups[req.Group]; g != nil && g.consumer != nil {
		r.ErrorCode = int16(s.heartbeatConsumer(g, req))
		s.reply(t, r)
		return s.end()
	}
	c, m, code := s.member(req.Group, req.MemberID, req.InstanceID)
	switch {
	case code != wire.None:
	case req.Generation != c.generation:
		code = wire.IllegalGeneration
	default:
		s.touch(c, m)
		if c.state == preparingRebalance {
			code = wire.RebalanceInProgress
		}
		// That a rebalance goes on, or none, is lost with the process anyway: so members stay alive
		// while nothing can be committed.
		r.ErrorCode = int16(code)
		s.replyEarly(t, r)
		return s.end()
	}
	r.ErrorCode = int16(code)
	s.reply(t, r)
	return s.end()
}

// LeaveGroup is answered by a *kmsg.LeaveGroupResponse.
func (s *Shard) LeaveGroup(now shard.Time, t shard.Ticket, req *kmsg.LeaveGroupRequest) shard.Effects {
	s.begin(now)
	r := kmsg.NewPtrLeaveGroupResponse()
	r.Version = req.Version
	switch {
	case req.Group == "":
		r.ErrorCode = int16(wire.InvalidGroupID)
	case req.Version < 3:
		r.ErrorCode = int16(s.leave(req.Group, []kmsg.LeaveGroupRequestMember{{MemberID: req.MemberID}})[0].ErrorCode)
	default:
		r.Members = s.leave(req.Group, req.Members)
	}
	s.reply(t, r)
	return s.end()
}

func (s *Shard) leave(group string, leaving []kmsg.LeaveGroupRequestMember) []kmsg.LeaveGroupResponseMember {
	var c *classic
	if g := s.groups[group]; g != nil && g.consumer != nil {
		answers := s.leaveConsumer(g, leaving)
		s.finish()
		return answers
	} else if g != nil {
		c = g.classic
	}
	answers := make([]kmsg.LeaveGroupResponseMember, len(leaving))
	left := false // a member, not one that would become one
	for i := range leaving {
		l := &leaving[i]
		code := wire.UnknownMemberID
		if c != nil {
			var m *member
			m, code = c.leaver(l)
			if code == wire.None {
				s.remove(c, m, wire.UnknownMemberID)
				if !m.isPending {
					s.note(group, leftEvent(m.name(), l))
				}
				left = left || !m.isPending
			}
		}
		answers[i] = kmsg.LeaveGroupResponseMember{MemberID: l.MemberID, InstanceID: l.InstanceID, ErrorCode: int16(code)}
	}
	if c == nil {
		return answers
	}
	if c.state == preparingRebalance {
		s.completeIfAllJoined(c)
	} else if left {
		s.prepare(c)
	}
	s.tidy(c.group)
	return answers
}

// adminLeaves is how the reason of Kafka's AdminClient begins when it removes a member.
const adminLeaves = "member was removed by an admin"

// leftEvent is the end of a membership as a request says it. Who names no member id is an administrator.
func leftEvent(m MemberName, l *kmsg.LeaveGroupRequestMember) Event {
	e := Event{Kind: Left, Member: m, Said: said(l.Reason)}
	if l.MemberID == "" || strings.HasPrefix(e.Said, adminLeaves) {
		e.Kind = Kicked
	}
	return e
}

// leaver finds who leaves: an administrator names a static member by its instance id only.
func (c *classic) leaver(l *kmsg.LeaveGroupRequestMember) (*member, wire.Code) {
	if l.MemberID == "" {
		if m := c.byInstance(l.InstanceID); m != nil {
			return m, wire.None
		}
		return nil, wire.UnknownMemberID
	}
	if m := c.pending[l.MemberID]; m != nil {
		return m, wire.None
	}
	return c.validate(l.MemberID, l.InstanceID)
}
