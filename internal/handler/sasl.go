package handler

// SaslHandshake, key 17, versions 0 to 1, and SaslAuthenticate, key 36, versions 0 to 2.
//
// On a listener without SASL both are answered with ILLEGAL_SASL_STATE, as in Kafka, so
// that a client with the wrong security.protocol is told so. Every listener is one
// without SASL until there is authentication.

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

func saslHandshake(_ context.Context, rc *requestContext, req *kmsg.SASLHandshakeRequest) kmsg.Response {
	resp := kmsg.NewPtrSASLHandshakeResponse()
	resp.ErrorCode = int16(noSASL(rc, req.Mechanism))
	return resp
}

func saslAuthenticate(_ context.Context, rc *requestContext, _ *kmsg.SASLAuthenticateRequest) kmsg.Response {
	resp := kmsg.NewPtrSASLAuthenticateResponse()
	resp.ErrorCode = int16(noSASL(rc, "unknown"))
	text := fmt.Sprintf("listener %s has no SASL: set security.protocol=PLAINTEXT in the client", rc.listener)
	resp.ErrorMessage = &text
	return resp
}

func noSASL(rc *requestContext, mechanism string) wire.Code {
	rc.table.refused.log(rc, "client wants SASL on a listener without it: set security.protocol=PLAINTEXT in the client",
		fmt.Errorf("mechanism %.40q: %w", mechanism, wire.IllegalSaslState))
	return wire.IllegalSaslState
}
