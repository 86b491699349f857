// Package network moves Kafka's frames between sockets and a Service. It alone knows
// listeners, connections, framing, back-pressure and how bytes leave; it knows nothing
// of what a request means beyond its size and its API key.
//
// Door: Listen binds, Serve accepts, Close drains, Abort cuts. Service and Call are what
// the layer above implements; Conn is what it sees of a connection.
//
// Reader starts, writer waits. A connection has one goroutine, its reader: it cuts frames
// and starts them. Started calls stand in a queue and are answered in its order by whoever
// holds the writer's role (Conn.writing): the reader itself when the next call is ready, so
// that an answer costs no goroutine switch, and a goroutine of its own only while a call
// parks. The reader meanwhile reads on, so that a disconnect is noticed. The reader ends
// last: it waits for the writer, and the server waits for its readers and acceptors.
//
// A burst are the requests that came with one recv, as far as they may start together. The service may put off a part of
// their work until Settle, which the reader calls before it waits for anything; until then they are not the writer's.
//
// TLS is laid between the socket and all of this: see tls.go. What is above here sees no difference, but that nothing goes
// by sendfile: regions are copied into pooled buffers, encrypted in records of 16 KiB, and sent up to 128 KiB at a time. Where a region was
// not in the page cache, the cold queue has read it before its fetch was answered, as without TLS.
//
// Invariants:
//  1. Responses leave in the order in which their requests arrived.
//  2. A request starts only when every earlier response of its connection has been handed to
//     the socket whole, except a Service.Early key behind requests of the same key (at most
//     MaxStarted, and Options.ConnBytes of frames).
//  3. For every Call that Start returned, Wait is called once, then Release once, whatever
//     happens to the connection. Its frame is valid until Release returns.
//  4. Memory for a frame grows with the bytes that came, never with the length that was
//     claimed: at most 8 times what came, and while its reader waits for more of a frame that a slab holds, a buffer for what is there.
//     A connection costs at most 64 KiB before its client is known; what else strangers may take is in stranger.go.
//  5. Frames in memory stay below QueuedBytes, but for small frames (4 KiB, which never wait)
//     and for one frame at a time that may overdraw; so partly received frames cannot block
//     one another for ever. A frame that comes slower than minFrameRate loses its connection.
//  6. After a part of a response has left, it is completed or the connection is closed.
//  7. An idle connection holds no buffer; crypto/tls itself keeps one for a record, up to 17 KiB, once it has received one of that size.
//  8. While a connection is muted, nothing is read from its socket but what a read under way brings: up to 64 KiB.
//
// Stage times, as Kafka's RequestMetrics, from six instants of a request:
//
//	arrived  the recv that brought the frame's last byte returned
//	begun    Service.Start was called
//	local    Reply.LocalDone, or Settle's return where that is zero
//	ready    Reply.Ready, or Wait's return where that is zero
//	sending  the send that carries the response's first byte began
//	sent     the kernel took the response's last byte (for Reply.None: equal to sending)
//
//	RequestQueueTime  begun - arrived, a mute (Throttle) of the request before included
//	LocalTime         local - begun
//	RemoteTime        ready - local: parked, for other replicas, for data, for a group, for a disk
//	DiskWaitTime      Reply.DiskWait, ours: a part of RemoteTime
//	ThrottleTime      Reply.Throttle: how long the connection is muted after the response
//	ResponseQueueTime sending - ready
//	ResponseSendTime  sent - sending, a client that reads slowly included
//	TotalTime         sent - arrived
package network
