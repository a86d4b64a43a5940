/**
 * Lines of text over a connection, which carries bytes.
 *
 * @module
 */

import { writeAll } from "./_bytes.ts";

const encoder = new TextEncoder();

/** Gives the lines that the other side sends, until it ends its side. */
export async function* readLines(conn: Deno.Conn): AsyncGenerator<string> {
  // It keeps the first bytes of a character whose last ones are still on their way.
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
