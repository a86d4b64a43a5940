/**
 * Bytes over a connection.
 *
 * TCP carries bytes, not messages: one `read` may return half a message or several, and one
 * `write` may send only a part of its data.
 *
 * @module
 */

/** Sends all of the bytes. */
export async function writeAll(
  conn: Deno.Conn,
  bytes: Uint8Array,
): Promise<void> {
  while (bytes.length > 0) {
    bytes = bytes.subarray(await conn.write(bytes));
  }
}

/** Whether an error means that the connection is lost, or could not be made. */
export function isConnectionLost(error: unknown): error is Error {
  return LOSSES.some((loss) => error instanceof loss);
}

const LOSSES = [
  Deno.errors.BrokenPipe,
  Deno.errors.ConnectionAborted,
  Deno.errors.ConnectionRefused,
  Deno.errors.ConnectionReset,
  Deno.errors.NotConnected,
  Deno.errors.TimedOut,
  Deno.errors.UnexpectedEof,
];

/**
 * Iterates over the connections of a listener. Skips connections that the client has reset
 * before they were accepted: `for await` over the listener itself would end with the error of
 * the first of them.
 */
export async function* connections(
  listener: Deno.TcpListener,
): AsyncGenerator<Deno.TcpConn> {
  for (;;) {
    let conn: Deno.TcpConn;
    try {
      conn = await listener.accept();
    } catch (error) {
      if (error instanceof Deno.errors.BadResource) return; // The listener was closed
      if (isConnectionLost(error)) continue;
      throw error;
    }
    yield conn;
  }
}
