package acl

import (
	"os/exec"
	"strings"
	"testing"
)

// TestCommands: a query has the command that allows it, and the one that explains it.
func TestCommands(t *testing.T) {
	for _, c := range []struct {
		q          Query
		grant, why string
	}{
		{Query{Principal: "User:bob", Operation: Write, Type: Topic, Name: "orders"}, "moldau acl grant producer bob orders", "moldau acl why bob write topic:orders"},
		{Query{Principal: "User:bob", Operation: Create, Type: Topic, Name: "orders"}, "moldau acl grant producer bob orders", "moldau acl why bob create topic:orders"},
		{Query{Principal: "User:bob", Operation: Describe, Type: Topic, Name: "orders"}, "moldau acl grant consumer bob orders", "moldau acl why bob describe topic:orders"},
		{Query{Principal: "User:bob", Operation: AlterConfigs, Type: Topic, Name: "orders"}, "moldau acl grant admin bob orders", "moldau acl why bob alter_configs topic:orders"},
		{Query{Principal: "User:bob", Operation: Write, Type: Topic}, "moldau acl grant producer bob NAME", "moldau acl why bob write topic:"},
		{Query{Principal: "User:bob", Operation: Read, Type: Group, Name: "g"}, "moldau acl grant consumer bob TOPIC --group g", "moldau acl why bob read group:g"},
		{Query{Principal: "User:bob", Operation: Delete, Type: Group, Name: "g"}, "", "moldau acl why bob delete group:g"},
		{Query{Principal: "User:bob", Operation: Write, Type: TransactionalID, Name: "x"}, "moldau acl grant producer bob TOPIC --transactional-id x", "moldau acl why bob write transactional_id:x"},
		{Query{Principal: "User:CN=bob,O=x y", Operation: Alter, Type: Cluster, Name: ClusterName}, "", "moldau acl why 'CN=bob,O=x y' alter cluster"},
	} {
		if got := c.q.GrantCommand(); got != c.grant {
			t.Errorf("%+v: %q, want %q", c.q, got, c.grant)
		}
		if got := c.q.WhyCommand(); got != c.why {
			t.Errorf("%+v: %q, want %q", c.q, got, c.why)
		}
	}
}

// TestACopiedCommandDoesNothingElse: whatever name a client has asked for, the shell takes it as one word.
func TestACopiedCommandDoesNothingElse(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skip("there is no sh")
	}
	for _, name := range []string{"orders; echo bad", "$(echo bad)", "`echo bad`", "it's", "a b", "", "*", "a\nb", `a\'b`, "--all", "äöü"} {
		out, err := exec.Command(sh, "-c", `printf "%s|" `+shellWord(name)).Output()
		if err != nil || string(out) != name+"|" {
			t.Errorf("%q arrives as %q (%v)", name, out, err)
		}
		q := Query{Principal: "User:" + name, Operation: Write, Type: Topic, Name: name}
		if !strings.Contains(q.GrantCommand(), shellWord(name)) || !strings.Contains(q.WhyCommand(), shellWord("topic:"+name)) {
			t.Errorf("%q %q", q.GrantCommand(), q.WhyCommand())
		}
	}
}
