package network

import (
	"net"
	"slices"
	"time"

	"moldau/internal/quota"
)

// A quota of connections per second (connection_creation_rate of an ip, KIP-612) is more than a limit: whose address is beyond it is not served, and
// his connection is closed only after a while, so that he does not come again at once. Nobody waits for that: neither the
// acceptor nor another client, and what is beyond mostSentAway, or what others need room for, is closed at once.
const (
	mostSentAway  = 1000
	mostAddresses = 8 << 10 // whose connections are counted one by one, see quota.Table
)

// sentAway is a connection that nobody serves.
type sentAway struct {
	conn net.Conn
	at   time.Time // when it is closed
}

// SetQuotas puts other quotas of connections in force. Connections that are there stay.
func (s *Server) SetQuotas(r *quota.Rules) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quotas = r
}

// QuotaUsage lists the addresses that have connected lately and have a quota, in no order.
func (s *Server) QuotaUsage() []quota.Usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addresses.Usage(s.nowMs())
}

// nowMs is the time for meters; it does not go back.
func (s *Server) nowMs() int64 { return s.began.UnixMilli() + time.Since(s.began).Milliseconds() }

// sendAway takes a connection whose address has no more of its quota. It is not charged: it was none.
func (s *Server) sendAway(listener string, nc *net.TCPConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quotas == nil {
		return false
	}
	peer := addrPort(nc.RemoteAddr())
	a, limited := s.quotas.AddressAccount(peer.Addr().WithZone("").String())
	if !peer.IsValid() || !limited {
		return false
	}
	now := s.nowMs()
	ms := s.addresses.Charge(&a, 1, now)
	if ms == 0 {
		return false
	}
	s.addresses.Credit(&a, 1, now)
	s.metrics.closed.WithLabelValues("quota").Inc()
	s.logRefusal("connection refused: quota of the address exceeded", listener, peer, a.Key.String(), a.Limit)
	if s.closing || len(s.sentAway) >= mostSentAway || len(s.conns)+len(s.sentAway) >= s.limits.Connections {
		_ = nc.Close()
		return true
	}
	s.sentAway = append(s.sentAway, sentAway{nc, time.Now().Add(time.Duration(ms) * time.Millisecond)})
	if !s.closer {
		s.closer = true
		s.wg.Go(s.closeSentAway)
	}
	return true
}

// closeSentAway closes what was sent away, until nothing of it is left.
func (s *Server) closeSentAway() {
	for {
		s.mu.Lock()
		next, now := time.Time{}, time.Now()
		s.sentAway = slices.DeleteFunc(s.sentAway, func(x sentAway) bool {
			if s.closing || !now.Before(x.at) {
				_ = x.conn.Close()
				return true
			}
			if next.IsZero() || x.at.Before(next) {
				next = x.at
			}
			return false
		})
		s.closer = !next.IsZero()
		s.mu.Unlock()
		if next.IsZero() {
			return
		}
		t := time.NewTimer(next.Sub(now))
		select {
		case <-t.C:
		case <-s.quit:
		}
		t.Stop()
	}
}

// makeRoomLocked closes what was sent away where a connection that is served needs the room.
func (s *Server) makeRoomLocked() {
	if len(s.sentAway) > 0 && len(s.conns)+len(s.sentAway) > s.limits.Connections {
		_ = s.sentAway[0].conn.Close()
		s.sentAway = slices.Delete(s.sentAway, 0, 1)
	}
}
