package group

import (
	"cmp"
	"slices"
	"strings"

	"moldau/internal/wire"
)

// Names of the assignors. For the same members in the same order they give what Kafka's give.
const (
	assignorUniform = "uniform"
	assignorRange   = "range"
)

// Assignors are all there are.
var Assignors = []string{assignorUniform, assignorRange}

// candidate is a member that partitions are to be given to.
type candidate struct {
	id, instanceID string // instanceID "" for none
	static         bool
	topics         []*TopicMetadata // subscribed to, sorted by id
	has            shares           // its last target
}

// assignment is what an assignor works on: all members, sorted by id.
type assignment struct {
	candidates []candidate
	same       bool // all are subscribed to the same topics
	// taken tells of partitions that are in somebody's last target.
	taken func(topic wire.UUID, p int32) bool
}

// assign computes the new targets, in the order of the candidates.
func (a *assignment) assign(assignor string) []shares {
	switch {
	case len(a.candidates) == 0:
		return nil
	case assignor == assignorRange:
		return a.byRange()
	case a.same:
		return a.uniform()
	}
	return a.uniformMixed()
}

// byRange gives each member a run of each topic's partitions, in the order of the members; so those with the same
// number in several topics come to the same member. Members with an instance id come first.
func (a *assignment) byRange() []shares {
	order := make([]int, len(a.candidates))
	subscribers := map[wire.UUID]int32{}
	for i := range a.candidates {
		order[i] = i
		for _, t := range a.candidates[i].topics {
			subscribers[t.ID]++
		}
	}
	slices.SortStableFunc(order, func(i, j int) int {
		x, y := &a.candidates[i], &a.candidates[j]
		switch {
		case x.static && y.static:
			return strings.Compare(x.instanceID, y.instanceID)
		case x.static:
			return -1
		case y.static:
			return 1
		}
		return strings.Compare(x.id, y.id)
	})
	type run struct{ next, extra int32 }
	runs := map[wire.UUID]*run{}
	out := make([]shares, len(a.candidates))
	for _, i := range order {
		for _, t := range a.candidates[i].topics {
			r := runs[t.ID]
			if r == nil {
				r = &run{extra: t.partitions() % subscribers[t.ID]}
				runs[t.ID] = r
			}
			quota := t.partitions() / subscribers[t.ID]
			if r.extra > 0 {
				quota++
				r.extra--
			}
			if quota == 0 {
				continue
			}
			x := share{topic: t.ID, parts: make([]int32, 0, quota)}
			for range quota {
				x.parts = append(x.parts, r.next)
				r.next++
			}
			out[i] = append(out[i], x)
		}
	}
	return out
}

type topicPartition struct {
	topic wire.UUID
	p     int32
}

// uniform gives every member the same number of partitions, one more or less, and lets each keep of what it has as much as
// that allows. All members are subscribed to the same topics.
func (a *assignment) uniform() []shares {
	topics := a.candidates[0].topics
	if len(topics) == 0 {
		return make([]shares, len(a.candidates))
	}
	var free []topicPartition
	total := 0
	wanted := make(map[wire.UUID]bool, len(topics))
	for _, t := range topics {
		wanted[t.ID] = true
		total += int(t.partitions())
		for p := range t.partitions() {
			if !a.taken(t.ID, p) {
				free = append(free, topicPartition{t.ID, p})
			}
		}
	}
	n := len(a.candidates)
	least, extra := total/n, total%n
	out := make([]shares, n)
	room := make([]int, n)
	for i := range a.candidates {
		quota, oneMore := least, extra > 0
		if oneMore {
			quota++
		}
		for _, x := range a.candidates[i].has {
			if !wanted[x.topic] {
				continue
			}
			keep := min(len(x.parts), quota)
			quota -= keep
			for _, p := range x.parts[keep:] {
				free = append(free, topicPartition{x.topic, p})
			}
			if keep > 0 {
				out[i] = append(out[i], share{topic: x.topic, parts: x.parts[:keep:keep]})
			}
		}
		// Members that can fill it get the one more, not one that it would be new to, while there are enough of them.
		if quota > 0 && oneMore && n-i > extra {
			quota--
			oneMore = false
		}
		room[i] = quota
		if oneMore {
			extra--
		}
	}
	for i := range out {
		k := min(room[i], len(free))
		out[i] = out[i].withPartitions(free[:k])
		free = free[k:]
	}
	return out
}

// withPartitions adds partitions to a target.
func (s shares) withPartitions(ps []topicPartition) shares {
	if len(ps) == 0 {
		return s
	}
	more := make(shares, len(s), len(s)+len(ps))
	copy(more, s)
	for _, tp := range ps {
		more = append(more, share{topic: tp.topic, parts: []int32{tp.p}})
	}
	return more.normal()
}

// mixed is the work of uniformMixed.
type mixed struct {
	a           *assignment
	topics      map[wire.UUID]*TopicMetadata
	subscribers map[wire.UUID][]int
	owners      map[wire.UUID][]int // -1: nobody
	sizes       []int
}

// rounds bounds how often uniformMixed goes through the topics to balance them.
const rounds = 16

// uniformMixed is uniform for members with different subscriptions: the free partitions go to whoever of a topic's
// subscribers has least, and then partitions move from who has most to who has least, as long as that helps.
func (a *assignment) uniformMixed() []shares {
	n := len(a.candidates)
	m := mixed{a: a, topics: map[wire.UUID]*TopicMetadata{}, subscribers: map[wire.UUID][]int{}, owners: map[wire.UUID][]int{}, sizes: make([]int, n)}
	for i := range a.candidates {
		for _, t := range a.candidates[i].topics {
			m.topics[t.ID] = t
			m.subscribers[t.ID] = append(m.subscribers[t.ID], i)
		}
	}
	for id, t := range m.topics {
		m.owners[id] = slices.Repeat([]int{-1}, len(t.Racks))
	}
	for i := range a.candidates {
		c := &a.candidates[i]
		for _, x := range c.has {
			if _, ok := slices.BinarySearchFunc(c.topics, x.topic, func(t *TopicMetadata, id wire.UUID) int { return compareIDs(t.ID, id) }); !ok {
				continue
			}
			owners := m.owners[x.topic]
			for _, p := range x.parts {
				if int(p) < len(owners) && p >= 0 {
					owners[p] = i
					m.sizes[i]++
				}
			}
		}
	}
	order := m.order()
	for _, id := range order {
		var b *balancer
		for p, owner := range m.owners[id] {
			if owner >= 0 {
				continue
			}
			if b == nil {
				b = newBalancer(m.sizes, m.subscribers[id])
			}
			m.give(id, p, b.least())
		}
	}
	m.balance(order)
	return m.result()
}

// order is that of the topics: those with most partitions for each subscriber first.
func (m *mixed) order() []wire.UUID {
	out := make([]wire.UUID, 0, len(m.topics))
	for id := range m.topics {
		out = append(out, id)
	}
	slices.SortFunc(out, func(a, b wire.UUID) int {
		pa, pb := float64(len(m.topics[a].Racks)), float64(len(m.topics[b].Racks))
		sa, sb := len(m.subscribers[a]), len(m.subscribers[b])
		return cmp.Or(cmp.Compare(pb/float64(sb), pa/float64(sa)), cmp.Compare(sa, sb), compareJava(a, b))
	})
	return out
}

// compareJava compares ids as Kafka does: as two signed numbers each.
func compareJava(a, b wire.UUID) int {
	ah, al := javaLongs(a)
	bh, bl := javaLongs(b)
	return cmp.Or(cmp.Compare(ah, bh), cmp.Compare(al, bl))
}

func javaLongs(id wire.UUID) (hi, lo int64) {
	for i := range 8 {
		hi = hi<<8 | int64(id[i])
		lo = lo<<8 | int64(id[8+i])
	}
	return hi, lo
}

func (m *mixed) give(topic wire.UUID, p, to int) {
	if from := m.owners[topic][p]; from >= 0 {
		m.sizes[from]--
	}
	m.owners[topic][p] = to
	m.sizes[to]++
}

func (m *mixed) balance(order []wire.UUID) {
	order = slices.DeleteFunc(slices.Clone(order), func(id wire.UUID) bool { return len(m.subscribers[id]) < 2 })
	last := -1 // where something changed most recently
	for range rounds {
		for i, id := range order {
			if i == last {
				return
			}
			if m.balanceTopic(id) > 0 || last == -1 {
				last = i
			}
		}
	}
}

// balanceTopic moves partitions of one topic, and reports how many.
func (m *mixed) balanceTopic(id wire.UUID) (moved int) {
	subscribers := m.subscribers[id]
	b := newBalancer(m.sizes, subscribers)
	if b.imbalance() <= 1 {
		return 0
	}
	owned := map[int][]int{} // partitions by owner, ascending; the last goes first
	for p, owner := range m.owners[id] {
		owned[owner] = append(owned[owner], p)
	}
	for !b.balanced() {
		most := b.most()
		for most >= 0 && len(owned[most]) == 0 {
			b.exclude()
			most = b.most()
		}
		if most < 0 {
			break
		}
		p := owned[most][len(owned[most])-1]
		owned[most] = owned[most][:len(owned[most])-1]
		least := b.least()
		if b.balanced() {
			break
		}
		m.give(id, p, least)
		moved++
	}
	return moved
}

func (m *mixed) result() []shares {
	got := make([][]topicPartition, len(m.a.candidates))
	for id, owners := range m.owners {
		for p, owner := range owners {
			if owner >= 0 {
				got[owner] = append(got[owner], topicPartition{id, int32(p)})
			}
		}
	}
	out := make([]shares, len(got))
	for i := range got {
		out[i] = shares(nil).withPartitions(got[i])
	}
	return out
}

// balancer tells whose turn it is to get a partition or to give one. It counts on each member that it names to get or
// give one.
type balancer struct {
	sizes  []int // of all members; shared
	sorted []int // members by size, then by index

	leastEnd, leastSize, leastNext      int
	mostStart, mostEnd, mostSize, mostN int
}

func newBalancer(sizes []int, members []int) *balancer {
	b := &balancer{sizes: sizes, sorted: slices.Clone(members)}
	slices.SortFunc(b.sorted, func(i, j int) int { return cmp.Or(cmp.Compare(sizes[i], sizes[j]), cmp.Compare(i, j)) })
	n := len(b.sorted)
	b.leastSize = b.sizes[b.sorted[0]] - 1
	b.mostStart, b.mostEnd = n, n
	b.mostSize = b.sizes[b.sorted[n-1]] + 1
	b.mostN = n - 1
	return b
}

func (b *balancer) imbalance() int { return b.sizes[b.sorted[len(b.sorted)-1]] - b.sizes[b.sorted[0]] }

// least names one of those that have least.
func (b *balancer) least() int {
	if b.leastNext >= b.leastEnd {
		b.leastSize++
		for b.leastEnd < len(b.sorted) && b.sizes[b.sorted[b.leastEnd]] == b.leastSize {
			b.leastEnd++
		}
		b.leastNext = 0
	}
	i := b.sorted[b.leastNext]
	b.leastNext++
	return i
}

// most names one of those that have most, -1 when all are excluded.
func (b *balancer) most() int {
	if b.mostN < b.mostStart {
		if b.mostEnd <= b.mostStart && b.mostStart > 0 {
			b.mostSize = b.sizes[b.sorted[b.mostStart-1]]
		} else {
			b.mostSize--
		}
		for b.mostStart > 0 && b.sizes[b.sorted[b.mostStart-1]] == b.mostSize {
			b.mostStart--
		}
		b.mostN = b.mostEnd - 1
	}
	if b.mostN < 0 {
		return -1
	}
	i := b.sorted[b.mostN]
	b.mostN--
	return i
}

// exclude takes out the member that most named last: it has nothing to give.
func (b *balancer) exclude() {
	b.sorted[b.mostN+1], b.sorted[b.mostEnd-1] = b.sorted[b.mostEnd-1], b.sorted[b.mostN+1]
	b.mostEnd--
}

func (b *balancer) balanced() bool { return b.mostSize-b.leastSize <= 1 }
