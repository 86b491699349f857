package handler

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/network"
)

// described is what the log of slow requests would say of a request.
func (b *broker) described(t *testing.T, conn *network.Conn, req kmsg.Request) string {
	t.Helper()
	call, err := b.Start(t.Context(), conn, frameOf(req), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	defer call.Release()
	call.Wait(t.Context())
	var out strings.Builder
	h := slog.NewTextHandler(&out, nil)
	slog.New(h).LogAttrs(t.Context(), slog.LevelInfo, "", call.Describe()...)
	return out.String()
}

func TestDescribe(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 4)
	versions := kmsg.NewPtrApiVersionsRequest()
	versions.Version, versions.ClientSoftwareName, versions.ClientSoftwareVersion = 3, "franz-go", "1.2.3"
	conn := new(network.Conn)
	metadata := kmsg.NewPtrMetadataRequest()
	metadata.Version = 12
	elsewhere := produceRequest(9, "elsewhere", id, -1, batchOf(t, "v"))
	long := produceRequest(9, strings.Repeat("x", 1000), id, -1, batchOf(t, "v"))
	for _, c := range []struct {
		what string
		req  kmsg.Request
		want []string
	}{
		{"before its software is known", metadata, []string{`software=""`}},
		{"ApiVersions", versions, []string{"client=test", `software="franz-go 1.2.3"`, "principal=User:ANONYMOUS"}},
		{"one partition", produceRequest(9, "t", id, -1, batchOf(t, "v")), []string{"client=test", `software="franz-go 1.2.3"`, "partition=t-0", "acks=-1"}},
		{"several", produceRequest(13, "", id, 1, batchOf(t, "v"), batchOf(t, "v")), []string{"partition=t-0 partitions=2", "acks=1"}},
		{"a topic that is not there", elsewhere, []string{"partition=elsewhere-0"}},
		{"a long name", long, []string{"partition=" + strings.Repeat("x", maxLoggedName) + "-0"}},
		{"a fetch", fetchRequest(13, "", id, 0), []string{"partition=t-0", "maxWait=0s"}},
		{"a fetch of several", fetchRequest(12, "t", id, 0, 0, 0), []string{"partition=t-0 partitions=3"}},
		{"a fetch of none", fetchRequest(12, "t", id), []string{"client=test", "maxWait=0s"}},
		{"another API", metadata, []string{"client=test", `software="franz-go 1.2.3"`}},
	} {
		got := b.described(t, conn, c.req)
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: no %s in %s", c.what, want, got)
			}
		}
	}
}

// What a client must expect to wait is said with the answer: as long as a fetch asks, and as its members for a group.
func TestMayPark(t *testing.T) {
	b := newBroker(t)
	id := b.withTopic(t, "t", 1)
	wait := fetchRequest(13, "", id, 0)
	wait.MaxWaitMillis = 1
	join := kmsg.NewPtrJoinGroupRequest()
	join.Version, join.Group = 5, "g"
	for _, c := range []struct {
		req  kmsg.Request
		want time.Duration
	}{{wait, time.Millisecond}, {join, forMembers}, {produceRequest(13, "", id, -1, batchOf(t, "v")), 0}} {
		call, err := b.Start(t.Context(), new(network.Conn), frameOf(c.req), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if got := call.Wait(t.Context()).MayPark; got != c.want {
			t.Errorf("%s may park for %v, want %v", kmsg.NameForKey(c.req.Key()), got, c.want)
		}
		call.Release()
	}
}
