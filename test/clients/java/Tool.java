import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import org.apache.kafka.common.utils.Exit;

/**
 * Runs one of Kafka's tools once for each line of the standard input, which is its arguments, in one JVM: a start of its own costs more than
 * what it does. Prints the arguments after a prompt and what the tool has printed, to either stream.
 * Usage: Tool CLASS BOOTSTRAP
 */
public final class Tool {
    private static final class Ended extends RuntimeException {
        private Ended(int code) {
            super("exit " + code);
        }
    }

    private Tool() {
    }

    public static void main(String[] args) throws Throwable {
        MethodHandle tool = MethodHandles.lookup().findStatic(Class.forName(args[0]), "main", MethodType.methodType(void.class, String[].class));
        PrintStream out = System.out;
        Exit.setExitProcedure((code, message) -> {
            throw new Ended(code);
        });
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        PrintStream to = new PrintStream(printed, true); // one for all lines: Scala keeps the first
        System.setOut(to);
        System.setErr(to);
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            printed.reset();
            try {
                tool.invokeExact(("--bootstrap-server " + args[1] + " " + line).split(" "));
            } catch (Ended e) {
                to.println(e.getMessage());
            }
            out.println("$ " + line);
            out.print(printed);
            out.flush();
        }
    }
}
