/**
 * A TCP server that sends back all bytes in upper case, as they arrive. Each connection has a
 * greenlet of its own.
 *
 *     deno run -q -P=local-net examples/tcp_server.ts [host] [port]
 *
 * By default it listens on 127.0.0.1:8080. Talk to it with `tcp_clients.ts`, or with
 * `nc 127.0.0.1 8080`. It knows only bytes, not lines: see `line_server.ts` for a protocol.
 * Ctrl-C kills every greenlet where it waits, and `using` closes its connection.
 */

import { patch, run, spawn } from "@gevent/gevent";
import { connections, isConnectionLost, writeAll } from "./_bytes.ts";

/** Accepts connections until it is killed. */
export async function serve(
  listener: Deno.TcpListener,
  log: (line: string) => void,
): Promise<void> {
  for await (const conn of connections(listener)) {
    log(`${address(conn.remoteAddr)} is connected`);
    spawn(upperCase, conn, log);
  }
}

/** Serves one connection until the client ends its side, leaves or resets it. */
async function upperCase(
  conn: Deno.TcpConn,
  log: (line: string) => void,
): Promise<void> {
  using _ = conn;
  try {
    await answer(conn);
  } catch (error) {
    // A lost connection is not an error of the server.
    if (!isConnectionLost(error)) throw error;
    log(`${address(conn.remoteAddr)} is lost: ${error.message}`);
  }
}

async function answer(conn: Deno.TcpConn): Promise<void> {
  conn.setNoDelay();
  const encoder = new TextEncoder();
  // With `stream: true` it keeps the bytes of a character until all of them have arrived.
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const buffer = new Uint8Array(1024);
  for (;;) {
    const count = await conn.read(buffer);
    const text = count === null
      ? decoder.decode()
      : decoder.decode(buffer.subarray(0, count), { stream: true });
    await writeAll(conn, encoder.encode(text.toUpperCase()));
    if (count === null) return;
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
