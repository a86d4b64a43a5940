/**
 * A TCP server for a protocol of lines: it answers each line in upper case, and `quit` ends the
 * conversation.
 *
 *     deno run -q -P=local-net examples/line_server.ts [host] [port]
 *
 * By default it listens on 127.0.0.1:8080. Talk to it with `nc 127.0.0.1 8080`. The bytes may
 * arrive as half a line or as several lines at once: each line gets one answer. See
 * `tcp_server.ts` for a server without lines.
 */

import { patch, run, spawn } from "@gevent/gevent";
import { connections, isConnectionLost } from "./_bytes.ts";
import { readLines, writeLine } from "./_lines.ts";

/** Accepts connections until it is killed. */
async function serve(listener: Deno.TcpListener): Promise<void> {
  for await (const conn of connections(listener)) spawn(converse, conn);
}

/** Serves one connection until the client says `quit`, ends its side, leaves or resets it. */
async function converse(conn: Deno.TcpConn): Promise<void> {
  using _ = conn;
  try {
    for await (const line of readLines(conn)) {
      if (line.trim() === "quit") return await writeLine(conn, "BYE");
      await writeLine(conn, line.toUpperCase());
    }
  } catch (error) {
    // A lost connection is not an error of the server.
    if (!isConnectionLost(error)) throw error;
  }
}

if (import.meta.main) {
  const [hostname = "127.0.0.1", port = "8080"] = Deno.args;

  using _ = patch();
  await run(async () => {
    using listener = Deno.listen({ hostname, port: Number(port) });
    console.log(`listening on ${hostname}:${listener.addr.port}`);
    await serve(listener);
  });
  console.log("server has ended");
}
