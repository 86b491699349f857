package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"moldau/internal/coordinator"
	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
)

// groupAnswer is what /group answers. Kafka's protocol has no request for it.
type groupAnswer struct {
	ClusterID string         `json:"clusterId"`
	NodeID    int32          `json:"nodeId"`
	History   *group.History `json:"history"`
}

// serveGroup answers /group?name=GROUP with what happened to a group that this broker coordinates; of one that it has never heard of there
// is an empty history. 421: another broker coordinates it. 503: not now.
func (b *Broker) serveGroup(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Query().Get("name")
	if name == "" {
		http.Error(w, "name the group: /group?name=GROUP", http.StatusBadRequest)
		return
	}
	got, err := b.groups.Do(r.Context(), name, func(core *group.Shard, now shard.Time, t shard.Ticket) shard.Effects {
		return core.History(now, t, name)
	})
	switch {
	case errors.Is(err, coordinator.ErrNotCoordinator):
		http.Error(w, fmt.Sprintf("broker %d does not coordinate the group: %v", b.o.Config.NodeID(), err), http.StatusMisdirectedRequest)
		return
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(groupAnswer{b.cluster.ClusterID(), b.o.Config.NodeID(), got.(*group.History)}) // the client is gone if it fails
}
