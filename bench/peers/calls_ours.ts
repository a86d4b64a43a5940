/**
 * Calls of a function in a worker, by a `ThreadPool`.
 *
 * @module
 */

import { ThreadPool } from "../../threadpool.ts";
import { check, serveRounds } from "./_rounds.ts";

const CODE = "export const next = (x) => x + 1;";

/** Calls one after the other. */
function caller(
  isolate: "thread" | "process",
): (count: number) => Promise<void> {
  const pool = new ThreadPool(1, { isolate });
  const work = pool.import<{ next(x: number): number }>(
    `data:text/javascript,${encodeURIComponent(CODE)}`,
  );
  return async (count) => {
    let x = 0;
    while (x < count) x = await work.next(x);
    check(x, count, "calls");
  };
}

await serveRounds({
  calls: caller("thread"),
  "calls-process": caller("process"),
});
