//go:build clients && linux

package clients

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// TestKafkaACLs: kafka-acls, unchanged, prints for the broker what it prints for Kafka (testdata/kafka-acls.txt, with its lines in order: Kafka's
// sets have none). To record it anew: MOLDAU_TARGET=kafka ACLS=record go test -tags clients ./test/clients -run TestKafkaACLs
func TestKafkaACLs(t *testing.T) {
	t.Parallel()
	b := startBroker(t, "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:ANONYMOUS")
	var out strings.Builder
	for _, line := range []string{
		"--add --producer --topic orders --allow-principal User:alice --transactional-id tx- --resource-pattern-type prefixed --idempotent",
		"--add --consumer --topic orders --group billing --allow-principal User:bob --allow-host 10.0.0.7",
		"--add --operation All --deny-principal User:eve --topic *",
		"--add --operation Alter --operation DescribeConfigs --allow-principal User:carol --cluster",
		"--list",
		"--list --topic orders-eu --resource-pattern-type match",
		"--remove --force --consumer --topic orders --group billing --allow-principal User:bob --allow-host 10.0.0.7",
		"--remove --force --topic *",
		"--list",
	} {
		lines := strings.Split(strings.TrimSpace(tool(t, b, "acls", strings.Fields(line)...)), "\n")
		for i := range lines {
			lines[i] = strings.TrimSpace(lines[i])
		}
		slices.Sort(lines)
		out.WriteString("# " + line + "\n" + strings.TrimSpace(strings.Join(lines, "\n")) + "\n")
	}
	file := filepath.Join("testdata", "kafka-acls.txt")
	if os.Getenv("ACLS") == "record" {
		must(t, os.WriteFile(file, []byte(out.String()), 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if out.String() != string(want) {
		t.Errorf("got\n%s\nKafka prints\n%s", out.String(), want)
	}
	b.mustRun()
}

// TestDeniedClientsHearTheSame: the errors of a client that may not do anything.
func TestDeniedClientsHearTheSame(t *testing.T) {
	t.Parallel()
	b := startBroker(t, "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:somebody")
	ctx, cancel := context.WithTimeout(t.Context(), toolPatience)
	defer cancel()
	toolRefused(t, b, "ClusterAuthorizationException", "acls", "--list")
	toolRefused(t, b, "TopicAuthorizationException", "topics", "--create", "--topic", "t")
	cl := b.client(kgo.DisableIdempotentWrite())
	if err := cl.ProduceSync(ctx, &kgo.Record{Topic: "t", Value: []byte("v")}).FirstErr(); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("produce: %v", err)
	}
	if _, err := kadm.NewClient(cl).DeleteGroup(ctx, "g"); !errors.Is(err, kerr.GroupAuthorizationFailed) {
		t.Errorf("delete a group: %v", err)
	}
}
