package vfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOSFileHandsOutItsDescriptor(t *testing.T) {
	f := open(t, OS(), filepath.Join(t.TempDir(), "f"), Create)
	defer f.Close()
	write(t, f, "hello", 0)
	var st syscall.Stat_t
	check(t, syscall.Fstat(f.FD(), &st))
	if st.Size != 5 {
		t.Errorf("descriptor %d is another file", f.FD())
	}
}

// A file system without RWF_NOWAIT says so, and does not wait for the disk instead: /proc has none.
func TestTryReadSaysThatItCannot(t *testing.T) {
	f, err := OS().Open("/proc/self/status", ReadOnly)
	if err != nil {
		t.Skip("no /proc")
	}
	defer f.Close()
	p := make([]byte, 5)
	for range 2 {
		if n, err := f.TryReadAt(p, 0); err != errors.ErrUnsupported || n != 0 {
			t.Fatalf("%d, %v", n, err)
		}
	}
}

func TestFullDiskKeepsItsErrno(t *testing.T) {
	f, err := OS().Open("/dev/full", ReadWrite)
	if err != nil {
		t.Skip("no /dev/full")
	}
	defer f.Close()
	_, err = f.WriteAt([]byte("x"), 0)
	wantErr(t, err, syscall.ENOSPC, "/dev/full")
	_, err = f.WriteVec([][]byte{{1}, {2}}, 0)
	wantErr(t, err, syscall.ENOSPC, "/dev/full")
}

// The kernel writes short by itself at 2 GiB - 4 KiB, too large for a test, and at a page
// that cannot be read, which a test can have.
func TestWriteVecReportsWhatWasWrittenBeforeAFault(t *testing.T) {
	pages, err := syscall.Mmap(-1, 0, 2*4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	check(t, err)
	defer syscall.Munmap(pages)
	check(t, syscall.Mprotect(pages[4096:], syscall.PROT_NONE))
	name := filepath.Join(t.TempDir(), "f")
	f := open(t, OS(), name, Create)
	defer f.Close()
	n, err := f.WriteVec([][]byte{bytes.Repeat([]byte{1}, 8192), pages[:6000]}, 0)
	wantErr(t, err, syscall.EFAULT, name)
	fi, statErr := os.Stat(name)
	check(t, statErr)
	if n != fi.Size() {
		t.Errorf("reported %d bytes, the file has %d", n, fi.Size())
	}
}

// The lock is the kernel's: a process that is killed leaves none behind.
func TestLockExcludesAnotherProcessUntilItIsKilled(t *testing.T) {
	testLock(t, func(name string) error {
		_, err := OS().Lock(name)
		return err
	})
}

// Apache Kafka locks with record locks, which flock alone does not see.
func TestLockExcludesARecordLock(t *testing.T) {
	testLock(t, func(name string) error {
		fd, err := unix.Open(name, unix.O_RDWR|unix.O_CREAT, 0o600)
		if err != nil {
			return err
		}
		return unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK})
	})
}

// testLock has another process, which runs the same test, take a lock by take.
func testLock(t *testing.T, take func(name string) error) {
	if name := os.Getenv("VFS_TEST_LOCK"); name != "" {
		if err := take(name); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("locked")
		_, _ = os.Stdin.Read(make([]byte, 1)) // until it is killed, or its parent is gone
		os.Exit(0)
	}
	name := filepath.Join(t.TempDir(), ".lock")
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), "VFS_TEST_LOCK="+name)
	in, err := cmd.StdinPipe()
	check(t, err)
	defer in.Close()
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "locked\n" {
		t.Fatalf("%q, %v", line, err)
	}
	_, err = OS().Lock(name)
	var held *LockedError
	if !errors.As(err, &held) || held.PID != cmd.Process.Pid {
		t.Errorf("Lock: %v; holder is %d", err, cmd.Process.Pid)
	}
	check(t, cmd.Process.Kill())
	_ = cmd.Wait() // it was killed
	l, err := OS().Lock(name)
	check(t, err)
	check(t, l.Close())
}

func TestReadsAllocateNothing(t *testing.T) {
	f := open(t, OS(), filepath.Join(t.TempDir(), "f"), Create)
	defer f.Close()
	write(t, f, "hello", 0)
	p := make([]byte, 5)
	read := func(do func([]byte, int64) (int, error)) func() {
		return func() {
			if _, err := do(p, 0); err != nil {
				t.Error(err)
			}
		}
	}
	if n := testing.AllocsPerRun(100, read(f.ReadAt)); n > 0 {
		t.Errorf("ReadAt: %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, read(f.TryReadAt)); n > 0 {
		t.Errorf("TryReadAt: %v allocations", n)
	}
}

// TestAllocateTakesTheRoom: the kernel counts what was allocated as used, not only as long.
func TestAllocateTakesTheRoom(t *testing.T) {
	f := open(t, OS(), filepath.Join(t.TempDir(), "f"), Create)
	defer f.Close()
	check(t, Allocate(f, 1<<20))
	check(t, f.Sync()) // where zeros were written instead
	var st unix.Stat_t
	check(t, unix.Fstat(f.FD(), &st))
	if st.Size != 1<<20 || st.Blocks*512 < 1<<20 {
		t.Errorf("%d bytes long, %d allocated", st.Size, st.Blocks*512)
	}
}
