// DescribeCluster (60), versions 0 to 2 (KIP-700, KIP-919, KIP-1073).
//
//   - The endpoints asked for are brokers (1) or controllers (2); this is a broker, so 2 is
//     MISMATCHED_ENDPOINT_TYPE and anything else UNSUPPORTED_ENDPOINT_TYPE.
//   - Fenced brokers are listed from version 2 on, where the client asks for them.
//   - The controller is one of the brokers listed, or -1.

package handler

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

const brokerEndpoints, controllerEndpoints = 1, 2

func describeCluster(_ context.Context, rc *requestContext, req *kmsg.DescribeClusterRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeClusterResponse()
	if req.EndpointType != brokerEndpoints {
		resp.ErrorCode = int16(wire.UnsupportedEndpointType)
		resp.ErrorMessage = text(fmt.Sprintf("Unsupported endpoint type %d", req.EndpointType))
		if req.EndpointType == controllerEndpoints {
			resp.ErrorCode = int16(wire.MismatchedEndpointType)
			resp.ErrorMessage = text("The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER")
		}
		return resp
	}
	im := rc.table.o.Cluster.Image()
	resp.ClusterID, resp.ControllerID = im.ClusterID(), rc.controllerFor(im)
	for _, b := range im.Brokers() {
		host, port, ok := rc.endpoint(b)
		if !ok || b.Fenced && !req.IncludeFencedBrokers {
			continue
		}
		r := kmsg.NewDescribeClusterResponseBroker()
		r.NodeID, r.Host, r.Port, r.Rack, r.IsFenced = b.ID, host, port, rackOf(b), b.Fenced
		resp.Brokers = append(resp.Brokers, r)
	}
	if req.IncludeClusterAuthorizedOperations {
		resp.ClusterAuthorizedOperations = rc.operationsOnCluster()
	}
	return resp
}
