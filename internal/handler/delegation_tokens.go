package handler

import (
	"strings"

	"moldau/internal/controller"
	"moldau/internal/metadata"
	"moldau/internal/security"
	"moldau/internal/wire"
)

// What CreateDelegationToken, RenewDelegationToken, ExpireDelegationToken and DescribeDelegationToken have in common.

// mayAskForTokens tells whether the client of a connection, secure or not, may do anything about tokens: it has proved a name by something that
// lasts. A token gets no other token, or one that leaked would never end.
func (s *session) mayAskForTokens(secure bool) bool {
	return !s.byToken && (s.sasl || secure && s.principal != security.Anonymous)
}

// refusesTokens says why the request is refused as a whole, whatever it asks for.
func (rc *requestContext) refusesTokens() wire.Code {
	if stateOf(rc.conn).session.mayAskForTokens(rc.conn.Secure()) {
		return wire.None
	}
	return wire.DelegationTokenRequestNotAllowed
}

// tokensOff is what is answered without delegation.token.secret.key. It comes after what depends on who asks, as in Kafka.
func (rc *requestContext) tokensOff() wire.Code {
	if rc.table.delegation == nil {
		return wire.DelegationTokenAuthDisabled
	}
	return wire.None
}

// tokenOf finds a token by its secret; "" is none. It looks at all of them: an index by secret would be the list of secrets that nobody keeps.
func (rc *requestContext) tokenOf(secret []byte) (id string) {
	for t := range rc.table.o.Cluster.Image().DelegationTokens() {
		if rc.table.delegation.Is(t.ID, secret) {
			id = t.ID
		}
	}
	return id
}

// changeToken renews or expires the token with a secret.
func (rc *requestContext) changeToken(secret []byte, change func(id string) controller.TokenResult) (wire.Code, int64) {
	if code := rc.refusesTokens(); code != wire.None {
		return code, -1
	}
	if code := rc.tokensOff(); code != wire.None {
		return code, 0
	}
	id := rc.tokenOf(secret)
	if id == "" {
		return wire.DelegationTokenNotFound, 0
	}
	rc.waits()
	r := change(id)
	if r.Code == wire.None {
		rc.auditToken("delegation token changed", id)
	}
	return r.Code, r.ExpiresMs
}

// auditToken tells who made or changed a token. Its id is no secret.
func (rc *requestContext) auditToken(what, id string, more ...any) {
	if rc.table.access != nil {
		rc.table.access.audit.Info(what, append([]any{"principal", rc.principal, "host", rc.host.Addr().Unmap().String(), "listener", rc.listener,
			"api", rc.row.key.Name(), "token", id}, more...)...)
	}
}

// tokenLife is how long tokens live by the configuration.
func (t *Table) tokenLife() controller.TokenLife {
	return controller.TokenLife{RenewMs: t.o.Config.Int("delegation.token.expiry.time.ms"), MaxMs: t.o.Config.Int("delegation.token.max.lifetime.ms")}
}

// userType is the one type of principals that there is.
const userType = "User"

// principalParts are type and name of a principal, as Kafka's messages have them.
func principalParts(principal string) (kind, name string) {
	kind, name, _ = strings.Cut(principal, ":")
	return kind, name
}

// concerns reports whether a principal has to do with a token: it is its owner, asked for it, or may renew it.
func concerns(t *metadata.DelegationToken, principal string) bool {
	for _, r := range t.Renewers {
		if r == principal {
			return true
		}
	}
	return t.Owner == principal || t.Requester == principal
}
