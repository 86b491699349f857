package group

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

// TestConsumerWorld is TestWorld with groups of the consumer protocol. The protocol does not protect from a request to join that arrives
// after the client has given it up and joined by another: it says that the member has nothing. So it does not come here.
func TestConsumerWorld(t *testing.T) { runWorlds(t, worldConsumers) }

// TestMigrationWorld is TestWorld with groups that have members of both protocols, which come and go; so they turn from
// one kind into the other all the time.
func TestMigrationWorld(t *testing.T) { runWorlds(t, worldMixed) }

// hold is a partition in a group.
type hold struct {
	group, topic string
	p            int32
}

// undo is who had what before a record that a crash may lose.
type undo struct {
	pos int
	h   hold
	by  string
}

func (w *world) isNext() bool { return w.kind != worldClassic }

// peopleNext fills a world with clients of the consumer protocol, or of both.
func (w *world) peopleNext() {
	w.holds, w.goneAt = map[hold]string{}, map[string]int{}
	w.cfg.ConsumerMaxSize = []int{3, 100, 100}[w.rnd.IntN(3)]
	w.cfg.PatternRefreshMs = 30_000
	coop := w.rnd.IntN(2) == 0
	groups := 1 + w.rnd.IntN(2)
	for i := range 3 + w.rnd.IntN(4) {
		c := &nextClient{process: process{w: w, n: i, group: fmt.Sprintf("g%d", w.rnd.IntN(groups)), frozenMs: 20_000}, old: w.kind == worldMixed && w.rnd.IntN(2) == 0, coop: coop}
		if !c.old && w.rnd.IntN(3) == 0 {
			id := fmt.Sprintf("i%d", w.rnd.IntN(3))
			c.instance = &id
		}
		w.nexts = append(w.nexts, c)
		w.in(w.rnd.Int64N(10_000), c.start)
	}
}

// renew tells the shard of the topics there are.
func (w *world) renew() {
	var topics []*TopicMetadata
	for _, name := range sortedKeysOf(w.topics) {
		topics = append(topics, NewTopicMetadata(name, w.topics[name], make([][]string, worldPartitions)))
	}
	w.counter++
	m := *metadataOfTopics(w.counter)
	m.Settings = GroupSettings{SessionTimeoutMs: 3000, HeartbeatIntervalMs: 500, AssignmentIntervalMs: 200}
	w.meta = m.WithTopics(topics)
}

// told notes that a member was told that it has these, if it still is a member.
func (w *world) told(group, member string, pos int, parts []hold) error {
	if w.goneAt[group+" "+member] > pos {
		return nil
	}
	for _, h := range parts {
		if by, ok := w.holds[h]; ok && by != member {
			state := ""
			if g := w.s.groups[group]; g != nil && g.consumer != nil {
				state = hardConsumer(g.consumer)
			}
			return fmt.Errorf("%s is told that it has %v, which %s still has\n%s", member, h, by, state)
		}
		w.holds[h] = member
		w.stats.Told++
	}
	return nil
}

// frees notes that a member has no more than these, by what is in the log.
func (w *world) frees(group, member string, keeps func(hold) bool) {
	w.freesBy(len(w.log), group, member, keeps)
}

func (w *world) freesBy(pos int, group, member string, keeps func(hold) bool) {
	for h, by := range w.holds {
		if h.group == group && by == member && !keeps(h) {
			delete(w.holds, h)
			w.undos = append(w.undos, undo{pos, h, by})
		}
	}
}

func nothing(hold) bool { return false }

// left notes that a member is one no more, by the record that is about to be appended.
func (w *world) left(group, member string) {
	pos := len(w.log) + 1
	w.freesBy(pos, group, member, nothing)
	w.goneAt[group+" "+member] = pos
}

// nextRecord notes who goes by a record that is about to be appended.
func (w *world) nextRecord(r shard.Record) {
	k, err := parseKey(r.Key)
	if err != nil {
		w.fail("%v", err)
		return
	}
	group := string(k.group)
	switch {
	case k.kind == keyCurrent && r.Value == nil:
		w.left(group, string(k.second))
	case k.kind == keyGroup && r.Value != nil:
		g, err := parseGroup(r.Value)
		if err != nil {
			w.fail("%v", err)
			return
		}
		there := map[string]bool{}
		for _, m := range g.members {
			there[m.id] = true
		}
		for h, by := range w.holds {
			if h.group == group && !there[by] {
				w.left(group, by)
			}
		}
	case k.kind == keyConsumer && r.Value == nil:
		w.stats.Downgrades++
	case k.kind == keyGroup && r.Value == nil && w.s.groups[group].classic != nil:
		for h, by := range w.holds { // who did not come back in time goes without a record
			if h.group == group && w.s.groups[group].classic.byID[by] == nil {
				w.left(group, by)
			}
		}
		if len(w.s.groups[group].classic.order) > 0 {
			w.stats.Upgrades++
		}
	}
}

// nextClient is a member of either protocol, and behaves as such, but for what processes and networks do to it.
type nextClient struct {
	process
	old      bool // speaks the classic protocol
	coop     bool // and does not give everything back when it joins again
	joined   bool
	whole    bool // the next heartbeat says everything
	changed  int
	told     int // assignments
	owns     map[hold]bool
	reported string // what it said last that it has
}

func (c *nextClient) newID() string {
	c.w.counter++
	return fmt.Sprintf("m%d-%d", c.n, c.w.counter)
}

func (c *nextClient) start() {
	c.life++
	c.state, c.epoch, c.joined, c.owns, c.whole, c.reported = clientRunning, 0, false, map[hold]bool{}, true, ""
	if c.id = c.newID(); c.old {
		c.id = ""
		c.join()
	}
	c.later(100, c.live)
	if !c.w.calm {
		c.w.in(5000+c.w.rnd.Int64N(60_000), c.end)
	}
}

func (c *nextClient) end() {
	if c.w.calm {
		return
	}
	again := func() {
		if c.w.kind == worldMixed && c.instance == nil && c.w.rnd.IntN(2) == 0 {
			c.old = !c.old
		}
		c.start()
	}
	switch c.w.rnd.IntN(4) {
	case 0, 1: // leaves
		c.leave()
		c.w.in(3000+c.w.rnd.Int64N(10_000), again)
	case 2: // dies
		c.state = clientStopped
		c.w.in(c.w.rnd.Int64N(20_000), again)
	default:
		c.w.in(c.w.rnd.Int64N(20_000), c.end)
	}
}

// leave stops to use what it has, and says so.
func (c *nextClient) leave() {
	w, id, group := c.w, c.id, c.group
	c.state = clientStopped
	x := call{name: fmt.Sprintf("leave of client %d (%s, %s)", c.n, group, id), done: func(any) {}}
	if c.old {
		req := kmsg.NewPtrLeaveGroupRequest()
		req.Version, req.Group, req.Members = 5, group, []kmsg.LeaveGroupRequestMember{{MemberID: id}}
		x.send = func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects { return s.LeaveGroup(now, t, req) }
		x.decide = func(_ shard.Effects, resp any) error {
			if r := resp.(*kmsg.LeaveGroupResponse); r.ErrorCode == 0 && r.Members[0].ErrorCode == 0 {
				w.frees(group, id, nothing)
			}
			return nil
		}
	} else {
		req := consumerReq(id, epochLeaves)
		req.Group, req.InstanceID = group, c.instance
		if c.instance != nil && w.rnd.IntN(3) > 0 {
			req.MemberEpoch = epochLeavesSoon
		}
		x.send = func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects {
			return s.ConsumerGroupHeartbeat(now, t, testClient, req)
		}
		x.decide = func(_ shard.Effects, resp any) error {
			if resp.(*kmsg.ConsumerGroupHeartbeatResponse).ErrorCode == 0 {
				w.frees(group, id, nothing)
			}
			return nil
		}
	}
	w.call(&x, 1000)
}

func (c *nextClient) live() {
	next := func() { c.later(200+c.w.rnd.Int64N(600), c.live) }
	if !c.w.calm && c.w.rnd.IntN(30) == 0 {
		c.changed++
		c.whole = true
	}
	if len(c.owns) > 0 && c.joined && c.w.rnd.IntN(3) == 0 {
		c.commit()
	}
	switch {
	case !c.old:
		c.heartbeat(next)
	case c.joined:
		c.oldHeartbeat(next)
	default:
		next()
	}
}

func (c *nextClient) commit() {
	var parts []string
	for h := range c.owns {
		parts = append(parts, fmt.Sprintf("%s-%d", h.topic, h.p))
	}
	slices.Sort(parts)
	c.w.commitOffsets(c.group, c.id, nil, c.epoch, 9, parts)
}

func (c *nextClient) names() []string {
	if (c.n+c.changed)%3 == 0 {
		return []string{"t0"}
	}
	return []string{"t0", "t1"}
}

func (c *nextClient) printOwns() string {
	var parts []string
	for h := range c.owns {
		parts = append(parts, fmt.Sprint(h))
	}
	slices.Sort(parts)
	return strings.Join(parts, " ")
}

// heartbeat sends one. A client that has given up a request says everything in the next, as it may have missed an answer: both may arrive.
func (c *nextClient) heartbeat(next func()) {
	if w := c.w; !w.calm && c.epoch != 0 && w.rnd.IntN(30) == 0 {
		lost := c.beat()
		lost.name = fmt.Sprintf("heartbeat of client %d (%s, %s, epoch %d, given up)", c.n, c.group, c.id, c.epoch)
		lost.check, lost.done = nil, func(any) {}
		w.call(&lost, 2000)
		c.whole = true
	}
	x := c.beat()
	id, epoch := c.id, c.epoch
	x.done = func(resp any) { c.answered(id, epoch, resp, next) }
	c.do("heartbeat", 2000, x)
}

// beat is a heartbeat as the client sends it now, without what it does with the answer.
func (c *nextClient) beat() call {
	w, group, id := c.w, c.group, c.id
	req := consumerReq(id, c.epoch)
	req.Group, req.InstanceID = group, c.instance
	pattern := c.changed%4 == 3
	names, none := c.names(), ""
	if c.epoch == 0 || c.whole {
		req.RebalanceTimeoutMillis = 6000
		req.SubscribedTopicNames, req.SubscribedTopicRegex = names, &none
		if pattern {
			p := "t[02]"
			req.SubscribedTopicNames, req.SubscribedTopicRegex = []string{}, &p
		}
	}
	owns := c.printOwns()
	says := map[hold]bool{}
	if c.epoch == 0 || c.whole || owns != c.reported {
		byTopic := map[string][]int32{}
		for h := range c.owns {
			says[h] = true
			byTopic[h.topic] = append(byTopic[h.topic], h.p)
		}
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		for _, name := range sortedKeysOf(byTopic) {
			slices.Sort(byTopic[name])
			req.Topics = append(req.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: w.topics[name], Partitions: byTopic[name]})
		}
	}
	c.reported = owns
	return call{once: c.epoch == 0, single: true,
		send: func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects {
			return s.ConsumerGroupHeartbeat(now, t, Client{ID: fmt.Sprint("c", c.n), Host: "/127.0.0.1"}, req)
		},
		decide: func(_ shard.Effects, resp any) error {
			r := resp.(*kmsg.ConsumerGroupHeartbeatResponse)
			if r.ErrorCode != 0 || req.Topics == nil {
				return nil
			}
			w.freesReported(group, id, says)
			return nil
		},
		check: func(resp any, pos int) error {
			r := resp.(*kmsg.ConsumerGroupHeartbeatResponse)
			if r.ErrorCode == int16(wire.FencedMemberEpoch) {
				w.stats.Fenced++
			}
			if r.ErrorCode != 0 || r.Assignment == nil {
				return nil
			}
			if pos > w.hw {
				return fmt.Errorf("an assignment leaves before it is committed")
			}
			return w.told(group, id, pos, w.holdsOf(group, r.Assignment.Topics))
		}}
}

// answered is what the client does with the answer to a heartbeat that it sent with that id and epoch.
func (c *nextClient) answered(id string, epoch int32, resp any, next func()) {
	if c.id != id {
		return
	}
	defer next()
	r, _ := resp.(*kmsg.ConsumerGroupHeartbeatResponse)
	if r == nil {
		c.whole = true
		return
	}
	if c.epoch != epoch {
		return // of an earlier request
	}
	switch wire.Code(r.ErrorCode) {
	case wire.None:
		c.epoch, c.joined, c.whole = r.MemberEpoch, true, false
		if r.Assignment != nil {
			c.assigned(c.w.holdsOf(c.group, r.Assignment.Topics))
		}
	case wire.FencedMemberEpoch, wire.UnknownMemberID, wire.GroupIDNotFound, wire.GroupMaxSizeReached:
		c.told++
		c.epoch, c.joined, c.owns, c.reported = 0, false, map[hold]bool{}, ""
	case wire.FencedInstanceID:
		c.state = clientStopped
	default:
		c.whole = true
	}
}

// holdsOf are the partitions of an answer.
func (w *world) holdsOf(group string, topics []kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic) (out []hold) {
	for _, x := range topics {
		for name, id := range w.topics {
			if id == x.TopicID {
				for _, p := range x.Partitions {
					out = append(out, hold{group, name, p})
				}
			}
		}
	}
	return out
}

// freesReported frees what a member did not say that it has, unless the coordinator thinks that it has it: it may have been told
// so and not have heard it yet.
func (w *world) freesReported(group, id string, says map[hold]bool) {
	g := w.s.groups[group]
	if g == nil || g.consumer == nil || g.consumer.members.get(id) == nil {
		return
	}
	m := g.consumer.members.get(id)
	w.frees(group, id, func(h hold) bool {
		has, gives := m.assigned.of(w.topics[h.topic]), m.revoking.of(w.topics[h.topic])
		return says[h] || has.has(h.p) || gives.has(h.p)
	})
}

// assigned takes what is new at once, and gives up what is not its own any more after a while.
func (c *nextClient) assigned(parts []hold) {
	is := map[hold]bool{}
	for _, h := range parts {
		is[h] = true
		c.owns[h] = true
	}
	c.told++
	told := c.told
	c.later(c.w.rnd.Int64N(1500), func() {
		if c.told == told {
			for h := range c.owns {
				if !is[h] {
					delete(c.owns, h)
				}
			}
		}
	})
}

func embeddedOf(parts []hold) (topics []kmsg.ConsumerMemberAssignmentTopic) {
	byTopic := map[string][]int32{}
	for _, h := range parts {
		byTopic[h.topic] = append(byTopic[h.topic], h.p)
	}
	for _, name := range sortedKeysOf(byTopic) {
		slices.Sort(byTopic[name])
		topics = append(topics, kmsg.ConsumerMemberAssignmentTopic{Topic: name, Partitions: byTopic[name]})
	}
	return topics
}

// join is JoinGroup: an eager member gives everything back before, a cooperative one says what it has.
func (c *nextClient) join() {
	w, group := c.w, c.group
	c.joined = false
	if !c.coop {
		c.owns = map[hold]bool{}
	}
	owned := map[hold]bool{}
	sub := kmsg.NewConsumerMemberMetadata()
	sub.Version, sub.Topics = 1, c.names()
	var parts []hold
	for h := range c.owns {
		owned[h] = true
		parts = append(parts, h)
	}
	for _, t := range embeddedOf(parts) {
		sub.OwnedPartitions = append(sub.OwnedPartitions, kmsg.ConsumerMemberMetadataOwnedPartition(t))
	}
	name := []string{"eager", "cooperative"}[btoi(c.coop)]
	req := joinReq(c.id)
	req.Group, req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = group, 3000, 6000
	req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: name, Metadata: sub.AppendTo(nil)}}
	c.do("join", 20_000, call{once: true,
		send: func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects {
			fx := s.JoinGroup(now, t, testClient, req)
			refused := slices.ContainsFunc(fx.Replies, func(r shard.Reply) bool {
				j, ok := r.Response.(*kmsg.JoinGroupResponse)
				return r.Ticket == t && ok && j.ErrorCode != 0
			})
			if g := s.groups[group]; !refused && g != nil && g.consumer == nil && req.MemberID != "" {
				w.frees(group, req.MemberID, func(h hold) bool { return owned[h] })
			}
			return fx
		},
		decide: func(_ shard.Effects, resp any) error {
			w.stats.Joins++
			if r := resp.(*kmsg.JoinGroupResponse); r.ErrorCode == 0 {
				w.freesReported(group, r.MemberID, owned)
			}
			return nil
		},
		done: func(resp any) {
			if c.id != req.MemberID {
				return
			}
			r, _ := resp.(*kmsg.JoinGroupResponse)
			if r == nil {
				c.later(100, c.join)
				return
			}
			switch wire.Code(r.ErrorCode) {
			case wire.None:
				c.id, c.epoch = r.MemberID, r.Generation
				c.sync(r)
			case wire.MemberIDRequired:
				c.id = r.MemberID
				c.join()
			case wire.UnknownMemberID:
				c.id, c.owns = "", map[hold]bool{}
				c.later(50, c.join)
			case wire.GroupMaxSizeReached:
				c.id, c.owns = "", map[hold]bool{}
				c.later(3000, c.join)
			default:
				c.later(200, c.join)
			}
		}})
}

// sync asks for the assignment, and makes it where the member leads a classic group.
func (c *nextClient) sync(j *kmsg.JoinGroupResponse) {
	w, group, id, generation := c.w, c.group, c.id, c.epoch
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 5, group, id, generation
	if j.LeaderID == id && !j.SkipAssignment {
		shares := make([][]hold, len(j.Members))
		for t := range worldTopics {
			for p := range int32(worldPartitions) {
				h := hold{group, fmt.Sprintf("t%d", t), p}
				var claims []int
				for i := range j.Members {
					sub, ok := parseSubscription(j.Members[i].ProtocolMetadata)
					if ok && slices.Contains(sub.owned[h.topic], p) {
						claims = append(claims, i)
					}
				}
				i := w.rnd.IntN(len(j.Members))
				if w.calm && len(claims) == 1 { // else it would never come to rest
					i = claims[0]
				}
				if len(claims) == 0 || len(claims) == 1 && claims[0] == i { // else whoever has it gives it back first
					shares[i] = append(shares[i], h)
				}
			}
		}
		for i := range j.Members {
			a := kmsg.NewConsumerMemberAssignment()
			a.Topics = embeddedOf(shares[i])
			req.GroupAssignment = append(req.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: j.Members[i].MemberID, MemberAssignment: a.AppendTo(nil)})
		}
	}
	read := func(resp any) (out []hold) {
		has, _, ok := parseAssignment(resp.(*kmsg.SyncGroupResponse).MemberAssignment)
		if !ok {
			w.fail("an assignment cannot be read")
		}
		for _, name := range sortedKeysOf(has) {
			for _, p := range has[name] {
				out = append(out, hold{group, name, p})
			}
		}
		return out
	}
	c.do("sync", 20_000, call{
		send: func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects { return s.SyncGroup(now, t, req) },
		check: func(resp any, pos int) error {
			if resp.(*kmsg.SyncGroupResponse).ErrorCode != 0 {
				return nil
			}
			w.stats.Syncs++
			return w.told(group, id, pos, read(resp))
		},
		done: func(resp any) {
			if c.id != id || c.epoch != generation {
				return
			}
			r, _ := resp.(*kmsg.SyncGroupResponse)
			switch {
			case r == nil:
				c.later(100, c.join)
			case r.ErrorCode == 0:
				gave := false
				is := map[hold]bool{}
				for _, h := range read(resp) {
					is[h] = true
				}
				for h := range c.owns {
					gave = gave || !is[h]
				}
				c.owns, c.joined = is, true
				if gave && c.coop {
					c.join()
				}
			case r.ErrorCode == int16(wire.RebalanceInProgress):
				c.join()
			default:
				c.lost(wire.Code(r.ErrorCode))
			}
		}})
}

// lost is a member that others may have taken the place of.
func (c *nextClient) lost(code wire.Code) {
	c.owns = map[hold]bool{}
	if code == wire.UnknownMemberID {
		c.id = ""
	}
	c.join()
}

func (c *nextClient) oldHeartbeat(next func()) {
	id, generation := c.id, c.epoch
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 4, c.group, id, generation
	c.do("heartbeat", 2000, call{
		send: func(s *Shard, now shard.Time, t shard.Ticket) shard.Effects { return s.Heartbeat(now, t, req) },
		done: func(resp any) {
			defer next()
			if resp == nil || c.id != id || c.epoch != generation || !c.joined {
				return
			}
			switch code := wire.Code(resp.(*kmsg.HeartbeatResponse).ErrorCode); code {
			case wire.None:
				if c.whole { // its subscription changed
					c.whole = false
					c.join()
				}
			case wire.RebalanceInProgress:
				c.join()
			case wire.UnknownMemberID, wire.IllegalGeneration:
				c.lost(code)
			}
		}})
}

// checkNextRest is whether everybody has what it is to have in the end.
func (w *world) checkNextRest() {
	owned := map[hold]int{}
	wanted := map[hold]bool{}
	for _, c := range w.nexts {
		if c.state != clientRunning {
			continue
		}
		if g := w.s.groups[c.group]; g == nil || !c.joined {
			most := w.cfg.ConsumerMaxSize
			if g != nil && g.classic != nil && c.old { // a larger one is no consumer group's beginning
				most = w.cfg.MaxSize
			}
			taken := slices.ContainsFunc(w.nexts, func(o *nextClient) bool {
				return o != c && o.state == clientRunning && o.group == c.group && c.instance != nil && o.instance != nil && *o.instance == *c.instance
			})
			if most > len(w.nexts) && !taken {
				w.fail("client %d of group %s is not at rest: %+v", c.n, c.group, c)
			}
			continue
		}
		for h := range c.owns {
			if owned[h]++; w.holds[h] != c.id {
				w.fail("client %d has %v, which is %q's", c.n, h, w.holds[h])
			}
		}
		if m := w.s.groups[c.group].consumer; m != nil && m.members.get(c.id) != nil {
			for _, name := range m.subscriptionOf(m.members.get(c.id)) {
				for p := range int32(worldPartitions) {
					wanted[hold{c.group, name, p}] = true
				}
			}
		}
	}
	for h, n := range owned {
		if n > 1 {
			w.fail("%v is had by %d", h, n)
		}
	}
	for h := range wanted {
		if owned[h] == 0 && w.topics[h.topic] != (wire.UUID{}) {
			w.fail("%v is nobody's\n%s", h, hardState(w.s, nil))
		}
	}
}
