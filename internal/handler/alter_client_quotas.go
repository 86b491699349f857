package handler

// AlterClientQuotas, key 49, versions 0 to 1 (KIP-546).
//
// The limits of each entity are changed all at once; the answers are one for each entity. What an entity and a limit may be is Kafka's
// (ClientQuotaControlManager), but for three: a limit that is not a number is refused, an address is one and not the name of a host, which a broker would
// have to ask others about, and a name has a bound.

import (
	"context"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/quota"
	"moldau/internal/wire"
)

func alterClientQuotas(ctx context.Context, rc *requestContext, req *kmsg.AlterClientQuotasRequest) kmsg.Response {
	resp := kmsg.NewPtrAlterClientQuotasResponse()
	denied := !rc.allowed(clusterName)
	var alterations []controller.QuotaAlteration
	var entities []quotaEntity // of alterations
	var ignored []int          // alterations whose entities are named again
	at := map[any]int{}        // alterations by entity, or by name where that is none
	for _, e := range req.Entries {
		named := entityOf(e.Entity)
		a := controller.QuotaAlteration{}
		var err *apiError
		var key any
		if a.Entity, err = named.entity(); err == nil {
			key = a.Entity // other spellings of an address are the same
			err = alterLimits(&a, e.Ops, named)
		} else {
			key = named.String()
		}
		if err != nil {
			a.Code, a.Message = err.code, err.message
		}
		if i, again := at[key]; again { // the first counts
			ignored = append(ignored, i)
			continue
		}
		at[key] = len(alterations)
		alterations, entities = append(alterations, a), append(entities, named)
	}
	var results []controller.QuotaResult
	if denied {
		results = slices.Repeat([]controller.QuotaResult{{Code: wire.ClusterAuthorizationFailed, Message: wire.ClusterAuthorizationFailed.Message()}}, len(alterations))
	} else {
		rc.waits()
		results = rc.table.o.Cluster.AlterQuotas(ctx, alterations, req.ValidateOnly)
		for _, i := range ignored {
			err := ignoring(entities[i])
			results[i] = controller.QuotaResult{Code: err.code, Message: err.message}
		}
	}
	for i, r := range results {
		entry := kmsg.NewAlterClientQuotasResponseEntry()
		entry.ErrorCode = int16(r.Code)
		if r.Code != wire.None {
			entry.ErrorMessage = text(r.Message)
		}
		for _, p := range entities[i] {
			entry.Entity = append(entry.Entity, kmsg.AlterClientQuotasResponseEntryEntity{Type: p.Type, Name: p.Name})
		}
		resp.Entries = append(resp.Entries, entry)
	}
	return resp
}

func ignoring(e quotaEntity) *apiError {
	return refuse(wire.InvalidRequest, "Ignoring duplicate entity %s", e)
}

// quotaEntity is an entity as a client names it.
type quotaEntity []kmsg.AlterClientQuotasRequestEntryEntity

// entityOf gives each type its last name, as Kafka does, in order of the types.
func entityOf(parts []kmsg.AlterClientQuotasRequestEntryEntity) quotaEntity {
	last := map[string]*string{}
	for _, p := range parts {
		last[p.Type] = p.Name
	}
	var e quotaEntity
	for _, t := range slices.Sorted(maps.Keys(last)) {
		e = append(e, kmsg.AlterClientQuotasRequestEntryEntity{Type: t, Name: last[t]})
	}
	return e
}

// String is an entity in Kafka's messages.
func (e quotaEntity) String() string {
	var parts []string
	for _, p := range e {
		name := "null"
		if p.Name != nil {
			name = *p.Name
		}
		parts = append(parts, p.Type+"="+name)
	}
	return "ClientQuotaEntity(entries={" + strings.Join(parts, ", ") + "})"
}

// entity is the entity that is meant; an error says in Kafka's words why there is none.
func (e quotaEntity) entity() (of quota.Entity, err *apiError) {
	if len(e) == 0 {
		return of, refuse(wire.InvalidRequest, "Invalid empty client quota entity")
	}
	for _, p := range e {
		part := of.Part(p.Type)
		switch {
		case part == nil:
			return of, refuse(wire.InvalidRequest, "Unhandled client quota entity type: %s", p.Type)
		case p.Name == nil:
			*part = quota.Default
		case *p.Name == "":
			return of, refuse(wire.InvalidRequest, "Empty %s not supported", p.Type)
		default:
			*part = quota.Named(*p.Name)
		}
	}
	if of.IP.Present() && len(e) > 1 {
		return of, refuse(wire.InvalidRequest, "Invalid quota entity combination, IP entity shouldnot be combined with User or ClientId")
	}
	if of.IP.Present() && !of.IP.IsDefault() {
		plain, ok := quota.PlainAddress(of.IP.Name())
		if !ok {
			return of, refuse(wire.InvalidRequest, "%s is not a valid IP or resolvable host.", of.IP.Name())
		}
		of.IP = quota.Named(plain)
	}
	if why := of.Problem(); why != "" {
		return of, refuse(wire.InvalidRequest, "Invalid client quota entity: %s", why)
	}
	return of, nil
}

// alterLimits adds the limits of a request to an alteration; an error says in Kafka's words which cannot be. A limit that is to be removed need not be one
// that there can be.
func alterLimits(a *controller.QuotaAlteration, ops []kmsg.AlterClientQuotasRequestEntryOp, of quotaEntity) *apiError {
	seen := map[string]bool{}
	for _, op := range ops {
		if seen[op.Key] {
			return ignoring(of) // what Kafka means to say about the key never leaves it
		}
		seen[op.Key] = true
		k, ok := quota.KeyOf(op.Key)
		switch ok = ok && a.Entity.Has(k); {
		case op.Remove && ok:
			a.Remove = append(a.Remove, k)
			continue
		case op.Remove:
			continue
		case !ok:
			return refuse(wire.InvalidRequest, "Invalid configuration key %s", op.Key)
		case !quota.Valid(op.Value):
			return refuse(wire.InvalidRequest, "Quota %s must be greater than 0", op.Key)
		}
		kind, most := "", math.Inf(1)
		switch k {
		case quota.ProducerByteRate, quota.ConsumerByteRate:
			kind, most = "a LONG", math.MaxInt64
		case quota.ConnectionCreationRate:
			kind, most = "an INT", math.MaxInt32
		}
		switch {
		case op.Value > most:
			return refuse(wire.InvalidRequest, "Proposed value for %s is too large for %s.", op.Key, kind)
		case kind != "" && op.Value-math.Floor(op.Value) > 1e-6:
			return refuse(wire.InvalidRequest, "%s cannot be a fractional value.", op.Key)
		}
		a.Set = a.Set.With(k, op.Value)
	}
	return nil
}
