package broker

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"strconv"
	"time"

	"moldau/internal/config"
	"moldau/internal/metadata"
	"moldau/internal/network"
	"moldau/internal/vfs"
)

// lookupTime bounds how long the name of a client in max.connections.per.ip.overrides is looked up.
const lookupTime = 2 * time.Second

// limits are those of c.
func (b *Broker) limits(c *config.Broker) network.Limits {
	l := network.Limits{
		Connections:    min(int(c.Int("max.connections")), b.descriptors.connections),
		CreationRate:   int(c.Int("max.connection.creation.rate")),
		PerIP:          int(c.Int("max.connections.per.ip")),
		PerIPOverrides: map[netip.Addr]int{},
		Listeners:      map[string]network.Capacity{},
	}
	for host, n := range c.ConnectionOverrides() {
		addrs, err := addresses(host)
		if err != nil {
			b.log.Warn("max.connections.per.ip.overrides names a host that is not known; its limit is not in force", "host", host, "error", err)
		}
		for _, a := range addrs {
			l.PerIPOverrides[a] = n
		}
	}
	listeners := c.Listeners()
	for _, x := range listeners {
		own := network.Capacity{Connections: network.Unlimited, CreationRate: network.Unlimited}
		if n, ok := c.ListenerInt(x.Name, "max.connections"); ok {
			own.Connections = int(n)
		}
		if x.Protocol.TLS() || x.Protocol.SASL() {
			own.CreationRate = network.StrangerRate()
		}
		if n, ok := c.ListenerInt(x.Name, "max.connection.creation.rate"); ok {
			own.CreationRate = int(n)
		}
		l.Listeners[x.Name] = own
	}
	if len(listeners) > 1 {
		l.Protected = c.InterBrokerListener()
	}
	return l
}

// descriptors is how the process's limit of open files is divided.
type descriptors struct {
	segments    int // kept open, of all log dirs
	connections int // of clients
}

const (
	mostSegments   = 1000 // more are of no use
	ownDescriptors = 96   // of the metadata store, journals, listeners, log dirs, and the like
	mostAtWork     = 128  // files that are open only while something is read or written, such as indexes
	fewDescriptors = 4096 // fewer are worth a warning
)

// divide divides a limit of open files. Whatever it is, clients never take what the broker needs for its own work: they wait to be connected.
func divide(limit uint64) descriptors {
	left := int(min(max(limit, 2*ownDescriptors), network.Unlimited)) - ownDescriptors
	d := descriptors{segments: min(mostSegments, left/4)}
	d.connections = left - d.segments - min(mostAtWork, left/4)
	return d
}

// divideDescriptors divides what this process may have.
func (b *Broker) divideDescriptors() {
	limit, known := vfs.DescriptorLimit()
	if !known {
		limit = network.Unlimited
	}
	b.descriptors = divide(limit)
	if limit < fewDescriptors {
		b.log.Warn("the limit of open files is low: raise it before the start (ulimit -n 100000; systemd: LimitNOFILE=100000)",
			"limit", limit, "connections", b.descriptors.connections, "segmentFiles", b.descriptors.segments)
	}
}

func addresses(host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookupTime)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for i := range found {
		found[i] = found[i].Unmap()
	}
	return found, err
}

// sameDynamic tells whether what was set for this broker while it runs is the same in both images.
func (b *Broker) sameDynamic(old, im *metadata.Image) bool {
	for _, name := range []string{strconv.Itoa(int(b.o.Config.NodeID())), ""} {
		if !maps.Equal(old.Config(metadata.BrokerConfig, name), im.Config(metadata.BrokerConfig, name)) {
			return false
		}
	}
	return true
}

// applyLimits puts the limits of im in force, if they are not those of old, or of the start if old is nil.
func (b *Broker) applyLimits(old, im *metadata.Image) {
	was, is := b.dynamic(old), b.dynamic(im)
	if sameLimits(was, is) {
		return
	}
	b.net.SetLimits(b.limits(is))
}

func (b *Broker) dynamic(im *metadata.Image) *config.Broker {
	if im == nil {
		return b.o.Config
	}
	return b.o.Config.WithDynamic(im.Config(metadata.BrokerConfig, strconv.Itoa(int(b.o.Config.NodeID()))), im.Config(metadata.BrokerConfig, ""))
}

func sameLimits(a, b *config.Broker) bool {
	for _, key := range []string{"max.connections", "max.connection.creation.rate", "max.connections.per.ip"} {
		if a.Int(key) != b.Int(key) {
			return false
		}
	}
	for _, l := range b.Listeners() {
		for _, key := range []string{"max.connections", "max.connection.creation.rate"} {
			x, hadX := a.ListenerInt(l.Name, key)
			y, hadY := b.ListenerInt(l.Name, key)
			if x != y || hadX != hadY {
				return false
			}
		}
	}
	return a.Text("max.connections.per.ip.overrides") == b.Text("max.connections.per.ip.overrides")
}
