package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"moldau/internal/cluster"
	"moldau/internal/controller"
	"moldau/internal/metadata"
	"moldau/internal/storage"
	"moldau/internal/wire"
)

// AdoptOptions says what to adopt, for a broker that RunOptions describe and that is stopped.
type AdoptOptions struct {
	RunOptions
	Path     string // a log dir, which stands for all of them, or a partition directory in one, which stands for its topic
	DryRun   bool   // find out everything, change nothing
	FillGaps bool   // a partition without a directory has never had data
}

// Adoption is what was taken in, or would be.
type Adoption struct {
	LogDirs []string
	Topics  []AdoptedTopic
	Known   int // partition directories that the metadata has already
}

// AdoptedTopic is a topic that the metadata did not have.
type AdoptedTopic struct {
	Name       string
	ID         wire.UUID // zero in a dry run where NewID
	NewID      bool      // no partition.metadata named one
	Partitions int32
	Configs    map[string]string
	Logs       []AdoptedLog // by partition
}

// AdoptedLog is a partition directory.
type AdoptedLog struct {
	Partition  int32
	Dir        string
	Start, End int64 // offsets
	Bytes      int64
	// SetAside is how many bytes at the end recovery sets aside: they were torn by the end of a broker
	// that was not stopped.
	SetAside int64

	maxProducerID int64
	hasID         bool
}

// Adopt takes partition directories that are unknown to the metadata into it, with their topics. Everything is
// checked first; an error before the first change leaves everything as it was. Records, files and
// directories are not changed, but for a topic id where there was none.
func Adopt(ctx context.Context, o AdoptOptions) (_ *Adoption, err error) {
	log, err := newLogger(o.RunOptions)
	if err != nil {
		return nil, err
	}
	c, err := loadConfig(o.RunOptions, log)
	if err != nil {
		return nil, err
	}
	b := newBroker(Options{Config: c, Log: log})
	a := &adopter{b: b, o: o, done: &Adoption{LogDirs: logDirs(c)}}
	defer func() { err = errors.Join(err, b.teardown(context.Background())) }()
	if b.metaDir, err = findMetaDir(b.fs, c); err != nil {
		return nil, err
	}
	topic, err := a.choose()
	if err != nil {
		return nil, err
	}
	image, release, err := a.look(ctx)
	if err != nil {
		return nil, err
	}
	err = a.plan(image, topic)
	if err == nil {
		err = a.check()
	}
	if err := errors.Join(err, release()); err != nil {
		return nil, err
	}
	if o.DryRun || len(a.done.Topics) == 0 {
		return a.done, nil
	}
	return a.done, a.apply(ctx)
}

// adopter is one adoption. Its broker is never served.
type adopter struct {
	b    *Broker
	o    AdoptOptions
	done *Adoption
}

// choose finds out what Path is: "" for a log dir, and so for all, else the topic of a partition directory in one.
func (a *adopter) choose() (topic string, err error) {
	dir, err := filepath.Abs(a.o.Path)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(dir); err != nil {
		return "", err
	}
	tp, ok := storage.ParsePartition(filepath.Base(dir))
	for _, logDir := range a.done.LogDirs {
		if logDir, err = filepath.Abs(logDir); err != nil {
			return "", err
		}
		if dir == logDir {
			return "", nil
		}
		if ok && filepath.Dir(dir) == logDir {
			return tp.Topic, nil
		}
	}
	theirs := strings.Join(a.done.LogDirs, ", ")
	if ok {
		return "", fmt.Errorf("%s is not in the broker's log dir %s: move it there, or name its own by --set log.dirs=%s", a.o.Path, theirs, filepath.Dir(a.o.Path))
	}
	return "", fmt.Errorf("%s is neither the broker's log dir %s nor a partition directory in it: name the log dir by --data-dir, --config or --set log.dirs=%s",
		a.o.Path, theirs, a.o.Path)
}

// look locks what a running broker locks and reads the metadata, and makes no file for that: what is not there yet,
// nobody has locked. release ends the locks.
func (a *adopter) look(ctx context.Context) (_ *metadata.Image, release func() error, err error) {
	b := a.b
	var locks []io.Closer
	unlock := func() error {
		var errs []error
		for _, l := range locks {
			errs = append(errs, l.Close())
		}
		locks = nil
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unlock())
		}
	}()
	for _, dir := range append([]string{b.metaDir}, a.done.LogDirs...) {
		l, err := storage.LockExisting(b.fs, dir)
		if err != nil {
			return nil, nil, inUse(err)
		}
		if l != nil {
			locks = append(locks, l)
		}
	}
	if err := storage.CheckDirs(b.fs, a.done.LogDirs, b.o.Config.NodeID()); err != nil {
		return nil, nil, err
	}
	if _, err := os.Stat(b.storeDir()); errors.Is(err, os.ErrNotExist) {
		image, err := metadata.FromSnapshot(nil)
		return image, unlock, err
	}
	image, err := a.readImage(ctx)
	return image, unlock, err
}

func (a *adopter) readImage(ctx context.Context) (*metadata.Image, error) {
	if err := a.b.openStore(); err != nil {
		return nil, err
	}
	kvs, _, err := a.b.store.Snapshot(ctx, metadata.Prefix)
	if err != nil {
		return nil, err
	}
	changes := make([]metadata.Change, len(kvs))
	for i, kv := range kvs {
		changes[i] = metadata.Change{Key: kv.Key, Value: kv.Value}
	}
	return metadata.FromSnapshot(changes)
}

// plan decides which topics there will be. topic "" means all.
func (a *adopter) plan(im *metadata.Image, topic string) error {
	byTopic := map[string][]storage.Found{}
	paths := map[storage.TopicPartition]string{}
	var errs []error
	for _, dir := range a.done.LogDirs {
		found, err := storage.ScanDir(a.b.fs, dir)
		if err != nil {
			return err
		}
		for _, f := range found {
			if topic != "" && f.Topic != topic {
				continue
			}
			if other := paths[f.TopicPartition]; other != "" {
				errs = append(errs, fmt.Errorf("%s and %s are both directories of %s: move the older one away", other, f.Path, f.TopicPartition))
				continue
			}
			paths[f.TopicPartition] = f.Path
			byTopic[f.Topic] = append(byTopic[f.Topic], f)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byTopic)) {
		t, err := a.planTopic(im, name, byTopic[name])
		switch {
		case err != nil:
			errs = append(errs, err)
		case t == nil:
			a.done.Known += len(byTopic[name])
		default:
			a.done.Topics = append(a.done.Topics, *t)
		}
	}
	return errors.Join(errs...)
}

// planTopic decides on one topic; nil if the metadata has all of it.
func (a *adopter) planTopic(im *metadata.Image, name string, found []storage.Found) (*AdoptedTopic, error) {
	slices.SortFunc(found, func(x, y storage.Found) int { return int(x.Partition) - int(y.Partition) })
	t := &AdoptedTopic{Name: name, Partitions: found[len(found)-1].Partition + 1, Configs: adoptedConfigs(name)}
	have := im.Topic(name)
	for _, f := range found {
		if have != nil && f.Err == nil && f.TopicID != have.ID {
			return nil, fmt.Errorf("%s has topic id %s, but the metadata has another topic %s with id %s: delete that topic, or move the directory away",
				f.Path, idText(f.TopicID), name, have.ID)
		}
		if f.Err != nil {
			return nil, fmt.Errorf("%w: restore the file, or remove it so that the topic gets a new id", f.Err)
		}
		if !f.TopicID.IsZero() && !t.ID.IsZero() && f.TopicID != t.ID {
			return nil, fmt.Errorf("%s has topic id %s, another partition of %s has %s: move the directories of the older one away", f.Path, f.TopicID, name, t.ID)
		}
		if !f.TopicID.IsZero() {
			t.ID = f.TopicID
		}
		t.Logs = append(t.Logs, AdoptedLog{Partition: f.Partition, Dir: f.Path, hasID: !f.TopicID.IsZero()})
	}
	t.NewID = t.ID.IsZero()
	if have != nil && int(t.Partitions) > len(have.Partitions) {
		return nil, fmt.Errorf("%s: topic %s has %d partitions: moldau topic alter %s --partitions %d takes the directory in",
			found[len(found)-1].Path, name, len(have.Partitions), name, t.Partitions)
	}
	if have != nil {
		return nil, nil
	}
	if other := im.TopicByID(t.ID); other != nil {
		return nil, fmt.Errorf("%s: topic id %s belongs to topic %s: move the directory away", found[0].Path, t.ID, other.Name)
	}
	if why := controller.InvalidName(name); why != "" {
		return nil, fmt.Errorf("%s: %s: move the directory away", found[0].Path, why)
	}
	return t, a.gaps(t)
}

// gaps refuses a topic with partitions that have no directory, unless that is said to be right.
func (a *adopter) gaps(t *AdoptedTopic) error {
	if a.o.FillGaps || len(t.Logs) == int(t.Partitions) {
		return nil
	}
	const most = 20
	var missing []string
	next := int32(0)
	for _, l := range t.Logs {
		for ; next < l.Partition && len(missing) <= most; next++ {
			missing = append(missing, fmt.Sprintf("%s-%d", t.Name, next))
		}
		next = l.Partition + 1
	}
	if len(missing) > most {
		missing[most] = fmt.Sprintf("and others, %d in all", int(t.Partitions)-len(t.Logs))
	}
	return fmt.Errorf("topic %s has a partition %d but no directory for %s: bring them back, or say --fill-gaps if they have never had data",
		t.Name, t.Partitions-1, strings.Join(missing, ", "))
}

// adoptedConfigs keeps what is taken in: a log dir does not say how long records were to be kept.
func adoptedConfigs(topic string) map[string]string {
	if strings.HasPrefix(topic, "__") {
		return map[string]string{"cleanup.policy": "compact", "compression.type": "producer"}
	}
	return map[string]string{"retention.ms": "-1", "retention.bytes": "-1"}
}

func idText(id wire.UUID) string {
	if id.IsZero() {
		return "(none, it has no partition.metadata)"
	}
	return id.String()
}

// check reads every record that is to be taken in. Damage is an error, but for a tail that was torn
// because the last broker was not stopped.
func (a *adopter) check() error {
	clean := map[string]bool{}
	for _, dir := range a.done.LogDirs {
		clean[dir] = storage.StoppedCleanly(a.b.fs, dir)
	}
	var errs []error
	for i := range a.done.Topics {
		for j := range a.done.Topics[i].Logs {
			l := &a.done.Topics[i].Logs[j]
			got, err := storage.CheckPartition(a.b.fs, l.Dir)
			if err == nil && got.Torn != nil && clean[path.Dir(l.Dir)] {
				err = got.Torn
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%w: bring an undamaged copy of the directory, or move %s away", err, l.Dir))
				continue
			}
			l.Start, l.End, l.Bytes, l.SetAside, l.maxProducerID = got.Start, got.End, got.Bytes, got.TornBytes, got.MaxProducerID
		}
	}
	return errors.Join(errs...)
}

// apply makes it so: first the logs are recovered and recorded as having data, then the producer ids that
// they know are taken out of use, and last the topics appear.
func (a *adopter) apply(ctx context.Context) error {
	b := a.b
	if err := b.openDirs(); err != nil {
		return err
	}
	if b.store == nil {
		if err := b.openStore(); err != nil {
			return err
		}
	}
	if err := b.join(ctx, nil); err != nil { // the next start registers the listeners
		return err
	}
	highest := int64(-1)
	epochs := make([][]int32, len(a.done.Topics))
	for i := range a.done.Topics {
		t := &a.done.Topics[i]
		if t.NewID {
			t.ID = cluster.NewUUID()
		}
		epochs[i] = make([]int32, t.Partitions)
		for j := range t.Logs {
			l := &t.Logs[j]
			if !l.hasID {
				if err := storage.WriteTopicID(b.fs, l.Dir, t.ID); err != nil {
					return err
				}
			}
			epoch, id, err := a.adoptLog(t, l)
			if err != nil {
				return err
			}
			epochs[i][l.Partition] = epoch
			highest = max(highest, id, l.maxProducerID)
		}
	}
	if err := b.cluster.ReserveProducerIDs(ctx, highest+1); err != nil {
		return fmt.Errorf("reserving the producer ids up to %d: %w", highest, err)
	}
	for i, t := range a.done.Topics {
		r := b.cluster.CreateTopics(ctx, []controller.NewTopic{{
			Name: t.Name, ID: t.ID, Partitions: t.Partitions, ReplicationFactor: 1, LeaderEpochs: epochs[i], Configs: t.Configs,
		}}, false)[0]
		if r.Code != wire.None {
			return fmt.Errorf("topic %s, after %d others: %s: %w", t.Name, i, r.Message, r.Code)
		}
	}
	return nil
}

// adoptLog recovers one log, which records durably that it has data.
func (a *adopter) adoptLog(t *AdoptedTopic, l *AdoptedLog) (epoch int32, maxProducerID int64, err error) {
	tp := storage.TopicPartition{Topic: t.Name, Partition: l.Partition}
	log, err := a.b.dirs.OpenLog(tp, t.ID, wire.UUID{}, storage.LogConfig{
		SegmentBytes: math.MaxInt32, IndexIntervalBytes: 4096, FlushMessages: 1, MaxInflatedBytes: math.MaxInt32,
	}, func() {})
	if err != nil {
		return 0, 0, err
	}
	l.Start, l.End = log.Start(), log.End()
	return max(0, log.LatestEpoch()), log.MaxProducerID(), nil
}
