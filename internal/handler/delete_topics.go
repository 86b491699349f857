// DeleteTopics (20), versions 1 to 6 (KIP-4, KIP-516, KIP-599).
//
//   - Version 6 takes names or ids, one of them per entry.
//   - delete.topic.enable=false is TOPIC_DELETION_DISABLED, before version 3 INVALID_REQUEST.
//   - Each partition is a mutation for the client's quota, as in CreateTopics; it is strict from version 5 on.
//   - A topic that the client may not describe is TOPIC_AUTHORIZATION_FAILED, whether it is there or not; one that
//     it gave by id then has no name in the response.

package handler

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/metadata"
	"moldau/internal/wire"
)

func deleteTopics(ctx context.Context, rc *requestContext, req *kmsg.DeleteTopicsRequest) kmsg.Response {
	ctx, cancel := rc.within(ctx, req.TimeoutMillis)
	defer cancel()
	asked := topicRefs(req)
	resp := kmsg.NewPtrDeleteTopicsResponse()
	add := func(r controller.TopicResult, name *string) {
		t := kmsg.NewDeleteTopicsResponseTopic()
		t.Topic, t.TopicID, t.ErrorCode, t.ErrorMessage = name, r.ID, int16(r.Code), text(r.Message)
		resp.Topics = append(resp.Topics, t)
	}
	im := rc.table.o.Cluster.Image()
	if !rc.table.config(im).Bool("delete.topic.enable") {
		code := wire.TopicDeletionDisabled
		if req.Version < 3 {
			code = wire.InvalidRequest
		}
		for _, ref := range asked {
			add(controller.TopicResult{ID: ref.ID, Code: code}, ref.Name)
		}
		return resp
	}
	refs, twice := split(asked, keyOf)
	for _, ref := range twice {
		message := "Duplicate topic id."
		if ref.Name != nil {
			message = "Duplicate topic name."
		}
		add(controller.TopicResult{ID: ref.ID, Code: wire.InvalidRequest, Message: message}, ref.Name)
	}
	var mine []controller.TopicRef
	for _, ref := range refs {
		name, known := ref.Name, true
		if t := im.TopicByID(ref.ID); name == nil {
			if known = t != nil; known {
				name = &t.Name
			}
		}
		if !known || ref.Name != nil && !ref.ID.IsZero() || rc.mayDelete(*name) {
			if t := meant(im, ref); t == nil || !rc.take(len(t.Partitions), req.Version >= 5) {
				mine = append(mine, ref)
			} else {
				add(controller.TopicResult{ID: t.ID, Code: wire.ThrottlingQuotaExceeded, Message: wire.ThrottlingQuotaExceeded.Message()}, &t.Name)
			}
			continue
		}
		if ref.Name == nil && !rc.permitted(access{topicResource, opDescribe}, *name) {
			name = nil
		}
		add(controller.TopicResult{ID: ref.ID, Code: wire.TopicAuthorizationFailed, Message: "Topic authorization failed."}, name)
	}
	for i, r := range rc.table.o.Cluster.DeleteTopics(ctx, mine) {
		name := mine[i].Name
		if r.Name != "" {
			name = &r.Name
		}
		add(r, name)
	}
	return resp
}

// meant is the topic that ref means, nil if there is none or ref means nothing.
func meant(im *metadata.Image, ref controller.TopicRef) *metadata.Topic {
	switch {
	case ref.Name == nil:
		return im.TopicByID(ref.ID)
	case ref.ID.IsZero():
		return im.Topic(*ref.Name)
	}
	return nil
}

// mayDelete tells whether the client may delete a topic, and know of it.
func (rc *requestContext) mayDelete(name string) bool {
	return rc.permitted(access{clusterResource, opDelete}, clusterName) ||
		rc.allowed(name) && rc.allowedTo(access{topicResource, opDescribe}, name)
}

func topicRefs(req *kmsg.DeleteTopicsRequest) []controller.TopicRef {
	var refs []controller.TopicRef
	if req.Version < 6 {
		for i := range req.TopicNames {
			refs = append(refs, controller.TopicRef{Name: &req.TopicNames[i]})
		}
		return refs
	}
	for _, t := range req.Topics {
		refs = append(refs, controller.TopicRef{Name: t.Topic, ID: t.TopicID})
	}
	return refs
}

// topicKey is what makes two references the same.
type topicKey struct {
	name  string
	id    wire.UUID
	entry *controller.TopicRef // of one that is malformed: it is judged by itself, however often it is given
}

func keyOf(ref *controller.TopicRef) topicKey {
	if (ref.Name == nil) == ref.ID.IsZero() {
		return topicKey{entry: ref}
	}
	if ref.Name != nil {
		return topicKey{name: *ref.Name}
	}
	return topicKey{id: ref.ID}
}
