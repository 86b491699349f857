package group

import (
	"slices"

	"moldau/internal/wire"
)

// ownership is what a member says that it has.
type ownership struct {
	known  bool // it says so at all
	shares shares
}

// ownsAny reports whether the member may still have one of these: it does until it says that it does not.
func (o ownership) ownsAny(s shares) bool {
	if !o.known {
		return true
	}
	for i := range o.shares {
		of := s.of(o.shares[i].topic)
		if slices.ContainsFunc(o.shares[i].parts, of.has) {
			return true
		}
	}
	return false
}

// within reports whether the member has nothing but these.
func (o ownership) within(s shares) bool {
	if !o.known {
		return false
	}
	for i := range o.shares {
		of := s.of(o.shares[i].topic)
		for _, p := range o.shares[i].parts {
			if !of.has(p) {
				return false
			}
		}
	}
	return true
}

// reconcile moves a member towards its target, as far as it and others have given back what is to go. changed tells that
// its subscription did: then it loses at once what it is no longer subscribed to.
func (d *draft) reconcile(id string, target shares, owned ownership, changed bool) *refusal {
	m := d.c.members.get(id)
	epoch := d.c.target().epoch // protection: a member comes to its target's epoch
	if !changed && m.settled(epoch) {
		return nil
	}
	var next *current
	switch m.state {
	case reconciled:
		switch {
		case m.epoch != epoch:
			next = d.next(m, epoch, target, owned)
		case changed:
			next = d.without(m, owned)
		}
	case unrevoked:
		switch {
		case !owned.ownsAny(m.revoking): // protection: nothing is given away before it was given back
			next = d.next(m, epoch, target, owned)
		case changed:
			next = d.without(m, owned)
		}
	case unreleased:
		next = d.next(m, epoch, target, owned)
	default: // written by a later version
		if !owned.known || len(owned.shares) > 0 {
			return fenced("The state of the member is not known to this coordinator. It must give up all its partitions and join again.")
		}
		next = d.next(m, epoch, target, owned)
	}
	if next == nil || next.epoch == m.epoch && next.previous == m.previous && next.state == m.state &&
		next.assigned.equal(m.assigned) && next.revoking.equal(m.revoking) {
		return nil
	}
	d.noteStep(m, next)
	d.putCurrent(id, next)
	return nil
}

// wants reports whether a member is subscribed to a topic.
func (d *draft) wants(m *consumerMember) func(topic wire.UUID) bool {
	names := d.c.subscriptionOf(m)
	return func(topic wire.UUID) bool {
		t := d.s.meta.topicByID(topic)
		if t == nil {
			return false
		}
		_, found := slices.BinarySearch(names, t.Name)
		return found
	}
}

// next is the next step of m towards target: it gives back what it is not to keep; when it has, it gets what is free.
func (d *draft) next(m *consumerMember, epoch int32, target shares, owned ownership) *current {
	wants := d.wants(m)
	var keep, revoke, get shares
	waits := false
	for _, topic := range topicsOf(m.assigned, target) {
		has, to := m.assigned.of(topic), target.of(topic)
		if !wants(topic) {
			to = share{topic: topic}
		}
		kept, gone, fresh := share{topic: topic}, share{topic: topic}, share{topic: topic}
		for i, p := range has.parts {
			if to.has(p) {
				kept.add(p, has.epochs[i])
			} else {
				gone.add(p, has.epochs[i])
			}
		}
		giving := m.revoking.of(topic)
		for _, p := range to.parts {
			switch {
			case has.has(p):
			case giving.has(p) || !d.c.holders.held(topic, p): // protection: a partition has one holder
				fresh.add(p, epoch)
			default:
				waits = true
			}
		}
		for _, x := range []struct {
			to *shares
			s  share
		}{{&keep, kept}, {&revoke, gone}, {&get, fresh}} {
			if len(x.s.parts) > 0 {
				*x.to = append(*x.to, x.s)
			}
		}
	}
	if len(revoke) > 0 && owned.ownsAny(revoke) {
		return &current{epoch: m.epoch, previous: m.epoch, state: unrevoked, assigned: keep, revoking: revoke}
	}
	c := &current{epoch: epoch, previous: m.epoch, assigned: keep.with(get)}
	if waits {
		c.state = unreleased
	}
	return c
}

// without takes from m what it is no longer subscribed to, without waiting for a new target.
func (d *draft) without(m *consumerMember, owned ownership) *current {
	wants := d.wants(m)
	var keep, gone shares
	for _, s := range m.assigned {
		if wants(s.topic) {
			keep = append(keep, s)
		} else {
			gone = append(gone, s)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	c := m.current
	c.previous, c.assigned = m.epoch, keep
	if revoking := m.revoking.with(gone); owned.ownsAny(revoking) {
		c.state, c.revoking = unrevoked, revoking
	}
	return &c
}

// topicsOf are the topics of both, sorted.
func topicsOf(a, b shares) []wire.UUID {
	out := make([]wire.UUID, 0, len(a)+len(b))
	for _, s := range []shares{a, b} {
		for i := range s {
			out = append(out, s[i].topic)
		}
	}
	slices.SortFunc(out, compareIDs)
	return slices.Compact(out)
}

func fenced(message string) *refusal { return &refusal{wire.FencedMemberEpoch, message} }

// retarget makes a new target assignment for the group's epoch.
func (d *draft) retarget() {
	c := d.c
	taken := map[topicPartition]bool{}
	for _, target := range c.targets.all() {
		for i := range target {
			for _, p := range target[i].parts {
				taken[topicPartition{target[i].topic, p}] = true
			}
		}
	}
	a := assignment{same: c.allSame(), taken: func(topic wire.UUID, p int32) bool { return taken[topicPartition{topic, p}] }}
	order := slices.Clone(c.order())
	byNames := map[string][]*TopicMetadata{} // members mostly are subscribed to the same topics
	for _, id := range order {
		m := c.members.get(id)
		x := candidate{id: id, has: c.targets.get(id)}
		if m.instanceID != nil {
			x.static, x.instanceID = true, *m.instanceID
		}
		names := c.subscriptionOf(m)
		key := joinedNames(names)
		topics, ok := byNames[key]
		if !ok {
			for _, name := range names {
				if t := d.s.meta.topic(name); t != nil {
					topics = append(topics, t)
				}
			}
			slices.SortFunc(topics, func(a, b *TopicMetadata) int { return compareIDs(a.ID, b.ID) })
			byNames[key] = topics
		}
		x.topics = topics
		a.candidates = append(a.candidates, x)
	}
	for i, target := range a.assign(c.preferred(d.s.cfg.Assignors[0])) {
		if old, ok := c.targets.look(order[i]); !ok || !old.sameParts(target) {
			d.putTarget(order[i], target)
		}
	}
	d.putTargetEpoch(targetEpoch{epoch: d.c.epoch(), madeMs: d.s.now.WallMs}) // protection: a target is that of the group's epoch
}

// joinedNames is unlike that of any other names: no topic's name has a slash.
func joinedNames(names []string) string {
	n := 0
	for _, s := range names {
		n += len(s) + 1
	}
	b := make([]byte, 0, n)
	for _, s := range names {
		b = append(append(b, s...), '/')
	}
	return string(b)
}
