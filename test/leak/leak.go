// Package leak finds goroutines that outlive what they belong to, on machines of any speed: what has been told to end is given as
// long as it takes to be scheduled, up to a minute.
package leak

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience bounds the wait. It is no measure of speed: goleak alone waits for less than half a second, which a busy machine may take
// to run a goroutine's last instructions.
const patience = time.Minute

// Check returns what fails the test if a goroutine runs that did not run when Check was called.
func Check(t testing.TB) (verify func()) {
	before := goleak.IgnoreCurrent()
	return func() {
		t.Helper()
		if err := find(before); err != nil {
			t.Error(err)
		}
	}
}

// Main is what TestMain calls to demand that the whole package leaves no goroutine.
func Main(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left after the tests:", err)
			code = 1
		}
	}
	os.Exit(code)
}

func find(options ...goleak.Option) (err error) {
	for until := time.Now().Add(patience); time.Now().Before(until); {
		if err = goleak.Find(options...); err == nil {
			return nil
		}
	}
	return err
}
