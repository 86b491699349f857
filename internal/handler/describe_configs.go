// DescribeConfigs (32), versions 1 to 4 (KIP-133, KIP-226, KIP-412, KIP-524, KIP-569).
//
//   - No names means every configuration; names that are not there are left out.
//   - A topic is described with every key, its own or not: clients read, change and write all of them.
//   - A broker describes itself and, as broker "", what is set for all; another id is INVALID_REQUEST.
//   - Loggers: there are none that could be set one by one, so the list is empty. A group has what is set for it, else the
//     broker's values; client metrics have Kafka's defaults.
//   - Secrets have no value.

package handler

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/config"
	"moldau/internal/controller"
	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// maxDescribed bounds the configurations that one request describes, and with that time and memory: that is
// the topics of a very large cluster.
const maxDescribed = 1_000_000

func describeConfigs(ctx context.Context, rc *requestContext, req *kmsg.DescribeConfigsRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeConfigsResponse()
	d := &describer{rc: rc, im: rc.table.o.Cluster.Image(), room: maxDescribed}
	for i := range req.Resources {
		asked := &req.Resources[i]
		r := kmsg.NewDescribeConfigsResponseResource()
		r.ResourceType, r.ResourceName = asked.ResourceType, asked.ResourceName
		entries, err := d.describe(ctx, int8(asked.ResourceType), asked.ResourceName)
		r.ErrorCode, r.ErrorMessage = int16(codeOf(err)), new(string) // never null, as in Kafka
		if err != nil {
			*r.ErrorMessage = err.Error()
		}
		for j := range entries {
			if e := &entries[j]; len(asked.ConfigNames) == 0 || slices.Contains(asked.ConfigNames, e.Name) {
				r.Configs = append(r.Configs, describedConfig(e, req.IncludeSynonyms, req.IncludeDocumentation))
			}
		}
		resp.Resources = append(resp.Resources, r)
	}
	return resp
}

// describer describes the resources of one request.
type describer struct {
	rc            *requestContext
	im            *metadata.Image
	room          int            // configurations that may still be described
	broker, group []config.Entry // described once
}

// describe lists what is configured for one resource.
func (d *describer) describe(ctx context.Context, kind int8, name string) ([]config.Entry, error) {
	if a, on := accessTo(kind, name, opDescribeConfigs); !d.rc.allowedTo(a, on) {
		return nil, notAllowed(a.resource)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if d.room <= 0 {
		return nil, refuse(wire.InvalidRequest, "The request describes more than %d configurations; ask for fewer resources at a time.", maxDescribed)
	}
	entries, err := d.entries(kind, name)
	d.room -= len(entries)
	return entries, err
}

func (d *describer) entries(kind int8, name string) ([]config.Entry, error) {
	switch kind {
	case topicConfigs:
		if why := controller.InvalidName(name); why != "" {
			return nil, refuse(wire.InvalidTopicException, "%s", why)
		}
		if d.im.Topic(name) == nil {
			return nil, refuse(wire.UnknownTopicOrPartition, "")
		}
		return d.rc.table.describeTopic(d.im, d.im.Config(metadata.TopicConfig, name)), nil
	case brokerConfigs:
		if name == "" {
			_, all := d.rc.table.dynamic(d.im)
			return config.DescribeCluster(all), nil
		}
		if err := d.isThisBroker(name, "%d or empty string,"); err != nil {
			return nil, err
		}
		return d.brokerEntries(), nil
	case brokerLoggerConfigs:
		if name == "" {
			return nil, refuse(wire.InvalidRequest, "Broker id must not be empty")
		}
		return nil, d.isThisBroker(name, "%d")
	case clientMetricsConfigs:
		if name == "" {
			return nil, refuse(wire.InvalidRequest, "Client metrics subscription name must not be empty")
		}
		return describeClientMetrics(), nil
	case groupConfigs:
		if name == "" {
			return nil, refuse(wire.InvalidRequest, "Group name must not be empty")
		}
		if d.group == nil {
			d.group = describeGroup(d.brokerEntries())
		}
		return ownGroupConfigs(d.group, d.im.Config(metadata.GroupConfig, name)), nil
	}
	return nil, refuse(wire.InvalidRequest, "Unsupported resource type: %d", kind)
}

func (d *describer) brokerEntries() []config.Entry {
	if d.broker == nil {
		d.broker = d.rc.table.o.Config.DescribeBroker(d.rc.table.dynamic(d.im))
	}
	return d.broker
}

// isThisBroker refuses the name of another broker; expected is how the message names this one.
func (d *describer) isThisBroker(name, expected string) error {
	self := d.rc.table.o.NodeID
	id, ok := brokerID(name)
	switch {
	case !ok:
		return refuse(wire.InvalidRequest, "Broker id must be an integer, but it is: %s", name)
	case id != self:
		return refuse(wire.InvalidRequest, "Unexpected broker id, expected "+expected+" but received %s", self, name)
	}
	return nil
}

func describedConfig(e *config.Entry, synonyms, documentation bool) kmsg.DescribeConfigsResponseResourceConfig {
	c := kmsg.NewDescribeConfigsResponseResourceConfig()
	c.Name, c.Value = e.Name, valueOf(e.Value, e.Null || e.Sensitive)
	c.ReadOnly, c.IsSensitive = e.ReadOnly, e.Sensitive
	c.Source, c.ConfigType = kmsg.ConfigSource(e.Source), kmsg.ConfigType(e.Type)
	if documentation {
		c.Documentation = text(e.Doc)
	}
	if synonyms {
		for _, s := range e.Synonyms {
			k := kmsg.NewDescribeConfigsResponseResourceConfigConfigSynonym()
			k.Name, k.Value, k.Source = s.Name, valueOf(s.Value, s.Null), kmsg.ConfigSource(s.Source)
			c.ConfigSynonyms = append(c.ConfigSynonyms, k)
		}
	}
	return c
}
