/**
 * An HTTP server on as many processes as told, whose handler computes for about 5 milliseconds:
 * with less, the clients, which are on the same cores, would take a part of them that shows.
 *
 * @module
 */

import process from "node:process";
import { HttpServer } from "@gevent/gevent";
import { tellPort } from "./_server.ts";

const processes = Number(Deno.args[0]);

function compute(): number {
  let sum = 0;
  for (let i = 0; i < 1_000_000; i++) sum = (sum * 31 + i) | 0;
  return sum;
}

const server = new HttpServer(
  { hostname: "127.0.0.1", port: 0 },
  (request) => {
    if (request.url.endsWith("/pid")) return new Response(`${Deno.pid}`);
    return new Response(compute() === 0.5 ? "" : "hello, world\n");
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
