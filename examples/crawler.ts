/**
 * Gets web pages, all at the same time: a greenlet for each, with a time limit.
 *
 *     deno run -q -P=crawler examples/crawler.ts [--timeout ms] [url]...
 *
 * Without URLs it crawls a small site of its own, with one broken page. By default a page may
 * take 5 seconds; with `--timeout 250` the slowest page times out.
 */

import { parseArgs } from "node:util";
import {
  GreenletExit,
  joinAll,
  run,
  sleep,
  spawn,
  withTimeout,
} from "@gevent/gevent";
import { get } from "./_get.ts";

async function crawl(urls: string[], timeout: number): Promise<void> {
  const start = performance.now();
  await joinAll(urls.map((url) => spawn(report, url, timeout)));
  const seconds = (performance.now() - start) / 1000;
  console.log(`run time is ${seconds.toFixed(2)} s`);
}

/** Gets one page and prints its result. It prints a failure, so that the crawl goes on. */
async function report(url: string, timeout: number): Promise<void> {
  console.log(`GET: ${url}`);
  try {
    const bytes = await withTimeout(timeout, () => get(url));
    console.log(`${bytes.length} bytes received from ${url}`);
  } catch (error) {
    // A kill, such as by Ctrl-C, is not a failure of the page.
    if (error instanceof GreenletExit) throw error;
    console.log(`failed: ${url}: ${error}`);
  }
}

/** The pages of its own site: the latency of each, and its size. */
const pages: Record<string, { ms: number; bytes: number }> = {
  "/fast": { ms: 50, bytes: 1_000 },
  "/medium": { ms: 200, bytes: 20_000 },
  "/slow": { ms: 400, bytes: 300_000 },
};

async function answer(request: Request): Promise<Response> {
  const page = pages[new URL(request.url).pathname];
  if (page === undefined) return new Response("broken", { status: 500 });
  await sleep(page.ms);
  return new Response(new Uint8Array(page.bytes));
}

async function crawlOwnSite(timeout: number): Promise<void> {
  const options = { hostname: "127.0.0.1", port: 0, onListen() {} };
  await using site = Deno.serve(options, answer);
  const paths = ["/broken", ...Object.keys(pages)];
  const urls = paths.map((path) => `http://127.0.0.1:${site.addr.port}${path}`);
  await crawl(urls, timeout);
}

const { positionals: urls, values } = parseArgs({
  args: Deno.args,
  options: { timeout: { type: "string", default: "5000" } },
  allowPositionals: true,
});
const timeout = Number(values.timeout);

await run(() => urls.length > 0 ? crawl(urls, timeout) : crawlOwnSite(timeout));
