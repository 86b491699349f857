package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"moldau/internal/config"
	"moldau/internal/coordinator"
	"moldau/internal/metastore"
	"moldau/internal/vfs"
	"moldau/test/logtext"
)

// jbod is a broker with several log dirs, whose disk and metadata outlive it.
type jbod struct {
	t     *testing.T
	ctx   context.Context
	disk  *vfs.Mem
	bad   sync.Map // log dirs whose writes and syncs fail
	store metastore.Store
	log   *logtext.Text
	open  []*kgo.Client
	*Broker
}

func newJBOD(t *testing.T) *jbod {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	j := &jbod{t: t, ctx: ctx, disk: vfs.NewMem(), store: metastore.NewSim().Open()}
	t.Cleanup(func() {
		if j.Broker != nil {
			_ = j.Abort()
		}
		_ = j.store.Close()
	})
	return j
}

func (j *jbod) tryStart(sets ...string) error {
	c, _, err := config.Load(config.Sources{Sets: append([]string{"node.id=1", "listeners=PLAINTEXT://127.0.0.1:0", "moldau.http.listener=127.0.0.1:0"}, sets...)})
	if err != nil {
		j.t.Fatal(err)
	}
	fsys := vfs.NewFault(j.disk, func(op vfs.Op) error {
		if _, bad := j.bad.Load(path.Join("/", strings.SplitN(op.Name+"/", "/", 3)[1])); bad && (op.Kind == vfs.OpWrite || op.Kind == vfs.OpSync) {
			return syscall.EIO
		}
		return nil
	})
	j.log = new(logtext.Text)
	j.Broker, err = Start(j.ctx, Options{Config: c, Log: slog.New(slog.NewTextHandler(j.log, nil)), FS: fsys, Store: j.store})
	return err
}

func (j *jbod) start(sets ...string) {
	j.t.Helper()
	if err := j.tryStart(sets...); err != nil {
		j.t.Fatal(err)
	}
}

func (j *jbod) stop() {
	j.t.Helper()
	for _, c := range j.open {
		c.Close()
	}
	j.open = nil
	if err := j.Abort(); err != nil {
		j.t.Error(err)
	}
	j.Broker = nil
}

func (j *jbod) client(opts ...kgo.Opt) *kgo.Client {
	j.t.Helper()
	c := client(j.t, j.Broker, append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MetadataMinAge(10*time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 5 * time.Millisecond }))...)
	j.open = append(j.open, c)
	return c
}

// topic makes a topic, the partitions of which are spread over the log dirs.
func (j *jbod) topic(name string, partitions int32) {
	j.t.Helper()
	if _, err := kadm.NewClient(j.client()).CreateTopic(j.ctx, partitions, 1, nil, name); err != nil {
		j.t.Fatal(err)
	}
	j.eventually("the partitions are here", func() bool { return len(j.homes(name)) == int(partitions) })
}

// homes is the log dir of each partition of a topic.
func (j *jbod) homes(topic string) map[int32]string {
	j.t.Helper()
	out := map[int32]string{}
	for p := range j.partitions.All() {
		if tp := p.TopicPartition(); tp.Topic == topic && p.LogDir() != nil {
			out[tp.Partition] = p.LogDir().Path()
		}
	}
	return out
}

// send produces one record, without a second try.
func (j *jbod) send(topic string, partition int32, value string) error {
	c := j.client(kgo.RecordRetries(1), kgo.DisableIdempotentWrite())
	defer c.Close()
	return c.ProduceSync(j.ctx, &kgo.Record{Topic: topic, Partition: partition, Value: []byte(value)}).FirstErr()
}

// first reads the first record of a partition.
func (j *jbod) first(topic string, partition int32) (string, error) {
	c := j.client(kgo.KeepRetryableFetchErrors(), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(0)}}))
	defer c.Close()
	for {
		fs := c.PollFetches(j.ctx)
		if err := fs.Err(); err != nil {
			return "", err
		}
		if rs := fs.Records(); len(rs) > 0 {
			return string(rs[0].Value), nil
		}
	}
}

type readyAnswer struct {
	Ready                                bool
	Reasons, Warnings, OfflinePartitions []string
}

func (j *jbod) ready() (s readyAnswer) {
	j.t.Helper()
	w := httptest.NewRecorder()
	j.serveReady(w, nil)
	if err := json.Unmarshal(w.Body.Bytes(), &s); err != nil || s.Ready != (w.Code == 200) {
		j.t.Fatal(w.Code, err)
	}
	return s
}

func (j *jbod) metrics() string {
	w := httptest.NewRecorder()
	j.serveMetrics(w, httptest.NewRequest("GET", "/metrics", nil))
	return w.Body.String()
}

func (j *jbod) eventually(what string, f func() bool) {
	j.t.Helper()
	for !f() {
		if j.ctx.Err() != nil {
			j.t.Fatal("it never happened: " + what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

const threeDirs = "log.dirs=/a,/b,/c"

// TestOneLogDirFails: producers to the other log dirs do not notice, new partitions go there, everybody is told which one it is, and what was
// acknowledged is there after a restart.
func TestOneLogDirFails(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	j := newJBOD(t)
	j.start(threeDirs, "metadata.log.dir=/meta", "offsets.topic.num.partitions=9")
	j.topic("events", 6)
	homes := j.homes("events")
	perDir := map[string]int{}
	for _, dir := range homes {
		perDir[dir]++
	}
	if perDir["/a"] != 2 || perDir["/b"] != 2 || perDir["/c"] != 2 {
		t.Fatalf("the partitions are in %v", homes)
	}
	acked := make([]atomic.Int64, 6)
	load, end := context.WithCancel(j.ctx)
	var producers sync.WaitGroup
	for p := range int32(6) {
		if err := j.send("events", p, fmt.Sprintf("first of %d", p)); err != nil {
			t.Fatal(err)
		}
		acked[p].Store(1)
		c := j.client(kgo.RecordRetries(1), kgo.DisableIdempotentWrite())
		producers.Go(func() {
			for load.Err() == nil {
				err := c.ProduceSync(j.ctx, &kgo.Record{Topic: "events", Partition: p, Value: []byte("x")}).FirstErr()
				switch {
				case err == nil:
					acked[p].Add(1)
				case homes[p] != "/b":
					t.Errorf("partition %d in %s: %v", p, homes[p], err)
					return
				case !errors.Is(err, kerr.KafkaStorageError):
					t.Errorf("partition %d in the log dir that failed: %v", p, err)
					return
				default:
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	all := func(more int64) func() bool {
		var from [6]int64
		for p := range acked {
			from[p] = acked[p].Load()
		}
		return func() bool {
			for p := range acked {
				if homes[int32(p)] != "/b" && acked[p].Load() < from[p]+more {
					return t.Failed()
				}
			}
			return true
		}
	}
	j.eventually("records are acknowledged", all(20))
	if s := j.ready(); !s.Ready || len(s.Warnings) > 0 {
		t.Errorf("/ready of a broker that is well: %+v", s)
	}

	j.bad.Store("/b", true)
	j.eventually("the log dir is offline", func() bool { return j.dirs.All()[1].Err() != nil })
	j.eventually("producers to the others go on", all(100))
	s := j.ready()
	if !s.Ready || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "/b: the log dir is offline") || !strings.Contains(s.Warnings[0], "input/output error") {
		t.Errorf("/ready: %+v", s)
	}
	if text := j.metrics(); !strings.Contains(text, `moldau_log_dir_offline{dir="/b"} 1`) || !strings.Contains(text, `moldau_log_dir_offline{dir="/a"} 0`) ||
		strings.Contains(text, `moldau_partitions{state="offline"} 0`) {
		t.Errorf("the metrics do not say which log dir is offline")
	}
	if n := strings.Count(j.log.String(), `msg="log dir is offline`); n != 1 || !strings.Contains(j.log.String(), "dir=/b") {
		t.Errorf("%d lines of the log say it", n)
	}
	for p, dir := range homes {
		if got, err := j.first("events", p); err != nil || got != fmt.Sprintf("first of %d", p) {
			t.Errorf("reading partition %d in %s: %q, %v", p, dir, got, err)
		}
	}
	adm := kadm.NewClient(j.client())
	described, err := adm.DescribeBrokerLogDirs(j.ctx, 1, nil)
	if err != nil || len(described) != 3 {
		t.Fatal(err, len(described))
	}
	for dir, d := range described {
		switch {
		case dir == "/b":
			if !errors.Is(d.Err, kerr.KafkaStorageError) || len(d.Topics) > 0 {
				t.Errorf("%s: %v, %v", dir, d.Err, d.Topics)
			}
		case d.Err != nil || len(d.Topics["events"]) != 2 || d.TotalBytes <= 0 || d.UsableBytes <= 0:
			t.Errorf("%s: %v, %v, %d of %d bytes", dir, d.Err, d.Topics, d.UsableBytes, d.TotalBytes)
		}
	}
	j.topic("later", 4)
	for p, dir := range j.homes("later") {
		if dir == "/b" {
			t.Errorf("a new partition is in the log dir that failed")
		}
		if err := j.send("later", p, "x"); err != nil {
			t.Error(err)
		}
	}
	j.eventually("the metadata tells which replicas are offline", func() bool {
		topics, err := adm.ListTopics(j.ctx, "events", "later")
		if err != nil {
			t.Fatal(err)
		}
		right := true
		topics.EachPartition(func(d kadm.PartitionDetail) {
			right = right && (len(d.OfflineReplicas) == 1) == (d.Topic == "events" && homes[d.Partition] == "/b")
		})
		return right
	})
	end()
	producers.Wait()

	for _, dir := range []string{"/a", "/c"} {
		j.bad.Store(dir, true)
	}
	j.eventually("all log dirs are offline", func() bool {
		for p := range int32(6) {
			_ = j.send("events", p, "x")
		}
		return j.Err() != nil
	})
	if s := j.ready(); s.Ready || len(s.Reasons) != 3 || len(s.Warnings) > 0 {
		t.Errorf("/ready: %+v", s)
	}
	j.bad.Clear()
	j.stop()

	j.start(threeDirs, "metadata.log.dir=/meta", "offsets.topic.num.partitions=9")
	ends, err := kadm.NewClient(j.client()).ListEndOffsets(j.ctx, "events")
	if err != nil || ends.Error() != nil {
		t.Fatal(err, ends.Error())
	}
	for p := range int32(6) {
		if o, _ := ends.Lookup("events", p); o.Offset < acked[p].Load() {
			t.Errorf("partition %d in %s has %d records, %d were acknowledged", p, homes[p], o.Offset, acked[p].Load())
		}
		if err := j.send("events", p, "goes on"); err != nil {
			t.Error(err)
		}
	}
	j.stop()
}

// TestGroupsOfAFailedLogDir: groups whose offsets are in a log dir that failed get an error that their clients try again, the others commit.
func TestGroupsOfAFailedLogDir(t *testing.T) {
	j := newJBOD(t)
	j.start("log.dirs=/a,/b", "metadata.log.dir=/meta", "offsets.topic.num.partitions=8")
	j.topic("events", 1)
	adm := kadm.NewClient(j.client(kgo.RequestRetries(2)))
	commit := func(group string, at int64) error {
		var o kadm.Offsets
		o.AddOffset("events", 0, at, -1)
		return adm.CommitAllOffsets(j.ctx, group, o)
	}
	var groups []string
	for i := range 24 {
		groups = append(groups, fmt.Sprintf("group-%d", i))
		if err := commit(groups[i], 1); err != nil {
			t.Fatal(err)
		}
	}
	j.eventually("the partitions are here", func() bool { return len(j.homes("__consumer_offsets")) == 8 })
	home := j.homes("__consumer_offsets")
	inB := func(group string) bool { return home[coordinator.PartitionOf(group, 8)] == "/b" }
	if !slices.ContainsFunc(groups, inB) || !slices.ContainsFunc(groups, func(g string) bool { return !inB(g) }) {
		t.Fatalf("all groups are in one log dir: %v", home)
	}
	j.bad.Store("/b", true)
	for _, g := range groups {
		err := commit(g, 2)
		var code *kerr.Error
		switch {
		case !inB(g) && err != nil:
			t.Errorf("%s, whose log dir is well: %v", g, err)
		case inB(g) && (!errors.As(err, &code) || !code.Retriable):
			t.Errorf("%s, whose log dir failed: %v", g, err)
		}
	}
	j.bad.Clear()
	j.stop()
	// One that cannot be opened at all is the same to them.
	if err := j.disk.Rename("/b", "/away"); err != nil {
		t.Fatal(err)
	}
	j.start("log.dirs=/a,/b", "metadata.log.dir=/meta", "offsets.topic.num.partitions=8")
	adm = kadm.NewClient(j.client(kgo.RequestRetries(2)))
	for _, g := range groups {
		err := commit(g, 3)
		var code *kerr.Error
		switch {
		case !inB(g) && err != nil:
			t.Errorf("%s, whose log dir is there: %v", g, err)
		case inB(g) && (!errors.As(err, &code) || !code.Retriable):
			t.Errorf("%s, whose log dir is away: %v", g, err)
		}
	}
	j.stop()
	if err := j.disk.Rename("/away", "/b"); err != nil {
		t.Fatal(err)
	}
	j.start("log.dirs=/a,/b", "metadata.log.dir=/meta", "offsets.topic.num.partitions=8")
	adm = kadm.NewClient(j.client())
	for _, g := range groups {
		at, err := adm.FetchOffsets(j.ctx, g)
		if err != nil {
			t.Fatal(err)
		}
		o, _ := at.Lookup("events", 0)
		if want := int64(3); !inB(g) && o.At != want || inB(g) && o.At != 1 {
			t.Errorf("%s is at %d", g, o.At)
		}
	}
	j.stop()
}

// TestLogDirsChange: log.dirs in another order, with one less, one moved, one emptied: what is there is served, what is not is offline and said
// to be, and is served again when it is back.
func TestLogDirsChange(t *testing.T) {
	j := newJBOD(t)
	const meta = "metadata.log.dir=/meta"
	j.start(threeDirs, meta)
	j.topic("events", 6)
	homes := j.homes("events")
	for p := range int32(6) {
		if err := j.send("events", p, fmt.Sprintf("first of %d", p)); err != nil {
			t.Fatal(err)
		}
	}
	j.stop()
	rename := func(from, to string) {
		t.Helper()
		if err := j.disk.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, gone func(dir string) bool) {
		t.Helper()
		offline := 0
		for p := range int32(6) {
			if gone(homes[p]) {
				offline++
				if err := j.send("events", p, "must not be taken"); !errors.Is(err, kerr.KafkaStorageError) {
					t.Errorf("%s: producing to partition %d, which is offline: %v", what, p, err)
				}
				if got, err := j.first("events", p); !errors.Is(err, kerr.KafkaStorageError) {
					t.Errorf("%s: reading partition %d, which is offline: %q, %v", what, p, got, err)
				}
				continue
			}
			if got, err := j.first("events", p); err != nil || got != fmt.Sprintf("first of %d", p) {
				t.Errorf("%s: partition %d: %q, %v", what, p, got, err)
			}
			if err := j.send("events", p, "more"); err != nil {
				t.Errorf("%s: partition %d: %v", what, p, err)
			}
		}
		s := j.ready()
		if !s.Ready || len(s.OfflinePartitions) != offline {
			t.Errorf("%s: /ready: %+v", what, s)
		}
		for _, o := range s.OfflinePartitions {
			if !strings.Contains(o, "/b") {
				t.Errorf("%s: %q does not say which log dir it is", what, o)
			}
		}
	}
	nothing := func(string) bool { return false }
	b := func(dir string) bool { return dir == "/b" }

	j.start("log.dirs=/c,/b,/a", meta)
	check("another order", nothing)
	j.stop()

	j.start("log.dirs=/a,/c", meta)
	check("one less", b)
	if !strings.Contains(j.log.String(), "not in log.dirs") {
		t.Errorf("the log does not say what to do:\n%s", j.log)
	}
	j.topic("while-it-is-away", 2)
	j.stop()

	rename("/b", "/d")
	j.start("log.dirs=/a,/d,/c", meta)
	check("moved", nothing)
	j.stop()
	rename("/d", "/b")

	j.start(threeDirs, meta)
	j.stop()
	rename("/b", "/away")
	if err := j.disk.MkdirAll("/b"); err != nil {
		t.Fatal(err)
	}
	j.start(threeDirs, meta)
	check("not mounted", b)
	if s := j.ready(); len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "mount its disk") {
		t.Errorf("/ready: %+v", s)
	}
	j.topic("while-it-is-not-mounted", 4)
	for p, dir := range j.homes("while-it-is-not-mounted") {
		if dir == "/b" {
			t.Error("a partition was made below the mount point")
		}
		if err := j.send("while-it-is-not-mounted", p, "x"); err != nil {
			t.Error(err)
		}
	}
	j.stop()
	if infos, err := j.disk.ReadDir("/b"); err != nil || len(infos) > 0 {
		t.Errorf("the mount point holds %v, %v", infos, err)
	}

	// A new disk in place of the lost one, and the operator says so.
	infos, err := j.disk.ReadDir("/meta/dirs")
	if err != nil {
		t.Fatal(err)
	}
	record := ""
	for _, info := range infos {
		if strings.Contains(j.log.String(), "/meta/dirs/"+info.Name) {
			record = info.Name
		}
	}
	rename("/meta/dirs/"+record, "/lost")
	j.start(threeDirs, meta)
	for p := range int32(6) {
		if err := j.send("events", p, "begins anew"); err != nil {
			t.Error(err)
		}
	}
	j.stop()
}

// TestMetadataDirIsFound: the metadata directory stays in the log dir where it was made, whatever the order is later, and without it
// nobody starts.
func TestMetadataDirIsFound(t *testing.T) {
	j := newJBOD(t)
	j.start("log.dirs=/a,/b")
	j.topic("events", 2)
	for p := range int32(2) {
		if err := j.send("events", p, fmt.Sprintf("first of %d", p)); err != nil {
			t.Fatal(err)
		}
	}
	j.stop()
	j.start("log.dirs=/b,/a")
	for p := range int32(2) {
		if got, err := j.first("events", p); err != nil || got != fmt.Sprintf("first of %d", p) {
			t.Error(got, err)
		}
	}
	j.stop()
	if _, err := j.disk.Stat("/b/.moldau"); err == nil {
		t.Error("there is a second metadata directory")
	}
	if err := j.disk.Rename("/a", "/away"); err != nil {
		t.Fatal(err)
	}
	for _, dirs := range []string{"log.dirs=/a,/b", "log.dirs=/b,/a"} {
		if err := j.tryStart(dirs); err == nil || !strings.Contains(err.Error(), "/b was used by a broker before, /a was not: mount the disk") {
			t.Errorf("%s: %v", dirs, err)
		}
	}
	if err := j.disk.MkdirAll("/b/.moldau"); err != nil {
		t.Fatal(err)
	}
	if err := j.disk.Rename("/away", "/a"); err != nil {
		t.Fatal(err)
	}
	if err := j.tryStart("log.dirs=/a,/b"); err == nil || !strings.Contains(err.Error(), "/a/.moldau and /b/.moldau") {
		t.Error(err)
	}
	j.Broker = nil
}

// TestLogDirIsAdded: partitions stay where they are, and new ones go to the new log dir until it has as many.
func TestLogDirIsAdded(t *testing.T) {
	j := newJBOD(t)
	j.start("log.dirs=/a", "metadata.log.dir=/meta")
	j.topic("old", 4)
	for p := range int32(4) {
		if err := j.send("old", p, "x"); err != nil {
			t.Fatal(err)
		}
	}
	j.stop()
	j.start("log.dirs=/new,/a", "metadata.log.dir=/meta")
	j.topic("young", 6)
	young := map[string]int{}
	for _, dir := range j.homes("young") {
		young[dir]++
	}
	if young["/new"] != 5 || young["/a"] != 1 {
		t.Errorf("the new partitions are in %v", young)
	}
	for p, dir := range j.homes("old") {
		if dir != "/a" {
			t.Errorf("partition %d is in %s", p, dir)
		}
	}
	j.stop()
}
