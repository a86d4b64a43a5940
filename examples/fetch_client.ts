/**
 * Stops requests that hang, in a client that knows nothing of it.
 *
 * The server has a page that it never begins to send, and one that it never ends. The client
 * has no limit, no signal and no library: as a greenlet under `patch()` it is timed out and
 * killed, its `finally` runs at once, and the server sees the connections close.
 *
 *     deno run -q -P=local-net examples/fetch_client.ts
 */

import { patch, sleep, spawn, Timeout, withTimeout } from "@gevent/gevent";

/** Foreign code. */
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

/** Sends what there is of a page. */
async function answer(conn: Deno.Conn): Promise<void> {
  using _ = conn;
  const buffer = new Uint8Array(4096);
  const count = await conn.read(buffer) ?? 0;
  const request = new TextDecoder().decode(buffer.subarray(0, count));
  const path = request.split(" ")[1]!;
  const page = pages.get(path);
  if (page !== undefined) await conn.write(new TextEncoder().encode(page));
  if (path === "/whole") return;
  // The client has said all, and what comes now is its end.
  await conn.read(buffer).catch(() => {});
  console.log(`server: nobody waits for ${path} any more`);
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
// The server learns of it by the network.
await sleep(50);
