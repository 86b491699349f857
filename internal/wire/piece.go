package wire

import "moldau/internal/vfs"

// Piece is a part of a response as it goes to the socket: bytes in memory, or a
// range of a file that is sent without passing through our memory.
type Piece struct {
	Bytes  []byte     // sent when Region.File is nil
	Region vfs.Region // its File stays open until the reply is released
}

// Len is the number of bytes the piece puts on the wire.
func (p Piece) Len() int64 {
	if p.Region.File != nil {
		return p.Region.Len
	}
	return int64(len(p.Bytes))
}
