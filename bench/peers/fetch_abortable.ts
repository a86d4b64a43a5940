/**
 * Fetching in plain Deno that could be aborted, as a greenlet's can.
 *
 * @module
 */

import { checkShortPages, getShortPages } from "./_pages.ts";
import { serveRounds, WORKERS } from "./_rounds.ts";

await serveRounds({
  async fetch(count) {
    const options = () => ({ signal: new AbortController().signal });
    const sums = await Promise.all(
      Array.from({ length: WORKERS }, () => getShortPages(count, options)),
    );
    checkShortPages(sums, count);
  },
});
