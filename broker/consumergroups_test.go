package broker_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"moldau/broker/brokertest"
)

// quickGroups lets consumer groups come to rest soon.
var quickGroups = brokertest.Config("group.consumer.min.heartbeat.interval.ms=20", "group.consumer.heartbeat.interval.ms=20", "group.consumer.assignment.interval.ms=10")

// counted are the records that members of a group have read.
type counted struct {
	mu   sync.Mutex
	seen map[string]int
}

// member reads in group g until its client is closed, and commits what it has read.
func (c *counted) member(t *testing.T, cluster *brokertest.Cluster, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl := newClient(t, cluster, append([]kgo.Opt{kgo.ConsumerGroup("g"), kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.HeartbeatInterval(100 * time.Millisecond), kgo.AutoCommitInterval(100 * time.Millisecond), kgo.FetchMaxWait(100 * time.Millisecond)}, opts...)...)
	done := make(chan struct{})
	t.Cleanup(func() { cl.Close(); <-done })
	go func() {
		defer close(done)
		for {
			fs := cl.PollFetches(context.Background())
			if fs.IsClientClosed() {
				return
			}
			c.mu.Lock()
			fs.EachRecord(func(r *kgo.Record) { c.seen[string(r.Value)]++ })
			c.mu.Unlock()
		}
	}()
	return cl
}

// await waits until every record of topic t was seen.
func (c *counted) await(t *testing.T, partitions, n int) {
	t.Helper()
	for ; ; time.Sleep(10 * time.Millisecond) {
		missing := 0
		c.mu.Lock()
		for p := range partitions {
			for i := range n {
				if c.seen[fmt.Sprintf("t-%d %d", p, i)] == 0 {
					missing++
				}
			}
		}
		c.mu.Unlock()
		if missing == 0 {
			return
		}
		if t.Context().Err() != nil {
			t.Fatalf("%d records are missing", missing)
		}
	}
}

// listed is a group as administrators see it.
type listed struct {
	kind, state string
	members     int
}

func (l listed) String() string {
	return fmt.Sprintf("%s %s with %d members", l.kind, l.state, l.members)
}

// awaitGroup waits until group g is what it is to be.
func awaitGroup(t *testing.T, cl *kgo.Client, want listed) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got listed
	for ; got != want; time.Sleep(10 * time.Millisecond) {
		if ctx.Err() != nil {
			t.Fatalf("the group is %v, want %v", got, want)
		}
		got = listed{}
		list, err := kmsg.NewPtrListGroupsRequest().RequestWith(ctx, cl)
		if err != nil {
			continue
		}
		for _, g := range list.Groups {
			if g.Group == "g" {
				got.kind, got.state = g.GroupType, g.GroupState
			}
		}
		if got.kind == "consumer" {
			req := kmsg.NewPtrConsumerGroupDescribeRequest()
			req.Groups = []string{"g"}
			if d, err := req.RequestWith(ctx, cl); err == nil {
				got.members = len(d.Groups[0].Members)
			}
		} else {
			req := kmsg.NewPtrDescribeGroupsRequest()
			req.Groups = []string{"g"}
			if d, err := req.RequestWith(ctx, cl); err == nil {
				got.members = len(d.Groups[0].Members)
			}
		}
	}
}

// A group of clients of the consumer protocol divides a topic, shares it anew as members come and go, and goes on behind
// what was committed.
func TestConsumerGroup(t *testing.T) {
	c := brokertest.New(t, quickGroups)
	fill(t, c, "t", 4, 20)
	look := newClient(t, c)
	got := &counted{seen: map[string]int{}}
	next := kgo.ServerSideBalancer()
	first := got.member(t, c, next)
	awaitGroup(t, look, listed{"consumer", "Stable", 1})
	got.await(t, 4, 20)
	second := got.member(t, c, next)
	awaitGroup(t, look, listed{"consumer", "Stable", 2})
	produce(t, newClient(t, c), "t", 4, 30)
	got.await(t, 4, 30)
	first.Close()
	awaitGroup(t, look, listed{"consumer", "Stable", 1})
	admin := kadm.NewClient(look)
	if _, err := admin.CreatePartitions(t.Context(), 2, "t"); err != nil {
		t.Fatal(err)
	}
	produce(t, newClient(t, c), "t", 6, 40)
	got.await(t, 6, 40)
	second.Close()
	awaitGroup(t, look, listed{"consumer", "Empty", 0})
	offsets, err := admin.FetchOffsets(t.Context(), "g")
	must(t, err)
	if len(offsets["t"]) != 6 {
		t.Errorf("committed %v", offsets)
	}
	r, err := admin.DeleteGroups(t.Context(), "g")
	must(t, err)
	must(t, r.Error())
}

// Members change the protocol one after the other, in both directions; the group works all the time.
func TestGroupMigratesOnline(t *testing.T) {
	c := brokertest.New(t, quickGroups)
	fill(t, c, "t", 4, 5)
	look := newClient(t, c)
	got := &counted{seen: map[string]int{}}
	classic := kgo.Balancers(kgo.CooperativeStickyBalancer())
	a, b := got.member(t, c, classic), got.member(t, c, classic)
	awaitGroup(t, look, listed{"classic", "Stable", 2})
	got.await(t, 4, 5)
	next := kgo.ServerSideBalancer()
	n := got.member(t, c, next)
	awaitGroup(t, look, listed{"consumer", "Stable", 3})
	produce(t, newClient(t, c), "t", 4, 10)
	got.await(t, 4, 10)
	a.Close()
	b.Close()
	awaitGroup(t, look, listed{"consumer", "Stable", 1})
	got.member(t, c, classic)
	awaitGroup(t, look, listed{"consumer", "Stable", 2})
	produce(t, newClient(t, c), "t", 4, 15)
	got.await(t, 4, 15)
	n.Close()
	awaitGroup(t, look, listed{"classic", "Stable", 1})
	produce(t, newClient(t, c), "t", 4, 20)
	got.await(t, 4, 20)
}

// The members of a group, and what they have, survive a loss of power: nobody joins anew.
func TestConsumerGroupSurvivesACrash(t *testing.T) {
	c := brokertest.New(t, quickGroups)
	fill(t, c, "t", 4, 20)
	look := newClient(t, c)
	got := &counted{seen: map[string]int{}}
	for range 2 {
		got.member(t, c, kgo.ServerSideBalancer())
	}
	awaitGroup(t, look, listed{"consumer", "Stable", 2})
	epochs := func() (epoch int32) {
		req := kmsg.NewPtrConsumerGroupDescribeRequest()
		req.Groups = []string{"g"}
		d, err := req.RequestWith(t.Context(), look)
		must(t, err)
		return d.Groups[0].Epoch
	}
	before := epochs()
	c.Crash(0)
	must(t, c.Start(0))
	awaitGroup(t, look, listed{"consumer", "Stable", 2})
	produce(t, newClient(t, c), "t", 4, 30)
	got.await(t, 4, 30)
	if after := epochs(); after != before {
		t.Errorf("the group's epoch was %d and is %d", before, after)
	}
}

// TestOffsetsOfARecreatedTopic: what was committed for a topic that was deleted counts for no other of its name: by name (version 9) or by id (10), for
// one partition or all, before and after a restart, however far the removal of the offsets has come.
func TestOffsetsOfARecreatedTopic(t *testing.T) {
	for _, crash := range []bool{false, true} {
		c := brokertest.New(t, brokertest.Seed(3))
		create := func(name string) [16]byte {
			t.Helper()
			r, err := kadm.NewClient(newClient(t, c)).CreateTopic(within(t), 1, 1, nil, name)
			must(t, err)
			return r.ID
		}
		pinned := func(version int16) *kgo.Client {
			v := kversion.Stable()
			v.SetMaxKeyVersion(kmsg.OffsetCommit.Int16(), version)
			v.SetMaxKeyVersion(kmsg.OffsetFetch.Int16(), version)
			return newClient(t, c, kgo.MaxVersions(v))
		}
		commit := func(version int16, topics map[string][16]byte, at int64) map[string]int16 {
			t.Helper()
			req := kmsg.NewPtrOffsetCommitRequest()
			req.Group = "g"
			names := map[[16]byte]string{}
			for name, id := range topics {
				names[id] = name
				req.Topics = append(req.Topics, kmsg.OffsetCommitRequestTopic{Topic: name, TopicID: id, Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Partition: 0, Offset: at, LeaderEpoch: -1}}})
			}
			resp, err := req.RequestWith(within(t), pinned(version))
			must(t, err)
			if resp.Version != version {
				t.Fatalf("version %d, want %d", resp.Version, version)
			}
			codes := map[string]int16{}
			for _, x := range resp.Topics {
				name := x.Topic
				if version >= 10 {
					name = names[x.TopicID]
				}
				codes[name] = x.Partitions[0].ErrorCode
			}
			return codes
		}
		fetch := func(version int16, name string, id [16]byte) (offset int64, code int16) {
			t.Helper()
			req := kmsg.NewPtrOffsetFetchRequest()
			g := kmsg.NewOffsetFetchRequestGroup()
			g.Group = "g"
			if name != "" {
				g.Topics = []kmsg.OffsetFetchRequestGroupTopic{{Topic: name, TopicID: id, Partitions: []int32{0}}}
			}
			req.Groups = append(req.Groups, g)
			resp, err := req.RequestWith(within(t), pinned(version))
			must(t, err)
			offset = -1
			for _, x := range resp.Groups[0].Topics {
				if name != "" || version >= 10 && x.TopicID == id || x.Topic == "t" {
					offset, code = x.Partitions[0].Offset, x.Partitions[0].ErrorCode
				}
			}
			return offset, code
		}
		const unknownTopicID = 100
		stays, old := create("stays"), create("t")
		if codes := commit(10, map[string][16]byte{"stays": stays, "t": old}, 5); codes["stays"] != 0 || codes["t"] != 0 {
			t.Fatalf("committed: %v", codes)
		}
		if offset, code := fetch(9, "t", old); offset != 5 || code != 0 {
			t.Fatalf("committed is %d, error %d", offset, code)
		}
		_, err := kadm.NewClient(newClient(t, c)).DeleteTopic(within(t), "t")
		must(t, err)
		now := create("t")
		void := func(when string) {
			t.Helper()
			for _, v := range []int16{9, 10} {
				if offset, code := fetch(v, "t", now); offset != -1 || code != 0 {
					t.Errorf("%s, version %d: the new topic has %d, error %d", when, v, offset, code)
				}
				if offset, _ := fetch(v, "", now); offset != -1 {
					t.Errorf("%s, version %d: among all, the new topic has %d", when, v, offset)
				}
				if offset, _ := fetch(v, "stays", stays); offset != 5 {
					t.Errorf("%s, version %d: the other topic has %d", when, v, offset)
				}
			}
			if offset, code := fetch(10, "t", old); offset != -1 || code != unknownTopicID {
				t.Errorf("%s: by the old id: %d, error %d", when, offset, code)
			}
		}
		void("after the deletion")
		if crash {
			c.Crash(0)
		} else {
			c.Stop(0)
		}
		must(t, c.Start(0))
		void("after a restart")
		// A client that does not know yet: what it commits for the topic that is gone is refused, the rest is not.
		if codes := commit(10, map[string][16]byte{"stays": stays, "t": old}, 5); codes["stays"] != 0 || codes["t"] != unknownTopicID {
			t.Errorf("a mixed commit: %v", codes)
		}
		void("after a commit for the old one")
		if codes := commit(9, map[string][16]byte{"t": now}, 7); codes["t"] != 0 {
			t.Errorf("committed: %v", codes)
		}
		c.Stop(0)
		must(t, c.Start(0))
		for _, v := range []int16{9, 10} {
			if offset, code := fetch(v, "t", now); offset != 7 || code != 0 {
				t.Errorf("version %d: the new topic has %d, error %d", v, offset, code)
			}
		}
	}
}
