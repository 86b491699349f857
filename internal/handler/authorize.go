package handler

import (
	"cmp"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"moldau/internal/acl"
	"moldau/internal/config"
	"moldau/internal/wire"
)

// Resource types and operations as in Kafka's ACLs.
type (
	resourceType = acl.ResourceType
	operation    = acl.Operation
)

const (
	topicResource           = acl.Topic
	groupResource           = acl.Group
	clusterResource         = acl.Cluster
	transactionalIDResource = acl.TransactionalID
	userResource            = acl.User
	tokenResource           = acl.DelegationToken

	opRead            = acl.Read
	opWrite           = acl.Write
	opCreate          = acl.Create
	opDelete          = acl.Delete
	opAlter           = acl.Alter
	opDescribe        = acl.Describe
	opClusterAction   = acl.ClusterAction
	opDescribeConfigs = acl.DescribeConfigs
	opAlterConfigs    = acl.AlterConfigs
	opIdempotentWrite = acl.IdempotentWrite
	opCreateTokens    = acl.CreateTokens
	opDescribeTokens  = acl.DescribeTokens
)

// access is an operation on a type of resource.
type access struct {
	resource resourceType
	op       operation
}

// clusterName is the name of the one resource of type cluster.
const clusterName = acl.ClusterName

// decision is what was decided last. A request that names the partitions of one topic asks the same again and again.
type decision struct {
	access  access
	name    string
	allowed bool
	known   bool
}

// allowed decides whether the request's principal may do what the row needs on the resource of
// that name. Every handler asks it for every resource that it touches.
func (rc *requestContext) allowed(name string) bool { return rc.allowedTo(rc.row.needs, name) }

// allowedTo is allowed for another access than the row's. The client asked for the resource, so it is counted and told when it
// may not have it.
func (rc *requestContext) allowedTo(a access, name string) bool {
	if rc.table.access == nil {
		return true
	}
	if d := &rc.decided; d.known && d.access == a && d.name == name {
		return d.allowed
	}
	d := rc.decide(a, name)
	rc.decided = decision{a, name, d.Allowed, true}
	if !d.Allowed {
		rc.table.access.tell(rc, a, name, d)
	}
	return d.Allowed
}

// hides reports whether the client may not do what the row needs with a topic that lookup has not found: then it does not
// learn whether there is one. An id that nobody knows hides nothing.
func (rc *requestContext) hides(topic string, id wire.UUID) bool {
	if !id.IsZero() {
		t := rc.table.o.Cluster.Image().TopicByID(id)
		if t == nil {
			return false
		}
		topic = t.Name
	}
	return !rc.allowed(topic)
}

// permitted is allowedTo where the client has not asked for the resource, or may have it for another reason: to be denied
// is nothing that anybody would want to know.
func (rc *requestContext) permitted(a access, name string) bool {
	return rc.table.access == nil || rc.decide(a, name).Allowed
}

// mayAny tells whether there is any resource of the type on which the client may do it.
func (rc *requestContext) mayAny(a access) bool {
	t := rc.table
	if t.access == nil || t.access.rules.MayAny(t.o.Cluster.Image().ACLs(), rc.query(a, "")) {
		return true
	}
	t.access.tell(rc, a, "", acl.Decision{Cause: acl.NoMatch})
	return false
}

// acls are the rules in force, nil where access control is off.
func (t *Table) acls() *acl.Set {
	if t.access == nil {
		return nil
	}
	return t.o.Cluster.Image().ACLs()
}

func (rc *requestContext) decide(a access, name string) acl.Decision {
	return rc.table.access.rules.Decide(rc.table.o.Cluster.Image().ACLs(), rc.query(a, name))
}

func (rc *requestContext) query(a access, name string) acl.Query {
	return acl.Query{Principal: rc.principal, Host: rc.host.Addr(), Operation: a.op, Type: a.resource, Name: name}
}

// operationsOnTopic is what the client may do with a topic, as a bit for each operation (KIP-430).
func (rc *requestContext) operationsOnTopic(name string) int32 {
	return rc.operations(topicResource, name)
}

// operationsOnCluster is operationsOnTopic for the cluster; 0 for who may not even describe it.
func (rc *requestContext) operationsOnCluster() int32 {
	if !rc.allowedTo(access{clusterResource, opDescribe}, clusterName) {
		return 0
	}
	return rc.operations(clusterResource, clusterName)
}

func (rc *requestContext) operations(resource resourceType, name string) int32 {
	var bits int32
	for _, op := range acl.OperationsOn(resource) {
		if rc.permitted(access{resource, op}, name) {
			bits |= 1 << op
		}
	}
	return bits
}

// authorizer judges what clients ask for, and tells of what it denies: a counter by operation and type of resource, a
// line in the audit log for each, and one in the log, once a minute for each cause.
type authorizer struct {
	rules  acl.Rules
	log    *slog.Logger
	audit  *slog.Logger
	denied *prometheus.CounterVec
	mu     sync.Mutex // guards the following
	told   map[cause]*toldCause
	purged time.Time // when told was looked through for what is over; not for each denial of a storm
}

// cause is what makes two denials the same.
type cause struct {
	principal string
	access    access
	name      string
}

// toldCause is when a cause was logged last, and how many like it were not logged since.
type toldCause struct {
	at     time.Time
	silent int
}

const (
	tellEvery = time.Minute
	// maxCauses bounds the causes that are remembered; what is beyond is told as one.
	maxCauses = 1000
)

// newAuthorizer returns nil where access control is off.
func newAuthorizer(o Options) *authorizer {
	if o.Config.Text("authorizer.class.name") != config.StandardAuthorizer {
		return nil
	}
	users, _ := acl.ParseSuperUsers(o.Config.Text(config.SuperUsersKey)) // config has checked it
	a := &authorizer{
		rules: acl.Rules{SuperUsers: users, AllowUnlisted: o.Config.Bool(config.AllowUnlistedKey)},
		log:   o.Log, audit: o.Audit, told: map[cause]*toldCause{},
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "moldau_authorization_denied_total",
			Help: "What clients asked for and were denied by access control."}, []string{"operation", "resource_type"}),
	}
	if a.audit == nil {
		a.audit = slog.New(slog.DiscardHandler)
	}
	if o.Registerer != nil {
		o.Registerer.MustRegister(a.denied)
	}
	return a
}

// tell makes a denial known. An empty name stands for any resource.
func (a *authorizer) tell(rc *requestContext, what access, name string, d acl.Decision) {
	a.denied.WithLabelValues(what.op.String(), what.resource.String()).Inc()
	q := rc.query(what, name[:min(len(name), maxLoggedName)])
	name = cmp.Or(q.Name, "any")
	why := "no rule allows it"
	switch {
	case d.Rule != nil:
		why = d.Rule.String()
	case d.Cause == acl.NoRules:
		why = "there are no rules for it"
	}
	a.audit.Info("denied", "principal", rc.principal, "host", rc.host.Addr().Unmap().String(), "listener", rc.listener,
		"clientId", rc.header.ClientID[:min(len(rc.header.ClientID), maxLoggedName)], "api", rc.row.key.Name(),
		"operation", what.op.String(), "resourceType", what.resource.String(), "resource", name, "why", why)
	if silent, ok := a.due(cause{rc.principal, what, name}, time.Now()); ok {
		a.log.Warn("denied", "principal", rc.principal, "host", rc.host.Addr().Unmap().String(), "operation", what.op.String(),
			"resource", what.resource.String()+":"+name, "why", why, "hint", hint(q, d), "similarSince", silent)
	}
}

// due reports whether a cause is to be logged now, and how many were not since it was last.
func (a *authorizer) due(c cause, now time.Time) (silent int, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.told[c]
	if t == nil {
		if len(a.told) >= maxCauses && now.Sub(a.purged) >= time.Second {
			a.purged = now
			for old, x := range a.told {
				if now.Sub(x.at) >= tellEvery {
					delete(a.told, old)
				}
			}
		}
		if len(a.told) >= maxCauses {
			c = cause{}
			t = a.told[c]
		}
		if t == nil {
			a.told[c] = &toldCause{at: now}
			return 0, true
		}
	}
	if now.Sub(t.at) < tellEvery {
		t.silent++
		return 0, false
	}
	silent = t.silent
	t.at, t.silent = now, 0
	return silent, true
}

// hint is the command that allows it, where there is one and no rule denies it, else the one that explains.
func hint(q acl.Query, d acl.Decision) string {
	if d.Rule == nil {
		if grant := q.GrantCommand(); grant != "" {
			return grant
		}
	}
	return q.WhyCommand()
}
