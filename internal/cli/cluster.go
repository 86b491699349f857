package cli

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kmsg"
)

type describedCluster struct {
	ID         string             `json:"clusterId"`
	Controller int32              `json:"controllerId"` // -1: none
	Brokers    []describedBroker  `json:"brokers"`
	Features   []finalizedFeature `json:"features"`
	Durability string             `json:"durability"`
	Topics     int                `json:"topics"`
	Partitions int                `json:"partitions"`
	Under      int                `json:"underReplicatedPartitions"`
	Offline    int                `json:"offlinePartitions"`
}

type describedBroker struct {
	ID         int32    `json:"id"`
	Host       string   `json:"host"`
	Port       int32    `json:"port"`
	Rack       string   `json:"rack,omitempty"`
	Fenced     bool     `json:"fenced"`
	Controller bool     `json:"controller"`
	Listeners  string   `json:"listeners,omitempty"`
	Advertised string   `json:"advertisedListeners,omitempty"`
	LogDirs    []logDir `json:"logDirs"`
	Problem    string   `json:"problem,omitempty"` // why something is not known
}

type logDir struct {
	Path       string `json:"path"`
	Error      string `json:"error,omitempty"`
	Partitions int    `json:"partitions"`
	Bytes      *int64 `json:"bytes"` // null: the broker does not say
	Free       *int64 `json:"freeBytes"`
	Total      *int64 `json:"totalBytes"`
}

type finalizedFeature struct {
	Name  string `json:"name"`
	Level int16  `json:"level"`
}

func newCluster(c *command) *cobra.Command {
	group := &cobra.Command{Use: "cluster", Short: "Show the cluster: brokers, controller, features, disks",
		Example: "  moldau cluster describe"}
	asGroup(group)
	group.AddCommand(&cobra.Command{
		Use: "describe", Short: "Show brokers, listeners, controller, features, durability and log directories", Args: exactly(0, ""),
		Example: "  moldau cluster describe\n  moldau cluster describe -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			d, err := cl.describeCluster(cmd.Context())
			if err != nil {
				return err
			}
			if c.json() {
				return writeJSON(c.Stdout, d)
			}
			return d.write(c.Stdout)
		},
	})
	return group
}

// describeCluster gathers what the APIs tell. What one broker does not answer is missing and
// said so: a cluster in trouble is described all the same.
func (cl *client) describeCluster(ctx context.Context) (describedCluster, error) {
	var d describedCluster
	meta, err := ask(ctx, cl, "", func(ctx context.Context) (kadm.Metadata, error) { return cl.adm.Metadata(ctx) })
	if err != nil {
		return d, err
	}
	d.ID, d.Controller = meta.Cluster, meta.Controller
	for _, t := range meta.Topics {
		d.Topics++
		for _, p := range t.Partitions {
			d.Partitions++
			switch {
			case p.Leader < 0 || slices.Contains(p.OfflineReplicas, p.Leader): // no leader, or one whose log dir is offline
				d.Offline++
			case len(p.ISR) < len(p.Replicas):
				d.Under++
			}
		}
	}
	if err := cl.addBrokers(ctx, &d, meta); err != nil {
		return d, err
	}
	if d.Features, err = cl.features(ctx); err != nil {
		return d, err
	}
	for i := range d.Brokers {
		cl.addBrokerConfig(ctx, &d, &d.Brokers[i])
		cl.addLogDirs(ctx, &d.Brokers[i])
	}
	return d, ctx.Err()
}

// addBrokers lists the brokers, fenced ones too where the cluster tells of them.
func (cl *client) addBrokers(ctx context.Context, d *describedCluster, meta kadm.Metadata) error {
	req := kmsg.NewPtrDescribeClusterRequest()
	req.IncludeFencedBrokers = true
	resp, err := ask(ctx, cl, "", func(ctx context.Context) (*kmsg.DescribeClusterResponse, error) {
		return req.RequestWith(ctx, cl.Client)
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil && resp.ErrorCode == 0 {
		for _, b := range resp.Brokers {
			d.Brokers = append(d.Brokers, describedBroker{ID: b.NodeID, Host: b.Host, Port: b.Port, Rack: deref(b.Rack), Fenced: b.IsFenced})
		}
	} else { // an older broker
		for _, b := range meta.Brokers {
			d.Brokers = append(d.Brokers, describedBroker{ID: b.NodeID, Host: b.Host, Port: b.Port, Rack: deref(b.Rack)})
		}
	}
	slices.SortFunc(d.Brokers, func(a, b describedBroker) int { return int(a.ID) - int(b.ID) })
	for i := range d.Brokers {
		d.Brokers[i].Controller = d.Brokers[i].ID == d.Controller
		d.Brokers[i].LogDirs = []logDir{}
	}
	return nil
}

func (cl *client) features(ctx context.Context) ([]finalizedFeature, error) {
	resp, err := ask(ctx, cl, "", func(ctx context.Context) (*kmsg.ApiVersionsResponse, error) {
		return kmsg.NewPtrApiVersionsRequest().RequestWith(ctx, cl.Client)
	})
	out := []finalizedFeature{}
	if err != nil {
		return out, err
	}
	for _, f := range resp.FinalizedFeatures {
		out = append(out, finalizedFeature{f.Name, f.MaxVersionLevel})
	}
	slices.SortFunc(out, func(a, b finalizedFeature) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func (cl *client) addBrokerConfig(ctx context.Context, d *describedCluster, b *describedBroker) {
	if b.Fenced {
		b.Problem = "fenced"
		return
	}
	configs, err := cl.configs(ctx, kmsg.ConfigResourceTypeBroker, strconv.Itoa(int(b.ID)), false)
	if err != nil {
		b.Problem = oneLine(err)
		return
	}
	values := map[string]string{}
	for _, r := range configs {
		values[r.Name] = deref(r.Value)
	}
	b.Listeners, b.Advertised = values["listeners"], values["advertised.listeners"]
	if d.Durability == "" {
		d.Durability = durability(map[string]string{"flush.messages": values["log.flush.interval.messages"], "flush.ms": values["log.flush.interval.ms"]})
	}
	dirs := values["log.dirs"]
	if dirs == "" {
		dirs = values["log.dir"]
	}
	for dir := range strings.SplitSeq(dirs, ",") {
		if dir = strings.TrimSpace(dir); dir != "" {
			b.LogDirs = append(b.LogDirs, logDir{Path: dir})
		}
	}
}

// addLogDirs replaces the configured directories by what the broker says about them, where it does.
func (cl *client) addLogDirs(ctx context.Context, b *describedBroker) {
	if b.Fenced || b.Problem != "" {
		return
	}
	dirs, err := ask(ctx, cl, "", func(ctx context.Context) (kadm.DescribedLogDirs, error) {
		return cl.adm.DescribeBrokerLogDirs(ctx, b.ID, nil)
	})
	if err != nil || len(dirs) == 0 {
		return
	}
	b.LogDirs = []logDir{}
	for _, dir := range dirs.Sorted() {
		row := logDir{Path: dir.Dir}
		if dir.Err != nil {
			row.Error = codeName(dir.Err)
		}
		size := dir.Size()
		row.Bytes = &size
		for _, partitions := range dir.Topics {
			row.Partitions += len(partitions)
		}
		if dir.TotalBytes >= 0 {
			row.Free, row.Total = &dir.UsableBytes, &dir.TotalBytes
		}
		b.LogDirs = append(b.LogDirs, row)
	}
}

func (d describedCluster) write(w io.Writer) error {
	fmt.Fprintf(w, "Cluster      %s\n", printable(d.ID))
	fmt.Fprintf(w, "Controller   %s\n", numberOr(d.Controller >= 0, int64(d.Controller), "none"))
	state := plural(int64(d.Topics), "topic") + ", " + plural(int64(d.Partitions), "partition")
	switch {
	case d.Offline > 0:
		state += fmt.Sprintf(", %d OFFLINE", d.Offline)
	case d.Under > 0:
		state += fmt.Sprintf(", %d under-replicated", d.Under)
	}
	fmt.Fprintf(w, "Data         %s\n", state)
	if d.Durability != "" {
		fmt.Fprintf(w, "Durability   %s\n", d.Durability)
	}
	for i, f := range d.Features {
		label := ""
		if i == 0 {
			label = "Features"
		}
		fmt.Fprintf(w, "%-12s %s=%d\n", label, printable(f.Name), f.Level)
	}
	t := newTable("BROKER", "ADDRESS", "RACK", "STATE", "LISTENERS")
	for _, b := range d.Brokers {
		t.add(b.ID, fmt.Sprintf("%s:%d", printable(b.Host), b.Port), orDash(b.Rack), b.state(), orDash(b.Listeners))
	}
	if err := t.write(w); err != nil {
		return err
	}
	dirs := newTable("BROKER", "LOG DIR", "PARTITIONS", "SIZE", "FREE", "STATE")
	for _, b := range d.Brokers {
		for _, dir := range b.LogDirs {
			dirs.add(b.ID, printable(dir.Path), numberOr(dir.Bytes != nil, int64(dir.Partitions), "-"), knownBytesText(dir.Bytes), freeText(dir), dir.state())
		}
	}
	if len(dirs.rows) == 1 {
		return nil
	}
	return dirs.write(w)
}

func (b describedBroker) state() string {
	switch {
	case b.Fenced:
		return "fenced"
	case b.Problem != "":
		return printable(b.Problem)
	case b.Controller:
		return "ok, controller"
	}
	return "ok"
}

func (l logDir) state() string {
	switch {
	case l.Error != "":
		return l.Error
	case l.Bytes == nil:
		return "not known"
	}
	return "ok"
}

func knownBytesText(n *int64) string {
	if n == nil {
		return "-"
	}
	return bytesText(*n)
}

func freeText(l logDir) string {
	if l.Free == nil || l.Total == nil {
		return "-"
	}
	return bytesText(*l.Free) + " of " + bytesText(*l.Total)
}
