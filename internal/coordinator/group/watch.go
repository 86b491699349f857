package group

import (
	"maps"
	"slices"
)

// duty is what a member of a consumer group is to do in time.
type duty uint8

const (
	toLive   duty = iota // send a heartbeat
	toRevoke             // say that it has given back what it is to give back
	toRejoin             // as a member that speaks the classic protocol: join again
	toSync               // and then ask for its assignment
	duties
)

// watch looks after one member of a consumer group. It is lost with the process, and begins anew when the shard is loaded.
type watch struct {
	of     watchKey
	alarms [duties]alarm

	epoch    int32  // toRevoke: the member's when it began
	revoking shares // and what it has to give back
}

type watchKey struct{ group, member string }

// duty gives a member time for something.
func (s *Shard) duty(group, member string, d duty, ms int64) *watch {
	key := watchKey{group, member}
	w := s.watches[key]
	if w == nil {
		w = &watch{of: key}
		s.watches[key] = w
	}
	s.timers.setDuty(w, d, s.now.MonoMs+max(ms, 0))
	return w
}

// done takes a duty from a member.
func (s *Shard) done(group, member string, d duty) {
	if w := s.watches[watchKey{group, member}]; w != nil {
		s.timers.cancel(&w.alarms[d])
	}
}

// unwatch looks after a member no more.
func (s *Shard) unwatch(group, member string) {
	key := watchKey{group, member}
	if w := s.watches[key]; w != nil {
		for d := range w.alarms {
			s.timers.cancel(&w.alarms[d])
		}
		delete(s.watches, key)
	}
}

// watchMember begins a member's session anew, and tells it to give back what it is to give back. Members that
// speak the classic protocol join again for that.
func (s *Shard) watchMember(group string, m *consumerMember, sessionMs int64) {
	if m.classic != nil {
		sessionMs = int64(m.classic.sessionTimeoutMs)
	}
	w := s.duty(group, m.id, toLive, sessionMs)
	if !m.owes() {
		s.done(group, m.id, toRevoke)
	} else if !w.alarms[toRevoke].armed || w.epoch != m.epoch || !w.revoking.sameParts(m.revoking) { // protection: time to give back
		w.epoch, w.revoking = m.epoch, m.revoking
		s.duty(group, m.id, toRevoke, int64(m.rebalanceTimeoutMs))
	}
}

// watchAll sees to it that every member of a consumer group is looked after.
func (s *Shard) watchAll(g *group) {
	if g.consumer == nil {
		return
	}
	sessionMs := s.meta.settings(g.id).SessionTimeoutMs
	for _, id := range g.consumer.order() {
		m := g.consumer.members.get(id)
		if w := s.watches[watchKey{g.id, id}]; w == nil || !w.alarms[toLive].armed || m.owes() && !w.alarms[toRevoke].armed {
			s.watchMember(g.id, m, sessionMs)
		}
	}
}

// expireDuty fences a member that did not do in time what it was to do.
func (s *Shard) expireDuty(w *watch, d duty) {
	g := s.groups[w.of.group]
	var m *consumerMember
	if g != nil && g.consumer != nil {
		m = s.draftOf(g).c.members.get(w.of.member)
	}
	switch {
	case m == nil:
		s.unwatch(w.of.group, w.of.member)
	case d == toRevoke && m.epoch != w.epoch: // it has moved on
	default:
		s.noteOverdue(g, m, d)
		s.draftOf(g).fence(m.id)
		s.finish()
	}
}

func sortedKeysOf[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
