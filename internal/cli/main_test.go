package cli

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"moldau/broker"
	"moldau/internal/config"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"moldau": func() {
			app := System()
			app.RunServer = func(ctx context.Context, f ServerFlags) error { return broker.Run(ctx, runOptions(f)) }
			app.AddUser = func(ctx context.Context, ask AddUser, f ServerFlags) error {
				return broker.AddUser(ctx, broker.AddUserOptions{RunOptions: runOptions(f), Name: ask.Name, Password: ask.Password, Mechanisms: ask.Mechanisms, Iterations: ask.Iterations})
			}
			os.Exit(Main(app, os.Args[1:]))
		},
	})
}

// fakeServer shows what the command line became, and then serves nobody.
func fakeServer(ctx context.Context, f ServerFlags) error {
	if f.DataDir == "/cannot" {
		return &failure{cause: "the directory cannot be written", value: f.DataDir}
	}
	return nil
}

// fakeAdopt has adopted whatever it is asked for.
func fakeAdopt(_ context.Context, ask Adopt, _ ServerFlags) (Adopted, error) {
	done := Adopted{LogDirs: []string{"/data/log"}, DryRun: ask.DryRun, Known: 1}
	switch ask.Path {
	case "/known":
	case "/damaged":
		return done, &failure{cause: "the file is damaged", value: "/data/log/orders-0/00000000000000000000.log"}
	default:
		done.Topics = []AdoptedTopic{{
			Name: "orders", ID: "bW9sZGF1LWNsaWVudHMtdA", Partitions: 3, Configs: map[string]string{"retention.ms": "-1"},
			Logs: []AdoptedPartition{
				{Partition: 0, Dir: "/data/log/orders-0", StartOffset: 10, EndOffset: 1000, Bytes: 4096},
				{Partition: 2, Dir: "/data/log/orders-2", EndOffset: 7, Bytes: 300, SetAsideBytes: 17},
			},
		}}
		if ask.DryRun {
			done.Topics[0].ID, done.Topics[0].NewID = "", true
		}
	}
	return done, nil
}

func TestAdoptSaysWhatItDid(t *testing.T) {
	for args, want := range map[string]string{
		"log adopt /data/log": "TOPIC   ID                      PARTITION  OFFSETS     SIZE     NOTE\n" +
			"orders  bW9sZGF1LWNsaWVudHMtdA          0  10 to 1000  4.0 KiB\n" +
			"orders  bW9sZGF1LWNsaWVudHMtdA          2  0 to 7      300 B    torn at the end: 17 B set aside\n" +
			"orders  bW9sZGF1LWNsaWVudHMtdA          -  -           -        1 partition without a directory, empty\n" +
			"adopted 1 topic with 2 directories; 1 directory known already\n",
		"log adopt --dry-run /data/log": "TOPIC   ID     PARTITION  OFFSETS     SIZE     NOTE\n" +
			"orders  (new)          0  10 to 1000  4.0 KiB\n" +
			"orders  (new)          2  0 to 7      300 B    torn at the end: 17 B set aside\n" +
			"orders  (new)          -  -           -        1 partition without a directory, empty\n" +
			"would adopt 1 topic with 2 directories; 1 directory known already\n",
		"log adopt /known":         "nothing to adopt in /data/log: 1 directory known already\n",
		"log adopt -o json /known": "{\n  \"logDirs\": [\n    \"/data/log\"\n  ],\n  \"dryRun\": false,\n  \"knownDirectories\": 1,\n  \"topics\": []\n}\n",
	} {
		if code, out, errs := run(t, strings.Fields(args)...); code != 0 || out != want || errs != "" {
			t.Errorf("moldau %s: exit %d, %q\n%swant\n%s", args, code, errs, out, want)
		}
	}
	if code, out, errs := run(t, "log", "adopt", "/damaged"); code != 1 || out != "" || !strings.Contains(errs, "the file is damaged") {
		t.Errorf("exit %d %q %q", code, out, errs)
	}
}

// runOptions is what cmd/moldau makes of the flags.
func runOptions(f ServerFlags) broker.RunOptions {
	flags := map[string]string{}
	for name, value := range map[string]string{"data-dir": f.DataDir, "listen": f.Listen, "http": f.HTTP, "tls": f.TLS} {
		if value != "" {
			flags[name] = value
		}
	}
	return broker.RunOptions{ConfigFile: f.ConfigFile, Env: os.Environ(), Sets: f.Set, Flags: flags,
		LogLevel: f.LogLevel, LogFormat: f.LogFormat, LogTo: os.Stderr}
}

// startBroker is a broker in this process, on an empty directory, until the test ends.
func startBroker(t *testing.T, sets ...string) (bootstrap, http string) {
	t.Helper()
	conf, _, err := config.Load(config.Sources{Sets: sets, Flags: map[string]string{"listen": "127.0.0.1:0", "http": "127.0.0.1:0", "data-dir": t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := broker.Start(t.Context(), broker.Options{Config: conf, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return b.Addrs()[0].String(), b.HTTPAddrs()[0].String()
}

// TestAccessCommands runs against a broker with access control, where everybody is a super user.
func TestAccessCommands(t *testing.T) {
	address, _ := startBroker(t, "authorizer.class.name="+config.StandardAuthorizer, "super.users=User:ANONYMOUS;User:root")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/access",
		Setup: func(e *testscript.Env) error {
			e.Setenv("MOLDAU_BOOTSTRAP_SERVERS", address)
			return nil
		},
	})
}

// TestCommandsAgainstABroker runs against the broker of this repository, or with
// MOLDAU_TEST_BOOTSTRAP against any other, such as Apache Kafka.
func TestCommandsAgainstABroker(t *testing.T) { runScripts(t, "testdata") }

// TestCommandsWithABrokerOfTheirOwn has the scripts that others would notice: a quota of a default limits every client.
func TestCommandsWithABrokerOfTheirOwn(t *testing.T) { runScripts(t, "testdata/alone") }

// runScripts runs the scripts of a directory against one broker, all at once.
func runScripts(t *testing.T, dir string) {
	t.Helper()
	address, http := os.Getenv("MOLDAU_TEST_BOOTSTRAP"), ""
	if address == "" {
		address, http = startBroker(t)
	}
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(e *testscript.Env) error {
			e.Setenv("MOLDAU_BOOTSTRAP_SERVERS", address)
			e.Setenv("HTTP", http)
			return nil
		},
		Condition: func(name string) (bool, error) {
			if name != "moldau" { // whether the broker is ours
				return false, fmt.Errorf("unknown condition %s", name)
			}
			return http != "", nil
		},
	})
}

func TestCommandsWithoutABroker(t *testing.T) {
	kraft, err := filepath.Abs("../config/testdata/kafka-4.3.1/server.properties")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{Dir: "testdata/offline", Setup: func(e *testscript.Env) error {
		e.Setenv("KRAFT", kraft)
		return nil
	}})
}

// run is Main with its output in memory.
func run(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	app := App{
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: &errs, Env: func(string) string { return "" }, Now: time.Now,
		RunServer: fakeServer,
		AdoptDir:  fakeAdopt,
	}
	code = Main(app, args)
	return code, out.String(), errs.String()
}

func TestHelpOfEveryCommandIsTheGoldenOne(t *testing.T) {
	var all strings.Builder
	app := App{Stdin: strings.NewReader(""), Stdout: &all, Stderr: &all, RunServer: fakeServer,
		AdoptDir: fakeAdopt}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		path := strings.Fields(c.CommandPath())[1:]
		code, out, errs := run(t, append(path, "--help")...)
		if code != 0 || errs != "" {
			t.Errorf("%v --help: exit %d, %q on standard error", path, code, errs)
		}
		all.WriteString("$ " + c.CommandPath() + " --help\n" + out + "\n")
		if c.Runnable() && !c.HasSubCommands() && !strings.Contains(out, "Examples:") {
			t.Errorf("%v has no example", path)
		}
		for _, sub := range c.Commands() {
			if sub.IsAvailableCommand() {
				walk(sub)
			}
		}
	}
	walk(newRoot(&app))
	golden := filepath.Join("testdata", "help.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(all.String()), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if all.String() != strings.ReplaceAll(string(want), "\r\n", "\n") {
		t.Error("the help differs from testdata/help.golden: look at it, then go test -update")
	}
}

func TestErrorsAreOneLineWithTheRightExitCode(t *testing.T) {
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"topc list", 2, "moldau: unknown command (topc): did you mean moldau topic?\n"},
		{"topic lst", 2, "moldau: unknown command (lst): did you mean moldau topic list?\n"},
		{"xyzzy", 2, "moldau: unknown command (xyzzy): see moldau --help\n"},
		{"topic list --intrnal", 2, "moldau: unknown flag (--intrnal): did you mean --internal?\n"},
		{"topic list --colour", 2, "moldau: unknown flag (--colour): see moldau topic list --help\n"},
		{"topic list extra", 2, "moldau: topic list takes no arguments (extra): see moldau topic list --help\n"},
		{"topic create", 2, "moldau: topic create needs one topic: see moldau topic create --help\n"},
		{"topic create a -p x", 2, "moldau: --partitions cannot be \"x\": a whole number\n"},
		{"topic create a -p 0", 2, "moldau: --partitions 0: a topic has at least 1\n"},
		{"topic create a --set x", 2, "moldau: --set \"x\" has no value: write key=value\n"},
		{"topic delete a", 2, "moldau: this would delete a with all records: say --yes to do so without a question\n"},
		{"topic list -o yaml", 2, "moldau: --output \"yaml\" is unknown: text or json\n"},
		{"consume a --offset soon", 2, "moldau: --offset \"soon\" is no position: start, end, 12345, -10, +10, @2026-01-31, @-1h or FROM:TO\n"},
		{"consume a -f %q", 2, "moldau: --format %q is unknown: %t %p %o %k %K %v %s %S %R %T %h or %%\n"},
		{"produce a --acks 2", 2, "moldau: --acks \"2\" is unknown: 0, 1 or all\n"},
		{"produce a -z brotli", 2, "moldau: --compression \"brotli\" is unknown: none, gzip, snappy, lz4 or zstd\n"},
		{"bench prodce", 2, "moldau: unknown command (prodce): did you mean moldau bench produce?\n"},
		{"bench produce a b", 2, "moldau: bench produce takes one topic only (b): see moldau bench produce --help\n"},
		{"bench produce --rate fast", 2, "moldau: --rate cannot be \"fast\": records a second such as 20000, or bytes a second such as 50MB\n"},
		{"bench produce --record-size 1XB", 2, "moldau: --record-size cannot be \"1XB\": a number of bytes such as 1024, 16KiB or 1GB\n"},
		{"bench produce --acks 1 --idempotent", 2, "moldau: an idempotent producer needs acks all: see moldau bench produce --help\n"},
		{"bench produce -z brotli", 2, "moldau: --compression \"brotli\" is unknown: none, gzip, snappy, lz4 or zstd\n"},
		{"bench latency --keys some", 2, "moldau: --keys \"some\" is unknown: none, uniform or zipf\n"},
		{"bench consume --connections 0", 2, "moldau: --connections 0: at least 1\n"},
		{"server --log-level loud", 2, "moldau: --log-level \"loud\" is unknown: debug, info, warn, error\n"},
		{"server --data-dir /cannot", 1, "moldau: the directory cannot be written (/cannot)\n"},
		{"server", 0, ""},
		{"log dump", 2, "moldau: log dump needs one or more files or directories: see moldau log dump --help\n"},
	} {
		code, out, errs := run(t, strings.Fields(tt.args)...)
		if code != tt.code || errs != tt.want || out != "" {
			t.Errorf("moldau %s: exit %d %q %q, want %d %q", tt.args, code, out, errs, tt.code, tt.want)
		}
	}
}

func TestSecondSignalExitsAtOnce(t *testing.T) {
	signals, exited := make(chan os.Signal, 2), make(chan int, 1)
	stuck := make(chan struct{})
	app := App{
		Stdin: strings.NewReader(""), Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}, Now: time.Now,
		Env: func(string) string { return "" }, Signals: signals,
		Exit: func(code int) { exited <- code; close(stuck) },
		RunServer: func(ctx context.Context, _ ServerFlags) error {
			<-ctx.Done()
			signals <- os.Interrupt
			<-stuck
			return nil
		},
	}
	signals <- os.Interrupt
	if code := Main(app, []string{"server"}); code != 0 {
		t.Errorf("a server that drains exits with %d, want 0", code)
	}
	if code := <-exited; code != 130 {
		t.Errorf("the second signal exits with %d, want 130", code)
	}
}
