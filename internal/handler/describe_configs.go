// DescribeConfigs (32), versions 1 to 4 (KIP-133, KIP-226, KIP-412, KIP-524, KIP-569).
//
//   - No names means every configuration; names that are not there are left out.
//   - A topic is described with every key, its own or not: clients read, change and write all of them.
//   - A broker describes itself and, as broker "", what is set for all; another id is INVALID_REQUEST.
//   - Loggers: there are none that could be set one by one, so the list is empty. Groups and client metrics
//     have Kafka's defaults.
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

func describeConfigs(_ context.Context, rc *requestContext, req *kmsg.DescribeConfigsRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeConfigsResponse()
	im := rc.table.o.Cluster.Image()
	for i := range req.Resources {
		asked := &req.Resources[i]
		r := kmsg.NewDescribeConfigsResponseResource()
		r.ResourceType, r.ResourceName = asked.ResourceType, asked.ResourceName
		entries, err := rc.describe(im, int8(asked.ResourceType), asked.ResourceName)
		if err != nil {
			r.ErrorCode, r.ErrorMessage = int16(codeOf(err)), text(err.Error())
		}
		for _, e := range entries {
			if len(asked.ConfigNames) == 0 || slices.Contains(asked.ConfigNames, e.Name) {
				r.Configs = append(r.Configs, describedConfig(&e, req.IncludeSynonyms, req.IncludeDocumentation))
			}
		}
		resp.Resources = append(resp.Resources, r)
	}
	return resp
}

// describe lists what is configured for one resource.
func (rc *requestContext) describe(im *metadata.Image, kind int8, name string) ([]config.Entry, error) {
	t := rc.table
	if a, on := accessTo(kind, name, opDescribeConfigs); !rc.allowedTo(a, on) {
		return nil, notAllowed(a.resource)
	}
	switch kind {
	case topicConfigs:
		if why := controller.InvalidName(name); why != "" {
			return nil, refuse(wire.InvalidTopicException, "%s", why)
		}
		if im.Topic(name) == nil {
			return nil, refuse(wire.UnknownTopicOrPartition, "")
		}
		return t.describeTopic(im, im.Config(metadata.TopicConfig, name)), nil
	case brokerConfigs:
		mine, all := t.dynamic(im)
		if name == "" {
			return config.DescribeCluster(all), nil
		}
		if id, ok := brokerID(name); !ok {
			return nil, refuse(wire.InvalidRequest, "Broker id must be an integer, but it is: %s", name)
		} else if id != t.o.NodeID {
			return nil, refuse(wire.InvalidRequest, "Unexpected broker id, expected %d or empty string, but received %s", t.o.NodeID, name)
		}
		return t.o.Config.DescribeBroker(mine, all), nil
	case brokerLoggerConfigs:
		if name == "" {
			return nil, refuse(wire.InvalidRequest, "Broker id must not be empty")
		}
		if id, ok := brokerID(name); !ok {
			return nil, refuse(wire.InvalidRequest, "Broker id must be an integer, but it is: %s", name)
		} else if id != t.o.NodeID {
			return nil, refuse(wire.InvalidRequest, "Unexpected broker id, expected %d but received %s", t.o.NodeID, name)
		}
		return nil, nil
	case clientMetricsConfigs:
		if name == "" {
			return nil, refuse(wire.InvalidRequest, "Client metrics subscription name must not be empty")
		}
		return describeClientMetrics(), nil
	case groupConfigs:
		if name == "" {
			return nil, refuse(wire.InvalidRequest, "Group name must not be empty")
		}
		return t.describeGroup(im), nil
	}
	return nil, refuse(wire.InvalidRequest, "Unsupported resource type: %d", kind)
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
