package group

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

// What goes through many groups or offsets is done in portions, one a Tick, so that other events pass between, and
// a batch does not grow beyond what the log takes.
const (
	portionRecords  = 1000
	portionExamined = 10_000 // offsets and groups
)

// sweeps is such work, in order.
type sweeps struct {
	queue       []*sweep
	notBeforeMs int64 // of the first in the queue
	nextCheckMs int64 // when expired offsets are looked for
}

// sweep goes through the groups that existed when it began, or deletes one.
type sweep struct {
	topics []Topic // deleted; nil: looks for expired offsets
	ids    []string

	group  string // DeleteGroup
	ticket shard.Ticket
}

func (w *sweeps) next() int64 {
	if len(w.queue) > 0 {
		return w.notBeforeMs
	}
	return w.nextCheckMs
}

// sweep does the next portion that is due.
func (s *Shard) sweep() {
	w := &s.sweeps
	if s.now.MonoMs >= w.nextCheckMs {
		w.nextCheckMs = s.now.MonoMs + max(s.cfg.RetentionCheckIntervalMs, 1)
		if !slices.ContainsFunc(w.queue, func(x *sweep) bool { return x.ticket == 0 && x.topics == nil }) {
			s.enqueue(&sweep{ids: s.ids()})
		}
	}
	if len(w.queue) == 0 || s.now.MonoMs < w.notBeforeMs {
		return
	}
	x := w.queue[0]
	before := x.ids
	done := false
	if x.ticket != 0 {
		done = s.deletePortion(x)
	} else {
		done = s.sweepPortion(x)
		s.assumed = append(s.assumed, func() {
			x.ids = before
			if done {
				w.queue = slices.Insert(w.queue, 0, x)
			}
			w.notBeforeMs = s.now.MonoMs + retryMs
		})
	}
	if done {
		w.queue = slices.Delete(w.queue, 0, 1)
	}
}

func (s *Shard) enqueue(x *sweep) {
	if len(s.sweeps.queue) == 0 {
		s.sweeps.notBeforeMs = s.now.MonoMs
	}
	s.sweeps.queue = append(s.sweeps.queue, x)
}

// sweepPortion reports whether x is through. A group of which not all was seen is seen again.
func (s *Shard) sweepPortion(x *sweep) (done bool) {
	limit := len(s.fx.Records) + portionRecords
	for examined := 0; len(x.ids) > 0; x.ids = x.ids[1:] {
		if examined >= portionExamined {
			return false
		}
		g := s.groups[x.ids[0]]
		if g == nil {
			continue
		}
		all, whole := s.forget(x, g, limit, &examined)
		if !whole {
			return false
		}
		if x.topics != nil || !all || !g.isEmpty() {
			continue
		}
		if g.consumer != nil {
			if d := s.draftOf(g); d.c.members.len() == 0 && !d.own { // nothing has happened to it in this event
				d.dropGroup()
			}
		} else if c := g.classic; c != nil && c.logged && len(c.pending) == 0 {
			s.write(shard.Record{Key: groupKey(g.id)})
		}
	}
	return true
}

// forget writes tombstones for what x wants to be forgotten of g. all means every offset there is, whole
// that the limit of records was not in the way.
func (s *Shard) forget(x *sweep, g *group, limit int, examined *int) (all, whole bool) {
	all = true
	*examined++
	for i := range g.offsets {
		t := &g.offsets[i]
		*examined += len(t.parts)
		for j := range t.parts {
			c := &t.parts[j]
			if !s.forgets(x, g, t.name, c) {
				all = false
				continue
			}
			if len(s.fx.Records) >= limit {
				return false, false
			}
			s.write(offsetTombstone(g.id, t.name, c.partition))
		}
	}
	return all, true
}

func (s *Shard) forgets(x *sweep, g *group, topic string, c *committed) bool {
	if x.topics == nil {
		return s.expired(g, topic, c)
	}
	return slices.ContainsFunc(x.topics, func(t Topic) bool {
		return t.Name == topic && (c.topicID.IsZero() || c.topicID == t.ID) // protection: only the deleted topic's offsets go
	})
}

// expired reports whether the retention of an offset is over.
func (s *Shard) expired(g *group, topic string, o *committed) bool {
	base := o.commitMs
	if c := g.consumer; c != nil {
		if c.members.len() > 0 && c.subscribes(topic) { // protection: offsets in use by a consumer group
			return false
		}
		if c.members.len() == 0 {
			base = max(base, c.target().madeMs) // protection: retention begins when a consumer group becomes empty; Kafka does not know that of consumer groups
		}
	} else if c := g.classic; c != nil && c.protocolType != "" {
		switch {
		case c.state == empty:
			// Since the group became empty; with Kafka an offset that was set later, by an administrator say, goes as early.
			base = max(base, c.stateSinceMs) // protection: retention begins when a group becomes empty
		case c.state != stable || c.protocolType != consumerType || c.subscribes(topic): // protection: offsets in use
			return false
		}
	}
	if o.expireMs >= 0 {
		return s.now.WallMs >= o.expireMs
	}
	return s.now.WallMs-base >= s.cfg.OffsetsRetentionMs
}

// TopicsDeleted forgets the offsets of topics that are gone: those committed for the id given, or for none.
// The work is done in portions, by Tick.
func (s *Shard) TopicsDeleted(now shard.Time, topics []Topic) shard.Effects {
	s.begin(now)
	if len(topics) > 0 {
		s.enqueue(&sweep{topics: slices.Clone(topics), ids: s.ids()})
	}
	return s.end()
}

// DeleteGroup is answered by a *kmsg.DeleteGroupsResponseGroup.
func (s *Shard) DeleteGroup(now shard.Time, t shard.Ticket, group string) shard.Effects {
	s.begin(now)
	x := &sweep{group: group, ticket: t}
	if s.groups[group] == nil {
		s.answerDelete(x, wire.GroupIDNotFound)
	} else if !s.deletePortion(x) {
		s.enqueue(x)
	}
	return s.end()
}

func (s *Shard) answerDelete(x *sweep, code wire.Code) {
	r := kmsg.NewDeleteGroupsResponseGroup()
	r.Group, r.ErrorCode = x.group, int16(code)
	s.reply(x.ticket, &r)
}

// deletePortion reports whether the group is deleted, or cannot be. Whatever is committed meanwhile goes too:
// it was not committed after the deletion.
func (s *Shard) deletePortion(x *sweep) (done bool) {
	g := s.groups[x.group]
	switch {
	case g == nil:
		s.answerDelete(x, wire.None)
		return true
	case !g.isEmpty():
		s.answerDelete(x, wire.NonEmptyGroup)
		return true
	}
	n := 0
	for i := range g.offsets {
		for j := range g.offsets[i].parts {
			if n++; n > portionRecords {
				s.assumed = append(s.assumed, func() {
					s.sweeps.queue = slices.DeleteFunc(s.sweeps.queue, func(y *sweep) bool { return y == x })
					s.answerDelete(x, CodeFor(s.failure))
				})
				return false
			}
			s.write(offsetTombstone(g.id, g.offsets[i].name, g.offsets[i].parts[j].partition))
		}
	}
	s.note(g.id, Event{Kind: Deleted, ifWritten: true})
	if g.consumer != nil {
		s.draftOf(g).dropGroup()
	}
	if c := g.classic; c != nil && c.logged {
		s.write(shard.Record{Key: groupKey(g.id)})
	} else if c != nil {
		s.dropClassic(g)
		s.tidy(g)
	}
	s.answerDelete(x, wire.None)
	return true
}
