package handler

import (
	"log/slog"
	"sync"
	"time"
)

// refusals logs requests that were refused for what they held, one a second and the
// number of those in between: a client that sends rubbish must not fill the disk with
// log lines.
type refusals struct {
	out *slog.Logger
	mu  struct {
		sync.Mutex // guards the following
		next       time.Time
		silent     int
	}
}

func (r *refusals) log(rc *requestContext, what string, err error) {
	now := time.Now()
	r.mu.Lock()
	if now.Before(r.mu.next) {
		r.mu.silent++
		r.mu.Unlock()
		return
	}
	silent := r.mu.silent
	r.mu.next, r.mu.silent = now.Add(time.Second), 0
	r.mu.Unlock()
	r.out.Warn(what, "api", rc.row.key.Name(), "client", rc.header.ClientID, "peer", rc.host.String(),
		"code", codeOf(err).String(), "error", err, "similarSince", silent)
}
