package controller

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"moldau/internal/metadata"
	"moldau/internal/wire"
)

// MaxPartitionsPerRequest is Kafka's limit for one CreateTopics request.
const MaxPartitionsPerRequest = 10_000

// maxNameLength leaves room for "-<partition>" in a file name.
const maxNameLength = 249

// clusterMetadataTopic is the one name that Kafka keeps for itself.
const clusterMetadataTopic = "__cluster_metadata"

// Assignment puts the replicas of one partition on brokers, the preferred leader first.
type Assignment struct {
	Partition int32
	Brokers   []int32
}

// NewTopic asks for a topic.
type NewTopic struct {
	Name string
	ID   wire.UUID // fresh; not zero, see cluster.NewUUID
	// Partitions and ReplicationFactor are as in the request, -1 for the default.
	Partitions        int32
	ReplicationFactor int16
	// DefaultPartitions and DefaultReplicationFactor replace -1.
	DefaultPartitions        int32
	DefaultReplicationFactor int16
	Assignments              []Assignment // manual placement; Partitions and ReplicationFactor must be -1
	Configs                  map[string]string
	// LeaderEpochs are the first leader epochs of partitions whose logs were there before the
	// topic; nil for 0. A log takes no batch with an older epoch than its last.
	LeaderEpochs []int32
	// Refused, when not None, is the result that the caller has already found,
	// such as one of authorization; the topic takes its place in the results.
	Refused        wire.Code
	RefusedMessage string
}

// TopicResult answers for one topic of a request, in the request's order.
type TopicResult struct {
	Name              string
	ID                wire.UUID // zero if there is no such topic
	Code              wire.Code
	Message           string
	Partitions        int32
	ReplicationFactor int16
}

// CreateTopics plans new topics. Each is created with all its partitions, or not at all.
func CreateTopics(im *metadata.Image, pol Policy, topics []NewTopic, validateOnly bool) (Plan, []TopicResult) {
	results := make([]TopicResult, len(topics))
	total := 0
	count := map[string]int{}
	for i, t := range topics {
		results[i] = TopicResult{Name: t.Name}
		count[t.Name]++
		total += requestedPartitions(t)
	}
	if total > MaxPartitionsPerRequest {
		for i := range results {
			results[i].Code, results[i].Message = wire.PolicyViolation, "Excessively large number of partitions per request."
		}
		return Plan{}, results
	}
	var plan Plan
	pl := newPlacer(im)
	collisions := collidingNames(im)
	for i, t := range topics {
		r := &results[i]
		switch {
		case t.Refused != wire.None:
			r.Code, r.Message = t.Refused, t.RefusedMessage
		case count[t.Name] > 1:
			r.Code, r.Message = wire.InvalidRequest, "Duplicate topic name."
		default:
			if r.Code, r.Message = checkNewName(im, t.Name, collisions); r.Code == wire.None {
				plan.create(im, pol, pl, t, i, r, validateOnly)
			}
		}
		if r.Code == wire.None {
			addCollision(collisions, t.Name)
		}
	}
	if validateOnly {
		return Plan{}, results
	}
	return plan, results
}

func requestedPartitions(t NewTopic) int {
	switch {
	case len(t.Assignments) > 0:
		return len(t.Assignments)
	case t.Partitions == -1:
		return int(max(0, t.DefaultPartitions))
	default:
		return int(max(0, t.Partitions))
	}
}

func checkNewName(im *metadata.Image, name string, collisions map[string][]string) (wire.Code, string) {
	if name == clusterMetadataTopic {
		return wire.InvalidRequest, "Creation of internal topic " + clusterMetadataTopic + " is prohibited."
	}
	if im.Topic(name) != nil {
		return wire.TopicAlreadyExists, "Topic '" + name + "' already exists."
	}
	if why := InvalidName(name); why != "" {
		return wire.InvalidTopicException, why
	}
	if others := collisions[unify(name)]; len(others) > 0 && strings.ContainsAny(name, "._") {
		return wire.InvalidTopicException, "Topic '" + name + "' collides with existing topic: " + strings.Join(others, ", ")
	}
	return wire.None, ""
}

// InvalidName says why a topic cannot have this name, in Kafka's words, or "".
func InvalidName(name string) string {
	why := ""
	switch {
	case name == "":
		why = "the empty string is not allowed"
	case name == "." || name == "..":
		why = "'" + name + "' is not allowed"
	case len(name) > maxNameLength:
		why = fmt.Sprintf("the length of '%s' is longer than the max allowed length %d", name, maxNameLength)
	case strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	}):
		why = "'" + name + "' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
	default:
		return ""
	}
	return "Topic name is invalid: " + why
}

// unify maps names that collide to one: metric names write '.' as '_'.
func unify(name string) string { return strings.ReplaceAll(name, ".", "_") }

// collidingNames lists, by unified name, the topics whose names can collide.
func collidingNames(im *metadata.Image) map[string][]string {
	m := map[string][]string{}
	for t := range im.Topics() {
		addCollision(m, t.Name)
	}
	return m
}

func addCollision(m map[string][]string, name string) {
	if strings.ContainsAny(name, "._") {
		m[unify(name)] = append(m[unify(name)], name)
	}
}

// create plans one topic: its chunks, which nobody sees, and then the step that publishes it.
func (p *Plan) create(im *metadata.Image, pol Policy, pl *placer, t NewTopic, index int, r *TopicResult, validateOnly bool) {
	replicas, code, message := pl.newTopic(t)
	if code == wire.None {
		code, message = pol.Validate(metadata.TopicConfig, t.Name, t.Configs)
	}
	if code != wire.None {
		r.Code, r.Message = code, message
		return
	}
	r.Partitions, r.ReplicationFactor = int32(len(replicas)), int16(len(replicas[0]))
	if validateOnly {
		return
	}
	if t.ID.IsZero() || im.TopicByID(t.ID) != nil {
		panic("BUG: the id of a new topic is not fresh")
	}
	r.ID = t.ID
	partitions := pl.partitions(replicas, pol.effective(im, t.Configs))
	for i, epoch := range t.LeaderEpochs {
		partitions[i].LeaderEpoch = epoch
	}
	p.putChunks(t.ID, partitions, 0)
	writes := []Write{put(metadata.TopicKey(t.ID), metadata.EncodeTopic(t.Name, len(replicas)))}
	if len(t.Configs) > 0 {
		writes = append(writes, put(metadata.ConfigKey(metadata.TopicConfig, t.Name), metadata.EncodeConfig(t.Configs)))
	}
	p.add(index, writes...)
}

// putChunks writes all chunks from the one that holds partition first.
func (p *Plan) putChunks(id wire.UUID, ps []metadata.Partition, first int) {
	for chunk := first / metadata.ChunkPartitions; chunk*metadata.ChunkPartitions < len(ps); chunk++ {
		from := chunk * metadata.ChunkPartitions
		part := ps[from:min(from+metadata.ChunkPartitions, len(ps))]
		p.add(NoResult, put(metadata.StaticKey(id, chunk), metadata.EncodeStatic(part)), put(metadata.DynamicKey(id, chunk), metadata.EncodeDynamic(part)))
	}
}

// TopicRef names a topic to delete: by id if Name is nil, else by name.
type TopicRef struct {
	Name *string
	ID   wire.UUID
}

// DeleteTopics plans the end of topics, with their configuration.
func DeleteTopics(im *metadata.Image, refs []TopicRef) (Plan, []TopicResult) {
	var plan Plan
	results := make([]TopicResult, len(refs))
	topics := make([]*metadata.Topic, len(refs))
	count := map[wire.UUID]int{}
	for i, ref := range refs {
		r := &results[i]
		r.ID = ref.ID
		switch {
		case ref.Name != nil && !ref.ID.IsZero():
			r.Name, r.Code, r.Message = *ref.Name, wire.InvalidRequest, "You may not specify both topic name and topic id."
			continue
		case ref.Name != nil:
			r.Name = *ref.Name
			if topics[i] = im.Topic(*ref.Name); topics[i] == nil {
				r.Code, r.Message = wire.UnknownTopicOrPartition, "This server does not host this topic-partition."
			}
		case ref.ID.IsZero():
			r.Code, r.Message = wire.InvalidRequest, "Neither topic name nor id were specified."
		default:
			if topics[i] = im.TopicByID(ref.ID); topics[i] == nil {
				r.Code, r.Message = wire.UnknownTopicID, "This server does not host this topic ID."
			}
		}
		if t := topics[i]; t != nil {
			r.Name, r.ID = t.Name, t.ID
			count[t.ID]++
		}
	}
	for i, t := range topics {
		if t == nil {
			continue
		}
		if count[t.ID] > 1 {
			results[i].Code, results[i].Message = wire.InvalidRequest, "Duplicate topic name."
			if refs[i].Name == nil {
				results[i].Message = "Duplicate topic id."
			}
			continue
		}
		writes := []Write{{Key: metadata.TopicKey(t.ID), Action: Delete}, {Key: metadata.ConfigKey(metadata.TopicConfig, t.Name), Action: Delete}}
		plan.add(i, append(writes, deleteChunks(t.ID)...)...)
	}
	return plan, results
}

// NewPartitions asks for more partitions of a topic.
type NewPartitions struct {
	Name        string
	Count       int32     // the new total
	Assignments [][]int32 // brokers of each added partition; nil for automatic placement
}

// CreatePartitions plans additional partitions.
func CreatePartitions(im *metadata.Image, pol Policy, requests []NewPartitions, validateOnly bool) (Plan, []TopicResult) {
	var plan Plan
	results := make([]TopicResult, len(requests))
	count := map[string]int{}
	for _, q := range requests {
		count[q.Name]++
	}
	pl := newPlacer(im)
	for i, q := range requests {
		r := &results[i]
		r.Name = q.Name
		if count[q.Name] > 1 {
			r.Code, r.Message = wire.InvalidRequest, "Duplicate topic name."
			continue
		}
		t := im.Topic(q.Name)
		if t == nil {
			r.Code = wire.UnknownTopicOrPartition // without a message, as Kafka
			continue
		}
		added, code, message := pl.morePartitions(t, q)
		if code != wire.None {
			r.Code, r.Message = code, message
			continue
		}
		r.ID, r.Partitions, r.ReplicationFactor = t.ID, q.Count, int16(len(t.Partitions[0].Replicas))
		e := pol.effective(im, im.Config(metadata.TopicConfig, t.Name))
		all := append(slices.Clone(t.Partitions), pl.partitions(added, e)...)
		// The chunks show nothing new until the record's count covers it.
		plan.putChunks(t.ID, all, len(t.Partitions))
		plan.add(i, put(metadata.TopicKey(t.ID), metadata.EncodeTopic(t.Name, len(all))))
	}
	if validateOnly {
		return Plan{}, results
	}
	return plan, results
}

func (pl *placer) morePartitions(t *metadata.Topic, q NewPartitions) ([][]int32, wire.Code, string) {
	have := len(t.Partitions)
	switch {
	case int(q.Count) == have:
		return nil, wire.InvalidPartitions, fmt.Sprintf("Topic already has %d partition(s).", have)
	case int(q.Count) < have:
		return nil, wire.InvalidPartitions, fmt.Sprintf("The topic %s currently has %d partition(s); %d would not be an increase.", t.Name, have, q.Count)
	}
	more := int(q.Count) - have
	if q.Assignments != nil && len(q.Assignments) != more {
		return nil, wire.InvalidReplicaAssignment, fmt.Sprintf("Attempted to add %d additional partition(s), but only %d assignment(s) were specified.", more, len(q.Assignments))
	}
	if more > MaxPartitionsPerRequest || int(q.Count) > metadata.MaxPartitions {
		return nil, wire.InvalidPartitions, fmt.Sprintf("The topic %s cannot have %d partition(s): at most %d can be added at a time, and %d in all.", t.Name, q.Count, MaxPartitionsPerRequest, metadata.MaxPartitions)
	}
	rf := len(t.Partitions[0].Replicas)
	if q.Assignments == nil {
		if message := pl.cannotPlace(rf); message != "" {
			return nil, wire.InvalidReplicationFactor, message
		}
		return pl.place(t.ID, have, more, rf), wire.None, ""
	}
	for i, brokers := range q.Assignments {
		if message := pl.checkManual(brokers, rf); message != "" {
			return nil, wire.InvalidReplicaAssignment, message
		}
		if !pl.anyActive(brokers) {
			return nil, wire.InvalidReplicaAssignment, offline(have + i)
		}
	}
	return q.Assignments, wire.None, ""
}

func offline(partition int) string {
	return fmt.Sprintf("All brokers specified in the manual partition assignment for partition %d are fenced or in controlled shutdown.", partition)
}

// newTopic finds the replicas of every partition of a new topic.
func (pl *placer) newTopic(t NewTopic) ([][]int32, wire.Code, string) {
	if len(t.Assignments) > 0 {
		return pl.manualTopic(t)
	}
	partitions, rf := t.Partitions, t.ReplicationFactor
	if partitions == -1 {
		partitions = t.DefaultPartitions
	}
	if rf == -1 {
		rf = t.DefaultReplicationFactor
	}
	if rf <= 0 {
		return nil, wire.InvalidReplicationFactor, "Replication factor must be larger than 0, or -1 to use the default value."
	}
	if partitions <= 0 {
		return nil, wire.InvalidPartitions, "Number of partitions was set to an invalid non-positive value."
	}
	if message := pl.cannotPlace(int(rf)); message != "" {
		return nil, wire.InvalidReplicationFactor, fmt.Sprintf("Unable to replicate the partition %d time(s): %s", rf, message)
	}
	return pl.place(t.ID, 0, int(partitions), int(rf)), wire.None, ""
}

func (pl *placer) manualTopic(t NewTopic) ([][]int32, wire.Code, string) {
	if t.ReplicationFactor != -1 {
		return nil, wire.InvalidRequest, "A manual partition assignment was specified, but replication factor was not set to -1."
	}
	if t.Partitions != -1 {
		return nil, wire.InvalidRequest, "A manual partition assignment was specified, but numPartitions was not set to -1."
	}
	replicas := make([][]int32, len(t.Assignments))
	rf, gap := -1, false
	for _, a := range t.Assignments {
		inside := a.Partition >= 0 && int(a.Partition) < len(replicas)
		if inside && replicas[a.Partition] != nil {
			return nil, wire.InvalidReplicaAssignment, fmt.Sprintf("Found multiple manual partition assignments for partition %d", a.Partition)
		}
		if message := pl.checkManual(a.Brokers, rf); message != "" {
			return nil, wire.InvalidReplicaAssignment, message
		}
		if len(a.Brokers) > math.MaxInt16 || !pl.anyActive(a.Brokers) {
			return nil, wire.InvalidReplicaAssignment, offline(int(a.Partition))
		}
		rf = len(a.Brokers)
		if inside {
			replicas[a.Partition] = slices.Clone(a.Brokers)
		}
		gap = gap || !inside
	}
	if gap {
		return nil, wire.InvalidReplicaAssignment, "partitions should be a consecutive 0-based integer sequence"
	}
	return replicas, wire.None, ""
}
