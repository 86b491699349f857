package broker_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// listening are the sockets of this process on which somebody could come in: of IP as they stand in /proc, and of the file system or abstract by name.
func listening(t *testing.T) []string {
	t.Helper()
	mine := map[string]bool{}
	entries, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil && strings.HasPrefix(to, "socket:[") {
			mine[strings.TrimSuffix(strings.TrimPrefix(to, "socket:["), "]")] = true
		}
	}
	var out []string
	for _, table := range []struct {
		file                string
		state, value, inode int
		open                string
	}{{"tcp", 3, 1, 9, "0A"}, {"tcp6", 3, 1, 9, "0A"}, {"udp", 3, 1, 9, "07"}, {"udp6", 3, 1, 9, "07"}, {"unix", 5, 7, 6, "01"}} {
		data, err := os.ReadFile("/proc/self/net/" + table.file)
		if err != nil {
			continue // no IPv6 here
		}
		for _, line := range strings.Split(string(data), "\n")[1:] {
			f := strings.Fields(line)
			if len(f) <= table.inode || f[table.state] != table.open || !mine[f[table.inode]] {
				continue
			}
			name := "-"
			if len(f) > table.value {
				name = f[table.value]
			}
			out = append(out, table.file+" "+name)
		}
	}
	slices.Sort(out)
	return out
}

// TestAttackOnTheMetadataStore: the store in the process has no door of its own. A broker listens where it was told to, and nowhere else.
func TestAttackOnTheMetadataStore(t *testing.T) {
	before := listening(t)
	b, _ := secure(t, t.TempDir(), map[string]string{"http": "127.0.0.1:0"}, "listeners=PLAINTEXT://127.0.0.1:0")
	want := slices.Clone(before)
	for _, port := range []uint16{b.Addrs()[0].Port(), b.HTTPAddrs()[0].Port()} {
		want = append(want, fmt.Sprintf("tcp 0100007F:%04X", port))
	}
	slices.Sort(want)
	if got := listening(t); !slices.Equal(got, want) {
		t.Errorf("the process listens on %q, want %q", got, want)
	}
}
