package group

import (
	"slices"
	"strings"

	"moldau/internal/coordinator/shard"
	"moldau/internal/wire"
)

// What happened to a group is kept for people: who came and went and why, how long each rebalance took and who was waited
// for. It is no part of the state (G1): nothing is decided by it, it is lost with the process, and it forgets.
//
// An event of the core leaves notes. They become history when the next event begins, as only then it is known whether what the
// event decided was written: what was not has not happened. A history is bounded in events, all histories of a shard in bytes; the
// group that has most makes room for the others.

// EventKind is what happened.
type EventKind string

// What happens to a group.
const (
	Joined     EventKind = "joined"
	Rejoined   EventKind = "rejoined"  // a member asked for a rebalance, Why says what for
	Left       EventKind = "left"      // said so
	Kicked     EventKind = "kicked"    // an administrator said so
	Away       EventKind = "away"      // a static member of the consumer protocol said that it will be back
	Removed    EventKind = "removed"   // Why says what for
	Restarted  EventKind = "restarted" // a static member is another process now
	Fenced     EventKind = "fenced"    // a request of somebody whose place another has
	Refused    EventKind = "refused"   // somebody who wanted to join
	Topics     EventKind = "topics"    // the topics that the group is subscribed to are others, or have other partitions
	Upgraded   EventKind = "upgraded"  // from the classic to the consumer protocol
	Downgraded EventKind = "downgraded"
	Unwritten  EventKind = "unwritten" // an assignment could not be written
	Deleted    EventKind = "deleted"
	Rebalanced EventKind = "rebalanced" // a rebalance ended
)

// Notes that become part of a Rebalanced.
const (
	noteBegan       EventKind = "(began)"
	noteCame        EventKind = "(came)"        // a member that the rebalance waited for
	noteAllJoined   EventKind = "(all joined)"  // the classic protocol's first half is over
	noteInterrupted EventKind = "(interrupted)" // another begins
	noteDone        EventKind = "(done)"
)

// Reason is why something happened; "" is that there is nothing to say.
type Reason string

// Why something happens.
const (
	SessionTimeout    Reason = "session timeout"    // no heartbeat came
	RebalanceTimeout  Reason = "rebalance timeout"  // it did not join again
	SyncTimeout       Reason = "sync timeout"       // it did not ask for its assignment
	RevocationTimeout Reason = "revocation timeout" // it did not give its partitions back
	JoinTimeout       Reason = "join timeout"       // a newcomer's rebalance took too long
	GroupFull         Reason = "group full"
	OtherProtocol     Reason = "inconsistent protocol"
	NewSubscription   Reason = "new subscription"
	LeaderAsked       Reason = "leader asked"
	EpochAgain        Reason = "joined again"
	Quietly           Reason = "without a rebalance"
	StaleEpoch        Reason = "stale member epoch"
	PlaceTaken        Reason = "instance id in use"
)

// For what a rebalance waits.
const (
	toJoinAgain = "join again"
	toAssign    = "assign partitions"
	toGiveBack  = "give back partitions"
	toHeartbeat = "send a heartbeat"
	toSyncAgain = "ask for its assignment"
)

// waitedInVain is what a rebalance that goes on wanted of a member that was removed.
var waitedInVain = map[Reason]string{SessionTimeout: toHeartbeat, RebalanceTimeout: toJoinAgain, SyncTimeout: toSyncAgain, RevocationTimeout: toGiveBack}

// MemberName says who a member is. Long texts are cut.
type MemberName struct {
	ID         string `json:"memberId,omitempty"`
	InstanceID string `json:"instanceId,omitempty"`
	ClientID   string `json:"clientId,omitempty"`
	Host       string `json:"host,omitempty"`
}

// Event is something that happened to a group.
type Event struct {
	AtMs      int64      `json:"atMs"` // wall clock; of the last time, if there are several
	Kind      EventKind  `json:"kind"`
	Member    MemberName `json:"member,omitzero"`
	Before    string     `json:"memberIdBefore,omitempty"` // Restarted: the id that is void now
	Why       Reason     `json:"why,omitempty"`
	LimitMs   int64      `json:"limitMs,omitempty"` // the timeout that Why speaks of
	Said      string     `json:"said,omitempty"`    // by the client (KIP-800), or to it
	Times     int        `json:"times,omitempty"`   // in a row, if more than one
	Rebalance *Rebalance `json:"rebalance,omitempty"`

	ifWritten bool // has happened only if the records of the event were written
}

// Rebalance is how one went, or goes.
type Rebalance struct {
	BeganMs     int64      `json:"beganMs"` // wall clock
	TookMs      int64      `json:"tookMs"`
	Because     EventKind  `json:"because,omitempty"`
	Why         Reason     `json:"why,omitempty"`
	By          MemberName `json:"by,omitzero"`
	Epoch       int32      `json:"epoch"`   // the generation, or epoch of the group, that it led to
	Members     int        `json:"members"` // then
	Interrupted bool       `json:"interrupted,omitempty"`
	DelayMs     int64      `json:"delayMs,omitempty"`   // group.initial.rebalance.delay.ms, for more members
	JoinMs      int64      `json:"joinMs,omitempty"`    // classic: until all had joined again,
	AssignMs    int64      `json:"assignMs,omitempty"`  // and from then on until the leader had assigned
	WaitedFor   []Wait     `json:"waitedFor,omitempty"` // the longest first, at most three
}

// Wait is for whom a rebalance waited, what for, and how long since it began.
type Wait struct {
	Member MemberName `json:"member"`
	To     string     `json:"to"`
	Ms     int64      `json:"ms"`
}

// History is what is known of a group's past and present. It is the caller's.
type History struct {
	Group   string     `json:"group"`
	Exists  bool       `json:"exists"` // now
	Type    string     `json:"type,omitempty"`
	State   string     `json:"state,omitempty"`
	Epoch   int32      `json:"epoch"`
	Members int        `json:"members"`
	SinceMs int64      `json:"sinceMs"`             // nothing before is known: the coordinator began to serve the group
	Dropped int        `json:"dropped"`             // older events that made room
	Events  []Event    `json:"events"`              // the oldest first
	Open    *Rebalance `json:"rebalance,omitempty"` // goes on; WaitedFor is for whom it waits now
	Waiting int        `json:"waitingFor"`          // of how many these are the first
}

// Bounds of what is kept.
const (
	historyEvents  = 200 // of a group
	historyText    = 120 // bytes of a text
	historyWaits   = 3
	historyWaiting = 10

	// Bytes beside their texts, at most.
	eventBytes     = 2 * 168 // a list that grows has room for as many again
	rebalanceBytes = 192
	waitBytes      = 2 * 88
)

// histories are those of a shard.
type histories struct {
	notes   []note // of the event that goes on, or has just been
	of      map[string]*history
	bytes   int
	seq     uint64
	sinceMs int64
}

// note is an Event, or part of one, on its way into a history.
type note struct {
	group string
	now   shard.Time
	Event
	epoch   int32
	members int
	to      string
	delayMs int64
}

type history struct {
	events  []Event
	bytes   int
	dropped int
	touched uint64 // when it grew last
	open    *open
}

// open is a rebalance that goes on.
type open struct {
	Rebalance
	began, joined shard.Time
}

func (x *open) since(now shard.Time) int64 { return max(now.MonoMs-x.began.MonoMs, 0) }

func (m *member) name() MemberName { return memberName(m.id, m.instanceID, m.clientID, m.host) }

func (m *consumerMember) name() MemberName {
	return memberName(m.id, m.instanceID, m.clientID, m.clientHost)
}

func memberName(id string, instanceID *string, clientID, host string) MemberName {
	n := MemberName{ID: cut(id), ClientID: cut(clientID), Host: cut(strings.TrimPrefix(host, "/"))}
	if instanceID != nil {
		n.InstanceID = cut(*instanceID)
	}
	return n
}

func cut(text string) string {
	if len(text) <= historyText {
		return text
	}
	return strings.ToValidUTF8(text[:historyText], "") + "…"
}

func said(text *string) string {
	if text == nil {
		return ""
	}
	return cut(*text)
}

// note takes down what the event does to a group.
func (s *Shard) note(group string, e Event) { s.take(note{group: group, Event: e}) }

func (s *Shard) take(n note) {
	if s.cfg.HistoryBytes > 0 {
		n.now, n.AtMs = s.now, s.now.WallMs
		s.past.notes = append(s.past.notes, n)
	}
}

// noteBegan takes down that a rebalance begins, because of what was noted of the group before in this event.
func (s *Shard) noteBegan(group string, delayMs int64, ifWritten bool) {
	n := note{group: group, Event: Event{Kind: noteBegan, ifWritten: ifWritten}, delayMs: delayMs}
	n.Rebalance = &Rebalance{}
	for i := len(s.past.notes) - 1; i >= 0; i-- {
		if x := &s.past.notes[i]; x.group == group && x.Kind[0] != '(' {
			n.Rebalance.because(&x.Event)
			s.take(n)
			return
		}
	}
	if h := s.past.of[group]; h != nil && len(h.events) > 0 { // it turned into a classic group by the event before
		n.Rebalance.because(&h.events[len(h.events)-1])
	}
	s.take(n)
}

func (x *Rebalance) because(e *Event) { x.Because, x.Why, x.By = e.Kind, e.Why, e.Member }

// noteCame takes down that a member has done what the rebalance waited for.
func (s *Shard) noteCame(group string, m MemberName, to string, ifWritten bool) {
	s.take(note{group: group, Event: Event{Kind: noteCame, Member: m, ifWritten: ifWritten}, to: to})
}

// noteFenced takes down a request of somebody whose place another has.
func (s *Shard) noteFenced(group, id string, instanceID *string, code wire.Code) {
	if code == wire.FencedInstanceID {
		s.note(group, Event{Kind: Fenced, Member: memberName(id, instanceID, "", "")})
	}
}

// noteRefused takes down why the heartbeat of a consumer group was refused, where it says something about the group.
func (s *Shard) noteRefused(group, id string, instanceID *string, why *refusal) {
	if s.groups[group] == nil {
		return
	}
	e := Event{Kind: Fenced, Member: memberName(id, instanceID, "", ""), Said: cut(why.message)}
	switch why.code {
	case wire.FencedInstanceID:
	case wire.FencedMemberEpoch:
		e.Why = StaleEpoch
	case wire.UnreleasedInstanceID:
		e.Kind, e.Why = Refused, PlaceTaken
	case wire.GroupMaxSizeReached:
		e.Kind, e.Why = Refused, GroupFull
	default:
		return
	}
	s.note(group, e)
}

// noteMember takes down what the draft does to a member.
func (d *draft) noteMember(e Event, id string) {
	if m := d.c.members.get(id); m != nil {
		e.Member = m.name()
	} else {
		e.Member.ID = cut(id)
	}
	e.ifWritten = true
	d.s.note(d.g.id, e)
}

// noteOverdue takes down that a member of a consumer group did not do in time what it was to do.
func (s *Shard) noteOverdue(g *group, m *consumerMember, d duty) {
	e := Event{Kind: Removed, Member: m.name(), LimitMs: int64(m.rebalanceTimeoutMs), ifWritten: true}
	switch d {
	case toLive:
		e.Why, e.LimitMs = SessionTimeout, s.meta.settings(g.id).SessionTimeoutMs
		if m.classic != nil {
			e.LimitMs = int64(m.classic.sessionTimeoutMs)
		}
	case toRevoke:
		e.Why = RevocationTimeout
	case toRejoin:
		e.Why = RebalanceTimeout
	case toSync:
		e.Why = SyncTimeout
	}
	s.note(g.id, e)
}

// noteStep takes down what a member of a consumer group has done of what others wait for.
func (d *draft) noteStep(m *consumerMember, next *current) {
	switch {
	case m.state == unrevoked && next.state != unrevoked:
		d.s.noteCame(d.g.id, m.name(), toGiveBack, true)
	case m.state == reconciled && m.epoch > 0 && next.state == reconciled && next.epoch != m.epoch:
		d.s.noteCame(d.g.id, m.name(), toHeartbeat, true)
	}
}

// noteSettled takes down that a rebalance of a consumer group is over, if it is.
func (d *draft) noteSettled() {
	if d.own && d.c.allSettled() {
		d.s.take(note{group: d.g.id, Event: Event{Kind: noteDone, ifWritten: true}, epoch: d.c.epoch(), members: d.c.members.len()})
	}
}

// remember makes history of the notes of the event before.
func (s *Shard) remember() {
	for i := range s.past.notes {
		s.past.fold(&s.past.notes[i])
	}
	clear(s.past.notes)
	s.past.notes = s.past.notes[:0]
	if s.past.bytes > s.cfg.HistoryBytes {
		s.past.makeRoom(s.cfg.HistoryBytes * 3 / 4)
	}
}

// unwritten forgets the notes of what was not written.
func (p *histories) unwritten() {
	p.notes = slices.DeleteFunc(p.notes, func(n note) bool { return n.ifWritten })
}

func (p *histories) fold(n *note) {
	h := p.of[n.group]
	if h == nil {
		if n.Kind[0] == '(' && n.Kind != noteBegan {
			return
		}
		if p.of == nil {
			p.of = map[string]*history{}
		}
		h = &history{bytes: len(n.group) + historyText}
		p.of[n.group] = h
		p.bytes += h.bytes
	}
	x := h.open
	switch n.Kind {
	case noteBegan:
		if x == nil {
			h.open = &open{Rebalance: *n.Rebalance, began: n.now}
			h.open.BeganMs, h.open.DelayMs = n.now.WallMs, n.delayMs
		}
	case noteCame:
		if x != nil {
			x.wait(n.Member, n.to, x.since(n.now))
		}
	case noteAllJoined:
		if x != nil {
			x.joined, x.JoinMs = n.now, x.since(n.now)
		}
	case noteInterrupted, noteDone:
		if x == nil {
			return
		}
		x.TookMs, x.Epoch, x.Members, x.Interrupted = x.since(n.now), n.epoch, n.members, n.Kind == noteInterrupted
		if n.to != "" {
			x.AssignMs = max(n.now.MonoMs-x.joined.MonoMs, 0)
			if x.AssignMs > 0 {
				x.wait(n.Member, n.to, x.AssignMs)
			}
		}
		slices.SortStableFunc(x.WaitedFor, func(a, b Wait) int { return int(min(max(b.Ms-a.Ms, -1), 1)) })
		done := x.Rebalance
		h.open = nil
		p.add(h, Event{AtMs: n.AtMs, Kind: Rebalanced, Rebalance: &done})
	default:
		if to := waitedInVain[n.Why]; n.Kind == Removed && to != "" && x != nil {
			x.wait(n.Member, to, x.since(n.now))
		}
		if n.Kind == Deleted {
			h.open = nil
		}
		p.add(h, n.Event)
	}
}

// wait keeps the longest waits. They come in order, but for that for the leader.
func (x *Rebalance) wait(m MemberName, to string, ms int64) {
	if ms <= 0 {
		return
	}
	x.WaitedFor = append(x.WaitedFor, Wait{m, to, ms})
	if len(x.WaitedFor) > historyWaits {
		least := 0
		for i := range x.WaitedFor {
			if x.WaitedFor[i].Ms < x.WaitedFor[least].Ms {
				least = i
			}
		}
		x.WaitedFor = slices.Delete(x.WaitedFor, least, least+1)
	}
}

func (m *MemberName) bytes() int {
	return len(m.ID) + len(m.InstanceID) + len(m.ClientID) + len(m.Host)
}

// bytes is what an event takes, texts that it shares with others counted once for each.
func (e *Event) bytes() int {
	n := eventBytes + e.Member.bytes() + len(e.Before) + len(e.Said)
	if x := e.Rebalance; x != nil {
		n += rebalanceBytes + x.By.bytes()
		for i := range x.WaitedFor {
			n += waitBytes + x.WaitedFor[i].Member.bytes()
		}
	}
	return n
}

// add appends an event. What repeats itself is one.
func (p *histories) add(h *history, e Event) {
	p.seq++
	h.touched = p.seq
	if n := len(h.events); n > 0 && e.Rebalance == nil {
		last := &h.events[n-1]
		if last.Kind == e.Kind && last.Member == e.Member && last.Why == e.Why && last.Said == e.Said && last.Before == e.Before {
			last.AtMs, last.Times = e.AtMs, max(last.Times, 1)+1
			return
		}
	}
	h.events = append(h.events, e)
	p.grow(h, e.bytes())
	if len(h.events) > historyEvents {
		p.drop(h, 1)
	}
}

func (p *histories) grow(h *history, bytes int) {
	h.bytes += bytes
	p.bytes += bytes
}

func (p *histories) drop(h *history, n int) {
	for i := range h.events[:n] {
		p.grow(h, -h.events[i].bytes())
	}
	h.events = slices.Clone(h.events[n:])
	h.dropped += n
}

// makeRoom halves the largest histories, of equals the one that grew least recently, until all together are no larger than limit.
func (p *histories) makeRoom(limit int) {
	for p.bytes > limit && len(p.of) > 0 {
		var most *history
		of := ""
		for id, h := range p.of {
			if most == nil || h.bytes > most.bytes || h.bytes == most.bytes && h.touched < most.touched {
				most, of = h, id
			}
		}
		if len(most.events) > 1 {
			p.drop(most, (len(most.events)+1)/2)
			continue
		}
		p.bytes -= most.bytes
		delete(p.of, of)
	}
}

// History is answered by a *History. It does not wait for the log, see Committed.
func (s *Shard) History(now shard.Time, t shard.Ticket, group string) shard.Effects {
	s.begin(now)
	r := &History{Group: group, SinceMs: s.past.sinceMs, Events: []Event{}}
	h, g := s.past.of[group], s.groups[group]
	if h != nil {
		r.Dropped = h.dropped
		r.Events = append(r.Events, h.events...)
		if h.open != nil {
			o := h.open.Rebalance
			o.TookMs, o.WaitedFor = h.open.since(now), nil
			r.Open = &o
		}
	}
	if g != nil {
		r.Exists, r.State, r.Type, r.Members = true, g.state(), typeClassic, g.size()
		switch {
		case g.consumer != nil:
			r.Type, r.Epoch = typeConsumer, g.consumer.epoch()
		case g.classic != nil:
			r.Epoch = g.classic.generation
		}
		if r.Open != nil {
			g.waitsFor(r)
		}
	}
	s.replyEarly(t, r)
	return s.end()
}

// waitsFor finds for whom the rebalance of g waits now.
func (g *group) waitsFor(r *History) {
	wait := func(m MemberName, to string) {
		if r.Waiting++; r.Waiting <= historyWaiting {
			r.Open.WaitedFor = append(r.Open.WaitedFor, Wait{m, to, r.Open.TookMs})
		}
	}
	if c := g.consumer; c != nil {
		for _, id := range c.order() {
			switch m := c.members.get(id); {
			case m.state == unrevoked:
				wait(m.name(), toGiveBack)
			case m.epoch != c.epoch():
				wait(m.name(), toHeartbeat)
			}
		}
		return
	}
	c := g.classic
	if c == nil {
		return
	}
	for _, m := range c.order {
		switch {
		case c.state == preparingRebalance && m.join == 0:
			wait(m.name(), toJoinAgain)
		case c.state == completingRebalance && m.id == c.leader:
			wait(m.name(), toAssign)
		}
	}
}
