package handler

// SaslAuthenticate, key 36, versions 0 to 2 (KIP-152, KIP-368).
//
//   - A message that proves nothing is SASL_AUTHENTICATION_FAILED with Kafka's words, which do not tell whether there is such a
//     user, after connection.failed.authentication.delay.ms, and the end of the connection. The log says why.
//   - The answer that ends the conversation says how long the session lives; 0 is for ever.
//   - Without a handshake before it, or on a listener without SASL, it is ILLEGAL_SASL_STATE.

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/network"
	"moldau/internal/security"
	"moldau/internal/wire"
)

func startSASLAuthenticate(t *Table, rc requestContext, body []byte) (network.Call, error) {
	decoded, err := t.decoder.DecodeRequest(rc.header.Key, rc.header.Version, body)
	if err != nil {
		return nil, err
	}
	req := decoded.(*kmsg.SASLAuthenticateRequest)
	resp := kmsg.NewPtrSASLAuthenticateResponse()
	s := stateOf(rc.conn).session
	switch {
	case !s.sasl:
		resp.ErrorCode = int16(noSASL(&rc, "unknown"))
		resp.ErrorMessage = text(fmt.Sprintf("listener %s has no SASL: set security.protocol=%s in the client", rc.listener, rc.withoutSASL()))
		return answered(&rc, resp, rc.header.Version), nil
	case s.phase != proving:
		resp.ErrorCode = int16(wire.IllegalSaslState)
		resp.ErrorMessage = text("SaslAuthenticate request received after successful authentication")
		return answered(&rc, resp, rc.header.Version), nil
	}
	answer, _, lifetime, err := rc.step(req.SASLAuthBytes)
	if err != nil {
		resp.ErrorCode = int16(wire.SaslAuthenticationFailed)
		var refusal *security.Refusal
		if errors.As(err, &refusal) {
			resp.ErrorMessage = text(refusal.Answer)
		}
		return rc.turnAway(resp), nil
	}
	resp.SASLAuthBytes = answer
	if answer == nil {
		resp.SASLAuthBytes = []byte{}
	}
	resp.SessionLifetimeMillis = lifetime.Milliseconds()
	return answered(&rc, resp, rc.header.Version), nil
}

// startRaw takes a bare message, as it comes after a handshake of version 0.
func startRaw(t *Table, c *network.Conn, frame []byte, arrived time.Time) (network.Call, error) {
	rc := t.contextOf(c, wire.RequestHeader{}, t.rows[kmsg.SASLAuthenticate.Int16()], arrived)
	answer, done, _, err := rc.step(frame)
	if err != nil {
		return rc.turnAway(nil), nil
	}
	if done {
		c.SetRaw(false)
	}
	sized := append(binary.BigEndian.AppendUint32(nil, uint32(len(answer))), answer...)
	return &answeredCall{&rc, network.Reply{Pieces: []wire.Piece{{Bytes: sized}}, LocalDone: time.Now()}}, nil
}
