package handler

// SaslHandshake, key 17, versions 0 to 1 (KIP-43, KIP-152).
//
// After version 1 the messages of the mechanism come in SaslAuthenticate, after version 0 they come bare, after their length. A
// mechanism that the listener does not offer is UNSUPPORTED_SASL_MECHANISM with those that it does, and the end of the connection.
// On a listener without SASL the answer is ILLEGAL_SASL_STATE, as in Kafka, so that a client with the wrong
// security.protocol is told so.

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/network"
	"moldau/internal/wire"
)

func startSASLHandshake(t *Table, rc requestContext, body []byte) (network.Call, error) {
	decoded, err := t.decoder.DecodeRequest(rc.header.Key, rc.header.Version, body)
	if err != nil {
		return nil, err
	}
	req := decoded.(*kmsg.SASLHandshakeRequest)
	resp := kmsg.NewPtrSASLHandshakeResponse()
	s := stateOf(rc.conn).session
	if !s.sasl {
		resp.ErrorCode = int16(noSASL(&rc, req.Mechanism))
		return answered(&rc, resp, rc.header.Version), nil
	}
	resp.SupportedMechanisms = t.o.Security.Mechanisms(rc.listener)
	again := s.phase == known
	s.again = again
	if again && req.Mechanism != s.mechanism {
		resp.ErrorCode = int16(wire.UnsupportedSaslMechanism)
		rc.notLetIn(refuse(wire.UnsupportedSaslMechanism, "asks for %.40q to authenticate again, after %s", req.Mechanism, s.mechanism))
		return rc.turnAway(resp), nil
	}
	talk, ok := t.o.Security.Begin(rc.listener, req.Mechanism, t.provenBy)
	if !ok {
		resp.ErrorCode = int16(wire.UnsupportedSaslMechanism)
		rc.notLetIn(refuse(wire.UnsupportedSaslMechanism, "the listener does not offer the mechanism %.40q (sasl.enabled.mechanisms)", req.Mechanism))
		return rc.turnAway(resp), nil
	}
	s.talk, s.mechanism, s.phase = talk, req.Mechanism, proving
	rc.conn.SetRaw(rc.header.Version == 0)
	return answered(&rc, resp, rc.header.Version), nil
}

func noSASL(rc *requestContext, mechanism string) wire.Code {
	rc.table.refused.log(rc, "client wants SASL on a listener without it: its security.protocol is to be "+rc.withoutSASL(),
		fmt.Errorf("mechanism %.40q: %w", mechanism, wire.IllegalSaslState))
	return wire.IllegalSaslState
}

// withoutSASL is the security.protocol of a client on a listener without SASL.
func (rc *requestContext) withoutSASL() string {
	if rc.conn.Secure() {
		return "SSL"
	}
	return "PLAINTEXT"
}
