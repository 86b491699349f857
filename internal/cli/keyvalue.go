package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kadm"
)

// setting is one key=value of --set.
type setting struct{ key, value string }

// parseSetting splits at the first "=": keys have none, values may.
func parseSetting(s string) (setting, error) {
	key, value, ok := strings.Cut(s, "=")
	key = strings.TrimSpace(key)
	switch {
	case !ok:
		return setting{}, fmt.Errorf("%q has no value: write key=value", s)
	case key == "":
		return setting{}, fmt.Errorf("%q has no key: write key=value", s)
	}
	return setting{key, value}, nil
}

// parseSettings reads all --set and --unset flags; one key may come once.
func parseSettings(sets, unsets []string) ([]kadm.AlterConfig, error) {
	var changes []kadm.AlterConfig
	for _, s := range sets {
		kv, err := parseSetting(s)
		if err != nil {
			return nil, usagef("--set %w", err)
		}
		changes = append(changes, kadm.AlterConfig{Op: kadm.SetConfig, Name: kv.key, Value: &kv.value})
	}
	for _, key := range unsets {
		if key == "" || strings.Contains(key, "=") {
			return nil, usagef("--unset %q: write the key only", key)
		}
		changes = append(changes, kadm.AlterConfig{Op: kadm.DeleteConfig, Name: key})
	}
	names := make([]string, len(changes))
	for i, c := range changes {
		names[i] = c.Name
	}
	slices.Sort(names)
	for i := 1; i < len(names); i++ {
		if names[i] == names[i-1] {
			return nil, usagef("%s is given twice: say once what it shall be", names[i])
		}
	}
	return changes, nil
}
