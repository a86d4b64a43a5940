/**
 * The works, done by [p-queue](https://github.com/sindresorhus/p-queue).
 *
 * @module
 */

import PQueue from "npm:p-queue@^10";
import {
  check,
  type Clock,
  serveRounds,
  sumBelow,
  WORKERS,
} from "./_rounds.ts";

// Like most functions that are mapped: async, whether it waits or not.
// deno-lint-ignore require-await
async function same(item: number): Promise<number> {
  return item;
}

async function sameLater(item: number): Promise<number> {
  await undefined;
  return item;
}

async function mapByQueue(
  mapped: (item: number) => Promise<number>,
  count: number,
  clock: Clock,
): Promise<void> {
  const queue = new PQueue({ concurrency: WORKERS });
  const tasks = Array.from({ length: count }, (_, item) => () => mapped(item));
  const results = await queue.addAll(tasks);
  clock.stop();
  check(results.reduce((a, b) => a + b), sumBelow(count), "the sum of results");
}

await serveRounds({
  map: (count, clock) => mapByQueue(same, count, clock),
  "map-waiting": (count, clock) => mapByQueue(sameLater, count, clock),
});
