package group

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

// describeSaysNotFound is the version of DescribeGroups that calls an unknown group an error.
const describeSaysNotFound = 6

// Types of groups in ListGroups.
const (
	typeClassic  = "classic"
	typeConsumer = "consumer"
)

// DescribeGroup is answered by a *kmsg.DescribeGroupsResponseGroup, in the given version of DescribeGroups.
func (s *Shard) DescribeGroup(now shard.Time, t shard.Ticket, version int16, group string) shard.Effects {
	s.begin(now)
	r := kmsg.NewDescribeGroupsResponseGroup()
	r.Group = group
	g := s.groups[group]
	if g == nil || g.consumer != nil {
		r.State = dead
		if version >= describeSaysNotFound {
			message := fmt.Sprintf("Group %s not found.", group)
			if g != nil {
				message = fmt.Sprintf("Group %s is not a classic group.", group)
			}
			r.ErrorCode, r.ErrorMessage = int16(wire.GroupIDNotFound), &message
		}
		s.reply(t, &r)
		return s.end()
	}
	r.State = g.state()
	if c := g.classic; c != nil {
		r.ProtocolType = c.protocolType
		if c.state == stable {
			r.Protocol = c.protocol
		}
		r.Members = make([]kmsg.DescribeGroupsResponseGroupMember, len(c.order))
		for i, m := range c.order {
			r.Members[i] = kmsg.DescribeGroupsResponseGroupMember{MemberID: m.id, InstanceID: m.instanceID, ClientID: m.clientID,
				ClientHost: m.host, MemberAssignment: m.assignment}
			if c.state == stable { // before, what it said may be for another protocol
				r.Members[i].ProtocolMetadata, _ = m.metadata(c.protocol)
			}
		}
	}
	s.reply(t, &r)
	return s.end()
}

// DescribeConsumerGroup is answered by a *kmsg.ConsumerGroupDescribeResponseGroup.
func (s *Shard) DescribeConsumerGroup(now shard.Time, t shard.Ticket, group string) shard.Effects {
	s.begin(now)
	r := kmsg.NewConsumerGroupDescribeResponseGroup()
	r.Group = group
	g := s.groups[group]
	if g == nil || g.consumer == nil {
		message := fmt.Sprintf("Group %s not found.", group)
		if g != nil {
			message = fmt.Sprintf("Group %s is not a consumer group.", group)
		}
		r.ErrorCode, r.ErrorMessage = int16(wire.GroupIDNotFound), &message
		s.reply(t, &r)
		return s.end()
	}
	c := g.consumer
	r.State, r.Epoch, r.AssignmentEpoch, r.AssignorName = c.state(), c.epoch(), c.target().epoch, c.preferred(s.cfg.Assignors[0])
	r.Members = make([]kmsg.ConsumerGroupDescribeResponseGroupMember, 0, c.members.len())
	for _, id := range c.order() {
		m := c.members.get(id)
		x := kmsg.NewConsumerGroupDescribeResponseGroupMember()
		x.MemberID, x.InstanceID, x.RackID, x.MemberEpoch, x.ClientID, x.ClientHost = m.id, m.instanceID, m.rack, m.epoch, m.clientID, m.clientHost
		x.SubscribedTopics, x.SubscribedTopicRegex = m.topics, &m.pattern
		x.Assignment, x.TargetAssignment = s.described(m.assigned.with(m.revoking)), s.described(c.targets.get(id))
		if x.MemberType = memberTypeConsumer; m.classic != nil {
			x.MemberType = memberTypeClassic
		}
		r.Members = append(r.Members, x)
	}
	s.reply(t, &r)
	return s.end()
}

// Types of members in ConsumerGroupDescribe.
const (
	memberTypeClassic  = 0
	memberTypeConsumer = 1
)

// described leaves out topics that are gone, as they have no name.
func (s *Shard) described(has shares) kmsg.Assignment {
	var a kmsg.Assignment
	for _, x := range has {
		if t := s.meta.topicByID(x.topic); t != nil {
			a.TopicPartitions = append(a.TopicPartitions, kmsg.AssignmentTopicPartition{TopicID: x.topic, Topic: t.Name, Partitions: x.parts})
		}
	}
	return a
}

// ListGroups is answered by a *kmsg.ListGroupsResponse with the groups of this shard that pass the filters of req.
func (s *Shard) ListGroups(now shard.Time, t shard.Ticket, req *kmsg.ListGroupsRequest) shard.Effects {
	s.begin(now)
	r := kmsg.NewPtrListGroupsResponse()
	r.Version = req.Version
	passes := func(filter []string, what string) bool {
		return len(filter) == 0 || slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(f, what) })
	}
	for _, id := range s.ids() {
		g := s.groups[id]
		l := kmsg.ListGroupsResponseGroup{Group: id, GroupState: g.state(), GroupType: typeClassic}
		if g.consumer != nil {
			l.GroupType, l.ProtocolType = typeConsumer, consumerType
		} else if g.classic != nil {
			l.ProtocolType = g.classic.protocolType
		}
		if passes(req.StatesFilter, l.GroupState) && passes(req.TypesFilter, l.GroupType) {
			r.Groups = append(r.Groups, l)
		}
	}
	s.reply(t, r)
	return s.end()
}

// CodeFor is what clients of groups are told when the log refuses a record: what makes them find the
// coordinator again, where that helps.
func CodeFor(why wire.Code) wire.Code {
	switch why {
	case wire.UnknownTopicOrPartition, wire.NotEnoughReplicas, wire.NotEnoughReplicasAfterAppend, wire.RequestTimedOut:
		return wire.CoordinatorNotAvailable
	case wire.NotLeaderOrFollower, wire.KafkaStorageError:
		return wire.NotCoordinator
	case wire.MessageTooLarge, wire.RecordListTooLarge, wire.InvalidFetchSize:
		return wire.UnknownServerError
	}
	return why
}

// failure turns an answer into what is said when its records were not written.
func failure(response any, why wire.Code) any {
	code := int16(CodeFor(why))
	switch r := response.(type) {
	case *kmsg.JoinGroupResponse:
		x := joinError("", wire.Code(code))
		x.Version = r.Version
		return x
	case *kmsg.SyncGroupResponse:
		x := syncError(wire.Code(code))
		x.Version = r.Version
		return x
	case *kmsg.HeartbeatResponse:
		r.ErrorCode = code
	case *kmsg.LeaveGroupResponse:
		r.ErrorCode, r.Members = code, nil
	case *kmsg.OffsetCommitResponse:
		if code == int16(wire.UnknownServerError) {
			code = int16(wire.InvalidCommitOffsetSize)
		}
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				r.Topics[i].Partitions[j].ErrorCode = code
			}
		}
	case *kmsg.OffsetDeleteResponse:
		r.ErrorCode, r.Topics = code, nil
	case *kmsg.DeleteGroupsResponseGroup:
		r.ErrorCode = code
	case *kmsg.OffsetFetchResponseGroup:
		r.ErrorCode, r.Topics = code, nil
	case *kmsg.DescribeGroupsResponseGroup:
		r.ErrorCode, r.Members = code, nil
	case *kmsg.ListGroupsResponse:
		r.ErrorCode, r.Groups = code, nil
	case *kmsg.ConsumerGroupHeartbeatResponse:
		x := kmsg.NewPtrConsumerGroupHeartbeatResponse()
		x.Version, x.ErrorCode = r.Version, code
		return x
	case *kmsg.ConsumerGroupDescribeResponseGroup:
		r.ErrorCode, r.Members = code, nil
	default:
		panic(fmt.Sprintf("BUG: no failure of a %T is known", response))
	}
	return response
}

// GroupOffsets is what a group has committed, and how many members it has. It is the caller's.
type GroupOffsets struct {
	Group   string
	Members int
	Offsets []CommittedOffset // sorted by topic and partition
}

// CommittedOffset is the next record that a group is to read.
type CommittedOffset struct {
	Topic     string
	TopicID   wire.UUID // that it was committed for; zero: not recorded
	Partition int32
	Offset    int64
}

// Committed is answered by a []GroupOffsets of all groups, sorted by group. Like History it is for people and not for
// clients: it does not wait for the log, so that it can be seen while a disk hangs.
func (s *Shard) Committed(now shard.Time, t shard.Ticket) shard.Effects {
	s.begin(now)
	all := make([]GroupOffsets, 0, len(s.groups))
	for _, id := range s.ids() {
		g := s.groups[id]
		x := GroupOffsets{Group: id, Members: g.size()}
		for i := range g.offsets {
			for _, c := range g.offsets[i].parts {
				x.Offsets = append(x.Offsets, CommittedOffset{g.offsets[i].name, c.topicID, c.partition, c.offset})
			}
		}
		all = append(all, x)
	}
	s.replyEarly(t, all)
	return s.end()
}

// size is how many members the group has.
func (g *group) size() int {
	switch {
	case g.consumer != nil:
		return g.consumer.members.len()
	case g.classic != nil:
		return len(g.classic.order)
	}
	return 0
}
