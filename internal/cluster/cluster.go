// Package cluster is this broker's place in the cluster: it keeps the current
// metadata.Image, registers the broker, and while this broker is the controller
// carries the controller's decisions into the metastore. It is a thin shell: what
// is decided is in package controller, what is stored in package metadata.
//
// Its door is [Cluster]. Fresh randomness enters here: topic ids, incarnations.
//
// Invariants:
//  1. Every write compares the create revision of the controller's key and the
//     value of the head, and replaces the head: no two controllers write, no
//     write is lost between two others, and sequence numbers have no gap. No
//     lease and no clock takes part in that.
//  2. One write is in flight at a time. After an error its outcome is read from
//     the head before anything else is decided.
//  3. A change is acknowledged only after this broker's own image contains it.
//  4. The image never goes back to a lower sequence number.
//
// Goroutines: feed (image), lead (lease and election), work (decisions), and at
// most one fetch of producer ids; Close waits for all.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"moldau/internal/acl"
	"moldau/internal/controller"
	"moldau/internal/metadata"
	"moldau/internal/metastore"
	"moldau/internal/wire"
)

// ErrClosed is returned by calls that Close has overtaken; it wraps a retriable code.
var ErrClosed = fmt.Errorf("cluster is closed: %w", wire.RequestTimedOut)

// Options say who this broker is. Store, NodeID and Policy are required.
type Options struct {
	Store     metastore.Store // stays open; the caller closes it after the Cluster
	NodeID    int32
	ClusterID string // from meta.properties; "" takes the store's, or creates one
	// Incarnation is this process's; zero takes a fresh one.
	Incarnation wire.UUID
	Listeners   []metadata.Endpoint
	Rack        string
	DirIDs      []wire.UUID
	Features    map[string]int16 // finalized when the cluster is created
	Policy      controller.Policy
	// Exclusive says that the store lives in this process alone: no other node
	// can be registered, and an earlier process of this node is certainly dead.
	Exclusive bool
	Log       *slog.Logger

	TokenSweep      time.Duration // how often the controller removes delegation tokens that have expired; 0: never
	SessionTTL      time.Duration // lease of the controller's key, 5 s by default
	TryTimeout      time.Duration // one call of the store, 500 ms by default
	DecisionTimeout time.Duration // one mutation in all, 10 s by default
}

func (o Options) withDefaults() Options {
	if o.Incarnation.IsZero() {
		o.Incarnation = NewUUID()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.SessionTTL <= 0 {
		o.SessionTTL = 5 * time.Second
	}
	if o.TryTimeout <= 0 {
		o.TryTimeout = 500 * time.Millisecond
	}
	if o.DecisionTimeout <= 0 {
		o.DecisionTimeout = 10 * time.Second
	}
	return o
}

// Cluster is this broker's view of and part in the cluster. All methods may be
// called concurrently.
type Cluster struct {
	opts   Options
	log    *slog.Logger
	view   atomic.Pointer[view]
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	tasks  struct {
		sync.Mutex // guards closed, so that no task starts after Close has begun to wait
		closed     bool
		group      sync.WaitGroup
	}
	term     term
	requests chan *request
	overdue  chan struct{} // tells feed that the watch has missed something
	ids      producerIDs
	epoch    int64 // of this registration; constant after Open
}

// view is an image and the end of its reign.
type view struct {
	image   *metadata.Image
	changed chan struct{} // closed when a newer image is there
}

// maxWaiting bounds the decisions that wait for their turn.
const maxWaiting = 256

// Open joins the cluster and returns when this broker is registered and its
// image contains the registration. An id that does not fit is an error with both ids.
func Open(ctx context.Context, o Options) (*Cluster, error) {
	o = o.withDefaults()
	c := &Cluster{opts: o, log: o.Log.With("component", "cluster"), requests: make(chan *request, maxWaiting), overdue: make(chan struct{}, 1)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.ids.spare = -1
	c.term.changed = make(chan struct{})
	image, rev, err := c.firstImage(ctx)
	if err != nil {
		c.cancel()
		return nil, err
	}
	c.view.Store(&view{image: image, changed: make(chan struct{})})
	c.start(func() { c.feed(rev) })
	c.start(c.lead)
	c.start(c.work)
	if err := c.join(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// firstImage reads the store and checks that it is this broker's, before anything is written.
func (c *Cluster) firstImage(ctx context.Context) (*metadata.Image, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.DecisionTimeout)
	defer cancel()
	for wait := firstBackoff; ; wait = nextBackoff(wait) {
		image, rev, err := c.snapshot(ctx)
		if err == nil {
			return image, rev, c.checkOwner(image)
		}
		if errors.Is(err, metadata.ErrCorrupt) || !sleep(ctx, wait) {
			return nil, 0, fmt.Errorf("reading the cluster's metadata: %w", err)
		}
	}
}

func (c *Cluster) checkOwner(image *metadata.Image) error {
	if id := image.ClusterID(); id != "" && c.opts.ClusterID != "" && id != c.opts.ClusterID {
		return fmt.Errorf("this broker's data belongs to cluster %s but the metastore to cluster %s: bring the metadata directory back that belongs to the log dir, or give the broker an empty log dir: %w", c.opts.ClusterID, id, wire.InconsistentClusterID)
	}
	if !c.opts.Exclusive {
		return nil
	}
	for _, b := range image.Brokers() {
		if b.ID != c.opts.NodeID {
			return fmt.Errorf("node id is %d but the metastore is that of node %d: %w", c.opts.NodeID, b.ID, wire.InvalidRegistration)
		}
	}
	return nil
}

// join creates the cluster if there is none, and registers this broker.
func (c *Cluster) join(ctx context.Context) error {
	fresh := c.opts.ClusterID
	if fresh == "" {
		fresh = NewUUID().String()
	}
	_, err := decide(ctx, c, func(im *metadata.Image) (controller.Plan, struct{}) {
		if im.ClusterID() != "" {
			return controller.Plan{}, struct{}{}
		}
		return controller.InitCluster(im, fresh, c.opts.Features), struct{}{}
	})
	if err != nil {
		return fmt.Errorf("creating the cluster: %w", err)
	}
	type answer struct {
		broker *metadata.Broker
		why    *controller.Rejection
	}
	got, err := decide(ctx, c, func(im *metadata.Image) (controller.Plan, answer) {
		plan, b, why := controller.RegisterBroker(im, controller.Registration{
			ID: c.opts.NodeID, ClusterID: c.opts.ClusterID, Incarnation: c.opts.Incarnation, Listeners: c.opts.Listeners,
			Rack: c.opts.Rack, DirIDs: c.opts.DirIDs, PreviousIsDead: c.opts.Exclusive,
		})
		return plan, answer{b, why}
	})
	switch {
	case err != nil:
		return fmt.Errorf("registering broker %d: %w", c.opts.NodeID, err)
	case got.why != nil:
		return fmt.Errorf("registering broker %d: %s: %w", c.opts.NodeID, got.why.Message, got.why.Code)
	}
	c.epoch = got.broker.Epoch
	return nil
}

// Close leaves the election, ends what is under way with ErrClosed, and waits
// for all goroutines. It may be called again.
func (c *Cluster) Close() error {
	c.tasks.Lock()
	c.tasks.closed = true
	c.tasks.Unlock()
	c.cancel()
	c.tasks.group.Wait()
	return nil
}

// start runs a task that Close waits for, unless Close has been called.
func (c *Cluster) start(task func()) bool {
	c.tasks.Lock()
	defer c.tasks.Unlock()
	if c.tasks.closed {
		return false
	}
	c.tasks.group.Go(task)
	return true
}

// Image is the newest image: never nil, immutable, read without a lock.
func (c *Cluster) Image() *metadata.Image { return c.view.Load().image }

// Changed is closed when a newer image than the present one is there. Take it
// before Image: then no change is missed.
func (c *Cluster) Changed() <-chan struct{} { return c.view.Load().changed }

// BrokerEpoch is the epoch of this broker's registration.
func (c *Cluster) BrokerEpoch() int64 { return c.epoch }

// ClusterID is the cluster's id.
func (c *Cluster) ClusterID() string { return c.Image().ClusterID() }

// IsController reports whether this broker decides at present. It may be out of
// date when it is read; only writes are fenced.
func (c *Cluster) IsController() bool {
	epoch, _ := c.term.get()
	return epoch != 0
}

// ReportDirs tells the controller which log directories of this broker are online, and which of its replicas are elsewhere than
// they were assigned to.
func (c *Cluster) ReportDirs(ctx context.Context, online []wire.UUID, placed []controller.PlacedReplica) error {
	_, err := decide(ctx, c, func(im *metadata.Image) (controller.Plan, struct{}) {
		return controller.ReportDirs(im, c.opts.NodeID, online, placed), struct{}{}
	})
	return err
}

// CreateTopics creates topics. An ID that is zero is filled with a fresh one.
func (c *Cluster) CreateTopics(ctx context.Context, topics []controller.NewTopic, validateOnly bool) []controller.TopicResult {
	topics = append([]controller.NewTopic(nil), topics...)
	for i := range topics {
		if topics[i].ID.IsZero() {
			topics[i].ID = NewUUID()
		}
	}
	names := func(i int) controller.TopicResult { return controller.TopicResult{Name: topics[i].Name} }
	return results(ctx, c, len(topics), names, setTopic, func(im *metadata.Image) (controller.Plan, []controller.TopicResult) {
		return controller.CreateTopics(im, c.opts.Policy, topics, validateOnly)
	})
}

// DeleteTopics deletes topics by name or id.
func (c *Cluster) DeleteTopics(ctx context.Context, refs []controller.TopicRef) []controller.TopicResult {
	names := func(i int) controller.TopicResult {
		r := controller.TopicResult{ID: refs[i].ID}
		if refs[i].Name != nil {
			r.Name = *refs[i].Name
		}
		return r
	}
	return results(ctx, c, len(refs), names, setTopic, func(im *metadata.Image) (controller.Plan, []controller.TopicResult) {
		return controller.DeleteTopics(im, refs)
	})
}

// CreatePartitions adds partitions to topics.
func (c *Cluster) CreatePartitions(ctx context.Context, requests []controller.NewPartitions, validateOnly bool) []controller.TopicResult {
	names := func(i int) controller.TopicResult { return controller.TopicResult{Name: requests[i].Name} }
	return results(ctx, c, len(requests), names, setTopic, func(im *metadata.Image) (controller.Plan, []controller.TopicResult) {
		return controller.CreatePartitions(im, c.opts.Policy, requests, validateOnly)
	})
}

// AlterConfigs replaces configurations.
func (c *Cluster) AlterConfigs(ctx context.Context, alterations []controller.ConfigAlteration, validateOnly bool) []controller.ConfigResult {
	return c.alter(ctx, alterations, validateOnly, controller.AlterConfigs)
}

// IncrementalAlterConfigs changes configurations key by key.
func (c *Cluster) IncrementalAlterConfigs(ctx context.Context, alterations []controller.ConfigAlteration, validateOnly bool) []controller.ConfigResult {
	return c.alter(ctx, alterations, validateOnly, controller.IncrementalAlterConfigs)
}

func (c *Cluster) alter(ctx context.Context, alterations []controller.ConfigAlteration, validateOnly bool,
	core func(*metadata.Image, controller.Policy, []controller.ConfigAlteration, bool) (controller.Plan, []controller.ConfigResult)) []controller.ConfigResult {
	names := func(i int) controller.ConfigResult {
		return controller.ConfigResult{Kind: alterations[i].Kind, Name: alterations[i].Name}
	}
	set := func(r *controller.ConfigResult, code wire.Code, message string) { r.Code, r.Message = code, message }
	return results(ctx, c, len(alterations), names, set, func(im *metadata.Image) (controller.Plan, []controller.ConfigResult) {
		return core(im, c.opts.Policy, alterations, validateOnly)
	})
}

// UpdateFeatures gives features other levels, all or none.
func (c *Cluster) UpdateFeatures(ctx context.Context, updates []controller.FeatureUpdate, validateOnly bool) (wire.Code, string) {
	why, err := decide(ctx, c, func(im *metadata.Image) (controller.Plan, *controller.Rejection) {
		return controller.UpdateFeatures(im, c.opts.NodeID, updates, validateOnly)
	})
	switch {
	case err != nil:
		return codeOf(err), err.Error()
	case why != nil:
		return why.Code, why.Message
	}
	return wire.None, ""
}

// AlterScram changes the credentials of users.
func (c *Cluster) AlterScram(ctx context.Context, alterations []controller.ScramAlteration) []controller.ScramResult {
	names := func(i int) controller.ScramResult { return controller.ScramResult{User: alterations[i].User} }
	set := func(r *controller.ScramResult, code wire.Code, message string) { r.Code, r.Message = code, message }
	return results(ctx, c, len(alterations), names, set, func(im *metadata.Image) (controller.Plan, []controller.ScramResult) {
		return controller.AlterScram(im, alterations)
	})
}

// CreateToken creates a delegation token with a fresh id. An error carries a code.
func (c *Cluster) CreateToken(ctx context.Context, life controller.TokenLife, n controller.NewToken) (*metadata.DelegationToken, error) {
	n.ID = NewUUID().String()
	return decide(ctx, c, func(*metadata.Image) (controller.Plan, *metadata.DelegationToken) {
		return controller.CreateToken(life, n, time.Now().UnixMilli())
	})
}

// RenewToken lets a token live on for a period. by is the principal that wants it.
func (c *Cluster) RenewToken(ctx context.Context, life controller.TokenLife, id, by string, periodMs int64) controller.TokenResult {
	return c.changeToken(ctx, func(im *metadata.Image) (controller.Plan, controller.TokenResult) {
		return controller.RenewToken(im, life, id, by, periodMs, time.Now().UnixMilli())
	})
}

// ExpireToken ends a token after a period, or at once where that is negative.
func (c *Cluster) ExpireToken(ctx context.Context, id, by string, periodMs int64) controller.TokenResult {
	return c.changeToken(ctx, func(im *metadata.Image) (controller.Plan, controller.TokenResult) {
		return controller.ExpireToken(im, id, by, periodMs, time.Now().UnixMilli())
	})
}

func (c *Cluster) changeToken(ctx context.Context, plan func(*metadata.Image) (controller.Plan, controller.TokenResult)) controller.TokenResult {
	r, err := decide(ctx, c, plan)
	if err != nil {
		return controller.TokenResult{Code: codeOf(err)}
	}
	return r
}

// CreateACLs creates rules of access.
func (c *Cluster) CreateACLs(ctx context.Context, bindings []acl.Binding) []controller.ACLResult {
	return c.alterACLs(ctx, len(bindings), func(im *metadata.Image) (controller.Plan, []controller.ACLResult) {
		return controller.CreateACLs(im, bindings)
	})
}

// DeleteACLs deletes the rules of access that the filters mean.
func (c *Cluster) DeleteACLs(ctx context.Context, filters []acl.Filter) []controller.ACLResult {
	return c.alterACLs(ctx, len(filters), func(im *metadata.Image) (controller.Plan, []controller.ACLResult) {
		return controller.DeleteACLs(im, filters)
	})
}

func (c *Cluster) alterACLs(ctx context.Context, n int, plan func(*metadata.Image) (controller.Plan, []controller.ACLResult)) []controller.ACLResult {
	set := func(r *controller.ACLResult, code wire.Code, message string) {
		*r = controller.ACLResult{Code: code, Message: message}
	}
	return results(ctx, c, n, func(int) (r controller.ACLResult) { return }, set, plan)
}

// AlterQuotas changes client quotas.
func (c *Cluster) AlterQuotas(ctx context.Context, alterations []controller.QuotaAlteration, validateOnly bool) []controller.QuotaResult {
	names := func(int) (r controller.QuotaResult) { return }
	set := func(r *controller.QuotaResult, code wire.Code, message string) { r.Code, r.Message = code, message }
	return results(ctx, c, len(alterations), names, set, func(im *metadata.Image) (controller.Plan, []controller.QuotaResult) {
		return controller.AlterQuotas(im, alterations, validateOnly)
	})
}

func setTopic(r *controller.TopicResult, code wire.Code, message string) {
	*r = controller.TopicResult{Name: r.Name, Code: code, Message: message}
}

// results runs a decision that answers item by item. After a failure the items
// whose step was not applied, or may not have been, carry its code.
func results[R any](ctx context.Context, c *Cluster, n int, name func(int) R, set func(*R, wire.Code, string),
	plan func(*metadata.Image) (controller.Plan, []R)) []R {
	type answer struct {
		plan    controller.Plan
		results []R
	}
	applied, got, err := decideSteps(ctx, c, func(im *metadata.Image) (controller.Plan, answer) {
		p, rs := plan(im)
		return p, answer{p, rs}
	})
	if err == nil {
		return got.results
	}
	code := codeOf(err)
	if got.results == nil {
		rs := make([]R, n)
		for i := range rs {
			rs[i] = name(i)
			set(&rs[i], code, err.Error())
		}
		return rs
	}
	for _, step := range got.plan.Steps[applied:] {
		if step.Result != controller.NoResult {
			set(&got.results[step.Result], code, err.Error())
		}
	}
	return got.results
}

// codeOf is the code that an error of this package carries, a retriable one if none. To try again
// is in vain after the store has failed: whoever changes a topic is to read why.
func codeOf(err error) wire.Code {
	if errors.Is(err, metastore.ErrFailed) {
		return wire.UnknownServerError
	}
	var code wire.Code
	if errors.As(err, &code) {
		return code
	}
	return wire.RequestTimedOut
}
