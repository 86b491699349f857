package group

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

// TestMonkey sends whatever comes to its mind: no request may break a shard, or be answered twice, or never.
func TestMonkey(t *testing.T) {
	seeds := uint64(60)
	if testing.Short() {
		seeds = 10
	}
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(seed, 5))
		r := newRig(t, func(c *Config) {
			c.MaxSize = 1 + rnd.IntN(5)
			c.MinSessionTimeoutMs, c.OffsetsRetentionMs, c.RetentionCheckIntervalMs = 0, 20_000, 5000
			c.InitialRebalanceDelayMs = rnd.Int64N(2) * 1000
		})
		ids := []string{"", "nobody"}
		instances := []*string{nil, nil, nil, rbInstance("a"), rbInstance("b"), rbInstance("")}
		id := func() string { return ids[rnd.IntN(len(ids))] }
		inst := func() *string { return instances[rnd.IntN(len(instances))] }
		gen := func() int32 {
			if g := r.s.groups["g"]; g != nil && g.classic != nil && rnd.IntN(4) > 0 {
				return g.classic.generation
			}
			return rnd.Int32N(4) - 2
		}
		shares := func() map[string]string {
			m := map[string]string{}
			for range rnd.IntN(3) {
				m[id()] = fmt.Sprint(rnd.IntN(100))
			}
			return m
		}
		for range 300 {
			switch x := rnd.IntN(24); {
			case x < 7:
				tk := r.join(id(), func(q *kmsg.JoinGroupRequest) {
					q.Version = int16(rnd.IntN(10))
					q.InstanceID = inst()
					q.SessionTimeoutMillis = []int32{0, 500, 5000, 5000}[rnd.IntN(4)]
					q.RebalanceTimeoutMillis = []int32{-1, 0, 3000, 3000}[rnd.IntN(4)]
					q.ProtocolType = []string{consumerType, consumerType, consumerType, "connect", ""}[rnd.IntN(5)]
					q.Protocols = nil
					for range rnd.IntN(4) {
						q.Protocols = append(q.Protocols, kmsg.JoinGroupRequestProtocol{Name: []string{"p", "q", "r", ""}[rnd.IntN(4)], Metadata: []byte(text(rnd))})
					}
				})
				if a, ok := r.answers[tk].Response.(*kmsg.JoinGroupResponse); ok && a.MemberID != "" {
					ids = append(ids, a.MemberID)
				}
			case x < 11:
				r.sync(id(), gen(), shares(), func(q *kmsg.SyncGroupRequest) { q.InstanceID = inst() })
			case x < 13:
				req := kmsg.NewPtrHeartbeatRequest()
				req.Group, req.MemberID, req.Generation, req.InstanceID = "g", id(), gen(), inst()
				r.do(r.s.Heartbeat(r.now, r.ticket(), req))
			case x == 13:
				r.leave([]int16{1, 4}[rnd.IntN(2)], kmsg.LeaveGroupRequestMember{MemberID: id(), InstanceID: inst()}, kmsg.LeaveGroupRequestMember{MemberID: id(), InstanceID: inst()})
			case x < 17:
				r.commit(id(), gen(), []string{"t", "u", ""}[rnd.IntN(3)], rnd.Int32N(3)-1, rnd.Int64N(10)-1, topicID(byte(rnd.IntN(2))),
					func(q *kmsg.OffsetCommitRequest) {
						q.InstanceID, q.Version, q.RetentionTimeMillis = inst(), 1+int16(rnd.IntN(10)), []int64{-1, -1, -5, 0, 3000}[rnd.IntN(5)]
					})
			case x == 17:
				r.do(r.s.DeleteGroup(r.now, r.ticket(), "g"))
			case x == 18:
				r.offsetDelete("t", rnd.Int32N(3)-1)
			case x == 19:
				r.do(r.s.TopicsDeleted(r.now, []Topic{{"t", wire.UUID{byte(rnd.IntN(2))}}, {"u", wire.UUID{}}}))
			case x == 20 && rnd.IntN(4) == 0:
				r.restart()
			case x == 21:
				r.describe(int16(rnd.IntN(7)))
			default:
				r.pass(rnd.Int64N([]int64{10, 1000, 10_000}[rnd.IntN(3)]))
			}
			if rnd.IntN(20) == 0 {
				r.refuse = wire.NotEnoughReplicas
			}
			if err := consistent(r.s); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		// Nobody is heard of any more: all sessions end, and nobody waits.
		r.refuse = wire.None
		r.pass(400_000)
		for _, g := range r.s.groups {
			if c := g.classic; c != nil && (len(c.order) > 0 || len(c.pending) > 0 || c.state != empty) {
				t.Fatalf("seed %d: members remain: %+v", seed, c)
			}
		}
		for tk := r.lost + 1; tk <= r.tickets; tk++ {
			if _, ok := r.answers[tk]; !ok {
				t.Fatalf("seed %d: ticket %d is never answered", seed, tk)
			}
		}
	}
}
