package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kbin"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// The two brokers, as they are named in the report.
const (
	moldau = "Moldau"
	kafka  = "Kafka"
)

// pageCacheOnly is Kafka's own default.
const pageCacheOnly = "log.flush.interval.messages=9223372036854775807"

const (
	startPatience = 15 * time.Minute // bounds what may hang; Kafka takes minutes after kill -9 where a disk is slow
	stopPatience  = 5 * time.Minute
)

// broker is one broker process, on a port and a directory that it keeps when it is started again.
type broker struct {
	kind    string
	mode    mode
	root    string // of the repository
	binary  string
	addr    string
	dir     string
	logPath string

	cmd    *exec.Cmd // nil when none runs
	exited chan struct{}
}

func build(ctx context.Context, root, dir string) (string, error) {
	path := filepath.Join(dir, "moldau")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", path, "./cmd/moldau")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/moldau: %w\n%s", err, out)
	}
	return path, nil
}

func kafkaLauncher(root string) string {
	return filepath.Join(root, "test", "clients", "kafka", "kafka")
}

// The ports lie below those that the kernel gives to outgoing connections, so that none of them takes one before the broker does or
// while it is down. Kafka's launcher puts the controller on the next port.
const (
	lowestPort  = 12000
	highestPort = 32000
)

// freeAddress is one where a broker can listen, and Kafka's controller too.
func freeAddress() (string, error) {
	var err error
	for range 100 {
		port := lowestPort + 2*rand.IntN((highestPort-lowestPort)/2)
		var l [2]net.Listener
		for i := range l {
			if l[i], err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+i)); err != nil {
				break
			}
			defer l[i].Close()
		}
		if err == nil {
			return l[0].Addr().String(), nil
		}
	}
	return "", err
}

// newBroker chooses a port. The directory must not exist.
func (s *settings) newBroker(kind string, m mode, dir string) (*broker, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return &broker{kind: kind, mode: m, root: s.root, binary: s.binary, addr: address, dir: filepath.Join(dir, "data"),
		logPath: filepath.Join(dir, "log")}, nil
}

func (b *broker) String() string {
	if b.kind == kafka {
		return kafka
	}
	return fmt.Sprintf("%s (%s)", b.kind, b.mode)
}

func (b *broker) command() (*exec.Cmd, error) {
	_, port, err := net.SplitHostPort(b.addr)
	if err != nil {
		return nil, err
	}
	if b.kind == kafka {
		return exec.Command(kafkaLauncher(b.root), "server", "run", port, b.dir), nil
	}
	cmd := exec.Command(b.binary, "server", "--data-dir", b.dir, "--listen", b.addr, "--http", "off")
	cmd.Args = append(cmd.Args, serverArgs[b.mode]...)
	return cmd, nil
}

// start starts the process; the result is the time from exec to the first answer.
func (b *broker) start(ctx context.Context) (time.Duration, error) {
	cmd, err := b.command()
	if err != nil {
		return 0, err
	}
	log, err := os.OpenFile(b.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	tieToParent(cmd)
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	b.cmd, b.exited = cmd, exited
	for {
		if answers(b.addr) {
			return time.Since(began), nil
		}
		select {
		case <-exited:
			b.cmd = nil
			return 0, fmt.Errorf("%s ended at its start: %v\n%s", b, cmd.ProcessState, b.logTail())
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(2 * time.Millisecond):
		}
		if time.Since(began) > startPatience {
			return 0, fmt.Errorf("%s does not answer after %s\n%s", b, startPatience, b.logTail())
		}
	}
}

// stop ends the process, the hard way when it does not end by itself.
func (b *broker) stop() error {
	if b.cmd == nil {
		return nil
	}
	if err := b.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return errors.Join(err, b.kill())
	}
	select {
	case <-b.exited:
		b.cmd = nil
		return nil
	case <-time.After(stopPatience):
		return errors.Join(fmt.Errorf("%s did not end within %s of SIGTERM", b, stopPatience), b.kill())
	}
}

// kill is kill -9.
func (b *broker) kill() error {
	if b.cmd == nil {
		return nil
	}
	if err := b.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-b.exited
	b.cmd = nil
	return nil
}

// gone is the reason why the process no longer runs, nil when it does.
func (b *broker) gone() error {
	select {
	case <-b.exited:
		return fmt.Errorf("%s has ended: %v\n%s", b, b.cmd.ProcessState, b.logTail())
	default:
		return nil
	}
}

func (b *broker) logTail() string {
	text, err := os.ReadFile(b.logPath)
	if err != nil {
		return err.Error()
	}
	return "its log ends:\n" + string(text[max(0, len(text)-4096):])
}

// answers says whether a broker at address answers ApiVersions.
func answers(address string) bool {
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return false
	}
	req := kmsg.NewPtrApiVersionsRequest()
	if _, err := c.Write(kmsg.NewRequestFormatter().AppendRequest(nil, req, 1)); err != nil {
		return false
	}
	buf := make([]byte, 16)
	if n, err := c.Read(buf); err != nil || n < 10 {
		return false
	}
	r := kbin.Reader{Src: buf[4:]}
	return r.Int32() == 1 && r.Int16() == 0
}

const startTopic = "start"

// firstRecord creates the topic where it is not there and returns when a record is acknowledged.
func firstRecord(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.DefaultProduceTopic(startTopic), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(10*time.Millisecond), kgo.RetryBackoffFn(func(int) time.Duration { return 2 * time.Millisecond }),
		kgo.ProducerLinger(0), kgo.UnknownTopicRetries(-1), kgo.DisableClientMetrics())
	if err != nil {
		return err
	}
	defer cl.Close()
	created, err := kadm.NewClient(cl).CreateTopics(ctx, 1, 1, nil, startTopic)
	if err != nil {
		return err
	}
	if err := created[startTopic].Err; err != nil && !strings.Contains(err.Error(), "EXISTS") {
		return err
	}
	return cl.ProduceSync(ctx, kgo.StringRecord(strconv.FormatInt(time.Now().UnixNano(), 10))).FirstErr()
}
