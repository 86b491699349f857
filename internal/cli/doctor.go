package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kadm"

	"moldau/internal/config"
	"moldau/internal/security"
	"moldau/internal/storage"
	"moldau/internal/vfs"
)

// verdict is how a check of the doctor ends.
type verdict string

const (
	good verdict = "ok"
	note verdict = "note" // good to know
	warn verdict = "warn" // works, but will hurt
	fail verdict = "FAIL" // does not work
)

// finding is one line of the doctor.
type finding struct {
	Verdict verdict `json:"verdict"`
	Check   string  `json:"check"`
	Found   string  `json:"found"`
	Advice  string  `json:"advice,omitempty"`
}

func newDoctor(c *command) *cobra.Command {
	var flags ServerFlags
	var deep bool
	cmd := &cobra.Command{
		Use: "doctor", Short: "Look for what keeps a broker or its clients from working", Args: exactly(0, ""),
		Long: "Look for what keeps a broker or its clients from working, on this machine, and advise.\n\n" +
			"It checks the configuration that moldau server would have with the same flags, what listens on its\n" +
			"addresses, whether each advertised address can be reached from here, the disk (space, and the\n" +
			"time of a write with fsync, measured), the data directory (who has it, is it damaged), keys and\n" +
			"certificates (can they be used, when do they end), the limit of open files and the clock. It works\n" +
			"with and without a running broker, and changes nothing. With -b it looks at that broker too. The exit code is 1 if a check says FAIL.",
		Example: "  moldau doctor\n  moldau doctor --config server.properties\n  moldau doctor -b kafka.example:9092 -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.check(); err != nil {
				return err
			}
			d := &doctor{command: c, deep: deep}
			d.examine(cmd.Context(), flags)
			if cmd.Context().Err() != nil {
				return cmd.Context().Err()
			}
			return d.report()
		},
	}
	addServerFlags(cmd, &flags)
	f := cmd.Flags()
	f.StringVar(&flags.Listen, "listen", "", "where clients connect, `HOST:PORT` (listeners)")
	f.StringVar(&flags.HTTP, "http", "", "where /live, /ready and /metrics are, `HOST:PORT` or off (moldau.http.listener)")
	f.StringVar(&flags.TLS, "tls", "", "off or `auto` (moldau.tls)")
	f.BoolVar(&deep, "deep", false, "read and check every record of a data directory that no broker has open")
	return cmd
}

// doctor collects findings in the order of the checks.
type doctor struct {
	*command
	deep     bool
	findings []finding
}

func (d *doctor) say(v verdict, check, advice, format string, args ...any) {
	d.findings = append(d.findings, finding{v, check, fmt.Sprintf(format, args...), advice})
}

func (d *doctor) examine(ctx context.Context, flags ServerFlags) {
	conf := d.config(flags)
	if conf != nil {
		d.certificates(conf)
		d.listeners(ctx, conf)
	}
	if d.bootstrap != "" || d.Env("MOLDAU_BOOTSTRAP_SERVERS") != "" {
		for _, seed := range d.seeds() {
			d.broker(ctx, probe(ctx, seed), true)
		}
	}
	if conf != nil {
		d.dataDirectory(ctx, conf)
	}
	d.openFiles()
	d.clock()
}

func (d *doctor) report() error {
	failed := int64(0)
	for _, f := range d.findings {
		if f.Verdict == fail {
			failed++
		}
	}
	if d.json() {
		if err := writeJSON(d.Stdout, d.findings); err != nil {
			return err
		}
	} else {
		width := 0
		for _, f := range d.findings {
			width = max(width, len(f.Check))
		}
		for _, f := range d.findings {
			line := fmt.Sprintf("%-4s  %-*s  %s\n", f.Verdict, width, f.Check, printable(f.Found))
			if f.Advice != "" {
				line += fmt.Sprintf("%*s-> %s\n", width+8, "", printable(f.Advice))
			}
			if _, err := io.WriteString(d.Stdout, line); err != nil {
				return err
			}
		}
	}
	if failed > 0 {
		return &failure{cause: plural(failed, "check") + " failed", help: "see FAIL above"}
	}
	return nil
}

// config is the configuration that the server would have, nil if it would not start.
func (d *doctor) config(flags ServerFlags) *config.Broker {
	const check = "configuration"
	src := config.Sources{Sets: flags.Set, Flags: map[string]string{}}
	if d.Environ != nil {
		src.Env = d.Environ()
	}
	for name, value := range map[string]string{"data-dir": flags.DataDir, "listen": flags.Listen, "http": flags.HTTP, "tls": flags.TLS} {
		if value != "" {
			src.Flags[name] = value
		}
	}
	found := "defaults"
	if flags.ConfigFile != "" {
		f, err := os.Open(flags.ConfigFile)
		if err != nil {
			d.say(fail, check, "name a readable file with --config", "%s", err)
			return nil
		}
		defer f.Close()
		src.File, src.FileName, found = f, flags.ConfigFile, flags.ConfigFile
	}
	b, warnings, err := config.Load(src)
	for _, w := range warnings {
		v := note
		if w.Level >= slog.LevelWarn {
			v = warn
		}
		d.say(v, check, "", "%s", w.Text)
	}
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			d.say(fail, check, "moldau config explain KEY says what a setting may be", "%s", strings.TrimSpace(line))
		}
		return nil
	}
	d.say(good, check, "", "%s: node %d, %s", found, b.NodeID(),
		durability(map[string]string{"flush.messages": fmt.Sprint(b.Int("log.flush.interval.messages"))}))
	return b
}

const certificateCheck = "certificates"

// certificates looks at the keys and certificates of the listeners, as a start would, but that it makes none.
func (d *doctor) certificates(conf *config.Broker) {
	secured := slices.ContainsFunc(conf.Listeners(), func(l config.Listener) bool { return l.Protocol != config.Plaintext })
	if !secured {
		return
	}
	var auto *security.Authority
	if conf.Text("moldau.tls") == "auto" {
		meta, err := storage.FindMetaDir(vfs.OS(), slashes(conf.MetadataDirs()), slashes(conf.LogDirs()))
		if err != nil {
			return // dataDirectory says so
		}
		auto = security.ReadAuthority(vfs.OS(), path.Join(meta, security.AuthorityDir))
	}
	s, err := security.New(conf, auto)
	if auto != nil && errors.Is(err, fs.ErrNotExist) {
		d.say(note, certificateCheck, "", "the first start with moldau.tls=auto makes a CA and a certificate")
		return
	}
	if err != nil {
		for line := range strings.Lines(err.Error()) {
			d.say(fail, certificateCheck, "docs/security.md says what is needed", "%s", strings.TrimSpace(line))
		}
		return
	}
	for _, e := range s.Expiries() {
		d.expiry(e)
	}
}

// expiry tells when a certificate ends.
func (d *doctor) expiry(e security.Expiry) {
	now := d.Now()
	switch n := e.Notice(now); {
	case n == "":
		d.say(good, certificateCheck, "", "the first in the %s of listener %s ends on %s: %s", e.Store, e.Listener, e.NotAfter.UTC().Format(time.DateOnly), e.Subject)
	default:
		text, advice, _ := strings.Cut(n, ": ")
		v := warn
		if now.After(e.NotAfter) {
			v = fail
		}
		d.say(v, certificateCheck, advice, "%s", text)
	}
}

// listeners looks at each address on which the broker is to listen.
func (d *doctor) listeners(ctx context.Context, conf *config.Broker) {
	for _, l := range conf.Listeners() {
		for i, addr := range l.BindAddrs() {
			p := d.bindable(ctx, "listener "+l.Name, addr, i > 0, l.Protocol.TLS())
			switch {
			case i > 0 || p.what != listensKafka && p.what != listensTLS:
			case l.Protocol != config.Plaintext && d.configFile() == "":
				d.say(note, "broker", "give --command-config a file with security.protocol="+string(l.Protocol)+" to look further", "%s: it lets in who shows who he is", addr)
			default:
				d.broker(ctx, p, false)
			}
		}
	}
	for i, addr := range conf.HTTPAddrs() {
		p := d.bindable(ctx, "http", addr, i > 0, false)
		if p.what == listensHTTP && i == 0 {
			d.ready(ctx, addr)
		}
	}
}

// bindable finds out who has an address, or whether it can be had. A second address of
// localhost may be missing where there is no IPv6. secured: with TLS.
func (d *doctor) bindable(ctx context.Context, check, addr string, second, secured bool) probed {
	p := probe(ctx, reachable(addr))
	_, port, _ := net.SplitHostPort(addr)
	switch {
	case p.what == listensKafka && check != "http" && !secured:
		d.say(good, check, "", "%s: a broker listens", addr)
	case p.what == listensTLS && secured:
		d.say(good, check, "", "%s: somebody listens, with TLS", addr)
	case p.what == listensHTTP && check == "http":
		d.say(good, check, "", "%s: an HTTP server listens", addr)
	case p.what == listensNobody || p.what == listensUnreachable || p.what == listensSilent:
		l, err := net.Listen("tcp", addr)
		switch {
		case err == nil:
			_ = l.Close()
			d.say(good, check, "", "%s: free, a broker can listen there", addr)
		case second:
			d.say(note, check, "", "%s: there is no IPv6 here, 127.0.0.1 is enough", addr)
		case errors.Is(err, fs.ErrPermission):
			d.say(fail, check, "choose a port from 1024 on with --listen HOST:PORT", "%s: no permission to listen", addr)
		default:
			d.say(fail, check, "choose another address with --listen HOST:PORT", "%s: %s", addr, networkReason(err))
		}
	default:
		d.say(fail, check, "stop it (ss -ltnp 'sport = :"+port+"' shows who it is), or choose another port",
			"%s: taken by something else (it speaks: %s)", addr, p.what)
	}
	return p
}

// reachable is the address under which one reaches a listener from here.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// broker asks what was found at an address for all brokers, and dials where each is advertised.
func (d *doctor) broker(ctx context.Context, p probed, wanted bool) {
	check := "broker"
	if f := d.unusable(p); f != nil {
		if wanted {
			d.say(fail, check, f.help, "%s", (&failure{cause: f.cause, value: f.value}).Error())
		}
		return
	}
	one := *d.command
	one.bootstrap, one.timeout = p.addr, min(d.timeout, 5*time.Second)
	cl, err := one.connect(ctx)
	if err != nil {
		d.say(fail, check, "look into the broker's log", "%s: %s", p.addr, oneLine(err))
		return
	}
	defer cl.Close()
	meta, err := ask(ctx, cl, p.addr, func(ctx context.Context) (kadm.Metadata, error) { return cl.adm.Metadata(ctx) })
	if err != nil {
		d.say(fail, check, "look into the broker's log", "%s", oneLine(err))
		return
	}
	d.say(good, check, "", "%s: cluster %s of %s, %s", p.addr, meta.Cluster, plural(int64(len(meta.Brokers)), "broker"), plural(int64(len(meta.Topics)), "topic"))
	if meta.Controller < 0 {
		d.say(fail, "controller", "topics cannot change until the metadata store has a quorum: look into the brokers' logs", "there is none")
	}
	for _, b := range meta.Brokers {
		d.advertised(ctx, b)
	}
	offline := 0
	for _, t := range meta.Topics {
		for _, q := range t.Partitions {
			if q.Leader < 0 || slices.Contains(q.OfflineReplicas, q.Leader) {
				offline++
			}
		}
	}
	if offline > 0 {
		d.say(fail, "partitions", "moldau topic describe shows which; start the brokers that have them, and look for log dirs that are offline (moldau cluster describe)", "%s without a leader that has its data", plural(int64(offline), "partition"))
	}
}

// advertised checks the address to which the cluster sends clients for one broker.
func (d *doctor) advertised(ctx context.Context, b kadm.BrokerDetail) {
	const check = "advertised"
	addr := net.JoinHostPort(b.Host, fmt.Sprint(b.Port))
	p := probe(ctx, addr)
	f := d.unusable(p)
	if f == nil {
		d.say(good, check, "", "broker %d at %s can be reached from here", b.NodeID, addr)
		return
	}
	d.say(fail, check, "set advertised.listeners on that broker to an address that clients reach; they are sent to this one",
		"broker %d at %s: %s", b.NodeID, addr, (&failure{cause: f.cause, value: f.value}).Error())
}

// ready asks the broker how it feels, and whether its clock agrees with ours.
func (d *doctor) ready(ctx context.Context, addr string) {
	asking, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	url := "http://" + reachable(addr) + "/ready"
	req, err := http.NewRequestWithContext(asking, http.MethodGet, url, nil)
	if err != nil {
		return
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		d.say(warn, "ready", "look into the broker's log", "%s: %s", url, networkReason(err))
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode != http.StatusOK {
		d.say(fail, "ready", "the reasons are in the answer; look into the broker's log", "%s: %s %s", url, resp.Status, oneLine(errors.New(string(body))))
		return
	}
	d.say(good, "ready", "", "%s", url)
	var state struct{ Warnings []string }
	if json.Unmarshal(body, &state) == nil {
		for _, w := range state.Warnings {
			d.say(warn, "ready", "docs/operations.md says what to do", "%s", w)
		}
	}
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		if off := d.Now().Sub(at).Abs(); off > 5*time.Second {
			d.say(warn, "clock", "set both clocks by NTP: retention and timestamps depend on them", "the broker's clock differs by %s", off.Round(time.Second))
		}
	}
}

// dataDirectory looks at the disks and at what is on them.
func (d *doctor) dataDirectory(ctx context.Context, conf *config.Broker) {
	const check = "data directory"
	logDirs, places := conf.LogDirs(), conf.MetadataDirs()
	meta, err := storage.FindMetaDir(vfs.OS(), slashes(places), slashes(logDirs))
	if err != nil {
		d.say(fail, check, "the server does not start before that is decided", "%s", err)
		meta = places[0]
	}
	meta = filepath.FromSlash(meta)
	missing, err := storage.MissingDirs(vfs.OS(), filepath.ToSlash(meta), slashes(logDirs))
	if err != nil {
		d.say(fail, check, "make it readable for this user, or restore it from a backup", "%s", err)
	}
	gone := map[string]bool{}
	for _, m := range missing {
		gone[m.Path] = true
		d.say(fail, check, "until then its partitions are offline, and nothing of them is lost", "%s in %s (directory id %s), %s",
			plural(int64(m.Partitions), "partition"), m.Path, m.ID, m.Why)
	}
	holder, locked := d.holder(meta)
	for _, logDir := range logDirs {
		if abs, err := filepath.Abs(logDir); err == nil && gone[filepath.ToSlash(abs)] {
			continue
		}
		switch info, err := os.Stat(logDir); {
		case errors.Is(err, fs.ErrNotExist):
			d.say(note, check, "", "%s does not exist yet, the first start makes it", logDir)
		case err != nil:
			d.say(fail, check, "make it readable for this user, or choose another with --data-dir", "%s", err)
		case !info.IsDir():
			d.say(fail, check, "choose another with --data-dir", "%s is no directory", logDir)
		case locked:
			d.say(good, check, "", "%s is open in process %d", logDir, holder)
			d.damage(ctx, conf, logDir, true)
		default:
			d.say(good, check, "", "%s is open in no broker", logDir)
			d.damage(ctx, conf, logDir, false)
		}
	}
	d.disks(ctx, logDirs, meta)
}

func slashes(names []string) []string {
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = filepath.ToSlash(name)
	}
	return out
}

// holder is the process that has the data directory.
func (d *doctor) holder(meta string) (pid int, locked bool) {
	name := filepath.Join(meta, ".lock")
	if _, err := os.Stat(name); err != nil {
		return 0, false
	}
	lock, err := vfs.OS().Lock(filepath.ToSlash(name))
	var held *vfs.LockedError
	if errors.As(err, &held) {
		return held.PID, true
	}
	if err == nil {
		_ = lock.Close()
	}
	return 0, false
}

// damage checks the small files of a log dir, and with deep all its records.
func (d *doctor) damage(ctx context.Context, conf *config.Broker, logDir string, open bool) {
	const check = "data"
	found := &dumper{out: bufio.NewWriter(io.Discard), ctx: ctx}
	files, partitions := 0, 0
	first := ""
	err := filepath.WalkDir(logDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if open && errors.Is(err, fs.ErrNotExist) {
				return nil // the broker has just removed it
			}
			return err
		}
		if entry.IsDir() && entry.Name() == ".moldau" {
			return fs.SkipDir
		}
		dump := dumperOf(entry.Name())
		if dump == nil || !entry.Type().IsRegular() {
			return nil
		}
		if entry.Name() == "partition.metadata" {
			partitions++
		}
		small := strings.HasSuffix(entry.Name(), "checkpoint") || strings.HasSuffix(entry.Name(), ".metadata") || strings.HasSuffix(entry.Name(), ".properties")
		if !small && (!d.deep || open) {
			return nil
		}
		files++
		before := found.problems
		if err := found.one(path, dump); err != nil && !(open && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
		if found.problems > before && first == "" {
			first = path
		}
		return ctx.Err()
	})
	switch {
	case err != nil:
		d.say(fail, check, "make it readable for this user", "%s", err)
	case found.problems > 0:
		d.say(fail, check, "moldau log dump "+first+" shows them; the broker takes such a partition offline rather than serve it",
			"%s in %s, the first in %s", plural(found.problems, "problem"), plural(int64(files), "file"), first)
	default:
		advice := ""
		if d.deep && open {
			advice = "records are read only while no broker has them open"
		}
		d.say(good, check, advice, "%s, %s checked, no damage", plural(int64(partitions), "partition"), plural(int64(files), "file"))
	}
	d.identity(conf, logDir)
}

// identity compares the node of a log dir with the configured one.
func (d *doctor) identity(conf *config.Broker, logDir string) {
	text, err := os.ReadFile(filepath.Join(logDir, "meta.properties"))
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		id, ok := strings.CutPrefix(strings.TrimSpace(line), "node.id=")
		if ok && id != fmt.Sprint(conf.NodeID()) {
			d.say(fail, "data", "set node.id="+id+", or choose another directory with --data-dir", "%s belongs to node %s, this is node %d", logDir, id, conf.NodeID())
		}
	}
}

// disks measures what a producer will wait for, on each disk that is named. Nothing is left behind.
func (d *doctor) disks(ctx context.Context, logDirs []string, meta string) {
	for _, logDir := range logDirs {
		d.space(logDir)
	}
	d.syncTime(ctx, meta)
	if len(logDirs) > 1 {
		for _, logDir := range logDirs {
			d.syncTime(ctx, logDir)
		}
	}
}

// space looks at how full the volume of a log dir is.
func (d *doctor) space(logDir string) {
	onLog, err := existing(logDir)
	if err != nil {
		return
	}
	s, err := vfs.OS().Space(filepath.ToSlash(onLog))
	if err != nil || s.TotalBytes <= 0 {
		return
	}
	v, advice := good, ""
	switch percent := 100 * float64(s.FreeBytes) / float64(s.TotalBytes); {
	case percent < 1:
		v, advice = fail, "delete topics or shorten retention.ms now: a full disk takes no records"
	case percent < 10:
		v, advice = warn, "shorten retention.ms or retention.bytes, or make the disk larger"
	}
	d.say(v, diskCheck, advice, "%s: %s free of %s", onLog, bytesText(s.FreeBytes), bytesText(s.TotalBytes))
}

const diskCheck = "disk"

// syncTime measures a write with fsync.
func (d *doctor) syncTime(ctx context.Context, name string) {
	dir, err := existing(name)
	if err != nil {
		d.say(fail, diskCheck, "choose another directory with --data-dir", "%s", err)
		return
	}
	times, err := measureSync(ctx, dir)
	if err != nil {
		d.say(fail, diskCheck, "make it writable for this user, or choose another directory with --data-dir", "%s", err)
		return
	}
	if len(times) == 0 {
		return
	}
	median, worst := times[len(times)/2], times[len(times)-1]
	v, advice := good, ""
	if median > 20*time.Millisecond {
		v, advice = warn, "an acknowledged record waits for this: use a disk with power-loss protection, or a larger log.flush.interval.messages"
	}
	d.say(v, diskCheck, advice, "%s: a write of 4 KiB with fsync takes %s (median of %d), at worst %s", dir, rounded(median), len(times), rounded(worst))
}

func rounded(t time.Duration) time.Duration {
	if t > 10*time.Millisecond {
		return t.Round(time.Millisecond)
	}
	return t.Round(time.Microsecond)
}

// existing is the directory itself, or the nearest one above it that exists.
func existing(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for {
		info, err := os.Stat(dir)
		switch {
		case err == nil && info.IsDir():
			return dir, nil
		case err == nil:
			return "", fmt.Errorf("%s is no directory", dir)
		case !errors.Is(err, fs.ErrNotExist):
			return "", err
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", err
		}
		dir = parent
	}
}

const (
	syncTries  = 50
	syncBudget = 2 * time.Second
)

// measureSync times writes with fsync in a file of its own, sorted; fewer where the disk is slow.
func measureSync(ctx context.Context, dir string) (times []time.Duration, err error) {
	f, err := os.CreateTemp(dir, ".moldau-doctor-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	block := make([]byte, 4096)
	for begun := time.Now(); len(times) < syncTries && time.Since(begun) < syncBudget && ctx.Err() == nil; {
		began := time.Now()
		if _, err := f.Write(block); err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	return times, nil
}

// leastFiles is what a broker with some thousand clients needs.
const leastFiles = 10000

func (d *doctor) openFiles() {
	const check = "open files"
	n, known := vfs.DescriptorLimit()
	switch {
	case !known:
		d.say(note, check, "", "this system has no such limit that could be read")
	case n < leastFiles:
		d.say(warn, check, "ulimit -n 100000 before the start (systemd: LimitNOFILE=100000)", "the limit is %d; a connection takes 1, partitions share up to 1000; clients for whom there is none wait to be connected", n)
	default:
		d.say(good, check, "", "the limit is %d", n)
	}
}

// releaseYear is before every correct clock.
const releaseYear = 2026

func (d *doctor) clock() {
	const check = "clock"
	now := d.Now()
	synchronised, known := clockSynchronised()
	switch {
	case now.Year() < releaseYear:
		d.say(fail, check, "set the clock: timestamps and retention depend on it", "it says %s", now.Format(time.RFC3339))
	case known && !synchronised:
		d.say(warn, check, "run chrony or systemd-timesyncd: timestamps and retention depend on the clock", "%s, which no time server keeps right", now.UTC().Format(time.RFC3339))
	case known:
		d.say(good, check, "", "%s, kept right by a time server", now.UTC().Format(time.RFC3339))
	default:
		d.say(note, check, "", "%s; whether a time server keeps it right is not known", now.UTC().Format(time.RFC3339))
	}
}
