package network

import (
	"context"
	"log/slog"
	"time"

	"moldau/internal/wire"
)

// Service is the layer above. Its methods are called concurrently for different connections.
type Service interface {
	// MaxFrameBytes is the largest frame of this API, without its four size bytes. A larger
	// claim closes the connection. Called in the connection's reader, before the frame is read.
	MaxFrameBytes(c *Conn, apiKey int16) int32
	// Early reports whether a request may start while earlier ones of the same key on its
	// connection are unanswered.
	Early(apiKey int16) bool
	// Start begins a request, in the connection's reader: it must not wait for other clients,
	// replicas or timers. frame is valid, and may be changed in place, until the Call's
	// Release returns. ctx ends with the connection. An error (undecodable, unknown API)
	// closes the connection after the earlier responses have left; the Call is then ignored.
	Start(ctx context.Context, c *Conn, frame []byte, arrived time.Time) (Call, error)
	// Settle does what Start has put off: it is called in the reader when nothing more of a burst has come, and before
	// Ready or Wait of any of the burst's Calls.
	Settle(c *Conn)
}

// Call is a started request. The methods of one Call are never called concurrently:
// Ready any number of times, then Wait once, then Release once, always, also when the
// connection is gone (ctx has then ended and the Reply is not sent). So a Call can be pooled.
type Call interface {
	// Ready reports whether Wait would return without parking.
	Ready() bool
	// Wait returns the response. It may park, and returns soon after ctx has ended.
	Wait(ctx context.Context) Reply
	// Describe says who asked, and for what, for the log of slow requests: between Wait and Release, if at all.
	Describe() []slog.Attr
	// Release unpins what the Reply refers to. Nobody touches the Call or the frame afterwards.
	Release()
}

// Reply is a response on its way out.
type Reply struct {
	Pieces     []wire.Piece  // the whole response, its size bytes included; valid until Release
	None       bool          // nothing is sent (acks=0)
	CloseAfter bool          // close the connection when this and all before it have left
	Throttle   time.Duration // start nothing more on the connection for this long after sending (KIP-219)
	LocalDone  time.Time     // when local work ended; zero: when Start returned
	Ready      time.Time     // when waiting for others ended; zero: when Wait returned
	MayPark    time.Duration // how long the client asked to be parked, or must expect to be: so much of RemoteTime is not slow
	DiskWait   time.Duration // how much of RemoteTime went by because a disk had to read
}
