package group

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

type clientState int

const (
	clientRunning clientState = iota
	clientStopped
)

// process is what simulated clients of both protocols have in common: what they know of their membership, and a life, which their
// requests do not outlive.
type process struct {
	w        *world
	n        int
	group    string
	instance *string
	life     int // callbacks of an earlier life are ignored
	state    clientState
	id       string
	epoch    int32 // or generation
	frozenMs int64 // the longest time that it does not run
}

func (p *process) later(ms int64, f func()) {
	life := p.life
	p.w.in(ms, func() {
		if p.life == life && p.state == clientRunning {
			f()
		}
	})
}

func (p *process) do(name string, timeoutMs int64, x call) {
	life := p.life
	done := x.done
	x.name = fmt.Sprintf("%s of client %d (%s, %s, epoch %d)", name, p.n, p.group, p.id, p.epoch)
	x.done = func(resp any) {
		if p.life != life || p.state != clientRunning {
			return
		}
		if !p.w.calm && p.w.rnd.IntN(60) == 0 { // frozen
			p.later(p.w.rnd.Int64N(p.frozenMs), func() { done(resp) })
			return
		}
		done(resp)
	}
	if check := x.check; check != nil && p.w.isNext() {
		x.check = func(resp any, pos int) error {
			if x.over || p.life != life || p.state != clientRunning {
				return nil // the client has given up the connection, has left or is dead, and hears nothing
			}
			return check(resp, pos)
		}
	}
	p.w.call(&x, timeoutMs)
}

// client is a consumer of a simulated group. It behaves as clients do, and now and then as they should not:
// it freezes and goes on with what it knew, dies, comes back under the same instance id, commits when it must not.
type client struct {
	process
	version int16
	joins   int
	synced  bool
	changed int // of its subscription
	owns    []string
}

// owner is who has a place in a group: a static member's is its instance id's.
func owner(id string, instance *string) string {
	if instance != nil {
		return "instance " + *instance
	}
	return id
}

// start is a new process.
func (c *client) start() {
	c.life++
	c.state, c.id, c.epoch, c.synced, c.owns = clientRunning, "", -1, false, nil
	c.join()
	c.later(500, c.live)
	if !c.w.calm {
		c.w.in(5000+c.w.rnd.Int64N(60_000), c.end)
	}
}

// end is how a process ends, or hands over to another.
func (c *client) end() {
	if c.w.calm {
		return
	}
	switch c.w.rnd.IntN(4) {
	case 0: // leaves
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Version, req.Group, req.MemberID = []int16{2, 5}[btoi(c.version >= 5)], c.group, c.id
		req.Members = []kmsg.LeaveGroupRequestMember{{MemberID: c.id, InstanceID: c.instance}}
		c.do("leave", 1000, call{send: func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects { return s.LeaveGroup(now, t, req) },
			done: func(any) { c.state = clientStopped }})
		c.w.in(3000+c.w.rnd.Int64N(10_000), c.start)
	case 1: // dies
		c.state = clientStopped
		c.w.in(c.w.rnd.Int64N(20_000), c.start)
	case 2: // a second process, while the first goes on for a while with what it knows
		twin := *c
		c.w.clients = append(c.w.clients, &twin)
		life := twin.life
		twin.later(1, twin.live)
		c.w.in(c.w.rnd.Int64N(20_000), func() {
			if twin.life == life {
				twin.state = clientStopped
			}
		})
		c.start()
	default:
		c.w.in(c.w.rnd.Int64N(20_000), c.end)
	}
}

// live is what a member does all the time.
func (c *client) live() {
	if c.w.calm && c.w.rnd.IntN(10) > 0 {
		c.heartbeat()
		return
	}
	switch x := c.w.rnd.IntN(20); {
	case x < 8:
		c.commit()
	case x == 8 && !c.w.calm:
		c.changed++
		c.join()
	case x == 9 && !c.w.calm && c.synced: // once more
		c.sync(nil)
	}
	c.heartbeat()
}

func (c *client) topics() []string {
	if (c.n+c.changed)%3 == 0 {
		return []string{"t0"}
	}
	return []string{"t0", "t1"}
}

func (c *client) join() {
	c.synced = false
	c.joins++
	joins := c.joins
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.ProtocolType = c.version, c.group, c.id, c.instance, consumerType
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 3000, 6000
	names := []string{"range", "sticky"}
	if (c.n+c.changed)%4 == 0 {
		slices.Reverse(names)
	}
	for _, n := range names {
		req.Protocols = append(req.Protocols, kmsg.JoinGroupRequestProtocol{Name: n, Metadata: subscription(c.topics()...)})
	}
	client := Client{ID: fmt.Sprintf("c%d", c.n), Host: "/127.0.0.1"}
	w := c.w
	inc := ""
	c.do("join", 20_000, call{
		send: func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects { return s.JoinGroup(now, t, client, req) },
		decide: func(fx shard.Effects, resp any) error {
			w.stats.Joins++
			r := resp.(*kmsg.JoinGroupResponse)
			inc = w.incarnation(c.group, len(w.log))
			if r.ErrorCode == 0 && r.MemberID != req.MemberID && len(fx.Records) > 0 && req.InstanceID != nil {
				w.stats.Replaced++
			}
			return nil
		},
		check: func(resp any, pos int) error {
			r := resp.(*kmsg.JoinGroupResponse)
			if r.ErrorCode != 0 {
				if wire.Code(r.ErrorCode) == wire.FencedInstanceID {
					w.stats.Fenced++
				}
				return nil
			}
			me := inc + " " + owner(r.MemberID, req.InstanceID)
			if had := w.newest[me]; r.Generation < had {
				return fmt.Errorf("%s joins generation %d and was assigned something in %d", me, r.Generation, had)
			}
			return nil
		},
		done: func(resp any) {
			if c.joins != joins {
				return // it has joined again since
			}
			r, _ := resp.(*kmsg.JoinGroupResponse)
			if r == nil {
				c.later(100, c.join)
				return
			}
			switch wire.Code(r.ErrorCode) {
			case wire.None:
				c.id, c.epoch, c.synced = r.MemberID, r.Generation, false
				c.sync(r)
			case wire.MemberIDRequired:
				c.id = r.MemberID
				c.join()
			case wire.FencedInstanceID:
				c.state = clientStopped // another has its place
			case wire.UnknownMemberID:
				c.id = ""
				c.later(50, c.join)
			case wire.GroupMaxSizeReached:
				c.id = ""
				c.later(3000, c.join)
			default:
				c.later(200, c.join)
			}
		}})
}

// sync asks for the assignment; with r a leader gives it. An assignment is unlike every other: so it shows whose it was.
func (c *client) sync(r *kmsg.JoinGroupResponse) {
	w := c.w
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 2, c.group, c.id, c.epoch
	if c.version >= 5 {
		req.Version, req.InstanceID = 5, c.instance
	}
	if r != nil && r.LeaderID == r.MemberID && !r.SkipAssignment {
		shares := make([][]string, len(r.Members))
		for t := range worldTopics {
			for p := range worldPartitions {
				i := w.rnd.IntN(len(r.Members))
				shares[i] = append(shares[i], fmt.Sprintf("t%d-%d", t, p))
			}
		}
		w.counter++
		for i, m := range r.Members {
			req.GroupAssignment = append(req.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: m.MemberID,
				MemberAssignment: []byte(fmt.Sprintf("%d %s", w.counter, strings.Join(shares[i], " ")))})
		}
	}
	c.do("sync", 20_000, call{
		send: func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects { return s.SyncGroup(now, t, req) },
		check: func(resp any, pos int) error {
			x := resp.(*kmsg.SyncGroupResponse)
			if x.ErrorCode != 0 {
				return nil
			}
			if pos > w.hw || pos == 0 {
				return fmt.Errorf("an assignment leaves before it is committed")
			}
			w.stats.Syncs++
			inc := w.incarnation(c.group, pos)
			me := inc + " " + owner(req.MemberID, req.InstanceID)
			if had := w.newest[me]; req.Generation < had {
				return fmt.Errorf("%s is assigned something in generation %d after %d", me, req.Generation, had)
			}
			w.newest[me] = req.Generation
			w.assured[inc] = max(w.assured[inc], req.Generation)
			stamp, parts, _ := strings.Cut(string(x.MemberAssignment), " ")
			if stamp == "" {
				return fmt.Errorf("assigned nothing; leaders leave nobody out")
			}
			key := fmt.Sprintf("%s %d", inc, req.Generation)
			if old := w.owners[key]; old != "" && old != stamp {
				return fmt.Errorf("generation %s has the assignments %s and %s", key, old, stamp)
			}
			w.owners[key] = stamp
			for _, p := range strings.Fields(parts) {
				k := key + " " + p
				if old := w.owners[k]; old != "" && old != me {
					return fmt.Errorf("%s belongs to %s and %s", k, old, me)
				}
				w.owners[k] = me
			}
			return nil
		},
		done: func(resp any) {
			if c.epoch != req.Generation || c.id != req.MemberID {
				return // it has joined again since
			}
			x, _ := resp.(*kmsg.SyncGroupResponse)
			if x == nil {
				c.later(100, c.join)
				return
			}
			switch wire.Code(x.ErrorCode) {
			case wire.None:
				c.synced = true
				c.owns = nil
				if f := strings.Fields(string(x.MemberAssignment)); len(f) > 1 {
					c.owns = f[1:]
				}
			case wire.FencedInstanceID:
				c.state = clientStopped
			case wire.UnknownMemberID:
				c.id = ""
				c.join()
			default:
				c.join()
			}
		}})
}

func (c *client) heartbeat() {
	next := func() { c.later(400+c.w.rnd.Int64N(600), c.live) }
	if !c.synced {
		next()
		return
	}
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 2, c.group, c.id, c.epoch
	if c.version >= 5 {
		req.Version, req.InstanceID = 4, c.instance
	}
	c.do("heartbeat", 2000, call{
		send: func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects { return s.Heartbeat(now, t, req) },
		done: func(resp any) {
			defer next()
			if resp == nil || c.epoch != req.Generation || c.id != req.MemberID || !c.synced {
				return
			}
			switch wire.Code(resp.(*kmsg.HeartbeatResponse).ErrorCode) {
			case wire.None:
			case wire.FencedInstanceID:
				c.state = clientStopped
			case wire.UnknownMemberID:
				c.id = ""
				c.join()
			default:
				c.join()
			}
		}})
}

// commit commits what the client owns, or believes to own.
func (c *client) commit() {
	if len(c.owns) == 0 || c.id == "" {
		return
	}
	var instance *string
	version := int16(6)
	if c.version >= 5 {
		version, instance = 9, c.instance
	}
	c.w.commitOffsets(c.group, c.id, instance, c.epoch, version, c.owns)
}

func (w *world) commitOffsets(group, id string, instance *string, generation int32, version int16, parts []string) {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = version, group, id, instance, generation
	type written struct {
		key string
		e   entry
	}
	var ws []written
	for _, tp := range parts {
		topic, n, _ := strings.Cut(tp, "-")
		w.counter++
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition, p.Offset = int32(n[0]-'0'), w.counter
		req.Topics = append(req.Topics, kmsg.OffsetCommitRequestTopic{Topic: topic, TopicID: w.topics[topic], Partitions: []kmsg.OffsetCommitRequestTopicPartition{p}})
		ws = append(ws, written{offsetKey(group, topic, p.Partition), entry{offset: p.Offset, id: w.topics[topic]}})
	}
	x := call{
		name: fmt.Sprintf("commit to %s as %q in generation %d", group, id, generation),
		send: func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects { return s.OffsetCommit(now, t, req) },
		decide: func(fx shard.Effects, resp any) error {
			for i, t := range resp.(*kmsg.OffsetCommitResponse).Topics {
				if t.Partitions[0].ErrorCode != 0 {
					continue
				}
				if len(fx.Records) != len(ws) {
					return fmt.Errorf("%d records for %d offsets", len(fx.Records), len(ws))
				}
				if i == 0 && generation >= 0 {
					if st := w.s.groups[group].state(); st == completingRebalance.String() {
						return fmt.Errorf("accepted while partitions are given out")
					}
					if by, ok := w.holds[hold{group, t.Topic, t.Partitions[0].Partition}]; ok && by != id && (t.Topic != "t1" || w.kind == worldMixed) { // t1 may be another by now, which the client does not know yet
						return fmt.Errorf("accepted from %s for %s-%d, after %s was told that it has it\n%s", id, t.Topic, t.Partitions[0].Partition, by, hardState(w.s, nil))
					}
					if g := w.assured[w.incarnation(group, len(w.log))]; generation < g {
						return fmt.Errorf("accepted in generation %d, after %d was assigned", generation, g)
					}
				}
				e := ws[i].e
				e.pos, e.wall = len(w.log), w.now.WallMs
				w.model[ws[i].key] = append(w.model[ws[i].key], e)
			}
			return nil
		},
		check: func(resp any, pos int) error {
			for i, t := range resp.(*kmsg.OffsetCommitResponse).Topics {
				if t.Partitions[0].ErrorCode != 0 {
					continue
				}
				w.stats.Commits++
				e := ws[i].e
				e.pos = pos
				if pos == 0 {
					e.pos = len(w.log)
				}
				if e.pos > w.hw {
					return fmt.Errorf("acknowledged at %d, committed to %d", e.pos, w.hw)
				}
				w.latest[ws[i].key] = e
			}
			return nil
		},
		done: func(any) {},
	}
	w.call(&x, 5000)
}

// admin is everybody else: who looks, resets and deletes.
func (w *world) admin() {
	w.in(100+w.rnd.Int64N(1500), w.admin)
	group := "g0"
	if w.rnd.IntN(2) == 0 {
		group = "g1"
	}
	if w.rnd.IntN(4) == 0 {
		group = "simple"
	}
	nothing := func(any) {}
	switch x := w.rnd.IntN(20); {
	case x < 12:
		w.fetch(group)
	case w.calm:
	case x < 16:
		w.commitOffsets(group, "", nil, -1, 9, []string{"t2-0", "t0-1"})
	case x == 16:
		w.call(&call{name: "delete of " + group, done: nothing, send: func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects {
			return s.DeleteGroup(now, t, group)
		}}, 5000)
	case x == 17:
		req := kmsg.NewPtrOffsetDeleteRequest()
		req.Group = group
		req.Topics = []kmsg.OffsetDeleteRequestTopic{{Topic: "t2", Partitions: []kmsg.OffsetDeleteRequestTopicPartition{{Partition: 0}}}}
		w.call(&call{name: "delete of offsets", done: nothing, send: func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects {
			return s.OffsetDelete(now, t, req)
		}}, 5000)
	case x == 18 && w.up && w.kind != worldMixed: // a topic is deleted, and another of its name is created; to the classic protocol it is the same
		old := w.topics["t1"]
		gone := Topic{"t1", old}
		w.gone = append(w.gone, gone)
		w.counter++
		w.topics["t1"] = wire.UUID{2, byte(w.counter), byte(w.counter >> 8)}
		for h := range w.holds {
			if h.topic == "t1" {
				delete(w.holds, h)
			}
		}
		w.undos = slices.DeleteFunc(w.undos, func(u undo) bool { return u.h.topic == "t1" })
		w.renew()
		meta := w.meta
		w.event(&call{name: "new metadata", send: func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects {
			delete(w.parked, t)
			return s.MetadataChanged(now, meta)
		}})
		w.event(&call{name: "deletion of t1", send: func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects {
			delete(w.parked, t)
			return s.TopicsDeleted(now, []Topic{gone})
		}})
	}
}

func (w *world) fetch(group string) {
	req := kmsg.NewOffsetFetchRequestGroup()
	req.Group = group
	listed := w.rnd.IntN(2) == 0
	if listed {
		for t := range worldTopics {
			name := fmt.Sprintf("t%d", t)
			req.Topics = append(req.Topics, kmsg.OffsetFetchRequestGroupTopic{Topic: name, TopicID: w.topics[name], Partitions: []int32{0, 1, 2}})
		}
	}
	w.call(&call{name: "fetch of " + group, done: func(any) {},
		send: func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects {
			return s.OffsetFetch(now, t, false, &req)
		},
		decide: func(_ shard.Effects, resp any) error {
			w.stats.Fetches++
			got := map[string]entry{}
			for _, t := range resp.(*kmsg.OffsetFetchResponseGroup).Topics {
				for _, p := range t.Partitions {
					if p.Offset >= 0 {
						got[offsetKey(group, t.Topic, p.Partition)] = entry{offset: p.Offset, id: t.TopicID}
					}
				}
			}
			for t := range worldTopics {
				for p := range int32(worldPartitions) {
					name := fmt.Sprintf("t%d", t)
					key := offsetKey(group, name, p)
					want := entry{offset: -1}
					if es := w.model[key]; len(es) > 0 {
						want = es[len(es)-1]
					}
					g, ok := got[key]
					if listed && want.offset >= 0 && want.id != req.Topics[t].TopicID {
						want.offset = -1 // of the topic before
					}
					if ok != (want.offset >= 0) || ok && (g.offset != want.offset || g.id != want.id) {
						return fmt.Errorf("%s is %v, want %v", key, g, want)
					}
				}
			}
			return nil
		}}, 5000)
}
