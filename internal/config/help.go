package config

import (
	"fmt"
	"slices"
	"strings"
)

// DefaultsText is the table of everything that differs from Kafka by default, for --help and the documentation.
func DefaultsText() string {
	rows := [][3]string{
		{"listeners", brokerDefault("listeners"), "127.0.0.1 and ::1, port 9092; Kafka: every interface"},
		{"--data-dir", "./moldau-data", "logs in log/, everything of ours in meta/; with log.dirs alone in its .moldau/; Kafka: /tmp/kafka-logs"},
		{"log.flush.interval.messages", brokerDefault("log.flush.interval.messages"), "an acknowledged record is on the disk; Kafka: 9223372036854775807, the page cache"},
		{"advertised.listeners", "", "the address on which a client reached the broker; Kafka: listeners"},
		{"replication factor, min ISR", "", "of internal topics: Kafka's, but no more than there are brokers"},
		{"group.initial.rebalance.delay.ms", "0", "without a configuration file; Kafka: 3000"},
		{"sasl.server.max.receive.size", brokerDefault("sasl.server.max.receive.size"), "so that a client costs little before it is known; Kafka: 524288"},
		{"moldau.http.listener", brokerDefault("moldau.http.listener"), "/live, /ready, /metrics; off for none"},
		{"node.id", brokerDefault("node.id"), "Kafka: required"},
		{"process.roles", brokerDefault("process.roles"), "Kafka: required"},
		{"controller.listener.names", brokerDefault("controller.listener.names"), "Kafka: required"},
	}
	var s strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&s, "%-33s %-27s %s\n", r[0], r[1], r[2])
	}
	return s.String()
}

func brokerDefault(name string) string {
	k, _ := brokerTable.lookup(name)
	return k.Default
}

// Explanation is all there is to say about a key, without a value.
type Explanation struct {
	Key
	Scope       Scope
	SameAs      []string // of a broker key: the others that say the same in another unit, the strongest first
	Inherits    []string // of a topic key: the broker keys that are its default, the strongest first
	Topic       string   // of a broker key: the topic key whose default it is
	Environment string   // of a broker key: the variable that sets it at the start
}

// Explanations describes a key by its exact name: as a broker's, a topic's, or both.
func Explanations(name string) []Explanation {
	var out []Explanation
	if k, ok := lookupBroker(name); ok {
		k.Name = name
		e := Explanation{Key: k, Scope: BrokerScope}
		if !k.DynamicOnly {
			e.Environment = environmentName(name)
		}
		for _, other := range synonyms(name) {
			if other != name {
				e.SameAs = append(e.SameAs, other)
			}
		}
		for topic, broker := range topicToBroker {
			if slices.Contains(synonyms(broker), name) {
				e.Topic = topic
			}
		}
		out = append(out, e)
	}
	if k, ok := topicTable.lookup(name); ok {
		e := Explanation{Key: k, Scope: TopicScope}
		if broker := topicToBroker[name]; broker != "" {
			e.Inherits = synonyms(broker)
		}
		out = append(out, e)
	}
	return out
}

// environmentName is the inverse of envKey.
func environmentName(key string) string {
	return envPrefix + strings.ToUpper(strings.NewReplacer("_", "__", "-", "___", ".", "_").Replace(key))
}

// Explain describes a key for people: broker key, topic key or both. ok is false if there is none of that name; the text
// then suggests one.
func Explain(name string) (description string, ok bool) {
	var s strings.Builder
	for i, e := range Explanations(name) {
		if i > 0 {
			s.WriteByte('\n')
		}
		s.WriteString(e.String())
	}
	if s.Len() == 0 {
		return fmt.Sprintf("%s is no configuration key%s\n", name, didYouMean("", SuggestAny(name))), false
	}
	return s.String(), true
}

// SuggestAny is Suggest over brokers' and topics' keys.
func SuggestAny(name string) string {
	if near := Suggest(BrokerScope, name); near != "" {
		return near
	}
	return Suggest(TopicScope, name)
}

// String is the explanation for people, several lines.
func (e Explanation) String() string {
	var s strings.Builder
	where := "broker, " + e.Dynamic.String()
	if e.Scope == TopicScope {
		where = "topic"
	}
	fmt.Fprintf(&s, "%s (%s)\n  %s\n", e.Name, where, e.Doc)
	row := func(label, text string) {
		if text != "" {
			fmt.Fprintf(&s, "  %-11s %s\n", label, text)
		}
	}
	row("type", e.Type.String())
	shown := e.Default
	switch {
	case e.Unset:
		shown = "unset"
	case shown == "":
		shown = "empty"
	}
	if e.KafkaDefault != "" {
		shown += "  (Kafka: " + e.KafkaDefault + ")"
	}
	row("default", shown)
	row("allowed", e.Valid.String())
	row("importance", e.Importance.String())
	state := e.State.String()
	if e.Advice != "" {
		state += ": " + e.Advice
	}
	row("in Moldau", state)
	row("same as", strings.Join(e.SameAs, ", "))
	row("of topics", e.Topic)
	row("inherits", strings.Join(e.Inherits, ", "))
	row("environment", e.Environment)
	return s.String()
}
