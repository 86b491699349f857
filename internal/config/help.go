package config

import (
	"fmt"
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

// Explain describes a key for people: broker key, topic key or both. ok is false if there is none of that name; the text
// then suggests one.
func Explain(name string) (description string, ok bool) {
	var s strings.Builder
	for _, scope := range []Scope{BrokerScope, TopicScope} {
		k, found := Lookup(scope, name)
		if !found {
			continue
		}
		if ok {
			s.WriteByte('\n')
		}
		ok = true
		k.explain(&s, scope)
	}
	if !ok {
		near := Suggest(BrokerScope, name)
		if near == "" {
			near = Suggest(TopicScope, name)
		}
		return fmt.Sprintf("%s is no configuration key%s\n", name, didYouMean("", near)), false
	}
	return s.String(), true
}

func (k Key) explain(s *strings.Builder, scope Scope) {
	where := "broker, " + k.Dynamic.String()
	if scope == TopicScope {
		where = "topic"
	}
	fmt.Fprintf(s, "%s (%s)\n  %s\n", k.Name, where, k.Doc)
	fmt.Fprintf(s, "  type        %s\n", k.Type)
	shown := k.Default
	switch {
	case k.Unset:
		shown = "unset"
	case shown == "":
		shown = "empty"
	}
	if k.KafkaDefault != "" {
		shown += "  (Kafka: " + k.KafkaDefault + ")"
	}
	fmt.Fprintf(s, "  default     %s\n", shown)
	if v := k.Valid.String(); v != "" {
		fmt.Fprintf(s, "  allowed     %s\n", v)
	}
	fmt.Fprintf(s, "  importance  %s\n", k.Importance)
	state := k.State.String()
	if k.Advice != "" {
		state += ": " + k.Advice
	}
	fmt.Fprintf(s, "  in Moldau   %s\n", state)
	if broker := topicToBroker[k.Name]; scope == TopicScope && broker != "" {
		fmt.Fprintf(s, "  inherits    %s\n", strings.Join(synonyms(broker), ", "))
	}
}
