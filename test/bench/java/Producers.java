import java.util.Arrays;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Kafka's own producers, each in a thread of its own and with one record under way: it sends a record when the one before is acknowledged. They are
 * as a user gets them, idempotent and acks=all. Partitions take turns.
 * Prints "begin" when each has sent a record and the warm-up is over, "end", and a line of JSON: records and latencies in milliseconds.
 * Usage: Producers BOOTSTRAP TOPIC PRODUCERS PARTITIONS RECORD_BYTES WARM_UP_MS DURATION_MS
 */
public final class Producers {
    private static volatile boolean measuring;
    private static volatile boolean ended;

    private Producers() {
    }

    public static void main(String[] args) throws Exception {
        String topic = args[1];
        int producers = Integer.parseInt(args[2]);
        int partitions = Integer.parseInt(args[3]);
        byte[] value = new byte[Integer.parseInt(args[4])];
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("acks", "all");
        p.put("linger.ms", "0");
        run(p, topic, producers, partitions, value, Long.parseLong(args[5]), Long.parseLong(args[6]));
    }

    private static void run(Properties p, String topic, int producers, int partitions, byte[] value, long warmUpMs, long durationMs) throws Exception {
        AtomicReference<Exception> failed = new AtomicReference<>();
        long[][] nanos = new long[producers][];
        CountDownLatch going = new CountDownLatch(producers);
        Thread[] threads = new Thread[producers];
        for (int i = 0; i < producers; i++) {
            int first = i;
            threads[i] = new Thread(() -> {
                try {
                    nanos[first] = produce(p, topic, first, partitions, value, going);
                } catch (Exception e) {
                    failed.compareAndSet(null, e);
                    going.countDown();
                }
            });
            threads[i].start();
        }
        going.await();
        Thread.sleep(warmUpMs);
        System.out.println("begin");
        long began = System.nanoTime();
        measuring = true;
        Thread.sleep(durationMs);
        ended = true;
        double seconds = (System.nanoTime() - began) / 1e9;
        System.out.println("end");
        for (Thread t : threads) {
            t.join();
        }
        if (failed.get() != null) {
            throw failed.get();
        }
        long[] all = Arrays.stream(nanos).flatMapToLong(Arrays::stream).sorted().toArray();
        System.out.printf("{\"seconds\":%.6f,\"records\":%d,\"ack\":{\"count\":%d,\"mean\":%.4f,\"p50\":%.4f,\"p90\":%.4f,\"p99\":%.4f,\"p99.9\":%.4f,\"max\":%.4f}}%n",
            seconds, all.length, all.length, Arrays.stream(all).average().orElse(0) / 1e6, at(all, 0.5), at(all, 0.9), at(all, 0.99), at(all, 0.999), at(all, 1));
    }

    /** The latencies of what was acknowledged in the measured time. */
    private static long[] produce(Properties p, String topic, int first, int partitions, byte[] value, CountDownLatch going) throws Exception {
        long[] nanos = new long[1 << 10];
        int n = 0;
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(p, new ByteArraySerializer(), new ByteArraySerializer())) {
            for (int partition = first; !ended; partition++) {
                long began = System.nanoTime();
                producer.send(new ProducerRecord<>(topic, partition % partitions, null, value)).get();
                if (partition == first) {
                    going.countDown();
                }
                if (measuring && !ended) {
                    if (n == nanos.length) {
                        nanos = Arrays.copyOf(nanos, 2 * n);
                    }
                    nanos[n++] = System.nanoTime() - began;
                }
            }
        }
        return Arrays.copyOf(nanos, n);
    }

    private static double at(long[] sorted, double part) {
        return sorted.length == 0 ? 0 : sorted[(int) Math.min(sorted.length - 1, sorted.length * part)] / 1e6;
    }
}
