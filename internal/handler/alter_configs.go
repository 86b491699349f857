// AlterConfigs (33), versions 0 to 2 (KIP-133, KIP-226).
//
//   - What is given replaces everything: a key that is left out goes back to its default. Clients of today use
//     IncrementalAlterConfigs; older ones do not have it.
//   - A resource is changed whole or not at all, and each has its own result.
//   - Keys that a topic does not have or that are not valid are INVALID_CONFIG; what a broker cannot change at run
//     time is INVALID_REQUEST, as are nulls and anything given twice.

package handler

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
)

func alterConfigs(ctx context.Context, rc *requestContext, req *kmsg.AlterConfigsRequest) kmsg.Response {
	changes := make([]configChange, len(req.Resources))
	for i, r := range req.Resources {
		changes[i] = configChange{kind: int8(r.ResourceType), name: r.ResourceName}
		for _, entry := range r.Configs {
			changes[i].ops = append(changes[i].ops, controller.ConfigOp{Key: entry.Name, Type: controller.ConfigSet, Value: entry.Value})
		}
	}
	rc.changeConfigs(ctx, changes, false, req.ValidateOnly)
	resp := kmsg.NewPtrAlterConfigsResponse()
	for i := range changes {
		r := kmsg.NewAlterConfigsResponseResource()
		r.ResourceType, r.ResourceName = req.Resources[i].ResourceType, req.Resources[i].ResourceName
		r.ErrorCode, r.ErrorMessage = int16(codeOf(changes[i].err)), reason(changes[i].err)
		resp.Resources = append(resp.Resources, r)
	}
	return resp
}
