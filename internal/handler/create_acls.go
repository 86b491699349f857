package handler

// CreateAcls, key 30, versions 1 to 3 (KIP-140, KIP-290).
//
// Every rule has its own result; one that is there already is none to create, and no error. When the response is sent, this
// broker judges by the new rules, on open connections too. SECURITY_DISABLED where access control is off.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/acl"
	"moldau/internal/wire"
)

func createACLs(ctx context.Context, rc *requestContext, req *kmsg.CreateACLsRequest) kmsg.Response {
	resp := kmsg.NewPtrCreateACLsResponse()
	add := func(code wire.Code, message string) {
		resp.Results = append(resp.Results, kmsg.CreateACLsResponseResult{ErrorCode: int16(code), ErrorMessage: &message}) // never null, as in Kafka
	}
	if code, why := rc.mayACLs("No Authorizer is configured."); code != wire.None {
		for range req.Creations {
			add(code, why)
		}
		return resp
	}
	bindings := make([]acl.Binding, len(req.Creations))
	for i, c := range req.Creations {
		bindings[i] = acl.Binding{
			Pattern: acl.Pattern{Type: acl.ResourceType(c.ResourceType), Kind: acl.PatternType(c.ResourcePatternType), Name: c.ResourceName},
			Entry:   acl.Entry{Principal: c.Principal, Host: c.Host, Operation: acl.Operation(c.Operation), Permission: acl.Permission(c.PermissionType)},
		}
	}
	rc.waits()
	var created []acl.Binding
	for i, r := range rc.table.o.Cluster.CreateACLs(ctx, bindings) {
		add(r.Code, r.Message)
		if r.Code == wire.None {
			created = append(created, bindings[i])
		}
	}
	rc.auditACLs("rule created", created)
	return resp
}
