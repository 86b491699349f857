package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// ListOp is what an incremental change does to a list.
type ListOp int8

// The numbers are those of IncrementalAlterConfigs.
const (
	Append   ListOp = 2
	Subtract ListOp = 3
)

var listOpNames = map[ListOp]string{Append: "APPEND", Subtract: "SUBTRACT"}

// Incremental applies APPEND or SUBTRACT. current is the value the resource has of its own; where it has none (has is false)
// the key's default is changed. The error's code is INVALID_CONFIG.
func Incremental(s Scope, name, current string, has bool, op ListOp, operand string) (string, error) {
	k, known := tableOf(s).lookup(name)
	if !known || k.Type != List {
		if s == BrokerScope {
			return "", kafkaErrorf("Config value %s is not allowed for config key: %s", strings.ToLower(listOpNames[op]), name)
		}
		return "", kafkaErrorf("Can't %s to key %s because its type is not LIST.", listOpNames[op], name)
	}
	if !has {
		current = k.Default // "" if there is none
	}
	list := splitList(javaTrim(current))
	for _, item := range strings.Split(operand, ",") {
		i := slices.Index(list, item)
		switch {
		case op == Append && i < 0:
			list = append(list, item)
		case op == Subtract && i >= 0:
			list = slices.Delete(list, i, i+1)
		}
	}
	return strings.Join(list, ","), nil
}

// reloadable are the keys of TLS that a listener follows while the broker runs.
var reloadable = []string{
	"ssl.cipher.suites", "ssl.client.auth", "ssl.enabled.protocols", "ssl.key.password", "ssl.keystore.certificate.chain", "ssl.keystore.key",
	"ssl.keystore.location", "ssl.keystore.password", "ssl.keystore.type", "ssl.truststore.certificates", "ssl.truststore.location", "ssl.truststore.password", "ssl.truststore.type",
}

// ReloadableKeys are the keys of TLS that may be changed while the broker runs, without the prefix of a listener. The caller owns the list.
func ReloadableKeys() []string { return slices.Clone(reloadable) }

// Reloadable tells whether a key, with or without the prefix of a listener, is one of ReloadableKeys.
func Reloadable(name string) bool {
	if base, ok := listenerBase(name); ok {
		name = base
	}
	return slices.Contains(reloadable, name)
}

// dynamicValue is the value that a key was given while the broker runs.
func (b *Broker) dynamicValue(name string) (string, bool) {
	if raw, ok := b.brokerDynamic[name]; ok {
		return raw, true
	}
	raw, ok := b.clusterDynamic[name]
	return raw, ok
}

// startOnly are keys that Kafka can change at run time and Moldau cannot yet.
var startOnly = []string{"listeners", "listener.security.protocol.map"}

// ValidateDynamic judges the dynamic values a BROKER resource is to have, all of them together: this broker's own if
// perBroker, else those of the whole cluster. The messages are Kafka's, except for what Moldau does not support yet; the
// code for them is INVALID_REQUEST. brokerDynamic and clusterDynamic are the values before the change.
func (b *Broker) ValidateDynamic(values map[string]string, perBroker bool, brokerDynamic, clusterDynamic map[string]string) error {
	names := slices.Sorted(maps.Keys(values))
	if bad := filter(names, func(n string) bool { k, ok := brokerTable.lookup(n); return ok && k.Dynamic == ReadOnly }); bad != nil {
		return kafkaErrorf("Cannot update these configs dynamically: [%s]", strings.Join(bad, ", "))
	}
	if bad := filter(names, needsListener); bad != nil {
		return kafkaErrorf("These security configs can be dynamically updated only per-listener using the listener prefix: [%s]", strings.Join(bad, ", "))
	}
	for _, name := range names {
		if k, ok := lookupBroker(name); ok && (k.Dynamic != ReadOnly || k.Name == name) {
			if err := k.Check(values[name]); err != nil {
				return err
			}
		}
	}
	if bad := filter(names, onlyPerBroker); !perBroker && bad != nil {
		return kafkaErrorf("Cannot update these configs at default cluster level, broker id must be specified: [%s]", strings.Join(bad, ", "))
	}
	if perBroker {
		brokerDynamic = values
	} else {
		clusterDynamic = values
	}
	n := b.WithDynamic(brokerDynamic, clusterDynamic)
	secured := slices.ContainsFunc(b.listeners, func(l Listener) bool { return l.Protocol != Plaintext })
	for _, name := range names {
		k, ok := brokerTable.lookup(name)
		old, had := b.effective[name]
		if !had && ok {
			old = b.rawOrDefault(k)
		}
		switch {
		case secured && securityOnly(name) && !Reloadable(name) && old != values[name]:
			return fmt.Errorf("%s cannot be changed while the broker runs yet; change the start configuration and restart it", name)
		case !ok:
		case k.State == Refused && !k.harmless(values[name]):
			return fmt.Errorf("%s %s%s", name, notYet, k.Advice)
		case slices.Contains(startOnly, name) && k.canonical(values[name]) != k.canonical(b.rawOrDefault(k)):
			return fmt.Errorf("%s cannot be changed while the broker runs yet; change the start configuration and restart it", name)
		}
	}
	if key, problem := n.crossCheck(); key != "" {
		return errors.New("requirement failed: " + problem)
	}
	return nil
}

func (b *Broker) rawOrDefault(k Key) string {
	raw, _ := b.lookup(k)
	return raw
}

func filter(names []string, keep func(string) bool) []string {
	var out []string
	for _, n := range names {
		if keep(n) {
			out = append(out, n)
		}
	}
	return out
}

// needsListener tells whether Kafka takes a key at run time only for one listener: keys, certificates and their passwords.
func needsListener(name string) bool {
	return strings.HasPrefix(name, "ssl.keystore.") || strings.HasPrefix(name, "ssl.truststore.") || name == "ssl.key.password"
}

// clusterWideListenerKeys may be set for a listener on all brokers at once.
var clusterWideListenerKeys = []string{"max.connection.creation.rate", "max.connections", "num.network.threads"}

func onlyPerBroker(name string) bool {
	if k, ok := brokerTable.lookup(name); ok {
		return k.Dynamic == PerBroker
	}
	base, ok := listenerBase(name)
	return ok && !slices.Contains(clusterWideListenerKeys, base)
}
