package mission

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kversion"

	"moldau/test/logtext"
)

// moldau is the program under test.
var moldau string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "moldau-mission-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	moldau = filepath.Join(dir, "moldau")
	if runtime.GOOS == "windows" {
		moldau += ".exe"
	}
	build := exec.Command("go", "build", "-o", moldau, "./cmd/moldau")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build ./cmd/moldau: %v\n%s", err, out)
		os.Exit(2)
	}
	code := m.Run()
	_ = os.RemoveAll(dir) // the system's temporary directory is cleaned by the system
	os.Exit(code)
}

// patience bounds what may hang. It is no measure of speed.
const patience = 5 * time.Minute

// process is one broker process, on a directory and an address that it keeps.
type process struct {
	t    *testing.T
	ctx  context.Context
	dir  string
	addr string
	http string // "off", or where it is
	sets []string
	most int // files that it may have open; 0: as many as the test may

	cmd  *exec.Cmd
	log  logtext.Text
	done chan struct{} // closed when the log has ended
}

// freeAddr is an address that nobody listens on. It lies below the ports that the kernel gives out, so that nobody takes it while the
// broker is down.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 200 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 12000+rand.IntN(20000)))
		if err == nil {
			must(t, l.Close())
			return l.Addr().String()
		}
	}
	t.Fatal("no free port")
	return ""
}

// server starts a broker on an empty directory and a free port, and ends it with the test.
func server(t *testing.T) *process {
	t.Helper()
	return serverIn(t, t.TempDir(), "off")
}

// serverIn is server on a directory, and with HTTP on an address.
func serverIn(t *testing.T, dir, http string) *process {
	t.Helper()
	return serverFor(t, patience, dir, http)
}

// serverFor is serverIn for so long at most, and with properties, KEY=VALUE.
func serverFor(t *testing.T, long time.Duration, dir, http string, sets ...string) *process {
	t.Helper()
	p := newProcess(t, long, dir, http, sets...)
	p.start()
	return p
}

// newProcess is serverFor without a start.
func newProcess(t *testing.T, long time.Duration, dir, http string, sets ...string) *process {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), long)
	p := &process{t: t, ctx: ctx, dir: dir, addr: freeAddr(t), http: http, sets: sets}
	t.Cleanup(func() {
		if p.cmd != nil {
			p.kill()
		}
		cancel()
		if t.Failed() {
			t.Logf("the broker's log:\n%s", p.log.String())
		}
	})
	return p
}

// start returns when the broker has said that it is ready.
func (p *process) start() {
	p.t.Helper()
	args := []string{"server", "--data-dir", p.dir, "--listen", p.addr, "--http", p.http}
	for _, s := range p.sets {
		args = append(args, "--set", s)
	}
	cmd := exec.CommandContext(p.ctx, moldau, args...)
	if p.most > 0 {
		cmd = exec.CommandContext(p.ctx, "sh", append([]string{"-c", `ulimit -n "$0" && exec "$@"`, strconv.Itoa(p.most), moldau}, args...)...)
	}
	out, err := cmd.StderrPipe()
	must(p.t, err)
	must(p.t, cmd.Start())
	p.cmd, p.done = cmd, make(chan struct{})
	ready := make(chan [2]string, 1)
	go func(done chan struct{}) {
		defer close(done)
		defer close(ready)
		lines := bufio.NewReader(out)
		for {
			line, err := lines.ReadString('\n')
			_, _ = p.log.Write([]byte(line))
			var said struct {
				Msg       string
				Listeners []string
				HTTP      string
			}
			if json.Unmarshal([]byte(line), &said) == nil && said.Msg == "ready" && len(said.Listeners) > 0 {
				ready <- [2]string{strings.TrimPrefix(said.Listeners[0], "PLAINTEXT://"), strings.TrimPrefix(said.HTTP, "http://")}
			}
			if err != nil {
				return
			}
		}
	}(p.done)
	addrs, ok := <-ready
	if !ok {
		_ = p.cmd.Wait() // its log says why
		p.cmd = nil
		p.t.Fatalf("the broker ended before it was ready:\n%s", p.log.String())
	}
	p.addr = addrs[0]
	if addrs[1] != "" {
		p.http = addrs[1]
	}
}

// kill ends the process without a warning.
func (p *process) kill() {
	p.t.Helper()
	must(p.t, p.cmd.Process.Kill())
	<-p.done
	_ = p.cmd.Wait() // it was killed
	p.cmd = nil
}

// stop ends the process as an operator does.
func (p *process) stop() {
	p.t.Helper()
	if runtime.GOOS == "windows" {
		p.kill() // there is no signal to send
		return
	}
	must(p.t, p.cmd.Process.Signal(os.Interrupt))
	<-p.done
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("the broker ended with %v", err)
	}
	p.cmd = nil
}

func (p *process) client(opts ...kgo.Opt) *kgo.Client {
	p.t.Helper()
	c, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(p.addr), kgo.MetadataMinAge(10 * time.Millisecond)}, opts...)...)
	must(p.t, err)
	p.t.Cleanup(c.Close)
	return c
}

func (p *process) create(topic string, partitions int32, configs map[string]string) kadm.TopicID {
	p.t.Helper()
	set := map[string]*string{}
	for k, v := range configs {
		set[k] = &v
	}
	adm := kadm.NewClient(p.client())
	r, err := adm.CreateTopic(p.ctx, partitions, 1, set, topic)
	must(p.t, err)
	eventually(p.t, p.ctx, topic+"'s leaders have heard of it", func() bool {
		ends, err := adm.ListEndOffsets(p.ctx, topic)
		return err == nil && ends.Error() == nil && len(ends[topic]) == int(partitions)
	})
	return r.ID
}

// read is the values of the first n records of a partition from an offset on.
func (p *process) read(topic string, partition int32, from int64, n int) []string {
	p.t.Helper()
	c := p.client(kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(from)}}))
	defer c.Close()
	var out []string
	for len(out) < n {
		fs := c.PollRecords(p.ctx, n-len(out))
		must(p.t, fs.Err())
		fs.EachRecord(func(r *kgo.Record) {
			if r.Offset != from+int64(len(out)) {
				p.t.Errorf("offset %d comes after %d records from %d on", r.Offset, len(out), from)
			}
			out = append(out, string(r.Value))
		})
	}
	return out
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// upTo are versions that end at a version of one API.
func upTo(key, version int16) *kversion.Versions {
	v := kversion.Stable()
	v.SetMaxKeyVersion(key, version)
	return v
}
