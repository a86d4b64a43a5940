/**
 * The works, done by [p-limit](https://github.com/sindresorhus/p-limit).
 *
 * @module
 */

import pLimit from "npm:p-limit@^7";
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

async function mapByLimit(
  mapped: (item: number) => Promise<number>,
  count: number,
  clock: Clock,
): Promise<void> {
  const results = await pLimit(WORKERS).map(Array(count).keys(), mapped);
  clock.stop();
  check(results.reduce((a, b) => a + b), sumBelow(count), "the sum of results");
}

await serveRounds({
  map: (count, clock) => mapByLimit(same, count, clock),
  "map-waiting": (count, clock) => mapByLimit(sameLater, count, clock),
});
