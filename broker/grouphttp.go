package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"moldau/internal/coordinator"
	"moldau/internal/coordinator/group"
	"moldau/internal/coordinator/shard"
	"moldau/internal/lag"
)

// groupAnswer is what /group answers. Kafka's protocol has no request for it.
type groupAnswer struct {
	ClusterID string         `json:"clusterId"`
	NodeID    int32          `json:"nodeId"`
	History   *group.History `json:"history"`
	Lag       []groupLag     `json:"lag"` // of all committed offsets, also where /metrics has no room for them
}

// groupLag is how far a group is behind in one partition; null is not known.
type groupLag struct {
	Topic          string       `json:"topic"`
	Partition      int32        `json:"partition"`
	Committed      int64        `json:"committedOffset"`
	Lag            *int64       `json:"lag"`
	LagSeconds     *float64     `json:"lagSeconds"`
	CatchUpSeconds *float64     `json:"catchUpSeconds"`
	Danger         *groupDanger `json:"danger,omitempty"`
}

// groupDanger is what retention is about to take, or took.
type groupDanger struct {
	Reason      string   `json:"reason"` // deleted, time or size
	Detail      string   `json:"detail"`
	LeftSeconds *float64 `json:"leftSeconds,omitempty"`
	LeftBytes   *int64   `json:"leftBytes,omitempty"`
}

func groupLags(partitions []lag.Partition) []groupLag {
	seconds := func(d time.Duration) *float64 {
		if d < 0 {
			return nil
		}
		s := d.Seconds()
		return &s
	}
	out := make([]groupLag, len(partitions))
	for i, p := range partitions {
		out[i] = groupLag{Topic: p.Topic, Partition: p.Partition, Committed: p.Committed, LagSeconds: seconds(p.Age), CatchUpSeconds: seconds(p.CatchUp)}
		if p.Lag >= 0 {
			out[i].Lag = &p.Lag
		}
		if d := p.Danger; d != nil {
			out[i].Danger = &groupDanger{Reason: lag.Kind(d), Detail: lag.Detail(d)}
			if d.ByTime {
				out[i].Danger.LeftSeconds = seconds(max(d.Left, 0))
			}
			if d.BySize {
				left := max(d.LeftBytes, 0)
				out[i].Danger.LeftBytes = &left
			}
		}
	}
	return out
}

// serveGroup answers /group?name=GROUP with what happened to a group that this broker coordinates and how far it is behind; of one that it has never heard of there
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
	answer := groupAnswer{b.cluster.ClusterID(), b.o.Config.NodeID(), got.(*group.History), []groupLag{}}
	groups, _ := b.lag.Groups(r.Context())
	if i, ok := slices.BinarySearchFunc(groups, name, func(g lag.Group, name string) int { return strings.Compare(g.Name, name) }); ok {
		answer.Lag = groupLags(groups[i].Partitions)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the client is gone if it fails
}
