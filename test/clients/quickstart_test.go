//go:build clients && linux

package clients

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"moldau/test/logtext"
)

// block is a fenced block of commands of the quickstart, and what the page says that it prints.
type block struct {
	heading    string
	commands   string
	output     string
	background bool
}

// fenced are the blocks of a page, in their order. The output of a block follows it at once.
var fenced = regexp.MustCompile("(?m)^(## .*|<!-- background -->)$|^```(sh|text)\n((?s:.*?))^```$")

func quickstartBlocks(t *testing.T) (blocks []block) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root(), "docs", "quickstart.md"))
	must(t, err)
	heading, background := "", false
	for _, m := range fenced.FindAllStringSubmatch(string(page), -1) {
		switch {
		case m[1] == "<!-- background -->":
			background = true
		case m[1] != "":
			heading = strings.TrimPrefix(m[1], "## ")
		case m[2] == "sh":
			blocks = append(blocks, block{heading: heading, commands: m[3], background: background})
			background = false
		default:
			blocks[len(blocks)-1].output += m[3]
		}
	}
	return blocks
}

// TestQuickstart runs the commands of docs/quickstart.md as they are written there, in an empty directory; only the build, which is the
// first block, is that of all tests. What the page shows as output is printed, in this order; … stands for anything. The ports are those
// of the page, 9092 and 9644, and must be free.
func TestQuickstart(t *testing.T) {
	if targetKafka {
		t.Skip("the page is about moldau's commands")
	}
	for _, port := range []string{"9092", "9644"} {
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatalf("the quickstart needs port %s: %v", port, err)
		}
		must(t, l.Close())
	}
	blocks := quickstartBlocks(t)
	if len(blocks) < 10 {
		t.Fatalf("%d blocks of commands are too few: has the page another form?", len(blocks))
	}
	classes := filepath.Join(cache(), "kafka-*")
	jars, err := filepath.Glob(filepath.Join(classes, "kafka-clients-*.jar"))
	must(t, err)
	if len(jars) == 0 {
		t.Fatalf("no kafka-clients in %s: run test/clients/install", classes)
	}
	bin, err := moldau()
	must(t, err)
	if first := blocks[0].commands; !strings.Contains(first, "go build -o bin/moldau ./cmd/moldau") {
		t.Errorf("the page begins with\n%s", first)
	}
	env := append(os.Environ(), "CLASSPATH="+filepath.Join(filepath.Dir(jars[0]), "*"), "NODE_PATH="+cache(), "KAFKAJS_NO_PARTITIONER_WARNING=1",
		"PATH="+filepath.Dir(bin)+":"+filepath.Join(cache(), "python", "bin")+":"+os.Getenv("PATH"))

	dir := t.TempDir()
	for _, b := range blocks[1:] {
		if b.background {
			stop := startBackground(t, b, dir, env)
			defer stop()
			continue
		}
		cmd := exec.CommandContext(deadline(t, 4*time.Minute), "bash", "-euo", "pipefail", "-c", b.commands)
		ownProcess(cmd)
		cmd.Dir, cmd.Env = dir, env
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v\n%s\n%s", b.heading, err, b.commands, clip(out.String()))
		}
		if err := prints(out.String(), b.output); err != nil {
			t.Errorf("%s: %v\nit printed\n%s", b.heading, err, clip(out.String()))
		}
	}
}

// startBackground runs what the reader leaves running in another terminal, and returns what ends it by Ctrl-C.
func startBackground(t *testing.T, b block, dir string, env []string) (stop func()) {
	t.Helper()
	out := new(logtext.Text)
	cmd := exec.Command("bash", "-c", "exec "+strings.TrimSpace(b.commands))
	ownProcess(cmd)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, out, out
	must(t, cmd.Start())
	for until := time.Now().Add(startPatience); !strings.Contains(out.String(), `"ready"`); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			t.Fatalf("%s is not ready\n%s", b.commands, out)
		}
	}
	return func() {
		must(t, cmd.Process.Signal(syscall.SIGINT))
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s after Ctrl-C: %v\n%s", b.commands, err, out)
		}
		if !strings.Contains(out.String(), "stopping") || !strings.Contains(out.String(), "stopped") {
			t.Errorf("%s does not say that it stops\n%s", b.commands, out)
		}
	}
}

// prints tells whether the lines of want are printed in their order, between others that may come.
func prints(got, want string) error {
	lines := strings.Split(got, "\n")
	for w := range strings.Lines(want) {
		pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(w)), "…", ".*") + "$")
		for {
			if len(lines) == 0 {
				return fmt.Errorf("the line %q of the page is not there, or not in its place", strings.TrimSpace(w))
			}
			line := strings.TrimSpace(lines[0])
			lines = lines[1:]
			if pattern.MatchString(line) {
				break
			}
		}
	}
	return nil
}
