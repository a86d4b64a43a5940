/**
 * The crawl in plain Deno, with p-limit.
 *
 * @module
 */

import pLimit from "npm:p-limit@^7";
import { checkPages, getPage } from "./_pages.ts";
import { serveRounds, WORKERS } from "./_rounds.ts";

await serveRounds({
  async crawl(count) {
    const limit = pLimit(WORKERS);
    const pages = Array.from(Array(count).keys(), (i) => limit(getPage, i));
    checkPages(await Promise.all(pages), count);
  },
});
