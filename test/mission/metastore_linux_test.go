package mission

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sys/unix"
)

// TestMetastoreFails: when etcd cannot write any more the process goes on without it. Records and offsets flow, a change of topics gets
// an error that says why, so does /ready, and a restart brings it back. No file of the process may grow beyond what it has:
// so etcd meets a failed write as it would on a full disk.
func TestMetastoreFails(t *testing.T) {
	p := serverIn(t, t.TempDir(), freeAddr(t))
	p.create("before", 1, nil)
	c := p.client(kgo.DefaultProduceTopic("before"))
	must(t, c.ProduceSync(p.ctx, kgo.StringRecord("before")).FirstErr())
	adm := kadm.NewClient(p.client())
	var at kadm.Offsets
	at.AddOffset("before", 0, 1, -1)
	must(t, adm.CommitAllOffsets(p.ctx, "g", at))

	const limit = 64 << 10 // of a file; the logs here stay far below
	must(t, unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: unix.RLIM_INFINITY}, nil))
	var refused kadm.CreateTopicResponse
	for i := 0; refused.Err == nil; i++ {
		r, err := adm.CreateTopics(p.ctx, 100, 1, nil, fmt.Sprintf("topic-%d", i))
		must(t, err)
		refused = r[fmt.Sprintf("topic-%d", i)]
	}
	if !strings.Contains(refused.ErrMessage, "until the process is restarted") {
		t.Errorf("a topic's creation was refused by %v: %q", refused.Err, refused.ErrMessage)
	}
	if _, err := adm.DeleteTopic(p.ctx, "before"); !errors.Is(err, kerr.UnknownServerError) {
		t.Errorf("a topic's deletion was answered with %v", err)
	}
	code, s := ready(t, p.http)
	if code != 503 || len(s.Reasons) != 1 || !strings.Contains(s.Reasons[0], "etcd in ") || !strings.Contains(s.Reasons[0], "until the process is restarted") {
		t.Errorf("/ready: %d %+v", code, s)
	}
	if m := metric(t, p.http, "moldau_metastore_failed"); m != "1" {
		t.Errorf("moldau_metastore_failed is %q", m)
	}
	eventually(t, p.ctx, "the log says so", func() bool {
		return strings.Contains(p.log.String(), "the metadata store failed: data keeps flowing")
	})
	must(t, c.ProduceSync(p.ctx, kgo.StringRecord("without")).FirstErr())
	at.AddOffset("before", 0, 2, -1)
	must(t, adm.CommitAllOffsets(p.ctx, "g", at))
	if got := p.read("before", 0, 0, 2); got[1] != "without" {
		t.Errorf("the log holds %q", got)
	}

	must(t, unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}, nil))
	p.kill()
	p.start()
	p.create("after", 1, nil)
	if got := p.read("before", 0, 0, 2); got[0] != "before" || got[1] != "without" {
		t.Errorf("after a restart the log holds %q", got)
	}
	if code, s := ready(t, p.http); code != 200 {
		t.Errorf("/ready after a restart: %d %+v", code, s)
	}
}
