package handler

// DescribeClientQuotas, key 48, versions 0 to 1 (KIP-546).
//
// A filter has at most one component for users, client ids and addresses each: exactly this name, the default, or any. A strict filter means
// entities of just these parts. The answer is sorted; Kafka's is in no order.

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/quota"
	"moldau/internal/wire"
)

func describeClientQuotas(_ context.Context, rc *requestContext, req *kmsg.DescribeClientQuotasRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeClientQuotasResponse()
	if !rc.allowed(clusterName) {
		resp.ErrorCode = int16(wire.ClusterAuthorizationFailed)
		return resp
	}
	f, err := quotaFilter(req)
	if err != nil {
		resp.ErrorCode, resp.ErrorMessage = int16(err.code), &err.message
		return resp
	}
	resp.ErrorMessage = new("") // never null, as in Kafka, whose documentation says otherwise
	type found struct {
		of     quota.Entity
		limits quota.Limits
	}
	var all []found
	for e, l := range rc.table.o.Cluster.Image().Quotas().Find(f) {
		all = append(all, found{e, l})
	}
	slices.SortFunc(all, func(x, y found) int { return x.of.Compare(y.of) })
	resp.Entries = make([]kmsg.DescribeClientQuotasResponseEntry, len(all))
	for i, x := range all {
		for name, part := range x.of.Parts {
			resp.Entries[i].Entity = append(resp.Entries[i].Entity, kmsg.DescribeClientQuotasResponseEntryEntity{Type: name, Name: wireName(part)})
		}
		for k := range quota.Keys {
			if v, ok := x.limits.Get(k); ok {
				resp.Entries[i].Values = append(resp.Entries[i].Values, kmsg.DescribeClientQuotasResponseEntryValue{Key: k.String(), Value: v})
			}
		}
	}
	return resp
}

// wireName is the name of a part, null for the default.
func wireName(p quota.Part) *string {
	if p.IsDefault() {
		return nil
	}
	return text(p.Name())
}

// How a component of a filter matches (DescribeClientQuotasRequest).
const (
	matchExact     = 0
	matchDefault   = 1
	matchSpecified = 2
)

// quotaFilter says what a request asks for, in Kafka's words where it cannot be asked.
func quotaFilter(req *kmsg.DescribeClientQuotasRequest) (quota.Filter, *apiError) {
	f := quota.Filter{Strict: req.Strict}
	for _, c := range req.Components {
		var m *quota.Match
		switch c.EntityType {
		case "":
			return f, refuse(wire.InvalidRequest, "Invalid empty entity type.")
		case quota.UserType:
			m = &f.User
		case quota.ClientIDType:
			m = &f.ClientID
		case quota.IPType:
			m = &f.IP
		default:
			return f, refuse(wire.UnsupportedVersion, "Unsupported entity type %s", c.EntityType)
		}
		named := func(kind string) *apiError {
			return refuse(wire.InvalidRequest, "Request specified MATCH_TYPE_%s, but also specified a match string.", kind)
		}
		switch {
		case m.Asked():
			return f, refuse(wire.InvalidRequest, "Entity type %s cannot appear more than once in the filter.", c.EntityType)
		case c.MatchType == matchExact && c.Match == nil:
			return f, refuse(wire.InvalidRequest, "Request specified MATCH_TYPE_EXACT, but set match string to null.")
		case c.MatchType == matchExact:
			name := *c.Match
			if c.EntityType == quota.IPType {
				name, _ = quota.PlainAddress(name)
			}
			*m = quota.Exactly(quota.Named(name))
		case c.MatchType == matchDefault && c.Match != nil:
			return f, named("DEFAULT")
		case c.MatchType == matchDefault:
			*m = quota.Exactly(quota.Default)
		case c.MatchType == matchSpecified && c.Match != nil:
			return f, named("SPECIFIED")
		case c.MatchType == matchSpecified:
			*m = quota.Specified()
		default:
			return f, refuse(wire.InvalidRequest, "Unknown match type %d", c.MatchType)
		}
	}
	if f.IP.Asked() && (f.User.Asked() || f.ClientID.Asked()) {
		return f, refuse(wire.InvalidRequest, "Invalid entity filter component combination. IP filter component should not be used with user or clientId filter component.")
	}
	return f, nil
}
