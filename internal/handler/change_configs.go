package handler

import (
	"context"
	"maps"
	"slices"
	"strings"

	"moldau/internal/config"
	"moldau/internal/controller"
	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// What AlterConfigs and IncrementalAlterConfigs have in common: this broker judges the request and changes to
// brokers, for which it needs its own start configuration; the controller judges the rest and stores it.

// configChange is one resource of a request.
type configChange struct {
	kind int8
	name string
	ops  []controller.ConfigOp
	err  error // the result

	reloads bool // keys and certificates of listeners are to be read anew
}

// configKey names a resource.
type configKey struct {
	kind int8
	name string
}

// changeConfigs carries out the changes and fills in their results.
func (rc *requestContext) changeConfigs(ctx context.Context, changes []configChange, incremental, validateOnly bool) {
	im := rc.table.o.Cluster.Image()
	count := map[configKey]int{}
	for i := range changes {
		count[configKey{changes[i].kind, changes[i].name}]++
	}
	var alterations []controller.ConfigAlteration
	var from []*configChange
	for i := range changes {
		c := &changes[i]
		if count[configKey{c.kind, c.name}] > 1 {
			c.err = refuse(wire.InvalidRequest, "Each resource must appear at most once.")
		} else if c.err = rc.checkChange(im, c, incremental); c.err == nil && c.kind != brokerLoggerConfigs {
			alterations = append(alterations, controller.ConfigAlteration{Kind: metadata.ConfigKind(c.kind), Name: c.name, Ops: c.ops})
			from = append(from, c)
		}
	}
	if len(alterations) == 0 {
		return
	}
	rc.waits()
	alter := rc.table.o.Cluster.AlterConfigs
	if incremental {
		alter = rc.table.o.Cluster.IncrementalAlterConfigs
	}
	for i, r := range alter(ctx, alterations, validateOnly) {
		if r.Code != wire.None {
			from[i].err = refuse(r.Code, "%s", r.Message)
		} else if from[i].reloads && !validateOnly {
			rc.table.o.Security.Wake() // also where a value is what it was: its file may be another
		}
	}
}

// checkChange judges what does not need the controller.
func (rc *requestContext) checkChange(im *metadata.Image, c *configChange, incremental bool) error {
	seen := make(map[string]bool, len(c.ops))
	var nulls []string
	for _, op := range c.ops {
		if seen[op.Key] {
			return refuse(wire.InvalidRequest, "Error due to duplicate config keys")
		}
		seen[op.Key] = true
		if op.Value == nil && op.Type != controller.ConfigDelete {
			nulls = append(nulls, op.Key)
		}
	}
	if nulls != nil {
		return refuse(wire.InvalidRequest, "Null value not supported for : %s", strings.Join(nulls, ", "))
	}
	if c.kind == brokerLoggerConfigs && !incremental {
		return refuse(wire.InvalidRequest, "Unknown resource type %d", c.kind)
	}
	if a, on := accessTo(c.kind, c.name, opAlterConfigs); !rc.allowedTo(a, on) {
		return notAllowed(a.resource)
	}
	switch c.kind {
	case topicConfigs:
		return nil
	case brokerConfigs:
		if c.name != "" {
			if id, ok := brokerID(c.name); !ok {
				return refuse(wire.InvalidRequest, "Node id must be an integer, but it is: %s", c.name)
			} else if id != rc.table.o.NodeID {
				return refuse(wire.InvalidRequest, "Unexpected broker id, expected %d, but received %s", rc.table.o.NodeID, c.name)
			}
		}
		return rc.table.checkBrokerChange(im, c, incremental)
	case brokerLoggerConfigs:
		return rc.table.checkLoggers(c)
	case clientMetricsConfigs:
		return refuse(wire.InvalidRequest, "Client metrics are not supported yet, so they cannot be configured.")
	case groupConfigs:
		return rc.table.checkGroupChange(im, c, incremental)
	}
	return refuse(wire.InvalidRequest, "Unknown resource type %d", c.kind)
}

// checkBrokerChange judges what the dynamic values of this broker, or of all, are to become.
func (t *Table) checkBrokerChange(im *metadata.Image, c *configChange, incremental bool) error {
	values := map[string]string{}
	if incremental {
		maps.Copy(values, im.Config(metadata.BrokerConfig, c.name))
	}
	for _, op := range c.ops {
		switch op.Type {
		case controller.ConfigSet:
			values[op.Key] = *op.Value
		case controller.ConfigDelete:
			delete(values, op.Key)
		case controller.ConfigAppend, controller.ConfigSubtract:
			old, has := values[op.Key]
			changed, err := config.Incremental(config.BrokerScope, op.Key, old, has, config.ListOp(op.Type), *op.Value)
			if err != nil {
				return coded(wire.InvalidConfig, err)
			}
			values[op.Key] = changed
		default:
			return refuse(wire.InvalidRequest, "Unknown operations type %d", op.Type)
		}
	}
	mine, all := t.dynamic(im)
	err := t.o.Config.ValidateDynamic(values, c.name != "", mine, all)
	if c.reloads = t.o.Security != nil && reloads(c.ops, im.Config(metadata.BrokerConfig, c.name), incremental); err != nil || !c.reloads {
		return coded(wire.InvalidRequest, err)
	}
	if c.name != "" {
		mine = values
	} else {
		all = values
	}
	return coded(wire.InvalidRequest, t.o.Security.Check(t.o.Config.WithDynamic(mine, all)))
}

// reloads tells whether a change is about keys and certificates. One that is not incremental takes away what it does not name.
func reloads(ops []controller.ConfigOp, had map[string]string, incremental bool) bool {
	for name := range had {
		if !incremental && config.Reloadable(name) {
			return true
		}
	}
	return slices.ContainsFunc(ops, func(op controller.ConfigOp) bool { return config.Reloadable(op.Key) })
}

// checkLoggers answers changes to log levels. There are no loggers that could be set one by one.
func (t *Table) checkLoggers(c *configChange) error {
	if id, ok := brokerID(c.name); !ok {
		return refuse(wire.InvalidRequest, "Node id must be an integer, but it is: %s", c.name)
	} else if id != t.o.NodeID {
		return refuse(wire.InvalidRequest, "Unexpected node id. Expected %d, but received %s", t.o.NodeID, c.name)
	}
	for _, op := range c.ops {
		switch op.Type {
		case controller.ConfigSet, controller.ConfigDelete:
			return refuse(wire.InvalidConfig, "Logger %s does not exist!", op.Key)
		case controller.ConfigAppend:
			return refuse(wire.InvalidRequest, "APPEND operation is not allowed for the BROKER_LOGGER resource")
		case controller.ConfigSubtract:
			return refuse(wire.InvalidRequest, "SUBTRACT operation is not allowed for the BROKER_LOGGER resource")
		default:
			return refuse(wire.InvalidRequest, "Unknown operation type %d is not allowed for the BROKER_LOGGER resource", op.Type)
		}
	}
	return nil
}
