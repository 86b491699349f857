package config

import (
	"fmt"
	"log/slog"
	"math"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// crossCheck applies Kafka's rules over several broker keys. It returns the key at fault and Kafka's words, or "".
func (b *Broker) crossCheck() (key, problem string) {
	topic := b.topicValues()
	overrides, err := connectionOverrides(b.Text("max.connections.per.ip.overrides"))
	switch {
	case topic["segment.ms"].(int64) < 1:
		return "log.roll.ms", "log.roll.ms must be greater than or equal to 1"
	case topic["segment.jitter.ms"].(int64) < 0:
		return "log.roll.jitter.ms", "log.roll.jitter.ms must be greater than or equal to 0"
	case topic["retention.ms"].(int64) == 0:
		return "log.retention.ms", "log.retention.ms must be unlimited (-1) or, greater than or equal to 1"
	case b.Int("log.cleaner.threads") == 0 || b.Int("log.cleaner.dedupe.buffer.size")/b.Int("log.cleaner.threads") <= 1<<20:
		return "log.cleaner.dedupe.buffer.size", "log.cleaner.dedupe.buffer.size must be at least 1MB per cleaner thread."
	case b.Int("replica.fetch.wait.max.ms") > b.Int("replica.socket.timeout.ms"):
		return "replica.fetch.wait.max.ms", "replica.socket.timeout.ms should always be at least replica.fetch.wait.max.ms to prevent unnecessary socket timeouts"
	case b.Int("replica.fetch.wait.max.ms") > b.Int("replica.lag.time.max.ms"):
		return "replica.fetch.wait.max.ms", "replica.fetch.wait.max.ms should always be less than or equal to replica.lag.time.max.ms to prevent frequent changes in ISR"
	case b.Int("queued.max.request.bytes") > 0 && b.Int("queued.max.request.bytes") < b.Int("socket.request.max.bytes"):
		return "queued.max.request.bytes", "queued.max.request.bytes must be larger or equal to socket.request.max.bytes"
	case err != nil:
		return "max.connections.per.ip.overrides", err.Error()
	case b.Int("max.connections.per.ip") == 0 && len(overrides) == 0:
		return "max.connections.per.ip", "max.connections.per.ip can be set to zero only if max.connections.per.ip.overrides property is set."
	}
	return b.checkConsumerGroups()
}

// checkConsumerGroups applies the rules over the limits of consumer groups.
func (b *Broker) checkConsumerGroups() (key, problem string) {
	for _, what := range []string{"heartbeat.interval.ms", "session.timeout.ms", "assignment.interval.ms"} {
		name, least, most := "group.consumer."+what, "group.consumer.min."+what, "group.consumer.max."+what
		switch {
		case b.Int(most) < b.Int(least):
			return most, fmt.Sprintf("%s must be greater than or equal to %s", most, least)
		case b.Int(name) < b.Int(least):
			return name, fmt.Sprintf("%s must be greater than or equal to %s", name, least)
		case b.Int(name) > b.Int(most):
			return name, fmt.Sprintf("%s must be less than or equal to %s", name, most)
		}
	}
	if heartbeat, session := "group.consumer.heartbeat.interval.ms", "group.consumer.session.timeout.ms"; b.Int(heartbeat) >= b.Int(session) {
		return heartbeat, fmt.Sprintf("%s must be less than %s", heartbeat, session)
	}
	return "", ""
}

// checkTogether applies the rules over several keys that a start adds to crossCheck.
func (l *loader) checkTogether(b *Broker) {
	if key, problem := b.crossCheck(); key != "" {
		l.failKey(key, problem)
	}
	if err := compactionLags(b.topicValues()); err != nil {
		l.failKey("log.cleaner.min.compaction.lag.ms", err.Error())
	}
	l.checkDirs(b)
	if tick, election := b.Int("moldau.metastore.tick.ms"), b.Int("moldau.metastore.election.ms"); election < 5*tick {
		l.failKey("moldau.metastore.election.ms", fmt.Sprintf("must be at least five times moldau.metastore.tick.ms=%d", tick))
	}
	if b.IsSet("inter.broker.listener.name") && b.IsSet("security.inter.broker.protocol") {
		l.failKey("inter.broker.listener.name", "Only one of inter.broker.listener.name and security.inter.broker.protocol should be set.")
	}
}

// checkDirs refuses directories that are in each other's way.
func (l *loader) checkDirs(b *Broker) {
	key := "log.dirs"
	if !b.IsSet(key) {
		key = "log.dir"
	}
	dirs := b.LogDirs()
	for i, dir := range dirs {
		for _, other := range dirs[:i] {
			switch {
			case absolute(dir) == absolute(other):
				l.failKey(key, "names "+dir+" twice")
			case inside(dir, other):
				l.failKey(key, dir+" is inside "+other+", which holds only what Kafka puts there; choose directories beside each other")
			case inside(other, dir):
				l.failKey(key, other+" is inside "+dir+", which holds only what Kafka puts there; choose directories beside each other")
			}
		}
		if b.Text("metadata.log.dir") != "" && absolute(dir) == absolute(b.Text("metadata.log.dir")) {
			l.failKey("metadata.log.dir", "must not be the log directory itself, which holds only what Kafka puts there; leave it unset for .moldau inside it")
		}
	}
}

func absolute(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return filepath.Clean(dir)
}

// inside says that a directory is below another.
func inside(dir, above string) bool {
	rel, err := filepath.Rel(absolute(above), absolute(dir))
	return err == nil && rel != "." && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator))
}

func compactionLags(topic map[string]value) error {
	if least, most := topic["min.compaction.lag.ms"].(int64), topic["max.compaction.lag.ms"].(int64); least > most {
		return fmt.Errorf("conflict topic config setting min.compaction.lag.ms (%d) > max.compaction.lag.ms (%d)", least, most)
	}
	return nil
}

func normalName(listener string) string { return strings.ToUpper(strings.TrimSpace(listener)) }

// resolveListeners fills in the listeners, and says which are not opened.
func (l *loader) resolveListeners(b *Broker) {
	b.overrides, _ = connectionOverrides(b.Text("max.connections.per.ip.overrides"))
	all, err := parseEndpoints(b.List("listeners"), 0)
	if err == nil {
		err = checkPorts(all)
	}
	if err != nil {
		l.failKey("listeners", err.Error())
		return
	}
	advertised, err := parseEndpoints(b.List("advertised.listeners"), 1)
	if err != nil {
		l.failKey("advertised.listeners", err.Error())
		return
	}
	byName, err := protocolMap(b.Text("listener.security.protocol.map"))
	if err != nil {
		l.failKey("listener.security.protocol.map", err.Error())
		return
	}
	for _, name := range b.List("controller.listener.names") {
		b.controllers = append(b.controllers, normalName(name))
	}
	var unopened []string
	for _, e := range all {
		if slices.Contains(b.controllers, e.name) {
			unopened = append(unopened, fmt.Sprintf("%s (port %d)", e.name, e.port))
			continue
		}
		protocol, ok := byName[e.name]
		switch {
		case !ok:
			l.failKey("listeners", fmt.Sprintf("no security protocol is defined for listener %s; add %s:PLAINTEXT to listener.security.protocol.map", e.name, e.name))
		}
		b.listeners = append(b.listeners, Listener{Name: e.name, Host: e.host, Port: e.port, Protocol: protocol})
	}
	if len(b.listeners) == 0 {
		l.failKey("listeners", "has no listener for clients: all are in controller.listener.names")
		return
	}
	l.advertise(b, advertised)
	if name := b.Text("inter.broker.listener.name"); name != "" && !b.hasListener(normalName(name)) {
		l.failKey("inter.broker.listener.name", "must be one of the listeners for clients: "+strings.Join(b.listenerNames(), ", "))
	}
	if name := b.Text("security.inter.broker.protocol"); b.IsSet("security.inter.broker.protocol") && !b.hasListener(name) {
		l.failKey("security.inter.broker.protocol", "must be the name of one of the listeners for clients, or inter.broker.listener.name be set instead: "+strings.Join(b.listenerNames(), ", "))
	}
	l.warnExposed(b)
	l.warnReadable(b)
	if len(unopened) > 0 {
		l.warn(slog.LevelInfo, []string{"controller.listener.names"},
			"controller listener not opened: %s; a single node needs no socket for its controller", strings.Join(unopened, ", "))
	}
}

// warnExposed names the listeners that everybody in reach may use.
func (l *loader) warnExposed(b *Broker) {
	var open []string
	for _, x := range b.listeners {
		if x.Exposed() && !b.authenticates(x) {
			open = append(open, fmt.Sprintf("%s (%s://%s)", x.Name, x.Protocol, net.JoinHostPort(x.Host, strconv.Itoa(x.Port))))
		}
	}
	if len(open) > 0 {
		l.warn(slog.LevelWarn, []string{"listeners"}, "everybody who reaches this machine may read and write everything over %s: "+
			"bind it to localhost, or give it SASL_SSL with sasl.enabled.mechanisms, or SSL with ssl.client.auth=required", strings.Join(open, ", "))
	}
}

// warnReadable names the listeners over which clients send what lets anybody in who reads along. Of SCRAM he gets what he can guess
// passwords against, which is the same advice.
func (l *loader) warnReadable(b *Broker) {
	var open []string
	for _, x := range b.listeners {
		if !x.Exposed() || x.Protocol != SASLPlaintext {
			continue
		}
		if mechanisms := b.OfListener(x.Name).List("sasl.enabled.mechanisms"); len(mechanisms) > 0 {
			open = append(open, fmt.Sprintf("%s (%s://%s, %s)", x.Name, x.Protocol, net.JoinHostPort(x.Host, strconv.Itoa(x.Port)), strings.Join(mechanisms, ", ")))
		}
	}
	if len(open) > 0 {
		l.warn(slog.LevelWarn, []string{"listeners", "sasl.enabled.mechanisms"}, "whoever reads along on the network gets passwords (PLAIN), tokens (OAUTHBEARER) or what they can be guessed from (SCRAM), and all records, over %s: "+
			"make it SASL_SSL, with a certificate or --tls=auto, or bind it to localhost", strings.Join(open, "; "))
	}
}

// advertise attaches the advertised addresses to their listeners.
func (l *loader) advertise(b *Broker, advertised []endpoint) {
	for _, e := range advertised {
		i := slices.IndexFunc(b.listeners, func(x Listener) bool { return x.Name == e.name })
		switch {
		case e.host == "0.0.0.0" || e.host == "::":
			l.failKey("advertised.listeners", "cannot use the nonroutable meta-address "+e.host+". Use a routable IP address.")
		case slices.Contains(b.controllers, e.name):
		case i < 0:
			l.failKey("advertised.listeners", fmt.Sprintf("names the listener %s, which is not in listeners; there are %s", e.name, strings.Join(b.listenerNames(), ", ")))
		default:
			b.listeners[i].AdvertisedHost, b.listeners[i].AdvertisedPort = e.host, e.port
		}
	}
}

func (b *Broker) hasListener(name string) bool { return slices.Contains(b.listenerNames(), name) }

func (b *Broker) listenerNames() []string {
	out := make([]string, len(b.listeners))
	for i, l := range b.listeners {
		out[i] = l.Name
	}
	return out
}

const severalNodes = notYet + "clusters of several nodes; "

// checkSingleNode refuses whatever makes this node part of something larger. To start alone by mistake would split the data.
func (l *loader) checkSingleNode(b *Broker) {
	if roles := b.List("process.roles"); len(roles) != 2 {
		l.failKey("process.roles", severalNodes+"a single node has process.roles=broker,controller")
	}
	var strangers []string
	for _, s := range b.List("controller.quorum.voters") {
		if v, _ := parseVoter(s); v.id != int64(b.NodeID()) {
			strangers = append(strangers, s)
		}
	}
	if len(strangers) > 0 {
		l.failKey("controller.quorum.voters", fmt.Sprintf("%sof the voters only node %d is this one (node.id), not %s",
			severalNodes, b.NodeID(), strings.Join(strangers, ", ")))
	}
	strangers = nil
	for _, s := range b.List("controller.quorum.bootstrap.servers") {
		if host, port, _ := splitHostPort(s); !l.isThisNode(b, host, port) {
			strangers = append(strangers, s)
		}
	}
	if len(strangers) > 0 {
		l.failKey("controller.quorum.bootstrap.servers", fmt.Sprintf("%s%s is none of this node's controller listeners; for a single node remove the key or name localhost",
			severalNodes, strings.Join(strangers, ", ")))
	}
}

// isThisNode tells whether host:port is a controller listener of this node, without asking a resolver: the port must be that
// of a controller listener if there is one, and the host one of this node's names.
func (l *loader) isThisNode(b *Broker, host string, port int) bool {
	hosts, ports := slices.Clone(l.hosts), []int{}
	for _, key := range []string{"listeners", "advertised.listeners"} {
		list, _ := parseEndpoints(b.List(key), 0)
		for _, e := range list {
			if e.host != "" {
				hosts = append(hosts, e.host)
			}
			if slices.Contains(b.controllers, e.name) {
				ports = append(ports, e.port)
			}
		}
	}
	for _, s := range b.List("controller.quorum.voters") { // all of them are this node by now
		if v, err := parseVoter(s); err == nil {
			hosts, ports = append(hosts, v.host), append(ports, v.port)
		}
	}
	if len(ports) > 0 && !slices.Contains(ports, port) {
		return false
	}
	first, _, _ := strings.Cut(host, ".") // a pod's HOSTNAME is the first label of its name
	return slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(h, host) }) ||
		l.hostname != "" && strings.EqualFold(l.hostname, first)
}

// saturated is a*b for non-negative b, kept within an int64.
func saturated(a, b int64) int64 {
	if a > math.MaxInt64/b {
		return math.MaxInt64
	}
	return a * b
}
