package mission

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl/plain"
)

// The storm comes from a process of its own, so that it is not measured with the healthy producer: this test's program, called again with
// these variables.
const (
	stormKind  = "MOLDAU_TEST_STORM"
	stormAddr  = "MOLDAU_TEST_STORM_ADDR"
	stormTLS   = "MOLDAU_TEST_STORM_TLS"
	stormCount = "MOLDAU_TEST_STORM_COUNT"
)

func init() {
	if kind := os.Getenv(stormKind); kind != "" {
		n, _ := strconv.Atoi(os.Getenv(stormCount))
		(&storm{kind: kind, addr: os.Getenv(stormAddr), tls: os.Getenv(stormTLS) != "", n: n}).run()
		os.Exit(0)
	}
}

// storm is n connections of clients who prove nothing.
type storm struct {
	kind, addr string
	tls        bool
	n          int
	next, bad  atomic.Int64

	mu   sync.Mutex // guards the following
	held []net.Conn // what nobody refers to is closed
}

const (
	stormWorkers = 64
	stormPorts   = 5000 // of one address
)

// run says "there" when n connections have been made, and goes on until its input ends: with those that hold, or with more of those that come and go.
// What it has open then ends with the process.
func (s *storm) run() {
	end := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(end)
	}()
	holds := s.kind == "hold" || s.kind == "half"
	var there sync.Once
	for range stormWorkers {
		go func() {
			for {
				i := int(s.next.Add(1))
				if i >= s.n {
					there.Do(func() { fmt.Println("there", s.bad.Load()) })
					if holds {
						return
					}
				}
				if s.once(i) != nil {
					s.bad.Add(1)
				}
			}
		}()
	}
	<-end
}

// once is one connection.
func (s *storm) once(i int) error {
	d := net.Dialer{Timeout: 2 * time.Minute, // the broker accepts only so many a second
		LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i/stormPorts%200))}}
	nc, err := d.Dial("tcp", s.addr)
	if err != nil {
		return err
	}
	_ = nc.SetDeadline(time.Now().Add(2 * time.Minute))
	_ = nc.(*net.TCPConn).SetLinger(0) // no port is left waiting
	switch s.kind {
	case "hold": // for as long as the process
		s.hold(nc)
		return nil
	case "half":
		s.hold(nc)
		part := []byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}
		if !s.tls {
			part = append(binary.BigEndian.AppendUint32(nil, 4<<10), 0, byte(kmsg.ApiVersions.Int16()), 0, 3)
		}
		_, err = nc.Write(append(part, make([]byte, 400)...))
		return err
	}
	defer nc.Close()
	switch s.kind {
	case "garbage":
		_, err = nc.Write([]byte(strings.Repeat("garbage", 100)))
		_, _ = nc.Read(make([]byte, 100))
	case "password":
		over := nc
		if s.tls {
			over = tls.Client(nc, &tls.Config{InsecureSkipVerify: true})
		}
		hello := kmsg.NewPtrSASLHandshakeRequest()
		hello.Mechanism, hello.Version = "PLAIN", 1
		if err = asked(over, frame(hello)); err != nil {
			return err
		}
		wrong := kmsg.NewPtrSASLAuthenticateRequest()
		wrong.SASLAuthBytes = []byte("\x00alice\x00wrong")
		err = asked(over, frame(wrong))
	}
	return err
}

func (s *storm) hold(nc net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = append(s.held, nc)
}

// startStorm returns when n connections have been made; end waits for the end of the process.
func startStorm(t *testing.T, p *process, kind, addr string, overTLS bool, n int) (end func()) {
	t.Helper()
	cmd := exec.CommandContext(p.ctx, "nice", "-n", "19", os.Args[0])
	cmd.Env = append(os.Environ(), stormKind+"="+kind, stormAddr+"="+addr, stormCount+"="+strconv.Itoa(n))
	if overTLS {
		cmd.Env = append(cmd.Env, stormTLS+"=1")
	}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	if kind == "hold" && strings.TrimSpace(line) != "there 0" {
		t.Errorf("connections that were not made: %s", line)
	}
	return func() {
		in.Close()
		_ = cmd.Wait()
	}
}

// latencies are those of records that a healthy producer sends one by one.
type latencies []time.Duration

func (l latencies) at(q float64) time.Duration {
	slices.Sort(l)
	return l[min(len(l)-1, int(float64(len(l))*q))]
}

// TestStorm: connections of clients who have not authenticated, which hold, come and go, send rubbish or wrong passwords, harm nobody who has.
// CONNECTIONS (default 1500) is how many; with STORM_SECONDS it prints what a producer that is in gets alone and beside the storm, in turns.
func TestStorm(t *testing.T) {
	few := 1500
	if testing.Short() {
		few = 300
	}
	n := number(t, "CONNECTIONS", few)
	long := time.Duration(number(t, "STORM_SECONDS", 0)) * time.Second
	dir := t.TempDir()
	var listeners []string
	addrs := map[string]string{}
	for _, name := range []string{"PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"} {
		addrs[name] = freeAddr(t)
		listeners = append(listeners, name+"://"+addrs[name])
	}
	login := `org.apache.kafka.common.security.plain.PlainLoginModule required user_alice="alice-pw";`
	p := newProcess(t, max(patience, 600*long), dir, freeAddr(t), "moldau.tls=auto", "inter.broker.listener.name=PLAINTEXT", "sasl.enabled.mechanisms=PLAIN",
		"listener.name.sasl_plaintext.plain.sasl.jaas.config="+login, "listener.name.sasl_ssl.plain.sasl.jaas.config="+login)
	p.addr = strings.Join(listeners, ",")
	p.start()
	p.create("t", 1, nil)
	ca, err := os.ReadFile(filepath.Join(dir, "meta", "tls", "ca.pem"))
	must(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := func(listener string) *kgo.Client {
		opts := []kgo.Opt{kgo.SeedBrokers(addrs[listener]), kgo.DefaultProduceTopic("t"), kgo.ProducerLinger(0)}
		if strings.HasSuffix(listener, "SSL") {
			opts = append(opts, kgo.DialTLSConfig(&tls.Config{RootCAs: roots}))
		}
		if strings.HasPrefix(listener, "SASL") {
			opts = append(opts, kgo.SASL(plain.Auth{User: "alice", Pass: "alice-pw"}.AsMechanism()))
		}
		c, err := kgo.NewClient(opts...)
		must(t, err)
		return c
	}
	healthy := client("SASL_SSL")
	defer healthy.Close()
	sent := 0
	send := func(atLeast int, during time.Duration) (l latencies) {
		t.Helper()
		for until := time.Now().Add(during); len(l) < atLeast || time.Now().Before(until); {
			began := time.Now()
			must(t, healthy.ProduceSync(p.ctx, kgo.StringRecord(strconv.Itoa(sent))).FirstErr())
			sent++
			l = append(l, time.Since(began))
			if during > 0 {
				time.Sleep(5 * time.Millisecond)
			}
		}
		return l
	}
	send(100, 0)
	fds, goroutines := p.metric("process_open_fds"), p.metric("go_goroutines")
	memory := p.metric("process_resident_memory_bytes")

	for _, s := range []struct{ kind, listener string }{
		{"hold", "SSL"}, {"half", "SSL"}, {"drop", "SSL"}, {"garbage", "SSL"},
		{"hold", "SASL_PLAINTEXT"}, {"half", "SASL_PLAINTEXT"}, {"drop", "SASL_PLAINTEXT"}, {"garbage", "SASL_PLAINTEXT"}, {"password", "SASL_PLAINTEXT"},
		{"hold", "SASL_SSL"}, {"drop", "SASL_SSL"}, {"garbage", "SASL_SSL"}, {"password", "SASL_SSL"},
	} {
		t.Run(s.kind+" "+s.listener, func(t *testing.T) {
			rounds := 1
			if long > 0 {
				rounds = 3
			}
			var alone, beside, came latencies
			for range rounds {
				alone = append(alone, send(20, long)...)
				end := startStorm(t, p, s.kind, addrs[s.listener], strings.HasSuffix(s.listener, "SSL"), n)
				beside = append(beside, send(20, long)...)
				if s.kind == "hold" || s.kind == "half" {
					if there := p.metric("process_open_fds") - fds; there > 0 {
						t.Logf("%d of %d connections were accepted: %d bytes of resident memory each", there, n, (p.metric("process_resident_memory_bytes")-memory)/there)
					}
				} else { // who comes in the middle of it gets in
					newcomer, began := client(s.listener), time.Now()
					must(t, newcomer.Ping(p.ctx))
					came = append(came, time.Since(began))
					newcomer.Close()
				}
				end()
				p.until("all descriptors are back", func() bool { return p.metric("process_open_fds") <= fds })
				p.until("all goroutines are back", func() bool { return p.metric("go_goroutines") <= goroutines })
			}
			if long > 0 {
				t.Logf("%-8s %-14s alone p50 %v p99 %v, beside the storm p50 %v p99 %v: p99 × %.2f", s.kind, s.listener, alone.at(0.5).Round(10*time.Microsecond), alone.at(0.99).Round(10*time.Microsecond),
					beside.at(0.5).Round(10*time.Microsecond), beside.at(0.99).Round(10*time.Microsecond), float64(beside.at(0.99))/float64(alone.at(0.99)))
				if len(came) > 0 {
					t.Logf("%-8s %-14s who came beside the storm was in after at most %v", s.kind, s.listener, came.at(1).Round(time.Millisecond))
				}
			}
		})
		if t.Failed() {
			return
		}
	}
	for i, v := range p.read("t", 0, 0, sent) {
		if v != strconv.Itoa(i) {
			t.Fatalf("record %d is %q", i, v)
		}
	}
}
