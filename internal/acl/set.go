package acl

import (
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Set is rules, found by what they are about. nil is the empty one.
type Set struct {
	types [resourceTypes]index
	count int
}

// index holds the rules about one type of resource.
type index struct {
	literal  map[string]*node // by name; Wildcard too
	prefixed map[string]*node
	lengths  []int // that prefixes have, ascending, each once
}

// node holds the rules of one pattern.
type node struct {
	entries []Entry // in order
	rules   map[string][]rule
}

// rule is a binding that is ready to be compared, filed under its principal.
type rule struct {
	binding Binding
	any     bool       // from any host
	host    netip.Addr // else from this one; not valid: from none
}

// newNode returns nil for no entries. It keeps entries, which must be in order.
func newNode(p Pattern, entries []Entry) *node {
	if len(entries) == 0 {
		return nil
	}
	n := &node{entries: entries, rules: map[string][]rule{}}
	for _, e := range entries {
		r := rule{binding: Binding{p, e}, any: e.Host == Wildcard}
		if !r.any {
			// An address is compared as one, so that every way to write it means it. Kafka compares text.
			if a, err := netip.ParseAddr(e.Host); err == nil {
				r.host = plainAddr(a)
			}
		}
		n.rules[e.Principal] = append(n.rules[e.Principal], r)
	}
	return n
}

// plainAddr is an address without what does not tell hosts apart here: how IPv4 came over IPv6, and the interface.
func plainAddr(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// With returns the Set in which each pattern of changes has exactly those entries. It keeps and sorts the slices of changes;
// repeated entries count once. Patterns must be of a valid type and kind.
func (s *Set) With(changes map[Pattern][]Entry) *Set {
	out := &Set{}
	if s != nil {
		*out = *s
	}
	var copied [resourceTypes][patternTypes]bool
	for p, entries := range changes {
		slices.SortFunc(entries, Entry.Compare)
		entries = slices.Clip(slices.Compact(entries))
		t := &out.types[p.Type]
		names := &t.literal
		if p.Kind == Prefixed {
			names = &t.prefixed
		}
		if !copied[p.Type][p.Kind] {
			copied[p.Type][p.Kind] = true
			if *names = maps.Clone(*names); *names == nil {
				*names = map[string]*node{}
			}
		}
		if old := (*names)[p.Name]; old != nil {
			out.count -= len(old.entries)
		}
		out.count += len(entries)
		if n := newNode(p, entries); n != nil {
			(*names)[p.Name] = n
		} else {
			delete(*names, p.Name)
		}
	}
	if out.count == 0 {
		return nil
	}
	for i := range out.types {
		t := &out.types[i]
		if copied[i][Literal] && len(t.literal) == 0 {
			t.literal = nil
		}
		if copied[i][Prefixed] {
			t.lengths = nil
			for name := range t.prefixed {
				if at, found := slices.BinarySearch(t.lengths, len(name)); !found {
					t.lengths = slices.Insert(t.lengths, at, len(name))
				}
			}
			if t.lengths = slices.Clip(t.lengths); len(t.prefixed) == 0 {
				t.prefixed, t.lengths = nil, nil
			}
		}
	}
	return out
}

// Len is the number of rules.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return s.count
}

// Entries are the rules of one pattern, in order. They must not be written.
func (s *Set) Entries(p Pattern) []Entry {
	if s == nil || p.Type < 0 || p.Type >= resourceTypes {
		return nil
	}
	names := s.types[p.Type].literal
	if p.Kind == Prefixed {
		names = s.types[p.Type].prefixed
	}
	if n := names[p.Name]; n != nil {
		return n.entries
	}
	return nil
}

// patterns yields, in no order, the patterns of a type with their rules.
func (t *index) patterns(of ResourceType) iter.Seq2[Pattern, []Entry] {
	return func(yield func(Pattern, []Entry) bool) {
		for kind, names := range map[PatternType]map[string]*node{Literal: t.literal, Prefixed: t.prefixed} {
			for name, n := range names {
				if !yield(Pattern{of, kind, name}, n.entries) {
					return
				}
			}
		}
	}
}

// Find lists the rules that a filter means, in order.
func (s *Set) Find(f Filter) []Binding {
	if s == nil {
		return nil
	}
	var out []Binding
	add := func(p Pattern, entries []Entry) {
		for _, e := range entries {
			if f.matchesEntry(e) {
				out = append(out, Binding{p, e})
			}
		}
	}
	if f.Type > AnyResource && f.Kind > Match && f.Name != nil { // one pattern
		p := Pattern{f.Type, f.Kind, *f.Name}
		add(p, s.Entries(p))
		return out
	}
	for i := range s.types {
		for p, entries := range s.types[i].patterns(ResourceType(i)) {
			if f.matchesPattern(p) {
				add(p, entries)
			}
		}
	}
	slices.SortFunc(out, Binding.Compare)
	return out
}

// Query is one question: may a principal, from a host, do something to a resource?
type Query struct {
	Principal string // type:name
	Host      netip.Addr
	Operation Operation
	Type      ResourceType
	Name      string
}

// Decision is the answer and where it comes from.
type Decision struct {
	Allowed bool
	Cause   Cause
	Rule    *Binding // what decided, where Cause is ByRule; must not be written
}

// Cause says why a question was answered as it was.
type Cause uint8

// Causes.
const (
	ByRule      Cause = iota // Decision.Rule
	BySuperUser              // super.users names the principal
	NoMatch                  // there are rules for the resource, and none is for this question
	NoRules                  // there are none: allow.everyone.if.no.acl.found decides
)

// Rules is how questions are answered beside the rules themselves, from the broker's configuration. It never changes.
type Rules struct {
	SuperUsers    map[string]bool // super.users
	AllowUnlisted bool            // allow.everyone.if.no.acl.found
}

// Decide answers a question. See Kafka's StandardAuthorizer.
func (r *Rules) Decide(s *Set, q Query) Decision {
	if r.SuperUsers[q.Principal] {
		return Decision{Allowed: true, Cause: BySuperUser}
	}
	var v verdict
	if s != nil && q.Type >= 0 && q.Type < resourceTypes {
		q.Host = plainAddr(q.Host)
		t := &s.types[q.Type]
		denied := v.hear(t.literal[q.Name], &q) || q.Name != Wildcard && v.hear(t.literal[Wildcard], &q)
		for _, n := range t.lengths {
			if denied || n > len(q.Name) {
				break
			}
			denied = v.hear(t.prefixed[q.Name[:n]], &q)
		}
	}
	switch {
	case v.rule != nil:
		return Decision{Allowed: v.rule.Permission == Allow, Rule: v.rule}
	case v.heard:
		return Decision{Cause: NoMatch}
	}
	return Decision{Allowed: r.AllowUnlisted, Cause: NoRules}
}

// verdict is what the rules that were heard say.
type verdict struct {
	rule  *Binding // the one that denies, else the first that allows
	heard bool     // there are rules for the resource
}

// hear asks the rules of one pattern and reports whether one denies.
func (v *verdict) hear(n *node, q *Query) (denied bool) {
	if n == nil {
		return false
	}
	v.heard = true
	return v.judge(n.rules[q.Principal], q) || v.judge(n.rules[Everyone], q)
}

func (v *verdict) judge(rules []rule, q *Query) (denied bool) {
	for i := range rules {
		r := &rules[i]
		if !r.from(q.Host) || !r.binding.Entry.means(q.Operation) {
			continue
		}
		if r.binding.Permission == Deny {
			v.rule = &r.binding
			return true
		}
		if v.rule == nil {
			v.rule = &r.binding
		}
	}
	return false
}

// from reports whether the rule is for a host.
func (r *rule) from(host netip.Addr) bool { return r.any || r.host.IsValid() && r.host == host }

// means reports whether a rule is about an operation: what allows to change something also allows to see it.
func (e *Entry) means(op Operation) bool {
	if e.Operation == All || e.Operation == op {
		return true
	}
	if e.Permission != Allow {
		return false
	}
	switch op {
	case Describe:
		return e.Operation == Read || e.Operation == Write || e.Operation == Delete || e.Operation == Alter
	case DescribeConfigs:
		return e.Operation == AlterConfigs
	}
	return false
}

// anyName is the resource that Kafka asks about to find out what holds for all of a type.
const anyName = "hardcode"

// MayAny answers whether there is a resource of a type on which the operation is allowed; q.Name does not count. A producer may
// have an idempotent session if it may write any topic (KIP-679). Operations are not implied here, and it looks at every rule
// of the type: it is for rare questions.
func (r *Rules) MayAny(s *Set, q Query) bool {
	q.Name = anyName
	if r.Decide(s, q).Allowed {
		return true
	}
	if s == nil || q.Type < 0 || q.Type >= resourceTypes {
		return false
	}
	q.Host = plainAddr(q.Host)
	t := &s.types[q.Type]
	allowed := func(n *node, p Permission) bool { return n != nil && n.has(&q, p) }
	if allowed(t.literal[Wildcard], Deny) {
		return false
	}
	if allowed(t.literal[Wildcard], Allow) {
		return true
	}
	denied := func(name string) bool {
		for _, n := range t.lengths {
			if n <= len(name) && allowed(t.prefixed[name[:n]], Deny) {
				return true
			}
		}
		return false
	}
	for name, n := range t.literal {
		if n.has(&q, Allow) && !n.has(&q, Deny) && !denied(name) {
			return true
		}
	}
	for name, n := range t.prefixed {
		if n.has(&q, Allow) && !denied(name) {
			return true
		}
	}
	return false
}

// has reports whether the node has a rule of that permission for exactly the question's operation, or for all.
func (n *node) has(q *Query, p Permission) bool {
	of := func(rules []rule) bool {
		return slices.ContainsFunc(rules, func(r rule) bool {
			op := r.binding.Operation
			return r.binding.Permission == p && (op == q.Operation || op == All) && r.from(q.Host)
		})
	}
	return of(n.rules[q.Principal]) || of(n.rules[Everyone])
}

// ParseSuperUsers reads super.users: principals with ";" between them. problem names the first that is none.
func ParseSuperUsers(value string) (users map[string]bool, problem string) {
	users = map[string]bool{}
	for _, p := range strings.Split(value, ";") {
		if p = strings.TrimSpace(p); p == "" {
			continue
		}
		if !strings.Contains(p, ":") {
			return nil, p
		}
		users[p] = true
	}
	return users, ""
}
