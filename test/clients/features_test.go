//go:build clients && linux

package clients

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestGroupVersion: kafka-features switches the consumer protocol off and on, and says why it does not. While it is off, members are told
// UNSUPPORTED_VERSION, what a group has committed stays, and a classic consumer goes on in its place; so it is after a restart.
func TestGroupVersion(t *testing.T) {
	t.Parallel()
	const topic, group = "feature-topic", "feature-group"
	b := startBroker(t)
	fill(t, b, topic, 1, 10, time.Now())
	features := func(want string, ok bool, args ...string) { // the tool wants its options before the command
		t.Helper()
		r, err := try(t, toolPatience, nil, launcher(), append([]string{"features", "--bootstrap-server", b.addr}, args...)...)
		if (err == nil) != ok {
			t.Errorf("features %v: %v\n%s%s", args, err, clip(r.stdout), clip(r.stderr))
		}
		wantOutput(t, strings.Join(args, " "), r.stdout+r.stderr, want)
	}
	features(`Feature: group\.version\s+SupportedMinVersion: 0\s+SupportedMaxVersion: 1\s+FinalizedVersionLevel: 1\s+Epoch: \d+`, true, "describe")
	failed := `The update failed for all features since the following feature had an error: `
	features(`Could not upgrade no\.such\.version to 1\. `+failed+`Invalid update version 1 for feature no\.such\.version\. Local controller 1 does not support this feature\.`,
		false, "upgrade", "--feature", "no.such.version=1")
	features(`Could not upgrade group\.version to 2\. `+failed+`Invalid update version 2 for feature group\.version\. Local controller 1 only supports versions 0-1`,
		false, "upgrade", "--feature", "group.version=2")
	features(failed+`Unsupported metadata\.version downgrade from 30 to 29\. Refusing to perform the requested downgrade because it might delete metadata information\.`,
		false, "downgrade", "--feature", "metadata.version=29")
	features(`group\.version can be downgraded to 0\.`, true, "downgrade", "--feature", "group.version=0", "--dry-run")

	c := b.client()
	join := func(group, member string) *kmsg.ConsumerGroupHeartbeatRequest {
		r := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		r.Group, r.MemberID, r.RebalanceTimeoutMillis, r.SubscribedTopicNames, r.Topics = group, member, 60_000, []string{topic}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		return r
	}
	beat := func(r *kmsg.ConsumerGroupHeartbeatRequest) *kmsg.ConsumerGroupHeartbeatResponse {
		for until := time.Now().Add(toolPatience); ; time.Sleep(20 * time.Millisecond) { // until the coordinator is there
			resp, err := r.RequestWith(deadline(t, toolPatience), c)
			if err == nil && !kerr.IsRetriable(kerr.ErrorForCode(resp.ErrorCode)) {
				return resp
			}
			if time.Now().After(until) {
				t.Fatalf("a heartbeat is not answered: %v", err)
			}
		}
	}
	first := beat(join(group, "m1"))
	if first.ErrorCode != 0 {
		t.Fatalf("a member joins: %+v", first)
	}
	commitAs(t, b, "other-"+group, topic, map[int32]int64{0: 4})
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Group, commit.MemberID, commit.Generation = group, "m1", first.MemberEpoch
	commit.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: topic, TopicID: first.Assignment.Topics[0].TopicID, Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Partition: 0, Offset: 7, LeaderEpoch: -1}}}}
	committed, err := commit.RequestWith(deadline(t, toolPatience), c)
	must(t, err)
	must(t, commitError(committed))

	features(`group\.version was downgraded to 0\.`, true, "downgrade", "--feature", "group.version=0")
	off := func(when string) {
		features(`Feature: group\.version\s.*FinalizedVersionLevel: 0\s`, true, "describe")
		next := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		next.Group, next.MemberID, next.MemberEpoch = group, "m1", first.MemberEpoch
		for what, r := range map[string]*kmsg.ConsumerGroupHeartbeatRequest{"who joins": join("new-"+group, "m2"), "a member": next} {
			if code := beat(r).ErrorCode; code != 35 {
				t.Errorf("%s: %s gets %d, want UNSUPPORTED_VERSION", when, what, code)
			}
		}
		listed, err := kmsg.NewPtrListGroupsRequest().RequestWith(deadline(t, toolPatience), c)
		must(t, err)
		if i := slices.IndexFunc(listed.Groups, func(g kmsg.ListGroupsResponseGroup) bool { return g.Group == group }); i < 0 || listed.Groups[i].GroupState != "Stable" || listed.Groups[i].GroupType != "consumer" {
			t.Errorf("%s: the groups are listed as %+v", when, listed.Groups)
		}
		if at := committedOffsets(t, b, group, topic); at[0] != 7 {
			t.Errorf("%s: committed is %v", when, at)
		}
	}
	off("switched off")
	b.stop()
	b.start()
	off("after a restart")
	// A classic consumer takes part in the group as in a migration; that the other has gone is found when its session ends.
	leave := kmsg.NewPtrLeaveGroupRequest()
	leave.Group, leave.Members = group, []kmsg.LeaveGroupRequestMember{{MemberID: "m1"}}
	left, err := leave.RequestWith(deadline(t, toolPatience), c)
	must(t, err)
	if left.ErrorCode != 0 || len(left.Members) != 1 || left.Members[0].ErrorCode != 0 {
		t.Errorf("leave: %+v", left)
	}
	classic := b.client(kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	var at []int64
	for ctx := deadline(t, toolPatience); len(at) < 3 && ctx.Err() == nil; {
		classic.PollFetches(ctx).EachRecord(func(r *kgo.Record) { at = append(at, r.Offset) })
	}
	if len(at) != 3 || at[0] != 7 {
		t.Errorf("a classic consumer reads %v, committed was 7", at)
	}
	classic.Close()

	features(`group\.version was upgraded to 1\.`, true, "upgrade", "--feature", "group.version=1")
	if again := beat(join(group, "m3")); again.ErrorCode != 0 {
		t.Errorf("switched on again, a member gets %+v", again)
	}
}
