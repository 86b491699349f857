package handler

// DescribeAcls, key 29, versions 1 to 3 (KIP-140, KIP-290).
//
// The rules that the filter means, those of one resource pattern together. Pattern type MATCH means every pattern that covers
// the name. SECURITY_DISABLED where access control is off.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

func describeACLs(_ context.Context, rc *requestContext, req *kmsg.DescribeACLsRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeACLsResponse()
	code, why := rc.mayACLs("No Authorizer is configured on the broker")
	f := aclFilter(&kmsg.DeleteACLsRequestFilter{
		ResourceType: req.ResourceType, ResourceName: req.ResourceName, ResourcePatternType: req.ResourcePatternType,
		Principal: req.Principal, Host: req.Host, Operation: req.Operation, PermissionType: req.PermissionType,
	})
	if code == wire.None {
		if why = f.Problem(); why != "" {
			code = wire.InvalidRequest
		}
	}
	resp.ErrorCode, resp.ErrorMessage = int16(code), &why // never null, as in Kafka
	if code != wire.None {
		return resp
	}
	for _, of := range byPattern(rc.table.o.Cluster.Image().ACLs().Find(f)) {
		r := kmsg.NewDescribeACLsResponseResource()
		r.ResourceType, r.ResourceName, r.ResourcePatternType = kmsg.ACLResourceType(of[0].Type), of[0].Name, kmsg.ACLResourcePatternType(of[0].Kind)
		for _, b := range of {
			r.ACLs = append(r.ACLs, kmsg.DescribeACLsResponseResourceACL{Principal: b.Principal, Host: b.Host,
				Operation: kmsg.ACLOperation(b.Operation), PermissionType: kmsg.ACLPermissionType(b.Permission)})
		}
		resp.Resources = append(resp.Resources, r)
	}
	return resp
}
