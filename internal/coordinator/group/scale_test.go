package group

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/shard"
)

// crowd is many members of one consumer group, which send their heartbeats one after the other.
type crowd struct {
	testing.TB
	s      *Shard
	now    shard.Time
	epochs []int32
	owns   []shares
	beats  int
}

func newCrowd(t testing.TB, members, partitions int) *crowd {
	cfg := testConfig()
	cfg.ConsumerMaxSize = members
	m := *metadataOfTopics(1)
	m.Settings = GroupSettings{SessionTimeoutMs: 45_000, HeartbeatIntervalMs: 5000, AssignmentIntervalMs: 1000}
	c := &crowd{TB: t, s: New(cfg, m.WithTopics([]*TopicMetadata{testTopic("t", 1, partitions)}), counter()),
		now: shard.Time{MonoMs: 1000, WallMs: 1_700_000_000_000}, epochs: make([]int32, members), owns: make([]shares, members)}
	c.s.Loaded(c.now)
	return c
}

// beat is a heartbeat of member i, which gives back at once what it is to give back.
func (c *crowd) beat(i int) {
	c.beats++
	req := consumerReq(fmt.Sprint("member-", i), c.epochs[i])
	if c.epochs[i] > 0 {
		req.SubscribedTopicNames, req.SubscribedTopicRegex, req.RebalanceTimeoutMillis = nil, nil, -1
	}
	req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	for _, x := range c.owns[i] {
		req.Topics = append(req.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: x.topic, Partitions: x.parts})
	}
	fx := c.s.ConsumerGroupHeartbeat(c.now, 1, testClient, req)
	for _, r := range fx.Records {
		if err := c.s.Replay(r); err != nil {
			c.Fatal(err)
		}
	}
	resp := fx.Replies[0].Response.(*kmsg.ConsumerGroupHeartbeatResponse)
	if resp.ErrorCode != 0 {
		c.Fatalf("%+v", resp)
	}
	c.epochs[i] = resp.MemberEpoch
	if a := resp.Assignment; a != nil {
		c.owns[i] = nil
		for _, x := range a.Topics {
			c.owns[i] = append(c.owns[i], share{topic: x.TopicID, parts: x.Partitions})
		}
	}
}

// rounds lets all members send heartbeats, so many ms apart, until the group is stable.
func (c *crowd) rounds(stepMs int64) (n int) {
	for ; c.s.groups["g"].state() != "Stable"; n++ {
		for i := range c.epochs {
			c.now.MonoMs += stepMs
			c.now.WallMs += stepMs
			c.beat(i)
		}
		if n > 100 {
			c.Fatal("the group does not come to rest")
		}
	}
	return n
}

func (c *crowd) join(stepMs int64) {
	for i := range c.epochs {
		c.now.MonoMs += stepMs
		c.now.WallMs += stepMs
		c.beat(i)
	}
}

// TestBigGroupComesToRest: as many partitions as members, all join within a second, and each has one in the end. What that costs for each does not
// grow with their number: a draft that was a copy of the group took 338 KB for each of 1,000.
func TestBigGroupComesToRest(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 200
	}
	c := newCrowd(t, n, n)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	c.join(1)
	rounds := c.rounds(5)
	runtime.ReadMemStats(&after)
	each := (after.TotalAlloc - before.TotalAlloc) / uint64(n)
	t.Logf("%d members: %d rounds, %d heartbeats in all, %d bytes allocated for each member", n, rounds, c.beats, each)
	if each > 60_000 {
		t.Errorf("%d bytes are allocated for each of %d members", each, n)
	}
	if err := consistent(c.s); err != nil {
		t.Error(err)
	}
	for i := range c.owns {
		if len(c.owns[i]) != 1 || len(c.owns[i][0].parts) != 1 {
			t.Fatalf("member %d has %v", i, c.owns[i])
		}
	}
}

// BenchmarkBigGroup tells what members of a group of 1,000 cost the coordinator, for each of them.
func BenchmarkBigGroup(b *testing.B) {
	const members = 1000
	b.Run("join and come to rest", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			c := newCrowd(b, members, members)
			c.join(1)
			c.rounds(5)
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/members, "ns/member")
	})
	b.Run("heartbeat", func(b *testing.B) {
		c := newCrowd(b, members, members)
		c.join(1)
		c.rounds(5)
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			c.beat(i % members)
			i++
		}
	})
	b.Run("describe", func(b *testing.B) {
		c := newCrowd(b, members, members)
		c.join(1)
		c.rounds(5)
		b.ReportAllocs()
		for b.Loop() {
			c.s.DescribeConsumerGroup(c.now, 1, "g")
		}
	})
	b.Run("one leaves and comes back", func(b *testing.B) {
		c := newCrowd(b, members, members)
		c.join(1)
		c.rounds(5)
		b.ReportAllocs()
		for b.Loop() {
			fx := c.s.ConsumerGroupHeartbeat(c.now, 1, testClient, consumerReq("member-7", epochLeaves))
			for _, r := range fx.Records {
				if err := c.s.Replay(r); err != nil {
					b.Fatal(err)
				}
			}
			c.epochs[7], c.owns[7] = 0, nil
			c.beat(7)
			c.rounds(5)
		}
	})
}
