// Package protections proves that the tests would notice if a protection against loss
// were missing: each is switched off in turn, in a copy of the source, and the suite
// that guards it must fail.
package protections

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// protection is one line (or more) of the product without which data could be lost.
type protection struct {
	name     string
	file     string // below the module's root
	from, to string // from must stand in the file exactly once
	guard    string // package whose tests must fail
	run      string // which of them
}

var protections = []protection{
	{"file sync", "internal/storage/log.go",
		"return f.Sync() // protection: file sync", "_ = f\n\treturn nil", "./internal/storage", "TestModel$"},
	{"directory sync", "internal/storage/log.go",
		"if err := l.dir.fs.SyncDir(l.path); err != nil { // protection: directory sync", "if err := error(nil); err != nil {", "./internal/storage", "TestModel$"},
	{"checkpoint rename", "internal/vfs/whole.go",
		`tmp := path.Join(dir, name+".tmp")`, `tmp := path.Join(dir, name)`, "./internal/storage", "TestModel$"},
	{"sequence of batches in one write", "internal/storage/log.go",
		"nextInSequence(x.LastSequence(), b.BaseSequence()) // protection: sequence in one write", "true", "./internal/storage", "TestModel$"},
	{"checkpoint sync", "internal/vfs/whole.go",
		"if err := f.Sync(); err != nil { // protection: what is renamed is synced", "if err := error(nil); err != nil {", "./internal/storage", "TestModel$"},
	{"tls=auto: a key is durable before its certificate", "internal/security/auto.go",
		"vfs.CreateSecret, true) // protection: keys are durable", "vfs.CreateSecret, false)", "./internal/security", "TestAutoOutlivesCrashes$"},
	{"manifest sync", "internal/storage/manifest.go",
		"err := file.Sync() // protection: manifest sync", "_ = file\n\t\terr := error(nil)", "./internal/storage", "TestModel$"},
	{"high watermark at most flushed", "internal/partition/replica/replica.go",
		"if s.a.FlushPolicy { // protection: high watermark", "if false {", "./internal/partition/...", "."},
	{"CRC in recovery", "internal/storage/recover.go",
		"err = b.CheckCRC() // protection: recovery CRC", "err = nil", "./internal/storage", "TestModel$"},
	{"recovery cuts nothing that was durable", "internal/storage/recover.go",
		"if end >= start.durable { // protection: durable bytes are not cut", "if true {", "./internal/storage", "TestRecoveryCutsNothingDurable"},
	{"sync of what recovery read", "internal/storage/recover.go",
		"if err := v.segments[i].sync(); err != nil { // protection: recovered sync", "if err := error(nil); err != nil {", "./internal/storage", "TestModel$"},
	{"journal sync", "internal/storage/journal.go",
		"if err := f.file.Sync(); err != nil { // protection: journal sync", "if err := error(nil); err != nil {", "./internal/storage", "TestJournal$"},
	{"journal replay", "internal/storage/journal.go",
		"if err := restoreBytes(file, r.files[e.file], e); err != nil { // protection: journal replay", "if err := error(nil); err != nil {", "./internal/storage", "TestJournal$"},
	{"sync of what the journal restored", "internal/storage/journal.go",
		"err = file.Sync() // protection: sync of what was restored", "", "./internal/storage", "TestJournalSurvivesPowerLoss$"},
	{"sync of all that the journal restored", "internal/storage/journal.go",
		"if err := j.dir.fs.SyncTree(j.dir.path); err != nil { // protection: sync of all that was restored", "if err := error(nil); err != nil {", "./internal/storage", "TestJournalOfManyLogs$"},
	{"the journal does not bring back what was cut", "internal/storage/journal.go",
		"if e.seq <= entry.cut() { // protection: journal cut", "if false {", "./internal/storage", "TestJournal$"},
	{"what stays of a truncated log is synced before the journal forgets it", "internal/storage/change.go",
		"for _, s := range v.segments[:i+1] { // protection: sync before the cut", "for _, s := range v.segments[:i] {", "./internal/storage", "TestJournalSurvivesPowerLoss$"},
	{"a truncation moves no point forward", "internal/storage/change.go",
		"min(i, max(v.find(l.pointSegment), 0))) // protection: a truncation moves no point forward", "i)", "./internal/storage", "TestTruncationKeepsAbortedTransactions$"},
	{"a truncation waits for the tail that the journal has under way", "internal/storage/change.go",
		"	l.tailing.Lock() // protection: no tail under way\n\tdefer l.tailing.Unlock()\n", "", "./internal/storage", "TestTruncationWaitsForTheJournal$"},
	{"logs are synced before the journal is written over", "internal/storage/journal.go",
		"err := l.flush() // protection: journal drain", "err := error(nil)", "./internal/storage", "TestJournal$"},
	{"the journal restores nothing below the point", "internal/storage/journal.go",
		"if p := point; p != nil && (e.seg < p.segment || e.seg == p.segment && e.pos+e.n <= p.pos) { // protection: journal point", "if p := point; p == nil && p != nil {", "./internal/storage", "TestJournalRestoresNothingBelowThePoint$"},
	{"the journal takes nothing that has gone bad", "internal/storage/journal.go",
		"err = b.CheckCRC() // protection: what goes into the journal", "err = nil", "./internal/storage", "TestJournalTakesNothingBad$"},
	{"the journal takes no leader epoch that has gone bad", "internal/storage/journal.go",
		"|| b.LeaderEpoch() != t.epoch { // protection: epoch of what goes into the journal", "{", "./internal/storage", "TestJournalTakesNothingBad$"},
	{"index rebuild", "internal/storage/read.go",
		"return s.rebuildIndex() // protection: index rebuild", "return x, nil", "./internal/storage", "TestIndexIsRebuilt"},
	{"places of readers end with a truncation", "internal/storage/readcopy.go",
		"return e.pos, p.view == v && e.seg == seg && e.offset == offset // protection: places", "return e.pos, e.seg == seg && e.offset == offset", "./internal/storage", "TestPlaces"},
	{"index sync", "internal/storage/point.go",
		"return f.Sync() // protection: index sync", "return nil", "./internal/storage", "TestModel$"},
	{"leader epoch cache", "internal/storage/recover.go",
		"l.mu.epochs.entries = slices.Clone(from.epochs)", "", "./internal/storage", "TestModel$"},
	{"producer snapshot", "internal/storage/recover.go",
		"l.mu.producers = decodeProducers(r)", "decodeProducers(r)", "./internal/storage", "TestModel$"},
	{"sync of all logs at the stop", "internal/storage/dir.go",
		"if err := d.fs.SyncTree(d.path); err != nil { // protection: sync of all", "if err := error(nil); err != nil {", "./internal/storage", "TestModel$"},
	{"a want of descriptors takes no log dir offline", "internal/vfs/patient.go",
		"if !IsNoDescriptor(err) { // protection: a want of descriptors is waited for", "if true {", "./internal/storage", "TestWantOfDescriptorsFencesNothing$"},
	{"a rest is durable before a log that is opened goes by it", "internal/storage/held.go",
		"if err := d.manifest.sync(); err != nil { // protection: a rest is durable before anything goes by it", "if err := error(nil); err != nil {", "./internal/storage", "TestRestIsDurableBeforeItIsUsed$"},
	{"a log in use is not closed", "internal/storage/closer.go",
		"if h.ended || h.log.Load() != l || !h.idle() || !h.users.CompareAndSwap(openLog, 0) { // protection: a log in use stays open",
		"h.users.Store(0)\n\tif h.ended || h.log.Load() != l {", "./internal/storage", "TestUseKeepsALogOpen$"},
	{"a log that has changed since it was left is not closed", "internal/storage/change.go",
		"return l.view.Load() == now.view && l.end.Load() == now.end && l.mu.epochsGen == now.epochsGen // protection: a log at rest is as it was left",
		"return true", "./internal/storage", "TestChangedLogStaysOpen$"},
	{"a point writes again what was written and not synced", "internal/storage/point.go",
		"if sync { // protection: what is not synced counts as not written", "if true {", "./internal/storage", "TestPointAfterLeaving$"},
	{"a log that was closed writes no point any more", "internal/storage/point.go",
		"if l.mu.retired || !l.mu.present || len(l.view.Load().segments) == 0 { // protection: no point of a log that was closed",
		"if !l.mu.present || len(l.view.Load().segments) == 0 {", "./internal/storage", "TestClosedLogWritesNothing$"},
	{"sync of the manifest that a start reads", "internal/storage/manifest.go",
		"return m, errors.Join(m.mu.file.Sync(), fsys.SyncDir(dir)) // protection: recovered manifest", "return m, nil", "./internal/storage", "TestManifestThatWasReadIsDurable$"},
	{"a rest ends with the next record", "internal/storage/manifest.go",
		"e.changed() // protection: a rest ends with the next record", "", "./internal/storage", "TestRestEnds"},
	{"scrub: logs that nobody opens", "internal/storage/scrub.go",
		"good = false // protection: scrub of what nobody opens", "", "./internal/storage", "TestScrubReadsWhatNobodyOpens"},
	{"sync of the log dir before what is in it counts", "internal/storage/background.go",
		"if err := d.fs.SyncTree(d.path); err != nil { // protection: sync at the start", "if err := error(nil); err != nil {", "./internal/storage", "TestModel$"},
	{"has data", "internal/storage/held.go",
		"if !recorded || exists { // protection: missing data", "if true {", "./internal/storage", "TestMissing"},
	{"has data is recorded before the first acknowledgement", "internal/storage/log.go",
		"return l.dir.manifest.add(kindPresent, l.key(), l.tp, nil, true) // protection: has data", "return nil", "./internal/storage", "TestMissing"},
	{"data in a log dir that is not there", "internal/storage/dirs.go",
		"case len(gone) == 1: // protection: absent log dir", "case false:", "./internal/storage", "TestAbsentDir|TestDirsModel"},
	{"data stays in the log dir where it was recorded", "internal/storage/dirs.go",
		"return recorded[0], nil // protection: recorded log dir", "return nil, nil", "./internal/storage", "TestAbsentDir|TestDirsModel"},
	{"an empty mount point is no new log dir", "internal/storage/opendirs.go",
		"p.missing(records, probes) // protection: empty mount point", "_ = p", "./internal/storage", "TestAbsentDir"},
	{"group answers wait for the log", "internal/coordinator/group/shard.go",
		"Early: false}) // protection: answers wait for the log", "Early: true})", "./internal/coordinator/group", "TestWorld$"},
	{"empty group is recorded", "internal/coordinator/group/join.go",
		"if !c.logged && len(c.group.offsets) == 0 { // protection: an empty group is recorded", "if true {", "./internal/coordinator/group", "TestWorld$"},
	{"generation has one assignment", "internal/coordinator/group/join.go",
		"c.generation++ // protection: a generation has one assignment", "", "./internal/coordinator/group", "TestWorld$"},
	{"generation of SyncGroup", "internal/coordinator/group/sync.go",
		"case req.Generation != c.generation: // protection: generation of SyncGroup", "case false:", "./internal/coordinator/group", "TestWorld$"},
	{"only the leader assigns", "internal/coordinator/group/sync.go",
		"} else if c.leader == m.id { // protection: only the leader assigns", "} else {", "./internal/coordinator/group", "TestWorld$"},
	{"generation of OffsetCommit", "internal/coordinator/group/offsets.go",
		"case req.Generation != c.generation: // protection: generation of OffsetCommit", "case false:", "./internal/coordinator/group", "TestWorld$"},
	{"no commit while partitions are given out", "internal/coordinator/group/offsets.go",
		"case c.state == completingRebalance: // protection: no commit while partitions are given out", "case false:", "./internal/coordinator/group", "TestWorld$"},
	{"offsets of a namesake are void", "internal/coordinator/group/offsets.go",
		"&& c.topicID != present // protection: offsets of a topic's namesake", "&& false", "./internal/coordinator/group", "TestWorld$"},
	{"offsets in use do not expire", "internal/coordinator/group/sweep.go",
		"case c.state != stable || c.protocolType != consumerType || c.subscribes(topic): // protection: offsets in use", "case false:", "./internal/coordinator/group", "TestWorld$"},
	{"retention begins when a group becomes empty", "internal/coordinator/group/sweep.go",
		"base = max(base, c.stateSinceMs) // protection: retention begins when a group becomes empty", "", "./internal/coordinator/group", "TestOffsetsExpire$"},
	{"fencing of static members", "internal/coordinator/group/classic.go",
		"case m.id != id: // protection: fencing of static members", "case false:", "./internal/coordinator/group", "TestStaticMembers$"},
	{"sessions after loading", "internal/coordinator/group/shard.go",
		"s.touch(c, m) // protection: sessions after loading", "_ = m", "./internal/coordinator/group", "TestLoadedMembers"},
	{"consumer: nothing is given away before it was given back", "internal/coordinator/group/reconcile.go",
		"case !owned.ownsAny(m.revoking): // protection: nothing is given away before it was given back", "case true:", "./internal/coordinator/group", "TestConsumerWorld$"},
	{"consumer: a partition has one holder", "internal/coordinator/group/reconcile.go",
		"case giving.has(p) || !d.c.holders.held(topic, p): // protection: a partition has one holder", "case giving.has(p) || true:", "./internal/coordinator/group", "TestConsumerWorld$"},
	{"consumer: only the present epoch gives back", "internal/coordinator/group/consumerheartbeat.go",
		"owned = ownership{} // protection: only the present epoch gives back", "", "./internal/coordinator/group", "TestOldHeartbeatGivesNothingBack$"},
	{"consumer: epochs of heartbeats", "internal/coordinator/group/consumerheartbeat.go",
		"case epoch > m.epoch: // protection: epochs of heartbeats", "case epoch > m.epoch:\n\t\treturn nil\n\tcase false:", "./internal/coordinator/group", "TestConsumerHeartbeatIsChecked$"},
	{"consumer: the place of a static member is taken until it leaves", "internal/coordinator/group/consumerheartbeat.go",
		"if m.classic == nil && m.epoch != epochLeavesSoon { // protection: a static member's place is taken until it leaves", "if false {", "./internal/coordinator/group", "TestStaticConsumers$"},
	{"consumer: epochs of OffsetCommit", "internal/coordinator/group/offsets.go",
		"if !ok || req.Generation < epoch { // protection: epochs of OffsetCommit", "if _ = epoch; false {", "./internal/coordinator/group", "TestConsumerWorld$"},
	{"consumer: offsets in use do not expire", "internal/coordinator/group/sweep.go",
		"if c.members.len() > 0 && c.subscribes(topic) { // protection: offsets in use by a consumer group", "if false {", "./internal/coordinator/group", "TestConsumerWorld$"},
	{"consumer: sessions after loading", "internal/coordinator/group/shard.go",
		"s.watchAll(g) // protection: sessions of consumers after loading", "", "./internal/coordinator/group", "TestConsumerWorld$"},
	{"consumer: epochs of an empty group are equal", "internal/coordinator/group/consumerheartbeat.go",
		"if d.c.members.len() == 0 { // protection: an empty group has nothing to assign", "if false {", "./internal/coordinator/group", "TestConsumerWorld$"},
	{"migration: generation of SyncGroup", "internal/coordinator/group/migrate.go",
		"case req.Generation != m.epoch: // protection: generation of SyncGroup at a consumer group", "case false:", "./internal/coordinator/group", "TestUpgradeAndDowngrade$"},
	{"an owner writes under its epoch only", "internal/partition/owner.go",
		"log, _, err := p.leads(max(epoch, 0)) // protection: expected epoch", "log, _, err := p.leads(-1)", "./internal/partition", "TestOwner"},
	{"an acknowledgement is of one leader epoch", "internal/partition/partition.go",
		"case t.epoch != p.mu.state.LeaderEpoch() || !p.mu.state.Leads():", "case !p.mu.state.Leads():", "./internal/partition", "TestAcknowledgement"},
	{"invariant 27: answers about consumers wait for the log", "internal/coordinator/group/shard.go",
		"Early: false}) // protection: answers wait for the log", "Early: true})", "./internal/coordinator/group", "TestConsumerWorld$"},
	{"invariant 27: a draft changes nothing but itself", "internal/coordinator/group/draft.go",
		"d.c, d.own = d.c.over(), true // protection: a draft changes nothing but itself", "d.own = true", "./internal/coordinator/group", "TestConsumerWorld$"},
	{"invariant 28: a member that does not give back in time goes", "internal/coordinator/group/watch.go",
		"} else if !w.alarms[toRevoke].armed || w.epoch != m.epoch || !w.revoking.sameParts(m.revoking) { // protection: time to give back", "} else if false {", "./internal/coordinator/group", "TestRevocationTimesOut$"},
	{"invariant 28: migration: who goes on with what it had has it", "internal/coordinator/group/migrate.go",
		"claims(all) // protection: who goes on with what it had has it", "", "./internal/coordinator/group", "TestUpgradeKeepsWhatMembersGoOnWith$"},
	{"invariant 28: migration: of two that claim a partition one has it", "internal/coordinator/group/migrate.go",
		"!taken[tp] { // protection: of two that claim a partition one has it", "true {", "./internal/coordinator/group", "TestRefusedMigration$"},
	{"invariant 28: migration: a classic group begins with what members may have", "internal/coordinator/group/migrate.go",
		"s.embedded(m.assigned.with(m.revoking), subscription)}) // protection: what it may have;", "s.embedded(c.targets.get(m.id), subscription)}) //", "./internal/coordinator/group", "TestDowngradeWhileAMemberGivesBack$"},
	{"invariant 28: migration: a rebalance unless all have what is theirs", "internal/coordinator/group/migrate.go",
		"d.downgrade(nil, !d.c.allSettled()) // protection: a classic group begins with a rebalance", "d.downgrade(nil, false) //", "./internal/coordinator/group", "TestStaticMemberComesBackWhileAnotherGivesBack$"},
	{"invariant 29: a member comes to its target's epoch", "internal/coordinator/group/reconcile.go",
		"epoch := d.c.target().epoch // protection: a member comes to its target's epoch", "epoch := d.c.epoch()", "./internal/coordinator/group", "TestConsumerWorld$"},
	{"invariant 29: a target is that of the group's epoch", "internal/coordinator/group/reconcile.go",
		"d.putTargetEpoch(targetEpoch{epoch: d.c.epoch(), madeMs: d.s.now.WallMs}) // protection: a target is that of the group's epoch", "d.putTargetEpoch(targetEpoch{epoch: d.c.epoch() + 1, madeMs: d.s.now.WallMs})", "./internal/coordinator/group", "TestConsumerWorld$"},
	{"invariant 29: who leaves begins an epoch", "internal/coordinator/group/consumerheartbeat.go",
		"d.putGroup(groupEpoch{epoch: d.c.epoch() + 1, hash: d.s.meta.hash(d.c.topics())}) // protection: who leaves begins an epoch", "d.putGroup(groupEpoch{epoch: d.c.epoch(), hash: d.s.meta.hash(d.c.topics())})", "./internal/coordinator/group", "TestPartitionsMoveOneByOne$"},
	{"invariant 30: offsets outlive members", "internal/coordinator/group/shard.go",
		"if len(g.offsets) == 0 && g.consumer == nil { // protection: offsets outlive members", "if g.consumer == nil {", "./internal/coordinator/group", "TestMigrationWorld$"},
	{"invariant 30: no commit of what another member has", "internal/coordinator/group/offsets.go",
		"if !ok && c.holders.held(topic.TopicID, p) { // protection: no commit of what another has", "if false {", "./internal/coordinator/group", "TestLateCommitOfWhatAnotherHas$"},
	{"invariant 30: nobody commits in an epoch to come", "internal/coordinator/group/offsets.go",
		"case req.Generation > m.epoch: // protection: nobody commits in an epoch to come", "case false:", "./internal/coordinator/group", "TestOffsetsOfConsumers$"},
	{"invariant 30: who fetches offsets is in its present epoch", "internal/coordinator/group/offsets.go",
		"case m.epoch == req.MemberEpoch: // protection: who fetches offsets is in its present epoch", "case true:", "./internal/coordinator/group", "TestOffsetsOfConsumers$"},
	{"invariant 30: retention begins when a consumer group becomes empty", "internal/coordinator/group/sweep.go",
		"base = max(base, c.target().madeMs) // protection: retention begins when a consumer group becomes empty;", "//", "./internal/coordinator/group", "TestOffsetsOfConsumers$"},
	{"invariant 30: only the deleted topic's offsets go", "internal/coordinator/group/sweep.go",
		"&& (c.topicID.IsZero() || c.topicID == t.ID) // protection: only the deleted topic's offsets go", "", "./internal/coordinator/group", "TestTopicsDeleted$"},
	{"the metastore keeps what raft may ask for", "internal/metastore/embedded.go",
		"cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = 500, 1500 // protection: entries that raft may ask for are kept", "cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = 1000, 500", "./internal/metastore", "TestEmbeddedKeepsWhatRaftMayAskFor$"},
	{"a coordinator's reply waits for the high watermark", "internal/coordinator/runner.go",
		"if w.commit > 0 { // protection: reply waits for the high watermark", "if false {", "./internal/coordinator", "TestReplyWaits"},
	{"a coordinator serves only what is committed", "internal/coordinator/load.go",
		"if s.p.HighWatermark() >= end { // protection: loaded is committed", "if true {", "./internal/coordinator", "TestServesOnly"},
	{"a coordinator waits until it is committed", "internal/coordinator/clock.go",
		"if e.s.p.HighWatermark() >= e.end { // protection: settled", "if true {", "./internal/coordinator", "TestServesOnly"},
	{"a coordinator's batch stands where it was expected", "internal/coordinator/runner.go",
		"if at.BaseOffset != s.mu.end { // CR5", "if false {", "./internal/coordinator", "TestUnexpectedOffset"},
	{"log start is durable before it is seen", "internal/storage/start.go",
		"if err := l.dir.manifest.add(kindStart, l.key(), l.tp, varints(offset), true); err != nil { // protection: log start", "if err := error(nil); err != nil {", "./internal/storage", "TestLogStart"},
	{"log start rises before segments go", "internal/storage/retain.go",
		"full = l.raiseStart(start) // protection: start before deletion", "", "./internal/storage", "TestModel$"},
	{"reads look again", "internal/storage/read.go",
		"return errors.Is(err, ErrClosed) && l.view.Load() != v // protection: look again", "return false", "./internal/storage", "TestDeletedFiles"},
	{"what is behind the last batch is cut off at a stop", "internal/storage/change.go",
		"err = l.mendLocked(last) // protection: a stopped log ends with its last batch", "err = error(nil)", "./internal/storage", "TestZerosBehindTheLastBatch$"},
	{"torn tail is cut off before a roll", "internal/storage/padding.go",
		"if err := f.Truncate(size); err != nil { // protection: torn tail", "_ = f\n\tif err := error(nil); err != nil {", "./internal/storage", "TestZerosBehindTheLastBatch$"},
	{"what is cut off is behind the log end", "internal/storage/padding.go",
		"f.Truncate(size); err != nil { // protection: torn tail", "f.Truncate(l.safe.Load().pos); err != nil {", "./internal/storage", "TestZerosOfAQuietLog$"},
	{"nothing is cut off a log that is closed", "internal/storage/padding.go",
		"if l.writableLocked() != nil { // protection: nothing is cut off a log that is closed", "if false {", "./internal/storage", "TestCutOfALogThatIsGone$"},
	{"a stop syncs a cut", "internal/storage/change.go",
		"changed := last.excess() || last.dirty // protection: a cut is to be synced", "changed := last.excess()", "./internal/storage", "TestCutBeforeAStopIsDurable$"},
	{"a cut before a kill is synced before a segment follows", "internal/storage/recover.go",
		".dirty = true // protection: a cut before a kill is to be synced", ".dirty = false", "./internal/storage", "TestCutBeforeAKillIsDurable$"},
	{"snapshots behind the log end go", "internal/storage/recover.go",
		"if err := l.dir.fs.Remove(name); err != nil { // protection: stale snapshots", "if err := error(nil); err != nil {", "./internal/storage", "TestStaleSnapshots"},
	{"sync of a cleaned segment", "internal/storage/compact.go",
		"if err := c.file.Sync(); err != nil { // protection: cleaned sync", "if err := error(nil); err != nil {", "./internal/storage", "TestSwapSurvivesPowerLoss"},
	{"names of cleaned files", "internal/storage/swap.go",
		"if err := d.fs.SyncDir(l.path); err != nil { // protection: cleaned names", "if err := error(nil); err != nil {", "./internal/storage", "TestSwapSurvivesPowerLoss"},
	{"names of swap files", "internal/storage/swap.go",
		"if err := d.fs.SyncDir(l.path); err != nil { // protection: swap names", "if err := error(nil); err != nil {", "./internal/storage", "TestSwapSurvivesPowerLoss"},
	{"names of swap files, after a kill", "internal/storage/swap.go",
		"if err := l.dir.fs.SyncDir(l.path); err != nil { // protection: swap names after a kill", "if err := error(nil); err != nil {", "./internal/storage", "TestSwapSurvivesKill"},
	{"old names go before the new ones come", "internal/storage/swap.go",
		"if err := d.fs.SyncDir(l.path); err != nil { // protection: old names", "if err := error(nil); err != nil {", "./internal/storage", "TestSwapSurvivesPowerLoss"},
	{"last batch of a producer", "internal/storage/compact.go",
		"return b.LastOffset() == e.offset || b.LastOffset() == e.committed // protection: last batch of a producer", "return false", "./internal/storage", "TestCompactionOfTransactions"},
	{"gaps are recorded before they are made", "internal/storage/compact.go",
		"if err := l.dir.manifest.add(kindCleaned, l.key(), l.tp, c.encode(), true); err != nil { // protection: gaps", "if err := error(nil); err != nil {", "./internal/storage", "TestGapsAreNoLosses"},
	{"a point is of what is synced", "internal/storage/point.go",
		"if err := l.flush(); err != nil { // protection: a point is of what is synced", "if err := error(nil); err != nil {", "./internal/storage", "TestModel$"},
	{"a start is not ahead of the disk", "internal/storage/start.go",
		"if l.Flushed() < offset { // protection: a start is not ahead of the disk", "if false {", "./internal/storage", "TestLogStart"},
	{"lost bytes are told", "internal/storage/recover.go",
		"size < from.pos { // protection: lost bytes are told", "size < 0 {", "./internal/storage", "TestLostDurable"},
	{"another topic's directory is set aside", "internal/storage/recover.go",
		"if id == l.id { // protection: another topic's directory", "if true {", "./internal/storage", "TestForeignDirectory"},
	{"nothing after a failed sync", "internal/storage/log.go",
		"return l.dir.offline() // protection: nothing after a failed sync", "return nil", "./internal/storage", "TestFailedSync"},
	{"producers leave room", "internal/storage/log.go",
		"if err := l.dir.room.admit(int64(b.Size()), o.Reserve); err != nil { // protection: producers leave room", "if err := error(nil); err != nil {", "./internal/storage", "TestProducersLeaveRoom"},
	{"name of the partition's directory", "internal/storage/log.go",
		"if err := fsys.SyncDir(l.dir.path); err != nil { // protection: name of the partition", "if err := error(nil); err != nil {", "./internal/storage", "TestModel$"},
	{"nothing above the high watermark goes", "internal/storage/retain.go",
		"if next > top || !old && !large && next > v.logStart { // protection: nothing above the high watermark goes", "if !old && !large && next > v.logStart {", "./internal/storage", "TestRetention$"},
	{"a truncation is durable", "internal/storage/change.go",
		"f.Truncate(pos), f.Sync(), l.dir.fs.SyncDir(l.path)", "f.Truncate(pos)", "./internal/storage", "TestModel$"},
	{"old names go before the new ones come, after a kill", "internal/storage/swap.go",
		"if err := l.dir.fs.SyncDir(l.path); err != nil { // protection: old names after a kill", "if err := error(nil); err != nil {", "./internal/storage", "TestSwapSurvivesKill"},
	{"tombstones stay for a while", "internal/storage/compact.go",
		"return r.Value != nil || !b.DeleteHorizon() || p.nowMs < b.BaseTimestampMs() // protection: tombstones stay for a while", "return r.Value != nil", "./internal/storage", "TestCompaction$"},
	{"markers stay for a while", "internal/storage/compact.go",
		"drop = needless && b.DeleteHorizon() && b.BaseTimestampMs() <= p.nowMs // protection: markers stay for a while", "drop = needless", "./internal/storage", "TestCompactionOfTransactions"},
	{"aborted records make nothing superfluous", "internal/storage/compact.go",
		"} else if !txns.data(b) { // protection: aborted records make nothing superfluous", "} else if txns.data(b); true {", "./internal/storage", "TestModel$"},
	{"aborted records go", "internal/storage/compact.go",
		"drop = p.txns.data(b) // protection: aborted records go", "p.txns.data(b)", "./internal/storage", "TestCompactionOfTransactions"},
	{"only what is decided is compacted", "internal/storage/compact.go",
		"if next > limit { // protection: only what is decided is compacted", "if _ = limit; false {", "./internal/storage", "TestCompactionLimits"},
	{"compaction goes by what is durable", "internal/storage/compact.go",
		"if l.Flushed() < l.committed.Load() { // protection: compaction goes by what is durable", "if false {", "./internal/storage", "TestCompactionGoes"},
	{"CRC in compaction", "internal/storage/compact.go",
		"err = b.CheckCRC() // protection: CRC in compaction", "err = nil", "./internal/storage", "TestCompactionRefusesDamaged"},
	{"readers: batches continue each other", "internal/storage/segment.go",
		"if base < o.next || h.LastOffset() < base || o.next >= 0 && base > o.next && o.next >= o.gaps { // protection: batches continue each other", "if false {", "./internal/storage", "TestReadersMeetRot"},
	{"readers: an index entry names a batch", "internal/storage/segment.go",
		"if o.ends >= 0 && h.LastOffset() > o.ends { // protection: an index entry names a batch", "if false {", "./internal/storage", "TestReadersMeetRot"},
	{"readers: a batch ends in its segment", "internal/storage/segment.go",
		"if int64(h.Size()) > end-pos { // protection: a batch ends in its segment", "if false {", "./internal/storage", "TestReadersMeetRot"},
	{"readers: a time is that of the record", "internal/storage/read.go",
		"err = b.CheckCRC() // protection: a time is that of the record", "err = nil", "./internal/storage", "TestTimesMeetRot"},
	{"scrub: damage is made known", "internal/storage/scrub.go",
		"if err := l.setDamage(seg, confirmed); err != nil { // protection: damage is made known", "if err := l.setDamage(seg, nil); err != nil {", "./internal/storage", "TestScrub"},
	{"scrub: damage is not served", "internal/storage/read.go",
		"if stop, err = seg.undamaged(from, stop); err != nil { // protection: damage is not served", "if false {", "./internal/storage", "TestScrub"},
	{"scrub: order in compaction", "internal/storage/compact.go",
		"if err == nil && (b.BaseOffset() < next || b.LastOffset() < b.BaseOffset() || b.LastOffset() >= limit) { // protection: order in compaction", "if _, _ = next, limit; false {", "./internal/storage", "TestCompactionRefusesWrongOffsets"},
	{"cold: nobody waits for the disk", "internal/storage/cold.go",
		"n, err = r.file.TryReadAt(p, off) // protection: nobody waits", "n, err = r.file.ReadAt(p, off)", "./internal/storage", "TestColdLanes$"},
	{"cold: sendfile sends what is in memory", "internal/storage/cold.go",
		"if have == n { // protection: sendfile sends what is in memory", "if have <= n {", "./internal/storage", "TestColdRegionIsNotPlanned$"},
	{"cold: orders are bounded", "internal/storage/cold.go",
		"min(to-from, coldOrderBytes, coldLookBytes-r.ordered), 0) // protection: orders are bounded", "min(to-from, coldOrderBytes), 0)", "./internal/storage", "TestColdOrdersAreBounded$"},
	{"cold: small reads have a lane", "internal/storage/cold.go",
		"s.small = n <= coldSmallBytes // protection: small reads have a lane", "s.small = false", "./internal/storage", "TestColdLanes$"},
	{"cold: who is gone waits for nothing", "internal/storage/cold.go",
		"q.cancel(r.Client) // protection: who is gone waits for nothing", "_ = q", "./internal/storage", "TestCanceledClientsAreForgotten$"},
	{"cold: clients take turns", "internal/storage/coldqueue.go",
		"last(q.mu.order, i) // protection: clients take turns", "_ = i", "./internal/storage", "TestColdClientsTakeTurns$"},
	{"cold: a client's logs take turns", "internal/storage/coldqueue.go",
		"last(c.pending, k)  // protection: a client's logs take turns", "_ = k", "./internal/storage", "TestColdClientsTakeTurns$"},
	{"cold: unit by unit", "internal/storage/coldqueue.go",
		"min(end, s.next&^(coldUnitBytes-1)+coldUnitBytes) - s.next // protection: unit by unit", "end - s.next", "./internal/storage", "TestColdClientsTakeTurns$"},
	{"cold: bulk reads are few", "internal/storage/coldqueue.go",
		"if q.mu.bulk < q.mu.bulkLimit { // protection: bulk reads are few", "if true {", "./internal/storage", "TestColdLaneFollowsTheDisk$"},
	{"cold: a slow disk gets less", "internal/storage/coldqueue.go",
		"q.mu.bulkLimit = max(q.mu.bulkLimit-1, 1) // protection: a slow disk gets less", "", "./internal/storage", "TestColdLaneFollowsTheDisk$"},
	{"cold: reading ahead comes last", "internal/storage/coldqueue.go",
		"s.next < s.demand /* protection: reading ahead comes last */", "s.next < s.ahead", "./internal/storage", "TestColdLanes$"},
	{"cold: who waits for the disk himself does so in turn", "internal/vfs/turns.go",
		"if t != nil { // protection: turns", "if t == nil && t != nil {", "./internal/vfs", "TestTurns$"},
	{"cold: what was evicted is not sent by sendfile", "internal/network/sock_linux.go",
		"if c.stale(c.file) { // protection: what was evicted is not sent by sendfile", "if false {", "./internal/network", "TestEvictedAnswers$"},
}

// In a short run only the list is compared with the code: to build and run each mutant takes minutes.
func TestProtections(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range protections {
		t.Run(strings.ReplaceAll(p.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			src := without(t, root, p)
			if testing.Short() {
				return
			}
			out, err := runWithout(t, root, p, src)
			if err == nil {
				t.Fatalf("%s passes without the protection %q (%s)", p.guard, p.name, p.file)
			}
			if strings.Contains(out, "panic: test timed out") || !strings.Contains(out, "--- FAIL") && !strings.Contains(out, "panic:") {
				t.Fatalf("the tests did not fail, they did not run:\n%s", out)
			}
		})
	}
}

// without is the source of the file without the protection.
func without(t *testing.T, root string, p protection) string {
	t.Helper()
	src, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(p.file)))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(src), p.from); n != 1 {
		t.Fatalf("%s has %q %d times, expected once: the list of protections must follow the code", p.file, p.from, n)
	}
	return strings.Replace(string(src), p.from, p.to, 1)
}

// runWithout runs the guarding tests with src in place of the file.
func runWithout(t *testing.T, root string, p protection, src string) (string, error) {
	t.Helper()
	file := filepath.Join(root, filepath.FromSlash(p.file))
	dir := t.TempDir()
	mutant := filepath.Join(dir, filepath.Base(p.file))
	if err := os.WriteFile(mutant, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {file: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(config, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	// Most of the time goes into compiling the one package and into linking its tests: without optimization and symbols it is half.
	cmd := exec.Command("go", "test", "-vet=off", "-gcflags=-N -l", "-ldflags=-s -w", "-timeout", "5m", "-overlay", config, "-run", p.run, p.guard)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	return fmt.Sprintf("%s\n%s", cmd, out), err
}
