// Package acltest makes small worlds of access control for tests: random rules, random questions about them, and what
// Apache Kafka's StandardAuthorizer answers.
package acltest

import (
	_ "embed"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"

	"moldau/internal/acl"
)

// World is rules and questions. A question without a name asks whether there is any resource of the type (acl.Rules.MayAny).
type World struct {
	Rules         []acl.Binding
	SuperUsers    []string
	AllowUnlisted bool
	Questions     []acl.Query
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// New makes the world of a seed. Names, principals and hosts are few, so that rules meet one another and the questions.
//
// Two things are left out, in which Moldau differs on purpose: names of resources that begin with "*" or a character before it,
// for which Kafka's search ends too soon or fails, and addresses of IPv6 that are not written out. See docs/acls.md.
func New(seed uint64, rules, questions int) World {
	r := rand.New(rand.NewPCG(seed, 0))
	w := World{SuperUsers: []string{"User:root", "User:CN=ops,O=x"}, AllowUnlisted: seed%2 == 1}
	types := []acl.ResourceType{acl.Topic, acl.Topic, acl.Topic, acl.Group, acl.Group, acl.Cluster, acl.TransactionalID, acl.DelegationToken, acl.User}
	name := func() string {
		s := ""
		for range 1 + r.IntN(4) {
			s += pick(r, "a", "b", "c", "ab", "-", "é", "/", "~", "User:")
		}
		return s
	}
	names := []string{"a", "ab", "abc", "b", "kafka-cluster"}
	for range 20 {
		names = append(names, name())
	}
	principals := []string{"User:x", "User:y", "User:z", "Group:x", "User:CN=ops,O=x", "User:a:b"}
	hosts := []string{"10.0.0.1", "10.0.0.2", "192.168.7.7", "0:0:0:0:0:0:0:1", "fe80:0:0:0:1:2:3:4"}
	seen := map[acl.Binding]bool{}
	for len(w.Rules) < rules {
		b := acl.Binding{
			Pattern: acl.Pattern{Type: pick(r, types...), Kind: pick(r, acl.Literal, acl.Literal, acl.Prefixed), Name: pick(r, names...)},
			Entry: acl.Entry{Principal: pick(r, principals...), Host: pick(r, append(hosts, "*", "*", "*", "*", "host.example")...),
				Operation: pick(r, acl.All, acl.Operation(3+r.IntN(13)), acl.Operation(3+r.IntN(13)), acl.Operation(3+r.IntN(13))), Permission: pick(r, acl.Allow, acl.Allow, acl.Deny)},
		}
		if r.IntN(8) == 0 {
			b.Principal = acl.Everyone
		}
		if b.Kind == acl.Literal && r.IntN(8) == 0 {
			b.Name = acl.Wildcard
		}
		if b.Type == acl.Cluster {
			b.Name, b.Kind = acl.ClusterName, acl.Literal
		}
		if !seen[b] && b.Problem() == "" {
			seen[b] = true
			w.Rules = append(w.Rules, b)
		}
	}
	for range questions {
		q := acl.Query{Principal: pick(r, append(principals, "User:nobody", "User:root")...), Host: netip.MustParseAddr(pick(r, append(hosts, "10.9.9.9")...)),
			Operation: acl.Operation(3 + r.IntN(13)), Type: pick(r, types...)}
		if r.IntN(20) > 0 {
			q.Name = pick(r, names...) + pick(r, "", "", "", "c", "-b")
		}
		w.Questions = append(w.Questions, q)
	}
	return w
}

// Text is the world as test/clients/kafka/AclAnswers.java reads it: fields with tabs between.
func (w World) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "config\t%s\t%v\n", strings.Join(w.SuperUsers, ";"), w.AllowUnlisted)
	for _, r := range w.Rules {
		fmt.Fprintf(&b, "rule\t%v\t%v\t%s\t%s\t%s\t%v\t%v\n", r.Type, r.Kind, r.Name, r.Principal, r.Host, r.Operation, r.Permission)
	}
	for _, q := range w.Questions {
		fmt.Fprintf(&b, "ask\t%s\t%v\t%v\t%v\t%s\n", q.Principal, q.Host, q.Operation, q.Type, q.Name)
	}
	return b.String()
}

// Answer is what Moldau answers to a question of the world.
func Answer(rules *acl.Rules, s *acl.Set, q acl.Query) bool {
	if q.Name == "" {
		return rules.MayAny(s, q)
	}
	return rules.Decide(s, q).Allowed
}

// Sizes of the recorded worlds.
const (
	RecordedRules     = 200
	RecordedQuestions = 5000
)

// Recorded is a seed and what Kafka 4.3.1 answered to each question of its world.
type Recorded struct {
	Seed    uint64
	Answers []bool
}

//go:embed kafka-4.3.1.txt
var recorded string

// Answers are Kafka's, one for each line of the file: the seed, and a bit for each question in hexadecimal.
func Answers() ([]Recorded, error) {
	var out []Recorded
	for line := range strings.Lines(recorded) {
		seed, bits, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.ParseUint(seed, 10, 64)
		if err != nil {
			return nil, err
		}
		packed, err := hex.DecodeString(bits)
		if err != nil {
			return nil, err
		}
		r := Recorded{Seed: n, Answers: make([]bool, RecordedQuestions)}
		if len(packed) != (RecordedQuestions+7)/8 {
			return nil, fmt.Errorf("seed %d: %d bytes of answers", n, len(packed))
		}
		for i := range r.Answers {
			r.Answers[i] = packed[i/8]&(1<<(i%8)) != 0
		}
		out = append(out, r)
	}
	return out, nil
}

// Line is a line of the file.
func (r Recorded) Line() string {
	packed := make([]byte, (len(r.Answers)+7)/8)
	for i, yes := range r.Answers {
		if yes {
			packed[i/8] |= 1 << (i % 8)
		}
	}
	return fmt.Sprintf("%d %s\n", r.Seed, hex.EncodeToString(packed))
}
