// Writes kafka-4.3.1-*.txt of the same name with Kafka's own classes. Kafka's jars: kafka fetch (test/clients/kafka).
//   javac -cp 'LIBS/*' Hashes.java && java -cp 'LIBS/*:.' Hashes
import com.dynatrace.hash4j.hashing.Hashing;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.coordinator.common.runtime.CoordinatorMetadataImage;
import org.apache.kafka.coordinator.group.Utils;
import java.lang.reflect.*;
import java.util.*;
public class Hashes {
    static CoordinatorMetadataImage image(Uuid id, String name, List<List<String>> racks) {
        Object tm = Proxy.newProxyInstance(Hashes.class.getClassLoader(), new Class[]{CoordinatorMetadataImage.TopicMetadata.class}, (p, m, a) -> switch (m.getName()) {
            case "id" -> id; case "name" -> name; case "partitionCount" -> racks.size(); case "partitionRacks" -> new ArrayList<>(racks.get((Integer) a[0]));
            default -> throw new RuntimeException(m.getName()); });
        return (CoordinatorMetadataImage) Proxy.newProxyInstance(Hashes.class.getClassLoader(), new Class[]{CoordinatorMetadataImage.class}, (p, m, a) -> switch (m.getName()) {
            case "topicMetadata" -> a[0].equals(name) ? Optional.of(tm) : Optional.empty();
            default -> throw new RuntimeException(m.getName()); });
    }
    public static void main(String[] args) {
        int[] ns = {0,1,2,3,4,5,8,9,12,16,17,20,32,33,63,64,65,96,97,127,128,129,143,144,160,200,239,240,241,255,256,257,512,1000,1023,1024,1025,1088,2047,2048,2049,5000};
        for (int n : ns) {
            byte[] b = new byte[n];
            for (int i = 0; i < n; i++) b[i] = (byte) (i * 31 + 7);
            System.out.println("bytes " + n + " " + Hashing.xxh3_64().hashBytesToLong(b));
        }
        Object[][] topics = {
            {new Uuid(1, 2), "t", List.of(List.of(), List.of(), List.of())},
            {new Uuid(0x0102030405060708L, -5), "a-longer.topic_name", List.of(List.of("b", "a"), List.of("a"), List.of("rack-1", "rack-0", "rack-2"))},
            {new Uuid(3, 4), "empty", List.of()},
        };
        Map<String, Long> hashes = new HashMap<>();
        for (Object[] t : topics) {
            @SuppressWarnings("unchecked") long h = Utils.computeTopicHash((String) t[1], image((Uuid) t[0], (String) t[1], (List<List<String>>) t[2]));
            hashes.put((String) t[1], h);
            System.out.println("topic " + t[1] + " " + h);
        }
        System.out.println("group all " + Utils.computeGroupHash(hashes));
    }
}
