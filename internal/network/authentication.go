package network

import "github.com/prometheus/client_golang/prometheus"

// authentications counts who was let in and who was not, under the names that Kafka's metrics of group socket-server-metrics have when a JMX
// exporter writes them. A mechanism is one that the listener offers, TLSMechanism or NoMechanism: clients choose no label.
type authentications struct {
	in, out           *prometheus.CounterVec
	inAgain, outAgain *prometheus.CounterVec // KIP-368
	killed            *prometheus.CounterVec
	handshakes        *prometheus.CounterVec
}

const (
	// TLSMechanism is how a client of a listener with TLS and without SASL authenticates.
	TLSMechanism = "SSL"
	// NoMechanism is that of a client that has not come so far as to choose one.
	NoMechanism = "none"
)

func newAuthentications() authentications {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"listener"}, labels...))
	}
	const kafka = "kafka_server_socket_server_metrics_"
	return authentications{
		in:         counter(kafka+"successful_authentication_total", "Connections whose client was let in.", "mechanism"),
		out:        counter(kafka+"failed_authentication_total", "Connections whose client was not let in, failed TLS handshakes included.", "mechanism"),
		inAgain:    counter(kafka+"successful_reauthentication_total", "Sessions that were prolonged.", "mechanism"),
		outAgain:   counter(kafka+"failed_reauthentication_total", "Connections closed because their client did not prove its name again.", "mechanism"),
		killed:     counter(kafka+"expired_connections_killed_count", "Connections closed because their session had expired and they went on."),
		handshakes: counter("moldau_network_tls_handshakes_failed_total", "TLS handshakes that failed, by cause.", "cause"),
	}
}

func (a *authentications) collectors() []prometheus.Collector {
	return []prometheus.Collector{a.in, a.out, a.inAgain, a.outAgain, a.killed, a.handshakes}
}

// LetIn counts that the client has proved who it is; again: not for the first time. A Conn that no server has made counts nothing, here
// and in the following.
func (c *Conn) LetIn(mechanism string, again bool) {
	if c.srv != nil {
		pick(again, c.srv.metrics.auth.inAgain, c.srv.metrics.auth.in).WithLabelValues(c.listener, mechanism).Inc()
	}
}

// TurnedAway counts that the client has not proved who it is.
func (c *Conn) TurnedAway(mechanism string, again bool) {
	if c.srv != nil {
		pick(again, c.srv.metrics.auth.outAgain, c.srv.metrics.auth.out).WithLabelValues(c.listener, mechanism).Inc()
	}
}

// SessionExpired counts that the connection is closed because its session has ended.
func (c *Conn) SessionExpired() {
	if c.srv != nil {
		c.srv.metrics.auth.killed.WithLabelValues(c.listener).Inc()
	}
}

// handshakeFailed counts a handshake. As in Kafka it is a failed authentication only where one side has refused the other.
func (c *Conn) handshakeFailed(cause handshakeCause) {
	c.srv.metrics.auth.handshakes.WithLabelValues(c.listener, cause.label).Inc()
	if cause != clientGone && cause != clientSlow {
		c.TurnedAway(TLSMechanism, false)
	}
}

func pick(first bool, a, b *prometheus.CounterVec) *prometheus.CounterVec {
	if first {
		return a
	}
	return b
}
