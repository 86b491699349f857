package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The files in testdata/kafka-4.3.1 are answers of a real Kafka 4.3.1: its ConfigDefs (keys.tsv), DescribeConfigs with
// peer.properties, without and with dynamic values, and IncrementalAlterConfigs of one resource per line.

func peerLines(t *testing.T, name string) [][]string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "kafka-4.3.1", name))
	if err != nil {
		t.Fatal(err)
	}
	var out [][]string
	for _, line := range strings.Split(strings.TrimSuffix(string(data), "\n"), "\n") {
		out = append(out, strings.Split(line, "\t"))
	}
	return out
}

func loadPeer(t *testing.T) *Broker {
	t.Helper()
	f, err := os.Open("testdata/kafka-4.3.1/peer.properties")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, _, err := Load(Sources{File: f, FileName: "peer.properties"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is listed here differs from Kafka on purpose; the test fails when it stops differing, too.
var intendedDefaults = map[string]string{
	"broker:controller.listener.names":    "CONTROLLER",
	"broker:listeners":                    "PLAINTEXT://localhost:9092",
	"broker:log.dir":                      "moldau-data/log",
	"broker:log.flush.interval.messages":  "1",
	"broker:node.id":                      "1",
	"broker:process.roles":                "broker,controller",
	"broker:sasl.server.max.receive.size": "24576",
	"topic:flush.messages":                "1",
}

// Kafka describes these rules in other words or not at all.
var intendedRules = map[string]bool{
	"authorizer.class.name": true, "controller.quorum.voters": true, "controller.quorum.bootstrap.servers": true,
}

func TestTheTableIsKafkas(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range peerLines(t, "keys.tsv") {
		scope, name := BrokerScope, f[1]
		if f[0] == "topic" {
			scope = TopicScope
		}
		id := map[Scope]string{BrokerScope: "broker:", TopicScope: "topic:"}[scope] + name
		seen[id] = true
		k, ok := Lookup(scope, name)
		if !ok {
			t.Errorf("%s is missing", id)
			continue
		}
		def := k.Default
		if k.Unset {
			def = `\N`
		}
		if want, differs := intendedDefaults[id]; differs {
			if def != want || def == f[3] {
				t.Errorf("%s: default %q, Kafka %q, intended %q", id, def, f[3], want)
			}
			if k.KafkaDefault != f[3] && f[3] != `\REQUIRED` {
				t.Errorf("%s: says Kafka's default is %q, it is %q", id, k.KafkaDefault, f[3])
			}
		} else if def != f[3] || k.KafkaDefault != "" {
			t.Errorf("%s: default %q, Kafka %q", id, def, f[3])
		}
		dynamic := k.Dynamic.String()
		if k.Dynamic == ReadOnly {
			dynamic = ""
		}
		internal := map[bool]string{true: "internal"}[k.Internal]
		got := []string{k.Type.String(), strings.ToUpper(k.Importance.String()), internal, dynamic}
		if want := []string{f[2], f[4], f[6], f[7]}; strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%s: %v, Kafka %v", id, got, want)
		}
		if k.Valid.String() != f[5] && !intendedRules[name] {
			t.Errorf("%s: allows %q, Kafka %q", id, k.Valid, f[5])
		}
		if k.DynamicOnly != (f[0] == "dynamic") {
			t.Errorf("%s: dynamic only %v", id, k.DynamicOnly)
		}
		if l := len(f); l > 9 && k.Valid.distinct {
			if emptyAllowed := strings.Contains(f[9], "empty"); (k.Check("") == nil) != emptyAllowed {
				t.Errorf("%s: empty list allowed %v, Kafka %v", id, !emptyAllowed, emptyAllowed)
			}
		}
	}
	for _, k := range Keys(BrokerScope) {
		if !seen["broker:"+k.Name] && !k.Moldau() && !authorizerOnly(k.Name) {
			t.Errorf("Kafka has no broker key %s", k.Name)
		}
	}
	for _, k := range Keys(TopicScope) {
		if !seen["topic:"+k.Name] {
			t.Errorf("Kafka has no topic key %s", k.Name)
		}
	}
}

var (
	peerCluster = map[string]string{"log.retention.ms": "111111", "log.flush.interval.messages": "5", "max.connections": "99",
		"log.roll.ms": "7200000", "compression.type": "zstd", "log.cleanup.policy": "compact",
		"min.insync.replicas": "1"} // the last is what Kafka sets by itself with eligible leader replicas
	peerBroker = map[string]string{"log.retention.ms": "222222", "log.roll.jitter.ms": "5", "leader.replication.throttled.rate": "1000",
		"listener.name.plaintext.ssl.keystore.password": "secret", "something.odd": "secret"}
	peerTopic = map[string]string{"cleanup.policy": "compact , delete", "retention.ms": "1000", "segment.ms": "3600000", "flush.messages": "7",
		"unclean.leader.election.enable": "TRUE", "min.insync.replicas": "01", "min.cleanable.dirty.ratio": "0.50"}
)

func TestDescriptionsAreKafkas(t *testing.T) {
	b := loadPeer(t)
	for _, c := range []struct {
		file string
		got  []Entry
	}{
		{"broker-static.tsv", b.DescribeBroker(nil, peerElr)},
		{"broker-dynamic.tsv", b.DescribeBroker(peerBroker, peerCluster)},
		{"default-dynamic.tsv", DescribeCluster(peerCluster)},
		{"topic-plain.tsv", b.DescribeTopic(nil, nil, peerElr)},
		{"topic-over.tsv", b.DescribeTopic(peerTopic, nil, peerElr)},
		{"topic-plain-dynamic.tsv", b.DescribeTopic(nil, peerBroker, peerCluster)},
		{"topic-over-dynamic.tsv", b.DescribeTopic(peerTopic, peerBroker, peerCluster)},
	} {
		got := map[string]string{}
		for _, e := range c.got {
			got[e.Name] = line(e)
		}
		for _, f := range peerLines(t, c.file) {
			for len(f) < 7 {
				f = append(f, "")
			}
			// Defaults that differ on purpose differ in the description too.
			want := strings.Join(f, "\t")
			for id, ours := range intendedDefaults {
				_, name, _ := strings.Cut(id, ":")
				if k, ok := Lookup(BrokerScope, name); ok && k.KafkaDefault != "" {
					want = strings.ReplaceAll(want, name+"="+k.KafkaDefault+"@DEFAULT_CONFIG", name+"="+ours+"@DEFAULT_CONFIG")
				}
				if f[2] == "DEFAULT_CONFIG" && (f[0] == name || f[0] == "flush.messages" && name == "log.flush.interval.messages") {
					want = strings.Replace(want, f[0]+"\t"+f[1]+"\t", f[0]+"\t"+ours+"\t", 1)
				}
				if f[6] != "" && (name == "node.id" || name == "process.roles" || name == "controller.listener.names") && f[0] == name {
					want += ";;" + name + "=" + ours + "@DEFAULT_CONFIG" // Kafka has no default to show
				}
			}
			if got[f[0]] != want {
				t.Errorf("%s:\n Moldau %q\n Kafka  %q", c.file, got[f[0]], want)
			}
			delete(got, f[0])
		}
		for name := range got {
			if !strings.HasPrefix(name, moldauPrefix) {
				t.Errorf("%s: Kafka does not list %s", c.file, name)
			}
		}
	}
}

var peerElr = map[string]string{"min.insync.replicas": "1"}

func line(e Entry) string {
	show := func(v string, null bool) string {
		if null {
			return `\N`
		}
		return v
	}
	var synonyms []string
	for _, s := range e.Synonyms {
		synonyms = append(synonyms, s.Name+"="+show(s.Value, s.Null)+"@"+s.Source.String())
	}
	return strings.Join([]string{e.Name, show(e.Value, e.Null), e.Source.String(), map[bool]string{true: "ro", false: "rw"}[e.ReadOnly],
		map[bool]string{true: "sensitive"}[e.Sensitive], e.Type.String(), strings.Join(synonyms, ";;")}, "\t")
}

// alter does what the controller does with one line of a case file: key=value;;key=value, where +value appends.
func alter(scope Scope, cases string, validate func(map[string]string) error) error {
	values := map[string]string{}
	for _, pair := range strings.Split(cases, ";;") {
		key, v, _ := strings.Cut(pair, "=")
		if operand, appends := strings.CutPrefix(v, "+"); appends {
			changed, err := Incremental(scope, key, "", false, Append, operand)
			if err != nil {
				return err
			}
			v = changed
		}
		values[key] = v
	}
	return validate(values)
}

func TestTopicErrorsAreKafkas(t *testing.T) {
	b := loadPeer(t)
	for _, f := range peerLines(t, "topic-errors.tsv") {
		err := alter(TopicScope, f[0], func(v map[string]string) error { return b.ValidateTopic(v, nil, nil) })
		compareError(t, f, err, nil)
	}
}

// What a client hears differently from Kafka, and why.
var intendedBrokerErrors = map[string]string{
	// These size Kafka's thread pools and have no effect here, so any number will do.
	"num.io.threads=100": "", "background.threads=21": "", "background.threads=4": "", "remote.log.reader.threads=3": "", "log.cleaner.threads=5": "",
	"log.cleaner.threads=0": "requirement failed: log.cleaner.dedupe.buffer.size must be at least 1MB per cleaner thread.",
	// Java classes are not loaded.
	"metric.reporters=no.such.Class":           "",
	"principal.builder.class=java.lang.String": "principal.builder.class is not supported yet: Java principal builders cannot be loaded; remove the key",
	// Not implemented and too important to accept.
	"cordoned.log.dirs=/nope":                            "cordoned.log.dirs is not supported yet: every log directory that is online takes new partitions; remove the key",
	"cordoned.log.dirs=*":                                "cordoned.log.dirs is not supported yet: every log directory that is online takes new partitions; remove the key",
	"config.providers=file":                              "config.providers is not supported yet: values would be taken literally; write them into the file, or set them by environment variables",
	"listeners=PLAINTEXT://127.0.0.1:29092":              "listeners cannot be changed while the broker runs yet; change the start configuration and restart it",
	"listener.security.protocol.map=PLAINTEXT:PLAINTEXT": "listener.security.protocol.map cannot be changed while the broker runs yet; change the start configuration and restart it",
	// A message of Java's number parser.
	"max.connections.per.ip.overrides=a:b": `requirement failed: "a:b" should be in the form host:count, and "b" is no count`,
	// Without eligible leader replicas there is nothing against it.
	"min.insync.replicas=2": "",
	// Kafka has no such key and takes anything.
	"moldau.http.listener=x": "Cannot update these configs dynamically: [moldau.http.listener]",
}

func TestBrokerErrorsAreKafkas(t *testing.T) {
	b := loadPeer(t)
	for file, perBroker := range map[string]bool{"broker-errors-one.tsv": true, "broker-errors-default.tsv": false} {
		for _, f := range peerLines(t, file) {
			err := alter(BrokerScope, f[0], func(v map[string]string) error { return b.ValidateDynamic(v, perBroker, nil, nil) })
			compareError(t, f, err, intendedBrokerErrors)
		}
	}
}

func compareError(t *testing.T, f []string, err error, intended map[string]string) {
	t.Helper()
	want := ""
	if f[1] != "OK" {
		want = f[2]
	}
	got := ""
	if err != nil {
		got = err.Error()
	}
	ours, differs := intended[f[0]]
	if got != want && !(differs && got == ours) {
		t.Errorf("%s\n Moldau %q\n Kafka  %q", f[0], got, want)
	}
}
