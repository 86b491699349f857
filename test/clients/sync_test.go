//go:build clients && linux

package clients

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/test/logtext"
)

// TestSyncBeforeAck: with the default settings, the kernel has reported a record as synced to the disk before the broker begins to send its
// acknowledgement, for acks=1 and for acks=all. strace sees it. Apache Kafka promises this only with flush.messages=1.
func TestSyncBeforeAck(t *testing.T) {
	const topic, requests = "sync", 10
	b := startBroker(t)
	if targetKafka {
		b.createTopic(topic, 1, "flush.messages=1")
	} else {
		b.createTopic(topic, 1)
	}
	for _, acks := range []int16{1, -1} {
		t.Run(fmt.Sprintf("acks=%d", acks), func(t *testing.T) {
			trace := filepath.Join(t.TempDir(), "trace")
			c := dial(t, b.addr)
			detach := attach(t, b.pid(), trace)
			for i := range requests {
				resp, err := c.ask(produceRequest(acks, topic, 0, batchOf(nil, fmt.Appendf(nil, "acks %d record %d", acks, i))))
				must(t, err)
				if code := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode; code != 0 {
					t.Fatal(kerr.ErrorForCode(code))
				}
			}
			port := c.LocalAddr().(*net.TCPAddr).Port
			// The client may have the last answer before strace has noted the call that sent it.
			var text []byte
			var answers int
			var problems []string
			for until := time.Now().Add(rawPatience); answers < requests && time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
				var err error
				text, err = os.ReadFile(trace)
				must(t, err)
				answers, problems = checkTrace(string(text), b.logDir(), filepath.Join(b.logDir(), topic+"-0"), port)
			}
			detach()
			for _, p := range problems {
				t.Error(p)
			}
			if answers != requests {
				t.Errorf("the trace shows %d answers, want %d:\n%s", answers, requests, clip(string(text)))
			}
		})
	}
}

// attach follows all threads of a process with strace until the returned function is called.
func attach(t *testing.T, pid int, trace string) (detach func()) {
	t.Helper()
	cmd := exec.Command("strace", "-f", "-yy", "-s", "0", "-o", trace, "-p", strconv.Itoa(pid), "-e", "trace=network,desc")
	ownProcess(cmd)
	var stderr logtext.Text
	cmd.Stderr = &stderr
	must(t, cmd.Start())
	for until := time.Now().Add(rawPatience); !strings.Contains(stderr.String(), "attached"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			_ = cmd.Process.Kill()
			t.Fatalf("strace does not attach: %s", stderr.String())
		}
	}
	time.Sleep(200 * time.Millisecond) // for the threads after the first
	return func() {
		must(t, cmd.Process.Signal(syscall.SIGINT))
		_ = cmd.Wait()
	}
}

var (
	// One system call, as strace prints it when nothing came between its start and its end.
	traceWhole  = regexp.MustCompile(`^(\d+) +(\w+)\((.*)\) += (-?\d+)`)
	traceBegin  = regexp.MustCompile(`^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$`)
	traceResume = regexp.MustCompile(`^(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+)`)
	traceFD     = regexp.MustCompile(`^\d+<(/[^>]*)>`)
)

// checkTrace demands of each request on the connection from port: received, then written to a file of the log, then that file synced
// successfully, then answered. It returns the number of answers and what is wrong with them.
func checkTrace(trace, logDir, partitionDir string, port int) (answers int, problems []string) {
	socket := regexp.MustCompile(fmt.Sprintf(`->(127\.0\.0\.1|\[::ffff:127\.0\.0\.1\]):%d\]`, port))
	unfinished := map[string]string{} // by thread
	written, synced := map[string]bool{}, map[string]bool{}
	received := false
	durable := func() bool {
		for file := range synced {
			// The segment, or a journal in the root of the log directory, where Kafka's checkpoints are too.
			segment := strings.HasPrefix(file, partitionDir+"/") && strings.HasSuffix(file, ".log")
			journal := filepath.Dir(file) == logDir && !strings.Contains(filepath.Base(file), "checkpoint")
			if written[file] && (segment || journal) {
				return true
			}
		}
		return false
	}
	begins := func(call, args string) {
		switch call {
		case "write", "writev", "sendto", "sendmsg":
			if received && socket.MatchString(args) {
				answers++
				if !durable() {
					problems = append(problems, fmt.Sprintf("answer %d leaves before its record is synced; written: %v, synced: %v", answers, written, synced))
				}
				received = false
			}
		}
	}
	ends := func(call, args string, result int64) {
		if result < 0 {
			return
		}
		file := ""
		if m := traceFD.FindStringSubmatch(args); m != nil {
			file = m[1]
		}
		switch call {
		case "read", "readv", "recvfrom", "recvmsg":
			if result > 0 && socket.MatchString(args) {
				received = true
				clear(written)
				clear(synced)
			}
		case "write", "writev", "pwrite64", "pwritev", "pwritev2":
			if received && file != "" {
				written[file] = true
				if strings.Contains(args, "RWF_DSYNC") || strings.Contains(args, "RWF_SYNC") {
					synced[file] = true
				} else {
					delete(synced, file)
				}
			}
		case "fsync", "fdatasync":
			if written[file] {
				synced[file] = true
			}
		}
	}
	for line := range strings.Lines(trace) {
		line = strings.TrimSuffix(line, "\n")
		if m := traceWhole.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseInt(m[4], 10, 64)
			begins(m[2], m[3])
			ends(m[2], m[3], n)
		} else if m := traceBegin.FindStringSubmatch(line); m != nil {
			unfinished[m[1]] = m[3]
			begins(m[2], m[3])
		} else if m := traceResume.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseInt(m[4], 10, 64)
			ends(m[2], unfinished[m[1]]+m[3], n)
		}
	}
	return answers, problems
}

// TestCheckTrace: the reader of traces sees an answer that comes too early.
func TestCheckTrace(t *testing.T) {
	const (
		recv  = "7 read(9<TCP:[127.0.0.1:9092->127.0.0.1:5000]>, \"\"..., 4096) = 120\n"
		write = "8 pwrite64(11</d/log/sync-0/00000000000000000000.log>, \"\"..., 80, 0) = 80\n"
		sync  = "8 fdatasync(11</d/log/sync-0/00000000000000000000.log>) = 0\n"
		begin = "8 fdatasync(11</d/log/sync-0/00000000000000000000.log> <unfinished ...>\n"
		end   = "8 <... fdatasync resumed>) = 0\n"
		fails = "8 fdatasync(11</d/log/sync-0/00000000000000000000.log>) = -1 EIO (Input/output error)\n"
		other = "8 fdatasync(12</d/log/sync-0/00000000000000000000.index>) = 0\n"
		dsync = "8 pwritev2(11</d/log/sync-0/00000000000000000000.log>, [{iov_base=\"\"..., iov_len=80}], 1, 0, RWF_DSYNC) = 80\n"
		jwrit = "8 pwrite64(13</d/log/journal>, \"\"..., 80, 0) = 80\n8 fdatasync(13</d/log/journal>) = 0\n"
		send  = "7 write(9<TCP:[127.0.0.1:9092->127.0.0.1:5000]>, \"\"..., 60) = 60\n"
		java  = "7 write(9<TCPv6:[[::ffff:127.0.0.1]:9092->[::ffff:127.0.0.1]:5000]>, \"\"..., 60 <unfinished ...>\n"
	)
	for _, c := range []struct {
		name, trace string
		good        bool
	}{
		{"synced", recv + write + sync + send, true},
		{"synced, seen in two lines", recv + write + begin + end + java, true},
		{"synced by the write", recv + dsync + send, true},
		{"a journal", recv + jwrit + write + send, true},
		{"not synced", recv + write + send, false},
		{"synced too late", recv + write + send + sync, false},
		{"sync not at its end", recv + write + begin + send + end, false},
		{"sync failed", recv + write + fails + send, false},
		{"written after the sync", recv + write + sync + write + send, false},
		{"another file synced", recv + write + other + send, false},
		{"a checkpoint synced", recv + write + strings.ReplaceAll(jwrit, "journal", "recovery-point-offset-checkpoint.tmp") + send, false},
		{"synced for the request before", recv + write + sync + send + recv + send, false},
	} {
		answers, problems := checkTrace(c.trace, "/d/log", "/d/log/sync-0", 5000)
		if answers == 0 || (len(problems) == 0) != c.good {
			t.Errorf("%s: %d answers, problems %q", c.name, answers, problems)
		}
	}
}
