// Package brokertest runs a real broker inside a Go test, on a free port of 127.0.0.1.
//
//	c := brokertest.New(t, brokertest.Config("num.partitions=3"))
//	client, err := kgo.NewClient(kgo.SeedBrokers(c.Addrs()...), kgo.Dialer(c.Dial))
//
// Without Dir the broker's files and metadata are in memory: it starts in a few milliseconds,
// and Crash is a power loss, which leaves of what was not flushed what a disk may leave of it.
// What was flushed is there after every Start. A broker gets a new port at each Start; Dial
// finds it under any address that it ever had.
//
// The test's end stops everything. A Cluster may be used from several goroutines, but Start, Stop and
// Crash of one broker come one after the other.
package brokertest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"path"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"moldau/broker"
	"moldau/internal/config"
	"moldau/internal/metastore"
	"moldau/internal/vfs"
)

// settings is what the options say.
type settings struct {
	brokers  int
	config   []string
	dir      string
	logDirs  int
	disk     *vfs.Mem
	metadata *metastore.Sim
	seed     uint64
	log      *slog.Logger
}

// Option changes what New starts.
type Option func(*settings)

// Brokers is the number of brokers; a broker does not replicate yet, so that only 1 starts.
func Brokers(n int) Option { return func(s *settings) { s.brokers = n } }

// Config sets properties, each key=value under Kafka's name.
func Config(properties ...string) Option {
	return func(s *settings) { s.config = append(s.config, properties...) }
}

// Dir keeps files and metadata in a directory of the operating system, as a broker's
// --data-dir. Crash then cuts connections and loses nothing, as the end of a process does.
func Dir(dir string) Option { return func(s *settings) { s.dir = dir } }

// LogDirs is the number of log dirs, 1 by default. The first is log below the data directory, the others log-2, log-3 and so on.
func LogDirs(n int) Option { return func(s *settings) { s.logDirs = n } }

// Disk is the disk to start on, in place of an empty one.
func Disk(disk *vfs.Mem) Option { return func(s *settings) { s.disk = disk } }

// Metadata is the metadata store to start on, in place of an empty one.
func Metadata(store *metastore.Sim) Option { return func(s *settings) { s.metadata = store } }

// Seed decides what a Crash leaves of what was not flushed; 1 by default.
func Seed(seed uint64) Option { return func(s *settings) { s.seed = seed } }

// Log takes the broker's log, which otherwise goes to the test's.
func Log(log *slog.Logger) Option { return func(s *settings) { s.log = log } }

// Cluster is the broker under test.
type Cluster struct {
	t  testing.TB
	o  settings
	mu sync.Mutex // guards the fields of the nodes, known and rnd
	// known has every address that a broker ever had.
	known map[string]*node
	nodes []*node
	rnd   *rand.Rand
}

type node struct {
	disk    *vfs.Mem        // nil with Dir
	store   metastore.Store // a handle on the metadata; nil with Dir
	running *broker.Broker  // nil while it is down
	addr    string          // of the last start
}

// dataDir is where a broker in memory has its files.
const dataDir = "/moldau"

// New starts the broker, and stops it when the test ends.
func New(t testing.TB, options ...Option) *Cluster {
	t.Helper()
	o := settings{brokers: 1, seed: 1}
	for _, option := range options {
		option(&o)
	}
	if o.brokers != 1 {
		t.Fatalf("brokertest: %d brokers: a broker does not replicate yet, use 1", o.brokers)
	}
	if o.dir != "" && (o.disk != nil || o.metadata != nil) {
		t.Fatal("brokertest: Dir goes with neither Disk nor Metadata")
	}
	if o.log == nil {
		o.log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	c := &Cluster{t: t, o: o, known: map[string]*node{}, rnd: rand.New(rand.NewPCG(o.seed, 0))}
	n := &node{disk: o.disk}
	if o.dir == "" {
		if n.disk == nil {
			n.disk = vfs.NewMem()
		}
		if c.o.metadata == nil {
			c.o.metadata = metastore.NewSim()
		}
	}
	c.nodes = append(c.nodes, n)
	t.Cleanup(c.end)
	if err := c.Start(0); err != nil {
		t.Fatalf("brokertest: %v", err)
	}
	return c
}

// end stops what still runs.
func (c *Cluster) end() {
	for i := range c.nodes {
		if c.Broker(i) != nil {
			c.Stop(i)
		}
	}
}

// node is broker i; asking for one that there is not is the test's mistake.
func (c *Cluster) node(i int) *node {
	if i < 0 || i >= len(c.nodes) {
		c.t.Fatalf("brokertest: there are %d brokers, no %d", len(c.nodes), i)
	}
	return c.nodes[i]
}

// Start starts broker i again, on what its disk holds.
func (c *Cluster) Start(i int) error {
	n := c.node(i)
	cfg, err := c.config()
	if err != nil {
		return err
	}
	o := broker.Options{Config: cfg, Log: c.o.log, PoisonBuffers: true}
	c.mu.Lock()
	if n.running != nil {
		c.mu.Unlock()
		return fmt.Errorf("broker %d is running", i)
	}
	if n.disk != nil {
		n.store = c.o.metadata.Open()
		o.FS, o.Store = n.disk, n.store
	}
	c.mu.Unlock()
	b, err := broker.Start(context.Background(), o)
	if err != nil {
		c.closeStore(n)
		return fmt.Errorf("broker %d: %w", i, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n.running, n.addr = b, b.Addrs()[0].String()
	c.known[n.addr] = n
	return nil
}

func (c *Cluster) config() (*config.Broker, error) {
	dir := c.o.dir
	if dir == "" {
		dir = dataDir
	}
	sets := append([]string{"listeners=PLAINTEXT://127.0.0.1:0", "moldau.http.listener=off"}, c.o.config...)
	flags := map[string]string{"data-dir": dir}
	if c.o.logDirs > 1 {
		list := path.Join(filepath.ToSlash(dir), "log")
		for i := 2; i <= c.o.logDirs; i++ {
			list += fmt.Sprintf(",%s/log-%d", filepath.ToSlash(dir), i)
		}
		sets, flags = append(sets, "log.dirs="+list, "metadata.log.dir="+path.Join(filepath.ToSlash(dir), "meta")), nil
	}
	cfg, warnings, err := config.Load(config.Sources{Sets: sets, Flags: flags})
	for _, w := range warnings {
		c.o.log.Log(context.Background(), w.Level, w.Text)
	}
	return cfg, err
}

// Stop stops broker i as an operator does, and demands that it stops without an error.
func (c *Cluster) Stop(i int) {
	c.t.Helper()
	n, b := c.down(i)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute) // no measure of speed
	defer cancel()
	if err := b.Close(ctx); err != nil {
		c.t.Errorf("brokertest: broker %d stopped with an error: %v", i, err)
	}
	c.closeStore(n)
}

// Crash is the power loss of broker i: connections end, and of what was not flushed a
// part is lost, which part is for the seed to say. Nothing is lost with Dir. A broker that is down, because
// the power went while it started, loses what it had written too.
func (c *Cluster) Crash(i int) {
	n := c.node(i)
	c.closeStore(n) // first: nothing that the disk may lose is in the metadata later than this
	c.mu.Lock()
	b := n.running
	n.running = nil
	if n.disk != nil {
		n.disk = n.disk.Crash(c.rnd)
		c.o.metadata.Advance(sessionTTL) // the store does not wait for a process that is gone
	}
	c.mu.Unlock()
	if b != nil {
		// What it could not write any more is what this is about.
		if err := b.Abort(); err != nil {
			c.o.log.Debug("the broker without power ended", "error", err)
		}
	}
}

// sessionTTL is longer than any lease of a broker.
const sessionTTL = time.Minute

// down takes the running broker out of its node.
func (c *Cluster) down(i int) (*node, *broker.Broker) {
	n := c.node(i)
	c.mu.Lock()
	defer c.mu.Unlock()
	b := n.running
	if b == nil {
		c.t.Fatalf("brokertest: broker %d is not running", i)
	}
	n.running = nil
	return n, b
}

func (c *Cluster) closeStore(n *node) {
	c.mu.Lock()
	s := n.store
	n.store = nil
	c.mu.Unlock()
	if s != nil {
		_ = s.Close() // a Sim's handle has nothing to fail
	}
}

// Broker is the running broker i, nil while it is down.
func (c *Cluster) Broker(i int) *broker.Broker {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.node(i).running
}

// Disk is the disk of broker i, another one after each Crash; nil with Dir.
func (c *Cluster) Disk(i int) *vfs.Mem {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.node(i).disk
}

// Addrs are the bootstrap addresses: one of each broker, those of the last start.
func (c *Cluster) Addrs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, n := range c.nodes {
		out = append(out, n.addr)
	}
	return out
}

var errDown = errors.New("the broker is down")

// Dial connects to the broker that has, or once had, the address. It is for kgo.Dialer.
func (c *Cluster) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	c.mu.Lock()
	n := c.known[address]
	var present string
	if n != nil && n.running != nil {
		present = n.addr
	}
	c.mu.Unlock()
	if n == nil {
		return nil, fmt.Errorf("brokertest: no broker ever had the address %s", address)
	}
	if present == "" {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errDown}
	}
	var d net.Dialer
	return d.DialContext(ctx, network, present)
}
