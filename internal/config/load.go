package config

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/magiconair/properties"
)

// Sources is everything a start configuration is made of. Flags and Sets win over Env, Env over File, File over the
// defaults; a key also displaces keys of weaker sources that say the same in another unit or under another name.
type Sources struct {
	File     io.Reader         // a properties file in Kafka's format, nil if none is given
	FileName string            // for messages
	Env      []string          // as os.Environ; only KAFKA_* is read, and HOSTNAME to recognise this node
	Sets     []string          // key=value of each --set
	Flags    map[string]string // those given of listen, data-dir, http and tls, without dashes
}

// Warning is something a person should know about a configuration that starts all the same.
type Warning struct {
	Level slog.Level // Warn, or Info for what is merely good to know
	Text  string
	Keys  []string // the properties it is about, sorted
}

func (w Warning) String() string { return w.Text }

// SettingError says what is wrong with one setting: key, value, where it was set, and what would be right.
type SettingError struct{ Key, Value, Origin, Problem string }

func (e *SettingError) Error() string {
	colon := ":"
	if strings.HasPrefix(e.Problem, notYet) {
		colon = ""
	}
	return fmt.Sprintf("%s=%s (%s)%s %s", e.Key, e.Value, e.Origin, colon, e.Problem)
}

// maxFileBytes bounds a configuration file; Kafka's own is 7 KiB with all its comments.
const maxFileBytes = 1 << 20

// displaced are keys under two names. With a unit's family they are what a stronger source displaces together.
var displaced = [][]string{{"log.dirs", "log.dir"}, {"node.id", "broker.id"}}

// loader collects what the sources say and everything that is wrong with it, so that a person hears of it at once.
type loader struct {
	settings map[string]setting
	hosts    []string // names under which this host goes
	hostname string   // of them, that of the environment
	hasFile  bool

	listeners []Listener // those of build

	errs     []error
	warnings []Warning
	unknown  map[string]string // name to origin
	ignored  []string
	removed  []string
}

// Load resolves the start configuration. On an error, which lists every problem found, there is no Broker; warnings may come
// with either. It reads File and nothing else.
func Load(s Sources) (*Broker, []Warning, error) {
	l := &loader{settings: map[string]setting{}, unknown: map[string]string{}, hosts: []string{"localhost", "127.0.0.1", "::1"}}
	l.readFile(s)
	l.readEnv(s.Env)
	l.readCommandLine(s)
	l.judgeNames()
	var b *Broker
	if l.checkValues() {
		b = l.build()
	}
	l.summarise()
	if len(l.errs) > 0 {
		return nil, l.warnings, errors.Join(l.errs...)
	}
	return b, l.warnings, nil
}

func (l *loader) fail(format string, args ...any) {
	l.errs = append(l.errs, fmt.Errorf(format, args...))
}

// failKey reports a problem with the value a key has.
func (l *loader) failKey(name, problem string) {
	l.errs = append(l.errs, fault(l.settings, name, problem))
}

// fault is the error of a key in settings. Secrets are not shown.
func fault(settings map[string]setting, name, problem string) *SettingError {
	s, ok := settings[name]
	for _, u := range family(name) { // the problem may lie with the key in another unit
		if other, set := settings[u.name]; set && !ok {
			name, s, ok = u.name, other, true
		}
	}
	if !ok {
		k, _ := lookupBroker(name)
		s = setting{k.Default, "by default"}
		if k.Unset {
			s.raw = "(unset)"
		}
	}
	if ok && sensitive(name) {
		s.raw = "[hidden]"
	}
	return &SettingError{name, s.raw, s.origin, problem}
}

// sensitive tells whether a value must not be shown; what is unknown may be a secret.
func sensitive(name string) bool {
	k, ok := lookupBroker(name)
	return !ok || k.Sensitive()
}

func (l *loader) warn(level slog.Level, keys []string, format string, args ...any) {
	slices.Sort(keys)
	l.warnings = append(l.warnings, Warning{level, fmt.Sprintf(format, args...), keys})
}

// apply lays one source over the weaker ones.
func (l *loader) apply(layer map[string]setting) {
	for name := range layer {
		for _, u := range family(name) {
			delete(l.settings, u.name)
		}
		for _, group := range displaced {
			if slices.Contains(group, name) {
				for _, other := range group {
					delete(l.settings, other)
				}
			}
		}
	}
	maps.Copy(l.settings, layer)
}

func (l *loader) readFile(s Sources) {
	if s.File == nil {
		return
	}
	l.hasFile = true
	name := s.FileName
	if name == "" {
		name = "the configuration file"
	}
	data, err := io.ReadAll(io.LimitReader(s.File, maxFileBytes+1))
	if err != nil {
		l.fail("%s: %w", name, err)
		return
	}
	if len(data) > maxFileBytes {
		l.fail("%s is larger than %d bytes and so no configuration", name, maxFileBytes)
		return
	}
	// Kafka does not expand ${...} by itself, and a password may well contain it.
	reader := properties.Loader{Encoding: properties.UTF8, DisableExpansion: true}
	p, err := reader.LoadBytes(data)
	if err != nil {
		l.fail("%s: %w", name, err)
		return
	}
	layer := map[string]setting{}
	for _, key := range p.Keys() {
		value, _ := p.Get(key)
		layer[key] = setting{value, "in " + name}
	}
	l.apply(layer)
}

func (l *loader) readEnv(env []string) {
	layer := map[string]setting{}
	for _, e := range env {
		variable, value, ok := strings.Cut(e, "=")
		if !ok {
			continue
		}
		if variable == "HOSTNAME" && value != "" {
			l.hostname, l.hosts = value, append(l.hosts, value)
		}
		switch key, use := envKey(variable, value); use {
		case envSetting:
			layer[key] = setting{value, "by environment variable " + variable}
		case envIgnored:
			l.ignored = append(l.ignored, variable)
		case envForeign:
			l.fail("environment variable %s: this form belongs to another image; name it KAFKA_%s", variable, strings.TrimPrefix(variable, bitnamiPrefix))
		}
	}
	l.apply(layer)
}

func (l *loader) readCommandLine(s Sources) {
	layer := map[string]setting{}
	for _, set := range s.Sets {
		key, value, ok := strings.Cut(set, "=")
		key = strings.TrimSpace(key)
		if !ok || key == "" {
			l.fail("--set %s: expected key=value", set)
			continue
		}
		layer[key] = setting{value, "by --set"}
	}
	flag := func(name, value, origin string, rivals ...string) {
		for _, r := range append(rivals, name) {
			if other, twice := layer[r]; twice && other.origin != origin {
				l.fail("%s is given both %s and %s; leave one out", r, other.origin, origin)
			}
		}
		layer[name] = setting{value, origin}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Flags)) {
		value, origin := s.Flags[name], "by --"+name
		switch name {
		case "listen":
			if !strings.Contains(value, "://") {
				if !strings.Contains(value, ":") {
					l.fail("--listen %q: expected HOST:PORT, such as localhost:9092; without a host every interface, port 0 for a free one", value)
					continue
				}
				value = string(l.flagProtocol(s.Flags)) + "://" + value
			}
			flag("listeners", value, origin)
		case "tls":
			flag("moldau.tls", value, origin)
			if _, given := s.Flags["listen"]; !given && value == "auto" && l.settings["listeners"].origin == "" && layer["listeners"].origin == "" {
				layer["listeners"] = setting{string(SSL) + strings.TrimPrefix(brokerDefault("listeners"), string(Plaintext)), origin}
			}
		case "http":
			flag("moldau.http.listener", value, origin)
		case "data-dir":
			if value == "" || strings.Contains(value, ",") {
				l.fail("--data-dir %q: expected one directory without a comma", value)
				continue
			}
			flag("log.dirs", filepath.Join(value, "log"), origin, "log.dir")
			flag("metadata.log.dir", filepath.Join(value, "meta"), origin)
		default:
			l.fail("unknown flag --%s%s", name, didYouMean("--", nearest(name, []string{"data-dir", "http", "listen", "tls"})))
		}
	}
	l.apply(layer)
}

// flagProtocol is the protocol of a --listen that names none.
func (l *loader) flagProtocol(flags map[string]string) Protocol {
	if flags["tls"] == "auto" {
		return SSL
	}
	return Plaintext
}

// hasListener tells whether a listener's own key belongs to one that there is; those of controllers are not served, and known.
func (l *loader) hasListener(name string) bool {
	m := listenerKey.FindStringSubmatch(name)
	if m == nil || strings.EqualFold(m[1], "controller") {
		return true
	}
	return slices.ContainsFunc(l.listeners, func(x Listener) bool { return strings.EqualFold(x.Name, m[1]) })
}

// nearest returns the candidate within two typing errors of name, or "".
func nearest(name string, candidates []string) string {
	for limit := 0; limit <= 2; limit++ {
		for _, c := range candidates {
			if distance(name, c, limit) <= limit {
				return c
			}
		}
	}
	return ""
}

func didYouMean(prefix, name string) string {
	if name == "" {
		return ""
	}
	return "; did you mean " + prefix + name + "?"
}

// judgeNames sorts out the keys that are not in the table.
func (l *loader) judgeNames() {
	for _, name := range slices.Sorted(maps.Keys(l.settings)) {
		s := l.settings[name]
		if k, known := lookupBroker(name); known {
			if k.DynamicOnly {
				l.failKey(name, "can be set only while the broker runs (moldau config), not at the start")
			}
			continue
		}
		switch {
		case isVendorKey(name):
			l.ignored = append(l.ignored, name)
			continue
		case removedHint(name) != "":
			l.removed = append(l.removed, name)
			continue
		}
		if own, ok := mechanismsOwn(name); ok {
			if _, known := brokerTable.lookup(own); known {
				continue
			}
		}
		if hint := l.hint(name); hint != "" {
			l.fail("%s (%s) is no configuration key%s", name, s.origin, hint)
		} else if strings.HasPrefix(name, moldauPrefix) || strings.HasPrefix(s.origin, "by --") {
			l.fail("%s (%s) is no configuration key; moldau config explain WORD finds those with a word in their names", name, s.origin)
		} else {
			l.unknown[name] = s.origin
		}
	}
}

// hint finds what an unknown key was meant to be.
func (l *loader) hint(name string) string {
	if broker, ok := topicToBroker[name]; ok {
		return "; it belongs to a topic, the broker's default is " + broker
	}
	if _, ok := topicTable.lookup(name); ok {
		return "; it can be set only on a topic"
	}
	base, ok := mechanismsOwn(name)
	if !ok {
		if base, ok = listenerBase(name); !ok {
			base = name
		}
	}
	return didYouMean(strings.TrimSuffix(name, base), Suggest(BrokerScope, base))
}

// checkValues checks each setting on its own, and tells whether all can be read.
func (l *loader) checkValues() bool {
	readable := true
	for _, name := range slices.Sorted(maps.Keys(l.settings)) {
		k, known := lookupBroker(name)
		if !known || k.DynamicOnly {
			continue
		}
		raw := l.settings[name].raw
		var bad *ValueError
		if err := k.Check(raw); errors.As(err, &bad) {
			problem := bad.Problem
			if allowed := k.Valid.String(); allowed != "" && !strings.Contains(problem, allowed) {
				problem += "; allowed: " + allowed
			}
			l.failKey(name, problem)
			readable = false
			continue
		}
		if k.State == Refused && !k.harmless(raw) {
			l.failKey(name, notYet+k.Advice)
		}
	}
	return readable
}

// notYet starts the problem of whatever is refused rather than wrong.
const notYet = "is not supported yet: "

// harmless tells whether a value of a refused key asks for nothing.
func (k Key) harmless(raw string) bool {
	v := k.canonical(raw)
	return v == "" || !k.Unset && v == k.canonical(k.Default)
}

// build resolves what several keys say together.
func (l *loader) build() *Broker {
	node, broker := l.settings["node.id"], l.settings["broker.id"]
	switch { // as in Kafka, each stands for the other
	case node.origin == "" && broker.origin != "":
		l.settings["node.id"] = broker
		if k, _ := brokerTable.lookup("node.id"); k.Check(broker.raw) != nil {
			l.failKey("broker.id", "must be at least 0")
			return nil
		}
	case broker.origin == "" && node.origin != "":
		l.settings["broker.id"] = node
	}
	b := &Broker{static: l.settings, defaults: map[string]string{}}
	if l.settings["node.id"].origin == "" {
		b.defaults["broker.id"] = brokerDefault("node.id")
	}
	if !l.hasFile {
		b.defaults["group.initial.rebalance.delay.ms"] = "0"
	}
	b.effective = b.layered()
	if b.IsSet("node.id") && b.Int("node.id") != b.Int("broker.id") {
		l.failKey("broker.id", fmt.Sprintf("must be the same as node.id=%d; one of them is enough", b.Int("node.id")))
	}
	l.checkTogether(b)
	l.resolveListeners(b)
	l.listeners = b.listeners
	if len(l.errs) == 0 {
		l.checkSingleNode(b)
	}
	return b
}

// summarise turns what was collected into one warning each.
func (l *loader) summarise() {
	if len(l.unknown) > 0 {
		keys := slices.Sorted(maps.Keys(l.unknown))
		list := make([]string, len(keys))
		for i, k := range keys {
			list[i] = k + " (" + l.unknown[k] + ")"
		}
		l.warn(slog.LevelWarn, keys, "unknown configuration keys are ignored: %s", strings.Join(list, ", "))
	}
	if len(l.removed) > 0 {
		list := make([]string, len(l.removed))
		for i, k := range l.removed {
			list[i] = k + " (" + removedHint(k) + ")"
		}
		l.warn(slog.LevelWarn, l.removed, "keys that Kafka 4 no longer has are ignored: %s", strings.Join(list, ", "))
	}
	if len(l.ignored) > 0 {
		slices.Sort(l.ignored)
		l.warn(slog.LevelInfo, l.ignored, "settings for a JVM or of another vendor are ignored: %s", strings.Join(l.ignored, ", "))
	}
	secured := slices.ContainsFunc(l.listeners, func(x Listener) bool { return x.Protocol != Plaintext })
	authorizes := l.settings["authorizer.class.name"].raw == StandardAuthorizer
	var security, access, idle, strange []string
	for name, s := range l.settings {
		k, known := lookupBroker(name)
		changed := !known || k.Unset || k.canonical(s.raw) != k.canonical(k.Default)
		switch {
		case !changed && k.Name == name:
		case known && k.Name != name && !l.hasListener(name):
			strange = append(strange, name)
		case authorizerOnly(name) && !authorizes:
			access = append(access, name)
		case securityOnly(name) && !secured:
			security = append(security, name)
		case known && k.Name != name && !perListener(k.Name), known && k.State == Accepted:
			idle = append(idle, name)
		}
	}
	for _, list := range [][]string{security, access, idle, strange} {
		slices.Sort(list)
	}
	if len(security) > 0 {
		l.warn(slog.LevelWarn, security, "no listener uses TLS or SASL, so these have no effect: %s", strings.Join(security, ", "))
	}
	if len(access) > 0 {
		l.warn(slog.LevelWarn, access, "there is no authorizer, so these have no effect: %s", strings.Join(access, ", "))
	}
	if len(strange) > 0 {
		l.warn(slog.LevelWarn, strange, "these are for listeners that there are not, and have no effect: %s", strings.Join(strange, ", "))
	}
	if authorizes && strings.Trim(l.settings[SuperUsersKey].raw, "; ") == "" && !strings.EqualFold(strings.TrimSpace(l.settings[AllowUnlistedKey].raw), "true") {
		l.warn(slog.LevelWarn, []string{"authorizer.class.name", SuperUsersKey},
			"access control is on, and %s names nobody: in a new cluster nobody may do anything, not even grant; %s=User:NAME names who may", SuperUsersKey, SuperUsersKey)
	}
	if len(idle) > 0 {
		l.warn(slog.LevelInfo, idle, "accepted, but without effect in this version: %s", strings.Join(idle, ", "))
	}
}
