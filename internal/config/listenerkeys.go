package config

import "strings"

// ListenerConfig reads keys as one listener has them: its own value, listener.name.NAME.KEY, before that of all.
type ListenerConfig struct {
	b      *Broker
	prefix string // of its own keys
}

// OfListener is the configuration of a listener by its name.
func (b *Broker) OfListener(name string) ListenerConfig {
	return ListenerConfig{b, "listener.name." + strings.ToLower(name) + "."}
}

// Mechanism is the listener's configuration for a SASL mechanism, whose keys come before those of the listener:
// listener.name.NAME.MECHANISM.KEY.
func (c ListenerConfig) Mechanism(name string) ListenerConfig {
	return ListenerConfig{c.b, c.prefix + strings.ToLower(name) + "."}
}

// Name is the key under which the value of name is set, for messages: the listener's own, unless only the one of all is set.
func (c ListenerConfig) Name(name string) string {
	if !c.Own(name) && c.b.IsSet(name) {
		return name
	}
	return c.prefix + name
}

// Own tells whether the listener has a value of its own.
func (c ListenerConfig) Own(name string) bool {
	_, ok := c.b.effective[c.prefix+name]
	return ok
}

// IsSet tells whether the key has a value other than by default, the listener's own or that of all.
func (c ListenerConfig) IsSet(name string) bool { return c.Own(name) || c.b.IsSet(name) }

func (c ListenerConfig) value(name string, types ...Type) value {
	k, _ := brokerTable.lookup(name)
	raw, own := c.b.effective[c.prefix+name]
	if !own {
		return c.b.value(name, types...)
	}
	v, err := k.parse(raw)
	if err != nil {
		panic("BUG: unchecked configuration: " + err.Error())
	}
	return v
}

// Text returns the value of a String, Class or Password key, "" if it is unset.
func (c ListenerConfig) Text(name string) string {
	if v := c.value(name, String, Class, Password); v != nil {
		return v.(string)
	}
	return ""
}

// List returns a List key's value, nil if it is unset. The caller owns it.
func (c ListenerConfig) List(name string) []string {
	if v := c.value(name, List); v != nil {
		return v.([]string)
	}
	return nil
}

// Int returns the value of an Int, Short or Long key, 0 if it is unset.
func (c ListenerConfig) Int(name string) int64 {
	if v := c.value(name, Int, Short, Long); v != nil {
		return v.(int64)
	}
	return 0
}

// Bool returns a Boolean key's value.
func (c ListenerConfig) Bool(name string) bool { return c.value(name, Boolean).(bool) }

// Raw is the key's value as it is written, "" if it is unset. It may be a secret.
func (c ListenerConfig) Raw(name string) string {
	if raw, own := c.b.effective[c.prefix+name]; own {
		return raw
	}
	k, _ := brokerTable.lookup(name)
	return c.b.rawOrDefault(k)
}

// Fault is a *SettingError: the listener's value of a key is wrong for this reason. Secrets are not shown.
func (c ListenerConfig) Fault(name, problem string) error {
	key := c.Name(name)
	if raw, dynamic := c.b.dynamicValue(key); dynamic {
		if sensitive(key) {
			raw = "[hidden]"
		}
		return &SettingError{key, raw, "set while the broker runs", problem}
	}
	return fault(c.b.static, key, problem)
}
