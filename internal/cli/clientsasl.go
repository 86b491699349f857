package cli

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
)

// maxSASLAnswer bounds an answer before anybody knows who the other side is.
const maxSASLAnswer = 64 << 10

// open makes a connection over which requests can be sent at once, for what has no kgo.Client: with TLS and after SASL, where
// they are configured.
func (cc clientConfig) open(ctx context.Context, address string) (net.Conn, error) {
	dial := new(net.Dialer).DialContext
	if cc.tls == nil && cc.sasl == nil {
		return dial(ctx, "tcp", address)
	}
	var nc net.Conn
	var err error
	if cc.tls != nil {
		nc, err = dialTLS(ctx, dial, cc.tls, "tcp", address)
	} else {
		nc, err = dial(ctx, "tcp", address)
	}
	if err != nil || cc.sasl == nil {
		return nc, err
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := authenticate(ctx, nc, cc.sasl, address); err != nil {
		_ = nc.Close()
		if told := notLetIn(err); told != nil {
			return nil, told
		}
		return nil, fmt.Errorf("authentication at %s: %w", address, err)
	}
	return nc, nil
}

// authenticate has the conversation of a mechanism.
func authenticate(ctx context.Context, nc net.Conn, mechanism sasl.Mechanism, address string) error {
	shake := kmsg.NewPtrSASLHandshakeRequest()
	shake.Version, shake.Mechanism = 1, mechanism.Name()
	if resp, err := saslAsk[*kmsg.SASLHandshakeResponse](nc, shake); err != nil {
		return err
	} else if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return fmt.Errorf("%w: the broker offers %v", err, resp.SupportedMechanisms)
	}
	session, message, err := mechanism.Authenticate(ctx, address)
	if err != nil {
		return err
	}
	for done := false; !done; {
		req := kmsg.NewPtrSASLAuthenticateRequest()
		req.Version, req.SASLAuthBytes = 1, message
		resp, err := saslAsk[*kmsg.SASLAuthenticateResponse](nc, req)
		if err != nil {
			return err
		}
		if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
			return fmt.Errorf("%w: %s", err, deref(resp.ErrorMessage))
		}
		if done, message, err = session.Challenge(resp.SASLAuthBytes); err != nil {
			return err
		}
		done = done && len(message) == 0
	}
	return nil
}

// saslAsk sends a request with a header of version 1 and reads its response.
func saslAsk[R kmsg.Response](nc net.Conn, req kmsg.Request) (R, error) {
	var none R
	if _, err := nc.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("moldau-cli")).AppendRequest(nil, req, 0)); err != nil {
		return none, err
	}
	var size [4]byte
	if _, err := io.ReadFull(nc, size[:]); err != nil {
		return none, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n < 4 || n > maxSASLAnswer {
		return none, fmt.Errorf("an answer of %d bytes is none of Kafka's protocol", n)
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(nc, frame); err != nil {
		return none, err
	}
	resp := req.ResponseKind()
	resp.SetVersion(req.GetVersion())
	if err := resp.ReadFrom(frame[4:]); err != nil {
		return none, err
	}
	return resp.(R), nil
}
