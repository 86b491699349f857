import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import org.apache.kafka.common.utils.Exit;
import org.apache.kafka.tools.consumer.group.ConsumerGroupCommand;

/**
 * Runs kafka-consumer-groups once for each line of the standard input, which is its arguments, in one JVM: a start of its own costs more than
 * what it does. Prints the arguments after a prompt and what the tool has printed, to either stream.
 * Usage: Groups BOOTSTRAP
 */
public final class Groups {
    private static final class Ended extends RuntimeException {
        private Ended(int code) {
            super("exit " + code);
        }
    }

    private Groups() {
    }

    public static void main(String[] args) throws Exception {
        PrintStream out = System.out;
        Exit.setExitProcedure((code, message) -> {
            throw new Ended(code);
        });
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            ByteArrayOutputStream printed = new ByteArrayOutputStream();
            PrintStream to = new PrintStream(printed, true);
            System.setOut(to);
            System.setErr(to);
            try {
                ConsumerGroupCommand.main(("--bootstrap-server " + args[0] + " " + line).split(" "));
            } catch (Ended e) {
                to.println(e.getMessage());
            }
            out.println("$ " + line);
            out.print(printed);
            out.flush();
        }
    }
}
