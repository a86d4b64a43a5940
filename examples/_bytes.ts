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

/** Whether an error says that the other side is gone, or was never there. */
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
