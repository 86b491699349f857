package metastore

import (
	"context"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3/raftpb"
)

// EmbeddedOptions are the settings of an etcd member inside this process.
type EmbeddedOptions struct {
	Dir      string        // owned by the store; made if absent
	Tick     time.Duration // raft's clock, 100 ms by default
	Election time.Duration // at least five ticks, ten by default
	Log      *slog.Logger  // warnings and errors of etcd
	// OnFatal is called once, from a goroutine of etcd's, when the member can no
	// longer go on (its disk failed or is full). Every later call answers
	// ErrFailed; only a restart of the process brings the store back.
	OnFatal func(error)
	// StartTimeout bounds OpenEmbedded, 30 s by default.
	StartTimeout time.Duration
	// NoSync leaves out every fsync. Only for tests: a crash corrupts the store.
	NoSync bool
}

// A lone member listens nowhere, but etcd wants an address to derive its ids
// from. With the token and name they make the id of every Moldau cluster.
const (
	memberName   = "moldau"
	memberURL    = "http://127.0.0.1:1"
	clusterToken = "moldau"
)

// markerName is a file in the directory that says the store has once been
// ready there: a log or a database that is missing later has been lost.
const (
	markerName = "metastore"
	markerText = "moldau metastore 1\n"
)

// walSegmentBytes replaces etcd's preallocation of 64 MB.
const walSegmentBytes = 8_000_000

// clusterID is the id that etcd derives from the first member's address and
// the token, and keeps for the cluster's life: it tells our directories from others'.
func clusterID() uint64 {
	member := sha1.Sum([]byte(memberURL + clusterToken))
	cluster := sha1.Sum(member[:8])
	return binary.BigEndian.Uint64(cluster[:8])
}

// historyRevisions is how far behind a watch may begin: etcd keeps the key and the place of each of those changes in memory, and their
// values in its file.
const historyRevisions = 1000

// setWALSegmentSize writes etcd's package variable. It is the only place that
// does, and always with the same value.
var setWALSegmentSize = sync.OnceFunc(func() { wal.SegmentSizeBytes = walSegmentBytes })

// embedded is an etcd member in this process that listens on no socket.
type embedded struct {
	dir      string
	onFatal  func(error)
	etcd     *embed.Etcd
	client   *clientv3.Client
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	failed   chan struct{} // closed when etcd cannot go on
	failure  atomic.Pointer[error]
	closing  sync.RWMutex   // guards the start of work against the end of ctx
	work     sync.WaitGroup // calls and watches under way
	stopOnce sync.Once
	stopErr  error // of the one stop

	forgotten atomic.Int64 // the revision that etcd was last told to forget
}

// OpenEmbedded starts, or starts again, the one-member store in a directory.
// It returns when the store takes writes. A damaged directory, or one that is
// not a metastore, is an error that names it; nothing in it is deleted.
func OpenEmbedded(o EmbeddedOptions) (Store, error) {
	o = o.withDefaults()
	if err := checkDir(o.Dir); err != nil {
		return nil, err
	}
	setWALSegmentSize()
	s := &embedded{dir: o.Dir, onFatal: o.OnFatal, failed: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	cfg, err := s.config(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(s.ctx, o.StartTimeout)
	defer cancel()
	if err := s.start(ctx, cfg); err != nil {
		return nil, fmt.Errorf("metastore in %q does not start: %w", o.Dir, err)
	}
	if err := writeMarker(o.Dir); err != nil {
		return nil, errors.Join(fmt.Errorf("metastore in %q: %w", o.Dir, err), s.Close())
	}
	return s, nil
}

func (o EmbeddedOptions) withDefaults() EmbeddedOptions {
	if o.Tick <= 0 {
		o.Tick = 100 * time.Millisecond
	}
	if o.Election <= 0 {
		o.Election = 10 * o.Tick
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.StartTimeout <= 0 {
		o.StartTimeout = 30 * time.Second
	}
	return o
}

func (s *embedded) config(o EmbeddedOptions) (*embed.Config, error) {
	self, err := url.Parse(memberURL)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	cfg := embed.NewConfig()
	cfg.Name = memberName
	cfg.Dir = o.Dir
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, nil
	cfg.AdvertisePeerUrls, cfg.AdvertiseClientUrls = []url.URL{*self}, []url.URL{*self}
	cfg.InitialCluster = memberName + "=" + memberURL
	cfg.InitialClusterToken = clusterToken
	cfg.TickMs, cfg.ElectionMs = uint(o.Tick.Milliseconds()), uint(o.Election.Milliseconds())
	// etcd keeps the entries since the last snapshot in memory, and those to catch up with. The second number has to be well above
	// the first: at a start etcd applies what follows the snapshot at once and then forgets what is further behind than that,
	// and where raft has not heard of it yet (a busy machine) and begins an election, it misses the entries and ends the process.
	cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = 500, 1500 // protection: entries that raft may ask for are kept
	cfg.AutoCompactionRetention = "0"                         // forget does it: etcd looks every five minutes only
	cfg.QuotaBackendBytes = 8 << 30
	cfg.EnableGRPCGateway = false
	cfg.UnsafeNoFsync = o.NoSync
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(newZap(o.Log.With("component", "metastore"), s.fail))
	return cfg, nil
}

// start runs etcd's start in its own goroutine, because a failing etcd parks
// the goroutine that it fails in.
func (s *embedded) start(ctx context.Context, cfg *embed.Config) error {
	type started struct {
		etcd *embed.Etcd
		err  error
	}
	result := make(chan started, 1)
	go func() {
		var r started
		defer func() {
			if p := recover(); p != nil {
				r.err = fmt.Errorf("damaged: %v", p)
			}
			result <- r
		}()
		r.etcd, r.err = embed.StartEtcd(cfg)
	}()
	select {
	case r := <-result:
		if r.err != nil {
			return r.err
		}
		s.etcd = r.etcd
	case <-s.failed:
		return *s.failure.Load()
	case <-ctx.Done():
		go func() { // should it start after all, it must not stay
			select {
			case r := <-result:
				if r.etcd != nil {
					r.etcd.Close()
				}
			case <-s.failed:
			}
		}()
		return errors.New("no answer from etcd in time; another process may be using the directory")
	}
	if err := s.ready(ctx); err != nil {
		return errors.Join(err, s.Close())
	}
	return nil
}

// ready waits until the member leads itself.
func (s *embedded) ready(ctx context.Context) error {
	s.client = v3client.New(s.etcd.Server)
	if got, want := uint64(s.etcd.Server.Cluster().ID()), clusterID(); got != want {
		return fmt.Errorf("it belongs to another etcd cluster (%x, not %x)", got, want)
	}
	stop := s.electNow(ctx)
	defer stop()
	select {
	case <-s.etcd.Server.ReadyNotify():
		return nil
	case err := <-s.etcd.Err():
		return err
	case <-s.etcd.Server.StopNotify():
		return errors.New("etcd stopped")
	case <-s.failed:
		return *s.failure.Load()
	case <-ctx.Done():
		return errors.New("etcd finds no leader: the directory may be that of a member of a larger cluster")
	}
}

// electNow has a lone member elect itself as soon as it can. By itself it waits for one to five ticks, in case another leads, and they
// were most of a start. It is told what a leader tells its successor, which is how raft is told to wait no longer; one that leads ignores that.
// The result ends it and waits for its end.
func (s *embedded) electNow(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		retry := time.NewTicker(time.Millisecond)
		defer retry.Stop()
		for srv := s.etcd.Server; srv.Lead() == 0; {
			// What is committed must be applied first: it says who votes. After kill -9 there may be no member before that.
			if srv.AppliedIndex() >= srv.CommittedIndex() && len(srv.Cluster().Members()) == 1 {
				id := uint64(srv.MemberID())
				if srv.Process(ctx, &raftpb.Message{Type: raftpb.MsgTimeoutNow.Enum(), From: &id, To: &id}) != nil {
					return // stopped: ready says why
				}
			}
			select {
			case <-retry.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// fail hears from etcd that it cannot go on.
func (s *embedded) fail(why string) {
	err := fmt.Errorf("%w: etcd in %q has stopped: %s", ErrFailed, s.dir, why)
	if !s.failure.CompareAndSwap(nil, &err) {
		return
	}
	close(s.failed)
	if s.onFatal != nil {
		s.onFatal(err)
	}
}

// Close stops the member. After a failure etcd cannot be stopped; its parked
// goroutines and file locks then stay until the process ends.
func (s *embedded) Close() error {
	s.closing.Lock()
	s.cancel() // from here on no work begins
	s.closing.Unlock()
	s.stopOnce.Do(func() { s.stopErr = s.stop() })
	return s.stopErr
}

func (s *embedded) stop() error {
	if s.etcd == nil {
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.work.Wait()
		if s.failure.Load() != nil {
			return
		}
		if s.client != nil {
			s.client.Close()
		}
		s.etcd.Close()
	}()
	select {
	case <-done:
	case <-s.failed:
	}
	if p := s.failure.Load(); p != nil {
		return *p
	}
	return nil
}

// run executes one call of etcd's in a goroutine of its own: in process, etcd
// works in its caller's goroutine and may not return when its disk has failed.
func run[T any](ctx context.Context, s *embedded, call func(context.Context) (T, error)) (T, error) {
	var zero T
	type answer struct {
		value T
		err   error
	}
	s.closing.RLock()
	if s.ctx.Err() != nil {
		s.closing.RUnlock()
		return zero, ErrClosed
	}
	if p := s.failure.Load(); p != nil {
		s.closing.RUnlock()
		return zero, *p
	}
	s.work.Add(1)
	s.closing.RUnlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(s.ctx, cancel)
	defer stop()
	c := make(chan answer, 1)
	go func() {
		defer s.work.Done()
		v, err := call(ctx)
		c <- answer{v, err}
	}()
	select {
	case a := <-c:
		if a.err != nil {
			return zero, s.translate(a.err)
		}
		return a.value, nil
	case <-s.failed:
		return zero, *s.failure.Load()
	case <-ctx.Done():
		return zero, s.translate(ctx.Err())
	}
}

// translate turns etcd's errors into those of this package.
func (s *embedded) translate(err error) error {
	if p := s.failure.Load(); p != nil {
		return *p
	}
	kind := ErrUnavailable
	switch {
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return ErrLeaseNotFound
	case errors.Is(err, rpctypes.ErrCompacted):
		kind = ErrCompacted
	case errors.Is(err, rpctypes.ErrNoSpace):
		kind = ErrNoSpace
	case errors.Is(err, rpctypes.ErrTooManyOps), errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrDuplicateKey), errors.Is(err, rpctypes.ErrEmptyKey):
		kind = ErrInvalid
	case s.ctx.Err() != nil:
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", kind, err)
}

func (s *embedded) Txn(ctx context.Context, conds []Cond, ops []Op) (Result, error) {
	if err := checkTxn(conds, ops); err != nil {
		return Result{}, err
	}
	cmps := make([]clientv3.Cmp, len(conds))
	for i, c := range conds {
		switch c.Target {
		case TargetCreateRevision:
			cmps[i] = clientv3.Compare(clientv3.CreateRevision(c.Key), "=", c.Revision)
		case TargetModRevision:
			cmps[i] = clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.Revision)
		default:
			cmps[i] = clientv3.Compare(clientv3.Value(c.Key), "=", string(c.Value))
		}
	}
	thens := make([]clientv3.Op, len(ops))
	for i, op := range ops {
		switch op.Kind {
		case OpPut:
			thens[i] = clientv3.OpPut(op.Key, string(op.Value), clientv3.WithLease(clientv3.LeaseID(op.Lease)))
		case OpDelete:
			thens[i] = clientv3.OpDelete(op.Key)
		default:
			thens[i] = clientv3.OpDelete(op.Key, clientv3.WithPrefix())
		}
	}
	return run(ctx, s, func(ctx context.Context) (Result, error) {
		r, err := s.client.Txn(ctx).If(cmps...).Then(thens...).Commit()
		if err != nil {
			return Result{}, err
		}
		s.forget(ctx, r.Header.Revision)
		return Result{Succeeded: r.Succeeded, Revision: r.Header.Revision}, nil
	})
}

// forget has etcd forget the history behind rev now and then, so that what it holds depends on what there is, and not on what has been.
func (s *embedded) forget(ctx context.Context, rev int64) {
	last := s.forgotten.Load()
	if rev-last < 2*historyRevisions || !s.forgotten.CompareAndSwap(last, rev-historyRevisions) {
		return
	}
	_, _ = s.client.Compact(ctx, rev-historyRevisions) // whatever failed: a later one does it
}

func (s *embedded) Snapshot(ctx context.Context, prefix string) ([]KV, int64, error) {
	// One range, not pages: every page would count the rest of the keys again.
	r, err := run(ctx, s, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.client.Get(ctx, prefix, clientv3.WithPrefix())
	})
	if err != nil {
		return nil, 0, err
	}
	kvs := make([]KV, len(r.Kvs))
	for i, kv := range r.Kvs {
		kvs[i] = KV{Key: string(kv.Key), Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Lease: Lease(kv.Lease)}
	}
	return kvs, r.Header.Revision, nil
}

func (s *embedded) Grant(ctx context.Context, ttl time.Duration) (Lease, error) {
	return run(ctx, s, func(ctx context.Context) (Lease, error) {
		r, err := s.client.Grant(ctx, wholeSeconds(ttl))
		if err != nil {
			return 0, err
		}
		return Lease(r.ID), nil
	})
}

func (s *embedded) KeepAlive(ctx context.Context, l Lease) error {
	_, err := run(ctx, s, func(ctx context.Context) (struct{}, error) {
		r, err := s.client.KeepAliveOnce(ctx, clientv3.LeaseID(l))
		if err == nil && r.TTL <= 0 {
			err = rpctypes.ErrLeaseNotFound
		}
		return struct{}{}, err
	})
	return err
}

func (s *embedded) Revoke(ctx context.Context, l Lease) error {
	_, err := run(ctx, s, func(ctx context.Context) (struct{}, error) {
		_, err := s.client.Revoke(ctx, clientv3.LeaseID(l))
		return struct{}{}, err
	})
	return err
}

func (s *embedded) Watch(ctx context.Context, prefix string, fromRev int64) <-chan Event {
	out := make(chan Event, 1)
	s.closing.RLock()
	defer s.closing.RUnlock()
	err := error(ErrClosed)
	if p := s.failure.Load(); p != nil {
		err = *p
	} else if s.ctx.Err() == nil {
		err = nil
	}
	if err != nil {
		out <- Event{Err: err}
		close(out)
		return out
	}
	s.work.Go(func() {
		defer close(out)
		watch, cancel := context.WithCancel(ctx)
		defer cancel()
		in := s.client.Watch(watch, prefix, clientv3.WithPrefix(), clientv3.WithRev(fromRev))
		for {
			var evs []Event
			select {
			case r, ok := <-in:
				evs = s.events(r, ok)
			case <-s.failed:
				evs = []Event{{Err: *s.failure.Load()}}
			case <-s.ctx.Done():
				evs = []Event{{Err: ErrClosed}}
			case <-ctx.Done():
				return
			}
			for _, ev := range evs {
				if sent := deliver(ctx, s.ctx, out, ev); !sent || ev.Err != nil {
					return
				}
			}
		}
	})
	return out
}

// events splits a watch response into one Event a revision.
func (s *embedded) events(r clientv3.WatchResponse, open bool) []Event {
	if !open {
		return []Event{{Err: ErrWatchLost}}
	}
	if r.CompactRevision != 0 {
		return []Event{{Err: fmt.Errorf("compacted to %d: %w", r.CompactRevision, ErrCompacted)}}
	}
	if err := r.Err(); err != nil {
		return []Event{{Err: fmt.Errorf("%w: %w", ErrWatchLost, err)}}
	}
	var out []Event
	for _, e := range r.Events {
		c := Change{KV: KV{Key: string(e.Kv.Key), Value: e.Kv.Value, CreateRevision: e.Kv.CreateRevision, ModRevision: e.Kv.ModRevision, Lease: Lease(e.Kv.Lease)}}
		if e.Type == clientv3.EventTypeDelete {
			c = Change{KV: KV{Key: c.Key, ModRevision: c.ModRevision}, Deleted: true}
		}
		if n := len(out); n == 0 || out[n-1].Revision != c.ModRevision {
			out = append(out, Event{Revision: c.ModRevision})
		}
		last := &out[len(out)-1]
		last.Changes = append(last.Changes, c)
	}
	return out
}

// checkDir tells a metastore's directory, or an empty one, from anything else
// before etcd writes to it.
func checkDir(dir string) error {
	if dir == "" {
		return errors.New("metastore: no directory given")
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		// Only the store's user may read the cluster's metadata.
		return os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return fmt.Errorf("metastore in %q: %w", dir, err)
	}
	marked := false
	for _, e := range entries {
		switch e.Name() {
		case "member", markerName + ".tmp":
		case markerName:
			marked = true
			text, err := os.ReadFile(filepath.Join(dir, markerName))
			if err != nil {
				return fmt.Errorf("metastore in %q: %w", dir, err)
			}
			if string(text) != markerText {
				return fmt.Errorf("metastore in %q: %s holds %q, not %q: another version or not a metastore", dir, markerName, clip(text), markerText)
			}
		default:
			return fmt.Errorf("%q is not a metastore: it holds %q", dir, e.Name())
		}
	}
	if !marked {
		return nil
	}
	logs, err := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
	if err != nil || len(logs) == 0 {
		return fmt.Errorf("metastore in %q is damaged: member/wal holds no log", dir)
	}
	if _, err := os.Stat(filepath.Join(dir, "member", "snap", "db")); err != nil {
		return fmt.Errorf("metastore in %q is damaged: %w", dir, err)
	}
	return nil
}

func clip(text []byte) string {
	return strings.ToValidUTF8(string(text[:min(len(text), 64)]), "?")
}

// writeMarker records, once and durably, that the store was ready in dir.
func writeMarker(dir string) error {
	name := filepath.Join(dir, markerName)
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	f, err := os.OpenFile(name+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(markerText)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+".tmp", name); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	// Some systems cannot sync a directory; the marker only sharpens an error message.
	_ = d.Sync()
	return d.Close()
}
