/**
 * Code of all servers in TypeScript, so that they differ in one thing only.
 *
 * @module
 */

/** Sends back what comes, until the client ends the connection. */
export async function echo(conn: Deno.Conn): Promise<void> {
  using _ = conn;
  const buffer = new Uint8Array(4096);
  for (;;) {
    const count = await conn.read(buffer);
    if (count === null) return;
    for (let sent = 0; sent < count;) {
      sent += await conn.write(buffer.subarray(sent, count));
    }
  }
}
