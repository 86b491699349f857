package handler

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/wire"
)

// testdata/kafka-4.3.1.jsonl holds what a real Kafka 4.3.1 (one fresh combined node with id 1) answers to the
// script in script_test.go, line by line. To record it anew:
//
//	go test ./internal/handler -run TestAnswersAreKafkas -kafka 127.0.0.1:9092
var kafkaAddr = flag.String("kafka", "", "address of a fresh Kafka whose answers are recorded")

const answersFile = "testdata/kafka-4.3.1.jsonl"

// overTCP asks a real broker.
type overTCP struct{ net.Conn }

func (c overTCP) exchange(t testing.TB, frame []byte) []byte {
	t.Helper()
	c.SetDeadline(time.Now().Add(time.Minute))
	if _, err := c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)); err != nil {
		t.Fatal(err)
	}
	size := make([]byte, 4)
	if _, err := io.ReadFull(c, size); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint32(size))
	if _, err := io.ReadFull(c, body); err != nil {
		t.Fatal(err)
	}
	return body
}

// answerLine is one line of the file.
type answerLine struct {
	Name    string
	Version int16
	Answer  any
}

// runScript asks every question and returns the answers without what differs from run to run.
func runScript(t *testing.T, exchange func(testing.TB, []byte) []byte) []answerLine {
	var lines []answerLine
	var ids topicIDs
	for _, q := range script(&ids) {
		lines = append(lines, q.ask(t, &ids, exchange, *kafkaAddr != "")...)
	}
	return lines
}

// ask asks in each version that is meant. pauses says that there is a Kafka, which does some things in the background.
func (q question) ask(t *testing.T, ids *topicIDs, exchange func(testing.TB, []byte) []byte, pauses bool) []answerLine {
	versions := rows()
	of := versions[slices.IndexFunc(versions, func(r row) bool { return r.key.Int16() == q.req.Key() })]
	from, to := q.version, q.version
	if q.version == everyVersion {
		from, to = max(of.min, of.served), of.max
	}
	var lines []answerLine
	for v := from; v <= to; v++ {
		answered := v
		q.req.SetVersion(v)
		frame := frameOf(q.req)
		if v > of.max {
			answered = 0
		}
		resp := parseResponse(t, q.req, answered, exchange(t, frame))
		ids.learn(resp)
		lines = append(lines, answerLine{q.name, v, plain(t, resp)})
		if q.pause && pauses {
			time.Sleep(2 * time.Second) // Kafka creates in the background
		}
	}
	return lines
}

// topicIDs are the ids that the topics of the script have got, and the secret of the last delegation token.
type topicIDs struct {
	first  [16]byte
	secret []byte
}

func (ids *topicIDs) learn(resp kmsg.Response) {
	if r, ok := resp.(*kmsg.CreateTopicsResponse); ok && r.Version >= 7 && len(r.Topics) == 1 && r.Topics[0].Topic == "by-id" {
		ids.first = r.Topics[0].TopicID
	}
	if r, ok := resp.(*kmsg.CreateDelegationTokenResponse); ok && r.ErrorCode == 0 {
		ids.secret = r.HMAC
	}
}

// plain makes a response comparable.
func plain(t *testing.T, resp kmsg.Response) any {
	var v any
	data, err := json.Marshal(resp)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	if r, ok := resp.(*kmsg.ApiVersionsResponse); ok && len(r.ApiKeys) > 1 {
		m := v.(map[string]any)
		delete(m, "ApiKeys") // others than this broker's
		delete(m, "SupportedFeatures")
		delete(m, "FinalizedFeatures")
		delete(m, "FinalizedFeaturesEpoch")
	}
	if r, ok := resp.(*kmsg.ProduceResponse); ok { // the messages are ours
		for _, topic := range v.(map[string]any)["Topics"].([]any)[:len(r.Topics)] {
			for _, p := range topic.(map[string]any)["Partitions"].([]any) {
				p.(map[string]any)["ErrorMessage"] = nil
			}
		}
	}
	return clean("", v)
}

func clean(key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		for _, k := range []string{"UnknownTags", "ThrottleMillis", "Port", "Documentation", "Dir", "TotalBytes", "UsableBytes"} {
			delete(v, k)
		}
		if s, ok := v["ErrorMessage"].(string); ok && strings.HasPrefix(s, "Request Request(") { // Kafka shows its insides
			v["ErrorMessage"] = wire.ClusterAuthorizationFailed.Message()
		}
		if v["ClusterID"] != nil {
			v["ClusterID"] = "set"
		}
		cleanToken(v)
		for k, e := range v {
			v[k] = clean(k, e)
		}
		return v
	case []any:
		if key == "TopicID" {
			zero := !slices.ContainsFunc(v, func(b any) bool { return b.(float64) != 0 })
			return map[bool]string{true: "none", false: "set"}[zero]
		}
		for i := range v {
			v[i] = clean("", v[i])
		}
		if n := len(v); key == "Configs" && n > 0 { // what is as always is tested in package config
			v = slices.DeleteFunc(v, func(e any) bool {
				m := e.(map[string]any)
				return m["ConfigType"] == nil && m["Source"] == float64(5) || differentDefaults[m["Name"].(string)]
			})
			if len(v) == 0 {
				return nil
			}
		}
		if key != "ConfigSynonyms" {
			slices.SortFunc(v, func(a, b any) int { return strings.Compare(sortKey(a), sortKey(b)) })
		}
		return v
	}
	return v
}

// cleanToken leaves of a delegation token what does not differ from run to run: its times, in minutes.
func cleanToken(v map[string]any) {
	for _, k := range []string{"TokenID", "HMAC"} {
		if e, ok := v[k]; ok {
			v[k] = map[bool]string{true: "none", false: "set"}[e == nil || e == ""]
		}
	}
	issued, _ := v["IssueTimestamp"].(float64)
	for _, k := range []string{"ExpiryTimestamp", "MaxTimestamp"} {
		if ms, ok := v[k].(float64); ok && ms > 0 {
			v[k] = "set"
			if issued > 0 {
				v[k] = math.Round((ms - issued) / 60_000)
			}
		}
	}
	if issued > 0 {
		v["IssueTimestamp"] = "set"
	}
}

// sortKey brings lists whose order does not matter, and is random in Kafka, into one.
func sortKey(v any) string {
	m, ok := v.(map[string]any)
	if !ok {
		return ""
	}
	for _, k := range []string{"Entity", "Key", "Type"} { // of quotas
		if m[k] != nil && (k == "Entity" || len(m) == 2) {
			return fmt.Sprint(m[k])
		}
	}
	for _, k := range []string{"Topic", "ResourceName", "Name", "MemberID", "Group"} {
		if s, ok := m[k].(string); ok {
			return s
		}
	}
	if m["PermissionType"] != nil || m["TokenID"] != nil || m["TopicID"] != nil && m["Topic"] == nil && m["ErrorMessage"] != nil {
		return fmt.Sprint(m)
	}
	if n, ok := m["Partition"].(float64); ok && m["Size"] != nil { // of DescribeLogDirs; elsewhere the order is that of the request
		return fmt.Sprintf("%9.0f", n)
	}
	return ""
}

// Where the answer differs from Kafka's on purpose, and why. The test fails when it no longer differs.
var intended = map[string]string{
	"create validated only":               "a topic that is not created has no id; Kafka makes one up",
	"create in no time":                   "with a reason",
	"describe configs: unknown type":      "only the resource of that type is refused, with a reason",
	"alter: unknown operation on a topic": "refused; Kafka fails",
	"newest after deletion":               "Kafka names a record that was deleted",
}

// differentDefaults are set in the test, or by Kafka for a feature that is not finished here.
var differentDefaults = map[string]bool{"flush.messages": true, "min.insync.replicas": true}

func TestAnswersAreKafkas(t *testing.T) {
	if *kafkaAddr != "" {
		recordAnswers(t)
	}
	b := newBroker(t)
	got := runScript(t, func(t testing.TB, frame []byte) []byte {
		b.o.Partitions.Apply(b.o.Cluster.Image()) // as the publisher does
		return b.exchange(t, frame)
	})
	compareAnswers(t, answersFile, intended, got)
}

// compareAnswers holds answers to those of Kafka in a file. intended says which differ, and why.
func compareAnswers(t *testing.T, file string, intended map[string]string, got []answerLine) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(got) != len(want) {
		t.Fatalf("%d answers, %d recorded: record them anew", len(got), len(want))
	}
	unused := maps.Clone(intended)
	for i, g := range got {
		have := encodeLine(t, g)
		name := fmt.Sprintf("%s v%d", g.Name, g.Version)
		if have == want[i] {
			continue
		}
		if intended[g.Name] == "" {
			t.Errorf("%s\n got %s\nwant %s", name, have, want[i])
		}
		delete(unused, g.Name)
	}
	for name := range unused {
		t.Errorf("%q is listed as different from Kafka, but is the same", name)
	}
}

func encodeLine(t testing.TB, l answerLine) string {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(l); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(buf.String())
}

func recordAnswers(t *testing.T) {
	c, err := net.Dial("tcp", *kafkaAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	writeAnswers(t, answersFile, runScript(t, overTCP{c}.exchange))
}

func writeAnswers(t *testing.T, file string, lines []answerLine) {
	t.Helper()
	var out strings.Builder
	for _, l := range lines {
		out.WriteString(encodeLine(t, l) + "\n")
	}
	if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}
