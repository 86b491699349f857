package handler

import (
	"maps"
	"slices"
	"strconv"

	"moldau/internal/config"
	"moldau/internal/controller"
	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// Configurations of single groups (resource type GROUP, KIP-848). A group need not exist. What can be set are the intervals and timeouts
// of consumer groups, within the broker's limits; share and streams groups are not there yet.

// settableGroupKeys are those of groupKeys that can be set, with the least value of each.
var settableGroupKeys = map[string]int64{"consumer.session.timeout.ms": 1, "consumer.heartbeat.interval.ms": 1, "consumer.assignment.interval.ms": 0}

// checkGroupChange judges what the values of a group are to become.
func (t *Table) checkGroupChange(im *metadata.Image, c *configChange, incremental bool) error {
	if c.name == "" {
		return refuse(wire.InvalidRequest, "Default group resources are not allowed.")
	}
	values := map[string]string{}
	if incremental {
		maps.Copy(values, im.Config(metadata.GroupConfig, c.name))
	}
	for _, op := range c.ops {
		switch op.Type {
		case controller.ConfigSet:
			values[op.Key] = *op.Value
		case controller.ConfigDelete:
			delete(values, op.Key)
		case controller.ConfigAppend, controller.ConfigSubtract:
			return refuse(wire.InvalidConfig, "Can't %s to key %s because its type is not LIST.", map[bool]string{true: "APPEND", false: "SUBTRACT"}[op.Type == controller.ConfigAppend], op.Key)
		default:
			return refuse(wire.InvalidRequest, "Unknown operation type %d", op.Type)
		}
	}
	cfg := t.config(im)
	at := func(name string) int64 {
		if n, err := strconv.ParseInt(values[name], 10, 32); err == nil {
			return n
		}
		return cfg.Int("group." + name)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		least, ok := settableGroupKeys[name]
		switch {
		case !slices.Contains(groupKeys, name):
			return refuse(wire.InvalidConfig, "Unknown group config name: %s", name)
		case !ok:
			return refuse(wire.InvalidConfig, "%s cannot be set yet: there are no groups of that kind.", name)
		}
		n, err := strconv.ParseInt(values[name], 10, 32)
		what := name[len("consumer."):]
		lower, upper := "group.consumer.min."+what, "group.consumer.max."+what
		switch {
		case err != nil:
			return refuse(wire.InvalidConfig, "Invalid value %s for configuration %s: Not a number of type INT", values[name], name)
		case n < least:
			return refuse(wire.InvalidConfig, "Invalid value %d for configuration %s: Value must be at least %d", n, name, least)
		case n < cfg.Int(lower):
			return refuse(wire.InvalidConfig, "%s must be greater than or equal to %s", name, lower)
		case n > cfg.Int(upper):
			return refuse(wire.InvalidConfig, "%s must be less than or equal to %s", name, upper)
		}
	}
	if at("consumer.session.timeout.ms") <= at("consumer.heartbeat.interval.ms") {
		return refuse(wire.InvalidConfig, "consumer.session.timeout.ms must be greater than consumer.heartbeat.interval.ms")
	}
	return nil
}

// ownGroupConfigs puts what is set for one group over the entries of all groups.
func ownGroupConfigs(all []config.Entry, own map[string]string) []config.Entry {
	if len(own) == 0 {
		return all
	}
	all = slices.Clone(all)
	for i := range all {
		if v, ok := own[all[i].Name]; ok {
			all[i].Value, all[i].Null, all[i].Source = v, false, config.SourceGroup
			all[i].Synonyms = append([]config.Synonym{{Name: all[i].Name, Value: v, Source: config.SourceGroup}}, all[i].Synonyms...)
		}
	}
	return all
}
