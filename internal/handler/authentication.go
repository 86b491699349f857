package handler

import (
	"fmt"

	"moldau/internal/network"
	"moldau/internal/security"
)

// session is who the client of a connection is. It belongs to the connection's reader.
type session struct {
	principal string
}

// openSession says who a client is whose connection has just begun. An error closes the connection.
func (t *Table) openSession(c *network.Conn) (*session, error) {
	if t.o.Security == nil {
		return &session{principal: security.Anonymous}, nil
	}
	principal, err := t.o.Security.Principal(c.Listener(), c.PeerCertificate())
	if err != nil {
		return nil, fmt.Errorf("the client's certificate is not let in: %w", err)
	}
	return &session{principal: principal}, nil
}
