package handler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/metadata"
	"moldau/internal/network"
	"moldau/internal/security"
	"moldau/internal/wire"
)

// session is who the client of a connection is. It belongs to the connection's reader, as do its changes: SaslHandshake and
// SaslAuthenticate start when nothing else of the connection is unanswered.
//
// On a listener with SASL a connection goes from greeting to proving to known; of other requests than ApiVersions and the two of
// SASL none is decoded before. From known a further SaslHandshake goes back to proving, under the name of before (KIP-368), until the end of
// which nothing else is served.
type session struct {
	sasl      bool // the listener has SASL
	phase     phase
	principal string
	byToken   bool // it was proved by a delegation token

	mechanism string                // of the conversation, and of the session after it
	talk      security.Conversation // while proving
	again     bool                  // re-authentication
	expires   time.Time             // of the session; zero: never
}

type phase int8

const (
	greeting phase = iota
	proving
	known
)

// openSession says who a client is whose connection has just begun. An error closes the connection.
func (t *Table) openSession(c *network.Conn) (*session, error) {
	s := &session{principal: security.Anonymous, phase: known}
	switch {
	case t.o.Security == nil:
		return s, nil
	case t.o.Security.Mechanisms(c.Listener()) != nil:
		s.sasl, s.phase = true, greeting
		return s, nil
	}
	var err error
	if s.principal, err = t.o.Security.Principal(c.Listener(), c.PeerCertificate()); err != nil {
		c.TurnedAway(network.TLSMechanism, false)
		return nil, fmt.Errorf("the client's certificate is not let in: %w", err)
	}
	if c.Secure() { // as in Kafka, where a client without TLS and SASL authenticates by nothing
		c.LetIn(network.TLSMechanism, false)
	}
	return s, nil
}

// unproven tells whether a connection has yet to say who it is.
func (t *Table) unproven(c *network.Conn) bool {
	if state, ok := c.State().(*connState); ok && state.session != nil {
		return state.session.phase != known
	}
	return t.o.Security != nil && t.o.Security.Mechanisms(c.Listener()) != nil
}

var (
	errUnproven = errors.New("the client has not authenticated: is security.protocol in its configuration SASL_SSL or SASL_PLAINTEXT?")
	errExpired  = errors.New("the session has expired, and the client has not authenticated again (connections.max.reauth.ms)")
)

// allows says whether a request may be served now. An error closes the connection.
func (s *session) allows(key int16, now time.Time) error {
	switch {
	case s.phase == known && (s.expires.IsZero() || now.Before(s.expires)):
		return nil
	case s.phase == known:
		if key == kmsg.SASLHandshake.Int16() {
			return nil
		}
		return errExpired
	case s.phase == proving && key == kmsg.SASLAuthenticate.Int16():
		return nil
	case s.phase == greeting && (key == kmsg.ApiVersions.Int16() || key == kmsg.SASLHandshake.Int16()):
		return nil
	}
	return errUnproven
}

// deny ends a connection whose client asks for what it may not have yet, or any more.
func (t *Table) deny(c *network.Conn, h wire.RequestHeader, arrived time.Time, denied error) (network.Call, error) {
	r := t.rows[h.Key]
	if stateOf(c).session.phase == proving && r != nil && h.Version >= r.served && h.Version <= r.max {
		if resp := outOfPlace(h.Key); resp != nil {
			rc := t.contextOf(c, h, r, arrived)
			rc.notLetIn(refuse(wire.IllegalSaslState, "%s in the middle of the conversation", r.key.Name()))
			return rc.turnAway(resp), nil
		}
	}
	if errors.Is(denied, errExpired) {
		c.SessionExpired()
	} else {
		stateOf(c).session.turnedAway(c)
	}
	return nil, fmt.Errorf("request with key %d (%s) version %d: %w", h.Key, kmsg.NameForKey(h.Key), h.Version, denied)
}

// turnedAway counts that the client is not let in.
func (s *session) turnedAway(c *network.Conn) {
	c.TurnedAway(cmp.Or(s.mechanism, network.NoMechanism), s.again)
}

// outOfPlace is the answer to a request that has no place while a client proves who it is, as Kafka gives it before it closes the
// connection; nil for what is only closed. Clients that take the refusal of a token for the end of the conversation ask
// for these next, and tell people what they make of the answer. The request itself is not decoded.
func outOfPlace(key int16) kmsg.Response {
	switch key {
	case kmsg.Metadata.Int16():
		return kmsg.NewPtrMetadataResponse() // which has no place for an error
	case kmsg.ApiVersions.Int16():
		resp := kmsg.NewPtrApiVersionsResponse()
		resp.ErrorCode = int16(wire.IllegalSaslState)
		return resp
	}
	return nil
}

// provenBy is a security.Lookup: users are in the image with their credentials, tokens without.
func (t *Table) provenBy(mechanism, name string, token bool) (none security.Credential, nobody security.Identity, ok bool) {
	im := t.o.Cluster.Image()
	if token {
		d := im.DelegationToken(name)
		if d == nil || t.delegation == nil || !d.Valid(time.Now().UnixMilli()) {
			return none, nobody, false
		}
		c, err := t.delegation.Credential(mechanism, name)
		return c, security.Identity{Principal: d.Owner, Expires: time.UnixMilli(d.ExpiresMs), Token: true}, err == nil
	}
	for _, c := range im.ScramCredentials(name) {
		if scramNames[c.Mechanism] == mechanism {
			return security.Credential{Salt: c.Salt, StoredKey: c.StoredKey, ServerKey: c.ServerKey, Iterations: int(c.Iterations)}, security.User(name), true
		}
	}
	return none, nobody, false
}

var scramNames = map[metadata.ScramMechanism]string{metadata.ScramSHA256: security.ScramSHA256, metadata.ScramSHA512: security.ScramSHA512}

// step takes a message of the client. lifetime is how long the session lives, 0 for ever; done tells that the client is known.
func (rc *requestContext) step(message []byte) (answer []byte, done bool, lifetime time.Duration, err error) {
	s := stateOf(rc.conn).session
	answer, id, err := s.talk.Step(message)
	if err == nil && id != nil && s.again && id.Principal != s.principal {
		text := fmt.Sprintf("Cannot change principals during re-authentication from %s: %s", dotted(s.principal), dotted(id.Principal))
		err = &security.Refusal{Answer: text, Cause: text}
	}
	if err != nil {
		rc.notLetIn(err)
		return nil, false, 0, err
	}
	if id == nil {
		return answer, false, 0, nil
	}
	now := time.Now()
	limit := rc.table.o.Security.Session(rc.listener, s.mechanism)
	s.expires = time.Time{}
	if limit > 0 {
		s.expires = now.Add(limit)
	}
	if !id.Expires.IsZero() && (limit == 0 || id.Expires.Before(s.expires)) {
		s.expires = id.Expires
	}
	if !s.expires.IsZero() {
		lifetime = max(0, s.expires.Sub(now))
	}
	s.principal, s.byToken, s.phase, s.talk = id.Principal, id.Token, known, nil
	rc.principal = s.principal
	rc.conn.SetKnown()
	rc.conn.LetIn(s.mechanism, s.again)
	return answer, true, lifetime, nil
}

// notLetIn tells why a client is turned away.
func (rc *requestContext) notLetIn(err error) {
	stateOf(rc.conn).session.turnedAway(rc.conn)
	rc.table.refused.log(rc, "authentication failed on listener "+rc.listener, err)
}

// dotted is a principal as Kafka writes it in one message.
func dotted(principal string) string { return strings.Replace(principal, ":", ".", 1) }

// turnAway answers, after a while, and closes the connection. The while (connection.failed.authentication.delay.ms) is what guessing
// costs; it holds no one but this connection. No answer: the connection is closed only.
func (rc *requestContext) turnAway(resp kmsg.Response) network.Call {
	call := &turnedAway{rc: rc, delay: rc.table.failedDelay}
	if resp == nil {
		call.reply = network.Reply{None: true}
	} else {
		resp.SetVersion(rc.header.Version)
		call.reply = network.Reply{Pieces: []wire.Piece{{Bytes: wire.AppendResponse(nil, rc.header.CorrelationID, resp)}}}
	}
	call.reply.CloseAfter, call.reply.LocalDone, call.reply.MayPark = true, time.Now(), call.delay
	return call
}

type turnedAway struct {
	rc    *requestContext
	delay time.Duration
	reply network.Reply
}

func (c *turnedAway) Ready() bool { return c.delay <= 0 }

func (c *turnedAway) Wait(ctx context.Context) network.Reply {
	if c.delay > 0 {
		t := time.NewTimer(c.delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return c.reply
}

func (c *turnedAway) Describe() []slog.Attr { return c.rc.describe() }

func (c *turnedAway) Release() {}
