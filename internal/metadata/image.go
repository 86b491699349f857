// Package metadata holds the cluster's metadata as one immutable value, the
// [Image], and knows how it is written as keys and values of the metastore.
//
// An Image is made from a snapshot of all keys and then from one batch of
// changes after the other; both ways give the same value. Only packages that
// decide (controller) or carry (cluster) use the codec.
//
// Invariants:
//  1. An Image never changes. A new one shares everything a batch did not touch.
//  2. Sequence numbers are contiguous: Apply takes only the batch that follows.
//  3. A topic is in the Image exactly while its record is in the store, and then
//     with all its partitions; chunks without a record are drafts nobody sees.
//  4. A name belongs to one topic id.
//  5. Decoding never panics, and allocates no more than a small multiple of what it reads.
package metadata

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"moldau/internal/acl"
	"moldau/internal/quota"
	"moldau/internal/wire"
)

// ErrSequence says that a batch of changes does not follow the Image: some were
// missed, repeated, or written by somebody who must not. Take a new snapshot.
var ErrSequence = errors.New("metadata changes out of sequence")

// Image is the cluster at one sequence number. Everything reachable from it is
// shared and must not be written. The zero value is not usable; see Empty.
type Image struct {
	seq            int64
	head           []byte // the value of HeadKey
	clusterID      string
	features       map[string]int16
	featureEpoch   int64
	controller     ControllerRecord // Broker -1 when there is none
	topics         []*Topic         // published, by name
	topicsByID     []*Topic         // the same, by id
	drafts         []*Topic         // chunks without a record, by id
	brokers        []*Broker        // by id
	configs        map[configKey]map[string]string
	users          map[string][]ScramCredential
	tokens         map[string]*DelegationToken
	acls           *acl.Set
	quotas         *quota.Rules
	nextProducerID int64
}

type configKey struct {
	kind ConfigKind
	name string
}

// ConfigKind is the kind of a configured resource, with Kafka's number (ConfigResource.Type).
type ConfigKind int8

// Kinds of configured resources.
const (
	TopicConfig  ConfigKind = 2
	BrokerConfig ConfigKind = 4 // name "" is the default of all brokers
	GroupConfig  ConfigKind = 32
)

// ScramMechanism is a SCRAM mechanism, with Kafka's number (KIP-554).
type ScramMechanism int8

// SCRAM mechanisms.
const (
	ScramSHA256 ScramMechanism = 1
	ScramSHA512 ScramMechanism = 2
)

// ScramCredential is what is known of a user's password for one mechanism (RFC 5802). It is not the password, but whoever has it
// can guess passwords as fast as he likes: it belongs in no log and no answer.
type ScramCredential struct {
	Mechanism                  ScramMechanism
	Iterations                 int32
	Salt, StoredKey, ServerKey []byte
}

// String shows nothing of a credential.
func (c ScramCredential) String() string { return "[hidden]" }

// DelegationToken is what is known of a delegation token (KIP-48). Its secret is not: it is computed from the id and a key that only
// the brokers' configuration has. Principals are written as "User:alice". Times are milliseconds of the Unix epoch, as Kafka gives them.
type DelegationToken struct {
	ID        string   // never empty
	Owner     string   // whom the token makes of its bearer
	Requester string   // who asked for it (KIP-373)
	Renewers  []string // who may renew and expire it, beside the owner
	IssuedMs  int64
	ExpiresMs int64 // moved by renewals, never past MaxMs
	MaxMs     int64
}

// Valid reports whether the token lets anybody in at a time. At ExpiresMs itself it does.
func (t *DelegationToken) Valid(nowMs int64) bool { return nowMs <= t.ExpiresMs && nowMs <= t.MaxMs }

// Topic is one topic with all its partitions, by index.
type Topic struct {
	Name       string
	ID         wire.UUID
	Partitions []Partition

	count int // partitions that the record publishes
	// all holds every partition that has a chunk, published or not; the chunks'
	// lengths say how many of its entries each kind of chunk has.
	all                   []Partition
	staticLen, dynamicLen []uint8
}

// Partition is the state of one partition. See KIP-966 for the two ELRs.
type Partition struct {
	Replicas, Adding, Removing []int32
	ISR, ELR, LastKnownELR     []int32
	Dirs                       []wire.UUID // log directory of each replica, in the order of Replicas
	Leader                     int32       // -1 when there is none
	LeaderEpoch                int32       // +1 for each new leader, and for each start of the leader
	PartitionEpoch             int32       // +1 for each change of the dynamic state
	MinISR                     int32       // effective: at most the number of replicas
	FlushMessages, FlushMs     int64       // effective flush policy, so that all replicas agree
	Recovering                 bool        // elected uncleanly, not recovered yet
}

// Endpoint is one listener as clients reach it.
type Endpoint struct {
	Name, Host string
	Port       uint16
	Protocol   string
}

// DirOf is the log directory of a broker's replica, zero where none is assigned.
func (p *Partition) DirOf(broker int32) wire.UUID {
	if i := slices.Index(p.Replicas, broker); i >= 0 && i < len(p.Dirs) {
		return p.Dirs[i]
	}
	return wire.UUID{}
}

// Broker is a registered broker.
type Broker struct {
	ID           int32
	Epoch        int64 // the sequence number of the registration
	Incarnation  wire.UUID
	Listeners    []Endpoint
	Rack         string
	DirIDs       []wire.UUID // its log directories
	Fenced       bool
	ShuttingDown bool
}

// Active reports that the broker may lead and take new replicas.
func (b *Broker) Active() bool { return b != nil && !b.Fenced && !b.ShuttingDown }

// Change is one key of a snapshot or of a batch.
type Change struct {
	Key     string
	Value   []byte
	Deleted bool
}

// Empty is the Image of a store that has never been written.
func Empty() *Image { return &Image{controller: ControllerRecord{Broker: -1}} }

// Seq is the sequence number of the last write in the Image, 0 before the first.
func (im *Image) Seq() int64 { return im.seq }

// Head is the value of HeadKey, nil before the first write.
func (im *Image) Head() []byte { return im.head }

// ClusterID is "" before the cluster has been created.
func (im *Image) ClusterID() string { return im.clusterID }

// Features are the finalized feature levels and their epoch.
func (im *Image) Features() (levels map[string]int16, epoch int64) {
	return im.features, im.featureEpoch
}

// Controller is the id of the broker that decides, or -1.
func (im *Image) Controller() int32 { return im.controller.Broker }

// NextProducerID is the first producer id that is in no allocated block.
func (im *Image) NextProducerID() int64 { return im.nextProducerID }

// Topic finds a topic by name, or returns nil.
func (im *Image) Topic(name string) *Topic {
	i, ok := slices.BinarySearchFunc(im.topics, name, func(t *Topic, name string) int { return strings.Compare(t.Name, name) })
	if !ok {
		return nil
	}
	return im.topics[i]
}

// TopicByID finds a topic by id, or returns nil.
func (im *Image) TopicByID(id wire.UUID) *Topic { return findByID(im.topicsByID, id) }

func findByID(ts []*Topic, id wire.UUID) *Topic {
	i, ok := slices.BinarySearchFunc(ts, id, func(t *Topic, id wire.UUID) int { return bytes.Compare(t.ID[:], id[:]) })
	if !ok {
		return nil
	}
	return ts[i]
}

// Topics yields all topics sorted by name.
func (im *Image) Topics() iter.Seq[*Topic] { return slices.Values(im.topics) }

// TopicCount is the number of topics.
func (im *Image) TopicCount() int { return len(im.topics) }

// Drafts are the ids of topics that have chunks but no record: their creation
// or deletion has not finished.
func (im *Image) Drafts() []wire.UUID {
	var ids []wire.UUID
	for _, t := range im.drafts {
		ids = append(ids, t.ID)
	}
	return ids
}

// Broker finds a broker by id, or returns nil.
func (im *Image) Broker(id int32) *Broker {
	i, ok := slices.BinarySearchFunc(im.brokers, id, func(b *Broker, id int32) int { return cmp.Compare(b.ID, id) })
	if !ok {
		return nil
	}
	return im.brokers[i]
}

// Brokers are all registered brokers sorted by id.
func (im *Image) Brokers() []*Broker { return im.brokers }

// Config is what is set for one resource, nil when nothing is.
func (im *Image) Config(kind ConfigKind, name string) map[string]string {
	return im.configs[configKey{kind, name}]
}

// Configs yields, in no order, what is set for each resource of a kind.
func (im *Image) Configs(kind ConfigKind) iter.Seq2[string, map[string]string] {
	return func(yield func(string, map[string]string) bool) {
		for k, v := range im.configs {
			if k.kind == kind && !yield(k.name, v) {
				return
			}
		}
	}
}

// ScramCredentials are those of a user by mechanism, nil if there are none.
func (im *Image) ScramCredentials(user string) []ScramCredential { return im.users[user] }

// ScramUsers are the names of all users with credentials, sorted.
func (im *Image) ScramUsers() []string { return sortedKeys(im.users) }

// DelegationToken finds a token by its id, or returns nil. It may have expired.
func (im *Image) DelegationToken(id string) *DelegationToken { return im.tokens[id] }

// DelegationTokens yields all tokens by id, those that have expired and are not swept away included.
func (im *Image) DelegationTokens() iter.Seq[*DelegationToken] {
	return func(yield func(*DelegationToken) bool) {
		for _, id := range sortedKeys(im.tokens) {
			if !yield(im.tokens[id]) {
				return
			}
		}
	}
}

// ACLs are the access control lists; nil where there are none.
func (im *Image) ACLs() *acl.Set { return im.acls }

// Quotas are the client quotas; nil, which is one to ask, where there are none.
func (im *Image) Quotas() *quota.Rules { return im.quotas }

// FromSnapshot makes the Image of all keys under Prefix.
func FromSnapshot(kvs []Change) (*Image, error) {
	b := newBuilder(Empty())
	for _, kv := range kvs {
		if err := b.change(kv); err != nil {
			return nil, fmt.Errorf("key %q: %w", kv.Key, err)
		}
	}
	return b.finish()
}

// Apply returns the Image after one batch of changes, which must be everything
// that one revision of the store changed under Prefix. A batch carries the next
// sequence number; only the controller's own key changes without one.
func (im *Image) Apply(batch []Change) (*Image, error) {
	sequenced, others := false, false
	for _, c := range batch {
		sequenced = sequenced || c.Key == HeadKey
		others = others || c.Key != ControllerKey
	}
	if others && !sequenced {
		return nil, fmt.Errorf("%w: a batch of %d changes after %d has no sequence number", ErrSequence, len(batch), im.seq)
	}
	b := newBuilder(im)
	for _, c := range batch {
		if err := b.change(c); err != nil {
			return nil, fmt.Errorf("key %q: %w", c.Key, err)
		}
	}
	if sequenced && b.im.seq != im.seq+1 {
		return nil, fmt.Errorf("%w: %d after %d", ErrSequence, b.im.seq, im.seq)
	}
	return b.finish()
}

// builder is an Image under construction: it may write im itself and what it
// has put into touched, and nothing else.
type builder struct {
	im      Image
	old     *Image
	touched map[wire.UUID]*Topic
	configs bool // im.configs is a copy
	users   bool // im.users is a copy
	tokens  bool // im.tokens is a copy
	acls    map[acl.Pattern][]acl.Entry
	quotas  map[quota.Entity]quota.Limits
}

func newBuilder(old *Image) *builder {
	return &builder{im: *old, old: old, touched: map[wire.UUID]*Topic{}}
}

func (b *builder) change(c Change) error {
	switch {
	case c.Key == HeadKey:
		return b.head(c)
	case c.Key == ControllerKey:
		b.im.controller = ControllerRecord{Broker: -1}
		return put(c, DecodeController, func(r ControllerRecord) { b.im.controller = r })
	case c.Key == ClusterKey:
		b.im.clusterID, b.im.features, b.im.featureEpoch = "", nil, 0
		return put(c, decodeCluster, func(r clusterRecord) {
			b.im.clusterID, b.im.features, b.im.featureEpoch = r.id, r.features, r.featureEpoch
		})
	case c.Key == ProducerIDKey:
		b.im.nextProducerID = 0
		return put(c, decodeProducerID, func(next int64) { b.im.nextProducerID = next })
	}
	if rest, ok := strings.CutPrefix(c.Key, topicPrefix); ok {
		return b.topic(rest, c)
	}
	if rest, ok := strings.CutPrefix(c.Key, staticPrefix); ok {
		return b.static(rest, c)
	}
	if rest, ok := strings.CutPrefix(c.Key, dynamicPrefix); ok {
		return b.dynamic(rest, c)
	}
	if rest, ok := strings.CutPrefix(c.Key, configPrefix); ok {
		return b.config(rest, c)
	}
	if rest, ok := strings.CutPrefix(c.Key, userPrefix); ok {
		return b.user(rest, c)
	}
	if rest, ok := strings.CutPrefix(c.Key, tokenPrefix); ok {
		return b.token(rest, c)
	}
	if rest, ok := strings.CutPrefix(c.Key, brokerPrefix); ok {
		return b.broker(rest, c)
	}
	if rest, ok := strings.CutPrefix(c.Key, aclPrefix); ok {
		return b.acl(rest, c)
	}
	if rest, ok := strings.CutPrefix(c.Key, quotaPrefix); ok {
		return b.quota(rest, c)
	}
	return fmt.Errorf("%w: unknown key", ErrCorrupt)
}

// put decodes a value that is there and hands it on.
func put[T any](c Change, decode func([]byte) (T, error), set func(T)) error {
	if c.Deleted {
		return nil
	}
	v, err := decode(c.Value)
	if err == nil {
		set(v)
	}
	return err
}

func (b *builder) head(c Change) error {
	if c.Deleted {
		return fmt.Errorf("%w: the head was deleted", ErrSequence)
	}
	h, err := DecodeHead(c.Value)
	b.im.seq, b.im.head = h.Seq, c.Value
	return err
}

// touch returns the topic of an id for writing.
func (b *builder) touch(id wire.UUID) *Topic {
	if t := b.touched[id]; t != nil {
		return t
	}
	t := &Topic{ID: id}
	old := findByID(b.old.topicsByID, id)
	if old == nil {
		old = findByID(b.old.drafts, id)
	}
	if old != nil {
		*t = *old
		t.all, t.staticLen, t.dynamicLen = slices.Clone(old.all), slices.Clone(old.staticLen), slices.Clone(old.dynamicLen)
	}
	b.touched[id] = t
	return t
}

func (b *builder) topic(rest string, c Change) error {
	id, err := parseID(rest)
	if err != nil {
		return err
	}
	t := b.touch(id)
	if c.Deleted {
		t.Name, t.count = "", 0
		return nil
	}
	r, err := decodeTopic(c.Value)
	if err != nil {
		return err
	}
	if t.Name != "" && t.Name != r.name {
		return fmt.Errorf("%w: topic %q renamed to %q", ErrCorrupt, t.Name, r.name)
	}
	t.Name, t.count = r.name, r.partitions
	return nil
}

func (b *builder) static(rest string, c Change) error {
	id, chunk, err := chunkOf(rest)
	if err != nil {
		return err
	}
	var ps [ChunkPartitions]Partition
	n := 0
	if !c.Deleted {
		if n, err = decodeStatic(c.Value, &ps); err != nil {
			return err
		}
	}
	t := b.touch(id)
	t.grow(chunk, n)
	t.staticLen[chunk] = uint8(n)
	for i := range t.chunk(chunk) {
		p := &t.all[chunk*ChunkPartitions+i]
		p.Replicas, p.Adding, p.Removing, p.Dirs = ps[i].Replicas, ps[i].Adding, ps[i].Removing, ps[i].Dirs
	}
	return nil
}

func (b *builder) dynamic(rest string, c Change) error {
	id, chunk, err := chunkOf(rest)
	if err != nil {
		return err
	}
	var ps [ChunkPartitions]Partition
	n := 0
	if !c.Deleted {
		if n, err = decodeDynamic(c.Value, &ps); err != nil {
			return err
		}
	}
	t := b.touch(id)
	t.grow(chunk, n)
	t.dynamicLen[chunk] = uint8(n)
	for i := range t.chunk(chunk) {
		p := &t.all[chunk*ChunkPartitions+i]
		q := ps[i]
		q.Replicas, q.Adding, q.Removing, q.Dirs = p.Replicas, p.Adding, p.Removing, p.Dirs
		*p = q
	}
	return nil
}

// grow makes room for n partitions in a chunk.
func (t *Topic) grow(chunk, n int) {
	if more := chunk + 1 - len(t.staticLen); more > 0 {
		t.staticLen = append(t.staticLen, make([]uint8, more)...)
		t.dynamicLen = append(t.dynamicLen, make([]uint8, more)...)
	}
	if more := chunk*ChunkPartitions + n - len(t.all); more > 0 {
		t.all = append(t.all, make([]Partition, more)...)
	}
}

// chunk is the part of all that a chunk covers.
func (t *Topic) chunk(chunk int) []Partition {
	from := min(chunk*ChunkPartitions, len(t.all))
	return t.all[from:min(from+ChunkPartitions, len(t.all))]
}

// settle brings a touched topic into the one form that its keys define, and
// says whether anything of it is left.
func (t *Topic) settle() (exists bool, err error) {
	chunks, size := len(t.staticLen), 0
	for chunks > 0 && t.staticLen[chunks-1] == 0 && t.dynamicLen[chunks-1] == 0 {
		chunks--
	}
	if chunks > 0 {
		size = (chunks-1)*ChunkPartitions + int(max(t.staticLen[chunks-1], t.dynamicLen[chunks-1]))
	}
	t.all = t.all[:size:size]
	t.staticLen, t.dynamicLen = t.staticLen[:chunks:chunks], t.dynamicLen[:chunks:chunks]
	t.Partitions = nil
	if t.Name == "" {
		return chunks > 0, nil
	}
	for from := 0; from < t.count; from += ChunkPartitions {
		chunk, need := from/ChunkPartitions, min(t.count-from, ChunkPartitions)
		if chunk >= chunks || int(t.staticLen[chunk]) < need || int(t.dynamicLen[chunk]) < need {
			return false, fmt.Errorf("%w: topic %q (%s) has %d partitions but chunk %d is incomplete", ErrCorrupt, t.Name, t.ID, t.count, chunk)
		}
	}
	t.Partitions = t.all[:t.count:t.count]
	return true, nil
}

func (b *builder) user(name string, c Change) error {
	if !b.users {
		b.users = true
		b.im.users = maps.Clone(b.im.users)
		if b.im.users == nil {
			b.im.users = map[string][]ScramCredential{}
		}
	}
	delete(b.im.users, name)
	return put(c, decodeUser, func(cs []ScramCredential) { b.im.users[name] = cs })
}

func (b *builder) token(id string, c Change) error {
	if id == "" {
		return fmt.Errorf("%w: a delegation token without an id", ErrCorrupt)
	}
	if !b.tokens {
		b.tokens = true
		b.im.tokens = maps.Clone(b.im.tokens)
		if b.im.tokens == nil {
			b.im.tokens = map[string]*DelegationToken{}
		}
	}
	delete(b.im.tokens, id)
	return put(c, decodeToken, func(t *DelegationToken) { t.ID, b.im.tokens[id] = id, t })
}

func (b *builder) config(rest string, c Change) error {
	kind, name, found := strings.Cut(rest, "/")
	n, err := strconv.ParseInt(kind, 10, 8)
	if !found || err != nil || strconv.FormatInt(n, 10) != kind {
		return fmt.Errorf("%w: kind of resource %q", ErrCorrupt, kind)
	}
	if !b.configs {
		b.configs = true
		b.im.configs = maps.Clone(b.im.configs)
		if b.im.configs == nil {
			b.im.configs = map[configKey]map[string]string{}
		}
	}
	key := configKey{ConfigKind(n), name}
	if c.Deleted {
		delete(b.im.configs, key)
		return nil
	}
	return put(c, decodeConfig, func(m map[string]string) { b.im.configs[key] = m })
}

func (b *builder) broker(rest string, c Change) error {
	n, err := strconv.ParseInt(rest, 10, 32)
	if err != nil || strconv.FormatInt(n, 10) != rest {
		return fmt.Errorf("%w: broker id %q", ErrCorrupt, rest)
	}
	id := int32(n)
	brokers := slices.DeleteFunc(slices.Clone(b.im.brokers), func(x *Broker) bool { return x.ID == id })
	if !c.Deleted {
		r, err := decodeBroker(c.Value)
		if err != nil {
			return err
		}
		if r.ID != id {
			return fmt.Errorf("%w: the key of broker %d holds broker %d", ErrCorrupt, id, r.ID)
		}
		brokers = append(brokers, r)
		slices.SortFunc(brokers, func(x, y *Broker) int { return cmp.Compare(x.ID, y.ID) })
	}
	b.im.brokers = brokers
	return nil
}

func (b *builder) acl(rest string, c Change) error {
	p, err := aclPatternOf(rest)
	if err != nil {
		return err
	}
	if b.acls == nil {
		b.acls = map[acl.Pattern][]acl.Entry{}
	}
	b.acls[p] = nil
	return put(c, func(value []byte) ([]acl.Entry, error) { return decodeACL(p, value) }, func(entries []acl.Entry) { b.acls[p] = entries })
}

func (b *builder) quota(rest string, c Change) error {
	of, err := quotaEntityOf(rest)
	if err != nil {
		return err
	}
	if b.quotas == nil {
		b.quotas = map[quota.Entity]quota.Limits{}
	}
	b.quotas[of] = quota.Limits{}
	return put(c, func(value []byte) (quota.Limits, error) { return decodeQuota(of, value) }, func(l quota.Limits) { b.quotas[of] = l })
}

// finish settles what was touched and puts it in its places.
func (b *builder) finish() (*Image, error) {
	var gone, added, goneDrafts, addedDrafts []*Topic
	for id, t := range b.touched {
		if old := findByID(b.old.topicsByID, id); old != nil {
			gone = append(gone, old)
		}
		if old := findByID(b.old.drafts, id); old != nil {
			goneDrafts = append(goneDrafts, old)
		}
		exists, err := t.settle()
		switch {
		case err != nil:
			return nil, err
		case exists && t.Name != "":
			added = append(added, t)
		case exists:
			addedDrafts = append(addedDrafts, t)
		}
	}
	byName := func(x, y *Topic) int { return strings.Compare(x.Name, y.Name) }
	byID := func(x, y *Topic) int { return bytes.Compare(x.ID[:], y.ID[:]) }
	var err error
	if b.im.topics, err = splice(b.im.topics, gone, added, byName); err != nil {
		return nil, err
	}
	if b.im.topicsByID, err = splice(b.im.topicsByID, gone, added, byID); err != nil {
		return nil, err
	}
	if b.im.drafts, err = splice(b.im.drafts, goneDrafts, addedDrafts, byID); err != nil {
		return nil, err
	}
	if len(b.acls) > 0 {
		b.im.acls = b.im.acls.With(b.acls)
	}
	if len(b.quotas) > 0 {
		b.im.quotas = b.im.quotas.With(b.quotas)
	}
	im := b.im
	// Nothing has one form, so that equal images are deeply equal.
	for _, list := range []*[]*Topic{&im.topics, &im.topicsByID, &im.drafts} {
		if len(*list) == 0 {
			*list = nil
		}
	}
	if len(im.brokers) == 0 {
		im.brokers = nil
	}
	if len(im.configs) == 0 {
		im.configs = nil
	}
	if len(im.users) == 0 {
		im.users = nil
	}
	if len(im.tokens) == 0 {
		im.tokens = nil
	}
	return &im, nil
}

// splice returns a sorted list without gone and with added. It copies in runs,
// so that a change to one of ten thousand topics costs a binary search and a
// copy of the pointers.
func splice(list, gone, added []*Topic, order func(x, y *Topic) int) ([]*Topic, error) {
	if len(gone)+len(added) == 0 {
		return list, nil
	}
	slices.SortFunc(gone, order)
	slices.SortFunc(added, order)
	kept := make([]*Topic, 0, len(list))
	from := 0
	for _, t := range gone {
		i, ok := slices.BinarySearchFunc(list, t, order)
		if !ok {
			panic("BUG: a topic to remove is not in the image")
		}
		kept = append(kept, list[from:i]...)
		from = i + 1
	}
	kept = append(kept, list[from:]...)
	if len(added) == 0 {
		return slices.Clip(kept), nil
	}
	out := make([]*Topic, 0, len(kept)+len(added))
	from = 0
	for k, t := range added {
		i, ok := slices.BinarySearchFunc(kept, t, order)
		if ok || k > 0 && order(added[k-1], t) == 0 {
			return nil, fmt.Errorf("%w: two topics are called %q", ErrCorrupt, t.Name)
		}
		out = append(append(out, kept[from:i]...), t)
		from = i
	}
	return append(out, kept[from:]...), nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
