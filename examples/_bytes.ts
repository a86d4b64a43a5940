/**
 * Bytes over a connection.
 *
 * TCP carries bytes, not messages: one `read` may bring half a message or several, and one
 * `write` may take only a part of what it is given.
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

/** Tells whether an error says that the other side is gone, or was never there. */
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
 * Gives the connections of a listener, and passes by those that the client has reset before
 * they could be accepted: `for await` over the listener would end with the error of the
 * first of them.
 */
export async function* connections(
  listener: Deno.TcpListener,
): AsyncGenerator<Deno.TcpConn> {
  for (;;) {
    let conn: Deno.TcpConn;
    try {
      conn = await listener.accept();
    } catch (error) {
      if (error instanceof Deno.errors.BadResource) return; // It was closed
      if (isConnectionLost(error)) continue;
      throw error;
    }
    yield conn;
  }
}
