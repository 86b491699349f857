package handler

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/acl"
	"moldau/internal/wire"
)

// What DescribeAcls, CreateAcls and DeleteAcls have in common.

// mayACLs says why the request is refused as a whole: the client may not do it, or there is no access control.
func (rc *requestContext) mayACLs(disabled string) (wire.Code, string) {
	if !rc.allowed(clusterName) {
		return wire.ClusterAuthorizationFailed, wire.ClusterAuthorizationFailed.Message()
	}
	if rc.table.access == nil {
		return wire.SecurityDisabled, disabled
	}
	return wire.None, ""
}

// auditACLs tells who changed which rules.
func (rc *requestContext) auditACLs(what string, bindings []acl.Binding) {
	for _, b := range bindings {
		rc.table.access.audit.Info(what, "principal", rc.principal, "host", rc.host.Addr().Unmap().String(), "listener", rc.listener,
			"api", rc.row.key.Name(), "rule", b.String())
	}
}

// aclFilter is a filter of a request; the requests of two APIs have the same fields.
func aclFilter(f *kmsg.DeleteACLsRequestFilter) acl.Filter {
	return acl.Filter{
		Type: acl.ResourceType(f.ResourceType), Kind: acl.PatternType(f.ResourcePatternType), Name: f.ResourceName,
		Principal: f.Principal, Host: f.Host, Operation: acl.Operation(f.Operation), Permission: acl.Permission(f.PermissionType),
	}
}

// byPattern cuts rules that are in order into those of each pattern.
func byPattern(bindings []acl.Binding) [][]acl.Binding {
	var out [][]acl.Binding
	for len(bindings) > 0 {
		n := slices.IndexFunc(bindings, func(b acl.Binding) bool { return b.Pattern != bindings[0].Pattern })
		if n < 0 {
			n = len(bindings)
		}
		out, bindings = append(out, bindings[:n]), bindings[n:]
	}
	return out
}
