package handler

import (
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/network"
	"moldau/internal/security"
	"moldau/internal/wire"
)

// TestWhoMayAskForTokens goes through the ways to be known (Kafka's KafkaApis.allowTokenRequests).
func TestWhoMayAskForTokens(t *testing.T) {
	for _, c := range []struct {
		what   string
		s      session
		secure bool
		may    bool
	}{
		{"PLAINTEXT", session{principal: security.Anonymous}, false, false},
		{"SSL without a certificate", session{principal: security.Anonymous}, true, false},
		{"SSL with a certificate", session{principal: "User:CN=alice"}, true, true},
		{"SASL_PLAINTEXT", session{sasl: true, principal: "User:alice"}, false, true},
		{"SASL_SSL", session{sasl: true, principal: "User:alice"}, true, true},
		{"SASL_PLAINTEXT by a token", session{sasl: true, byToken: true, principal: "User:alice"}, false, false},
		{"SASL_SSL by a token", session{sasl: true, byToken: true, principal: "User:alice"}, true, false},
	} {
		if got := c.s.mayAskForTokens(c.secure); got != c.may {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

// tokenCodes are what all four APIs answer to a client on a connection.
func (b *broker) tokenCodes(t *testing.T, c *network.Conn) (codes [4]wire.Code) {
	t.Helper()
	for i, req := range []kmsg.Request{kmsg.NewPtrCreateDelegationTokenRequest(), kmsg.NewPtrRenewDelegationTokenRequest(), kmsg.NewPtrExpireDelegationTokenRequest(), kmsg.NewPtrDescribeDelegationTokenRequest()} {
		req.SetVersion(req.MaxVersion())
		call, err := b.Start(t.Context(), c, frameOf(req), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		var out []byte
		for _, p := range call.Wait(t.Context()).Pieces {
			out = append(out, p.Bytes...)
		}
		call.Release()
		switch r := parseResponse(t, req, req.GetVersion(), out[4:]).(type) {
		case *kmsg.CreateDelegationTokenResponse:
			codes[i] = wire.Code(r.ErrorCode)
		case *kmsg.RenewDelegationTokenResponse:
			codes[i] = wire.Code(r.ErrorCode)
		case *kmsg.ExpireDelegationTokenResponse:
			codes[i] = wire.Code(r.ErrorCode)
		case *kmsg.DescribeDelegationTokenResponse:
			codes[i] = wire.Code(r.ErrorCode)
		}
	}
	return codes
}

// TestTokensWithoutAKey: all four APIs say so, to those who may ask. Codes and times are those that Kafka 4.3.1 gave when it was asked.
func TestTokensWithoutAKey(t *testing.T) {
	off := newBroker(t)
	const disabled, notAllowed, notFound = wire.DelegationTokenAuthDisabled, wire.DelegationTokenRequestNotAllowed, wire.DelegationTokenNotFound
	if got := off.tokenCodes(t, as("bob")); got != [4]wire.Code{disabled, disabled, disabled, disabled} {
		t.Errorf("without a key: %v", got)
	}
	for kind, want := range map[string]struct {
		code wire.Code
		ms   int64
	}{"User": {disabled, 0}, "Group": {wire.InvalidPrincipalType, -1}} {
		req := kmsg.NewPtrCreateDelegationTokenRequest()
		req.Renewers = []kmsg.CreateDelegationTokenRequestRenewer{{PrincipalType: kind, PrincipalName: "x"}}
		if r := askAs[*kmsg.CreateDelegationTokenResponse](t, off, "bob", req, 3); wire.Code(r.ErrorCode) != want.code || r.IssueTimestamp != want.ms || r.ExpiryTimestamp != want.ms || r.MaxTimestamp != want.ms {
			t.Errorf("without a key, for a %s: %+v", kind, r)
		}
	}
	if got := off.tokenCodes(t, new(network.Conn)); got != [4]wire.Code{notAllowed, notAllowed, notAllowed, notAllowed} {
		t.Errorf("without a key or a name: %v", got)
	}
	on := newBroker(t, withAccess...)
	if got := on.tokenCodes(t, as("bob")); got != [4]wire.Code{wire.None, notFound, notFound, wire.None} {
		t.Errorf("with a key: %v", got)
	}
	byToken := as("bob")
	stateOf(byToken).session.byToken = true
	if got := on.tokenCodes(t, byToken); got != [4]wire.Code{notAllowed, notAllowed, notAllowed, notAllowed} {
		t.Errorf("by a token: %v", got)
	}
}

// TestWhatAProofIsLookedUpBy: a token that lives, by its id, and no token as a user or a user as a token.
func TestWhatAProofIsLookedUpBy(t *testing.T) {
	b := newBroker(t, withAccess...)
	life := controller.TokenLife{RenewMs: time.Hour.Milliseconds(), MaxMs: time.Hour.Milliseconds()}
	token, err := b.o.Cluster.CreateToken(t.Context(), life, controller.NewToken{Owner: "User:alice", Requester: "User:bob"})
	if err != nil {
		t.Fatal(err)
	}
	_, id, ok := b.provenBy(security.ScramSHA256, token.ID, true)
	if !ok || id != (security.Identity{Principal: "User:alice", Expires: time.UnixMilli(token.ExpiresMs), Token: true}) {
		t.Errorf("%+v %v", id, ok)
	}
	if _, _, ok := b.provenBy(security.ScramSHA256, token.ID, false); ok {
		t.Error("a token is a user")
	}
	short, err := b.o.Cluster.CreateToken(t.Context(), controller.TokenLife{RenewMs: 1, MaxMs: 1}, controller.NewToken{Owner: "User:alice", Requester: "User:bob"})
	if err != nil {
		t.Fatal(err)
	}
	for time.Now().UnixMilli() <= short.ExpiresMs {
		time.Sleep(time.Millisecond)
	}
	if _, _, ok := b.provenBy(security.ScramSHA256, short.ID, true); ok {
		t.Error("a token lets in after its end")
	}
	off := newBroker(t)
	if token, err = off.o.Cluster.CreateToken(t.Context(), life, controller.NewToken{Owner: "User:alice", Requester: "User:bob"}); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := off.provenBy(security.ScramSHA256, token.ID, true); ok {
		t.Error("a token without a key")
	}
}
