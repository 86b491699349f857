package handler

// UpdateFeatures (57), versions 0 to 2 (KIP-584, KIP-778).
//
//   - Other levels of features, all or none: an error is the whole answer's. Up to version 1 each feature has a result too.
//   - A level of 0 switches a feature off. Kafka does not look at what uses it, and neither do we: the members of consumer groups then
//     get UNSUPPORTED_VERSION, fall out of their groups when their sessions end, and what they committed stays.
//   - Version 0 says "may be a downgrade" where later ones name the kind of change; Kafka's controller does not look at it.

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/wire"
)

func updateFeatures(ctx context.Context, rc *requestContext, req *kmsg.UpdateFeaturesRequest) kmsg.Response {
	ctx, cancel := rc.within(ctx, req.TimeoutMillis)
	defer cancel()
	resp := kmsg.NewPtrUpdateFeaturesResponse()
	if !rc.allowed(clusterName) {
		resp.ErrorCode = int16(wire.ClusterAuthorizationFailed)
		return resp
	}
	updates := make([]controller.FeatureUpdate, len(req.FeatureUpdates))
	for i := range req.FeatureUpdates {
		u := &req.FeatureUpdates[i]
		updates[i] = controller.FeatureUpdate{Name: u.Feature, Level: u.MaxVersionLevel, Type: controller.UpgradeType(u.UpgradeType)}
		if req.Version == 0 {
			updates[i].Type = controller.FeatureUpgrade
		}
	}
	if code, message := rc.table.o.Cluster.UpdateFeatures(ctx, updates, req.ValidateOnly); code != wire.None {
		resp.ErrorCode, resp.ErrorMessage = int16(code), text(message)
		return resp
	}
	for i := range updates {
		r := kmsg.NewUpdateFeaturesResponseResult()
		r.Feature, r.ErrorMessage = updates[i].Name, text("NONE") // Kafka's word for no error
		resp.Results = append(resp.Results, r)
	}
	return resp
}
