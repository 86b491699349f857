package handler

// DeleteAcls, key 31, versions 1 to 3 (KIP-140, KIP-290).
//
// Every filter has its own result with the rules that it meant, which are gone. When the response is sent, this broker judges
// without them, on open connections too. SECURITY_DISABLED where access control is off.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/acl"
	"moldau/internal/wire"
)

func deleteACLs(ctx context.Context, rc *requestContext, req *kmsg.DeleteACLsRequest) kmsg.Response {
	resp := kmsg.NewPtrDeleteACLsResponse()
	add := func(code wire.Code, message string, deleted []acl.Binding) {
		r := kmsg.NewDeleteACLsResponseResult()
		r.ErrorCode, r.ErrorMessage = int16(code), text(message)
		for _, b := range deleted {
			m := kmsg.NewDeleteACLsResponseResultMatchingACL()
			m.ResourceType, m.ResourceName, m.ResourcePatternType = kmsg.ACLResourceType(b.Type), b.Name, kmsg.ACLResourcePatternType(b.Kind)
			m.Principal, m.Host = b.Principal, b.Host
			m.Operation, m.PermissionType = kmsg.ACLOperation(b.Operation), kmsg.ACLPermissionType(b.Permission)
			r.MatchingACLs = append(r.MatchingACLs, m)
		}
		resp.Results = append(resp.Results, r)
	}
	if code, why := rc.mayACLs("No Authorizer is configured."); code != wire.None {
		for range req.Filters {
			add(code, why, nil)
		}
		return resp
	}
	filters := make([]acl.Filter, len(req.Filters))
	for i := range req.Filters {
		filters[i] = aclFilter(&req.Filters[i])
	}
	rc.waits()
	var deleted []acl.Binding
	for _, r := range rc.table.o.Cluster.DeleteACLs(ctx, filters) {
		add(r.Code, r.Message, r.Deleted)
		deleted = append(deleted, r.Deleted...)
	}
	rc.auditACLs("rule deleted", deleted)
	return resp
}
