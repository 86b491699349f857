// DescribeLogDirs (35), versions 1 to 5 (KIP-113, KIP-827, KIP-928, KIP-1066).
//
//   - Null topics means every partition here; of others asked for those that are here are listed.
//   - An offline log dir has KAFKA_STORAGE_ERROR and nothing else.
//   - A replica is never a future one and never behind its own log, so both are zero.

package handler

import (
	"context"
	"path/filepath"

	"github.com/twmb/franz-go/pkg/kmsg"

	"moldau/internal/partition"
	"moldau/internal/storage"
	"moldau/internal/wire"
)

func describeLogDirs(_ context.Context, rc *requestContext, req *kmsg.DescribeLogDirsRequest) kmsg.Response {
	resp := kmsg.NewPtrDescribeLogDirsResponse()
	if !rc.allowed(clusterName) {
		resp.ErrorCode = int16(wire.ClusterAuthorizationFailed) // versions before 3 have no place for it
		return resp
	}
	parts := rc.table.o.Partitions
	asked := wanted(req)
	const partitionBytes = 24 // in the answer
	for _, dir := range parts.LogDirs().All() {
		rd := kmsg.NewDescribeLogDirsResponseDir()
		rd.Dir, rd.TotalBytes, rd.UsableBytes = absolute(dir.Path()), -1, -1
		if err := dir.Err(); err != nil {
			rd.ErrorCode = int16(codeOf(err))
		} else {
			if space, err := dir.Space(); err == nil {
				rd.TotalBytes, rd.UsableBytes = space.TotalBytes, space.FreeBytes
			}
			rd.Topics = sizesOf(parts, dir, asked)
			for i := range rd.Topics {
				rc.bytes += len(rd.Topics[i].Topic) + len(rd.Topics[i].Partitions)*partitionBytes
			}
		}
		resp.Dirs = append(resp.Dirs, rd)
	}
	return resp
}

// wanted are the partitions that are asked for; nil means all.
func wanted(req *kmsg.DescribeLogDirsRequest) map[namedPartition]bool {
	if req.Topics == nil {
		return nil
	}
	out := map[namedPartition]bool{}
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			out[namedPartition{t.Topic, p}] = true
		}
	}
	return out
}

// sizesOf are the wanted partitions in a log dir, in order.
func sizesOf(parts *partition.Manager, dir *storage.Dir, wanted map[namedPartition]bool) []kmsg.DescribeLogDirsResponseDirTopic {
	var topics []kmsg.DescribeLogDirsResponseDirTopic
	for p := range parts.All() {
		tp := p.TopicPartition()
		if p.LogDir() != dir || wanted != nil && !wanted[namedPartition{tp.Topic, tp.Partition}] {
			continue
		}
		if n := len(topics); n == 0 || topics[n-1].Topic != tp.Topic {
			t := kmsg.NewDescribeLogDirsResponseDirTopic()
			t.Topic = tp.Topic
			topics = append(topics, t)
		}
		rp := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
		rp.Partition, rp.Size = tp.Partition, p.SizeBytes()
		t := &topics[len(topics)-1]
		t.Partitions = append(t.Partitions, rp)
	}
	return topics
}

// absolute is the path as Kafka shows it.
func absolute(dir string) string {
	if abs, err := filepath.Abs(dir); err == nil {
		return abs
	}
	return dir
}
