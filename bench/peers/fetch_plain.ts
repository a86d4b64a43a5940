/**
 * The fetching works in plain Deno.
 *
 * @module
 */

import {
  checkPages,
  checkShortPages,
  getPage,
  getShortPages,
} from "./_pages.ts";
import { serveRounds, WORKERS } from "./_rounds.ts";

await serveRounds({
  async fetch(count) {
    const sums = await Promise.all(
      Array.from({ length: WORKERS }, () => getShortPages(count)),
    );
    checkShortPages(sums, count);
  },
  async crawl(count) {
    const numbers = Array(count).keys();
    const lengths: number[] = [];
    const worker = async () => {
      for (const i of numbers) lengths[i] = await getPage(i);
    };
    await Promise.all(Array.from({ length: WORKERS }, worker));
    checkPages(lengths, count);
  },
});
