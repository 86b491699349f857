package controller

import (
	"slices"

	"moldau/internal/acl"
	"moldau/internal/metadata"
	"moldau/internal/wire"
)

const (
	// MaxACLChanges is how many rules one request may create, or delete, as in Kafka.
	MaxACLChanges = 10_000
	// maxACLBytes bounds the rules of one pattern: they are one value of the store.
	maxACLBytes = 1 << 20
)

// ACLResult answers for one rule, or for one filter.
type ACLResult struct {
	Code    wire.Code
	Message string
	Deleted []acl.Binding // what a filter has found, in order
}

// aclChange is the rules of the patterns that a plan touches.
type aclChange struct {
	im       *metadata.Image
	entries  map[acl.Pattern][]acl.Entry
	patterns []acl.Pattern // of entries, in the order in which they were touched
}

// of returns the entries of a pattern; set writes them.
func (c *aclChange) of(p acl.Pattern) []acl.Entry {
	if es, ok := c.entries[p]; ok {
		return es
	}
	return c.im.ACLs().Entries(p)
}

func (c *aclChange) set(p acl.Pattern, es []acl.Entry) {
	if _, ok := c.entries[p]; !ok {
		c.patterns = append(c.patterns, p)
		if c.entries == nil {
			c.entries = map[acl.Pattern][]acl.Entry{}
		}
	}
	c.entries[p] = es
}

// plan writes what changed. The results in whole, which are those that changed something, are true at its end.
func (c *aclChange) plan(whole []int) Plan {
	var plan Plan
	for _, p := range c.patterns {
		w := Write{Key: metadata.ACLKey(p), Action: Delete}
		if es := c.entries[p]; len(es) > 0 {
			w = put(w.Key, metadata.EncodeACL(es))
		}
		plan.add(NoResult, w)
	}
	for _, i := range whole {
		plan.add(i)
	}
	return plan
}

// CreateACLs plans rules. One that is there already is created again, which changes nothing.
func CreateACLs(im *metadata.Image, bindings []acl.Binding) (Plan, []ACLResult) {
	results := make([]ACLResult, len(bindings))
	c := aclChange{im: im}
	var changed []int
	size := map[acl.Pattern]int{}
	for i, b := range bindings {
		r := &results[i]
		switch why := b.Problem(); {
		case b.Type == acl.Cluster && b.Name != acl.ClusterName:
			r.Code, r.Message = wire.InvalidRequest, "The only valid name for the CLUSTER resource is "+acl.ClusterName
			continue
		case why != "":
			r.Code, r.Message = wire.InvalidRequest, why
			continue
		case len(changed) == MaxACLChanges:
			r.Code, r.Message = wire.PolicyViolation, "Too many ACLs in one request."
			continue
		}
		es := c.of(b.Pattern)
		at, there := slices.BinarySearchFunc(es, b.Entry, acl.Entry.Compare)
		if there {
			continue
		}
		if size[b.Pattern] == 0 {
			size[b.Pattern] = len(metadata.EncodeACL(es))
		}
		if size[b.Pattern] += len(metadata.EncodeACL([]acl.Entry{b.Entry})); size[b.Pattern] > maxACLBytes {
			r.Code, r.Message = wire.PolicyViolation, "Too many ACLs for one resource pattern."
			continue
		}
		if _, mine := c.entries[b.Pattern]; !mine {
			es = slices.Clone(es) // the image's own
		}
		c.set(b.Pattern, slices.Insert(es, at, b.Entry))
		changed = append(changed, i)
	}
	return c.plan(changed), results
}

// DeleteACLs plans the end of all rules that the filters mean. What two of them mean is in both results.
func DeleteACLs(im *metadata.Image, filters []acl.Filter) (Plan, []ACLResult) {
	results := make([]ACLResult, len(filters))
	c := aclChange{im: im}
	var changed []int
	deleted, gone := 0, map[acl.Binding]bool{}
	for i, f := range filters {
		r := &results[i]
		if r.Message = f.Problem(); r.Message != "" {
			r.Code = wire.InvalidRequest
			continue
		}
		var found []acl.Binding
		if i < MaxACLChanges {
			found = im.ACLs().Find(f)
		}
		if i >= MaxACLChanges || deleted+len(found) > MaxACLChanges {
			r.Code, r.Message = wire.PolicyViolation, "Too many ACLs in one request."
			continue
		}
		deleted += len(found)
		r.Deleted = found
		for _, b := range found {
			c.set(b.Pattern, c.of(b.Pattern))
			gone[b] = true
		}
		if len(found) > 0 {
			changed = append(changed, i)
		}
	}
	for _, p := range c.patterns {
		c.entries[p] = slices.DeleteFunc(slices.Clone(c.entries[p]), func(e acl.Entry) bool { return gone[acl.Binding{Pattern: p, Entry: e}] })
	}
	return c.plan(changed), results
}
