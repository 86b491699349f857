package metadata

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"moldau/internal/acl"
	"moldau/internal/quota"
	"moldau/internal/wire"
)

// ErrCorrupt is wrapped by every error about a key or value that cannot be read.
var ErrCorrupt = errors.New("corrupt metadata")

// ChunkPartitions is how many partitions share a key: one key each would cost
// the store ten times more, one key a topic would rewrite it all for one change.
const ChunkPartitions = 64

// valueVersion is the first byte of every value.
const valueVersion = 1

// Prefix is that of all keys. Its second part is the version of the key schema.
//
//	ctl/leader                 the controller, leased; its create revision fences all writes
//	ctl/head                   sequence number and batch id of the last write
//	cluster                    cluster id, finalized features and their epoch
//	b/<id>                     a broker's registration
//	t/<topic id>               name and partition count; written last, it publishes the topic
//	ta/<topic id>/<chunk>      static: replicas, directories, reassignment
//	ts/<topic id>/<chunk>      dynamic: leader, epochs, ISR, ELR, minimum ISR, flush policy
//	c/<kind>/<name>            one resource's configuration
//	u/<user>                   one user's SCRAM credentials
//	d/<token id>               a delegation token: whose it is and until when, not its secret
//	a/<type>/<kind>/<name>     the access control entries of one resource pattern
//	q/<user>/<client id>/<ip>  the client quotas of one entity: each part is "-", "*" for the default, or "=" and a name, escaped
//	pid                        first producer id of the next block
const Prefix = "/moldau/1/"

// Keys that exist once. ControllerPrefix covers the leader's and the head's.
const (
	ControllerPrefix = Prefix + "ctl/"
	ControllerKey    = ControllerPrefix + "leader"
	HeadKey          = ControllerPrefix + "head"
	ClusterKey       = Prefix + "cluster"
	ProducerIDKey    = Prefix + "pid"

	brokerPrefix  = Prefix + "b/"
	topicPrefix   = Prefix + "t/"
	staticPrefix  = Prefix + "ta/"
	dynamicPrefix = Prefix + "ts/"
	configPrefix  = Prefix + "c/"
	userPrefix    = Prefix + "u/"
	tokenPrefix   = Prefix + "d/"
	aclPrefix     = Prefix + "a/"
	quotaPrefix   = Prefix + "q/"
)

// BrokerKey is the key of a broker's registration.
func BrokerKey(id int32) string { return brokerPrefix + strconv.Itoa(int(id)) }

// TopicKey is the key of the record that publishes a topic.
func TopicKey(id wire.UUID) string { return topicPrefix + id.String() }

// StaticKey is the key of a chunk of replica assignments.
func StaticKey(id wire.UUID, chunk int) string {
	return staticPrefix + id.String() + "/" + strconv.Itoa(chunk)
}

// DynamicKey is the key of a chunk of partition states.
func DynamicKey(id wire.UUID, chunk int) string {
	return dynamicPrefix + id.String() + "/" + strconv.Itoa(chunk)
}

// StaticPrefix and DynamicPrefix cover all chunks of one topic.
func StaticPrefix(id wire.UUID) string  { return staticPrefix + id.String() + "/" }
func DynamicPrefix(id wire.UUID) string { return dynamicPrefix + id.String() + "/" }

// ConfigKey is the key of a resource's configuration. Name "" of kind
// BrokerConfig is the default of all brokers.
func ConfigKey(kind ConfigKind, name string) string {
	return configPrefix + strconv.Itoa(int(kind)) + "/" + name
}

// UserKey is the key of a user's credentials.
func UserKey(name string) string { return userPrefix + name }

// TokenKey is the key of a delegation token.
func TokenKey(id string) string { return tokenPrefix + id }

// ACLKey is the key of the access control entries of a resource pattern.
func ACLKey(p acl.Pattern) string {
	return aclPrefix + strconv.Itoa(int(p.Type)) + "/" + strconv.Itoa(int(p.Kind)) + "/" + p.Name
}

// aclPatternOf parses "<type>/<kind>/<name>". A name may hold anything.
func aclPatternOf(rest string) (acl.Pattern, error) {
	kind, rest, _ := strings.Cut(rest, "/")
	how, name, _ := strings.Cut(rest, "/")
	t, errT := strconv.ParseInt(kind, 10, 8)
	k, errK := strconv.ParseInt(how, 10, 8)
	p := acl.Pattern{Type: acl.ResourceType(t), Kind: acl.PatternType(k), Name: name}
	if errT != nil || errK != nil || ACLKey(p) != aclPrefix+kind+"/"+how+"/"+name || !aclCanBe(p) {
		return p, fmt.Errorf("%w: access control pattern %q", ErrCorrupt, kind+"/"+how+"/"+name)
	}
	return p, nil
}

func aclCanBe(p acl.Pattern) bool {
	return acl.Binding{Pattern: p, Entry: acl.Entry{Principal: acl.Everyone, Host: acl.Wildcard, Operation: acl.All, Permission: acl.Deny}}.Problem() == ""
}

// QuotaKey is the key of the client quotas of an entity.
func QuotaKey(e quota.Entity) string {
	return quotaPrefix + quotaPart(e.User) + "/" + quotaPart(e.ClientID) + "/" + quotaPart(e.IP)
}

// quotaPart is a part in a key. A name may hold anything; escaped it holds no slash.
func quotaPart(p quota.Part) string {
	switch {
	case !p.Present():
		return "-"
	case p.IsDefault():
		return "*"
	}
	return "=" + url.PathEscape(p.Name())
}

// quotaEntityOf parses "<user>/<client id>/<ip>", in the one spelling that QuotaKey gives.
func quotaEntityOf(rest string) (quota.Entity, error) {
	var parts [3]quota.Part
	for i, s := range strings.SplitN(rest, "/", len(parts)) {
		if s == "*" {
			parts[i] = quota.Default
		} else if escaped, ok := strings.CutPrefix(s, "="); ok {
			if name, err := url.PathUnescape(escaped); err == nil {
				parts[i] = quota.Named(name)
			}
		}
	}
	e := quota.Entity{User: parts[0], ClientID: parts[1], IP: parts[2]}
	if QuotaKey(e) != quotaPrefix+rest || e.Problem() != "" {
		return e, fmt.Errorf("%w: quota entity %q", ErrCorrupt, rest)
	}
	return e, nil
}

// maxChunk bounds the chunk numbers that are believed.
const maxChunk = 1 << 11

// MaxPartitions is the most that one topic can have.
const MaxPartitions = maxChunk * ChunkPartitions

// chunkOf parses "<topic id>/<chunk>".
func chunkOf(rest string) (wire.UUID, int, error) {
	head, tail, _ := strings.Cut(rest, "/")
	id, err := parseID(head)
	if err != nil {
		return id, 0, err
	}
	n, err := strconv.Atoi(tail)
	if err != nil || n < 0 || n >= maxChunk || strconv.Itoa(n) != tail {
		return id, 0, fmt.Errorf("%w: chunk %q", ErrCorrupt, tail)
	}
	return id, n, nil
}

// parseID takes the one spelling that String gives, so that no two keys mean the same.
func parseID(s string) (wire.UUID, error) {
	id, err := wire.ParseUUID(s)
	if err != nil || id.String() != s {
		return id, fmt.Errorf("%w: topic id %q", ErrCorrupt, s)
	}
	return id, nil
}

// Head is the value of HeadKey.
type Head struct {
	Seq   int64  // 1 for the first write, then one more each
	Batch []byte // names the write, so that its writer can recognise it after an unknown outcome
}

// ControllerRecord is the value of ControllerKey.
type ControllerRecord struct {
	Broker      int32
	Incarnation wire.UUID
}

type clusterRecord struct {
	id           string
	features     map[string]int16
	featureEpoch int64
}

type topicRecord struct {
	name       string
	partitions int
}

// encoder appends the parts of a value. Integers are varints, byte strings and
// lists have a length before them.
type encoder []byte

func newEncoder() encoder { return encoder{valueVersion} }

func (e *encoder) int(v int64)      { *e = binary.AppendVarint(*e, v) }
func (e *encoder) count(n int)      { *e = binary.AppendUvarint(*e, uint64(n)) }
func (e *encoder) bytes(b []byte)   { e.count(len(b)); *e = append(*e, b...) }
func (e *encoder) string(s string)  { e.count(len(s)); *e = append(*e, s...) }
func (e *encoder) uuid(u wire.UUID) { *e = append(*e, u[:]...) }

func (e *encoder) bool(b bool) {
	if b {
		*e = append(*e, 1)
	} else {
		*e = append(*e, 0)
	}
}

func (e *encoder) ids(ids []int32) {
	e.count(len(ids))
	for _, id := range ids {
		e.int(int64(id))
	}
}

// decoder reads what encoder wrote. After the first error it yields zeros; no
// length is believed beyond the bytes that are there.
type decoder struct {
	rest []byte
	err  error
}

func newDecoder(value []byte) *decoder {
	d := &decoder{rest: value}
	if len(value) == 0 || value[0] != valueVersion {
		d.fail("version")
		return d
	}
	d.rest = value[1:]
	return d
}

func (d *decoder) fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s with %d bytes left", ErrCorrupt, what, len(d.rest))
	}
	d.rest = nil
}

func (d *decoder) int(low, high int64) int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 || v < low || v > high {
		d.fail("integer")
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) int32() int32 { return int32(d.int(math.MinInt32, math.MaxInt32)) }
func (d *decoder) int64() int64 { return d.int(math.MinInt64, math.MaxInt64) }

// count reads a number of elements of at least size bytes each.
func (d *decoder) count(size int) int {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 || v > uint64(len(d.rest)-n)/uint64(size) {
		d.fail("length")
		return 0
	}
	d.rest = d.rest[n:]
	return int(v)
}

func (d *decoder) take(n int) []byte {
	if n > len(d.rest) {
		d.fail("bytes")
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) bytes() []byte  { return slices.Clone(d.take(d.count(1))) }
func (d *decoder) string() string { return string(d.take(d.count(1))) }

func (d *decoder) uuid() (u wire.UUID) {
	copy(u[:], d.take(len(u)))
	return u
}

func (d *decoder) bool() bool {
	b := d.take(1)
	if len(b) == 1 && b[0] > 1 {
		d.fail("bool")
	}
	return len(b) == 1 && b[0] == 1
}

// idsLike reads a list; none is nil, so that decoding is exact. Where it is like another, it is that one: in a chunk most
// are the same, and nobody writes them.
func (d *decoder) idsLike(like []int32) []int32 {
	n := d.count(1)
	if n == 0 {
		return nil
	}
	if n == len(like) {
		start, same := d.rest, true
		for _, id := range like {
			same = d.int32() == id && same
		}
		if same {
			return like
		}
		if d.err != nil {
			return nil
		}
		d.rest = start
	}
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = d.int32()
	}
	return ids
}

func (d *decoder) uuids() []wire.UUID {
	n := d.count(len(wire.UUID{}))
	if n == 0 {
		return nil
	}
	us := make([]wire.UUID, n)
	for i := range us {
		us[i] = d.uuid()
	}
	return us
}

// end reports the first error, or bytes that nobody asked for.
func (d *decoder) end() error {
	if d.err == nil && len(d.rest) > 0 {
		d.fail("trailing bytes")
	}
	return d.err
}

// EncodeHead is the value of HeadKey.
func EncodeHead(h Head) []byte {
	e := newEncoder()
	e.int(h.Seq)
	e.bytes(h.Batch)
	return e
}

// DecodeHead reads the value of HeadKey.
func DecodeHead(value []byte) (Head, error) {
	d := newDecoder(value)
	h := Head{Seq: d.int(1, math.MaxInt64), Batch: d.bytes()}
	return h, d.end()
}

// EncodeController is the value of ControllerKey.
func EncodeController(c ControllerRecord) []byte {
	e := newEncoder()
	e.int(int64(c.Broker))
	e.uuid(c.Incarnation)
	return e
}

// DecodeController reads the value of ControllerKey.
func DecodeController(value []byte) (ControllerRecord, error) {
	d := newDecoder(value)
	c := ControllerRecord{Broker: d.int32(), Incarnation: d.uuid()}
	return c, d.end()
}

// EncodeCluster is the value of ClusterKey.
func EncodeCluster(id string, features map[string]int16, featureEpoch int64) []byte {
	e := newEncoder()
	e.string(id)
	e.int(featureEpoch)
	e.count(len(features))
	for _, name := range sortedKeys(features) {
		e.string(name)
		e.int(int64(features[name]))
	}
	return e
}

func decodeCluster(value []byte) (clusterRecord, error) {
	d := newDecoder(value)
	c := clusterRecord{id: d.string(), featureEpoch: d.int64()}
	n := d.count(2)
	c.features = make(map[string]int16, n)
	for range n {
		name := d.string()
		c.features[name] = int16(d.int(math.MinInt16, math.MaxInt16))
	}
	return c, d.end()
}

// EncodeBroker is the value of a broker's key.
func EncodeBroker(b *Broker) []byte {
	e := newEncoder()
	e.int(int64(b.ID))
	e.int(b.Epoch)
	e.uuid(b.Incarnation)
	e.count(len(b.Listeners))
	for _, l := range b.Listeners {
		e.string(l.Name)
		e.string(l.Host)
		e.int(int64(l.Port))
		e.string(l.Protocol)
	}
	e.string(b.Rack)
	e.count(len(b.DirIDs))
	for _, u := range b.DirIDs {
		e.uuid(u)
	}
	e.bool(b.Fenced)
	e.bool(b.ShuttingDown)
	return e
}

func decodeBroker(value []byte) (*Broker, error) {
	d := newDecoder(value)
	b := &Broker{ID: d.int32(), Epoch: d.int64(), Incarnation: d.uuid()}
	for range d.count(4) {
		b.Listeners = append(b.Listeners, Endpoint{Name: d.string(), Host: d.string(), Port: uint16(d.int(0, math.MaxUint16)), Protocol: d.string()})
	}
	b.Rack, b.DirIDs = d.string(), d.uuids()
	b.Fenced, b.ShuttingDown = d.bool(), d.bool()
	return b, d.end()
}

// EncodeTopic is the value of the record that publishes a topic.
func EncodeTopic(name string, partitions int) []byte {
	e := newEncoder()
	e.string(name)
	e.count(partitions)
	return e
}

func decodeTopic(value []byte) (topicRecord, error) {
	d := newDecoder(value)
	t := topicRecord{name: d.string()}
	n, size := binary.Uvarint(d.rest)
	if size <= 0 || n == 0 || n > MaxPartitions || t.name == "" {
		d.fail("topic")
		return t, d.err
	}
	t.partitions, d.rest = int(n), d.rest[size:]
	return t, d.end()
}

// EncodeStatic is the value of a static chunk: at most ChunkPartitions partitions.
func EncodeStatic(ps []Partition) []byte {
	e := newEncoder()
	e.count(len(ps))
	for i := range ps {
		p := &ps[i]
		e.ids(p.Replicas)
		e.ids(p.Adding)
		e.ids(p.Removing)
		e.count(len(p.Dirs))
		for _, u := range p.Dirs {
			e.uuid(u)
		}
	}
	return e
}

// chunk reads the number of partitions in a chunk.
func (d *decoder) chunk() int {
	n := d.count(1)
	if d.err == nil && (n == 0 || n > ChunkPartitions) {
		d.fail("chunk")
		return 0
	}
	return n
}

// decodeStatic fills the static fields of ps and returns how many partitions the chunk holds.
func decodeStatic(value []byte, ps *[ChunkPartitions]Partition) (int, error) {
	d := newDecoder(value)
	n := d.chunk()
	var last Partition
	for i := range n {
		p := &ps[i]
		p.Replicas, p.Adding, p.Removing = d.idsLike(last.Replicas), d.idsLike(last.Adding), d.idsLike(last.Removing)
		if p.Dirs = d.uuids(); slices.Equal(p.Dirs, last.Dirs) {
			p.Dirs = last.Dirs
		}
		last = *p
	}
	return n, d.end()
}

// EncodeDynamic is the value of a dynamic chunk: at most ChunkPartitions partitions.
func EncodeDynamic(ps []Partition) []byte {
	e := newEncoder()
	e.count(len(ps))
	for i := range ps {
		p := &ps[i]
		e.int(int64(p.Leader))
		e.int(int64(p.LeaderEpoch))
		e.int(int64(p.PartitionEpoch))
		e.ids(p.ISR)
		e.ids(p.ELR)
		e.ids(p.LastKnownELR)
		e.int(int64(p.MinISR))
		e.int(p.FlushMessages)
		e.int(p.FlushMs)
		e.bool(p.Recovering)
	}
	return e
}

// decodeDynamic fills the dynamic fields of ps and returns how many partitions the chunk holds.
func decodeDynamic(value []byte, ps *[ChunkPartitions]Partition) (int, error) {
	d := newDecoder(value)
	n := d.chunk()
	var last Partition
	for i := range n {
		p := &ps[i]
		p.Leader = int32(d.int(-1, math.MaxInt32))
		p.LeaderEpoch, p.PartitionEpoch = int32(d.int(0, math.MaxInt32)), int32(d.int(0, math.MaxInt32))
		p.ISR, p.ELR, p.LastKnownELR = d.idsLike(last.ISR), d.idsLike(last.ELR), d.idsLike(last.LastKnownELR)
		p.MinISR, p.FlushMessages, p.FlushMs = d.int32(), d.int64(), d.int64()
		p.Recovering = d.bool()
		last = *p
	}
	return n, d.end()
}

// EncodeConfig is the value of a resource's configuration.
func EncodeConfig(c map[string]string) []byte {
	e := newEncoder()
	e.count(len(c))
	for _, k := range sortedKeys(c) {
		e.string(k)
		e.string(c[k])
	}
	return e
}

func decodeConfig(value []byte) (map[string]string, error) {
	d := newDecoder(value)
	n := d.count(2)
	c := make(map[string]string, n)
	for range n {
		k := d.string()
		c[k] = d.string()
	}
	return c, d.end()
}

// EncodeUser is the value of a user's key: at least one credential, by mechanism.
func EncodeUser(cs []ScramCredential) []byte {
	e := newEncoder()
	e.count(len(cs))
	for _, c := range cs {
		e.int(int64(c.Mechanism))
		e.int(int64(c.Iterations))
		e.bytes(c.Salt)
		e.bytes(c.StoredKey)
		e.bytes(c.ServerKey)
	}
	return e
}

func decodeUser(value []byte) ([]ScramCredential, error) {
	d := newDecoder(value)
	n := d.count(5)
	if d.err == nil && n == 0 {
		d.fail("user without credentials")
	}
	var cs []ScramCredential
	for range n {
		cs = append(cs, ScramCredential{Mechanism: ScramMechanism(d.int(math.MinInt8, math.MaxInt8)), Iterations: d.int32(),
			Salt: d.bytes(), StoredKey: d.bytes(), ServerKey: d.bytes()})
	}
	return cs, d.end()
}

// EncodeToken is the value of a delegation token's key, which has its id.
func EncodeToken(t *DelegationToken) []byte {
	e := newEncoder()
	e.string(t.Owner)
	e.string(t.Requester)
	e.count(len(t.Renewers))
	for _, r := range t.Renewers {
		e.string(r)
	}
	e.int(t.IssuedMs)
	e.int(t.ExpiresMs)
	e.int(t.MaxMs)
	return e
}

func decodeToken(value []byte) (*DelegationToken, error) {
	d := newDecoder(value)
	t := &DelegationToken{Owner: d.string(), Requester: d.string()}
	for range d.count(1) {
		t.Renewers = append(t.Renewers, d.string())
	}
	t.IssuedMs, t.ExpiresMs, t.MaxMs = d.int64(), d.int64(), d.int64()
	return t, d.end()
}

// EncodeProducerID is the value of ProducerIDKey: the first id that is not allocated.
func EncodeProducerID(next int64) []byte {
	e := newEncoder()
	e.int(next)
	return e
}

func decodeProducerID(value []byte) (int64, error) {
	d := newDecoder(value)
	next := d.int(0, math.MaxInt64)
	return next, d.end()
}

// EncodeACL is the value of the key of a pattern, which has at least one entry.
func EncodeACL(entries []acl.Entry) []byte {
	e := newEncoder()
	e.count(len(entries))
	for i := range entries {
		e.string(entries[i].Principal)
		e.string(entries[i].Host)
		e.int(int64(entries[i].Operation))
		e.int(int64(entries[i].Permission))
	}
	return e
}

func decodeACL(p acl.Pattern, value []byte) ([]acl.Entry, error) {
	d := newDecoder(value)
	entries := make([]acl.Entry, d.count(4))
	for i := range entries {
		e := acl.Entry{Principal: d.string(), Host: d.string(), Operation: acl.Operation(d.int(0, math.MaxInt8)), Permission: acl.Permission(d.int(0, math.MaxInt8))}
		if d.err == nil && (acl.Binding{Pattern: p, Entry: e}).Problem() != "" {
			d.fail("access control entry")
		}
		entries[i] = e
	}
	if d.err == nil && len(entries) == 0 {
		d.fail("access control entries")
	}
	return entries, d.end()
}

// EncodeQuota is the value of the key of an entity, which has at least one limit.
func EncodeQuota(l quota.Limits) []byte {
	e := newEncoder()
	n := 0
	for k := range quota.Keys {
		if _, ok := l.Get(k); ok {
			n++
		}
	}
	e.count(n)
	for k := range quota.Keys {
		if v, ok := l.Get(k); ok {
			e.string(k.String())
			e = binary.BigEndian.AppendUint64(e, math.Float64bits(v))
		}
	}
	return e
}

func decodeQuota(of quota.Entity, value []byte) (quota.Limits, error) {
	var l quota.Limits
	d := newDecoder(value)
	n := d.count(9)
	if d.err == nil && n == 0 {
		d.fail("quota without limits")
	}
	for range n {
		name := d.string()
		k, ok := quota.KeyOf(name)
		v := 0.0
		if b := d.take(8); len(b) == 8 {
			v = math.Float64frombits(binary.BigEndian.Uint64(b))
		}
		if _, twice := l.Get(k); d.err == nil && (!ok || twice || !of.Has(k) || !quota.Valid(v)) {
			d.fail(fmt.Sprintf("quota %q with the value %v", name, v))
		}
		if d.err != nil {
			break
		}
		l = l.With(k, v)
	}
	return l, d.end()
}
