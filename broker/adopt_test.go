package broker_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"moldau/broker"
	"moldau/broker/brokertest"
)

func adopt(t *testing.T, dataDir, path string, change ...func(*broker.AdoptOptions)) (*broker.Adoption, error) {
	t.Helper()
	o := broker.AdoptOptions{Path: path, RunOptions: broker.RunOptions{LogTo: io.Discard, Flags: map[string]string{"data-dir": dataDir}}}
	for _, c := range change {
		c(&o)
	}
	return broker.Adopt(within(t), o)
}

func dryRun(o *broker.AdoptOptions)   { o.DryRun = true }
func fillGaps(o *broker.AdoptOptions) { o.FillGaps = true }

// names are what an adoption took in: topics with their partitions.
func names(a *broker.Adoption) map[string]int32 {
	out := map[string]int32{}
	for _, t := range a.Topics {
		out[t.Name] = t.Partitions
	}
	return out
}

// TestAdoptAfterTheMetadataIsLost: the log dir alone gives the topics back, with ids and records, and the broker goes on
// with them.
func TestAdoptAfterTheMetadataIsLost(t *testing.T) {
	dir := t.TempDir()
	logDir := filepath.Join(dir, "log")
	c := brokertest.New(t, brokertest.Dir(dir))
	fill(t, c, "orders", 3, 5)
	fill(t, c, "payments", 1, 3)
	ids, payments := topics(t, c), read(t, c, "payments")
	c.Stop(0)
	must(t, c.Start(0)) // leader epochs above 0 in the logs
	cl := newClient(t, c)
	produce(t, cl, "orders", 3, 1)
	cl.Close()
	orders := read(t, c, "orders")
	c.Stop(0)
	must(t, os.RemoveAll(filepath.Join(dir, "meta")))
	oneLine(t, c.Start(0), "moldau log adopt "+logDir)
	must(t, os.RemoveAll(filepath.Join(dir, "meta")))

	before := tree(t, dir)
	a, err := adopt(t, dir, logDir, dryRun)
	must(t, err)
	want := map[string]int32{"orders": 3, "payments": 1}
	if got := names(a); !reflect.DeepEqual(got, want) {
		t.Errorf("a dry run found %v, want %v", got, want)
	}
	if after := tree(t, dir); after != before {
		t.Errorf("the dry run changed something:\n%s\nnow:\n%s", before, after)
	}
	a, err = adopt(t, dir, logDir)
	must(t, err)
	if got := names(a); !reflect.DeepEqual(got, want) || a.Known != 0 {
		t.Errorf("adopted %v, want %v", got, want)
	}
	a, err = adopt(t, dir, logDir)
	must(t, err)
	if len(a.Topics) != 0 || a.Known != 4 {
		t.Errorf("a second time adopted %v with %d known", names(a), a.Known)
	}
	must(t, c.Start(0))
	if got := topics(t, c); !reflect.DeepEqual(got, ids) {
		t.Errorf("topics are %v, were %v", got, ids)
	}
	if got := read(t, c, "orders"); !reflect.DeepEqual(got, orders) {
		t.Errorf("orders holds %v, held %v", got, orders)
	}
	if got := read(t, c, "payments"); !reflect.DeepEqual(got, payments) {
		t.Errorf("payments holds %v, held %v", got, payments)
	}
	// A producer that gets an id of the lost metadata again would have its first batches taken for duplicates.
	produce(t, newClient(t, c), "orders", 3, 5)
	for p, list := range read(t, c, "orders") {
		if len(list) != len(orders[p])+5 {
			t.Errorf("orders-%d has %d records after 5 more than %d", p, len(list), len(orders[p]))
		}
	}
}

// TestAdoptFromSeveralLogDirs: the partitions of a topic are taken in from all log dirs, stay where they are, and the metadata says so; one that is there
// twice is refused.
func TestAdoptFromSeveralLogDirs(t *testing.T) {
	dir := t.TempDir()
	c := brokertest.New(t, brokertest.Dir(dir), brokertest.LogDirs(2))
	fill(t, c, "orders", 4, 5)
	orders, ids := read(t, c, "orders"), topics(t, c)
	c.Stop(0)
	must(t, os.RemoveAll(filepath.Join(dir, "meta")))
	one, two := filepath.Join(dir, "log"), filepath.Join(dir, "log-2")
	both := func(o *broker.AdoptOptions) {
		o.Flags = nil
		o.Sets = []string{"log.dirs=" + one + "," + two, "metadata.log.dir=" + filepath.Join(dir, "meta")}
	}
	first, err := filepath.Glob(filepath.Join(one, "orders-*"))
	must(t, err)
	if len(first) != 2 {
		t.Fatalf("the first log dir has %v", first)
	}
	// As if the disks had been filled by hand: the controller would have it otherwise.
	must(t, os.Rename(first[0], filepath.Join(two, filepath.Base(first[0]))))
	second := filepath.Join(two, filepath.Base(first[0]))
	must(t, os.CopyFS(first[0], os.DirFS(second)))
	_, err = adopt(t, dir, one, both)
	oneLine(t, err, first[0]+" and "+second+" are both directories of", "move the older one away")
	must(t, os.RemoveAll(first[0]))

	a, err := adopt(t, dir, two, both)
	must(t, err)
	if got := names(a); !reflect.DeepEqual(got, map[string]int32{"orders": 4}) || len(a.Topics[0].Logs) != 4 {
		t.Errorf("adopted %v", got)
	}
	for range 2 {
		must(t, c.Start(0))
		if got := read(t, c, "orders"); !reflect.DeepEqual(got, orders) || !reflect.DeepEqual(topics(t, c), ids) {
			t.Errorf("orders holds %v, held %v", got, orders)
		}
		described, err := kadm.NewClient(newClient(t, c)).DescribeBrokerLogDirs(t.Context(), 1, nil)
		must(t, err)
		if len(described[one].Topics["orders"]) != 1 || len(described[two].Topics["orders"]) != 3 {
			t.Errorf("the partitions are in %v", described)
		}
		// The metadata has followed, so that no replica counts as offline when the log dirs are counted.
		list, err := kadm.NewClient(newClient(t, c)).ListTopics(t.Context(), "orders")
		must(t, err)
		list.EachPartition(func(d kadm.PartitionDetail) {
			if len(d.OfflineReplicas) > 0 {
				t.Errorf("partition %d is offline", d.Partition)
			}
		})
		c.Stop(0)
	}
}

// strayed makes two data directories and puts a partition directory of one, whose topic the other does not know,
// into the other.
func strayed(t *testing.T, topic string) (c *brokertest.Cluster, dataDir, stray string, id kadm.TopicID) {
	t.Helper()
	from, dir := t.TempDir(), t.TempDir()
	other := brokertest.New(t, brokertest.Dir(from))
	id = fill(t, other, topic, 1, 4)
	other.Stop(0)
	c = brokertest.New(t, brokertest.Dir(dir))
	fill(t, c, "known", 2, 2)
	c.Stop(0)
	stray = filepath.Join(dir, "log", topic+"-0")
	must(t, os.Rename(filepath.Join(from, "log", topic+"-0"), stray))
	return c, dir, stray, id
}

func TestAdoptOneDirectory(t *testing.T) {
	c, dir, stray, id := strayed(t, "orders")
	must(t, os.Mkdir(filepath.Join(dir, "log", "other-0"), 0o755))
	before := tree(t, stray)
	must(t, c.Start(0)) // a stray does not keep a broker from starting, and is left alone
	if got := topics(t, c); len(got) != 1 {
		t.Errorf("topics are %v", got)
	}
	if tree(t, stray) != before {
		t.Error("the stray was changed")
	}
	// The broker runs: it says whose the lock is.
	_, err := adopt(t, dir, stray)
	oneLine(t, err, "locked by process "+fmt.Sprint(os.Getpid()), "stop it")
	_, err = adopt(t, dir, stray, dryRun)
	oneLine(t, err, "locked by process "+fmt.Sprint(os.Getpid()))
	c.Stop(0)
	a, err := adopt(t, dir, stray)
	must(t, err)
	if got := names(a); !reflect.DeepEqual(got, map[string]int32{"orders": 1}) {
		t.Errorf("adopted %v", got)
	}
	must(t, c.Start(0))
	got := topics(t, c)
	if len(got) != 2 || got["orders"] != id {
		t.Errorf("topics are %v, orders had %v", got, id)
	}
	if list := read(t, c, "orders")[0]; len(list) != 4 || list[3] != "3 orders-0 3" {
		t.Errorf("orders holds %v", list)
	}
}

func TestAdoptGivesAnIDWhereThereIsNone(t *testing.T) {
	c, dir, stray, id := strayed(t, "orders")
	must(t, os.Remove(filepath.Join(stray, "partition.metadata")))
	a, err := adopt(t, dir, filepath.Join(dir, "log"))
	must(t, err)
	if len(a.Topics) != 1 || !a.Topics[0].NewID || a.Topics[0].ID.IsZero() || kadm.TopicID(a.Topics[0].ID) == id || a.Known != 2 {
		t.Fatalf("adopted %+v", a)
	}
	must(t, c.Start(0))
	if got := topics(t, c)["orders"]; got != kadm.TopicID(a.Topics[0].ID) {
		t.Errorf("orders has id %v, adopted was %v", got, a.Topics[0].ID)
	}
	if list := read(t, c, "orders")[0]; len(list) != 4 {
		t.Errorf("orders holds %v", list)
	}
}

// TestAdoptRefuses: each refusal says what to do and changes nothing.
func TestAdoptRefuses(t *testing.T) {
	_, template, _, _ := strayed(t, "orders")
	for name, tt := range map[string]struct {
		spoil func(t *testing.T, dir, stray string)
		path  string // below the data directory
		want  []string
	}{
		"a name with another id": {func(t *testing.T, dir, stray string) {
			must(t, os.RemoveAll(filepath.Join(dir, "log", "known-0")))
			must(t, os.Rename(stray, filepath.Join(dir, "log", "known-0")))
		}, "log", []string{"known-0 has topic id", "another topic known", "delete that topic, or move"}},
		"a partition too many": {func(t *testing.T, dir, _ string) {
			must(t, os.CopyFS(filepath.Join(dir, "log", "known-2"), os.DirFS(filepath.Join(dir, "log", "known-0"))))
		}, "log", []string{"known-2: topic known has 2 partitions", "moldau topic alter known --partitions 3"}},
		"two ids in one topic": {func(t *testing.T, dir, _ string) {
			must(t, os.CopyFS(filepath.Join(dir, "log", "orders-1"), os.DirFS(filepath.Join(dir, "log", "known-1"))))
		}, "log", []string{"orders-1 has topic id", "another partition of orders has", "move the directories of the older one away"}},
		"an id of another topic": {func(t *testing.T, dir, _ string) {
			must(t, os.CopyFS(filepath.Join(dir, "log", "renamed-0"), os.DirFS(filepath.Join(dir, "log", "known-1"))))
		}, "log/renamed-0", []string{"renamed-0: topic id", "belongs to topic known"}},
		"a damaged segment": {func(t *testing.T, _, stray string) {
			name := filepath.Join(stray, "00000000000000000000.log")
			data, err := os.ReadFile(name)
			must(t, err)
			data[len(data)/2] ^= 1
			must(t, os.WriteFile(name, data, 0o600))
		}, "log", []string{"00000000000000000000.log is damaged at byte", "bring an undamaged copy"}},
		"damaged partition.metadata": {func(t *testing.T, _, stray string) {
			must(t, os.WriteFile(filepath.Join(stray, "partition.metadata"), []byte("version: 0\ntopic_id: x\n"), 0o600))
		}, "log", []string{"partition.metadata is damaged", "restore the file"}},
		"a gap": {func(t *testing.T, dir, stray string) {
			must(t, os.Rename(stray, filepath.Join(dir, "log", "orders-2")))
		}, "log", []string{"no directory for orders-0, orders-1", "--fill-gaps"}},
		"another directory": {nil, "meta", []string{"is neither the broker's log dir", "--set log.dirs="}},
		"nothing there":     {nil, "log/absent-0", []string{"absent-0"}},
		"a partition of another log dir": {func(t *testing.T, dir, _ string) {
			must(t, os.Mkdir(filepath.Join(dir, "meta", "x-0"), 0o755))
		}, "meta/x-0", []string{"is not in the broker's log dir", "move it there"}},
		"a name that no topic can have": {func(t *testing.T, dir, stray string) {
			must(t, os.Rename(stray, filepath.Join(dir, "log", "a b-0")))
		}, "log", []string{"a b-0", "Topic name is invalid"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			must(t, os.CopyFS(dir, os.DirFS(template)))
			if tt.spoil != nil {
				tt.spoil(t, dir, filepath.Join(dir, "log", "orders-0"))
			}
			before := tree(t, filepath.Join(dir, "log"))
			_, err := adopt(t, dir, filepath.Join(dir, filepath.FromSlash(tt.path)))
			oneLine(t, err, tt.want...)
			if after := tree(t, filepath.Join(dir, "log")); after != before {
				t.Errorf("the log dir was:\n%s\nis now:\n%s", before, after)
			}
		})
	}
}

// TestAdoptFillsGaps: a partition that has never had data has no directory.
func TestAdoptFillsGaps(t *testing.T) {
	c, dir, stray, _ := strayed(t, "orders")
	must(t, os.Rename(stray, filepath.Join(dir, "log", "orders-2")))
	a, err := adopt(t, dir, filepath.Join(dir, "log"), fillGaps)
	must(t, err)
	if got := names(a); !reflect.DeepEqual(got, map[string]int32{"orders": 3}) {
		t.Errorf("adopted %v", got)
	}
	must(t, c.Start(0))
	if got := read(t, c, "orders"); len(got) != 1 || len(got[2]) != 4 {
		t.Errorf("orders holds %v", got)
	}
}

// TestAdoptAfterAKill: what the end of a broker tore is set aside, as in any recovery; after a clean stop the
// same bytes are damage.
func TestAdoptAfterAKill(t *testing.T) {
	c, dir, stray, _ := strayed(t, "orders")
	f, err := os.OpenFile(filepath.Join(stray, "00000000000000000000.log"), os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteString("torn")
	must(t, err)
	must(t, f.Close())
	_, err = adopt(t, dir, stray)
	oneLine(t, err, "is damaged at byte")
	must(t, os.Remove(filepath.Join(dir, "log", ".kafka_cleanshutdown")))
	a, err := adopt(t, dir, stray)
	must(t, err)
	if len(a.Topics) != 1 || a.Topics[0].Logs[0].SetAside != 4 || a.Topics[0].Logs[0].End != 4 {
		t.Errorf("adopted %+v", a)
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "meta", "quarantine", "*")); len(found) != 1 {
		t.Errorf("the quarantine holds %v", found)
	}
	must(t, c.Start(0))
	if list := read(t, c, "orders")[0]; len(list) != 4 {
		t.Errorf("orders holds %v", list)
	}
}
