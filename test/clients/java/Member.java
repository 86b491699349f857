import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.TreeMap;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.SubscriptionPattern;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * One member of a group with Kafka's own consumer. What a member is told and what it reports is described in members_test.go.
 * Usage: Member BOOTSTRAP GROUP TOPIC NAME ASSIGNOR SESSION_MS [INSTANCE]
 */
public final class Member implements ConsumerRebalanceListener {
    private static final String REMOTE = "consumer-"; // an assignor of the broker
    private static final String MORE = "-more";

    private final String subscription;
    private final String topic;
    private final Map<Integer, Long> next = new TreeMap<>(); // what to commit, by partition owned
    private final LinkedBlockingQueue<String> commands = new LinkedBlockingQueue<>();
    private final KafkaConsumer<byte[], byte[]> consumer;

    private Member(String[] args) {
        subscription = args[2];
        topic = subscription.replaceAll("^\\^|\\.\\*$", "");
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("group.id", args[1]);
        p.put("client.id", args[3]);
        if (args[4].startsWith(REMOTE)) { // the broker has the times
            p.put("group.protocol", "consumer");
            p.put("group.remote.assignor", args[4].substring(REMOTE.length()));
        } else {
            p.put("partition.assignment.strategy", switch (args[4]) {
                case "range" -> "org.apache.kafka.clients.consumer.RangeAssignor";
                case "cooperative-sticky" -> "org.apache.kafka.clients.consumer.CooperativeStickyAssignor";
                default -> throw new IllegalArgumentException(args[4]);
            });
            p.put("session.timeout.ms", args[5]);
            p.put("heartbeat.interval.ms", "300");
        }
        if (args.length > 6) {
            p.put("group.instance.id", args[6]);
        }
        p.put("auto.offset.reset", "earliest");
        p.put("enable.auto.commit", "false");
        p.put("fetch.max.wait.ms", "100");
        consumer = new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private static synchronized void say(String event, String rest) {
        long t = ChronoUnit.MICROS.between(Instant.EPOCH, Instant.now());
        System.out.println("{\"t\":" + t + ",\"event\":\"" + event + "\"" + rest + "}");
        System.out.flush();
    }

    private static void sayPartitions(String event, Collection<TopicPartition> of) {
        say(event, ",\"partitions\":" + of.stream().map(Member::number).sorted().toList());
    }

    private static int number(TopicPartition tp) {
        return tp.partition() + (tp.topic().endsWith(MORE) ? 100 : 0);
    }

    private TopicPartition partition(int number) {
        return number < 100 ? new TopicPartition(topic, number) : new TopicPartition(topic + MORE, number - 100);
    }

    private static void sayError(String doing, Exception e) {
        say("error", ",\"error\":\"" + doing + ": " + e.getClass().getSimpleName() + "\"");
    }

    private void sayCommitted(Map<TopicPartition, OffsetAndMetadata> offsets) {
        say("committed", ",\"offsets\":{" + offsets.entrySet().stream()
            .map(e -> "\"" + number(e.getKey()) + "\":" + e.getValue().offset()).collect(Collectors.joining(",")) + "}");
    }

    @Override
    public void onPartitionsAssigned(Collection<TopicPartition> partitions) {
        sayPartitions("assigned", partitions);
    }

    @Override
    public void onPartitionsRevoked(Collection<TopicPartition> partitions) {
        sayPartitions("revoked", partitions);
        partitions.forEach(tp -> next.remove(number(tp)));
    }

    @Override
    public void onPartitionsLost(Collection<TopicPartition> partitions) {
        sayPartitions("lost", partitions);
        partitions.forEach(tp -> next.remove(number(tp)));
    }

    /** Returns false when the member shall leave. */
    private boolean obey(String command) {
        String[] words = command.split(" ");
        switch (words[0]) {
            case "commit" -> {
                Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
                next.forEach((number, offset) -> offsets.put(partition(number), new OffsetAndMetadata(offset)));
                if (words[1].equals("async")) {
                    consumer.commitAsync(offsets, (done, e) -> {
                        if (e != null) {
                            sayError("commit", e);
                        } else {
                            sayCommitted(done);
                        }
                    });
                } else {
                    try {
                        consumer.commitSync(offsets);
                        sayCommitted(offsets);
                    } catch (RuntimeException e) {
                        sayError("commit", e);
                    }
                }
            }
            case "seek" -> consumer.seek(partition(Integer.parseInt(words[1])), Long.parseLong(words[2]));
            case "pause" -> consumer.pause(List.of(partition(Integer.parseInt(words[1]))));
            case "resume" -> consumer.resume(List.of(partition(Integer.parseInt(words[1]))));
            case "leave" -> {
                return false;
            }
            default -> throw new IllegalArgumentException(command);
        }
        say("done", ",\"command\":\"" + words[0] + "\"");
        return true;
    }

    private void run() {
        if (subscription.startsWith("^")) {
            consumer.subscribe(new SubscriptionPattern(subscription), this);
        } else {
            consumer.subscribe(List.of(topic), this);
        }
        for (;;) {
            ConsumerRecords<byte[], byte[]> records;
            try {
                records = consumer.poll(Duration.ofMillis(50));
            } catch (KafkaException e) { // it is of no use any more
                sayError("poll", e);
                consumer.close();
                say("left", "");
                return;
            }
            for (ConsumerRecord<byte[], byte[]> r : records) {
                int number = number(new TopicPartition(r.topic(), r.partition()));
                say("read", ",\"partition\":" + number + ",\"offset\":" + r.offset());
                next.put(number, r.offset() + 1);
            }
            for (String command = commands.poll(); command != null; command = commands.poll()) {
                if (!obey(command)) {
                    consumer.close();
                    say("left", "");
                    return;
                }
            }
        }
    }

    public static void main(String[] args) {
        Member m = new Member(args);
        Thread stdin = new Thread(() -> {
            try (BufferedReader in = new BufferedReader(new InputStreamReader(System.in))) {
                for (String line = in.readLine(); line != null; line = in.readLine()) {
                    m.commands.add(line);
                }
            } catch (Exception e) {
                sayError("stdin", e);
            }
            m.commands.add("leave");
        });
        stdin.setDaemon(true);
        stdin.start();
        m.run();
    }
}
