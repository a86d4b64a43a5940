/**
 * Lines of text over a connection, which carries bytes.
 *
 * @module
 */

import { writeAll } from "./_bytes.ts";

const encoder = new TextEncoder();

/** Iterates over the lines that the other side sends, until it closes its side. */
export async function* readLines(conn: Deno.Conn): AsyncGenerator<string> {
  // With `stream: true` it keeps the bytes of a character until all of them have arrived.
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(4096);
  let rest = "";
  for (;;) {
    const count = await conn.read(buffer);
    if (count === null) return;
    const text = decoder.decode(buffer.subarray(0, count), { stream: true });
    const lines = (rest + text).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
}

/** Sends one line. */
export function writeLine(conn: Deno.Conn, line: string): Promise<void> {
  return writeAll(conn, encoder.encode(`${line}\n`));
}
