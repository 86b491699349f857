import java.util.*;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.common.metrics.*;
import org.apache.kafka.common.metrics.stats.*;
import org.apache.kafka.server.quota.*;

/** What Kafka's own classes say to random charges; testdata/kafka.txt is its output. java -cp "LIBS/*" Vectors.java */
public class Vectors {
    public static void main(String[] args) {
        Random rnd = new Random(8);
        Metrics metrics = new Metrics();
        for (int run = 0; run < 40; run++) {
            boolean bucket = run % 4 == 3;
            int samples = rnd.nextInt(3) == 0 ? 1 + rnd.nextInt(20) : 11;
            int seconds = rnd.nextInt(3) == 0 ? 1 + rnd.nextInt(5) : 1;
            double limit = 1 + rnd.nextInt(10000) / 8.0;
            MetricConfig config = new MetricConfig().samples(samples).timeWindow(seconds, TimeUnit.SECONDS).quota(new Quota(limit, true));
            Sensor sensor = metrics.sensor("s" + run);
            sensor.add(metrics.metricName("m" + run, "g"), bucket ? new TokenBucket() : new Rate(), config);
            long now = 1_700_000_000_000L + rnd.nextInt(100000);
            System.out.println((bucket ? "bucket " : "rate ") + samples + " " + seconds + " " + limit);
            for (int i = 0; i < 150; i++) {
                int pause = rnd.nextInt(20);
                now += pause < 10 ? rnd.nextInt(50) : pause < 17 ? rnd.nextInt(3000) : pause < 19 ? 0 : rnd.nextInt(40000);
                double amount = Math.round(limit * samples * seconds * rnd.nextDouble() * (rnd.nextInt(5) == 0 ? 1.5 : 0.1) * 16) / 16.0;
                boolean strict = bucket && rnd.nextBoolean();
                long ms = 0, bounded = 0;
                boolean refused = false;
                try {
                    if (strict) {
                        sensor.checkQuotas(now);
                        sensor.record(amount, now, false);
                    } else {
                        sensor.record(amount, now, true);
                    }
                } catch (QuotaViolationException e) {
                    refused = strict;
                    ms = bucket ? ControllerMutationQuotaManager.throttleTimeMs(e) : QuotaUtils.throttleTime(e, now);
                    bounded = bucket ? ms : QuotaUtils.boundedThrottleTime(e, seconds * 1000L, now);
                    if (!bucket && rnd.nextInt(3) == 0) { // a throttled fetch
                        sensor.record(-amount, now, false);
                        System.out.println(now + " " + amount + " " + ms + " " + bounded + " back");
                        continue;
                    }
                }
                System.out.println(now + " " + amount + " " + ms + " " + bounded + (refused ? " refused" : strict ? " strict" : ""));
            }
        }
    }
}
