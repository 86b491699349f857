package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"moldau/internal/metadata"
	"moldau/internal/metastore"
)

// term is this broker's time as controller: the create revision of the
// controller's key, or 0 while another broker or none is the controller.
type term struct {
	sync.Mutex // guards epoch and changed
	epoch      int64
	changed    chan struct{} // closed when epoch changes
}

func (t *term) get() (epoch int64, changed <-chan struct{}) {
	t.Lock()
	defer t.Unlock()
	return t.epoch, t.changed
}

func (t *term) set(epoch int64) {
	t.Lock()
	defer t.Unlock()
	if t.epoch != epoch {
		t.epoch = epoch
		close(t.changed)
		t.changed = make(chan struct{})
	}
}

// end ends the term of an epoch, if it is still that one.
func (t *term) end(epoch int64) {
	t.Lock()
	defer t.Unlock()
	if t.epoch == epoch && epoch != 0 {
		t.epoch = 0
		close(t.changed)
		t.changed = make(chan struct{})
	}
}

// lead campaigns for the controller's key, keeps its lease alive, and begins
// again when it is lost, until Close.
func (c *Cluster) lead() {
	wait := firstBackoff
	for c.ctx.Err() == nil {
		lease, epoch, err := c.campaign()
		if err != nil {
			if !errors.Is(err, errHeld) {
				c.log.Debug("campaign for controller failed", "err", err)
			}
			c.awaitVacancy(wait)
			wait = min(nextBackoff(wait), c.opts.SessionTTL/4)
			continue
		}
		wait = firstBackoff
		c.log.Debug("elected controller", "epoch", epoch)
		c.term.set(epoch)
		c.hold(lease, epoch)
		c.term.end(epoch)
		if c.ctx.Err() != nil {
			c.resign(lease)
		}
	}
}

// awaitVacancy waits a while, or until the controller of the image goes.
func (c *Cluster) awaitVacancy(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	held := c.Image().Controller() != -1
	for {
		changed := c.Changed()
		if held && c.Image().Controller() == -1 {
			return
		}
		select {
		case <-changed:
		case <-t.C:
			return
		case <-c.ctx.Done():
			return
		}
	}
}

var errHeld = errors.New("another broker is the controller")

// campaign tries once to become the controller, or finds that it is.
func (c *Cluster) campaign() (metastore.Lease, int64, error) {
	state, err := c.readControl(c.ctx)
	if err != nil {
		return 0, 0, err
	}
	if leader := state.leader; leader.CreateRevision != 0 {
		rec, err := metadata.DecodeController(leader.Value)
		if err != nil {
			return 0, 0, fmt.Errorf("key %q: %w", metadata.ControllerKey, err)
		}
		switch {
		case rec.Broker == c.opts.NodeID && rec.Incarnation == c.opts.Incarnation:
			return leader.Lease, leader.CreateRevision, nil // an earlier try whose answer was lost
		case rec.Broker == c.opts.NodeID && c.opts.Exclusive:
			// This node's process before this one, whose death is certain.
			ctx, cancel := c.try(c.ctx)
			defer cancel()
			if err := c.opts.Store.Revoke(ctx, leader.Lease); err != nil && !errors.Is(err, metastore.ErrLeaseNotFound) {
				return 0, 0, err
			}
		default:
			return 0, 0, errHeld
		}
	}
	ctx, cancel := c.try(c.ctx)
	defer cancel()
	lease, err := c.opts.Store.Grant(ctx, c.opts.SessionTTL)
	if err != nil {
		return 0, 0, err
	}
	value := metadata.EncodeController(metadata.ControllerRecord{Broker: c.opts.NodeID, Incarnation: c.opts.Incarnation})
	res, err := c.opts.Store.Txn(ctx, []metastore.Cond{metastore.IfAbsent(metadata.ControllerKey)},
		[]metastore.Op{metastore.PutWithLease(metadata.ControllerKey, value, lease)})
	if err != nil {
		return 0, 0, err // the next try finds out whether it was applied; an unused lease expires
	}
	if !res.Succeeded {
		c.resign(lease)
		return 0, 0, errHeld
	}
	return lease, res.Revision, nil
}

// hold keeps the lease alive until it is lost, the term was ended by a failed
// write, or Close. Each try is short: one that hangs must not use up the lease.
func (c *Cluster) hold(lease metastore.Lease, epoch int64) {
	tick := time.NewTicker(c.opts.SessionTTL / 6)
	defer tick.Stop()
	for {
		now, changed := c.term.get()
		if now != epoch {
			return
		}
		select {
		case <-c.ctx.Done():
			return
		case <-changed:
		case <-tick.C:
			ctx, cancel := c.try(c.ctx)
			err := c.opts.Store.KeepAlive(ctx, lease)
			cancel()
			if errors.Is(err, metastore.ErrLeaseNotFound) {
				c.log.Warn("controller lease is lost", "epoch", epoch)
				return
			}
		}
	}
}

// resign gives up a lease without insisting; it would expire by itself.
func (c *Cluster) resign(lease metastore.Lease) {
	ctx, cancel := c.try(context.WithoutCancel(c.ctx))
	defer cancel()
	if err := c.opts.Store.Revoke(ctx, lease); err != nil && !errors.Is(err, metastore.ErrLeaseNotFound) {
		c.log.Debug("revoking a lease failed", "err", err)
	}
}

// try bounds one call of the store.
func (c *Cluster) try(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, c.opts.TryTimeout)
}

// control is the controller's key and the head, read together.
type control struct {
	leader metastore.KV // CreateRevision 0 if there is no controller
	head   []byte       // nil before the first write
	seq    int64
}

func (c *Cluster) readControl(ctx context.Context) (control, error) {
	ctx, cancel := c.try(ctx)
	defer cancel()
	var s control
	kvs, _, err := c.opts.Store.Snapshot(ctx, metadata.ControllerPrefix)
	if err != nil {
		return s, err
	}
	for _, kv := range kvs {
		switch kv.Key {
		case metadata.ControllerKey:
			s.leader = kv
		case metadata.HeadKey:
			h, err := metadata.DecodeHead(kv.Value)
			if err != nil {
				return s, fmt.Errorf("key %q: %w", kv.Key, err)
			}
			s.head, s.seq = kv.Value, h.Seq
		}
	}
	return s, nil
}
