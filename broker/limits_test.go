package broker

import (
	"maps"
	"testing"

	"moldau/internal/config"
	"moldau/internal/network"
)

// A listener whose clients have to prove who they are accepts no faster than they could, unless its own property says otherwise; others as fast as they can.
func TestCreationRateOfStrangers(t *testing.T) {
	c, _, err := config.Load(config.Sources{Sets: []string{
		"node.id=1", "moldau.http.listener=off", "moldau.tls=auto", "sasl.enabled.mechanisms=SCRAM-SHA-256",
		"listeners=PLAINTEXT://127.0.0.1:0,SSL://127.0.0.1:0,SASL_PLAINTEXT://127.0.0.1:0,SASL_SSL://127.0.0.1:0,MORE://127.0.0.1:0,LESS://127.0.0.1:0",
		"listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL,MORE:SSL,LESS:PLAINTEXT",
		"listener.name.more.max.connection.creation.rate=2147483647", "listener.name.less.max.connection.creation.rate=7",
	}})
	if err != nil {
		t.Fatal(err)
	}
	rates := map[string]int{}
	for name, l := range new(Broker).limits(c).Listeners {
		rates[name] = l.CreationRate
	}
	strangers := network.StrangerRate()
	want := map[string]int{
		"PLAINTEXT": network.Unlimited, "SSL": strangers, "SASL_PLAINTEXT": strangers, "SASL_SSL": strangers, "MORE": network.Unlimited, "LESS": 7,
	}
	if !maps.Equal(rates, want) {
		t.Errorf("connections a second of the listeners: %v, want %v", rates, want)
	}
}
