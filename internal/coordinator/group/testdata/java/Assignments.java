// Writes kafka-4.3.1-*.txt of the same name with Kafka's own classes. Kafka's jars: kafka fetch (test/clients/kafka).
//   javac -cp 'LIBS/*' Assignments.java && java -cp 'LIBS/*:.' Assignments
import org.apache.kafka.common.Uuid;
import org.apache.kafka.coordinator.group.api.assignor.*;
import org.apache.kafka.coordinator.group.assignor.*;
import org.apache.kafka.coordinator.group.modern.*;
import java.util.*;
import java.util.stream.*;
public class Assignments {
    static String text(Map<Uuid, Set<Integer>> m) {
        TreeMap<Long, TreeSet<Integer>> t = new TreeMap<>();
        m.forEach((k, v) -> { if (!v.isEmpty()) t.put(k.getLeastSignificantBits(), new TreeSet<>(v)); });
        if (t.isEmpty()) return "-";
        return t.entrySet().stream().map(e -> e.getKey() + ":" + e.getValue().stream().map(String::valueOf).collect(Collectors.joining(","))).collect(Collectors.joining(";"));
    }
    public static void main(String[] a) {
        Random r = new Random(848);
        for (int n = 0; n < 400; n++) {
            int nt = 1 + r.nextInt(5);
            int[] parts = new int[nt];
            for (int i = 0; i < nt; i++) parts[i] = 1 + r.nextInt(r.nextInt(4) == 0 ? 30 : 6);
            boolean same = n % 2 == 0;
            int nm = 1 + r.nextInt(7);
            TreeSet<String> ids = new TreeSet<>();
            while (ids.size() < nm) ids.add("m" + (char) ('a' + r.nextInt(26)) + r.nextInt(10));
            Set<Uuid> all = new LinkedHashSet<>();
            for (int i = 0; i < nt; i++) if (!same || r.nextInt(5) > 0) all.add(new Uuid(0, i));
            LinkedHashMap<String, MemberSubscriptionAndAssignmentImpl> members = new LinkedHashMap<>();
            Map<Uuid, Map<Integer, String>> inverted = new HashMap<>();
            Map<String, Map<Uuid, Set<Integer>>> has = new HashMap<>();
            for (String id : ids) has.put(id, new HashMap<>());
            List<String> list = new ArrayList<>(ids);
            int mode = r.nextInt(3); // nothing, random, a previous balanced assignment with fewer members
            for (int t = 0; t < nt; t++) for (int p = 0; p < parts[t]; p++) {
                if (mode == 0 || r.nextInt(6) == 0) continue;
                String to = mode == 1 ? list.get(r.nextInt(nm)) : list.get((t + p) % Math.max(1, nm - 1));
                has.get(to).computeIfAbsent(new Uuid(0, t), k -> new TreeSet<>()).add(p);
                inverted.computeIfAbsent(new Uuid(0, t), k -> new HashMap<>()).put(p, to);
            }
            Map<String, String> instances = new HashMap<>();
            Map<String, Set<Uuid>> subs = new HashMap<>();
            for (String id : ids) {
                if (r.nextInt(4) == 0) instances.put(id, "i" + r.nextInt(1000) + id);
                Set<Uuid> s = all;
                if (!same) { s = new LinkedHashSet<>(); for (Uuid u : all) if (r.nextInt(3) > 0) s.add(u); }
                subs.put(id, s);
                members.put(id, new MemberSubscriptionAndAssignmentImpl(Optional.empty(), Optional.ofNullable(instances.get(id)), s, new Assignment(Collections.unmodifiableMap(has.get(id)))));
            }
            SubscribedTopicDescriber d = (SubscribedTopicDescriber) java.lang.reflect.Proxy.newProxyInstance(Assignments.class.getClassLoader(), new Class[]{SubscribedTopicDescriber.class}, (p, m, x) -> {
                if (m.getName().equals("numPartitions")) return parts[(int) ((Uuid) x[0]).getLeastSignificantBits()];
                if (m.getName().equals("racksForPartition")) return Set.of();
                throw new RuntimeException(m.getName());
            });
            GroupSpec spec = new GroupSpecImpl(members, same ? SubscriptionType.HOMOGENEOUS : SubscriptionType.HETEROGENEOUS, inverted, Optional.empty());
            ConsumerGroupPartitionAssignor as = r.nextInt(3) == 0 ? new RangeAssignor() : new UniformAssignor();
            GroupAssignment got = as.assign(spec, d);
            System.out.println("case " + as.name() + " " + same + " " + Arrays.stream(parts).mapToObj(String::valueOf).collect(Collectors.joining(",")));
            for (String id : ids) {
                MemberAssignment m = got.members().get(id);
                String s = subs.get(id).stream().map(u -> "" + u.getLeastSignificantBits()).collect(Collectors.joining(","));
                System.out.println(id + " " + instances.getOrDefault(id, "-") + " " + (s.isEmpty() ? "-" : s) + " " + text(has.get(id)) + " " + text(m == null ? Map.of() : m.partitions()));
            }
        }
    }
}
