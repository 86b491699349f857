//go:build clients && linux

package clients

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// tokenLine is a token in what kafka-delegation-tokens prints.
var tokenLine = regexp.MustCompile(`(?m)^([A-Za-z0-9_-]{22}) +([A-Za-z0-9+/]{86}==) `)

// withoutTokens is such a text without what differs from run to run; lines are in order, as Kafka has none among tokens.
func withoutTokens(text string) string {
	for _, c := range []struct{ what, by string }{{`[A-Za-z0-9+/]{86}==`, "SECRET"}, {`\d{4}-\d\d-\d\dT\d\d:\d\d`, "DATE"}, {`(?m)^[A-Za-z0-9_-]{22} `, "TOKEN "}, {`tokenId : [A-Za-z0-9_-]{22}`, "tokenId : TOKEN"}} {
		text = regexp.MustCompile(c.what).ReplaceAllString(text, c.by)
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	slices.Sort(lines)
	return strings.TrimSpace(strings.Join(lines, "\n"))
}

// TestDelegationTokens: kafka-delegation-tokens, unchanged, prints for the broker what it prints for Kafka, and Kafka's producer and franz-go
// log in with what it made; what clients call it when they are not let in is what they call it with Kafka (testdata/delegation-tokens.txt, which
// MOLDAU_TARGET=kafka PARITY=record writes anew). Of the other clients here none can use a token.
func TestDelegationTokens(t *testing.T) {
	p := newSecurePeer(t)
	b, addrs := secureBroker(t, p, "delegation.token.secret.key=key-geheim")
	addr := addrs["SASL_PLAINTEXT"]
	config := func(name, mechanism, login string) string {
		file := filepath.Join(p.dir, name)
		must(t, os.WriteFile(file, []byte("security.protocol=SASL_PLAINTEXT\nsasl.mechanism="+mechanism+"\nsasl.jaas.config=org.apache.kafka.common.security."+login+";\n"), 0o600))
		return file
	}
	alice := config("alice.properties", "PLAIN", `plain.PlainLoginModule required username="alice" password="alice-pw"`)
	var out strings.Builder
	tokens := func(config, line string, more ...string) string {
		args := append([]string{"delegation-tokens", "--bootstrap-server", addr, "--command-config", config}, append(strings.Fields(line), more...)...)
		r, err := try(t, toolPatience, nil, launcher(), args...)
		first, _, _ := strings.Cut(r.stderr, "\n")
		fmt.Fprintf(&out, "# %s\n%s\n%s\n", line, withoutTokens(r.stdout), first)
		if err != nil {
			fmt.Fprintln(&out, "fails")
		}
		return r.stdout
	}
	made := tokens(alice, "--create --max-life-time-period 3600000 --renewer-principal User:bob")
	found := tokenLine.FindStringSubmatch(made)
	if found == nil {
		t.Fatalf("no token in\n%s", out.String())
	}
	id, secret := found[1], found[2]
	tokens(alice, "--create --max-life-time-period -1 --owner-principal User:carl")
	waitForTokens(t, addr, 2)
	tokens(alice, "--describe")
	tokens(alice, "--describe --owner-principal User:carl")
	tokens(alice, "--renew --renew-time-period 600000 --hmac", secret)
	tokens(alice, "--renew --renew-time-period -1 --hmac", "bm9uZQ==")
	byToken := config("token.properties", "SCRAM-SHA-512", fmt.Sprintf(`scram.ScramLoginModule required username="%s" password="%s" tokenauth="true"`, id, secret))
	tokens(byToken, "--describe")

	b.createTopic("by-token", 1)
	r := run(t, toolPatience, strings.NewReader("from java\n"), launcher(), "console-producer", "--bootstrap-server", addr, "--topic", "by-token", "--command-config", byToken)
	if toolComplaint.MatchString(r.stderr) {
		t.Errorf("the console producer complains: %s", clip(r.stderr))
	}
	bearer, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.SASL(scram.Auth{User: id, Pass: secret, IsToken: true}.AsSha256Mechanism()), kgo.DefaultProduceTopic("by-token"), kgo.ConsumeTopics("by-token"))
	must(t, err)
	defer bearer.Close()
	must(t, bearer.ProduceSync(deadline(t, time.Minute), kgo.StringRecord("from go")).FirstErr())
	var values []string
	for len(values) < 2 {
		fetches := bearer.PollFetches(deadline(t, time.Minute))
		must(t, fetches.Err())
		fetches.EachRecord(func(r *kgo.Record) { values = append(values, string(r.Value)) })
	}
	fmt.Fprintf(&out, "# records\n%s\n", strings.Join(values, "\n"))

	var cases []secureCase
	for _, c := range []struct{ name, mechanism, user, secret string }{
		{"token", "token:SCRAM-SHA-256", id, secret}, {"token", "token:SCRAM-SHA-512", id, secret},
		{"wrong secret", "token:SCRAM-SHA-256", id, "wrong"}, {"unknown token", "token:SCRAM-SHA-512", "unknown", secret}, {"token as a user", "SCRAM-SHA-256", id, secret},
	} {
		cases = append(cases, secureCase{c.name + ", " + c.mechanism, addr, "SASL_PLAINTEXT", c.mechanism, c.user, c.secret, ""})
	}
	connect := func(what string, cases []secureCase) {
		var input strings.Builder
		for _, c := range cases {
			input.WriteString(c.line())
		}
		command := javaCommand(t, "Secure")
		fmt.Fprintf(&out, "# %s, java\n%s", what, run(t, toolPatience, strings.NewReader(input.String()), command[0], command[1:]...).stdout)
		fmt.Fprintf(&out, "# %s, franz-go\n%s", what, franzCases(t, cases))
	}
	connect("connections", cases)
	tokens(alice, "--expire --expiry-time-period -1 --hmac", secret)
	waitForTokens(t, addr, 1)
	connect("connections after the end of the token", cases[:1])
	refused, err := try(t, toolPatience, nil, launcher(), "delegation-tokens", "--bootstrap-server", b.addr, "--command-config", os.DevNull, "--describe")
	if err == nil {
		t.Error("tokens without authentication")
	}
	first, _, _ := strings.Cut(refused.stderr, "\n")
	fmt.Fprintf(&out, "# without authentication\n%s\n", first)

	text := out.String()
	file := filepath.Join("testdata", "delegation-tokens.txt")
	if b.kafka && os.Getenv("PARITY") == "record" {
		must(t, os.WriteFile(file, []byte(text), 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if text != string(want) {
		t.Errorf("got\n%s\nwith Apache Kafka it was\n%s", text, want)
	}
	if b.kafka {
		return
	}
	log, err := os.ReadFile(b.logPath)
	must(t, err)
	for _, s := range []string{secret, "key-geheim"} {
		if strings.Contains(string(log), s) {
			t.Errorf("the broker's log shows %q", s)
		}
	}
	if !strings.Contains(string(log), "wrong password of delegation token") {
		t.Error("the broker's log does not say why")
	}
	b.mustRun()
}

// waitForTokens waits until alice has so many: Kafka's brokers learn of them in the background.
func waitForTokens(t *testing.T, addr string, n int) {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.SASL(plain.Auth{User: "alice", Pass: "alice-pw"}.AsMechanism()))
	must(t, err)
	defer cl.Close()
	ctx := deadline(t, time.Minute)
	for {
		found, err := kadm.NewClient(cl).DescribeDelegationTokens(ctx)
		must(t, err)
		if len(found) == n {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}
