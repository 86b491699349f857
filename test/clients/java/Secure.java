import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import javax.security.auth.callback.Callback;
import javax.security.auth.login.AppConfigurationEntry;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.common.security.auth.AuthenticateCallbackHandler;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerToken;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerTokenCallback;

/**
 * Connects as the lines of its input say and prints one line for each: the case, and ok or the class of the error. A line has tabs between
 * case, bootstrap server, security.protocol, sasl.mechanism, user, password or token, and file of the CA; what is not needed is a dash. A
 * mechanism after "token:" is that of a delegation token, whose id is the user.
 */
public final class Secure {
    /** Gives the token that the configuration holds, whatever it is worth. */
    public static final class Token implements AuthenticateCallbackHandler {
        private String token;

        @Override
        public void configure(Map<String, ?> configs, String mechanism, List<AppConfigurationEntry> jaas) {
            token = (String) jaas.get(0).getOptions().get("token");
        }

        @Override
        public void handle(Callback[] callbacks) {
            for (Callback c : callbacks) {
                if (c instanceof OAuthBearerTokenCallback) {
                    ((OAuthBearerTokenCallback) c).token(new OAuthBearerToken() {
                        public String value() {
                            return token;
                        }

                        public Set<String> scope() {
                            return Set.of();
                        }

                        public long lifetimeMs() {
                            return System.currentTimeMillis() + 3600_000;
                        }

                        public String principalName() {
                            return "alice";
                        }

                        public Long startTimeMs() {
                            return null;
                        }
                    });
                }
            }
        }

        @Override
        public void close() {
        }
    }

    private static String connect(String[] f) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", f[1]);
        p.put("security.protocol", f[2]);
        p.put("default.api.timeout.ms", "20000");
        p.put("request.timeout.ms", "10000");
        if (f[2].endsWith("SSL")) {
            p.put("ssl.truststore.type", "PEM");
            p.put("ssl.truststore.location", f[6]);
        }
        if (f[2].startsWith("SASL")) {
            boolean token = f[3].startsWith("token:");
            f[3] = f[3].substring(token ? "token:".length() : 0);
            p.put("sasl.mechanism", f[3]);
            String module = f[3].equals("PLAIN") ? "plain.PlainLoginModule" : f[3].equals("OAUTHBEARER") ? "oauthbearer.OAuthBearerLoginModule" : "scram.ScramLoginModule";
            String options = f[3].equals("OAUTHBEARER") ? "token=\"" + f[5] + "\"" : "username=\"" + f[4] + "\" password=\"" + f[5] + "\"" + (token ? " tokenauth=\"true\"" : "");
            p.put("sasl.jaas.config", "org.apache.kafka.common.security." + module + " required " + options + ";");
            if (f[3].equals("OAUTHBEARER")) {
                p.put("sasl.login.callback.handler.class", Token.class.getName());
            }
        }
        try (Admin admin = Admin.create(p)) {
            admin.describeCluster().nodes().get(30, TimeUnit.SECONDS);
            return "ok";
        } catch (ExecutionException e) {
            return e.getCause().getClass().getSimpleName();
        }
    }

    public static void main(String[] args) throws Exception {
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] f = line.split("\t");
            System.out.println(f[0] + "\t" + connect(f));
        }
    }
}
