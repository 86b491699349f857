package network

import (
	"context"
	"log/slog"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// logSlow says where the time of a slow request went, and whose request it was, once a second at most.
func (c *Conn) logSlow(e *started, took *stageTimes) {
	n, ok := c.srv.slow.allow()
	if !ok {
		return
	}
	attrs := []slog.Attr{slog.String("api", kmsg.NameForKey(e.key)), slog.String("slowest", stageNames[took.slowest()].log)}
	for s, d := range took {
		attrs = append(attrs, slog.Duration(stageNames[s].log, d))
	}
	attrs = append(attrs, slog.String("listener", c.listener), slog.Any("peer", c.remote), slog.Int("requestBytes", int(e.size)))
	attrs = append(attrs, e.call.Describe()...)
	c.srv.opt.Log.LogAttrs(context.Background(), slog.LevelWarn, "slow request", append(attrs, slog.Int("suppressed", n))...)
}
