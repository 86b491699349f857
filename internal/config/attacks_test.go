package config

import (
	"strings"
	"testing"
	"time"
)

// TestAttackByACycle: values that name each other, or themselves, are text. Patterns that take others' engines for ever are read in time that grows with them.
func TestAttackByACycle(t *testing.T) {
	b, _ := load(t, file("broker.rack=${a}", "a=${b}", "b=${a}", "log.dirs=/x/${log.dirs}", "metadata.log.dir=/m", "super.users=User:${super.users}",
		"authorizer.class.name="+StandardAuthorizer))
	for key, want := range map[string]string{"broker.rack": "${a}", SuperUsersKey: "User:${super.users}"} {
		if got := b.Text(key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if got := b.LogDirs(); len(got) != 1 || !strings.HasSuffix(strings.ReplaceAll(got[0], `\`, "/"), "/x/${log.dirs}") {
		t.Error(got)
	}
	deep := strings.Repeat("${", 1<<16) + "x" + strings.Repeat("}", 1<<16)
	if b, _ := load(t, file("broker.rack="+deep)); b.Text("broker.rack") != deep {
		t.Error("a deep value is another one")
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 3 {
			parseEndpoint(strings.Repeat("a:", 1<<15)+"//", 0)
			connectionOverrides(strings.Repeat("a:1,", 1<<15) + ":")
			protocolMap(strings.Repeat("A:", 1<<15))
		}
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("it does not come to an end")
	}
}
