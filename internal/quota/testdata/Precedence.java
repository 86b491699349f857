import java.util.List;
import java.util.Optional;
import org.apache.kafka.common.metrics.Metrics;
import org.apache.kafka.common.metrics.Quota;
import org.apache.kafka.common.utils.Time;
import org.apache.kafka.server.config.ClientQuotaManagerConfig;
import org.apache.kafka.server.quota.ClientQuotaEntity.ConfigEntity;
import org.apache.kafka.server.quota.ClientQuotaManager;
import org.apache.kafka.server.quota.QuotaType;

/**
 * Which of all sets of rules about user u and client id c Kafka's own manager applies; precedence.txt is its output. A line is the set, a bit for each
 * rule, and the number of the rule that counts for u with c, u with d, v with c and v with d; - for none. java -cp "LIBS/*" Precedence.java
 */
public class Precedence {
    public static void main(String[] args) {
        ConfigEntity u = new ClientQuotaManager.UserEntity("u"), c = new ClientQuotaManager.ClientIdEntity("c");
        ConfigEntity users = ClientQuotaManager.DEFAULT_USER_ENTITY, clients = ClientQuotaManager.DEFAULT_USER_CLIENT_ID;
        ConfigEntity[][] rules = {{u, c}, {u, clients}, {u, null}, {users, c}, {users, clients}, {users, null}, {null, c}, {null, clients}};
        for (int set = 0; set < 1 << rules.length; set++) {
            ClientQuotaManager manager = new ClientQuotaManager(new ClientQuotaManagerConfig(), new Metrics(), QuotaType.PRODUCE, Time.SYSTEM, "");
            for (int i = 0; i < rules.length; i++) {
                if ((set >> i & 1) == 1) {
                    manager.updateQuota(Optional.ofNullable(rules[i][0]), Optional.ofNullable(rules[i][1]), Optional.of(Quota.upperBound(i + 1)));
                }
            }
            StringBuilder line = new StringBuilder(String.valueOf(set));
            for (String user : List.of("u", "v")) {
                for (String client : List.of("c", "d")) {
                    double limit = manager.quota(user, client).bound();
                    line.append(limit <= rules.length ? " " + (int) limit : " -");
                }
            }
            System.out.println(line);
            manager.shutdown();
        }
    }
}
