/**
 * Gets 200 pages, ten at a time: a pool of greenlets, with a time limit for each page.
 *
 *     deno run -q -P=local-net examples/bounded_crawl.ts
 *
 * The program serves the pages itself. Some are broken, and some take too long: these are
 * stopped at the time limit, which frees their place in the pool. On a terminal the progress
 * is redrawn in one line; a pipe or a file gets a line for every 50 pages.
 */

import { GreenletExit, Pool, run, sleep, withTimeout } from "@gevent/gevent";
import { get } from "./_get.ts";
import { Progress } from "./_progress.ts";

const PAGES = 200;
const AT_ONCE = 10;
/** How long one page may take, in milliseconds. */
const LIMIT = 250;

/** The result of one page. */
interface Outcome {
  url: string;
  bytes: number;
  error?: unknown;
}

let underWay = 0;
let mostUnderWay = 0;

/** Gets one page. A failure is returned as an outcome, so that the crawl goes on. */
async function visit(url: string): Promise<Outcome> {
  mostUnderWay = Math.max(mostUnderWay, ++underWay);
  try {
    const { length } = await withTimeout(LIMIT, () => get(url));
    return { url, bytes: length };
  } catch (error) {
    // A kill, such as by Ctrl-C, is not a failure of the page.
    if (error instanceof GreenletExit) throw error;
    return { url, bytes: 0, error };
  } finally {
    underWay--;
  }
}

async function crawl(urls: string[]): Promise<void> {
  const start = performance.now();
  const pool = new Pool(AT_ONCE);
  let visited = 0;
  let failed = 0;
  let bytes = 0;
  {
    using progress = new Progress();
    for await (const outcome of pool.imapUnordered(visit, urls)) {
      visited++;
      bytes += outcome.bytes;
      if (outcome.error !== undefined) {
        failed++;
        progress.print(`failed: ${outcome.url}: ${outcome.error}`);
      }
      progress.show(
        `${visited} of ${urls.length} pages, ${underWay} under way`,
        visited % 50 === 0,
      );
    }
  }
  const seconds = (performance.now() - start) / 1000;
  console.log(`pages:    ${visited - failed}, and ${failed} failed`);
  console.log(`bytes:    ${bytes}`);
  console.log(`at once:  never more than ${mostUnderWay}`);
  console.log(`time:     ${seconds.toFixed(2)} s`);
}

/** Serves the pages. Each has its own latency; some are broken, and some are too slow. */
async function answer(request: Request): Promise<Response> {
  const page = Number(new URL(request.url).pathname.slice(1));
  if (page % 45 === 0) return new Response("broken", { status: 500 });
  await sleep(page % 70 === 0 ? 2 * LIMIT : 10 + page * 37 % 60);
  return new Response(new Uint8Array(100 * page));
}

await run(async () => {
  const options = { hostname: "127.0.0.1", port: 0, onListen() {} };
  await using site = Deno.serve(options, answer);
  const { port } = site.addr;
  await crawl(Array.from(
    { length: PAGES },
    (_, i) => `http://127.0.0.1:${port}/${i + 1}`,
  ));
});
