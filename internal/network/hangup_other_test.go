//go:build !linux || portable

package network

const seesHangup = false
