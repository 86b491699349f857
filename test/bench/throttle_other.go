//go:build !linux

package main

import (
	"errors"
	"os"
)

type throttle struct{}

func newThrottle(string) (*throttle, error) {
	return nil, errors.New("a disk is throttled by a control group, which only Linux has")
}

func (*throttle) add(int) error { return nil }
func (*throttle) set(int) error { return nil }
func (*throttle) close() error  { return nil }

func dontNeed(*os.File) error { return nil }
