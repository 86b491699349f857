package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"moldau/internal/controller"
	"moldau/internal/metadata"
	"moldau/internal/metastore"
	"moldau/internal/wire"
)

// request is one decision that waits for its turn.
type request struct {
	ctx  context.Context // of the caller; once it has ended the decision is not begun
	plan func(*metadata.Image) controller.Plan
	done chan outcome // buffered: the worker never waits for the caller
}

type outcome struct {
	applied int // steps of the plan that are certainly applied
	err     error
}

var (
	// errNotApplied: the write was not applied and never will be; decide anew.
	errNotApplied = errors.New("the write was overtaken")
	// errUnknown: nobody can say any more whether the write was applied.
	errUnknown = errors.New("the outcome of the write is unknown")
)

// decide is decideSteps for plans that are done or not.
func decide[T any](ctx context.Context, c *Cluster, plan func(*metadata.Image) (controller.Plan, T)) (T, error) {
	_, v, err := decideSteps(ctx, c, plan)
	return v, err
}

// decideSteps has a decision made in its turn and waits until its plan is
// applied and in the image. An error carries a retriable code, unless the plan
// itself cannot be written. plan may be called again, with a newer image.
func decideSteps[T any](ctx context.Context, c *Cluster, plan func(*metadata.Image) (controller.Plan, T)) (applied int, v T, err error) {
	var zero, result T
	ctx, cancel := context.WithTimeout(ctx, c.opts.DecisionTimeout)
	defer cancel()
	r := &request{ctx: ctx, done: make(chan outcome, 1), plan: func(im *metadata.Image) controller.Plan {
		p, v := plan(im)
		result = v // read only after done has been received
		return p
	}}
	select {
	case c.requests <- r:
	case <-ctx.Done():
		return 0, zero, fmt.Errorf("too many decisions are waiting: %w", wire.RequestTimedOut)
	case <-c.ctx.Done():
		return 0, zero, ErrClosed
	}
	select {
	case o := <-r.done:
		return o.applied, result, o.err
	case <-ctx.Done():
		return 0, zero, fmt.Errorf("the metastore has not answered in time: %w", wire.RequestTimedOut)
	case <-c.ctx.Done():
		return 0, zero, ErrClosed
	}
}

// worker makes decisions one after the other. Its fields belong to its goroutine.
type worker struct {
	*Cluster
	epoch   int64  // the term in which head was read, 0 if head is not known
	head    []byte // the value of the head as of the last write
	seq     int64
	batches uint64 // numbers the writes of this incarnation
}

func (c *Cluster) work() {
	w := &worker{Cluster: c}
	var sweep <-chan time.Time
	if c.opts.TokenSweep > 0 {
		tick := time.NewTicker(c.opts.TokenSweep)
		defer tick.Stop()
		sweep = tick.C
	}
	for {
		select {
		case now := <-sweep:
			if c.IsController() {
				w.sweepTokens(now)
			}
		case r := <-c.requests:
			if r.ctx.Err() != nil {
				r.done <- outcome{err: fmt.Errorf("%w: %w", r.ctx.Err(), wire.RequestTimedOut)}
				continue
			}
			r.done <- w.execute(r)
		case <-c.ctx.Done():
			return
		}
	}
}

// sweepTokens removes the delegation tokens that have expired. What fails is tried at the next sweep: they let nobody in.
func (w *worker) sweepTokens(now time.Time) {
	var gone []*metadata.DelegationToken
	o := w.execute(&request{ctx: w.ctx, plan: func(im *metadata.Image) (p controller.Plan) {
		p, gone = controller.SweepTokens(im, now.UnixMilli())
		return p
	}})
	for _, t := range gone[:o.applied] {
		w.log.Info("delegation token has expired", "token", t.ID, "owner", t.Owner)
	}
	if o.err != nil && w.ctx.Err() == nil {
		w.log.Warn("delegation tokens that have expired stay until the next sweep", "err", o.err)
	}
}

// execute makes one decision. It has its own time, because the outcome must be
// known even when the caller has gone.
func (w *worker) execute(r *request) outcome {
	ctx, cancel := context.WithTimeout(w.ctx, w.opts.DecisionTimeout)
	defer cancel()
	for {
		image, err := w.prepare(ctx)
		if err != nil {
			return outcome{err: fmt.Errorf("no decision is possible: %w: %w", err, wire.RequestTimedOut)}
		}
		if err := r.ctx.Err(); err != nil { // the caller has gone: do not begin what it no longer expects
			return outcome{err: fmt.Errorf("%w: %w", err, wire.RequestTimedOut)}
		}
		applied, err := w.commit(ctx, r.plan(image))
		switch {
		case err == nil:
			return outcome{applied, nil}
		case errors.Is(err, errNotApplied) && applied == 0:
			continue // nothing has happened: decide anew
		case errors.Is(err, metastore.ErrInvalid):
			return outcome{applied, fmt.Errorf("%w: %w", err, wire.InvalidRequest)}
		default:
			return outcome{applied, fmt.Errorf("%w: %w", err, wire.RequestTimedOut)}
		}
	}
}

// prepare returns the image on which the next decision can be made: this broker
// is the controller, and the image is at the head. A new term begins with the
// clean-up after the one before.
func (w *worker) prepare(ctx context.Context) (*metadata.Image, error) {
	for wait := firstBackoff; ; wait = nextBackoff(wait) {
		epoch, changed := w.term.get()
		if epoch == 0 {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("this broker is not the controller: %w", ctx.Err())
			}
		}
		if epoch == w.epoch && w.Image().Seq() <= w.seq {
			return w.await(ctx, w.seq)
		}
		state, err := w.readControl(ctx)
		if err == nil && state.leader.CreateRevision != epoch {
			w.term.end(epoch)
			continue
		}
		if err != nil {
			if errors.Is(err, metastore.ErrFailed) || !sleep(ctx, wait) {
				return nil, err
			}
			continue
		}
		w.head, w.seq = state.head, state.seq
		image, err := w.await(ctx, w.seq)
		if err != nil {
			return nil, err
		}
		w.epoch = epoch
		if _, err := w.commit(ctx, controller.Reconcile(image, w.opts.Policy)); err != nil && !errors.Is(err, errNotApplied) {
			return nil, fmt.Errorf("finishing what an earlier controller left: %w", err)
		}
	}
}

// commit applies a plan, in as few transactions as the store's limits allow, and
// waits until the image contains it.
func (w *worker) commit(ctx context.Context, plan controller.Plan) (applied int, err error) {
	for steps := plan.Steps; applied < len(steps); {
		ops, n, err := pack(steps[applied:])
		if err == nil && len(ops) > 0 {
			err = w.write(ctx, ops)
		}
		if err != nil {
			return applied, err
		}
		// A step is applied for the caller once it is in the image.
		if _, err := w.await(ctx, w.seq); err != nil {
			return applied, err
		}
		applied += n
	}
	return applied, nil
}

// Room for the head beside the writes of a transaction.
const (
	maxOps   = metastore.MaxTxnOps - 2
	maxBytes = metastore.MaxTxnBytes - 4096
)

// pack makes operations of as many whole steps as fit into one transaction.
func pack(steps []controller.Step) (ops []metastore.Op, n int, err error) {
	size := 0
	keys := map[string]bool{}
	for _, step := range steps {
		more, again := 0, false
		for _, w := range step.Writes {
			more += len(w.Key) + len(w.Value)
			again = again || keys[w.Key]
		}
		if n > 0 && (again || len(ops)+len(step.Writes) > maxOps || size+more > maxBytes) {
			break
		}
		if len(step.Writes) > maxOps || more > maxBytes {
			return nil, 0, fmt.Errorf("%w: a step of %d writes and %d bytes", metastore.ErrInvalid, len(step.Writes), more)
		}
		for _, w := range step.Writes {
			keys[w.Key] = true
			ops = append(ops, operation(w))
		}
		size += more
		n++
	}
	return ops, n, nil
}

func operation(w controller.Write) metastore.Op {
	switch w.Action {
	case controller.Delete:
		return metastore.Delete(w.Key)
	case controller.DeletePrefix:
		return metastore.DeletePrefix(w.Key)
	default:
		return metastore.Put(w.Key, w.Value)
	}
}

// write commits one fenced transaction and finds out what became of it. After
// errNotApplied and errUnknown the head is read anew before the next decision.
func (w *worker) write(ctx context.Context, ops []metastore.Op) error {
	w.batches++
	batch := binary.AppendUvarint(bytes.Clone(w.opts.Incarnation[:]), w.batches)
	head := metadata.EncodeHead(metadata.Head{Seq: w.seq + 1, Batch: batch})
	conds := []metastore.Cond{metastore.IfCreatedAt(metadata.ControllerKey, w.epoch), metastore.IfAbsent(metadata.HeadKey)}
	if w.head != nil {
		conds[1] = metastore.IfValue(metadata.HeadKey, w.head)
	}
	ops = append(ops, metastore.Put(metadata.HeadKey, head))
	for wait := firstBackoff; ; wait = nextBackoff(wait) {
		res, err := w.txn(ctx, conds, ops)
		if err != nil && metastore.Definite(err) {
			return err
		}
		resend := false
		if err == nil && res.Succeeded {
			err = nil
		} else {
			resend, err = w.resolve(ctx, head)
		}
		switch {
		case err == nil && !resend:
			w.head, w.seq = head, w.seq+1
			return nil
		case err != nil:
			w.epoch = 0
			return err
		}
		if !sleep(ctx, wait) {
			w.epoch = 0
			return fmt.Errorf("%w: %w", errUnknown, ctx.Err())
		}
	}
}

func (w *worker) txn(ctx context.Context, conds []metastore.Cond, ops []metastore.Op) (metastore.Result, error) {
	ctx, cancel := w.try(ctx)
	defer cancel()
	return w.opts.Store.Txn(ctx, conds, ops)
}

// resolve reads what became of the write of head, after an error or a failed
// compare. To send the very same write again is safe while the head is the old
// one: only one of the copies can find it.
func (w *worker) resolve(ctx context.Context, head []byte) (resend bool, err error) {
	for wait := firstBackoff; ; wait = nextBackoff(wait) {
		state, err := w.readControl(ctx)
		if err != nil {
			if errors.Is(err, metastore.ErrFailed) || !sleep(ctx, wait) {
				return false, fmt.Errorf("%w: %w", errUnknown, err)
			}
			continue
		}
		mine := state.leader.CreateRevision == w.epoch
		if !mine {
			w.term.end(w.epoch)
		}
		switch {
		case bytes.Equal(state.head, head):
			return false, nil
		case bytes.Equal(state.head, w.head):
			if mine {
				return true, nil
			}
			return false, errNotApplied // and the fence keeps it so
		case state.seq == w.seq+1:
			return false, errNotApplied // another write took its place
		default:
			return false, fmt.Errorf("%w: the head is at %d, the write was %d", errUnknown, state.seq, w.seq+1)
		}
	}
}
