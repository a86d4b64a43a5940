/**
 * An HTTP server on as many processes as told, whose handler computes for about 5 milliseconds:
 * with less, the clients, which are on the same cores, would take a part of them that shows.
 *
 * It computes a hash, which is native code. A loop in JavaScript is no measure here: V8
 * compiles it again after some 1,000 calls, and takes 6 ms where it took 1.2 before.
 *
 * @module
 */

import { createHash } from "node:crypto";
import process from "node:process";
import { HttpServer } from "@gevent/gevent";
import { tellPort } from "./_server.ts";

const processes = Number(Deno.args[0]);

const block = new Uint8Array(64 * 1024);

function compute(): void {
  const hash = createHash("sha256");
  for (let i = 0; i < 125; i++) hash.update(block);
  hash.digest();
}

const server = new HttpServer(
  { hostname: "127.0.0.1", port: 0 },
  (request) => {
    if (request.url.endsWith("/pid")) return new Response(`${Deno.pid}`);
    compute();
    return new Response("hello, world\n");
  },
  { processes },
);
server.start();

/** Waits until all serve. */
async function whenServed(): Promise<void> {
  const pids = new Set<string>();
  while (pids.size < processes) {
    try {
      const headers = { connection: "close" };
      const answer = await fetch(`${server.url}pid`, { headers });
      pids.add(await answer.text());
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

// A child prints where its parent does, and is asked nothing.
if (!process.connected) {
  await whenServed();
  await tellPort((server.address as Deno.NetAddr).port);
}
