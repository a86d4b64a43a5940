/**
 * A TCP server with a protocol: it answers each line in upper case, and `quit` ends the
 * conversation.
 *
 *     deno run -q -P=local-net examples/line_server.ts [host] [port]
 *
 * It listens on 127.0.0.1:8080 unless told otherwise. Talk to it with `nc 127.0.0.1 8080`.
 * However the bytes arrive, in halves of lines or in several at once, each line gets one
 * answer: see `tcp_server.ts` for a server that has no such thing.
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
    // It is the client's affair, and no error of the server's.
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
