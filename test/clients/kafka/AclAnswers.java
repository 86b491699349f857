import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.InetAddress;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.metrics.Metrics;
import org.apache.kafka.common.metrics.internals.PluginMetricsImpl;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.security.auth.KafkaPrincipal;
import org.apache.kafka.common.security.auth.SecurityProtocol;
import org.apache.kafka.common.utils.SecurityUtils;
import org.apache.kafka.metadata.authorizer.StandardAcl;
import org.apache.kafka.metadata.authorizer.StandardAuthorizer;
import org.apache.kafka.server.authorizer.Action;
import org.apache.kafka.server.authorizer.AuthorizableRequestContext;
import org.apache.kafka.server.authorizer.AuthorizationResult;

/** Asks Kafka's own authorizer what package acltest has written on standard input: a line of 1 or 0 for each question. */
public class AclAnswers {
    record Asking(KafkaPrincipal principal, InetAddress clientAddress) implements AuthorizableRequestContext {
        public String listenerName() { return "PLAINTEXT"; }
        public SecurityProtocol securityProtocol() { return SecurityProtocol.PLAINTEXT; }
        public int requestType() { return 0; }
        public int requestVersion() { return 0; }
        public String clientId() { return "acltest"; }
        public int correlationId() { return 0; }
    }

    public static void main(String[] args) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        StandardAuthorizer authorizer = new StandardAuthorizer();
        authorizer.withPluginMetrics(new PluginMetricsImpl(new Metrics(), new LinkedHashMap<>()));
        Map<Uuid, StandardAcl> acls = new HashMap<>();
        boolean loaded = false;
        for (String line; (line = in.readLine()) != null; ) {
            String[] f = line.split("\t", -1);
            switch (f[0]) {
                case "config" -> {
                    authorizer.configure(Map.of("super.users", f[1], "allow.everyone.if.no.acl.found", f[2]));
                }
                case "rule" -> acls.put(Uuid.randomUuid(), new StandardAcl(ResourceType.valueOf(f[1]), f[3], PatternType.valueOf(f[2]), f[4], f[5],
                    AclOperation.valueOf(f[6]), AclPermissionType.valueOf(f[7])));
                case "ask" -> {
                    if (!loaded) {
                        authorizer.loadSnapshot(acls);
                        authorizer.completeInitialLoad();
                        loaded = true;
                    }
                    Asking who = new Asking(SecurityUtils.parseKafkaPrincipal(f[1]), InetAddress.getByName(f[2]));
                    AclOperation op = AclOperation.valueOf(f[3]);
                    ResourceType type = ResourceType.valueOf(f[4]);
                    AuthorizationResult r = f[5].isEmpty()
                        ? authorizer.authorizeByResourceType(who, op, type)
                        : authorizer.authorize(who, List.of(new Action(op, new ResourcePattern(type, f[5], PatternType.LITERAL), 1, false, false))).get(0);
                    out.println(r == AuthorizationResult.ALLOWED ? "1" : "0");
                }
                default -> throw new IllegalArgumentException(line);
            }
        }
        out.flush();
    }
}
