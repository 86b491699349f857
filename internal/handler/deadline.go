package handler

import (
	"context"
	"time"
)

// longestWait bounds what a client may ask an admin request to wait.
const longestWait = time.Minute

// within gives a mutation the time that its request allows it. As in Kafka, no time at all is too little: the
// answer is then REQUEST_TIMED_OUT and nothing happens.
func (rc *requestContext) within(ctx context.Context, timeoutMs int32) (context.Context, context.CancelFunc) {
	rc.waits()
	d := time.Duration(timeoutMs) * time.Millisecond
	return context.WithTimeout(ctx, min(max(d, 0), longestWait))
}
