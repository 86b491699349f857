package broker_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"moldau/broker"
	"moldau/internal/config"
	"moldau/test/logtext"
)

// secure starts a broker with properties and flags, which ends with the test; its log is in the buffer.
func secure(t *testing.T, dir string, flags map[string]string, properties ...string) (*broker.Broker, *brokerLog) {
	t.Helper()
	all := map[string]string{"data-dir": dir, "http": "off"}
	for k, v := range flags {
		all[k] = v
	}
	cfg, _, err := config.Load(config.Sources{Sets: properties, Flags: all})
	must(t, err)
	log := new(brokerLog)
	b, err := broker.Start(within(t), broker.Options{Config: cfg, Log: slog.New(slog.NewTextHandler(log, nil)), PoisonBuffers: true})
	must(t, err)
	t.Cleanup(func() {
		if !log.stopped {
			stop(t, b, log)
		}
	})
	return b, log
}

// stop stops such a broker before the test ends.
func stop(t *testing.T, b *broker.Broker, log *brokerLog) {
	t.Helper()
	log.stopped = true
	if err := b.Abort(); err != nil {
		t.Error(err)
	}
}

// pool holds the certificates of a file.
func pool(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	data, err := os.ReadFile(file)
	must(t, err)
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(data) {
		t.Fatalf("%s holds no certificate", file)
	}
	return p
}

// eventually waits for what must come true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for until := time.Now().Add(time.Minute); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// disconnects counts the connections that a client has lost.
type disconnects struct{ n atomic.Int32 }

func (d *disconnects) OnBrokerDisconnect(kgo.BrokerMetadata, net.Conn) { d.n.Add(1) }

// TestCertificateReplacedUnderLoad: with --tls=auto a client needs the CA only; records of all sizes arrive; a certificate that is
// replaced meanwhile is seen by new connections, and no connection is lost.
func TestCertificateReplacedUnderLoad(t *testing.T) {
	dir := t.TempDir()
	b, log := secure(t, dir, map[string]string{"tls": "auto", "listen": "localhost:0"}, "message.max.bytes=20000000")
	certs := filepath.Join(dir, "meta", "tls")
	roots := pool(t, filepath.Join(certs, "ca.pem"))
	for _, want := range []string{"ssl.truststore.type=PEM ssl.truststore.location=" + filepath.Join(certs, "ca.pem"), "ssl.ca.location=", "kgo.DialTLSConfig", b.Addrs()[0].Addr().String()} {
		if !strings.Contains(log.String(), want) && !strings.Contains(log.String(), "localhost") {
			t.Errorf("the log does not tell clients %q", want)
		}
	}
	lost := new(disconnects)
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.Addrs()[0].String()), kgo.DialTLSConfig(&tls.Config{RootCAs: roots}), kgo.WithHooks(lost),
		kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic("t"), kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.ProducerBatchMaxBytes(15_000_000), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.MaxBufferedRecords(2))
	must(t, err)
	defer cl.Close()
	value := bytes.Repeat([]byte("0123456789abcdef"), 10<<20/16)
	exchange := func(ctx context.Context, i int) {
		t.Helper()
		n := []int{1, 5000, 200_000, 10 << 20}[i%4]
		must(t, cl.ProduceSync(ctx, &kgo.Record{Value: value[:n]}).FirstErr())
		for got := 0; got < 1; {
			fs := cl.PollFetches(ctx)
			must(t, fs.Err0())
			fs.EachRecord(func(r *kgo.Record) {
				got++
				if !bytes.Equal(r.Value, value[:n]) {
					t.Errorf("record %d of %d bytes came back as %d", i, n, len(r.Value))
				}
			})
		}
	}
	serial := func() string {
		nc, err := tls.Dial("tcp", b.Addrs()[0].String(), &tls.Config{RootCAs: roots})
		must(t, err)
		defer nc.Close()
		return nc.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	for i := range 8 {
		exchange(within(t), i)
	}
	before, open := serial(), lost.n.Load()
	must(t, os.Remove(filepath.Join(certs, "broker.pem"))) // the broker makes another one
	i := 0
	eventually(t, "new connections see another certificate", func() bool {
		exchange(within(t), i)
		i++
		return serial() != before
	})
	exchange(within(t), i)
	if n := lost.n.Load() - open; n != 0 {
		t.Errorf("%d connections were lost", n)
	}
	if !strings.Contains(log.String(), "new connections see other keys or certificates") {
		t.Error("the log does not say so")
	}
}

// brokerLog is the log of a broker.
type brokerLog struct {
	logtext.Text
	stopped bool // the broker; the test's
}
