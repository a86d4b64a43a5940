/**
 * Spans of OpenTelemetry in a program of greenlets. Each span is below the one in which its
 * greenlet was spawned: through pools, nurseries, timers and requests, and while many greenlets
 * take turns.
 *
 * ```sh
 * deno run -P=otel examples/opentelemetry.ts
 * ```
 *
 * @module
 */

import { HttpServer, nursery, patch, Pool, run, sleep, spawn } from "../mod.ts";
import { inSpan, spanTree, spawnInSpan } from "./_spans.ts";

patch();

await run(async () => {
  await using server = new HttpServer(
    { hostname: "127.0.0.1", port: 0 },
    (request) =>
      inSpan(`serve ${new URL(request.url).pathname}`, async () => {
        await sleep(1);
        return new Response("hello");
      }),
  );
  server.start();
  const { port } = server.address as Deno.NetAddr;
  const load = (page: number) =>
    inSpan(`load /${page}`, async () => {
      const response = await fetch(`http://127.0.0.1:${port}/${page}`);
      await inSpan("read", () => response.text());
    });

  // Two crawls at once: their spans do not mix.
  await Promise.all(
    ["one", "two"].map((name) =>
      inSpan(`crawl ${name}`, async () => {
        await new Pool(2).map(load, [1, 2, 3]);
        await nursery((n) => {
          n.spawn(() => inSpan("in a nursery", () => sleep(1)));
        });
        await inSpan("wait for a timer", () =>
          new Promise<void>((resolve) =>
            setTimeout(() =>
              void inSpan("timer", () => resolve()), 1)
          ));
        // The span of this greenlet ends when the greenlet is killed.
        const watcher = spawnInSpan("watcher", sleep, 100_000);
        await sleep(1);
        await watcher.kill();
      })
    ),
  );
  await spawn(() => inSpan("on its own", () => sleep(1))).join();
});

console.log(await spanTree());
