package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestClientOfADelegationToken: tokenauth says that username and password are a token's, as for a Java client.
func TestClientOfADelegationToken(t *testing.T) {
	for option, want := range map[string]bool{"": false, ` tokenauth="true"`: true, ` tokenauth="false"`: false} {
		for _, mechanism := range []string{"SCRAM-SHA-256", "SCRAM-SHA-512"} {
			file := filepath.Join(t.TempDir(), "client.properties")
			text := "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=" + mechanism +
				"\nsasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required username=\"id\" password=\"secret\"" + option + ";\n"
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := readClientConfig(file)
			if err != nil {
				t.Fatal(err)
			}
			_, first, err := c.sasl.Authenticate(t.Context(), "")
			if err != nil || strings.HasSuffix(string(first), ",tokenauth=true") != want {
				t.Errorf("%s%s: %q %v", mechanism, option, first, err)
			}
		}
	}
}
