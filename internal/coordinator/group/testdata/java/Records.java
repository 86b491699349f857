// Writes kafka-4.3.1-*.txt of the same name with Kafka's own classes. Kafka's jars: kafka fetch (test/clients/kafka).
//   javac -cp 'LIBS/*' Records.java && java -cp 'LIBS/*:.' Records
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.protocol.ApiMessage;
import org.apache.kafka.server.common.ApiMessageAndVersion;
import org.apache.kafka.coordinator.common.runtime.CoordinatorRecord;
import org.apache.kafka.coordinator.group.GroupCoordinatorRecordSerde;
import org.apache.kafka.coordinator.group.generated.*;
import java.util.*;

public class Records {
    static GroupCoordinatorRecordSerde serde = new GroupCoordinatorRecordSerde();
    static String hex(byte[] b) { return b == null ? "-" : HexFormat.of().formatHex(b); }
    static void out(String name, ApiMessage k, ApiMessage v) {
        CoordinatorRecord r = v == null ? CoordinatorRecord.tombstone(k) : CoordinatorRecord.record(k, new ApiMessageAndVersion(v, (short) 0));
        System.out.println(name + " " + hex(serde.serializeKey(r)) + " " + hex(serde.serializeValue(r)));
    }
    static Uuid id(int n) { return new Uuid(0x0102030405060708L, n); }
    static ConsumerGroupCurrentMemberAssignmentValue.TopicPartitions tp(int n, List<Integer> parts, List<Integer> epochs) {
        return new ConsumerGroupCurrentMemberAssignmentValue.TopicPartitions().setTopicId(id(n)).setPartitions(parts).setAssignmentEpochs(epochs);
    }
    public static void main(String[] a) {
        out("group", new ConsumerGroupMetadataKey().setGroupId("g"), new ConsumerGroupMetadataValue().setEpoch(7).setMetadataHash(-1234567890123L));
        out("group-zero-hash", new ConsumerGroupMetadataKey().setGroupId("g"), new ConsumerGroupMetadataValue().setEpoch(7));
        out("group-tombstone", new ConsumerGroupMetadataKey().setGroupId("g"), null);
        out("topics", new ConsumerGroupPartitionMetadataKey().setGroupId("g"), new ConsumerGroupPartitionMetadataValue().setTopics(List.of(
            new ConsumerGroupPartitionMetadataValue.TopicMetadata().setTopicId(id(1)).setTopicName("t").setNumPartitions(3).setPartitionMetadata(List.of()))));
        out("topics-tombstone", new ConsumerGroupPartitionMetadataKey().setGroupId("g"), null);
        out("member", new ConsumerGroupMemberMetadataKey().setGroupId("g").setMemberId("m"), new ConsumerGroupMemberMetadataValue()
            .setInstanceId("i").setRackId("r").setClientId("c").setClientHost("/127.0.0.1").setSubscribedTopicNames(List.of("t", "u"))
            .setSubscribedTopicRegex("t.*").setRebalanceTimeoutMs(300000).setServerAssignor("uniform"));
        out("member-plain", new ConsumerGroupMemberMetadataKey().setGroupId("g").setMemberId("m"), new ConsumerGroupMemberMetadataValue()
            .setInstanceId(null).setRackId(null).setClientId("").setClientHost("").setSubscribedTopicNames(List.of())
            .setSubscribedTopicRegex("").setRebalanceTimeoutMs(-1).setServerAssignor(null));
        out("member-classic", new ConsumerGroupMemberMetadataKey().setGroupId("g").setMemberId("m"), new ConsumerGroupMemberMetadataValue()
            .setInstanceId(null).setRackId(null).setClientId("c").setClientHost("/127.0.0.1").setSubscribedTopicNames(List.of("t"))
            .setSubscribedTopicRegex("").setRebalanceTimeoutMs(60000).setServerAssignor(null)
            .setClassicMemberMetadata(new ConsumerGroupMemberMetadataValue.ClassicMemberMetadata().setSessionTimeoutMs(45000).setSupportedProtocols(List.of(
                new ConsumerGroupMemberMetadataValue.ClassicProtocol().setName("range").setMetadata(new byte[]{1,2,3}),
                new ConsumerGroupMemberMetadataValue.ClassicProtocol().setName("sticky").setMetadata(new byte[]{})))));
        out("member-tombstone", new ConsumerGroupMemberMetadataKey().setGroupId("g").setMemberId("m"), null);
        out("target-epoch", new ConsumerGroupTargetAssignmentMetadataKey().setGroupId("g"), new ConsumerGroupTargetAssignmentMetadataValue().setAssignmentEpoch(9).setAssignmentTimestamp(1700000000123L));
        out("target-epoch-no-time", new ConsumerGroupTargetAssignmentMetadataKey().setGroupId("g"), new ConsumerGroupTargetAssignmentMetadataValue().setAssignmentEpoch(9));
        out("target-epoch-tombstone", new ConsumerGroupTargetAssignmentMetadataKey().setGroupId("g"), null);
        out("target", new ConsumerGroupTargetAssignmentMemberKey().setGroupId("g").setMemberId("m"), new ConsumerGroupTargetAssignmentMemberValue().setTopicPartitions(List.of(
            new ConsumerGroupTargetAssignmentMemberValue.TopicPartition().setTopicId(id(1)).setPartitions(List.of(0, 1, 300)),
            new ConsumerGroupTargetAssignmentMemberValue.TopicPartition().setTopicId(id(2)).setPartitions(List.of(5)))));
        out("target-empty", new ConsumerGroupTargetAssignmentMemberKey().setGroupId("g").setMemberId("m"), new ConsumerGroupTargetAssignmentMemberValue().setTopicPartitions(List.of()));
        out("target-tombstone", new ConsumerGroupTargetAssignmentMemberKey().setGroupId("g").setMemberId("m"), null);
        out("current", new ConsumerGroupCurrentMemberAssignmentKey().setGroupId("g").setMemberId("m"), new ConsumerGroupCurrentMemberAssignmentValue()
            .setMemberEpoch(10).setPreviousMemberEpoch(9).setState((byte) 1)
            .setAssignedPartitions(List.of(tp(1, List.of(0, 2), List.of(4, 10)), tp(2, List.of(1), List.of(3))))
            .setPartitionsPendingRevocation(List.of(tp(3, List.of(7), List.of(8)))));
        out("current-without-epochs", new ConsumerGroupCurrentMemberAssignmentKey().setGroupId("g").setMemberId("m"), new ConsumerGroupCurrentMemberAssignmentValue()
            .setMemberEpoch(10).setPreviousMemberEpoch(9).setState((byte) 2)
            .setAssignedPartitions(List.of(tp(1, List.of(0, 2), null))).setPartitionsPendingRevocation(List.of()));
        out("current-tombstone", new ConsumerGroupCurrentMemberAssignmentKey().setGroupId("g").setMemberId("m"), null);
        out("pattern", new ConsumerGroupRegularExpressionKey().setGroupId("g").setRegularExpression("t.*"), new ConsumerGroupRegularExpressionValue()
            .setTopics(List.of("t", "tt")).setVersion(42).setTimestamp(1700000000456L));
        out("pattern-tombstone", new ConsumerGroupRegularExpressionKey().setGroupId("g").setRegularExpression("t.*"), null);
    }
}
