package config

import (
	"maps"
	"slices"
)

// Source says which layer a value comes from; the numbers are those of DescribeConfigs' ConfigSource.
type Source int8

const (
	SourceTopic          Source = 1 // the topic's own
	SourceDynamicBroker  Source = 2 // set at run time for this broker
	SourceDynamicCluster Source = 3 // set at run time for all brokers
	SourceStatic         Source = 4 // start configuration
	SourceDefault        Source = 5
	SourceGroup          Source = 8 // the group's own
)

var sourceNames = map[Source]string{
	SourceTopic: "DYNAMIC_TOPIC_CONFIG", SourceDynamicBroker: "DYNAMIC_BROKER_CONFIG",
	SourceDynamicCluster: "DYNAMIC_DEFAULT_BROKER_CONFIG", SourceStatic: "STATIC_BROKER_CONFIG", SourceDefault: "DEFAULT_CONFIG", SourceGroup: "DYNAMIC_GROUP_CONFIG",
}

// String is Kafka's name of the source.
func (s Source) String() string { return sourceNames[s] }

// Entry is one key of a described resource. Null is a value that is unset or not shown.
type Entry struct {
	Name      string
	Value     string
	Null      bool
	Source    Source
	ReadOnly  bool
	Sensitive bool
	Type      Type
	Doc       string
	Synonyms  []Synonym // what decides the value, the strongest first
}

// Synonym is one layer's value behind an Entry.
type Synonym struct {
	Name   string
	Value  string
	Null   bool
	Source Source
}

// DescribeTopic lists every topic key with its effective value, sorted by name. Internal keys are listed where they are set.
func (b *Broker) DescribeTopic(overrides, brokerDynamic, clusterDynamic map[string]string) []Entry {
	n := b.WithDynamic(brokerDynamic, clusterDynamic)
	inherited := n.topicValues()
	var out []Entry
	for _, k := range topicTable.keys {
		raw, own := overrides[k.Name]
		if k.Internal && !own {
			continue
		}
		e := Entry{Name: k.Name, Type: k.Type, Sensitive: k.Sensitive(), Doc: k.Doc, Source: SourceDefault}
		if broker, ok := topicToBroker[k.Name]; ok {
			e.Synonyms = n.synonymsOf(broker, false)
		}
		if own {
			e.Value = k.canonical(raw)
			e.Synonyms = append([]Synonym{{Name: k.Name, Value: e.Value, Source: SourceTopic}}, e.Synonyms...)
		} else {
			e.Value = text(inherited[k.Name])
		}
		if len(e.Synonyms) > 0 {
			e.Source = e.Synonyms[0].Source
		}
		out = append(out, e)
	}
	return out
}

// DescribeBroker lists every broker key with its effective value, sorted by name, and what else was set.
func (b *Broker) DescribeBroker(brokerDynamic, clusterDynamic map[string]string) []Entry {
	n := b.WithDynamic(brokerDynamic, clusterDynamic)
	names := slices.Collect(maps.Keys(n.effective))
	for _, k := range brokerTable.keys {
		if !k.Internal && !k.DynamicOnly && !n.IsSet(k.Name) {
			names = append(names, k.Name)
		}
	}
	slices.Sort(names)
	out := make([]Entry, 0, len(names))
	for _, name := range names {
		e := brokerEntry(name)
		e.Synonyms = n.synonymsOf(name, e.Sensitive)
		e.Source = SourceDefault
		if len(e.Synonyms) > 0 {
			e.Source = e.Synonyms[0].Source
		}
		raw, ok := n.effective[name]
		k, known := brokerTable.lookup(name)
		if !ok && known {
			raw, ok = n.defaultOf(k)
		}
		e.Null = e.Sensitive || !ok
		if !e.Null {
			e.Value = raw
			if known {
				e.Value = k.canonical(raw)
			}
		}
		out = append(out, e)
	}
	return out
}

// DescribeCluster lists the dynamic values of the whole cluster, which is the BROKER resource without a name.
func DescribeCluster(clusterDynamic map[string]string) []Entry {
	out := make([]Entry, 0, len(clusterDynamic))
	for _, name := range slices.Sorted(maps.Keys(clusterDynamic)) {
		e := brokerEntry(name)
		e.Source, e.Null = SourceDynamicCluster, e.Sensitive
		if !e.Null {
			e.Value = clusterDynamic[name]
		}
		e.Synonyms = []Synonym{{Name: name, Value: e.Value, Null: e.Null, Source: SourceDynamicCluster}}
		out = append(out, e)
	}
	return out
}

// brokerEntry fills in what does not depend on values. A property of unknown type may be a secret and is never shown.
func brokerEntry(name string) Entry {
	e := Entry{Name: name, ReadOnly: true, Sensitive: sensitive(name)}
	if k, ok := lookupBroker(name); ok {
		e.Type, e.Doc = k.Type, k.Doc
		e.ReadOnly = k.Dynamic == ReadOnly || k.Name != name
	}
	return e
}

// synonymsOf lists the values behind a broker key. As in Kafka, the list starts with the first one under the key's own name,
// so that log.retention.ms says nothing while only log.retention.hours is set.
func (b *Broker) synonymsOf(name string, hidden bool) []Synonym {
	var out []Synonym
	names := synonyms(name)
	add := func(source Source, get func(string) (string, bool)) {
		for _, n := range names {
			if v, ok := get(n); ok && (len(out) > 0 || n == name) {
				s := Synonym{Name: n, Value: v, Source: source}
				if hidden {
					s.Value, s.Null = "", true
				}
				out = append(out, s)
			}
		}
	}
	add(SourceDynamicBroker, func(n string) (string, bool) { v, ok := b.brokerDynamic[n]; return v, ok })
	add(SourceDynamicCluster, func(n string) (string, bool) { v, ok := b.clusterDynamic[n]; return v, ok })
	add(SourceStatic, func(n string) (string, bool) { s, ok := b.static[n]; return s.raw, ok })
	add(SourceDefault, func(n string) (string, bool) {
		if k, ok := brokerTable.lookup(n); ok && !k.DynamicOnly {
			return b.defaultOf(k)
		}
		return "", false
	})
	return out
}
