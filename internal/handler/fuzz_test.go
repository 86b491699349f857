package handler

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/controller"
	"moldau/internal/wire"
)

// FuzzRequests sends any bytes as the body of any API in any version: nothing panics, what is started is
// answered in its version, and nothing waits without a bound.
func FuzzRequests(f *testing.F) {
	for _, q := range script(&topicIDs{}) {
		q.req.SetVersion(max(q.version, 0))
		f.Add(q.req.Key(), q.req.GetVersion(), q.req.AppendTo(nil))
	}
	for _, q := range quotaScript(f, nil, nil) {
		q.req.SetVersion(1)
		f.Add(q.req.Key(), int16(1), q.req.AppendTo(nil))
	}
	for _, r := range rows() {
		for v := r.min - 1; v <= r.max+1; v++ {
			f.Add(r.key.Int16(), v, []byte{})
			f.Add(r.key.Int16(), v, []byte{0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0})
		}
	}
	b := newBroker(f, "group.initial.rebalance.delay.ms=0")
	b.withGroups(f)
	var adding sync.Mutex // two members join at once
	groups := groupScript{t: f, send: func(_ int, frame []byte) []byte {
		h, body, err := wire.ParseRequestHeader(frame, "")
		if err != nil {
			panic(err)
		}
		adding.Lock()
		f.Add(h.Key, h.Version, slices.Clone(body))
		adding.Unlock()
		return b.exchange(f, frame)
	}}
	groups.run()
	f.Fuzz(func(t *testing.T, key, version int16, body []byte) {
		forgetTopics(t, b)
		frame := binary.BigEndian.AppendUint16(nil, uint16(key))
		frame = binary.BigEndian.AppendUint16(frame, uint16(version))
		frame = binary.BigEndian.AppendUint32(frame, testCorrelationID)
		frame = binary.BigEndian.AppendUint16(frame, 0xffff) // no client id
		req := kmsg.RequestForKey(key)
		if req != nil {
			if req.SetVersion(version); req.IsFlexible() {
				frame = append(frame, 0)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		out, err := b.serve(ctx, append(frame, body...))
		if err != nil {
			if r := b.rows[key]; r != nil && r.key == kmsg.ApiVersions && len(body) == 0 && version < 3 {
				t.Fatalf("ApiVersions v%d: %v", version, err)
			}
			return
		}
		if req == nil || b.rows[key] == nil {
			t.Fatalf("key %d was answered", key)
		}
		if len(out) == 0 {
			return // acks=0
		}
		if int(binary.BigEndian.Uint32(out)) != len(out)-4 {
			t.Fatalf("key %d v%d: wrong size", key, version)
		}
		if r := b.rows[key]; version < r.min || version > r.max {
			version = 0
		}
		parseResponse(t, req, version, out[4:])
	})
}

// forgetTopics deletes the topics of inputs before, when they are so many that they make this one slow.
func forgetTopics(t *testing.T, b *broker) {
	im := b.o.Cluster.Image()
	if im.TopicCount() < 200 {
		return
	}
	var refs []controller.TopicRef
	for topic := range im.Topics() {
		refs = append(refs, controller.TopicRef{ID: topic.ID})
	}
	b.o.Cluster.DeleteTopics(t.Context(), refs)
}
