/**
 * The crawl, done by Effect, with Deno's `fetch`.
 *
 * @module
 */

import { Effect } from "npm:effect@^4";
import { checkPages, getPage } from "./_pages.ts";
import { serveRounds, WORKERS } from "./_rounds.ts";

await serveRounds({
  async crawl(count) {
    const pages = Effect.forEach(
      Array(count).keys(),
      (i) => Effect.promise(() => getPage(i)),
      { concurrency: WORKERS },
    );
    checkPages(await Effect.runPromise(pages), count);
  },
});
