package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"moldau/broker/brokertest"
	"moldau/internal/vfs"
)

// patience is how long a step may take before it counts as stuck. It is no measure of speed.
const patience = 2 * time.Minute

// run is one seed: a broker under load loses its power several times. The error is a *lossError if a promise was broken.
func run(t testing.TB, seed uint64, disk vfs.MemOptions, config ...string) (figures, error) {
	rnd := rand.New(rand.NewPCG(seed, 0))
	log := &tail{}
	t2 := &scope{TB: t}
	defer t2.end()
	s := &scenario{
		seed: seed, rnd: rnd,
		cluster: brokertest.New(t2, brokertest.Seed(seed), brokertest.LogDirs(1+int(seed%3)), brokertest.Config(config...),
			brokertest.Log(slog.New(slog.NewTextHandler(log, nil)))),
	}
	s.cluster.Disk(0).SetOptions(disk) // not before the first start: a disk without a broker's identity has nothing to lose
	s.model.init()
	err := s.play()
	if err != nil {
		err = fmt.Errorf("%w\nthe broker's log ends:\n%s", err, log)
	}
	s.figures.runs = 1
	return s.figures, err
}

// scope runs what a test is to do at its end at the end of one seed.
type scope struct {
	testing.TB
	cleanups []func()
}

func (s *scope) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *scope) end() {
	for len(s.cleanups) > 0 {
		last := len(s.cleanups) - 1
		f := s.cleanups[last]
		s.cleanups = s.cleanups[:last]
		f()
	}
}

// tail keeps the end of a log.
type tail struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

func (w *tail) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.buf.Len() > 1<<16 {
		w.buf.Next(w.buf.Len() / 2)
	}
	return w.buf.Write(p)
}

func (w *tail) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.buf.String()
	return s[max(0, len(s)-8192):]
}

// scenario is the state of one run.
type scenario struct {
	seed    uint64
	rnd     *rand.Rand // the main goroutine's
	cluster *brokertest.Cluster
	model   model
	figures figures
}

func (s *scenario) client(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(s.cluster.Addrs()...), kgo.Dialer(s.cluster.Dial),
		kgo.MetadataMinAge(10 * time.Millisecond), kgo.RetryTimeout(patience), kgo.RequestRetries(1 << 20),
		kgo.AlwaysRetryEOF(), // a connection that ends at its first request is a broker that has just lost its power
		kgo.RetryBackoffFn(func(int) time.Duration { return 3 * time.Millisecond }),
	}, opts...)...)
}

// play is the run: load, cuts, and the reckoning.
func (s *scenario) play() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	admin, err := s.client()
	if err != nil {
		return err
	}
	defer admin.Close()
	adm := &administrator{client: kadm.NewClient(admin), model: &s.model, rnd: rand.New(rand.NewPCG(s.seed, 1))}
	for range 1 + s.rnd.IntN(3) {
		if err := adm.create(ctx); err != nil {
			return err
		}
	}
	consumer, err := newConsumer(s)
	if err != nil {
		return err
	}
	load, stop := context.WithCancel(ctx)
	defer stop()
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer cancel()
	tasks.Go(func() { consumer.run(ctx) })
	var producers []*producer
	for id := range 1 + s.rnd.IntN(2) {
		p, err := newProducer(s, id, id > 0 && s.seed%2 == 0)
		if err != nil {
			return err
		}
		defer p.client.Close()
		producers = append(producers, p)
	}
	var working sync.WaitGroup
	for _, p := range producers {
		working.Go(func() { p.run(ctx, load) })
	}
	working.Go(func() { adm.run(ctx, load) })
	for range 2 + s.rnd.IntN(4) {
		if err := s.cut(ctx); err != nil {
			return err
		}
		if err := s.verify(ctx); err != nil {
			return err
		}
	}
	s.awaitAcks(ctx, 50)
	stop()
	working.Wait()
	if err := s.model.failure(); err != nil {
		return err
	}
	if err := s.verify(ctx); err != nil {
		return err
	}
	return s.reckon(ctx, consumer)
}

// awaitAcks waits until n records more are acknowledged.
func (s *scenario) awaitAcks(ctx context.Context, n int) {
	want := s.model.acks() + n
	for s.model.acks() < want && s.model.failure() == nil && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
}

// cut takes the power away, at some moment under load or in the middle of a mutation of the disk, and starts the broker again.
// Now and then the power goes while it starts, too.
func (s *scenario) cut(ctx context.Context) error {
	s.awaitAcks(ctx, s.rnd.IntN(60))
	if s.rnd.IntN(4) > 0 {
		s.cluster.Disk(0).PowerLossAfter(1 + s.rnd.IntN(60))
		for until := time.Now().Add(100 * time.Millisecond); time.Now().Before(until); time.Sleep(time.Millisecond) {
			if s.dead() {
				s.figures.struck++
				break
			}
		}
	}
	s.cluster.Crash(0)
	s.figures.cuts++
	for s.rnd.IntN(3) == 0 {
		s.cluster.Disk(0).PowerLossAfter(1 + s.rnd.IntN(40))
		if err := s.cluster.Start(0); err != nil && !errors.Is(err, vfs.ErrPowerLoss) {
			return fmt.Errorf("the broker does not start: %w", err)
		} else if err != nil {
			s.figures.struckStart++
		}
		s.cluster.Crash(0)
		s.figures.cuts++
	}
	if err := s.cluster.Start(0); err != nil {
		return fmt.Errorf("the broker does not start: %w", err)
	}
	return nil
}

// dead says that the power is gone.
func (s *scenario) dead() bool {
	_, err := s.cluster.Disk(0).Stat("/")
	return errors.Is(err, vfs.ErrPowerLoss)
}

// reckon reads everything anew and compares it with what was acknowledged and seen.
func (s *scenario) reckon(ctx context.Context, c *consumer) error {
	ends, err := s.ends(ctx)
	if err != nil {
		return err
	}
	all, err := s.readAll(ctx, ends)
	if err != nil {
		return err
	}
	for at, list := range all {
		s.figures.read += len(list)
		if err := s.model.compare(at, list); err != nil {
			return err
		}
	}
	// The consumer that lived through it all gets to the end too.
	for !c.has(ends) && ctx.Err() == nil && s.model.failure() == nil {
		time.Sleep(time.Millisecond)
	}
	if err := s.model.failure(); err != nil {
		return err
	}
	if !c.has(ends) {
		return fmt.Errorf("the consumer is stuck: the log ends are %v", ends)
	}
	for at, seen := range c.all() {
		for i, sum := range seen {
			if all[at][i].sum != sum {
				return lossf("%s offset %d is not what a consumer saw there", at, i)
			}
		}
	}
	s.figures.acked = s.model.acks()
	s.figures.created, s.figures.deleted, s.figures.altered = s.model.counts()
	return s.countSegments()
}

// countSegments counts what rolled, on the disk.
func (s *scenario) countSegments() error {
	disk := s.cluster.Disk(0)
	dirs, err := disk.ReadDir("/moldau/log")
	if err != nil {
		return err
	}
	for _, d := range dirs {
		if !d.IsDir {
			continue
		}
		files, err := disk.ReadDir("/moldau/log/" + d.Name)
		if err != nil {
			continue // deleted meanwhile
		}
		for _, f := range files {
			if strings.HasSuffix(f.Name, ".log") && f.Name != "00000000000000000000.log" {
				s.figures.segments++
			}
		}
	}
	return nil
}
