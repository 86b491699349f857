package group

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

func shardRecord(key, value []byte) shard.Record { return shard.Record{Key: key, Value: value} }

func text(rnd *rand.Rand) string {
	b := make([]byte, rnd.IntN(20))
	for i := range b {
		b[i] = "abcdefghij"[rnd.IntN(10)]
	}
	return string(b)
}

// What we write is what kmsg, which was made from Kafka's definitions, reads; and the other way round, in every version.
func TestRecordsAreKafkas(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		c := committed{partition: rnd.Int32(), leaderEpoch: rnd.Int32N(100) - 1, offset: rnd.Int64(), commitMs: rnd.Int64(), expireMs: -1, metadata: text(rnd)}
		if rnd.IntN(2) == 0 {
			c.topicID = wire.UUID{1, 2, byte(rnd.IntN(256))}
		}
		var k kmsg.OffsetCommitKey
		if err := k.ReadFrom(appendOffsetKey(nil, "group", "topic", c.partition)); err != nil || k.Version != 1 || k.Group != "group" || k.Topic != "topic" || k.Partition != c.partition {
			t.Fatal(err, k)
		}
		var v kmsg.OffsetCommitValue
		b := appendOffsetValue(nil, &c)
		if err := v.ReadFrom(b); err != nil || v.Version != 4 || v.Offset != c.offset || v.LeaderEpoch != c.leaderEpoch || v.Metadata != c.metadata || v.CommitTimestamp != c.commitMs || v.TopicID != c.topicID {
			t.Fatal(err, v)
		}
		if !bytes.Equal(v.AppendTo(nil), b) {
			t.Fatalf("%x, want %x", b, v.AppendTo(nil))
		}
		for version := range int16(5) {
			v.Version, v.ExpireTimestamp = version, 77
			got, md, err := parseOffset(v.AppendTo(nil))
			want := c
			want.partition, want.metadata = 0, ""
			if version < 3 {
				want.leaderEpoch = -1
			}
			if version < 4 {
				want.topicID = wire.UUID{}
			}
			if version == 1 {
				want.expireMs = 77
			}
			if err != nil || got != want || string(md) != c.metadata {
				t.Fatalf("version %d: %v\n%+v\n%+v", version, err, got, want)
			}
		}
		c.expireMs = rnd.Int64()
		if err := v.ReadFrom(appendOffsetValue(nil, &c)); err != nil || v.Version != 1 || v.ExpireTimestamp != c.expireMs || v.Offset != c.offset {
			t.Fatal(err, v)
		}

		g := groupRecord{protocolType: "consumer", protocol: text(rnd), leader: text(rnd), generation: rnd.Int32(), stateSinceMs: rnd.Int64()}
		for range rnd.IntN(4) {
			m := memberRecord{id: text(rnd), clientID: text(rnd), clientHost: text(rnd), rebalanceTimeoutMs: rnd.Int32(), sessionTimeoutMs: rnd.Int32(),
				subscription: []byte(text(rnd)), assignment: []byte(text(rnd))}
			if rnd.IntN(2) == 0 {
				s := text(rnd)
				m.instanceID = &s
			}
			g.members = append(g.members, m)
		}
		var gk kmsg.GroupMetadataKey
		if err := gk.ReadFrom(groupKey("group")); err != nil || gk.Version != 2 || gk.Group != "group" {
			t.Fatal(err, gk)
		}
		var gv kmsg.GroupMetadataValue
		b = g.encode()
		if err := gv.ReadFrom(b); err != nil || gv.Version != 3 || !bytes.Equal(gv.AppendTo(nil), b) {
			t.Fatal(err, gv)
		}
		for version := range int16(5) {
			gv.Version = version
			got, err := parseGroup(gv.AppendTo(nil))
			want := g
			want.members = append([]memberRecord(nil), g.members...)
			if version < 2 {
				want.stateSinceMs = -1
			}
			for i := range want.members {
				if version < 3 {
					want.members[i].instanceID = nil
				}
				if version < 1 {
					want.members[i].rebalanceTimeoutMs = want.members[i].sessionTimeoutMs
				}
			}
			if a, b := printRecord(got), printRecord(want); err != nil || a != b {
				t.Fatalf("version %d: %v\n%s\n%s", version, err, a, b)
			}
		}
	}
}

func printRecord(g groupRecord) string {
	s := fmt.Sprintf("%s %s %s %d %d", g.protocolType, g.protocol, g.leader, g.generation, g.stateSinceMs)
	for _, m := range g.members {
		instance := "none"
		if m.instanceID != nil {
			instance = "=" + *m.instanceID
		}
		s += fmt.Sprintf("\n%s %s %s %s %d %d %x %x", m.id, instance, m.clientID, m.clientHost, m.rebalanceTimeoutMs, m.sessionTimeoutMs, m.subscription, m.assignment)
	}
	return s
}

func TestRecordsThatAreNotOursAreSkipped(t *testing.T) {
	s := New(testConfig(), testMetadata(), counter())
	for version := int16(9); version < 30; version++ {
		if version == keyConsumerPattern {
			continue
		}
		if err := s.Replay(shardRecord([]byte{byte(version >> 8), byte(version), 1, 2, 3}, []byte{0, 0})); err != nil {
			t.Errorf("key of type %d: %v", version, err)
		}
	}
	for _, r := range []shard.Record{{}, {Key: []byte{0}}, {Key: []byte{0, 1, 0, 9, 'g'}}, {Key: groupKey("g"), Value: []byte{0}},
		{Key: groupKey("g"), Value: []byte{0, 5}}, {Key: appendOffsetKey(nil, "g", "t", 0), Value: []byte{0, 9, 0}}} {
		if err := s.Replay(r); err == nil {
			t.Errorf("key %x value %x is accepted", r.Key, r.Value)
		}
	}
	for _, key := range [][]byte{groupKey("g"), appendOffsetKey(nil, "g", "t", 0)} { // tombstones of what is not there
		if err := s.Replay(shardRecord(key, nil)); err != nil {
			t.Error(err)
		}
	}
	if len(s.groups) != 0 {
		t.Error("groups appear from nothing")
	}
}

// The log of another writer may say what ours never does.
func TestGroupWithoutItsLeaderIsServed(t *testing.T) {
	r := newRig(t)
	i, j := "i", "i"
	g := groupRecord{protocolType: "consumer", protocol: "range", leader: "nobody", generation: 1, members: []memberRecord{
		{id: "a", instanceID: &i, sessionTimeoutMs: 120_000}, {id: "a"}, {id: "b", instanceID: &j, sessionTimeoutMs: 120_000}, {id: "c", sessionTimeoutMs: 10_000}}}
	r.log = append(r.log, shardRecord(groupKey("g"), g.encode()))
	r.restart()
	r.heartbeat("a", 1, wire.None)
	r.pass(400_000)
	r.state("Empty")
}

func FuzzReplay(f *testing.F) {
	g := groupRecord{protocolType: "consumer", protocol: "range", leader: "a", members: []memberRecord{{id: "a", instanceID: rbInstance("i"), subscription: subscription("t")}, {id: "b"}}}
	f.Add(groupKey("g"), g.encode(), false)
	f.Add(appendOffsetKey(nil, "g", "t", 1), appendOffsetValue(nil, &committed{expireMs: -1, topicID: wire.UUID{1}}), false)
	f.Add(appendOffsetKey(nil, "g", "t", 1), appendOffsetValue(nil, &committed{expireMs: 5}), true)
	f.Add(groupKey("g"), []byte{0, 4, 1, 0, 0, 0, 1, 1, 0xff, 0xff, 0xff, 0xff, 0x0f}, false)
	f.Fuzz(func(t *testing.T, key, value []byte, tombstone bool) {
		s := New(testConfig(), testMetadata(), counter())
		if err := s.Replay(shardRecord(groupKey("g"), g.encode())); err != nil {
			t.Fatal(err)
		}
		if tombstone {
			value = nil
		}
		before := allocated(func() {
			if err := s.Replay(shardRecord(key, value)); err != nil {
				return
			}
		})
		if most := uint64(16<<10 + 64*(len(key)+len(value))); before > most {
			t.Fatalf("%d bytes are allocated for %d", before, len(key)+len(value))
		}
		// Whatever it was, the shard can go on with it.
		now := shard.Time{MonoMs: 1, WallMs: 1}
		s.Loaded(now)
		for range 50 {
			now.MonoMs = min(s.Deadline(), now.MonoMs+1<<40)
			now.WallMs = now.MonoMs
			for _, r := range s.Tick(now).Records {
				if err := s.Replay(r); err != nil {
					t.Fatal(err)
				}
			}
		}
		s.ListGroups(now, 1, kmsg.NewPtrListGroupsRequest())
		for _, id := range s.ids() {
			s.DescribeGroup(now, 2, 5, id)
		}
	})
}

func FuzzSubscription(f *testing.F) {
	f.Add(subscription("a", "b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		subscribedTopics(b, func(string) { n++ })
		if n > len(b) {
			t.Fatalf("%d topics in %d bytes", n, len(b))
		}
	})
}

func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
