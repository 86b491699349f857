package config

import (
	"regexp"
	"slices"
	"strings"
)

// How a KAFKA_ environment variable is used.
type envUse int

const (
	envNone    envUse = iota // not Kafka's, or injected by Kubernetes for a service called kafka
	envSetting               // a property
	envIgnored               // for a JVM or a start script
	envForeign               // a property in the form of another image, which would be missed silently
)

const (
	envPrefix     = "KAFKA_"
	bitnamiPrefix = "KAFKA_CFG_"
)

// scriptVariables steer Kafka's start scripts and its container image; they are not properties.
var scriptVariables = regexp.MustCompile(`^KAFKA_([A-Z0-9_]*_)?OPTS$|^KAFKA_(JMX|LOG4J|TOOLS_LOG4J)_|^KAFKA_(VERSION|HOME|DEBUG|MODE)$`)

// serviceVariables are what Kubernetes and Docker links inject for a service whose name starts with kafka.
var serviceVariables = regexp.MustCompile(`^KAFKA_PORT$|^KAFKA_SERVICE_|_(TCP|UDP)(_(PROTO|PORT|ADDR))?$|_SERVICE_(HOST|PORT)(_[A-Z0-9_]*)?$`)

// envKey maps a variable to a property by the rule of Kafka's own image: _ is a dot, __ an underscore, ___ a dash.
func envKey(variable, value string) (string, envUse) {
	rest, ok := strings.CutPrefix(variable, envPrefix)
	switch {
	case !ok || rest == "", serviceVariables.MatchString(variable),
		strings.HasSuffix(variable, "_PORT") && strings.Contains(value, "://"):
		return "", envNone
	case scriptVariables.MatchString(variable):
		return "", envIgnored
	case strings.HasPrefix(variable, bitnamiPrefix):
		return "", envForeign
	}
	key := strings.ReplaceAll(strings.ToLower(rest), "_", ".")
	key = strings.ReplaceAll(key, "...", "-")
	return strings.ReplaceAll(key, "..", "_"), envSetting
}

// vendorPrefixes belong to a JVM, to other distributions or to Java plug-ins.
var vendorPrefixes = []string{"confluent.", "java.", "jmx.", "cruise.control.", "strimzi.", "rlmm.config.", "rsm.config."}

func isVendorKey(name string) bool {
	return slices.ContainsFunc(vendorPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

// authorizerOnly tells whether a key matters only with an authorizer.
func authorizerOnly(name string) bool { return name == AllowUnlistedKey || name == SuperUsersKey }

// perListener tells whether the own value of a listener is in force for a key.
func perListener(base string) bool {
	return strings.HasPrefix(base, "ssl.") || strings.HasPrefix(base, "sasl.") || base == "connections.max.reauth.ms" ||
		base == "max.connections" || base == "max.connection.creation.rate"
}

// mechanismsOwn is the key that listener.name.LISTENER.MECHANISM.KEY sets, where it is one of SASL.
func mechanismsOwn(name string) (key string, ok bool) {
	base, ok := listenerBase(name)
	if !ok {
		return "", false
	}
	_, key, ok = strings.Cut(base, ".")
	return key, ok && strings.HasPrefix(key, "sasl.")
}

// securityOnly tells whether a key matters only with TLS or SASL.
func securityOnly(name string) bool {
	if own, ok := mechanismsOwn(name); ok {
		name = own
	} else if base, ok := listenerBase(name); ok {
		name = base
	}
	return strings.HasPrefix(name, "ssl.") || strings.HasPrefix(name, "sasl.") || name == "connections.max.reauth.ms"
}

// removedHint says what became of keys of Kafka 3 and earlier; "" for all others.
func removedHint(name string) string {
	if strings.HasPrefix(name, "zookeeper.") {
		return "there is no ZooKeeper"
	}
	if strings.HasPrefix(name, "password.encoder.") {
		return "it protected passwords in ZooKeeper"
	}
	switch name {
	case "host.name", "port":
		return "use listeners"
	case "advertised.host.name", "advertised.port":
		return "use advertised.listeners"
	case "delegation.token.master.key":
		return "now delegation.token.secret.key"
	case "log.message.timestamp.difference.max.ms":
		return "now log.message.timestamp.before.max.ms and log.message.timestamp.after.max.ms"
	case "quota.producer.default", "quota.consumer.default":
		return "set quotas with moldau quota"
	case "inter.broker.protocol.version", "log.message.format.version", "log.message.downconversion.enable",
		"control.plane.listener.name", "controlled.shutdown.max.retries", "controlled.shutdown.retry.backoff.ms",
		"offsets.commit.required.acks", "broker.id.generation.enable", "reserved.broker.max.id",
		"group.coordinator.new.enable", "group.share.enable", "auto.include.jmx.reporter",
		"eligible.leader.replicas.enable", "unstable.metadata.versions.enable", "leader.imbalance.per.broker.percentage":
		return "no longer needed"
	}
	return ""
}
