// IncrementalAlterConfigs (44), versions 0 and 1 (KIP-339, KIP-412).
//
//   - Sets or deletes single keys, or appends to and subtracts from those that are lists; what is not a list is
//     INVALID_CONFIG then. A list that is not set begins as its default.
//   - A broker is changed by itself; broker "" is the default of all and can be changed by any.
//   - Otherwise as AlterConfigs.

package handler

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
)

func incrementalAlterConfigs(ctx context.Context, rc *requestContext, req *kmsg.IncrementalAlterConfigsRequest) kmsg.Response {
	changes := make([]configChange, len(req.Resources))
	for i, r := range req.Resources {
		changes[i] = configChange{kind: int8(r.ResourceType), name: r.ResourceName}
		for _, entry := range r.Configs {
			changes[i].ops = append(changes[i].ops, controller.ConfigOp{Key: entry.Name, Type: controller.ConfigOpType(entry.Op), Value: entry.Value})
		}
	}
	rc.changeConfigs(ctx, changes, true, req.ValidateOnly)
	resp := kmsg.NewPtrIncrementalAlterConfigsResponse()
	for i := range changes {
		r := kmsg.NewIncrementalAlterConfigsResponseResource()
		r.ResourceType, r.ResourceName = req.Resources[i].ResourceType, req.Resources[i].ResourceName
		r.ErrorCode, r.ErrorMessage = int16(codeOf(changes[i].err)), reason(changes[i].err)
		resp.Resources = append(resp.Resources, r)
	}
	return resp
}
