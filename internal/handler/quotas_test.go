package handler

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/quota"
	"moldau/internal/wire"
)

// testdata/kafka-4.3.1-quotas.jsonl holds what a real Kafka 4.3.1 answers to the script below. It is recorded with the one of access_test.go.
const quotasFile = "testdata/kafka-4.3.1-quotas.jsonl"

// alterQuotas has an entry for each line: its parts, "|" and what is altered. A part without "=" is the default; "key=" removes.
func alterQuotas(lines ...string) *kmsg.AlterClientQuotasRequest {
	r := kmsg.NewPtrAlterClientQuotasRequest()
	for _, line := range lines {
		e := kmsg.NewAlterClientQuotasRequestEntry()
		parts, ops, _ := strings.Cut(line, "|")
		for _, p := range strings.Fields(parts) {
			entity := kmsg.NewAlterClientQuotasRequestEntryEntity()
			kind, name, named := strings.Cut(p, "=")
			if entity.Type = kind; named {
				entity.Name = &name
			}
			e.Entity = append(e.Entity, entity)
		}
		for _, o := range strings.Fields(ops) {
			op := kmsg.NewAlterClientQuotasRequestEntryOp()
			key, value, _ := strings.Cut(o, "=")
			if op.Key, op.Remove = key, value == ""; !op.Remove {
				op.Value = must(strconv.ParseFloat(value, 64))
			}
			e.Ops = append(e.Ops, op)
		}
		r.Entries = append(r.Entries, e)
	}
	return r
}

// askQuotas has a component for each part: "type=name", "type" for the default, "type?" for any.
func askQuotas(strict bool, parts ...string) *kmsg.DescribeClientQuotasRequest {
	r := kmsg.NewPtrDescribeClientQuotasRequest()
	r.Strict = strict
	for _, p := range parts {
		c := kmsg.NewDescribeClientQuotasRequestComponent()
		kind, name, named := strings.Cut(p, "=")
		c.EntityType = strings.TrimSuffix(kind, "?")
		switch {
		case named:
			c.MatchType, c.Match = matchExact, &name
		case strings.HasSuffix(kind, "?"):
			c.MatchType = matchSpecified
		default:
			c.MatchType = matchDefault
		}
		r.Components = append(r.Components, c)
	}
	return r
}

func quotaScript(testing.TB, *topicIDs, exchangeAs) []asked {
	var qs []asked
	add := func(who, name string, version int16, req kmsg.Request) {
		qs = append(qs, asked{who, question{who + ": " + name, version, req, false}})
	}
	pause := func() { qs[len(qs)-1].pause = true } // until Kafka's broker knows
	alter := func(lines ...string) { add("admin", "alter "+strings.Join(lines, "; "), 1, alterQuotas(lines...)) }
	ask := func(strict bool, parts ...string) {
		add("admin", fmt.Sprintf("describe %v, strict %v", parts, strict), 1, askQuotas(strict, parts...))
	}
	all := func(what string) { add("admin", "all, "+what, everyVersion, askQuotas(false)) }
	all("none")

	add("admin", "alter each kind of entity", everyVersion, alterQuotas("user=alice|producer_byte_rate=1000 consumer_byte_rate=2000 request_percentage=12.5 controller_mutation_rate=0.5",
		"user|producer_byte_rate=1", "client-id=c|consumer_byte_rate=3", "client-id|consumer_byte_rate=4", "user=alice client-id=c|producer_byte_rate=5", "client-id user=alice|producer_byte_rate=6",
		"user client-id=c|request_percentage=7", "user client-id|controller_mutation_rate=8", "ip=10.0.0.7|connection_creation_rate=9", "ip|connection_creation_rate=10", "ip=2001:db8::1|connection_creation_rate=11",
		"user=a/b=c,%é|producer_byte_rate=12", "client-id=*|producer_byte_rate=13"))
	pause()
	all("many")
	for _, parts := range [][]string{{"user=alice"}, {"user"}, {"user?"}, {"client-id=c"}, {"client-id"}, {"client-id?"}, {"user=alice", "client-id=c"}, {"user=alice", "client-id"}, {"user=alice", "client-id?"},
		{"user?", "client-id?"}, {"user", "client-id"}, {"client-id=c", "user?"}, {"ip=10.0.0.7"}, {"ip"}, {"ip?"}, {"user=nobody"}, {"user="}, {}} {
		ask(true, parts...)
		ask(false, parts...)
	}
	// What cannot be asked.
	ask(false, "user", "user=alice")
	ask(false, "group=g")
	ask(false, "=g")
	ask(true, "ip", "user?")
	ask(true, "client-id=c", "ip?")
	for _, kind := range []int8{0, 1, 2, 3, -1} {
		r := askQuotas(true, "user=alice", "client-id=c")
		r.Components[1].MatchType = kmsg.QuotasMatchType(kind)
		add("admin", fmt.Sprintf("describe a match of type %d with a name", kind), 1, r)
		r = askQuotas(true, "user")
		r.Components[0].MatchType = kmsg.QuotasMatchType(kind)
		add("admin", fmt.Sprintf("describe a match of type %d without a name", kind), 1, r)
	}

	only := alterQuotas("user=alice|producer_byte_rate=7777", "user=new|producer_byte_rate=1", "user=new client-id=x|producer_byte_rate=-1")
	only.ValidateOnly = true
	add("admin", "validate", everyVersion, only)
	// What cannot be set.
	for _, key := range []string{"producer_byte_rate", "request_percentage"} {
		for _, v := range []string{"0", "-1", "1.5", "1.0000001", "1.9999999", "0.0000001", "1e300", "9223372036854775807", "9223372036854775808", "9223372036854777856", "NaN", "Inf", "-Inf"} {
			alter("user=odd|" + key + "=" + v)
		}
	}
	for _, v := range []string{"0", "-1", "1.5", "2147483647", "2147483648", "NaN"} {
		alter("ip=10.9.9.9|connection_creation_rate=" + v)
	}
	alter("user=u|connection_creation_rate=1")
	alter("client-id=u|connection_creation_rate=1")
	alter("user=u client-id=u|connection_creation_rate=1")
	alter("ip=10.0.0.1|producer_byte_rate=1")
	alter("user=u|SCRAM-SHA-256=1")
	alter("user=u|no_such_key=1")
	alter("user=u|=1")
	alter("|producer_byte_rate=1")
	alter("group=g|producer_byte_rate=1")
	alter("=g|producer_byte_rate=1")
	alter("user= |producer_byte_rate=1")
	alter("user=u client-id= |producer_byte_rate=1")
	alter("ip=10.0.0.1 user=u|connection_creation_rate=1")
	alter("ip client-id|connection_creation_rate=1")
	alter("user client-id ip|connection_creation_rate=1")
	alter("ip=no.such.host.invalid|connection_creation_rate=1")
	alter("ip=10.0.0.256|connection_creation_rate=1")
	alter("ip=localhost|connection_creation_rate=1")
	alter("ip=0:0:0:0:0:0:0:7|connection_creation_rate=1")
	alter("user=first user=last|producer_byte_rate=1")
	// One that cannot be leaves the entity, and the others of the request, as they are.
	alter("user=half|producer_byte_rate=1 consumer_byte_rate=0", "user=whole|producer_byte_rate=1 consumer_byte_rate=2")
	alter("user=twice|producer_byte_rate=1", "user=other|producer_byte_rate=1", "user=twice|producer_byte_rate=2")
	alter("user=twice client-id=c|producer_byte_rate=1", "client-id=c user=twice|producer_byte_rate=2")
	alter("user=twice client-id|producer_byte_rate=1", "client-id user=twice|producer_byte_rate=2")
	alter("user=key|producer_byte_rate=1 producer_byte_rate=2")
	alter("user=nothing|")
	alter()
	alter("user=odd|request_percentage= producer_byte_rate=", "ip=10.9.9.9|connection_creation_rate=", "ip=0:0:0:0:0:0:0:7|connection_creation_rate=") // JSON cannot write Kafka's
	alter("ip=localhost|connection_creation_rate=")
	pause()
	all("after what could not be set")

	// Another value, the same value, and what goes.
	alter("user=alice|producer_byte_rate=1001 consumer_byte_rate= request_percentage=12.5")
	alter("user=alice|no_such_key= connection_creation_rate= producer_byte_rate=1002")
	alter("user=nobody|producer_byte_rate=", "ip=10.0.0.7|producer_byte_rate=")
	alter("user=alice|producer_byte_rate= request_percentage= controller_mutation_rate=", "ip|connection_creation_rate=")
	pause()
	all("after what went")

	add("bob", "describe", everyVersion, askQuotas(false))
	add("bob", "describe what cannot be", 1, askQuotas(false, "group=g"))
	add("bob", "alter", everyVersion, alterQuotas("user=alice|producer_byte_rate=1", "ip|no_such_key=1"))
	add("admin", "the right to describe", 3, creations("cluster literal kafka-cluster User:bob describe_configs allow"))
	pause()
	add("bob", "alter, with the right to describe", 1, alterQuotas("user=bob|producer_byte_rate=1"))
	add("bob", "describe, with the right to", 1, askQuotas(true, "user=bob"))
	add("admin", "the right to alter", 3, creations("cluster literal kafka-cluster User:bob alter_configs allow"))
	pause()
	add("bob", "alter, with the right to", 1, alterQuotas("user=bob|producer_byte_rate=1"))
	pause()
	add("admin", "describe what bob did", 1, askQuotas(true, "user=bob"))
	return qs
}

// intendedQuotas says where the answer differs from Kafka's on purpose, and why.
var intendedQuotas = map[string]string{
	"admin: alter user=odd|producer_byte_rate=NaN":          notANumber,
	"admin: alter user=odd|request_percentage=NaN":          notANumber,
	"admin: alter ip=10.9.9.9|connection_creation_rate=NaN": notANumber,
	"admin: alter ip=localhost|connection_creation_rate=1":  hostName,
	"admin: alter ip=localhost|connection_creation_rate=":   hostName,
}

const (
	notANumber = "refused; Kafka keeps a limit with which nothing can be compared"
	hostName   = "refused; Kafka asks the resolver, in the controller"
)

func TestQuotasAreKafkas(t *testing.T) {
	compareAccess(t, quotasFile, intendedQuotas, quotaScript)
}

// TestQuotasOfAnAddress: all ways to write an address are one entity, also in one request; Kafka has one for each.
func TestQuotasOfAnAddress(t *testing.T) {
	b := newBroker(t)
	alter := func(lines ...string) []kmsg.AlterClientQuotasResponseEntry {
		return ask[*kmsg.AlterClientQuotasResponse](t, b, alterQuotas(lines...), 1).Entries
	}
	r := alter("ip=0:0:0:0:0:0:0:7|connection_creation_rate=1", "ip=::7|connection_creation_rate=2", "ip=::ffff:10.0.0.7|connection_creation_rate=3")
	if len(r) != 2 || wire.Code(r[0].ErrorCode) != wire.InvalidRequest || *r[0].Entity[0].Name != "0:0:0:0:0:0:0:7" || r[1].ErrorCode != 0 {
		t.Errorf("%+v", r)
	}
	for asked, want := range map[string]string{"::7": "::7 1", "0:0:0:0:0:0:0:7": "::7 1", "10.0.0.7": "10.0.0.7 3", "::ffff:10.0.0.7": "10.0.0.7 3"} {
		got := ask[*kmsg.DescribeClientQuotasResponse](t, b, askQuotas(true, "ip="+asked), 1).Entries
		if len(got) != 1 || fmt.Sprint(*got[0].Entity[0].Name, " ", got[0].Values[0].Value) != want {
			t.Errorf("%s: %+v, want %s", asked, got, want)
		}
	}
	// A name has a bound, and an entity is refused, not cut.
	r = alter("user=" + strings.Repeat("u", quota.MaxNameBytes+1) + "|producer_byte_rate=1")
	if wire.Code(r[0].ErrorCode) != wire.InvalidRequest || !strings.Contains(*r[0].ErrorMessage, "4096") {
		t.Errorf("%+v", r)
	}
}
