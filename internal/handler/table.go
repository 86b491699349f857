// Package handler answers Kafka's requests: one file per API, and one table (this file)
// that says which APIs and versions are served, what they need to be authorised for and
// whether they may start early. Its door is Table, the service behind a network.Server.
//
// A request is decoded here, served from the cluster's image, the partitions and the
// configuration, and answered. What waits does so in Call.Wait, which runs in the
// connection's writer; nothing here has a goroutine of its own. Errors of the packages below become
// protocol codes in errors.go and nowhere else.
//
// Invariants:
//  1. An API is advertised exactly if it has a row, with the versions of the row, which are
//     Kafka 4.3's or a part of them.
//  2. Every started Call is answered in the version of its request.
//  3. Nothing that a client sends makes a handler panic or wait without a bound.
//  4. No resource is read, changed or told of before authorize.go has allowed it to the client, by the rules of that moment. TestEveryAPIAsks
//     fails for a new API until it is among those that are asked.
package handler

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/cluster"
	"moldau/internal/config"
	"moldau/internal/metadata"
	"moldau/internal/network"
	"moldau/internal/partition"
	"moldau/internal/security"
	"moldau/internal/wire"
)

// Options is what the handlers work with.
type Options struct {
	NodeID     int32
	Cluster    *cluster.Cluster
	Partitions *partition.Manager
	Groups     *Groups
	Security   *security.Security
	Config     *config.Broker // start configuration
	Log        *slog.Logger
	Audit      *slog.Logger          // who was denied what, and who changed access; nil: nobody wants to know
	Registerer prometheus.Registerer // nil: none

	PoisonBuffers bool // overwrite response buffers when they are released: for tests, to find a use after that
}

// Table serves requests. Safe for concurrent use.
type Table struct {
	o           Options
	rows        map[int16]*row
	apis        []kmsg.ApiVersionsResponseApiKey // what ApiVersions advertises, by key
	decoder     wire.Decoder
	sessions    *sessions
	refused     refusals
	pools       pools
	quotas      *quotas
	delegation  *security.Delegation // nil: there are no delegation tokens
	access      *authorizer          // nil: everyone may do everything
	maxFrame    int32                // socket.request.max.bytes
	maxProof    int32                // sasl.server.max.receive.size
	failedDelay time.Duration        // connection.failed.authentication.delay.ms
	turns       chan struct{}        // a place for each large answer that is being made
	current     atomic.Pointer[resolved]
}

// row is one API.
type row struct {
	key      kmsg.Key
	min, max int16 // advertised
	served   int16 // lowest version that is served; below, the connection is closed
	early    bool  // may start behind unanswered requests of the same API
	large    bool  // may be as large as socket.request.max.bytes
	// needs is what a client must be allowed to do; the handler asks once per resource.
	needs access
	parks time.Duration // how long it may wait for other clients without being slow; a fetch says it itself
	// unmetered APIs are on nobody's account: in Kafka they are answered before quotas come in.
	unmetered bool
	start     func(t *Table, rc requestContext, body []byte) (network.Call, error)
}

// smallFrameBytes bounds the requests of every API that does not carry records.
const smallFrameBytes = 8 << 20

// greetingBytes bounds ApiVersions and SaslHandshake of who is not known yet: names in them are kept.
const greetingBytes = 4 << 10

// forMembers: a group takes as long as its members.
const forMembers = time.Duration(math.MaxInt64)

// rows is the one list of APIs. Versions are those of Kafka 4.3.1.
func rows() []row {
	return []row{
		{key: kmsg.Produce, min: 0, served: 3, max: 13, early: true, large: true, needs: access{topicResource, opWrite}, start: startProduce},
		{key: kmsg.Fetch, min: 4, max: 18, needs: access{topicResource, opRead}, start: startFetch},
		{key: kmsg.ListOffsets, min: 1, max: 11, needs: access{topicResource, opDescribe}, start: answer(listOffsets)},
		{key: kmsg.Metadata, min: 0, max: 13, needs: access{topicResource, opDescribe}, start: answer(metadataOf)},
		{key: kmsg.OffsetCommit, min: 2, max: 10, needs: access{groupResource, opRead}, start: answer(offsetCommit)},
		{key: kmsg.OffsetFetch, min: 1, max: 10, needs: access{groupResource, opDescribe}, start: answer(offsetFetch)},
		{key: kmsg.FindCoordinator, min: 0, max: 6, needs: access{groupResource, opDescribe}, start: answer(findCoordinator)},
		{key: kmsg.JoinGroup, min: 0, max: 9, needs: access{groupResource, opRead}, parks: forMembers, start: answer(joinGroup)},
		{key: kmsg.Heartbeat, min: 0, max: 4, needs: access{groupResource, opRead}, start: answer(heartbeat)},
		{key: kmsg.LeaveGroup, min: 0, max: 5, needs: access{groupResource, opRead}, start: answer(leaveGroup)},
		{key: kmsg.SyncGroup, min: 0, max: 5, needs: access{groupResource, opRead}, parks: forMembers, start: answer(syncGroup)},
		{key: kmsg.DescribeGroups, min: 0, max: 6, needs: access{groupResource, opDescribe}, start: answer(describeGroups)},
		{key: kmsg.ListGroups, min: 0, max: 5, needs: access{clusterResource, opDescribe}, start: answer(listGroups)},
		{key: kmsg.SASLHandshake, min: 0, max: 1, unmetered: true, start: startSASLHandshake},
		{key: kmsg.ApiVersions, min: 0, max: 4, start: startAPIVersions},
		{key: kmsg.CreateTopics, min: 2, max: 7, needs: access{topicResource, opCreate}, start: answer(createTopics)},
		{key: kmsg.DeleteTopics, min: 1, max: 6, needs: access{topicResource, opDelete}, start: answer(deleteTopics)},
		{key: kmsg.DeleteRecords, min: 0, max: 2, needs: access{topicResource, opDelete}, start: answer(deleteRecords)},
		{key: kmsg.InitProducerID, min: 0, max: 5, needs: access{clusterResource, opIdempotentWrite}, start: answer(initProducerID)},
		{key: kmsg.OffsetForLeaderEpoch, min: 2, max: 4, needs: access{topicResource, opDescribe}, start: answer(offsetForLeaderEpoch)},
		{key: kmsg.DescribeConfigs, min: 1, max: 4, needs: access{topicResource, opDescribeConfigs}, start: answer(describeConfigs)},
		{key: kmsg.AlterConfigs, min: 0, max: 2, needs: access{topicResource, opAlterConfigs}, start: answer(alterConfigs)},
		{key: kmsg.DescribeLogDirs, min: 1, max: 5, needs: access{clusterResource, opDescribe}, start: answer(describeLogDirs)},
		{key: kmsg.SASLAuthenticate, min: 0, max: 2, unmetered: true, start: startSASLAuthenticate},
		{key: kmsg.DescribeACLs, min: 1, max: 3, needs: access{clusterResource, opDescribe}, start: answer(describeACLs)},
		{key: kmsg.CreateACLs, min: 1, max: 3, needs: access{clusterResource, opAlter}, start: answer(createACLs)},
		{key: kmsg.DeleteACLs, min: 1, max: 3, needs: access{clusterResource, opAlter}, start: answer(deleteACLs)},
		{key: kmsg.CreatePartitions, min: 0, max: 3, needs: access{topicResource, opAlter}, start: answer(createPartitions)},
		{key: kmsg.CreateDelegationToken, min: 1, max: 3, needs: access{userResource, opCreateTokens}, start: answer(createDelegationToken)},
		{key: kmsg.RenewDelegationToken, min: 1, max: 2, start: answer(renewDelegationToken)},
		{key: kmsg.ExpireDelegationToken, min: 1, max: 2, start: answer(expireDelegationToken)},
		{key: kmsg.DescribeDelegationToken, min: 1, max: 3, needs: access{tokenResource, opDescribe}, start: answer(describeDelegationToken)},
		{key: kmsg.DeleteGroups, min: 0, max: 2, needs: access{groupResource, opDelete}, start: answer(deleteGroups)},
		{key: kmsg.IncrementalAlterConfigs, min: 0, max: 1, needs: access{topicResource, opAlterConfigs}, start: answer(incrementalAlterConfigs)},
		{key: kmsg.ListPartitionReassignments, min: 0, max: 0, needs: access{clusterResource, opDescribe}, start: answer(listPartitionReassignments)},
		{key: kmsg.OffsetDelete, min: 0, max: 0, needs: access{groupResource, opDelete}, start: answer(offsetDelete)},
		{key: kmsg.DescribeClientQuotas, min: 0, max: 1, needs: access{clusterResource, opDescribeConfigs}, start: answer(describeClientQuotas)},
		{key: kmsg.AlterClientQuotas, min: 0, max: 1, needs: access{clusterResource, opAlterConfigs}, start: answer(alterClientQuotas)},
		{key: kmsg.DescribeUserSCRAMCredentials, min: 0, max: 0, needs: access{clusterResource, opDescribe}, start: answer(describeUserScramCredentials)},
		{key: kmsg.AlterUserSCRAMCredentials, min: 0, max: 0, needs: access{clusterResource, opAlter}, start: answer(alterUserScramCredentials)},
		{key: kmsg.UpdateFeatures, min: 0, max: 2, needs: access{clusterResource, opAlter}, start: answer(updateFeatures)},
		{key: kmsg.DescribeCluster, min: 0, max: 2, needs: access{clusterResource, opDescribe}, start: answer(describeCluster)},
		{key: kmsg.ConsumerGroupHeartbeat, min: 0, max: 1, needs: access{groupResource, opRead}, start: answer(consumerGroupHeartbeat)},
		{key: kmsg.ConsumerGroupDescribe, min: 0, max: 1, needs: access{groupResource, opDescribe}, start: answer(consumerGroupDescribe)},
		{key: kmsg.DescribeTopicPartitions, min: 0, max: 0, needs: access{topicResource, opDescribe}, start: answer(describeTopicPartitions)},
	}
}

// New builds the table.
func New(o Options) *Table {
	t := &Table{o: o, rows: map[int16]*row{}, refused: refusals{out: o.Log}, maxFrame: int32(o.Config.Int("socket.request.max.bytes"))}
	t.maxProof, t.failedDelay = int32(o.Config.Int("sasl.server.max.receive.size")), o.Config.Millis("connection.failed.authentication.delay.ms")
	t.access = newAuthorizer(o)
	t.quotas = newQuotas(o)
	t.delegation = security.NewDelegation(o.Config.Text("delegation.token.secret.key"))
	t.turns = make(chan struct{}, runtime.GOMAXPROCS(0))
	t.sessions = newSessions(int(o.Config.Int("max.incremental.fetch.session.cache.slots")))
	for _, r := range rows() {
		r.served = max(r.served, r.min)
		t.rows[r.key.Int16()] = &r
		t.apis = append(t.apis, apiKey(r))
	}
	return t
}

func apiKey(r row) kmsg.ApiVersionsResponseApiKey {
	k := kmsg.NewApiVersionsResponseApiKey()
	k.ApiKey, k.MinVersion, k.MaxVersion = r.key.Int16(), r.min, r.max
	return k
}

// MaxFrameBytes implements network.Service.
func (t *Table) MaxFrameBytes(c *network.Conn, key int16) int32 {
	if t.unproven(c) {
		if key != network.RawKey && key != kmsg.SASLAuthenticate.Int16() {
			return min(t.maxFrame, t.maxProof, greetingBytes)
		}
		return min(t.maxFrame, t.maxProof)
	}
	if r := t.rows[key]; r != nil && r.large {
		return t.maxFrame
	}
	return min(t.maxFrame, smallFrameBytes)
}

// Early implements network.Service.
func (t *Table) Early(key int16) bool {
	r := t.rows[key]
	return r != nil && r.early
}

// Start implements network.Service.
func (t *Table) Start(ctx context.Context, c *network.Conn, frame []byte, arrived time.Time) (network.Call, error) {
	state := stateOf(c)
	if state.session == nil {
		s, err := t.openSession(c)
		if err != nil {
			return nil, err
		}
		state.session = s
	}
	if state.session.phase == proving && c.Raw() {
		return startRaw(t, c, frame, arrived)
	}
	h, body, err := wire.ParseRequestHeader(frame, state.clientID)
	state.clientID = h.ClientID
	r := t.rows[h.Key]
	if denied := state.session.allows(h.Key, arrived); denied != nil {
		return t.deny(c, h, arrived, denied)
	}
	if r == nil && err == nil {
		err = wire.ErrUnsupported
	}
	if r != nil && h.Key == kmsg.ApiVersions.Int16() {
		err = nil // answered in any version, see startAPIVersions
	}
	if err == nil && h.Key != kmsg.ApiVersions.Int16() && (h.Version < r.served || h.Version > r.max) {
		err = wire.ErrUnsupported
	}
	if err != nil {
		return nil, fmt.Errorf("request with key %d (%s) version %d: %w", h.Key, kmsg.NameForKey(h.Key), h.Version, err)
	}
	rc := t.contextOf(c, h, r, arrived)
	// Before a client has said who it is, nobody pays: else a stranger could use up what ANONYMOUS has.
	rc.size, rc.metered = int64(len(frame)), t.o.Cluster.Image().Quotas() != nil && !r.unmetered && state.session.phase == known
	return r.start(t, rc, body)
}

// requestContext is who asks, how and when.
type requestContext struct {
	conn      *network.Conn
	header    wire.RequestHeader
	arrived   time.Time
	listener  string
	principal string
	host      netip.AddrPort
	row       *row
	table     *Table
	decided   decision  // the last, see allowedTo
	local     time.Time // when local work ended, where the handler then waited for others: see waits
	bytes     int       // about how many the answer has, where they may be many
	turn      bool      // to make a large answer; see takeTurn

	size        int64         // of the frame, without its four size bytes
	metered     bool          // there are quotas, and the request is on somebody's account
	worked      time.Duration // for how long it has kept a thread busy, where it is metered
	owedUntilMs int64         // until when the client has to wait for mutations of the controller, by the clock of quotas
}

// contextOf is the context of a request; its connection has a session.
func (t *Table) contextOf(c *network.Conn, h wire.RequestHeader, r *row, arrived time.Time) requestContext {
	return requestContext{
		conn: c, header: h, arrived: arrived,
		listener: c.Listener(), principal: stateOf(c).session.principal, host: c.Remote(),
		row: r, table: t,
	}
}

// waits says that what follows waits for others, the metadata store included: it is remote time.
func (rc *requestContext) waits() {
	if rc.local.IsZero() {
		rc.local = time.Now()
	}
}

// describe says who asks, for the log of slow requests. Clients choose their names: only so much of one is logged.
func (rc *requestContext) describe(more ...slog.Attr) []slog.Attr {
	software := ""
	if s, ok := rc.conn.State().(*connState); ok && s.software != "" { // as in Start: ApiVersions has no other request beside it
		software = s.software + " " + s.softwareVersion
	}
	id := rc.header.ClientID
	return append([]slog.Attr{slog.String("client", id[:min(len(id), maxLoggedName)]), slog.String("software", software),
		slog.String("principal", rc.principal)}, more...)
}

// maxLoggedName bounds what is logged of a name that a client chose.
const maxLoggedName = 128

// partitionName is the name of a partition that a client named by its topic's name or id.
func (rc *requestContext) partitionName(topic string, id wire.UUID, index int32) string {
	if topic == "" {
		if topic = id.String(); rc.table.o.Cluster.Image().TopicByID(id) != nil {
			topic = rc.table.o.Cluster.Image().TopicByID(id).Name
		}
	}
	return fmt.Sprintf("%s-%d", topic[:min(len(topic), maxLoggedName)], index)
}

// describePartitions names the first of n partitions and says how many there are; first is asked for only if there is one.
func describePartitions(n int, first func() string) slog.Attr {
	switch n {
	case 0:
		return slog.Attr{}
	case 1:
		return slog.String("partition", first())
	}
	return slog.Group("", slog.String("partition", first()), slog.Int("partitions", n))
}

// answer makes a start function of a handler that is done when it returns: it runs in
// Wait, because it may wait for the metastore.
func answer[Req kmsg.Request](serve func(ctx context.Context, rc *requestContext, req Req) kmsg.Response) func(*Table, requestContext, []byte) (network.Call, error) {
	return func(t *Table, rc requestContext, body []byte) (network.Call, error) {
		began := time.Now()
		req, err := t.decoder.DecodeRequest(rc.header.Key, rc.header.Version, body)
		if err != nil {
			return nil, err
		}
		rc.work(began)
		typed, ok := req.(Req)
		if !ok {
			panic(fmt.Sprintf("BUG: the handler of %s takes %T, not %T", rc.row.key.Name(), typed, req))
		}
		return &simpleCall[Req]{rc: &rc, req: typed, serve: serve}, nil
	}
}

// simpleCall is a request that answer serves.
type simpleCall[Req kmsg.Request] struct {
	rc    *requestContext
	req   Req
	serve func(ctx context.Context, rc *requestContext, req Req) kmsg.Response
}

func (c *simpleCall[Req]) Ready() bool { return false }

func (c *simpleCall[Req]) Wait(ctx context.Context) network.Reply {
	began := time.Now()
	resp := c.serve(ctx, c.rc, c.req)
	defer c.rc.endTurn()
	ready := time.Now()
	if c.rc.local.IsZero() {
		c.rc.local = ready
	}
	if c.rc.metered {
		c.rc.worked += c.rc.local.Sub(began)
	}
	throttle := c.rc.throttle(resp)
	resp.SetVersion(c.rc.header.Version)
	return network.Reply{
		Pieces:    []wire.Piece{{Bytes: wire.AppendResponse(make([]byte, 0, c.rc.bytes), c.rc.header.CorrelationID, resp)}},
		Throttle:  throttle,
		LocalDone: c.rc.local, Ready: ready, MayPark: c.rc.row.parks,
	}
}

func (c *simpleCall[Req]) Describe() []slog.Attr { return c.rc.describe() }

func (c *simpleCall[Req]) Release() {}

// takeTurn waits until few enough large answers are being made: more at a time would not be ready earlier, and each takes several
// times of what is sent. The turn ends when the answer is encoded. It must not be held while anything but the processor is waited for.
func (rc *requestContext) takeTurn(ctx context.Context) error {
	begun := time.Now()
	defer func() { rc.worked -= time.Since(begun) }() // no quota of the client's is charged for the others
	select {
	case rc.table.turns <- struct{}{}:
		rc.turn = true
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (rc *requestContext) endTurn() {
	if rc.turn {
		rc.turn = false
		<-rc.table.turns
	}
}

// resolved is the configuration under one image.
type resolved struct {
	image    *metadata.Image
	config   *config.Broker
	maxFetch int32 // fetch.max.bytes
	trusts   bool  // moldau.produce.validation=header
}

// config is the broker's configuration with the dynamic values of im.
func (t *Table) config(im *metadata.Image) *config.Broker { return t.resolved(im).config }

func (t *Table) resolved(im *metadata.Image) *resolved {
	if r := t.current.Load(); r != nil && r.image == im {
		return r
	}
	c := t.o.Config.WithDynamic(im.Config(metadata.BrokerConfig, strconv.Itoa(int(t.o.NodeID))), im.Config(metadata.BrokerConfig, ""))
	r := &resolved{im, c, int32(c.Int("fetch.max.bytes")), c.Text("moldau.produce.validation") == "header"}
	t.current.Store(r)
	return r
}

// endpoint is where the client of rc reaches broker b: the address registered for the listener
// on which the request came. A broker that advertises none (an empty host) is this
// one, and the client has already found it: at the address to which it is connected.
func (rc *requestContext) endpoint(b *metadata.Broker) (host string, port int32, ok bool) {
	for _, e := range b.Listeners {
		if e.Name != rc.listener {
			continue
		}
		if e.Host != "" {
			return e.Host, int32(e.Port), true
		}
		local := rc.conn.Local()
		return local.Addr().Unmap().WithZone("").String(), int32(local.Port()), true
	}
	return "", -1, false
}
