// Package broker assembles, starts and stops one broker. It is the only package that
// sees all others: everything is wired in Start, in the order in which it must come
// up, and taken down in reverse. Its door is Start, Broker.Addrs and Broker.Close.
//
// Invariants:
//  1. Nothing is served before the partitions are recovered and the listeners' real
//     addresses are registered.
//  2. A data directory of another cluster or node, or one whose metadata is missing,
//     is refused; nothing in it is changed or deleted to be able to start.
//  3. Close ends every goroutine that Start began.
package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"moldau/internal/cluster"
	"moldau/internal/config"
	"moldau/internal/controller"
	"moldau/internal/coordinator/group"
	"moldau/internal/handler"
	"moldau/internal/lag"
	"moldau/internal/metadata"
	"moldau/internal/metastore"
	"moldau/internal/network"
	"moldau/internal/partition"
	"moldau/internal/quota"
	"moldau/internal/security"
	"moldau/internal/stall"
	"moldau/internal/storage"
	"moldau/internal/vfs"
)

// Options says what to start.
type Options struct {
	Config *config.Broker // required
	Log    *slog.Logger   // required

	// FS holds the log dir; nil is the operating system's.
	FS vfs.FS
	// Store is the metadata store; nil is etcd in this process, in the metadata directory. A store
	// that is given stays open.
	Store metastore.Store
	// PoisonBuffers overwrites the buffers of requests, records and responses when they are released: for
	// tests, to find a use after that.
	PoisonBuffers bool
}

// Broker is a running broker.
type Broker struct {
	o             Options
	log           *slog.Logger
	fs            vfs.FS
	registry      *prometheus.Registry
	metaLock      io.Closer
	metaDir       string // holds manifests, metadata store and quarantine
	dirs          *storage.Dirs
	store         metastore.Store
	cluster       *cluster.Cluster
	partitions    *partition.Manager
	groups        *handler.Groups
	groupMetadata atomic.Pointer[group.Metadata] // what they know of the cluster; written by publish
	lag           *lag.Monitor
	stalls        *stall.Detector
	security      *security.Security
	audit         *audit // nil: none
	net           *network.Server
	descriptors   descriptors
	service       lateService
	http          *http.Server
	httpAddrs     []netip.AddrPort

	storeErr atomic.Pointer[error] // why the metastore is gone for good
	ready    atomic.Bool
	life     context.Context // ends with the broker, and with it what was started for it
	end      context.CancelFunc
	wg       sync.WaitGroup
}

// newBroker is a broker of which nothing is up.
func newBroker(o Options) *Broker {
	b := &Broker{o: o, log: o.Log, fs: o.FS, registry: prometheus.NewRegistry()}
	if b.fs == nil {
		b.fs = vfs.OS()
	}
	b.life, b.end = context.WithCancel(context.Background())
	return b
}

// lateService is the network's service before and after the handlers exist: the
// listeners are bound first, so that a busy port is the first thing that is noticed.
type lateService struct{ table *handler.Table }

func (s *lateService) MaxFrameBytes(c *network.Conn, key int16) int32 {
	return s.table.MaxFrameBytes(c, key)
}
func (s *lateService) Settle(c *network.Conn) { s.table.Settle(c) }
func (s *lateService) Early(key int16) bool   { return s.table.Early(key) }
func (s *lateService) Start(ctx context.Context, c *network.Conn, frame []byte, arrived time.Time) (network.Call, error) {
	return s.table.Start(ctx, c, frame, arrived)
}

// Start brings a broker up and returns when it serves. ctx bounds the start only.
func Start(ctx context.Context, o Options) (_ *Broker, err error) {
	begun := time.Now()
	b := newBroker(o)
	defer func() {
		if err != nil {
			err = errors.Join(err, b.teardown(context.Background()))
		}
	}()
	if b.metaDir, err = findMetaDir(b.fs, o.Config); err != nil {
		return nil, err
	}
	if err := b.openSecurity(); err != nil {
		return nil, err
	}
	b.startStalls()
	if err := b.listen(); err != nil {
		return nil, err
	}
	if err := b.openDirs(); err != nil {
		return nil, err
	}
	b.dirs.RemoveDeleted()
	if err := b.openStore(); err != nil {
		return nil, err
	}
	if err := b.refuseOrphans(ctx); err != nil {
		return nil, err
	}
	if err := b.join(ctx, b.endpoints()); err != nil {
		return nil, err
	}
	b.partitions = partition.NewManager(partition.Options{Self: o.Config.NodeID(), Dirs: b.dirs, Config: o.Config, Log: o.Log})
	if err := b.openGroups(); err != nil {
		return nil, err
	}
	changed, im := b.cluster.Changed(), b.cluster.Image()
	b.publish(nil, im)
	b.reloadSecurity() // what was set while an earlier broker ran
	b.reportStrays()
	b.dirs.Recover()
	b.wg.Add(2)
	b.wg.Go(b.watchSecurity)
	b.wg.Go(b.startKeeper)
	go b.startPublisher(changed, im)
	go b.startDirReports()
	b.service.table = handler.New(handler.Options{
		NodeID: o.Config.NodeID(), Cluster: b.cluster, Partitions: b.partitions, Groups: b.groups, Security: b.security, Config: o.Config, Log: o.Log,
		Audit: b.openAudit(), Registerer: b.registry, PoisonBuffers: o.PoisonBuffers,
	})
	b.net.Serve()
	b.lag = lag.New(lag.Options{Self: o.Config.NodeID(), Groups: b.groups, Partitions: b.partitions, Log: o.Log, MaxSeries: int(o.Config.Int("moldau.group.metrics.partitions"))})
	b.registry.MustRegister(b.lag)
	if err := b.startHTTP(); err != nil {
		return nil, err
	}
	b.ready.Store(true)
	b.logReady(time.Since(begun))
	b.tellClients()
	return b, nil
}

// openAudit opens the audit log where access control is on; nil where nobody wants to know.
func (b *Broker) openAudit() *slog.Logger {
	c := b.o.Config
	file := c.Text("moldau.audit.log")
	if c.Text("authorizer.class.name") == "" || file == "off" {
		return nil
	}
	if file == "" {
		file = b.metaDir + "/audit.log"
	}
	b.audit = openAudit(b.fs, filepath.ToSlash(file), b.log)
	return slog.New(slog.NewJSONHandler(b.audit, nil))
}

// startStalls watches for stalls of this process.
func (b *Broker) startStalls() {
	c := b.o.Config
	threshold := c.Millis("moldau.stall.ms")
	if threshold <= 0 {
		return
	}
	b.stalls = stall.Start(stall.Options{Threshold: threshold, Record: c.Bool("moldau.stall.trace"),
		FS: b.fs, Dir: b.metaDir + "/stalls", Log: b.log})
}

func (b *Broker) listen() error {
	c := b.o.Config
	b.divideDescriptors()
	var ls []network.Listener
	for _, l := range c.Listeners() {
		ls = append(ls, network.Listener{Name: l.Name, Addr: joinHostPort(l.Host, l.Port), TLS: b.security.TLS(l.Name), Strangers: l.Protocol.SASL()})
	}
	limits := b.limits(c)
	var err error
	b.net, err = network.Listen(network.Options{
		Listeners: ls, Service: &b.service, Log: b.log, Registerer: b.registry, PoisonBuffers: b.o.PoisonBuffers,
		MaxRequestBytes: int32(c.Int("socket.request.max.bytes")),
		QueuedBytes:     c.Int("queued.max.request.bytes"),
		Limits:          &limits,
		QuotaWindow:     quota.Window{Samples: int(c.Int("quota.window.num")), LengthMs: 1000 * c.Int("quota.window.size.seconds")},
		IdleTimeout:     c.Millis("connections.max.idle.ms"),
		SendBuffer:      int(c.Int("socket.send.buffer.bytes")),
		RecvBuffer:      int(c.Int("socket.receive.buffer.bytes")),
		GrowRecv:        !c.IsSet("socket.receive.buffer.bytes"),
		SlowRequest:     c.Millis("moldau.request.slow.ms"),
		Stalls:          b.stalls,
	})
	return err
}

// openDirs locks the metadata directory and the log dirs, in this order: etcd would wait
// for ever for a directory that another process has.
func (b *Broker) openDirs() (err error) {
	c := b.o.Config
	if err := vfs.MkdirAllSync(b.fs, b.metaDir); err != nil {
		return fmt.Errorf("metadata directory: %w: choose another by --data-dir or metadata.log.dir, or make it writable", err)
	}
	if b.metaLock, err = b.fs.Lock(b.metaDir + "/.lock"); err != nil {
		return inUse(err)
	}
	b.dirs, err = storage.OpenDirs(storage.DirsOptions{
		Options: storage.Options{
			FS: b.fs, MetaDir: b.metaDir, Log: b.log,
			ProducerIDExpiry: c.Millis("producer.id.expiration.ms"), PoisonBuffers: b.o.PoisonBuffers,
			Reserve:   b.o.Store == nil, // for the store beside it
			OpenFiles: b.descriptors.segments,
		},
		Paths: logDirs(c), NodeID: c.NodeID(), NewID: cluster.NewUUID,
	})
	return inUse(err)
}

// logDirs are the configured log dirs.
func logDirs(c *config.Broker) []string {
	dirs := c.LogDirs()
	for i, dir := range dirs {
		dirs[i] = filepath.ToSlash(dir)
	}
	return dirs
}

// findMetaDir is the metadata directory of a configuration.
func findMetaDir(fsys vfs.FS, c *config.Broker) (string, error) {
	places := c.MetadataDirs()
	for i, dir := range places {
		places[i] = filepath.ToSlash(dir)
	}
	return storage.FindMetaDir(fsys, places, logDirs(c))
}

// inUse says what to do about a directory that another process has.
func inUse(err error) error {
	var locked *vfs.LockedError
	if errors.As(err, &locked) {
		return fmt.Errorf("%w: another broker runs on this directory; stop it, or choose another by --data-dir", err)
	}
	return err
}

// openStore opens the metadata store.
func (b *Broker) openStore() (err error) {
	c := b.o.Config
	b.store = b.o.Store
	if b.store != nil {
		return nil
	}
	b.store, err = metastore.OpenEmbedded(metastore.EmbeddedOptions{
		Dir:      b.storeDir(),
		Tick:     c.Millis("moldau.metastore.tick.ms"),
		Election: c.Millis("moldau.metastore.election.ms"),
		Log:      b.log,
		OnFatal:  b.metastoreFailed,
	})
	return err
}

// storeDir is where the embedded store lives.
func (b *Broker) storeDir() string { return filepath.Join(filepath.FromSlash(b.metaDir), "etcd") }

// join joins the cluster as these log dirs' broker.
func (b *Broker) join(ctx context.Context, listeners []metadata.Endpoint) (err error) {
	c := b.o.Config
	id, _ := b.dirs.Identity()
	b.cluster, err = cluster.Open(ctx, cluster.Options{
		Store: b.store, NodeID: c.NodeID(), ClusterID: id.ClusterID,
		Listeners: listeners, Rack: c.Rack(), DirIDs: b.dirs.Online(),
		Features: controller.LatestFeatures(),
		Policy:   handler.Policy(c), Exclusive: b.o.Store == nil, Log: b.log,
		TokenSweep: c.Millis("delegation.token.expiry.check.interval.ms"),
	})
	if err != nil {
		return err
	}
	return b.dirs.SetIdentity(b.cluster.ClusterID(), c.NodeID())
}

// refuseOrphans refuses partition directories beside an empty store: starting would
// make their topics disappear.
func (b *Broker) refuseOrphans(ctx context.Context) error {
	kvs, _, err := b.store.Snapshot(ctx, metadata.ClusterKey)
	if err != nil || len(kvs) > 0 {
		return err
	}
	found, err := b.dirs.Scan()
	if err != nil || len(found) == 0 {
		return err
	}
	dir := path.Dir(found[0].Path)
	n := 0
	for _, f := range found {
		if path.Dir(f.Path) == dir {
			n++
		}
	}
	return fmt.Errorf("log dir %s holds %d partitions, such as %s, but the metadata in %s is empty: bring the metadata directory back, or take the partitions in by 'moldau log adopt %s'",
		dir, n, found[0].TopicPartition, b.metaDir, dir)
}

func (b *Broker) metastoreFailed(err error) {
	b.storeErr.CompareAndSwap(nil, &err)
	b.log.Error("the metadata store failed: data keeps flowing, but topics and configurations cannot change until the broker is restarted",
		"dir", b.metaDir, "error", err)
}

// endpoints are the listeners as they are registered. An empty host means that clients
// are told the address on which they reached us.
func (b *Broker) endpoints() []metadata.Endpoint {
	bound := map[string]uint16{}
	for _, a := range b.net.Addrs() {
		bound[a.Name] = a.Addr.Port()
	}
	var out []metadata.Endpoint
	for _, l := range b.o.Config.Listeners() {
		e := metadata.Endpoint{Name: l.Name, Host: l.AdvertisedHost, Port: uint16(l.AdvertisedPort), Protocol: string(l.Protocol)}
		if e.Port == 0 {
			e.Port = bound[l.Name]
		}
		out = append(out, e)
	}
	return out
}

// startPublisher gives every new image to those who act on it.
func (b *Broker) startPublisher(changed <-chan struct{}, last *metadata.Image) {
	defer b.wg.Done()
	for {
		select {
		case <-changed:
			changed = b.cluster.Changed()
			im := b.cluster.Image()
			b.publish(last, im)
			last = im
		case <-b.life.Done():
			return
		}
	}
}

// startDirReports tells the controller which log dirs are online and where partitions came to be, whenever that changes. Until it could be told,
// new partitions are placed by what this broker knows.
func (b *Broker) startDirReports() {
	defer b.wg.Done()
	const again = time.Second
	retry := time.NewTimer(again)
	retry.Stop()
	for {
		select {
		case <-b.life.Done():
			retry.Stop()
			return
		case <-b.dirs.News():
		case <-retry.C:
		}
		if err := b.reportDirs(); err != nil {
			b.log.Debug("log dirs could not be reported to the controller; it is tried again", "error", err)
			retry.Reset(again)
		}
	}
}

func (b *Broker) reportDirs() error {
	moved := b.dirs.TakePlacements()
	placed := make([]controller.PlacedReplica, len(moved))
	for i, m := range moved {
		placed[i] = controller.PlacedReplica{TopicID: m.TopicID, Partition: m.Partition, Dir: m.Dir}
	}
	err := b.cluster.ReportDirs(b.life, b.dirs.Online(), placed)
	if err != nil {
		b.dirs.PutBack(moved)
	}
	return err
}

// reportStrays names partition directories that no topic claims, and second ones of a partition. They are left alone.
func (b *Broker) reportStrays() {
	found, err := b.dirs.Strays()
	if err != nil {
		b.log.Warn("log dirs cannot be listed", "error", err)
		return
	}
	im := b.cluster.Image()
	for _, f := range found {
		if f.Err != nil {
			b.log.Warn("topic id of a partition directory cannot be read", "dir", f.Path, "error", f.Err)
		}
		if t := im.TopicByID(f.TopicID); t != nil && int(f.Partition) < len(t.Partitions) {
			p, err := b.partitions.Lookup("", f.TopicID, f.Partition)
			if err == nil && p.Path() != "" && p.Path() != f.Path {
				b.log.Warn("a second directory of a partition is left alone: the other one is served. Compare them, and remove it",
					"dir", f.Path, "served", p.Path())
			}
			continue // else it is offline
		}
		if t := im.Topic(f.Topic); t != nil && f.TopicID.IsZero() {
			continue
		}
		b.log.Warn("partition directory belongs to no topic and is left alone: take it in by 'moldau log adopt', or remove it",
			"dir", f.Path, "topicId", f.TopicID.String())
	}
}

func (b *Broker) logReady(took time.Duration) {
	c := b.o.Config
	durability := "every acknowledged record is on the disk (log.flush.interval.messages=1)"
	if n := c.Int("log.flush.interval.messages"); n > 1 {
		durability = fmt.Sprintf("log.flush.interval.messages=%d", n)
		if n == 1<<63-1 {
			durability = "page cache only, as Kafka's default (log.flush.interval.messages=9223372036854775807)"
		}
	}
	var addrs []string
	for _, a := range b.net.Addrs() {
		addrs = append(addrs, a.Name+"://"+a.Addr.String())
	}
	args := []any{"version", Version(), "nodeId", c.NodeID(), "clusterId", b.cluster.ClusterID(), "listeners", addrs,
		"logDir", strings.Join(logDirs(c), ","), "metadataDir", b.metaDir, "durability", durability, "startMs", took.Milliseconds()}
	if len(b.httpAddrs) > 0 {
		args = append(args, "http", "http://"+b.httpAddrs[0].String())
	}
	b.log.Info("ready", args...)
	levels, _ := b.cluster.Image().Features()
	for _, f := range controller.FeaturesBehind(b.cluster.Image()) {
		b.log.Info("a feature of this build is not on in this cluster: an earlier build created it, or it was switched off",
			"feature", f.Name, "level", levels[f.Name], "latest", f.Max,
			"toRaise", fmt.Sprintf("kafka-features.sh --bootstrap-server HOST:PORT upgrade --feature %s=%d", f.Name, f.Max))
	}
}

// Addrs are the real addresses of the client listeners.
func (b *Broker) Addrs() []netip.AddrPort {
	var out []netip.AddrPort
	for _, a := range b.net.Addrs() {
		out = append(out, a.Addr)
	}
	return out
}

// HTTPAddrs are the real addresses of the HTTP listener.
func (b *Broker) HTTPAddrs() []netip.AddrPort { return b.httpAddrs }

// Err says why the broker is not well, or nil: all its log dirs are offline, or its metadata store failed.
func (b *Broker) Err() error {
	if err := b.dirs.Err(); err != nil {
		return err
	}
	if p := b.storeErr.Load(); p != nil {
		return *p
	}
	return nil
}

// Close drains and stops: requests that have started are answered until ctx ends, then
// every log is flushed and closed. It waits for every goroutine.
func (b *Broker) Close(ctx context.Context) error {
	b.ready.Store(false)
	return b.teardown(ctx)
}

// Abort stops at once: connections are cut. What was acknowledged is safe all the same.
func (b *Broker) Abort() error {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	return b.Close(ended)
}

// teardown takes down whatever was brought up, in reverse.
func (b *Broker) teardown(ctx context.Context) error {
	var errs []error
	if b.http != nil {
		errs = append(errs, b.http.Close())
	}
	if b.lag != nil {
		b.lag.Close()
	}
	if b.groups != nil {
		b.groups.Close() // members that wait for a rebalance would hold up the drain
	}
	if b.net != nil {
		if err := b.net.Close(ctx); err != nil && !errors.Is(err, ctx.Err()) {
			errs = append(errs, err)
		}
	}
	b.audit.Close()
	b.stalls.Close()
	b.end()
	b.wg.Wait()
	if b.partitions != nil {
		b.partitions.Close()
	}
	if b.cluster != nil {
		errs = append(errs, b.cluster.Close())
	}
	if b.store != nil && b.o.Store == nil {
		errs = append(errs, b.store.Close())
	}
	if b.dirs != nil {
		errs = append(errs, b.dirs.Close())
	}
	if b.metaLock != nil {
		errs = append(errs, b.metaLock.Close())
	}
	return errors.Join(errs...)
}
