package controller

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// ConfigOpType is how one key is altered, with the protocol's numbers (KIP-339).
type ConfigOpType int8

// Ways to alter a key.
const (
	ConfigSet      ConfigOpType = 0
	ConfigDelete   ConfigOpType = 1
	ConfigAppend   ConfigOpType = 2
	ConfigSubtract ConfigOpType = 3
)

// ConfigOp alters one key. Value is nil where the request's is null.
type ConfigOp struct {
	Key   string
	Type  ConfigOpType
	Value *string
}

// ConfigAlteration alters the configuration of one resource, all keys or none.
type ConfigAlteration struct {
	Kind metadata.ConfigKind
	Name string // of the topic; id of the broker or "" for all brokers; name of the group
	Ops  []ConfigOp
}

// ConfigResult answers for one resource, in the request's order.
type ConfigResult struct {
	Kind    metadata.ConfigKind
	Name    string
	Code    wire.Code
	Message string
}

// AlterConfigs plans full replacements: what is not set by an alteration goes
// back to its default. The type of its operations is not looked at.
func AlterConfigs(im *metadata.Image, pol Policy, alterations []ConfigAlteration, validateOnly bool) (Plan, []ConfigResult) {
	return alter(im, pol, alterations, validateOnly, func(a ConfigAlteration, _ map[string]string) (map[string]string, wire.Code, string) {
		set := make(map[string]string, len(a.Ops))
		for _, op := range a.Ops {
			if op.Value == nil {
				return nil, wire.InvalidRequest, "Null value not supported for : " + op.Key
			}
			set[op.Key] = *op.Value
		}
		return set, wire.None, ""
	})
}

// IncrementalAlterConfigs plans changes to what is set (KIP-339).
func IncrementalAlterConfigs(im *metadata.Image, pol Policy, alterations []ConfigAlteration, validateOnly bool) (Plan, []ConfigResult) {
	return alter(im, pol, alterations, validateOnly, func(a ConfigAlteration, old map[string]string) (map[string]string, wire.Code, string) {
		set := maps.Clone(old)
		if set == nil {
			set = map[string]string{}
		}
		for _, op := range a.Ops {
			if code, message := pol.apply(set, a.Kind, op); code != wire.None {
				return nil, code, message
			}
		}
		return set, wire.None, ""
	})
}

// apply carries out one operation on what is set.
func (pol Policy) apply(set map[string]string, kind metadata.ConfigKind, op ConfigOp) (wire.Code, string) {
	if op.Type == ConfigDelete {
		delete(set, op.Key)
		return wire.None, ""
	}
	if op.Value == nil {
		return wire.InvalidRequest, "Null value not supported for : " + op.Key
	}
	if op.Type == ConfigSet {
		set[op.Key] = *op.Value
		return wire.None, ""
	}
	names := map[ConfigOpType]string{ConfigAppend: "APPEND", ConfigSubtract: "SUBTRACT"}
	if names[op.Type] == "" {
		return wire.InvalidRequest, "Unknown operation type " + strconv.Itoa(int(op.Type))
	}
	list, unset := pol.IsList(kind, op.Key)
	if !list {
		return wire.InvalidConfig, "Can't " + names[op.Type] + " to key " + op.Key + " because its type is not LIST."
	}
	value, ok := set[op.Key]
	if !ok {
		value = unset
	}
	parts := slices.DeleteFunc(strings.Split(value, ","), func(s string) bool { return s == "" })
	for _, v := range strings.Split(*op.Value, ",") {
		i := slices.Index(parts, v)
		switch {
		case op.Type == ConfigAppend && i < 0:
			parts = append(parts, v)
		case op.Type == ConfigSubtract && i >= 0:
			parts = slices.Delete(parts, i, i+1)
		}
	}
	set[op.Key] = strings.Join(parts, ",")
	return wire.None, ""
}

type resource struct {
	kind metadata.ConfigKind
	name string
}

func alter(im *metadata.Image, pol Policy, alterations []ConfigAlteration, validateOnly bool,
	result func(ConfigAlteration, map[string]string) (map[string]string, wire.Code, string)) (Plan, []ConfigResult) {
	results := make([]ConfigResult, len(alterations))
	count := map[resource]int{}
	for _, a := range alterations {
		count[resource{a.Kind, a.Name}]++
	}
	accepted := make([]map[string]string, len(alterations))
	brokers := im.Config(metadata.BrokerConfig, "")
	for i, a := range alterations {
		r := &results[i]
		r.Kind, r.Name = a.Kind, a.Name
		if count[resource{a.Kind, a.Name}] > 1 {
			r.Code, r.Message = wire.InvalidRequest, "Each resource must appear at most once."
			continue
		}
		if r.Code, r.Message = checkAlteration(im, a); r.Code != wire.None {
			continue
		}
		old := im.Config(a.Kind, a.Name)
		set, code, message := result(a, old)
		if code == wire.None {
			code, message = pol.Validate(a.Kind, a.Name, set)
		}
		if r.Code, r.Message = code, message; code != wire.None || maps.Equal(old, set) {
			continue
		}
		accepted[i] = set
		if a.Kind == metadata.BrokerConfig && a.Name == "" {
			brokers = set
		}
	}
	if validateOnly {
		return Plan{}, results
	}
	return planConfigs(im, pol, alterations, accepted, brokers), results
}

func checkAlteration(im *metadata.Image, a ConfigAlteration) (wire.Code, string) {
	seen := map[string]bool{}
	for _, op := range a.Ops {
		if seen[op.Key] {
			return wire.InvalidRequest, "Error due to duplicate config keys"
		}
		seen[op.Key] = true
	}
	switch a.Kind {
	case metadata.TopicConfig:
		if why := InvalidName(a.Name); why != "" {
			return wire.InvalidTopicException, why
		}
		if im.Topic(a.Name) == nil {
			return wire.UnknownTopicOrPartition, "The topic '" + a.Name + "' does not exist."
		}
	case metadata.BrokerConfig:
		if a.Name == "" {
			break
		}
		id, err := strconv.ParseInt(a.Name, 10, 32)
		if err != nil || id < 0 {
			return wire.InvalidRequest, "Unable to parse broker name as a base 10 number."
		}
		if im.Broker(int32(id)) == nil {
			return wire.BrokerIDNotRegistered, "No broker with id " + a.Name + " found."
		}
	case metadata.GroupConfig:
		if a.Name == "" {
			return wire.InvalidRequest, "Default group resources are not allowed."
		}
	default:
		return wire.InvalidRequest, "Unsupported resource type " + strconv.Itoa(int(a.Kind))
	}
	return wire.None, ""
}

// planConfigs writes each resource's configuration, and then the partitions
// whose effective values it changes. Should the second part not come about,
// Reconcile repeats it.
func planConfigs(im *metadata.Image, pol Policy, alterations []ConfigAlteration, accepted []map[string]string, brokers map[string]string) Plan {
	var plan Plan
	topics := map[string]map[string]string{}
	all := false
	for i, set := range accepted {
		if set == nil {
			continue
		}
		a := alterations[i]
		w := put(metadata.ConfigKey(a.Kind, a.Name), metadata.EncodeConfig(set))
		if len(set) == 0 {
			w = Write{Key: w.Key, Action: Delete}
		}
		plan.add(NoResult, w)
		all = all || a.Kind == metadata.BrokerConfig && a.Name == ""
		if a.Kind == metadata.TopicConfig {
			topics[a.Name] = set
		}
	}
	config := func(name string) map[string]string {
		if set, ok := topics[name]; ok {
			return set
		}
		return im.Config(metadata.TopicConfig, name)
	}
	if all {
		for t := range im.Topics() {
			plan.retune(t, pol.Effective(config(t.Name), brokers))
		}
	} else {
		for _, name := range sortedKeys(topics) {
			plan.retune(im.Topic(name), pol.Effective(config(name), brokers))
		}
	}
	// A resource is altered when its partitions follow it, so all results wait for the end.
	for i, set := range accepted {
		if set != nil {
			plan.add(i)
		}
	}
	return plan
}
