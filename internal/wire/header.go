package wire

import (
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kbin"
)

var (
	// ErrUnsupported says that an API key or version is unknown.
	ErrUnsupported = errors.New("wire: API or version is not supported")
	// ErrMalformed says that bytes are not the message they should be, or claim to hold more than they can.
	ErrMalformed = errors.New("wire: message is malformed")
)

const (
	keyProduce     = 0
	keyFetch       = 1
	keyAPIVersions = 18

	// maxElements and maxTags bound one array and the tagged fields of one structure, as Kafka 4.4 does.
	maxElements = 1_000_000
	maxTags     = 10_000
)

// RequestHeader is what every request begins with.
type RequestHeader struct {
	Key, Version  int16
	CorrelationID int32
	ClientID      string
	HasClientID   bool // false: null
}

// ParseRequestHeader reads the header of a request; frame begins after the 4-byte size and body is what
// follows the header. Tagged fields of the header are skipped. For an unknown key or version the error is
// ErrUnsupported, and h still holds what could be read, so that ApiVersions can be answered.
// It may be called concurrently and copies the client id, unless it is likelyID.
func ParseRequestHeader(frame []byte, likelyID string) (h RequestHeader, body []byte, err error) {
	if len(frame) < 8 {
		return h, nil, fmt.Errorf("%w: request header of %d bytes", ErrMalformed, len(frame))
	}
	r := kbin.Reader{Src: frame}
	h.Key, h.Version, h.CorrelationID = r.Int16(), r.Int16(), r.Int32()
	if n := r.Int16(); n >= 0 {
		h.ClientID, h.HasClientID = sameString(r.Span(int(n)), likelyID), true
	}
	v, known := versionsOf(h.Key)
	switch {
	case !known:
		return h, nil, fmt.Errorf("%w: API key %d", ErrUnsupported, h.Key)
	case h.Version < 0 || h.Version > v.max:
		return h, nil, fmt.Errorf("%w: API key %d version %d", ErrUnsupported, h.Key, h.Version)
	case !r.Ok():
		return h, nil, fmt.Errorf("%w: client id", ErrMalformed)
	}
	if h.Version >= v.flexible {
		if err := skipTags(&r); err != nil {
			return h, nil, err
		}
	}
	return h, r.Src, nil
}

// sameString is string(p), without an allocation if that is known.
func sameString(p []byte, known string) string {
	if string(p) == known {
		return known
	}
	return string(p)
}

// skipTags passes over tagged fields.
func skipTags(r *kbin.Reader) error {
	n := r.Uvarint()
	if n > maxTags {
		return fmt.Errorf("%w: %d tagged fields", ErrMalformed, n)
	}
	for ; n > 0 && r.Ok(); n-- {
		r.Uvarint()
		r.Span(int(r.Uvarint()))
	}
	if !r.Ok() {
		return fmt.Errorf("%w: tagged fields", ErrMalformed)
	}
	return nil
}

// apiVersions are the highest known version of an API and the first one that is flexible (KIP-482), whose
// requests have header version 2 instead of 1. What we advertise is the handler's table, within these.
type apiVersions struct{ max, flexible int16 }

const noFlexible = 1<<15 - 1

func versionsOf(key int16) (apiVersions, bool) {
	if key < 0 || int(key) >= len(apis) || apis[key].max < 0 {
		return apiVersions{}, false
	}
	return apis[key], true
}

// apis is indexed by API key. It never changes; a test compares it with kmsg.
var apis = [...]apiVersions{
	0:  {13, 9},         // Produce
	1:  {18, 12},        // Fetch
	2:  {11, 6},         // ListOffsets
	3:  {13, 9},         // Metadata
	4:  {7, 4},          // LeaderAndISR
	5:  {4, 2},          // StopReplica
	6:  {8, 6},          // UpdateMetadata
	7:  {3, 3},          // ControlledShutdown
	8:  {10, 8},         // OffsetCommit
	9:  {10, 6},         // OffsetFetch
	10: {6, 3},          // FindCoordinator
	11: {9, 6},          // JoinGroup
	12: {4, 4},          // Heartbeat
	13: {5, 4},          // LeaveGroup
	14: {5, 4},          // SyncGroup
	15: {6, 5},          // DescribeGroups
	16: {5, 3},          // ListGroups
	17: {1, noFlexible}, // SASLHandshake
	18: {5, 3},          // ApiVersions
	19: {7, 5},          // CreateTopics
	20: {6, 4},          // DeleteTopics
	21: {2, 2},          // DeleteRecords
	22: {5, 2},          // InitProducerID
	23: {4, 4},          // OffsetForLeaderEpoch
	24: {5, 3},          // AddPartitionsToTxn
	25: {4, 3},          // AddOffsetsToTxn
	26: {5, 3},          // EndTxn
	27: {2, 1},          // WriteTxnMarkers
	28: {6, 3},          // TxnOffsetCommit
	29: {3, 2},          // DescribeACLs
	30: {3, 2},          // CreateACLs
	31: {3, 2},          // DeleteACLs
	32: {4, 4},          // DescribeConfigs
	33: {2, 2},          // AlterConfigs
	34: {2, 2},          // AlterReplicaLogDirs
	35: {5, 2},          // DescribeLogDirs
	36: {2, 2},          // SASLAuthenticate
	37: {3, 2},          // CreatePartitions
	38: {3, 2},          // CreateDelegationToken
	39: {2, 2},          // RenewDelegationToken
	40: {2, 2},          // ExpireDelegationToken
	41: {3, 2},          // DescribeDelegationToken
	42: {3, 2},          // DeleteGroups
	43: {2, 2},          // ElectLeaders
	44: {1, 1},          // IncrementalAlterConfigs
	45: {1, 0},          // AlterPartitionAssignments
	46: {0, 0},          // ListPartitionReassignments
	47: {0, noFlexible}, // OffsetDelete
	48: {1, 1},          // DescribeClientQuotas
	49: {1, 1},          // AlterClientQuotas
	50: {0, 0},          // DescribeUserSCRAMCredentials
	51: {0, 0},          // AlterUserSCRAMCredentials
	52: {2, 0},          // Vote
	53: {1, 1},          // BeginQuorumEpoch
	54: {1, 1},          // EndQuorumEpoch
	55: {2, 0},          // DescribeQuorum
	56: {3, 0},          // AlterPartition
	57: {2, 0},          // UpdateFeatures
	58: {0, 0},          // Envelope
	59: {1, 0},          // FetchSnapshot
	60: {2, 0},          // DescribeCluster
	61: {0, 0},          // DescribeProducers
	62: {4, 0},          // BrokerRegistration
	63: {2, 0},          // BrokerHeartbeat
	64: {0, 0},          // UnregisterBroker
	65: {0, 0},          // DescribeTransactions
	66: {2, 0},          // ListTransactions
	67: {0, 0},          // AllocateProducerIDs
	68: {1, 0},          // ConsumerGroupHeartbeat
	69: {1, 0},          // ConsumerGroupDescribe
	70: {0, 0},          // ControllerRegistration
	71: {0, 0},          // GetTelemetrySubscriptions
	72: {0, 0},          // PushTelemetry
	73: {0, 0},          // AssignReplicasToDirs
	74: {1, 0},          // ListConfigResources
	75: {0, 0},          // DescribeTopicPartitions
	76: {1, 0},          // ShareGroupHeartbeat
	77: {1, 0},          // ShareGroupDescribe
	78: {2, 0},          // ShareFetch
	79: {2, 0},          // ShareAcknowledge
	80: {1, 0},          // AddRaftVoter
	81: {0, 0},          // RemoveRaftVoter
	82: {0, 0},          // UpdateRaftVoter
	83: {0, 0},          // InitializeShareGroupState
	84: {0, 0},          // ReadShareGroupState
	85: {1, 0},          // WriteShareGroupState
	86: {0, 0},          // DeleteShareGroupState
	87: {1, 0},          // ReadShareGroupStateSummary
	88: {1, 0},          // StreamsGroupHeartbeat
	89: {1, 0},          // StreamsGroupDescribe
	90: {1, 0},          // DescribeShareGroupOffsets
	91: {0, 0},          // AlterShareGroupOffsets
	92: {0, 0},          // DeleteShareGroupOffsets
	93: {0, 0},          // StreamsGroupTopologyDescriptionUpdate
	94: {0, 0},          // UnregisterController
}
