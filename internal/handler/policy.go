package handler

import (
	"math"
	"time"

	"moldau/internal/config"
	"moldau/internal/controller"
	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// Policy is what the controller knows of configuration, with c as the start configuration of the broker
// that decides.
func Policy(c *config.Broker) controller.Policy {
	return controller.Policy{
		IsList: func(kind metadata.ConfigKind, key string) (bool, string) {
			scope := config.BrokerScope
			if kind == metadata.TopicConfig {
				scope = config.TopicScope
			}
			k, ok := config.Lookup(scope, key)
			return ok && k.Type == config.List, k.Default
		},
		// What is set for brokers has been judged where the request came in: it takes the broker's own start
		// configuration, which the controller does not have.
		Validate: func(kind metadata.ConfigKind, _ string, set map[string]string) (wire.Code, string) {
			if kind != metadata.TopicConfig {
				return wire.None, ""
			}
			if err := c.ValidateTopic(set, nil, nil); err != nil {
				return wire.InvalidConfig, err.Error()
			}
			return wire.None, ""
		},
		Effective: func(topic, brokers map[string]string) controller.Effective {
			t := c.Topic(topic, nil, brokers)
			e := controller.Effective{MinISR: t.MinISR, FlushMessages: t.FlushMessages, FlushMs: math.MaxInt64}
			if t.FlushMs >= 0 && t.FlushMs < math.MaxInt64 {
				e.FlushMs = int64(t.FlushMs / time.Millisecond)
			}
			return e
		},
	}
}
