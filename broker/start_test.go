package broker_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"

	"moldau/broker"
	"moldau/broker/brokertest"
	"moldau/internal/config"
	"moldau/internal/vfs"
)

// start starts a broker on dir, unless properties say where, with some properties, and stops it again if it starts.
func start(t *testing.T, dir string, properties ...string) error {
	t.Helper()
	sets := append([]string{"listeners=PLAINTEXT://127.0.0.1:0", "moldau.http.listener=off"}, properties...)
	flags := map[string]string{}
	if dir != "" {
		flags["data-dir"] = dir
	}
	cfg, _, err := config.Load(config.Sources{Sets: sets, Flags: flags})
	must(t, err)
	b, err := broker.Start(within(t), broker.Options{Config: cfg, Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		must(t, b.Abort())
	}
	return err
}

// dataDir is the data directory of a broker that was stopped, with one topic.
func dataDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	c := brokertest.New(t, brokertest.Dir(dir))
	fill(t, c, "orders", 1, 3)
	c.Stop(0)
	return dir
}

// TestStartRefuses: what is wrong with a data directory is one line that says what to do, and nothing in it changes.
func TestStartRefuses(t *testing.T) {
	template := dataDir(t)
	foreign := dataDir(t)
	for name, tt := range map[string]struct {
		spoil      func(t *testing.T, dir string)
		properties []string
		want       []string
	}{
		"another node": {nil, []string{"node.id=7"}, []string{"belongs to node 1, this is node 7", "set node.id=1"}},
		"another cluster's metadata": {func(t *testing.T, dir string) {
			must(t, os.RemoveAll(filepath.Join(dir, "meta")))
			must(t, os.CopyFS(filepath.Join(dir, "meta"), os.DirFS(filepath.Join(foreign, "meta"))))
		}, nil, []string{"belongs to cluster", "but the metastore to cluster", "bring the metadata directory back"}},
		"metadata missing beside data": {func(t *testing.T, dir string) { must(t, os.RemoveAll(filepath.Join(dir, "meta"))) }, nil,
			[]string{"holds 1 partitions, such as orders-0", "bring the metadata directory back", "moldau log adopt"}},
		"damaged meta.properties": {func(t *testing.T, dir string) {
			must(t, os.WriteFile(filepath.Join(dir, "log", "meta.properties"), []byte("node.id=1\n"), 0o600))
		}, nil, []string{"meta.properties is damaged", "no cluster.id", "restore it"}},
		"a file for a directory": {func(t *testing.T, dir string) {
			must(t, os.RemoveAll(filepath.Join(dir, "meta")))
			must(t, os.WriteFile(filepath.Join(dir, "meta"), nil, 0o600))
		}, nil, []string{"metadata directory", "not a directory", "choose another by --data-dir"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			must(t, os.CopyFS(dir, os.DirFS(template)))
			if tt.spoil != nil {
				tt.spoil(t, dir)
			}
			before := tree(t, filepath.Join(dir, "log"))
			oneLine(t, start(t, dir, tt.properties...), tt.want...)
			if after := tree(t, filepath.Join(dir, "log")); after != before {
				t.Errorf("the log dir was:\n%s\nis now:\n%s", before, after)
			}
		})
	}
}

func TestStartRefusesALockedDirectory(t *testing.T) {
	dir := t.TempDir()
	c := brokertest.New(t, brokertest.Dir(dir))
	oneLine(t, start(t, dir), "locked by process "+fmt.Sprint(os.Getpid()), "another broker runs on this directory", "stop it")
	if c.Broker(0).Err() != nil {
		t.Error(c.Broker(0).Err())
	}
	// The log dir alone is locked too.
	oneLine(t, start(t, "", "log.dirs="+filepath.Join(dir, "log"), "metadata.log.dir="+t.TempDir()), "locked by process", "stop it")
}

func TestStartRefusesAReadOnlyDirectory(t *testing.T) {
	if runtime.GOOS == "windows" || os.Getuid() == 0 {
		// Root may write anywhere: the refusal itself is tested on a file system that refuses.
		testReadOnlyFS(t)
		return
	}
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o500))
	t.Cleanup(func() { _ = os.Chmod(dir, 0o700) })
	oneLine(t, start(t, filepath.Join(dir, "data")), "permission denied", "choose another by --data-dir", "make it writable")
}

func testReadOnlyFS(t *testing.T) {
	cfg, _, err := config.Load(config.Sources{Sets: []string{"listeners=PLAINTEXT://127.0.0.1:0", "moldau.http.listener=off"}, Flags: map[string]string{"data-dir": "/data"}})
	must(t, err)
	readOnly := vfs.NewFault(vfs.NewMem(), func(op vfs.Op) error {
		if op.Kind == vfs.OpMkdirAll {
			return os.ErrPermission
		}
		return nil
	})
	_, err = broker.Start(within(t), broker.Options{Config: cfg, Log: slog.New(slog.DiscardHandler), FS: readOnly})
	oneLine(t, err, "permission denied", "choose another by --data-dir", "make it writable")
}

func TestStartRefusesABusyPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	addr := l.Addr().String()
	dir := t.TempDir()
	oneLine(t, start(t, dir, "listeners=PLAINTEXT://"+addr), addr, "in use")
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it left %v in the data directory (%v)", left, err)
	}
	oneLine(t, start(t, dir, "moldau.http.listener="+addr), "moldau.http.listener: "+addr, "choose another port; --http HOST:PORT sets it, --http off leaves it out")
}

// TestRunRefusesAConfiguration: the one line that the command prints names what is wrong, where it was set and what would be right.
func TestRunRefusesAConfiguration(t *testing.T) {
	dir := t.TempDir()
	for set, want := range map[string]string{
		"log.retention.minutes=x": "log.retention.minutes=x (by --set)",
		"moldau.no.such.key=1":    "moldau.no.such.key",
		"num.partition=3":         "num.partitions",
	} {
		err := broker.Run(within(t), broker.RunOptions{LogTo: io.Discard, Sets: []string{set}, Flags: map[string]string{"data-dir": dir}})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--set %s: %v, which should say %q", set, err, want)
		}
	}
	err := broker.Run(within(t), broker.RunOptions{LogTo: io.Discard, ConfigFile: filepath.Join(dir, "absent.properties")})
	oneLine(t, err, "--config", "absent.properties")
	oneLine(t, broker.Run(within(t), broker.RunOptions{LogTo: io.Discard, LogLevel: "loud"}), "--log-level \"loud\"", "debug, info, warn or error")
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("it left %v in the data directory (%v)", left, err)
	}
}

func get(t *testing.T, b *broker.Broker, path string) (int, string) {
	t.Helper()
	r, err := http.Get("http://" + b.HTTPAddrs()[0].String() + path)
	must(t, err)
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	must(t, err)
	return r.StatusCode, string(body)
}

// TestHTTP: /live, /ready and /metrics, of a broker that is well and of one whose disk has failed.
func TestHTTP(t *testing.T) {
	disk := vfs.NewMem()
	c := brokertest.New(t, brokertest.Disk(disk), brokertest.Config("moldau.http.listener=127.0.0.1:0"))
	fill(t, c, "orders", 2, 3)
	if code, body := get(t, c.Broker(0), "/live"); code != 200 || body != "live\n" {
		t.Errorf("/live: %d %q", code, body)
	}
	if code, body := get(t, c.Broker(0), "/ready"); code != 200 || strings.TrimSpace(body) != `{"ready":true}` {
		t.Errorf("/ready: %d %q", code, body)
	}
	metric := func(name string) string {
		code, body := get(t, c.Broker(0), "/metrics")
		if code != 200 {
			t.Fatalf("/metrics: %d %s", code, body)
		}
		m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(body)
		if m == nil {
			t.Errorf("/metrics has no %s", name)
			return ""
		}
		return m[1]
	}
	for name, want := range map[string]string{
		`moldau_ready`: "1", `moldau_partitions{state="online"}`: "2", `moldau_partitions{state="offline"}`: "0",
		`moldau_log_end_offset{partition="1",topic="orders"}`: "3", `moldau_high_watermark{partition="0",topic="orders"}`: "3",
		`moldau_flush_every_records`: "1", `moldau_log_dir_offline{dir="/moldau/log"}`: "0",
	} {
		if got := metric(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if code, _ := get(t, c.Broker(0), "/nothing"); code != 404 {
		t.Errorf("/nothing: %d", code)
	}

	disk.PowerLossAfter(1)
	cl := newClient(t, c, kgo.RecordRetries(1))
	if err := cl.ProduceSync(t.Context(), &kgo.Record{Topic: "orders", Value: []byte("x")}).FirstErr(); err == nil {
		t.Error("a record was acknowledged by a broker whose disk fails")
	}
	code, body := get(t, c.Broker(0), "/ready")
	var state struct {
		Ready   bool
		Reasons []string
	}
	must(t, json.Unmarshal([]byte(body), &state))
	if code != 503 || state.Ready || len(state.Reasons) != 1 || !strings.Contains(state.Reasons[0], "/moldau/log: the log dir is offline") {
		t.Errorf("/ready: %d %s", code, body)
	}
	if code, _ := get(t, c.Broker(0), "/live"); code != 200 {
		t.Errorf("/live: %d", code)
	}
	if got := metric(`moldau_ready`); got != "0" {
		t.Errorf("moldau_ready is %s", got)
	}
	if got := metric(`moldau_log_dir_offline{dir="/moldau/log"}`); got != "1" {
		t.Errorf("moldau_log_dir_offline is %s", got)
	}
	c.Crash(0)
}
