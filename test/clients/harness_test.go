//go:build clients && linux

package clients

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	startPatience = 3 * time.Minute
	stopPatience  = 3 * time.Minute
	toolPatience  = 4 * time.Minute
)

// targetKafka says that Apache Kafka is tested in place of Moldau.
var targetKafka = os.Getenv("MOLDAU_TARGET") == "kafka"

// root is the repository.
var root = sync.OnceValue(func() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
})

// cache is where the install script has put what it installed.
var cache = sync.OnceValue(func() string {
	if dir := os.Getenv("MOLDAU_TEST_CACHE"); dir != "" {
		return dir
	}
	home, err := os.UserHomeDir()
	if err != nil {
		panic(err)
	}
	return filepath.Join(home, ".cache", "moldau-test")
})

// launcher is the script that starts Kafka and its tools.
func launcher() string { return filepath.Join(root(), "test", "clients", "kafka", "kafka") }

// binDir holds the binary under test while the tests run.
var binDir string

// moldau is the binary under test, built once for all tests.
var moldau = sync.OnceValues(func() (string, error) {
	path := filepath.Join(binDir, "moldau")
	build := exec.Command("go", "build", "-o", path, "./cmd/moldau")
	build.Dir = root()
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build ./cmd/moldau: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	if len(os.Args) >= 8 && os.Args[1] == franzMemberArg { // see memberCommand
		a := os.Args[2:]
		if err := franzMember(a[0], a[1], a[2], a[3], a[4], a[5], a[6:]...); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	switch t := os.Getenv("MOLDAU_TARGET"); t {
	case "", "moldau", "kafka":
	default:
		fmt.Fprintf(os.Stderr, "MOLDAU_TARGET=%s: want moldau or kafka\n", t)
		os.Exit(2)
	}
	var err error
	if binDir, err = os.MkdirTemp("", "moldau-clients-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	code := m.Run()
	if err := os.RemoveAll(binDir); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// envInt is the number that an environment variable holds, or the default.
func envInt(t testing.TB, name string, def int64) int64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		t.Fatalf("%s=%s: want a number that is not negative", name, s)
	}
	return n
}

// broker is one broker process, Moldau's or Kafka's, on a port and a directory that it keeps when it is started again.
type broker struct {
	t       testing.TB
	kafka   bool // Apache Kafka, not Moldau
	addr    string
	dir     string   // the data directory given to the broker
	props   []string // key=value, on top of the defaults
	logPath string
	command []string // what to run, Moldau on dir and addr if nil

	cmd    *exec.Cmd     // the running process, nil when there is none
	exited chan struct{} // closed when cmd has ended
}

// startBroker starts a broker on an empty directory and ends it with the test.
func startBroker(t testing.TB, props ...string) *broker {
	t.Helper()
	b := newBroker(t, props...)
	b.start()
	return b
}

// newBroker is startBroker without the start.
func newBroker(t testing.TB, props ...string) *broker {
	t.Helper()
	return newBrokerOf(t, targetKafka, props...)
}

// newBrokerOf is newBroker for the tests that need Apache Kafka beside the broker under test.
func newBrokerOf(t testing.TB, kafka bool, props ...string) *broker {
	t.Helper()
	b := &broker{t: t, kafka: kafka, addr: freeAddr(t), props: props, dir: filepath.Join(t.TempDir(), "data"), logPath: filepath.Join(t.TempDir(), "log")}
	t.Cleanup(func() {
		if b.cmd != nil {
			b.stop()
		}
		b.checkLog()
	})
	return b
}

// logDir is the directory that holds the partition directories.
func (b *broker) logDir() string {
	if b.kafka {
		return filepath.Join(b.dir, "data")
	}
	return filepath.Join(b.dir, "log")
}

func (b *broker) pid() int { return b.cmd.Process.Pid }

// start starts the process and returns when it answers; the result is the time from exec to the first ApiVersions answer.
func (b *broker) start() time.Duration {
	b.t.Helper()
	_, port, err := net.SplitHostPort(b.addr)
	must(b.t, err)
	var cmd *exec.Cmd
	if b.kafka {
		cmd = exec.Command(launcher(), "server", "run", port, b.dir)
		cmd.Env = append(os.Environ(), "KAFKA_PROPERTIES="+strings.Join(b.props, "\n"))
	} else if b.command != nil {
		cmd = exec.Command(b.command[0], b.command[1:]...)
	} else {
		bin, err := moldau()
		must(b.t, err)
		cmd = exec.Command(bin, "server", "--data-dir", b.dir, "--listen", b.addr, "--http", "off")
		for _, p := range b.props {
			cmd.Args = append(cmd.Args, "--set", p)
		}
	}
	log, err := os.OpenFile(b.logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	must(b.t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	ownProcess(cmd)
	before, err := os.Stat(b.logPath)
	must(b.t, err)
	began := time.Now()
	must(b.t, cmd.Start())
	exited := make(chan struct{})
	go func() { _ = cmd.Wait(); close(exited) }()
	b.cmd, b.exited = cmd, exited
	for {
		if answersApiVersions(b.addr) {
			took := time.Since(began)
			b.checkReadyLine(before.Size())
			return took
		}
		select {
		case <-exited:
			b.cmd = nil
			b.t.Fatalf("the broker ended at its start: %v\n%s", cmd.ProcessState, b.logTail())
		case <-time.After(2 * time.Millisecond):
		}
		if time.Since(began) > startPatience {
			b.t.Fatalf("the broker does not answer on %s after %v\n%s", b.addr, startPatience, b.logTail())
		}
	}
}

// checkReadyLine demands the one line that says that the broker is ready, and at which address, in the log from an offset on.
func (b *broker) checkReadyLine(from int64) {
	b.t.Helper()
	if b.kafka {
		return
	}
	for until := time.Now().Add(startPatience); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		text, err := os.ReadFile(b.logPath)
		must(b.t, err)
		for line := range strings.Lines(string(text[from:])) {
			if strings.Contains(line, "ready") && strings.Contains(line, b.addr) {
				return
			}
		}
	}
	b.t.Errorf("the broker answers on %s but has not written that it is ready\n%s", b.addr, b.logTail())
}

// stop ends the process as an operator does and demands that it ends.
func (b *broker) stop() {
	b.t.Helper()
	must(b.t, b.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-b.exited:
		// Kafka's JVM reports the signal as its exit code.
		if code := b.cmd.ProcessState.ExitCode(); code != 0 && !b.kafka {
			b.t.Errorf("the broker ended with %v after SIGTERM\n%s", b.cmd.ProcessState, b.logTail())
		}
	case <-time.After(stopPatience):
		b.t.Errorf("the broker has not ended %v after SIGTERM\n%s", stopPatience, b.logTail())
		_ = b.cmd.Process.Kill()
		<-b.exited
	}
	b.cmd = nil
}

// kill9 ends the process without a warning.
func (b *broker) kill9() {
	b.t.Helper()
	must(b.t, b.cmd.Process.Kill())
	<-b.exited
	b.cmd = nil
}

// mustRun fails the test when the process has ended without being told to.
func (b *broker) mustRun() {
	b.t.Helper()
	select {
	case <-b.exited:
		b.t.Fatalf("the broker has ended: %v\n%s", b.cmd.ProcessState, b.logTail())
	default:
	}
}

func (b *broker) logTail() string {
	text, err := os.ReadFile(b.logPath)
	if err != nil {
		return err.Error()
	}
	return "the broker's log ends:\n" + string(text[max(0, len(text)-8192):])
}

// A broker never writes these.
var badLog = regexp.MustCompile(`(?m)^panic: |^fatal error: |WARNING: DATA RACE|BUG: `)

func (b *broker) checkLog() {
	text, err := os.ReadFile(b.logPath)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			b.t.Error(err)
		}
		return
	}
	if at := badLog.FindIndex(text); at != nil {
		b.t.Errorf("the broker's log says:\n%s", text[at[0]:min(len(text), at[0]+8192)])
	} else if b.t.Failed() {
		b.t.Log(b.logTail())
	}
}

// client is a franz-go client of the broker that is closed with the test.
func (b *broker) client(opts ...kgo.Opt) *kgo.Client {
	b.t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(b.addr), kgo.RetryTimeout(time.Minute)}, opts...)...)
	must(b.t, err)
	b.t.Cleanup(c.Close)
	return c
}

// createTopic creates a topic with key=value configs, by franz-go, and returns when its leaders serve.
func (b *broker) createTopic(name string, partitions int32, configs ...string) {
	b.t.Helper()
	c := b.client()
	defer c.Close()
	set := map[string]*string{}
	for _, kv := range configs {
		k, v, _ := strings.Cut(kv, "=")
		set[k] = &v
	}
	_, err := kadm.NewClient(c).CreateTopic(deadline(b.t, time.Minute), partitions, 1, set, name)
	must(b.t, err)
	for until := time.Now().Add(startPatience); ; time.Sleep(5 * time.Millisecond) {
		ends, err := kadm.NewClient(c).ListEndOffsets(deadline(b.t, time.Minute), name)
		if err == nil {
			err = ends.Error()
		}
		if err == nil && len(ends[name]) == int(partitions) {
			return
		}
		if time.Now().After(until) {
			b.t.Fatalf("topic %s was created and is not served: %v", name, err)
		}
	}
}

func (b *broker) deleteTopic(name string) {
	b.t.Helper()
	c := b.client()
	defer c.Close()
	_, err := kadm.NewClient(c).DeleteTopic(deadline(b.t, time.Minute), name)
	must(b.t, err)
}

// endOffsets is the log end offset of each partition of a topic.
func (b *broker) endOffsets(topic string) map[int32]int64 {
	b.t.Helper()
	c := b.client()
	defer c.Close()
	ends, err := kadm.NewClient(c).ListEndOffsets(deadline(b.t, time.Minute), topic)
	must(b.t, err)
	must(b.t, ends.Error())
	at := map[int32]int64{}
	ends.Each(func(o kadm.ListedOffset) { at[o.Partition] = o.Offset })
	return at
}

// advertises says whether the broker answers to an API at all.
func (b *broker) advertises(key int16) bool {
	b.t.Helper()
	c := dial(b.t, b.addr)
	defer c.Close()
	req := kmsg.NewPtrApiVersionsRequest()
	resp, err := c.ask(req)
	must(b.t, err)
	for _, k := range resp.(*kmsg.ApiVersionsResponse).ApiKeys {
		if k.ApiKey == key {
			return true
		}
	}
	return false
}

// result is what a tool has printed.
type result struct{ stdout, stderr string }

// run runs a command to its end and fails the test when the command fails.
func run(t testing.TB, patience time.Duration, stdin io.Reader, name string, args ...string) result {
	t.Helper()
	r, err := try(t, patience, stdin, name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\nstdout:\n%s\nstderr:\n%s", filepath.Base(name), strings.Join(args, " "), err, clip(r.stdout), clip(r.stderr))
	}
	return r
}

func try(t testing.TB, patience time.Duration, stdin io.Reader, name string, args ...string) (result, error) {
	t.Helper()
	ctx := deadline(t, patience)
	cmd := exec.CommandContext(ctx, name, args...)
	ownProcess(cmd)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	cmd.Env = append(os.Environ(), "NODE_PATH="+cache(), "KAFKAJS_NO_PARTITIONER_WARNING=1", "PYTHONUNBUFFERED=1", "MOLDAU_TEST_CACHE="+cache())
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("not done after %v", patience)
	}
	return result{stdout.String(), stderr.String()}, err
}

// kafkaServer is Apache Kafka on a directory of its own.
type kafkaServer struct {
	*broker
	dir     string
	running bool
}

// startKafka starts one, which runs until it is stopped, or the test ends.
func startKafka(t *testing.T) *kafkaServer {
	t.Helper()
	k := &kafkaServer{broker: &broker{t: t, addr: freeAddr(t)}, dir: filepath.Join(t.TempDir(), "kafka")}
	t.Cleanup(func() {
		if k.running {
			k.stop()
		}
	})
	k.start()
	return k
}

func (k *kafkaServer) start() {
	k.t.Helper()
	_, port, err := net.SplitHostPort(k.addr)
	must(k.t, err)
	run(k.t, startPatience, nil, launcher(), "server", "start", port, k.dir)
	k.running = true
}

func (k *kafkaServer) stop() {
	k.t.Helper()
	k.running = false
	run(k.t, stopPatience, nil, launcher(), "server", "stop", k.dir)
}

// clip keeps a failure readable.
func clip(s string) string {
	const most = 6000
	if len(s) <= most {
		return s
	}
	return s[:most/2] + "\n[…]\n" + s[len(s)-most/2:]
}

// ownProcess makes a child end with the test process, however that ends.
func ownProcess(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func deadline(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// freeAddr is an address of this machine that nobody listens on. It lies below the kernel's ephemeral ports, so that no outgoing
// connection takes it while the broker is down.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 200 {
		addr := fmt.Sprintf("127.0.0.1:%d", 12000+nextPort())
		if l, err := net.Listen("tcp", addr); err == nil {
			must(t, l.Close())
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

var nextPort = func() func() int {
	var mu sync.Mutex // guards n
	n := os.Getpid() % 8000
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		n += 2 // Kafka's controller listens on the next one
		return n % 16000
	}
}()
