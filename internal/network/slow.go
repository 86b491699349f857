package network

import (
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// logSlow says where the time of a slow request went, once a second at most.
func (c *Conn) logSlow(e *started, sent time.Time) {
	n, ok := c.srv.slow.allow()
	if !ok {
		return
	}
	c.srv.opt.Log.Warn("slow request", "api", kmsg.NameForKey(e.key), "listener", c.listener, "peer", c.remote,
		"requestBytes", e.size, "total", sent.Sub(e.arrived), "requestQueue", e.begun.Sub(e.arrived),
		"local", e.local.Sub(e.begun), "remote", e.ready.Sub(e.local),
		"responseQueue", e.sending.Sub(e.ready), "responseSend", sent.Sub(e.sending), "suppressed", n)
}
