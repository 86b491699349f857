package storage

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"moldau/internal/vfs"
	"moldau/internal/wire"
)

// In the metadata directory each log dir has a directory of its own, named by its directory id:
//
//	dirs/<directory id>/manifest   what was recorded of its partitions (see manifest.go)
//	dirs/<directory id>/path       where it was last
//
// So it does not matter in which order log.dirs names them, and a log dir that was moved is recognised. A directory
// here whose log dir is not open is why its partitions are offline and not empty (S9).
const (
	dirsFolder = "dirs"
	pathFile   = "path"
)

// DirsOptions are what OpenDirs needs. The Options are those of each log dir; their Path and ManifestDir are not used.
type DirsOptions struct {
	Options
	Paths  []string // log.dirs
	NodeID int32
	NewID  func() wire.UUID // a fresh directory id
}

// OpenDirs opens the log dirs of a broker and makes those that are not there. One that cannot be opened, or that is an empty
// directory where one with data was, is offline; the others are opened. Errors, in which case none is open:
// a log dir that another process has (*vfs.LockedError), one of another node or cluster (ErrForeign), two with the same
// directory id, a manifest that cannot be read, and all log dirs offline.
func OpenDirs(o DirsOptions) (*Dirs, error) {
	probes := probeDirs(o.FS, o.Paths)
	if err := refuseForeign(probes, o.NodeID); err != nil {
		return nil, err
	}
	if err := vfs.MkdirAllSync(o.FS, o.MetaDir); err != nil {
		return nil, err
	}
	if err := o.adoptManifest(probes); err != nil {
		return nil, err
	}
	records, err := readRecords(o.FS, o.MetaDir, probes)
	if err != nil {
		return nil, err
	}
	for _, r := range records {
		if r.read && r.empty && !inUse(r.id, probes) {
			_ = removeTree(o.FS, r.record) // of a start that failed: it says nothing
		}
	}
	for _, p := range probes {
		p.missing(records, probes) // protection: empty mount point
	}
	all, err := o.openAll(probes)
	if err != nil {
		return nil, err
	}
	absent, err := absentOf(o.FS, records, probes, func(i int) (wire.UUID, bool) { return all[i].identity.DirectoryID, all[i].isOpen() })
	ds := newDirs(all, absent)
	if err != nil {
		return nil, errors.Join(err, ds.Close())
	}
	if err := ds.Err(); err != nil {
		return nil, errors.Join(err, ds.Close())
	}
	for i, d := range all {
		if err := d.Err(); err != nil {
			d.log.Error("log dir is offline: it could not be opened, and its partitions cannot be used; the others go on. What to do: mount or repair its disk, and restart the broker",
				"dir", d.path, "error", probes[i].err)
		}
	}
	for _, a := range ds.absent {
		d := all[0]
		d.log.Error("partitions are offline because their log dir is not there", "dir", a.where, "directoryId", a.id.String(),
			"partitions", len(a.data), "error", a.why)
	}
	return ds, nil
}

// probe is a log dir before it is opened.
type probe struct {
	path  string
	id    Identity // as meta.properties has it
	known bool     // there is one
	err   error    // why it cannot be opened
}

func probeDirs(fsys vfs.FS, paths []string) []*probe {
	var out []*probe
	for _, name := range paths {
		p := &probe{path: name}
		p.id, p.known, p.err = ReadIdentity(fsys, name)
		out = append(out, p)
	}
	return out
}

// CheckDirs refuses log dirs of another node, of several clusters, or of which one is a copy of another, and such that cannot be
// read. It changes nothing.
func CheckDirs(fsys vfs.FS, paths []string, nodeID int32) error {
	probes := probeDirs(fsys, paths)
	errs := []error{refuseForeign(probes, nodeID)}
	for _, p := range probes {
		errs = append(errs, p.err)
	}
	return errors.Join(errs...)
}

// refuseForeign compares what the log dirs say of themselves. Whatever does not fit was put there by mistake, and to go on
// without it would be one more.
func refuseForeign(probes []*probe, nodeID int32) error {
	first := map[string]*probe{}
	for _, p := range probes {
		if !p.known {
			continue
		}
		if p.id.NodeID != nodeID {
			return fmt.Errorf("log dir %s belongs to node %d, this is node %d: set node.id=%d, or give this node a directory of its own: %w",
				p.path, p.id.NodeID, nodeID, p.id.NodeID, ErrForeign)
		}
		if f := first["cluster"]; f != nil && f.id.ClusterID != p.id.ClusterID {
			return fmt.Errorf("log dir %s belongs to cluster %s, but %s to cluster %s: take the one out of log.dirs that is not this broker's: %w",
				p.path, p.id.ClusterID, f.path, f.id.ClusterID, ErrForeign)
		}
		first["cluster"] = p
		if p.id.DirectoryID.IsZero() {
			continue
		}
		id := p.id.DirectoryID.String()
		if f := first[id]; f != nil {
			return fmt.Errorf("log dirs %s and %s have the same directory.id %s in meta.properties, so one is a copy of the other: take the copy out of log.dirs: %w",
				f.path, p.path, id, ErrForeign)
		}
		first[id] = p
	}
	return nil
}

// adoptManifest gives a manifest from before there were several log dirs, which is in the metadata directory itself, to the one
// that it is of.
func (o *DirsOptions) adoptManifest(probes []*probe) error {
	old := path.Join(o.MetaDir, manifestFile)
	if _, err := o.FS.Stat(old); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	entries, err := readManifest(o.FS, o.MetaDir)
	if err != nil {
		return err
	}
	var owner *probe
	for _, p := range probes {
		if !p.known || p.id.DirectoryID.IsZero() || !(len(probes) == 1 || countPresent(entries) == 0 || p.holdsOne(o.FS, entries)) {
			continue
		}
		if owner != nil && countPresent(entries) > 0 {
			owner = nil
			break
		}
		owner = p
	}
	if owner == nil {
		if countPresent(entries) == 0 {
			return nil // it says nothing
		}
		return fmt.Errorf("%s was written when there was one log dir, and says that %d partitions have data in it, but it is not certain that any of log.dirs=%s is that one: "+
			"start once with only the log dir that the broker had: %w", old, countPresent(entries), strings.Join(o.Paths, ","), ErrMissing)
	}
	to := recordDir(o.MetaDir, owner.id.DirectoryID)
	if err := vfs.MkdirAllSync(o.FS, to); err != nil {
		return err
	}
	if exists(o.FS, path.Join(to, manifestFile)) {
		// The power went before the rename was durable, and left both names; or somebody has put the old one back.
		before, _, err1 := readFile(o.FS, old, manifestMaxBytes)
		after, _, err2 := readFile(o.FS, path.Join(to, manifestFile), manifestMaxBytes)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		if !bytes.Equal(before, after) {
			return fmt.Errorf("%s is older than %s/%s, which has taken its place: move the old one away", old, to, manifestFile)
		}
	}
	return errors.Join(o.FS.Rename(old, path.Join(to, manifestFile)), o.FS.SyncDir(to), o.FS.SyncDir(o.MetaDir))
}

// holdsOne says that one of the recorded partitions is in the log dir.
func (p *probe) holdsOne(fsys vfs.FS, entries map[partitionKey]*manifestEntry) bool {
	found, err := ScanDir(fsys, p.path)
	if err != nil {
		return false
	}
	for _, f := range found {
		if e := entries[partitionKey{f.TopicID, f.Partition}]; e != nil && e.present && e.tp == f.TopicPartition {
			return true
		}
	}
	return false
}

func recordDir(metaDir string, id wire.UUID) string {
	return path.Join(metaDir, dirsFolder, id.String())
}

// readRecords lists what was recorded of log dirs in the metadata directory, and reads the manifests of those that are not
// among the probes.
func readRecords(fsys vfs.FS, metaDir string, probes []*probe) ([]*absentDir, error) {
	infos, err := fsys.ReadDir(path.Join(metaDir, dirsFolder))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []*absentDir
	for _, info := range infos {
		id, err := wire.ParseUUID(info.Name)
		if err != nil || !info.IsDir {
			continue
		}
		r := &absentDir{id: id, record: recordDir(metaDir, id)}
		text, _, err := readFile(fsys, path.Join(r.record, pathFile), 64<<10)
		if err != nil {
			return nil, err
		}
		if r.where = strings.TrimSpace(string(text)); r.where == "" {
			r.where = "(path not known)"
		}
		if !inUse(r.id, probes) {
			if err := r.load(fsys); err != nil {
				return nil, err
			}
		}
		out = append(out, r)
	}
	return out, nil
}

// load reads which partitions have data.
func (a *absentDir) load(fsys vfs.FS) error {
	if a.read {
		return nil
	}
	entries, err := readManifest(fsys, a.record)
	if err != nil {
		return err
	}
	a.read, a.empty, a.data = true, len(entries) == 0, map[partitionKey]bool{}
	for key, e := range entries {
		if e.present {
			a.data[key] = true
		}
	}
	return nil
}

func countPresent(entries map[partitionKey]*manifestEntry) (n int) {
	for _, e := range entries {
		if e.present {
			n++
		}
	}
	return n
}

// missing finds out that a directory without meta.properties stands where a log dir with data was: an empty mount point, or another disk.
// To make a log dir of it would fill whatever volume is below the mount point.
func (p *probe) missing(records []*absentDir, probes []*probe) {
	if p.known || p.err != nil {
		return
	}
	for _, r := range records {
		if r.where != absolute(p.path) || len(r.data) == 0 || inUse(r.id, probes) {
			continue
		}
		p.id.DirectoryID = r.id
		p.err = fmt.Errorf("it has no meta.properties, but was a log dir with %d partitions: mount its disk, or bring meta.properties back. "+
			"If the disk is lost for good, move %s away: the partitions that were on it begin anew and empty: %w", len(r.data), r.record, ErrMissing)
		return
	}
}

func inUse(id wire.UUID, probes []*probe) bool {
	for _, p := range probes {
		if p.known && p.id.DirectoryID == id {
			return true
		}
	}
	return false
}

// absolute is the path as it is recorded.
func absolute(name string) string {
	if abs, err := filepath.Abs(filepath.FromSlash(name)); err == nil {
		return filepath.ToSlash(abs)
	}
	return name
}

// openAll opens the log dirs, the one that is to keep the reserve first. Those that cannot be opened are offline.
func (o *DirsOptions) openAll(probes []*probe) ([]*Dir, error) {
	all := make([]*Dir, len(probes))
	n := len(probes)
	each := o.Options
	each.defaults()
	each.OpenFiles, each.OpenLogs = max(each.OpenFiles/n, 1), max(each.OpenLogs/n, 1)
	each.IndexBytes, each.UnflushedBytes = max(each.IndexBytes/int64(n), 1), max(each.UnflushedBytes/int64(n), 1)
	first := 0
	for i, p := range probes {
		if strings.HasPrefix(o.MetaDir, strings.TrimSuffix(p.path, "/")+"/") {
			first = i
		}
	}
	for k := range probes {
		i := (first + k) % n
		p := probes[i]
		each.Path = p.path
		var err error
		if all[i], err = o.openOne(p, each); err != nil {
			for _, d := range all {
				if d != nil {
					err = errors.Join(err, d.Close())
				}
			}
			return nil, err
		}
		if all[i].isOpen() {
			each.Reserve = false // one is enough
		}
	}
	return all, nil
}

func (o *DirsOptions) openOne(p *probe, each Options) (*Dir, error) {
	id, nameless := p.id.DirectoryID, !p.known
	if id.IsZero() {
		id, nameless = o.NewID(), true // new, or from before Kafka gave ids to directories
	}
	each.ManifestDir = recordDir(o.MetaDir, id)
	d := newDir(each)
	if p.err == nil {
		p.err = d.open()
	}
	d.identity.DirectoryID, d.nameless = id, nameless
	var locked *vfs.LockedError
	var meta *metaError
	switch {
	case errors.As(p.err, &locked), errors.As(p.err, &meta):
		return nil, p.err
	case p.err != nil:
		err := fmt.Errorf("%s: %w: %w", d.path, ErrOffline, p.err)
		d.fenced.Store(&err)
		return d, nil
	}
	where := absolute(p.path)
	if text, _, err := readFile(o.FS, path.Join(each.ManifestDir, pathFile), 64<<10); err == nil && strings.TrimSpace(string(text)) == where {
		return d, nil
	}
	if err := writeAtomic(o.FS, each.ManifestDir, pathFile, []byte(where+"\n")); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// absentOf are the records with data whose log dir is not open, and why. opened is the directory id of an open one.
func absentOf(fsys vfs.FS, records []*absentDir, probes []*probe, opened func(i int) (wire.UUID, bool)) ([]*absentDir, error) {
	var out []*absentDir
	for _, r := range records {
		r.why = errors.New("which is not in log.dirs: name it there again and restart the broker")
		open := false
		for i, p := range probes {
			id, ok := opened(i)
			open = open || ok && id == r.id
			if p.err != nil && (p.id.DirectoryID == r.id || p.id.DirectoryID.IsZero() && r.where == absolute(p.path)) {
				r.why = fmt.Errorf("which is offline: %w", p.err)
			}
		}
		if open {
			continue
		}
		if err := r.load(fsys); err != nil {
			return nil, err
		}
		if len(r.data) > 0 {
			out = append(out, r)
		}
	}
	return out, nil
}

// MissingDir is a log dir that has partitions and is not there.
type MissingDir struct {
	Path       string // where it was last
	ID         wire.UUID
	Partitions int
	Why        error
}

// MissingDirs are the log dirs that a start would miss. It changes nothing.
func MissingDirs(fsys vfs.FS, metaDir string, paths []string) ([]MissingDir, error) {
	probes := probeDirs(fsys, paths)
	records, err := readRecords(fsys, metaDir, probes)
	if err != nil {
		return nil, err
	}
	for _, p := range probes {
		p.missing(records, probes)
	}
	absent, err := absentOf(fsys, records, probes, func(i int) (wire.UUID, bool) { return probes[i].id.DirectoryID, probes[i].known })
	var out []MissingDir
	for _, a := range absent {
		out = append(out, MissingDir{a.where, a.id, len(a.data), a.why})
	}
	return out, err
}

// FindMetaDir chooses among the places where the metadata directory may be: where one is, else the first, when nothing says that
// there was one. Each is inside the log dir of the same index, or there is one place only.
func FindMetaDir(fsys vfs.FS, places, logDirs []string) (string, error) {
	if len(places) == 1 {
		return places[0], nil
	}
	var found, unknown, used, unused []string
	for i, place := range places {
		switch _, err := fsys.Stat(place); {
		case err == nil:
			found = append(found, place)
		case !errors.Is(err, fs.ErrNotExist):
			unknown = append(unknown, err.Error())
		}
		if exists(fsys, path.Join(logDirs[i], metaPropertiesFile)) {
			used = append(used, logDirs[i])
		} else {
			unused = append(unused, logDirs[i])
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return "", fmt.Errorf("there are several metadata directories, %s: set metadata.log.dir to the one that is this broker's, or move the others away: %w",
			strings.Join(found, " and "), ErrForeign)
	case len(unknown) > 0:
		return "", fmt.Errorf("there is no metadata directory in any of log.dirs, but not all of them can be read (%s): mount or repair the disk: %w",
			strings.Join(unknown, "; "), ErrMissing)
	case len(used) > 0 && len(unused) > 0:
		return "", fmt.Errorf("there is no metadata directory (%s) in any of log.dirs; %s was used by a broker before, %s was not: mount the disk that has it, "+
			"set metadata.log.dir, or start once without the log dirs that are new: %w", path.Base(places[0]), strings.Join(used, ", "), strings.Join(unused, ", "), ErrMissing)
	}
	return places[0], nil
}
