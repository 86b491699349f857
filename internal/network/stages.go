package network

import "time"

// stage is a part of a request's time. A further one is a constant, a line of stageNames and a line of times.
type stage int

const (
	stageRequestQueue stage = iota
	stageLocal
	stageRemote
	stageResponseQueue
	stageResponseSend
	stageTotal    // the sum of those above; what is below comes after the response
	stageThrottle //
	stageDiskWait // but this one, which is ours, is a part of stageRemote
	stages
)

// stageNames are a stage's names: Kafka's in metrics, and in the log.
var stageNames = [stages]struct{ metric, log string }{
	stageRequestQueue:  {"RequestQueueTime", "requestQueue"},
	stageLocal:         {"LocalTime", "local"},
	stageRemote:        {"RemoteTime", "remote"},
	stageResponseQueue: {"ResponseQueueTime", "responseQueue"},
	stageResponseSend:  {"ResponseSendTime", "responseSend"},
	stageTotal:         {"TotalTime", "total"},
	stageThrottle:      {"ThrottleTime", "throttle"},
	stageDiskWait:      {"DiskWaitTime", "diskWait"},
}

type stageTimes [stages]time.Duration

// times are the stages of a request whose last byte the kernel took at sent.
func (e *started) times(sent time.Time) stageTimes {
	return stageTimes{
		stageRequestQueue:  e.begun.Sub(e.arrived),
		stageLocal:         e.local.Sub(e.begun),
		stageRemote:        e.ready.Sub(e.local),
		stageResponseQueue: e.sending.Sub(e.ready),
		stageResponseSend:  sent.Sub(e.sending),
		stageTotal:         sent.Sub(e.arrived),
		stageThrottle:      e.throttle,
		stageDiskWait:      e.diskWait,
	}
}

// slowest is the stage that took most of the total.
func (t *stageTimes) slowest() stage {
	most := stageRequestQueue
	for s := range stageTotal {
		if t[s] > t[most] {
			most = s
		}
	}
	return most
}
