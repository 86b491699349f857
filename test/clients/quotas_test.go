//go:build clients && linux

package clients

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
)

// quotaTool is what kafka-configs is told about quotas.
var quotaTool = []string{
	"--describe --entity-type users", "--describe --entity-type clients", "--describe --entity-type ips",
	"--alter --entity-type users --entity-name alice --add-config producer_byte_rate=1024,consumer_byte_rate=2048,request_percentage=12.5,controller_mutation_rate=0.5",
	"--alter --entity-type users --entity-default --add-config producer_byte_rate=4096",
	"--alter --user bob --add-config consumer_byte_rate=1e6",
	"--alter --client reader --add-config consumer_byte_rate=3",
	"--alter --entity-type clients --entity-default --add-config request_percentage=200",
	"--alter --client-defaults --add-config producer_byte_rate=5",
	"--alter --user-defaults --add-config controller_mutation_rate=6",
	"--alter --entity-type users --entity-name alice --entity-type clients --entity-name reader --add-config consumer_byte_rate=7",
	"--alter --user alice --client-defaults --add-config consumer_byte_rate=8",
	"--alter --entity-type users --entity-default --entity-type clients --entity-name reader --add-config consumer_byte_rate=9",
	"--alter --entity-type users --entity-default --entity-type clients --entity-default --add-config consumer_byte_rate=10",
	"--alter --ip 10.0.0.7 --add-config connection_creation_rate=11",
	"--alter --entity-type ips --entity-default --add-config connection_creation_rate=12",
	"--alter --ip-defaults --add-config connection_creation_rate=13",
	"--alter --entity-type ips --entity-name 2001:db8::7 --add-config connection_creation_rate=14",
	"--alter --user CN=a,O=b/c=%20 --add-config producer_byte_rate=15",
	"--describe --entity-type users", "--describe --entity-type clients", "--describe --entity-type ips",
	"--describe --entity-type users --entity-type clients", "--describe --entity-type clients --entity-type users",
	"--describe --user alice", "--describe --user nobody", "--describe --user-defaults", "--describe --entity-type users --entity-default",
	"--describe --client reader", "--describe --client-defaults", "--describe --ip 10.0.0.7", "--describe --ip-defaults", "--describe --ip 10.0.0.8",
	"--describe --user alice --client reader", "--describe --user alice --client-defaults", "--describe --user alice --entity-type clients",
	"--describe --user-defaults --client-defaults", "--describe --user-defaults --client reader", "--describe --client reader --entity-type users",
	"--alter --user alice --add-config producer_byte_rate=1025 --delete-config consumer_byte_rate",
	"--alter --user alice --delete-config consumer_byte_rate",
	"--describe --user alice",
	"--alter --user alice --add-config producer_byte_rate=0", "--alter --user alice --add-config producer_byte_rate=-1", "--alter --user alice --add-config producer_byte_rate=1.5",
	"--alter --user alice --add-config request_percentage=0.001", "--alter --user alice --add-config producer_byte_rate=many",
	"--alter --user alice --add-config connection_creation_rate=1", "--alter --user alice --add-config no_such_key=1", "--alter --user alice --delete-config no_such_key",
	"--alter --client reader --add-config connection_creation_rate=1", "--alter --client reader --add-config no_such_key=1",
	"--alter --ip 10.0.0.7 --add-config producer_byte_rate=1", "--alter --ip 10.0.0.7 --add-config connection_creation_rate=1.5", "--alter --ip 10.0.0.7 --add-config connection_creation_rate=3000000000",
	"--alter --ip 10.0.0.999 --add-config connection_creation_rate=1", "--alter --ip 10.0.0.7 --user alice --add-config connection_creation_rate=1",
	"--alter --user alice --delete-config producer_byte_rate,request_percentage,controller_mutation_rate",
	"--alter --client-defaults --delete-config request_percentage,producer_byte_rate",
	"--alter --ip-defaults --delete-config connection_creation_rate",
	"--alter --user-defaults --client-defaults --delete-config consumer_byte_rate",
	"--describe --entity-type users", "--describe --entity-type clients", "--describe --entity-type ips", "--describe --entity-type users --entity-type clients",
}

var quotaValues = regexp.MustCompile(` are \w+=.*`)

// TestQuotaToolParity: kafka-configs sets, shows and removes quotas of each kind of entity, and refuses, with Moldau as with Apache Kafka. What it has
// printed with Kafka is in testdata/parity; see TestGroupsParity for PARITY. The tool is Java's admin client.
func TestQuotaToolParity(t *testing.T) {
	t.Parallel()
	mode := parityMode(t)
	const name = "tools-quotas"
	transcript := func(b *broker) string {
		out := normalTranscript(toolTranscript(t, b, "kafka.admin.ConfigCommand", strings.Join(quotaTool, "\n")), b.addr)
		return quotaValues.ReplaceAllStringFunc(out, func(values string) string { // in no order
			list := strings.Split(strings.TrimPrefix(values, " are "), ", ")
			slices.Sort(list)
			return " are " + strings.Join(list, ", ")
		})
	}
	b := startBroker(t)
	got := transcript(b)
	want := kafkasLog(t, mode, name, got, func() string {
		peer := newBrokerOf(t, true)
		peer.start()
		return transcript(peer)
	})
	if diff := stepDiff("$ ", got, want, allowedIn(name)); diff != "" {
		t.Errorf("what the tool prints differs from Kafka's (-) in\n%s", diff)
	}
	if diff := stepDiff("$ ", strings.Replace(got, "2048", "2049", 1), want, allowedIn(name)); diff == "" {
		t.Error("the comparison does not see a number that is wrong")
	}
	b.mustRun()
}

// TestQuotaClients: the other clients that know quotas set, read and remove them. confluent-kafka, kafka-python, aiokafka and kafkajs do not.
func TestQuotaClients(t *testing.T) {
	t.Parallel()
	b := startBroker(t)
	adm := kadm.NewClient(b.client())
	user, client := "alice", "reader"
	entity := kadm.ClientQuotaEntity{{Type: "user", Name: &user}, {Type: "client-id", Name: &client}}
	set := func(entity kadm.ClientQuotaEntity, ops ...kadm.AlterClientQuotaOp) error {
		t.Helper()
		altered, err := adm.AlterClientQuotas(deadline(t, time.Minute), []kadm.AlterClientQuotaEntry{{Entity: entity, Ops: ops}})
		must(t, err)
		return altered[0].Err
	}
	must(t, set(entity, kadm.AlterClientQuotaOp{Key: "producer_byte_rate", Value: 1024}, kadm.AlterClientQuotaOp{Key: "request_percentage", Value: 12.5}))
	if err := set(entity, kadm.AlterClientQuotaOp{Key: "producer_byte_rate", Value: -1}); !errors.Is(err, kerr.InvalidRequest) {
		t.Errorf("a rate below zero: %v", err)
	}
	if only, err := adm.ValidateAlterClientQuotas(deadline(t, time.Minute), []kadm.AlterClientQuotaEntry{{Entity: entity, Ops: []kadm.AlterClientQuotaOp{{Key: "producer_byte_rate", Value: 1}}}}); err != nil || only[0].Err != nil {
		t.Errorf("validated only: %v %+v", err, only)
	}
	for _, version := range []string{"2.7.0", "max"} {
		command := saramaCommand(version, "quotas", b.addr, user)
		out := run(t, toolPatience, nil, command[0], command[1:]...).stdout
		if want := "refused: Quota consumer_byte_rate must be greater than 0\nclient-id=reader producer_byte_rate=1024 request_percentage=12.5 user=alice\nconsumer_byte_rate=2048 user=alice\n"; out != want {
			t.Errorf("sarama %s prints\n%swant\n%s", version, out, want)
		}
	}
	must(t, set(entity, kadm.AlterClientQuotaOp{Key: "producer_byte_rate", Remove: true}))
	want := "{user=alice, client-id=reader} [request_percentage=12.500000]"
	var got string
	for until := time.Now().Add(time.Minute); got != want && time.Now().Before(until); time.Sleep(20 * time.Millisecond) { // a broker of Kafka's learns it later
		described, err := adm.DescribeClientQuotas(deadline(t, time.Minute), true, []kadm.DescribeClientQuotaComponent{{Type: "user", MatchName: &user}, {Type: "client-id", MatchName: &client}})
		must(t, err)
		got = ""
		for _, d := range described {
			slices.SortFunc(d.Entity, func(x, y kadm.ClientQuotaEntityComponent) int { return strings.Compare(y.Type, x.Type) })
			got += fmt.Sprint(d.Entity, " ", d.Values)
		}
	}
	if got != want {
		t.Errorf("franz-go: %s, want %s", got, want)
	}
	b.mustRun()
}
