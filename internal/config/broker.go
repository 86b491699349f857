package config

import (
	"fmt"
	"maps"
	"math"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// setting is one value of the start configuration and where it came from.
type setting struct {
	raw    string
	origin string // for people: "in server.properties", "by --listen"
}

// Broker is the resolved configuration of one broker, without the dynamic values unless it came from WithDynamic.
type Broker struct {
	static   map[string]setting
	defaults map[string]string // of this start, where they differ from the table

	// The layers of dynamic values, and what results of them and static: raw values by name.
	brokerDynamic, clusterDynamic map[string]string
	effective                     map[string]string

	listeners   []Listener
	controllers []string // names of the controller listeners, which are not served
	overrides   map[string]int
}

// WithDynamic returns the start configuration with the dynamic values of this broker and of the whole cluster laid over it. Values
// that are not valid for their key are left out, as in Kafka. The maps are not kept.
func (b *Broker) WithDynamic(brokerDynamic, clusterDynamic map[string]string) *Broker {
	if len(brokerDynamic)+len(clusterDynamic)+len(b.brokerDynamic)+len(b.clusterDynamic) == 0 {
		return b
	}
	n := *b
	n.brokerDynamic, n.clusterDynamic = usable(brokerDynamic), usable(clusterDynamic)
	n.effective = n.layered()
	if o, err := connectionOverrides(n.raw("max.connections.per.ip.overrides")); err == nil {
		n.overrides = o
	}
	return &n
}

// usable keeps what can be changed dynamically and is valid, and what is not ours to judge.
func usable(dynamic map[string]string) map[string]string {
	out := make(map[string]string, len(dynamic))
	for name, raw := range dynamic {
		k, known := lookupBroker(name)
		if known && (k.Dynamic == ReadOnly && k.Name == name || k.Check(raw) != nil) {
			continue
		}
		out[name] = raw
	}
	return out
}

// layered lays the dynamic values over the static ones. A dynamic value displaces every key that says the same: a dynamic
// log.retention.ms wins over a static log.retention.hours.
func (b *Broker) layered() map[string]string {
	out := make(map[string]string, len(b.static))
	for name, s := range b.static {
		out[name] = s.raw
	}
	for _, layer := range []map[string]string{b.clusterDynamic, b.brokerDynamic} {
		for name := range layer {
			for _, u := range family(name) {
				delete(out, u.name)
			}
		}
		maps.Copy(out, layer)
	}
	return out
}

// defaultOf is the default in this start; ok is false if there is none.
func (b *Broker) defaultOf(k Key) (raw string, ok bool) {
	if d, ok := b.defaults[k.Name]; ok {
		return d, true
	}
	return k.Default, !k.Unset
}

// lookup returns the raw value of a key, or ok false if it is unset and has no default.
func (b *Broker) lookup(k Key) (raw string, ok bool) {
	if raw, ok := b.effective[k.Name]; ok {
		return raw, true
	}
	return b.defaultOf(k)
}

func (b *Broker) value(name string, types ...Type) value {
	k, ok := brokerTable.lookup(name)
	if !ok || !slices.Contains(types, k.Type) {
		panic(fmt.Sprintf("BUG: %s is no configuration key of type %v", name, types))
	}
	raw, ok := b.lookup(k)
	if !ok {
		return nil
	}
	v, err := k.parse(raw)
	if err != nil {
		panic("BUG: unchecked configuration: " + err.Error())
	}
	return v
}

func (b *Broker) raw(name string) string {
	if v := b.value(name, String); v != nil {
		return v.(string)
	}
	return ""
}

// IsSet tells whether a broker key has a value other than by default.
func (b *Broker) IsSet(name string) bool {
	_, ok := b.effective[name]
	return ok
}

// Bool returns a Boolean key's value.
func (b *Broker) Bool(name string) bool { return b.value(name, Boolean).(bool) }

// Int returns the value of an Int, Short or Long key, 0 if it is unset.
func (b *Broker) Int(name string) int64 {
	if v := b.value(name, Int, Short, Long); v != nil {
		return v.(int64)
	}
	return 0
}

// ListenerInt returns the value that an Int key has for one listener only, listener.name.NAME.KEY, if it has one.
func (b *Broker) ListenerInt(listener, name string) (int64, bool) {
	k, ok := brokerTable.lookup(name)
	if !ok || k.Type != Int {
		panic(fmt.Sprintf("BUG: %s is no configuration key of type %v", name, Int))
	}
	raw, ok := b.effective["listener.name."+strings.ToLower(listener)+"."+name]
	if !ok {
		return 0, false
	}
	v, err := k.parse(raw)
	if err != nil {
		panic("BUG: unchecked configuration: " + err.Error())
	}
	return v.(int64), true
}

// Double returns a Double key's value.
func (b *Broker) Double(name string) float64 { return b.value(name, Double).(float64) }

// Text returns the value of a String, Class or Password key, "" if it is unset.
func (b *Broker) Text(name string) string {
	if v := b.value(name, String, Class, Password); v != nil {
		return v.(string)
	}
	return ""
}

// List returns a List key's value, nil if it is unset. The caller owns it.
func (b *Broker) List(name string) []string {
	if v := b.value(name, List); v != nil {
		return v.([]string)
	}
	return nil
}

// Millis returns the value of a key in milliseconds. Negative values, which mean none or unlimited, become -1; what is too
// long for a Duration becomes the longest one.
func (b *Broker) Millis(name string) time.Duration { return millis(b.Int(name)) }

func millis(ms int64) time.Duration {
	switch {
	case ms < 0:
		return -1
	case ms > math.MaxInt64/int64(time.Millisecond):
		return math.MaxInt64
	}
	return time.Duration(ms) * time.Millisecond
}

// NodeID is node.id, or broker.id where only that is set.
func (b *Broker) NodeID() int32 { return int32(b.Int("node.id")) }

// Rack is broker.rack, "" if unset.
func (b *Broker) Rack() string { return b.Text("broker.rack") }

// Listeners are those served to clients, in the order of the configuration. The caller owns the slice.
func (b *Broker) Listeners() []Listener { return slices.Clone(b.listeners) }

// ControllerListeners are the names of the listeners that only controllers would use.
func (b *Broker) ControllerListeners() []string { return slices.Clone(b.controllers) }

// InterBrokerListener is the name of the listener that brokers use among themselves.
func (b *Broker) InterBrokerListener() string {
	if name := b.Text("inter.broker.listener.name"); name != "" {
		return normalName(name)
	}
	if name := b.Text("security.inter.broker.protocol"); b.hasListener(name) {
		return name
	}
	for _, l := range b.listeners {
		if string(l.Protocol) == l.Name {
			return l.Name
		}
	}
	return b.listeners[0].Name
}

// HTTPAddrs are the addresses of the HTTP listener as host:port, two for localhost; nil if it is off.
func (b *Broker) HTTPAddrs() []string {
	s := b.Text("moldau.http.listener")
	if s == "off" {
		return nil
	}
	host, port, _ := net.SplitHostPort(s) // checked on entry
	n, _ := strconv.Atoi(port)
	return bindAddrs(host, n)
}

// authenticates tells whether every client of a listener shows who it is.
func (b *Broker) authenticates(l Listener) bool {
	return l.Protocol.SASL() || l.Protocol.TLS() && b.OfListener(l.Name).Text("ssl.client.auth") == "required"
}

// HTTPDetailsLocal tells whether the pages of the HTTP listener that tell of clients, and those that profile, are only for who asks on this machine.
func (b *Broker) HTTPDetailsLocal() bool {
	switch b.Text("moldau.http.details") {
	case "all":
		return false
	case "local":
		return true
	}
	return b.Text("authorizer.class.name") != "" || slices.ContainsFunc(b.listeners, b.authenticates)
}

// LogDirs are the directories of the logs, cleaned; at least one.
func (b *Broker) LogDirs() []string {
	dirs := b.List("log.dirs")
	if dirs == nil {
		dirs = b.List("log.dir")
	}
	for i, d := range dirs {
		dirs[i] = filepath.Clean(d)
	}
	return dirs
}

const (
	defaultMetadataDir = "moldau-data/meta"
	metadataInLogDir   = ".moldau"
)

// MetadataDirs are the places where manifests, metadata store and quarantine may live: metadata.log.dir, or, where only the log
// directories were set, .moldau inside one of them, so that one volume can hold everything. A new one goes to the first place.
func (b *Broker) MetadataDirs() []string {
	if dir := b.Text("metadata.log.dir"); dir != "" {
		return []string{filepath.Clean(dir)}
	}
	if !b.IsSet("log.dirs") && !b.IsSet("log.dir") {
		return []string{filepath.FromSlash(defaultMetadataDir)}
	}
	var out []string
	for _, dir := range b.LogDirs() {
		out = append(out, filepath.Join(dir, metadataInLogDir))
	}
	return out
}

// ConnectionOverrides are the client addresses with a limit of their own. The caller owns the map.
func (b *Broker) ConnectionOverrides() map[string]int { return maps.Clone(b.overrides) }

// InternalTopic says how an internal topic is created on its first use.
type InternalTopic struct {
	Partitions        int32
	ReplicationFactor int16
	MinISR            int16 // 0: as any topic
	SegmentBytes      int32
}

// OffsetsTopic describes __consumer_offsets in a cluster of that many brokers.
func (b *Broker) OffsetsTopic(brokers int) InternalTopic {
	return b.internalTopic("offsets.topic", "", brokers)
}

// TransactionTopic describes __transaction_state in a cluster of that many brokers.
func (b *Broker) TransactionTopic(brokers int) InternalTopic {
	return b.internalTopic("transaction.state.log", "transaction.state.log.min.isr", brokers)
}

// ShareTopic describes __share_group_state in a cluster of that many brokers.
func (b *Broker) ShareTopic(brokers int) InternalTopic {
	return b.internalTopic("share.coordinator.state.topic", "share.coordinator.state.topic.min.isr", brokers)
}

// internalTopic caps what is not set explicitly at the number of brokers, so that a small cluster works as it is.
func (b *Broker) internalTopic(prefix, minISR string, brokers int) InternalTopic {
	capped := func(name string) int16 {
		n := b.Int(name)
		if !b.IsSet(name) {
			n = min(n, int64(max(brokers, 1)))
		}
		return int16(min(n, math.MaxInt16))
	}
	t := InternalTopic{
		Partitions:        int32(b.Int(prefix + ".num.partitions")),
		ReplicationFactor: capped(prefix + ".replication.factor"),
		SegmentBytes:      int32(b.Int(prefix + ".segment.bytes")),
	}
	if minISR != "" {
		t.MinISR = capped(minISR)
		if !b.IsSet(minISR) {
			t.MinISR = min(t.MinISR, t.ReplicationFactor)
		}
	}
	return t
}
