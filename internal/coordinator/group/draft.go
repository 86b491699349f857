package group

import (
	"slices"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

// draft is a consumer group as it will be when the records of the event are replayed: what is decided later in the
// event is decided on that. Each change is a record, and is made by what also replays it. There is one draft of a
// group in an event.
type draft struct {
	s    *Shard
	g    *group
	c    *consumer // the group's own until something changes
	own  bool      // c lies over the group's
	ends []func()  // done when the event has come to a good end
}

// refusal is why a request of the consumer protocol is not carried out.
type refusal struct {
	code    wire.Code
	message string
}

// draftOf begins a draft of g, or goes on with the one there is.
func (s *Shard) draftOf(g *group) *draft {
	if i := slices.IndexFunc(s.drafts, func(d *draft) bool { return d.g == g }); i >= 0 {
		return s.drafts[i]
	}
	d := &draft{s: s, g: g, c: g.consumer}
	if d.c == nil {
		d.c, d.own = newConsumer(), true
	}
	s.drafts = append(s.drafts, d)
	return d
}

func (d *draft) edit() *consumer {
	if !d.own {
		d.c, d.own = d.c.over(), true // protection: a draft changes nothing but itself
	}
	return d.c
}

func (d *draft) write(r shard.Record) { d.s.write(r) }

func (d *draft) putGroup(e groupEpoch) {
	d.edit().group = &e
	d.write(e.record(d.g.id))
}

func (d *draft) putTargetEpoch(e targetEpoch) {
	d.edit().made = &e
	d.write(e.record(d.g.id))
}

func (d *draft) putMeta(id string, m *memberMeta) {
	d.edit().setMeta(id, m)
	d.write(m.record(d.g.id, id))
}

func (d *draft) putCurrent(id string, c *current) {
	d.edit().setCurrent(id, c)
	d.write(c.record(d.g.id, id))
}

func (d *draft) putTarget(id string, target shares) {
	d.edit().setTarget(id, target, true)
	d.write(targetRecord(d.g.id, id, target))
}

func (d *draft) putPattern(pattern string, r *resolved) {
	d.edit().setPattern(pattern, r)
	d.write(r.record(d.g.id, pattern))
}

func (d *draft) dropPattern(pattern string) {
	if d.c.patterns[pattern] != nil {
		d.edit().setPattern(pattern, nil)
		d.write(consumerTombstone(keyConsumerPattern, d.g.id, pattern))
	}
}

func (d *draft) dropTopicRecord() {
	if d.c.topicRecord {
		d.edit().topicRecord = false
		d.write(consumerTombstone(keyConsumerTopics, d.g.id))
	}
}

// dropMember forgets a member.
func (d *draft) dropMember(id string) {
	c := d.edit()
	c.setCurrent(id, nil)
	c.setTarget(id, nil, false)
	c.setMeta(id, nil)
	d.write(consumerTombstone(keyCurrent, d.g.id, id))
	d.write(consumerTombstone(keyTarget, d.g.id, id))
	d.write(consumerTombstone(keyConsumerMember, d.g.id, id))
}

// dropGroup forgets everything but the offsets.
func (d *draft) dropGroup() {
	id := d.g.id
	c := d.edit()
	for _, m := range c.order() {
		d.write(consumerTombstone(keyCurrent, id, m))
	}
	for _, m := range c.targets.names() {
		d.write(consumerTombstone(keyTarget, id, m))
	}
	d.write(consumerTombstone(keyTargetEpoch, id))
	for _, m := range c.order() {
		d.write(consumerTombstone(keyConsumerMember, id, m))
	}
	for _, p := range sortedKeysOf(c.patterns) {
		d.write(consumerTombstone(keyConsumerPattern, id, p))
	}
	d.dropTopicRecord()
	d.write(consumerTombstone(keyConsumer, id))
	d.c = newConsumer()
}

// atEnd does something that only the process knows, once nothing can go wrong any more.
func (d *draft) atEnd(f func()) { d.ends = append(d.ends, f) }
