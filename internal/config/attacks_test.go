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

// TestATypingErrorOpensNoDoor: a key of security that is none is never ignored in silence. Who writes ssl.client.atuh=required would have no
// clients with certificates, and not know it.
func TestATypingErrorOpensNoDoor(t *testing.T) {
	const secured = "listeners=SASL_SSL://localhost:1"
	for line, want := range map[string]string{
		"ssl.client.atuh=required":                                                "did you mean ssl.client.auth?",
		"listener.name.sasl_ssl.ssl.client.atuh=required":                         "did you mean listener.name.sasl_ssl.ssl.client.auth?",
		"listener.name.sasl_ssl.oauthbearer.sasl.oauthbearer.expected.audiense=x": "did you mean listener.name.sasl_ssl.oauthbearer.sasl.oauthbearer.expected.audience?",
		"ssl.keystore.pasword=streng-geheim":                                      "did you mean ssl.keystore.password?",
	} {
		_, _, err := Load(file(secured, line))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "streng-") {
			t.Errorf("%s: %v", line, err)
		}
	}
	_, warnings := load(t, file(secured, "ssl.something.else=streng-geheim", "listener.name.sasl_ssl.oauthbearer.sasl.oauthbearer.expected.audience=x"))
	said := ""
	for _, w := range warnings {
		said += w.Text + "\n"
	}
	if !strings.Contains(said, "unknown configuration keys are ignored: ssl.something.else") || strings.Contains(said, "audience") || strings.Contains(said, "streng-") {
		t.Error(said)
	}
}
