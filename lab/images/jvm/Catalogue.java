import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.Executors;

/**
 * The heavy neighbour: a catalogue that a JVM holds in memory (some 64 MB) and answers from. Idle it costs no processor
 * time; GET /item?number=N answers one entry, GET /healthz ok. X-Replica tells who answered.
 */
public final class Catalogue {
    private static final int ITEMS = 1 << 20;
    private static final int BYTES_AN_ITEM = 64;

    private final byte[] entries = new byte[ITEMS * BYTES_AN_ITEM];
    private final String replica = System.getenv().getOrDefault("HOSTNAME", "");

    private Catalogue() {
        // Written to, so that the memory is really there.
        for (int item = 0; item < ITEMS; item++) entries[item * BYTES_AN_ITEM] = (byte) item;
    }

    public static void main(String[] arguments) throws IOException {
        Catalogue catalogue = new Catalogue();
        HttpServer server = HttpServer.create(new InetSocketAddress(80), 64);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.createContext("/healthz", exchange -> catalogue.answer(exchange, 200, "ok\n"));
        server.createContext("/item", catalogue::item);
        server.start();
    }

    private void item(HttpExchange exchange) throws IOException {
        String query = exchange.getRequestURI().getQuery();
        int number;
        try {
            number = Integer.parseInt(query.replaceFirst("^number=", ""));
        } catch (NullPointerException | NumberFormatException none) {
            answer(exchange, 400, "which item? /item?number=N\n");
            return;
        }
        int at = Math.floorMod(number, ITEMS) * BYTES_AN_ITEM;
        answer(exchange, 200, "{\"number\":" + number + ",\"value\":" + entries[at] + "}\n");
    }

    private void answer(HttpExchange exchange, int status, String text) throws IOException {
        byte[] body = text.getBytes(StandardCharsets.UTF_8);
        exchange.getResponseHeaders().set("X-Replica", replica);
        exchange.sendResponseHeaders(status, body.length);
        try (var out = exchange.getResponseBody()) {
            out.write(body);
        }
    }
}
