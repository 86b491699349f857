package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"moldau/internal/metadata"
	"moldau/internal/metastore"
)

const (
	firstBackoff = 10 * time.Millisecond
	lastBackoff  = time.Second
	// snapshotTimeout bounds a read of all metadata, which can be tens of megabytes.
	snapshotTimeout = 10 * time.Second
)

func nextBackoff(d time.Duration) time.Duration { return min(2*d, lastBackoff) }

// sleep waits and reports whether the context still holds.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// snapshot reads the image and the revision it is of.
func (c *Cluster) snapshot(ctx context.Context) (*metadata.Image, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	kvs, rev, err := c.opts.Store.Snapshot(ctx, metadata.Prefix)
	if err != nil {
		return nil, 0, err
	}
	all := make([]metadata.Change, len(kvs))
	for i, kv := range kvs {
		all[i] = metadata.Change{Key: kv.Key, Value: kv.Value}
	}
	image, err := metadata.FromSnapshot(all)
	return image, rev, err
}

// feed keeps the image current, from the revision after rev on, until Close. A
// watch that ends or skips is followed by a new snapshot: at once if there was
// progress since the last one, else after a growing while.
func (c *Cluster) feed(rev int64) {
	wait := time.Duration(0)
	seen := c.Image().Seq()
	for {
		began := time.Now()
		err := c.follow(rev)
		if c.Image().Seq() > seen || time.Since(began) > lastBackoff {
			wait = 0
		}
		seen = c.Image().Seq()
		for first := true; c.ctx.Err() == nil; first = false {
			if first {
				c.log.Debug("metadata watch ended, reading the metadata anew", "seq", seen, "err", err)
			}
			if wait > 0 && !sleep(c.ctx, wait) {
				return
			}
			wait = max(firstBackoff, nextBackoff(wait))
			image, at, err := c.snapshot(c.ctx)
			if err == nil && image.Seq() < seen {
				err = fmt.Errorf("the metastore went back from sequence number %d to %d", seen, image.Seq())
			}
			if err == nil {
				rev = at
				c.publish(image)
				break
			}
			if c.ctx.Err() == nil {
				c.log.Error("reading the metadata failed, the last image stays in force", "seq", seen, "err", err)
			}
		}
		if c.ctx.Err() != nil {
			return
		}
	}
}

// follow applies what the watch brings until it ends, and returns why.
func (c *Cluster) follow(rev int64) error {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	watch := c.opts.Store.Watch(ctx, metadata.Prefix, rev+1)
	for {
		select {
		case ev, ok := <-watch:
			if !ok {
				return errors.New("watch closed")
			}
			if ev.Err != nil {
				return ev.Err
			}
			image, err := c.Image().Apply(changes(ev))
			if err != nil {
				return fmt.Errorf("revision %d: %w", ev.Revision, err)
			}
			c.publish(image)
		case <-c.overdue:
			return errors.New("a write of this broker did not arrive")
		case <-c.ctx.Done():
			return c.ctx.Err()
		}
	}
}

func changes(ev metastore.Event) []metadata.Change {
	out := make([]metadata.Change, len(ev.Changes))
	for i, ch := range ev.Changes {
		out[i] = metadata.Change{Key: ch.Key, Value: ch.Value, Deleted: ch.Deleted}
	}
	return out
}

// publish replaces the image; only feed calls it.
func (c *Cluster) publish(image *metadata.Image) {
	old := c.view.Swap(&view{image: image, changed: make(chan struct{})})
	close(old.changed)
}

// await waits until the image has reached a sequence number that is in the
// store. What the watch does not bring in good time is read from the store.
func (c *Cluster) await(ctx context.Context, seq int64) (*metadata.Image, error) {
	tick := time.NewTicker(2 * c.opts.TryTimeout)
	defer tick.Stop()
	for {
		changed := c.Changed()
		if image := c.Image(); image.Seq() >= seq {
			return image, nil
		}
		select {
		case <-changed:
		case <-tick.C:
			select {
			case c.overdue <- struct{}{}:
			default:
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("the image is at sequence number %d, not yet at %d: %w", c.Image().Seq(), seq, ctx.Err())
		}
	}
}
