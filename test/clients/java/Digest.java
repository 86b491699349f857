import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Reads a topic from its beginning to the end it has now with Kafka's own consumer and prints one line per partition:
 * partition, number of records, first offset, offset after the last, SHA-256. What is hashed is described in digest_test.go.
 * Usage: Digest BOOTSTRAP TOPIC
 */
public final class Digest {
    private final MessageDigest sha = MessageDigest.getInstance("SHA-256");
    private long count;
    private long first = -1;
    private long next;

    private Digest() throws Exception {
    }

    private static void bytes(ByteBuffer to, byte[] b) {
        to.putInt(b == null ? -1 : b.length);
        if (b != null) {
            to.put(b);
        }
    }

    private static int size(byte[] b) {
        return 4 + (b == null ? 0 : b.length);
    }

    private void add(ConsumerRecord<byte[], byte[]> r) {
        Header[] headers = r.headers().toArray();
        int size = 8 + 8 + size(r.key()) + size(r.value()) + 4;
        for (Header h : headers) {
            size += size(h.key().getBytes(StandardCharsets.UTF_8)) + size(h.value());
        }
        ByteBuffer b = ByteBuffer.allocate(size);
        b.putLong(r.offset());
        b.putLong(r.timestamp());
        bytes(b, r.key());
        bytes(b, r.value());
        b.putInt(headers.length);
        for (Header h : headers) {
            bytes(b, h.key().getBytes(StandardCharsets.UTF_8));
            bytes(b, h.value());
        }
        sha.update(b.array());
        if (first < 0) {
            first = r.offset();
        }
        next = r.offset() + 1;
        count++;
    }

    public static void main(String[] args) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("auto.offset.reset", "none");
        p.put("enable.auto.commit", "false");
        p.put("check.crcs", "true");
        p.put("max.poll.records", "10000");
        p.put("max.partition.fetch.bytes", "4194304");
        Map<Integer, Digest> digests = new TreeMap<>();
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> partitions = new ArrayList<>();
            consumer.partitionsFor(args[1]).forEach(i -> partitions.add(new TopicPartition(i.topic(), i.partition())));
            for (TopicPartition tp : partitions) {
                digests.put(tp.partition(), new Digest());
            }
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions);
            consumer.assign(partitions);
            consumer.seekToBeginning(partitions);
            long progress = System.nanoTime();
            while (!ends.isEmpty()) {
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(500))) {
                    digests.get(r.partition()).add(r);
                    progress = System.nanoTime();
                }
                ends.entrySet().removeIf(e -> consumer.position(e.getKey()) >= e.getValue());
                if (System.nanoTime() - progress > 60_000_000_000L) {
                    throw new IllegalStateException("no record for a minute; not at the end: " + ends);
                }
            }
        }
        digests.forEach((partition, d) -> System.out.printf("%d %d %d %d %s%n",
            partition, d.count, Math.max(d.first, 0), d.next, HexFormat.of().formatHex(d.sha.digest())));
    }
}
