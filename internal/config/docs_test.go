package config

import (
	"os"
	"strings"
	"testing"
)

// TestTheDocumentationHasTheDefaults: the table of docs/configuration.md is that of --help.
func TestTheDocumentationHasTheDefaults(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(strings.ReplaceAll(string(page), "\r\n", "\n"), "```text\n"+DefaultsText()+"```\n") {
		t.Errorf("docs/configuration.md lacks this table:\n%s", DefaultsText())
	}
}

// TestEverySourceInItsPlace: flags win over the environment, that over the file, that over the default.
func TestEverySourceInItsPlace(t *testing.T) {
	const key = "num.partitions"
	env, sets := []string{"KAFKA_NUM_PARTITIONS=3"}, []string{key + "=4"}
	for want, s := range map[string]Sources{
		"1": {},
		"2": file(key + "=2"),
		"3": with(file(key+"=2"), env, nil, nil),
		"4": with(file(key+"=2"), env, sets, nil),
	} {
		b, _ := load(t, s)
		if got := text(b.Int(key)); got != want {
			t.Errorf("%s=%s, want %s", key, got, want)
		}
	}
	// A flag and a --set that say the same differently are a mistake, not a choice.
	_, _, err := Load(with(Sources{}, nil, []string{"listeners=PLAINTEXT://:1"}, map[string]string{"listen": "localhost:2"}))
	if err == nil || !strings.Contains(err.Error(), "listeners is given both by --set and by --listen; leave one out") {
		t.Error(err)
	}
	_, _, err = Load(Sources{Flags: map[string]string{"listen": "localhost"}})
	if err == nil || !strings.Contains(err.Error(), `--listen "localhost": expected HOST:PORT`) {
		t.Error(err)
	}
}

// TestWhatAFileMayNotSay: what a file says is known, nearly known, ours, or a stranger's; each has its own answer.
func TestWhatAFileMayNotSay(t *testing.T) {
	// A stranger's key is one warning.
	if _, warnings := load(t, file("my.own.key=1", "my.other.key=2")); len(warnings) != 1 || !strings.Contains(warnings[0].Text, "my.other.key (in server.properties), my.own.key") {
		t.Error(warnings)
	}
	for line, want := range map[string]string{
		"log.retention.mss=1":      "did you mean log.retention.ms?",
		"LOG_RETENTION_MS=1":       "did you mean log.retention.ms?",
		"retention.ms=1":           "it belongs to a topic, the broker's default is log.retention.ms",
		"moldau.http.listner=off":  "did you mean moldau.http.listener?",
		"moldau.something.new=off": "moldau.something.new (in server.properties) is no configuration key",
	} {
		if _, _, err := Load(file(line)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q, got %v", line, want, err)
		}
	}
	// On the command line a stranger's key is a typing error.
	if _, _, err := Load(with(Sources{}, nil, []string{"my.own.key=1"}, nil)); err == nil {
		t.Error("--set my.own.key=1 was taken")
	}
	// What Kubernetes injects for services of any name is nobody's setting.
	injected := []string{"KAFKA_PORT=tcp://10.0.0.1:9092", "KAFKA_PORT_9092_TCP=tcp://10.0.0.1:9092", "KAFKA_PORT_9092_TCP_PROTO=tcp",
		"KAFKA_PORT_9092_TCP_PORT=9092", "KAFKA_PORT_9092_TCP_ADDR=10.0.0.1", "KAFKA_SERVICE_HOST=10.0.0.1", "KAFKA_SERVICE_PORT=9092",
		"KAFKA_SERVICE_PORT_CLIENT=9092", "KAFKA_0_SERVICE_HOST=10.0.0.1", "KAFKA_UI_PORT=tcp://10.0.0.2:8080"}
	if _, warnings := load(t, Sources{Env: injected}); len(warnings) != 0 {
		t.Error(warnings)
	}
	// What is for a JVM is said once.
	if _, warnings := load(t, Sources{Env: []string{"KAFKA_OPTS=-Dx=y", "KAFKA_HEAP_OPTS=-Xmx1G", "KAFKA_JVM_PERFORMANCE_OPTS=-x"}}); len(warnings) != 1 {
		t.Error(warnings)
	}
}
