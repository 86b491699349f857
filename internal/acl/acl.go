// Package acl is Kafka's access control lists as values: what a rule is, which rules a filter
// means, and what a set of rules says about one question. Its door is [Set] and [Rules].
//
// A rule (Binding) allows or denies a principal, from a host, an operation on the resources that a
// pattern names. Rules.Decide is the only place where rules are judged: the broker's handlers and the command
// line ask the same function, so "why" never tells another story than the broker.
//
// Invariants:
//  1. A Set never changes. A new one shares what a change did not touch, and equal Sets are deeply
//     equal, however they came to be.
//  2. A Set holds each rule once, and no pattern without rules.
//  3. A rule that denies wins over any number that allow. Operations imply others only where they allow.
//  4. What is asked about exists literally: patterns are of rules, never of questions.
//  5. A decision allocates nothing, and costs two lookups for each length that a prefix of the type has.
package acl

import (
	"cmp"
	"strings"
)

// ResourceType is what a rule is about, with Kafka's numbers.
type ResourceType int8

// Resource types. Any is for filters.
const (
	AnyResource     ResourceType = 1
	Topic           ResourceType = 2
	Group           ResourceType = 3
	Cluster         ResourceType = 4
	TransactionalID ResourceType = 5
	DelegationToken ResourceType = 6
	User            ResourceType = 7

	resourceTypes = 8
)

// PatternType is how the name of a pattern is meant, with Kafka's numbers (KIP-290).
type PatternType int8

// Pattern types. Any and Match are for filters: Match means every pattern that covers the name.
const (
	AnyPattern PatternType = 1
	Match      PatternType = 2
	Literal    PatternType = 3
	Prefixed   PatternType = 4

	patternTypes = 5
)

// Operation is what is done to a resource, with Kafka's numbers.
type Operation int8

// Operations. AnyOperation is for filters; All in a rule is every operation.
const (
	AnyOperation    Operation = 1
	All             Operation = 2
	Read            Operation = 3
	Write           Operation = 4
	Create          Operation = 5
	Delete          Operation = 6
	Alter           Operation = 7
	Describe        Operation = 8
	ClusterAction   Operation = 9
	DescribeConfigs Operation = 10
	AlterConfigs    Operation = 11
	IdempotentWrite Operation = 12
	CreateTokens    Operation = 13
	DescribeTokens  Operation = 14
	TwoPhaseCommit  Operation = 15

	operations = 16
)

// Permission is what a rule does, with Kafka's numbers.
type Permission int8

// Permissions. AnyPermission is for filters.
const (
	AnyPermission Permission = 1
	Deny          Permission = 2
	Allow         Permission = 3

	permissions = 4
)

const (
	// Wildcard is every name in a literal pattern, and every host in a rule.
	Wildcard = "*"
	// Everyone is every principal in a rule, of whatever type.
	Everyone = "User:*"
	// ClusterName is the name of the one resource of type Cluster.
	ClusterName = "kafka-cluster"
)

var (
	resourceNames   = [resourceTypes]string{"UNKNOWN", "ANY", "TOPIC", "GROUP", "CLUSTER", "TRANSACTIONAL_ID", "DELEGATION_TOKEN", "USER"}
	patternNames    = [patternTypes]string{"UNKNOWN", "ANY", "MATCH", "LITERAL", "PREFIXED"}
	permissionNames = [permissions]string{"UNKNOWN", "ANY", "DENY", "ALLOW"}
	operationNames  = [operations]string{"UNKNOWN", "ANY", "ALL", "READ", "WRITE", "CREATE", "DELETE", "ALTER", "DESCRIBE", "CLUSTER_ACTION",
		"DESCRIBE_CONFIGS", "ALTER_CONFIGS", "IDEMPOTENT_WRITE", "CREATE_TOKENS", "DESCRIBE_TOKENS", "TWO_PHASE_COMMIT"}
)

// nameIn is a name of a table, and of its first entry for a number that has none.
func nameIn(table []string, n int8) string {
	if n < 0 || int(n) >= len(table) {
		n = 0
	}
	return table[n]
}

// numberIn finds a name, whatever its case and with "-" or nothing for "_". ok is false for none and for the first entry.
func numberIn(table []string, name string) (n int8, ok bool) {
	plain := func(s string) string {
		return strings.ToUpper(strings.NewReplacer("_", "", "-", "").Replace(s))
	}
	for i, s := range table[1:] {
		if plain(s) == plain(name) {
			return int8(i + 1), true
		}
	}
	return 0, false
}

func (t ResourceType) String() string { return nameIn(resourceNames[:], int8(t)) }
func (t PatternType) String() string  { return nameIn(patternNames[:], int8(t)) }
func (o Operation) String() string    { return nameIn(operationNames[:], int8(o)) }
func (p Permission) String() string   { return nameIn(permissionNames[:], int8(p)) }

// ParseResourceType reads a name such as "topic" or "transactional-id".
func ParseResourceType(name string) (ResourceType, bool) {
	n, ok := numberIn(resourceNames[:], name)
	return ResourceType(n), ok
}

// ParseOperation reads a name such as "read", "DescribeConfigs" or "DESCRIBE_CONFIGS".
func ParseOperation(name string) (Operation, bool) {
	n, ok := numberIn(operationNames[:], name)
	return Operation(n), ok
}

// OperationsOn are the operations that a type of resource has, which the fields of authorised operations tell of (KIP-430). It must
// not be written.
func OperationsOn(t ResourceType) []Operation {
	if t < 0 || t >= resourceTypes {
		return nil
	}
	return supported[t]
}

var supported = [resourceTypes][]Operation{
	Topic:           {Read, Write, Create, Delete, Alter, Describe, DescribeConfigs, AlterConfigs},
	Group:           {Read, Delete, Describe, DescribeConfigs, AlterConfigs},
	Cluster:         {Create, Alter, Describe, ClusterAction, DescribeConfigs, AlterConfigs, IdempotentWrite},
	TransactionalID: {Write, Describe, TwoPhaseCommit},
	DelegationToken: {Describe},
	User:            {CreateTokens, DescribeTokens},
}

// Pattern names resources.
type Pattern struct {
	Type ResourceType
	Kind PatternType // Literal or Prefixed
	Name string
}

// covers reports whether a resource of the pattern's type is one that it names.
func (p Pattern) covers(name string) bool {
	if p.Kind == Prefixed {
		return strings.HasPrefix(name, p.Name)
	}
	return p.Name == name || p.Name == Wildcard
}

// Compare orders patterns by type, name and kind.
func (p Pattern) Compare(q Pattern) int {
	return cmp.Or(cmp.Compare(p.Type, q.Type), cmp.Compare(p.Name, q.Name), cmp.Compare(p.Kind, q.Kind))
}

func (p Pattern) String() string { return p.Type.String() + ":" + p.Kind.String() + ":" + p.Name }

// Entry is whom a rule is for, and what it does.
type Entry struct {
	Principal  string // type:name, such as User:alice
	Host       string // an address, or Wildcard
	Operation  Operation
	Permission Permission
}

// Compare orders entries by principal, host, operation and permission.
func (e Entry) Compare(f Entry) int {
	return cmp.Or(cmp.Compare(e.Principal, f.Principal), cmp.Compare(e.Host, f.Host),
		cmp.Compare(e.Operation, f.Operation), cmp.Compare(e.Permission, f.Permission))
}

// Binding is one rule.
type Binding struct {
	Pattern
	Entry
}

// Compare orders rules by pattern and entry.
func (b Binding) Compare(c Binding) int {
	return cmp.Or(b.Pattern.Compare(c.Pattern), b.Entry.Compare(c.Entry))
}

func (b Binding) String() string {
	return b.Permission.String() + " " + b.Principal + " from " + b.Host + " " + b.Operation.String() + " on " + b.Pattern.String()
}

// Problem says why a rule cannot be, in Kafka's words where it has them, or "".
func (b Binding) Problem() string {
	switch {
	case b.Type <= AnyResource || b.Type >= resourceTypes:
		return "Invalid resourceType " + b.Type.String()
	case b.Kind != Literal && b.Kind != Prefixed:
		return "Invalid patternType " + b.Kind.String()
	case b.Operation <= AnyOperation || b.Operation >= operations:
		return "Invalid operation " + b.Operation.String()
	case b.Permission != Allow && b.Permission != Deny:
		return "Invalid permissionType " + b.Permission.String()
	case b.Name == "":
		return "Invalid empty resource name"
	case !strings.Contains(b.Principal, ":"):
		return "Could not parse principal from `" + b.Principal + "` (no colon is present separating the principal type from the principal name)"
	case b.Host == "":
		return "Host should not be empty"
	}
	return ""
}

// Filter means some rules. The zero value of a pointer is any; so are the Any constants.
type Filter struct {
	Type       ResourceType
	Kind       PatternType
	Name       *string
	Principal  *string
	Host       *string
	Operation  Operation
	Permission Permission
}

// Problem says which part of a filter means nothing, in Kafka's words, or "".
func (f Filter) Problem() string {
	switch {
	case f.Type < AnyResource || f.Type >= resourceTypes || f.Kind < AnyPattern || f.Kind >= patternTypes:
		return "Unknown patternFilter."
	case f.Operation < AnyOperation || f.Operation >= operations || f.Permission < AnyPermission || f.Permission >= permissions:
		return "Unknown entryFilter."
	}
	return ""
}

// Matches reports whether the filter means a rule.
func (f Filter) Matches(b Binding) bool {
	return f.matchesPattern(b.Pattern) && f.matchesEntry(b.Entry)
}

func (f Filter) matchesPattern(p Pattern) bool {
	if f.Type != AnyResource && f.Type != p.Type || f.Kind > Match && f.Kind != p.Kind {
		return false
	}
	switch {
	case f.Name == nil:
		return true
	case f.Kind == Match:
		return p.covers(*f.Name)
	}
	return p.Name == *f.Name
}

func (f Filter) matchesEntry(e Entry) bool {
	return (f.Principal == nil || *f.Principal == e.Principal) && (f.Host == nil || *f.Host == e.Host) &&
		(f.Operation == AnyOperation || f.Operation == e.Operation) && (f.Permission == AnyPermission || f.Permission == e.Permission)
}
