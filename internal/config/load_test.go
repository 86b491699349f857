package config

import (
	"errors"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func load(t *testing.T, s Sources) (*Broker, []Warning) {
	t.Helper()
	b, warnings, err := Load(s)
	if err != nil {
		t.Fatal(err)
	}
	return b, warnings
}

func file(lines ...string) Sources {
	return Sources{File: strings.NewReader(strings.Join(lines, "\n")), FileName: "server.properties"}
}

func TestEveryDefaultIsValid(t *testing.T) {
	for _, scope := range []Scope{BrokerScope, TopicScope} {
		for _, k := range Keys(scope) {
			if !k.Unset {
				if err := k.Check(k.Default); err != nil {
					t.Errorf("%s: %v", k.Name, err)
				}
				if c := k.canonical(k.Default); c != k.Default {
					t.Errorf("%s: default %q is shown as %q", k.Name, k.Default, c)
				}
			}
			if k.Doc == "" || !strings.HasSuffix(k.Doc, ".") {
				t.Errorf("%s: no doc sentence: %q", k.Name, k.Doc)
			}
			if (k.State == Refused) != (k.Advice != "") {
				t.Errorf("%s: a refused key, and only that, says what to do", k.Name)
			}
		}
	}
}

func TestKafkasOwnServerPropertiesStartUnchanged(t *testing.T) {
	f, err := os.Open("testdata/kafka-4.3.1/server.properties")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, warnings := load(t, Sources{File: f, FileName: "server.properties"})
	if len(warnings) != 2 || warnings[1].Level != slog.LevelInfo || !strings.Contains(warnings[1].Text, "CONTROLLER (port 9093)") ||
		warnings[0].Level != slog.LevelWarn || !strings.Contains(warnings[0].Text, "over PLAINTEXT (PLAINTEXT://:9092)") {
		t.Errorf("warnings %v", warnings)
	}
	want := Listener{Name: "PLAINTEXT", Port: 9092, Protocol: Plaintext, AdvertisedHost: "localhost", AdvertisedPort: 9092}
	if got := b.Listeners(); len(got) != 1 || got[0] != want {
		t.Errorf("listeners %+v", got)
	}
	if b.NodeID() != 1 || !slices.Equal(b.LogDirs(), []string{filepath.FromSlash("/tmp/kraft-combined-logs")}) || b.MetadataDirs()[0] != filepath.FromSlash("/tmp/kraft-combined-logs/.moldau") {
		t.Error(b.NodeID(), b.LogDirs(), b.MetadataDirs()[0])
	}
	if b.Int("group.initial.rebalance.delay.ms") != 3000 {
		t.Error("with a file Kafka's rebalance delay counts")
	}
	if b.Int("log.flush.interval.messages") != 1 {
		t.Error("durability does not depend on the file")
	}
}

func TestDefaultsWithoutAnything(t *testing.T) {
	b, warnings := load(t, Sources{})
	if len(warnings) != 0 {
		t.Error(warnings)
	}
	l := b.Listeners()
	if len(l) != 1 || !slices.Equal(l[0].BindAddrs(), []string{"127.0.0.1:9092", "[::1]:9092"}) || l[0].AdvertisedPort != 0 {
		t.Errorf("%+v", l)
	}
	if !slices.Equal(b.HTTPAddrs(), []string{"127.0.0.1:9644", "[::1]:9644"}) {
		t.Error(b.HTTPAddrs())
	}
	if !slices.Equal(b.LogDirs(), []string{filepath.FromSlash("moldau-data/log")}) || b.MetadataDirs()[0] != filepath.FromSlash("moldau-data/meta") {
		t.Error(b.LogDirs(), b.MetadataDirs()[0])
	}
	if b.Int("group.initial.rebalance.delay.ms") != 0 {
		t.Error("without a file the first rebalance does not wait")
	}
	if b.NodeID() != 1 || b.Int("broker.id") != 1 {
		t.Error(b.NodeID(), b.Int("broker.id"))
	}
	if got := b.OffsetsTopic(1); got != (InternalTopic{50, 1, 0, 104857600}) {
		t.Error(got)
	}
	if got := b.TransactionTopic(1); got != (InternalTopic{50, 1, 1, 104857600}) {
		t.Error(got)
	}
	if got := b.ShareTopic(5); got != (InternalTopic{50, 3, 2, 104857600}) {
		t.Error(got)
	}
	if top := b.Topic(nil, nil, nil); top.FlushMessages != 1 || top.FlushMs != math.MaxInt64 || top.SegmentBytes != 1<<30 ||
		top.RetentionMs != 7*24*time.Hour || !top.CleanupDelete || top.CleanupCompact || top.MinISR != 1 || top.MaxMessageBytes != 1048588 {
		t.Errorf("%+v", top)
	}
}

func TestStrongerSourcesWin(t *testing.T) {
	for name, c := range map[string]struct {
		s    Sources
		key  string
		want string
	}{
		"file over default":   {file("log.segment.bytes=2000000"), "log.segment.bytes", "2000000"},
		"environment on file": {with(file("log.segment.bytes=2000000"), []string{"KAFKA_LOG_SEGMENT_BYTES=3000000"}, nil, nil), "log.segment.bytes", "3000000"},
		"set on environment":  {with(file(), []string{"KAFKA_LOG_SEGMENT_BYTES=3000000"}, []string{"log.segment.bytes=4000000"}, nil), "log.segment.bytes", "4000000"},
		"last set":            {with(Sources{}, nil, []string{"num.partitions=2", "num.partitions=3"}, nil), "num.partitions", "3"},
		"flag on file":        {with(file("moldau.http.listener=off"), nil, nil, map[string]string{"http": ":0"}), "moldau.http.listener", ":0"},
		// A stronger source displaces what says the same in another unit, though Kafka would prefer milliseconds.
		"other unit": {with(file("log.retention.ms=5"), []string{"KAFKA_LOG_RETENTION_HOURS=1"}, nil, nil), "retention.ms", "3600000"},
		"other name": {with(file("log.dirs=/a"), nil, []string{"log.dir=/b"}, nil), "log.dir", "/b"},
		"node id":    {with(file("broker.id=7"), nil, []string{"node.id=8"}, nil), "broker.id", "8"},
		"old id":     {file("broker.id=7"), "node.id", "7"},
		"literal":    {file("broker.rack=${HOME}"), "broker.rack", "${HOME}"},
		"utf-8":      {file("broker.rack=zürich"), "broker.rack", "zürich"},
	} {
		b, _ := load(t, c.s)
		got := ""
		for _, e := range slices.Concat(b.DescribeBroker(nil, nil), b.DescribeTopic(nil, nil, nil)) {
			if e.Name == c.key {
				got = e.Value
			}
		}
		if got != c.want {
			t.Errorf("%s: %s=%s, want %s", name, c.key, got, c.want)
		}
	}
	b, _ := load(t, with(file("log.dirs=/a", "metadata.log.dir=/m"), nil, nil, map[string]string{"data-dir": "/d", "listen": "[::1]:0"}))
	if b.LogDirs()[0] != filepath.FromSlash("/d/log") || b.MetadataDirs()[0] != filepath.FromSlash("/d/meta") || b.Listeners()[0].BindAddrs()[0] != "[::1]:0" {
		t.Error(b.LogDirs(), b.MetadataDirs()[0], b.Listeners())
	}
	if b, _ := load(t, with(Sources{}, nil, []string{"log.dirs=/a,/b"}, nil)); !slices.Equal(b.MetadataDirs(), []string{filepath.FromSlash("/a/.moldau"), filepath.FromSlash("/b/.moldau")}) {
		t.Error(b.MetadataDirs())
	}
	if b, _ := load(t, with(Sources{}, nil, []string{"metadata.log.dir=/m"}, nil)); b.MetadataDirs()[0] != filepath.FromSlash("/m") || b.LogDirs()[0] != filepath.FromSlash("moldau-data/log") {
		t.Error(b.LogDirs(), b.MetadataDirs()[0])
	}
}

func with(s Sources, env, sets []string, flags map[string]string) Sources {
	s.Env, s.Sets, s.Flags = env, sets, flags
	return s
}

func TestErrorsNameKeyValueAndWhatToDo(t *testing.T) {
	for _, c := range []struct {
		s    Sources
		want string // a part of the error
	}{
		{file("log.segment.bytes=5"), "log.segment.bytes=5 (in server.properties): Value must be at least 1048576; allowed: [1048576,...]"},
		{with(Sources{}, []string{"KAFKA_NUM_PARTITIONS=x"}, nil, nil), "num.partitions=x (by environment variable KAFKA_NUM_PARTITIONS): Not a number of type INT"},
		{with(Sources{}, nil, []string{"compression.type=best"}, nil), "compression.type=best (by --set): String must be one of: uncompressed,"},
		{with(Sources{}, nil, nil, map[string]string{"http": "9644"}), "moldau.http.listener=9644 (by --http): expected host:port or off"},
		{with(Sources{}, nil, nil, map[string]string{"listen": "9092"}), `--listen "9092": expected HOST:PORT`},
		{with(Sources{}, nil, nil, map[string]string{"listen": "x:70000"}), "not a port from 0 to 65535"},
		{with(Sources{}, nil, nil, map[string]string{"data-dr": "x"}), "unknown flag --data-dr; did you mean --data-dir?"},
		{with(Sources{}, nil, []string{"nonsense"}, nil), "--set nonsense: expected key=value"},
		{with(Sources{}, nil, []string{"log.dirs=/x"}, map[string]string{"data-dir": "/d"}), "log.dirs is given both by --set and by --data-dir"},
		// Names.
		{file("log.dir5=/x"), "log.dir5 (in server.properties) is no configuration key; did you mean log.dir?"},
		{file("Log_Dirs=/x"), "did you mean log.dirs?"},
		{file("log.retnetion.ms=5"), "did you mean log.retention.ms?"},
		{file("flush.messages=1"), "it belongs to a topic, the broker's default is log.flush.interval.messages"},
		{file("remote.storage.enable=true"), "it can be set only on a topic"},
		{file("moldau.htp.listener=off"), "did you mean moldau.http.listener?"},
		{file("moldau.unheard.of=1"), "moldau.unheard.of (in server.properties) is no configuration key"},
		{with(Sources{}, nil, []string{"unheard.of=1"}, nil), "unheard.of (by --set) is no configuration key"},
		{file("leader.replication.throttled.rate=5"), "only while the broker runs"},
		{with(Sources{}, []string{"KAFKA_CFG_LOG_DIRS=/x"}, nil, nil), "name it KAFKA_LOG_DIRS"},
		// Security, durability and the place of data.
		{file("security.inter.broker.protocol=SSL"), "security.inter.broker.protocol=SSL (in server.properties): must be the name of one of the listeners"},
		{file("ssl.provider=BC"), "is not supported yet: Java security providers cannot be loaded"},
		{file("listener.name.x.ssl.engine.factory.class=my.Factory"), "is not supported yet: Java classes"},
		{file("ssl.client.auth=perhaps"), "String must be one of: required, requested, none"},
		{with(Sources{}, nil, nil, map[string]string{"tls": "on"}), "moldau.tls=on (by --tls): String must be one of: off, auto"},
		{file("authorizer.class.name=kafka.security.authorizer.AclAuthorizer"), "authorizer.class.name=kafka.security.authorizer.AclAuthorizer (in server.properties): Java authorizers cannot be loaded; allowed: org.apache.kafka.metadata.authorizer.StandardAuthorizer, or empty"},
		{file("super.users=User:a;b"), "principalType:principalName"},
		{file("allow.everyone.if.no.acl.found=yes"), "allow.everyone.if.no.acl.found"},
		{file("principal.builder.class=my.Builder"), "is not supported yet"},
		{file("create.topic.policy.class.name=my.Policy"), "is not supported yet"},
		{file("config.providers=file"), "is not supported yet"},
		{file("log.dirs=/a,/b,/a/"), "log.dirs=/a,/b,/a/ (in server.properties): names /a twice"},
		{file("log.dirs=/a,/ab,/a/b"), "log.dirs=/a,/ab,/a/b (in server.properties): /a/b is inside /a, which holds only what Kafka puts there"},
		{file("log.dir=/a/b/c,/a"), "log.dir=/a/b/c,/a (in server.properties): /a/b/c is inside /a, which"},
		{file("log.dirs=/a,/b", "metadata.log.dir=/b"), "metadata.log.dir=/b (in server.properties): must not be the log directory"},
		{file("cordoned.log.dirs=*"), "is not supported yet"},
		{file("remote.log.storage.system.enable=true"), "tiered storage is not implemented"},
		{file("log.dirs=/a", "metadata.log.dir=/a/"), "metadata.log.dir=/a/ (in server.properties): must not be the log directory"},
		// Several nodes.
		{file("process.roles=broker"), "a single node has process.roles=broker,controller"},
		{file("process.roles=controller"), "a single node has"},
		{file("controller.quorum.voters=1@a:9093,2@b:9093"), "only node 1 is this one (node.id), not 2@b:9093"},
		{file("node.id=3", "controller.quorum.voters=1@a:9093"), "not 1@a:9093"},
		{file("controller.quorum.voters=nonsense"), "{id}@{host}:{port}"},
		{file("controller.quorum.bootstrap.servers=other:9093"), "other:9093 is none of this node's controller listeners"},
		{file("controller.quorum.bootstrap.servers=localhost:9093,localhost:9094", "listeners=PLAINTEXT://:9092,CONTROLLER://:9093"), "localhost:9094 is none"},
		// Rules over several keys.
		{file("node.id=1", "broker.id=2"), "must be the same as node.id=1"},
		{file("broker.id=-1"), "must be at least 0"},
		{file("log.retention.hours=0"), "log.retention.hours=0 (in server.properties): log.retention.ms must be unlimited"},
		{file("log.roll.jitter.ms=-1"), "log.roll.jitter.ms must be greater"},
		{file("log.cleaner.min.compaction.lag.ms=5", "log.cleaner.max.compaction.lag.ms=4"), "min.compaction.lag.ms (5) > max.compaction.lag.ms (4)"},
		{file("max.connections.per.ip=0"), "can be set to zero only if"},
		{file("max.connections.per.ip.overrides=host"), "in the form host:count"},
		{file("moldau.metastore.election.ms=100"), "at least five times moldau.metastore.tick.ms=30"},
		// Listeners.
		{file("listeners=EXTERNAL://:9092"), "add EXTERNAL:PLAINTEXT to listener.security.protocol.map"},
		{file("listeners=PLAINTEXT://:9092,B://:9092", "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,B:PLAINTEXT"), "share port 9092"},
		{file("listeners=PLAINTEXT://:1,plaintext://:2"), "PLAINTEXT is there twice"},
		{file("listeners=CONTROLLER://:9093"), "has no listener for clients"},
		{file("listeners="), "must not be empty"},
		{file("listener.security.protocol.map=PLAINTEXT:PLAIN"), "unknown security protocol"},
		{file("advertised.listeners=PLAINTEXT://0.0.0.0:1"), "nonroutable meta-address"},
		{file("advertised.listeners=OTHER://x:1"), "names the listener OTHER, which is not in listeners; there are PLAINTEXT"},
		{file("advertised.listeners=PLAINTEXT://x:0"), "not a port from 1 to 65535"},
		{file("inter.broker.listener.name=OTHER"), "must be one of the listeners for clients: PLAINTEXT"},
		{file("inter.broker.listener.name=PLAINTEXT", "security.inter.broker.protocol=PLAINTEXT"), "Only one of"},
		{file(strings.Repeat("#", maxFileBytes+1)), "is larger than"},
		{file(`a=\uZZZZ`), "server.properties"},
	} {
		b, _, err := Load(c.s)
		if err == nil || b != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q, got %v", c.want, err)
		}
	}
	_, _, err := Load(file("log.segment.bytes=5", "num.partitions=0", "log.dir5=x", "authorizer.class.name=x"))
	var one *SettingError
	if err == nil {
		t.Fatal("four mistakes and no error")
	}
	if n := strings.Count(err.Error(), "\n"); n != 3 || !errors.As(err, &one) {
		t.Errorf("every problem at once, one a line: %v", err)
	}
}

func TestWhatStartsAllTheSame(t *testing.T) {
	for _, s := range []Sources{
		file("controller.quorum.voters=1@somewhere:9093"),
		file("controller.quorum.bootstrap.servers=localhost:9093"),
		file("controller.quorum.bootstrap.servers=kafka.example:9093", "listeners=PLAINTEXT://:9092,CONTROLLER://:9093", "advertised.listeners=PLAINTEXT://kafka.example:9092"),
		with(file("controller.quorum.bootstrap.servers=kafka-0.kafka.svc:9093"), []string{"HOSTNAME=kafka-0"}, nil, nil),
		file("authorizer.class.name=", "client.quota.callback.class="),
		file("listeners=PLAINTEXT://127.0.0.1:9092,B://[::1]:9092", "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,B:PLAINTEXT"),
		file("listeners=PLAINTEXT://:0,B://:0", "listener.security.protocol.map=plaintext:plaintext, b:PLAINTEXT"),
		file("listeners=PLAINTEXT://:9092,SEC://:9093", "controller.listener.names=SEC", "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SEC:SASL_SSL"),
		file("log.cleanup.policy=", "log.retention.ms=-2", "advertised.listeners=PLAINTEXT://:29092"),
		file("max.connections.per.ip=0", "max.connections.per.ip.overrides=127.0.0.1:5,::1:6"),
	} {
		if _, _, err := Load(s); err != nil {
			t.Error(err)
		}
	}
}

func TestTheEnvironmentOfKafkasImageStarts(t *testing.T) {
	b, warnings := load(t, Sources{Env: []string{
		"KAFKA_NODE_ID=1", "KAFKA_PROCESS_ROLES=broker,controller", "KAFKA_CONTROLLER_QUORUM_VOTERS=1@broker:29093", "KAFKA_CONTROLLER_LISTENER_NAMES=CONTROLLER",
		"KAFKA_LISTENER_SECURITY_PROTOCOL_MAP=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PLAINTEXT_HOST:PLAINTEXT",
		"KAFKA_LISTENERS=CONTROLLER://:29093,PLAINTEXT_HOST://:9092,PLAINTEXT://:19092",
		"KAFKA_ADVERTISED_LISTENERS=PLAINTEXT_HOST://localhost:9092,PLAINTEXT://broker:19092", "KAFKA_INTER_BROKER_LISTENER_NAME=PLAINTEXT",
		"KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR=1", "KAFKA_LOG_DIRS=/tmp/kraft-combined-logs", "CLUSTER_ID=4L6g3nShT-eMCtK--X86sw"}})
	if len(warnings) != 2 || b.InterBrokerListener() != "PLAINTEXT" {
		t.Error(warnings)
	}
	want := []Listener{{"PLAINTEXT_HOST", "", 9092, Plaintext, "localhost", 9092}, {"PLAINTEXT", "", 19092, Plaintext, "broker", 19092}}
	if got := b.Listeners(); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestWarningsAreGathered(t *testing.T) {
	s := with(file("confluent.license=x", "something.else=1", "another.thing=2", "zookeeper.connect=z:2181", "port=9092",
		"ssl.keystore.location=/k", "listener.name.plaintext.sasl.jaas.config=secret", "super.users=User:a",
		"listener.name.extrnal.ssl.client.auth=required", "num.io.threads=32", "num.network.threads=3", "background.threads=12"),
		[]string{"KAFKA_HEAP_OPTS=-Xmx1G", "KAFKA_JMX_PORT=1", "KAFKA_PORT=tcp://10.0.0.1:9092", "KAFKA_PORT_9092_TCP_ADDR=10.0.0.1",
			"KAFKA_SERVICE_HOST=10.0.0.1", "KAFKA_BROKER_SERVICE_PORT_TCP_KAFKA=9092", "KAFKA_UI_PORT=tcp://10.0.0.2:80", "PATH=/bin", "KAFKA_", "NONSENSE"}, nil, nil)
	_, warnings := load(t, s)
	want := []struct {
		level slog.Level
		keys  []string
	}{
		{slog.LevelWarn, []string{"another.thing", "something.else"}},
		{slog.LevelWarn, []string{"port", "zookeeper.connect"}},
		{slog.LevelInfo, []string{"KAFKA_HEAP_OPTS", "KAFKA_JMX_PORT", "confluent.license"}},
		{slog.LevelWarn, []string{"listener.name.plaintext.sasl.jaas.config", "ssl.keystore.location"}},
		{slog.LevelWarn, []string{"super.users"}},
		{slog.LevelWarn, []string{"listener.name.extrnal.ssl.client.auth"}},
		{slog.LevelInfo, []string{"background.threads", "num.io.threads"}},
	}
	if len(warnings) != len(want) {
		t.Fatalf("%v", warnings)
	}
	for i, w := range warnings {
		if w.Level != want[i].level || !slices.Equal(w.Keys, want[i].keys) || strings.Contains(w.Text, "secret") {
			t.Errorf("%v %v %q", w.Level, w.Keys, w.Text)
		}
		for _, k := range w.Keys {
			if !strings.Contains(w.Text, k) {
				t.Errorf("%q does not name %s", w.Text, k)
			}
		}
	}
}

func TestEnvironmentNamesFollowKafkasImage(t *testing.T) {
	for variable, want := range map[string]string{
		"KAFKA_LOG_DIRS": "log.dirs", "KAFKA_A__B": "a_b", "KAFKA_A___B": "a-b", "KAFKA_NODE_ID": "node.id",
		"KAFKA_LISTENER_NAME_SASL__PLAINTEXT_SASL_ENABLED_MECHANISMS": "listener.name.sasl_plaintext.sasl.enabled.mechanisms",
	} {
		if got, use := envKey(variable, "x"); got != want || use != envSetting {
			t.Errorf("%s: %q %v", variable, got, use)
		}
	}
}

func TestDynamicValuesDisplaceOtherUnits(t *testing.T) {
	b, _ := load(t, file("log.roll.ms=5000", "log.retention.hours=1"))
	for _, c := range []struct {
		own, broker, cluster map[string]string
		roll, retention      time.Duration
	}{
		{nil, nil, nil, 5 * time.Second, time.Hour},
		{nil, nil, map[string]string{"log.retention.ms": "7"}, 5 * time.Second, 7 * time.Millisecond},
		{nil, map[string]string{"log.retention.ms": "8"}, map[string]string{"log.retention.ms": "7"}, 5 * time.Second, 8 * time.Millisecond},
		{map[string]string{"retention.ms": "-1"}, map[string]string{"log.retention.ms": "8"}, nil, 5 * time.Second, -1},
		{map[string]string{"retention.ms": "broken"}, map[string]string{"log.retention.ms": "broken"}, nil, 5 * time.Second, time.Hour},
		{nil, nil, map[string]string{"log.roll.hours": "2"}, 5 * time.Second, time.Hour}, // not a dynamic key
		{nil, nil, map[string]string{"log.retention.ms": "-9"}, 5 * time.Second, -1},
	} {
		if got := b.Topic(c.own, c.broker, c.cluster); got.SegmentMs != c.roll || got.RetentionMs != c.retention {
			t.Errorf("%+v: %v %v", c, got.SegmentMs, got.RetentionMs)
		}
	}
	huge, _ := load(t, file("log.roll.hours=2147483647"))
	if got := huge.Topic(nil, nil, nil).SegmentMs; got != math.MaxInt64 {
		t.Error(got)
	}
	if got := b.WithDynamic(map[string]string{"message.max.bytes": "5"}, nil).WithDynamic(nil, nil).Int("message.max.bytes"); got != 1048588 {
		t.Error("dynamic values that were taken back count no more", got)
	}
	if b.WithDynamic(nil, map[string]string{"max.connections.per.ip.overrides": "10.0.0.1:3"}).ConnectionOverrides()["10.0.0.1"] != 3 {
		t.Error("limits of addresses are dynamic")
	}
}

func TestIncrementalListsStartFromTheDefault(t *testing.T) {
	for _, c := range []struct {
		current string
		has     bool
		op      ListOp
		operand string
		want    string
	}{
		{"", false, Append, "compact", "delete,compact"},
		{"", true, Append, "compact", "compact"},
		{"delete", true, Append, "delete", "delete"},
		{"delete , compact", true, Subtract, "delete", "compact"},
		{"", false, Subtract, "delete", ""},
	} {
		if got, err := Incremental(TopicScope, "cleanup.policy", c.current, c.has, c.op, c.operand); got != c.want || err != nil {
			t.Errorf("%+v: %q %v", c, got, err)
		}
	}
	if _, err := Incremental(TopicScope, "retention.ms", "", false, Subtract, "1"); err == nil || err.Error() != "Can't SUBTRACT to key retention.ms because its type is not LIST." {
		t.Error(err)
	}
}

func TestHelpNamesEveryDifference(t *testing.T) {
	help := DefaultsText()
	for _, k := range Keys(BrokerScope) {
		if k.KafkaDefault != "" && k.Name != "log.dir" && !strings.Contains(help, k.Name) {
			t.Errorf("%s is missing", k.Name)
		}
		text, ok := Explain(k.Name)
		if !ok || !strings.Contains(text, k.Doc) {
			t.Errorf("%s: %s", k.Name, text)
		}
	}
	if text, ok := Explain("compression.type"); !ok || strings.Count(text, "compression.type (") != 2 {
		t.Error(text)
	}
	if text, ok := Explain("retention.mss"); ok || !strings.Contains(text, "did you mean retention.ms?") {
		t.Error(text)
	}
}

func TestEveryKeyIsExplained(t *testing.T) {
	for _, k := range Keys(BrokerScope) {
		e := Explanations(k.Name)
		if len(e) == 0 || e[0].Scope != BrokerScope || e[0].Default != k.Default {
			t.Fatalf("%s: %+v", k.Name, e)
		}
		if k.DynamicOnly {
			continue
		}
		if key, use := envKey(e[0].Environment, "x"); key != k.Name && use == envSetting {
			t.Errorf("%s: its variable %s sets %s", k.Name, e[0].Environment, key)
		}
	}
	e := Explanations("log.retention.minutes")[0]
	if !slices.Equal(e.SameAs, []string{"log.retention.ms", "log.retention.hours"}) || e.Topic != "retention.ms" || e.Environment != "KAFKA_LOG_RETENTION_MINUTES" {
		t.Errorf("%+v", e)
	}
	if e := Explanations("retention.ms")[0]; e.Scope != TopicScope || e.Inherits[0] != "log.retention.ms" || e.Environment != "" {
		t.Errorf("%+v", e)
	}
	if e := Explanations("listener.name.internal.max.connections"); len(e) != 1 || e[0].Type != Int || e[0].SameAs[0] != "max.connections" {
		t.Errorf("a listener's own key: %+v", e)
	}
	if e := Explanations("no.such.key"); e != nil {
		t.Errorf("%+v", e)
	}
}

func TestJavaNumbers(t *testing.T) {
	for in, want := range map[string]string{"0.50": "0.5", "1": "1.0", "1e7": "1.0E7", "0.0001": "1.0E-4", "1d": "1.0", "0x1p-1": "0.5", "0x1p-1f": "0.5",
		"-Infinity": "-Infinity", "NaN": "NaN", "1e999": "Infinity", ".5": "0.5", "+5.": "5.0", "123456.789": "123456.789", "0": "0.0", "1.7976931348623157E308": "1.7976931348623157E308",
		"inf": "", "nan": "", "1_0": "", "0x10": "", "": "", "-": "", "1 2": "", "--1": "", "d": ""} {
		f, ok := parseJavaDouble(in)
		got := ""
		if ok {
			got = javaDouble(f)
		}
		if got != want {
			t.Errorf("%q: %q, Java %q", in, got, want)
		}
	}
}

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		if _, _, err := Load(Sources{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTopic(b *testing.B) {
	config, _, err := Load(Sources{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		config.Topic(nil, nil, nil)
	}
}

func FuzzLoad(f *testing.F) {
	kraft, err := os.ReadFile("testdata/kafka-4.3.1/server.properties")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(kraft), "KAFKA_LOG_DIRS=/x", "log.dirs=/y", "localhost:0")
	f.Add("listeners=A://[::1]:1,B://:2\nmax.connections.per.ip.overrides=a:1,:", "KAFKA_A___B=1", "controller.quorum.voters=1@a:1", ":")
	for _, k := range Keys(BrokerScope) {
		f.Add(k.Name+"="+k.Default, "KAFKA_X=", k.Name+"=-1", "")
	}
	f.Fuzz(func(t *testing.T, properties, env, set, listen string) {
		flags := map[string]string{}
		if listen != "" {
			flags["listen"] = listen
		}
		s := Sources{File: strings.NewReader(properties), Env: strings.Split(env, "\n"), Sets: []string{set}, Flags: flags}
		b, warnings, err := Load(s)
		if (b == nil) == (err == nil) {
			t.Fatalf("%v %v", b, err)
		}
		for _, w := range warnings {
			_ = w.String()
		}
		if b != nil {
			useEverything(t, b, map[string]string{set: env})
		}
	})
}

// useEverything calls every getter: none may panic on a configuration that was accepted.
func useEverything(t *testing.T, b *Broker, dynamic map[string]string) {
	for _, k := range Keys(BrokerScope) {
		switch k.Type {
		case Boolean:
			b.Bool(k.Name)
		case Int, Short, Long:
			b.Millis(k.Name)
		case Double:
			b.Double(k.Name)
		case List:
			b.List(k.Name)
		default:
			b.Text(k.Name)
		}
	}
	b.Topic(dynamic, dynamic, dynamic)
	_ = b.ValidateTopic(dynamic, dynamic, dynamic)
	_ = b.ValidateDynamic(dynamic, true, nil, nil)
	b.DescribeBroker(dynamic, dynamic)
	DescribeCluster(dynamic)
	b.HTTPAddrs()
	b.InterBrokerListener()
	b.NodeID()
	b.OffsetsTopic(1)
	for _, l := range b.Listeners() {
		l.BindAddrs()
	}
	for _, dir := range append(b.LogDirs(), b.MetadataDirs()...) {
		if dir == "" {
			t.Error("a directory without a name")
		}
	}
	for _, e := range b.DescribeTopic(dynamic, nil, nil) {
		if e.Sensitive && e.Value != "" {
			t.Error(e)
		}
	}
}

func FuzzValidateTopic(f *testing.F) {
	for _, k := range Keys(TopicScope) {
		f.Add(k.Name, k.Default)
		f.Add(k.Name, "-1")
	}
	b, _, err := Load(Sources{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, name, value string) {
		values := map[string]string{name: value}
		if err := ValidateTopic(values); err != nil {
			return
		}
		// What was accepted is shown in a spelling that is accepted and means the same.
		before := b.Topic(values, nil, nil)
		i := slices.IndexFunc(b.DescribeTopic(values, nil, nil), func(e Entry) bool { return e.Name == name })
		shown := maps.Clone(values)
		shown[name] = b.DescribeTopic(values, nil, nil)[i].Value
		if err := ValidateTopic(shown); err != nil {
			t.Fatal(err)
		}
		if after := b.Topic(shown, nil, nil); after.CompressionType != before.CompressionType || after.SegmentMs != before.SegmentMs || after.RetentionMs != before.RetentionMs ||
			after.CleanupCompact != before.CleanupCompact || after.FlushMessages != before.FlushMessages || after.MaxMessageBytes != before.MaxMessageBytes {
			t.Fatalf("%s: %+v became %+v", name, before, after)
		}
	})
}
