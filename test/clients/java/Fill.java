import java.util.Properties;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Writes ROUNDS times every one of KEYS keys, in order, with Kafka's own producer, idempotent and acks=all, and prints how many records were
 * acknowledged. What the records look like is described in log_test.go.
 * Usage: Fill BOOTSTRAP TOPIC KEYS ROUNDS [PROPERTY=VALUE ...]
 */
public final class Fill {
    private Fill() {
    }

    public static void main(String[] args) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        for (int i = 4; i < args.length; i++) {
            int at = args[i].indexOf('=');
            p.put(args[i].substring(0, at), args[i].substring(at + 1));
        }
        long keys = Long.parseLong(args[2]);
        long rounds = Long.parseLong(args[3]);
        AtomicReference<Exception> failed = new AtomicReference<>();
        long sent = 0;
        try (KafkaProducer<String, String> producer = new KafkaProducer<>(p, new StringSerializer(), new StringSerializer())) {
            for (long round = 0; round < rounds && failed.get() == null; round++) {
                for (long key = 0; key < keys; key++, sent++) {
                    String value = "round " + round + " of key " + key + ", and something that makes the record longer";
                    producer.send(new ProducerRecord<>(args[1], "key-" + key, value), (at, e) -> {
                        if (e != null) {
                            failed.compareAndSet(null, e);
                        }
                    });
                }
            }
        }
        if (failed.get() != null) {
            throw failed.get();
        }
        System.out.println(sent);
    }
}
