// Package group is the passive core of consumer groups: who is a member of which group, which
// generation is in force, who was assigned what, and what was committed. It alone knows the
// records of __consumer_offsets, Kafka's rules of the classic group protocol and the
// expiry of offsets. It decides; package coordinator appends, commits, sends and keeps time.
package group

import (
	"github.com/twmb/franz-go/pkg/kmsg"

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
}

// Client is who sends a request.
type Client struct {
	ID   string // client.id
	Host string // address as Kafka prints it: "/127.0.0.1"
}

// Topic names a topic and the id it has; a zero id is not known.
type Topic struct {
	Name string
	ID   wire.UUID
}

// Shard is the groups of one partition of __consumer_offsets. It implements shard.Core.
type Shard struct{}

var _ shard.Core = (*Shard)(nil)

// New returns an empty shard. random fills out with random bytes, of which member ids are made.
func New(cfg Config, random func(out []byte)) *Shard { panic("next commit") }

// JoinGroup is answered by a *kmsg.JoinGroupResponse, once the join phase completes.
func (s *Shard) JoinGroup(now shard.Time, t shard.Ticket, c Client, req *kmsg.JoinGroupRequest) shard.Effects {
	panic("next commit")
}

// SyncGroup is answered by a *kmsg.SyncGroupResponse, once the leader's assignment is committed.
func (s *Shard) SyncGroup(now shard.Time, t shard.Ticket, req *kmsg.SyncGroupRequest) shard.Effects {
	panic("next commit")
}

// Heartbeat is answered by a *kmsg.HeartbeatResponse.
func (s *Shard) Heartbeat(now shard.Time, t shard.Ticket, req *kmsg.HeartbeatRequest) shard.Effects {
	panic("next commit")
}

// LeaveGroup is answered by a *kmsg.LeaveGroupResponse.
func (s *Shard) LeaveGroup(now shard.Time, t shard.Ticket, req *kmsg.LeaveGroupRequest) shard.Effects {
	panic("next commit")
}

// OffsetCommit is answered by a *kmsg.OffsetCommitResponse. In every version the caller has set both the
// name and, where it knows it, the id of each topic; topics that it refuses itself are not in req.
// The response holds both too.
func (s *Shard) OffsetCommit(now shard.Time, t shard.Ticket, req *kmsg.OffsetCommitRequest) shard.Effects {
	panic("next commit")
}

// OffsetFetch is answered by a *kmsg.OffsetFetchResponseGroup. With listed topics the caller has set the
// name and, where it knows it, the present id of each: an offset that was committed for
// another id is answered as none. Without (Topics is nil) each topic of the answer has the id its offsets were
// committed for (zero: not recorded), a topic with offsets for several ids being several topics; the caller
// drops those that are void.
func (s *Shard) OffsetFetch(now shard.Time, t shard.Ticket, requireStable bool, req *kmsg.OffsetFetchRequestGroup) shard.Effects {
	panic("next commit")
}

// DescribeGroup is answered by a *kmsg.DescribeGroupsResponseGroup, in the given version of DescribeGroups.
func (s *Shard) DescribeGroup(now shard.Time, t shard.Ticket, version int16, group string) shard.Effects {
	panic("next commit")
}

// ListGroups is answered by a *kmsg.ListGroupsResponse with the groups of this shard that pass the filters of req.
func (s *Shard) ListGroups(now shard.Time, t shard.Ticket, req *kmsg.ListGroupsRequest) shard.Effects {
	panic("next commit")
}

// DeleteGroup is answered by a *kmsg.DeleteGroupsResponseGroup.
func (s *Shard) DeleteGroup(now shard.Time, t shard.Ticket, group string) shard.Effects {
	panic("next commit")
}

// OffsetDelete is answered by a *kmsg.OffsetDeleteResponse.
func (s *Shard) OffsetDelete(now shard.Time, t shard.Ticket, req *kmsg.OffsetDeleteRequest) shard.Effects {
	panic("next commit")
}

// TopicsDeleted forgets the offsets of topics that are gone: those committed for the id given, or for none.
// The work is done in portions, by Tick.
func (s *Shard) TopicsDeleted(now shard.Time, topics []Topic) shard.Effects {
	panic("next commit")
}

// Replay is shard.Core's.
func (s *Shard) Replay(r shard.Record) error { panic("next commit") }

// Loaded is shard.Core's.
func (s *Shard) Loaded(now shard.Time) shard.Effects { panic("next commit") }

// Deadline is shard.Core's.
func (s *Shard) Deadline() int64 { panic("next commit") }

// Tick is shard.Core's.
func (s *Shard) Tick(now shard.Time) shard.Effects { panic("next commit") }

// Failed is shard.Core's.
func (s *Shard) Failed(now shard.Time, e shard.Effects, why wire.Code) shard.Effects {
	panic("next commit")
}
