/**
 * A TCP server that sends every line back in upper case: a greenlet for each connection.
 *
 *     deno run -q -P=local-net examples/tcp_server.ts [host] [port]
 *
 * It listens on 127.0.0.1:8080 unless told otherwise. Talk to it with `tcp_clients.ts`, or
 * with `nc 127.0.0.1 8080`. Ctrl-C kills every greenlet where it waits, and their `finally`
 * blocks, or `using`, close the connections.
 */

import { patch, run, spawn } from "@gevent/gevent";
import { readLines, writeLine } from "./_lines.ts";

/** Accepts connections until it is killed. */
export async function serve(
  listener: Deno.TcpListener,
  log: (line: string) => void,
): Promise<void> {
  for await (const conn of listener) {
    log(`${address(conn.remoteAddr)} is connected`);
    spawn(upperCase, conn);
  }
}

/** Serves one connection until the client ends it. */
async function upperCase(conn: Deno.TcpConn): Promise<void> {
  using _ = conn;
  for await (const line of readLines(conn)) {
    await writeLine(conn, line.toUpperCase());
  }
}

function address({ hostname, port }: Deno.NetAddr): string {
  return `${hostname}:${port}`;
}

if (import.meta.main) {
  const [hostname = "127.0.0.1", port = "8080"] = Deno.args;

  using _ = patch();
  await run(async () => {
    using listener = Deno.listen({ hostname, port: Number(port) });
    console.log(`listening on ${address(listener.addr)}`);
    await serve(listener, console.log);
  });
  console.log("server has ended");
}
