/**
 * The crawler with a client that knows nothing of greenlets: axios, unmodified. Each page has
 * a time limit, one crawl is killed in the middle, and the site sees that every connection is
 * closed.
 *
 *     deno run -q -P=crawler-axios examples/crawler_axios.ts
 */

import axios from "axios";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import {
  GreenletExit,
  joinAll,
  patch,
  run,
  sleep,
  spawn,
  withTimeout,
} from "@gevent/gevent";

/** How long a page may take, in milliseconds. */
const LIMIT = 500;

/** Gets one page and prints its result. It prints a failure, so that the crawl goes on. */
async function report(url: string): Promise<void> {
  const { pathname } = new URL(url);
  try {
    const page = await withTimeout(LIMIT, () => axios.get(url));
    console.log(`${pathname}: ${page.data.length} bytes received`);
  } catch (error) {
    // A kill is not a failure of the page.
    if (error instanceof GreenletExit) throw error;
    console.log(`${pathname}: failed: ${error}`);
  } finally {
    console.log(`${pathname}: done`);
  }
}

/** A site with pages that come at once, and pages that never come. */
const site = createServer((request, response) => {
  const path = request.url!;
  if (path.startsWith("/broken")) response.writeHead(500).end();
  else if (path.startsWith("/half")) response.write("half of a page");
  else if (!path.startsWith("/stuck")) response.end("a page".repeat(100));
});
let connections = 0;
site.on("connection", (socket) => {
  connections++;
  socket.on("close", () => connections--);
});
await new Promise<void>((resolve) => site.listen(0, "127.0.0.1", resolve));
const { port } = site.address() as AddressInfo;
const urlOf = (path: string) => `http://127.0.0.1:${port}${path}`;

using _ = patch();

await run(async () => {
  const paths = ["/fast", "/broken", "/stuck", "/half"];
  await joinAll(paths.map((path) => spawn(report, urlOf(path))));

  const killed = spawn(report, urlOf("/stuck-too"));
  while (connections === 0) await sleep(1);
  await killed.kill();
  console.log(`killed: ${(killed.value as unknown) instanceof GreenletExit}`);

  // The site learns of the end of a connection a moment after the client.
  await withTimeout(5000, async () => {
    while (connections > 0) await sleep(1);
  });
  console.log(`connections left at the site: ${connections}`);
});
site.close();
