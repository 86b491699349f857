package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"moldau/internal/storage"
	"moldau/internal/vfs"
)

func newLogCheck(c *command) *cobra.Command {
	var metaDir string
	cmd := &cobra.Command{
		Use: "check [DIR | PARTITION-DIR | FILE]...", Short: "Read and verify every file of log directories; change nothing",
		Long: "Read and verify every file of log directories, of Moldau or of a stopped Apache Kafka. Nothing is changed.\n\n" +
			"Each batch is read once: framing, format, CRC, order of offsets, leader epochs, every record, compressed ones too.\n" +
			"What is derived is compared with the batches: offset index, time index, transaction index, producer snapshots,\n" +
			"leader-epoch-checkpoint. Then checkpoint files, meta.properties, partition.metadata, the manifest and what is left over.\n\n" +
			"One line is printed for each finding:\n" +
			"  damaged  records, or what says which there are, cannot be read or are missing\n" +
			"  stale    a derived file does not fit; moldau log repair makes it anew without a loss\n" +
			"  note     left over, torn by a crash, or not finished: the next start sees to it\n" +
			"The exit code is 0 if there are notes only, else 3. With -o json every line is one JSON object, the last one the summary.\n\n" +
			"Without an argument the directory is ./moldau-data. The manifest is looked for below DIR/.moldau and DIR/../meta.\n" +
			"While a broker has the directory, the last segment of each partition and what changes meanwhile are left out.",
		Example: "  moldau log check\n  moldau log check /var/lib/kafka\n" +
			"  moldau log check moldau-data/log/orders-0/00000000000000000000.log\n  moldau log check -o json | jq -c 'select(.severity == \"damaged\")'",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{"moldau-data"}
			}
			k := newLogChecker(c, metaDir)
			return k.run(cmd.Context(), args, k.print)
		},
	}
	cmd.Flags().StringVar(&metaDir, "metadata-dir", "", "`DIR` with the manifest (metadata.log.dir), if it is neither DIR/.moldau nor DIR/../meta")
	return cmd
}

func newLogRepair(c *command) *cobra.Command {
	var metaDir string
	var dryRun, yes bool
	cmd := &cobra.Command{
		Use: "repair DIR...", Short: "Make derived files of stopped log directories anew", Args: atLeast(1, "one or more log directories"),
		Long: "Make derived files of stopped log directories anew, where moldau log check says that they are stale: indexes, time indexes,\n" +
			"transaction indexes, producer snapshots, leader-epoch-checkpoint. Each is written beside the old one, synced and renamed.\n\n" +
			"No batch is changed, moved or deleted. A torn end is set aside by the broker's next start, into the quarantine of its\n" +
			"metadata directory. Damaged records cannot be repaired from what is there: a broker serves what is before and behind them.\n\n" +
			"Say --dry-run first: it prints the same and changes nothing. On a terminal the command asks before it\n" +
			"writes. Elsewhere it wants --yes. The exit code is 3 if something is left that cannot be repaired.",
		Example: "  moldau log repair --dry-run moldau-data\n  moldau log repair moldau-data\n  moldau log repair --yes /var/lib/kafka",
		RunE: func(cmd *cobra.Command, args []string) error {
			k := newLogChecker(c, metaDir)
			k.repair, k.dryRun, k.exclusive = true, dryRun, !dryRun
			if !dryRun {
				if err := c.confirm(yes, "write derived files in "+strings.Join(args, ", ")+" anew"); err != nil {
					return err
				}
			}
			return k.run(cmd.Context(), args, k.mend)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&dryRun, "dry-run", false, "say what would be done, change nothing")
	f.BoolVarP(&yes, "yes", "y", false, "do not ask")
	f.StringVar(&metaDir, "metadata-dir", "", "`DIR` with the manifest (metadata.log.dir), if it is neither DIR/.moldau nor DIR/../meta")
	return cmd
}

// logChecker goes through log dirs and prints what was found.
type logChecker struct {
	*command
	out       *bufio.Writer
	fs        vfs.FS
	metaDir   string
	repair    bool // moldau log repair
	dryRun    bool
	exclusive bool // no broker may have the directory

	progress *progress
	began    time.Time
	sum      checkSum
	left     int64 // findings that repair can do nothing about
}

// checkSum is the last line of a check.
type checkSum struct {
	Partitions int   `json:"partitions"`
	Segments   int   `json:"segments"`
	Batches    int64 `json:"batches"`
	Records    int64 `json:"records"`
	Bytes      int64 `json:"bytes"`
	Damaged    int64 `json:"damaged"`
	Stale      int64 `json:"stale"`
	Notes      int64 `json:"notes"`
	Repaired   int64 `json:"repaired,omitempty"`
}

func newLogChecker(c *command, metaDir string) *logChecker {
	k := &logChecker{command: c, out: bufio.NewWriterSize(c.Stdout, 64<<10), fs: vfs.OS(), began: time.Now(), progress: c.newProgress(false)}
	if metaDir != "" {
		k.metaDir = filepath.ToSlash(metaDir)
	}
	return k
}

// run checks everything that args name and gives every finding to each.
func (k *logChecker) run(ctx context.Context, args []string, each func(storage.Finding) error) error {
	var targets []checkTarget
	for _, arg := range args {
		t, err := k.target(arg)
		if err != nil {
			return err
		}
		same := func(o checkTarget) bool { return o.logDir == t.logDir && o.partition == t.partition }
		if i := slices.IndexFunc(targets, same); i < 0 {
			targets = append(targets, t)
		} else if len(t.files) == 0 {
			targets[i].files = nil
		} else if len(targets[i].files) > 0 {
			targets[i].files = append(targets[i].files, t.files...)
		}
	}
	for _, t := range targets {
		if err := k.check(ctx, t, each); err != nil {
			return errors.Join(err, k.out.Flush())
		}
	}
	return k.finish()
}

// checkTarget is what arguments mean.
type checkTarget struct {
	logDir    string
	metaDir   string
	partition string   // "": all of the log dir
	files     []string // none: all of the directory
}

func (k *logChecker) target(arg string) (checkTarget, error) {
	info, err := os.Stat(arg)
	if err != nil {
		return checkTarget{}, &failure{cause: "it cannot be read", value: err.Error(), err: err}
	}
	name := path.Clean(filepath.ToSlash(arg))
	if !info.IsDir() && path.Dir(name) == "." || path.Base(name) == "." || path.Base(name) == ".." {
		full, err := filepath.Abs(arg) // the names of the directories say what they are
		if err != nil {
			return checkTarget{}, err
		}
		name = filepath.ToSlash(full)
	}
	t := checkTarget{logDir: name, metaDir: k.metaDir}
	if !info.IsDir() {
		t.files, t.logDir = []string{name}, path.Dir(name)
		if dumperOf(path.Base(name)) == nil {
			return t, &failure{cause: "this kind of file is not known", value: arg, help: "moldau log dump --help names those that are"}
		}
	}
	if _, ok := storage.ParsePartition(path.Base(t.logDir)); ok && !hasFile(t.logDir, "meta.properties") {
		t.partition, t.logDir = t.logDir, path.Dir(t.logDir)
		return t, nil
	}
	if len(t.files) == 0 && !hasFile(t.logDir, "meta.properties") && hasFile(t.logDir, "log/meta.properties") { // a data directory of Moldau
		if t.metaDir == "" && hasFile(t.logDir, "meta") {
			t.metaDir = path.Join(t.logDir, "meta")
		}
		t.logDir = path.Join(t.logDir, "log")
	}
	return t, nil
}

func hasFile(dir, name string) bool {
	_, err := os.Stat(filepath.Join(filepath.FromSlash(dir), filepath.FromSlash(name)))
	return err == nil
}

// check looks at what t names and gives every finding to each, those of a partition together and in order.
func (k *logChecker) check(ctx context.Context, t checkTarget, each func(storage.Finding) error) error {
	live := false
	lock, err := storage.LockExisting(k.fs, t.logDir)
	var held *vfs.LockedError
	switch {
	case errors.As(err, &held) && k.exclusive:
		return &failure{cause: "a broker has the directory", value: held.Error(), help: "stop it first, or say --dry-run", err: err}
	case errors.As(err, &held):
		live = true
		k.note("%s: the last segment of each partition is not looked at", held.Error())
	case err != nil && k.exclusive:
		return &failure{cause: "the directory cannot be locked", value: err.Error(), err: err}
	case err != nil:
		k.note("the directory cannot be locked (%s): if a broker has it, what is found may be what the broker is doing", oneLine(err))
	case lock != nil:
		defer lock.Close()
	}
	x, err := storage.NewInspection(k.fs, t.logDir, storage.ManifestOf(k.fs, t.logDir, t.metaDir), live)
	if err != nil {
		return &failure{cause: "it cannot be read", value: err.Error(), err: err}
	}
	var dirs []string
	var total int64
	if t.partition != "" {
		dirs = []string{t.partition}
	} else {
		var root []storage.Finding
		if err := x.Root(func(f storage.Finding) { root = append(root, f) }); err != nil {
			return &failure{cause: "it cannot be read", value: err.Error(), err: err}
		}
		if err := k.give(t, root, each); err != nil {
			return err
		}
		if len(t.files) == 0 {
			if dirs, total, err = x.Partitions(); err != nil {
				return &failure{cause: "it cannot be read", value: err.Error(), err: err}
			}
		}
	}
	return k.partitions(ctx, x, t, dirs, total, each)
}

// give passes findings on that the target is about.
func (k *logChecker) give(t checkTarget, found []storage.Finding, each func(storage.Finding) error) error {
	storage.SortFindings(found)
	for _, f := range found {
		about := func(file string) bool { return f.File == t.partition || sameSegment(f.File, file) }
		if len(t.files) > 0 && !slices.ContainsFunc(t.files, about) {
			continue
		}
		if err := each(f); err != nil {
			return err
		}
	}
	return nil
}

// sameSegment says that a is b, or that b is a .log and a derived from it.
func sameSegment(a, b string) bool {
	base, isLog := strings.CutSuffix(b, ".log")
	return a == b || isLog && strings.HasPrefix(a, base+".")
}

// maxFindings bounds what is kept, and told, of one partition.
const maxFindings = 1000

// checkedPartition is what a worker has to say.
type checkedPartition struct {
	found []storage.Finding
	more  int64 // that are not in found
	sum   storage.Inspected
	err   error
}

// partitions checks partition directories, as many at a time as there are cores, and passes on what was found as they end.
func (k *logChecker) partitions(ctx context.Context, x *storage.Inspection, t checkTarget, dirs []string, total int64, each func(storage.Finding) error) error {
	ctx, cancel := context.WithCancel(ctx)
	results := make(chan checkedPartition)
	var next atomic.Int64
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(dirs)) {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(dirs); i = int(next.Add(1)) - 1 {
				select {
				case results <- checkOne(ctx, x, dirs[i]):
				case <-ctx.Done():
					return
				}
			}
		})
	}
	defer workers.Wait()
	defer cancel()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	defer k.progress.clear()
	for done := 0; done < len(dirs); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			k.progress.show(fmt.Sprintf("%d of %s, %s of %s", done, plural(int64(len(dirs)), "partition"), bytesText(x.ReadBytes()), bytesText(max(total, x.ReadBytes()))))
		case r := <-results:
			done++
			if r.err != nil {
				return r.err
			}
			k.progress.clear()
			k.sum.Partitions++
			k.sum.Segments += r.sum.Segments
			k.sum.Batches += r.sum.Batches
			k.sum.Records += r.sum.Records
			k.sum.Bytes += r.sum.Bytes
			if err := k.give(t, r.found, each); err != nil {
				return err
			}
			if r.more > 0 {
				k.note("and %d findings more in the same partition", r.more)
				k.sum.Damaged += r.more
			}
		}
	}
	return nil
}

func checkOne(ctx context.Context, x *storage.Inspection, dir string) (r checkedPartition) {
	r.sum, r.err = x.Partition(ctx, dir, func(f storage.Finding) {
		if len(r.found) < maxFindings {
			r.found = append(r.found, f)
		} else if f.Severity > storage.Note {
			r.more++
		}
	})
	if r.err != nil && !errors.Is(r.err, context.Canceled) {
		// What cannot be read is a finding, and the other partitions are looked at.
		r.found = append(r.found, storage.Finding{Severity: storage.Damaged, File: dir, Pos: -1, What: "it cannot be read: " + oneLine(r.err), Do: "find out what is wrong with the disk"})
		r.err = nil
	}
	return r
}

func (k *logChecker) count(f storage.Finding) {
	switch f.Severity {
	case storage.Damaged:
		k.sum.Damaged++
	case storage.Stale:
		k.sum.Stale++
	default:
		k.sum.Notes++
	}
}

// findingJSON is a finding for programs.
type findingJSON struct {
	Kind       string `json:"kind"`
	Severity   string `json:"severity"`
	File       string `json:"file"`
	Position   *int64 `json:"position,omitempty"`
	Offset     *int64 `json:"offset,omitempty"`
	NextOffset *int64 `json:"nextGoodOffset,omitempty"`
	What       string `json:"what"`
	Do         string `json:"do"`
	Repair     string `json:"repair,omitempty"`
}

func (k *logChecker) print(f storage.Finding) error {
	k.count(f)
	return k.line(f, f.Do, "")
}

// line prints a finding; repair says what repair does about it.
func (k *logChecker) line(f storage.Finding, do, repair string) error {
	if k.json() {
		j := findingJSON{Kind: "finding", Severity: f.Severity.String(), File: filepath.FromSlash(f.File), What: f.What, Do: do, Repair: repair}
		if f.Pos >= 0 {
			j.Position = &f.Pos
		}
		if f.Next > f.First {
			j.Offset, j.NextOffset = &f.First, &f.Next
		}
		return k.writeLine(j)
	}
	where := filepath.FromSlash(f.File)
	if f.Pos >= 0 {
		where += fmt.Sprintf(" @%d", f.Pos)
	}
	if f.Next == f.First+1 {
		where += fmt.Sprintf(", offset %d", f.First)
	} else if f.Next > f.First {
		where += fmt.Sprintf(", offsets %d to %d", f.First, f.Next-1)
	}
	_, err := fmt.Fprintf(k.out, "%-8s %s: %s; to do: %s\n", f.Severity, printable(where), printable(f.What), printable(do))
	return err
}

func (k *logChecker) writeLine(v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = k.out.Write(append(line, '\n'))
	return err
}

// mend does what can be done about a finding, or says that it would.
func (k *logChecker) mend(f storage.Finding) error {
	switch {
	case f.Severity == storage.Note:
		return nil // the next start
	case f.Fix == nil:
		k.count(f)
		k.left++
		return k.line(f, f.Do, "impossible")
	case k.dryRun:
		k.sum.Stale++
		return k.line(f, "moldau log repair would write the file anew from the batches", "possible")
	}
	if _, err := storage.Repair(k.fs, f); err != nil {
		return &failure{cause: "the file could not be written anew; it is as it was", value: err.Error(), err: err}
	}
	k.sum.Repaired++
	return k.line(f, "done: the file was written anew from the batches", "done")
}

// finish prints the summary. Its error says that something was found.
func (k *logChecker) finish() error {
	s := &k.sum
	if k.json() {
		if err := k.writeLine(struct {
			Kind string `json:"kind"`
			checkSum
		}{"summary", *s}); err != nil {
			return err
		}
	} else {
		var found []string
		for _, part := range []struct {
			n    int64
			what string
		}{{s.Damaged, "damaged"}, {s.Stale, "stale"}, {s.Repaired, "repaired"}} {
			if part.n > 0 {
				found = append(found, fmt.Sprintf("%d %s", part.n, part.what))
			}
		}
		if s.Notes > 0 {
			found = append(found, plural(s.Notes, "note"))
		}
		what := "nothing is wrong"
		if len(found) > 0 {
			what = strings.Join(found, ", ")
		}
		took := time.Since(k.began)
		if _, err := fmt.Fprintf(k.out, "%s, %s, %s, %s, %s in %s: %s\n", plural(int64(s.Partitions), "partition"), plural(int64(s.Segments), "segment"),
			batches(s.Batches), plural(s.Records, "record"), bytesText(s.Bytes), took.Round(time.Millisecond), what); err != nil {
			return err
		}
	}
	if err := k.out.Flush(); err != nil {
		return err
	}
	bad := s.Damaged + s.Stale
	if k.repair {
		bad = k.left
	}
	if bad == 0 {
		return nil
	}
	cause := "something is wrong"
	if k.repair {
		cause = "something is wrong that cannot be repaired from what is there"
	}
	return &foundError{failure{cause: cause, value: plural(bad, "finding"), help: "docs/operations.md says what to do"}}
}

func batches(n int64) string {
	if n == 1 {
		return "1 batch"
	}
	return fmt.Sprintf("%d batches", n)
}

// foundError says that a check has found something; its exit code is 3.
type foundError struct{ failure }
