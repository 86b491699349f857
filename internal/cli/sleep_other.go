//go:build !linux

package cli

import "time"

func preciseSleep(d time.Duration) { time.Sleep(d) }
