package root_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "moldau"

// layers is the layering of the code base, bottom up. It is a statement of policy:
// do not edit it to make a build pass. A package may import only packages listed
// after its colon, and every one of those stands on an earlier line, so the table
// cannot hold a cycle. Read upwards it is the reading order of the code. A line is
// added with the package's first real code, never before.
const layers = `
internal/vfs:
internal/config:
internal/security:            internal/config internal/vfs
internal/record:
internal/wire:                internal/vfs
internal/stall:               internal/vfs
internal/quota:
internal/network:             internal/vfs internal/wire internal/stall internal/quota
internal/storage:             internal/vfs internal/record internal/wire
internal/acl:
internal/acl/acltest:         internal/acl
internal/metadata:            internal/wire internal/acl internal/quota
internal/metastore:
internal/controller:          internal/wire internal/acl internal/quota internal/metadata
internal/cluster:             internal/wire internal/acl internal/quota internal/metadata internal/metastore internal/controller
internal/coordinator/shard:    internal/wire
internal/coordinator/group:    internal/wire internal/coordinator/shard
internal/partition/replica:
internal/partition:           internal/config internal/record internal/wire internal/storage internal/metadata internal/partition/replica
internal/coordinator:         internal/record internal/wire internal/metadata internal/coordinator/shard internal/partition
internal/handler:             internal/vfs internal/config internal/security internal/record internal/wire internal/network internal/storage internal/acl internal/quota internal/metadata internal/controller internal/cluster internal/coordinator/shard internal/coordinator/group internal/partition internal/coordinator
internal/lag:                 internal/wire internal/storage internal/partition internal/coordinator/shard internal/coordinator/group internal/coordinator
broker:                       *
broker/brokertest:            *
internal/bench:               internal/record
internal/cli:                 internal/config internal/security internal/vfs internal/record internal/wire internal/storage internal/acl internal/quota internal/bench
cmd/moldau:                   broker internal/cli
`

// gates names imports that only a few packages may use, and why. A key that ends in
// /... also covers everything below it.
var gates = map[string][]string{
	"go.etcd.io/etcd/...":   {"internal/metastore"},                                         // one owner of consensus
	"net/http/...":          {"broker", "internal/cli"},                                     // the data path never speaks HTTP
	"syscall":               {"internal/vfs", "internal/network", "internal/cli", "broker"}, // the kernel is behind two doors
	"golang.org/x/sys/unix": {"internal/vfs", "internal/network", "internal/cli", "broker"},
	"log":                   {}, // log/slog only
	"unsafe":                {}, // only where a benchmark pays for it
}

func gated(imp, gate string) bool {
	prefix, deep := strings.CutSuffix(gate, "/...")
	return imp == prefix || deep && strings.HasPrefix(imp, prefix+"/")
}

func TestLayering(t *testing.T) {
	allowed := map[string][]string{}
	var order []string
	for line := range strings.Lines(layers) {
		name, deps, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		allowed[name] = strings.Fields(deps)
		for _, dep := range allowed[name] {
			if dep != "*" && !slices.Contains(order, dep) {
				t.Errorf("layers: %s names %s, which is not on an earlier line", name, dep)
			}
		}
		order = append(order, name)
	}
	used := map[string]bool{}
	seen := map[string]bool{}
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == "test" || len(d.Name()) > 1 && d.Name()[0] == '.') {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		pkg := path.Dir(filepath.ToSlash(file))
		seen[pkg] = true
		deps, ok := allowed[pkg]
		if !ok {
			t.Errorf("%s: package %s has no line in layers", file, pkg)
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range f.Imports {
			imp, _ := strconv.Unquote(spec.Path.Value)
			if dep, ok := strings.CutPrefix(imp, module+"/"); ok {
				used[pkg+" "+dep] = true
				if !slices.Contains(deps, dep) && !slices.Contains(deps, "*") {
					t.Errorf("%s: %s may not import %s", file, pkg, dep)
				}
			}
			for gate, owners := range gates {
				if gated(imp, gate) && !slices.Contains(owners, pkg) {
					t.Errorf("%s: %s may not import %s", file, pkg, imp)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range order {
		for _, dep := range allowed[pkg] {
			if seen[pkg] && seen[dep] && !used[pkg+" "+dep] {
				t.Logf("layers: %s no longer needs %s", pkg, dep)
			}
		}
	}
}

// passive are the packages that decide without doing: called with a state and an input,
// they return what is to be done. A seeded scheduler can then run a whole cluster of
// them in one thread.
var passive = []string{"internal/acl", "internal/quota", "internal/controller", "internal/metadata", "internal/partition/replica", "internal/coordinator/shard", "internal/coordinator/group"}

// passiveBans are imports that a passive package may not have: a goroutine's tools, a
// clock, I/O, randomness.
var passiveBans = []string{"context", "crypto/rand", "io", "log/slog", "math/rand", "math/rand/v2", "net", "os", "sync", "sync/atomic", "time"}

func TestPassiveCores(t *testing.T) {
	for _, pkg := range passive {
		files, err := filepath.Glob(filepath.Join(filepath.FromSlash(pkg), "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: no files (%v)", pkg, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, spec := range f.Imports {
				if imp, _ := strconv.Unquote(spec.Path.Value); slices.Contains(passiveBans, imp) {
					t.Errorf("%s: a passive core may not import %s", file, imp)
				}
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n.(type) {
				case *ast.GoStmt, *ast.SelectStmt, *ast.SendStmt:
					t.Errorf("%s: a passive core has no goroutines and channels", file)
				}
				return true
			})
		}
	}
}
