package broker

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"moldau/internal/acl"
	"moldau/internal/config"
	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// grant allows everybody on this broker, who has not authenticated, an operation on a topic.
func (j *jbod) grant(topic string, ops ...acl.Operation) {
	j.t.Helper()
	var rules []acl.Binding
	for _, op := range ops {
		rules = append(rules, acl.Binding{Pattern: acl.Pattern{Type: acl.Topic, Kind: acl.Literal, Name: topic},
			Entry: acl.Entry{Principal: "User:ANONYMOUS", Host: "127.0.0.1", Operation: op, Permission: acl.Allow}})
	}
	for _, r := range j.cluster.CreateACLs(j.ctx, rules) {
		if r.Code != wire.None {
			j.t.Fatal(r.Code, r.Message)
		}
	}
}

func (j *jbod) revoke(topic string, op acl.Operation) {
	j.t.Helper()
	f := acl.Filter{Type: acl.Topic, Kind: acl.Literal, Name: &topic, Operation: op, Permission: acl.AnyPermission}
	if r := j.cluster.DeleteACLs(j.ctx, []acl.Filter{f})[0]; r.Code != wire.None || len(r.Deleted) != 1 {
		j.t.Fatal(r.Code, r.Message, r.Deleted)
	}
}

func contents(t *testing.T, fsys vfs.FS, name string) string {
	t.Helper()
	f, err := fsys.Open(name, vfs.ReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		t.Fatal(err)
	}
	data := make([]byte, size)
	if _, err := f.ReadAt(data, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return string(data)
}

// TestARemovedGrantStopsOpenConnections: when the change is answered it holds, for the very next request of a connection that was there before.
func TestARemovedGrantStopsOpenConnections(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	j := newJBOD(t)
	access := []string{"log.dirs=/a", "metadata.log.dir=/meta", "authorizer.class.name=" + config.StandardAuthorizer, "super.users=User:root"}
	j.start(access...)
	j.grant("t", acl.Create, acl.Write, acl.Read)
	j.topic("t", 1)
	producer := j.client(kgo.RecordRetries(1), kgo.DisableIdempotentWrite())
	send := func() error {
		return producer.ProduceSync(j.ctx, &kgo.Record{Topic: "t", Value: []byte("v")}).FirstErr()
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	consumer := j.client(kgo.KeepRetryableFetchErrors(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{"t": {0: kgo.NewOffset().At(0)}}))
	if fs := consumer.PollFetches(j.ctx); fs.Err() != nil || fs.NumRecords() != 1 {
		t.Fatal(fs.Err(), fs.NumRecords())
	}
	connections := func() string {
		for line := range strings.Lines(j.metrics()) {
			if strings.HasPrefix(line, "moldau_network_accepted_total") {
				return line
			}
		}
		return ""
	}
	before := connections()
	j.revoke("t", acl.Write)
	if err := send(); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Errorf("after the grant to write is gone: %v", err)
	}
	j.grant("t", acl.Write)
	if err := send(); err != nil {
		t.Errorf("after it is back: %v", err)
	}
	if after := connections(); before == "" || after != before {
		t.Errorf("other connections than before: %q and %q", before, after)
	}
	j.revoke("t", acl.Read)
	j.eventually("the consumer hears that it may not read", func() bool {
		return errors.Is(consumer.PollFetches(j.ctx).Err(), kerr.TopicAuthorizationFailed)
	})
	if m := j.metrics(); !strings.Contains(m, `moldau_authorization_denied_total{operation="WRITE",resource_type="TOPIC"}`) {
		t.Error("denials are not counted")
	}
	if log := j.log.String(); strings.Count(log, "msg=denied") < 2 || !strings.Contains(log, `hint="moldau acl grant producer ANONYMOUS t"`) {
		t.Error(log)
	}
	j.stop()
	audit := contents(t, j.disk, "/meta/audit.log")
	for line := range strings.Lines(audit) {
		if !json.Valid([]byte(line)) {
			t.Errorf("%q", line)
		}
	}
	if !strings.Contains(audit, `"msg":"denied","principal":"User:ANONYMOUS","host":"127.0.0.1","listener":"PLAINTEXT"`) {
		t.Error(audit)
	}

	j.start(access...) // rules survive
	if err := j.send("t", 0, "v"); err != nil {
		t.Error(err)
	}
	if _, err := j.first("t", 0); !errors.Is(err, kerr.TopicAuthorizationFailed) {
		t.Error(err)
	}
	j.stop()
}

func TestAuditLogIsBounded(t *testing.T) {
	disk := vfs.NewMem()
	a := openAudit(disk, "audit.log", slog.New(slog.DiscardHandler))
	line := append(bytes.Repeat([]byte("x"), 1<<20-1), '\n')
	for range 60 { // more than two files hold; as many as the queue takes
		if _, err := a.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	a.Close()
	a.Close()
	if _, err := a.Write(line); err == nil {
		t.Error("written after the end")
	}
	for _, name := range []string{"audit.log", "audit.log.1"} {
		if n := len(contents(t, disk, name)); n == 0 || n > auditBytes {
			t.Errorf("%s: %d bytes", name, n)
		}
	}
	(*audit)(nil).Close()
}

// TestAuditLogHoldsNobodyUp: while the disk hangs, lines are taken and dropped, and told of when it goes on.
func TestAuditLogHoldsNobodyUp(t *testing.T) {
	disk := vfs.NewMem()
	hang := make(chan struct{})
	slow := vfs.NewFault(disk, func(op vfs.Op) error {
		if op.Kind == vfs.OpWrite {
			<-hang
		}
		return nil
	})
	a := openAudit(slow, "audit.log", slog.New(slog.DiscardHandler))
	for range 3 * auditQueue {
		if _, err := a.Write([]byte("{}\n")); err != nil {
			t.Fatal(err)
		}
	}
	close(hang)
	a.Close()
	text := contents(t, disk, "audit.log")
	if n := strings.Count(text, "{}\n"); n < auditQueue || n > auditQueue+1 || !strings.Contains(text, `"msg":"dropped","lines":`) {
		t.Errorf("%d lines, then %s", n, text[max(0, len(text)-200):])
	}
}
