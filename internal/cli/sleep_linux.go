package cli

import (
	"time"

	"golang.org/x/sys/unix"
)

// preciseSleep is good to some ten microseconds. The runtime's own sleep may end a millisecond late, which
// is more than many a broker takes for its answer.
func preciseSleep(d time.Duration) {
	left := unix.NsecToTimespec(int64(d))
	_ = unix.Nanosleep(&left, nil) // cut short by a signal it is early: the caller looks at the clock
}
