//go:build !portable

package network

const seesHangup = true
