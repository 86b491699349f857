package cluster

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"

	"moldau/internal/controller"
	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// reservedUUIDs is how many ids Kafka keeps for itself (UNASSIGNED, LOST, …).
const reservedUUIDs = 100

// NewUUID is a random id that Kafka could have made too: none of its reserved
// ones, and none that begins with '-', which a command line takes for an option.
func NewUUID() wire.UUID {
	for {
		var u wire.UUID
		rand.Read(u[:]) // never fails
		u[6] = u[6]&0x0f | 0x40
		u[8] = u[8]&0x3f | 0x80
		if acceptable(u) {
			return u
		}
	}
}

func acceptable(u wire.UUID) bool {
	reserved := binary.BigEndian.Uint64(u[:8]) == 0 && binary.BigEndian.Uint64(u[8:]) < reservedUUIDs
	return !reserved && u.String()[0] != '-'
}

// producerIDs hands out ids from a block, with the next block fetched ahead.
type producerIDs struct {
	sync.Mutex // guards all fields
	next, end  int64
	spare      int64         // first id of the next block, -1 if it is not there
	fetching   chan struct{} // closed when the fetch under way has ended; nil if none is
	err        error         // of the last fetch
}

// NextProducerID returns an id that no broker has returned before. While the
// metastore is away the ids of this broker's blocks still serve; then the error
// wraps COORDINATOR_LOAD_IN_PROGRESS, which clients retry.
func (c *Cluster) NextProducerID(ctx context.Context) (int64, error) {
	ids := &c.ids
	for {
		ids.Lock()
		if ids.next == ids.end && ids.spare >= 0 {
			ids.next, ids.end, ids.spare = ids.spare, ids.spare+controller.ProducerIDBlock, -1
		}
		id, have := ids.next, ids.next < ids.end
		if have {
			ids.next++
		}
		if ids.spare < 0 && ids.fetching == nil && ids.end-ids.next <= controller.ProducerIDBlock/2 {
			c.fetchIDsLocked()
		}
		fetching := ids.fetching
		ids.Unlock()
		if have {
			return id, nil
		}
		if fetching == nil {
			return 0, fmt.Errorf("producer ids: %w", ErrClosed)
		}
		select {
		case <-fetching:
		case <-ctx.Done():
			return 0, fmt.Errorf("producer ids: %w: %w", ctx.Err(), wire.CoordinatorLoadInProgress)
		}
		ids.Lock()
		err := ids.err
		ids.Unlock()
		if err != nil {
			return 0, fmt.Errorf("producer ids: %v: %w", err, wire.CoordinatorLoadInProgress)
		}
	}
}

// ReserveProducerIDs takes all ids below first out of use, for a broker that has handed out none yet.
func (c *Cluster) ReserveProducerIDs(ctx context.Context, first int64) error {
	_, err := decide(ctx, c, func(im *metadata.Image) (controller.Plan, struct{}) {
		return controller.ReserveProducerIDs(im, first), struct{}{}
	})
	return err
}

// fetchIDsLocked starts the allocation of the next block.
func (c *Cluster) fetchIDsLocked() {
	type answer struct {
		first int64
		code  wire.Code
	}
	done := make(chan struct{})
	started := c.start(func() {
		a, err := decide(c.ctx, c, func(im *metadata.Image) (controller.Plan, answer) {
			p, first, code := controller.AllocateProducerIDs(im)
			return p, answer{first, code}
		})
		if err == nil && a.code != wire.None {
			err = a.code
		}
		c.ids.Lock()
		defer c.ids.Unlock()
		if c.ids.err = err; err == nil {
			c.ids.spare = a.first
		}
		c.ids.fetching = nil
		close(done)
	})
	if started {
		c.ids.fetching = done
	}
}
