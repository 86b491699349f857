package handler

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/security"
	"moldau/internal/wire"
)

// TestScramCredentials: each user is altered once, with a mechanism and a number of iterations that there is; what is described never has a
// salt or a key; what is kept is not what was sent.
func TestScramCredentials(t *testing.T) {
	b := newBroker(t)
	upsert := func(user string, mechanism int8, iterations int32) kmsg.AlterUserSCRAMCredentialsRequestUpsertion {
		u := kmsg.NewAlterUserSCRAMCredentialsRequestUpsertion()
		u.Name, u.Mechanism, u.Iterations, u.Salt, u.SaltedPassword = user, mechanism, iterations, []byte("salt"), []byte("salted password of "+user)
		return u
	}
	remove := func(user string, mechanism int8) kmsg.AlterUserSCRAMCredentialsRequestDeletion {
		d := kmsg.NewAlterUserSCRAMCredentialsRequestDeletion()
		d.Name, d.Mechanism = user, mechanism
		return d
	}
	alter := func(deletions []kmsg.AlterUserSCRAMCredentialsRequestDeletion, upsertions []kmsg.AlterUserSCRAMCredentialsRequestUpsertion) map[string]wire.Code {
		req := kmsg.NewPtrAlterUserSCRAMCredentialsRequest()
		req.Deletions, req.Upsertions = deletions, upsertions
		out := map[string]wire.Code{}
		for _, r := range ask[*kmsg.AlterUserSCRAMCredentialsResponse](t, b, req, 0).Results {
			if _, twice := out[r.User]; twice {
				t.Errorf("two answers for %q", r.User)
			}
			out[r.User] = wire.Code(r.ErrorCode)
		}
		return out
	}
	type (
		dels = []kmsg.AlterUserSCRAMCredentialsRequestDeletion
		ups  = []kmsg.AlterUserSCRAMCredentialsRequestUpsertion
	)
	got := alter(dels{remove("nobody", 1), remove("twice", 1)}, ups{upsert("alice", 1, 4096), upsert("bob", 2, 16384), upsert("few", 1, 4095), upsert("many", 1, 16385),
		upsert("", 1, 4096), upsert("odd", 3, 4096), upsert("again", 1, 4096), upsert("again", 2, 4096), upsert("a/b", 1, 4096)})
	for user, want := range map[string]wire.Code{"alice": wire.None, "bob": wire.None, "a/b": wire.None, "nobody": wire.ResourceNotFound, "twice": wire.ResourceNotFound, "few": wire.UnacceptableCredential,
		"many": wire.UnacceptableCredential, "": wire.UnacceptableCredential, "odd": wire.UnsupportedSaslMechanism, "again": wire.DuplicateResource} {
		if got[user] != want {
			t.Errorf("%q: %v, want %v", user, got[user], want)
		}
	}
	if got := alter(nil, ups{upsert("alice", 2, 5000)}); got["alice"] != wire.None {
		t.Error(got)
	}
	describe := func(users ...string) map[string][]int32 {
		req := kmsg.NewPtrDescribeUserSCRAMCredentialsRequest()
		for _, u := range users {
			user := kmsg.NewDescribeUserSCRAMCredentialsRequestUser()
			user.Name = u
			req.Users = append(req.Users, user)
		}
		out := map[string][]int32{}
		for _, r := range ask[*kmsg.DescribeUserSCRAMCredentialsResponse](t, b, req, 0).Results {
			out[r.User] = []int32{int32(r.ErrorCode)}
			for _, c := range r.CredentialInfos {
				out[r.User] = append(out[r.User], int32(c.Mechanism), c.Iterations)
			}
		}
		return out
	}
	same := func(got map[string][]int32, user string, want ...int32) {
		t.Helper()
		if len(got[user]) != len(want) {
			t.Fatalf("%s: %v, want %v", user, got[user], want)
		}
		for i := range want {
			if got[user][i] != want[i] {
				t.Errorf("%s: %v, want %v", user, got[user], want)
			}
		}
	}
	all := describe()
	if len(all) != 3 {
		t.Error(all)
	}
	same(all, "alice", 0, 1, 4096, 2, 5000)
	same(all, "bob", 0, 2, 16384)
	some := describe("bob", "nobody", "alice", "alice")
	same(some, "bob", 0, 2, 16384)
	same(some, "nobody", int32(wire.ResourceNotFound))
	same(some, "alice", int32(wire.DuplicateResource))
	kept := b.o.Cluster.Image().ScramCredentials("bob")[0]
	if stored, server := security.ScramKeys(security.ScramSHA512, []byte("salted password of bob")); string(kept.StoredKey) != string(stored) || string(kept.ServerKey) != string(server) {
		t.Error("what is kept lets nobody in")
	}
	if kept.String() != "[hidden]" {
		t.Error("a credential shows itself")
	}
	if got := alter(dels{remove("alice", 1), remove("bob", 2), remove("bob", 1)}, nil); got["alice"] != wire.None || got["bob"] != wire.DuplicateResource {
		t.Error(got)
	}
	same(describe(), "alice", 0, 2, 5000)
	alter(dels{remove("alice", 2), remove("bob", 2), remove("a/b", 1)}, nil)
	if left := describe(); len(left) != 0 {
		t.Error(left)
	}
}
