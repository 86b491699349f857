// Package quota is Kafka's client quotas: which rule limits whom (KIP-124, 546, 599, 612), how much each client used
// lately, and for how long it has to wait. It is passive: who asks brings the time, and does the waiting.
//
// Invariants:
//  1. Rules never change. New ones share nothing with those they came from that could change.
//  2. A limit of one key never hides that of another: precedence is asked for each key by itself, as Kafka does.
//  3. A Meter says to the millisecond what Kafka's sensors say, but of bytes, which are taken out of a bucket (docs/adr/0019);
//     testdata/kafka.txt holds their answers.
//  4. A Meter that is Forgotten says what a new one would. So meters need to be kept for who was active lately only, not for an hour as in
//     Kafka, and a name of any length costs no more than a short one.
//
// Door: Rules.Account and Rules.AddressAccount say who pays and how much is allowed, a Meter takes the charges. Meters have no lock; who
// holds them has.
package quota

import (
	"cmp"
	"fmt"
	"iter"
	"maps"
	"net/netip"
)

// Key is what a quota limits.
type Key uint8

// Keys, with Kafka's names (see Key.String). Rates are per second.
const (
	ProducerByteRate Key = iota
	ConsumerByteRate
	RequestPercentage
	ControllerMutationRate
	ConnectionCreationRate // of ip entities only

	keys
)

var keyNames = [keys]string{"producer_byte_rate", "consumer_byte_rate", "request_percentage", "controller_mutation_rate", "connection_creation_rate"}

// String is Kafka's name of the key.
func (k Key) String() string { return keyNames[k] }

// Keys calls yield for each key, in their order.
func Keys(yield func(Key) bool) {
	for k := range keys {
		if !yield(k) {
			return
		}
	}
}

// KeyOf is the key with a name of Kafka's, and whether there is one.
func KeyOf(name string) (Key, bool) {
	for k, n := range keyNames {
		if n == name {
			return Key(k), true
		}
	}
	return 0, false
}

// Valid says whether v can be a limit. Nothing at all is not one, as in Kafka; without a limit is (+Inf).
func Valid(v float64) bool { return v > 0 }

// Part is one part of the name of an entity. The zero Part says that the entity has no such part.
type Part struct {
	kind partKind
	name string
}

type partKind uint8

const (
	absent partKind = iota
	byDefault
	named
)

// Default is the part that stands for every name without a rule of its own.
var Default = Part{kind: byDefault}

// Named is the part with that name, which may be empty.
func Named(name string) Part { return Part{kind: named, name: name} }

// Present says whether an entity has the part.
func (p Part) Present() bool { return p.kind != absent }

// IsDefault says whether it is the default part.
func (p Part) IsDefault() bool { return p.kind == byDefault }

// Name is the name, "" of the default part.
func (p Part) Name() string { return p.name }

// Entity is whom a rule is about. Users and client ids may stand together, an ip stands alone.
type Entity struct{ User, ClientID, IP Part }

// Types of parts of an entity, with Kafka's names.
const (
	UserType     = "user"
	ClientIDType = "client-id"
	IPType       = "ip"
)

// Part is the part of a type, nil of an unknown one.
func (e *Entity) Part(of string) *Part {
	switch of {
	case UserType:
		return &e.User
	case ClientIDType:
		return &e.ClientID
	case IPType:
		return &e.IP
	}
	return nil
}

// Parts calls yield for each part that is present, with its type.
func (e Entity) Parts(yield func(of string, p Part) bool) {
	for _, of := range [...]string{UserType, ClientIDType, IPType} {
		if p := *e.Part(of); p.Present() && !yield(of, p) {
			return
		}
	}
}

// Compare orders entities by user, client id and ip: who has no such part comes first, then the default, then names.
func (e Entity) Compare(x Entity) int {
	return cmp.Or(e.User.compare(x.User), e.ClientID.compare(x.ClientID), e.IP.compare(x.IP))
}

func (p Part) compare(x Part) int {
	return cmp.Or(cmp.Compare(p.kind, x.kind), cmp.Compare(p.name, x.name))
}

// PlainAddress is the one spelling in which an address is the name of an entity, and whether it is an address at all.
func PlainAddress(s string) (string, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return s, false
	}
	return a.Unmap().String(), true
}

// MaxNameBytes bounds a name in an entity with a rule. Kafka has no bound; here an entity is a key of the metadata store.
const MaxNameBytes = 4096

// Problem says why there can be no rule for an entity, "" where there can.
func (e Entity) Problem() string {
	switch {
	case e == Entity{}:
		return "an entity without a user, a client id and an ip"
	case e.IP.Present() && (e.User.Present() || e.ClientID.Present()):
		return "an ip together with a user or a client id"
	}
	for _, p := range [...]Part{e.User, e.ClientID, e.IP} {
		switch {
		case p.kind == named && p.name == "":
			return "an empty name"
		case len(p.name) > MaxNameBytes:
			return fmt.Sprintf("a name of %d bytes, more than %d", len(p.name), MaxNameBytes)
		}
	}
	return ""
}

// Has says whether a rule for the entity may limit a key.
func (e Entity) Has(k Key) bool { return e.IP.Present() == (k == ConnectionCreationRate) }

// Limits are the limits of one entity.
type Limits struct {
	set   uint8
	value [keys]float64
}

// Get is the limit of a key, and whether there is one.
func (l Limits) Get(k Key) (float64, bool) { return l.value[k], l.set&(1<<k) != 0 }

// With is l with a limit.
func (l Limits) With(k Key, v float64) Limits {
	l.set |= 1 << k
	l.value[k] = v
	return l
}

// Without is l without a limit of k.
func (l Limits) Without(k Key) Limits {
	l.set &^= 1 << k
	l.value[k] = 0
	return l
}

// Empty says that nothing is limited.
func (l Limits) Empty() bool { return l.set == 0 }

// Rules are all quotas of a cluster. A nil *Rules has none.
type Rules struct {
	// parts are the rules, by the hash of their entities: a change copies those parts that it touches, whatever there is besides. An empty
	// one is nil.
	parts [256]map[Entity]Limits
	count int
}

// part is the index of an entity's part: FNV-1a, so that equal rules are deeply equal.
func (e *Entity) part() uint8 {
	h := uint32(2166136261)
	for _, p := range [...]*Part{&e.User, &e.ClientID, &e.IP} {
		h = (h ^ uint32(p.kind)) * 16777619
		for i := range len(p.name) {
			h = (h ^ uint32(p.name[i])) * 16777619
		}
	}
	return uint8(h ^ h>>8 ^ h>>16 ^ h>>24)
}

// With are the rules with those of some entities replaced; empty limits remove an entity.
func (r *Rules) With(changes map[Entity]Limits) *Rules {
	next := &Rules{}
	if r != nil {
		*next = *r
	}
	var copied [len(next.parts)]bool
	for e, l := range changes {
		i := e.part()
		if !copied[i] {
			copied[i] = true
			next.parts[i] = maps.Clone(next.parts[i])
		}
		next.count -= len(next.parts[i])
		if l.Empty() {
			delete(next.parts[i], e)
		} else {
			if next.parts[i] == nil {
				next.parts[i] = map[Entity]Limits{}
			}
			next.parts[i][e] = l
		}
		next.count += len(next.parts[i])
	}
	if next.count == 0 {
		return nil
	}
	for i := range next.parts {
		if len(next.parts[i]) == 0 {
			next.parts[i] = nil
		}
	}
	return next
}

// Of are the limits that were set for exactly this entity.
func (r *Rules) Of(e Entity) Limits {
	if r == nil {
		return Limits{}
	}
	return r.parts[e.part()][e]
}

// All calls yield for each entity with limits, in no order.
func (r *Rules) All(yield func(Entity, Limits) bool) {
	if r == nil {
		return
	}
	for _, part := range r.parts {
		for e, l := range part {
			if !yield(e, l) {
				return
			}
		}
	}
}

// Match is what a filter asks of one part of an entity. The zero Match asks nothing.
type Match struct {
	asked bool
	part  Part // absent: any that is present
}

// Exactly matches this part, which must be present.
func Exactly(p Part) Match { return Match{true, p} }

// Specified matches any part that is present, also the default.
func Specified() Match { return Match{asked: true} }

// Asked says whether the match asks anything.
func (m Match) Asked() bool { return m.asked }

func (m Match) matches(p Part, strict bool) bool {
	switch {
	case !m.asked:
		return !strict || !p.Present()
	case m.part.Present():
		return m.part == p
	}
	return p.Present()
}

// Filter says which entities are meant (KIP-546). A strict one means only those that have no other part than those that it asks about.
type Filter struct {
	User, ClientID, IP Match
	Strict             bool
}

// entity is the only one that a filter can mean, where that is so.
func (f Filter) entity() (e Entity, one bool) {
	one = f.Strict
	for _, x := range [...]struct {
		m    Match
		part *Part
	}{{f.User, &e.User}, {f.ClientID, &e.ClientID}, {f.IP, &e.IP}} {
		*x.part = x.m.part
		one = one && (!x.m.asked || x.m.part.Present())
	}
	return e, one
}

// Find calls yield for each entity that a filter means, in no order. A strict filter that asks for exact parts costs one look-up, any
// other a look at all entities.
func (r *Rules) Find(f Filter) iter.Seq2[Entity, Limits] {
	return func(yield func(Entity, Limits) bool) {
		if e, one := f.entity(); one {
			if l := r.Of(e); !l.Empty() {
				yield(e, l)
			}
			return
		}
		for e, l := range r.All {
			if f.User.matches(e.User, f.Strict) && f.ClientID.matches(e.ClientID, f.Strict) && f.IP.matches(e.IP, f.Strict) && !yield(e, l) {
				return
			}
		}
	}
}

// Client is the limit of a key for a client, and the entity whose rule it is. The most specific rule that limits the key wins
// (ClientQuotaManager, KIP-55), see ClientEntities.
func (r *Rules) Client(k Key, user, clientID string) (limit float64, by Entity, ok bool) {
	if r == nil {
		return 0, Entity{}, false
	}
	e := ClientEntities(user, clientID)
	return r.first(k, e[:])
}

// ClientEntities are the entities whose rules are about a client, the most specific first: user and client id, user and default client id, user,
// default user and client id, both defaults, default user, client id, default client id. No rule is about an empty name but those of
// defaults.
func ClientEntities(user, clientID string) [8]Entity {
	u, c := Named(user), Named(clientID)
	return [...]Entity{
		{User: u, ClientID: c}, {User: u, ClientID: Default}, {User: u},
		{User: Default, ClientID: c}, {User: Default, ClientID: Default}, {User: Default},
		{ClientID: c}, {ClientID: Default},
	}
}

// Address is the limit of connections per second of an address (KIP-612), in its text form, and the entity whose rule it is.
func (r *Rules) Address(ip string) (limit float64, by Entity, ok bool) {
	if r == nil {
		return 0, Entity{}, false
	}
	e := AddressEntities(ip)
	return r.first(ConnectionCreationRate, e[:])
}

// AddressEntities are the entities whose rules are about an address, the most specific first.
func AddressEntities(ip string) [2]Entity { return [...]Entity{{IP: Named(ip)}, {IP: Default}} }

func (r *Rules) first(k Key, of []Entity) (limit float64, by Entity, ok bool) {
	for _, e := range of {
		if v, ok := r.Of(e).Get(k); ok {
			return v, e, true
		}
	}
	return 0, Entity{}, false
}
