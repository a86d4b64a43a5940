/**
 * Stops requests that hang, in a client that has no time limit of its own.
 *
 * The server never begins to send one page, and never completes another. The client has no time
 * limit, passes no signal and knows nothing of this library. As a greenlet under `patch()` it
 * can be timed out and killed: its `finally` runs at once, and the server sees the connection
 * close.
 *
 *     deno run -q -P=local-net examples/fetch_client.ts
 */

import { patch, sleep, spawn, Timeout, withTimeout } from "@gevent/gevent";

/** Gets a page, as code of another package would. */
async function getPage(url: string): Promise<string> {
  try {
    const response = await fetch(url);
    return await response.text();
  } finally {
    console.log(`client: done with ${url}`);
  }
}

const head =
  "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 6\r\n\r\n";
const pages = new Map([
  ["/whole", `${head}Hello!`],
  ["/half", `${head}Hel`],
]);

/** Sends a page, or the part of it that the site has. */
async function answer(conn: Deno.Conn): Promise<void> {
  using _ = conn;
  const buffer = new Uint8Array(4096);
  const count = await conn.read(buffer) ?? 0;
  const request = new TextDecoder().decode(buffer.subarray(0, count));
  const path = request.split(" ")[1]!;
  const page = pages.get(path);
  if (page !== undefined) await conn.write(new TextEncoder().encode(page));
  if (path === "/whole") return;
  // The client sends no more: this read ends when it closes the connection.
  await conn.read(buffer).catch(() => {});
  console.log(`server: the client of ${path} has closed the connection`);
}

async function serve(listener: Deno.Listener): Promise<void> {
  for await (const conn of listener) answer(conn);
}

using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
const site = `http://127.0.0.1:${listener.addr.port}`;
serve(listener);

using _ = patch();
console.log(`client: ${await spawn(getPage, `${site}/whole`).get()}`);

try {
  await withTimeout(100, () => getPage(`${site}/silent`));
} catch (error) {
  if (!(error instanceof Timeout)) throw error;
  console.log(`client: ${error.message}`);
}

const reader = spawn(getPage, `${site}/half`);
await sleep(100);
const start = performance.now();
await reader.kill();
console.log(`client: killed in ${(performance.now() - start).toFixed(1)} ms`);
// Gives the server time to see that the connection is closed.
await sleep(50);
