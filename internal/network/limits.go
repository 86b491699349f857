package network

import (
	"math"
	"net/netip"
	"slices"
	"time"
)

// Unlimited is Kafka's way to say that a limit is none.
const Unlimited = math.MaxInt32

// Limits are what the connections of a server are held to. Who comes when Connections or CreationRate is used up waits, and
// the acceptor with it, as in Kafka: he is in the kernel's queue, costs nothing, and is served when there is room. Whose
// address has too many connections is sent away. Quotas of addresses, which are set at run time, are in rates.go.
//
// The protected listener is the brokers' own: Connections and CreationRate do not hold it back. When it goes beyond
// Connections, the connection of another listener that was used least recently is closed for it.
type Limits struct {
	Connections    int                 // max.connections, of all listeners
	CreationRate   int                 // max.connection.creation.rate, a second; 0 is 1, as in Kafka
	PerIP          int                 // max.connections.per.ip
	PerIPOverrides map[netip.Addr]int  // max.connections.per.ip.overrides
	Listeners      map[string]Capacity // what a listener's own properties say
	Protected      string              // listener; "" for none
}

// Capacity is what one listener may have.
type Capacity struct{ Connections, CreationRate int }

// NoLimits is the value in which nothing is limited.
func NoLimits() Limits {
	return Limits{Connections: Unlimited, CreationRate: Unlimited, PerIP: Unlimited}
}

func (l *Limits) listener(name string) Capacity {
	if c, ok := l.Listeners[name]; ok {
		return c
	}
	return Capacity{Unlimited, Unlimited}
}

func (l *Limits) perIP(ip netip.Addr) int {
	if n, ok := l.PerIPOverrides[ip]; ok {
		return n
	}
	return l.PerIP
}

// pacer spaces out what may happen rate times a second; a second without any saves up for a burst.
type pacer struct{ next time.Time } // when the bucket is full again

// take counts one, and says how long it has to wait.
func (p *pacer) take(rate int, now time.Time) time.Duration {
	if rate >= Unlimited {
		return 0
	}
	each := time.Second / time.Duration(max(rate, 1))
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(each)
	return max(0, p.next.Sub(now)-time.Second)
}

// SetLimits puts other limits in force. Connections beyond max.connections are closed, those that were used least recently
// first.
func (s *Server) SetLimits(l Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits = l
	s.evictLocked()
	s.roomLocked()
}

// roomLocked wakes the acceptors that wait for a connection to go.
func (s *Server) roomLocked() {
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
}

// full names the limit that keeps a connection of listener out until another one goes, or is "".
func (s *Server) fullLocked(listener string) (limit string, value int) {
	if n := s.limits.listener(listener).Connections; s.perListener[listener] >= n {
		return "listener.name." + listener + ".max.connections", n
	}
	if n := s.limits.Connections; len(s.conns)-s.evicting >= n && listener != s.limits.Protected {
		return "max.connections", n
	}
	return "", 0
}

// pace waits until the creation rates let another connection of listener in; false: the server stops.
func (s *Server) pace(listener string) bool {
	s.mu.Lock()
	now := time.Now()
	wait := s.paces[listener].take(s.limits.listener(listener).CreationRate, now)
	if all := s.pacer.take(s.limits.CreationRate, now); listener != s.limits.Protected {
		wait = max(wait, all)
	}
	s.mu.Unlock()
	if wait == 0 {
		return true
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.quit:
		return false
	}
}

// evictLocked closes what is beyond max.connections.
func (s *Server) evictLocked() {
	excess := len(s.conns) - s.evicting - s.limits.Connections
	if excess <= 0 {
		return
	}
	type candidate struct {
		conn *Conn
		used time.Time
	}
	var all []candidate
	for c := range s.conns {
		if !c.evicted && c.listener != s.limits.Protected {
			all = append(all, candidate{c, c.lastUse()})
		}
	}
	slices.SortFunc(all, func(a, b candidate) int { return a.used.Compare(b.used) })
	for _, a := range all[:min(excess, len(all))] {
		a.conn.evicted = true
		s.evicting++
		a.conn.fail("limit", nil)
		s.logLimit("closing the connection that was used least recently: limit reached", a.conn, "max.connections", s.limits.Connections)
	}
}

// lastUse is when the connection last had something to do.
func (c *Conn) lastUse() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inflight > 0 {
		return time.Now()
	}
	if c.lastSent.IsZero() {
		return c.opened
	}
	return c.lastSent
}
