package config

import (
	"slices"
	"strings"
)

// Scope says where a key may be set.
type Scope int

const (
	BrokerScope Scope = iota // the start configuration, or a BROKER resource
	TopicScope               // a TOPIC resource
)

// Type is the type of a value; the numbers are those of DescribeConfigs' ConfigType.
type Type int8

const (
	Unknown Type = iota
	Boolean
	String
	Int
	Short
	Long
	Double
	List
	Class
	Password
)

var typeNames = [...]string{"UNKNOWN", "BOOLEAN", "STRING", "INT", "SHORT", "LONG", "DOUBLE", "LIST", "CLASS", "PASSWORD"}

// String is Kafka's name of the type.
func (t Type) String() string {
	if t < 0 || int(t) >= len(typeNames) {
		t = Unknown
	}
	return typeNames[t]
}

// Dynamic says whether and for whom a broker key can be changed while brokers run.
type Dynamic int8

const (
	ReadOnly    Dynamic = iota // only at the start
	PerBroker                  // for one broker
	ClusterWide                // for one broker or for all
)

var dynamicNames = [...]string{"read-only", "per-broker", "cluster-wide"}

// String is Kafka's name of the update mode.
func (d Dynamic) String() string { return dynamicNames[d] }

// Importance is Kafka's own grading.
type Importance int8

const (
	Low Importance = iota
	Medium
	High
)

var importanceNames = [...]string{"low", "medium", "high"}

func (i Importance) String() string { return importanceNames[i] }

// State says what this broker does with a key.
type State int8

const (
	Accepted State = iota // checked, listed and stored, but without effect in Moldau (yet)
	Used                  // acted upon
	Refused               // not implemented and too important to ignore: any value but the default is an error
)

var stateNames = [...]string{"no effect", "in use", "not supported yet"}

func (s State) String() string { return stateNames[s] }

// Key is one property.
type Key struct {
	Name         string
	Type         Type
	Default      string // in Kafka's spelling; without meaning if Unset
	Unset        bool   // there is no default: the value is null until it is set
	KafkaDefault string // Kafka's default where ours differs on purpose and Kafka has one
	Valid        Valid
	Importance   Importance
	Dynamic      Dynamic // of a broker key; every topic key can be changed
	DynamicOnly  bool    // Kafka knows it only as a dynamic value, not in the file
	Internal     bool    // listed only where it is set
	State        State
	Advice       string // of a refused key: why, and what to do instead
	Doc          string
}

// Sensitive tells whether the value is never shown.
func (k Key) Sensitive() bool { return k.Type == Password }

// Moldau tells whether the key is ours rather than Kafka's.
func (k Key) Moldau() bool { return strings.HasPrefix(k.Name, moldauPrefix) }

const moldauPrefix = "moldau."

// table is a sorted list of keys with an index; it never changes.
type table struct {
	keys  []Key
	index map[string]int
}

func newTable(parts ...[]Key) table {
	t := table{keys: slices.Concat(parts...)}
	slices.SortFunc(t.keys, func(a, b Key) int { return strings.Compare(a.Name, b.Name) })
	t.index = make(map[string]int, len(t.keys))
	for i, k := range t.keys {
		if _, twice := t.index[k.Name]; twice {
			panic("BUG: configuration key " + k.Name + " is defined twice")
		}
		t.index[k.Name] = i
	}
	return t
}

func (t table) lookup(name string) (Key, bool) {
	i, ok := t.index[name]
	if !ok {
		return Key{}, false
	}
	return t.keys[i], true
}

// The two tables are constants in all but the language's sense.
var (
	brokerTable = newTable(clusterKeys(), groupKeys(), logKeys(), moldauKeys(), networkKeys(), remoteKeys(), securityKeys(), transactionKeys())
	topicTable  = newTable(topicKeys())
)

func tableOf(s Scope) table {
	if s == TopicScope {
		return topicTable
	}
	return brokerTable
}

// Keys lists every key of a scope by name. The caller owns the slice.
func Keys(s Scope) []Key { return slices.Clone(tableOf(s).keys) }

// Lookup finds a key by its exact name.
func Lookup(s Scope, name string) (Key, bool) { return tableOf(s).lookup(name) }

// Suggest returns the known key of the scope that name was most likely meant to be, or "".
func Suggest(s Scope, name string) string {
	plain := plainName(name)
	best, bestDistance := "", 3
	for _, k := range tableOf(s).keys {
		if plainName(k.Name) == plain {
			return k.Name
		}
		limit := 2
		if min(len(k.Name), len(name)) < 8 {
			limit = 1
		}
		if d := distance(name, k.Name, limit); d <= limit && d < bestDistance {
			best, bestDistance = k.Name, d
		}
	}
	return best
}

// plainName folds what people mix up: case, and the separators of environment variables and flags.
func plainName(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '-' {
			return '.'
		}
		return r
	}, strings.ToLower(name))
}

// distance is the number of inserted, deleted, changed or swapped neighbouring bytes between a and b, or limit+1 if there
// are more than limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	var before []int // two rows up, for swaps
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		least := i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
			least = min(least, row[j])
		}
		if least > limit {
			return limit + 1
		}
		before, last = last, row
	}
	return last[len(b)]
}
