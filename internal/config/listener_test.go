package config

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// TestListenersHaveTheirOwn: a listener's own value wins over that of all, and a mechanism's over the listener's.
func TestListenersHaveTheirOwn(t *testing.T) {
	b, _ := load(t, file("listeners=A://localhost:1,B://localhost:2", "listener.security.protocol.map=A:SASL_SSL,B:SSL", "inter.broker.listener.name=B",
		"ssl.client.auth=requested", "listener.name.b.ssl.client.auth=required", "listener.name.a.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256",
		"listener.name.a.plain.sasl.jaas.config=secret", "listener.name.a.plain.connections.max.reauth.ms=5", "ssl.keystore.password=geheim"))
	x, y := b.OfListener("A"), b.OfListener("B")
	if x.Text("ssl.client.auth") != "requested" || y.Text("ssl.client.auth") != "required" {
		t.Error(x.Text("ssl.client.auth"), y.Text("ssl.client.auth"))
	}
	if x.Name("ssl.client.auth") != "ssl.client.auth" || y.Name("ssl.client.auth") != "listener.name.b.ssl.client.auth" || y.Name("ssl.key.password") != "listener.name.b.ssl.key.password" {
		t.Error("names")
	}
	if got := x.List("sasl.enabled.mechanisms"); !slices.Equal(got, []string{"PLAIN", "SCRAM-SHA-256"}) {
		t.Error(got)
	}
	plain := x.Mechanism("PLAIN")
	if plain.Text("sasl.jaas.config") != "secret" || plain.Int("connections.max.reauth.ms") != 5 || x.Int("connections.max.reauth.ms") != 0 {
		t.Error("a mechanism's own values")
	}
	for _, err := range []error{plain.Fault("sasl.jaas.config", "is wrong"), x.Fault("ssl.keystore.password", "is wrong")} {
		var s *SettingError
		if !errors.As(err, &s) || s.Value != "[hidden]" || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "geheim") {
			t.Error(err)
		}
	}
	if err := x.Fault("ssl.keystore.location", "is needed"); !strings.HasPrefix(err.Error(), "listener.name.a.ssl.keystore.location=(unset) (by default): is needed") {
		t.Error(err)
	}
}

// TestWhoIsExposed: what others than this machine can reach without showing who they are is in one warning.
func TestWhoIsExposed(t *testing.T) {
	for lines, want := range map[string]string{
		"listeners=PLAINTEXT://localhost:1":                                                                "",
		"listeners=PLAINTEXT://127.0.0.5:1,SSL://[::1]:2":                                                  "",
		"listeners=PLAINTEXT://:1,SASL_SSL://:2":                                                           "over PLAINTEXT (PLAINTEXT://:1): bind it",
		"listeners=PLAINTEXT://10.0.0.1:1,SSL://broker:2":                                                  "over PLAINTEXT (PLAINTEXT://10.0.0.1:1), SSL (SSL://broker:2): bind it",
		"listeners=SSL://0.0.0.0:2\nssl.client.auth=required":                                              "",
		"listeners=SSL://0.0.0.0:2\nssl.client.auth=required\nlistener.name.ssl.ssl.client.auth=requested": "over SSL (SSL://0.0.0.0:2)",
		"listeners=SASL_PLAINTEXT://:1":                                                                    "",
	} {
		_, warnings := load(t, file(lines))
		var got []string
		for _, w := range warnings {
			if slices.Equal(w.Keys, []string{"listeners"}) {
				got = append(got, w.Text)
			}
		}
		if want == "" && len(got) != 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0], want)) {
			t.Errorf("%s: %q", lines, got)
		}
	}
}

// TestWhoCanReadAlong: what lets somebody in, and goes over the network as it is, is in one warning.
func TestWhoCanReadAlong(t *testing.T) {
	for lines, want := range map[string]string{
		"listeners=SASL_PLAINTEXT://localhost:1\nsasl.enabled.mechanisms=PLAIN": "",
		"listeners=SASL_SSL://:1\nsasl.enabled.mechanisms=PLAIN":                "",
		"listeners=SASL_PLAINTEXT://10.0.0.1:1\nsasl.enabled.mechanisms=PLAIN":  "over SASL_PLAINTEXT (SASL_PLAINTEXT://10.0.0.1:1, PLAIN): make it SASL_SSL",
		"listeners=A://:1,B://:2,C://localhost:3\nlistener.security.protocol.map=A:SASL_PLAINTEXT,B:SASL_PLAINTEXT,C:SASL_PLAINTEXT\ninter.broker.listener.name=C\n" +
			"sasl.enabled.mechanisms=SCRAM-SHA-512\nlistener.name.b.sasl.enabled.mechanisms=PLAIN,OAUTHBEARER": "over A (SASL_PLAINTEXT://:1, SCRAM-SHA-512); B (SASL_PLAINTEXT://:2, PLAIN, OAUTHBEARER): make it",
	} {
		_, warnings := load(t, file(lines))
		var got []string
		for _, w := range warnings {
			if slices.Equal(w.Keys, []string{"listeners", "sasl.enabled.mechanisms"}) {
				got = append(got, w.Text)
			}
		}
		if want == "" && len(got) != 0 || want != "" && (len(got) != 1 || !strings.Contains(got[0], want) || strings.Contains(got[0], "\n")) {
			t.Errorf("%s: %q", lines, got)
		}
	}
}

// TestTLSAuto: the flag makes the default listener, and one given as HOST:PORT, TLS listeners; listeners that were given in full stay.
func TestTLSAuto(t *testing.T) {
	for _, c := range []struct {
		s    Sources
		want string
	}{
		{Sources{Flags: map[string]string{"tls": "auto"}}, "SSL://localhost:9092"},
		{Sources{Flags: map[string]string{"tls": "auto", "listen": "localhost:0"}}, "SSL://localhost:0"},
		{Sources{Flags: map[string]string{"tls": "auto", "listen": "PLAINTEXT://localhost:0"}}, "PLAINTEXT://localhost:0"},
		{with(file("listeners=SASL_SSL://localhost:1"), nil, nil, map[string]string{"tls": "auto"}), "SASL_SSL://localhost:1"},
		{with(Sources{}, nil, []string{"listeners=SASL_SSL://localhost:1"}, map[string]string{"tls": "auto"}), "SASL_SSL://localhost:1"},
		{Sources{Flags: map[string]string{"tls": "off"}}, "PLAINTEXT://localhost:9092"},
	} {
		b, _ := load(t, c.s)
		if got := strings.Join(b.List("listeners"), ","); got != c.want {
			t.Errorf("%v: %s, want %s", c.s.Flags, got, c.want)
		}
	}
}

// TestSecurityStaysWhileTheBrokerRuns: what a running broker would not act on is refused, not stored.
func TestSecurityStaysWhileTheBrokerRuns(t *testing.T) {
	b, _ := load(t, file("listeners=SSL://localhost:1", "ssl.client.auth=required", "inter.broker.listener.name=SSL"))
	for key, value := range map[string]string{"listener.name.ssl.ssl.principal.mapping.rules": "RULE:x/y/", "sasl.enabled.mechanisms": "PLAIN", "listener.name.ssl.connections.max.reauth.ms": "1",
		"listener.name.ssl.oauthbearer.sasl.oauthbearer.jwks.endpoint.url": "https://evil", "listener.name.ssl.plain.sasl.jaas.config": "x"} {
		if err := b.ValidateDynamic(map[string]string{key: value}, true, nil, nil); err == nil || !strings.Contains(err.Error(), key+" cannot be changed while the broker runs yet") {
			t.Errorf("%s: %v", key, err)
		}
	}
	for _, key := range ReloadableKeys() {
		if err := b.ValidateDynamic(map[string]string{"listener.name.ssl." + key: b.OfListener("SSL").Raw(key)}, true, nil, nil); err != nil {
			t.Errorf("%s, which a running broker follows: %v", key, err)
		}
	}
}
